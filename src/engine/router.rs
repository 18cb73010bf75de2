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
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use super::carry::Floor;
use super::slot::Slot;
use super::worker::{Worker, clock, earlier};
use super::{NetworkSpec, OutsidePort, StartError};
use crate::net::Now;
use crate::net::drops::{DropReason, Drops};
use crate::net::frame::{Head, Parsed};
use crate::net::gateway::Gateway;
use crate::net::inside::Inside;
use crate::net::member::Member;
use crate::net::napt::{ForwardError, Napt, Routed, Side, Verdict};
use crate::net::nat::forward::{Forward, ForwardRow};
use crate::net::nat::{Event, FlowRow, Gateways, Outside, Protocol, Spec, View};
use crate::net::offload::{self, Capabilities};
use crate::net::outbox::{Egress, Outbox};
use crate::net::port::PortId;
use crate::net::security::Security;
use crate::net::vlan::TagAction;
use crate::ports::burst::Burst;
use crate::ports::{Port, PortFault, PortState, PortStatus, Sent, Watcher};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr, TAG_LEN};
use crate::wire::virtio_net::{GSO_NONE, VirtioNetHeader};

#[cfg(test)]
mod tests;

/// How many routers a frame may pass while its burst is there.
const HOPS: u8 = 4;
/// How many frames of translators wait to be sent at most.
const PENDING: usize = 4096;
/// How many bursts of them are sent at once.
const BURSTS: usize = 16;
/// How many events wait to be taken at most.
const EVENTS: usize = 65_536;

/// A router's own port in the network that it leads to. Nothing comes by it but what the worker puts there.
struct RouterPort;

impl Port for RouterPort {
    fn watch(&mut self, _watcher: Watcher) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, _burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
        Ok(())
    }

    fn release(&mut self, burst: &mut Burst) {
        burst.clear();
    }

    fn transmit(
        &mut self,
        _burst: &Burst,
        _batch: &[Egress],
        _drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        Ok(Sent::default())
    }

    fn arm(&mut self) -> bool {
        false
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
}

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
    fn is_transit(&self, head: &Head, parsed: &Parsed) -> bool {
        let packet = head.bytes().get(parsed.payload_at()..).unwrap_or_default();
        let dst: Option<IpAddr> = match parsed.ethertype {
            ETHERTYPE_IPV4 => packet
                .get(16..20)
                .and_then(|octets| <[u8; 4]>::try_from(octets).ok())
                .map(IpAddr::from),
            ETHERTYPE_IPV6 => packet
                .get(24..40)
                .and_then(|octets| <[u8; 16]>::try_from(octets).ok())
                .map(IpAddr::from),
            _ => None,
        };
        let all = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        dst.is_some_and(|ip| {
            !ip.is_multicast()
                && !all(ip)
                && !self.gateways.is_own(ip)
                && !self.gateways.is_inside(ip)
        })
    }

    /// What an operator should know, one sentence each.
    pub(super) fn advisories(&self, now: Instant) -> Vec<String> {
        self.napt.advisories(now)
    }
}

#[allow(dead_code, reason = "for the commands of the control thread")]
impl Router {
    /// The translator at a glance.
    pub(super) fn view(&self) -> View {
        self.napt.view()
    }

    /// Its flows.
    pub(super) fn flows(&self, now: Instant) -> Vec<FlowRow> {
        self.napt.flows(now)
    }

    /// Forwards a port.
    pub(super) fn add_forward(&mut self, forward: Forward) -> Result<ForwardRow, ForwardError> {
        self.napt.add_forward(forward)
    }

    /// Forwards a port no more; tells whether it did.
    pub(super) fn remove_forward(&mut self, protocol: Protocol, listen: SocketAddr) -> bool {
        self.napt.remove_forward(protocol, listen)
    }

    /// Takes what has become of flows since it was last asked.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
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

/// Takes the tag off a head, in place.
fn strip(head: &mut Head) {
    let bare = head.with_tag(TagAction::Strip);
    let len = bare.bytes().len();
    head.buffer()[..len].copy_from_slice(bare.bytes());
    head.set_len(len);
    head.offload = bare.offload;
    head.frame_len -= u32::try_from(TAG_LEN).unwrap_or_default();
}

impl Floor<'_> {
    /// Has routers look at what was set aside of a burst, and carries what comes of it.
    #[inline(never)]
    pub(super) fn route(&mut self, routing: &mut Routing, burst: &mut Burst, outbox: &mut Outbox) {
        let mut index = 0;
        // What passes one router may come to the next.
        while index < routing.aside.len {
            let batch = &mut routing.aside.batches[index];
            let (port, from, hops) = (batch.port, batch.from, batch.hops);
            let frames = std::mem::take(&mut batch.frames);
            let passing = Passing {
                port,
                from,
                hops,
                frames: &frames,
            };
            self.pass(&passing, routing, burst, outbox);
            routing.aside.batches[index].frames = frames;
            index += 1;
        }
        routing.aside.len = 0;
    }

