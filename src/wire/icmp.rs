//! ICMP (RFC 792): echo, and errors about packets that could not be passed on.

use std::net::Ipv4Addr;

use super::checksum::checksum;
use super::ipv4::{self, PROTOCOL_ICMP};
use super::{be16, be32};

/// Length of what precedes the body of a message.
const MESSAGE_HEADER_LEN: usize = 8;
/// Length of the header of the packet that carries an error.
const HEADER_LEN: usize = 20;
/// How large a packet with an error may be (RFC 1812, section 4.3.2.3).
const MAX_ERROR: usize = 576;
/// Types of messages that are no errors: echo, router discovery, timestamps, information and address masks.
const INFORMATIONAL: [u8; 10] = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18];

/// Why a packet could not be passed on, in either version of IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// There is no way to its network.
    Network,
    /// Its host cannot be reached.
    Host,
    /// Its transport protocol is not known.
    Protocol,
    /// Nobody listens on its port.
    Port,
    /// It may not go there.
    Prohibited,
    /// It is larger than what the next link carries, and must not be cut into fragments.
    TooBig {
        /// What that link carries.
        mtu: u16,
    },
    /// It passed too many routers.
    TimeExceeded,
    /// Not all of its fragments came in time.
    Reassembly,
}

/// Builds the reply to an echo request; `None` for anything else, or a request whose checksum is wrong.
pub fn echo_reply(request: &[u8], partial: bool) -> Option<Vec<u8>> {
    if request.len() < 8 || request[..2] != [8, 0] || (!partial && checksum(request) != 0) {
        return None;
    }
    let mut reply = request.to_vec();
    reply[..4].fill(0);
    let sum = checksum(&reply);
    reply[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(reply)
}

/// Builds the packet from `src` that tells the sender of `original`, an IPv4 packet, what became of it, with as much of it
/// as fits.
///
/// `None` where no error may be sent (RFC 1122, section 3.2.2): about an error, about a fragment that is not the first, to
/// or about a group or nobody. The caller sees to broadcasts of a subnet or a link.
pub fn error(error: Error, src: Ipv4Addr, original: &[u8]) -> Option<Vec<u8>> {
    let header = original.get(..HEADER_LEN)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let sender = Ipv4Addr::from_bits(be32(header, 12)?);
    let receiver = Ipv4Addr::from_bits(be32(header, 16)?);
    let nobody = |ip: Ipv4Addr| ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
    // An error about a message whose type is not there might be one about an error.
    let is_error = header[9] == PROTOCOL_ICMP
        && original
            .get(header_len)
            .is_none_or(|kind| !INFORMATIONAL.contains(kind));
    if header[0] >> 4 != 4
        || header_len < HEADER_LEN
        || be16(header, 6)? & 0x1fff != 0
        || nobody(sender)
        || sender.is_loopback()
        || nobody(receiver)
        || is_error
    {
        return None;
    }
    let (kind, code, mtu) = match error {
        Error::Network => (3, 0, 0),
        Error::Host => (3, 1, 0),
        Error::Protocol => (3, 2, 0),
        Error::Port => (3, 3, 0),
        Error::TooBig { mtu } => (3, 4, mtu),
        Error::Prohibited => (3, 13, 0),
        Error::TimeExceeded => (11, 0, 0),
        Error::Reassembly => (11, 1, 0),
    };
    let quoted = usize::from(be16(header, 2)?)
        .max(header_len)
        .min(original.len())
        .min(MAX_ERROR - HEADER_LEN - MESSAGE_HEADER_LEN);
    let mut message = Vec::with_capacity(MESSAGE_HEADER_LEN + quoted);
    message.extend_from_slice(&[kind, code, 0, 0, 0, 0]);
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(original.get(..quoted)?);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4::emit(src, sender, PROTOCOL_ICMP, &message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ipv4::{Ipv4, PROTOCOL_UDP};
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 128);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    #[test]
    fn an_echo_is_answered_with_its_payload_and_a_right_checksum() {
        let mut request = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'v', b'm'];
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        let reply = echo_reply(&request, false).unwrap();
        assert_eq!((reply[0], &reply[4..]), (0, &request[4..]));
        assert_eq!(checksum(&reply), 0);
        assert_eq!(echo_reply(&reply, false), None, "a reply is not answered");
        request[9] ^= 1;
        assert_eq!(
            echo_reply(&request, false),
            None,
            "a damaged request is not answered"
        );
    }

    #[test]
    fn errors_have_the_types_and_codes_of_the_rfcs() {
        let original = ipv4::emit(GUEST, REMOTE, PROTOCOL_UDP, &[7; 20]).unwrap();
        for (kind, head) in [
            (Error::Network, [3, 0, 0, 0]),
            (Error::Host, [3, 1, 0, 0]),
            (Error::Protocol, [3, 2, 0, 0]),
            (Error::Port, [3, 3, 0, 0]),
            (Error::TooBig { mtu: 1400 }, [3, 4, 5, 120]),
            (Error::Prohibited, [3, 13, 0, 0]),
            (Error::TimeExceeded, [11, 0, 0, 0]),
            (Error::Reassembly, [11, 1, 0, 0]),
        ] {
            let bytes = error(kind, GATEWAY, &original).unwrap();
            let told = Ipv4::parse(&bytes).unwrap();
            assert_eq!((told.src, told.dst, told.protocol), (GATEWAY, GUEST, 1));
            assert_eq!(checksum(told.payload), 0);
            assert_eq!(told.payload[..2], head[..2], "{kind:?}");
            assert_eq!(told.payload[4..8], [0, 0, head[2], head[3]], "{kind:?}");
            assert_eq!(&told.payload[8..], original);
        }
    }

    #[test]
    fn a_long_packet_is_quoted_up_to_what_hosts_must_take() {
        let original = ipv4::emit(GUEST, REMOTE, PROTOCOL_UDP, &[7; 1400]).unwrap();
        let told = error(Error::Port, GATEWAY, &original).unwrap();
        assert_eq!(told.len(), 576);
        assert_eq!(&told[28..], &original[..548]);
        let padded = [&original[..28], &[0; 18]].concat();
        let told = error(Error::Port, GATEWAY, &padded).unwrap();
        assert_eq!(told.len(), 28 + 46, "as far as it is there");
    }

    #[test]
    fn some_packets_must_not_be_answered_with_errors() {
        let error = |original: &[u8]| error(Error::Host, GATEWAY, original);
        let udp = |src, dst| ipv4::emit(src, dst, PROTOCOL_UDP, &[0; 8]).unwrap();
        let icmp = |kind| ipv4::emit(GUEST, REMOTE, PROTOCOL_ICMP, &[kind, 0, 0, 0]).unwrap();
        assert!(error(&udp(GUEST, REMOTE)).is_some());
        assert_eq!(error(&udp(GUEST, Ipv4Addr::BROADCAST)), None);
        assert_eq!(error(&udp(GUEST, Ipv4Addr::new(224, 0, 0, 251))), None);
        assert_eq!(error(&udp(Ipv4Addr::UNSPECIFIED, REMOTE)), None);
        assert_eq!(error(&udp(Ipv4Addr::new(127, 0, 0, 1), REMOTE)), None);
        assert!(error(&icmp(8)).is_some());
        assert_eq!(error(&icmp(3)), None, "an error");
        assert_eq!(error(&icmp(8)[..20]), None, "perhaps an error");
        let mut fragment = udp(GUEST, REMOTE);
        fragment[7] = 1;
        assert_eq!(error(&fragment), None);
        fragment[6..8].copy_from_slice(&[0x20, 0]);
        assert!(error(&fragment).is_some(), "the first fragment");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), v4: bool) {
            if v4 && let Some(first) = bytes.first_mut() {
                *first = 0x45;
            }
            if let Some(told) = error(Error::Port, GATEWAY, &bytes) {
                prop_assert!(told.len() <= MAX_ERROR && Ipv4::parse(&told).is_some());
            }
            let _ = echo_reply(&bytes, true);
        }
    }
}
