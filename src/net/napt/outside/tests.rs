//! A translator's presence against scripted stations and our own DHCP server, with a clock that only the test moves.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::net::Now;
use crate::net::dhcp::{self, Dhcp, Identity};
use crate::net::gateway::{GatewayFrame, Replies, Service};
use crate::net::inside::Inside;
use crate::net::nat::{Addressing4, Addressing6};
use crate::wire::dhcp::{BOOTREPLY, BOOTREQUEST, MessageType, Options, code};
use crate::wire::nd;
use crate::wire::udp;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const OWN_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
const SECOND: Duration = Duration::from_secs(1);

struct Lab {
    side: OutsideInterface,
    now: Instant,
    begun: Instant,
}

fn fixed() -> Addressing4 {
    Addressing4::Static {
        ip: OWN_IP,
        net: "10.0.0.0/24".parse().unwrap(),
        router: Some(ROUTER_IP),
    }
}

impl Lab {
    fn new(v4: Addressing4, v6: Addressing6) -> Self {
        let spec = NetworkOutside {
            mac: OWN,
            v4,
            v6,
            ports: 1024..=65535,
            hostname: "vmlan nat".to_owned(),
        };
        let now = Instant::now();
        Self {
            side: OutsideInterface::new(&spec, 7, now),
            now,
            begun: now,
        }
    }

    /// One with a static address that nobody else has.
    fn settled() -> Self {
        let mut lab = Self::new(fixed(), Addressing6::Off);
        lab.wait(SECOND * 5);
        assert_eq!(lab.side.v4(), Some(OWN_IP));
        lab
    }

    /// Lets time pass, and returns what is sent meanwhile.
    fn wait(&mut self, time: Duration) -> Vec<Vec<u8>> {
        let sent = self.watch(time);
        sent.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Lets time pass, and returns what is sent meanwhile, with the time since the beginning.
    fn watch(&mut self, time: Duration) -> Vec<(Duration, Vec<u8>)> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.side.poll_timeout().filter(|at| *at <= end) {
            assert!(
                at >= self.now || at + SECOND >= self.now,
                "no timer is late"
            );
            self.now = self.now.max(at);
            let mut out = Vec::new();
            self.side.handle_timeout(self.now, &mut out);
            sent.extend(out.into_iter().map(|frame| (self.now - self.begun, frame)));
            assert!(sent.len() < 10_000, "it comes to rest");
        }
        self.now = end;
        sent
    }

    fn hear(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        self.side.handle_frame(frame, self.now, &mut out);
        out
    }

    fn ask(&mut self, dst: IpAddr) -> (NextHop, Vec<Vec<u8>>) {
        let mut out = Vec::new();
        let hop = self.side.ask(dst, self.now, &mut out);
        (hop, out)
    }
}

fn arps(frames: &[Vec<u8>]) -> Vec<Arp> {
    frames
        .iter()
        .filter_map(|frame| Ethernet::parse(frame))
        .filter(|frame| frame.ethertype == ETHERTYPE_ARP)
        .filter_map(|frame| Arp::parse(frame.payload))
        .collect()
}

fn arp(operation: u16, from: (MacAddr, Ipv4Addr), to: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let arp = Arp {
        operation,
        sender_mac: from.0,
        sender_ip: from.1,
        target_mac: to.0,
        target_ip: to.1,
    };
    let all = operation == REQUEST;
    arp.emit(if all { MacAddr::BROADCAST } else { to.0 })
}

/// The messages among frames, each with its hardware and IP destination.
fn messages(frames: &[Vec<u8>]) -> Vec<(MacAddr, Ipv4Addr, Message)> {
    frames
        .iter()
        .filter_map(|frame| {
            let frame = Ethernet::parse(frame)?;
            let ip = Ipv4::parse(frame.payload)?;
            let udp = Udp::parse(&ip, false)?;
            assert_eq!((udp.src, udp.dst), (CLIENT_PORT, SERVER_PORT));
            Some((frame.dst, ip.dst, Message::parse(udp.payload)?))
        })
        .collect()
}

fn kinds(frames: &[Vec<u8>]) -> Vec<MessageType> {
    let kind = |(_, _, message): &(_, _, Message)| message.kind().unwrap();
    messages(frames).iter().map(kind).collect()
}

fn message(frames: &[Vec<u8>]) -> Message {
    let mut messages = messages(frames);
    assert_eq!(messages.len(), 1);
    messages.remove(0).2
}

/// Answers a message as the server does, for an hour.
fn answer(question: &Message, kind: MessageType, ip: Ipv4Addr) -> Message {
    let mut options = Options::default();
    options.set(code::MESSAGE_TYPE, [kind.code()]);
    options.set(code::SERVER_IDENTIFIER, SERVER_IP.octets());
    if kind != MessageType::Nak {
        options.set(code::LEASE_TIME, 3600u32.to_be_bytes());
        options.set(code::SUBNET_MASK, [255, 255, 255, 0]);
        options.set(code::ROUTERS, ROUTER_IP.octets());
        options.set(code::INTERFACE_MTU, 1400u16.to_be_bytes());
    }
    Message {
        op: BOOTREPLY,
        yiaddr: ip,
        options,
        ..question.clone()
    }
}

