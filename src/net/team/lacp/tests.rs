//! LACP between two and more teams on wires that can be cut, with a clock that only the test moves.

use std::time::Duration;

use proptest::prelude::*;

use super::member::{AGGREGATE_WAIT, LONG_TIMEOUT, MARKER_LIMIT, SHORT_TIMEOUT, key};
use super::*;
use crate::wire::ethernet::Ethernet;
use crate::wire::lacp::{ETHERTYPE_SLOW, PDU_LEN, SLOW_PROTOCOLS, State};

const P1: PortId = PortId(1);
const P2: PortId = PortId(2);
const P3: PortId = PortId(3);

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_nanos(1);
const GIGABIT: u64 = 1_000_000_000;

fn spec(number: u8) -> Spec {
    Spec {
        mode: Mode::Active,
        rate: Rate::Fast,
        fallback: false,
        system: MacAddr([2, 0, 0, 0, 0, number]),
        system_priority: 0x8000,
    }
}

fn passive(number: u8) -> Spec {
    Spec {
        mode: Mode::Passive,
        ..spec(number)
    }
}

fn slow(number: u8) -> Spec {
    Spec {
        rate: Rate::Slow,
        ..spec(number)
    }
}

fn with_fallback(number: u8) -> Spec {
    Spec {
        fallback: true,
        ..spec(number)
    }
}

fn mac(port: PortId) -> MacAddr {
    let [high, low] = port.0.to_be_bytes();
    MacAddr([2, 0, 0, 1, high, low])
}

/// A member of a team, by the number of the team.
type End = (usize, PortId);

struct Wire {
    ends: [End; 2],
    /// Whether what each end sends arrives.
    carries: [bool; 2],
}

/// Teams and the wires between them.
struct Lab {
    now: Instant,
    teams: Vec<Lacp>,
    wires: Vec<Wire>,
    /// Every LACPDU that left.
    sent: Vec<(Instant, End)>,
}

impl Lab {
    fn new(specs: &[Spec]) -> Self {
        Self {
            now: Instant::now(),
            teams: specs.iter().map(|spec| Lacp::new(*spec)).collect(),
            wires: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Two teams with wires between the members of the same number, all up.
    fn pair(specs: [Spec; 2], ports: &[PortId]) -> Self {
        let mut lab = Self::new(&specs);
        for port in ports {
            lab.join((0, *port), (1, *port));
        }
        lab.up(ports);
        lab
    }

    /// Puts a wire between two members, which may be new. Their links stay down.
    fn join(&mut self, one: End, other: End) {
        for (team, port) in [one, other] {
            self.teams[team].add(port);
        }
        self.wires.push(Wire {
            ends: [one, other],
            carries: [true; 2],
        });
    }

    /// Brings these members up in all teams that have them.
    fn up(&mut self, ports: &[PortId]) {
        for port in ports {
            for team in 0..self.teams.len() {
                self.link((team, *port), true, Some(10 * GIGABIT));
            }
        }
        self.run();
    }

    fn link(&mut self, (team, port): End, up: bool, speed: Option<u64>) {
        self.teams[team].set_link(port, up, mac(port), speed, self.now);
    }

    /// Lets what `end` sends arrive or not.
    fn carry(&mut self, end: End, carries: bool) {
        for wire in &mut self.wires {
            for side in 0..2 {
                if wire.ends[side] == end {
                    wire.carries[side] = carries;
                }
            }
        }
    }

    /// Does what is due now, until all is said.
    fn run(&mut self) {
        loop {
            let mut frames = Vec::new();
            for (team, lacp) in self.teams.iter_mut().enumerate() {
                if lacp.poll_timeout().is_some_and(|at| at <= self.now) {
                    let mut out = OwnFrames::default();
                    lacp.handle_timeout(self.now, &mut out);
                    assert!(
                        lacp.poll_timeout().is_none_or(|at| at > self.now),
                        "what is due is done at once"
                    );
                    frames.extend(out.frames.into_iter().map(|sent| (team, sent)));
                }
            }
            if frames.is_empty() {
                return;
            }
            while !frames.is_empty() {
                frames = self.deliver(frames);
            }
        }
    }

    /// Brings frames to their other ends, and returns the answers.
    fn deliver(
        &mut self,
        frames: Vec<(usize, (PortId, Vec<u8>))>,
    ) -> Vec<(usize, (PortId, Vec<u8>))> {
        let mut answers = Vec::new();
        for (from, (port, frame)) in frames {
            let read = Ethernet::parse(&frame).unwrap();
            assert_eq!((read.dst, read.ethertype), (SLOW_PROTOCOLS, ETHERTYPE_SLOW));
            assert_eq!(read.src, mac(port));
            self.sent.push((self.now, (from, port)));
            for wire in &self.wires {
                for side in 0..2 {
                    if wire.ends[side] == (from, port) && wire.carries[side] {
                        let (to, port) = wire.ends[1 - side];
                        let mut out = OwnFrames::default();
                        self.teams[to].handle_pdu(port, read.payload, self.now, &mut out);
                        answers.extend(out.frames.into_iter().map(|sent| (to, sent)));
                    }
                }
            }
        }
        answers
    }

    /// Moves the clock, stopping wherever a team wants to be woken.
    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            self.run();
            let next = self.teams.iter().filter_map(Lacp::poll_timeout).min();
            match next.filter(|at| *at <= end) {
                Some(at) => self.now = at,
                None => break,
            }
        }
        self.now = end;
        self.run();
    }

