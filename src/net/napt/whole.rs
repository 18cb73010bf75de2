//! What must be seen whole: fragments, ICMP errors, FTP, packets with options, what is for the translator itself, and answers.
//!
//! Frames for which the next hop's hardware address is not known yet wait a little, a few of them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Now;
use crate::net::drops::DropReason;
use crate::net::inside::Inside;
use crate::net::napt::fragments::{Part, cut};
use crate::net::napt::ftp::Ports;
use crate::net::napt::icmp::{self, Problem, complain};
use crate::net::napt::key::{Address, Ends};
use crate::net::napt::outside::NextHop;
use crate::net::napt::packet::{Extent, Ip, Packet};
use crate::net::napt::shared::Shared;
use crate::net::napt::translator::{Arrival, Outcome, Translator};
use crate::net::napt::{DHCP_CLIENT, DHCP6_CLIENT, Napt, Routed, Side, Verdict, send};
use crate::net::nat::Gateways;
use crate::wire::arp::{Arp, REQUEST};
use crate::wire::be16;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, HEADER_LEN, MacAddr, emit,
};
use crate::wire::ipv4::PROTOCOL_UDP;
use crate::wire::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};
use crate::wire::virtio_net::{GSO_NONE, NEEDS_CSUM, VirtioNetHeader};

/// How many frames wait for their next hop's hardware address, and for how many seconds.
const PARKED: usize = 64;
const PATIENCE: u32 = 3;
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// A frame that waits.
#[derive(Debug)]
struct Waiting {
    until: u32,
    /// Where it goes to.
    dst: IpAddr,
    side: Side,
    bytes: Vec<u8>,
    header: VirtioNetHeader,
}

/// Frames that wait for the hardware address of their next hop outside.
#[derive(Debug, Default)]
pub(super) struct Parked(VecDeque<Waiting>);

impl Parked {
    /// Takes those that wait in vain, or have waited for too long.
    fn expire(&mut self, shared: &Shared) -> VecDeque<Waiting> {
        let now = shared.second();
        let vain = |waiting: &Waiting| {
            waiting.until < now || shared.outside.next_hop(waiting.dst) == NextHop::Unreachable
        };
        if !self.0.iter().any(vain) {
            return VecDeque::new();
        }
        let (given_up, left) = std::mem::take(&mut self.0).into_iter().partition(vain);
        self.0 = left;
        given_up
    }

    /// The second in which the first is dropped.
    pub(super) fn next_second(&self) -> Option<u32> {
        self.0.front().map(|first| first.until + 1)
    }
}

/// Where frames go to: out, or to wait.
struct Sink<'a> {
    parked: &'a mut Parked,
    out: &'a mut Routed,
}

/// A whole frame on its way.
struct Frame<'a> {
    /// As it came.
    bytes: &'a [u8],
    header: VirtioNetHeader,
    arrival: Arrival<'a>,
}

impl Napt {
    /// Handles a frame that must be seen whole.
    pub fn handle_frame(
        &mut self,
        side: Side,
        bytes: &[u8],
        header: VirtioNetHeader,
        inside: &Inside,
        now: Now,
        out: &mut Routed,
    ) {
        self.shared.set_now(now.instant);
        self.handle(side, bytes, header, inside, out);
        out.events.append(&mut self.shared.events);
    }

    fn handle(
        &mut self,
        side: Side,
        bytes: &[u8],
        header: VirtioNetHeader,
        inside: &Inside,
        out: &mut Routed,
    ) {
        let Some(ethernet) = Ethernet::parse(bytes) else {
            return self.drops.count(DropReason::Runt);
        };
        if side == Side::Outside && is_for_interface(&ethernet, bytes) {
            return self.interface(bytes, inside, out);
        }
        let ours = ethernet.dst == self.shared.macs[side as usize];
        let frame = Frame {
            bytes,
            header,
            arrival: Arrival {
                side,
                mac: ethernet.src,
                inside,
                turned: false,
                whole: true,
                controlled: false,
            },
        };
        let parked = &mut self.parked;
        let (shared, sink) = (&mut self.shared, &mut Sink { parked, out });
        let dropped = match ethernet.ethertype {
            ETHERTYPE_IPV4 if ours => self.v4.handle(&frame, shared, sink),
            ETHERTYPE_IPV6 if ours => self.v6.handle(&frame, shared, sink),
            _ => Some(DropReason::Unreachable),
        };
        if let Some(reason) = dropped {
            self.drops.count(reason);
        }
    }

