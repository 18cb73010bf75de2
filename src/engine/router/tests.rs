//! Two networks, a router between them, and stations on both sides, with a clock that only the test moves.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Sender;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::*;
use crate::engine::slot::Still;
use crate::engine::worker::{Command, Worker, clock};
use crate::engine::{Durable, Journal, Ledger, NetworkSpec, OutsidePort, StartError};
use crate::net::Now;
use crate::net::dhcp::Record;
use crate::net::drops::Drops;
use crate::net::gateway::{self, ServiceSpec};
use crate::net::member::Member;
use crate::net::nat::{self, Addressing4, Addressing6, NetworkOutside, Outside};
use crate::net::security::Security;
use crate::net::vlan::{PortVlan, VlanId};
use crate::net::{address, inside};
use crate::ports::burst::Burst;
use crate::ports::{Port, PortFault, PortStatus, Sent, Watcher};
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::checksum::checksum;
use crate::wire::ethernet;
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP, PROTOCOL_UDP};
use crate::wire::udp::{self, Udp};
use std::net::Ipv4Addr;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 8, 2]);
const OUTSIDE: MacAddr = MacAddr([2, 0, 0, 0, 0, 8]);
const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 8, 128]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 8, 129]);
const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 8, 2);
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 8, 128);
const OTHER_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 8, 129);
const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

struct Forgetful;

impl Journal for Forgetful {
    fn append(&mut self, _network: &str, _ticket: u64, _record: Record) -> bool {
        false
    }
}

#[derive(Default)]
struct Ends {
    coming: VecDeque<(Vec<u8>, VirtioNetHeader)>,
    got: Vec<Vec<u8>>,
}

/// The other end of a port that a test plays.
#[derive(Clone, Default)]
struct Station(Arc<Mutex<Ends>>);

impl Station {
    fn send(&self, frame: Vec<u8>) {
        let none = VirtioNetHeader::default();
        self.0.lock().unwrap().coming.push_back((frame, none));
    }

    fn received(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap().got)
    }
}

impl Port for Station {
    fn watch(&mut self, _watcher: Watcher) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
        for (frame, header) in self.0.lock().unwrap().coming.drain(..) {
            assert!(burst.push_owned(frame, header));
        }
        Ok(())
    }

    fn release(&mut self, burst: &mut Burst) {
        burst.clear();
    }

    fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        _drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        let mut sent = Sent::default();
        for egress in batch {
            let mut copy = Vec::new();
            burst.copy_frame(
                &burst.frames()[usize::from(egress.frame)],
                egress.action,
                &mut copy,
            );
            sent.frames += 1;
            sent.bytes += copy.len() as u64;
            self.0.lock().unwrap().got.push(copy);
        }
        Ok(sent)
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn poll_time(&self) -> Duration {
        Duration::MAX
    }

    fn status(&self) -> PortStatus {
        Still { up: true }.status()
    }

    fn is_up(&self) -> bool {
        true
    }
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap()
}

fn nat(ip: Ipv4Addr, mac: MacAddr, number: u8) -> nat::Spec {
    let net = format!("192.168.{number}.0/24").parse().unwrap();
    nat::Spec {
        gateways: Gateways {
            v4: Some((Ipv4Addr::new(192, 168, number, 2), net)),
            ..Gateways::default()
        },
        outside: Outside::Network(NetworkOutside {
            mac,
            v4: Addressing4::Static {
                ip,
                net: "10.0.0.0/24".parse().unwrap(),
                router: None,
            },
            v6: Addressing6::Off,
            ports: 1024..=65535,
            hostname: String::new(),
        }),
        forwards: Vec::new(),
        filtering: nat::Filtering::EndpointIndependent,
        timeouts: nat::Timeouts::default(),
        limits: nat::Limits::default(),
        closed: Vec::new(),
        map_host_loopback: false,
        ftp: false,
        log: false,
    }
}

