//! A virtual machine in miniature: guest memory, a driver for two rings, split or packed, and a frontend that speaks
//! vhost-user.
//!
//! It drives a port of a real engine through a real socket, precisely enough to misbehave on purpose.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test binary includes this as a module and uses its own part"
)]

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmlan::engine::{Durable, Engine, Journal, NetworkPort, NetworkSpec, PortSnapshot, Spec};
use vmlan::net::dhcp::Record;
use vmlan::net::drops::{DropReason, Drops};
use vmlan::net::member::Member;
use vmlan::net::outbox::Egress;
use vmlan::net::security::Security;
use vmlan::net::vlan::TagAction;
use vmlan::ports::burst::Burst;
use vmlan::ports::guest::Role;
use vmlan::ports::{Port, PortSpec, PortState, guest};
use vmlan::wire::ethernet::{ETHERTYPE_IPV4, MacAddr, emit};
use vmlan::wire::virtio_net::VirtioNetHeader;
use vmm_sys_util::eventfd::EventFd;

pub const CSUM: u64 = 1 << 0;
pub const GUEST_CSUM: u64 = 1 << 1;
pub const GUEST_TSO4: u64 = 1 << 7;
pub const GUEST_TSO6: u64 = 1 << 8;
pub const HOST_TSO4: u64 = 1 << 11;
pub const HOST_TSO6: u64 = 1 << 12;
pub const MRG_RXBUF: u64 = 1 << 15;
pub const INDIRECT_DESC: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;
pub const RING_PACKED: u64 = 1 << 34;
pub const IN_ORDER: u64 = 1 << 35;
/// What a modern driver without offloads takes.
pub const PLAIN: u64 = PROTOCOL_FEATURES | VERSION_1 | MRG_RXBUF;
/// The same with packed rings.
pub const PACKED: u64 = PLAIN | RING_PACKED;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Index of the receive queue.
pub const RX: usize = 0;
/// Index of the transmit queue.
pub const TX: usize = 1;

/// How much memory a guest has.
pub const MEMORY: usize = 8 << 20;
const RING_AT: u64 = 0x1_0000;
const RING_STRIDE: u64 = 0x8_0000;
const RX_BUFFERS: u64 = 0x20_0000;
const TX_BUFFERS: u64 = 0x50_0000;

/// Waits for a condition, and fails with `what` when it does not come.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::yield_now();
    }
}

/// A journal that writes at once, to nowhere.
struct Forgetful(Durable);

impl Journal for Forgetful {
    fn append(&mut self, _network: &str, ticket: u64, _record: Record) -> bool {
        self.0.settle(ticket, true);
        true
    }
}

/// A running engine with one isolated network, and a directory for its sockets.
pub struct Lan {
    engine: Option<Engine>,
    directory: tempfile::TempDir,
}

/// The address of the guest with this number.
pub fn mac(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, number])
}

impl Lan {
    /// Starts a LAN whose guests listen as given: guest `n` has the name `g<n>` and the address `mac(n)`.
    pub fn new(guests: u8) -> Self {
        Self::with(guests, Role::Server, 1500)
    }

    pub fn with(guests: u8, role: Role, mtu: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = (1..=guests).map(|number| {
            let name = format!("g{number}");
            let socket = directory.path().join(format!("{name}.sock"));
            let port = PortSpec::Guest(guest::Spec {
                name: name.clone(),
                socket,
                role,
                mac: mac(number),
                mtu,
            });
            NetworkPort {
                name,
                port_group: None,
                member: Member {
                    mac: Some(mac(number)),
                    security: Security::LEGACY,
                    ..Member::default()
                },
                follow_uplinks: false,
                port,
            }
        });
        let network = NetworkSpec {
            name: "lan".to_owned(),
            mtu,
            ports: ports.collect(),
            ..NetworkSpec::default()
        };
        let durable = Durable::new().unwrap();
        let engine = Engine::start(
            Spec {
                networks: vec![network],
            },
            Box::new(Forgetful(durable.clone())),
            &durable,
        );
        Self {
            engine: Some(engine.unwrap()),
            directory,
        }
    }

