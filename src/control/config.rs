//! What was typed: the configuration file, value by value.
//!
//! Every value that stands for itself is checked here (a MTU is a number from 1280 to 9000, an address is an address),
//! unknown keys are refused, and so are those that this version does not have yet. Whether the values fit
//! together is the plan's business. A value that was refused is absent, and its path is among the problems.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Value;

use crate::control::duration::Span;
use crate::control::problem::{Problems, did_you_mean, join};
use crate::control::section::{Section, not_available, parse};
use crate::control::value::{Adapter, Address, Domain, Hex, Name, Range, Subnet, Text};
use crate::net::dhcp::Identity;
use crate::net::vlan::{PortVlan, VlanId};
use crate::ports::guest::Role;
use crate::wire::ethernet::MacAddr;

/// What vmlan is without a file.
pub const EMBEDDED: &str = include_str!("default.toml");

/// A configuration file.
#[derive(Debug, Default)]
pub struct File {
    /// Where the sockets are.
    pub runtime_dir: Option<PathBuf>,
    /// Where what must survive a restart is.
    pub state_dir: Option<PathBuf>,
    /// Adapters that are described, by name.
    pub uplinks: Vec<String>,
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
    /// The VMs by name.
    pub vms: BTreeMap<String, Vm>,
}

/// What a network is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Guests and, through a host adapter, the host.
    HostOnly,
    /// Guests among themselves.
    Isolated,
    /// Guests on the LAN behind an uplink.
    Bridged,
}

impl Mode {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostOnly => "host-only",
            Self::Isolated => "isolated",
            Self::Bridged => "bridged",
        }
    }
}

/// A network as it was typed.
#[derive(Debug, Default)]
pub struct Network {
    /// Its mode.
    pub mode: Option<Mode>,
    /// Its largest packet.
    pub mtu: Option<u16>,
    /// Its subnet.
    pub subnet: Option<Subnet>,
    /// The name of its host adapter.
    pub host_adapter: Option<Adapter>,
    /// Its active uplinks; absent where there is no team.
    pub active: Option<Vec<Adapter>>,
    /// Its port groups by name.
    pub port_groups: BTreeMap<String, PortVlan>,
    /// Its DHCP server.
    pub dhcp: Dhcp,
}

/// What was said about DHCP.
#[derive(Debug, Default)]
pub enum Dhcp {
    /// Nothing.
    #[default]
    Unsaid,
    /// `dhcp = false`.
    Off,
    /// A table.
    On(Box<Server>),
}

/// A DHCP server as it was typed.
#[derive(Debug, Default)]
pub struct Server {
    /// The addresses for clients without a reservation.
    pub pool: Option<Range>,
    /// How long a lease lasts.
    pub lease: Option<Span>,
    /// The longest lease that a client can ask for.
    pub max_lease: Option<Span>,
    /// When clients renew.
    pub renew: Option<Span>,
    /// When clients rebind.
    pub rebind: Option<Span>,
    /// The routers.
    pub router: Vec<Address>,
    /// The name servers.
    pub dns: Vec<Address>,
    /// The time servers.
    pub ntp: Vec<Address>,
    /// The domain name.
    pub domain: Option<Domain>,
    /// The domain search list.
    pub search: Vec<Domain>,
    /// The MTU that is handed out.
    pub mtu: Option<u16>,
    /// Static routes: where to, by whom.
    pub routes: Vec<(Subnet, Address)>,
    /// Vendor-specific information.
    pub vendor: Option<Hex>,
    /// The server to boot from.
    pub next_server: Option<Address>,
    /// The name of the TFTP server.
    pub tftp_server: Option<Text>,
    /// The file to boot.
    pub boot_file: Option<Text>,
    /// By what clients are told apart.
    pub identity: Option<Identity>,
    /// Further options by code.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Reservation>,
}

