//! Tests of snooping: hand-made frames in, sets of ports out, and a host that must never miss what it wants.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::net::frame::Head;
use crate::net::vlan::VlanId;
use crate::wire::checksum::{Sum, checksum};
use crate::wire::{ethernet, igmp, mld};

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const ROUTER: PortId = PortId(9);
const NATIVE: Domain = Domain::UNTAGGED;

const G4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
/// Shares its MAC address with `G4`.
const G4_TOO: Ipv4Addr = Ipv4Addr::new(239, 129, 2, 3);
const G6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x0102, 0x0304);
const G6_TOO: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 7, 0x0102, 0x0304);
const MAC4: MacAddr = MacAddr([0x01, 0x00, 0x5e, 1, 2, 3]);
const MAC6: MacAddr = MacAddr([0x33, 0x33, 1, 2, 3, 4]);
const V3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const V2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

const SECOND: Duration = Duration::from_secs(1);
/// From an ordinary query to when snooping is in force.
const SETTLED: Duration = Duration::from_secs(11);

fn domain(vlan: u16) -> Domain {
    VlanId::new(vlan).unwrap().into()
}

fn ipv4_frame(dst: Ipv4Addr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x46, 0];
    let len = u16::try_from(24 + payload.len()).unwrap();
    packet.extend_from_slice(&len.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, ttl, protocol, 0, 0, 10, 0, 0, 1]);
    packet.extend_from_slice(&dst.octets());
    packet.extend_from_slice(&[148, 4, 0, 0]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    let mac = mac_of(dst.into()).unwrap();
    ethernet::emit(mac, MacAddr([2; 6]), ETHERTYPE_IPV4, &packet)
}

fn igmp(dst: Ipv4Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4_frame(dst, igmp::PROTOCOL_IGMP, 1, &message)
}

fn igmp_message(kind: u8, code: u8, group: Ipv4Addr) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &group.octets()].concat()
}

/// A general query that leaves `tenths` of a second for answers.
fn query4(tenths: u8) -> Vec<u8> {
    let message = igmp_message(igmp::QUERY, tenths, Ipv4Addr::UNSPECIFIED);
    igmp(igmp::ALL_SYSTEMS, message)
}

/// A report or leave of version 1 or 2.
fn short4(kind: u8, group: Ipv4Addr) -> Vec<u8> {
    igmp(group, igmp_message(kind, 0, group))
}

/// A report of version 3: a record's type, number of sources and group each.
fn records4(records: &[(u8, u8, Ipv4Addr)]) -> Vec<u8> {
    let mut message = vec![igmp::V3_REPORT, 0, 0, 0, 0, 0, 0, 0];
    message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
    for (kind, sources, group) in records {
        message.extend_from_slice(&[*kind, 0, 0, *sources]);
        message.extend_from_slice(&group.octets());
        message.extend_from_slice(&vec![7; usize::from(*sources) * 4]);
    }
    igmp(V3_ROUTERS, message)
}

fn ipv6_frame(dst: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let len = u16::try_from(payload.len()).unwrap();
    let packet = [
        &[0x60, 0, 0, 0][..],
        &len.to_be_bytes(),
        &[next, 1],
        &src.octets(),
        &dst.octets(),
        payload,
    ]
    .concat();
    let mac = mac_of(dst.into()).unwrap();
    ethernet::emit(mac, MacAddr([2; 6]), ETHERTYPE_IPV6, &packet)
}

fn mld(dst: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let sum = Sum::default()
        .over(&src.octets())
        .over(&dst.octets())
        .add_word(u16::try_from(message.len()).unwrap())
        .add_word(58)
        .over(&message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let payload = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &message].concat();
    ipv6_frame(dst, 0, &payload)
}

fn query6(millis: u16) -> Vec<u8> {
    mld(
        mld::ALL_NODES,
        mld_message(mld::QUERY, millis, Ipv6Addr::UNSPECIFIED),
    )
}

