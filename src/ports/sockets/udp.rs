//! UDP of guests: one socket for each port of a guest, whomever it talks with (RFC 4787).
//!
//! # Theory of operation
//!
//! The first datagram from a guest's port opens a socket; all further ones leave through it, wherever they go, so that
//! whoever the guest tells of its port outside finds it (REQ-1). The guest's own port number is kept where it is free and
//! not a privileged one (REQ-4 follows). What comes in passes if the mapping takes packets from there ([`Filtering`]).
//! A mapping is forgotten when nothing has passed for a while, either way; one that has only asked name servers, sooner.
//! Errors that the kernel has heard of are told to the guest, about the datagram as it would have looked.
//!
//! A datagram's checksum is not verified: its payload is not read here, and the host's own is computed anew.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::context::{Carried, Context, any};
use super::dial::Way;
use super::poll::{Interest, Kind, Ready, Token};
use super::system::{self, Arrival, Origin, Piece, Receiver, Report};
use super::table::Table;
use crate::net::drops::DropReason;
use crate::net::nat::error::{Problem, Unreachable};
use crate::net::nat::expiry::{Expiry, Note};
use crate::net::nat::frames::{self, UDP_HEADER};
use crate::net::nat::peers::{Budget, Peers};
use crate::net::nat::{self, Event, Filtering, FlowRow, Originator, Protocol};
use crate::net::packet::Packet;
use crate::ports::burst::{Burst, Frame};
use crate::ports::kernel::Slots;
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv4::PROTOCOL_UDP;

/// The port of name servers.
const DNS: u16 = 53;
/// The first port that is not a privileged one.
const FIRST_PORT: u16 = 1024;
/// How many datagrams of one socket are taken in one go where others have some too.
pub(super) const FAIR: usize = 16;
/// How many bytes may wait at a socket, with what the kernel counts beside them: a few milliseconds of a few Gbit/s. The usual
/// 208 KiB are 92 datagrams of 1500 bytes, less than come at once where a sender paces itself by the millisecond.
pub(super) const WAITING: i32 = 1 << 20;
/// How many reports of errors are taken in one go.
const REPORTS: usize = 16;
/// How many mappings are forgotten in one go.
const FORGOTTEN: usize = 256;
/// How many peers all mappings remember, beyond one each.
const PEERS: usize = 1 << 20;

/// How datagrams leave through a socket: set when it differs from the last.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Manner {
    hops: Option<u8>,
    dont_fragment: Option<bool>,
}

impl Manner {
    /// Has the next datagrams leave as a packet would that was passed on.
    pub(super) fn follow(&mut self, socket: &OwnedFd, packet: &Packet) {
        let v6 = packet.src.is_ipv6();
        let hops = packet.hop_limit.saturating_sub(1).max(1);
        if self.hops != Some(hops) {
            let socket = SockRef::from(socket);
            let set = match v6 {
                false => socket.set_ttl_v4(u32::from(hops)),
                true => socket.set_unicast_hops_v6(u32::from(hops)),
            };
            self.hops = set.is_ok().then_some(hops);
        }
        if self.dont_fragment != Some(packet.dont_fragment) {
            let dont = packet.dont_fragment;
            let set = system::set_dont_fragment(socket.as_fd(), v6, dont);
            self.dont_fragment = set.is_ok().then_some(dont);
        }
    }
}

/// A guest's port.
#[derive(Debug)]
struct Mapping {
    guest: SocketAddr,
    mac: MacAddr,
    socket: OwnedFd,
    outside: Option<SocketAddr>,
    /// Addresses of the host's world.
    peers: Peers,
    manner: Manner,
    /// Whether it has only asked name servers.
    dns: bool,
    note: Note,
    created: Instant,
    last: Instant,
    sent: u64,
    received: u64,
}

impl Mapping {
    const fn timeout(&self, timeouts: &nat::Timeouts) -> Duration {
        match self.dns {
            true => timeouts.dns,
            false => timeouts.udp,
        }
    }

    fn event(&self, created: bool) -> Event {
        Event {
            created,
            protocol: Protocol::Udp,
            originator: Originator::Guest,
            mac: Some(self.mac),
            inside: self.guest,
            outside: self.outside,
            remote: self.peers.only(),
            sent: self.sent,
            received: self.received,
        }
    }
}

/// The UDP mappings of a network.
#[derive(Debug)]
pub(super) struct UdpFlows {
    filtering: Filtering,
    mappings: Table<Mapping>,
    /// Guests that use each other's addresses do not share mappings.
    by_guest: HashMap<(MacAddr, SocketAddr), u32, foldhash::fast::RandomState>,
    expiry: Expiry,
    budget: Budget,
    carried: Carried,
}