    fn pass(
        &mut self,
        passing: &Passing<'_>,
        routing: &mut Routing,
        burst: &mut Burst,
        outbox: &mut Outbox,
    ) {
        let port = passing.port;
        let Some(number) = self.slots[port.index()].router else {
            return;
        };
        let router = &routing.routers[number];
        let side = match port == router.inside.port {
            true => Side::Inside,
            false => Side::Outside,
        };
        let (here, there) = (router.leg(side), router.leg(side.other()));
        self.look(passing, number, side, routing, burst);
        let seen = std::mem::take(&mut routing.seen);
        for (frame, _, verdict) in &seen {
            match verdict {
                Verdict::Forward => self.forward(there, *frame, burst, outbox),
                Verdict::Back => {}
                Verdict::Whole => {
                    routing.whole.push(Egress {
                        frame: *frame,
                        action: TagAction::Keep,
                    });
                    continue;
                }
                Verdict::Drop(reason) => {
                    self.slots[passing.from.index()].drops.count(*reason);
                }
            }
            self.count_egress(here, *frame, burst);
        }
        self.carry(there.port, passing.hops + 1, burst, outbox, routing);
        for (frame, _, verdict) in &seen {
            if *verdict == Verdict::Back {
                self.forward(here, *frame, burst, outbox);
            }
        }
        self.carry(here.port, passing.hops + 1, burst, outbox, routing);
        routing.seen = seen;
        if !routing.whole.is_empty() {
            self.hand_over(number, side, routing, burst);
        }
        let timer = routing.routers[number].napt.poll_timeout();
        *self.next_timer = earlier(*self.next_timer, timer);
    }

    /// Has the translator look at the frames of a batch that are for the router.
    fn look(
        &mut self,
        passing: &Passing<'_>,
        number: usize,
        side: Side,
        routing: &mut Routing,
        burst: &mut Burst,
    ) {
        let Routing {
            routers,
            seen,
            whole,
            nobody,
            ..
        } = routing;
        let router = &mut routers[number];
        let mac = router.leg(side).mac;
        seen.clear();
        whole.clear();
        for egress in passing.frames {
            let head = &mut burst.frames_mut()[usize::from(egress.frame)].head;
            let Ok(mut parsed) = head.parse() else {
                continue;
            };
            if parsed.dst != mac {
                // Others get it too, so its head stays as it is.
                if parsed.dst.is_group() {
                    whole.push(*egress);
                }
                continue;
            }
            let refused = match egress.action {
                _ if passing.hops >= HOPS => Some(DropReason::Loop),
                TagAction::Keep => None,
                TagAction::Strip => {
                    strip(head);
                    head.parse().map(|bare| parsed = bare).err()
                }
                TagAction::Insert(_) | TagAction::Replace(_) => Some(DropReason::VlanNotAllowed),
            };
            if let Some(reason) = refused {
                self.slots[passing.from.index()].drops.count(reason);
                continue;
            }
            router.napt.prefetch(side, head, &parsed);
            seen.push((egress.frame, parsed, Verdict::Whole));
        }
        let gateway = self.slots[router.inside.port.index()].port.gateway();
        let inside = gateway.map_or(&*nobody, Gateway::inside);
        for (frame, parsed, verdict) in seen {
            let head = &mut burst.frames_mut()[usize::from(*frame)].head;
            *verdict = router.napt.translate(side, head, parsed, inside, self.now);
        }
    }

    fn count_egress(&mut self, leg: Leg, frame: u16, burst: &Burst) {
        let count = &mut self.slots[leg.port.index()].egress;
        count.frames += 1;
        count.bytes += u64::from(burst.frames()[usize::from(frame)].head.frame_len);
    }