fn mld_message(kind: u8, code: u16, group: Ipv6Addr) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    [&[kind, 0, 0, 0, high, low, 0, 0][..], &group.octets()].concat()
}

fn short6(kind: u8, group: Ipv6Addr) -> Vec<u8> {
    mld(group, mld_message(kind, 0, group))
}

fn records6(records: &[(u8, u8, Ipv6Addr)]) -> Vec<u8> {
    let mut message = vec![mld::V2_REPORT, 0, 0, 0, 0, 0, 0, 0];
    message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
    for (kind, sources, group) in records {
        message.extend_from_slice(&[*kind, 0, 0, *sources]);
        message.extend_from_slice(&group.octets());
        message.extend_from_slice(&vec![7; usize::from(*sources) * 16]);
    }
    mld(V2_ROUTERS, message)
}

fn tagged(frame: &[u8], tag: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

/// The groups of a network, and a clock that only the test moves.
struct Lab {
    groups: Groups,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self {
            groups: Groups::new(),
            now: Instant::now(),
        }
    }

    /// With queriers of both families at the router's port, in force.
    fn in_force() -> Self {
        let mut lab = Self::new();
        lab.query();
        lab.advance(SETTLED);
        lab
    }

    fn hear(&mut self, port: PortId, frame: &[u8]) {
        self.groups.handle_frame(NATIVE, port, frame, self.now);
    }

    fn query(&mut self) {
        self.hear(ROUTER, &query4(100));
        self.hear(ROUTER, &query6(10_000));
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.groups.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now, "nothing is left undone");
            self.now = due;
            self.groups.handle_timeout(due);
        }
        self.now = end;
    }

    /// The ports that a frame goes to; `None` where it goes to everyone.
    fn ports(&self, dst: MacAddr) -> Option<Vec<PortId>> {
        self.ports_in(NATIVE, dst)
    }

    fn ports_in(&self, domain: Domain, dst: MacAddr) -> Option<Vec<PortId>> {
        match self.groups.recipients(domain, dst) {
            Recipients::Everyone => None,
            Recipients::Only(ports) => {
                let mut all: Vec<PortId> = ports.iter().collect();
                all.sort_unstable();
                assert!(all.iter().all(|port| ports.contains(*port)));
                assert!(!ports.contains(PortId(4711)));
                Some(all)
            }
        }
    }

    fn check(&self) {
        let groups = &self.groups;
        let mut counts = std::collections::BTreeMap::new();
        for group in groups.groups.values() {
            let keys: Vec<_> = group
                .memberships
                .iter()
                .map(|one| (one.port, one.address))
                .collect();
            assert!(!keys.is_empty() && keys.is_sorted_by(|a, b| a < b));
            let ports: BTreeSet<PortId> = keys.iter().map(|(port, _)| *port).collect();
            assert_eq!(group.ports, ports.into_iter().collect::<Vec<_>>());
            for (port, _) in keys {
                *counts.entry(port).or_insert(0) += 1;
            }
        }
        for (port, count) in &groups.counts {
            assert_eq!(counts.remove(port).unwrap_or(0), *count);
            assert!(*count <= Groups::PORT_LIMIT);
        }
        assert!(counts.is_empty() && groups.groups.len() <= Groups::LIMIT);
    }
}

#[test]
fn without_a_querier_everything_goes_to_everyone() {
    let mut lab = Lab::new();
    lab.hear(A, &short4(igmp::V2_REPORT, G4));
    lab.hear(A, &short6(mld::V1_REPORT, G6));
    lab.advance(SECOND);
    assert_eq!((lab.ports(MAC4), lab.ports(MAC6)), (None, None));
    assert_eq!(lab.groups.routers(NATIVE), []);
}

