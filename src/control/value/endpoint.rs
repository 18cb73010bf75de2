//! Addresses with ports, prefixes and ranges of ports: where a port forward listens, and where it leads to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::{Name, ValueError};

/// The port on which name servers listen.
const DNS: u16 = 53;

/// An IPv6 address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Address6(pub Ipv6Addr);

impl FromStr for Address6 {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| {
            ValueError(format!(
                "{text:?} is not an IPv6 address: write one as in fd00::10"
            ))
        })
    }
}

/// An address of either family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnyAddress(pub IpAddr);

impl FromStr for AnyAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| {
            ValueError(format!(
                "{text:?} is not an address: write one as in 192.168.88.5 or fd00::5"
            ))
        })
    }
}

/// An IPv6 prefix of 64 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix(pub Ipv6Net);

impl FromStr for Prefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: Ipv6Net = text.parse().map_err(|_| {
            ValueError(format!(
                "{text:?} is not a prefix: write one as in fd12:3456:789a:1::/64"
            ))
        })?;
        let refusal = if net.prefix_len() != 64 {
            Some("must have 64 bits, as guests make their addresses in it".to_owned())
        } else if net.trunc() != net {
            Some(format!(
                "is an address within a prefix; write the prefix itself, {}",
                net.trunc()
            ))
        } else if !is_routable(net.addr()) {
            Some("has no addresses for machines; use one such as fd12:3456:789a:1::/64".to_owned())
        } else {
            None
        };
        refusal.map_or(Ok(Self(net)), |why| {
            Err(ValueError(format!("{text:?} {why}")))
        })
    }
}

/// Whether an address, or the first of a prefix, can be one machine's beyond its own link.
fn is_routable(ip: Ipv6Addr) -> bool {
    !(ip.is_multicast()
        || ip.is_unicast_link_local()
        || ip.is_loopback()
        || ip.is_unspecified()
        || ip.to_ipv4_mapped().is_some())
}

/// An IPv4 address in its subnet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place4 {
    /// The address.
    pub ip: Ipv4Addr,
    /// The subnet.
    pub net: Ipv4Net,
}

impl FromStr for Place4 {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            ValueError(format!(
                "{text:?} is not an address in a subnet: write it with its prefix length, as in \"203.0.113.5/24\""
            ))
        };
        let net: Ipv4Net = text.parse().map_err(|_| wrong())?;
        let (ip, trunc) = (net.addr(), net.trunc());
        let ends = net.prefix_len() < 31 && (ip == trunc.network() || ip == trunc.broadcast());
        let station = !(ip.is_loopback() || ip.is_multicast() || ip.octets()[0] == 0);
        if ends || !station || ip.is_broadcast() {
            return Err(ValueError(format!(
                "{text:?} is not the address of one machine; write one as in \"203.0.113.5/24\""
            )));
        }
        Ok(Self { ip, net: trunc })
    }
}

/// An IPv6 address in its prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place6 {
    /// The address.
    pub ip: Ipv6Addr,
    /// The prefix.
    pub net: Ipv6Net,
}

impl FromStr for Place6 {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: Ipv6Net = text.parse().map_err(|_| {
            ValueError(format!(
                "{text:?} is not an address in a prefix: write it with the prefix length, as in \"2001:db8::5/64\""
            ))
        })?;
        if !is_routable(net.addr()) {
            return Err(ValueError(format!(
                "{text:?} is not the address of one machine; write one as in \"2001:db8::5/64\""
            )));
        }
        Ok(Self {
            ip: net.addr(),
            net: net.trunc(),
        })
    }
}

/// A range of ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl Ports {
    /// Returns how many there are, less one.
    pub const fn span(self) -> u16 {
        self.last - self.first
    }
}

