//! What RFC 4787, RFC 5382, RFC 5508 and RFC 7857 ask of a translator, one behaviour each.

use std::time::Duration;

use super::lab::*;
use crate::net::drops::DropReason;
use crate::net::napt::{Side, Verdict};
use crate::net::nat::{Filtering, Limits, Originator, Outside, Protocol};
use crate::wire::ethernet::MacAddr;
use crate::wire::virtio_net::VirtioNetHeader;

const SERVER: &str = "198.51.100.7:53000";
const OTHER: &str = "198.51.100.8:53000";

#[test]
fn a_packet_leaves_with_the_address_outside_and_its_answer_comes_back() {
    let mut lab = Lab::new();
    let seen = lab.out(A, &udp("10.0.0.10:5000", SERVER));
    assert_eq!(lab.verdict, Verdict::Forward);
    assert_eq!((seen.side, seen.to), (Side::Outside, ROUTER));
    assert_eq!((seen.src, seen.dst), (at("203.0.113.5:5000"), at(SERVER)));
    assert_eq!((seen.ttl, &seen.payload[..]), (63, &b"payload"[..]));

    let seen = lab.back(&udp(SERVER, "203.0.113.5:5000"));
    assert_eq!((seen.side, seen.to), (Side::Inside, A));
    assert_eq!((seen.src, seen.dst), (at(SERVER), at("10.0.0.10:5000")));

    let seen = lab.out(A, &udp("[fd00::10]:5000", "[2001:db8:9::7]:53"));
    assert_eq!(seen.src, at("[2001:db8:1::5]:5000"));
    let seen = lab.back(&udp("[2001:db8:9::7]:53", "[2001:db8:1::5]:5000"));
    assert_eq!((seen.to, seen.dst), (A, at("[fd00::10]:5000")));
    assert_eq!(lab.flows(), 2);
}

#[test]
fn the_same_port_of_a_guest_is_the_same_port_outside_whomever_it_talks_with() {
    let mut lab = Lab::new();
    lab.out(B, &udp("10.0.0.11:5000", SERVER));
    let first = lab.out(A, &udp("10.0.0.10:5000", SERVER)).src;
    assert_ne!(first.port(), 5000, "a port stands for one guest only");
    assert_eq!(first.port() % 2, 0, "the parity is kept");
    let second = lab.out(A, &udp("10.0.0.10:5000", OTHER)).src;
    assert_eq!(first, second);
    assert_eq!(lab.back(&udp(OTHER, &first.to_string())).to, A);
}

#[test]
fn strangers_are_let_in_as_the_filter_says() {
    let cases = [
        (Filtering::AddressAndPort, false, false),
        (Filtering::Address, true, false),
        (Filtering::EndpointIndependent, true, true),
    ];
    for (filtering, same_address, stranger) in cases {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let mut spec = spec();
            spec.filtering = filtering;
            let mut lab = Lab::with(&spec);
            let packet = |src: &str, dst: &str| match protocol {
                Protocol::Tcp => tcp(src, dst, SYN),
                Protocol::Udp | Protocol::Icmp => udp(src, dst),
            };
            lab.out(A, &packet("10.0.0.10:5000", SERVER));
            for (from, passes) in [("198.51.100.7:1", same_address), (OTHER, stranger)] {
                let knock = packet(from, "203.0.113.5:5000");
                if passes {
                    assert_eq!(lab.back(&knock).dst, at("10.0.0.10:5000"), "{filtering:?}");
                } else {
                    assert_eq!(lab.blocked(&knock), FILTERED, "{filtering:?}");
                }
            }
        }
    }
}

#[test]
fn a_stranger_alone_does_not_keep_a_mapping_alive_and_the_guest_does() {
    let mut spec = spec();
    spec.filtering = Filtering::EndpointIndependent;
    let mut lab = Lab::with(&spec);
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    for _ in 0..3 {
        lab.seconds(101);
        lab.back(&udp(OTHER, "203.0.113.5:5000"));
    }
    assert_eq!(lab.flows(), 1, "the guest's own flow is over");
    lab.seconds(200);
    assert_eq!(lab.flows(), 0);

    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    for _ in 0..4 {
        lab.seconds(250);
        lab.back(&udp(SERVER, "203.0.113.5:5000"));
        lab.seconds(250);
        lab.out(A, &udp("10.0.0.10:5000", SERVER));
    }
}

