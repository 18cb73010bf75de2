//! A network as it was typed.

use std::collections::BTreeMap;

use super::dhcp::{self, Dhcp};
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
        &[],
        &[(
            "nat",
            "use \"bridged\" to reach the outside, or \"host-only\"",
        )],
        problems,
    )
}
