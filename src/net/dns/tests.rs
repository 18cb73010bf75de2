//! Tests of DNS. Questions are written and replies read by another implementation.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::net::dhcp;
use crate::net::inside;

const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 128);
const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 88, 2);
const SECOND: Duration = Duration::from_secs(1);

struct Lab {
    dns: Dns,
    inside: Inside,
    now: Now,
    out: Replies,
    port: u16,
}

impl Lab {
    fn new(forward: bool) -> Self {
        let gateways = Gateways {
            v4: Some((GATEWAY_IP, "192.168.88.0/24".parse().unwrap())),
            v6: Some(("fd15::2".parse().unwrap(), "fd15::/64".parse().unwrap())),
            link_local: Some("fe80::2".parse().unwrap()),
        };
        let spec = Spec {
            gateways,
            domain: Some("vmnet8.internal".to_owned()),
            host: vec!["192.168.88.1".parse().unwrap()],
            hosts: vec![
                ("printer".to_owned(), vec!["192.168.88.5".parse().unwrap()]),
                (
                    "db.example.com".to_owned(),
                    vec!["10.1.1.1".parse().unwrap()],
                ),
                (
                    "a.deep.vmnet8.internal".to_owned(),
                    vec!["192.168.88.6".parse().unwrap()],
                ),
            ],
            forward,
            servers: Servers::default(),
        };
        let inside = Inside::new(inside::Spec {
            vms: vec![("web1".to_owned(), GUEST), ("idle".to_owned(), OTHER)],
            reservations: Vec::new(),
        });
        let mut lab = Self {
            dns: Dns::new(spec, GATEWAY, 1500),
            inside,
            now: Now {
                instant: Instant::now(),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
            },
            out: Replies::default(),
            port: 1024,
        };
        let instant = lab.now.instant;
        lab.inside.note_seen(GUEST_IP.into(), GUEST, instant);
        let v6 = "fd15::80".parse().unwrap();
        lab.inside.note_seen(v6, GUEST, instant);
        lab
    }

    fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.wall += time;
        self.dns.handle_timeout(self.now, &mut self.out);
    }

    fn lease(&mut self, mac: MacAddr, last: u8, hostname: &str, left: Duration) {
        self.inside.note_lease(&dhcp::Record {
            ip: Ipv4Addr::new(192, 168, 88, last),
            state: dhcp::State::Bound,
            mac,
            client_id: None,
            hostname: Some(hostname.to_owned()),
            ends: self.now.wall + left,
        });
    }

    /// Sends a message in a datagram, from a port of its own.
    fn send(&mut self, message: &[u8]) -> Claim {
        self.port += 1;
        self.send_from(GUEST, self.port, message)
    }

    fn send_from(&mut self, mac: MacAddr, port: u16, message: &[u8]) -> Claim {
        let datagram = udp::emit((GUEST_IP, port), (GATEWAY_IP, PORT), message).unwrap();
        let packet = ipv4::emit(GUEST_IP, GATEWAY_IP, PROTOCOL_UDP, &datagram).unwrap();
        let frame = ethernet::emit(GATEWAY, mac, ETHERTYPE_IPV4, &packet);
        let frame = GatewayFrame {
            bytes: &frame,
            partial_checksum: false,
            inside: &self.inside,
        };
        self.dns.handle_frame(frame, self.now, &mut self.out)
    }

    /// Returns the next reply.
    fn reply(&mut self) -> Option<Vec<u8>> {
        if self.out.frames.is_empty() {
            return None;
        }
        let frame = self.out.frames.remove(0);
        let ip = Ipv4::parse(&frame[14..]).unwrap();
        let udp = Udp::parse(&ip, false).unwrap();
        assert_eq!((ip.src, ip.dst, udp.src), (GATEWAY_IP, GUEST_IP, PORT));
        Some(udp.payload.to_vec())
    }

    fn message(&mut self) -> Message {
        Message::from_vec(&self.reply().expect("a reply")).unwrap()
    }

    fn ask(&mut self, name: &str, kind: RecordType) -> Message {
        self.send(&query(7, name, kind).to_vec().unwrap());
        self.message()
    }

    fn code(&mut self, name: &str, kind: RecordType) -> ResponseCode {
        self.ask(name, kind).metadata.response_code
    }

    /// Returns the data of the answers, in words.
    fn data(&mut self, name: &str, kind: RecordType) -> Vec<String> {
        let reply = self.ask(name, kind);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        reply
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect()
    }

    /// Returns the only ask there is.
    fn asked(&mut self) -> Ask {
        assert_eq!(self.out.asks.len(), 1, "{:?}", self.out.asks);
        self.out.asks.remove(0)
    }

    fn answer(&mut self, ask: &Ask, answer: &Message) {
        let bytes = answer.to_vec().unwrap();
        self.dns
            .handle_answer(ask.ticket, Ok(&bytes), self.now, &mut self.out);
    }

    fn fail(&mut self, ask: &Ask, error: AskError) {
        self.dns
            .handle_answer(ask.ticket, Err(error), self.now, &mut self.out);
    }
}

