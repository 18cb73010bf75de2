//! Clients against the server, over frames, with a clock that only the test moves.

use std::collections::BTreeMap;

use dhcproto::{Decodable, v4};
use proptest::prelude::*;

use super::offers::LIMIT;
use super::*;
use crate::net::inside::Inside;
use crate::wire::arp::REPLY;
use crate::wire::dhcp::{BOOTREQUEST, Options};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4};
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_UDP};
use crate::wire::udp::{self, Udp};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const RELAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xdd]);
const SERVER: Ipv4Addr = ip(254);
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const A: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 1, 3]);
const MINUTE: Duration = Duration::from_secs(60);

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 81, last)
}

fn client(n: usize) -> MacAddr {
    let [.., a, b] = n.to_be_bytes();
    MacAddr([2, 0, 0, 9, a, b])
}

/// A network of ten addresses.
fn spec() -> Spec {
    Spec {
        subnet: "192.168.81.0/24".parse().unwrap(),
        server: SERVER,
        pool: ip(128)..=ip(137),
        lease: Duration::from_secs(1800),
        max_lease: Duration::from_secs(7200),
        renew: None,
        rebind: None,
        routers: vec![ip(2)],
        dns: vec![ip(2), ip(3)],
        ntp: vec![],
        domain: Some("lan.example".to_owned()),
        search: vec![],
        mtu: None,
        routes: vec![],
        vendor: None,
        next_server: None,
        tftp_server: None,
        boot_file: None,
        options: vec![],
        identity: Identity::Mac,
        reservations: vec![],
        restored: vec![],
    }
}

fn reserve(mac: MacAddr, ip: Ipv4Addr) -> Reservation {
    Reservation {
        mac,
        ip,
        hostname: Some("web".to_owned()),
    }
}

fn record(ip: Ipv4Addr, state: State, mac: MacAddr, minutes: u32) -> Record {
    let ends = SystemTime::UNIX_EPOCH + MINUTE * minutes;
    Record {
        ip,
        state,
        mac,
        client_id: None,
        hostname: None,
        ends,
    }
}

fn message(mac: MacAddr, kind: MessageType) -> Message {
    let mut options = Options::default();
    options.set(53, [kind.code()]);
    Message {
        op: BOOTREQUEST,
        hops: 0,
        xid: 7,
        secs: 0,
        broadcast: false,
        ciaddr: ANY,
        yiaddr: ANY,
        siaddr: ANY,
        giaddr: ANY,
        chaddr: mac,
        sname: vec![],
        file: vec![],
        options,
    }
}

fn discover(mac: MacAddr) -> Message {
    message(mac, MessageType::Discover)
}

/// A request in the state that its addresses say.
fn request(
    mac: MacAddr,
    server: Option<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
    ciaddr: Ipv4Addr,
) -> Message {
    let mut request = message(mac, MessageType::Request);
    request.ciaddr = ciaddr;
    if let Some(server) = server {
        request.options.set(54, server.octets());
    }
    if let Some(requested) = requested {
        request.options.set(50, requested.octets());
    }
    request
}

fn select(mac: MacAddr, ip: Ipv4Addr) -> Message {
    request(mac, Some(SERVER), Some(ip), ANY)
}

fn reboot(mac: MacAddr, ip: Ipv4Addr) -> Message {
    request(mac, None, Some(ip), ANY)
}

fn renew(mac: MacAddr, ip: Ipv4Addr) -> Message {
    request(mac, None, None, ip)
}

fn release(mac: MacAddr, ip: Ipv4Addr) -> Message {
    let mut release = message(mac, MessageType::Release);
    release.ciaddr = ip;
    release.options.set(54, SERVER.octets());
    release
}

fn decline(mac: MacAddr, ip: Ipv4Addr) -> Message {
    let mut decline = message(mac, MessageType::Decline);
    decline.options.set(50, ip.octets());
    decline.options.set(54, SERVER.octets());
    decline
}

fn with(mut message: Message, code: u8, value: impl Into<Vec<u8>>) -> Message {
    message.options.set(code, value);
    message
}

/// A reply, and where it went.
#[derive(Clone, Debug)]
struct Received {
    mac: MacAddr,
    ip: Ipv4Addr,
    port: u16,
    message: Message,
}

/// The server, what it wrote, and the time.
struct Lab {
    dhcp: Dhcp,
    now: Now,
    out: Replies,
    records: Vec<Record>,
    probes: Vec<Ipv4Addr>,
}

impl Lab {
    fn new(spec: Spec) -> Self {
        Self::with_mtu(spec, 1500)
    }

