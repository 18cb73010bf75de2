//! The last step of a frame: its tag and its offloads made fit for the port through which it leaves.
//!
//! What the receiver can finish itself stays unfinished. Where it cannot, the frame is copied into memory of our
//! own once, and its checksum is completed or its segments are cut from there.

use crate::net::drops::{DropReason, Drops};
use crate::net::offload::{self, Capabilities};
use crate::net::outbox::Egress;
use crate::net::vlan::TagAction;
use crate::ports::Sent;
use crate::ports::burst::{Burst, Frame, Segment};
use crate::ports::unread::Unread;
use crate::wire::virtio_net::VirtioNetHeader;

/// What a port does with one frame that is fit for it.
pub(super) trait Sink {
    /// What the receiver can finish itself.
    fn capabilities(&self) -> Capabilities;

    /// Sends one frame: a head of ours and a body in its sender's memory.
    fn put(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
    ) -> Result<(), DropReason>;

    /// Sends one frame whose body ends with bytes of a socket.
    fn put_unread(
        &mut self,
        header: VirtioNetHeader,
        head: &[u8],
        body: &[Segment],
        unread: Unread,
    ) -> Result<(), DropReason> {
        put_copy(self, header, head, body, unread)
    }
}

/// Sends one frame whose body ends with bytes of a socket by way of memory of our own.
#[cold]
pub(super) fn put_copy<S: Sink + ?Sized>(
    sink: &mut S,
    header: VirtioNetHeader,
    head: &[u8],
    body: &[Segment],
    unread: Unread,
) -> Result<(), DropReason> {
    let mut bytes = Vec::new();
    // The sender tries again, and finds out what is the matter with the socket.
    unread
        .read_to(&mut bytes)
        .map_err(|_| DropReason::NoBuffer)?;
    let body: Vec<Segment> = body.iter().copied().chain([Segment::of(&bytes)]).collect();
    sink.put(header, head, &body)
}

/// Memory for frames that have to be finished here. One a port; grows to the largest frame once.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    frame: Vec<u8>,
}

/// Sends a batch through `sink`, and counts what left and what did not.
#[inline]
pub(super) fn send_batch<S: Sink>(
    sink: &mut S,
    burst: &Burst,
    batch: &[Egress],
    scratch: &mut Scratch,
    drops: &mut Drops,
) -> Sent {
    let capabilities = sink.capabilities();
    let frames = burst.frames();
    let mut sent = Sent::default();
    for egress in batch {
        let frame = &frames[usize::from(egress.frame)];
        let header = frame.head.offload;
        let result = if !capabilities.take(header) {
            send_finished(sink, capabilities, burst, frame, egress.action, scratch)
        } else if let Some(unread) = burst.unread(frame) {
            let head = frame.head.with_tag(egress.action);
            sink.put_unread(head.offload, head.bytes(), burst.body(frame), unread)
        } else if egress.action == TagAction::Keep {
            sink.put(header, frame.head.bytes(), burst.body(frame))
        } else {
            let head = frame.head.with_tag(egress.action);
            sink.put(head.offload, head.bytes(), burst.body(frame))
        };
        match result {
            Ok(()) => {
                sent.frames += 1;
                sent.bytes += u64::from(frame.head.frame_len);
            }
            Err(reason) => {
                if reason == DropReason::NoBuffer {
                    sent.refused |= 1u64.unbounded_shl(u32::from(egress.frame));
                }
                drops.count(reason);
            }
        }
    }
    sent
}

/// Finishes in memory of our own what the receiver cannot, and sends the result.
#[cold]
fn send_finished<S: Sink>(
    sink: &mut S,
    capabilities: Capabilities,
    burst: &Burst,
    frame: &Frame,
    action: TagAction,
    scratch: &mut Scratch,
) -> Result<(), DropReason> {
    let (header, read) = burst.try_copy_frame(frame, action, &mut scratch.frame);
    read.map_err(|_| DropReason::NoBuffer)?;
    offload::finish(
        &mut scratch.frame,
        header,
        capabilities,
        |header, headers, payload| {
            if payload.is_empty() {
                sink.put(header, headers, &[])
            } else {
                sink.put(header, headers, &[Segment::of(payload)])
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver that has so many buffers free.
    struct Few(usize);

    impl Sink for Few {
        fn capabilities(&self) -> Capabilities {
            Capabilities::ALL
        }

        fn put(
            &mut self,
            _header: VirtioNetHeader,
            head: &[u8],
            _body: &[Segment],
        ) -> Result<(), DropReason> {
            if head.len() > 60 {
                return Err(DropReason::TooBig);
            }
            self.0 = self.0.checked_sub(1).ok_or(DropReason::NoBuffer)?;
            Ok(())
        }
    }

    #[test]
    fn frames_that_find_no_buffer_are_told_one_by_one() {
        let mut burst = Burst::default();
        for len in [60, 61, 60, 60, 60] {
            burst.push_owned(vec![0; len], VirtioNetHeader::default());
        }
        let batch = [0, 1, 2, 4].map(|frame| Egress {
            frame,
            action: TagAction::Keep,
        });
        let (mut scratch, mut drops) = (Scratch::default(), Drops::default());
        let sent = send_batch(&mut Few(1), &burst, &batch, &mut scratch, &mut drops);
        assert_eq!((sent.frames, sent.refused), (1, 0b10100));
        let counted = [(DropReason::TooBig, 1), (DropReason::NoBuffer, 2)];
        assert_eq!(drops.iter().collect::<Vec<_>>(), counted);
    }
}
