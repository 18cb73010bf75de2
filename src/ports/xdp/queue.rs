//! One queue of an adapter: its socket, frames in and frames out.
//!
//! # Theory of operation
//!
//! The lower chunks of the frames are received into, the upper ones are sent from. What comes in is pointed at by a burst
//! and given back when the burst is released. What leaves is copied once, into a *slot*: chunks in a row that hold the
//! longest frame there can be. A slot is free again when all its chunks have been completed.
//!
//! Nothing that comes in says what its sender left undone, which one on the same machine may have; see
//! [`offload::infer`]. What leaves is finished here, its checksum in the slot where it lies.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::memory::{CHUNK, Frames};
use super::socket::{Address, Binding, Rings, Sizes, XdpSocket};
use crate::net::drops::{DropReason, Drops};
use crate::net::offload::{self, Capabilities};
use crate::ports::burst::{Burst, Segment};
use crate::ports::egress::Sink;
use crate::wire::be16;
use crate::wire::ethernet::{ETHERTYPE_SERVICE, ETHERTYPE_VLAN, HEADER_LEN, TAG_LEN};
use crate::wire::virtio_net::{NEEDS_CSUM, VirtioNetHeader};

/// How many frames a queue can hold for us until we look.
const RECEIVE: u32 = 1024;
/// How many chunks can be on their way out.
const TRANSMIT: u32 = 1024;
/// The most pieces that a frame comes in: 64 KiB and its headers.
const PIECES: u32 = 18;
/// How many free slots make it worth while to wait with looking for completed ones.
const PLENTY: usize = 128;
/// How many frames the kernel takes at most with one call, where it copies.
const KERNEL_BATCH: u32 = 32;

/// A queue that is bound.
pub(super) struct Queue {
    socket: XdpSocket,
    rings: Rings,
    frames: Frames,
    /// The largest packet of the adapter.
    mtu: u16,
    /// Chunks that the burst points into.
    held: Vec<Address>,
    /// Chunks of a slot.
    slot_chunks: u32,
    /// Slots that are free.
    free: Vec<u32>,
    /// Of each slot, the chunks that have yet to be completed.
    under_way: Box<[u32]>,
}

/// Which part a queue plays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Frames come in and leave.
    Both,
    /// Frames come in.
    Receive,
}

impl Queue {
    /// Opens a socket and binds it to the queue, the first way of `bindings` that the kernel takes.
    pub(super) fn open(
        (index, number): (i32, u32),
        bindings: &[Binding],
        mtu: u16,
        part: Part,
    ) -> io::Result<(Self, Binding)> {
        let sizes = Sizes {
            receive: RECEIVE,
            transmit: match part {
                Part::Both => TRANSMIT,
                // The kernel binds no pair of which one is missing, and one that is never used costs little.
                Part::Receive => 1,
            },
        };
        let frames = Frames::new((sizes.receive + sizes.transmit) as usize)?;
        let (socket, rings) = XdpSocket::open(&frames, sizes)?;
        let mut answer = Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        for binding in bindings {
            answer = socket.bind(index, number, *binding).map(|()| *binding);
            if answer.is_ok() {
                break;
            }
        }
        let binding = answer?;
        let longest = usize::from(mtu) + HEADER_LEN + TAG_LEN;
        let slot_chunks = u32::try_from(longest.div_ceil(CHUNK)).unwrap_or(u32::MAX);
        let slots = sizes.transmit / slot_chunks;
        let mut this = Self {
            socket,
            rings,
            frames,
            mtu,
            held: Vec::with_capacity(sizes.receive as usize),
            slot_chunks,
            free: (0..slots).rev().collect(),
            under_way: vec![0; slots as usize].into(),
        };
        for chunk in 0..sizes.receive {
            this.rings.fill.put(u64::from(chunk) * CHUNK as u64);
        }
        this.rings.fill.publish();
        Ok((this, binding))
    }

    /// Tells whether frames have come in.
    pub(super) fn has_frames(&mut self) -> bool {
        self.rings.received.available() > 0
    }

