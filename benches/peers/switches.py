"""The switches under test. Each serves the sockets of its guests and has one core."""
import json, os, subprocess, tempfile, time
from dataclasses import dataclass
from pathlib import Path

from . import frontend
from .machine import OVS, NotOffered, huge_pages, run, start, stop, vmlan, wait_for

GATEWAY = "52:54:00:00:01:00"
OUTSIDE, ROUTER = "203.0.113.5", "203.0.113.1"


def mac(number):
    """The hardware address of a guest; the first one is 1."""
    return f"52:54:00:00:00:{number:02x}"


@dataclass(frozen=True)
class Setup:
    """What a row wants of a switch."""

    guests: int = 2
    mtu: int = 1500
    # TCP segmentation is left to whoever receives.
    tso: bool = False
    # Guest 1 is inside, guest 2 outside.
    nat: bool = False
    # The namespace that has `up0`.
    namespace: str = ""
    # How `up0` is driven, where there is one guest and an uplink.
    driver: str = ""
    # Open vSwitch sleeps while nothing comes, as far as it can.
    sleeps: bool = False


class Switch:
    """A running switch: its process, and a socket for each guest."""

    # Whether the guests connect; else they listen.
    listens = True

    def __init__(self, directory, setup, cores, log):
        self.directory, self.setup, self.log = directory, setup, log
        # The switch has a core for itself; what else belongs to it would not get on there, and is with the guests.
        self.spare, self.core = cores
        self.sockets = [directory / f"guest{number}" for number in range(1, setup.guests + 1)]
        self.processes = []
        try:
            self.begin()
            if self.listens:
                wait_for(f"the sockets of {self.name}", self.serves, self.process)
        except BaseException:
            self.stop()
            raise

    @property
    def process(self):
        """The one that switches."""
        return self.processes[-1]

    def within(self, command):
        """A command in the namespace of the uplink, if there is one."""
        return ["ip", "netns", "exec", self.setup.namespace, *command] if self.setup.namespace else command

    def run(self, command, **more):
        """Starts a process of the switch."""
        self.processes.append(start(self.within(command), self.core, self.log, **more))

    def serves(self):
        return all(socket.is_socket() for socket in self.sockets)

    def offers(self, feature):
        """Whether guests are offered a feature of virtio, by the number of its bit."""
        return frontend.features(self.sockets[0]) >> feature & 1 == 1

    def stop(self):
        for process in reversed(self.processes):
            stop(process)
        self.processes.clear()


class Vmlan(Switch):
    """vmlan: learns and counts. Its guests are on an isolated network, or on a bridged one where there is an uplink."""

    name = "vmlan"
    drivers = ("af_packet", "af_xdp")

    def problems(self, text):
        """What this vmlan has to say against a configuration."""
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(text)
            file.flush()
            done = subprocess.run(self.within([vmlan(), "check", file.name]), capture_output=True, text=True)
            return done.stderr + done.stdout if done.returncode else ""

    def begin(self):
        directory, setup = self.directory, self.setup
        daemon = f'[daemon]\nruntime_dir = "{directory}/run"\nstate_dir = "{directory}/state"\n'
        lan = f"mtu = {setup.mtu}\n" + ('mode = "bridged"\nteam.active = ["up0"]\nteam.discovery = "off"\n' if
                                        setup.namespace else 'mode = "isolated"\n')
        text = f"[network.lan]\n{lan}"
        if setup.driver:
            text += f'[uplink.up0]\ndriver = "{setup.driver}"\n'
        if setup.nat:
            text += '[network.inside]\nmode = "nat"\nsubnet = "10.0.0.0/16"\n'
            text += f'[network.inside.nat]\noutside = "lan"\naddress = "{OUTSIDE}/24"\ngateway = "{ROUTER}"\n'
            (directory / "state").mkdir()
            (directory / "state/macs.json").write_text(json.dumps({"macs": {"gateway/inside": GATEWAY}}))
        for number, socket in enumerate(self.sockets, 1):
            network = "inside" if setup.nat and number == 1 else "lan"
            text += f'[vm.guest{number}]\nnetwork = "{network}"\nsocket = "{socket}"\nmac = "{mac(number)}"\n'
        problems = self.problems(daemon + text)
        if problems:
            raise NotOffered(setup.driver) if setup.driver and setup.driver in problems else RuntimeError(problems)
        if not self.problems(f"{daemon}workers = 1\n{text}"):
            daemon += "workers = 1\n"
        config = directory / "vmlan.toml"
        config.write_text(daemon + text)
        self.run([vmlan(), "run", "--config", config])


