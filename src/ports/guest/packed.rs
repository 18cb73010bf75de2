//! Packed virtqueues from the device's side (virtio 1.2, section 2.8).
//!
//! # Theory of operation
//!
//! Driver and device write to one ring of descriptors, and tell by two flags of each whose it is and since which lap.
//! Ahead of a batch, descriptors are read in their order until one is not available; each is read once, flags first. Used
//! ones are noted, and written when they are published: all but the first, and then the first, behind which a driver does
//! not look before. Where the driver takes buffers back in order and their lengths say nothing, as in a transmit queue
//! with `VIRTIO_F_IN_ORDER`, one used descriptor stands for all that are published together.
//!
//! A driver says in its event suppression structure whether it wants to hear of used descriptors, and of which; ours says
//! the same of available ones. It also keeps our position (`position`), so that whoever serves the ring next goes on where
//! we stopped. It is written *before* what it counts is published: who finds descriptors before it that are not used
//! completes what an end in that moment left half done. The same frames are not moved again.
//!
//! What is refused is what is refused in split rings (`virtq`). A ring can have any size up to 32768.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::memory::{Hint, Memory};
use super::position::{AVAILABLE, Position, Traces, USED};
use super::ring::{
    Buffer, DESCRIPTOR_LEN, Descriptor, Direction, INDIRECT, Layout, MAX_CHAIN, NEXT, RingFault,
    Single, Token, Virtqueue, WRITE, find_part, find_table, notify, push_buffer, read_descriptor,
};

/// How many descriptors are looked at ahead at most: many more than the largest batch of honest frames takes.
const LOOK_AHEAD: u16 = 8192;

/// What an event suppression structure says: tell of everything, of nothing, or of one descriptor.
const EVENTS_ENABLED: u16 = 0;
const EVENTS_DISABLED: u16 = 1;
const EVENTS_DESCRIPTOR: u16 = 2;

/// What the driver negotiated for its rings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// Events of certain descriptors are used.
    pub(super) event_idx: bool,
    /// One used descriptor may stand for several.
    pub(super) in_order: bool,
}

/// An available buffer that was looked at.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    /// Its first descriptor.
    descriptor: Descriptor,
    at: Position,
    token: Token,
}

/// One attached ring.
#[derive(Debug)]
pub(super) struct PackedRing {
    memory: Arc<Memory>,
    layout: Layout,
    direction: Direction,
    event_idx: bool,
    /// Whether one used descriptor stands for all of a batch.
    batches: bool,
    descriptors: *mut u8,
    driver_event: *mut u8,
    device_event: *mut u8,
    /// Behind the last buffer that was published.
    published: Position,
    /// Behind the last that was looked at.
    seen: Position,
    /// How many descriptors lie between these.
    open: u16,
    /// What was looked at, from `first` on not taken.
    ahead: Vec<Ahead>,
    first: usize,
    /// What is to be published: the descriptors to write, but for their used flags, and how many each is for.
    completed: Vec<(u64, u16)>,
    /// How many descriptors that takes.
    completed_slots: u16,
    call: Option<Arc<OwnedFd>>,
    hint: Hint,
}

// JUSTIFICATION: a ring is opened by one thread and worked by another; raw pointers alone make it not Send.
// SAFETY: the pointers lead into mappings that `memory` keeps alive, which belong to no thread.
#[expect(unsafe_code, reason = "the pointers lead into shared memory")]
unsafe impl Send for PackedRing {}

/// Reads the flags of a descriptor's second word.
#[inline]
const fn flags_of(word: u64) -> u16 {
    (word >> 48) as u16
}

/// Reads the buffer's name in a descriptor's second word.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a field of the word")]
const fn id_of(word: u64) -> u16 {
    (word >> 32) as u16
}

