//! Scripted guests against sockets of the loopback: frames in, datagrams out, and back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, SystemTime};

use super::*;
use crate::net::nat::forward::{Balance, Host, Target};
use crate::net::nat::{Filtering, Gateways, Limits, Outside, Timeouts};
use crate::net::offload::{self, Capabilities};
use crate::wire::arp::Arp;
use crate::wire::checksum::checksum;
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::udp::{self, Udp};

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 128);
const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 2);
/// How long a datagram may take through the loopback, which is no time at all, unless the machine is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network's sockets, and a clock that only the test moves.
struct Lab {
    sockets: Sockets,
    inside: Inside,
    now: Now,
}

fn spec() -> Spec {
    Spec {
        nat: nat::Spec {
            gateways: Gateways {
                v4: Some((GATEWAY_IP, "192.168.81.0/24".parse().unwrap())),
                v6: Some((
                    "fd00:81::2".parse().unwrap(),
                    "fd00:81::/64".parse().unwrap(),
                )),
                link_local: Some("fe80::2".parse().unwrap()),
            },
            outside: Outside::Host,
            forwards: Vec::new(),
            filtering: Filtering::AddressAndPort,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            closed: Vec::new(),
            map_host_loopback: true,
            ftp: false,
            log: true,
        },
        mac: GATEWAY,
        mtu: 1500,
        transit: true,
        streams: false,
        seed: 1,
    }
}

impl Lab {
    fn new(spec: &Spec) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        Self {
            sockets: Sockets::open(spec, now).unwrap(),
            inside: Inside::default(),
            now,
        }
    }

    fn send(&mut self, frame: Vec<u8>) -> Result<(), DropReason> {
        let mut burst = Burst::default();
        burst.push_owned(frame, VirtioNetHeader::default());
        let frame = &burst.frames()[0];
        self.sockets.send(&burst, frame, &self.inside, self.now)
    }

    /// Returns the frames that have come, finished as for a guest that can do nothing itself.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut burst = Burst::default();
        self.sockets.receive(&mut burst, &self.inside, self.now);
        let mut frames = Vec::new();
        for frame in burst.frames() {
            let mut copy = Vec::new();
            let header = burst.copy_frame(frame, TagAction::Keep, &mut copy);
            assert_eq!(copy.len(), frame.head.frame_len as usize);
            let capabilities = Capabilities::default();
            if capabilities.take(header) {
                frames.push(copy);
                continue;
            }
            offload::finish(&mut copy, header, capabilities, |_, head, body| {
                frames.push([head, body].concat());
                Ok(())
            })
            .unwrap();
        }
        burst.clear();
        self.sockets.release();
        frames
    }

    /// Waits until as many frames have come.
    fn wait(&mut self, count: usize) -> Vec<Vec<u8>> {
        let since = Instant::now();
        let mut frames = Vec::new();
        while frames.len() < count {
            frames.extend(self.receive());
            assert!(since.elapsed() < PATIENCE, "{} of {count}", frames.len());
            std::thread::yield_now();
        }
        frames
    }

    fn advance(&mut self, by: Duration) {
        self.now.instant += by;
        self.sockets.handle_timeout(&self.inside, self.now);
    }

    fn view(&self) -> View {
        self.sockets.view(&self.inside, self.now)
    }
}

/// A host's program that waits for datagrams.
fn server() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn v4(protocol: u8, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let packet = ipv4::emit(GUEST_IP, dst, protocol, payload).unwrap();
    ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet)
}

fn datagram(from: u16, dst: Ipv4Addr, to: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = udp::emit((GUEST_IP, from), (dst, to), payload).unwrap();
    v4(PROTOCOL_UDP, dst, &datagram)
}

