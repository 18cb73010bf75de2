//! Memory for bytes on their way: to a guest until it acknowledges them, to the outside until it takes them.
//!
//! # Theory of operation
//!
//! What goes to a guest lies in *chunks*, which never move, so that a burst can point into them. A chunk that is done with
//! is *retired* and used again when the burst is not used any more. All chunks come from one store with a limit, and the
//! fuller it is, the less a connection may hold; a connection that holds nothing gets a small chunk in any case, so
//! none stands still because of others.
//!
//! What goes outside and was not taken at once is copied. That should be rare: it is then that windows close.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use socket2::SockRef;

use super::calls::{self, Part, SPACES};
use crate::ports::burst::{Burst, Segment};

/// Length of the first chunk of a connection that holds nothing.
const SMALL: usize = 4 * 1024;
/// Length of further chunks.
const LARGE: usize = 64 * 1024;
/// How much all chunks together are at most, but for the small ones that are had in any case.
const STORE: usize = 256 << 20;
/// How many chunks of a kind are kept although nobody uses them.
const SPARE: usize = 64;
/// How much one connection holds for its guest at most.
const HELD: usize = 1 << 20;
/// How much all connections together hold for the outside, before each may hold but little; four times that at most.
const PENDING: usize = 64 << 20;
/// How much one connection holds for the outside, at most and in any case.
const MOST: usize = 1 << 20;
const LEAST: usize = 8 * 1024;
/// How long the pieces are in which that is held.
const PIECE: usize = 64 * 1024;

/// Memory that a burst may point into.
#[derive(Debug)]
struct Chunk(Box<[Cell<u8>]>);

/// The store of chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    small: Vec<Chunk>,
    large: Vec<Chunk>,
    retired: Vec<Chunk>,
    /// Sockets that are done with, and that a burst may still read from.
    sockets: Vec<OwnedFd>,
    /// How much there is, used or not.
    bytes: usize,
}

impl Chunks {
    fn take(&mut self, len: usize, limit: usize) -> Option<Chunk> {
        let spare = if len == SMALL {
            &mut self.small
        } else {
            &mut self.large
        };
        if let Some(chunk) = spare.pop() {
            return Some(chunk);
        }
        if self.bytes.saturating_add(len) > limit {
            return None;
        }
        self.bytes += len;
        Some(Chunk(vec![Cell::new(0); len].into_boxed_slice()))
    }

    /// Takes back a chunk that no burst points into.
    fn give(&mut self, chunk: Chunk) {
        let spare = if chunk.0.len() == SMALL {
            &mut self.small
        } else {
            &mut self.large
        };
        if spare.len() < SPARE {
            spare.push(chunk);
        } else {
            self.bytes -= chunk.0.len();
        }
    }

    /// Closes a socket as soon as no burst reads from it.
    pub(super) fn retire(&mut self, socket: OwnedFd) {
        self.sockets.push(socket);
    }

    /// Hears that no burst points into chunks that were retired, or reads from such sockets.
    pub(super) fn release(&mut self) {
        self.sockets.clear();
        while let Some(chunk) = self.retired.pop() {
            self.give(chunk);
        }
    }

    /// How much one connection may hold.
    const fn share(&self) -> usize {
        match self.bytes {
            bytes if bytes < STORE / 4 => HELD,
            bytes if bytes < STORE / 2 => HELD / 4,
            _ => LARGE,
        }
    }
}

/// Bytes for a guest, from the first that it has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Held {
    chunks: VecDeque<Chunk>,
    /// Where they begin in the first chunk, and end in the last.
    start: usize,
    end: usize,
    len: usize,
}

impl Held {
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// How many more are worth having for a guest that takes `window` bytes.
    pub(super) fn wanted(&self, window: usize, chunks: &Chunks) -> usize {
        // A byte is held for a guest without room, or nobody would ask it whether it has some.
        let limit = window.max(1).min(chunks.share());
        let more = limit.saturating_sub(self.len);
        // Little by little would be many calls and small frames: what is held will be acknowledged.
        if self.len > 0 && more < limit.min(LARGE) / 4 {
            return 0;
        }
        more
    }

