//! One connection: its socket, what is on its way in both directions, and its endpoint towards the guest.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::buffer::{Budget, Chunks, Held, Pending};
use crate::net::nat::{self, Event, FlowRow, Originator, Protocol};
use crate::net::tcp::Endpoint;
use crate::ports::burst::Burst;
use crate::ports::sockets::poll::Ready;
use crate::ports::unread::{self, Next, Unread};
use crate::wire::ethernet::MacAddr;

/// How much is read from a socket in one go.
const READ: usize = 256 * 1024;
/// From how much on, come in one go, what follows is left in the socket until the guest's port reads it.
const BULK: usize = 16 * 1024;

/// By what a guest's segments are known to be of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    /// The guest's hardware address: guests that use each other's addresses do not reach each other's connections.
    pub(super) mac: MacAddr,
    /// The guest's address and port.
    pub(super) guest: SocketAddr,
    /// Whom it talks with.
    pub(super) remote: SocketAddr,
}

/// What the socket is known to be ready for. Readiness is told once, and is then remembered until it is used up.
#[derive(Clone, Copy, Debug, Default)]
struct Readiness {
    read: bool,
    write: bool,
    /// The other end has closed, or there is an error: reading comes to an end.
    ended: bool,
}

/// How far the direction from the outside is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Inward {
    /// The socket is connecting.
    Connecting,
    /// Bytes come.
    Open,
    /// The end was read.
    Ended,
}

/// The bytes for the guest that are still in the socket.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// How many that are known of, behind those that are held.
    len: u32,
    /// How many are in front of them that the guest has acknowledged.
    done: u32,
    /// Much comes at once.
    bulk: bool,
    /// Bytes of this socket have to be taken to be read.
    taken_only: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Flow {
    /// What it is called at the poll and the timers.
    pub(super) id: u32,
    pub(super) key: Key,
    /// The ticket of the port forward that it came by.
    pub(super) ticket: Option<usize>,
    pub(super) endpoint: Endpoint,
    socket: Option<OwnedFd>,
    readiness: Readiness,
    inward: Inward,
    /// The end was passed on to the outside.
    shut: bool,
    /// It waits for its turn.
    pub(super) queued: bool,
    /// When it wants to be looked at, as the timers know.
    pub(super) armed: Option<Instant>,
    /// Until when the outside has to take what is pending, once all else is over.
    linger: Option<Instant>,
    held: Held,
    source: Source,
    pending: Pending,
    outside: Option<SocketAddr>,
    created: Instant,
    sent: u64,
    received: u64,
}

impl Flow {
    /// Begins with a socket that is connecting or connected.
    pub(super) fn new(
        id: u32,
        key: Key,
        ticket: Option<usize>,
        endpoint: Endpoint,
        socket: OwnedFd,
        connecting: bool,
        now: Instant,
    ) -> Self {
        let reference = SockRef::from(&socket);
        // Local streams have no such options, and do without.
        let _ = reference.set_keepalive(true);
        let outside = reference.local_addr().ok();
        Self {
            id,
            key,
            ticket,
            endpoint,
            readiness: Readiness::default(),
            inward: if connecting {
                Inward::Connecting
            } else {
                Inward::Open
            },
            shut: false,
            queued: false,
            armed: None,
            linger: None,
            held: Held::default(),
            source: Source::default(),
            pending: Pending::default(),
            outside: outside.and_then(|outside| outside.as_socket()),
            created: now,
            sent: 0,
            received: 0,
            socket: Some(socket),
        }
    }

    /// Puts bytes for the guest, from the first that it has not acknowledged, into the body of a frame that was begun.
    pub(super) fn fill(&self, range: Range<usize>, burst: &mut Burst) {
        let held = self.held.len();
        let first = range.start.min(held)..range.end.min(held);
        if !first.is_empty() {
            self.held.pieces(first, |piece| burst.push_segment(piece));
        }
        let rest = range.start.max(held) - held..range.end.max(held) - held;
        if let Some(socket) = &self.socket
            && !rest.is_empty()
            && let Ok(start) = u32::try_from(rest.start)
        {
            let offset = self.source.done + start;
            burst.push_unread(Unread::new(socket.as_fd(), offset, rest.len()));
        }
    }

    /// How many bytes for the guest are held in memory of our own.
    pub(super) const fn held(&self) -> usize {
        self.held.len()
    }

    /// How many bytes there are for the guest that it has not acknowledged.
    const fn queued(&self) -> usize {
        self.held() + self.source.len as usize
    }

