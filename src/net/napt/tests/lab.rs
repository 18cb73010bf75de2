//! A translator with two guests inside and a router outside, and packets that are written and read from scratch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use crate::net::Now;
use crate::net::drops::DropReason;
use crate::net::frame::Head;
use crate::net::inside::Inside;
use crate::net::napt::{Napt, Routed, Side, Verdict};
use crate::net::nat::forward::{Balance, Forward, Host, Target};
use crate::net::nat::{
    Addressing4, Addressing6, Filtering, Gateways, Limits, NetworkOutside, Outside, Protocol, Spec,
    Timeouts,
};
use crate::wire::arp::{Arp, REPLY};
use crate::wire::be16;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::ethernet::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr, emit,
};
use crate::wire::ipv6::Ipv6;
use crate::wire::virtio_net::{NEEDS_CSUM, VirtioNetHeader};

pub(super) const INSIDE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(super) const OUTSIDE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(super) const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
pub(super) const A: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub(super) const B: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// The translator's address outside, guests and servers, by family.
pub(super) const EXT: &str = "203.0.113.5";
pub(super) const EXT6: &str = "2001:db8:1::5";

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A packet as a test writes it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) flags: u8,
    pub(super) sequence: (u32, u32),
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) ttl: u8,
    pub(super) dont_fragment: bool,
    /// An echo reply and not a request.
    pub(super) reply: bool,
    /// The checksum is left to be completed.
    pub(super) partial: bool,
    /// UDP without a checksum.
    pub(super) unsummed: bool,
}

fn sent(protocol: Protocol, src: &str, dst: &str) -> Sent {
    Sent {
        src: at(src),
        dst: at(dst),
        protocol,
        flags: 0,
        sequence: (0, 0),
        options: Vec::new(),
        payload: b"payload".to_vec(),
        ttl: 64,
        dont_fragment: true,
        reply: false,
        partial: false,
        unsummed: false,
    }
}

pub(super) fn udp(src: &str, dst: &str) -> Sent {
    sent(Protocol::Udp, src, dst)
}

pub(super) fn tcp(src: &str, dst: &str, flags: u8) -> Sent {
    Sent {
        flags,
        payload: Vec::new(),
        ..sent(Protocol::Tcp, src, dst)
    }
}

/// An echo request; the identifier is the source's port.
pub(super) fn ping(src: &str, dst: &str, id: u16) -> Sent {
    let (src, dst) = (SocketAddr::new(ip(src), id), SocketAddr::new(ip(dst), 0));
    Sent {
        src,
        dst,
        ..sent(Protocol::Icmp, "0.0.0.0:0", "0.0.0.0:0")
    }
}

/// An echo reply; the identifier is the destination's port.
pub(super) fn pong(src: &str, dst: &str, id: u16) -> Sent {
    let (src, dst) = (SocketAddr::new(ip(src), 0), SocketAddr::new(ip(dst), id));
    Sent {
        src,
        dst,
        reply: true,
        ..sent(Protocol::Icmp, "0.0.0.0:0", "0.0.0.0:0")
    }
}

impl Sent {
    fn number(&self) -> u8 {
        match (self.protocol, self.src.is_ipv6()) {
            (Protocol::Tcp, _) => 6,
            (Protocol::Udp, _) => 17,
            (Protocol::Icmp, false) => 1,
            (Protocol::Icmp, true) => 58,
        }
    }

