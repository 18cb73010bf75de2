//! Whatever a guest sends: out, answered, and back again is what it sent, and every checksum is right on the way.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::lab::*;
use crate::net::napt::{Side, Verdict};
use crate::net::nat::Protocol;

fn endpoint(v6: bool, guest: bool, host: u8, port: u16) -> SocketAddr {
    let ip = match (v6, guest) {
        (false, true) => format!("10.0.0.{}", 10 + host % 2),
        (false, false) => format!("198.51.100.{}", host),
        (true, true) => format!("fd00::{}", 10 + host % 2),
        (true, false) => format!("2001:db8:9::{host:x}"),
    };
    SocketAddr::new(super::lab::ip(&ip), port)
}

prop_compose! {
    fn packets()(
        protocol in 0..3usize, v6 in any::<bool>(), partial in any::<bool>(), unsummed in any::<bool>(),
        host in any::<u8>(), server in 1..255u8, ports in (1..=u16::MAX, 1..=u16::MAX),
        flags in 0..4usize, sequence in any::<(u32, u32)>(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) -> Sent {
        let protocol = Protocol::ALL[protocol];
        let (src, dst) = (endpoint(v6, true, host, ports.0), endpoint(v6, false, server, ports.1));
        let template = if protocol == Protocol::Tcp {
            tcp("0.0.0.0:1", "0.0.0.0:1", [SYN, ACK, FIN | ACK, SYN | 8][flags])
        } else {
            udp("0.0.0.0:1", "0.0.0.0:1")
        };
        let dst = if protocol == Protocol::Icmp {
            SocketAddr::new(dst.ip(), 0)
        } else {
            dst
        };
        Sent {
            src, dst, protocol, payload, sequence,
            // ICMP over IPv4 has no pseudo-header that would make a partial sum.
            partial: partial && protocol != Protocol::Icmp,
            unsummed: unsummed && !partial && protocol == Protocol::Udp && !v6,
            ..template
        }
    }
}

proptest! {
    #[test]
    fn out_reply_back_is_the_identity(sent in proptest::collection::vec(packets(), 1..30)) {
        let mut spec = spec();
        spec.ftp = false;
        let mut lab = Lab::with(&spec);
        let mut outsides = std::collections::BTreeMap::new();
        for sent in sent {
            let mac = if [ip("10.0.0.10"), ip("fd00::10")].contains(&sent.src.ip()) { A } else { B };
            let seen = lab.out(mac, &sent);
            prop_assert_eq!(lab.verdict, Verdict::Forward);
            prop_assert_eq!((seen.side, seen.to, seen.ttl), (Side::Outside, ROUTER, 63));
            prop_assert_eq!((seen.dst, &seen.payload), (sent.dst, &sent.payload));
            // The same guest's port is the same outside, and nobody else's.
            let key = (sent.protocol, sent.src.is_ipv6(), seen.src.port());
            let owner = *outsides.entry(key).or_insert(sent.src);
            prop_assert_eq!(owner, sent.src);

            let answer = Sent {
                src: sent.dst,
                dst: seen.src,
                reply: true,
                flags: if sent.protocol == Protocol::Tcp { ACK } else { 0 },
                ..sent.clone()
            };
            let back = lab.back(&answer);
            prop_assert_eq!((back.side, back.to), (Side::Inside, mac));
            prop_assert_eq!((back.src, back.dst), (sent.dst, sent.src));
            prop_assert_eq!(&back.payload, &sent.payload);
        }
    }
}