    fn with_mtu(spec: Spec, mtu: u16) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let dhcp = Dhcp::new(spec, GATEWAY, mtu, now);
        Self {
            dhcp,
            now,
            out: Replies::default(),
            records: vec![],
            probes: vec![],
        }
    }

    fn frame(&mut self, bytes: &[u8]) -> Claim {
        let frame = GatewayFrame {
            bytes,
            partial_checksum: false,
            inside: &Inside::default(),
        };
        self.dhcp.handle_frame(frame, self.now, &mut self.out)
    }

    /// Sends a message as its client would, or its relay.
    fn send(&mut self, message: &Message) {
        let payload = message.emit(1472);
        let relayed = !message.giaddr.is_unspecified();
        let src = if relayed {
            message.giaddr
        } else {
            message.ciaddr
        };
        let dst = if relayed { SERVER } else { Ipv4Addr::BROADCAST };
        let datagram = udp::emit((src, 68), (dst, 67), &payload).unwrap();
        let packet = ipv4::emit(src, dst, PROTOCOL_UDP, &datagram).unwrap();
        let station = if relayed { RELAY } else { message.chaddr };
        let to = if relayed { GATEWAY } else { MacAddr::BROADCAST };
        assert_eq!(
            self.frame(&ethernet::emit(to, station, ETHERTYPE_IPV4, &packet)),
            Claim::Taken
        );
    }

    fn arp(&mut self, mac: MacAddr, ip: Ipv4Addr) {
        let target_mac = GATEWAY;
        let arp = Arp {
            operation: REPLY,
            sender_mac: mac,
            sender_ip: ip,
            target_mac,
            target_ip: ANY,
        };
        assert_eq!(
            self.frame(&arp.emit(GATEWAY)),
            Claim::Passed,
            "ARP is only overheard"
        );
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now.instant + by;
        while let Some(due) = self.dhcp.poll_timeout().filter(|due| *due <= end) {
            let step = due.saturating_duration_since(self.now.instant);
            self.now = Now {
                instant: self.now.instant + step,
                wall: self.now.wall + step,
            };
            self.dhcp.handle_timeout(self.now, &mut self.out);
        }
        let rest = end - self.now.instant;
        self.now = Now {
            instant: end,
            wall: self.now.wall + rest,
        };
        self.dhcp.handle_timeout(self.now, &mut self.out);
    }

    /// Writes down what is to be written, and returns the replies in the order in which they leave.
    fn received(&mut self) -> Vec<Received> {
        let out = std::mem::take(&mut self.out);
        let mut frames = out.frames;
        for (record, frame) in out.durable {
            self.records.push(record);
            frames.extend(frame);
        }
        let mut received = vec![];
        for frame in frames {
            let ethernet = Ethernet::parse(&frame).unwrap();
            assert_eq!(ethernet.src, GATEWAY);
            if let Some(arp) =
                Arp::parse(ethernet.payload).filter(|_| ethernet.ethertype == ETHERTYPE_ARP)
            {
                assert_eq!((arp.operation, arp.sender_ip), (REQUEST, ANY));
                self.probes.push(arp.target_ip);
                continue;
            }
            let packet = Ipv4::parse(ethernet.payload).unwrap();
            let udp = Udp::parse(&packet, false).unwrap();
            assert_ne!(ethernet.payload[26..28], [0, 0], "the checksum is there");
            assert_eq!((packet.src, udp.src), (SERVER, 67));
            assert!((300..=1472).contains(&udp.payload.len()));
            let oracle = v4::Message::from_bytes(udp.payload).unwrap();
            let message = Message::parse(udp.payload).unwrap();
            assert_eq!(oracle.yiaddr(), message.yiaddr);
            received.push(Received {
                mac: ethernet.dst,
                ip: packet.dst,
                port: udp.dst,
                message,
            });
        }
        received
    }

    /// Sends a message and returns the one reply to it, if there is any.
    fn ask(&mut self, message: &Message) -> Option<Received> {
        self.received();
        self.send(message);
        self.advance(PROBE);
        let mut received = self.received();
        assert!(received.len() <= 1, "{received:?}");
        received.pop()
    }

    fn kind(&mut self, message: &Message) -> Option<MessageType> {
        self.ask(message)?.message.kind()
    }

    /// Takes a client through DISCOVER and REQUEST.
    fn lease(&mut self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.lease_as(&discover(mac))
    }

    fn lease_as(&mut self, discover: &Message) -> Option<Ipv4Addr> {
        let offer = self.ask(discover)?.message;
        assert_eq!(offer.kind(), Some(MessageType::Offer));
        let mut request = select(discover.chaddr, offer.yiaddr);
        if let Some(id) = discover.options.find(61) {
            request.options.set(61, id);
        }
        let ack = self.ask(&request)?.message;
        assert_eq!(
            (ack.kind(), ack.yiaddr),
            (Some(MessageType::Ack), offer.yiaddr)
        );
        Some(ack.yiaddr)
    }

    fn leased(&self) -> Vec<(Ipv4Addr, MacAddr)> {
        self.dhcp
            .leases(self.now)
            .into_iter()
            .map(|lease| (lease.ip, lease.mac))
            .collect()
    }

    fn fill_pool(&mut self) {
        for n in 0..10 {
            assert!(self.lease(client(n)).is_some());
        }
    }
}

const ACK: Option<MessageType> = Some(MessageType::Ack);
const NAK: Option<MessageType> = Some(MessageType::Nak);
const OFFER: Option<MessageType> = Some(MessageType::Offer);

#[test]
fn a_new_client_is_offered_an_address_only_after_nobody_answered_a_probe() {
    let mut lab = Lab::new(spec());
    lab.send(&discover(A));
    assert!(lab.received().is_empty());
    assert_eq!(lab.probes.len(), 1);
    lab.advance(PROBE - Duration::from_millis(1));
    assert!(lab.received().is_empty());
    lab.advance(Duration::from_millis(1));
    let offer = lab.received().remove(0).message;
    assert_eq!((offer.kind(), offer.yiaddr), (OFFER, lab.probes[0]));
    assert_eq!(lab.records, [], "an offer is not written down");
    assert_eq!(lab.leased(), []);
}

#[test]
fn an_ack_leaves_with_its_record_and_the_lease_counts_at_once() {
    let mut lab = Lab::new(spec());
    let offer = lab.ask(&discover(A)).unwrap().message;
    lab.send(&with(select(A, offer.yiaddr), 12, "my vm\0\u{7f}"));
    assert!(
        lab.out.frames.is_empty(),
        "nothing leaves before the record is on disk"
    );
    assert_eq!(lab.out.durable.len(), 1);
    assert_eq!(lab.leased(), [(offer.yiaddr, A)]);
    let ack = lab.received().remove(0).message;
    assert_eq!((ack.kind(), ack.yiaddr), (ACK, offer.yiaddr));
    assert_eq!(lab.records[0].state, State::Bound);
    assert_eq!(
        lab.records[0].ends,
        lab.now.wall + Duration::from_secs(1800)
    );
    assert_eq!(
        lab.records[0].hostname.as_deref(),
        Some("myvm"),
        "names are made printable"
    );
}

