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

/// A port of the naive switch. It carries VLAN 0 (untagged), one VLAN, or with 4095 every one.
#[derive(Clone, Debug)]
struct Port {
    vlan: u16,
    uplink: bool,
    isolated: bool,
    security: Security,
    mac: Option<u8>,
    up: bool,
}

fn member() -> impl Strategy<Value = Port> {
    let security =
        (0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(promiscuous, changes, forged)| {
            Security {
                promiscuous: promiscuous == 0,
                mac_changes: changes,
                forged_transmits: forged,
            }
        });
    let kind = prop_oneof![
        3 => (0..3u16).prop_map(|vlan| (vlan, false)),
        1 => Just((4095, false)),
        1 => Just((4095, true)),
    ];
    (kind, any::<bool>(), security).prop_map(|((vlan, uplink), isolated, security)| Port {
        vlan,
        uplink,
        isolated: isolated && !uplink,
        security,
        mac: None,
        up: true,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let tag = prop_oneof![Just(None), (0..4u16).prop_map(Some), Just(Some(4095))];
    prop_oneof![
        20 => (0..PORTS, 0..8u8, 0..8u8, tag).prop_map(|(port, src, dst, tag)| Step::Frame { port, src, dst, tag }),
        2 => (0..200u64).prop_map(Step::Wait),
        1 => (0..PORTS, any::<bool>()).prop_map(|(port, up)| Step::Link { port, up }),
    ]
}

#[derive(Default)]
struct Naive {
    ports: Vec<Port>,
    /// VLAN, address and port of what was learned, and when.
    learned: Vec<(u16, u8, u16, u64)>,
    now: u64,
}

type Out = BTreeMap<u16, Option<u16>>;

impl Naive {
    fn port(&self, port: u16) -> &Port {
        &self.ports[usize::from(port)]
    }

    fn find(&self, wanted: impl Fn(&Port) -> bool) -> Option<u16> {
        (0..PORTS).find(|at| wanted(self.port(*at)))
    }

    /// Where an address is, and whether it belongs there.
    fn place(&self, vlan: u16, mac: u8) -> Option<(u16, bool)> {
        let home = |port: &Port| if port.vlan == 4095 { 0 } else { port.vlan };
        let fixed = self.find(|port| port.mac == Some(mac) && home(port) == vlan);
        let learned = self.learned.iter().find(|entry| {
            (entry.0, entry.1) == (vlan, mac) && self.now - entry.3 < Fdb::AGEING.as_secs()
        });
        fixed
            .map(|at| (at, true))
            .or_else(|| learned.map(|entry| (entry.2, false)))
    }

    /// The tag with which a frame of `vlan` from a port leaves another, if it does.
    fn form(
        &self,
        from: u16,
        to: u16,
        vlan: u16,
        tag: Option<u16>,
    ) -> Result<Option<u16>, DropReason> {
        let (from, to) = (self.port(from), self.port(to));
        let form = match to.vlan {
            _ if !to.up => return Err(DropReason::PortDown),
            4095 if vlan == 0 => tag,
            4095 => Some(vlan),
            own if own == vlan => None,
            _ => return Err(DropReason::VlanNotAllowed),
        };
        if from.isolated && to.isolated {
            return Err(DropReason::Isolated);
        }
        Ok(form)
    }

    /// Checks that a port may use an address, and learns it if it may.
    fn admit(&mut self, from: u16, vlan: u16, src: u8) -> Result<(), DropReason> {
        let port = self.port(from);
        let place = self.place(vlan, src);
        let taken = place.filter(|(at, fixed)| *fixed && *at != from && self.port(*at).up);
        if port.uplink {
            self.learned
                .retain(|entry| (entry.0, entry.1) != (vlan, src) || taken.is_some());
            return taken.map_or(Ok(()), |_| Err(DropReason::Reflected));
        }
        let own = port.mac.is_none_or(|mac| mac == src);
        let security = port.security;
        if !own && !security.forged_transmits {
            return Err(DropReason::ForgedSource);
        }
        // The address of a port of all VLANs is its own in each of them.
        let of_trunk = (0..PORTS).filter(|at| *at != from).any(|at| {
            let other = self.port(at);
            other.vlan == 4095 && other.mac == Some(src) && other.up
        });
        if of_trunk || taken.is_some() {
            return Err(DropReason::SourceConflict);
        }
        let fixed = place.is_some_and(|(_, fixed)| fixed);
        if (own || security.mac_changes) && !fixed {
            self.learned
                .retain(|entry| (entry.0, entry.1) != (vlan, src));
            self.learned.push((vlan, src, from, self.now));
        }
        Ok(())
    }

    fn frame(
        &mut self,
        from: u16,
        src: u8,
        dst: u8,
        tag: Option<u16>,
    ) -> (Result<(), DropReason>, Out) {
        let mut out = Out::new();
        if src >= 6 {
            return (Err(DropReason::BadSource), out);
        }
        let vlan = match (self.port(from).vlan, tag.unwrap_or(0)) {
            (own, vid) if vid == 4095 || own != 4095 && vid != 0 => {
                return (Err(DropReason::VlanNotAllowed), out);
            }
            (4095, vid) => vid,
            (own, _) => own,
        };
        if let Err(reason) = self.admit(from, vlan, src) {
            return (Err(reason), out);
        }
        let passed = self.carry(from, vlan, dst, tag, &mut out);
        for at in (0..PORTS).filter(|at| *at != from) {
            let port = self.port(at);
            if port.security.promiscuous
                && !port.uplink
                && let Ok(form) = self.form(from, at, vlan, tag)
            {
                out.insert(at, form);
            }
        }
        (passed, out)
    }

    fn carry(
        &self,
        from: u16,
        vlan: u16,
        dst: u8,
        tag: Option<u16>,
        out: &mut Out,
    ) -> Result<(), DropReason> {
        let outside = self.port(from).uplink;
        let mut deliver = |at: u16| {
            out.insert(at, self.form(from, at, vlan, tag)?);
            Ok(())
        };
        let others = (0..PORTS).filter(|at| *at != from && !(outside && self.port(*at).uplink));
        if dst >= 6 {
            others.for_each(|at| deliver(at).unwrap_or_default());
            return Ok(());
        }
        let trunk = || self.find(|port| port.mac == Some(dst) && port.vlan == 4095);
        match self.place(vlan, dst) {
            Some((at, _)) if at == from => return Err(DropReason::SamePort),
            Some((at, _)) => return deliver(at),
            None if outside => return deliver(trunk().ok_or(DropReason::UnknownUnicast)?),
            None => {}
        }
        for at in others {
            let port = self.port(at);
            let learns = port.mac.is_none() || port.security.mac_changes;
            if port.uplink || learns || port.mac == Some(dst) {
                deliver(at).unwrap_or_default();
            }
        }
        let lost = self.find(|port| port.uplink).is_some()
            && self.find(|port| port.uplink && port.up).is_none();
        if lost {
            return Err(DropReason::NoUplink);
        }
        Ok(())
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
        fixed in proptest::collection::btree_map(0..PORTS, 0..6u8, 0..5),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let start = Instant::now();
        let (mut switch, mut naive) = (Switch::new(Spec::default(), start), Naive::default());
        let mut outbox = Outbox::default();
        for (id, port) in (0..).zip(&members) {
            let port_vlan = match VlanId::new(port.vlan) {
                Some(vlan) => PortVlan::Access(vlan),
                None if port.vlan == 0 => PortVlan::Untagged,
                None => PortVlan::All,
            };
            // Outside addresses belong to no port, and an address to one.
            let free = |mac: &&u8| naive.ports.iter().all(|other| other.mac != Some(**mac));
            let mac = fixed.get(&id).filter(|_| !port.uplink).filter(free).copied();
            switch.add(PortId(id), Member {
                vlan: port_vlan,
                uplink: port.uplink,
                service_tags: true,
                mac: mac.map(station),
                security: port.security,
                isolated: port.isolated,
                ..Member::default()
            });
            switch.set_up(PortId(id), true, None, &mut OwnFrames::default());
            outbox.reserve(PortId(id));
            naive.ports.push(Port { mac, ..port.clone() });
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
                    if naive.port(port).up != up {
                        naive.ports[usize::from(port)].up = up;
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
                    prop_assert_eq!((passed, out), expected, "{:?} among {:?}", frame(src, dst, tag), members);
                }
            }
        }
    }
}
