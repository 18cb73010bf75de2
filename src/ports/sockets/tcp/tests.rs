//! Connections of guests that the tests play, to servers on the loopback, without waiting for a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use socket2::SockRef;

use super::*;
use crate::net::Now;
use crate::net::inside::Inside;
use crate::net::nat::quota::Quota;
use crate::net::nat::{Filtering, Gateways, Limits, Originator, Outside, Timeouts};
use crate::net::packet::Packet;
use crate::net::tcp::{Outcome, Seq};
use crate::net::vlan::TagAction;
use crate::ports::sockets::context::Errors;
use crate::ports::sockets::dial::Dialer;
use crate::ports::sockets::poll::Poll;
use crate::wire::virtio_net::{DATA_VALID, VirtioNetHeader};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PATIENCE: Duration = Duration::from_secs(20);
/// How much a guest has room for.
const ROOM: usize = 300_000;

fn gateway(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(10, 9, 0, 2).into(),
        true => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2).into(),
    }
}

fn guest_ip(v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(10, 9, 0, 128).into(),
        true => Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x80).into(),
    }
}

/// A guest's end of one connection.
struct Guest {
    endpoint: Endpoint,
    own: SocketAddr,
    peer: SocketAddr,
    /// What it has to send, or has sent and not heard of.
    out: Vec<u8>,
    got: Vec<u8>,
    unread: usize,
    reads: bool,
    reset: bool,
}

impl Guest {
    fn config(seed: u16) -> Config {
        Config {
            iss: Seq(u32::from(seed).wrapping_mul(0x9e37_79b9)),
            mss: 1440,
            default_mss: 536,
        }
    }

    fn new(endpoint: Endpoint, own: SocketAddr, peer: SocketAddr) -> Self {
        let mut guest = Self {
            endpoint,
            own,
            peer,
            out: Vec::new(),
            got: Vec::new(),
            unread: 0,
            reads: true,
            reset: false,
        };
        guest.endpoint.set_room(ROOM);
        guest
    }

    fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.endpoint.set_queued(self.out.len());
    }

    fn read(&mut self) {
        if self.reads {
            self.unread = 0;
        }
        self.endpoint.set_room(ROOM - self.unread.min(ROOM));
    }

    fn handle(&mut self, tcp: &Tcp, payload: &[u8], now: Instant) {
        let arrival = self.endpoint.handle(tcp, payload.len(), now);
        self.out.drain(..arrival.acked);
        if let Some(range) = arrival.offer {
            self.got.extend_from_slice(&payload[range.clone()]);
            self.unread += range.len();
            self.endpoint.take(range.len());
        }
        self.reset |= arrival.outcome == Some(Outcome::Reset);
        self.read();
        self.endpoint.set_queued(self.out.len());
    }
}

/// A network with its sockets, and the guests of a test.
struct Lab {
    tcp: TcpFlows,
    gateways: Gateways,
    timeouts: Timeouts,
    inside: Inside,
    poll: Poll,
    dialer: Dialer,
    quota: Quota,
    replies: Vec<Vec<u8>>,
    events: Vec<nat::Event>,
    ended: Vec<usize>,
    errors: Errors,
    guests: Vec<Guest>,
    /// Ports on which guests listen.
    listening: Vec<u16>,
    /// Which of the next frames the guest's ring refuses.
    refuses: u64,
    frames: u64,
    refused: u64,
    burst: Burst,
    from_guests: Burst,
}

