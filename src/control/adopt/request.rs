//! What is asked for, and whether the configuration has a place for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::AdoptError;
use crate::control::config::network::Mode;
use crate::control::duration::Span;
use crate::control::plan::{Network, Plan};

/// How long there may be to confirm: the shortest, the longest, and what it is where nothing is said.
pub const TIMEOUT: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(3600),
    Duration::from_secs(60),
];

/// What is to be adopted, and where to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The adapter: an uplink of the network.
    pub interface: String,
    /// The network.
    pub network: String,
    /// The port group whose host adapter is meant; absent for that of the network.
    #[serde(default)]
    pub port_group: Option<String>,
    /// For how long it can be confirmed, in seconds.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}

/// Returns how long there is to confirm, if that is within bounds.
pub(super) fn timeout(request: &Request, attempt: &str) -> Result<Duration, AdoptError> {
    let [shortest, longest, usual] = TIMEOUT;
    let timeout = request.timeout_s.map_or(usual, Duration::from_secs);
    if (shortest..=longest).contains(&timeout) {
        return Ok(timeout);
    }
    Err(AdoptError::Request {
        attempt: attempt.to_owned(),
        reason: format!(
            "the timeout is {}; choose one from {} to {}",
            Span(timeout),
            Span(shortest),
            Span(longest)
        ),
    })
}

/// Returns the uplinks that a network has by the plan.
pub(super) fn planned_uplinks<'a>(plan: &'a Plan, network: &str) -> Vec<&'a str> {
    let team = plan.find_network(network).and_then(|one| one.team.as_ref());
    let uplinks = team.into_iter().flat_map(|team| &team.uplinks);
    uplinks.map(|uplink| &*uplink.name).collect()
}

/// Finds the host adapter that is to have the addresses of one of the network's uplinks; if there is none, why.
pub(super) fn destination<'a>(
    plan: &'a Plan,
    uplinks: &[&str],
    request: &Request,
) -> Result<&'a str, String> {
    let Some(network) = plan.find_network(&request.network) else {
        let names: Vec<_> = plan.networks.iter().map(|one| &*one.name).collect();
        return Err(format!(
            "there is no such network; there is {}",
            names.join(", ")
        ));
    };
    if network.mode != Mode::Bridged {
        return Err(format!(
            "the network is {}, and only a bridged one has uplinks",
            network.mode.name()
        ));
    }
    if !uplinks.contains(&&*request.interface) {
        let names = match uplinks {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        return Err(format!(
            "it is no uplink of the network; its team has {names}"
        ));
    }
    host_adapter(network, request.port_group.as_deref())
}

/// Returns the host adapter of a network or of one of its port groups; if there is none, why.
fn host_adapter<'a>(network: &'a Network, port_group: Option<&str>) -> Result<&'a str, String> {
    if let Some(name) = port_group {
        let groups = &network.port_groups;
        let Some(group) = groups.iter().find(|group| group.name == name) else {
            let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
            return Err(match names.as_slice() {
                [] => format!("there is no port group {name:?}; the network has none"),
                names => format!(
                    "there is no port group {name:?}; there is {}",
                    names.join(", ")
                ),
            });
        };
        return group.host_adapter.as_deref().ok_or_else(|| {
            format!(
                "the port group {name:?} has no host adapter to take the addresses; add the key host_adapter to it and restart the daemon"
            )
        });
    }
    network.host_adapter.as_deref().ok_or_else(|| {
        "the network has no host adapter to take the addresses; add the key host_adapter to it and restart the daemon".to_owned()
    })
}
