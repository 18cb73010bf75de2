//! Routers: each joins the gateway's port of one network with a port of its own in another, and has a translator between
//! them ([`crate::net::napt`]).
//!
//! # Theory of operation
//!
//! What leaves by a port with a router is set aside until the rest of the burst has been carried, since others may get the
//! same frames as they came. Then the tag is taken off each head and the translator rewrites it in place; the other
//! network's switch forwards it as if it had come in by the router's port there, and it is carried to its end. The body is where
//! it was all the time. A frame may pass several routers one after the other, up to [`HOPS`].
//!
//! What the translator must see whole is copied for it: all of that kind that comes from outside, and from inside what is in
//! transit. The rest of what guests send to the gateway is handed to the gateway's port, as where there is no router.
//!
//! Frames that the translator makes itself wait in a queue until the burst is given back. They come in by the router's port on
//! the side that they are for. So many bursts are sent at once; what is left waits for the next round of the worker.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

pub(super) use self::open::Leading;
use super::slot::Slot;
use crate::net::Now;
use crate::net::drops::DropReason;
use crate::net::frame::{Head, Parsed};
use crate::net::inside::Inside;
use crate::net::napt::{Napt, Routed, Side, Verdict};
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};
use crate::net::nat::{Event, FlowRow, Gateways, Nat, Protocol, View};
use crate::net::outbox::Egress;
use crate::net::port::PortId;
use crate::wire::dhcp::CLIENT_PORT;
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use crate::wire::ipv4::PROTOCOL_UDP;
use crate::wire::ipv6::NEXT_HEADER_ICMPV6;
use crate::wire::virtio_net::VirtioNetHeader;

mod open;
mod pass;
#[cfg(test)]
mod tests;

/// The next header value behind which queries for groups are.
const HOP_BY_HOP: u8 = 0;
/// How many routers a frame may pass while its burst is there.
const HOPS: u8 = 4;
/// How many frames of translators wait to be sent at most.
const PENDING: usize = 4096;
/// How many bursts of them are sent at once.
const BURSTS: usize = 16;
/// How many events wait to be taken at most.
const EVENTS: usize = 65_536;

/// One side of a router.
#[derive(Clone, Copy, Debug)]
struct Leg {
    port: PortId,
    network: usize,
    mac: MacAddr,
}

/// A router.
pub(super) struct Router {
    napt: Napt,
    inside: Leg,
    outside: Leg,
    gateways: Gateways,
    events: VecDeque<Event>,
}

impl Router {
    /// The network whose gateway it is.
    pub(super) const fn network(&self) -> usize {
        self.inside.network
    }

    const fn leg(&self, side: Side) -> Leg {
        match side {
            Side::Inside => self.inside,
            Side::Outside => self.outside,
        }
    }

    /// Whether a packet of the inside is for somebody who is not there.
    #[inline]
    fn is_transit(&self, head: &Head, parsed: &Parsed) -> bool {
        let packet = head.bytes().get(parsed.payload_at()..).unwrap_or_default();
        let ip: IpAddr = match parsed.ethertype {
            ETHERTYPE_IPV4 => match packet.get(16..).and_then(|dst| dst.first_chunk::<4>()) {
                Some([255, 255, 255, 255]) | None => return false,
                Some(octets) => (*octets).into(),
            },
            ETHERTYPE_IPV6 => match packet.get(24..).and_then(|dst| dst.first_chunk::<16>()) {
                Some(octets) => (*octets).into(),
                None => return false,
            },
            _ => return false,
        };
        // The gateway's own addresses are among those of the inside.
        !ip.is_multicast() && !self.gateways.is_inside(ip)
    }

    /// What an operator should know, one sentence each.
    pub(super) fn advisories(&self, now: Instant) -> Vec<String> {
        self.napt.advisories(now)
    }
}

impl Router {
    /// The translator, together with who is inside.
    pub(super) const fn nat<'a>(&'a mut self, inside: &'a Inside) -> RouterNat<'a> {
        RouterNat {
            router: self,
            inside,
        }
    }
}

/// A router's translator, as it is asked and told by the control thread.
pub(super) struct RouterNat<'a> {
    router: &'a mut Router,
    inside: &'a Inside,
}

