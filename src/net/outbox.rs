//! What a burst's frames leave through, as the switch decided.

use crate::net::port::PortId;
use crate::net::vlan::TagAction;

/// One frame of a burst that is to leave through a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Egress {
    /// Which frame of the burst.
    pub frame: u16,
    /// What becomes of its tag.
    pub action: TagAction,
}

/// What a burst's frames leave through, port by port.
#[derive(Debug, Default)]
pub struct Outbox {
    batches: Vec<Vec<Egress>>,
    touched: Vec<PortId>,
    /// Frames that the switch itself wants to read, whole.
    own: Vec<u16>,
}

impl Outbox {
    /// Makes room for ports up to and including `port`.
    pub fn reserve(&mut self, port: PortId) {
        if self.batches.len() <= port.index() {
            self.batches.resize_with(port.index() + 1, Vec::new);
        }
    }

    /// Has a frame leave through a port.
    #[inline]
    pub fn push(&mut self, port: PortId, egress: Egress) {
        let batch = &mut self.batches[port.index()];
        if batch.is_empty() {
            self.touched.push(port);
        }
        batch.push(egress);
    }

    /// Tells whether the frame that came last leaves through a port already.
    pub fn has(&self, port: PortId, frame: u16) -> bool {
        self.batches[port.index()]
            .last()
            .is_some_and(|egress| egress.frame == frame)
    }

    /// Has the switch read a frame, whole, after the burst.
    pub fn keep(&mut self, frame: u16) {
        self.own.push(frame);
    }

    /// Takes the frames that the switch wants to read.
    pub fn take_own(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.own)
    }

    /// Tells whether the switch wants to read a frame.
    #[inline]
    pub fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// Hands each batch to `carry`, and is empty afterwards.
    #[inline]
    pub fn drain(&mut self, mut carry: impl FnMut(PortId, &[Egress])) {
        while let Some(port) = self.touched.pop() {
            let batch = &mut self.batches[port.index()];
            carry(port, batch);
            batch.clear();
        }
    }
}
