//! ICMP errors that a gateway sends to its guests (RFC 792, RFC 4443), about packets that it could not pass on.
//!
//! No error is about another error, about any part of a packet but the first, or to a group (RFC 1122, section 3.2.2).
//! An error quotes as much of the packet as fits into the smallest packet that everybody takes.

use std::net::IpAddr;

use super::frames::{self, Stations};
use crate::net::packet::Packet;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::PROTOCOL_ICMP;
use crate::wire::ipv6::{self, NEXT_HEADER_ICMPV6};

/// How much of a packet is quoted over IPv4, so that the error has 576 bytes at most (RFC 1812, section 4.3.2.3).
const QUOTE_V4: usize = 548;
/// The same over IPv6: 1280 bytes at most.
const QUOTE_V6: usize = 1232;

/// Why there is no way to a destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreachable {
    /// No route leads there.
    Net,
    /// The host does not answer.
    Host,
    /// The protocol is not passed on.
    Protocol,
    /// Nobody listens on the port.
    Port,
    /// It is not allowed.
    Prohibited,
}

/// What was wrong with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// There is no way.
    Unreachable(Unreachable),
    /// It is larger than the way allows, and must not be cut into parts.
    TooBig {
        /// The largest packet that passes.
        mtu: u32,
    },
    /// It has been passed on too often.
    TimeExceeded,
}

impl Problem {
    /// Type, code and the last four bytes of the header.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::Unreachable(Unreachable::Net) => (3, 0, 0),
            Self::Unreachable(Unreachable::Host) => (3, 1, 0),
            Self::Unreachable(Unreachable::Protocol) => (3, 2, 0),
            Self::Unreachable(Unreachable::Port) => (3, 3, 0),
            Self::Unreachable(Unreachable::Prohibited) => (3, 13, 0),
            Self::TooBig { mtu } => (3, 4, if mtu > 0xffff { 0xffff } else { mtu }),
            Self::TimeExceeded => (11, 0, 0),
        }
    }

    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::Unreachable(Unreachable::Net) => (1, 0, 0),
            Self::Unreachable(Unreachable::Prohibited) => (1, 1, 0),
            Self::Unreachable(Unreachable::Host) => (1, 3, 0),
            Self::Unreachable(Unreachable::Port) => (1, 4, 0),
            // A next header that is not known, where the fixed header ends (RFC 4443, section 3.4).
            Self::Unreachable(Unreachable::Protocol) => (4, 1, 6),
            Self::TooBig { mtu } => (2, 0, mtu),
            Self::TimeExceeded => (3, 0, 0),
        }
    }
}

/// Whether an error about a packet may be sent to whoever sent it. `transport` is what its payload begins with.
pub fn may_answer(packet: &Packet, transport: &[u8]) -> bool {
    let first = packet.fragment.is_none_or(|part| part.offset == 0);
    let group = packet.dst.is_multicast() || packet.src.is_multicast();
    let nobody = packet.src.is_unspecified() || packet.src.is_loopback();
    let kind = transport.first().copied();
    let error = match packet.protocol {
        PROTOCOL_ICMP => !matches!(kind, Some(0 | 8 | 13 | 14)),
        NEXT_HEADER_ICMPV6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    };
    first && !group && !nobody && !error
}

