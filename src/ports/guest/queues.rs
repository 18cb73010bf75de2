//! Frames in a guest's rings: read from the transmit queue, written to the receive queue.

use std::ptr;

use super::Negotiated;
use super::virtq::{Buffer, RingFault, Single, SplitRing};
use crate::net::drops::{DropReason, Drops};
use crate::net::frame::HEAD_CAPACITY;
use crate::net::offload::Capabilities;
use crate::ports::burst::{Burst, Segment};
use crate::ports::egress::Sink;
use crate::wire::virtio_net::{HEADER_LEN, MERGEABLE_HEADER_LEN, NEEDS_CSUM, VirtioNetHeader};

/// The longest frame: the largest IP packet behind a header with two tags, and some room.
const MAX_FRAME: usize = 65_535 + 64;
/// How many frames are read in one visit.
const VISIT: usize = 32;

/// Asks for a cache line that is going to be read.
#[inline]
fn prefetch_read(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "prefetching is an instruction")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for a cache line that is going to be written: a guest that holds it dirty gives it up in one go.
#[inline]
fn prefetch_write(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "prefetching is an instruction")]
    // SAFETY: a prefetch of any address is harmless, and processors without this one ignore it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Copies bytes between our memory and a guest's.
///
/// # Safety
///
/// `from` is readable and `to` writable for `len` bytes.
#[expect(unsafe_code, reason = "guest memory is raw memory")]
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // JUSTIFICATION: guest memory cannot be a slice, since its owner may write to it at any time.
    // SAFETY: the caller says so; our memory and guests' never overlap.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
}

/// Reading from a guest's transmit queue.
#[derive(Debug, Default)]
pub(super) struct Ingress {
    singles: Vec<Option<Single>>,
    /// The heads of the buffers that a burst still uses, in order.
    taken: Vec<u16>,
    buffers: Vec<Buffer>,
}

impl Ingress {
    /// Fills the burst from the queue.
    #[inline]
    pub(super) fn receive(
        &mut self,
        ring: &mut SplitRing,
        header_len: usize,
        burst: &mut Burst,
        drops: &mut Drops,
    ) -> Result<(), RingFault> {
        debug_assert!(self.taken.is_empty());
        #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
        let count = ring.available()?.min(burst.room().min(VISIT) as u16);
        self.singles.clear();
        for offset in 0..count {
            let single = ring.single(offset)?;
            if let Some(single) = &single {
                prefetch_read(single.buffer.host);
                prefetch_read(single.buffer.host.wrapping_add(64));
            }
            self.singles.push(single);
        }
        for offset in 0..count {
            match self.singles[usize::from(offset)] {
                Some(single) if single.buffer.len >= header_len => {
                    self.taken.push(single.id);
                    read_single(single.buffer, header_len, burst, drops);
                }
                _ => {
                    self.buffers.clear();
                    let id = ring.chain(offset, &mut self.buffers)?;
                    self.taken.push(id);
                    read_chain(&self.buffers, header_len, burst, drops);
                }
            }
        }
        ring.take(count);
        Ok(())
    }

    /// Gives the buffers of the burst back to the guest.
    #[inline]
    pub(super) fn release(&mut self, ring: &mut SplitRing) {
        for id in self.taken.drain(..) {
            ring.complete(id, 0);
        }
        ring.publish();
    }

    /// Forgets the buffers of a ring that failed.
    pub(super) fn forget(&mut self) {
        self.taken.clear();
    }
}

/// Reads a frame that lies in one piece behind its header.
#[expect(unsafe_code, reason = "guest memory is raw memory")]
#[inline]
fn read_single(buffer: Buffer, header_len: usize, burst: &mut Burst, drops: &mut Drops) {
    let len = buffer.len - header_len;
    if len > MAX_FRAME {
        return drops.count(DropReason::TooBig);
    }
    let mut header = [0; HEADER_LEN];
    // SAFETY: the buffer is at least as long as the header.
    unsafe { copy(buffer.host, header.as_mut_ptr(), HEADER_LEN) };
    let data = buffer.host.wrapping_add(header_len);
    let head = burst.begin();
    if len > HEAD_CAPACITY {
        // SAFETY: more than this follows the header in the buffer.
        unsafe { copy(data, head.buffer().as_mut_ptr(), HEAD_CAPACITY) };
        burst.push_segment(Segment::new(
            data.wrapping_add(HEAD_CAPACITY),
            len - HEAD_CAPACITY,
        ));
    } else {
        // SAFETY: this is what follows the header, and it fits the head.
        unsafe { copy(data, head.buffer().as_mut_ptr(), len) };
    }
    finish_head(burst, &header, len);
}