#[test]
fn snooping_is_in_force_from_when_a_query_is_answered_until_the_querier_is_gone() {
    let mut lab = Lab::new();
    lab.query();
    assert_eq!(lab.groups.routers(NATIVE), [ROUTER]);
    lab.advance(SETTLED - SECOND);
    assert_eq!((lab.ports(MAC4), lab.ports(MAC6)), (None, None));
    lab.advance(SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![ROUTER]));
    assert_eq!(lab.ports(MAC6), Some(vec![ROUTER]));
    lab.query();
    lab.advance(Groups::QUERIER - SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![ROUTER]));
    lab.advance(SECOND);
    assert_eq!((lab.ports(MAC4), lab.ports(MAC6)), (None, None));
    assert_eq!(lab.groups.routers(NATIVE), []);
    assert_eq!(lab.groups.poll_timeout(), None, "there is nothing to do");
}

#[test]
fn a_query_that_leaves_more_time_is_waited_for_and_one_that_leaves_too_much_does_not_count() {
    let mut lab = Lab::new();
    lab.hear(ROUTER, &query4(255));
    lab.advance(Groups::SLOWEST);
    assert_eq!(lab.ports(MAC4), None);
    lab.advance(SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![ROUTER]));

    let mut lab = Lab::new();
    lab.hear(ROUTER, &query6(25_501));
    lab.advance(30 * SECOND);
    assert_eq!(lab.ports(MAC6), None);
    assert_eq!(lab.groups.routers(NATIVE), [ROUTER]);
}

#[test]
fn further_queries_do_not_put_off_when_snooping_comes_into_force() {
    let mut lab = Lab::new();
    for _ in 0..11 {
        lab.hear(B, &query4(255));
        lab.hear(ROUTER, &query4(100));
        lab.advance(SECOND);
    }
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]));
}

#[test]
fn a_query_that_hosts_need_not_answer_makes_a_router_but_no_querier() {
    let specific = igmp(G4, igmp_message(igmp::QUERY, 10, G4));
    let mut elsewhere = query4(100);
    elsewhere[..6].copy_from_slice(&MAC4.0);
    let mut elsewhere6 = query6(1_000);
    elsewhere6[..6].copy_from_slice(&MAC6.0);
    for frame in [specific, elsewhere, elsewhere6] {
        let mut lab = Lab::new();
        lab.hear(ROUTER, &frame);
        lab.advance(30 * SECOND);
        assert_eq!(lab.groups.routers(NATIVE), [ROUTER]);
        assert_eq!((lab.ports(MAC4), lab.ports(MAC6)), (None, None));
    }
}

#[test]
fn families_and_domains_are_apart() {
    let mut lab = Lab::new();
    lab.groups
        .handle_frame(domain(10), ROUTER, &query4(100), lab.now);
    lab.advance(SETTLED);
    assert_eq!(lab.ports_in(domain(10), MAC4), Some(vec![ROUTER]));
    assert_eq!(lab.ports_in(domain(10), MAC6), None);
    assert_eq!(lab.ports_in(domain(11), MAC4), None);
    assert_eq!(lab.ports(MAC4), None);
    let report = tagged(&short4(igmp::V2_REPORT, G4), &[0x81, 0, 0, 10]);
    lab.groups.handle_frame(domain(10), A, &report, lab.now);
    assert_eq!(lab.ports_in(domain(10), MAC4), Some(vec![A, ROUTER]));
    assert_eq!(lab.groups.routers(domain(10)), [ROUTER]);
    assert_eq!(lab.groups.routers(NATIVE), []);
}

#[test]
fn a_report_of_every_version_makes_a_member() {
    for (frame, dst) in [
        (short4(igmp::V1_REPORT, G4), MAC4),
        (short4(igmp::V2_REPORT, G4), MAC4),
        (records4(&[(2, 0, G4)]), MAC4),
        (records4(&[(4, 0, G4)]), MAC4),
        (records4(&[(1, 1, G4)]), MAC4),
        (records4(&[(5, 2, G4)]), MAC4),
        (records4(&[(6, 2, G4_TOO), (2, 3, G4)]), MAC4),
        (short6(mld::V1_REPORT, G6), MAC6),
        (records6(&[(2, 0, G6)]), MAC6),
        (records6(&[(4, 1, G6)]), MAC6),
        (records6(&[(1, 1, G6)]), MAC6),
        (records6(&[(5, 1, G6)]), MAC6),
    ] {
        let mut lab = Lab::in_force();
        lab.hear(A, &frame);
        assert_eq!(lab.ports(dst), Some(vec![A, ROUTER]));
        lab.hear(B, &frame);
        lab.hear(ROUTER, &frame);
        assert_eq!(lab.ports(dst), Some(vec![A, B, ROUTER]));
        lab.check();
    }
}

