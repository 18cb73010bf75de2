//! A network with a team of uplinks in a laboratory: fake wires, a partner for LACP, and a clock that only the test moves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vmlan::net::drops::DropReason;
use vmlan::net::frame::Head;
use vmlan::net::member::Member;
use vmlan::net::neighbours;
use vmlan::net::outbox::Outbox;
use vmlan::net::port::{OwnFrames, PortId};
use vmlan::net::security::Security;
use vmlan::net::switch::{self, Switch};
use vmlan::net::team::lacp::{self, Lacp};
use vmlan::net::team::load::{Bytes, PERIOD};
use vmlan::net::team::{Detection, Hash, LoadBalancing, Policy, Role, Spec, Team};
use vmlan::net::vlan::{PortVlan, PrivatePort, PrivateRole, PrivateVlans, VlanId};
use vmlan::wire::arp::Arp;
use vmlan::wire::cdp;
use vmlan::wire::ethernet::{ETHERTYPE_BEACON, ETHERTYPE_IPV4, MacAddr, Tci, emit, insert_tag};
use vmlan::wire::lacp::{ETHERTYPE_SLOW, Lacpdu};
use vmlan::wire::nd;
use vmlan::wire::virtio_net::VirtioNetHeader;

const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0xff, 0xff]);
const CHASSIS: MacAddr = MacAddr([2, 0, 0, 0, 0xcc, 0]);
const GIGABIT: u64 = 1_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
/// The first guest's port; uplinks come before it.
const GUEST: u16 = 10;
/// No ports.
const NONE: [u16; 0] = [];

/// The address of the guest at a port.
fn mac(port: u16) -> MacAddr {
    let [high, low] = port.to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

fn name(uplink: u16) -> String {
    format!("u{uplink}")
}

fn names(uplinks: &[u16]) -> Vec<String> {
    uplinks.iter().copied().map(name).collect()
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

/// A policy with these active uplinks.
fn policy(load_balancing: LoadBalancing, active: &[u16]) -> Policy {
    Policy {
        port_group: None,
        active: names(active),
        standby: Vec::new(),
        load_balancing,
        detection: Detection::Link,
        notify_switches: true,
        failback: true,
        reverse_filter: true,
    }
}

fn with_standby(policy: Policy, standby: &[u16]) -> Policy {
    Policy {
        standby: names(standby),
        ..policy
    }
}

fn group(policy: Policy) -> Policy {
    Policy {
        port_group: Some("group".to_owned()),
        ..policy
    }
}

fn beacon(policy: Policy) -> Policy {
    Policy {
        detection: Detection::Beacon,
        ..policy
    }
}

fn no_failback(policy: Policy) -> Policy {
    Policy {
        failback: false,
        ..policy
    }
}

fn team(policies: Vec<Policy>) -> Spec {
    let speaks = policies
        .iter()
        .any(|policy| matches!(policy.load_balancing, LoadBalancing::Lacp(_)));
    Spec {
        name: "lan".to_owned(),
        policies,
        up_delay: Duration::ZERO,
        down_delay: Duration::ZERO,
        lacp: speaks.then(|| lacp_spec(1)),
        discovery: neighbours::Spec {
            advertise: true,
            listen: true,
            chassis: CHASSIS,
            host: String::new(),
            description: String::new(),
        },
    }
}

fn lacp_spec(number: u8) -> lacp::Spec {
    lacp::Spec {
        mode: lacp::Mode::Active,
        rate: lacp::Rate::Fast,
        fallback: false,
        system: MacAddr([2, 0, 0, 0, 0xaa, number]),
        system_priority: 0x8000,
    }
}

/// A guest with the address of its port.
fn guest(port: u16) -> Member {
    Member {
        mac: Some(mac(port)),
        ..Member::default()
    }
}

/// A guest whose address nobody told us.
fn anyone() -> Member {
    Member::default()
}

fn guests(count: u16) -> Vec<Member> {
    (0..count).map(|index| guest(GUEST + index)).collect()
}

fn uplink() -> Member {
    Member {
        vlan: PortVlan::All,
        uplink: true,
        service_tags: true,
        ..Member::default()
    }
}

fn eth(src: MacAddr, dst: MacAddr) -> Vec<u8> {
    emit(dst, src, ETHERTYPE_IPV4, b"payload")
}

fn tagged(mut frame: Vec<u8>, tci: u16) -> Vec<u8> {
    insert_tag(&mut frame, Tci(tci));
    frame
}

fn packet(src: MacAddr, from: u32, to: u32) -> Vec<u8> {
    let mut packet = vec![0x45; 20];
    packet[12..16].copy_from_slice(&from.to_be_bytes());
    packet[16..20].copy_from_slice(&to.to_be_bytes());
    emit(FAR, src, ETHERTYPE_IPV4, &packet)
}

/// The EtherType behind at most one tag.
fn ethertype(frame: &[u8]) -> u16 {
    let at = if frame[12..14] == [0x81, 0] { 16 } else { 12 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// A frame that the switch sent of its own accord.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Said {
    /// In milliseconds.
    at: u128,
    uplink: u16,
    frame: Vec<u8>,
}

struct Lab {
    switch: Switch,
    start: Instant,
    now: Instant,
    /// What left through which port since the last look.
    arrived: BTreeMap<u16, Vec<Vec<u8>>>,
    said: Vec<Said>,
    counted: BTreeMap<PortId, Bytes>,
    /// To which outside network each uplink leads; beacons pass between those that lead to the same.
    networks: BTreeMap<u16, u8>,
    partner: Option<Lacp>,
    ports: u16,
}

impl Lab {
    fn new(spec: Spec, uplinks: u16, members: Vec<Member>) -> Self {
        Self::with(spec, uplinks, members, switch::Spec::default())
    }

    fn with(spec: Spec, uplinks: u16, members: Vec<Member>, kind: switch::Spec) -> Self {
        let start = Instant::now();
        let partner = spec.lacp.map(|_| Lacp::new(lacp_spec(2)));
        let kind = switch::Spec {
            team: Some(Team::new(spec, 7, start)),
            ..kind
        };
        let mut lab = Self {
            switch: Switch::new(kind, start),
            start,
            now: start,
            arrived: BTreeMap::new(),
            said: Vec::new(),
            counted: BTreeMap::new(),
            networks: (0..uplinks).map(|uplink| (uplink, 0)).collect(),
            partner,
            ports: 0,
        };
        for uplink in 0..uplinks {
            lab.add_uplink(uplink);
            lab.link(uplink, true);
        }
        for (id, member) in (GUEST..).zip(members) {
            lab.switch.add(PortId(id), member);
            lab.set_up(id, true);
            lab.ports = id + 1;
        }
        lab
    }

    fn add_uplink(&mut self, id: u16) {
        self.switch.add(PortId(id), uplink());
        let team = self.switch.team_mut().unwrap();
        team.add_uplink(PortId(id), &name(id), self.now);
        if let Some(partner) = &mut self.partner {
            partner.add(PortId(id));
        }
        let mut own = OwnFrames::default();
        self.switch.settle(&mut own);
        self.carry(own);
    }

    fn set_up(&mut self, port: u16, up: bool) {
        let mut own = OwnFrames::default();
        let adapter = (port < GUEST).then(|| (mac(port), Some(GIGABIT)));
        self.switch.set_up(PortId(port), up, adapter, &mut own);
        self.carry(own);
    }

    /// Plugs an uplink in or out, at both ends.
    fn link(&mut self, uplink: u16, up: bool) {
        if let Some(partner) = &mut self.partner {
            partner.set_link(
                PortId(uplink),
                up,
                mac(0x100 + uplink),
                Some(GIGABIT),
                self.now,
            );
        }
        self.set_up(uplink, up);
        self.tick();
    }

    /// Carries what the switch said to the other ends of the wires, and what these answer back.
    fn carry(&mut self, own: OwnFrames) {
        let mut own = own.frames;
        while !own.is_empty() {
            let mut next = OwnFrames::default();
            for (PortId(from), frame) in own {
                let mut answers = OwnFrames::default();
                match ethertype(&frame) {
                    ETHERTYPE_SLOW => {
                        if let Some(partner) = &mut self.partner {
                            partner.handle_pdu(PortId(from), &frame[14..], self.now, &mut answers);
                        }
                    }
                    ETHERTYPE_BEACON => {
                        let network = self.networks.get(&from).copied();
                        let others: Vec<_> = self.networks.clone().into_iter().collect();
                        for (to, other) in others {
                            if to != from && network == Some(other) {
                                let _ = self.inject(to, &frame, &mut next);
                            }
                        }
                    }
                    _ => {}
                }
                self.said.push(Said {
                    at: (self.now - self.start).as_millis(),
                    uplink: from,
                    frame,
                });
                for (PortId(to), frame) in answers.frames {
                    let _ = self.inject(to, &frame, &mut next);
                }
            }
            own = next.frames;
        }
    }

    fn inject(&mut self, port: u16, frame: &[u8], own: &mut OwnFrames) -> Result<(), DropReason> {
        let mut out = Outbox::default();
        out.reserve(PortId(self.ports.max(GUEST)));
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        let passed = head.parse().and_then(|parsed| {
            self.switch
                .forward(PortId(port), 0, &head, &parsed, &mut out)
        });
        if !out.take_own().is_empty() {
            self.switch.handle_own(PortId(port), frame, own);
        }
        out.drain(|to, batch| {
            for egress in batch {
                let changed = head.with_tag(egress.action);
                self.arrived
                    .entry(to.0)
                    .or_default()
                    .push(changed.bytes().to_vec());
            }
        });
        passed
    }

    /// Sends a frame into the switch from the other end of a port's wire.
    fn send(&mut self, port: u16, frame: &[u8]) -> Result<(), DropReason> {
        let mut own = OwnFrames::default();
        let passed = self.inject(port, frame, &mut own);
        self.carry(own);
        passed
    }

    /// Does what is due now.
    fn tick(&mut self) {
        let mut own = OwnFrames::default();
        if let Some(partner) = &mut self.partner {
            let mut answers = OwnFrames::default();
            partner.handle_timeout(self.now, &mut answers);
            for (PortId(to), frame) in answers.frames {
                let _ = self.inject(to, &frame, &mut own);
            }
        }
        let counted = self.counted.clone();
        let counted = |port: PortId| counted.get(&port).copied().unwrap_or_default();
        self.switch.handle_timeout(self.now, counted, &mut own);
        self.carry(own);
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let partner = self.partner.as_ref().and_then(Lacp::poll_timeout);
            let next = self.switch.poll_timeout().min(partner.unwrap_or(until));
            if next > until {
                break;
            }
            self.now = next.max(self.now + Duration::from_micros(1)).min(until);
            self.tick();
            if self.now == until {
                break;
            }
        }
        self.now = until;
        self.tick();
    }

    /// Takes which ports got a frame since the last look, each as often as it did.
    fn reached(&mut self) -> Vec<u16> {
        let arrived = std::mem::take(&mut self.arrived);
        arrived
            .into_iter()
            .flat_map(|(port, frames)| frames.into_iter().map(move |_| port))
            .collect()
    }

    /// By which uplinks a frame of a guest leaves.
    fn by(&mut self, port: u16) -> Vec<u16> {
        self.reached();
        let _ = self.send(port, &eth(mac(port), FAR));
        let reached = self.reached();
        reached.into_iter().filter(|port| *port < GUEST).collect()
    }

    /// By which uplink each of the guests sends, which has to be one.
    fn spread(&mut self, count: u16) -> Vec<u16> {
        (GUEST..GUEST + count)
            .map(|port| match self.by(port).as_slice() {
                [one] => *one,
                other => panic!("port {port} sends by {other:?}"),
            })
            .collect()
    }

    /// Takes what was announced since the last look.
    fn announced(&mut self) -> Vec<Said> {
        let said = std::mem::take(&mut self.said);
        said.into_iter()
            .filter(|said| {
                !matches!(
                    ethertype(&said.frame),
                    ETHERTYPE_SLOW | ETHERTYPE_BEACON | 0x88cc
                )
            })
            .collect()
    }

    /// Whose addresses were announced since the last look, and by which uplink.
    fn announced_by(&mut self) -> BTreeSet<(MacAddr, u16)> {
        let said = self.announced();
        said.iter()
            .map(|said| (MacAddr::from_slice(&said.frame[6..]).unwrap(), said.uplink))
            .collect()
    }

    /// Lets all announcements of the past be over and forgets them.
    fn quiet(&mut self) {
        self.advance(SECOND * 2);
        self.said.clear();
        self.arrived.clear();
    }

    fn advisories(&self) -> String {
        self.switch.team().unwrap().advisories(self.now).join("\n")
    }
}

use LoadBalancing::{Explicit, IpHash, LoadBased, PortId as ByPort, SourceMac};

const BY_LACP: LoadBalancing = LoadBalancing::Lacp(Hash::Layer34);

// Who is carried by whom.

#[test]
fn ports_are_spread_in_the_order_in_which_they_were_attached() {
    for by in [ByPort, LoadBased] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(4));
        assert_eq!(lab.spread(4), [0, 1, 0, 1], "{by:?}");
        let mut lab = Lab::new(team(vec![policy(by, &[2, 0, 1])]), 3, guests(6));
        assert_eq!(lab.spread(6), [2, 0, 1, 2, 0, 1], "{by:?}");
    }
}