/// Reads a frame whose header and bytes may be split anywhere.
#[expect(unsafe_code, reason = "guest memory is raw memory")]
#[cold]
fn read_chain(buffers: &[Buffer], header_len: usize, burst: &mut Burst, drops: &mut Drops) {
    let total: usize = buffers.iter().map(|buffer| buffer.len).sum();
    let Some(len) = total.checked_sub(header_len) else {
        return drops.count(DropReason::Runt);
    };
    if len > MAX_FRAME {
        return drops.count(DropReason::TooBig);
    }
    let mut start = [0; MERGEABLE_HEADER_LEN + HEAD_CAPACITY];
    let wanted = total.min(header_len + HEAD_CAPACITY);
    let mut filled = 0;
    burst.begin();
    for buffer in buffers {
        let part = buffer.len.min(wanted - filled);
        // SAFETY: the buffer has that many bytes, and `start` has room for `wanted`.
        unsafe { copy(buffer.host, start[filled..filled + part].as_mut_ptr(), part) };
        filled += part;
        if part < buffer.len {
            burst.push_segment(Segment::new(
                buffer.host.wrapping_add(part),
                buffer.len - part,
            ));
        }
    }
    let head = burst.begun();
    head.buffer()[..wanted - header_len].copy_from_slice(&start[header_len..wanted]);
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&start[..HEADER_LEN]);
    finish_head(burst, &header, len);
}

#[inline]
fn finish_head(burst: &mut Burst, header: &[u8; HEADER_LEN], len: usize) {
    let head = burst.begun();
    head.set_len(len);
    head.offload = VirtioNetHeader::parse(header);
    // Only the device may vouch for a checksum.
    head.offload.flags &= NEEDS_CSUM;
    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_FRAME")]
    let frame_len = len as u32;
    head.frame_len = frame_len;
    burst.commit();
}

/// Writing to a guest's receive queue.
#[derive(Debug, Default)]
pub(super) struct Egress {
    singles: Vec<Option<Single>>,
    buffers: Vec<Buffer>,
    chains: Vec<(u16, usize)>,
}

impl Egress {
    /// Starts to write a batch of `frames` frames.
    #[inline]
    pub(super) fn open<'a>(
        &'a mut self,
        ring: &'a mut SplitRing,
        negotiated: Negotiated,
        frames: usize,
    ) -> Result<ReceiveSink<'a>, RingFault> {
        let available = ring.available()?;
        self.singles.clear();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "no more than are available"
        )]
        let ahead = frames.min(usize::from(available)) as u16;
        for offset in 0..ahead {
            let single = ring.single(offset)?;
            if let Some(single) = &single {
                prefetch_write(single.buffer.host);
                prefetch_write(single.buffer.host.wrapping_add(64));
            }
            self.singles.push(single);
        }
        Ok(ReceiveSink {
            work: self,
            ring,
            negotiated,
            available,
            taken: 0,
            fault: None,
        })
    }
}

/// A receive queue while a batch is written to it.
#[derive(Debug)]
pub(super) struct ReceiveSink<'a> {
    work: &'a mut Egress,
    ring: &'a mut SplitRing,
    negotiated: Negotiated,
    available: u16,
    taken: u16,
    fault: Option<RingFault>,
}

