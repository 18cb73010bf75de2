//! Targets that answer, refuse and keep silent, and a clock that only the test moves.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::wire::nd::{Message, Packet};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const HEALTH: Health = Health {
    interval: Duration::from_secs(5),
    timeout: Duration::from_secs(2),
    fall: 3,
    rise: 2,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn gateways() -> Gateways {
    Gateways {
        v4: Some((Ipv4Addr::new(10, 0, 0, 2), "10.0.0.0/24".parse().unwrap())),
        v6: Some(("fd00::2".parse().unwrap(), "fd00::/64".parse().unwrap())),
        link_local: Some("fe80::2".parse().unwrap()),
    }
}

fn vm() -> Host {
    Host::Vm {
        name: "web".to_owned(),
        mac: GUEST,
    }
}

fn probe(host: Host) -> Probe {
    Probe {
        host,
        port: 80,
        health: HEALTH,
    }
}

/// What is looked after, who is inside, and a clock.
struct Lab {
    probes: HealthProbes,
    inside: Inside,
    now: Now,
    up: Vec<(SocketAddr, bool)>,
}

impl Lab {
    fn new(targets: Vec<Probe>) -> Self {
        Self::with(gateways(), targets)
    }

    fn with(gateways: Gateways, targets: Vec<Probe>) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        Self {
            probes: HealthProbes::new(Spec { gateways, targets }, GATEWAY, now),
            inside: Inside::default(),
            now,
            up: Vec::new(),
        }
    }

    /// Lets the time pass up to what is due, and returns what is sent then.
    fn next(&mut self) -> Vec<Vec<u8>> {
        let due = self.probes.poll_timeout().unwrap();
        self.now.instant = due.max(self.now.instant);
        let mut out = Replies::default();
        self.probes.look_inside(&self.inside, self.now, &mut out);
        self.up.append(&mut out.up);
        out.frames
    }

    fn hear(&mut self, frame: &[u8]) -> (Claim, Vec<Vec<u8>>) {
        let mut out = Replies::default();
        let frame = GatewayFrame {
            bytes: frame,
            partial_checksum: false,
            inside: &self.inside,
        };
        let claim = self.probes.handle_frame(frame, self.now, &mut out);
        self.up.append(&mut out.up);
        (claim, out.frames)
    }

    fn knock(&mut self) -> Header {
        let frames = self.next();
        let syn = frames.last().unwrap();
        let (_, _, header) = segment(syn);
        assert_eq!((header.flags, header.dst), (SYN, 80));
        assert!(PORTS.contains(&header.src));
        header
    }

    fn see(&mut self, address: &str, mac: MacAddr) {
        self.inside.note_seen(ip(address), mac, self.now.instant);
    }
}

fn segment(frame: &[u8]) -> (IpAddr, IpAddr, Header) {
    read(&Ethernet::parse(frame).unwrap(), false).unwrap()
}

/// Answers from a target to the gateway.
fn answer(target: &str, syn: Header, flags: u8) -> Vec<u8> {
    let header = Header {
        src: syn.dst,
        dst: syn.src,
        seq: 77,
        ack: syn.seq.wrapping_add(1),
        flags,
    };
    from(target, &header)
}

fn from(target: &str, header: &Header) -> Vec<u8> {
    match ip(target) {
        IpAddr::V4(src) => {
            let dst = Ipv4Addr::new(10, 0, 0, 2);
            let bytes = header.emit(|len| Sum::default().add_pseudo_header(src, dst, 6, len));
            let packet = ipv4::emit(src, dst, 6, &bytes).unwrap();
            ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet)
        }
        IpAddr::V6(src) => {
            let dst = "fd00::2".parse().unwrap();
            let bytes = header.emit(|len| ipv6::pseudo_header(src, dst, 6, len));
            let packet = Ipv6 {
                src,
                dst,
                next_header: 6,
                hop_limit: 64,
                payload: &bytes,
            };
            ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV6, &packet.emit().unwrap())
        }
    }
}

