//! Frames out: heads copied beside their virtio-net headers, bodies from where they are.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::{PacketSocket, checked, empty_message, length};
use crate::net::drops::{DropReason, Drops};
use crate::net::frame::HEAD_CAPACITY;
use crate::net::offload::Capabilities;
use crate::ports::Sent;
use crate::ports::burst::{Burst, Segment};
use crate::ports::egress::Sink;
use crate::wire::ethernet::TAG_LEN;
use crate::wire::virtio_net::{HEADER_LEN, VirtioNetHeader};

/// The longest head with a tag that was put on, and the header before it.
const HEAD_SLOT: usize = HEADER_LEN + HEAD_CAPACITY + TAG_LEN;
/// How many frames are handed to the kernel at once.
const BATCH: usize = 64;

/// What a frame's refusal by the kernel means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refusal {
    /// It concerns this frame only.
    Frame(DropReason),
    /// Nothing more fits for now.
    Full,
    /// The device is down or gone.
    Down,
}

/// Tells whether an error means that the device is down or gone.
pub(in crate::ports) fn is_down(error: &io::Error) -> bool {
    Refusal::of(error) == Refusal::Down
}

impl Refusal {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Self::Full,
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EIO | libc::EBADFD) => {
                Self::Down
            }
            Some(libc::EMSGSIZE) => Self::Frame(DropReason::TooBig),
            Some(libc::EINVAL) => Self::Frame(DropReason::BadOffload),
            // EFAULT among them: a guest took its memory away.
            _ => Self::Frame(DropReason::DeviceBusy),
        }
    }

    const fn reason(self) -> DropReason {
        match self {
            Self::Frame(reason) => reason,
            Self::Full => DropReason::DeviceBusy,
            Self::Down => DropReason::PortDown,
        }
    }
}

/// What became of the frames that were handed to the kernel.
#[derive(Debug, Default)]
pub(in crate::ports) struct Outcome {
    /// Frames that left.
    pub(in crate::ports) sent: Sent,
    /// The device is down or gone.
    pub(in crate::ports) down: bool,
}

/// A head with the virtio-net header before it.
#[derive(Clone, Copy)]
struct HeadSlot {
    bytes: [u8; HEAD_SLOT],
    len: usize,
}

impl HeadSlot {
    const EMPTY: Self = Self {
        bytes: [0; HEAD_SLOT],
        len: 0,
    };

    /// Writes the header and the head; a head that is too long to be one is refused.
    fn fill(&mut self, header: VirtioNetHeader, head: &[u8]) -> Result<(), DropReason> {
        self.bytes[..HEADER_LEN].copy_from_slice(&header.emit(0)[..HEADER_LEN]);
        let space = self.bytes[HEADER_LEN..]
            .get_mut(..head.len())
            .ok_or(DropReason::TooBig)?;
        space.copy_from_slice(head);
        self.len = HEADER_LEN + head.len();
        Ok(())
    }

    fn iovec(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.bytes.as_ptr().cast_mut().cast(),
            iov_len: self.len,
        }
    }
}

fn body_iovec(segment: &Segment) -> libc::iovec {
    libc::iovec {
        iov_base: segment.address().cast_mut().cast(),
        iov_len: segment.len(),
    }
}

fn body_len(body: &[Segment]) -> usize {
    body.iter().map(Segment::len).sum()
}

/// One frame that waits for the call that sends it.
#[derive(Clone, Copy)]
struct Waiting {
    /// Its first entry among the vectors; the first is the head's.
    first: usize,
    /// Its length without the virtio-net header.
    len: usize,
}

/// Memory for frames on their way into a packet socket; empty between batches.
pub(in crate::ports) struct PacketBatch {
    heads: Box<[HeadSlot]>,
    waiting: Vec<Waiting>,
    iovecs: Vec<libc::iovec>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers in `iovecs` and `messages` are not used beyond the `PacketSending` that wrote them, and that one
// stays in its thread.
#[expect(unsafe_code, reason = "raw pointers")]
unsafe impl Send for PacketBatch {}

impl PacketBatch {
    /// Reserves the memory.
    pub(in crate::ports) fn new() -> Self {
        Self {
            heads: vec![HeadSlot::EMPTY; BATCH].into(),
            waiting: Vec::with_capacity(BATCH),
            iovecs: Vec::with_capacity(4 * BATCH),
            messages: vec![empty_message(); BATCH].into(),
        }
    }

    /// Starts to send frames of this burst.
    pub(in crate::ports) fn start<'a>(
        &'a mut self,
        socket: &'a PacketSocket,
        burst: &'a Burst,
    ) -> PacketSending<'a> {
        self.waiting.clear();
        self.iovecs.clear();
        PacketSending {
            batch: self,
            socket,
            _burst: burst,
            outcome: Outcome::default(),
            refused: Drops::default(),
        }
    }
}

