//! NAPT on frames (RFC 3022; RFC 4787, RFC 5382, RFC 5508 as updated by RFC 7857): guests leave by another network with the
//! translator's address there, of IPv4 and of IPv6.
//!
//! # Theory of operation
//!
//! The translator is a router with a foot in each network. A frame of a flow that is known is rewritten in its head
//! ([`Napt::translate`]) and its body never seen. What must be seen whole ([`Verdict::Whole`], `whole`) is copied: fragments, ICMP
//! errors, control connections of FTP, what has options, what is for the translator itself, and whatever is to be answered.
//!
//! | idea | file |
//! |---|---|
//! | reading packets, strictly | `packet` |
//! | flows, found from both sides | `table`, `key` |
//! | ports outside, for guests' ports | `mapping` |
//! | frames to flows, refresh, hairpin | `translator` |
//! | who may begin a flow | `begin` |
//! | headers and checksums | `rewrite` |
//! | states of TCP, ends of flows | `tcp_state`, `expiry` |
//! | fragments, ICMP errors, FTP, port forwards | `fragments`, `icmp`, `ftp`, `forward` |
//! | addresses and neighbours outside | `outside` |
//!
//! Never passed on: group, link-local, loopback and reserved addresses on either side; what guests send from addresses that are not
//! the inside's; anything to or from the inside's own subnet or a closed one that comes by the wrong side.
//! One address outside and a family: when it changes, all flows of the family are over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use self::outside::OutsideInterface;
use self::packet::Packet;
use self::shared::Shared;
use self::translator::{Arrival, Outcome, Translator};
use self::whole::Parked;
use crate::net::Now;
use crate::net::drops::{DropReason, Drops};
use crate::net::frame::{Head, Parsed};
use crate::net::inside::Inside;
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};
use crate::net::nat::{self, FlowRow, Protocol, View};
use crate::net::vlan::Tag;
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use crate::wire::virtio_net::VirtioNetHeader;

mod begin;
mod expiry;
mod forward;
mod fragments;
mod ftp;
mod icmp;
mod key;
mod mapping;
pub mod outside;
mod packet;
mod rewrite;
mod shared;
mod table;
mod tcp_state;
#[cfg(test)]
mod tests;
mod translator;
mod whole;

/// The port of a DHCP client, which is the translator's own (RFC 2131), and that of a DHCPv6 client (RFC 9915).
const DHCP_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;

/// A side of a translator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Where the guests are.
    Inside,
    /// Where it leads to.
    Outside,
}

impl Side {
    /// The other side.
    #[inline]
    pub const fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It leaves by the other side.
    Forward,
    /// It leaves by the side that it came from.
    Back,
    /// It must be seen whole.
    Whole,
    /// It is dropped.
    Drop(DropReason),
}

/// What a translator sends, and what it tells.
#[derive(Debug, Default)]
pub struct Routed {
    /// Frames, each with the side by which it leaves.
    pub frames: Vec<(Side, Vec<u8>, VirtioNetHeader)>,
    /// What has become of flows.
    pub events: Vec<nat::Event>,
}

/// A translator.
#[derive(Debug)]
pub struct Napt {
    v4: Translator<Ipv4Addr>,
    v6: Translator<Ipv6Addr>,
    shared: Shared,
    /// Frames that wait for the hardware address of their next hop.
    parked: Parked,
    /// What was dropped of what was seen whole.
    drops: Drops,
}

impl Napt {
    /// Begins without flows. The forwards of `spec` that cannot be are told of by [`Napt::advisories`].
    pub fn new(
        spec: &nat::Spec,
        inside_mac: MacAddr,
        outside: &nat::NetworkOutside,
        seed: u64,
        now: Now,
    ) -> Self {
        let interface = OutsideInterface::new(outside, seed.rotate_left(32), now.instant);
        let macs = [inside_mac, outside.mac];
        let mut shared = Shared::new(spec.clone(), macs, interface, seed, now);
        let mut napt = Self {
            v4: Translator::new(&mut shared, &outside.ports),
            v6: Translator::new(&mut shared, &outside.ports),
            shared,
            parked: Parked::default(),
            drops: Drops::default(),
        };
        for (v6, port) in [(false, DHCP_CLIENT), (true, DHCP6_CLIENT)] {
            napt.reserve(Protocol::Udp, v6, port..=port, true);
        }
        for forward in &spec.forwards {
            if let Err(error) = napt.add_forward(forward.clone(), &Inside::default()) {
                napt.shared.faults.push(error.to_string());
            }
        }
        napt.refresh();
        napt
    }

    /// Says how large packets may be on both sides.
    pub fn set_mtu(&mut self, inside: u16, outside: u16) {
        self.shared.mtus[Side::Inside as usize] = usize::from(inside);
        self.shared.outside.set_mtu(outside);
        self.refresh();
    }

