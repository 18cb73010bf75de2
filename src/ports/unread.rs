//! Bytes that a frame is to carry and that are still in a TCP socket: its receiver reads them from there into its own memory,
//! which saves a copy.
//!
//! The bytes stay in the socket (`MSG_PEEK` from `SO_PEEK_OFF` on, Linux 6.9) until whoever sends them knows that they have
//! arrived, and discards them then. So a frame can be built again as often as it takes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::{mem, ptr};

/// How many pieces the kernel fills in one call (`UIO_MAXIOV`).
const PIECES: usize = 1024;

/// Where bytes go.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<libc::iovec>);

// JUSTIFICATION: a port keeps the list from frame to frame, and is opened by one thread and runs on another.
// SAFETY: the pointers lead into memory that belongs to no thread; writing to it is what is unsafe.
#[expect(unsafe_code, reason = "the pointers lead into shared memory")]
unsafe impl Send for Pieces {}

impl Pieces {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds `len` bytes at `address`.
    pub(super) fn push(&mut self, address: *mut u8, len: usize) {
        self.0.push(libc::iovec {
            iov_base: address.cast(),
            iov_len: len,
        });
    }

    /// Takes `len` bytes off the front.
    fn advance(&mut self, mut len: usize) {
        let done = self.0.iter().position(|piece| {
            let more = len < piece.iov_len;
            len -= if more { 0 } else { piece.iov_len };
            more
        });
        self.0.drain(..done.unwrap_or(self.0.len()));
        if let Some(first) = self.0.first_mut() {
            first.iov_base = first.iov_base.wrapping_byte_add(len);
            first.iov_len -= len;
        }
    }

    /// Whether the kernel takes as many in one call.
    pub(super) fn fit_one_call(&self) -> bool {
        self.0.len() <= PIECES
    }
}

/// A range of what a socket has received. Whoever puts it into a burst promises that the socket stays open, and that
/// nothing is taken out of it, until the burst is cleared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    socket: RawFd,
    offset: u32,
    len: usize,
}

impl Unread {
    /// Describes `len` bytes behind the first `offset` ones.
    pub(super) fn new(socket: BorrowedFd<'_>, offset: u32, len: usize) -> Self {
        Self {
            socket: socket.as_raw_fd(),
            offset,
            len,
        }
    }

    /// How many bytes it is.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Reads all the bytes into pieces of memory that have room for exactly as many.
    ///
    /// # Errors
    ///
    /// They cannot be had, or the memory is not there any more; what the pieces hold then means nothing.
    ///
    /// # Safety
    ///
    /// The pieces are mapped until this returns, and nobody's but a guest's or the caller's.
    #[expect(unsafe_code, reason = "the pieces are in a guest's memory")]
    pub(super) unsafe fn read(&self, pieces: &mut Pieces) -> io::Result<()> {
        debug_assert_eq!(
            pieces.0.iter().map(|piece| piece.iov_len).sum::<usize>(),
            self.len
        );
        set_offset(self.socket, self.offset)?;
        let mut left = self.len;
        while left > 0 {
            // SAFETY: the structure is numbers and pointers, for which zero is a value.
            let mut message: libc::msghdr = unsafe { mem::zeroed() };
            message.msg_iov = pieces.0.as_mut_ptr();
            message.msg_iovlen = pieces.0.len();
            let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
            // SAFETY: the vectors live until the call returns, and the caller says that what they point at may be written to.
            // Where a guest took it away the kernel says so.
            let got = unsafe { libc::recvmsg(self.socket, &raw mut message, flags) };
            match usize::try_from(got) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => {
                    left = left.saturating_sub(got);
                    if left > 0 {
                        // A call ends before a byte that was sent as urgent, and the offset has moved.
                        pieces.advance(got);
                    }
                }
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }

    /// Reads all the bytes to the end of `out`.
    ///
    /// # Errors
    ///
    /// They cannot be had.
    #[expect(unsafe_code, reason = "std cannot read from an offset")]
    pub(super) fn read_to(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let end = out.len();
        out.resize(end + self.len, 0);
        let mut pieces = Pieces::default();
        pieces.push(out[end..].as_mut_ptr(), self.len);
        // SAFETY: the piece is the end of `out`, which nobody else uses.
        unsafe { self.read(&mut pieces) }
    }
}

/// What can be known of a TCP socket's bytes without taking them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// There are some.
    Bytes,
    /// There are none at present.
    Nothing,
    /// There will be none any more.
    End,
}

