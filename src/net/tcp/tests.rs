//! Two endpoints and a wire between them that the tests command, and scripted guests where one side misbehaves.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::wire::tcp::{Options, Sack};

const TIMEOUTS: Timeouts = Timeouts {
    udp: Duration::ZERO,
    dns: Duration::ZERO,
    tcp: Duration::from_secs(7440),
    tcp_transitory: Duration::from_secs(240),
    icmp: Duration::ZERO,
};
const CAP: usize = 200_000;

fn config(iss: u32) -> Config {
    Config {
        iss: Seq(iss),
        mss: 1460,
        default_mss: 536,
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One side: an endpoint, what it has to send, and what it got.
struct Side {
    endpoint: Endpoint,
    /// What is not acknowledged.
    held: Vec<u8>,
    got: Vec<u8>,
    /// How much of `got` nobody has read yet.
    unread: usize,
    /// Reads at once whatever comes.
    reads: bool,
    opened: bool,
    reset: bool,
}

impl Side {
    fn new(endpoint: Endpoint) -> Self {
        let mut side = Self {
            endpoint,
            held: Vec::new(),
            got: Vec::new(),
            unread: 0,
            reads: true,
            opened: false,
            reset: false,
        };
        side.read();
        side
    }

    fn write(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        self.endpoint.set_queued(self.held.len());
    }

    fn read(&mut self) {
        if self.reads {
            self.unread = 0;
        }
        self.endpoint.set_room(CAP - self.unread);
    }

    fn handle(&mut self, tcp: &Tcp, payload: &[u8], now: Instant) {
        let arrival = self.endpoint.handle(tcp, payload.len(), now);
        self.held.drain(..arrival.acked);
        if let Some(range) = arrival.offer {
            self.got.extend_from_slice(&payload[range.clone()]);
            self.unread += range.len();
            assert!(self.unread <= CAP, "never more than there was room for");
            self.endpoint.take(range.len());
        }
        self.opened |= arrival.outcome == Some(Outcome::Opened);
        self.reset |= arrival.outcome == Some(Outcome::Reset);
        self.read();
        self.endpoint.set_queued(self.held.len());
    }

    fn poll(&mut self, now: Instant) -> Option<(Tcp, Vec<u8>, Sent)> {
        let transmit = self.endpoint.poll(now)?;
        Some((
            transmit.tcp,
            self.held[transmit.range].to_vec(),
            transmit.sent,
        ))
    }
}

/// The guest, which opens, and us.
struct Lab {
    guest: Side,
    us: Side,
    now: Instant,
    /// Frames under way, and whether they go to us.
    wire: VecDeque<(bool, Tcp, Vec<u8>)>,
    /// What becomes of the next frames: lost, kept back behind the next, twice there, refused. Passed when used up.
    fates: VecDeque<Fate>,
    frames: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Passes,
    Lost,
    Late,
    Twice,
    Refused,
}

impl Lab {
    /// The guest's SYN has arrived.
    fn held(iss: u32) -> Self {
        let now = Instant::now();
        let mut guest = Side::new(Endpoint::connect(config(iss), now));
        let (syn, ..) = guest.poll(now).unwrap();
        let us = Side::new(Endpoint::accept(config(iss.wrapping_add(77)), &syn, now));
        Self {
            guest,
            us,
            now,
            wire: VecDeque::new(),
            fates: VecDeque::new(),
            frames: 0,
        }
    }

    /// The connection is open.
    fn open(iss: u32) -> Self {
        let mut lab = Self::held(iss);
        lab.us.endpoint.opened();
        lab.run();
        assert!(lab.us.opened && lab.guest.opened);
        lab
    }

    /// Carries frames until none are left.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let mut idle = true;
            for to_us in [false, true] {
                let side = if to_us { &mut self.guest } else { &mut self.us };
                while let Some((tcp, payload, sent)) = side.poll(self.now) {
                    idle = false;
                    self.frames += 1;
                    let frame = (to_us, tcp, payload);
                    match self.fates.pop_front().unwrap_or(Fate::Passes) {
                        Fate::Passes => self.wire.push_back(frame),
                        Fate::Lost => {}
                        Fate::Late => {
                            let at = self.wire.len().saturating_sub(1);
                            self.wire.insert(at, frame);
                        }
                        Fate::Twice => {
                            self.wire.push_back(frame.clone());
                            self.wire.push_back(frame);
                        }
                        Fate::Refused => side.endpoint.refused(sent, self.now),
                    }
                }
            }
            // Half of what is under way arrives before more is sent.
            for _ in 0..self.wire.len().div_ceil(2) {
                let Some((to_us, tcp, payload)) = self.wire.pop_front() else {
                    break;
                };
                idle = false;
                let side = if to_us { &mut self.us } else { &mut self.guest };
                side.handle(&tcp, &payload, self.now);
            }
            if idle {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    /// Waits for the next timer, and does what is due.
    fn wait(&mut self) {
        let timers = [&self.guest, &self.us].map(|side| side.endpoint.poll_timeout(&TIMEOUTS));
        let Some(next) = timers.into_iter().flatten().min() else {
            return;
        };
        self.now = self.now.max(next);
        self.guest.endpoint.handle_timeout(self.now, &TIMEOUTS);
        self.us.endpoint.handle_timeout(self.now, &TIMEOUTS);
        self.run();
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// A guest that the test plays by hand: it expects everything to be true of what we send.
struct Script {
    us: Side,
    now: Instant,
    seq: u32,
}

impl Script {
    const ISS: u32 = 5000;
    const FIRST: u32 = Self::ISS + 1;

    fn open(options: Options, window: u16) -> Self {
        let now = Instant::now();
        let syn = Tcp {
            seq: 99,
            flags: Flags::SYN,
            window,
            options,
            ..Tcp::default()
        };
        let mut us = Side::new(Endpoint::accept(config(Self::ISS), &syn, now));
        us.endpoint.opened();
        let (syn_ack, ..) = us.poll(now).unwrap();
        assert!(syn_ack.flags.has(Flags::SYN | Flags::ACK));
        let mut script = Self { us, now, seq: 100 };
        script.ack(Self::FIRST, window);
        assert!(script.us.opened);
        script
    }

    fn plain() -> Self {
        let options = Options {
            mss: Some(1000),
            sack_permitted: true,
            ..Options::default()
        };
        Self::open(options, 60_000)
    }

    fn segment(&self, flags: Flags, ack: u32, window: u16) -> Tcp {
        Tcp {
            seq: self.seq,
            ack,
            flags,
            window,
            ..Tcp::default()
        }
    }

    fn send(&mut self, tcp: Tcp, payload: &[u8]) {
        self.us.handle(&tcp, payload, self.now);
    }

    fn ack(&mut self, ack: u32, window: u16) {
        self.send(self.segment(Flags::ACK, ack, window), &[]);
    }

    fn sack(&mut self, ack: u32, blocks: &[(u32, u32)]) {
        let mut sack = Sack::default();
        for block in blocks {
            sack.push(*block);
        }
        let mut tcp = self.segment(Flags::ACK, ack, 60_000);
        tcp.options.sack = sack;
        self.send(tcp, &[]);
    }

    /// What we send now: first number and length of each segment.
    fn sent(&mut self) -> Vec<(u32, u32)> {
        let mut sent = Vec::new();
        while let Some((tcp, payload, _)) = self.us.poll(self.now) {
            sent.push((
                tcp.seq.wrapping_sub(Self::FIRST),
                u32::try_from(payload.len()).unwrap(),
            ));
        }
        sent
    }

    fn wait(&mut self) {
        self.now = self.us.endpoint.poll_timeout(&TIMEOUTS).unwrap();
        self.us.endpoint.handle_timeout(self.now, &TIMEOUTS);
    }
}

#[test]
fn the_guests_syn_is_answered_once_the_outside_has_connected() {
    let mut lab = Lab::held(1);
    let again = Tcp {
        seq: 1,
        flags: Flags::SYN,
        ..Tcp::default()
    };
    lab.us.handle(&again, &[], lab.now);
    assert!(lab.us.poll(lab.now).is_none(), "nothing is said before");
    assert_eq!(lab.us.endpoint.state(), "opening");
    lab.us.endpoint.opened();
    lab.run();
    assert!(lab.us.opened && lab.guest.opened);
    assert_eq!(lab.us.endpoint.state(), "established");
}

#[test]
fn a_guest_whose_connection_is_refused_gets_a_reset() {
    let mut lab = Lab::held(1);
    lab.us.endpoint.abort();
    lab.run();
    assert!(lab.guest.reset && lab.guest.endpoint.is_closed() && lab.us.endpoint.is_closed());
}

#[test]
fn a_syn_is_sent_again_and_again_and_then_given_up() {
    let now = Instant::now();
    let mut us = Side::new(Endpoint::connect(config(1), now));
    let mut at = now;
    let mut syns = 0;
    while !us.endpoint.is_closed() {
        while let Some((tcp, ..)) = us.poll(at) {
            assert_eq!(tcp.flags, Flags::SYN);
            syns += 1;
        }
        if let Some(next) = us.endpoint.poll_timeout(&TIMEOUTS) {
            at = next;
            us.endpoint.handle_timeout(at, &TIMEOUTS);
        }
    }
    assert_eq!((syns, at - now), (6, Duration::from_secs(63)));
    assert!(us.endpoint.is_broken());
}

#[test]
fn bytes_arrive_both_ways_and_both_close() {
    let mut lab = Lab::open(u32::MAX - 3000);
    let (up, down) = (bytes(1_000_000), bytes(3_000_000));
    lab.guest.write(&up);
    lab.us.write(&down);
    lab.guest.endpoint.close();
    lab.run();
    assert_eq!(
        (lab.us.got.len(), lab.guest.got.len()),
        (up.len(), down.len())
    );
    assert!(lab.us.got == up && lab.guest.got == down);
    assert!(lab.us.endpoint.has_guest_closed() && !lab.us.endpoint.is_over());
    assert_eq!(lab.us.endpoint.state(), "closing");
    lab.us.endpoint.close();
    lab.run();
    assert!(
        lab.us.endpoint.is_closed(),
        "whoever closed second need not wait"
    );
    assert!(!lab.us.endpoint.is_broken());
    assert!(!lab.guest.endpoint.is_closed() && lab.guest.endpoint.is_over());
    lab.wait();
    assert!(lab.guest.endpoint.is_closed());
}

#[test]
fn a_half_closed_connection_carries_the_other_half() {
    let mut lab = Lab::open(1);
    lab.us.endpoint.close();
    lab.run();
    assert!(lab.guest.endpoint.has_guest_closed());
    lab.guest.write(&bytes(100_000));
    lab.run();
    assert_eq!(lab.us.got, bytes(100_000));
    lab.guest.endpoint.close();
    lab.run();
    assert!(lab.us.endpoint.is_over() && lab.guest.endpoint.is_closed());
}

#[test]
fn both_may_close_at_once() {
    let mut lab = Lab::open(1);
    lab.us.endpoint.close();
    lab.guest.endpoint.close();
    lab.run();
    assert!(lab.us.endpoint.is_over() && lab.guest.endpoint.is_over());
}

#[test]
fn a_burst_is_answered_once() {
    let mut script = Script::plain();
    script.sent();
    for _ in 0..10 {
        let tcp = script.segment(Flags::ACK, Script::FIRST, 60_000);
        script.send(tcp, &[7; 1000]);
        script.seq += 1000;
    }
    assert_eq!(script.sent().len(), 1);
    assert_eq!(script.us.got.len(), 10_000);
}

#[test]
fn out_of_order_data_is_refused_and_each_piece_answered() {
    let mut script = Script::plain();
    script.sent();
    script.seq += 1000;
    for _ in 0..3 {
        let tcp = script.segment(Flags::ACK, Script::FIRST, 60_000);
        script.send(tcp, &[7; 1000]);
        script.seq += 1000;
    }
    assert_eq!(script.sent().len(), 3, "so that the guest notices");
    assert!(script.us.got.is_empty());
}

#[test]
fn a_window_that_was_closed_is_announced_when_it_opens() {
    let mut lab = Lab::open(1);
    lab.us.reads = false;
    lab.guest.write(&bytes(2 * CAP));
    lab.run();
    assert!(lab.us.unread > CAP - 2000, "as much as there is room for");
    lab.us.reads = true;
    lab.us.read();
    lab.run();
    assert_eq!(lab.us.got, bytes(2 * CAP));
}

#[test]
fn a_guest_without_room_is_asked_until_it_has_some() {
    let mut script = Script::plain();
    script.ack(Script::FIRST, 0);
    script.us.write(&bytes(5000));
    assert_eq!(script.sent(), []);
    let begin = script.now;
    for _ in 0..200 {
        script.wait();
        assert_eq!(script.sent(), [(0, 1)]);
        script.ack(Script::FIRST, 0);
        assert_eq!(script.sent(), []);
    }
    assert!(
        script.now - begin > 2 * SILENCE,
        "for as long as it answers"
    );
    script.ack(Script::FIRST, 60_000);
    script.wait();
    let sent = script.sent();
    assert_eq!(sent[0], (0, 1000));
    script.ack(Script::FIRST + 1000, 60_000);
    assert_eq!(script.sent(), [(1000, 4000)]);
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for_and_no_silly_pieces() {
    let mut script = Script::plain();
    script.us.write(&bytes(100_000));
    assert_eq!(script.sent(), [(0, 60_000)]);
    script.ack(Script::FIRST + 59_900, 200);
    assert_eq!(script.sent(), [], "a hundred bytes are not worth a segment");
    script.ack(Script::FIRST + 60_000, 30_000);
    assert_eq!(script.sent(), [(60_000, 30_000)]);
}

#[test]
fn what_is_lost_is_sent_again_after_three_duplicates() {
    let mut script = Script::plain();
    script.us.write(&bytes(10_000));
    assert_eq!(script.sent(), [(0, 10_000)]);
    for _ in 0..3 {
        script.ack(Script::FIRST + 1000, 60_000);
        script.ack(Script::FIRST + 1000, 60_000);
    }
    assert_eq!(script.sent(), [(1000, 1000)]);
    script.ack(Script::FIRST + 4000, 60_000);
    assert_eq!(script.sent(), [(4000, 1000)], "the next hole (RFC 6582)");
    script.ack(Script::FIRST + 10_000, 60_000);
    assert_eq!(script.sent(), []);
    assert!(script.us.held.is_empty());
}

#[test]
fn holes_are_filled_as_selective_acknowledgements_tell() {
    let mut script = Script::plain();
    script.us.write(&bytes(20_000));
    script.sent();
    let at = |offset: u32| Script::FIRST + offset;
    script.sack(at(0), &[(at(1000), at(3000)), (at(4000), at(10_000))]);
    assert_eq!(script.sent(), [(0, 1000), (3000, 1000)]);
    script.sack(at(0), &[(at(1000), at(3000)), (at(4000), at(11_000))]);
    assert_eq!(script.sent(), [], "each once");
    script.wait();
    assert_eq!(
        script.sent(),
        [(0, 1000)],
        "what is lost again, when time is up"
    );
    script.ack(at(20_000), 60_000);
    assert_eq!(script.sent(), []);
}

#[test]
fn what_the_ring_refused_is_sent_again_after_a_pause_that_grows() {
    let mut script = Script::plain();
    script.us.write(&bytes(4000));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (tcp, payload, sent) = script.us.poll(script.now).unwrap();
        assert_eq!((tcp.seq, payload.len()), (Script::FIRST, 4000));
        script.us.endpoint.refused(sent, script.now);
        assert_eq!(script.sent(), []);
        let before = script.now;
        script.wait();
        pauses.push(script.now - before);
    }
    assert_eq!(pauses[..3], [200, 400, 800].map(Duration::from_micros));
    assert_eq!(pauses[7], millis(5));
    let (.., sent) = script.us.poll(script.now).unwrap();
    script.us.endpoint.refused(sent, script.now);
    script.ack(Script::FIRST, 60_000);
    assert_eq!(
        script.sent(),
        [(0, 4000)],
        "or when the guest says anything"
    );
}

#[test]
fn of_several_refused_frames_the_first_is_where_it_goes_on() {
    let mut script = Script::plain();
    script.us.write(&bytes(1000));
    let (.., first) = script.us.poll(script.now).unwrap();
    script.us.write(&bytes(2000));
    let (.., second) = script.us.poll(script.now).unwrap();
    script.us.endpoint.refused(first, script.now);
    script.us.endpoint.refused(second, script.now);
    script.wait();
    assert_eq!(script.sent(), [(0, 3000)]);
}

#[test]
fn a_refused_acknowledgement_a_syn_and_a_fin_are_sent_again() {
    let mut lab = Lab::held(1);
    lab.us.endpoint.opened();
    lab.fates = [Fate::Refused, Fate::Passes, Fate::Passes].into();
    lab.run();
    assert!(!lab.guest.opened);
    lab.wait();
    assert!(lab.us.opened && lab.guest.opened);
    lab.guest.write(b"x");
    lab.fates = [Fate::Passes, Fate::Refused].into();
    lab.run();
    lab.wait();
    assert!(lab.guest.held.is_empty());
    lab.us.endpoint.close();
    lab.fates = [Fate::Refused].into();
    lab.run();
    lab.wait();
    assert!(lab.guest.endpoint.has_guest_closed());
}

#[test]
fn a_guest_that_never_answers_is_given_up_in_the_end() {
    let mut script = Script::plain();
    script.us.write(&bytes(4000));
    let begin = script.now;
    let mut frames = 0;
    while !script.us.endpoint.is_broken() {
        frames += script.sent().len();
        script.wait();
    }
    let after = script.now - begin;
    assert!(after >= SILENCE && after < 2 * SILENCE, "{after:?}");
    assert!(frames < 40, "{frames}");
    let (tcp, ..) = script.us.poll(script.now).unwrap();
    assert!(tcp.flags.has(Flags::RST));
    assert!(script.us.endpoint.is_closed());
}

#[test]
fn an_idle_guest_is_asked_whether_it_is_there() {
    let mut lab = Lab::open(1);
    let begin = lab.now;
    for _ in 0..3 {
        lab.wait();
        lab.run();
        assert!(lab.us.endpoint.is_open() && lab.guest.endpoint.is_open());
    }
    assert!(lab.now - begin >= 2 * TIMEOUTS.tcp);
    let mut script = Script::plain();
    let begin = script.now;
    while !script.us.endpoint.is_broken() {
        script.sent();
        script.wait();
    }
    assert_eq!(script.now - begin, TIMEOUTS.tcp + 3 * PROBE);
}

#[test]
fn only_the_exact_reset_breaks_a_connection_and_others_are_challenged() {
    let mut script = Script::plain();
    script.sent();
    for (offset, flags) in [(5, Flags::RST), (5, Flags::SYN), (0, Flags::SYN)] {
        let mut tcp = script.segment(flags, 0, 0);
        tcp.seq += offset;
        script.send(tcp, &[]);
        assert_eq!(script.sent(), [(0, 0)], "{flags:?}");
    }
    let mut tcp = script.segment(Flags::RST, 0, 0);
    tcp.seq = tcp.seq.wrapping_sub(5);
    script.send(tcp, &[]);
    assert_eq!(
        script.sent(),
        [],
        "one that is not in the window is nothing"
    );
    assert!(!script.us.reset);
    script.send(script.segment(Flags::RST, 0, 0), &[]);
    assert!(script.us.reset && script.us.endpoint.is_closed());
}

#[test]
fn a_guest_that_begins_anew_with_the_same_ports_gets_there() {
    let mut lab = Lab::open(1);
    // It has forgotten the connection, and its SYN is answered by an acknowledgement that it resets.
    lab.guest = Side::new(Endpoint::connect(config(1_000_000), lab.now));
    lab.run();
    assert!(lab.us.reset && lab.us.endpoint.is_closed());

    let mut lab = Lab::open(1);
    lab.us.endpoint.close();
    lab.run();
    lab.guest.endpoint.close();
    lab.run();
    assert!(lab.us.endpoint.is_over() && !lab.us.endpoint.is_closed());
    let syn = Tcp {
        seq: 77,
        flags: Flags::SYN,
        ..Tcp::default()
    };
    let arrival = lab.us.endpoint.handle(&syn, 0, lab.now);
    assert_eq!(arrival.outcome, Some(Outcome::Again));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_challenged() {
    let mut script = Script::plain();
    script.sent();
    script.us.write(&bytes(10));
    script.ack(Script::FIRST + 11, 60_000);
    assert_eq!(script.us.held.len(), 10);
    assert_eq!(script.sent(), [(0, 10)]);
}

#[test]
fn what_was_taken_can_be_given_back_with_the_fin_behind_it() {
    let mut script = Script::plain();
    script.sent();
    let tcp = script.segment(Flags::ACK | Flags::FIN, Script::FIRST, 60_000);
    script.send(tcp, &[7; 1000]);
    assert!(script.us.endpoint.has_guest_closed());
    script.us.endpoint.untake(400);
    assert!(!script.us.endpoint.has_guest_closed());
    let (ack, ..) = script.us.poll(script.now).unwrap();
    assert_eq!(ack.ack, script.seq + 600);
    script.send(tcp, &[7; 1000]);
    assert_eq!(script.us.got.len(), 1400);
    assert!(script.us.endpoint.has_guest_closed());
}

#[test]
fn a_segment_of_no_connection_is_answered_by_a_reset_unless_it_is_one() {
    let mut tcp = Tcp {
        src: 1,
        dst: 2,
        seq: 10,
        flags: Flags::SYN,
        ..Tcp::default()
    };
    let reset = reset_for(&tcp, 0).unwrap();
    assert_eq!((reset.src, reset.dst, reset.seq, reset.ack), (2, 1, 0, 11));
    assert_eq!(reset.flags, Flags::RST | Flags::ACK);
    tcp.flags = Flags::ACK;
    tcp.ack = 99;
    let reset = reset_for(&tcp, 50).unwrap();
    assert_eq!((reset.seq, reset.flags), (99, Flags::RST));
    assert_eq!(reset_for(&reset, 0), None);
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        5 => Just(Fate::Passes),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Late),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Refused),
    ]
}

fn segment() -> impl Strategy<Value = (Tcp, usize)> {
    let number = || prop_oneof![0u32..50, 4990u32..5100, any::<u32>()];
    let blocks = proptest::collection::vec((number(), number()), 0..4);
    let fields = (
        number(),
        number(),
        0u8..64,
        any::<u16>(),
        0usize..3000,
        blocks,
    );
    fields.prop_map(|(seq, ack, flags, window, payload, blocks)| {
        let mut tcp = Tcp {
            seq,
            ack,
            flags: Flags(flags),
            window,
            ..Tcp::default()
        };
        for block in blocks {
            tcp.options.sack.push(block);
        }
        (tcp, payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn bytes_arrive_intact_whatever_becomes_of_the_frames(
        iss in any::<u32>(),
        sizes in proptest::collection::vec(1usize..300_000, 1..5),
        fates in proptest::collection::vec(fate(), 0..200),
    ) {
        let mut lab = Lab::open(iss);
        lab.fates = fates.into();
        let mut sent = Vec::new();
        for size in sizes {
            let chunk = bytes(size);
            lab.guest.write(&chunk);
            lab.us.write(&chunk);
            sent.extend_from_slice(&chunk);
            lab.run();
        }
        lab.guest.endpoint.close();
        lab.us.endpoint.close();
        lab.run();
        for _ in 0..1000 {
            if lab.us.endpoint.is_over() && lab.guest.endpoint.is_over() {
                break;
            }
            lab.wait();
        }
        prop_assert!(lab.us.got == sent && lab.guest.got == sent);
        // Whose last acknowledgement is lost more often than the other waits for may never hear that all is well.
        let ended = |side: &Side| side.endpoint.is_closed() && !side.endpoint.is_broken();
        prop_assert!(!lab.us.endpoint.is_broken() || ended(&lab.guest));
        prop_assert!(!lab.guest.endpoint.is_broken() || ended(&lab.us));
        prop_assert!(lab.us.endpoint.is_over() && lab.guest.endpoint.is_over());
    }

    #[test]
    fn nothing_that_a_guest_sends_makes_trouble(
        segments in proptest::collection::vec(segment(), 1..60),
    ) {
        let mut script = Script::plain();
        script.us.write(&bytes(50_000));
        for (tcp, payload) in segments {
            script.send(tcp, &bytes(payload));
            for _ in 0..1000 {
                let Some((_, payload, _)) = script.us.poll(script.now) else {
                    break;
                };
                prop_assert!(payload.len() <= LARGEST as usize);
            }
            prop_assert!(script.us.poll(script.now).is_none());
            if let Some(next) = script.us.endpoint.poll_timeout(&TIMEOUTS) {
                script.now = script.now.max(next);
                script.us.endpoint.handle_timeout(script.now, &TIMEOUTS);
            }
        }
    }
}

#[test]
fn what_is_about_to_be_followed_by_more_is_acknowledged_with_it() {
    let mut lab = Lab::open(7);
    let write = |lab: &mut Lab, len: usize| {
        lab.guest.write(&bytes(len));
        while let Some((tcp, payload, _)) = lab.guest.poll(lab.now) {
            lab.us.handle(&tcp, &payload, lab.now);
        }
    };
    lab.us.endpoint.set_patient(true);
    write(&mut lab, 1000);
    assert!(lab.us.endpoint.owes() && lab.us.poll(lab.now).is_none());
    // What is sent anyway says it.
    lab.us.write(b"x");
    let (tcp, ..) = lab.us.poll(lab.now).unwrap();
    assert!(!lab.us.endpoint.owes());
    lab.guest.handle(&tcp, b"x", lab.now);
    assert!(lab.guest.held.is_empty());
    // So does the end of patience, and so does much that has come.
    write(&mut lab, 1000);
    assert!(lab.us.poll(lab.now).is_none());
    lab.us.endpoint.set_patient(false);
    let (tcp, ..) = lab.us.poll(lab.now).unwrap();
    lab.guest.handle(&tcp, b"", lab.now);
    lab.us.endpoint.set_patient(true);
    lab.guest.reads = true;
    write(&mut lab, CAP.min(70_000));
    let (tcp, ..) = lab.us.poll(lab.now).unwrap();
    lab.guest.handle(&tcp, b"", lab.now);
    // An end is never kept waiting.
    lab.guest.endpoint.close();
    write(&mut lab, 10);
    assert!(lab.us.poll(lab.now).is_some());
}
