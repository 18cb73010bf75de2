//! A port group as it was typed.

use std::num::NonZeroU32;

use super::security::Security;
use super::team::Policy;
use super::vlan;
use crate::control::problem::Problems;
use crate::control::section::Section;
use crate::control::value::Adapter;
use crate::net::storm::Limits;
use crate::net::vlan::PortVlan;

/// The most frames a second that can be asked for.
const FRAMES: u32 = 10_000_000;

/// A template of ports.
#[derive(Debug, Default)]
pub struct PortGroup {
    /// The VLANs of its ports.
    pub vlan: PortVlan,
    /// What they may do with addresses.
    pub security: Security,
    /// How they are spread over the uplinks, where that is not as in the network.
    pub team: Option<Policy>,
    /// How much of what goes to many they may send.
    pub storm: Limits,
    /// Whether they are kept from one another.
    pub isolated: bool,
    /// Whether service tags and stacked tags pass, where it was said.
    pub service_tags: Option<bool>,
    /// The name of a host adapter in it.
    pub host_adapter: Option<Adapter>,
    /// Whether the guests' links go down while no uplink can carry them.
    pub follow_uplinks: bool,
}

impl PortGroup {
    /// Reads a port group of the network `network`.
    pub(super) fn read(mut section: Section, network: &str, problems: &mut Problems) -> Self {
        let group = Self {
            vlan: vlan::read(&mut section, problems),
            security: Security::read(&mut section, problems),
            team: section
                .section("team", problems)
                .map(|section| Policy::read_override(section, network, problems)),
            storm: section
                .section("storm_control", problems)
                .map(|section| storm(section, problems))
                .unwrap_or_default(),
            isolated: section.flag("isolated", problems).unwrap_or_default(),
            service_tags: section.flag("service_tags", problems),
            host_adapter: section.parsed("host_adapter", problems),
            follow_uplinks: section.flag("follow_uplinks", problems).unwrap_or_default(),
        };
        section.unavailable(
            "shaping",
            "limit the rate in the guest or the VMM",
            problems,
        );
        section.unavailable(
            "dhcp",
            "the DHCP server of the LAN behind the uplink serves its VLANs",
            problems,
        );
        section.finish(problems);
        group
    }
}

fn storm(mut section: Section, problems: &mut Problems) -> Limits {
    let mut limit = |key| {
        let frames = section.number(key, 1..=FRAMES, problems);
        frames.and_then(NonZeroU32::new)
    };
    let limits = Limits {
        broadcast: limit("broadcast"),
        multicast: limit("multicast"),
        unknown_unicast: limit("unknown_unicast"),
    };
    section.finish(problems);
    limits
}
