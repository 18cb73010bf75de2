//! A NAT as it was typed, and the ports that it forwards.

use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::word;
use crate::control::duration::Span;
use crate::control::problem::Problems;
use crate::control::section::{Section, parse};
use crate::control::value::Address;
use crate::control::value::endpoint::{Address6, Destination, Listen, Place4, Place6, Ports};
use crate::net::nat::forward::{Balance, Health};
use crate::net::nat::{Filtering, Protocol};

/// The most flows that can be asked for.
const FLOWS: u32 = 4_194_304;
/// The most targets of one forward.
const TARGETS: usize = 64;

/// A NAT as it was typed.
#[derive(Debug, Default)]
pub struct Nat {
    /// `host`, or the name of a network.
    pub outside: Option<String>,
    /// Its IPv4 address outside.
    pub address: Option<Address4>,
    /// Its router there.
    pub gateway: Option<Address>,
    /// Its IPv6 address outside.
    pub address6: Option<Addressing6>,
    /// Its IPv6 router there.
    pub gateway6: Option<Address6>,
    /// The port group of the outside network that it is in.
    pub port_group: Option<String>,
    /// The ports that it chooses from.
    pub ports: Option<Ports>,
    /// From whom mappings take packets.
    pub filtering: Option<Filtering>,
    /// When what is idle is forgotten.
    pub timeouts: Timeouts,
    /// How many flows there may be.
    pub max_flows: Option<u32>,
    /// How many flows there may be of one guest.
    pub max_flows_per_guest: Option<u32>,
    /// Whether the gateway's address reaches the host's loopback.
    pub map_host_loopback: Option<bool>,
    /// Whether active FTP works.
    pub ftp: Option<bool>,
    /// Where flows are logged.
    pub log: Log,
    /// Which keys were written that are about an outside that is a network.
    pub network_keys: Vec<&'static str>,
}

/// When what is idle is forgotten, as far as it was said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// UDP.
    pub udp: Option<Span>,
    /// UDP to port 53.
    pub dns: Option<Span>,
    /// TCP that is established.
    pub tcp: Option<Span>,
    /// TCP that is being opened or closed.
    pub tcp_transitory: Option<Span>,
    /// ICMP echo.
    pub icmp: Option<Span>,
}

/// How a NAT comes by its IPv4 address outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Address4 {
    /// It has none.
    Off,
    /// From a DHCP server.
    Dhcp,
    /// It was typed.
    Static(Place4),
}

/// How a NAT comes by its IPv6 address outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Addressing6 {
    /// It has none.
    Off,
    /// By router advertisements.
    Auto,
    /// It was typed.
    Static(Place6),
}

/// Where flows are logged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Log {
    /// Nowhere.
    #[default]
    Off,
    /// In the journal of systemd.
    Journal,
    /// In a file.
    File(PathBuf),
}

/// A port forward as it was typed.
#[derive(Debug)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it listens.
    pub listen: Option<Listen>,
    /// Where it leads to, each with its place in the list.
    pub to: Vec<(usize, Destination)>,
    /// How one of several is chosen.
    pub balance: Option<Balance>,
    /// How they are looked after.
    pub health: Option<Health>,
}

/// A duration that can be set: its key, what it may be, and the least that an RFC asks for.
struct Timeout {
    key: &'static str,
    least: Duration,
    most: Duration,
    rfc: Option<(Duration, &'static str)>,
}

const DAY: u64 = 86_400;

impl Timeout {
    const fn new(key: &'static str, least: u64, most: u64) -> Self {
        Self {
            key,
            least: Duration::from_secs(least),
            most: Duration::from_secs(most),
            rfc: None,
        }
    }

    const fn rfc(self, least: u64, rfc: &'static str) -> Self {
        Self {
            rfc: Some((Duration::from_secs(least), rfc)),
            ..self
        }
    }

