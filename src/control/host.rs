//! The host as it is: its adapters, some of which a plan names, and its networks, which those of the daemon should not overlap.
//!
//! Where they do, guests do not reach that network of the host, or the host does not reach its guests; nothing else is
//! the worse for it. So this is told, and not refused.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enumerations are the kernel's, and grow with it"
)]

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage::{
    GetAddress, GetLink, GetRoute, NewAddress, NewLink, NewRoute,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};

use crate::control::adopt::exchange::dump;
use crate::control::adopt::host::ReadError;
use crate::control::plan::{Network, Plan};
use crate::control::problem::{Problems, did_you_mean, join};

/// Routes to more than this are those to everywhere, whole or in halves and quarters.
const WIDEST: u8 = 8;

/// A network of the host: the adapter by which it is reached, and its addresses.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HostNet {
    adapter: String,
    net: IpNet,
}

/// Returns the networks of the host, as far as the kernel tells.
pub fn nets() -> Vec<HostNet> {
    read().unwrap_or_else(|error| {
        tracing::debug!(%error, "the networks of the host cannot be read");
        Vec::new()
    })
}

fn read() -> Result<Vec<HostNet>, ReadError> {
    let mut names = BTreeMap::new();
    dump(GetLink(LinkMessage::default()), |answer| {
        if let NewLink(answer) = answer {
            let name = answer
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
            names.extend(name.map(|name| (answer.header.index, name)));
        }
        Ok(())
    })?;
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = AddressMessage::default();
        message.header.family = family;
        dump(GetAddress(message), |answer| {
            if let NewAddress(answer) = answer {
                let ip = answer
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Address(ip) => Some(*ip),
                        _ => None,
                    });
                let net = ip.and_then(|ip| IpNet::new(ip, answer.header.prefix_len).ok());
                found.extend(net.map(|net| (answer.header.index, net.trunc())));
            }
            Ok(())
        })?;
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        dump(GetRoute(message), |answer| {
            if let NewRoute(answer) = answer {
                found.extend(route(&answer));
            }
            Ok(())
        })?;
    }
    let named = found
        .into_iter()
        .filter_map(|(index, net)| Some((names.get(&index)?.clone(), net)));
    Ok(named
        .map(|(adapter, net)| HostNet { adapter, net })
        .collect())
}

/// Returns the adapter and the destination of a route to other machines.
fn route(message: &RouteMessage) -> Option<(u32, IpNet)> {
    let main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    if !main || message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut adapter, mut ip) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => adapter = Some(*index),
            RouteAttribute::Destination(RouteAddress::Inet(found)) => ip = Some((*found).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(found)) => ip = Some((*found).into()),
            _ => {}
        }
    }
    let net = IpNet::new(ip?, message.header.destination_prefix_length).ok()?;
    Some((adapter?, net.trunc()))
}

/// Tells which networks of the plan overlap one of the host, by name, a sentence each.
///
/// Networks that neither lead outside nor have the host in them are not looked at: what they overlap is never reached from them.
pub fn clashes(plan: &Plan, nets: &[HostNet]) -> Vec<(String, String)> {
    let mut own: BTreeSet<&str> = BTreeSet::from(["lo"]);
    for network in &plan.networks {
        let groups = network.port_groups.iter();
        own.extend(groups.filter_map(|group| group.host_adapter.as_deref()));
        own.extend(network.host_adapter.as_deref());
    }
    let foreign = || {
        nets.iter()
            .filter(|one| !own.contains(one.adapter.as_str()))
    };
    let matters = |network: &&Network| network.nat.is_some() || network.host_adapter.is_some();
    let mut clashes = Vec::new();
    for network in plan.networks.iter().filter(matters) {
        let v4 = network.subnet.map(|subnet| IpNet::from(subnet.net));
        let v6 = network.ipv6.and_then(|ipv6| ipv6.prefix).map(IpNet::from);
        for net in v4.into_iter().chain(v6) {
            let clash = foreign().find(|one| {
                one.net.prefix_len() >= WIDEST && (one.net.contains(&net) || net.contains(&one.net))
            });
            if let Some(HostNet {
                adapter,
                net: other,
            }) = clash
            {
                let text = format!(
                    "{net} overlaps {other}, which the host reaches by {adapter} and guests do not; choose another subnet"
                );
                clashes.push((network.name.clone(), text));
            }
        }
    }
    clashes
}

