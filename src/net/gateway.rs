//! The gateway of a network: its own address, and the services that answer frames sent to it.
//!
//! The gateway is reached like any guest, through a port of the switch. A frame is offered to the services in
//! their order until one claims it.

use std::net::{IpAddr, SocketAddr};

use crate::net::dhcp::{self, Dhcp};
use crate::net::dhcp6::{self, Dhcp6};
use crate::net::dns::{self, Dns};
use crate::net::inside::{self, Inside};
use crate::net::nat::health::{self, HealthProbes};
use crate::net::router_advertisement::{self, RouterAdvertisements};
use crate::net::{Now, address, nat};
use crate::wire::arp::Arp;
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr};

/// What a service answers with.
#[derive(Debug, Default)]
pub struct Replies {
    /// Frames that may leave at once.
    pub frames: Vec<Vec<u8>>,
    /// Lease records that must be on disk, each with the frame that may only leave once it is.
    pub durable: Vec<(dhcp::Record, Option<Vec<u8>>)>,
    /// Targets of port forwards that answer now, or do not any more.
    pub up: Vec<(SocketAddr, bool)>,
    /// Messages that may leave at once, each with the TCP stream that it belongs to.
    pub messages: Vec<(u64, Vec<u8>)>,
    /// What the host's name servers are to be asked.
    pub asks: Vec<dns::Ask>,
    /// Leases of DHCPv6 that were given, or that are over.
    pub leases6: Vec<(dhcp6::Lease, bool)>,
}

impl Replies {
    /// Sends a frame at once.
    pub fn send(&mut self, frame: Vec<u8>) {
        self.frames.push(frame);
    }

    /// Has `record` written, and then sends the frame.
    pub fn send_after(&mut self, record: dhcp::Record, frame: Option<Vec<u8>>) {
        self.durable.push((record, frame));
    }
}

/// Whether a service took a frame for its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// The frame was this service's; nobody else is asked.
    Taken,
    /// The next service may look at it.
    Passed,
}

/// A whole frame as the gateway gets it: untagged, in memory of our own.
#[derive(Clone, Copy, Debug)]
pub struct GatewayFrame<'a> {
    /// The bytes from the destination address on.
    pub bytes: &'a [u8],
    /// The transport checksum was left to be completed, and must not be verified.
    pub partial_checksum: bool,
    /// Who is inside the network.
    pub inside: &'a Inside,
}

/// A network function behind the gateway port.
///
/// A service never reads a clock, opens a socket or spawns a thread. It answers frames and says
/// when it next wants to be woken.
pub trait Service: Send {
    /// Offers a frame. A claimed frame is not offered to later services.
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim;

    /// The next time at which `handle_timeout` has work to do.
    fn poll_timeout(&self) -> Option<std::time::Instant> {
        None
    }

    /// Does what is due. Safe to call early or late.
    fn handle_timeout(&mut self, _now: Now, _out: &mut Replies) {}

    /// Offers a message of DNS that came over TCP. The stream is whatever tells it from others; `from` is the guest.
    fn handle_message(
        &mut self,
        _stream: u64,
        _from: IpAddr,
        _message: &[u8],
        _inside: &Inside,
        _now: Now,
        _out: &mut Replies,
    ) {
    }

    /// Takes in what became of an [ask](dns::Ask).
    fn handle_answer(
        &mut self,
        _ticket: u64,
        _answer: Result<&[u8], dns::AskError>,
        _now: Now,
        _out: &mut Replies,
    ) {
    }

    /// Takes in that the host has other name servers, and how many.
    fn handle_servers(&mut self, _servers: usize, _now: Now, _out: &mut Replies) {}

    /// What there is to say of DNS, if this service is that.
    fn dns(&self) -> Option<dns::View> {
        None
    }
    /// Does what is due and depends on who is inside, after [`Service::handle_timeout`].
    fn look_inside(&mut self, _inside: &Inside, _now: Now, _out: &mut Replies) {}