fn network(number: u8, gateway: MacAddr, ip: Ipv4Addr, mac: MacAddr) -> NetworkSpec {
    NetworkSpec {
        name: format!("vmnet{number}"),
        mtu: 9000,
        gateway: Some(gateway::Spec {
            mac: gateway,
            services: vec![ServiceSpec::Address(address::Spec {
                ip: Ipv4Addr::new(192, 168, number, 2),
                v6: None,
                link_local: None,
            })],
            inside: inside::Spec::default(),
            nat: Some(nat(ip, mac, number)),
        }),
        outside: Some(OutsidePort {
            network: "vmnet0".to_owned(),
            ..OutsidePort::default()
        }),
        ..NetworkSpec::default()
    }
}

fn bridged() -> NetworkSpec {
    NetworkSpec {
        name: "vmnet0".to_owned(),
        mtu: 1500,
        ..NetworkSpec::default()
    }
}

struct Lab {
    worker: Worker,
    now: Now,
    _commands: Sender<Command>,
    _wake: EventFd,
}

impl Lab {
    fn try_new(networks: Vec<NetworkSpec>) -> Result<Self, StartError> {
        let (commands, requests) = crossbeam_channel::unbounded();
        let (wake, durable) = (eventfd(), Durable::new().unwrap());
        let ledger = Ledger::new(Box::new(Forgetful));
        let spec = crate::engine::Spec { networks };
        let worker = Worker::open(spec, &ledger, &durable, requests, &wake)?;
        Ok(Self {
            worker,
            now: clock(),
            _commands: commands,
            _wake: wake,
        })
    }

    fn new() -> Self {
        Self::with(PortVlan::Untagged)
    }

    /// The router's port outside carries these VLANs.
    fn with(vlan: PortVlan) -> Self {
        let mut inside = network(8, GATEWAY, OUTSIDE_IP, OUTSIDE);
        let outside = inside.outside.as_mut().unwrap();
        outside.member.vlan = vlan;
        Self::try_new(vec![bridged(), inside]).unwrap()
    }

    fn add(&mut self, network: usize, name: &str, member: Member) -> Station {
        let station = Station::default();
        let port = Box::new(station.clone());
        let slot = Slot::new(name.to_owned(), "guest", network, port, self.now.instant);
        self.worker.add(slot, member).unwrap();
        station
    }

    fn station(&mut self, network: usize, name: &str, mac: MacAddr) -> Station {
        let member = Member {
            mac: Some(mac),
            ..Member::default()
        };
        self.add(network, name, member)
    }

    fn mirror(&mut self, network: usize) -> Station {
        let security = Security {
            promiscuous: true,
            ..Security::default()
        };
        let member = Member {
            mac: Some(MacAddr([2, 0, 0, 0, 9, 9])),
            security,
            ..Member::default()
        };
        self.add(network, "mirror", member)
    }

    fn run(&mut self) {
        for _ in 0..4 {
            self.worker.visit_hot(self.now.instant);
        }
    }

    /// Lets time pass in steps in which nothing is missed.
    fn wait(&mut self, time: Duration) {
        let end = self.now.instant + time;
        while self.now.instant < end {
            self.now.instant += Duration::from_millis(50);
            self.worker.handle_timers(self.now);
            self.run();
        }
    }

    fn slot(&self, network: usize, name: &str) -> &Slot {
        let mut slots = self.worker.slots.iter();
        let found = slots.find(|slot| slot.network == network && slot.name == name);
        found.unwrap()
    }

    fn drops(&self, network: usize, name: &str) -> Vec<(DropReason, u64)> {
        self.slot(network, name).drops.iter().collect()
    }
}