    /// Writes the transport's header and payload.
    pub(super) fn transport(&self) -> Vec<u8> {
        let (src, dst) = (self.src.port().to_be_bytes(), self.dst.port().to_be_bytes());
        let mut bytes = Vec::new();
        let sum_at = match self.protocol {
            Protocol::Tcp => {
                let header_len = u8::try_from(20 + self.options.len()).unwrap();
                bytes.extend([src, dst].concat());
                bytes.extend(self.sequence.0.to_be_bytes());
                bytes.extend(self.sequence.1.to_be_bytes());
                bytes.extend([(header_len / 4) << 4, self.flags, 1, 0, 0, 0, 0, 0]);
                bytes.extend(&self.options);
                16
            }
            Protocol::Udp => {
                let len = u16::try_from(8 + self.payload.len()).unwrap();
                bytes.extend([src, dst, len.to_be_bytes(), [0, 0]].concat());
                6
            }
            Protocol::Icmp => {
                let kind = match (self.src.is_ipv6(), self.reply) {
                    (false, false) => 8,
                    (false, true) => 0,
                    (true, false) => 128,
                    (true, true) => 129,
                };
                let id = if self.reply { dst } else { src };
                bytes.extend([kind, 0, 0, 0, id[0], id[1], 0, 1]);
                2
            }
        };
        bytes.extend(&self.payload);
        if self.unsummed {
            return bytes;
        }
        let v4_icmp = self.protocol == Protocol::Icmp && self.src.is_ipv4();
        let pseudo = if v4_icmp {
            Sum::default()
        } else {
            pseudo(self.src.ip(), self.dst.ip(), self.number(), bytes.len())
        };
        let sum = if self.partial {
            pseudo.fold()
        } else {
            match pseudo.over(&bytes).finish() {
                0 if self.protocol == Protocol::Udp => 0xffff,
                sum => sum,
            }
        };
        bytes[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Writes the packet.
    pub(super) fn packet(&self) -> Vec<u8> {
        packet(
            self.src.ip(),
            self.dst.ip(),
            self.number(),
            self.ttl,
            self.dont_fragment,
            &self.transport(),
        )
    }

    /// Writes the frame, from a station to the translator's side.
    pub(super) fn frame(&self, from: MacAddr) -> Vec<u8> {
        let to = if from == ROUTER { OUTSIDE } else { INSIDE };
        frame(from, to, &self.packet())
    }

    pub(super) fn header(&self) -> VirtioNetHeader {
        if !self.partial {
            return VirtioNetHeader::default();
        }
        VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: if self.src.is_ipv6() { 54 } else { 34 },
            csum_offset: match self.protocol {
                Protocol::Tcp => 16,
                Protocol::Udp => 6,
                Protocol::Icmp => 2,
            },
            ..VirtioNetHeader::default()
        }
    }
}

pub(super) fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum {
    let sum = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::default().over(&src.octets()).over(&dst.octets())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Sum::default().over(&src.octets()).over(&dst.octets())
        }
        _ => panic!("two families"),
    };
    sum.add_word(u16::from(protocol))
        .add_word(u16::try_from(len).unwrap())
}

pub(super) fn packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ttl: u8,
    dont_fragment: bool,
    payload: &[u8],
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let bits = if dont_fragment { 0x40 } else { 0 };
            let mut bytes = vec![
                0x45, 0, len[0], len[1], 0x12, 0x34, bits, 0, ttl, protocol, 0, 0,
            ];
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            let sum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend(payload);
            bytes
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6 {
            src,
            dst,
            next_header: protocol,
            hop_limit: ttl,
            payload,
        }
        .emit()
        .unwrap(),
        _ => panic!("two families"),
    }
}

pub(super) fn frame(from: MacAddr, to: MacAddr, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    emit(to, from, ethertype, packet)
}

/// A packet as a test reads it, all of whose checksums are right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) side: Side,
    pub(super) to: MacAddr,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) flags: u8,
    pub(super) ttl: u8,
    pub(super) payload: Vec<u8>,
}

impl Seen {
    /// Reads a frame; panics where it is damaged.
    pub(super) fn read(side: Side, bytes: &[u8], header: VirtioNetHeader) -> Self {
        let ethernet = Ethernet::parse(bytes).unwrap();
        let own = if side == Side::Inside {
            INSIDE
        } else {
            OUTSIDE
        };
        assert_eq!(ethernet.src, own, "from the translator itself");
        let packet = ethernet.payload;
        let (src, dst, protocol, ttl, transport) = ip_parts(packet);
        let port = |at: usize| be16(transport, at).unwrap();
        let (src_port, dst_port, header_len, flags) = match protocol {
            6 => {
                let len = usize::from(transport[12] >> 4) * 4;
                (port(0), port(2), len, transport[13])
            }
            17 => (port(0), port(2), 8, 0),
            1 | 58 if matches!(transport[0], 8 | 128) => (port(4), 0, 8, 0),
            1 | 58 if matches!(transport[0], 0 | 129) => (0, port(4), 8, 0),
            _ => (0, 0, 0, 0),
        };
        let pseudo = if protocol == 1 {
            Sum::default()
        } else {
            pseudo(src, dst, protocol, transport.len())
        };
        if header.needs_checksum() {
            let start = usize::from(header.csum_start) - 14;
            assert_eq!(start, packet.len() - transport.len() - trailer(packet));
            let at = usize::from(header.csum_offset);
            assert_eq!(be16(transport, at), Some(pseudo.fold()), "a partial sum");
        } else if protocol != 17 || be16(transport, 6) != Some(0) {
            assert_eq!(
                pseudo.over(transport).finish(),
                0,
                "the transport's checksum"
            );
        }
        Self {
            side,
            to: ethernet.dst,
            src: SocketAddr::new(src, src_port),
            dst: SocketAddr::new(dst, dst_port),
            flags,
            ttl,
            payload: transport[header_len..].to_vec(),
        }
    }
}