#[test]
fn idle_flows_end_with_their_timeout_and_not_before() {
    let mut lab = Lab::new();
    let cases = [
        (udp("10.0.0.10:5000", SERVER), 300),
        (udp("10.0.0.10:5001", "198.51.100.7:53"), 30),
        (ping("10.0.0.10", "198.51.100.7", 7), 60),
        (tcp("10.0.0.10:5002", SERVER, SYN), 240),
    ];
    for (packet, timeout) in cases {
        lab.out(A, &packet);
        lab.advance(Duration::from_secs(timeout) - Duration::from_millis(1));
        assert_eq!(lab.flows(), 1, "{packet:?}");
        lab.advance(Duration::from_secs(2));
        assert_eq!(lab.flows(), 0, "{packet:?}");
        assert_eq!(
            lab.napt.v4.next_second(),
            None,
            "nothing is left to be done"
        );
    }
    lab.connect(A, "10.0.0.10:5003", SERVER);
    lab.seconds(7439);
    assert_eq!(lab.flows(), 1);
    lab.seconds(3);
    assert_eq!(lab.flows(), 0);
}

#[test]
fn a_mapping_ends_with_its_last_flow_and_its_port_is_free_again() {
    let mut lab = Lab::new();
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    lab.out(A, &udp("10.0.0.10:5000", "198.51.100.7:53"));
    lab.seconds(40);
    assert_eq!(lab.flows(), 1);
    assert_ne!(lab.out(B, &udp("10.0.0.11:5000", SERVER)).src.port(), 5000);
    lab.seconds(302);
    assert_eq!(lab.flows(), 0);
    assert_eq!(lab.out(B, &udp("10.0.0.11:5000", SERVER)).src.port(), 5000);
}

#[test]
fn a_connection_that_is_closed_or_reset_is_kept_for_the_short_time() {
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    lab.out(A, &tcp("10.0.0.10:5000", SERVER, FIN | ACK));
    lab.seconds(1000);
    assert_eq!(lab.flows(), 1, "one half is open");
    lab.back(&tcp(SERVER, "203.0.113.5:5000", FIN | ACK));
    lab.seconds(239);
    assert_eq!(lab.flows(), 1);
    lab.seconds(3);
    assert_eq!(lab.flows(), 0);

    lab.connect(A, "10.0.0.10:5000", SERVER);
    lab.back(&tcp(SERVER, "203.0.113.5:5000", RST));
    lab.seconds(239);
    assert_eq!(lab.napt.flows(lab.now.instant)[0].state, "closing");
    lab.out(A, &tcp("10.0.0.10:5000", SERVER, ACK));
    lab.seconds(1000);
    assert_eq!(lab.flows(), 1, "it went on");
    lab.back(&tcp(SERVER, "203.0.113.5:5000", RST));
    lab.seconds(242);
    assert_eq!(lab.flows(), 0);
}

#[test]
fn an_unsolicited_syn_is_dropped_in_silence_and_a_simultaneous_open_works() {
    let mut lab = Lab::new();
    let syn = tcp(SERVER, "203.0.113.5:5000", SYN);
    assert_eq!(lab.blocked(&syn), FILTERED);
    lab.out(A, &tcp("10.0.0.10:5000", SERVER, SYN));
    assert_eq!(lab.back(&syn).to, A);
    lab.out(A, &tcp("10.0.0.10:5000", SERVER, SYN | ACK));
    lab.back(&tcp(SERVER, "203.0.113.5:5000", SYN | ACK));
    lab.out(A, &tcp("10.0.0.10:5000", SERVER, ACK));
    assert_eq!(lab.napt.flows(lab.now.instant)[0].state, "established");
}

#[test]
fn segments_that_open_nothing_make_no_flow() {
    let mut lab = Lab::new();
    for flags in [RST, RST | ACK, SYN | ACK] {
        assert_eq!(
            lab.stays(A, &tcp("10.0.0.10:5000", SERVER, flags)),
            FILTERED
        );
    }
    for flags in [ACK, RST, SYN | ACK, FIN | ACK] {
        assert_eq!(
            lab.blocked(&tcp(SERVER, "203.0.113.5:5000", flags)),
            FILTERED
        );
    }
    assert_eq!(lab.blocked(&pong("198.51.100.7", EXT, 7)), FILTERED);
    assert_eq!(
        lab.stays(A, &pong("10.0.0.10", "198.51.100.7", 7)),
        FILTERED
    );
    assert_eq!(lab.flows(), 0);
    lab.out(A, &tcp("10.0.0.10:5000", SERVER, ACK));
    assert_eq!(lab.flows(), 1, "a connection that was there before goes on");
}

