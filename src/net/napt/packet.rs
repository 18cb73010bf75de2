//! Packets as the translator reads them: strictly, since guests and the outside are hostile.
//!
//! [`Packet::plain`] reads what nearly all frames are, whole packets without options, from the head alone. [`Ip::read`] reads
//! everything else from the whole frame: options (RFC 791), a bounded number of extension headers (RFC 8200, section 4),
//! fragments. Whatever names other destinations than the header's is refused: source routes (RFC 7126, sections 4.3 and 4.4),
//! routing headers of type 0 (RFC 5095) and such as are not at their end. So is a checksum that is to be completed where that
//! would change what was decided on.

use crate::net::drops::DropReason;
use crate::net::frame::{HEAD_CAPACITY, Head};
use crate::net::napt::Side;
use crate::net::napt::key::{Address, Ends};
use crate::net::nat::Protocol;
use crate::wire::checksum::checksum;
use crate::wire::ethernet::HEADER_LEN;
use crate::wire::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::virtio_net::{GSO_NONE, VirtioNetHeader};
use crate::wire::{be16, be32};

/// How many extension headers a packet has at most.
const EXTENSIONS: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;

/// A packet of a protocol that is translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Packet<A> {
    pub(super) src: A,
    pub(super) dst: A,
    /// The source port. For an echo, the identifier is the port of whoever asks, and the other is 0.
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    pub(super) protocol: Protocol,
    /// The flags of TCP; for an echo, whether it is a request.
    pub(super) flags: u8,
    /// How many routers may still pass it on, counting this one.
    pub(super) ttl: u8,
    /// Whether it must not be cut into fragments.
    pub(super) dont_fragment: bool,
    /// Whether its transport checksum is to be completed.
    pub(super) partial: bool,
    /// Where the transport header begins in the frame.
    pub(super) at: usize,
    /// Bytes of payload.
    pub(super) payload: usize,
    /// Length of the packet, or of the largest it will be cut into.
    pub(super) size: usize,
}

impl<A: Address> Packet<A> {
    /// What tells its flow apart on the side that it came from.
    #[inline]
    pub(super) fn ends(&self, side: Side) -> Ends<A> {
        match side {
            Side::Inside => Ends {
                near: self.src,
                remote: self.dst,
                near_port: self.src_port,
                remote_port: self.dst_port,
                protocol: self.protocol,
            },
            Side::Outside => Ends {
                near: A::UNSPECIFIED,
                remote: self.src,
                near_port: self.dst_port,
                remote_port: self.src_port,
                protocol: self.protocol,
            },
        }
    }

    /// What tells the flow of a packet apart if it is an ordinary one, without looking whether it is.
    #[inline(always)]
    pub(super) fn glance(head: &Head, side: Side) -> Ends<A> {
        let bytes = head.array();
        let at = HEADER_LEN + A::HEADER_LEN;
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (src, dst) = (
            A::read(&bytes[HEADER_LEN + A::SRC_AT..]),
            A::read(&bytes[HEADER_LEN + A::DST_AT..]),
        );
        let protocol_at = HEADER_LEN + if A::V6 { 6 } else { 9 };
        let protocol = if bytes[protocol_at] == PROTOCOL_TCP {
            Protocol::Tcp
        } else {
            Protocol::Udp
        };
        let (near, near_port, remote, remote_port) = match side {
            Side::Inside => (src, port(at), dst, port(at + 2)),
            Side::Outside => (A::UNSPECIFIED, port(at + 2), src, port(at)),
        };
        Ends {
            near,
            remote,
            near_port,
            remote_port,
            protocol,
        }
    }

