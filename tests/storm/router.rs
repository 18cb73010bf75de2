//! The same with a router between two networks: a guest and a station outside send anything at all, while an honest guest
//! talks with an honest server. Each of its frames must arrive, whatever came before.

use std::collections::VecDeque;

use vmlan::net::napt::{Napt, Routed, Side, Verdict};
use vmlan::net::nat::{Addressing4, Addressing6, NetworkOutside};
use vmlan::wire::nd;

use super::*;

const OUTSIDE: MacAddr = MacAddr([2, 0, 0, 0, 1, 8]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 1, 5]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 1, 66]);
const OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 8);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 8);
/// Both ends of the honest exchange have this port, so that frames that somebody guesses are often about it.
const PORT: u16 = HONEST_PORT;
const FORWARDED: u16 = 8080;
/// How long a datagram is that is sent in two parts.
const LONG: usize = 2000;
/// How far fragments are cut apart, with the header of UDP.
const CUT: usize = 1400;

fn station_v4(mac: MacAddr) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, mac.0[5])
}

fn station_v6(mac: MacAddr) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(mac.0[5]))
}

/// Where there is a router, which is looked after for ever, it is the stranger.
fn spec(router: bool) -> nat::Spec {
    let outside = NetworkOutside {
        mac: OUTSIDE,
        v4: Addressing4::Static {
            ip: OWN_V4,
            net: "10.9.0.0/24".parse().unwrap(),
            router: router.then(|| station_v4(STRANGER)),
        },
        v6: Addressing6::Static {
            ip: OWN_V6,
            net: "2001:db8::/64".parse().unwrap(),
            router: router.then(|| station_v6(STRANGER)),
        },
        ports: 1024..=65535,
        hostname: String::new(),
    };
    let forwards = [Protocol::Tcp, Protocol::Udp].map(|protocol| Forward {
        ip: Ipv4Addr::UNSPECIFIED.into(),
        first: FORWARDED,
        last: FORWARDED,
        ..forward(protocol)
    });
    nat::Spec {
        gateways: gateways(),
        outside: Outside::Network(outside),
        forwards: forwards.into(),
        filtering: Filtering::EndpointIndependent,
        timeouts: Timeouts::default(),
        limits: Limits {
            flows: 2000,
            flows_per_guest: 1200,
        },
        closed: Vec::new(),
        map_host_loopback: false,
        ftp: true,
        log: true,
    }
}

/// Where a hostile guest's frames, and those of a stranger outside, come from and go.
fn places() -> [Place; 2] {
    let (others, own) = ([SERVER, STRANGER], [OUTSIDE; 2]);
    let inside = Place {
        to: (
            others.map(station_v4),
            [station_v6(SERVER), station_v6(STRANGER), OWN_V6],
        ),
        ..Place::inside()
    };
    let of = [STRANGER, STRANGER, SERVER];
    let outside = Place {
        stations: (STRANGER, OUTSIDE),
        from: (of.map(station_v4), of.map(station_v6)),
        to: (own.map(|_| OWN_V4), [OWN_V6; 3]),
    };
    [inside, outside]
}

/// A router between a network of guests and one with a server and a stranger.
struct Lab {
    napt: Napt,
    inside: Inside,
    /// Of the hostile guest, and of the stranger.
    storms: [Storm; 2],
    guest: Peer,
    server: Option<Peer>,
    now: Now,
    /// What the router has sent and nobody has got yet.
    leaving: VecDeque<(Side, Vec<u8>, VirtioNetHeader)>,
    /// Whether somebody may be sending nonsense by now.
    stormy: bool,
    written: u64,
    verified: u64,
    /// Segments of the honest connection that the router has sent, by the side they left by.
    segments: [u64; 2],
    asked: u64,
    answered: u64,
    /// The first part of a datagram, with its identification.
    part: Option<(u16, Vec<u8>)>,
    frames: u64,
    passed: u64,
}

