//! IPv6 headers (RFC 8200): the fixed one, and no extensions.

use std::net::Ipv6Addr;

use super::be16;
use super::checksum::Sum;
use super::ethernet::MacAddr;

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 40;
/// The next header value of ICMPv6 (RFC 4443).
pub const NEXT_HEADER_ICMPV6: u8 = 58;

/// An IPv6 packet, read but not copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv6<'a> {
    /// The source address.
    pub src: Ipv6Addr,
    /// The destination address.
    pub dst: Ipv6Addr,
    /// What the payload begins with: an extension header or a transport protocol.
    pub next_header: u8,
    /// How many routers may still pass the packet on.
    pub hop_limit: u8,
    /// The payload, cut to the length that the header gives.
    pub payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Reads a packet whose bytes are all there.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER_LEN>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| -> Option<Ipv6Addr> {
            Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?))
        };
        Some(Self {
            src: address(8)?,
            dst: address(24)?,
            next_header: header[6],
            hop_limit: header[7],
            payload: rest.get(..usize::from(be16(header, 4)?))?,
        })
    }

    /// Builds the packet; `None` where the payload does not fit into one.
    pub fn emit(&self) -> Option<Vec<u8>> {
        let len = u16::try_from(self.payload.len()).ok()?;
        let mut packet = Vec::with_capacity(HEADER_LEN + self.payload.len());
        packet.extend_from_slice(&[0x60, 0, 0, 0]);
        packet.extend_from_slice(&len.to_be_bytes());
        packet.extend_from_slice(&[self.next_header, self.hop_limit]);
        packet.extend_from_slice(&self.src.octets());
        packet.extend_from_slice(&self.dst.octets());
        packet.extend_from_slice(self.payload);
        Some(packet)
    }
}

/// Returns the group in which the owner of an address listens for solicitations (RFC 4291, section 2.7.1).
pub const fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | (ip.to_bits() & 0x00ff_ffff))
}

/// Returns the hardware address to which packets for a group are sent (RFC 2464, section 7).
pub const fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Returns the interface identifier that belongs to a hardware address (RFC 4291, appendix A).
pub const fn interface_identifier(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Returns the sum over the pseudo-header of a transport protocol (RFC 8200, section 8.1).
pub fn pseudo_header(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, len: u16) -> Sum {
    Sum::default()
        .over(&src.octets())
        .over(&dst.octets())
        .add_word(len)
        .add_word(u16::from(next_header))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[rustfmt::skip]
    const BYTES: [u8; 43] = [
        0x60, 0, 0, 0, 0, 3, 58, 64,
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        b'a', b'b', b'c',
    ];

    fn packet() -> Ipv6<'static> {
        Ipv6 {
            src: "fe80::1".parse().unwrap(),
            dst: "ff02::2".parse().unwrap(),
            next_header: NEXT_HEADER_ICMPV6,
            hop_limit: 64,
            payload: b"abc",
        }
    }

    #[test]
    fn a_packet_is_read_and_written_as_the_rfc_says() {
        assert_eq!(packet().emit().unwrap(), BYTES);
        let padded = [&BYTES[..], &[0; 9]].concat();
        assert_eq!(Ipv6::parse(&padded), Some(packet()), "padding is cut off");
        let mut marked = BYTES;
        marked[..4].copy_from_slice(&[0x6f, 0xff, 0xff, 0xff]);
        assert_eq!(Ipv6::parse(&marked), Some(packet()));
    }

    #[test]
    fn lengths_and_versions_that_lie_are_refused() {
        for len in 0..BYTES.len() {
            assert_eq!(Ipv6::parse(&BYTES[..len]), None, "{len}");
        }
        let mut wrong = BYTES;
        wrong[0] = 0x40;
        assert_eq!(Ipv6::parse(&wrong), None);
        let mut wrong = BYTES;
        wrong[4] = 1;
        assert_eq!(Ipv6::parse(&wrong), None);
    }

    #[test]
    fn a_payload_that_fits_into_no_packet_is_not_written() {
        let long = vec![0; 65536];
        let packet = |len| Ipv6 {
            payload: &long[..len],
            ..packet()
        };
        assert_eq!(packet(65535).emit().unwrap().len(), 65575);
        assert_eq!(packet(65536).emit(), None);
    }

    #[test]
    fn the_pseudo_header_is_addresses_length_and_next_header() {
        let Ipv6 { src, dst, .. } = packet();
        // fe80 + 1 + ff02 + 2 + 3 + 58 = 1fdc2, and the carry comes round.
        assert_eq!(pseudo_header(src, dst, 58, 3).fold(), 0xfdc3);
    }

    #[test]
    fn groups_have_the_addresses_of_the_rfcs() {
        let ip: Ipv6Addr = "4037::01:800:200e:8c6c".parse().unwrap();
        let group = solicited_node(ip);
        assert_eq!(group, "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            group_mac(group),
            MacAddr([0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c])
        );
    }

    #[test]
    fn an_identifier_is_that_of_the_appendix() {
        let identifier = interface_identifier(MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]));
        assert_eq!(identifier, 0x3656_78ff_fe9a_bcde);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Ipv6::parse(&bytes);
        }
    }
}
