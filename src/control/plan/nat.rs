//! The NAT of a network, planned: where it leads to, and what it holds to.

use std::ops::RangeInclusive;

use crate::control::config::File;
use crate::control::config::nat::{self, Address4, Log};
use crate::control::config::network::{Mode, Network};
use crate::control::duration::Span;
use crate::control::plan::forward::{self, Forward};
use crate::control::plan::ipv6::Ipv6;
use crate::control::plan::quoted;
use crate::control::plan::subnet::Subnet;
use crate::control::problem::{Problems, did_you_mean, join};
use crate::control::value::Address;
use crate::control::value::endpoint::{Address6, UNPRIVILEGED};
use crate::net::nat::{Addressing4, Addressing6, Filtering, Limits, Timeouts};
use crate::net::vlan::PortVlan;

/// The word for the daemon's own sockets.
const HOST: &str = "host";

/// A NAT, planned.
#[derive(Clone, Debug)]
pub struct Nat {
    /// Where it leads to.
    pub outside: Outside,
    /// The ports that lead to guests.
    pub forwards: Vec<Forward>,
    /// From whom mappings take packets.
    pub filtering: Filtering,
    /// When what is idle is forgotten.
    pub timeouts: Timeouts,
    /// How much there may be at once.
    pub limits: Limits,
    /// Whether the gateway's address reaches the host's loopback.
    pub map_host_loopback: bool,
    /// Whether active FTP works.
    pub ftp: bool,
    /// Where flows are logged.
    pub log: Log,
}

/// Where a NAT leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outside {
    /// The daemon's own sockets.
    Host,
    /// A bridged network, in which it is a station.
    Network(Station),
}

/// What a NAT is in the network that it leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Station {
    /// The network.
    pub network: String,
    /// The port group there.
    pub port_group: Option<String>,
    /// Its IPv4 address.
    pub v4: Addressing4,
    /// Its IPv6 address.
    pub v6: Addressing6,
    /// The ports that it chooses from.
    pub ports: RangeInclusive<u16>,
}

impl Outside {
    /// Returns the word for it in the file.
    pub fn name(&self) -> &str {
        match self {
            Self::Host => HOST,
            Self::Network(station) => &station.network,
        }
    }
}

/// What else is known of the network that is translated.
#[derive(Clone, Copy)]
pub(in crate::control) struct Inside<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its path.
    pub(super) path: &'a str,
    /// Its plan of addresses.
    pub(super) subnet: Option<Subnet>,
    /// Its IPv6.
    pub(super) ipv6: Option<Ipv6>,
    /// The VMs of all networks.
    pub(super) vms: &'a [super::Vm],
}

impl<'a> Inside<'a> {
    /// Returns what is known of a network that has been planned.
    pub(in crate::control) fn of(network: &'a super::Network, vms: &'a [super::Vm]) -> Self {
        Self {
            name: &network.name,
            path: "",
            subnet: network.subnet,
            ipv6: network.ipv6,
            vms,
        }
    }
}

impl Nat {
    /// Plans the NAT of a network that has this mode.
    pub(super) fn new(
        network: &Network,
        inside: Inside<'_>,
        file: &File,
        problems: &mut Problems,
    ) -> Self {
        let unsaid = nat::Nat::default();
        let typed = network.nat.as_ref().unwrap_or(&unsaid);
        let path = join(inside.path, "nat");
        let (outside, is_known) = match typed.outside.as_deref() {
            None | Some(HOST) => {
                host(typed, &path, problems);
                (Outside::Host, !problems.has(&join(&path, "outside")))
            }
            Some(name) => {
                let network = outside(name, file, &join(&path, "outside"), problems);
                let station = station(typed, name, network, inside, &path, problems);
                (Outside::Network(station), network.is_some())
            }
        };
        if typed.ftp == Some(true) && outside == Outside::Host {
            let text = "active FTP works where `outside` is a network; by the host's own sockets passive FTP does, which needs nothing";
            problems.warn(join(&path, "ftp"), text);
        }
        // Nothing is concluded from an outside that is not there.
        let known = is_known.then_some(&outside);
        let usual = Timeouts::default();
        let span = |span: Option<Span>, usual| span.map_or(usual, |Span(span)| span);
        let timeouts = Timeouts {
            udp: span(typed.timeouts.udp, usual.udp),
            dns: span(typed.timeouts.dns, usual.dns),
            tcp: span(typed.timeouts.tcp, usual.tcp),
            tcp_transitory: span(typed.timeouts.tcp_transitory, usual.tcp_transitory),
            icmp: span(typed.timeouts.icmp, usual.icmp),
        };
        Self {
            forwards: forward::plan(&network.forwards, known, inside, problems),
            outside,
            filtering: typed.filtering.unwrap_or_default(),
            timeouts,
            limits: limits(typed, &path, problems),
            map_host_loopback: typed.map_host_loopback.unwrap_or_default(),
            ftp: typed.ftp.unwrap_or_default(),
            log: typed.log.clone(),
        }
    }
}

