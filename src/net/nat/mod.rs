//! Network address translation: what it is told, and what it shows, whichever outside it leads to.
//!
//! A network's gateway leads to one of two [outsides](Outside). `host`: the daemon's own sockets, which needs no privilege
//! (`ports::sockets`). Another network: frames leave through that network's switch with an address of the translator's own
//! ([`crate::net::napt`]). Both forward ports ([`forward`]), hold to the same [`Limits`] and [`Timeouts`], and tell of their
//! flows in the same words: *inside* is the guest's side, *outside* the other, *remote* whom the guest talks with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::forward::{Forward, ForwardError, ForwardRow};
use crate::net::Now;
use crate::wire::ethernet::MacAddr;

pub mod balance;
pub mod error;
pub mod expiry;
pub mod forward;
pub mod fragments;
pub mod frames;
pub mod health;
pub mod peers;
pub mod quota;
pub mod segments;

/// A transport whose flows are translated.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo of ICMP or ICMPv6, by its identifier in place of a port.
    Icmp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// From whom a mapping takes packets (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Filtering {
    /// From everybody.
    EndpointIndependent,
    /// From addresses that the guest has sent to.
    Address,
    /// From addresses and ports that the guest has sent to.
    #[default]
    AddressAndPort,
}

impl Filtering {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::Address => "address",
            Self::AddressAndPort => "address-and-port",
        }
    }
}

/// When what is idle is forgotten.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// UDP; at least two minutes (RFC 4787, REQ-5).
    pub udp: Duration,
    /// UDP to port 53, which is one question and one answer.
    pub dns: Duration,
    /// TCP that is established; at least two hours and four minutes (RFC 5382, REQ-5).
    pub tcp: Duration,
    /// TCP that is being opened or closed; at least four minutes (RFC 5382, REQ-5).
    pub tcp_transitory: Duration,
    /// ICMP echo; at least a minute (RFC 5508, REQ-1).
    pub icmp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            dns: Duration::from_secs(30),
            tcp: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            icmp: Duration::from_secs(60),
        }
    }
}

/// How much there may be at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Flows of the whole network.
    pub flows: usize,
    /// Flows of one guest, told apart by its hardware address.
    pub flows_per_guest: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 262_144,
            flows_per_guest: 131_072,
        }
    }
}

/// The gateway's own addresses on the inside.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gateways {
    /// Its IPv4 address, and the subnet.
    pub v4: Option<(Ipv4Addr, Ipv4Net)>,
    /// Its IPv6 address within the prefix, and the prefix.
    pub v6: Option<(Ipv6Addr, Ipv6Net)>,
    /// Its link-local address.
    pub link_local: Option<Ipv6Addr>,
}

impl Gateways {
    /// Whether an address is the gateway's own.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|(own, _)| own == ip),
            IpAddr::V6(ip) => {
                self.v6.is_some_and(|(own, _)| own == ip) || self.link_local == Some(ip)
            }
        }
    }

    /// Returns the gateway's own address that a guest with this address knows it by.
    pub fn own_for(&self, guest: IpAddr) -> Option<IpAddr> {
        match guest {
            IpAddr::V4(_) => self.v4.map(|(own, _)| own.into()),
            IpAddr::V6(guest) if guest.is_unicast_link_local() => self.link_local.map(IpAddr::V6),
            IpAddr::V6(_) => self.v6.map(|(own, _)| own.into()),
        }
    }

    /// Whether an address is one of the inside network.
    #[inline]
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.is_some_and(|(_, net)| net.contains(&ip)),
            IpAddr::V6(ip) => {
                self.v6.is_some_and(|(_, net)| net.contains(&ip)) || ip.is_unicast_link_local()
            }
        }
    }
}

/// What a translator is told.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's own addresses.
    pub gateways: Gateways,
    /// Where it leads to.
    pub outside: Outside,
    /// Ports that lead to guests from the start.
    pub forwards: Vec<Forward>,
    /// From whom mappings take packets.
    pub filtering: Filtering,
    /// When what is idle is forgotten.
    pub timeouts: Timeouts,
    /// How much there may be at once.
    pub limits: Limits,
    /// Where guests cannot go: the subnets of other networks.
    pub closed: Vec<IpNet>,
    /// Whether TCP and UDP to the gateway's own addresses reach the host's loopback.
    pub map_host_loopback: bool,
    /// Whether active FTP works: the address in PORT and EPRT is translated, and the connection let in.
    pub ftp: bool,
    /// Whether [events](Event) are told.
    pub log: bool,
}