    /// Has other targets of port forwards be looked after, if this service does that.
    fn set_probes(&mut self, _targets: &[health::Probe], _now: Now) {}

    /// Says what others have to hear before this ends.
    fn handle_stop(&mut self, _now: Now, _out: &mut Replies) {}

    /// The leases this service has given out.
    fn leases(&self, _now: Now) -> Vec<dhcp::Lease> {
        Vec::new()
    }

    /// The leases of IPv6 addresses this service has given out.
    fn leases6(&self, _now: Now) -> Vec<dhcp6::Lease> {
        Vec::new()
    }

    /// What an operator should know, one sentence each.
    fn advisories(&self, _now: Now) -> Vec<String> {
        Vec::new()
    }
}

/// What a gateway is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's own hardware address.
    pub mac: MacAddr,
    /// The services, in the order in which frames are offered to them.
    pub services: Vec<ServiceSpec>,
    /// Who is known to be inside.
    pub inside: inside::Spec,
    /// Where it leads to, if it leads outside.
    pub nat: Option<nat::Spec>,
}

/// Every kind of service. Adding one is a variant and an arm here, and a file beside this one.
#[derive(Clone, Debug)]
pub enum ServiceSpec {
    /// ARP, neighbour discovery and echo for the gateway's addresses.
    Address(address::Spec),
    /// Router advertisements.
    RouterAdvertisement(Box<router_advertisement::Spec>),
    /// The DHCP server.
    Dhcp(Box<dhcp::Spec>),
    /// DNS.
    Dns(Box<dns::Spec>),
    /// The DHCPv6 server.
    Dhcp6(Box<dhcp6::Spec>),
    /// Looks after the targets of port forwards.
    Health(Box<health::Spec>),
}

impl ServiceSpec {
    fn build(self, mac: MacAddr, mtu: u16, now: Now) -> Box<dyn Service> {
        match self {
            Self::Address(spec) => Box::new(address::Address::new(spec, mac)),
            Self::RouterAdvertisement(spec) => Box::new(RouterAdvertisements::new(*spec, mac, now)),
            Self::Dhcp(spec) => Box::new(Dhcp::new(*spec, mac, mtu, now)),
            Self::Dns(spec) => Box::new(Dns::new(*spec, mac, mtu)),
            Self::Dhcp6(spec) => Box::new(Dhcp6::new(*spec, mac)),
            Self::Health(spec) => Box::new(HealthProbes::new(*spec, mac, now)),
        }
    }
}

/// The gateway of one network.
pub struct Gateway {
    services: Vec<Box<dyn Service>>,
    inside: Inside,
    upstream: Option<dns::Upstream>,
}

impl Gateway {
    /// Builds the gateway and its services, for a network whose largest packet has `mtu` bytes.
    pub fn new(spec: Spec, mtu: u16, now: Now) -> Self {
        let mut inside = Inside::new(spec.inside);
        for service in &spec.services {
            match service {
                ServiceSpec::Dhcp(dhcp) => dhcp
                    .restored
                    .iter()
                    .for_each(|record| inside.note_lease(record)),
                ServiceSpec::Dhcp6(dhcp) => dhcp
                    .reservations
                    .iter()
                    .for_each(|reservation| inside.note_reserved6(reservation)),
                ServiceSpec::Address(_)
                | ServiceSpec::RouterAdvertisement(_)
                | ServiceSpec::Dns(_)
                | ServiceSpec::Health(_) => {}
            }
        }
        let upstream = spec.services.iter().find_map(|service| match service {
            ServiceSpec::Dns(dns) => dns.upstream(),
            ServiceSpec::Address(_)
            | ServiceSpec::RouterAdvertisement(_)
            | ServiceSpec::Dhcp(_)
            | ServiceSpec::Dhcp6(_)
            | ServiceSpec::Health(_) => None,
        });
        let services = spec
            .services
            .into_iter()
            .map(|service| service.build(spec.mac, mtu, now));
        Self {
            services: services.collect(),
            inside,
            upstream,
        }
    }

