//! A burst: frames on their way from one port to others, with heads of our own and bodies in their sender's memory.
//!
//! The bodies are raw memory: a guest's buffers, or a buffer of the receiving port. Whoever adds a segment promises
//! that it stays readable until the burst is cleared; a burst is cleared before its port gives the memory back.
//! A guest can change a body at any time; nothing here interprets it.
//!
//! The end of a body may be in a socket still ([`Unread`]).

use std::{io, ptr};

use crate::net::frame::{HEAD_CAPACITY, Head};
use crate::net::vlan::TagAction;
use crate::ports::unread::Unread;
use crate::wire::virtio_net::VirtioNetHeader;

/// How many frames a burst holds at most.
pub const CAPACITY: usize = 64;

/// A piece of a frame's body.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    address: *const u8,
    len: usize,
}

// JUSTIFICATION: a burst belongs to a worker, which is opened by one thread and runs on another.
// SAFETY: the pointer leads into memory that belongs to no thread; reading it is what is unsafe.
#[expect(unsafe_code, reason = "the pointer leads into shared memory")]
unsafe impl Send for Segment {}

impl Segment {
    /// Describes `len` bytes at `address`.
    pub(super) const fn new(address: *const u8, len: usize) -> Self {
        Self { address, len }
    }

    /// Describes memory of our own, which must outlive the segment.
    pub(super) const fn of(bytes: &[u8]) -> Self {
        Self {
            address: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// Where the piece begins.
    pub(super) const fn address(&self) -> *const u8 {
        self.address
    }

    /// How long it is.
    #[expect(clippy::len_without_is_empty, reason = "an empty piece is never added")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Copies `out.len()` bytes from `offset` on.
    ///
    /// # Safety
    ///
    /// The segment reaches that far, and its memory is still readable.
    #[expect(unsafe_code, reason = "bodies are raw memory")]
    pub(super) unsafe fn copy_to(&self, offset: usize, out: *mut u8, len: usize) {
        debug_assert!(offset + len <= self.len);
        // SAFETY: the caller says that the segment reaches that far.
        let from = unsafe { self.address.add(offset) };
        // JUSTIFICATION: guest memory cannot be a slice, since its owner may write to it at any time.
        // SAFETY: the caller says that the source is readable and `out` writable for `len` bytes; mappings of guests'
        // memory and our own memory do not overlap.
        unsafe { ptr::copy_nonoverlapping(from, out, len) };
    }
}

/// One frame of a burst.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The first bytes, ours.
    pub head: Head,
    first: u32,
    count: u32,
    /// Which of the burst's bytes in sockets end it: one more than the place, and zero for none.
    unread: u8,
}

/// Up to [`CAPACITY`] frames.
#[derive(Debug)]
pub struct Burst {
    frames: Box<[Frame]>,
    len: usize,
    segments: Vec<Segment>,
    owned: Vec<Vec<u8>>,
    /// What of frames is still in sockets.
    unread: Vec<Unread>,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            frames: vec![Frame::default(); CAPACITY].into_boxed_slice(),
            len: 0,
            segments: Vec::with_capacity(CAPACITY * 4),
            owned: Vec::new(),
            unread: Vec::new(),
        }
    }
}

impl Burst {
    /// Tells how many frames there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tells how many more fit.
    pub const fn room(&self) -> usize {
        CAPACITY - self.len
    }

