//! Frames in: from the kernel into memory of ours, and from there into a burst without a copy of their bodies.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, ptr};

use super::{PacketSocket, checked, empty_message, length};
use crate::net::drops::{DropReason, Drops};
use crate::ports::burst::{Burst, Segment};
use crate::wire::ethernet::{self, TAG_LEN};
use crate::wire::virtio_net::{
    DATA_VALID, GSO_NONE, GSO_TCPV4, GSO_TCPV6, HEADER_LEN, NEEDS_CSUM, VirtioNetHeader,
};

/// How many frames one visit to a port takes at most.
pub(in crate::ports) const VISIT: usize = 32;

/// Room for one frame: the header, 64 KiB, the Ethernet header and its tags. An odd number of cache lines modulo the
/// page size, so that the beginnings of the frames do not all compete for the same lines of the cache.
const SLOT: usize = 65 * 1024 + 192;

/// The memory that one visit's frames are read into. Pages are touched when a frame needs them.
pub(in crate::ports) struct Slots {
    base: *mut u8,
}

impl Slots {
    const LEN: usize = VISIT * SLOT;

    /// Maps the memory.
    #[expect(
        unsafe_code,
        reason = "memory that the kernel writes to while bursts point at it"
    )]
    pub(in crate::ports) fn new() -> io::Result<Self> {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // JUSTIFICATION: segments of a burst point into this memory while its owner is used; a vector would promise the
        // compiler that nobody does.
        // SAFETY: a new mapping replaces none.
        let base = unsafe { libc::mmap(ptr::null_mut(), Self::LEN, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast() })
    }

    /// Describes a whole slot for the kernel to write to.
    pub(in crate::ports) fn iovec(&self, slot: usize) -> libc::iovec {
        libc::iovec {
            iov_base: self.at(slot, 0).cast(),
            iov_len: SLOT,
        }
    }

    /// Describes `len` bytes of a slot from `offset` on, which stay until the slot is written to again.
    pub(in crate::ports) fn segment(&self, slot: usize, offset: usize, len: usize) -> Segment {
        assert!(offset + len <= SLOT, "no frame is longer than its slot");
        Segment::new(self.at(slot, offset), len)
    }

    /// Where byte `offset` of a slot is.
    fn at(&self, slot: usize, offset: usize) -> *mut u8 {
        assert!(
            slot < VISIT && offset <= SLOT,
            "slots are numbered by this file"
        );
        self.base.wrapping_add(slot * SLOT + offset)
    }

    /// Copies bytes of a slot.
    #[expect(
        unsafe_code,
        reason = "memory that the kernel writes to while bursts point at it"
    )]
    pub(in crate::ports) fn read(&self, slot: usize, offset: usize, out: &mut [u8]) {
        assert!(
            offset + out.len() <= SLOT,
            "no frame is longer than its slot"
        );
        // SAFETY: the range lies within one slot of the mapping, and `out` is somebody else's memory.
        unsafe { ptr::copy_nonoverlapping(self.at(slot, offset), out.as_mut_ptr(), out.len()) };
    }
}

impl Drop for Slots {
    #[expect(unsafe_code, reason = "the mapping is ours")]
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `new`, and unmapped here only. Bursts are released before their port goes.
        unsafe { libc::munmap(self.base.cast(), Self::LEN) };
    }
}

/// A frame in a slot, as the kernel described it.
struct Arrival {
    slot: usize,
    /// Of the virtio-net header and what there is of the frame.
    len: usize,
    truncated: bool,
    /// The tag that the kernel took off.
    tag: Option<[u8; TAG_LEN]>,
}

