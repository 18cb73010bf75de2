//! The kernel as the host: adapters, addresses, routes and neighbours over netlink (`man 7 rtnetlink`).
//!
//! The kernel answers at once, so that each call waits for its answer. What it tells of is read without assuming that
//! it is all of it; a route with a property that is not known here is not taken for one without.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enumerations are the kernel's, and grow with it"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Nla};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage::{
    self, DelAddress, DelNeighbour, DelRoute, NewAddress, NewRoute,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RoutePreference,
    RouteType, RouteVia,
};

use super::exchange::{dump, exchange};
use super::host::{Change, Host, Link, ReadError};
use super::record::{Address, Baggage, Route};
use crate::control::timestamp;

/// The table in which the kernel keeps the host's own addresses.
const TABLE_LOCAL: u32 = 255;
/// Who made a route that follows from an address.
const PROTOCOL_KERNEL: u8 = 2;
/// The unit in which the kernel tells when a route ends: hundredths of a second.
const CLOCK: u32 = 100;
/// How often, and with which pauses, an address is looked for that was just added.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(2);
/// The port of the discard service (RFC 863).
const DISCARD: u16 = 9;

/// The kernel of this machine, as it looks from this process's network namespace.
pub struct Kernel;

impl Host for Kernel {
    fn link(&mut self, adapter: &str) -> io::Result<Option<Link>> {
        Ok(link(adapter)?.map(|(index, flags)| Link {
            index,
            up: flags.contains(LinkFlags::Up),
        }))
    }