    pub fn socket(&self, number: u8) -> PathBuf {
        self.directory.path().join(format!("g{number}.sock"))
    }

    pub fn port(&self, number: u8) -> PortSnapshot {
        let engine = self.engine.as_ref().expect("runs until dropped");
        let mut ports = engine.snapshot().unwrap().networks.remove(0).ports;
        ports.remove(usize::from(number) - 1)
    }

    pub fn wait_for_state(&self, number: u8, state: PortState) {
        eventually(&format!("g{number} is {}", state.name()), || {
            (self.port(number).state == state).then_some(())
        });
    }

    /// Connects a guest and brings its rings up.
    pub fn guest(&self, number: u8, features: u64) -> Vm {
        let mut vm = Vm::connect(&self.socket(number));
        vm.start(features);
        self.wait_for_state(number, PortState::Up);
        vm
    }

    pub fn drops(&self, number: u8, reason: &str) -> u64 {
        self.port(number).drops.get(reason).copied().unwrap_or(0)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
    }
}

/// Shared memory without a name.
#[allow(unsafe_code, reason = "the standard library has no memfd")]
pub fn memfd() -> File {
    // SAFETY: the name is a string that ends.
    let number = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(number >= 0);
    // SAFETY: the kernel has just opened this descriptor for us.
    unsafe { File::from_raw_fd(number) }
}

/// One ring from the driver's side.
pub struct Ring {
    pub size: u16,
    pub base: u64,
    pub kick: EventFd,
    pub call: EventFd,
    /// The available index as published.
    pub available: u16,
    /// The next used entry to look at.
    pub seen: u16,
    /// What more a driver of a packed ring keeps.
    pub packed: PackedState,
}

/// A packed ring from the driver's side. Chains are laid out in a table of the driver's own, as if the ring were split, and
/// written to the ring when they are offered.
#[derive(Clone, Debug)]
pub struct PackedState {
    /// Where the next chain goes: a descriptor, and the wrap counter.
    pub next: (u16, bool),
    /// Where the next used descriptor will be.
    pub used: (u16, bool),
    /// The heads of the chains that were offered and not used, in order, and how many descriptors each takes.
    pub offered: VecDeque<(u16, u16)>,
    /// The heads of chains for which a used descriptor of another stood.
    pub batched: VecDeque<u16>,
}

impl PackedState {
    pub const START: (u16, bool) = (0, true);

    /// A position as event suppression and frontends write it.
    pub const fn bits((slot, wrap): (u16, bool)) -> u16 {
        slot | (wrap as u16) << 15
    }
}

impl Default for PackedState {
    fn default() -> Self {
        Self {
            next: Self::START,
            used: Self::START,
            offered: VecDeque::new(),
            batched: VecDeque::new(),
        }
    }
}

impl Ring {
    fn new(index: u64, size: u16) -> Self {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Self {
            size,
            base: RING_AT + index * RING_STRIDE,
            kick: event(),
            call: event(),
            available: 0,
            seen: 0,
            packed: PackedState::default(),
        }
    }

    pub fn descriptors(&self) -> GuestAddress {
        GuestAddress(self.base)
    }

    pub fn available_ring(&self) -> GuestAddress {
        GuestAddress(self.base + 0x4_0000)
    }

    pub fn used_ring(&self) -> GuestAddress {
        GuestAddress(self.base + 0x6_0000)
    }

    /// Where a packed ring is.
    pub fn packed_ring(&self) -> GuestAddress {
        GuestAddress(self.base + 0x4_0000)
    }

    /// What the driver of a packed ring wants to hear of.
    pub fn driver_event(&self) -> GuestAddress {
        GuestAddress(self.base + 0x6_0000)
    }

    /// What the device wants to hear of.
    pub fn device_event(&self) -> GuestAddress {
        GuestAddress(self.base + 0x6_1000)
    }

    fn step(&self, (slot, wrap): (u16, bool), count: u16) -> (u16, bool) {
        let slot = slot + count;
        if slot < self.size {
            (slot, wrap)
        } else {
            (slot - self.size, !wrap)
        }
    }
}