    /// Reads a packet without options that is whole, from the head of its frame; `None` for any other.
    #[inline(always)]
    pub(super) fn plain(head: &Head) -> Option<Self> {
        let bytes = head.array();
        let at = HEADER_LEN + A::HEADER_LEN;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let gso = head.offload.gso_type != GSO_NONE;
        let frame = (head.frame_len as usize).wrapping_sub(HEADER_LEN);
        let (total, protocol, dont_fragment) = if A::V6 {
            let total = A::HEADER_LEN + usize::from(word(HEADER_LEN + 4));
            if bytes[HEADER_LEN] >> 4 != 6 {
                return None;
            }
            (total, bytes[HEADER_LEN + 6], true)
        } else {
            let fragment = word(HEADER_LEN + 6);
            if bytes[HEADER_LEN] != 0x45 || fragment & 0x3fff != 0 || !is_header_whole(bytes) {
                return None;
            }
            let total = usize::from(word(HEADER_LEN + 2));
            (total, bytes[HEADER_LEN + 9], fragment & 0x4000 != 0)
        };
        // The length of what is yet to be cut may not fit its field.
        let total = if gso { frame } else { total };
        let len = total.wrapping_sub(A::HEADER_LEN);
        if total > frame || total < A::HEADER_LEN || head.frame_len < 14 {
            return None;
        }
        let mut packet = Self {
            src: A::read(&bytes[HEADER_LEN + A::SRC_AT..]),
            dst: A::read(&bytes[HEADER_LEN + A::DST_AT..]),
            src_port: word(at),
            dst_port: word(at + 2),
            protocol: Protocol::Tcp,
            flags: 0,
            ttl: bytes[HEADER_LEN + A::TTL_AT],
            dont_fragment,
            partial: false,
            at,
            payload: 0,
            size: total,
        };
        let header_len;
        match protocol {
            PROTOCOL_TCP => {
                header_len = usize::from(bytes[at + 12] >> 4) * 4;
                packet.flags = bytes[at + 13];
                if header_len < TCP_LEN {
                    return None;
                }
            }
            PROTOCOL_UDP => {
                header_len = UDP_LEN;
                packet.protocol = Protocol::Udp;
                let udp = usize::from(word(at + 4));
                if udp < UDP_LEN || udp > len {
                    return None;
                }
            }
            other if other == A::ICMP => {
                header_len = UDP_LEN;
                packet.protocol = Protocol::Icmp;
                (packet.src_port, packet.dst_port) =
                    echo::<A>(bytes[at], bytes[at + 1], word(at + 4))?;
                packet.flags = u8::from(bytes[at] == A::ECHO_REQUEST);
            }
            _ => return None,
        }
        // The header's fixed part is in the head, whatever the frame says of its length.
        let fixed = header_len.min(TCP_LEN);
        if header_len > len || head.bytes().len() < at + fixed {
            return None;
        }
        packet.payload = len - header_len;
        if head.offload.needs_checksum() || gso {
            packet.offload(head.offload)?;
        }
        Some(packet)
    }

    /// Takes in what the sender left to be done; `None` where that would change what is decided on.
    fn offload(&mut self, header: VirtioNetHeader) -> Option<()> {
        if header.gso_type != GSO_NONE {
            if self.protocol != Protocol::Tcp || !header.needs_checksum() {
                return None;
            }
            let segment = usize::from(header.hdr_len) + usize::from(header.gso_size);
            self.size = segment.checked_sub(HEADER_LEN)?;
        }
        if header.needs_checksum() {
            let (start, offset) = (usize::from(header.csum_start), header.csum_offset);
            self.partial = start == self.at && usize::from(offset) == checksum_at(self.protocol);
            // A sum that is stored in the payload, as of a tunnel within, is the receiver's business.
            let fixed = match self.protocol {
                Protocol::Tcp => TCP_LEN,
                Protocol::Udp | Protocol::Icmp => UDP_LEN,
            };
            if !self.partial && start < self.at + fixed {
                return None;
            }
        }
        Some(())
    }
}

