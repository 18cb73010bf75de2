//! Clients against the server, over frames, with a clock that only the test moves. Another implementation writes the
//! requests and reads the answers.

use std::net::IpAddr;

use dhcproto::v6::{self, DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, OptionCode, Status as Told};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;

use super::bindings::{DECLINES, LIMIT, PRESENCE, QUARANTINE};
use super::*;
use crate::wire::dhcp6::ALL_SERVERS;
use crate::wire::ethernet::Ethernet;
use crate::wire::ipv6::group_mac;
use crate::wire::udp::Udp;

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 0xfe];

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn mac(number: u16) -> MacAddr {
    let [a, b] = number.to_be_bytes();
    MacAddr([2, 0, 0, 1, a, b])
}

fn spec() -> Spec {
    Spec {
        prefix: "fd00:1::/64".parse().unwrap(),
        server: ip("fe80::2"),
        gateway: ip("fd00:1::2"),
        pool: Some(ip("fd00:1::1:0:0")..=ip("fd00:1::1:ffff:ffff")),
        valid: Duration::from_secs(1000),
        preferred: Duration::from_secs(500),
        dns: vec![ip("fd00:1::2"), ip("fd00:1::3")],
        search: vec!["lan.example".to_owned()],
        ntp: vec![ip("fd00:1::4")],
        refresh: Duration::from_secs(3600),
        rapid_commit: true,
        reservations: vec![Reservation {
            mac: mac(7),
            ip: ip("fd00:1::77"),
            hostname: Some("seven".to_owned()),
        }],
    }
}

/// A server, who is inside, and a clock.
struct Lab {
    server: Dhcp6,
    inside: Inside,
    now: Now,
    told: Vec<(Lease, bool)>,
}