impl UdpFlows {
    /// Begins without any.
    pub(super) fn new(filtering: Filtering) -> Self {
        Self {
            filtering,
            mappings: Table::default(),
            by_guest: HashMap::default(),
            expiry: Expiry::default(),
            budget: Budget(PEERS),
            carried: Carried::default(),
        }
    }

    /// Sends a guest's datagram.
    pub(super) fn send(
        &mut self,
        packet: &Packet,
        burst: &Burst,
        frame: &Frame,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let original = &frame.head.bytes()[packet.ip_at..];
        let (from, to, end) = read_udp(packet, frame).ok_or(DropReason::BadPacket)?;
        let dst = match cx
            .dialer
            .way(Protocol::Udp, SocketAddr::new(packet.dst, to))
        {
            Way::Out(dst) => dst,
            Way::Refused | Way::Local => {
                let problem = Problem::Unreachable(Unreachable::Port);
                cx.answer(packet, original, problem);
                return Err(DropReason::Unreachable);
            }
            Way::Unreachable(why) => {
                cx.answer(packet, original, Problem::Unreachable(why));
                return Err(DropReason::Unreachable);
            }
            Way::Silent => return Err(DropReason::Unreachable),
        };
        let guest = SocketAddr::new(packet.src, from);
        let id = match self.by_guest.get(&(packet.mac, guest)) {
            Some(id) => *id,
            None => self.begin(packet.mac, guest, dst, cx)?,
        };
        let mapping = self.mappings.get_mut(id).ok_or(DropReason::NatLimit)?;
        mapping.last = cx.now.instant;
        if dst.port() != DNS && mapping.dns {
            // The note that is there is early, which does no harm.
            mapping.dns = false;
        }
        mapping.peers.note(dst, &mut self.budget);
        mapping.manner.follow(&mapping.socket, packet);
        let payload = udp_payload(packet, burst, frame, end);
        let sent = match system::send(mapping.socket.as_fd(), &dst, None, payload) {
            Err(_) if has_pending_error(&mapping.socket) => {
                // That was about an earlier datagram, and has been reported.
                system::send(mapping.socket.as_fd(), &dst, None, payload)
            }
            sent => sent,
        };
        match sent {
            Ok(()) => {
                mapping.sent += payload.len() as u64;
                self.carried.sent += payload.len() as u64;
                Ok(())
            }
            Err(error) => {
                if let Some(why) = system::unreachable(&error) {
                    cx.answer(packet, original, Problem::Unreachable(why));
                    return Err(DropReason::Unreachable);
                }
                // The kernel reports what passes; it has no room otherwise.
                match error.raw_os_error() {
                    Some(libc::EMSGSIZE) => Err(DropReason::TooBig),
                    _ => Err(DropReason::DeviceBusy),
                }
            }
        }
    }