/// Collects frames of one burst and sends them, many with one call. Heads are copied when they are put; bodies stay
/// where they are, and must be the burst's.
pub(in crate::ports) struct PacketSending<'a> {
    batch: &'a mut PacketBatch,
    socket: &'a PacketSocket,
    /// While it is borrowed it cannot be cleared.
    _burst: &'a Burst,
    outcome: Outcome,
    refused: Drops,
}

impl PacketSending<'_> {
    /// Sends what is left, counts what did not leave, and tells what became of all.
    pub(in crate::ports) fn finish(mut self, drops: &mut Drops) -> Outcome {
        self.flush();
        for (reason, frames) in self.refused.iter() {
            drops.count_many(reason, frames);
        }
        self.outcome
    }

    fn flush(&mut self) {
        let batch = &mut *self.batch;
        for (frame, head) in batch.waiting.iter().zip(&batch.heads) {
            batch.iovecs[frame.first] = head.iovec();
        }
        let ends = batch
            .waiting
            .iter()
            .skip(1)
            .map(|next| next.first)
            .chain([batch.iovecs.len()]);
        let iovecs = batch.iovecs.as_mut_ptr();
        for ((frame, end), message) in batch.waiting.iter().zip(ends).zip(&mut batch.messages) {
            message.msg_hdr.msg_iov = iovecs.wrapping_add(frame.first);
            message.msg_hdr.msg_iovlen = end - frame.first;
        }
        let mut next = 0;
        while next < batch.waiting.len() && !self.outcome.down {
            match Self::call(self.socket, &mut batch.messages[next..batch.waiting.len()]) {
                // The kernel does not answer so.
                Ok(0) => break,
                Ok(sent) => {
                    for frame in batch.waiting.iter().skip(next).take(sent) {
                        self.outcome.sent.frames += 1;
                        self.outcome.sent.bytes += u64::from(length(frame.len));
                    }
                    next += sent;
                }
                Err(error) => match Refusal::of(&error) {
                    Refusal::Frame(reason) => {
                        self.refused.count(reason);
                        next += 1;
                    }
                    Refusal::Full => break,
                    Refusal::Down => self.outcome.down = true,
                },
            }
        }
        let rest = if self.outcome.down {
            Refusal::Down
        } else {
            Refusal::Full
        };
        self.refused
            .count_many(rest.reason(), u64::from(length(batch.waiting.len() - next)));
        batch.waiting.clear();
        batch.iovecs.clear();
    }

    #[expect(unsafe_code, reason = "std has no sendmmsg")]
    fn call(socket: &PacketSocket, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let (first, count) = (messages.as_mut_ptr(), length(messages.len()));
        // SAFETY: `flush` has just pointed the messages at heads that stay where they are and at bodies of a burst that
        // is borrowed; the kernel only reads those, and answers EFAULT where it cannot.
        checked(unsafe { libc::sendmmsg(socket.fd.as_raw_fd(), first, count, libc::MSG_DONTWAIT) })
    }
}

impl Sink for PacketSending<'_> {
    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    #[inline]
    fn put(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
    ) -> Result<(), DropReason> {
        if self.batch.waiting.len() == BATCH {
            self.flush();
        }
        let batch = &mut *self.batch;
        batch.heads[batch.waiting.len()].fill(header, head)?;
        batch.waiting.push(Waiting {
            first: batch.iovecs.len(),
            len: head.len() + body_len(body),
        });
        batch.iovecs.push(libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        });
        batch.iovecs.extend(body.iter().map(body_iovec));
        Ok(())
    }
}

/// Sends frames through a TAP device, one with each call.
pub(in crate::ports) struct TapSending<'a> {
    tun: BorrowedFd<'a>,
    refusal: Option<Refusal>,
    outcome: Outcome,
}

impl<'a> TapSending<'a> {
    /// Starts to send frames.
    pub(in crate::ports) fn start(tun: BorrowedFd<'a>) -> Self {
        Self {
            tun,
            refusal: None,
            outcome: Outcome::default(),
        }
    }

    /// Tells what became of all.
    pub(in crate::ports) fn finish(self) -> Outcome {
        self.outcome
    }