    fn status(&self, (team, port): End) -> Status {
        self.teams[team].status(port).unwrap()
    }

    /// The members of a team through which frames may be sent.
    fn senders(&self, team: usize) -> Vec<PortId> {
        let lacp = &self.teams[team];
        let all = lacp.members.iter().map(|it| it.port);
        all.filter(|port| {
            let sends = lacp.may_send(*port);
            assert!(!sends || lacp.may_receive(*port), "who sends also takes");
            sends
        })
        .collect()
    }

    /// Asserts that both teams use these members and no others.
    #[track_caller]
    fn assert_both_use(&self, ports: &[PortId]) {
        assert_eq!(self.senders(0), ports, "{:#?}", self.teams[0]);
        assert_eq!(self.senders(1), ports, "{:#?}", self.teams[1]);
    }
}

/// Builds what a partner that is not one of ours says.
fn says(system: u8, key: u16, port: u16, flags: State, of: &Status) -> Vec<u8> {
    let pdu = Lacpdu {
        actor: Participant {
            system_priority: 1,
            system: MacAddr([4, 0, 0, 0, 0, system]),
            key,
            port_priority: 1,
            port,
            state: flags | State::ACTIVITY,
        },
        partner: of.actor,
        collector_max_delay: 0,
    };
    pdu.emit(MacAddr([4; 6]))[14..].to_vec()
}

const SYNCED: State = State(0x3c);

/// A team whose partners are played by the test.
fn alone(spec: Spec, ports: &[PortId]) -> Lab {
    let mut lab = Lab::new(&[spec]);
    for port in ports {
        lab.teams[0].add(*port);
    }
    lab.up(ports);
    lab
}

impl Lab {
    /// Has a partner that knows us say this to a member of the first team.
    fn hear(&mut self, port: PortId, system: u8, key: u16, flags: State) {
        let payload = says(system, key, port.0, flags, &self.status((0, port)));
        self.hear_bytes(port, &payload);
    }

    fn hear_bytes(&mut self, port: PortId, payload: &[u8]) -> OwnFrames {
        let mut out = OwnFrames::default();
        self.teams[0].handle_pdu(port, payload, self.now, &mut out);
        out
    }
}

#[test]
fn two_active_ends_use_all_members_at_once() {
    let lab = Lab::pair([spec(1), spec(2)], &[P1, P2, P3]);
    lab.assert_both_use(&[P1, P2, P3]);
    let status = lab.status((0, P2));
    assert_eq!(status.receive.name(), "current");
    assert_eq!(status.mux.name(), "distributing");
    assert_eq!(status.selection.words(), "selected");
    let partner = status.partner.unwrap();
    assert_eq!(
        (partner.system, partner.key, partner.port),
        (spec(2).system, 1000, 3)
    );
    assert!(
        partner
            .state
            .has(State::SYNCHRONIZATION | State::COLLECTING)
    );
}

#[test]
fn an_aggregate_stays_as_it_is_with_one_pdu_a_second() {
    let mut lab = Lab::pair([spec(1), spec(2)], &[P1, P2]);
    lab.advance(10 * SECOND);
    lab.sent.clear();
    for _ in 0..1000 {
        lab.advance(SECOND / 10);
        lab.assert_both_use(&[P1, P2]);
    }
    assert_eq!(lab.sent.len(), 4 * 100);
}

#[test]
fn a_passive_end_answers_an_active_one() {
    let lab = Lab::pair([spec(1), passive(2)], &[P1, P2]);
    lab.assert_both_use(&[P1, P2]);
}

#[test]
fn two_passive_ends_say_nothing_and_carry_nothing() {
    let mut lab = Lab::pair([passive(1), passive(2)], &[P1, P2]);
    for _ in 0..20 {
        lab.advance(SECOND);
        lab.assert_both_use(&[]);
    }
    assert_eq!(lab.sent, []);
    assert_eq!(lab.status((0, P1)).receive, Receive::Defaulted);
    assert_eq!(lab.teams[0].poll_timeout(), None);
}

#[test]
fn a_silent_partner_is_left_exactly_when_what_it_said_expires() {
    for (specs, timeout) in [
        ([spec(1), spec(2)], SHORT_TIMEOUT),
        ([slow(1), slow(2)], LONG_TIMEOUT),
    ] {
        let mut lab = Lab::pair(specs, &[P1, P2]);
        lab.advance(200 * SECOND);
        lab.assert_both_use(&[P1, P2]);
        lab.carry((1, P2), false);
        let Receive::Current { until } = lab.status((0, P2)).receive else {
            panic!("it is heard");
        };
        assert!(until <= lab.now + timeout);
        lab.advance(until - lab.now - TICK);
        assert_eq!(lab.senders(0), [P1, P2]);
        lab.advance(TICK);
        lab.assert_both_use(&[P1]);
        assert!(!lab.teams[0].may_receive(P2));
        let status = lab.status((0, P2));
        assert!(matches!(status.receive, Receive::Expired { .. }));
        assert!(
            status.actor.state.has(State::EXPIRED),
            "{}",
            status.actor.state
        );
        lab.advance(SHORT_TIMEOUT);
        let status = lab.status((0, P2));
        assert_eq!(status.receive, Receive::Defaulted);
        assert_eq!((status.partner, status.mux), (None, Mux::Detached));
        assert_eq!(status.selection, Selection::NoPartner);
        assert!(status.actor.state.has(State::DEFAULTED));
    }
}

