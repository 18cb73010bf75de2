//! The DHCP server of a network: what the file says, within the subnet, filled up with what it does not say.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::control::config::dhcp::Server;
use crate::control::duration::Span;
use crate::control::plan::subnet::{POOL, Subnet};
use crate::control::plan::{Vm, hostname, station};
use crate::control::problem::{Problems, did_you_mean, join};
use crate::control::value::endpoint::Address6;
use crate::control::value::{Address, Domain, Hex, OPTION, Range, Text};
use crate::net::dhcp;
use crate::wire::ethernet::MacAddr;

const LEASE: Duration = Duration::from_secs(1_800);
const MAX_LEASE: Duration = Duration::from_secs(7_200);
const LONGEST_LEASE: Duration = Duration::from_secs(365 * 86_400);

/// A DHCP server, planned.
#[derive(Clone, Debug)]
pub struct Dhcp {
    /// What it serves; the reservations are beside it, for their hardware addresses are not known yet.
    pub spec: dhcp::Spec,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Reservation>,
}

/// An address that belongs to one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// Whose it is.
    pub client: Client,
    /// The address.
    pub ip: Ipv4Addr,
    /// The IPv6 address, or its end.
    pub ip6: Option<Ipv6Addr>,
    /// The client's name.
    pub hostname: Option<String>,
}

/// A client of a reservation.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Client {
    /// A VM of ours, whatever its hardware address is.
    Vm(String),
    /// Whoever has this hardware address.
    Mac(MacAddr),
}

impl Dhcp {
    /// Plans the server of the network `name` at `network`; without a subnet, checks what needs none.
    pub fn new(
        server: &Server,
        subnet: Option<Subnet>,
        mtu: u16,
        name: &str,
        vms: &[Vm],
        network: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let path = join(network, "dhcp");
        let pool = subnet.map(|subnet| pool(server.pool, subnet, &path, problems));
        let lease = lease(server, &path, problems);
        let list = |list: &Option<Vec<Address>>| list.clone().unwrap_or_default();
        let (router, dns) = (list(&server.router), list(&server.dns));
        for (key, addresses) in [("router", &router), ("dns", &dns), ("ntp", &server.ntp)] {
            fits(addresses.len() * 4, &join(&path, key), problems);
        }
        if let Some(subnet) = subnet {
            routers(&router, server, subnet, &path, problems);
        }
        fits(
            server
                .routes
                .iter()
                .map(|(to, _)| 5 + usize::from(to.0.prefix_len().div_ceil(8)))
                .sum(),
            &join(&path, "routes"),
            problems,
        );
        fits(
            server
                .search
                .iter()
                .map(|Domain(domain)| domain.len() + 2)
                .sum(),
            &join(&path, "search"),
            problems,
        );
        if let Some(handed) = server.mtu.filter(|handed| *handed > mtu) {
            problems.error(
                join(&path, "mtu"),
                format!("{handed} is more than the network's MTU, {mtu}"),
            );
        }
        let reservations = reservations(server, subnet, name, vms, &path, problems);
        let (subnet, pool) = subnet.zip(pool)?;
        let text = |text: &Option<Text>| text.clone().map(|Text(text)| text);
        let addresses = |list: &[Address]| list.iter().map(|Address(ip)| *ip).collect();
        let spec = dhcp::Spec {
            subnet: subnet.net,
            server: subnet.gateway,
            pool: pool.first..=pool.last,
            lease,
            max_lease: server
                .max_lease
                .map_or_else(|| MAX_LEASE.max(lease), |Span(max)| max),
            renew: server.renew.map(|Span(renew)| renew),
            rebind: server.rebind.map(|Span(rebind)| rebind),
            routers: addresses(&router),
            dns: addresses(&dns),
            ntp: addresses(&server.ntp),
            domain: server.domain.clone().map(|Domain(domain)| domain),
            search: server
                .search
                .iter()
                .map(|Domain(domain)| domain.clone())
                .collect(),
            mtu: server.mtu.or(if mtu == 1500 { None } else { Some(mtu) }),
            routes: server
                .routes
                .iter()
                .map(|(to, Address(via))| (to.0, *via))
                .collect(),
            vendor: server.vendor.clone().map(|Hex(bytes)| bytes),
            next_server: server.next_server.map(|Address(ip)| ip),
            tftp_server: text(&server.tftp_server),
            boot_file: text(&server.boot_file),
            options: server.options.clone(),
            identity: server.identity.unwrap_or_default(),
            reservations: Vec::new(),
            restored: Vec::new(),
        };
        Some(Self { spec, reservations })
    }
}