fn datagram(
    from: (MacAddr, Ipv4Addr, u16),
    to: (MacAddr, Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let datagram = udp::emit((from.1, from.2), (to.1, to.2), payload).unwrap();
    let packet = ipv4::emit(from.1, to.1, PROTOCOL_UDP, &datagram).unwrap();
    ethernet::emit(to.0, from.0, ETHERTYPE_IPV4, &packet)
}

/// What of a datagram a receiver sees: hardware addresses, and whose port talks with whose.
type Seen = (
    (MacAddr, MacAddr),
    (Ipv4Addr, u16),
    (Ipv4Addr, u16),
    Vec<u8>,
);

fn read(frame: &[u8]) -> Option<Seen> {
    let ethernet = ethernet::Ethernet::parse(frame)?;
    let packet = Ipv4::parse(ethernet.payload)?;
    let udp = Udp::parse(&packet, false)?;
    Some((
        (ethernet.src, ethernet.dst),
        (packet.src, udp.src),
        (packet.dst, udp.dst),
        udp.payload.to_vec(),
    ))
}

fn datagrams(station: &Station) -> Vec<Seen> {
    station
        .received()
        .iter()
        .filter_map(|frame| read(frame))
        .collect()
}

fn arps(station: &Station) -> Vec<Arp> {
    let frames = station.received();
    let arp = |frame: &Vec<u8>| Arp::parse(ethernet::Ethernet::parse(frame)?.payload);
    frames.iter().filter_map(arp).collect()
}

fn arp_reply() -> Vec<u8> {
    let reply = Arp {
        operation: REPLY,
        sender_mac: SERVER,
        sender_ip: SERVER_IP,
        target_mac: OUTSIDE,
        target_ip: OUTSIDE_IP,
    };
    reply.emit(OUTSIDE)
}

/// Has a guest find its gateway, as guests do first.
fn greet(lab: &mut Lab, guest: &Station, from: (MacAddr, Ipv4Addr), gateway: Ipv4Addr) {
    let ask = Arp {
        operation: REQUEST,
        sender_mac: from.0,
        sender_ip: from.1,
        target_mac: MacAddr::ZERO,
        target_ip: gateway,
    };
    guest.send(ask.emit(MacAddr::BROADCAST));
    lab.run();
    guest.received();
}

/// Stations of which the guest has sent to the server once, so that everybody is known.
fn acquainted(lab: &mut Lab) -> (Station, Station) {
    let guest = lab.station(1, "guest", GUEST);
    let server = lab.station(0, "server", SERVER);
    lab.run();
    lab.wait(Duration::from_secs(4));
    greet(lab, &guest, (GUEST, GUEST_IP), GATEWAY_IP);
    server.received();
    guest.send(datagram(
        (GUEST, GUEST_IP, 5000),
        (GATEWAY, SERVER_IP, 7),
        b"first",
    ));
    lab.run();
    let asked = arps(&server);
    assert_eq!(asked.len(), 1, "who is not known is asked for");
    assert_eq!(
        (asked[0].operation, asked[0].sender_mac, asked[0].target_ip),
        (REQUEST, OUTSIDE, SERVER_IP)
    );
    server.send(arp_reply());
    lab.run();
    guest.received();
    server.received();
    (guest, server)
}

const TO_SERVER: (MacAddr, Ipv4Addr, u16) = (GATEWAY, SERVER_IP, 7);

#[test]
fn a_frame_changes_networks_and_the_answer_comes_back() {
    let mut lab = Lab::new();
    let (guest, server) = acquainted(&mut lab);
    let payload: Vec<u8> = (0..1400u16).map(|n| n.to_be_bytes()[1]).collect();
    guest.send(datagram((GUEST, GUEST_IP, 5000), TO_SERVER, &payload));
    lab.run();
    let got = datagrams(&server);
    assert_eq!(got.len(), 1);
    let (macs, from, to, body) = got[0].clone();
    assert_eq!(macs, (OUTSIDE, SERVER));
    assert_eq!((from.0, to), (OUTSIDE_IP, (SERVER_IP, 7)));
    assert_eq!(body, payload);
    assert_eq!(guest.received(), Vec::<Vec<u8>>::new());

    server.send(datagram(
        (SERVER, SERVER_IP, 7),
        (OUTSIDE, OUTSIDE_IP, from.1),
        &payload,
    ));
    lab.run();
    let expected = (
        (GATEWAY, GUEST),
        (SERVER_IP, 7),
        (GUEST_IP, 5000),
        payload.clone(),
    );
    assert_eq!(datagrams(&guest), [expected]);
}

#[test]
fn a_guest_that_speaks_to_the_outside_alone_is_known_by_that() {
    let mut lab = Lab::new();
    let (guest, _server) = acquainted(&mut lab);
    let quiet = Ipv4Addr::new(192, 168, 8, 200);
    let known = |lab: &Lab| {
        let gateway = lab.slot(1, "gateway").port.gateway();
        gateway.unwrap().inside().mac_of(quiet.into())
    };
    assert_eq!(known(&lab), None);
    guest.send(datagram((GUEST, quiet, 5000), TO_SERVER, b"hello"));
    lab.run();
    assert_eq!(known(&lab), Some(GUEST));
}

#[test]
fn mirrors_see_frames_as_they_are_in_their_network() {
    let mut lab = Lab::new();
    let (guest, server) = acquainted(&mut lab);
    let (inside, outside) = (lab.mirror(1), lab.mirror(0));
    lab.run();
    let sent = datagram((GUEST, GUEST_IP, 5000), TO_SERVER, b"hello");
    guest.send(sent.clone());
    lab.run();
    assert_eq!(inside.received(), [sent]);
    let got = server.received();
    assert_eq!(got.len(), 1);
    assert_eq!(outside.received(), got);
    assert_eq!(read(&got[0]).unwrap().1.0, OUTSIDE_IP);
}

#[test]
fn what_passes_is_counted_at_both_ports_of_the_router() {
    let mut lab = Lab::new();
    let (guest, server) = acquainted(&mut lab);
    let counts = |lab: &Lab| {
        let (inside, outside) = (lab.slot(1, "gateway"), lab.slot(0, "vmnet8"));
        [
            inside.egress,
            outside.ingress,
            outside.egress,
            inside.ingress,
        ]
        .map(|count| (count.frames, count.bytes))
    };
    let before = counts(&lab);
    for _ in 0..3 {
        guest.send(datagram((GUEST, GUEST_IP, 5000), TO_SERVER, &[0; 100]));
    }
    lab.run();
    let port = datagrams(&server)[0].1.1;
    server.send(datagram(
        (SERVER, SERVER_IP, 7),
        (OUTSIDE, OUTSIDE_IP, port),
        &[0; 200],
    ));
    lab.run();
    let after = counts(&lab);
    let mut passed = after;
    for (passed, before) in passed.iter_mut().zip(before) {
        *passed = (passed.0 - before.0, passed.1 - before.1);
    }
    assert_eq!(passed, [(3, 426), (3, 426), (1, 242), (1, 242)]);
}

#[test]
fn what_the_translator_drops_is_counted_where_it_came_in() {
    let mut lab = Lab::new();
    let (guest, _server) = acquainted(&mut lab);
    // Nobody is there whose address this is.
    let forged = Ipv4Addr::new(172, 16, 0, 1);
    guest.send(datagram((GUEST, forged, 5000), TO_SERVER, b"bad"));
    lab.run();
    assert_eq!(lab.drops(1, "guest"), [(DropReason::ForgedSource, 1)]);
}

#[test]
fn what_is_too_large_for_the_other_network_does_not_get_there() {
    let mut lab = Lab::new();
    let (guest, server) = acquainted(&mut lab);
    guest.send(datagram((GUEST, GUEST_IP, 5000), TO_SERVER, &[0; 2000]));
    lab.run();
    assert_eq!(datagrams(&server), []);
}

#[test]
fn the_gateway_still_answers_for_itself() {
    let mut lab = Lab::new();
    let (guest, _server) = acquainted(&mut lab);
    let ask = Arp {
        operation: REQUEST,
        sender_mac: GUEST,
        sender_ip: GUEST_IP,
        target_mac: MacAddr::ZERO,
        target_ip: GATEWAY_IP,
    };
    guest.send(ask.emit(MacAddr::BROADCAST));
    lab.run();
    let answers = arps(&guest);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].sender_mac, GATEWAY);
    guest.send(ask.emit(GATEWAY));
    lab.run();
    assert_eq!(arps(&guest).len(), 1, "asked alone, it answers too");
    let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4];
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = ipv4::emit(GUEST_IP, GATEWAY_IP, PROTOCOL_ICMP, &echo).unwrap();
    guest.send(ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet));
    lab.run();
    assert_eq!(guest.received().len(), 1);
}

