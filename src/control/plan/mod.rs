//! What the configuration means: names resolved, addresses planned, everything checked against everything else.
//!
//! A plan is made from a [`File`] in one go, and all problems are noted on the way: a plan may be used only if there
//! were none. It knows no hardware addresses but those that were typed; the others are the machine's
//! ([`crate::control::identity`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::control::config::network::Mode;
use crate::control::config::{self, File};
use crate::control::plan::port_group::PortGroup;
use crate::control::plan::team::{Team, Uplink};
use crate::control::problem::{Problems, did_you_mean, join};
use crate::control::value::{Adapter, Address, Domain, is_label};
use crate::net::guard::Guards;
use crate::net::security::Security;
use crate::net::vlan::PrivateVlans;
use crate::ports::guest::Role;
use crate::wire::ethernet::MacAddr;

pub mod dhcp;
pub mod dns;
pub mod forward;
pub mod ipv6;
mod mode;
pub mod nat;
pub mod port_group;
mod security;
pub mod services;
pub mod spec;
pub mod subnet;
pub mod team;

use dhcp::Dhcp;
use dns::Dns;
use ipv6::Ipv6;
use nat::Nat;
use subnet::Subnet;

/// The longest path of a Unix socket in bytes.
const SOCKET_PATH: usize = 107;

/// The name of the control socket in the runtime directory.
const CONTROL_SOCKET: &str = "vmlan.sock";

/// A configuration, understood.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the sockets are.
    pub runtime_dir: PathBuf,
    /// Where what must survive a restart is.
    pub state_dir: PathBuf,
    /// Where metrics are served, if they are at an address of their own.
    pub metrics: Option<SocketAddr>,
    /// The networks, in the order of their names.
    pub networks: Vec<Network>,
    /// The VMs, in the order of their names.
    pub vms: Vec<Vm>,
}

/// One network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: Mode,
    /// Its largest packet.
    pub mtu: u16,
    /// Its plan of addresses; a network without one has no gateway.
    pub subnet: Option<Subnet>,
    /// The name of its host adapter.
    pub host_adapter: Option<String>,
    /// Its team of uplinks.
    pub team: Option<Team>,
    /// Its port groups, in the order of their names.
    pub port_groups: Vec<PortGroup>,
    /// The private VLANs of its port groups.
    pub private_vlans: PrivateVlans,
    /// Whether multicast goes to those ports only that asked for it.
    pub igmp_snooping: bool,
    /// Its DHCP server.
    pub dhcp: Option<Dhcp>,
    /// Its DNS server.
    pub dns: Option<Dns>,
    /// Its IPv6.
    pub ipv6: Option<Ipv6>,
    /// Its NAT.
    pub nat: Option<Nat>,
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// The name of its port group.
    pub port_group: Option<String>,
    /// What its port may do with addresses.
    pub security: Security,
    /// What its port may not send.
    pub guards: Guards,
    /// Its hardware address, where it was typed.
    pub mac: Option<MacAddr>,
    /// Its socket.
    pub socket: PathBuf,
    /// Which side listens on it.
    pub role: Role,
}

