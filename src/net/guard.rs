//! Guards: what a port may not send because it is no DHCP server and no router (RFC 6105, RFC 7113).
//!
//! # Theory of operation
//!
//! A frame is judged by its head alone. Behind its outer tag at most one further tag and one SNAP header (RFC 1042)
//! are looked behind, since a receiver may take them off.
//!
//! * A DHCP server is who sends from port 67 or to a client's port 68; for DHCPv6, from 547 or to 546. Clients do not
//!   check where an answer came from, so the destination counts as much as the source.
//! * A router is who sends ICMPv6 router advertisements (134) or redirects (137), wherever behind extension headers.
//!
//! Fragments that are not the first pass: without the first, which is judged, nobody can put them together. An IPv6
//! packet whose chain of headers is not whole in its head is dropped (RFC 7113, section 3), since nobody sends one but
//! to get past a guard. A header that is none of the known extension headers ends the chain: receivers that know it as
//! an extension header do not exist. IPv4 needs no such rule, since the longest header fits into a head. What is not a
//! packet at all (a wrong version, an IPv4 header that is too short) passes: no receiver reads it.

use crate::net::drops::DropReason;
use crate::net::frame::{Head, Parsed};
use crate::wire::be16;
use crate::wire::ethernet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE, ETHERTYPE_VLAN, TAG_LEN,
};
use crate::wire::ipv4::PROTOCOL_UDP;

/// The least EtherType; what is below is the length of an LLC frame.
const ETHERTYPE_MIN: u16 = 0x0600;
/// The headers of LLC and SNAP before an EtherType: those of RFC 1042, and of IEEE 802.1H.
const SNAP: [[u8; 6]; 2] = [[0xaa, 0xaa, 3, 0, 0, 0], [0xaa, 0xaa, 3, 0, 0, 0xf8]];
const SNAP_LEN: usize = 8;

const IPV6_HEADER_LEN: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// What is not let in from a port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Guards {
    /// Whether messages of DHCP and DHCPv6 servers are dropped.
    pub dhcp_server: bool,
    /// Whether IPv6 router advertisements and redirects are dropped.
    pub router_advertisement: bool,
}

impl Guards {
    /// Lets everything in.
    pub const OFF: Self = Self {
        dhcp_server: false,
        router_advertisement: false,
    };