#[test]
fn the_outside_finds_the_router_by_its_address() {
    let mut lab = Lab::new();
    let (_guest, server) = acquainted(&mut lab);
    let ask = Arp {
        operation: REQUEST,
        sender_mac: SERVER,
        sender_ip: SERVER_IP,
        target_mac: MacAddr::ZERO,
        target_ip: OUTSIDE_IP,
    };
    server.send(ask.emit(MacAddr::BROADCAST));
    lab.run();
    let answers = arps(&server);
    assert_eq!(answers.len(), 1);
    let answer = answers[0];
    assert_eq!((answer.operation, answer.sender_mac), (REPLY, OUTSIDE));
    let network = lab.worker.snapshot().networks.remove(0);
    let port = network.ports.iter().find(|port| port.name == "vmnet8");
    assert_eq!(port.unwrap().mac, Some(OUTSIDE));
}

#[test]
fn tags_are_taken_off_for_the_translator_and_put_on_again() {
    let vlan = VlanId::new(10).unwrap();
    let mut lab = Lab::with(PortVlan::Access(vlan));
    let guest = lab.station(1, "guest", GUEST);
    let member = Member {
        vlan: PortVlan::All,
        ..Member::default()
    };
    let server = lab.add(0, "server", member);
    lab.run();
    lab.wait(Duration::from_secs(4));
    server.received();
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat();
    let bare = |frame: &[u8]| {
        assert_eq!(frame[12..16], [0x81, 0, 0, 10]);
        [&frame[..12], &frame[16..]].concat()
    };
    guest.send(datagram((GUEST, GUEST_IP, 5000), TO_SERVER, b"first"));
    lab.run();
    server.send(tagged(arp_reply()));
    lab.run();
    server.received();
    guest.send(datagram((GUEST, GUEST_IP, 5000), TO_SERVER, &[7; 900]));
    lab.run();
    let got = server.received();
    assert_eq!(got.len(), 1);
    let (_, from, _, body) = read(&bare(&got[0])).unwrap();
    assert_eq!((from.0, body), (OUTSIDE_IP, vec![7; 900]));
    for len in [10, 86, 200, 900] {
        let back = vec![9; len];
        server.send(tagged(datagram(
            (SERVER, SERVER_IP, 7),
            (OUTSIDE, OUTSIDE_IP, from.1),
            &back,
        )));
        lab.run();
        let got = datagrams(&guest);
        assert_eq!(got.len(), 1, "{len}");
        assert_eq!((got[0].2, &got[0].3), ((GUEST_IP, 5000), &back));
    }
}