class Testpmd(Switch):
    """dpdk-testpmd in io mode, port to port: switches nothing, the upper bound of DPDK's vhost library."""

    name = "testpmd"
    drivers = ("af_packet", "af_xdp")

    def begin(self):
        setup = self.setup
        if setup.nat or setup.guests > 2:
            raise NotOffered("it switches nothing")
        huge_pages(512)
        ports = [f"--vdev=net_vhost{i},iface={socket},queues=1" + ",tso=1" * setup.tso
                 for i, socket in enumerate(self.sockets)]
        if setup.driver:
            ports.append("--vdev=" + dpdk_driver(setup.driver))
        self.run(["dpdk-testpmd", "--lcores", f"0@{self.core},1@{self.core}", "--main-lcore", "0", "--in-memory", "--no-pci",
                  "--no-telemetry", "-m", "512", "--file-prefix", f"peer{os.getpid()}", *ports, "--", "--auto-start",
                  "--forward-mode=io", "--nb-cores=1", "--total-num-mbufs=16384", "--stats-period", "3600"])
        wait_for("testpmd's sockets", self.serves, self.process)
        time.sleep(1)  # it says nothing when its ports are started


class OpenVswitch(Switch):
    """Open vSwitch with DPDK in a network namespace of its own: NORMAL action, or ct(nat)."""

    name = "ovs"
    drivers = ("af_packet", "af_xdp")

    def begin(self):
        directory, setup = self.directory, self.setup
        huge_pages(1280)
        variables = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        self.env = dict(os.environ, **{name: str(directory) for name in variables})
        self.database = directory / "db.sock"
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        self.tell("ovsdb-tool", "create", directory / "conf.db", schema)
        server = ["ovsdb-server", directory / "conf.db", f"--remote=punix:{self.database}", f"--unixctl={directory}/db.ctl"]
        self.processes.append(start(server, self.spare, self.log, env=self.env))
        wait_for("ovsdb-server", self.database.is_socket, self.process)

        mask = hex(1 << self.core)
        extra = f"--in-memory --no-pci --no-telemetry --file-prefix ovs{os.getpid()}"
        options = {"dpdk-init": "true", "dpdk-lcore-mask": mask, "pmd-cpu-mask": mask, "dpdk-socket-mem": "1024",
                   "dpdk-extra": extra}
        if setup.tso:
            options["userspace-tso-enable"] = "true"
        if setup.sleeps:
            options["pmd-maxsleep"] = "500"
        self.vsctl("--no-wait", "init", "--", "set", "Open_vSwitch", ".",
                   *(f"other_config:{key}={value}" for key, value in options.items()))
        # The names of its adapters are fixed: two of it in a namespace disturb each other.
        own = [] if setup.namespace else ["unshare", "-n"]
        self.run([*own, OVS, f"unix:{self.database}", f"--unixctl={directory}/vs.ctl"], env=self.env)
        self.vsctl("--may-exist", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=secure")
        # Where it listens, it offers no segmentation.
        self.listens = not setup.tso
        for number, socket in enumerate(self.sockets, 1):
            kind = ["type=dpdkvhostuser"] if self.listens else ["type=dpdkvhostuserclient",
                                                                f"options:vhost-server-path={socket}"]
            self.port(f"vh{number}", number, *kind, f"mtu_request={setup.mtu}")
            if self.listens:
                socket.symlink_to(directory / f"vh{number}")
        if setup.driver:
            self.port("uplink", 100, "type=dpdk", f"options:dpdk-devargs={dpdk_driver(setup.driver)}")
        for flow in NAT_FLOWS if setup.nat else ["actions=NORMAL"]:
            self.tell("ovs-ofctl", "add-flow", f"unix:{directory}/br0.mgmt", flow)

    def vsctl(self, *words):
        return self.tell("ovs-vsctl", f"--db=unix:{self.database}", "--timeout=60", *words)

    def tell(self, *words):
        return run("taskset", "-c", self.spare, *words, env=self.env)

    def port(self, name, number, *settings):
        self.vsctl("add-port", "br0", name, "--", "set", "Interface", name, f"ofport_request={number}", *settings)
        error = self.vsctl("get", "Interface", name, "error").strip()
        if error not in ("[]", '""'):
            raise RuntimeError(f"{name}: {error}")


def dpdk_driver(name):
    """The DPDK device that has `up0`."""
    return {"af_packet": "net_af_packet0,iface=up0,qdisc_bypass=1", "af_xdp": "net_af_xdp0,iface=up0"}[name]


# What comes from guest 1 gets an address and a port of the outside; answers find their way back; the rest is not translated.
NAT_FLOWS = [
    f"table=0,priority=2,in_port=1,ip actions=ct(commit,zone=7,nat(src={OUTSIDE}:1024-65535),table=1)",
    "table=0,priority=2,in_port=2,ip actions=ct(zone=7,nat,table=1)",
    "table=0,priority=1 actions=goto_table:1",
    "table=1,in_port=1 actions=output:2",
    "table=1,in_port=2 actions=output:1",
]

CANDIDATES = {switch.name: switch for switch in (Vmlan, OpenVswitch, Testpmd)}
