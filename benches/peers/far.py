"""What is behind the far end of a veth pair, as a program: `far.py drop|echo|arp ADAPTER`. It says READY, and stays.

    drop    counts and drops, in XDP: the cheapest sink
    echo    swaps the hardware addresses of frames and sends them back, in XDP
    arp     answers for the router of the NAT that it has the address of guest 2
"""
import ctypes, platform, signal, socket, struct, sys

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
PROG_LOAD, LINK_CREATE = 5, 28
PROG_TYPE_XDP, ATTACH_XDP, NATIVE = 6, 37, 4
XDP_DROP, REDIRECT = 1, 23
ROUTER, GUEST = socket.inet_aton("203.0.113.1"), bytes.fromhex("525400000002")

libc = ctypes.CDLL(None, use_errno=True)


def call(command, *fields):
    """One bpf(2): the attributes are given as a format and its values."""
    attributes = ctypes.create_string_buffer(struct.pack(*fields), 128)
    result = libc.syscall(BPF, command, attributes, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf({command})")
    return result


class Program:
    """Instructions of eBPF, one after the other."""

    def __init__(self):
        self.code = []

    def emit(self, operation, into=0, source=0, offset=0, number=0):
        self.code.append(struct.pack("<BBhi", operation, source << 4 | into, offset, number))
        return self

    def load(self, into, base, offset, size):
        return self.emit({4: 0x61, 2: 0x69}[size], into, base, offset)

    def store(self, base, offset, source, size):
        return self.emit({4: 0x63, 2: 0x6B}[size], base, source, offset)

    def copy(self, into, source):
        return self.emit(0xBF, into, source)

    def put(self, into, number):
        return self.emit(0xB7, into, number=number)

    def leave(self):
        return self.emit(0x95)

    def attach(self, adapter):
        code, licence = ctypes.create_string_buffer(b"".join(self.code)), ctypes.create_string_buffer(b"Apache-2.0")
        program = call(PROG_LOAD, "<IIQQIIQ", PROG_TYPE_XDP, len(self.code), ctypes.addressof(code),
                       ctypes.addressof(licence), 0, 0, 0)
        # The link lasts as long as this process has it open.
        return call(LINK_CREATE, "<IIII", program, adapter, ATTACH_XDP, NATIVE)


def drop():
    return Program().put(0, XDP_DROP).leave()


def echo(adapter):
    """Frames that are too short for two addresses are dropped."""
    data, end, limit = 2, 3, 4
    to_high, to_low, from_high, from_low = 5, 6, 7, 8
    program = Program().load(data, 1, 0, 4).load(end, 1, 4, 4).copy(limit, data)
    program.emit(0x07, limit, number=14)
    swap = Program()
    swap.load(to_high, data, 0, 4).load(to_low, data, 4, 2).load(from_high, data, 6, 4).load(from_low, data, 10, 2)
    swap.store(data, 0, from_high, 4).store(data, 4, from_low, 2).store(data, 6, to_high, 4).store(data, 10, to_low, 2)
    # A redirection to itself: XDP_TX reaches the peer of a veth only if that has a program too.
    swap.put(1, adapter).put(2, 0).emit(0x85, number=REDIRECT).leave()
    program.emit(0x2D, limit, end, offset=len(swap.code))  # if limit > end, over the swap
    program.code += swap.code + drop().code
    return program


def answer(adapter):
    """Answers requests for the router's address until the process ends."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    packets.bind((adapter, 0x0806))
    print("READY", flush=True)
    while True:
        frame = packets.recv(2048)
        operation, target = frame[20:22], frame[38:42]
        if operation == b"\0\1" and target == ROUTER:
            asker = frame[22:32]
            packets.send(asker[:6] + packets.getsockname()[4] + frame[12:20] + b"\0\2" + GUEST + ROUTER + asker)



def main():
    what, adapter = sys.argv[1:]
    if what == "arp":
        answer(adapter)
    number = socket.if_nametoindex(adapter)
    kept = (drop() if what == "drop" else echo(number)).attach(number)
    print("READY", flush=True)
    signal.pause()
    del kept


if __name__ == "__main__":
    main()
