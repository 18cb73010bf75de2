//! No frame is ever in the wrong VLAN: every kind of port, every kind of frame, and every kind of destination, against
//! an oracle that knows the rules of IEEE 802.1Q, RFC 5517 and this switch, and nothing of its code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use vmlan::net::frame::Head;
use vmlan::net::member::Member;
use vmlan::net::outbox::Outbox;
use vmlan::net::port::{OwnFrames, PortId};
use vmlan::net::switch::{Spec, Switch};
use vmlan::net::vlan::{Domain, PortVlan, PrivatePort, PrivateRole, PrivateVlans, Trunk, VlanId};
use vmlan::wire::ethernet::MacAddr;
use vmlan::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM, VirtioNetHeader};

/// The VLANs that a port carries, in the words of the rules: 0 stands for frames without a VLAN.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// One VLAN, without a tag.
    Plain(u16),
    /// All of them, with tags.
    All,
    /// These with tags, and one without.
    Trunk(&'static [u16], Option<u16>),
    /// Private VLAN 100: with everyone.
    Promiscuous,
    /// With promiscuous ports only.
    Isolated(u16),
    /// With promiscuous ports and those of the same number.
    Community(u16),
    Uplink,
}

#[derive(Clone, Copy, Debug)]
struct Port {
    kind: Kind,
    service_tags: bool,
    isolated: bool,
}

use Kind::{All, Community, Isolated, Plain, Promiscuous, Uplink};

const PRIMARY: u16 = 100;
const SECONDARY: [u16; 3] = [101, 102, 103];

/// Every kind of port, and two of those that could talk to their like.
fn ports() -> Vec<Port> {
    let port = |kind| Port {
        kind,
        service_tags: matches!(kind, Uplink),
        isolated: false,
    };
    let service = |kind| Port {
        service_tags: true,
        ..port(kind)
    };
    let isolated = |kind| Port {
        isolated: true,
        ..port(kind)
    };
    vec![
        port(Plain(0)),
        service(Plain(0)),
        port(Plain(10)),
        port(Plain(10)),
        service(Plain(10)),
        isolated(Plain(10)),
        isolated(Plain(10)),
        port(Plain(20)),
        port(Plain(5)),
        port(All),
        service(All),
        port(Kind::Trunk(&[10, 20], Some(5))),
        service(Kind::Trunk(&[10, 20], Some(5))),
        port(Kind::Trunk(&[10, 20], None)),
        isolated(Kind::Trunk(&[10], Some(0))),
        service(Kind::Trunk(&[PRIMARY, 101, 102], None)),
        port(Promiscuous),
        port(Promiscuous),
        port(Isolated(101)),
        port(Isolated(101)),
        port(Community(102)),
        port(Community(102)),
        port(Community(103)),
        port(Uplink),
        port(Uplink),
    ]
}

/// What stands between the addresses and the payload of each kind of frame.
fn headers() -> Vec<Vec<u8>> {
    let tag = |tci: u16| [0x81, 0, tci.to_be_bytes()[0], tci.to_be_bytes()[1]];
    let service = |tci: u16| [0x88, 0xa8, tci.to_be_bytes()[0], tci.to_be_bytes()[1]];
    let ip = [8, 0];
    let mut headers = vec![ip.to_vec()];
    for vid in [0, 5, 10, 20, 30, 100, 101, 102, 103, 4095] {
        for priority in [0, 0xb000] {
            headers.push([&tag(priority | vid)[..], &ip].concat());
        }
    }
    for outer in [0, 5, 10, 20, 30, 100, 101, 4095] {
        for inner in [0, 10, 20, 101] {
            headers.push([&tag(0x6000 | outer)[..], &tag(inner), &ip].concat());
        }
        headers.push([&tag(0x6000 | outer)[..], &service(20), &ip].concat());
        headers.push([&service(outer)[..], &tag(20), &ip].concat());
        headers.push([&service(outer)[..], &ip].concat());
    }
    headers.push([&[0x91, 0, 0, 10][..], &ip].concat());
    headers.push([&tag(10)[..], &[0x91, 0, 0, 20], &ip].concat());
    headers
}

fn mac(port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, u8::try_from(port).unwrap()])
}