    /// Takes in what the socket is ready for. Returns the error of an attempt to connect that has failed.
    pub(super) fn note_ready(&mut self, ready: Ready) -> Option<io::Error> {
        self.readiness.read |= ready.read || ready.ended || ready.hung_up || ready.error;
        self.readiness.write |= ready.write;
        self.readiness.ended |= ready.ended || ready.hung_up || ready.error;
        let socket = self.socket.as_ref()?;
        if self.inward == Inward::Connecting {
            match SockRef::from(socket).take_error() {
                Ok(None) if ready.write => {
                    self.inward = Inward::Open;
                    self.endpoint.opened();
                }
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Some(error),
            }
        } else if (ready.error || ready.hung_up) && !self.endpoint.is_open() {
            // The client of a port forward has gone before the guest answered.
            self.endpoint.abort();
        }
        None
    }

    /// Says how much room there is for what comes from the guest.
    pub(super) fn set_room(&mut self, budget: &Budget) {
        self.endpoint.set_room(self.pending.room(budget));
    }

    /// Drops what the guest has acknowledged.
    pub(super) fn acknowledge(&mut self, count: usize, chunks: &mut Chunks) {
        if count > 0 {
            let of_held = count.min(self.held.len());
            self.held.drop_front(of_held, chunks);
            let rest = u32::try_from(count - of_held).unwrap_or(u32::MAX);
            let rest = rest.min(self.source.len);
            self.source.len -= rest;
            self.source.done += rest;
            self.received += count as u64;
        }
    }

