"""The rows of the table, and how each is measured. Rows of a group share a switch."""
import json, re, subprocess, sys, time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from . import frontend
from .guests import BROADCAST, Guests, flood, flows, frame, pair, port, to_gateway, write_capture
from .machine import NotOffered, Value, Watch, sample, start, stop, told, used, veth
from .switches import Setup, mac

FAR = Path(__file__).with_name("far.py")
MANY, CROWD = 10000, 50
HUGE = 65214  # what 64 KiB of TCP are with their headers, a little below what the length of an IP packet can say


@dataclass(frozen=True)
class Row:
    """A row: its key, title and unit, who has a say in it, and whether less is better."""

    key: str
    title: str
    unit: str
    peers: tuple = ("ovs", "testpmd")
    less: bool = False
    # Whether values are so near nothing that ratios say nothing.
    absolute: bool = False


class Bench:
    """What every measurement needs: a place for its files, the cores, how many samples, and which rows are wanted."""

    def __init__(self, switch, directory, cores, seconds, keys, log):
        self.candidate, self.directory, self.cores, self.seconds, self.keys = switch, directory, cores, seconds, keys
        self.log = log
        self.core = cores[0]
        self.values = {}
        self.count = 0

    @contextmanager
    def switch(self, **setup):
        """A switch that runs."""
        self.count += 1
        directory = self.directory / f"switch{self.count}"
        directory.mkdir()
        switch = self.candidate(directory, Setup(**setup), self.cores, self.log)
        try:
            yield switch
        finally:
            switch.stop()

    def sample(self, read, switch, process):
        """The median of samples that take a second each."""
        samples, clean = sample(read, self.seconds, self.cores, switch.process.pid, process.pid)
        return Value(median(samples), clean)

    def wants(self, key):
        return key in self.keys

    def loop(self, key, switch, guests, *, size=64, frames=4, mode="io", what="pps", scale=1):
        """Frames circulate, and come back as fast as the slower side lets them."""
        if not self.wants(key):
            return
        ports = range(guests.ports)
        guests.begin(mode, size, frames)
        value = self.sample(lambda: guests.rate(ports, what) * scale, switch, guests.process)
        guests.end()
        self.keep(key, value)

    def keep(self, key, value):
        if value.value <= 0:
            raise RuntimeError(f"{key}: no frame arrived")
        self.values[key] = value


def frames(bench):
    with bench.switch() as switch, pair(switch, bench.core, bench.directory) as guests:
        for size in 64, 256, 1514:
            bench.loop(f"{size}", switch, guests, size=size)
        guests.say("set burst 1")
        bench.loop("latency", switch, guests, frames=1)


def packed(bench):
    with bench.switch() as switch:
        if not switch.offers(frontend.RING_PACKED):
            raise NotOffered("split rings only")
        with pair(switch, bench.core, bench.directory, packed=True) as guests:
            for size in 64, 1514:
                bench.loop(f"packed-{size}", switch, guests, size=size)


def jumbo(bench):
    options = ["--mbuf-size=9472", "--max-pkt-len=9018", "--tx-offloads=0x8000", "--enable-scatter"]
    with bench.switch(mtu=9000) as switch, pair(switch, bench.core, bench.directory, *options, memory=512) as guests:
        bench.loop("9000", switch, guests, size=9000, frames=2, what="bps", scale=1e-3)


def tso(bench):
    """Eight TCP frames of 64 KiB, with the header that leaves segmentation to others, go from guest 1 to guest 2 for ever."""
    with bench.switch(tso=True) as switch:
        capture = write_capture(bench.directory / "tso.pcap", [frame(HUGE, flow, tcp=True) for flow in range(8)])
        ports = [f"net_pcap0,rx_pcap={capture}"]
        ports += [port(path, i + 1, i, listens=switch.listens) for i, path in enumerate(switch.sockets)]
        with Guests(ports, bench.core, bench.directory, f"--eth-peer=1,{mac(2)}", f"--eth-peer=2,{mac(1)}",
                    "--mbuf-size=4224", "--max-lro-pkt-size=9728", "--max-pkt-len=9728", "--no-flush-rx") as guests:
            guests.say("port stop all")
            for number in 1, 2:
                for offload in "rx_offload tcp_lro", "rx_offload scatter", "rx_offload tcp_cksum":
                    guests.say(f"port config {number} {offload} on")
                for offload in "tx_offload tcp_tso", "tx_offload tcp_cksum", "tx_offload multi_segs":
                    guests.say(f"port config {number} {offload} on")
                guests.say(f"csum set tcp hw {number}")
                guests.say(f"tso set 1448 {number}")
                guests.say(f"csum mac-swap off {number}")
            guests.say("port start all", r"Done")
            time.sleep(0.5)
            # The capture goes in by guest 1; then guest 2 hands what it gets to guest 1, which sends it again.
            guests.say("set fwd csum")
            guests.say("set portlist 0,1")
            guests.say("start")
            time.sleep(0.5)
            guests.say("stop", "Done")
            guests.say("set portlist 1,2")
            guests.say("start")
            time.sleep(0.6)
            value = bench.sample(lambda: guests.rate([1, 2], "bps") / 1e3, switch, guests.process)
            bench.keep("tso", value)


