//! TCP connections of guests over the daemon's own sockets.
//!
//! # Theory of operation
//!
//! A connection ends here and is carried on by a socket. Towards the guest an endpoint ([`crate::net::tcp`]) speaks TCP;
//! what it wants to say is asked for when the worker receives ([`TcpFlows::receive`]), so that one acknowledgement
//! answers a whole burst. While guests keep sending, what has come of a connection is acknowledged together with what is about
//! to come, 64 KiB or eight visits later: each acknowledgement costs the guest a frame, and makes it send smaller ones.
//!
//! *From a guest*: the parts of a burst's frames that come next in a connection are gathered and handed to the kernel in one
//! call, from where they are in the guest's memory ([`TcpFlows::flush`]). What the kernel does not take is copied and waits,
//! and the window closes by as much.
//!
//! *To a guest*: a connection whose socket is readable, and whose guest has room, takes its turn in [`TcpFlows::receive`]. Little
//! is read into chunks ([`buffer`]), which frames then point into until the guest has acknowledged. Much stays in the socket
//! ([`crate::ports::unread`]): the guest's port reads it from there into the guest's buffers, in super-frames, and it is
//! discarded when the guest has acknowledged it. Kernels before Linux 6.9 cannot do that, and have everything read into chunks.
//! Turns are short and go round, and a burst holds only as much as stays in the processor's cache.
//!
//! Sockets are watched edge-triggered: what one is ready for is told once and remembered, and no call is made of which it
//! is known that it would be in vain. Nothing ever looks at all connections: those with something to do are in a queue,
//! those that wait are in [`timers`].
//!
//! A connection that is idle takes less than 700 bytes, its entries in tables included, beside what its socket takes.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use socket2::SockRef;

use self::buffer::{Budget, Chunks};
use self::flow::{Flow, Key};
use self::gather::Gathered;
use self::timers::Timers;
use super::context::Context;
use super::dial::Dial;
use super::poll::{Interest, Kind, Ready, Token};
use super::system;
use super::table::Table;
use crate::net::drops::DropReason;
use crate::net::nat::error::{Problem, Unreachable};
use crate::net::nat::{self, FlowRow, frames, segments};
use crate::net::packet::Packet;
use crate::net::tcp::{Config, Endpoint, IssSource, Sent, Transmit, reset_for};
use crate::ports::burst::{Burst, Frame};
use crate::wire::ethernet::{self, MacAddr};
use crate::wire::ipv6;
use crate::wire::tcp::{self, Flags, Tcp};

mod buffer;
mod calls;
mod flow;
mod gather;
#[cfg(test)]
mod tests;
mod timers;

/// How many bits of a connection's identifier are its place in the table; the others tell it from those before.
const PLACE_BITS: u32 = 22;
/// How many frames a connection sends in one turn.
const TURN: usize = 8;
/// How much all connections put into one burst.
const BURST: usize = 512 * 1024;
/// How many connections have their turn in one go, whether they have something to say or not.
const TURNS: usize = 256;
/// For how many visits in a row an acknowledgement waits for more to come.
const PATIENCE: u32 = 8;
/// How many timers are handled in one go.
const TIMERS: usize = 1024;
/// What a peer takes that does not say so (RFC 9293, section 3.7.1).
const DEFAULT_MSS: (u16, u16) = (536, 1220);

/// A frame in the burst that was filled last.
#[derive(Clone, Copy, Debug)]
struct InBurst {
    frame: usize,
    id: u32,
    sent: Sent,
}

/// The TCP connections of a network.
pub(super) struct TcpFlows {
    flows: Table<Flow>,
    /// Places in the table by the hashes of their keys.
    places: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
    iss: IssSource,
    /// Those with something to do.
    queue: VecDeque<u32>,
    /// Those that owe an acknowledgement which can wait for what is about to come.
    patient: Vec<u32>,
    /// For how many visits in a row more has come.
    busy: u32,
    /// Whether more has come since the last visit.
    came: bool,
    timers: Timers,
    chunks: Chunks,
    budget: Budget,
    gathered: Gathered,
    in_burst: Vec<InBurst>,
    timeouts: nat::Timeouts,
    now: Instant,
    scratch: Vec<u8>,
}

const fn place_of(id: u32) -> u32 {
    id & ((1 << PLACE_BITS) - 1)
}

impl TcpFlows {
    /// Begins without any. The seed is not to be known to anybody outside.
    pub(super) fn new(seed: u64, timeouts: nat::Timeouts, now: Instant) -> Self {
        Self {
            flows: Table::default(),
            places: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            iss: IssSource::new(u128::from(seed), now),
            queue: VecDeque::new(),
            patient: Vec::new(),
            busy: 0,
            came: false,
            timers: Timers::default(),
            chunks: Chunks::default(),
            budget: Budget::default(),
            gathered: Gathered::default(),
            in_burst: Vec::new(),
            timeouts,
            now,
            scratch: Vec::new(),
        }
    }

