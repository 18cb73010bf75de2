"""The guests: one dpdk-testpmd whose virtio-user ports are their drivers, on one core."""
import os, re, socket, struct, subprocess, time

from .machine import huge_pages, start, stop, wait_for
from .switches import GATEWAY, mac

BROADCAST = "ff:ff:ff:ff:ff:ff"


def port(path, number, index, packed=False, listens=True):
    """A guest's port; its index orders the ports of one testpmd."""
    options = f"queues=1,queue_size=256,packed_vq={int(packed)},mrg_rxbuf=1,in_order=1" + ",server=1" * (not listens)
    return f"net_virtio_user{index},path={path},mac={mac(number)},{options}"


class Guests:
    """A running dpdk-testpmd."""

    def __init__(self, ports, core, directory, *options, buffers=16384, memory=256):
        huge_pages(memory)
        self.ports, self.path = len(ports), directory / "guests.log"
        self.log = open(self.path, "w")
        self.seen = 0
        command = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--main-lcore", "0",
                   "--in-memory", "--single-file-segments", "--no-pci", "--no-telemetry", "-m", str(memory), "--file-prefix",
                   f"gen{os.getpid()}", "--force-max-simd-bitwidth=512", *(f"--vdev={port}" for port in ports), "--", "-i",
                   "--nb-cores=1", f"--total-num-mbufs={buffers}", "--txd=256", "--rxd=256", "--burst=32", *options]
        self.process = start(command, core, self.log, stdin=subprocess.PIPE)
        try:
            self.say(None, "testpmd> ")
        except BaseException as error:
            self.stop()
            if isinstance(error, RuntimeError):
                raise RuntimeError(f"{error}\n{self.path.read_text(errors='replace')[-2000:]}") from None
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def say(self, command, until=None, times=1):
        if command:
            self.seen = len(self.path.read_text(errors="replace"))
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        if until:
            text = lambda: self.path.read_text(errors="replace")[self.seen:]
            wait_for(f"the guests' {until!r}", lambda: len(re.findall(until, text())) >= times, self.process, 30)
            return text()
        return ""

    def rates(self, what="pps"):
        """What each port has received a second since it was asked last: frames, or bits."""
        text = self.say("show port stats all", r"Tx-bps:\s+\d+\s+####", self.ports)
        return [int(rate) for rate in re.findall(rf"Rx-{what}:\s+(\d+)", text)]

    def rate(self, ports, what="pps"):
        """Has a second pass, and returns what some of the ports received in it, in millions."""
        self.rates(what)
        time.sleep(1)
        rates = self.rates(what)
        return sum(rates[port] for port in ports) / 1e6

    def begin(self, mode, size=64, frames=0):
        """Starts to forward, and sends some frames out of every port first, which also shows where they are."""
        self.say(f"set fwd {mode}")
        self.say(f"set txpkts {size}")
        self.say(f"start tx_first {frames}" if frames else "start")
        time.sleep(0.6)

    def end(self):
        """Stops, and takes the frames that are in flight, so that what comes next finds empty rings."""
        self.say("stop", "Done")
        self.say("set fwd rxonly")
        self.say("start")
        time.sleep(0.3)
        self.say("stop", "Done")

    def arrive(self, ports):
        """Waits for the first frames: a switch may have addresses to ask for."""
        end = time.monotonic() + 10
        self.rates()
        while not sum(self.rates()[port] for port in ports):
            if time.monotonic() > end:
                raise RuntimeError("no frame arrived")
            time.sleep(0.2)

    def stop(self):
        try:
            self.say("stop")
            self.say("quit")
            self.process.wait(10)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            stop(self.process)
        self.log.close()


def pair(switch, core, directory, *options, packed=False, **more):
    """Two guests that send to each other."""
    ports = [port(path, i + 1, i, packed, switch.listens) for i, path in enumerate(switch.sockets)]
    return Guests(ports, core, directory, f"--eth-peer=0,{mac(2)}", f"--eth-peer=1,{mac(1)}", *options, **more)


def flood(switch, core, directory, capture, frames):
    """Guest 1 sends what is in a capture file, over and over, and more than the switch can take; the others take what comes.

    testpmd forwards between ports 0 and 1, 2 and 3, and so on: every guest that receives has a port beside it that
    swallows. Returns the guests, and the ports where frames arrive.
    """
    first, *others = switch.sockets
    ports = [f"net_pcap0,rx_pcap={capture},infinite_rx=1", port(first, 1, 0)]
    peers = [f"--eth-peer=1,{mac(2)}"]
    for index, path in enumerate(others, 1):
        peers.append(f"--eth-peer={len(ports)},{mac(1)}")
        ports += [port(path, index + 1, index), f"net_null{index},no-rx=1"]
    # All frames of the capture are in memory, and as many again as rings and bursts hold.
    buffers = 1 << (frames + 16384 + 1024 * len(ports)).bit_length()
    guests = Guests(ports, core, directory, *peers, buffers=buffers, memory=128 + buffers * 5 // 2048)
    return guests, range(2, len(ports), 2)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def frame(size, flow=0, to=mac(2), tcp=False):
    """A frame of a flow from guest 1.

    Up to 10,000 flows differ in their source, address and port; every further 10,000 go from the same sources to another
    destination port, so that one outside address has ports enough for all of them.
    """
    hardware = lambda text: bytes.fromhex(text.replace(":", ""))
    source = socket.inet_aton(f"10.0.1.{1 + flow % 200}")
    ports = struct.pack("!HH", 10000 + flow // 200 % 50, 5000 + flow // 10000)
    length = size - 34
    addresses = source + socket.inet_aton("198.51.100.1")
    protocol = 6 if tcp else 17
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length + 20, flow & 0xFFFF, 0x4000, 64, protocol, 0)
    ip = ip[:10] + struct.pack("!H", checksum(ip + addresses))
    rest = struct.pack("!IIBBHHH", 1, 1, 0x50, 0x10, 65535, 0, 0) if tcp else struct.pack("!HH", length, 0)
    segment = ports + rest + bytes(length - 4 - len(rest))
    sum_at = 16 if tcp else 6
    total = checksum(addresses + struct.pack("!HH", protocol, length) + segment)
    segment = segment[:sum_at] + struct.pack("!H", total) + segment[sum_at + 2:]
    return hardware(to) + hardware(mac(1)) + b"\x08\x00" + ip + addresses + segment


def write_capture(path, frames):
    """Writes a capture file of Ethernet frames."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
        for data in frames:
            file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
    return path


def flows(path, count, to=mac(2)):
    """A capture with a frame of 64 bytes for each of some flows. Counts divide 10,000 or are multiples of it."""
    return write_capture(path, (frame(64, flow, to) for flow in range(count)))


def to_gateway(path, count):
    return flows(path, count, GATEWAY)
