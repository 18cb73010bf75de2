//! Port groups, planned, and the private VLANs that they make together.

use std::collections::BTreeMap;

use crate::control::config::network;
use crate::control::config::network::Mode;
use crate::control::config::security::Security;
use crate::control::problem::{Problems, join};
use crate::control::value::Adapter;
use crate::net::storm::Limits;
use crate::net::vlan::{PortVlan, PrivateRole, PrivateVlans, VlanId};

/// A template of ports.
#[derive(Clone, Debug)]
pub struct PortGroup {
    /// Its name.
    pub name: String,
    /// The VLANs of its ports.
    pub vlan: PortVlan,
    /// What was said about security.
    pub security: Security,
    /// How much of what goes to many its guests may send.
    pub storm: Limits,
    /// Whether its guests are kept from one another.
    pub isolated: bool,
    /// Whether service tags and stacked tags pass.
    pub service_tags: bool,
    /// The name of a host adapter in it.
    pub host_adapter: Option<String>,
    /// Whether the guests' links go down while no uplink can carry them.
    pub follow_uplinks: bool,
    /// Which of the team's policies carries its ports.
    pub policy: usize,
}

/// Plans the port groups of the network at `path`. Where there is a team, those with a policy of their own have those
/// that follow the network's, in the order of their names.
pub(super) fn plan(
    network: &network::Network,
    mode: Option<Mode>,
    path: &str,
    problems: &mut Problems,
) -> Vec<PortGroup> {
    let mut policies = 0;
    let groups = network.port_groups.iter().map(|(name, group)| {
        let path = join(&join(path, "port_group"), name);
        if let Some(mode) = mode.filter(|mode| *mode != Mode::Bridged) {
            let without = format!("a network that is {} has no uplink", mode.name());
            if group.team.is_some() {
                problems.error(
                    join(&path, "team"),
                    format!("{without}; leave the table out"),
                );
            }
            if group.follow_uplinks {
                let text = format!("{without} to follow; leave the key out");
                problems.error(join(&path, "follow_uplinks"), text);
            }
        }
        PortGroup {
            name: name.clone(),
            vlan: group.vlan.clone(),
            security: group.security,
            storm: group.storm,
            isolated: group.isolated,
            service_tags: group.service_tags.unwrap_or(group.vlan == PortVlan::All),
            host_adapter: group.host_adapter.clone().map(|Adapter(name)| name),
            follow_uplinks: group.follow_uplinks,
            policy: match &group.team {
                None => 0,
                Some(_) => {
                    policies += 1;
                    policies
                }
            },
        }
    });
    groups.collect()
}

/// Finds the private VLANs of the network at `path`, which must agree in all its port groups.
pub(super) fn private_vlans(
    groups: &[PortGroup],
    path: &str,
    problems: &mut Problems,
) -> PrivateVlans {
    let mut private = Private::default();
    for group in groups {
        if let PortVlan::Private(port) = group.vlan {
            private.primaries.entry(port.primary).or_insert(&group.name);
        }
    }
    for group in groups {
        private.secondary(group, path, problems);
    }
    for group in groups {
        private.access(group, path, problems);
    }
    let mut map = PrivateVlans::default();
    for (vlan, secondary) in &private.secondaries {
        map.insert(*vlan, secondary.primary);
    }
    map
}

/// The private VLANs found so far, each with the port group that named it first.
#[derive(Default)]
struct Private<'a> {
    primaries: BTreeMap<VlanId, &'a str>,
    secondaries: BTreeMap<VlanId, Secondary<'a>>,
    /// The isolated VLAN of each primary.
    isolated: BTreeMap<VlanId, (VlanId, &'a str)>,
}

struct Secondary<'a> {
    primary: VlanId,
    isolated: bool,
    group: &'a str,
}

impl<'a> Private<'a> {
    /// Notes the secondary VLAN of a port group, if it has one.
    fn secondary(&mut self, group: &'a PortGroup, path: &str, problems: &mut Problems) {
        let PortVlan::Private(port) = group.vlan else {
            return;
        };
        let (vlan, key, isolated) = match port.role {
            PrivateRole::Promiscuous => return,
            PrivateRole::Isolated(vlan) => (vlan, "isolated", true),
            PrivateRole::Community(vlan) => (vlan, "community", false),
        };
        let (number, primary) = (vlan.number(), port.primary.number());
        let path = join(&vlan_path(group, path), key);
        if let Some(group) = self.primaries.get(&vlan) {
            let text = format!(
                "VLAN {number} is the primary VLAN of port group {group:?}, and cannot be a secondary one too"
            );
            problems.error(path, text);
            return;
        }
        if let Some(known) = self.secondaries.get(&vlan) {
            if known.primary != port.primary {
                let text = format!(
                    "VLAN {number} belongs to primary VLAN {} in port group {:?}, and cannot belong to {primary} too",
                    known.primary.number(),
                    known.group
                );
                problems.error(path, text);
            } else if known.isolated != isolated {
                let other = if isolated { "community" } else { "isolated" };
                let text = format!(
                    "VLAN {number} is {other} in port group {:?}, and cannot be {key} too",
                    known.group
                );
                problems.error(path, text);
            }
            return;
        }
        if isolated {
            if let Some((other, group)) = self.isolated.get(&port.primary) {
                let text = format!(
                    "primary VLAN {primary} has an isolated VLAN already, {} in port group {group:?}; it can have one",
                    other.number()
                );
                problems.error(path, text);
                return;
            }
            self.isolated.insert(port.primary, (vlan, &group.name));
        }
        let secondary = Secondary {
            primary: port.primary,
            isolated,
            group: &group.name,
        };
        self.secondaries.insert(vlan, secondary);
    }

    /// Checks that what travels untagged at a port is in no private VLAN, of which it would know nothing.
    fn access(&self, group: &PortGroup, path: &str, problems: &mut Problems) {
        let (vlan, key) = match &group.vlan {
            PortVlan::Access(vlan) => (Some(*vlan), None),
            PortVlan::Trunk(trunk) => (
                trunk
                    .untagged
                    .and_then(|domain| VlanId::new(domain.number())),
                Some("untagged"),
            ),
            PortVlan::Untagged | PortVlan::All | PortVlan::Private(_) => return,
        };
        let Some(vlan) = vlan else { return };
        let (number, path) = (vlan.number(), vlan_path(group, path));
        let path = key.map_or_else(|| path.clone(), |key| join(&path, key));
        if let Some(group) = self.primaries.get(&vlan) {
            let text = format!(
                "VLAN {number} is the primary VLAN of port group {group:?}; write {{ primary = {number}, promiscuous = true }}"
            );
            problems.error(path, text);
        } else if let Some(secondary) = self.secondaries.get(&vlan) {
            let text = format!(
                "VLAN {number} is a secondary VLAN in port group {:?}; write {{ primary = {}, {} = {number} }}",
                secondary.group,
                secondary.primary.number(),
                if secondary.isolated {
                    "isolated"
                } else {
                    "community"
                }
            );
            problems.error(path, text);
        }
    }
}

fn vlan_path(group: &PortGroup, network: &str) -> String {
    join(&join(&join(network, "port_group"), &group.name), "vlan")
}