#[test]
fn by_source_address_its_last_byte_chooses_the_uplink() {
    for uplinks in [2, 3] {
        let active: Vec<_> = (0..uplinks).collect();
        let spec = team(vec![policy(SourceMac, &active)]);
        let mut lab = Lab::new(spec, uplinks, guests(6));
        let expected: Vec<_> = (GUEST..GUEST + 6).map(|port| port % uplinks).collect();
        assert_eq!(lab.spread(6), expected);
    }
}

#[test]
fn by_source_address_the_stations_behind_one_port_take_different_uplinks() {
    let mut lab = Lab::new(team(vec![policy(SourceMac, &[0, 1])]), 2, vec![anyone()]);
    for last in 0..4 {
        lab.send(GUEST, &eth(mac(last), FAR)).unwrap();
        assert_eq!(lab.reached(), [last % 2]);
    }
}

#[test]
fn by_ip_addresses_each_packet_chooses_its_uplink() {
    for uplinks in [2_u32, 3] {
        let active: Vec<_> = (0..3).take(uplinks as usize).collect();
        let spec = team(vec![policy(IpHash, &active)]);
        let mut lab = Lab::new(spec, 3, guests(1));
        for to in 0xc0a8_6470..0xc0a8_6480_u32 {
            lab.send(GUEST, &packet(mac(GUEST), 0xc0a8_6465, to))
                .unwrap();
            let expected = (0xc0a8_6465 ^ to) % uplinks;
            assert_eq!(lab.reached(), [u16::try_from(expected).unwrap()]);
        }
    }
}

#[test]
fn by_explicit_order_the_first_uplink_carries_everything() {
    let mut lab = Lab::new(team(vec![policy(Explicit, &[1, 0, 2])]), 3, guests(3));
    assert_eq!(lab.spread(3), [1, 1, 1]);
    lab.link(1, false);
    assert_eq!(lab.spread(3), [0, 0, 0]);
    lab.link(0, false);
    assert_eq!(lab.spread(3), [2, 2, 2]);
    lab.link(1, true);
    assert_eq!(lab.spread(3), [1, 1, 1]);
}

#[test]
fn by_lacp_frames_flow_once_the_partner_agrees_and_by_those_uplinks_only_that_it_has() {
    let mut lab = Lab::new(team(vec![policy(BY_LACP, &[0, 1, 2])]), 3, guests(1));
    lab.advance(SECOND * 10);
    let used = |lab: &mut Lab| -> BTreeSet<u16> {
        lab.reached();
        for to in 0..64 {
            lab.send(GUEST, &packet(mac(GUEST), 0x0a00_0001, to))
                .unwrap();
        }
        lab.reached().into_iter().collect()
    };
    assert_eq!(used(&mut lab), BTreeSet::from([0, 1, 2]));
    lab.link(1, false);
    assert_eq!(used(&mut lab), BTreeSet::from([0, 2]));
    lab.link(1, true);
    lab.advance(SECOND * 10);
    assert_eq!(used(&mut lab), BTreeSet::from([0, 1, 2]));
}

