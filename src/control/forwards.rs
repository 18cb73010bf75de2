//! Port forwards that come and go while the daemon runs: `/v1/forwards`, `/v1/forwards/add`, `/v1/forwards/remove`, and
//! `vmlan forward`.
//!
//! The file is not touched: what is changed here lasts until the daemon ends, and whoever asks is told so.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::control::api::{Source, status};
use crate::control::change::{Refusal, answer, parsed};
use crate::control::config;
use crate::control::plan::{Network, Plan, forward, nat, services};
use crate::control::problem::{Problems, did_you_mean};
use crate::control::render::nat as render;
use crate::control::show::nat::{Forward, forwards};
use crate::control::value::endpoint::{Destination, Listen};
use crate::engine::ChangeError;
use crate::net::nat::forward::{Balance, ForwardRow, Health};
use crate::net::nat::{Protocol, View};

/// Where forwards are shown, added and removed.
pub const ENDPOINTS: [&str; 3] = ["/v1/forwards", "/v1/forwards/add", "/v1/forwards/remove"];

/// What a request attempts that is not understood.
const ATTEMPT: &str = "change the port forwards";

/// What is to be done about port forwards, on the command line.
#[derive(Clone, Debug, Eq, PartialEq, Subcommand)]
pub enum Ask {
    /// Show the port forwards
    List,
    /// Have a port of the host, or of the NAT's own address, lead to a guest, until the daemon ends
    Add(AddArgs),
    /// Have a port lead nowhere any more, until the daemon ends; connections that there are stay
    Remove(RemoveArgs),
}

/// A forward that is to be added, on the command line.
#[derive(Clone, Debug, Eq, PartialEq, clap::Args)]
pub struct AddArgs {
    /// The NAT network
    network: String,
    /// Where to listen, as in 127.0.0.1:2222, [::1]:2222, :8080 or 127.0.0.1:0, which has a port picked
    listen: String,
    /// Where it leads to, as in web1:22 or 192.168.88.10:22
    to: String,
    /// Where else it leads to; may be repeated
    #[arg(long = "to", value_name = "TO")]
    more: Vec<String>,
    /// Forward UDP, not TCP
    #[arg(long)]
    udp: bool,
    /// How one of several is chosen
    #[arg(long, value_enum, default_value_t)]
    balance: BalanceWord,
    /// Look after them by opening connections now and then, and leave out those that do not answer
    #[arg(long, conflicts_with = "udp")]
    health: bool,
}

/// A forward that is to go, on the command line.
#[derive(Clone, Debug, Eq, PartialEq, clap::Args)]
pub struct RemoveArgs {
    /// The NAT network
    network: String,
    /// Where it listens
    listen: String,
    /// It is one of UDP, not TCP
    #[arg(long)]
    udp: bool,
}

/// A forward that is to be added, in the body of a request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// The network.
    pub network: String,
    /// TCP, unless it is said.
    #[serde(default)]
    pub protocol: ProtocolWord,
    /// Where to listen.
    pub listen: String,
    /// Where it leads to.
    pub to: Vec<String>,
    /// How one of several is chosen.
    #[serde(default)]
    pub balance: BalanceWord,
    /// Whether they are looked after.
    #[serde(default)]
    pub health: bool,
}

/// A forward that is to go, in the body of a request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// The network.
    pub network: String,
    /// TCP, unless it is said.
    #[serde(default)]
    pub protocol: ProtocolWord,
    /// Where it listens.
    pub listen: String,
}

/// The protocol of a forward.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolWord {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
}

impl ProtocolWord {
    const fn new(udp: bool) -> Self {
        if udp { Self::Udp } else { Self::Tcp }
    }

    const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
        }
    }
}

/// How one of several targets is chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceWord {
    /// One after the other
    #[default]
    RoundRobin,
    /// By the client's address
    SourceHash,
    /// The one with the fewest connections
    LeastConnections,
}

impl BalanceWord {
    const fn balance(self) -> Balance {
        match self {
            Self::RoundRobin => Balance::RoundRobin,
            Self::SourceHash => Balance::SourceHash,
            Self::LeastConnections => Balance::LeastConnections,
        }
    }
}

