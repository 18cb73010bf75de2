//! Frames from a gateway to its guests: IP packets with headers of the gateway's own, cut into parts where they are
//! larger than the network takes (RFC 791, section 3.2; RFC 8200, section 4.5).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::net::frame::Head;
use crate::wire::arp::{self, Arp};
use crate::wire::checksum::{Sum, checksum};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use crate::wire::ipv4::PROTOCOL_UDP;
use crate::wire::ipv6::{self, NEXT_HEADER_ICMPV6};
use crate::wire::virtio_net::{NEEDS_CSUM, VirtioNetHeader};

/// How many routers may pass on what a gateway sends.
pub const HOP_LIMIT: u8 = 64;
/// Length of a UDP header.
pub const UDP_HEADER: usize = 8;
const V4_HEADER: usize = 20;
const V6_FRAGMENT: u8 = 44;
const V6_FRAGMENT_HEADER: usize = 8;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;

/// Between which stations a frame goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stations {
    /// The gateway's hardware address.
    pub gateway: MacAddr,
    /// The guest's.
    pub guest: MacAddr,
}

/// Returns the length of an IP header of the family of an address.
pub const fn ip_header_len(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(_) => V4_HEADER,
        IpAddr::V6(_) => ipv6::HEADER_LEN,
    }
}

/// Writes Ethernet and IP headers to the start of `out`, and returns their length; `None` where the addresses are not
/// of one family, or the payload fits into no packet.
pub(super) fn headers(
    out: &mut [u8],
    stations: Stations,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    hop_limit: u8,
    payload: usize,
    part: Option<(u16, u16)>,
) -> Option<usize> {
    const AT: usize = ethernet::HEADER_LEN;
    out[..6].copy_from_slice(&stations.guest.0);
    out[6..12].copy_from_slice(&stations.gateway.0);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(payload + V4_HEADER).ok()?;
            let (id, bits) = part.unwrap_or((0, DONT_FRAGMENT));
            out[12..AT].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
            let ip = &mut out[AT..AT + V4_HEADER];
            ip[..2].copy_from_slice(&[0x45, 0]);
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[6..8].copy_from_slice(&bits.to_be_bytes());
            ip[8..12].copy_from_slice(&[hop_limit, protocol, 0, 0]);
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..].copy_from_slice(&dst.octets());
            let sum = checksum(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            Some(AT + V4_HEADER)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(payload).ok()?;
            out[12..AT].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
            let ip = &mut out[AT..AT + ipv6::HEADER_LEN];
            ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            ip[4..6].copy_from_slice(&len.to_be_bytes());
            ip[6..8].copy_from_slice(&[protocol, hop_limit]);
            ip[8..24].copy_from_slice(&src.octets());
            ip[24..].copy_from_slice(&dst.octets());
            Some(AT + ipv6::HEADER_LEN)
        }
        _ => None,
    }
}

/// Builds a frame with a whole packet.
pub fn emit(
    stations: Stations,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let mut frame = vec![0; ethernet::HEADER_LEN + ipv6::HEADER_LEN];
    let len = payload.len();
    let at = headers(
        &mut frame,
        stations,
        (src, dst),
        protocol,
        hop_limit,
        len,
        None,
    )?;
    frame.truncate(at);
    frame.extend_from_slice(payload);
    if frame.len() < ethernet::MIN_FRAME_LEN {
        frame.resize(ethernet::MIN_FRAME_LEN, 0);
    }
    Some(frame)
}

