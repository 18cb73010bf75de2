//! Fragments in every order, and packets that are cut (RFC 4787, REQ-14; RFC 791).

use super::lab::*;
use crate::net::napt::Side;
use crate::net::nat::Protocol;
use crate::wire::be16;
use crate::wire::ethernet::MacAddr;
use crate::wire::virtio_net::VirtioNetHeader;

const SERVER: &str = "198.51.100.7:53000";
const SERVER6: &str = "[2001:db8:9::7]:53000";

/// Cuts a packet into fragments of `size` bytes of payload, a multiple of 8.
fn fragments(sent: &Sent, size: usize, id: u16) -> Vec<Vec<u8>> {
    let payload = sent.transport();
    let count = payload.chunks(size).count();
    let parts = payload.chunks(size).enumerate();
    let parts = parts.map(|(index, part)| {
        let offset = u16::try_from(index * size).unwrap();
        let more = index + 1 < count;
        let protocol = match sent.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Icmp => 1,
        };
        if sent.src.is_ipv6() {
            let bits = (offset | u16::from(more)).to_be_bytes();
            let [a, b] = id.to_be_bytes();
            let mut bytes = vec![protocol, 0, bits[0], bits[1], 0, 0, a, b];
            bytes.extend(part);
            return packet(sent.src.ip(), sent.dst.ip(), 44, sent.ttl, true, &bytes);
        }
        let mut bytes = packet(
            sent.src.ip(),
            sent.dst.ip(),
            protocol,
            sent.ttl,
            false,
            part,
        );
        let bits = (offset / 8) | if more { 0x2000 } else { 0 };
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        bytes[6..8].copy_from_slice(&bits.to_be_bytes());
        bytes[10..12].fill(0);
        let sum = crate::wire::checksum::checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    });
    parts.collect()
}

/// Puts fragments of one packet together and reads it.
fn reassemble(frames: &[(Side, Vec<u8>, VirtioNetHeader)]) -> (Seen, u16) {
    let mut payload = Vec::new();
    let mut ids = Vec::new();
    let first = &frames[0].1;
    for (side, frame, _) in frames {
        assert_eq!((*side, &frame[..12]), (frames[0].0, &first[..12]));
        let (src, dst, _, ttl, part) = ip_parts(&frame[14..]);
        assert_eq!(ttl, 63);
        assert_eq!((src, dst), {
            let (src, dst, ..) = ip_parts(&first[14..]);
            (src, dst)
        });
        let v4 = frame[14] >> 4 == 4;
        let (offset, id, part) = if v4 {
            let offset = (be16(frame, 20).unwrap() & 0x1fff) * 8;
            (offset, be16(frame, 18).unwrap(), part)
        } else {
            (
                be16(part, 2).unwrap() & 0xfff8,
                be16(part, 6).unwrap(),
                &part[8..],
            )
        };
        let offset = usize::from(offset);
        payload.resize(payload.len().max(offset + part.len()), 0);
        payload[offset..offset + part.len()].copy_from_slice(part);
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "one packet has one identification");
    let (src, dst, protocol, ttl, _) = ip_parts(&first[14..]);
    let protocol = if protocol == 44 { 17 } else { protocol };
    let mut whole = first[..14].to_vec();
    whole.extend(packet(src, dst, protocol, ttl, false, &payload));
    (
        Seen::read(frames[0].0, &whole, VirtioNetHeader::default()),
        ids[0],
    )
}

fn offer(
    lab: &mut Lab,
    from: MacAddr,
    packets: &[Vec<u8>],
) -> Vec<(Side, Vec<u8>, VirtioNetHeader)> {
    let (side, to) = if from == ROUTER {
        (Side::Outside, OUTSIDE)
    } else {
        (Side::Inside, INSIDE)
    };
    let packets = packets.iter();
    packets
        .flat_map(|packet| lab.raw(side, &frame(from, to, packet), VirtioNetHeader::default()))
        .collect()
}

const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

