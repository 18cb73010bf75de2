//! A guest without a machine around it: a TAP device on one side, the two rings of a virtio-net driver on the other.
//!
//! The kernel of this machine is the guest's: put the TAP into a network namespace, give it an address, and whatever runs
//! there talks through the vhost-user backend at SOCKET, with the offloads that the backend offers. It moves 64 KiB at a
//! time and copies nothing itself, so that a core of it is faster than what it measures. `benches/nat` uses it.
//!
//! ```sh
//! cargo bench --bench tap_guest -- SOCKET TAP [RECEIVE_BUFFER]
//! ```
//!
//! Receive buffers have 4096 bytes, as Linux makes them when frames are large, unless another size is given.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a tool that stops with a message when something is not there"
)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};
use std::{io, ptr, thread};

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const MRG_RXBUF: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
const WANTED: u64 = CSUM
    | GUEST_CSUM
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | PROTOCOL_FEATURES
    | VERSION_1;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUN_F_CSUM: libc::c_uint = 1;
const TUN_F_TSO4: libc::c_uint = 2;
const TUN_F_TSO6: libc::c_uint = 4;
const TUN_F_TSO_ECN: libc::c_uint = 8;

const RX: usize = 0;
const TX: usize = 1;
const SIZE: u16 = 1024;
const RX_MEMORY: usize = 16 << 20;
const TX_BUFFER: usize = 0x1_2000;
const TX_BUFFERS: u16 = 256;
const WRITE: u16 = 2;
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const RX_AT: usize = 0x10_0000;
const TX_AT: usize = RX_AT + RX_MEMORY;
const MEMORY: usize = (TX_AT + TX_BUFFERS as usize * TX_BUFFER).next_multiple_of(1 << 21);
/// For how long both sides are looked at before the process sleeps.
const SPIN: Duration = Duration::from_micros(100);

struct Ring {
    base: *mut u8,
    kick: EventFd,
    call: EventFd,
    available: u16,
    seen: u16,
}

impl Ring {
    fn new(memory: *mut u8, index: usize) -> Self {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Self {
            base: memory.wrapping_add(index * 0x4_0000),
            kick: event(),
            call: event(),
            available: 0,
            seen: 0,
        }
    }

    fn available_ring(&self) -> *mut u8 {
        self.base.wrapping_add(0x1_0000)
    }

    fn used_ring(&self) -> *mut u8 {
        self.base.wrapping_add(0x2_0000)
    }

    fn index(at: *mut u8) -> &'static AtomicU16 {
        // SAFETY: rings lie in memory that is mapped for as long as the process runs, and are aligned.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }

    fn describe(&self, index: u16, address: u64, len: u32, flags: u16) {
        let at = self.base.wrapping_add(usize::from(index) * 16);
        // SAFETY: the descriptor table has this entry.
        unsafe { ptr::write_volatile(at.cast::<u64>(), address) };
        let rest = u64::from(len) | u64::from(flags) << 32;
        // SAFETY: as above.
        unsafe { ptr::write_volatile(at.wrapping_add(8).cast::<u64>(), rest) };
    }

    fn offer(&mut self, head: u16) {
        let slot = usize::from(self.available % SIZE);
        let entry = self.available_ring().wrapping_add(4 + slot * 2);
        Self::index(entry).store(head, Ordering::Relaxed);
        self.available = self.available.wrapping_add(1);
    }

    fn publish(&self) {
        let index = self.available_ring().wrapping_add(2);
        Self::index(index).store(self.available, Ordering::Release);
        fence(Ordering::SeqCst);
        if Self::index(self.used_ring()).load(Ordering::Relaxed) & 1 == 0 {
            self.kick.write(1).unwrap();
        }
    }

