//! Calls to the kernel that move a connection's bytes: out of guests' memory, and into chunks of ours.
//!
//! The functions are safe: what they hand to the kernel is cells of ours, or the bodies of a burst that is borrowed
//! meanwhile, whose readability [`crate::ports::burst`] promises. The kernel answers EFAULT where a guest took its memory
//! away.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, ptr};

use crate::ports::burst::{Burst, Segment};

/// How many pieces the kernel takes in one call (`UIO_MAXIOV`).
const PIECES: usize = 1024;
/// How many spaces are filled in one call.
pub(super) const SPACES: usize = 8;

/// A part of a frame in a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The frame's place in the burst.
    pub(super) frame: usize,
    /// Where the part begins in the frame.
    pub(super) from: usize,
    /// How long it is.
    pub(super) len: usize,
}

/// Calls `each` with the pieces of memory that parts are in, the first `skip` bytes aside. Ends early when it says so.
fn for_each_piece(
    burst: &Burst,
    parts: &[Part],
    mut skip: usize,
    mut each: impl FnMut(Segment) -> bool,
) {
    for part in parts {
        if skip >= part.len {
            skip -= part.len;
            continue;
        }
        let Some(frame) = burst.frames().get(part.frame) else {
            return;
        };
        let mut from = part.from + skip;
        let mut left = part.len - skip;
        skip = 0;
        let head = Segment::of(frame.head.bytes());
        for segment in [&head].into_iter().chain(burst.body(frame)) {
            if from >= segment.len() {
                from -= segment.len();
                continue;
            }
            let len = left.min(segment.len() - from);
            if len == 0 {
                break;
            }
            if !each(Segment::new(segment.address().wrapping_add(from), len)) {
                return;
            }
            left -= len;
            from = 0;
        }
    }
}

/// Sends parts of frames on a socket, as much as it takes. Returns how much that was, and the error that ended it; none
/// if it took everything.
#[expect(unsafe_code, reason = "the bytes are in a guest's memory")]
pub(super) fn send(
    socket: BorrowedFd<'_>,
    burst: &Burst,
    parts: &[Part],
) -> (usize, Option<io::Error>) {
    let mut done = 0;
    loop {
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(64);
        let mut len = 0;
        for_each_piece(burst, parts, done, |piece| {
            len += piece.len();
            iovecs.push(libc::iovec {
                iov_base: piece.address().cast_mut().cast(),
                iov_len: piece.len(),
            });
            iovecs.len() < PIECES
        });
        if len == 0 {
            return (done, None);
        }
        let mut message = empty_header();
        message.msg_iov = iovecs.as_mut_ptr();
        message.msg_iovlen = iovecs.len();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the vectors are ours and live until the call returns; what they point at is borrowed with the burst, and
        // the kernel only reads it.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        let Ok(sent) = usize::try_from(sent) else {
            return (done, Some(io::Error::last_os_error()));
        };
        done += sent;
        if sent < len {
            return (done, Some(io::ErrorKind::WouldBlock.into()));
        }
    }
}

/// Copies parts of frames, the first `skip` bytes aside, to the end of `out`.
#[expect(unsafe_code, reason = "the bytes are in a guest's memory")]
pub(super) fn copy(burst: &Burst, parts: &[Part], skip: usize, out: &mut Vec<u8>) {
    for_each_piece(burst, parts, skip, |piece| {
        out.reserve(piece.len());
        let end = out.len();
        let free = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the piece lies in a segment of the burst, whose readability was promised until the burst is cleared, and
        // `out` has room for it.
        unsafe { piece.copy_to(0, free, piece.len()) };
        // SAFETY: that many bytes were reserved, and have just been written.
        unsafe { out.set_len(end + piece.len()) };
        true
    });
}

/// Reads what a socket has into spaces of ours, at most [`SPACES`], and returns how much that was: none at the end.
#[expect(unsafe_code, reason = "std reads into exclusive memory only")]
pub(super) fn receive(socket: BorrowedFd<'_>, spaces: &[&[Cell<u8>]]) -> io::Result<usize> {
    let mut iovecs = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; SPACES];
    let count = spaces.len().min(SPACES);
    for (iovec, space) in iovecs.iter_mut().zip(spaces) {
        iovec.iov_base = space.as_ptr().cast_mut().cast();
        iovec.iov_len = space.len();
    }
    let mut message = empty_header();
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = count;
    // SAFETY: the vectors are ours and live until the call returns; they point at cells, which may be written to while
    // they are shared, and which no other thread sees.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

#[expect(unsafe_code, reason = "the structure has padding on some targets")]
fn empty_header() -> libc::msghdr {
    // SAFETY: it is numbers and pointers, for which zero is a value.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::virtio_net::VirtioNetHeader;

    #[test]
    fn parts_are_copied_from_head_and_body_wherever_they_begin() {
        let frame: Vec<u8> = (0..=255).collect();
        let mut burst = Burst::default();
        burst.push_owned(frame.clone(), VirtioNetHeader::default());
        burst.push_owned(frame.clone(), VirtioNetHeader::default());
        for from in [0, 54, 127, 128, 129, 200] {
            let parts = [0, 1].map(|index| Part {
                frame: index,
                from,
                len: 250 - from,
            });
            let expected = [&frame[from..250], &frame[from..250]].concat();
            for skip in [0, 1, 10, 50, 100, 400] {
                let mut out = vec![9];
                copy(&burst, &parts, skip, &mut out);
                assert_eq!(out[1..], expected[skip.min(expected.len())..]);
            }
        }
    }
}
