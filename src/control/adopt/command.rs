//! `vmlan adopt`: what is asked of the daemon, and what is printed of its answer.

use clap::Args;
use serde::Serialize;

use super::endpoints::{Adopted, ENDPOINTS, Undo};
use super::request::Request;
use crate::control::duration::Span;

/// What `vmlan adopt` is told.
#[derive(Args, Debug)]
pub struct AdoptArgs {
    /// The adapter: an uplink of the network. Without it, what is adopted is shown
    #[arg(value_name = "IFACE", requires = "network")]
    interface: Option<String>,
    /// The network whose host adapter gets the addresses
    #[arg(long, value_name = "NET", requires = "interface")]
    network: Option<String>,
    /// The port group whose host adapter gets them
    #[arg(long, value_name = "PG", requires = "interface")]
    port_group: Option<String>,
    /// How long to wait for --confirm before everything is undone, from 5s to 1h
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        requires = "interface"
    )]
    timeout: Span,
    /// Let the pending adoption stay, also when the daemon is started again
    #[arg(long, conflicts_with_all = ["interface", "network", "port_group", "timeout", "undo"])]
    confirm: bool,
    /// Give an adapter its addresses back; needs a name where several are adopted
    #[arg(
        long,
        value_name = "IFACE",
        num_args = 0..=1,
        conflicts_with_all = ["interface", "network", "port_group", "timeout"]
    )]
    undo: Option<Option<String>>,
}

/// What is asked of the daemon.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Ask {
    /// What is adopted?
    Show,
    /// Adopt this.
    Adopt(Request),
    /// Confirm what is pending.
    Confirm,
    /// Undo this.
    Undo(Undo),
}

impl Ask {
    /// Where it is asked.
    pub const fn endpoint(&self) -> &'static str {
        let [adopt, confirm, undo] = ENDPOINTS;
        match self {
            Self::Show | Self::Adopt(_) => adopt,
            Self::Confirm => confirm,
            Self::Undo(_) => undo,
        }
    }

    /// Says what was done about an adapter.
    pub fn render(&self, adopted: &Adopted) -> String {
        let Adopted {
            interface,
            host_adapter,
            ..
        } = adopted;
        let addresses = adopted.addresses.join(", ");
        match self {
            Self::Adopt(_) => format!(
                "{host_adapter} has the addresses of {interface} until {}: {addresses}\n\
                 if you can read this, keep them there with `vmlan adopt --confirm`",
                adopted.until.as_deref().unwrap_or("-")
            ),
            Self::Confirm => {
                format!("{host_adapter} keeps the addresses of {interface}: {addresses}")
            }
            Self::Undo(_) => format!("{interface} has its addresses back: {addresses}"),
            Self::Show => match &adopted.until {
                Some(until) => format!(
                    "{interface} to {host_adapter}: {}, to be confirmed until {until}: {addresses}",
                    adopted.state
                ),
                None => format!(
                    "{interface} to {host_adapter}: {}: {addresses}",
                    adopted.state
                ),
            },
        }
    }
}

impl AdoptArgs {
    /// Returns what they ask for.
    pub fn ask(&self) -> Ask {
        match (&self.interface, &self.network, &self.undo) {
            (_, _, Some(interface)) => Ask::Undo(Undo {
                interface: interface.clone(),
            }),
            (Some(interface), Some(network), None) => Ask::Adopt(Request {
                interface: interface.clone(),
                network: network.clone(),
                port_group: self.port_group.clone(),
                timeout_s: Some(self.timeout.0.as_secs()),
            }),
            (_, _, None) if self.confirm => Ask::Confirm,
            (_, _, None) => Ask::Show,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        adopt: AdoptArgs,
    }

    fn ask(line: &str) -> Option<Ask> {
        let words = std::iter::once("adopt").chain(line.split_whitespace());
        Some(Cli::try_parse_from(words).ok()?.adopt.ask())
    }

    #[test]
    fn each_line_asks_for_one_thing() {
        let request = |port_group: Option<&str>, timeout_s| {
            Some(Ask::Adopt(Request {
                interface: "eth1".to_owned(),
                network: "lan".to_owned(),
                port_group: port_group.map(str::to_owned),
                timeout_s: Some(timeout_s),
            }))
        };
        let undo = |interface: Option<&str>| {
            Some(Ask::Undo(Undo {
                interface: interface.map(str::to_owned),
            }))
        };
        assert_eq!(ask(""), Some(Ask::Show));
        assert_eq!(ask("eth1 --network lan"), request(None, 60));
        let whole = "eth1 --network lan --port-group prod --timeout 5m";
        assert_eq!(ask(whole), request(Some("prod"), 300));
        assert_eq!(ask("--confirm"), Some(Ask::Confirm));
        assert_eq!(ask("--undo"), undo(None));
        assert_eq!(ask("--undo eth1"), undo(Some("eth1")));
    }

    #[test]
    fn what_contradicts_itself_or_says_half_is_refused() {
        for line in [
            "eth1",
            "--network lan",
            "--port-group prod",
            "--timeout 5m",
            "eth1 --network lan --timeout soon",
            "eth1 --network lan --confirm",
            "eth1 --network lan --undo",
            "--confirm --undo",
            "--confirm --network lan",
        ] {
            assert_eq!(ask(line), None, "{line}");
        }
    }
}