fn name(text: &str) -> Name {
    Name::from_str(text).unwrap()
}

fn query(id: u16, text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(text).unwrap(), kind));
    message
}

fn edns(mut message: Message, size: u16, dnssec: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    edns.set_dnssec_ok(dnssec);
    message.set_edns(edns);
    message
}

/// The answer of a server to an ask, with addresses and a time to live.
fn answered(ask: &Ask, addresses: usize, ttl: u32) -> Message {
    let asked = Message::from_vec(&ask.message).unwrap();
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let question = asked.queries[0].clone();
    for index in 0..addresses {
        let ip = Ipv4Addr::from_bits(0xc000_0200 + u32::try_from(index).unwrap());
        let record = Record::from_rdata(question.name().clone(), ttl, RData::A(A(ip)));
        answer.add_answer(record);
    }
    answer.add_query(question);
    answer
}

fn negative(ask: &Ask, code: ResponseCode, ttl: u32, minimum: u32) -> Message {
    let mut answer = answered(ask, 0, 0);
    answer.metadata.response_code = code;
    let soa = SOA::new(name("ns.example."), name("x.example."), 1, 2, 3, 4, minimum);
    answer.add_authority(Record::from_rdata(name("example."), ttl, RData::SOA(soa)));
    answer
}

#[test]
fn a_station_is_found_by_its_name_alone_and_in_the_domain() {
    let mut lab = Lab::new(false);
    for name in ["web1.", "WEB1.vmnet8.Internal."] {
        assert_eq!(lab.data(name, RecordType::A), ["192.168.88.128"]);
        assert_eq!(lab.data(name, RecordType::AAAA), ["fd15::80"]);
    }
    let reply = lab.ask("web1.vmnet8.internal.", RecordType::A);
    assert!(reply.metadata.authoritative);
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.metadata.id, 7);
    assert_eq!(reply.answers[0].ttl, 60);
}

#[test]
fn letters_of_the_question_come_back_as_they_were_written() {
    let mut lab = Lab::new(false);
    let asked = query(1, "wEb1.VmNeT8.iNtErNaL.", RecordType::A);
    let asked = asked.to_vec().unwrap();
    lab.send(&asked);
    let reply = lab.reply().unwrap();
    assert_eq!(reply[12..asked.len()], asked[12..]);
    let reply = Message::from_vec(&reply).unwrap();
    assert!(reply.answers[0].name.eq_case(reply.queries[0].name()));
}

#[test]
fn names_of_the_gateway_the_host_and_the_configuration_have_their_addresses() {
    let mut lab = Lab::new(false);
    for name in ["gateway.", "_gateway.", "gateway.vmnet8.internal."] {
        assert_eq!(lab.data(name, RecordType::A), ["192.168.88.2"]);
        assert_eq!(lab.data(name, RecordType::AAAA), ["fd15::2"]);
    }
    assert_eq!(lab.data("host.", RecordType::A), ["192.168.88.1"]);
    assert_eq!(
        lab.data("printer.vmnet8.internal.", RecordType::A),
        ["192.168.88.5"]
    );
    assert_eq!(lab.data("db.example.com.", RecordType::A), ["10.1.1.1"]);
    assert!(lab.data("db.example.com.", RecordType::AAAA).is_empty());
}

#[test]
fn no_guest_can_take_the_gateways_name() {
    let mut lab = Lab::new(false);
    lab.lease(OTHER, 9, "gateway", 1000 * SECOND);
    assert_eq!(lab.data("gateway.", RecordType::A), ["192.168.88.2"]);
}