    /// Whether [`TcpFlows::receive`] has something to do.
    pub(super) fn is_ready(&self) -> bool {
        !self.queue.is_empty() || !self.patient.is_empty()
    }

    fn find(&self, key: &Key) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let same = |place: &u32| self.flows.get(*place).is_some_and(|flow| flow.key == *key);
        self.places.find(hash, same).copied()
    }

    /// Returns the connection with an identifier, unless it is gone and another has its place.
    fn get_mut(&mut self, id: u32) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(place_of(id))?;
        (flow.id == id).then_some(flow)
    }

    fn enqueue(queue: &mut VecDeque<u32>, flow: &mut Flow) {
        if !flow.queued {
            flow.queued = true;
            queue.push_back(flow.id);
        }
    }

    /// Takes a segment of no connection: a SYN begins one, and all else is answered by a RST.
    fn begin(
        &mut self,
        key: Key,
        tcp: &Tcp,
        payload: usize,
        packet: &Packet,
        frame: &Frame,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let others = tcp.flags.has(Flags::RST) || tcp.flags.has(Flags::ACK);
        if others || !tcp.flags.has(Flags::SYN) {
            refuse(&key, tcp, payload, cx);
            return Ok(());
        }
        if !cx.quota.take(key.mac) {
            return Err(DropReason::NatLimit);
        }
        let (socket, connecting) = match cx.dialer.dial(key.mac, key.guest, key.remote) {
            Dial::Connecting(socket) => (socket, true),
            Dial::Connected(socket) => (socket, false),
            Dial::Refused => {
                cx.quota.give(key.mac);
                refuse(&key, tcp, payload, cx);
                return Ok(());
            }
            Dial::Unreachable(why) => {
                cx.quota.give(key.mac);
                let original = frame.head.bytes().get(packet.ip_at..);
                let problem = Problem::Unreachable(why);
                cx.answer(packet, original.unwrap_or_default(), problem);
                return Err(DropReason::Unreachable);
            }
            Dial::Silent => {
                cx.quota.give(key.mac);
                return Err(DropReason::Unreachable);
            }
        };
        let mut endpoint = Endpoint::accept(self.config(&key, cx), tcp, cx.now.instant);
        if !connecting {
            endpoint.opened();
        }
        match self.insert(key, None, endpoint, socket, connecting, cx) {
            true => Ok(()),
            false => Err(DropReason::NatLimit),
        }
    }

    fn config(&self, key: &Key, cx: &Context<'_>) -> Config {
        let headers = frames::ip_header_len(key.guest.ip()) + tcp::HEADER_LEN;
        let headers = u16::try_from(headers).unwrap_or_default();
        Config {
            iss: self.iss.next(key.remote, key.guest, cx.now.instant),
            mss: cx.mtu.saturating_sub(headers),
            default_mss: match key.guest {
                SocketAddr::V4(_) => DEFAULT_MSS.0,
                SocketAddr::V6(_) => DEFAULT_MSS.1,
            },
        }
    }

    /// Puts a connection into the tables; its share of the quota is taken. Tells whether it is there.
    fn insert(
        &mut self,
        key: Key,
        ticket: Option<usize>,
        endpoint: Endpoint,
        socket: OwnedFd,
        connecting: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        let note = self
            .flows
            .vacant()
            .filter(|note| note.id >> PLACE_BITS == 0);
        let id = note.map(|note| note.serial << PLACE_BITS | note.id);
        let watched = id.filter(|id| {
            let token = Token {
                kind: Kind::Tcp,
                id: *id,
            };
            let interest = Interest {
                edge: true,
                ..Interest::BOTH
            };
            cx.poll.add(socket.as_fd(), token, interest).is_ok()
        });
        let Some(id) = watched else {
            cx.quota.give(key.mac);
            cx.quota.note_refused();
            return false;
        };
        let now = cx.now.instant;
        let mut flow = Flow::new(id, key, ticket, endpoint, socket, connecting, now);
        flow.set_room(&self.budget);
        cx.events.push(flow.event(true));
        self.flows.insert(flow);
        let (flows, hasher) = (&self.flows, &self.hasher);
        let rehash = |place: &u32| {
            flows
                .get(*place)
                .map_or(0, |flow| hasher.hash_one(flow.key))
        };
        self.places
            .insert_unique(hasher.hash_one(key), place_of(id), rehash);
        if let Some(flow) = self.flows.get_mut(place_of(id)) {
            Self::enqueue(&mut self.queue, flow);
        }
        true
    }

    /// Takes a connection that came in by a port forward, and opens it towards the guest.
    pub(super) fn accepted(
        &mut self,
        socket: OwnedFd,
        client: SocketAddr,
        target: SocketAddr,
        mac: MacAddr,
        forward: usize,
        cx: &mut Context<'_>,
    ) {
        let key = Key {
            mac,
            guest: target,
            remote: client,
        };
        let possible = client.is_ipv4() == target.is_ipv4() && self.find(&key).is_none();
        if !possible || !cx.quota.take(mac) {
            // The client is not to think that all was said. If that cannot be told, it ends anyway.
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            cx.ended.push(forward);
            return;
        }
        let endpoint = Endpoint::connect(self.config(&key, cx), cx.now.instant);
        if !self.insert(key, Some(forward), endpoint, socket, false, cx) {
            cx.ended.push(forward);
        }
    }

    /// Looks at a socket.
    pub(super) fn ready(&mut self, id: u32, ready: Ready, cx: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(place_of(id)) else {
            return;
        };
        if flow.id != id {
            return;
        }
        Self::enqueue(&mut self.queue, flow);
        if let Some(error) = flow.note_ready(ready) {
            self.failed(id, &error, cx);
        }
    }

    /// Tells a guest that its connection cannot be made.
    fn failed(&mut self, id: u32, error: &std::io::Error, cx: &mut Context<'_>) {
        let Some(flow) = self.get_mut(id) else {
            return;
        };
        let why = match error.raw_os_error() {
            Some(libc::ETIMEDOUT) => Some(Unreachable::Host),
            _ => system::unreachable(error),
        };
        let Some(why) = why else {
            flow.endpoint.abort();
            return;
        };
        let (key, seq) = (flow.key, flow.endpoint.guest_syn());
        flow.endpoint.forget();
        // What the guest had sent is gone, but its headers are known.
        let syn = Tcp {
            src: key.guest.port(),
            dst: key.remote.port(),
            seq: seq.0,
            flags: Flags::SYN,
            ..Tcp::default()
        };
        let ips = (key.guest.ip(), key.remote.ip());
        let len = frames::ip_header_len(ips.0) + tcp::HEADER_LEN;
        let Some(original) = segments::emit(cx.stations(key.mac), ips, &syn) else {
            return;
        };
        let original = original.get(ethernet::HEADER_LEN..ethernet::HEADER_LEN + len);
        let problem = Problem::Unreachable(why);
        cx.tell(key.mac, ips.0, None, problem, original.unwrap_or_default());
    }

    /// Fills the burst with segments to guests.
    pub(super) fn receive(&mut self, burst: &mut Burst, cx: &mut Context<'_>) {
        self.now = cx.now.instant;
        self.in_burst.clear();
        self.busy = if std::mem::take(&mut self.came) {
            self.busy.wrapping_add(1)
        } else {
            0
        };
        if self.busy.is_multiple_of(PATIENCE) {
            for id in std::mem::take(&mut self.patient) {
                if let Some(flow) = self.get_mut(id)
                    && !flow.queued
                {
                    flow.queued = true;
                    self.queue.push_back(id);
                }
            }
        }
        let mut bytes = 0;
        for _ in 0..TURNS {
            if burst.room() == 0 || bytes >= BURST {
                return;
            }
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            bytes += self.serve(id, burst, cx);
        }
    }

    /// Gives a connection its turn, and returns how many bytes it has put into the burst.
    fn serve(&mut self, id: u32, burst: &mut Burst, cx: &mut Context<'_>) -> usize {
        let now = cx.now.instant;
        let place = place_of(id);
        let Some(flow) = self.flows.get_mut(place) else {
            return 0;
        };
        if flow.id != id {
            return 0;
        }
        flow.queued = false;
        flow.write(&mut self.budget);
        flow.set_room(&self.budget);
        flow.read(&mut self.chunks);
        let patient = !self.busy.is_multiple_of(PATIENCE);
        flow.endpoint.set_patient(patient);
        let mut bytes = 0;
        let mut left = TURN;
        let idle = loop {
            if burst.room() == 0 || left == 0 {
                break false;
            }
            let Some(transmit) = flow.endpoint.poll(now) else {
                break true;
            };
            left -= 1;
            bytes += transmit.range.len();
            let frame = burst.len();
            let sent = transmit.sent;
            if emit(flow, transmit, burst, cx.stations(flow.key.mac)).is_some() {
                self.in_burst.push(InBurst { frame, id, sent });
            }
        };
        let more = !idle || flow.can_read(&self.chunks) && bytes > 0;
        let timeouts = &cx.timeouts;
        if flow.settle(&mut self.chunks, &mut self.budget, (now, timeouts)) {
            self.end(place, cx);
            return bytes;
        }
        if more {
            Self::enqueue(&mut self.queue, flow);
        } else {
            if patient && flow.endpoint.owes() {
                self.patient.push(id);
            }
            let at = flow.poll_timeout(timeouts);
            self.timers.arm(&mut flow.armed, at, id);
        }
        bytes
    }

    /// Takes a connection out of the tables.
    fn end(&mut self, place: u32, cx: &mut Context<'_>) {
        let Some(flow) = self.flows.get(place) else {
            return;
        };
        let hash = self.hasher.hash_one(flow.key);
        if let Ok(entry) = self.places.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        let Some(mut flow) = self.flows.remove(place) else {
            return;
        };
        flow.drop_socket(&mut self.chunks, &mut self.budget, false);
        self.timers.disarm(&mut flow.armed, flow.id);
        cx.quota.give(flow.key.mac);
        cx.events.push(flow.event(false));
        cx.ended.extend(flow.ticket);
    }

    /// Hears that those frames of the burst had no room at their receiver, one bit each.
    pub(super) fn refused(&mut self, refused: u64) {
        if refused == 0 {
            return;
        }
        for at in 0..self.in_burst.len() {
            let InBurst { frame, id, sent } = self.in_burst[at];
            if frame >= 64 || refused >> frame & 1 == 0 {
                continue;
            }
            let (now, timeouts) = (self.now, self.timeouts);
            let Some(flow) = self.get_mut(id) else {
                continue;
            };
            flow.endpoint.refused(sent, now);
            let at = flow.poll_timeout(&timeouts);
            if let Some(flow) = self.flows.get_mut(place_of(id)) {
                self.timers.arm(&mut flow.armed, at, id);
            }
        }
    }

    /// Hears that the burst is not used any more.
    pub(super) fn release(&mut self) {
        self.in_burst.clear();
        self.chunks.release();
    }

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }

    /// Does what is due; what is to be sent then is sent by [`TcpFlows::receive`].
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        for _ in 0..TIMERS {
            let Some(id) = self.timers.pop(now) else {
                return;
            };
            let timeouts = &cx.timeouts;
            let Some(flow) = self.flows.get_mut(place_of(id)) else {
                continue;
            };
            if flow.id == id {
                flow.armed = None;
                flow.endpoint.handle_timeout(now, timeouts);
                Self::enqueue(&mut self.queue, flow);
            }
        }
    }

    /// Adds its flows to `out`.
    pub(super) fn rows(&self, now: Instant, timeouts: &nat::Timeouts, out: &mut Vec<FlowRow>) {
        out.extend(self.flows.iter().map(|(_, flow)| flow.row(now, timeouts)));
    }
}

