//! One TCP connection towards a guest, as a state machine (RFC 9293): what arrives goes in, what is to be sent comes out.
//!
//! Owns no payload, no port and no address: ranges of sequence numbers and of the caller's buffers only. Window scaling
//! (RFC 7323) and selective acknowledgements of what we send (RFC 2018) are spoken; timestamps, fast open, urgent data
//! and ECN are not. Out-of-order data of the guest is refused: the path is a copy in memory, which does not reorder.
//!
//! # Theory of operation
//!
//! ```text
//!  guest's SYN ─▶ Held ──opened()──▶ SynReceived ──ACK──▶ Open ──both FINs──▶ TimeWait ─▶ Closed
//!                   └──refuse()──▶ Closed    ▲             ▲
//!  connect() ─▶ SynSent ───────SYN───────────┘             │
//!                   └───────────SYN+ACK────────────────────┘         RST, abort(), silence: Closed from anywhere
//! ```
//!
//! *Open* are all states in which both have synchronised; which side has closed is in the two halves
//! ([`sender`] and [`receiver`]). The caller
//!
//! 1. hands each segment to [`Endpoint::handle`], frees what was acknowledged, takes of the payload what is on offer and
//!    says how much that was ([`Endpoint::take`]);
//! 2. says how much room it has ([`Endpoint::set_room`]) and how much it has to send ([`Endpoint::set_queued`]);
//! 3. asks for segments until there are none ([`Endpoint::poll`]). However many segments were handled before, one
//!    acknowledgement answers them all;
//! 4. reports what the guest's ring refused ([`Endpoint::refused`]);
//! 5. calls [`Endpoint::handle_timeout`] when [`Endpoint::poll_timeout`] says.
//!
//! A peer that does not answer for [`SILENCE`] is given up. One that is idle for the established timeout is asked
//! whether it is there. A RST or SYN that is in the window, but not exactly what is expected, is answered by an
//! acknowledgement (RFC 5961). TIME-WAIT is short: its segments cannot be old on a path through memory, so all that it has
//! to do is to answer a FIN that is sent again.

use std::ops::Range;
use std::time::{Duration, Instant};

use self::receiver::Receiver;
use self::sender::{Piece, Sender};
use crate::net::nat::Timeouts;
use crate::wire::tcp::{Flags, Options, Tcp};

pub use self::iss::IssSource;
pub use self::sender::LARGEST;
pub use self::seq::Seq;

mod iss;
mod receiver;
mod rto;
mod scoreboard;
mod sender;
mod seq;
#[cfg(test)]
mod tests;

/// How long a peer may leave what it has to answer unanswered (RFC 9293, section 3.8.3): a guest may be paused for minutes.
pub const SILENCE: Duration = Duration::from_secs(900);
/// How long a closed connection answers a FIN that is sent again.
const TIME_WAIT: Duration = Duration::from_secs(2);
/// How often a SYN is sent.
const SYNS: u8 = 6;
/// How long a peer has to answer whether it is there, and how often it is asked.
const PROBE: Duration = Duration::from_secs(75);
const PROBES: u8 = 3;
/// Segments smaller than this are nobody's.
const SMALLEST: u16 = 64;

/// Where a connection is; see the picture above.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The guest's SYN is here and not answered: to `SynReceived` or `Closed`, as the outside says.
    Held,
    /// Our SYN is out: to `Open` with the guest's SYN and ACK, to `SynReceived` with its SYN alone.
    SynSent,
    /// Our SYN and ACK is out: to `Open` with the guest's ACK.
    SynReceived,
    /// Synchronised: to `TimeWait` or `Closed` when both have closed.
    Open,
    /// Both have closed, we first: to `Closed` at this time.
    TimeWait(Instant),
    /// Nothing is expected any more.
    Closed,
}

/// A RST that is to be sent.
#[derive(Clone, Copy, Debug)]
struct Reset {
    seq: Seq,
    ack: Option<Seq>,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Our first sequence number.
    pub iss: Seq,
    /// The largest payload of a packet in this network.
    pub mss: u16,
    /// What a peer takes that does not say so (RFC 9293, section 3.7.1): 536 with IPv4, 1220 with IPv6.
    pub default_mss: u16,
}

