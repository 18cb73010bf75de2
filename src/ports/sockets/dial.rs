//! Where a guest's packets go to by the daemon's own sockets, and where they do not.
//!
//! Never leaves: what is for nobody (unspecified, group, reserved), for the loopback, for the inside itself, or for a
//! network that is closed. The gateway's own addresses stand for the host's loopback where that is wanted, and TCP to
//! their port 53 ends in the daemon itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};

use super::system;
use crate::net::nat;
use crate::net::nat::error::Unreachable;
use crate::wire::ethernet::MacAddr;

/// The port of DNS.
const DNS: u16 = 53;
/// Where clouds tell a host who it is and what it may, beside the link-local addresses: Alibaba, Azure, Oracle.
const SECRETS_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The same by IPv6, in addresses that look like any others: Amazon, Google, Scaleway.
const SECRETS_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];
/// How many local streams there are at most, and how many of them are one guest's.
const STREAMS: usize = 256;
const STREAMS_PER_GUEST: usize = 32;

/// Where an address leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// To a socket address of the host's network.
    Out(SocketAddr),
    /// Into the daemon itself.
    Local,
    /// Nowhere, and the guest may know.
    Refused,
    /// Nowhere, and the guest may know why.
    Unreachable(Unreachable),
    /// Nowhere, without a word.
    Silent,
}

/// What came of an attempt to connect.
#[derive(Debug)]
pub(super) enum Dial {
    /// It is under way: the socket becomes writable when it is done, or failed.
    Connecting(OwnedFd),
    /// It is done.
    Connected(OwnedFd),
    /// There is nobody.
    Refused,
    /// There is no way.
    Unreachable(Unreachable),
    /// The guest is not answered.
    Silent,
}

/// Knows the ways, and opens TCP connections.
#[derive(Debug)]
pub(super) struct Dialer {
    gateways: nat::Gateways,
    closed: Vec<IpNet>,
    loopback: bool,
    transit: bool,
    /// Whether somebody answers DNS over TCP.
    streams: bool,
    streams_now: RefCell<LocalStreams>,
}

/// The end of a local stream within the daemon.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) socket: OwnedFd,
    /// Whose the other end is.
    pub(super) mac: MacAddr,
    pub(super) guest: SocketAddr,
}

#[derive(Debug, Default)]
struct LocalStreams {
    /// Those that nobody has fetched yet.
    opened: Vec<Inner>,
    /// How many there are of each guest.
    count: HashMap<MacAddr, usize, foldhash::fast::RandomState>,
}

impl LocalStreams {
    fn take(&mut self, mac: MacAddr) -> bool {
        let of_guest = self.count.get(&mac).copied().unwrap_or(0);
        let free = of_guest < STREAMS_PER_GUEST && self.count.values().sum::<usize>() < STREAMS;
        if free {
            self.count.insert(mac, of_guest + 1);
        }
        free
    }

    fn give(&mut self, mac: MacAddr) {
        if let Some(of_guest) = self.count.get_mut(&mac) {
            *of_guest -= 1;
            if *of_guest == 0 {
                self.count.remove(&mac);
            }
        }
    }
}

impl Dialer {
    /// Takes from the specification what it needs.
    pub(super) fn new(spec: &nat::Spec, transit: bool, streams: bool) -> Self {
        Self {
            gateways: spec.gateways.clone(),
            closed: spec.closed.clone(),
            loopback: spec.map_host_loopback,
            transit,
            streams,
            streams_now: RefCell::default(),
        }
    }