impl AddArgs {
    /// Returns the body of the request.
    pub fn request(&self) -> Add {
        let to = std::iter::once(&self.to).chain(&self.more);
        Add {
            network: self.network.clone(),
            protocol: ProtocolWord::new(self.udp),
            listen: self.listen.clone(),
            to: to.cloned().collect(),
            balance: self.balance,
            health: self.health,
        }
    }
}

impl RemoveArgs {
    /// Returns the body of the request.
    pub fn request(&self) -> Remove {
        Remove {
            network: self.network.clone(),
            protocol: ProtocolWord::new(self.udp),
            listen: self.listen.clone(),
        }
    }
}

impl Ask {
    /// Says what was done, or what there is.
    pub fn render(&self, rows: &[Forward]) -> String {
        let until = "until the daemon ends";
        match self {
            Self::List if rows.is_empty() => "there are no port forwards".to_owned(),
            Self::List => render::forwards(rows),
            Self::Add(args) => {
                let lines = rows.iter().map(|row| {
                    let to: Vec<_> = row
                        .to
                        .iter()
                        .map(|target| render::to(row, target))
                        .collect();
                    format!(
                        "{} leads to {} {until}\n",
                        render::listen(row),
                        to.join(", ")
                    )
                });
                let network = &args.network;
                format!(
                    "{}to keep it, write it into the file too: [[network.{network}.forward]]",
                    lines.collect::<String>()
                )
            }
            Self::Remove(args) => {
                let lines = rows
                    .iter()
                    .map(|row| format!("{} leads nowhere {until}\n", render::listen(row)));
                let network = &args.network;
                format!(
                    "{}to keep it so, take it out of the file too: [[network.{network}.forward]]",
                    lines.collect::<String>()
                )
            }
        }
    }
}

impl Add {
    fn error(&self, status: StatusCode, reason: impl Into<String>) -> Refusal {
        let (listen, network) = (&self.listen, &self.network);
        Refusal {
            attempt: format!("add a forward on {listen:?} to network {network:?}"),
            reason: reason.into(),
            status,
        }
    }

    /// Finds out what it means, as for one that is in the file.
    fn plan(&self, plan: &Plan) -> Result<forward::Forward, Refusal> {
        let wrong = |error: String| self.error(StatusCode::BAD_REQUEST, error);
        let (network, nat) = translated(plan, &self.network)
            .map_err(|reason| self.error(StatusCode::NOT_FOUND, reason))?;
        if self.to.is_empty() {
            return Err(wrong(
                "it leads nowhere: name a VM and a port, as in web1:22".to_owned(),
            ));
        }
        if self.health && self.protocol == ProtocolWord::Udp {
            let text = "whether a guest is up is found out by connections of TCP; leave that out";
            return Err(wrong(text.to_owned()));
        }
        let listen: Listen = self
            .listen
            .parse()
            .map_err(|error| wrong(format!("{error}")))?;
        let mut to = Vec::new();
        for (index, text) in self.to.iter().enumerate() {
            let destination: Destination =
                text.parse().map_err(|error| wrong(format!("{error}")))?;
            to.push((index, destination));
        }
        let typed = config::nat::Forward {
            protocol: self.protocol.protocol(),
            listen: Some(listen),
            to,
            balance: Some(self.balance.balance()),
            health: self.health.then(Health::default),
        };
        let inside = nat::Inside::of(network, &plan.vms);
        let mut problems = Problems::default();
        let planned = forward::one(
            &typed,
            Some(&nat.outside),
            inside,
            String::new(),
            &mut problems,
        );
        match (planned, problems.errors().first()) {
            (Some(forward), None) => Ok(forward),
            (_, error) => Err(wrong(error.map_or_else(String::new, ToString::to_string))),
        }
    }

