//! Packed rings against a driver that does all that a driver may, and against one that writes anything at all.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const RING: u64 = 0x1_0000;
const DRIVER: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const TABLES: u64 = 0x10_0000;
const BUFFERS: u64 = 0x20_0000;
const MEMORY: usize = 0x40_0000;

type Guest = GuestMemoryMmap<()>;

fn guest() -> (Arc<Guest>, Arc<Memory>) {
    let guest = Arc::new(Guest::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap());
    let memory = Arc::new(Memory::new(Arc::clone(&guest)).unwrap());
    (guest, memory)
}

fn layout(size: u16) -> Layout {
    Layout {
        size,
        descriptors: RING,
        available: DRIVER,
        used: DEVICE,
    }
}

/// How a driver lays out a buffer.
#[derive(Clone, Debug)]
enum Shape {
    Chain(u16),
    Table(u16),
}

/// A buffer under way.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Offer {
    id: u16,
    slots: u16,
    /// Guest addresses and lengths.
    pieces: Vec<(u64, u32)>,
}

/// A driver that keeps to the specification.
struct Driver {
    guest: Arc<Guest>,
    size: u16,
    direction: Direction,
    in_order: bool,
    next: Position,
    used: Position,
    free: VecDeque<u16>,
    offered: VecDeque<Offer>,
    /// How many descriptors are free.
    room: u16,
    count: u64,
}

impl Driver {
    fn new(guest: Arc<Guest>, size: u16, direction: Direction, in_order: bool) -> Self {
        Self {
            guest,
            size,
            direction,
            in_order,
            next: Position::START,
            used: Position::START,
            free: (0..size).collect(),
            offered: VecDeque::new(),
            room: size,
            count: 0,
        }
    }

    fn put<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.guest.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn piece(&mut self) -> (u64, u32) {
        self.count += 1;
        (
            BUFFERS + self.count % 4096 * 64,
            1 + (self.count % 60) as u32,
        )
    }

    fn way(&self) -> u16 {
        match self.direction {
            Direction::FromGuest => 0,
            Direction::ToGuest => WRITE,
        }
    }

    /// Makes a buffer available, if there is room for it.
    fn offer(&mut self, shape: &Shape) -> Option<Offer> {
        let (slots, count) = match shape {
            Shape::Chain(count) => (*count, *count),
            Shape::Table(count) => (1, *count),
        };
        if slots > self.room {
            return None;
        }
        let id = self.free.pop_front()?;
        self.room -= slots;
        let pieces: Vec<_> = (0..count).map(|_| self.piece()).collect();
        let way = self.way();
        let table = TABLES + u64::from(id) * 256;
        let entries: Vec<(u64, u32, u16)> = match shape {
            Shape::Chain(_) => pieces.iter().map(|(at, len)| (*at, *len, way)).collect(),
            Shape::Table(_) => {
                for (index, (at, len)) in (0..).zip(&pieces) {
                    let entry = table + index * 16;
                    self.put(*at, entry);
                    // Flags that mean nothing here are set, to be ignored.
                    let rest = u64::from(*len) | u64::from(way | NEXT | AVAILABLE) << 48;
                    self.put(rest, entry + 8);
                }
                vec![(table, u32::from(count) * 16, INDIRECT)]
            }
        };
        let begin = self.next;
        let mut first = 0;
        for (index, (address, len, flags)) in entries.iter().enumerate() {
            let at = self.next;
            let more = if index + 1 < entries.len() { NEXT } else { 0 };
            // Only the last descriptor's name counts.
            let name = if more == 0 { id } else { 0xdead };
            let word = u64::from(*len)
                | u64::from(name) << 32
                | u64::from(flags | more | at.available()) << 48;
            self.put(*address, RING + u64::from(at.slot) * 16);
            if index == 0 {
                first = word;
            } else {
                self.put(word, RING + u64::from(at.slot) * 16 + 8);
            }
            self.next = at.behind(1, self.size);
        }
        self.put(first, RING + u64::from(begin.slot) * 16 + 8);
        let offer = Offer { id, slots, pieces };
        self.offered.push_back(offer.clone());
        Some(offer)
    }

