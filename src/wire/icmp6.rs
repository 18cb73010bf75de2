//! ICMPv6 (RFC 4443): the checksum, echo, and errors about packets that could not be passed on.
//!
//! Neighbour discovery, which is ICMPv6 too, is in [`super::nd`], and listener discovery in [`super::mld`].

use std::net::Ipv6Addr;

use super::be16;
use super::icmp::Error;
use super::ipv6::{self, HEADER_LEN, Ipv6, NEXT_HEADER_ICMPV6};

/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 129;

/// Length of what precedes the body of a message.
const MESSAGE_HEADER_LEN: usize = 8;
/// Types from here on are no errors.
const INFORMATIONAL: u8 = 128;
/// Type of a redirect, which answers a packet as errors do.
const REDIRECT: u8 = 137;
/// How large a packet with an error may be: what every link carries (RFC 8200, section 5).
const MAX_ERROR: usize = 1280;
const HOP_LIMIT: u8 = 64;
/// Extension headers that are walked over before one gives up looking for what a packet carries.
const EXTENSIONS: usize = 8;

/// Whether a packet is an ICMPv6 message with a right checksum. A checksum that the sender left to be completed is not
/// verified.
pub fn is_valid(packet: &Ipv6<'_>, partial: bool) -> bool {
    let Ok(len) = u16::try_from(packet.payload.len()) else {
        return false;
    };
    packet.next_header == NEXT_HEADER_ICMPV6
        && len >= 4
        && (partial
            || ipv6::pseudo_header(packet.src, packet.dst, NEXT_HEADER_ICMPV6, len)
                .over(packet.payload)
                .finish()
                == 0)
}

/// Builds the packet that carries a message, and fills in the message's checksum; `None` where it does not fit into one.
pub fn emit(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, mut message: Vec<u8>) -> Option<Vec<u8>> {
    let len = u16::try_from(message.len()).ok()?;
    message.get_mut(2..4)?.fill(0);
    let sum = ipv6::pseudo_header(src, dst, NEXT_HEADER_ICMPV6, len)
        .over(&message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ipv6 {
        src,
        dst,
        next_header: NEXT_HEADER_ICMPV6,
        hop_limit,
        payload: &message,
    }
    .emit()
}

/// Builds the packet from `src` that answers an echo request; `None` for anything else, or a request whose checksum is
/// wrong.
pub fn echo_reply(request: &Ipv6<'_>, src: Ipv6Addr, partial: bool) -> Option<Vec<u8>> {
    if !is_valid(request, partial)
        || request.payload.len() < MESSAGE_HEADER_LEN
        || request.payload[..2] != [ECHO_REQUEST, 0]
        || request.src.is_unspecified()
        || request.src.is_multicast()
    {
        return None;
    }
    let mut message = request.payload.to_vec();
    message[0] = ECHO_REPLY;
    emit(src, request.src, HOP_LIMIT, message)
}

/// Builds the packet from `src` that tells the sender of `original`, an IPv6 packet, what became of it, with as much of it
/// as fits.
///
/// `None` where no error may be sent (RFC 4443, section 2.4): about an error or a redirect, to a group or nobody, and
/// about packets to a group, which only [`Error::TooBig`] may be.
pub fn error(error: Error, src: Ipv6Addr, original: &[u8]) -> Option<Vec<u8>> {
    let header = original.get(..HEADER_LEN)?;
    let address = |at: usize| -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?))
    };
    let (sender, receiver) = (address(8)?, address(24)?);
    let silent = sender.is_unspecified()
        || sender.is_multicast()
        || receiver.is_multicast() && !matches!(error, Error::TooBig { .. });
    if header[0] >> 4 != 6 || silent || is_error(original) {
        return None;
    }
    let (kind, code, rest) = match error {
        Error::Network => (1, 0, 0),
        Error::Prohibited => (1, 1, 0),
        Error::Host => (1, 3, 0),
        Error::Port => (1, 4, 0),
        Error::TooBig { mtu } => (2, 0, u32::from(mtu.max(1280))),
        Error::TimeExceeded => (3, 0, 0),
        Error::Reassembly => (3, 1, 0),
        // The pointer leads to the next header field.
        Error::Protocol => (4, 1, 6),
    };
    let len = usize::from(be16(header, 4)?) + HEADER_LEN;
    let quoted = len
        .min(original.len())
        .min(MAX_ERROR - HEADER_LEN - MESSAGE_HEADER_LEN);
    let mut message = Vec::with_capacity(MESSAGE_HEADER_LEN + quoted);
    message.extend_from_slice(&[kind, code, 0, 0]);
    message.extend_from_slice(&rest.to_be_bytes());
    message.extend_from_slice(original.get(..quoted)?);
    emit(src, sender, HOP_LIMIT, message)
}