/// Changes the IP header of a frame, and makes its checksum right again.
fn with_header(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let header = &mut frame[14..34];
    change(header);
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Reads a datagram whose checksums are right.
fn read(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4, Vec<u8>) {
    let ethernet = Ethernet::parse(frame).unwrap();
    assert_eq!((ethernet.dst, ethernet.src), (GUEST, GATEWAY));
    let ip = Ipv4::parse(ethernet.payload).unwrap();
    let udp = Udp::parse(&ip, false).unwrap();
    (
        SocketAddrV4::new(ip.src, udp.src),
        SocketAddrV4::new(ip.dst, udp.dst),
        udp.payload.to_vec(),
    )
}

/// Reads an ICMP error: type, code, and the packet it is about.
fn read_error(frame: &[u8]) -> (u8, u8, Vec<u8>) {
    let ethernet = Ethernet::parse(frame).unwrap();
    let ip = Ipv4::parse(ethernet.payload).unwrap();
    assert_eq!((ip.protocol, ip.dst), (PROTOCOL_ICMP, GUEST_IP));
    assert_eq!(checksum(ip.payload), 0);
    (ip.payload[0], ip.payload[1], ip.payload[8..].to_vec())
}

fn forward(protocol: Protocol, target: Ipv4Addr, port: u16) -> Forward {
    Forward {
        protocol,
        ip: Ipv4Addr::LOCALHOST.into(),
        first: 0,
        last: 0,
        targets: vec![Target {
            host: Host::Address(target.into()),
            port,
        }],
        balance: Balance::RoundRobin,
        health: None,
    }
}

#[test]
fn a_datagram_reaches_the_host_and_its_answer_the_guest() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    for payload in [vec![], vec![1, 2, 3], vec![7; 1472]] {
        lab.send(datagram(40_000, GATEWAY_IP, port, &payload))
            .unwrap();
        let mut buffer = [0; 2000];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..len], payload);
        server.send_to(&buffer[..len], from).unwrap();
        let frames = lab.wait(1);
        let (src, dst, answer) = read(&frames[0]);
        assert_eq!(src, SocketAddrV4::new(GATEWAY_IP, port));
        assert_eq!(dst, SocketAddrV4::new(GUEST_IP, 40_000));
        assert_eq!(answer, payload);
    }
    let view = lab.view();
    assert_eq!((view.flows, view.created), ([0, 1, 0], 1));
    assert_eq!((view.sent, view.received), (1475, 1475));
}

#[test]
fn nobody_is_kept_from_being_heard_by_others_who_are_busy() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    let ports = 40_100..40_108;
    for from in ports.clone() {
        lab.send(datagram(from, GATEWAY_IP, port, b"a")).unwrap();
        let mapping = server.recv_from(&mut [0; 8]).unwrap().1;
        for _ in 0..64 {
            server.send_to(b"much", mapping).unwrap();
        }
    }
    let mut heard = std::collections::BTreeSet::new();
    for _ in 0..4 {
        heard.extend(lab.receive().iter().map(|frame| read(frame).1.port()));
    }
    assert!(ports.eq(heard));
}

#[test]
fn as_many_datagrams_wait_as_come_at_once_at_a_high_rate() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    lab.send(datagram(40_000, GATEWAY_IP, port, b"a")).unwrap();
    let mapping = server.recv_from(&mut [0; 8]).unwrap().1;
    // A millisecond of 2 Gbit/s; a socket of the usual size takes 92 of these.
    let datagrams: u64 = 170;
    for number in 0..datagrams {
        let payload = [number.to_be_bytes().to_vec(), vec![7; 1440]].concat();
        server.send_to(&payload, mapping).unwrap();
    }
    let first = lab.receive();
    assert_eq!(first.len(), SLOTS, "a lone socket has all the room");
    let frames = [first, lab.wait(170 - SLOTS)].concat();
    let heard = frames.iter().map(|frame| read(frame).2);
    let heard = heard.map(|payload| u64::from_be_bytes(*payload.first_chunk().unwrap()));
    assert!(heard.eq(0..datagrams));
}