    /// Takes back what was used: the buffers, and the length that was said of the last of each batch.
    fn poll(&mut self) -> Vec<(Offer, u32)> {
        let mut used = Vec::new();
        loop {
            let at = RING + u64::from(self.used.slot) * 16 + 8;
            let word: u64 = self.guest.read_obj(GuestAddress(at)).unwrap();
            if flags_of(word) & (AVAILABLE | USED) != self.used.used() || self.offered.is_empty() {
                return used;
            }
            if self.direction == Direction::ToGuest {
                assert_ne!(flags_of(word) & WRITE, 0, "the length means something");
            }
            loop {
                let offer = self
                    .offered
                    .pop_front()
                    .expect("only what was offered is used");
                self.used = self.used.behind(offer.slots, self.size);
                // The name last given back is the next one given.
                self.room += offer.slots;
                self.free.push_front(offer.id);
                let last = offer.id == id_of(word);
                assert!(last || self.in_order, "buffers are used in their order");
                used.push((offer, u32::try_from(word & 0xffff_ffff).unwrap()));
                if last {
                    break;
                }
            }
        }
    }
}

fn attach(memory: &Arc<Memory>, driver: &Driver, told: Position) -> PackedRing {
    let wishes = Wishes {
        event_idx: true,
        in_order: driver.in_order,
    };
    let memory = Arc::clone(memory);
    PackedRing::attach(
        memory,
        layout(driver.size),
        driver.direction,
        wishes,
        told.bits(),
    )
    .unwrap()
}

