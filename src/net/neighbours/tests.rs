//! Neighbours in a laboratory: frames in, frames out, and a clock that only the test moves.

use proptest::prelude::*;

use super::*;
use crate::wire::checksum::checksum;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const CHASSIS: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
const ADAPTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SWITCH: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
const SECOND: Duration = Duration::from_secs(1);

fn spec() -> Spec {
    Spec {
        advertise: true,
        listen: true,
        chassis: CHASSIS,
        host: "host".to_owned(),
        description: "vmlan".to_owned(),
    }
}

/// Two uplinks whose links are down, and a clock that only the test moves.
struct Lab {
    neighbours: Neighbours,
    start: Instant,
    now: Instant,
}

impl Lab {
    fn new(spec: Spec) -> Self {
        let now = Instant::now();
        let mut neighbours = Neighbours::new(spec);
        neighbours.add(A, "eno1");
        neighbours.add(B, "eno2");
        Self {
            neighbours,
            start: now,
            now,
        }
    }

    fn up(spec: Spec) -> Self {
        let mut lab = Self::new(spec);
        lab.link(A, true);
        lab.link(B, true);
        lab
    }

    fn link(&mut self, port: PortId, up: bool) {
        self.neighbours.set_link(port, up, ADAPTER, self.now);
    }

    fn hear(&mut self, frame: &[u8]) -> bool {
        self.neighbours.handle_frame(A, frame, self.now)
    }

    fn due(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut out = OwnFrames::default();
        self.neighbours.handle_timeout(self.now, &mut out);
        out.frames
    }

    /// Lets time pass, waking whenever asked; returns after how many seconds each frame left.
    fn pass(&mut self, seconds: u32) -> Vec<(u64, PortId)> {
        let end = self.now + seconds * SECOND;
        let mut sent = Vec::new();
        loop {
            let at = (self.now - self.start).as_secs();
            sent.extend(self.due().into_iter().map(|(port, _)| (at, port)));
            match self.neighbours.poll_timeout().filter(|next| *next <= end) {
                Some(next) => {
                    assert!(next > self.now, "what is due is done");
                    self.now = next;
                }
                None => break,
            }
        }
        self.now = end;
        sent
    }

    fn sent_by(&mut self, port: PortId, seconds: u32) -> Vec<u64> {
        let sent = self.pass(seconds).into_iter();
        sent.filter(|(_, by)| *by == port)
            .map(|(at, _)| at)
            .collect()
    }

    fn chassis(&self) -> Vec<&str> {
        let known = self.neighbours.neighbours(A);
        known.map(|neighbour| neighbour.chassis.as_str()).collect()
    }

    fn only(&self) -> &Neighbour {
        let known: Vec<_> = self.neighbours.neighbours(A).collect();
        assert_eq!(known.len(), 1);
        known[0]
    }
}

fn switch(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, number])
}

fn lldp(number: u8, ttl: u16) -> Vec<u8> {
    Lldp::new(Id::Mac(switch(number)), Id::Interface(b"Gi1"), ttl).emit(SWITCH)
}

fn cdp(ttl: u8, tlvs: &[u8]) -> Vec<u8> {
    let mut message = [&[2, ttl, 0, 0], tlvs].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = u16::try_from(message.len() + 8).unwrap();
    [
        &[0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc][..],
        &SWITCH.0,
        &len.to_be_bytes(),
        &[0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x20, 0x00],
        &message,
    ]
    .concat()
}

const CDP_NAMES: &[u8] = b"\0\x01\0\x06sw\0\x03\0\x06Gi";

#[test]
fn what_is_sent_is_what_the_standard_says_byte_for_byte() {
    let mut lab = Lab::new(spec());
    lab.link(A, true);
    let expected = [
        &[0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..],
        &[0x02, 7, 4, 2, 0, 0, 0, 0, 0xaa],
        &[0x04, 5, 5],
        b"eno1",
        &[0x06, 2, 0, 121],
        &[0x08, 11],
        b"uplink eno1",
        &[0x0a, 4],
        b"host",
        &[0x0c, 5],
        b"vmlan",
        &[0x0e, 4, 0, 4, 0, 4],
        &[0, 0],
    ]
    .concat();
    assert_eq!(lab.due(), [(A, expected)]);
}