    /// The socket, where what comes from the guest can go to it directly.
    pub(super) fn direct(&self) -> Option<BorrowedFd<'_>> {
        let direct = self.readiness.write && self.pending.is_empty() && !self.shut;
        self.socket.as_ref().filter(|_| direct).map(AsFd::as_fd)
    }

    /// Whether the socket is still there.
    pub(super) const fn has_socket(&self) -> bool {
        self.socket.is_some()
    }

    /// Takes in that so many bytes of the guest's were taken.
    pub(super) const fn note_sent(&mut self, count: usize) {
        self.sent += count as u64;
    }

    /// Takes in that the socket has no room.
    pub(super) const fn note_full(&mut self) {
        self.readiness.write = false;
    }

    /// What the outside did not take yet.
    pub(super) const fn pending(&mut self) -> &mut Pending {
        &mut self.pending
    }

    /// Passes on what is pending, and the end behind it.
    pub(super) fn write(&mut self, budget: &mut Budget) {
        let Some(socket) = &self.socket else {
            return;
        };
        if !self.pending.is_empty() && self.readiness.write {
            match self.pending.send(socket.as_fd(), budget) {
                Ok(true) => {}
                Ok(false) => self.readiness.write = false,
                Err(_) => {
                    self.endpoint.abort();
                    return;
                }
            }
        }
        if self.endpoint.has_guest_closed() && self.pending.is_empty() && !self.shut {
            self.shut = true;
            // If it cannot, there is an error to be read.
            let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Whether there may be something to read that the guest has room for.
    pub(super) fn can_read(&self, chunks: &Chunks) -> bool {
        if !self.readiness.read || self.inward != Inward::Open || !self.endpoint.is_open() {
            return false;
        }
        let window = self.endpoint.window();
        match self.source.len {
            0 => self.held.wanted(window, chunks) > 0,
            _ => self.queued() < window.max(1),
        }
    }

    /// Reads once what the guest has room for, or finds out how much of it is in the socket.
    pub(super) fn read(&mut self, chunks: &mut Chunks) {
        self.discard();
        if !self.can_read(chunks) {
            return;
        }
        if self.source.len > 0 || self.source.bulk && !self.source.taken_only {
            match self.look() {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => return self.endpoint.abort(),
            }
        }
        self.take(chunks);
    }

    /// Takes bytes out of the socket into memory of our own.
    fn take(&mut self, chunks: &mut Chunks) {
        let Some(socket) = &self.socket else {
            return;
        };
        let limit = self.held.wanted(self.endpoint.window(), chunks).min(READ);
        match self.held.fill(socket.as_fd(), limit, chunks) {
            // What is held is acknowledged some time, and then there is memory.
            None => {}
            Some(Ok((_, 0))) => self.note_end(),
            Some(Ok((room, got))) => {
                // Less than there was room for is all there is, unless the end has come behind it.
                if got < room && !self.readiness.ended {
                    self.readiness.read = false;
                }
                self.source.bulk = got >= BULK;
                self.endpoint.set_queued(self.held.len());
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.read = false;
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(_)) => self.endpoint.abort(),
        }
    }

    /// Finds out how many bytes are in the socket, where they can stay there. Returns whether they do.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    fn look(&mut self) -> io::Result<bool> {
        let Some(socket) = &self.socket else {
            return Ok(true);
        };
        let socket = socket.as_fd();
        if self.source.len == 0 {
            self.source.taken_only = !unread::is_possible(socket);
        }
        if self.source.taken_only {
            return Ok(false);
        }
        // What comes from now on is told again.
        self.readiness.read = self.readiness.ended;
        let len = unread::count(socket)?.saturating_sub(self.source.done as usize);
        if self.source.len == 0 && len < BULK {
            self.source.bulk = false;
            self.readiness.read = true;
            return Ok(false);
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.source.len = self.source.len.max(len);
        if self.readiness.ended {
            match unread::next(socket, self.source.done + self.source.len)? {
                Next::Bytes => {}
                Next::Nothing => self.readiness.read = false,
                Next::End => self.note_end(),
            }
        }
        self.endpoint.set_queued(self.queued());
        Ok(true)
    }

    /// Takes in that nothing more comes from the outside.
    fn note_end(&mut self) {
        self.readiness.read = false;
        self.inward = Inward::Ended;
        self.endpoint.set_queued(self.queued());
        self.endpoint.close();
    }

    /// Takes what the guest has acknowledged out of the socket.
    fn discard(&mut self) {
        let Some(socket) = &self.socket else {
            return;
        };
        if self.source.done == 0 {
            return;
        }
        match unread::discard(socket.as_fd(), self.source.done as usize) {
            Ok(count) if count == self.source.done as usize => self.source.done = 0,
            // What was there is not there any more.
            Ok(_) | Err(_) => self.endpoint.abort(),
        }
    }

    /// Lets go of what is not needed any more. Returns whether nothing is left.
    pub(super) fn settle(
        &mut self,
        chunks: &mut Chunks,
        budget: &mut Budget,
        (now, timeouts): (Instant, &nat::Timeouts),
    ) -> bool {
        if self.endpoint.is_broken() {
            self.drop_socket(chunks, budget, true);
        } else if self.endpoint.is_over() {
            if self.shut || self.socket.is_none() {
                self.drop_socket(chunks, budget, false);
            } else {
                let until = *self.linger.get_or_insert(now + timeouts.tcp_transitory);
                if until <= now {
                    self.drop_socket(chunks, budget, true);
                }
            }
        }
        self.endpoint.is_closed() && self.socket.is_none()
    }

    /// Closes the socket, with a RST where the connection was broken.
    pub(super) fn drop_socket(&mut self, chunks: &mut Chunks, budget: &mut Budget, broken: bool) {
        if !broken {
            // A socket that is closed before everything was taken out of it ends with a RST.
            self.discard();
        }
        if let Some(socket) = self.socket.take() {
            if broken {
                // If it cannot, it ends anyway.
                let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
            chunks.retire(socket);
        }
        self.source = Source::default();
        self.held.clear(chunks);
        self.pending.clear(budget);
    }

    /// When it is to be looked at.
    pub(super) fn poll_timeout(&self, timeouts: &nat::Timeouts) -> Option<Instant> {
        match (self.endpoint.poll_timeout(timeouts), self.linger) {
            (Some(endpoint), Some(linger)) if self.socket.is_some() => Some(endpoint.min(linger)),
            (None, linger) => linger,
            (endpoint, _) => endpoint,
        }
    }

    const fn originator(&self) -> Originator {
        match self.ticket {
            None => Originator::Guest,
            Some(_) => Originator::Forward,
        }
    }

    /// What is told of it.
    pub(super) const fn event(&self, created: bool) -> Event {
        Event {
            created,
            protocol: Protocol::Tcp,
            originator: self.originator(),
            mac: Some(self.key.mac),
            inside: self.key.guest,
            outside: self.outside,
            remote: Some(self.key.remote),
            sent: self.sent,
            received: self.received,
        }
    }

    /// How it is shown.
    pub(super) fn row(&self, now: Instant, timeouts: &nat::Timeouts) -> FlowRow {
        FlowRow {
            protocol: Protocol::Tcp,
            originator: self.originator(),
            mac: Some(self.key.mac),
            inside: self.key.guest,
            outside: self.outside,
            remote: Some(self.key.remote),
            state: self.endpoint.state(),
            age: now.saturating_duration_since(self.created),
            idle: now.saturating_duration_since(self.endpoint.heard()),
            expires: self
                .endpoint
                .expires(timeouts)
                .saturating_duration_since(now),
            sent: self.sent,
            received: self.received,
        }
    }
}