fn limits(typed: &nat::Nat, path: &str, problems: &mut Problems) -> Limits {
    let usual = Limits::default();
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let flows = typed.max_flows.map_or(usual.flows, count);
    let per_guest = typed.max_flows_per_guest.map(count);
    if let Some(per_guest) = per_guest.filter(|per_guest| *per_guest > flows) {
        problems.error(
            join(path, "max_flows_per_guest"),
            format!("{per_guest} is more than there may be of all guests, max_flows = {flows}"),
        );
    }
    Limits {
        flows,
        flows_per_guest: per_guest.unwrap_or_else(|| usual.flows_per_guest.min(flows)),
    }
}

/// Checks that a NAT that leads to the host says nothing about an outside of its own.
fn host(typed: &nat::Nat, path: &str, problems: &mut Problems) {
    for key in &typed.network_keys {
        let text = "is for an outside that is a bridged network; with outside = \"host\" guests have the addresses of the host. Leave it out";
        problems.error(join(path, key), text);
    }
}

/// Plans what a NAT is in the network that it leads to.
fn station(
    typed: &nat::Nat,
    name: &str,
    outside: Option<&Network>,
    inside: Inside<'_>,
    path: &str,
    problems: &mut Problems,
) -> Station {
    let port_group = typed.port_group.as_ref();
    if let (Some(group), Some(outside)) = (port_group, outside) {
        let key = join(path, "port_group");
        if let Some(group) = super::port_group(group, name, outside, &key, problems)
            && matches!(group.vlan, PortVlan::All | PortVlan::Trunk(_))
        {
            let text = "carries several VLANs, and a NAT is in one: name a port group with one VLAN, as in vlan = 10";
            problems.error(key, text);
        }
    }
    if typed.map_host_loopback == Some(true) {
        let text = "the host's loopback is reached by the daemon's own sockets alone: use outside = \"host\", or leave it out";
        problems.error(join(path, "map_host_loopback"), text);
    }
    let v4 = v4(typed, inside, path, problems);
    let v6 = v6(typed, inside, path, problems);
    if v4 == Addressing4::Off && v6 == Addressing6::Off {
        let text = "with neither an IPv4 nor an IPv6 address nothing leaves; leave `address` out to have one from a DHCP server";
        problems.error(join(path, "address"), text);
    }
    let ports = typed.ports.unwrap_or(UNPRIVILEGED);
    Station {
        network: name.to_owned(),
        port_group: port_group.cloned(),
        v4,
        v6,
        ports: ports.first..=ports.last,
    }
}