    fn begin(
        &mut self,
        mac: MacAddr,
        guest: SocketAddr,
        first: SocketAddr,
        cx: &mut Context<'_>,
    ) -> Result<u32, DropReason> {
        if !cx.quota.take_port(mac) {
            return Err(DropReason::NatLimit);
        }
        let opened = self.mappings.vacant().ok_or(DropReason::NatLimit);
        let opened = opened.and_then(|note| {
            let token = Token {
                kind: Kind::Udp,
                id: note.id,
            };
            let socket = open(guest).and_then(|socket| {
                cx.poll.add(socket.as_fd(), token, Interest::READ)?;
                Ok(socket)
            });
            Ok((note, socket.map_err(|_| DropReason::NatLimit)?))
        });
        let (note, socket) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                cx.quota.give_port(mac);
                cx.quota.note_refused();
                return Err(reason);
            }
        };
        let outside = SockRef::from(&socket).local_addr().ok();
        let mapping = Mapping {
            guest,
            mac,
            outside: outside.and_then(|outside| outside.as_socket()),
            socket,
            peers: Peers::new(self.filtering, first),
            manner: Manner::default(),
            dns: first.port() == DNS,
            note,
            created: cx.now.instant,
            last: cx.now.instant,
            sent: 0,
            received: 0,
        };
        cx.events.push(mapping.event(true));
        let due = cx.now.instant + mapping.timeout(&cx.timeouts);
        self.expiry.push(due, note);
        self.mappings.insert(mapping);
        self.by_guest.insert((mac, guest), note.id);
        Ok(note.id)
    }

    /// Takes what has come to a guest's port, `share` datagrams of it at most.
    pub(super) fn ready(
        &mut self,
        id: u32,
        (ready, share): (Ready, usize),
        receiver: &mut Receiver,
        burst: &mut Burst,
        cx: &mut Context<'_>,
    ) {
        let Some(mapping) = self.mappings.get_mut(id) else {
            return;
        };
        if ready.error {
            report(&mapping.socket, mapping.mac, mapping.guest, None, cx);
        }
        let limit = burst.room().min(share);
        let (guest, mac, peers) = (mapping.guest, mapping.mac, &mapping.peers);
        let (mut received, mut heard) = (0, false);
        let each = |slots: &Slots, arrival: Arrival| {
            if !peers.allows(arrival.from) {
                return false;
            }
            let Some(ip) = cx.seen_as(arrival.from.ip(), guest.ip()) else {
                return false;
            };
            heard = true;
            received += arrival.len as u64;
            let from = SocketAddr::new(ip, arrival.from.port());
            deliver(slots, &arrival, mac, from, guest, burst, cx)
        };
        // An error of an earlier datagram ends the batch; the rest is taken next time.
        let _ = receiver.receive(mapping.socket.as_fd(), limit, each);
        mapping.received += received;
        self.carried.received += received;
        if heard {
            mapping.last = cx.now.instant;
        }
    }

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.expiry.poll_timeout()
    }

    /// Forgets mappings that are not used.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        for _ in 0..FORGOTTEN {
            let Some(note) = self.expiry.pop(now) else {
                return;
            };
            if !self.mappings.is_current(note) {
                continue;
            }
            let Some(mapping) = self.mappings.get(note.id) else {
                continue;
            };
            let due = mapping.last + mapping.timeout(&cx.timeouts);
            if due > now {
                self.expiry.push(due, mapping.note);
            } else if let Some(mapping) = self.mappings.remove(note.id) {
                self.by_guest.remove(&(mapping.mac, mapping.guest));
                mapping.peers.close(&mut self.budget);
                cx.quota.give_port(mapping.mac);
                cx.events.push(mapping.event(false));
            }
        }
    }

    /// What its flows have carried.
    pub(super) const fn carried(&self) -> Carried {
        self.carried
    }

    /// Adds the mappings to `out`.
    pub(super) fn rows(&self, now: Instant, timeouts: &nat::Timeouts, out: &mut Vec<FlowRow>) {
        out.extend(self.mappings.iter().map(|(_, mapping)| {
            let idle = now.saturating_duration_since(mapping.last);
            FlowRow {
                protocol: Protocol::Udp,
                originator: Originator::Guest,
                mac: Some(mapping.mac),
                inside: mapping.guest,
                outside: mapping.outside,
                remote: mapping.peers.only(),
                state: "active",
                age: now.saturating_duration_since(mapping.created),
                idle,
                expires: mapping.timeout(timeouts).saturating_sub(idle),
                sent: mapping.sent,
                received: mapping.received,
            }
        }));
    }
}

/// Takes an error that waits on a socket; tells whether there was one.
pub(super) fn has_pending_error(socket: &OwnedFd) -> bool {
    matches!(SockRef::from(socket).take_error(), Ok(Some(_)))
}

/// Opens a guest's socket, with the guest's own port where that is free.
fn open(guest: SocketAddr) -> io::Result<OwnedFd> {
    let v6 = guest.is_ipv6();
    let socket = Socket::new(
        Domain::for_address(guest),
        Type::DGRAM.nonblocking(),
        Some(socket2::Protocol::UDP),
    )?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    let kept = guest.port() >= FIRST_PORT && socket.bind(&any(v6, guest.port()).into()).is_ok();
    if !kept {
        socket.bind(&any(v6, 0).into())?;
    }
    let socket = OwnedFd::from(socket);
    system::report_errors(socket.as_fd(), v6)?;
    system::let_wait(socket.as_fd(), WAITING);
    Ok(socket)
}

/// Adds a datagram to the burst, or sends it in parts where it is too large; tells whether the burst points at it.
pub(super) fn deliver(
    slots: &Slots,
    arrival: &Arrival,
    mac: MacAddr,
    from: SocketAddr,
    guest: SocketAddr,
    burst: &mut Burst,
    cx: &mut Context<'_>,
) -> bool {
    let stations = cx.stations(mac);
    let packet = frames::ip_header_len(from.ip()) + UDP_HEADER + arrival.len;
    if packet > usize::from(cx.mtu) {
        let mut payload = vec![0; arrival.len];
        slots.read(arrival.slot, 0, &mut payload);
        deliver_parts(mac, from, guest, &payload, cx);
        return false;
    }
    let head = burst.begin();
    let start = |start: &mut [u8]| slots.read(arrival.slot, 0, start);
    let in_head = frames::fill_udp(head, stations, from, guest, arrival.len, start);
    let Some(in_head) = in_head else {
        return false;
    };
    if in_head < arrival.len {
        burst.push_segment(slots.segment(arrival.slot, in_head, arrival.len - in_head));
    }
    burst.commit();
    true
}