    /// Offers a frame, untagged and in memory of our own, to the services in their order, and tells whether one took it.
    pub fn handle_frame(
        &mut self,
        bytes: &[u8],
        partial_checksum: bool,
        now: Now,
        out: &mut Replies,
    ) -> Claim {
        self.inside.set_wall(now.wall);
        self.note_sender(bytes, now.instant);
        let mut claim = Claim::Passed;
        for service in &mut self.services {
            let frame = GatewayFrame {
                bytes,
                partial_checksum,
                inside: &self.inside,
            };
            claim = service.handle_frame(frame, now, out);
            if claim == Claim::Taken {
                break;
            }
        }
        self.learn(out);
        claim
    }

    /// Takes in who sent a frame, of which the head is enough.
    pub fn note_sender(&mut self, head: &[u8], now: std::time::Instant) {
        if let Some((ip, mac)) = sender(head) {
            self.inside.note_seen(ip, mac, now);
        }
    }

    /// Who is inside.
    pub const fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Who is inside, for others who see what stations do.
    pub const fn inside_mut(&mut self) -> &mut Inside {
        &mut self.inside
    }

    /// Takes in what services have said of the inside.
    fn learn(&mut self, out: &mut Replies) {
        for (record, _) in &out.durable {
            self.inside.note_lease(record);
        }
        for (lease, bound) in out.leases6.drain(..) {
            self.inside.note_lease6(&lease, bound);
        }
        for (target, up) in out.up.drain(..) {
            self.inside.set_up(target, up);
        }
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<std::time::Instant> {
        self.services
            .iter()
            .filter_map(|service| service.poll_timeout())
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Replies) {
        self.inside.set_wall(now.wall);
        for service in &mut self.services {
            service.handle_timeout(now, out);
            service.look_inside(&self.inside, now, out);
        }
        self.learn(out);
    }

    /// Has these targets of port forwards be looked after from now on.
    pub fn set_probes(&mut self, targets: &[health::Probe], now: Now) {
        for service in &mut self.services {
            service.set_probes(targets, now);
        }
    }

    /// Says what stations have to hear before the network ends.
    pub fn handle_stop(&mut self, now: Now, out: &mut Replies) {
        for service in &mut self.services {
            service.handle_stop(now, out);
        }
        self.learn(out);
    }

    /// Offers a message of DNS that came over TCP, without its length.
    pub fn handle_message(
        &mut self,
        stream: u64,
        from: IpAddr,
        message: &[u8],
        now: Now,
        out: &mut Replies,
    ) {
        for service in &mut self.services {
            service.handle_message(stream, from, message, &self.inside, now, out);
        }
    }

    /// Whom questions of DNS are passed on to, if they are.
    pub const fn upstream(&self) -> Option<&dns::Upstream> {
        self.upstream.as_ref()
    }

    /// Takes in what became of an ask.
    pub fn handle_answer(
        &mut self,
        ticket: u64,
        answer: Result<&[u8], dns::AskError>,
        now: Now,
        out: &mut Replies,
    ) {
        for service in &mut self.services {
            service.handle_answer(ticket, answer, now, out);
        }
    }

    /// Takes in that there are other name servers, and how many.
    pub fn handle_servers(&mut self, servers: usize, now: Now, out: &mut Replies) {
        for service in &mut self.services {
            service.handle_servers(servers, now, out);
        }
    }

    /// What there is to say of DNS, if that is a service.
    pub fn dns(&self) -> Option<dns::View> {
        self.services.iter().find_map(|service| service.dns())
    }

    /// All leases of all services.
    pub fn leases(&self, now: Now) -> Vec<dhcp::Lease> {
        self.services
            .iter()
            .flat_map(|service| service.leases(now))
            .collect()
    }

    /// All leases of IPv6 addresses of all services.
    pub fn leases6(&self, now: Now) -> Vec<dhcp6::Lease> {
        self.services
            .iter()
            .flat_map(|service| service.leases6(now))
            .collect()
    }

    /// All advisories of all services.
    pub fn advisories(&self, now: Now) -> Vec<String> {
        self.services
            .iter()
            .flat_map(|service| service.advisories(now))
            .collect()
    }
}

/// Returns the address that the sender of a frame uses, and its hardware address.
fn sender(frame: &[u8]) -> Option<(IpAddr, MacAddr)> {
    let ethernet = Ethernet::parse(frame)?;
    let payload = ethernet.payload;
    let ip: IpAddr = match ethernet.ethertype {
        ETHERTYPE_ARP => Arp::parse(payload)?.sender_ip.into(),
        ETHERTYPE_IPV4 => <[u8; 4]>::try_from(payload.get(12..16)?).ok()?.into(),
        ETHERTYPE_IPV6 => <[u8; 16]>::try_from(payload.get(8..24)?).ok()?.into(),
        _ => return None,
    };
    let station = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
    (station && ethernet.src.is_station()).then_some((ip, ethernet.src))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::net::nat::Gateways;
    use crate::net::nat::forward::{Health, Host};

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn now() -> Now {
        Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        }
    }

