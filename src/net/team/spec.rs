//! What a team is told to be.

use std::time::Duration;

use super::lacp;
use crate::net::neighbours;

/// What a team is to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The network's name, by which the teams of one host tell their beacons apart.
    pub name: String,
    /// How the ports of the network are spread: the network's own policy first, then those of port groups.
    pub policies: Vec<Policy>,
    /// How long an uplink must have a link before it is used; not waited for where no other one of a policy has one.
    pub up_delay: Duration,
    /// How long an uplink may be without a link before it is given up.
    pub down_delay: Duration,
    /// How the team speaks LACP; exactly where the first policy balances by it.
    pub lacp: Option<lacp::Spec>,
    /// What is said to and heard from the neighbours of the uplinks.
    pub discovery: neighbours::Spec,
}

/// How the ports of one port group, or all others of the network, are spread over the uplinks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// The port group, or none for the network's own policy.
    pub port_group: Option<String>,
    /// The names of the uplinks that are used while they work, in their order.
    pub active: Vec<String>,
    /// The names of those that take the place of an active one that fails, in their order.
    pub standby: Vec<String>,
    /// By what the ports or frames are spread.
    pub load_balancing: LoadBalancing,
    /// How an uplink is found to have failed.
    pub detection: Detection,
    /// Whether the switches outside are told where an address is now.
    pub notify_switches: bool,
    /// Whether an uplink that works again displaces the one that took its place.
    pub failback: bool,
    /// Whether frames from an uplink reach those ports only that it carries.
    pub reverse_filter: bool,
}

/// By what ports or frames are spread over the active uplinks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LoadBalancing {
    /// By the port's number; ESXi's "route based on originating virtual port".
    #[default]
    PortId,
    /// By each frame's source address.
    SourceMac,
    /// By each packet's addresses; wants a static channel at the other end.
    IpHash,
    /// The first active uplink that works carries everything.
    Explicit,
    /// By the port's number, and away from uplinks that are busy.
    LoadBased,
    /// By LACP (IEEE 802.1AX), over those uplinks that the partner aggregates.
    Lacp(Hash),
}

/// What of a frame chooses the uplink of a LACP team.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hash {
    /// The Ethernet addresses and the VLAN.
    Layer2,
    /// Also the IP addresses.
    Layer23,
    /// Also the ports of TCP and UDP.
    #[default]
    Layer34,
}

/// How an uplink is found to have failed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Detection {
    /// It has no link.
    #[default]
    Link,
    /// It has no link, or beacons that other uplinks send do not reach it.
    Beacon,
}

impl LoadBalancing {
    /// Whether the other end takes all uplinks for one, so that it does not matter by which a frame comes.
    pub(super) const fn is_channel(self) -> bool {
        matches!(self, Self::IpHash | Self::Lacp(_))
    }
}