    #[expect(unsafe_code, reason = "bodies are raw memory")]
    fn write(&self, iovecs: &[libc::iovec]) -> io::Result<usize> {
        // More than the kernel takes at once is EINVAL.
        let count = libc::c_int::try_from(iovecs.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the first is a head of ours, the others are bodies that are readable until their burst is cleared;
        // the kernel only reads them, and answers EFAULT where it cannot.
        checked(unsafe { libc::writev(self.tun.as_raw_fd(), iovecs.as_ptr(), count) })
    }
}

impl Sink for TapSending<'_> {
    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn put(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
    ) -> Result<(), DropReason> {
        const FEW: usize = 24;
        if let Some(refusal) = self.refusal {
            return Err(refusal.reason());
        }
        let mut slot = HeadSlot::EMPTY;
        slot.fill(header, head)?;
        let result = if body.len() < FEW {
            let mut iovecs = [slot.iovec(); FEW];
            for (iovec, segment) in iovecs[1..].iter_mut().zip(body) {
                *iovec = body_iovec(segment);
            }
            self.write(&iovecs[..=body.len()])
        } else {
            let iovecs: Vec<_> = [slot.iovec()]
                .into_iter()
                .chain(body.iter().map(body_iovec))
                .collect();
            self.write(&iovecs)
        };
        let Err(error) = result else {
            self.outcome.sent.frames += 1;
            self.outcome.sent.bytes += u64::from(length(head.len() + body_len(body)));
            return Ok(());
        };
        let refusal = Refusal::of(&error);
        match refusal {
            Refusal::Frame(_) => {}
            Refusal::Full => self.refusal = Some(refusal),
            Refusal::Down => {
                self.refusal = Some(refusal);
                self.outcome.down = true;
            }
        }
        Err(refusal.reason())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::wire::virtio_net::NEEDS_CSUM;

    const HEAD: [u8; 20] = [7; 20];
    const HEADER: VirtioNetHeader = VirtioNetHeader {
        flags: NEEDS_CSUM,
        gso_type: 0,
        hdr_len: 1,
        gso_size: 2,
        csum_start: 3,
        csum_offset: 4,
    };

    /// A pair of sockets of which one stands in for the packet socket.
    fn pair() -> (PacketSocket, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let fd = near.into();
        let socket = PacketSocket {
            fd,
            ignores_outgoing: true,
        };
        (socket, far)
    }

    fn received(far: &UnixDatagram) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let mut datagrams = Vec::new();
        while let Ok(len) = far.recv(&mut buffer) {
            datagrams.push(buffer[..len].to_vec());
        }
        datagrams
    }

    /// Memory that a guest took away: nothing is ever mapped there.
    fn vanished() -> Segment {
        Segment::new(std::ptr::without_provenance(8), 100)
    }

    #[test]
    fn a_body_that_vanished_costs_its_own_frame_only() {
        let (socket, far) = pair();
        let (mut batch, burst, mut drops) =
            (PacketBatch::new(), Burst::default(), Drops::default());
        let (first, second) = ([1; 300], [2; 500]);
        let mut sending = batch.start(&socket, &burst);
        let body = [Segment::of(&first), Segment::of(&second)];
        assert_eq!(sending.put(HEADER, &HEAD, &body), Ok(()));
        assert_eq!(sending.put(HEADER, &HEAD, &[vanished()]), Ok(()));
        assert_eq!(sending.put(HEADER, &HEAD, &[]), Ok(()));
        let outcome = sending.finish(&mut drops);

        assert_eq!((outcome.sent.frames, outcome.sent.bytes), (2, 840));
        assert!(!outcome.down);
        assert_eq!(
            drops.iter().collect::<Vec<_>>(),
            [(DropReason::DeviceBusy, 1)]
        );
        let header = &HEADER.emit(0)[..HEADER_LEN];
        assert_eq!(
            received(&far),
            [
                [header, &HEAD, &first, &second].concat(),
                [header, &HEAD].concat()
            ]
        );

        let mut sending = TapSending::start(socket.as_fd());
        assert_eq!(
            sending.put(HEADER, &HEAD, &[vanished()]),
            Err(DropReason::DeviceBusy)
        );
        assert_eq!(sending.put(HEADER, &HEAD, &body), Ok(()));
        let many: Vec<_> = first.chunks(5).map(Segment::of).collect();
        assert_eq!(sending.put(HEADER, &HEAD, &many), Ok(()));
        let outcome = sending.finish();
        assert_eq!((outcome.sent.frames, outcome.sent.bytes), (2, 1140));
        assert_eq!(received(&far)[1], [header, &HEAD, &first].concat());
    }

    #[test]
    fn more_than_the_kernel_takes_is_dropped_at_once() {
        let (socket, far) = pair();
        let (mut batch, burst, mut drops) =
            (PacketBatch::new(), Burst::default(), Drops::default());
        let body = vec![1; 60_000];
        let mut sending = batch.start(&socket, &burst);
        for _ in 0..3 * BATCH {
            assert_eq!(
                sending.put(HEADER, &HEAD, &[Segment::of(&body)]),
                Ok(()),
                "the frames of a batch wait for each other"
            );
        }
        let outcome = sending.finish(&mut drops);
        let arrived = received(&far).len() as u64;
        assert_eq!(outcome.sent.frames, arrived);
        assert_eq!(
            drops.iter().collect::<Vec<_>>(),
            [(DropReason::DeviceBusy, 3 * BATCH as u64 - arrived)]
        );

        let mut sending = TapSending::start(socket.as_fd());
        let results: Vec<_> = (0..100)
            .map(|_| sending.put(HEADER, &HEAD, &[Segment::of(&body)]))
            .collect();
        let sent = sending.finish().sent.frames;
        assert!(sent < 100);
        assert_eq!(received(&far).len() as u64, sent);
        assert_eq!(results.last(), Some(&Err(DropReason::DeviceBusy)));
    }
}