fn trailer(packet: &[u8]) -> usize {
    let len = if packet[0] >> 4 == 4 {
        be16(packet, 2).unwrap()
    } else {
        be16(packet, 4).unwrap() + 40
    };
    packet.len() - usize::from(len)
}

/// Returns addresses, protocol, time to live and payload of a packet whose header is right.
pub(super) fn ip_parts(packet: &[u8]) -> (IpAddr, IpAddr, u8, u8, &[u8]) {
    if packet[0] >> 4 == 4 {
        let header_len = usize::from(packet[0] & 15) * 4;
        assert_eq!(checksum(&packet[..header_len]), 0, "the header's checksum");
        let ip = |at: usize| -> IpAddr {
            let octets: [u8; 4] = packet[at..at + 4].try_into().unwrap();
            Ipv4Addr::from(octets).into()
        };
        let end = usize::from(be16(packet, 2).unwrap());
        (
            ip(12),
            ip(16),
            packet[9],
            packet[8],
            &packet[header_len..end],
        )
    } else {
        let read = Ipv6::parse(packet).unwrap();
        (
            read.src.into(),
            read.dst.into(),
            read.next_header,
            read.hop_limit,
            read.payload,
        )
    }
}

pub(super) fn spec() -> Spec {
    Spec {
        gateways: Gateways {
            v4: Some((Ipv4Addr::new(10, 0, 0, 2), "10.0.0.0/24".parse().unwrap())),
            v6: Some(("fd00::2".parse().unwrap(), "fd00::/64".parse().unwrap())),
            link_local: Some("fe80::2".parse().unwrap()),
        },
        outside: Outside::Network(outside()),
        forwards: Vec::new(),
        filtering: Filtering::default(),
        timeouts: Timeouts::default(),
        limits: Limits {
            flows: 1000,
            flows_per_guest: 600,
        },
        closed: vec!["192.168.77.0/24".parse().unwrap()],
        map_host_loopback: false,
        ftp: true,
        log: true,
    }
}

fn outside() -> NetworkOutside {
    NetworkOutside {
        mac: OUTSIDE,
        v4: Addressing4::Static {
            ip: Ipv4Addr::new(203, 0, 113, 5),
            net: "203.0.113.0/24".parse().unwrap(),
            router: Some(Ipv4Addr::new(203, 0, 113, 1)),
        },
        v6: Addressing6::Static {
            ip: "2001:db8:1::5".parse().unwrap(),
            net: "2001:db8:1::/64".parse().unwrap(),
            router: Some("2001:db8:1::1".parse().unwrap()),
        },
        ports: 1024..=65535,
        hostname: "vmlan".to_owned(),
    }
}

pub(super) fn forward(protocol: Protocol, first: u16, target: &str) -> Forward {
    let target = at(target);
    Forward {
        protocol,
        ip: if target.is_ipv4() {
            ip("0.0.0.0")
        } else {
            ip("::")
        },
        first,
        last: first,
        targets: vec![Target {
            host: Host::Address(target.ip()),
            port: target.port(),
        }],
        balance: Balance::RoundRobin,
        health: None,
    }
}

/// Whether a frame is of the interface outside, about itself and its neighbours.
fn is_own_talk(frame: &[u8]) -> bool {
    let discovery = frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[21] == 255;
    frame[12..14] == [8, 6] || discovery || frame[0] & 1 != 0
}

