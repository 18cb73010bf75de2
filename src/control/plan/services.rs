//! From the plan of a network to its gateway: the services behind it, who is inside, and where it leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use crate::control::config::ipv6::Dhcp6;
use crate::control::config::nat::Log;
use crate::control::identity::Macs;
use crate::control::plan::dhcp::Client;
use crate::control::plan::dns::{Dns, Servers};
use crate::control::plan::ipv6::Ipv6;
use crate::control::plan::nat::{Nat, Outside};
use crate::control::plan::spec::hostname;
use crate::control::plan::subnet::Subnet;
use crate::control::plan::{Network, Plan, forward, ipv6};
use crate::control::prefixes::Prefixes;
use crate::control::value::endpoint::DestinationHost;
use crate::net::dhcp::Record;
use crate::net::gateway::ServiceSpec;
use crate::net::nat::forward::{Forward, Host, Target};
use crate::net::nat::{self, Gateways, NetworkOutside, health};
use crate::net::{address, dhcp, dhcp6, dns, gateway, inside, router_advertisement};
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv6::interface_identifier;

/// The first and the last end of the addresses that DHCPv6 gives out: `::1:0:0:0` to `::1:ffff:ffff:ffff`, which nobody types.
const POOL6: (u128, u128) = (0x0001_0000_0000_0000, 0x0001_ffff_ffff_ffff);

/// What is there where the kernel has IPv6.
pub(in crate::control) const IPV6: &str = "/proc/self/net/if_inet6";

/// Returns the gateway of a network, if it has one, with the leases from before a restart.
pub(super) fn gateway(
    plan: &Plan,
    network: &Network,
    macs: &Macs,
    prefixes: &Prefixes,
    restored: &[Record],
) -> Option<gateway::Spec> {
    let subnet = network.subnet?;
    let mac = macs.gateway(&network.name);
    let gateways = gateways(subnet, mac, prefixes.of(&network.name));
    let dhcp = network
        .dhcp
        .is_some()
        .then(|| dhcp(network, subnet, macs, restored))
        .flatten();
    Some(gateway::Spec {
        mac,
        inside: inside(plan, network, macs, dhcp.as_ref()),
        services: services(network, macs, dhcp, &gateways, subnet.host),
        nat: network
            .nat
            .as_ref()
            .map(|nat| translator(plan, network, nat, gateways, macs, prefixes)),
    })
}

/// The services in the order in which frames are offered to them.
///
/// DHCP comes first, so that it overhears the ARP traffic that the next service claims.
fn services(
    network: &Network,
    macs: &Macs,
    dhcp: Option<dhcp::Spec>,
    gateways: &Gateways,
    host: Option<Ipv4Addr>,
) -> Vec<ServiceSpec> {
    let dns = network.dns.as_ref();
    let dns = dns.map(|planned| ServiceSpec::Dns(Box::new(names(planned, gateways, host))));
    let probes = network.nat.as_ref().map(|_| {
        ServiceSpec::Health(Box::new(health::Spec {
            gateways: gateways.clone(),
            // Those of the forwards are told when they are opened.
            targets: Vec::new(),
        }))
    });
    let v6 = network.ipv6.zip(gateways.v6).zip(gateways.link_local);
    let v6 = v6.map(|((planned, (ip, prefix)), link_local)| {
        let own = OwnAddresses {
            ip,
            prefix,
            link_local,
        };
        let advertised =
            ServiceSpec::RouterAdvertisement(Box::new(own.advertised(network, planned)));
        let dhcp6 = own.dhcp6(network, planned, macs);
        let dhcp6 = dhcp6.map(|spec| ServiceSpec::Dhcp6(Box::new(spec)));
        [advertised].into_iter().chain(dhcp6)
    });
    let address = gateways.v4.map(|(ip, _)| {
        ServiceSpec::Address(address::Spec {
            ip,
            v6: gateways.v6.map(|(ip, _)| ip),
            link_local: gateways.link_local,
        })
    });
    let dhcp = dhcp.map(|spec| ServiceSpec::Dhcp(Box::new(spec)));
    let others = dhcp.into_iter().chain(address).chain(dns).chain(probes);
    others.chain(v6.into_iter().flatten()).collect()
}

