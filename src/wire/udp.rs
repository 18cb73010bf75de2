//! UDP over IPv4 (RFC 768) and IPv6 (RFC 8200, section 8.1).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::be16;
use super::checksum::Sum;
use super::ipv4::{Ipv4, PROTOCOL_UDP};
use super::ipv6::{Ipv6, pseudo_header};

/// A UDP datagram, read but not copied.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    /// The source port.
    pub src: u16,
    /// The destination port.
    pub dst: u16,
    /// The payload, cut to the length that the header gives.
    pub payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Reads the datagram in an unfragmented packet. A checksum, where present, is verified unless
    /// `partial` says that the sender left it to be completed.
    pub fn parse(ip: &Ipv4<'a>, partial: bool) -> Option<Self> {
        if ip.protocol != PROTOCOL_UDP || ip.fragment {
            return None;
        }
        let unchecked = partial || be16(ip.payload, 6)? == 0;
        Self::read(ip.payload, unchecked, |len| {
            Sum::default().add_pseudo_header(ip.src, ip.dst, PROTOCOL_UDP, len)
        })
    }

    /// Reads the datagram in a packet without extension headers. The checksum is verified unless `partial` says that
    /// the sender left it to be completed.
    pub fn parse_v6(ip: &Ipv6<'a>, partial: bool) -> Option<Self> {
        if ip.next_header != PROTOCOL_UDP || be16(ip.payload, 6)? == 0 {
            return None;
        }
        Self::read(ip.payload, partial, |len| {
            pseudo_header(ip.src, ip.dst, PROTOCOL_UDP, len)
        })
    }

    fn read(datagram: &'a [u8], unchecked: bool, sum: impl Fn(u16) -> Sum) -> Option<Self> {
        let len = be16(datagram, 4)?;
        let bytes = datagram.get(..usize::from(len))?;
        if len < 8 || !unchecked && sum(len).over(bytes).finish() != 0 {
            return None;
        }
        Some(Self {
            src: be16(bytes, 0)?,
            dst: be16(bytes, 2)?,
            payload: bytes.get(8..)?,
        })
    }
}

/// Builds a datagram with its full checksum; `None` where the payload is too long for one.
pub fn emit(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Option<Vec<u8>> {
    write(src.1, dst.1, payload, |len| {
        Sum::default().add_pseudo_header(src.0, dst.0, PROTOCOL_UDP, len)
    })
}

/// Builds a datagram over IPv6 with its full checksum; `None` where the payload is too long for one.
pub fn emit_v6(src: (Ipv6Addr, u16), dst: (Ipv6Addr, u16), payload: &[u8]) -> Option<Vec<u8>> {
    write(src.1, dst.1, payload, |len| {
        pseudo_header(src.0, dst.0, PROTOCOL_UDP, len)
    })
}

fn write(src: u16, dst: u16, payload: &[u8], sum: impl Fn(u16) -> Sum) -> Option<Vec<u8>> {
    let len = u16::try_from(payload.len() + 8).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(len));
    datagram.extend_from_slice(&src.to_be_bytes());
    datagram.extend_from_slice(&dst.to_be_bytes());
    datagram.extend_from_slice(&len.to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    let sum = match sum(len).over(&datagram).finish() {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(datagram)
}

#[cfg(test)]
mod tests {
    use super::super::ipv4;
    use super::*;

    #[test]
    fn a_datagram_reads_back_and_a_changed_one_does_not() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut packet =
            ipv4::emit(a, b, PROTOCOL_UDP, &emit((a, 68), (b, 67), b"odd").unwrap()).unwrap();
        let udp = Udp::parse(&Ipv4::parse(&packet).unwrap(), false).unwrap();
        assert_eq!((udp.src, udp.dst, udp.payload), (68, 67, &b"odd"[..]));
        packet[30] ^= 1;
        let ip = Ipv4::parse(&packet).unwrap();
        assert!(Udp::parse(&ip, false).is_none());
        assert!(
            Udp::parse(&ip, true).is_some(),
            "a partial checksum is not verified"
        );
    }

    #[test]
    fn over_ipv6_a_datagram_reads_back_and_must_have_its_checksum() {
        let (a, b) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
        let mut datagram = emit_v6((a, 1024), (b, 53), b"odd").unwrap();
        let read = |datagram: &[u8], partial| {
            let ip = Ipv6 {
                src: a,
                dst: b,
                next_header: PROTOCOL_UDP,
                hop_limit: 64,
                payload: datagram,
            };
            Udp::parse_v6(&ip, partial).map(|udp| (udp.src, udp.dst, udp.payload.to_vec()))
        };
        assert_eq!(read(&datagram, false), Some((1024, 53, b"odd".to_vec())));
        datagram[8] ^= 1;
        assert_eq!(read(&datagram, false), None);
        assert!(read(&datagram, true).is_some());
        datagram[6..8].fill(0);
        assert_eq!(read(&datagram, true), None, "no checksum at all");
    }
}
