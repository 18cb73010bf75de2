//! Whole vhost-user messages with their descriptors, read from a socket without ever waiting for the rest of one.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const HEADER_LEN: usize = 12;
/// The largest payload that the framework takes.
const MAX_PAYLOAD: usize = 4096 - HEADER_LEN;
/// The most descriptors that a message may carry: one for each region of a memory table.
const MAX_DESCRIPTORS: usize = 32;
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// Why a socket yields no more messages.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The other side hung up.
    #[error("the connection was closed")]
    Closed,
    /// The header is not one of a vhost-user message.
    #[error("a message header makes no sense (flags {flags:#x}, {size} bytes)")]
    Header { flags: u32, size: u32 },
    /// More descriptors than any message carries.
    #[error("a message came with too many file descriptors")]
    Descriptors,
    #[error(transparent)]
    System(#[from] io::Error),
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    /// What is asked or answered.
    pub(super) code: u32,
    flags: u32,
    /// The payload.
    pub(super) payload: Vec<u8>,
    /// The descriptors that came with it.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Message {
    /// Builds a request that wants no reply.
    pub(super) fn request(code: u32, payload: Vec<u8>) -> Self {
        Self {
            code,
            flags: VERSION,
            payload,
            descriptors: Vec::new(),
        }
    }

    /// Builds the reply to a request.
    pub(super) fn reply(code: u32, value: u64) -> Self {
        Self {
            code,
            flags: VERSION | REPLY,
            payload: value.to_ne_bytes().to_vec(),
            descriptors: Vec::new(),
        }
    }

    /// Whether the sender waits for an acknowledgement, if those were negotiated.
    pub(super) const fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Whether this is a reply.
    pub(super) const fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// Reads a number of the payload.
    pub(super) fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.payload.get(at..at + 4)?.try_into().ok()?,
        ))
    }

    /// Reads a number of the payload.
    pub(super) fn u64_at(&self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(
            self.payload.get(at..at + 8)?.try_into().ok()?,
        ))
    }

    /// Writes the message to a socket. A socket that does not take all of it at once is an error.
    pub(super) fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len());
        let size = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        for field in [self.code, self.flags, size] {
            bytes.extend_from_slice(&field.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        let descriptors: Vec<RawFd> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = socket
            .send_with_fds(&[bytes.as_slice()], &descriptors)
            .map_err(io::Error::from)?;
        if sent < bytes.len() {
            return Err(io::Error::new(
                io::ErrorKind::WriteZero,
                "the other side does not read its messages",
            ));
        }
        Ok(())
    }
}