    /// Asks the backend to notify of used buffers, or not to.
    fn want_calls(&self, wanted: bool) {
        Self::index(self.available_ring()).store(u16::from(!wanted), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn is_used(&self) -> bool {
        Self::index(self.used_ring().wrapping_add(2)).load(Ordering::Acquire) != self.seen
    }

    fn used(&mut self) -> Option<(u16, u32)> {
        if !self.is_used() {
            return None;
        }
        let slot = usize::from(self.seen % SIZE);
        let entry = self.used_ring().wrapping_add(4 + slot * 8).cast::<u32>();
        // SAFETY: the used ring has this entry.
        let id = unsafe { ptr::read_volatile(entry) };
        // SAFETY: as above.
        let len = unsafe { ptr::read_volatile(entry.wrapping_add(1)) };
        self.seen = self.seen.wrapping_add(1);
        Some((id as u16, len))
    }
}

fn open_tap(name: &str, features: u64) -> File {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is an ifreq, which the kernel reads and writes.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(
        result,
        0,
        "TUNSETIFF {name}: {}",
        io::Error::last_os_error()
    );
    let header: libc::c_int = 12;
    // SAFETY: the kernel reads an int.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ, &raw const header) };
    assert_eq!(result, 0, "TUNSETVNETHDRSZ");
    let mut offloads = 0;
    for (feature, offload) in [
        (CSUM, TUN_F_CSUM),
        (HOST_TSO4, TUN_F_TSO4),
        (HOST_TSO6, TUN_F_TSO6),
        (HOST_ECN, TUN_F_TSO_ECN),
    ] {
        offloads |= if features & feature == 0 { 0 } else { offload };
    }
    // SAFETY: the argument is a number.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, offloads as libc::c_ulong) };
    assert_eq!(result, 0, "TUNSETOFFLOAD");
    // SAFETY: the descriptor is open.
    unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    tap
}

fn connect(path: &str) -> UnixStream {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{path}: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let (Some(socket), Some(name)) = (arguments.next(), arguments.next()) else {
        println!("usage: tap_guest SOCKET TAP [RECEIVE_BUFFER]");
        return;
    };
    let buffer = arguments.next().map_or(4096, |size| size.parse().unwrap());
    // SAFETY: the name is a string that ends.
    let number = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: the kernel has just opened this descriptor for us.
    let file = unsafe { File::from_raw_fd(number) };
    file.set_len(MEMORY as u64).unwrap();
    // SAFETY: a new mapping of our own file.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            MEMORY,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            number,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    let memory = memory.cast::<u8>();
    let mut rings = [Ring::new(memory, RX), Ring::new(memory, TX)];

    let mut frontend = Frontend::from_stream(connect(&socket), 2);
    frontend.set_owner().unwrap();
    let features = frontend.get_features().unwrap() & WANTED;
    let protocol = frontend.get_protocol_features().unwrap();
    let wanted = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
    frontend.set_protocol_features(protocol & wanted).unwrap();
    if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    frontend.set_features(features).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory as u64,
        mmap_offset: 0,
        mmap_handle: number,
    };
    frontend.set_mem_table(&[region]).unwrap();
    let tap = open_tap(&name, features);

    for index in 0..SIZE.min((RX_MEMORY / buffer) as u16) {
        let at = RX_AT + usize::from(index) * buffer;
        rings[RX].describe(index, at as u64, buffer as u32, WRITE);
        rings[RX].offer(index);
    }
    for (index, ring) in rings.iter_mut().enumerate() {
        frontend.set_vring_num(index, SIZE).unwrap();
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: ring.base as u64,
            used_ring_addr: ring.used_ring() as u64,
            avail_ring_addr: ring.available_ring() as u64,
            log_addr: None,
        };
        frontend.set_vring_addr(index, &config).unwrap();
        frontend.set_vring_base(index, 0).unwrap();
        frontend.set_vring_call(index, &ring.call).unwrap();
        frontend.set_vring_kick(index, &ring.kick).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
        ring.publish();
    }
    println!("READY {}", std::process::id());
    let [mut rx, mut tx] = rings;
    run(memory, &tap, &mut rx, &mut tx, buffer);
}

