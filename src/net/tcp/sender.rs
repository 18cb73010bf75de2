//! The way to the guest: what is sent when, and again (RFC 9293, section 3.8; RFC 6298; RFC 2018; RFC 5681 without its
//! congestion window).
//!
//! # Theory of operation
//!
//! `una ≤ nxt ≤ max`: acknowledged up to `una`, to be sent next, and sent at most. What the caller holds ends at `end`;
//! a FIN has the number `end`. `nxt` goes back when the guest's ring refused a frame, and to `una` when the timer ran out.
//!
//! *Refused*: the frame never left, so nothing was lost. It is sent again after a pause that doubles, or as soon as
//! anything comes from the guest, which then looks at its ring.
//!
//! *Lost*: three duplicate acknowledgements, or enough that arrived behind a hole. Each hole is sent once; what is lost
//! again waits for the timer. *Zero window*: the timer sends one byte, for as long as the guest answers.

use std::time::{Duration, Instant};

use crate::net::tcp::rto::Rto;
use crate::net::tcp::scoreboard::Scoreboard;
use crate::net::tcp::seq::Seq;
use crate::wire::tcp::Tcp;

/// The largest payload of one frame: what an IPv4 packet has room for beside its headers.
pub const LARGEST: u32 = 65_475;
/// How many duplicate acknowledgements mean a loss (RFC 5681).
const DUPLICATES: u8 = 3;
/// How long the first pause lasts after the guest's ring refused a frame.
const PAUSE: Duration = Duration::from_micros(200);
/// How long pauses get.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// A loss that is being made good.
#[derive(Clone, Copy, Debug)]
struct Recovery {
    /// Up to where holes were filled.
    next: Seq,
    /// What had been sent when the loss was noticed.
    until: Seq,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) seq: Seq,
    pub(super) len: u32,
    pub(super) fin: bool,
    /// It ends what the caller holds.
    pub(super) push: bool,
}

/// The sending half of a connection that is open.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    una: Seq,
    nxt: Seq,
    max: Seq,
    end: Seq,
    /// No more will come from the caller.
    closed: bool,
    mss: u32,
    /// The guest's window, and the segment that it was taken from.
    window: u32,
    largest_window: u32,
    window_from: (Seq, Seq),
    scale: u8,
    arrived: Scoreboard,
    duplicates: u8,
    recovery: Option<Recovery>,
    rto: Rto,
    timer: Option<Instant>,
    pause: Duration,
    paused_until: Option<Instant>,
    /// Something is to be sent although the guest has no room, or little.
    probe: bool,
    /// The timer ran out, and nothing was acknowledged since: one segment is out at most.
    cautious: bool,
}

impl Sender {
    /// Begins with the first number of the data, the largest segment, and what the guest's windows are shifted by.
    pub(super) fn new(first: Seq, mss: u16, scale: u8) -> Self {
        Self {
            una: first,
            nxt: first,
            max: first,
            end: first,
            closed: false,
            mss: u32::from(mss),
            window: 0,
            largest_window: 0,
            window_from: (first, first),
            scale,
            arrived: Scoreboard::default(),
            duplicates: 0,
            recovery: None,
            rto: Rto::default(),
            timer: None,
            pause: PAUSE,
            paused_until: None,
            probe: false,
            cautious: false,
        }
    }

    /// Takes the window from the segment that opened the connection, whose window is not shifted if it is a SYN.
    pub(super) fn open(&mut self, segment: &Tcp, syn: bool) {
        let scale = if syn { 0 } else { self.scale };
        self.window = u32::from(segment.window) << scale;
        self.largest_window = self.window;
        self.window_from = (Seq(segment.seq), Seq(segment.ack));
    }

    pub(super) const fn una(&self) -> Seq {
        self.una
    }

    /// The number of a segment that carries nothing: what comes next, if the guest has room for it.
    pub(super) fn ack_seq(&self) -> Seq {
        let edge = self.una.plus(self.window);
        self.max.min(edge)
    }