    /// Adds frames that came in to the burst, as many as there are and fit.
    pub(super) fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) {
        while burst.room() > 0 {
            let available = self.rings.received.available();
            let ends =
                |ahead: &u32| self.rings.received.peek(*ahead).options & libc::XDP_PKT_CONTD == 0;
            let count = match (0..available).find(ends) {
                Some(last) => last + 1,
                // Its end is still to come; what is longer than any frame has none.
                None if available <= PIECES => break,
                None => available,
            };
            if let Err(reason) = self.admit(count, burst) {
                drops.count(reason);
            }
            self.rings.received.take(count);
        }
        self.rings.received.publish();
    }

    /// Adds a frame of so many pieces to the burst, if it is fit to go on. Its chunks are held in any case.
    #[inline]
    fn admit(&mut self, pieces: u32, burst: &mut Burst) -> Result<(), DropReason> {
        let Self {
            rings,
            frames,
            held,
            mtu,
            ..
        } = self;
        let head = burst.begin();
        let (mut in_head, mut frame_len) = (0, 0);
        for ahead in 0..pieces {
            let piece = rings.received.peek(ahead);
            held.push(piece.addr & !(CHUNK as u64 - 1));
            if frame_len == in_head {
                let (at, len) = range(&piece);
                let rest = &mut head.buffer()[in_head..];
                let more = len.min(rest.len());
                frames.read(at, &mut rest[..more]);
                in_head += more;
            }
            frame_len += piece.len as usize;
        }
        if pieces > PIECES {
            return Err(DropReason::TooBig);
        }
        if in_head < HEADER_LEN {
            return Err(DropReason::Runt);
        }
        head.set_len(in_head);
        head.offload = VirtioNetHeader::default();
        head.frame_len = u32::try_from(frame_len).unwrap_or(u32::MAX);
        offload::infer(head, *mtu);
        let mut before = 0;
        for ahead in 0..pieces {
            let (at, len) = range(&rings.received.peek(ahead));
            let skipped = in_head.saturating_sub(before).min(len);
            if skipped < len {
                burst.push_segment(frames.segment(at + skipped, len - skipped));
            }
            before += len;
        }
        burst.commit();
        Ok(())
    }

    /// Gives the chunks that a burst pointed into back to the kernel.
    pub(super) fn give_back(&mut self) {
        if self.held.is_empty() {
            return;
        }
        // There are more entries than chunks.
        for chunk in self.held.drain(..) {
            self.rings.fill.put(chunk);
        }
        self.rings.fill.publish();
        if self.rings.fill.wants_wakeup() {
            self.socket.wake();
        }
    }

    /// Tells whether a burst may point into its chunks.
    pub(super) fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes back what has left.
    fn reclaim(&mut self) {
        let first = u64::from(RECEIVE) * CHUNK as u64;
        loop {
            let available = self.rings.completed.available();
            if available == 0 {
                break;
            }
            for ahead in 0..available {
                let chunk = (self.rings.completed.peek(ahead) - first) / CHUNK as u64;
                #[expect(clippy::cast_possible_truncation, reason = "there are few slots")]
                let slot = (chunk / u64::from(self.slot_chunks)) as u32;
                let under_way = &mut self.under_way[slot as usize];
                *under_way -= 1;
                if *under_way == 0 {
                    self.free.push(slot);
                }
            }
            self.rings.completed.take(available);
            self.rings.completed.publish();
        }
    }

    /// Starts to send frames.
    pub(super) fn start(&mut self) -> Sending<'_> {
        if self.free.len() < PLENTY {
            self.reclaim();
        }
        Sending { queue: self }
    }

    /// Hands what was put into the transmit ring to the kernel.
    pub(super) fn kick(&mut self) -> io::Result<()> {
        self.rings.transmit.publish();
        let mut waiting = self.rings.transmit.waiting();
        let mut calls = waiting.div_ceil(KERNEL_BATCH) + 1;
        while waiting > 0 && calls > 0 && self.rings.transmit.wants_wakeup() {
            let answer = self.socket.send();
            let left = self.rings.transmit.waiting();
            match answer.as_ref().map_err(io::Error::raw_os_error) {
                // It takes part of what there is with one call.
                Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS)) if left < waiting => {}
                // The adapter has no room; it is told again the next time.
                Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS)) => return Ok(()),
                Err(_) => return answer,
                Ok(()) if left == waiting => return Ok(()),
                Ok(()) => {}
            }
            waiting = left;
            calls -= 1;
        }
        Ok(())
    }

    /// Tells whether frames wait for the adapter to have room.
    pub(super) fn has_waiting(&mut self) -> bool {
        self.rings.transmit.waiting() > 0
    }
}

/// Where a piece begins, and how long it is.
#[inline]
fn range(piece: &libc::xdp_desc) -> (usize, usize) {
    (
        usize::try_from(piece.addr).unwrap_or(usize::MAX),
        piece.len as usize,
    )
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Frames on their way out. They are copied when they are put, and leave with [`Queue::kick`].
pub(super) struct Sending<'a> {
    queue: &'a mut Queue,
}

impl Queue {
    /// Returns the slot for the next frame, if there is one.
    fn take_slot(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            self.reclaim();
        }
        if self.free.is_empty() {
            // What the link has to say of it, the last kick of the batch is told, too.
            let _ = self.kick();
            self.reclaim();
        }
        self.free.pop()
    }
}

impl Sink for Sending<'_> {
    fn capabilities(&self) -> Capabilities {
        // It is completed in the slot, which saves a copy.
        Capabilities {
            checksum: true,
            ..Capabilities::default()
        }
    }

    #[inline]
    fn put(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
    ) -> Result<(), DropReason> {
        let queue = &mut *self.queue;
        let len = head.len() + body.iter().map(Segment::len).sum::<usize>();
        let tagged = matches!(be16(head, 12), Some(ETHERTYPE_VLAN | ETHERTYPE_SERVICE));
        let link_len = HEADER_LEN + if tagged { TAG_LEN } else { 0 };
        if len > usize::from(queue.mtu) + link_len {
            return Err(DropReason::TooBig);
        }
        let slot = queue.take_slot().ok_or(DropReason::DeviceBusy)?;
        let at = (RECEIVE + slot * queue.slot_chunks) as usize * CHUNK;
        queue.frames.write(at, head, body);
        if header.flags & NEEDS_CSUM != 0 {
            let frame = queue.frames.slice(at, len);
            if offload::complete_checksum(frame, header).is_none() {
                queue.free.push(slot);
                return Err(DropReason::BadOffload);
            }
        }
        let (mut at, mut rest) = (at, len);
        loop {
            let piece = rest.min(CHUNK);
            rest -= piece;
            // There are more entries than chunks.
            queue.rings.transmit.put(libc::xdp_desc {
                addr: at as u64,
                len: u32::try_from(piece).unwrap_or(u32::MAX),
                options: if rest > 0 { libc::XDP_PKT_CONTD } else { 0 },
            });
            queue.under_way[slot as usize] += 1;
            at += piece;
            if rest == 0 {
                break;
            }
        }
        Ok(())
    }
}
