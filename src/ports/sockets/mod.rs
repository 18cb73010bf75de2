//! NAT over the daemon's own sockets: what guests send leaves as the host's own UDP, TCP and ping, which takes no
//! privilege (RFC 4787, RFC 5382, RFC 5508).
//!
//! # Theory of operation
//!
//! A gateway's port hands on what is for the outside ([`Sockets::send`]). Each protocol has its own table of flows:
//! [`udp`], [`echo`], [`tcp`]; ports that lead to guests are in [`listen`], local streams in [`stream`]. All sockets are in one
//! epoll instance ([`poll`]), which is one descriptor to the worker. What comes in by them is made into frames when the
//! worker receives ([`Sockets::receive`]): payloads stay where the kernel put them, and only headers are written.
//! What cannot be passed on is answered by the ICMP error that a router would send, so many a second.
//!
//! Nothing waits. Each visit takes so many datagrams, accepts so many connections, forgets so many flows.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Instant;

use self::context::{Carried, Context, Errors};
use self::dial::Dialer;
use self::echo::EchoFlows;
use self::listen::Forwards;
use self::poll::{Kind, Poll, Ready, Token};
use self::stream::Streams;
use self::system::Receiver;
use self::tcp::{TcpFlows, is_answer};
use self::udp::UdpFlows;
use crate::net::Now;
use crate::net::drops::DropReason;
use crate::net::frame::{Head, Parsed};
use crate::net::inside::Inside;
use crate::net::nat;
use crate::net::nat::error::{Problem, Unreachable};
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};
use crate::net::nat::fragments::Reassembly;
use crate::net::nat::quota::Quota;
use crate::net::nat::{Event, FlowRow, Protocol, View};
use crate::net::packet::Packet;
use crate::net::vlan::TagAction;
use crate::ports::burst::{Burst, Frame};
use crate::ports::kernel::SLOTS;
use crate::ports::{OpenError, Watcher};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr};
use crate::wire::ipv4::{PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::NEXT_HEADER_ICMPV6;
use crate::wire::virtio_net::{GSO_NONE, VirtioNetHeader};

mod context;
mod dial;
mod echo;
mod forwarded;
mod listen;
mod poll;
mod stream;
mod system;
mod table;
mod tcp;
mod udp;

/// How many events wait to be taken at most.
const EVENTS: usize = 65_536;

/// How many busy sockets there is room for in one go.
const STRIDE: usize = SLOTS / udp::FAIR;

/// What to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's addresses, what is forwarded, and what is not allowed.
    pub nat: nat::Spec,
    /// The gateway's hardware address.
    pub mac: MacAddr,
    /// The largest packet of the network.
    pub mtu: u16,
    /// Whether guests' packets to the outside leave here; else only those to the gateway's own addresses are ours.
    pub transit: bool,
    /// Whether somebody answers DNS over TCP at the gateway's own addresses: who calls [`Sockets::take_messages`].
    pub streams: bool,
    /// What makes choices that guests cannot foresee.
    pub seed: u64,
}

/// The sockets of one network.
pub struct Sockets {
    spec: Spec,
    poll: Poll,
    dialer: Dialer,
    quota: Quota,
    errors: Errors,
    replies: Vec<Vec<u8>>,
    events: Vec<Event>,
    /// How many of the events have been counted.
    counted: usize,
    totals: Totals,
    ended: Vec<usize>,
    ready: Vec<(Token, Ready)>,
    receiver: Receiver,
    reassembly: Reassembly,
    /// Holds a frame of our own on its way through [`Sockets::send`].
    own: Burst,
    udp: UdpFlows,
    echo: EchoFlows,
    tcp: TcpFlows,
    forwards: Forwards,
    streams: Streams,
    /// How many sockets that are ready let others go first, since there was not room for all.
    skip: usize,
}

/// What is known of all flows that were.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    flows: [usize; Protocol::ALL.len()],
    created: u64,
    /// What TCP connections that are over have carried.
    tcp: Carried,
}