#[test]
fn a_lease_is_answered_no_longer_than_it_lasts() {
    let mut lab = Lab::new(false);
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    lab.lease(mac, 200, "debian", 70 * SECOND);
    let ttl = |lab: &mut Lab| lab.ask("debian.", RecordType::A).answers[0].ttl;
    assert_eq!(ttl(&mut lab), 60);
    lab.advance(40 * SECOND);
    assert_eq!(ttl(&mut lab), 30);
    lab.advance(30 * SECOND);
    let code = lab.code("debian.vmnet8.internal.", RecordType::A);
    assert_eq!(code, ResponseCode::NXDomain);
}

#[test]
fn a_name_without_what_is_asked_for_is_told_from_one_that_is_not_there() {
    let mut lab = Lab::new(true);
    for (asked, kind, code) in [
        (
            "web1.vmnet8.internal.",
            RecordType::MX,
            ResponseCode::NoError,
        ),
        (
            "idle.vmnet8.internal.",
            RecordType::A,
            ResponseCode::NoError,
        ),
        (
            "deep.vmnet8.internal.",
            RecordType::A,
            ResponseCode::NoError,
        ),
        ("vmnet8.internal.", RecordType::A, ResponseCode::NoError),
        (
            "gone.vmnet8.internal.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "x.web1.vmnet8.internal.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let reply = lab.ask(asked, kind);
        assert_eq!(reply.metadata.response_code, code, "{asked}");
        assert!(reply.metadata.authoritative && reply.answers.is_empty());
        let [soa] = &reply.authorities[..] else {
            panic!("{reply:?}");
        };
        assert_eq!(soa.name, name("vmnet8.internal."), "{asked}");
        let RData::SOA(data) = &soa.data else {
            panic!("{soa:?}");
        };
        assert_eq!((soa.ttl, data.minimum), (10, 10));
        assert_eq!(data.mname, name("gateway.vmnet8.internal."));
    }
    assert!(lab.out.asks.is_empty(), "nothing of this leaves");
    let ns = lab.data("vmnet8.internal.", RecordType::NS);
    assert_eq!(ns, ["gateway.vmnet8.internal."]);
}

#[test]
fn whoever_asks_for_everything_gets_one_record() {
    let mut lab = Lab::new(true);
    for name in ["web1.vmnet8.internal.", "example.com."] {
        let reply = lab.ask(name, RecordType::ANY);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].record_type(), RecordType::HINFO);
    }
    assert!(lab.out.asks.is_empty());
}

