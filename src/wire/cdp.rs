//! CDP messages, versions 1 and 2, as Cisco's switches send them: read, and not written.
//!
//! # Theory of operation
//!
//! No standard describes CDP; this follows what its maker published of the format. A message travels in an IEEE 802.3
//! frame with LLC and SNAP headers. It is a version, a time to live in seconds, a checksum, and a row of TLVs whose
//! lengths count their own headers. A message with a wrong checksum, with a length that lies, or without device and
//! port is refused; a TLV that makes no sense, or that came before, is passed over. Texts are bytes here: whoever shows
//! them has to make them fit to be shown.
//!
//! The checksum is that of the Internet, but for messages of odd length, where senders differ in what the last byte is:
//! the high half of a word (RFC 1071), the low half, or a number with a sign. Any of the three is taken for right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use super::ethernet::{Ethernet, MacAddr};
use super::{be16, be32};

/// The group address of CDP, and of other protocols of Cisco's.
pub const GROUP: MacAddr = MacAddr([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc]);

/// LLC and SNAP headers: unnumbered information of organization 00-00-0c, protocol 0x2000.
const SNAP: [u8; 8] = [0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x20, 0x00];
/// The largest length that an 802.3 frame has in place of an EtherType.
const MAX_LENGTH: u16 = 1500;

/// Types of TLVs.
mod tlv {
    pub(super) const DEVICE: u16 = 0x0001;
    pub(super) const ADDRESSES: u16 = 0x0002;
    pub(super) const PORT: u16 = 0x0003;
    pub(super) const PLATFORM: u16 = 0x0006;
    pub(super) const NATIVE_VLAN: u16 = 0x000a;
    pub(super) const MTU: u16 = 0x0011;
    pub(super) const SYSTEM_NAME: u16 = 0x0014;
    pub(super) const MANAGEMENT_ADDRESSES: u16 = 0x0016;
}

/// The protocol of an address that is IPv4: a network layer protocol identifier.
const IPV4: (u8, &[u8]) = (1, &[0xcc]);
/// The protocol of an address that is IPv6: an EtherType behind LLC and SNAP.
const IPV6: (u8, &[u8]) = (2, &[0xaa, 0xaa, 0x03, 0, 0, 0, 0x86, 0xdd]);

/// Tells whether a frame is CDP, whatever it holds.
pub fn is_cdp(frame: &Ethernet<'_>) -> bool {
    frame.dst == GROUP && frame.ethertype <= MAX_LENGTH && frame.payload.starts_with(&SNAP)
}

/// A message, read but not copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cdp<'a> {
    /// For how many seconds this holds; 0 takes back what was said before.
    pub ttl: u8,
    /// The sender: its name, or its serial number.
    pub device: &'a [u8],
    /// The sender's port.
    pub port: &'a [u8],
    /// What kind of device the sender is.
    pub platform: Option<&'a [u8]>,
    /// The sender's name, where it is told besides.
    pub system: Option<&'a [u8]>,
    /// An address of the sender's: where it is managed, if it says so.
    pub address: Option<IpAddr>,
    /// The VLAN of the port's untagged frames.
    pub native_vlan: Option<u16>,
    /// The largest packet of the port.
    pub mtu: Option<u32>,
}

impl<'a> Cdp<'a> {
    /// Reads a CDP frame.
    pub fn parse(frame: &Ethernet<'a>) -> Option<Self> {
        if !is_cdp(frame) {
            return None;
        }
        let message = frame
            .payload
            .get(SNAP.len()..usize::from(frame.ethertype))?;
        let &[version, ttl, _, _] = message.first_chunk()?;
        if !matches!(version, 1 | 2) || !checksum_is_right(message) {
            return None;
        }
        let (mut device, mut port, mut managed, mut own) = (None, None, None, None);
        let (mut platform, mut system) = (None, None);
        let (mut native_vlan, mut mtu) = (None, None);
        let mut rest = message.get(4..)?;
        while !rest.is_empty() {
            let len = usize::from(be16(rest, 2)?);
            let value = rest.get(4..len)?;
            match be16(rest, 0)? {
                tlv::DEVICE => note(&mut device, text(value)),
                tlv::PORT => note(&mut port, text(value)),
                tlv::PLATFORM => note(&mut platform, text(value)),
                tlv::SYSTEM_NAME => note(&mut system, text(value)),
                tlv::ADDRESSES => note(&mut own, first_address(value)),
                tlv::MANAGEMENT_ADDRESSES => note(&mut managed, first_address(value)),
                tlv::NATIVE_VLAN => note(&mut native_vlan, be16(value, 0)),
                tlv::MTU => note(&mut mtu, be32(value, 0)),
                _ => {}
            }
            rest = rest.get(len..)?;
        }
        Some(Self {
            ttl,
            device: device?,
            port: port?,
            platform,
            system,
            address: managed.or(own),
            native_vlan,
            mtu,
        })
    }
}

/// Notes what was read, unless something was before.
fn note<T>(field: &mut Option<T>, read: Option<T>) {
    if field.is_none() {
        *field = read;
    }
}

