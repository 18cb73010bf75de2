//! Beacon probing: whether the uplinks of a team reach each other, and so the network that they all lead to.
//!
//! # Theory of operation
//!
//! Every uplink with a link sends a beacon each [`INTERVAL`]. Of each pair of uplinks, one *hears* the other while its
//! beacons come: it stops to after [`MISSED`] intervals without one, and begins to again after [`GOOD`] beacons in a row.
//! Uplinks that hear each other both ways are together; the largest group of two and more that are, is where the network is,
//! and an uplink with a link that is outside of it has failed. Where no two are together (always so when one of two
//! fails) it cannot be told which has failed: then none is taken for failed, and the team sends on all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::net::port::{OwnFrames, PortId};
use crate::wire::beacon::Beacon;
use crate::wire::ethernet::MacAddr;

/// How often an uplink sends a beacon.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// After how many missed beacons an uplink is not heard any more.
pub const MISSED: u32 = 3;
/// After how many beacons in a row it is heard again.
pub const GOOD: u32 = 5;
/// How much later than its time a beacon may come.
const LATE: Duration = Duration::from_millis(500);

/// What beacons tell of an uplink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It reaches others, or there is nothing to compare it with.
    Reaches,
    /// Others reach each other, and not it.
    Failed,
    /// No uplink reaches another: one has failed, and it cannot be told which.
    Ambiguous,
}

#[derive(Debug)]
struct Prober {
    mac: MacAddr,
    number: u16,
    link: bool,
}

/// How one uplink hears another.
#[derive(Clone, Copy, Debug)]
struct Hearing {
    heard: bool,
    last: Instant,
    streak: u32,
    /// Of the last beacon; copies of it tell nothing.
    sequence: Option<u32>,
}

/// The beacons of one team.
#[derive(Debug)]
pub struct Beacons {
    team: MacAddr,
    run: u32,
    sequence: u32,
    start: Instant,
    next: Instant,
    numbers: u16,
    probers: BTreeMap<PortId, Prober>,
    /// By who hears whom.
    hearings: BTreeMap<(PortId, PortId), Hearing>,
}

impl Beacons {
    /// Starts to probe for the team with this address. `run` is to be another number each time.
    pub fn new(team: MacAddr, run: u32, now: Instant) -> Self {
        Self {
            team,
            run,
            sequence: 0,
            start: now,
            next: now,
            numbers: 0,
            probers: BTreeMap::new(),
            hearings: BTreeMap::new(),
        }
    }

    /// Takes in an uplink, whose link is down at first.
    pub fn add(&mut self, port: PortId) {
        let number = self.numbers;
        self.numbers = self.numbers.wrapping_add(1);
        let prober = Prober {
            mac: self.team,
            number,
            link: false,
        };
        self.probers.insert(port, prober);
    }

    /// Forgets an uplink.
    pub fn remove(&mut self, port: PortId) {
        self.probers.remove(&port);
        self.hearings
            .retain(|(to, from), _| *to != port && *from != port);
    }

    /// Notes that an uplink has a link or none. One that had none before is trusted only when nothing is known to work.
    pub fn set_link(&mut self, port: PortId, up: bool, mac: MacAddr, now: Instant) {
        let Some(prober) = self.probers.get_mut(&port) else {
            return;
        };
        prober.mac = mac;
        if prober.link == up {
            return;
        }
        prober.link = up;
        self.hearings
            .retain(|(to, from), _| *to != port && *from != port);
        if !up {
            return;
        }
        let others: Vec<_> = self
            .probers
            .iter()
            .filter(|(other, prober)| prober.link && **other != port)
            .map(|(other, _)| *other)
            .collect();
        let hearing = Hearing {
            // While the team comes up, all are taken to reach each other until they are found not to.
            heard: others.len() < 2 || now < self.start + INTERVAL * MISSED,
            last: now,
            streak: 0,
            sequence: None,
        };
        for other in others {
            self.hearings.insert((port, other), hearing);
            self.hearings.insert((other, port), hearing);
        }
    }

    /// Takes a beacon that came in at an uplink, sent from the address `src`; tells whether an uplink of
    /// this team sent it.
    ///
    /// It is from the adapter that it names, or from nobody: a guest that is held to its own address cannot forge one.
    pub fn handle_beacon(
        &mut self,
        port: PortId,
        src: MacAddr,
        beacon: Beacon,
        now: Instant,
    ) -> bool {
        if beacon.team != self.team || beacon.run != self.run {
            return false;
        }
        let sent = |prober: &Prober| prober.number == beacon.uplink && prober.mac == src;
        let mut probers = self.probers.iter();
        let Some(from) = probers.find_map(|(from, prober)| sent(prober).then_some(*from)) else {
            return false;
        };
        if let Some(hearing) = self.hearings.get_mut(&(port, from))
            && hearing.sequence != Some(beacon.sequence)
        {
            hearing.sequence = Some(beacon.sequence);
            let in_time = now.saturating_duration_since(hearing.last) <= INTERVAL + LATE;
            hearing.streak = if in_time { hearing.streak + 1 } else { 1 };
            hearing.heard |= hearing.streak >= GOOD;
            hearing.last = now;
        }
        true
    }