#[test]
fn addresses_of_the_network_have_names_and_are_never_asked_for_elsewhere() {
    let mut lab = Lab::new(true);
    for (asked, target) in [
        ("128.88.168.192.in-addr.arpa.", "web1.vmnet8.internal."),
        ("2.88.168.192.in-addr.arpa.", "gateway.vmnet8.internal."),
        ("1.88.168.192.in-addr.arpa.", "host.vmnet8.internal."),
        ("5.88.168.192.IN-ADDR.arpa.", "printer.vmnet8.internal."),
        ("1.0.0.127.in-addr.arpa.", "localhost."),
        ("1.1.1.10.in-addr.arpa.", "db.example.com."),
    ] {
        assert_eq!(lab.data(asked, RecordType::PTR), [target], "{asked}");
    }
    let v6 = "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.1.d.f.ip6.arpa.";
    assert_eq!(lab.data(v6, RecordType::PTR), ["web1.vmnet8.internal."]);
    for asked in [
        "77.88.168.192.in-addr.arpa.",
        "x.128.88.168.192.in-addr.arpa.",
        "x.88.168.192.in-addr.arpa.",
        "1.1.0.127.in-addr.arpa.",
    ] {
        assert_eq!(lab.code(asked, RecordType::PTR), ResponseCode::NXDomain);
    }
    let reply = lab.ask("88.168.192.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.authorities[0].name, name("88.168.192.in-addr.arpa."));
    assert!(lab.out.asks.is_empty());
    // Others are the host's business.
    for asked in ["1.89.168.192.in-addr.arpa.", "168.192.in-addr.arpa."] {
        lab.send(&query(1, asked, RecordType::PTR).to_vec().unwrap());
        lab.asked();
    }
}

#[test]
fn names_that_mean_nothing_to_others_are_not_asked_for() {
    let mut lab = Lab::new(true);
    assert_eq!(lab.data("localhost.", RecordType::A), ["127.0.0.1"]);
    assert_eq!(lab.data("x.localhost.", RecordType::AAAA), ["::1"]);
    for asked in ["a.invalid.", "x.onion.", "alt."] {
        assert_eq!(lab.code(asked, RecordType::A), ResponseCode::NXDomain);
    }
    let code = lab.code("_dns.resolver.arpa.", RecordType::SVCB);
    assert_eq!(code, ResponseCode::NoError);
    assert!(lab.out.asks.is_empty());
}

#[test]
fn where_the_network_leads_nowhere_other_names_are_refused() {
    let mut lab = Lab::new(false);
    let reply = lab.ask("example.com.", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(!reply.metadata.authoritative);
    assert!(lab.out.asks.is_empty());
}

#[test]
fn what_is_no_question_of_the_internet_is_refused() {
    let mut lab = Lab::new(true);
    let mut asked = query(3, "version.bind.", RecordType::TXT);
    asked.queries[0].set_query_class(DNSClass::CH);
    lab.send(&asked.to_vec().unwrap());
    assert_eq!(lab.message().metadata.response_code, ResponseCode::Refused);
    let code = lab.code("vmnet8.internal.", RecordType::AXFR);
    assert_eq!(code, ResponseCode::Refused);

    let mut asked = query(4, "a.", RecordType::A);
    asked.metadata.op_code = OpCode::Notify;
    lab.send(&asked.to_vec().unwrap());
    let reply = lab.message().metadata;
    assert_eq!(reply.response_code, ResponseCode::NotImp);
    assert_eq!((reply.id, reply.op_code), (4, OpCode::Notify));

    let mut asked = query(5, "a.", RecordType::A);
    asked.add_query(Question::query(name("b."), RecordType::A));
    lab.send(&asked.to_vec().unwrap());
    assert_eq!(lab.message().metadata.response_code, ResponseCode::FormErr);

    let mut asked = edns(query(6, "a.", RecordType::A), 1232, false);
    asked.edns.as_mut().unwrap().set_version(1);
    lab.send(&asked.to_vec().unwrap());
    let code = lab.message().metadata.response_code;
    assert_eq!(u16::from(code), 16, "the version is not known");
}

#[test]
fn responses_and_fragments_of_messages_are_not_replied_to() {
    let mut lab = Lab::new(true);
    let mut response = query(1, "web1.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(lab.send(&response.to_vec().unwrap()), Claim::Taken);
    assert_eq!(lab.send(&[0; 11]), Claim::Taken);
    assert_eq!(lab.reply(), None);
}

#[test]
fn a_question_over_ipv6_is_answered_from_the_address_it_came_to() {
    let mut lab = Lab::new(false);
    let message = query(9, "web1.", RecordType::A).to_vec().unwrap();
    let guest = "fe80::80".parse().unwrap();
    for own in ["fe80::2", "fd15::2"] {
        let own = own.parse().unwrap();
        let datagram = udp::emit_v6((guest, 5000), (own, PORT), &message).unwrap();
        let packet = Ipv6 {
            src: guest,
            dst: own,
            next_header: PROTOCOL_UDP,
            hop_limit: 64,
            payload: &datagram,
        };
        let frame = ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV6, &packet.emit().unwrap());
        let frame = GatewayFrame {
            bytes: &frame,
            partial_checksum: false,
            inside: &lab.inside,
        };
        let claim = lab.dns.handle_frame(frame, lab.now, &mut lab.out);
        assert_eq!(claim, Claim::Taken);
        let reply = lab.out.frames.remove(0);
        let ip = Ipv6::parse(&reply[14..]).unwrap();
        assert_eq!((ip.src, ip.dst), (own, guest));
        let udp = Udp::parse_v6(&ip, false).unwrap();
        assert_eq!((udp.src, udp.dst), (PORT, 5000));
        let reply = Message::from_vec(udp.payload).unwrap();
        assert_eq!(reply.answers.len(), 1);
    }
}

#[test]
fn what_is_not_for_the_server_is_passed_on() {
    let mut lab = Lab::new(true);
    let message = query(9, "web1.", RecordType::A).to_vec().unwrap();
    let mut claims = |src: Ipv4Addr, dst: Ipv4Addr, port| {
        let datagram = udp::emit((src, 5000), (dst, port), &message).unwrap();
        let packet = ipv4::emit(src, dst, PROTOCOL_UDP, &datagram).unwrap();
        let frame = ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet);
        let frame = GatewayFrame {
            bytes: &frame,
            partial_checksum: false,
            inside: &lab.inside,
        };
        lab.dns.handle_frame(frame, lab.now, &mut lab.out)
    };
    assert_eq!(claims(GUEST_IP, GATEWAY_IP, PORT), Claim::Taken);
    assert_eq!(claims(GUEST_IP, GATEWAY_IP, 54), Claim::Passed);
    assert_eq!(
        claims(GUEST_IP, Ipv4Addr::new(8, 8, 8, 8), PORT),
        Claim::Passed
    );
    assert_eq!(claims(GATEWAY_IP, GATEWAY_IP, PORT), Claim::Passed);
    assert_eq!(claims(Ipv4Addr::BROADCAST, GATEWAY_IP, PORT), Claim::Passed);
}

#[test]
fn another_name_is_asked_for_and_the_answer_passed_on_with_the_guests_identifier() {
    let mut lab = Lab::new(true);
    let asked = edns(query(7, "WWW.example.com.", RecordType::A), 4096, true);
    lab.send(&asked.to_vec().unwrap());
    let ask = lab.asked();
    assert_eq!((ask.server, ask.stream), (0, false));
    let upstream = Message::from_vec(&ask.message).unwrap();
    assert!(upstream.metadata.recursion_desired);
    let theirs = upstream.edns.as_ref().unwrap();
    assert!(theirs.flags().dnssec_ok && theirs.options().options.is_empty());
    assert_eq!(theirs.max_payload(), 1232);
    assert_eq!(lab.reply(), None);

    let answer = edns(answered(&ask, 2, 300), 1232, true);
    lab.answer(&ask, &answer);
    let reply = lab.reply().unwrap();
    assert_eq!(reply[12..33], asked.to_vec().unwrap()[12..33]);
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.id, 7);
    assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
    assert_eq!(reply.answers, answer.answers);
    assert!(reply.edns.unwrap().flags().dnssec_ok);
    lab.answer(&ask, &answer);
    assert_eq!(lab.reply(), None, "an answer is passed on once");
    assert_eq!(lab.dns.poll_timeout(), None);
}

