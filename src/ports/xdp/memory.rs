//! Memory that the kernel and we share: frames, and the rings by which they change hands (`linux/if_xdp.h`,
//! `Documentation/networking/af_xdp.rst`).
//!
//! # Theory of operation
//!
//! The frames are one mapping in chunks of a page. A chunk belongs to the kernel from when its address is put into a
//! fill or transmit ring until it comes back in a receive or completion ring; nobody touches a chunk that is not theirs.
//!
//! A ring has one producer and one consumer. Each counts on its own, publishes its count when it is done with the
//! entries before it, and looks at the other's count only when its last look is used up.

use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::ports::burst::Segment;

/// Room for one frame, or a piece of one.
pub(super) const CHUNK: usize = 4096;

/// A mapping of our own.
struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: it is memory that belongs to nobody's thread.
#[expect(unsafe_code, reason = "a raw pointer")]
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps memory that is all zeros, or what a descriptor has at an offset.
    #[expect(unsafe_code, reason = "memory that the kernel writes to")]
    fn new(len: usize, from: Option<(RawFd, libc::off_t)>) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (kind, (descriptor, offset)) = match from {
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, (-1, 0)),
            Some(from) => (libc::MAP_SHARED | libc::MAP_POPULATE, from),
        };
        // JUSTIFICATION: the kernel reads and writes it while we use it; a vector would promise the compiler that nobody
        // does.
        // SAFETY: a new mapping replaces none.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, descriptor, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = base.cast();
        Ok(Self { base, len })
    }

    /// Where a value at an offset is.
    fn at<T>(&self, offset: usize) -> *mut T {
        let fits = offset
            .checked_add(size_of::<T>())
            .is_some_and(|end| end <= self.len);
        assert!(fits, "offsets are checked before they are used");
        let at: *mut T = self.base.wrapping_add(offset).cast();
        assert!(at.is_aligned(), "the kernel aligns what it shares");
        at
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "the mapping is ours")]
    fn drop(&mut self) {
        // SAFETY: mapped with this length in `new`, and unmapped here only.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// The frames of one socket.
pub(super) struct Frames(Mapping);

impl Frames {
    /// Maps so many chunks.
    pub(super) fn new(chunks: usize) -> io::Result<Self> {
        Mapping::new(chunks * CHUNK, None).map(Self)
    }

    /// Where they begin, for the kernel.
    pub(super) fn address(&self) -> u64 {
        self.0.base.expose_provenance() as u64
    }

    /// How long they are.
    pub(super) const fn len(&self) -> usize {
        self.0.len
    }

    fn range(&self, at: usize, len: usize) -> *mut u8 {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.0.len);
        assert!(fits, "the kernel and this directory name what is there");
        self.0.base.wrapping_add(at)
    }

    /// Describes bytes of a chunk that is ours, which stay until it is given back.
    #[inline]
    pub(super) fn segment(&self, at: usize, len: usize) -> Segment {
        Segment::new(self.range(at, len), len)
    }

    /// Copies bytes of a chunk that is ours.
    #[expect(
        unsafe_code,
        reason = "memory that is no slice, since bursts point into it"
    )]
    #[inline]
    pub(super) fn read(&self, at: usize, out: &mut [u8]) {
        let from = self.range(at, out.len());
        // SAFETY: the range lies within the mapping, and `out` is somebody else's memory.
        unsafe { ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
    }

    /// Copies a head, and a body behind it, to chunks that are ours and lie in a row.
    #[expect(unsafe_code, reason = "bodies are raw memory")]
    #[inline]
    pub(super) fn write(&mut self, at: usize, head: &[u8], body: &[Segment]) {
        let to = self.range(at, head.len());
        // SAFETY: the range lies within the mapping, and the head is somebody else's memory.
        unsafe { ptr::copy_nonoverlapping(head.as_ptr(), to, head.len()) };
        let mut end = at + head.len();
        for segment in body {
            let to = self.range(end, segment.len());
            // SAFETY: whoever added the segment to its burst promised that it is readable until the burst is cleared,
            // and the burst is borrowed by whoever sends; the range lies within the mapping.
            unsafe { segment.copy_to(0, to, segment.len()) };
            end += segment.len();
        }
    }

    /// Borrows bytes of chunks that are ours, and into which no burst points.
    #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
    pub(super) fn slice(&mut self, at: usize, len: usize) -> &mut [u8] {
        let first = self.range(at, len);
        // SAFETY: the range lies within the mapping and is initialised; the kernel leaves alone what is ours, and only
        // chunks that are received into are pointed at by bursts.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }
}

/// What a ring is made of, on either side.
struct Ring<T> {
    mapping: Mapping,
    offsets: libc::xdp_ring_offset,
    entries: u32,
    of: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps a ring with a number of entries that is a power of two.
    fn new(
        socket: RawFd,
        page: libc::off_t,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let table = place(offsets.desc)?;
        let len = table + entries as usize * size_of::<T>();
        let this = Self {
            mapping: Mapping::new(len, Some((socket, page)))?,
            offsets,
            entries,
            of: PhantomData,
        };
        // Looked up once here, so that what the kernel says is known to lie within the mapping.
        this.counter(offsets.producer);
        this.counter(offsets.consumer);
        this.counter(offsets.flags);
        Ok(this)
    }

    #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
    #[inline]
    fn counter(&self, offset: u64) -> &AtomicU32 {
        let at = self
            .mapping
            .at::<AtomicU32>(place(offset).unwrap_or(usize::MAX));
        // SAFETY: it lies within the mapping, is aligned, and both sides use it as an atomic number only.
        unsafe { &*at }
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        let index = (index & (self.entries - 1)) as usize;
        let table = place(self.offsets.desc).unwrap_or(usize::MAX);
        self.mapping.at(table + index * size_of::<T>())
    }

    #[inline]
    fn flags(&self) -> u32 {
        self.counter(self.offsets.flags).load(Ordering::Relaxed)
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

/// A ring into which we put entries for the kernel.
pub(super) struct ToKernel<T> {
    ring: Ring<T>,
    next: u32,
    /// The kernel's count at the last look.
    taken: u32,
}

impl<T: Copy> ToKernel<T> {
    /// Maps a ring.
    pub(super) fn new(
        socket: RawFd,
        page: libc::off_t,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let ring = Ring::new(socket, page, offsets, entries)?;
        Ok(Self {
            ring,
            next: 0,
            taken: 0,
        })
    }

    /// Tells whether so many more entries fit.
    #[inline]
    fn fits(&mut self, count: u32) -> bool {
        if self.ring.entries - self.next.wrapping_sub(self.taken) < count {
            self.look();
        }
        self.ring.entries - self.next.wrapping_sub(self.taken) >= count
    }

    /// Puts an entry; the kernel sees it when it is [published](Self::publish). There must be room.
    #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
    #[inline]
    pub(super) fn put(&mut self, entry: T) {
        debug_assert!(self.fits(1));
        let at = self.ring.entry(self.next);
        // SAFETY: it lies within the mapping, and the kernel reads it only once it is published.
        unsafe { at.write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    /// Hands all entries that were put to the kernel.
    #[inline]
    pub(super) fn publish(&mut self) {
        let producer = self.ring.counter(self.ring.offsets.producer);
        producer.store(self.next, Ordering::Release);
    }

    /// Tells how many entries the kernel has yet to take.
    pub(super) fn waiting(&mut self) -> u32 {
        self.look();
        self.next.wrapping_sub(self.taken)
    }

    fn look(&mut self) {
        let consumer = self.ring.counter(self.ring.offsets.consumer);
        self.taken = consumer.load(Ordering::Acquire);
    }

    /// Whether the kernel has to be told that there is something.
    #[inline]
    pub(super) fn wants_wakeup(&self) -> bool {
        self.ring.flags() & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring from which we take what the kernel has put.
pub(super) struct FromKernel<T> {
    ring: Ring<T>,
    next: u32,
    /// The kernel's count at the last look.
    put: u32,
}

impl<T: Copy> FromKernel<T> {
    /// Maps a ring.
    pub(super) fn new(
        socket: RawFd,
        page: libc::off_t,
        offsets: libc::xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let ring = Ring::new(socket, page, offsets, entries)?;
        Ok(Self {
            ring,
            next: 0,
            put: 0,
        })
    }

    /// Tells how many entries there are, at most as many as the ring holds.
    #[inline]
    pub(super) fn available(&mut self) -> u32 {
        if self.next == self.put {
            let producer = self.ring.counter(self.ring.offsets.producer);
            self.put = producer.load(Ordering::Acquire);
        }
        self.put.wrapping_sub(self.next).min(self.ring.entries)
    }

    /// Looks at an entry that is [available](Self::available), counted from the next one to take.
    #[expect(unsafe_code, reason = "memory that is shared with the kernel")]
    #[inline]
    pub(super) fn peek(&self, ahead: u32) -> T {
        debug_assert!(ahead < self.put.wrapping_sub(self.next));
        let at = self.ring.entry(self.next.wrapping_add(ahead));
        // SAFETY: it lies within the mapping, is made of numbers, and the kernel has published it.
        unsafe { at.read() }
    }

    /// Takes entries; the kernel may have their places when that is [published](Self::publish).
    #[inline]
    pub(super) fn take(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
    }

    /// Gives the places of all entries that were taken back to the kernel.
    #[inline]
    pub(super) fn publish(&mut self) {
        let consumer = self.ring.counter(self.ring.offsets.consumer);
        consumer.store(self.next, Ordering::Release);
    }
}
