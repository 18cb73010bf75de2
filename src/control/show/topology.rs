//! What is connected to what: ports, port groups, networks, uplinks and the switches behind them, as nodes and edges.
//!
//! The nodes come in the order in which they are drawn, each after what it belongs to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::control::plan::Plan;
use crate::control::plan::nat::Outside;
use crate::control::show::team::{Carried, Neighbour, Team};
use crate::engine::{NetworkSnapshot, PortSnapshot, Snapshot};
use crate::ports::PortState;

/// What is connected to what.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Topology {
    /// The things.
    pub nodes: Vec<Node>,
    /// What connects them.
    pub edges: Vec<Edge>,
}

/// A thing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Node {
    /// A virtual switch.
    Network(Network),
    /// A port group, or the ports that are in none.
    PortGroup(PortGroup),
    /// A guest, host adapter or gateway.
    Port(Port),
    /// A physical adapter.
    Uplink(Uplink),
    /// A switch behind uplinks.
    Switch(Switch),
}

/// A virtual switch.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Network {
    /// What edges call it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: String,
    /// Its largest packet.
    pub mtu: u16,
    /// How its team spreads frames, if it has one.
    pub load_balancing: Option<String>,
    /// Where its gateway leads to, if it leads outside: `host`, or another network.
    #[serde(default)]
    pub outside: Option<String>,
}

/// A port group, or the ports that are in none.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortGroup {
    /// What edges call it.
    pub id: String,
    /// Its network.
    pub network: String,
    /// Its name; none for the ports that are in no port group.
    pub name: Option<String>,
    /// The VLANs of its ports, in words.
    pub vlan: String,
}

/// A guest, host adapter or gateway.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Port {
    /// What edges call it.
    pub id: String,
    /// Its network.
    pub network: String,
    /// Its name.
    pub name: String,
    /// `guest`, `host` or `gateway`.
    pub kind: String,
    /// `waiting`, `connected`, `up` or `down`.
    pub state: String,
    /// The hardware address that belongs to it, if one does.
    pub mac: Option<String>,
}

/// A physical adapter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Uplink {
    /// What edges call it.
    pub id: String,
    /// Its network.
    pub network: String,
    /// Its name.
    pub name: String,
    /// `up` or `down`.
    pub link: String,
    /// `active`, `standby` or `unused`.
    pub role: String,
    /// Whether frames leave by it.
    pub in_use: bool,
    /// Why it is, or is not, as one would wish; a few words.
    pub state: String,
    /// Its speed in bits a second, where known.
    pub speed: Option<u64>,
}

/// A switch behind uplinks, as it says itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Switch {
    /// What edges call it.
    pub id: String,
    /// What to call it.
    pub name: String,
    /// It in words.
    pub description: Option<String>,
    /// Where it is managed.
    pub address: Option<String>,
}

/// What connects two things.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Edge {
    /// What it is.
    pub kind: EdgeKind,
    /// The one.
    pub from: String,
    /// The other.
    pub to: String,
    /// Whether frames can take it.
    pub up: bool,
    /// More about it: of `carried` why it is this uplink, of `wire` the port of the switch.
    pub label: Option<String>,
}

/// What an edge says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeKind {
    /// A port is in a port group.
    Member,
    /// A port group is part of a network.
    Group,
    /// An uplink is part of a network.
    Team,
    /// An uplink leads to a switch.
    Wire,
    /// A port is carried by an uplink; one that is spread over several has an edge to each.
    Carried,
    /// A gateway leads to another network.
    Nat,
}

impl Topology {
    /// Returns the part that is about one network, unless there is none with this name.
    pub fn of(&self, network: &str) -> Option<Self> {
        if !self.networks().any(|one| one.name == network) {
            return None;
        }
        let wires: BTreeSet<&str> = self
            .edges
            .iter()
            .filter(|edge| edge.kind == EdgeKind::Wire)
            .filter(|edge| {
                self.uplinks()
                    .any(|uplink| uplink.id == edge.from && uplink.network == network)
            })
            .map(|edge| edge.to.as_str())
            .collect();
        let nodes: Vec<Node> = self
            .nodes
            .iter()
            .filter(|node| match node {
                Node::Network(one) => one.name == network,
                Node::PortGroup(one) => one.network == network,
                Node::Port(one) => one.network == network,
                Node::Uplink(one) => one.network == network,
                Node::Switch(one) => wires.contains(one.id.as_str()),
            })
            .cloned()
            .collect();
        let ids: BTreeSet<&str> = nodes.iter().map(Node::id).collect();
        let both = |edge: &&Edge| ids.contains(&*edge.from) && ids.contains(&*edge.to);
        let edges = self.edges.iter().filter(both).cloned().collect();
        Some(Self { nodes, edges })
    }

