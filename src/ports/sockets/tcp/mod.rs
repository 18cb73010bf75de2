//! TCP connections of guests over the daemon's own sockets: none yet, every segment is refused.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::Context;
use super::poll::Ready;
use crate::net::drops::DropReason;
use crate::net::nat::FlowRow;
use crate::net::packet::Packet;
use crate::ports::burst::{Burst, Frame};
use crate::wire::ethernet::MacAddr;

/// The TCP connections of a network.
#[derive(Debug, Default)]
pub(super) struct TcpFlows {}

impl TcpFlows {
    /// Begins without any.
    pub(super) fn new(_seed: u64) -> Self {
        Self {}
    }

    /// Takes a segment from a guest.
    pub(super) fn segment(
        &mut self,
        _packet: &Packet,
        _burst: &Burst,
        _frame: &Frame,
        _cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        Err(DropReason::Unreachable)
    }

    /// Takes a connection that came in by a port forward.
    pub(super) fn accepted(
        &mut self,
        _socket: OwnedFd,
        _client: SocketAddr,
        _target: SocketAddr,
        _mac: MacAddr,
        _forward: usize,
        _cx: &mut Context<'_>,
    ) {
    }

    /// Looks at a socket.
    pub(super) fn ready(&mut self, _id: u32, _ready: Ready, _cx: &mut Context<'_>) {}

    /// Fills the burst with segments to guests.
    pub(super) fn receive(&mut self, _burst: &mut Burst, _cx: &mut Context<'_>) {}

    /// Hears that those frames of the burst had no room at their receiver, one bit each.
    pub(super) fn refused(&mut self, _frames: u64) {}

    /// Hears that the burst is not used any more.
    pub(super) fn release(&mut self) {}

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, _cx: &mut Context<'_>) {}

    /// Adds its flows to `out`.
    pub(super) fn rows(&self, _now: Instant, _out: &mut Vec<FlowRow>) {}
}
