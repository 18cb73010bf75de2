"""A guest in a few lines: the frontend of vhost-user and the two split rings of a virtio-net driver, in plain Python.

It is for what DPDK's driver is not: guests that sleep, in any number, and the time that a single frame takes. As a program
it connects a guest to each of the sockets it is given, has each send one frame so that its address is known, says READY,
and then waits for lines: a number asks for so many single frames from the first guest to the second, each after a pause;
the answer is a list of nanoseconds, from before the frame is made available until it is seen to have arrived.
"""
import array, json, mmap, os, socket, struct, sys, time

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 15, 16, 18
# Bits of features.
PROTOCOL_FEATURES, VERSION_1, RING_PACKED = 30, 32, 34
VERSION, REPLY = 1, 4
WRITE, NO_NOTIFY = 2, 1
RX, TX = 0, 1
# The length of a ring, of a buffer, and of the virtio-net header before a frame.
SIZE, BUFFER, HEADER = 256, 2048, 12
# Where in the guest's memory a ring is, and where its buffers are.
RING, BUFFERS, MEMORY = 0x4000, 0x10000, 4 << 20
# What the frontend's addresses begin with; any would do.
USER = 0x7000_0000_0000
PAUSE = 0.05
ONE = struct.pack("<Q", 1)


class Connection:
    """Messages to a backend."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))

    def tell(self, request, payload=b"", *descriptors):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([struct.pack("<III", request, VERSION, len(payload)) + payload], control)

    def ask(self, request):
        self.tell(request)
        reply = b""
        while len(reply) < 20:
            part = self.socket.recv(20 - len(reply))
            if not part:
                raise RuntimeError("the switch closed the connection")
            reply += part
        return struct.unpack("<Q", reply[12:])[0]


def features(path):
    """What a backend offers."""
    connection = Connection(path)
    try:
        return connection.ask(GET_FEATURES)
    finally:
        connection.socket.close()


class Ring:
    """A split ring in the guest's memory."""

    def __init__(self, memory, index):
        self.memory, self.index = memory, index
        # Indexes are shared with a switch that may look at any time: they are read and written as a whole, which the struct
        # module does not do.
        self.words = memoryview(memory).cast("H")
        self.at = index * RING
        self.available_at, self.used_at = self.at + 16 * SIZE, self.at + 0x2000
        self.buffers = BUFFERS + index * SIZE * BUFFER
        self.kick, self.call = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        self.available = self.seen = 0

    def connect(self, connection):
        connection.tell(SET_VRING_NUM, struct.pack("<II", self.index, SIZE))
        connection.tell(SET_VRING_BASE, struct.pack("<II", self.index, 0))
        addresses = (USER + self.at, USER + self.used_at, USER + self.available_at, 0)
        connection.tell(SET_VRING_ADDR, struct.pack("<IIQQQQ", self.index, 0, *addresses))
        connection.tell(SET_VRING_CALL, struct.pack("<Q", self.index), self.call)
        connection.tell(SET_VRING_KICK, struct.pack("<Q", self.index), self.kick)

    def describe(self, length, flags):
        """Fills the next descriptor, which nobody sees yet; returns where its buffer is."""
        slot = self.available % SIZE
        buffer = self.buffers + slot * BUFFER
        struct.pack_into("<QIHH", self.memory, self.at + 16 * slot, buffer, length, flags, 0)
        struct.pack_into("<H", self.memory, self.available_at + 4 + 2 * slot, slot)
        self.available += 1
        return buffer

    def publish(self, kick=None):
        """Makes available what was described, and kicks the switch if it wants that."""
        self.words[self.available_at // 2 + 1] = self.available & 0xFFFF
        if kick or not self.words[self.used_at // 2] & NO_NOTIFY:
            os.write(kick or self.kick, ONE)

    def used(self):
        return self.words[self.used_at // 2 + 1]


class Guest:
    """A guest whose driver runs."""

    def __init__(self, path, number):
        self.mac = struct.pack(">IH", 0x52540000, number)
        self.connection = connection = Connection(path)
        self.file = os.memfd_create("guest")
        os.ftruncate(self.file, MEMORY)
        self.memory = mmap.mmap(self.file, MEMORY)
        self.rehearsal = os.eventfd(0, os.EFD_NONBLOCK)
        self.rings = [Ring(self.memory, index) for index in (RX, TX)]
        offered = connection.ask(GET_FEATURES)
        connection.tell(SET_OWNER)
        if offered >> PROTOCOL_FEATURES & 1:
            connection.ask(GET_PROTOCOL_FEATURES)
            connection.tell(SET_PROTOCOL_FEATURES, struct.pack("<Q", 0))
        connection.tell(SET_FEATURES, struct.pack("<Q", offered & (1 << PROTOCOL_FEATURES | 1 << VERSION_1)))
        region = struct.pack("<IIQQQQ", 1, 0, 0, MEMORY, USER, 0)
        connection.tell(SET_MEM_TABLE, region, self.file)
        for _ in range(SIZE):
            self.rings[RX].describe(BUFFER, WRITE)
        for ring in self.rings:
            ring.connect(connection)
        if offered >> PROTOCOL_FEATURES & 1:
            for ring in self.rings:
                connection.tell(SET_VRING_ENABLE, struct.pack("<II", ring.index, 1))
        self.rings[RX].publish()

    def prepare(self, destination):
        """Writes a frame of 64 bytes that has not yet been sent."""
        frame = bytes(HEADER) + destination + self.mac + b"\x88\xb5" + bytes(50)
        at = self.rings[TX].describe(len(frame), 0)
        self.memory[at:at + len(frame)] = frame

    def drain(self):
        """Takes what has arrived, gives the buffers back, and returns how many frames that were."""
        ring = self.rings[RX]
        count = (ring.used() - ring.seen) & 0xFFFF
        for _ in range(count):
            ring.describe(BUFFER, WRITE)
        if count:
            ring.seen = ring.used()
            ring.publish()
        return count


def single(sender, receiver):
    """How long one frame takes, in nanoseconds."""
    receiver.drain()
    ring = receiver.rings[RX]
    # The switch sleeps, and the guest is awake: it has just done all that it is about to do, but for the frame.
    awake = time.perf_counter_ns() + 1_000_000
    while time.perf_counter_ns() < awake:
        sender.rings[TX].publish(sender.rehearsal)
        ring.used()
    before = ring.used()
    sender.prepare(receiver.mac)
    began = time.perf_counter_ns()
    sender.rings[TX].publish()
    while ring.used() == before:
        if time.perf_counter_ns() - began > 5_000_000_000:
            raise RuntimeError("a frame did not arrive")
    return time.perf_counter_ns() - began


def main():
    guests = [Guest(path, number) for number, path in enumerate(sys.argv[1:], 1)]
    # Until the switch has taken the rings over, what is sent is seen by nobody.
    for guest, other in zip(guests, guests[1:] + guests[:1]):
        guest.prepare(other.mac)
        guest.rings[TX].publish()
    end = time.monotonic() + 60
    while any(guest.rings[TX].used() == 0 for guest in guests):
        if time.monotonic() > end:
            raise RuntimeError("a guest's first frame was not taken")
        time.sleep(0.01)
    print("READY", flush=True)
    for line in sys.stdin:
        for guest in guests:
            guest.drain()
        taken = []
        for _ in range(int(line)):
            time.sleep(PAUSE)
            taken.append(single(guests[0], guests[1]))
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
