//! Ethernet II frames and IEEE 802.1Q tags.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::be16;

/// Length of an untagged Ethernet header in bytes.
pub const HEADER_LEN: usize = 14;
/// Length of an 802.1Q tag in bytes.
pub const TAG_LEN: usize = 4;
/// Shortest frame on a wire, without the frame check sequence.
pub const MIN_FRAME_LEN: usize = 60;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of RARP (RFC 903).
pub const ETHERTYPE_RARP: u16 = 0x8035;
/// EtherType of a service tag (IEEE 802.1ad), outside of an 802.1Q tag.
pub const ETHERTYPE_SERVICE: u16 = 0x88a8;
/// The first EtherType for local experiments (IEEE 802, section 9.2.4), which our beacons use.
pub const ETHERTYPE_BEACON: u16 = 0x88b5;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A 48-bit IEEE 802 MAC address.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, which names no station.
    pub const ZERO: Self = Self([0; 6]);

    /// Tells whether this is one of the 16 addresses that no bridge passes on (IEEE 802.1Q, table 8-1).
    #[inline]
    pub const fn is_reserved(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, last] if last < 0x10)
    }

    /// Tells whether this is a group address: multicast or broadcast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Tells whether this can be the address of one station.
    pub fn is_station(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// Returns the address as the low 48 bits of a number, first byte highest.
    pub fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Reads an address from the first six bytes of a slice.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.get(..6)?.try_into().ok()?))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a MAC address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is not a MAC address: write six pairs of hexadecimal digits, as in 52:54:00:12:34:56"
)]
pub struct MacAddrError(String);

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MacAddrError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(error()),
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The tag control information of an 802.1Q tag: priority, drop eligibility and VLAN identifier.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tci(pub u16);

impl Tci {
    /// Returns the 12-bit VLAN identifier field, 0 for a priority tag.
    pub const fn vid(self) -> u16 {
        self.0 & 0x0fff
    }

    /// Returns the same priority and drop eligibility with another VLAN identifier field.
    pub const fn with_vid(self, vid: u16) -> Self {
        Self(self.0 & 0xf000 | vid & 0x0fff)
    }
}

/// Builds a frame: header, payload, and zeros up to the minimum length.
pub fn emit(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity((HEADER_LEN + payload.len()).max(MIN_FRAME_LEN));
    frame.extend_from_slice(&dst.0);
    frame.extend_from_slice(&src.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    if frame.len() < MIN_FRAME_LEN {
        frame.resize(MIN_FRAME_LEN, 0);
    }
    frame
}

/// Puts an 802.1Q tag into a frame.
pub fn insert_tag(frame: &mut Vec<u8>, tci: Tci) {
    let [a, b] = ETHERTYPE_VLAN.to_be_bytes();
    let [c, d] = tci.0.to_be_bytes();
    let at = frame.len().min(2 * 6);
    frame.splice(at..at, [a, b, c, d]);
}

/// An untagged Ethernet frame, read but not copied.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    /// The destination address.
    pub dst: MacAddr,
    /// The source address.
    pub src: MacAddr,
    /// The EtherType.
    pub ethertype: u16,
    /// What follows the header, padding included.
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Reads a frame without tags.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        Some(Self {
            dst: MacAddr::from_slice(frame)?,
            src: MacAddr::from_slice(frame.get(6..)?)?,
            ethertype: be16(frame, 12)?,
            payload: frame.get(HEADER_LEN..)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        let mac: MacAddr = "52:54:00:aB:cd:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        assert_eq!(mac.to_bits(), 0x5254_00ab_cd01);
        assert_eq!("52-54-00-ab-cd-01".parse(), Ok(mac));
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5g:54:00:12:34:56",
            "525:4:00:12:34:56",
            "+1:54:00:12:34:56",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_addresses_of_bridges_are_reserved_and_no_others() {
        for last in 0..=255 {
            let mac = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
            assert_eq!(mac.is_reserved(), last < 16, "{mac}");
        }
        assert!(!MacAddr::BROADCAST.is_reserved() && !super::super::cdp::GROUP.is_reserved());
    }

    #[test]
    fn a_tag_goes_between_the_addresses_and_the_type() {
        let mut frame = emit(MacAddr::BROADCAST, MacAddr([2; 6]), ETHERTYPE_ARP, &[7; 46]);
        insert_tag(&mut frame, Tci(0x600a));
        assert_eq!(frame[6..18], [2, 2, 2, 2, 2, 2, 0x81, 0, 0x60, 0x0a, 8, 6]);
        assert_eq!(frame.len(), 64);
    }

    #[test]
    fn a_short_payload_is_padded_to_the_minimum() {
        let frame = emit(MacAddr::BROADCAST, MacAddr([2; 6]), ETHERTYPE_ARP, &[7; 28]);
        assert_eq!(frame.len(), MIN_FRAME_LEN);
        let read = Ethernet::parse(&frame).unwrap();
        assert_eq!(
            (read.dst, read.src, read.ethertype),
            (MacAddr::BROADCAST, MacAddr([2; 6]), ETHERTYPE_ARP)
        );
        assert!(Ethernet::parse(&frame[..13]).is_none());
    }
}