    /// Gives up what waited in vain, and tells who sent it.
    pub(super) fn expire_parked(&mut self, out: &mut Routed) {
        for waiting in self.parked.expire(&self.shared) {
            self.drops.count(DropReason::Unreachable);
            let frame = Frame {
                bytes: &waiting.bytes,
                header: waiting.header,
                arrival: Arrival {
                    side: waiting.side,
                    mac: MacAddr::ZERO,
                    inside: &Inside::default(),
                    turned: false,
                    whole: true,
                    controlled: false,
                },
            };
            let shared = &mut self.shared;
            match waiting.dst {
                IpAddr::V4(_) => self.v4.give_up(&frame, shared, out),
                IpAddr::V6(_) => self.v6.give_up(&frame, shared, out),
            }
        }
    }

    /// Offers a frame to the interface outside, and takes up what waited for it.
    fn interface(&mut self, bytes: &[u8], inside: &Inside, out: &mut Routed) {
        let mut frames = Vec::new();
        let shared = &mut self.shared;
        shared
            .outside
            .handle_frame(bytes, shared.now(), &mut frames);
        send(frames, Side::Outside, out);
        self.refresh();
        let (ready, waiting) = std::mem::take(&mut self.parked.0)
            .into_iter()
            .partition(|waiting| self.shared.outside.mac_for(waiting.dst).is_some());
        self.parked.0 = waiting;
        let ready: VecDeque<Waiting> = ready;
        for Waiting {
            side,
            bytes,
            header,
            ..
        } in ready
        {
            self.handle(side, &bytes, header, inside, out);
        }
    }
}

/// Whether a frame from outside is for the translator as a station: neighbours and routers, DHCP, what goes to groups.
fn is_for_interface(ethernet: &Ethernet<'_>, bytes: &[u8]) -> bool {
    let payload = ethernet.payload;
    match ethernet.ethertype {
        ETHERTYPE_ARP => true,
        _ if ethernet.dst.is_group() => true,
        ETHERTYPE_IPV4 => {
            let header_len = usize::from(payload.first().copied().unwrap_or(0) & 0x0f) * 4;
            payload.get(9) == Some(&PROTOCOL_UDP)
                && be16(payload, header_len + 2) == Some(DHCP_CLIENT)
        }
        ETHERTYPE_IPV6 => Ip::<Ipv6Addr>::read(bytes, Extent::Whole).is_some_and(|ip| {
            let kind = bytes.get(ip.at);
            let discovery = kind.is_some_and(|kind| (130..=137).contains(kind));
            let client = be16(bytes, ip.at + 2) == Some(DHCP6_CLIENT);
            ip.protocol == NEXT_HEADER_ICMPV6 && discovery
                || ip.protocol == PROTOCOL_UDP && client
                || ip.dst.is_unicast_link_local()
        }),
        _ => false,
    }
}