#[test]
fn what_is_sent_is_heard_by_another_host() {
    let (mut lab, mut other) = (
        Lab::up(spec()),
        Lab::up(Spec {
            chassis: SWITCH,
            ..spec()
        }),
    );
    let frames = lab.due();
    assert!(other.hear(&frames[1].1));
    let expected = Neighbour {
        protocol: Protocol::Lldp,
        chassis: "02:00:00:00:00:aa".to_owned(),
        port: "eno2".to_owned(),
        port_description: Some("uplink eno2".to_owned()),
        system: Some("host".to_owned()),
        system_description: Some("vmlan".to_owned()),
        address: None,
        vlan: None,
        mtu: None,
        seen: other.now,
        expires: other.now + Duration::from_secs(121),
    };
    assert_eq!(*other.only(), expected);
}

#[test]
fn a_port_speaks_four_times_quickly_and_then_every_half_minute() {
    let mut lab = Lab::new(spec());
    assert_eq!(lab.pass(100), [], "a link that is down says nothing");
    lab.start = lab.now;
    lab.link(A, true);
    assert_eq!(lab.sent_by(A, 95), [0, 1, 2, 3, 33, 63, 93]);
    lab.link(B, true);
    assert_eq!(lab.sent_by(B, 10), [95, 96, 97, 98]);
}

#[test]
fn a_link_that_flaps_says_no_more_than_one_frame_a_second() {
    let mut lab = Lab::new(spec());
    let mut sent = 0;
    for _ in 0..100 {
        lab.link(A, true);
        sent += lab.due().len();
        lab.link(A, false);
        lab.now += SECOND / 10;
    }
    assert_eq!(sent, 10);
}

#[test]
fn a_link_that_is_up_already_goes_on_with_the_new_address() {
    let mut lab = Lab::up(spec());
    lab.pass(10);
    lab.neighbours.set_link(A, true, SWITCH, lab.now);
    assert!(lab.due().is_empty());
    lab.now += INTERVAL;
    let frames = lab.due();
    assert_eq!(frames[0].1[6..12], SWITCH.0);
    assert_eq!(frames[1].1[6..12], ADAPTER.0);
}

#[test]
fn a_new_neighbour_is_answered_quickly_and_a_known_one_is_not() {
    let mut lab = Lab::up(spec());
    lab.pass(40);
    lab.hear(&lldp(1, 120));
    assert_eq!(lab.sent_by(A, 20), [40, 41, 42, 43]);
    lab.hear(&lldp(1, 120));
    lab.hear(&cdp(180, CDP_NAMES));
    assert_eq!(lab.sent_by(A, 20), [73]);
}

#[test]
fn a_flood_of_neighbours_is_kept_to_the_limit_and_answered_once_a_second() {
    let mut lab = Lab::up(spec());
    lab.pass(40);
    let mut sent = 0;
    for number in 0..200 {
        lab.hear(&lldp(number, 120));
        sent += lab.due().iter().filter(|(port, _)| *port == A).count();
        lab.now += SECOND / 10;
        assert!(lab.chassis().len() <= PORT_LIMIT);
    }
    assert_eq!(sent, 20);
}

#[test]
fn the_neighbour_that_was_silent_longest_makes_room() {
    let mut lab = Lab::up(spec());
    for number in 0..8 {
        lab.hear(&lldp(number, 120));
        lab.now += SECOND;
    }
    lab.hear(&lldp(0, 120));
    lab.hear(&lldp(8, 120));
    let left = [8, 0, 7, 6, 5, 4, 3, 2].map(|number| switch(number).to_string());
    assert_eq!(lab.chassis(), left, "newest first");
}