/// Lets the packet of a frame that [`emit`] built be cut into parts on its way.
pub(super) fn allow_parts(frame: &mut [u8]) {
    const AT: usize = ethernet::HEADER_LEN;
    if frame[12..AT] == ETHERTYPE_IPV4.to_be_bytes() {
        let ip = &mut frame[AT..AT + V4_HEADER];
        ip[6..8].fill(0);
        ip[10..12].fill(0);
        let sum = checksum(ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Builds the frames of a packet that may be larger than `mtu`: as many parts as it takes, marked with `id`.
pub fn emit_parts(
    stations: Stations,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    hop_limit: u8,
    payload: &[u8],
    (mtu, id): (u16, u32),
    mut out: impl FnMut(Vec<u8>),
) {
    if payload.len() + ip_header_len(src) <= usize::from(mtu) {
        if let Some(frame) = emit(stations, src, dst, protocol, hop_limit, payload) {
            out(frame);
        }
        return;
    }
    let extra = if src.is_ipv4() { 0 } else { V6_FRAGMENT_HEADER };
    // Parts begin at multiples of eight bytes.
    let room = (usize::from(mtu)).saturating_sub(ip_header_len(src) + extra) & !7;
    if room == 0 {
        return;
    }
    let count = payload.len().div_ceil(room);
    for (index, part) in payload.chunks(room).enumerate() {
        let Ok(offset) = u16::try_from(index * room) else {
            return;
        };
        let more = index + 1 < count;
        let mut frame = vec![0; ethernet::HEADER_LEN + ipv6::HEADER_LEN];
        let first = if src.is_ipv4() { protocol } else { V6_FRAGMENT };
        let bits = (offset >> 3) | if more { MORE } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let mark = Some((id as u16, bits));
        let len = part.len() + extra;
        let Some(at) = headers(
            &mut frame,
            stations,
            (src, dst),
            first,
            hop_limit,
            len,
            mark,
        ) else {
            return;
        };
        frame.truncate(at);
        if src.is_ipv6() {
            frame.extend([protocol, 0]);
            frame.extend((offset | u16::from(more)).to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend_from_slice(part);
        if frame.len() < ethernet::MIN_FRAME_LEN {
            frame.resize(ethernet::MIN_FRAME_LEN, 0);
        }
        out(frame);
    }
}

/// Asks for the hardware address of a station, by ARP or neighbour discovery (RFC 826, RFC 4861), in the name of the
/// gateway's own address.
pub fn ask(gateway: MacAddr, own: IpAddr, station: IpAddr) -> Option<Vec<u8>> {
    match (own, station) {
        (IpAddr::V4(sender_ip), IpAddr::V4(target_ip)) => {
            let request = Arp {
                operation: arp::REQUEST,
                sender_mac: gateway,
                sender_ip,
                target_mac: MacAddr::ZERO,
                target_ip,
            };
            Some(request.emit(MacAddr::BROADCAST))
        }
        (IpAddr::V6(own), IpAddr::V6(target)) => {
            const SOLICITATION: u8 = 135;
            /// An option: the sender's hardware address, eight bytes.
            const SENDER: [u8; 2] = [1, 1];
            const LEN: u16 = 32;
            let [.., a, b, c] = target.octets();
            let (high, low) = (0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low);
            let stations = Stations {
                gateway,
                guest: MacAddr([0x33, 0x33, 0xff, a, b, c]),
            };
            let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            message.extend(target.octets());
            message.extend(SENDER);
            message.extend(gateway.0);
            let sum = ipv6::pseudo_header(own, group, NEXT_HEADER_ICMPV6, LEN)
                .over(&message)
                .finish();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            emit(
                stations,
                own.into(),
                group.into(),
                NEXT_HEADER_ICMPV6,
                255,
                &message,
            )
        }
        _ => None,
    }
}

/// Writes a UDP header, its checksum zero.
fn udp_header(src: u16, dst: u16, len: u16) -> [u8; UDP_HEADER] {
    let ([a, b], [c, d], [e, f]) = (src.to_be_bytes(), dst.to_be_bytes(), len.to_be_bytes());
    [a, b, c, d, e, f, 0, 0]
}

/// The sum over the pseudo-header of a UDP datagram of `len` bytes.
fn udp_pseudo(src: IpAddr, dst: IpAddr, len: u16) -> Sum {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::default().add_pseudo_header(src, dst, PROTOCOL_UDP, len)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6::pseudo_header(src, dst, PROTOCOL_UDP, len),
        // Such a packet is never built.
        _ => Sum::default(),
    }
}

/// Builds a UDP datagram with its full checksum.
pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(payload.len() + UDP_HEADER).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(len));
    datagram.extend(udp_header(src.port(), dst.port(), len));
    datagram.extend_from_slice(payload);
    let sum = udp_pseudo(src.ip(), dst.ip(), len).over(&datagram).finish();
    let sum = if sum == 0 { 0xffff } else { sum };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(datagram)
}

/// Fills a head with all headers of a UDP datagram, whose checksum is left to be completed, and the first bytes of its
/// payload, of `payload` bytes in all. Returns how many of them `start` gave; `None` where they fit into no packet.
pub fn fill_udp(
    head: &mut Head,
    stations: Stations,
    src: SocketAddr,
    dst: SocketAddr,
    payload: usize,
    start: impl FnOnce(&mut [u8]),
) -> Option<usize> {
    let len = u16::try_from(payload + UDP_HEADER).ok()?;
    let buffer = head.buffer();
    let ips = (src.ip(), dst.ip());
    let at = headers(
        buffer,
        stations,
        ips,
        PROTOCOL_UDP,
        HOP_LIMIT,
        usize::from(len),
        None,
    )?;
    let body = at + UDP_HEADER;
    let udp = &mut buffer[at..body];
    udp.copy_from_slice(&udp_header(src.port(), dst.port(), len));
    udp[6..].copy_from_slice(&udp_pseudo(ips.0, ips.1, len).fold().to_be_bytes());
    let in_head = payload.min(buffer.len() - body);
    start(&mut buffer[body..body + in_head]);
    let frame_len = body + payload;
    head.set_len(body + in_head);
    head.frame_len = u32::try_from(frame_len).ok()?;
    head.offload = VirtioNetHeader {
        flags: NEEDS_CSUM,
        csum_start: u16::try_from(at).ok()?,
        csum_offset: 6,
        ..VirtioNetHeader::default()
    };
    Some(in_head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet::Ethernet;
    use crate::wire::ipv4::Ipv4;
    use crate::wire::ipv6::Ipv6;
    use crate::wire::nd::Claim;
    use crate::wire::udp::Udp;

    const STATIONS: Stations = Stations {
        gateway: MacAddr([2, 0, 0, 0, 0, 0xfe]),
        guest: MacAddr([2, 0, 0, 0, 0, 1]),
    };

    #[test]
    fn a_packet_that_fits_is_whole_and_one_that_does_not_is_cut() {
        let (src, dst): (IpAddr, IpAddr) = ([203, 0, 113, 9].into(), [192, 168, 81, 128].into());
        for (len, count) in [(1480, 1), (1481, 2), (2960, 2), (2961, 3)] {
            let payload = vec![9; len];
            let mut parts = Vec::new();
            emit_parts(STATIONS, (src, dst), 17, 64, &payload, (1500, 7), |frame| {
                parts.push(frame);
            });
            assert_eq!(parts.len(), count, "{len}");
            let held = parts.iter().map(|frame| {
                let frame = Ethernet::parse(frame).unwrap();
                assert_eq!((frame.src, frame.dst), (STATIONS.gateway, STATIONS.guest));
                let ip = Ipv4::parse(frame.payload).unwrap();
                assert_eq!(ip.fragment, count > 1);
                ip.payload.len()
            });
            assert_eq!(held.sum::<usize>(), len);
        }
    }

    #[test]
    fn the_head_of_a_datagram_leaves_its_checksum_to_be_completed() {
        let (src, dst) = (
            "203.0.113.9:53".parse().unwrap(),
            "192.168.81.128:40000".parse().unwrap(),
        );
        let payload = [5; 33];
        let mut head = Head::default();
        let given = fill_udp(&mut head, STATIONS, src, dst, payload.len(), |start| {
            start.copy_from_slice(&payload);
        });
        assert_eq!(given, Some(33));
        let mut frame = head.bytes().to_vec();
        let at = usize::from(head.offload.csum_start);
        let sum = Sum::default().over(&frame[at..]).finish();
        frame[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
        let ip = Ipv4::parse(&frame[14..]).unwrap();
        assert_eq!(Udp::parse(&ip, false).unwrap().payload, payload);
        let too_long = fill_udp(&mut head, STATIONS, src, dst, 65_530, |_| {});
        assert_eq!(too_long, None);
    }

    #[test]
    fn a_station_is_asked_for_in_the_words_of_its_family() {
        let asked = ask(
            STATIONS.gateway,
            [192, 168, 81, 2].into(),
            [192, 168, 81, 7].into(),
        );
        let asked = asked.unwrap();
        let frame = Ethernet::parse(&asked).unwrap();
        let arp = Arp::parse(frame.payload).unwrap();
        assert_eq!(frame.dst, MacAddr::BROADCAST);
        assert_eq!(arp.target_ip.octets(), [192, 168, 81, 7]);
        let (own, station): (Ipv6Addr, Ipv6Addr) =
            ("fe80::2".parse().unwrap(), "fd00::12:3456".parse().unwrap());
        let asked = ask(STATIONS.gateway, own.into(), station.into()).unwrap();
        let frame = Ethernet::parse(&asked).unwrap();
        assert_eq!(frame.dst, MacAddr([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
        let packet = Ipv6::parse(frame.payload).unwrap();
        assert_eq!(packet.dst, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        let sum = ipv6::pseudo_header(own, packet.dst, NEXT_HEADER_ICMPV6, 32);
        assert_eq!(sum.over(packet.payload).finish(), 0);
        let claim = Claim::parse(frame.payload).unwrap();
        assert_eq!((claim.ip, claim.router), (own, None));
    }
}
