//! Load-based teaming: ports move away from uplinks that stay busy.
//!
//! # Theory of operation
//!
//! Every [`PERIOD`] the mean rates since the last look are compared with the uplinks' speeds. An uplink that was busy for more than
//! [`BUSY`] percent, in whichever direction, gives ports to that with the most room of those that the port's policy
//! uses, the largest first, for as long as this makes the busier of the two less busy. Uplinks whose speed is unknown count as 10 Gbit/s.

use std::time::{Duration, Instant};

use crate::net::port::PortId;

/// Over which time the mean is taken.
pub const PERIOD: Duration = Duration::from_secs(30);
/// From how many percent of its speed on an uplink is busy.
pub const BUSY: u64 = 75;
/// What an uplink of unknown speed is taken for, in bits a second.
const SPEED: u64 = 10_000_000_000;

/// Bytes that a port brought into the switch, and that left through it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bytes {
    /// Into the switch.
    pub ingress: u64,
    /// Out of the switch.
    pub egress: u64,
}

impl Bytes {
    fn since(self, before: Self) -> Self {
        Self {
            ingress: self.ingress.saturating_sub(before.ingress),
            egress: self.egress.saturating_sub(before.egress),
        }
    }
}

/// An uplink at the end of a period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) uplink: PortId,
    /// In bits a second.
    pub(super) speed: Option<u64>,
}

impl Line {
    /// How busy so many bytes in so many milliseconds make it, in thousandths.
    fn share(&self, bytes: u64, millis: u64) -> u64 {
        let bits = u128::from(bytes) * 8 * 1_000_000;
        let room = u128::from(self.speed.unwrap_or(SPEED).max(1)) * u128::from(millis.max(1));
        u64::try_from(bits / room).unwrap_or(u64::MAX)
    }
}

/// A port that may move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried<'a> {
    pub(super) port: PortId,
    pub(super) uplink: PortId,
    /// The uplinks to which it may move.
    pub(super) allowed: &'a [PortId],
}

/// What was counted at the last look.
#[derive(Debug)]
pub(super) struct Loads {
    since: Instant,
    before: Vec<(PortId, Bytes)>,
}

impl Loads {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            before: Vec::new(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.since + PERIOD
    }

    /// Ends a period: returns which ports move, and where to. `ports` are those that may.
    pub(super) fn rebalance(
        &mut self,
        lines: &[Line],
        ports: &[Carried<'_>],
        counted: impl Fn(PortId) -> Bytes,
        now: Instant,
    ) -> Vec<(PortId, PortId)> {
        let millis = now.saturating_duration_since(self.since).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        let known = |port: PortId| self.before.iter().find(|(other, _)| *other == port);
        let rate = |port: PortId| match known(port) {
            Some((_, before)) => counted(port).since(*before),
            // What came in before it was first looked at has no time.
            None => Bytes::default(),
        };
        let mut usage: Vec<Usage> = lines
            .iter()
            .map(|line| Usage {
                line: *line,
                bytes: rate(line.uplink),
                millis,
            })
            .collect();
        let mut movable: Vec<_> = ports
            .iter()
            .map(|carried| (*carried, rate(carried.port)))
            .collect();
        movable.sort_by_key(|(carried, bytes)| {
            (
                std::cmp::Reverse(bytes.ingress.max(bytes.egress)),
                carried.port,
            )
        });
        let moves = spread(&mut usage, &mut movable);
        let all = lines.iter().map(|line| line.uplink);
        self.before = all
            .chain(ports.iter().map(|carried| carried.port))
            .map(|port| (port, counted(port)))
            .collect();
        self.since = now;
        moves
    }
}

/// An uplink and what it carries. What a guest brings into the switch leaves through the uplink, and the other way round.
struct Usage {
    line: Line,
    bytes: Bytes,
    millis: u64,
}

impl Usage {
    fn busy(&self, more: Bytes) -> u64 {
        let egress = self.bytes.egress.saturating_add(more.ingress);
        let ingress = self.bytes.ingress.saturating_add(more.egress);
        self.line.share(egress.max(ingress), self.millis)
    }

    fn level(&self) -> u64 {
        self.busy(Bytes::default())
    }

    fn take(&mut self, guest: Bytes) {
        self.bytes.egress = self.bytes.egress.saturating_add(guest.ingress);
        self.bytes.ingress = self.bytes.ingress.saturating_add(guest.egress);
    }