/// The DNS server of a network.
fn names(planned: &Dns, gateways: &Gateways, host: Option<Ipv4Addr>) -> dns::Spec {
    dns::Spec {
        gateways: gateways.clone(),
        domain: Some(planned.domain.clone()),
        host: host.map(IpAddr::from).into_iter().collect(),
        hosts: planned.hosts.clone(),
        forward: planned.servers != Servers::Nobody,
        servers: match &planned.servers {
            Servers::Named(servers) => dns::Servers::Listed(servers.clone()),
            Servers::Host | Servers::Nobody => dns::Servers::default(),
        },
    }
}

/// The gateway's own addresses of IPv6, and the prefix that they are in.
struct OwnAddresses {
    ip: Ipv6Addr,
    prefix: Ipv6Net,
    link_local: Ipv6Addr,
}

impl OwnAddresses {
    /// Where guests ask for names.
    fn servers(&self, network: &Network) -> Vec<Ipv6Addr> {
        network.dns.iter().map(|_| self.ip).collect()
    }

    fn search(network: &Network) -> Vec<String> {
        network.dns.iter().map(|dns| dns.domain.clone()).collect()
    }

    fn advertised(&self, network: &Network, planned: Ipv6) -> router_advertisement::Spec {
        use router_advertisement::Spec;
        Spec {
            prefix: self.prefix,
            link_local: self.link_local,
            mtu: network.mtu,
            dns: self.servers(network),
            search: Self::search(network),
            managed: planned.dhcp == Dhcp6::Stateful,
            other: planned.dhcp != Dhcp6::Off,
            autonomous: planned.dhcp != Dhcp6::Stateful,
            router_lifetime: if planned.router {
                Spec::ROUTER_LIFETIME
            } else {
                Duration::ZERO
            },
            valid: Spec::VALID,
            preferred: Spec::PREFERRED,
            min_interval: Spec::MIN_INTERVAL,
            max_interval: Spec::MAX_INTERVAL,
        }
    }

    fn dhcp6(&self, network: &Network, planned: Ipv6, macs: &Macs) -> Option<dhcp6::Spec> {
        use dhcp6::Spec;
        let first = |end: u128| Ipv6Addr::from_bits(self.prefix.network().to_bits() | end);
        let pool = match planned.dhcp {
            Dhcp6::Off => return None,
            Dhcp6::Stateless => None,
            Dhcp6::Stateful => Some(first(POOL6.0)..=first(POOL6.1)),
        };
        let reserved = network.dhcp.iter().flat_map(|dhcp| &dhcp.reservations);
        let reserved = reserved.filter_map(|reservation| {
            Some(dhcp6::Reservation {
                mac: client(&reservation.client, macs),
                ip: ipv6::complete(reservation.ip6?, self.prefix),
                hostname: reservation.hostname.clone(),
            })
        });
        Some(Spec {
            prefix: self.prefix,
            server: self.link_local,
            gateway: self.ip,
            pool,
            valid: Spec::VALID,
            preferred: Spec::PREFERRED,
            dns: self.servers(network),
            search: Self::search(network),
            ntp: Vec::new(),
            refresh: Spec::REFRESH,
            rapid_commit: true,
            reservations: reserved.collect(),
        })
    }
}

/// The addresses of the gateway itself.
fn gateways(subnet: Subnet, mac: MacAddr, prefix: Option<Ipv6Net>) -> Gateways {
    Gateways {
        v4: Some((subnet.gateway, subnet.net)),
        v6: prefix.map(|prefix| (ipv6::gateway(prefix), prefix)),
        link_local: prefix.map(|_| link_local(mac)),
    }
}

/// The link-local address that is made of a hardware address (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    Ipv6Addr::from_bits((0xfe80 << 112) | u128::from(interface_identifier(mac)))
}

fn dhcp(network: &Network, subnet: Subnet, macs: &Macs, restored: &[Record]) -> Option<dhcp::Spec> {
    let planned = network.dhcp.as_ref()?;
    let reservations = planned.reservations.iter();
    let reservations = reservations.map(|reservation| dhcp::Reservation {
        mac: client(&reservation.client, macs),
        ip: reservation.ip,
        hostname: reservation.hostname.clone(),
    });
    let fits = |record: &&Record| subnet.refuses(record.ip).is_none();
    Some(dhcp::Spec {
        reservations: reservations.collect(),
        restored: restored.iter().filter(fits).cloned().collect(),
        ..planned.spec.clone()
    })
}

