//! The plan of addresses of a subnet, as VMware has it: the host first, clients in the upper half, and the gateway second
//! where it leads outside, last where it does not.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::control::problem::Problems;
use crate::control::value::Range;

/// The most addresses that a pool may have.
pub const POOL: u32 = 65_536;

/// A subnet, and who has which address in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subnet {
    /// The subnet.
    pub net: Ipv4Net,
    /// The host adapter's address, where there is one: the first.
    pub host: Option<Ipv4Addr>,
    /// The gateway's address: the second in a NAT network, the last in others.
    pub gateway: Ipv4Addr,
}

impl Subnet {
    /// Plans the addresses of a subnet; `nat` tells whether the gateway leads outside.
    pub fn new(
        net: Ipv4Net,
        host: bool,
        nat: bool,
        path: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        if !(8..=29).contains(&net.prefix_len()) {
            problems.error(
                path,
                format!("{net} cannot be used: the prefix length must be between 8 and 29"),
            );
            return None;
        }
        let first = net.network();
        if first.octets()[0] == 0 || first.is_loopback() || first.octets()[0] >= 224 {
            problems.error(
                path,
                format!("{net} has no addresses for machines; use one such as 192.168.81.0/24"),
            );
            return None;
        }
        let host = host.then(|| Ipv4Addr::from_bits(first.to_bits() + 1));
        Some(Self {
            net,
            host,
            gateway: Ipv4Addr::from_bits(if nat {
                first.to_bits() + 2
            } else {
                net.broadcast().to_bits() - 1
            }),
        })
    }

    /// Returns the addresses for clients where nobody says which: the upper half, the gateway's aside.
    pub fn pool(&self) -> Range {
        let end = self.net.broadcast().to_bits() - 1;
        let last = if self.gateway.to_bits() == end {
            end - 1
        } else {
            end
        };
        let half = (self.net.broadcast().to_bits() - self.net.network().to_bits()) / 2 + 1;
        let first = (self.net.network().to_bits() + half).max(last.saturating_sub(POOL - 1));
        Range {
            first: Ipv4Addr::from_bits(first),
            last: Ipv4Addr::from_bits(last),
        }
    }

    /// Says why an address cannot be a client's, if it cannot.
    pub fn refuses(&self, ip: Ipv4Addr) -> Option<String> {
        if !self.net.contains(&ip) {
            Some(format!("{ip} is not in the subnet {}", self.net))
        } else if ip == self.net.network() || ip == self.net.broadcast() {
            Some(format!(
                "{ip} is not an address of one machine in {}",
                self.net
            ))
        } else if ip == self.gateway {
            Some(format!(
                "{ip} is the address of the gateway and DHCP server"
            ))
        } else if Some(ip) == self.host {
            Some(format!("{ip} is the address of the host adapter"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(text: &str, nat: bool) -> Subnet {
        let net = text.parse().unwrap();
        Subnet::new(net, true, nat, "", &mut Problems::default()).unwrap()
    }

    #[test]
    fn a_24_is_planned_as_vmware_plans_it() {
        let host_only = subnet("192.168.81.0/24", false);
        assert_eq!(host_only.host, Some(Ipv4Addr::new(192, 168, 81, 1)));
        assert_eq!(host_only.gateway, Ipv4Addr::new(192, 168, 81, 254));
        let pool = host_only.pool().to_string();
        assert_eq!(pool, "192.168.81.128-192.168.81.253");
        let nat = subnet("192.168.88.0/24", true);
        assert_eq!(nat.host, Some(Ipv4Addr::new(192, 168, 88, 1)));
        assert_eq!(nat.gateway, Ipv4Addr::new(192, 168, 88, 2));
        assert_eq!(nat.pool().to_string(), "192.168.88.128-192.168.88.254");
    }

    #[test]
    fn what_cannot_be_a_subnet_is_refused() {
        for text in [
            "10.0.0.0/7",
            "10.0.0.0/30",
            "127.0.0.0/8",
            "224.0.0.0/24",
            "0.0.0.0/8",
        ] {
            let mut problems = Problems::default();
            assert_eq!(
                Subnet::new(text.parse().unwrap(), true, false, "", &mut problems),
                None,
                "{text}"
            );
            assert!(!problems.is_empty());
        }
    }

    proptest! {
        #[test]
        fn the_pool_of_any_subnet_is_usable(address in 0x0100_0000_u32..0x7f00_0000, prefix in 8_u8..=29, nat: bool) {
            let net = Ipv4Net::new(Ipv4Addr::from_bits(address), prefix).unwrap().trunc();
            let subnet = Subnet::new(net, true, nat, "", &mut Problems::default()).unwrap();
            let pool = subnet.pool();
            prop_assert!(pool.first <= pool.last);
            prop_assert!(pool.last.to_bits() - pool.first.to_bits() < POOL);
            prop_assert_eq!((subnet.refuses(pool.first), subnet.refuses(pool.last)), (None, None));
        }
    }
}