/// What has come with a segment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Arrival {
    /// How many bytes at the front of what the caller holds were acknowledged.
    pub acked: usize,
    /// The part of the payload that is on offer, if any; it is to be [taken](Endpoint::take) before anything else.
    pub offer: Option<Range<usize>>,
    /// What has become of the connection.
    pub outcome: Option<Outcome>,
}

/// What a segment can make of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is open.
    Opened,
    /// The guest has broken it, or refused it.
    Reset,
    /// It has ended, and the guest begins anew with the same ports: the segment is to be handled as a new connection's.
    Again,
}

/// A segment to be sent.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The header, without ports.
    pub tcp: Tcp,
    /// The payload's place in what the caller holds.
    pub range: Range<usize>,
    /// The largest payload that each packet may have.
    pub mss: u16,
    /// What to say if it was refused.
    pub sent: Sent,
}

/// A segment that was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sent(Kind);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Syn,
    Data(Seq),
    Ack,
    Reset,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Endpoint {
    phase: Phase,
    config: Config,
    sender: Sender,
    receiver: Receiver,
    /// What the guest's SYN said.
    scaled: bool,
    /// The guest takes selective acknowledgements; it sends them then, and we never do.
    sack: bool,
    /// A SYN is to be sent.
    syn_due: bool,
    /// How many were.
    syns: u8,
    /// When the next is due.
    syn_timer: Option<Instant>,
    reset: Option<Reset>,
    /// Since when it was broken, not closed.
    broken: bool,
    /// Our FIN was sent before the guest's came.
    closed_first: bool,
    /// When something came last.
    heard: Instant,
    /// Since when something is unanswered.
    unanswered: Option<Instant>,
    /// How often an idle peer was asked whether it is there.
    probes: u8,
    probe_due: bool,
}

impl Endpoint {
    /// Takes in a guest's SYN, which is answered once the outside [has connected](Self::opened).
    pub fn accept(config: Config, syn: &Tcp, now: Instant) -> Self {
        let mut this = Self::new(config, Phase::Held, now);
        this.learn(syn);
        this
    }

    /// Opens a connection to a guest.
    pub fn connect(config: Config, now: Instant) -> Self {
        let mut this = Self::new(config, Phase::SynSent, now);
        this.syn_due = true;
        this
    }

    fn new(config: Config, phase: Phase, now: Instant) -> Self {
        Self {
            phase,
            config,
            sender: Sender::new(config.iss.plus(1), config.default_mss, 0),
            receiver: Receiver::new(Seq(0), 0, config.mss),
            scaled: true,
            sack: true,
            syn_due: false,
            syns: 0,
            syn_timer: None,
            reset: None,
            broken: false,
            closed_first: false,
            heard: now,
            unanswered: None,
            probes: 0,
            probe_due: false,
        }
    }

    /// Takes in what a SYN says of its sender.
    fn learn(&mut self, syn: &Tcp) {
        let options = &syn.options;
        let mss = options.mss.unwrap_or(self.config.default_mss);
        let mss = mss.clamp(SMALLEST, self.config.mss.max(SMALLEST));
        let scale = options.window_scale;
        self.scaled = scale.is_some();
        self.sack = options.sack_permitted;
        self.sender = Sender::new(self.config.iss.plus(1), mss, scale.unwrap_or(0));
        self.sender.open(syn, true);
        let ours = if self.scaled { receiver::SCALE } else { 0 };
        let room = self.receiver.room();
        self.receiver = Receiver::new(Seq(syn.seq).plus(1), ours, self.config.mss);
        self.receiver.set_room(room);
    }

    /// Says that the outside has connected: the guest's SYN is answered.
    pub fn opened(&mut self) {
        if self.phase == Phase::Held {
            self.phase = Phase::SynReceived;
            self.syn_due = true;
        }
    }

    /// Ends the connection with a RST to the guest.
    pub fn abort(&mut self) {
        self.reset = match self.phase {
            Phase::Held => Some(Reset {
                seq: Seq(0),
                ack: Some(self.receiver.nxt()),
            }),
            Phase::SynReceived | Phase::Open => Some(Reset {
                seq: self.sender.reset_seq(),
                ack: Some(self.receiver.nxt()),
            }),
            Phase::SynSent | Phase::TimeWait(_) | Phase::Closed => None,
        };
        self.phase = Phase::Closed;
        self.broken = true;
    }

