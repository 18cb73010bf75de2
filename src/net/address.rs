//! The gateway's own addresses: answers ARP (RFC 826), neighbour solicitations (RFC 4861, section 7.2.4) and echo (RFC 792,
//! RFC 4443), and nothing else.
//!
//! A station that is about to use one of the IPv6 addresses is told that it is taken (RFC 4862, section 5.4.3). One that
//! uses it already is contradicted, though only now and then, and an operator can read of it. Answers go to where a frame
//! came from, never to a hardware address that is only spoken of in it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::ethernet::{
    self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr,
};
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP};
use crate::wire::ipv6::{Ipv6, NEXT_HEADER_ICMPV6};
use crate::wire::{icmp, icmp6, nd};

/// How long passes before somebody who uses an address of ours is contradicted again.
const CONTRADICTION: Duration = Duration::from_secs(10);
/// How long it is worth telling that somebody did.
const USURPED: Duration = Duration::from_secs(300);

/// The addresses to answer for.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's IPv4 address.
    pub ip: Ipv4Addr,
    /// The gateway's address in the IPv6 prefix, where there is one.
    pub v6: Option<Ipv6Addr>,
    /// The gateway's link-local address, where it speaks IPv6.
    pub link_local: Option<Ipv6Addr>,
}

/// Answers for the gateway's addresses.
#[derive(Debug)]
pub struct Address {
    spec: Spec,
    mac: MacAddr,
    /// Who was last seen to use an IPv6 address of ours, which, and when that was contradicted.
    usurper: Option<(MacAddr, Ipv6Addr, Instant)>,
}

impl Address {
    /// Answers for the addresses in `spec` with the hardware address `mac`.
    pub fn new(spec: Spec, mac: MacAddr) -> Self {
        Self {
            spec,
            mac,
            usurper: None,
        }
    }

    fn is_own(&self, ip: Ipv6Addr) -> bool {
        self.spec.v6 == Some(ip) || self.spec.link_local == Some(ip)
    }

    fn answer_arp(&self, payload: &[u8], out: &mut Replies) -> Claim {
        let Some(arp) = Arp::parse(payload) else {
            return Claim::Passed;
        };
        if arp.operation != REQUEST || arp.target_ip != self.spec.ip || !arp.sender_mac.is_station()
        {
            return Claim::Passed;
        }
        let reply = Arp {
            operation: REPLY,
            sender_mac: self.mac,
            sender_ip: self.spec.ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        };
        out.send(reply.emit(arp.sender_mac));
        Claim::Taken
    }

    fn answer_echo(&self, frame: &Ethernet<'_>, partial: bool, out: &mut Replies) -> Claim {
        let Some(ip) = Ipv4::parse(frame.payload) else {
            return Claim::Passed;
        };
        if ip.protocol != PROTOCOL_ICMP
            || ip.dst != self.spec.ip
            || ip.fragment
            || !frame.src.is_station()
        {
            return Claim::Passed;
        }
        let reply = icmp::echo_reply(ip.payload, partial)
            .and_then(|reply| ipv4::emit(self.spec.ip, ip.src, PROTOCOL_ICMP, &reply));
        if let Some(packet) = reply {
            out.send(ethernet::emit(frame.src, self.mac, ETHERTYPE_IPV4, &packet));
        }
        Claim::Taken
    }

    fn answer_v6(
        &mut self,
        frame: &Ethernet<'_>,
        partial: bool,
        now: Now,
        out: &mut Replies,
    ) -> Claim {
        let Some(packet) = Ipv6::parse(frame.payload) else {
            return Claim::Passed;
        };
        if packet.next_header != NEXT_HEADER_ICMPV6 || !frame.src.is_station() {
            return Claim::Passed;
        }
        if packet.payload.first() == Some(&icmp6::ECHO_REQUEST) {
            return self.answer_echo_v6(frame, &packet, partial, out);
        }
        match nd::Packet::parse(frame.payload, partial) {
            Some(packet) => self.answer_neighbour(frame.src, &packet, now, out),
            None => Claim::Passed,
        }
    }

