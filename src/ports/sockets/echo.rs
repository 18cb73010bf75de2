//! Ping of guests: a ping socket for each identifier of a guest (RFC 5508, `icmp(7)`).
//!
//! # Theory of operation
//!
//! Linux lets groups in `net.ipv4.ping_group_range` have sockets that send echo requests and get the replies to them. Where
//! we are not among them, one raw socket a family does for all, if we may have that; identifiers are then our own choice.
//! Else requests are dropped, and operators told what to do. Errors about a request are told to the guest, which is how
//! it traces routes. A flow is forgotten when nothing has passed for a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use super::context::{Carried, Context, any};
use super::dial::Way;
use super::poll::{Interest, Kind, Ready, Token};
use super::system::{self, Piece, Receiver};
use super::table::Table;
use super::udp::{Manner, has_pending_error, problem_of};
use crate::net::drops::DropReason;
use crate::net::nat::error::Problem;
use crate::net::nat::expiry::{Expiry, Note};
use crate::net::nat::frames;
use crate::net::nat::{self, Event, FlowRow, Originator, Protocol};
use crate::net::packet::Packet;
use crate::net::vlan::TagAction;
use crate::ports::burst::{Burst, Frame};
use crate::wire::checksum::{Sum, checksum};
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv4::PROTOCOL_ICMP;
use crate::wire::ipv6::{self, NEXT_HEADER_ICMPV6};

/// Length of the header of an echo.
const HEADER: usize = 8;
/// How many messages of one socket are taken in one go.
const FAIR: usize = 16;
/// How many reports of errors are taken in one go.
const REPORTS: usize = 16;
/// How many flows are forgotten in one go.
const FORGOTTEN: usize = 256;
/// The token of the raw sockets: v4, v6.
const RAW: [u32; 2] = [u32::MAX - 1, u32::MAX];

/// How pings leave, of one family.
#[derive(Debug, Default)]
enum Mode {
    /// Nobody has asked yet.
    #[default]
    Unknown,
    /// By a socket for each flow.
    Ping,
    /// By one raw socket.
    Raw(OwnedFd, Manner),
    /// Not at all.
    Refused,
}

#[derive(Debug)]
struct Flow {
    key: Key,
    /// Its own socket, where pings leave so.
    socket: Option<OwnedFd>,
    /// Its identifier outside.
    outside: u16,
    /// Whom it has asked last: replies come from whoever has the identifier of ours, and that is enough.
    remote: IpAddr,
    manner: Manner,
    note: Note,
    created: Instant,
    last: Instant,
    sent: u64,
    received: u64,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    mac: MacAddr,
    guest: IpAddr,
    id: u16,
}

impl Flow {
    fn event(&self, created: bool) -> Event {
        Event {
            created,
            protocol: Protocol::Icmp,
            originator: Originator::Guest,
            mac: Some(self.key.mac),
            inside: SocketAddr::new(self.key.guest, self.key.id),
            outside: Some(any(self.key.guest.is_ipv6(), self.outside)),
            remote: Some(SocketAddr::new(self.remote, 0)),
            sent: self.sent,
            received: self.received,
        }
    }
}

/// The pings of a network.
#[derive(Debug, Default)]
pub(super) struct EchoFlows {
    modes: [Mode; 2],
    flows: Table<Flow>,
    by_guest: HashMap<Key, u32, foldhash::fast::RandomState>,
    /// Flows by their identifiers outside, where a raw socket is shared.
    by_outside: HashMap<(bool, u16), u32, foldhash::fast::RandomState>,
    next: u16,
    expiry: Expiry,
    dropped: u64,
    carried: Carried,
}

/// What an echo request and its reply are called.
const fn kinds(v6: bool) -> (u8, u8) {
    match v6 {
        false => (8, 0),
        true => (128, 129),
    }
}