impl Lab {
    fn new(spec: Spec) -> Self {
        Self {
            server: Dhcp6::new(spec, GATEWAY),
            inside: Inside::default(),
            now: Now {
                instant: Instant::now(),
                wall: SystemTime::UNIX_EPOCH,
            },
            told: Vec::new(),
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.wall += time;
    }

    fn offer(&mut self, frame: &[u8]) -> (Claim, Vec<Vec<u8>>) {
        let mut out = Replies::default();
        let frame = GatewayFrame {
            bytes: frame,
            partial_checksum: false,
            inside: &self.inside,
        };
        let claim = self.server.handle_frame(frame, self.now, &mut out);
        for (lease, bound) in &out.leases6 {
            self.inside.note_lease6(lease, *bound);
        }
        self.told.append(&mut out.leases6);
        (claim, out.frames)
    }

    /// Has a client say something to all servers, and returns what it hears.
    fn say(&mut self, client: MacAddr, message: &v6::Message) -> Option<v6::Message> {
        let frame = frame(
            client,
            ip("fe80::9"),
            ALL_SERVERS,
            &message.to_vec().unwrap(),
        );
        let (claim, mut frames) = self.offer(&frame);
        assert_eq!(claim, Claim::Taken);
        assert!(frames.len() <= 1);
        frames.pop().map(|frame| heard(&frame, client, message))
    }

    /// Has a client ask for an address in both ways, and returns what it was given.
    fn lease(&mut self, client: MacAddr) -> Ipv6Addr {
        let shown = self
            .say(
                client,
                &with(v6::MessageType::Solicit, &[association(1, &[])]),
            )
            .unwrap();
        let shown = granted(&shown).unwrap();
        let request = with(
            v6::MessageType::Request,
            &[server(), association(1, &[shown])],
        );
        granted(&self.say(client, &request).unwrap()).unwrap()
    }
}

fn frame(client: MacAddr, src: Ipv6Addr, dst: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let datagram = udp::emit_v6((src, 546), (dst, 547), payload).unwrap();
    let packet = Ipv6 {
        src,
        dst,
        next_header: PROTOCOL_UDP,
        hop_limit: 1,
        payload: &datagram,
    };
    let to = if dst.is_multicast() {
        group_mac(dst)
    } else {
        GATEWAY
    };
    ethernet::emit(to, client, ETHERTYPE_IPV6, &packet.emit().unwrap())
}

/// Reads an answer, and verifies what all of them have.
fn heard(frame: &[u8], client: MacAddr, asked: &v6::Message) -> v6::Message {
    let ethernet = Ethernet::parse(frame).unwrap();
    assert_eq!((ethernet.dst, ethernet.src), (client, GATEWAY));
    let packet = Ipv6::parse(ethernet.payload).unwrap();
    assert_eq!((packet.src, packet.dst), (ip("fe80::2"), ip("fe80::9")));
    let udp = Udp::parse_v6(&packet, false).unwrap();
    assert_eq!((udp.src, udp.dst), (547, 546));
    assert!(ethernet.payload.len() <= 1280);
    let message = v6::Message::decode(&mut Decoder::new(udp.payload)).unwrap();
    assert_eq!(message.xid(), asked.xid());
    let option = |message: &v6::Message, code| message.opts().get(code).cloned();
    assert_eq!(
        option(&message, OptionCode::ServerId),
        Some(DhcpOption::ServerId(DUID.to_vec()))
    );
    assert_eq!(
        option(&message, OptionCode::ClientId),
        option(asked, OptionCode::ClientId)
    );
    message
}

fn message(kind: v6::MessageType, options: &[DhcpOption]) -> v6::Message {
    let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message
}

/// A message of a client that names itself.
fn with(kind: v6::MessageType, options: &[DhcpOption]) -> v6::Message {
    let mut message = message(kind, options);
    let client = DhcpOption::ClientId(vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    message.opts_mut().insert(client);
    message
}

fn server() -> DhcpOption {
    DhcpOption::ServerId(DUID.to_vec())
}

fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let mut opts = DhcpOptions::new();
    for addr in addresses {
        opts.insert(DhcpOption::IAAddr(IAAddr {
            addr: *addr,
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        }));
    }
    DhcpOption::IANA(IANA {
        id,
        t1: 0,
        t2: 0,
        opts,
    })
}

fn associations(message: &v6::Message) -> Vec<IANA> {
    let all = message.opts().get_all(OptionCode::IANA).unwrap_or_default();
    all.iter()
        .map(|option| {
            let DhcpOption::IANA(association) = option else {
                panic!("{option:?}")
            };
            association.clone()
        })
        .collect()
}

/// Returns the addresses of the first association with their lifetimes.
fn lifetimes(message: &v6::Message) -> Vec<(Ipv6Addr, u32, u32)> {
    let options = associations(message)[0].opts.clone();
    let all = options.get_all(OptionCode::IAAddr).unwrap_or_default();
    all.iter()
        .map(|option| {
            let DhcpOption::IAAddr(it) = option else {
                panic!("{option:?}")
            };
            (it.addr, it.preferred_life, it.valid_life)
        })
        .collect()
}

fn granted(message: &v6::Message) -> Option<Ipv6Addr> {
    let live = lifetimes(message).into_iter().find(|it| it.2 > 0);
    live.map(|(ip, ..)| ip)
}

fn status(options: &DhcpOptions) -> Option<Told> {
    let option = options.get(OptionCode::StatusCode)?;
    let DhcpOption::StatusCode(told) = option else {
        panic!("{option:?}")
    };
    Some(told.status)
}

fn has(message: &v6::Message, code: OptionCode) -> bool {
    message.opts().get(code).is_some()
}

#[test]
fn a_client_is_shown_an_address_and_given_it() {
    let mut lab = Lab::new(spec());
    let solicit = with(v6::MessageType::Solicit, &[association(5, &[])]);
    let shown = lab.say(mac(1), &solicit).unwrap();
    assert_eq!(shown.msg_type(), v6::MessageType::Advertise);
    assert_eq!(
        shown.opts().get(OptionCode::Preference),
        Some(&DhcpOption::Preference(255))
    );
    assert!(lab.told.is_empty() && lab.server.leases6(lab.now).is_empty());
    let address = granted(&shown).unwrap();
    assert!(spec().pool.unwrap().contains(&address));
    let request = with(
        v6::MessageType::Request,
        &[server(), association(5, &[address])],
    );
    let reply = lab.say(mac(1), &request).unwrap();
    assert_eq!(reply.msg_type(), v6::MessageType::Reply);
    let ia = &associations(&reply)[0];
    assert_eq!((ia.id, ia.t1, ia.t2), (5, 250, 400));
    assert_eq!(lifetimes(&reply), [(address, 500, 1000)]);
    let lease = Lease {
        ip: address,
        mac: mac(1),
        hostname: None,
        expires: lab.now.wall + Duration::from_secs(1000),
    };
    assert_eq!(lab.told, [(lease.clone(), true)]);
    assert_eq!(lab.server.leases6(lab.now), [lease]);
    assert_eq!(lab.inside.address_of(mac(1), true), Some(address.into()));
}

#[test]
fn two_messages_are_enough_where_both_want_that() {
    let rapid = with(
        v6::MessageType::Solicit,
        &[association(5, &[]), DhcpOption::RapidCommit],
    );
    let mut lab = Lab::new(spec());
    let reply = lab.say(mac(1), &rapid).unwrap();
    assert_eq!(reply.msg_type(), v6::MessageType::Reply);
    assert!(has(&reply, OptionCode::RapidCommit));
    assert_eq!(lab.server.leases6(lab.now).len(), 1);
    let mut lab = Lab::new(Spec {
        rapid_commit: false,
        ..spec()
    });
    let shown = lab.say(mac(1), &rapid).unwrap();
    assert_eq!(shown.msg_type(), v6::MessageType::Advertise);
    assert!(!has(&shown, OptionCode::RapidCommit));
}

#[test]
fn a_client_has_the_same_address_in_every_run_and_each_another() {
    let addresses = || {
        let mut lab = Lab::new(spec());
        (0..100)
            .map(|number| lab.lease(mac(100 + number)))
            .collect::<Vec<_>>()
    };
    let first = addresses();
    assert_eq!(first, addresses());
    let mut different = first.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 100);
    let mut other = Lab::new(Spec {
        prefix: "fd00:2::/64".parse().unwrap(),
        pool: Some(ip("fd00:2::1:0:0")..=ip("fd00:2::1:ffff:ffff")),
        ..spec()
    });
    let elsewhere = other.lease(mac(100));
    assert_ne!(elsewhere.segments()[4..], first[0].segments()[4..]);
}