impl Lab {
    fn new(router: bool) -> Self {
        let nat = spec(router);
        let Outside::Network(outside) = &nat.outside else {
            panic!("it leads to a network");
        };
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        };
        let mut inside = Inside::default();
        for mac in [HONEST, HOSTILE] {
            inside.note_seen(guest_v4(mac).into(), mac, now.instant);
            inside.note_seen(guest_v6(mac).into(), mac, now.instant);
        }
        let servers = Servers {
            tcp: PORT,
            udp: PORT,
            nobody: FORWARDED,
        };
        let storms = places().map(|place| Storm {
            dice: Dice::new(),
            servers,
            place,
        });
        let own = SocketAddr::new(guest_v4(HONEST).into(), PORT);
        let remote = SocketAddr::new(station_v4(SERVER).into(), PORT);
        let mut lab = Self {
            napt: Napt::new(&nat, GATEWAY, outside, 1, now),
            inside,
            storms,
            guest: Peer::connect(HONEST, own, remote, 7, now.instant),
            server: None,
            now,
            leaving: VecDeque::new(),
            stormy: false,
            written: 0,
            verified: 0,
            segments: [0; 2],
            asked: 0,
            answered: 0,
            part: None,
            frames: 0,
            passed: 0,
        };
        lab.napt.set_mtu(1500, 1500);
        // Until the router's addresses are known to be nobody else's.
        lab.wait(Duration::from_secs(30));
        lab.guest = Peer::connect(HONEST, own, remote, 7, lab.now.instant);
        lab
    }

    /// Lets time pass in steps in which nothing is missed.
    fn wait(&mut self, time: Duration) {
        let end = self.now.instant + time;
        while self.now.instant < end {
            let step = Duration::from_secs(1).min(end - self.now.instant);
            self.now.instant += step;
            self.now.wall += step;
            self.do_what_is_due();
        }
    }

    fn do_what_is_due(&mut self) {
        let mut rounds = 0;
        while let Some(at) = self.napt.poll_timeout()
            && at <= self.now.instant
        {
            rounds += 1;
            assert!(rounds < 100, "a timer is due again and again");
            let mut out = Routed::default();
            self.napt.handle_timeout(self.now, &mut out);
            self.leaving.extend(out.frames);
        }
        self.drain();
    }

    /// Has a frame come to the router, as the engine does.
    fn offer(&mut self, side: Side, mut frame: Vec<u8>, header: VirtioNetHeader) {
        self.frames += 1;
        let mut head = Head::default();
        head.fill(&frame, header);
        if offload::check(&mut head, 1500).is_err() {
            return;
        }
        let Ok(parsed) = head.parse() else { return };
        self.napt.prefetch(side, &head, &parsed);
        let before = head.bytes().to_vec();
        let verdict = self
            .napt
            .translate(side, &mut head, &parsed, &self.inside, self.now.instant);
        let to = match verdict {
            Verdict::Forward => side.other(),
            Verdict::Back => side,
            Verdict::Drop(_) => return,
            Verdict::Whole => {
                assert_eq!(head.bytes(), before, "what is yet to be seen is unchanged");
                let mut header = head.offload;
                if header.gso_type == 0 && header.needs_checksum() {
                    let none = Capabilities::default();
                    if offload::finish(&mut frame, header, none, |_, _, _| Ok(())).is_err() {
                        return;
                    }
                    header = VirtioNetHeader::default();
                }
                let mut out = Routed::default();
                let (inside, now) = (&self.inside, self.now);
                self.napt
                    .handle_frame(side, &frame, header, inside, now, &mut out);
                self.leaving.extend(out.frames);
                return;
            }
        };
        frame[..head.bytes().len()].copy_from_slice(head.bytes());
        self.leaving.push_back((to, frame, head.offload));
    }

    /// Has stations get what the router has sent, and answer.
    fn drain(&mut self) {
        while let Some((side, frame, header)) = self.leaving.pop_front() {
            self.passed += 1;
            self.look(side, &frame);
            let (mut cut, mut whole, none) = (Vec::new(), frame, Capabilities::default());
            if none.take(header) {
                cut.push(whole);
            } else {
                offload::finish(&mut whole, header, none, |_, head, body| {
                    cut.push([head, body].concat());
                    Ok(())
                })
                .unwrap();
            }
            for frame in cut {
                assert!(frame.len() <= 1514, "{}", frame.len());
                match side {
                    Side::Outside => self.arrive_outside(&frame),
                    Side::Inside => self.arrive_inside(&frame),
                }
            }
        }
    }

    /// Whatever leaves is the router's own, or a packet that it has translated, with a header that is right.
    fn look(&mut self, side: Side, frame: &[u8]) {
        let ethernet = Ethernet::parse(frame).unwrap();
        let own = [GATEWAY, OUTSIDE][side as usize];
        assert_eq!(ethernet.src, own);
        if ethernet.ethertype == ETHERTYPE_IPV6 {
            let ip = |at: usize| {
                let octets = ethernet.payload[at..].first_chunk::<16>().unwrap();
                Ipv6Addr::from(*octets)
            };
            let (src, dst) = (ip(8), ip(24));
            match side {
                Side::Inside => {
                    assert!(dst.is_multicast() || dst.segments()[..2] == [0xfd00, 0x81])
                }
                Side::Outside => assert!(
                    src == OWN_V6 || src.is_unspecified() || src.is_unicast_link_local(),
                    "{src}"
                ),
            }
            return;
        }
        if ethernet.ethertype != ETHERTYPE_IPV4 {
            return;
        }
        let len = usize::from(ethernet.payload[0] & 15) * 4;
        assert_eq!(checksum(&ethernet.payload[..len]), 0);
        let ip = |at: usize| Ipv4Addr::from(*ethernet.payload[at..].first_chunk().unwrap());
        let (src, dst) = (ip(12), ip(16));
        match side {
            Side::Inside => assert_eq!(dst.octets()[..3], [192, 168, 81], "{frame:02x?}"),
            Side::Outside => assert_eq!(src, OWN_V4),
        }
        // A segment of the honest connection, seen from where it arrives.
        let honest = [guest_v4(HONEST), station_v4(SERVER)][side as usize];
        if ethernet.payload[9] == PROTOCOL_TCP
            && dst == honest
            && ethernet.payload[len + 2..len + 4] == PORT.to_be_bytes()
        {
            self.segments[side as usize] += 1;
        }
    }

    fn arrive_outside(&mut self, frame: &[u8]) {
        let ethernet = Ethernet::parse(frame).unwrap();
        for mac in [SERVER, STRANGER] {
            if let Some(answer) = who_has(&ethernet, mac) {
                self.offer(Side::Outside, answer, VirtioNetHeader::default());
            }
        }
        if ethernet.dst != SERVER || ethernet.ethertype != ETHERTYPE_IPV4 {
            return;
        }
        let packet = ethernet.payload;
        if packet[6..8] != [0x40, 0] && packet[6..8] != [0, 0] {
            return self.take_part(packet);
        }
        let Some(ip) = Ipv4::parse(packet) else {
            return;
        };
        if ip.protocol == PROTOCOL_TCP {
            let Some((tcp, len)) = Tcp::parse(ip.payload) else {
                return;
            };
            let (own, remote) = (
                SocketAddr::new(ip.dst.into(), tcp.dst),
                SocketAddr::new(ip.src.into(), tcp.src),
            );
            let now = self.now.instant;
            if self.server.is_none() && !self.stormy && tcp.dst == PORT {
                let mut endpoint = Endpoint::accept(config(99), &tcp, now);
                endpoint.opened();
                let stations = Stations {
                    gateway: SERVER,
                    guest: OUTSIDE,
                };
                self.server = Some(Peer::new(stations, endpoint, own, remote));
            }
            let peer = self.server.as_mut();
            if let Some(peer) = peer.filter(|peer| (peer.own, peer.remote) == (own, remote)) {
                peer.take(&tcp, &ip.payload[len..], now);
            }
            return;
        }
        if let Some(udp) = Udp::parse(&ip, false)
            && udp.dst == PORT
        {
            self.answer(udp.src, udp.payload);
        }
    }

    /// Puts a datagram together that came in two parts.
    fn take_part(&mut self, packet: &[u8]) {
        let (id, offset) = (
            u16::from_be_bytes([packet[4], packet[5]]),
            usize::from(u16::from_be_bytes([packet[6] & 0x1f, packet[7]])) * 8,
        );
        let payload = &packet[20..];
        if offset == 0 {
            self.part = Some((id, payload.to_vec()));
        } else if let Some((first, mut bytes)) = self.part.take_if(|part| part.0 == id)
            && first == id
            && bytes.len() == offset
            && bytes[2..4] == PORT.to_be_bytes()
        {
            bytes.extend_from_slice(payload);
            if bytes.len() == 8 + LONG {
                self.answer(u16::from_be_bytes([bytes[0], bytes[1]]), &bytes[8..]);
            }
        }
    }

    /// Sends the number that a datagram begins with back to where it came from.
    fn answer(&mut self, to: u16, payload: &[u8]) {
        let (src, dst) = (station_v4(SERVER), OWN_V4);
        let number = &payload[..payload.len().min(8)];
        let datagram = udp::emit((src, PORT), (dst, to), number).unwrap();
        let packet = ipv4::emit(src, dst, PROTOCOL_UDP, &datagram).unwrap();
        let frame = ethernet::emit(OUTSIDE, SERVER, ETHERTYPE_IPV4, &packet);
        self.offer(Side::Outside, frame, VirtioNetHeader::default());
    }

    fn arrive_inside(&mut self, frame: &[u8]) {
        let ethernet = Ethernet::parse(frame).unwrap();
        if ethernet.dst != HONEST || ethernet.ethertype != ETHERTYPE_IPV4 {
            return;
        }
        let Some(ip) = Ipv4::parse(ethernet.payload) else {
            return;
        };
        if ip.dst != guest_v4(HONEST) || ip.src != station_v4(SERVER) || ip.fragment {
            return;
        }
        if ip.protocol == PROTOCOL_TCP {
            if let Some((tcp, len)) = Tcp::parse(ip.payload)
                && (tcp.src, tcp.dst) == (PORT, PORT)
            {
                self.guest.take(&tcp, &ip.payload[len..], self.now.instant);
            }
        } else if let Some(udp) = Udp::parse(&ip, false)
            && udp.payload == self.asked.to_be_bytes()
        {
            self.answered = self.asked;
        }
    }

    /// Has a frame of the honest ones' pass, which nothing may keep from arriving.
    fn send_honestly(&mut self, side: Side, (frame, header): (Vec<u8>, VirtioNetHeader)) {
        let to = side.other() as usize;
        let before = self.segments[to];
        self.offer(side, frame, header);
        self.drain();
        assert_eq!(
            self.segments[to],
            before + 1,
            "a segment was lost: {side:?}"
        );
    }

    fn be_honest(&mut self, quiet: bool) {
        let now = self.now.instant;
        let counted = |at: u64| (at % 251).to_le_bytes()[0];
        if let Some(server) = &mut self.server {
            // It sends back what it gets.
            let got = std::mem::take(&mut server.got);
            server.write(&got);
            assert!(!server.broken);
        }
        for byte in std::mem::take(&mut self.guest.got) {
            assert_eq!(byte, counted(self.verified), "byte {}", self.verified);
            self.verified += 1;
        }
        assert!(!self.guest.broken, "the honest connection was broken");
        let ahead = self.written - self.verified;
        if !quiet && self.guest.endpoint.is_open() && ahead < WINDOW as u64 {
            let len = 1 + self.storms[0].dice.below(20_000) as u64;
            let bytes: Vec<u8> = (self.written..self.written + len).map(counted).collect();
            self.guest.write(&bytes);
            self.written += len;
        }
        for sent in self.guest.frames(now, |_| {}) {
            self.send_honestly(Side::Inside, sent);
        }
        if let Some(server) = &mut self.server {
            for sent in server.frames(now, |_| {}) {
                self.send_honestly(Side::Outside, sent);
            }
        }
        if !quiet && self.stormy {
            self.ask();
        }
    }

    /// Asks by a datagram, now and then by one in two parts, and is answered at once.
    fn ask(&mut self) {
        self.asked += 1;
        let mut payload = self.asked.to_be_bytes().to_vec();
        let (src, dst) = (guest_v4(HONEST), station_v4(SERVER));
        let long = self.storms[0].dice.one_in(4);
        payload.resize(if long { LONG } else { 8 }, 0);
        let datagram = udp::emit((src, PORT), (dst, PORT), &payload).unwrap();
        let parts = datagram.chunks(if long { CUT } else { LONG });
        for (index, part) in parts.enumerate() {
            let packet = ipv4::emit(src, dst, PROTOCOL_UDP, part).unwrap();
            let mut frame = ethernet::emit(GATEWAY, HONEST, ETHERTYPE_IPV4, &packet);
            if long {
                let [a, b, ..] = self.asked.to_le_bytes();
                let offset = u16::try_from(index * CUT / 8).unwrap();
                let bits = offset | if index == 0 { 0x2000 } else { 0 };
                frame[18..20].copy_from_slice(&[b, a]);
                frame[20..22].copy_from_slice(&bits.to_be_bytes());
                sum_header(&mut frame);
            }
            self.offer(Side::Inside, frame, VirtioNetHeader::default());
            self.drain();
        }
        assert_eq!(self.answered, self.asked, "a datagram was lost");
    }

    /// Has the hostile guest and the stranger send frames.
    fn be_hostile(&mut self) {
        for (side, index) in [(Side::Inside, 0), (Side::Outside, 1)] {
            for _ in 0..self.storms[index].dice.below(64) {
                let storm = &mut self.storms[index];
                let mut frame = match storm.dice.below(16) {
                    0 if side == Side::Outside => storm.neighbour(),
                    _ => storm.frame(),
                };
                // Who can say that it is the server at the link is believed.
                let forges = claims(&frame, station_v4(SERVER), station_v6(SERVER));
                if side == Side::Outside && forges {
                    frame.truncate(20);
                }
                let header = storm.offload(&frame);
                self.offer(side, frame, header);
            }
            self.drain();
        }
    }
}

