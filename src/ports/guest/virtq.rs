//! Split virtqueues from the device's side (virtio 1.2, section 2.7), walked over cached pointers in bursts.
//!
//! # Theory of operation
//!
//! The three parts of a ring are found in guest memory once, when the ring is attached. The available index is read
//! once a burst, each descriptor once, used entries are written as they come and published by one store of the used
//! index, and the driver is notified once, as it asked: by the event index, or by its flag.
//!
//! An index that runs ahead, a descriptor that does not exist, a chain that loops or points outside the guest's memory
//! is a [`RingFault`].

use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::memory::{Hint, Memory};
use super::ring::{
    Buffer, DESCRIPTOR_LEN, Descriptor, Direction, INDIRECT, Layout, MAX_CHAIN, NEXT, RingFault,
    Single, Token, Virtqueue, WRITE, find_part, find_table, notify, push_buffer, read_descriptor,
};

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
        let part = |name, address, align, len| find_part(&memory, name, address, align, len);
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
            hint: Hint::default(),
        };
        // Buffers complete in order, so what was used is also what was taken; a base that the frontend remembers
        // may be ahead of it by buffers that were in flight when a backend died.
        ring.next = ring.index(ring.used, 2).load(Ordering::Acquire);
        ring.published = ring.next;
        // The worker looks by itself until it arms the ring.
        ring.disarm();
        Ok(ring)
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
    fn available(&self) -> Result<u16, RingFault> {
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

    fn indirect(&mut self, table: Descriptor, buffers: &mut Vec<Buffer>) -> Result<(), RingFault> {
        let (base, count) = find_table(&self.memory, &mut self.hint, table)?;
        let mut index = 0;
        for _ in 0..MAX_CHAIN.min(count) {
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
        push_buffer(
            &self.memory,
            &mut self.hint,
            self.direction,
            descriptor,
            buffers,
        )
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
}

#[expect(unsafe_code, reason = "rings are raw shared memory")]
impl Virtqueue for SplitRing {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn set_call(&mut self, call: Option<Arc<OwnedFd>>) {
        self.call = call;
    }

    fn position(&self) -> u16 {
        self.next
    }

    fn notify(&self) {
        notify(self.call.as_deref());
    }

    fn arm(&mut self) -> Result<bool, RingFault> {
        if self.event_idx {
            let event = self.index(self.used, 4 + usize::from(self.layout.size) * 8);
            event.store(self.next, Ordering::Relaxed);
        }
        self.index(self.used, 0).store(0, Ordering::Relaxed);
        // The wish must be visible before the index is read, or both sides may go to sleep.
        fence(Ordering::SeqCst);
        Ok(self.available()? != 0)
    }

    fn disarm(&mut self) {
        // With the event index the flag is ignored; an event that lies behind is not reached again soon.
        self.index(self.used, 0).store(1, Ordering::Relaxed);
    }

    #[inline]
    fn look(&mut self, _wanted: u16) -> Result<u16, RingFault> {
        self.available()
    }

    #[inline]
    fn single(&mut self, offset: u16) -> Result<Option<Single>, RingFault> {
        let id = self.head(offset)?;
        let descriptor = self.descriptor(id);
        let plain = match self.direction {
            Direction::FromGuest => 0,
            Direction::ToGuest => WRITE,
        };
        if descriptor.flags & (NEXT | INDIRECT | WRITE) != plain || descriptor.len == 0 {
            return Ok(None);
        }
        let len = descriptor.len as usize;
        let host = self
            .memory
            .find_whole(descriptor.address, len, &mut self.hint);
        Ok(host.map(|host| Single {
            token: Token { id, slots: 1 },
            buffer: Buffer { host, len },
        }))
    }

    fn chain(&mut self, offset: u16, buffers: &mut Vec<Buffer>) -> Result<Token, RingFault> {
        let id = self.head(offset)?;
        let token = Token { id, slots: 1 };
        let mut index = id;
        for _ in 0..MAX_CHAIN {
            let descriptor = self.descriptor(index);
            if descriptor.flags & INDIRECT != 0 {
                if descriptor.flags & NEXT != 0 {
                    return Err(RingFault::Indirect);
                }
                self.indirect(descriptor, buffers)?;
                return Ok(token);
            }
            self.push_buffer(descriptor, buffers)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(token);
            }
            if descriptor.next >= self.layout.size {
                return Err(RingFault::Descriptor(descriptor.next));
            }
            index = descriptor.next;
        }
        Err(RingFault::Endless)
    }

    #[inline]
    fn take(&mut self, count: u16) {
        self.next = self.next.wrapping_add(count);
    }

    #[inline]
    fn complete(&mut self, token: Token, len: u32) {
        let slot = self.slot(self.published.wrapping_add(self.pending));
        // SAFETY: `slot` is less than the size, and `attach` found the whole used ring.
        let entry = unsafe { self.used.add(4 + slot * 8) };
        let value = u64::from(token.id) | u64::from(len) << 32;
        // JUSTIFICATION: the driver reads the entry once the index is published.
        // SAFETY: the entry is mapped; entries are aligned to four bytes only.
        unsafe { ptr::write_unaligned(entry.cast::<u64>(), value) };
        self.pending = self.pending.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self) {
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
}
