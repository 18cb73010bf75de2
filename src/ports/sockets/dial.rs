//! Where a guest's packets go to by the daemon's own sockets, and where they do not.
//!
//! Never leaves: what is for nobody (unspecified, group, reserved), for the loopback, for the inside itself, or for a
//! network that is closed. The gateway's own addresses stand for the host's loopback where that is wanted, and TCP to
//! their port 53 ends in the daemon itself.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};

use super::system;
use crate::net::nat;
use crate::net::nat::error::Unreachable;

/// The port of DNS.
const DNS: u16 = 53;
/// How many local streams there are at most.
const STREAMS: usize = 256;

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
    /// Inner ends of local streams that nobody has fetched yet, and how many more there may be.
    opened: RefCell<(Vec<(OwnedFd, SocketAddr)>, usize)>,
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
            opened: RefCell::new((Vec::new(), STREAMS)),
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
        if !self.transit || !is_public(dst.ip()) || self.gateways.is_inside(dst.ip()) {
            return Way::Silent;
        }
        if self.closed.iter().any(|net| net.contains(&dst.ip())) {
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
    pub(super) fn dial(&self, guest: SocketAddr, dst: SocketAddr) -> Dial {
        match self.way(nat::Protocol::Tcp, dst) {
            Way::Out(dst) => connect(dst).unwrap_or_else(|error| of_error(&error)),
            Way::Local => self.open_stream(guest).unwrap_or(Dial::Refused),
            Way::Refused => Dial::Refused,
            Way::Unreachable(why) => Dial::Unreachable(why),
            Way::Silent => Dial::Silent,
        }
    }

    fn open_stream(&self, guest: SocketAddr) -> io::Result<Dial> {
        let mut opened = self.opened.borrow_mut();
        if opened.1 == 0 {
            return Ok(Dial::Refused);
        }
        let (outer, inner) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        outer.set_nonblocking(true)?;
        inner.set_nonblocking(true)?;
        opened.0.push((inner.into(), guest));
        opened.1 -= 1;
        Ok(Dial::Connected(outer.into()))
    }

    /// Takes the inner ends of the local streams that were opened lately, each with whose it is.
    pub(super) fn take_opened(&self) -> Vec<(OwnedFd, SocketAddr)> {
        std::mem::take(&mut self.opened.borrow_mut().0)
    }

    /// Hears that a local stream has ended.
    pub(super) fn stream_ended(&self) {
        self.opened.borrow_mut().1 += 1;
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
            first != 0 && first < 224 && !ip.is_loopback() && !ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            let mapped = ip.to_ipv4_mapped().is_some();
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && !ip.is_unicast_link_local()
                && !mapped
        }
    }
}