/// Lends what flows share, and leaves the flows themselves free.
macro_rules! context {
    ($sockets:expr, $inside:expr, $now:expr) => {
        Context {
            now: $now,
            mac: $sockets.spec.mac,
            gateways: &$sockets.spec.nat.gateways,
            mtu: $sockets.spec.mtu,
            timeouts: $sockets.spec.nat.timeouts,
            inside: $inside,
            poll: &$sockets.poll,
            dialer: &$sockets.dialer,
            quota: &mut $sockets.quota,
            replies: &mut $sockets.replies,
            events: &mut $sockets.events,
            ended: &mut $sockets.ended,
            errors: &mut $sockets.errors,
        }
    };
}

impl Sockets {
    /// Opens what is needed from the start. Ports that cannot be forwarded are shown as such, and tried again.
    ///
    /// # Errors
    ///
    /// The system is out of descriptors or memory.
    pub fn open(spec: &Spec, now: Now) -> Result<Self, OpenError> {
        let failed = |source: io::Error| OpenError::System {
            attempt: "prepare the sockets of a NAT".to_owned(),
            source,
        };
        let mut this = Self {
            poll: Poll::open().map_err(failed)?,
            dialer: Dialer::new(&spec.nat, spec.transit, spec.streams),
            quota: context::quota(spec.nat.limits),
            errors: Errors::new(now.instant),
            replies: Vec::new(),
            events: Vec::new(),
            counted: 0,
            totals: Totals::default(),
            ended: Vec::new(),
            ready: Vec::new(),
            receiver: Receiver::new().map_err(failed)?,
            reassembly: Reassembly::default(),
            own: Burst::default(),
            udp: UdpFlows::new(spec.nat.filtering),
            echo: EchoFlows::default(),
            tcp: TcpFlows::new(spec.seed, spec.nat.timeouts, now.instant),
            forwards: Forwards::new(spec.seed),
            streams: Streams::default(),
            skip: 0,
            spec: spec.clone(),
        };
        for forward in &spec.nat.forwards {
            this.forwards
                .add_or_retry(forward.clone(), &this.poll, now.instant);
        }
        Ok(this)
    }

