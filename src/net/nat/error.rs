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