    fn gateway(services: Vec<ServiceSpec>) -> Gateway {
        let spec = Spec {
            mac: MacAddr([2, 0, 0, 0, 0, 2]),
            services,
            inside: inside::Spec::default(),
            nat: None,
        };
        Gateway::new(spec, 1500, now())
    }

    #[test]
    fn targets_that_do_not_answer_are_known_to_be_down() {
        let health = health::Spec {
            gateways: Gateways {
                v4: Some(("10.0.0.2".parse().unwrap(), "10.0.0.0/24".parse().unwrap())),
                ..Gateways::default()
            },
            targets: Vec::new(),
        };
        let mut gateway = gateway(vec![ServiceSpec::Health(Box::new(health))]);
        assert_eq!(gateway.poll_timeout(), None);
        let target: SocketAddr = "10.0.0.9:80".parse().unwrap();
        let probe = health::Probe {
            host: Host::Address(target.ip()),
            port: target.port(),
            health: Health::default(),
        };
        let mut now = now();
        gateway.set_probes(&[probe], now);
        let mut out = Replies::default();
        while gateway.inside().is_up(target) {
            let due = gateway.poll_timeout().unwrap();
            now.instant = due.max(now.instant);
            gateway.handle_timeout(now, &mut out);
        }
        assert!(out.frames.len() >= 3, "it was asked for");
        gateway.set_probes(&[], now);
        gateway.handle_timeout(now, &mut out);
        assert!(gateway.inside().is_up(target));
    }

    #[test]
    fn addresses_that_are_reserved_are_known_inside() {
        let ip = "fd00::77".parse().unwrap();
        let dhcp = dhcp6::Spec {
            prefix: "fd00::/64".parse().unwrap(),
            server: "fe80::2".parse().unwrap(),
            gateway: "fd00::2".parse().unwrap(),
            pool: None,
            valid: Duration::from_secs(1000),
            preferred: Duration::from_secs(1000),
            dns: Vec::new(),
            search: Vec::new(),
            ntp: Vec::new(),
            refresh: dhcp6::Spec::REFRESH,
            rapid_commit: true,
            reservations: vec![dhcp6::Reservation {
                mac: GUEST,
                ip,
                hostname: Some("web".to_owned()),
            }],
        };
        let gateway = gateway(vec![ServiceSpec::Dhcp6(Box::new(dhcp))]);
        assert_eq!(gateway.inside().find("web"), Some(GUEST));
        assert_eq!(gateway.inside().address_of(GUEST, true), Some(ip.into()));
        assert_eq!(gateway.inside().name_of(ip.into()), Some("web"));
    }
}