#[expect(unsafe_code, reason = "rings are raw shared memory")]
impl PackedRing {
    /// Attaches to a ring and resumes behind the last buffer that was used. `told` is where the frontend says that is.
    ///
    /// # Errors
    ///
    /// The ring has no size, or a part of it is not where it is said to be.
    pub(super) fn attach(
        memory: Arc<Memory>,
        layout: Layout,
        direction: Direction,
        wishes: Wishes,
        told: u16,
    ) -> Result<Self, RingFault> {
        let size = usize::from(layout.size);
        if size == 0 || size > 32_768 {
            return Err(RingFault::PackedSize(layout.size));
        }
        let part = |name, address, align, len| find_part(&memory, name, address, align, len);
        let descriptors = part("ring", layout.descriptors, 16, size * DESCRIPTOR_LEN)?;
        let driver_event = part("driver's event suppression", layout.available, 4, 4)?;
        let device_event = part("device's event suppression", layout.used, 4, 4)?;
        let mut ring = Self {
            memory,
            layout,
            direction,
            event_idx: wishes.event_idx,
            batches: wishes.in_order && direction == Direction::FromGuest,
            descriptors,
            driver_event,
            device_event,
            published: Position::START,
            seen: Position::START,
            open: 0,
            ahead: Vec::new(),
            first: 0,
            completed: Vec::new(),
            completed_slots: 0,
            call: None,
            hint: Hint::default(),
        };
        ring.published = ring.resume(told);
        ring.seen = ring.published;
        // The worker looks by itself until it arms the ring.
        ring.disarm();
        Ok(ring)
    }

    /// Finds out where the ring goes on, and completes what was published by half.
    fn resume(&self, told: u16) -> Position {
        let kept = self.event(self.device_event).load(Ordering::Acquire);
        #[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
        let kept = Position::from_bits(kept as u16);
        let told = Some(Position::from_bits(told)).filter(|told| told.slot < self.layout.size);
        let told = told.unwrap_or(Position::START);
        let flags: Vec<u16> = (0..self.layout.size)
            .map(|slot| flags_of(self.word(slot).load(Ordering::Acquire)))
            .collect();
        let Some(traces) = Traces::read(&flags) else {
            return told;
        };
        let position = traces.choose(kept, told, self.batches);
        if position == kept {
            let left: Vec<Position> = traces
                .before(position)
                .filter(|at| flags[usize::from(at.slot)] & (AVAILABLE | USED) == at.available())
                .collect();
            self.finish(&left);
        }
        position
    }