fn from_server(message: &Message) -> Vec<u8> {
    let (src, dst) = ((SERVER_IP, SERVER_PORT), (message.yiaddr, CLIENT_PORT));
    let datagram = udp::emit(src, dst, &message.emit(1472)).unwrap();
    let packet = ipv4::emit(src.0, dst.0, ipv4::PROTOCOL_UDP, &datagram).unwrap();
    ethernet::emit(OWN, SERVER, ETHERTYPE_IPV4, &packet)
}

fn dhcp() -> Lab {
    Lab::new(Addressing4::Dhcp, Addressing6::Off)
}

/// One that has been granted an address, and is about to find out whether it is free.
fn granted() -> Lab {
    let mut lab = dhcp();
    let discover = message(&lab.wait(Duration::ZERO));
    let request = lab.hear(&from_server(&answer(&discover, MessageType::Offer, OWN_IP)));
    lab.hear(&from_server(&answer(
        &message(&request),
        MessageType::Ack,
        OWN_IP,
    )));
    lab
}

fn bound() -> Lab {
    let mut lab = granted();
    lab.wait(SECOND);
    assert_eq!(lab.side.v4(), Some(OWN_IP));
    lab
}

#[test]
fn a_server_that_does_not_answer_is_asked_ever_less_often() {
    let mut lab = dhcp();
    let sent = lab.watch(SECOND * 400);
    let times: Vec<_> = sent.iter().map(|(at, _)| at.as_secs_f64()).collect();
    assert_eq!(times[0], 0.0);
    let expected = [4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0];
    for (pair, expected) in times.windows(2).zip(expected) {
        let gap: f64 = pair[1] - pair[0];
        assert!((gap - expected).abs() <= 1.0, "{gap} for {expected}");
    }
    for (_, frame) in &sent {
        let (mac, ip, discover) = messages(std::slice::from_ref(frame)).remove(0);
        assert_eq!((mac, ip), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
        assert_eq!(discover.kind(), Some(MessageType::Discover));
        assert_eq!((discover.op, discover.chaddr), (BOOTREQUEST, OWN));
        assert_eq!(
            discover.options.find(code::HOST_NAME),
            Some(&b"vmlannat"[..])
        );
    }
    assert_eq!(lab.side.advisories(lab.now).len(), 1);
    assert_eq!(lab.side.next_hop(FAR), NextHop::Unreachable);
}

#[test]
fn an_address_is_probed_before_it_is_used_and_then_announced() {
    let mut lab = dhcp();
    let discover = message(&lab.wait(Duration::ZERO));
    let offer = answer(&discover, MessageType::Offer, OWN_IP);
    let request = message(&lab.hear(&from_server(&offer)));
    assert_eq!(request.kind(), Some(MessageType::Request));
    assert_eq!(
        request.options.address(code::REQUESTED_ADDRESS),
        Some(OWN_IP)
    );
    assert_eq!(
        request.options.address(code::SERVER_IDENTIFIER),
        Some(SERVER_IP)
    );
    assert_eq!(request.ciaddr, Ipv4Addr::UNSPECIFIED);
    let ack = answer(&request, MessageType::Ack, OWN_IP);
    let mut sent = lab.hear(&from_server(&ack));
    sent.extend(lab.wait(SECOND / 2));
    let probes = arps(&sent);
    assert_eq!(probes.len(), 3);
    for probe in probes {
        assert!(probe.sender_ip.is_unspecified());
        assert_eq!(probe.target_ip, OWN_IP);
    }
    assert_eq!(lab.side.v4(), None);
    let sent = arps(&lab.wait(SECOND / 2));
    assert_eq!(lab.side.v4(), Some(OWN_IP));
    assert_eq!(lab.side.mtu(), 1400);
    assert_eq!((sent[0].sender_ip, sent[0].target_ip), (OWN_IP, OWN_IP));
    assert_eq!((sent[1].sender_ip, sent[1].target_ip), (OWN_IP, ROUTER_IP));
    assert_eq!(lab.side.mac_for(FAR), None);
    lab.hear(&arp(REPLY, (ROUTER, ROUTER_IP), (OWN, OWN_IP)));
    assert_eq!(lab.side.mac_for(FAR), Some(ROUTER));
    assert_eq!(lab.side.next_hop(FAR), NextHop::Known(ROUTER));
    assert_eq!(lab.side.advisories(lab.now), Vec::<String>::new());
}

#[test]
fn an_address_that_somebody_has_is_declined_and_another_is_asked_for() {
    for conflict in [
        arp(REPLY, (OTHER, OWN_IP), (OWN, Ipv4Addr::UNSPECIFIED)),
        Arp::probe(OTHER, OWN_IP),
    ] {
        let mut lab = granted();
        lab.wait(SECOND / 10);
        let decline = message(&lab.hear(&conflict));
        assert_eq!(decline.kind(), Some(MessageType::Decline));
        assert_eq!(
            decline.options.address(code::REQUESTED_ADDRESS),
            Some(OWN_IP)
        );
        assert_eq!(lab.wait(SECOND * 9), Vec::<Vec<u8>>::new());
        assert_eq!(lab.side.v4(), None);
        let discover = message(&lab.wait(SECOND));
        assert_eq!(discover.kind(), Some(MessageType::Discover));
        assert_eq!(discover.options.find(code::REQUESTED_ADDRESS), None);
        assert_ne!(discover.xid, decline.xid);
        assert_eq!(lab.side.advisories(lab.now).len(), 1);
    }
}

#[test]
fn a_lease_is_renewed_by_asking_its_server_at_half_its_time() {
    let mut lab = bound();
    let sent = lab.wait(SECOND * 1798);
    assert_eq!(messages(&sent), []);
    let sent = lab.wait(SECOND * 2);
    let (mac, ip, renew) = messages(&sent).remove(0);
    assert_eq!((mac, ip), (SERVER, SERVER_IP));
    assert_eq!(
        (renew.kind(), renew.ciaddr),
        (Some(MessageType::Request), OWN_IP)
    );
    assert_eq!(renew.options.find(code::REQUESTED_ADDRESS), None);
    assert_eq!(renew.options.find(code::SERVER_IDENTIFIER), None);
    let mut longer = answer(&renew, MessageType::Ack, OWN_IP);
    longer.options.set(code::ROUTERS, SERVER_IP.octets());
    let sent = lab.hear(&from_server(&longer));
    assert_eq!(arps(&sent)[0].target_ip, SERVER_IP, "the new router");
    assert_eq!(lab.side.v4(), Some(OWN_IP), "it was never without");
    assert_eq!(kinds(&lab.wait(SECOND * 1790)), []);
    assert_eq!(kinds(&lab.wait(SECOND * 20)), [MessageType::Request]);
}

#[test]
fn all_servers_are_asked_before_a_lease_ends_and_then_there_is_no_address() {
    let mut lab = bound();
    let sent = lab.wait(SECOND * 3140);
    let to_server = messages(&sent);
    assert!((3..8).contains(&to_server.len()), "{}", to_server.len());
    assert!(to_server.iter().all(|(mac, ..)| *mac == SERVER));
    let sent = lab.wait(SECOND * 458);
    let to_all = messages(&sent);
    assert!((2..6).contains(&to_all.len()), "{}", to_all.len());
    for (mac, ip, message) in to_all {
        assert_eq!((mac, ip), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST));
        assert_eq!(message.ciaddr, OWN_IP);
    }
    assert_eq!(lab.side.v4(), Some(OWN_IP));
    let discover = message(&lab.wait(SECOND * 3));
    assert_eq!(lab.side.v4(), None);
    assert_eq!(lab.side.mac_for(OTHER_IP.into()), None);
    assert_eq!(discover.kind(), Some(MessageType::Discover));
    assert_eq!(
        discover.options.address(code::REQUESTED_ADDRESS),
        Some(OWN_IP)
    );
}

