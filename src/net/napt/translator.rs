//! The translator of one family: frames to flows, flows to frames.
//!
//! # Theory of operation
//!
//! A frame's packet is looked up among the flows of its side and rewritten in place. Most frames are of a flow
//! where nothing has changed, and do no more than that. What is out of the ordinary (a second has passed since the last frame, TCP flags, a
//! hop limit that is at its end, a packet that is too large) goes through `attend`; what belongs to no flow through
//! `begin`, which opens one or says why not.
//!
//! *Hairpin* (RFC 4787, REQ-9; RFC 5382, REQ-8; RFC 5508, REQ-7): a guest that talks with the translator's own address has a
//! flow as with any other remote. Its frames are translated as if they left, and then once more as if they came back. So filters,
//! forwards and states need not know of it, and the other guest sees the address outside.
//!
//! *Refresh*: every frame of the guest refreshes its flow (RFC 4787, REQ-6). A frame from outside does only where the guest has
//! sent in this flow, or the flow came by a port forward: with a filter that lets strangers in, a stranger alone
//! does not keep a mapping alive.
//!
//! *Unsolicited* TCP segments and datagrams are dropped and nothing is answered (RFC 5382, REQ-4a: a reset or an error would
//! tell a scanner what is there, and break a simultaneous open). ICMP errors change no state (REQ-10).

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::net::drops::DropReason;
use crate::net::inside::Inside;
use crate::net::napt::expiry::Wheel;
use crate::net::napt::fragments::{Fragments, Path};
use crate::net::napt::ftp::Control;
use crate::net::napt::key::{Address, Ends, Hasher};
use crate::net::napt::mapping::Mappings;
use crate::net::napt::packet::Packet;
use crate::net::napt::rewrite::Rewrite;
use crate::net::napt::shared::Shared;
use crate::net::napt::table::{Flow, Marks, Table};
use crate::net::napt::{Side, Verdict};
use crate::net::nat::{self, Filtering, FlowRow, Originator, Protocol};
use crate::wire::ethernet::MacAddr;

/// How many flows are looked at for their end in one go.
const EXPIRIES: usize = 4096;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Its frame was rewritten.
    Passed(Verdict),
    /// It has passed as many routers as it may.
    Expired,
    /// It is larger than packets may be on the other side.
    TooBig(usize),
    /// There is no address outside to leave with.
    NoRoute,
    /// The hardware address of the next hop to this address outside is not known.
    AskOutside(IpAddr),
    /// The hardware address of this guest is not known.
    AskInside(IpAddr),
    /// It is of a control connection of FTP.
    Control(u32),
    /// It is an echo request for the translator itself.
    Echo,
    /// It is not for the translator.
    Stray,
    /// It is dropped.
    Dropped(DropReason),
}

/// How a frame came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) side: Side,
    /// Who sent it.
    pub(super) mac: MacAddr,
    pub(super) inside: &'a Inside,
    /// Whether it came from inside and was turned round.
    pub(super) turned: bool,
    /// Whether all of it is there, and it can be cut.
    pub(super) whole: bool,
    /// Whether a control connection of FTP was looked at already.
    pub(super) controlled: bool,
}

impl Arrival<'_> {
    /// The verdict on a frame that passes.
    const fn verdict(&self) -> Verdict {
        if self.turned {
            Verdict::Back
        } else {
            Verdict::Forward
        }
    }
}

/// The translator of one family.
#[derive(Debug)]
pub(super) struct Translator<A> {
    /// Its address outside; unspecified while there is none.
    pub(super) own: A,
    pub(super) table: Table<A>,
    pub(super) mappings: Mappings<A>,
    pub(super) control: Control<A>,
    pub(super) fragments: Fragments<A>,
    pub(super) wheel: Wheel,
}

impl<A: Address> Translator<A> {
    /// Begins without flows and without an address.
    pub(super) fn new(shared: &mut Shared, ports: &RangeInclusive<u16>) -> Self {
        let seed = shared.random.next();
        Self {
            own: A::UNSPECIFIED,
            table: Table::new(shared.spec.limits.flows, Hasher::new(seed)),
            mappings: Mappings::new(ports, shared.random.next()),
            control: Control::new(),
            fragments: Fragments::new(),
            wheel: Wheel::new(),
        }
    }

