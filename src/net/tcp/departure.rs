//! What a connection has to say to the guest, and in which order: a RST before all else, duplicates before data, data in place
//! of an acknowledgement.

use std::time::{Duration, Instant};

use super::{Endpoint, Kind, Phase, Reset, Sent, TIME_WAIT, Transmit, receiver};
use crate::net::tcp::sender::Piece;
use crate::net::tcp::seq::Seq;
use crate::wire::tcp::{Flags, Options, Tcp};

impl Endpoint {
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
        if self.receiver.owes_now() || self.receiver.owes() && !self.patient {
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
}