/// Puts a segment into the burst; `None` where that is impossible.
fn emit(
    flow: &Flow,
    transmit: Transmit,
    burst: &mut Burst,
    stations: frames::Stations,
) -> Option<()> {
    let Key { guest, remote, .. } = flow.key;
    let tcp = Tcp {
        src: remote.port(),
        dst: guest.port(),
        ..transmit.tcp
    };
    let ips = (remote.ip(), guest.ip());
    let payload = transmit.range.len();
    segments::fill(burst.begin(), stations, ips, &tcp, payload, transmit.mss)?;
    if payload > 0 {
        flow.fill(transmit.range, burst);
    }
    burst.commit();
    Some(())
}

/// Answers a segment of no connection by a RST.
fn refuse(key: &Key, tcp: &Tcp, payload: usize, cx: &mut Context<'_>) {
    let ips: (IpAddr, IpAddr) = (key.remote.ip(), key.guest.ip());
    let frame =
        reset_for(tcp, payload).and_then(|reset| segments::emit(cx.stations(key.mac), ips, &reset));
    if let Some(frame) = frame {
        cx.reply(frame);
    }
}

/// Whether a TCP segment, of which this is the packet or the start of it, accepts a connection or ends it at once.
pub(super) fn is_answer(ip: &[u8]) -> bool {
    const FLAGS: usize = 13;
    const RST: u8 = 0x04;
    const SYN_ACK: u8 = 0x12;
    let header = match ip.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 0x0f) * 4,
        Some(_) | None => ipv6::HEADER_LEN,
    };
    let flags = ip.get(header + FLAGS).copied().unwrap_or(0);
    flags & RST != 0 || flags & SYN_ACK == SYN_ACK
}