/// Whether a frame says where one of the addresses is at the link.
fn claims(frame: &[u8], v4: Ipv4Addr, v6: Ipv6Addr) -> bool {
    let has = |bytes: &[u8]| frame.windows(bytes.len()).any(|window| window == bytes);
    match frame.get(12..14) {
        Some([8, 6]) => has(&v4.octets()),
        Some([0x86, 0xdd]) => {
            let discovers = frame.get(54).is_none_or(|kind| (133..=137).contains(kind));
            discovers && has(&v6.octets())
        }
        _ => false,
    }
}

/// What the station with a hardware address answers to who asks for its addresses.
fn who_has(frame: &Ethernet<'_>, mac: MacAddr) -> Option<Vec<u8>> {
    let v6 = station_v6(mac);
    if frame.ethertype == ETHERTYPE_IPV6 {
        let packet = nd::Packet::parse(frame.payload, false)?;
        let asked =
            matches!(packet.message, nd::Message::Solicitation { target, .. } if target == v6);
        let answer = nd::Packet {
            src: v6,
            dst: packet.src,
            message: nd::Message::Advertisement(nd::Advertisement {
                target: v6,
                mac: Some(mac),
                router: mac == STRANGER,
                solicited: true,
                overrides: true,
            }),
        };
        return asked.then(|| answer.emit(mac, OUTSIDE));
    }
    let asked =
        (frame.ethertype == ethernet::ETHERTYPE_ARP).then(|| Arp::parse(frame.payload))??;
    let answer = Arp {
        operation: arp::REPLY,
        sender_mac: mac,
        sender_ip: station_v4(mac),
        target_mac: OUTSIDE,
        target_ip: OWN_V4,
    };
    let wanted = asked.operation == arp::REQUEST && asked.target_ip == station_v4(mac);
    wanted.then(|| answer.emit(OUTSIDE))
}