#[test]
fn a_known_client_is_offered_its_address_at_once() {
    let mut lab = Lab::new(spec());
    let mine = lab.lease(A).unwrap();
    lab.probes.clear();
    lab.send(&discover(A));
    assert_eq!(lab.received()[0].message.yiaddr, mine);
    assert!(lab.probes.is_empty());
}

#[test]
fn a_retransmission_joins_the_probe_under_way_and_is_the_one_that_is_answered() {
    let mut lab = Lab::new(spec());
    lab.send(&discover(A));
    lab.advance(PROBE / 2);
    let mut again = discover(A);
    again.xid = 8;
    lab.send(&again);
    lab.advance(PROBE / 2);
    let offers = lab.received();
    assert_eq!(
        (lab.probes.len(), offers.len(), offers[0].message.xid),
        (1, 1, 8)
    );
}

#[test]
fn an_address_whose_probe_is_answered_is_shunned_and_the_next_one_probed() {
    let mut lab = Lab::new(spec());
    lab.send(&discover(A));
    lab.received();
    let taken = lab.probes[0];
    lab.arp(C, taken);
    lab.advance(PROBE);
    let offers = lab.received();
    assert_eq!(offers.len(), 1);
    assert_ne!(offers[0].message.yiaddr, taken);
    assert_eq!(lab.probes.len(), 2);
    assert!(lab.dhcp.advisories(lab.now)[0].contains(&taken.to_string()));
    assert_eq!(lab.kind(&reboot(B, taken)), NAK);
    lab.advance(leases::QUARANTINE);
    assert_eq!(lab.kind(&reboot(B, taken)), ACK, "quarantine ends");
    assert_eq!(lab.dhcp.advisories(lab.now), [""; 0]);
}

#[test]
fn the_clients_own_answer_to_a_probe_is_no_conflict() {
    let mut lab = Lab::new(spec());
    lab.send(&discover(A));
    lab.received();
    lab.arp(A, lab.probes[0]);
    lab.advance(PROBE);
    assert_eq!(lab.received()[0].message.yiaddr, lab.probes[0]);
}

#[test]
fn somebody_elses_probe_for_the_same_address_is_a_conflict() {
    let mut lab = Lab::new(spec());
    lab.send(&discover(A));
    lab.received();
    lab.frame(&Arp::probe(C, lab.probes[0]));
    lab.received();
    assert_eq!(lab.probes.len(), 2);
}

#[test]
fn hundreds_of_probes_run_at_once() {
    let mut wide = spec();
    wide.subnet = "10.0.0.0/8".parse().unwrap();
    wide.server = SERVER;
    wide.pool = Ipv4Addr::new(10, 1, 0, 0)..=Ipv4Addr::new(10, 1, 255, 255);
    let mut lab = Lab::new(wide);
    for n in 0..500 {
        lab.send(&discover(client(n)));
    }
    lab.advance(PROBE);
    let offers = lab.received();
    let addresses: std::collections::BTreeSet<_> =
        offers.iter().map(|o| o.message.yiaddr).collect();
    assert_eq!(
        (offers.len(), addresses.len(), lab.probes.len()),
        (500, 500, 500)
    );
}

#[test]
fn an_offer_is_held_for_a_minute_and_then_the_address_is_free_again() {
    let mut lab = Lab::new(spec());
    let held = lab.ask(&discover(A)).unwrap().message.yiaddr;
    assert_eq!(lab.kind(&reboot(B, held)), NAK);
    lab.advance(MINUTE);
    assert_eq!(lab.kind(&reboot(B, held)), ACK);
}

#[test]
fn the_table_of_offers_has_a_limit() {
    let mut wide = spec();
    wide.subnet = "10.0.0.0/8".parse().unwrap();
    wide.pool = Ipv4Addr::new(10, 1, 0, 0)..=Ipv4Addr::new(10, 1, 255, 255);
    let mut lab = Lab::new(wide);
    let first = lab.ask(&discover(A)).unwrap().message.yiaddr;
    for n in 0..LIMIT {
        lab.send(&discover(client(n)));
    }
    assert!(
        lab.dhcp
            .leases
            .offers()
            .at(first)
            .is_none_or(|offer| offer.client.mac != A)
    );
    assert!(lab.dhcp.leases.is_consistent());
    lab.advance(PROBE);
    assert_eq!(lab.received().len(), LIMIT);
}

#[test]
fn a_request_to_another_server_withdraws_our_offer_in_silence() {
    let mut lab = Lab::new(spec());
    let held = lab.ask(&discover(A)).unwrap().message.yiaddr;
    assert!(
        lab.ask(&request(A, Some(ip(77)), Some(ip(9)), ANY))
            .is_none()
    );
    assert_eq!(lab.kind(&reboot(B, held)), ACK, "the address is free again");
}

#[test]
fn a_selected_address_that_is_gone_is_refused() {
    let mut lab = Lab::new(spec());
    let mine = lab.lease(A).unwrap();
    let nak = lab.ask(&select(B, mine)).unwrap().message;
    assert_eq!((nak.kind(), nak.yiaddr), (NAK, ANY));
    assert_eq!(
        nak.options.find(56),
        Some(&b"the address is leased to another client"[..])
    );
    assert_eq!(nak.options.find(51), None);
}

#[test]
fn a_rebooting_client_gets_its_address_back_and_one_from_elsewhere_is_refused() {
    let mut lab = Lab::new(spec());
    let mine = lab.lease(A).unwrap();
    assert_eq!(lab.ask(&reboot(A, mine)).unwrap().message.yiaddr, mine);
    assert_eq!(lab.kind(&reboot(A, Ipv4Addr::new(10, 0, 0, 1))), NAK);
    assert_eq!(
        lab.kind(&reboot(A, ip(10))),
        NAK,
        "this one is outside of the pool"
    );
    let other = if mine == ip(128) { ip(129) } else { ip(128) };
    assert_eq!(lab.kind(&reboot(A, other)), NAK, "it has another lease");
    assert_eq!(lab.leased(), [(mine, A)]);
}

