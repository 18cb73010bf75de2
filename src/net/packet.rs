//! An IP packet at the head of a frame: what a gateway decides on (RFC 791, RFC 8200).
//!
//! Read from the head alone, where all headers up to the transport's must be. IPv4 options and IPv6 extension headers
//! are passed over. What lies about its length, has a wrong header checksum, or more extension headers than anybody
//! needs is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::drops::DropReason;
use crate::net::frame::{Head, Parsed};
use crate::wire::be16;
use crate::wire::checksum::checksum;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use crate::wire::virtio_net::GSO_NONE;
use crate::wire::{be32, ipv6};

/// How many extension headers a packet has at most.
const EXTENSIONS: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Where a part of a packet belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// What all parts of the packet share.
    pub id: u32,
    /// Where the part begins in the payload.
    pub offset: u16,
    /// Whether other parts follow.
    pub more: bool,
}

/// An IP packet in a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// The hardware address of whoever sent the frame.
    pub mac: MacAddr,
    /// The source address.
    pub src: IpAddr,
    /// The destination address.
    pub dst: IpAddr,
    /// The protocol of the payload.
    pub protocol: u8,
    /// How many routers may still pass it on, counting this one.
    pub hop_limit: u8,
    /// Which part of a packet it is, where it is not a whole one.
    pub fragment: Option<Fragment>,
    /// Whether it must not be cut into parts; always so with IPv6.
    pub dont_fragment: bool,
    /// Where the IP header begins in the frame.
    pub ip_at: usize,
    /// Where the payload begins in the frame; it is in the head.
    pub transport_at: usize,
    /// Where the packet ends in the frame; padding may follow.
    pub end: usize,
}

impl Packet {
    /// Reads the packet of a frame.
    ///
    /// # Errors
    ///
    /// The frame holds no IP packet, or one that makes no sense.
    pub fn read(head: &Head, parsed: &Parsed) -> Result<Self, DropReason> {
        let ip_at = parsed.payload_at();
        let bytes = head.bytes();
        let ip = bytes.get(ip_at..).ok_or(DropReason::BadPacket)?;
        let len = head.frame_len as usize;
        let packet = match parsed.ethertype {
            ETHERTYPE_IPV4 => Self::read_v4(ip, ip_at, len),
            ETHERTYPE_IPV6 => Self::read_v6(ip, ip_at, len),
            _ => None,
        };
        let mut packet = packet.ok_or(DropReason::BadPacket)?;
        if head.offload.gso_type != GSO_NONE {
            // What it is cut into is checked on its own; the length of the whole may not fit the field.
            packet.end = len;
        }
        packet.mac = parsed.src;
        // The transport header begins in the head, or nothing could be decided.
        if packet.transport_at > packet.end || packet.transport_at > bytes.len() {
            return Err(DropReason::BadPacket);
        }
        Ok(packet)
    }

    fn read_v4(ip: &[u8], ip_at: usize, len: usize) -> Option<Self> {
        let first = *ip.first()?;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(be16(ip, 2)?);
        let header = ip.get(..header_len)?;
        if first >> 4 != 4 || header_len < 20 || total_len < header_len || checksum(header) != 0 {
            return None;
        }
        let end = ip_at + total_len;
        if end > len {
            return None;
        }
        let bits = be16(header, 6)?;
        let offset = (bits & 0x1fff) << 3;
        let more = bits & 0x2000 != 0;
        let fragment = (more || offset != 0).then_some(Fragment {
            id: u32::from(be16(header, 4)?),
            offset,
            more,
        });
        Some(Self {
            mac: MacAddr::ZERO,
            src: Ipv4Addr::from(be32(header, 12)?).into(),
            dst: Ipv4Addr::from(be32(header, 16)?).into(),
            protocol: header[9],
            hop_limit: header[8],
            fragment,
            dont_fragment: bits & 0x4000 != 0,
            ip_at,
            transport_at: ip_at + header_len,
            end,
        })
    }