/// Whether bytes of a socket can be read and left where they are.
pub(super) fn is_possible(socket: BorrowedFd<'_>) -> bool {
    // Streams of other families know the offset too, but their bytes cannot be discarded.
    let socket = socket2::SockRef::from(&socket);
    let family = socket.local_addr().map(|address| address.family());
    let is_ip = family.is_ok_and(|family| matches!(family.into(), libc::AF_INET | libc::AF_INET6));
    // Urgent bytes are bytes like others (RFC 6093), or the count and the offset would not agree.
    is_ip
        && set_offset(socket.as_raw_fd(), 0).is_ok()
        && socket.set_out_of_band_inline(true).is_ok()
}

/// Tells how many bytes a socket has received that were not taken.
///
/// # Errors
///
/// The kernel's.
#[expect(unsafe_code, reason = "std has no such call")]
pub(super) fn count(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one number, and there is room for it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Tells what follows the first `offset` bytes.
///
/// # Errors
///
/// The connection is broken.
#[expect(unsafe_code, reason = "std cannot peek without waiting")]
pub(super) fn next(socket: BorrowedFd<'_>, offset: u32) -> io::Result<Next> {
    let socket = socket.as_raw_fd();
    set_offset(socket, offset)?;
    let mut byte = 0u8;
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: there is room for one byte.
    let got = unsafe { libc::recv(socket, (&raw mut byte).cast(), 1, flags) };
    match got {
        0 => Ok(Next::End),
        1.. => Ok(Next::Bytes),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(Next::Nothing),
            error => Err(error),
        },
    }
}

/// Takes the first `count` bytes out of a socket, and returns how many that were.
///
/// # Errors
///
/// The connection is broken.
#[expect(unsafe_code, reason = "std cannot take bytes without reading them")]
pub(super) fn discard(socket: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with this flag the kernel writes nothing (tcp(7)).
    let got = unsafe { libc::recv(socket.as_raw_fd(), ptr::null_mut(), count, flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

#[expect(unsafe_code, reason = "std has no such option")]
fn set_offset(socket: RawFd, offset: u32) -> io::Result<()> {
    let offset = libc::c_int::try_from(offset).map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of_val(&offset)).map_err(io::Error::other)?;
    let value = (&raw const offset).cast();
    // SAFETY: the option is one number, which lives until the call returns.
    let done = unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, value, len) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn wait_for(socket: &TcpStream, bytes: usize) {
        while count(socket.as_fd()).unwrap() < bytes {
            thread::yield_now();
        }
    }

    #[test]
    fn bytes_are_read_from_anywhere_again_and_again_until_they_are_discarded() {
        let (mut writer, reader) = pair();
        if !is_possible(reader.as_fd()) {
            return;
        }
        assert_eq!(next(reader.as_fd(), 0).unwrap(), Next::Nothing);
        let all: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        writer.write_all(&all).unwrap();
        wait_for(&reader, all.len());
        let mut from = 0;
        for (offset, len) in [(0, 10), (99_990, 10), (5, 80_000), (0, 10), (70_000, 1)] {
            let unread = Unread::new(reader.as_fd(), offset, len);
            let mut out = vec![7];
            unread.read_to(&mut out).unwrap();
            let begin = from + offset as usize;
            assert!(out[0] == 7 && out[1..] == all[begin..begin + len]);
            if offset == 5 {
                assert_eq!(discard(reader.as_fd(), 20_000).unwrap(), 20_000);
                from = 20_000;
            }
        }
        assert_eq!(count(reader.as_fd()).unwrap(), 80_000);
        let beyond = Unread::new(reader.as_fd(), 79_999, 2);
        assert!(beyond.read_to(&mut Vec::new()).is_err());
        assert_eq!(next(reader.as_fd(), 79_999).unwrap(), Next::Bytes);
        assert_eq!(next(reader.as_fd(), 80_000).unwrap(), Next::Nothing);
        drop(writer);
        while next(reader.as_fd(), 80_000).unwrap() != Next::End {
            thread::yield_now();
        }
        assert_eq!(next(reader.as_fd(), 0).unwrap(), Next::Bytes);
    }

    #[test]
    fn urgent_bytes_are_bytes_like_others() {
        let (writer, reader) = pair();
        if !is_possible(reader.as_fd()) {
            return;
        }
        let socket = socket2::SockRef::from(&writer);
        socket.send(b"before").unwrap();
        socket.send_out_of_band(b"!").unwrap();
        socket.send(b"after").unwrap();
        wait_for(&reader, 12);
        let mut all = vec![0; 12];
        let mut pieces = Pieces::default();
        for part in all.chunks_mut(5) {
            pieces.push(part.as_mut_ptr(), part.len());
        }
        #[expect(unsafe_code, reason = "it is what the test is about")]
        // SAFETY: the pieces are all of `all`, which nobody else uses.
        unsafe { Unread::new(reader.as_fd(), 0, 12).read(&mut pieces) }.unwrap();
        assert_eq!(all, b"before!after");
    }

    #[test]
    fn bytes_of_local_streams_have_to_be_taken() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(!is_possible(one.as_fd()));
    }
}