/// A reservation as it was typed.
#[derive(Debug, Default)]
pub struct Reservation {
    /// The VM it is for.
    pub vm: Option<String>,
    /// The hardware address it is for.
    pub mac: Option<MacAddr>,
    /// The address.
    pub ip: Option<Address>,
    /// The client's name.
    pub hostname: Option<Domain>,
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
            daemon.unavailable(
                "metrics",
                "use `vmlan status --json`, or leave the key out",
                problems,
            );
            single(
                &mut daemon,
                "workers",
                "one worker carries every network",
                problems,
            );
            daemon.finish(problems);
        }
        for (name, section) in root.named("uplink", problems) {
            uplink(section, problems);
            file.uplinks
                .extend(checked(name, "uplink", problems, |Adapter(name)| name));
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
            .find(|network| *network == "vmnet1")
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

impl Network {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let mode = mode(&mut section, problems);
        let mut network = Self {
            mode,
            mtu: section.number("mtu", 1280..=9000, problems),
            subnet: section.parsed("subnet", problems),
            host_adapter: section.parsed("host_adapter", problems),
            ..Self::default()
        };
        if let Some(mut team) = section.section("team", problems) {
            network.active = Some(team.list("active", problems).unwrap_or_default());
            team.unavailable(
                "standby",
                "name one uplink in `active`; a kernel bond such as \"bond0\" can be it",
                problems,
            );
            for key in [
                "load_balancing",
                "failure_detection",
                "notify_switches",
                "failback",
                "explicit",
            ] {
                team.unavailable(
                    key,
                    "a team has one uplink and needs no policy; leave the key out",
                    problems,
                );
            }
            team.finish(problems);
        }
        let groups = section.path("port_group");
        for (name, section) in section.named("port_group", problems) {
            let vlan = port_group(section, problems);
            network
                .port_groups
                .extend(checked(name, &groups, problems, |Name(name)| (name, vlan)));
        }
        network.dhcp = dhcp(&mut section, problems);
        section.unavailable(
            "nat",
            "guests reach the outside through a bridged network",
            problems,
        );
        section.unavailable(
            "forward",
            "guests of a bridged network are reached directly",
            problems,
        );
        section.finish(problems);
        network
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
                problems,
            )
            .unwrap_or_default(),
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

impl Server {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let identities = [("mac", Identity::Mac), ("client-id", Identity::ClientId)];
        let server = Self {
            pool: section.parsed("pool", problems),
            lease: section.parsed("lease", problems),
            max_lease: section.parsed("max_lease", problems),
            renew: section.parsed("renew", problems),
            rebind: section.parsed("rebind", problems),
            router: section.list("router", problems).unwrap_or_default(),
            dns: section.list("dns", problems).unwrap_or_default(),
            ntp: section.list("ntp", problems).unwrap_or_default(),
            domain: section.parsed("domain", problems),
            search: section.list("search", problems).unwrap_or_default(),
            mtu: section.number("mtu", 576..=9000, problems),
            routes: routes(&mut section, problems),
            vendor: section.parsed("vendor", problems),
            next_server: section.parsed("next_server", problems),
            tftp_server: section.parsed("tftp_server", problems),
            boot_file: section.parsed("boot_file", problems),
            identity: word(&mut section, "identity", &identities, &[], problems),
            options: crate::control::options::read(&mut section, problems),
            reservations: section
                .array("reservation", problems)
                .into_iter()
                .map(|entry| Reservation::read(entry, problems))
                .collect(),
        };
        section.finish(problems);
        server
    }
}

impl Reservation {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let reservation = Self {
            vm: section.text("vm", problems),
            mac: section.parsed("mac", problems),
            ip: section.parsed("ip", problems),
            hostname: section.parsed("hostname", problems),
        };
        section.finish(problems);
        reservation
    }
}

fn mode(section: &mut Section, problems: &mut Problems) -> Option<Mode> {
    let modes = [Mode::HostOnly, Mode::Isolated, Mode::Bridged].map(|mode| (mode.name(), mode));
    word(
        section,
        "mode",
        &modes,
        &[(
            "nat",
            "use \"bridged\" to reach the outside, or \"host-only\"",
        )],
        problems,
    )
}