#[test]
fn who_does_not_speak_edns_is_not_spoken_to_in_it() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    assert!(Message::from_vec(&ask.message).unwrap().edns.is_none());
    lab.answer(&ask, &edns(answered(&ask, 1, 300), 1232, false));
    assert!(lab.message().edns.is_none());
}

#[test]
fn an_answer_that_does_not_fit_the_question_is_not_heard() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    let good = answered(&ask, 1, 300);
    let mut wrong = vec![good.clone(); 4];
    wrong[0].metadata.id ^= 1;
    wrong[1].queries[0].set_name(name("example.org."));
    wrong[2].queries[0].set_query_type(RecordType::AAAA);
    wrong[3].metadata.message_type = MessageType::Query;
    for answer in &wrong {
        lab.answer(&ask, answer);
        assert_eq!(lab.reply(), None);
    }
    let other = Ask {
        ticket: ask.ticket + 1,
        ..ask.clone()
    };
    lab.answer(&other, &good);
    assert_eq!(lab.reply(), None);
    assert!(lab.out.asks.is_empty());
    lab.answer(&ask, &good);
    assert_eq!(lab.message().answers.len(), 1);
}

#[test]
fn servers_are_asked_in_turn_until_the_guest_hears_that_none_answers() {
    let mut lab = Lab::new(true);
    lab.dns.handle_servers(2, lab.now, &mut lab.out);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let mut ids = Vec::new();
    for server in [0, 1, 0, 1] {
        let ask = lab.asked();
        assert_eq!(ask.server, server);
        ids.push(ask.message[..2].to_vec());
        assert_eq!(lab.reply(), None);
        lab.advance(2 * SECOND);
    }
    ids.dedup();
    assert!(ids.len() > 1, "each question has an identifier of its own");
    assert!(lab.out.asks.is_empty());
    assert_eq!(lab.message().metadata.response_code, ResponseCode::ServFail);
    // This holds for a second.
    assert_eq!(
        lab.code("example.com.", RecordType::A),
        ResponseCode::ServFail
    );
    assert!(lab.out.asks.is_empty());
    lab.advance(SECOND);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    lab.asked();
}

#[test]
fn a_server_that_fails_or_refuses_is_left_for_the_next_at_once() {
    let mut lab = Lab::new(true);
    lab.dns.handle_servers(3, lab.now, &mut lab.out);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let first = lab.asked();
    lab.fail(&first, AskError::Unreachable);
    let second = lab.asked();
    let mut refused = answered(&second, 0, 0);
    refused.metadata.response_code = ResponseCode::Refused;
    lab.answer(&second, &refused);
    let third = lab.asked();
    assert_eq!(third.server, 2);
    lab.answer(&third, &answered(&third, 1, 60));
    assert_eq!(lab.message().answers.len(), 1);
    lab.send(&query(8, "example.org.", RecordType::A).to_vec().unwrap());
    assert_eq!(
        lab.asked().server,
        2,
        "the one that answered is asked first"
    );
}

