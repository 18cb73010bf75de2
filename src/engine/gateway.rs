//! The gateway as a port: frames to it are offered to its services, their replies are what it receives.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::worker::clock;
use super::{Durable, Ledger};
use crate::net::Now;
use crate::net::drops::Drops;
use crate::net::gateway::{Gateway, Replies};
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::resolver::Resolver;
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
    /// Asks the host's name servers, where DNS passes questions on.
    resolver: Option<Resolver>,
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

    /// Takes what the services said: sends it, or has its record written first.
    fn collect(&mut self) {
        if !self.out.asks.is_empty() {
            self.resolve();
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
        Ok(())
    }

    fn receive(&mut self, burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
        self.release_settled();
        if self.resolver.as_ref().is_some_and(Resolver::is_ready) {
            self.now = clock();
            self.resolve();
            self.collect();
        }
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
        let answered = self.resolver.as_ref().is_some_and(Resolver::is_ready);
        settled || answered || !self.replies.is_empty()
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
        let resolver = self.resolver.as_ref();
        let sockets = resolver.and_then(Resolver::poll_timeout);
        self.gateway.poll_timeout().into_iter().chain(sockets).min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if let Some(resolver) = &mut self.resolver {
            resolver.handle_timeout(now.instant);
        }
        self.gateway.handle_timeout(now, &mut self.out);
        self.collect();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

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
