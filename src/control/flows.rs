//! What is translated, on the control socket and the command line: `/v1/nat` and `vmlan nat`.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::control::api::{Source, json, refuse};
use crate::control::plan::Plan;
use crate::control::problem::did_you_mean;
use crate::control::show::nat::{Flow, Translation, flow, translator};
use crate::engine::{ChangeError, Snapshot};
use crate::net::nat::{FlowRow, Protocol};

/// Where translation is shown.
pub const ENDPOINT: &str = "/v1/nat";

/// How many flows are shown where nobody says how many.
const USUAL: usize = 100;

/// Which flows are to be shown, on the command line and in the query of a request.
#[derive(Args, Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The network; without it, all that are translated
    pub network: Option<String>,
    /// Only flows of this VM
    #[arg(long)]
    pub vm: Option<String>,
    /// Only flows of this protocol
    #[arg(long, value_enum)]
    pub protocol: Option<FlowProtocol>,
    /// Show at most so many flows
    #[arg(long, default_value_t = USUAL)]
    #[serde(default = "usual")]
    pub limit: usize,
}

const fn usual() -> usize {
    USUAL
}

/// A protocol whose flows are shown.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FlowProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// ICMP echo
    Icmp,
}

impl FlowProtocol {
    const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
            Self::Icmp => Protocol::Icmp,
        }
    }
}

impl Filter {
    /// Where it is asked; names are such that they need no escape.
    pub fn endpoint(&self) -> String {
        let mut endpoint = format!("{ENDPOINT}?limit={}", self.limit);
        for (key, value) in [("network", &self.network), ("vm", &self.vm)] {
            if let Some(value) = value {
                endpoint += &format!("&{key}={}", escaped(value));
            }
        }
        if let Some(protocol) = self.protocol {
            endpoint += &format!("&protocol={}", protocol.protocol().name());
        }
        endpoint
    }

    /// Says what is not there, if something is not.
    fn refuses(&self, plan: &Plan) -> Option<String> {
        let translated = plan.networks.iter().filter(|network| network.nat.is_some());
        let translated: Vec<&str> = translated.map(|network| network.name.as_str()).collect();
        if let Some(name) = &self.network
            && !translated.contains(&name.as_str())
        {
            let hint = match did_you_mean(name, translated.iter().copied()) {
                hint if !hint.is_empty() => hint,
                _ if translated.is_empty() => "; there is none".to_owned(),
                _ => format!("; there is {}", translated.join(", ")),
            };
            return Some(format!("there is no NAT network {name:?}{hint}"));
        }
        if let Some(name) = &self.vm
            && plan.find_vm(name).is_none()
        {
            let hint = did_you_mean(name, plan.vms.iter().map(|vm| vm.name.as_str()));
            return Some(format!("there is no VM {name:?}{hint}"));
        }
        None
    }

    /// Chooses flows, those first where something came last.
    fn choose(&self, mut flows: Vec<Flow>) -> (Vec<Flow>, usize) {
        flows.retain(|flow| {
            let vm = self.vm.as_ref();
            let protocol = self.protocol.map(|protocol| protocol.protocol().name());
            vm.is_none_or(|vm| flow.vm.as_ref() == Some(vm))
                && protocol.is_none_or(|protocol| flow.protocol == protocol)
        });
        flows.sort_by(|a, b| a.idle_s.cmp(&b.idle_s).then_with(|| a.cmp(b)));
        let left_out = flows.len().saturating_sub(self.limit);
        flows.truncate(self.limit);
        (flows, left_out)
    }

    fn show(
        &self,
        plan: &Plan,
        snapshot: &Snapshot,
        rows: impl Fn(&str) -> Vec<FlowRow>,
    ) -> Translation {
        let networks = plan.networks.iter().filter(|network| {
            let name = self.network.as_ref();
            name.is_none_or(|name| *name == network.name)
        });
        let networks: Vec<_> = networks
            .filter_map(|network| translator(network, snapshot))
            .collect();
        let flows = networks.iter().flat_map(|network| {
            let name = &network.network;
            let seen = snapshot.networks.iter().find(|seen| seen.name == *name);
            let rows = rows(name).into_iter();
            rows.map(move |row| flow(name, seen, &row))
        });
        let (flows, left_out) = self.choose(flows.collect());
        Translation {
            networks,
            flows,
            left_out,
        }
    }
}

