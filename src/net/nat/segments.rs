//! TCP segments in frames from a gateway to its guests (RFC 9293, section 3.1), large ones as super-frames.

use std::net::IpAddr;

use super::frames::{self, HOP_LIMIT, Stations};
use crate::net::frame::Head;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::PROTOCOL_TCP;
use crate::wire::ipv6;
use crate::wire::tcp::{CHECKSUM_AT, MAX_HEADER_LEN, Tcp};
use crate::wire::virtio_net::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VirtioNetHeader};

/// The sum over the pseudo-header of a segment of `len` bytes.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, len: u16) -> Sum {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::default().add_pseudo_header(src, dst, PROTOCOL_TCP, len)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::pseudo_header(src, dst, PROTOCOL_TCP, len),
        // Such a packet is never built.
        _ => Sum::default(),
    }
}

/// Fills a head with all headers of a segment whose payload, of `payload` bytes, is all in the body. What is larger than
/// `mss` leaves as a super-frame; the checksum is left to be completed. `None` where it fits into no packet.
pub fn fill(
    head: &mut Head,
    stations: Stations,
    (src, dst): (IpAddr, IpAddr),
    tcp: &Tcp,
    payload: usize,
    mss: u16,
) -> Option<()> {
    let mut header = [0; MAX_HEADER_LEN];
    let header_len = tcp.emit(&mut header);
    let len = u16::try_from(header_len + payload).ok()?;
    let buffer = head.buffer();
    let (ips, whole) = ((src, dst), usize::from(len));
    let at = frames::headers(buffer, stations, ips, PROTOCOL_TCP, HOP_LIMIT, whole, None)?;
    let sum = pseudo_header(src, dst, len).fold();
    header[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
    let end = at + header_len;
    buffer
        .get_mut(at..end)?
        .copy_from_slice(&header[..header_len]);
    head.set_len(end);
    head.frame_len = u32::try_from(end + payload).ok()?;
    let mut offload = VirtioNetHeader {
        flags: NEEDS_CSUM,
        csum_start: u16::try_from(at).ok()?,
        csum_offset: u16::try_from(CHECKSUM_AT).ok()?,
        ..VirtioNetHeader::default()
    };
    if payload > usize::from(mss) {
        offload.gso_type = if src.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 };
        offload.hdr_len = u16::try_from(end).ok()?;
        offload.gso_size = mss;
    }
    head.offload = offload;
    Some(())
}

/// Builds a frame with a segment that carries nothing, its checksum complete.
pub fn emit(stations: Stations, (src, dst): (IpAddr, IpAddr), tcp: &Tcp) -> Option<Vec<u8>> {
    let mut header = [0; MAX_HEADER_LEN];
    let header_len = tcp.emit(&mut header);
    let header = &mut header[..header_len];
    let sum = pseudo_header(src, dst, u16::try_from(header_len).ok()?);
    let sum = sum.over(header).finish();
    header[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
    frames::emit(stations, src, dst, PROTOCOL_TCP, HOP_LIMIT, header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::offload;
    use crate::wire::ethernet::{Ethernet, MacAddr};
    use crate::wire::ipv4::Ipv4;
    use crate::wire::tcp::Flags;

    const STATIONS: Stations = Stations {
        gateway: MacAddr([2; 6]),
        guest: MacAddr([4; 6]),
    };

    fn ips(v6: bool) -> (IpAddr, IpAddr) {
        match v6 {
            false => ([192, 0, 2, 1].into(), [10, 0, 0, 2].into()),
            true => ("2001:db8::1".parse().unwrap(), "fd00::2".parse().unwrap()),
        }
    }

    fn tcp() -> Tcp {
        Tcp {
            src: 80,
            dst: 4000,
            seq: 7,
            ack: 9,
            flags: Flags::ACK,
            window: 100,
            ..Tcp::default()
        }
    }

    #[test]
    fn what_is_larger_than_a_segment_is_a_super_frame_that_passes_the_switch() {
        for (v6, payload, mss, kind) in [
            (false, 64_240, 1460, GSO_TCPV4),
            (true, 64_240, 1440, GSO_TCPV6),
            (false, 1460, 1460, 0),
        ] {
            let mut head = Head::default();
            fill(&mut head, STATIONS, ips(v6), &tcp(), payload, mss).unwrap();
            assert_eq!(head.offload.gso_type, kind);
            let before = head.offload;
            assert_eq!(offload::check(&mut head, 1500), Ok(()));
            assert_eq!(head.offload, before);
            assert_eq!(head.frame_len as usize, head.bytes().len() + payload);
        }
        let mut head = Head::default();
        assert!(fill(&mut head, STATIONS, ips(false), &tcp(), 65_520, 1460).is_none());
    }

    #[test]
    fn a_segment_that_carries_nothing_is_whole() {
        let (src, dst) = ips(false);
        let frame = emit(STATIONS, (src, dst), &tcp()).unwrap();
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!(
            (ethernet.src, ethernet.dst),
            (STATIONS.gateway, STATIONS.guest)
        );
        let ip = Ipv4::parse(ethernet.payload).unwrap();
        assert_eq!(Tcp::parse(ip.payload), Some((tcp(), 20)));
        assert_eq!(pseudo_header(src, dst, 20).over(ip.payload).finish(), 0);
    }
}