#[test]
fn a_neighbour_is_forgotten_when_its_time_is_over() {
    let quiet = Spec {
        advertise: false,
        ..spec()
    };
    let mut lab = Lab::up(quiet);
    lab.hear(&lldp(1, 120));
    lab.hear(&cdp(180, CDP_NAMES));
    assert_eq!(lab.neighbours.poll_timeout(), Some(lab.now + 120 * SECOND));
    lab.pass(119);
    assert_eq!(lab.chassis(), ["sw", "02:00:00:00:01:01"]);
    lab.pass(1);
    assert_eq!(lab.chassis(), ["sw"]);
    lab.hear(&cdp(180, CDP_NAMES));
    lab.pass(179);
    assert_eq!(lab.chassis(), ["sw"], "what is said again holds longer");
    lab.pass(1);
    assert!(lab.chassis().is_empty());
    assert_eq!(lab.neighbours.poll_timeout(), None);
}

#[test]
fn a_time_to_live_of_zero_forgets_at_once() {
    let mut lab = Lab::up(spec());
    lab.hear(&lldp(1, 120));
    lab.hear(&lldp(2, 120));
    lab.hear(&cdp(180, CDP_NAMES));
    lab.hear(&lldp(1, 0));
    lab.hear(&cdp(0, CDP_NAMES));
    assert_eq!(lab.chassis(), ["02:00:00:00:01:02"]);
    lab.hear(&lldp(9, 0));
    assert_eq!(lab.chassis(), ["02:00:00:00:01:02"]);
}

#[test]
fn a_link_that_goes_down_has_no_neighbours_and_hears_none() {
    let mut lab = Lab::up(spec());
    lab.hear(&lldp(1, 120));
    lab.neighbours.handle_frame(B, &lldp(2, 120), lab.now);
    lab.link(A, false);
    assert!(lab.chassis().is_empty());
    assert_eq!(lab.neighbours.neighbours(B).count(), 1);
    assert!(lab.hear(&lldp(1, 120)));
    assert!(lab.chassis().is_empty());
    lab.link(A, true);
    assert!(lab.hear(&lldp(1, 120)));
    lab.neighbours.remove(A);
    assert!(lab.chassis().is_empty());
    assert!(lab.hear(&lldp(1, 120)), "it is LLDP all the same");
    assert!(lab.chassis().is_empty());
    lab.link(A, true);
    assert!(lab.pass(100).iter().all(|(_, port)| *port == B));
}

#[test]
fn what_our_own_chassis_said_is_no_neighbour() {
    let mut lab = Lab::up(spec());
    for (_, frame) in lab.due() {
        assert!(lab.hear(&frame));
    }
    assert!(lab.chassis().is_empty());
}

#[test]
fn who_does_not_listen_keeps_nobody_and_who_does_not_advertise_is_silent() {
    let mut deaf = Lab::up(Spec {
        listen: false,
        ..spec()
    });
    assert!(deaf.hear(&lldp(1, 120)));
    assert!(deaf.hear(&cdp(180, CDP_NAMES)));
    assert!(deaf.chassis().is_empty());
    assert!(!deaf.pass(100).is_empty());

    let mut mute = Lab::up(Spec {
        advertise: false,
        ..spec()
    });
    assert_eq!(mute.neighbours.poll_timeout(), None);
    mute.hear(&lldp(1, 65535));
    assert_eq!(mute.chassis(), ["02:00:00:00:01:01"]);
    assert!(mute.pass(100).is_empty());
    let mut out = OwnFrames::default();
    mute.neighbours.shutdown(&mut out);
    assert!(out.frames.is_empty());
}

#[test]
fn shutdown_takes_back_what_was_said_where_it_was_said() {
    let mut lab = Lab::new(spec());
    lab.link(A, true);
    lab.due();
    lab.link(B, true);
    let mut out = OwnFrames::default();
    lab.neighbours.shutdown(&mut out);
    let mut expected = [
        &[0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..],
        &[0x02, 7, 4, 2, 0, 0, 0, 0, 0xaa],
        &[0x04, 5, 5],
        b"eno1",
        &[0x06, 2, 0, 0, 0, 0],
    ]
    .concat();
    expected.resize(60, 0);
    assert_eq!(out.frames, [(A, expected)]);
    assert!(lab.pass(100).is_empty());
    lab.neighbours.shutdown(&mut out);
    assert_eq!(out.frames.len(), 1, "once is enough");
}