#[test]
fn echoes_are_told_apart_by_their_identifier() {
    let mut lab = Lab::new();
    let first = lab.out(A, &ping("10.0.0.10", "198.51.100.7", 7)).src.port();
    let second = lab.out(B, &ping("10.0.0.11", "198.51.100.7", 7)).src.port();
    assert_eq!(first, 7);
    assert_ne!(second, 7);
    let seen = lab.back(&pong("198.51.100.7", EXT, second));
    assert_eq!((seen.to, seen.dst), (B, at("10.0.0.11:7")));
    assert_eq!(lab.back(&pong("198.51.100.7", EXT, 7)).to, A);
    let seen = lab.out(A, &ping("fd00::10", "2001:db8:9::7", 0));
    assert_eq!(seen.src, at("[2001:db8:1::5]:0"), "0 is an identifier too");
    assert_eq!(lab.back(&pong("2001:db8:9::7", EXT6, 0)).to, A);
}

#[test]
fn the_translator_answers_echoes_for_its_own_address() {
    let mut lab = Lab::new();
    let seen = lab.back(&ping("198.51.100.7", EXT, 7));
    assert_eq!(
        (seen.side, seen.to, seen.dst),
        (Side::Outside, ROUTER, at("198.51.100.7:7"))
    );
    let seen = lab.out(A, &ping("10.0.0.10", EXT, 7));
    assert_eq!((seen.side, seen.to), (Side::Inside, A));
    assert_eq!(seen.src.ip(), ip(EXT));
    assert_eq!(
        lab.back(&ping("2001:db8:9::1", EXT6, 1)).dst,
        at("[2001:db8:9::1]:1")
    );
    assert_eq!(lab.flows(), 0);
}

#[test]
fn guests_reach_each_other_by_their_ports_outside() {
    for tcp_too in [false, true] {
        let mut lab = Lab::new();
        let packet = |src: &str, dst: &str| {
            if tcp_too {
                tcp(src, dst, SYN)
            } else {
                udp(src, dst)
            }
        };
        lab.out(A, &packet("10.0.0.10:5000", SERVER));
        lab.out(B, &packet("10.0.0.11:6000", SERVER));
        // Each filter lets the other in only when its own guest has sent.
        assert_eq!(
            lab.stays(A, &packet("10.0.0.10:5000", "203.0.113.5:6000")),
            FILTERED
        );
        let seen = lab.out(B, &packet("10.0.0.11:6000", "203.0.113.5:5000"));
        assert_eq!(lab.verdict, Verdict::Back);
        assert_eq!((seen.side, seen.to, seen.ttl), (Side::Inside, A, 63));
        assert_eq!(
            seen.src,
            at("203.0.113.5:6000"),
            "the address outside, as to others"
        );
        assert_eq!(seen.dst, at("10.0.0.10:5000"));
        let seen = lab.out(A, &packet("10.0.0.10:5000", "203.0.113.5:6000"));
        assert_eq!((seen.to, seen.src), (B, at("203.0.113.5:5000")));
    }
}

#[test]
fn a_guest_does_not_open_anything_towards_ports_outside_that_nobody_has() {
    let mut lab = Lab::new();
    assert_eq!(
        lab.stays(A, &udp("10.0.0.10:5000", "203.0.113.5:6000")),
        FILTERED
    );
    assert_eq!(lab.flows(), 0);
}

