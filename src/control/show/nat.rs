//! Network address translation as it is shown: a summary of each network, its port forwards, its flows.

use serde::{Deserialize, Serialize};

use crate::control::plan::nat::Nat;
use crate::control::plan::{Network, Plan};
use crate::engine::{NetworkSnapshot, Snapshot};
use crate::net::nat::forward::{ForwardRow, TargetRow};
use crate::net::nat::{FlowRow, Protocol, View};
use crate::wire::ethernet::MacAddr;

/// Networks that are translated, and their flows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Translation {
    /// The networks by name.
    pub networks: Vec<Translator>,
    /// The flows, those first where something came last.
    pub flows: Vec<Flow>,
    /// How many flows were left out because there are more than were asked for.
    pub left_out: usize,
}

/// The translator of a network.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Translator {
    /// The network.
    pub network: String,
    /// `host`, or the network that it leads to.
    pub outside: String,
    /// Its addresses there, where it has some of its own.
    pub addresses: Vec<String>,
    /// From whom mappings take packets.
    pub filtering: String,
    /// How many flows there are.
    pub flows: Counts,
    /// How many there may be.
    pub max_flows: u64,
    /// How many there may be of one guest.
    pub max_flows_per_guest: u64,
    /// How many there have been.
    pub created: u64,
    /// How many were refused because a limit was reached.
    pub refused: u64,
    /// Bytes of payload from guests.
    pub sent_bytes: u64,
    /// Bytes of payload to guests.
    pub received_bytes: u64,
    /// The port forwards.
    pub forwards: Vec<Forward>,
}

/// Flows by protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Of TCP.
    pub tcp: u64,
    /// Of UDP.
    pub udp: u64,
    /// Of ICMP echo.
    pub icmp: u64,
}

/// A port forward.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Forward {
    /// The network.
    pub network: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address and port that it listens on: the one that was picked where none was named.
    pub listen: String,
    /// The last port, where there are several.
    pub last_port: Option<u16>,
    /// Where it leads to.
    pub to: Vec<Target>,
    /// How one of several is chosen.
    pub balance: String,
    /// Why it does not work, if it does not.
    pub error: Option<String>,
}

/// Where a port forward leads to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Target {
    /// The guest's name or address, as it was typed.
    pub host: String,
    /// Its first port.
    pub port: u16,
    /// The guest's address, where it is known.
    pub ip: Option<String>,
    /// Whether it answers, where that is looked after.
    pub up: Option<bool>,
    /// How many connections it has.
    pub connections: u64,
}

/// A flow.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Flow {
    /// The network.
    pub network: String,
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// `guest` or `forward`: who began it.
    pub originator: String,
    /// The VM, where it is one of ours.
    pub vm: Option<String>,
    /// The guest's hardware address, where it is known.
    pub mac: Option<String>,
    /// The guest's address and port.
    pub inside: String,
    /// What they are outside, where that is known.
    pub outside: Option<String>,
    /// Whom the guest talks with; none for a mapping that takes packets from more than one.
    pub remote: Option<String>,
    /// Its state.
    pub state: String,
    /// Since when it is there, in seconds.
    pub age_s: u64,
    /// Since when nothing has come, in seconds.
    pub idle_s: u64,
    /// When it will be forgotten if nothing comes, in seconds.
    pub expires_s: u64,
    /// Bytes of payload from the guest.
    pub sent_bytes: u64,
    /// Bytes of payload to the guest.
    pub received_bytes: u64,
}

/// Returns the translators of all networks that have one.
pub fn translators(plan: &Plan, snapshot: &Snapshot) -> Vec<Translator> {
    let networks = plan.networks.iter();
    networks
        .filter_map(|network| translator(network, snapshot))
        .collect()
}

/// Returns the translator of a network, if it has one.
pub fn translator(network: &Network, snapshot: &Snapshot) -> Option<Translator> {
    let nat = network.nat.as_ref()?;
    let seen = super::find(snapshot, &network.name);
    let view = seen.and_then(|seen| seen.nat.clone()).unwrap_or_default();
    Some(summary(&network.name, nat, view))
}