    /// Judges a frame.
    ///
    /// # Errors
    ///
    /// The frame must not pass.
    #[inline]
    pub fn check(self, head: &Head, parsed: &Parsed) -> Result<(), DropReason> {
        if self == Self::OFF {
            return Ok(());
        }
        match parsed.ethertype {
            ETHERTYPE_ARP => Ok(()),
            ETHERTYPE_IPV4 => self.check_ipv4(packet(head, parsed.payload_at())),
            ETHERTYPE_IPV6 => self.check_ipv6(packet(head, parsed.payload_at())),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE | ..ETHERTYPE_MIN => {
                self.check_wrapped(head, parsed)
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn check_wrapped(self, head: &Head, parsed: &Parsed) -> Result<(), DropReason> {
        match unwrapped(head.bytes(), parsed) {
            Some((at, ETHERTYPE_IPV4)) => self.check_ipv4(packet(head, at)),
            Some((at, ETHERTYPE_IPV6)) => self.check_ipv6(packet(head, at)),
            Some(_) | None => Ok(()),
        }
    }

    #[inline]
    fn check_ipv4(self, packet: &[u8]) -> Result<(), DropReason> {
        if self.dhcp_server && is_dhcp_server(packet) {
            return Err(DropReason::DhcpGuard);
        }
        Ok(())
    }

    #[inline]
    fn check_ipv6(self, packet: &[u8]) -> Result<(), DropReason> {
        match upper(packet) {
            Upper::Other => Ok(()),
            Upper::Icmp(_) if !self.router_advertisement => Ok(()),
            Upper::Icmp(Some(ROUTER_ADVERTISEMENT | REDIRECT) | None) => Err(DropReason::RaGuard),
            Upper::Icmp(Some(_)) => Ok(()),
            Upper::Udp(_) if !self.dhcp_server => Ok(()),
            Upper::Udp(Some((547, _) | (_, 546)) | None) => Err(DropReason::DhcpGuard),
            Upper::Udp(Some(_)) => Ok(()),
            Upper::Hidden if self.router_advertisement => Err(DropReason::RaGuard),
            Upper::Hidden => Err(DropReason::DhcpGuard),
        }
    }
}

fn packet(head: &Head, at: usize) -> &[u8] {
    head.bytes().get(at..).unwrap_or_default()
}

/// Returns where a packet begins behind a further tag or a SNAP header or both, in either order, and its EtherType.
fn unwrapped(bytes: &[u8], parsed: &Parsed) -> Option<(usize, u16)> {
    let (mut at, mut ethertype) = (parsed.payload_at(), parsed.ethertype);
    let (mut tagged, mut snapped) = (false, false);
    loop {
        match ethertype {
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE if !tagged => {
                tagged = true;
                at += TAG_LEN;
            }
            ..ETHERTYPE_MIN
                if !snapped && SNAP.iter().any(|snap| bytes.get(at..at + 6) == Some(snap)) =>
            {
                snapped = true;
                at += SNAP_LEN;
            }
            _ => return Some((at, ethertype)),
        }
        ethertype = be16(bytes, at - 2)?;
    }
}

/// Tells whether an IPv4 packet is from a DHCP server, or pretends to be.
#[inline]
fn is_dhcp_server(packet: &[u8]) -> bool {
    let Some(header) = packet.first_chunk::<20>() else {
        return false;
    };
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    header[9] == PROTOCOL_UDP
        && header[0] >> 4 == 4
        && header_len >= 20
        && first
        && (be16(packet, header_len) == Some(67) || be16(packet, header_len + 2) == Some(68))
}

/// What an IPv6 packet carries behind its extension headers; `None` where the carried header is cut off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Upper {
    /// ICMPv6 of this type.
    Icmp(Option<u8>),
    /// UDP with this source and destination port.
    Udp(Option<(u16, u16)>),
    /// Anything else, or a fragment that is not the first.
    Other,
    /// The chain of headers goes on where we do not see.
    Hidden,
}

/// Walks the headers of a packet. Every extension header takes at least eight of at most 128 bytes.
#[inline]
fn upper(packet: &[u8]) -> Upper {
    let Some(header) = packet.first_chunk::<IPV6_HEADER_LEN>() else {
        return Upper::Other;
    };
    if header[0] >> 4 != 6 {
        return Upper::Other;
    }
    let (mut next, mut rest) = (header[6], &packet[IPV6_HEADER_LEN..]);
    loop {
        match next {
            ICMPV6 => return Upper::Icmp(rest.first().copied()),
            PROTOCOL_UDP => return Upper::Udp(be16(rest, 0).zip(be16(rest, 2))),
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY
            | HIP | SHIM6 => {}
            _ => return Upper::Other,
        }
        let [following, units, high, low, ..] = *rest else {
            return Upper::Hidden;
        };
        let len = match next {
            FRAGMENT if u16::from_be_bytes([high, low]) & 0xfff8 != 0 => return Upper::Other,
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(units) + 2) * 4,
            _ => (usize::from(units) + 1) * 8,
        };
        let Some(behind) = rest.get(len..) else {
            return Upper::Hidden;
        };
        (next, rest) = (following, behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::virtio_net::VirtioNetHeader;
    use proptest::prelude::*;

    const BOTH: Guards = Guards {
        dhcp_server: true,
        router_advertisement: true,
    };
    const DHCP: Guards = Guards {
        dhcp_server: true,
        ..Guards::OFF
    };
    const RA: Guards = Guards {
        router_advertisement: true,
        ..Guards::OFF
    };
    const PASSED: Result<(), DropReason> = Ok(());
    const DHCP_GUARD: Result<(), DropReason> = Err(DropReason::DhcpGuard);
    const RA_GUARD: Result<(), DropReason> = Err(DropReason::RaGuard);

    const VLAN: [u8; 4] = [0x81, 0, 0, 10];
    const SERVICE: [u8; 4] = [0x88, 0xa8, 0, 20];

    fn check(guards: Guards, frame: &[u8]) -> Result<(), DropReason> {
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        guards.check(&head, &head.parse().unwrap())
    }

    /// A frame whose type field and what follows are these.
    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        [&[2; 12][..], &parts.concat()].concat()
    }

    fn ipv4(options: usize, fragment: u16, protocol: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut packet = vec![0; 20 + options * 4];
        packet[0] = 0x45 + u8::try_from(options).unwrap();
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet.extend_from_slice(&ports.0.to_be_bytes());
        packet.extend_from_slice(&ports.1.to_be_bytes());
        packet.extend_from_slice(&[0; 40]);
        packet
    }

    /// A packet with these headers, each with its number, ending with the upper layer's.
    fn ipv6(headers: &[(u8, &[u8])]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        let mut next_at = 6;
        for (number, bytes) in headers {
            packet[next_at] = *number;
            next_at = packet.len();
            packet.extend_from_slice(bytes);
        }
        packet
    }

    fn ipv6_frame(headers: &[(u8, &[u8])]) -> Vec<u8> {
        frame(&[&[0x86, 0xdd], &ipv6(headers)])
    }

    const ADVERTISEMENT: (u8, &[u8]) = (ICMPV6, &[134, 0, 0, 0, 0, 0, 0, 0]);
    /// From port 547 to port 546.
    const REPLY: (u8, &[u8]) = (PROTOCOL_UDP, &[2, 0x23, 2, 0x22, 0, 0, 0, 0]);

    #[test]
    fn who_sends_as_a_dhcp_server_is_dropped() {
        for (protocol, ports, expected) in [
            (17, (67, 68), DHCP_GUARD),
            (17, (67, 9999), DHCP_GUARD),
            (17, (9999, 68), DHCP_GUARD),
            (17, (68, 67), PASSED),
            (17, (547, 546), PASSED),
            (6, (67, 68), PASSED),
        ] {
            for options in [0, 10] {
                let packet = ipv4(options, 0x4000, protocol, ports);
                let frame = frame(&[&[8, 0], &packet]);
                assert_eq!(check(BOTH, &frame), expected, "{protocol} {ports:?}");
                assert_eq!(check(DHCP, &frame), expected);
                assert_eq!(check(RA, &frame), PASSED);
                assert_eq!(check(Guards::OFF, &frame), PASSED);
            }
        }
    }

    #[test]
    fn of_fragments_the_first_is_judged() {
        for (fragment, expected) in [
            (0x2000, DHCP_GUARD),
            (0x2001, PASSED),
            (0x0001, PASSED),
            (0x1fff, PASSED),
        ] {
            let frame = frame(&[&[8, 0], &ipv4(0, fragment, 17, (67, 68))]);
            assert_eq!(check(DHCP, &frame), expected, "{fragment:#x}");
        }
        for (field, expected) in [(0, RA_GUARD), (1, RA_GUARD), (8, PASSED), (9, PASSED)] {
            let header = [0, 0, 0, field, 1, 2, 3, 4];
            let frame = ipv6_frame(&[(FRAGMENT, &header), ADVERTISEMENT]);
            assert_eq!(check(RA, &frame), expected, "{field}");
        }
    }

    #[test]
    fn what_is_not_an_ipv4_packet_passes() {
        let good = ipv4(0, 0, 17, (67, 68));
        for first in [0x44, 0x40, 0x65] {
            let mut bad = good.clone();
            bad[0] = first;
            assert_eq!(check(DHCP, &frame(&[&[8, 0], &bad])), PASSED, "{first:#x}");
        }
        for len in 0..22 {
            assert_eq!(
                check(DHCP, &frame(&[&[8, 0], &good[..len]])),
                PASSED,
                "{len}"
            );
        }
        assert_eq!(check(DHCP, &frame(&[&[8, 6], &good])), PASSED, "ARP");
        assert_eq!(check(DHCP, &frame(&[&[0x88, 0xcc], &good])), PASSED);
    }

    #[test]
    fn advertisements_and_redirects_are_dropped_and_other_messages_pass() {
        for (kind, expected) in [
            (133, PASSED),
            (134, RA_GUARD),
            (135, PASSED),
            (136, PASSED),
            (137, RA_GUARD),
            (128, PASSED),
            (143, PASSED),
        ] {
            let frame = ipv6_frame(&[(ICMPV6, &[kind, 0, 0, 0])]);
            assert_eq!(check(BOTH, &frame), expected, "{kind}");
            assert_eq!(check(RA, &frame), expected, "{kind}");
            assert_eq!(check(DHCP, &frame), PASSED, "{kind}");
            assert_eq!(check(Guards::OFF, &frame), PASSED, "{kind}");
        }
    }

    #[test]
    fn who_sends_as_a_dhcpv6_server_is_dropped() {
        for (ports, expected) in [
            ([2, 0x23, 0, 9], DHCP_GUARD),
            ([0, 9, 2, 0x22], DHCP_GUARD),
            ([2, 0x22, 2, 0x23], PASSED),
            ([0, 67, 0, 68], PASSED),
        ] {
            let frame = ipv6_frame(&[(PROTOCOL_UDP, &ports)]);
            assert_eq!(check(BOTH, &frame), expected, "{ports:?}");
            assert_eq!(check(DHCP, &frame), expected, "{ports:?}");
            assert_eq!(check(RA, &frame), PASSED, "{ports:?}");
        }
    }

    #[test]
    fn extension_headers_hide_nothing() {
        let plain = [0u8; 16];
        let long = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let authentication = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for number in [
            HOP_BY_HOP,
            ROUTING,
            DESTINATION_OPTIONS,
            MOBILITY,
            HIP,
            SHIM6,
        ] {
            for header in [&plain[..8], &long] {
                for (last, expected) in [(ADVERTISEMENT, RA_GUARD), (REPLY, DHCP_GUARD)] {
                    let frame = ipv6_frame(&[(number, header), last]);
                    assert_eq!(check(BOTH, &frame), expected, "{number}");
                }
                let frame = ipv6_frame(&[(number, header), (6, &[2, 0x23, 2, 0x22])]);
                assert_eq!(check(BOTH, &frame), PASSED, "TCP behind {number}");
            }
        }
        let many = ipv6_frame(&[
            (HOP_BY_HOP, &plain[..8]),
            (DESTINATION_OPTIONS, &plain[..8]),
            (ROUTING, &plain[..8]),
            (FRAGMENT, &plain[..8]),
            (AUTHENTICATION, &authentication),
            (DESTINATION_OPTIONS, &long),
            ADVERTISEMENT,
        ]);
        assert_eq!(check(RA, &many), RA_GUARD);
        assert_eq!(check(DHCP, &many), PASSED);
        let secret = ipv6_frame(&[(50, &plain), ADVERTISEMENT]);
        assert_eq!(check(BOTH, &secret), PASSED, "ESP ends the chain");
    }

    #[test]
    fn a_chain_that_is_not_whole_is_dropped_by_either_guard() {
        let mut long = vec![0u8; 88];
        long[1] = 10;
        let beyond = ipv6_frame(&[(DESTINATION_OPTIONS, &long), ADVERTISEMENT]);
        let lying = ipv6_frame(&[(DESTINATION_OPTIONS, &[0, 255, 0, 0, 0, 0, 0, 0])]);
        let cut = ipv6_frame(&[(HOP_BY_HOP, &[0, 0])]);
        let headers = [(DESTINATION_OPTIONS, &[0u8; 8][..]); 12];
        let endless = ipv6_frame(&headers);
        for frame in [&beyond, &lying, &cut, &endless] {
            assert_eq!(check(BOTH, frame), RA_GUARD);
            assert_eq!(check(RA, frame), RA_GUARD);
            assert_eq!(check(DHCP, frame), DHCP_GUARD);
            assert_eq!(check(Guards::OFF, frame), PASSED);
        }
        let later = ipv6_frame(&[(FRAGMENT, &[60, 0, 0, 8, 0, 0, 0, 0])]);
        assert_eq!(check(BOTH, &later), PASSED, "not the first fragment");
        let (no_type, no_ports) = (
            ipv6_frame(&[(ICMPV6, &[])]),
            ipv6_frame(&[(PROTOCOL_UDP, &[0, 1, 2])]),
        );
        assert_eq!(
            (check(RA, &no_type), check(DHCP, &no_type)),
            (RA_GUARD, PASSED)
        );
        assert_eq!(
            (check(RA, &no_ports), check(DHCP, &no_ports)),
            (PASSED, DHCP_GUARD)
        );
        let whole = ipv6(&[ADVERTISEMENT]);
        for len in 0..40 {
            let frame = frame(&[&[0x86, 0xdd], &whole[..len]]);
            assert_eq!(check(BOTH, &frame), PASSED, "no IPv6 header: {len}");
        }
    }

    #[test]
    fn an_outer_tag_a_further_one_and_snap_are_looked_behind() {
        let advertisement = ipv6(&[ADVERTISEMENT]);
        let offer = ipv4(0, 0, 17, (67, 68));
        let snap = |oui: u8| [0, 60, 0xaa, 0xaa, 3, 0, 0, oui];
        for (packet, ethertype, expected) in [
            (&advertisement, [0x86, 0xdd], RA_GUARD),
            (&offer, [8, 0], DHCP_GUARD),
        ] {
            for wrap in [
                &[][..],
                &VLAN,
                &SERVICE,
                &[VLAN, VLAN].concat(),
                &[VLAN, SERVICE].concat(),
                &snap(0),
                &snap(0xf8),
                &[&VLAN[..], &snap(0)].concat(),
                &[&VLAN[..], &VLAN, &snap(0)].concat(),
                &[&snap(0)[..], &VLAN].concat(),
            ] {
                let wrapped = frame(&[wrap, &ethertype, packet]);
                assert_eq!(check(BOTH, &wrapped), expected, "{wrap:02x?}");
                let cut = frame(&[wrap, &ethertype]);
                assert_eq!(check(BOTH, &cut), PASSED, "{wrap:02x?}");
            }
            for wrap in [
                &[VLAN, VLAN, VLAN].concat()[..],
                &snap(1),
                &[snap(0), snap(0)].concat(),
                &[0, 60, 0x42, 0x42, 3, 0, 0, 0],
            ] {
                let wrapped = frame(&[wrap, &ethertype, packet]);
                assert_eq!(check(BOTH, &wrapped), PASSED, "{wrap:02x?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_pass_or_are_dropped(
            mut bytes in proptest::collection::vec(any::<u8>(), 14..200),
            ethertype in proptest::sample::select(
                vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x0040, 0x0806],
            ),
            version in proptest::sample::select(vec![0x45_u8, 0x4f, 0x60]),
        ) {
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            if let Some(first) = bytes.get_mut(14) {
                *first = version;
            }
            let mut head = Head::default();
            head.fill(&bytes, VirtioNetHeader::default());
            if let Ok(parsed) = head.parse() {
                prop_assert_eq!(Guards::OFF.check(&head, &parsed), PASSED);
                let (dhcp, ra) = (DHCP.check(&head, &parsed), RA.check(&head, &parsed));
                prop_assert_eq!(BOTH.check(&head, &parsed), ra.and(dhcp), "each does its part");
            }
        }
    }
}
