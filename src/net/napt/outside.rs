//! A translator's own presence in the network that it leads to: addresses, neighbours, routers, for IPv4 and IPv6.
//!
//! # Theory of operation
//!
//! Like any station there, it has a hardware address, comes by its addresses ([`v4`] with [`dhcp_client`], [`slaac`]), answers
//! for them, and finds out where others are ([`neighbours`]). It is offered each frame that comes to it and takes what
//! concerns itself: ARP, neighbour discovery, answers of DHCP servers, echo requests. All else is the translator's.
//!
//! For each packet that leaves, [`OutsideInterface::mac_for`] says where it goes to: to its destination where that is on the link, else
//! to a router, whose hardware address is kept at hand. Where that is not known, [`OutsideInterface::ask`] asks. A router
//! that is silent gives way to another one of those that are advertised.
//!
//! Untagged frames only, whose checksums are complete. Every table has a limit, and what strangers say is believed only as an answer
//! to a question.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use self::neighbours::{Neighbours, Question};
use self::slaac::V6;
use self::v4::V4;
use crate::net::gateway::Claim;
use crate::net::nat::NetworkOutside;
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::dhcp::{CLIENT_PORT, Message, SERVER_PORT};
use crate::wire::ethernet::{
    self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr,
};
use crate::wire::icmp;
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP};
use crate::wire::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};
use crate::wire::mld::Mld;
use crate::wire::nd::{self, Message as Told};
use crate::wire::udp::Udp;

mod dhcp_client;
mod neighbours;
mod slaac;
#[cfg(test)]
mod tests;
mod v4;

/// Where a packet goes to next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextHop {
    /// To the station with this hardware address.
    Known(MacAddr),
    /// That is not known yet: [`OutsideInterface::ask`] asks.
    Asked,
    /// Nobody leads there, or whoever does is silent.
    Unreachable,
}

/// Numbers that differ each time, from a seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number of 64 bits.
    const fn wide(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number of 32 bits.
    const fn number(&mut self) -> u32 {
        (self.wide() >> 32) as u32
    }

    /// Returns a number below a limit, which is small and not zero.
    const fn below(&mut self, limit: u64) -> u64 {
        self.wide() % limit
    }
}

/// A router, and whether packets went to it lately.
#[derive(Debug, Default)]
struct Router {
    ip: Option<IpAddr>,
    mac: Option<MacAddr>,
    used: Cell<bool>,
}

impl Router {
    #[inline]
    fn mac(&self) -> Option<MacAddr> {
        self.used.set(true);
        self.mac
    }
}

/// A translator's presence outside.
#[derive(Debug)]
pub struct OutsideInterface {
    mac: MacAddr,
    link_mtu: u16,
    random: Random,
    v4: V4,
    v6: V6,
    neighbours: Neighbours,
    /// The router of each family that is used.
    router4: Router,
    router6: Router,
    /// The IPv4 address for which the neighbours are known.
    was4: Option<Ipv4Addr>,
    next: Option<Instant>,
}

impl OutsideInterface {
    /// Begins without addresses: the first are looked for by the first [`OutsideInterface::handle_timeout`], which is due at once.
    pub fn new(spec: &NetworkOutside, seed: u64, now: Instant) -> Self {
        Self {
            mac: spec.mac,
            link_mtu: 1500,
            random: Random::new(seed),
            v4: V4::new(spec.v4, spec.mac, &spec.hostname, now),
            v6: V6::new(spec.v6, spec.mac, now),
            neighbours: Neighbours::default(),
            router4: Router::default(),
            router6: Router::default(),
            was4: None,
            next: Some(now),
        }
    }

    /// Says how large a packet may be in the network.
    pub const fn set_mtu(&mut self, mtu: u16) {
        self.link_mtu = mtu;
    }

