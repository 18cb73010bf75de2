//! The switch in a laboratory: frames in, frames out, and a clock that only the test moves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use vmlan::net::drops::DropReason;
use vmlan::net::fdb::Fdb;
use vmlan::net::frame::Head;
use vmlan::net::guard::Guards;
use vmlan::net::member::Member;
use vmlan::net::outbox::Outbox;
use vmlan::net::port::{OwnFrames, PortId};
use vmlan::net::security::Security;
use vmlan::net::storm::{self, Storm};
use vmlan::net::switch::{Spec, Switch};
use vmlan::net::team::load::Bytes;
use vmlan::net::vlan::{PortVlan, VlanId};
use vmlan::wire::ethernet::{ETHERTYPE_IPV4, MacAddr, emit};
use vmlan::wire::virtio_net::VirtioNetHeader;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xff]);

fn access(vlan: u16) -> Member {
    Member {
        vlan: PortVlan::Access(VlanId::new(vlan).unwrap()),
        uplink: false,
        ..Member::default()
    }
}

fn untagged() -> Member {
    Member {
        vlan: PortVlan::Untagged,
        uplink: false,
        ..Member::default()
    }
}

/// A port with an address of its own.
fn of(mac: MacAddr) -> Member {
    Member {
        mac: Some(mac),
        ..Member::default()
    }
}

/// A port with an address of its own and a security policy.
fn secured(mac: MacAddr, security: Security) -> Member {
    Member {
        security,
        ..of(mac)
    }
}

/// Every security policy.
fn policies() -> impl Iterator<Item = Security> {
    (0..8_u8).map(|bits| Security {
        promiscuous: bits & 1 != 0,
        mac_changes: bits & 2 != 0,
        forged_transmits: bits & 4 != 0,
    })
}