/// Checks that clients can reach whom they are told to send packets to.
fn routers(
    routers: &[Address],
    server: &Server,
    subnet: Subnet,
    path: &str,
    problems: &mut Problems,
) {
    for (index, Address(router)) in routers.iter().enumerate() {
        if !subnet.net.contains(router) {
            problems.error(
                format!("{path}.router[{index}]"),
                format!("{router} is not in the subnet {}", subnet.net),
            );
        }
    }
    for (index, (_, Address(via))) in server.routes.iter().enumerate() {
        if !subnet.net.contains(via) {
            problems.error(
                format!("{path}.routes[{index}].via"),
                format!("{via} is not in the subnet {}", subnet.net),
            );
        }
    }
}

fn pool(typed: Option<Range>, subnet: Subnet, path: &str, problems: &mut Problems) -> Range {
    let Some(pool) = typed else {
        return subnet.pool();
    };
    let path = join(path, "pool");
    let inside = |ip: &Ipv4Addr| {
        subnet.net.contains(ip) && *ip != subnet.net.network() && *ip != subnet.net.broadcast()
    };
    let within = |ip: Ipv4Addr| (pool.first..=pool.last).contains(&ip);
    let hint = || format!("use {}", subnet.pool());
    if !inside(&pool.first) || !inside(&pool.last) {
        problems.error(
            path,
            format!("{pool} is not within the subnet {}; {}", subnet.net, hint()),
        );
    } else if within(subnet.gateway) {
        problems.error(
            path,
            format!(
                "{pool} holds {}, the address of the gateway and DHCP server; {}",
                subnet.gateway,
                hint()
            ),
        );
    } else if let Some(host) = subnet.host.filter(|host| within(*host)) {
        problems.error(
            path,
            format!(
                "{pool} holds {host}, the address of the host adapter; {}",
                hint()
            ),
        );
    } else if pool.last.to_bits() - pool.first.to_bits() >= POOL {
        problems.error(
            path,
            format!("{pool} holds more than {POOL} addresses; use a part of it"),
        );
    }
    pool
}

fn lease(server: &Server, path: &str, problems: &mut Problems) -> Duration {
    let lease = server.lease.map_or(LEASE, |Span(lease)| lease);
    for (key, span) in [("lease", server.lease), ("max_lease", server.max_lease)] {
        if let Some(span) = span.filter(|span| !(dhcp::MIN_LEASE..=LONGEST_LEASE).contains(&span.0))
        {
            problems.error(
                join(path, key),
                format!(
                    "{span} is not between {} and {}",
                    Span(dhcp::MIN_LEASE),
                    Span(LONGEST_LEASE)
                ),
            );
        }
    }
    if let Some(max) = server.max_lease.filter(|max| max.0 < lease) {
        problems.error(
            join(path, "max_lease"),
            format!("{max} is less than the lease, {}", Span(lease)),
        );
    }
    let rebind = server.rebind.map_or(lease * 7 / 8, |Span(rebind)| rebind);
    if server.rebind.is_some() && rebind >= lease {
        problems.error(
            join(path, "rebind"),
            format!(
                "{} is not less than the lease, {}",
                Span(rebind),
                Span(lease)
            ),
        );
    }
    let renew = server.renew.map_or(lease / 2, |Span(renew)| renew);
    if (server.renew.is_some() || server.rebind.is_some()) && renew >= rebind {
        let key = if server.renew.is_some() {
            "renew"
        } else {
            "rebind"
        };
        let text = format!(
            "clients must renew before they rebind, but would renew after {} s and rebind after {} s",
            renew.as_secs(),
            rebind.as_secs()
        );
        problems.error(join(path, key), text);
    }
    lease
}