impl Storm {
    /// A frame about neighbours, routers or groups.
    fn neighbour(&mut self) -> Vec<u8> {
        let to = self
            .dice
            .pick(&[OUTSIDE, MacAddr::BROADCAST, nd::ALL_NODES_MAC]);
        let far = Ipv4Addr::new(10, 9, 0, self.dice.byte());
        let mut frame = if self.dice.one_in(2) {
            let question = Arp {
                operation: self.dice.pick(&[1, 1, 2, 2, 3]),
                sender_mac: self.dice.pick(&[STRANGER, OUTSIDE, MacAddr::BROADCAST]),
                sender_ip: self.dice.pick(&[far, OWN_V4, Ipv4Addr::UNSPECIFIED]),
                target_mac: OUTSIDE,
                target_ip: self.dice.pick(&[OWN_V4, OWN_V4, far]),
            };
            question.emit(to)
        } else {
            let kind = self.dice.pick(&[130, 133, 134, 135, 135, 136, 136, 137]);
            let far = station_v6(MacAddr([self.dice.byte(); 6]));
            let mut message = vec![kind, 0, 0, 0, self.dice.byte(), 0, 0, 0];
            message.extend(self.dice.pick(&[OWN_V6, far]).octets());
            for _ in 0..self.dice.below(4) {
                message.extend([self.dice.byte() & 7, self.dice.byte() & 3]);
                message.extend(self.dice.pick(&[STRANGER, OUTSIDE]).0);
            }
            let src = self.dice.pick(&[
                station_v6(STRANGER),
                "fe80::9".parse().unwrap(),
                Ipv6Addr::UNSPECIFIED,
            ]);
            let len = u16::try_from(message.len()).unwrap();
            let sum = vmlan::wire::ipv6::pseudo_header(src, OWN_V6, NEXT_HEADER_ICMPV6, len);
            let sum = sum.over(&message).finish();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            self.packet6(to, src, OWN_V6, NEXT_HEADER_ICMPV6, &message)
        };
        frame[6..12].copy_from_slice(&STRANGER.0);
        if self.dice.one_in(4) {
            self.mutate(&mut frame);
        }
        frame
    }
}