    /// What the guest most likely expects next: a RST has to have that number (RFC 5961).
    pub(super) const fn reset_seq(&self) -> Seq {
        if self.rto.backoff() > 0 {
            self.max
        } else {
            self.nxt
        }
    }

    pub(super) const fn max(&self) -> Seq {
        self.max
    }

    pub(super) fn mss(&self) -> u16 {
        u16::try_from(self.mss).unwrap_or(u16::MAX)
    }

    /// The largest window that the guest has had.
    pub(super) const fn largest_window(&self) -> u32 {
        self.largest_window
    }

    /// How much the guest takes beyond what it has acknowledged.
    pub(super) const fn window(&self) -> u32 {
        self.window
    }

    /// Says how much the caller holds that is not acknowledged; what was said before never gets less.
    pub(super) fn set_queued(&mut self, bytes: u32) {
        if !self.closed {
            self.end = self.end.max(self.una.plus(bytes));
        }
    }

    /// Says that nothing follows what the caller holds.
    pub(super) const fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing follows what the caller holds.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the guest has acknowledged everything and the FIN.
    pub(super) const fn is_finished(&self) -> bool {
        self.closed && self.una.after(self.end)
    }

    /// Whether something that was sent is not acknowledged.
    pub(super) const fn is_waiting(&self) -> bool {
        self.max.after(self.una)
    }

    /// Takes in an acknowledgement within what was sent, and returns how many bytes the caller need not hold any more.
    pub(super) fn acknowledge(&mut self, segment: &Tcp, payload: u32, now: Instant) -> u32 {
        let (seq, ack) = (Seq(segment.seq), Seq(segment.ack));
        // Whoever sends looks at its ring as well.
        self.paused_until = None;
        let window = u32::from(segment.window) << self.scale;
        let mut acked = 0;
        if ack.after(self.una) {
            acked = ack.min(self.end).since(self.una);
            self.una = ack;
            self.nxt = self.nxt.max(ack);
            self.duplicates = 0;
            self.pause = PAUSE;
            self.rto.note_acked(ack, now);
            self.arrived.advance(ack);
            self.timer = None;
            self.cautious = false;
            match &mut self.recovery {
                Some(recovery) if ack.before(recovery.until) => {
                    if self.arrived.is_empty() {
                        // The next hole begins here (RFC 6582).
                        recovery.next = ack;
                    }
                }
                recovery => *recovery = None,
            }
        } else if ack == self.una
            && payload == 0
            && window == self.window
            && window > 0
            && self.nxt.after(self.una)
        {
            self.duplicates = self.duplicates.saturating_add(1);
        }
        for (start, end) in segment.options.sack.blocks() {
            let (start, end) = (Seq(*start), Seq(*end));
            if start.after(self.una) && !end.after(self.max) {
                self.arrived.insert(start, end);
            }
        }
        self.notice_loss();
        let (last_seq, last_ack) = self.window_from;
        if last_seq.before(seq) || last_seq == seq && !ack.before(last_ack) {
            self.window = window;
            self.largest_window = self.largest_window.max(window);
            self.window_from = (seq, ack);
            if window > 0 {
                self.probe = false;
            }
        }
        if self.timer.is_none() && self.is_waiting() {
            self.timer = Some(now + self.rto.timeout());
        }
        acked
    }

    fn notice_loss(&mut self) {
        let lost = self.duplicates >= DUPLICATES || self.arrived.bytes() > 3 * self.mss;
        // What the ring refused is to be sent anyway.
        if lost && self.recovery.is_none() && self.nxt.after(self.una) {
            self.recovery = Some(Recovery {
                next: self.una,
                until: self.max,
            });
            self.rto.note_sent_again();
        }
        if lost {
            self.duplicates = 0;
        }
    }

    /// Takes in that the guest's ring refused what was sent from `seq` on.
    pub(super) fn refuse(&mut self, seq: Seq, now: Instant) {
        if !seq.before(self.una) && seq.before(self.nxt) {
            self.nxt = seq;
            self.rto.note_sent_again();
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.next = recovery.next.min(seq);
        }
        self.pause_sending(now);
    }