#[test]
fn a_link_that_went_down_has_nothing_to_take_back() {
    let mut lab = Lab::up(spec());
    lab.due();
    lab.link(A, false);
    lab.link(A, true);
    lab.link(B, false);
    let mut out = OwnFrames::default();
    lab.neighbours.shutdown(&mut out);
    assert!(out.frames.is_empty());
}

#[test]
fn all_that_lldp_says_is_shown() {
    let mut lab = Lab::up(spec());
    let unit = Lldp {
        port_description: Some(b""),
        system: Some(b"sw-a"),
        system_description: Some(b"Switch OS,\r\n version 1\0"),
        address: Some("2001:db8::1".parse().unwrap()),
        port_vlan: Some(10),
        max_frame: Some(9216),
        ..Lldp::new(
            Id::Address("192.0.2.1".parse().unwrap()),
            Id::Other {
                subtype: 7,
                id: b"12",
            },
            120,
        )
    };
    lab.hear(&unit.emit(SWITCH));
    let expected = Neighbour {
        protocol: Protocol::Lldp,
        chassis: "192.0.2.1".to_owned(),
        port: "12".to_owned(),
        port_description: None,
        system: Some("sw-a".to_owned()),
        system_description: Some("Switch OS, version 1".to_owned()),
        address: Some("2001:db8::1".to_owned()),
        vlan: Some(10),
        mtu: Some(9216),
        seen: lab.now,
        expires: lab.now + 120 * SECOND,
    };
    assert_eq!(*lab.only(), expected);
}

#[test]
fn all_that_cdp_says_is_shown() {
    let mut lab = Lab::up(spec());
    let rest = b"\0\x06\0\x08WS-C\0\x0a\0\x06\0\x63\0\x11\0\x08\0\0\x05\xdc\0\x14\0\x08sw-a\
        \0\x02\0\x11\0\0\0\x01\x01\x01\xcc\0\x04\xc0\0\x02\x01";
    assert!(lab.hear(&cdp(180, &[CDP_NAMES, rest].concat())));
    let expected = Neighbour {
        protocol: Protocol::Cdp,
        chassis: "sw".to_owned(),
        port: "Gi".to_owned(),
        port_description: None,
        system: Some("sw-a".to_owned()),
        system_description: Some("WS-C".to_owned()),
        address: Some("192.0.2.1".to_owned()),
        vlan: Some(99),
        mtu: Some(1500),
        seen: lab.now,
        expires: lab.now + 180 * SECOND,
    };
    assert_eq!(*lab.only(), expected);
}

#[test]
fn numbers_that_name_no_vlan_or_size_are_not_shown() {
    for vlan in [0, 4095, 65535] {
        let mut lab = Lab::up(spec());
        let unit = Lldp {
            port_vlan: Some(vlan),
            max_frame: Some(0),
            ..Lldp::new(Id::Mac(SWITCH), Id::Mac(SWITCH), 120)
        };
        lab.hear(&unit.emit(SWITCH));
        assert_eq!((lab.only().vlan, lab.only().mtu), (None, None), "{vlan}");
    }
    let mut lab = Lab::up(spec());
    lab.hear(&cdp(180, &[CDP_NAMES, b"\0\x11\0\x08\0\x01\0\0"].concat()));
    assert_eq!(lab.only().mtu, None);
}

#[test]
fn unreadable_messages_are_claimed_and_others_are_not() {
    let mut lab = Lab::up(spec());
    let (mut broken_lldp, mut broken_cdp) = (lldp(1, 120), cdp(180, CDP_NAMES));
    broken_lldp[14] = 0xff;
    broken_cdp[26] ^= 1;
    assert!(lab.hear(&broken_lldp));
    assert!(lab.hear(&broken_cdp));
    assert!(lab.chassis().is_empty());
    let mut foreign = lldp(1, 120);
    foreign[5] = 2;
    assert!(!lab.hear(&foreign));
    assert!(!lab.hear(&foreign[..13]));
    assert!(!lab.hear(&[]));
}

