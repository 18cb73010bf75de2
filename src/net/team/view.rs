//! A team as it is shown: who carries whom, since when, and why.

use std::time::{Duration, Instant};

use super::beacon::Verdict;
use super::rule::{Rule, Way, Why};
use super::uplink::Uplink;
use super::{Detection, Hash, LoadBalancing, Team, lacp};
use crate::net::neighbours::Neighbour;
use crate::net::port::PortId;
use crate::net::vlan::VlanId;
use crate::wire::ethernet::MacAddr;

/// How long after the last one it counts that own frames came back.
const LATELY: Duration = Duration::from_secs(60);
/// How many VLANs an advisory names.
const NAMED: usize = 8;

/// A team at one moment.
#[derive(Clone, Debug)]
pub struct TeamView {
    /// The policies: the network's own first.
    pub policies: Vec<PolicyView>,
    /// The uplinks in the order in which they were added.
    pub uplinks: Vec<UplinkView>,
    /// The ports that the team carries.
    pub ports: Vec<CarriedView>,
    /// What an operator should know, one sentence each.
    pub advisories: Vec<String>,
}

/// A policy at one moment.
#[derive(Clone, Debug)]
pub struct PolicyView {
    /// The port group, or none for the network's own policy.
    pub port_group: Option<String>,
    /// By what ports or frames are spread.
    pub load_balancing: LoadBalancing,
    /// How an uplink is found to have failed.
    pub detection: Detection,
    /// Whether switches are told of moves.
    pub notify_switches: bool,
    /// Whether an uplink that works again gets its place back.
    pub failback: bool,
    /// Whether frames from an uplink reach those ports only that it carries.
    pub reverse_filter: bool,
    /// The names of its active uplinks.
    pub active: Vec<String>,
    /// The names of its standby uplinks.
    pub standby: Vec<String>,
    /// Those that are used now.
    pub used: Vec<PortId>,
    /// Whether beacons leave open which of them works.
    pub ambiguous: bool,
}

/// An uplink at one moment.
#[derive(Clone, Debug)]
pub struct UplinkView {
    /// Its port.
    pub port: PortId,
    /// The adapter's name.
    pub name: String,
    /// Whether it counts as having a link.
    pub link: bool,
    /// Why it is, or is not, as one would wish; a few words.
    pub state: &'static str,
    /// For how long the link has counted as it does.
    pub since: Duration,
    /// The adapter's own address.
    pub mac: MacAddr,
    /// Its speed in bits a second, where known.
    pub speed: Option<u64>,
    /// The VLANs whose frames came in.
    pub vlans: Vec<u16>,
    /// Who is at the other end.
    pub neighbours: Vec<Neighbour>,
    /// What LACP has come to.
    pub lacp: Option<lacp::Status>,
}

/// A port that the team carries, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct CarriedView {
    /// The port.
    pub port: PortId,
    /// Which policy is its.
    pub policy: usize,
    /// The uplink, where it is one for all its frames.
    pub uplink: Option<PortId>,
    /// For how long.
    pub since: Duration,
    /// Why it is this one; a few words.
    pub why: &'static str,
}

impl LoadBalancing {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortId => "port-id",
            Self::SourceMac => "source-mac",
            Self::IpHash => "ip-hash",
            Self::Explicit => "explicit",
            Self::LoadBased => "load-based",
            Self::Lacp(_) => "lacp",
        }
    }
}

impl Hash {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Layer2 => "layer2",
            Self::Layer23 => "layer2+3",
            Self::Layer34 => "layer3+4",
        }
    }
}

impl Detection {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Beacon => "beacon",
        }
    }
}