/// Whether a packet is an ICMPv6 error or a redirect. One whose headers cannot be followed counts as one.
fn is_error(packet: &[u8]) -> bool {
    let follow = || {
        let mut next_header = *packet.get(6)?;
        let mut at = HEADER_LEN;
        for _ in 0..EXTENSIONS {
            match next_header {
                NEXT_HEADER_ICMPV6 => {
                    let kind = *packet.get(at)?;
                    return Some(kind < INFORMATIONAL || kind == REDIRECT);
                }
                // Hop-by-hop options, routing, destination options.
                0 | 43 | 60 => {
                    next_header = *packet.get(at)?;
                    at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
                }
                // A fragment: the first tells what it carries, of the others it is not known.
                44 => {
                    if be16(packet, at + 2)? & 0xfff8 != 0 {
                        return Some(*packet.get(at)? == NEXT_HEADER_ICMPV6);
                    }
                    next_header = *packet.get(at)?;
                    at += 8;
                }
                _ => return Some(false),
            }
        }
        None
    };
    follow().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guest() -> Ipv6Addr {
        "fd00::80".parse().unwrap()
    }

    fn gateway() -> Ipv6Addr {
        "fd00::2".parse().unwrap()
    }

    fn remote() -> Ipv6Addr {
        "2001:db8::1".parse().unwrap()
    }

    fn packet(dst: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
        Ipv6 {
            src: guest(),
            dst,
            next_header,
            hop_limit: 64,
            payload,
        }
        .emit()
        .unwrap()
    }

    #[test]
    fn an_echo_is_answered_with_its_payload_and_a_right_checksum() {
        let message = vec![ECHO_REQUEST, 0, 0, 0, 0x12, 0x34, 0, 1, b'v', b'm', b'6'];
        let mut bytes = emit(guest(), gateway(), 64, message).unwrap();
        let request = Ipv6::parse(&bytes).unwrap();
        let reply = echo_reply(&request, gateway(), false).unwrap();
        let reply = Ipv6::parse(&reply).unwrap();
        assert!(is_valid(&reply, false));
        assert_eq!((reply.src, reply.dst), (gateway(), guest()));
        assert_eq!(
            (reply.payload[0], &reply.payload[4..]),
            (ECHO_REPLY, &request.payload[4..])
        );
        assert_eq!(echo_reply(&reply, gateway(), false), None);
        bytes[50] ^= 1;
        let request = Ipv6::parse(&bytes).unwrap();
        assert_eq!(echo_reply(&request, gateway(), false), None);
        assert!(echo_reply(&request, gateway(), true).is_some());
    }

    #[test]
    fn the_checksum_is_the_one_of_a_known_packet() {
        // An echo request from fe80::1 to fe80::2, identifier 1, sequence 1, summed by hand:
        // fe80 + 1 + fe80 + 2 + 8 + 3a + 8000 + 1 + 1 = 27d47, with the carry 7d49, complemented 82b6.
        let bytes = emit(
            "fe80::1".parse().unwrap(),
            "fe80::2".parse().unwrap(),
            64,
            vec![128, 0, 0, 0, 0, 1, 0, 1],
        );
        assert_eq!(bytes.unwrap()[42..44], [0x82, 0xb6]);
    }

    #[test]
    fn errors_have_the_types_and_codes_of_the_rfc() {
        let original = packet(remote(), 17, &[7; 20]);
        for (kind, head) in [
            (Error::Network, [1, 0, 0, 0, 0, 0]),
            (Error::Prohibited, [1, 1, 0, 0, 0, 0]),
            (Error::Host, [1, 3, 0, 0, 0, 0]),
            (Error::Port, [1, 4, 0, 0, 0, 0]),
            (Error::TooBig { mtu: 1400 }, [2, 0, 0, 0, 5, 120]),
            (Error::TooBig { mtu: 576 }, [2, 0, 0, 0, 5, 0]),
            (Error::TimeExceeded, [3, 0, 0, 0, 0, 0]),
            (Error::Reassembly, [3, 1, 0, 0, 0, 0]),
            (Error::Protocol, [4, 1, 0, 0, 0, 6]),
        ] {
            let bytes = error(kind, gateway(), &original).unwrap();
            let told = Ipv6::parse(&bytes).unwrap();
            assert!(is_valid(&told, false));
            assert_eq!((told.src, told.dst), (gateway(), guest()));
            assert_eq!(told.payload[..2], head[..2], "{kind:?}");
            assert_eq!(told.payload[4..8], head[2..], "{kind:?}");
            assert_eq!(&told.payload[8..], original);
        }
    }

    #[test]
    fn a_long_packet_is_quoted_up_to_what_every_link_carries() {
        let original = packet(remote(), 17, &[7; 1400]);
        let told = error(Error::TooBig { mtu: 1300 }, gateway(), &original).unwrap();
        assert_eq!(told.len(), 1280);
        assert_eq!(&told[48..], &original[..1232]);
        let short = error(Error::Host, gateway(), &original[..60]).unwrap();
        assert_eq!(
            &short[48..],
            &original[..60],
            "what is not there is not quoted"
        );
    }

    #[test]
    fn some_packets_must_not_be_answered_with_errors() {
        let error = |original: &[u8]| error(Error::Host, gateway(), original);
        let group = "ff02::1".parse().unwrap();
        assert_eq!(error(&packet(group, 17, &[0; 8])), None);
        assert!(
            super::error(
                Error::TooBig { mtu: 1280 },
                gateway(),
                &packet(group, 17, &[0; 8])
            )
            .is_some()
        );
        assert_eq!(error(&packet(remote(), 58, &[1, 0, 0, 0])), None);
        assert_eq!(error(&packet(remote(), 58, &[REDIRECT, 0, 0, 0])), None);
        assert!(error(&packet(remote(), 58, &[128, 0, 0, 0])).is_some());
        let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &[3, 0, 0, 0]].concat();
        assert_eq!(
            error(&packet(remote(), 60, &behind)),
            None,
            "behind an extension"
        );
        let fragment = [&[58, 0, 0, 0, 0, 0, 0, 1][..], &[3, 0]].concat();
        assert_eq!(error(&packet(remote(), 44, &fragment)), None);
        let fragment = [&[58, 0, 0, 8, 0, 0, 0, 1][..], &[3, 0]].concat();
        assert_eq!(error(&packet(remote(), 44, &fragment)), None);
        let fragment = [&[17, 0, 0, 8, 0, 0, 0, 1][..], &[3, 0]].concat();
        assert!(error(&packet(remote(), 44, &fragment)).is_some());
        assert_eq!(error(&packet(remote(), 60, &[])), None, "cannot be told");
        let loops = [60, 0, 1, 4, 0, 0, 0, 0].repeat(100);
        assert_eq!(error(&packet(remote(), 60, &loops)), None, "given up");
        let mut nobody = packet(remote(), 17, &[0; 8]);
        nobody[8..24].fill(0);
        assert_eq!(error(&nobody), None);
        assert_eq!(error(&[0x45; 60]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if v6 && let Some(first) = bytes.first_mut() {
                *first = 0x60;
            }
            if let Some(told) = error(Error::Port, gateway(), &bytes) {
                prop_assert!(told.len() <= MAX_ERROR);
                prop_assert!(is_valid(&Ipv6::parse(&told).unwrap(), false));
            }
            if let Some(packet) = Ipv6::parse(&bytes) {
                let _ = echo_reply(&packet, gateway(), true);
            }
        }
    }
}
