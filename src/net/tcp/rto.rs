//! How long to wait for an acknowledgement (RFC 6298).

use std::time::{Duration, Instant};

use crate::net::tcp::seq::Seq;

/// Before anything was measured.
const INITIAL: Duration = Duration::from_secs(1);
/// Longer than a guest delays its acknowledgements; the RFC's second would be an age on a path through memory.
const MIN: Duration = Duration::from_millis(300);
/// What backing off ends at.
const MAX: Duration = Duration::from_secs(60);

/// The retransmission timeout, and the measurement under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rto {
    /// The smoothed round-trip time and its variation, once measured, in microseconds.
    measured: Option<(u32, u32)>,
    /// What is being measured: when this number is acknowledged, and when it left.
    timed: Option<(Seq, Instant)>,
    /// How often the timer has run out in a row.
    backoff: u8,
}

impl Rto {
    /// How long to wait now.
    pub(super) fn timeout(&self) -> Duration {
        let base = self.measured.map_or(INITIAL, |(smoothed, variation)| {
            let micros = u64::from(smoothed) + 4 * u64::from(variation);
            Duration::from_micros(micros).max(MIN)
        });
        base.saturating_mul(1 << self.backoff.min(10)).min(MAX)
    }

    /// How often the timer has run out in a row.
    pub(super) const fn backoff(&self) -> u8 {
        self.backoff
    }

    /// Takes in that new data up to `end` has left.
    pub(super) fn note_sent(&mut self, end: Seq, now: Instant) {
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
    }

    /// Takes in that something was sent again, so that its acknowledgement measures nothing (Karn's algorithm).
    pub(super) const fn note_sent_again(&mut self) {
        self.timed = None;
    }

    /// Takes in that the timer has run out.
    pub(super) const fn note_timeout(&mut self) {
        self.timed = None;
        self.backoff = self.backoff.saturating_add(1);
    }

    /// Takes in that the other side has got further.
    pub(super) fn note_acked(&mut self, ack: Seq, now: Instant) {
        self.backoff = 0;
        let Some((end, sent)) = self.timed else {
            return;
        };
        if ack.before(end) {
            return;
        }
        self.timed = None;
        let sample = now.saturating_duration_since(sent).as_micros();
        let sample = u32::try_from(sample).unwrap_or(u32::MAX).min(60_000_000);
        self.measured = Some(match self.measured {
            None => (sample, sample / 2),
            Some((smoothed, variation)) => (
                smoothed - smoothed / 8 + sample / 8,
                variation - variation / 4 + smoothed.abs_diff(sample) / 4,
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_what_is_measured_and_backs_off() {
        let now = Instant::now();
        let mut rto = Rto::default();
        assert_eq!(rto.timeout(), INITIAL);
        rto.note_sent(Seq(10), now);
        rto.note_acked(Seq(9), now + Duration::from_secs(9));
        rto.note_acked(Seq(10), now + Duration::from_millis(400));
        assert_eq!(rto.timeout(), Duration::from_millis(1200));
        for _ in 0..100 {
            rto.note_timeout();
        }
        assert_eq!(rto.timeout(), MAX);
        rto.note_acked(Seq(11), now);
        assert_eq!(rto.timeout(), Duration::from_millis(1200));
    }

    #[test]
    fn what_was_sent_twice_measures_nothing() {
        let now = Instant::now();
        let mut rto = Rto::default();
        rto.note_sent(Seq(10), now);
        rto.note_sent_again();
        rto.note_acked(Seq(10), now + Duration::from_secs(30));
        assert_eq!(rto.timeout(), INITIAL);
    }
}