    /// Returns the networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Network(network) => Some(network),
            Node::PortGroup(_) | Node::Port(_) | Node::Uplink(_) | Node::Switch(_) => None,
        })
    }

    /// Returns the port groups.
    pub fn port_groups(&self) -> impl Iterator<Item = &PortGroup> {
        self.nodes.iter().filter_map(|node| match node {
            Node::PortGroup(group) => Some(group),
            Node::Network(_) | Node::Port(_) | Node::Uplink(_) | Node::Switch(_) => None,
        })
    }

    /// Returns the ports.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Port(port) => Some(port),
            Node::Network(_) | Node::PortGroup(_) | Node::Uplink(_) | Node::Switch(_) => None,
        })
    }

    /// Returns the uplinks.
    pub fn uplinks(&self) -> impl Iterator<Item = &Uplink> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Uplink(uplink) => Some(uplink),
            Node::Network(_) | Node::PortGroup(_) | Node::Port(_) | Node::Switch(_) => None,
        })
    }

    /// Returns the switches behind uplinks.
    pub fn switches(&self) -> impl Iterator<Item = &Switch> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Switch(switch) => Some(switch),
            Node::Network(_) | Node::PortGroup(_) | Node::Port(_) | Node::Uplink(_) => None,
        })
    }

    /// Returns the edges of a kind that begin at a node.
    pub fn edges_from(&self, kind: EdgeKind, id: &str) -> impl Iterator<Item = &Edge> {
        let edges = self.edges.iter();
        edges.filter(move |edge| edge.kind == kind && edge.from == id)
    }

    /// Returns the edges of a kind that end at a node.
    pub fn edges_to(&self, kind: EdgeKind, id: &str) -> impl Iterator<Item = &Edge> {
        let edges = self.edges.iter();
        edges.filter(move |edge| edge.kind == kind && edge.to == id)
    }

    fn join(&mut self, kind: EdgeKind, from: &str, to: &str, up: bool, label: Option<&str>) {
        self.edges.push(Edge {
            kind,
            from: from.to_owned(),
            to: to.to_owned(),
            up,
            label: label.map(str::to_owned),
        });
    }

    fn add_network(&mut self, plan: &Plan, network: &NetworkSnapshot, team: Option<&Team>) {
        let name = &network.name;
        let id = network_id(name);
        let planned = plan.networks.iter().find(|planned| planned.name == *name);
        self.nodes.push(Node::Network(Network {
            id: id.clone(),
            name: name.clone(),
            mode: planned.map_or_else(String::new, |planned| planned.mode.name().to_owned()),
            mtu: planned.map_or(0, |planned| planned.mtu),
            load_balancing: team.map(|team| team.load_balancing.clone()),
            outside: planned
                .and_then(|planned| planned.nat.as_ref())
                .map(|nat| nat.outside.name().to_owned()),
        }));
        // Those in no port group come last.
        let mut groups: BTreeMap<_, Vec<&PortSnapshot>> = BTreeMap::new();
        for port in network.ports.iter().filter(|port| port.kind != "uplink") {
            let key = (port.port_group.is_none(), &port.port_group, &port.vlan);
            groups.entry(key).or_default().push(port);
        }
        for ((_, group, vlan), ports) in groups {
            self.add_port_group(&id, name, group.as_deref(), vlan, &ports);
        }
        if let Some(team) = team {
            self.add_team(&id, team);
        }
    }

    fn add_port_group(
        &mut self,
        network_id: &str,
        network: &str,
        name: Option<&str>,
        vlan: &str,
        ports: &[&PortSnapshot],
    ) {
        let group = format!("port_group/{network}/{}/{vlan}", name.unwrap_or_default());
        self.nodes.push(Node::PortGroup(PortGroup {
            id: group.clone(),
            network: network.to_owned(),
            name: name.map(str::to_owned),
            vlan: vlan.to_owned(),
        }));
        let any = ports.iter().any(|port| port.state == PortState::Up);
        self.join(EdgeKind::Group, &group, network_id, any, None);
        for port in ports {
            let id = port_id(network, &port.name);
            self.nodes.push(Node::Port(Port {
                id: id.clone(),
                network: network.to_owned(),
                name: port.name.clone(),
                kind: port.kind.to_owned(),
                state: port.state.name().to_owned(),
                mac: port.mac.map(|mac| mac.to_string()),
            }));
            let up = port.state == PortState::Up;
            self.join(EdgeKind::Member, &id, &group, up, None);
        }
    }

    fn add_team(&mut self, network_id: &str, team: &Team) {
        for uplink in &team.uplinks {
            let id = uplink_id(&team.network, &uplink.name);
            let up = uplink.link == "up";
            self.nodes.push(Node::Uplink(Uplink {
                id: id.clone(),
                network: team.network.clone(),
                name: uplink.name.clone(),
                link: uplink.link.clone(),
                role: uplink.role.clone(),
                in_use: uplink.in_use,
                state: uplink.state.clone(),
                speed: uplink.speed,
            }));
            self.join(EdgeKind::Team, &id, network_id, up, None);
            for neighbour in distinct(&uplink.neighbours) {
                let switch = self.add_switch(neighbour);
                let label = neighbour.port_words();
                self.join(EdgeKind::Wire, &id, &switch, up, Some(&label));
            }
        }
        for carried in &team.ports {
            let port = port_id(&team.network, &carried.port);
            for uplink in carriers(team, carried) {
                let uplink = uplink_id(&team.network, uplink);
                self.join(EdgeKind::Carried, &port, &uplink, true, Some(&carried.why));
            }
        }
    }

    /// Adds a switch, unless another uplink leads to it too; returns its id.
    fn add_switch(&mut self, neighbour: &Neighbour) -> String {
        let id = format!("switch/{}/{}", neighbour.protocol, neighbour.chassis);
        if !self.switches().any(|switch| switch.id == id) {
            self.nodes.push(Node::Switch(Switch {
                id: id.clone(),
                name: neighbour.name().to_owned(),
                description: neighbour.system_description.clone(),
                address: neighbour.address.clone(),
            }));
        }
        id
    }
}