#[test]
fn a_small_range_is_given_out_to_the_last_address() {
    let mut lab = Lab::new(Spec {
        pool: Some(ip("fd00:1::10")..=ip("fd00:1::1f")),
        ..spec()
    });
    let mut all: Vec<_> = (100..116).map(|number| lab.lease(mac(number))).collect();
    all.sort();
    let pool: Vec<_> = (0x10..0x20)
        .map(|end| Ipv6Addr::from_bits(ip("fd00:1::").to_bits() + end))
        .collect();
    assert_eq!(all, pool);
    let solicit = with(v6::MessageType::Solicit, &[association(1, &[])]);
    let shown = lab.say(mac(200), &solicit).unwrap();
    assert_eq!(
        status(&associations(&shown)[0].opts),
        Some(Told::NoAddrsAvail)
    );
    assert!(!has(&shown, OptionCode::Preference));
    lab.advance(Duration::from_secs(1000));
    lab.lease(mac(200));
    assert_eq!(lab.told.iter().filter(|(_, bound)| !bound).count(), 16);
}

#[test]
fn addresses_that_are_somebodys_are_not_given_out() {
    let mut lab = Lab::new(Spec {
        prefix: "fd00:1::/126".parse().unwrap(),
        pool: Some(ip("fd00:1::")..=ip("fd00:1::3")),
        reservations: vec![Reservation {
            mac: mac(7),
            ip: ip("fd00:1::1"),
            hostname: None,
        }],
        ..spec()
    });
    // Of four, one is that of all routers, one reserved, and one the gateway's.
    assert_eq!(lab.lease(mac(1)), ip("fd00:1::3"));
    assert_eq!(lab.lease(mac(7)), ip("fd00:1::1"));
    let mut lab = Lab::new(spec());
    let mut again = Lab::new(spec());
    let taken = lab.lease(mac(1));
    again
        .inside
        .note_seen(IpAddr::from(taken), mac(2), lab.now.instant);
    assert_ne!(again.lease(mac(1)), taken, "a station uses it");
    let mut again = Lab::new(spec());
    again
        .inside
        .note_seen(IpAddr::from(taken), mac(1), lab.now.instant);
    assert_eq!(again.lease(mac(1)), taken, "it uses it itself");
    let mut again = Lab::new(spec());
    again
        .inside
        .note_seen(IpAddr::from(taken), mac(2), again.now.instant);
    again.advance(PRESENCE);
    assert_eq!(again.lease(mac(1)), taken, "that was long ago");
}