    fn read(&self, section: &mut Section, problems: &mut Problems) -> Option<Span> {
        let span: Span = section.parsed(self.key, problems)?;
        let path = section.path(self.key);
        if !(self.least..=self.most).contains(&span.0) {
            let text = format!(
                "{span} is not between {} and {}",
                Span(self.least),
                Span(self.most)
            );
            problems.error(path, text);
            return None;
        }
        if let Some((least, rfc)) = self.rfc.filter(|(least, _)| span.0 < *least) {
            let text = format!(
                "{span} is less than the {} of {rfc}: what is only quiet may be cut off",
                Span(least)
            );
            problems.warn(path, text);
        }
        Some(span)
    }
}

const UDP: Timeout = Timeout::new("udp_timeout", 10, DAY).rfc(120, "RFC 4787");
const DNS: Timeout = Timeout::new("dns_timeout", 1, DAY);
const TCP: Timeout = Timeout::new("tcp_timeout", 60, 30 * DAY).rfc(7_440, "RFC 5382");
const TRANSITORY: Timeout = Timeout::new("tcp_transitory_timeout", 10, DAY).rfc(240, "RFC 5382");
const ICMP: Timeout = Timeout::new("icmp_timeout", 5, DAY).rfc(60, "RFC 5508");

impl Nat {
    /// Reads the table of a NAT.
    pub(super) fn read(mut section: Section, problems: &mut Problems) -> Self {
        let filterings = [
            Filtering::AddressAndPort,
            Filtering::Address,
            Filtering::EndpointIndependent,
        ]
        .map(|filtering| (filtering.name(), filtering));
        let network_keys = [
            "address",
            "gateway",
            "address6",
            "gateway6",
            "port_group",
            "ports",
        ];
        let network_keys = network_keys.into_iter().filter(|key| section.has(key));
        let network_keys = network_keys.collect();
        let nat = Self {
            outside: section.text("outside", problems),
            address: address(&mut section, problems),
            gateway: section.parsed("gateway", problems),
            address6: address6(&mut section, problems),
            gateway6: section.parsed("gateway6", problems),
            port_group: section.text("port_group", problems),
            ports: ports(&mut section, problems),
            filtering: word(&mut section, "filtering", &filterings, &[], &[], problems),
            timeouts: Timeouts {
                udp: UDP.read(&mut section, problems),
                dns: DNS.read(&mut section, problems),
                tcp: TCP.read(&mut section, problems),
                tcp_transitory: TRANSITORY.read(&mut section, problems),
                icmp: ICMP.read(&mut section, problems),
            },
            max_flows: section.number("max_flows", 1..=FLOWS, problems),
            max_flows_per_guest: section.number("max_flows_per_guest", 1..=FLOWS, problems),
            map_host_loopback: section.flag("map_host_loopback", problems),
            ftp: section.flag("ftp", problems),
            log: log(&mut section, problems),
            network_keys,
        };
        section.finish(problems);
        nat
    }
}

impl Forward {
    /// Reads one port forward.
    pub(super) fn read(mut section: Section, problems: &mut Problems) -> Self {
        for key in ["listen", "to"] {
            if !section.has(key) {
                let text =
                    "is missing; a forward has listen = \"127.0.0.1:2222\" and to = \"web1:22\"";
                problems.error(section.path(key), text);
            }
        }
        let protocols = [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol.name(), protocol));
        let balances = [
            Balance::RoundRobin,
            Balance::SourceHash,
            Balance::LeastConnections,
        ]
        .map(|balance| (balance.name(), balance));
        let protocol = word(&mut section, "protocol", &protocols, &[], &[], problems);
        let listen = listen(&mut section, problems);
        let to_path = section.path("to");
        let written = section.has("to");
        let to = section.placed("to", problems).unwrap_or_default();
        if written && to.is_empty() && !problems.has(&format!("{to_path}[0]")) {
            problems.error(
                &to_path,
                "is empty: name a VM and a port, as in \"web1:22\"",
            );
        }
        if to.len() > TARGETS {
            let text = format!(
                "has {} targets, and a forward has at most {TARGETS}",
                to.len()
            );
            problems.error(&to_path, text);
        }
        let forward = Self {
            protocol: protocol.unwrap_or(Protocol::Tcp),
            listen,
            to,
            balance: word(&mut section, "balance", &balances, &[], &[], problems),
            health: health(&mut section, problems),
        };
        if forward.health.is_some() && forward.protocol == Protocol::Udp {
            let text = "is found out by connections of TCP; leave it out of a forward of UDP";
            problems.error(section.path("health"), text);
        }
        section.finish(problems);
        forward
    }
}

