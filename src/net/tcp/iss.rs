//! Initial sequence numbers that nobody outside can guess (RFC 6528).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::net::tcp::seq::Seq;

/// How long the clock of the numbers takes for one step.
const TICK: Duration = Duration::from_micros(4);

/// Where initial sequence numbers come from: a clock, and a keyed hash of the connection.
#[derive(Clone, Debug)]
pub struct IssSource {
    secret: u128,
    start: Instant,
}

impl IssSource {
    /// Begins with a secret from the system's randomness.
    pub const fn new(secret: u128, start: Instant) -> Self {
        Self { secret, start }
    }

    /// Returns the number for a connection that is opened now.
    pub fn next(&self, local: SocketAddr, remote: SocketAddr, now: Instant) -> Seq {
        // SipHash; the secret goes into its state before anything that others know.
        let mut hasher = DefaultHasher::new();
        (self.secret, local, remote).hash(&mut hasher);
        let ticks = now.saturating_duration_since(self.start).as_micros() / TICK.as_micros();
        #[expect(clippy::cast_possible_truncation, reason = "the numbers wrap around")]
        let (hash, ticks) = (hasher.finish() as u32, ticks as u32);
        Seq(hash.wrapping_add(ticks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_opened_again_begins_later_and_others_elsewhere() {
        let now = Instant::now();
        let source = IssSource::new(7, now);
        let (a, b): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let first = source.next(a, b, now);
        let again = source.next(a, b, now + Duration::from_secs(1));
        assert_eq!(again.since(first), 250_000);
        assert_ne!(source.next(b, a, now), first);
        assert_ne!(IssSource::new(8, now).next(a, b, now), first);
    }
}