    /// Registers what wakes the worker.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn watch(&self, watcher: Watcher) -> io::Result<()> {
        watcher.add(self.poll.as_raw_fd())
    }

    /// Whether there is something to receive.
    pub fn has_news(&mut self) -> bool {
        // What is told only once is kept for the next receive.
        if self.ready.is_empty() {
            self.poll.collect(&mut self.ready);
        }
        !self.replies.is_empty() || !self.ready.is_empty() || self.tcp.is_ready()
    }

    /// Tells, by the head of a frame alone, whether it is ours: its packet is for the outside, or TCP to the gateway itself.
    pub fn claims(&self, head: &Head, parsed: &Parsed) -> bool {
        if parsed.dst != self.spec.mac {
            return false;
        }
        let bytes = head.bytes();
        let Some(ip) = bytes.get(parsed.payload_at()..) else {
            return false;
        };
        let (dst, protocol): (IpAddr, u8) = match parsed.ethertype {
            ETHERTYPE_IPV4 => match (ip.get(9), ip.get(16..20)) {
                (Some(protocol), Some(&[a, b, c, d])) => ([a, b, c, d].into(), *protocol),
                _ => return false,
            },
            ETHERTYPE_IPV6 => {
                let octets = ip.get(24..40).and_then(|octets| octets.try_into().ok());
                match (ip.get(6), octets) {
                    (Some(next), Some(octets)) => (<[u8; 16]>::into(octets), *next),
                    _ => return false,
                }
            }
            _ => return false,
        };
        let gateways = &self.spec.nat.gateways;
        if gateways.is_own(dst) {
            // What answers a connection may answer a service that looks whether targets do.
            return protocol == PROTOCOL_TCP && !is_answer(ip);
        }
        let limited = dst == IpAddr::from([255; 4]);
        self.spec.transit
            && !gateways.is_inside(dst)
            && !dst.is_multicast()
            && !dst.is_unspecified()
            && !limited
    }

    /// Whether a frame that nobody else claims may be ours: an IP packet for the gateway's hardware address.
    pub fn may_take(&self, parsed: &Parsed) -> bool {
        parsed.dst == self.spec.mac && matches!(parsed.ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)
    }

    /// Sends the packet of a guest's frame where it goes.
    ///
    /// # Errors
    ///
    /// It goes nowhere; where a router would tell the guest, it is told.
    pub fn send(
        &mut self,
        burst: &Burst,
        frame: &Frame,
        inside: &Inside,
        now: Now,
    ) -> Result<(), DropReason> {
        let sent = self.gather(burst, frame, inside, now);
        self.flush(burst);
        sent
    }

    /// Does what [`Sockets::send`] does, but keeps back what next frames of the same burst may add to. [`Sockets::flush`] has to
    /// follow before anything of another burst is sent.
    ///
    /// # Errors
    ///
    /// As for [`Sockets::send`].
    pub fn gather(
        &mut self,
        burst: &Burst,
        frame: &Frame,
        inside: &Inside,
        now: Now,
    ) -> Result<(), DropReason> {
        let sent = self.try_send(burst, frame, inside, now);
        self.settle();
        sent
    }

    /// Sends what [`Sockets::gather`] has kept back of this burst.
    pub fn flush(&mut self, burst: &Burst) {
        self.tcp.flush(burst);
    }

    /// Sends a whole frame in memory of our own, as [`Sockets::send`] does.
    ///
    /// # Errors
    ///
    /// As for [`Sockets::send`].
    pub fn send_owned(
        &mut self,
        frame: Vec<u8>,
        offload: VirtioNetHeader,
        inside: &Inside,
        now: Now,
    ) -> Result<(), DropReason> {
        let mut own = std::mem::take(&mut self.own);
        own.clear();
        own.push_owned(frame, offload);
        let sent = match own.frames().first() {
            Some(frame) => self.send(&own, frame, inside, now),
            None => Ok(()),
        };
        own.clear();
        self.own = own;
        sent
    }

    fn try_send(
        &mut self,
        burst: &Burst,
        frame: &Frame,
        inside: &Inside,
        now: Now,
    ) -> Result<(), DropReason> {
        let parsed = frame.head.parse()?;
        let packet = Packet::read(&frame.head, &parsed)?;
        let gateways = &self.spec.nat.gateways;
        let own = gateways.is_own(packet.dst);
        let local = matches!(packet.src, IpAddr::V6(src) if src.is_unicast_link_local());
        // What comes back must find the guest; what is of the link stays there.
        if !gateways.is_inside(packet.src) || gateways.is_own(packet.src) || local && !own {
            return Err(DropReason::BadSource);
        }
        if !own && (!self.spec.transit || gateways.is_inside(packet.dst)) {
            return Err(DropReason::Unreachable);
        }
        let mut cx = context!(self, inside, now);
        let original = &frame.head.bytes()[packet.ip_at..];
        if packet.hop_limit <= 1 && !own {
            cx.answer(&packet, original, Problem::TimeExceeded);
            return Err(DropReason::Unreachable);
        }
        if packet.fragment.is_some() {
            return self.send_part(&packet, burst, frame, inside, now);
        }
        self.dispatch(&packet, burst, frame, inside, now)
    }

    fn dispatch(
        &mut self,
        packet: &Packet,
        burst: &Burst,
        frame: &Frame,
        inside: &Inside,
        now: Now,
    ) -> Result<(), DropReason> {
        let original = &frame.head.bytes()[packet.ip_at..];
        let mut cx = context!(self, inside, now);
        if packet.protocol == PROTOCOL_TCP {
            return self.tcp.segment(packet, burst, frame, &mut cx);
        }
        // Only TCP comes in super-frames.
        if frame.head.offload.gso_type != GSO_NONE {
            return Err(DropReason::BadOffload);
        }
        match packet.protocol {
            PROTOCOL_UDP => {
                if self.forwards.reply(packet, burst, frame, &mut cx) {
                    return Ok(());
                }
                self.udp.send(packet, burst, frame, &mut cx)
            }
            PROTOCOL_ICMP | NEXT_HEADER_ICMPV6 => self.echo.send(packet, burst, frame, &mut cx),
            _ => {
                let problem = Problem::Unreachable(Unreachable::Protocol);
                cx.answer(packet, original, problem);
                Err(DropReason::Unreachable)
            }
        }
    }

    #[cold]
    fn send_part(
        &mut self,
        packet: &Packet,
        burst: &Burst,
        frame: &Frame,
        inside: &Inside,
        now: Now,
    ) -> Result<(), DropReason> {
        let mut copy = Vec::new();
        burst.copy_frame(frame, TagAction::Keep, &mut copy);
        let part = copy.get(packet.transport_at..packet.end);
        let part = part.ok_or(DropReason::BadPacket)?;
        let whole = self
            .reassembly
            .add(packet, part, self.spec.mac, now.instant);
        let Some(whole) = whole else {
            return Ok(());
        };
        let mut own = Burst::default();
        own.push_owned(whole, VirtioNetHeader::default());
        let Some(frame) = own.frames().first() else {
            return Ok(());
        };
        let mut packet = Packet::read(&frame.head, &frame.head.parse()?)?;
        // It was cut into parts where it came from, and may be again.
        packet.dont_fragment = false;
        // What was gathered of the other burst comes first.
        self.tcp.flush(burst);
        let sent = self.dispatch(&packet, &own, frame, inside, now);
        self.tcp.flush(&own);
        sent
    }

    /// Fills the burst with frames to guests. It points into memory of the sockets' until [`Sockets::release`].
    pub fn receive(&mut self, burst: &mut Burst, inside: &Inside, now: Now) {
        let mut ready = std::mem::take(&mut self.ready);
        if ready.is_empty() {
            self.poll.collect(&mut ready);
        }
        let count = (burst.room() / 2).min(self.replies.len());
        for frame in self.replies.drain(..count) {
            burst.push_owned(frame, VirtioNetHeader::default());
        }
        // The kernel names those that stay ready in the same order each time.
        let skip = self.skip.checked_rem(ready.len()).unwrap_or(0);
        ready.rotate_left(skip);
        let mut cx = context!(self, inside, now);
        // Who is alone with something to take has all the room.
        let share = (SLOTS / ready.len().max(1)).max(udp::FAIR);
        for (token, ready) in ready.drain(..) {
            match token.kind {
                Kind::Udp => {
                    let (receiver, ready) = (&mut self.receiver, (ready, share));
                    self.udp.ready(token.id, ready, receiver, burst, &mut cx);
                }
                Kind::Echo => self
                    .echo
                    .ready(token.id, ready, &mut self.receiver, &mut cx),
                Kind::Listener => {
                    let (receiver, tcp) = (&mut self.receiver, &mut self.tcp);
                    self.forwards
                        .ready(token.id, ready, receiver, burst, tcp, &mut cx);
                }
                Kind::Stream => self.streams.ready(token.id, ready, &mut cx),
                Kind::Tcp => self.tcp.ready(token.id, ready, &mut cx),
            }
        }
        let full = self.receiver.room() == 0 || burst.room() == 0;
        self.skip = if full { self.skip + STRIDE } else { 0 };
        self.forwards.resume(&mut self.tcp, &mut cx);
        self.tcp.receive(burst, &mut cx);
        self.streams.adopt(&mut cx);
        self.ready = ready;
        let count = burst.room().min(self.replies.len());
        for frame in self.replies.drain(..count) {
            burst.push_owned(frame, VirtioNetHeader::default());
        }
        self.settle();
    }

    /// Hears that those frames of the burst had no room at their receiver, one bit each.
    pub fn refused(&mut self, frames: u64) {
        self.tcp.refused(frames);
    }

    /// Hears that the burst is not used any more.
    pub fn release(&mut self) {
        self.receiver.release();
        self.tcp.release();
    }

    /// The next time at which [`Sockets::handle_timeout`] has work to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.udp.poll_timeout(),
            self.echo.poll_timeout(),
            self.tcp.poll_timeout(),
            self.forwards.poll_timeout(),
            self.streams.poll_timeout(),
            self.reassembly.poll_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, inside: &Inside, now: Now) {
        let mut cx = context!(self, inside, now);
        self.udp.handle_timeout(&mut cx);
        self.echo.handle_timeout(&mut cx);
        self.tcp.handle_timeout(&mut cx);
        self.forwards.handle_timeout(&mut self.tcp, &mut cx);
        self.streams.handle_timeout(&mut cx);
        self.reassembly.handle_timeout(now.instant);
        self.settle();
    }

    /// Counts what flows have told.
    fn settle(&mut self) {
        for ticket in self.ended.drain(..) {
            self.forwards.note_ended(ticket);
        }
        for event in &self.events[self.counted..] {
            let flows = &mut self.totals.flows[event.protocol as usize];
            if event.created {
                *flows += 1;
                self.totals.created += 1;
            } else {
                *flows = flows.saturating_sub(1);
                if event.protocol == Protocol::Tcp {
                    self.totals.tcp.sent += event.sent;
                    self.totals.tcp.received += event.received;
                }
            }
        }
        if !self.spec.nat.log {
            self.events.clear();
        }
        self.events.truncate(EVENTS);
        self.counted = self.events.len();
    }

    /// Takes what has become of flows since this was called last.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.counted = 0;
        std::mem::take(&mut self.events)
    }

    /// Takes the DNS messages that have come over TCP: the stream, whose it is, and the message.
    pub fn take_messages(&mut self) -> Vec<(u64, SocketAddr, Vec<u8>)> {
        self.streams.take_messages()
    }

    /// Answers on a stream, if it is still there.
    pub fn send_message(&mut self, stream: u64, message: &[u8]) {
        self.streams.send_message(stream, message, &self.poll);
    }

    /// The NAT at a glance.
    pub fn view(&self, inside: &Inside, now: Now) -> View {
        let mut view = View {
            outside: Vec::new(),
            flows: self.totals.flows,
            created: self.totals.created,
            refused: self.quota.refused(),
            sent: self.totals.tcp.sent,
            received: self.totals.tcp.received,
            forwards: self.forwards.rows(inside),
        };
        let (udp, echo) = (self.udp.carried(), self.echo.carried());
        for carried in [udp, echo, self.forwards.carried()] {
            view.sent += carried.sent;
            view.received += carried.received;
        }
        let mut rows = Vec::new();
        let timeouts = &self.spec.nat.timeouts;
        self.tcp.rows(now.instant, timeouts, &mut rows);
        for row in rows {
            view.sent += row.sent;
            view.received += row.received;
        }
        view
    }

    /// All flows.
    pub fn flows(&self, now: Now) -> Vec<FlowRow> {
        let mut rows = Vec::new();
        let timeouts = &self.spec.nat.timeouts;
        self.tcp.rows(now.instant, timeouts, &mut rows);
        self.udp.rows(now.instant, timeouts, &mut rows);
        self.forwards.flow_rows(now.instant, timeouts, &mut rows);
        self.echo.rows(now.instant, timeouts, &mut rows);
        rows
    }

    /// Forwards a port from now on.
    ///
    /// # Errors
    ///
    /// The port cannot be had.
    pub fn add_forward(
        &mut self,
        forward: Forward,
        inside: &Inside,
    ) -> Result<ForwardRow, ForwardError> {
        self.forwards.add(forward, &self.poll, inside)
    }

    /// Stops to forward a port; tells whether it was forwarded. Connections that are there stay.
    pub fn remove_forward(
        &mut self,
        protocol: Protocol,
        listen: SocketAddr,
        inside: &Inside,
        now: Now,
    ) -> bool {
        let mut cx = context!(self, inside, now);
        let removed = self.forwards.remove(protocol, listen, &mut cx);
        self.settle();
        removed
    }

    /// What an operator should know, one sentence each.
    pub fn advisories(&self) -> Vec<String> {
        let mut advisories = self.quota.advisories();
        advisories.extend(self.forwards.advisories());
        advisories.extend(self.echo.advisories());
        advisories
    }
}

#[cfg(test)]
mod tests;