    fn carry_out(&self, source: &Source) -> Result<Vec<Forward>, Refusal> {
        let planned = self.plan(&source.plan)?;
        let prefix = source.prefixes.of(&self.network);
        let both = Path::new(services::IPV6).exists();
        let mut rows: Vec<ForwardRow> = Vec::new();
        for forward in services::forwards(&planned, both, prefix, &source.macs) {
            let protocol = forward.protocol;
            match source.engine.add_forward(&self.network, forward) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    // One family without the other is not what was asked for.
                    for row in &rows {
                        let removed =
                            source
                                .engine
                                .remove_forward(&self.network, protocol, row.listen);
                        if let Err(error) = removed {
                            tracing::warn!(listen = %row.listen, %error, "a forward stays that was to be undone");
                        }
                    }
                    return Err(self.error(status(&error), error.to_string()));
                }
            }
        }
        let rows = rows.iter();
        Ok(rows
            .map(|row| crate::control::show::nat::forward(&self.network, row))
            .collect())
    }
}

impl Remove {
    fn error(&self, status: StatusCode, reason: impl Into<String>) -> Refusal {
        let (listen, network) = (&self.listen, &self.network);
        Refusal {
            attempt: format!("remove the forward on {listen:?} from network {network:?}"),
            reason: reason.into(),
            status,
        }
    }

    /// Finds the forwards that are meant; on all addresses there may be one of each family.
    fn find<'a>(&self, plan: &Plan, view: &'a View) -> Result<Vec<&'a ForwardRow>, Refusal> {
        translated(plan, &self.network)
            .map_err(|reason| self.error(StatusCode::NOT_FOUND, reason))?;
        let listen: Listen = self
            .listen
            .parse()
            .map_err(|error| self.error(StatusCode::BAD_REQUEST, format!("{error}")))?;
        let meant = |row: &&ForwardRow| {
            let ip = row.listen.ip();
            row.protocol == self.protocol.protocol()
                && row.listen.port() == listen.ports.first
                && (listen.ports.span() == 0 || row.last == listen.ports.last)
                && listen
                    .ip
                    .map_or_else(|| ip.is_unspecified(), |own| own == ip)
        };
        let found: Vec<_> = view.forwards.iter().filter(meant).collect();
        if found.is_empty() {
            let those: Vec<_> = view
                .forwards
                .iter()
                .map(|row| {
                    let row = crate::control::show::nat::forward(&self.network, row);
                    render::listen(&row)
                })
                .collect();
            let hint = match those.as_slice() {
                [] => "there are none".to_owned(),
                those => format!("there is {}", those.join(", ")),
            };
            let protocol = self.protocol.protocol().name();
            let text = format!("there is no such forward of {protocol}; {hint}");
            return Err(self.error(StatusCode::NOT_FOUND, text));
        }
        Ok(found)
    }

    fn carry_out(&self, source: &Source) -> Result<Vec<Forward>, Refusal> {
        let stuck = || {
            let reason = ChangeError::NoAnswer.to_string();
            self.error(StatusCode::SERVICE_UNAVAILABLE, reason)
        };
        let snapshot = source.engine.snapshot().ok_or_else(stuck)?;
        let mut networks = snapshot.networks.iter();
        let network = networks.find(|network| network.name == self.network);
        let view = network
            .and_then(|network| network.nat.clone())
            .unwrap_or_default();
        let mut gone = Vec::new();
        for row in self.find(&source.plan, &view)? {
            let (protocol, listen): (_, SocketAddr) = (row.protocol, row.listen);
            source
                .engine
                .remove_forward(&self.network, protocol, listen)
                .map_err(|error| self.error(status(&error), error.to_string()))?;
            gone.push(crate::control::show::nat::forward(&self.network, row));
        }
        Ok(gone)
    }
}

/// Finds a network that is translated, or says which there are.
fn translated<'a>(plan: &'a Plan, name: &str) -> Result<(&'a Network, &'a nat::Nat), String> {
    let network = plan.find_network(name);
    if let Some(found) = network.and_then(|network| Some((network, network.nat.as_ref()?))) {
        return Ok(found);
    }
    if let Some(network) = network {
        let mode = network.mode.name();
        return Err(format!(
            "it is {mode}, and only a NAT network has port forwards"
        ));
    }
    let names = plan.networks.iter().filter(|network| network.nat.is_some());
    let names: Vec<_> = names.map(|network| network.name.as_str()).collect();
    let hint = match did_you_mean(name, names.iter().copied()) {
        hint if !hint.is_empty() => hint,
        _ if names.is_empty() => "; there is no NAT network".to_owned(),
        _ => format!("; there is {}", names.join(", ")),
    };
    Err(format!("there is no such network{hint}"))
}