#[test]
fn a_report_that_says_nothing_of_a_group_makes_no_member() {
    let mut lab = Lab::in_force();
    lab.hear(
        A,
        &records4(&[(1, 0, G4), (3, 0, G4), (5, 0, G4), (6, 1, G4)]),
    );
    lab.hear(
        A,
        &records6(&[(1, 0, G6), (3, 0, G6), (5, 0, G6), (6, 1, G6)]),
    );
    lab.hear(A, &short4(igmp::V2_REPORT, Ipv4Addr::new(224, 0, 0, 251)));
    let nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 5);
    lab.hear(A, &records6(&[(4, 0, nodes)]));
    lab.hear(A, &records4(&[(4, 0, Ipv4Addr::new(10, 0, 0, 1))]));
    lab.hear(A, &records6(&[(4, 0, Ipv6Addr::LOCALHOST)]));
    let mut damaged = short4(igmp::V2_REPORT, G4);
    damaged[40] ^= 1;
    lab.hear(A, &damaged);
    lab.hear(A, &damaged[..10]);
    let stacked = tagged(
        &short4(igmp::V2_REPORT, G4),
        &[0x81, 0, 0, 1, 0x81, 0, 0, 2],
    );
    lab.hear(A, &stacked);
    assert_eq!(lab.groups.rows(), []);
    assert_eq!(lab.ports(MAC4), Some(vec![ROUTER]));
}

#[test]
fn a_leave_of_every_version_ends_a_membership_after_two_seconds() {
    for (join, leave, dst) in [
        (short4(igmp::V2_REPORT, G4), short4(igmp::LEAVE, G4), MAC4),
        (records4(&[(4, 0, G4)]), records4(&[(3, 0, G4)]), MAC4),
        (short6(mld::V1_REPORT, G6), short6(mld::DONE, G6), MAC6),
        (records6(&[(4, 0, G6)]), records6(&[(3, 0, G6)]), MAC6),
    ] {
        let mut lab = Lab::in_force();
        lab.hear(A, &join);
        lab.hear(B, &join);
        lab.hear(A, &leave);
        lab.advance(Groups::LAST_MEMBER - SECOND);
        assert_eq!(lab.ports(dst), Some(vec![A, B, ROUTER]));
        lab.hear(A, &leave);
        lab.advance(SECOND);
        assert_eq!(
            lab.ports(dst),
            Some(vec![B, ROUTER]),
            "a leave is not put off"
        );
        lab.hear(B, &leave);
        lab.hear(B, &join);
        lab.advance(Groups::LAST_MEMBER);
        assert_eq!(lab.ports(dst), Some(vec![B, ROUTER]), "it was answered");
        lab.check();
    }
}

#[test]
fn who_leaves_one_of_two_groups_with_one_address_keeps_the_other() {
    let mut lab = Lab::in_force();
    lab.hear(A, &records4(&[(4, 0, G4), (4, 0, G4_TOO)]));
    lab.hear(A, &records6(&[(4, 0, G6), (4, 0, G6_TOO)]));
    lab.hear(A, &records4(&[(3, 0, G4)]));
    lab.hear(A, &records6(&[(3, 0, G6)]));
    lab.advance(3 * SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![A, ROUTER]));
    assert_eq!(lab.ports(MAC6), Some(vec![A, ROUTER]));
    let groups: Vec<IpAddr> = lab.groups.rows().iter().map(|row| row.group).collect();
    assert_eq!(groups, [IpAddr::from(G4_TOO), G6_TOO.into()]);
    lab.check();
}