#[test]
fn a_port_forward_leads_to_its_guest_with_the_clients_address() {
    let mut lab = Lab::new();
    let listen = lab.forward(Protocol::Tcp, 8080, "10.0.0.10:80");
    assert_eq!(listen, at("0.0.0.0:8080"));
    let seen = lab.back(&tcp(SERVER, "203.0.113.5:8080", SYN));
    assert_eq!(
        (seen.to, seen.src, seen.dst),
        (A, at(SERVER), at("10.0.0.10:80"))
    );
    let seen = lab.out(A, &tcp("10.0.0.10:80", SERVER, SYN | ACK));
    assert_eq!(seen.src, at("203.0.113.5:8080"));
    lab.back(&tcp(SERVER, "203.0.113.5:8080", ACK));
    let view = lab.napt.view(&lab.inside);
    assert_eq!(view.forwards[0].targets[0].connections, 1);
    let row = &lab.napt.flows(lab.now.instant)[0];
    assert_eq!(
        (row.originator, row.state),
        (Originator::Forward, "established")
    );
    assert_eq!(row.outside, Some(at("203.0.113.5:8080")));

    assert!(lab.napt.remove_forward(Protocol::Tcp, listen));
    lab.back(&tcp(SERVER, "203.0.113.5:8080", ACK));
    assert_eq!(lab.blocked(&tcp(OTHER, "203.0.113.5:8080", SYN)), FILTERED);
    assert!(!lab.napt.remove_forward(Protocol::Tcp, listen));
}

#[test]
fn what_servers_of_dhcp_send_to_the_translators_address_is_seen_whole() {
    let mut lab = Lab::new();
    for (server, own) in [
        ("203.0.113.1:67", "203.0.113.5:68"),
        ("[2001:db8:1::1]:547", "[2001:db8:1::5]:546"),
    ] {
        let sent = udp(server, own);
        lab.raw(Side::Outside, &sent.frame(ROUTER), sent.header());
        assert_eq!(lab.verdict, Verdict::Whole);
    }
}

#[test]
fn the_answer_of_a_forwarded_port_finds_its_way_at_once() {
    let mut lab = Lab::new();
    lab.forward(Protocol::Udp, 8080, "10.0.0.10:80");
    lab.back(&udp(OTHER, "203.0.113.5:8080"));
    // No time has passed.
    let answer = lab.out(A, &udp("10.0.0.10:80", OTHER));
    assert_eq!((answer.to, answer.src), (ROUTER, at("203.0.113.5:8080")));
}

#[test]
fn a_forward_is_reached_from_inside_too() {
    let mut lab = Lab::new();
    lab.forward(Protocol::Tcp, 8080, "10.0.0.10:80");
    let seen = lab.out(B, &tcp("10.0.0.11:6000", "203.0.113.5:8080", SYN));
    assert_eq!((seen.to, seen.src), (A, at("203.0.113.5:6000")));
    let seen = lab.out(A, &tcp("10.0.0.10:80", "203.0.113.5:6000", SYN | ACK));
    assert_eq!((seen.to, seen.src), (B, at("203.0.113.5:8080")));
    assert_eq!(seen.dst, at("10.0.0.11:6000"));
    lab.out(B, &tcp("10.0.0.11:6000", "203.0.113.5:8080", ACK));
    let states: Vec<_> = lab.napt.flows(lab.now.instant);
    assert_eq!(
        states.iter().map(|row| row.state).collect::<Vec<_>>(),
        ["established"; 2]
    );
    // And by the guest itself.
    let seen = lab.out(A, &tcp("10.0.0.10:6001", "203.0.113.5:8080", SYN));
    assert_eq!((seen.to, seen.src), (A, at("203.0.113.5:6001")));
}

#[test]
fn a_port_is_picked_for_a_forward_and_not_mapped_to_while_it_lasts() {
    let mut lab = Lab::new();
    let listen = lab.forward(Protocol::Udp, 0, "[fd00::10]:80");
    assert!(listen.port() >= 1024);
    let knock = udp(
        "[2001:db8:9::1]:9",
        &format!("[2001:db8:1::5]:{}", listen.port()),
    );
    assert_eq!(lab.back(&knock).dst, at("[fd00::10]:80"));
    let own = format!("[fd00::11]:{}", listen.port());
    let seen = lab.out(B, &udp(&own, "[2001:db8:9::1]:9"));
    assert_ne!(seen.src.port(), listen.port());
    let taken = forward(Protocol::Udp, listen.port(), "[fd00::10]:1");
    assert!(lab.napt.add_forward(taken, &lab.inside).is_err());
    let own = forward(Protocol::Udp, 68, "10.0.0.10:1");
    assert!(lab.napt.add_forward(own, &lab.inside).is_err());
}