/// The message of a socket that has not come whole yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Inbox {
    /// Whether a message has begun and not ended.
    pub(super) fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Returns the next message, if all of it has come.
    ///
    /// # Errors
    ///
    /// The other side hung up, or what it sends is not a vhost-user message.
    pub(super) fn read(&mut self, socket: &UnixStream) -> Result<Option<Message>, ReadError> {
        loop {
            let wanted = self.wanted()?;
            if self.bytes.len() == wanted {
                return Ok(Some(self.take()));
            }
            let begun = self.bytes.len();
            self.bytes.resize(wanted, 0);
            let received = receive(socket, &mut self.bytes[begun..], &mut self.descriptors);
            let count = *received.as_ref().unwrap_or(&0);
            self.bytes.truncate(begun + count);
            match received {
                Ok(0) => return Err(ReadError::Closed),
                Ok(_) if self.descriptors.len() > MAX_DESCRIPTORS => {
                    return Err(ReadError::Descriptors);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn field(&self, at: usize) -> u32 {
        self.bytes
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    }

    /// How many bytes are to be had before the next step.
    fn wanted(&self) -> Result<usize, ReadError> {
        if self.bytes.len() < HEADER_LEN {
            return Ok(HEADER_LEN);
        }
        let (flags, size) = (self.field(4), self.field(8));
        if flags & VERSION_MASK != VERSION || size as usize > MAX_PAYLOAD {
            return Err(ReadError::Header { flags, size });
        }
        Ok(HEADER_LEN + size as usize)
    }

    fn take(&mut self) -> Message {
        let message = Message {
            code: self.field(0),
            flags: self.field(4),
            payload: self.bytes.split_off(HEADER_LEN),
            descriptors: std::mem::take(&mut self.descriptors),
        };
        self.bytes.clear();
        message
    }
}

/// Reads what there is, up to the length of `out`, and the descriptors that came with it.
#[expect(unsafe_code, reason = "descriptors arrive as numbers")]
fn receive(
    socket: &UnixStream,
    out: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut vectors = [libc::iovec {
        iov_base: out.as_mut_ptr().cast(),
        iov_len: out.len(),
    }];
    let mut numbers: [RawFd; MAX_DESCRIPTORS + 1] = [-1; MAX_DESCRIPTORS + 1];
    // JUSTIFICATION: no safe interface of the kept crates receives descriptors into a part of a buffer.
    // SAFETY: the vector covers `out`, which is writable and outlives the call.
    let received = unsafe { socket.recv_with_fds(&mut vectors, &mut numbers) };
    let (bytes, count) = received.map_err(io::Error::from)?;
    for number in &numbers[..count] {
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows of it.
        descriptors.push(unsafe { OwnedFd::from_raw_fd(*number) });
    }
    Ok(bytes)
}

/// Checks that a descriptor is a file of at least `len` bytes: memory that can be mapped as far as it is said to go.
pub(super) fn check_memory(descriptor: OwnedFd, len: u64) -> Result<OwnedFd, String> {
    let file = File::from(descriptor);
    let metadata = file
        .metadata()
        .map_err(|error| format!("the file of a memory region cannot be examined: {error}"))?;
    if !metadata.is_file() {
        return Err("a memory region is not a file".to_owned());
    }
    if metadata.len() < len {
        return Err(format!(
            "a memory region ends at byte {len} of a file of {} bytes",
            metadata.len()
        ));
    }
    Ok(file.into())
}

/// Checks that a descriptor is an eventfd, and makes it non-blocking.
#[expect(
    unsafe_code,
    reason = "fcntl has no safe wrapper in the standard library"
)]
pub(super) fn check_event(descriptor: &impl AsRawFd) -> Result<(), String> {
    let number = descriptor.as_raw_fd();
    let target = std::fs::read_link(format!("/proc/self/fd/{number}"));
    if !target.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]") {
        return Err("a kick or call descriptor is not an eventfd".to_owned());
    }
    // SAFETY: the descriptor is open; F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    // SAFETY: the descriptor is open, and the flags are its own but for one.
    let done = unsafe { libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    if flags < 0 || done < 0 {
        return Err(format!(
            "an eventfd cannot be made non-blocking: {}",
            io::Error::last_os_error()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_is_one_message() {
        let (ours, mut theirs) = pair();
        let mut inbox = Inbox::default();
        let bytes: Vec<u8> = [18u32, VERSION, 8, 0, 1]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        for byte in &bytes[..bytes.len() - 1] {
            theirs.write_all(&[*byte]).unwrap();
            assert!(inbox.read(&ours).unwrap().is_none());
            assert!(inbox.is_partial());
        }
        theirs.write_all(&bytes[bytes.len() - 1..]).unwrap();
        let message = inbox.read(&ours).unwrap().unwrap();
        assert_eq!(
            (message.code, message.u32_at(0), message.u32_at(4)),
            (18, Some(0), Some(1))
        );
        assert!(!inbox.is_partial());
    }

    #[test]
    fn two_messages_at_once_keep_their_descriptors_apart() {
        let (ours, theirs) = pair();
        let mut inbox = Inbox::default();
        let mut first = Message::request(1, vec![1; 4]);
        first
            .descriptors
            .push(File::open("/dev/null").unwrap().into());
        first.send(&theirs).unwrap();
        Message::request(2, Vec::new()).send(&theirs).unwrap();
        let read = inbox.read(&ours).unwrap().unwrap();
        assert_eq!((read.code, read.descriptors.len()), (1, 1));
        let read = inbox.read(&ours).unwrap().unwrap();
        assert_eq!((read.code, read.descriptors.len()), (2, 0));
    }

    #[test]
    fn what_is_not_a_message_is_refused_and_a_hang_up_is_noticed() {
        for (flags, size) in [(0, 8), (2, 8), (VERSION, 4096)] {
            let (ours, mut theirs) = pair();
            let bytes: Vec<u8> = [1, flags, size]
                .into_iter()
                .flat_map(u32::to_ne_bytes)
                .collect();
            theirs.write_all(&bytes).unwrap();
            assert!(matches!(
                Inbox::default().read(&ours),
                Err(ReadError::Header { .. })
            ));
        }
        let (ours, theirs) = pair();
        drop(theirs);
        assert!(matches!(
            Inbox::default().read(&ours),
            Err(ReadError::Closed)
        ));
    }

    #[test]
    fn only_files_that_are_long_enough_are_memory_and_only_eventfds_are_events() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let copy = || OwnedFd::from(file.try_clone().unwrap());
        assert!(check_memory(copy(), 4096).is_ok());
        assert!(check_memory(copy(), 4097).is_err());
        assert!(check_memory(File::open("/dev/null").unwrap().into(), 0).is_err());
        assert!(check_event(&copy()).is_err());
        let (ours, _theirs) = pair();
        assert!(check_event(&ours).is_err());
        assert!(check_event(&vmm_sys_util::eventfd::EventFd::new(0).unwrap()).is_ok());
    }
}