fn client(client: &Client, macs: &Macs) -> MacAddr {
    match client {
        Client::Vm(vm) => macs.vm(vm),
        Client::Mac(mac) => *mac,
    }
}

/// Who is known to be inside: the VMs, and for whom addresses are reserved.
fn inside(plan: &Plan, network: &Network, macs: &Macs, dhcp: Option<&dhcp::Spec>) -> inside::Spec {
    let vms = plan.vms.iter().filter(|vm| vm.network == network.name);
    let reservations = dhcp.into_iter().flat_map(|spec| &spec.reservations);
    inside::Spec {
        vms: vms.map(|vm| (vm.name.clone(), macs.vm(&vm.name))).collect(),
        reservations: reservations
            .map(|one| (one.mac, one.ip, one.hostname.clone()))
            .collect(),
    }
}

fn translator(
    plan: &Plan,
    network: &Network,
    nat: &Nat,
    gateways: Gateways,
    macs: &Macs,
    prefixes: &Prefixes,
) -> nat::Spec {
    let prefix = prefixes.of(&network.name);
    let outside = match &nat.outside {
        Outside::Host => nat::Outside::Host,
        Outside::Network(station) => nat::Outside::Network(NetworkOutside {
            mac: macs.nat(&network.name),
            v4: station.v4,
            v6: station.v6,
            ports: station.ports.clone(),
            hostname: format!("{}-{}", hostname(), network.name),
        }),
    };
    // Where the kernel has no IPv6, a forward that listens on all addresses listens on those of IPv4.
    let both = nat.outside != Outside::Host || Path::new(IPV6).exists();
    let forwards = nat
        .forwards
        .iter()
        .flat_map(|forward| forwards(forward, both, prefix, macs));
    nat::Spec {
        forwards: forwards.collect(),
        gateways,
        outside,
        filtering: nat.filtering,
        timeouts: nat.timeouts,
        limits: nat.limits,
        closed: closed(plan, network, prefixes),
        map_host_loopback: nat.map_host_loopback,
        ftp: nat.ftp,
        log: nat.log != Log::Off,
    }
}

/// The subnets and prefixes of all other networks, between which nothing passes.
fn closed(plan: &Plan, network: &Network, prefixes: &Prefixes) -> Vec<IpNet> {
    let others = plan.networks.iter();
    let others = others.filter(|other| other.name != network.name);
    others
        .flat_map(|other| {
            let v4 = other.subnet.map(|subnet| IpNet::from(subnet.net));
            let v6 = prefixes.of(&other.name).map(IpNet::from);
            v4.into_iter().chain(v6)
        })
        .collect()
}

/// A forward for each of the addresses that it listens on.
pub(in crate::control) fn forwards(
    planned: &forward::Forward,
    both: bool,
    prefix: Option<Ipv6Net>,
    macs: &Macs,
) -> Vec<Forward> {
    let targets: Vec<_> = planned
        .targets
        .iter()
        .map(|target| Target {
            host: match &target.host {
                DestinationHost::Vm(name) => Host::Vm {
                    name: name.clone(),
                    mac: macs.vm(name),
                },
                DestinationHost::Address(IpAddr::V6(ip)) => Host::Address(
                    prefix
                        .map_or(*ip, |prefix| ipv6::complete(*ip, prefix))
                        .into(),
                ),
                DestinationHost::Address(ip @ IpAddr::V4(_)) => Host::Address(*ip),
            },
            port: target.port,
        })
        .collect();
    let several = planned.addresses.len() > 1;
    let addresses = planned
        .addresses
        .iter()
        .filter(|ip| both || !several || ip.is_ipv4());
    addresses
        .map(|ip| Forward {
            protocol: planned.protocol,
            ip: *ip,
            first: planned.ports.first,
            last: planned.ports.last,
            targets: targets.clone(),
            balance: planned.balance,
            health: planned.health,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_made_of_the_hardware_address() {
        let mac = MacAddr([0x02, 0x01, 0x02, 0x03, 0x04, 0x05]);
        assert_eq!(link_local(mac).to_string(), "fe80::1:2ff:fe03:405");
    }
}
