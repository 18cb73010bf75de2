//! ICMP errors: those of others, with what they quote, and the translator's own (RFC 5508, RFC 1812, RFC 4443).

use std::net::IpAddr;
use std::time::Duration;

use super::lab::*;
use crate::net::drops::DropReason;
use crate::net::napt::{Routed, Side, Verdict};
use crate::wire::be16;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::MacAddr;
use crate::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM, VirtioNetHeader};

const SERVER: &str = "198.51.100.7:53000";
const SERVER6: &str = "[2001:db8:9::7]:53000";

/// An ICMP error as a test reads it: the sides of the error, and what it quotes.
#[derive(Debug, Eq, PartialEq)]
struct Error {
    side: Side,
    to: MacAddr,
    src: IpAddr,
    dst: IpAddr,
    kind: (u8, u8),
    rest: u32,
    quoted: Vec<u8>,
}

fn read((side, bytes, _): &(Side, Vec<u8>, VirtioNetHeader)) -> Error {
    let (src, dst, protocol, _, message) = ip_parts(&bytes[14..]);
    assert!(matches!(protocol, 1 | 58));
    let sum = if protocol == 58 {
        pseudo(src, dst, 58, message.len())
    } else {
        Sum::default()
    };
    assert_eq!(sum.over(message).finish(), 0, "the checksum");
    Error {
        side: *side,
        to: MacAddr::from_slice(bytes).unwrap(),
        src,
        dst,
        kind: (message[0], message[1]),
        rest: u32::from_be_bytes(message[4..8].try_into().unwrap()),
        quoted: message[8..].to_vec(),
    }
}

/// Writes an error of a router on the way, or of a guest.
fn error(src: &str, dst: &str, kind: u8, quoted: &[u8]) -> Vec<u8> {
    let (src, dst) = (ip(src), ip(dst));
    let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0xdc];
    message.extend(quoted);
    let (protocol, sum) = match src {
        IpAddr::V4(_) => (1, Sum::default()),
        IpAddr::V6(_) => (58, pseudo(src, dst, 58, message.len())),
    };
    let sum = sum.over(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(src, dst, protocol, 64, true, &message)
}

fn raw_out(lab: &mut Lab, sent: &Sent) -> Vec<u8> {
    let frames = lab.raw(Side::Inside, &sent.frame(A), sent.header());
    frames[0].1[14..].to_vec()
}

#[test]
fn an_error_from_outside_comes_to_the_guest_with_what_the_guest_had_sent() {
    for (sent, hop, own) in [
        (udp("10.0.0.10:5000", SERVER), "192.0.2.1", EXT),
        (tcp("10.0.0.10:5000", SERVER, SYN), "192.0.2.1", EXT),
        (ping("10.0.0.10", "198.51.100.7", 7), "192.0.2.1", EXT),
        (udp("[fd00::10]:5000", SERVER6), "2001:db8:5::1", EXT6),
        (ping("fd00::10", "2001:db8:9::7", 7), "2001:db8:5::1", EXT6),
    ] {
        let mut lab = Lab::new();
        // The port outside is another than the guest's.
        let mut other = sent.clone();
        other.src.set_ip(ip(if sent.src.is_ipv4() {
            "10.0.0.11"
        } else {
            "fd00::11"
        }));
        lab.out(B, &other);
        let left = raw_out(&mut lab, &sent);
        let kind = if sent.src.is_ipv4() { 3 } else { 1 };
        let answer = frame(ROUTER, OUTSIDE, &error(hop, own, kind, &left));
        let frames = lab.raw(Side::Outside, &answer, VirtioNetHeader::default());
        let seen = read(&frames[0]);
        assert_eq!((seen.side, seen.to), (Side::Inside, A));
        assert_eq!((seen.src, seen.dst), (ip(hop), sent.src.ip()));
        let mut original = sent.clone();
        original.ttl = 63;
        assert_eq!(
            seen.quoted[..original.packet().len()],
            original.packet(),
            "{sent:?}"
        );
        assert_eq!(lab.flows(), 2, "no error ends a flow");
    }
}

