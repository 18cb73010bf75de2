//! Neighbour discovery: what the RFCs write, what receivers refuse, and bytes of any kind.

use proptest::prelude::*;

use super::*;

#[test]
fn an_advertisement_is_written_byte_for_byte_as_the_rfc_says() {
    #[rustfmt::skip]
    let expected = [
        0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, // Ethernet
        0x60, 0, 0, 0, 0, 32, 58, 255,
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, // from
        0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // to
        136, 0, 0xf9, 0x16, 0x20, 0, 0, 0,
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, // target
        2, 1, 2, 0, 0, 0, 0, 9, // its link-layer address
    ];
    let frame = unsolicited(
        MacAddr([2, 0, 0, 0, 0, 9]),
        "2001:db8::7".parse().unwrap(),
        false,
    );
    assert_eq!(frame, expected);
}

#[test]
fn the_checksum_is_right_for_other_addresses_too() {
    for number in 0..300u128 {
        let ip = Ipv6Addr::from_bits((0xfe80 << 112) | (number * 0x0123_4567_89ab_cdef));
        let frame = unsolicited(MacAddr([2; 6]), ip, number % 2 == 0);
        let packet = Ipv6::parse(&frame[14..]).unwrap();
        assert_eq!(
            (packet.src, packet.dst, packet.hop_limit),
            (ip, ALL_NODES, 255)
        );
        let sum = ipv6::pseudo_header(ip, ALL_NODES, 58, 32).over(packet.payload);
        assert_eq!(sum.finish(), 0);
    }
}

#[test]
fn what_a_station_says_of_itself_is_read() {
    let ip: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let read = |frame: &[u8]| Claim::parse(frame.get(14..).unwrap_or_default());
    for router in [false, true] {
        let frame = unsolicited(MacAddr([2; 6]), ip, router);
        let claim = Claim {
            ip,
            router: Some(router),
        };
        assert_eq!(read(&frame), Some(claim));
        assert_eq!(read(&frame[..14 + 64]), Some(claim), "a head is enough");
        assert_eq!(read(&frame[..14 + 63]), None);
    }
    let mut asked = unsolicited(MacAddr([2; 6]), ip, false);
    asked[14 + 40] = SOLICITATION;
    assert_eq!(read(&asked), Some(Claim { ip, router: None }));
    asked[14 + 8..14 + 24].fill(0);
    assert_eq!(
        read(&asked),
        None,
        "an address that is probed for is not claimed yet"
    );
    let mut far = unsolicited(MacAddr([2; 6]), ip, false);
    far[14 + 7] = 64;
    assert_eq!(read(&far), None, "it was sent from another link");
}

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// Writes a packet and reads it back.
fn there_and_back(packet: &Packet) -> Vec<u8> {
    let frame = packet.emit(MAC, MacAddr([2; 6]));
    assert_eq!(Packet::parse(&frame[14..], false).as_ref(), Some(packet));
    frame
}

#[test]
fn questions_and_answers_of_a_host_read_back() {
    let (other, src, target) = (
        MacAddr([2, 0, 0, 0, 0, 0x77]),
        ip("fe80::9"),
        ip("2001:db8::1"),
    );
    let read = |frame: &[u8]| Packet::parse(&frame[14..], false).unwrap();
    let asked = Message::Solicitation {
        target,
        mac: Some(MAC),
    };
    let frame = solicit(MAC, src, target);
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
    assert_eq!(read(&frame).message, asked);
    let frame = check(MAC, src, target, other);
    assert_eq!(frame[..6], other.0);
    assert_eq!((read(&frame).dst, read(&frame).message), (target, asked));
    let frame = solicit_routers(MAC, src);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 2]);
    let message = Message::RouterSolicitation { mac: Some(MAC) };
    assert_eq!(
        (read(&frame).dst, read(&frame).message),
        (ALL_ROUTERS, message)
    );
    for (asker, to, solicited) in [
        (src, other, true),
        (Ipv6Addr::UNSPECIFIED, ALL_NODES_MAC, false),
    ] {
        let frame = answer(MAC, target, (other, asker));
        assert_eq!(frame[..6], to.0);
        let Message::Advertisement(told) = read(&frame).message else {
            panic!("not read")
        };
        assert_eq!((told.target, told.mac), (target, Some(MAC)));
        assert_eq!((told.solicited, told.router), (solicited, false));
    }
}

