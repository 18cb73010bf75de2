//! Active FTP through the translator (RFC 959, RFC 2428).

use super::lab::*;
use crate::wire::be32;

const SERVER: &str = "198.51.100.7:21";

fn command(text: &str, sequence: u32) -> Sent {
    Sent {
        payload: text.as_bytes().to_vec(),
        sequence: (sequence, 900),
        ..tcp("10.0.0.10:5000", SERVER, ACK)
    }
}

fn sequence_of(lab: &mut Lab, sent: &Sent, side: crate::net::napt::Side) -> (u32, u32) {
    let from = if side == crate::net::napt::Side::Inside {
        A
    } else {
        ROUTER
    };
    let frames = lab.raw(side, &sent.frame(from), sent.header());
    let tcp = &frames[0].1[34..];
    (be32(tcp, 4).unwrap(), be32(tcp, 8).unwrap())
}

#[test]
fn the_address_in_a_command_is_translated_and_the_connection_let_in() {
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    for partial in [false, true] {
        let sent = Sent {
            partial,
            ..command("PORT 10,0,0,10,19,200\r\n", 100)
        };
        let seen = lab.out(A, &sent);
        assert_eq!(
            String::from_utf8(seen.payload).unwrap(),
            "PORT 203,0,113,5,19,200\r\n"
        );
    }
    let syn = tcp("198.51.100.7:20", "203.0.113.5:5064", SYN);
    let seen = lab.back(&syn);
    assert_eq!((seen.to, seen.dst), (A, at("10.0.0.10:5064")));
    lab.out(A, &tcp("10.0.0.10:5064", "198.51.100.7:20", SYN | ACK));
    // From nobody else, and not for ever.
    assert_eq!(
        lab.blocked(&tcp("198.51.100.8:20", "203.0.113.5:5064", SYN)),
        FILTERED
    );
    lab.seconds(125);
    assert_eq!(
        lab.blocked(&tcp("198.51.100.7:22", "203.0.113.5:5064", SYN)),
        FILTERED
    );
}

#[test]
fn sequence_numbers_follow_what_was_added() {
    use crate::net::napt::Side::{Inside, Outside};
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    let first = "PORT 10,0,0,10,19,200\r\n";
    let grown = u32::try_from("203,0,113,5".len() - "10,0,0,10".len()).unwrap();
    let len = u32::try_from(first.len()).unwrap();
    assert_eq!(sequence_of(&mut lab, &command(first, 100), Inside).0, 100);
    assert_eq!(
        sequence_of(&mut lab, &command(first, 100), Inside).0,
        100,
        "again"
    );
    let next = 100 + len;
    assert_eq!(
        sequence_of(&mut lab, &command("LIST\r\n", next), Inside).0,
        next + grown
    );
    let acked = |number| Sent {
        sequence: (900, number),
        ..tcp(SERVER, "203.0.113.5:5000", ACK)
    };
    assert_eq!(sequence_of(&mut lab, &acked(100), Outside), (900, 100));
    assert_eq!(
        sequence_of(&mut lab, &acked(next + grown), Outside),
        (900, next)
    );
    let second = next + 6;
    assert_eq!(
        sequence_of(&mut lab, &command(first, second), Inside).0,
        second + grown
    );
    let after = second + len;
    assert_eq!(
        sequence_of(&mut lab, &command("", after), Inside).0,
        after + 2 * grown
    );
    assert_eq!(
        sequence_of(&mut lab, &acked(after + 2 * grown), Outside).1,
        after
    );
}

#[test]
fn extended_commands_work_for_both_families() {
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    let seen = lab.out(A, &command("EPRT |1|10.0.0.10|5064|\r\n", 100));
    assert_eq!(
        String::from_utf8(seen.payload).unwrap(),
        "EPRT |1|203.0.113.5|5064|\r\n"
    );
    let server = "[2001:db8:9::7]:21";
    lab.connect(A, "[fd00::10]:5000", server);
    let sent = Sent {
        payload: b"EPRT |2|fd00::10|5064|\r\n".to_vec(),
        sequence: (100, 900),
        ..tcp("[fd00::10]:5000", server, ACK)
    };
    let seen = lab.out(A, &sent);
    assert_eq!(
        String::from_utf8(seen.payload).unwrap(),
        "EPRT |2|2001:db8:1::5|5064|\r\n"
    );
    let syn = tcp("[2001:db8:9::7]:20", "[2001:db8:1::5]:5064", SYN);
    assert_eq!(lab.back(&syn).dst, at("[fd00::10]:5064"));
}

#[test]
fn nobody_is_made_to_connect_elsewhere() {
    let mut lab = Lab::new();
    lab.connect(A, "10.0.0.10:5000", SERVER);
    for text in [
        "PORT 10,0,0,11,19,200\r\n",
        "PORT 198,51,100,9,19,200\r\n",
        "PORT 10,0,0,10,0,22\r\n",
        "USER anonymous\r\n",
    ] {
        let seen = lab.out(A, &command(text, 100));
        assert_eq!(String::from_utf8(seen.payload).unwrap(), text);
    }
    let syn = tcp("198.51.100.7:20", "203.0.113.5:5064", SYN);
    assert_eq!(lab.blocked(&syn), FILTERED);
}

#[test]
fn without_it_commands_pass_as_they_are_and_selective_acknowledgements_are_kept() {
    let sack = |lab: &mut Lab| {
        let syn = Sent {
            options: vec![2, 4, 5, 0xb4, 4, 2, 1, 1],
            ..tcp("10.0.0.10:5000", SERVER, SYN)
        };
        let frames = lab.raw(crate::net::napt::Side::Inside, &syn.frame(A), syn.header());
        frames[0].1[58..60].to_vec()
    };
    assert_eq!(sack(&mut Lab::new()), [1, 1]);
    let mut spec = spec();
    spec.ftp = false;
    let mut lab = Lab::with(&spec);
    assert_eq!(sack(&mut lab), [4, 2]);
    let seen = lab.out(A, &command("PORT 10,0,0,10,19,200\r\n", 100));
    assert_eq!(seen.payload, b"PORT 10,0,0,10,19,200\r\n");
}