#[test]
fn without_a_partner_lacp_carries_nothing_and_takes_nothing() {
    let mut lab = Lab::new(team(vec![policy(BY_LACP, &[0, 1])]), 2, guests(1));
    lab.partner = None;
    lab.advance(SECOND * 20);
    assert_eq!(lab.by(GUEST), NONE);
    let outside = eth(FAR, MacAddr::BROADCAST);
    assert_eq!(lab.send(0, &outside), Err(DropReason::ReverseFilter));
}

#[test]
fn a_lacpdu_that_was_not_sent_to_the_next_switch_is_nobodys() {
    let mut lab = Lab::new(team(vec![policy(BY_LACP, &[0])]), 1, guests(1));
    lab.advance(SECOND * 10);
    let forged = Lacpdu::default().emit(FAR);
    let heard = |lab: &Lab| {
        let view = lab.switch.team().unwrap().view(lab.now);
        format!("{:?}", view.uplinks[0].lacp)
    };
    let before = heard(&lab);
    // A switch that knows nothing of CDP passes on what goes to its address, from wherever it came.
    for dst in [
        cdp::GROUP,
        MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]),
        MacAddr::BROADCAST,
        mac(0),
    ] {
        let mut forged = forged.clone();
        forged[..6].copy_from_slice(&dst.0);
        let _ = lab.send(0, &forged);
        assert_eq!(heard(&lab), before, "to {dst}");
    }
    assert_eq!(lab.by(GUEST), [0]);
}

// Failing over, and back.

#[test]
fn without_a_standby_those_of_a_failed_uplink_spread_over_the_others() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1, 2])]), 3, guests(9));
    lab.link(1, false);
    let spread = lab.spread(9);
    for (index, (before, after)) in [0, 1, 2].into_iter().cycle().zip(&spread).enumerate() {
        assert!(
            before == *after || before == 1,
            "port {index} had no reason to move"
        );
    }
    let on = |uplink| spread.iter().filter(|other| **other == uplink).count();
    assert_eq!((on(1), on(0).min(on(2))), (0, 4));
}

#[test]
fn a_standby_takes_the_place_of_each_failed_uplink_one_for_one() {
    let spec = team(vec![with_standby(policy(ByPort, &[0, 1]), &[2, 3])]);
    let mut lab = Lab::new(spec, 4, guests(4));
    assert_eq!(lab.spread(4), [0, 1, 0, 1]);
    lab.link(1, false);
    assert_eq!(lab.spread(4), [0, 2, 0, 2]);
    lab.link(0, false);
    assert_eq!(lab.spread(4), [3, 2, 3, 2]);
    lab.link(2, false);
    assert_eq!(lab.spread(4), [3, 3, 3, 3]);
    lab.link(1, true);
    assert_eq!(lab.spread(4), [3, 1, 3, 1]);
}

#[test]
fn by_explicit_order_a_standby_comes_after_all_active_ones() {
    let spec = team(vec![with_standby(policy(Explicit, &[0, 1]), &[2])]);
    let mut lab = Lab::new(spec, 3, guests(2));
    lab.link(0, false);
    assert_eq!(lab.spread(2), [1, 1]);
    lab.link(1, false);
    assert_eq!(lab.spread(2), [2, 2]);
}

#[test]
fn an_uplink_that_works_again_gets_its_ports_back_at_once() {
    for by in [ByPort, SourceMac, LoadBased, Explicit] {
        let spec = team(vec![with_standby(policy(by, &[0, 1]), &[2])]);
        let mut lab = Lab::new(spec, 3, guests(4));
        let before = lab.spread(4);
        lab.link(0, false);
        assert_ne!(lab.spread(4), before, "{by:?}");
        lab.link(0, true);
        assert_eq!(lab.spread(4), before, "{by:?}");
    }
}

#[test]
fn without_failback_it_waits_until_the_one_that_took_its_place_fails() {
    for by in [ByPort, SourceMac, LoadBased] {
        let spec = team(vec![no_failback(with_standby(policy(by, &[0, 1]), &[2]))]);
        let mut lab = Lab::new(spec, 3, guests(4));
        let before = lab.spread(4);
        lab.link(0, false);
        let after = lab.spread(4);
        lab.link(0, true);
        assert_eq!(lab.spread(4), after, "{by:?}");
        lab.link(2, false);
        assert_eq!(lab.spread(4), before, "{by:?}");
    }
}

#[test]
fn without_failback_an_uplink_that_only_comes_up_late_gets_its_place() {
    for (by, active, standby) in [
        (ByPort, &[1][..], &[0][..]),
        (Explicit, &[1], &[0]),
        (ByPort, &[1, 0], &[]),
    ] {
        let spec = team(vec![no_failback(with_standby(policy(by, active), standby))]);
        let mut lab = Lab::new(spec, 1, guests(1));
        lab.networks.insert(1, 0);
        assert_eq!(lab.spread(1), [0], "{by:?}");
        lab.add_uplink(1);
        lab.link(1, true);
        assert_eq!(lab.spread(1), [1], "{by:?}");
        lab.link(1, false);
        lab.link(1, true);
        assert_eq!(lab.spread(1), [0], "{by:?}: now it has failed");
    }
}

#[test]
fn what_left_by_the_former_uplink_and_comes_back_by_the_new_one_is_no_conflict() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
    lab.link(0, false);
    let frame = eth(mac(GUEST), MacAddr::BROADCAST);
    for _ in 0..9 {
        assert_eq!(lab.send(1, &frame), Err(DropReason::Reflected));
    }
    assert_eq!(lab.switch.conflicts().count(), 0);
    lab.advance(Duration::from_secs(2));
    for _ in 0..9 {
        assert_eq!(lab.send(1, &frame), Err(DropReason::Reflected));
    }
    assert_eq!(lab.switch.conflicts().count(), 1);
}

#[test]
fn without_failback_the_explicit_order_counts_at_the_next_failure_only() {
    let spec = team(vec![no_failback(policy(Explicit, &[0, 1, 2]))]);
    let mut lab = Lab::new(spec, 3, guests(2));
    lab.link(0, false);
    lab.link(0, true);
    assert_eq!(lab.spread(2), [1, 1]);
    lab.link(1, false);
    assert_eq!(lab.spread(2), [0, 0]);
}

#[test]
fn when_all_uplinks_are_down_nothing_leaves_and_when_they_are_back_all_is_as_before() {
    for by in [ByPort, SourceMac, IpHash, LoadBased, Explicit] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(4));
        let before = lab.spread(4);
        lab.link(0, false);
        lab.link(1, false);
        let frame = eth(mac(GUEST), FAR);
        assert_eq!(lab.send(GUEST, &frame), Err(DropReason::NoUplink), "{by:?}");
        assert!(!lab.switch.is_carried(PortId(GUEST)));
        assert_eq!(lab.reached(), NONE, "{by:?}");
        lab.link(1, true);
        assert_eq!(lab.spread(4), [1; 4], "{by:?}");
        lab.link(0, true);
        assert_eq!(lab.spread(4), before, "{by:?}");
        assert!(lab.switch.is_carried(PortId(GUEST)));
    }
}

// Delays.

fn delayed(up: Duration, down: Duration, policies: Vec<Policy>) -> Spec {
    Spec {
        up_delay: up,
        down_delay: down,
        ..team(policies)
    }
}

#[test]
fn a_link_that_is_back_is_used_after_up_delay() {
    let spec = delayed(SECOND * 10, Duration::ZERO, vec![policy(ByPort, &[0, 1])]);
    let mut lab = Lab::new(spec, 2, guests(2));
    lab.advance(SECOND * 10);
    lab.link(0, false);
    lab.link(0, true);
    lab.advance(SECOND * 10 - Duration::from_millis(1));
    assert_eq!(lab.spread(2), [1, 1]);
    lab.advance(Duration::from_millis(1));
    assert_eq!(lab.spread(2), [0, 1]);
}