impl<A: Address> Translator<A> {
    /// Handles a whole frame; returns why it was dropped.
    fn handle(
        &mut self,
        frame: &Frame<'_>,
        shared: &mut Shared,
        sink: &mut Sink<'_>,
    ) -> Option<DropReason> {
        let (arrival, header) = (&frame.arrival, frame.header);
        let Some(ip) = Ip::<A>::read(frame.bytes, Extent::of(header)) else {
            return Some(DropReason::BadPacket);
        };
        if ip.fragment.is_some() && (header.needs_checksum() || header.gso_type != GSO_NONE) {
            return Some(DropReason::BadOffload);
        }
        if ip.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return self.later(frame, &ip, shared, sink.out);
        }
        let mut bytes = frame.bytes.to_vec();
        let kind = bytes.get(ip.at).copied().unwrap_or(u8::MAX);
        if ip.protocol == A::ICMP && icmp::is_error::<A>(kind) {
            if ip.fragment.is_some() {
                return Some(DropReason::NatFiltered);
            }
            let partial = header.needs_checksum();
            let outcome = self.pass_error(arrival, &mut bytes, &ip, partial, shared);
            let became = (bytes, VirtioNetHeader::default());
            return self.settle(frame, became, &ip, outcome, shared, sink);
        }
        let mut packet = match ip.transport(&bytes, header) {
            Ok(packet) => packet,
            Err(reason) => return Some(reason),
        };
        let mut outcome = self.pass_whole(arrival, &mut bytes, &packet, shared);
        if let Outcome::Control(number) = outcome {
            let edited = self.control.edit(
                number,
                arrival.side,
                &mut bytes,
                &mut packet,
                Ports {
                    own: self.own,
                    mac: arrival.mac,
                    now: shared.second(),
                    mappings: &mut self.mappings,
                    random: &mut shared.random,
                },
            );
            if edited.is_none() {
                return Some(DropReason::BadPacket);
            }
            let arrival = Arrival {
                controlled: true,
                ..*arrival
            };
            outcome = self.pass_whole(&arrival, &mut bytes, &packet, shared);
        }
        if let (Outcome::Passed(verdict), Some(_)) = (outcome, ip.fragment) {
            let ends = packet.ends(arrival.side);
            return self.first(frame, bytes, (&ip, ends), verdict, shared, sink.out);
        }
        self.settle(frame, (bytes, header), &ip, outcome, shared, sink)
    }

    /// Passes a packet on whose frame is whole.
    #[inline(never)]
    fn pass_whole(
        &mut self,
        arrival: &Arrival<'_>,
        bytes: &mut [u8],
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Outcome {
        self.pass(arrival, bytes, packet, shared)
    }

    /// Does what an outcome asks for.
    fn settle(
        &mut self,
        frame: &Frame<'_>,
        became: (Vec<u8>, VirtioNetHeader),
        ip: &Ip<A>,
        outcome: Outcome,
        shared: &mut Shared,
        sink: &mut Sink<'_>,
    ) -> Option<DropReason> {
        let side = frame.arrival.side;
        let Sink { parked, out } = sink;
        match outcome {
            Outcome::Passed(verdict) => {
                return leave::<A>(side, verdict, became, shared, out);
            }
            Outcome::Dropped(reason) => return Some(reason),
            Outcome::Stray | Outcome::Control(_) => return Some(DropReason::Unreachable),
            Outcome::Expired => {
                self.complain(Problem::Expired, frame, ip, shared, out);
                return Some(DropReason::HopLimit);
            }
            Outcome::TooBig(mtu) => {
                self.complain(Problem::TooBig(mtu), frame, ip, shared, out);
                return Some(DropReason::TooBig);
            }
            Outcome::Echo => {
                let partial = frame.header.needs_checksum();
                let mac = shared.macs[side as usize];
                let Some(reply) = icmp::answer(mac, frame.bytes, ip, partial) else {
                    return Some(DropReason::BadPacket);
                };
                send(vec![reply], side, out);
            }
            Outcome::NoRoute => {
                self.complain(Problem::NoRoute, frame, ip, shared, out);
                return Some(DropReason::Unreachable);
            }
            Outcome::AskOutside(dst) => {
                let mut frames = Vec::new();
                let now = shared.now();
                let hop = shared.outside.ask(dst, now, &mut frames);
                send(frames, Side::Outside, out);
                if hop == NextHop::Unreachable {
                    self.give_up(frame, shared, out);
                    return Some(DropReason::Unreachable);
                }
                if parked.0.len() >= PARKED {
                    return Some(DropReason::Unreachable);
                }
                parked.0.push_back(Waiting {
                    until: shared.second() + PATIENCE,
                    dst,
                    side,
                    bytes: frame.bytes.to_vec(),
                    header: frame.header,
                });
            }
            Outcome::AskInside(guest) => {
                let mac = shared.macs[Side::Inside as usize];
                let question = question(&shared.spec.gateways, mac, guest);
                if let Some(question) = question.filter(|_| shared.may_complain()) {
                    send(vec![question], Side::Inside, out);
                }
                return Some(DropReason::Unreachable);
            }
        }
        None
    }

    /// Tells the guest that sent a frame that it finds nobody (RFC 1812, section 5.2.7.1).
    fn give_up(&self, frame: &Frame<'_>, shared: &mut Shared, out: &mut Routed) {
        if frame.arrival.side == Side::Inside
            && let Some(ip) = Ip::<A>::read(frame.bytes, Extent::of(frame.header))
        {
            self.complain(Problem::NoHost, frame, &ip, shared, out);
        }
    }

    /// Tells the sender of a frame why it was not passed on.
    fn complain(
        &self,
        problem: Problem,
        frame: &Frame<'_>,
        ip: &Ip<A>,
        shared: &mut Shared,
        out: &mut Routed,
    ) {
        let side = frame.arrival.side;
        let gateways = &shared.spec.gateways;
        // Who is not inside has not sent it.
        if side == Side::Inside && !gateways.is_inside(ip.src.into()) {
            return;
        }
        let inside = if A::V6 {
            gateways.v6.map(|(own, _)| own.into())
        } else {
            gateways.v4.map(|(own, _)| own.into())
        };
        let own = match side {
            Side::Inside => inside.and_then(A::of).unwrap_or(A::UNSPECIFIED),
            Side::Outside => self.own,
        };
        let mac = shared.macs[side as usize];
        let error = complain(problem, own, mac, frame.bytes, ip);
        if let Some(error) = error.filter(|_| shared.may_complain()) {
            send(vec![error], side, out);
        }
    }

    /// Sends the first fragment of a packet, which was translated, and those that waited for it.
    fn first(
        &mut self,
        frame: &Frame<'_>,
        mut bytes: Vec<u8>,
        (ip, ends): (&Ip<A>, Ends<A>),
        verdict: Verdict,
        shared: &mut Shared,
        out: &mut Routed,
    ) -> Option<DropReason> {
        let side = frame.arrival.side;
        let (from, now) = ((side, frame.arrival.mac), shared.second());
        let passed = self
            .fragments
            .first_passed(from, ip, ends, &mut bytes, verdict, now);
        let Some((path, waiting)) = passed else {
            return Some(DropReason::BadPacket);
        };
        let header = VirtioNetHeader::default();
        let dropped = leave::<A>(side, verdict, (bytes, header), shared, out);
        for mut later in waiting {
            let payload = Ip::<A>::read(&later, Extent::Whole).map_or(0, |ip| ip.end - ip.at);
            if path.apply(&mut later, true).is_some() {
                self.count_part(&path, payload, shared);
                leave::<A>(side, verdict, (later, header), shared, out);
            }
        }
        dropped
    }

    /// Sends a fragment that is not the first, or keeps it.
    fn later(
        &mut self,
        frame: &Frame<'_>,
        ip: &Ip<A>,
        shared: &mut Shared,
        out: &mut Routed,
    ) -> Option<DropReason> {
        let (side, sender) = (frame.arrival.side, frame.arrival.mac);
        let own = side == Side::Inside || ip.dst == self.own;
        let now = shared.second();
        if !own {
            return Some(DropReason::Unreachable);
        }
        match self.fragments.later(side, ip, sender, frame.bytes, now) {
            Some(Part::Goes(path)) => {
                let mut bytes = frame.bytes.to_vec();
                if path.apply(&mut bytes, true).is_none() {
                    return Some(DropReason::HopLimit);
                }
                self.count_part(&path, ip.end - ip.at, shared);
                let header = VirtioNetHeader::default();
                leave::<A>(side, path.verdict, (bytes, header), shared, out)
            }
            Some(Part::Waits) => None,
            None => Some(DropReason::NatFiltered),
        }
    }
}

