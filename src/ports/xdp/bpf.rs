//! Calls of `bpf(2)`: a map of sockets, a program, and its place at an adapter.
//!
//! All three are descriptors. The kernel takes the program off the adapter when the last descriptor of its place is
//! closed, which it does by itself for a process that dies.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::program::Instruction;
use crate::ports::kernel::checked;

/// How the kernel runs a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    /// In the adapter's driver, before there is a packet buffer.
    Native,
    /// In the kernel's stack, for any adapter.
    Generic,
}

/// The commands.
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_MAP_TYPE_XSKMAP`
const MAP_OF_SOCKETS: u32 = 17;
/// `BPF_PROG_TYPE_XDP`
const XDP_PROGRAM: u32 = 6;
/// `BPF_XDP` of `enum bpf_attach_type`.
const XDP_PLACE: u32 = 37;
/// `BPF_F_XDP_HAS_FRAGS`: the program may be shown the first piece alone of a frame that lies in several.
const HAS_FRAGMENTS: u32 = 1 << 5;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_len: u32,
    value_len: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    log_level: u32,
    log_len: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    adapter: u32,
    place: u32,
    flags: u32,
}

/// Sockets by the queue that they belong to.
pub(super) struct SocketMap(OwnedFd);

impl SocketMap {
    /// Makes a map with room for this many queues.
    pub(super) fn new(queues: usize) -> io::Result<Self> {
        let attributes = MapCreate {
            kind: MAP_OF_SOCKETS,
            key_len: 4,
            value_len: 4,
            entries: u32::try_from(queues).unwrap_or(u32::MAX),
            flags: 0,
        };
        opened(bpf(MAP_CREATE, &attributes)).map(Self)
    }

    /// Enters the socket of a queue.
    pub(super) fn insert(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        let attributes = MapUpdate {
            map: number(self.0.as_raw_fd()),
            padding: 0,
            key: address(&raw const queue),
            value: address(&raw const socket),
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &attributes).map(drop)
    }
}

impl AsRawFd for SocketMap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A program that the kernel has found to be in order.
pub(super) struct Program(OwnedFd);

impl Program {
    /// Loads a program.
    pub(super) fn load(instructions: &[Instruction], fragments: bool) -> io::Result<Self> {
        let attributes = ProgramLoad {
            kind: XDP_PROGRAM,
            instructions: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
            first: address(instructions.as_ptr()),
            license: address(c"Apache-2.0".as_ptr()),
            log_level: 0,
            log_len: 0,
            log: 0,
            kernel_version: 0,
            flags: if fragments { HAS_FRAGMENTS } else { 0 },
        };
        opened(bpf(PROG_LOAD, &attributes)).map(Self)
    }

    /// Has the adapter with this index run the program as long as the place is held.
    pub(super) fn attach(&self, index: i32, mode: Mode) -> io::Result<Place> {
        let attributes = LinkCreate {
            program: number(self.0.as_raw_fd()),
            adapter: number(index),
            place: XDP_PLACE,
            flags: match mode {
                Mode::Native => NATIVE,
                Mode::Generic => GENERIC,
            },
        };
        opened(bpf(LINK_CREATE, &attributes)).map(Place)
    }
}

/// A program's place at an adapter (`bpf_link`).
pub(super) struct Place(
    #[expect(dead_code, reason = "it is held, and given up by closing it")] OwnedFd,
);

/// Only for attributes whose addresses are those of memory that is borrowed for as long as the call takes.
#[expect(unsafe_code, reason = "std has no bpf")]
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<usize> {
    let (at, len) = (std::ptr::from_ref(attributes), size_of::<T>());
    // SAFETY: the attributes are borrowed and as long as they are said to be, and so is what they point at; the commands
    // that this file has only read them.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, at, len) })
}

#[expect(unsafe_code, reason = "the kernel answers with a number")]
fn opened(answer: io::Result<usize>) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(answer?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// A descriptor or an index, neither of which is negative.
const fn number(of: i32) -> u32 {
    of.cast_unsigned()
}