/// Whether the checksum of an IPv4 header without options is right.
///
/// A rewritten header keeps an error that it came with, but super-frames and fragments leave with headers that are summed
/// anew, and a packet whose header is damaged goes no further in any case (RFC 1812, section 5.2.2).
#[inline(always)]
fn is_header_whole(bytes: &[u8; HEAD_CAPACITY]) -> bool {
    let word = |at: usize| {
        let at = HEADER_LEN + at;
        u64::from(u32::from_ne_bytes([
            bytes[at],
            bytes[at + 1],
            bytes[at + 2],
            bytes[at + 3],
        ]))
    };
    // A ones' complement sum is a remainder; of all zeros, which would have none too, the version is not one.
    (word(0) + word(4) + word(8) + word(12) + word(16)).is_multiple_of(0xffff)
}

/// Where the checksum is in a transport header.
#[inline]
pub(super) const fn checksum_at(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Icmp => 2,
    }
}

/// Returns the ports that stand for the identifier of an echo.
#[inline]
fn echo<A: Address>(kind: u8, code: u8, id: u16) -> Option<(u16, u16)> {
    match kind {
        _ if code != 0 => None,
        kind if kind == A::ECHO_REQUEST => Some((id, 0)),
        kind if kind == A::ECHO_REPLY => Some((0, id)),
        _ => None,
    }
}

/// Whether options name routers to pass by, or cannot be read.
fn is_source_routed(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => return false,
            1 => rest,
            131 | 137 => return true,
            _ => match rest
                .first()
                .and_then(|len| options.get(usize::from(*len)..))
            {
                Some(behind) if behind.len() + 2 <= options.len() => behind,
                _ => return true,
            },
        };
    }
    false
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Fragment {
    /// What all parts of the packet share.
    pub(super) id: u32,
    /// Where the part begins in the payload.
    pub(super) offset: u16,
    /// Whether other parts follow.
    pub(super) more: bool,
}

/// How much of a packet is there when it is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Extent {
    /// All of it, and no more than it says.
    Whole,
    /// All of it, which may be more than fits its length field: it is yet to be cut into segments.
    Super,
    /// As much as an ICMP error tells, of a header that routers may have changed on the way.
    Quoted,
}

impl Extent {
    /// Returns that of a frame with this header.
    pub(super) const fn of(header: VirtioNetHeader) -> Self {
        match header.gso_type {
            GSO_NONE => Self::Whole,
            _ => Self::Super,
        }
    }
}

/// An IP packet in a whole frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ip<A> {
    pub(super) src: A,
    pub(super) dst: A,
    /// The protocol of the payload, behind all extension headers.
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// Which part of a packet it is, where it is not a whole one.
    pub(super) fragment: Option<Fragment>,
    pub(super) dont_fragment: bool,
    /// Where the payload begins in the frame.
    pub(super) at: usize,
    /// Where the packet ends in the frame.
    pub(super) end: usize,
}

impl<A: Address> Ip<A> {
    /// Reads the packet of a whole, untagged frame.
    pub(super) fn read(bytes: &[u8], extent: Extent) -> Option<Self> {
        let ip = bytes.get(HEADER_LEN..)?;
        let header = ip.get(..A::HEADER_LEN)?;
        let mut read = Self {
            src: A::read(&header[A::SRC_AT..]),
            dst: A::read(&header[A::DST_AT..]),
            protocol: 0,
            ttl: header[A::TTL_AT],
            fragment: None,
            dont_fragment: true,
            at: HEADER_LEN + A::HEADER_LEN,
            end: 0,
        };
        if A::V6 {
            read.end = read.at + usize::from(be16(header, 4)?);
            read.extensions(bytes)?;
        } else {
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let total = usize::from(be16(header, 2)?);
            let bits = be16(header, 6)?;
            let all = ip.get(..header_len)?;
            let sum = extent == Extent::Quoted || checksum(all) == 0;
            if header[0] >> 4 != 4 || header_len < 20 || total < header_len || !sum {
                return None;
            }
            if is_source_routed(all.get(20..)?) {
                return None;
            }
            read.protocol = header[9];
            read.dont_fragment = bits & 0x4000 != 0;
            read.at = HEADER_LEN + header_len;
            read.end = HEADER_LEN + total;
            let (offset, more) = ((bits & 0x1fff) << 3, bits & 0x2000 != 0);
            read.fragment = (more || offset != 0).then_some(Fragment {
                id: u32::from(be16(header, 4)?),
                offset,
                more,
            });
        }
        let there = read.end <= bytes.len() || extent != Extent::Whole;
        (there && read.at <= read.end).then_some(read)
    }