#[test]
fn where_nothing_else_works_no_up_delay_is_waited_for() {
    let spec = delayed(SECOND * 10, Duration::ZERO, vec![policy(ByPort, &[0, 1])]);
    let mut lab = Lab::new(spec, 2, guests(2));
    assert_eq!(lab.spread(2), [0, 0], "the first link counts at once");
    lab.advance(SECOND * 5);
    lab.link(0, false);
    assert_eq!(
        lab.spread(2),
        [1, 1],
        "and one that waits, when the last other one fails"
    );
}

#[test]
fn no_up_delay_is_waited_for_where_no_uplink_of_a_port_group_works() {
    let own = group(policy(ByPort, &[1]));
    let spec = delayed(SECOND * 10, Duration::ZERO, vec![policy(ByPort, &[0]), own]);
    let member = Member {
        policy: 1,
        ..guest(GUEST)
    };
    let mut lab = Lab::new(spec, 2, vec![member]);
    assert_eq!(lab.spread(1), [1]);
}

#[test]
fn a_short_gap_is_not_noticed_with_down_delay() {
    let spec = delayed(Duration::ZERO, SECOND * 2, vec![policy(ByPort, &[0, 1])]);
    let mut lab = Lab::new(spec, 2, guests(2));
    lab.quiet();
    lab.link(0, false);
    lab.advance(SECOND);
    lab.link(0, true);
    lab.advance(SECOND * 5);
    assert_eq!((lab.spread(2), lab.announced()), (vec![0, 1], vec![]));
    lab.link(0, false);
    lab.advance(SECOND * 2 - Duration::from_millis(1));
    assert_eq!(lab.by(GUEST), NONE, "it is waited for the link");
    lab.advance(Duration::from_millis(1));
    assert_eq!(lab.spread(2), [1, 1]);
}

// Port groups with uplinks of their own choice.

#[test]
fn a_port_group_may_have_another_order() {
    let own = group(with_standby(policy(Explicit, &[1]), &[0]));
    let spec = team(vec![with_standby(policy(Explicit, &[0]), &[1]), own]);
    let member = Member {
        policy: 1,
        ..guest(GUEST + 1)
    };
    let mut lab = Lab::new(spec, 2, vec![guest(GUEST), member]);
    assert_eq!(lab.spread(2), [0, 1]);
    lab.link(1, false);
    assert_eq!(lab.spread(2), [0, 0]);
    lab.link(1, true);
    lab.link(0, false);
    assert_eq!(lab.spread(2), [1, 1]);
}

#[test]
fn an_uplink_that_a_port_group_does_not_name_is_never_used_for_it() {
    for reverse_filter in [true, false] {
        for by in [ByPort, SourceMac, IpHash, LoadBased, Explicit] {
            let own = group(Policy {
                reverse_filter,
                ..policy(by, &[1])
            });
            let spec = team(vec![policy(ByPort, &[0, 1]), own]);
            let member = Member {
                policy: 1,
                ..guest(GUEST)
            };
            let mut lab = Lab::new(spec, 2, vec![member]);
            assert_eq!(lab.spread(1), [1]);
            for dst in [mac(GUEST), MacAddr::BROADCAST] {
                lab.send(1, &eth(FAR, dst)).unwrap();
                assert_eq!(lab.reached(), [GUEST], "{by:?}");
                assert_eq!(
                    lab.send(0, &eth(FAR, dst)),
                    Err(DropReason::ReverseFilter),
                    "{by:?} {reverse_filter}"
                );
            }
            lab.link(1, false);
            assert_eq!(lab.by(GUEST), NONE, "{by:?}");
        }
    }
}

// Uplinks that come and go.

#[test]
fn an_uplink_that_is_added_carries_its_share_and_one_that_is_removed_none() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0])]), 1, guests(4));
    assert_eq!(lab.spread(4), [0; 4]);
    lab.switch.team_mut().unwrap().assign("u1", Role::Active);
    lab.add_uplink(1);
    assert_eq!(lab.spread(4), [0; 4], "it has no link yet");
    lab.link(1, true);
    assert_eq!(lab.spread(4), [0, 1, 0, 1]);
    let mut own = OwnFrames::default();
    lab.switch.remove_uplink(PortId(0), &mut own);
    assert_eq!(lab.spread(4), [1; 4]);
    assert_eq!(
        lab.send(0, &eth(FAR, mac(GUEST))),
        Err(DropReason::PortDown)
    );
    lab.switch.remove_uplink(PortId(1), &mut own);
    assert_eq!(lab.by(GUEST), NONE);
}

#[test]
fn an_uplink_that_is_added_as_standby_takes_the_place_of_one_that_fails() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0])]), 1, guests(2));
    lab.switch.team_mut().unwrap().assign("u1", Role::Standby);
    lab.add_uplink(1);
    lab.link(1, true);
    assert_eq!(lab.spread(2), [0, 0]);
    lab.link(0, false);
    assert_eq!(lab.spread(2), [1, 1]);
}

#[test]
fn an_uplink_that_is_added_goes_to_port_groups_that_follow_the_network() {
    let own = group(policy(Explicit, &[0]));
    let member = Member {
        policy: 1,
        ..guest(GUEST)
    };
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0]), own]), 1, vec![member]);
    lab.switch.team_mut().unwrap().assign("u1", Role::Active);
    lab.add_uplink(1);
    lab.link(1, true);
    lab.link(0, false);
    assert_eq!(lab.spread(1), [1]);
}

#[test]
fn an_uplink_that_was_removed_takes_its_place_along() {
    let spec = team(vec![no_failback(with_standby(
        policy(ByPort, &[0, 1]),
        &[2],
    ))]);
    let mut lab = Lab::new(spec, 3, guests(2));
    lab.link(1, false);
    assert_eq!(lab.spread(2), [0, 2]);
    lab.switch
        .remove_uplink(PortId(0), &mut OwnFrames::default());
    lab.link(1, true);
    assert_eq!(
        lab.spread(2),
        [2, 2],
        "the standby keeps the place that it took"
    );
    lab.link(2, false);
    assert_eq!(lab.spread(2), [1, 1]);
}

#[test]
fn an_uplink_that_is_added_goes_to_no_port_group_that_chose_its_own() {
    let own = group(policy(ByPort, &[1]));
    let spec = team(vec![policy(ByPort, &[0, 1]), own]);
    let member = Member {
        policy: 1,
        ..guest(GUEST)
    };
    let mut lab = Lab::new(spec, 2, vec![member]);
    // What is left to the network is what the port group chose.
    lab.switch
        .remove_uplink(PortId(0), &mut OwnFrames::default());
    lab.switch.team_mut().unwrap().assign("u2", Role::Active);
    lab.add_uplink(2);
    lab.link(2, true);
    lab.link(1, false);
    assert_eq!(lab.by(GUEST), NONE);
}

// Beacons.

#[test]
fn with_three_uplinks_the_one_whose_beacons_are_lost_is_not_used() {
    let spec = team(vec![beacon(policy(ByPort, &[0, 1, 2]))]);
    let mut lab = Lab::new(spec, 3, guests(3));
    lab.advance(SECOND * 10);
    assert_eq!(lab.spread(3), [0, 1, 2]);
    lab.networks.insert(1, 9);
    lab.advance(SECOND * 5);
    assert!(!lab.spread(3).contains(&1));
    assert!(
        lab.advisories().is_empty(),
        "two still work: {}",
        lab.advisories()
    );
    lab.networks.insert(1, 0);
    lab.advance(SECOND * 8);
    assert_eq!(lab.spread(3), [0, 1, 2]);
}

#[test]
fn with_two_uplinks_and_no_beacons_frames_leave_by_each() {
    for by in [ByPort, SourceMac] {
        let mut lab = Lab::new(team(vec![beacon(policy(by, &[0, 1]))]), 2, guests(2));
        lab.advance(SECOND * 3);
        lab.networks.insert(1, 9);
        lab.advance(SECOND * 6);
        assert_eq!(lab.by(GUEST), [0, 1], "{by:?}");
        lab.send(0, &eth(FAR, mac(GUEST))).unwrap();
        lab.send(1, &eth(FAR, mac(GUEST))).unwrap();
        assert_eq!(lab.reached(), [GUEST, GUEST], "{by:?}");
        lab.networks.insert(1, 0);
        lab.advance(SECOND * 8);
        assert_eq!(lab.spread(2), [0, 1], "{by:?}");
    }
}