    fn read(&mut self, adapter: &str, now: SystemTime) -> Result<Baggage, ReadError> {
        let index = index(adapter)?;
        let now = timestamp::seconds(now);
        let (mut addresses, mut all) = (Vec::new(), Vec::new());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            message.header.index = index;
            let mut found = Vec::new();
            dump(RouteNetlinkMessage::GetAddress(message), |answer| {
                if let RouteNetlinkMessage::NewAddress(answer) = answer
                    && answer.header.index == index
                    && let Some(address) = address(&answer, now)
                {
                    if answer.header.scope == AddressScope::Universe {
                        found.push(address.clone());
                    }
                    all.push(address);
                }
                Ok(())
            })?;
            if family == AddressFamily::Inet6 {
                // The kernel puts a new one before the others.
                found.reverse();
            }
            addresses.extend(found);
        }
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.push(RouteAttribute::Oif(index));
            dump(RouteNetlinkMessage::GetRoute(message), |answer| {
                if let RouteNetlinkMessage::NewRoute(answer) = answer {
                    routes.extend(route(&answer, index, now)?);
                }
                Ok(())
            })?;
        }
        routes.retain(|route| !follows(route, &all));
        let mut baggage = Baggage { addresses, routes };
        baggage.sort();
        Ok(baggage)
    }

    fn neighbours(&mut self, adapter: &str) -> Vec<IpAddr> {
        let mut neighbours = Vec::new();
        let asked = index(adapter).map_err(ReadError::from).and_then(|index| {
            let mut message = NeighbourMessage::default();
            message.header.family = AddressFamily::Inet6;
            dump(RouteNetlinkMessage::GetNeighbour(message), |answer| {
                if let RouteNetlinkMessage::NewNeighbour(answer) = answer
                    && answer.header.ifindex == index
                {
                    let found = answer
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                                Some(*ip)
                            }
                            _ => None,
                        });
                    neighbours.extend(found.filter(|ip| !ip.is_multicast()).map(IpAddr::V6));
                }
                Ok(())
            })
        });
        if let Err(error) = asked {
            tracing::debug!(adapter, %error, "the neighbours cannot be read");
        }
        neighbours
    }

    fn arp_ignore(&mut self, adapter: &str) -> Option<u8> {
        let text = std::fs::read_to_string(arp_ignore(adapter)).ok()?;
        text.trim().parse().ok()
    }

    fn change(&mut self, change: &Change, now: SystemTime) -> io::Result<bool> {
        let now = timestamp::seconds(now);
        let removes = matches!(change, Change::RemoveAddress(..) | Change::RemoveRoute(..));
        let (flags, message) = match change {
            Change::ArpIgnore(adapter, _, to) => {
                std::fs::write(arp_ignore(adapter), to.to_string())?;
                return Ok(true);
            }
            Change::AddAddress(adapter, _)
            | Change::RemoveAddress(adapter, _)
            | Change::AddRoute(adapter, _)
            | Change::RemoveRoute(adapter, _) => {
                let index = match link(adapter)? {
                    Some((index, _)) => index,
                    // With the adapter went all that it had.
                    None if removes => return Ok(false),
                    None => return Err(absent()),
                };
                match change {
                    Change::AddAddress(_, address) => (
                        NLM_F_CREATE | NLM_F_EXCL,
                        NewAddress(address_message(address, index, now)),
                    ),
                    Change::RemoveAddress(_, address) => {
                        (0, DelAddress(address_message(address, index, now)))
                    }
                    // Appended: the same route by another adapter may be there still.
                    Change::AddRoute(_, route) => (
                        NLM_F_CREATE | NLM_F_APPEND,
                        NewRoute(route_message(route, index, now)),
                    ),
                    Change::RemoveRoute(_, route) => {
                        (0, DelRoute(route_message(route, index, now)))
                    }
                    Change::ArpIgnore(..) => return Ok(false),
                }
            }
        };
        match exchange(message, flags | NLM_F_ACK, |_| Ok(())) {
            Ok(()) => {
                if let Change::AddAddress(adapter, address) = change {
                    wait_for(adapter, address.net.addr());
                }
                Ok(true)
            }
            Err(ReadError::System(error)) => match error.raw_os_error() {
                Some(libc::EEXIST) if !removes => Ok(false),
                Some(libc::EADDRNOTAVAIL | libc::ESRCH | libc::ENODEV | libc::ENETDOWN)
                    if removes =>
                {
                    Ok(false)
                }
                _ => Err(error),
            },
            Err(error @ ReadError::Route { .. }) => Err(io::Error::other(error)),
        }
    }

    fn greet(&mut self, adapter: &str, source: Option<IpAddr>, neighbour: IpAddr) {
        let attempt = || -> Result<(), ReadError> {
            // Of one that it knows the host would ask much later, and in private.
            let index = index(adapter)?;
            let known = DelNeighbour(neighbour_message(neighbour, index));
            if let Err(error) = exchange(known, NLM_F_ACK, |_| Ok(())) {
                tracing::trace!(adapter, %neighbour, %error, "the neighbour was not known");
            }
            let unspecified = match neighbour {
                IpAddr::V4(_) => IpAddr::from([0; 4]),
                IpAddr::V6(_) => IpAddr::from([0; 16]),
            };
            let socket = UdpSocket::bind((source.unwrap_or(unspecified), 0))?;
            let to = match neighbour {
                IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                    SocketAddr::V6(SocketAddrV6::new(ip, DISCARD, 0, index))
                }
                IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(neighbour, DISCARD),
            };
            socket.send_to(&[], to)?;
            Ok(())
        };
        if let Err(error) = attempt() {
            tracing::debug!(adapter, %neighbour, %error, "a neighbour was not greeted");
        }
    }
}

fn arp_ignore(adapter: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{adapter}/arp_ignore")
}

fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "there is no such adapter")
}

fn index(adapter: &str) -> io::Result<u32> {
    link(adapter)?.map(|(index, _)| index).ok_or_else(absent)
}

/// Returns the kernel's number of an adapter, and the state of its link.
fn link(adapter: &str) -> io::Result<Option<(u32, LinkFlags)>> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(adapter.to_owned()));
    let mut found = None;
    let asked = exchange(RouteNetlinkMessage::GetLink(message), 0, |answer| {
        if let RouteNetlinkMessage::NewLink(answer) = answer {
            found = Some((answer.header.index, answer.header.flags));
        }
        Ok(())
    });
    match asked {
        Ok(()) => Ok(found),
        Err(ReadError::System(error)) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(ReadError::System(error)) => Err(error),
        Err(error @ ReadError::Route { .. }) => Err(io::Error::other(error)),
    }
}