#[test]
fn a_quote_that_is_cut_off_is_translated_as_far_as_it_goes() {
    let mut lab = Lab::new();
    let sent = tcp("10.0.0.10:5000", SERVER, SYN);
    let left = raw_out(&mut lab, &sent);
    let answer = error("192.0.2.1", EXT, 11, &left[..28]);
    let answer = frame(ROUTER, OUTSIDE, &answer);
    let frames = lab.raw(Side::Outside, &answer, VirtioNetHeader::default());
    let seen = read(&frames[0]);
    assert_eq!(seen.kind, (11, 0));
    assert_eq!(seen.quoted[12..16], [10, 0, 0, 10]);
    assert_eq!(be16(&seen.quoted, 20), Some(5000));
    for len in 0..28 {
        let answer = frame(ROUTER, OUTSIDE, &error("192.0.2.1", EXT, 3, &left[..len]));
        let _ = lab.raw(Side::Outside, &answer, VirtioNetHeader::default());
    }
}

#[test]
fn an_error_of_a_guest_leaves_with_what_had_come_from_outside() {
    for (out, back, guest, server) in [
        (
            udp("10.0.0.10:5000", SERVER),
            udp(SERVER, "203.0.113.5:5000"),
            "10.0.0.10",
            "198.51.100.7",
        ),
        (
            udp("[fd00::10]:5000", SERVER6),
            udp(SERVER6, "[2001:db8:1::5]:5000"),
            "fd00::10",
            "2001:db8:9::7",
        ),
    ] {
        let mut lab = Lab::new();
        lab.out(A, &out);
        let frames = lab.raw(Side::Outside, &back.frame(ROUTER), back.header());
        let kind = if out.src.is_ipv4() { 3 } else { 1 };
        let refusal = error(guest, server, kind, &frames[0].1[14..]);
        let refusal = frame(A, INSIDE, &refusal);
        let frames = lab.raw(Side::Inside, &refusal, VirtioNetHeader::default());
        let seen = read(&frames[0]);
        assert_eq!((seen.side, seen.to), (Side::Outside, ROUTER));
        assert_eq!((seen.src, seen.dst), (back.dst.ip(), back.src.ip()));
        let mut original = back.clone();
        original.ttl = 63;
        assert_eq!(seen.quoted[..original.packet().len()], original.packet());
    }
}

#[test]
fn an_error_between_guests_turns_back_as_well() {
    let mut lab = Lab::new();
    lab.forward(crate::net::nat::Protocol::Udp, 8080, "10.0.0.11:80");
    let sent = udp("10.0.0.10:5000", "203.0.113.5:8080");
    let frames = lab.raw(Side::Inside, &sent.frame(A), sent.header());
    assert_eq!(lab.verdict, Verdict::Back);
    let refusal = error("10.0.0.11", EXT, 3, &frames[0].1[14..]);
    let frames = lab.raw(
        Side::Inside,
        &frame(B, INSIDE, &refusal),
        VirtioNetHeader::default(),
    );
    let seen = read(&frames[0]);
    assert_eq!(
        (seen.side, seen.to, seen.dst),
        (Side::Inside, A, ip("10.0.0.10"))
    );
    assert_eq!(seen.src, ip(EXT));
    let mut original = sent.clone();
    original.ttl = 63;
    assert_eq!(seen.quoted[..original.packet().len()], original.packet());
}