/// Sends a datagram in memory of our own, in parts where it is too large.
#[cold]
pub(super) fn deliver_parts(
    mac: MacAddr,
    from: SocketAddr,
    guest: SocketAddr,
    payload: &[u8],
    cx: &mut Context<'_>,
) {
    let Some(datagram) = frames::udp(from, guest, payload) else {
        return;
    };
    let id = cx.errors.next_id();
    let (stations, mtu) = (cx.stations(mac), cx.mtu);
    let ips = (from.ip(), guest.ip());
    frames::emit_parts(
        stations,
        ips,
        PROTOCOL_UDP,
        frames::HOP_LIMIT,
        &datagram,
        (mtu, id),
        |frame| cx.reply(frame),
    );
}

/// Tells a guest of the errors that a socket reports. `alias` is how the guest sees whom it sent to, if not as is.
pub(super) fn report(
    socket: &OwnedFd,
    mac: MacAddr,
    guest: SocketAddr,
    alias: Option<SocketAddr>,
    cx: &mut Context<'_>,
) {
    for _ in 0..REPORTS {
        let report = match system::take_report(socket.as_fd()) {
            Ok(Some(report)) => report,
            Ok(None) => continue,
            Err(_) => break,
        };
        let Some(problem) = problem_of(&report) else {
            continue;
        };
        let Some(ip) = cx.seen_as(report.to.ip(), guest.ip()) else {
            continue;
        };
        let to = alias.unwrap_or_else(|| SocketAddr::new(ip, report.to.port()));
        let Some(datagram) = frames::udp(guest, to, &report.datagram) else {
            continue;
        };
        // As the guest sent it, but for what nobody knows any more.
        let stations = cx.stations(mac);
        let original = frames::emit(stations, guest.ip(), to.ip(), PROTOCOL_UDP, 1, &datagram);
        if let Some(original) = original {
            let original = original.get(14..).unwrap_or_default();
            cx.tell(mac, guest.ip(), report.offender, problem, original);
        }
    }
    // The error itself has been told.
    has_pending_error(socket);
}

/// Returns what a report means to whoever sent the datagram.
pub(super) fn problem_of(report: &Report) -> Option<Problem> {
    let unreachable = |why| Some(Problem::Unreachable(why));
    if report.errno == libc::EMSGSIZE {
        return Some(Problem::TooBig { mtu: report.info });
    }
    match (report.origin, report.kind, report.code) {
        (Origin::Icmp, 11, 0) | (Origin::Icmp6, 3, 0) => Some(Problem::TimeExceeded),
        (Origin::Icmp, 3, 0 | 6 | 8 | 11) | (Origin::Icmp6, 1, 0) => unreachable(Unreachable::Net),
        (Origin::Icmp, 3, 1 | 5 | 7 | 12) | (Origin::Icmp6, 1, 2 | 3) => {
            unreachable(Unreachable::Host)
        }
        (Origin::Icmp, 3, 2) | (Origin::Icmp6, 4, 1) => unreachable(Unreachable::Protocol),
        (Origin::Icmp, 3, 3) | (Origin::Icmp6, 1, 4) => unreachable(Unreachable::Port),
        (Origin::Icmp, 3, 9 | 10 | 13..) | (Origin::Icmp6, 1, 1 | 5 | 6) => {
            unreachable(Unreachable::Prohibited)
        }
        (Origin::Local, ..) => {
            let error = io::Error::from_raw_os_error(report.errno);
            system::unreachable(&error).map(Problem::Unreachable)
        }
        (Origin::Icmp | Origin::Icmp6, ..) => None,
    }
}

/// The bytes of a packet's UDP payload in its frame, and its ports; `None` where the datagram lies about its length.
pub(super) fn read_udp(packet: &Packet, frame: &Frame) -> Option<(u16, u16, usize)> {
    let udp = frame.head.bytes().get(packet.transport_at..)?;
    let udp = udp.first_chunk::<8>()?;
    let field = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let len = usize::from(field(4));
    let fits = len >= udp.len() && len <= packet.payload_len();
    fits.then(|| (field(0), field(2), packet.transport_at + len))
}

/// Describes the payload of a UDP datagram.
pub(super) fn udp_payload<'a>(
    packet: &Packet,
    burst: &'a Burst,
    frame: &'a Frame,
    end: usize,
) -> Piece<'a> {
    Piece::new(burst, frame, packet.transport_at + 8, end)
}