#[test]
fn a_router_wants_to_be_used_more_or_less() {
    for preference in [Preference::High, Preference::Medium, Preference::Low] {
        let told = RouterAdvertisement {
            preference,
            ..advertisement()
        };
        let packet = Packet {
            src: ip("fe80::1"),
            dst: ALL_NODES,
            message: Message::RouterAdvertisement(Box::new(told)),
        };
        let frame = packet.emit(MAC, ALL_NODES_MAC);
        assert_eq!(Packet::parse(&frame[14..], false), Some(packet));
    }
}

fn advertisement() -> RouterAdvertisement {
    RouterAdvertisement {
        hop_limit: 64,
        managed: true,
        other: true,
        preference: Preference::Medium,
        lifetime: 1800,
        reachable: 30_000,
        retransmit: 1000,
        mac: Some(MAC),
        mtu: Some(1500),
        prefixes: vec![Prefix {
            net: "2001:db8:1::/64".parse().unwrap(),
            on_link: true,
            autonomous: true,
            valid: 2_592_000,
            preferred: 604_800,
        }],
        dns: Some((1800, vec![ip("fd00::2"), ip("fd00::3")])),
        search: Some((1800, vec!["lan.example".to_owned(), "ab".to_owned()])),
    }
}

fn told(message: RouterAdvertisement) -> Packet {
    Packet {
        src: ip("fe80::1"),
        dst: ALL_NODES,
        message: Message::RouterAdvertisement(Box::new(message)),
    }
}

#[test]
fn a_router_advertisement_is_written_byte_for_byte_as_the_rfcs_say() {
    let frame = there_and_back(&told(advertisement()));
    #[rustfmt::skip]
    let expected = [
        64, 0xc0, 0x07, 0x08, 0, 0, 0x75, 0x30, 0, 0, 0x03, 0xe8,
        1, 1, 2, 0, 0, 0, 0, 9, // its link-layer address
        5, 1, 0, 0, 0, 0, 0x05, 0xdc, // MTU
        3, 4, 64, 0xc0, 0, 0x27, 0x8d, 0, 0, 0x09, 0x3a, 0x80, 0, 0, 0, 0, // a prefix
        0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        25, 5, 0, 0, 0, 0, 0x07, 0x08, // name servers
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,
        31, 4, 0, 0, 0, 0, 0x07, 0x08, // search list
        3, b'l', b'a', b'n', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 0,
        2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(frame[..6], ALL_NODES_MAC.0);
    assert_eq!(frame[14 + 40], ROUTER_ADVERTISEMENT);
    assert_eq!(frame[14 + 44..], expected);
}

#[test]
fn all_messages_read_back_as_they_were_written() {
    for mac in [None, Some(MAC)] {
        there_and_back(&Packet {
            src: ip("fe80::9"),
            dst: ALL_ROUTERS,
            message: Message::RouterSolicitation { mac },
        });
        there_and_back(&Packet {
            src: ip("fe80::9"),
            dst: ip("fd00::7"),
            message: Message::Solicitation {
                target: ip("fd00::7"),
                mac,
            },
        });
        for flags in 0..8 {
            there_and_back(&Packet {
                src: ip("fe80::9"),
                dst: ip("fd00::7"),
                message: Message::Advertisement(Advertisement {
                    target: ip("fd00::9"),
                    mac,
                    router: flags & 1 != 0,
                    solicited: flags & 2 != 0,
                    overrides: flags & 4 != 0,
                }),
            });
        }
    }
    there_and_back(&told(RouterAdvertisement::default()));
}

#[test]
fn a_search_that_asks_everybody_goes_to_those_who_may_answer() {
    let frame = solicit(MAC, ip("fd00::9"), ip("fd00::12:3456"));
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    let packet = Packet::parse(&frame[14..], false).unwrap();
    assert_eq!(packet.dst, ip("ff02::1:ff12:3456"));
    let frame = probe(MAC, ip("fd00::9"));
    let packet = Packet::parse(&frame[14..], false).unwrap();
    assert_eq!(packet.src, Ipv6Addr::UNSPECIFIED);
}

/// Changes a packet and has its checksum right again.
fn changed(packet: &Packet, change: impl Fn(&mut Vec<u8>)) -> Option<Packet> {
    let mut frame = packet.emit(MAC, MacAddr([2; 6]));
    frame.drain(..14);
    change(&mut frame);
    let len = u16::try_from(frame.len() - 40).unwrap();
    frame[4..6].copy_from_slice(&len.to_be_bytes());
    frame[42..44].fill(0);
    let read = Ipv6::parse(&frame).unwrap();
    let sum = ipv6::pseudo_header(read.src, read.dst, 58, len)
        .over(read.payload)
        .finish();
    frame[42..44].copy_from_slice(&sum.to_be_bytes());
    Packet::parse(&frame, false)
}

#[test]
fn what_receivers_must_refuse_is_refused() {
    let solicitation = Packet {
        src: ip("fe80::9"),
        dst: ip("ff02::1:ff00:7"),
        message: Message::Solicitation {
            target: ip("fd00::7"),
            mac: Some(MAC),
        },
    };
    assert!(changed(&solicitation, |_| {}).is_some());
    let refused = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        assert_eq!(changed(&solicitation, change), None, "{what}");
    };
    refused("a hop limit of a router's", &|packet| packet[7] = 254);
    refused("a code", &|packet| packet[41] = 1);
    refused("a group as target", &|packet| packet[48] = 0xff);
    refused("a group as sender", &|packet| packet[8] = 0xff);
    refused("an option without length", &|packet| packet[65] = 0);
    refused("an option that is not all there", &|packet| packet[65] = 2);
    refused("half an option", &|packet| packet.push(1));
    refused("a probe with an address", &|packet| packet[8..24].fill(0));
    refused("too short", &|packet| packet.truncate(63));
    refused("an unknown type", &|packet| packet[40] = 137);
    let probe = Packet {
        src: Ipv6Addr::UNSPECIFIED,
        dst: ip("ff02::1:ff00:7"),
        message: Message::Solicitation {
            target: ip("fd00::7"),
            mac: None,
        },
    };
    assert!(changed(&probe, |_| {}).is_some());
    assert_eq!(changed(&probe, |packet| packet[39] = 8), None);
    let answer = Packet::parse(&unsolicited(MAC, ip("fd00::9"), true)[14..], false).unwrap();
    assert_eq!(
        changed(&answer, |packet| packet[44] |= SOLICITED),
        None,
        "nobody solicits for a group"
    );
    let routed = told(advertisement());
    assert_eq!(
        changed(&routed, |packet| packet[8] = 0x20),
        None,
        "routers speak from link-local addresses"
    );
    let mut frame = probe_frame();
    frame[14 + 42] ^= 1;
    assert_eq!(Packet::parse(&frame[14..], false), None, "checksum");
    assert!(Packet::parse(&frame[14..], true).is_some());
}

