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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::control::config::File;
    use crate::control::problem::Problems;
    use crate::control::show::topology::{EdgeKind, topology};
    use crate::engine::{FdbEntry, PortSnapshot};
    use crate::net::nat::Originator;
    use crate::net::nat::forward::Balance;
    use crate::net::port::PortId;
    use crate::ports::PortState;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const LEARNED: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn plan() -> Plan {
        let text = "[network.lan]\nmode = \"bridged\"\nteam.active = [\"e\"]\n[network.n]\nmode = \"nat\"\nsubnet = \"192.168.88.0/24\"\nnat.outside = \"lan\"\n";
        let mut problems = Problems::default();
        let file = File::read(text, &mut problems);
        let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
        let plan = Plan::new(&file, runtime, state, &mut problems);
        assert_eq!(problems.errors(), []);
        plan
    }

    fn port(kind: &'static str, name: &str, mac: Option<MacAddr>) -> PortSnapshot {
        PortSnapshot {
            id: PortId(1),
            name: name.to_owned(),
            port_group: None,
            vlan: "untagged".to_owned(),
            kind,
            state: PortState::Up,
            mac,
            features: Vec::new(),
            driver: None,
            ingress: crate::engine::Count::default(),
            egress: crate::engine::Count::default(),
            drops: std::collections::BTreeMap::new(),
        }
    }

    fn snapshot() -> Snapshot {
        let target = TargetRow {
            host: "web1".to_owned(),
            ip: Some("192.168.88.9".parse().unwrap()),
            port: 80,
            up: Some(true),
            connections: 3,
        };
        let forward = |listen: &str, last, error: Option<&str>| ForwardRow {
            protocol: Protocol::Tcp,
            listen: listen.parse().unwrap(),
            last,
            targets: vec![target.clone()],
            balance: Balance::RoundRobin,
            error: error.map(str::to_owned),
        };
        let view = View {
            outside: vec!["203.0.113.5".parse().unwrap()],
            flows: [3, 2, 1],
            created: 10,
            refused: 4,
            sent: 100,
            received: 200,
            forwards: vec![
                forward("203.0.113.5:80", 80, None),
                forward("[::]:90", 99, Some("it is taken")),
            ],
        };
        let network = |name: &str, nat, ports| NetworkSnapshot {
            name: name.to_owned(),
            advisories: Vec::new(),
            ports,
            leases: Vec::new(),
            fdb: vec![FdbEntry {
                vlan: 0,
                mac: LEARNED,
                port: "web2".to_owned(),
                age_s: Some(1),
            }],
            team: None,
            groups: Vec::new(),
            nat,
        };
        let ports = vec![
            port("guest", "web1", Some(OWN)),
            port("guest", "web2", None),
            port("gateway", "gateway", None),
        ];
        Snapshot {
            networks: vec![
                network("lan", None, Vec::new()),
                network("n", Some(view), ports),
            ],
        }
    }

    #[test]
    fn a_translator_is_shown_with_what_the_plan_and_the_engine_know() {
        let shown = translators(&plan(), &snapshot());
        let [translator] = shown.as_slice() else {
            panic!("{shown:?}");
        };
        assert_eq!(translator.outside, "lan");
        assert_eq!(translator.addresses, ["203.0.113.5"]);
        let counts = Counts {
            tcp: 3,
            udp: 2,
            icmp: 1,
        };
        assert_eq!(
            (translator.flows, translator.created, translator.refused),
            (counts, 10, 4)
        );
        assert_eq!(
            (translator.sent_bytes, translator.received_bytes),
            (100, 200)
        );
        assert_eq!(translator.forwards, forwards(&snapshot()));
        let [web, range] = translator.forwards.as_slice() else {
            panic!("{translator:?}");
        };
        assert_eq!(
            (web.listen.as_str(), web.last_port),
            ("203.0.113.5:80", None)
        );
        assert_eq!(
            (range.listen.as_str(), range.last_port),
            ("[::]:90", Some(99))
        );
        assert_eq!(web.to[0].ip.as_deref(), Some("192.168.88.9"));
    }

    #[test]
    fn status_has_the_translator_of_a_network() {
        let now = std::time::Instant::now();
        let status = crate::control::show::status(&plan(), &snapshot(), Duration::ZERO, now);
        assert!(status.networks[0].nat.is_none() && status.networks[1].nat.is_some());
    }

    #[test]
    fn a_flow_is_the_guests_whose_port_has_or_has_shown_its_address() {
        let snapshot = snapshot();
        let owner = |mac| {
            let row = FlowRow {
                protocol: Protocol::Udp,
                originator: Originator::Guest,
                mac,
                inside: "192.168.88.9:1".parse().unwrap(),
                outside: None,
                remote: None,
                state: "active",
                age: Duration::from_secs(9),
                idle: Duration::from_secs(1),
                expires: Duration::from_secs(2),
                sent: 1,
                received: 2,
            };
            flow("n", snapshot.networks.get(1), &row).vm
        };
        assert_eq!(owner(Some(OWN)).as_deref(), Some("web1"));
        assert_eq!(owner(Some(LEARNED)).as_deref(), Some("web2"));
        assert_eq!(
            (owner(Some(MacAddr([2, 0, 0, 0, 0, 3]))), owner(None)),
            (None, None)
        );
    }

    #[test]
    fn the_topology_says_where_the_gateway_leads_to() {
        let topology = topology(&plan(), &snapshot(), &[]);
        let outside = |name: &str| {
            let mut networks = topology.networks();
            networks
                .find(|network| network.name == name)
                .unwrap()
                .outside
                .clone()
        };
        assert_eq!(
            (outside("lan"), outside("n")),
            (None, Some("lan".to_owned()))
        );
        let edges: Vec<_> = topology.edges_to(EdgeKind::Nat, "network/lan").collect();
        assert_eq!(edges.len(), 1);
        assert_eq!(edges[0].from, "port/n/gateway");
        assert!(topology.ports().any(|port| port.id == edges[0].from));
        let drawn = crate::control::render::dot::dot(&topology);
        assert!(
            drawn.contains("\"port/n/gateway\" -- \"network/lan\" [label=\"NAT\""),
            "{drawn}"
        );
    }
}