#[test]
fn any_server_may_extend_a_lease_that_is_rebound() {
    let mut lab = bound();
    lab.wait(SECOND * 3100);
    let sent = lab.wait(SECOND * 100);
    let (_, ip, rebind) = messages(&sent).pop().unwrap();
    assert_eq!(ip, Ipv4Addr::BROADCAST);
    let mut ack = answer(&rebind, MessageType::Ack, OWN_IP);
    ack.options.set(code::SERVER_IDENTIFIER, OTHER_IP.octets());
    lab.hear(&from_server(&ack));
    assert_eq!(kinds(&lab.wait(SECOND * 1000)), []);
    assert_eq!(lab.side.v4(), Some(OWN_IP));
}

#[test]
fn a_server_that_refuses_takes_the_address_away() {
    let mut lab = bound();
    let renew = message(&lab.wait(SECOND * 1810));
    lab.hear(&from_server(&answer(
        &renew,
        MessageType::Nak,
        Ipv4Addr::UNSPECIFIED,
    )));
    assert_eq!(lab.side.v4(), None);
    assert_eq!(kinds(&lab.wait(SECOND)), [MessageType::Discover]);

    let mut lab = dhcp();
    let mut gaps = Vec::new();
    let mut discover = message(&lab.wait(Duration::ZERO));
    for _ in 0..4 {
        let offer = answer(&discover, MessageType::Offer, OWN_IP);
        let request = message(&lab.hear(&from_server(&offer)));
        let refused = lab.now;
        let nak = answer(&request, MessageType::Nak, Ipv4Addr::UNSPECIFIED);
        lab.hear(&from_server(&nak));
        let at = lab.side.poll_timeout().unwrap();
        discover = message(&lab.wait(at - lab.now));
        gaps.push((lab.now - refused).as_secs());
    }
    assert!(gaps[0] == 1 && gaps[3] > gaps[1], "{gaps:?}");
}