impl EchoFlows {
    /// Sends a guest's request.
    pub(super) fn send(
        &mut self,
        packet: &Packet,
        burst: &Burst,
        frame: &Frame,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let v6 = packet.src.is_ipv6();
        let protocol = if v6 {
            NEXT_HEADER_ICMPV6
        } else {
            PROTOCOL_ICMP
        };
        let mut copy = Vec::new();
        burst.copy_frame(frame, TagAction::Keep, &mut copy);
        let message = copy.get_mut(packet.transport_at..packet.end);
        let message = message.filter(|message| message.len() >= HEADER);
        let message = message.ok_or(DropReason::BadPacket)?;
        // Errors from a guest would be about what we have made of others' packets; nothing outside waits for them.
        if packet.protocol != protocol || message[..2] != [kinds(v6).0, 0] {
            return Err(DropReason::Unreachable);
        }
        let original = &frame.head.bytes()[packet.ip_at..];
        let dst = match cx
            .dialer
            .way(Protocol::Icmp, SocketAddr::new(packet.dst, 0))
        {
            Way::Out(dst) => dst,
            Way::Unreachable(why) => {
                cx.answer(packet, original, Problem::Unreachable(why));
                return Err(DropReason::Unreachable);
            }
            Way::Refused | Way::Local | Way::Silent => return Err(DropReason::Unreachable),
        };
        let key = Key {
            mac: packet.mac,
            guest: packet.src,
            id: u16::from_be_bytes([message[4], message[5]]),
        };
        let id = match self.by_guest.get(&key) {
            Some(id) => *id,
            None => self.begin(key, packet.dst, cx)?,
        };
        let flow = self.flows.get_mut(id).ok_or(DropReason::NatLimit)?;
        flow.last = cx.now.instant;
        flow.remote = packet.dst;
        message[4..6].copy_from_slice(&flow.outside.to_be_bytes());
        // The kernel sums it over addresses that only it knows with IPv6, and by itself for ping sockets.
        message[2..4].fill(0);
        let sum = checksum(message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let (socket, manner) = match (&flow.socket, &mut self.modes[usize::from(v6)]) {
            (Some(socket), _) => (socket, &mut flow.manner),
            (None, Mode::Raw(socket, manner)) => (&*socket, manner),
            (None, Mode::Unknown | Mode::Ping | Mode::Refused) => {
                return Err(DropReason::Unreachable);
            }
        };
        manner.follow(socket, packet);
        let sent = match system::send(socket.as_fd(), &dst, None, Piece::of(message)) {
            Err(_) if has_pending_error(socket) => {
                system::send(socket.as_fd(), &dst, None, Piece::of(message))
            }
            sent => sent,
        };
        match sent {
            Ok(()) => {
                let len = (message.len() - HEADER) as u64;
                flow.sent += len;
                self.carried.sent += len;
                Ok(())
            }
            Err(error) => {
                if let Some(why) = system::unreachable(&error) {
                    cx.answer(packet, original, Problem::Unreachable(why));
                    return Err(DropReason::Unreachable);
                }
                Err(DropReason::DeviceBusy)
            }
        }
    }

    fn begin(&mut self, key: Key, remote: IpAddr, cx: &mut Context<'_>) -> Result<u32, DropReason> {
        if !cx.quota.take_port(key.mac) {
            return Err(DropReason::NatLimit);
        }
        let Some((note, socket, outside)) = self.open(key, cx) else {
            cx.quota.give_port(key.mac);
            cx.quota.note_refused();
            return Err(DropReason::NatLimit);
        };
        let flow = Flow {
            key,
            socket,
            outside,
            remote,
            manner: Manner::default(),
            note,
            created: cx.now.instant,
            last: cx.now.instant,
            sent: 0,
            received: 0,
        };
        cx.events.push(flow.event(true));
        self.expiry.push(cx.now.instant + cx.timeouts.icmp, note);
        self.flows.insert(flow);
        self.by_guest.insert(key, note.id);
        Ok(note.id)
    }

    /// Returns the socket of a new flow, where it has one of its own, and its identifier outside.
    fn open(&mut self, key: Key, cx: &Context<'_>) -> Option<(Note, Option<OwnedFd>, u16)> {
        let v6 = key.guest.is_ipv6();
        let note = self.flows.vacant()?;
        if matches!(self.modes[usize::from(v6)], Mode::Unknown) {
            self.modes[usize::from(v6)] = choose(v6, cx);
        }
        match &self.modes[usize::from(v6)] {
            Mode::Ping => {
                let token = Token {
                    kind: Kind::Echo,
                    id: note.id,
                };
                let (socket, outside) = open_ping(v6, key.id).ok()?;
                cx.poll.add(socket.as_fd(), token, Interest::READ).ok()?;
                Some((note, Some(socket), outside))
            }
            Mode::Raw(..) => {
                // As many as there are flows at most are taken, and then the next is free.
                let free = |id: &u16| !self.by_outside.contains_key(&(v6, *id));
                let outside = (0..64u16)
                    .map(|step| self.next.wrapping_add(step))
                    .find(free)?;
                self.next = outside.wrapping_add(1);
                self.by_outside.insert((v6, outside), note.id);
                Some((note, None, outside))
            }
            Mode::Unknown | Mode::Refused => {
                self.dropped += 1;
                None
            }
        }
    }

    /// Takes replies.
    pub(super) fn ready(
        &mut self,
        id: u32,
        ready: Ready,
        receiver: &mut Receiver,
        cx: &mut Context<'_>,
    ) {
        let raw = RAW.iter().position(|raw| *raw == id);
        let (socket, v6) = match raw {
            Some(family) => match &self.modes[family] {
                Mode::Raw(socket, _) => (socket, family == 1),
                Mode::Unknown | Mode::Ping | Mode::Refused => return,
            },
            None => match self.flows.get(id) {
                Some(Flow {
                    socket: Some(socket),
                    key,
                    ..
                }) => (socket, key.guest.is_ipv6()),
                Some(_) | None => return,
            },
        };
        let mut messages = Vec::new();
        let mut errors = Vec::new();
        if ready.error {
            for _ in 0..REPORTS {
                match system::take_report(socket.as_fd()) {
                    Ok(report) => errors.extend(report),
                    Err(_) => break,
                }
            }
            has_pending_error(socket);
        }
        let _ = receiver.receive(socket.as_fd(), FAIR, |slots, arrival| {
            let mut message = vec![0; arrival.len];
            slots.read(arrival.slot, 0, &mut message);
            messages.push((arrival.from.ip(), message));
            false
        });
        for (from, message) in messages {
            // A raw socket of IPv4 brings the IP header along.
            let header = match raw {
                Some(0) => usize::from(message.first().copied().unwrap_or(0) & 0x0f) * 4,
                Some(_) | None => 0,
            };
            if let Some(message) = message.get(header..) {
                self.deliver(raw.is_none().then_some(id), v6, from, message, cx);
            }
        }
        for report in errors {
            let id = self.owner(raw.is_none().then_some(id), v6, &report.datagram);
            let flow = id.and_then(|id| self.flows.get(id));
            let (Some(flow), Some(problem)) = (flow, problem_of(&report)) else {
                continue;
            };
            let key = flow.key;
            let mut message = report.datagram.clone();
            message[4..6].copy_from_slice(&key.id.to_be_bytes());
            let protocol = if v6 {
                NEXT_HEADER_ICMPV6
            } else {
                PROTOCOL_ICMP
            };
            let (stations, to) = (cx.stations(key.mac), report.to.ip());
            let original = frames::emit(stations, key.guest, to, protocol, 1, &message);
            if let Some(original) = original {
                let original = original.get(14..).unwrap_or_default();
                cx.tell(key.mac, key.guest, report.offender, problem, original);
            }
        }
    }

    /// Returns whose a message is: that of the socket it came by, or of the identifier.
    fn owner(&self, socket: Option<u32>, v6: bool, message: &[u8]) -> Option<u32> {
        let outside = u16::from_be_bytes([*message.get(4)?, *message.get(5)?]);
        match socket {
            Some(id) => Some(id),
            None => self.by_outside.get(&(v6, outside)).copied(),
        }
    }

    fn deliver(
        &mut self,
        socket: Option<u32>,
        v6: bool,
        from: IpAddr,
        message: &[u8],
        cx: &mut Context<'_>,
    ) {
        if message.len() < HEADER || message[..2] != [kinds(v6).1, 0] {
            return;
        }
        let id = self.owner(socket, v6, message);
        let Some(flow) = id.and_then(|id| self.flows.get_mut(id)) else {
            return;
        };
        let key = flow.key;
        let Some(from) = cx.seen_as(from, key.guest) else {
            return;
        };
        flow.last = cx.now.instant;
        let len = (message.len() - HEADER) as u64;
        flow.received += len;
        self.carried.received += len;
        let mut message = message.to_vec();
        message[2..4].fill(0);
        message[4..6].copy_from_slice(&key.id.to_be_bytes());
        let (protocol, sum) = match (from, key.guest) {
            (IpAddr::V6(from), IpAddr::V6(guest)) => {
                let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
                (
                    NEXT_HEADER_ICMPV6,
                    ipv6::pseudo_header(from, guest, NEXT_HEADER_ICMPV6, len),
                )
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _) => (PROTOCOL_ICMP, Sum::default()),
        };
        let sum = sum.over(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mark = (cx.mtu, cx.errors.next_id());
        let (stations, hops) = (cx.stations(key.mac), frames::HOP_LIMIT);
        let ips = (from, key.guest);
        frames::emit_parts(stations, ips, protocol, hops, &message, mark, |frame| {
            cx.reply(frame);
        });
    }

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.expiry.poll_timeout()
    }

    /// Forgets flows that are not used.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        for _ in 0..FORGOTTEN {
            let Some(note) = self.expiry.pop(now) else {
                return;
            };
            if !self.flows.is_current(note) {
                continue;
            }
            let Some(flow) = self.flows.get(note.id) else {
                continue;
            };
            let due = flow.last + cx.timeouts.icmp;
            if due > now {
                self.expiry.push(due, flow.note);
            } else if let Some(flow) = self.flows.remove(note.id) {
                self.by_guest.remove(&flow.key);
                if flow.socket.is_none() {
                    let v6 = flow.key.guest.is_ipv6();
                    self.by_outside.remove(&(v6, flow.outside));
                }
                cx.quota.give_port(flow.key.mac);
                cx.events.push(flow.event(false));
            }
        }
    }

    /// What its flows have carried.
    pub(super) const fn carried(&self) -> Carried {
        self.carried
    }

    /// Adds the flows to `out`.
    pub(super) fn rows(&self, now: Instant, timeouts: &nat::Timeouts, out: &mut Vec<FlowRow>) {
        out.extend(self.flows.iter().map(|(_, flow)| {
            let idle = now.saturating_duration_since(flow.last);
            let event = flow.event(true);
            FlowRow {
                protocol: Protocol::Icmp,
                originator: Originator::Guest,
                mac: Some(flow.key.mac),
                inside: event.inside,
                outside: event.outside,
                remote: event.remote,
                state: "active",
                age: now.saturating_duration_since(flow.created),
                idle,
                expires: timeouts.icmp.saturating_sub(idle),
                sent: flow.sent,
                received: flow.received,
            }
        }));
    }

    /// What an operator should know, one sentence each.
    pub(super) fn advisories(&self) -> Option<String> {
        (self.dropped > 0).then(|| {
            format!(
                "guests cannot ping outside, {} requests were dropped; let the daemon's group have ping sockets: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"",
                self.dropped
            )
        })
    }
}

