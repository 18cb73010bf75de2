"""The machine: processes on their cores, huge pages, namespaces, and whether a sample was disturbed."""
import os, re, select, shutil, signal, subprocess, sys, time
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OVS = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
PACKAGES = {"dpdk-testpmd": "dpdk-dev", "ovs-vsctl": "openvswitch-switch-dpdk", OVS: "openvswitch-switch-dpdk",
            "ip": "iproute2", "ethtool": "ethtool"}
# The share of a sample for which a process may wait for its core, or the hypervisor take the core away.
WAITED, STOLEN = 0.05, 0.02

Value = namedtuple("Value", "value clean", defaults=(True,))


class NotOffered(Exception):
    """The candidate has no such feature, and says why."""


def prepare(build):
    """Installs what is missing, and builds."""
    missing = sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)})
    if missing:
        print("installing", *missing, file=sys.stderr)
        apt = ["apt-get", "-y", "-qq", "--no-install-recommends"]
        quiet = dict(stdout=subprocess.DEVNULL, env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
        subprocess.run(["apt-get", "-qq", "update"], check=True, **quiet)
        subprocess.run([*apt, "install", *missing], check=True, **quiet)
    if build and "VMLAN" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)


def vmlan():
    """The binary: the one that VMLAN names, or the one of the last release build."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = Path(os.environ.get("VMLAN", target / "release/vmlan"))
    if not binary.is_file():
        sys.exit(f"{binary} is not there; build it, or name another one: VMLAN=…")
    return str(binary)


def end_by_signals():
    """Has SIGTERM and SIGHUP end the program as an interrupt does, so that it takes away what it has made."""
    def leave(*_):
        for number in signal.SIGTERM, signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(1)

    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, leave)


def come_first():
    """Has this process run when it has to, between two processes that poll; what it starts is not concerned."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError as error:
        print(f"samples may take their time: {error}", file=sys.stderr)


def huge_pages(megabytes):
    """Sees to it that so much is free, in pages of 2 MiB."""
    wanted = megabytes // 2 + 16
    free = int(re.search(r"HugePages_Free:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    if free < wanted:
        knob = Path("/proc/sys/vm/nr_hugepages")
        knob.write_text(str(int(knob.read_text()) + wanted - free))


def start(command, core, log, **more):
    """Starts a command in a session of its own, pinned to a core and above other work."""
    process = subprocess.Popen(["taskset", "-c", str(core), *map(str, command)],
                               stdin=more.pop("stdin", subprocess.DEVNULL), stdout=more.pop("stdout", log),
                               stderr=log, start_new_session=True, text=True, **more)
    try:  # plain nice orders tasks within one session only
        Path(f"/proc/{process.pid}/autogroup").write_text("-15")
    except OSError:
        pass
    return process


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what, condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{what}: the process ended with status {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: waited in vain")
        time.sleep(0.02)


def told(process, what, seconds=30):
    """Waits for a line of a process, whose standard output nobody else reads meanwhile."""
    line, end = "", time.monotonic() + seconds
    while not line.endswith("\n"):
        if not select.select([process.stdout], [], [], max(0, end - time.monotonic()))[0]:
            raise RuntimeError(f"{what} said nothing")
        part = os.read(process.stdout.fileno(), 4096).decode()
        if not part:
            raise RuntimeError(f"{what} has ended")
        line += part
    return line


def run(*words, **more):
    """Runs a command that has to succeed within a minute or so, and returns what it said."""
    command = [str(word) for word in words]
    told = " ".join(command)[:200]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, **more)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{told}: waited in vain") from None
    if done.returncode:
        raise RuntimeError(f"{told}: {done.stderr.strip()[-500:]}")
    return done.stdout


@contextmanager
def veth():
    """A namespace with a pair of adapters: `up0` for the switch, `far0` for what is behind it."""
    name = f"vmlan-compare-{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        within = ["ip", "netns", "exec", name]
        run(*within, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        run("ip", "-n", name, "link", "add", "up0", "mtu", "1500", "type", "veth", "peer", "name", "far0")
        for link in "up0", "far0":
            run(*within, "ethtool", "-K", link, "tx", "off", "tso", "off", "gso", "off")
            run("ip", "-n", name, "link", "set", link, "up")
        # Frames that XDP sends to the switch's end need its NAPI, which veth runs for GRO.
        run(*within, "ethtool", "-K", "up0", "gro", "on")
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def threads(pid):
    """CPU and run-queue wait of each thread, in nanoseconds."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            ran, waited, _ = (task / "schedstat").read_text().split()
            found[task.name] = (int(ran), int(waited), (task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def used(pid):
    """CPU of all threads, in nanoseconds."""
    return sum(ran for ran, _, _ in threads(pid).values())


def stolen(cores):
    """What the hypervisor took from each of the cores, in nanoseconds."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return [int(line[8]) * tick for line in lines if line[0] in {f"cpu{core}" for core in cores}]


def throttled():
    """How often the control groups that we are in ran out of CPU."""
    count = 0
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup", controllers) if controllers else Path("/sys/fs/cgroup")
        try:
            count += int(re.search(r"nr_throttled (\d+)", (mount / path.lstrip("/") / "cpu.stat").read_text()).group(1))
        except (OSError, AttributeError):
            pass
    return count


class Watch:
    """Looks at the processes of a measurement while a sample is taken."""

    def __init__(self, cores, *pids):
        self.cores, self.pids = cores, pids
        self.state, self.began = self.look(), time.monotonic_ns()

    def look(self):
        return [threads(pid) for pid in self.pids], stolen(self.cores), throttled()

    def clean(self):
        """Whether nothing that was measured waited for its core: other work, the hypervisor or a limit had it."""
        (before, taken, limits), spent = self.state, time.monotonic_ns() - self.began
        after, taken_now, limits_now = self.look()
        for old, new in zip(before, after):
            deltas = [(new[task][0] - old[task][0], new[task][1] - old[task][1]) for task in new if task in old]
            # The busiest thread is the one that counts; others wait behind it.
            if deltas and max(deltas)[1] / spent >= WAITED:
                return False
        steal = max((new - old for old, new in zip(taken, taken_now)), default=0)
        return steal / spent < STOLEN and limits == limits_now


def sample(read, wanted, cores, *pids):
    """Calls `read`, which takes a second, until enough samples are clean; returns all, or the clean ones if there are any."""
    clean, every = [], []
    for _ in range(2 * wanted):
        watch = Watch(cores, *pids)
        every.append(read())
        if watch.clean():
            clean.append(every[-1])
        if len(clean) == wanted:
            break
    return clean or every, bool(clean)