#[test]
fn with_one_active_and_one_standby_frames_leave_by_each_too() {
    let spec = team(vec![beacon(with_standby(policy(Explicit, &[0]), &[1]))]);
    let mut lab = Lab::new(spec, 2, guests(1));
    lab.advance(SECOND * 3);
    assert_eq!(lab.by(GUEST), [0]);
    lab.networks.insert(1, 9);
    lab.advance(SECOND * 6);
    assert_eq!(lab.by(GUEST), [0, 1]);
    lab.networks.insert(1, 0);
    lab.advance(SECOND * 8);
    assert_eq!(lab.by(GUEST), [0]);
}

#[test]
fn while_frames_leave_by_each_uplink_what_comes_back_reaches_nobody() {
    let spec = team(vec![beacon(policy(ByPort, &[0, 1]))]);
    let mut lab = Lab::new(spec, 2, vec![guest(GUEST), anyone()]);
    lab.advance(SECOND * 3);
    lab.networks.insert(1, 9);
    lab.advance(SECOND * 6);
    for port in [GUEST, GUEST + 1] {
        let frame = eth(mac(port), MacAddr::BROADCAST);
        lab.send(port, &frame).unwrap();
        lab.reached();
        for uplink in [0, 1] {
            assert_eq!(lab.send(uplink, &frame), Err(DropReason::Reflected));
        }
        assert_eq!(lab.reached(), NONE);
    }
}

#[test]
fn while_frames_leave_by_each_uplink_stations_are_announced_by_each() {
    let spec = team(vec![beacon(policy(ByPort, &[0, 1]))]);
    let mut lab = Lab::new(spec, 2, guests(1));
    lab.advance(SECOND * 3);
    lab.announced();
    lab.networks.insert(1, 9);
    lab.advance(SECOND * 6);
    let expected = BTreeSet::from([(mac(GUEST), 0), (mac(GUEST), 1)]);
    assert_eq!(lab.announced_by(), expected);
}

#[test]
fn what_uses_the_same_type_as_beacons_and_is_none_passes() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(2));
    let foreign = emit(
        MacAddr::BROADCAST,
        FAR,
        ETHERTYPE_BEACON,
        b"somebody else's",
    );
    lab.send(0, &foreign).unwrap();
    assert_eq!(lab.reached(), [GUEST]);
}

#[test]
fn beacons_reach_no_guest() {
    let spec = team(vec![beacon(policy(ByPort, &[0, 1, 2]))]);
    let all = Member {
        vlan: PortVlan::All,
        security: Security {
            promiscuous: true,
            ..Security::LEGACY
        },
        ..guest(GUEST)
    };
    let mut lab = Lab::new(spec, 3, vec![all]);
    lab.advance(SECOND * 5);
    assert!(
        lab.said
            .iter()
            .any(|said| ethertype(&said.frame) == ETHERTYPE_BEACON)
    );
    assert_eq!(lab.reached(), NONE);
}

// The reverse filter.

#[test]
fn a_broadcast_that_comes_in_by_every_uplink_reaches_each_port_once() {
    for by in [ByPort, SourceMac, LoadBased, Explicit] {
        let promiscuous = Member {
            security: Security {
                promiscuous: true,
                ..Security::default()
            },
            ..guest(GUEST + 3)
        };
        let members = vec![guest(GUEST), guest(GUEST + 1), anyone(), promiscuous];
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1, 2])]), 3, members);
        for uplink in 0..3 {
            let _ = lab.send(uplink, &eth(FAR, MacAddr::BROADCAST));
        }
        let expected: Vec<_> = (GUEST..GUEST + 4).collect();
        assert_eq!(lab.reached(), expected, "{by:?}");
    }
}

#[test]
fn a_unicast_that_a_switch_floods_is_delivered_once() {
    for by in [ByPort, SourceMac, LoadBased, Explicit] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1, 2])]), 3, guests(3));
        lab.quiet();
        for uplink in 0..3 {
            let _ = lab.send(uplink, &eth(FAR, mac(GUEST + 1)));
        }
        assert_eq!(lab.reached(), [GUEST + 1], "{by:?}");
    }
}

#[test]
fn a_promiscuous_port_sees_what_a_switch_floods_once() {
    let promiscuous = Member {
        security: Security {
            promiscuous: true,
            ..Security::default()
        },
        ..guest(GUEST)
    };
    let members = vec![promiscuous, guest(GUEST + 1)];
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, members);
    let dst = mac(0x77);
    for uplink in 0..2 {
        assert!(lab.send(uplink, &eth(FAR, dst)).is_err(), "nobody's");
    }
    assert_eq!(lab.reached(), [GUEST]);
    for uplink in 0..2 {
        let _ = lab.send(uplink, &eth(FAR, mac(GUEST + 1)));
    }
    assert_eq!(lab.reached(), [GUEST, GUEST + 1], "another's");
}

#[test]
fn without_the_filter_a_broadcast_comes_in_by_every_uplink_of_the_policy() {
    let spec = team(vec![Policy {
        reverse_filter: false,
        ..with_standby(policy(Explicit, &[0]), &[1])
    }]);
    let mut lab = Lab::new(spec, 2, guests(1));
    for uplink in 0..2 {
        lab.send(uplink, &eth(FAR, MacAddr::BROADCAST)).unwrap();
    }
    assert_eq!(lab.reached(), [GUEST, GUEST]);
}

#[test]
fn a_channel_brings_frames_by_whichever_member() {
    let mut lab = Lab::new(team(vec![policy(IpHash, &[0, 1])]), 2, guests(2));
    for uplink in 0..2 {
        lab.send(uplink, &eth(FAR, MacAddr::BROADCAST)).unwrap();
        assert_eq!(lab.reached(), [GUEST, GUEST + 1]);
    }
}

#[test]
fn a_broadcast_of_this_side_that_comes_back_by_another_uplink_reaches_nobody() {
    for by in [ByPort, SourceMac, LoadBased, Explicit, IpHash] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(3));
        let frame = eth(mac(GUEST), MacAddr::BROADCAST);
        lab.send(GUEST, &frame).unwrap();
        let reached = lab.reached();
        let left = reached[0];
        assert_eq!(reached[1..], [GUEST + 1, GUEST + 2]);
        assert_eq!(
            lab.send(1 - left, &frame),
            Err(DropReason::Reflected),
            "{by:?}"
        );
        assert_eq!(lab.reached(), NONE);
    }
}

#[test]
fn a_learned_station_that_comes_back_by_another_uplink_is_still_where_it_was() {
    let mut lab = Lab::new(
        team(vec![policy(ByPort, &[0, 1])]),
        2,
        vec![anyone(), anyone()],
    );
    let frame = eth(mac(GUEST), MacAddr::BROADCAST);
    lab.send(GUEST, &frame).unwrap();
    lab.reached();
    assert_eq!(lab.send(1, &frame), Err(DropReason::Reflected));
    lab.send(0, &eth(FAR, mac(GUEST))).unwrap();
    assert_eq!(lab.reached(), [GUEST]);
}

#[test]
fn a_learned_station_that_speaks_from_outside_has_moved_there() {
    let mut lab = Lab::new(
        team(vec![policy(ByPort, &[0, 1])]),
        2,
        vec![anyone(), anyone()],
    );
    lab.send(GUEST, &eth(mac(GUEST), FAR)).unwrap();
    lab.reached();
    for uplink in [0, 1] {
        lab.send(uplink, &eth(mac(GUEST), MacAddr::BROADCAST))
            .unwrap();
    }
    assert_eq!(lab.reached(), [GUEST, GUEST + 1]);
}

