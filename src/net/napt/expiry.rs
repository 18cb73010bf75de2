//! When flows are looked at again: a wheel of seconds.
//!
//! # Theory of operation
//!
//! A frame only writes down the second in which it came. A flow stands in the wheel at the second in which it would be over
//! if nothing came any more; when the wheel gets there and something has come since, it is put where it would be over now.
//! So a frame costs nothing here, and a flow is touched once in its timeout. Only where a timeout gets shorter is the flow moved
//! at once. What lies further ahead than the wheel reaches is looked at when the wheel comes round, and put further ahead.
//!
//! Seconds are counted whole: a flow that was idle for its timeout lives up to two seconds longer, and never shorter.

/// How many seconds the wheel reaches, a power of two: more than two hours and four minutes.
const REACH: u32 = 8192;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    /// The second it stands at; [`NONE`] where it stands nowhere.
    at: u32,
}

const UNLINKED: Link = Link {
    previous: NONE,
    next: NONE,
    at: NONE,
};

/// The wheel, of numbers that are flows.
#[derive(Debug)]
pub(super) struct Wheel {
    heads: Vec<u32>,
    links: Vec<Link>,
    /// Which seconds have somebody, a bit each.
    occupied: Vec<u64>,
    /// The second that is being looked at.
    cursor: u32,
    /// No one stands before this second.
    next: u32,
}

impl Wheel {
    /// Makes an empty wheel.
    pub(super) fn new() -> Self {
        Self {
            heads: vec![NONE; REACH as usize],
            links: Vec::new(),
            occupied: vec![0; REACH as usize / 64],
            cursor: 0,
            next: NONE,
        }
    }

    /// Has a number come up in second `at`, or when the wheel has come round if that is sooner.
    pub(super) fn arm(&mut self, number: u32, at: u32) {
        self.disarm(number);
        let at = at.clamp(self.cursor, self.cursor.saturating_add(REACH - 1));
        let index = number as usize;
        if self.links.len() <= index {
            self.links.resize(index + 1, UNLINKED);
        }
        let place = (at % REACH) as usize;
        let next = std::mem::replace(&mut self.heads[place], number);
        self.links[index] = Link {
            previous: NONE,
            next,
            at,
        };
        if let Some(next) = self.links.get_mut(next as usize) {
            next.previous = number;
        }
        self.occupied[place / 64] |= 1 << (place % 64);
        self.next = self.next.min(at);
    }

    /// Has a number come up in second `at` if it would come up later.
    pub(super) fn arm_sooner(&mut self, number: u32, at: u32) {
        if self
            .links
            .get(number as usize)
            .is_none_or(|link| link.at > at)
        {
            self.arm(number, at);
        }
    }

    /// Takes a number out.
    pub(super) fn disarm(&mut self, number: u32) {
        let Some(link) = self.links.get_mut(number as usize) else {
            return;
        };
        let Link { previous, next, at } = std::mem::replace(link, UNLINKED);
        if at == NONE {
            return;
        }
        if let Some(next) = self.links.get_mut(next as usize) {
            next.previous = previous;
        }
        if let Some(previous) = self.links.get_mut(previous as usize) {
            previous.next = next;
        } else {
            let place = (at % REACH) as usize;
            self.heads[place] = next;
            if next == NONE {
                self.occupied[place / 64] &= !(1 << (place % 64));
            }
        }
    }

    /// Takes out a number that comes up by second `now`, the earliest first.
    pub(super) fn pop(&mut self, now: u32) -> Option<u32> {
        while self.next <= now {
            // Whoever stood there may have been taken out.
            self.cursor = self.cursor.max(self.next);
            let head = self.heads[(self.cursor % REACH) as usize];
            if head != NONE {
                self.disarm(head);
                return Some(head);
            }
            self.next = self.first();
        }
        self.cursor = self.cursor.max(now);
        None
    }

    /// Returns a second before which no number comes up.
    pub(super) const fn next(&self) -> Option<u32> {
        match self.next {
            NONE => None,
            next => Some(next),
        }
    }

    /// Returns the first second from the cursor on at which somebody stands.
    fn first(&self) -> u32 {
        let start = self.cursor % REACH;
        let words = self.occupied.len();
        for step in 0..=words {
            let index = (start as usize / 64 + step) % words;
            let mut word = self.occupied[index];
            if step == 0 {
                word &= u64::MAX << (start % 64);
            }
            if word != 0 {
                let place = u32::try_from(index * 64).unwrap_or(0) + word.trailing_zeros();
                return self.cursor + (place.wrapping_sub(start) % REACH);
            }
        }
        NONE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_come_up_in_their_second_and_not_before() {
        let mut wheel = Wheel::new();
        wheel.arm(3, 30);
        wheel.arm(1, 10);
        wheel.arm(2, 10);
        assert_eq!(wheel.next(), Some(10));
        assert_eq!(wheel.pop(9), None);
        assert_eq!(
            (wheel.pop(10), wheel.pop(10), wheel.pop(10)),
            (Some(2), Some(1), None)
        );
        assert_eq!(wheel.next(), Some(30));
        wheel.arm_sooner(3, 40);
        wheel.arm_sooner(3, 20);
        assert_eq!((wheel.pop(20), wheel.pop(40)), (Some(3), None));
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn what_is_too_far_ahead_comes_up_when_the_wheel_has_come_round() {
        let mut wheel = Wheel::new();
        wheel.pop(100);
        wheel.arm(1, 1_000_000);
        assert_eq!(wheel.next(), Some(100 + REACH - 1));
        assert_eq!(wheel.pop(1_000_000), Some(1));
    }

    proptest! {
        #[test]
        fn the_wheel_does_what_a_sorted_list_does(
            steps in proptest::collection::vec((0..3u8, 0..40u32, 0..9000u32), 0..400),
        ) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::new(), 0);
            for (step, number, span) in steps {
                match step {
                    0 => {
                        wheel.arm(number, now + span);
                        model.insert(number, (now + span).min(now + REACH - 1));
                    }
                    1 => {
                        wheel.disarm(number);
                        model.remove(&number);
                    }
                    _ => {
                        now += span / 8;
                        let mut before = 0;
                        while let Some(number) = wheel.pop(now) {
                            let at = model.remove(&number);
                            prop_assert!(at.is_some_and(|at| at <= now && at >= before));
                            before = at.unwrap_or(0);
                        }
                        prop_assert!(model.values().all(|at| *at > now));
                    }
                }
                let first = model.values().min().copied();
                prop_assert!(wheel.next().unwrap_or(NONE) <= first.unwrap_or(NONE));
            }
        }
    }
}