impl Nat for RouterNat<'_> {
    fn view(&self, _now: Now) -> View {
        self.router.napt.view(self.inside)
    }

    fn flows(&self, now: Now) -> Vec<FlowRow> {
        self.router.napt.flows(now.instant)
    }

    fn add_forward(&mut self, forward: Forward) -> Result<ForwardRow, ForwardError> {
        self.router.napt.add_forward(forward, self.inside)
    }

    fn take_events(&mut self) -> Vec<Event> {
        self.router.events.drain(..).collect()
    }

    fn remove_forward(&mut self, protocol: Protocol, listen: SocketAddr, _now: Now) -> bool {
        self.router.napt.remove_forward(protocol, listen)
    }
}

/// A batch that a router is to look at.
#[derive(Debug)]
struct Batch {
    port: PortId,
    /// By which port its frames came into that network.
    from: PortId,
    hops: u8,
    frames: Vec<Egress>,
}

/// Batches of a burst that routers are to look at, when all others have been carried. Their memory is used again.
#[derive(Debug, Default)]
pub(super) struct Aside {
    batches: Vec<Batch>,
    len: usize,
}

impl Aside {
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a batch aside whose frames came in by `from`, after so many routers.
    #[cold]
    #[inline(never)]
    pub(super) fn add(&mut self, port: PortId, from: PortId, hops: u8, frames: &[Egress]) {
        if self.len == self.batches.len() {
            self.batches.push(Batch {
                port,
                from,
                hops,
                frames: Vec::new(),
            });
        }
        let batch = &mut self.batches[self.len];
        (batch.port, batch.from, batch.hops) = (port, from, hops);
        batch.frames.clear();
        batch.frames.extend_from_slice(frames);
        self.len += 1;
    }
}

/// A frame that a translator has made.
struct Pending {
    router: usize,
    side: Side,
    frame: Vec<u8>,
    header: VirtioNetHeader,
}

/// The routers of a worker, and what they work with.
#[derive(Default)]
pub(super) struct Routing {
    pub(super) routers: Vec<Router>,
    pub(super) aside: Aside,
    pending: VecDeque<Pending>,
    out: Routed,
    /// The frames of a batch that the translator has looked at.
    seen: Vec<(u16, Parsed, Verdict)>,
    whole: Vec<Egress>,
    copy: Vec<u8>,
    /// Who is inside where there is no gateway.
    nobody: Inside,
}

impl Routing {
    /// The router of the network with this number.
    pub(super) fn of(&mut self, network: usize) -> Option<&mut Router> {
        let mut routers = self.routers.iter_mut();
        routers.find(|router| router.network() == network)
    }

    /// The next time at which a translator has work to do.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let routers = self.routers.iter();
        let timers = routers.filter_map(|router| router.napt.poll_timeout());
        let waiting = (!self.pending.is_empty()).then_some(now);
        timers.chain(waiting).min()
    }

    /// Takes what a translator has made.
    fn collect(&mut self, number: usize, slots: &mut [Slot]) {
        let router = &mut self.routers[number];
        for (side, frame, header) in self.out.frames.drain(..) {
            if self.pending.len() >= PENDING {
                let slot = &mut slots[router.leg(side).port.index()];
                slot.drops.count(DropReason::NoBuffer);
                continue;
            }
            self.pending.push_back(Pending {
                router: number,
                side,
                frame,
                header,
            });
        }
        for event in self.out.events.drain(..) {
            if router.events.len() >= EVENTS {
                router.events.pop_front();
            }
            router.events.push_back(event);
        }
    }
}

/// Whether a frame that goes to many outside can concern a translator: ARP, neighbour discovery, queries for groups, and what
/// DHCP servers say to all. The rest of what a network hears need not be copied.
fn concerns_translator(head: &Head, parsed: &Parsed) -> bool {
    let packet = head.bytes().get(parsed.payload_at()..).unwrap_or_default();
    match parsed.ethertype {
        ETHERTYPE_ARP => true,
        ETHERTYPE_IPV4 => {
            let udp_at = usize::from(packet.first().map_or(0, |first| first & 0x0f)) * 4;
            let port = packet.get(udp_at + 2..udp_at + 4);
            packet.get(9) == Some(&PROTOCOL_UDP) && port == Some(&CLIENT_PORT.to_be_bytes())
        }
        ETHERTYPE_IPV6 => matches!(packet.get(6), Some(&(HOP_BY_HOP | NEXT_HEADER_ICMPV6))),
        _ => false,
    }
}
