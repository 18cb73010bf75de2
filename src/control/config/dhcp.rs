//! A DHCP server as it was typed.

use toml::Value;

use super::word;
use crate::control::duration::Span;
use crate::control::problem::Problems;
use crate::control::section::Section;
use crate::control::value::endpoint::Address6;
use crate::control::value::{Address, Domain, Hex, Range, Subnet, Text};
use crate::net::dhcp::Identity;
use crate::wire::ethernet::MacAddr;

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

impl Dhcp {
    /// Returns what was said of the server, if there is a table of it.
    pub fn server(&self) -> Option<&Server> {
        match self {
            Self::Unsaid | Self::Off => None,
            Self::On(server) => Some(server),
        }
    }
}

/// A DHCP server as it was typed.
#[derive(Clone, Debug, Default)]
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
    /// The routers, where it was said.
    pub router: Option<Vec<Address>>,
    /// The name servers, where it was said.
    pub dns: Option<Vec<Address>>,
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
#[derive(Clone, Debug, Default)]
pub struct Reservation {
    /// The VM it is for.
    pub vm: Option<String>,
    /// The hardware address it is for.
    pub mac: Option<MacAddr>,
    /// The address.
    pub ip: Option<Address>,
    /// The IPv6 address, or its end.
    pub ip6: Option<Address6>,
    /// The client's name.
    pub hostname: Option<Domain>,
}

/// Takes what was said about DHCP.
pub(super) fn read(section: &mut Section, problems: &mut Problems) -> Dhcp {
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

impl Server {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let identities = [("mac", Identity::Mac), ("client-id", Identity::ClientId)];
        let server = Self {
            pool: section.parsed("pool", problems),
            lease: section.parsed("lease", problems),
            max_lease: section.parsed("max_lease", problems),
            renew: section.parsed("renew", problems),
            rebind: section.parsed("rebind", problems),
            router: section.list("router", problems),
            dns: section.list("dns", problems),
            ntp: section.list("ntp", problems).unwrap_or_default(),
            domain: section.parsed("domain", problems),
            search: section.list("search", problems).unwrap_or_default(),
            mtu: section.number("mtu", 576..=9000, problems),
            routes: routes(&mut section, problems),
            vendor: section.parsed("vendor", problems),
            next_server: section.parsed("next_server", problems),
            tftp_server: section.parsed("tftp_server", problems),
            boot_file: section.parsed("boot_file", problems),
            identity: word(&mut section, "identity", &identities, &[], &[], problems),
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
            ip6: section.parsed("ip6", problems),
            hostname: section.parsed("hostname", problems),
        };
        section.finish(problems);
        reservation
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