fn reservations(
    server: &Server,
    subnet: Option<Subnet>,
    name: &str,
    vms: &[Vm],
    path: &str,
    problems: &mut Problems,
) -> Vec<Reservation> {
    let mut planned = Vec::new();
    let mut clients = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (index, reservation) in server.reservations.iter().enumerate() {
        let path = format!("{path}.reservation[{index}]");
        let client = match (&reservation.vm, reservation.mac) {
            (Some(vm), None) => client_vm(vm, name, vms, &join(&path, "vm"), problems),
            (None, Some(mac)) => {
                station(mac, &join(&path, "mac"), problems);
                let vm = vms
                    .iter()
                    .find(|vm| vm.mac == Some(mac) && vm.network == name);
                Some(vm.map_or(Client::Mac(mac), |vm| Client::Vm(vm.name.clone())))
            }
            (Some(_), Some(_)) => {
                problems.error(
                    join(&path, "mac"),
                    "name a VM or a hardware address, not both",
                );
                None
            }
            (None, None) => {
                if !problems.has(&join(&path, "vm")) && !problems.has(&join(&path, "mac")) {
                    problems.error(
                        &path,
                        "whose it is, is missing: add vm = \"…\" or mac = \"…\"",
                    );
                }
                None
            }
        };
        let key = join(&path, "ip");
        let Some(Address(ip)) = reservation.ip else {
            if !problems.has(&key) {
                let place = subnet.map_or_else(String::new, |subnet| format!(" in {}", subnet.net));
                problems.error(key, format!("is missing: name an address{place}"));
            }
            continue;
        };
        if let Some(text) = subnet.and_then(|subnet| subnet.refuses(ip)) {
            problems.error(key, text);
        } else if let Some(earlier) = addresses.insert(ip, index) {
            problems.error(
                key,
                format!("{ip} is taken already, by reservation[{earlier}]"),
            );
        }
        let Some(client) = client else { continue };
        if let Some(earlier) = clients.insert(client.clone(), index) {
            problems.error(
                &path,
                format!("its client has an address already, by reservation[{earlier}]"),
            );
        }
        let named = reservation.hostname.clone().map(|Domain(name)| name);
        let hostname = named.or_else(|| match &client {
            Client::Vm(vm) => hostname(vm),
            Client::Mac(_) => None,
        });
        planned.push(Reservation {
            client,
            ip,
            ip6: reservation.ip6.map(|Address6(ip)| ip),
            hostname,
        });
    }
    planned
}

/// Finds a VM that must be in the network.
pub(super) fn client_vm(
    name: &str,
    network: &str,
    vms: &[Vm],
    path: &str,
    problems: &mut Problems,
) -> Option<Client> {
    match vms.iter().find(|vm| vm.name == name) {
        Some(vm) if vm.network == network => return Some(Client::Vm(name.to_owned())),
        Some(vm) => problems.error(
            path,
            format!(
                "VM {name:?} is in network {:?}, not in {network:?}",
                vm.network
            ),
        ),
        None => {
            let hint = did_you_mean(name, vms.iter().map(|vm| vm.name.as_str()));
            problems.error(path, format!("there is no VM {name:?}{hint}"));
        }
    }
    None
}

fn fits(bytes: usize, path: &str, problems: &mut Problems) {
    if bytes > OPTION {
        problems.error(
            path,
            format!(
                "is too much: an option of DHCP carries at most {OPTION} bytes here, and this takes {bytes}"
            ),
        );
    }
}