    /// Tells where a packet of this protocol goes.
    pub(super) fn way(&self, protocol: nat::Protocol, dst: SocketAddr) -> Way {
        let absurd = dst.port() == 0 && protocol != nat::Protocol::Icmp;
        if self.gateways.is_own(dst.ip()) {
            if self.streams && protocol == nat::Protocol::Tcp && dst.port() == DNS {
                return Way::Local;
            }
            if !self.loopback || absurd {
                return Way::Refused;
            }
            let ip: IpAddr = match dst {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            return Way::Out(SocketAddr::new(ip, dst.port()));
        }
        // Whoever translates an address that has another in it may lead there.
        let ips = || [Some(dst.ip()), embedded(dst.ip())].into_iter().flatten();
        let nobody = |ip| !is_public(ip) || self.gateways.is_inside(ip);
        if !self.transit || ips().any(nobody) {
            return Way::Silent;
        }
        if ips().any(|ip| self.closed.iter().any(|net| net.contains(&ip))) {
            return match protocol {
                nat::Protocol::Tcp => Way::Refused,
                nat::Protocol::Udp | nat::Protocol::Icmp => {
                    Way::Unreachable(Unreachable::Prohibited)
                }
            };
        }
        if absurd {
            return Way::Silent;
        }
        Way::Out(dst)
    }

    /// Opens a TCP connection on behalf of a guest.
    pub(super) fn dial(&self, mac: MacAddr, guest: SocketAddr, dst: SocketAddr) -> Dial {
        match self.way(nat::Protocol::Tcp, dst) {
            Way::Out(dst) => connect(dst).unwrap_or_else(|error| of_error(&error)),
            Way::Local => self.open_stream(mac, guest).unwrap_or(Dial::Refused),
            Way::Refused => Dial::Refused,
            Way::Unreachable(why) => Dial::Unreachable(why),
            Way::Silent => Dial::Silent,
        }
    }

    fn open_stream(&self, mac: MacAddr, guest: SocketAddr) -> io::Result<Dial> {
        let (outer, inner) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        outer.set_nonblocking(true)?;
        inner.set_nonblocking(true)?;
        let mut streams = self.streams_now.borrow_mut();
        if !streams.take(mac) {
            return Ok(Dial::Refused);
        }
        streams.opened.push(Inner {
            socket: inner.into(),
            mac,
            guest,
        });
        Ok(Dial::Connected(outer.into()))
    }

    /// Takes the inner ends of the local streams that were opened lately.
    pub(super) fn take_opened(&self) -> Vec<Inner> {
        std::mem::take(&mut self.streams_now.borrow_mut().opened)
    }

    /// Hears that a local stream of a guest has ended.
    pub(super) fn stream_ended(&self, mac: MacAddr) {
        self.streams_now.borrow_mut().give(mac);
    }
}

fn connect(dst: SocketAddr) -> io::Result<Dial> {
    let socket = Socket::new(
        Domain::for_address(dst),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&dst.into()) {
        Ok(()) => Ok(Dial::Connected(socket.into())),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            Ok(Dial::Connecting(socket.into()))
        }
        Err(error) => Err(error),
    }
}

fn of_error(error: &io::Error) -> Dial {
    match system::unreachable(error) {
        Some(why) => Dial::Unreachable(why),
        None if error.kind() == io::ErrorKind::ConnectionRefused => Dial::Refused,
        // Out of descriptors or memory: the guest tries again.
        None => Dial::Silent,
    }
}

/// Whether an address can be somebody's beyond the host.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            // Link-local addresses are not passed on (RFC 3927, section 7): in clouds, they tell a host's secrets.
            first != 0
                && first < 224
                && !ip.is_loopback()
                && !ip.is_link_local()
                && !SECRETS_V4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            // All of ::/96, and the addresses of IPv4 as sockets of IPv6 know them.
            let low = ip.to_ipv4().is_some();
            !low && !ip.is_multicast() && !ip.is_unicast_link_local() && !SECRETS_V6.contains(&ip)
        }
    }
}

/// Returns the address of IPv4 that is in one of IPv6: behind the prefix of NAT64 (RFC 6052), or of 6to4 (RFC 3056).
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else {
        return None;
    };
    match ip.octets() {
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        | [0x20, 0x02, a, b, c, d, ..] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nat::{Filtering, Gateways, Limits, Outside, Timeouts};

    fn way(ip: &str) -> Way {
        let spec = nat::Spec {
            gateways: Gateways {
                v4: Some(([10, 8, 0, 2].into(), "10.8.0.0/24".parse().unwrap())),
                v6: Some(("fd08::2".parse().unwrap(), "fd08::/64".parse().unwrap())),
                link_local: None,
            },
            outside: Outside::Host,
            forwards: Vec::new(),
            filtering: Filtering::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            closed: vec!["10.9.0.0/16".parse().unwrap()],
            map_host_loopback: false,
            ftp: false,
            log: false,
        };
        let dialer = Dialer::new(&spec, true, false);
        dialer.way(nat::Protocol::Tcp, SocketAddr::new(ip.parse().unwrap(), 80))
    }

    #[test]
    fn an_address_within_another_leads_nowhere_that_it_does_not_lead_itself() {
        for ip in [
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::10.8.0.7",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
        ] {
            assert_eq!(way(ip), Way::Silent, "{ip}");
        }
        assert_eq!(way("64:ff9b::10.9.1.1"), Way::Refused);
        assert_eq!(way("2002:a09:101::1"), Way::Refused);
        for ip in ["64:ff9b::192.0.2.1", "2002:c000:201::1", "2001:db8::1"] {
            let to = SocketAddr::new(ip.parse().unwrap(), 80);
            assert_eq!(way(ip), Way::Out(to));
        }
    }

    #[test]
    fn what_tells_a_hosts_secrets_is_out_of_reach() {
        let others = ["169.254.169.254", "169.254.170.2"].map(|ip| ip.parse().unwrap());
        let v4 = SECRETS_V4.map(IpAddr::from).into_iter();
        let v6 = SECRETS_V6.map(IpAddr::from).into_iter();
        for ip in v4.chain(v6).chain(others) {
            assert_eq!(way(&ip.to_string()), Way::Silent, "{ip}");
        }
    }
}