    /// Reads up to `limit` bytes from a socket; returns how many there was room for, and how many came. `None` where
    /// there is no memory at present.
    pub(super) fn fill(
        &mut self,
        socket: BorrowedFd<'_>,
        limit: usize,
        chunks: &mut Chunks,
    ) -> Option<io::Result<(usize, usize)>> {
        let room = self.chunks.back().map_or(0, |last| last.0.len() - self.end);
        let mut fresh: Vec<Chunk> = Vec::with_capacity(SPACES);
        let mut total = room;
        if self.chunks.is_empty() {
            // There are no more of these than connections.
            fresh.extend(chunks.take(SMALL, usize::MAX));
            total = if fresh.is_empty() { 0 } else { SMALL };
        }
        while total < limit && fresh.len() + 1 < SPACES {
            let Some(chunk) = chunks.take(LARGE, STORE) else {
                break;
            };
            fresh.push(chunk);
            total += LARGE;
        }
        let limit = limit.min(total);
        if limit == 0 {
            return None;
        }
        let mut spaces: [&[Cell<u8>]; SPACES] = [&[]; SPACES];
        let mut count = 0;
        let mut left = limit;
        let tail = self.chunks.back().map(|last| &last.0[self.end..]);
        let tail = tail.filter(|tail| !tail.is_empty());
        for space in tail
            .into_iter()
            .chain(fresh.iter().map(|chunk| &chunk.0[..]))
        {
            let len = space.len().min(left);
            if len > 0 {
                spaces[count] = &space[..len];
                count += 1;
                left -= len;
            }
        }
        let got = calls::receive(socket, &spaces[..count]);
        let mut came = *got.as_ref().unwrap_or(&0);
        self.len += came;
        let in_tail = came.min(room);
        self.end += in_tail;
        came -= in_tail;
        for chunk in fresh {
            if came == 0 {
                chunks.give(chunk);
                continue;
            }
            self.end = came.min(chunk.0.len());
            came -= self.end;
            self.chunks.push_back(chunk);
        }
        Some(got.map(|got| (limit, got)))
    }

    /// Drops bytes at the front.
    pub(super) fn drop_front(&mut self, count: usize, chunks: &mut Chunks) {
        let count = count.min(self.len);
        self.len -= count;
        self.start += count;
        while let Some(first) = self.chunks.front() {
            let done = self.start >= first.0.len() || self.len == 0;
            if !done {
                break;
            }
            self.start = self.start.saturating_sub(first.0.len());
            chunks.retired.extend(self.chunks.pop_front());
        }
        if self.chunks.is_empty() {
            // Nothing is kept by those that are idle.
            *self = Self::default();
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, chunks: &mut Chunks) {
        self.drop_front(self.len, chunks);
    }

    /// Calls `each` with the pieces of memory that a range is in. They stay as they are until the bytes are dropped and
    /// the store is [released](Chunks::release).
    pub(super) fn pieces(&self, range: Range<usize>, mut each: impl FnMut(Segment)) {
        let mut from = self.start + range.start;
        let mut left = range.len();
        for chunk in &self.chunks {
            let bytes = &chunk.0;
            if from >= bytes.len() {
                from -= bytes.len();
                continue;
            }
            let len = left.min(bytes.len() - from);
            if len == 0 {
                return;
            }
            each(Segment::new(bytes[from..].as_ptr().cast(), len));
            left -= len;
            from = 0;
        }
    }
}

/// How much is pending in all connections.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: usize,
}

impl Budget {
    /// How much one connection may hold.
    const fn share(&self) -> usize {
        match self.used {
            used if used < PENDING / 2 => MOST,
            used if used < PENDING => MOST / 16,
            _ => LEAST,
        }
    }
}

/// Bytes for the outside that it did not take yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pieces: VecDeque<Vec<u8>>,
    /// Where they begin in the first piece.
    start: usize,
    len: usize,
}

impl Pending {
    /// Whether there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more there is room for.
    pub(super) const fn room(&self, budget: &Budget) -> usize {
        budget.share().saturating_sub(self.len)
    }

    /// Takes parts of frames, the first `skip` bytes aside; tells whether there was room.
    pub(super) fn store(
        &mut self,
        burst: &Burst,
        parts: &[Part],
        skip: usize,
        budget: &mut Budget,
    ) -> bool {
        let total: usize = parts.iter().map(|part| part.len).sum();
        let len = total.saturating_sub(skip);
        // A guest may use what it was promised before others took their share, as long as that is not too much.
        let most = if budget.used < 2 * PENDING {
            MOST
        } else {
            LEAST
        };
        if self.len + len > most + LEAST || budget.used + len > 4 * PENDING {
            return false;
        }
        match self.pieces.back_mut() {
            Some(last) if last.len() + len <= PIECE => calls::copy(burst, parts, skip, last),
            _ => {
                let mut piece = Vec::with_capacity(len);
                calls::copy(burst, parts, skip, &mut piece);
                self.pieces.push_back(piece);
            }
        }
        self.len += len;
        budget.used += len;
        true
    }