#[test]
fn a_membership_that_is_not_renewed_ends() {
    let mut lab = Lab::in_force();
    lab.hear(A, &short4(igmp::V2_REPORT, G4));
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    lab.advance(100 * SECOND);
    lab.query();
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    lab.advance(Groups::MEMBERSHIP - 101 * SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![A, B, ROUTER]));
    lab.advance(SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]));
    lab.check();
}

#[test]
fn who_is_being_asked_is_not_forgotten_meanwhile() {
    let mut lab = Lab::in_force();
    lab.hear(A, &short4(igmp::V2_REPORT, G4));
    lab.query();
    lab.advance(Groups::QUERIER - SECOND);
    lab.hear(B, &query4(255));
    lab.advance(Groups::SLOWEST);
    assert_eq!(lab.ports(MAC4), Some(vec![A, B]), "it has time to answer");
    lab.advance(SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![B]), "it did not");
}

#[test]
fn what_everyone_may_need_goes_to_everyone() {
    let lab = Lab::in_force();
    for mac in [
        [0x01, 0x00, 0x5e, 0, 0, 1],
        [0x01, 0x00, 0x5e, 0, 0, 251],
        [0x01, 0x00, 0x5e, 0x80, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 0xfb],
        [0x33, 0x33, 0, 1, 0, 2],
        [0x33, 0x33, 0xff, 1, 2, 3],
        [0x01, 0x80, 0xc2, 0, 0, 0x10],
        [0x03, 0, 0, 0, 0, 1],
        [0xff; 6],
    ] {
        assert_eq!(lab.ports(MacAddr(mac)), None, "{mac:02x?}");
    }
    assert_eq!(
        lab.ports(MacAddr([0x01, 0x00, 0x5e, 0, 1, 1])),
        Some(vec![ROUTER])
    );
}

#[test]
fn a_pim_hello_makes_a_router_for_a_while() {
    let all6 = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 13);
    for frame in [
        ipv4_frame(Ipv4Addr::new(224, 0, 0, 13), 103, 1, &[0x20, 0, 0, 0]),
        ipv6_frame(all6, 103, &[0x20, 0, 0, 0]),
    ] {
        let mut lab = Lab::in_force();
        lab.hear(B, &frame);
        assert_eq!(lab.groups.routers(NATIVE), [B, ROUTER]);
        assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]));
        lab.advance(200 * SECOND);
        lab.query();
        lab.advance(Groups::QUERIER - 200 * SECOND);
        assert_eq!(lab.groups.routers(NATIVE), [ROUTER]);
        assert_eq!(lab.ports(MAC4), Some(vec![ROUTER]));
    }
    let mut lab = Lab::new();
    for frame in [
        ipv4_frame(Ipv4Addr::new(224, 0, 0, 13), 103, 1, &[0x23, 0, 0, 0]),
        ipv4_frame(Ipv4Addr::new(224, 0, 0, 12), 103, 1, &[0x20, 0, 0, 0]),
        ipv6_frame(all6, 103, &[0x23, 0, 0, 0]),
        ipv6_frame(G6, 103, &[0x20, 0, 0, 0]),
    ] {
        lab.hear(B, &frame);
    }
    assert_eq!(lab.groups.routers(NATIVE), []);
}

fn numbered(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap();
    Ipv4Addr::from_bits(Ipv4Addr::new(239, 16, 0, 0).to_bits() + number)
}

