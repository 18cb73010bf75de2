//! UDP over IPv4 (RFC 768).

use std::net::Ipv4Addr;

use super::be16;
use super::checksum::Sum;
use super::ipv4::{Ipv4, PROTOCOL_UDP};

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
        let datagram = ip.payload;
        let len = be16(datagram, 4)?;
        if ip.protocol != PROTOCOL_UDP || ip.fragment || len < 8 {
            return None;
        }
        let bytes = datagram.get(..usize::from(len))?;
        let unchecked = partial || be16(bytes, 6)? == 0;
        if !unchecked
            && Sum::default()
                .add_pseudo_header(ip.src, ip.dst, PROTOCOL_UDP, len)
                .over(bytes)
                .finish()
                != 0
        {
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
    let len = u16::try_from(payload.len() + 8).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(len));
    datagram.extend_from_slice(&src.1.to_be_bytes());
    datagram.extend_from_slice(&dst.1.to_be_bytes());
    datagram.extend_from_slice(&len.to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    let sum = match Sum::default()
        .add_pseudo_header(src.0, dst.0, PROTOCOL_UDP, len)
        .over(&datagram)
        .finish()
    {
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
}
