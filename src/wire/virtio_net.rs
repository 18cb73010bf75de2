//! The virtio-net header (virtio 1.2, section 5.1.6): what its sender left undone.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

/// Length of the header without `num_buffers`, as the kernel's sockets and legacy drivers use it.
pub const HEADER_LEN: usize = 10;
/// Length of the header with `num_buffers`, as modern drivers use it.
pub const MERGEABLE_HEADER_LEN: usize = 12;

/// The checksum from `csum_start` on is to be completed.
#[expect(clippy::cast_possible_truncation, reason = "the flag is 1")]
pub const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
/// The checksums of the frame were verified.
#[expect(clippy::cast_possible_truncation, reason = "the flag is 2")]
pub const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID as u8;
/// An ordinary frame.
#[expect(clippy::cast_possible_truncation, reason = "the type is 0")]
pub const GSO_NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
/// A TCP super-frame over IPv4.
#[expect(clippy::cast_possible_truncation, reason = "the type is 1")]
pub const GSO_TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
/// A TCP super-frame over IPv6.
#[expect(clippy::cast_possible_truncation, reason = "the type is 4")]
pub const GSO_TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;
/// A bit beside a TCP type: the super-frame has CWR set, for its first segment only.
#[expect(clippy::cast_possible_truncation, reason = "the bit is 0x80")]
pub const GSO_ECN: u8 = VIRTIO_NET_HDR_GSO_ECN as u8;

/// The header's fields, in the order they have on the wire (little-endian there).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VirtioNetHeader {
    /// [`NEEDS_CSUM`] and [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`], or what kind of super-frame this is.
    pub gso_type: u8,
    /// Length of the headers that each segment repeats.
    pub hdr_len: u16,
    /// Payload bytes in each segment.
    pub gso_size: u16,
    /// Where the checksum begins to sum, from the start of the frame.
    pub csum_start: u16,
    /// Where it is stored, from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioNetHeader {
    /// Reads the ten bytes that every form of the header begins with.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([a, b]),
            gso_size: u16::from_le_bytes([c, d]),
            csum_start: u16::from_le_bytes([e, f]),
            csum_offset: u16::from_le_bytes([g, h]),
        }
    }

    /// Returns the twelve bytes of the mergeable form; the first ten are the short form.
    pub fn emit(self, num_buffers: u16) -> [u8; MERGEABLE_HEADER_LEN] {
        let ([a, b], [c, d]) = (self.hdr_len.to_le_bytes(), self.gso_size.to_le_bytes());
        let ([e, f], [g, h]) = (
            self.csum_start.to_le_bytes(),
            self.csum_offset.to_le_bytes(),
        );
        let [i, j] = num_buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }

    /// Tells whether the frame's checksum is still to be completed.
    pub fn needs_checksum(self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Returns the kind of super-frame, without the ECN bit.
    pub fn gso_kind(self) -> u8 {
        self.gso_type & !GSO_ECN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let header = VirtioNetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6 | GSO_ECN,
            hdr_len: 74,
            gso_size: 1428,
            csum_start: 54,
            csum_offset: 16,
        };
        let bytes = header.emit(3);
        assert_eq!(bytes[10..], [3, 0]);
        assert_eq!(
            VirtioNetHeader::parse(bytes[..10].try_into().unwrap()),
            header
        );
        assert_eq!(header.gso_kind(), GSO_TCPV6);
    }
}