/// Where a NAT leads to.
#[derive(Clone, Debug)]
pub enum Outside {
    /// The daemon's own sockets.
    Host,
    /// The frames of another network.
    Network(NetworkOutside),
}

/// What a translator is in the network that it leads to.
#[derive(Clone, Debug)]
pub struct NetworkOutside {
    /// Its own hardware address there.
    pub mac: MacAddr,
    /// Its IPv4 address there.
    pub v4: Addressing4,
    /// Its IPv6 address there.
    pub v6: Addressing6,
    /// The ports that guests' ports are mapped to where they cannot be kept.
    pub ports: RangeInclusive<u16>,
    /// What it calls itself to a DHCP server.
    pub hostname: String,
}

/// How a translator comes by its IPv4 address outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Addressing4 {
    /// It has none: IPv4 does not leave.
    Off,
    /// From a DHCP server.
    Dhcp,
    /// It was told.
    Static {
        /// The address.
        ip: Ipv4Addr,
        /// The subnet it is in.
        net: Ipv4Net,
        /// The router, where there is one.
        router: Option<Ipv4Addr>,
    },
}

/// How a translator comes by its IPv6 address outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Addressing6 {
    /// It has none: IPv6 does not leave.
    Off,
    /// By router advertisements (RFC 4862).
    Auto,
    /// It was told.
    Static {
        /// The address.
        ip: Ipv6Addr,
        /// The prefix it is in.
        net: Ipv6Net,
        /// The router, where there is one.
        router: Option<Ipv6Addr>,
    },
}

/// Who began a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Originator {
    /// A guest.
    Guest,
    /// Somebody outside, by a port forward.
    Forward,
}

impl Originator {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Forward => "forward",
        }
    }
}

/// A flow as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlowRow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub originator: Originator,
    /// The hardware address of the guest, where it is known.
    pub mac: Option<MacAddr>,
    /// The guest's address and port.
    pub inside: SocketAddr,
    /// What they are outside, where that is known: a socket that was never bound has no address of its own.
    pub outside: Option<SocketAddr>,
    /// Whom the guest talks with; `None` for a mapping that takes packets from more than one.
    pub remote: Option<SocketAddr>,
    /// Its state, in the words of the protocol: `established`, `opening`, `closing`, `active`.
    pub state: &'static str,
    /// Since when it is there.
    pub age: Duration,
    /// Since when nothing has come.
    pub idle: Duration,
    /// When it will be forgotten if nothing comes.
    pub expires: Duration,
    /// Bytes of payload from the guest.
    pub sent: u64,
    /// Bytes of payload to the guest.
    pub received: u64,
}

/// What has become of a flow: a line of the connection log (after RFC 6888, REQ-12).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// Whether it has begun; it has ended otherwise.
    pub created: bool,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub originator: Originator,
    /// The guest's hardware address, where it is known.
    pub mac: Option<MacAddr>,
    /// The guest's address and port.
    pub inside: SocketAddr,
    /// What they are outside, where that is known.
    pub outside: Option<SocketAddr>,
    /// Whom the guest talks with, where there is one.
    pub remote: Option<SocketAddr>,
    /// Bytes of payload from the guest, at the end.
    pub sent: u64,
    /// Bytes of payload to the guest, at the end.
    pub received: u64,
}

/// A translator as it is asked and told while it runs.
pub trait Nat {
    /// Returns what it is at a glance.
    fn view(&self, now: Now) -> View;

    /// Returns all flows.
    fn flows(&self, now: Now) -> Vec<FlowRow>;

    /// Forwards a port from now on.
    ///
    /// # Errors
    ///
    /// The port cannot be had.
    fn add_forward(&mut self, forward: Forward) -> Result<ForwardRow, ForwardError>;

    /// Takes what has become of flows since this was called last, where that is to be told.
    fn take_events(&mut self) -> Vec<Event>;

    /// Stops to forward what is forwarded of an address and its first port; tells whether something was.
    fn remove_forward(&mut self, protocol: Protocol, listen: SocketAddr, now: Now) -> bool;
}

/// A translator at a glance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct View {
    /// Its addresses outside, where it has some of its own.
    pub outside: Vec<IpAddr>,
    /// How many flows there are of each protocol, in the order of [`Protocol::ALL`].
    pub flows: [usize; Protocol::ALL.len()],
    /// How many flows there have been.
    pub created: u64,
    /// How many were refused because a limit was reached.
    pub refused: u64,
    /// Bytes of payload from guests.
    pub sent: u64,
    /// Bytes of payload to guests.
    pub received: u64,
    /// Its port forwards.
    pub forwards: Vec<ForwardRow>,
}