impl Slots {
    /// Adds a frame to the burst, if it is fit to go on.
    fn admit(&self, arrival: &Arrival, burst: &mut Burst) -> Result<(), DropReason> {
        if arrival.truncated {
            return Err(DropReason::TooBig);
        }
        if arrival.len < HEADER_LEN + ethernet::HEADER_LEN {
            return Err(DropReason::Runt);
        }
        let mut header = [0; HEADER_LEN];
        self.read(arrival.slot, 0, &mut header);
        let mut offload = sane(VirtioNetHeader::parse(&header))?;

        let head = burst.begin();
        let buffer = head.buffer();
        let tag_len = arrival.tag.map_or(0, |tag| tag.len());
        let in_head = (arrival.len - HEADER_LEN).min(buffer.len() - tag_len);
        match arrival.tag {
            None => self.read(arrival.slot, HEADER_LEN, &mut buffer[..in_head]),
            Some(tag) => {
                const ADDRESSES: usize = 12;
                self.read(arrival.slot, HEADER_LEN, &mut buffer[..ADDRESSES]);
                buffer[ADDRESSES..ADDRESSES + TAG_LEN].copy_from_slice(&tag);
                self.read(
                    arrival.slot,
                    HEADER_LEN + ADDRESSES,
                    &mut buffer[ADDRESSES + TAG_LEN..in_head + TAG_LEN],
                );
                if offload.needs_checksum() {
                    offload.csum_start = offload
                        .csum_start
                        .checked_add(4)
                        .ok_or(DropReason::BadOffload)?;
                }
                if offload.gso_type != GSO_NONE {
                    offload.hdr_len = offload.hdr_len.saturating_add(4);
                }
            }
        }
        head.set_len(in_head + tag_len);
        head.offload = offload;
        head.frame_len = length(arrival.len - HEADER_LEN + tag_len);

        let body = HEADER_LEN + in_head;
        if body < arrival.len {
            burst.push_segment(Segment::new(
                self.at(arrival.slot, body),
                arrival.len - body,
            ));
        }
        burst.commit();
        Ok(())
    }
}

/// Returns what is kept of a header that the kernel wrote.
fn sane(header: VirtioNetHeader) -> Result<VirtioNetHeader, DropReason> {
    let mut sane = VirtioNetHeader {
        flags: header.flags & (NEEDS_CSUM | DATA_VALID),
        ..header
    };
    if !sane.needs_checksum() {
        (sane.csum_start, sane.csum_offset) = (0, 0);
    }
    if sane.gso_type == GSO_NONE {
        (sane.gso_size, sane.hdr_len) = (0, 0);
    } else if !matches!(sane.gso_kind(), GSO_TCPV4 | GSO_TCPV6) {
        return Err(DropReason::BadOffload);
    }
    Ok(sane)
}

/// What came of a look for frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ports) enum Looked {
    /// Frames were taken, or there were none.
    Done,
    /// The device is down or gone.
    Down,
}

/// Takes frames off a TAP device.
pub(in crate::ports) struct TapReceiver {
    slots: Slots,
}

impl TapReceiver {
    /// Reserves the memory.
    pub(in crate::ports) fn new() -> io::Result<Self> {
        Ok(Self {
            slots: Slots::new()?,
        })
    }

    /// Reads frames into the burst, which must have been cleared of those read before.
    pub(in crate::ports) fn receive(
        &mut self,
        tun: BorrowedFd<'_>,
        burst: &mut Burst,
        drops: &mut Drops,
    ) -> io::Result<Looked> {
        for slot in 0..burst.room().min(VISIT) {
            match self.read(tun, slot) {
                Ok(len) => {
                    let arrival = Arrival {
                        slot,
                        len,
                        truncated: len == SLOT,
                        tag: None,
                    };
                    if let Err(reason) = self.slots.admit(&arrival, burst) {
                        drops.count(reason);
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => break,
                    // The kernel has no words for the frame's offloads, and has dropped it.
                    Some(libc::EINVAL) => drops.count(DropReason::BadOffload),
                    Some(libc::EBADFD | libc::EIO | libc::EFAULT | libc::ENODEV) => {
                        return Ok(Looked::Down);
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(Looked::Done)
    }

    #[expect(
        unsafe_code,
        reason = "the memory is no slice, since bursts point into it"
    )]
    fn read(&self, tun: BorrowedFd<'_>, slot: usize) -> io::Result<usize> {
        let into = self.slots.at(slot, 0);
        // SAFETY: the slot is as long as that, and no burst points into it: the last one was cleared.
        checked(unsafe { libc::read(tun.as_raw_fd(), into.cast(), SLOT) })
    }
}

/// Room for one control message with a `tpacket_auxdata`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 48]);

impl Control {
    const EMPTY: Self = Self([0; 48]);

    /// Returns the tag that the kernel took off the frame.
    fn tag(&self, len: usize) -> Option<[u8; TAG_LEN]> {
        let message = self.0.get(..len)?;
        // A `cmsghdr` ends with its level and type, each an `int`; nothing but auxdata was asked for.
        let (header, auxdata) = message.split_at_checked(size_of::<libc::cmsghdr>())?;
        let (kind, level) = (
            header.last_chunk::<4>()?,
            header[header.len() - 8..].first_chunk::<4>()?,
        );
        if i32::from_ne_bytes(*kind) != libc::PACKET_AUXDATA
            || i32::from_ne_bytes(*level) != libc::SOL_PACKET
        {
            return None;
        }
        let status = u32::from_ne_bytes(*auxdata.first_chunk()?);
        let [a, b, c, d] = *auxdata.get(16..20)?.first_chunk()?;
        if status & libc::TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
            0 => ethernet::ETHERTYPE_VLAN,
            _ => u16::from_ne_bytes([c, d]),
        };
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), u16::from_ne_bytes([a, b]).to_be_bytes());
        Some([a, b, c, d])
    }
}