/// Sends a frame that was translated, in pieces where it is too large.
fn leave<A: Address>(
    side: Side,
    verdict: Verdict,
    (mut bytes, mut header): (Vec<u8>, VirtioNetHeader),
    shared: &Shared,
    out: &mut Routed,
) -> Option<DropReason> {
    let to = match verdict {
        Verdict::Forward => side.other(),
        Verdict::Back => side,
        Verdict::Whole => return Some(DropReason::BadPacket),
        Verdict::Drop(reason) => return Some(reason),
    };
    let mtu = shared.mtu(to);
    if header.gso_type != GSO_NONE {
        // What is cut anyway is cut into what fits.
        let headers = usize::from(header.hdr_len).saturating_sub(HEADER_LEN);
        let room = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        header.gso_size = header.gso_size.min(room);
    } else if packet_len::<A>(&bytes) > mtu {
        if A::V6 || complete(&mut bytes, header).is_none() {
            return Some(DropReason::TooBig);
        }
        let Some(frames) = cut(&bytes, mtu) else {
            return Some(DropReason::TooBig);
        };
        send(frames, to, out);
        return None;
    }
    out.frames.push((to, bytes, header));
    None
}

/// Returns the length of the packet of a frame, without what follows it.
fn packet_len<A: Address>(frame: &[u8]) -> usize {
    let field = if A::V6 { 4 } else { 2 };
    let len = be16(frame, HEADER_LEN + field).map_or(0, usize::from);
    if A::V6 { len + A::HEADER_LEN } else { len }
}