#[test]
fn a_guests_port_is_the_same_to_everybody() {
    let mut lab = Lab::new(&spec());
    let ((one, first), (other, second)) = (server(), server());
    lab.send(datagram(40_000, GATEWAY_IP, first, b"a")).unwrap();
    lab.send(datagram(40_000, GATEWAY_IP, second, b"b"))
        .unwrap();
    let mut buffer = [0; 8];
    let from = one.recv_from(&mut buffer).unwrap().1;
    assert_eq!(other.recv_from(&mut buffer).unwrap().1, from);
}

#[test]
fn whoever_the_guest_has_not_sent_to_is_not_heard() {
    let mut lab = Lab::new(&spec());
    let ((known, port), (stranger, _)) = (server(), server());
    lab.send(datagram(40_000, GATEWAY_IP, port, b"a")).unwrap();
    let from = known.recv_from(&mut [0; 8]).unwrap().1;
    stranger.send_to(b"unasked", from).unwrap();
    known.send_to(b"asked", from).unwrap();
    let frames = lab.wait(1);
    assert_eq!(frames.len(), 1);
    assert_eq!(read(&frames[0]).2, b"asked");
}

#[test]
fn an_answer_that_is_too_large_comes_in_parts() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    lab.send(datagram(40_000, GATEWAY_IP, port, b"a")).unwrap();
    let from = server.recv_from(&mut [0; 8]).unwrap().1;
    let payload: Vec<u8> = (0..4000u16).map(|i| i.to_le_bytes()[0]).collect();
    server.send_to(&payload, from).unwrap();
    let frames = lab.wait(3);
    let mut datagram = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let ethernet = Ethernet::parse(frame).unwrap();
        assert!(ethernet.payload.len() <= 1500);
        let ip = Ipv4::parse(ethernet.payload).unwrap();
        let bits = u16::from_be_bytes([ethernet.payload[6], ethernet.payload[7]]);
        assert_eq!(usize::from(bits & 0x1fff) * 8, datagram.len());
        assert_eq!(bits & 0x2000 != 0, index < 2, "more follow");
        datagram.extend_from_slice(ip.payload);
    }
    assert_eq!(datagram[8..], payload);
    let whole = ipv4::emit(GATEWAY_IP, GUEST_IP, PROTOCOL_UDP, &datagram).unwrap();
    let ip = Ipv4::parse(&whole).unwrap();
    assert!(Udp::parse(&ip, false).is_some(), "the checksum is right");
}

#[test]
fn a_datagram_in_parts_is_put_together_in_any_order() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    let payload: Vec<u8> = (0..4000u16).map(|i| i.to_le_bytes()[0]).collect();
    let whole = udp::emit((GUEST_IP, 40_000), (GATEWAY_IP, port), &payload).unwrap();
    let mut parts: Vec<_> = (0u16..).zip(whole.chunks(1480)).collect();
    parts.rotate_left(1);
    for (index, part) in parts {
        let frame = with_header(v4(PROTOCOL_UDP, GATEWAY_IP, part), |header| {
            let more = if index < 2 { 0x2000 } else { 0 };
            header[4..6].copy_from_slice(&[1, 2]);
            header[6..8].copy_from_slice(&((index * 185) | more).to_be_bytes());
        });
        lab.send(frame).unwrap();
    }
    let mut buffer = [0; 5000];
    let (len, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..len], payload);
}

#[test]
fn a_port_where_nobody_listens_is_told() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    drop(server);
    lab.send(datagram(40_000, GATEWAY_IP, port, b"hello"))
        .unwrap();
    let frames = lab.wait(1);
    let (kind, code, about) = read_error(&frames[0]);
    assert_eq!((kind, code), (3, 3));
    let ip = Ipv4::parse(&about).unwrap();
    assert_eq!((ip.src, ip.dst), (GUEST_IP, GATEWAY_IP));
    assert_eq!(ip.payload[..2], 40_000u16.to_be_bytes());
    assert_eq!(ip.payload[2..4], port.to_be_bytes());
    lab.send(datagram(40_000, GATEWAY_IP, port, b"again"))
        .unwrap();
    assert_eq!(lab.wait(1).len(), 1, "and told again");
}

