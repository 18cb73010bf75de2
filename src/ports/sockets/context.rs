//! What the flows of all protocols share: the present, who is inside, limits, and where answers and events go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::dial::Dialer;
use super::poll::Poll;
use super::system;
use crate::net::Now;
use crate::net::inside::Inside;
use crate::net::nat::error::{self, Problem};
use crate::net::nat::frames::Stations;
use crate::net::nat::quota::{Pool, Quota, Share};
use crate::net::nat::{self, Limits};
use crate::net::packet::Packet;
use crate::wire::ethernet::MacAddr;

/// How many errors a network's guests are told of a second, together (RFC 4443, section 2.4).
const ERRORS: u32 = 1000;
/// How many frames of our own wait at most.
const REPLIES: usize = 4096;

/// What the sockets of all networks have taken of the host.
static POOL: Pool = Pool::new();
/// How many UDP ports and ping identifiers of the host all guests may have together. The kernel picks ports from some
/// 28000, which the host's own programs need as well.
const PORTS: usize = 24_576;

/// Returns what counts the flows of a network. Guests must not take the descriptors that others need to be connected at
/// all, whatever network they are in, nor the ports that the host itself needs.
pub(super) fn quota(limits: Limits) -> Quota {
    let most = system::descriptor_limit() / 4 * 3;
    let limits = Limits {
        flows: limits.flows.min(most),
        ..limits
    };
    let share = Share {
        pool: &POOL,
        flows: most,
        ports: PORTS,
    };
    Quota::sharing(limits, share)
}

/// Bytes of payload that flows have carried, those that are there and those that were.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Carried {
    /// From guests.
    pub(super) sent: u64,
    /// To guests.
    pub(super) received: u64,
}

/// What a flow may use while it handles something.
pub(super) struct Context<'a> {
    /// The present.
    pub(super) now: Now,
    /// The gateway's hardware address.
    pub(super) mac: MacAddr,
    /// The gateway's addresses.
    pub(super) gateways: &'a nat::Gateways,
    /// The largest packet of the network.
    pub(super) mtu: u16,
    /// When what is idle is forgotten.
    pub(super) timeouts: nat::Timeouts,
    /// Who is inside.
    pub(super) inside: &'a Inside,
    /// Where sockets are watched.
    pub(super) poll: &'a Poll,
    /// Who knows the ways outside.
    pub(super) dialer: &'a Dialer,
    /// How many flows there may be: taken when one begins, given back when it ends.
    pub(super) quota: &'a mut Quota,
    /// Whole frames to guests.
    pub(super) replies: &'a mut Vec<Vec<u8>>,
    /// What has become of flows: each is told when it begins and when it ends, since what is shown is counted from that.
    pub(super) events: &'a mut Vec<nat::Event>,
    /// Connections of port forwards that have ended, by the ticket with which they were handed over.
    pub(super) ended: &'a mut Vec<usize>,
    /// How many errors may still be told.
    pub(super) errors: &'a mut Errors,
}

impl Context<'_> {
    /// Returns the stations of a frame to a guest.
    pub(super) const fn stations(&self, guest: MacAddr) -> Stations {
        Stations {
            gateway: self.mac,
            guest,
        }
    }

    /// Sends a whole frame to a guest, unless too many wait.
    pub(super) fn reply(&mut self, frame: Vec<u8>) {
        if self.replies.len() < REPLIES {
            self.replies.push(frame);
        }
    }

    /// Tells a guest what was wrong with its packet. `original` is the packet, from its IP header on, or the start of it.
    pub(super) fn answer(&mut self, packet: &Packet, original: &[u8], problem: Problem) {
        let transport = original.get(packet.transport_at - packet.ip_at..);
        if !error::may_answer(packet, transport.unwrap_or_default()) {
            return;
        }
        self.tell(packet.mac, packet.src, None, problem, original);
    }

    /// Tells a guest of an error about a packet of its, in the name of `offender` or of the gateway.
    pub(super) fn tell(
        &mut self,
        mac: MacAddr,
        guest: IpAddr,
        offender: Option<IpAddr>,
        problem: Problem,
        original: &[u8],
    ) {
        let offender = offender.filter(|ip| ip.is_ipv4() == guest.is_ipv4() && !ip.is_loopback());
        let Some(from) = offender.or_else(|| self.gateways.own_for(guest)) else {
            return;
        };
        if !self.errors.allow(self.now.instant) {
            return;
        }
        let original = original.get(..usize::from(self.mtu)).unwrap_or(original);
        if let Some(frame) = error::emit(self.stations(mac), from, guest, problem, original) {
            self.reply(frame);
        }
    }

    /// Returns how a guest sees an address of the host's world: the loopback is the gateway, and so is whoever else it
    /// could not answer.
    pub(super) fn seen_as(&self, ip: IpAddr, guest: IpAddr) -> Option<IpAddr> {
        let own = ip.is_loopback() || self.gateways.is_inside(ip);
        let ip = if own {
            self.gateways.own_for(guest)?
        } else {
            ip
        };
        (ip.is_ipv4() == guest.is_ipv4()).then_some(ip)
    }
}

/// How many errors may still be told in this second.
#[derive(Debug)]
pub(super) struct Errors {
    since: Instant,
    count: u32,
    /// The last mark of a packet that was cut into parts.
    id: u32,
}

impl Errors {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            id: 0,
        }
    }

    /// Returns a mark for a packet that is cut into parts.
    pub(super) const fn next_id(&mut self) -> u32 {
        self.id = self.id.wrapping_add(1);
        self.id
    }

    fn allow(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        self.count <= ERRORS
    }
}

/// Any address and port of the family of an address.
pub(super) const fn any(v6: bool, port: u16) -> SocketAddr {
    match v6 {
        false => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        true => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
    }
}