#[test]
fn the_timeouts_are_those_of_our_own_rate() {
    let mut lab = Lab::pair([spec(1), slow(2)], &[P1]);
    lab.advance(100 * SECOND);
    lab.sent.clear();
    lab.advance(60 * SECOND);
    let from = |team| lab.sent.iter().filter(|(_, end)| end.0 == team).count();
    assert_eq!(
        (from(0), from(1)),
        (2, 60),
        "each speaks as often as the other wants"
    );
    lab.assert_both_use(&[P1]);
    lab.carry((1, P1), false);
    lab.advance(SHORT_TIMEOUT);
    assert_eq!(lab.senders(0), []);
}

#[test]
fn a_member_comes_back_when_its_partner_speaks_again() {
    // While it is expired, just as it is given up, and long after.
    for silence in [4, 6, 7, 9, 100] {
        for cut in [&[0][..], &[1], &[0, 1]] {
            let mut lab = Lab::pair([spec(1), spec(2)], &[P1, P2]);
            lab.advance(5 * SECOND);
            for team in cut {
                lab.carry((*team, P2), false);
            }
            lab.advance(silence * SECOND);
            lab.assert_both_use(&[P1]);
            for team in cut {
                lab.carry((*team, P2), true);
            }
            lab.advance(SECOND + SECOND / 10);
            lab.assert_both_use(&[P1, P2]);
        }
    }
}

#[test]
fn a_slow_member_comes_back_as_soon() {
    let mut lab = Lab::pair([slow(1), slow(2)], &[P1, P2]);
    lab.carry((0, P2), false);
    lab.carry((1, P2), false);
    lab.advance(200 * SECOND);
    lab.assert_both_use(&[P1]);
    lab.carry((0, P2), true);
    lab.carry((1, P2), true);
    lab.advance(SECOND + SECOND / 10);
    lab.assert_both_use(&[P1, P2]);
}

#[test]
fn a_member_without_link_leaves_at_once_and_comes_back_with_it() {
    let mut lab = Lab::pair([spec(1), spec(2)], &[P1, P2]);
    lab.advance(5 * SECOND);
    for team in 0..2 {
        lab.link((team, P1), false, None);
    }
    lab.assert_both_use(&[P2]);
    let status = lab.status((0, P1));
    assert_eq!(
        (status.receive.name(), status.selection.words()),
        ("port disabled", "no link")
    );
    lab.sent.clear();
    lab.advance(10 * SECOND);
    assert!(lab.sent.iter().all(|(_, end)| end.1 == P2));
    lab.up(&[P1]);
    lab.assert_both_use(&[P1, P2]);
}

#[test]
fn a_link_that_only_one_end_lost_comes_back_within_a_second() {
    let mut lab = Lab::pair([spec(1), spec(2)], &[P1, P2]);
    lab.advance(5 * SECOND);
    lab.link((0, P1), false, None);
    lab.link((0, P1), true, Some(10 * GIGABIT));
    assert_eq!(lab.senders(0), [P2], "nothing is taken over from before");
    lab.advance(SECOND);
    lab.assert_both_use(&[P1, P2]);
}

#[test]
fn a_member_that_is_removed_carries_nothing_and_the_others_do() {
    let mut lab = Lab::pair([spec(1), spec(2)], &[P1, P2]);
    let now = lab.now;
    lab.teams[0].remove(P1, now);
    assert_eq!(lab.senders(0), [P2]);
    assert!(!lab.teams[0].may_send(P1) && !lab.teams[0].may_receive(P1));
    assert_eq!(lab.teams[0].status(P1), None);
    assert_eq!(lab.hear_bytes(P1, &[1; 110]).frames, []);
    lab.teams[0].add(P2);
    assert_eq!(lab.teams[0].members.len(), 1, "it is there already");
}

#[test]
fn a_loop_is_never_used() {
    let mut lab = Lab::new(&[with_fallback(1)]);
    lab.join((0, P1), (0, P2));
    lab.join((0, P3), (0, P3));
    lab.up(&[P1, P2, P3]);
    for _ in 0..100 {
        lab.advance(SECOND / 10);
        assert_eq!(lab.senders(0), []);
    }
    for port in [P1, P2, P3] {
        assert_eq!(lab.status((0, port)).selection, Selection::Loop);
    }
}