#[test]
fn a_port_that_wants_more_than_is_recorded_gets_every_group_and_others_are_as_before() {
    let mut lab = Lab::in_force();
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    for number in 0..Groups::PORT_LIMIT {
        lab.hear(A, &records4(&[(4, 0, numbered(number))]));
    }
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]));
    lab.hear(A, &records4(&[(4, 0, numbered(0))]));
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]), "no new group");
    let more = numbered(Groups::PORT_LIMIT);
    lab.hear(A, &records4(&[(4, 0, more)]));
    assert_eq!(lab.ports(MAC4), Some(vec![A, B, ROUTER]));
    assert_eq!(
        lab.ports(mac_of(more.into()).unwrap()),
        Some(vec![A, ROUTER])
    );
    assert_eq!(lab.groups.routers(NATIVE), [ROUTER], "it is no router");
    lab.hear(A, &records4(&[(4, 0, G4)]));
    lab.check();

    lab.advance(200 * SECOND);
    lab.query();
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    lab.advance(Groups::UNRECORDED - 200 * SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]), "that ends, too");
    lab.hear(A, &records4(&[(4, 0, more)]));
    assert_eq!(
        lab.ports(MAC4),
        Some(vec![B, ROUTER]),
        "there is room again"
    );
    lab.check();
}

#[test]
fn a_port_that_reports_without_end_is_not_read_to_the_end_and_gets_every_group() {
    let mut lab = Lab::in_force();
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    let many = vec![(4, 0, numbered(0)); 256];
    for _ in 0..Groups::RECORDS / 256 {
        lab.hear(A, &records4(&many));
    }
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]), "all were read");
    let mut more = vec![(4, 0, numbered(0)); 2];
    more.push((4, 0, numbered(1)));
    lab.hear(A, &records4(&more));
    assert_eq!(lab.ports(MAC4), Some(vec![A, B, ROUTER]));
    assert_eq!(
        lab.groups.rows().len(),
        2,
        "that of A before, and that of B"
    );
    lab.hear(B, &records4(&[(4, 0, numbered(2))]));
    assert_eq!(lab.groups.rows().len(), 3, "others are read");
    lab.advance(SECOND);
    lab.hear(A, &records4(&[(4, 0, numbered(1))]));
    assert_eq!(lab.groups.rows().len(), 4, "and it is, a second later");
    lab.check();
}

#[test]
fn when_the_table_is_full_who_wants_a_new_group_gets_every_group() {
    let mut lab = Lab::in_force();
    for number in 0..Groups::LIMIT {
        let port = PortId(100 + u16::try_from(number / Groups::PORT_LIMIT).unwrap());
        lab.hear(port, &records4(&[(4, 0, numbered(number))]));
    }
    let known = mac_of(numbered(0).into()).unwrap();
    lab.hear(B, &records4(&[(4, 0, numbered(0))]));
    assert_eq!(lab.ports(known), Some(vec![B, ROUTER, PortId(100)]));
    lab.hear(A, &short4(igmp::V2_REPORT, G4));
    assert_eq!(lab.ports(MAC4), Some(vec![A, ROUTER]));
    assert_eq!(lab.ports(known), Some(vec![A, B, ROUTER, PortId(100)]));
    assert_eq!(lab.groups.rows().len(), Groups::LIMIT);
    lab.check();
}

#[test]
fn a_port_that_went_down_is_forgotten_and_one_that_came_up_gets_every_group_until_it_was_asked() {
    let mut lab = Lab::in_force();
    lab.hear(A, &short4(igmp::V2_REPORT, G4));
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    lab.hear(A, &query4(100));
    lab.groups.forget(A);
    lab.check();
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]));
    assert_eq!(lab.groups.routers(NATIVE), [ROUTER]);

    lab.groups.welcome(A, lab.now);
    assert_eq!(lab.ports(MAC4), Some(vec![A, B, ROUTER]));
    assert_eq!(lab.groups.routers(NATIVE), [ROUTER]);
    lab.advance(125 * SECOND);
    lab.query();
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    lab.hear(A, &short6(mld::V1_REPORT, G6));
    lab.advance(Groups::UNRECORDED - 125 * SECOND);
    assert_eq!(lab.ports(MAC4), Some(vec![B, ROUTER]));
    assert_eq!(lab.ports(MAC6), Some(vec![A, ROUTER]));
}