/// A guest and the VMM around it.
pub struct Vm {
    pub memory: GuestMemoryMmap,
    pub frontend: Frontend,
    pub rings: [Ring; 2],
    pub header_len: usize,
    pub features: u64,
}

impl Vm {
    /// Connects without saying anything.
    pub fn connect(socket: &Path) -> Self {
        let stream = eventually("the port's socket", || UnixStream::connect(socket).ok());
        Self::over(stream, 256)
    }

    pub fn over(stream: UnixStream, size: u16) -> Self {
        let file = memfd();
        file.set_len(MEMORY as u64).unwrap();
        Self::with_memory(stream, size, file)
    }

    pub fn with_memory(stream: UnixStream, size: u16, file: File) -> Self {
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let frontend = Frontend::from_stream(stream, 2);
        let rings = [Ring::new(0, size), Ring::new(1, size)];
        Self {
            memory,
            frontend,
            rings,
            header_len: 12,
            features: 0,
        }
    }

    /// Negotiates and starts both rings, in the order of a careful VMM that waits for every acknowledgement.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        self.share_memory();
        self.start_ring(RX);
        self.start_ring(TX);
    }

    /// Does the same in the order by which QEMU is known: it asks for features before it claims the device.
    pub fn start_as_qemu(&mut self, features: u64) {
        self.frontend.get_features().unwrap();
        self.start(features);
    }

    pub fn negotiate(&mut self, features: u64) {
        self.frontend.set_owner().unwrap();
        let offered = self.frontend.get_features().unwrap();
        assert_eq!(
            offered & features,
            features,
            "all features of this test are offered"
        );
        let protocol = self.frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK));
        let wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
        self.frontend.set_protocol_features(wanted).unwrap();
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_features(features).unwrap();
        self.features = features;
        self.header_len = if features & (VERSION_1 | MRG_RXBUF) == 0 {
            10
        } else {
            12
        };
    }

    pub fn share_memory(&mut self) {
        let regions: Vec<_> = self
            .memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        self.frontend.set_mem_table(&regions).unwrap();
    }

    fn user_address(&self, address: GuestAddress) -> u64 {
        self.memory.get_host_address(address).unwrap() as u64
    }

    pub fn start_ring(&mut self, index: usize) {
        self.start_ring_without_enabling(index);
        self.frontend.set_vring_enable(index, true).unwrap();
    }

    pub fn set_ring_size(&mut self, index: usize) {
        self.frontend
            .set_vring_num(index, self.rings[index].size)
            .unwrap();
    }

    pub fn set_ring_addresses(&mut self, index: usize) {
        let ring = &self.rings[index];
        let (descriptors, available, used) = if self.is_packed() {
            let (driver, device) = (ring.driver_event(), ring.device_event());
            (ring.packed_ring(), driver, device)
        } else {
            (ring.descriptors(), ring.available_ring(), ring.used_ring())
        };
        let config = VringConfigData {
            queue_max_size: 32768,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: self.user_address(descriptors),
            used_ring_addr: self.user_address(used),
            avail_ring_addr: self.user_address(available),
            log_addr: None,
        };
        self.frontend.set_vring_addr(index, &config).unwrap();
    }

    pub fn start_ring_without_enabling(&mut self, index: usize) {
        self.set_ring_size(index);
        self.set_ring_addresses(index);
        // Of a packed ring a VMM knows only where it began, until its backend says more.
        let base = if self.is_packed() {
            PackedState::bits(PackedState::START)
        } else {
            self.rings[index].seen
        };
        self.frontend.set_vring_base(index, base).unwrap();
        self.frontend
            .set_vring_call(index, &self.rings[index].call)
            .unwrap();
        self.frontend
            .set_vring_kick(index, &self.rings[index].kick)
            .unwrap();
    }

    pub const fn is_packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    pub fn write<T: vm_memory::ByteValued>(&self, value: T, at: GuestAddress, offset: u64) {
        self.memory
            .write_obj(value, GuestAddress(at.0 + offset))
            .unwrap();
    }

    pub fn read<T: vm_memory::ByteValued>(&self, at: GuestAddress, offset: u64) -> T {
        self.memory.read_obj(GuestAddress(at.0 + offset)).unwrap()
    }

    pub fn write_descriptor(
        &self,
        table: GuestAddress,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let at = u64::from(index) * 16;
        self.write(address, table, at);
        self.write(len, table, at + 8);
        self.write(flags, table, at + 12);
        self.write(next, table, at + 14);
    }

    /// Makes the chain that begins at `head` available, and kicks.
    pub fn offer(&mut self, ring: usize, head: u16) {
        if self.is_packed() {
            self.offer_packed(ring, head);
            self.rings[ring].available = self.rings[ring].available.wrapping_add(1);
            self.rings[ring].kick.write(1).unwrap();
            return;
        }
        let (available_ring, index, size) = {
            let ring = &self.rings[ring];
            (ring.available_ring(), ring.available, ring.size)
        };
        self.write(head, available_ring, 4 + u64::from(index % size) * 2);
        self.rings[ring].available = index.wrapping_add(1);
        self.publish(ring);
    }

    /// Writes the chain that begins at `head` into a packed ring; its first descriptor makes all of it available.
    fn offer_packed(&mut self, index: usize, head: u16) {
        let ring = &self.rings[index];
        let (table, size) = (ring.descriptors(), ring.size);
        let begin = ring.packed.next;
        let (mut at, mut chain, mut count) = (begin, head, 0);
        let mut first = 0;
        loop {
            let from = u64::from(chain) * 16;
            let (address, len): (u64, u32) = (self.read(table, from), self.read(table, from + 8));
            let (flags, next): (u16, u16) =
                (self.read(table, from + 12), self.read(table, from + 14));
            if flags & INDIRECT != 0 {
                self.pack_table(address, len);
            }
            let word = u64::from(len) | u64::from(head) << 32;
            let owner = if at.1 { 1 << 7 } else { 1 << 15 };
            let word = word | u64::from(flags | owner) << 48;
            let to = u64::from(at.0) * 16;
            self.write(address, ring.packed_ring(), to);
            if count == 0 {
                first = word;
            } else {
                self.write(word, ring.packed_ring(), to + 8);
            }
            count += 1;
            at = ring.step(at, 1);
            if flags & NEXT == 0 || count == size {
                break;
            }
            chain = next;
        }
        let to = GuestAddress(ring.packed_ring().0 + u64::from(begin.0) * 16 + 8);
        self.memory
            .store(first, to, std::sync::atomic::Ordering::Release)
            .unwrap();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let packed = &mut self.rings[index].packed;
        packed.next = at;
        packed.offered.push_back((head, count));
    }

    /// Makes a table of descriptors what it is in packed rings: their last field holds the flags.
    fn pack_table(&self, address: u64, len: u32) {
        for entry in 0..u64::from(len / 16) {
            let at = entry * 16;
            let flags: u16 = self.read(GuestAddress(address), at + 12);
            self.write(flags, GuestAddress(address), at + 14);
        }
    }

    /// Takes the next used descriptor of a packed ring. With `IN_ORDER` it may stand for several chains.
    fn used_packed(&mut self, index: usize) -> Option<(u16, u32)> {
        if let Some(head) = self.rings[index].packed.batched.pop_front() {
            return Some((head, 0));
        }
        let ring = &self.rings[index];
        let at = ring.packed.used;
        let word_at = GuestAddress(ring.packed_ring().0 + u64::from(at.0) * 16 + 8);
        let word: u64 = self
            .memory
            .load(word_at, std::sync::atomic::Ordering::Acquire)
            .unwrap();
        let bytes = word.to_le_bytes();
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        let used = if at.1 { 1 << 7 | 1 << 15 } else { 0 };
        if flags & (1 << 7 | 1 << 15) != used {
            return None;
        }
        let id = u16::from_le_bytes([bytes[4], bytes[5]]);
        let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let in_order = self.features & IN_ORDER != 0;
        let ring = &mut self.rings[index];
        ring.seen = ring.seen.wrapping_add(1);
        loop {
            let (head, count) = ring
                .packed
                .offered
                .pop_front()
                .expect("only what was offered is used");
            ring.packed.used = ring.step(ring.packed.used, count);
            if head == id {
                ring.packed.batched.push_back(head);
                let first = ring.packed.batched.pop_front().expect("it is one at least");
                return Some((first, len));
            }
            assert!(in_order, "{head} was offered before {id}");
            ring.packed.batched.push_back(head);
        }
    }

    pub fn publish(&mut self, ring: usize) {
        let ring = &self.rings[ring];
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.memory
            .store(
                ring.available,
                GuestAddress(ring.available_ring().0 + 2),
                std::sync::atomic::Ordering::Release,
            )
            .unwrap();
        ring.kick.write(1).unwrap();
    }

    /// Offers `count` receive buffers of `len` bytes each.
    pub fn offer_buffers(&mut self, count: u16, len: u32) {
        for _ in 0..count {
            let head = self.rings[RX].available % self.rings[RX].size;
            let address = RX_BUFFERS + u64::from(head) * u64::from(len.max(2048));
            self.write_descriptor(self.rings[RX].descriptors(), head, address, len, WRITE, 0);
            self.offer(RX, head);
        }
    }

    /// Where the transmit buffers lie.
    pub fn transmit_buffer(&self, slot: u16) -> u64 {
        TX_BUFFERS + u64::from(slot % 16) * 0x1_8000
    }

    /// Puts a frame behind its header into a transmit buffer; returns where and how long.
    pub fn place(&self, slot: u16, header: VirtioNetHeader, frame: &[u8]) -> (u64, u32) {
        let at = self.transmit_buffer(slot);
        self.memory
            .write_slice(&header.emit(0)[..self.header_len], GuestAddress(at))
            .unwrap();
        self.memory
            .write_slice(frame, GuestAddress(at + self.header_len as u64))
            .unwrap();
        (at, u32::try_from(self.header_len + frame.len()).unwrap())
    }

    /// Sends a frame in one descriptor and waits until the switch has taken it.
    pub fn send_with(&mut self, header: VirtioNetHeader, frame: &[u8]) {
        let head = self.rings[TX].available % self.rings[TX].size;
        let (at, len) = self.place(head, header, frame);
        self.write_descriptor(self.rings[TX].descriptors(), head, at, len, 0, 0);
        self.offer(TX, head);
        eventually("the frame is taken", || self.used(TX).map(|_| ()));
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(VirtioNetHeader::default(), frame);
    }

    pub fn used_index(&self, ring: usize) -> u16 {
        let at = GuestAddress(self.rings[ring].used_ring().0 + 2);
        self.memory
            .load(at, std::sync::atomic::Ordering::Acquire)
            .unwrap()
    }

    /// Takes the next used entry: the chain's head and the bytes written.
    pub fn used(&mut self, ring: usize) -> Option<(u16, u32)> {
        if self.is_packed() {
            return self.used_packed(ring);
        }
        let (seen, size, used_ring) = (
            self.rings[ring].seen,
            self.rings[ring].size,
            self.rings[ring].used_ring(),
        );
        if self.used_index(ring) == seen {
            return None;
        }
        let at = 4 + u64::from(seen % size) * 8;
        let (id, len): (u32, u32) = (self.read(used_ring, at), self.read(used_ring, at + 4));
        self.rings[ring].seen = seen.wrapping_add(1);
        Some((u16::try_from(id).unwrap(), len))
    }

    /// Takes the next frame, if there is one: its header, how many buffers it took, and its bytes.
    pub fn poll(&mut self) -> Option<(VirtioNetHeader, u16, Vec<u8>)> {
        let (head, len) = self.used(RX)?;
        let mut bytes = self.buffer(head, len);
        let header = VirtioNetHeader::parse(bytes[..10].try_into().unwrap());
        let count = if self.header_len == 12 {
            u16::from_le_bytes([bytes[10], bytes[11]])
        } else {
            1
        };
        bytes.drain(..self.header_len);
        for _ in 1..count {
            let (head, len) = eventually("the rest of a frame", || self.used(RX));
            bytes.extend(self.buffer(head, len));
        }
        Some((header, count, bytes))
    }

    fn buffer(&self, head: u16, len: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let table = self.rings[RX].descriptors();
        let (mut index, mut left) = (head, len as usize);
        loop {
            let at = u64::from(index) * 16;
            let (address, size): (u64, u32) = (self.read(table, at), self.read(table, at + 8));
            let (flags, next): (u16, u16) = (self.read(table, at + 12), self.read(table, at + 14));
            let part = left.min(size as usize);
            let mut piece = vec![0; part];
            self.memory
                .read_slice(&mut piece, GuestAddress(address))
                .unwrap();
            bytes.extend(piece);
            left -= part;
            if left == 0 || flags & NEXT == 0 {
                return bytes;
            }
            index = next;
        }
    }

    /// Waits for the next frame.
    pub fn receive(&mut self) -> Vec<u8> {
        self.receive_with().2
    }

    pub fn receive_with(&mut self) -> (VirtioNetHeader, u16, Vec<u8>) {
        eventually("a frame", || self.poll())
    }
}

