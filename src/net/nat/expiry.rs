//! When what is idle is forgotten, without looking at everything.
//!
//! # Theory of operation
//!
//! Everything is noted once, with the time at which it is due if nothing comes. What comes does not touch the note:
//! whoever owns the thing knows when it last was used, and when the note is due either forgets it, or notes it anew.
//! Notes of things that are gone are told apart by a serial number and passed over.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A thing that will be looked at: its number, and the serial number of whatever has that number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Note {
    /// Its number.
    pub id: u32,
    /// Which of those that have had the number.
    pub serial: u32,
}

/// What is due when.
#[derive(Debug, Default)]
pub struct Expiry {
    notes: BinaryHeap<Reverse<(Instant, Note)>>,
}

impl Expiry {
    /// Notes a thing for a time.
    pub fn push(&mut self, at: Instant, note: Note) {
        self.notes.push(Reverse((at, note)));
    }

    /// The next time at which something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.notes.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a thing that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Note> {
        if self.poll_timeout()? > now {
            return None;
        }
        self.notes.pop().map(|Reverse((_, note))| note)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn things_are_due_in_the_order_of_their_times() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let note = |id| Note { id, serial: 0 };
        let mut expiry = Expiry::default();
        for (seconds, id) in [(3, 1), (1, 2), (2, 3)] {
            expiry.push(at(seconds), note(id));
        }
        assert_eq!(expiry.poll_timeout(), Some(at(1)));
        assert_eq!(expiry.pop(start), None);
        assert_eq!(expiry.pop(at(2)), Some(note(2)));
        assert_eq!(expiry.pop(at(2)), Some(note(3)));
        assert_eq!(expiry.pop(at(2)), None);
        assert_eq!(expiry.poll_timeout(), Some(at(3)));
    }
}