/// The pieces of a buffer as the ring found them, for comparison with the driver's.
fn pieces(memory: &Memory, buffers: &[Buffer]) -> Vec<(u64, u32)> {
    let base = memory.find_whole(0, 1, &mut Hint::default()).unwrap();
    buffers
        .iter()
        .map(|buffer| {
            let at = buffer.host.addr() - base.addr();
            (at as u64, u32::try_from(buffer.len).unwrap())
        })
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Offer(Shape),
    /// Takes and completes as many, and publishes them.
    Carry(u16),
    Poll,
    /// The device goes in order, and another comes.
    Restart,
    /// The device ends while it publishes as many, having written so many of those behind the first.
    Crash(u16, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shape = prop_oneof![
        3 => Just(Shape::Chain(1)),
        1 => (1u16..6).prop_map(Shape::Chain),
        1 => (1u16..6).prop_map(Shape::Table),
    ];
    let step = prop_oneof![
        6 => shape.prop_map(Step::Offer),
        3 => (1u16..5).prop_map(Step::Carry),
        3 => Just(Step::Poll),
        1 => Just(Step::Restart),
        1 => (1u16..5, 0u16..5).prop_map(|(count, written)| Step::Crash(count, written)),
    ];
    prop::collection::vec(step, 1..120)
}

/// Takes up to `count` buffers, and finds in them what the driver put there.
fn take(ring: &mut PackedRing, waiting: &VecDeque<Offer>, count: u16) -> Vec<Token> {
    let there = ring.look(count).unwrap().min(count);
    assert_eq!(usize::from(there), waiting.len().min(count.into()));
    let mut tokens = Vec::new();
    for offset in 0..there {
        let offer = &waiting[usize::from(offset)];
        let single = ring.single(offset).unwrap();
        let mut buffers = Vec::new();
        let token = ring.chain(offset, &mut buffers).unwrap();
        assert_eq!(pieces(&ring.memory, &buffers), offer.pieces);
        assert_eq!(token.slots, offer.slots);
        assert_eq!(token.id, offer.id);
        if let Some(single) = single {
            assert_eq!(single.token, token);
            assert_eq!(pieces(&ring.memory, &[single.buffer]), offer.pieces);
        }
        tokens.push(token);
    }
    ring.take(there);
    tokens
}

proptest! {
    #[test]
    fn what_a_driver_offers_is_found_and_given_back_whoever_serves_the_ring(
        size in 1u16..14,
        to_guest: bool,
        in_order: bool,
        steps in steps(),
    ) {
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        let (guest, memory) = guest();
        let mut driver = Driver::new(guest, size, direction, in_order);
        let mut ring = attach(&memory, &driver, Position::START);
        // Offered and not taken; completed, with the lengths, and not polled.
        let mut waiting: VecDeque<Offer> = VecDeque::new();
        let mut done: VecDeque<(Offer, Option<u32>)> = VecDeque::new();
        for step in steps {
            match step {
                Step::Offer(shape) => waiting.extend(driver.offer(&shape)),
                Step::Carry(count) => {
                    for token in take(&mut ring, &waiting, count) {
                        let offer = waiting.pop_front().unwrap();
                        let len = u32::from(token.id) + 5;
                        ring.complete(token, len);
                        done.push_back((offer, Some(len)));
                    }
                    ring.publish();
                }
                Step::Poll => {
                    for (offer, len) in driver.poll() {
                        let (expected, said) = done.pop_front().unwrap();
                        prop_assert_eq!(&offer, &expected);
                        if let Some(said) = said && to_guest {
                            prop_assert_eq!(len, said);
                        }
                    }
                    prop_assert!(done.is_empty());
                }
                Step::Restart => {
                    let position = ring.published;
                    ring = attach(&memory, &driver, Position::START);
                    prop_assert_eq!(ring.published, position);
                }
                Step::Crash(count, written) => {
                    let begin = ring.published;
                    let (back, ahead) = (Position::START.distance(begin, size), begin.distance(driver.next, size));
                    if back <= u32::from(size) || begin.distance(Position::START, size) <= ahead {
                        // What the frontend says may happen to be as good.
                        continue;
                    }
                    let tokens = take(&mut ring, &waiting, count);
                    let slots = tokens.iter().map(|token| token.slots).sum();
                    let end = begin.behind(slots, size);
                    if tokens.is_empty() {
                        continue;
                    }
                    ring.say(EVENTS_DISABLED, end);
                    let mut at = begin.behind(tokens[0].slots, size);
                    for token in tokens[1..].iter().take(usize::from(written)) {
                        if !ring.batches {
                            let flags = u64::from(at.used() | ring.written()) << 48;
                            let word = flags | u64::from(token.id) << 32;
                            ring.word(at.slot).store(word, Ordering::Relaxed);
                        }
                        at = at.behind(token.slots, size);
                    }
                    ring = attach(&memory, &driver, Position::START);
                    prop_assert_eq!(ring.published, end);
                    for _ in tokens {
                        done.push_back((waiting.pop_front().unwrap(), None));
                    }
                }
            }
        }
    }

    #[test]
    fn a_ring_of_anything_at_all_is_work_for_a_while_and_harms_nobody(
        size in 1u16..40,
        to_guest: bool,
        in_order: bool,
        told: u16,
        words in prop::collection::vec(
            (any::<u64>(), prop_oneof![any::<u64>(), (0u64..200, 0u64..8).prop_map(|(len, flags)| len | flags << 48)], any::<[bool; 4]>()),
            40,
        ),
        events: [u32; 2],
    ) {
        let direction = if to_guest { Direction::ToGuest } else { Direction::FromGuest };
        let (guest, memory) = guest();
        let driver = Driver::new(Arc::clone(&guest), size, direction, in_order);
        for (slot, (address, rest, [near, available, used, plain])) in (0..u64::from(size)).zip(words) {
            let mut rest = rest & !(u64::from(AVAILABLE | USED) << 48);
            if available {
                rest |= u64::from(AVAILABLE) << 48;
            }
            if used {
                rest |= u64::from(USED) << 48;
            }
            if plain {
                rest &= !(7 << 48);
            }
            driver.put(if near { address % MEMORY as u64 } else { address }, RING + slot * 16);
            driver.put(rest, RING + slot * 16 + 8);
        }
        driver.put(events[0], DRIVER);
        driver.put(events[1], DEVICE);
        let mut ring = attach(&memory, &driver, Position::from_bits(told));
        for _ in 0..8 {
            let Ok(there) = ring.look(4) else { break };
            let mut buffers = Vec::new();
            let mut taken = 0;
            for offset in 0..there.min(4) {
                let Ok(_) = ring.single(offset) else { break };
                let Ok(token) = ring.chain(offset, &mut buffers) else { break };
                ring.complete(token, u32::MAX);
                taken += 1;
            }
            for buffer in &buffers {
                let base = memory.find_whole(0, 1, &mut Hint::default()).unwrap();
                let at = buffer.host.addr() - base.addr();
                prop_assert!(at + buffer.len <= MEMORY);
            }
            ring.take(taken);
            ring.publish();
            prop_assert!(ring.published.slot < size && ring.open <= size);
            let _ = ring.arm();
            ring.disarm();
        }
    }
}

#[test]
fn the_largest_ring_goes_round() {
    let (guest, memory) = guest();
    let mut driver = Driver::new(guest, 32_768, Direction::ToGuest, false);
    let mut ring = attach(&memory, &driver, Position::START);
    for round in 0..4 {
        let mut count = 0u32;
        while count < 20_000 {
            driver.offer(&Shape::Chain(1)).unwrap();
            count += 1;
        }
        while count > 0 {
            let there = ring.look(250).unwrap();
            for offset in 0..there {
                let single = ring.single(offset).unwrap().unwrap();
                ring.complete(single.token, 1);
            }
            ring.take(there);
            ring.publish();
            count -= u32::from(there);
        }
        assert_eq!(driver.poll().len(), 20_000, "round {round}");
        let again = attach(&memory, &driver, Position::START);
        assert_eq!(again.published, ring.published);
    }
}

#[test]
fn a_ring_of_no_size_or_out_of_place_is_refused() {
    let (_, memory) = guest();
    let attach = |layout| {
        let wishes = Wishes::default();
        PackedRing::attach(Arc::clone(&memory), layout, Direction::FromGuest, wishes, 0).err()
    };
    assert_eq!(attach(layout(0)), Some(RingFault::PackedSize(0)));
    assert_eq!(attach(layout(32_769)), Some(RingFault::PackedSize(32_769)));
    let mut moved = layout(8);
    moved.descriptors += 8;
    assert_eq!(attach(moved), Some(RingFault::Part("ring")));
    moved = layout(8);
    moved.descriptors = MEMORY as u64 - 112;
    assert_eq!(attach(moved), Some(RingFault::Part("ring")));
    for wrong in [DRIVER + 2, MEMORY as u64, u64::MAX - 3] {
        moved = layout(8);
        moved.available = wrong;
        assert_eq!(
            attach(moved),
            Some(RingFault::Part("driver's event suppression"))
        );
        moved = layout(8);
        moved.used = wrong;
        assert_eq!(
            attach(moved),
            Some(RingFault::Part("device's event suppression"))
        );
    }
    assert_eq!(attach(layout(7)), None, "any size will do");
}

/// What a ring says of one descriptor, or of some.
fn fault(entries: &[(u64, u32, u16)]) -> RingFault {
    let (guest, memory) = guest();
    let driver = Driver::new(guest, 8, Direction::FromGuest, false);
    for (slot, (address, len, flags)) in (0..).zip(entries) {
        driver.put(*address, RING + slot * 16);
        let rest = u64::from(*len) | u64::from(flags | AVAILABLE) << 48;
        driver.put(rest, RING + slot * 16 + 8);
    }
    let mut ring = attach(&memory, &driver, Position::START);
    ring.look(1)
        .and_then(|_| ring.single(0))
        .and_then(|_| ring.chain(0, &mut Vec::new()))
        .unwrap_err()
}

#[test]
fn descriptors_that_make_no_sense_are_faults() {
    let end = MEMORY as u64;
    assert_eq!(fault(&[(BUFFERS, 0, 0)]), RingFault::Empty);
    assert_eq!(fault(&[(end, 100, 0)]), RingFault::Address);
    assert_eq!(fault(&[(end - 50, 100, 0)]), RingFault::Address);
    assert_eq!(fault(&[(u64::MAX - 10, 100, 0)]), RingFault::Address);
    assert_eq!(fault(&[(BUFFERS, 100, WRITE)]), RingFault::Direction);
    assert_eq!(
        fault(&[(BUFFERS, 100, NEXT), (BUFFERS, 0, 0)]),
        RingFault::Empty
    );
    assert_eq!(fault(&[(BUFFERS, 100, NEXT); 8]), RingFault::Endless);
    for len in [0, 8, 17] {
        assert_eq!(fault(&[(TABLES, len, INDIRECT)]), RingFault::Indirect);
    }
    assert_eq!(fault(&[(TABLES + 4, 16, INDIRECT)]), RingFault::Indirect);
    assert_eq!(fault(&[(end - 16, 32, INDIRECT)]), RingFault::Indirect);
    assert_eq!(fault(&[(TABLES, 16 * 1025, INDIRECT)]), RingFault::Endless);
    assert_eq!(fault(&[(TABLES, 16, INDIRECT)]), RingFault::Empty);
    assert_eq!(
        fault(&[(TABLES, 16, INDIRECT | NEXT), (BUFFERS, 1, 0)]),
        RingFault::Indirect
    );
}

#[test]
fn the_driver_hears_of_what_it_asked_for_only() {
    let (guest, memory) = guest();
    let mut driver = Driver::new(guest, 5, Direction::ToGuest, false);
    let mut ring = attach(&memory, &driver, Position::START);
    let (mut bell, call) = std::io::pipe().unwrap();
    ring.set_call(Some(Arc::new(call.as_fd().try_clone_to_owned().unwrap())));
    drop(call);
    let rings = |ring: &mut PackedRing, driver: &mut Driver, event: u32| {
        driver.put(event, DRIVER);
        driver.offer(&Shape::Chain(2)).unwrap();
        let old = ring.published;
        assert_eq!(ring.look(1).unwrap(), 1);
        let token = ring.chain(0, &mut Vec::new()).unwrap();
        ring.take(1);
        ring.complete(token, 1);
        ring.publish();
        assert_eq!(driver.poll().len(), 1);
        ring.driver_waits(old)
    };
    let at = |slot: u16, wrap: bool| u32::from(Position { slot, wrap }.bits()) | 2 << 16;
    assert!(rings(&mut ring, &mut driver, 0), "it wants to hear of all");
    assert!(
        !rings(&mut ring, &mut driver, 1 << 16),
        "it wants to hear of nothing"
    );
    // From descriptor 4 of the first lap behind descriptor 0 of the next.
    assert!(rings(&mut ring, &mut driver, at(0, false)));
    // From 1 to 2.
    assert!(!rings(&mut ring, &mut driver, at(0, false)), "it has heard");
    // From 3 to 4.
    assert!(!rings(&mut ring, &mut driver, at(3, true)), "another lap");
    // From 0 on, in the third lap.
    assert!(rings(&mut ring, &mut driver, at(0, true)));
    assert!(rings(&mut ring, &mut driver, at(9, true)), "no descriptor");
    drop(ring);
    let mut calls = Vec::new();
    bell.read_to_end(&mut calls).unwrap();
    assert_eq!(calls.len(), 8 * 4);
}

#[test]
fn a_ring_that_is_armed_says_of_which_descriptor_it_wants_to_hear() {
    let (guest, memory) = guest();
    let mut driver = Driver::new(Arc::clone(&guest), 4, Direction::FromGuest, false);
    let mut ring = attach(&memory, &driver, Position::START);
    let said = || guest.read_obj::<u32>(GuestAddress(DEVICE)).unwrap();
    let start = u32::from(Position::START.bits());
    assert_eq!(said(), start | 1 << 16, "nothing at first");
    assert!(!ring.arm().unwrap());
    assert_eq!(said(), start | 2 << 16);
    driver.offer(&Shape::Chain(1)).unwrap();
    assert!(ring.arm().unwrap(), "there is one already");
    ring.disarm();
    assert_eq!(said() >> 16, 1);
    let token = ring.chain(0, &mut Vec::new()).unwrap();
    ring.take(1);
    ring.complete(token, 0);
    ring.publish();
    assert!(!ring.arm().unwrap());
    assert_eq!(said(), (start + 1) | 2 << 16);
}
