//! A network's IPv6 as it was typed.

use toml::Value;

use crate::control::problem::Problems;
use crate::control::section::Section;
use crate::control::value::endpoint::Prefix;

/// What was said about IPv6.
#[derive(Clone, Copy, Debug, Default)]
pub enum Ipv6 {
    /// Nothing.
    #[default]
    Unsaid,
    /// `ipv6 = false`.
    Off,
    /// A table.
    On(Table),
}

/// A network's IPv6 as it was typed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    /// Its prefix.
    pub prefix: Option<Prefix>,
    /// What is handed out by DHCP.
    pub dhcp: Option<Dhcp6>,
}

/// What is handed out by DHCP for IPv6.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Dhcp6 {
    /// Nothing: guests are on their own.
    Off,
    /// All but addresses, which guests make themselves.
    #[default]
    Stateless,
    /// Addresses too.
    Stateful,
}

/// Takes what was said about IPv6.
pub(super) fn read(section: &mut Section, problems: &mut Problems) -> Ipv6 {
    let path = section.path("ipv6");
    match section.value("ipv6") {
        None => Ipv6::Unsaid,
        Some(Value::Boolean(false)) => Ipv6::Off,
        Some(Value::Boolean(true)) => Ipv6::On(Table::default()),
        Some(Value::Table(table)) => {
            let mut section = Section::new(path, table);
            let table = Table {
                prefix: section.parsed("prefix", problems),
                dhcp: dhcp(&mut section, problems),
            };
            section.finish(problems);
            Ipv6::On(table)
        }
        Some(_) => {
            problems.error(path, "must be true, false or a table");
            Ipv6::Unsaid
        }
    }
}

fn dhcp(section: &mut Section, problems: &mut Problems) -> Option<Dhcp6> {
    let path = section.path("dhcp");
    match section.value("dhcp") {
        None => None,
        Some(Value::Boolean(false)) => Some(Dhcp6::Off),
        Some(Value::String(text)) if text == "stateless" => Some(Dhcp6::Stateless),
        Some(Value::String(text)) if text == "stateful" => Some(Dhcp6::Stateful),
        Some(_) => {
            problems.error(path, "must be \"stateless\", \"stateful\" or false");
            None
        }
    }
}