impl Plan {
    /// Finds out what a file means, and notes all that does not fit together.
    ///
    /// `runtime_dir` and `state_dir` are what is used where the file does not say.
    pub fn new(file: &File, runtime_dir: &Path, state_dir: &Path, problems: &mut Problems) -> Self {
        let mut plan = Self {
            runtime_dir: file
                .runtime_dir
                .clone()
                .unwrap_or_else(|| runtime_dir.to_owned()),
            state_dir: file
                .state_dir
                .clone()
                .unwrap_or_else(|| state_dir.to_owned()),
            metrics: file.metrics,
            networks: Vec::new(),
            vms: Vec::new(),
        };
        if plan.runtime_dir == plan.state_dir {
            problems.error(
                "daemon.state_dir",
                "must be another directory than runtime_dir",
            );
        }
        let mut names = Uses::default();
        names.claim(
            "gateway".to_owned(),
            "the gateway port of every network",
            problems,
        );
        let mut addresses = Uses::default();
        let mut sockets = Uses::default();
        sockets.claim(plan.control_socket(), "the control socket", problems);
        let control = plan.control_socket();
        fits_a_socket(&control, "daemon.runtime_dir", problems);
        for (name, vm) in &file.vms {
            let path = join("vm", name);
            names.claim(name.clone(), &path, problems);
            if let Some(vm) = plan.vm(name, vm, file, problems) {
                sockets.claim(vm.socket.clone(), &join(&path, "socket"), problems);
                if let Some(mac) = vm.mac {
                    station(mac, &join(&path, "mac"), problems);
                    addresses.claim(mac, &join(&path, "mac"), problems);
                }
                plan.vms.push(vm);
            }
        }
        for (name, network) in &file.networks {
            let path = join("network", name);
            plan.networks
                .extend(plan.network(name, network, file, &path, problems));
            for (path, adapter) in adapters(network, &path) {
                names.claim(adapter, &path, problems);
            }
        }
        overlaps(&plan.networks, problems);
        ipv6::overlaps(&plan.networks, problems);
        forward::conflicts(&plan.networks, problems);
        unused(file, problems);
        plan
    }

    /// Returns the path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join(CONTROL_SOCKET)
    }

    /// Returns the network with this name.
    pub fn find_network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// Returns the VM with this name.
    pub fn find_vm(&self, name: &str) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.name == name)
    }

    /// Returns the uplinks with the paths at which they are named.
    pub fn uplinks(&self) -> impl Iterator<Item = (&str, &Uplink)> {
        let teams = self
            .networks
            .iter()
            .filter_map(|network| network.team.as_ref());
        teams
            .flat_map(|team| &team.uplinks)
            .map(|uplink| (uplink.path.as_str(), uplink))
    }

    fn vm(&self, name: &str, vm: &config::Vm, file: &File, problems: &mut Problems) -> Option<Vm> {
        let path = join("vm", name);
        let socket_path = join(&path, "socket");
        let socket = vm
            .socket
            .clone()
            .unwrap_or_else(|| self.runtime_dir.join(format!("{name}.sock")));
        fits_a_socket(&socket, &socket_path, problems);
        let network_path = join(&path, "network");
        let network = network_of(vm.network.as_deref(), file, &network_path, problems);
        let mut layers = [vm.security, Default::default(), Default::default()];
        if let Some(network) = network {
            layers[2] = network.security;
            let name = vm.network.as_deref().unwrap_or_default();
            let group = vm.port_group.as_ref().and_then(|group| {
                port_group(group, name, network, &join(&path, "port_group"), problems)
            });
            layers[1] = group.map_or_else(Default::default, |group| group.security);
        }
        let (security, guards) = security::resolve(
            layers,
            network.is_some_and(is_served),
            network.is_some_and(|network| Ipv6::new(network, network.mode).is_some()),
        );
        Some(Vm {
            name: name.to_owned(),
            network: vm.network.clone().unwrap_or_default(),
            port_group: vm.port_group.clone(),
            security,
            guards,
            mac: vm.mac,
            socket,
            role: vm.role,
        })
    }

    fn network(
        &self,
        name: &str,
        network: &config::network::Network,
        file: &File,
        path: &str,
        problems: &mut Problems,
    ) -> Option<Network> {
        let mode = mode::check(network, path, problems);
        let port_groups = port_group::plan(network, mode, path, problems);
        let private_vlans = port_group::private_vlans(&port_groups, path, problems);
        let team = if mode == Some(Mode::Bridged) {
            Team::new(name, network, &file.uplinks, path, problems)
        } else {
            None
        };
        let mtu = network.mtu.unwrap_or(1500);
        let subnet = network.subnet.and_then(|subnet| {
            Subnet::new(
                subnet.0,
                network.host_adapter.is_some(),
                mode == Some(Mode::Nat),
                &join(path, "subnet"),
                problems,
            )
        });
        let unsaid = config::dhcp::Server::default();
        let server = match &network.dhcp {
            config::dhcp::Dhcp::Off => None,
            config::dhcp::Dhcp::Unsaid => Some(&unsaid),
            // It has no place there, whatever it says.
            config::dhcp::Dhcp::On(_) if mode == Some(Mode::Bridged) => None,
            config::dhcp::Dhcp::On(server) => Some(&**server),
        };
        let dns = Dns::new(network, mode, name, path, problems);
        let ipv6 = Ipv6::new(network, mode);
        let server = server.map(|server| {
            let mut server = server.clone();
            let gateway = subnet.map(|subnet| vec![Address(subnet.gateway)]);
            if mode == Some(Mode::Nat) {
                server.router = server.router.or_else(|| gateway.clone());
            }
            if dns.is_some() {
                server.dns = server.dns.or(gateway);
            }
            if dns.is_some() || mode == Some(Mode::Nat) {
                let domain = || Domain(dns::domain(network, name));
                server.domain = server.domain.or_else(|| Some(domain()));
            }
            server
        });
        let dhcp = server
            .and_then(|server| Dhcp::new(&server, subnet, mtu, name, &self.vms, path, problems));
        ipv6::reservations(network, ipv6, path, problems);
        let inside = nat::Inside {
            name,
            path,
            subnet,
            ipv6,
            vms: &self.vms,
        };
        let nat = (mode == Some(Mode::Nat)).then(|| Nat::new(network, inside, file, problems));
        Some(Network {
            name: name.to_owned(),
            mode: mode?,
            mtu,
            subnet,
            host_adapter: network.host_adapter.clone().map(|Adapter(name)| name),
            team,
            port_groups,
            private_vlans,
            igmp_snooping: network.igmp_snooping.unwrap_or(true),
            dhcp,
            dns,
            ipv6,
            nat,
        })
    }
}

