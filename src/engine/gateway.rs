//! The gateway as a port: frames to it are offered to its services, their replies are what it receives.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::{Durable, Ledger};
use crate::net::Now;
use crate::net::drops::Drops;
use crate::net::gateway::{Gateway, Replies};
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::{Port, PortFault, PortState, PortStatus, Sent, Watcher};
use crate::wire::virtio_net::{GSO_NONE, VirtioNetHeader};

/// How many replies wait to be received, at most; a guest that asks faster than the worker goes round loses some.
const REPLIES: usize = 4096;
/// How many replies wait for their record to be written, at most.
const UNSETTLED: usize = 65_536;

/// The gateway of a network, and what it has to say.
pub(super) struct GatewayPort {
    network: Arc<str>,
    gateway: Gateway,
    replies: VecDeque<Vec<u8>>,
    /// Replies that wait for their record to be on disk, by ticket.
    unsettled: VecDeque<(u64, Option<Vec<u8>>)>,
    ledger: Ledger,
    durable: Durable,
    out: Replies,
    frame: Vec<u8>,
    now: Now,
}

impl GatewayPort {
    pub(super) fn new(
        network: Arc<str>,
        gateway: Gateway,
        ledger: Ledger,
        durable: Durable,
        now: Now,
    ) -> Self {
        Self {
            network,
            gateway,
            replies: VecDeque::new(),
            unsettled: VecDeque::new(),
            ledger,
            durable,
            out: Replies::default(),
            frame: Vec::new(),
            now,
        }
    }

    /// Takes what the services said: sends it, or has its record written first.
    fn collect(&mut self) {
        for frame in self.out.frames.drain(..) {
            if self.replies.len() < REPLIES {
                self.replies.push_back(frame);
            }
        }
        for (record, frame) in self.out.durable.drain(..) {
            if self.unsettled.len() >= UNSETTLED {
                continue;
            }
            // What cannot be queued is not answered: the client asks again.
            if let Some(ticket) = self.ledger.append(&self.network, record) {
                self.unsettled.push_back((ticket, frame));
            }
        }
    }

    /// Releases the replies whose records are on disk.
    fn release_settled(&mut self) {
        while let Some((ticket, _)) = self.unsettled.front() {
            let Some(written) = self.durable.outcome(*ticket) else {
                return;
            };
            if let Some((_, Some(frame))) = self.unsettled.pop_front()
                && written
            {
                self.replies.push_back(frame);
            }
        }
    }
}

impl Port for GatewayPort {
    /// The worker itself is woken for what all gateways wait for.
    fn watch(&mut self, _watcher: Watcher) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
        self.release_settled();
        while burst.room() > 0 {
            let Some(frame) = self.replies.pop_front() else {
                break;
            };
            burst.push_owned(frame, VirtioNetHeader::default());
        }
        Ok(())
    }

    fn release(&mut self, burst: &mut Burst) {
        burst.clear();
    }

    fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        _drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        let mut sent = Sent::default();
        for egress in batch {
            let frame = &burst.frames()[usize::from(egress.frame)];
            sent.frames += 1;
            sent.bytes += u64::from(frame.head.frame_len);
            // No service has a use for super-frames.
            if frame.head.offload.gso_type != GSO_NONE {
                continue;
            }
            let header = burst.copy_frame(frame, egress.action, &mut self.frame);
            let partial_checksum = header.needs_checksum();
            let (frame, out) = (&self.frame, &mut self.out);
            self.gateway
                .handle_frame(frame, partial_checksum, self.now, out);
            self.collect();
        }
        Ok(sent)
    }

    fn arm(&mut self) -> bool {
        let settled = self
            .unsettled
            .front()
            .is_some_and(|(ticket, _)| self.durable.is_settled(*ticket));
        settled || !self.replies.is_empty()
    }

    fn answers(&self) -> bool {
        true
    }

    fn status(&self) -> PortStatus {
        PortStatus {
            state: PortState::Up,
            features: Vec::new(),
        }
    }

    fn is_up(&self) -> bool {
        true
    }

    fn gateway(&self) -> Option<&Gateway> {
        Some(&self.gateway)
    }

    fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.gateway.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.gateway.handle_timeout(now, &mut self.out);
        self.collect();
    }

    fn handle_stop(&mut self, now: Now) {
        self.now = now;
        self.gateway.handle_stop(now, &mut self.out);
        self.collect();
    }
}