fn text(value: &[u8]) -> Option<&[u8]> {
    (!value.is_empty()).then_some(value)
}

fn checksum_is_right(message: &[u8]) -> bool {
    let right = |sum: Sum| sum.finish() == 0;
    if right(Sum::default().over(message)) {
        return true;
    }
    let Some((&last, even)) = message.split_last() else {
        return false;
    };
    if even.len() % 2 != 0 {
        return false;
    }
    let even = Sum::default().over(even);
    let low = u16::from(last);
    // Less than zero as a signed byte; to take the difference to 256 off is to add its complement.
    let negative = last >= 0x80 && right(even.add_word(!(256 - low)));
    negative || right(even.add_word(low))
}

/// Returns the first IPv4 or IPv6 address of a list.
fn first_address(list: &[u8]) -> Option<IpAddr> {
    let mut rest = list.get(4..)?;
    for _ in 0..be32(list, 0)? {
        let (&[kind, len], after) = rest.split_first_chunk()?;
        let (protocol, after) = after.split_at_checked(usize::from(len))?;
        let (len, after) = after.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let (address, after) = after.split_at_checked(len)?;
        if (kind, protocol) == IPV4
            && let Ok(bytes) = <[u8; 4]>::try_from(address)
        {
            return Some(Ipv4Addr::from(bytes).into());
        }
        if (kind, protocol) == IPV6
            && let Ok(bytes) = <[u8; 16]>::try_from(address)
        {
            return Some(Ipv6Addr::from(bytes).into());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum::checksum;

    /// A message of version 2 that holds for 180 seconds, as a switch would send it, of even length.
    #[rustfmt::skip]
    const MESSAGE: [u8; 88] = [
        2, 180, 0x02, 0x3e,
        0, 1, 0, 7, b's', b'w', b'1', // device
        0, 2, 0, 17, 0, 0, 0, 1, 1, 1, 0xcc, 0, 4, 192, 0, 2, 1, // addresses
        0, 3, 0, 11, b'G', b'i', b'1', b'/', b'0', b'/', b'1', // port
        0, 6, 0, 10, b'c', b'i', b's', b'c', b'o', b'3', // platform
        0, 10, 0, 6, 0, 99, // native VLAN
        0, 0x11, 0, 8, 0, 0, 0x23, 0x28, // MTU
        0, 0x14, 0, 8, b's', b'w', b'-', b'a', // system name
        0, 0x16, 0, 17, 0, 0, 0, 1, 1, 1, 0xcc, 0, 4, 192, 0, 2, 9, // management addresses
    ];

    /// What precedes the message.
    fn frame(message: &[u8]) -> Vec<u8> {
        let len = u16::try_from(SNAP.len() + message.len()).unwrap();
        let src = [0, 0, 0x0c, 1, 2, 3];
        [&GROUP.0[..], &src, &len.to_be_bytes(), &SNAP, message].concat()
    }

    fn parse(frame: &[u8]) -> Option<Cdp<'_>> {
        Cdp::parse(&Ethernet::parse(frame).unwrap())
    }

    /// A message with the checksum of RFC 1071 over these TLVs.
    fn message(tlvs: &[u8]) -> Vec<u8> {
        let mut message = [&[1, 60, 0, 0], tlvs].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    const NAMES: [u8; 10] = [0, 1, 0, 5, b'd', 0, 3, 0, 5, b'p'];

    fn names(rest: &[u8]) -> Vec<u8> {
        frame(&message(&[&NAMES, rest].concat()))
    }

    const BARE: Cdp<'static> = Cdp {
        ttl: 60,
        device: b"d",
        port: b"p",
        platform: None,
        system: None,
        address: None,
        native_vlan: None,
        mtu: None,
    };

    #[test]
    fn a_message_is_read_with_all_that_it_says() {
        let expected = Cdp {
            ttl: 180,
            device: b"sw1",
            port: b"Gi1/0/1",
            platform: Some(b"cisco3"),
            system: Some(b"sw-a"),
            address: Some(Ipv4Addr::new(192, 0, 2, 9).into()),
            native_vlan: Some(99),
            mtu: Some(9000),
        };
        assert_eq!(parse(&frame(&MESSAGE)), Some(expected));
        let padded = [frame(&MESSAGE), vec![0x55; 20]].concat();
        assert_eq!(parse(&padded), Some(expected), "padding is cut off");
    }

    #[test]
    fn only_messages_behind_the_right_headers_are_cdp() {
        let right = frame(&MESSAGE);
        assert!(is_cdp(&Ethernet::parse(&right).unwrap()));
        // The group, an EtherType, LLC, the organization, the protocol (here VTP).
        for (at, byte) in [(5, 0xcd), (12, 8), (14, 0x42), (19, 0x0d), (21, 3)] {
            let mut wrong = right.clone();
            wrong[at] = byte;
            assert!(!is_cdp(&Ethernet::parse(&wrong).unwrap()), "{at}");
            assert_eq!(parse(&wrong), None);
        }
    }

    #[test]
    fn a_wrong_checksum_or_an_unknown_version_is_refused() {
        let mut wrong = MESSAGE;
        wrong[8] ^= 1;
        assert_eq!(parse(&frame(&wrong)), None);
        for (version, known) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut message = [&[version, 60, 0, 0], &NAMES[..]].concat();
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(parse(&frame(&message)).is_some(), known, "{version}");
        }
    }

    #[test]
    fn the_last_of_an_odd_number_of_bytes_is_summed_in_any_of_three_ways() {
        // The words but the last: 013c + 0001 + 0005 + 6400 + 0300 + 0670 = 6eb2.
        let odd = |sum: [u8; 2], last: u8| {
            let [high, low] = sum;
            frame(&[1, 60, high, low, 0, 1, 0, 5, b'd', 0, 3, 0, 6, b'p', last])
        };
        for (last, sums) in [
            // High half, low half.
            (0x71, &[[0x20, 0x4d], [0x90, 0xdc]][..]),
            // High half, low half, with its sign.
            (0xf1, &[[0xa0, 0x4c], [0x90, 0x5c], [0x91, 0x5c]]),
        ] {
            for sum in sums {
                let frame = odd(*sum, last);
                assert_eq!(parse(&frame).unwrap().port, [b'p', last], "{sum:x?}");
            }
            assert_eq!(parse(&odd([0x12, 0x34], last)), None);
        }
        // A small last byte has no sign to be read.
        assert_eq!(parse(&odd([0x91, 0xdc], 0x71)), None);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for lie in [
            &[0][..],
            &[0, 6, 0],
            &[0, 6, 0, 0],
            &[0, 6, 0, 3],
            &[0, 6, 0, 6, b'x'],
            &[0, 6, 0xff, 0xff, b'x'],
        ] {
            assert_eq!(parse(&names(lie)), None, "{lie:?}");
        }
        let whole = names(&[]);
        assert_eq!(parse(&whole), Some(BARE));
        for len in 14..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        for len in 0..12 {
            let mut short = whole.clone();
            short[13] = len;
            assert_eq!(parse(&short), None, "{len}");
        }
    }

    #[test]
    fn a_message_without_device_or_port_is_refused() {
        assert_eq!(parse(&frame(&message(&NAMES[..5]))), None);
        assert_eq!(parse(&frame(&message(&NAMES[5..]))), None);
        assert_eq!(
            parse(&frame(&message(&[0, 1, 0, 4, 0, 3, 0, 5, b'p']))),
            None
        );
        assert_eq!(parse(&frame(&message(&[]))), None);
    }

    #[test]
    fn parts_that_make_no_sense_are_passed_over_and_the_first_of_two_counts() {
        for nonsense in [
            &[0, 2, 0, 4][..],
            &[0, 2, 0, 8, 0xff, 0xff, 0xff, 0xff],
            &[0, 2, 0, 10, 0, 0, 0, 1, 1, 200],
            &[0, 2, 0, 13, 0, 0, 0, 1, 1, 1, 0xcc, 0xff, 0xff],
            &[0, 2, 0, 16, 0, 0, 0, 1, 1, 1, 0xcc, 0, 3, 192, 0, 2],
            &[0, 10, 0, 5, 1],
            &[0, 0x11, 0, 6, 5, 0xdc],
            &[0x7f, 0xff, 0, 5, 1],
        ] {
            assert_eq!(parse(&names(nonsense)), Some(BARE), "{nonsense:?}");
        }
        let twice = names(&[0, 10, 0, 6, 0, 7, 0, 10, 0, 6, 0, 8]);
        assert_eq!(parse(&twice).unwrap().native_vlan, Some(7));
    }

    #[test]
    fn the_first_address_of_a_known_kind_is_taken() {
        let six = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let list = [
            &[0, 2, 0, 50, 0, 0, 0, 3][..],
            &[1, 1, 0x81, 0, 2, 1, 2], // CLNP
            &[2, 8, 0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd, 0, 16],
            &six,                // IPv6
            &[1, 1, 0xcc, 0, 2], // cut off, but not looked at
        ]
        .concat();
        let list = [&[0, 2, 0, u8::try_from(list.len()).unwrap()], &list[4..]].concat();
        let address = parse(&names(&list)).unwrap().address;
        assert_eq!(address, Some(Ipv6Addr::from(six).into()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&frame(&bytes));
            let _ = parse(&frame(&message(&bytes)));
        }

        #[test]
        fn any_tlvs_are_read_or_refused(
            tlvs in proptest::collection::vec(
                (0u8..0x18, proptest::collection::vec(any::<u8>(), 0..30)),
                0..12,
            ),
        ) {
            let mut bytes = Vec::new();
            for (kind, value) in &tlvs {
                bytes.extend([0, *kind, 0, u8::try_from(value.len() + 4).unwrap()]);
                bytes.extend(value);
            }
            let _ = parse(&names(&bytes));
        }
    }
}