#[test]
fn what_the_last_server_said_is_passed_on_when_all_refuse() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    for _ in 0..2 {
        let ask = lab.asked();
        let mut refused = answered(&ask, 0, 0);
        refused.metadata.response_code = ResponseCode::Refused;
        lab.answer(&ask, &refused);
    }
    assert_eq!(lab.message().metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_late_answer_of_a_server_that_was_given_up_counts() {
    let mut lab = Lab::new(true);
    lab.dns.handle_servers(2, lab.now, &mut lab.out);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let first = lab.asked();
    lab.advance(2 * SECOND);
    let second = lab.asked();
    lab.answer(&first, &answered(&first, 1, 60));
    assert_eq!(lab.message().answers.len(), 1);
    lab.answer(&second, &answered(&second, 1, 60));
    assert_eq!(lab.reply(), None);
}

#[test]
fn other_servers_are_asked_anew_and_what_others_said_is_forgotten() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "kept.example.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    lab.answer(&ask, &answered(&ask, 1, 600));
    lab.message();
    lab.send(&query(8, "example.com.", RecordType::A).to_vec().unwrap());
    let old = lab.asked();
    lab.dns.handle_servers(1, lab.now, &mut lab.out);
    let new = lab.asked();
    lab.answer(&old, &answered(&old, 1, 60));
    assert_eq!(lab.reply(), None);
    lab.answer(&new, &answered(&new, 2, 60));
    assert_eq!(lab.message().answers.len(), 2);
    lab.send(&query(9, "kept.example.", RecordType::A).to_vec().unwrap());
    lab.asked();
}

#[test]
fn an_answer_is_kept_while_it_holds_and_its_times_count_down() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    let mut answer = answered(&ask, 2, 300);
    answer.answers[1].ttl = 100;
    lab.answer(&ask, &answer);
    lab.message();
    lab.advance(40 * SECOND);
    let reply = lab.ask("EXAMPLE.com.", RecordType::A);
    let ttls: Vec<u32> = reply.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [260, 60]);
    assert!(lab.out.asks.is_empty());
    // For other types, and with signatures, it is another question.
    let other = query(8, "example.com.", RecordType::AAAA);
    lab.send(&other.to_vec().unwrap());
    lab.asked();
    let signed = edns(query(8, "example.com.", RecordType::A), 1232, true);
    lab.send(&signed.to_vec().unwrap());
    lab.asked();
    lab.advance(60 * SECOND);
    lab.out = Replies::default();
    lab.send(&query(9, "example.com.", RecordType::A).to_vec().unwrap());
    lab.asked();
}

