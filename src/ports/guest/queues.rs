//! Frames in a guest's rings: read from the transmit queue, written to the receive queue.

use std::ptr;

use super::Negotiated;
use super::ring::{Buffer, RingFault, Single, Token, Virtqueue};
use crate::net::drops::{DropReason, Drops};
use crate::net::frame::HEAD_CAPACITY;
use crate::net::offload::Capabilities;
use crate::ports::burst::{Burst, Segment};
use crate::ports::egress::{Sink, put_copy};
use crate::ports::unread::{Pieces, Unread};
use crate::wire::virtio_net::{HEADER_LEN, MERGEABLE_HEADER_LEN, NEEDS_CSUM, VirtioNetHeader};

/// The longest frame: the largest IP packet behind a header with two tags, and some room.
const MAX_FRAME: usize = 65_535 + 64;
/// How many frames are read in one visit.
const VISIT: usize = 32;
/// After how many bytes a visit ends, so that a guest with large frames takes no more of the worker than others.
const VISIT_BYTES: usize = 256 << 10;
/// After how many pieces of memory a visit ends, and how many a batch may touch: a frame in the smallest buffers that
/// drivers use takes some fifty.
const VISIT_PIECES: usize = 4096;
/// A frame in more pieces than this is put together once, and not again for each receiver.
const MAX_PIECES: usize = 64;

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
    /// The buffers that a burst still uses, in order.
    taken: Vec<Token>,
    buffers: Vec<Buffer>,
}

impl Ingress {
    /// Fills the burst from the queue.
    #[inline]
    pub(super) fn receive(
        &mut self,
        ring: &mut impl Virtqueue,
        header_len: usize,
        burst: &mut Burst,
        drops: &mut Drops,
    ) -> Result<(), RingFault> {
        debug_assert!(self.taken.is_empty());
        #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
        let wanted = burst.room().min(VISIT) as u16;
        let count = ring.look(wanted)?.min(wanted);
        self.singles.clear();
        for offset in 0..count {
            let single = ring.single(offset)?;
            if let Some(single) = &single {
                prefetch_read(single.buffer.host);
                prefetch_read(single.buffer.host.wrapping_add(64));
            }
            self.singles.push(single);
        }
        let (mut taken, mut bytes, mut pieces) = (0, 0, 0);
        while taken < count && bytes < VISIT_BYTES && pieces < VISIT_PIECES {
            match self.singles[usize::from(taken)] {
                Some(single) if single.buffer.len >= header_len => {
                    bytes += single.buffer.len;
                    self.taken.push(single.token);
                    read_single(single.buffer, header_len, burst, drops);
                }
                _ => {
                    self.buffers.clear();
                    let token = ring.chain(taken, &mut self.buffers)?;
                    pieces += self.buffers.len();
                    bytes += self.buffers.iter().map(|buffer| buffer.len).sum::<usize>();
                    self.taken.push(token);
                    read_chain(&self.buffers, header_len, burst, drops);
                }
            }
            taken += 1;
        }
        ring.take(taken);
        Ok(())
    }

    /// Gives the buffers of the burst back to the guest.
    #[inline]
    pub(super) fn release(&mut self, ring: &mut impl Virtqueue) {
        for token in self.taken.drain(..) {
            ring.complete(token, 0);
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
    if buffers.len() > MAX_PIECES {
        burst.own_last_body();
    }
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
    chains: Vec<(Token, usize)>,
    /// Where in them the bytes of a socket go.
    room: Pieces,
}

impl Egress {
    /// Starts to write a batch of `frames` frames.
    #[inline]
    pub(super) fn open<'a, R: Virtqueue>(
        &'a mut self,
        ring: &'a mut R,
        negotiated: Negotiated,
        frames: usize,
    ) -> Result<ReceiveSink<'a, R>, RingFault> {
        let wanted = u16::try_from(frames).unwrap_or(u16::MAX);
        let available = ring.look(wanted)?;
        self.singles.clear();
        for offset in 0..wanted.min(available) {
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
            pieces: 0,
            fault: None,
        })
    }
}

/// A receive queue while a batch is written to it.
#[derive(Debug)]
pub(super) struct ReceiveSink<'a, R> {
    work: &'a mut Egress,
    ring: &'a mut R,
    negotiated: Negotiated,
    /// How many buffers are known to be available, those taken among them.
    available: u16,
    taken: u16,
    /// How many pieces of memory were looked at in chains.
    pieces: usize,
    fault: Option<RingFault>,
}