#[test]
fn a_loop_on_one_member_leaves_the_others_alone() {
    let mut lab = Lab::new(&[spec(1), spec(2)]);
    lab.join((0, P1), (0, P1));
    lab.join((0, P2), (1, P2));
    lab.up(&[P1, P2]);
    lab.assert_both_use(&[P2]);
    assert_eq!(
        lab.status((0, P1)).selection.words(),
        "looped to this system"
    );
}

#[test]
fn of_two_partners_the_one_with_more_members_is_used() {
    let mut lab = Lab::new(&[spec(1), spec(2), spec(3)]);
    lab.join((0, P1), (1, P1));
    lab.join((0, P2), (2, P2));
    lab.join((0, P3), (2, P3));
    lab.up(&[P1, P2, P3]);
    lab.advance(10 * SECOND);
    assert_eq!(lab.senders(0), [P2, P3]);
    assert_eq!((lab.senders(1), lab.senders(2)), (vec![], vec![P2, P3]));
    let status = lab.status((0, P1));
    assert_eq!(status.selection, Selection::OtherGroup);
    assert!(status.selection.words().contains("another"));
    assert!(!status.actor.state.has(State::SYNCHRONIZATION));
}

#[test]
fn of_equal_partners_the_one_of_the_lowest_port_is_used_until_it_is_worse() {
    let mut lab = Lab::new(&[spec(1), spec(2), spec(3)]);
    lab.join((0, P2), (2, P2));
    lab.join((0, P1), (1, P1));
    lab.up(&[P1, P2]);
    lab.advance(10 * SECOND);
    assert_eq!(lab.senders(0), [P1]);
    lab.link((0, P1), false, None);
    lab.run();
    assert_eq!(lab.senders(0), [P2]);
    lab.link((0, P1), true, Some(10 * GIGABIT));
    for _ in 0..100 {
        lab.advance(SECOND / 10);
        assert_eq!(lab.senders(0), [P2], "the one in use is as good");
    }
    assert_eq!(lab.senders(1), []);
}

#[test]
fn when_all_of_a_group_have_expired_another_takes_over_at_once() {
    let mut lab = Lab::new(&[spec(1), spec(2), spec(3)]);
    lab.join((0, P1), (1, P1));
    lab.join((0, P2), (1, P2));
    lab.join((0, P3), (2, P3));
    lab.up(&[P1, P2, P3]);
    lab.advance(10 * SECOND);
    assert_eq!(lab.senders(0), [P1, P2]);
    lab.carry((1, P1), false);
    lab.carry((1, P2), false);
    lab.advance(SHORT_TIMEOUT);
    assert_eq!(lab.senders(0), [P3]);
    lab.carry((1, P1), true);
    lab.advance(10 * SECOND);
    assert_eq!(lab.senders(0), [P3], "one member is not better than one");
    lab.carry((1, P2), true);
    lab.advance(10 * SECOND);
    assert_eq!(lab.senders(0), [P1, P2]);
}

#[test]
fn members_of_different_speeds_are_not_aggregated() {
    let mut lab = Lab::new(&[spec(1), spec(2)]);
    for (port, speed) in [(P1, GIGABIT), (P2, 10 * GIGABIT), (P3, 2_500_000_000)] {
        lab.join((0, port), (1, port));
        lab.link((0, port), true, Some(speed));
        lab.link((1, port), true, Some(speed));
    }
    lab.advance(10 * SECOND);
    lab.assert_both_use(&[P2]);
    // The others come to the same speed, in use.
    for port in [P1, P3] {
        for team in 0..2 {
            lab.link((team, port), true, Some(10 * GIGABIT));
        }
    }
    lab.advance(10 * SECOND);
    lab.assert_both_use(&[P1, P2, P3]);
}

#[test]
fn a_new_speed_takes_a_member_out_until_the_partner_knows_of_it() {
    let mut lab = alone(spec(1), &[P1]);
    lab.hear(P1, 9, 7, SYNCED);
    assert_eq!(lab.senders(0), [P1]);
    lab.link((0, P1), true, Some(GIGABIT));
    assert_eq!(lab.senders(0), []);
    lab.run();
    assert_eq!(lab.senders(0), []);
    lab.hear(P1, 9, 7, SYNCED);
    assert_eq!(lab.senders(0), [P1]);
}

#[test]
fn every_speed_has_a_key_of_its_own() {
    let speeds = [
        10, 100, 1000, 2500, 5000, 10_000, 25_000, 40_000, 100_000, 400_000, 800_000,
    ];
    let mut keys: Vec<u16> = speeds.map(|speed| key(Some(speed * 1_000_000))).to_vec();
    keys.push(key(None));
    assert!(keys.is_sorted_by(|one, other| one < other), "{keys:?}");
    assert_eq!((key(Some(0)), key(Some(u64::MAX))), (1, 65_534));
}

