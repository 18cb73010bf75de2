//! Offloads: what a sender left to be done to its frame, checked on the way in and finished on the way out for
//! receivers that cannot do it themselves (virtio 1.2, section 5.1.6; TCP segmentation as RFC 9293 needs it).
//!
//! # Theory of operation
//!
//! A frame keeps its virtio-net header through the switch. On ingress [`check`] compares the header with the frame:
//! what it says must be true of the bytes, or the frame is dropped. On egress [`Capabilities::take`] tells whether the
//! receiver can finish the frame itself; if not, [`finish`] completes the checksum or cuts segments from an owned copy.
//! TCP over IPv4 and IPv6 is segmented; UDP fragmentation offload is not offered to guests and is refused.

use crate::net::drops::DropReason;
use crate::net::frame::{Head, ethernet_header};
use crate::wire::checksum::{Sum, checksum};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LEN};
use crate::wire::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::virtio_net::{
    GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VirtioNetHeader,
};
use crate::wire::{be16, be32};

const TCP_CHECKSUM_OFFSET: u16 = 16;
const UDP_CHECKSUM_OFFSET: u16 = 6;
const TCP_FLAGS: usize = 13;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;
/// Segments smaller than this are nobody's: they would only make a receiver's work large.
const MIN_SEGMENT: u16 = 48;

/// What a receiver can finish by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capabilities {
    /// It takes frames whose transport checksum is partial.
    pub checksum: bool,
    /// It takes TCP super-frames over IPv4.
    pub tso4: bool,
    /// It takes TCP super-frames over IPv6.
    pub tso6: bool,
    /// It takes TCP super-frames with CWR set.
    pub ecn: bool,
}

impl Capabilities {
    /// A receiver that can do everything.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
    };

    /// Tells whether the receiver takes a frame with this header as it is.
    #[inline]
    pub fn take(self, header: VirtioNetHeader) -> bool {
        if header.flags & NEEDS_CSUM == 0 && header.gso_type == GSO_NONE {
            return true;
        }
        let segments = match header.gso_kind() {
            GSO_NONE => true,
            GSO_TCPV4 => self.tso4,
            GSO_TCPV6 => self.tso6,
            _ => false,
        };
        let ecn = header.gso_type & GSO_ECN == 0 || self.ecn;
        segments && ecn && (self.checksum || !header.needs_checksum())
    }
}

/// Compares what the header says with the frame, and puts the right length of the headers into it.
///
/// # Errors
///
/// The frame is larger than `mtu` allows, or the header does not describe it.
#[inline]
pub fn check(head: &mut Head, mtu: u16) -> Result<(), DropReason> {
    let header = head.offload;
    if header.gso_type == GSO_NONE {
        // One tag is part of the link header and not of the packet.
        if head.frame_len > u32::from(mtu) + 18 {
            return Err(DropReason::TooBig);
        }
        if head.frame_len > u32::from(mtu) + 14 {
            check_length(head, mtu)?;
        }
        if header.needs_checksum() {
            // A sum that began in a tag, or ended there, would let its sender choose the VLAN that a receiver sees.
            let (link_len, _) = ethernet_header(head.bytes()).ok_or(DropReason::BadOffload)?;
            let end = u32::from(header.csum_start) + u32::from(header.csum_offset) + 2;
            if usize::from(header.csum_start) < link_len || end > head.frame_len {
                return Err(DropReason::BadOffload);
            }
        }
        return Ok(());
    }
    let hdr_len = tcp_headers(head).ok_or(DropReason::BadOffload)?;
    // TCP has no groups, and cutting segments for every member would multiply a guest's work.
    if head.bytes()[0] & 1 != 0 {
        return Err(DropReason::BadOffload);
    }
    let (link_len, _) = ethernet_header(head.bytes()).ok_or(DropReason::BadOffload)?;
    let packet = usize::from(hdr_len) - link_len + usize::from(header.gso_size);
    if packet > usize::from(mtu) {
        return Err(DropReason::TooBig);
    }
    head.offload.hdr_len = hdr_len;
    Ok(())
}

