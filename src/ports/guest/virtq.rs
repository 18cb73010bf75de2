//! Split virtqueues from the device's side (virtio 1.2, section 2.7), walked over cached pointers in bursts.
//!
//! # Theory of operation
//!
//! The three parts of a ring are found in guest memory once, when the ring is attached. The available index is read
//! once a burst, each descriptor once, used entries are written as they come and published by one store of the used
//! index, and the driver is notified once, as it asked: by the event index, or by its flag.
//!
//! Everything read here was written by a guest. An index that runs ahead, a descriptor that does not exist, a chain
//! that loops or points outside the guest's memory is a [`RingFault`]: the port stops, and nobody else notices.
//! Buffers are always completed in the order in which they were made available (`VIRTIO_F_IN_ORDER`).

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::memory::{Hint, Memory};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DESCRIPTOR_LEN: usize = 16;
/// Longest chain that is walked, unless the ring itself is longer.
const MAX_CHAIN: usize = 1024;

/// What is wrong with a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum RingFault {
    #[error("its size {0} is not a power of two from 1 to 32768")]
    Size(u16),
    #[error("its {0} is not aligned, or not in the guest's memory")]
    Part(&'static str),
    #[error("the available index is {0} ahead of a ring of {1}")]
    Ahead(u16, u16),
    #[error("descriptor {0} does not exist")]
    Descriptor(u16),
    #[error("a chain does not end")]
    Endless,
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
    /// Guest address of the descriptor table.
    pub(super) descriptors: u64,
    /// Guest address of the available ring.
    pub(super) available: u64,
    /// Guest address of the used ring.
    pub(super) used: u64,
}

/// A descriptor, read once.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
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

/// A buffer that consists of one descriptor in one piece of memory, the common case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Single {
    pub(super) id: u16,
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

/// One attached ring.
#[derive(Debug)]
pub(super) struct SplitRing {
    memory: Arc<Memory>,
    layout: Layout,
    direction: Direction,
    event_idx: bool,
    descriptors: *const u8,
    available: *mut u8,
    used: *mut u8,
    /// The next available entry to take.
    next: u16,
    /// The used index as last published.
    published: u16,
    /// Used entries written since.
    pending: u16,
    call: Option<Arc<OwnedFd>>,
    hint: Hint,
}

// JUSTIFICATION: a ring is opened by one thread and worked by another; raw pointers alone make it not Send.
// SAFETY: the pointers lead into mappings that `memory` keeps alive, which belong to no thread.
#[expect(unsafe_code, reason = "the pointers lead into shared memory")]
unsafe impl Send for SplitRing {}

#[expect(unsafe_code, reason = "rings are raw shared memory")]
impl SplitRing {
    /// Attaches to a ring and resumes behind the last buffer that was used.
    ///
    /// # Errors
    ///
    /// The ring's size is not a power of two, or a part of it is not where it is said to be.
    pub(super) fn attach(
        memory: Arc<Memory>,
        layout: Layout,
        direction: Direction,
        event_idx: bool,
    ) -> Result<Self, RingFault> {
        let size = usize::from(layout.size);
        if !layout.size.is_power_of_two() || size > 32_768 {
            return Err(RingFault::Size(layout.size));
        }
        let mut hint = Hint::default();
        let mut part = |name, address: u64, align: u64, len: usize| {
            let host = memory.find_whole(address, len, &mut hint).filter(|host| {
                address.is_multiple_of(align)
                    && host
                        .addr()
                        .is_multiple_of(usize::try_from(align).unwrap_or(16))
            });
            host.ok_or(RingFault::Part(name))
        };
        let descriptors = part(
            "descriptor table",
            layout.descriptors,
            16,
            size * DESCRIPTOR_LEN,
        )?;
        let available = part("available ring", layout.available, 2, 6 + size * 2)?;
        let used = part("used ring", layout.used, 4, 6 + size * 8)?;
        let mut ring = Self {
            memory,
            layout,
            direction,
            event_idx,
            descriptors,
            available,
            used,
            next: 0,
            published: 0,
            pending: 0,
            call: None,
            hint,
        };
        // Buffers complete in order, so what was used is also what was taken; a base that the frontend remembers
        // may be ahead of it by buffers that were in flight when a backend died.
        ring.next = ring.index(ring.used, 2).load(Ordering::Acquire);
        ring.published = ring.next;
        if direction == Direction::ToGuest {
            ring.disarm();
        }
        Ok(ring)
    }

    /// The layout it was attached with.
    pub(super) const fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory it was attached with.
    pub(super) const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Sets the descriptor by which the driver is notified.
    pub(super) fn set_call(&mut self, call: Option<Arc<OwnedFd>>) {
        self.call = call;
    }