    /// Has a frame come into a network by a router's port.
    fn forward(&mut self, leg: Leg, number: u16, burst: &mut Burst, outbox: &mut Outbox) {
        let network = &mut self.networks[leg.network];
        let slot = &mut self.slots[leg.port.index()];
        let head = &mut burst.frames_mut()[usize::from(number)].head;
        slot.ingress.frames += 1;
        slot.ingress.bytes += u64::from(head.frame_len);
        network.switch.set_now(self.now);
        let passed = offload::check(head, network.mtu)
            .and_then(|()| head.parse())
            .and_then(|parsed| {
                network
                    .switch
                    .forward(leg.port, number, head, &parsed, outbox)
            });
        if let Err(reason) = passed {
            slot.drops.count(reason);
        }
    }

    /// Carries what came in by `from`.
    fn carry(
        &mut self,
        from: PortId,
        hops: u8,
        burst: &Burst,
        outbox: &mut Outbox,
        routing: &mut Routing,
    ) {
        outbox.drain(|port, batch| {
            if self.slots[port.index()].router.is_some() {
                routing.aside.add(port, from, hops, batch);
            } else {
                self.deliver(port, burst, batch);
            }
        });
    }

    /// Hands what must be seen whole to who is to see it: the gateway's services, or the translator.
    fn hand_over(&mut self, number: usize, side: Side, routing: &mut Routing, burst: &Burst) {
        let now = Now {
            instant: self.now,
            wall: SystemTime::now(),
        };
        let leg = routing.routers[number].leg(side);
        let mut whole = std::mem::take(&mut routing.whole);
        whole.retain(|egress| {
            let frame = &burst.frames()[usize::from(egress.frame)];
            let router = &mut routing.routers[number];
            let transit = |parsed: Parsed| router.is_transit(&frame.head, &parsed);
            if side == Side::Inside && !frame.head.parse().is_ok_and(transit) {
                return true;
            }
            self.count_egress(leg, egress.frame, burst);
            let mut header = burst.copy_frame(frame, egress.action, &mut routing.copy);
            if header.gso_type == GSO_NONE && header.needs_checksum() {
                // Nobody further on has to know that it was left to be done.
                let finished = offload::finish(
                    &mut routing.copy,
                    header,
                    Capabilities::default(),
                    |_, _, _| Ok(()),
                );
                if finished.is_err() {
                    return false;
                }
                header = VirtioNetHeader::default();
            }
            let gateway = self.slots[router.inside.port.index()].port.gateway();
            let inside = gateway.map_or(&routing.nobody, Gateway::inside);
            let (napt, out) = (&mut router.napt, &mut routing.out);
            napt.handle_frame(side, &routing.copy, header, inside, now, out);
            false
        });
        if !whole.is_empty() {
            self.deliver(leg.port, burst, &whole);
        }
        whole.clear();
        routing.whole = whole;
        routing.collect(number, self.slots);
    }

    /// Sends what translators have made. `burst` is empty, before and afterwards.
    #[inline(never)]
    pub(super) fn inject(&mut self, routing: &mut Routing, burst: &mut Burst, outbox: &mut Outbox) {
        for _ in 0..BURSTS {
            let Some(first) = routing.pending.front() else {
                return;
            };
            let (number, side) = (first.router, first.side);
            let leg = routing.routers[number].leg(side);
            let same = |next: &mut Pending| (next.router, next.side) == (number, side);
            while burst.room() > 0
                && let Some(next) = routing.pending.pop_front_if(same)
            {
                burst.push_owned(next.frame, next.header);
            }
            for index in 0..burst.len() {
                if let Ok(index) = u16::try_from(index) {
                    self.forward(leg, index, burst, outbox);
                }
            }
            self.carry(leg.port, 0, burst, outbox, routing);
            for index in outbox.take_own() {
                let frame = &burst.frames()[usize::from(index)];
                burst.copy_frame(frame, TagAction::Keep, &mut routing.copy);
                let switch = &mut self.networks[leg.network].switch;
                switch.handle_own(leg.port, &routing.copy, self.own);
                self.changed = true;
            }
            self.route(routing, burst, outbox);
            burst.clear();
        }
        if !routing.pending.is_empty() {
            *self.next_timer = Some(self.now);
        }
    }
}

/// A batch on its way through a router.
struct Passing<'a> {
    port: PortId,
    from: PortId,
    hops: u8,
    frames: &'a [Egress],
}

/// A network whose gateway leads to another, before its router is there.
pub(super) struct Leading {
    inside: String,
    network: usize,
    mac: MacAddr,
    nat: Spec,
    outside: OutsidePort,
}

impl Leading {
    /// Returns what is told of a router in the specification of the network with this number, if it is to have one.
    pub(super) fn of(spec: &NetworkSpec, network: usize) -> Option<Self> {
        let gateway = spec.gateway.as_ref()?;
        Some(Self {
            inside: spec.name.clone(),
            network,
            mac: gateway.mac,
            nat: gateway.nat.clone()?,
            outside: spec.outside.clone()?,
        })
    }
}