fn all() -> Member {
    Member {
        vlan: PortVlan::All,
        uplink: false,
        service_tags: true,
        ..Member::default()
    }
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

fn tagged(src: MacAddr, dst: MacAddr, tci: u16) -> Vec<u8> {
    let mut frame = eth(src, dst);
    frame.splice(
        12..12,
        [0x81, 0, tci.to_be_bytes()[0], tci.to_be_bytes()[1]],
    );
    frame
}

struct Lab {
    switch: Switch,
    names: Vec<String>,
    now: Instant,
    arrived: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Lab {
    fn new(ports: &[(&str, Member)]) -> Self {
        let now = Instant::now();
        let mut switch = Switch::new(Spec::default(), now);
        for (index, (_, member)) in ports.iter().enumerate() {
            let id = PortId(u16::try_from(index).unwrap());
            switch.add(id, member.clone());
            switch.set_up(id, true, None, &mut OwnFrames::default());
        }
        let names = ports.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self {
            switch,
            names,
            now,
            arrived: BTreeMap::new(),
        }
    }

    fn id(&self, name: &str) -> PortId {
        let index = self
            .names
            .iter()
            .position(|other| other == name)
            .expect("a port of this lab");
        PortId(u16::try_from(index).unwrap())
    }

    fn send(&mut self, port: &str, frame: &[u8]) -> Result<(), DropReason> {
        let mut out = Outbox::default();
        out.reserve(PortId(u16::try_from(self.names.len()).unwrap()));
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        let result = head.parse().and_then(|parsed| {
            self.switch
                .forward(self.id(port), 0, &head, &parsed, &mut out)
        });
        out.drain(|to, batch| {
            for egress in batch {
                let bytes = head.with_tag(egress.action).bytes().to_vec();
                self.arrived
                    .entry(self.names[to.index()].clone())
                    .or_default()
                    .push(bytes);
            }
        });
        result
    }

    fn received(&mut self, port: &str) -> Vec<Vec<u8>> {
        self.arrived.remove(port).unwrap_or_default()
    }

    /// Which ports got something since the last look.
    fn reached(&mut self) -> Vec<String> {
        std::mem::take(&mut self.arrived).into_keys().collect()
    }

    fn set_up(&mut self, port: PortId, up: bool) {
        self.switch
            .set_up(port, up, None, &mut OwnFrames::default());
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.switch.set_now(self.now);
        self.switch
            .handle_timeout(self.now, |_| Bytes::default(), &mut OwnFrames::default());
    }
}

#[test]
fn a_learned_address_is_forgotten_after_the_ageing_time() {
    let mut lab = Lab::new(&[("a", access(10)), ("b", access(10)), ("c", access(10))]);
    lab.send("b", &eth(B, MacAddr::BROADCAST)).unwrap();
    assert_eq!(lab.reached(), ["a", "c"]);

    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(lab.reached(), ["b"], "a known address is not flooded");

    lab.advance(Fdb::AGEING);
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(lab.reached(), ["b", "c"], "a forgotten one is");
}

#[test]
fn an_address_that_moves_is_followed_at_once() {
    let mut lab = Lab::new(&[("a", untagged()), ("b", untagged()), ("c", untagged())]);
    lab.send("b", &eth(B, A)).unwrap();
    lab.send("a", &eth(A, B)).unwrap();
    lab.reached();
    lab.send("c", &eth(B, A)).unwrap();
    assert_eq!(lab.reached(), ["a"]);
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(lab.reached(), ["c"]);
}

#[test]
fn a_frame_stays_in_its_vlan_whatever_the_port() {
    let ports = [
        ("ten", access(10)),
        ("ten2", access(10)),
        ("twenty", access(20)),
        ("plain", untagged()),
        ("all", all()),
        ("up", uplink()),
    ];
    let mut lab = Lab::new(&ports);
    for (from, frame, expected) in [
        ("ten", eth(A, MacAddr::BROADCAST), vec!["all", "ten2", "up"]),
        ("twenty", eth(A, MacAddr::BROADCAST), vec!["all", "up"]),
        ("plain", eth(A, MacAddr::BROADCAST), vec!["all", "up"]),
        ("all", eth(A, MacAddr::BROADCAST), vec!["plain", "up"]),
        (
            "all",
            tagged(A, MacAddr::BROADCAST, 10),
            vec!["ten", "ten2", "up"],
        ),
        (
            "up",
            tagged(FAR, MacAddr::BROADCAST, 20),
            vec!["all", "twenty"],
        ),
        (
            "up",
            tagged(FAR, MacAddr::BROADCAST, 0),
            vec!["all", "plain"],
        ),
        ("up", tagged(FAR, MacAddr::BROADCAST, 30), vec!["all"]),
    ] {
        lab.send(from, &frame).unwrap();
        assert_eq!(lab.reached(), expected, "{from}");
    }
    for (from, frame) in [
        ("ten", tagged(A, MacAddr::BROADCAST, 10)),
        ("ten", tagged(A, MacAddr::BROADCAST, 20)),
        ("plain", tagged(A, MacAddr::BROADCAST, 10)),
        ("all", tagged(A, MacAddr::BROADCAST, 4095)),
    ] {
        assert_eq!(
            lab.send(from, &frame),
            Err(DropReason::VlanNotAllowed),
            "{from}"
        );
        assert!(lab.reached().is_empty());
    }
}

#[test]
fn a_tag_is_put_on_towards_the_uplink_and_taken_off_towards_the_guest() {
    let mut lab = Lab::new(&[("ten", access(10)), ("up", uplink())]);
    lab.send("ten", &eth(A, FAR)).unwrap();
    assert_eq!(lab.received("up"), [tagged(A, FAR, 10)]);
    lab.send("up", &tagged(FAR, A, 0x600a)).unwrap();
    assert_eq!(lab.received("ten"), [eth(FAR, A)]);
}

#[test]
fn the_same_address_in_two_vlans_is_two_stations() {
    let mut lab = Lab::new(&[
        ("ten", access(10)),
        ("twenty", access(20)),
        ("up", uplink()),
    ]);
    lab.send("ten", &eth(A, FAR)).unwrap();
    lab.send("twenty", &eth(A, FAR)).unwrap();
    lab.reached();
    lab.send("up", &tagged(FAR, A, 10)).unwrap();
    assert_eq!(lab.reached(), ["ten"]);
    lab.send("up", &tagged(FAR, A, 20)).unwrap();
    assert_eq!(lab.reached(), ["twenty"]);
}

#[test]
fn nothing_goes_from_uplink_to_uplink_and_the_outside_is_not_learned() {
    let mut lab = Lab::new(&[("a", untagged()), ("up", uplink()), ("up2", uplink())]);
    lab.send("up", &eth(FAR, MacAddr::BROADCAST)).unwrap();
    assert_eq!(lab.reached(), ["a"]);
    assert_eq!(
        lab.send("up", &eth(FAR, B)),
        Err(DropReason::UnknownUnicast)
    );
    lab.send("a", &eth(A, FAR)).unwrap();
    assert_eq!(lab.reached(), ["up", "up2"]);
    assert_eq!(
        lab.switch.fdb_rows().len(),
        1,
        "only the guest's address is in the table"
    );
}

#[test]
fn a_frame_of_this_side_that_comes_back_from_outside_is_dropped() {
    let mut lab = Lab::new(&[("a", of(A)), ("b", untagged()), ("up", uplink())]);
    let a = lab.id("a");
    lab.send("a", &eth(A, MacAddr::BROADCAST)).unwrap();
    lab.reached();
    assert_eq!(
        lab.send("up", &eth(A, MacAddr::BROADCAST)),
        Err(DropReason::Reflected)
    );
    lab.set_up(a, false);
    assert_eq!(
        lab.send("up", &eth(A, MacAddr::BROADCAST)),
        Ok(()),
        "it moved away"
    );
}

#[test]
fn a_fixed_address_is_served_before_it_speaks_and_cannot_be_taken() {
    let mut lab = Lab::new(&[
        ("a", of(A)),
        ("b", untagged()),
        ("c", untagged()),
        ("up", uplink()),
    ]);
    let a = lab.id("a");
    lab.send("up", &eth(FAR, A)).unwrap();
    assert_eq!(lab.reached(), ["a"]);
    assert_eq!(lab.send("b", &eth(A, C)), Err(DropReason::SourceConflict));
    lab.set_up(a, false);
    assert_eq!(lab.send("up", &eth(FAR, A)), Err(DropReason::PortDown));
}

#[test]
fn implausible_frames_teach_nothing_and_go_nowhere() {
    let mut lab = Lab::new(&[("a", untagged()), ("b", untagged())]);
    assert_eq!(
        lab.send("a", &eth(MacAddr::BROADCAST, B)),
        Err(DropReason::BadSource)
    );
    assert_eq!(
        lab.send("a", &eth(MacAddr::ZERO, B)),
        Err(DropReason::BadSource)
    );
    assert_eq!(
        lab.send("a", &tagged(A, B, 10)),
        Err(DropReason::VlanNotAllowed)
    );
    assert_eq!(lab.send("a", &eth(A, B)[..13]), Err(DropReason::Runt));
    assert!(lab.switch.fdb_rows().is_empty());
    assert!(lab.reached().is_empty());
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(lab.send("a", &eth(B, A)), Err(DropReason::SamePort));
}

#[test]
fn a_port_that_is_down_gets_nothing() {
    let mut lab = Lab::new(&[("a", untagged()), ("b", untagged()), ("c", untagged())]);
    lab.send("b", &eth(B, MacAddr::BROADCAST)).unwrap();
    let b = lab.id("b");
    lab.set_up(b, false);
    lab.reached();
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(
        lab.reached(),
        ["c"],
        "its address was forgotten with its link"
    );
}

#[test]
fn a_port_that_is_not_up_yet_may_announce_where_its_station_is() {
    let mut lab = Lab::new(&[("a", of(A)), ("b", untagged())]);
    lab.set_up(PortId(0), false);
    lab.send("a", &eth(A, MacAddr::BROADCAST)).unwrap();
    assert_eq!(lab.reached(), ["b"]);
}

#[test]
fn a_guest_that_uses_the_address_of_a_station_outside_does_not_cut_it_off() {
    let mut lab = Lab::new(&[("a", untagged()), ("b", untagged()), ("up", uplink())]);
    lab.send("a", &eth(FAR, MacAddr::BROADCAST)).unwrap();
    lab.reached();
    lab.send("up", &eth(FAR, MacAddr::BROADCAST)).unwrap();
    assert_eq!(lab.reached(), ["a", "b"]);
    lab.send("b", &eth(B, FAR)).unwrap();
    assert_eq!(lab.reached(), ["a", "up"], "the forged place is forgotten");
    lab.send("a", &eth(FAR, B)).unwrap();
    lab.send("b", &eth(B, FAR)).unwrap();
    assert_eq!(
        lab.received("a").len(),
        1,
        "an address that moves back at once is learned at once"
    );
}

#[test]
fn a_second_tag_cannot_be_smuggled_through_a_port_that_carries_none() {
    let mut lab = Lab::new(&[
        ("plain", untagged()),
        ("ten", access(10)),
        ("all", all()),
        ("up", uplink()),
    ]);
    let mut double = tagged(A, MacAddr::BROADCAST, 0);
    double.splice(16..16, [0x81, 0, 0, 20]);
    let mut service = eth(A, MacAddr::BROADCAST);
    service.splice(12..12, [0x88, 0xa8, 0, 20]);
    for frame in [&double, &service] {
        assert_eq!(lab.send("plain", frame), Err(DropReason::VlanNotAllowed));
        assert_eq!(lab.send("ten", frame), Err(DropReason::VlanNotAllowed));
        assert!(lab.reached().is_empty());
        lab.send("all", frame).unwrap();
        assert_eq!(
            lab.reached(),
            ["up"],
            "who may stack tags gets stacked ones, and nobody else"
        );
    }
}

// Security.

/// Another address than that of the port.
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xd]);