impl ReceiveSink<'_> {
    /// Publishes what was written.
    #[inline]
    pub(super) fn close(self) -> Result<(), RingFault> {
        self.ring.take(self.taken);
        self.ring.publish();
        self.fault.map_or(Ok(()), Err)
    }

    /// Writes a frame across as many buffers as it needs, and the driver allows.
    #[cold]
    fn put_chained(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
        total: usize,
    ) -> Result<(), DropReason> {
        let work = &mut *self.work;
        work.buffers.clear();
        work.chains.clear();
        let (mut capacity, mut count) = (0, 0);
        while capacity < total {
            if self.taken + count >= self.available {
                return Err(DropReason::NoBuffer);
            }
            let begun = work.buffers.len();
            let id = self
                .ring
                .chain(self.taken + count, &mut work.buffers)
                .map_err(|fault| {
                    self.fault = Some(fault);
                    DropReason::NoBuffer
                })?;
            let len: usize = work.buffers[begun..].iter().map(|buffer| buffer.len).sum();
            work.chains.push((id, len));
            capacity += len;
            count += 1;
            if !self.negotiated.mergeable && capacity < total {
                return Err(DropReason::BufferTooSmall);
            }
        }
        let header = header.emit(count);
        let mut writer = Writer {
            buffers: &work.buffers,
            at: 0,
        };
        writer.write(Segment::of(&header[..self.negotiated.header_len]));
        writer.write(Segment::of(head));
        for segment in body {
            writer.write(*segment);
        }
        let mut left = total;
        for (id, len) in &work.chains {
            let used = left.min(*len);
            left -= used;
            #[expect(clippy::cast_possible_truncation, reason = "no longer than a frame")]
            self.ring.complete(*id, used as u32);
        }
        self.taken += count;
        Ok(())
    }
}

impl Sink for ReceiveSink<'_> {
    fn capabilities(&self) -> Capabilities {
        self.negotiated.capabilities
    }

    #[expect(unsafe_code, reason = "guest memory is raw memory")]
    #[inline]
    fn put(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
    ) -> Result<(), DropReason> {
        let header_len = self.negotiated.header_len;
        let total = header_len + head.len() + body.iter().map(Segment::len).sum::<usize>();
        if self.fault.is_some() {
            return Err(DropReason::NoBuffer);
        }
        if self.taken == self.available {
            // The driver may have added some since the batch began.
            match self.ring.available() {
                Ok(available) if available > self.taken => self.available = available,
                Ok(_) => return Err(DropReason::NoBuffer),
                Err(fault) => {
                    self.fault = Some(fault);
                    return Err(DropReason::NoBuffer);
                }
            }
        }
        let single = self
            .work
            .singles
            .get(usize::from(self.taken))
            .copied()
            .flatten();
        let Some(Single { id, buffer }) = single.filter(|single| single.buffer.len >= total) else {
            return self.put_chained(header, head, body, total);
        };
        let header = header.emit(1);
        // SAFETY: the buffer has room for the header and the whole frame.
        unsafe { copy(header.as_ptr(), buffer.host, header_len) };
        let mut at = buffer.host.wrapping_add(header_len);
        // SAFETY: as above.
        unsafe { copy(head.as_ptr(), at, head.len()) };
        at = at.wrapping_add(head.len());
        for segment in body {
            // SAFETY: the burst keeps its segments readable, and the buffer has room for the whole frame.
            unsafe { segment.copy_to(0, at, segment.len()) };
            at = at.wrapping_add(segment.len());
        }
        #[expect(clippy::cast_possible_truncation, reason = "no longer than a frame")]
        self.ring.complete(id, total as u32);
        self.taken += 1;
        Ok(())
    }
}

/// Writes one piece after the other across buffers.
struct Writer<'a> {
    buffers: &'a [Buffer],
    /// How far into the first of them.
    at: usize,
}

impl Writer<'_> {
    #[expect(unsafe_code, reason = "guest memory is raw memory")]
    fn write(&mut self, segment: Segment) {
        let mut done = 0;
        while done < segment.len() {
            let Some(buffer) = self.buffers.first() else {
                return;
            };
            let part = (buffer.len - self.at).min(segment.len() - done);
            // SAFETY: the buffer has that much room left behind `at`, the segment that many bytes behind `done`.
            unsafe { segment.copy_to(done, buffer.host.wrapping_add(self.at), part) };
            done += part;
            self.at += part;
            if self.at == buffer.len {
                self.buffers = &self.buffers[1..];
                self.at = 0;
            }
        }
    }
}