    fn answer_echo_v6(
        &self,
        frame: &Ethernet<'_>,
        packet: &Ipv6<'_>,
        partial: bool,
        out: &mut Replies,
    ) -> Claim {
        // A group has no address of its own to answer from.
        let src = if packet.dst == nd::ALL_NODES {
            let near = self.spec.link_local;
            let far = self.spec.v6.or(near);
            if packet.src.is_unicast_link_local() {
                near
            } else {
                far
            }
        } else {
            (frame.dst == self.mac && self.is_own(packet.dst)).then_some(packet.dst)
        };
        let Some(src) = src else {
            return Claim::Passed;
        };
        if let Some(reply) = icmp6::echo_reply(packet, src, partial) {
            out.send(ethernet::emit(frame.src, self.mac, ETHERTYPE_IPV6, &reply));
        }
        if packet.dst.is_multicast() {
            Claim::Passed
        } else {
            Claim::Taken
        }
    }

    fn answer_neighbour(
        &mut self,
        station: MacAddr,
        packet: &nd::Packet,
        now: Now,
        out: &mut Replies,
    ) -> Claim {
        let (target, asks) = match &packet.message {
            nd::Message::Solicitation { target, .. } => (*target, true),
            nd::Message::Advertisement(told) => (told.target, false),
            nd::Message::RouterSolicitation { .. } | nd::Message::RouterAdvertisement(_) => {
                return Claim::Passed;
            }
        };
        if self.is_own(packet.src) && station != self.mac {
            self.contradict(station, packet.src, now, out);
        }
        if !self.is_own(target) || station == self.mac {
            return Claim::Passed;
        }
        if !asks {
            self.contradict(station, target, now, out);
            return Claim::Taken;
        }
        // Whoever makes sure that an address is free has none yet, and everybody is told.
        let probes = packet.src.is_unspecified();
        let reply = nd::Packet {
            src: target,
            dst: if probes { nd::ALL_NODES } else { packet.src },
            message: nd::Message::Advertisement(nd::Advertisement {
                target,
                mac: Some(self.mac),
                router: true,
                solicited: !probes,
                overrides: true,
            }),
        };
        out.send(reply.emit(self.mac, station));
        Claim::Taken
    }

    /// Tells everybody whose an address is that somebody else uses.
    fn contradict(&mut self, station: MacAddr, ip: Ipv6Addr, now: Now, out: &mut Replies) {
        let due = |(.., at): &(_, _, Instant)| {
            now.instant.saturating_duration_since(*at) >= CONTRADICTION
        };
        if self.usurper.as_ref().is_none_or(due) {
            self.usurper = Some((station, ip, now.instant));
            out.send(nd::unsolicited(self.mac, ip, true));
        }
    }
}

impl Service for Address {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim {
        let Some(ethernet) = Ethernet::parse(frame.bytes) else {
            return Claim::Passed;
        };
        match ethernet.ethertype {
            ETHERTYPE_ARP => self.answer_arp(ethernet.payload, out),
            ETHERTYPE_IPV4 if ethernet.dst == self.mac => {
                self.answer_echo(&ethernet, frame.partial_checksum, out)
            }
            ETHERTYPE_IPV6 => self.answer_v6(&ethernet, frame.partial_checksum, now, out),
            _ => Claim::Passed,
        }
    }

    fn advisories(&self, now: Now) -> Vec<String> {
        let usurper = self.usurper.iter();
        let recent =
            usurper.filter(|(.., at)| now.instant.saturating_duration_since(*at) < USURPED);
        recent
            .map(|(mac, ip, _)| format!("{mac} uses the gateway's address {ip}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::inside::Inside;
    use crate::wire::checksum::checksum;
    use proptest::prelude::*;
    use std::time::SystemTime;

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
    const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 128);
    const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 254);

    fn ip6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn address() -> Address {
        let spec = Spec {
            ip: GATEWAY_IP,
            v6: Some(ip6("fd00::2")),
            link_local: Some(ip6("fe80::2")),
        };
        Address::new(spec, GATEWAY)
    }

    fn offer(address: &mut Address, frame: &[u8], now: Now) -> (Claim, Vec<Vec<u8>>) {
        let mut out = Replies::default();
        let frame = GatewayFrame {
            bytes: frame,
            partial_checksum: false,
            inside: &Inside::default(),
        };
        let claim = address.handle_frame(frame, now, &mut out);
        (claim, out.frames)
    }

    fn now() -> Now {
        Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        }
    }