/// Builds the frame that tells of a problem. `original` is the packet, from its IP header on, or the start of it.
/// `None` where the addresses are not of one family.
pub fn emit(
    stations: Stations,
    from: IpAddr,
    to: IpAddr,
    problem: Problem,
    original: &[u8],
) -> Option<Vec<u8>> {
    let (kind, code, rest) = match from {
        IpAddr::V4(_) => problem.v4(),
        IpAddr::V6(_) => problem.v6(),
    };
    let limit = if from.is_ipv4() { QUOTE_V4 } else { QUOTE_V6 };
    let quote = &original[..original.len().min(limit)];
    let mut message = Vec::with_capacity(8 + quote.len());
    message.extend([kind, code, 0, 0]);
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    let (protocol, sum) = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (PROTOCOL_ICMP, Sum::default()),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = u16::try_from(message.len()).ok()?;
            (
                NEXT_HEADER_ICMPV6,
                ipv6::pseudo_header(from, to, NEXT_HEADER_ICMPV6, len),
            )
        }
        _ => return None,
    };
    let sum = sum.over(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frames::emit(stations, from, to, protocol, frames::HOP_LIMIT, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::checksum;
    use crate::wire::ethernet::MacAddr;

    const STATIONS: Stations = Stations {
        gateway: MacAddr([2, 0, 0, 0, 0, 0xfe]),
        guest: MacAddr([2, 0, 0, 0, 0, 1]),
    };

    fn addresses(v6: bool) -> (IpAddr, IpAddr) {
        match v6 {
            false => ([192, 168, 81, 2].into(), [192, 168, 81, 128].into()),
            true => ("fd00::2".parse().unwrap(), "fd00::128".parse().unwrap()),
        }
    }

    /// Builds an error about a packet of `len` bytes; returns its frame and the ICMP message in it.
    fn error(v6: bool, problem: Problem, len: usize) -> (Vec<u8>, Vec<u8>) {
        let (from, to) = addresses(v6);
        let frame = emit(STATIONS, from, to, problem, &vec![7; len]).unwrap();
        let at = 14 + frames::ip_header_len(from);
        let message = frame[at..].to_vec();
        (frame, message)
    }

    #[test]
    fn errors_are_called_what_the_rfcs_call_them() {
        let cases = [
            (Problem::Unreachable(Unreachable::Net), [3, 0], [1, 0]),
            (Problem::Unreachable(Unreachable::Host), [3, 1], [1, 3]),
            (Problem::Unreachable(Unreachable::Protocol), [3, 2], [4, 1]),
            (Problem::Unreachable(Unreachable::Port), [3, 3], [1, 4]),
            (
                Problem::Unreachable(Unreachable::Prohibited),
                [3, 13],
                [1, 1],
            ),
            (Problem::TooBig { mtu: 1280 }, [3, 4], [2, 0]),
            (Problem::TimeExceeded, [11, 0], [3, 0]),
        ];
        for (problem, v4, v6) in cases {
            assert_eq!(error(false, problem, 40).1[..2], v4, "{problem:?}");
            assert_eq!(error(true, problem, 60).1[..2], v6, "{problem:?}");
        }
        let told = [false, true].map(|v6| error(v6, Problem::TooBig { mtu: 1280 }, 60).1);
        assert_eq!(told[0][4..8], [0, 0, 5, 0], "the MTU is told");
        assert_eq!(told[1][4..8], [0, 0, 5, 0]);
    }

    #[test]
    fn the_checksums_are_right() {
        let (_, message) = error(false, Problem::TimeExceeded, 41);
        assert_eq!(checksum(&message), 0);
        let (_, message) = error(true, Problem::TimeExceeded, 41);
        let (IpAddr::V6(from), IpAddr::V6(to)) = addresses(true) else {
            panic!("they are of IPv6");
        };
        let len = u16::try_from(message.len()).unwrap();
        let sum = ipv6::pseudo_header(from, to, NEXT_HEADER_ICMPV6, len);
        assert_eq!(sum.over(&message).finish(), 0);
    }

    #[test]
    fn as_much_is_quoted_as_everybody_takes() {
        assert_eq!(error(false, Problem::TimeExceeded, 1500).0.len(), 14 + 576);
        assert_eq!(error(true, Problem::TimeExceeded, 1500).0.len(), 14 + 1280);
    }

    #[test]
    fn errors_are_not_about_errors_or_later_parts_or_groups() {
        use crate::net::packet::Fragment;

        let packet = Packet {
            mac: STATIONS.guest,
            src: [192, 168, 81, 128].into(),
            dst: [203, 0, 113, 9].into(),
            protocol: PROTOCOL_ICMP,
            hop_limit: 1,
            fragment: None,
            dont_fragment: true,
            ip_at: 14,
            transport_at: 34,
            end: 42,
        };
        assert!(may_answer(&packet, &[8, 0]));
        assert!(!may_answer(&packet, &[3, 3]) && !may_answer(&packet, &[]));
        let part = |offset| Packet {
            protocol: 17,
            fragment: Some(Fragment {
                id: 1,
                offset,
                more: true,
            }),
            ..packet
        };
        assert!(may_answer(&part(0), &[]) && !may_answer(&part(8), &[]));
        let group = Packet {
            dst: [224, 0, 0, 1].into(),
            ..packet
        };
        assert!(!may_answer(&group, &[8, 0]));
    }
}
