//! The last step of a frame: a batch is handed to the port that it leaves by, whichever network that is in.

use std::time::Instant;

use super::slot::Slot;
use super::worker::{Network, earlier};
use crate::net::outbox::Egress;
use crate::net::port::{OwnFrames, PortId};
use crate::ports::burst::Burst;

/// What of a worker is needed to carry frames.
pub(super) struct Floor<'a> {
    pub(super) slots: &'a mut [Slot],
    pub(super) networks: &'a mut [Network],
    pub(super) own: &'a mut OwnFrames,
    pub(super) hot: &'a mut Vec<PortId>,
    pub(super) next_timer: &'a mut Option<Instant>,
    /// Whether a link has changed on the way.
    pub(super) changed: bool,
    /// The frames that a receiver had no buffer for, a bit each.
    pub(super) refused: u64,
    pub(super) now: Instant,
}

impl Floor<'_> {
    /// Hands a batch of a burst to a port.
    // Inlined where most frames pass, so that what is borrowed here is not kept in memory.
    #[inline(always)]
    pub(super) fn deliver(&mut self, port: PortId, burst: &Burst, batch: &[Egress]) {
        let slot = &mut self.slots[port.index()];
        let network = &mut self.networks[slot.network];
        slot.tell_time(self.now);
        match slot.port.transmit(burst, batch, &mut slot.drops) {
            Ok(sent) => {
                slot.egress.frames += sent.frames;
                slot.egress.bytes += sent.bytes;
                self.refused |= sent.refused;
            }
            Err(fault) => slot.report(&network.name, &fault, self.now),
        }
        let was_up = slot.up;
        slot.follow_link(port, &mut network.switch, self.now, self.own);
        self.changed |= slot.up != was_up;
        if slot.answers {
            *self.next_timer = earlier(*self.next_timer, slot.port.poll_timeout());
            if !slot.hot {
                slot.heat();
                self.hot.push(port);
            }
        }
    }
}