/// Waits until the host hears an address. The kernel sees to that only after it has said that the address is there.
fn wait_for(adapter: &str, ip: IpAddr) {
    for _ in 0..TRIES {
        match is_heard(adapter, ip) {
            Ok(false) => std::thread::sleep(PAUSE),
            Ok(true) => return,
            Err(error) => {
                tracing::debug!(adapter, %ip, %error, "whether the address is heard cannot be read");
                return;
            }
        }
    }
    tracing::debug!(adapter, %ip, "the address is not heard yet");
}

/// Tells whether the kernel takes what comes for an address as the host's own, if anything can come.
fn is_heard(adapter: &str, ip: IpAddr) -> Result<bool, ReadError> {
    let (index, flags) = link(adapter)?.ok_or_else(absent)?;
    if !flags.contains(LinkFlags::Running) {
        return Ok(true);
    }
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.attributes = vec![
        RouteAttribute::Table(TABLE_LOCAL),
        RouteAttribute::Oif(index),
    ];
    let (by, to) = (
        RouteAttribute::Oif(index),
        RouteAttribute::Destination(ip.into()),
    );
    let mut found = false;
    dump(RouteNetlinkMessage::GetRoute(message), |answer| {
        if let RouteNetlinkMessage::NewRoute(answer) = answer {
            let has = |attribute| answer.attributes.contains(attribute);
            found |= answer.header.kind == RouteType::Local && has(&by) && has(&to);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The flags that are not the kernel's own to decide.
fn kept_flags() -> AddressFlags {
    AddressFlags::Homeaddress | AddressFlags::Noprefixroute | AddressFlags::Mcautojoin
}

fn until(seconds: u32, now: u64) -> Option<u64> {
    (seconds != u32::MAX).then(|| now + u64::from(seconds))
}

fn remaining(until: Option<u64>, now: u64) -> u32 {
    until.map_or(u32::MAX, |until| {
        u32::try_from(until.saturating_sub(now)).unwrap_or(u32::MAX)
    })
}

fn address(message: &AddressMessage, now: u64) -> Option<Address> {
    let (mut local, mut peer, mut broadcast, mut metric) = (None, None, None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut valid_until, mut preferred_until) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
            AddressAttribute::RoutePriority(value) => metric = Some(*value),
            AddressAttribute::Flags(value) => flags = *value,
            AddressAttribute::CacheInfo(info) => {
                valid_until = until(info.ifa_valid, now);
                preferred_until = until(info.ifa_preferred, now);
            }
            _ => {}
        }
    }
    // One that somebody else has is not used.
    if flags.contains(AddressFlags::Dadfailed) {
        return None;
    }
    // Without a peer, IPv6 has the address alone, and IPv4 has it twice.
    let ip = local.or(peer)?;
    Some(Address {
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
        peer: peer.filter(|peer| *peer != ip),
        broadcast,
        flags: (flags & kept_flags()).bits(),
        metric,
        valid_until,
        preferred_until,
    })
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_message(address: &Address, index: u32, now: u64) -> AddressMessage {
    let ip = address.net.addr();
    let mut flags = AddressFlags::from_bits_retain(address.flags);
    if ip.is_ipv6() {
        // The adapter that had it until now may still have it, and would object.
        flags |= AddressFlags::Nodad;
    }
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = address.net.prefix_len();
    message.header.index = index;
    let valid = remaining(address.valid_until, now);
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = valid;
    lifetimes.ifa_preferred = remaining(address.preferred_until, now).min(valid);
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(address.peer.unwrap_or(ip)),
        AddressAttribute::Flags(flags),
        AddressAttribute::CacheInfo(lifetimes),
    ];
    let broadcast = address.broadcast.map(AddressAttribute::Broadcast);
    let metric = address.metric.map(AddressAttribute::RoutePriority);
    message
        .attributes
        .extend(broadcast.into_iter().chain(metric));
    message
}

fn neighbour_message(ip: IpAddr, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    })];
    message
}