/// Takes frames off a packet socket, many with one call.
pub(in crate::ports) struct PacketReceiver {
    slots: Slots,
    iovecs: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
    controls: Box<[Control]>,
    names: Box<[[u8; size_of::<libc::sockaddr_ll>()]]>,
}

// JUSTIFICATION: the pointers in `messages` and `iovecs` are written before each call and not used after it.
// SAFETY: `slots` is memory that belongs to nobody's thread.
#[expect(unsafe_code, reason = "raw pointers")]
unsafe impl Send for PacketReceiver {}
// SAFETY: it is memory that belongs to nobody's thread.
#[expect(unsafe_code, reason = "a raw pointer")]
unsafe impl Send for Slots {}

impl PacketReceiver {
    /// Reserves the memory.
    pub(in crate::ports) fn new() -> io::Result<Self> {
        let iovec = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Ok(Self {
            slots: Slots::new()?,
            iovecs: vec![iovec; VISIT].into(),
            messages: vec![empty_message(); VISIT].into(),
            controls: vec![Control::EMPTY; VISIT].into(),
            names: vec![[0; size_of::<libc::sockaddr_ll>()]; VISIT].into(),
        })
    }

    /// Reads frames into the burst, which must have been cleared of those read before.
    pub(in crate::ports) fn receive(
        &mut self,
        socket: &PacketSocket,
        burst: &mut Burst,
        drops: &mut Drops,
    ) -> io::Result<Looked> {
        let room = burst.room().min(VISIT);
        // Each answer of EINVAL stands for a frame that is gone, so this ends.
        for _ in 0..room {
            let received = match self.call(socket, room) {
                Ok(received) => received,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => return Ok(Looked::Done),
                    // The kernel has no words for the frame's offloads, and has dropped it.
                    Some(libc::EINVAL) => {
                        drops.count(DropReason::BadOffload);
                        continue;
                    }
                    Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => return Ok(Looked::Down),
                    _ => return Err(error),
                },
            };
            for slot in 0..received {
                if !socket.ignores_outgoing
                    && self.names[slot][PACKET_TYPE] == libc::PACKET_OUTGOING
                {
                    continue;
                }
                let message = &self.messages[slot];
                let arrival = Arrival {
                    slot,
                    len: usize::try_from(message.msg_len).unwrap_or(0),
                    truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                    tag: self.controls[slot].tag(message.msg_hdr.msg_controllen),
                };
                if let Err(reason) = self.slots.admit(&arrival, burst) {
                    drops.count(reason);
                }
            }
            return Ok(Looked::Done);
        }
        Ok(Looked::Done)
    }

    #[expect(unsafe_code, reason = "std has no recvmmsg")]
    fn call(&mut self, socket: &PacketSocket, count: usize) -> io::Result<usize> {
        for slot in 0..count {
            self.iovecs[slot] = libc::iovec {
                iov_base: self.slots.at(slot, 0).cast(),
                iov_len: SLOT,
            };
            let header = &mut self.messages[slot].msg_hdr;
            header.msg_iov = &raw mut self.iovecs[slot];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[slot]).cast();
            header.msg_controllen = size_of::<Control>();
            header.msg_flags = 0;
            if !socket.ignores_outgoing {
                header.msg_name = (&raw mut self.names[slot]).cast();
                header.msg_namelen = length(size_of::<libc::sockaddr_ll>());
            }
        }
        let (messages, count) = (self.messages.as_mut_ptr(), length(count));
        let no_timeout = ptr::null_mut();
        // SAFETY: the first `count` messages were just pointed at memory of ours, all of different slots, with its true
        // lengths; no burst points into the slots, since the last one was cleared.
        checked(unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                messages,
                count,
                libc::MSG_DONTWAIT,
                no_timeout,
            )
        })
    }
}