#[test]
fn at_most_three_lacpdus_leave_within_a_second() {
    let mut lab = alone(spec(1), &[P1]);
    let mut sent = Vec::new();
    for round in 0..10_000_u16 {
        lab.now += Duration::from_millis(1);
        let payload = says(9, round, 1, State::AGGREGATION, &lab.status((0, P1)));
        sent.extend(lab.hear_bytes(P1, &payload).frames.iter().map(|_| lab.now));
        let mut out = OwnFrames::default();
        let now = lab.now;
        lab.teams[0].handle_timeout(now, &mut out);
        sent.extend(out.frames.iter().map(|_| now));
    }
    assert!(sent.windows(4).all(|four| four[3] - four[0] >= SECOND));
    assert!(sent.len() >= 29, "and three do: {}", sent.len());
    let counters = lab.status((0, P1)).counters;
    assert_eq!(counters.received, 10_000);
    assert_eq!(counters.sent, 1 + sent.len() as u64);
}

#[test]
fn what_the_limit_held_back_leaves_when_it_may() {
    let mut lab = alone(spec(1), &[P1]);
    for key in 0..5 {
        lab.hear(P1, 9, key, State::AGGREGATION);
    }
    assert_eq!(lab.status((0, P1)).counters.sent, 3);
    assert_eq!(lab.teams[0].poll_timeout(), Some(lab.now + SECOND));
    lab.advance(SECOND);
    assert!(lab.status((0, P1)).counters.sent > 3);
}

#[test]
fn a_member_waits_for_others_that_may_join_but_not_for_long() {
    let mut lab = alone(spec(1), &[P1, P2]);
    let attached = |lab: &Lab| lab.status((0, P1)).mux == Mux::Attached;
    lab.hear(P1, 9, 7, State::AGGREGATION);
    assert!(matches!(lab.status((0, P1)).mux, Mux::Waiting { .. }));
    assert_eq!(lab.status((0, P1)).mux.name(), "waiting");
    lab.advance(AGGREGATE_WAIT - TICK);
    assert!(!attached(&lab));
    lab.advance(TICK);
    assert!(attached(&lab));

    let mut lab = alone(spec(1), &[P1, P2]);
    lab.hear(P1, 9, 7, State::AGGREGATION);
    lab.hear(P2, 9, 7, State::AGGREGATION);
    assert!(attached(&lab), "all are there");

    let mut lab = alone(spec(1), &[P1, P2]);
    lab.hear(P1, 9, 7, SYNCED);
    assert_eq!(lab.senders(0), [P1], "the partner waits no more");
}

#[test]
fn each_step_waits_for_the_partners() {
    let mut lab = alone(spec(1), &[P1]);
    let steps = [
        (State::AGGREGATION, "attached", false, false),
        (State(0x0c), "collecting", false, true),
        (State(0x1c), "distributing", true, true),
        (State(0x0c), "collecting", false, true),
        (State(0x3c), "distributing", true, true),
        (State(0x34), "attached", false, false),
    ];
    for (flags, mux, sends, receives) in steps {
        lab.hear(P1, 9, 7, flags);
        assert_eq!(lab.status((0, P1)).mux.name(), mux);
        assert_eq!(lab.teams[0].may_send(P1), sends, "{flags}");
        assert_eq!(lab.teams[0].may_receive(P1), receives, "{flags}");
    }
}

#[test]
fn a_partner_that_means_somebody_else_is_not_in_sync() {
    let mut lab = alone(spec(1), &[P1]);
    let mut other = lab.status((0, P1));
    other.actor.port += 1;
    lab.hear_bytes(P1, &says(9, 7, 1, SYNCED, &other));
    assert_eq!(lab.status((0, P1)).mux, Mux::Attached);
    lab.hear(P1, 9, 7, SYNCED);
    assert_eq!(lab.senders(0), [P1]);
}

#[test]
fn a_partner_that_neither_end_would_keep_talking_is_not_in_sync() {
    let mut lab = alone(passive(1), &[P1]);
    let mut payload = says(9, 7, 1, SYNCED, &lab.status((0, P1)));
    payload[18] = SYNCED.0;
    lab.hear_bytes(P1, &payload);
    assert_eq!(lab.status((0, P1)).mux, Mux::Attached);
    lab.hear(P1, 9, 7, SYNCED);
    assert_eq!(lab.senders(0), [P1], "it would");
}

#[test]
fn only_a_partner_that_is_wrong_about_us_is_answered_at_once() {
    let mut lab = alone(spec(1), &[P1]);
    // Never in sync, so that nothing else is to be said.
    lab.hear(P1, 9, 7, State::AGGREGATION);
    lab.advance(2 * SECOND);
    let right = lab.status((0, P1));
    let mut elsewhere = right;
    elsewhere.actor.key += 1;
    let mut slower = right;
    slower.actor.state = slower.actor.state.with(State::TIMEOUT, false);
    let mut collecting = right;
    collecting.actor.state = collecting.actor.state.with(State::COLLECTING, true);
    // That we distribute is ours to know.
    let mut detail = right;
    detail.actor.state = detail.actor.state.with(State::DISTRIBUTING, true);
    let cases = [
        (right, 0),
        (elsewhere, 1),
        (slower, 1),
        (collecting, 1),
        (detail, 0),
    ];
    for (of, answers) in cases {
        lab.advance(SECOND);
        let sent = lab.status((0, P1)).counters.sent;
        lab.hear_bytes(P1, &says(9, 7, P1.0, State::AGGREGATION, &of));
        let sent = lab.status((0, P1)).counters.sent - sent;
        assert_eq!(sent, answers, "{:?}", of.actor);
    }
}