#[test]
fn that_there_is_nothing_is_kept_as_long_as_the_zone_says() {
    let mut lab = Lab::new(true);
    for (index, code) in [ResponseCode::NXDomain, ResponseCode::NoError]
        .into_iter()
        .enumerate()
    {
        for (ttl, minimum, holds) in [(60, 300, 60), (300, 30, 30), (86_400, 86_400, 3600)] {
            let name = format!("n{index}{ttl}.example.");
            lab.send(&query(7, &name, RecordType::A).to_vec().unwrap());
            let ask = lab.asked();
            lab.answer(&ask, &negative(&ask, code, ttl, minimum));
            lab.message();
            lab.advance(Duration::from_secs(holds - 1));
            let reply = lab.ask(&name, RecordType::A);
            assert_eq!(reply.metadata.response_code, code);
            assert_eq!(
                u64::from(reply.authorities[0].ttl),
                u64::from(ttl) - holds + 1
            );
            lab.advance(SECOND);
            lab.send(&query(8, &name, RecordType::A).to_vec().unwrap());
            lab.asked();
            lab.advance(20 * SECOND);
            lab.out = Replies::default();
        }
    }
    // Without the zone's word it is not kept at all.
    lab.send(&query(7, "x.example.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    lab.answer(&ask, &answered(&ask, 0, 0));
    lab.message();
    lab.send(&query(8, "x.example.", RecordType::A).to_vec().unwrap());
    lab.asked();
}

#[test]
fn who_asks_the_same_waits_for_the_same_answer() {
    let mut lab = Lab::new(true);
    let message = query(7, "example.com.", RecordType::A).to_vec().unwrap();
    lab.send_from(GUEST, 2000, &message);
    let ask = lab.asked();
    lab.send_from(GUEST, 2000, &message);
    let other = query(8, "Example.COM.", RecordType::A).to_vec().unwrap();
    lab.send_from(OTHER, 2001, &other);
    assert!(lab.out.asks.is_empty());
    lab.answer(&ask, &answered(&ask, 1, 60));
    assert_eq!(lab.message().metadata.id, 7);
    assert_eq!(lab.reply().unwrap()[..other.len()][12..], other[12..]);
    assert_eq!(lab.reply(), None, "asked twice is answered once");
}

#[test]
fn one_guest_cannot_have_everything_asked_for() {
    let mut lab = Lab::new(true);
    for index in 0..200 {
        let message = query(7, &format!("n{index}.example."), RecordType::A);
        lab.send(&message.to_vec().unwrap());
    }
    assert_eq!(lab.out.asks.len(), 128);
    assert_eq!(lab.out.frames.len(), 72);
    assert_eq!(lab.message().metadata.response_code, ResponseCode::ServFail);
    let message = query(7, "other.example.", RecordType::A).to_vec().unwrap();
    lab.send_from(OTHER, 1, &message);
    assert_eq!(lab.out.asks.len(), 129);
    // Nobody answers, and all of it is over.
    for _ in 0..10 {
        lab.advance(2 * SECOND);
    }
    lab.out = Replies::default();
    lab.send(&query(7, "n0.example.", RecordType::A).to_vec().unwrap());
    lab.asked();
}

#[test]
fn an_answer_that_is_too_long_is_cut_and_the_whole_is_there_over_tcp() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    lab.answer(&ask, &answered(&ask, 60, 300));
    let reply = lab.reply().unwrap();
    assert!(reply.len() <= 512);
    let reply = Message::from_vec(&reply).unwrap();
    assert!(reply.metadata.truncation);
    assert!((20..60).contains(&reply.answers.len()));

    let message = query(8, "example.com.", RecordType::A).to_vec().unwrap();
    let (dns, inside) = (&mut lab.dns, &lab.inside);
    dns.handle_message(5, GUEST_IP.into(), &message, inside, lab.now, &mut lab.out);
    let (stream, reply) = lab.out.messages.remove(0);
    assert_eq!(stream, 5);
    let reply = Message::from_vec(&reply).unwrap();
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 60);

    let large = edns(query(9, "example.com.", RecordType::A), 4096, false);
    lab.send(&large.to_vec().unwrap());
    let reply = lab.message();
    assert_eq!(reply.answers.len(), 60);
    assert!(!reply.metadata.truncation && reply.edns.is_some());
}