def one_way(bench, switch, capture, count):
    """What arrives of a flood, in millions of frames a second."""
    guests, ports = flood(switch, bench.core, bench.directory, capture, count)
    with guests:
        guests.begin("io", frames=1)
        guests.arrive(ports)
        return bench.sample(lambda: guests.rate(ports), switch, guests.process)


def many_flows(bench):
    with bench.switch() as switch:
        found = []
        for count in 1, MANY:
            found.append(one_way(bench, switch, flows(bench.directory / "flows.pcap", count), count))
            bench.keep(f"flows-{count}", found[-1])
        one, many = found
        bench.keep("flows-ratio", Value(many.value / one.value, many.clean and one.clean))


def broadcast(bench):
    with bench.switch(guests=9) as switch:
        capture = write_capture(bench.directory / "broadcast.pcap", [frame(64, to=BROADCAST)])
        bench.keep("broadcast", one_way(bench, switch, capture, 1))


@contextmanager
def behind(bench, namespace, what):
    """Something at the far end of the veth pair."""
    command = ["ip", "netns", "exec", namespace, sys.executable, FAR, what, "far0"]
    process = start(command, bench.core, bench.log, stdout=subprocess.PIPE)
    try:
        told(process, "the far end")
        yield process
    finally:
        stop(process)
        process.stdout.close()


def nat(bench):
    with veth() as namespace, behind(bench, namespace, "arp"):
        with bench.switch(nat=True, namespace=namespace) as switch:
            for count in 1, MANY, 10 * MANY:
                key = f"nat-{count}"
                if bench.wants(key):
                    capture = to_gateway(bench.directory / "nat.pcap", count)
                    bench.keep(key, one_way(bench, switch, capture, count))


def uplink(bench):
    """By each driver that the candidate has; the better one counts."""
    best = {}
    for driver in bench.candidate.drivers:
        try:
            with veth() as namespace, bench.switch(guests=1, namespace=namespace, driver=driver) as switch:
                for key, value in both_ways(bench, namespace, switch).items():
                    best[key] = max(best.get(key, value), value, key=lambda value: value.value)
        except NotOffered:
            continue
        except RuntimeError as error:
            print(f"{bench.candidate.name}, {driver}: {error}", file=sys.stderr)
    for key, value in best.items():
        bench.keep(key, value)


def counted(sink):
    """Has a second pass, and returns what arrived at the far end in it, in millions of frames a second."""
    def arrived():
        table = Path(f"/proc/{sink.pid}/net/dev").read_text()
        return int(re.search(r"far0:\s*\d+\s+(\d+)", table).group(1))

    before, began = arrived(), time.monotonic()
    time.sleep(1)
    return (arrived() - before) / (time.monotonic() - began) / 1e6


def both_ways(bench, namespace, switch):
    values = {}
    core, directory = bench.core, bench.directory
    sizes = [size for size in (64, 1514) if bench.wants(f"uplink-out-{size}")]
    with behind(bench, namespace, "drop") as sink:
        for size in sizes:
            capture = write_capture(directory / "out.pcap", [frame(size)])
            guests, _ = flood(switch, core, directory, capture, 1)
            with guests:
                guests.begin("io", size, 1)
                values[f"uplink-out-{size}"] = bench.sample(lambda: counted(sink), switch, guests.process)
    sizes = [size for size in (64, 1514) if bench.wants(f"uplink-echo-{size}")]
    if sizes or bench.wants("uplink-trip"):
        looped = ["--port-topology=loop", f"--eth-peer=0,{mac(2)}"]
        with behind(bench, namespace, "echo"), Guests([port(switch.sockets[0], 1, 0)], core, directory, *looped) as guests:
            trial = Bench(bench.candidate, directory, bench.cores, bench.seconds, bench.keys, bench.log)
            for size in sizes:
                trial.loop(f"uplink-echo-{size}", switch, guests, size=size, mode="macswap")
            guests.say("set burst 1")
            trial.loop("uplink-trip", switch, guests, frames=1, mode="macswap")
            values |= trial.values
    return values