#[test]
fn a_reservation_comes_first_and_gives_its_name() {
    let mut lab = Lab::new(spec());
    assert_eq!(lab.lease(mac(7)), ip("fd00:1::77"));
    let leases = lab.server.leases6(lab.now);
    assert_eq!(leases[0].hostname.as_deref(), Some("seven"));
    let request = with(
        v6::MessageType::Request,
        &[server(), association(1, &[ip("fd00:1::77")])],
    );
    let reply = lab.say(mac(8), &request).unwrap();
    assert_ne!(granted(&reply), Some(ip("fd00:1::77")));
}

#[test]
fn the_address_that_a_client_asks_for_is_given_where_it_is_free() {
    let mut lab = Lab::new(spec());
    let wanted = ip("fd00:1::1:0:99");
    let solicit = with(v6::MessageType::Solicit, &[association(1, &[wanted])]);
    assert_eq!(granted(&lab.say(mac(1), &solicit).unwrap()), Some(wanted));
    let request = with(
        v6::MessageType::Request,
        &[server(), association(1, &[wanted])],
    );
    assert_eq!(granted(&lab.say(mac(1), &request).unwrap()), Some(wanted));
    let other = granted(&lab.say(mac(2), &request).unwrap()).unwrap();
    assert_ne!(other, wanted, "it is somebody's now");
    let outside = ip("fd00:1::99");
    let solicit = with(v6::MessageType::Solicit, &[association(1, &[outside])]);
    let shown = granted(&lab.say(mac(3), &solicit).unwrap()).unwrap();
    assert_ne!(shown, outside, "it is not in the range");
}

#[test]
fn a_request_for_an_address_of_another_link_is_told_so() {
    let mut lab = Lab::new(spec());
    let request = with(
        v6::MessageType::Request,
        &[server(), association(1, &[ip("fd00:9::1")])],
    );
    let reply = lab.say(mac(1), &request).unwrap();
    assert_eq!(status(&associations(&reply)[0].opts), Some(Told::NotOnLink));
    assert!(lab.server.leases6(lab.now).is_empty());
}

#[test]
fn an_address_is_extended_and_ends_when_it_is_not() {
    let mut lab = Lab::new(spec());
    let address = lab.lease(mac(1));
    for (kind, option) in [
        (v6::MessageType::Renew, Some(server())),
        (v6::MessageType::Rebind, None),
    ] {
        lab.advance(Duration::from_secs(900));
        let mut options = vec![association(1, &[address])];
        options.extend(option);
        let reply = lab.say(mac(1), &with(kind, &options)).unwrap();
        assert_eq!(lifetimes(&reply), [(address, 500, 1000)]);
    }
    lab.advance(Duration::from_secs(999));
    assert_eq!(lab.server.leases6(lab.now).len(), 1);
    let due = lab.server.poll_timeout().unwrap();
    assert_eq!(due - lab.now.instant, Duration::from_secs(1));
    lab.advance(Duration::from_secs(1));
    assert!(lab.server.leases6(lab.now).is_empty());
    let mut out = Replies::default();
    lab.server.handle_timeout(lab.now, &mut out);
    let over: Vec<_> = out
        .leases6
        .iter()
        .map(|(lease, bound)| (lease.ip, *bound))
        .collect();
    assert_eq!(over, [(address, false)]);
    assert_eq!(lab.server.poll_timeout(), None);
}