    /// Sends nothing for a while, the longer the more often this was asked for in a row.
    pub(super) fn pause_sending(&mut self, now: Instant) {
        if self.paused_until.is_none() {
            self.paused_until = Some(now + self.pause);
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        }
    }

    /// Whether nothing may be sent at present.
    pub(super) const fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Decides what is sent next, and takes it as sent.
    pub(super) fn next(&mut self, now: Instant) -> Option<Piece> {
        if self.is_paused() {
            return None;
        }
        let piece = self.next_hole().or_else(|| self.next_new(now))?;
        if self.timer.is_none() {
            self.timer = Some(now + self.rto.timeout());
        }
        Some(piece)
    }

    /// What was lost, if something was and was not sent again yet.
    fn next_hole(&mut self) -> Option<Piece> {
        let recovery = self.recovery.as_mut()?;
        let first = self.una.plus(self.mss);
        let limit = self.arrived.end().unwrap_or(first);
        let limit = limit
            .min(self.una.plus(self.window))
            .min(self.nxt)
            .min(recovery.until);
        let (seq, behind) = self.arrived.hole(recovery.next.max(self.una));
        let limit = behind.map_or(limit, |behind| behind.min(limit));
        let data_end = limit.min(self.end);
        let len = data_end.since(seq).min(LARGEST);
        let fin = self.closed && seq.plus(len) == self.end && limit.after(self.end);
        if len == 0 && !fin {
            return None;
        }
        recovery.next = seq.plus(len + u32::from(fin));
        Some(self.piece(seq, len, fin))
    }

    /// What was not sent, or went back.
    fn next_new(&mut self, now: Instant) -> Option<Piece> {
        let (seq, behind) = self.arrived.hole(self.nxt);
        self.nxt = seq;
        let left = self.end.since(seq);
        let window = match self.cautious {
            true => self.window.min(self.mss),
            false => self.window,
        };
        let usable = self.una.plus(window).since(seq);
        let until = behind.map_or(left, |behind| behind.since(seq));
        let mut len = left.min(usable).min(until).min(LARGEST);
        // No silly windows (RFC 9293, section 3.8.6.2.1): what the guest has no room for waits until it has more.
        if len < self.mss && len == usable && len < left && len < self.largest_window / 2 {
            len = 0;
        }
        if len > self.mss && len < left {
            len -= len % self.mss;
        }
        if self.probe && left > 0 && seq == self.una {
            self.probe = false;
            len = len.max(usable.min(left).min(until)).max(1);
        }
        let fin = self.closed && seq.plus(len) == self.end;
        if len == 0 && !fin {
            if left > 0 && self.timer.is_none() {
                self.timer = Some(now + self.rto.timeout());
            }
            return None;
        }
        self.nxt = seq.plus(len + u32::from(fin));
        if seq.before(self.max) {
            self.rto.note_sent_again();
        } else {
            self.rto.note_sent(self.nxt, now);
        }
        self.max = self.max.max(self.nxt);
        Some(self.piece(seq, len, fin))
    }

    fn piece(&self, seq: Seq, len: u32, fin: bool) -> Piece {
        Piece {
            seq,
            len,
            fin,
            push: len > 0 && seq.plus(len) == self.end,
        }
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match (self.timer, self.paused_until) {
            (Some(timer), Some(pause)) => Some(timer.min(pause)),
            (timer, pause) => timer.or(pause),
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        if self.timer.is_none_or(|timer| timer > now) {
            return;
        }
        self.timer = None;
        let left = self.end.after(self.una) || self.closed && !self.is_finished();
        if !left {
            return;
        }
        self.rto.note_timeout();
        self.duplicates = 0;
        self.recovery = None;
        // The guest may have forgotten what it only said it had (RFC 2018, section 8).
        self.arrived.clear();
        self.nxt = self.una;
        self.probe = true;
        self.cautious = true;
        self.paused_until = None;
        self.timer = Some(now + self.rto.timeout());
    }

    /// How often the timer has run out in a row.
    pub(super) const fn backoff(&self) -> u8 {
        self.rto.backoff()
    }
}