#[test]
fn renewing_extends_the_lease_and_writes_a_record() {
    let mut lab = Lab::new(spec());
    let mine = lab.lease(A).unwrap();
    lab.advance(MINUTE * 15);
    let ack = lab.ask(&renew(A, mine)).unwrap();
    assert_eq!((ack.message.yiaddr, ack.message.ciaddr), (mine, mine));
    assert_eq!(
        (ack.mac, ack.ip, ack.port),
        (A, mine, 68),
        "unicast, without ARP"
    );
    assert_eq!(lab.records.len(), 2);
    let expires = lab.dhcp.leases(lab.now)[0].expires;
    assert_eq!(expires, lab.records[1].ends);
    assert!(expires > lab.records[0].ends);
}

#[test]
fn a_client_that_moves_gives_its_old_address_up() {
    let mut lab = Lab::new(spec());
    let old = lab.lease(A).unwrap();
    let new = if old == ip(128) { ip(129) } else { ip(128) };
    assert_eq!(lab.kind(&select(A, new)), ACK);
    assert_eq!(lab.leased(), [(new, A)]);
    let written: Vec<_> = lab
        .records
        .iter()
        .map(|record| (record.ip, record.state))
        .collect();
    assert_eq!(written[1..], [(old, State::Released), (new, State::Bound)]);
    assert_eq!(lab.kind(&reboot(B, old)), ACK);
}

#[test]
fn a_lost_lease_file_takes_no_address_away() {
    let mut lab = Lab::new(spec());
    lab.arp(A, ip(130));
    assert_eq!(lab.ask(&renew(A, ip(130))).unwrap().message.yiaddr, ip(130));
    assert_eq!(
        lab.dhcp.advisories(lab.now),
        [""; 0],
        "its own use of it is no conflict"
    );
    assert_eq!(
        lab.ask(&reboot(B, ip(131))).unwrap().message.yiaddr,
        ip(131)
    );
    assert_eq!(
        lab.kind(&renew(C, ip(131))),
        NAK,
        "by now it belongs to somebody"
    );
    assert_eq!(lab.kind(&renew(C, SERVER)), NAK);
    assert_eq!(lab.leased(), [(ip(130), A), (ip(131), B)]);
}

#[test]
fn an_address_that_is_reserved_for_somebody_else_is_not_adopted() {
    let mut lab = Lab::new(Spec {
        reservations: vec![reserve(B, ip(130))],
        ..spec()
    });
    assert_eq!(lab.kind(&renew(A, ip(130))), NAK);
    assert_eq!(lab.kind(&renew(B, ip(130))), ACK);
}

#[test]
fn a_declined_address_is_out_of_use_for_ten_minutes_and_an_advisory_says_so() {
    let mut lab = Lab::new(spec());
    let bad = lab.lease(A).unwrap();
    assert!(lab.ask(&decline(B, bad)).is_none());
    assert_eq!(lab.records.len(), 1, "nobody declines what is not theirs");
    assert!(lab.ask(&decline(A, bad)).is_none());
    assert_eq!(lab.records[1].state, State::Declined);
    assert_eq!(lab.leased(), []);
    assert!(lab.dhcp.advisories(lab.now)[0].starts_with(&format!("address conflict: {bad}")));
    assert_ne!(
        lab.lease(A),
        Some(bad),
        "not even its former holder gets it"
    );
    lab.advance(leases::QUARANTINE);
    assert_eq!(lab.kind(&reboot(B, bad)), ACK);
}

#[test]
fn one_client_cannot_decline_the_whole_pool_away() {
    let mut lab = Lab::new(Spec {
        pool: ip(1)..=ip(100),
        ..spec()
    });
    for _ in 0..100 {
        let ip = lab.lease(A).unwrap();
        lab.ask(&decline(A, ip));
    }
    assert!(lab.lease(B).is_some());
}

#[test]
fn a_released_address_is_kept_for_its_client_while_others_can_have_another() {
    let mut lab = Lab::new(spec());
    let mine = lab.lease(A).unwrap();
    assert!(lab.ask(&release(B, mine)).is_none());
    assert_eq!(lab.leased().len(), 1, "nobody releases what is not theirs");
    assert!(lab.ask(&release(A, mine)).is_none());
    assert_eq!(
        (lab.leased(), lab.records[1].state),
        (vec![], State::Released)
    );
    for n in 0..9 {
        assert_ne!(lab.lease(client(n)), Some(mine), "fresh addresses go first");
    }
    assert_eq!(lab.lease(A), Some(mine));
}

#[test]
fn the_address_that_has_been_free_for_longest_is_given_out_when_none_is_fresh() {
    let mut lab = Lab::new(spec());
    lab.fill_pool();
    let leased = lab.leased();
    for (ip, mac) in [leased[3], leased[1]] {
        lab.advance(MINUTE);
        lab.ask(&release(mac, ip));
    }
    assert_eq!(lab.lease(A), Some(leased[3].0));
    assert_eq!(lab.lease(B), Some(leased[1].0));
}

#[test]
fn an_inform_is_answered_without_an_address_or_a_lease() {
    let mut lab = Lab::new(spec());
    let mut inform = message(A, MessageType::Inform);
    inform.ciaddr = ip(20);
    let ack = lab.ask(&inform).unwrap();
    assert_eq!(
        (ack.message.kind(), ack.message.yiaddr, ack.ip, ack.mac),
        (ACK, ANY, ip(20), A)
    );
    assert_eq!(ack.message.options.find(51), None);
    assert_eq!(ack.message.options.find(58), None);
    assert_eq!(ack.message.options.address(3), Some(ip(2)));
    assert_eq!((lab.records.len(), lab.leased().len()), (0, 0));
}