    /// The index at which the ring goes on, as GET_VRING_BASE reports it.
    pub(super) const fn next(&self) -> u16 {
        self.next
    }

    /// A 16-bit field of a ring's part.
    #[inline]
    fn index(&self, part: *mut u8, offset: usize) -> &AtomicU16 {
        // SAFETY: `attach` found the whole part; `offset` is one of its fields.
        let field = unsafe { part.add(offset) };
        // SAFETY: the field is mapped as long as `memory`, which `self` owns, and aligned since the part is.
        unsafe { AtomicU16::from_ptr(field.cast()) }
    }

    const fn slot(&self, index: u16) -> usize {
        (index & (self.layout.size - 1)) as usize
    }

    /// Counts the buffers that are available and not taken.
    ///
    /// # Errors
    ///
    /// There are more than the ring has room for.
    #[inline]
    pub(super) fn available(&self) -> Result<u16, RingFault> {
        let index = self.index(self.available, 2).load(Ordering::Acquire);
        let ahead = index.wrapping_sub(self.next);
        if ahead > self.layout.size {
            return Err(RingFault::Ahead(ahead, self.layout.size));
        }
        Ok(ahead)
    }

    /// Returns the head of the available buffer that comes `offset` after the next.
    #[inline]
    fn head(&self, offset: u16) -> Result<u16, RingFault> {
        let slot = self.slot(self.next.wrapping_add(offset));
        let head = self
            .index(self.available, 4 + slot * 2)
            .load(Ordering::Relaxed);
        if head >= self.layout.size {
            Err(RingFault::Descriptor(head))
        } else {
            Ok(head)
        }
    }

    /// Reads a descriptor of the ring's own table.
    #[inline]
    fn descriptor(&self, index: u16) -> Descriptor {
        debug_assert!(index < self.layout.size);
        // SAFETY: the index was checked against the size of the table that `attach` found.
        let at = unsafe { self.descriptors.add(usize::from(index) * DESCRIPTOR_LEN) };
        // SAFETY: the table is mapped and aligned to 16 bytes.
        unsafe { read_descriptor(at) }
    }

    /// Looks at the available buffer `offset` after the next, if it is one descriptor in one piece of memory.
    ///
    /// # Errors
    ///
    /// The buffer's head does not exist.
    #[inline]
    pub(super) fn single(&mut self, offset: u16) -> Result<Option<Single>, RingFault> {
        let id = self.head(offset)?;
        let descriptor = self.descriptor(id);
        let plain = match self.direction {
            Direction::FromGuest => 0,
            Direction::ToGuest => WRITE,
        };
        if descriptor.flags & (NEXT | INDIRECT | WRITE) != plain {
            return Ok(None);
        }
        let len = descriptor.len as usize;
        let host = self
            .memory
            .find_whole(descriptor.address, len, &mut self.hint);
        Ok(host.map(|host| Single {
            id,
            buffer: Buffer { host, len },
        }))
    }