    /// Completes the buffers that begin at these places, and were about to be when another device ended. The rests of
    /// chains that were used long ago look like such; nobody reads those.
    fn finish(&self, left: &[Position]) {
        let mut left = left.iter().peekable();
        while let Some(first) = left.next() {
            let word = self.word(first.slot).load(Ordering::Acquire);
            let mut last = word;
            let mut at = *first;
            // The last descriptor of a chain has its name.
            while flags_of(last) & NEXT != 0
                && let Some(next) = left.next_if_eq(&&at.behind(1, self.layout.size))
            {
                at = *next;
                last = self.word(at.slot).load(Ordering::Acquire);
            }
            let fields = word & 0xffff_ffff | u64::from(id_of(last)) << 32;
            let used = fields | u64::from(first.used() | self.written()) << 48;
            // A driver that is writing here anew has taken note already, and is not disturbed.
            let _ = self.word(first.slot).compare_exchange(
                word,
                used,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    /// The flag by which a used descriptor says that its length means something.
    const fn written(&self) -> u16 {
        match self.direction {
            Direction::FromGuest => 0,
            Direction::ToGuest => WRITE,
        }
    }

    /// One of the two event suppression structures: the offset in its low half, the flags in its high half.
    #[inline]
    fn event(&self, part: *mut u8) -> &AtomicU32 {
        // SAFETY: `attach` found these four bytes, aligned; they are mapped as long as `memory`, which `self` owns.
        unsafe { AtomicU32::from_ptr(part.cast()) }
    }

    /// Says what we want to hear of, and where the ring goes on.
    #[inline]
    fn say(&self, wish: u16, position: Position) {
        let value = u32::from(position.bits()) | u32::from(wish) << 16;
        self.event(self.device_event)
            .store(value, Ordering::Relaxed);
    }

    #[inline]
    fn words(&self, slot: u16) -> *mut u64 {
        debug_assert!(slot < self.layout.size);
        // SAFETY: positions are always within the ring that `attach` found.
        let at = unsafe { self.descriptors.add(usize::from(slot) * DESCRIPTOR_LEN) };
        at.cast()
    }

    /// The second word of a descriptor: length, name and flags, from the low end.
    #[inline]
    fn word(&self, slot: u16) -> &AtomicU64 {
        // SAFETY: a descriptor has two words.
        let second = unsafe { self.words(slot).add(1) };
        // SAFETY: the ring is aligned, and mapped as long as `memory`, which `self` owns.
        unsafe { AtomicU64::from_ptr(second) }
    }

    /// Reads the rest of a descriptor whose second word is known.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "fields of the word")]
    fn descriptor(&self, slot: u16, word: u64) -> Descriptor {
        // SAFETY: the ring is aligned, and mapped as long as `memory`, which `self` owns.
        let first = unsafe { AtomicU64::from_ptr(self.words(slot)) };
        Descriptor {
            address: first.load(Ordering::Relaxed),
            len: word as u32,
            flags: flags_of(word),
            next: 0,
        }
    }

    /// Looks at the next buffer, if it is available.
    #[inline]
    fn peek(&self) -> Result<Option<Ahead>, RingFault> {
        let at = self.seen;
        if self.open >= self.layout.size.min(LOOK_AHEAD) {
            return Ok(None);
        }
        let word = self.word(at.slot).load(Ordering::Acquire);
        let flags = flags_of(word);
        if flags & (AVAILABLE | USED) != at.available() {
            return Ok(None);
        }
        let token = if flags & NEXT == 0 {
            Token {
                id: id_of(word),
                slots: 1,
            }
        } else {
            self.measure(at)?
        };
        Ok(Some(Ahead {
            descriptor: self.descriptor(at.slot, word),
            at,
            token,
        }))
    }

    /// Finds the end of a chain. All of it was made available by its first descriptor.
    #[cold]
    fn measure(&self, begin: Position) -> Result<Token, RingFault> {
        let room = (self.layout.size - self.open).min(1024);
        let mut at = begin;
        for count in 2..=room {
            at = at.behind(1, self.layout.size);
            let word = self.word(at.slot).load(Ordering::Relaxed);
            if flags_of(word) & NEXT == 0 {
                return Ok(Token {
                    id: id_of(word),
                    slots: count,
                });
            }
        }
        Err(RingFault::Endless)
    }

    fn indirect(&mut self, table: Descriptor, buffers: &mut Vec<Buffer>) -> Result<(), RingFault> {
        if table.flags & NEXT != 0 {
            return Err(RingFault::Indirect);
        }
        let (base, count) = find_table(&self.memory, &mut self.hint, table)?;
        if count > MAX_CHAIN {
            return Err(RingFault::Endless);
        }
        for index in 0..count {
            // SAFETY: `index` is less than `count`, and the whole table was found in guest memory.
            let at = unsafe { base.add(index * DESCRIPTOR_LEN) };
            // SAFETY: the descriptor is mapped as long as `memory`, and the table's alignment was checked.
            let mut descriptor = unsafe { read_descriptor(at) };
            // Their order is that of the table, and the last field holds the flags, of which only one means something.
            descriptor.flags = descriptor.next & WRITE;
            self.push(descriptor, buffers)?;
        }
        Ok(())
    }

    fn push(&mut self, descriptor: Descriptor, buffers: &mut Vec<Buffer>) -> Result<(), RingFault> {
        push_buffer(
            &self.memory,
            &mut self.hint,
            self.direction,
            descriptor,
            buffers,
        )
    }

    /// Whether the driver wants to hear of what was published since the ring was at `old`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is asked for")]
    fn driver_waits(&self, old: Position) -> bool {
        let event = self.event(self.driver_event).load(Ordering::Relaxed);
        match (event >> 16) as u16 & 3 {
            EVENTS_DISABLED => false,
            EVENTS_DESCRIPTOR if self.event_idx => {
                let (size, at) = (self.layout.size, Position::from_bits(event as u16));
                at.slot >= size || old.distance(at, size) < old.distance(self.published, size)
            }
            _ => true,
        }
    }
}

impl Virtqueue for PackedRing {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn position(&self) -> u16 {
        self.published.bits()
    }

    fn set_call(&mut self, call: Option<Arc<OwnedFd>>) {
        self.call = call;
    }

    fn notify(&self) {
        notify(self.call.as_deref());
    }

    fn arm(&mut self) -> Result<bool, RingFault> {
        let wish = if self.event_idx {
            EVENTS_DESCRIPTOR
        } else {
            EVENTS_ENABLED
        };
        self.say(wish, self.published);
        // The wish must be visible before the ring is looked at, or both sides may go to sleep.
        fence(Ordering::SeqCst);
        Ok(self.look(1)? != 0)
    }

    fn disarm(&mut self) {
        self.say(EVENTS_DISABLED, self.published);
    }

    #[inline]
    fn look(&mut self, wanted: u16) -> Result<u16, RingFault> {
        if self.first > 0 {
            self.ahead.drain(..self.first);
            self.first = 0;
        }
        while self.ahead.len() < usize::from(wanted)
            && let Some(ahead) = self.peek()?
        {
            self.seen = ahead.at.behind(ahead.token.slots, self.layout.size);
            self.open += ahead.token.slots;
            self.ahead.push(ahead);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "no more than `wanted`, or the ring's size"
        )]
        let count = self.ahead.len() as u16;
        Ok(count)
    }

    #[inline]
    fn single(&mut self, offset: u16) -> Result<Option<Single>, RingFault> {
        let ahead = self.ahead[self.first + usize::from(offset)];
        let Descriptor {
            address,
            len,
            flags,
            ..
        } = ahead.descriptor;
        if flags & (NEXT | INDIRECT | WRITE) != self.written() || len == 0 {
            return Ok(None);
        }
        let len = len as usize;
        let host = self.memory.find_whole(address, len, &mut self.hint);
        Ok(host.map(|host| Single {
            token: ahead.token,
            buffer: Buffer { host, len },
        }))
    }

    fn chain(&mut self, offset: u16, buffers: &mut Vec<Buffer>) -> Result<Token, RingFault> {
        let ahead = self.ahead[self.first + usize::from(offset)];
        let mut descriptor = ahead.descriptor;
        let mut at = ahead.at;
        for left in (0..ahead.token.slots).rev() {
            if descriptor.flags & INDIRECT == 0 {
                self.push(descriptor, buffers)?;
            } else {
                self.indirect(descriptor, buffers)?;
            }
            if left > 0 {
                at = at.behind(1, self.layout.size);
                let word = self.word(at.slot).load(Ordering::Relaxed);
                descriptor = self.descriptor(at.slot, word);
            }
        }
        Ok(ahead.token)
    }

    #[inline]
    fn take(&mut self, count: u16) {
        self.first += usize::from(count);
    }

    #[inline]
    fn complete(&mut self, token: Token, len: u32) {
        if self.batches {
            // The last of a batch speaks for all.
            self.completed.clear();
        }
        let word = u64::from(len) | u64::from(token.id) << 32;
        self.completed.push((word, token.slots));
        self.completed_slots += token.slots;
    }

    #[inline]
    fn publish(&mut self) {
        let Some(((first, slots), rest)) = self.completed.split_first() else {
            return;
        };
        let (old, size) = (self.published, self.layout.size);
        self.published = old.behind(self.completed_slots, size);
        self.say(EVENTS_DISABLED, self.published);
        // Whoever ends here has left the position behind, and the descriptors as they were, or some of them used.
        fence(Ordering::Release);
        let used = |at: Position| u64::from(at.used() | self.written()) << 48;
        let mut at = old.behind(*slots, size);
        for (word, slots) in rest {
            self.word(at.slot).store(word | used(at), Ordering::Relaxed);
            at = at.behind(*slots, size);
        }
        self.word(old.slot)
            .store(first | used(old), Ordering::Release);
        self.open -= self.completed_slots;
        self.completed_slots = 0;
        self.completed.clear();
        // The descriptors must be visible before the driver's wish is read, or both sides may go to sleep.
        fence(Ordering::SeqCst);
        if self.driver_waits(old) {
            self.notify();
        }
    }
}

#[cfg(test)]
mod tests;