@contextmanager
def sleepers(bench, switch):
    """Guests that sleep; yields what asks them for the time of single frames, and the process they are in."""
    command = [sys.executable, frontend.__file__, *switch.sockets]
    process = start(command, bench.core, bench.log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def times(count):
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        return json.loads(told(process, "the process of the guests", 120))

    try:
        told(process, "the process of the guests", 120)
        yield times, process
    finally:
        process.stdin.close()
        stop(process)
        process.stdout.close()


def quiet(bench, switch):
    """CPU of a switch where nothing happens, in percent of a core."""
    time.sleep(1)
    watch, before = Watch(bench.cores, switch.process.pid), used(switch.process.pid)
    time.sleep(2 * bench.seconds)
    share = (used(switch.process.pid) - before) / (time.monotonic_ns() - watch.began)
    return Value(100 * share, watch.clean())


def idle(bench, suffix="", **setup):
    with bench.switch(**setup) as switch, sleepers(bench, switch) as (times, process):
        if bench.wants(f"idle{suffix}"):
            bench.values[f"idle{suffix}"] = quiet(bench, switch)
        if bench.wants(f"first{suffix}"):
            times(5)
            watch = Watch(bench.cores, switch.process.pid, process.pid)
            value = median(times(10 * bench.seconds)) / 1e3
            bench.keep(f"first{suffix}", Value(value, watch.clean()))


def asleep(bench):
    idle(bench, "-asleep", sleeps=True)


def crowd(bench):
    with bench.switch(guests=CROWD) as switch, sleepers(bench, switch):
        bench.values["crowd"] = quiet(bench, switch)


OVS = ("ovs",)
GROUPS = {
    "frames": (frames, [
        Row("64", "64 B", "Mpps"),
        Row("256", "256 B", "Mpps"),
        Row("1514", "1514 B", "Mpps"),
        Row("latency", "ping-pong, 1 frame each way, 64 B", "Mpps"),
    ]),
    "packed": (packed, [
        Row("packed-64", "64 B, packed rings", "Mpps"),
        Row("packed-1514", "1514 B, packed rings", "Mpps"),
    ]),
    "jumbo": (jumbo, [Row("9000", "9000 B", "Gbit/s")]),
    "tso": (tso, [Row("tso", "64 KiB, TSO", "Gbit/s")]),
    "flows": (many_flows, [
        Row("flows-1", "1 flow, one way, 64 B", "Mpps", OVS),
        Row(f"flows-{MANY}", f"{MANY:,} flows, one way, 64 B", "Mpps", OVS),
        Row("flows-ratio", f"{MANY:,} flows against 1", "", OVS),
    ]),
    "broadcast": (broadcast, [Row("broadcast", "broadcast from 1 guest to 8, 64 B, all that arrive", "Mpps", OVS)]),
    "nat": (nat, [
        Row(f"nat-{count}", f"NAT, {count:,} flow{'s'[:count > 1]}, one way, 64 B", "Mpps", OVS)
        for count in (1, MANY, 10 * MANY)
    ]),
    "uplink": (uplink, [
        Row("uplink-out-64", "guest to uplink, 64 B", "Mpps"),
        Row("uplink-out-1514", "guest to uplink, 1514 B", "Mpps"),
        Row("uplink-echo-64", "guest to uplink and back, 64 B", "Mpps"),
        Row("uplink-echo-1514", "guest to uplink and back, 1514 B", "Mpps"),
        Row("uplink-trip", "ping-pong with an uplink, 1 frame, 64 B", "Mpps"),
    ]),
    "idle": (idle, [
        Row("idle", "CPU with 2 idle guests", "%", less=True, absolute=True),
        Row("first", "first frame after idling", "µs", less=True),
    ]),
    "asleep": (asleep, [
        Row("idle-asleep", "CPU with 2 idle guests, ovs with pmd-maxsleep", "%", OVS, less=True, absolute=True),
        Row("first-asleep", "first frame after idling, ovs with pmd-maxsleep", "µs", OVS, less=True),
    ]),
    "crowd": (crowd, [Row("crowd", f"CPU with {CROWD} idle guests", "%", OVS, less=True, absolute=True)]),
}


def choose(words):
    """The rows of each group that is wanted, of words that name groups or rows; all, if there are none."""
    known = {row.key for _, rows in GROUPS.values() for row in rows}
    unknown = [word for word in words if word not in known and word not in GROUPS]
    if unknown:
        raise ValueError(f"no such row: {', '.join(unknown)}; there are {', '.join(GROUPS)}, and {', '.join(sorted(known))}")
    chosen = {name: [row for row in rows if not words or name in words or row.key in words]
              for name, (_, rows) in GROUPS.items()}
    return {name: rows for name, rows in chosen.items() if rows}
