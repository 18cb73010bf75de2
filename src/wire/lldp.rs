//! LLDP data units (IEEE 802.1AB-2016, clauses 8 and 9.1), with the extensions that say a port's VLAN (IEEE 802.1Q,
//! annex D) and its largest frame (IEEE 802.3, clause 79).
//!
//! # Theory of operation
//!
//! A data unit is a row of TLVs: 7 bits of type, 9 bits of length, and a value. Chassis, port and time to live come
//! first, in this order and only there; a unit where they do not, or where a TLV reaches beyond the frame, is refused
//! as a whole. An optional TLV that makes no sense, or that came before, is passed over. The end mark, or the end of the
//! frame, ends the unit. Texts are bytes here, at most [`MAX_TEXT`] of them: whoever shows them has to make them fit to
//! be shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::be16;
use super::ethernet::{self, Ethernet, MacAddr};

/// EtherType of LLDP.
pub const ETHERTYPE_LLDP: u16 = 0x88cc;
/// The group address that no bridge of any kind passes on.
pub const NEAREST_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
/// The group address that two-port MAC relays pass on, and other bridges do not.
pub const NEAREST_NON_TPMR_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x03]);
/// The group address that bridges of providers pass on, and those of customers do not.
pub const NEAREST_CUSTOMER_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x00]);
/// How many bytes an identifier or a text has at most.
pub const MAX_TEXT: usize = 255;

/// Types of TLVs (table 8-1).
mod tlv {
    pub(super) const END: u8 = 0;
    pub(super) const CHASSIS: u8 = 1;
    pub(super) const PORT: u8 = 2;
    pub(super) const TIME_TO_LIVE: u8 = 3;
    pub(super) const PORT_DESCRIPTION: u8 = 4;
    pub(super) const SYSTEM_NAME: u8 = 5;
    pub(super) const SYSTEM_DESCRIPTION: u8 = 6;
    pub(super) const CAPABILITIES: u8 = 7;
    pub(super) const MANAGEMENT_ADDRESS: u8 = 8;
    pub(super) const ORGANIZATION: u8 = 127;
}

/// Organization and subtype of the port VLAN identifier.
const PORT_VLAN: [u8; 4] = [0x00, 0x80, 0xc2, 1];
/// Organization and subtype of the largest frame.
const MAX_FRAME: [u8; 4] = [0x00, 0x12, 0x0f, 4];
/// Address families as IANA numbers them.
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;
/// What numbers the interface of a management address: nothing.
const UNKNOWN_INTERFACE: [u8; 5] = [1, 0, 0, 0, 0];

/// Tells whether a frame is LLDP, whatever it holds.
pub fn is_lldp(frame: &Ethernet<'_>) -> bool {
    let groups = [
        NEAREST_BRIDGE,
        NEAREST_NON_TPMR_BRIDGE,
        NEAREST_CUSTOMER_BRIDGE,
    ];
    frame.ethertype == ETHERTYPE_LLDP && groups.contains(&frame.dst)
}

/// What identifies a chassis, or a port of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Id<'a> {
    /// A MAC address.
    Mac(MacAddr),
    /// A network address.
    Address(IpAddr),
    /// The name of an interface.
    Interface(&'a [u8]),
    /// Of any other kind.
    Other {
        /// The kind.
        subtype: u8,
        /// The identifier.
        id: &'a [u8],
    },
}

/// The numbers that the kinds of identifiers have: others for a chassis (table 8-2) than for a port (table 8-3).
struct Subtypes {
    mac: u8,
    address: u8,
    interface: u8,
}

const OF_CHASSIS: Subtypes = Subtypes {
    mac: 4,
    address: 5,
    interface: 6,
};
const OF_PORT: Subtypes = Subtypes {
    mac: 3,
    address: 4,
    interface: 5,
};

impl<'a> Id<'a> {
    fn parse(value: &'a [u8], subtypes: &Subtypes) -> Option<Self> {
        let (&subtype, id) = value.split_first()?;
        if id.is_empty() || id.len() > MAX_TEXT {
            return None;
        }
        let known = if subtype == subtypes.mac && id.len() == 6 {
            MacAddr::from_slice(id).map(Self::Mac)
        } else if subtype == subtypes.address {
            parse_address(id).map(Self::Address)
        } else if subtype == subtypes.interface {
            Some(Self::Interface(id))
        } else {
            None
        };
        Some(known.unwrap_or(Self::Other { subtype, id }))
    }