fn probe_frame() -> Vec<u8> {
    probe(MAC, ip("fd00::9"))
}

#[test]
fn hardware_addresses_that_are_no_stations_are_not_believed() {
    let solicitation = Packet {
        src: ip("fe80::9"),
        dst: ip("fd00::7"),
        message: Message::Solicitation {
            target: ip("fd00::7"),
            mac: Some(MacAddr::BROADCAST),
        },
    };
    let frame = solicitation.emit(MAC, MAC);
    let read = Packet::parse(&frame[14..], false).unwrap();
    assert_eq!(
        read.message,
        Message::Solicitation {
            target: ip("fd00::7"),
            mac: None
        }
    );
}

#[test]
fn of_what_is_too_much_as_much_as_fits_is_read_and_written() {
    let mut much = advertisement();
    much.prefixes = vec![much.prefixes[0]; 100];
    much.dns = Some((1, vec![ip("fd00::2"); 100]));
    much.search = Some((1, vec!["x".repeat(60); 100]));
    let frame = told(much).emit(MAC, MAC);
    assert!(frame.len() <= 14 + 1500, "{}", frame.len());
    let Message::RouterAdvertisement(read) = Packet::parse(&frame[14..], false).unwrap().message
    else {
        panic!("it is a router advertisement")
    };
    let counts = (
        read.prefixes.len(),
        read.dns.unwrap().1.len(),
        read.search.unwrap().1.len(),
    );
    assert_eq!(counts, (16, 16, 8));
}

proptest! {
    #[test]
    fn any_message_is_read_or_refused(
        kind in 130u8..140, bytes in proptest::collection::vec(any::<u8>(), 0..200), linklocal: bool
    ) {
        let message = [&[kind, 0, 0, 0][..], &bytes].concat();
        let src = if linklocal { ip("fe80::1") } else { ip("fd00::1") };
        let packet = icmp6::emit(src, ip("fd00::2"), 255, message).unwrap();
        if let Some(read) = Packet::parse(&packet, false) {
            let again = read.emit(MAC, MAC);
            prop_assert!(Packet::parse(&again[14..], false).is_some());
        }
    }

    #[test]
    fn any_bytes_are_a_packet_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200), partial: bool) {
        let _ = Packet::parse(&bytes, partial);
    }

    #[test]
    fn any_packet_claims_something_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
        let _ = Claim::parse(&bytes);
    }
}
