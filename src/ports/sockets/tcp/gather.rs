//! From guests to the outside: segments are taken in one by one, and what they carry is passed on together.
//!
//! What was gathered is known by places in a burst, not by addresses: were it ever passed on with another burst than it
//! came with, it would be given back, and the guest would send it again.

use std::io;
use std::net::SocketAddr;
use std::ptr;

use super::buffer::Budget;
use super::calls::{self, Part};
use super::flow::{Flow, Key};
use super::{TcpFlows, place_of};
use crate::net::drops::DropReason;
use crate::net::nat::segments;
use crate::net::packet::Packet;
use crate::net::tcp::Outcome;
use crate::net::vlan::TagAction;
use crate::ports::burst::{Burst, Frame};
use crate::ports::sockets::context::Context;
use crate::wire::tcp::Tcp;
use crate::wire::virtio_net::DATA_VALID;

/// Parts of a burst's frames that come next in one connection, and were taken but not passed on.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    id: u32,
    /// Where the burst keeps its frames.
    burst: usize,
    parts: Vec<Part>,
    len: usize,
}

impl TcpFlows {
    /// Takes a segment from a guest. What it carries is passed on by [`TcpFlows::flush`], which has to follow before the burst
    /// is used up.
    ///
    /// # Errors
    ///
    /// The segment makes no sense, or leads nowhere.
    pub(in crate::ports::sockets) fn segment(
        &mut self,
        packet: &Packet,
        burst: &Burst,
        frame: &Frame,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let transport = frame.head.bytes().get(packet.transport_at..);
        let (tcp, header_len) = transport
            .and_then(Tcp::parse)
            .ok_or(DropReason::BadPacket)?;
        let from = packet.transport_at + header_len;
        let payload = packet.end.checked_sub(from).ok_or(DropReason::BadPacket)?;
        if !self.is_intact(packet, burst, frame) {
            return Err(DropReason::BadPacket);
        }
        let key = Key {
            mac: packet.mac,
            guest: SocketAddr::new(packet.src, tcp.src),
            remote: SocketAddr::new(packet.dst, tcp.dst),
        };
        let now = cx.now.instant;
        let Some(place) = self.find(&key) else {
            return self.begin(key, &tcp, payload, packet, frame, cx);
        };
        let Some(flow) = self.flows.get_mut(place) else {
            return Err(DropReason::BadPacket);
        };
        let arrival = flow.endpoint.handle(&tcp, payload, now);
        flow.acknowledge(arrival.acked, &mut self.chunks);
        Self::enqueue(&mut self.queue, flow);
        self.came = true;
        if arrival.outcome == Some(Outcome::Again) {
            self.end(place, cx);
            return self.begin(key, &tcp, payload, packet, frame, cx);
        }
        let Some(range) = arrival.offer else {
            return Ok(());
        };
        let part = Part {
            frame: index_of(burst, frame).ok_or(DropReason::BadPacket)?,
            from: from + range.start,
            len: range.len(),
        };
        flow.endpoint.take(part.len);
        let (id, at) = (flow.id, burst.frames().as_ptr().addr());
        if self.gathered.id != id || self.gathered.burst != at {
            self.flush(burst);
        }
        self.gathered.id = id;
        self.gathered.burst = at;
        self.gathered.len += part.len;
        self.gathered.parts.push(part);
        Ok(())
    }

    /// Passes on what was gathered of a burst's frames.
    pub(in crate::ports::sockets) fn flush(&mut self, burst: &Burst) {
        if self.gathered.parts.is_empty() {
            return;
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        if let Some(flow) = self.flows.get_mut(place_of(gathered.id))
            && flow.id == gathered.id
        {
            let current = gathered.burst == burst.frames().as_ptr().addr();
            let taken = if current {
                Self::pass(flow, burst, &gathered, &mut self.budget)
            } else {
                0
            };
            if taken < gathered.len {
                // The guest sends it again.
                flow.endpoint.untake(gathered.len - taken);
            }
            flow.note_sent(taken);
            flow.set_room(&self.budget);
        }
        gathered.parts.clear();
        gathered.len = 0;
        self.gathered = gathered;
    }

    /// Passes on what was gathered for a connection, and returns how much of it was taken.
    fn pass(flow: &mut Flow, burst: &Burst, gathered: &Gathered, budget: &mut Budget) -> usize {
        if !flow.has_socket() {
            return gathered.len;
        }
        let mut done = 0;
        if let Some(socket) = flow.direct() {
            let (sent, error) = calls::send(socket, burst, &gathered.parts);
            done = sent;
            match error {
                None => return sent,
                Some(error) if error.kind() == io::ErrorKind::WouldBlock => flow.note_full(),
                // The guest took its memory away, and with it what was to be sent.
                Some(error) if error.raw_os_error() == Some(libc::EFAULT) => return done,
                Some(_) => {
                    flow.endpoint.abort();
                    return gathered.len;
                }
            }
        }
        if flow.pending().store(burst, &gathered.parts, done, budget) {
            gathered.len
        } else {
            done
        }
    }

    /// Verifies the checksum of a segment where its sender did not leave it to others.
    fn is_intact(&mut self, packet: &Packet, burst: &Burst, frame: &Frame) -> bool {
        let offload = frame.head.offload;
        if offload.needs_checksum() || offload.flags & DATA_VALID != 0 {
            return true;
        }
        burst.copy_frame(frame, TagAction::Keep, &mut self.scratch);
        let segment = self.scratch.get(packet.transport_at..packet.end);
        let Some((segment, len)) =
            segment.and_then(|segment| Some((segment, u16::try_from(segment.len()).ok()?)))
        else {
            return false;
        };
        segments::pseudo_header(packet.src, packet.dst, len)
            .over(segment)
            .finish()
            == 0
    }
}

/// Returns a frame's place in its burst.
fn index_of(burst: &Burst, frame: &Frame) -> Option<usize> {
    let frames = burst.frames();
    let distance = ptr::from_ref(frame)
        .addr()
        .checked_sub(frames.as_ptr().addr())?;
    let index = distance / size_of::<Frame>();
    frames
        .get(index)
        .filter(|other| ptr::eq(*other, frame))
        .map(|_| index)
}