#[test]
fn replies_go_where_rfc_2131_wants_them() {
    let mut lab = Lab::new(spec());
    let unicast = lab.ask(&discover(A)).unwrap();
    assert_eq!(
        (unicast.mac, unicast.ip, unicast.port),
        (A, unicast.message.yiaddr, 68)
    );
    let mut deaf = discover(B);
    deaf.broadcast = true;
    let broadcast = lab.ask(&deaf).unwrap();
    assert_eq!(
        (broadcast.mac, broadcast.ip),
        (MacAddr::BROADCAST, Ipv4Addr::BROADCAST)
    );
    let nak = lab.ask(&renew(C, ip(7))).unwrap();
    assert_eq!(
        (nak.mac, nak.ip, nak.port),
        (MacAddr::BROADCAST, Ipv4Addr::BROADCAST, 68)
    );
}

#[test]
fn a_relay_gets_the_reply_with_its_own_words_last() {
    let mut lab = Lab::new(spec());
    let mut relayed = with(discover(A), 82, [1, 2, 0, 7]);
    relayed.giaddr = ip(40);
    let offer = lab.ask(&relayed).unwrap();
    assert_eq!((offer.mac, offer.ip, offer.port), (RELAY, ip(40), 67));
    assert_eq!(
        offer.message.options.iter().last(),
        Some((82, &[1, 2, 0, 7][..]))
    );
    let mut wrong = reboot(A, Ipv4Addr::new(10, 0, 0, 1));
    wrong.giaddr = ip(40);
    let nak = lab.ask(&wrong).unwrap();
    assert_eq!(
        (nak.ip, nak.message.broadcast),
        (ip(40), true),
        "the relay is to broadcast it"
    );
    relayed.giaddr = Ipv4Addr::new(10, 0, 0, 1);
    assert!(lab.ask(&relayed).is_none(), "another network's relay");
}

#[test]
fn a_reservation_is_kept_for_its_owner_in_the_pool_and_outside() {
    let reservations = vec![reserve(A, ip(130)), reserve(B, ip(20))];
    let mut lab = Lab::new(Spec {
        reservations,
        ..spec()
    });
    for n in 0..9 {
        assert!(lab.lease(client(n)).is_some_and(|ip| ip != self::ip(130)));
    }
    assert_eq!(
        lab.lease(C),
        None,
        "the last address of the pool is reserved"
    );
    assert_eq!((lab.lease(A), lab.lease(B)), (Some(ip(130)), Some(ip(20))));
    let offer = lab.ask(&discover(B)).unwrap().message;
    assert_eq!(offer.options.find(12), Some(&b"web"[..]));
    assert_eq!(lab.dhcp.leases(lab.now)[0].hostname.as_deref(), Some("web"));
}

#[test]
fn a_reservation_beats_a_lease_from_before_it_at_its_renewal() {
    let restored = vec![record(ip(130), State::Bound, B, 20)];
    let mut lab = Lab::new(Spec {
        reservations: vec![reserve(A, ip(130))],
        restored,
        ..spec()
    });
    let meanwhile = lab.lease(A).unwrap();
    assert_ne!(meanwhile, ip(130));
    assert!(lab.dhcp.advisories(lab.now)[0].contains("is reserved for"));
    assert_eq!(
        lab.kind(&renew(A, meanwhile)),
        ACK,
        "as long as its own is taken"
    );
    assert_eq!(lab.kind(&renew(B, ip(130))), NAK);
    assert_eq!(lab.records.last().unwrap().state, State::Released);
    assert_eq!(lab.kind(&renew(A, meanwhile)), NAK, "its own is free now");
    assert_eq!(lab.lease(A), Some(ip(130)));
    assert_eq!(lab.leased(), [(ip(130), A)]);
}

#[test]
fn an_exhausted_pool_is_silent_says_so_and_recovers() {
    let mut lab = Lab::new(spec());
    lab.fill_pool();
    assert_eq!(
        lab.dhcp.advisories(lab.now),
        [""; 0],
        "full is not yet too small"
    );
    assert!(lab.ask(&discover(A)).is_none());
    assert_eq!(
        lab.dhcp.advisories(lab.now),
        ["pool exhausted: 192.168.81.128 to 192.168.81.137, 10 of 10 addresses leased"]
    );
    lab.advance(Duration::from_secs(1800));
    assert_eq!(lab.dhcp.advisories(lab.now), [""; 0]);
    assert!(lab.lease(A).is_some());
    assert_eq!(lab.leased().len(), 1);
}

#[test]
fn a_pool_stays_exhausted_whoever_else_comes_back_for_an_address_of_its_own() {
    let mut lab = Lab::new(Spec {
        pool: ip(128)..=ip(128),
        ..spec()
    });
    lab.lease(A).unwrap();
    assert!(lab.ask(&discover(B)).is_none());
    assert!(lab.ask(&discover(A)).is_some());
    assert_eq!(lab.dhcp.advisories(lab.now).len(), 1);
}

#[test]
fn a_station_that_uses_the_gateway_s_address_is_reported() {
    let mut lab = Lab::new(spec());
    lab.arp(B, SERVER);
    let advisories = lab.dhcp.advisories(lab.now);
    assert!(advisories[0].contains(&B.to_string()), "{advisories:?}");
    assert!(lab.lease(A).is_some());
}

