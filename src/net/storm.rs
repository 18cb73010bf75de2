//! Storm control: how many frames for everyone a port may send in a second.
//!
//! # Theory of operation
//!
//! Each kind of flooded frame that has a limit has a bucket of tokens, and a frame takes one. A bucket holds what its
//! rate yields in 100 ms, but at least [`Storm::LEAST_BURST`], so that a guest that comes up with ARP, DHCP and
//! neighbour discovery at once is not cut off by a low limit. It starts full and fills evenly. So in any time of `t`
//! seconds at most `rate × t` frames and one bucket pass, and a port that always sends gets its rate exactly.
//!
//! Tokens are counted in parts of which a second's nanoseconds make one: after `n` nanoseconds a bucket has
//! `n × rate` parts more, without rounding. A time before the last one counts as the last one.

use std::num::NonZeroU32;
use std::time::Instant;

use crate::net::drops::DropReason;

/// How many frames a second of each kind a port may send; `None` is without limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// To everyone.
    pub broadcast: Option<NonZeroU32>,
    /// To a group.
    pub multicast: Option<NonZeroU32>,
    /// To a station of which it is not known where it is.
    pub unknown_unicast: Option<NonZeroU32>,
}

/// A kind of frame that goes to many ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// To everyone.
    Broadcast,
    /// To a group.
    Multicast,
    /// To a station of which it is not known where it is.
    UnknownUnicast,
}

/// The storm control of one port.
#[derive(Clone, Debug)]
pub struct Storm {
    broadcast: Option<Bucket>,
    multicast: Option<Bucket>,
    unknown_unicast: Option<Bucket>,
}

impl Storm {
    /// How many frames pass at once after a pause, at the least.
    pub const LEAST_BURST: u32 = 16;

    /// Starts with full buckets.
    pub fn new(limits: Limits, now: Instant) -> Self {
        let bucket = |rate: Option<NonZeroU32>| rate.map(|rate| Bucket::new(rate, now));
        Self {
            broadcast: bucket(limits.broadcast),
            multicast: bucket(limits.multicast),
            unknown_unicast: bucket(limits.unknown_unicast),
        }
    }

    /// Lets a frame pass, or does not.
    ///
    /// # Errors
    ///
    /// The port has sent as many frames of this kind as it may.
    #[inline]
    pub fn admit(&mut self, kind: Kind, now: Instant) -> Result<(), DropReason> {
        let bucket = match kind {
            Kind::Broadcast => &mut self.broadcast,
            Kind::Multicast => &mut self.multicast,
            Kind::UnknownUnicast => &mut self.unknown_unicast,
        };
        if bucket.as_mut().is_none_or(|bucket| bucket.take(now)) {
            Ok(())
        } else {
            Err(DropReason::StormControl)
        }
    }
}

/// How many parts a token has.
const TOKEN: u64 = 1_000_000_000;