/// Whether a network has a DHCP server of its own.
fn is_served(network: &config::network::Network) -> bool {
    let serves = match network.dhcp {
        config::dhcp::Dhcp::Off => false,
        config::dhcp::Dhcp::Unsaid | config::dhcp::Dhcp::On(_) => network.subnet.is_some(),
    };
    serves && network.mode != Some(Mode::Bridged)
}

/// Returns the adapters that a network names, each with its path: those of the host, and the uplinks.
fn adapters(network: &config::network::Network, path: &str) -> Vec<(String, String)> {
    let mut adapters = Vec::new();
    if let Some(Adapter(name)) = &network.host_adapter {
        adapters.push((join(path, "host_adapter"), name.clone()));
    }
    for (group, settings) in &network.port_groups {
        if let Some(Adapter(name)) = &settings.host_adapter {
            let path = join(&join(path, "port_group"), group);
            adapters.push((join(&path, "host_adapter"), name.clone()));
        }
    }
    adapters.extend(uplinks(network, path));
    adapters
}

/// Returns the uplinks that a network names, each with its path.
fn uplinks(network: &config::network::Network, path: &str) -> Vec<(String, String)> {
    let lists = network.team.iter().flat_map(|team| team.policy.lists());
    lists
        .flat_map(|(key, list)| {
            let list = list.into_iter().flatten();
            list.map(move |(index, Adapter(name))| {
                (format!("{path}.team.{key}[{index}]"), name.clone())
            })
        })
        .collect()
}

/// Finds the network of a VM, which must be there.
fn network_of<'a>(
    name: Option<&str>,
    file: &'a File,
    path: &str,
    problems: &mut Problems,
) -> Option<&'a config::network::Network> {
    let networks = &file.networks;
    let Some(name) = name else {
        if !problems.has(path) {
            let text = if networks.is_empty() {
                "is missing, and there is no network to name: add a table such as [network.vmnet1]"
                    .to_owned()
            } else {
                format!("is missing: name a network, one of {}", quoted(networks))
            };
            problems.error(path, text);
        }
        return None;
    };
    let found = networks.get(name);
    let table = join("network", name);
    if found.is_none() && !problems.has(&table) {
        let hint = match did_you_mean(name, networks.keys().map(String::as_str)) {
            hint if !hint.is_empty() => hint,
            _ if networks.is_empty() => format!("; add it as [{table}]"),
            _ => format!("; there is {}", quoted(networks)),
        };
        problems.error(path, format!("there is no network {name:?}{hint}"));
    }
    found
}