    /// Walks the chain of the available buffer `offset` after the next, adds its pieces to `buffers`, and returns
    /// its head.
    ///
    /// # Errors
    ///
    /// The chain makes no sense.
    pub(super) fn chain(
        &mut self,
        offset: u16,
        buffers: &mut Vec<Buffer>,
    ) -> Result<u16, RingFault> {
        let id = self.head(offset)?;
        let limit = usize::from(self.layout.size).max(MAX_CHAIN);
        let mut index = id;
        for _ in 0..limit {
            let descriptor = self.descriptor(index);
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 {
                    return Err(RingFault::Indirect);
                }
                self.indirect(descriptor, limit, buffers)?;
                return Ok(id);
            }
            self.push_buffer(descriptor, buffers)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(id);
            }
            if descriptor.next >= self.layout.size {
                return Err(RingFault::Descriptor(descriptor.next));
            }
            index = descriptor.next;
        }
        Err(RingFault::Endless)
    }

    fn indirect(
        &mut self,
        table: Descriptor,
        limit: usize,
        buffers: &mut Vec<Buffer>,
    ) -> Result<(), RingFault> {
        let len = table.len as usize;
        let count = len / DESCRIPTOR_LEN;
        if count == 0 || !len.is_multiple_of(DESCRIPTOR_LEN) || count > 65_536 {
            return Err(RingFault::Indirect);
        }
        let base = self
            .memory
            .find_whole(table.address, len, &mut self.hint)
            .ok_or(RingFault::Indirect)?;
        if !base.addr().is_multiple_of(8) {
            return Err(RingFault::Indirect);
        }
        let mut index = 0;
        for _ in 0..limit.min(count) {
            // SAFETY: `index` is less than `count`, and the whole table was found in guest memory.
            let at = unsafe { base.add(index * DESCRIPTOR_LEN) };
            // SAFETY: the descriptor is mapped as long as `memory`, and the table's alignment was checked.
            let descriptor = unsafe { read_descriptor(at) };
            if descriptor.flags & INDIRECT != 0 {
                return Err(RingFault::Indirect);
            }
            self.push_buffer(descriptor, buffers)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(descriptor.next);
            if index >= count {
                return Err(RingFault::Descriptor(descriptor.next));
            }
        }
        Err(RingFault::Endless)
    }

    fn push_buffer(
        &mut self,
        descriptor: Descriptor,
        buffers: &mut Vec<Buffer>,
    ) -> Result<(), RingFault> {
        let writable = descriptor.flags & WRITE != 0;
        if writable != (self.direction == Direction::ToGuest) {
            return Err(RingFault::Direction);
        }
        let (mut address, mut left) = (descriptor.address, descriptor.len as usize);
        while left > 0 {
            let (host, len) = self
                .memory
                .find(address, left, &mut self.hint)
                .ok_or(RingFault::Address)?;
            buffers.push(Buffer { host, len });
            address = address.checked_add(len as u64).ok_or(RingFault::Address)?;
            left -= len;
        }
        Ok(())
    }

    /// Moves on behind `count` available buffers.
    #[inline]
    pub(super) fn take(&mut self, count: u16) {
        self.next = self.next.wrapping_add(count);
    }

    /// Writes a used entry, to be published.
    #[inline]
    pub(super) fn complete(&mut self, id: u16, len: u32) {
        let slot = self.slot(self.published.wrapping_add(self.pending));
        // SAFETY: `slot` is less than the size, and `attach` found the whole used ring.
        let entry = unsafe { self.used.add(4 + slot * 8) };
        let value = u64::from(id) | u64::from(len) << 32;
        // JUSTIFICATION: the driver reads the entry once the index is published.
        // SAFETY: the entry is mapped; entries are aligned to four bytes only.
        unsafe { ptr::write_unaligned(entry.cast::<u64>(), value) };
        self.pending = self.pending.wrapping_add(1);
    }

    /// Publishes the used entries and notifies the driver if it asked for it.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.pending == 0 {
            return;
        }
        let old = self.published;
        self.published = old.wrapping_add(self.pending);
        self.pending = 0;
        self.index(self.used, 2)
            .store(self.published, Ordering::Release);
        // The index must be visible before the driver's wish is read, or both sides may go to sleep.
        fence(Ordering::SeqCst);
        if self.driver_waits(old) {
            self.notify();
        }
    }

    fn driver_waits(&self, old: u16) -> bool {
        if self.event_idx {
            let event = self
                .index(self.available, 4 + usize::from(self.layout.size) * 2)
                .load(Ordering::Relaxed);
            self.published.wrapping_sub(event).wrapping_sub(1) < self.published.wrapping_sub(old)
        } else {
            self.index(self.available, 0).load(Ordering::Relaxed) & 1 == 0
        }
    }

    /// Notifies the driver, whatever it asked for.
    pub(super) fn notify(&self) {
        let Some(call) = &self.call else { return };
        let one = 1u64.to_ne_bytes();
        // JUSTIFICATION: an eventfd of the frontend, made non-blocking when it came; a full one needs no more.
        // SAFETY: the descriptor is open, and eight bytes are readable.
        unsafe { libc::write(call.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Asks the driver to notify of new buffers, and tells whether there are some already.
    ///
    /// # Errors
    ///
    /// The available index makes no sense.
    pub(super) fn arm(&mut self) -> Result<bool, RingFault> {
        if self.event_idx {
            let event = self.index(self.used, 4 + usize::from(self.layout.size) * 8);
            event.store(self.next, Ordering::Relaxed);
        }
        self.index(self.used, 0).store(0, Ordering::Relaxed);
        // The wish must be visible before the index is read, or both sides may go to sleep.
        fence(Ordering::SeqCst);
        Ok(self.available()? != 0)
    }

    /// Asks the driver not to notify.
    pub(super) fn disarm(&mut self) {
        // With the event index the flag is ignored; an event that lies behind is not reached again soon.
        self.index(self.used, 0).store(1, Ordering::Relaxed);
    }
}

/// Reads the 16 bytes of a descriptor once: a guest that changes them afterwards changes nothing for us.
///
/// # Safety
///
/// They are readable, and aligned to eight bytes.
#[expect(unsafe_code, reason = "descriptors are raw shared memory")]
#[inline]
unsafe fn read_descriptor(at: *const u8) -> Descriptor {
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