#[test]
fn what_is_under_way_when_a_port_moves_still_arrives_for_a_second() {
    for by in [ByPort, SourceMac, LoadBased, Explicit] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(1));
        lab.quiet();
        lab.link(0, false);
        assert_eq!(lab.by(GUEST), [1]);
        lab.advance(SECOND * 5);
        lab.link(0, true);
        assert_eq!(lab.by(GUEST), [0]);
        lab.advance(Duration::from_millis(999));
        lab.send(1, &eth(FAR, mac(GUEST))).unwrap();
        assert_eq!(lab.reached(), [GUEST], "{by:?}");
        let broadcast = eth(FAR, MacAddr::BROADCAST);
        assert_eq!(lab.send(1, &broadcast), Err(DropReason::ReverseFilter));
        lab.advance(Duration::from_millis(1));
        let late = lab.send(1, &eth(FAR, mac(GUEST)));
        assert_eq!(late, Err(DropReason::ReverseFilter), "{by:?}");
    }
}

// Announcements.

fn rarp(mac: MacAddr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    frame.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame.extend(mac.0);
    frame.extend([0; 4]);
    frame.extend(mac.0);
    frame.extend([0; 4]);
    frame.resize(60, 0);
    frame
}

#[test]
fn a_port_that_comes_up_is_announced_five_times_byte_for_byte() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
    lab.quiet();
    lab.set_up(GUEST, false);
    lab.set_up(GUEST, true);
    let start = (lab.now - lab.start).as_millis();
    lab.advance(SECOND);
    let expected = [0, 50, 150, 250, 350].map(|after| Said {
        at: start + after,
        uplink: 0,
        frame: rarp(mac(GUEST)),
    });
    assert_eq!(lab.announced(), expected);
}

#[test]
fn a_port_that_went_down_is_not_announced() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
    lab.announced();
    lab.set_up(GUEST, false);
    lab.link(0, false);
    lab.advance(SECOND);
    assert_eq!(lab.announced(), []);
}

#[test]
fn a_station_is_announced_with_the_tag_of_its_port_group() {
    let private = |role| {
        PortVlan::Private(PrivatePort {
            primary: vlan(100),
            role,
        })
    };
    let in_vlan = |port, vlan| Member {
        vlan,
        ..guest(port)
    };
    let members = vec![
        in_vlan(GUEST, PortVlan::Untagged),
        in_vlan(GUEST + 1, PortVlan::Access(vlan(20))),
        in_vlan(GUEST + 2, private(PrivateRole::Promiscuous)),
        in_vlan(GUEST + 3, private(PrivateRole::Isolated(vlan(101)))),
        in_vlan(GUEST + 4, private(PrivateRole::Community(vlan(102)))),
    ];
    let mut map = PrivateVlans::default();
    map.insert(vlan(101), vlan(100));
    map.insert(vlan(102), vlan(100));
    let kind = switch::Spec {
        private: map,
        ..switch::Spec::default()
    };
    let mut lab = Lab::with(team(vec![policy(ByPort, &[0])]), 1, members, kind);
    let first: Vec<_> = lab.announced().into_iter().map(|said| said.frame).collect();
    let expected = [
        rarp(mac(GUEST)),
        tagged(rarp(mac(GUEST + 1)), 20),
        tagged(rarp(mac(GUEST + 2)), 100),
        tagged(rarp(mac(GUEST + 3)), 101),
        tagged(rarp(mac(GUEST + 4)), 102),
    ];
    assert_eq!(first, expected);
}

#[test]
fn stations_behind_a_trunk_are_announced_in_each_vlan_where_they_spoke() {
    let all = Member {
        vlan: PortVlan::All,
        security: Security::LEGACY,
        ..guest(GUEST)
    };
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, vec![all]);
    lab.send(GUEST, &tagged(eth(mac(GUEST), FAR), 20)).unwrap();
    lab.send(GUEST, &tagged(eth(mac(0x50), FAR), 30)).unwrap();
    lab.quiet();
    lab.link(0, false);
    let mut said: Vec<_> = lab.announced().into_iter().map(|said| said.frame).collect();
    said.sort();
    let mut expected = vec![
        rarp(mac(GUEST)),
        tagged(rarp(mac(GUEST)), 20),
        tagged(rarp(mac(0x50)), 30),
    ];
    expected.sort();
    assert_eq!(said, expected);
}

#[test]
fn what_a_station_said_of_its_addresses_is_announced_too() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
    let ipv4 = Ipv4Addr::new(10, 0, 0, 7);
    let ipv6 = "2001:db8::7".parse().unwrap();
    lab.send(GUEST, &Arp::gratuitous(mac(GUEST), ipv4)).unwrap();
    lab.send(GUEST, &nd::unsolicited(mac(GUEST), ipv6, false))
        .unwrap();
    lab.quiet();
    lab.link(0, false);
    let said: Vec<_> = lab.announced().into_iter().map(|said| said.frame).collect();
    let expected = [
        rarp(mac(GUEST)),
        Arp::gratuitous(mac(GUEST), ipv4),
        nd::unsolicited(mac(GUEST), ipv6, false),
    ];
    assert_eq!(said, expected);
}

#[test]
fn an_address_that_another_station_took_over_is_not_announced_for_the_former() {
    let ip = Ipv4Addr::new(10, 0, 0, 7);
    for outside in [false, true] {
        let mut lab = Lab::new(team(vec![policy(Explicit, &[0, 1])]), 2, guests(2));
        lab.send(GUEST, &Arp::gratuitous(mac(GUEST), ip)).unwrap();
        if outside {
            lab.send(0, &Arp::gratuitous(FAR, ip)).unwrap();
        } else {
            lab.send(GUEST + 1, &Arp::gratuitous(mac(GUEST + 1), ip))
                .unwrap();
        }
        lab.quiet();
        lab.link(0, false);
        let said: Vec<_> = lab.announced().into_iter().map(|said| said.frame).collect();
        let mut expected = vec![rarp(mac(GUEST)), rarp(mac(GUEST + 1))];
        if !outside {
            expected.push(Arp::gratuitous(mac(GUEST + 1), ip));
        }
        assert_eq!(said, expected);
    }
}

#[test]
fn a_channel_is_told_nothing() {
    for by in [IpHash, BY_LACP] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(2));
        lab.advance(SECOND * 10);
        lab.link(0, false);
        lab.advance(SECOND * 10);
        assert_eq!(lab.announced(), [], "{by:?}");
    }
}

#[test]
fn without_notify_switches_nothing_is_announced() {
    let quiet = Policy {
        notify_switches: false,
        ..policy(ByPort, &[0, 1])
    };
    let mut lab = Lab::new(team(vec![quiet]), 2, guests(2));
    lab.link(0, false);
    lab.advance(SECOND);
    assert_eq!(lab.announced(), []);
}

#[test]
fn only_stations_that_moved_are_announced() {
    for by in [ByPort, SourceMac, LoadBased] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(4));
        lab.quiet();
        let before = lab.spread(4);
        lab.link(1, false);
        let moved = |uplink| -> BTreeSet<_> {
            (GUEST..)
                .zip(&before)
                .filter(|(_, before)| **before == 1)
                .map(|(port, _)| (mac(port), uplink))
                .collect()
        };
        assert_eq!(lab.announced_by(), moved(0), "{by:?}");
        lab.quiet();
        lab.link(1, true);
        assert_eq!(lab.announced_by(), moved(1), "{by:?}");
    }
}

#[test]
fn by_source_address_a_port_that_comes_up_is_announced() {
    let mut lab = Lab::new(team(vec![policy(SourceMac, &[0, 1])]), 2, guests(2));
    lab.quiet();
    lab.set_up(GUEST + 1, false);
    lab.set_up(GUEST + 1, true);
    assert_eq!(lab.announced_by(), BTreeSet::from([(mac(GUEST + 1), 1)]));
}

#[test]
fn ports_that_were_cut_off_are_announced_when_the_first_uplink_is_back() {
    for by in [ByPort, SourceMac, Explicit] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(2));
        lab.link(0, false);
        lab.link(1, false);
        lab.quiet();
        lab.link(1, true);
        let expected = BTreeSet::from([(mac(GUEST), 1), (mac(GUEST + 1), 1)]);
        assert_eq!(lab.announced_by(), expected, "{by:?}");
    }
}

// By load.

