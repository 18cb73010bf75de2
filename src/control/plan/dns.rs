//! The DNS server of a network, planned: names of its own, and to whom all others are passed on.

use std::net::{IpAddr, SocketAddr};

use crate::control::config::dns;
use crate::control::config::network::{Mode, Network};
use crate::control::problem::{Problems, join};
use crate::control::value::endpoint::NameServer;
use crate::control::value::{Domain, is_label};

/// A DNS server, planned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Whom questions are passed on to.
    pub servers: Servers,
    /// The domain of the network's own names.
    pub domain: String,
    /// Further names, and their addresses.
    pub hosts: Vec<(String, Vec<IpAddr>)>,
}

/// Whom questions are passed on to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Servers {
    /// Nobody: there are names of the network's own, and no others.
    Nobody,
    /// Those that the host asks itself.
    Host,
    /// Those that were named.
    Named(Vec<SocketAddr>),
}

impl Dns {
    /// Plans the server of the network `name` at `path`; there is none unless it is asked for or the network is a NAT.
    pub(super) fn new(
        network: &Network,
        mode: Option<Mode>,
        name: &str,
        path: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let unsaid = dns::Server::default();
        let server = match &network.dns {
            dns::Dns::Off => return None,
            dns::Dns::Unsaid if mode == Some(Mode::Nat) => &unsaid,
            dns::Dns::Unsaid => return None,
            dns::Dns::On(server) => server,
        };
        let servers = match (&server.servers, mode) {
            (Some(_), Some(Mode::HostOnly | Mode::Isolated)) => {
                let key = join(&join(path, "dns"), "servers");
                let text = "guests of this network reach nobody outside, and their questions stay inside too; leave the key out";
                problems.error(key, text);
                Servers::Nobody
            }
            (None, Some(Mode::HostOnly | Mode::Isolated)) => Servers::Nobody,
            (Some(servers), _) => {
                Servers::Named(servers.iter().map(|NameServer(server)| *server).collect())
            }
            (None, _) => Servers::Host,
        };
        Some(Self {
            servers,
            domain: domain(network, name),
            hosts: server
                .hosts
                .iter()
                .map(|(Domain(name), addresses)| (name.clone(), addresses.clone()))
                .collect(),
        })
    }
}

/// Returns the domain of a network's own names: what is said by DNS or DHCP, else its name under `internal`.
pub(super) fn domain(network: &Network, name: &str) -> String {
    let dns = match &network.dns {
        dns::Dns::On(server) => server.domain.as_ref(),
        dns::Dns::Unsaid | dns::Dns::Off => None,
    };
    let said = dns.or_else(|| network.dhcp.server()?.domain.as_ref());
    said.map_or_else(|| own_domain(name), |Domain(domain)| domain.clone())
}

/// Returns the domain that is a network's by its name, of which underscores and the like cannot be part.
fn own_domain(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let labels = name.split('.').map(|label| label.trim_matches('-'));
    let labels: Vec<_> = labels.filter(|label| is_label(label)).collect();
    labels
        .into_iter()
        .chain(["internal"])
        .collect::<Vec<_>>()
        .join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_network_makes_a_domain() {
        for (name, domain) in [
            ("vmnet8", "vmnet8.internal"),
            ("Lab_2", "lab-2.internal"),
            ("a.b", "a.b.internal"),
            ("_", "internal"),
            ("-x-..", "x.internal"),
        ] {
            assert_eq!(own_domain(name), domain);
            assert!(domain.parse::<Domain>().is_ok());
        }
    }
}