const FAR: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const NOBODY: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
const GROUP: MacAddr = MacAddr([3, 0, 0, 0, 0, 1]);
const PAYLOAD: [u8; 60] = *b"the payload begins here and ends where all of it has arrived";

fn frame(dst: MacAddr, src: MacAddr, header: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, header, &PAYLOAD].concat()
}

/// A frame as the rules see it.
struct Read<'a> {
    /// The outer 802.1Q tag's priority and number.
    tag: Option<(u16, u16)>,
    /// What follows it.
    rest: &'a [u8],
}

fn read(frame: &[u8]) -> Option<Read<'_>> {
    match frame.get(12..14)? {
        [0x81, 0] => {
            let tci = u16::from_be_bytes([*frame.get(14)?, *frame.get(15)?]);
            frame.get(17)?;
            Some(Read {
                tag: Some((tci & 0xf000, tci & 0x0fff)),
                rest: &frame[16..],
            })
        }
        _ => Some(Read {
            tag: None,
            rest: &frame[12..],
        }),
    }
}

impl Read<'_> {
    fn vid(&self) -> u16 {
        self.tag.map_or(0, |(_, vid)| vid)
    }

    fn is_stacked(&self) -> bool {
        matches!(self.rest[..2], [0x81, 0] | [0x88, 0xa8])
    }
}

fn primary_of(vlan: u16) -> u16 {
    if SECONDARY.contains(&vlan) {
        PRIMARY
    } else {
        vlan
    }
}

impl Port {
    /// The number under which a frame from this port travels, if the port may send it.
    fn enters(self, frame: &Read<'_>) -> Option<u16> {
        if frame.is_stacked() && !self.service_tags {
            return None;
        }
        match (self.kind, frame.vid()) {
            (_, 4095) => None,
            // Outside, the inner tag would be read as the frame's.
            _ if !self.is_uplink() && self.hides_a_tag(frame) => None,
            (Plain(vlan), 0) => Some(vlan),
            (All | Uplink, vid) => Some(vid),
            (Kind::Trunk(_, untagged), 0) => untagged,
            (Kind::Trunk(tagged, _), vid) => tagged.contains(&vid).then_some(vid),
            (Promiscuous, 0) => Some(PRIMARY),
            (Isolated(own) | Community(own), 0) => Some(own),
            (Plain(_) | Promiscuous | Isolated(_) | Community(_), _) => None,
        }
    }

    /// Whether there is an 802.1Q tag behind one that names no VLAN, and none is put in its place.
    fn hides_a_tag(self, frame: &Read<'_>) -> bool {
        let without_vlan = match self.kind {
            Plain(vlan) => vlan == 0,
            Kind::Trunk(_, untagged) => untagged == Some(0),
            // It may send in each VLAN anyway.
            All | Uplink | Promiscuous | Isolated(_) | Community(_) => false,
        };
        without_vlan && frame.vid() == 0 && frame.tag.is_some() && frame.rest[..2] == [0x81, 0]
    }

    /// The frame as this port gets it, if it does, where it travels under a number.
    fn gets(self, bytes: &[u8], number: u16, from_isolated: bool) -> Option<Vec<u8>> {
        let frame = read(bytes)?;
        if frame.is_stacked() && !self.service_tags || from_isolated && self.isolated {
            return None;
        }
        let addresses = &bytes[..12];
        let bare = [addresses, frame.rest].concat();
        let priority = frame.tag.map_or(0, |(priority, _)| priority);
        let [high, low] = (priority | number).to_be_bytes();
        let tagged = [addresses, &[0x81, 0, high, low], frame.rest].concat();
        match self.kind {
            Plain(own) => (own == number).then_some(bare),
            // Without a VLAN there is no tag to put on, and a priority is kept.
            All | Uplink if number == 0 => Some(bytes.to_vec()),
            All | Uplink => Some(tagged),
            // Who reads tags would read the inner one.
            Kind::Trunk(_, own) if own == Some(number) => {
                (bare[12..14] != [0x81, 0]).then_some(bare)
            }
            Kind::Trunk(numbers, _) => numbers.contains(&number).then_some(tagged),
            Promiscuous => (primary_of(number) == PRIMARY).then_some(bare),
            Isolated(_) => (number == PRIMARY).then_some(bare),
            Community(own) => (number == PRIMARY || number == own).then_some(bare),
        }
    }