/// A period in which guests send so many percent of what an uplink carries.
fn load(lab: &mut Lab, percent: &[u64]) {
    for (port, percent) in (GUEST..).zip(percent) {
        let bytes = GIGABIT / 8 / 100 * percent * PERIOD.as_secs();
        let by = lab.by(port)[0];
        lab.counted.entry(PortId(port)).or_default().ingress += bytes;
        lab.counted.entry(PortId(by)).or_default().egress += bytes;
    }
    lab.advance(PERIOD);
}

#[test]
fn a_port_moves_away_from_an_uplink_that_was_busy_for_half_a_minute_and_is_announced() {
    let mut lab = Lab::new(team(vec![policy(LoadBased, &[0, 1])]), 2, guests(3));
    load(&mut lab, &[0, 0, 0]);
    lab.said.clear();
    load(&mut lab, &[40, 0, 30]);
    assert_eq!((lab.spread(3), lab.announced()), (vec![0, 1, 0], vec![]));
    load(&mut lab, &[40, 0, 36]);
    assert_eq!(lab.spread(3), [1, 1, 0]);
    assert_eq!(lab.announced_by(), BTreeSet::from([(mac(GUEST), 1)]));
    load(&mut lab, &[0, 0, 0]);
    assert_eq!(lab.spread(3), [1, 1, 0], "it stays where there is room");
}

#[test]
fn a_port_moves_only_to_uplinks_that_its_policy_uses() {
    let spec = team(vec![with_standby(policy(LoadBased, &[0, 1]), &[2])]);
    let mut lab = Lab::new(spec, 3, guests(3));
    load(&mut lab, &[0, 0, 0]);
    load(&mut lab, &[40, 5, 40]);
    assert_eq!(
        lab.spread(3),
        [1, 1, 0],
        "and not to the standby that has nothing to do"
    );
}

#[test]
fn an_uplink_that_cannot_be_relieved_does_not_keep_others_from_it() {
    let mut lab = Lab::new(team(vec![policy(LoadBased, &[0, 1, 2])]), 3, guests(5));
    load(&mut lab, &[0; 5]);
    load(&mut lab, &[95, 45, 5, 0, 40]);
    assert_eq!(lab.spread(5), [0, 2, 2, 0, 1]);
}

// What operators should know.

#[test]
fn lost_redundancy_is_said() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
    assert_eq!(lab.advisories(), "");
    lab.link(0, false);
    assert!(
        lab.advisories()
            .contains("redundancy is lost: of 2 uplinks one works")
    );
    lab.link(1, false);
    assert!(lab.advisories().contains("no uplink works"));
    lab.link(0, true);
    lab.link(1, true);
    assert_eq!(lab.advisories(), "");
}

#[test]
fn one_uplink_is_no_redundancy_and_two_are_too_few_for_beacons() {
    let lab = Lab::new(team(vec![policy(ByPort, &[0])]), 1, guests(1));
    assert!(lab.advisories().contains("no uplink redundancy"));
    let lab = Lab::new(team(vec![beacon(policy(ByPort, &[0, 1]))]), 2, guests(1));
    assert!(lab.advisories().contains("beacons need three uplinks"));
}

/// What a switch says of itself by LLDP.
fn lldp(chassis: u8, port: u8) -> Vec<u8> {
    let mut payload = vec![2, 7, 4, 2, 0, 0, 0, 0xbb, chassis];
    payload.extend([4, 2, 7, b'0' + port, 6, 2, 0, 120, 0, 0]);
    let dst = MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]);
    emit(dst, MacAddr([2, 0, 0, 0, 0xbb, port]), 0x88cc, &payload)
}

#[test]
fn uplinks_that_all_lead_to_one_physical_switch_are_no_redundancy() {
    for (chassis, one) in [(1, true), (2, false)] {
        let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
        lab.send(0, &lldp(1, 0)).unwrap();
        lab.send(1, &lldp(chassis, 1)).unwrap();
        assert_eq!(lab.advisories().contains("one physical switch"), one);
        assert_eq!(lab.reached(), NONE);
    }
}

#[test]
fn own_frames_that_come_back_show_that_there_is_no_channel_outside() {
    let mut lab = Lab::new(team(vec![policy(IpHash, &[0, 1])]), 2, guests(1));
    let frame = eth(mac(GUEST), MacAddr::BROADCAST);
    assert_eq!(lab.send(1, &frame), Err(DropReason::Reflected));
    assert!(lab.advisories().contains("no channel"));
    assert_eq!(lab.switch.conflicts().count(), 0);
    lab.advance(SECOND * 61);
    assert_eq!(lab.advisories(), "");
}

#[test]
fn a_vlan_that_comes_in_and_that_nobody_carries_is_said() {
    let member = |port, vlan| Member {
        vlan,
        ..guest(port)
    };
    let private = |role| {
        PortVlan::Private(PrivatePort {
            primary: vlan(100),
            role,
        })
    };
    let members = vec![
        member(GUEST, PortVlan::Access(vlan(20))),
        member(GUEST + 1, private(PrivateRole::Promiscuous)),
    ];
    let mut map = PrivateVlans::default();
    map.insert(vlan(101), vlan(100));
    let kind = switch::Spec {
        private: map,
        ..switch::Spec::default()
    };
    let mut lab = Lab::with(team(vec![policy(ByPort, &[0])]), 1, members, kind);
    for vid in [20, 30, 100, 101] {
        let _ = lab.send(0, &tagged(eth(FAR, MacAddr::BROADCAST), vid));
    }
    assert_eq!(lab.switch.unused_vlans().as_deref(), Some("30"));
}

#[test]
fn an_address_that_is_used_outside_too_is_a_conflict_after_some_frames() {
    for by in [ByPort, SourceMac, BY_LACP] {
        let mut lab = Lab::new(team(vec![policy(by, &[0, 1])]), 2, guests(1));
        lab.advance(SECOND * 10);
        let own = lab.by(GUEST)[0];
        for frames in 1..=3 {
            assert_eq!(lab.switch.conflicts().count(), 0, "{by:?} {frames}");
            let frame = eth(mac(GUEST), MacAddr::BROADCAST);
            assert_eq!(lab.send(own, &frame), Err(DropReason::Reflected));
        }
        let conflict = lab.switch.conflicts().next().unwrap();
        assert_eq!((conflict.mac, conflict.port), (mac(GUEST), PortId(GUEST)));
        lab.advance(SECOND * 60);
        assert_eq!(lab.switch.conflicts().count(), 0, "it is over");
        lab.send(own, &eth(mac(GUEST), MacAddr::BROADCAST))
            .unwrap_err();
        assert_eq!(lab.switch.conflicts().count(), 0, "and one frame is none");
    }
}

#[test]
fn a_conflict_ends_when_the_uplink_is_removed_behind_which_it_was() {
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, guests(1));
    let own = lab.by(GUEST)[0];
    for _ in 0..3 {
        lab.send(own, &eth(mac(GUEST), MacAddr::BROADCAST))
            .unwrap_err();
    }
    assert_eq!(lab.switch.conflicts().count(), 1);
    let mut said = OwnFrames::default();
    lab.switch.remove_uplink(PortId(own), &mut said);
    assert_eq!(
        lab.switch.conflicts().count(),
        0,
        "the number can be another port's now"
    );
}

// Frames between switches.

/// Frames that no bridge passes on, each by its destination.
fn between_switches() -> Vec<Vec<u8>> {
    let reserved = (0..16).map(|last| MacAddr([1, 0x80, 0xc2, 0, 0, last]));
    let cisco = [0xcc, 0xcd].map(|last| MacAddr([1, 0, 0x0c, 0xcc, 0xcc, last]));
    let frame = |dst| {
        let mut frame = emit(dst, FAR, 0, &[0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0]);
        frame[12..14].copy_from_slice(&46_u16.to_be_bytes());
        frame
    };
    let mut frames: Vec<_> = reserved.chain(cisco).map(frame).collect();
    frames.push(lldp(1, 1));
    frames
}