impl Worker {
    /// Opens the routers, when all networks are there.
    pub(super) fn open_routers(
        &mut self,
        leading: Vec<Leading>,
        now: Now,
    ) -> Result<(), StartError> {
        leading
            .into_iter()
            .try_for_each(|leading| self.open_router(leading, now))
    }

    fn open_router(&mut self, leading: Leading, now: Now) -> Result<(), StartError> {
        let Leading {
            inside: name,
            network,
            mac,
            nat,
            outside: port,
        } = leading;
        let Outside::Network(outside) = &nat.outside else {
            return Ok(());
        };
        let mut networks = self.networks.iter();
        let found = networks.position(|other| *other.name == *port.network);
        let gateway = (0..)
            .map(PortId)
            .zip(&self.slots)
            .find(|(_, slot)| slot.network == network && slot.port.gateway().is_some());
        let (Some(other), Some((inside, _))) = (found, gateway) else {
            return Err(StartError::NoOutside {
                network: name,
                outside: port.network,
            });
        };
        let mut slots = self.slots.iter();
        let taken = slots.any(|slot| slot.network == other && slot.name == name);
        let own_name = if taken { format!("{name}-nat") } else { name };
        let slot = Slot::new(
            own_name,
            "gateway",
            other,
            Box::new(RouterPort),
            now.instant,
        );
        let number = self.routing.routers.len();
        let slot = Slot {
            port_group: port.port_group,
            router: Some(number),
            ..slot
        };
        let member = Member {
            mac: Some(outside.mac),
            uplink: false,
            takes_first: false,
            // It speaks for itself, and hears what is for it.
            security: Security::default(),
            ..port.member
        };
        let id = self.add(slot, member)?;
        self.slots[inside.index()].router = Some(number);
        let seed = RandomState::new().build_hasher().finish();
        let mut napt = Napt::new(&nat, mac, outside, seed, now);
        napt.set_mtu(self.networks[network].mtu, self.networks[other].mtu);
        self.routing.routers.push(Router {
            napt,
            inside: Leg {
                port: inside,
                network,
                mac,
            },
            outside: Leg {
                port: id,
                network: other,
                mac: outside.mac,
            },
            gateways: nat.gateways,
            events: VecDeque::new(),
        });
        Ok(())
    }

    /// Has routers look at what was set aside of the burst.
    #[cold]
    #[inline(never)]
    pub(super) fn route(&mut self, now: Instant) -> bool {
        let mut floor = Floor {
            slots: &mut self.slots,
            networks: &mut self.networks,
            own: &mut self.own,
            hot: &mut self.hot,
            next_timer: &mut self.next_timer,
            changed: false,
            now,
        };
        floor.route(&mut self.routing, &mut self.burst, &mut self.outbox);
        floor.changed
    }

    /// Sends what translators have made, and follows what has changed by it.
    #[cold]
    #[inline(never)]
    pub(super) fn finish_routing(&mut self, mut changed: bool, now: Instant) {
        let mut floor = Floor {
            slots: &mut self.slots,
            networks: &mut self.networks,
            own: &mut self.own,
            hot: &mut self.hot,
            next_timer: &mut self.next_timer,
            changed: false,
            now,
        };
        floor.inject(&mut self.routing, &mut self.own_burst, &mut self.outbox);
        changed |= floor.changed;
        if changed {
            for network in 0..self.networks.len() {
                self.follow_switch(network, now);
            }
        }
    }

    /// Does what is due at routers.
    pub(super) fn handle_router_timers(&mut self, now: Now) {
        if self.routing.routers.is_empty() {
            return;
        }
        for number in 0..self.routing.routers.len() {
            let Routing { routers, out, .. } = &mut self.routing;
            let napt = &mut routers[number].napt;
            if napt.poll_timeout().is_some_and(|at| now.instant >= at) {
                napt.handle_timeout(now, out);
                self.routing.collect(number, &mut self.slots);
            }
        }
        self.finish_routing(false, now.instant);
    }

    /// Gives back what routers were lent outside.
    pub(super) fn shut_down_routers(&mut self) {
        let now = clock();
        for number in 0..self.routing.routers.len() {
            let Routing { routers, out, .. } = &mut self.routing;
            routers[number].napt.shutdown(now, out);
            self.routing.collect(number, &mut self.slots);
        }
        self.finish_routing(false, now.instant);
    }
}