#[test]
fn a_target_that_answers_is_let_go_at_once() {
    for (address, gateway) in [("10.0.0.9", "10.0.0.2"), ("fd00::9", "fd00::2")] {
        let mut lab = Lab::new(vec![probe(Host::Address(ip(address)))]);
        lab.see(address, GUEST);
        let start = lab.now.instant;
        let frames = lab.next();
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][..12], [GUEST.0, GATEWAY.0].concat());
        let (src, dst, syn) = segment(&frames[0]);
        assert_eq!((src, dst), (ip(gateway), ip(address)));
        let (claim, frames) = lab.hear(&answer(address, syn, SYN | ACK));
        assert_eq!((claim, frames.len()), (Claim::Taken, 1));
        let (_, _, reset) = segment(&frames[0]);
        let expected = Header {
            src: syn.src,
            dst: 80,
            seq: syn.seq.wrapping_add(1),
            ack: 0,
            flags: RST,
        };
        assert_eq!(reset, expected);
        let again = lab.knock();
        assert_eq!(lab.now.instant - start, HEALTH.interval);
        assert_ne!((again.src, again.seq), (syn.src, syn.seq));
        assert!(lab.up.is_empty());
    }
}

#[test]
fn a_target_goes_down_after_failures_in_a_row_and_up_after_successes() {
    let target: SocketAddr = "10.0.0.9:80".parse().unwrap();
    let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9")))]);
    lab.see("10.0.0.9", GUEST);
    let mut outcome = |success: bool| {
        let syn = lab.knock();
        if success {
            lab.hear(&answer("10.0.0.9", syn, SYN | ACK));
        } else {
            assert!(lab.next().is_empty());
        }
        std::mem::take(&mut lab.up)
    };
    for success in [true, false, false, true, false, false] {
        assert!(outcome(success).is_empty());
    }
    assert_eq!(outcome(false), [(target, false)]);
    for success in [false, true, false, true] {
        assert!(outcome(success).is_empty());
    }
    assert_eq!(outcome(true), [(target, true)]);
}

#[test]
fn a_refusal_is_a_failure_and_needs_no_waiting() {
    let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9")))]);
    lab.see("10.0.0.9", GUEST);
    let start = lab.now.instant;
    for _ in 0..3 {
        let syn = lab.knock();
        let heard = lab.hear(&answer("10.0.0.9", syn, RST | ACK));
        assert_eq!(heard, (Claim::Taken, Vec::new()), "a reset is not answered");
    }
    assert_eq!(lab.now.instant - start, HEALTH.interval * 2);
    assert_eq!(lab.up, [("10.0.0.9:80".parse().unwrap(), false)]);
}

#[test]
fn silence_is_a_failure_after_the_timeout() {
    let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9")))]);
    lab.see("10.0.0.9", GUEST);
    let start = lab.now.instant;
    lab.knock();
    assert!(lab.next().is_empty());
    assert_eq!(lab.now.instant - start, HEALTH.timeout);
    let frames = lab.next();
    assert_eq!(lab.now.instant - start, HEALTH.interval);
    let asked = Ethernet::parse(&frames[0]).unwrap();
    assert!(Arp::parse(asked.payload).is_some(), "it may have moved");
    assert_eq!(frames.len(), 2);
}

#[test]
fn a_target_is_asked_where_it_is_first() {
    let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9")))]);
    let frames = lab.next();
    assert_eq!(frames.len(), 1);
    let arp = Arp::parse(&frames[0][14..]).unwrap();
    let asked = (arp.operation, arp.target_ip, arp.sender_ip);
    let addresses = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!(asked, (REQUEST, addresses.0, addresses.1));
    assert!(lab.next().is_empty(), "not known yet");
    lab.see("10.0.0.9", OTHER);
    let frames = lab.next();
    assert_eq!(frames[0][..6], OTHER.0);
    assert_eq!(segment(&frames[0]).2.flags, SYN);

    let mut lab = Lab::new(vec![probe(Host::Address(ip("fd00::9")))]);
    let frames = lab.next();
    let packet = Packet::parse(&frames[0][14..], false).unwrap();
    let Message::Solicitation { target, mac } = packet.message else {
        panic!("it is asked for")
    };
    assert_eq!((IpAddr::from(target), mac), (ip("fd00::9"), Some(GATEWAY)));
    let start = lab.now.instant;
    while lab.probes.watches[0].stage != Stage::Resting {
        assert!(lab.next().is_empty());
    }
    assert_eq!(lab.now.instant - start, HEALTH.timeout, "nobody is there");
    assert_eq!(lab.probes.watches[0].contrary, 1);
}