#[test]
fn rows_are_by_vlan_and_address() {
    let mut lab = Lab::new();
    let start = lab.now;
    lab.hear(B, &short6(mld::V1_REPORT, G6));
    lab.hear(B, &short4(igmp::V2_REPORT, G4));
    lab.groups
        .handle_frame(domain(7), A, &short4(igmp::V2_REPORT, G4), start);
    lab.advance(SECOND);
    lab.hear(A, &records4(&[(4, 0, G4), (4, 0, numbered(1))]));
    let row = |vlan, group: IpAddr, ports: &[PortId], after| GroupRow {
        vlan,
        group,
        ports: ports.to_vec(),
        expires: start + Groups::MEMBERSHIP + after,
    };
    assert_eq!(
        lab.groups.rows(),
        [
            row(0, G4.into(), &[A, B], SECOND),
            row(0, numbered(1).into(), &[A], SECOND),
            row(0, G6.into(), &[B], Duration::ZERO),
            row(7, G4.into(), &[A], Duration::ZERO),
        ]
    );
}

fn judged(frame: &[u8]) -> (Reach, bool) {
    let mut head = Head::default();
    head.fill(frame, crate::wire::virtio_net::VirtioNetHeader::default());
    let parsed = head.parse().unwrap();
    (reach(&head, &parsed), is_membership(&head, &parsed))
}

