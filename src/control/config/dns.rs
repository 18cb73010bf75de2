//! A network's DNS server as it was typed.

use std::net::IpAddr;

use toml::Value;

use crate::control::problem::{Problems, join};
use crate::control::section::{Section, parse};
use crate::control::value::Domain;
use crate::control::value::endpoint::{AnyAddress, NameServer};

/// The most name servers that questions are passed on to.
const SERVERS: usize = 16;
/// The most names of hosts.
const HOSTS: usize = 4096;
/// The most addresses of one host.
const ADDRESSES: usize = 16;

/// What was said about DNS.
#[derive(Debug, Default)]
pub enum Dns {
    /// Nothing.
    #[default]
    Unsaid,
    /// `dns = false`.
    Off,
    /// A table.
    On(Server),
}

/// A DNS server as it was typed.
#[derive(Debug, Default)]
pub struct Server {
    /// Whom questions are passed on to, where it was said.
    pub servers: Option<Vec<NameServer>>,
    /// The domain of the network's own names.
    pub domain: Option<Domain>,
    /// Further names, and their addresses.
    pub hosts: Vec<(Domain, Vec<IpAddr>)>,
}

/// Takes what was said about DNS.
pub(super) fn read(section: &mut Section, problems: &mut Problems) -> Dns {
    let path = section.path("dns");
    match section.value("dns") {
        None => Dns::Unsaid,
        Some(Value::Boolean(false)) => Dns::Off,
        Some(Value::Boolean(true)) => Dns::On(Server::default()),
        Some(Value::Table(table)) => Dns::On(Server::read(Section::new(path, table), problems)),
        Some(_) => {
            problems.error(path, "must be true, false or a table");
            Dns::Unsaid
        }
    }
}

impl Server {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let servers: Option<Vec<_>> = section.list("servers", problems);
        let path = section.path("servers");
        if let Some(servers) = &servers {
            if servers.is_empty() && !problems.has(&format!("{path}[0]")) {
                let text = "is empty: name a server, or leave the key out to use those of the host";
                problems.error(&path, text);
            } else if servers.len() > SERVERS {
                problems.error(
                    &path,
                    format!("has more than {SERVERS} servers; keep the best"),
                );
            }
        }
        let server = Self {
            servers,
            domain: section.parsed("domain", problems),
            hosts: hosts(&mut section, problems),
        };
        section.finish(problems);
        server
    }
}

fn hosts(section: &mut Section, problems: &mut Problems) -> Vec<(Domain, Vec<IpAddr>)> {
    let path = section.path("hosts");
    let table = match section.value("hosts") {
        None => return Vec::new(),
        Some(Value::Table(table)) => table,
        Some(_) => {
            let text = "must be a table of names and addresses, as in { nas = \"192.168.88.5\" }";
            problems.error(path, text);
            return Vec::new();
        }
    };
    if table.len() > HOSTS {
        problems.error(&path, format!("has more than {HOSTS} names"));
    }
    let mut hosts = Vec::new();
    for (name, value) in table {
        let path = join(&path, &name);
        let values = match value.as_array() {
            Some(values) => values.clone(),
            None => vec![value],
        };
        let addresses: Vec<IpAddr> = values
            .iter()
            .filter_map(|value| match value.as_str() {
                Some(text) => parse(text, &path, problems).map(|AnyAddress(ip)| ip),
                None => {
                    problems.error(&path, "must be an address, or a list of addresses");
                    None
                }
            })
            .collect();
        if values.is_empty() || values.len() > ADDRESSES {
            problems.error(&path, format!("must have 1 to {ADDRESSES} addresses"));
        }
        let name: Option<Domain> = parse(&name, &path, problems);
        hosts.extend(name.map(|name| (name, addresses)));
    }
    hosts
}
