//! The head of a frame: its first bytes, copied out of its sender's memory once, before anything looks at them.
//!
//! What follows the head, the body, is memory of the sender that nobody here interprets; the ports carry it.

use crate::net::drops::DropReason;
use crate::net::vlan::{Tag, TagAction};
use crate::wire::ethernet::{ETHERTYPE_SERVICE, ETHERTYPE_VLAN, HEADER_LEN, MacAddr, TAG_LEN, Tci};
use crate::wire::virtio_net::VirtioNetHeader;
use crate::wire::{be16, ethernet};

/// How many bytes of a frame the head holds at most.
pub const HEAD_CAPACITY: usize = 128;

/// The first bytes of a frame, and what its sender left to be done to it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Head {
    bytes: [u8; HEAD_CAPACITY],
    len: u8,
    /// The sender's virtio-net header.
    pub offload: VirtioNetHeader,
    /// Length of the whole frame, head and body.
    pub frame_len: u32,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; HEAD_CAPACITY],
            len: 0,
            offload: VirtioNetHeader::default(),
            frame_len: 0,
        }
    }
}

/// The fields of a frame that the switch decides on.
// In this order, since addresses side by side would be written in other pieces than they are read in, for which the
// processor waits: 15 cycles a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Parsed {
    /// The destination address.
    pub dst: MacAddr,
    /// The EtherType behind the outer tag; that of a tag where the frame is stacked.
    pub ethertype: u16,
    /// The source address.
    pub src: MacAddr,
    /// Whether another tag follows the outer one, or a service tag (802.1ad) stands in its place.
    pub stacked: bool,
    /// The outer tag.
    pub tag: Tag,
}

impl Parsed {
    /// Where what the EtherType names begins.
    #[inline]
    pub const fn payload_at(&self) -> usize {
        match self.tag {
            Tag::Untagged => HEADER_LEN,
            Tag::Tagged(_) => HEADER_LEN + TAG_LEN,
        }
    }
}

impl Head {
    /// Returns the bytes that the head holds.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Returns the whole buffer, in which only the first bytes are the frame's.
    #[inline]
    pub const fn array(&self) -> &[u8; HEAD_CAPACITY] {
        &self.bytes
    }

    /// Returns the whole buffer, to be filled and then given its length by [`Head::set_len`].
    #[inline]
    pub fn buffer(&mut self) -> &mut [u8; HEAD_CAPACITY] {
        &mut self.bytes
    }

    /// Says how many bytes of the buffer are the frame's; more than it holds are cut.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
        let len = len.min(HEAD_CAPACITY) as u8;
        self.len = len;
    }

    /// Fills the head from the start of `frame`, which may be longer than a head.
    pub fn fill(&mut self, frame: &[u8], offload: VirtioNetHeader) {
        let len = frame.len().min(HEAD_CAPACITY);
        self.bytes[..len].copy_from_slice(&frame[..len]);
        self.set_len(len);
        self.offload = offload;
        self.frame_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    }

    /// Reads the addresses and the outer tag.
    ///
    /// # Errors
    ///
    /// The frame ends before its Ethernet header or tag does.
    #[inline]
    pub fn parse(&self) -> Result<Parsed, DropReason> {
        let bytes = self.bytes();
        if bytes.len() < HEADER_LEN {
            return Err(DropReason::Runt);
        }
        let mut ethertype = u16::from_be_bytes([bytes[12], bytes[13]]);
        let tag = if ethertype == ETHERTYPE_VLAN {
            ethertype = be16(bytes, 16).ok_or(DropReason::Runt)?;
            Tag::Tagged(Tci(u16::from_be_bytes([bytes[14], bytes[15]])))
        } else {
            Tag::Untagged
        };
        let stacked = ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE;
        Ok(Parsed {
            dst: MacAddr::from_slice(bytes).ok_or(DropReason::Runt)?,
            ethertype,
            src: MacAddr::from_slice(&bytes[6..]).ok_or(DropReason::Runt)?,
            stacked,
            tag,
        })
    }

    /// Returns the head as it leaves a port, for any action but [`TagAction::Keep`]: the tag changed, and the
    /// offload fields moved with what they point at.
    pub fn with_tag(&self, action: TagAction) -> EgressHead {
        let mut out = EgressHead {
            bytes: [0; HEAD_CAPACITY + TAG_LEN],
            len: self.bytes().len(),
            offload: self.offload,
        };
        let bytes = self.bytes();
        match action {
            TagAction::Keep => out.bytes[..bytes.len()].copy_from_slice(bytes),
            TagAction::Strip => {
                out.len -= TAG_LEN;
                out.bytes[..12].copy_from_slice(&bytes[..12]);
                out.bytes[12..out.len].copy_from_slice(&bytes[12 + TAG_LEN..]);
                out.move_offload(|at| at.saturating_sub(4));
            }
            TagAction::Insert(tci) => {
                out.len += TAG_LEN;
                out.bytes[..12].copy_from_slice(&bytes[..12]);
                out.bytes[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
                out.bytes[14..16].copy_from_slice(&tci.0.to_be_bytes());
                out.bytes[16..out.len].copy_from_slice(&bytes[12..]);
                out.move_offload(|at| at.saturating_add(4));
            }
            TagAction::Replace(tci) => {
                out.bytes[..bytes.len()].copy_from_slice(bytes);
                out.bytes[14..16].copy_from_slice(&tci.0.to_be_bytes());
            }
        }
        out
    }
}