    fn value(&self, subtypes: &Subtypes) -> Vec<u8> {
        let (subtype, id) = match *self {
            Self::Mac(mac) => (subtypes.mac, mac.0.to_vec()),
            Self::Address(address) => (subtypes.address, address_bytes(address)),
            Self::Interface(name) => (subtypes.interface, cut(name).to_vec()),
            Self::Other { subtype, id } => (subtype, cut(id).to_vec()),
        };
        [vec![subtype], id].concat()
    }
}

/// What a system can do, and what of it is switched on (table 8-4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// What it can do.
    pub system: u16,
    /// What of it is enabled.
    pub enabled: u16,
}

impl Capabilities {
    /// The bit of a MAC bridge.
    pub const BRIDGE: u16 = 1 << 2;
}

/// A data unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lldp<'a> {
    /// The sender.
    pub chassis: Id<'a>,
    /// The sender's port.
    pub port: Id<'a>,
    /// For how many seconds this holds; 0 takes back what was said before.
    pub ttl: u16,
    /// The port in words.
    pub port_description: Option<&'a [u8]>,
    /// The sender's name.
    pub system: Option<&'a [u8]>,
    /// The sender in words.
    pub system_description: Option<&'a [u8]>,
    /// What the sender can do.
    pub capabilities: Option<Capabilities>,
    /// Where the sender is managed.
    pub address: Option<IpAddr>,
    /// The VLAN of the port's untagged frames; 0 says that there is none.
    pub port_vlan: Option<u16>,
    /// The largest frame that the port takes, header and frame check sequence included.
    pub max_frame: Option<u16>,
}

impl<'a> Lldp<'a> {
    /// Says who sends, through which port, and for how long that holds; and nothing else.
    pub const fn new(chassis: Id<'a>, port: Id<'a>, ttl: u16) -> Self {
        Self {
            chassis,
            port,
            ttl,
            port_description: None,
            system: None,
            system_description: None,
            capabilities: None,
            address: None,
            port_vlan: None,
            max_frame: None,
        }
    }

    /// Reads the payload of an LLDP frame.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (chassis, rest) = mandatory(payload, tlv::CHASSIS)?;
        let (port, rest) = mandatory(rest, tlv::PORT)?;
        let (ttl, mut rest) = mandatory(rest, tlv::TIME_TO_LIVE)?;
        let mut unit = Self::new(
            Id::parse(chassis, &OF_CHASSIS)?,
            Id::parse(port, &OF_PORT)?,
            be16(ttl, 0)?,
        );
        while !rest.is_empty() {
            let (kind, value, after) = split(rest)?;
            rest = after;
            match kind {
                tlv::END => break,
                tlv::CHASSIS | tlv::PORT | tlv::TIME_TO_LIVE => return None,
                tlv::PORT_DESCRIPTION => note(&mut unit.port_description, Some(cut(value))),
                tlv::SYSTEM_NAME => note(&mut unit.system, Some(cut(value))),
                tlv::SYSTEM_DESCRIPTION => note(&mut unit.system_description, Some(cut(value))),
                tlv::CAPABILITIES => note(&mut unit.capabilities, parse_capabilities(value)),
                tlv::MANAGEMENT_ADDRESS => note(&mut unit.address, parse_management(value)),
                tlv::ORGANIZATION => match value.split_first_chunk() {
                    Some((&PORT_VLAN, value)) => note(&mut unit.port_vlan, be16(value, 0)),
                    Some((&MAX_FRAME, value)) => note(&mut unit.max_frame, be16(value, 0)),
                    _ => {}
                },
                _ => {}
            }
        }
        Some(unit)
    }

    /// Builds the frame that carries this from `src` to the nearest bridge.
    ///
    /// Texts are cut where they are too long.
    pub fn emit(&self, src: MacAddr) -> Vec<u8> {
        let mut unit = Vec::new();
        put(&mut unit, tlv::CHASSIS, &self.chassis.value(&OF_CHASSIS));
        put(&mut unit, tlv::PORT, &self.port.value(&OF_PORT));
        put(&mut unit, tlv::TIME_TO_LIVE, &self.ttl.to_be_bytes());
        for (kind, text) in [
            (tlv::PORT_DESCRIPTION, self.port_description),
            (tlv::SYSTEM_NAME, self.system),
            (tlv::SYSTEM_DESCRIPTION, self.system_description),
        ] {
            if let Some(text) = text {
                put(&mut unit, kind, cut(text));
            }
        }
        if let Some(Capabilities { system, enabled }) = self.capabilities {
            let value = [system.to_be_bytes(), enabled.to_be_bytes()].concat();
            put(&mut unit, tlv::CAPABILITIES, &value);
        }
        if let Some(address) = self.address {
            let address = address_bytes(address);
            let len = u8::try_from(address.len()).unwrap_or_default();
            // No object identifier follows: its length is 0.
            let value = [&[len], &address[..], &UNKNOWN_INTERFACE, &[0]].concat();
            put(&mut unit, tlv::MANAGEMENT_ADDRESS, &value);
        }
        for (what, number) in [(PORT_VLAN, self.port_vlan), (MAX_FRAME, self.max_frame)] {
            if let Some(number) = number {
                let value = [&what[..], &number.to_be_bytes()].concat();
                put(&mut unit, tlv::ORGANIZATION, &value);
            }
        }
        put(&mut unit, tlv::END, &[]);
        ethernet::emit(NEAREST_BRIDGE, src, ETHERTYPE_LLDP, &unit)
    }
}