    /// Its own hardware address.
    pub const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its IPv4 address, while it has one.
    #[inline]
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.v4.address().map(|own| own.ip)
    }

    /// Its IPv6 address, while it has one that reaches further than the link.
    #[inline]
    pub const fn v6(&self) -> Option<Ipv6Addr> {
        self.v6.address()
    }

    /// Whether an address is its own.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4() == Some(ip),
            IpAddr::V6(ip) => self.v6.is_own(ip),
        }
    }

    /// How large a packet may be: what the network carries, and what its DHCP server and routers say; 1280 at least.
    pub fn mtu(&self) -> u16 {
        let told = self.v4.address().and_then(|own| own.mtu);
        let told = told.into_iter().chain(self.v6.mtu());
        told.fold(self.link_mtu, u16::min)
            .max(slaac::MIN_MTU.min(self.link_mtu))
    }

    /// Whether an address is one on the link that a packet can go to.
    #[inline]
    fn is_on_link4(&self, ip: Ipv4Addr) -> Option<bool> {
        let own = self.v4.address()?;
        if !own.net.contains(&ip) {
            return (!ip.is_multicast() && !ip.is_broadcast()).then_some(false);
        }
        let (network, broadcast) = (own.net.network(), own.net.broadcast());
        let station = own.net.prefix_len() >= 31 || ip != network && ip != broadcast;
        (station && ip != own.ip).then_some(true)
    }

    #[inline]
    fn is_on_link6(&self, ip: Ipv6Addr) -> Option<bool> {
        self.v6.address()?;
        if ip.is_multicast() || self.v6.is_own(ip) {
            return None;
        }
        Some(self.v6.is_on_link(ip))
    }

    /// The hardware address that packets to `dst` go to, if it is known.
    #[inline]
    pub fn mac_for(&self, dst: IpAddr) -> Option<MacAddr> {
        let (on_link, router) = match dst {
            IpAddr::V4(ip) => (self.is_on_link4(ip)?, &self.router4),
            IpAddr::V6(ip) => (self.is_on_link6(ip)?, &self.router6),
        };
        if on_link {
            self.neighbours.mac_of(dst)
        } else {
            router.mac()
        }
    }

    /// Returns the station that packets to `dst` go to: itself, or a router. The latter is told by `true`.
    fn hop(&self, dst: IpAddr) -> Option<(IpAddr, bool)> {
        let (on_link, router) = match dst {
            IpAddr::V4(ip) => (self.is_on_link4(ip)?, &self.router4),
            IpAddr::V6(ip) => (self.is_on_link6(ip)?, &self.router6),
        };
        if on_link {
            return Some((dst, Some(dst) == router.ip));
        }
        router.ip.map(|ip| (ip, true))
    }

    /// Where packets to `dst` go to next, as far as that is known.
    pub fn next_hop(&self, dst: IpAddr) -> NextHop {
        self.hop(dst)
            .map_or(NextHop::Unreachable, |(ip, _)| self.neighbours.peek(ip))
    }

    /// Asks where packets to `dst` go to next, unless that is known or has been asked.
    pub fn ask(&mut self, dst: IpAddr, now: Instant, out: &mut Vec<Vec<u8>>) -> NextHop {
        let Some((ip, router)) = self.hop(dst) else {
            return NextHop::Unreachable;
        };
        let question = self.neighbours.ask(ip, router, now);
        self.put(question, out);
        let timer = self.neighbours.poll_timeout();
        self.next = self.next.into_iter().chain(timer).min();
        self.neighbours.peek(ip)
    }

    /// Puts questions about neighbours.
    fn put(&self, questions: impl IntoIterator<Item = Question>, out: &mut Vec<Vec<u8>>) {
        for (ip, known) in questions {
            match ip {
                IpAddr::V4(target_ip) => {
                    // Whoever has no address any more has nothing to ask.
                    let Some(sender_ip) = self.v4() else { continue };
                    let request = Arp {
                        operation: REQUEST,
                        sender_mac: self.mac,
                        sender_ip,
                        target_mac: MacAddr::ZERO,
                        target_ip,
                    };
                    out.push(request.emit(known.unwrap_or(MacAddr::BROADCAST)));
                }
                IpAddr::V6(target) => {
                    let Some(source) = self.v6.source() else {
                        continue;
                    };
                    let frame = match known {
                        Some(known) => nd::check(self.mac, source, target, known),
                        None => nd::solicit(self.mac, source, target),
                    };
                    out.push(frame);
                }
            }
        }
    }

    /// Offers a frame that came to the translator, and tells whether it concerned its presence here.
    pub fn handle_frame(&mut self, bytes: &[u8], now: Instant, out: &mut Vec<Vec<u8>>) -> Claim {
        let Some(frame) = Ethernet::parse(bytes) else {
            return Claim::Passed;
        };
        let ours = frame.dst == self.mac || frame.dst.is_group();
        if !ours || frame.src == self.mac || !frame.src.is_station() {
            return Claim::Passed;
        }
        let claim = match frame.ethertype {
            ETHERTYPE_ARP => {
                if let Some(arp) = Arp::parse(frame.payload) {
                    self.handle_arp(&frame, &arp, now, out);
                }
                Claim::Taken
            }
            ETHERTYPE_IPV4 => self.handle_v4(&frame, now, out),
            ETHERTYPE_IPV6 => self.handle_v6(&frame, now, out),
            _ => Claim::Passed,
        };
        if claim == Claim::Taken {
            self.settle(now, out);
        }
        claim
    }

    fn handle_arp(
        &mut self,
        frame: &Ethernet<'_>,
        arp: &Arp,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) {
        if arp.sender_mac == self.mac {
            return;
        }
        self.v4.handle_arp(arp, now, out);
        if !arp.sender_ip.is_unspecified() && self.v4() != Some(arp.sender_ip) {
            let answer = arp.operation == REPLY && frame.dst == self.mac;
            let question = self
                .neighbours
                .note(arp.sender_ip.into(), arp.sender_mac, answer, now);
            self.put(question, out);
        }
    }

    fn handle_v4(&mut self, frame: &Ethernet<'_>, now: Instant, out: &mut Vec<Vec<u8>>) -> Claim {
        let Some(ip) = Ipv4::parse(frame.payload) else {
            return Claim::Passed;
        };
        if self.v4.is_dhcp()
            && let Some(udp) = Udp::parse(&ip, false)
            && (udp.src, udp.dst) == (SERVER_PORT, CLIENT_PORT)
        {
            if let Some(message) = Message::parse(udp.payload) {
                let random = &mut self.random;
                self.v4.handle_dhcp(&message, frame.src, now, random, out);
            }
            return Claim::Taken;
        }
        if Some(ip.dst) == self.v4()
            && ip.protocol == PROTOCOL_ICMP
            && !ip.fragment
            && frame.dst == self.mac
            && let Some(reply) = icmp::echo_reply(ip.payload, false)
        {
            let packet = ipv4::emit(ip.dst, ip.src, PROTOCOL_ICMP, &reply);
            out.extend(
                packet.map(|packet| ethernet::emit(frame.src, self.mac, ETHERTYPE_IPV4, &packet)),
            );
            return Claim::Taken;
        }
        Claim::Passed
    }

    fn handle_v6(&mut self, frame: &Ethernet<'_>, now: Instant, out: &mut Vec<Vec<u8>>) -> Claim {
        if !self.v6.is_on() {
            return Claim::Passed;
        }
        let Some(heard) = nd::Packet::parse(frame.payload, false) else {
            if let Some(Mld::Query(_)) = Mld::parse(frame.payload) {
                self.v6.handle_query(now, out);
                return Claim::Taken;
            }
            return self.answer_echo6(frame, out);
        };
        let src = heard.src;
        match heard.message {
            Told::RouterAdvertisement(told) => {
                self.v6.handle_advertisement(src, &told, now);
                self.v6.handle_timeout(now, &mut self.random, out);
            }
            Told::RouterSolicitation { .. } => {}
            Told::Solicitation { target, .. } => {
                self.v6
                    .handle_solicitation(target, src, frame.src, now, out);
                let question = self.neighbours.note(src.into(), frame.src, false, now);
                self.put(question, out);
            }
            Told::Advertisement(told) => {
                self.v6.handle_claim(told.target, now, out);
                let answer = told.solicited && frame.dst == self.mac;
                // An answer to a station that knows where the other is need not say it (section 4.4).
                let mac = told.mac.unwrap_or(frame.src);
                let question = self.neighbours.note(told.target.into(), mac, answer, now);
                self.put(question, out);
            }
        }
        Claim::Taken
    }

    fn answer_echo6(&self, frame: &Ethernet<'_>, out: &mut Vec<Vec<u8>>) -> Claim {
        let Some(packet) = Ipv6::parse(frame.payload) else {
            return Claim::Passed;
        };
        let echo = packet.next_header == NEXT_HEADER_ICMPV6
            && packet.payload.len() >= 8
            && packet.payload.starts_with(&[128, 0]);
        if !echo || frame.dst != self.mac || !self.v6.is_own(packet.dst) {
            return Claim::Passed;
        }
        let sum = |src, dst, message: &[u8]| {
            // A packet that was read is not longer than its length can say.
            let len = u16::try_from(message.len()).unwrap_or_default();
            ipv6::pseudo_header(src, dst, NEXT_HEADER_ICMPV6, len)
                .over(message)
                .finish()
        };
        if sum(packet.src, packet.dst, packet.payload) == 0 && !packet.src.is_multicast() {
            let mut reply = packet.payload.to_vec();
            reply[..4].copy_from_slice(&[129, 0, 0, 0]);
            let checksum = sum(packet.dst, packet.src, &reply);
            reply[2..4].copy_from_slice(&checksum.to_be_bytes());
            let reply = Ipv6 {
                src: packet.dst,
                dst: packet.src,
                next_header: NEXT_HEADER_ICMPV6,
                hop_limit: 64,
                payload: &reply,
            };
            let frame = reply
                .emit()
                .map(|reply| ethernet::emit(frame.src, self.mac, ETHERTYPE_IPV6, &reply));
            out.extend(frame);
        }
        Claim::Taken
    }

    /// Follows what has changed: asks for routers that are new, and keeps at hand where they are.
    fn settle(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let own = self.v4();
        if own != self.was4 {
            self.was4 = own;
            self.neighbours.forget(false);
        }
        let router4 = self.v4.address().and_then(|own| own.router);
        let router4 = router4.map(IpAddr::from);
        let router6 = self.v6.address().and_then(|_| self.choose_router6());
        let mut questions = Vec::new();
        for (router, chosen) in [
            (&mut self.router4, router4),
            (&mut self.router6, router6.map(IpAddr::from)),
        ] {
            if let Some(former) = router.ip.filter(|_| router.ip != chosen) {
                self.neighbours.set_router(former, false, now);
            }
            router.ip = chosen;
            router.mac = None;
            let Some(ip) = chosen else { continue };
            questions.extend(self.neighbours.set_router(ip, true, now));
            if let NextHop::Known(mac) = self.neighbours.peek(ip) {
                router.mac = Some(mac);
            }
        }
        self.put(questions, out);
        let v6 = self.v6.poll_timeout(now);
        let sides = self.v4.poll_timeout().into_iter().chain(v6);
        self.next = sides.chain(self.neighbours.poll_timeout()).min();
    }

    /// The first router that is not silent, or the first.
    fn choose_router6(&self) -> Option<Ipv6Addr> {
        let state = |ip: &Ipv6Addr| self.neighbours.peek((*ip).into());
        let known = |ip: &Ipv6Addr| matches!(state(ip), NextHop::Known(_));
        let silent = |ip: &Ipv6Addr| state(ip) == NextHop::Unreachable;
        let mut routers = self.v6.routers();
        let first = self.v6.routers().next();
        routers
            .find(known)
            .or_else(|| self.v6.routers().find(|ip| !silent(ip)))
            .or(first)
    }

    /// The next time at which `handle_timeout` has work to do.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        for (router, ip) in [&self.router4, &self.router6].map(|router| (router, router.ip)) {
            if let Some(ip) = ip.filter(|_| router.used.take()) {
                // Noted where the neighbour is: who is talked with is looked after.
                let _ = self.neighbours.mac_of(ip);
            }
        }
        self.v4.handle_timeout(now, &mut self.random, out);
        self.v6.handle_timeout(now, &mut self.random, out);
        let questions = self.neighbours.handle_timeout(now);
        self.put(questions, out);
        self.settle(now, out);
    }

    /// Gives back what was lent.
    pub fn shutdown(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.v4.shut_down(now, out);
        self.settle(now, out);
    }

    /// What an operator should know, one sentence each.
    pub fn advisories(&self, now: Instant) -> Vec<String> {
        let mut advisories = self.v4.advisories(now);
        advisories.extend(self.v6.advisories());
        for ip in [self.router4.ip, self.router6.ip].into_iter().flatten() {
            if self.neighbours.peek(ip) == NextHop::Unreachable {
                advisories.push(format!("the NAT's router {ip} outside does not answer"));
            }
        }
        advisories
    }
}