/// Completes a partial checksum.
fn complete(frame: &mut [u8], header: VirtioNetHeader) -> Option<()> {
    if header.flags & NEEDS_CSUM == 0 {
        return Some(());
    }
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    let end = (HEADER_LEN + packet_len::<Ipv4Addr>(frame)).min(frame.len());
    let sum = match Sum::default().over(frame.get(start..end)?).finish() {
        0 if header.csum_offset == 6 => 0xffff,
        sum => sum,
    };
    frame
        .get_mut(at..at + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Asks inside who has a guest's address; the answer is for the gateway.
fn question(gateways: &Gateways, mac: MacAddr, guest: IpAddr) -> Option<Vec<u8>> {
    match guest {
        IpAddr::V4(target_ip) => {
            let question = Arp {
                operation: REQUEST,
                sender_mac: mac,
                sender_ip: gateways.v4?.0,
                target_mac: MacAddr::ZERO,
                target_ip,
            };
            Some(question.emit(MacAddr::BROADCAST))
        }
        IpAddr::V6(guest) => {
            let src = gateways
                .link_local
                .or_else(|| gateways.v6.map(|(own, _)| own))?;
            let [.., a, b, c] = guest.octets();
            let dst = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&guest.octets());
            message.extend_from_slice(&[1, 1]);
            message.extend_from_slice(&mac.0);
            let len = u16::try_from(message.len()).ok()?;
            let sum = ipv6::pseudo_header(src, dst, NEXT_HEADER_ICMPV6, len).over(&message);
            message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
            let packet = Ipv6 {
                src,
                dst,
                next_header: NEXT_HEADER_ICMPV6,
                hop_limit: 255,
                payload: &message,
            };
            let group = MacAddr([0x33, 0x33, 0xff, a, b, c]);
            Some(emit(group, mac, ETHERTYPE_IPV6, &packet.emit()?))
        }
    }
}