#[test]
fn a_renewal_need_not_repeat_what_the_client_is_called() {
    let mut lab = Lab::new(spec());
    let named = with(with(discover(A), 12, *b"web-one"), 61, [1, 2, 3]);
    let mine = lab.ask(&named).unwrap().message.yiaddr;
    let named = with(with(select(A, mine), 12, *b"web-one"), 61, [1, 2, 3]);
    lab.ask(&named).unwrap();
    lab.ask(&renew(A, mine)).unwrap();
    let lease = lab.dhcp.leases(lab.now).remove(0);
    assert_eq!(lease.hostname.as_deref(), Some("web-one"));
    assert_eq!(lease.client_id.as_deref(), Some(&[1, 2, 3][..]));
}

#[test]
fn a_reply_fits_the_network_whatever_the_client_could_take() {
    let arrived = |mtu| {
        let options = (0..8).map(|n| (200 + n, vec![n; 200])).collect();
        let mut lab = Lab::with_mtu(Spec { options, ..spec() }, mtu);
        let offer = lab.ask(&with(discover(A), 57, 1500u16.to_be_bytes()));
        let options = offer.unwrap().message.options;
        options.iter().filter(|(code, _)| *code >= 200).count()
    };
    // 1280 bytes less the headers carry five options of 202 bytes beside the usual ones, 1500 carry six.
    assert_eq!((arrived(1280), arrived(1500), arrived(9000)), (5, 6, 6));
}

#[test]
fn options_take_the_place_of_boot_fields_that_stand_in_options_too() {
    let options = (0..3).map(|n| (200 + n, vec![n; 120])).collect();
    let boot = |name: &str| Some(name.to_owned());
    let mut lab = Lab::new(Spec {
        options,
        boot_file: boot("x"),
        tftp_server: boot("y"),
        ..spec()
    });
    let offer = lab.ask(&discover(A)).unwrap().message;
    for (code, value) in [(67, &b"x"[..]), (66, b"y"), (202, &[2; 120])] {
        assert_eq!(offer.options.find(code), Some(value), "option {code}");
    }
}

#[test]
fn lease_times_are_what_is_asked_for_within_limits() {
    let mut lab = Lab::new(spec());
    for (asked, given) in [(3600, 3600), (10_000, 7200), (u32::MAX, 7200), (1, 120)] {
        let offer = lab
            .ask(&with(discover(A), 51, asked.to_be_bytes()))
            .unwrap()
            .message;
        let time = |code| offer.options.number(code).unwrap();
        assert_eq!(
            (time(51), time(58), time(59)),
            (given, given / 2, given / 8 * 7)
        );
    }
    let offer = lab.ask(&discover(B)).unwrap().message;
    assert_eq!(offer.options.number(51), Some(1800));
}

#[test]
fn configured_renewal_times_are_sent_where_they_fit_the_lease() {
    let (renew, rebind) = (Some(MINUTE * 5), Some(MINUTE * 20));
    let mut lab = Lab::new(Spec {
        renew,
        rebind,
        ..spec()
    });
    let offer = lab.ask(&discover(A)).unwrap().message;
    assert_eq!(
        (offer.options.number(58), offer.options.number(59)),
        (Some(300), Some(1200))
    );
    let offer = lab
        .ask(&with(discover(A), 51, 200u32.to_be_bytes()))
        .unwrap()
        .message;
    assert_eq!(
        (offer.options.number(58), offer.options.number(59)),
        (Some(100), Some(175))
    );
}

fn rich() -> Spec {
    Spec {
        ntp: vec![ip(4)],
        search: vec!["a.example".to_owned()],
        mtu: Some(1450),
        routes: vec![("10.0.0.0/8".parse().unwrap(), ip(3))],
        vendor: Some(vec![6, 1, 8]),
        next_server: Some(ip(5)),
        tftp_server: Some("boot.example".to_owned()),
        boot_file: Some("pxelinux.0".to_owned()),
        options: vec![
            (15, b"raw.example".to_vec()),
            (150, vec![1, 2, 3, 4]),
            (54, vec![9; 4]),
        ],
        ..spec()
    }
}

#[test]
fn a_client_is_told_what_it_asks_for_in_its_order_and_what_it_must_know() {
    let mut lab = Lab::new(rich());
    let asks = with(
        with(discover(A), 55, [121, 6, 3, 54, 99]),
        61,
        b"\x01id".to_vec(),
    );
    let offer = lab.ask(&asks).unwrap().message;
    let codes: Vec<_> = offer.options.iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [53, 54, 61, 51, 58, 59, 1, 121, 6, 3, 15, 150]);
    assert_eq!(
        offer.options.find(61),
        Some(&b"\x01id"[..]),
        "echoed, RFC 6842"
    );
    assert_eq!(
        offer.options.address(54),
        Some(SERVER),
        "the protocol's own cannot be replaced"
    );
    let default = [8, 10, 192, 168, 81, 3, 0, 192, 168, 81, 2];
    assert_eq!(
        offer.options.find(121),
        Some(&default[..]),
        "with the default route"
    );
}

#[test]
fn a_client_that_asks_for_nothing_is_told_everything() {
    let mut lab = Lab::new(rich());
    let offer = lab.ask(&discover(A)).unwrap().message;
    let expected: [(u8, &[u8]); 9] = [
        (15, b"raw.example"),
        (26, &[5, 170]),
        (28, &[192, 168, 81, 255]),
        (42, &[192, 168, 81, 4]),
        (43, &[6, 1, 8]),
        (66, b"boot.example"),
        (67, b"pxelinux.0"),
        (119, b"\x01a\x07example\x00"),
        (150, &[1, 2, 3, 4]),
    ];
    for (code, value) in expected {
        assert_eq!(offer.options.find(code), Some(value), "option {code}");
    }
    assert_eq!(
        (offer.siaddr, &offer.sname[..]),
        (ip(5), &b"boot.example"[..])
    );
    assert_eq!(offer.file, b"pxelinux.0");
}

