//! Guests that send anything at all, while an honest one beside them talks with the host: nothing may break, nothing of
//! the honest one's may be lost, and nothing may be left over.
//!
//! Frames are made by the dozen, from ones that make sense by changing bytes, lengths and flags, cutting and repeating,
//! always the same from the same seed. `VMLAN_STORM_SECONDS` has it go on for longer than a moment, `VMLAN_STORM_SEED`
//! has other frames be made.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says with which seed it began"
)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use vmlan::net::Now;
use vmlan::net::frame::Head;
use vmlan::net::gateway::{self, Gateway, Replies, ServiceSpec};
use vmlan::net::inside::Inside;
use vmlan::net::nat::forward::{Balance, Forward, Health, Host, Target};
use vmlan::net::nat::frames::Stations;
use vmlan::net::nat::{self, Filtering, Gateways, Limits, Outside, Protocol, Timeouts, segments};
use vmlan::net::offload::{self, Capabilities};
use vmlan::net::packet::Packet;
use vmlan::net::tcp::{Config, Endpoint, Outcome, Seq};
use vmlan::net::vlan::TagAction;
use vmlan::net::{address, dhcp, dhcp6, dns, inside, nat::health, router_advertisement};
use vmlan::ports::burst::Burst;
use vmlan::ports::sockets::{Sockets, Spec};
use vmlan::wire::arp::{self, Arp};
use vmlan::wire::checksum::checksum;
use vmlan::wire::dns::{Name, Writer};
use vmlan::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr};
use vmlan::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use vmlan::wire::ipv6::{Ipv6, NEXT_HEADER_ICMPV6};
use vmlan::wire::tcp::{Flags, Tcp};
use vmlan::wire::udp::{self, Udp};
use vmlan::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM, VirtioNetHeader};

#[path = "storm/router.rs"]
mod router;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const HONEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOSTILE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x81, 0, 0, 0, 0, 0, 2);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const HONEST_PORT: u16 = 41_000;
/// How much is on its way to the honest guest's server and back at most.
const WINDOW: usize = 100_000;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Storms count the process's descriptors, and so go one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn guest_v4(mac: MacAddr) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 81, 128 + mac.0[5])
}

fn guest_v6(mac: MacAddr) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x81, 0, 0, 0, 0, 0, 0x80 + u16::from(mac.0[5]))
}

fn duration() -> Duration {
    let seconds = std::env::var("VMLAN_STORM_SECONDS").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.5))
}

/// Numbers that look random, always the same from the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("VMLAN_STORM_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("VMLAN_STORM_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn word(&mut self) -> u16 {
        let [a, b, ..] = self.next().to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, limit: usize) -> Vec<u8> {
        let len = self.below(limit);
        (0..len).map(|_| self.byte()).collect()
    }

    /// A length or number that is more likely to be at an edge.
    fn edge(&mut self) -> u16 {
        match self.below(4) {
            0 => self.pick(&[0, 1, 7, 8, 19, 20, 39, 40, 1500, 0x7fff, 0x8000, 0xffff]),
            1 => self.word() & 0xff,
            _ => self.word(),
        }
    }
}

