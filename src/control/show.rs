//! What is shown: the JSON of the control socket and of `--json`, made from the plan and the engine's snapshot.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::control::plan::Plan;
use crate::control::show::team::Team;
use crate::control::timestamp;
use crate::control::value::hex;
use crate::engine::{NetworkSnapshot, PortSnapshot, Snapshot};
use crate::net::port::PortId;

pub mod group;
pub mod nat;
pub mod team;
pub mod topology;

#[cfg(test)]
mod tests;

/// Everything at a glance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// For how long it has been running, in seconds.
    pub uptime_s: f64,
    /// The networks by name.
    pub networks: Vec<Network>,
    /// The ports by network.
    pub ports: Vec<Port>,
    /// The teams of bridged networks.
    pub teams: Vec<Team>,
    /// The leases by network and address.
    pub leases: Vec<Lease>,
}

/// A network.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: String,
    /// Its subnet, if it has one.
    pub subnet: Option<String>,
    /// Its largest packet.
    pub mtu: u16,
    /// What an operator should know, one sentence each.
    pub advisories: Vec<String>,
    /// Its IPv6 prefix, if it has one.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Its translator, where it is a NAT network.
    #[serde(default)]
    pub nat: Option<nat::Translator>,
}

/// A port.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Its port group, if it is in one.
    pub port_group: Option<String>,
    /// `guest`, `uplink`, `host` or `gateway`.
    pub kind: String,
    /// `waiting`, `connected`, `up` or `down`.
    pub state: String,
    /// The hardware address that belongs to it, if one does.
    pub mac: Option<String>,
    /// A guest's socket.
    pub socket: Option<String>,
    /// A guest's pairs of queues.
    pub queues: Option<u16>,
    /// The negotiated features.
    pub features: Vec<String>,
    /// Frames into the switch.
    pub ingress_frames: u64,
    /// Their bytes.
    pub ingress_bytes: u64,
    /// Frames out of the switch.
    pub egress_frames: u64,
    /// Their bytes.
    pub egress_bytes: u64,
    /// Dropped frames by reason.
    pub drops: BTreeMap<String, u64>,
}

/// A lease.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lease {
    /// Its network.
    pub network: String,
    /// The address.
    pub ip: String,
    /// The client's hardware address.
    pub mac: String,
    /// The client's name, if known.
    pub hostname: Option<String>,
    /// The client identifier in hexadecimal, if it sent one.
    pub client_id: Option<String>,
    /// When it ends, as RFC 3339 writes it, in UTC.
    pub expires: String,
}

/// An address in the forwarding table.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Address {
    /// The network.
    pub network: String,
    /// The VLAN, 0 for the untagged domain.
    pub vlan: u16,
    /// The address.
    pub mac: String,
    /// The port behind which it is.
    pub port: String,
    /// Seconds since it was last seen; absent for a fixed address.
    pub age_s: Option<u64>,
}

/// Returns everything at a glance.
pub fn status(plan: &Plan, snapshot: &Snapshot, uptime: Duration, now: Instant) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: uptime.as_secs_f64(),
        networks: networks(plan, snapshot),
        ports: ports(plan, snapshot),
        teams: team::teams(snapshot, now),
        leases: leases(snapshot),
    }
}

/// Returns the ports.
pub fn ports(plan: &Plan, snapshot: &Snapshot) -> Vec<Port> {
    let ports = snapshot
        .networks
        .iter()
        .flat_map(|network| network.ports.iter().map(move |port| (network, port)));
    ports
        .map(|(network, snapshot)| port(plan, network, snapshot))
        .collect()
}

/// Returns the leases.
pub fn leases(snapshot: &Snapshot) -> Vec<Lease> {
    let leases = snapshot
        .networks
        .iter()
        .flat_map(|network| network.leases.iter().map(move |lease| (network, lease)));
    leases
        .map(|(network, lease)| Lease {
            network: network.name.clone(),
            ip: lease.ip.to_string(),
            mac: lease.mac.to_string(),
            hostname: lease.hostname.clone(),
            client_id: lease.client_id.as_deref().map(hex),
            expires: timestamp::render(lease.expires),
        })
        .collect()
}

/// Returns the forwarding tables.
pub fn fdb(snapshot: &Snapshot) -> Vec<Address> {
    let entries = snapshot
        .networks
        .iter()
        .flat_map(|network| network.fdb.iter().map(move |entry| (network, entry)));
    entries
        .map(|(network, entry)| Address {
            network: network.name.clone(),
            vlan: entry.vlan,
            mac: entry.mac.to_string(),
            port: entry.port.clone(),
            age_s: entry.age_s,
        })
        .collect()
}

fn networks(plan: &Plan, snapshot: &Snapshot) -> Vec<Network> {
    let advisories = |name: &str| {
        find(snapshot, name).map_or_else(Vec::new, |network| network.advisories.clone())
    };
    plan.networks
        .iter()
        .map(|network| Network {
            name: network.name.clone(),
            mode: network.mode.name().to_owned(),
            subnet: network.subnet.map(|subnet| subnet.net.to_string()),
            mtu: network.mtu,
            advisories: advisories(&network.name),
            prefix: network
                .ipv6
                .and_then(|ipv6| ipv6.prefix)
                .map(|prefix| prefix.to_string()),
            nat: nat::translator(network, snapshot),
        })
        .collect()
}

fn port(plan: &Plan, network: &NetworkSnapshot, port: &PortSnapshot) -> Port {
    let vm = plan.find_vm(&port.name).filter(|_| port.kind == "guest");
    Port {
        name: port.name.clone(),
        network: network.name.clone(),
        port_group: port.port_group.clone(),
        kind: port.kind.to_owned(),
        state: port.state.name().to_owned(),
        mac: port.mac.map(|mac| mac.to_string()),
        socket: vm.map(|vm| vm.socket.display().to_string()),
        queues: vm.map(|_| 1),
        features: port.features.iter().map(|&name| name.to_owned()).collect(),
        ingress_frames: port.ingress.frames,
        ingress_bytes: port.ingress.bytes,
        egress_frames: port.egress.frames,
        egress_bytes: port.egress.bytes,
        drops: port
            .drops
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect(),
    }
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a NetworkSnapshot> {
    snapshot
        .networks
        .iter()
        .find(|network| network.name == name)
}

/// Returns the name of a port, or its number where the port has gone.
fn port_name(network: &NetworkSnapshot, id: PortId) -> String {
    let port = network.ports.iter().find(|port| port.id == id);
    port.map_or_else(|| format!("port {}", id.0), |port| port.name.clone())
}