/// Finds a port group of a network, which must be there.
fn port_group<'a>(
    name: &str,
    network_name: &str,
    network: &'a config::network::Network,
    path: &str,
    problems: &mut Problems,
) -> Option<&'a config::port_group::PortGroup> {
    let groups = &network.port_groups;
    let found = groups.get(name);
    let tables = join(&join("network", network_name), "port_group");
    if found.is_none() && !problems.has(&join(&tables, name)) && !problems.has(&tables) {
        let hint = match did_you_mean(name, groups.keys().map(String::as_str)) {
            hint if !hint.is_empty() => hint,
            _ if groups.is_empty() => ", which has none".to_owned(),
            _ => format!("; there is {}", quoted(groups)),
        };
        problems.error(
            path,
            format!("there is no port group {name:?} in network {network_name:?}{hint}"),
        );
    }
    found
}

fn quoted<T>(names: &BTreeMap<String, T>) -> String {
    names
        .keys()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Who uses a thing that only one can use.
struct Uses<T>(BTreeMap<T, String>);

impl<T> Default for Uses<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + std::fmt::Debug> Uses<T> {
    fn claim(&mut self, thing: T, path: &str, problems: &mut Problems) {
        match self.0.get(&thing) {
            Some(user) => problems.error(path, format!("{thing:?} is taken already, by {user}")),
            None => {
                self.0.insert(thing, problems.written(path));
            }
        }
    }
}

fn station(mac: MacAddr, path: &str, problems: &mut Problems) {
    if !mac.is_station() {
        problems.error(path, format!("{mac} is not the address of one station: the first byte must be even, and not all bytes 0"));
    }
}

fn fits_a_socket(socket: &Path, path: &str, problems: &mut Problems) {
    let length = socket.as_os_str().len();
    if length > SOCKET_PATH {
        let text = format!(
            "{} has {length} bytes, and a socket's path has at most {SOCKET_PATH}; use a shorter one",
            socket.display()
        );
        problems.error(path, text);
    }
}

/// The host can have each address once only; networks that it does not take part in may repeat them, which is seldom
/// meant where one of them leads outside.
fn overlaps(networks: &[Network], problems: &mut Problems) {
    for (index, network) in networks.iter().enumerate() {
        for earlier in &networks[..index] {
            let (Some(a), Some(b)) = (network.subnet, earlier.subnet) else {
                continue;
            };
            if !a.net.contains(&b.net) && !b.net.contains(&a.net) {
                continue;
            }
            let key = join(&join("network", &network.name), "subnet");
            let text = format!("{} overlaps {} of network {:?}", a.net, b.net, earlier.name);
            if network.host_adapter.is_some() && earlier.host_adapter.is_some() {
                problems.error(key, format!("{text}, and the host has an adapter in both"));
            } else if network.nat.is_some() || earlier.nat.is_some() {
                problems.warn(key, format!("{text}: two machines can have one address"));
            }
        }
    }
}

fn unused(file: &File, problems: &mut Problems) {
    let used: Vec<String> = file
        .networks
        .values()
        .flat_map(|network| uplinks(network, ""))
        .map(|(_, name)| name)
        .collect();
    for uplink in file.uplinks.keys() {
        if !used.contains(uplink) {
            let hint = did_you_mean(uplink, used.iter().map(String::as_str));
            problems.warn(
                join("uplink", uplink),
                format!("no team uses this uplink{hint}"),
            );
        }
    }
}

/// The name that a VM is given by DHCP when it has none: its own, where that can be a host's.
fn hostname(vm: &str) -> Option<String> {
    is_label(vm).then(|| vm.to_owned())
}

#[cfg(test)]
mod tests;