    /// When the next beacons are due.
    pub const fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Sends the beacons that are due, and finds out who is not heard any more.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut OwnFrames) {
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        self.sequence = self.sequence.wrapping_add(1);
        for hearing in self.hearings.values_mut() {
            if now.saturating_duration_since(hearing.last) > INTERVAL * MISSED + LATE {
                hearing.heard = false;
                hearing.streak = 0;
            }
        }
        for (port, prober) in self.probers.iter().filter(|(_, prober)| prober.link) {
            let beacon = Beacon {
                team: self.team,
                run: self.run,
                uplink: prober.number,
                sequence: self.sequence,
            };
            out.send(*port, beacon.emit(prober.mac));
        }
    }

    /// What the beacons tell of an uplink.
    pub fn verdict(&self, port: PortId) -> Verdict {
        let linked: Vec<_> = self
            .probers
            .iter()
            .filter(|(_, prober)| prober.link)
            .map(|(port, _)| *port)
            .collect();
        if linked.len() < 2 || !linked.contains(&port) {
            return Verdict::Reaches;
        }
        let network = self.largest_group(&linked);
        if network.len() < 2 {
            Verdict::Ambiguous
        } else if network.contains(&port) {
            Verdict::Reaches
        } else {
            Verdict::Failed
        }
    }

    /// The largest group of uplinks that are together; of two as large, the one with the first uplink.
    fn largest_group(&self, linked: &[PortId]) -> Vec<PortId> {
        let mut rest = linked.to_vec();
        let mut largest = Vec::new();
        while let Some(first) = rest.first().copied() {
            rest.retain(|port| *port != first);
            let mut group = vec![first];
            let mut index = 0;
            while let Some(member) = group.get(index).copied() {
                rest.retain(|other| {
                    let together = self.hears(member, *other) && self.hears(*other, member);
                    if together {
                        group.push(*other);
                    }
                    !together
                });
                index += 1;
            }
            if group.len() > largest.len() {
                largest = group;
            }
        }
        largest
    }

    fn hears(&self, port: PortId, from: PortId) -> bool {
        self.hearings
            .get(&(port, from))
            .is_some_and(|hearing| hearing.heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEAM: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    /// Uplinks that lead to networks; those with the same number to the same.
    struct Lab {
        beacons: Beacons,
        networks: Vec<Option<u8>>,
        now: Instant,
    }

    impl Lab {
        fn new(networks: &[u8]) -> Self {
            let now = Instant::now();
            let mut beacons = Beacons::new(TEAM, 1, now);
            for index in 0..networks.len() {
                beacons.add(port(index));
                beacons.set_link(port(index), true, TEAM, now);
            }
            Self {
                beacons,
                networks: networks.iter().copied().map(Some).collect(),
                now,
            }
        }

        fn run(&mut self, rounds: usize) {
            for _ in 0..rounds {
                let mut out = OwnFrames::default();
                self.beacons.handle_timeout(self.now, &mut out);
                for (from, frame) in out.frames {
                    let beacon = Beacon::parse(&frame[14..]).unwrap();
                    let network = self.networks[from.index()];
                    for to in (0..self.networks.len()).map(port) {
                        if to != from && network.is_some() && self.networks[to.index()] == network {
                            assert!(self.beacons.handle_beacon(to, TEAM, beacon, self.now));
                        }
                    }
                }
                self.now += INTERVAL;
            }
        }

        fn verdicts(&self) -> Vec<Verdict> {
            (0..self.networks.len())
                .map(|index| self.beacons.verdict(port(index)))
                .collect()
        }
    }

    fn port(index: usize) -> PortId {
        PortId(u16::try_from(index).unwrap())
    }

    use Verdict::{Ambiguous, Failed, Reaches};

    #[test]
    fn an_uplink_whose_beacons_do_not_come_through_has_failed_after_three_and_works_again_after_five()
     {
        let mut lab = Lab::new(&[0, 0, 0]);
        lab.run(10);
        assert_eq!(lab.verdicts(), [Reaches; 3]);
        lab.networks[1] = Some(7);
        lab.run(3);
        assert_eq!(lab.verdicts(), [Reaches; 3]);
        lab.run(2);
        assert_eq!(lab.verdicts(), [Reaches, Failed, Reaches]);
        lab.networks[1] = Some(0);
        lab.run(4);
        assert_eq!(lab.verdicts(), [Reaches, Failed, Reaches]);
        lab.run(1);
        assert_eq!(lab.verdicts(), [Reaches; 3]);
    }

    #[test]
    fn of_two_uplinks_it_cannot_be_told_which_has_failed() {
        let mut lab = Lab::new(&[0, 1]);
        assert_eq!(lab.verdicts(), [Reaches; 2], "nothing is known yet");
        lab.run(6);
        assert_eq!(lab.verdicts(), [Ambiguous; 2]);
        lab.networks[1] = Some(0);
        lab.run(6);
        assert_eq!(lab.verdicts(), [Reaches; 2]);
    }

    #[test]
    fn the_larger_part_of_a_network_that_fell_apart_is_the_network() {
        let mut lab = Lab::new(&[0, 1, 1, 1, 0]);
        lab.run(6);
        assert_eq!(lab.verdicts(), [Failed, Reaches, Reaches, Reaches, Failed]);
    }

    #[test]
    fn an_uplink_that_hears_and_is_not_heard_has_failed() {
        let mut lab = Lab::new(&[0, 0, 0]);
        lab.run(2);
        for _ in 0..6 {
            let mut out = OwnFrames::default();
            lab.beacons.handle_timeout(lab.now, &mut out);
            for (from, frame) in out.frames {
                let beacon = Beacon::parse(&frame[14..]).unwrap();
                for to in (0..3).map(port).filter(|to| *to != from) {
                    if from != port(2) {
                        lab.beacons.handle_beacon(to, TEAM, beacon, lab.now);
                    }
                }
            }
            lab.now += INTERVAL;
        }
        assert_eq!(lab.verdicts(), [Reaches, Reaches, Failed]);
    }

    #[test]
    fn a_link_that_comes_back_has_to_prove_itself_where_others_work() {
        let mut lab = Lab::new(&[0, 0, 0]);
        lab.run(4);
        lab.beacons.set_link(port(0), false, TEAM, lab.now);
        assert_eq!(
            lab.verdicts(),
            [Reaches; 3],
            "a link that is down is not for beacons to judge"
        );
        lab.beacons.set_link(port(0), true, TEAM, lab.now);
        assert_eq!(lab.verdicts(), [Failed, Reaches, Reaches]);
        lab.run(5);
        assert_eq!(lab.verdicts(), [Reaches; 3]);
    }

    #[test]
    fn copies_of_a_beacon_count_once() {
        let mut lab = Lab::new(&[0, 0, 0]);
        lab.run(4);
        lab.beacons.set_link(port(0), false, TEAM, lab.now);
        lab.beacons.set_link(port(0), true, TEAM, lab.now);
        for _ in 0..GOOD {
            for (to, from) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
                let copy = Beacon {
                    team: TEAM,
                    run: 1,
                    uplink: from,
                    sequence: 9,
                };
                lab.beacons.handle_beacon(port(to), TEAM, copy, lab.now);
            }
        }
        assert_eq!(lab.verdicts(), [Failed, Reaches, Reaches]);
    }

    #[test]
    fn beacons_of_others_are_not_ours() {
        let mut lab = Lab::new(&[0, 0]);
        let ours = Beacon {
            team: TEAM,
            run: 1,
            uplink: 0,
            sequence: 1,
        };
        for foreign in [
            Beacon {
                team: MacAddr([2; 6]),
                ..ours
            },
            Beacon { run: 2, ..ours },
        ] {
            assert!(!lab.beacons.handle_beacon(port(1), TEAM, foreign, lab.now));
        }
        let unknown = Beacon { uplink: 99, ..ours };
        assert!(!lab.beacons.handle_beacon(port(1), TEAM, unknown, lab.now));
        assert!(lab.beacons.handle_beacon(port(1), TEAM, ours, lab.now));
    }

    #[test]
    fn a_beacon_from_another_address_than_that_of_its_adapter_was_forged() {
        let mut lab = Lab::new(&[0, 0, 0]);
        lab.run(4);
        lab.networks[0] = None;
        lab.run(5);
        assert_eq!(lab.verdicts(), [Failed, Reaches, Reaches]);
        let guest = MacAddr([2, 0, 0, 0, 0, 0xa]);
        for sequence in 100..100 + GOOD {
            for (to, uplink) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
                let forged = Beacon {
                    team: TEAM,
                    run: 1,
                    uplink,
                    sequence,
                };
                assert!(!lab.beacons.handle_beacon(port(to), guest, forged, lab.now));
            }
        }
        assert_eq!(lab.verdicts(), [Failed, Reaches, Reaches]);
    }
}