#[test]
fn the_hosts_loopback_is_out_of_reach_unless_it_is_wanted() {
    let mut spec = spec();
    spec.nat.map_host_loopback = false;
    let mut lab = Lab::new(&spec);
    let (_server, port) = server();
    let sent = lab.send(datagram(40_000, GATEWAY_IP, port, b"a"));
    assert_eq!(sent, Err(DropReason::Unreachable));
    let (kind, code, _) = read_error(&lab.receive()[0]);
    assert_eq!((kind, code), (3, 3));
    assert_eq!(lab.view().created, 0);
}

#[test]
fn what_must_not_leave_does_not() {
    let mut spec = spec();
    spec.nat.closed = vec!["10.9.0.0/16".parse().unwrap()];
    let mut lab = Lab::new(&spec);
    for ip in [
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [169, 254, 169, 254],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [240, 0, 0, 1],
        [192, 168, 81, 7],
    ] {
        let sent = lab.send(datagram(40_000, ip.into(), 80, b"a"));
        assert_eq!(sent, Err(DropReason::Unreachable), "{ip:?}");
        assert!(lab.receive().is_empty(), "{ip:?}");
    }
    let closed = datagram(40_000, [10, 9, 8, 7].into(), 80, b"a");
    assert_eq!(lab.send(closed), Err(DropReason::Unreachable));
    let (kind, code, _) = read_error(&lab.receive()[0]);
    assert_eq!((kind, code), (3, 13), "a network that is closed is told of");
    assert_eq!(lab.view().created, 0);
}

#[test]
fn a_source_that_is_not_inside_is_refused() {
    let mut lab = Lab::new(&spec());
    let (_server, port) = server();
    for ip in [GATEWAY_IP, [198, 51, 100, 1].into()] {
        let frame = with_header(datagram(40_000, GATEWAY_IP, port, b"a"), |header| {
            header[12..16].copy_from_slice(&ip.octets());
        });
        assert_eq!(lab.send(frame), Err(DropReason::BadSource));
    }
}

#[test]
fn a_packet_that_has_gone_too_far_is_told_of_and_so_is_a_strange_protocol() {
    let mut lab = Lab::new(&spec());
    let far = Ipv4Addr::new(203, 0, 113, 9);
    let last = with_header(datagram(40_000, far, 33_434, b"a"), |header| header[8] = 1);
    assert_eq!(lab.send(last), Err(DropReason::Unreachable));
    let (kind, code, about) = read_error(&lab.receive()[0]);
    assert_eq!((kind, code), (11, 0));
    assert_eq!(about[16..20], far.octets());
    assert_eq!(
        lab.send(v4(132, far, &[0; 12])),
        Err(DropReason::Unreachable)
    );
    let (kind, code, _) = read_error(&lab.receive()[0]);
    assert_eq!((kind, code), (3, 2));
    let error = v4(PROTOCOL_ICMP, far, &[3, 3, 0xfc, 0xfc, 0, 0, 0, 0]);
    assert_eq!(lab.send(error), Err(DropReason::Unreachable));
    assert!(lab.receive().is_empty(), "an error is not answered");
}

#[test]
fn a_mapping_is_forgotten_when_it_is_idle() {
    let mut lab = Lab::new(&spec());
    let (server, port) = server();
    lab.send(datagram(40_000, GATEWAY_IP, port, b"a")).unwrap();
    lab.send(datagram(40_001, GATEWAY_IP, port, b"a")).unwrap();
    lab.advance(Duration::from_secs(200));
    lab.send(datagram(40_001, GATEWAY_IP, port, b"a")).unwrap();
    lab.advance(Duration::from_secs(100));
    assert_eq!(lab.view().flows, [0, 1, 0]);
    let rows = lab.sockets.flows(lab.now);
    assert_eq!(rows[0].inside, SocketAddr::new(GUEST_IP.into(), 40_001));
    assert_eq!(rows[0].idle, Duration::from_secs(100));
    assert_eq!(rows[0].expires, Duration::from_secs(200));
    lab.advance(Duration::from_secs(200));
    let view = lab.view();
    assert_eq!((view.flows, view.created, view.sent), ([0; 3], 2, 3));
    let events = lab.sockets.take_events();
    let created: Vec<bool> = events.iter().map(|event| event.created).collect();
    assert_eq!(created, [true, true, false, false]);
    drop(server);
}