    /// Passes a packet on, whose headers are in `bytes`.
    #[inline(always)]
    pub(super) fn pass(
        &mut self,
        arrival: &Arrival<'_>,
        bytes: &mut [u8],
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Outcome {
        let side = arrival.side;
        if side == Side::Outside && packet.dst != self.own {
            return Outcome::Stray;
        }
        let number = match self.table.find(side, &packet.ends(side)) {
            Some(number) => number,
            None => match self.begin(arrival, packet, shared) {
                Ok(number) => number,
                Err(outcome) => return outcome,
            },
        };
        let Some(flow) = self.table.flow(number) else {
            return Outcome::Dropped(DropReason::NatFiltered);
        };
        let settled = packet.protocol != Protocol::Tcp || flow.state.is_settled(packet.flags);
        let usual = settled
            && flow.seen == shared.second()
            && packet.ttl > 1
            && packet.size <= shared.mtu(side.other())
            && !flow.marks.is_special()
            && (side == Side::Outside || flow.mac == arrival.mac);
        if !usual && let Some(outcome) = self.attend(number, arrival, bytes, packet, shared) {
            return outcome;
        }
        let own = self.own;
        let Some(flow) = self.table.flow_mut(number) else {
            return Outcome::Dropped(DropReason::NatFiltered);
        };
        count(flow, side, packet.payload, shared);
        rewrite(flow, own, arrival, packet, shared).apply(bytes, packet.at);
        Outcome::Passed(arrival.verdict())
    }

    /// Does what is out of the ordinary; `None` where the packet can be passed on then.
    #[cold]
    #[inline(never)]
    fn attend(
        &mut self,
        number: u32,
        arrival: &Arrival<'_>,
        bytes: &mut [u8],
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Option<Outcome> {
        let side = arrival.side;
        let flow = self.table.flow_mut(number)?;
        let hairpin = side == Side::Inside && flow.marks.has(Marks::HAIRPIN);
        if packet.ttl <= 1 && !arrival.turned {
            return Some(Outcome::Expired);
        }
        let mtu = shared.mtu(side.other());
        if packet.size > mtu && (packet.dont_fragment || !arrival.whole) {
            return Some(Outcome::TooBig(mtu));
        }
        if side == Side::Inside && flow.mac != arrival.mac {
            let known = arrival.inside.mac_of(packet.src.into());
            if known.is_some_and(|known| known != arrival.mac) {
                return Some(Outcome::Dropped(DropReason::ForgedSource));
            }
            if !shared.quota.take(arrival.mac) {
                return Some(Outcome::Dropped(DropReason::NatLimit));
            }
            shared.quota.give(flow.mac);
            flow.mac = arrival.mac;
        }
        if flow.marks.has(Marks::FTP) && !arrival.controlled {
            return Some(Outcome::Control(number));
        }
        if !flow.marks.has(Marks::HAIRPIN) {
            let remote = flow.remote.into();
            match shared.outside.mac_for(remote) {
                Some(mac) => flow.next_hop = mac,
                None if side == Side::Inside => return Some(Outcome::AskOutside(remote)),
                None => {}
            }
        }
        if side == Side::Inside {
            flow.marks = flow.marks.with(Marks::CONFIRMED);
        }
        if flow.marks.has(Marks::CONFIRMED) {
            flow.seen = shared.second();
        }
        if packet.protocol == Protocol::Tcp {
            let was = flow.state.is_established();
            let originator = (side == Side::Inside) != flow.marks.has(Marks::FORWARD);
            flow.state.note(originator, packet.flags);
            if was && !flow.state.is_established() {
                self.wheel.arm_sooner(number, shared.end(flow));
            }
        }
        if hairpin {
            return Some(self.turn(number, arrival, bytes, packet, shared));
        }
        None
    }

    /// Passes a packet on that goes back inside.
    fn turn(
        &mut self,
        number: u32,
        arrival: &Arrival<'_>,
        bytes: &mut [u8],
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Outcome {
        let own = self.own;
        let Some(flow) = self.table.flow_mut(number) else {
            return Outcome::Dropped(DropReason::NatFiltered);
        };
        // What must be seen whole after all must not have been changed.
        let mut head = [0; 128];
        let len = bytes.len().min(head.len());
        head[..len].copy_from_slice(&bytes[..len]);
        count(flow, Side::Inside, packet.payload, shared);
        let mut turned = *packet;
        turned.src = own;
        turned.src_port = flow.port;
        rewrite(flow, own, arrival, packet, shared).apply(bytes, packet.at);
        let arrival = Arrival {
            side: Side::Outside,
            turned: true,
            ..*arrival
        };
        let outcome = self.pass(&arrival, bytes, &turned, shared);
        if !matches!(outcome, Outcome::Passed(_)) {
            bytes[..len].copy_from_slice(&head[..len]);
        }
        outcome
    }

    /// Counts a fragment that went where the first of its packet had gone.
    pub(super) fn count_part(&mut self, path: &Path<A>, payload: usize, shared: &mut Shared) {
        let (side, own) = (path.side, self.own);
        let number = self.table.find(side, &path.ends);
        let Some(flow) = number.and_then(|number| self.table.flow_mut(number)) else {
            return;
        };
        count(flow, side, payload, shared);
        if path.verdict == Verdict::Back {
            // It has arrived in another guest's flow.
            let back = Ends {
                near: A::UNSPECIFIED,
                remote: own,
                near_port: flow.remote_port,
                remote_port: flow.port,
                protocol: flow.protocol,
            };
            let number = self.table.find(Side::Outside, &back);
            if let Some(flow) = number.and_then(|number| self.table.flow_mut(number)) {
                count(flow, Side::Outside, payload, shared);
            }
        }
    }

    fn close(&mut self, number: u32, shared: &mut Shared) {
        self.wheel.disarm(number);
        let Some((flow, cold)) = self.table.remove(number) else {
            return;
        };
        if let Some(mapping) = cold.mapping {
            if shared.spec.filtering == Filtering::Address {
                self.mappings.forget_contact(mapping, flow.remote);
            }
            self.mappings.release(mapping);
        }
        if let Some((forward, place)) = cold.target {
            shared.forwards.note(forward, place, false);
        }
        self.control.forget(number);
        shared.quota.give(flow.mac);
        shared.flows[flow.protocol as usize] -= 1;
        shared.tell(self.event(&flow, false));
    }

    /// Takes an address, or none. With another address all flows are over.
    pub(super) fn set_own(&mut self, own: Option<A>, shared: &mut Shared) {
        let own = own.unwrap_or(A::UNSPECIFIED);
        if own == self.own {
            return;
        }
        let numbers: Vec<u32> = self.table.numbers().collect();
        for number in numbers {
            self.close(number, shared);
        }
        self.control.clear(&mut self.mappings);
        self.fragments = Fragments::new();
        self.own = own;
    }

    /// Ends what has been idle for too long.
    pub(super) fn handle_timeout(&mut self, shared: &mut Shared) {
        let now = shared.second();
        for _ in 0..EXPIRIES {
            let Some(number) = self.wheel.pop(now) else {
                break;
            };
            let Some(flow) = self.table.flow(number) else {
                continue;
            };
            let end = shared.end(flow);
            if end <= now {
                self.close(number, shared);
            } else {
                self.wheel.arm(number, end);
            }
        }
        self.control.expire(now, &mut self.mappings);
        self.fragments.expire(now);
    }

    /// The first second in which something may be over.
    pub(super) fn next_second(&self) -> Option<u32> {
        let seconds = [
            self.wheel.next(),
            self.control.next_second(),
            self.fragments.next_second(),
        ];
        seconds.into_iter().flatten().min()
    }

    /// Returns the flow that a packet was of which somebody on `side` complains.
    pub(super) fn find(&self, side: Side, ends: &Ends<A>) -> Option<&Flow<A>> {
        self.table.flow(self.table.find(side, ends)?)
    }

    pub(super) fn event(&self, flow: &Flow<A>, created: bool) -> nat::Event {
        nat::Event {
            created,
            protocol: flow.protocol,
            originator: originator(flow),
            mac: Some(flow.mac),
            inside: SocketAddr::new(flow.guest.into(), flow.guest_port),
            outside: Some(SocketAddr::new(self.own.into(), flow.port)),
            remote: Some(SocketAddr::new(flow.remote.into(), flow.remote_port)),
            sent: flow.sent,
            received: flow.received,
        }
    }

    /// Returns the flows as they are shown.
    pub(super) fn rows(&self, shared: &Shared, now: u32) -> Vec<FlowRow> {
        let seconds = |span: u32| Duration::from_secs(u64::from(span));
        let flows = self.table.numbers().filter_map(|number| {
            let (flow, cold) = (self.table.flow(number)?, self.table.cold(number)?);
            Some(FlowRow {
                protocol: flow.protocol,
                originator: originator(flow),
                mac: Some(flow.mac),
                inside: SocketAddr::new(flow.guest.into(), flow.guest_port),
                outside: Some(SocketAddr::new(self.own.into(), flow.port)),
                remote: Some(SocketAddr::new(flow.remote.into(), flow.remote_port)),
                state: match flow.protocol {
                    Protocol::Tcp => flow.state.name(),
                    Protocol::Udp | Protocol::Icmp => "active",
                },
                age: seconds(now.saturating_sub(cold.created)),
                idle: seconds(now.saturating_sub(flow.seen)),
                expires: seconds(shared.end(flow).saturating_sub(now)),
                sent: flow.sent,
                received: flow.received,
            })
        });
        flows.collect()
    }
}

const fn originator<A>(flow: &Flow<A>) -> Originator {
    if flow.marks.has(Marks::FORWARD) {
        Originator::Forward
    } else {
        Originator::Guest
    }
}

#[inline(always)]
fn count<A>(flow: &mut Flow<A>, side: Side, payload: usize, shared: &mut Shared) {
    let payload = payload as u64;
    match side {
        Side::Inside => {
            flow.sent += payload;
            shared.sent += payload;
        }
        Side::Outside => {
            flow.received += payload;
            shared.received += payload;
        }
    }
}

/// What a frame of a flow becomes.
#[inline(always)]
fn rewrite<A: Address>(
    flow: &Flow<A>,
    own: A,
    arrival: &Arrival<'_>,
    packet: &Packet<A>,
    shared: &Shared,
) -> Rewrite<A> {
    let (address, port, mac) = match arrival.side {
        Side::Inside => (own, flow.port, flow.next_hop),
        Side::Outside => (flow.guest, flow.guest_port, flow.mac),
    };
    Rewrite {
        side: arrival.side,
        protocol: packet.protocol,
        partial: packet.partial,
        hop: !arrival.turned,
        address,
        port,
        delta: flow.delta,
        macs: (mac, shared.macs[arrival.side.other() as usize]),
    }
}