    fn extensions(&mut self, bytes: &[u8]) -> Option<()> {
        self.protocol = *bytes.get(HEADER_LEN + 6)?;
        if bytes.get(HEADER_LEN)? >> 4 != 6 {
            return None;
        }
        for place in 0..EXTENSIONS {
            let extension = bytes.get(self.at..);
            match self.protocol {
                // Options for every router come first or not at all.
                HOP_BY_HOP if place > 0 => return None,
                ROUTING if *extension?.get(2)? == 0 || *extension?.get(3)? != 0 => return None,
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    let extension = extension?;
                    self.protocol = *extension.first()?;
                    self.at += (usize::from(*extension.get(1)?) + 1) * 8;
                }
                FRAGMENT => {
                    let extension = extension?;
                    let bits = be16(extension, 2)?;
                    let (offset, more) = (bits & 0xfff8, bits & 1 != 0);
                    self.protocol = *extension.first()?;
                    self.at += 8;
                    if offset != 0 || more {
                        self.fragment = Some(Fragment {
                            id: be32(extension, 4)?,
                            offset,
                            more,
                        });
                        return Some(());
                    }
                }
                _ => return Some(()),
            }
        }
        None
    }

    /// Reads the transport header of a whole packet or a first fragment.
    ///
    /// # Errors
    ///
    /// It makes no sense, or its protocol is not translated.
    pub(super) fn transport(
        &self,
        bytes: &[u8],
        header: VirtioNetHeader,
    ) -> Result<Packet<A>, DropReason> {
        self.read_transport(bytes, header)
            .ok_or(DropReason::BadPacket)
    }

    fn read_transport(&self, bytes: &[u8], header: VirtioNetHeader) -> Option<Packet<A>> {
        let gso = header.gso_type != GSO_NONE;
        let end = if gso { bytes.len() } else { self.end };
        let transport = bytes.get(self.at..end)?;
        let mut packet = Packet {
            src: self.src,
            dst: self.dst,
            src_port: be16(transport, 0)?,
            dst_port: be16(transport, 2)?,
            protocol: Protocol::Tcp,
            flags: 0,
            ttl: self.ttl,
            dont_fragment: self.dont_fragment,
            partial: false,
            at: self.at,
            payload: 0,
            size: end - HEADER_LEN,
        };
        let header_len;
        match self.protocol {
            PROTOCOL_TCP => {
                header_len = usize::from(*transport.get(12)? >> 4) * 4;
                packet.flags = *transport.get(13)?;
                if header_len < TCP_LEN {
                    return None;
                }
            }
            PROTOCOL_UDP => {
                header_len = UDP_LEN;
                packet.protocol = Protocol::Udp;
                let len = usize::from(be16(transport, 4)?);
                let fits = len <= transport.len() || self.fragment.is_some();
                if len < UDP_LEN || !fits {
                    return None;
                }
            }
            other if other == A::ICMP => {
                header_len = UDP_LEN;
                packet.protocol = Protocol::Icmp;
                let id = be16(transport, 4)?;
                (packet.src_port, packet.dst_port) =
                    echo::<A>(*transport.first()?, *transport.get(1)?, id)?;
                packet.flags = u8::from(*transport.first()? == A::ECHO_REQUEST);
            }
            _ => return None,
        }
        packet.payload = transport.len().checked_sub(header_len)?;
        packet.offload(header)?;
        Some(packet)
    }
}