#[test]
fn a_guest_at_its_limit_is_refused_and_others_are_not() {
    let mut spec = spec();
    spec.nat.limits.flows_per_guest = 2;
    let mut lab = Lab::new(&spec);
    let (_server, port) = server();
    for from in [40_000, 40_001] {
        lab.send(datagram(from, GATEWAY_IP, port, b"a")).unwrap();
    }
    let third = datagram(40_002, GATEWAY_IP, port, b"a");
    assert_eq!(lab.send(third.clone()), Err(DropReason::NatLimit));
    lab.send(datagram(40_000, GATEWAY_IP, port, b"a")).unwrap();
    let mut other = third;
    other[6..12].copy_from_slice(&OTHER.0);
    lab.send(other).unwrap();
    assert_eq!(lab.view().refused, 1);
    assert_eq!(lab.sockets.advisories().len(), 1);
}

#[test]
fn a_client_reaches_a_guest_by_a_forwarded_port_and_is_answered() {
    let mut lab = Lab::new(&spec());
    lab.inside
        .note_seen(GUEST_IP.into(), GUEST, lab.now.instant);
    let forward = forward(Protocol::Udp, GUEST_IP, 5000);
    let row = lab.sockets.add_forward(forward, &lab.inside).unwrap();
    assert_ne!(row.listen.port(), 0, "the port that was picked is told");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"hello", row.listen).unwrap();
    let frames = lab.wait(1);
    let (src, dst, payload) = read(&frames[0]);
    assert_eq!(*src.ip(), GATEWAY_IP, "the loopback looks like the gateway");
    assert_eq!(dst, SocketAddrV4::new(GUEST_IP, 5000));
    assert_eq!(payload, b"hello");
    lab.send(datagram(5000, *src.ip(), src.port(), b"welcome"))
        .unwrap();
    let mut buffer = [0; 64];
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"welcome"[..], row.listen));
    let view = lab.view();
    assert_eq!(view.flows, [0, 1, 0]);
    assert_eq!(view.forwards[0].targets[0].connections, 1);
    assert_eq!((view.sent, view.received), (7, 5));
    let flows = lab.sockets.flows(lab.now);
    assert_eq!(flows[0].remote, Some(client.local_addr().unwrap()));
    let (inside, now) = (&lab.inside, lab.now);
    assert!(
        lab.sockets
            .remove_forward(Protocol::Udp, row.listen, inside, now)
    );
    let view = lab.view();
    assert_eq!((view.flows, view.sent, view.received), ([0; 3], 7, 5));
    UdpSocket::bind(row.listen).expect("the port is free again");
}

#[test]
fn a_guest_whose_hardware_address_is_not_known_is_asked_for() {
    let mut lab = Lab::new(&spec());
    let forward = forward(Protocol::Udp, GUEST_IP, 5000);
    let row = lab.sockets.add_forward(forward, &lab.inside).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", row.listen).unwrap();
    let question = Ethernet::parse(&lab.wait(1)[0]).map(|frame| Arp::parse(frame.payload));
    assert_eq!(question.unwrap().unwrap().target_ip, GUEST_IP);
    lab.advance(Duration::from_millis(500));
    assert_eq!(lab.receive().len(), 1, "it is asked for again");
    lab.inside
        .note_seen(GUEST_IP.into(), GUEST, lab.now.instant);
    let frames = lab.receive();
    assert_eq!(read(&frames[0]).2, b"hello");
    assert_eq!(
        lab.sockets.poll_timeout(),
        Some(lab.now.instant + Timeouts::default().udp)
    );
}