#[test]
fn after_a_restart_clients_keep_what_they_have() {
    let wanted = ip("fd00:1::1:0:99");
    for kind in [v6::MessageType::Renew, v6::MessageType::Rebind] {
        let mut lab = Lab::new(spec());
        let mut options = vec![association(1, &[wanted])];
        options.extend((kind == v6::MessageType::Renew).then(server));
        let reply = lab.say(mac(1), &with(kind, &options)).unwrap();
        assert_eq!(lifetimes(&reply), [(wanted, 500, 1000)]);
        let leases = lab.server.leases6(lab.now);
        assert_eq!((leases[0].ip, leases[0].mac), (wanted, mac(1)));
        let reply = lab.say(mac(2), &with(kind, &options)).unwrap();
        let lifetimes = lifetimes(&reply);
        assert_eq!(lifetimes.len(), 2);
        assert!(lifetimes.contains(&(wanted, 0, 0)), "it is somebody else's");
    }
    let mut lab = Lab::new(spec());
    let confirm = with(v6::MessageType::Confirm, &[association(1, &[wanted])]);
    let reply = lab.say(mac(1), &confirm).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::Success));
    assert_eq!(lab.server.leases6(lab.now)[0].ip, wanted);
}

#[test]
fn a_client_that_has_moved_hears_that_its_address_is_of_another_link() {
    let mut lab = Lab::new(spec());
    let confirm = |ip| with(v6::MessageType::Confirm, &[association(1, &[ip])]);
    let reply = lab.say(mac(1), &confirm(ip("fd00:9::1"))).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::NotOnLink));
    let reply = lab.say(mac(1), &confirm(ip("fd00:1::77"))).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::NotOnLink), "reserved");
    let reply = lab.say(mac(1), &confirm(ip("fd00:1::99"))).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::Success), "typed by hand");
    assert!(lab.server.leases6(lab.now).is_empty());
    let none = with(v6::MessageType::Confirm, &[association(1, &[])]);
    assert!(lab.say(mac(1), &none).is_none());
}

#[test]
fn an_address_that_is_given_back_is_free() {
    let mut lab = Lab::new(spec());
    let address = lab.lease(mac(1));
    let release = |ip| with(v6::MessageType::Release, &[server(), association(1, &[ip])]);
    let reply = lab.say(mac(2), &release(address)).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::Success));
    assert_eq!(status(&associations(&reply)[0].opts), Some(Told::NoBinding));
    assert_eq!(lab.server.leases6(lab.now).len(), 1, "it is not its own");
    let reply = lab.say(mac(1), &release(address)).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::Success));
    assert!(associations(&reply).is_empty());
    assert!(lab.server.leases6(lab.now).is_empty());
    assert_eq!(lab.inside.mac_of(address.into()), None);
    let request = with(
        v6::MessageType::Request,
        &[server(), association(1, &[address])],
    );
    assert_eq!(granted(&lab.say(mac(2), &request).unwrap()), Some(address));
}

#[test]
fn an_address_that_was_found_in_use_is_not_given_out_for_a_while() {
    let mut lab = Lab::new(spec());
    let address = lab.lease(mac(1));
    let decline = with(
        v6::MessageType::Decline,
        &[server(), association(1, &[address])],
    );
    let reply = lab.say(mac(1), &decline).unwrap();
    assert_eq!(status(reply.opts()), Some(Told::Success));
    assert_eq!(lab.server.advisories(lab.now).len(), 1);
    let other = lab.lease(mac(1));
    assert_ne!(other, address);
    let release = with(
        v6::MessageType::Release,
        &[server(), association(1, &[other])],
    );
    lab.say(mac(1), &release).unwrap();
    lab.advance(QUARANTINE);
    assert_eq!(lab.lease(mac(1)), address);
    assert!(lab.server.advisories(lab.now).is_empty());
}

#[test]
fn nobody_can_decline_a_whole_range_away() {
    let mut lab = Lab::new(Spec {
        pool: Some(ip("fd00:1::10")..=ip("fd00:1::1f")),
        ..spec()
    });
    for _ in 0..100 {
        let address = lab.lease(mac(1));
        let decline = with(
            v6::MessageType::Decline,
            &[server(), association(1, &[address])],
        );
        lab.say(mac(1), &decline).unwrap();
    }
    assert_eq!(lab.server.bindings.quarantined(), DECLINES);
    (10..18).for_each(|number| {
        lab.lease(mac(number));
    });
}