#[test]
fn frames_between_switches_reach_nobody() {
    let all = Member {
        vlan: PortVlan::All,
        security: Security {
            promiscuous: true,
            ..Security::LEGACY
        },
        service_tags: true,
        ..guest(GUEST)
    };
    let members = vec![all, anyone(), guest(GUEST + 2)];
    let mut lab = Lab::new(team(vec![policy(ByPort, &[0, 1])]), 2, members);
    for frame in between_switches() {
        for port in [0, 1, GUEST, GUEST + 1] {
            let _ = lab.send(port, &frame);
            let _ = lab.send(port, &tagged(frame.clone(), 20));
            let _ = lab.send(port, &tagged(frame.clone(), 0));
            assert_eq!(lab.reached(), NONE, "from {port}: {:x?}", &frame[..14]);
        }
    }
}

// Multicast.

#[test]
fn a_snooped_group_goes_to_its_members_and_by_one_uplink_and_comes_in_by_one() {
    let kind = switch::Spec {
        snooping: true,
        ..switch::Spec::default()
    };
    let spec = team(vec![policy(ByPort, &[0, 1])]);
    let mut lab = Lab::with(spec, 2, guests(4), kind);
    let group = MacAddr([1, 0, 0x5e, 1, 2, 3]);
    let to_group = |src: MacAddr| {
        let mut packet = vec![0x45; 20];
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 239, 1, 2, 3]);
        emit(group, src, ETHERTYPE_IPV4, &packet)
    };
    let query = igmp(
        [10, 0, 0, 254],
        [224, 0, 0, 1],
        [0x11, 100, 0, 0, 0, 0, 0, 0],
    );
    let report = igmp([10, 0, 0, 2], [239, 1, 2, 3], [0x16, 0, 0, 0, 239, 1, 2, 3]);
    for uplink in [0, 1] {
        let _ = lab.send(
            uplink,
            &emit(MacAddr([1, 0, 0x5e, 0, 0, 1]), FAR, ETHERTYPE_IPV4, &query),
        );
    }
    assert_eq!(lab.reached(), [10, 11, 12, 13], "each is asked once");
    lab.send(
        GUEST + 1,
        &emit(group, mac(GUEST + 1), ETHERTYPE_IPV4, &report),
    )
    .unwrap();
    assert_eq!(lab.reached(), [1], "only routers hear who wants what");
    lab.advance(SECOND * 30);
    lab.send(GUEST, &to_group(mac(GUEST))).unwrap();
    assert_eq!(lab.reached(), [0, GUEST + 1]);
    for uplink in [0, 1] {
        let _ = lab.send(uplink, &to_group(FAR));
    }
    assert_eq!(lab.reached(), [GUEST + 1]);
}

/// An IP packet with an IGMP message.
fn igmp(src: [u8; 4], dst: [u8; 4], mut message: [u8; 8]) -> Vec<u8> {
    let sum = vmlan::wire::checksum::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0];
    packet.extend(src);
    packet.extend(dst);
    packet.extend([0x94, 4, 0, 0]);
    let sum = vmlan::wire::checksum::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(message);
    packet
}

// At random.

#[derive(Clone, Debug)]
enum Step {
    Link(u16, bool),
    Guest(u16, bool),
    Wait(u64),
    FromGuest(u16, u16),
    Broadcast,
    FromUplink(u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3_u16, any::<bool>()).prop_map(|(uplink, up)| Step::Link(uplink, up)),
        1 => (0..4_u16, any::<bool>()).prop_map(|(guest, up)| Step::Guest(guest, up)),
        2 => (0..4000_u64).prop_map(Step::Wait),
        4 => (0..4_u16, 0..6_u16).prop_map(|(from, to)| Step::FromGuest(from, to)),
        2 => Just(Step::Broadcast),
        2 => (0..3_u16, 0..6_u16).prop_map(|(from, to)| Step::FromUplink(from, to)),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let by = prop_oneof![
        Just(ByPort),
        Just(SourceMac),
        Just(IpHash),
        Just(LoadBased),
        Just(Explicit)
    ];
    let order = Just(vec![0_u16, 1, 2]).prop_shuffle();
    (by, order, 1..=3_usize, 0..=2_usize, any::<bool>()).prop_map(
        |(by, order, active, standby, failback)| {
            let (active, rest) = order.split_at(active);
            let standby = &rest[..standby.min(rest.len())];
            Policy {
                failback,
                ..with_standby(policy(by, active), standby)
            }
        },
    )
}

/// Station 4 is outside and known to nobody, 5 is everyone.
fn station(number: u16) -> MacAddr {
    match number {
        4 => FAR,
        5 => MacAddr::BROADCAST,
        guest => mac(GUEST + guest),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_happens_a_frame_takes_one_uplink_and_is_delivered_once(
        network in any_policy(),
        own in any_policy(),
        delays in (0..3_u64, 0..3_u64),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let spec = Spec {
            up_delay: SECOND * u32::try_from(delays.0).unwrap(),
            down_delay: SECOND * u32::try_from(delays.1).unwrap(),
            ..team(vec![network.clone(), group(own.clone())])
        };
        let policies = [network, own];
        let members: Vec<_> = (0..4).map(|index| Member {
            policy: usize::from(index % 2),
            mac: (index < 2).then(|| mac(GUEST + index)),
            ..Member::default()
        }).collect();
        let mut lab = Lab::new(spec.clone(), 3, members.clone());
        let (mut up, mut links) = ([true; 4], [true; 3]);
        let mut settled = lab.now;
        for step in steps {
            lab.reached();
            match step {
                Step::Link(uplink, link) => {
                    links[usize::from(uplink)] = link;
                    settled = lab.now + SECOND * 3;
                    lab.link(uplink, link);
                }
                Step::Guest(guest, link) => {
                    up[usize::from(guest)] = link;
                    lab.set_up(GUEST + guest, link);
                }
                Step::Wait(millis) => lab.advance(Duration::from_millis(millis)),
                Step::FromGuest(from, to) if up[usize::from(from)] => {
                    let _ = lab.send(GUEST + from, &eth(mac(GUEST + from), station(to)));
                    let reached = lab.reached();
                    let by: Vec<_> = reached.iter().filter(|port| **port < GUEST).collect();
                    prop_assert!(by.len() <= 1, "{by:?}");
                    let policy = &policies[usize::from(from % 2)];
                    let mut named = policy.active.iter().chain(&policy.standby);
                    let works = named.any(|name| (0..3).any(|at| *name == format!("u{at}") && links[at]));
                    if lab.now >= settled && to >= 4 {
                        prop_assert_eq!(by.len(), usize::from(works));
                    }
                }
                Step::FromGuest(..) => {}
                Step::FromUplink(from, to) => {
                    let _ = lab.send(from, &eth(MacAddr([2, 9, 9, 9, 9, 9]), station(to)));
                    prop_assert!(lab.reached().iter().all(|port| *port >= GUEST));
                }
                Step::Broadcast => {
                    for uplink in (0..3).filter(|uplink| links[usize::from(*uplink)]) {
                        let _ = lab.send(uplink, &eth(MacAddr([2, 9, 9, 9, 9, 9]), MacAddr::BROADCAST));
                    }
                    let reached = lab.reached();
                    for guest in (0..4).filter(|guest| policies[usize::from(guest % 2)].load_balancing != IpHash) {
                        let copies = reached.iter().filter(|port| **port == GUEST + guest).count();
                        prop_assert!(copies <= usize::from(up[usize::from(guest)]));
                        if lab.now >= settled && up[usize::from(guest)] {
                            let policy = &policies[usize::from(guest % 2)];
                            let mut named = policy.active.iter().chain(&policy.standby);
                            let works = named.any(|name| (0..3).any(|at| *name == format!("u{at}") && links[at]));
                            prop_assert_eq!(copies, usize::from(works));
                        }
                    }
                }
            }
        }
        (0..3).for_each(|uplink| lab.link(uplink, true));
        (0..4).for_each(|guest| lab.set_up(GUEST + guest, true));
        lab.advance(SECOND * 3);
        let mut fresh = Lab::new(spec, 3, members);
        fresh.advance(SECOND * 3);
        for guest in (0..4).filter(|guest| policies[usize::from(guest % 2)].failback) {
            prop_assert_eq!(lab.by(GUEST + guest), fresh.by(GUEST + guest));
        }
    }
}