/// A head as one port sends it, where that differs from how it came.
#[derive(Clone, Debug)]
pub struct EgressHead {
    bytes: [u8; HEAD_CAPACITY + TAG_LEN],
    len: usize,
    /// The offload fields, fitting the changed head.
    pub offload: VirtioNetHeader,
}

impl EgressHead {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn move_offload(&mut self, moved: impl Fn(u16) -> u16) {
        if self.offload.needs_checksum() {
            self.offload.csum_start = moved(self.offload.csum_start);
        }
        if self.offload.gso_type != crate::wire::virtio_net::GSO_NONE {
            self.offload.hdr_len = moved(self.offload.hdr_len);
        }
    }
}

/// Returns the length of the Ethernet header with its tags, and the EtherType behind them.
///
/// At most two tags are read.
pub fn ethernet_header(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = ethernet::HEADER_LEN;
    let mut ethertype = be16(frame, at - 2)?;
    for _ in 0..2 {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE {
            break;
        }
        at += TAG_LEN;
        ethertype = be16(frame, at - 2)?;
    }
    Some((at, ethertype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM};

    fn head(frame: &[u8], offload: VirtioNetHeader) -> Head {
        let mut head = Head::default();
        head.fill(frame, offload);
        head
    }

    #[test]
    fn a_tag_goes_on_and_comes_off_and_the_checksum_offset_moves_with_it() {
        let frame: Vec<u8> = (0..200u8).collect();
        let offload = VirtioNetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
        };
        let plain = head(&frame, offload);
        let tagged = plain.with_tag(TagAction::Insert(Tci(0x600a)));
        assert_eq!(tagged.bytes()[12..16], [0x81, 0, 0x60, 0x0a]);
        assert_eq!(tagged.bytes().len(), HEAD_CAPACITY + TAG_LEN);
        assert_eq!(
            (
                tagged.offload.csum_start,
                tagged.offload.hdr_len,
                tagged.offload.csum_offset
            ),
            (38, 58, 16)
        );

        let back = head(tagged.bytes(), tagged.offload);
        let stripped = back.with_tag(TagAction::Strip);
        assert_eq!(stripped.bytes(), &frame[..HEAD_CAPACITY - TAG_LEN]);
        assert_eq!(stripped.offload, offload);

        let replaced = back.with_tag(TagAction::Replace(Tci(7)));
        assert_eq!(back.parse().unwrap().tag, Tag::Tagged(Tci(0x600a)));
        assert_eq!(
            head(replaced.bytes(), replaced.offload)
                .parse()
                .unwrap()
                .tag,
            Tag::Tagged(Tci(7))
        );
    }

    #[test]
    fn a_frame_that_ends_too_early_is_a_runt() {
        let mut frame = vec![2u8; 18];
        frame[12..14].copy_from_slice(&[0x81, 0]);
        for len in 0..18 {
            assert_eq!(
                head(&frame[..len], VirtioNetHeader::default()).parse(),
                Err(DropReason::Runt),
                "{len}"
            );
        }
        assert!(head(&frame, VirtioNetHeader::default()).parse().is_ok());
    }
}