#[test]
fn there_are_only_so_many_leases() {
    let mut lab = Lab::new(spec());
    let rapid = with(
        v6::MessageType::Solicit,
        &[association(5, &[]), DhcpOption::RapidCommit],
    );
    for number in 0..u16::try_from(LIMIT).unwrap() {
        lab.say(mac(number), &rapid).unwrap();
    }
    let reply = lab.say(mac(60_000), &rapid).unwrap();
    assert_eq!(
        status(&associations(&reply)[0].opts),
        Some(Told::NoAddrsAvail)
    );
    let reply = lab.say(mac(9), &rapid).unwrap();
    assert!(granted(&reply).is_some(), "who has one keeps it");
}

#[test]
fn a_client_has_one_address_and_no_prefix() {
    let mut lab = Lab::new(spec());
    let prefix = DhcpOption::IAPD(IAPD {
        id: 3,
        t1: 0,
        t2: 0,
        opts: DhcpOptions::new(),
    });
    let options = [association(1, &[]), association(2, &[]), prefix.clone()];
    let shown = lab
        .say(mac(1), &with(v6::MessageType::Solicit, &options))
        .unwrap();
    let told = associations(&shown);
    assert_eq!(told.len(), 2);
    assert!(granted(&shown).is_some());
    let none = [status(&told[0].opts), status(&told[1].opts)];
    assert_eq!(none, [None, Some(Told::NoAddrsAvail)]);
    let Some(DhcpOption::IAPD(told)) = shown.opts().get(OptionCode::IAPD) else {
        panic!("the prefix is answered too")
    };
    assert_eq!(
        (told.id, status(&told.opts)),
        (3, Some(Told::NoPrefixAvail))
    );
    let renew = with(v6::MessageType::Renew, &[server(), prefix]);
    let reply = lab.say(mac(1), &renew).unwrap();
    let Some(DhcpOption::IAPD(told)) = reply.opts().get(OptionCode::IAPD) else {
        panic!("the prefix is answered too")
    };
    assert_eq!(status(&told.opts), Some(Told::NoBinding));
}

#[test]
fn without_a_range_nobody_gets_an_address_but_everybody_the_rest() {
    let mut lab = Lab::new(Spec {
        pool: None,
        reservations: Vec::new(),
        ..spec()
    });
    let solicit = with(v6::MessageType::Solicit, &[association(1, &[])]);
    let shown = lab.say(mac(1), &solicit).unwrap();
    assert_eq!(
        status(&associations(&shown)[0].opts),
        Some(Told::NoAddrsAvail)
    );
    let ask = message(v6::MessageType::InformationRequest, &[]);
    assert!(has(
        &lab.say(mac(1), &ask).unwrap(),
        OptionCode::DomainNameServers
    ));
}

#[test]
fn a_client_without_an_address_of_ours_hears_what_it_asks_for() {
    let mut lab = Lab::new(spec());
    // Nothing in particular: everything.
    let ask = message(v6::MessageType::InformationRequest, &[]);
    let reply = lab.say(mac(1), &ask).unwrap();
    assert_eq!(reply.msg_type(), v6::MessageType::Reply);
    let servers = DhcpOption::DomainNameServers(vec![ip("fd00:1::2"), ip("fd00:1::3")]);
    assert_eq!(
        reply.opts().get(OptionCode::DomainNameServers),
        Some(&servers)
    );
    let Some(DhcpOption::DomainSearchList(names)) = reply.opts().get(OptionCode::DomainSearchList)
    else {
        panic!("there is a list")
    };
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["lan.example."]);
    let Some(DhcpOption::Unknown(refresh)) = reply.opts().get(OptionCode::InformationRefreshTime)
    else {
        panic!("there is a time")
    };
    assert_eq!(refresh.data(), [0, 0, 0x0e, 0x10]);
    let ntp = DhcpOption::NtpServer(vec![v6::NtpSuboption::ServerAddress(ip("fd00:1::4"))]);
    assert_eq!(reply.opts().get(OptionCode::NtpServer), Some(&ntp));
    let asked = v6::ORO {
        opts: vec![OptionCode::DomainNameServers],
    };
    let ask = with(
        v6::MessageType::InformationRequest,
        &[DhcpOption::ORO(asked)],
    );
    let reply = lab.say(mac(1), &ask).unwrap();
    assert!(has(&reply, OptionCode::DomainNameServers));
    for code in [
        OptionCode::DomainSearchList,
        OptionCode::NtpServer,
        OptionCode::InformationRefreshTime,
    ] {
        assert!(!has(&reply, code), "{code:?}");
    }
}