#[test]
fn a_vm_is_watched_at_the_addresses_it_has() {
    let mut lab = Lab::new(vec![probe(vm())]);
    assert!(lab.next().is_empty(), "it has none");
    lab.see("10.0.0.9", GUEST);
    lab.see("fd00::9", GUEST);
    lab.see("fe80::9", GUEST);
    let mut knocked = Vec::new();
    while knocked.len() < 2 {
        let frames = lab.next();
        knocked.extend(
            frames
                .iter()
                .map(|frame| (frame[..6].to_vec(), segment(frame).1)),
        );
    }
    knocked.sort();
    let expected = ["10.0.0.9", "fd00::9"].map(|address| (GUEST.0.to_vec(), ip(address)));
    assert_eq!(knocked, expected);
}

#[test]
fn a_vm_with_another_address_begins_anew() {
    let only_v4 = Gateways {
        v6: None,
        link_local: None,
        ..gateways()
    };
    let mut lab = Lab::with(only_v4, vec![probe(vm())]);
    lab.see("10.0.0.9", GUEST);
    for _ in 0..3 {
        lab.knock();
        lab.next();
    }
    let old = "10.0.0.9:80".parse().unwrap();
    assert_eq!(lab.up, [(old, false)]);
    lab.see("10.0.0.10", GUEST);
    let (_, dst, _) = segment(lab.next().last().unwrap());
    assert_eq!(dst, ip("10.0.0.10"));
    assert_eq!(lab.up, [(old, false), (old, true)]);
    assert!(lab.probes.watches[0].up);
}

#[test]
fn what_is_no_answer_is_left_to_others() {
    let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9")))]);
    lab.see("10.0.0.9", GUEST);
    let syn = lab.knock();
    let good = answer("10.0.0.9", syn, SYN | ACK);
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    let mut misled = good.clone();
    misled[5] ^= 1;
    let high = Header { src: 40_000, ..syn };
    let connects = Header {
        src: 80,
        dst: syn.src,
        seq: 1,
        ack: 0,
        flags: SYN,
    };
    for frame in [
        damaged,
        misled,
        answer("10.0.0.8", syn, SYN | ACK),
        answer("10.0.0.9", high, SYN | ACK),
        answer("fd00::9", syn, SYN | ACK),
        from("10.0.0.9", &connects),
        vec![0; 60],
    ] {
        assert_eq!(lab.hear(&frame), (Claim::Passed, Vec::new()));
    }
    assert_eq!(lab.hear(&good).0, Claim::Taken);
}

#[test]
fn late_and_stray_answers_are_ended() {
    let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9")))]);
    lab.see("10.0.0.9", GUEST);
    let first = lab.knock();
    lab.next();
    let (claim, frames) = lab.hear(&answer("10.0.0.9", first, SYN | ACK));
    assert_eq!((claim, frames.len()), (Claim::Taken, 1), "it came late");
    assert_eq!(segment(&frames[0]).2.seq, first.seq.wrapping_add(1));
    let syn = lab.knock();
    let guessed = Header {
        seq: syn.seq ^ 1,
        ..syn
    };
    let (claim, frames) = lab.hear(&answer("10.0.0.9", guessed, SYN | ACK));
    assert_eq!((claim, frames.len()), (Claim::Taken, 1));
    assert_eq!(
        lab.hear(&answer("10.0.0.9", guessed, RST | ACK)).0,
        Claim::Passed
    );
    assert_eq!(lab.probes.watches[0].contrary, 1, "it has not answered");
    assert_eq!(
        lab.hear(&answer("10.0.0.9", syn, ACK)),
        (Claim::Taken, Vec::new())
    );
    lab.hear(&answer("10.0.0.9", syn, SYN | ACK));
    assert_eq!(lab.probes.watches[0].contrary, 0);
}