#[test]
fn a_guest_whose_hardware_address_is_not_known_is_asked_for() {
    let mut lab = Lab::new();
    lab.forward(Protocol::Tcp, 8080, "10.0.0.99:80");
    lab.forward(Protocol::Tcp, 8080, "[fd00::99]:80");
    for (knock, ethertype) in [
        (tcp(SERVER, "203.0.113.5:8080", SYN), [8, 6]),
        (
            tcp("[2001:db8:9::1]:9", "[2001:db8:1::5]:8080", SYN),
            [0x86, 0xdd],
        ),
    ] {
        let frames = lab.raw(Side::Outside, &knock.frame(ROUTER), knock.header());
        assert_eq!(frames.len(), 1);
        assert_eq!(
            (frames[0].0, &frames[0].1[12..14]),
            (Side::Inside, &ethertype[..])
        );
    }
    assert_eq!(lab.flows(), 0);
    lab.inside.note_seen(ip("10.0.0.99"), B, lab.now.instant);
    assert_eq!(lab.back(&tcp(SERVER, "203.0.113.5:8080", SYN)).to, B);
}

#[test]
fn limits_refuse_what_is_new_and_each_guest_has_its_own() {
    let mut spec = spec();
    spec.limits = Limits {
        flows: 5,
        flows_per_guest: 3,
    };
    let mut lab = Lab::with(&spec);
    let packet = |guest: u8, port: u16| udp(&format!("10.0.0.{guest}:{port}"), SERVER);
    for port in 1..=3 {
        lab.out(A, &packet(10, port));
    }
    assert_eq!(lab.stays(A, &packet(10, 4)), LIMIT);
    lab.out(A, &packet(10, 3));
    lab.out(B, &packet(11, 1));
    lab.out(B, &packet(11, 2));
    assert_eq!(lab.stays(B, &packet(11, 3)), LIMIT, "the whole network's");
    assert_eq!(lab.napt.view(&lab.inside).refused, 2);
    assert_eq!(lab.napt.advisories(lab.now.instant).len(), 2);
    lab.seconds(302);
    lab.out(A, &packet(10, 4));
}

#[test]
fn without_a_free_port_a_flow_is_refused() {
    let mut spec = spec();
    let Outside::Network(outside) = &mut spec.outside else {
        panic!("it leads to a network");
    };
    outside.ports = 2000..=2001;
    let mut lab = Lab::with(&spec);
    for port in [1, 2000, 2001] {
        lab.out(A, &udp(&format!("10.0.0.10:{port}"), SERVER));
    }
    assert_eq!(lab.stays(B, &udp("10.0.0.11:1", SERVER)), LIMIT);
    assert_eq!(lab.out(B, &udp("10.0.0.11:2", SERVER)).src.port(), 2);
    assert_eq!(lab.napt.advisories(lab.now.instant).len(), 1);
    assert_eq!(lab.napt.view(&lab.inside).refused, 1);
}

#[test]
fn what_is_not_to_be_reached_is_not_reached() {
    let mut lab = Lab::new();
    for dst in [
        "192.168.77.5:1",
        "10.0.0.11:1",
        "10.0.0.2:1",
        "127.0.0.1:1",
        "169.254.1.1:1",
        "0.0.0.0:1",
        "255.255.255.255:1",
        "224.0.0.1:1",
        "240.0.0.1:1",
    ] {
        assert_eq!(
            lab.stays(A, &udp("10.0.0.10:5000", dst)),
            UNREACHABLE,
            "{dst}"
        );
    }
    for dst in [
        "[fd00::11]:1",
        "[fe80::1]:1",
        "[::1]:1",
        "[ff02::1]:1",
        "[::ffff:198.51.100.1]:1",
    ] {
        assert_eq!(
            lab.stays(A, &udp("[fd00::10]:5000", dst)),
            UNREACHABLE,
            "{dst}"
        );
    }
    assert_eq!(lab.flows(), 0);
}

