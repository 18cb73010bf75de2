//! When connections want to be looked at. Each has one time at most; it is moved when it gets earlier, and otherwise found
//! to be early when it comes, so that what happens all the time costs nothing.

use std::collections::BTreeSet;
use std::time::Instant;

/// The times of all connections.
#[derive(Debug, Default)]
pub(super) struct Timers {
    times: BTreeSet<(Instant, u32)>,
}

impl Timers {
    /// Sees to it that a connection is looked at by `at`. `armed` is what was noted for it.
    pub(super) fn arm(&mut self, armed: &mut Option<Instant>, at: Option<Instant>, id: u32) {
        let Some(at) = at else {
            return;
        };
        if armed.is_some_and(|armed| armed <= at) {
            return;
        }
        self.disarm(armed, id);
        self.times.insert((at, id));
        *armed = Some(at);
    }

    /// Forgets a connection.
    pub(super) fn disarm(&mut self, armed: &mut Option<Instant>, id: u32) {
        if let Some(armed) = armed.take() {
            self.times.remove(&(armed, id));
        }
    }

    /// The next time.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Takes a connection whose time has come; nothing is noted for it any more.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u32> {
        let (at, _) = self.times.first()?;
        if *at > now {
            return None;
        }
        self.times.pop_first().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_moved_to_an_earlier_one_only() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let (mut timers, mut one, mut other) = (Timers::default(), None, None);
        timers.arm(&mut one, at(5), 1);
        timers.arm(&mut one, at(9), 1);
        timers.arm(&mut other, at(3), 2);
        timers.arm(&mut one, at(2), 1);
        assert_eq!(timers.poll_timeout(), at(2));
        assert_eq!(timers.pop(now), None);
        let late = now + Duration::from_secs(10);
        assert_eq!(timers.pop(late), Some(1));
        timers.disarm(&mut other, 2);
        assert_eq!(timers.pop(late), None);
    }
}
