//! Port forwards, planned: who of the network a port outside leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::control::config::nat;
use crate::control::plan::nat::{Inside, Outside, Station};
use crate::control::plan::{Network, dhcp};
use crate::control::problem::{Problems, join};
use crate::control::value::endpoint::{Destination, DestinationHost, Listen, Ports};
use crate::net::nat::forward::{Balance, Health};
use crate::net::nat::{Addressing4, Addressing6, Protocol};

/// The most forwards of a network.
const FORWARDS: usize = 4096;
/// The most ports of one forward on the host, each of which is a socket.
const SOCKETS: u16 = 4096;
/// Ports below this are for those with a privilege.
const PRIVILEGED: u16 = 1024;

/// A port forward, planned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The addresses it listens on.
    pub addresses: Vec<IpAddr>,
    /// The ports; 0 has one picked.
    pub ports: Ports,
    /// Where it leads to.
    pub targets: Vec<Target>,
    /// How one of several is chosen.
    pub balance: Balance,
    /// How they are looked after.
    pub health: Option<Health>,
    /// Where it was written.
    path: String,
}

/// A guest's port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The guest.
    pub host: DestinationHost,
    /// The first port.
    pub port: u16,
}

impl Target {
    /// Returns its address, where it was named by one.
    const fn address(&self) -> Option<IpAddr> {
        match self.host {
            DestinationHost::Vm(_) => None,
            DestinationHost::Address(ip) => Some(ip),
        }
    }
}

/// Plans the forwards of a network; where it leads to may not be known.
pub(super) fn plan(
    forwards: &[nat::Forward],
    outside: Option<&Outside>,
    inside: Inside<'_>,
    problems: &mut Problems,
) -> Vec<Forward> {
    let path = join(inside.path, "forward");
    if forwards.len() > FORWARDS {
        let text = format!(
            "there are {}, and a network has at most {FORWARDS}",
            forwards.len()
        );
        problems.error(&path, text);
        return Vec::new();
    }
    let planned = forwards.iter().enumerate().map(|(index, forward)| {
        let path = format!("{path}[{index}]");
        one(forward, outside, inside, path, problems)
    });
    planned.flatten().collect()
}

/// Plans one forward, which is at `path`.
pub(in crate::control) fn one(
    forward: &nat::Forward,
    outside: Option<&Outside>,
    inside: Inside<'_>,
    path: String,
    problems: &mut Problems,
) -> Option<Forward> {
    let to = join(&path, "to");
    let count = forward.to.len();
    let mut targets = Vec::new();
    for (index, destination) in &forward.to {
        let path = if count == 1 && *index == 0 {
            to.clone()
        } else {
            format!("{to}[{index}]")
        };
        let target = target(destination, forward.listen, inside, &path, problems);
        if let Some(target) = target {
            if targets.contains(&target) {
                problems.error(path, "is named twice");
            }
            targets.push(target);
        }
    }
    let listen = forward.listen?;
    let key = join(&path, "listen");
    let addresses = match outside {
        None => listen.ip.into_iter().collect(),
        Some(Outside::Host) => on_host(listen, inside, &targets, &key, problems),
        Some(Outside::Network(station)) => on_station(listen, station, &targets, &key, problems),
    };
    Some(Forward {
        protocol: forward.protocol,
        addresses,
        ports: listen.ports,
        targets,
        balance: forward.balance.unwrap_or_default(),
        health: forward.health,
        path: key,
    })
}

/// Finds a target, which must be in the network and have as many ports as the forward listens on.
fn target(
    destination: &Destination,
    listen: Option<Listen>,
    inside: Inside<'_>,
    path: &str,
    problems: &mut Problems,
) -> Option<Target> {
    let refusal = match &destination.host {
        DestinationHost::Vm(name) => {
            dhcp::client_vm(name, inside.name, inside.vms, path, problems)?;
            None
        }
        DestinationHost::Address(IpAddr::V4(ip)) => inside.subnet?.refuses(*ip),
        DestinationHost::Address(IpAddr::V6(ip)) => match inside.ipv6 {
            Some(ipv6) => ipv6.refuses(*ip),
            None => Some("the network has no IPv6, as ipv6 = false says".to_owned()),
        },
    };
    if let Some(text) = refusal {
        problems.error(path, text);
        return None;
    }
    let ports = destination.ports;
    if let Some(listen) = listen.filter(|listen| listen.ports.span() != ports.span()) {
        let last = ports.first.checked_add(listen.ports.span());
        let hint = last.map_or_else(String::new, |last| {
            let first = ports.first;
            format!("; write {}", Ports { first, last })
        });
        let count = |ports: Ports| u32::from(ports.span()) + 1;
        let text = format!(
            "has {} where the forward listens on {}{hint}",
            counted(count(ports)),
            counted(count(listen.ports))
        );
        problems.error(path, text);
        return None;
    }
    Some(Target {
        host: destination.host.clone(),
        port: ports.first,
    })
}

