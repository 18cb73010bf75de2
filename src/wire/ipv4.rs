//! IPv4 headers (RFC 791).

use std::net::Ipv4Addr;

use super::be16;
use super::checksum::checksum;

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// An IPv4 packet, read but not copied.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// The source address.
    pub src: Ipv4Addr,
    /// The destination address.
    pub dst: Ipv4Addr,
    /// The protocol of the payload.
    pub protocol: u8,
    /// Whether this is a part of a larger packet.
    pub fragment: bool,
    /// The payload, cut to the length that the header gives.
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads a packet whose header checksum is right and whose bytes are all there.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(be16(packet, 2)?);
        if first >> 4 != 4 || header_len < 20 || total_len < header_len {
            return None;
        }
        let header = packet.get(..header_len)?;
        if checksum(header) != 0 {
            return None;
        }
        let ip =
            |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Some(Self {
            src: ip(12),
            dst: ip(16),
            protocol: header[9],
            fragment: be16(header, 6)? & 0x3fff != 0,
            payload: packet.get(header_len..total_len)?,
        })
    }
}

/// Builds a packet with a 20-byte header, time to live 64 and "don't fragment".
///
/// Payloads that do not fit into an IPv4 packet yield `None`.
pub fn emit(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(payload.len() + 20).ok()?;
    let mut packet = Vec::with_capacity(usize::from(len));
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_reads_back_as_it_was_written() {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut packet = emit(src, dst, PROTOCOL_UDP, b"hello").unwrap();
        packet.extend_from_slice(&[0; 20]);
        let read = Ipv4::parse(&packet).unwrap();
        assert_eq!(
            (read.src, read.dst, read.protocol, read.payload),
            (src, dst, PROTOCOL_UDP, &b"hello"[..])
        );
        packet[8] ^= 1;
        assert!(
            Ipv4::parse(&packet).is_none(),
            "a wrong header checksum is noticed"
        );
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let packet = emit(
            Ipv4Addr::LOCALHOST,
            Ipv4Addr::LOCALHOST,
            PROTOCOL_UDP,
            &[1; 8],
        )
        .unwrap();
        for len in 0..packet.len() {
            assert!(Ipv4::parse(&packet[..len]).is_none());
        }
    }
}
