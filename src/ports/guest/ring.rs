//! What virtqueues of both kinds have in common: buffers, faults, and what a walker of a ring does for a port.
//!
//! Everything read from a ring was written by a guest. What makes no sense there is a [`RingFault`]: the port stops, and
//! nobody else notices. Buffers are always completed in the order in which they were made available
//! (`VIRTIO_F_IN_ORDER`).

use std::fmt::Debug;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use super::memory::{Hint, Memory};

/// The flag of a descriptor that another follows in its chain.
pub(super) const NEXT: u16 = 1;
/// The flag of a descriptor that the device writes to.
pub(super) const WRITE: u16 = 2;
/// The flag of a descriptor that leads to a table of others.
pub(super) const INDIRECT: u16 = 4;
/// How many bytes a descriptor has, in rings of both kinds and in tables.
pub(super) const DESCRIPTOR_LEN: usize = 16;
/// Longest chain that is walked: far more than any driver uses for a frame, and little work to refuse.
pub(super) const MAX_CHAIN: usize = 1024;

/// What is wrong with a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum RingFault {
    #[error("its size {0} is not a power of two from 1 to 32768")]
    Size(u16),
    #[error("its size {0} is not from 1 to 32768")]
    PackedSize(u16),
    #[error("its {0} is not aligned, or not in the guest's memory")]
    Part(&'static str),
    #[error("the available index is {0} ahead of a ring of {1}")]
    Ahead(u16, u16),
    #[error("descriptor {0} does not exist")]
    Descriptor(u16),
    #[error("a chain does not end, or has more than {MAX_CHAIN} descriptors")]
    Endless,
    #[error("a buffer is empty")]
    Empty,
    #[error("a receive buffer is shorter than a frame's header")]
    Short,
    #[error("its memory was taken away")]
    Vanished,
    #[error("a buffer is not in the guest's memory")]
    Address,
    #[error("an indirect table is malformed")]
    Indirect,
    #[error("a buffer has the wrong direction")]
    Direction,
}

/// Where a ring is, as the frontend said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Layout {
    /// Number of descriptors.
    pub(super) size: u16,
    /// Guest address of the descriptor table, or of a packed ring.
    pub(super) descriptors: u64,
    /// Guest address of the available ring, or of the driver's event suppression.
    pub(super) available: u64,
    /// Guest address of the used ring, or of the device's event suppression.
    pub(super) used: u64,
}

/// A descriptor, read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// The next of the chain in a split ring and its tables.
    pub(super) next: u16,
}

/// A piece of memory that the driver made available.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    pub(super) host: *mut u8,
    pub(super) len: usize,
}

// JUSTIFICATION: lists of buffers are kept from burst to burst; raw pointers alone make them not Send.
// SAFETY: the pointer leads into a guest's memory, which belongs to no thread.
#[expect(unsafe_code, reason = "the pointer leads into shared memory")]
unsafe impl Send for Buffer {}

/// By what a buffer is given back: the name that its driver gave it, and how much of the ring it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) id: u16,
    /// How many descriptors of a packed ring it takes; of no interest in a split ring.
    pub(super) slots: u16,
}

/// A buffer that consists of one descriptor in one piece of memory, the common case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Single {
    pub(super) token: Token,
    pub(super) buffer: Buffer,
}

/// Which way the buffers of a queue go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Direction {
    /// The device reads: the guest's transmit queue.
    FromGuest,
    /// The device writes: the guest's receive queue.
    ToGuest,
}

/// A ring on the way of frames: buffers are looked at ahead, taken, completed in their order, and published together.
pub(super) trait Virtqueue: Debug {
    /// The layout it was attached with.
    fn layout(&self) -> Layout;

    /// The memory it was attached with.
    fn memory(&self) -> &Arc<Memory>;

    /// Where the ring goes on, in 16 bits, as GET_VRING_BASE reports it.
    fn position(&self) -> u16;

    /// Sets the descriptor by which the driver is notified.
    fn set_call(&mut self, call: Option<Arc<OwnedFd>>);

    /// Notifies the driver, whatever it asked for.
    fn notify(&self);

    /// Asks the driver to notify of new buffers, and tells whether there are some already.
    ///
    /// # Errors
    ///
    /// What the driver made available makes no sense.
    fn arm(&mut self) -> Result<bool, RingFault>;

    /// Asks the driver not to notify.
    fn disarm(&mut self);

    /// Returns how many buffers are available and not taken. More than `wanted` need not be counted.
    ///
    /// # Errors
    ///
    /// What the driver made available makes no sense.
    fn look(&mut self, wanted: u16) -> Result<u16, RingFault>;