#[test]
fn a_port_that_somebody_has_is_told_and_tried_again() {
    let (taken, port) = server();
    let mut spec = spec();
    let mut wanted = forward(Protocol::Udp, GUEST_IP, 5000);
    (wanted.first, wanted.last) = (port, port);
    spec.nat.forwards = vec![wanted.clone()];
    let mut lab = Lab::new(&spec);
    let error = lab.sockets.add_forward(wanted, &lab.inside).unwrap_err();
    let expected = format!(
        "cannot forward udp port 127.0.0.1:{port}: a program of this host listens there already; choose another port, or free this one"
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(lab.view().forwards.len(), 1);
    assert_eq!(lab.view().forwards[0].error, Some(expected.clone()));
    assert_eq!(lab.sockets.advisories(), [expected]);
    drop(taken);
    lab.advance(Duration::from_secs(5));
    assert_eq!(lab.view().forwards[0].error, None);
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_err());
}

#[test]
fn a_range_of_ports_leads_to_a_range() {
    let mut lab = Lab::new(&spec());
    lab.inside
        .note_seen(GUEST_IP.into(), GUEST, lab.now.instant);
    // Some range is free.
    let row = (20_000..30_000).step_by(10).find_map(|first| {
        let mut wanted = forward(Protocol::Udp, GUEST_IP, 5000);
        (wanted.first, wanted.last) = (first, first + 2);
        lab.sockets.add_forward(wanted, &lab.inside).ok()
    });
    let row = row.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let third = SocketAddr::new(row.listen.ip(), row.last);
    client.send_to(b"a", third).unwrap();
    assert_eq!(read(&lab.wait(1)[0]).1.port(), 5002);
}

#[test]
fn what_is_for_the_outside_is_claimed_by_its_head() {
    let lab = Lab::new(&spec());
    let claims = |frame: &[u8]| {
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        let parsed = head.parse().unwrap();
        lab.sockets.claims(&head, &parsed)
    };
    let far = Ipv4Addr::new(203, 0, 113, 9);
    assert!(claims(&datagram(1, far, 2, b"a")));
    assert!(claims(&v4(PROTOCOL_TCP, GATEWAY_IP, &[0; 20])));
    assert!(
        !claims(&datagram(1, GATEWAY_IP, 53, b"a")),
        "a service may have it"
    );
    assert!(!claims(&datagram(1, [192, 168, 81, 7].into(), 2, b"a")));
    assert!(!claims(&datagram(1, [224, 0, 0, 1].into(), 2, b"a")));
    let mut group = datagram(1, far, 2, b"a");
    group[..6].fill(0xff);
    assert!(!claims(&group));
    for len in 14..34 {
        assert!(!claims(&datagram(1, far, 2, b"a")[..len]));
    }
}

#[test]
fn a_ping_of_the_loopback_comes_back_or_operators_are_told_why_not() {
    let mut lab = Lab::new(&spec());
    let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'v', b'm'];
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    match lab.send(v4(PROTOCOL_ICMP, GATEWAY_IP, &echo)) {
        Ok(()) => {
            let frames = lab.wait(1);
            let ip = Ipv4::parse(&frames[0][14..]).unwrap();
            assert_eq!((ip.src, ip.dst), (GATEWAY_IP, GUEST_IP));
            assert_eq!(checksum(ip.payload), 0);
            assert_eq!((ip.payload[0], &ip.payload[4..]), (0, &echo[4..]));
            lab.advance(Timeouts::default().icmp);
            assert_eq!(lab.view().flows, [0; 3]);
        }
        Err(reason) => {
            assert_eq!(reason, DropReason::NatLimit);
            assert!(lab.sockets.advisories()[0].contains("net.ipv4.ping_group_range"));
        }
    }
}

#[test]
fn a_ping_of_ipv6_comes_back() {
    let mut lab = Lab::new(&spec());
    let (guest, own): (IpAddr, IpAddr) = (
        "fd00:81::128".parse().unwrap(),
        "fd00:81::2".parse().unwrap(),
    );
    let stations = crate::net::nat::frames::Stations {
        gateway: GUEST,
        guest: GATEWAY,
    };
    let echo = [128, 0, 0, 0, 0x12, 0x34, 0, 1, b'v', b'm'];
    let frame = crate::net::nat::frames::emit(stations, guest, own, 58, 64, &echo).unwrap();
    if lab.send(frame).is_ok() {
        let frames = lab.wait(1);
        assert_eq!(frames[0][54..56], [129, 0]);
        assert_eq!(frames[0][58..64], echo[4..]);
    }
}

