//! What the guest's segments do to a connection (RFC 9293, section 3.10.7; RFC 5961).

use std::ops::Range;
use std::time::Instant;

use super::{Arrival, Endpoint, Outcome, Phase, Reset, TIME_WAIT};
use crate::net::tcp::seq::Seq;
use crate::wire::tcp::{Flags, Tcp};

impl Endpoint {
    /// While the outside connects, the guest can only begin anew or give up.
    pub(super) fn handle_held(&mut self, segment: &Tcp) -> Arrival {
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
    pub(super) fn handle_syn_sent(&mut self, segment: &Tcp, now: Instant) -> Arrival {
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
    pub(super) fn handle_synchronised(
        &mut self,
        segment: &Tcp,
        payload: u32,
        now: Instant,
    ) -> Arrival {
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
    pub(super) fn handle_time_wait(
        &mut self,
        segment: &Tcp,
        payload: u32,
        now: Instant,
    ) -> Arrival {
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
}
