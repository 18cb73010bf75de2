//! A network as it was typed.

use std::collections::BTreeMap;

use toml::Value;

use super::dhcp::{self, Dhcp};
use super::{checked, word};
use crate::control::problem::Problems;
use crate::control::section::{Section, not_available};
use crate::control::value::{Adapter, Name, Subnet};
use crate::net::vlan::{PortVlan, VlanId};

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

impl Network {
    pub(super) fn read(mut section: Section, problems: &mut Problems) -> Self {
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
        network.dhcp = dhcp::read(&mut section, problems);
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