#[test]
fn a_server_that_offers_and_then_is_silent_is_given_up() {
    let mut lab = dhcp();
    let discover = message(&lab.wait(Duration::ZERO));
    let offer = answer(&discover, MessageType::Offer, OWN_IP);
    assert_eq!(
        kinds(&lab.hear(&from_server(&offer))),
        [MessageType::Request]
    );
    let sent = kinds(&lab.wait(SECOND * 70));
    assert_eq!(sent[..3], [MessageType::Request; 3]);
    assert_eq!(sent[3], MessageType::Discover);
}

#[test]
fn answers_that_are_not_for_the_question_change_nothing() {
    let mut lab = dhcp();
    let discover = message(&lab.wait(Duration::ZERO));
    let good = answer(&discover, MessageType::Offer, OWN_IP);
    let mut strange = vec![good.clone(); 6];
    strange[0].xid ^= 1;
    strange[1].chaddr = OTHER;
    strange[2].op = BOOTREQUEST;
    strange[3].yiaddr = Ipv4Addr::BROADCAST;
    strange[4].options.set(code::SERVER_IDENTIFIER, []);
    strange[5].options.set(code::LEASE_TIME, [0; 4]);
    for message in &strange {
        assert_eq!(lab.hear(&from_server(message)), Vec::<Vec<u8>>::new());
    }
    let request = message(&lab.hear(&from_server(&good)));
    for kind in [MessageType::Ack, MessageType::Nak] {
        let mut other = answer(&request, kind, OWN_IP);
        other
            .options
            .set(code::SERVER_IDENTIFIER, OTHER_IP.octets());
        lab.hear(&from_server(&other));
    }
    assert_eq!(lab.wait(SECOND), Vec::<Vec<u8>>::new());
    let mut damaged = from_server(&answer(&request, MessageType::Ack, OWN_IP));
    damaged[100] ^= 1;
    lab.hear(&damaged);
    assert_eq!(lab.wait(SECOND), Vec::<Vec<u8>>::new());
}

#[test]
fn an_address_is_given_back_at_the_end() {
    let mut lab = bound();
    let mut out = Vec::new();
    lab.side.shutdown(lab.now, &mut out);
    let (mac, ip, release) = messages(&out).remove(0);
    assert_eq!((mac, ip), (SERVER, SERVER_IP));
    assert_eq!(
        (release.kind(), release.ciaddr),
        (Some(MessageType::Release), OWN_IP)
    );
    assert_eq!(lab.side.v4(), None);
}

#[test]
fn our_own_server_grants_an_address_and_extends_it_for_days() {
    let spec = dhcp::Spec {
        subnet: "10.0.0.0/24".parse().unwrap(),
        server: SERVER_IP,
        pool: Ipv4Addr::new(10, 0, 0, 128)..=Ipv4Addr::new(10, 0, 0, 137),
        lease: SECOND * 1800,
        max_lease: SECOND * 7200,
        renew: None,
        rebind: None,
        routers: vec![ROUTER_IP],
        dns: vec![],
        ntp: vec![],
        domain: None,
        search: vec![],
        mtu: Some(1450),
        routes: vec![],
        vendor: None,
        next_server: None,
        tftp_server: None,
        boot_file: None,
        options: vec![],
        identity: Identity::Mac,
        reservations: vec![],
        restored: vec![],
    };
    let mut lab = dhcp();
    let wall = |now: Instant| Now {
        instant: now,
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) + (now - lab.begun),
    };
    let mut server = Dhcp::new(spec, SERVER, 1500, wall(lab.now));
    let inside = Inside::default();
    let mut requests = 0;
    let (mut to_server, mut to_us) = (Vec::new(), Vec::new());
    let end = lab.now + SECOND * 86_400 * 2;
    let mut held = None;
    while lab.now < end {
        let mut replies = Replies::default();
        for frame in to_server.drain(..) {
            requests += kinds(std::slice::from_ref(&frame))
                .iter()
                .filter(|kind| **kind == MessageType::Request)
                .count();
            let frame = GatewayFrame {
                bytes: &frame,
                partial_checksum: false,
                inside: &inside,
            };
            server.handle_frame(frame, wall(lab.now), &mut replies);
        }
        server.handle_timeout(wall(lab.now), &mut replies);
        to_us.append(&mut replies.frames);
        to_us.extend(replies.durable.into_iter().filter_map(|(_, frame)| frame));
        for frame in to_us.drain(..) {
            lab.side.handle_frame(&frame, lab.now, &mut to_server);
        }
        lab.side.handle_timeout(lab.now, &mut to_server);
        let has = lab.side.v4();
        assert!(held.is_none() || has == held, "it is never lost");
        held = has;
        if to_server.is_empty() {
            let next = [lab.side.poll_timeout(), server.poll_timeout()];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            lab.now = next.max(lab.now + Duration::from_millis(1));
        }
    }
    assert!(held.is_some_and(|ip| (128..=137).contains(&ip.octets()[3])));
    assert_eq!(lab.side.mtu(), 1450);
    assert!((190..=194).contains(&requests), "{requests}");
}

