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
use std::time::{Duration, Instant};
use std::{io, mem};

use socket2::{Domain, SockRef, Socket, Type};

use super::context::Context;
use super::forwarded::{Client, Session, Sessions};
use super::poll::{Interest, Kind, Poll, Ready, Token};
use super::system::{self, Arrival, Receiver};
use super::table::Table;
use super::tcp::TcpFlows;
use super::{read_udp, udp, udp_payload};
use crate::net::inside::Inside;
use crate::net::nat::balance::Balancer;
use crate::net::nat::expiry::Note;
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow, Host};
use crate::net::nat::frames;
use crate::net::nat::{self, FlowRow, Protocol};
use crate::net::packet::Packet;
use crate::ports::burst::{Burst, Frame};
use crate::ports::kernel::Slots;
use crate::wire::ethernet::MacAddr;

/// How often a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How many ports a forward has at most: each is a socket.
const PORTS: u16 = 4096;
/// How many connections wait in the kernel for being accepted.
const BACKLOG: i32 = 1024;
/// How many connections or datagrams are taken in one go.
const FAIR: usize = 16;
/// How many of them wait for a guest's hardware address at most, and how long.
const HELD: usize = 256;
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is asked for.
const ASK: Duration = Duration::from_millis(500);
/// How long nothing is accepted when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

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
    socket: OwnedFd,
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
                socket,
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
        for listener in entry.listeners {
            let Some(removed) = self.listeners.remove(listener) else {
                continue;
            };
            cx.poll.remove(removed.socket.as_fd());
            self.sessions.end(listener, |session| {
                cx.quota.give(session.mac);
                cx.events.push(session.event(false, removed.port));
                cx.ended.push(session.ticket);
            });
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

    fn accept(&mut self, id: u32, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
        for _ in 0..FAIR {
            let Some(listener) = self.listeners.get(id) else {
                return;
            };
            let accepted = SockRef::from(&listener.socket).accept();
            let (socket, client) = match accepted {
                Ok((socket, client)) => (socket, client.as_socket()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => {
                        self.pause(id, cx);
                        return;
                    }
                    Some(libc::EAGAIN) => return,
                    // That one has gone already.
                    _ => continue,
                },
            };
            let prepared = socket
                .set_nonblocking(true)
                .and_then(|()| socket.set_tcp_nodelay(true));
            let (Some(client), Ok(())) = (client, prepared) else {
                continue;
            };
            let client = Client {
                listener: id,
                address: client,
                to: None,
            };
            let socket = OwnedFd::from(socket);
            match self.choose(client, cx) {
                Some(chosen) => self.lead(chosen, What::Connection(socket), tcp, cx),
                None => reset(&socket),
            }
        }
    }

    /// Leaves a listener alone for a while: it would be ready all the time.
    fn pause(&mut self, id: u32, cx: &Context<'_>) {
        let token = Token {
            kind: Kind::Listener,
            id,
        };
        if let Some(listener) = self.listeners.get(id) {
            // If even this fails, it is merely asked in vain again and again.
            let _ = cx
                .poll
                .modify(listener.socket.as_fd(), token, Interest::default());
        }
        let until = cx.now.instant + PAUSE;
        let (_, paused) = self.paused.get_or_insert((until, Vec::new()));
        paused.push(id);
    }

    /// Chooses a target for a client.
    fn choose(&mut self, client: Client, cx: &Context<'_>) -> Option<Held> {
        let listener = self.listeners.get(client.listener)?;
        let offset = listener.offset;
        let entry = self.entries.get_mut(listener.entry)?;
        let v6 = entry.forward.ip.is_ipv6();
        let (target, mut address) = entry.balancer.pick(client.address.ip(), v6, cx.inside)?;
        address.set_port(address.port().checked_add(offset)?);
        let seen = cx.seen_as(client.address.ip(), address.ip())?;
        Some(Held {
            listener: self.listeners.note(client.listener)?,
            target,
            address,
            seen: SocketAddr::new(seen, client.address.port()),
            client,
            until: cx.now.instant + PATIENCE,
            what: What::Datagram(Vec::new()),
        })
    }

    /// Returns the hardware address of a target, where it is known.
    fn mac(&self, held: &Held, inside: &Inside) -> Option<MacAddr> {
        let listener = self.listeners.get(held.listener.id)?;
        let entry = self.entries.get(listener.entry)?;
        match entry.balancer.target(held.target)?.host {
            Host::Vm { mac, .. } => Some(mac),
            Host::Address(_) => inside.mac_of(held.address.ip()),
        }
    }

    /// Leads a connection or datagram to its target, or holds it until it is known where that is.
    fn lead(&mut self, chosen: Held, what: What, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
        let held = Held { what, ..chosen };
        match self.mac(&held, cx.inside) {
            Some(mac) => self.pass(held, mac, tcp, cx),
            None => self.hold(held, cx),
        }
    }

    fn hold(&mut self, held: Held, cx: &mut Context<'_>) {
        if self.held.len() >= HELD {
            if let What::Connection(socket) = &held.what {
                reset(socket);
            }
            return;
        }
        ask(&held, cx);
        self.held.push(held);
        self.ask_at.get_or_insert(cx.now.instant + ASK);
    }

    fn ticket(&mut self, listener: Note, target: usize) -> Option<usize> {
        let listener = self.listeners.get(listener.id)?;
        let ticket = self.tickets.vacant()?;
        let entry = self.entries.note(listener.entry)?;
        self.tickets.insert(Ticket { entry, target });
        if let Some(entry) = self.entries.get_mut(listener.entry) {
            entry.balancer.note_opened(target);
        }
        usize::try_from(ticket.id).ok()
    }

    fn pass(&mut self, held: Held, mac: MacAddr, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
        if !self.listeners.is_current(held.listener) {
            return;
        }
        match held.what {
            What::Connection(socket) => {
                let Some(ticket) = self.ticket(held.listener, held.target) else {
                    return;
                };
                tcp.accepted(socket, held.seen, held.address, mac, ticket, cx);
            }
            What::Datagram(payload) => {
                let known = self.sessions.of_client(&held.client).is_some();
                if !known
                    && !self.begin(&held.client, held.target, held.address, held.seen, mac, cx)
                {
                    return;
                }
                let Some(session) = self.sessions.of_client(&held.client) else {
                    return;
                };
                session.received += payload.len() as u64;
                let (seen, target) = (session.seen, session.target);
                udp::deliver_parts(mac, seen, target, &payload, cx);
            }
        }
    }

    /// Begins a client's session; tells whether there is one now.
    fn begin(
        &mut self,
        client: &Client,
        target: usize,
        address: SocketAddr,
        seen: SocketAddr,
        mac: MacAddr,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(seen) = self.sessions.free_alias(address, seen) else {
            return false;
        };
        if !cx.quota.take(mac) {
            return false;
        }
        let listener = self.listeners.note(client.listener);
        let (Some(note), Some(ticket)) = (
            self.sessions.vacant(),
            listener.and_then(|listener| self.ticket(listener, target)),
        ) else {
            cx.quota.give(mac);
            return false;
        };
        let now = cx.now.instant;
        let session = Session {
            client: *client,
            seen,
            target: address,
            mac,
            ticket,
            note,
            created: now,
            last: now,
            sent: 0,
            received: 0,
        };
        cx.events
            .push(session.event(true, self.port(client.listener)));
        self.sessions.insert(session, now + cx.timeouts.udp);
        true
    }

    fn port(&self, listener: u32) -> u16 {
        self.listeners
            .get(listener)
            .map_or(0, |listener| listener.port)
    }

    fn take_datagrams(
        &mut self,
        id: u32,
        ready: Ready,
        receiver: &mut Receiver,
        burst: &mut Burst,
        cx: &mut Context<'_>,
    ) {
        let limit = burst.room().min(FAIR);
        let Some(listener) = self.listeners.get(id) else {
            return;
        };
        let Ok(socket) = listener.socket.try_clone() else {
            return;
        };
        if ready.error {
            udp::has_pending_error(&socket);
        }
        let each = |slots: &Slots, arrival: Arrival| self.datagram(id, slots, &arrival, burst, cx);
        // An error of an earlier datagram ends the batch; the rest is taken next time.
        let _ = receiver.receive(socket.as_fd(), limit, each);
    }

    /// Takes a client's datagram; tells whether the burst points at it.
    fn datagram(
        &mut self,
        listener: u32,
        slots: &Slots,
        arrival: &Arrival,
        burst: &mut Burst,
        cx: &mut Context<'_>,
    ) -> bool {
        let client = Client {
            listener,
            address: arrival.from,
            to: arrival.to,
        };
        if self.sessions.of_client(&client).is_none() {
            let Some(chosen) = self.choose(client, cx) else {
                return false;
            };
            let Some(mac) = self.mac(&chosen, cx.inside) else {
                let mut payload = vec![0; arrival.len];
                slots.read(arrival.slot, 0, &mut payload);
                let what = What::Datagram(payload);
                self.hold(Held { what, ..chosen }, cx);
                return false;
            };
            let (address, seen) = (chosen.address, chosen.seen);
            if !self.begin(&client, chosen.target, address, seen, mac, cx) {
                return false;
            }
        }
        let Some(session) = self.sessions.of_client(&client) else {
            return false;
        };
        session.last = cx.now.instant;
        session.received += arrival.len as u64;
        let (mac, seen, target) = (session.mac, session.seen, session.target);
        udp::deliver(slots, arrival, mac, seen, target, burst, cx)
    }

    /// Sends a guest's datagram to the client that it answers; tells whether it answers one.
    pub(super) fn reply(
        &mut self,
        packet: &Packet,
        burst: &Burst,
        frame: &Frame,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.sessions.is_empty() {
            return false;
        }
        let Some((from, to, end)) = read_udp(packet, frame) else {
            return false;
        };
        let guest = SocketAddr::new(packet.src, from);
        let remote = SocketAddr::new(packet.dst, to);
        let session = self.sessions.of_guest(guest, remote);
        let Some(session) = session.filter(|session| session.mac == packet.mac) else {
            return false;
        };
        let Some(listener) = self.listeners.get(session.client.listener) else {
            return false;
        };
        let payload = udp_payload(packet, burst, frame, end);
        let (client, source) = (session.client.address, session.client.to);
        let sent = system::send(listener.socket.as_fd(), &client, source, payload);
        if sent.is_ok() {
            session.sent += payload.len() as u64;
        }
        session.last = cx.now.instant;
        true
    }

    /// Passes on what waited for a guest's hardware address that is known now.
    pub(super) fn resume(&mut self, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
        if self.held.is_empty() {
            return;
        }
        for held in mem::take(&mut self.held) {
            match self.mac(&held, cx.inside) {
                Some(mac) => self.pass(held, mac, tcp, cx),
                None if cx.now.instant < held.until => self.held.push(held),
                None => {
                    if let What::Connection(socket) = &held.what {
                        reset(socket);
                    }
                }
            }
        }
        if self.held.is_empty() {
            self.ask_at = None;
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

fn ask(held: &Held, cx: &mut Context<'_>) {
    let ip = held.address.ip();
    let question = cx
        .gateways
        .own_for(ip)
        .and_then(|own| frames::ask(cx.mac, own, ip));
    if let Some(question) = question {
        cx.reply(question);
    }
}

/// Has a connection end with a reset rather than as if all were said.
fn reset(socket: &OwnedFd) {
    // If it cannot, it ends anyway.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Opens a socket for each port of a forward, with the port it has.
fn bind_all(forward: &Forward) -> Result<Vec<(OwnedFd, u16)>, ForwardError> {
    let listen = SocketAddr::new(forward.ip, forward.first);
    let count = forward.last.saturating_sub(forward.first);
    if count >= PORTS {
        return Err(ForwardError::Other {
            protocol: forward.protocol.name(),
            listen,
            reason: format!("a range has {PORTS} ports at most; split it"),
        });
    }
    let last = forward.last.max(forward.first);
    let last = if forward.first == 0 { 0 } else { last };
    let bound = (forward.first..=last).map(|port| {
        let listen = SocketAddr::new(forward.ip, port);
        bind(forward.protocol, listen).map_err(|error| refusal(forward.protocol, listen, &error))
    });
    bound.collect()
}

fn bind(protocol: Protocol, listen: SocketAddr) -> io::Result<(OwnedFd, u16)> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp | Protocol::Icmp => (Type::DGRAM, socket2::Protocol::UDP),
    };
    let domain = Domain::for_address(listen);
    let socket = Socket::new(domain, kind.nonblocking(), Some(number))?;
    if listen.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that have ended lately do not keep the port. Another listener does, also with this.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&listen.into())?;
    let local = socket.local_addr()?.as_socket();
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    let socket = OwnedFd::from(socket);
    if protocol != Protocol::Tcp {
        system::report_destinations(socket.as_fd(), listen.is_ipv6())?;
    }
    Ok((socket, local.map_or(listen.port(), |local| local.port())))
}

fn refusal(protocol: Protocol, listen: SocketAddr, error: &io::Error) -> ForwardError {
    let protocol = protocol.name();
    let other = |reason: String| ForwardError::Other {
        protocol,
        listen,
        reason,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => ForwardError::Taken {
            protocol,
            listen,
            by: "a program of this host listens there already".to_owned(),
        },
        io::ErrorKind::PermissionDenied => ForwardError::Permission { protocol, listen },
        io::ErrorKind::AddrNotAvailable => other(format!(
            "the host has no address {}; `ip address` lists those it has",
            listen.ip()
        )),
        _ => other(error.to_string()),
    }
}