/// Notes what was read, unless something was before.
fn note<T>(field: &mut Option<T>, read: Option<T>) {
    if field.is_none() {
        *field = read;
    }
}

/// Returns the type and value of the first TLV, and what follows it.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let header = be16(bytes, 0)?;
    let (value, rest) = bytes
        .get(2..)?
        .split_at_checked(usize::from(header & 0x1ff))?;
    let [kind, _] = (header >> 1).to_be_bytes();
    Some((kind, value, rest))
}

fn mandatory(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (found, value, rest) = split(bytes)?;
    (found == kind).then_some((value, rest))
}

/// Appends a TLV whose value is a few hundred bytes at most.
fn put(unit: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX).min(0x1ff);
    unit.extend_from_slice(&(u16::from(kind) << 9 | len).to_be_bytes());
    unit.extend(value.iter().take(usize::from(len)));
}

fn cut(text: &[u8]) -> &[u8] {
    &text[..text.len().min(MAX_TEXT)]
}

fn parse_capabilities(value: &[u8]) -> Option<Capabilities> {
    Some(Capabilities {
        system: be16(value, 0)?,
        enabled: be16(value, 2)?,
    })
}

/// Reads a family and an address of it.
fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let (&family, address) = bytes.split_first()?;
    match family {
        FAMILY_IPV4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into()),
        FAMILY_IPV6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into()),
        _ => None,
    }
}