impl FromStr for Ports {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match number(first).zip(number(last)) {
            Some((first, last)) if first <= last && (first > 0 || last == 0) => {
                Ok(Self { first, last })
            }
            Some((first, last)) if first > last => Err(ValueError(format!(
                "{text:?} ends before it begins; write \"{last}-{first}\""
            ))),
            Some(_) | None => Err(ValueError(format!(
                "{text:?} is not a port: write a number from 1 to 65535, or a range such as \"8000-8010\""
            ))),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.span() {
            0 => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

fn number(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The ports of 1024 and more, from which a translator takes those that it chooses itself.
pub const UNPRIVILEGED: Ports = Ports {
    first: 1024,
    last: u16::MAX,
};

/// Where a port forward listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listen {
    /// The address; every one of both families where there is none.
    pub ip: Option<IpAddr>,
    /// The ports; 0 has one picked.
    pub ports: Ports,
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            ValueError(format!(
                "{text:?} is not where a forward can listen: write an address and a port, as in \"127.0.0.1:2222\", \"[::1]:2222\", \"0.0.0.0:8000-8010\" or \":8080\""
            ))
        };
        let (ip, ports) = text.rsplit_once(':').unwrap_or(("", text));
        let ip = match ip {
            "" => None,
            ip => Some(host_address(ip).ok_or_else(wrong)?),
        };
        let ports: Ports = match ports {
            "" => return Err(wrong()),
            ports => ports.parse()?,
        };
        if ip.is_none() && ports.first == 0 {
            return Err(ValueError(format!(
                "{text:?} has one port picked, which is one of one address: write the address too, as in \"127.0.0.1:0\""
            )));
        }
        if let Some(ip) = ip.filter(IpAddr::is_multicast) {
            return Err(ValueError(format!(
                "{ip} is the address of a group; write that of one machine, or leave it out for all"
            )));
        }
        Ok(Self { ip, ports })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            None => write!(f, ":{}", self.ports),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.ports),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.ports),
        }
    }
}

/// Reads an address as it stands before a port: one of IPv6 is in brackets.
fn host_address(text: &str) -> Option<IpAddr> {
    match text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        Some(text) => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

/// Where a port forward leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destination {
    /// The guest.
    pub host: DestinationHost,
    /// Its ports.
    pub ports: Ports,
}

/// A guest as it is named by a port forward.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DestinationHost {
    /// By the name of a VM.
    Vm(String),
    /// By an address.
    Address(IpAddr),
}

impl FromStr for Destination {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            ValueError(format!(
                "{text:?} is not where a forward can lead to: write a VM or an address of the network, and a port, as in \"web1:22\", \"192.168.88.10:22\" or \"[fd00::10]:22\""
            ))
        };
        let (host, ports) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host_address(host) {
            Some(ip) => DestinationHost::Address(ip),
            None => DestinationHost::Vm(host.parse::<Name>().map_err(|_| wrong())?.0),
        };
        let ports: Ports = ports.parse()?;
        if ports.first == 0 {
            return Err(wrong());
        }
        Ok(Self { host, ports })
    }
}

/// A name server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NameServer(pub SocketAddr);

