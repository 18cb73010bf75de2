//! Neighbour discovery for IPv6 (RFC 4861): unsolicited advertisements (section 7.2.6), and what a station says of itself.

use std::net::Ipv6Addr;

use super::ethernet::{self, ETHERTYPE_IPV6, MacAddr};
use super::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};

/// The group of all nodes on a link, ff02::1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The hardware address of [`ALL_NODES`] (RFC 2464, section 7).
pub const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The station is a router.
const ROUTER: u8 = 0x80;
/// The address that is told replaces one that is known.
const OVERRIDE: u8 = 0x20;
/// Type and length, in units of 8 bytes, of the target's link-layer address.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
const LEN: u16 = 32;

/// What a station says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// An address of its own.
    pub ip: Ipv6Addr,
    /// Whether it is a router, where it says so.
    pub router: Option<bool>,
}

impl Claim {
    /// Reads a packet, of which 64 bytes are enough. Addresses that are only probed for are not claimed.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 6
            || *packet.get(6)? != NEXT_HEADER_ICMPV6
            || *packet.get(7)? != 255
        {
            return None;
        }
        let address = |at: usize| {
            let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            let ip = Ipv6Addr::from(octets);
            (!ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()).then_some(ip)
        };
        let (ip, router) = match *packet.get(40)? {
            ROUTER_ADVERTISEMENT => (address(8)?, Some(true)),
            SOLICITATION => (address(8)?, None),
            ADVERTISEMENT => (address(48)?, Some(packet.get(44)? & ROUTER != 0)),
            _ => return None,
        };
        Some(Self { ip, router })
    }
}

/// Builds the frame that tells all nodes of a link that `ip` is at `mac` now.
///
/// Nodes stop to use a router that says of itself that it is none, so `router` must be true of one.
pub fn unsolicited(mac: MacAddr, ip: Ipv6Addr, router: bool) -> Vec<u8> {
    let mut message = [0; LEN as usize];
    message[0] = ADVERTISEMENT;
    message[4] = if router { OVERRIDE | ROUTER } else { OVERRIDE };
    message[8..24].copy_from_slice(&ip.octets());
    message[24..26].copy_from_slice(&TARGET_LINK_LAYER_ADDRESS);
    message[26..].copy_from_slice(&mac.0);
    let sum = ipv6::pseudo_header(ip, ALL_NODES, NEXT_HEADER_ICMPV6, LEN)
        .over(&message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = Ipv6 {
        src: ip,
        dst: ALL_NODES,
        next_header: NEXT_HEADER_ICMPV6,
        hop_limit: 255,
        payload: &message,
    };
    // Always there: 32 bytes fit into a packet.
    let packet = packet.emit().unwrap_or_default();
    ethernet::emit(ALL_NODES_MAC, mac, ETHERTYPE_IPV6, &packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_advertisement_is_written_byte_for_byte_as_the_rfc_says() {
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, // Ethernet
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, // from
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // to
            136, 0, 0xf9, 0x16, 0x20, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, // target
            2, 1, 2, 0, 0, 0, 0, 9, // its link-layer address
        ];
        let frame = unsolicited(
            MacAddr([2, 0, 0, 0, 0, 9]),
            "2001:db8::7".parse().unwrap(),
            false,
        );
        assert_eq!(frame, expected);
    }

    #[test]
    fn the_checksum_is_right_for_other_addresses_too() {
        for number in 0..300u128 {
            let ip = Ipv6Addr::from_bits((0xfe80 << 112) | (number * 0x0123_4567_89ab_cdef));
            let frame = unsolicited(MacAddr([2; 6]), ip, number % 2 == 0);
            let packet = Ipv6::parse(&frame[14..]).unwrap();
            assert_eq!(
                (packet.src, packet.dst, packet.hop_limit),
                (ip, ALL_NODES, 255)
            );
            let sum = ipv6::pseudo_header(ip, ALL_NODES, 58, 32).over(packet.payload);
            assert_eq!(sum.finish(), 0);
        }
    }

    #[test]
    fn what_a_station_says_of_itself_is_read() {
        let ip: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let read = |frame: &[u8]| Claim::parse(frame.get(14..).unwrap_or_default());
        for router in [false, true] {
            let frame = unsolicited(MacAddr([2; 6]), ip, router);
            let claim = Claim {
                ip,
                router: Some(router),
            };
            assert_eq!(read(&frame), Some(claim));
            assert_eq!(read(&frame[..14 + 64]), Some(claim), "a head is enough");
            assert_eq!(read(&frame[..14 + 63]), None);
        }
        let mut asked = unsolicited(MacAddr([2; 6]), ip, false);
        asked[14 + 40] = SOLICITATION;
        assert_eq!(read(&asked), Some(Claim { ip, router: None }));
        asked[14 + 8..14 + 24].fill(0);
        assert_eq!(
            read(&asked),
            None,
            "an address that is probed for is not claimed yet"
        );
        let mut far = unsolicited(MacAddr([2; 6]), ip, false);
        far[14 + 7] = 64;
        assert_eq!(read(&far), None, "it was sent from another link");
    }

    proptest! {
        #[test]
        fn any_packet_claims_something_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = Claim::parse(&bytes);
        }
    }
}