#[test]
fn ipv6_goes_the_same_way() {
    let Ok(server) = UdpSocket::bind("[::1]:0") else {
        return;
    };
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = server.local_addr().unwrap().port();
    let mut lab = Lab::new(&spec());
    let guest: SocketAddr = "[fd00:81::128]:40000".parse().unwrap();
    let own: SocketAddr = format!("[fd00:81::2]:{port}").parse().unwrap();
    let stations = crate::net::nat::frames::Stations {
        gateway: GUEST,
        guest: GATEWAY,
    };
    let send = |lab: &mut Lab, to: SocketAddr, payload: &[u8]| {
        let datagram = crate::net::nat::frames::udp(guest, to, payload).unwrap();
        let frame = crate::net::nat::frames::emit(
            stations,
            guest.ip(),
            to.ip(),
            PROTOCOL_UDP,
            64,
            &datagram,
        );
        lab.send(frame.unwrap())
    };
    send(&mut lab, own, b"hello").unwrap();
    let mut buffer = [0; 64];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"hello");
    server.send_to(&[9; 3000], from).unwrap();
    let frames = lab.wait(3);
    let lens: Vec<usize> = frames.iter().map(Vec::len).collect();
    assert_eq!(lens.iter().sum::<usize>(), 3 * (14 + 40 + 8) + 8 + 3000);
    assert!(frames.iter().all(|frame| frame.len() <= 1514));
    drop(server);
    send(&mut lab, own, b"hello").unwrap();
    let error = &lab.wait(1)[0];
    assert_eq!((error[20], error[54..56].to_vec()), (58, vec![1, 4]));
}

#[test]
fn streams_carry_messages_after_their_lengths() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let mut spec = spec();
    spec.streams = true;
    let mut lab = Lab::new(&spec);
    let guest: SocketAddr = "192.168.81.128:40000".parse().unwrap();
    let dns = SocketAddr::new(GATEWAY_IP.into(), 53);
    let dial::Dial::Connected(outer) = lab.sockets.dialer.dial(GUEST, guest, dns) else {
        panic!("a local stream is there at once");
    };
    let mut outer = UnixStream::from(outer);
    outer.write_all(&[0, 3, 1, 2, 3, 0, 2, 4]).unwrap();
    lab.receive();
    lab.receive();
    let messages = lab.sockets.take_messages();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].1, &messages[0].2), (guest, &vec![1, 2, 3]));
    outer.write_all(&[5]).unwrap();
    lab.receive();
    assert_eq!(lab.sockets.take_messages()[0].2, [4, 5]);
    lab.sockets.send_message(messages[0].0, b"yes");
    let mut answer = [0; 5];
    outer.set_nonblocking(false).unwrap();
    outer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\0\x03yes");
    lab.sockets.send_message(77, b"to nobody");
    lab.advance(Duration::from_secs(10));
    assert_eq!(
        outer.read(&mut answer).unwrap(),
        0,
        "an idle stream is closed"
    );
    let opens = |lab: &Lab, last: u8| {
        let mac = MacAddr([2, 0, 0, 0, 1, last]);
        let dialled = lab.sockets.dialer.dial(mac, guest, dns);
        matches!(dialled, dial::Dial::Connected(_))
    };
    let opened = |lab: &Lab, last| (0..100).take_while(|_| opens(lab, last)).count();
    let counts: Vec<usize> = (0..9).map(|last| opened(&lab, last)).collect();
    assert_eq!(counts, [32, 32, 32, 32, 32, 32, 32, 32, 0]);
    lab.receive();
    lab.advance(Duration::from_secs(10));
    assert!(opens(&lab, 9), "those that have ended do not count");
}