impl Team {
    /// Returns what the team is now.
    pub fn view(&self, now: Instant) -> TeamView {
        TeamView {
            policies: self
                .rules
                .iter()
                .map(|rule| PolicyView {
                    port_group: rule.policy.port_group.clone(),
                    load_balancing: rule.policy.load_balancing,
                    detection: rule.policy.detection,
                    notify_switches: rule.policy.notify_switches,
                    failback: rule.policy.failback,
                    reverse_filter: rule.policy.reverse_filter,
                    active: rule.policy.active.clone(),
                    standby: rule.policy.standby.clone(),
                    used: rule.used.places.clone(),
                    ambiguous: rule.used.ambiguous,
                })
                .collect(),
            uplinks: self
                .uplinks
                .iter()
                .map(|uplink| UplinkView {
                    port: uplink.port,
                    name: uplink.name.clone(),
                    link: uplink.has_link(),
                    state: self.state(uplink),
                    since: now.saturating_duration_since(uplink.since),
                    mac: uplink.mac(),
                    speed: uplink.speed(),
                    vlans: uplink.vlans.iter().map(|vlan| vlan.number()).collect(),
                    neighbours: self.neighbours.neighbours(uplink.port).cloned().collect(),
                    lacp: self.lacp.as_ref().and_then(|lacp| lacp.status(uplink.port)),
                })
                .collect(),
            ports: self.carried(now),
            advisories: self.advisories(now),
        }
    }