    /// Sends what the socket takes. Returns whether it took everything.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>, budget: &mut Budget) -> io::Result<bool> {
        while self.len > 0 {
            let mut slices = [io::IoSlice::new(&[]); SPACES];
            let mut offered = 0;
            for (index, (slice, piece)) in slices.iter_mut().zip(&self.pieces).enumerate() {
                let start = if index == 0 { self.start } else { 0 };
                *slice = io::IoSlice::new(&piece[start..]);
                offered += piece.len() - start;
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let sent = match SockRef::from(&socket).send_vectored_with_flags(&slices, flags) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            self.drop_front(sent, budget);
            if sent < offered {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn drop_front(&mut self, count: usize, budget: &mut Budget) {
        let count = count.min(self.len);
        self.len -= count;
        budget.used -= count;
        self.start += count;
        while let Some(first) = self.pieces.front() {
            if self.start < first.len() {
                break;
            }
            self.start -= first.len();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            *self = Self::default();
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, budget: &mut Budget) {
        self.drop_front(self.len, budget);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::wire::virtio_net::VirtioNetHeader;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    /// Reads a range of what is held, as a guest would.
    fn read(held: &Held, range: Range<usize>) -> Vec<u8> {
        let mut burst = Burst::default();
        burst.begin().set_len(0);
        held.pieces(range.clone(), |piece| burst.push_segment(piece));
        burst.commit();
        let mut out = Vec::new();
        let part = Part {
            frame: 0,
            from: 0,
            len: range.len(),
        };
        calls::copy(&burst, &[part], 0, &mut out);
        out
    }

    #[test]
    fn what_is_held_is_read_from_any_place_and_dropped_from_the_front() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let (mut held, mut chunks) = (Held::default(), Chunks::default());
        let all = bytes(180_000);
        for part in all.chunks(60_000) {
            writer.write_all(part).unwrap();
            while let Some(Ok((_, got))) = held.fill(reader.as_fd(), 50_000, &mut chunks) {
                assert!(got > 0);
            }
        }
        assert_eq!(held.len(), all.len());
        for range in [0..10, 4090..4100, 0..180_000, 100_000..170_001] {
            assert!(read(&held, range.clone()) == all[range]);
        }
        held.drop_front(70_000, &mut chunks);
        assert!(read(&held, 0..110_000) == all[70_000..]);
        held.clear(&mut chunks);
        assert_eq!((held.len(), held.chunks.capacity()), (0, 0));
        assert!(chunks.small.is_empty() && chunks.retired.len() >= 3);
        chunks.release();
        assert!(chunks.retired.is_empty() && chunks.small.len() == 1);
    }

    #[test]
    fn those_that_hold_nothing_get_a_little_although_others_have_everything() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        writer.write_all(&bytes(100_000)).unwrap();
        let mut chunks = Chunks {
            bytes: 3 * STORE,
            ..Chunks::default()
        };
        let mut held = Held::default();
        let (room, got) = held
            .fill(reader.as_fd(), 50_000, &mut chunks)
            .unwrap()
            .unwrap();
        assert_eq!((room, got), (SMALL, SMALL));
        assert!(held.fill(reader.as_fd(), 50_000, &mut chunks).is_none());
        assert_eq!(held.wanted(1 << 20, &chunks), LARGE - SMALL);
        assert_eq!(
            held.wanted(SMALL + 1000, &chunks),
            0,
            "not little by little"
        );
        assert_eq!(Held::default().wanted(1000, &chunks), 1000);
        assert_eq!(Held::default().wanted(0, &chunks), 1);
    }

    #[test]
    fn many_that_hold_little_do_not_hold_more_than_there_is() {
        let mut burst = Burst::default();
        burst.push_owned(bytes(8000), VirtioNetHeader::default());
        let part = Part {
            frame: 0,
            from: 0,
            len: 8000,
        };
        let mut budget = Budget {
            used: 4 * PENDING - 8000,
        };
        let (mut one, mut other) = (Pending::default(), Pending::default());
        assert!(one.store(&burst, &[part], 0, &mut budget));
        assert!(!other.store(&burst, &[part], 0, &mut budget));
        one.clear(&mut budget);
        assert!(other.store(&burst, &[part], 0, &mut budget));
    }

    #[test]
    fn what_was_not_taken_leaves_in_its_order_when_it_is() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let (mut pending, mut budget) = (Pending::default(), Budget::default());
        let mut burst = Burst::default();
        let all = bytes(60_000);
        burst.push_owned(all.clone(), VirtioNetHeader::default());
        let part = |from, len| Part {
            frame: 0,
            from,
            len,
        };
        for _ in 0..17 {
            assert!(pending.store(&burst, &[part(0, 60), part(60, 59_940)], 0, &mut budget));
        }
        assert!(!pending.store(&burst, &[part(0, 60_000)], 0, &mut budget));
        assert_eq!(pending.room(&budget), MOST.saturating_sub(17 * 60_000));
        let mut got = Vec::new();
        while !pending.send(writer.as_fd(), &mut budget).unwrap() {
            let mut some = vec![0; 100_000];
            let count = reader.read(&mut some).unwrap();
            got.extend_from_slice(&some[..count]);
        }
        drop(writer);
        reader.read_to_end(&mut got).unwrap();
        assert!(got == all.repeat(17));
        assert_eq!((budget.used, pending.pieces.capacity()), (0, 0));
    }
}