#[test]
fn a_static_address_that_somebody_has_is_tried_again() {
    let mut lab = Lab::new(fixed(), Addressing6::Off);
    assert_eq!(arps(&lab.wait(Duration::ZERO)).len(), 1);
    lab.hear(&arp(REPLY, (OTHER, OWN_IP), (OWN, Ipv4Addr::UNSPECIFIED)));
    assert_eq!(lab.wait(SECOND * 29), Vec::<Vec<u8>>::new());
    assert_eq!(lab.side.v4(), None);
    assert_eq!(lab.side.advisories(lab.now).len(), 1);
    lab.wait(SECOND * 2);
    assert_eq!(lab.side.v4(), Some(OWN_IP));
}

#[test]
fn an_address_is_defended_now_and_then_and_kept() {
    let mut lab = Lab::settled();
    let claim = Arp::gratuitous(OTHER, OWN_IP);
    let defence = arps(&lab.hear(&claim));
    assert_eq!((defence[0].sender_mac, defence[0].sender_ip), (OWN, OWN_IP));
    for _ in 0..100 {
        assert_eq!(lab.hear(&claim), Vec::<Vec<u8>>::new());
    }
    lab.now += SECOND * 11;
    assert_eq!(lab.hear(&claim).len(), 1);
    assert_eq!(lab.side.v4(), Some(OWN_IP));
    let advisory = lab.side.advisories(lab.now).remove(0);
    assert!(advisory.contains("02:00:00:00:00:05"), "{advisory}");
}

#[test]
fn requests_for_the_address_are_answered_and_others_are_not() {
    let mut lab = Lab::settled();
    let ask = |ip| arp(REQUEST, (OTHER, OTHER_IP), (MacAddr::ZERO, ip));
    let answers = lab.hear(&ask(OWN_IP));
    assert_eq!(answers[0][..6], OTHER.0);
    let answer = arps(&answers)[0];
    assert_eq!(
        (answer.operation, answer.sender_mac, answer.target_ip),
        (REPLY, OWN, OTHER_IP)
    );
    assert_eq!(lab.hear(&ask(SERVER_IP)), Vec::<Vec<u8>>::new());
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1];
    let sum = crate::wire::checksum::checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = ipv4::emit(OTHER_IP, OWN_IP, PROTOCOL_ICMP, &echo).unwrap();
    let reply = lab.hear(&ethernet::emit(OWN, OTHER, ETHERTYPE_IPV4, &packet));
    assert_eq!(reply[0][..6], OTHER.0);
}

#[test]
fn packets_go_to_stations_on_the_link_or_to_the_router_or_nowhere() {
    let mut lab = Lab::settled();
    let (hop, sent) = lab.ask(OTHER_IP.into());
    assert_eq!(hop, NextHop::Asked);
    assert_eq!(arps(&sent)[0].target_ip, OTHER_IP);
    lab.hear(&arp(REPLY, (OTHER, OTHER_IP), (OWN, OWN_IP)));
    assert_eq!(lab.side.mac_for(OTHER_IP.into()), Some(OTHER));
    let (hop, sent) = lab.ask(OTHER_IP.into());
    assert_eq!((hop, sent.len()), (NextHop::Known(OTHER), 0));
    for nowhere in [
        "10.0.0.0",
        "10.0.0.255",
        "10.0.0.8",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let (hop, sent) = lab.ask(nowhere.parse().unwrap());
        assert_eq!((hop, sent.len()), (NextHop::Unreachable, 0), "{nowhere}");
        assert_eq!(lab.side.mac_for(nowhere.parse().unwrap()), None);
    }
    assert_eq!(lab.side.next_hop(FAR), NextHop::Unreachable, "it is silent");
    assert_eq!(lab.side.advisories(lab.now).len(), 1);
    assert_eq!(
        lab.ask("2001:db8::1".parse().unwrap()).0,
        NextHop::Unreachable
    );
}