#[test]
fn the_head_of_a_frame_tells_how_far_it_goes() {
    let fragment = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[21] = 1;
        frame
    };
    let join = short4(igmp::V2_REPORT, G4);
    let hello = ipv4_frame(Ipv4Addr::new(224, 0, 0, 13), 103, 1, &[0x20, 0, 0, 0]);
    let scope = |scope| ipv6_frame(Ipv6Addr::new(scope, 0, 0, 0, 0, 0, 0x0102, 0x0304), 17, &[]);
    let arp = ethernet::emit(MAC4, MacAddr([2; 6]), ethernet::ETHERTYPE_ARP, &[0; 28]);
    for (frame, expected) in [
        (query4(100), (Reach::Everyone, true)),
        (join.clone(), (Reach::Routers, true)),
        (short4(igmp::V1_REPORT, G4), (Reach::Routers, true)),
        (short4(igmp::LEAVE, G4), (Reach::Routers, true)),
        (records4(&[(4, 0, G4)]), (Reach::Routers, true)),
        (short4(0x13, G4), (Reach::Everyone, true)),
        (fragment(&join), (Reach::Everyone, true)),
        (tagged(&join, &[0x81, 0, 0, 5]), (Reach::Routers, true)),
        (
            tagged(&join, &[0x81, 0, 0, 5, 0x81, 0, 0, 6]),
            (Reach::Everyone, false),
        ),
        (tagged(&join, &[0x88, 0xa8, 0, 5]), (Reach::Everyone, false)),
        (hello, (Reach::Everyone, true)),
        (ipv4_frame(G4, 17, 1, &[0; 8]), (Reach::Members, false)),
        (
            ipv4_frame(Ipv4Addr::new(224, 0, 0, 251), 17, 1, &[0; 8]),
            (Reach::Everyone, false),
        ),
        (query6(100), (Reach::Everyone, true)),
        (short6(mld::V1_REPORT, G6), (Reach::Routers, true)),
        (short6(mld::DONE, G6), (Reach::Routers, true)),
        (records6(&[(4, 0, G6)]), (Reach::Routers, true)),
        (short6(151, G6), (Reach::Everyone, false)),
        (
            ipv6_frame(G6, 0, &[60, 0, 5, 2, 0, 0, 1, 0]),
            (Reach::Routers, false),
        ),
        (
            ipv6_frame(G6, 0, &[17, 0, 5, 2, 0, 0, 1, 0]),
            (Reach::Members, false),
        ),
        (scope(0xff05), (Reach::Members, false)),
        (scope(0xff12), (Reach::Everyone, false)),
        (scope(0xff01), (Reach::Everyone, false)),
        (scope(0xff0e), (Reach::Members, false)),
        (arp, (Reach::Everyone, false)),
    ] {
        assert_eq!(judged(&frame), expected, "{frame:02x?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Query(PortId, u8),
    Join(PortId, usize),
    Leave(PortId, usize),
    Down(PortId),
}

fn step() -> impl Strategy<Value = Step> {
    let port = || prop_oneof![Just(B), Just(ROUTER)];
    prop_oneof![
        6 => (0..30_000u64).prop_map(Step::Wait),
        2 => (100_000..300_000u64).prop_map(Step::Wait),
        6 => (port(), any::<u8>()).prop_map(|(port, code)| Step::Query(port, code)),
        2 => (port(), 0..6usize).prop_map(|(port, group)| Step::Join(port, group)),
        2 => (port(), 0..6usize).prop_map(|(port, group)| Step::Leave(port, group)),
        1 => port().prop_map(Step::Down),
    ]
}

/// A host that answers queries as late as it may.
struct Host {
    answer: Option<Instant>,
}

impl Host {
    fn asked(&mut self, response: Duration, now: Instant) {
        let at = now + response;
        self.answer = Some(self.answer.map_or(at, |answer| answer.min(at)));
    }
}

fn live(lab: &mut Lab, host: &mut Host, end: Instant) {
    while let Some(next) = [lab.groups.poll_timeout(), host.answer]
        .into_iter()
        .flatten()
        .min()
        .filter(|next| *next <= end)
    {
        lab.now = lab.now.max(next);
        if host.answer.is_some_and(|answer| answer <= lab.now) {
            host.answer = None;
            lab.hear(A, &records4(&[(2, 0, numbered(3))]));
        }
        lab.groups.handle_timeout(lab.now);
        let ports = lab.ports(mac_of(numbered(3).into()).unwrap());
        assert!(ports.is_none_or(|ports| ports.contains(&A)));
        lab.check();
    }
    lab.now = end;
}

proptest! {
    #[test]
    fn a_host_that_answers_gets_its_group_whatever_others_do(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut lab = Lab::new();
        let mut host = Host { answer: None };
        lab.hear(A, &records4(&[(4, 0, numbered(3))]));
        for step in steps {
            match step {
                Step::Wait(millis) => {
                    let end = lab.now + Duration::from_millis(millis);
                    live(&mut lab, &mut host, end);
                }
                Step::Query(port, code) => {
                    let mut query = igmp_message(igmp::QUERY, code, Ipv4Addr::UNSPECIFIED);
                    query.extend_from_slice(&[2, 125, 0, 0]);
                    let frame = igmp(igmp::ALL_SYSTEMS, query);
                    match Igmp::parse(&frame[14..]) {
                        Some(Igmp::Query(query)) => host.asked(query.response, lab.now),
                        other => panic!("{other:?}"),
                    }
                    lab.hear(port, &frame);
                }
                Step::Join(port, group) => lab.hear(port, &records4(&[(4, 0, numbered(group))])),
                Step::Leave(port, group) => lab.hear(port, &records4(&[(3, 0, numbered(group))])),
                Step::Down(port) => lab.groups.forget(port),
            }
            lab.check();
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        frames in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 14..160), 0..4u8, 0..4u16),
            0..40,
        ),
    ) {
        let mut lab = Lab::in_force();
        for (mut frame, kind, port) in frames {
            match kind {
                0 => {}
                1 => frame[12..14].copy_from_slice(&[8, 0]),
                2 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
                _ => frame = igmp(V3_ROUTERS, [&[igmp::V3_REPORT, 0, 0, 0][..], &frame].concat()),
            }
            let mut head = Head::default();
            head.fill(&frame, crate::wire::virtio_net::VirtioNetHeader::default());
            if let Ok(parsed) = head.parse() {
                let _ = (reach(&head, &parsed), is_membership(&head, &parsed));
            }
            lab.hear(PortId(port), &frame);
            lab.check();
        }
        lab.advance(1_000 * SECOND);
        prop_assert_eq!(lab.groups.poll_timeout(), None);
        prop_assert!(lab.groups.scopes.is_empty() && lab.groups.groups.is_empty());
    }
}