#[test]
fn errors_about_nothing_are_dropped_and_so_are_redirects_and_damaged_ones() {
    let mut lab = Lab::new();
    let left = raw_out(&mut lab, &udp("10.0.0.10:5000", SERVER));
    let other = raw_out(&mut Lab::new(), &udp("10.0.0.10:5001", SERVER));
    let mut damaged = error("192.0.2.1", EXT, 3, &left);
    damaged[40] ^= 1;
    for packet in [
        error("192.0.2.1", EXT, 3, &other),
        error("192.0.2.1", EXT, 5, &left),
        error("192.0.2.1", EXT, 4, &left),
        error("192.0.2.1", EXT, 3, &error("1.1.1.1", EXT, 3, &left)),
        error("127.0.0.1", EXT, 3, &left),
        damaged,
    ] {
        let bytes = frame(ROUTER, OUTSIDE, &packet);
        let frames = lab.raw(Side::Outside, &bytes, VirtioNetHeader::default());
        assert_eq!(frames, []);
    }
    // A guest cannot complain of what another guest, or nobody, has received.
    let quoted = udp(SERVER, "10.0.0.11:5000").packet();
    let bytes = frame(B, INSIDE, &error("10.0.0.11", "198.51.100.7", 3, &quoted));
    assert_eq!(
        lab.raw(Side::Inside, &bytes, VirtioNetHeader::default()),
        []
    );
    assert!(
        lab.napt
            .drops()
            .iter()
            .any(|(reason, _)| reason == DropReason::NatFiltered)
    );
}

#[test]
fn a_packet_that_has_passed_too_many_routers_is_complained_of() {
    let mut lab = Lab::new();
    let cases = [
        (udp("10.0.0.10:5000", SERVER), "10.0.0.2", (11, 0)),
        (udp("[fd00::10]:5000", SERVER6), "fd00::2", (3, 0)),
    ];
    for (mut sent, gateway, kind) in cases {
        sent.ttl = 1;
        for known in [false, true] {
            let frames = lab.raw(Side::Inside, &sent.frame(A), sent.header());
            let seen = read(&frames[0]);
            assert_eq!((seen.side, seen.to, seen.kind), (Side::Inside, A, kind));
            assert_eq!((seen.src, seen.dst), (ip(gateway), sent.src.ip()));
            assert_eq!(seen.quoted[..sent.packet().len()], sent.packet());
            assert_eq!(lab.flows() > 0, known, "it opens nothing");
            lab.out(
                A,
                &Sent {
                    ttl: 2,
                    ..sent.clone()
                },
            );
        }
        lab.seconds(302);
    }
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    let back = Sent {
        ttl: 1,
        ..udp(SERVER, "203.0.113.5:5000")
    };
    let frames = lab.raw(Side::Outside, &back.frame(ROUTER), back.header());
    let seen = read(&frames[0]);
    assert_eq!((seen.side, seen.src), (Side::Outside, ip(EXT)));
}

#[test]
fn nobody_complains_of_an_error_and_not_more_often_than_it_is_worth() {
    let mut lab = Lab::new();
    let left = raw_out(&mut lab, &udp("10.0.0.10:5000", SERVER));
    let mut bytes = frame(ROUTER, OUTSIDE, &error("192.0.2.1", EXT, 3, &left));
    bytes[14 + 8] = 1;
    bytes[14 + 10..14 + 12].fill(0);
    let sum = Sum::default().over(&bytes[14..34]).finish();
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(
        lab.raw(Side::Outside, &bytes, VirtioNetHeader::default()),
        []
    );

    let sent = Sent {
        ttl: 1,
        ..udp("10.0.0.10:5000", SERVER)
    };
    let complaints = |lab: &mut Lab| -> usize {
        let frames = (0..500).map(|_| lab.raw(Side::Inside, &sent.frame(A), sent.header()).len());
        frames.sum()
    };
    assert_eq!(complaints(&mut lab), 100);
    lab.seconds(1);
    assert_eq!(complaints(&mut lab), 100);
}