#[test]
fn additional_records_are_left_out_without_a_word() {
    let mut lab = Lab::new(true);
    lab.send(&query(7, "example.com.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    let mut answer = answered(&ask, 1, 300);
    for record in answered(&ask, 60, 300).answers {
        answer.add_additional(record);
    }
    lab.answer(&ask, &answer);
    let reply = lab.message();
    assert!(!reply.metadata.truncation);
    assert_eq!((reply.answers.len(), reply.additionals.len()), (1, 0));
}

#[test]
fn a_cut_answer_is_asked_for_over_tcp_where_the_guest_takes_more() {
    let mut lab = Lab::new(true);
    let message = edns(query(7, "example.com.", RecordType::A), 1232, false);
    lab.send(&message.to_vec().unwrap());
    let ask = lab.asked();
    let mut cut = answered(&ask, 1, 300);
    cut.metadata.truncation = true;
    lab.answer(&ask, &cut);
    assert_eq!(lab.reply(), None);
    let stream = lab.asked();
    assert_eq!((stream.stream, stream.server), (true, ask.server));
    lab.answer(&stream, &answered(&stream, 40, 300));
    assert_eq!(lab.message().answers.len(), 40);

    // Where TCP does not help, it is passed on as it is, and not kept.
    let message = edns(query(7, "example.org.", RecordType::A), 1232, false);
    lab.send(&message.to_vec().unwrap());
    let ask = lab.asked();
    let mut cut = answered(&ask, 1, 300);
    cut.metadata.truncation = true;
    lab.answer(&ask, &cut);
    let stream = lab.asked();
    lab.fail(&stream, AskError::Unreachable);
    assert!(lab.message().metadata.truncation);

    let message = query(7, "example.org.", RecordType::A);
    lab.send(&message.to_vec().unwrap());
    let ask = lab.asked();
    let mut cut = answered(&ask, 1, 300);
    cut.metadata.truncation = true;
    lab.answer(&ask, &cut);
    assert!(lab.message().metadata.truncation);
    assert!(lab.out.asks.is_empty());
}

#[test]
fn the_operator_hears_of_servers_that_are_missing_or_silent() {
    let mut lab = Lab::new(true);
    assert!(lab.dns.advisories(lab.now).is_empty());
    lab.dns.handle_servers(0, lab.now, &mut lab.out);
    assert!(lab.dns.advisories(lab.now)[0].contains("has no name server"));
    lab.dns.handle_servers(1, lab.now, &mut lab.out);
    assert!(lab.dns.advisories(lab.now).is_empty());
    lab.send(&query(7, "a.example.", RecordType::A).to_vec().unwrap());
    for _ in 0..2 {
        let ask = lab.asked();
        lab.fail(&ask, AskError::NoServer);
    }
    assert_eq!(lab.message().metadata.response_code, ResponseCode::ServFail);
    assert!(lab.dns.advisories(lab.now)[0].contains("has no name server"));
    for index in 0..3 {
        let name = format!("b{index}.example.");
        lab.send(&query(7, &name, RecordType::A).to_vec().unwrap());
        for _ in 0..2 {
            let ask = lab.asked();
            lab.fail(&ask, AskError::Unreachable);
        }
    }
    assert!(lab.dns.advisories(lab.now)[0].contains("no name server of the host answers"));
    lab.send(&query(7, "c.example.", RecordType::A).to_vec().unwrap());
    let ask = lab.asked();
    lab.answer(&ask, &answered(&ask, 1, 60));
    assert!(lab.dns.advisories(lab.now).is_empty());
    let view = lab.dns.dns().unwrap();
    assert_eq!((view.queries, view.asked, view.failed), (5, 9, 4));
}

proptest! {
    #[test]
    fn any_bytes_of_a_guest_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), plausible: bool) {
        if plausible && bytes.len() >= 12 {
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        let mut lab = Lab::new(true);
        lab.send(&bytes);
        if let Some(reply) = lab.reply() {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
            prop_assert!(reply.len() <= 1472);
        }
    }

    #[test]
    fn any_name_of_an_address_is_answered_or_asked_for(
        labels in proptest::collection::vec("[0-9a-f]|[0-9x]{1,4}", 0..40),
        like_own in 0usize..5,
        v6: bool,
    ) {
        let own = ["192", "168", "88", "128"].map(str::to_owned);
        let mut labels: Vec<String> = own[..like_own.min(4)].iter().cloned().chain(labels).collect();
        labels.reverse();
        labels.push(if v6 { "ip6" } else { "in-addr" }.to_owned());
        labels.push("arpa".to_owned());
        let mut lab = Lab::new(true);
        let mut question = crate::wire::dns::Name::new(&labels.join(".")).unwrap().as_bytes().to_vec();
        question.extend([0, 12, 0, 1]);
        lab.send(&crate::wire::dns::Writer::new(1, flag::RD, &question).finish());
        prop_assert_eq!(lab.out.frames.len() + lab.out.asks.len(), 1);
        if like_own >= 3 && !v6 {
            prop_assert!(lab.out.asks.is_empty(), "what is ours is not asked for");
        }
    }

    #[test]
    fn any_bytes_of_a_server_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        counts in proptest::array::uniform3(0u8..4),
    ) {
        let mut lab = Lab::new(true);
        let asked = edns(query(7, "example.com.", RecordType::A), 1232, false);
        lab.send(&asked.to_vec().unwrap());
        let ask = lab.asked();
        let [a, b, c] = counts;
        let mut answer = ask.message[..ask.message.len() - 11].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, a, 0, b, 0, c]);
        answer.extend(bytes);
        lab.dns.handle_answer(ask.ticket, Ok(&answer), lab.now, &mut lab.out);
        if let Some(reply) = lab.reply() {
            prop_assert_eq!(&reply[12..29], &asked.to_vec().unwrap()[12..29]);
            prop_assert!(reply.len() <= 1232);
            lab.advance(SECOND);
            lab.send(&asked.to_vec().unwrap());
        } else {
            prop_assert_eq!(lab.out.asks.len(), 1, "the next server is asked");
        }
    }
}
