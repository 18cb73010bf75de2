//! The way from the guest: what of a segment is taken, and which window is announced (RFC 9293, sections 3.8.6 and 3.10).

use std::ops::Range;

use crate::net::tcp::seq::Seq;
use crate::wire::tcp::{Flags, Tcp};

/// What our windows are shifted by, where the guest shifts its own: up to 8 MiB.
pub(super) const SCALE: u8 = 7;
/// How many duplicate acknowledgements are owed at most: more tell the guest nothing new.
const DUPLICATES: u8 = 4;
/// How many bytes can be acknowledged together where more are about to come.
const TOGETHER: u32 = 64 * 1024;

/// A part of a segment that is to be taken by the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Offer {
    len: u32,
    fin: bool,
}

/// The receiving half of a connection.
#[derive(Clone, Debug)]
pub(super) struct Receiver {
    nxt: Seq,
    /// Up to where the guest was told that it may send.
    right: Seq,
    scale: u8,
    room: u32,
    mss: u32,
    offer: Option<Offer>,
    /// The guest has sent its FIN, and it was taken.
    finished: bool,
    /// Up to where the guest was told that its bytes have come.
    told: Seq,
    /// An acknowledgement is owed.
    owed: bool,
    /// One is owed that can wait for what is about to come.
    owed_soon: bool,
    /// So many more are, each of its own.
    duplicates: u8,
}

impl Receiver {
    /// Begins with the guest's first number, with what windows are shifted by, and with the largest segment.
    pub(super) fn new(first: Seq, scale: u8, mss: u16) -> Self {
        Self {
            nxt: first,
            right: first,
            scale,
            room: 0,
            mss: u32::from(mss),
            offer: None,
            finished: false,
            told: first,
            owed: false,
            owed_soon: false,
            duplicates: 0,
        }
    }

    pub(super) const fn nxt(&self) -> Seq {
        self.nxt
    }

    pub(super) const fn room(&self) -> u32 {
        self.room
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) const fn owes(&self) -> bool {
        self.owes_now() || self.owed_soon
    }

    /// Whether an acknowledgement is owed that cannot wait for what is about to come.
    pub(super) const fn owes_now(&self) -> bool {
        self.owed || self.duplicates > 0
    }

    pub(super) const fn owe(&mut self) {
        self.owed = true;
    }

    pub(super) fn owe_duplicate(&mut self) {
        self.duplicates = (self.duplicates + 1).min(DUPLICATES);
    }

    pub(super) const fn owes_duplicate(&self) -> bool {
        self.duplicates > 0
    }

    /// Says how much the caller has room for. A window that opens is announced.
    pub(super) fn set_room(&mut self, room: u32) {
        self.room = room;
        let announced = self.right.since(self.nxt);
        let more = room.min(self.largest_window()).saturating_sub(announced);
        if announced < room / 2 && more >= self.mss.min(room) && !self.finished {
            self.owed = true;
        }
    }

    const fn largest_window(&self) -> u32 {
        0xffff << self.scale
    }

    /// Returns the acknowledgement and the window to announce now, which does not shrink. Nothing is owed then.
    pub(super) fn announce(&mut self) -> (Seq, u16) {
        self.note_told();
        (self.nxt, self.window(self.scale))
    }

    /// The same for a duplicate, which must not differ from the one before.
    pub(super) fn announce_duplicate(&mut self) -> (Seq, u16) {
        self.duplicates = self.duplicates.saturating_sub(1);
        (self.nxt, self.window(self.scale))
    }

    /// Returns the window of a SYN, which is not shifted.
    pub(super) fn announce_unscaled(&mut self) -> (Seq, u16) {
        self.note_told();
        let room = self.room;
        self.room = room.min(0xffff);
        let window = self.window(0);
        self.room = room;
        (self.nxt, window)
    }

    const fn note_told(&mut self) {
        self.owed = false;
        self.owed_soon = false;
        self.told = self.nxt;
    }

    fn window(&mut self, scale: u8) -> u16 {
        let unit = (1 << scale) - 1;
        let room = self.room.min(self.largest_window()) & !unit;
        self.right = self.right.max(self.nxt.plus(room));
        u16::try_from(self.right.since(self.nxt) >> scale).unwrap_or(u16::MAX)
    }

    /// Whether a segment is within what the guest may send (RFC 9293, section 3.10.7.4).
    pub(super) fn accepts(&self, segment: &Tcp, payload: u32) -> bool {
        let seq = Seq(segment.seq);
        if seq == self.nxt {
            return true;
        }
        let controls =
            u32::from(segment.flags.has(Flags::SYN)) + u32::from(segment.flags.has(Flags::FIN));
        let end = seq.plus(payload + controls);
        let in_window = |at: Seq| !at.before(self.nxt) && at.before(self.right);
        in_window(seq) || payload + controls > 0 && in_window(end.minus(1))
    }

    /// Returns what of an accepted segment's payload comes next; it and a FIN behind it are then on offer.
    pub(super) fn offer(&mut self, segment: &Tcp, payload: u32) -> Option<Range<usize>> {
        self.offer = None;
        let fin = segment.flags.has(Flags::FIN);
        if self.finished || payload == 0 && !fin {
            return None;
        }
        let seq = Seq(segment.seq);
        if seq.after(self.nxt) {
            self.owe_duplicate();
            return None;
        }
        let known = self.nxt.since(seq);
        if known > payload {
            self.owed = true;
            return None;
        }
        let whole = payload - known;
        let len = whole.min(self.right.since(self.nxt));
        if len < whole || known > 0 {
            self.owed = true;
        }
        let fin = fin && len == whole;
        if len == 0 && !fin {
            self.owed = true;
            return None;
        }
        self.offer = Some(Offer { len, fin });
        let known = usize::try_from(known).ok()?;
        Some(known..known + usize::try_from(len).ok()?)
    }

    /// Takes the first `len` bytes on offer, and the FIN behind them if they are all.
    pub(super) fn take(&mut self, len: usize) {
        let Some(offer) = self.offer.take() else {
            return;
        };
        let len = u32::try_from(len).map_or(offer.len, |len| len.min(offer.len));
        self.nxt = self.nxt.plus(len);
        self.owed_soon = true;
        if len == offer.len && offer.fin {
            self.nxt = self.nxt.plus(1);
            self.finished = true;
        }
        self.owed |= self.finished || self.nxt.since(self.told) >= TOGETHER;
        self.right = self.right.max(self.nxt);
    }

    /// Gives back the last `len` bytes that were taken since the last acknowledgement, and a FIN behind them.
    pub(super) fn untake(&mut self, len: u32) {
        if self.finished {
            self.finished = false;
            self.nxt = self.nxt.minus(1);
        }
        self.nxt = self.nxt.minus(len);
    }
}
