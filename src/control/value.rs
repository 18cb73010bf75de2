//! Single values of the configuration file, each with its own way to be wrong.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::net::vlan::VlanId;

pub mod endpoint;

/// Why a text is not what it should be; the whole sentence.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

/// An IPv4 address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Address(pub Ipv4Addr);

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| {
            ValueError(format!(
                "{text:?} is not an IPv4 address: write four numbers, as in 192.168.81.1"
            ))
        })
    }
}

/// An IPv4 subnet with no bit set behind its prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subnet(pub Ipv4Net);

impl FromStr for Subnet {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: Ipv4Net = text
            .parse()
            .map_err(|_| ValueError(format!("{text:?} is not a subnet: write an address and a prefix length, as in 192.168.81.0/24")))?;
        match net.trunc() {
            subnet if subnet == net => Ok(Self(net)),
            subnet => Err(ValueError(format!(
                "{text:?} is an address within a subnet; write the subnet itself, {subnet}"
            ))),
        }
    }
}

/// An inclusive range of IPv4 addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// The first address.
    pub first: Ipv4Addr,
    /// The last address.
    pub last: Ipv4Addr,
}

impl FromStr for Range {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends = text.split_once('-').and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        match ends {
            Some((first, last)) if first <= last => Ok(Self { first, last }),
            Some((first, last)) => Err(ValueError(format!(
                "{text:?} ends before it begins; write {last}-{first}"
            ))),
            None => Err(ValueError(format!(
                "{text:?} is not a range of addresses: write two, as in 192.168.81.128-192.168.81.253"
            ))),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// A name that can stand in a path, a file and a table: of VMs, networks and port groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if letters && (1..=64).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError(format!(
                "{text:?} is not a name: use 1 to 64 letters, digits, dots, dashes and underscores (A-Z a-z 0-9 . - _)"
            )))
        }
    }
}

/// The name of a network adapter, as the kernel takes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Adapter(pub String);

impl FromStr for Adapter {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 15 {
            return Err(ValueError(format!(
                "{text:?} is too long for an adapter: Linux takes at most 15 bytes, not {}",
                text.len()
            )));
        }
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%');
        if letters && !matches!(text, "" | "." | "..") {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError(format!(
                "{text:?} cannot be the name of a network adapter"
            )))
        }
    }
}

/// A domain name (RFC 1035, section 2.3.1), without the dot at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Domain(pub String);

impl FromStr for Domain {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let domain = text.strip_suffix('.').unwrap_or(text);
        if domain.len() <= 253 && domain.split('.').all(is_label) {
            Ok(Self(domain.to_owned()))
        } else {
            Err(ValueError(format!(
                "{text:?} is not a domain name: use labels of letters, digits and dashes, as in vmnet1.internal"
            )))
        }
    }
}

/// Tells whether a text can be one label of a host's name.
pub fn is_label(text: &str) -> bool {
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    letters && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

/// The most bytes of one DHCP option: what is beyond 255 travels in further parts of it (RFC 3396).
pub const OPTION: usize = 1024;

/// Text of printable ASCII characters, as a DHCP option carries it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Text(pub String);

impl FromStr for Text {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if (1..=OPTION).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError(format!(
                "must be 1 to {OPTION} printable ASCII characters"
            )))
        }
    }
}

/// Bytes in hexadecimal, with or without colons between them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hex(pub Vec<u8>);

impl FromStr for Hex {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        let value = |b: u8| {
            char::from(b)
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        };
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| Some(value(pair[0])? << 4 | value(*pair.get(1)?)?))
            .collect();
        match bytes {
            Some(bytes) if (1..=OPTION).contains(&bytes.len()) => Ok(Self(bytes)),
            _ => Err(ValueError(format!(
                "{text:?} is not 1 to {OPTION} bytes in hexadecimal, as in 01:04:00:00:00:2a"
            ))),
        }
    }
}

/// A number of bits a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Speed(pub u64);

impl FromStr for Speed {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [
            ('k', 1_000),
            ('M', 1_000_000),
            ('G', 1_000_000_000),
            ('T', 1_000_000_000_000),
        ];
        let unit = units.iter().find_map(|(name, unit)| {
            let number = text.strip_suffix(*name)?;
            Some((number, *unit))
        });
        let (number, unit) = unit.unwrap_or((text, 1));
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse::<u64>().ok().filter(|_| digits);
        match number.and_then(|number| number.checked_mul(unit)) {
            Some(speed) if speed > 0 => Ok(Self(speed)),
            _ => Err(ValueError(format!(
                "{text:?} is not a speed: write bits a second as a whole number and k, M, G or T, as in \"10G\""
            ))),
        }
    }
}

/// A VLAN, or several that follow one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Vlans {
    /// The first one.
    pub first: VlanId,
    /// The last one.
    pub last: VlanId,
}

impl Vlans {
    /// Returns the VLAN with this number alone.
    ///
    /// # Errors
    ///
    /// It is the number of none.
    pub fn one(number: i64) -> Result<Self, ValueError> {
        let vlan = u16::try_from(number).ok().and_then(VlanId::new);
        let vlan = vlan.ok_or_else(|| ValueError(format!("{number} is not a VLAN; {VLANS}")))?;
        Ok(Self {
            first: vlan,
            last: vlan,
        })
    }
}