#[test]
fn a_partner_that_is_another_now_is_put_in_sync_anew() {
    let mut lab = alone(spec(1), &[P1]);
    lab.hear(P1, 9, 7, SYNCED);
    lab.hear(P1, 8, 7, State::AGGREGATION);
    assert_eq!(lab.status((0, P1)).mux, Mux::Attached);
    lab.hear(P1, 8, 7, SYNCED);
    assert_eq!(lab.senders(0), [P1]);
}

#[test]
fn links_that_the_partner_wants_alone_are_used_alone() {
    let mut lab = alone(spec(1), &[P1, P2]);
    let individual = SYNCED.with(State::AGGREGATION, false);
    lab.hear(P1, 9, 7, individual);
    lab.hear(P2, 9, 7, individual);
    assert_eq!(lab.senders(0), [P1]);

    let mut lab = alone(spec(1), &[P1]);
    let mut other = lab.status((0, P1));
    other.actor.port += 1;
    lab.hear_bytes(P1, &says(9, 7, 1, individual, &other));
    assert_eq!(lab.senders(0), [P1], "such a link needs no agreement");
}

#[test]
fn more_members_are_better_than_more_bandwidth() {
    let mut lab = Lab::new(&[spec(1), spec(2)]);
    for (port, speed) in [(P1, 10 * GIGABIT), (P2, GIGABIT), (P3, GIGABIT)] {
        lab.join((0, port), (1, port));
        lab.link((0, port), true, Some(speed));
        lab.link((1, port), true, Some(speed));
    }
    lab.advance(10 * SECOND);
    lab.assert_both_use(&[P2, P3]);
}

#[test]
fn the_choice_of_a_partner_that_outranks_us_is_followed() {
    let mut lab = alone(spec(1), &[P1, P2, P3]);
    let hear = |lab: &mut Lab, first: State| {
        lab.hear(P1, 9, 7, first);
        lab.hear(P2, 9, 7, first);
        lab.hear(P3, 9, 8, SYNCED);
    };
    hear(&mut lab, State::AGGREGATION);
    assert_eq!(
        lab.senders(0),
        [],
        "more members, which may need their time"
    );
    lab.advance(2 * SECOND);
    hear(&mut lab, State::AGGREGATION);
    assert_eq!(lab.senders(0), []);
    lab.advance(SECOND);
    assert_eq!(lab.senders(0), [P3], "they had it");
    hear(&mut lab, SYNCED);
    assert_eq!(lab.senders(0), [P1, P2]);
    hear(&mut lab, State::AGGREGATION);
    assert_eq!(lab.senders(0), [P3], "taken back");
}

#[test]
fn ends_that_see_groups_in_different_order_agree() {
    // The speeds say nothing to one end, and the other way round to the other.
    let mut lab = Lab::new(&[spec(1), spec(2)]);
    lab.join((0, P1), (1, P1));
    lab.join((0, P2), (1, P2));
    for port in [P1, P2] {
        lab.link((0, port), true, None);
    }
    lab.link((1, P1), true, Some(GIGABIT));
    lab.link((1, P2), true, Some(10 * GIGABIT));
    lab.advance(10 * SECOND);
    lab.assert_both_use(&[P1]);
}

#[test]
fn without_fallback_nothing_is_sent_without_a_partner() {
    let mut lab = alone(spec(1), &[P1, P2]);
    for _ in 0..20 {
        lab.advance(SECOND);
        assert_eq!(lab.senders(0), []);
    }
}

#[test]
fn with_fallback_the_first_member_with_link_carries_frames_while_there_is_no_partner() {
    let mut lab = Lab::new(&[with_fallback(1)]);
    for port in [P3, P1, P2] {
        lab.teams[0].add(port);
    }
    lab.up(&[P1, P2]);
    lab.advance(SHORT_TIMEOUT - TICK);
    assert_eq!(lab.senders(0), [], "there may be one yet");
    lab.advance(TICK);
    assert_eq!(lab.senders(0), [P1]);
    assert!(lab.teams[0].may_receive(P1) && !lab.teams[0].may_receive(P2));
    assert!(lab.status((0, P1)).fallback && !lab.status((0, P2)).fallback);

    lab.up(&[P3]);
    lab.advance(SECOND);
    assert_eq!(lab.senders(0), [P1], "the first is not known to have none");
    lab.advance(2 * SECOND);
    assert_eq!(lab.senders(0), [P3]);
    lab.link((0, P3), false, None);
    assert_eq!(lab.senders(0), [P1]);

    lab.hear(P2, 9, 7, State::AGGREGATION);
    assert_eq!(lab.senders(0), [], "a partner ends it");
    lab.hear(P2, 9, 7, SYNCED);
    assert_eq!(lab.senders(0), [P2]);
    lab.advance(2 * SHORT_TIMEOUT - TICK);
    assert_eq!(lab.senders(0), []);
    lab.advance(TICK);
    assert_eq!(lab.senders(0), [P1], "nobody is left");
}