#[test]
fn a_port_may_send_from_other_addresses_with_forged_transmits_only() {
    for policy in policies() {
        let mut lab = Lab::new(&[("a", secured(A, policy)), ("up", uplink())]);
        lab.send("a", &eth(A, FAR)).unwrap();
        assert_eq!(lab.reached(), ["up"]);
        let forged = lab.send("a", &eth(OTHER, FAR));
        if policy.forged_transmits {
            assert_eq!((forged, lab.reached().len()), (Ok(()), 1), "{policy:?}");
        } else {
            assert_eq!(forged, Err(DropReason::ForgedSource), "{policy:?}");
            assert!(lab.reached().is_empty());
        }
    }
}

#[test]
fn a_port_gets_frames_to_other_addresses_if_it_may_change_to_them_and_used_them() {
    for policy in policies() {
        let mut lab = Lab::new(&[("a", secured(A, policy)), ("up", uplink())]);
        let _ = lab.send("a", &eth(OTHER, FAR));
        lab.reached();
        let passed = lab.send("up", &eth(FAR, OTHER));
        let learned = policy.mac_changes && policy.forged_transmits;
        assert_eq!(passed.is_ok(), learned, "{policy:?}");
        let reached = lab.reached() == ["a"];
        assert_eq!(reached, learned || policy.promiscuous, "{policy:?}");
        assert_eq!(lab.switch.fdb_rows().len(), 1 + usize::from(learned));
    }
}

