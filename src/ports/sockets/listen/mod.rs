//! Port forwards: ports of the host that lead to guests (RFC 4787 and RFC 5382 leave them to whoever operates the NAT).
//!
//! # Theory of operation
//!
//! A forward has a listener for each of its ports. A connection or a client's first datagram is given a target by the
//! forward's [`Balancer`]. Targets are found by name and address at that time; where the hardware address is not known, the
//! inside is asked, and the connection or datagram held for a moment. The guest sees the client's own address; one that
//! it could not answer (the host's loopback) looks like the gateway.
//!
//! A port that somebody else has is told when it is asked for at run time. From the start on, it is tried again every
//! five seconds, and the rest works meanwhile.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::bind::{bind_all, refusal};
use self::lead::ask;
use super::context::{Carried, Context};
use super::forwarded::{Client, Sessions};
use super::poll::{Interest, Kind, Poll, Ready, Token};
use super::system::Receiver;
use super::table::Table;
use super::tcp::TcpFlows;
use crate::net::inside::Inside;
use crate::net::nat::balance::Balancer;
use crate::net::nat::expiry::Note;
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};
use crate::net::nat::{self, FlowRow, Protocol};
use crate::ports::burst::Burst;

mod bind;
mod lead;

/// How often a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is asked for.
const ASK: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Entry {
    forward: Forward,
    balancer: Balancer,
    /// Empty while the ports cannot be had.
    listeners: Vec<u32>,
    error: Option<ForwardError>,
}

#[derive(Debug)]
struct Listener {
    entry: u32,
    /// Which of the forward's ports it is.
    offset: u16,
    port: u16,
    socket: Arc<OwnedFd>,
}

/// A connection that counts for a target.
#[derive(Debug)]
struct Ticket {
    entry: Note,
    target: usize,
}

/// What waits for a guest's hardware address.
#[derive(Debug)]
struct Held {
    listener: Note,
    target: usize,
    address: SocketAddr,
    seen: SocketAddr,
    client: Client,
    until: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Connection(OwnedFd),
    Datagram(Vec<u8>),
}

/// The port forwards of a network.
#[derive(Debug)]
pub(super) struct Forwards {
    entries: Table<Entry>,
    listeners: Table<Listener>,
    tickets: Table<Ticket>,
    sessions: Sessions,
    held: Vec<Held>,
    /// When guests' hardware addresses are asked for next.
    ask_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// Listeners that are left alone until a time.
    paused: Option<(Instant, Vec<u32>)>,
    seed: u64,
    carried: Carried,
}

