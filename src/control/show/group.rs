//! The multicast groups as they are shown: which ports want which.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::control::show::port_name;
use crate::engine::Snapshot;

/// A multicast group that somebody wants.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Group {
    /// The network.
    pub network: String,
    /// The VLAN, 0 for the untagged domain.
    pub vlan: u16,
    /// The group's address.
    pub group: String,
    /// The ports that want it.
    pub ports: Vec<String>,
    /// Seconds until the last of them is forgotten, unless it is heard again.
    pub expires_s: u64,
}

/// Returns the multicast groups.
pub fn groups(snapshot: &Snapshot, now: Instant) -> Vec<Group> {
    let rows = snapshot
        .networks
        .iter()
        .flat_map(|network| network.groups.iter().map(move |row| (network, row)));
    rows.map(|(network, row)| Group {
        network: network.name.clone(),
        vlan: row.vlan,
        group: row.group.to_string(),
        ports: row
            .ports
            .iter()
            .map(|port| port_name(network, *port))
            .collect(),
        expires_s: row.expires.saturating_duration_since(now).as_secs(),
    })
    .collect()
}