#[test]
fn fragments_pass_in_every_order_and_both_ways() {
    for (out, back) in [
        (
            udp("10.0.0.10:5000", SERVER),
            udp(SERVER, "203.0.113.5:5000"),
        ),
        (
            udp("[fd00::10]:5000", SERVER6),
            udp(SERVER6, "[2001:db8:1::5]:5000"),
        ),
        (
            ping("10.0.0.10", "198.51.100.7", 7),
            pong("198.51.100.7", EXT, 7),
        ),
    ] {
        for order in ORDERS {
            let mut lab = Lab::new();
            let long: Vec<u8> = (0..3000).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let (out, back) = (
                Sent {
                    payload: long.clone(),
                    ..out.clone()
                },
                Sent {
                    payload: long.clone(),
                    ..back.clone()
                },
            );
            let parts = fragments(&out, 1200, 77);
            let parts: Vec<_> = order.iter().map(|index| parts[*index].clone()).collect();
            let frames = offer(&mut lab, A, &parts);
            assert_eq!(frames.len(), 3, "{order:?}");
            let (seen, _) = reassemble(&frames);
            assert_eq!((seen.src, seen.dst), (back.dst, back.src));
            assert_eq!((seen.to, &seen.payload), (ROUTER, &long));

            let parts = fragments(&back, 1200, 78);
            let parts: Vec<_> = order.iter().map(|index| parts[*index].clone()).collect();
            let (seen, id) = reassemble(&offer(&mut lab, ROUTER, &parts));
            assert_eq!((seen.to, seen.dst, id), (A, out.src, 78));
            assert_eq!(seen.payload, long);
        }
    }
}

#[test]
fn two_guests_with_the_same_identification_do_not_mix() {
    let mut lab = Lab::new();
    let sent = |guest: &str| Sent {
        payload: vec![1; 2000],
        ..udp(guest, SERVER)
    };
    let a = fragments(&sent("10.0.0.10:5000"), 1200, 7);
    let b = fragments(&sent("10.0.0.11:6000"), 1200, 7);
    let frames = offer(&mut lab, A, &a[..1]);
    let other = offer(&mut lab, B, &b[..1]);
    let frames = [frames, offer(&mut lab, A, &a[1..])].concat();
    let other = [other, offer(&mut lab, B, &b[1..])].concat();
    let ((seen, id), (other, other_id)) = (reassemble(&frames), reassemble(&other));
    assert_eq!((seen.src.port(), other.src.port()), (5000, 6000));
    assert_ne!(id, other_id);
}

#[test]
fn fragments_between_guests_turn_back() {
    let mut lab = Lab::new();
    lab.forward(Protocol::Udp, 8080, "10.0.0.11:80");
    let sent = Sent {
        payload: vec![1; 2000],
        ..udp("10.0.0.10:5000", "203.0.113.5:8080")
    };
    let (seen, _) = reassemble(&offer(&mut lab, A, &fragments(&sent, 1200, 7)));
    assert_eq!((seen.side, seen.to), (Side::Inside, B));
    assert_eq!(
        (seen.src, seen.dst),
        (at("203.0.113.5:5000"), at("10.0.0.11:80"))
    );
}

#[test]
fn all_fragments_count_as_bytes_of_their_flow() {
    for (guest, server) in [("10.0.0.10:5000", SERVER), ("[fd00::10]:5000", SERVER6)] {
        for order in ORDERS {
            let mut lab = Lab::new();
            let sent = Sent {
                payload: vec![1; 3000],
                ..udp(guest, server)
            };
            let parts = fragments(&sent, 1200, 7);
            let parts = order.map(|index| parts[index].clone());
            let (seen, _) = reassemble(&offer(&mut lab, A, &parts));
            let counted = |lab: &Lab| {
                let view = lab.napt.view(&lab.inside);
                let rows = lab.napt.flows(lab.now.instant);
                assert_eq!(rows.len(), 1);
                // Beside what the lab began with.
                let before = 14;
                assert_eq!(
                    (view.sent - before, view.received),
                    (rows[0].sent, rows[0].received)
                );
                (rows[0].sent, rows[0].received)
            };
            assert_eq!(counted(&lab), (3000, 0), "{order:?}");
            let reply = Sent {
                payload: vec![1; 2000],
                ..udp(server, &seen.src.to_string())
            };
            offer(&mut lab, ROUTER, &fragments(&reply, 1200, 9));
            assert_eq!(counted(&lab), (3000, 2000));
        }
    }
}

#[test]
fn fragments_that_turn_back_count_for_both_guests() {
    let mut lab = Lab::new();
    lab.forward(Protocol::Udp, 8080, "10.0.0.11:80");
    let sent = Sent {
        payload: vec![1; 2000],
        ..udp("10.0.0.10:5000", "203.0.113.5:8080")
    };
    offer(&mut lab, A, &fragments(&sent, 1200, 7));
    let rows = lab.napt.flows(lab.now.instant);
    let mut counted: Vec<_> = rows.iter().map(|row| (row.sent, row.received)).collect();
    counted.sort_unstable();
    assert_eq!(counted, [(0, 2000), (2000, 0)]);
}