fn uplink(mut section: Section, problems: &mut Problems) {
    // Both mean AF_PACKET, which is all there is.
    word(
        &mut section,
        "driver",
        &[("auto", ()), ("af_packet", ())],
        &[("af_xdp", "use \"auto\" or \"af_packet\"")],
        problems,
    );
    section.finish(problems);
}

fn port_group(mut section: Section, problems: &mut Problems) -> PortVlan {
    let path = section.path("vlan");
    let range = "write 0 for none, a number from 1 to 4094, or \"all\"";
    let vlan = match section.value("vlan") {
        None | Some(Value::Integer(0)) => PortVlan::Untagged,
        Some(Value::Integer(4095)) => PortVlan::All,
        Some(Value::Integer(number)) => match u16::try_from(number).ok().and_then(VlanId::new) {
            Some(vlan) => PortVlan::Access(vlan),
            None => {
                problems.error(path, format!("{number} is not a VLAN; {range}"));
                PortVlan::Untagged
            }
        },
        Some(Value::String(word)) if word == "all" => PortVlan::All,
        Some(Value::Table(_)) => {
            problems.error(
                path,
                format!(
                    "a trunk of chosen VLANs {}",
                    not_available("use \"all\", or one port group for each VLAN")
                ),
            );
            PortVlan::Untagged
        }
        Some(value) => {
            problems.error(path, format!("{value} is not a VLAN; {range}"));
            PortVlan::Untagged
        }
    };
    section.unavailable(
        "security",
        "every port is allowed promiscuous mode and its own choice of address; leave the table out",
        problems,
    );
    section.unavailable(
        "shaping",
        "limit the rate in the guest or the VMM",
        problems,
    );
    section.unavailable(
        "team",
        "the network's team applies; leave the table out",
        problems,
    );
    section.unavailable(
        "dhcp",
        "the DHCP server of the LAN behind the uplink serves its VLANs",
        problems,
    );
    section.finish(problems);
    vlan
}

fn dhcp(section: &mut Section, problems: &mut Problems) -> Dhcp {
    let path = section.path("dhcp");
    match section.value("dhcp") {
        None => Dhcp::Unsaid,
        Some(Value::Boolean(false)) => Dhcp::Off,
        Some(Value::Boolean(true)) => Dhcp::On(Box::default()),
        Some(Value::Table(table)) => {
            Dhcp::On(Box::new(Server::read(Section::new(path, table), problems)))
        }
        Some(_) => {
            problems.error(path, "must be true, false or a table");
            Dhcp::Unsaid
        }
    }
}

fn routes(section: &mut Section, problems: &mut Problems) -> Vec<(Subnet, Address)> {
    let mut routes = Vec::new();
    for mut route in section.array("routes", problems) {
        for key in ["to", "via"] {
            if !route.has(key) {
                problems.error(
                    route.path(key),
                    "is missing; a route is { to = \"10.0.0.0/8\", via = \"192.168.81.1\" }",
                );
            }
        }
        let (to, via) = (route.parsed("to", problems), route.parsed("via", problems));
        routes.extend(to.zip(via));
        route.finish(problems);
    }
    routes
}

/// Takes a word out of a list of those that mean something; others mean something in a later version.
fn word<T: Copy>(
    section: &mut Section,
    key: &'static str,
    words: &[(&str, T)],
    later: &[(&str, &str)],
    problems: &mut Problems,
) -> Option<T> {
    let text = section.text(key, problems)?;
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
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
                did_you_mean(&text, words.iter().map(|(word, _)| *word))
            )
        }
    };
    problems.error(section.path(key), format!("{text:?} {explanation}"));
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
fn checked<N: std::str::FromStr<Err: std::fmt::Display>, T>(
    name: String,
    parent: &str,
    problems: &mut Problems,
    make: impl FnOnce(N) -> T,
) -> Option<T> {
    parse(&name, &join(parent, &name), problems).map(make)
}