/// Takes where a forward listens: a port alone may be a number too.
fn listen(section: &mut Section, problems: &mut Problems) -> Option<Listen> {
    let path = section.path("listen");
    match section.value("listen") {
        None => None,
        Some(Value::String(text)) => parse(&text, &path, problems),
        Some(Value::Integer(port)) => parse(&port.to_string(), &path, problems),
        Some(_) => {
            problems.error(path, "must be a string, as in \"127.0.0.1:2222\"");
            None
        }
    }
}

fn health(section: &mut Section, problems: &mut Problems) -> Option<Health> {
    let path = section.path("health");
    let table = match section.value("health") {
        None | Some(Value::Boolean(false)) => return None,
        Some(Value::Boolean(true)) => return Some(Health::default()),
        Some(Value::Table(table)) => table,
        Some(_) => {
            problems.error(
                path,
                "must be true, false or a table such as { interval = \"5s\", timeout = \"2s\", fall = 3, rise = 2 }",
            );
            return None;
        }
    };
    let mut section = Section::new(path, table);
    let usual = Health::default();
    let mut span = |key, most| {
        let timeout = Timeout::new(key, 1, most);
        timeout.read(&mut section, problems).map(|Span(span)| span)
    };
    let interval = span("interval", 3_600).unwrap_or(usual.interval);
    let timeout = span("timeout", 60);
    if let Some(timeout) = timeout.filter(|timeout| *timeout > interval) {
        let text = format!(
            "{} is more than the interval, {}",
            Span(timeout),
            Span(interval)
        );
        problems.error(section.path("timeout"), text);
    }
    let health = Health {
        interval,
        timeout: timeout.unwrap_or_else(|| usual.timeout.min(interval)),
        fall: section
            .number("fall", 1..=100, problems)
            .unwrap_or(usual.fall),
        rise: section
            .number("rise", 1..=100, problems)
            .unwrap_or(usual.rise),
    };
    section.finish(problems);
    Some(health)
}

/// Takes how the NAT comes by its IPv4 address.
fn address(section: &mut Section, problems: &mut Problems) -> Option<Address4> {
    let path = section.path("address");
    match section.value("address") {
        None => None,
        Some(Value::Boolean(false)) => Some(Address4::Off),
        Some(Value::String(text)) if text == "dhcp" => Some(Address4::Dhcp),
        Some(Value::String(text)) => parse(&text, &path, problems).map(Address4::Static),
        Some(_) => {
            let text = "must be \"dhcp\", an address such as \"203.0.113.5/24\", or false";
            problems.error(path, text);
            None
        }
    }
}

/// Takes how the NAT comes by its IPv6 address.
fn address6(section: &mut Section, problems: &mut Problems) -> Option<Addressing6> {
    let path = section.path("address6");
    match section.value("address6") {
        None => None,
        Some(Value::Boolean(false)) => Some(Addressing6::Off),
        Some(Value::String(text)) if text == "auto" => Some(Addressing6::Auto),
        Some(Value::String(text)) => parse(&text, &path, problems).map(Addressing6::Static),
        Some(_) => {
            let text = "must be \"auto\", an address such as \"2001:db8::5/64\", or false";
            problems.error(path, text);
            None
        }
    }
}

fn ports(section: &mut Section, problems: &mut Problems) -> Option<Ports> {
    let ports: Ports = section.parsed("ports", problems)?;
    if ports.first == 0 || ports.span() < 255 {
        let text = format!("{ports} are too few: give it 256 or more, as in \"1024-65535\"");
        problems.error(section.path("ports"), text);
        return None;
    }
    Some(ports)
}

fn log(section: &mut Section, problems: &mut Problems) -> Log {
    let path = section.path("log");
    match section.value("log") {
        None | Some(Value::Boolean(false)) => Log::Off,
        Some(Value::String(text)) if text == "journal" => Log::Journal,
        Some(Value::String(text)) if text.starts_with('/') => Log::File(text.into()),
        Some(_) => {
            let text = "must be an absolute path such as \"/var/log/vmlan-nat.log\", \"journal\", or false";
            problems.error(path, text);
            Log::Off
        }
    }
}

#[cfg(test)]
mod tests;