#[test]
fn a_passive_team_falls_back_too() {
    let spec = Spec {
        fallback: true,
        ..passive(1)
    };
    let mut lab = alone(spec, &[P1, P2]);
    lab.advance(SHORT_TIMEOUT);
    assert_eq!(lab.senders(0), [P1]);
    assert_eq!(lab.sent, []);
}

#[test]
fn a_marker_is_answered_but_a_flood_of_them_is_not() {
    let mut lab = alone(spec(1), &[P1]);
    let mut marker = vec![0; PDU_LEN];
    marker[..16].copy_from_slice(&[2, 1, 1, 16, 0, 7, 4, 0, 0, 0, 0, 9, 1, 2, 3, 4]);
    let frames = lab.hear_bytes(P1, &marker).frames;
    assert_eq!(frames.len(), 1);
    assert_eq!((frames[0].0, &frames[0].1[6..12]), (P1, &mac(P1).0[..]));
    assert_eq!(
        frames[0].1[14..30],
        [&marker[..2], &[2], &marker[3..16]].concat()
    );
    for _ in 0..100 {
        lab.hear_bytes(P1, &marker);
    }
    let counters = lab.status((0, P1)).counters;
    assert_eq!(counters.markers, u64::from(MARKER_LIMIT));
    assert_eq!(counters.ignored, 101 - u64::from(MARKER_LIMIT));
    lab.advance(SECOND);
    assert_eq!(lab.hear_bytes(P1, &marker).frames.len(), 1);
    lab.link((0, P1), false, None);
    assert_eq!(lab.hear_bytes(P1, &marker).frames, []);
}

#[test]
fn what_makes_no_sense_is_counted_and_changes_nothing() {
    let mut lab = alone(spec(1), &[P1, P2]);
    lab.link((0, P2), false, None);
    let status = lab.status((0, P1));
    let mut group = says(9, 7, 1, SYNCED, &status);
    group[6] = 0x01;
    let mut nobody = says(0, 7, 1, SYNCED, &status);
    nobody[6..12].fill(0);
    for payload in [&[][..], &[1; 50], &[0xff; 110], &group, &nobody] {
        lab.hear_bytes(P1, payload);
    }
    assert_eq!(lab.status((0, P1)).counters.ignored, 5);
    assert_eq!(lab.status((0, P1)).partner, None);
    lab.hear(P2, 9, 7, SYNCED);
    assert_eq!(
        lab.status((0, P2)).receive,
        Receive::Disabled,
        "without a link"
    );
    assert_eq!(lab.status((0, P2)).counters.ignored, 1);
}