#[test]
fn a_router_that_was_silent_is_used_when_it_answers() {
    let mut lab = Lab::settled();
    let sent = lab.wait(SECOND * 60);
    let asked = arps(&sent);
    assert!((10..16).contains(&asked.len()), "{}", asked.len());
    assert_eq!(lab.side.advisories(lab.now).len(), 1);
    let mut waited = 0;
    while !arps(&lab.wait(SECOND))
        .iter()
        .any(|arp| arp.target_ip == ROUTER_IP)
    {
        waited += 1;
        assert!(waited < 10);
    }
    lab.hear(&arp(REPLY, (ROUTER, ROUTER_IP), (OWN, OWN_IP)));
    assert_eq!(lab.side.mac_for(FAR), Some(ROUTER));
    // In use, it is checked by asking it alone.
    let sent = lab.wait(SECOND * 31);
    assert_eq!(sent[0][..6], ROUTER.0);
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn heard(frames: &[Vec<u8>]) -> Vec<Told> {
    frames
        .iter()
        .filter_map(|frame| nd::Packet::parse(&frame[14..], false))
        .map(|packet| packet.message)
        .filter(|told| !matches!(told, Told::RouterSolicitation { .. }))
        .collect()
}

const LINK_LOCAL: &str = "fe80::ff:fe00:8";
const GLOBAL: &str = "2001:db8::ff:fe00:8";

/// A router's advertisement: its lifetime, and prefixes with how long they are valid and preferred.
fn advertise(router: u16, lifetime: u16, prefixes: &[(&str, u32, u32)]) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(lifetime.to_be_bytes());
    message.extend([0; 8]);
    message.extend([5, 1, 0, 0, 0, 0, 5, 0x78]);
    for (prefix, valid, preferred) in prefixes {
        message.extend([3, 4, 64, 0xc0]);
        message.extend(valid.to_be_bytes());
        message.extend(preferred.to_be_bytes());
        message.extend([0; 4]);
        message.extend(ip6(prefix).octets());
    }
    let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, router);
    let len = u16::try_from(message.len()).unwrap();
    let sum = ipv6::pseudo_header(src, nd::ALL_NODES, NEXT_HEADER_ICMPV6, len)
        .over(&message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = Ipv6 {
        src,
        dst: nd::ALL_NODES,
        next_header: NEXT_HEADER_ICMPV6,
        hop_limit: 255,
        payload: &message,
    };
    let [_, number] = router.to_be_bytes();
    let mac = MacAddr([2, 0, 0, 0, 6, number]);
    ethernet::emit(
        nd::ALL_NODES_MAC,
        mac,
        ETHERTYPE_IPV6,
        &packet.emit().unwrap(),
    )
}

fn router_says(router: u16) -> Vec<u8> {
    let [_, number] = router.to_be_bytes();
    let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, router);
    nd::answer(
        MacAddr([2, 0, 0, 0, 6, number]),
        src,
        (OWN, ip6(LINK_LOCAL)),
    )
}

const FAR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0, 0, 0, 0, 0, 1));

fn auto() -> Lab {
    Lab::new(Addressing4::Off, Addressing6::Auto)
}

/// One with an address of a prefix that router 1 advertises.
fn advertised() -> Lab {
    let mut lab = auto();
    lab.wait(SECOND * 2);
    lab.hear(&advertise(1, 1800, &[("2001:db8::", 86_400, 14_400)]));
    lab.wait(SECOND * 2);
    lab.hear(&router_says(1));
    lab
}

#[test]
fn an_address_is_made_of_what_a_router_advertises() {
    let mut lab = auto();
    let sent = lab.wait(Duration::ZERO);
    let probe = Told::Solicitation {
        target: ip6(LINK_LOCAL),
        mac: None,
    };
    assert_eq!(heard(&sent), [probe]);
    assert_eq!(sent.len(), 2, "and switches are told of the group");
    let sent = lab.wait(SECOND);
    assert!(matches!(heard(&sent)[..], [Told::Advertisement(_)]));
    let asks = |frame: &&Vec<u8>| frame[54] == 133;
    assert_eq!(sent.iter().filter(asks).count(), 1);
    assert_eq!(lab.side.v6(), None);

    lab.hear(&advertise(1, 1800, &[("2001:db8::", 86_400, 14_400)]));
    assert_eq!(lab.side.v6(), None, "somebody may have it");
    let sent = lab.wait(SECOND);
    assert_eq!(lab.side.v6(), Some(ip6(GLOBAL)));
    assert_eq!(lab.side.mtu(), 1400);
    let asked = heard(&sent).into_iter().any(
        |heard| matches!(heard, Told::Solicitation { target, .. } if target == ip6("fe80::1")),
    );
    assert!(asked, "the router is asked where it is");
    assert_eq!(lab.side.mac_for(FAR6), None);
    lab.hear(&router_says(1));
    assert_eq!(lab.side.mac_for(FAR6), Some(MacAddr([2, 0, 0, 0, 6, 1])));
    let (hop, sent) = lab.ask("2001:db8::5".parse().unwrap());
    assert_eq!((hop, sent.len()), (NextHop::Asked, 1), "on the link");
    let routers = lab.wait(SECOND * 100);
    assert_eq!(routers.iter().filter(asks).count(), 0, "one has answered");
}

#[test]
fn routers_are_asked_for_ever_less_often_until_one_answers() {
    let mut lab = auto();
    let asks = |(at, frame): (Duration, Vec<u8>)| (frame[54] == 133).then_some(at.as_secs_f64());
    let times: Vec<_> = lab
        .watch(SECOND * 20_000)
        .into_iter()
        .filter_map(asks)
        .collect();
    let mut expected = 4.0;
    for pair in times.windows(2) {
        let gap: f64 = pair[1] - pair[0];
        assert!(
            (gap - expected).abs() <= expected * 0.101,
            "{gap} for {expected}"
        );
        expected = f64::min(expected * 2.0, 3600.0);
    }
    assert!(times.len() > 12);
}

