//! From a listener to a guest: connections and datagrams of clients, and what waits until it is known where they go.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::super::context::Context;
use super::super::forwarded::{Client, Session};
use super::super::poll::{Interest, Kind, Ready, Token};
use super::super::system::{self, Arrival, Receiver};
use super::super::tcp::TcpFlows;
use super::super::udp::{self, read_udp, udp_payload};
use super::{ASK, Forwards, Held, Ticket, What};
use crate::net::inside::Inside;
use crate::net::nat::expiry::Note;
use crate::net::nat::forward::Host;
use crate::net::nat::frames;
use crate::net::packet::Packet;
use crate::ports::burst::{Burst, Frame};
use crate::ports::kernel::Slots;
use crate::wire::ethernet::MacAddr;

/// How many connections or datagrams are taken in one go.
const FAIR: usize = 16;
/// How many of them wait for a guest's hardware address at most, and how long.
const HELD: usize = 256;
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing is accepted when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

impl Forwards {
    /// Takes connections.
    pub(super) fn accept(&mut self, id: u32, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
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
                self.carried.received += payload.len() as u64;
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
        if let Some(session) = self.sessions.make_room() {
            cx.quota.give(session.mac);
            cx.events
                .push(session.event(false, self.port(session.client.listener)));
            cx.ended.push(session.ticket);
        }
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
            answered: false,
            sent: 0,
            received: 0,
        };
        cx.events
            .push(session.event(true, self.port(client.listener)));
        self.sessions.insert(session, now + cx.timeouts.udp);
        true
    }

    /// The port of a listener.
    pub(super) fn port(&self, listener: u32) -> u16 {
        self.listeners
            .get(listener)
            .map_or(0, |listener| listener.port)
    }

    /// Takes datagrams.
    pub(super) fn take_datagrams(
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
        // Without a descriptor of its own, or the port would be ready all the time when there is none left.
        let socket = Arc::clone(&listener.socket);
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
        self.carried.received += arrival.len as u64;
        let (mac, seen, target) = (session.mac, session.seen, session.target);
        udp::deliver(slots, arrival, mac, seen, target, burst, cx)
    }

    /// Sends a guest's datagram to the client that it answers; tells whether it answers one.
    pub(in crate::ports::sockets) fn reply(
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
            self.carried.sent += payload.len() as u64;
        }
        (session.last, session.answered) = (cx.now.instant, true);
        true
    }

    /// Passes on what waited for a guest's hardware address that is known now.
    pub(in crate::ports::sockets) fn resume(&mut self, tcp: &mut TcpFlows, cx: &mut Context<'_>) {
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
}

/// Asks for a guest's hardware address.
pub(super) fn ask(held: &Held, cx: &mut Context<'_>) {
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
