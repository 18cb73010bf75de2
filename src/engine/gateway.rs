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
use crate::ports::resolver::Resolver;
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
    /// Asks the host's name servers, where DNS passes questions on.
    resolver: Option<Resolver>,
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
            resolver: None,
            out: Replies::default(),
            frame: Vec::new(),
            now,
        }
    }

    /// Asks what services have to ask, and tells them of what has become of that.
    fn resolve(&mut self) {
        let Some(resolver) = &mut self.resolver else {
            return self.out.asks.clear();
        };
        if !self.out.asks.is_empty() && resolver.follow(self.now.instant) {
            self.out.asks.clear();
            let servers = resolver.servers();
            self.gateway
                .handle_servers(servers, self.now, &mut self.out);
        }
        loop {
            for ask in self.out.asks.drain(..) {
                resolver.ask(ask);
            }
            let outcomes = resolver.receive();
            if outcomes.is_empty() {
                return;
            }
            for (ticket, outcome) in outcomes {
                let answer = outcome.as_deref().map_err(|error| *error);
                self.gateway
                    .handle_answer(ticket, answer, self.now, &mut self.out);
            }
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

    /// Offers the services what has come by streams.
    fn hear_streams(&mut self) {
        let Some(sockets) = &mut self.sockets else {
            return;
        };
        let messages = sockets.take_messages();
        if messages.is_empty() {
            return;
        }
        for (stream, guest, message) in messages {
            let (from, out) = (guest.ip(), &mut self.out);
            self.gateway
                .handle_message(stream, from, &message, self.now, out);
        }
        self.collect();
    }

    /// Takes what the services said: sends it, or has its record written first.
    fn collect(&mut self) {
        if !self.out.asks.is_empty() {
            self.resolve();
        }
        for (stream, message) in self.out.messages.drain(..) {
            if let Some(sockets) = &mut self.sockets {
                sockets.send_message(stream, &message);
            }
        }
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
    /// The worker itself is woken for what all gateways wait for; here is only what this one does.
    fn watch(&mut self, watcher: Watcher) -> io::Result<()> {
        if let Some(upstream) = self.gateway.upstream() {
            let resolver = Resolver::open(upstream)?;
            resolver.watch(watcher)?;
            let servers = resolver.servers();
            self.gateway
                .handle_servers(servers, self.now, &mut self.out);
            self.resolver = Some(resolver);
        }
        match &self.sockets {
            Some(sockets) => sockets.watch(watcher),
            None => Ok(()),
        }
    }

    fn receive(&mut self, burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
        self.release_settled();
        if self.resolver.as_ref().is_some_and(Resolver::is_ready) {
            self.resolve();
            self.collect();
        }
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
            self.hear_streams();
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
        let answered = self.resolver.as_ref().is_some_and(Resolver::is_ready);
        let news = self.sockets.as_mut().is_some_and(Sockets::has_news);
        settled || answered || news || !self.replies.is_empty()
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

    fn gateway_mut(&mut self) -> Option<&mut Gateway> {
        Some(&mut self.gateway)
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
        let resolver = self.resolver.as_ref().and_then(Resolver::poll_timeout);
        let sockets = self.sockets.as_ref().and_then(Sockets::poll_timeout);
        let sockets = resolver.into_iter().chain(sockets);
        self.gateway.poll_timeout().into_iter().chain(sockets).min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if let Some(resolver) = &mut self.resolver {
            resolver.handle_timeout(now.instant);
        }
        self.gateway.handle_timeout(now, &mut self.out);
        self.collect();
        if let Some(sockets) = &mut self.sockets {
            sockets.handle_timeout(self.gateway.inside(), now);
        }
    }

    fn handle_stop(&mut self, now: Now) {
        self.now = now;
        self.gateway.handle_stop(now, &mut self.out);
        self.collect();
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::super::worker::clock;
    use super::*;
    use crate::net::gateway::{self, ServiceSpec};
    use crate::net::nat::Gateways;
    use crate::net::vlan::TagAction;
    use crate::net::{dhcp, dns, inside};
    use crate::wire::dns::{Name, Writer};
    use crate::wire::ethernet::{self, ETHERTYPE_IPV4, MacAddr};
    use crate::wire::ipv4::{self, Ipv4, PROTOCOL_UDP};
    use crate::wire::udp::{self, Udp};

    struct Nowhere;

    impl super::super::Journal for Nowhere {
        fn append(&mut self, _network: &str, _ticket: u64, _record: dhcp::Record) -> bool {
            false
        }
    }

    #[test]
    fn a_guests_question_reaches_a_name_server_and_the_answer_the_guest() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let (mac, guest) = (MacAddr([2, 0, 0, 0, 0, 0xfe]), MacAddr([2, 0, 0, 0, 0, 1]));
        let (own, ip) = ([192, 168, 88, 2].into(), [192, 168, 88, 128].into());
        let services = vec![ServiceSpec::Dns(Box::new(dns::Spec {
            gateways: Gateways {
                v4: Some((own, "192.168.88.0/24".parse().unwrap())),
                ..Gateways::default()
            },
            domain: None,
            host: Vec::new(),
            hosts: Vec::new(),
            forward: true,
            servers: dns::Servers::Listed(vec![server.local_addr().unwrap()]),
        }))];
        let spec = gateway::Spec {
            mac,
            services,
            inside: inside::Spec::default(),
            nat: None,
        };
        let gateway = Gateway::new(spec, 1500, clock());
        let durable = Durable::new().unwrap();
        let ledger = Ledger::new(Box::new(Nowhere));
        let mut port = GatewayPort::new("nat".into(), gateway, ledger, durable, clock());
        let epoll = epoll::create(true).unwrap();
        port.watch(Watcher::new(epoll, 3)).unwrap();

        let name = Name::new("example.com").unwrap();
        let question = [name.as_bytes(), &[0, 1, 0, 1]].concat();
        let question = Writer::new(77, 0x0100, &question).finish();
        let datagram = udp::emit((ip, 4000), (own, 53), &question).unwrap();
        let packet = ipv4::emit(ip, own, PROTOCOL_UDP, &datagram).unwrap();
        let frame = ethernet::emit(mac, guest, ETHERTYPE_IPV4, &packet);
        let (mut burst, mut drops) = (Burst::default(), Drops::default());
        burst.push_owned(frame, VirtioNetHeader::default());
        let egress = Egress {
            frame: 0,
            action: TagAction::Keep,
        };
        port.set_now(clock());
        port.transmit(&burst, &[egress], &mut drops).unwrap();
        burst.clear();
        assert!(!port.arm(), "nothing is there yet");

        let mut buffer = [0; 512];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        buffer[2] |= 0x80;
        server.send_to(&buffer[..len], from).unwrap();
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0)];
        assert_eq!(epoll::wait(epoll, 10_000, &mut events).unwrap(), 1);
        assert!(port.arm());
        port.receive(&mut burst, &mut drops).unwrap();
        assert_eq!(burst.len(), 1);
        let mut reply = Vec::new();
        burst.copy_frame(&burst.frames()[0], TagAction::Keep, &mut reply);
        let ip = Ipv4::parse(&reply[14..]).unwrap();
        let udp = Udp::parse(&ip, false).unwrap();
        assert_eq!((udp.src, udp.dst), (53, 4000));
        assert_eq!(udp.payload[..2], [0, 77]);
        port.release(&mut burst);
        assert!(!port.arm());
        epoll::close(epoll).unwrap();
    }
}