#[test]
fn a_guest_reaches_another_by_the_address_outside() {
    let mut lab = Lab::new();
    let (guest, server) = acquainted(&mut lab);
    let other = lab.station(1, "other", OTHER);
    lab.run();
    greet(&mut lab, &other, (OTHER, OTHER_IP), GATEWAY_IP);
    guest.send(datagram((GUEST, GUEST_IP, 5000), TO_SERVER, b"hello"));
    lab.run();
    let port = datagrams(&server)[0].1.1;
    other.send(datagram(
        (OTHER, OTHER_IP, 6000),
        (GATEWAY, OUTSIDE_IP, port),
        b"hairpin",
    ));
    lab.run();
    let got = datagrams(&guest);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].0, got[0].2), ((GATEWAY, GUEST), (GUEST_IP, 5000)));
    assert_eq!(datagrams(&other), []);
}

#[test]
fn a_frame_passes_from_router_to_router() {
    const GATEWAY9: MacAddr = MacAddr([2, 0, 0, 0, 9, 2]);
    const OUTSIDE9: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const FAR: MacAddr = MacAddr([2, 0, 0, 0, 9, 128]);
    const OUTSIDE9_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const FAR_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 128);
    let networks = vec![
        bridged(),
        network(8, GATEWAY, OUTSIDE_IP, OUTSIDE),
        network(9, GATEWAY9, OUTSIDE9_IP, OUTSIDE9),
    ];
    let mut lab = Lab::try_new(networks).unwrap();
    let near = lab.station(1, "near", GUEST);
    let far = lab.station(2, "far", FAR);
    lab.run();
    lab.wait(Duration::from_secs(4));
    greet(&mut lab, &near, (GUEST, GUEST_IP), GATEWAY_IP);
    let far_gateway = Ipv4Addr::new(192, 168, 9, 2);
    greet(&mut lab, &far, (FAR, FAR_IP), far_gateway);
    // Each knows the other router only after it has asked for it.
    for _ in 0..3 {
        far.send(datagram(
            (FAR, FAR_IP, 7000),
            (GATEWAY9, OUTSIDE_IP, 5000),
            b"out",
        ));
        near.send(datagram(
            (GUEST, GUEST_IP, 5000),
            (GATEWAY, OUTSIDE9_IP, 7000),
            b"in",
        ));
        lab.run();
    }
    let got = datagrams(&far).pop().unwrap();
    assert_eq!(
        (got.0, got.1, got.2),
        ((GATEWAY9, FAR), (OUTSIDE_IP, 5000), (FAR_IP, 7000))
    );
    let got = datagrams(&near).pop().unwrap();
    assert_eq!((got.1, got.2), ((OUTSIDE9_IP, 7000), (GUEST_IP, 5000)));
}