#[test]
fn a_prefix_that_makes_no_sense_is_no_prefix() {
    let mut lab = auto();
    lab.wait(SECOND * 2);
    let prefixes = [
        ("2001:db8::", 100, 200),
        ("ff05::", 200, 100),
        ("fe80::", 200, 100),
    ];
    let before = lab.side.v6.poll_timeout(lab.now);
    lab.hear(&advertise(1, 0, &prefixes));
    lab.wait(SECOND * 2);
    assert_eq!(lab.side.v6(), None);
    assert_eq!(lab.side.v6.poll_timeout(lab.now), before, "none of it ends");
}

#[test]
fn an_address_that_somebody_has_is_made_anew() {
    let mut lab = auto();
    lab.wait(SECOND * 2);
    let mut seen = vec![ip6(GLOBAL)];
    lab.hear(&advertise(1, 1800, &[("2001:db8::", 86_400, 14_400)]));
    for round in 0..4 {
        let taken = *seen.last().unwrap();
        lab.wait(SECOND / 10);
        let claim = if round % 2 == 0 {
            nd::unsolicited(OTHER, taken, false)
        } else {
            nd::probe(OTHER, taken)
        };
        lab.hear(&claim);
        for heard in heard(&lab.wait(Duration::ZERO)) {
            if let Told::Solicitation { target, .. } = heard {
                seen.push(target);
            }
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
    lab.wait(SECOND * 2);
    assert_eq!(lab.side.v6(), None);
    assert_eq!(lab.side.advisories(lab.now).len(), 1);
    lab.wait(SECOND * 62);
    assert_eq!(lab.side.v6(), Some(ip6(GLOBAL)), "it is tried again");
}

#[test]
fn solicitations_for_own_addresses_are_answered_and_pings_too() {
    let mut lab = advertised();
    for own in [GLOBAL, LINK_LOCAL] {
        let ask = nd::solicit(OTHER, ip6("fe80::5"), ip6(own));
        let told = lab.hear(&ask);
        assert_eq!(told[0][..6], OTHER.0);
        assert!(matches!(heard(&told)[..], [Told::Advertisement(_)]));
    }
    let ask = nd::solicit(OTHER, ip6("fe80::5"), ip6("2001:db8::5"));
    assert_eq!(lab.hear(&ask), Vec::<Vec<u8>>::new());
    let mut echo = vec![128, 0, 0, 0, 1, 2, 3, 4];
    let src = ip6("2001:db8::5");
    let sum = ipv6::pseudo_header(src, ip6(GLOBAL), NEXT_HEADER_ICMPV6, 8)
        .over(&echo)
        .finish();
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = Ipv6 {
        src,
        dst: ip6(GLOBAL),
        next_header: NEXT_HEADER_ICMPV6,
        hop_limit: 64,
        payload: &echo,
    };
    let ping = ethernet::emit(OWN, OTHER, ETHERTYPE_IPV6, &packet.emit().unwrap());
    let pong = lab.hear(&ping);
    let reply = Ipv6::parse(&pong[0][14..]).unwrap();
    assert_eq!((reply.dst, reply.payload[0]), (src, 129));
    let sum = ipv6::pseudo_header(ip6(GLOBAL), src, NEXT_HEADER_ICMPV6, 8).over(reply.payload);
    assert_eq!(sum.finish(), 0);
}

#[test]
fn an_address_is_used_as_long_as_its_prefix_is_valid() {
    let mut lab = advertised();
    lab.wait(SECOND * 20_000);
    assert_eq!(
        lab.side.v6(),
        Some(ip6(GLOBAL)),
        "not preferred, but the only one"
    );
    lab.hear(&advertise(1, 1800, &[("2001:db8:1::", 86_400, 14_400)]));
    lab.wait(SECOND * 2);
    assert_eq!(lab.side.v6(), Some(ip6("2001:db8:1::ff:fe00:8")));
    lab.hear(&advertise(1, 1800, &[("2001:db8::", 86_400, 14_400)]));
    assert_eq!(
        lab.side.v6(),
        Some(ip6("2001:db8:1::ff:fe00:8")),
        "what is used stays in use"
    );
    lab.wait(SECOND * 90_000);
    assert_eq!(lab.side.v6(), None);
}

#[test]
fn nobody_can_end_a_prefix_within_two_hours() {
    let mut lab = advertised();
    lab.hear(&advertise(1, 1800, &[("2001:db8::", 10, 10)]));
    lab.wait(SECOND * 7100);
    assert_eq!(lab.side.v6(), Some(ip6(GLOBAL)));
    lab.hear(&advertise(1, 1800, &[("2001:db8::", 1, 1)]));
    lab.wait(SECOND * 50);
    assert_eq!(
        lab.side.v6(),
        Some(ip6(GLOBAL)),
        "the rest of the time is not cut"
    );
    lab.wait(SECOND * 60);
    assert_eq!(lab.side.v6(), None);
}

#[test]
fn a_router_that_is_silent_or_says_so_gives_way_to_another() {
    let mut lab = advertised();
    lab.hear(&advertise(2, 9000, &[]));
    let (one, two) = (MacAddr([2, 0, 0, 0, 6, 1]), MacAddr([2, 0, 0, 0, 6, 2]));
    assert_eq!(lab.side.mac_for(FAR6), Some(one));
    // In use, and silent when it is checked.
    let mut asked = Vec::new();
    for _ in 0..60 {
        lab.side.mac_for(FAR6);
        asked.extend(lab.wait(SECOND));
        let last = asked
            .last()
            .map(|frame: &Vec<u8>| heard(std::slice::from_ref(frame)));
        if matches!(last.as_deref(), Some([Told::Solicitation { target, .. }]) if *target == ip6("fe80::2"))
        {
            lab.hear(&router_says(2));
        }
    }
    assert_eq!(lab.side.mac_for(FAR6), Some(two));
    lab.hear(&advertise(1, 0, &[]));
    lab.hear(&advertise(2, 0, &[]));
    assert_eq!(lab.side.mac_for(FAR6), None);
    assert_eq!(lab.side.next_hop(FAR6), NextHop::Unreachable);
    let asks = |frame: &Vec<u8>| frame[54] == 133;
    assert!(
        lab.wait(SECOND * 10).iter().any(asks),
        "others are looked for"
    );
}

#[test]
fn floods_of_advertisements_teach_so_much_and_no_more() {
    let mut lab = auto();
    lab.wait(SECOND * 2);
    for n in 0..500u16 {
        let prefix = format!("2001:db8:{n:x}::");
        lab.hear(&advertise(n, 1800, &[(&prefix, 86_400, 14_400)]));
    }
    lab.wait(SECOND * 10);
    assert!(lab.side.v6().is_some());
    assert_eq!(lab.side.v6.routers().count(), 8);
}

#[test]
fn a_static_address_has_its_router_from_the_start() {
    let spec = Addressing6::Static {
        ip: ip6("2001:db8::8"),
        net: "2001:db8::/64".parse().unwrap(),
        router: Some(ip6("fe80::1")),
    };
    let mut lab = Lab::new(Addressing4::Off, spec);
    lab.wait(SECOND * 2);
    assert_eq!(lab.side.v6(), Some(ip6("2001:db8::8")));
    lab.hear(&router_says(1));
    assert!(lab.side.mac_for(FAR6).is_some());
    lab.hear(&advertise(2, 1800, &[("2001:db8:2::", 86_400, 14_400)]));
    lab.wait(SECOND * 10_000);
    assert_eq!(lab.side.v6(), Some(ip6("2001:db8::8")));
    assert_eq!(
        lab.side.next_hop("2001:db8:2::1".parse().unwrap()),
        lab.side.next_hop(FAR6)
    );
}

#[test]
fn groups_are_reported_again_when_a_router_asks() {
    let mut lab = advertised();
    let src = ip6("fe80::1");
    let mut query = vec![130, 0, 0, 0, 0x27, 0x10, 0, 0];
    query.extend([0; 16]);
    query.extend([2, 125, 0, 0]);
    let sum = ipv6::pseudo_header(src, nd::ALL_NODES, NEXT_HEADER_ICMPV6, 28).over(&query);
    query[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let payload = [&[NEXT_HEADER_ICMPV6, 0, 5, 2, 0, 0, 1, 0][..], &query].concat();
    let packet = Ipv6 {
        src,
        dst: nd::ALL_NODES,
        next_header: 0,
        hop_limit: 1,
        payload: &payload,
    };
    let packet = packet.emit().unwrap();
    let query = ethernet::emit(nd::ALL_NODES_MAC, ROUTER, ETHERTYPE_IPV6, &packet);
    let reports = lab.hear(&query);
    assert_eq!(reports.len(), 1, "both addresses are in the same group");
    assert!(matches!(
        Mld::parse(&reports[0][14..]),
        Some(Mld::Report(_))
    ));
    assert_eq!(lab.hear(&query), Vec::<Vec<u8>>::new(), "not again at once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_frame_is_too_strange(
        frames in proptest::collection::vec((0..6usize, proptest::collection::vec((0..200usize, any::<u8>()), 0..4), 0..5000u64), 1..40)
    ) {
        let mut lab = Lab::new(Addressing4::Dhcp, Addressing6::Auto);
        let discover = lab.wait(Duration::ZERO);
        let discover = messages(&discover).remove(0).2;
        let good = [
            from_server(&answer(&discover, MessageType::Offer, OWN_IP)),
            from_server(&answer(&discover, MessageType::Ack, OWN_IP)),
            arp(REPLY, (ROUTER, ROUTER_IP), (OWN, OWN_IP)),
            advertise(1, 1800, &[("2001:db8::", 86_400, 14_400)]),
            router_says(1),
            nd::solicit(OTHER, ip6("fe80::5"), ip6(GLOBAL)),
        ];
        for (kind, changes, wait) in frames {
            let mut frame = good[kind].clone();
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            lab.hear(&frame);
            lab.wait(Duration::from_millis(wait));
            let _ = lab.ask(FAR);
            let _ = lab.ask(FAR6);
            let _ = lab.side.advisories(lab.now);
        }
    }
}