const VLANS: &str = "write a number from 1 to 4094, or a range such as \"20-29\"";

impl FromStr for Vlans {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let text = text.trim();
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            VlanId::new(text.parse().ok().filter(|_| digits)?)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match number(first).zip(number(last)) {
            Some((first, last)) if first <= last => Ok(Self { first, last }),
            Some((first, last)) => Err(ValueError(format!(
                "{text:?} ends before it begins; write \"{}-{}\"",
                last.number(),
                first.number()
            ))),
            None => Err(ValueError(format!("{text:?} is not a VLAN; {VLANS}"))),
        }
    }
}

impl fmt::Display for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first.number(), self.last.number()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "\"{first}-{last}\""),
        }
    }
}

/// Writes bytes in hexadecimal with colons between them.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subnets_are_written_without_host_bits() {
        assert!("192.168.81.0/24".parse::<Subnet>().is_ok());
        let error = "192.168.81.5/24".parse::<Subnet>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"192.168.81.5/24\" is an address within a subnet; write the subnet itself, 192.168.81.0/24"
        );
    }

    #[test]
    fn ranges_go_upwards() {
        assert_eq!(
            "10.0.0.1 - 10.0.0.9".parse::<Range>().unwrap().to_string(),
            "10.0.0.1-10.0.0.9"
        );
        assert!(
            "10.0.0.9-10.0.0.1"
                .parse::<Range>()
                .unwrap_err()
                .to_string()
                .ends_with("write 10.0.0.1-10.0.0.9")
        );
        assert!("10.0.0.9".parse::<Range>().is_err());
    }

    #[test]
    fn names_stay_within_what_paths_tables_and_the_kernel_take() {
        assert!("web-1.test_A".parse::<Name>().is_ok());
        for text in ["", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!("enp130s0f0np0.1".parse::<Adapter>().is_ok());
        for text in ["", "..", "a/b", "a b", "sixteen-bytes-ab"] {
            assert!(text.parse::<Adapter>().is_err(), "{text:?}");
        }
        assert!("vmnet1.internal.".parse::<Domain>().is_ok());
        for text in ["", ".", "a..b", "-a", "a_b"] {
            assert!(text.parse::<Domain>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_option_may_be_longer_than_one_part_of_it() {
        assert!("x".repeat(OPTION).parse::<Text>().is_ok());
        assert!("x".repeat(OPTION + 1).parse::<Text>().is_err());
        assert!("00".repeat(OPTION).parse::<Hex>().is_ok());
        assert!("00".repeat(OPTION + 1).parse::<Hex>().is_err());
    }

    #[test]
    fn a_speed_is_a_whole_number_of_bits_a_second() {
        let speed = |text: &str| text.parse::<Speed>().map(|Speed(speed)| speed).ok();
        assert_eq!(
            ["9600", "64k", "100M", "10G", "1T"].map(speed),
            [
                Some(9_600),
                Some(64_000),
                Some(100_000_000),
                Some(10_000_000_000),
                Some(1_000_000_000_000)
            ]
        );
        for text in [
            "",
            "G",
            "0",
            "0G",
            "+1G",
            "-1G",
            "1.5G",
            "10 G",
            "10g",
            "10GB",
            "99999999T",
        ] {
            assert_eq!(speed(text), None, "{text:?}");
        }
        assert_eq!(
            "10 Gbit".parse::<Speed>().unwrap_err().to_string(),
            "\"10 Gbit\" is not a speed: write bits a second as a whole number and k, M, G or T, as in \"10G\""
        );
    }

    #[test]
    fn ranges_of_vlans_go_upwards_from_1_to_4094() {
        let vlans = |text: &str| text.parse::<Vlans>().map(|vlans| vlans.to_string());
        assert_eq!(vlans("20-29"), Ok("\"20-29\"".to_owned()));
        assert_eq!(vlans("1 - 4094"), Ok("\"1-4094\"".to_owned()));
        assert_eq!(vlans("40"), Ok("40".to_owned()));
        assert_eq!(Vlans::one(40).unwrap().to_string(), "40");
        assert_eq!(
            vlans("29-20").unwrap_err().to_string(),
            "\"29-20\" ends before it begins; write \"20-29\""
        );
        let range = "is not a VLAN; write a number from 1 to 4094, or a range such as \"20-29\"";
        for text in ["", "-", "0-9", "1-4095", "+1", "1-2-3", "a", "99999"] {
            let error = vlans(text).unwrap_err().to_string();
            assert_eq!(error, format!("{text:?} {range}"));
        }
        for number in [0, 4095, -1, i64::MAX] {
            let error = Vlans::one(number).unwrap_err().to_string();
            assert_eq!(error, format!("{number} {range}"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_vlans_and_a_speed_or_refused(text in "[0-9kMGT+-]{0,12}|.{0,6}") {
            let _ = (text.parse::<Speed>(), text.parse::<Vlans>());
        }

        #[test]
        fn rendered_bytes_parse_back(bytes in proptest::collection::vec(any::<u8>(), 1..=OPTION)) {
            prop_assert_eq!(hex(&bytes).parse::<Hex>(), Ok(Hex(bytes)));
        }

        #[test]
        fn any_text_is_hexadecimal_or_refused(text in ".{0,12}") {
            let _ = text.parse::<Hex>();
        }
    }
}
