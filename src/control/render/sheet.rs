//! A topology cut into sheets, one a network, as drawings want it: ports on the left, uplinks on the right.

use std::collections::BTreeMap;

use crate::control::render::speed;
use crate::control::show::topology::{
    EdgeKind, Network, Port, PortGroup, Switch, Topology, Uplink,
};

/// What is drawn of one network.
pub(super) struct Sheet<'a> {
    /// The network.
    pub(super) network: &'a Network,
    /// Its port groups, each with its ports.
    pub(super) groups: Vec<(&'a PortGroup, Vec<Row<'a>>)>,
    /// Its uplinks.
    pub(super) uplinks: Vec<End<'a>>,
}

/// A port.
pub(super) struct Row<'a> {
    /// The port.
    pub(super) port: &'a Port,
    /// What carries it to the outside.
    pub(super) way: Way,
}

/// What carries a port to the outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// Nothing: the network has no team.
    None,
    /// Nothing: no uplink works, or there is none.
    Lost,
    /// One uplink, by its place on the sheet.
    One(usize),
    /// Several uplinks, frame by frame.
    Spread,
}

/// An uplink, and what is behind it.
pub(super) struct End<'a> {
    /// The uplink.
    pub(super) uplink: &'a Uplink,
    /// The switches behind it, each with the words for its port.
    pub(super) behind: Vec<(&'a Switch, &'a str)>,
}

impl<'a> Sheet<'a> {
    /// Returns the sheets of a topology.
    pub(super) fn all(topology: &'a Topology) -> Vec<Self> {
        let switches: BTreeMap<&str, &Switch> = topology
            .switches()
            .map(|switch| (&*switch.id, switch))
            .collect();
        let ports: BTreeMap<&str, &Port> = topology.ports().map(|port| (&*port.id, port)).collect();
        let sheet = |network: &'a Network| {
            let of_network = |uplink: &&Uplink| uplink.network == network.name;
            let uplinks: Vec<End<'a>> = topology
                .uplinks()
                .filter(of_network)
                .map(|uplink| End {
                    uplink,
                    behind: topology
                        .edges_from(EdgeKind::Wire, &uplink.id)
                        .filter_map(|edge| {
                            let switch = switches.get(&*edge.to)?;
                            Some((*switch, edge.label.as_deref().unwrap_or_default()))
                        })
                        .collect(),
                })
                .collect();
            let row = |port: &'a Port| Row {
                port,
                way: way(topology, port, &uplinks, network.load_balancing.is_some()),
            };
            let groups = topology
                .port_groups()
                .filter(|group| group.network == network.name)
                .map(|group| {
                    let members = topology.edges_to(EdgeKind::Member, &group.id);
                    let ports = members.filter_map(|edge| ports.get(&*edge.from).copied());
                    (group, ports.map(row).collect())
                })
                .collect();
            Self {
                network,
                groups,
                uplinks,
            }
        };
        topology.networks().map(sheet).collect()
    }

    /// Returns the heading of the sheet.
    pub(super) fn heading(&self) -> String {
        let Network { mode, mtu, .. } = self.network;
        match (&self.network.load_balancing, &self.network.outside) {
            (Some(balancing), _) => format!("{mode}, MTU {mtu}, team by {balancing}"),
            (None, Some(outside)) => format!("{mode}, MTU {mtu}, leads to {outside}"),
            (None, None) => format!("{mode}, MTU {mtu}"),
        }
    }

    /// Returns the words for what carries a port, unless nothing can.
    pub(super) fn way_words(&self, way: Way) -> Option<&'a str> {
        match way {
            Way::None => None,
            Way::Lost => Some("no uplink"),
            Way::One(index) => self.uplinks.get(index).map(|end| &*end.uplink.name),
            Way::Spread => Some("spread"),
        }
    }
}

impl Row<'_> {
    /// Tells whether frames flow.
    pub(super) fn is_up(&self) -> bool {
        self.port.state == "up"
    }
}

impl End<'_> {
    /// Tells whether it has a link.
    pub(super) fn is_up(&self) -> bool {
        self.uplink.link == "up"
    }

    /// Returns its link, speed and role.
    pub(super) fn facts(&self) -> String {
        let Uplink { link, role, .. } = self.uplink;
        match self.uplink.speed.filter(|_| self.is_up()) {
            Some(bits) => format!("{link}, {}, {role}", speed(bits)),
            None => format!("{link}, {role}"),
        }
    }

    /// Returns what is wrong with it, if something is.
    pub(super) fn trouble(&self) -> Option<&str> {
        Some(&*self.uplink.state).filter(|state| *state != "works")
    }
}

