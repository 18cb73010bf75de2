//! A network as it was typed.

use std::collections::BTreeMap;

use super::dhcp::{self, Dhcp};
use super::dns::{self, Dns};
use super::ipv6::{self, Ipv6};
use super::nat::{Forward, Nat};
use super::port_group::PortGroup;
use super::security::Security;
use super::team::Team;
use super::{checked, word};
use crate::control::problem::Problems;
use crate::control::section::Section;
use crate::control::value::{Adapter, Name, Subnet};

/// What a network is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Guests and, through a host adapter, the host.
    HostOnly,
    /// Guests among themselves.
    Isolated,
    /// Guests on the LAN behind an uplink.
    Bridged,
    /// Guests who reach the outside by the address of another.
    Nat,
}

impl Mode {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostOnly => "host-only",
            Self::Isolated => "isolated",
            Self::Bridged => "bridged",
            Self::Nat => "nat",
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
    /// Its team of uplinks.
    pub team: Option<Team>,
    /// What its ports may do with addresses.
    pub security: Security,
    /// Whether multicast goes to those ports only that asked for it.
    pub igmp_snooping: Option<bool>,
    /// Its port groups by name.
    pub port_groups: BTreeMap<String, PortGroup>,
    /// Its DHCP server.
    pub dhcp: Dhcp,
    /// Its DNS server.
    pub dns: Dns,
    /// Its IPv6.
    pub ipv6: Ipv6,
    /// Its NAT.
    pub nat: Option<Nat>,
    /// The ports that lead to its guests.
    pub forwards: Vec<Forward>,
}

impl Network {
    pub(super) fn read(mut section: Section, problems: &mut Problems) -> Self {
        let mode = mode(&mut section, problems);
        let mut network = Self {
            mode,
            mtu: section.number("mtu", 1280..=9000, problems),
            subnet: section.parsed("subnet", problems),
            host_adapter: section.parsed("host_adapter", problems),
            team: section
                .section("team", problems)
                .map(|section| Team::read(section, problems)),
            security: Security::read(&mut section, problems),
            igmp_snooping: section.flag("igmp_snooping", problems),
            ..Self::default()
        };
        let own = section.own_path().to_owned();
        let groups = section.path("port_group");
        for (name, section) in section.named("port_group", problems) {
            let group = PortGroup::read(section, &own, problems);
            network
                .port_groups
                .extend(checked(name, &groups, problems, |Name(name)| (name, group)));
        }
        network.dhcp = dhcp::read(&mut section, problems);
        network.dns = dns::read(&mut section, problems);
        network.ipv6 = ipv6::read(&mut section, problems);
        network.nat = section
            .section("nat", problems)
            .map(|section| Nat::read(section, problems));
        network.forwards = section
            .array("forward", problems)
            .into_iter()
            .map(|section| Forward::read(section, problems))
            .collect();
        section.finish(problems);
        network
    }
}

fn mode(section: &mut Section, problems: &mut Problems) -> Option<Mode> {
    let modes = [Mode::HostOnly, Mode::Nat, Mode::Bridged, Mode::Isolated];
    let modes = modes.map(|mode| (mode.name(), mode));
    word(section, "mode", &modes, &[], &[], problems)
}