#[test]
fn frames_to_unknown_stations_go_to_ports_that_may_change_their_address() {
    for policy in policies() {
        let mut lab = Lab::new(&[("a", of(A)), ("b", secured(B, policy)), ("up", uplink())]);
        lab.send("a", &eth(A, OTHER)).unwrap();
        let expected = policy.mac_changes || policy.promiscuous;
        assert_eq!(
            lab.reached().contains(&"b".to_owned()),
            expected,
            "{policy:?}"
        );
    }
}

#[test]
fn whatever_its_policy_a_port_cannot_take_the_address_of_another() {
    let gateway = MacAddr([2, 0, 0, 0, 0, 0xfe]);
    for policy in policies() {
        let mut lab = Lab::new(&[
            ("a", secured(A, policy)),
            ("b", of(B)),
            ("gateway", of(gateway)),
            ("up", uplink()),
        ]);
        let reason = if policy.forged_transmits {
            DropReason::SourceConflict
        } else {
            DropReason::ForgedSource
        };
        for taken in [B, gateway] {
            for dst in [FAR, MacAddr::BROADCAST, B] {
                assert_eq!(lab.send("a", &eth(taken, dst)), Err(reason), "{policy:?}");
            }
            assert!(lab.reached().is_empty());
        }
        lab.send("up", &eth(FAR, gateway)).unwrap();
        assert!(lab.reached().contains(&"gateway".to_owned()));
    }
}