    /// Has what [`Napt::translate`] will need brought nearer. To be called for a whole burst first.
    #[inline]
    pub fn prefetch(&self, side: Side, head: &Head, parsed: &Parsed) {
        if parsed.ethertype == ETHERTYPE_IPV4 {
            let ends = Packet::<Ipv4Addr>::glance(head, side);
            self.v4.table.prefetch(side, &ends);
        } else if parsed.ethertype == ETHERTYPE_IPV6 {
            let ends = Packet::<Ipv6Addr>::glance(head, side);
            self.v6.table.prefetch(side, &ends);
        }
    }

    /// Translates a frame by its head.
    #[inline]
    pub fn translate(
        &mut self,
        side: Side,
        head: &mut Head,
        parsed: &Parsed,
        inside: &Inside,
        now: Instant,
    ) -> Verdict {
        self.shared.set_now(now);
        let arrival = Arrival {
            side,
            mac: parsed.src,
            inside,
            turned: false,
            whole: false,
            controlled: false,
        };
        let ours = parsed.dst == self.shared.macs[side as usize] && parsed.tag == Tag::Untagged;
        if ours && parsed.ethertype == ETHERTYPE_IPV4 {
            if let Some(packet) = Packet::<Ipv4Addr>::plain(head) {
                let shared = &mut self.shared;
                let outcome = self.v4.pass(&arrival, head.buffer(), &packet, shared);
                return outcome.verdict();
            }
        } else if ours
            && parsed.ethertype == ETHERTYPE_IPV6
            && let Some(packet) = Packet::<Ipv6Addr>::plain(head)
        {
            let shared = &mut self.shared;
            let outcome = self.v6.pass(&arrival, head.buffer(), &packet, shared);
            return outcome.verdict();
        }
        self.sort(side, parsed)
    }