/// Where `sll_pkttype` is in a `sockaddr_ll`.
const PACKET_TYPE: usize = mem::offset_of!(libc::sockaddr_ll, sll_pkttype);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::vlan::TagAction;

    #[test]
    fn only_tcp_segmentation_and_checksum_flags_are_kept_of_a_header() {
        let header = VirtioNetHeader {
            flags: 0xfc,
            gso_type: GSO_NONE,
            hdr_len: 1,
            gso_size: 2,
            csum_start: 3,
            csum_offset: 4,
        };
        assert_eq!(sane(header), Ok(VirtioNetHeader::default()));
        let tcp = VirtioNetHeader {
            flags: NEEDS_CSUM | DATA_VALID,
            gso_type: GSO_TCPV6 | 0x80,
            ..header
        };
        assert_eq!(sane(tcp), Ok(tcp));
        for gso_type in [2, 3, 5, 0x7f, 0x80] {
            assert_eq!(
                sane(VirtioNetHeader { gso_type, ..header }),
                Err(DropReason::BadOffload),
                "{gso_type}"
            );
        }
    }

    /// A control message as the kernel writes it.
    fn control(status: u32, tci: u16, tpid: u16) -> (Control, usize) {
        let mut bytes = Vec::from((size_of::<libc::cmsghdr>() + 20).to_ne_bytes());
        bytes.extend(libc::SOL_PACKET.to_ne_bytes());
        bytes.extend(libc::PACKET_AUXDATA.to_ne_bytes());
        bytes.extend(status.to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(tci.to_ne_bytes());
        bytes.extend(tpid.to_ne_bytes());
        let mut control = Control::EMPTY;
        control.0[..bytes.len()].copy_from_slice(&bytes);
        (control, bytes.len())
    }

    #[test]
    fn a_tag_is_told_by_the_control_message_and_by_nothing_else() {
        let (both, vlan) = (
            libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID,
            libc::TP_STATUS_VLAN_VALID,
        );
        let (message, len) = control(both, 0x600a, 0x88a8);
        assert_eq!(message.tag(len), Some([0x88, 0xa8, 0x60, 0x0a]));
        assert_eq!(message.tag(len - 1), None);
        assert_eq!(message.tag(0), None);
        let (message, len) = control(vlan, 10, 0);
        assert_eq!(message.tag(len), Some([0x81, 0, 0, 10]));
        let (message, len) = control(1, 10, 0x8100);
        assert_eq!(message.tag(len), None);
    }

    fn admitted(frame: &[u8], tag: Option<[u8; 4]>) -> (Slots, Burst) {
        let (slots, mut burst) = (Slots::new().unwrap(), Burst::default());
        let header = VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 6,
            ..VirtioNetHeader::default()
        };
        let bytes = [&header.emit(0)[..HEADER_LEN], frame].concat();
        write(&slots, &bytes);
        let arrival = Arrival {
            slot: 3,
            len: bytes.len(),
            truncated: false,
            tag,
        };
        slots.admit(&arrival, &mut burst).unwrap();
        (slots, burst)
    }

    #[expect(unsafe_code, reason = "the test plays the kernel")]
    fn write(slots: &Slots, bytes: &[u8]) {
        assert!(bytes.len() <= SLOT);
        // SAFETY: the slot is long enough.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), slots.at(3, 0), bytes.len()) };
    }

    #[test]
    fn a_stripped_tag_is_put_back_whatever_the_length_of_the_frame() {
        for len in [42, 60, 123, 124, 125, 127, 128, 129, 1514] {
            let frame: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            for tag in [None, Some([0x81, 0, 0, 10])] {
                let (_slots, burst) = admitted(&frame, tag);
                let [only] = burst.frames() else {
                    panic!("one frame")
                };
                let mut out = Vec::new();
                burst.copy_frame(only, TagAction::Keep, &mut out);
                let expected = [
                    &frame[..12],
                    tag.as_ref().map_or(&[][..], |tag| &tag[..]),
                    &frame[12..],
                ]
                .concat();
                assert_eq!(out, expected, "{len} {tag:?}");
                assert_eq!(only.head.frame_len as usize, expected.len());
                assert_eq!(
                    only.head.offload.csum_start,
                    if tag.is_some() { 38 } else { 34 }
                );
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_too_short_is_dropped() {
        let (slots, mut burst) = (Slots::new().unwrap(), Burst::default());
        let mut admit = |len, truncated| {
            slots.admit(
                &Arrival {
                    slot: 0,
                    len,
                    truncated,
                    tag: None,
                },
                &mut burst,
            )
        };
        assert_eq!(admit(SLOT, true), Err(DropReason::TooBig));
        assert_eq!(admit(0, false), Err(DropReason::Runt));
        assert_eq!(admit(HEADER_LEN + 13, false), Err(DropReason::Runt));
        assert_eq!(admit(HEADER_LEN + 14, false), Ok(()));
    }
}