#[test]
fn a_reply_is_as_large_as_the_client_takes() {
    let options = (0..8).map(|n| (200 + n, vec![n; 150])).collect();
    let mut lab = Lab::new(Spec { options, ..spec() });
    let small = lab.ask(&discover(A)).unwrap().message;
    assert!(small.options.iter().count() < 16);
    let large = lab
        .ask(&with(discover(A), 57, 1500u16.to_be_bytes()))
        .unwrap()
        .message;
    assert_eq!(large.options.find(207), Some(&[7; 150][..]));
}

#[test]
fn clients_are_told_apart_by_hardware_address_or_by_identifier() {
    let (rom, os) = (
        with(discover(A), 61, [0, 1]),
        with(discover(A), 61, [255, 2]),
    );
    let mut lab = Lab::new(spec());
    assert_eq!(lab.lease_as(&rom), lab.lease_as(&os));
    let mut lab = Lab::new(Spec {
        identity: Identity::ClientId,
        ..spec()
    });
    let first = lab.lease_as(&rom);
    assert_ne!(first, lab.lease_as(&os));
    assert_eq!(first, lab.lease_as(&with(discover(B), 61, [0, 1])));
}

#[test]
fn restored_records_are_leases_again_and_the_last_one_counts() {
    let restored = vec![
        record(ip(130), State::Bound, A, 10),
        record(ip(130), State::Bound, B, 10),
        record(ip(131), State::Bound, C, 10),
        record(ip(131), State::Released, C, 0),
        record(ip(132), State::Declined, C, 5),
        record(Ipv4Addr::new(10, 0, 0, 1), State::Bound, A, 10),
        record(SERVER, State::Bound, A, 10),
    ];
    let mut lab = Lab::new(Spec { restored, ..spec() });
    assert_eq!(lab.leased(), [(ip(130), B)]);
    assert_eq!(lab.lease(C), Some(ip(131)), "affinity survives");
    assert_eq!(lab.kind(&reboot(A, ip(132))), NAK, "so does quarantine");
    assert_eq!(lab.lease(B), Some(ip(130)));
}

#[test]
fn a_lease_outside_of_the_new_pool_lasts_until_its_renewal() {
    let restored = vec![record(ip(50), State::Bound, A, 10)];
    let mut lab = Lab::new(Spec { restored, ..spec() });
    assert_eq!(lab.leased(), [(ip(50), A)]);
    assert_eq!(lab.kind(&renew(A, ip(50))), NAK);
    assert!(lab.lease(A).is_some_and(|ip| spec().pool.contains(&ip)));
}

#[test]
fn an_address_that_a_station_was_seen_with_is_not_given_to_others() {
    let mut lab = Lab::new(spec());
    for last in 128..137 {
        lab.arp(client(last.into()), ip(last));
    }
    assert_eq!(lab.lease(A), Some(ip(137)));
    assert_eq!(lab.lease(B), None);
    lab.advance(leases::PRESENCE);
    assert!(lab.lease(B).is_some(), "it may have left");
}

#[test]
fn a_station_that_uses_a_leased_address_is_reported() {
    let mut lab = Lab::new(spec());
    let mine = lab.lease(A).unwrap();
    lab.arp(A, mine);
    assert_eq!(lab.dhcp.advisories(lab.now), [""; 0]);
    lab.arp(B, mine);
    assert!(
        lab.dhcp.advisories(lab.now)[0]
            .contains(&format!("{mine} is leased to {A}, but {B} uses it"))
    );
    assert_eq!(lab.kind(&renew(A, mine)), ACK, "the lease stands");
}

#[test]
fn the_same_client_tends_to_get_the_same_address_after_all_is_forgotten() {
    assert_eq!(Lab::new(spec()).lease(A), Lab::new(spec()).lease(A));
}

#[test]
fn a_requested_address_is_offered_if_it_is_free() {
    let mut lab = Lab::new(spec());
    assert_eq!(
        lab.lease_as(&with(discover(A), 50, ip(135).octets())),
        Some(ip(135))
    );
    assert_ne!(
        lab.lease_as(&with(discover(B), 50, ip(135).octets())),
        Some(ip(135))
    );
    assert_ne!(
        lab.lease_as(&with(discover(C), 50, ip(20).octets())),
        Some(ip(20))
    );
}

#[test]
fn network_broadcast_and_server_address_are_never_given_out() {
    let subnet = "192.168.81.248/29".parse().unwrap();
    let mut lab = Lab::new(Spec {
        subnet,
        pool: ip(248)..=ip(255),
        ..spec()
    });
    let leased: Vec<_> = (0..8).filter_map(|n| lab.lease(client(n))).collect();
    assert_eq!(leased.len(), 5);
    assert_eq!(
        lab.leased()
            .iter()
            .map(|(ip, _)| ip.octets()[3])
            .collect::<Vec<_>>(),
        [249, 250, 251, 252, 253]
    );
    assert!(lab.dhcp.advisories(lab.now)[0].ends_with("5 of 5 addresses leased"));
}

#[test]
fn a_pool_of_sixteen_million_addresses_starts_at_once() {
    let subnet = "10.0.0.0/8".parse().unwrap();
    let pool = Ipv4Addr::new(10, 0, 0, 0)..=Ipv4Addr::new(10, 255, 255, 255);
    let mut lab = Lab::new(Spec {
        subnet,
        pool,
        ..spec()
    });
    assert!(lab.lease(A).is_some());
}