#[test]
fn routers_that_hear_the_same_frame_each_see_it_whole() {
    const OUTSIDE9: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OUTSIDE9_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    let vlan = PortVlan::Access(VlanId::new(10).unwrap());
    let mut networks = vec![
        bridged(),
        network(8, GATEWAY, OUTSIDE_IP, OUTSIDE),
        network(9, MacAddr([2; 6]), OUTSIDE9_IP, OUTSIDE9),
    ];
    for network in &mut networks[1..] {
        network.outside.as_mut().unwrap().member.vlan = vlan.clone();
    }
    let mut lab = Lab::try_new(networks).unwrap();
    let member = Member {
        vlan: PortVlan::All,
        ..Member::default()
    };
    let server = lab.add(0, "server", member);
    lab.run();
    lab.wait(Duration::from_secs(4));
    server.received();
    for (mac, ip) in [(OUTSIDE, OUTSIDE_IP), (OUTSIDE9, OUTSIDE9_IP)] {
        let ask = Arp {
            operation: REQUEST,
            sender_mac: SERVER,
            sender_ip: SERVER_IP,
            target_mac: MacAddr::ZERO,
            target_ip: ip,
        };
        let ask = ask.emit(MacAddr::BROADCAST);
        server.send([&ask[..12], &[0x81, 0, 0, 10], &ask[12..]].concat());
        lab.run();
        let answers = server.received();
        assert_eq!(answers.len(), 1);
        let answer = Arp::parse(&answers[0][18..]).unwrap();
        assert_eq!((answer.sender_mac, answer.sender_ip), (mac, ip));
    }
}

#[test]
fn a_network_that_leads_nowhere_is_refused_and_a_name_that_is_taken_is_changed() {
    let lost = Lab::try_new(vec![network(8, GATEWAY, OUTSIDE_IP, OUTSIDE)]);
    assert!(matches!(lost, Err(StartError::NoOutside { .. })));
    let mut two = network(8, GATEWAY, OUTSIDE_IP, OUTSIDE);
    two.name = "gateway".to_owned();
    let mut outside = network(7, MacAddr([2; 6]), OUTSIDE_IP, MacAddr([4; 6]));
    outside.name = "vmnet0".to_owned();
    outside.outside = None;
    let lab = Lab::try_new(vec![two, outside]).unwrap();
    assert_eq!(lab.slot(1, "gateway-nat").router, Some(0));
}

#[test]
fn what_routers_send_by_themselves_is_bounded_and_sent_in_rounds() {
    let mut lab = Lab::new();
    let (_guest, server) = acquainted(&mut lab);
    let routing = &mut lab.worker.routing;
    for _ in 0..PENDING + 5 {
        let frame = datagram((OUTSIDE, OUTSIDE_IP, 1), (SERVER, SERVER_IP, 2), b"made up");
        let none = VirtioNetHeader::default();
        routing.out.frames.push((Side::Outside, frame, none));
    }
    routing.collect(0, &mut lab.worker.slots);
    assert_eq!(lab.drops(0, "vmnet8"), [(DropReason::NoBuffer, 5)]);
    lab.worker.finish_routing(false, lab.now.instant);
    assert_eq!(server.received().len(), BURSTS * 64);
    assert_eq!(lab.worker.next_timer, Some(lab.now.instant), "more waits");
    while lab.worker.routing.poll_timeout(lab.now.instant) == Some(lab.now.instant) {
        lab.worker.handle_timers(lab.now);
    }
    assert_eq!(server.received().len(), PENDING - BURSTS * 64);
}