    fn state(&self, uplink: &Uplink) -> &'static str {
        let verdict = self
            .beacons
            .as_ref()
            .map_or(Verdict::Reaches, |beacons| beacons.verdict(uplink.port));
        let sends = self
            .lacp
            .as_ref()
            .is_none_or(|lacp| lacp.may_send(uplink.port));
        match (uplink.has_link(), uplink.is_delayed()) {
            (false, true) => "has a link, and waits for up_delay",
            (false, false) => "no link, or gone",
            (true, true) => "lost its link, and waits for down_delay",
            (true, false) if !sends => "not aggregated by the LACP partner",
            (true, false) => match verdict {
                Verdict::Failed => "no beacons come through",
                Verdict::Ambiguous => "works, or another does: no beacons come through",
                Verdict::Reaches => "works",
            },
        }
    }

    fn carried(&self, now: Instant) -> Vec<CarriedView> {
        let ports = (0..).map(PortId).zip(&self.ports);
        let attached = ports.filter_map(|(port, attached)| Some((port, attached.as_ref()?)));
        attached
            .map(|(port, attached)| {
                let rule = &self.rules[attached.policy];
                let (uplink, why) = match attached.way {
                    Way::Fixed(None) => (None, "no uplink works"),
                    Way::Policy if rule.used.ambiguous => {
                        (None, "by each, since it is not known which works")
                    }
                    Way::Policy => match (rule.policy.load_balancing, attached.mac) {
                        (LoadBalancing::SourceMac, Some(mac)) => {
                            (rule.carrier_of(mac), "by its address")
                        }
                        (LoadBalancing::SourceMac, None) => (None, "by each frame's source"),
                        (LoadBalancing::IpHash, _) => (None, "by each packet's addresses"),
                        (
                            LoadBalancing::PortId
                            | LoadBalancing::LoadBased
                            | LoadBalancing::Explicit
                            | LoadBalancing::Lacp(_),
                            _,
                        ) => (None, "by the hash of each frame"),
                    },
                    Way::Fixed(uplink) => {
                        let by_order = rule.policy.load_balancing == LoadBalancing::Explicit;
                        let why = match attached.why {
                            Why::Chosen if by_order => "the first in the order",
                            Why::Chosen => "by its number",
                            Why::Failover => "its own does not work",
                            Why::Failback => "its own works again",
                            Why::Load => "its own was busy",
                        };
                        (uplink, why)
                    }
                };
                CarriedView {
                    port,
                    policy: attached.policy,
                    uplink,
                    since: now.saturating_duration_since(attached.since),
                    why,
                }
            })
            .collect()
    }

    /// What an operator should know, one sentence each.
    pub fn advisories(&self, now: Instant) -> Vec<String> {
        let mut advisories = Vec::new();
        for uplink in self.uplinks.iter().filter(|uplink| !uplink.has_link()) {
            let name = &uplink.name;
            advisories.push(format!("uplink {name} has no link, or is gone"));
        }
        for rule in &self.rules {
            let of = match &rule.policy.port_group {
                Some(group) => format!(" of port group {group}"),
                None => String::new(),
            };
            let known = rule.policy.active.len() + rule.policy.standby.len();
            match (rule.used.places.as_slice(), known) {
                ([], _) => advisories.push(format!(
                    "no uplink{of} works: guests do not reach the outside"
                )),
                (_, 1) => advisories.push(format!(
                    "there is no uplink redundancy{of}: nothing takes the place of the only uplink"
                )),
                _ => {
                    let names = rule.policy.active.iter().chain(&rule.policy.standby);
                    let working = names.filter(|name| self.works(name, rule)).count();
                    if working == 1 {
                        advisories.push(format!(
                            "uplink redundancy{of} is lost: of {known} uplinks one works"
                        ));
                    }
                }
            }
            let beacon = rule.policy.detection == Detection::Beacon;
            if beacon && known < 3 {
                advisories.push(format!(
                    "beacons need three uplinks{of}: with {known} it cannot be told which has failed, and frames leave by each"
                ));
            }
        }
        advisories.extend(self.one_switch());
        if let Some((count, last)) = self.returned
            && now.saturating_duration_since(last) < LATELY
            && self
                .rules
                .first()
                .is_some_and(|rule| rule.policy.load_balancing.is_channel())
        {
            advisories.push(format!(
                "frames of this network come back by another uplink: the switch outside has no channel of these ports, as {} needs; {count} came back",
                self.rules[0].policy.load_balancing.name()
            ));
        }
        if let Some(lacp) = &self.lacp {
            let fallback = self.uplinks.iter().find(|uplink| {
                lacp.status(uplink.port)
                    .is_some_and(|status| status.fallback)
            });
            if let Some(uplink) = fallback {
                advisories.push(format!(
                    "no partner speaks LACP: uplink {} alone carries the network",
                    uplink.name
                ));
            }
        }
        advisories
    }

    fn works(&self, name: &str, rule: &Rule) -> bool {
        let uplink = self.uplinks.iter().find(|uplink| uplink.name == name);
        uplink.is_some_and(|uplink| {
            let judged = rule.policy.detection == Detection::Beacon;
            let failed = self
                .beacons
                .as_ref()
                .is_some_and(|beacons| beacons.verdict(uplink.port) == Verdict::Failed);
            let sends = self
                .lacp
                .as_ref()
                .is_none_or(|lacp| lacp.may_send(uplink.port));
            uplink.has_link() && sends && !(judged && failed)
        })
    }

    /// All uplinks lead to one switch, as far as the switches tell; a channel has to.
    fn one_switch(&self) -> Option<String> {
        let channel = |rule: &Rule| rule.policy.load_balancing.is_channel();
        if self.uplinks.len() < 2 || self.rules.iter().any(channel) {
            return None;
        }
        let newest = |uplink: &Uplink| {
            self.neighbours
                .neighbours(uplink.port)
                .next()
                .map(|neighbour| (neighbour.protocol, neighbour.chassis.clone()))
        };
        let first = newest(self.uplinks.first()?)?;
        let same = |uplink| newest(uplink).as_ref() == Some(&first);
        let name = self
            .neighbours
            .neighbours(self.uplinks[0].port)
            .next()
            .and_then(|neighbour| neighbour.system.clone())
            .unwrap_or_else(|| first.1.clone());
        self.uplinks.iter().all(same).then(|| {
            format!(
                "all uplinks lead to one physical switch ({name}): it is a single point of failure"
            )
        })
    }

    /// Names the VLANs whose frames come in by some uplink and that `wanted` does not want.
    pub fn unused_vlans(&self, wanted: impl Fn(u16) -> bool) -> Option<String> {
        let mut unused: Vec<_> = self
            .uplinks
            .iter()
            .flat_map(|uplink| uplink.vlans.iter())
            .map(VlanId::number)
            .filter(|vlan| !wanted(*vlan))
            .collect();
        unused.sort_unstable();
        unused.dedup();
        if unused.is_empty() {
            return None;
        }
        let mut names: Vec<_> = unused.iter().take(NAMED).map(u16::to_string).collect();
        if unused.len() > NAMED {
            names.push("others".to_owned());
        }
        Some(names.join(" "))
    }
}
