//! The switch against a naive one: random ports, random traffic, and the same frames must come out in the same form.
//!
//! The naive switch keeps a list and looks through it; it knows nothing of caches, generations or batches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vmlan::net::drops::DropReason;
use vmlan::net::fdb::Fdb;
use vmlan::net::frame::Head;
use vmlan::net::member::Member;
use vmlan::net::outbox::Outbox;
use vmlan::net::port::{OwnFrames, PortId};
use vmlan::net::security::Security;
use vmlan::net::switch::{Spec, Switch};
use vmlan::net::team::load::Bytes;
use vmlan::net::vlan::{PortVlan, VlanId};
use vmlan::wire::ethernet::{ETHERTYPE_IPV4, MacAddr, emit};
use vmlan::wire::virtio_net::VirtioNetHeader;

const PORTS: u16 = 6;

#[derive(Clone, Debug)]
enum Step {
    Frame {
        port: u16,
        src: u8,
        dst: u8,
        tag: Option<u16>,
    },
    Wait(u64),
    Link {
        port: u16,
        up: bool,
    },
}

/// Stations 0 to 5 are single ones, 6 and 7 are groups.
fn station(number: u8) -> MacAddr {
    MacAddr([if number < 6 { 2 } else { 3 }, 0, 0, 0, 0, number])
}