/// Something that can happen to a team.
#[derive(Clone, Debug)]
enum Event {
    Heard {
        port: u16,
        bytes: Vec<u8>,
        knows_us: bool,
    },
    Link {
        port: u16,
        up: bool,
        speed: Option<u64>,
    },
    Wait {
        millis: u64,
    },
    Removed {
        port: u16,
    },
    Added {
        port: u16,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let port = 0..4_u16;
    let speed = prop_oneof![
        Just(None),
        Just(Some(0)),
        Just(Some(GIGABIT)),
        Just(Some(u64::MAX))
    ];
    // Few systems, keys and ports, so that groups form; any state.
    let bytes = (0..4_u8, 0..3_u8, 0..3_u8, any::<u8>(), any::<u8>()).prop_map(
        |(system, key, port, state, partner_state)| {
            let mut bytes = vec![0; PDU_LEN];
            bytes[..4].copy_from_slice(&[1, 1, 1, 20]);
            bytes[6..18].copy_from_slice(&[2, 0, 0, 0, 0, system, 0, key, 0, 0, 0, port]);
            (bytes[18], bytes[23], bytes[38], bytes[43]) = (state, 20, partner_state, 16);
            bytes
        },
    );
    let event = prop_oneof![
        8 => (port.clone(), bytes, any::<bool>())
            .prop_map(|(port, bytes, knows_us)| Event::Heard { port, bytes, knows_us }),
        1 => (port.clone(), proptest::collection::vec(any::<u8>(), 0..130))
            .prop_map(|(port, bytes)| Event::Heard { port, bytes, knows_us: false }),
        3 => (port.clone(), any::<bool>(), speed)
            .prop_map(|(port, up, speed)| Event::Link { port, up, speed }),
        4 => (0..5000_u64).prop_map(|millis| Event::Wait { millis }),
        1 => port.clone().prop_map(|port| Event::Removed { port }),
        2 => port.prop_map(|port| Event::Added { port }),
    ];
    proptest::collection::vec(event, 0..200)
}

proptest! {
    #[test]
    fn whatever_happens_one_group_carries_frames_and_what_is_due_is_done(
        events in events(),
        fallback in any::<bool>(),
        mode in prop_oneof![Just(Mode::Active), Just(Mode::Passive)],
    ) {
        let spec = Spec { fallback, mode, ..spec(1) };
        let mut lab = Lab::new(&[spec]);
        (0..3).for_each(|port| lab.teams[0].add(PortId(port)));
        for event in events {
            let now = lab.now;
            match event {
                Event::Heard { port, mut bytes, knows_us } => {
                    if let Some(status) = lab.teams[0].status(PortId(port)).filter(|_| knows_us) {
                        let pdu = Lacpdu { partner: status.actor, ..Lacpdu::parse(&bytes).unwrap() };
                        bytes = pdu.emit(MacAddr::ZERO)[14..].to_vec();
                    }
                    lab.hear_bytes(PortId(port), &bytes);
                }
                Event::Link { port, up, speed } => lab.link((0, PortId(port)), up, speed),
                Event::Wait { millis } => lab.advance(Duration::from_millis(millis)),
                Event::Removed { port } => lab.teams[0].remove(PortId(port), now),
                Event::Added { port } => lab.teams[0].add(PortId(port)),
            }
            let senders = lab.senders(0);
            let lacp = &lab.teams[0];
            let groups: Vec<_> = senders
                .iter()
                .map(|port| lacp.member(*port).unwrap().group(&spec))
                .collect();
            prop_assert!(groups.windows(2).all(|two| two[0] == two[1]));
            let alone = groups.contains(&None);
            prop_assert!(!alone || fallback && senders.len() == 1);
            for port in senders {
                let status = lacp.status(port).unwrap();
                prop_assert!(status.receive != Receive::Disabled && status.selection != Selection::Loop);
                let current = matches!(status.receive, Receive::Current { .. });
                prop_assert!(alone || current);
            }
        }
    }

    #[test]
    fn two_teams_use_every_wire_however_their_links_came_up(
        delays in proptest::collection::vec(0..3000_u64, 8),
        specs in prop_oneof![
            Just([spec(1), spec(2)]),
            Just([spec(2), passive(1)]),
            Just([slow(1), spec(2)]),
            Just([slow(1), slow(2)]),
        ],
    ) {
        let ports: Vec<PortId> = (0..4).map(PortId).collect();
        let mut lab = Lab::new(&specs);
        for port in &ports {
            lab.join((0, *port), (1, *port));
        }
        for (index, delay) in delays.into_iter().enumerate() {
            lab.link((index % 2, ports[index / 2]), true, Some(GIGABIT));
            lab.advance(Duration::from_millis(delay));
        }
        lab.advance(AGGREGATE_WAIT + SECOND);
        lab.assert_both_use(&ports);
    }

    #[test]
    fn two_teams_find_back_to_every_wire_after_any_cuts(
        cuts in proptest::collection::vec((0..2_usize, 0..3_u16, any::<bool>(), 0..4000_u64), 0..30),
        specs in prop_oneof![
            Just([spec(1), with_fallback(2)]),
            Just([spec(2), passive(1)]),
            Just([slow(1), spec(2)]),
        ],
    ) {
        let ports: Vec<PortId> = (0..3).map(PortId).collect();
        let mut lab = Lab::pair(specs, &ports);
        for (team, port, carries, delay) in cuts {
            lab.carry((team, PortId(port)), carries);
            lab.advance(Duration::from_millis(delay));
        }
        for team in 0..2 {
            ports.iter().for_each(|port| lab.carry((team, *port), true));
        }
        lab.advance(AGGREGATE_WAIT + SECOND);
        lab.assert_both_use(&ports);
    }
}

#[test]
fn nothing_is_sent_to_a_partner_that_collects_before_it_can_know_that_we_are_in_sync() {
    let now = Instant::now();
    let mut lacp = Lacp::new(spec(1));
    lacp.add(P1);
    lacp.set_link(P1, true, mac(P1), Some(GIGABIT), now);
    let mut out = OwnFrames::default();
    lacp.handle_timeout(now, &mut out);
    let ours = |out: &OwnFrames| {
        let (_, frame) = out.frames.last().unwrap();
        Lacpdu::parse(&frame[14..]).unwrap().actor
    };
    // Two that are not in sync use up what may be sent in a second.
    let state = State::ACTIVITY | State::TIMEOUT | State::AGGREGATION;
    let early = state | State::SYNCHRONIZATION | State::COLLECTING | State::DISTRIBUTING;
    for (key, state) in [(1, state), (2, state), (3, early)] {
        let partner = ours(&out);
        let actor = Participant {
            system_priority: 0x8000,
            system: MacAddr([2, 0, 0, 0, 0, 2]),
            key,
            port_priority: 0xff,
            port: 7,
            state,
        };
        let pdu = Lacpdu {
            actor,
            partner,
            collector_max_delay: 0,
        };
        lacp.handle_pdu(P1, &pdu.emit(mac(P2))[14..], now, &mut out);
        lacp.handle_timeout(now, &mut out);
    }
    assert_eq!(lacp.status(P1).unwrap().mux, Mux::Distributing);
    assert_eq!(out.frames.len(), 3, "no more may leave in this second");
    assert!(!lacp.may_send(P1), "it has not been told");
    let later = now + SECOND;
    assert!(lacp.poll_timeout().unwrap() <= later);
    lacp.handle_timeout(later, &mut out);
    assert!(ours(&out).state.has(State::SYNCHRONIZATION));
    assert!(lacp.may_send(P1));
}