#[test]
fn forged_sources_are_dropped_on_both_sides() {
    let mut lab = Lab::new();
    let forged = Verdict::Drop(DropReason::ForgedSource);
    for src in [
        "198.51.100.1:1",
        "10.0.0.2:1",
        "10.0.0.255:1",
        "127.0.0.1:1",
    ] {
        assert_eq!(lab.stays(A, &udp(src, SERVER)), forged, "{src}");
    }
    assert_eq!(
        lab.stays(A, &udp("[fe80::10]:1", "[2001:db8:9::1]:1")),
        forged
    );
    lab.forward(Protocol::Udp, 8080, "10.0.0.10:80");
    for src in [
        "10.0.0.11:1",
        "203.0.113.5:1",
        "192.168.77.1:1",
        "224.0.0.1:1",
    ] {
        assert_eq!(
            lab.blocked(&udp(src, "203.0.113.5:8080")),
            UNREACHABLE,
            "{src}"
        );
    }
    // A guest does not take over another's flow, but a guest with another adapter keeps its own.
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    assert_eq!(lab.stays(B, &udp("10.0.0.10:5000", SERVER)), forged);
    lab.inside.note_seen(ip("10.0.0.10"), B, lab.now.instant);
    lab.out(B, &udp("10.0.0.10:5000", SERVER));
    assert_eq!(lab.back(&udp(SERVER, "203.0.113.5:5000")).to, B);
}

#[test]
fn what_is_not_for_the_translator_is_not_passed_on() {
    let mut lab = Lab::new();
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    lab.blocked(&udp(SERVER, "203.0.113.6:5000"));
    assert_eq!(
        lab.blocked(&udp(SERVER, "203.0.113.5:0")),
        Verdict::Drop(DropReason::BadPacket)
    );
    let mut stray = udp(SERVER, "203.0.113.5:5000").frame(ROUTER);
    stray[..6].copy_from_slice(&MacAddr([2, 9, 9, 9, 9, 9]).0);
    assert_eq!(
        lab.raw(Side::Outside, &stray, VirtioNetHeader::default()),
        []
    );
    assert_eq!(lab.verdict, UNREACHABLE);
}

#[test]
fn the_log_tells_when_a_flow_begins_and_ends() {
    let mut lab = Lab::new();
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    assert!(
        lab.napt.poll_timeout() <= Some(lab.now.instant),
        "events do not wait"
    );
    lab.seconds(1);
    lab.back(&udp(SERVER, "203.0.113.5:5000"));
    lab.seconds(302);
    let [begun, ended] = lab.events[..] else {
        panic!("{:?}", lab.events);
    };
    assert!(begun.created && !ended.created);
    assert_eq!((begun.mac, begun.inside), (Some(A), at("10.0.0.10:5000")));
    assert_eq!(begun.outside, Some(at("203.0.113.5:5000")));
    assert_eq!((ended.sent, ended.received), (7, 7));
    let view = lab.napt.view(&lab.inside);
    assert_eq!((view.sent, view.received), (7 + 14, 7));
}

#[test]
fn flows_are_shown_with_their_ends_and_times() {
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    lab.seconds(10);
    let rows = lab.napt.flows(lab.now.instant);
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.mac, row.state), (Some(A), "established"));
    assert_eq!(
        (row.inside, row.remote),
        (at("10.0.0.10:5000"), Some(at(SERVER)))
    );
    assert_eq!(row.age, row.idle);
    assert!((9..=11).contains(&row.age.as_secs()));
    assert!((7429..=7432).contains(&row.expires.as_secs()));
}

#[test]
fn with_another_address_outside_all_flows_of_the_family_are_over() {
    let mut lab = Lab::new();
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    lab.out(A, &udp("[fd00::10]:5000", "[2001:db8:9::7]:53"));
    let (napt, same) = (&mut lab.napt, [203, 0, 113, 5].into());
    napt.v4.set_own(Some(same), &mut napt.shared);
    assert_eq!(lab.flows(), 2);
    let napt = &mut lab.napt;
    napt.v4
        .set_own(Some([203, 0, 113, 6].into()), &mut napt.shared);
    assert_eq!(lab.flows(), 1);
    let seen = lab.out(B, &udp("10.0.0.11:5000", SERVER));
    assert_eq!(seen.src, at("203.0.113.6:5000"));
}

#[test]
fn nothing_is_left_when_the_translator_is_shut_down() {
    let mut lab = Lab::new();
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    lab.out(A, &udp("[fd00::10]:5000", "[2001:db8:9::7]:53"));
    let mut out = crate::net::napt::Routed::default();
    lab.napt.shutdown(lab.now, &mut out);
    assert_eq!(
        (
            lab.flows(),
            out.events.iter().filter(|event| !event.created).count()
        ),
        (0, 2)
    );
}