    /// Looks at the available buffer `offset` after the next, if it is one descriptor in one piece of memory.
    ///
    /// # Errors
    ///
    /// There is no such descriptor.
    fn single(&mut self, offset: u16) -> Result<Option<Single>, RingFault>;

    /// Walks the chain of the available buffer `offset` after the next, and adds its pieces to `buffers`.
    ///
    /// # Errors
    ///
    /// The chain makes no sense.
    fn chain(&mut self, offset: u16, buffers: &mut Vec<Buffer>) -> Result<Token, RingFault>;

    /// Moves on behind `count` available buffers.
    fn take(&mut self, count: u16);

    /// Completes a buffer that was taken, or will be before it is published.
    fn complete(&mut self, token: Token, len: u32);

    /// Publishes what was completed, and notifies the driver if it asked for it.
    fn publish(&mut self);
}

/// Adds the pieces of memory to which a descriptor leads.
///
/// # Errors
///
/// It leads out of the guest's memory or nowhere, or the wrong way.
pub(super) fn push_buffer(
    memory: &Memory,
    hint: &mut Hint,
    direction: Direction,
    descriptor: Descriptor,
    buffers: &mut Vec<Buffer>,
) -> Result<(), RingFault> {
    let writable = descriptor.flags & WRITE != 0;
    if writable != (direction == Direction::ToGuest) {
        return Err(RingFault::Direction);
    }
    let (mut address, mut left) = (descriptor.address, descriptor.len as usize);
    if left == 0 {
        return Err(RingFault::Empty);
    }
    while left > 0 {
        let (host, len) = memory.find(address, left, hint).ok_or(RingFault::Address)?;
        buffers.push(Buffer { host, len });
        address = address.checked_add(len as u64).ok_or(RingFault::Address)?;
        left -= len;
    }
    Ok(())
}

/// Finds an indirect table: where it is, and how many descriptors it has.
///
/// # Errors
///
/// It is empty, or not in one piece of the guest's memory.
pub(super) fn find_table(
    memory: &Memory,
    hint: &mut Hint,
    table: Descriptor,
) -> Result<(*mut u8, usize), RingFault> {
    let len = table.len as usize;
    let count = len / DESCRIPTOR_LEN;
    if count == 0 || !len.is_multiple_of(DESCRIPTOR_LEN) || count > 65_536 {
        return Err(RingFault::Indirect);
    }
    memory
        .find_whole(table.address, len, hint)
        .filter(|base| base.addr().is_multiple_of(8))
        .map(|base| (base, count))
        .ok_or(RingFault::Indirect)
}

/// Finds a part of a ring.
///
/// # Errors
///
/// It is not aligned, or not in one piece of the guest's memory.
pub(super) fn find_part(
    memory: &Memory,
    name: &'static str,
    address: u64,
    align: usize,
    len: usize,
) -> Result<*mut u8, RingFault> {
    memory
        .find_whole(address, len, &mut Hint::default())
        .filter(|host| address.is_multiple_of(align as u64) && host.addr().is_multiple_of(align))
        .ok_or(RingFault::Part(name))
}

/// Reads the 16 bytes of a descriptor once: a guest that changes them afterwards changes nothing for us.
///
/// # Safety
///
/// They are readable, and aligned to eight bytes.
#[expect(unsafe_code, reason = "descriptors are raw shared memory")]
#[inline]
pub(super) unsafe fn read_descriptor(at: *const u8) -> Descriptor {
    let words = at.cast::<u64>();
    // SAFETY: the caller says that the bytes are readable and aligned.
    let address = unsafe { ptr::read_volatile(words) };
    // SAFETY: the second word is part of the same descriptor.
    let second = unsafe { words.add(1) };
    // SAFETY: as for the first word.
    let rest = unsafe { ptr::read_volatile(second) };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fields lie side by side in the word"
    )]
    let descriptor = Descriptor {
        address,
        len: rest as u32,
        flags: (rest >> 32) as u16,
        next: (rest >> 48) as u16,
    };
    descriptor
}

/// Notifies a driver by its eventfd, if it has one.
#[expect(unsafe_code, reason = "an eventfd is written without waiting for it")]
pub(super) fn notify(call: Option<&OwnedFd>) {
    let Some(call) = call else { return };
    let one = 1u64.to_ne_bytes();
    // JUSTIFICATION: an eventfd of the frontend, made non-blocking when it came; a full one needs no more.
    // SAFETY: the descriptor is open, and eight bytes are readable.
    unsafe { libc::write(call.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}