/// Returns what a group is called, and its VLANs.
pub(super) fn group_words(group: &PortGroup) -> (&str, String) {
    let name = group.name.as_deref().unwrap_or("no port group");
    let number = |vlan: &str| vlan.starts_with(|c: char| c.is_ascii_digit());
    let vlan = match group.vlan.as_str() {
        "all" => "all VLANs".to_owned(),
        vlan if number(vlan) => format!("VLAN {vlan}"),
        vlan => vlan.to_owned(),
    };
    (name, vlan)
}

fn way(topology: &Topology, port: &Port, uplinks: &[End<'_>], has_team: bool) -> Way {
    let place = |id: &str| uplinks.iter().position(|end| end.uplink.id == id);
    let mut ways = topology
        .edges_from(EdgeKind::Carried, &port.id)
        .filter_map(|edge| place(&edge.to));
    match (ways.next(), ways.next()) {
        (Some(_), Some(_)) => Way::Spread,
        (Some(one), None) => Way::One(one),
        (None, _) if has_team => Way::Lost,
        (None, _) => Way::None,
    }
}

/// A network with a team, hostile neighbours included, and one without uplinks.
#[cfg(test)]
pub(super) fn example() -> Topology {
    let text = r#"{
      "nodes": [
        { "type": "network", "id": "network/vmnet0", "name": "vmnet0", "mode": "bridged", "mtu": 1500,
          "load_balancing": "port-id" },
        { "type": "port_group", "id": "g1", "network": "vmnet0", "name": "prod", "vlan": "10" },
        { "type": "port", "id": "p1", "network": "vmnet0", "name": "web1", "kind": "guest", "state": "up",
          "mac": "52:54:00:00:00:01" },
        { "type": "port", "id": "p2", "network": "vmnet0", "name": "web2", "kind": "guest", "state": "waiting",
          "mac": null },
        { "type": "port_group", "id": "g2", "network": "vmnet0", "name": null, "vlan": "untagged" },
        { "type": "port", "id": "p3", "network": "vmnet0", "name": "br0", "kind": "host", "state": "up",
          "mac": null },
        { "type": "uplink", "id": "u1", "network": "vmnet0", "name": "eth1", "link": "up", "role": "active",
          "in_use": true, "state": "works", "speed": 10000000000 },
        { "type": "switch", "id": "s1", "name": "\"><script>alert('1')</script>", "description": null,
          "address": null },
        { "type": "uplink", "id": "u2", "network": "vmnet0", "name": "eth2", "link": "down", "role": "standby",
          "in_use": false, "state": "no link, or gone", "speed": null },
        { "type": "switch", "id": "s2", "name": "\"]; evil [label=\"\\", "description": null, "address": null },
        { "type": "network", "id": "network/vmnet1", "name": "vmnet1", "mode": "host-only", "mtu": 9000,
          "load_balancing": null },
        { "type": "port_group", "id": "g3", "network": "vmnet1", "name": null, "vlan": "untagged" },
        { "type": "port", "id": "p4", "network": "vmnet1", "name": "db", "kind": "guest", "state": "up",
          "mac": null },
        { "type": "port", "id": "p5", "network": "vmnet1", "name": "gateway", "kind": "gateway", "state": "up",
          "mac": null }
      ],
      "edges": [
        { "kind": "group", "from": "g1", "to": "network/vmnet0", "up": true, "label": null },
        { "kind": "member", "from": "p1", "to": "g1", "up": true, "label": null },
        { "kind": "member", "from": "p2", "to": "g1", "up": false, "label": null },
        { "kind": "group", "from": "g2", "to": "network/vmnet0", "up": true, "label": null },
        { "kind": "member", "from": "p3", "to": "g2", "up": true, "label": null },
        { "kind": "team", "from": "u1", "to": "network/vmnet0", "up": true, "label": null },
        { "kind": "wire", "from": "u1", "to": "s1", "up": true, "label": "Gi1/0/3 (LLDP)" },
        { "kind": "team", "from": "u2", "to": "network/vmnet0", "up": false, "label": null },
        { "kind": "wire", "from": "u2", "to": "s2", "up": false, "label": "\"><b> (CDP)" },
        { "kind": "wire", "from": "u1", "to": "s2", "up": true, "label": "]]>&amp; (CDP)" },
        { "kind": "carried", "from": "p1", "to": "u1", "up": true, "label": "by its number" },
        { "kind": "carried", "from": "p2", "to": "u1", "up": true, "label": "by its number" },
        { "kind": "carried", "from": "p3", "to": "u1", "up": true, "label": "by the hash of each frame" },
        { "kind": "carried", "from": "p3", "to": "u2", "up": true, "label": "by the hash of each frame" },
        { "kind": "group", "from": "g3", "to": "network/vmnet1", "up": true, "label": null },
        { "kind": "member", "from": "p4", "to": "g3", "up": true, "label": null },
        { "kind": "member", "from": "p5", "to": "g3", "up": true, "label": null }
      ]
    }"#;
    serde_json::from_str(text).expect("it is in order")
}
