//! The gateway as a port: frames to it are offered to its services, their replies are what it receives; what is for the
//! outside leaves by the daemon's own sockets, where the gateway leads there.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Durable, Ledger};
use crate::net::Now;
use crate::net::drops::{DropReason, Drops};
use crate::net::gateway::{Claim, Gateway, Replies};
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};
use crate::net::nat::{Event, FlowRow, Nat, Protocol, View};
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::sockets::{self, Sockets};
use crate::ports::{OpenError, Port, PortFault, PortState, PortStatus, Sent, Watcher};
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
    /// What leads outside, or to the host's loopback.
    sockets: Option<Sockets>,
    /// Whether that is where the network's NAT leads to.
    transit: bool,
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
            sockets: None,
            transit: false,
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

    /// Opens the sockets by which the gateway leads outside.
    ///
    /// # Errors
    ///
    /// The system is out of descriptors or memory.
    pub(super) fn open_sockets(&mut self, spec: &sockets::Spec) -> Result<(), OpenError> {
        self.sockets = Some(Sockets::open(spec, self.now)?);
        self.transit = spec.transit;
        Ok(())
    }

    /// Hands a frame to the services, and what none of them claims to the sockets.
    fn take(&mut self, burst: &Burst, egress: &Egress) -> Result<(), DropReason> {
        let frame = &burst.frames()[usize::from(egress.frame)];
        let parsed = frame.head.parse()?;
        if let Some(sockets) = &mut self.sockets
            && sockets.claims(&frame.head, &parsed)
        {
            self.gateway
                .note_sender(frame.head.bytes(), self.now.instant);
            return sockets.gather(burst, frame, self.gateway.inside(), self.now);
        }
        // No service has a use for super-frames.
        if frame.head.offload.gso_type != GSO_NONE {
            return Ok(());
        }
        let header = burst.copy_frame(frame, egress.action, &mut self.frame);
        let partial_checksum = header.needs_checksum();
        let (bytes, out) = (&self.frame, &mut self.out);
        let claim = self
            .gateway
            .handle_frame(bytes, partial_checksum, self.now, out);
        self.collect();
        match &mut self.sockets {
            Some(sockets) if claim == Claim::Passed && sockets.may_take(&parsed) => {
                let frame = std::mem::take(&mut self.frame);
                sockets.flush(burst);
                sockets.send_owned(frame, header, self.gateway.inside(), self.now)
            }
            Some(_) | None => Ok(()),
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
    fn watch(&mut self, watcher: Watcher) -> io::Result<()> {
        match &self.sockets {
            Some(sockets) => sockets.watch(watcher),
            None => Ok(()),
        }
    }

    fn receive(&mut self, burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
        self.release_settled();
        // Neither keeps the other from being heard.
        let share = match self.sockets {
            Some(_) => burst.room() / 2,
            None => burst.room(),
        };
        for frame in self.replies.drain(..share.min(self.replies.len())) {
            burst.push_owned(frame, VirtioNetHeader::default());
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.receive(burst, self.gateway.inside(), self.now);
        }
        Ok(())
    }

    fn refused(&mut self, frames: u64) {
        if let Some(sockets) = &mut self.sockets {
            sockets.refused(frames);
        }
    }

    fn release(&mut self, burst: &mut Burst) {
        burst.clear();
        if let Some(sockets) = &mut self.sockets {
            sockets.release();
        }
    }

    fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        let mut sent = Sent::default();
        for egress in batch {
            match self.take(burst, egress) {
                Ok(()) => {
                    let frame = &burst.frames()[usize::from(egress.frame)];
                    sent.frames += 1;
                    sent.bytes += u64::from(frame.head.frame_len);
                }
                Err(reason) => drops.count(reason),
            }
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.flush(burst);
        }
        Ok(sent)
    }

    fn arm(&mut self) -> bool {
        let settled = self
            .unsettled
            .front()
            .is_some_and(|(ticket, _)| self.durable.is_settled(*ticket));
        let news = self.sockets.as_mut().is_some_and(Sockets::has_news);
        settled || news || !self.replies.is_empty()
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

    fn nat(&mut self) -> Option<&mut dyn Nat> {
        // What only leads to the host's loopback is not the network's translator.
        (self.transit && self.sockets.is_some()).then_some(self)
    }

    fn advisories(&self) -> Vec<String> {
        self.sockets
            .as_ref()
            .map(Sockets::advisories)
            .unwrap_or_default()
    }

    fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let sockets = self.sockets.as_ref().and_then(Sockets::poll_timeout);
        self.gateway.poll_timeout().into_iter().chain(sockets).min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.gateway.handle_timeout(now, &mut self.out);
        self.collect();
        if let Some(sockets) = &mut self.sockets {
            sockets.handle_timeout(self.gateway.inside(), now);
        }
    }
}

impl Nat for GatewayPort {
    fn view(&self, now: Now) -> View {
        self.sockets
            .as_ref()
            .map(|sockets| sockets.view(self.gateway.inside(), now))
            .unwrap_or_default()
    }

    fn flows(&self, now: Now) -> Vec<FlowRow> {
        self.sockets
            .as_ref()
            .map(|sockets| sockets.flows(now))
            .unwrap_or_default()
    }

    fn add_forward(&mut self, forward: Forward) -> Result<ForwardRow, ForwardError> {
        match &mut self.sockets {
            Some(sockets) => sockets.add_forward(forward, self.gateway.inside()),
            None => Err(ForwardError::Other {
                protocol: forward.protocol.name(),
                listen: SocketAddr::new(forward.ip, forward.first),
                reason: "the network leads nowhere".to_owned(),
            }),
        }
    }

    fn take_events(&mut self) -> Vec<Event> {
        let sockets = self.sockets.as_mut();
        sockets.map(Sockets::take_events).unwrap_or_default()
    }

    fn remove_forward(&mut self, protocol: Protocol, listen: SocketAddr, now: Now) -> bool {
        let inside = self.gateway.inside();
        self.sockets
            .as_mut()
            .is_some_and(|sockets| sockets.remove_forward(protocol, listen, inside, now))
    }
}