fn summary(network: &str, nat: &Nat, view: View) -> Translator {
    let flows = |wanted: Protocol| {
        let flows = Protocol::ALL.iter().zip(view.flows);
        let mut flows = flows.filter(|(protocol, _)| **protocol == wanted);
        flows.next().map_or(0, |(_, flows)| flows as u64)
    };
    let forwards = view.forwards.iter();
    Translator {
        network: network.to_owned(),
        outside: nat.outside.name().to_owned(),
        addresses: view.outside.iter().map(ToString::to_string).collect(),
        filtering: nat.filtering.name().to_owned(),
        flows: Counts {
            tcp: flows(Protocol::Tcp),
            udp: flows(Protocol::Udp),
            icmp: flows(Protocol::Icmp),
        },
        max_flows: nat.limits.flows as u64,
        max_flows_per_guest: nat.limits.flows_per_guest as u64,
        created: view.created,
        refused: view.refused,
        sent_bytes: view.sent,
        received_bytes: view.received,
        forwards: forwards.map(|row| forward(network, row)).collect(),
    }
}

/// Returns the port forwards of all networks.
pub fn forwards(snapshot: &Snapshot) -> Vec<Forward> {
    let networks = snapshot.networks.iter();
    let rows = networks.flat_map(|network| {
        let forwards = network.nat.iter().flat_map(|view| &view.forwards);
        forwards.map(move |row| (network, row))
    });
    rows.map(|(network, row)| forward(&network.name, row))
        .collect()
}

/// Returns a port forward.
pub fn forward(network: &str, row: &ForwardRow) -> Forward {
    Forward {
        network: network.to_owned(),
        protocol: row.protocol.name().to_owned(),
        listen: row.listen.to_string(),
        last_port: (row.last != row.listen.port()).then_some(row.last),
        to: row.targets.iter().map(target).collect(),
        balance: row.balance.name().to_owned(),
        error: row.error.clone(),
    }
}

fn target(row: &TargetRow) -> Target {
    Target {
        host: row.host.clone(),
        port: row.port,
        ip: row.ip.map(|ip| ip.to_string()),
        up: row.up,
        connections: row.connections as u64,
    }
}

/// Returns a flow of a network, with the VM whose it is.
pub fn flow(network: &str, seen: Option<&NetworkSnapshot>, row: &FlowRow) -> Flow {
    let vm = row.mac.and_then(|mac| guest(seen?, mac));
    Flow {
        network: network.to_owned(),
        protocol: row.protocol.name().to_owned(),
        originator: row.originator.name().to_owned(),
        vm: vm.map(str::to_owned),
        mac: row.mac.map(|mac| mac.to_string()),
        inside: row.inside.to_string(),
        outside: row.outside.map(|outside| outside.to_string()),
        remote: row.remote.map(|remote| remote.to_string()),
        state: row.state.to_owned(),
        age_s: row.age.as_secs(),
        idle_s: row.idle.as_secs(),
        expires_s: row.expires.as_secs(),
        sent_bytes: row.sent,
        received_bytes: row.received,
    }
}

/// Returns the guest whose port has, or has shown, a hardware address.
fn guest(network: &NetworkSnapshot, mac: MacAddr) -> Option<&str> {
    let guests = || network.ports.iter().filter(|port| port.kind == "guest");
    let own = guests().find(|port| port.mac == Some(mac));
    if let Some(port) = own {
        return Some(&port.name);
    }
    let entry = network.fdb.iter().find(|entry| entry.mac == mac)?;
    let port = guests().find(|port| port.name == entry.port)?;
    Some(&port.name)
}

/// Returns what an operator should know of port forwards, one sentence each.
pub fn advisories(view: &View) -> impl Iterator<Item = String> {
    view.forwards.iter().filter_map(|row| {
        let error = row.error.as_ref()?;
        let (protocol, listen) = (row.protocol.name(), row.listen);
        Some(format!(
            "the forward of {protocol} {listen} does not work: {error}"
        ))
    })
}
