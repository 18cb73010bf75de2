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
use self::sender::Sender;
use crate::net::nat::Timeouts;
use crate::wire::tcp::{Flags, Tcp};

pub use self::iss::IssSource;
pub use self::sender::LARGEST;
pub use self::seq::Seq;

mod arrival;
mod departure;
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
    /// Acknowledgements can wait for what is about to come.
    patient: bool,
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
            patient: false,
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

    /// Says whether more of the guest's is about to come, so that what has come can be acknowledged together with it. While
    /// that is so, an acknowledgement may be [owed](Endpoint::owes) although [`Endpoint::poll`] has nothing to send.
    pub const fn set_patient(&mut self, patient: bool) {
        self.patient = patient;
    }

    /// Whether an acknowledgement is owed.
    pub const fn owes(&self) -> bool {
        matches!(self.phase, Phase::Open) && self.receiver.owes()
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