#[test]
fn the_address_of_a_trunk_cannot_be_taken_in_a_vlan_where_it_has_not_spoken() {
    let trunk = Member {
        mac: Some(A),
        ..all()
    };
    let mut lab = Lab::new(&[("trunk", trunk), ("ten", access(10)), ("up", uplink())]);
    assert_eq!(
        lab.send("ten", &eth(A, MacAddr::BROADCAST)),
        Err(DropReason::SourceConflict)
    );
    lab.send("up", &tagged(FAR, A, 10)).unwrap();
    assert_eq!(lab.reached(), ["trunk"]);
    lab.set_up(PortId(0), false);
    lab.send("ten", &eth(A, MacAddr::BROADCAST)).unwrap();
}

#[test]
fn a_promiscuous_port_sees_exactly_the_frames_of_its_vlan() {
    let sees = Security {
        promiscuous: true,
        ..Security::default()
    };
    let in_ten = |mac| Member {
        mac: Some(mac),
        ..access(10)
    };
    let mut lab = Lab::new(&[
        ("a", in_ten(A)),
        ("b", in_ten(B)),
        ("twenty", access(20)),
        (
            "sees",
            Member {
                security: sees,
                ..in_ten(C)
            },
        ),
        ("up", uplink()),
    ]);
    for (from, frame, seen) in [
        ("a", eth(A, B), true),
        ("a", eth(A, FAR), true),
        ("a", eth(A, MacAddr::BROADCAST), true),
        ("a", eth(A, MacAddr([3, 0, 0, 0, 0, 1])), true),
        ("up", tagged(FAR, B, 10), true),
        ("up", tagged(FAR, OTHER, 10), true),
        ("up", tagged(FAR, MacAddr::BROADCAST, 10), true),
        ("a", eth(A, MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e])), false),
        ("a", eth(OTHER, B), false),
        ("up", tagged(FAR, B, 20), false),
        ("up", tagged(B, A, 10), false),
        ("twenty", eth(OTHER, B), false),
        ("twenty", eth(OTHER, MacAddr::BROADCAST), false),
    ] {
        let _ = lab.send(from, &frame);
        let expected: &[_] = if seen { &[eth_of(&frame)] } else { &[] };
        assert_eq!(lab.received("sees"), expected, "from {from}: {frame:x?}");
        lab.reached();
    }
}

/// A frame without its tag.
fn eth_of(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [0x81, 0] {
        frame.drain(12..16);
    }
    frame
}

#[test]
fn a_promiscuous_port_sees_frames_that_cannot_reach_whom_they_are_for() {
    let sees = Security {
        promiscuous: true,
        ..Security::default()
    };
    let mut lab = Lab::new(&[
        ("a", of(A)),
        ("b", of(B)),
        ("sees", secured(C, sees)),
        ("up", uplink()),
    ]);
    lab.set_up(PortId(1), false);
    lab.set_up(PortId(3), false);
    assert_eq!(lab.send("a", &eth(A, B)), Err(DropReason::PortDown));
    assert_eq!(lab.reached(), ["sees"]);
    assert_eq!(lab.send("a", &eth(A, FAR)), Err(DropReason::NoUplink));
    assert_eq!(lab.reached(), ["sees"]);
}

#[test]
fn a_promiscuous_port_that_is_isolated_sees_nothing_of_others_that_are() {
    let sees = Security {
        promiscuous: true,
        ..Security::default()
    };
    let isolated = |member| Member {
        isolated: true,
        ..member
    };
    let mut lab = Lab::new(&[
        ("a", isolated(of(A))),
        ("b", of(B)),
        ("sees", isolated(secured(C, sees))),
    ]);
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(lab.reached(), ["b"]);
    lab.send("b", &eth(B, A)).unwrap();
    assert_eq!(lab.reached(), ["a", "sees"]);
    assert_eq!(lab.send("a", &eth(A, C)), Err(DropReason::Isolated));
}

// Guards and storms.