    fn answers(frame: &[u8]) -> Vec<Vec<u8>> {
        offer(&mut address(), frame, now()).1
    }

    /// Offers a packet of neighbour discovery, and reads the frame it is answered with.
    fn neighbour(src: &str, dst: &str, message: nd::Message) -> Option<(MacAddr, nd::Packet)> {
        let packet = nd::Packet {
            src: ip6(src),
            dst: ip6(dst),
            message,
        };
        let replies = answers(&packet.emit(GUEST, GATEWAY));
        let reply = Ethernet::parse(replies.first()?).unwrap();
        assert_eq!((replies.len(), reply.src), (1, GATEWAY));
        Some((reply.dst, nd::Packet::parse(reply.payload, false).unwrap()))
    }

    fn solicitation(target: &str, mac: Option<MacAddr>) -> nd::Message {
        nd::Message::Solicitation {
            target: ip6(target),
            mac,
        }
    }

    fn told(target: &str, solicited: bool) -> nd::Message {
        nd::Message::Advertisement(nd::Advertisement {
            target: ip6(target),
            mac: Some(GATEWAY),
            router: true,
            solicited,
            overrides: true,
        })
    }

    #[test]
    fn neighbours_are_told_where_the_addresses_are() {
        for (target, group) in [
            ("fd00::2", "ff02::1:ff00:2"),
            ("fd00::2", "fd00::2"),
            ("fe80::2", "ff02::1:ff00:2"),
        ] {
            let elsewhere = Some(MacAddr([2, 0, 0, 0, 0, 7]));
            for mac in [Some(GUEST), None, elsewhere] {
                let (dst, reply) = neighbour("fe80::9", group, solicitation(target, mac)).unwrap();
                assert_eq!(dst, GUEST, "to where the frame came from");
                assert_eq!((reply.src, reply.dst), (ip6(target), ip6("fe80::9")));
                assert_eq!(reply.message, told(target, true));
            }
        }
        let other = solicitation("fd00::3", Some(GUEST));
        assert_eq!(neighbour("fe80::9", "ff02::1:ff00:3", other), None);
    }

    #[test]
    fn who_is_about_to_use_an_address_hears_that_it_is_taken() {
        let probe = solicitation("fd00::2", None);
        let (dst, reply) = neighbour("::", "ff02::1:ff00:2", probe).unwrap();
        assert_eq!((dst, reply.dst), (nd::ALL_NODES_MAC, nd::ALL_NODES));
        assert_eq!(reply.message, told("fd00::2", false));
        let other = solicitation("fd00::3", None);
        assert_eq!(neighbour("::", "ff02::1:ff00:3", other), None);
    }

    #[test]
    fn who_uses_an_address_is_contradicted_now_and_then_and_told_of() {
        let (mut address, start) = (address(), now());
        let claimed = nd::unsolicited(GUEST, ip6("fd00::2"), false);
        let mut at = start;
        let (claim, said) = offer(&mut address, &claimed, at);
        let contradiction = nd::unsolicited(GATEWAY, ip6("fd00::2"), true);
        assert_eq!((claim, said), (Claim::Taken, vec![contradiction.clone()]));
        assert_eq!(
            address.advisories(at),
            ["02:00:00:00:00:01 uses the gateway's address fd00::2"]
        );
        at.instant += CONTRADICTION - Duration::from_millis(1);
        assert!(offer(&mut address, &claimed, at).1.is_empty());
        at.instant += Duration::from_millis(1);
        let asked = nd::solicit(GUEST, ip6("fd00::2"), ip6("fd00::9"));
        let said = offer(&mut address, &asked, at);
        assert_eq!(said, (Claim::Passed, vec![contradiction]));
        at.instant += USURPED;
        assert!(address.advisories(at).is_empty());
        let ours = nd::unsolicited(GATEWAY, ip6("fd00::2"), true);
        assert!(
            offer(&mut address, &ours, at).1.is_empty(),
            "what we said ourselves is no news"
        );
    }

    #[test]
    fn neighbours_and_routers_that_are_not_ours_are_left_to_others() {
        let others = nd::unsolicited(GUEST, ip6("fd00::9"), false);
        let router = nd::Packet {
            src: ip6("fe80::9"),
            dst: nd::ALL_ROUTERS,
            message: nd::Message::RouterSolicitation { mac: None },
        };
        let router = router.emit(GUEST, GATEWAY);
        for frame in [others, router] {
            let said = offer(&mut address(), &frame, now());
            assert_eq!(said, (Claim::Passed, Vec::new()));
        }
    }