#[test]
fn a_client_is_known_by_what_it_calls_itself() {
    let mut lab = Lab::new(spec());
    let name = |flags: u8| {
        let value = [&[flags][..], b"\x02vm\x03lan\x00"].concat();
        DhcpOption::Unknown(v6::UnknownOption::new(OptionCode::Unknown(39), value))
    };
    for (flags, told) in [(0, 3), (1, 1)] {
        let mut rapid = with(
            v6::MessageType::Solicit,
            &[association(5, &[]), DhcpOption::RapidCommit],
        );
        let mut bytes = rapid.to_vec().unwrap();
        bytes.extend_from_slice(&[0, 39, 0, 9, flags]);
        bytes.extend_from_slice(b"\x02vm\x03lan\x00");
        rapid.opts_mut().insert(name(flags));
        let frame = frame(mac(1), ip("fe80::9"), ALL_SERVERS, &bytes);
        let (_, frames) = lab.offer(&frame);
        let packet = Ipv6::parse(&frames[0][14..]).unwrap();
        let udp = Udp::parse_v6(&packet, false).unwrap();
        let reply = crate::wire::dhcp6::Message::parse(udp.payload).unwrap();
        let expected = [&[told][..], b"\x02vm\x03lan\x00"].concat();
        assert_eq!(reply.options.find(code::CLIENT_FQDN), Some(&expected[..]));
    }
    let leases = lab.server.leases6(lab.now);
    assert_eq!(leases[0].hostname.as_deref(), Some("vm.lan"));
    assert_eq!(lab.inside.find("vm"), Some(mac(1)));
    assert_eq!(lab.inside.find_at("vm", lab.now.wall), Some(mac(1)));
    lab.advance(Duration::from_secs(1000));
    assert_eq!(lab.inside.find_at("vm", lab.now.wall), None);
}

#[test]
fn what_is_sent_to_the_server_alone_is_told_to_use_the_group() {
    let mut lab = Lab::new(spec());
    let renew = with(v6::MessageType::Renew, &[server(), association(1, &[])]);
    let bytes = renew.to_vec().unwrap();
    for dst in ["fe80::2", "fd00:1::2"] {
        let (claim, frames) = lab.offer(&frame(mac(1), ip("fe80::9"), ip(dst), &bytes));
        assert_eq!(claim, Claim::Taken);
        let reply = heard(&frames[0], mac(1), &renew);
        assert_eq!(status(reply.opts()), Some(Told::UseMulticast));
    }
    let (claim, frames) = lab.offer(&frame(mac(1), ip("fe80::9"), ip("fd00:1::9"), &bytes));
    assert_eq!((claim, frames.len()), (Claim::Passed, 0));
    let solicit = with(v6::MessageType::Solicit, &[association(1, &[])]);
    let solicit = solicit.to_vec().unwrap();
    let (claim, frames) = lab.offer(&frame(mac(1), ip("fe80::9"), ip("fe80::2"), &solicit));
    assert_eq!((claim, frames.len()), (Claim::Taken, 0));
}