/// A UDP packet over IPv4.
fn udp(from: u16, to: u16) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[9] = 17;
    packet[20..22].copy_from_slice(&from.to_be_bytes());
    packet[22..24].copy_from_slice(&to.to_be_bytes());
    emit(MacAddr::BROADCAST, A, ETHERTYPE_IPV4, &packet)
}

fn router_advertisement() -> Vec<u8> {
    let mut packet = vec![0; 56];
    packet[0] = 0x60;
    packet[5] = 16;
    packet[6] = 58;
    packet[40] = 134;
    emit(MacAddr([0x33, 0x33, 0, 0, 0, 1]), A, 0x86dd, &packet)
}

#[test]
fn a_guarded_port_is_no_dhcp_server_and_no_router_and_what_it_may_not_send_teaches_nothing() {
    let both = Guards {
        dhcp_server: true,
        router_advertisement: true,
    };
    for (guards, dhcp, router) in [
        (Guards::OFF, Ok(()), Ok(())),
        (both, Err(DropReason::DhcpGuard), Err(DropReason::RaGuard)),
    ] {
        for (frame, expected) in [
            (udp(67, 68), dhcp),
            (router_advertisement(), router),
            (udp(68, 67), Ok(())),
        ] {
            let guarded = Member {
                guards,
                ..untagged()
            };
            let mut lab = Lab::new(&[("a", guarded), ("b", untagged()), ("up", uplink())]);
            assert_eq!(lab.send("a", &frame), expected);
            let reached = if expected.is_ok() { 2 } else { 0 };
            assert_eq!(lab.reached().len(), reached);
            assert_eq!(lab.switch.fdb_rows().is_empty(), expected.is_err());
            assert_eq!(lab.send("up", &frame), Ok(()), "the outside is not guarded");
        }
    }
}

#[test]
fn a_storm_is_cut_off_by_its_kind_and_the_rest_passes() {
    let rate = NonZeroU32::new(10);
    let none = storm::Limits::default();
    let (group, known) = (MacAddr([3, 0, 0, 0, 0, 1]), B);
    for (limits, stormy) in [
        (
            storm::Limits {
                broadcast: rate,
                ..none
            },
            MacAddr::BROADCAST,
        ),
        (
            storm::Limits {
                multicast: rate,
                ..none
            },
            group,
        ),
        (
            storm::Limits {
                unknown_unicast: rate,
                ..none
            },
            FAR,
        ),
    ] {
        let limited = Member {
            storm: limits,
            ..of(A)
        };
        let mut lab = Lab::new(&[("a", limited), ("b", of(B)), ("up", uplink())]);
        for dst in [MacAddr::BROADCAST, group, FAR, known] {
            let passed = (0..50)
                .filter(|_| lab.send("a", &eth(A, dst)).is_ok())
                .count();
            let burst = usize::try_from(Storm::LEAST_BURST).unwrap();
            assert_eq!(passed, if dst == stormy { burst } else { 50 }, "{dst}");
        }
        lab.reached();
        assert_eq!(
            lab.send("a", &eth(A, stormy)),
            Err(DropReason::StormControl)
        );
        assert!(lab.reached().is_empty());
        lab.advance(Duration::from_secs(1));
        assert_eq!(lab.send("a", &eth(A, stormy)), Ok(()));
    }
}

#[test]
fn a_guest_whose_address_nobody_typed_is_held_to_the_first_one_that_it_uses() {
    let suggested = Member {
        takes_first: true,
        ..of(A)
    };
    let mut lab = Lab::new(&[("a", suggested), ("b", of(B)), ("c", untagged())]);
    lab.send("c", &eth(C, A)).unwrap();
    assert_eq!(
        lab.reached(),
        ["a"],
        "until it speaks it has what it was told"
    );
    assert_eq!(
        lab.send("a", &eth(B, C)),
        Err(DropReason::ForgedSource),
        "another's it cannot take"
    );
    let a = lab.id("a");
    lab.set_up(a, false);
    lab.set_up(a, true);
    lab.send("a", &eth(FAR, MacAddr::BROADCAST)).unwrap();
    lab.reached();
    lab.send("c", &eth(C, FAR)).unwrap();
    assert_eq!(lab.reached(), ["a"]);
    for other in [A, C] {
        assert_eq!(
            lab.send("a", &eth(other, B)),
            Err(DropReason::ForgedSource),
            "it has chosen"
        );
    }
    assert_eq!(lab.switch.address(a), Some(FAR));
    lab.set_up(a, false);
    lab.set_up(a, true);
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(
        lab.switch.address(a),
        Some(A),
        "another VMM may choose anew"
    );
}