impl<R: Virtqueue> ReceiveSink<'_, R> {
    /// Publishes what was written.
    #[inline]
    pub(super) fn close(self) -> Result<(), RingFault> {
        self.ring.take(self.taken);
        self.ring.publish();
        self.fault.map_or(Ok(()), Err)
    }

    /// Whether there is a buffer `offset` after the next. The driver may have added some since the batch began.
    #[inline]
    fn has(&mut self, offset: u16) -> bool {
        offset < self.available || self.look_again(offset)
    }

    #[cold]
    fn look_again(&mut self, offset: u16) -> bool {
        match self.ring.look(offset.saturating_add(1)) {
            Ok(available) => self.available = available,
            Err(fault) => self.fault = Some(fault),
        }
        offset < self.available
    }

    /// Finds as many buffers as a frame of `total` bytes needs, and the driver allows; they are not taken yet.
    fn collect(&mut self, total: usize) -> Result<(), DropReason> {
        self.work.buffers.clear();
        self.work.chains.clear();
        let (mut capacity, mut count) = (0, 0);
        while capacity < total {
            if self.pieces >= VISIT_PIECES || !self.has(self.taken + count) {
                return Err(DropReason::NoBuffer);
            }
            let work = &mut *self.work;
            let begun = work.buffers.len();
            let token = self
                .ring
                .chain(self.taken + count, &mut work.buffers)
                .map_err(|fault| {
                    self.fault = Some(fault);
                    DropReason::NoBuffer
                })?;
            let len: usize = work.buffers[begun..].iter().map(|buffer| buffer.len).sum();
            self.pieces += work.buffers.len() - begun;
            if len < self.negotiated.header_len {
                self.fault = Some(RingFault::Short);
                return Err(DropReason::NoBuffer);
            }
            work.chains.push((token, len));
            capacity += len;
            count += 1;
            if !self.negotiated.mergeable && capacity < total {
                return Err(DropReason::BufferTooSmall);
            }
        }
        Ok(())
    }

    /// Writes what is in our memory into the buffers that were found.
    fn write(&self, header: VirtioNetHeader, head: &[u8], body: &[Segment]) -> Writer<'_> {
        #[expect(clippy::cast_possible_truncation, reason = "a ring has fewer chains")]
        let count = self.work.chains.len() as u16;
        let header = header.emit(count);
        let mut writer = Writer {
            buffers: &self.work.buffers,
            at: 0,
        };
        writer.write(Segment::of(&header[..self.negotiated.header_len]));
        writer.write(Segment::of(head));
        for segment in body {
            writer.write(*segment);
        }
        writer
    }

    /// Gives the buffers that were found to the driver, with a frame of `total` bytes in them.
    fn complete(&mut self, total: usize) {
        let mut left = total;
        for (token, len) in &self.work.chains {
            let used = left.min(*len);
            left -= used;
            #[expect(clippy::cast_possible_truncation, reason = "no longer than a frame")]
            self.ring.complete(*token, used as u32);
            self.taken += 1;
        }
    }

    /// Writes a frame across several buffers.
    #[cold]
    fn put_chained(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
        total: usize,
    ) -> Result<(), DropReason> {
        self.collect(total)?;
        self.write(header, head, body);
        self.complete(total);
        Ok(())
    }

    /// Tells whether there is a buffer for the next frame.
    #[inline]
    fn refill(&mut self) -> Result<(), DropReason> {
        if self.fault.is_some() || !self.has(self.taken) {
            return Err(DropReason::NoBuffer);
        }
        Ok(())
    }
}