    fn is_uplink(self) -> bool {
        matches!(self.kind, Uplink)
    }

    /// The domain in which the port's own address is known before it speaks.
    fn home(self) -> Option<u16> {
        match self.kind {
            Plain(own) => Some(own),
            All => Some(0),
            Kind::Trunk(_, own) => own,
            Promiscuous | Isolated(_) | Community(_) => Some(PRIMARY),
            Uplink => None,
        }
    }
}

/// Who gets a frame, and how it reads then.
fn oracle(ports: &[Port], from: usize, bytes: &[u8]) -> BTreeMap<usize, Vec<u8>> {
    let none = BTreeMap::new();
    let sender = ports[from];
    let Some(number) = read(bytes).and_then(|frame| sender.enters(&frame)) else {
        return none;
    };
    let dst = MacAddr::from_slice(bytes).unwrap();
    let src = MacAddr::from_slice(&bytes[6..]).unwrap();
    let guest =
        |mac: MacAddr| (0..ports.len()).find(|at| self::mac(*at) == mac && !ports[*at].is_uplink());
    match guest(src) {
        // A port without the right to others' addresses.
        _ if !sender.is_uplink() && src != mac(from) => return none,
        // One of ours, come back.
        Some(owner) if sender.is_uplink() && ports[owner].home() == Some(primary_of(number)) => {
            return none;
        }
        Some(_) | None => {}
    }
    let to = |at: usize| {
        let got = ports[at].gets(bytes, number, sender.isolated)?;
        Some((at, got))
    };
    let others = (0..ports.len()).filter(|at| *at != from);
    let mut others = others.filter(|at| !(sender.is_uplink() && ports[*at].is_uplink()));
    if dst.0[0] & 1 != 0 {
        return others.filter_map(to).collect();
    }
    match guest(dst) {
        Some(owner) if owner == from => none,
        Some(owner) if sender.is_uplink() || ports[owner].home() == Some(primary_of(number)) => {
            to(owner).into_iter().collect()
        }
        // It may be behind an uplink, or be a trunk that has not spoken in this VLAN.
        Some(owner) => others
            .filter(|at| *at == owner || ports[*at].is_uplink())
            .filter_map(to)
            .collect(),
        None if sender.is_uplink() => none,
        None => others
            .by_ref()
            .filter(|at| ports[*at].is_uplink())
            .filter_map(to)
            .collect(),
    }
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn domain(number: u16) -> Domain {
    VlanId::new(number).map_or(Domain::UNTAGGED, Domain::from)
}

fn member(at: usize, port: Port) -> Member {
    let private = |role| {
        PortVlan::Private(PrivatePort {
            primary: vlan(PRIMARY),
            role,
        })
    };
    Member {
        vlan: match port.kind {
            Plain(0) => PortVlan::Untagged,
            Plain(number) => PortVlan::Access(vlan(number)),
            All | Uplink => PortVlan::All,
            Kind::Trunk(tagged, untagged) => PortVlan::Trunk(Arc::new(Trunk {
                tagged: tagged.iter().copied().map(vlan).collect(),
                untagged: untagged.map(domain),
            })),
            Promiscuous => private(PrivateRole::Promiscuous),
            Isolated(own) => private(PrivateRole::Isolated(vlan(own))),
            Community(own) => private(PrivateRole::Community(vlan(own))),
        },
        uplink: port.is_uplink(),
        mac: (!port.is_uplink()).then(|| mac(at)),
        isolated: port.isolated,
        service_tags: port.service_tags,
        ..Member::default()
    }
}

fn switch(ports: &[Port]) -> Switch {
    let mut private = PrivateVlans::default();
    for secondary in SECONDARY {
        private.insert(vlan(secondary), vlan(PRIMARY));
    }
    let spec = Spec {
        private,
        ..Spec::default()
    };
    let mut switch = Switch::new(spec, Instant::now());
    for (at, port) in ports.iter().enumerate() {
        let id = PortId(u16::try_from(at).unwrap());
        switch.add(id, member(at, *port));
        switch.set_up(id, true, None, &mut OwnFrames::default());
    }
    switch
}

/// Who gets a frame from the switch. Its checksum is to be put in behind its head, which must follow it.
fn carried(
    switch: &mut Switch,
    ports: usize,
    from: usize,
    bytes: &[u8],
) -> BTreeMap<usize, Vec<u8>> {
    let mut out = Outbox::default();
    out.reserve(PortId(u16::try_from(ports).unwrap()));
    let payload_at = bytes.len().saturating_sub(PAYLOAD.len());
    let start = u16::try_from(payload_at).unwrap();
    let offload = VirtioNetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: start + 20,
        gso_size: 1000,
        csum_start: start,
        csum_offset: 16,
    };
    let mut head = Head::default();
    head.fill(bytes, offload);
    let from = PortId(u16::try_from(from).unwrap());
    let _ = head
        .parse()
        .and_then(|parsed| switch.forward(from, 0, &head, &parsed, &mut out));
    let mut reached = BTreeMap::new();
    out.drain(|to, batch| {
        let [egress] = batch else {
            panic!("{to:?} got a frame {} times", batch.len());
        };
        let changed = head.with_tag(egress.action);
        let at = usize::from(changed.offload.csum_start);
        assert_eq!(
            &changed.bytes()[at..],
            PAYLOAD,
            "the checksum starts elsewhere"
        );
        assert_eq!(changed.offload.hdr_len, changed.offload.csum_start + 20);
        assert_eq!(changed.offload.csum_offset, 16);
        reached.insert(to.index(), changed.bytes().to_vec());
    });
    reached
}

