//! Uplinks that come and go while the daemon runs: `/v1/uplinks/add` and `/v1/uplinks/remove`, and `vmlan uplink`.
//!
//! The file is not touched: what is changed here lasts until the daemon ends, and whoever asks is told so.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::control::api::{Source, status};
use crate::control::change::{Refusal, answer, parsed};
use crate::control::problem::did_you_mean;
use crate::control::show::team::{Team, teams};
use crate::control::value::Adapter;
use crate::engine::ChangeError;
use crate::net::team;
use crate::ports::packet;

/// Where uplinks are added, and where they are removed.
pub const ENDPOINTS: [&str; 2] = ["/v1/uplinks/add", "/v1/uplinks/remove"];

/// What a request attempts that is not understood.
const ATTEMPT: &str = "change the uplinks";

/// What is to be done about an uplink, on the command line and in the body of a request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, Subcommand)]
#[serde(untagged)]
pub enum Ask {
    /// Take an adapter into the team of a network, until the daemon ends
    Add(Add),
    /// Let go of an adapter, until the daemon ends; what it carries moves to other uplinks
    Remove(Remove),
}

/// An uplink that is to be added.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// The network
    pub network: String,
    /// The adapter
    #[arg(value_name = "IFACE")]
    pub uplink: String,
    /// Use it only when an active uplink fails
    #[arg(long)]
    #[serde(default)]
    pub standby: bool,
}

/// An uplink that is to go.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// The network
    pub network: String,
    /// The adapter
    #[arg(value_name = "IFACE")]
    pub uplink: String,
}

impl Ask {
    /// Where it is asked.
    pub const fn endpoint(&self) -> &'static str {
        let [add, remove] = ENDPOINTS;
        match self {
            Self::Add(_) => add,
            Self::Remove(_) => remove,
        }
    }

    /// Says what was done.
    pub fn render(&self, team: &Team) -> String {
        let until = "until the daemon ends";
        match self {
            Self::Add(Add {
                network,
                uplink,
                standby,
            }) => {
                let (role, key) = if *standby {
                    ("a standby", "standby")
                } else {
                    ("an active", "active")
                };
                format!(
                    "{uplink} is {role} uplink of {network} {until}\n\
                     to keep it, write it into the file too: network.{network}.team.{key}"
                )
            }
            Self::Remove(Remove { network, uplink }) => {
                let left = match team.uplinks.as_slice() {
                    [] => "none: guests do not reach the outside".to_owned(),
                    uplinks => names(uplinks.iter().map(|uplink| &*uplink.name)),
                };
                format!(
                    "{uplink} is no uplink of {network} {until}; left is {left}\n\
                     to keep it so, take it out of the file too: network.{network}.team"
                )
            }
        }
    }

    fn attempt(&self) -> String {
        match self {
            Self::Add(Add {
                network, uplink, ..
            }) => format!("add uplink {uplink:?} to network {network:?}"),
            Self::Remove(Remove { network, uplink }) => {
                format!("remove uplink {uplink:?} from network {network:?}")
            }
        }
    }

    /// Does it, and returns the team as it is then.
    fn carry_out(&self, source: &Source) -> Result<Team, Refusal> {
        let error = |status, reason: String| Refusal {
            attempt: self.attempt(),
            reason,
            status,
        };
        let stuck = || {
            let reason = ChangeError::NoAnswer.to_string();
            error(StatusCode::SERVICE_UNAVAILABLE, reason)
        };
        let before = source.engine.snapshot().ok_or_else(stuck)?;
        let refused = |change: ChangeError| {
            let teams = teams(&before, Instant::now());
            let reason = format!("{change}{}", remedy(&change, &teams, source));
            error(status(&change), reason)
        };
        let network = match self {
            Self::Add(add) => {
                let Adapter(interface) = add
                    .uplink
                    .parse()
                    .map_err(|wrong| error(StatusCode::BAD_REQUEST, format!("{wrong}")))?;
                let ports = before.networks.iter().flat_map(|network| &network.ports);
                let mut others = ports.filter(|port| port.kind != "uplink");
                if let Some(port) = others.find(|port| port.name == interface) {
                    let kind = port.kind;
                    let reason =
                        format!("a {kind} port has this name already; choose another adapter");
                    return Err(error(StatusCode::CONFLICT, reason));
                }
                let spec = packet::Spec {
                    interface,
                    optional: false,
                    speed: None,
                    driver: packet::Driver::Auto,
                };
                let role = if add.standby {
                    team::Role::Standby
                } else {
                    team::Role::Active
                };
                let added = source.engine.add_uplink(&add.network, spec, role);
                added.map_err(refused)?;
                &add.network
            }
            Self::Remove(Remove { network, uplink }) => {
                let adopter = source.adopter.lock();
                if let Some(one) = adopter
                    .adoptions()
                    .iter()
                    .find(|one| one.interface == *uplink && one.network == *network)
                {
                    let reason = format!(
                        "{} has its addresses; give them back first with `vmlan adopt --undo {uplink}`",
                        one.host_adapter
                    );
                    return Err(error(StatusCode::CONFLICT, reason));
                }
                let removed = source.engine.remove_uplink(network, uplink);
                removed.map_err(refused)?;
                network
            }
        };
        let after = source.engine.snapshot().ok_or_else(stuck)?;
        let mut teams = teams(&after, Instant::now()).into_iter();
        teams
            .find(|team| team.network == *network)
            .ok_or_else(stuck)
    }
}