macro_rules! context {
    ($lab:expr) => {
        Context {
            now: now(),
            mac: GATEWAY,
            gateways: &$lab.gateways,
            mtu: 1500,
            timeouts: $lab.timeouts,
            inside: &$lab.inside,
            poll: &$lab.poll,
            dialer: &$lab.dialer,
            quota: &mut $lab.quota,
            replies: &mut $lab.replies,
            events: &mut $lab.events,
            ended: &mut $lab.ended,
            errors: &mut $lab.errors,
        }
    };
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

impl Lab {
    fn new() -> Self {
        let gateways = Gateways {
            v4: Some((Ipv4Addr::new(10, 9, 0, 2), "10.9.0.0/24".parse().unwrap())),
            v6: Some((
                Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2),
                "fd00:9::/64".parse().unwrap(),
            )),
            link_local: None,
        };
        let spec = nat::Spec {
            gateways: gateways.clone(),
            outside: Outside::Host,
            forwards: Vec::new(),
            filtering: Filtering::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            closed: vec!["192.0.2.0/24".parse().unwrap()],
            map_host_loopback: true,
            ftp: false,
            log: true,
        };
        Self {
            tcp: TcpFlows::new(7, Timeouts::default(), Instant::now()),
            gateways,
            timeouts: Timeouts::default(),
            inside: Inside::default(),
            poll: Poll::open().unwrap(),
            dialer: Dialer::new(&spec, true, false),
            quota: Quota::new(Limits::default()),
            replies: Vec::new(),
            events: Vec::new(),
            ended: Vec::new(),
            errors: Errors::new(Instant::now()),
            guests: Vec::new(),
            listening: Vec::new(),
            refuses: 0,
            frames: 0,
            refused: 0,
            burst: Burst::default(),
            from_guests: Burst::default(),
        }
    }

    /// A guest opens a connection to a port of the host's loopback; returns its number.
    fn connect(&mut self, v6: bool, port: u16) -> usize {
        let number = self.guests.len();
        let own = u16::try_from(20_000 + number).unwrap();
        let endpoint = Endpoint::connect(Guest::config(own), Instant::now());
        self.guests.push(Guest::new(
            endpoint,
            SocketAddr::new(guest_ip(v6), own),
            SocketAddr::new(gateway(v6), port),
        ));
        number
    }

    /// Carries frames both ways, once. Returns whether there were any.
    fn step(&mut self) -> bool {
        let mut busy = self.carry_to_host();
        let mut cx = context!(self);
        let mut ready = Vec::new();
        cx.poll.collect(&mut ready);
        for (token, ready) in ready {
            self.tcp.ready(token.id, ready, &mut cx);
        }
        if self
            .tcp
            .poll_timeout()
            .is_some_and(|at| at <= cx.now.instant)
        {
            self.tcp.handle_timeout(&mut cx);
        }
        self.tcp.receive(&mut self.burst, &mut cx);
        busy |= !self.burst.is_empty();
        let mut refused = 0;
        let mut arrived = Vec::new();
        for (index, frame) in self.burst.frames().iter().enumerate() {
            self.frames += 1;
            if self.refuses != 0 && (self.frames.wrapping_mul(self.refuses) >> 7).is_multiple_of(3)
            {
                self.refused += 1;
                refused |= 1 << index;
                continue;
            }
            let mut bytes = Vec::new();
            self.burst.copy_frame(frame, TagAction::Keep, &mut bytes);
            arrived.push(bytes);
        }
        self.tcp.refused(refused);
        self.burst.clear();
        self.tcp.release();
        arrived.append(&mut self.replies);
        for frame in arrived {
            self.deliver(&frame);
        }
        busy
    }

    fn carry_to_host(&mut self) -> bool {
        let now = Instant::now();
        self.from_guests.clear();
        for guest in &mut self.guests {
            if guest
                .endpoint
                .poll_timeout(&self.timeouts)
                .is_some_and(|at| at <= now)
            {
                guest.endpoint.handle_timeout(now, &self.timeouts);
            }
            while self.from_guests.room() > 0
                && let Some(transmit) = guest.endpoint.poll(now)
            {
                let stations = frames::Stations {
                    gateway: GUEST,
                    guest: GATEWAY,
                };
                let tcp = Tcp {
                    src: guest.own.port(),
                    dst: guest.peer.port(),
                    ..transmit.tcp
                };
                let ips = (guest.own.ip(), guest.peer.ip());
                let payload = &guest.out[transmit.range];
                let mut head = crate::net::frame::Head::default();
                segments::fill(&mut head, stations, ips, &tcp, payload.len(), transmit.mss);
                let frame = [head.bytes(), payload].concat();
                self.from_guests.push_owned(frame, head.offload);
            }
        }
        let mut cx = context!(self);
        for frame in self.from_guests.frames() {
            let parsed = frame.head.parse().unwrap();
            let packet = Packet::read(&frame.head, &parsed).unwrap();
            // What cannot be passed on is the test's to find out.
            let _ = self.tcp.segment(&packet, &self.from_guests, frame, &mut cx);
        }
        self.tcp.flush(&self.from_guests);
        let busy = !self.from_guests.is_empty();
        self.from_guests.clear();
        busy
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let mut head = crate::net::frame::Head::default();
        head.fill(bytes, VirtioNetHeader::default());
        let parsed = head.parse().unwrap();
        assert_eq!((parsed.src, parsed.dst), (GATEWAY, GUEST));
        let packet = Packet::read(&head, &parsed).unwrap();
        let (tcp, len) = Tcp::parse(&bytes[packet.transport_at..]).unwrap();
        let payload = &bytes[packet.transport_at + len..packet.end];
        let own = SocketAddr::new(packet.dst, tcp.dst);
        let peer = SocketAddr::new(packet.src, tcp.src);
        let now = Instant::now();
        let known = |guest: &&mut Guest| guest.own == own && guest.peer == peer;
        if let Some(guest) = self.guests.iter_mut().find(known) {
            guest.handle(&tcp, payload, now);
        } else if self.listening.contains(&tcp.dst) && tcp.flags == Flags::SYN {
            let mut endpoint = Endpoint::accept(Guest::config(tcp.dst), &tcp, now);
            endpoint.opened();
            self.guests.push(Guest::new(endpoint, own, peer));
        } else if let Some(reset) = reset_for(&tcp, payload.len()) {
            let stations = frames::Stations {
                gateway: GUEST,
                guest: GATEWAY,
            };
            let frame = segments::emit(stations, (own.ip(), peer.ip()), &reset).unwrap();
            self.hand_over(frame, VirtioNetHeader::default()).unwrap();
        }
    }

    /// Hands over a frame of a guest's that the test has made.
    fn hand_over(&mut self, frame: Vec<u8>, offload: VirtioNetHeader) -> Result<(), DropReason> {
        let mut burst = Burst::default();
        burst.push_owned(frame, offload);
        let frame = &burst.frames()[0];
        let packet = Packet::read(&frame.head, &frame.head.parse()?)?;
        let mut cx = context!(self);
        let result = self.tcp.segment(&packet, &burst, frame, &mut cx);
        self.tcp.flush(&burst);
        result
    }

    /// Goes on until something is the case.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            if !self.step() {
                std::thread::yield_now();
            }
            assert!(Instant::now() < end, "in vain: {what}");
        }
    }

    fn count(&self) -> usize {
        self.tcp.flows.iter().count()
    }

    /// All that was taken was given back.
    fn assert_empty(&self) {
        assert_eq!((self.count(), self.tcp.places.len()), (0, 0));
        assert_eq!(self.tcp.timers.poll_timeout(), None);
        let created = self.events.iter().filter(|event| event.created);
        assert_eq!(2 * created.count(), self.events.len());
    }
}