#[test]
fn an_honest_guest_does_not_notice_what_is_sent_to_a_router_from_both_sides() {
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = descriptors();
    for router in [true, false] {
        weather(router, duration() / 2);
    }
    assert_eq!(descriptors(), before);
}

/// Lets a storm pass, after which nothing is left.
fn weather(router: bool, duration: Duration) {
    let mut lab = Lab::new(router);
    // The first segment has the router ask where the server is.
    let syn = lab.guest.frames(lab.now.instant, |_| {});
    for (frame, header) in syn {
        lab.offer(Side::Inside, frame, header);
        lab.drain();
    }
    assert!(lab.server.is_some(), "the server was not found");
    while !lab.guest.endpoint.is_open() {
        lab.be_honest(true);
    }
    lab.stormy = true;
    let start = Instant::now();
    while start.elapsed() < duration {
        lab.be_hostile();
        lab.be_honest(false);
        let dice = &mut lab.storms[0].dice;
        let step = match dice.below(200) {
            0 => Duration::from_secs(dice.pick(&[1, 2, 10])),
            _ => Duration::from_millis(1),
        };
        lab.wait(step);
    }
    let mut rounds = 0;
    while lab.verified < lab.written {
        rounds += 1;
        assert!(rounds < 10_000, "{} of {}", lab.verified, lab.written);
        lab.be_honest(true);
        lab.wait(Duration::from_millis(1));
    }
    let view = lab.napt.view(&lab.inside);
    println!(
        "{} frames, {} left, {} flows, {} refused; the honest guest exchanged {} bytes in {} segments and {} datagrams",
        lab.frames,
        lab.passed,
        view.created,
        view.refused,
        lab.verified,
        lab.segments[0] + lab.segments[1],
        lab.answered
    );
    assert!(lab.verified > 0 && lab.answered > 0 && view.created > 100);
    // When nobody says any more, nothing is left.
    lab.wait(Duration::from_secs(3 * 3600));
    let view = lab.napt.view(&lab.inside);
    let flows = lab.napt.flows(lab.now.instant);
    assert_eq!((view.flows, flows.len()), ([0; 3], 0), "{flows:#?}");
    if !router {
        assert_eq!(lab.napt.poll_timeout(), None);
    }
}