/// Whether a route comes and goes with an address of the adapter, or belongs to what stays there.
fn follows(route: &Route, addresses: &[Address]) -> bool {
    let stays = match route.destination {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    };
    let made = addresses.iter().any(|address| {
        let alone = address.flags & AddressFlags::Noprefixroute.bits() != 0;
        let end = address.peer.unwrap_or_else(|| address.net.addr());
        let prefix = IpNet::new(end, address.net.prefix_len()).map(|net| net.trunc());
        !alone && prefix == Ok(route.destination)
    });
    route.protocol == PROTOCOL_KERNEL && (stays || made)
}

/// Reads a route of the adapter with this index; `None` where it is none that moves.
fn route(message: &RouteMessage, index: u32, now: u64) -> Result<Option<Route>, ReadError> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return Ok(None),
    };
    let mut route = Route {
        destination: IpNet::from(unspecified),
        table: header.table.into(),
        tos: header.tos,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: None,
        metric: None,
        preference: None,
        metrics: BTreeMap::new(),
        until: None,
    };
    let (mut leaves, mut destination, mut obstacle) = (false, unspecified, None);
    if header.source_prefix_length > 0 {
        obstacle = Some("depends on the source address; remove it, or move it by hand");
    }
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => leaves |= *oif == index,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(to) => destination = ip(to).unwrap_or(unspecified),
            RouteAttribute::Gateway(via) => route.gateway = ip(via),
            RouteAttribute::Via(RouteVia::Inet(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.gateway = Some((*via).into()),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Preference(preference) => route.preference = Some((*preference).into()),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match number(metric) {
                        Some((kind, value)) => {
                            route.metrics.insert(kind, value);
                        }
                        None => obstacle = Some("has a metric that vmlan does not know; remove it"),
                    }
                }
            }
            RouteAttribute::CacheInfo(info) if info.expires > 0 && info.expires < u32::MAX / 2 => {
                route.until = Some(now + u64::from(info.expires / CLOCK).max(1));
            }
            RouteAttribute::CacheInfo(_) | RouteAttribute::Expires(_) => {}
            RouteAttribute::MultiPath(hops) => {
                leaves |= hops.iter().any(|hop| hop.interface_index == index);
                obstacle =
                    Some("has more than one next hop; replace it by routes of one next hop each");
            }
            RouteAttribute::NhId(_) => {
                obstacle = Some("uses a next hop object; replace it by one that names its gateway");
            }
            _ => {
                obstacle = Some("has a property that vmlan cannot move; replace it by a plain one")
            }
        }
    }
    let plain = header.kind == RouteType::Unicast && !header.flags.contains(RouteFlags::Cloned);
    if !leaves || !plain || route.table == TABLE_LOCAL {
        return Ok(None);
    }
    if let Ok(to) = IpNet::new(destination, header.destination_prefix_length) {
        route.destination = to;
    }
    match obstacle {
        None => Ok(Some(route)),
        Some(reason) => Err(ReadError::Route {
            route: route.to_string(),
            reason,
        }),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// Returns a metric as the kernel's number of it and its value, if that is a number too.
fn number(metric: &RouteMetric) -> Option<(u16, u32)> {
    if matches!(metric, RouteMetric::CcAlgo(_)) || metric.value_len() != 4 {
        return None;
    }
    let mut value = [0; 4];
    metric.emit_value(&mut value);
    Some((metric.kind(), u32::from_ne_bytes(value)))
}

fn route_message(route: &Route, index: u32, now: u64) -> RouteMessage {
    let to = route.destination;
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.addr());
    message.header.destination_prefix_length = to.prefix_len();
    message.header.tos = route.tos;
    message.header.protocol = route.protocol.into();
    message.header.scope = route.scope.into();
    message.header.kind = RouteType::Unicast;
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    attributes.push(RouteAttribute::Oif(index));
    if to.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(to.addr().into()));
    }
    attributes.extend(route.gateway.map(|gateway| match (to, gateway) {
        (IpNet::V4(_), IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        (IpNet::V4(_) | IpNet::V6(_), gateway) => RouteAttribute::Gateway(gateway.into()),
    }));
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.extend(
        route
            .preference
            .map(|value| RouteAttribute::Preference(RoutePreference::from(value))),
    );
    if !route.metrics.is_empty() {
        let metrics = route.metrics.iter().map(|(kind, value)| {
            RouteMetric::Other(DefaultNla::new(*kind, value.to_ne_bytes().to_vec()))
        });
        attributes.push(RouteAttribute::Metrics(metrics.collect()));
    }
    let lifetime = route.until.map(|_| remaining(route.until, now));
    attributes.extend(lifetime.map(RouteAttribute::Expires));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::route::{RouteNextHop, RouteProtocol};
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn plain(destination: &str, protocol: u8) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            table: 254,
            tos: 0,
            protocol,
            scope: 253,
            gateway: None,
            onlink: false,
            source: None,
            metric: None,
            preference: None,
            metrics: BTreeMap::new(),
            until: None,
        }
    }

    fn on(net: &str, flags: AddressFlags) -> Address {
        Address {
            net: net.parse().unwrap(),
            peer: None,
            broadcast: None,
            flags: flags.bits(),
            metric: None,
            valid_until: None,
            preferred_until: None,
        }
    }

    #[test]
    fn a_route_that_comes_with_an_address_is_not_moved_by_itself() {
        let addresses = [
            on("10.0.0.5/24", AddressFlags::empty()),
            on("10.1.0.5/24", AddressFlags::Noprefixroute),
            Address {
                peer: "10.2.0.9".parse().ok(),
                ..on("10.2.0.5/32", AddressFlags::empty())
            },
        ];
        for (destination, protocol, expected) in [
            ("10.0.0.0/24", PROTOCOL_KERNEL, true),
            ("10.0.0.0/24", 3, false),
            ("10.0.0.0/16", PROTOCOL_KERNEL, false),
            ("10.1.0.0/24", PROTOCOL_KERNEL, false),
            ("10.2.0.9/32", PROTOCOL_KERNEL, true),
            ("fe80::/64", PROTOCOL_KERNEL, true),
            ("ff00::/8", PROTOCOL_KERNEL, true),
            ("fe80::/64", 3, false),
            ("fd00::/64", PROTOCOL_KERNEL, false),
        ] {
            let found = follows(&plain(destination, protocol), &addresses);
            assert_eq!(found, expected, "{destination} {protocol}");
        }
    }

    #[test]
    fn an_address_that_somebody_else_has_is_none() {
        let mut message = address_message(&on("fd00::5/64", AddressFlags::empty()), 7, NOW);
        assert!(address(&message, NOW).is_some());
        let failed = AddressAttribute::Flags(AddressFlags::Dadfailed);
        message.attributes.push(failed);
        assert_eq!(address(&message, NOW), None);
        assert_eq!(address(&AddressMessage::default(), NOW), None);
    }

    #[test]
    fn routes_of_other_adapters_tables_and_kinds_are_passed_over_and_strange_ones_refused() {
        let message = |change: fn(&mut RouteMessage)| {
            let mut message = route_message(&plain("10.9.0.0/16", 3), 7, NOW);
            change(&mut message);
            route(&message, 7, NOW)
        };
        assert_eq!(message(|_| ()).unwrap(), Some(plain("10.9.0.0/16", 3)));
        for passed in [
            message(|message| {
                message
                    .attributes
                    .retain(|one| !matches!(one, RouteAttribute::Oif(_)))
            }),
            message(|message| message.attributes.push(RouteAttribute::Table(TABLE_LOCAL))),
            message(|message| message.header.kind = RouteType::Broadcast),
            message(|message| message.header.flags |= RouteFlags::Cloned),
            message(|message| message.header.address_family = AddressFamily::Mpls),
        ] {
            assert_eq!(passed.unwrap(), None);
        }
        for refused in [
            message(|message| {
                let mut hop = RouteNextHop::default();
                hop.interface_index = 7;
                message.attributes = vec![RouteAttribute::MultiPath(vec![hop])];
            }),
            message(|message| message.attributes.push(RouteAttribute::NhId(1))),
            message(|message| message.attributes.push(RouteAttribute::Mark(1))),
            message(|message| message.header.source_prefix_length = 64),
            message(|message| {
                let metric = RouteMetric::CcAlgo("cubic".to_owned());
                message
                    .attributes
                    .push(RouteAttribute::Metrics(vec![metric]));
            }),
        ] {
            assert!(
                matches!(refused, Err(ReadError::Route { .. })),
                "{refused:?}"
            );
        }
    }

    prop_compose! {
        fn any_address()(
            ip in any::<IpAddr>(), prefix in 0..=32_u8, peer in any::<Option<[u8; 4]>>(), broadcast in any::<Option<[u8; 4]>>(),
            metric in any::<Option<u32>>(), flags in any::<u32>(), valid in proptest::option::of(1..=1_000_000_u64), preferred in 0..=1_000_000_u64,
        ) -> Address {
            let valid_until = valid.map(|seconds| NOW + seconds);
            Address {
                net: IpNet::new(ip, prefix).unwrap(),
                peer: peer.map(IpAddr::from).filter(|peer| ip.is_ipv4() && *peer != ip),
                broadcast: broadcast.map(Into::into),
                flags: flags & kept_flags().bits(),
                metric,
                valid_until,
                preferred_until: valid.map(|seconds| NOW + preferred.min(seconds)),
            }
        }
    }

    prop_compose! {
        fn any_route()(
            to in any::<IpAddr>(), prefix in 0..=32_u8, table in 256..u32::MAX, tos in any::<u8>(), protocol in any::<u8>(), scope in any::<u8>(),
            gateway in any::<Option<IpAddr>>(), onlink in any::<bool>(), source in any::<bool>(), metric in any::<Option<u32>>(),
            preference in proptest::option::of(0..4_u8), metrics in any::<BTreeMap<u16, u32>>(),
        ) -> Route {
            Route {
                destination: IpNet::new(to, prefix).unwrap().trunc(),
                table, tos, protocol, scope, onlink, metric, preference,
                gateway: gateway.filter(|gateway| to.is_ipv4() || gateway.is_ipv6()),
                source: source.then_some(to),
                metrics,
                until: None,
            }
        }
    }

    proptest! {
        #[test]
        fn any_address_is_read_as_it_is_written(written in any_address()) {
            let mut message = address_message(&written, 7, NOW);
            message.attributes.retain(|one| !matches!(one, AddressAttribute::Flags(_)));
            message.attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(written.flags | 0x80)));
            prop_assert_eq!(address(&message, NOW), Some(written));
        }

        #[test]
        fn any_route_is_read_as_it_is_written(written in any_route()) {
            let message = route_message(&written, 7, NOW);
            prop_assert_eq!(route(&message, 7, NOW).unwrap(), Some(written));
        }

        #[test]
        fn whatever_ends_has_as_much_time_left_as_there_is(seconds in 0..u32::MAX, later in 0..u64::from(u32::MAX)) {
            let end = until(seconds, NOW);
            prop_assert_eq!(u64::from(remaining(end, NOW + later)), u64::from(seconds).saturating_sub(later));
            prop_assert_eq!(remaining(until(u32::MAX, NOW), NOW + later), u32::MAX);
        }
    }

    #[test]
    fn the_adapters_of_this_machine_can_be_read() {
        let mut kernel = Kernel;
        assert_eq!(kernel.link("nowhere0").unwrap(), None);
        // A sandbox may keep netlink away.
        if let Ok(Some(_)) = kernel.link("lo") {
            let lo = kernel.read("lo", SystemTime::now()).unwrap();
            assert!(
                lo.addresses.iter().all(|one| !one.net.addr().is_ipv4()),
                "{lo:?}"
            );
            assert_eq!(RouteProtocol::from(PROTOCOL_KERNEL), RouteProtocol::Kernel);
        }
    }
}