#[test]
fn what_waits_for_a_first_fragment_is_bounded_and_forgotten() {
    let mut lab = Lab::new();
    for id in 0..10_000 {
        let sent = Sent {
            payload: vec![1; 2000],
            ..udp("10.0.0.10:5000", SERVER)
        };
        assert_eq!(offer(&mut lab, A, &fragments(&sent, 1200, id)[1..]), []);
    }
    // Another sender still gets through.
    let sent = Sent {
        payload: vec![1; 2000],
        ..udp("10.0.0.11:6000", SERVER)
    };
    assert_eq!(offer(&mut lab, B, &fragments(&sent, 1200, 1)).len(), 2);
    lab.seconds(7);
    let sent = Sent {
        payload: vec![1; 2000],
        ..udp("10.0.0.10:5000", SERVER)
    };
    let parts = fragments(&sent, 1200, 1);
    assert_eq!(
        offer(&mut lab, A, &parts[..1]).len(),
        1,
        "the others are forgotten"
    );
    lab.seconds(303);
    assert_eq!(lab.napt.v4.next_second(), None);
}

#[test]
fn a_guest_that_sends_many_packets_in_fragments_loses_none() {
    let mut lab = Lab::new();
    let sent = Sent {
        payload: vec![1; 2000],
        ..udp("10.0.0.10:5000", SERVER)
    };
    let back = lab.out(A, &udp("10.0.0.10:5000", SERVER)).src.to_string();
    let answer = Sent {
        payload: vec![1; 2000],
        ..udp(SERVER, &back)
    };
    // More than there is room for in the time that they are remembered.
    for id in 0..10_000 {
        assert_eq!(
            offer(&mut lab, A, &fragments(&sent, 1200, id)).len(),
            2,
            "{id}"
        );
        let frames = offer(&mut lab, ROUTER, &fragments(&answer, 1200, id));
        assert_eq!(frames.len(), 2, "{id}");
    }
    assert!(lab.napt.poll_timeout().is_some());
    lab.seconds(7);
    // One that waits for its first part gives way as well, and is counted no more.
    for id in 0..2000 {
        offer(&mut lab, A, &fragments(&sent, 1200, id)[1..]);
    }
    lab.seconds(7);
    let mut parts = fragments(&sent, 1200, 7);
    parts.reverse();
    assert_eq!(offer(&mut lab, A, &parts).len(), 2);
}

#[test]
fn fragments_that_would_overwrite_a_header_or_hold_none_are_dropped() {
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    let sent = Sent {
        payload: vec![1; 100],
        ..tcp("10.0.0.10:5000", SERVER, ACK)
    };
    let tiny = fragments(&sent, 16, 9);
    assert_eq!(offer(&mut lab, A, &tiny[..2]), []);
    // From a stranger to a port that nobody has.
    let stranger = Sent {
        payload: vec![1; 2000],
        ..udp(SERVER, "203.0.113.5:9999")
    };
    assert_eq!(offer(&mut lab, ROUTER, &fragments(&stranger, 1200, 9)), []);
}

#[test]
fn a_packet_that_may_be_cut_is_cut_where_the_next_link_is_too_small() {
    for partial in [false, true] {
        let mut lab = Lab::new();
        lab.napt.set_mtu(1500, 600);
        let sent = Sent {
            payload: (0..1400).map(|i| u8::try_from(i % 251).unwrap()).collect(),
            dont_fragment: false,
            partial,
            ..udp("10.0.0.10:5000", SERVER)
        };
        let frames = lab.raw(Side::Inside, &sent.frame(A), sent.header());
        assert!(frames.iter().all(|(_, frame, _)| frame.len() <= 614));
        assert_eq!(frames.len(), 3);
        let (seen, _) = reassemble(&frames);
        assert_eq!(
            (seen.src, seen.payload),
            (at("203.0.113.5:5000"), sent.payload.clone())
        );
        // And the pieces of a packet that was cut already.
        let parts = fragments(&sent, 1200, 5);
        if !partial {
            let frames = offer(&mut lab, A, &parts);
            assert_eq!(frames.len(), 4);
            assert_eq!(reassemble(&frames).0.payload, sent.payload);
        }
    }
}