fn counted(count: u32) -> String {
    match count {
        1 => "1 port".to_owned(),
        count => format!("{count} ports"),
    }
}

/// The addresses of a forward whose sockets are the host's.
fn on_host(
    listen: Listen,
    inside: Inside<'_>,
    targets: &[Target],
    path: &str,
    problems: &mut Problems,
) -> Vec<IpAddr> {
    let ports = listen.ports;
    if ports.span() >= SOCKETS {
        let text = format!("{ports} are more than {SOCKETS} ports, each of which is a socket");
        problems.error(path, text);
    }
    if (1..PRIVILEGED).contains(&ports.first) {
        let text = format!(
            "port {} is for root and for who has CAP_NET_BIND_SERVICE; others listen from {PRIVILEGED} on",
            ports.first
        );
        problems.warn(path, text);
    }
    let has = |v6: bool| !v6 || inside.ipv6.is_some();
    let without = "guests have no IPv6, as ipv6 = false says; listen on an IPv4 address";
    addresses(listen, has, without, targets, path, problems)
}

/// The addresses of a forward in the network that the NAT leads to: those of the NAT there.
fn on_station(
    listen: Listen,
    station: &Station,
    targets: &[Target],
    path: &str,
    problems: &mut Problems,
) -> Vec<IpAddr> {
    let own = |ip: IpAddr| match (station.v4, station.v6) {
        (Addressing4::Static { ip: own, .. }, _) if ip == own => true,
        (_, Addressing6::Static { ip: own, .. }) if ip == own => true,
        _ => ip.is_unspecified(),
    };
    let has = |v6: bool| {
        if v6 {
            station.v6 != Addressing6::Off
        } else {
            station.v4 != Addressing4::Off
        }
    };
    match listen.ip {
        Some(ip) if has(ip.is_ipv6()) && !own(ip) => {
            let text = format!(
                "{ip} is not an address of the NAT in network {:?}; write \":{}\" for whatever it has",
                station.network, listen.ports
            );
            problems.error(path, text);
            vec![ip]
        }
        Some(_) | None => {
            let without = "the NAT has no address of this family outside";
            addresses(listen, has, without, targets, path, problems)
        }
    }
}

/// The addresses of a forward, of the families that there are and that its targets are of: none becomes the other.
fn addresses(
    listen: Listen,
    has: impl Fn(bool) -> bool,
    without: &str,
    targets: &[Target],
    path: &str,
    problems: &mut Problems,
) -> Vec<IpAddr> {
    let leads = |v6: bool| {
        let mut addresses = targets.iter().filter_map(Target::address);
        !addresses.any(|ip| ip.is_ipv6() != v6)
    };
    if let Some(ip) = listen.ip {
        if !has(ip.is_ipv6()) {
            problems.error(path, without);
        } else if !leads(ip.is_ipv6()) {
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            let text = format!(
                "this is {family}, and a target is not: name addresses of one family, or VMs"
            );
            problems.error(path, text);
        }
        return vec![ip];
    }
    let all = [
        (false, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        (true, Ipv6Addr::UNSPECIFIED.into()),
    ];
    let fitting = all.into_iter().filter(|(v6, _)| has(*v6) && leads(*v6));
    let addresses: Vec<_> = fitting.map(|(_, ip)| ip).collect();
    if addresses.is_empty() {
        let text =
            "there is no family that all targets are of: name addresses of one family, or VMs";
        problems.error(path, text);
    }
    addresses
}

/// Finds forwards that want the same port of the same address.
pub(super) fn conflicts(networks: &[Network], problems: &mut Problems) {
    let mut earlier: Vec<(&str, &Forward)> = Vec::new();
    for network in networks {
        let Some(nat) = &network.nat else { continue };
        // A NAT outside has addresses of its own; the host's are those of all.
        let owner = match nat.outside {
            Outside::Host => "",
            Outside::Network(_) => &network.name,
        };
        for forward in &nat.forwards {
            let other = earlier
                .iter()
                .find(|(other, earlier)| *other == owner && forward.collides(earlier));
            if let Some((_, other)) = other {
                let text = format!(
                    "{} {} is taken already, by {}",
                    forward.protocol.name(),
                    forward.listen(),
                    other.path
                );
                problems.error(&forward.path, text);
            } else {
                earlier.push((owner, forward));
            }
        }
    }
}

impl Forward {
    fn listen(&self) -> Listen {
        let ip = match self.addresses.as_slice() {
            [ip] => Some(*ip),
            _ => None,
        };
        Listen {
            ip,
            ports: self.ports,
        }
    }

    fn collides(&self, other: &Self) -> bool {
        let same = |a: &IpAddr, b: &IpAddr| {
            a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
        };
        let (mine, theirs) = (self.ports, other.ports);
        self.protocol == other.protocol
            && mine.first != 0
            && mine.first <= theirs.last
            && theirs.first <= mine.last
            && self
                .addresses
                .iter()
                .any(|a| other.addresses.iter().any(|b| same(a, b)))
    }
}