#[derive(Clone, Debug)]
struct Bucket {
    rate: u64,
    capacity: u64,
    parts: u64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: NonZeroU32, now: Instant) -> Self {
        let frames = (rate.get() / 10).max(Storm::LEAST_BURST);
        let capacity = u64::from(frames) * TOKEN;
        Self {
            rate: rate.get().into(),
            capacity,
            parts: capacity,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        if let Some(passed) = now.checked_duration_since(self.filled) {
            let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
            let more = nanos.saturating_mul(self.rate);
            self.parts = self.parts.saturating_add(more).min(self.capacity);
            self.filled = now;
        }
        match self.parts.checked_sub(TOKEN) {
            Some(left) => {
                self.parts = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const KINDS: [Kind; 3] = [Kind::Broadcast, Kind::Multicast, Kind::UnknownUnicast];

    fn broadcast(rate: u32, now: Instant) -> Storm {
        let limits = Limits {
            broadcast: NonZeroU32::new(rate),
            ..Limits::default()
        };
        Storm::new(limits, now)
    }

    fn admitted(storm: &mut Storm, frames: u32, now: Instant) -> u64 {
        (0..frames)
            .map(|_| u64::from(storm.admit(Kind::Broadcast, now).is_ok()))
            .sum()
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let now = Instant::now();
        let mut storm = Storm::new(Limits::default(), now);
        for kind in KINDS {
            for _ in 0..10_000 {
                assert_eq!(storm.admit(kind, now), Ok(()));
            }
        }
    }

    #[test]
    fn each_kind_has_a_bucket_of_its_own() {
        let now = Instant::now();
        let rate = NonZeroU32::new(100);
        for limited in KINDS {
            let limit = |kind| rate.filter(|_| kind == limited);
            let limits = Limits {
                broadcast: limit(Kind::Broadcast),
                multicast: limit(Kind::Multicast),
                unknown_unicast: limit(Kind::UnknownUnicast),
            };
            let mut storm = Storm::new(limits, now);
            for kind in KINDS {
                let passed = (0..50).filter(|_| storm.admit(kind, now).is_ok()).count();
                assert_eq!(passed, if kind == limited { 16 } else { 50 }, "{kind:?}");
            }
            assert_eq!(storm.admit(limited, now), Err(DropReason::StormControl));
        }
    }

    #[test]
    fn a_storm_of_seconds_gets_its_rate_and_one_bucket() {
        let start = Instant::now();
        for (rate, burst) in [(1, 16), (7, 16), (999, 99), (1_000, 100), (33_333, 3_333)] {
            let mut storm = broadcast(rate, start);
            assert_eq!(
                admitted(&mut storm, 5_000, start),
                burst,
                "{rate}: at once, a bucket"
            );
            // Steps that divide no second, so that rounding would add up.
            let (mut now, mut passed) = (start, 0);
            while now < start + Duration::from_secs(30) {
                now = (now + Duration::from_nanos(1_234_567)).min(start + Duration::from_secs(30));
                passed += admitted(&mut storm, 60, now);
            }
            assert_eq!(passed, u64::from(rate) * 30, "{rate}");
        }
    }

    #[test]
    fn a_pause_fills_the_bucket_and_no_more() {
        let start = Instant::now();
        let mut storm = broadcast(1_000, start);
        assert_eq!(admitted(&mut storm, 1_000, start), 100);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(admitted(&mut storm, 1_000, later), 100);
        let soon = later + Duration::from_millis(10);
        assert_eq!(admitted(&mut storm, 1_000, soon), 10);
    }

    #[test]
    fn a_time_that_goes_back_yields_nothing() {
        let start = Instant::now();
        let mut storm = broadcast(1_000, start);
        let later = start + Duration::from_secs(1);
        assert_eq!(admitted(&mut storm, 1_000, later), 100);
        assert_eq!(admitted(&mut storm, 1_000, start), 0);
        assert_eq!(admitted(&mut storm, 1_000, later), 0);
    }

    #[test]
    fn the_highest_rate_does_not_overflow() {
        let start = Instant::now();
        let mut storm = broadcast(u32::MAX, start);
        let year = start + Duration::from_secs(365 * 86_400);
        assert_eq!(admitted(&mut storm, 1_000, year), 1_000);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_bucket_pass(
            rate in 1..2_000_u32,
            steps in proptest::collection::vec((0..200_000_000_u64, 0..64_u32), 0..100),
        ) {
            let start = Instant::now();
            let mut storm = broadcast(rate, start);
            let (mut nanos, mut passed) = (0, 0);
            for (step, frames) in steps {
                nanos += step;
                passed += admitted(&mut storm, frames, start + Duration::from_nanos(nanos));
            }
            let bucket = u64::from((rate / 10).max(Storm::LEAST_BURST));
            prop_assert!(passed <= bucket + u64::from(rate) * nanos / TOKEN);
        }
    }
}