    fn give(&mut self, guest: Bytes) {
        self.bytes.egress = self.bytes.egress.saturating_sub(guest.ingress);
        self.bytes.ingress = self.bytes.ingress.saturating_sub(guest.egress);
    }
}

fn spread(usage: &mut [Usage], movable: &mut [(Carried<'_>, Bytes)]) -> Vec<(PortId, PortId)> {
    let mut moves = Vec::new();
    let mut rest: Vec<usize> = (0..usage.len()).collect();
    // Each turn moves a port that has not moved yet, or finds that an uplink has none that could.
    while let Some(at) = (0..rest.len()).max_by_key(|at| usage[rest[*at]].level()) {
        let busiest = rest[at];
        if usage[busiest].level() <= BUSY * 10 {
            break;
        }
        match relief(usage, busiest, movable, &moves) {
            Some((at, to)) => {
                let (carried, bytes) = &mut movable[at];
                usage[busiest].give(*bytes);
                usage[to].take(*bytes);
                carried.uplink = usage[to].line.uplink;
                moves.push((carried.port, carried.uplink));
            }
            None => {
                rest.remove(at);
            }
        }
    }
    moves
}

/// Finds a port that an uplink can give away, and to which other one.
fn relief(
    usage: &[Usage],
    busiest: usize,
    movable: &[(Carried<'_>, Bytes)],
    moves: &[(PortId, PortId)],
) -> Option<(usize, usize)> {
    let (from, level) = (usage[busiest].line.uplink, usage[busiest].level());
    let candidates = movable.iter().enumerate().filter(|(_, (carried, bytes))| {
        carried.uplink == from
            && *bytes != Bytes::default()
            && !moves.iter().any(|(moved, _)| *moved == carried.port)
    });
    let places = candidates.flat_map(|(at, (carried, bytes))| {
        let allowed = |to: &usize| carried.allowed.contains(&usage[*to].line.uplink);
        (0..usage.len())
            .filter(move |to| *to != busiest && allowed(to))
            .map(move |to| (at, to, usage[to].busy(*bytes)))
    });
    places
        .filter(|(_, _, after)| *after < level)
        .min_by_key(|(at, _, after)| (*after > BUSY * 10, *at, *after))
        .map(|(at, to, _)| (at, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const U1: PortId = PortId(1);
    const U2: PortId = PortId(2);

    /// Rates in percent of 1 Gbit/s from guests, each with its uplink; returns what moves after a period.
    fn moves(speeds: [u64; 2], guests: &[(u16, PortId, u64)]) -> Vec<(PortId, PortId)> {
        let start = Instant::now();
        let mut loads = Loads::new(start);
        let lines = [(U1, speeds[0]), (U2, speeds[1])].map(|(uplink, speed)| Line {
            uplink,
            speed: Some(speed * 1_000_000_000),
        });
        let ports: Vec<_> = guests
            .iter()
            .map(|(port, uplink, _)| Carried {
                port: PortId(*port),
                uplink: *uplink,
                allowed: &[U1, U2],
            })
            .collect();
        loads.rebalance(&lines, &ports, |_| Bytes::default(), start);
        let mut counted = BTreeMap::<PortId, Bytes>::new();
        for (port, uplink, percent) in guests {
            let bytes = percent * 10_000_000 / 8 * PERIOD.as_secs();
            counted.entry(PortId(*port)).or_default().ingress += bytes;
            counted.entry(*uplink).or_default().egress += bytes;
        }
        let counted = |port: PortId| counted.get(&port).copied().unwrap_or_default();
        loads.rebalance(&lines, &ports, counted, start + PERIOD)
    }

    #[test]
    fn an_uplink_that_is_not_busy_keeps_its_ports() {
        assert_eq!(moves([1, 1], &[(10, U1, 40), (11, U1, 35)]), []);
    }

    #[test]
    fn a_busy_uplink_gives_the_largest_port_that_fits_to_the_one_with_room() {
        assert_eq!(
            moves([1, 1], &[(10, U1, 30), (11, U1, 50), (12, U2, 10)]),
            [(PortId(11), U2)]
        );
    }

    #[test]
    fn a_port_that_fills_an_uplink_alone_stays_unless_another_is_faster() {
        assert_eq!(moves([1, 1], &[(10, U1, 95)]), []);
        assert_eq!(moves([1, 10], &[(10, U1, 95)]), [(PortId(10), U2)]);
    }

    #[test]
    fn nothing_moves_to_an_uplink_that_would_be_busier_than_this_one() {
        assert_eq!(
            moves([1, 1], &[(10, U1, 45), (11, U1, 40), (12, U2, 84)]),
            []
        );
    }

    #[test]
    fn several_ports_move_until_the_uplink_is_not_busy() {
        let moved = moves([1, 10], &[(10, U1, 60), (11, U1, 60), (12, U1, 60)]);
        assert_eq!(moved, [(PortId(10), U2), (PortId(11), U2)]);
    }
}