/// What the router answers to a question about itself.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let ethernet = Ethernet::parse(question)?;
    if let Some(arp) = Arp::parse(ethernet.payload)
        && ethernet.ethertype == ETHERTYPE_ARP
    {
        let answer = Arp {
            operation: REPLY,
            sender_mac: ROUTER,
            sender_ip: arp.target_ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        };
        let router = arp.target_ip == Ipv4Addr::new(203, 0, 113, 1);
        return router.then(|| answer.emit(OUTSIDE));
    }
    let (dst, _, 58, 255, solicitation) = ip_parts(ethernet.payload) else {
        return None;
    };
    let router: Ipv6Addr = "2001:db8:1::1".parse().unwrap();
    if solicitation[0] != 135 || solicitation[8..24] != router.octets() {
        return None;
    }
    // Solicited, from a router, and it replaces what is known.
    let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
    message.extend(router.octets());
    message.extend([2, 1]);
    message.extend(ROUTER.0);
    let src = IpAddr::from(router);
    let sum = pseudo(src, dst, 58, message.len()).over(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(frame(
        ROUTER,
        OUTSIDE,
        &packet(src, dst, 58, 255, true, &message),
    ))
}

/// The translator, and a clock that only the test moves.
pub(super) struct Lab {
    pub(super) napt: Napt,
    pub(super) inside: Inside,
    pub(super) now: Now,
    pub(super) events: Vec<crate::net::nat::Event>,
    /// What the head alone said of the last frame.
    pub(super) verdict: Verdict,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(&spec())
    }

    pub(super) fn with(spec: &Spec) -> Self {
        let Outside::Network(outside) = &spec.outside else {
            panic!("it leads to a network");
        };
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let mut inside = Inside::default();
        for (address, mac) in [
            ("10.0.0.10", A),
            ("10.0.0.11", B),
            ("fd00::10", A),
            ("fd00::11", B),
        ] {
            inside.note_seen(ip(address), mac, now.instant);
        }
        let mut lab = Self {
            napt: Napt::new(spec, INSIDE, outside, 42, now),
            inside,
            now,
            events: Vec::new(),
            verdict: Verdict::Whole,
        };
        // Until the addresses outside are known to be nobody else's.
        lab.seconds(30);
        lab.meet_router();
        lab
    }

    /// Has the translator ask for its router.
    fn meet_router(&mut self) {
        let asks = [
            udp("10.0.0.10:9", "198.51.100.1:9"),
            udp("[fd00::10]:9", "[2001:db8:9::1]:9"),
        ];
        for ask in asks {
            self.raw(Side::Inside, &ask.frame(A), VirtioNetHeader::default());
        }
        assert_eq!(
            self.napt.view(&self.inside).created,
            2,
            "what waited has left"
        );
        self.advance(Duration::from_secs(302));
        assert_eq!(self.napt.view(&self.inside).flows, [0; 3]);
        self.events.clear();
    }

    /// Moves the clock, doing what is due on the way; returns what leaves meanwhile.
    pub(super) fn advance(&mut self, span: Duration) -> Vec<(Side, Vec<u8>, VirtioNetHeader)> {
        let (end, mut left) = (self.now.instant + span, Vec::new());
        loop {
            let due = self.napt.poll_timeout().filter(|due| *due <= end);
            self.now.instant = due.unwrap_or(end).max(self.now.instant);
            let mut out = Routed::default();
            self.napt.handle_timeout(self.now, &mut out);
            self.events.append(&mut out.events);
            self.answer(&mut out);
            left.append(&mut out.frames);
            if due.is_none() {
                return left;
            }
        }
    }

    pub(super) fn seconds(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// Has the router answer what the translator asks of it, and takes out what it says of itself.
    fn answer(&mut self, out: &mut Routed) {
        let mut asked = Vec::new();
        out.frames.retain(|(side, bytes, _)| {
            let asks = *side == Side::Outside && is_own_talk(bytes);
            if asks {
                asked.push(bytes.clone());
            }
            !asks
        });
        for question in asked {
            let Some(answer) = answer(&question) else {
                continue;
            };
            let mut answered = Routed::default();
            let (header, now) = (VirtioNetHeader::default(), self.now);
            let napt = &mut self.napt;
            napt.handle_frame(
                Side::Outside,
                &answer,
                header,
                &self.inside,
                now,
                &mut answered,
            );
            answered
                .frames
                .retain(|(side, bytes, _)| *side == Side::Inside || !is_own_talk(bytes));
            self.events.append(&mut answered.events);
            out.frames.append(&mut answered.frames);
        }
    }

    /// Offers a frame as the engine does, and returns what leaves.
    pub(super) fn raw(
        &mut self,
        side: Side,
        bytes: &[u8],
        header: VirtioNetHeader,
    ) -> Vec<(Side, Vec<u8>, VirtioNetHeader)> {
        let mut head = Head::default();
        head.fill(bytes, header);
        let parsed = head.parse().unwrap();
        self.napt.prefetch(side, &head, &parsed);
        let before = head.bytes().to_vec();
        let verdict = self
            .napt
            .translate(side, &mut head, &parsed, &self.inside, self.now.instant);
        self.verdict = verdict;
        let mut out = Routed::default();
        match verdict {
            Verdict::Forward | Verdict::Back => {
                let mut bytes = bytes.to_vec();
                bytes[..head.bytes().len()].copy_from_slice(head.bytes());
                let to = if verdict == Verdict::Back {
                    side
                } else {
                    side.other()
                };
                out.frames.push((to, bytes, head.offload));
            }
            Verdict::Whole => {
                assert_eq!(head.bytes(), before, "what is yet to be seen is unchanged");
                self.napt
                    .handle_frame(side, bytes, header, &self.inside, self.now, &mut out);
            }
            Verdict::Drop(_) => {}
        }
        self.events.append(&mut out.events);
        self.answer(&mut out);
        out.frames
    }

    fn send(&mut self, side: Side, from: MacAddr, sent: &Sent) -> Vec<Seen> {
        let frames = self.raw(side, &sent.frame(from), sent.header());
        let frames = frames.iter();
        frames
            .map(|(side, bytes, header)| Seen::read(*side, bytes, *header))
            .collect()
    }

    /// Sends a packet from a guest that must leave, and returns how.
    pub(super) fn out(&mut self, from: MacAddr, sent: &Sent) -> Seen {
        let mut seen = self.send(Side::Inside, from, sent);
        assert_eq!(seen.len(), 1, "{sent:?} leaves: {:?}", self.verdict);
        seen.remove(0)
    }

    /// Sends a packet from outside that must arrive, and returns how.
    pub(super) fn back(&mut self, sent: &Sent) -> Seen {
        let mut seen = self.send(Side::Outside, ROUTER, sent);
        assert_eq!(seen.len(), 1, "{sent:?} arrives: {:?}", self.verdict);
        seen.remove(0)
    }

    /// Sends a packet from a guest that must not leave.
    pub(super) fn stays(&mut self, from: MacAddr, sent: &Sent) -> Verdict {
        assert_eq!(self.send(Side::Inside, from, sent), []);
        self.verdict
    }

    /// Sends a packet from outside that must not arrive.
    pub(super) fn blocked(&mut self, sent: &Sent) -> Verdict {
        assert_eq!(self.send(Side::Outside, ROUTER, sent), []);
        self.verdict
    }

    /// How many flows there are.
    pub(super) fn flows(&self) -> usize {
        self.napt.view(&self.inside).flows.iter().sum()
    }

    pub(super) fn forward(&mut self, protocol: Protocol, first: u16, target: &str) -> SocketAddr {
        let forward = forward(protocol, first, target);
        self.napt.add_forward(forward, &self.inside).unwrap().listen
    }

    /// Opens a TCP connection of a guest, and returns its port outside.
    pub(super) fn connect(&mut self, from: MacAddr, src: &str, dst: &str) -> u16 {
        let syn = self.out(from, &tcp(src, dst, SYN));
        let own = syn.src.to_string();
        self.back(&tcp(dst, &own, SYN | ACK));
        self.out(from, &tcp(src, dst, ACK));
        syn.src.port()
    }
}

pub(super) const FILTERED: Verdict = Verdict::Drop(DropReason::NatFiltered);
pub(super) const UNREACHABLE: Verdict = Verdict::Drop(DropReason::Unreachable);
pub(super) const LIMIT: Verdict = Verdict::Drop(DropReason::NatLimit);
