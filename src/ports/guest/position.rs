//! Where a packed ring goes on, and how to find that out when whoever served it before is gone.
//!
//! # Theory of operation
//!
//! A packed ring has no index in memory. Driver and device each count in their own heads, and a frontend knows of the
//! device's count only what the device said when it was last asked. QEMU, whose backend is gone without a word, says the
//! position at which that began. So the device's position is written where it lives exactly as long as the ring and is the
//! device's to write: into the event offset of its event suppression structure, which a driver reads only while it asks
//! for a certain descriptor; and then, too, it is the position.
//!
//! What stands there may be another's, of another time, or nothing. So may what the frontend says. What is right shows in
//! the ring. The driver turns the *available* bit of each descriptor that it writes, lap by lap, so where that bit changes
//! is the driver's own position. Going back from there, the first descriptor whose *used* bit is as its *available* bit is
//! the last that was used. A position is *possible* behind that one and up to the driver's. It is *likely* if nothing
//! lies in between but the rest of one chain, since only the first descriptor of a chain is written by the device.

/// The flag of a descriptor that a driver wrote, in odd laps.
pub(super) const AVAILABLE: u16 = 1 << 7;
/// The flag of a descriptor that the device wrote, in odd laps.
pub(super) const USED: u16 = 1 << 15;
/// The flag of a descriptor that another follows in its chain.
const NEXT: u16 = super::ring::NEXT;

/// A place in a ring, and whether the lap is an odd one (the *wrap counter*).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Position {
    /// Index of a descriptor.
    pub(super) slot: u16,
    /// The wrap counter, which begins as true.
    pub(super) wrap: bool,
}

impl Position {
    /// Where every ring begins.
    pub(super) const START: Self = Self {
        slot: 0,
        wrap: true,
    };

    /// Reads a position as it is in event suppression structures and in a frontend's messages.
    pub(super) const fn from_bits(bits: u16) -> Self {
        Self {
            slot: bits & 0x7fff,
            wrap: bits & 0x8000 != 0,
        }
    }

    /// Writes it in the same way.
    pub(super) const fn bits(self) -> u16 {
        self.slot | if self.wrap { 0x8000 } else { 0 }
    }

    /// The place `count` descriptors further in a ring of `size`, which is at least that large.
    #[inline]
    pub(super) const fn behind(self, count: u16, size: u16) -> Self {
        let slot = self.slot + count;
        if slot < size {
            Self {
                slot,
                wrap: self.wrap,
            }
        } else {
            Self {
                slot: slot - size,
                wrap: !self.wrap,
            }
        }
    }

    /// How many descriptors further `other` is, of the two laps after which positions come again.
    #[inline]
    pub(super) const fn distance(self, other: Self, size: u16) -> u32 {
        let laps = 2 * size as u32;
        (other.linear(size) + laps - self.linear(size)) % laps
    }

    /// The place in two laps.
    const fn linear(self, size: u16) -> u32 {
        self.slot as u32 + if self.wrap { 0 } else { size as u32 }
    }

    const fn from_linear(place: u32, size: u16) -> Self {
        let place = place % (2 * size as u32);
        let wrap = place < size as u32;
        #[expect(clippy::cast_possible_truncation, reason = "less than the size")]
        let slot = (if wrap { place } else { place - size as u32 }) as u16;
        Self { slot, wrap }
    }

    /// The flags of a descriptor here that the driver made available.
    #[inline]
    pub(super) const fn available(self) -> u16 {
        if self.wrap { AVAILABLE } else { USED }
    }

    /// The flags of a descriptor here that the device used.
    #[inline]
    pub(super) const fn used(self) -> u16 {
        if self.wrap { AVAILABLE | USED } else { 0 }
    }
}

/// What the descriptors of a ring tell about the positions of those who work on it.
#[derive(Debug)]
pub(super) struct Traces<'a> {
    flags: &'a [u16],
    size: u16,
    /// Where the driver goes on.
    driver: Position,
    /// How many of the descriptors before that were not used, or are the rest of a chain that was.
    unused: u32,
}

impl<'a> Traces<'a> {
    /// Reads the flags of all descriptors.
    pub(super) fn read(flags: &'a [u16]) -> Option<Self> {
        let size = u16::try_from(flags.len()).ok().filter(|size| *size > 0)?;
        let wrap = flags[0] & AVAILABLE != 0;
        let turn = (0..size).find(|slot| (flags[usize::from(*slot)] & AVAILABLE != 0) != wrap);
        let driver = match turn {
            Some(slot) => Position { slot, wrap },
            None => Position {
                slot: 0,
                wrap: !wrap,
            },
        };
        let mut traces = Self {
            flags,
            size,
            driver,
            unused: 0,
        };
        let all = u32::from(size);
        traces.unused = (0..all)
            .find(|back| {
                let flags = traces.flags(traces.before_driver(back + 1));
                (flags & AVAILABLE != 0) == (flags & USED != 0)
            })
            .unwrap_or(all);
        Some(traces)
    }

