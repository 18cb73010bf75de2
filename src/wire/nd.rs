//! Neighbour advertisements of IPv6 (RFC 4861, section 4.4), unsolicited (section 7.2.6): written, and not read.

use std::net::Ipv6Addr;

use super::ethernet::{self, ETHERTYPE_IPV6, MacAddr};
use super::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};

/// The group of all nodes on a link, ff02::1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The hardware address of [`ALL_NODES`] (RFC 2464, section 7).
pub const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

const ADVERTISEMENT: u8 = 136;
/// The address that is told replaces one that is known.
const OVERRIDE: u8 = 0x20;
/// Type and length, in units of 8 bytes, of the target's link-layer address.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
const LEN: u16 = 32;

/// Builds the frame that tells all nodes of a link that `ip` is at `mac` now.
///
/// It says that `ip` is not a router's: nodes stop to use a router that says so of itself.
pub fn unsolicited(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    let mut message = [0; LEN as usize];
    message[0] = ADVERTISEMENT;
    message[4] = OVERRIDE;
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
        let frame = unsolicited(MacAddr([2, 0, 0, 0, 0, 9]), "2001:db8::7".parse().unwrap());
        assert_eq!(frame, expected);
    }

    #[test]
    fn the_checksum_is_right_for_other_addresses_too() {
        for number in 0..300u128 {
            let ip = Ipv6Addr::from_bits((0xfe80 << 112) | (number * 0x0123_4567_89ab_cdef));
            let frame = unsolicited(MacAddr([2; 6]), ip);
            let packet = Ipv6::parse(&frame[14..]).unwrap();
            assert_eq!(
                (packet.src, packet.dst, packet.hop_limit),
                (ip, ALL_NODES, 255)
            );
            let sum = ipv6::pseudo_header(ip, ALL_NODES, 58, 32).over(packet.payload);
            assert_eq!(sum.finish(), 0);
        }
    }
}