#[test]
fn a_guest_whose_address_nobody_typed_cannot_take_one_that_was_typed_for_another_that_is_down() {
    let suggested = Member {
        takes_first: true,
        ..of(A)
    };
    let mut lab = Lab::new(&[("a", suggested), ("b", of(B)), ("c", of(C))]);
    let b = lab.id("b");
    lab.set_up(b, false);
    assert_eq!(
        lab.send("a", &eth(B, C)),
        Err(DropReason::ForgedSource),
        "it is still that of b"
    );
    lab.set_up(b, true);
    lab.send("b", &eth(B, MacAddr::BROADCAST)).unwrap();
    lab.reached();
    lab.send("c", &eth(C, B)).unwrap();
    assert_eq!(lab.reached(), ["b"]);
}

#[test]
fn an_address_that_nobody_typed_moves_with_its_guest_to_another_port() {
    let suggested = |mac| Member {
        takes_first: true,
        ..of(mac)
    };
    let mut lab = Lab::new(&[("a", suggested(A)), ("b", suggested(B)), ("c", of(C))]);
    let (a, b) = (lab.id("a"), lab.id("b"));
    lab.set_up(b, false);
    lab.send("a", &eth(FAR, C)).unwrap();
    lab.set_up(a, false);
    lab.set_up(b, true);
    lab.send("b", &eth(FAR, C)).unwrap();
    lab.reached();
    lab.send("c", &eth(C, FAR)).unwrap();
    assert_eq!(lab.reached(), ["b"]);
}

#[test]
fn a_trunk_whose_address_nobody_typed_cannot_take_one_of_another_vlan_it_carries() {
    let suggested = Member {
        takes_first: true,
        mac: Some(A),
        ..all()
    };
    let ten = Member {
        mac: Some(B),
        ..access(10)
    };
    let mut lab = Lab::new(&[("trunk", suggested), ("ten", ten), ("b", of(B))]);
    assert_eq!(
        lab.send("trunk", &tagged(B, MacAddr::BROADCAST, 20)),
        Err(DropReason::ForgedSource),
        "said in a VLAN where nobody has it"
    );
    for port in ["ten", "b"] {
        lab.send(port, &eth(B, MacAddr::BROADCAST)).unwrap();
    }
}

#[test]
fn an_address_that_a_guest_chose_itself_is_given_back_to_the_station_outside_whose_it_is() {
    let suggested = Member {
        takes_first: true,
        ..of(A)
    };
    let mut lab = Lab::new(&[("a", suggested), ("b", of(B)), ("up", uplink())]);
    lab.send("a", &eth(FAR, MacAddr::BROADCAST)).unwrap();
    for _ in 0..3 {
        assert_eq!(lab.send("up", &eth(FAR, B)), Err(DropReason::Reflected));
    }
    lab.reached();
    lab.send("up", &eth(FAR, B)).unwrap();
    assert_eq!(lab.reached(), ["b"], "the router speaks again");
    lab.send("b", &eth(B, FAR)).unwrap();
    assert_eq!(lab.reached(), ["up"]);
    assert_eq!(lab.send("a", &eth(FAR, B)), Err(DropReason::ForgedSource));
    lab.send("a", &eth(A, B)).unwrap();
    assert_eq!(lab.reached(), ["b"], "what it was told to use it may use");
}

#[test]
fn an_address_that_was_typed_is_not_given_away() {
    let mut lab = Lab::new(&[("a", of(A)), ("b", of(B)), ("up", uplink())]);
    for _ in 0..9 {
        assert_eq!(lab.send("up", &eth(A, B)), Err(DropReason::Reflected));
    }
    lab.send("b", &eth(B, A)).unwrap();
    assert_eq!(lab.reached(), ["a"]);
}