impl Node {
    /// Returns what edges call it.
    pub fn id(&self) -> &str {
        match self {
            Self::Network(node) => &node.id,
            Self::PortGroup(node) => &node.id,
            Self::Port(node) => &node.id,
            Self::Uplink(node) => &node.id,
            Self::Switch(node) => &node.id,
        }
    }
}

/// Returns what is connected to what.
pub fn topology(plan: &Plan, snapshot: &Snapshot, teams: &[Team]) -> Topology {
    let mut topology = Topology::default();
    for network in &snapshot.networks {
        let team = teams.iter().find(|team| team.network == network.name);
        topology.add_network(plan, network, team);
    }
    for network in &plan.networks {
        if let Some(Outside::Network(station)) = network.nat.as_ref().map(|nat| &nat.outside) {
            let gateway = port_id(&network.name, "gateway");
            let outside = network_id(&station.network);
            topology.join(EdgeKind::Nat, &gateway, &outside, true, None);
        }
    }
    topology
}

fn network_id(name: &str) -> String {
    format!("network/{name}")
}

fn port_id(network: &str, name: &str) -> String {
    format!("port/{network}/{name}")
}

fn uplink_id(network: &str, name: &str) -> String {
    format!("uplink/{network}/{name}")
}

/// Returns the neighbours without those that made themselves known twice, by CDP too.
fn distinct(neighbours: &[Neighbour]) -> impl Iterator<Item = &Neighbour> {
    let twice = |one: &Neighbour| {
        one.protocol == "cdp"
            && neighbours
                .iter()
                .any(|other| other.protocol == "lldp" && other.name() == one.name())
    };
    neighbours.iter().filter(move |one| !twice(one))
}

/// The uplinks by which a port's frames may leave: its own, or those over which its policy spreads them.
fn carriers<'a>(team: &'a Team, carried: &'a Carried) -> impl Iterator<Item = &'a str> {
    let spread = team
        .policies
        .iter()
        .filter(|policy| carried.uplink.is_none() && policy.port_group == carried.policy)
        .flat_map(|policy| &policy.in_use);
    carried.uplink.iter().chain(spread).map(String::as_str)
}