/// Finds out how pings of a family can leave.
fn choose(v6: bool, cx: &Context<'_>) -> Mode {
    if open_ping(v6, 0).is_ok() {
        return Mode::Ping;
    }
    let open = || -> io::Result<OwnedFd> {
        let socket = OwnedFd::from(socket(v6, Type::RAW)?);
        system::report_errors(socket.as_fd(), v6)?;
        // Of all that comes to the host, replies only: a bit that is set keeps a type away.
        let (level, filter): (_, &[u8]) = match v6 {
            false => (libc::SOL_RAW, &(!1u32).to_ne_bytes()),
            true => {
                let mut filter = [0xff; 32];
                let word: u32 = !(1 << (kinds(true).1 % 32));
                let at = usize::from(kinds(true).1) / 32 * 4;
                filter[at..at + 4].copy_from_slice(&word.to_ne_bytes());
                (libc::SOL_ICMPV6, &filter.clone())
            }
        };
        system::set_option(socket.as_fd(), level, 1, filter)?;
        let token = Token {
            kind: Kind::Echo,
            id: RAW[usize::from(v6)],
        };
        cx.poll.add(socket.as_fd(), token, Interest::READ)?;
        Ok(socket)
    };
    open().map_or(Mode::Refused, |socket| Mode::Raw(socket, Manner::default()))
}

fn socket(v6: bool, kind: Type) -> io::Result<Socket> {
    let (domain, protocol) = match v6 {
        false => (Domain::IPV4, socket2::Protocol::ICMPV4),
        true => (Domain::IPV6, socket2::Protocol::ICMPV6),
    };
    Socket::new(domain, kind.nonblocking(), Some(protocol))
}

/// Opens a ping socket, with the identifier that is asked for if it is free; returns the one it has.
fn open_ping(v6: bool, id: u16) -> io::Result<(OwnedFd, u16)> {
    let socket = socket(v6, Type::DGRAM)?;
    let kept = socket.bind(&any(v6, id).into()).is_ok();
    if !kept {
        socket.bind(&any(v6, 0).into())?;
    }
    let local = socket.local_addr()?.as_socket();
    let socket = OwnedFd::from(socket);
    system::report_errors(socket.as_fd(), v6)?;
    Ok((socket, local.map_or(id, |local| local.port())))
}