#[test]
fn texts_are_made_fit_for_a_terminal() {
    for (said, shown) in [
        (&b"sw-1"[..], "sw-1"),
        ("Büro 東".as_bytes(), "Büro 東"),
        (b"\x1b[31mred\x07", "\u{fffd}[31mred\u{fffd}"),
        (b"a\xffb\xc3", "a\u{fffd}b\u{fffd}"),
        (
            "a\u{202e}b\u{200b}c\u{9b}d".as_bytes(),
            "a\u{fffd}b\u{fffd}c\u{fffd}d",
        ),
        (b"  a\r\n\tb \n", "a b"),
        (b"a\0b\0\0", "a\u{fffd}b"),
        (b"\0", ""),
    ] {
        assert_eq!(text(said), shown);
    }
    assert_eq!(text(&[b'x'; 300]), "x".repeat(255));
    assert_eq!(
        text(&[0xff; 300]).len(),
        255,
        "replacements have three bytes"
    );
    assert_eq!(text("ä".repeat(200).as_bytes()), "ä".repeat(127));
}

#[test]
fn identifiers_that_are_no_text_are_shown_as_digits() {
    let other = |id| id_text(&Id::Other { subtype: 7, id });
    assert_eq!(other(b"rack 4\0"), "rack 4");
    assert_eq!(other(&[0xde, 0x11]), "de:11");
    assert_eq!(other(b"a\x1b"), "61:1b");
    assert_eq!(other(&[0, 0]), "00:00");
    assert_eq!(other(b" "), "20");
    assert_eq!(other(&[0xff; 255]).len(), 254);
    assert_eq!(id_text(&Id::Interface(b"e\x1b")), "e\u{fffd}");
}

#[test]
fn long_names_of_our_own_are_cut_between_characters() {
    let mut lab = Lab::up(Spec {
        host: "ä".repeat(200),
        description: String::new(),
        ..spec()
    });
    let frames = lab.due();
    let unit = Lldp::parse(&frames[0].1[14..]).unwrap();
    assert_eq!(unit.system, Some("ä".repeat(127).as_bytes()));
    assert_eq!(unit.system_description, None);
}

/// Frames that are LLDP or CDP, of whatever content.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    (any::<bool>(), 0..3u8, 0..12u8, 0..3u16, bytes).prop_map(
        |(is_cdp, kind, number, ttl, bytes)| match (is_cdp, kind) {
            (true, 0) => cdp(1, &bytes),
            (true, _) => cdp(u8::try_from(ttl).unwrap(), &[CDP_NAMES, &bytes].concat()),
            (false, 0) => {
                let mut frame = lldp(number, ttl);
                frame.splice(14.., bytes);
                frame
            }
            (false, 1) => {
                let mut frame = lldp(number, ttl);
                frame.splice(32.., bytes);
                frame
            }
            (false, _) => {
                let unit = Lldp {
                    system: Some(&bytes),
                    ..Lldp::new(Id::Interface(&bytes), Id::Mac(switch(number)), ttl)
                };
                unit.emit(SWITCH)
            }
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_heard_limits_hold_and_texts_are_harmless(
        heard in proptest::collection::vec((frames(), 0..2000u64), 0..40),
    ) {
        let mut lab = Lab::up(spec());
        for (frame, wait) in heard {
            prop_assert!(lab.hear(&frame));
            lab.now += Duration::from_millis(wait);
            let before = lab.now;
            lab.due();
            prop_assert!(lab.neighbours.poll_timeout().is_some_and(|next| next > before));
            let known: Vec<_> = lab.neighbours.neighbours(A).collect();
            prop_assert!(known.len() <= PORT_LIMIT);
            prop_assert!(known.is_sorted_by(|a, b| a.seen >= b.seen));
            for (index, neighbour) in known.iter().enumerate() {
                prop_assert!(neighbour.expires > lab.now);
                prop_assert!(!known[..index].iter().any(|other| other.is_same(neighbour)));
                let texts = [
                    Some(&neighbour.chassis),
                    Some(&neighbour.port),
                    neighbour.port_description.as_ref(),
                    neighbour.system.as_ref(),
                    neighbour.system_description.as_ref(),
                ];
                for text in texts.into_iter().flatten() {
                    prop_assert!(text.len() <= MAX_TEXT);
                    prop_assert!(text.chars().all(is_harmless));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_heard_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        Lab::up(spec()).hear(&bytes);
    }
}