/// Finds the network that a NAT leads to, which must be a bridged one.
fn outside<'a>(
    name: &str,
    file: &'a File,
    path: &str,
    problems: &mut Problems,
) -> Option<&'a Network> {
    let bridged = || {
        let networks = file.networks.iter();
        networks.filter(|(_, network)| network.mode == Some(Mode::Bridged))
    };
    let found = file.networks.get(name);
    if let Some(network) = found {
        match network.mode {
            Some(Mode::Bridged) => return Some(network),
            // What its mode is to be is not known, and told elsewhere.
            None => return None,
            Some(Mode::HostOnly | Mode::Isolated | Mode::Nat) => {}
        }
    }
    if problems.has(&join("network", name)) {
        return None;
    }
    let instead = match did_you_mean(name, bridged().map(|(name, _)| name.as_str()).chain([HOST])) {
        hint if !hint.is_empty() => hint,
        _ if bridged().next().is_none() => {
            "; leave it out to use the host's own sockets".to_owned()
        }
        _ => {
            let names = bridged().map(|(name, network)| (name.clone(), network));
            format!("; there is {}", quoted(&names.collect()))
        }
    };
    let text = match found.and_then(|network| network.mode) {
        Some(mode) => {
            let mode = mode.name();
            format!("network {name:?} is {mode}, and a NAT leads to a bridged one{instead}")
        }
        None => format!("there is no bridged network {name:?}{instead}"),
    };
    problems.error(path, text);
    None
}

fn v4(typed: &nat::Nat, inside: Inside<'_>, path: &str, problems: &mut Problems) -> Addressing4 {
    let router = typed.gateway.map(|Address(router)| router);
    let key = join(path, "gateway");
    let place = match typed.address {
        Some(Address4::Static(place)) => place,
        Some(Address4::Off) => {
            needs_static(router.is_some(), "address", key, problems);
            return Addressing4::Off;
        }
        Some(Address4::Dhcp) | None => {
            if !problems.has(&join(path, "address")) {
                needs_static(router.is_some(), "address", key, problems);
            }
            return Addressing4::Dhcp;
        }
    };
    if let Some(subnet) = inside
        .subnet
        .filter(|subnet| subnet.net.contains(&place.net) || place.net.contains(&subnet.net))
    {
        let text = format!(
            "{} overlaps the network's own subnet {}: what is inside could not be told from what is outside",
            place.net, subnet.net
        );
        problems.error(join(path, "address"), text);
    }
    match router {
        None if !problems.has(&key) => {
            let text = format!("is missing: guests will reach {} alone", place.net);
            problems.warn(key, text);
        }
        Some(router) if router == place.ip => {
            problems.error(key, format!("{router} is the address of the NAT itself"));
        }
        Some(router) if !place.net.contains(&router) => {
            problems.error(key, format!("{router} is not in the subnet {}", place.net));
        }
        None | Some(_) => {}
    }
    Addressing4::Static {
        ip: place.ip,
        net: place.net,
        router,
    }
}

fn v6(typed: &nat::Nat, inside: Inside<'_>, path: &str, problems: &mut Problems) -> Addressing6 {
    let router = typed.gateway6.map(|Address6(router)| router);
    let key = join(path, "gateway6");
    let place = match typed.address6 {
        Some(nat::Addressing6::Static(place)) => place,
        Some(nat::Addressing6::Off) => {
            needs_static(router.is_some(), "address6", key, problems);
            return Addressing6::Off;
        }
        Some(nat::Addressing6::Auto) | None => {
            if !problems.has(&join(path, "address6")) {
                needs_static(router.is_some(), "address6", key, problems);
            }
            return match inside.ipv6 {
                Some(_) => Addressing6::Auto,
                None => Addressing6::Off,
            };
        }
    };
    if inside.ipv6.is_none() {
        let text = "the network's guests have no IPv6; leave this out, or leave `ipv6 = false` out";
        problems.error(join(path, "address6"), text);
    }
    match router {
        None if !problems.has(&key) => {
            let text = format!("is missing: guests will reach {} alone", place.net);
            problems.warn(key, text);
        }
        Some(router) if router == place.ip => {
            problems.error(key, format!("{router} is the address of the NAT itself"));
        }
        Some(router) if !place.net.contains(&router) && !router.is_unicast_link_local() => {
            let text = format!(
                "{router} is neither in the prefix {} nor link-local",
                place.net
            );
            problems.error(key, text);
        }
        None | Some(_) => {}
    }
    Addressing6::Static {
        ip: place.ip,
        net: place.net,
        router,
    }
}

fn needs_static(written: bool, address: &str, key: String, problems: &mut Problems) {
    if written {
        let text =
            format!("goes with an address that is typed: write {address} too, or leave this out");
        problems.error(key, text);
    }
}

#[cfg(test)]
mod tests;