/// A server, or a client of a port forward, that never blocks.
struct Host {
    stream: TcpStream,
    out: Vec<u8>,
    got: Vec<u8>,
    reads: bool,
    ended: bool,
    error: Option<ErrorKind>,
}

impl Host {
    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            out: Vec::new(),
            got: Vec::new(),
            reads: true,
            ended: false,
            error: None,
        }
    }

    fn step(&mut self) {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.error = Some(error.kind());
                    break;
                }
            }
        }
        let mut buffer = [0; 65_536];
        while self.reads && !self.ended && self.error.is_none() {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.got.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.error = Some(error.kind()),
            }
        }
    }
}

struct Server(TcpListener);

impl Server {
    fn new(v6: bool) -> Self {
        let ip: IpAddr = match v6 {
            false => Ipv4Addr::LOCALHOST.into(),
            true => Ipv6Addr::LOCALHOST.into(),
        };
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn accept(&self, lab: &mut Lab) -> Host {
        let mut host = None;
        lab.until("a connection", |_| {
            host = self.0.accept().ok();
            host.is_some()
        });
        Host::new(host.unwrap().0)
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// A connection that is open: the lab, the guest's number, the server's end.
fn open() -> (Lab, usize, Host) {
    let server = Server::new(false);
    let mut lab = Lab::new();
    let guest = lab.connect(false, server.port());
    let host = server.accept(&mut lab);
    lab.until("open", |lab| lab.guests[guest].endpoint.is_open());
    (lab, guest, host)
}

#[test]
fn bytes_go_both_ways_and_both_ends_close() {
    for v6 in [false, true] {
        let server = Server::new(v6);
        let mut lab = Lab::new();
        let guest = lab.connect(v6, server.port());
        let mut host = server.accept(&mut lab);
        let (up, down) = (bytes(5_000_000), bytes(7_000_000));
        lab.guests[guest].write(&up);
        lab.guests[guest].endpoint.close();
        host.out.clone_from(&down);
        lab.until("all bytes", |lab| {
            host.step();
            host.ended && lab.guests[guest].got.len() == down.len()
        });
        assert!(host.got == up && lab.guests[guest].got == down);
        assert_eq!(
            lab.tcp.flows.iter().next().unwrap().1.endpoint.state(),
            "closing"
        );
        drop(host);
        lab.until("the end", |lab| lab.count() == 0);
        lab.assert_empty();
        let last = lab.events.last().unwrap();
        assert_eq!((last.sent, last.received), (5_000_000, 7_000_000));
        assert_eq!(last.originator, Originator::Guest);
        assert!(
            last.outside
                .is_some_and(|outside| outside.ip().is_loopback())
        );
    }
}

#[test]
fn bytes_arrive_although_the_guests_ring_refuses_every_third_frame() {
    let (mut lab, guest, mut host) = open();
    lab.refuses = 0x9e37_79b9_7f4a_7c15;
    let all = bytes(4_000_000);
    host.out.clone_from(&all);
    lab.guests[guest].write(&all);
    lab.until("all bytes", |lab| {
        host.step();
        lab.guests[guest].got.len() == all.len() && host.got.len() == all.len()
    });
    assert!(lab.guests[guest].got == all && host.got == all);
    assert!(lab.refused > 20, "{}", lab.refused);
}

#[test]
fn a_connection_that_is_refused_is_reset() {
    let port = Server::new(false).port();
    let mut lab = Lab::new();
    let guest = lab.connect(false, port);
    lab.until("a reset", |lab| lab.guests[guest].reset);
    lab.until("the end", |lab| lab.count() == 0);
    lab.assert_empty();
    lab.guests.clear();
    let guest = lab.connect(false, 9);
    lab.guests[guest].peer = "192.0.2.7:9".parse().unwrap();
    lab.until("a reset", |lab| lab.guests[guest].reset);
    assert_eq!(lab.count(), 0, "and what is closed to guests as well");
}

#[test]
fn a_server_that_does_not_read_closes_the_guests_window() {
    let (mut lab, guest, mut host) = open();
    host.reads = false;
    let all = bytes(20_000_000);
    lab.guests[guest].write(&all);
    let mut still = 0;
    let mut before = 0;
    lab.until("nothing moves", |lab| {
        let left = lab.guests[guest].out.len();
        still = if left == before { still + 1 } else { 0 };
        before = left;
        still > 1000
    });
    assert!(before > 5_000_000);
    let id = lab.tcp.flows.iter().next().unwrap().1.id;
    let flow = lab.tcp.flows.get_mut(place_of(id)).unwrap();
    assert!(!flow.pending().is_empty());
    assert!(flow.pending().room(&lab.tcp.budget) < 100_000);
    host.reads = true;
    lab.until("all bytes", |_| {
        host.step();
        host.got.len() == all.len()
    });
    assert!(host.got == all);
}

#[test]
fn a_guest_that_does_not_read_stops_the_server() {
    let (mut lab, guest, mut host) = open();
    lab.guests[guest].reads = false;
    let all = bytes(10_000_000);
    host.out.clone_from(&all);
    lab.until("no room", |lab| {
        host.step();
        lab.guests[guest].unread > ROOM - 3000
    });
    for _ in 0..1000 {
        lab.step();
        host.step();
    }
    let flow = lab.tcp.flows.iter().next().unwrap().1;
    assert!(flow.held() <= 3000, "no more is read than it has room for");
    lab.guests[guest].reads = true;
    lab.guests[guest].read();
    lab.until("all bytes", |lab| {
        host.step();
        lab.guests[guest].got.len() == all.len()
    });
    assert!(lab.guests[guest].got == all);
    assert_eq!(host.out.len(), 0);
}

#[test]
fn a_reset_passes_through_both_ways() {
    let (mut lab, guest, host) = open();
    SockRef::from(&host.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(host);
    lab.until("a reset", |lab| lab.guests[guest].reset);
    lab.until("the end", |lab| lab.count() == 0);
    lab.assert_empty();

    let (mut lab, guest, mut host) = open();
    lab.guests[guest].endpoint.abort();
    lab.until("a reset", |_| {
        host.step();
        host.error.is_some()
    });
    assert_eq!(host.error, Some(ErrorKind::ConnectionReset));
    lab.until("the end", |lab| lab.count() == 0);
    lab.assert_empty();
}

#[test]
fn a_half_closed_connection_carries_the_other_half() {
    let (mut lab, guest, mut host) = open();
    host.stream.shutdown(std::net::Shutdown::Write).unwrap();
    lab.until("the end of one half", |lab| {
        lab.guests[guest].endpoint.has_guest_closed()
    });
    lab.guests[guest].write(b"still here");
    lab.until("the other half", |_| {
        host.step();
        host.got == b"still here"
    });
    lab.guests[guest].endpoint.close();
    lab.until("its end", |_| {
        host.step();
        host.ended
    });
}

#[test]
fn a_client_that_cannot_be_led_to_a_guest_is_reset() {
    let mut lab = Lab::new();
    lab.quota = Quota::new(Limits {
        flows: 0,
        flows_per_guest: 0,
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let (seen, target) = (
        SocketAddr::new(gateway(false), 999),
        SocketAddr::new(guest_ip(false), 80),
    );
    let mut cx = context!(lab);
    lab.tcp
        .accepted(socket.into(), seen, target, GUEST, 5, &mut cx);
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(lab.ended, [5]);
}

#[test]
fn a_client_of_a_port_forward_reaches_the_guest() {
    let server = Server::new(false);
    let mut lab = Lab::new();
    lab.listening.push(22);
    let client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut client = Host::new(client);
    let (socket, _) = server.0.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let seen: SocketAddr = "10.9.0.2:3333".parse().unwrap();
    let target = SocketAddr::new(guest_ip(false), 22);
    let mut cx = context!(lab);
    lab.tcp
        .accepted(socket.into(), seen, target, GUEST, 5, &mut cx);
    client.out = bytes(100_000);
    lab.until("bytes at the guest", |lab| {
        client.step();
        lab.guests
            .first()
            .is_some_and(|guest| guest.got.len() == 100_000)
    });
    assert_eq!(lab.guests[0].peer, seen);
    lab.guests[0].write(b"welcome");
    lab.until("an answer", |_| {
        client.step();
        client.got == b"welcome"
    });
    let mut rows = Vec::new();
    lab.tcp.rows(Instant::now(), &lab.timeouts, &mut rows);
    assert_eq!(
        (rows[0].state, rows[0].originator),
        ("established", Originator::Forward)
    );
    assert_eq!((rows[0].sent, rows[0].received), (7, 100_000));
    lab.guests[0].endpoint.close();
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    lab.until("the end", |lab| {
        client.step();
        lab.ended == [5]
    });
    lab.assert_empty();
}

#[test]
fn a_client_of_a_port_forward_that_the_guest_refuses_is_reset() {
    let server = Server::new(false);
    let mut lab = Lab::new();
    let client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut client = Host::new(client);
    let (socket, _) = server.0.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let target = SocketAddr::new(guest_ip(false), 22);
    let mut cx = context!(lab);
    let seen = "10.9.0.2:3333".parse().unwrap();
    lab.tcp
        .accepted(socket.into(), seen, target, GUEST, 5, &mut cx);
    lab.until("a reset", |_| {
        client.step();
        client.error.is_some()
    });
    assert_eq!(client.error, Some(ErrorKind::ConnectionReset));
    lab.until("the end", |lab| lab.ended == [5]);
    lab.assert_empty();
}

#[test]
fn many_connections_at_once_are_served_and_leave_nothing_behind() {
    const COUNT: usize = 300;
    let server = Server::new(false);
    let mut lab = Lab::new();
    let mut hosts = Vec::new();
    for _ in 0..COUNT {
        let guest = lab.connect(false, server.port());
        lab.guests[guest].write(&bytes(5000));
        hosts.push(server.accept(&mut lab));
    }
    for host in &mut hosts {
        host.out = bytes(20_000);
    }
    lab.until("all bytes", |lab| {
        hosts.iter_mut().for_each(Host::step);
        let guests = lab.guests.iter().all(|guest| guest.got.len() == 20_000);
        guests && hosts.iter().all(|host| host.got.len() == 5000)
    });
    assert_eq!(lab.count(), COUNT);
    lab.until("nothing is held by those that are idle", |lab| {
        lab.tcp.flows.iter().all(|(_, flow)| flow.held() == 0)
    });
    for guest in &mut lab.guests {
        guest.endpoint.close();
    }
    drop(hosts);
    lab.until("the end", |lab| lab.count() == 0);
    lab.assert_empty();
}

#[test]
fn a_segment_of_no_connection_is_reset_and_one_that_is_damaged_is_dropped() {
    let mut lab = Lab::new();
    let stations = frames::Stations {
        gateway: GUEST,
        guest: GATEWAY,
    };
    let tcp = Tcp {
        src: 1000,
        dst: 80,
        seq: 5,
        ack: 6,
        flags: Flags::ACK,
        ..Tcp::default()
    };
    let ips = (guest_ip(false), gateway(false));
    let frame = segments::emit(stations, ips, &tcp).unwrap();
    let mut damaged = frame.clone();
    damaged[40] ^= 1;
    let whole = VirtioNetHeader::default();
    assert_eq!(
        lab.hand_over(damaged.clone(), whole),
        Err(DropReason::BadPacket)
    );
    assert!(lab.replies.is_empty());
    let verified = VirtioNetHeader {
        flags: DATA_VALID,
        ..whole
    };
    assert_eq!(lab.hand_over(damaged, verified), Ok(()));
    assert_eq!(lab.hand_over(frame.clone(), whole), Ok(()));
    assert_eq!(lab.replies.len(), 2);
    for end in ethernet::HEADER_LEN + 20..ethernet::HEADER_LEN + 40 {
        assert!(
            lab.hand_over(frame[..end].to_vec(), whole).is_err(),
            "{end}"
        );
    }
}

#[test]
fn a_connection_that_fails_because_nobody_is_there_is_told_by_icmp() {
    let (mut lab, ..) = open();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let key = Key {
        mac: GUEST,
        guest: SocketAddr::new(guest_ip(false), 7),
        remote: "198.51.100.7:80".parse().unwrap(),
    };
    let syn = Tcp {
        seq: 0x0102_0304,
        flags: Flags::SYN,
        ..Tcp::default()
    };
    lab.replies.clear();
    let endpoint = Endpoint::accept(Guest::config(1), &syn, Instant::now());
    let mut cx = context!(lab);
    assert!(cx.quota.take(GUEST));
    lab.tcp
        .insert(key, None, endpoint, socket.into(), true, &mut cx);
    let place = lab.tcp.find(&key).unwrap();
    let id = lab.tcp.flows.get(place).unwrap().id;
    let error = std::io::Error::from_raw_os_error(libc::EHOSTUNREACH);
    lab.tcp.failed(id, &error, &mut cx);
    let frame = &lab.replies[0];
    assert_eq!(frame[34..36], [3, 1]);
    assert_eq!(frame[42 + 20..42 + 28], [0, 7, 0, 80, 1, 2, 3, 4]);
    lab.replies.clear();
    lab.until("the end", |lab| lab.count() == 1);
}

#[test]
fn an_identifier_of_a_connection_that_is_gone_is_nobodys() {
    let (mut lab, guest, host) = open();
    let id = lab.tcp.flows.iter().next().unwrap().1.id;
    lab.guests[guest].endpoint.abort();
    lab.until("the end", |lab| lab.count() == 0);
    drop(host);
    let server = Server::new(false);
    lab.connect(false, server.port());
    server.accept(&mut lab);
    let flow = lab.tcp.flows.iter().next().unwrap().1;
    assert_eq!(place_of(flow.id), place_of(id));
    assert_ne!(flow.id, id);
    let ready = Ready {
        error: true,
        ..Ready::default()
    };
    let mut cx = context!(lab);
    lab.tcp.ready(id, ready, &mut cx);
    assert!(lab.tcp.get_mut(id).is_none());
}

#[test]
fn an_idle_connection_takes_less_than_a_kilobyte() {
    // Beside it: its slot's serial number, its place by hash, its timer, and its turn.
    let entry = size_of::<Flow>() + 8 + 8 + 2 * 24 + 4;
    assert!(entry < 1024, "{entry}");
}

#[test]
fn a_guests_end_of_a_pair_of_local_sockets_is_a_socket_like_any_other() {
    let (mut lab, ..) = open();
    let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    lab.listening.push(99);
    let target = SocketAddr::new(guest_ip(false), 99);
    let mut cx = context!(lab);
    let seen = "10.9.0.2:53".parse().unwrap();
    lab.tcp
        .accepted(socket.into(), seen, target, GUEST, 1, &mut cx);
    let mut other = other;
    other.write_all(b"question").unwrap();
    lab.until("bytes", |lab| {
        lab.guests
            .last()
            .is_some_and(|guest| guest.got == b"question")
    });
    lab.guests.last_mut().unwrap().write(b"answer");
    let mut got = Vec::new();
    lab.until("an answer", |_| {
        let mut some = [0; 10];
        if let Ok(count) = other.read(&mut some) {
            got.extend_from_slice(&some[..count]);
        }
        got == b"answer"
    });
    assert!(other.as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn acknowledgements_wait_for_what_is_about_to_come_but_not_for_ever() {
    let (mut lab, guest, _host) = open();
    lab.until("rest", |lab| !lab.tcp.is_ready());
    let before = lab.frames;
    for _ in 0..64 {
        lab.guests[guest].write(b"x");
        lab.step();
    }
    let acknowledgements = lab.frames - before;
    assert!(
        (64 / 8..=64 / 4).contains(&acknowledgements),
        "{acknowledgements}"
    );
    lab.guests[guest].write(b"x");
    lab.step();
    assert!(lab.tcp.is_ready(), "the worker is not to sleep");
    lab.until("all acknowledged", |lab| lab.guests[guest].out.is_empty());
}