fn member() -> impl Strategy<Value = (u16, bool)> {
    prop_oneof![
        3 => (0..3u16).prop_map(|vlan| (vlan, false)),
        1 => Just((4095, false)),
        1 => Just((4095, true)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let tag = prop_oneof![Just(None), (0..4u16).prop_map(Some), Just(Some(4095))];
    prop_oneof![
        20 => (0..PORTS, 0..8u8, 0..8u8, tag).prop_map(|(port, src, dst, tag)| Step::Frame { port, src, dst, tag }),
        2 => (0..200u64).prop_map(Step::Wait),
        1 => (0..PORTS, any::<bool>()).prop_map(|(port, up)| Step::Link { port, up }),
    ]
}

/// A port carries VLAN 0 (untagged), one VLAN, or with 4095 every one.
#[derive(Default)]
struct Naive {
    ports: Vec<(u16, bool, bool)>,
    fixed: Vec<(u16, u8, u16)>,
    learned: Vec<(u16, u8, u16, u64)>,
    now: u64,
}

type Out = BTreeMap<u16, Option<u16>>;

impl Naive {
    fn place(&self, vlan: u16, mac: u8) -> Option<(u16, bool)> {
        let fixed = self
            .fixed
            .iter()
            .find(|entry| (entry.0, entry.1) == (vlan, mac));
        let fresh = |entry: &&(u16, u8, u16, u64)| self.now - entry.3 < Fdb::AGEING.as_secs();
        let learned = self
            .learned
            .iter()
            .find(|entry| (entry.0, entry.1) == (vlan, mac))
            .filter(fresh);
        fixed
            .map(|entry| (entry.2, true))
            .or_else(|| learned.map(|entry| (entry.2, false)))
    }

    /// The tag with which a frame of `vlan` leaves a port, if it does.
    fn form(&self, port: u16, vlan: u16, tag: Option<u16>) -> Option<Option<u16>> {
        match self.ports[usize::from(port)].0 {
            4095 if vlan == 0 => Some(tag),
            4095 => Some(Some(vlan)),
            own => (own == vlan).then_some(None),
        }
    }

    fn frame(&mut self, port: u16, src: u8, dst: u8, tag: Option<u16>) -> Result<Out, DropReason> {
        let (own, uplink, _) = self.ports[usize::from(port)];
        if src >= 6 {
            return Err(DropReason::BadSource);
        }
        let vlan = match (own, tag.unwrap_or(0)) {
            (_, 4095) => return Err(DropReason::VlanNotAllowed),
            (4095, vid) => vid,
            (own, 0) => own,
            _ => return Err(DropReason::VlanNotAllowed),
        };
        let up = |at: u16| self.ports[usize::from(at)].2;
        match self.place(vlan, src) {
            Some((at, true)) if uplink && up(at) => return Err(DropReason::Reflected),
            Some((at, true)) if !uplink && at != port && up(at) => {
                return Err(DropReason::SourceConflict);
            }
            Some((_, true)) => {}
            _ => {
                self.learned
                    .retain(|entry| (entry.0, entry.1) != (vlan, src));
                if !uplink {
                    self.learned.push((vlan, src, port, self.now));
                }
            }
        }
        let up = |at: u16| self.ports[usize::from(at)].2;
        if dst < 6 {
            match self.place(vlan, dst) {
                Some((at, _)) if at == port => return Err(DropReason::SamePort),
                Some((at, _)) if !up(at) => return Err(DropReason::PortDown),
                Some((at, _)) => {
                    let form = self.form(at, vlan, tag).ok_or(DropReason::VlanNotAllowed)?;
                    return Ok(BTreeMap::from([(at, form)]));
                }
                None if uplink => {
                    // The address of a port of all VLANs is known in each of them.
                    let trunk = |entry: &&(u16, u8, u16)| {
                        entry.1 == dst && self.ports[usize::from(entry.2)].0 == 4095
                    };
                    let Some(at) = self.fixed.iter().find(trunk).map(|entry| entry.2) else {
                        return Err(DropReason::UnknownUnicast);
                    };
                    if !up(at) {
                        return Err(DropReason::PortDown);
                    }
                    let form = self.form(at, vlan, tag).ok_or(DropReason::VlanNotAllowed)?;
                    return Ok(BTreeMap::from([(at, form)]));
                }
                None => {
                    let uplinks = || (0..PORTS).filter(|at| self.ports[usize::from(*at)].1);
                    if uplinks().next().is_some() && !uplinks().any(up) {
                        return Err(DropReason::NoUplink);
                    }
                }
            }
        }
        let others = (0..PORTS).filter(|at| *at != port && up(*at));
        let others = others.filter(|at| !(uplink && self.ports[usize::from(*at)].1));
        Ok(others
            .filter_map(|at| Some((at, self.form(at, vlan, tag)?)))
            .collect())
    }
}

/// A frame, and how its tag reads; `None` where it has none.
fn frame(src: u8, dst: u8, tag: Option<u16>) -> Vec<u8> {
    let mut bytes = emit(station(dst), station(src), ETHERTYPE_IPV4, b"payload");
    if let Some(tag) = tag {
        let [high, low] = tag.to_be_bytes();
        bytes.splice(12..12, [0x81, 0, high, low]);
    }
    bytes
}

fn tag_of(bytes: &[u8]) -> Option<u16> {
    (bytes[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([bytes[14], bytes[15]]))
}

proptest! {
    #[test]
    fn the_switch_does_what_a_naive_one_does(
        members in proptest::collection::vec(member(), usize::from(PORTS)),
        fixed in proptest::collection::btree_map(0..PORTS, 0..6u8, 0..3),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let start = Instant::now();
        let (mut switch, mut naive) = (Switch::new(Spec::default(), start), Naive::default());
        let mut outbox = Outbox::default();
        for (id, (vlan, uplink)) in (0..).zip(&members) {
            let port_vlan = match VlanId::new(*vlan) {
                Some(vlan) => PortVlan::Access(vlan),
                None if *vlan == 0 => PortVlan::Untagged,
                None => PortVlan::All,
            };
            // Outside addresses belong to no port, and an address to one.
            let mac = fixed.get(&id).filter(|mac| !*uplink && naive.fixed.iter().all(|entry| entry.1 != **mac));
            switch.add(PortId(id), Member {
                vlan: port_vlan,
                uplink: *uplink,
                service_tags: true,
                mac: mac.map(|mac| station(*mac)),
                security: Security::LEGACY,
                ..Member::default()
            });
            switch.set_up(PortId(id), true, None, &mut OwnFrames::default());
            outbox.reserve(PortId(id));
            naive.ports.push((*vlan, *uplink, true));
            naive.fixed.extend(mac.map(|mac| (if *vlan == 4095 { 0 } else { *vlan }, *mac, id)));
        }
        for step in steps {
            match step {
                Step::Wait(seconds) => {
                    naive.now += seconds;
                    let now = start + Duration::from_secs(naive.now);
                    switch.set_now(now);
                    switch.handle_timeout(now, |_| Bytes::default(), &mut OwnFrames::default());
                }
                Step::Link { port, up } => {
                    if naive.ports[usize::from(port)].2 != up {
                        naive.ports[usize::from(port)].2 = up;
                        naive.learned.retain(|entry| entry.2 != port);
                    }
                    switch.set_up(PortId(port), up, None, &mut OwnFrames::default());
                }
                Step::Frame { port, src, dst, tag } => {
                    let mut head = Head::default();
                    head.fill(&frame(src, dst, tag), VirtioNetHeader::default());
                    let passed = head.parse().and_then(|parsed| switch.forward(PortId(port), 0, &head, &parsed, &mut outbox));
                    let mut out = Out::new();
                    outbox.drain(|to, batch| {
                        let form = tag_of(head.with_tag(batch[0].action).bytes());
                        assert!(out.insert(to.0, form).is_none() && batch.len() == 1);
                    });
                    let expected = naive.frame(port, src, dst, tag);
                    prop_assert_eq!(passed.map(|()| out), expected, "{:?} among {:?}", frame(src, dst, tag), members);
                }
            }
        }
    }
}