/// Checks one frame form from one port to everyone.
fn check(ports: &[Port], from: usize, src: MacAddr, header: &[u8]) {
    let mut switch = switch(ports);
    let before = switch.fdb_rows();
    let stations = (0..ports.len())
        .filter(|at| !ports[*at].is_uplink())
        .map(mac);
    let may =
        read(&frame(NOBODY, src, header)).is_some_and(|frame| ports[from].enters(&frame).is_some());
    for dst in stations.chain([MacAddr::BROADCAST, GROUP, NOBODY]) {
        let bytes = frame(dst, src, header);
        let reached = carried(&mut switch, ports.len(), from, &bytes);
        assert_eq!(
            reached,
            oracle(ports, from, &bytes),
            "from {from} {:?}: {dst} {src} {header:x?}",
            ports[from]
        );
    }
    if !may || ports[from].is_uplink() || src != mac(from) {
        assert_eq!(switch.fdb_rows(), before, "a refused frame teaches nothing");
    }
}

#[test]
fn no_frame_is_ever_in_the_wrong_vlan() {
    let ports = ports();
    for (from, port) in ports.iter().enumerate() {
        let src = if port.is_uplink() { FAR } else { mac(from) };
        for header in headers() {
            check(&ports, from, src, &header);
        }
    }
}

#[test]
fn no_frame_of_another_station_passes_in_any_vlan() {
    let ports = ports();
    for (from, port) in ports.iter().enumerate() {
        for header in headers() {
            // A plain port, an isolated one of a private VLAN, a trunk, and who is not there.
            for owner in [2, 18, 11] {
                if from != owner && !(port.is_uplink() && owner == 11) {
                    check(&ports, from, mac(owner), &header);
                }
            }
            if !port.is_uplink() {
                check(&ports, from, NOBODY, &header);
            }
        }
    }
}

#[test]
fn a_frame_whose_tag_is_cut_off_reaches_nobody_and_teaches_nothing() {
    let ports = ports();
    let whole = frame(MacAddr::BROADCAST, FAR, &[0x81, 0, 0, 10, 8, 0]);
    for from in 0..ports.len() {
        let mut bytes = whole.clone();
        if !ports[from].is_uplink() {
            bytes[6..12].copy_from_slice(&mac(from).0);
        }
        for len in 0..18 {
            let mut switch = switch(&ports);
            let before = switch.fdb_rows();
            let mut head = Head::default();
            head.fill(&bytes[..len], VirtioNetHeader::default());
            assert!(head.parse().is_err(), "{len}");
            assert!(carried(&mut switch, ports.len(), from, &bytes[..len]).is_empty());
            assert_eq!(switch.fdb_rows(), before);
        }
    }
}