    /// The frames.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames[..self.len]
    }

    /// The frames, to be changed before they go on.
    pub fn frames_mut(&mut self) -> &mut [Frame] {
        &mut self.frames[..self.len]
    }

    /// Forgets all frames. Their memory may be given back after this.
    pub fn clear(&mut self) {
        self.len = 0;
        self.segments.clear();
        self.owned.clear();
        self.unread.clear();
    }

    /// Adds a frame in memory of our own. A full burst takes no more, and says so.
    pub fn push_owned(&mut self, frame: Vec<u8>, offload: VirtioNetHeader) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.begin().fill(&frame, offload);
        if frame.len() > HEAD_CAPACITY {
            self.push_segment(Segment::of(&frame[HEAD_CAPACITY..]));
            self.owned.push(frame);
        }
        self.commit();
        true
    }

    /// Starts the next frame: returns its head to be filled; its segments follow by [`Burst::push_segment`]. There
    /// must be room.
    #[inline]
    pub(super) fn begin(&mut self) -> &mut Head {
        let frame = &mut self.frames[self.len];
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a burst has far fewer segments than 2^32"
        )]
        let first = self.segments.len() as u32;
        frame.first = first;
        frame.count = 0;
        frame.unread = 0;
        &mut frame.head
    }

    /// Adds a piece to the body of the frame that was begun.
    #[inline]
    pub(super) fn push_segment(&mut self, segment: Segment) {
        self.frames[self.len].count += 1;
        self.segments.push(segment);
    }

    /// Ends the body of the frame that was begun with bytes of a socket.
    pub(super) fn push_unread(&mut self, unread: Unread) {
        self.unread.push(unread);
        // There is at most one for each frame.
        self.frames[self.len].unread = u8::try_from(self.unread.len()).unwrap_or_default();
    }

    /// What of a frame is still in a socket, behind its body.
    #[inline]
    pub(super) fn unread(&self, frame: &Frame) -> Option<Unread> {
        let place = usize::from(frame.unread).checked_sub(1)?;
        self.unread.get(place).copied()
    }

    /// The head of the frame that was begun.
    #[inline]
    pub(super) fn begun(&mut self) -> &mut Head {
        &mut self.frames[self.len].head
    }

    /// Finishes the frame that was begun.
    #[inline]
    pub(super) fn commit(&mut self) {
        self.len += 1;
    }

    /// Copies the body of the frame that was committed last into memory of our own, in one piece.
    /// Such a frame has nothing in a socket.
    pub(super) fn own_last_body(&mut self) {
        let Some(frame) = self
            .len
            .checked_sub(1)
            .map(|last| self.frames[last].clone())
        else {
            return;
        };
        let mut body = Vec::new();
        self.gather(self.body(&frame), &mut body);
        self.segments.truncate(frame.first as usize);
        self.segments.push(Segment::of(&body));
        self.owned.push(body);
        self.frames[self.len - 1].count = 1;
    }

    /// The body of a frame.
    #[inline]
    pub fn body(&self, frame: &Frame) -> &[Segment] {
        let first = frame.first as usize;
        &self.segments[first..first + frame.count as usize]
    }

    /// Copies a body to the end of `out`.
    #[expect(unsafe_code, reason = "bodies are raw memory")]
    fn gather(&self, body: &[Segment], out: &mut Vec<u8>) {
        for segment in body {
            out.reserve(segment.len);
            let end = out.len();
            let free = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: whoever added the segment promised that it is readable until the burst is cleared, and `out`
            // has room for it.
            unsafe { segment.copy_to(0, free, segment.len) };
            // SAFETY: that many bytes were reserved, and have just been written.
            unsafe { out.set_len(end + segment.len) };
        }
    }

    /// Copies a whole frame, its tag as it leaves, into memory of our own, replacing what `out` holds. Returns the
    /// offload fields that fit the copy. Bytes that a socket does not give are left out.
    pub fn copy_frame(
        &self,
        frame: &Frame,
        action: TagAction,
        out: &mut Vec<u8>,
    ) -> VirtioNetHeader {
        let (header, read) = self.try_copy_frame(frame, action, out);
        if let Err(error) = read {
            tracing::debug!(%error, "bytes of a frame could not be read from a socket");
        }
        header
    }

    /// Does what [`Burst::copy_frame`] does, and tells whether the frame is whole.
    pub(super) fn try_copy_frame(
        &self,
        frame: &Frame,
        action: TagAction,
        out: &mut Vec<u8>,
    ) -> (VirtioNetHeader, io::Result<()>) {
        let head = frame.head.with_tag(action);
        out.clear();
        out.extend_from_slice(head.bytes());
        self.gather(self.body(frame), out);
        let len = out.len();
        let read = self
            .unread(frame)
            .map_or(Ok(()), |unread| unread.read_to(out));
        if read.is_err() {
            out.truncate(len);
        }
        (head.offload, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_frame_comes_out_whole_whatever_its_length() {
        let mut burst = Burst::default();
        for len in [0, 14, HEAD_CAPACITY, HEAD_CAPACITY + 1, 9000] {
            let frame: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            assert!(burst.push_owned(frame.clone(), VirtioNetHeader::default()));
            let mut out = vec![1, 2, 3];
            burst.copy_frame(burst.frames().last().unwrap(), TagAction::Keep, &mut out);
            assert_eq!(out, frame);
        }
        assert_eq!(burst.len(), 5);
        burst.clear();
        assert!(burst.is_empty());
    }

    #[test]
    fn a_full_burst_takes_no_more() {
        let mut burst = Burst::default();
        for _ in 0..CAPACITY {
            assert!(burst.push_owned(vec![0; 60], VirtioNetHeader::default()));
        }
        assert!(!burst.push_owned(vec![0; 60], VirtioNetHeader::default()));
    }
}