#[test]
fn targets_come_and_go_and_those_that_stay_are_remembered() {
    let mut lab = Lab::new(vec![
        probe(Host::Address(ip("10.0.0.9"))),
        probe(Host::Address(ip("10.0.0.10"))),
    ]);
    lab.see("10.0.0.9", GUEST);
    lab.see("10.0.0.10", OTHER);
    while lab.up.len() < 2 {
        lab.next();
    }
    lab.up.clear();
    let stay = probe(Host::Address(ip("10.0.0.10")));
    let come = probe(Host::Address(ip("fd00::9")));
    lab.probes
        .set_probes(&[come.clone(), stay.clone(), stay], lab.now);
    let ups: Vec<_> = lab.probes.watches.iter().map(|watch| watch.up).collect();
    assert_eq!(ups, [true, false]);
    lab.next();
    assert_eq!(
        lab.up,
        [("10.0.0.9:80".parse().unwrap(), true)],
        "it is not watched"
    );
    lab.probes.set_probes(&[], lab.now);
    lab.next();
    assert_eq!(lab.up.len(), 2);
    assert_eq!(lab.probes.poll_timeout(), None);
}

#[test]
fn only_so_many_targets_are_watched_and_each_has_a_port() {
    let many = |count: u32| {
        let targets = (0..count).map(|number| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
            probe(Host::Address(address.into()))
        });
        targets.collect::<Vec<_>>()
    };
    let mut lab = Lab::new(many(2000));
    assert_eq!(lab.probes.watches.len(), LIMIT);
    for number in 0..2000u32 {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
        lab.inside.note_seen(address.into(), GUEST, lab.now.instant);
    }
    for watch in &mut lab.probes.watches {
        watch.probe.host = vm();
        watch.address = None;
    }
    let mut ports = std::collections::BTreeSet::new();
    lab.now.instant += HEALTH.interval;
    for frame in lab.next() {
        assert!(ports.insert(segment(&frame).2.src));
    }
    assert_eq!(ports.len(), LIMIT);
}

#[test]
fn a_family_that_the_gateway_does_not_speak_is_not_watched() {
    let only_v4 = Gateways {
        v6: None,
        link_local: None,
        ..gateways()
    };
    let lab = Lab::with(
        only_v4,
        vec![probe(Host::Address(ip("fd00::9"))), probe(vm())],
    );
    assert_eq!(lab.probes.watches.len(), 1);
    assert!(!lab.probes.watches[0].v6);
}

proptest! {
    #[test]
    fn any_segment_is_survived(
        segments in proptest::collection::vec((80u16..82, 30u16..36, any::<u32>(), any::<bool>(), any::<u8>()), 0..60)
    ) {
        let mut lab = Lab::new(vec![probe(Host::Address(ip("10.0.0.9"))), probe(vm())]);
        lab.see("10.0.0.9", GUEST);
        for (src, dst, ack, exact, flags) in segments {
            let sent = lab.probes.watches.iter().find_map(|watch| match watch.stage {
                Stage::Knocking(port, seq) => Some((port, seq)),
                Stage::Resting | Stage::Asking(_) => None,
            });
            let (dst, ack) = match sent {
                Some((port, seq)) if exact => (port, seq.wrapping_add(1)),
                _ => (dst, ack),
            };
            lab.hear(&from("10.0.0.9", &Header { src, dst, seq: 1, ack, flags }));
            lab.next();
            prop_assert!(lab.probes.knocking.len() <= lab.probes.watches.len());
        }
    }

    #[test]
    fn any_frame_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100), v6: bool) {
        let mut lab = Lab::new(vec![probe(vm())]);
        let ethertype = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        lab.hear(&ethernet::emit(GATEWAY, GUEST, ethertype, &bytes));
    }
}
