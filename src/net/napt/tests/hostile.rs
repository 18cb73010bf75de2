//! Bytes that nobody should send: nothing panics, and what lies is not passed on.

use proptest::prelude::*;

use super::lab::*;
use crate::net::drops::DropReason;
use crate::net::napt::Side;
use crate::net::nat::Protocol;
use crate::wire::checksum::checksum;
use crate::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM, VirtioNetHeader};

const SERVER: &str = "198.51.100.7:53000";

fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.out(A, &udp("10.0.0.10:5000", SERVER));
    lab.connect(A, "10.0.0.10:5000", "198.51.100.7:21");
    lab.forward(Protocol::Tcp, 8080, "10.0.0.11:80");
    lab
}

/// Makes the checksum of an IPv4 header right again.
fn seal(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    if end <= frame.len() && end >= 34 {
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn headers_that_lie_are_not_passed_on() {
    let mut lab = lab();
    let good = udp("10.0.0.10:5000", SERVER).frame(A);
    let changes: [(usize, u8); 8] = [
        (14, 0x44),
        (14, 0x55),
        (14, 0x4f),
        (16, 0xff),
        (17, 19),
        (17, 27),
        (38, 0xff),
        (39, 7),
    ];
    for (at, value) in changes {
        let mut bytes = good.clone();
        bytes[at] = value;
        seal(&mut bytes);
        assert_eq!(
            lab.raw(Side::Inside, &bytes, VirtioNetHeader::default()),
            [],
            "{at}"
        );
    }
    let segment = tcp("10.0.0.10:6000", SERVER, SYN).frame(A);
    for offset in [0x00, 0x40, 0xf0] {
        let mut bytes = segment.clone();
        bytes[46] = offset;
        assert_eq!(
            lab.raw(Side::Inside, &bytes, VirtioNetHeader::default()),
            []
        );
    }
    for len in 14..54 {
        let _ = lab.raw(Side::Inside, &segment[..len], VirtioNetHeader::default());
    }
    assert_eq!(lab.flows(), 2);
}

#[test]
fn a_broken_header_checksum_stays_broken_and_goes_nowhere() {
    let mut lab = lab();
    let back = lab.out(A, &udp("10.0.0.10:5000", SERVER)).src.to_string();
    let drops = |lab: &Lab| lab.napt.drops().iter().map(|(_, count)| count).sum::<u64>();
    let refused = |lab: &mut Lab, side, bytes: &[u8], header| {
        let before = drops(lab);
        assert_eq!(lab.raw(side, bytes, header), []);
        let told = lab.napt.drops().iter();
        let bad = told.filter(|(reason, _)| *reason == DropReason::BadPacket);
        assert_eq!(bad.map(|(_, count)| count).sum::<u64>(), before + 1);
    };
    let none = VirtioNetHeader::default();
    let super_frame = VirtioNetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
    };
    lab.connect(A, "10.0.0.10:6000", SERVER);
    let segment = Sent {
        payload: vec![1; 3000],
        partial: true,
        ..tcp("10.0.0.10:6000", SERVER, ACK)
    };
    let mut fragment = udp("10.0.0.10:5000", SERVER).frame(A);
    fragment[20] = 0x20;
    seal(&mut fragment);
    let frames = [
        (Side::Inside, udp("10.0.0.10:5000", SERVER).frame(A), none),
        (Side::Outside, udp(SERVER, &back).frame(ROUTER), none),
        (Side::Inside, segment.frame(A), super_frame),
        (Side::Inside, fragment, none),
    ];
    for (side, good, header) in frames {
        for at in 15..34 {
            let mut bytes = good.clone();
            bytes[at] ^= 0x11;
            refused(&mut lab, side, &bytes, header);
        }
        for sum in [0, 0xffff] {
            let mut bytes = good.clone();
            bytes[24..26].copy_from_slice(&u16::to_be_bytes(sum));
            refused(&mut lab, side, &bytes, header);
        }
        assert_eq!(lab.raw(side, &good, header).len(), 1);
    }
}

#[test]
fn who_is_said_to_have_sent_something_from_elsewhere_is_told_nothing() {
    let mut lab = lab();
    for (src, dst) in [
        ("100.64.0.10:5000", SERVER),
        ("[2001:db8:77::10]:5000", "[2001:db8:9::7]:53000"),
    ] {
        let sent = Sent {
            ttl: 1,
            ..udp(src, dst)
        };
        assert_eq!(lab.raw(Side::Inside, &sent.frame(A), sent.header()), []);
    }
    let sent = Sent {
        ttl: 1,
        ..udp("10.0.0.10:5000", SERVER)
    };
    let told = lab.raw(Side::Inside, &sent.frame(A), sent.header());
    assert_eq!(told.len(), 1, "who is inside is told");
}

#[test]
fn source_routes_are_refused_and_other_options_pass() {
    let mut lab = lab();
    let with = |option: &[u8]| {
        let mut packet = udp("10.0.0.10:5000", SERVER).packet();
        packet.splice(20..20, option.iter().copied());
        packet[0] = 0x45 + u8::try_from(option.len() / 4).unwrap();
        packet[3] += u8::try_from(option.len()).unwrap();
        let mut bytes = frame(A, INSIDE, &packet);
        seal(&mut bytes);
        bytes
    };
    // Router alert, no operation, end of list.
    for option in [&[148, 4, 0, 0][..], &[1, 1, 1, 1], &[0, 9, 9, 9]] {
        let frames = lab.raw(Side::Inside, &with(option), VirtioNetHeader::default());
        let seen = Seen::read(frames[0].0, &frames[0].1, frames[0].2);
        assert_eq!(seen.src, at("203.0.113.5:5000"));
    }
    for option in [
        &[131, 7, 4, 192, 168, 77, 1, 0][..],
        &[1, 137, 7, 4, 10, 0, 0, 1],
        &[148, 0, 0, 0],
        &[148, 1, 0, 0],
        &[148, 40, 0, 0],
    ] {
        assert_eq!(
            lab.raw(Side::Inside, &with(option), VirtioNetHeader::default()),
            []
        );
    }
}

#[test]
fn extension_headers_are_passed_over_up_to_a_limit() {
    let mut lab = lab();
    let sent = udp("[fd00::10]:5000", "[2001:db8:9::7]:53");
    let with = |headers: &[&[u8]], first: u8| {
        let payload = [&headers.concat()[..], &sent.transport()].concat();
        let packet = packet(sent.src.ip(), sent.dst.ip(), first, 64, true, &payload);
        frame(A, INSIDE, &packet)
    };
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let frames = lab.raw(
        Side::Inside,
        &with(&[&options(60), &options(17)], 0),
        VirtioNetHeader::default(),
    );
    assert_eq!(frames.len(), 1);
    let (src, _, next, ttl, payload) = ip_parts(&frames[0].1[14..]);
    assert_eq!((src, next, ttl), (ip(EXT6), 0, 63));
    let udp = &payload[16..];
    let sum = pseudo(src, sent.dst.ip(), 17, udp.len()).over(udp);
    assert_eq!(sum.finish(), 0);

    let many: Vec<[u8; 8]> = (0..9).map(|_| options(60)).collect();
    let mut many: Vec<&[u8]> = many.iter().map(|header| &header[..]).collect();
    let last = options(17);
    many.push(&last);
    for (headers, first) in [
        (&many[..], 60),
        (&[&[17, 0, 0, 0, 0, 0, 0, 0][..]], 43),
        (&[&[17, 0, 2, 1, 0, 0, 0, 0][..]], 43),
        (&[&options(0)[..], &options(17)], 60),
        (&[&[17, 200, 1, 4, 0, 0, 0, 0][..]], 60),
    ] {
        let bytes = with(headers, first);
        assert_eq!(
            lab.raw(Side::Inside, &bytes, VirtioNetHeader::default()),
            []
        );
    }
}

#[test]
fn a_checksum_that_would_be_stored_in_what_was_decided_on_is_refused() {
    let mut lab = lab();
    let sent = udp("10.0.0.10:5000", SERVER);
    // Into the destination address, the ports, and before the transport.
    for (start, offset) in [(14, 16), (28, 4), (34, 0), (34, 2), (36, 6), (41, 0)] {
        let header = VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: start,
            csum_offset: offset,
            ..VirtioNetHeader::default()
        };
        assert_eq!(
            lab.raw(Side::Inside, &sent.frame(A), header),
            [],
            "{start} {offset}"
        );
    }
    let tunnel = VirtioNetHeader {
        flags: NEEDS_CSUM,
        csum_start: 42,
        csum_offset: 2,
        ..VirtioNetHeader::default()
    };
    let frames = lab.raw(Side::Inside, &sent.frame(A), tunnel);
    assert_eq!(
        frames[0].2, tunnel,
        "a sum in the payload is the receiver's business"
    );
    assert!(
        lab.napt
            .drops()
            .iter()
            .any(|(reason, _)| reason == DropReason::BadPacket)
    );
}