#[test]
fn a_packet_that_is_too_large_for_the_other_side_is_complained_of_with_the_size_that_fits() {
    let mut lab = Lab::new();
    lab.napt.set_mtu(1500, 1400);
    for (src, dst, kind) in [
        ("10.0.0.10:5000", SERVER, (3, 4)),
        ("[fd00::10]:5000", SERVER6, (2, 0)),
    ] {
        let sent = Sent {
            payload: vec![7; 1400],
            ..udp(src, dst)
        };
        let frames = lab.raw(Side::Inside, &sent.frame(A), sent.header());
        let seen = read(&frames[0]);
        assert_eq!(
            (seen.side, seen.kind, seen.rest),
            (Side::Inside, kind, 1400)
        );
        lab.out(
            A,
            &Sent {
                payload: vec![7; 1300],
                ..udp(src, dst)
            },
        );
    }
    lab.napt.set_mtu(1300, 1500);
    let back = Sent {
        payload: vec![7; 1300],
        ..udp(SERVER, "203.0.113.5:5000")
    };
    let frames = lab.raw(Side::Outside, &back.frame(ROUTER), back.header());
    let seen = read(&frames[0]);
    assert_eq!(
        (seen.side, seen.rest, seen.src),
        (Side::Outside, 1300, ip(EXT))
    );
}

#[test]
fn what_counts_of_a_super_frame_is_what_it_will_be_cut_into() {
    let mut lab = Lab::new();
    let sent = Sent {
        payload: vec![7; 20_000],
        partial: true,
        ..tcp("10.0.0.10:5000", SERVER, ACK)
    };
    let header = |size| VirtioNetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: size,
        ..sent.header()
    };
    let frames = lab.raw(Side::Inside, &sent.frame(A), header(1460));
    assert_eq!(lab.verdict, Verdict::Forward);
    assert_eq!(
        Seen::read(Side::Outside, &frames[0].1, frames[0].2)
            .payload
            .len(),
        20_000
    );
    lab.napt.set_mtu(1500, 1400);
    let frames = lab.raw(Side::Inside, &sent.frame(A), header(1460));
    let seen = read(&frames[0]);
    assert_eq!((seen.kind, seen.rest), ((3, 4), 1400));
    let sent = Sent {
        dont_fragment: false,
        ..sent.clone()
    };
    let frames = lab.raw(Side::Inside, &sent.frame(A), header(1460));
    assert_eq!(
        frames[0].2.gso_size, 1360,
        "without the wish not to be cut it is cut smaller"
    );
}

#[test]
fn a_guest_is_told_that_nothing_leads_outside() {
    let mut lab = Lab::new();
    let mut out = Routed::default();
    lab.napt.shutdown(lab.now, &mut out);
    for (src, dst, kind) in [
        ("10.0.0.10:5000", SERVER, (3, 0)),
        ("[fd00::10]:5000", SERVER6, (1, 0)),
    ] {
        let sent = tcp(src, dst, SYN);
        let frames = lab.raw(Side::Inside, &sent.frame(A), sent.header());
        let seen = read(&frames[0]);
        assert_eq!((seen.to, seen.kind), (A, kind));
        assert_eq!(seen.quoted, sent.packet());
    }
}

#[test]
fn a_guest_is_told_that_a_station_outside_does_not_answer() {
    let mut lab = Lab::new();
    for (src, dst, own, kind) in [
        ("10.0.0.10:5000", "203.0.113.99:7", "10.0.0.2", (3, 1)),
        ("[fd00::10]:5000", "[2001:db8:1::99]:7", "fd00::2", (1, 3)),
    ] {
        let sent = tcp(src, dst, SYN);
        let asks = lab.raw(Side::Inside, &sent.frame(A), sent.header());
        assert_eq!(asks, [], "it is asked for, and nothing is said yet");
        let told = lab.advance(Duration::from_secs(4));
        let seen = read(&told[0]);
        assert_eq!((seen.to, seen.dst, seen.kind), (A, sent.src.ip(), kind));
        assert_eq!((seen.src, told.len()), (ip(own), 1));
        assert_eq!(seen.quoted, sent.packet());
        // Who does not answer is not asked for again at once.
        let sent = tcp(src, dst, SYN);
        let told = lab.raw(Side::Inside, &sent.frame(A), sent.header());
        assert_eq!(read(&told[0]).kind, kind);
        assert_eq!(lab.flows(), 0);
    }
}
