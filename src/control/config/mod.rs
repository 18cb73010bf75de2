//! What was typed: the configuration file, value by value.
//!
//! Every value that stands for itself is checked here (a MTU is a number from 1280 to 9000, an address is an address),
//! unknown keys are refused, and so are those that this version does not have yet. Whether the values fit
//! together is the plan's business. A value that was refused is absent, and its path is among the problems.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use self::network::Network;
use self::security::Security;
use crate::control::problem::{Problems, did_you_mean, join};
use crate::control::section::{Section, not_available, parse};
use crate::control::value::{Adapter, Name, Speed};
use crate::ports::guest::Role;
use crate::ports::packet::Driver;
use crate::wire::ethernet::MacAddr;

pub mod dhcp;
pub mod dns;
pub mod ipv6;
pub mod nat;
pub mod network;
pub mod port_group;
pub mod security;
pub mod team;
mod vlan;

/// What vmlan is without a file.
pub const EMBEDDED: &str = include_str!("../default.toml");

/// A configuration file.
#[derive(Debug, Default)]
pub struct File {
    /// Where the sockets are.
    pub runtime_dir: Option<PathBuf>,
    /// Where what must survive a restart is.
    pub state_dir: Option<PathBuf>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Adapters that are described, by name.
    pub uplinks: BTreeMap<String, Uplink>,
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
    /// The VMs by name.
    pub vms: BTreeMap<String, Vm>,
}

/// An uplink as it was described.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Uplink {
    /// Whether it may be absent when the daemon starts.
    pub optional: bool,
    /// Its speed in bits a second, for an adapter that does not tell.
    pub speed: Option<u64>,
    /// By what means its frames come and go.
    pub driver: Driver,
}

/// A VM as it was typed.
#[derive(Debug, Default)]
pub struct Vm {
    /// Its network.
    pub network: Option<String>,
    /// Its port group.
    pub port_group: Option<String>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its socket.
    pub socket: Option<PathBuf>,
    /// Which side listens on it.
    pub role: Role,
    /// What its port may do with addresses, where that is not as in its port group.
    pub security: Security,
}

impl File {
    /// Reads a file, and notes all that is wrong with it.
    pub fn read(text: &str, problems: &mut Problems) -> Self {
        let Some(mut root) = crate::control::syntax::read(text, problems) else {
            return Self::default();
        };
        let mut file = Self::default();
        if let Some(mut daemon) = root.section("daemon", problems) {
            file.runtime_dir = path(&mut daemon, "runtime_dir", problems);
            file.state_dir = path(&mut daemon, "state_dir", problems);
            file.metrics = endpoint(&mut daemon, "metrics", problems);
            single(
                &mut daemon,
                "workers",
                "one worker carries every network",
                problems,
            );
            daemon.finish(problems);
        }
        for (name, section) in root.named("uplink", problems) {
            let uplink = Uplink::read(section, problems);
            file.uplinks
                .extend(checked(name, "uplink", problems, |Adapter(name)| {
                    (name, uplink)
                }));
        }
        for (name, section) in root.named("network", problems) {
            let network = Network::read(section, problems);
            file.networks
                .extend(checked(name, "network", problems, |Name(name)| {
                    (name, network)
                }));
        }
        for (name, section) in root.named("vm", problems) {
            let vm = Vm::read(section, problems);
            file.vms
                .extend(checked(name, "vm", problems, |Name(name)| (name, vm)));
        }
        root.finish(problems);
        file
    }

    /// Adds a guest that was named on the command line as `NAME` or `NAME=NETWORK`.
    pub fn add_guest(&mut self, guest: &str, problems: &mut Problems) {
        let path = format!("--vm {guest}");
        let (name, network) = guest
            .split_once('=')
            .map_or((guest, None), |(name, network)| (name, Some(network)));
        let Some(Name(name)) = parse(name, &path, problems) else {
            return;
        };
        if self.vms.contains_key(&name) {
            problems.error(path, format!("there is a VM {name:?} already"));
            return;
        }
        let only = if self.networks.len() == 1 {
            self.networks.keys().next()
        } else {
            None
        };
        let usual = self
            .networks
            .keys()
            .find(|network| *network == "vmnet8")
            .or_else(|| self.networks.keys().find(|network| *network == "vmnet1"))
            .or(only);
        let Some(network) = network.map(str::to_owned).or_else(|| usual.cloned()) else {
            problems.error(
                path,
                format!("say which network it is in, as in --vm {name}=NETWORK"),
            );
            return;
        };
        if !self.networks.contains_key(&network) {
            let hint = did_you_mean(&network, self.networks.keys().map(String::as_str));
            problems.error(path, format!("there is no network {network:?}{hint}"));
            return;
        }
        self.vms.insert(
            name,
            Vm {
                network: Some(network),
                ..Vm::default()
            },
        );
    }
}