#[cold]
fn check_length(head: &Head, mtu: u16) -> Result<(), DropReason> {
    let link_len = ethernet_header(head.bytes()).map_or(HEADER_LEN, |(len, _)| len.min(18));
    match head.frame_len as usize > usize::from(mtu) + link_len {
        true => Err(DropReason::TooBig),
        false => Ok(()),
    }
}

/// Finds out by the frame alone what its sender left to be done, where nobody says so: a checksum field that holds the
/// sum over the pseudo-header, and more TCP than packets of `mtu` bytes carry.
///
/// A whole checksum that happens to be that sum comes out the same when it is completed once more.
#[inline]
pub fn infer(head: &mut Head, mtu: u16) {
    if let Some(offload) = inferred(head, mtu) {
        head.offload = offload;
    }
}

fn inferred(head: &Head, mtu: u16) -> Option<VirtioNetHeader> {
    let bytes = head.bytes();
    let (link_len, ethertype) = ethernet_header(bytes)?;
    let ip = bytes.get(link_len..)?;
    let (protocol, ip_len, len, addresses, gso_type) = match ethertype {
        ETHERTYPE_IPV4 => {
            let header_len = usize::from(*ip.first()? & 0x0f) * 4;
            // Only the whole of a packet can have a sum that is left to be done.
            if be16(ip, 6)? & 0x3fff != 0 {
                return None;
            }
            let len = be16(ip, 2)?.checked_sub(u16::try_from(header_len).ok()?)?;
            (*ip.get(9)?, header_len, len, ip.get(12..20)?, GSO_TCPV4)
        }
        ETHERTYPE_IPV6 => (*ip.get(6)?, 40, be16(ip, 4)?, ip.get(8..40)?, GSO_TCPV6),
        _ => return None,
    };
    let csum_offset = match protocol {
        PROTOCOL_TCP => TCP_CHECKSUM_OFFSET,
        PROTOCOL_UDP => UDP_CHECKSUM_OFFSET,
        _ => return None,
    };
    let transport = ip.get(ip_len..)?;
    let sum = Sum::default()
        .over(addresses)
        .add_word(u16::from(protocol))
        .add_word(len);
    if be16(transport, usize::from(csum_offset))? != sum.fold() {
        return None;
    }
    let start = link_len + ip_len;
    let mut offload = VirtioNetHeader {
        flags: NEEDS_CSUM,
        csum_start: u16::try_from(start).ok()?,
        csum_offset,
        ..VirtioNetHeader::default()
    };
    if protocol == PROTOCOL_TCP && head.frame_len as usize > link_len + usize::from(mtu) {
        let header_len = ip_len + usize::from(*transport.get(12)? >> 4) * 4;
        offload.gso_type = gso_type;
        offload.gso_size = mtu.checked_sub(u16::try_from(header_len).ok()?)?;
        offload.hdr_len = u16::try_from(link_len + header_len).ok()?;
    }
    Some(offload)
}

/// Returns the length of all headers of a TCP super-frame, if it is what its header says.
fn tcp_headers(head: &Head) -> Option<u16> {
    let (header, bytes) = (head.offload, head.bytes());
    let (link_len, ethertype) = ethernet_header(bytes)?;
    let tcp_at = usize::from(header.csum_start);
    let ip = bytes.get(link_len..)?;
    match header.gso_kind() {
        GSO_TCPV4 => {
            let header_len = usize::from(*ip.first()? & 0x0f) * 4;
            let whole = be16(ip, 6)? & 0x3fff == 0;
            if ethertype != ETHERTYPE_IPV4 || *ip.first()? >> 4 != 4 || header_len < 20 {
                return None;
            }
            if !whole || *ip.get(9)? != PROTOCOL_TCP || tcp_at != link_len + header_len {
                return None;
            }
        }
        GSO_TCPV6 => {
            // Extension headers are passed over: the sender says where TCP begins, and nothing is read in between.
            let plain = *ip.get(6)? == PROTOCOL_TCP;
            if ethertype != ETHERTYPE_IPV6 || *ip.first()? >> 4 != 6 || tcp_at < link_len + 40 {
                return None;
            }
            if plain != (tcp_at == link_len + 40) {
                return None;
            }
        }
        _ => return None,
    }
    if !header.needs_checksum()
        || header.csum_offset != TCP_CHECKSUM_OFFSET
        || header.gso_size < MIN_SEGMENT
    {
        return None;
    }
    let tcp_len = usize::from(*bytes.get(tcp_at + 12)? >> 4) * 4;
    let hdr_len = tcp_at + tcp_len;
    if tcp_len < 20 || hdr_len > bytes.len() || hdr_len > head.frame_len as usize {
        return None;
    }
    u16::try_from(hdr_len).ok()
}