#[test]
fn what_a_server_must_not_answer_is_not_answered() {
    let mut lab = Lab::new(spec());
    let other = DhcpOption::ServerId(vec![0, 3, 0, 1, 1, 1, 1, 1, 1, 1]);
    let ia = association(1, &[ip("fd00:1::1:0:1")]);
    let one = std::slice::from_ref(&ia);
    use v6::MessageType as Kind;
    for silent in [
        message(Kind::Solicit, one),
        with(Kind::Solicit, &[server(), ia.clone()]),
        with(Kind::Rebind, &[server(), ia.clone()]),
        with(Kind::Confirm, &[server(), ia.clone()]),
        with(Kind::Request, one),
        with(Kind::Request, &[other.clone(), ia.clone()]),
        with(Kind::Renew, &[other.clone(), ia.clone()]),
        with(Kind::Release, &[other.clone(), ia.clone()]),
        with(Kind::Decline, &[other.clone(), ia.clone()]),
        with(Kind::InformationRequest, &[other]),
        with(Kind::InformationRequest, one),
        with(Kind::Reply, one),
        with(Kind::Advertise, one),
        message(
            Kind::Solicit,
            &[DhcpOption::ClientId(vec![0; 131]), ia.clone()],
        ),
    ] {
        assert_eq!(lab.say(mac(1), &silent), None, "{silent:?}");
    }
    assert!(lab.told.is_empty());
}

#[test]
fn frames_that_are_not_for_the_server_are_left_to_others() {
    let mut lab = Lab::new(spec());
    let solicit = with(v6::MessageType::Solicit, &[association(1, &[])]);
    let bytes = solicit.to_vec().unwrap();
    let good = frame(mac(1), ip("fe80::9"), ALL_SERVERS, &bytes);
    let mut damaged = good.clone();
    damaged[70] ^= 1;
    let mut misled = good.clone();
    misled[5] = 1;
    let mut broadcast = good.clone();
    broadcast[6] = 1;
    let mut port = good.clone();
    port[57] = 9;
    for frame in [damaged, misled, broadcast, port, vec![0; 60]] {
        assert_eq!(lab.offer(&frame), (Claim::Passed, Vec::new()));
    }
    let far = frame(mac(1), ip("fd00:1::9"), ALL_SERVERS, &bytes);
    assert_eq!(
        lab.offer(&far),
        (Claim::Taken, Vec::new()),
        "not of the link"
    );
    assert_eq!(lab.offer(&good).1.len(), 1);
}

proptest! {
    #[test]
    fn any_message_is_survived(
        messages in proptest::collection::vec((1u8..13, 0u16..3, proptest::collection::vec(any::<u8>(), 0..150), 0u8..4), 1..20)
    ) {
        let mut lab = Lab::new(spec());
        for (kind, client, bytes, named) in messages {
            let mut message = vec![kind, 1, 2, 3];
            if named & 1 != 0 {
                message.extend_from_slice(&[0, 1, 0, 4, 0, 3, 0, 1]);
            }
            if named & 2 != 0 {
                message.extend_from_slice(&[0, 2, 0, 10]);
                message.extend_from_slice(&DUID);
            }
            message.extend_from_slice(&bytes);
            lab.offer(&frame(mac(client), ip("fe80::9"), ALL_SERVERS, &message));
        }
        prop_assert!(lab.server.leases6(lab.now).len() <= 3);
    }

    #[test]
    fn whatever_clients_do_no_address_is_two_clients(
        steps in proptest::collection::vec((0u8..5, 0u16..24, 0u128..20, 0u64..400), 0..120)
    ) {
        let mut lab = Lab::new(Spec {
            pool: Some(ip("fd00:1::10")..=ip("fd00:1::1f")),
            ..spec()
        });
        for (step, client, address, time) in steps {
            use v6::MessageType as Kind;
            let address = Ipv6Addr::from_bits(ip("fd00:1::10").to_bits() + address);
            let ia = association(1, &[address]);
            let message = match step {
                0 => with(Kind::Solicit, &[ia, DhcpOption::RapidCommit]),
                1 => with(Kind::Request, &[server(), ia]),
                2 => with(Kind::Rebind, &[ia]),
                3 => with(Kind::Release, &[server(), ia]),
                _ => with(Kind::Decline, &[server(), ia]),
            };
            lab.say(mac(client), &message);
            lab.advance(Duration::from_secs(time));
            let mut owners: Vec<_> = lab.server.leases6(lab.now).into_iter().map(|lease| lease.ip).collect();
            let count = owners.len();
            owners.sort();
            owners.dedup();
            prop_assert_eq!(owners.len(), count);
        }
    }
}