    fn read_v6(ip: &[u8], ip_at: usize, len: usize) -> Option<Self> {
        let header = ip.get(..ipv6::HEADER_LEN)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| {
            let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(octets)))
        };
        let end = ip_at + ipv6::HEADER_LEN + usize::from(be16(header, 4)?);
        if end > len {
            return None;
        }
        let mut packet = Self {
            mac: MacAddr::ZERO,
            src: address(8)?,
            dst: address(24)?,
            protocol: header[6],
            hop_limit: header[7],
            fragment: None,
            dont_fragment: true,
            ip_at,
            transport_at: ip_at + ipv6::HEADER_LEN,
            end,
        };
        for _ in 0..EXTENSIONS {
            let extension = ip.get(packet.transport_at - ip_at..)?;
            let len = match packet.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => usize::from(*extension.get(1)?) * 8 + 8,
                FRAGMENT => {
                    let bits = be16(extension, 2)?;
                    packet.fragment = Some(Fragment {
                        id: be32(extension, 4)?,
                        offset: bits & 0xfff8,
                        more: bits & 1 != 0,
                    });
                    packet.protocol = *extension.first()?;
                    packet.transport_at += 8;
                    // What a part begins with is known of the first only, and the parts are put together before.
                    return Some(packet);
                }
                _ => return Some(packet),
            };
            packet.protocol = *extension.first()?;
            packet.transport_at += len;
        }
        None
    }

    /// How long the payload is.
    pub const fn payload_len(&self) -> usize {
        self.end - self.transport_at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ethernet;
    use crate::wire::ipv4::{self, PROTOCOL_UDP};
    use crate::wire::ipv6::Ipv6;
    use crate::wire::virtio_net::VirtioNetHeader;

    const A: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 128);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

    fn read(ethertype: u16, packet: &[u8]) -> Result<Packet, DropReason> {
        let frame = ethernet::emit(MacAddr([2; 6]), MacAddr([4; 6]), ethertype, packet);
        let mut head = Head::default();
        head.fill(&frame, VirtioNetHeader::default());
        let parsed = head.parse()?;
        Packet::read(&head, &parsed)
    }

    fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let packet = Ipv6 {
            src: "fd00::1".parse().unwrap(),
            dst: "2001:db8::1".parse().unwrap(),
            next_header,
            hop_limit: 63,
            payload,
        };
        packet.emit().unwrap()
    }

    #[test]
    fn a_packet_is_read_without_its_padding() {
        let bytes = ipv4::emit(A, B, PROTOCOL_UDP, &[7; 9]).unwrap();
        let packet = read(ETHERTYPE_IPV4, &bytes).unwrap();
        assert_eq!((packet.src, packet.dst), (A.into(), B.into()));
        assert_eq!(
            (packet.ip_at, packet.transport_at, packet.end),
            (14, 34, 43)
        );
        assert_eq!((packet.mac, packet.hop_limit), (MacAddr([4; 6]), 64));
        assert!(packet.dont_fragment && packet.fragment.is_none());
    }

    #[test]
    fn a_wrong_header_checksum_or_length_is_refused() {
        let bytes = ipv4::emit(A, B, PROTOCOL_UDP, &[7; 60]).unwrap();
        let mut wrong = bytes.clone();
        wrong[8] ^= 1;
        assert_eq!(read(ETHERTYPE_IPV4, &wrong), Err(DropReason::BadPacket));
        assert_eq!(
            read(ETHERTYPE_IPV4, &bytes[..79]),
            Err(DropReason::BadPacket)
        );
        let bytes = v6(PROTOCOL_UDP, &[7; 60]);
        assert!(read(ETHERTYPE_IPV6, &bytes).is_ok());
        assert_eq!(
            read(ETHERTYPE_IPV6, &bytes[..99]),
            Err(DropReason::BadPacket)
        );
    }

    #[test]
    fn options_and_extension_headers_are_passed_over() {
        let mut bytes = ipv4::emit(A, B, PROTOCOL_UDP, &[1, 1, 1, 0, 9, 9]).unwrap();
        bytes[0] = 0x46;
        bytes[10..12].fill(0);
        let sum = checksum(&bytes[..24]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let packet = read(ETHERTYPE_IPV4, &bytes).unwrap();
        assert_eq!((packet.transport_at, packet.payload_len()), (38, 2));

        let extended = [
            [DESTINATION, 0, 1, 4, 0, 0, 0, 0],
            [PROTOCOL_UDP, 0, 1, 4, 0, 0, 0, 0],
            [9; 8],
        ];
        let packet = read(ETHERTYPE_IPV6, &v6(HOP_BY_HOP, &extended.concat())).unwrap();
        assert_eq!(packet.protocol, PROTOCOL_UDP);
        assert_eq!((packet.transport_at, packet.payload_len()), (70, 8));
    }

    #[test]
    fn extension_headers_without_end_are_refused() {
        let endless = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(9);
        assert_eq!(
            read(ETHERTYPE_IPV6, &v6(DESTINATION, &endless)),
            Err(DropReason::BadPacket)
        );
    }

    #[test]
    fn a_part_says_where_it_belongs() {
        let mut bytes = ipv4::emit(A, B, PROTOCOL_UDP, &[7; 16]).unwrap();
        bytes[4..8].copy_from_slice(&[0x12, 0x34, 0x20, 0x02]);
        bytes[10..12].fill(0);
        let sum = checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let fragment = Fragment {
            id: 0x1234,
            offset: 16,
            more: true,
        };
        let packet = read(ETHERTYPE_IPV4, &bytes).unwrap();
        assert_eq!(packet.fragment, Some(fragment));
        assert!(!packet.dont_fragment);

        let part = [PROTOCOL_UDP, 0, 0, 17, 0, 0, 0x12, 0x34, 1, 2, 3, 4];
        let packet = read(ETHERTYPE_IPV6, &v6(FRAGMENT, &part)).unwrap();
        assert_eq!(packet.fragment, Some(fragment));
        assert_eq!((packet.protocol, packet.payload_len()), (PROTOCOL_UDP, 4));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            ethertype in prop_oneof![Just(ETHERTYPE_IPV4), Just(ETHERTYPE_IPV6)],
            bytes in proptest::collection::vec(any::<u8>(), 0..160),
        ) {
            if let Ok(packet) = read(ethertype, &bytes) {
                prop_assert!(packet.transport_at <= packet.end);
            }
        }
    }
}
