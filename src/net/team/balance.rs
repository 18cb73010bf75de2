//! Which of several uplinks a frame takes: numbers made from its fields, which the team divides by how many there are.

use super::Hash;
use crate::net::frame::{Head, Parsed};
use crate::net::vlan::Tag;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use crate::wire::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::{be16, be32};

/// ESXi's "route based on source MAC hash": the last byte of the address.
#[inline]
pub(super) fn source_mac(mac: MacAddr) -> u32 {
    u32::from(mac.0[5])
}

/// ESXi's "route based on IP hash": source and destination address, the one XORed with the other.
///
/// IPv6 addresses are folded to 32 bits first. Of what is neither, the two words are taken that stand where the
/// addresses of IPv4 would; what is too short for that counts as zeros.
#[inline]
pub(super) fn ip_hash(head: &Head, parsed: &Parsed) -> u32 {
    let (bytes, at) = (head.bytes(), parsed.payload_at());
    if parsed.ethertype == ETHERTYPE_IPV6 {
        return fold(bytes, at + 8, 8);
    }
    fold(bytes, at + 12, 2)
}

/// What a LACP team spreads by; all frames of one conversation (IEEE 802.1AX, section 6.2.5) give the same number.
#[inline]
pub(super) fn lacp(hash: Hash, head: &Head, parsed: &Parsed) -> u32 {
    let bytes = head.bytes();
    let vlan = match parsed.tag {
        Tag::Untagged => 0,
        Tag::Tagged(tci) => u32::from(tci.vid()),
    };
    let mut number = fold(bytes, 0, 3) ^ vlan;
    if hash != Hash::Layer2 && matches!(parsed.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        number ^= ip_hash(head, parsed);
        if hash == Hash::Layer34 {
            number ^= transport(bytes, parsed).unwrap_or(0);
        }
    }
    // The fields of neighbouring stations differ in few bits; these spread over all.
    number.wrapping_mul(0x9e37_79b1) >> 16
}

/// XORs `words` words from `at` on.
fn fold(bytes: &[u8], at: usize, words: usize) -> u32 {
    (0..words)
        .map(|word| be32(bytes, at + 4 * word).unwrap_or(0))
        .fold(0, |sum, word| sum ^ word)
}

/// The two ports of TCP or UDP as one number, where the packet is whole and has no options before them. Fragments
/// of a packet must not part from its first.
fn transport(bytes: &[u8], parsed: &Parsed) -> Option<u32> {
    let at = parsed.payload_at();
    let (protocol, ports) = if parsed.ethertype == ETHERTYPE_IPV4 {
        if be16(bytes, at + 6)? & 0x3fff != 0 {
            return None;
        }
        let len = usize::from(bytes.get(at)? & 0x0f) * 4;
        (*bytes.get(at + 9)?, at + len.max(20))
    } else {
        (*bytes.get(at + 6)?, at + 40)
    };
    if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
        return None;
    }
    be32(bytes, ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet::{ETHERTYPE_ARP, Tci, emit, insert_tag};
    use crate::wire::virtio_net::VirtioNetHeader;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn read(frame: &[u8]) -> (Head, Parsed) {
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        let parsed = head.parse().unwrap();
        (head, parsed)
    }

    fn ipv4(src: u32, dst: u32, protocol: u8, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&src.to_be_bytes());
        packet[16..20].copy_from_slice(&dst.to_be_bytes());
        packet[20..22].copy_from_slice(&ports[0].to_be_bytes());
        packet[22..24].copy_from_slice(&ports[1].to_be_bytes());
        emit(B, A, ETHERTYPE_IPV4, &packet)
    }

    fn number(hash: Hash, frame: &[u8]) -> u32 {
        let (head, parsed) = read(frame);
        lacp(hash, &head, &parsed)
    }

    #[test]
    fn ip_hash_chooses_as_esxi_does() {
        for (dst, chosen) in [
            (0xc0a8_6478, 1),
            (0xc0a8_6482, 3),
            (0xc0a8_648c, 1),
            (0xc0a8_6496, 3),
        ] {
            let mut frame = ipv4(0xc0a8_6465, dst, PROTOCOL_TCP, 0, [1, 2]);
            let (head, parsed) = read(&frame);
            assert_eq!(ip_hash(&head, &parsed) % 4, chosen, "{dst:x}");
            insert_tag(&mut frame, Tci(10));
            let (head, parsed) = read(&frame);
            assert_eq!(ip_hash(&head, &parsed) % 4, chosen, "{dst:x} with a tag");
        }
    }

    #[test]
    fn ipv6_addresses_are_folded_and_what_is_too_short_counts_as_zeros() {
        let mut packet = vec![0; 40];
        packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
        packet[36..40].copy_from_slice(&[1, 2, 3, 5]);
        let (head, parsed) = read(&emit(B, A, ETHERTYPE_IPV6, &packet));
        assert_eq!(ip_hash(&head, &parsed), 1);
        let mut head = Head::default();
        head.fill(
            &emit(B, A, ETHERTYPE_ARP, &[])[..14],
            VirtioNetHeader::default(),
        );
        let parsed = head.parse().unwrap();
        assert_eq!(ip_hash(&head, &parsed), 0);
    }

    #[test]
    fn a_lacp_team_spreads_by_what_its_hash_names() {
        let one = ipv4(1, 2, PROTOCOL_UDP, 0, [5, 6]);
        let other_port = ipv4(1, 2, PROTOCOL_UDP, 0, [5, 7]);
        let other_ip = ipv4(1, 3, PROTOCOL_UDP, 0, [5, 6]);
        assert_eq!(
            number(Hash::Layer2, &one),
            number(Hash::Layer2, &other_port)
        );
        assert_eq!(number(Hash::Layer2, &one), number(Hash::Layer2, &other_ip));
        assert_eq!(
            number(Hash::Layer23, &one),
            number(Hash::Layer23, &other_port)
        );
        assert_ne!(
            number(Hash::Layer23, &one),
            number(Hash::Layer23, &other_ip)
        );
        assert_ne!(
            number(Hash::Layer34, &one),
            number(Hash::Layer34, &other_port)
        );
    }

    #[test]
    fn fragments_of_a_packet_stay_together() {
        let first = ipv4(1, 2, PROTOCOL_UDP, 0x2000, [5, 6]);
        let rest = ipv4(1, 2, PROTOCOL_UDP, 0x0010, [0x7777, 0x8888]);
        assert_eq!(number(Hash::Layer34, &first), number(Hash::Layer34, &rest));
    }

    #[test]
    fn many_flows_use_all_uplinks_evenly() {
        for uplinks in [2_u32, 3, 4] {
            let mut counts = vec![0; uplinks as usize];
            for port in 0..3000 {
                let frame = ipv4(1, 2, PROTOCOL_TCP, 0, [40_000 + port, 80]);
                counts[(number(Hash::Layer34, &frame) % uplinks) as usize] += 1;
            }
            let fair = 3000 / uplinks;
            assert!(
                counts
                    .iter()
                    .all(|count| (fair * 9 / 10..fair * 11 / 10).contains(count)),
                "{counts:?}"
            );
        }
    }
}