/// Returns the endpoints.
pub fn router() -> Router<Arc<Source>> {
    let [list, add, remove] = ENDPOINTS;
    let added = |State(source): State<Arc<Source>>, body: Bytes| async move {
        answer(source, parsed::<Add>(ATTEMPT, &body), Add::carry_out).await
    };
    let removed = |State(source): State<Arc<Source>>, body: Bytes| async move {
        answer(source, parsed::<Remove>(ATTEMPT, &body), Remove::carry_out).await
    };
    let listed = |State(source): State<Arc<Source>>| async move {
        answer(source, Ok(()), |(), source| {
            let snapshot = source.engine.snapshot();
            snapshot
                .map(|snapshot| forwards(&snapshot))
                .ok_or_else(|| Refusal {
                    attempt: "show the port forwards".to_owned(),
                    reason: ChangeError::NoAnswer.to_string(),
                    status: StatusCode::SERVICE_UNAVAILABLE,
                })
        })
        .await
    };
    Router::new()
        .route(list, get(listed))
        .route(add, post(added))
        .route(remove, post(removed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::File;
    use crate::control::render::nat::tests::forward as example;

    fn plan() -> Plan {
        let text = "[network.n]\nmode = \"nat\"\nsubnet = \"192.168.88.0/24\"\n[network.lab]\nmode = \"isolated\"\n[vm.web1]\nnetwork = \"n\"\n[vm.db]\nnetwork = \"lab\"\n";
        let mut problems = Problems::default();
        let file = File::read(text, &mut problems);
        let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
        Plan::new(&file, runtime, state, &mut problems)
    }

    fn add(network: &str, listen: &str, to: &str) -> Add {
        Add {
            network: network.to_owned(),
            protocol: ProtocolWord::Tcp,
            listen: listen.to_owned(),
            to: vec![to.to_owned()],
            balance: BalanceWord::SourceHash,
            health: true,
        }
    }

    #[test]
    fn a_forward_that_is_added_means_what_it_would_in_the_file() {
        let planned = add("n", "127.0.0.1:0", "web1:22").plan(&plan()).unwrap();
        assert_eq!(planned.balance, Balance::SourceHash);
        assert_eq!(planned.health, Some(Health::default()));
        assert_eq!((planned.addresses.len(), planned.ports.first), (1, 0));
        assert_eq!(planned.targets[0].port, 22);
        assert_eq!(
            add("n", ":80", "web1:80")
                .plan(&plan())
                .unwrap()
                .addresses
                .len(),
            2
        );
    }

    #[test]
    fn one_that_cannot_be_is_refused_in_words() {
        for (add, told) in [
            (
                add("m", ":80", "web1:80"),
                "there is no such network; did you mean \"n\"?",
            ),
            (
                add("vmnet8", ":80", "web1:80"),
                "there is no such network; there is n",
            ),
            (
                add("lab", ":80", "db:80"),
                "it is isolated, and only a NAT network has port forwards",
            ),
            (
                add("n", "80:80", "web1:80"),
                "\"80:80\" is not where a forward can listen",
            ),
            (
                add("n", ":80", "web1"),
                "\"web1\" is not where a forward can lead to",
            ),
            (
                add("n", ":80", "web2:80"),
                "to: there is no VM \"web2\"; did you mean \"web1\"?",
            ),
            (
                add("n", ":80", "db:80"),
                "to: VM \"db\" is in network \"lab\", not in \"n\"",
            ),
            (
                add("n", ":80", "10.0.0.1:80"),
                "to: 10.0.0.1 is not in the subnet 192.168.88.0/24",
            ),
            (
                add("n", ":80-81", "web1:80"),
                "to: has 1 port where the forward listens on 2 ports; write 80-81",
            ),
            (
                Add {
                    to: vec![],
                    ..add("n", ":80", "")
                },
                "it leads nowhere",
            ),
            (
                Add {
                    protocol: ProtocolWord::Udp,
                    ..add("n", ":80", "web1:80")
                },
                "whether a guest is up",
            ),
        ] {
            let error = add.plan(&plan()).unwrap_err().to_string();
            let start = format!(
                "cannot add a forward on {:?} to network {:?}: {told}",
                add.listen, add.network
            );
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn what_is_removed_is_found_by_where_it_listens() {
        let row = |protocol, listen: &str, last: u16| ForwardRow {
            protocol,
            listen: listen.parse().unwrap(),
            last,
            targets: Vec::new(),
            balance: Balance::RoundRobin,
            error: None,
        };
        let view = View {
            forwards: vec![
                row(Protocol::Tcp, "0.0.0.0:80", 80),
                row(Protocol::Tcp, "[::]:80", 80),
                row(Protocol::Udp, "127.0.0.1:80", 89),
            ],
            ..View::default()
        };
        let find = |listen: &str, protocol| {
            let remove = Remove {
                network: "n".to_owned(),
                protocol,
                listen: listen.to_owned(),
            };
            let found = remove.find(&plan(), &view);
            found
                .map(|rows| rows.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(find(":80", ProtocolWord::Tcp), Ok(2));
        assert_eq!(find("[::]:80", ProtocolWord::Tcp), Ok(1));
        assert_eq!(find("127.0.0.1:80", ProtocolWord::Udp), Ok(1));
        assert_eq!(find("127.0.0.1:80-89", ProtocolWord::Udp), Ok(1));
        let text = "cannot remove the forward on \"127.0.0.1:80\" from network \"n\": there is no such forward of tcp; there is tcp 0.0.0.0:80, tcp [::]:80, udp 127.0.0.1:80-89";
        assert_eq!(
            find("127.0.0.1:80", ProtocolWord::Tcp),
            Err(text.to_owned())
        );
        assert!(find("127.0.0.1:80-88", ProtocolWord::Udp).is_err());
    }

    #[test]
    fn a_request_is_what_it_says_and_nothing_else() {
        let short: Add = parsed(
            ATTEMPT,
            br#"{"network":"n","listen":":80","to":["web1:80"]}"#,
        )
        .unwrap();
        assert_eq!(
            (short.protocol, short.balance, short.health),
            (ProtocolWord::Tcp, BalanceWord::RoundRobin, false)
        );
        let wrong = parsed::<Remove>(
            ATTEMPT,
            br#"{"network":"n","listen":":80","protocol":"icmp"}"#,
        );
        let text = wrong.unwrap_err().to_string();
        assert!(text.starts_with("cannot change the port forwards: the request is not understood: unknown variant `icmp`"), "{text}");
    }

    #[test]
    fn whoever_asks_is_told_how_long_it_lasts() {
        let row = Forward {
            listen: "127.0.0.1:40123".to_owned(),
            last_port: None,
            to: example().to[..1].to_vec(),
            ..example()
        };
        let args = AddArgs {
            network: "vmnet8".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            to: "web1:80".to_owned(),
            more: vec!["web2:80".to_owned()],
            udp: true,
            balance: BalanceWord::RoundRobin,
            health: false,
        };
        assert_eq!(args.request().to, ["web1:80", "web2:80"]);
        assert_eq!(args.request().protocol, ProtocolWord::Udp);
        assert_eq!(
            Ask::Add(args).render(std::slice::from_ref(&row)),
            "tcp 127.0.0.1:40123 leads to web1:80 (192.168.88.128) until the daemon ends\n\
             to keep it, write it into the file too: [[network.vmnet8.forward]]"
        );
        let args = RemoveArgs {
            network: "vmnet8".to_owned(),
            listen: "127.0.0.1:40123".to_owned(),
            udp: false,
        };
        assert_eq!(args.request().protocol, ProtocolWord::Tcp);
        assert_eq!(
            Ask::Remove(args).render(&[row]),
            "tcp 127.0.0.1:40123 leads nowhere until the daemon ends\n\
             to keep it so, take it out of the file too: [[network.vmnet8.forward]]"
        );
        assert_eq!(Ask::List.render(&[]), "there are no port forwards");
    }
}