/// Finishes a frame for a receiver that cannot: `emit` gets each resulting frame in two parts, with its header.
///
/// The frame is a private copy that [`check`] has passed. Nothing is emitted beyond the first refusal.
///
/// # Errors
///
/// What `emit` returns, or that the bytes do not fit the header after all.
pub fn finish(
    frame: &mut [u8],
    header: VirtioNetHeader,
    capabilities: Capabilities,
    mut emit: impl FnMut(VirtioNetHeader, &[u8], &[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    if header.gso_type == GSO_NONE {
        complete_checksum(frame, header).ok_or(DropReason::BadOffload)?;
        return emit(VirtioNetHeader::default(), frame, &[]);
    }
    let (headers, payload) = frame
        .split_at_mut_checked(usize::from(header.hdr_len))
        .ok_or(DropReason::BadOffload)?;
    let mut segments = Segments::new(headers, header).ok_or(DropReason::BadOffload)?;
    let mut rest = &*payload;
    loop {
        let (part, behind) = rest.split_at(rest.len().min(usize::from(header.gso_size)));
        let out = segments
            .next(part, behind.is_empty(), capabilities.checksum)
            .ok_or(DropReason::BadOffload)?;
        emit(out, segments.headers, part)?;
        if behind.is_empty() {
            return Ok(());
        }
        rest = behind;
    }
}

/// Completes the checksum of a frame whose field holds the sum over the pseudo-header, if the header fits it.
pub fn complete_checksum(frame: &mut [u8], header: VirtioNetHeader) -> Option<()> {
    let start = usize::from(header.csum_start);
    let sum = Sum::default().over(frame.get(start..)?).finish();
    let at = start + usize::from(header.csum_offset);
    // A UDP checksum of zero would mean that there is none (RFC 768).
    let sum = if sum == 0 && header.csum_offset == 6 {
        0xffff
    } else {
        sum
    };
    frame
        .get_mut(at..at + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// The headers of one segment after the other, written over the super-frame's.
struct Segments<'a> {
    headers: &'a mut [u8],
    ip_at: usize,
    tcp_at: usize,
    ipv4: bool,
    id: u16,
    sequence: u32,
    flags: u8,
    first: bool,
}

impl<'a> Segments<'a> {
    fn new(headers: &'a mut [u8], header: VirtioNetHeader) -> Option<Self> {
        let (ip_at, _) = ethernet_header(headers)?;
        let tcp_at = usize::from(header.csum_start);
        let (id, sequence) = (be16(headers, ip_at + 4)?, be32(headers, tcp_at + 4)?);
        let flags = *headers.get(tcp_at + TCP_FLAGS)?;
        headers.get(tcp_at..tcp_at + 20)?;
        headers.get(ip_at..ip_at + 20)?;
        let ipv4 = header.gso_kind() == GSO_TCPV4;
        if !ipv4 {
            headers.get(ip_at..ip_at + 40)?;
        }
        Some(Self {
            headers,
            ip_at,
            tcp_at,
            ipv4,
            id,
            sequence,
            flags,
            first: true,
        })
    }

    fn next(
        &mut self,
        payload: &[u8],
        last: bool,
        partial_checksum: bool,
    ) -> Option<VirtioNetHeader> {
        let (ip_at, tcp_at) = (self.ip_at, self.tcp_at);
        let tcp_len = u16::try_from(self.headers.len() - tcp_at + payload.len()).ok()?;
        let packet_len = self.headers.len() - ip_at + payload.len();
        let ip = &mut self.headers[ip_at..];
        let pseudo = if self.ipv4 {
            ip[2..4].copy_from_slice(&u16::try_from(packet_len).ok()?.to_be_bytes());
            ip[4..6].copy_from_slice(&self.id.to_be_bytes());
            ip[10..12].fill(0);
            let sum = checksum(&ip[..tcp_at - ip_at]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            Sum::default().over(&ip[12..20])
        } else {
            ip[4..6].copy_from_slice(&u16::try_from(packet_len - 40).ok()?.to_be_bytes());
            Sum::default().over(&ip[8..40])
        };
        let pseudo = pseudo.add_word(u16::from(PROTOCOL_TCP)).add_word(tcp_len);
        let tcp = &mut self.headers[tcp_at..];
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        let mut flags = self.flags;
        if !last {
            flags &= !TCP_FIN_PSH;
        }
        if !self.first {
            flags &= !TCP_CWR;
        }
        tcp[TCP_FLAGS] = flags;
        let mut out = VirtioNetHeader::default();
        let sum = if partial_checksum {
            out.flags = NEEDS_CSUM;
            out.csum_start = u16::try_from(tcp_at).ok()?;
            out.csum_offset = TCP_CHECKSUM_OFFSET;
            pseudo.fold()
        } else {
            tcp[16..18].fill(0);
            pseudo.over(tcp).over(payload).finish()
        };
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.id = self.id.wrapping_add(1);
        self.sequence = self
            .sequence
            .wrapping_add(u32::try_from(payload.len()).ok()?);
        self.first = false;
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::virtio_net::DATA_VALID;
    use std::net::Ipv4Addr;

    const V4: (usize, u16, u8) = (20, ETHERTYPE_IPV4, GSO_TCPV4);
    const V6: (usize, u16, u8) = (40, ETHERTYPE_IPV6, GSO_TCPV6);

    /// A TCP super-frame with a partial checksum, `payload` bytes long, and a tag if asked for.
    fn super_frame(
        (ip_len, ethertype, gso): (usize, u16, u8),
        tagged: bool,
        payload: usize,
    ) -> (Vec<u8>, VirtioNetHeader) {
        let mut frame = vec![2u8; 12];
        if tagged {
            frame.extend([0x81, 0, 0, 10]);
        }
        frame.extend(ethertype.to_be_bytes());
        let ip_at = frame.len();
        frame.resize(ip_at + ip_len, 0);
        let tcp_len = 32;
        if ethertype == ETHERTYPE_IPV4 {
            frame[ip_at] = 0x45;
            frame[ip_at + 4..ip_at + 6].copy_from_slice(&[0xff, 0xff]);
            frame[ip_at + 9] = PROTOCOL_TCP;
            frame[ip_at + 12..ip_at + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        } else {
            frame[ip_at] = 0x60;
            frame[ip_at + 6] = PROTOCOL_TCP;
            frame[ip_at + 8] = 0xfd;
            frame[ip_at + 39] = 2;
        }
        let tcp_at = frame.len();
        frame.resize(tcp_at + tcp_len, 1);
        frame[tcp_at + 4..tcp_at + 8].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
        frame[tcp_at + 12] = 0x80;
        frame[tcp_at + 13] = 0x10 | TCP_FIN_PSH | TCP_CWR;
        frame.extend((0..payload).map(|i| u8::try_from(i % 253).unwrap()));
        let header = VirtioNetHeader {
            flags: NEEDS_CSUM,
            gso_type: gso | GSO_ECN,
            hdr_len: 0,
            gso_size: 1000,
            csum_start: u16::try_from(tcp_at).unwrap(),
            csum_offset: TCP_CHECKSUM_OFFSET,
        };
        (frame, header)
    }

    fn checked(
        frame: &[u8],
        header: VirtioNetHeader,
        mtu: u16,
    ) -> Result<VirtioNetHeader, DropReason> {
        let mut head = Head::default();
        head.fill(frame, header);
        check(&mut head, mtu)?;
        Ok(head.offload)
    }

    fn transport_sum(frame: &[u8], ip_at: usize, ipv4: bool, tcp_at: usize) -> u16 {
        let addresses = if ipv4 {
            &frame[ip_at + 12..ip_at + 20]
        } else {
            &frame[ip_at + 8..ip_at + 40]
        };
        let len = u16::try_from(frame.len() - tcp_at).unwrap();
        Sum::default()
            .over(addresses)
            .add_word(6)
            .add_word(len)
            .over(&frame[tcp_at..])
            .finish()
    }

    #[test]
    fn segments_carry_the_whole_payload_in_order_with_right_headers_and_checksums() {
        for (kind, tagged) in [(V4, false), (V4, true), (V6, false), (V6, true)] {
            let (mut frame, header) = super_frame(kind, tagged, 2500);
            let original = frame.clone();
            let header = checked(&frame, header, 1500).unwrap();
            let (tcp_at, hdr_len) = (usize::from(header.csum_start), usize::from(header.hdr_len));
            let ip_at = tcp_at - kind.0;
            let mut segments = Vec::new();
            finish(
                &mut frame,
                header,
                Capabilities::default(),
                |out, headers, payload| {
                    assert_eq!(out, VirtioNetHeader::default());
                    segments.push([headers, payload].concat());
                    Ok(())
                },
            )
            .unwrap();

            assert_eq!(segments.len(), 3);
            let mut payload = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                let sequence = 0xffff_ff00u32.wrapping_add(u32::try_from(payload.len()).unwrap());
                assert_eq!(be32(segment, tcp_at + 4), Some(sequence));
                assert_eq!(
                    transport_sum(segment, ip_at, kind == V4, tcp_at),
                    0,
                    "segment {index} of {kind:?}"
                );
                let ip_payload = segment.len() - ip_at;
                if kind == V4 {
                    assert_eq!(checksum(&segment[ip_at..ip_at + 20]), 0);
                    assert_eq!(usize::from(be16(segment, ip_at + 2).unwrap()), ip_payload);
                    assert_eq!(
                        be16(segment, ip_at + 4),
                        Some(0xffffu16.wrapping_add(u16::try_from(index).unwrap()))
                    );
                } else {
                    assert_eq!(
                        usize::from(be16(segment, ip_at + 4).unwrap()),
                        ip_payload - 40
                    );
                }
                let flags = segment[tcp_at + 13];
                assert_eq!(flags & TCP_CWR != 0, index == 0, "CWR in the first only");
                assert_eq!(
                    flags & TCP_FIN_PSH != 0,
                    index == 2,
                    "FIN and PSH in the last only"
                );
                payload.extend_from_slice(&segment[hdr_len..]);
            }
            assert_eq!(payload, original[hdr_len..]);
        }
    }

    #[test]
    fn a_receiver_that_checksums_but_does_not_segment_gets_partial_sums() {
        let (mut frame, header) = super_frame(V4, false, 1500);
        let header = checked(&frame, header, 1500).unwrap();
        let mut count = 0;
        finish(
            &mut frame,
            header,
            Capabilities {
                checksum: true,
                ..Capabilities::default()
            },
            |out, headers, payload| {
                let mut segment = [headers, payload].concat();
                assert_eq!(
                    (out.flags, out.gso_type, out.csum_start),
                    (NEEDS_CSUM, GSO_NONE, 34)
                );
                complete_checksum(&mut segment, out).unwrap();
                assert_eq!(transport_sum(&segment, 14, true, 34), 0);
                count += 1;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn a_partial_checksum_is_completed_and_a_udp_sum_is_never_zero() {
        let mut frame = vec![0u8; 42];
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        frame[26..30].copy_from_slice(&a.octets());
        frame[30..34].copy_from_slice(&b.octets());
        frame[38..40].copy_from_slice(&8u16.to_be_bytes());
        let header = VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 6,
            ..VirtioNetHeader::default()
        };
        let pseudo = Sum::default().add_pseudo_header(a, b, 17, 8).fold();
        frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
        let mut done = frame.clone();
        finish(&mut done, header, Capabilities::default(), |_, frame, _| {
            assert_eq!(
                Sum::default()
                    .add_pseudo_header(a, b, 17, 8)
                    .over(&frame[34..])
                    .finish(),
                0
            );
            Ok(())
        })
        .unwrap();

        frame[34..36].copy_from_slice(
            &(!Sum::default()
                .add_pseudo_header(a, b, 17, 8)
                .add_word(8)
                .fold())
            .to_be_bytes(),
        );
        finish(
            &mut frame,
            header,
            Capabilities::default(),
            |_, frame, _| {
                assert_eq!(frame[40..42], [0xff, 0xff]);
                Ok(())
            },
        )
        .unwrap();
    }

    #[test]
    fn headers_that_do_not_describe_their_frame_are_refused() {
        let bad = Err(DropReason::BadOffload);
        for kind in [V4, V6] {
            let (frame, good) = super_frame(kind, false, 3000);
            assert_eq!(
                checked(&frame, good, 1500).unwrap().hdr_len,
                good.csum_start + 32
            );
            for header in [
                VirtioNetHeader {
                    gso_size: MIN_SEGMENT - 1,
                    ..good
                },
                VirtioNetHeader { flags: 0, ..good },
                VirtioNetHeader {
                    csum_start: good.csum_start + 2,
                    ..good
                },
                VirtioNetHeader {
                    csum_start: 0xffff,
                    ..good
                },
                VirtioNetHeader {
                    csum_start: 0,
                    ..good
                },
                VirtioNetHeader {
                    csum_offset: 6,
                    ..good
                },
                VirtioNetHeader {
                    gso_type: 3,
                    ..good
                },
                VirtioNetHeader {
                    gso_type: good.gso_type ^ (GSO_TCPV4 | GSO_TCPV6),
                    ..good
                },
                VirtioNetHeader {
                    gso_type: GSO_ECN,
                    ..good
                },
            ] {
                assert_eq!(checked(&frame, header, 1500), bad, "{header:?}");
            }
            assert_eq!(
                checked(&frame[..60], good, 1500),
                bad,
                "cut off within its headers"
            );
            assert_eq!(
                checked(
                    &frame,
                    VirtioNetHeader {
                        gso_size: 1460,
                        ..good
                    },
                    1500
                ),
                Err(DropReason::TooBig)
            );
        }
        let (mut group, header) = super_frame(V4, false, 3000);
        group[0] |= 1;
        assert_eq!(checked(&group, header, 1500), bad, "TCP has no groups");
        let (tagged, header) = super_frame(V4, true, 10);
        for (start, good) in [(10, false), (14, false), (17, false), (18, true)] {
            let sum = VirtioNetHeader {
                csum_start: start,
                gso_type: GSO_NONE,
                csum_offset: 0,
                ..header
            };
            assert_eq!(
                checked(&tagged, sum, 1500).is_ok(),
                good,
                "a sum from byte {start} of a tagged frame"
            );
        }
        let plain = VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 16,
            ..VirtioNetHeader::default()
        };
        assert!(checked(&[0; 52], plain, 1500).is_ok());
        assert_eq!(checked(&[0; 51], plain, 1500), bad);
    }

    #[test]
    fn a_frame_may_be_as_large_as_the_mtu_and_a_tag() {
        let none = VirtioNetHeader::default();
        assert!(checked(&[0; 1514], none, 1500).is_ok());
        assert_eq!(checked(&[0; 1515], none, 1500), Err(DropReason::TooBig));
        let mut tagged = vec![0; 1518];
        tagged[12] = 0x81;
        assert!(checked(&tagged, none, 1500).is_ok());
        tagged.push(0);
        assert_eq!(checked(&tagged, none, 1500), Err(DropReason::TooBig));
    }

    #[test]
    fn a_receiver_takes_what_it_can_finish_and_nothing_else() {
        let none = Capabilities::default();
        let some = Capabilities {
            checksum: true,
            tso4: true,
            ..none
        };
        let header = |flags, gso_type| VirtioNetHeader {
            flags,
            gso_type,
            ..VirtioNetHeader::default()
        };
        assert!(none.take(header(0, GSO_NONE)));
        assert!(none.take(header(DATA_VALID, GSO_NONE)));
        assert!(!none.take(header(NEEDS_CSUM, GSO_NONE)));
        assert!(some.take(header(NEEDS_CSUM, GSO_TCPV4)));
        assert!(!some.take(header(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN)));
        assert!(!some.take(header(NEEDS_CSUM, GSO_TCPV6)));
        assert!(Capabilities::ALL.take(header(NEEDS_CSUM, GSO_TCPV6 | GSO_ECN)));
    }

    fn inferred_of(frame: &[u8], mtu: u16) -> VirtioNetHeader {
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        infer(&mut head, mtu);
        head.offload
    }

    /// Puts right lengths and the sum over the pseudo-header into a frame of [`super_frame`].
    fn begin_checksum(frame: &mut [u8], header: VirtioNetHeader, (ip_len, ..): (usize, u16, u8)) {
        let tcp_at = usize::from(header.csum_start);
        let ip_at = tcp_at - ip_len;
        let len = u16::try_from(frame.len() - tcp_at).unwrap();
        let addresses = if ip_len == 20 {
            let total = len + 20;
            frame[ip_at + 2..ip_at + 4].copy_from_slice(&total.to_be_bytes());
            ip_at + 12..ip_at + 20
        } else {
            frame[ip_at + 4..ip_at + 6].copy_from_slice(&len.to_be_bytes());
            ip_at + 8..ip_at + 40
        };
        let sum = Sum::default()
            .over(&frame[addresses])
            .add_word(6)
            .add_word(len);
        frame[tcp_at + 16..tcp_at + 18].copy_from_slice(&sum.fold().to_be_bytes());
    }

    #[test]
    fn what_a_sender_left_to_be_done_is_found_in_the_frame_itself() {
        for (kind, tagged) in [(V4, false), (V4, true), (V6, false), (V6, true)] {
            let (mut frame, header) = super_frame(kind, tagged, 900);
            begin_checksum(&mut frame, header, kind);
            let found = VirtioNetHeader {
                flags: NEEDS_CSUM,
                csum_start: header.csum_start,
                csum_offset: 16,
                ..VirtioNetHeader::default()
            };
            assert_eq!(inferred_of(&frame, 1500), found);

            let mut whole = frame.clone();
            complete_checksum(&mut whole, found).unwrap();
            assert_eq!(inferred_of(&whole, 1500), VirtioNetHeader::default());

            let (mut frame, header) = super_frame(kind, tagged, 9000);
            begin_checksum(&mut frame, header, kind);
            let found = inferred_of(&frame, 1500);
            assert_eq!(found.gso_type, kind.2);
            assert_eq!(usize::from(found.gso_size), 1500 - kind.0 - 32);
            assert_eq!(checked(&frame, found, 1500).unwrap(), found);
        }
    }

    #[test]
    fn a_part_of_a_packet_and_what_is_no_packet_have_nothing_left_to_be_done() {
        let (mut frame, header) = super_frame(V4, false, 900);
        begin_checksum(&mut frame, header, V4);
        for (at, byte) in [(20, 0x20), (21, 1), (23, 50), (12, 9), (14, 0x4f)] {
            let mut other = frame.clone();
            other[at] = byte;
            assert_eq!(
                inferred_of(&other, 1500),
                VirtioNetHeader::default(),
                "{at}"
            );
        }
        for len in 0..50 {
            assert_eq!(inferred_of(&frame[..len], 1500), VirtioNetHeader::default());
        }
    }
}
