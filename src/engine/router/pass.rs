//! The way of a batch through a router, and of frames that a translator has made.

use std::time::SystemTime;

use super::{BURSTS, HOPS, Leg, Pending, Routing, concerns_translator};
use crate::engine::Count;
use crate::engine::carry::Floor;
use crate::engine::worker::earlier;
use crate::net::Now;
use crate::net::drops::DropReason;
use crate::net::frame::{Head, Parsed};
use crate::net::gateway::Gateway;
use crate::net::napt::{Side, Verdict};
use crate::net::offload::{self, Capabilities};
use crate::net::outbox::{Egress, Outbox};
use crate::net::port::PortId;
use crate::net::vlan::TagAction;
use crate::ports::burst::Burst;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr, TAG_LEN};
use crate::wire::virtio_net::{GSO_NONE, VirtioNetHeader};

/// Takes the tag off a head, in place.
fn strip(head: &mut Head) {
    let bare = head.with_tag(TagAction::Strip);
    let len = bare.bytes().len();
    head.buffer()[..len].copy_from_slice(bare.bytes());
    head.set_len(len);
    head.offload = bare.offload;
    head.frame_len -= u32::try_from(TAG_LEN).unwrap_or_default();
}

/// One frame, as it is counted.
fn count(head: &Head) -> Count {
    Count {
        frames: 1,
        bytes: u64::from(head.frame_len),
    }
}

impl Floor<'_> {
    /// Has routers look at what was set aside of a burst, and carries what comes of it.
    #[inline(never)]
    pub(in crate::engine) fn route(
        &mut self,
        routing: &mut Routing,
        burst: &mut Burst,
        outbox: &mut Outbox,
    ) {
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
        for leg in [here, there] {
            self.networks[leg.network].switch.set_now(self.now);
        }
        let seen = std::mem::take(&mut routing.seen);
        let mut left = Count::default();
        let mut moved = self.enter(there, &seen, Verdict::Forward, burst, outbox);
        self.carry(there.port, passing.hops + 1, burst, outbox, routing);
        moved.add(self.enter(here, &seen, Verdict::Back, burst, outbox));
        self.carry(here.port, passing.hops + 1, burst, outbox, routing);
        for (frame, _, verdict) in &seen {
            match verdict {
                Verdict::Forward | Verdict::Back => {}
                Verdict::Whole => routing.whole.push(Egress {
                    frame: *frame,
                    action: TagAction::Keep,
                }),
                Verdict::Drop(reason) => {
                    self.slots[passing.from.index()].drops.count(*reason);
                    left.add(count(&burst.frames()[usize::from(*frame)].head));
                }
            }
        }
        left.add(moved);
        self.slots[here.port.index()].egress.add(left);
        // A switch reads what goes to many, and that is never translated.
        drop(outbox.take_own());
        routing.seen = seen;
        if !routing.whole.is_empty() {
            self.hand_over(number, side, routing, burst);
        }
        let router = &mut routing.routers[number];
        // A guest that speaks to others alone is known by that.
        let gateway = self.slots[router.inside.port.index()].port.gateway_mut();
        if let Some(gateway) = gateway {
            for (ip, mac) in router.napt.take_guests() {
                gateway.inside_mut().note_seen(ip, mac, self.now);
            }
        }
        let timer = router.napt.poll_timeout();
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
            // What is for the gateway itself is its services'.
            let translated = match side {
                Side::Inside => router.is_transit(head, &parsed),
                Side::Outside => matches!(parsed.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6),
            };
            if !translated {
                whole.push(*egress);
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

    /// Has those frames of a batch on which the translator decided so come into a network by a router's port, and counts
    /// them.
    fn enter(
        &mut self,
        leg: Leg,
        seen: &[(u16, Parsed, Verdict)],
        which: Verdict,
        burst: &mut Burst,
        outbox: &mut Outbox,
    ) -> Count {
        let network = &mut self.networks[leg.network];
        let slot = &mut self.slots[leg.port.index()];
        let mut entered = Count::default();
        for (number, parsed, _) in seen.iter().filter(|(.., verdict)| *verdict == which) {
            let head = &mut burst.frames_mut()[usize::from(*number)].head;
            entered.add(count(head));
            // All that the translator has changed of what the switch decides on; reading it anew would cost more.
            let parsed = Parsed {
                dst: MacAddr::from_slice(head.bytes()).unwrap_or(MacAddr::ZERO),
                src: leg.mac,
                ..*parsed
            };
            let passed = offload::check(head, network.mtu).and_then(|()| {
                let switch = &mut network.switch;
                switch.forward(leg.port, *number, head, &parsed, outbox)
            });
            if let Err(reason) = passed {
                slot.drops.count(reason);
            }
        }
        slot.ingress.add(entered);
        entered
    }

    /// Has a frame that a translator has made come into a network by its router's port.
    fn forward(&mut self, leg: Leg, number: u16, burst: &mut Burst, outbox: &mut Outbox) {
        let network = &mut self.networks[leg.network];
        let slot = &mut self.slots[leg.port.index()];
        let head = &mut burst.frames_mut()[usize::from(number)].head;
        slot.ingress.add(count(head));
        let passed = offload::check(head, network.mtu)
            .and_then(|()| head.parse())
            .and_then(|parsed| {
                let switch = &mut network.switch;
                switch.forward(leg.port, number, head, &parsed, outbox)
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
            self.slots[leg.port.index()].egress.add(count(&frame.head));
            let idle = |parsed: Parsed| {
                parsed.dst.is_group() && !concerns_translator(&frame.head, &parsed)
            };
            if frame.head.parse().is_ok_and(idle) {
                return false;
            }
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
    pub(in crate::engine) fn inject(
        &mut self,
        routing: &mut Routing,
        burst: &mut Burst,
        outbox: &mut Outbox,
    ) {
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
            self.networks[leg.network].switch.set_now(self.now);
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