    fn flags(&self, at: Position) -> u16 {
        self.flags[usize::from(at.slot)]
    }

    fn before_driver(&self, back: u32) -> Position {
        let laps = 2 * u32::from(self.size);
        Position::from_linear(self.driver.linear(self.size) + laps - back, self.size)
    }

    /// The positions before this one whose descriptors the driver has not written anew.
    pub(super) fn before(&self, at: Position) -> impl Iterator<Item = Position> {
        let left = at.distance(self.driver, self.size);
        (left + 1..=u32::from(self.size))
            .rev()
            .map(|back| self.before_driver(back))
    }

    /// Whether the device may be here.
    fn is_possible(&self, at: Position) -> bool {
        at.slot < self.size && at.distance(self.driver, self.size) <= self.unused
    }

    /// Whether the device is here, as far as can be told. `batches` are what it used by writing one descriptor only.
    fn is_likely(&self, at: Position, batches: bool) -> bool {
        if !self.is_possible(at) {
            return false;
        }
        let left = at.distance(self.driver, self.size);
        if left == 0 && self.unused == u32::from(self.size) {
            // Where nothing in the ring was used, there is a buffer left.
            return false;
        }
        let mut rest = (left + 1..=self.unused).rev().peekable();
        while let Some(back) = rest.next() {
            let ends = self.flags(self.before_driver(back)) & NEXT == 0;
            match (ends, rest.peek()) {
                (false, None) => return false,
                (true, Some(_)) if !batches => return false,
                (true, _) | (false, Some(_)) => {}
            }
        }
        true
    }

    /// Chooses between the position that is kept in the ring and the one that the frontend says.
    pub(super) fn choose(&self, kept: Position, told: Position, batches: bool) -> Position {
        if self.is_likely(kept, batches) {
            return kept;
        }
        if self.is_likely(told, batches) || !self.is_possible(kept) {
            return told;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(slot: u16, wrap: bool) -> Position {
        Position { slot, wrap }
    }

    fn choose(flags: &[u16], kept: Position, told: Position) -> Position {
        Traces::read(flags).unwrap().choose(kept, told, false)
    }

    /// What a ring holds of which nobody has written the event suppression yet.
    const BLANK: Position = at(0, false);

    #[test]
    fn positions_are_counted_in_two_laps() {
        let last = at(4, true);
        assert_eq!(last.behind(1, 5), at(0, false));
        assert_eq!(last.behind(5, 5), at(4, false));
        assert_eq!(at(4, false).behind(1, 5), Position::START);
        assert_eq!(Position::START.distance(at(2, false), 5), 7);
        assert_eq!(at(2, false).distance(Position::START, 5), 3);
        for position in [Position::START, BLANK, at(0x7fff, true), at(17, false)] {
            assert_eq!(Position::from_bits(position.bits()), position);
        }
    }

    #[test]
    fn a_new_ring_begins_where_the_frontend_says_whether_or_not_it_is_in_use() {
        for available in 0..=4 {
            let mut flags = [0; 4];
            flags[..available].fill(AVAILABLE);
            assert_eq!(choose(&flags, BLANK, Position::START), Position::START);
        }
    }

    #[test]
    fn a_position_that_was_kept_counts_more_than_an_old_one_of_the_frontend() {
        let both = AVAILABLE | USED;
        assert_eq!(
            choose(&[both, both, AVAILABLE, 0], at(2, true), Position::START),
            at(2, true)
        );
        assert_eq!(
            choose(&[both; 4], BLANK, Position::START),
            BLANK,
            "after a whole lap"
        );
        let full = [USED, USED, AVAILABLE, AVAILABLE];
        assert_eq!(choose(&full, at(2, true), Position::START), at(2, true));
    }

    #[test]
    fn a_position_that_the_ring_belies_is_not_used() {
        let both = AVAILABLE | USED;
        let ring = [both, both, AVAILABLE, 0];
        // Another device served the ring since, or is it that the VMM did.
        for kept in [
            Position::START,
            at(1, true),
            at(2, false),
            at(3, false),
            at(4, true),
            BLANK,
        ] {
            assert_eq!(choose(&ring, kept, at(2, true)), at(2, true), "{kept:?}");
        }
    }

    #[test]
    fn the_rest_of_a_chain_that_was_used_is_no_buffer() {
        let chain = [AVAILABLE | USED, AVAILABLE | NEXT, AVAILABLE, AVAILABLE, 0];
        assert_eq!(choose(&chain, at(3, true), Position::START), at(3, true));
        assert_eq!(choose(&chain, Position::START, at(3, true)), at(3, true));
    }
}