/// Writes a value of a query so that nothing in it has a meaning.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Returns the endpoint.
pub fn router() -> Router<Arc<Source>> {
    Router::new().route(ENDPOINT, get(answer))
}

async fn answer(
    State(source): State<Arc<Source>>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Response {
    let filter = match filter {
        Ok(Query(filter)) => filter,
        Err(error) => {
            let text = format!("cannot show what is translated: {}", error.body_text());
            return refuse(StatusCode::BAD_REQUEST, &text);
        }
    };
    if let Some(refusal) = filter.refuses(&source.plan) {
        let text = format!("cannot show what is translated: {refusal}");
        return refuse(StatusCode::NOT_FOUND, &text);
    }
    // The worker answers at once, or is stuck: then signals must still be heard.
    let asked = tokio::task::spawn_blocking(move || {
        let snapshot = source.engine.snapshot()?;
        let rows = |network: &str| source.engine.flows(network).unwrap_or_default();
        Some(json(
            StatusCode::OK,
            &filter.show(&source.plan, &snapshot, rows),
        ))
    });
    asked.await.ok().flatten().unwrap_or_else(|| {
        let text = ChangeError::NoAnswer.to_string();
        refuse(StatusCode::SERVICE_UNAVAILABLE, &text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::File;
    use crate::control::problem::Problems;
    use crate::net::nat::Originator;
    use std::path::Path;
    use std::time::Duration;

    fn plan() -> Plan {
        let text = "[network.n]\nmode = \"nat\"\nsubnet = \"192.168.88.0/24\"\n[network.m]\nmode = \"nat\"\nsubnet = \"10.0.0.0/24\"\n[vm.web1]\nnetwork = \"n\"\n";
        let mut problems = Problems::default();
        let file = File::read(text, &mut problems);
        let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
        Plan::new(&file, runtime, state, &mut problems)
    }

    fn row(protocol: Protocol, idle: u64) -> FlowRow {
        FlowRow {
            protocol,
            originator: Originator::Guest,
            mac: None,
            inside: "192.168.88.9:1".parse().unwrap(),
            outside: None,
            remote: None,
            state: "active",
            age: Duration::from_secs(60),
            idle: Duration::from_secs(idle),
            expires: Duration::from_secs(60),
            sent: 1,
            received: 2,
        }
    }

    #[test]
    fn the_flows_that_are_asked_for_are_shown_the_busiest_first() {
        let filter = Filter {
            protocol: Some(FlowProtocol::Udp),
            limit: 2,
            ..Filter::default()
        };
        let rows = |network: &str| match network {
            "n" => vec![
                row(Protocol::Udp, 9),
                row(Protocol::Tcp, 0),
                row(Protocol::Udp, 1),
            ],
            _ => vec![row(Protocol::Udp, 5)],
        };
        let shown = filter.show(&plan(), &Snapshot::default(), rows);
        assert_eq!(shown.networks.len(), 2);
        let flows: Vec<_> = shown
            .flows
            .iter()
            .map(|flow| (flow.network.as_str(), flow.idle_s))
            .collect();
        assert_eq!((flows, shown.left_out), (vec![("n", 1), ("m", 5)], 1));
        let one = Filter {
            network: Some("m".to_owned()),
            limit: 10,
            ..Filter::default()
        };
        let shown = one.show(&plan(), &Snapshot::default(), rows);
        assert_eq!(
            (shown.networks.len(), shown.flows.len(), shown.left_out),
            (1, 1, 0)
        );
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let filter = |network: Option<&str>, vm: Option<&str>| Filter {
            network: network.map(str::to_owned),
            vm: vm.map(str::to_owned),
            ..Filter::default()
        };
        let refused = |network, vm| filter(network, vm).refuses(&plan());
        assert_eq!(refused(Some("n"), Some("web1")), None);
        let text = "there is no NAT network \"vmnet8\"; there is m, n";
        assert_eq!(refused(Some("vmnet8"), None).as_deref(), Some(text));
        let text = "there is no VM \"web\"; did you mean \"web1\"?";
        assert_eq!(refused(None, Some("web")).as_deref(), Some(text));
    }

    #[test]
    fn a_query_is_what_was_asked() {
        let filter = Filter {
            network: Some("n&x=1".to_owned()),
            vm: Some("web1".to_owned()),
            protocol: Some(FlowProtocol::Icmp),
            limit: 5,
        };
        assert_eq!(
            filter.endpoint(),
            "/v1/nat?limit=5&network=n%26x%3D1&vm=web1&protocol=icmp"
        );
    }
}