impl FromStr for NameServer {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let server = match text.parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, DNS)),
            Err(_) => text.parse().ok(),
        };
        match server {
            Some(server)
                if server.port() != 0
                    && !server.ip().is_unspecified()
                    && !server.ip().is_multicast() =>
            {
                Ok(Self(server))
            }
            Some(_) | None => Err(ValueError(format!(
                "{text:?} is not a name server: write its address, as in \"9.9.9.9\", \"9.9.9.9:5353\" or \"[2620:fe::fe]:53\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrong<T: FromStr<Err = ValueError> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn a_forward_listens_on_one_address_or_all() {
        let listen = |text: &str| {
            let listen: Listen = text.parse().unwrap();
            (listen.ip.map(|ip| ip.to_string()), listen.ports.to_string())
        };
        let on = |ip: &str, ports: &str| (Some(ip.to_owned()), ports.to_owned());
        assert_eq!(listen("127.0.0.1:2222"), on("127.0.0.1", "2222"));
        assert_eq!(listen("[::1]:2222"), on("::1", "2222"));
        assert_eq!(listen("0.0.0.0:8000-8010"), on("0.0.0.0", "8000-8010"));
        assert_eq!(listen("127.0.0.1:0"), on("127.0.0.1", "0"));
        assert_eq!(listen(":8080"), (None, "8080".to_owned()));
        assert_eq!(listen("8080"), (None, "8080".to_owned()));
        for text in [
            "",
            ":",
            "x",
            "::1:80",
            "127.0.0.1",
            "1.2.3:80",
            "[127.0.0.1]:80",
            "localhost:80",
            "127.0.0.1:65536",
            "127.0.0.1:0-9",
            "127.0.0.1:9-8",
            "127.0.0.1:+9",
            ":0",
            "224.0.0.1:80",
            "[::1]",
        ] {
            wrong::<Listen>(text);
        }
        assert_eq!(
            wrong::<Listen>(":9-8"),
            "\"9-8\" ends before it begins; write \"8-9\""
        );
    }

    #[test]
    fn a_forward_leads_to_a_vm_or_an_address() {
        let to = |text: &str| text.parse::<Destination>().unwrap();
        let vm = to("web.1:22");
        assert_eq!(vm.host, DestinationHost::Vm("web.1".to_owned()));
        assert_eq!(
            vm.ports,
            Ports {
                first: 22,
                last: 22
            }
        );
        let address = |text: &str| DestinationHost::Address(text.parse().unwrap());
        assert_eq!(to("192.168.88.10:22").host, address("192.168.88.10"));
        assert_eq!(to("[fd00::10]:22-23").host, address("fd00::10"));
        for text in [
            "web1",
            "web1:",
            ":22",
            "web1:0",
            "fd00::10:22",
            "we b:22",
            "[web1]:22",
        ] {
            wrong::<Destination>(text);
        }
    }

    #[test]
    fn an_address_outside_is_one_machines_in_its_subnet() {
        let place: Place4 = "203.0.113.5/24".parse().unwrap();
        assert_eq!(place.net.to_string(), "203.0.113.0/24");
        for text in [
            "203.0.113.5",
            "203.0.113.0/24",
            "203.0.113.255/24",
            "127.0.0.1/8",
            "x/24",
        ] {
            wrong::<Place4>(text);
        }
        let place: Place6 = "2001:db8::5/64".parse().unwrap();
        assert_eq!(place.net.to_string(), "2001:db8::/64");
        for text in ["2001:db8::5", "fe80::1/64", "ff02::1/64", "::1/128"] {
            wrong::<Place6>(text);
        }
    }

    #[test]
    fn a_prefix_has_64_bits_and_no_more_is_written() {
        assert!("fd00:1:2:3::/64".parse::<Prefix>().is_ok());
        for (text, told) in [
            ("fd00::/48", "64 bits"),
            ("fd00::1/64", "write the prefix itself, fd00::/64"),
            ("fe80::/64", "no addresses for machines"),
            ("fd00::", "is not a prefix"),
        ] {
            assert!(wrong::<Prefix>(text).contains(told), "{text}");
        }
    }

    #[test]
    fn a_name_server_is_an_address_and_perhaps_a_port() {
        let server = |text: &str| text.parse::<NameServer>().unwrap().0.to_string();
        assert_eq!(server("9.9.9.9"), "9.9.9.9:53");
        assert_eq!(server("127.0.0.1:5353"), "127.0.0.1:5353");
        assert_eq!(server("2620:fe::fe"), "[2620:fe::fe]:53");
        for text in ["dns.example", "9.9.9.9:0", "0.0.0.0", "ff02::fb"] {
            wrong::<NameServer>(text);
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(ip in any::<Option<IpAddr>>(), first in 1..=u16::MAX, more in 0..100_u16) {
            let ip = ip.filter(|ip| !ip.is_multicast());
            let listen = Listen { ip, ports: Ports { first, last: first.saturating_add(more) } };
            prop_assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen));
        }

        #[test]
        fn no_text_is_too_odd(text in "[\\[\\]:.0-9a-f-]{0,30}") {
            let _ = text.parse::<Listen>();
            let _ = text.parse::<Destination>();
            let _ = text.parse::<NameServer>();
            let _ = text.parse::<Prefix>();
        }
    }
}