type Task = Box<dyn FnOnce(&mut dyn Port) + Send>;

/// A worker with one port and no switch: it takes over what the port is told, and keeps the frames that come in.
pub struct Worker {
    tasks: Option<mpsc::Sender<Task>>,
    frames: mpsc::Receiver<Vec<u8>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    pub fn new(mut port: impl Port + 'static) -> Self {
        let (tasks, take_task) = mpsc::channel::<Task>();
        let (keep, frames) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut burst, mut drops) = (Burst::default(), Drops::default());
            loop {
                match take_task.try_recv() {
                    Ok(task) => task(&mut port),
                    Err(mpsc::TryRecvError::Empty) => thread::yield_now(),
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
                burst.clear();
                port.receive(&mut burst, &mut drops).unwrap();
                for frame in burst.frames() {
                    let mut bytes = Vec::new();
                    burst.copy_frame(frame, TagAction::Keep, &mut bytes);
                    let _ = keep.send(bytes);
                }
                port.release(&mut burst);
            }
        });
        Self {
            tasks: Some(tasks),
            frames,
            thread: Some(thread),
        }
    }

    /// Does something with the port, in the worker's thread.
    pub fn with<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut dyn Port) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let task: Task = Box::new(move |port| answer.send(task(port)).unwrap());
        let tasks = self.tasks.as_ref().expect("runs until dropped");
        tasks.send(task).unwrap();
        answered.recv().unwrap()
    }

    pub fn state(&self) -> PortState {
        self.with(|port| {
            let state = port.status().state;
            assert_eq!(state == PortState::Up, port.is_up());
            state
        })
    }

    pub fn wait_for_state(&self, state: PortState) {
        eventually(&format!("the port is {}", state.name()), || {
            (self.state() == state).then_some(())
        });
    }

    /// Sends a frame through the port; tells why it was dropped, if it was.
    pub fn send(&self, frame: Vec<u8>) -> Option<DropReason> {
        self.with(move |port| {
            let (mut burst, mut drops) = (Burst::default(), Drops::default());
            assert!(burst.push_owned(frame, VirtioNetHeader::default()));
            let egress = Egress {
                frame: 0,
                action: TagAction::Keep,
            };
            port.transmit(&burst, &[egress], &mut drops).unwrap();
            drops.iter().next().map(|(reason, _)| reason)
        })
    }

    /// Waits for the next frame that came in.
    pub fn receive(&self) -> Vec<u8> {
        self.frames.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the worker failed");
        }
    }
}

/// An IPv4 frame between two guests with a recognisable payload.
pub fn frame(src: u8, dst: u8, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len.saturating_sub(14))
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    emit(mac(dst), mac(src), ETHERTYPE_IPV4, &payload)
}