/// Makes the checksum of an IPv4 header right, if there is one.
fn sum_header(frame: &mut [u8]) {
    if frame.get(12..14) != Some(&ETHERTYPE_IPV4.to_be_bytes()) {
        return;
    }
    let len = frame.get(14).map_or(0, |first| usize::from(first & 15) * 4);
    if let Some(header) = frame.get_mut(14..14 + len)
        && len >= 20
    {
        header[10..12].fill(0);
        let sum = checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Ports of the host that frames of guests may reach.
#[derive(Clone, Copy)]
struct Servers {
    tcp: u16,
    udp: u16,
    nobody: u16,
}

/// Where frames come from and where they go.
#[derive(Clone, Copy)]
struct Place {
    /// Hardware addresses: from, to.
    stations: (MacAddr, MacAddr),
    /// Sources; the last is somebody else's.
    from: ([Ipv4Addr; 3], [Ipv6Addr; 3]),
    /// Destinations, and any other.
    to: ([Ipv4Addr; 2], [Ipv6Addr; 3]),
}

impl Place {
    /// A hostile guest's, behind the gateway.
    fn inside() -> Self {
        let of = [HOSTILE, HOSTILE, HONEST];
        Self {
            stations: (HOSTILE, GATEWAY),
            from: (of.map(guest_v4), of.map(guest_v6)),
            to: ([GATEWAY_V4; 2], [GATEWAY_V6, GATEWAY_V6, LINK_LOCAL]),
        }
    }
}

/// Makes frames that make little sense.
struct Storm {
    dice: Dice,
    servers: Servers,
    place: Place,
}

impl Storm {
    fn v4(&mut self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let Place { stations, from, to } = self.place;
        let src = self.dice.pick(&from.0);
        let far = Ipv4Addr::from(self.dice.long());
        let dst = self.dice.pick(&[to.0[0], to.0[1], far]);
        let packet = ipv4::emit(src, dst, protocol, payload).unwrap();
        ethernet::emit(stations.1, stations.0, ETHERTYPE_IPV4, &packet)
    }

    fn v6(&mut self, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let Place { stations, from, to } = self.place;
        let src = self.dice.pick(&from.1);
        let far = Ipv6Addr::from(u128::from(self.dice.next()) << 64 | 1 << 125);
        let dst = self.dice.pick(&[to.1[0], to.1[1], to.1[2], far]);
        let packet = Ipv6 {
            src,
            dst,
            next_header,
            hop_limit: self.dice.pick(&[0, 1, 2, 64, 255]),
            payload,
        };
        ethernet::emit(
            stations.1,
            stations.0,
            ETHERTYPE_IPV6,
            &packet.emit().unwrap(),
        )
    }

    fn ip(&mut self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        if self.dice.one_in(3) {
            let protocol = if protocol == PROTOCOL_ICMP {
                NEXT_HEADER_ICMPV6
            } else {
                protocol
            };
            let (mut first, mut extended) = (protocol, Vec::new());
            for _ in 0..self.dice.below(4) * self.dice.below(2) * self.dice.below(4) {
                let kind = self.dice.pick(&[0, 43, 44, 60, 51, 59]);
                let mut header = vec![first, 0, 1, 4, 0, 0, 0, 0];
                if kind == 44 {
                    header[2..4].copy_from_slice(&self.dice.edge().to_be_bytes());
                    header[7] = self.dice.byte() & 3;
                } else if self.dice.one_in(4) {
                    header[1] = self.dice.byte();
                }
                header.append(&mut extended);
                (extended, first) = (header, kind);
            }
            extended.extend_from_slice(payload);
            return self.v6(first, &extended);
        }
        let mut frame = self.v4(protocol, payload);
        if self.dice.one_in(6) {
            // A part of a packet, which may overlap others.
            let place = self.dice.pick(&[0, 0x2000, 1, 0x2001, 2, 0x2002, 0x3fff]);
            let bits = place | self.dice.word() & 0x8003;
            frame[18..20].copy_from_slice(&[0, self.dice.byte() & 3]);
            frame[20..22].copy_from_slice(&bits.to_be_bytes());
        }
        if self.dice.one_in(10) {
            frame[22] = self.dice.pick(&[0, 1, 2]);
        }
        sum_header(&mut frame);
        frame
    }

    fn segment(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        for _ in 0..self.dice.below(6) * self.dice.below(2) {
            let kind = self.dice.pick(&[0, 1, 2, 3, 4, 5, 8, 30, 34, 254]);
            let len = self.dice.pick(&[0, 1, 2, 3, 4, 10, 18, 34, 255]);
            options.extend([kind, len]);
            let data = self.dice.bytes(20);
            options.extend(data);
        }
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let ports = [self.servers.tcp, self.servers.nobody, 53];
        let (src, dst) = (self.dice.pick(&[HONEST_PORT, 1, 2]), self.dice.pick(&ports));
        let mut segment = Vec::new();
        segment.extend(src.to_be_bytes());
        segment.extend(dst.to_be_bytes());
        segment.extend(self.dice.next().to_be_bytes());
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        let flags = self.dice.pick(&[2, 2, 2, 16, 17, 4, 20, 18, 24, 0, 63, 3]);
        segment.extend([words << 4, flags]);
        segment.extend(self.dice.edge().to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        let data = self.dice.bytes(300);
        segment.extend(data);
        self.ip(PROTOCOL_TCP, &segment)
    }

    fn datagram(&mut self) -> Vec<u8> {
        let ports = [self.servers.udp, self.servers.nobody, 53, 67, 547];
        let (src, dst) = (
            self.dice.pick(&[HONEST_PORT, 0, 68, 53, 7]),
            self.dice.pick(&ports),
        );
        let src = if self.dice.one_in(20) {
            self.dice.word()
        } else {
            src
        };
        let payload = match dst {
            53 => self.question(),
            _ => self.dice.bytes(400),
        };
        let mut len = u16::try_from(payload.len() + 8).unwrap();
        if self.dice.one_in(5) {
            len = self.dice.edge();
        }
        let fields = [src, dst, len, 0].map(u16::to_be_bytes).concat();
        self.ip(PROTOCOL_UDP, &[fields, payload].concat())
    }

    fn question(&mut self) -> Vec<u8> {
        let name = Name::new(
            self.dice
                .pick(&["a.example.com", "web.lan", "b.example.org"]),
        );
        let kind = self.dice.pick(&[1, 28, 12, 255, 41, 252, 64]);
        let question = [name.unwrap().as_bytes(), &[0, kind, 0, 1]].concat();
        Writer::new(self.dice.word(), 0x0100, &question).finish()
    }

    fn control(&mut self) -> Vec<u8> {
        let kind = self
            .dice
            .pick(&[0, 3, 4, 5, 8, 11, 12, 13, 128, 129, 1, 2, 133, 135, 136]);
        let mut message = vec![kind, self.dice.pick(&[0, 0, 1, 3, 4, 200]), 0, 0];
        message.extend(self.dice.next().to_be_bytes());
        // Most errors are about something that could be somebody's.
        let about = self.v4(PROTOCOL_TCP, &[9; 28]);
        message.extend_from_slice(&about[14..]);
        let len = self.dice.pick(&[4, 7, 8, 20, 40, message.len()]);
        message.truncate(len);
        let data = self.dice.bytes(100);
        message.extend(data);
        if self.dice.one_in(2) {
            message[2..4].fill(0);
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        self.ip(PROTOCOL_ICMP, &message)
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.dice.below(10) {
            0..=3 => self.segment(),
            4..=6 => self.datagram(),
            7 | 8 => self.control(),
            _ => {
                let protocol = self.dice.byte();
                let payload = self.dice.bytes(200);
                self.ip(protocol, &payload)
            }
        };
        self.mutate(&mut frame);
        frame
    }

    /// Changes a frame behind its Ethernet header, more often where headers are.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..self.dice.below(4) {
            let len = frame.len();
            match self.dice.below(8) {
                0..=2 => {
                    let at = 14 + self.dice.below((len - 14).min(90));
                    frame[at] = self.dice.byte();
                }
                3 => {
                    let at = 14 + self.dice.below((len - 14).min(90));
                    frame[at] ^= 1 << self.dice.below(8);
                }
                4 => frame.truncate(14 + self.dice.below(len - 13)),
                5 if len > 40 => {
                    let at = self.dice.pick(&[16, 18, 38, 20]);
                    frame[at..at + 2].copy_from_slice(&self.dice.edge().to_be_bytes());
                }
                6 => {
                    let more = self.dice.bytes(60);
                    frame.extend(more);
                }
                _ => {}
            }
            if frame.len() < 20 {
                break;
            }
        }
        if !self.dice.one_in(8) {
            sum_header(frame);
        }
    }

    fn offload(&mut self, frame: &[u8]) -> VirtioNetHeader {
        match self.dice.below(6) {
            0 => VirtioNetHeader {
                flags: self.dice.pick(&[0, 1, 2, 3]),
                gso_type: self.dice.pick(&[0, 0, 1, 4, 3, 0x81]),
                hdr_len: self.dice.edge(),
                gso_size: self.dice.edge(),
                csum_start: self.dice.pick(&[0, 14, 34, 54, 62, 0xffff]),
                csum_offset: self.dice.pick(&[0, 6, 16, 0xffff]),
            },
            1 if frame.get(23) == Some(&PROTOCOL_TCP) => VirtioNetHeader {
                flags: NEEDS_CSUM,
                gso_type: GSO_TCPV4,
                hdr_len: 54,
                gso_size: 600,
                csum_start: 34,
                csum_offset: 16,
            },
            _ => VirtioNetHeader {
                flags: NEEDS_CSUM,
                csum_start: 34,
                csum_offset: 0,
                ..VirtioNetHeader::default()
            },
        }
    }
}

/// Has a packet that would reach some program of the host's reach one of the test's instead.
fn tame(frame: &mut [u8], offload: VirtioNetHeader, servers: Servers) {
    let mut head = Head::default();
    head.fill(frame, offload);
    let Ok(packet) = head.parse().and_then(|parsed| Packet::read(&head, &parsed)) else {
        return;
    };
    let (known, other): (&[u16], u16) = match packet.protocol {
        PROTOCOL_TCP => (&[servers.tcp, servers.nobody, 53], servers.tcp),
        PROTOCOL_UDP => (&[servers.udp, servers.nobody, 53, 67, 547], servers.udp),
        _ => return,
    };
    let at = packet.transport_at + 2;
    if let Some(port) = frame.get_mut(at..at + 2)
        && !known.contains(&u16::from_be_bytes([port[0], port[1]]))
    {
        port.copy_from_slice(&other.to_be_bytes());
    }
}

fn config(iss: u32) -> Config {
    Config {
        iss: Seq(iss),
        mss: 1440,
        default_mss: 536,
    }
}

/// An end of a TCP connection, as a guest has it.
struct Peer {
    stations: Stations,
    endpoint: Endpoint,
    own: SocketAddr,
    remote: SocketAddr,
    out: Vec<u8>,
    got: Vec<u8>,
    broken: bool,
}

impl Peer {
    fn connect(mac: MacAddr, own: SocketAddr, remote: SocketAddr, iss: u32, now: Instant) -> Self {
        let stations = Stations {
            gateway: mac,
            guest: GATEWAY,
        };
        let endpoint = Endpoint::connect(config(iss), now);
        Self::new(stations, endpoint, own, remote)
    }

    fn new(
        stations: Stations,
        mut endpoint: Endpoint,
        own: SocketAddr,
        remote: SocketAddr,
    ) -> Self {
        endpoint.set_room(200_000);
        Self {
            stations,
            endpoint,
            own,
            remote,
            out: Vec::new(),
            got: Vec::new(),
            broken: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.endpoint.set_queued(self.out.len());
    }

    fn take(&mut self, tcp: &Tcp, payload: &[u8], now: Instant) {
        let arrival = self.endpoint.handle(tcp, payload.len(), now);
        self.out.drain(..arrival.acked);
        if let Some(range) = arrival.offer {
            self.got.extend_from_slice(&payload[range.clone()]);
            self.endpoint.take(range.len());
        }
        self.broken |= arrival.outcome == Some(Outcome::Reset);
        self.endpoint.set_room(200_000);
    }

    /// The frames that it sends now, changed by `change`.
    fn frames(
        &mut self,
        now: Instant,
        mut change: impl FnMut(&mut Tcp),
    ) -> Vec<(Vec<u8>, VirtioNetHeader)> {
        let timeouts = Timeouts::default();
        let due = self.endpoint.poll_timeout(&timeouts);
        if due.is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now, &timeouts);
        }
        let mut frames = Vec::new();
        while let Some(transmit) = self.endpoint.poll(now) {
            let mut tcp = Tcp {
                src: self.own.port(),
                dst: self.remote.port(),
                ..transmit.tcp
            };
            change(&mut tcp);
            let payload = &self.out[transmit.range];
            let ips = (self.own.ip(), self.remote.ip());
            let mut head = Head::default();
            segments::fill(
                &mut head,
                self.stations,
                ips,
                &tcp,
                payload.len(),
                transmit.mss,
            )
            .unwrap();
            frames.push(([head.bytes(), payload].concat(), head.offload));
        }
        frames
    }
}

fn gateways() -> Gateways {
    Gateways {
        v4: Some((GATEWAY_V4, "192.168.81.0/24".parse().unwrap())),
        v6: Some((GATEWAY_V6, "fd00:81::/64".parse().unwrap())),
        link_local: Some(LINK_LOCAL),
    }
}

fn forward(protocol: Protocol) -> Forward {
    Forward {
        protocol,
        ip: Ipv4Addr::LOCALHOST.into(),
        first: 0,
        last: 0,
        targets: vec![Target {
            host: Host::Address(guest_v4(HOSTILE).into()),
            port: 7,
        }],
        balance: Balance::RoundRobin,
        health: None,
    }
}

/// Programs of the host that send back what they get, without waiting.
struct Echo {
    listener: TcpListener,
    udp: UdpSocket,
    streams: Vec<(TcpStream, Vec<u8>, bool)>,
}

impl Echo {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self {
            listener,
            udp,
            streams: Vec::new(),
        }
    }

    fn step(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            self.streams.push((stream, Vec::new(), true));
        }
        let mut bytes = [0; 65_536];
        for _ in 0..64 {
            let Ok((len, from)) = self.udp.recv_from(&mut bytes) else {
                break;
            };
            let _ = self.udp.send_to(&bytes[..len], from);
        }
        self.streams.retain_mut(|(stream, waiting, open)| {
            if *open && waiting.len() < WINDOW {
                match stream.read(&mut bytes) {
                    Ok(0) => *open = false,
                    Ok(len) => waiting.extend_from_slice(&bytes[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return false,
                }
            }
            match stream.write(waiting) {
                Ok(len) => drop(waiting.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            *open || !waiting.is_empty()
        });
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A network with its sockets, an honest guest and a hostile one.
struct Lab {
    sockets: Sockets,
    inside: Inside,
    echo: Echo,
    storm: Storm,
    honest: Peer,
    hostile: BTreeMap<u16, Peer>,
    /// By how much the clock is ahead.
    ahead: Duration,
    wall: SystemTime,
    /// What the honest guest has sent, and how much of what came back was as it should be.
    written: u64,
    verified: u64,
    /// The honest guest's question over UDP, if it waits for an answer, and since when.
    asked: Option<(u64, Instant)>,
    answered: u64,
    /// The honest guest begins nothing more.
    quiet: bool,
    frames: u64,
    drops: u64,
}

impl Lab {
    fn new() -> Self {
        let echo = Echo::new();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let servers = Servers {
            tcp: echo.listener.local_addr().unwrap().port(),
            udp: echo.udp.local_addr().unwrap().port(),
            nobody: nobody.local_addr().unwrap().port(),
        };
        drop(nobody);
        let wall = SystemTime::now();
        let now = Now {
            instant: Instant::now(),
            wall,
        };
        let spec = Spec {
            nat: nat::Spec {
                gateways: gateways(),
                outside: Outside::Host,
                forwards: Vec::new(),
                filtering: Filtering::default(),
                timeouts: Timeouts::default(),
                limits: Limits {
                    flows: 600,
                    flows_per_guest: 400,
                },
                // Nothing leaves this host.
                closed: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
                map_host_loopback: true,
                ftp: false,
                log: true,
            },
            mac: GATEWAY,
            mtu: 1500,
            transit: true,
            streams: true,
            seed: 1,
        };
        let own = SocketAddr::new(guest_v4(HONEST).into(), HONEST_PORT);
        let remote = SocketAddr::new(GATEWAY_V4.into(), servers.tcp);
        Self {
            sockets: Sockets::open(&spec, now).unwrap(),
            inside: Inside::new(inside::Spec {
                vms: Vec::new(),
                reservations: vec![(HOSTILE, guest_v4(HOSTILE), None)],
            }),
            echo,
            storm: Storm {
                dice: Dice::new(),
                servers,
                place: Place::inside(),
            },
            honest: Peer::connect(HONEST, own, remote, 7, now.instant),
            hostile: BTreeMap::new(),
            ahead: Duration::ZERO,
            wall,
            written: 0,
            verified: 0,
            asked: None,
            answered: 0,
            quiet: false,
            frames: 0,
            drops: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::now() + self.ahead,
            wall: self.wall + self.ahead,
        }
    }

    /// Hands over a burst of frames, as the switch would.
    fn hand_over(&mut self, frames: Vec<(Vec<u8>, VirtioNetHeader)>) {
        let now = self.now();
        for frames in frames.chunks(64) {
            let mut burst = Burst::default();
            for (frame, offload) in frames {
                let (mut frame, offload) = (frame.clone(), *offload);
                tame(&mut frame, offload, self.storm.servers);
                burst.push_owned(frame, offload);
            }
            for index in 0..burst.len() {
                self.frames += 1;
                if offload::check(&mut burst.frames_mut()[index].head, 1500).is_err() {
                    continue;
                }
                let frame = &burst.frames()[index];
                let Ok(parsed) = frame.head.parse() else {
                    continue;
                };
                let claimed = self.sockets.claims(&frame.head, &parsed);
                if !claimed && !self.sockets.may_take(&parsed) {
                    continue;
                }
                let sent = self.sockets.gather(&burst, frame, &self.inside, now);
                self.drops += u64::from(sent.is_err());
            }
            self.sockets.flush(&burst);
        }
    }

    /// Has the honest guest say something, and check what it hears.
    fn be_honest(&mut self) {
        let now = self.now().instant;
        let counted = |at: u64| (at % 251).to_le_bytes()[0];
        let got = std::mem::take(&mut self.honest.got);
        for byte in got {
            assert_eq!(byte, counted(self.verified), "byte {}", self.verified);
            self.verified += 1;
        }
        assert!(!self.honest.broken, "the honest connection was broken");
        let ahead = self.written - self.verified;
        if !self.quiet && self.honest.endpoint.is_open() && ahead < WINDOW as u64 {
            let len = 1 + self.storm.dice.below(20_000) as u64;
            let bytes: Vec<u8> = (self.written..self.written + len).map(counted).collect();
            self.honest.write(&bytes);
            self.written += len;
        }
        let mut frames = self.honest.frames(now, |_| {});
        if self.asked.is_none() && !self.quiet && self.storm.dice.one_in(2) {
            let number = self.answered + 1;
            self.asked = Some((number, Instant::now()));
            let (src, dst) = (guest_v4(HONEST), GATEWAY_V4);
            let port = self.storm.servers.udp;
            let datagram = udp::emit((src, HONEST_PORT), (dst, port), &number.to_be_bytes());
            let packet = ipv4::emit(src, dst, PROTOCOL_UDP, &datagram.unwrap()).unwrap();
            let frame = ethernet::emit(GATEWAY, HONEST, ETHERTYPE_IPV4, &packet);
            frames.push((frame, VirtioNetHeader::default()));
        }
        let patient = self
            .asked
            .is_none_or(|(_, since)| since.elapsed() < PATIENCE);
        assert!(patient, "a datagram was not answered");
        self.hand_over(frames);
    }

    /// Has the hostile guest send frames, some of them of connections that are almost in order.
    fn be_hostile(&mut self) {
        let now = self.now().instant;
        let count = self.storm.dice.below(64);
        let mut frames = Vec::new();
        for _ in 0..count {
            let frame = self.storm.frame();
            let offload = self.storm.offload(&frame);
            frames.push((frame, offload));
        }
        if self.hostile.len() < 20 {
            let port = 20_000 + self.storm.dice.word() % 200;
            let v6 = self.storm.dice.one_in(3);
            let (own, remote): (IpAddr, IpAddr) = match v6 {
                false => (guest_v4(HOSTILE).into(), GATEWAY_V4.into()),
                true => (guest_v6(HOSTILE).into(), GATEWAY_V6.into()),
            };
            let servers = self.storm.servers;
            // Nobody listens on the loopback of IPv6, but for DNS.
            let to = if v6 { 53 } else { servers.tcp };
            let to = self.storm.dice.pick(&[to, to, 53, servers.nobody]);
            let iss = self.storm.dice.long();
            let (own, remote) = (SocketAddr::new(own, port), SocketAddr::new(remote, to));
            let peer = Peer::connect(HOSTILE, own, remote, iss, now);
            self.hostile.insert(port, peer);
        }
        let dice = &mut self.storm.dice;
        for peer in self.hostile.values_mut() {
            if peer.endpoint.is_open() && peer.out.len() < 20_000 {
                let bytes = dice.bytes(4000);
                peer.write(&bytes);
            }
            if dice.one_in(30) {
                peer.endpoint.close();
            }
            let own = peer.frames(now, |tcp| {
                if !dice.one_in(5) {
                    return;
                }
                let near = |dice: &mut Dice, at: u32| {
                    let off = i32::from(dice.word().cast_signed());
                    at.wrapping_add_signed(off >> dice.below(16))
                };
                match dice.below(6) {
                    0 => tcp.seq = near(dice, tcp.seq),
                    1 => tcp.ack = near(dice, tcp.ack),
                    2 => tcp.window = dice.edge(),
                    3 => tcp.flags = Flags(dice.byte() & 0x3f),
                    4 => {
                        for _ in 0..3 {
                            let (from, to) = (near(dice, tcp.ack), near(dice, tcp.ack));
                            tcp.options.sack.push((from, to));
                        }
                    }
                    _ => {
                        tcp.options.mss = Some(dice.edge());
                        tcp.options.window_scale = Some(dice.byte() % 15);
                    }
                }
            });
            for frame in own {
                let at = dice.below(frames.len() + 1);
                frames.insert(at, frame);
            }
        }
        let gone = self.storm.dice.below(2000);
        self.hostile.retain(|port, peer| {
            !peer.broken && !peer.endpoint.is_closed() && usize::from(*port) % 2000 != gone
        });
        self.hand_over(frames);
    }

    /// Takes what the sockets have for guests; the hostile one's ring refuses some of it.
    fn receive(&mut self) {
        let now = self.now();
        if self
            .sockets
            .poll_timeout()
            .is_some_and(|at| at <= now.instant)
        {
            self.sockets.handle_timeout(&self.inside, now);
        }
        self.echo.step();
        for (stream, _, message) in self.sockets.take_messages() {
            self.sockets.send_message(stream, &message);
        }
        let mut burst = Burst::default();
        self.sockets.receive(&mut burst, &self.inside, now);
        let (mut refused, mut frames) = (0, Vec::new());
        for (index, frame) in burst.frames().iter().enumerate() {
            let mut copy = Vec::new();
            let header = burst.copy_frame(frame, TagAction::Keep, &mut copy);
            assert_eq!(copy.len(), frame.head.frame_len as usize);
            if copy[..6] == HOSTILE.0 && self.storm.dice.one_in(10) {
                refused |= 1 << index;
                continue;
            }
            offload::finish(
                &mut copy,
                header,
                Capabilities::default(),
                |_, head, body| {
                    frames.push([head, body].concat());
                    Ok(())
                },
            )
            .unwrap();
            if frames.is_empty() {
                frames.push(copy);
            }
            for frame in frames.drain(..) {
                self.deliver(&frame, now.instant);
            }
        }
        self.sockets.refused(refused);
        burst.clear();
        self.sockets.release();
        self.sockets.take_events();
    }

    /// Gives a guest a frame. The honest one gets nothing but what it waits for.
    fn deliver(&mut self, bytes: &[u8], now: Instant) {
        let mut head = Head::default();
        head.fill(bytes, VirtioNetHeader::default());
        let parsed = head.parse().unwrap();
        assert_eq!(parsed.src, GATEWAY);
        if parsed.dst != HONEST && parsed.dst != HOSTILE {
            return;
        }
        let packet = Packet::read(&head, &parsed).unwrap();
        let honest = parsed.dst == HONEST;
        if packet.fragment.is_some() {
            assert!(!honest);
            return;
        }
        if packet.protocol == PROTOCOL_TCP {
            let (tcp, len) = Tcp::parse(&bytes[packet.transport_at..]).unwrap();
            let payload = &bytes[packet.transport_at + len..packet.end];
            let own = SocketAddr::new(packet.dst, tcp.dst);
            let peer = match honest {
                true => Some(&mut self.honest),
                false => self.hostile.get_mut(&tcp.dst),
            };
            let peer = peer.filter(|peer| peer.own == own && peer.remote.port() == tcp.src);
            assert!(!honest || peer.is_some(), "{tcp:?}");
            if let Some(peer) = peer {
                peer.take(&tcp, payload, now);
            }
            return;
        }
        if honest {
            let ethernet = Ethernet::parse(bytes).unwrap();
            let ip = Ipv4::parse(ethernet.payload).unwrap();
            let udp = Udp::parse(&ip, false).expect("the honest guest is told of no errors");
            assert_eq!((ip.src, ip.dst), (GATEWAY_V4, guest_v4(HONEST)));
            assert_eq!(
                (udp.src, udp.dst),
                (self.storm.servers.udp, HONEST_PORT),
                "not asked for"
            );
            let (number, _) = self.asked.take().expect("nothing was asked");
            assert_eq!(udp.payload, number.to_be_bytes());
            self.answered = number;
        }
    }
}

#[test]
fn an_honest_guest_does_not_notice_what_another_sends_to_the_sockets() {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = descriptors();
    let mut lab = Lab::new();
    let forwards = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let row = lab.sockets.add_forward(forward(protocol), &lab.inside);
        row.unwrap().listen
    });
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(forwards[1]).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut clients = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration() {
        lab.be_honest();
        lab.be_hostile();
        let dice = &mut lab.storm.dice;
        if dice.one_in(10) {
            let bytes = dice.bytes(2000);
            let _ = client.send(&bytes);
        }
        if dice.one_in(50) {
            clients.truncate(3);
            let stream = TcpStream::connect(forwards[0]).unwrap();
            clients.insert(0, stream);
        }
        lab.receive();
        if lab.asked.is_none() && lab.storm.dice.one_in(100) {
            lab.ahead += Duration::from_secs(lab.storm.dice.pick(&[1, 40, 400]));
        }
    }
    drop(clients);
    // What was said is heard to the end.
    lab.quiet = true;
    let since = Instant::now();
    while lab.verified < lab.written || lab.asked.is_some() {
        assert!(
            since.elapsed() < PATIENCE,
            "{} of {}",
            lab.verified,
            lab.written
        );
        lab.be_honest();
        lab.receive();
    }
    println!(
        "{} frames, {} dropped, {} flows; the honest guest exchanged {} bytes and {} datagrams",
        lab.frames,
        lab.drops,
        lab.sockets.view(&lab.inside, lab.now()).created,
        lab.verified,
        lab.answered
    );
    assert!(lab.verified > 0 && lab.answered > 0);
    // When nobody says any more, nothing is left.
    lab.echo.streams.clear();
    for (protocol, listen) in [Protocol::Tcp, Protocol::Udp].into_iter().zip(forwards) {
        let now = lab.now();
        assert!(
            lab.sockets
                .remove_forward(protocol, listen, &lab.inside, now)
        );
    }
    for _ in 0..400 {
        lab.ahead += Duration::from_secs(60);
        let now = lab.now();
        lab.sockets.handle_timeout(&lab.inside, now);
        let mut burst = Burst::default();
        lab.sockets.receive(&mut burst, &lab.inside, now);
        burst.clear();
        lab.sockets.release();
    }
    let view = lab.sockets.view(&lab.inside, lab.now());
    assert_eq!(view.flows, [0; 3], "{:#?}", lab.sockets.flows(lab.now()));
    assert_eq!(lab.sockets.poll_timeout(), None);
    drop((lab, client));
    assert_eq!(descriptors(), before);
}

fn services(now: Now) -> Vec<ServiceSpec> {
    let hour = Duration::from_secs(3600);
    let probe = health::Probe {
        host: Host::Address(guest_v4(HOSTILE).into()),
        port: 7,
        health: Health::default(),
    };
    let prefix = "fd00:81::/64".parse().unwrap();
    vec![
        ServiceSpec::Address(address::Spec {
            ip: GATEWAY_V4,
            v6: Some(GATEWAY_V6),
            link_local: Some(LINK_LOCAL),
        }),
        ServiceSpec::RouterAdvertisement(Box::new(router_advertisement::Spec {
            prefix,
            link_local: LINK_LOCAL,
            mtu: 1500,
            dns: vec![GATEWAY_V6],
            search: Vec::new(),
            managed: true,
            other: true,
            autonomous: true,
            router_lifetime: hour,
            valid: hour,
            preferred: hour,
            min_interval: Duration::from_secs(200),
            max_interval: Duration::from_secs(600),
        })),
        ServiceSpec::Dhcp(Box::new(dhcp::Spec {
            subnet: "192.168.81.0/24".parse().unwrap(),
            server: GATEWAY_V4,
            pool: Ipv4Addr::new(192, 168, 81, 140)..=Ipv4Addr::new(192, 168, 81, 250),
            lease: hour,
            max_lease: hour,
            renew: None,
            rebind: None,
            routers: vec![GATEWAY_V4],
            dns: vec![GATEWAY_V4],
            ntp: Vec::new(),
            domain: Some("lan".to_owned()),
            search: Vec::new(),
            mtu: None,
            routes: Vec::new(),
            vendor: None,
            next_server: None,
            tftp_server: None,
            boot_file: None,
            options: Vec::new(),
            identity: dhcp::Identity::Mac,
            reservations: Vec::new(),
            restored: vec![dhcp::Record {
                ip: Ipv4Addr::new(192, 168, 81, 141),
                state: dhcp::State::Bound,
                mac: HONEST,
                client_id: None,
                hostname: Some("honest".to_owned()),
                ends: now.wall + hour * 1000,
            }],
        })),
        ServiceSpec::Dns(Box::new(dns::Spec {
            gateways: gateways(),
            domain: Some("lan".to_owned()),
            host: Vec::new(),
            hosts: vec![("web.lan".to_owned(), vec![GATEWAY_V4.into()])],
            forward: true,
            servers: dns::Servers::Listed(vec!["127.0.0.1:1".parse().unwrap()]),
        })),
        ServiceSpec::Dhcp6(Box::new(dhcp6::Spec {
            prefix,
            server: LINK_LOCAL,
            gateway: GATEWAY_V6,
            pool: Some("fd00:81::1000".parse().unwrap()..="fd00:81::1020".parse().unwrap()),
            valid: hour,
            preferred: hour,
            dns: vec![GATEWAY_V6],
            search: Vec::new(),
            ntp: Vec::new(),
            refresh: hour,
            rapid_commit: true,
            reservations: Vec::new(),
        })),
        ServiceSpec::Health(Box::new(health::Spec {
            gateways: gateways(),
            targets: vec![probe],
        })),
    ]
}

impl Storm {
    /// A frame for one of the gateway's services.
    fn service_frame(&mut self) -> Vec<u8> {
        let (any, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let mut frame = match self.dice.below(8) {
            0 => Arp {
                operation: self.dice.pick(&[1, 2, 3, 8]),
                sender_mac: self.dice.pick(&[HOSTILE, HONEST, GATEWAY]),
                sender_ip: self.dice.pick(&[guest_v4(HOSTILE), any, GATEWAY_V4]),
                target_mac: MacAddr::ZERO,
                target_ip: self.dice.pick(&[GATEWAY_V4, guest_v4(HONEST)]),
            }
            .emit(MacAddr::BROADCAST),
            1 | 2 => {
                let mut message = vec![1, 1, 6, 0];
                message.resize(28, 0);
                message.extend([2, 0, 0, 0, 0, self.dice.byte()]);
                message.resize(236, 0);
                message.extend([99, 130, 83, 99]);
                let kind = self.dice.pick(&[1, 3, 3, 4, 7, 8, 13]);
                message.extend([53, 1, kind, 54, 4, 192, 168, 81, 2]);
                message.extend([50, 4, 192, 168, 81, self.dice.byte()]);
                for _ in 0..self.dice.below(5) {
                    let code = self.dice.pick(&[12, 55, 57, 61, 81, 82, 50, 52, 255, 0]);
                    let len = u8::try_from(self.dice.below(40)).unwrap();
                    let lie = if self.dice.one_in(4) {
                        self.dice.byte()
                    } else {
                        len
                    };
                    message.extend([code, lie]);
                    message.extend((0..len).map(|_| self.dice.byte()));
                }
                message.push(255);
                let datagram = udp::emit((any, 68), (all, 67), &message).unwrap();
                let packet = ipv4::emit(any, all, PROTOCOL_UDP, &datagram).unwrap();
                ethernet::emit(MacAddr::BROADCAST, HOSTILE, ETHERTYPE_IPV4, &packet)
            }
            3 | 4 => {
                let kind = self.dice.pick(&[1, 3, 4, 5, 6, 8, 9, 11, 12]);
                let mut message = vec![kind, 1, 2, 3];
                for _ in 0..1 + self.dice.below(5) {
                    let code = self.dice.pick(&[1, 2, 3, 5, 6, 8, 13, 14, 25, 39]);
                    let data = self.dice.bytes(40);
                    let len = u16::try_from(data.len()).unwrap();
                    let lie = if self.dice.one_in(4) {
                        self.dice.edge()
                    } else {
                        len
                    };
                    message.extend([0, code]);
                    message.extend(lie.to_be_bytes());
                    message.extend(data);
                }
                let (src, dst) = ("fe80::9".parse().unwrap(), "ff02::1:2".parse().unwrap());
                let datagram = udp::emit_v6((src, 546), (dst, 547), &message).unwrap();
                self.packet6(MacAddr([0x33, 0x33, 0, 1, 0, 2]), src, dst, 17, &datagram)
            }
            5 => {
                let kind = self.dice.pick(&[128, 133, 134, 135, 136, 137]);
                let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
                message.extend(self.dice.pick(&[GATEWAY_V6, LINK_LOCAL]).octets());
                for _ in 0..self.dice.below(4) {
                    message.extend([self.dice.byte() & 7, self.dice.byte() & 3]);
                    message.extend([2; 6]);
                }
                let (src, dst) = ("fe80::9".parse().unwrap(), LINK_LOCAL);
                let len = u16::try_from(message.len()).unwrap();
                let sum = vmlan::wire::ipv6::pseudo_header(src, dst, NEXT_HEADER_ICMPV6, len);
                let sum = sum.over(&message).finish();
                message[2..4].copy_from_slice(&sum.to_be_bytes());
                self.packet6(GATEWAY, src, dst, NEXT_HEADER_ICMPV6, &message)
            }
            6 => {
                let src = guest_v4(HOSTILE);
                let mut question = self.question();
                if self.dice.one_in(2) {
                    let at = self.dice.below(question.len());
                    question[at] = self.dice.byte();
                }
                let datagram = udp::emit((src, 5353), (GATEWAY_V4, 53), &question).unwrap();
                let packet = ipv4::emit(src, GATEWAY_V4, PROTOCOL_UDP, &datagram).unwrap();
                ethernet::emit(GATEWAY, HOSTILE, ETHERTYPE_IPV4, &packet)
            }
            _ => return self.frame(),
        };
        if self.dice.one_in(2) {
            self.mutate(&mut frame);
        }
        frame
    }

    fn packet6(
        &mut self,
        to: MacAddr,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        next_header: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        let packet = Ipv6 {
            src,
            dst,
            next_header,
            hop_limit: 255,
            payload,
        };
        ethernet::emit(to, HOSTILE, ETHERTYPE_IPV6, &packet.emit().unwrap())
    }
}

/// Has the honest guest ask for the gateway's hardware address and for a name; both must be answered, and only to it.
fn ask_honestly(gateway: &mut Gateway, now: Now) {
    let mut out = Replies::default();
    let request = Arp {
        operation: arp::REQUEST,
        sender_mac: HONEST,
        sender_ip: guest_v4(HONEST),
        target_mac: MacAddr::ZERO,
        target_ip: GATEWAY_V4,
    };
    gateway.handle_frame(&request.emit(MacAddr::BROADCAST), false, now, &mut out);
    let name = Name::new("web.lan").unwrap();
    let question = [name.as_bytes(), &[0, 1, 0, 1]].concat();
    let message = Writer::new(7, 0x0100, &question).finish();
    let src = guest_v4(HONEST);
    let datagram = udp::emit((src, 5353), (GATEWAY_V4, 53), &message).unwrap();
    let packet = ipv4::emit(src, GATEWAY_V4, PROTOCOL_UDP, &datagram).unwrap();
    let frame = ethernet::emit(GATEWAY, HONEST, ETHERTYPE_IPV4, &packet);
    gateway.handle_frame(&frame, false, now, &mut out);
    let [arp, dns] = &out.frames[..] else {
        panic!("{} answers", out.frames.len());
    };
    assert_eq!((&arp[..6], &dns[..6]), (&HONEST.0[..], &HONEST.0[..]));
    let answer = Arp::parse(&arp[14..]).unwrap();
    assert_eq!((answer.sender_mac, answer.sender_ip), (GATEWAY, GATEWAY_V4));
    assert!(dns.ends_with(&GATEWAY_V4.octets()), "{dns:?}");
}

#[test]
fn an_honest_guest_does_not_notice_what_another_sends_to_the_gateway() {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut now = Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    };
    let spec = gateway::Spec {
        mac: GATEWAY,
        services: services(now),
        inside: inside::Spec::default(),
        nat: None,
    };
    let mut gateway = Gateway::new(spec, 1500, now);
    let servers = Servers {
        tcp: 80,
        udp: 7,
        nobody: 9,
    };
    let mut storm = Storm {
        dice: Dice::new(),
        servers,
        place: Place::inside(),
    };
    let (mut frames, mut replies, mut asks) = (0u64, 0, Vec::new());
    let start = Instant::now();
    while start.elapsed() < duration() {
        let mut out = Replies::default();
        for _ in 0..100 {
            let frame = storm.service_frame();
            gateway.handle_frame(&frame, storm.dice.one_in(2), now, &mut out);
            frames += 1;
        }
        let (stream, from) = (storm.dice.next(), guest_v4(HOSTILE).into());
        let message = storm.dice.bytes(60);
        gateway.handle_message(stream, from, &message, now, &mut out);
        asks.append(&mut out.asks);
        asks.truncate(2000);
        while asks.len() > 20 {
            let ask: dns::Ask = asks.swap_remove(storm.dice.below(asks.len()));
            // Name servers say anything.
            let mut answer = ask.message;
            answer[2] |= 0x80;
            answer[7] = storm.dice.byte() & 3;
            let record = storm.dice.bytes(60);
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(record);
            for _ in 0..storm.dice.below(3) {
                let at = storm.dice.below(answer.len());
                answer[at] = storm.dice.byte();
            }
            answer.truncate(1 + storm.dice.below(answer.len() * 4));
            let answer = match storm.dice.below(8) {
                0 => Err(dns::AskError::Unreachable),
                1 => Err(dns::AskError::NoServer),
                _ => Ok(&answer[..]),
            };
            gateway.handle_answer(ask.ticket, answer, now, &mut out);
        }
        replies += out.frames.len() + out.durable.len();
        for frame in &out.frames {
            assert!(frame.len() <= 1514, "{}", frame.len());
            assert_eq!(frame[6..12], GATEWAY.0);
        }
        if storm.dice.one_in(20) {
            let by = Duration::from_millis(u64::from(storm.dice.word()));
            now.instant += by;
            now.wall += by;
        }
        if gateway.poll_timeout().is_some_and(|at| at <= now.instant) {
            gateway.handle_timeout(now, &mut Replies::default());
        }
        ask_honestly(&mut gateway, now);
    }
    println!("{frames} frames, {replies} replies");
    assert!(replies > 0);
}

#[test]
fn a_forwarded_port_is_served_or_left_alone_when_no_descriptor_is_left() {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lab = Lab::new();
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let row = lab.sockets.add_forward(forward(protocol), &lab.inside);
        row.unwrap().listen
    });
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", udp).unwrap();
    let _stream = TcpStream::connect(tcp).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    let now = lab.now();
    let (since, mut served) = (Instant::now(), false);
    while lab.sockets.has_news() && since.elapsed() < PATIENCE {
        let mut burst = Burst::default();
        lab.sockets.receive(&mut burst, &lab.inside, now);
        let of_udp = |frame: &vmlan::ports::burst::Frame| frame.head.bytes()[23] == PROTOCOL_UDP;
        served |= burst.frames().iter().any(of_udp);
        burst.clear();
        lab.sockets.release();
    }
    drop(taken);
    assert!(served, "the datagram was not taken");
    let paused = lab.sockets.poll_timeout().unwrap();
    assert!(paused <= now.instant + Duration::from_secs(1));
}