impl Uplink {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let uplink = Self {
            driver: word(
                &mut section,
                "driver",
                &[
                    ("auto", Driver::Auto),
                    ("af_packet", Driver::AfPacket),
                    ("af_xdp", Driver::AfXdp),
                ],
                &[],
                &[],
                problems,
            )
            .unwrap_or_default(),
            optional: section.flag("optional", problems).unwrap_or_default(),
            speed: section.parsed("speed", problems).map(|Speed(speed)| speed),
        };
        section.finish(problems);
        uplink
    }
}

impl Vm {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let vm = Self {
            network: section.text("network", problems),
            port_group: section.text("port_group", problems),
            mac: section.parsed::<MacAddr>("mac", problems),
            socket: path(&mut section, "socket", problems),
            role: word(
                &mut section,
                "role",
                &[("server", Role::Server), ("client", Role::Client)],
                &[],
                &[],
                problems,
            )
            .unwrap_or_default(),
            security: Security::read(&mut section, problems),
        };
        single(
            &mut section,
            "queues",
            "each guest has one pair of queues",
            problems,
        );
        section.finish(problems);
        vm
    }
}

/// Takes a word out of a list of those that mean something. `others` are read and not offered, `later` mean something in
/// a later version.
pub(super) fn word<T: Copy>(
    section: &mut Section,
    key: &'static str,
    words: &[(&str, T)],
    others: &[(&str, T)],
    later: &[(&str, &str)],
    problems: &mut Problems,
) -> Option<T> {
    let text = section.text(key, problems)?;
    if let Some((_, meaning)) = words.iter().chain(others).find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    let explanation = match later.iter().find(|(word, _)| *word == text) {
        Some((_, instead)) => not_available(instead),
        None => {
            let all = words
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect::<Vec<_>>()
                .join(", ");
            format!(
                "is not one of {all}{}",
                did_you_mean(&text, words.iter().chain(others).map(|(word, _)| *word))
            )
        }
    };
    problems.error(section.path(key), format!("{text:?} {explanation}"));
    None
}

/// Takes an address and a port to listen on.
fn endpoint(
    section: &mut Section,
    key: &'static str,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let text = section.text(key, problems)?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => return Some(address),
        Ok(_) | Err(_) => {}
    }
    problems.error(
        section.path(key),
        format!("{text:?} is not an address with a port: write it as in \"127.0.0.1:9797\" or \"[::1]:9797\""),
    );
    None
}

/// Takes an absolute path.
fn path(section: &mut Section, key: &'static str, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(section.text(key, problems)?);
    if path.is_absolute() {
        return Some(path);
    }
    problems.error(
        section.path(key),
        format!("{path:?} is not an absolute path: begin it with /"),
    );
    None
}

/// Takes a count that can only be one in this version.
fn single(section: &mut Section, key: &'static str, instead: &str, problems: &mut Problems) {
    if section
        .number(key, 1_u16..=1024, problems)
        .is_some_and(|count| count > 1)
    {
        problems.error(
            section.path(key),
            format!(
                "more than one {}",
                not_available(&format!("{instead}; write 1 or leave the key out"))
            ),
        );
    }
}

/// Checks the name of a table, and gives what belongs to it if it is one.
pub(super) fn checked<N: std::str::FromStr<Err: std::fmt::Display>, T>(
    name: String,
    parent: &str,
    problems: &mut Problems,
    make: impl FnOnce(N) -> T,
) -> Option<T> {
    parse(&name, &join(parent, &name), problems).map(make)
}

#[cfg(test)]
mod tests;
