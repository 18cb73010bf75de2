//! A network's IPv6, planned: its prefix, where it was typed, and who is who in it.
//!
//! A prefix that nobody typed is the machine's ([`crate::control::prefixes`]) and not known here. So an address may be
//! written by its end alone (`::10`), which is completed once the prefix is known.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

use crate::control::config::ipv6::{self, Dhcp6};
use crate::control::config::network::{Mode, Network};
use crate::control::problem::{Problems, join};
use crate::control::value::endpoint::{Address6, Prefix};

/// The end of the gateway's own address: `::2`, as it is `.2` in a NAT network's subnet; `::1` is left to the host.
const GATEWAY: u64 = 2;

/// A network's IPv6, planned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv6 {
    /// Its prefix, where it was typed.
    pub prefix: Option<Ipv6Net>,
    /// What is handed out by DHCP.
    pub dhcp: Dhcp6,
    /// Whether the gateway is a router for guests.
    pub router: bool,
}

impl Ipv6 {
    /// Plans the IPv6 of a network; there is none unless it is asked for or the network is a NAT.
    pub(super) fn new(network: &Network, mode: Option<Mode>) -> Option<Self> {
        let router = mode == Some(Mode::Nat);
        let table = match network.ipv6 {
            ipv6::Ipv6::Unsaid if router => ipv6::Table::default(),
            ipv6::Ipv6::Off | ipv6::Ipv6::Unsaid => return None,
            ipv6::Ipv6::On(table) => table,
        };
        Some(Self {
            prefix: table.prefix.map(|Prefix(prefix)| prefix),
            dhcp: table.dhcp.unwrap_or_default(),
            router,
        })
    }

    /// Says why an address cannot be a guest's, if it cannot.
    pub fn refuses(&self, ip: Ipv6Addr) -> Option<String> {
        let own = ip.to_bits() & u128::from(u64::MAX);
        if is_end(ip) {
            // Whatever the prefix is, it is in it.
        } else if let Some(prefix) = self.prefix {
            if !prefix.contains(&ip) {
                return Some(format!("{ip} is not in the prefix {prefix}"));
            }
        } else {
            let end = Ipv6Addr::from_bits(own);
            return Some(format!(
                "{ip} is in a prefix that nobody chose: write its end alone, as in {end}, or set ipv6.prefix"
            ));
        }
        if own == 0 {
            Some(format!("{ip} is the address of every router"))
        } else if own == u128::from(GATEWAY) {
            Some(format!("{ip} is the address of the gateway"))
        } else {
            None
        }
    }
}

/// Whether only the end of an address was written.
const fn is_end(ip: Ipv6Addr) -> bool {
    ip.to_bits() >> 64 == 0
}

/// Returns an address whose end may be all that was written.
pub fn complete(ip: Ipv6Addr, prefix: Ipv6Net) -> Ipv6Addr {
    if is_end(ip) {
        Ipv6Addr::from_bits(prefix.network().to_bits() | ip.to_bits())
    } else {
        ip
    }
}

/// Returns the gateway's own address.
pub fn gateway(prefix: Ipv6Net) -> Ipv6Addr {
    complete(Ipv6Addr::from_bits(u128::from(GATEWAY)), prefix)
}

/// Checks the IPv6 addresses of the reservations of the network at `path`.
pub(super) fn reservations(
    network: &Network,
    ipv6: Option<Ipv6>,
    path: &str,
    problems: &mut Problems,
) {
    let Some(server) = network.dhcp.server() else {
        return;
    };
    let mut taken: Vec<(IpAddr, usize)> = Vec::new();
    for (index, reservation) in server.reservations.iter().enumerate() {
        let Some(Address6(ip)) = reservation.ip6 else {
            continue;
        };
        let key = format!("{}.reservation[{index}].ip6", join(path, "dhcp"));
        let Some(ipv6) = ipv6.filter(|ipv6| ipv6.dhcp == Dhcp6::Stateful) else {
            let text = "guests make their own IPv6 addresses here; set ipv6.dhcp = \"stateful\" to give them some";
            problems.error(key, text);
            continue;
        };
        if let Some(text) = ipv6.refuses(ip) {
            problems.error(key, text);
            continue;
        }
        let end = IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() & u128::from(u64::MAX)));
        if let Some((_, earlier)) = taken.iter().find(|(other, _)| *other == end) {
            problems.error(
                key,
                format!("{ip} is taken already, by reservation[{earlier}]"),
            );
        }
        taken.push((end, index));
    }
}

/// Networks that are translated, or that the host is in, must not have one prefix.
pub(super) fn overlaps(networks: &[super::Network], problems: &mut Problems) {
    let typed = |network: &super::Network| network.ipv6?.prefix;
    for (index, network) in networks.iter().enumerate() {
        let Some(prefix) = typed(network) else {
            continue;
        };
        if let Some(earlier) = networks[..index]
            .iter()
            .find(|earlier| typed(earlier) == Some(prefix))
        {
            let path = join(&join("network", &network.name), "ipv6");
            let text = format!("{prefix} is taken already, by network {:?}", earlier.name);
            problems.error(join(&path, "prefix"), text);
        }
    }
}