    /// Decides whether a frame that is not passed on by its head is worth to be seen whole.
    #[cold]
    fn sort(&self, side: Side, parsed: &Parsed) -> Verdict {
        let ip = matches!(parsed.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
        let ours = parsed.dst == self.shared.macs[side as usize];
        // Outside the translator is a station: it has neighbours, and speaks DHCP.
        let asked = side == Side::Outside && (ours || parsed.dst.is_group());
        if parsed.tag == Tag::Untagged
            && (ours && ip || asked && (ip || parsed.ethertype == ETHERTYPE_ARP))
        {
            Verdict::Whole
        } else {
            Verdict::Drop(DropReason::Unreachable)
        }
    }

    /// Takes in the addresses and the MTU of the interface outside.
    fn refresh(&mut self) {
        let shared = &mut self.shared;
        shared.mtus[Side::Outside as usize] = usize::from(shared.outside.mtu());
        let (v4, v6) = (shared.outside.v4(), shared.outside.v6());
        self.v4.set_own(v4, shared);
        self.v6.set_own(v6, shared);
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.shared.events.is_empty() {
            return Some(self.shared.now());
        }
        let seconds = [
            self.v4.next_second(),
            self.v6.next_second(),
            self.parked.next_second(),
        ];
        let second = seconds.into_iter().flatten().min();
        let second = second.and_then(|second| self.shared.instant(second));
        second
            .into_iter()
            .chain(self.shared.outside.poll_timeout())
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Routed) {
        self.shared.set_now(now.instant);
        let mut frames = Vec::new();
        self.shared.outside.handle_timeout(now.instant, &mut frames);
        send(frames, Side::Outside, out);
        self.refresh();
        self.v4.handle_timeout(&mut self.shared);
        self.v6.handle_timeout(&mut self.shared);
        self.expire_parked(out);
        out.events.append(&mut self.shared.events);
    }

    /// Takes the guests that have begun flows since this was called last from addresses that were not known as theirs.
    #[inline]
    pub fn take_guests(&mut self) -> Vec<(IpAddr, MacAddr)> {
        std::mem::take(&mut self.shared.guests)
    }

    /// Gives back what was lent outside, and ends all flows.
    pub fn shutdown(&mut self, now: Now, out: &mut Routed) {
        self.shared.set_now(now.instant);
        let mut frames = Vec::new();
        self.shared.outside.shutdown(now.instant, &mut frames);
        send(frames, Side::Outside, out);
        self.v4.set_own(None, &mut self.shared);
        self.v6.set_own(None, &mut self.shared);
        out.events.append(&mut self.shared.events);
    }

    /// Its addresses outside.
    fn addresses(&self) -> Vec<IpAddr> {
        let (v4, v6) = (self.shared.outside.v4(), self.shared.outside.v6());
        let v6 = v6.map(IpAddr::V6);
        v4.map(IpAddr::V4).into_iter().chain(v6).collect()
    }

    /// The translator at a glance.
    pub fn view(&self, inside: &Inside) -> View {
        let outside = self.addresses();
        View {
            flows: self.shared.flows,
            created: self.shared.created,
            refused: self.shared.quota.refused(),
            sent: self.shared.sent,
            received: self.shared.received,
            forwards: self.shared.forwards.rows(&outside, inside),
            outside,
        }
    }

    /// Its flows.
    pub fn flows(&self, now: Instant) -> Vec<FlowRow> {
        let second = self.shared.second_of(now);
        let mut rows = self.v4.rows(&self.shared, second);
        rows.extend(self.v6.rows(&self.shared, second));
        rows
    }

    /// What was dropped of the frames that were seen whole.
    pub const fn drops(&self) -> &Drops {
        &self.drops
    }

    fn reserve(
        &mut self,
        protocol: Protocol,
        v6: bool,
        ports: std::ops::RangeInclusive<u16>,
        reserved: bool,
    ) {
        if v6 {
            self.v6.mappings.reserve(protocol, ports, reserved);
        } else {
            self.v4.mappings.reserve(protocol, ports, reserved);
        }
    }

    /// Forwards a port, from now on; flows of guests that were mapped to it stay. Port 0 has one picked.
    ///
    /// # Errors
    ///
    /// It makes no sense, or another forward or the translator itself has the port.
    pub fn add_forward(
        &mut self,
        mut forward: Forward,
        inside: &Inside,
    ) -> Result<ForwardRow, ForwardError> {
        let (protocol, v6) = (forward.protocol, forward.ip.is_ipv6());
        let failed = |listen, by: &str| ForwardError::Taken {
            protocol: protocol.name(),
            listen,
            by: by.to_owned(),
        };
        if forward.first == 0 {
            let random = &mut self.shared.random;
            let spare = if v6 {
                self.v6.mappings.spare(protocol, random)
            } else {
                self.v4.mappings.spare(protocol, random)
            };
            let listen = SocketAddr::new(forward.ip, 0);
            forward.first = spare.ok_or_else(|| failed(listen, "guests have all"))?;
            forward.last = forward.first;
        }
        let own = if v6 { DHCP6_CLIENT } else { DHCP_CLIENT };
        if protocol == Protocol::Udp && (forward.first..=forward.last).contains(&own) {
            let listen = SocketAddr::new(forward.ip, own);
            return Err(failed(listen, "the translator's own DHCP client has it"));
        }
        let ports = forward.first..=forward.last;
        let number = self.shared.forwards.add(forward)?;
        self.reserve(protocol, v6, ports, true);
        let row = self.shared.forwards.row(number, &self.addresses(), inside);
        Ok(row.expect("it was just added"))
    }

    /// Forwards a port no more; flows that came by it stay. Tells whether it was forwarded.
    pub fn remove_forward(&mut self, protocol: Protocol, listen: SocketAddr) -> bool {
        let removed = self.shared.forwards.remove(protocol, listen);
        if let Some(forward) = &removed {
            let ports = forward.first..=forward.last;
            self.reserve(protocol, listen.is_ipv6(), ports, false);
        }
        removed.is_some()
    }

    /// What an operator should know, one sentence each.
    pub fn advisories(&self, now: Instant) -> Vec<String> {
        let shared = &self.shared;
        let mut advisories = shared.outside.advisories(now);
        advisories.extend(shared.faults.iter().cloned());
        advisories.extend(shared.quota.advisories());
        if shared.portless > 0 {
            advisories.push(format!(
                "{} flows were refused because no port outside was free for their guest; widen the range of ports",
                shared.portless
            ));
        }
        if shared.events_lost > 0 {
            advisories.push(format!(
                "{} lines of the connection log were lost, since more came at once than can wait",
                shared.events_lost
            ));
        }
        advisories
    }
}

impl Outcome {
    /// What becomes of a frame of which only the head is there.
    #[inline]
    const fn verdict(self) -> Verdict {
        match self {
            Self::Passed(verdict) => verdict,
            Self::Dropped(reason) => Verdict::Drop(reason),
            Self::Expired
            | Self::TooBig(_)
            | Self::NoRoute
            | Self::AskOutside(_)
            | Self::AskInside(_)
            | Self::Control(_)
            | Self::Echo
            | Self::Stray => Verdict::Whole,
        }
    }
}

/// Sends frames of the translator's own.
fn send(frames: Vec<Vec<u8>>, side: Side, out: &mut Routed) {
    let frames = frames.into_iter();
    let frames = frames.map(|frame| (side, frame, VirtioNetHeader::default()));
    out.frames.extend(frames);
}