#[test]
fn frames_for_others_are_passed_on_and_broken_checksums_noticed() {
    let mut lab = Lab::new(spec());
    let payload = discover(A).emit(1472);
    let frame = |mac, ip, port, damage: bool| {
        let mut datagram = udp::emit((ANY, 68), (ip, port), &payload).unwrap();
        datagram[20] ^= u8::from(damage);
        let packet = ipv4::emit(ANY, ip, PROTOCOL_UDP, &datagram).unwrap();
        ethernet::emit(mac, A, ETHERTYPE_IPV4, &packet)
    };
    let to_all = Ipv4Addr::BROADCAST;
    assert_eq!(lab.frame(&frame(B, to_all, 67, false)), Claim::Passed);
    assert_eq!(lab.frame(&frame(GATEWAY, ip(9), 67, false)), Claim::Passed);
    assert_eq!(lab.frame(&frame(GATEWAY, SERVER, 68, false)), Claim::Passed);
    assert_eq!(lab.frame(&frame(GATEWAY, SERVER, 67, true)), Claim::Passed);
    assert_eq!(lab.dhcp.poll_timeout(), None);
    let bytes = &frame(GATEWAY, SERVER, 67, true);
    let partial = GatewayFrame {
        bytes,
        partial_checksum: true,
        inside: &Inside::default(),
    };
    assert_eq!(
        lab.dhcp.handle_frame(partial, lab.now, &mut lab.out),
        Claim::Taken
    );
    assert!(lab.dhcp.poll_timeout().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Discover(usize, Option<u8>),
    Select(usize, u8),
    Reboot(usize, u8),
    Renew(usize, u8),
    Release(usize, u8),
    Decline(usize, u8),
    Other(usize),
    Arp(usize, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..6usize;
    let what = || prop_oneof![126..134u8, Just(20u8), Just(254u8)];
    prop_oneof![
        4 => (who(), proptest::option::of(what())).prop_map(|(c, i)| Step::Discover(c, i)),
        4 => (who(), what()).prop_map(|(c, i)| Step::Select(c, i)),
        2 => (who(), what()).prop_map(|(c, i)| Step::Reboot(c, i)),
        2 => (who(), what()).prop_map(|(c, i)| Step::Renew(c, i)),
        1 => (who(), what()).prop_map(|(c, i)| Step::Release(c, i)),
        1 => (who(), what()).prop_map(|(c, i)| Step::Decline(c, i)),
        1 => who().prop_map(Step::Other),
        1 => (who(), what()).prop_map(|(c, i)| Step::Arp(c, i)),
        3 => (0..1000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn random_frames_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        options in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut lab = Lab::new(rich());
        lab.frame(&bytes);
        let mut payload = discover(A).emit(1472);
        payload.truncate(240);
        payload.extend([53, 1, 1 + options.first().map_or(0, |byte| byte % 8)]);
        payload.extend(options);
        let datagram = udp::emit((ANY, 68), (SERVER, 67), &payload).unwrap();
        let packet = ipv4::emit(ANY, SERVER, PROTOCOL_UDP, &datagram).unwrap();
        lab.frame(&ethernet::emit(GATEWAY, A, ETHERTYPE_IPV4, &packet));
        lab.advance(MINUTE);
        lab.received();
    }

    #[test]
    fn no_address_is_leased_to_two_clients_at_once_and_the_lease_file_agrees(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let spec = Spec {
            pool: ip(128)..=ip(132),
            reservations: vec![reserve(client(0), ip(130)), reserve(client(1), ip(20))],
            restored: vec![record(ip(130), State::Bound, client(2), 10)],
            ..spec()
        };
        let mut lab = Lab::new(spec.clone());
        // What each client believes to have, and until when.
        let mut held: BTreeMap<MacAddr, (Ipv4Addr, SystemTime)> =
            BTreeMap::from([(client(2), (ip(130), SystemTime::UNIX_EPOCH + MINUTE * 10))]);
        for step in steps {
            match step {
                Step::Discover(c, None) => lab.send(&discover(client(c))),
                Step::Discover(c, Some(i)) => lab.send(&with(discover(client(c)), 50, ip(i).octets())),
                Step::Select(c, i) => lab.send(&select(client(c), ip(i))),
                Step::Reboot(c, i) => lab.send(&reboot(client(c), ip(i))),
                Step::Renew(c, i) => lab.send(&renew(client(c), ip(i))),
                Step::Other(c) => lab.send(&request(client(c), Some(ip(1)), Some(ip(2)), ANY)),
                Step::Arp(c, i) => lab.arp(client(c), ip(i)),
                Step::Wait(seconds) => lab.advance(Duration::from_secs(seconds)),
                Step::Release(c, i) | Step::Decline(c, i) => {
                    let lost = held.get(&client(c)).is_some_and(|(held, _)| *held == ip(i));
                    if lost {
                        held.remove(&client(c));
                    }
                    let declines = matches!(step, Step::Decline(..));
                    lab.send(&if declines { decline(client(c), ip(i)) } else { release(client(c), ip(i)) });
                }
            }
            for Received { message, .. } in lab.received() {
                let mac = message.chaddr;
                match message.kind() {
                    Some(MessageType::Ack) => {
                        let ends = lab.now.wall + Duration::from_secs(message.options.number(51).unwrap().into());
                        held.insert(mac, (message.yiaddr, ends));
                    }
                    Some(MessageType::Nak) => {
                        held.remove(&mac);
                    }
                    kind => prop_assert_eq!(kind, OFFER),
                }
            }
            held.retain(|_, (_, ends)| *ends > lab.now.wall);
            let mut owners = BTreeMap::new();
            for (mac, (ip, _)) in &held {
                prop_assert_eq!(owners.insert(*ip, *mac), None, "{} is leased twice", ip);
                prop_assert_ne!(*ip, SERVER);
            }
            let leases = lab.leased();
            for (ip, mac) in &owners {
                prop_assert!(leases.contains(&(*ip, *mac)), "{} of {} is not known", ip, mac);
            }
        }
        let mut restored = spec.restored.clone();
        restored.append(&mut lab.records);
        let again = Dhcp::new(Spec { restored, ..spec }, GATEWAY, 1500, lab.now);
        prop_assert_eq!(again.leases(lab.now), lab.dhcp.leases(lab.now));
        prop_assert!(again.leases.is_consistent() && lab.dhcp.leases.is_consistent());
    }
}