fn run(memory: *mut u8, tap: &File, rx: &mut Ring, tx: &mut Ring, buffer: usize) {
    let fd = tap.as_raw_fd();
    let mut free: Vec<u16> = (0..TX_BUFFERS).collect();
    let mut idle_since = Instant::now();
    tx.want_calls(false);
    rx.want_calls(false);
    loop {
        let mut worked = false;
        while let Some((id, _)) = tx.used() {
            free.push(id);
            worked = true;
        }
        worked |= send(memory, fd, &mut free, tx);
        worked |= receive(memory, fd, rx, buffer);
        if worked {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > SPIN {
            rx.want_calls(true);
            tx.want_calls(free.is_empty());
            if !(rx.is_used() || free.is_empty() && tx.is_used()) {
                wait([
                    (!free.is_empty()).then_some(fd),
                    Some(rx.call.as_raw_fd()),
                    Some(tx.call.as_raw_fd()),
                ]);
            }
            rx.want_calls(false);
            tx.want_calls(false);
            let _ = (rx.call.read(), tx.call.read());
            idle_since = Instant::now();
        }
    }
}

fn wait(descriptors: [Option<RawFd>; 3]) {
    let mut polled = descriptors.map(|fd| libc::pollfd {
        fd: fd.unwrap_or(-1),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: three pollfds are there.
    unsafe { libc::poll(polled.as_mut_ptr(), 3, -1) };
}

/// Reads what the kernel sends into free buffers of the transmit ring.
fn send(memory: *mut u8, tap: RawFd, free: &mut Vec<u16>, tx: &mut Ring) -> bool {
    let mut count = 0;
    while count < 32
        && let Some(id) = free.last().copied()
    {
        let at = TX_AT + usize::from(id) * TX_BUFFER;
        // SAFETY: the buffer is that long.
        let len = unsafe { libc::read(tap, memory.wrapping_add(at).cast(), TX_BUFFER) };
        let Ok(len @ 1..) = u32::try_from(len) else {
            break;
        };
        tx.describe(id, at as u64, len, 0);
        tx.offer(id);
        free.pop();
        count += 1;
    }
    if count > 0 {
        tx.publish();
    }
    count > 0
}

/// Tells the kernel in its own words that the backend vouches for a checksum: a TAP knows but one of the two flags.
fn trust(header: *mut u8) {
    // SAFETY: the first buffer of a frame holds its headers.
    let bytes = unsafe { std::slice::from_raw_parts_mut(header, 128) };
    let (header, frame) = bytes.split_at_mut(12);
    if header[0] != DATA_VALID {
        return;
    }
    let (start, protocol) = match frame[12..14] {
        [8, 0] => (14 + usize::from(frame[14] & 15) * 4, frame[23]),
        [0x86, 0xdd] => (54, frame[20]),
        _ => return,
    };
    let offset: u16 = match protocol {
        6 => 16,
        17 => 6,
        _ => return,
    };
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
}

/// Hands what has come in to the kernel, and gives the buffers back.
fn receive(memory: *mut u8, tap: RawFd, rx: &mut Ring, buffer: usize) -> bool {
    let mut count = 0;
    while count < 64
        && let Some((id, len)) = rx.used()
    {
        let first = memory.wrapping_add(RX_AT + usize::from(id) * buffer);
        // SAFETY: the header is twelve bytes long.
        let buffers = unsafe { ptr::read_unaligned(first.wrapping_add(10).cast::<u16>()) };
        trust(first);
        let mut pieces = vec![(id, len)];
        while pieces.len() < usize::from(buffers) {
            pieces.extend(rx.used());
        }
        let vectors: Vec<_> = pieces
            .iter()
            .map(|(id, len)| libc::iovec {
                iov_base: memory
                    .wrapping_add(RX_AT + usize::from(*id) * buffer)
                    .cast(),
                iov_len: *len as usize,
            })
            .collect();
        // What the kernel does not take is lost, as on any wire.
        // SAFETY: the pieces lie in the receive buffers.
        unsafe {
            libc::writev(
                tap,
                vectors.as_ptr(),
                libc::c_int::try_from(vectors.len()).unwrap(),
            )
        };
        for (id, _) in pieces {
            rx.offer(id);
        }
        count += 1;
    }
    if count > 0 {
        rx.publish();
    }
    count > 0
}