/// Returns the endpoints.
pub fn router() -> Router<Arc<Source>> {
    let [add, remove] = ENDPOINTS;
    Router::new()
        .route(
            add,
            post(
                |State(source): State<Arc<Source>>, body: Bytes| async move {
                    let ask = parsed(ATTEMPT, &body).map(Ask::Add);
                    answer(source, ask, Ask::carry_out).await
                },
            ),
        )
        .route(
            remove,
            post(
                |State(source): State<Arc<Source>>, body: Bytes| async move {
                    let ask = parsed(ATTEMPT, &body).map(Ask::Remove);
                    answer(source, ask, Ask::carry_out).await
                },
            ),
        )
}

/// Returns what to do instead, where the error does not say so itself.
fn remedy(error: &ChangeError, teams: &[Team], source: &Source) -> String {
    let choice = |typed: &str, those: Vec<&str>| {
        let hint = did_you_mean(typed, those.iter().copied());
        match those.as_slice() {
            _ if !hint.is_empty() => hint,
            [] => "; there are none".to_owned(),
            those => format!("; there is {}", names(those.iter().copied())),
        }
    };
    match error {
        ChangeError::NoNetwork(name) => {
            let networks = &source.plan.networks;
            choice(name, networks.iter().map(|one| &*one.name).collect())
        }
        ChangeError::NoUplink { network, name } => {
            let team = teams.iter().find(|team| team.network == *network);
            let uplinks = team.into_iter().flat_map(|team| &team.uplinks);
            choice(name, uplinks.map(|one| &*one.name).collect())
        }
        ChangeError::Taken { name, network } => {
            format!("; to change that, let go of it first: `vmlan uplink remove {network} {name}`")
        }
        ChangeError::NoTeam(_)
        | ChangeError::NoNat(_)
        | ChangeError::NoForward { .. }
        | ChangeError::Forward(_)
        | ChangeError::Open(_)
        | ChangeError::Watch(_)
        | ChangeError::NoAnswer => String::new(),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::render;

    fn ask(uplink: &str) -> Ask {
        Ask::Add(Add {
            network: "vmnet0".to_owned(),
            uplink: uplink.to_owned(),
            standby: true,
        })
    }

    #[test]
    fn a_request_says_what_is_asked_and_nothing_else() {
        let body = serde_json::to_vec(&ask("eth2")).unwrap();
        assert_eq!(parsed(ATTEMPT, &body).map(Ask::Add).unwrap(), ask("eth2"));
        let short: Add = parsed(ATTEMPT, br#"{"network":"vmnet0","uplink":"eth2"}"#).unwrap();
        assert!(!short.standby);
        let wrong = parsed::<Remove>(ATTEMPT, br#"{"network":"vmnet0","uplink":"eth2","role":1}"#);
        let text = wrong.unwrap_err().to_string();
        let start =
            "cannot change the uplinks: the request is not understood: unknown field `role`";
        assert!(text.starts_with(start), "{text}");
    }

    #[test]
    fn whoever_asks_is_told_how_long_it_lasts() {
        let team = render::team::example();
        let text = ask("eth2").render(&team);
        assert_eq!(
            text,
            "eth2 is a standby uplink of vmnet0 until the daemon ends\n\
             to keep it, write it into the file too: network.vmnet0.team.standby"
        );
        let remove = Ask::Remove(Remove {
            network: "vmnet0".to_owned(),
            uplink: "eth3".to_owned(),
        });
        assert_eq!(
            remove.render(&team),
            "eth3 is no uplink of vmnet0 until the daemon ends; left is eth1, eth2\n\
             to keep it so, take it out of the file too: network.vmnet0.team"
        );
    }
}