fn parse_management(value: &[u8]) -> Option<IpAddr> {
    let (&len, rest) = value.split_first()?;
    parse_address(rest.get(..usize::from(len))?)
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => [&[FAMILY_IPV4], &ip.octets()[..]].concat(),
        IpAddr::V6(ip) => [&[FAMILY_IPV6], &ip.octets()[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SWITCH: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
    const ADAPTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    /// Chassis 02:00:00:00:00:aa, port "eno1", 121 seconds.
    const FIRST: [u8; 20] = [
        0x02, 0x07, 4, 2, 0, 0, 0, 0, 0xaa, // chassis
        0x04, 0x05, 5, b'e', b'n', b'o', b'1', // port
        0x06, 0x02, 0, 121, // time to live
    ];

    fn first() -> Lldp<'static> {
        Lldp::new(Id::Mac(SWITCH), Id::Interface(b"eno1"), 121)
    }

    /// The mandatory TLVs, and `rest`.
    fn unit(rest: &[u8]) -> Vec<u8> {
        [&FIRST, rest].concat()
    }

    #[test]
    fn a_unit_is_written_byte_for_byte_as_the_standard_says() {
        let unit = Lldp {
            port_description: Some(b"uplink"),
            system: Some(b"host"),
            system_description: Some(b"vmlan"),
            capabilities: Some(Capabilities {
                system: Capabilities::BRIDGE,
                enabled: Capabilities::BRIDGE,
            }),
            address: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            port_vlan: Some(10),
            max_frame: Some(1518),
            ..first()
        };
        let expected = [
            &[0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..],
            &FIRST,
            &[0x08, 6],
            b"uplink",
            &[0x0a, 4],
            b"host",
            &[0x0c, 5],
            b"vmlan",
            &[0x0e, 4, 0, 4, 0, 4],
            &[0x10, 12, 5, 1, 192, 0, 2, 1, 1, 0, 0, 0, 0, 0],
            &[0xfe, 6, 0x00, 0x80, 0xc2, 1, 0, 10],
            &[0xfe, 6, 0x00, 0x12, 0x0f, 4, 0x05, 0xee],
            &[0, 0],
        ]
        .concat();
        let frame = unit.emit(ADAPTER);
        assert_eq!(frame, expected);
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert!(is_lldp(&ethernet));
        assert_eq!(Lldp::parse(ethernet.payload), Some(unit));
    }

    #[test]
    fn a_short_unit_is_padded_and_the_padding_is_not_read() {
        let frame = first().emit(ADAPTER);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[14..36], [&FIRST[..], &[0, 0]].concat());
        assert_eq!(Lldp::parse(&frame[14..]), Some(first()));
        assert_eq!(Lldp::parse(&FIRST), Some(first()), "no end mark is needed");
        let behind_the_end = unit(&[0, 0, 0xff, 0xff, 0xff]);
        assert_eq!(Lldp::parse(&behind_the_end), Some(first()));
    }

    #[test]
    fn only_three_groups_and_one_ethertype_are_lldp() {
        for (last, ethertype, expected) in [
            (0x0e, 0x88cc, true),
            (0x03, 0x88cc, true),
            (0x00, 0x88cc, true),
            (0x01, 0x88cc, false),
            (0x0e, 0x8809, false),
        ] {
            let frame = Ethernet {
                dst: MacAddr([0x01, 0x80, 0xc2, 0, 0, last]),
                src: ADAPTER,
                ethertype,
                payload: &[],
            };
            assert_eq!(is_lldp(&frame), expected, "{last:#x} {ethertype:#x}");
        }
    }

    #[test]
    fn every_kind_of_identifier_is_read_and_written() {
        let ip4 = Ipv4Addr::new(192, 0, 2, 1);
        let ip6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let other = |subtype, id| Id::Other { subtype, id };
        let six = [[2].as_slice(), &ip6.octets()].concat();
        for (value, chassis, port) in [
            (
                &[3, 2, 0, 0, 0, 0, 0xaa][..],
                other(3, &[2, 0, 0, 0, 0, 0xaa]),
                Id::Mac(SWITCH),
            ),
            (
                &[4, 1, 192, 0, 2, 1],
                other(4, &[1, 192, 0, 2, 1]),
                Id::Address(ip4.into()),
            ),
            (
                &[5, 1, 192, 0, 2, 1],
                Id::Address(ip4.into()),
                Id::Interface(&[1, 192, 0, 2, 1]),
            ),
            (
                &[&[5], &six[..]].concat(),
                Id::Address(ip6.into()),
                Id::Interface(&six),
            ),
            (
                b"\x06Gi1/0/1",
                Id::Interface(b"Gi1/0/1"),
                other(6, b"Gi1/0/1"),
            ),
            (b"\x07rack 4", other(7, b"rack 4"), other(7, b"rack 4")),
        ] {
            assert_eq!(Id::parse(value, &OF_CHASSIS), Some(chassis));
            assert_eq!(Id::parse(value, &OF_PORT), Some(port));
            assert_eq!(chassis.value(&OF_CHASSIS), value);
            assert_eq!(port.value(&OF_PORT), value);
        }
        for lying in [
            &[4, 2, 0, 0][..],
            &[5, 1, 192, 0, 2],
            &[5, 2, 192, 0, 2, 1],
            &[5, 9],
        ] {
            let expected = other(lying[0], &lying[1..]);
            assert_eq!(Id::parse(lying, &OF_CHASSIS), Some(expected));
        }
        assert_eq!(Id::parse(&[], &OF_PORT), None);
        assert_eq!(
            Id::parse(&[7], &OF_PORT),
            None,
            "an identifier has a byte at least"
        );
        assert!(Id::parse(&[7; 256], &OF_PORT).is_some());
        assert_eq!(Id::parse(&[7; 257], &OF_PORT), None);
    }

    #[test]
    fn a_unit_without_its_mandatory_beginning_is_refused() {
        let (chassis, port, ttl) = (&FIRST[..9], &FIRST[9..16], &FIRST[16..]);
        for wrong in [
            [port, chassis, ttl],
            [chassis, ttl, port],
            [chassis, chassis, port],
            [chassis, port, &[]],
            [chassis, port, &[0, 0]],
            [chassis, port, &[0x06, 1, 120]],
            [&[0x02, 1, 4], port, ttl],
        ] {
            assert_eq!(Lldp::parse(&wrong.concat()), None);
        }
        for again in [chassis, port, ttl] {
            assert_eq!(Lldp::parse(&unit(again)), None, "twice");
        }
    }

    #[test]
    fn a_length_that_reaches_beyond_the_frame_refuses_the_unit() {
        for len in 1..FIRST.len() {
            assert_eq!(Lldp::parse(&FIRST[..len]), None, "{len}");
        }
        assert_eq!(Lldp::parse(&unit(&[0x0a])), None);
        assert_eq!(Lldp::parse(&unit(&[0x0a, 5, b'h', b'o', b's', b't'])), None);
        assert_eq!(Lldp::parse(&unit(&[0x0b, 0xff, b'h'])), None);
    }

    #[test]
    fn optional_parts_that_make_no_sense_are_passed_over() {
        for nonsense in [
            &[0x0e, 3, 0, 4, 0][..],
            &[0x10, 0],
            &[0x10, 1, 5],
            &[0x10, 3, 255, 1, 192],
            &[0x10, 4, 3, 1, 192, 0],
            &[0x10, 3, 0, 1, 192],
            &[0xfe, 0],
            &[0xfe, 5, 0x00, 0x80, 0xc2, 1, 0],
            &[0xfe, 6, 0x00, 0x80, 0xc2, 3, 0, 10],
            &[0x12, 1, 0],
        ] {
            assert_eq!(Lldp::parse(&unit(nonsense)), Some(first()), "{nonsense:?}");
        }
    }

    #[test]
    fn what_is_said_twice_counts_as_it_was_said_first() {
        let twice =
            unit(b"\x0a\x01a\x0a\x01b\xfe\x06\0\x80\xc2\x01\0\x05\xfe\x06\0\x80\xc2\x01\0\x06");
        let read = Lldp::parse(&twice).unwrap();
        assert_eq!((read.system, read.port_vlan), (Some(&b"a"[..]), Some(5)));
    }

    #[test]
    fn long_texts_are_cut_both_ways() {
        let long = unit(&[&[0x0b, 0xff][..], &[b'x'; 511]].concat());
        assert_eq!(Lldp::parse(&long).unwrap().system, Some(&[b'x'; 255][..]));
        let unit = Lldp {
            system: Some(&[b'x'; 600]),
            ..Lldp::new(Id::Mac(SWITCH), Id::Interface(&[b'y'; 600]), 121)
        };
        let frame = unit.emit(ADAPTER);
        let read = Lldp::parse(&frame[14..]).unwrap();
        assert_eq!(read.system, Some(&[b'x'; 255][..]));
        assert_eq!(read.port, Id::Interface(&[b'y'; 255]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Lldp::parse(&bytes);
        }

        #[test]
        fn what_is_read_reads_the_same_when_written(
            tlvs in proptest::collection::vec(
                (0u8..10, proptest::collection::vec(any::<u8>(), 0..40)),
                0..12,
            ),
        ) {
            let mut bytes = FIRST.to_vec();
            for (kind, value) in &tlvs {
                put(&mut bytes, if *kind == 9 { tlv::ORGANIZATION } else { *kind }, value);
            }
            if let Some(unit) = Lldp::parse(&bytes) {
                let frame = unit.emit(ADAPTER);
                prop_assert_eq!(Lldp::parse(&frame[14..]), Some(unit));
            }
        }
    }
}