impl Forwards {
    /// Begins without any.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: Table::default(),
            listeners: Table::default(),
            tickets: Table::default(),
            sessions: Sessions::default(),
            held: Vec::new(),
            ask_at: None,
            retry_at: None,
            paused: None,
            seed,
            carried: Carried::default(),
        }
    }

    /// Adds a forward, and keeps it also if its ports cannot be had now.
    pub(super) fn add_or_retry(&mut self, forward: Forward, poll: &Poll, now: Instant) {
        let id = self.insert(forward);
        let Some(id) = id else { return };
        if let Err(error) = self.open(id, poll) {
            self.retry_at = Some(now + RETRY);
            if let Some(entry) = self.entries.get_mut(id) {
                entry.error = Some(error);
            }
        }
    }

    /// Adds a forward, if its ports can be had.
    pub(super) fn add(
        &mut self,
        forward: Forward,
        poll: &Poll,
        inside: &Inside,
    ) -> Result<ForwardRow, ForwardError> {
        let other = |reason: &str| ForwardError::Other {
            protocol: forward.protocol.name(),
            listen: SocketAddr::new(forward.ip, forward.first),
            reason: reason.to_owned(),
        };
        let full = other("there are too many port forwards; remove one");
        let id = self.insert(forward).ok_or(full)?;
        if let Err(error) = self.open(id, poll) {
            self.entries.remove(id);
            return Err(error);
        }
        let entry = self.entries.get(id);
        Ok(entry
            .map(|entry| row(entry, inside))
            .expect("it was added just now"))
    }

    fn insert(&mut self, forward: Forward) -> Option<u32> {
        let note = self.entries.vacant()?;
        let seed = self.seed ^ u64::from(note.id);
        self.entries.insert(Entry {
            balancer: Balancer::new(forward.targets.clone(), forward.balance, seed),
            forward,
            listeners: Vec::new(),
            error: None,
        });
        Some(note.id)
    }

    /// Opens the listeners of a forward, all or none.
    fn open(&mut self, id: u32, poll: &Poll) -> Result<(), ForwardError> {
        let opened = self.try_open(id, poll);
        if opened.is_err()
            && let Some(entry) = self.entries.get_mut(id)
        {
            for listener in entry.listeners.drain(..) {
                self.listeners.remove(listener);
            }
        }
        opened
    }

    fn try_open(&mut self, id: u32, poll: &Poll) -> Result<(), ForwardError> {
        let Some(entry) = self.entries.get_mut(id) else {
            return Ok(());
        };
        let mut sockets = bind_all(&entry.forward)?;
        if let [(_, port)] = sockets[..] {
            (entry.forward.first, entry.forward.last) = (port, port);
        }
        for (offset, (socket, port)) in (0..).zip(sockets.drain(..)) {
            let Some(note) = self.listeners.vacant() else {
                break;
            };
            let token = Token {
                kind: Kind::Listener,
                id: note.id,
            };
            let listen = SocketAddr::new(entry.forward.ip, port);
            poll.add(socket.as_fd(), token, Interest::READ)
                .map_err(|error| refusal(entry.forward.protocol, listen, &error))?;
            self.listeners.insert(Listener {
                entry: id,
                offset,
                port,
                socket: Arc::new(socket),
            });
            entry.listeners.push(note.id);
        }
        entry.error = None;
        Ok(())
    }

    /// Takes a forward away; tells whether there was one.
    pub(super) fn remove(
        &mut self,
        protocol: Protocol,
        listen: SocketAddr,
        cx: &mut Context<'_>,
    ) -> bool {
        let is_it = |(_, entry): &(u32, &Entry)| {
            let own = SocketAddr::new(entry.forward.ip, entry.forward.first);
            entry.forward.protocol == protocol && own == listen
        };
        let Some(id) = self.entries.iter().find(is_it).map(|(id, _)| id) else {
            return false;
        };
        let Some(entry) = self.entries.remove(id) else {
            return false;
        };
        let (listeners, sessions) = (&self.listeners, &mut self.sessions);
        sessions.end(&entry.listeners.iter().copied().collect(), |session| {
            let port = listeners.get(session.client.listener);
            cx.quota.give(session.mac);
            cx.events
                .push(session.event(false, port.map_or(0, |listener| listener.port)));
            cx.ended.push(session.ticket);
        });
        for listener in entry.listeners {
            if let Some(removed) = self.listeners.remove(listener) {
                cx.poll.remove(removed.socket.as_fd());
            }
        }
        true
    }

    /// Hears that a connection has ended.
    pub(super) fn note_ended(&mut self, ticket: usize) {
        let ticket = u32::try_from(ticket).ok();
        let Some(ticket) = ticket.and_then(|id| self.tickets.remove(id)) else {
            return;
        };
        if self.entries.is_current(ticket.entry)
            && let Some(entry) = self.entries.get_mut(ticket.entry.id)
        {
            entry.balancer.note_closed(ticket.target);
        }
    }

    /// Takes what has come to a listener.
    pub(super) fn ready(
        &mut self,
        id: u32,
        ready: Ready,
        receiver: &mut Receiver,
        burst: &mut Burst,
        tcp: &mut TcpFlows,
        cx: &mut Context<'_>,
    ) {
        let Some(listener) = self.listeners.get(id) else {
            return;
        };
        let protocol = self
            .entries
            .get(listener.entry)
            .map(|entry| entry.forward.protocol);
        match protocol {
            Some(Protocol::Tcp) => self.accept(id, tcp, cx),
            Some(Protocol::Udp) => self.take_datagrams(id, ready, receiver, burst, cx),
            Some(Protocol::Icmp) | None => {}
        }
    }

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let paused = self.paused.as_ref().map(|(until, _)| *until);
        let timeouts = [
            self.ask_at,
            self.retry_at,
            paused,
            self.sessions.poll_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        let listeners = &self.listeners;
        self.sessions.handle_timeout(now, &cx.timeouts, |session| {
            let port = listeners.get(session.client.listener);
            cx.quota.give(session.mac);
            cx.events
                .push(session.event(false, port.map_or(0, |listener| listener.port)));
            cx.ended.push(session.ticket);
        });
        if self.ask_at.is_some_and(|at| now >= at) {
            self.resume(tcp, cx);
            for held in &self.held {
                ask(held, cx);
            }
            self.ask_at = (!self.held.is_empty()).then_some(now + ASK);
        }
        if let Some((_, paused)) = self.paused.take_if(|(until, _)| now >= *until) {
            for id in paused {
                let token = Token {
                    kind: Kind::Listener,
                    id,
                };
                if let Some(listener) = self.listeners.get(id) {
                    let socket = listener.socket.as_fd();
                    // It is watched still, and so the kernel has nothing to refuse.
                    let _ = cx.poll.modify(socket, token, Interest::READ);
                }
            }
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry(cx);
        }
    }

    fn retry(&mut self, cx: &Context<'_>) {
        let failed = |(id, entry): (u32, &Entry)| entry.error.is_some().then_some(id);
        let failed: Vec<u32> = self.entries.iter().filter_map(failed).collect();
        self.retry_at = None;
        for id in failed {
            let opened = self.open(id, cx.poll);
            let Some(entry) = self.entries.get_mut(id) else {
                continue;
            };
            match opened {
                Ok(()) => entry.error = None,
                Err(error) => {
                    entry.error = Some(error);
                    self.retry_at = Some(cx.now.instant + RETRY);
                }
            }
        }
    }

    /// Tells of the forwards as they are shown.
    pub(super) fn rows(&self, inside: &Inside) -> Vec<ForwardRow> {
        self.entries
            .iter()
            .map(|(_, entry)| row(entry, inside))
            .collect()
    }

    /// What its flows have carried.
    pub(super) const fn carried(&self) -> Carried {
        self.carried
    }

    /// Adds the sessions to `out`.
    pub(super) fn flow_rows(&self, now: Instant, timeouts: &nat::Timeouts, out: &mut Vec<FlowRow>) {
        self.sessions
            .rows(now, timeouts, |listener| self.port(listener), out);
    }

    /// What an operator should know, one sentence each.
    pub(super) fn advisories(&self) -> impl Iterator<Item = String> + '_ {
        let errors = self
            .entries
            .iter()
            .filter_map(|(_, entry)| entry.error.as_ref());
        errors.map(ToString::to_string)
    }
}

fn row(entry: &Entry, inside: &Inside) -> ForwardRow {
    let forward = &entry.forward;
    let checked = forward.health.is_some();
    ForwardRow {
        protocol: forward.protocol,
        listen: SocketAddr::new(forward.ip, forward.first),
        last: forward.last,
        targets: entry.balancer.rows(forward.ip.is_ipv6(), checked, inside),
        balance: forward.balance,
        error: entry.error.as_ref().map(ToString::to_string),
    }
}
