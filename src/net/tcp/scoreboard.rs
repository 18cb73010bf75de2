//! What has arrived at the other side out of order (RFC 2018): at most so many ranges, the rest is not remembered.

use crate::net::tcp::seq::Seq;

/// How many ranges are remembered.
const RANGES: usize = 16;

/// Ranges in their order, none touching another. Takes no memory while there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct Scoreboard {
    ranges: Vec<(Seq, Seq)>,
}

impl Scoreboard {
    pub(super) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Takes in a range that has arrived.
    pub(super) fn insert(&mut self, mut start: Seq, mut end: Seq) {
        if !start.before(end) {
            return;
        }
        self.ranges.retain(|(from, to)| {
            let apart = end.before(*from) || to.before(start);
            if !apart {
                start = start.min(*from);
                end = end.max(*to);
            }
            apart
        });
        if self.ranges.len() < RANGES {
            let at = self.ranges.partition_point(|(from, _)| from.before(start));
            self.ranges.insert(at, (start, end));
        }
    }

    /// Forgets what comes before `una`, for all of that has arrived.
    pub(super) fn advance(&mut self, una: Seq) {
        if self.ranges.is_empty() {
            return;
        }
        self.ranges.retain(|(_, end)| end.after(una));
        if self.ranges.is_empty() {
            self.ranges = Vec::new();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.ranges = Vec::new();
    }

    /// The first number from `seq` on that has not arrived, and where what has arrived begins behind it.
    pub(super) fn hole(&self, seq: Seq) -> (Seq, Option<Seq>) {
        let mut seq = seq;
        for (start, end) in &self.ranges {
            if seq.before(*start) {
                return (seq, Some(*start));
            }
            seq = seq.max(*end);
        }
        (seq, None)
    }

    /// Where the last range ends.
    pub(super) fn end(&self) -> Option<Seq> {
        self.ranges.last().map(|(_, end)| *end)
    }

    /// How much has arrived.
    pub(super) fn bytes(&self) -> u32 {
        let lengths = self.ranges.iter().map(|(start, end)| end.since(*start));
        lengths.fold(0, u32::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_holes_are_found_across_the_wrap() {
        let at = |offset: u32| Seq(u32::MAX - 50).plus(offset);
        let mut board = Scoreboard::default();
        board.insert(at(40), at(60));
        board.insert(at(100), at(120));
        board.insert(at(10), at(20));
        board.insert(at(7), at(7));
        assert_eq!(board.hole(at(0)), (at(0), Some(at(10))));
        assert_eq!(board.hole(at(15)), (at(20), Some(at(40))));
        assert_eq!(board.hole(at(110)), (at(120), None));
        board.insert(at(20), at(45));
        assert_eq!(board.hole(at(10)), (at(60), Some(at(100))));
        assert_eq!((board.bytes(), board.end()), (70, Some(at(120))));
        board.advance(at(60));
        assert_eq!((board.bytes(), board.hole(at(60)).1), (20, Some(at(100))));
        board.advance(at(120));
        assert!(board.is_empty());
    }

    #[test]
    fn more_ranges_than_anybody_needs_are_not_remembered() {
        let mut board = Scoreboard::default();
        for index in 0..100 {
            board.insert(Seq(index * 10), Seq(index * 10 + 5));
        }
        assert_eq!(board.ranges.len(), RANGES);
    }
}