/// Notes which uplinks are not among the adapters, unless they may come later; nothing where those are not known.
pub fn present(plan: &Plan, adapters: Option<BTreeSet<String>>, problems: &mut Problems) {
    let Some(adapters) = adapters else { return };
    for (path, uplink) in plan.uplinks() {
        if uplink.optional || adapters.contains(&uplink.name) {
            continue;
        }
        let text = format!(
            "this machine has no network adapter named {:?}; write optional = true in [{}] if it comes later{}",
            uplink.name,
            join("uplink", &uplink.name),
            did_you_mean(&uplink.name, adapters.iter().map(String::as_str))
        );
        problems.error(path, text);
    }
}

/// The network adapters of this process's namespace, which what is mounted at /sys need not show.
pub fn adapters() -> Option<BTreeSet<String>> {
    Some(listed_adapters(
        &std::fs::read_to_string("/proc/self/net/dev").ok()?,
    ))
}

/// Reads the names out of /proc/net/dev: after two lines of headings, each line begins with one and a colon.
fn listed_adapters(text: &str) -> BTreeSet<String> {
    text.lines()
        .skip(2)
        .filter_map(|line| Some(line.rsplit_once(':')?.0.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::File;
    use std::path::Path;

    fn told(networks: &str, nets: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut problems = Problems::default();
        let file = File::read(networks, &mut problems);
        let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
        let plan = Plan::new(&file, runtime, state, &mut problems);
        assert_eq!(problems.errors(), []);
        let nets = nets.iter().map(|(adapter, net)| HostNet {
            adapter: (*adapter).to_owned(),
            net: net.parse().unwrap(),
        });
        clashes(&plan, &nets.collect::<Vec<_>>())
    }

    const NAT: &str =
        "[network.n]\nmode = \"nat\"\nsubnet = \"10.9.0.0/24\"\nhost_adapter = \"tap0\"\n";

    #[test]
    fn a_network_that_is_one_of_the_hosts_too_is_told_with_the_adapter() {
        let expected = "10.9.0.0/24 overlaps 10.0.0.0/8, which the host reaches by wg0 and guests do not; choose another subnet";
        let nets = [("eth0", "192.168.1.0/24"), ("wg0", "10.0.0.0/8")];
        assert_eq!(told(NAT, &nets), [("n".to_owned(), expected.to_owned())]);
        assert_eq!(told(NAT, &[("eth0", "10.9.0.128/25")]).len(), 1);
        let v6 = format!("{NAT}ipv6.prefix = \"fd00:1::/64\"\n");
        assert_eq!(told(&v6, &[("eth0", "fd00:1::/64")]).len(), 1);
    }

    #[test]
    fn own_adapters_and_routes_to_everywhere_are_no_clash() {
        let nets = [
            ("tap0", "10.9.0.0/24"),
            ("lo", "10.9.0.1/32"),
            ("tun0", "0.0.0.0/1"),
        ];
        assert_eq!(told(NAT, &nets), []);
        let isolated = "[network.n]\nmode = \"isolated\"\nsubnet = \"10.9.0.0/24\"\n";
        assert_eq!(told(isolated, &[("eth0", "10.9.0.0/24")]), []);
    }

    #[test]
    fn the_networks_of_this_host_can_be_read() {
        let nets = read().unwrap();
        assert!(nets.iter().all(|one| !one.adapter.is_empty()), "{nets:?}");
    }

    #[test]
    fn the_adapters_are_those_of_the_list_without_its_headings() {
        let text = "Inter-|   Receive\n face |bytes\n    lo:       8 0\neth0.10: 0 0\n";
        let names = ["lo", "eth0.10"].map(str::to_owned);
        assert_eq!(listed_adapters(text), BTreeSet::from(names));
        assert!(adapters().is_none_or(|adapters| adapters.contains("lo")));
    }
}