    /// Ends the connection without a word.
    pub const fn forget(&mut self) {
        self.phase = Phase::Closed;
        self.broken = true;
        self.reset = None;
    }

    /// Whether the guest's SYN waits for the outside.
    pub fn is_held(&self) -> bool {
        self.phase == Phase::Held
    }

    /// Whether data flows, or did.
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::TimeWait(_))
    }

    /// Whether the outside is not needed any more: both have closed, or the connection is broken.
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Held | Phase::SynSent | Phase::SynReceived => false,
            Phase::Open => self.sender.is_finished() && self.receiver.is_finished(),
            Phase::TimeWait(_) | Phase::Closed => true,
        }
    }

    /// Whether it was broken and not closed: by a RST of either side, or silence.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether nothing is to be sent or expected any more.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed && self.reset.is_none()
    }

    /// Whether the guest has closed its direction, and all of it was taken.
    pub const fn has_guest_closed(&self) -> bool {
        self.receiver.is_finished()
    }

    /// Returns the word for the state.
    pub const fn state(&self) -> &'static str {
        match self.phase {
            Phase::Held | Phase::SynSent | Phase::SynReceived => "opening",
            Phase::Open if !self.receiver.is_finished() && !self.sender.is_closed() => {
                "established"
            }
            Phase::Open | Phase::TimeWait(_) | Phase::Closed => "closing",
        }
    }

    /// When something came last.
    pub const fn heard(&self) -> Instant {
        self.heard
    }

    /// The guest's first number less one, as an ICMP error repeats it while the SYN is held.
    pub const fn guest_syn(&self) -> Seq {
        self.receiver.nxt().minus(1)
    }

    /// How many bytes the guest takes at present beyond what it has acknowledged.
    pub fn window(&self) -> usize {
        match self.phase {
            Phase::Open => usize::try_from(self.sender.window()).unwrap_or(usize::MAX),
            Phase::Held
            | Phase::SynSent
            | Phase::SynReceived
            | Phase::TimeWait(_)
            | Phase::Closed => 0,
        }
    }

    /// Says how many bytes the caller has room for.
    pub fn set_room(&mut self, bytes: usize) {
        let room = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.receiver.set_room(room);
    }

    /// Says how many bytes the caller holds for the guest, from the first that is not acknowledged.
    pub fn set_queued(&mut self, bytes: usize) {
        self.sender
            .set_queued(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Says that nothing follows what the caller holds: a FIN is sent behind it.
    pub const fn close(&mut self) {
        self.sender.close();
    }

    /// Takes the first `len` bytes of what was offered; what is not taken, the guest sends again.
    pub fn take(&mut self, len: usize) {
        self.receiver.take(len);
    }

    /// Gives back the last `len` bytes taken, before anything was sent.
    pub fn untake(&mut self, len: usize) {
        self.receiver.untake(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Takes in a segment of the guest's.
    pub fn handle(&mut self, segment: &Tcp, payload: usize, now: Instant) -> Arrival {
        let payload = u32::try_from(payload).unwrap_or(u32::MAX);
        match self.phase {
            Phase::Held => self.handle_held(segment),
            Phase::SynSent => self.handle_syn_sent(segment, now),
            Phase::SynReceived | Phase::Open => self.handle_synchronised(segment, payload, now),
            Phase::TimeWait(_) => self.handle_time_wait(segment, payload, now),
            Phase::Closed => Arrival::default(),
        }
    }

    /// While the outside connects, the guest can only begin anew or give up.
    fn handle_held(&mut self, segment: &Tcp) -> Arrival {
        let seq = Seq(segment.seq);
        if segment.flags.has(Flags::RST) {
            let expected = seq == self.receiver.nxt() || seq == self.guest_syn();
            return if expected {
                self.broke()
            } else {
                Arrival::default()
            };
        }
        if segment.flags.has(Flags::SYN) && seq != self.guest_syn() {
            self.learn(segment);
        }
        Arrival::default()
    }

    /// RFC 9293, section 3.10.7.3.
    fn handle_syn_sent(&mut self, segment: &Tcp, now: Instant) -> Arrival {
        let flags = segment.flags;
        let acked = flags.has(Flags::ACK);
        if acked && Seq(segment.ack) != self.config.iss.plus(1) {
            if !flags.has(Flags::RST) {
                self.reset = Some(Reset {
                    seq: Seq(segment.ack),
                    ack: None,
                });
            }
            return Arrival::default();
        }
        if flags.has(Flags::RST) {
            return if acked {
                self.broke()
            } else {
                Arrival::default()
            };
        }
        if !flags.has(Flags::SYN) {
            return Arrival::default();
        }
        self.learn(segment);
        self.note_heard(now);
        if !acked {
            // Both open at once.
            self.phase = Phase::SynReceived;
            self.syn_due = true;
            return Arrival::default();
        }
        self.receiver.owe();
        self.open();
        Arrival {
            outcome: Some(Outcome::Opened),
            ..Arrival::default()
        }
    }

    const fn open(&mut self) {
        self.phase = Phase::Open;
        self.syn_due = false;
        self.syn_timer = None;
    }

    /// RFC 9293, section 3.10.7.4, with RFC 5961.
    fn handle_synchronised(&mut self, segment: &Tcp, payload: u32, now: Instant) -> Arrival {
        let flags = segment.flags;
        let seq = Seq(segment.seq);
        let mut arrival = Arrival::default();
        let again = seq == self.guest_syn() && flags.has(Flags::SYN) && !flags.has(Flags::RST);
        if self.phase == Phase::SynReceived && again && !flags.has(Flags::ACK) {
            self.syn_due = true;
            return arrival;
        }
        if !self.receiver.accepts(segment, payload) {
            if !flags.has(Flags::RST) {
                self.receiver.owe_duplicate();
                // Somebody is there, if it is only to ask whether we are.
                self.note_heard(now);
            }
            return arrival;
        }
        if flags.has(Flags::RST) {
            if seq == self.receiver.nxt() {
                return self.broke();
            }
            self.receiver.owe();
            return arrival;
        }
        if flags.has(Flags::SYN) {
            self.receiver.owe();
            return arrival;
        }
        if !flags.has(Flags::ACK) {
            return arrival;
        }
        let ack = Seq(segment.ack);
        if self.phase == Phase::SynReceived {
            if ack != self.config.iss.plus(1) {
                self.reset = Some(Reset {
                    seq: ack,
                    ack: None,
                });
                return arrival;
            }
            self.open();
            self.sender.open(segment, false);
            arrival.outcome = Some(Outcome::Opened);
        }
        let oldest = self.sender.una().minus(self.sender.largest_window());
        if ack.after(self.sender.max()) || ack.before(oldest) {
            self.receiver.owe();
            return arrival;
        }
        self.note_heard(now);
        let acked = self.sender.acknowledge(segment, payload, now);
        arrival.acked = usize::try_from(acked).unwrap_or(usize::MAX);
        let offer = self.receiver.offer(segment, payload);
        if offer.as_ref().is_some_and(Range::is_empty) {
            self.receiver.take(0);
        } else {
            arrival.offer = offer;
        }
        arrival
    }

    /// What is sent again is answered again; a new SYN ends the wait (RFC 9293, section 3.10.7.4).
    fn handle_time_wait(&mut self, segment: &Tcp, payload: u32, now: Instant) -> Arrival {
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            self.phase = Phase::Closed;
        } else if flags.has(Flags::SYN) && !flags.has(Flags::ACK) {
            self.phase = Phase::Closed;
            return Arrival {
                outcome: Some(Outcome::Again),
                ..Arrival::default()
            };
        } else if flags.has(Flags::FIN) || payload > 0 {
            self.receiver.owe();
            self.phase = Phase::TimeWait(now + TIME_WAIT);
        }
        Arrival::default()
    }

    const fn note_heard(&mut self, now: Instant) {
        self.heard = now;
        self.unanswered = None;
        self.probes = 0;
        self.probe_due = false;
    }

    const fn broke(&mut self) -> Arrival {
        self.forget();
        Arrival {
            acked: 0,
            offer: None,
            outcome: Some(Outcome::Reset),
        }
    }

    /// Returns the next segment to be sent, if there is one.
    pub fn poll(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(reset) = self.reset.take() {
            return Some(self.transmit_reset(reset));
        }
        self.settle(now);
        match self.phase {
            Phase::Held | Phase::Closed => None,
            Phase::SynSent | Phase::SynReceived => self.poll_syn(now),
            Phase::Open | Phase::TimeWait(_) => self.poll_open(now),
        }
    }

    /// Ends what both have closed.
    fn settle(&mut self, now: Instant) {
        let finished = self.sender.is_finished() && self.receiver.is_finished();
        if self.phase == Phase::Open && finished {
            if self.closed_first {
                self.phase = Phase::TimeWait(now + TIME_WAIT);
            } else if !self.receiver.owes() {
                self.phase = Phase::Closed;
            }
        }
    }

    fn poll_syn(&mut self, now: Instant) -> Option<Transmit> {
        if !self.syn_due || self.sender.is_paused() {
            return None;
        }
        self.syn_due = false;
        let wait = Duration::from_secs(1 << self.syns.min(6));
        self.syn_timer = Some(now + wait);
        let answers = self.phase == Phase::SynReceived;
        let (ack, window) = self.receiver.announce_unscaled();
        let tcp = Tcp {
            seq: self.config.iss.0,
            ack: if answers { ack.0 } else { 0 },
            flags: if answers {
                Flags::SYN | Flags::ACK
            } else {
                Flags::SYN
            },
            window,
            options: Options {
                mss: Some(self.config.mss),
                window_scale: self.scaled.then_some(receiver::SCALE),
                sack_permitted: self.sack,
                ..Options::default()
            },
            ..Tcp::default()
        };
        Some(self.transmit(tcp, Kind::Syn))
    }

    fn poll_open(&mut self, now: Instant) -> Option<Transmit> {
        if self.sender.is_paused() {
            return None;
        }
        if self.receiver.owes_duplicate() {
            let announced = self.receiver.announce_duplicate();
            return Some(self.transmit_ack(self.sender.ack_seq(), announced));
        }
        if self.phase == Phase::Open
            && let Some(piece) = self.sender.next(now)
        {
            return Some(self.transmit_piece(piece, now));
        }
        if self.probe_due {
            self.probe_due = false;
            let announced = self.receiver.announce();
            return Some(self.transmit_ack(self.sender.una().minus(1), announced));
        }
        if self.receiver.owes() {
            let announced = self.receiver.announce();
            return Some(self.transmit_ack(self.sender.ack_seq(), announced));
        }
        self.settle(now);
        None
    }

    fn transmit_piece(&mut self, piece: Piece, now: Instant) -> Transmit {
        if self.unanswered.is_none() {
            self.unanswered = Some(now);
        }
        let (ack, window) = self.receiver.announce();
        let mut flags = Flags::ACK;
        if piece.push {
            flags |= Flags::PSH;
        }
        if piece.fin {
            flags |= Flags::FIN;
            // An answer to a FIN that acknowledges the guest's tells that the guest need not send its own again.
            self.closed_first |= !self.receiver.is_finished();
        }
        let tcp = Tcp {
            seq: piece.seq.0,
            ack: ack.0,
            flags,
            window,
            ..Tcp::default()
        };
        let at = piece.seq.since(self.sender.una()) as usize;
        Transmit {
            range: at..at + piece.len as usize,
            ..self.transmit(tcp, Kind::Data(piece.seq))
        }
    }

    fn transmit_ack(&self, seq: Seq, (ack, window): (Seq, u16)) -> Transmit {
        let tcp = Tcp {
            seq: seq.0,
            ack: ack.0,
            flags: Flags::ACK,
            window,
            ..Tcp::default()
        };
        self.transmit(tcp, Kind::Ack)
    }

    fn transmit_reset(&self, reset: Reset) -> Transmit {
        let tcp = Tcp {
            seq: reset.seq.0,
            ack: reset.ack.map_or(0, |ack| ack.0),
            flags: match reset.ack {
                Some(_) => Flags::RST | Flags::ACK,
                None => Flags::RST,
            },
            ..Tcp::default()
        };
        self.transmit(tcp, Kind::Reset)
    }

    fn transmit(&self, tcp: Tcp, kind: Kind) -> Transmit {
        Transmit {
            tcp,
            range: 0..0,
            mss: self.sender.mss(),
            sent: Sent(kind),
        }
    }

    /// Takes in that the guest's ring refused a segment: it is sent again after a short pause. Of several, the earliest
    /// decides.
    pub fn refused(&mut self, sent: Sent, now: Instant) {
        match sent.0 {
            Kind::Syn => {
                self.syn_due = true;
                self.sender.pause_sending(now);
            }
            Kind::Data(seq) => self.sender.refuse(seq, now),
            Kind::Ack => {
                self.receiver.owe();
                self.sender.pause_sending(now);
            }
            Kind::Reset => {}
        }
    }

    /// When something is due.
    pub fn poll_timeout(&self, timeouts: &Timeouts) -> Option<Instant> {
        let own = match self.phase {
            Phase::Held => Some(self.heard + timeouts.tcp_transitory),
            Phase::SynSent | Phase::SynReceived => self.syn_timer,
            Phase::Open => Some(self.idle_at(timeouts)),
            Phase::TimeWait(until) => Some(until),
            Phase::Closed => return None,
        };
        match (own, self.sender.poll_timeout()) {
            (Some(own), Some(sender)) => Some(own.min(sender)),
            (own, sender) => own.or(sender),
        }
    }

    /// When it is to be found out whether an idle peer is there.
    fn idle_at(&self, timeouts: &Timeouts) -> Instant {
        self.heard + timeouts.tcp + PROBE * u32::from(self.probes)
    }

    /// When the connection is given up if nothing comes.
    pub fn expires(&self, timeouts: &Timeouts) -> Instant {
        match self.phase {
            Phase::Held | Phase::SynSent | Phase::SynReceived => {
                self.heard + timeouts.tcp_transitory
            }
            Phase::Open => self.heard + timeouts.tcp + PROBE * u32::from(PROBES),
            Phase::TimeWait(until) => until,
            Phase::Closed => self.heard,
        }
    }

    /// Does what is due. Safe to call early or late; there may be something to send afterwards.
    pub fn handle_timeout(&mut self, now: Instant, timeouts: &Timeouts) {
        self.sender.handle_timeout(now);
        match self.phase {
            Phase::Held => {
                if self.heard + timeouts.tcp_transitory <= now {
                    self.abort();
                }
            }
            Phase::SynSent | Phase::SynReceived => {
                if self.syn_timer.is_some_and(|timer| timer <= now) {
                    self.syns += 1;
                    self.syn_timer = None;
                    self.syn_due = true;
                    if self.syns >= SYNS {
                        self.abort();
                    }
                }
            }
            Phase::Open => {
                let silent = self
                    .unanswered
                    .is_some_and(|since| now.saturating_duration_since(since) >= SILENCE);
                if silent && self.sender.backoff() > 0 {
                    self.abort();
                } else if self.idle_at(timeouts) <= now {
                    if self.probes >= PROBES {
                        self.abort();
                    } else {
                        self.probes += 1;
                        self.probe_due = true;
                    }
                }
            }
            Phase::TimeWait(until) => {
                if until <= now {
                    self.phase = Phase::Closed;
                }
            }
            Phase::Closed => {}
        }
    }
}

/// Returns the RST that answers a segment of no connection (RFC 9293, section 3.10.7.1), ports included.
pub fn reset_for(segment: &Tcp, payload: usize) -> Option<Tcp> {
    let flags = segment.flags;
    if flags.has(Flags::RST) {
        return None;
    }
    let mut reset = Tcp {
        src: segment.dst,
        dst: segment.src,
        flags: Flags::RST,
        ..Tcp::default()
    };
    if flags.has(Flags::ACK) {
        reset.seq = segment.ack;
    } else {
        let controls = u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
        let len = u32::try_from(payload).unwrap_or(u32::MAX);
        reset.ack = segment.seq.wrapping_add(len).wrapping_add(controls);
        reset.flags |= Flags::ACK;
    }
    Some(reset)
}