    #[test]
    fn an_ipv6_ping_comes_back_from_the_address_it_was_sent_to() {
        let ping = |src: &str, dst: &str, mac: MacAddr| {
            let message = vec![128, 0, 0, 0, 1, 2, 3, 4, 5];
            let packet = icmp6::emit(ip6(src), ip6(dst), 64, message).unwrap();
            let frame = ethernet::emit(mac, GUEST, ETHERTYPE_IPV6, &packet);
            let (claim, replies) = offer(&mut address(), &frame, now());
            let from = replies.first().map(|reply| {
                let packet = Ipv6::parse(&reply[14..]).unwrap();
                assert!(icmp6::is_valid(&packet, false));
                assert_eq!((packet.dst, packet.payload[0]), (ip6(src), 129));
                packet.src.to_string()
            });
            (claim, from)
        };
        let from = |ip: &str| Some(ip.to_owned());
        assert_eq!(
            ping("fd00::9", "fd00::2", GATEWAY),
            (Claim::Taken, from("fd00::2"))
        );
        assert_eq!(
            ping("fe80::9", "fe80::2", GATEWAY),
            (Claim::Taken, from("fe80::2"))
        );
        let all = nd::ALL_NODES_MAC;
        assert_eq!(
            ping("fe80::9", "ff02::1", all),
            (Claim::Passed, from("fe80::2"))
        );
        assert_eq!(
            ping("fd00::9", "ff02::1", all),
            (Claim::Passed, from("fd00::2"))
        );
        assert_eq!(
            ping("fd00::9", "2001:db8::1", GATEWAY),
            (Claim::Passed, None)
        );
        assert_eq!(ping("fd00::9", "fd00::2", GUEST), (Claim::Passed, None));
        assert_eq!(ping("::", "fd00::2", GATEWAY), (Claim::Taken, None));
    }

    #[test]
    fn without_ipv6_nothing_is_said_of_it() {
        let spec = Spec {
            ip: GATEWAY_IP,
            v6: None,
            link_local: None,
        };
        let mut address = Address::new(spec, GATEWAY);
        let asked = nd::solicit(GUEST, ip6("fe80::9"), ip6("fd00::2"));
        let said = offer(&mut address, &asked, now());
        assert_eq!(said, (Claim::Passed, Vec::new()));
    }

    #[test]
    fn arp_for_the_address_is_answered_and_for_others_is_not() {
        let mut ask = Arp {
            operation: REQUEST,
            sender_mac: GUEST,
            sender_ip: GUEST_IP,
            target_mac: MacAddr::ZERO,
            target_ip: GATEWAY_IP,
        };
        let replies = answers(&ask.emit(MacAddr::BROADCAST));
        let reply = Ethernet::parse(&replies[0]).unwrap();
        assert_eq!((reply.dst, reply.src), (GUEST, GATEWAY));
        assert_eq!(Arp::parse(reply.payload).unwrap().sender_ip, GATEWAY_IP);
        ask.target_ip = GUEST_IP;
        assert!(answers(&ask.emit(MacAddr::BROADCAST)).is_empty());
    }

    #[test]
    fn a_ping_comes_back_and_one_with_a_wrong_checksum_does_not() {
        let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4, 5];
        let sum = checksum(&echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        let packet = ipv4::emit(GUEST_IP, GATEWAY_IP, PROTOCOL_ICMP, &echo).unwrap();
        let replies = answers(&ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet));
        let reply = Ipv4::parse(&replies[0][14..]).unwrap();
        assert_eq!(
            (reply.src, reply.dst, reply.payload[0]),
            (GATEWAY_IP, GUEST_IP, 0)
        );
        echo[8] = 6;
        let packet = ipv4::emit(GUEST_IP, GATEWAY_IP, PROTOCOL_ICMP, &echo).unwrap();
        assert!(answers(&ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet)).is_empty());
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0usize..3) {
            let kinds = [ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6];
            if let Some(field) = bytes.get_mut(12..14) {
                field.copy_from_slice(&kinds[kind].to_be_bytes());
            }
            answers(&bytes);
        }
    }
}