impl<R: Virtqueue> Sink for ReceiveSink<'_, R> {
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
        self.refill()?;
        let single = self
            .work
            .singles
            .get(usize::from(self.taken))
            .copied()
            .flatten();
        let Some(Single { token, buffer }) = single.filter(|single| single.buffer.len >= total)
        else {
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
        self.ring.complete(token, total as u32);
        self.taken += 1;
        Ok(())
    }

    #[expect(unsafe_code, reason = "guest memory is raw memory")]
    fn put_unread(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
        unread: Unread,
    ) -> Result<(), DropReason> {
        let ours = head.len() + body.iter().map(Segment::len).sum::<usize>();
        let total = self.negotiated.header_len + ours + unread.len();
        self.refill()?;
        self.collect(total)?;
        let mut room = std::mem::take(&mut self.work.room);
        room.clear();
        self.write(header, head, body).rest(unread.len(), &mut room);
        if !room.fit_one_call() {
            return put_copy(self, header, head, body, unread);
        }
        // SAFETY: the pieces are in buffers of the guest's, which are mapped as long as the ring is attached.
        let read = unsafe { unread.read(&mut room) };
        self.work.room = room;
        // The sender tries again, and finds out what is the matter with the socket.
        read.map_err(|_| DropReason::NoBuffer)?;
        self.complete(total);
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

    /// Describes where the next `len` bytes go.
    fn rest(self, mut len: usize, room: &mut Pieces) {
        let mut at = self.at;
        for buffer in self.buffers {
            let part = (buffer.len - at).min(len);
            if part == 0 {
                return;
            }
            room.push(buffer.host.wrapping_add(at), part);
            len -= part;
            at = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::thread;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::super::memory::Memory;
    use super::super::ring::{Direction, Layout};
    use super::super::virtq::SplitRing;
    use super::*;
    use crate::ports::unread;

    const SIZE: u16 = 256;
    const AVAILABLE: u64 = 0x2000;
    const USED: u64 = 0x3000;
    const BUFFERS: u64 = 0x1_0000;
    const HEADER: usize = MERGEABLE_HEADER_LEN;

    /// A receive queue of which `count` buffers of `len` bytes are available.
    struct Guest {
        memory: Arc<GuestMemoryMmap<()>>,
        ring: SplitRing,
        len: u32,
    }

    impl Guest {
        fn new(count: u16, len: u32) -> Self {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
            let memory = Arc::new(memory);
            for slot in 0..u64::from(count) {
                let at = GuestAddress(slot * 16);
                let address = BUFFERS + slot * u64::from(len);
                memory.write_obj(address, at).unwrap();
                // Written by the device.
                let rest = u64::from(len) | 2 << 32;
                memory.write_obj(rest, GuestAddress(at.0 + 8)).unwrap();
                let entry = GuestAddress(AVAILABLE + 4 + slot * 2);
                memory
                    .write_obj(u16::try_from(slot).unwrap(), entry)
                    .unwrap();
            }
            memory
                .write_obj(count, GuestAddress(AVAILABLE + 2))
                .unwrap();
            let layout = Layout {
                size: SIZE,
                descriptors: 0,
                available: AVAILABLE,
                used: USED,
            };
            let mapped = Arc::new(Memory::new(Arc::clone(&memory)).unwrap());
            let ring = SplitRing::attach(mapped, layout, Direction::ToGuest, false).unwrap();
            Self { memory, ring, len }
        }

        /// Hands it a frame, and returns what then is in its used buffers behind the header.
        fn put(
            &mut self,
            mergeable: bool,
            head: &[u8],
            unread: Unread,
        ) -> Result<Vec<u8>, DropReason> {
            let negotiated = Negotiated {
                features: 0,
                header_len: HEADER,
                mergeable,
                capabilities: Capabilities::ALL,
            };
            let mut egress = Egress::default();
            let mut sink = egress.open(&mut self.ring, negotiated, 1).unwrap();
            let put = sink.put_unread(VirtioNetHeader::default(), head, &[], unread);
            sink.close().unwrap();
            let used: u16 = self.memory.read_obj(GuestAddress(USED + 2)).unwrap();
            put.inspect_err(|_| assert_eq!(used, 0, "nothing was given away"))?;
            let mut bytes = Vec::new();
            for slot in 0..u64::from(used) {
                let at = USED + 4 + slot * 8;
                let id: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
                let len: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
                let mut part = vec![0; len as usize];
                let from = BUFFERS + u64::from(id) * u64::from(self.len);
                self.memory
                    .read_slice(&mut part, GuestAddress(from))
                    .unwrap();
                bytes.extend(part);
            }
            assert_eq!(bytes[HEADER - 2..HEADER], used.to_le_bytes());
            Ok(bytes.split_off(HEADER))
        }
    }

    #[test]
    fn bytes_of_a_socket_are_read_into_as_many_buffers_as_they_need() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        if !unread::is_possible(reader.as_fd()) {
            return;
        }
        let all: Vec<u8> = (0..30_000u32).map(|at| (at % 253) as u8).collect();
        writer.write_all(&all).unwrap();
        while unread::count(reader.as_fd()).unwrap() < all.len() {
            thread::yield_now();
        }
        let head = [7; 54];
        for (buffers, len) in [(1, 40_000), (250, 128), (100, 1000), (2, 15_040)] {
            let unread = Unread::new(reader.as_fd(), 10, 29_990);
            let got = Guest::new(buffers, len).put(true, &head, unread).unwrap();
            assert!(got[..54] == head && got[54..] == all[10..], "{len}");
        }
        // Too few buffers, too small ones, and a socket that has less.
        for (buffers, len, mergeable, bytes, reason) in [
            (29, 1000, true, 30_000, DropReason::NoBuffer),
            (60, 1000, false, 30_000, DropReason::BufferTooSmall),
            (60, 1000, true, 30_001, DropReason::NoBuffer),
        ] {
            let unread = Unread::new(reader.as_fd(), 0, bytes);
            let put = Guest::new(buffers, len).put(mergeable, &head, unread);
            assert_eq!(put, Err(reason));
        }
        // Buffers hardly longer than the header.
        let unread = Unread::new(reader.as_fd(), 0, 1200);
        let mut guest = Guest::new(200, 13);
        assert_eq!(guest.put(true, &head, unread).unwrap()[54..], all[..1200]);
    }
}