proptest! {
    #[test]
    fn damaged_frames_are_passed_or_dropped_and_nothing_breaks(
        outside in any::<bool>(), v6 in any::<bool>(), protocol in 0..4usize,
        changes in proptest::collection::vec((12..110usize, any::<u8>()), 0..6),
        cut in 14..400usize, sealed in any::<bool>(),
        offload in any::<(u8, bool, u16, u16, u16, u16)>(), offloaded in any::<bool>(),
    ) {
        let mut lab = lab();
        let (guest, own, server) = if v6 {
            ("[fd00::10]:5000", "[2001:db8:1::5]:5000", "[2001:db8:9::7]:21")
        } else {
            ("10.0.0.10:5000", "203.0.113.5:5000", "198.51.100.7:21")
        };
        let (side, from) = if outside { (Side::Outside, ROUTER) } else { (Side::Inside, A) };
        let (src, dst) = if outside { (server, own) } else { (guest, server) };
        let mut sent = match protocol {
            0 => udp(src, dst),
            1 => tcp(src, dst, ACK),
            2 => ping(&at(src).ip().to_string(), &at(dst).ip().to_string(), 7),
            _ => Sent { payload: b"PORT 10,0,0,10,19,200\r\n".to_vec(), ..tcp(src, dst, ACK) },
        };
        if protocol == 2 && changes.len() % 2 == 0 {
            sent.payload = udp(own, server).packet();
        }
        let mut bytes = sent.frame(from);
        bytes.resize(bytes.len().max(130), 0);
        for (at, value) in changes {
            bytes[at] = value;
        }
        if sealed {
            seal(&mut bytes);
        }
        bytes.truncate(cut.max(14));
        let header = if offloaded {
            VirtioNetHeader {
                flags: offload.0 & NEEDS_CSUM,
                gso_type: if offload.1 { GSO_TCPV4 } else { 0 },
                hdr_len: offload.2 % 200,
                gso_size: offload.3 % 2000,
                csum_start: offload.4 % 120,
                csum_offset: offload.5 % 40,
            }
        } else {
            VirtioNetHeader::default()
        };
        for _ in 0..2 {
            for (_, frame, _) in lab.raw(side, &bytes, header) {
                prop_assert!(frame.len() >= 14);
            }
        }
        lab.seconds(10_000);
        prop_assert_eq!(lab.flows(), 0);
    }
}
