//! The team of a bridged network, planned: its uplinks, and by which policies they carry the ports.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::control::config;
use crate::control::config::network::Network;
use crate::control::config::team::{self, Discovery, Lacp, Uplinks};
use crate::control::plan::uplinks;
use crate::control::problem::{Problems, did_you_mean, join};
use crate::control::value::Adapter;
use crate::net::team::{Detection, LoadBalancing, Policy};
use crate::ports::packet::Driver;

/// How many uplinks it takes for beacons to tell which one failed.
const BEACONS: usize = 3;

/// A team.
#[derive(Clone, Debug)]
pub struct Team {
    /// All uplinks: those that are active in the network first, then those that stand by, then the others.
    pub uplinks: Vec<Uplink>,
    /// The network's own policy, then those of port groups in the order of their names.
    pub policies: Vec<Policy>,
    /// How long an uplink must have a link before it is used.
    pub up_delay: Duration,
    /// How long an uplink may be without a link before it is given up.
    pub down_delay: Duration,
    /// What is said to and heard from neighbours.
    pub discovery: Discovery,
    /// How it speaks LACP, where it balances by it.
    pub lacp: Option<Lacp>,
}

/// An uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uplink {
    /// The adapter's name.
    pub name: String,
    /// Where the team names it.
    pub path: String,
    /// Whether it may be absent when the daemon starts.
    pub optional: bool,
    /// Its speed in bits a second, for an adapter that does not tell.
    pub speed: Option<u64>,
    /// By what means its frames come and go.
    pub driver: Driver,
}

impl Team {
    /// Plans the team of the bridged network `name` at `network_path`; there is none where it has no uplink.
    pub(super) fn new(
        name: &str,
        network: &Network,
        described: &BTreeMap<String, config::Uplink>,
        network_path: &str,
        problems: &mut Problems,
    ) -> Option<Self> {
        let typed = network.team.as_ref()?;
        let path = join(network_path, "team");
        let uplinks: Vec<Uplink> = uplinks(network, network_path)
            .into_iter()
            .map(|(path, name)| {
                let described = described.get(&name).copied().unwrap_or_default();
                Uplink {
                    name,
                    path,
                    optional: described.optional,
                    speed: described.speed,
                    driver: described.driver,
                }
            })
            .collect();
        let own = own_policy(typed, &path, problems);
        let mut policies = vec![own];
        for (group, settings) in &network.port_groups {
            if let Some(typed) = &settings.team {
                let path = join(&join(&join(network_path, "port_group"), group), "team");
                let changed = Override {
                    network: name,
                    network_path,
                    uplinks: &uplinks,
                    path,
                };
                policies.push(changed.policy(group, typed, &policies[0], problems));
            }
        }
        let lacp = match policies[0].load_balancing {
            LoadBalancing::Lacp(_) => Some(typed.lacp.unwrap_or_default()),
            LoadBalancing::PortId
            | LoadBalancing::SourceMac
            | LoadBalancing::IpHash
            | LoadBalancing::Explicit
            | LoadBalancing::LoadBased => None,
        };
        (!uplinks.is_empty()).then_some(Self {
            uplinks,
            policies,
            up_delay: typed.up_delay,
            down_delay: typed.down_delay,
            discovery: typed.discovery,
            lacp,
        })
    }
}

/// Whether all uplinks are one channel for the switch at their other end.
fn is_channel(balancing: LoadBalancing) -> bool {
    match balancing {
        LoadBalancing::IpHash | LoadBalancing::Lacp(_) => true,
        LoadBalancing::PortId
        | LoadBalancing::SourceMac
        | LoadBalancing::Explicit
        | LoadBalancing::LoadBased => false,
    }
}

fn names(list: Option<&Uplinks>) -> Vec<String> {
    let list = list.into_iter().flatten();
    list.map(|(_, Adapter(name))| name.clone()).collect()
}

fn own_policy(typed: &team::Team, path: &str, problems: &mut Problems) -> Policy {
    let key = |key| join(path, key);
    let keys = &typed.policy;
    let (active, standby) = (names(keys.active.as_ref()), names(keys.standby.as_ref()));
    let load_balancing = match keys.load_balancing.unwrap_or_default() {
        LoadBalancing::Lacp(_) => LoadBalancing::Lacp(typed.lacp.unwrap_or_default().hash),
        balancing @ (LoadBalancing::PortId
        | LoadBalancing::SourceMac
        | LoadBalancing::IpHash
        | LoadBalancing::Explicit
        | LoadBalancing::LoadBased) => balancing,
    };
    let spoken = matches!(load_balancing, LoadBalancing::Lacp(_));
    if typed.lacp.is_some() && !spoken && !problems.has(&key("load_balancing")) {
        let text = "is for load_balancing = \"lacp\" only; write that, or leave the table out";
        problems.error(key("lacp"), text);
    }
    if is_channel(load_balancing) && !standby.is_empty() {
        let text = channel(
            load_balancing,
            "uses all of its uplinks; move these to `active` or `unused`",
        );
        problems.error(key("standby"), text);
    }
    let policy = Policy {
        port_group: None,
        active,
        standby,
        load_balancing,
        detection: keys.detection.unwrap_or_default(),
        notify_switches: keys.notify_switches.unwrap_or(true),
        failback: keys.failback.unwrap_or(true),
        reverse_filter: keys.reverse_filter.unwrap_or(true) && !is_channel(load_balancing),
    };
    check(&policy, keys, path, problems);
    policy
}

/// Checks what a policy says for itself.
fn check(policy: &Policy, keys: &team::Policy, path: &str, problems: &mut Problems) {
    let balancing = policy.load_balancing;
    if is_channel(balancing) {
        if keys.detection == Some(Detection::Beacon) {
            let text = channel(
                balancing,
                "brings no beacon from one uplink to another; write \"link\"",
            );
            problems.error(join(path, "failure_detection"), text);
        }
        if keys.reverse_filter == Some(true) {
            let text = channel(
                balancing,
                "brings a port's frames on any uplink; write false, or leave the key out",
            );
            problems.error(join(path, "reverse_filter"), text);
        }
        return;
    }
    // What is inherited as a whole has been warned of where it was said.
    let said = keys.detection.is_some() || keys.lists().iter().any(|(_, list)| list.is_some());
    let count = policy.active.len() + policy.standby.len();
    if said && policy.detection == Detection::Beacon && (1..BEACONS).contains(&count) {
        let text = match count {
            1 => {
                "the beacons of one uplink are heard by no other: its link alone tells of a failure"
            }
            _ => {
                "beacons between two uplinks do not tell which one failed: when they stop, frames are sent on both"
            }
        };
        let at = if keys.detection.is_some() {
            join(path, "failure_detection")
        } else {
            path.to_owned()
        };
        problems.warn(at, text);
    }
}

/// A sentence about a team whose uplinks are one channel.
fn channel(balancing: LoadBalancing, rest: &str) -> String {
    let word = balancing.name();
    format!("the channel that load_balancing = {word:?} makes {rest}")
}

/// What a port group has otherwise than its network.
struct Override<'a> {
    network: &'a str,
    network_path: &'a str,
    uplinks: &'a [Uplink],
    path: String,
}

impl Override<'_> {
    fn policy(
        &self,
        group: &str,
        typed: &team::Policy,
        own: &Policy,
        problems: &mut Problems,
    ) -> Policy {
        self.check_channel(typed, own, problems);
        let said = self.uplinks(typed, problems);
        // Where a list is not said it is the network's, without those that the port group has elsewhere.
        let list = |said: Option<&Uplinks>, inherited: &[String], all: &[String]| match said {
            Some(list) => names(Some(list)),
            None => inherited
                .iter()
                .filter(|name| !all.contains(*name))
                .cloned()
                .collect(),
        };
        let policy = Policy {
            port_group: Some(group.to_owned()),
            active: list(typed.active.as_ref(), &own.active, &said),
            standby: list(typed.standby.as_ref(), &own.standby, &said),
            load_balancing: match typed.load_balancing {
                // It has been refused.
                Some(balancing) if is_channel(balancing) => own.load_balancing,
                Some(balancing) => balancing,
                None => own.load_balancing,
            },
            detection: typed.detection.unwrap_or(own.detection),
            notify_switches: typed.notify_switches.unwrap_or(own.notify_switches),
            failback: typed.failback.unwrap_or(own.failback),
            reverse_filter: typed.reverse_filter.unwrap_or(own.reverse_filter),
        };
        if policy.active.is_empty() && !own.active.is_empty() && !self.has_wrong_uplinks(problems) {
            let text = if policy.standby.is_empty() {
                "leaves the port group without an uplink; name one in `active`"
            } else {
                "leaves the port group without an active uplink, and a standby one takes the place of an active one; name one in `active`"
            };
            problems.error(self.path.clone(), text);
        }
        check(&policy, typed, &self.path, problems);
        policy
    }

    /// Tells whether something is wrong with the lists, so that nothing is to be concluded from them.
    fn has_wrong_uplinks(&self, problems: &Problems) -> bool {
        ["active", "standby", "unused"].iter().any(|key| {
            let path = join(&self.path, key);
            problems.has(&path)
                || (0..self.uplinks.len()).any(|index| problems.has(&format!("{path}[{index}]")))
        })
    }

    /// Returns all uplinks that the port group names, which must be among the network's, each once.
    fn uplinks(&self, typed: &team::Policy, problems: &mut Problems) -> Vec<String> {
        let mut said: BTreeMap<&str, String> = BTreeMap::new();
        for (key, list) in typed.lists() {
            for (index, Adapter(name)) in list.into_iter().flatten() {
                let path = format!("{}.{key}[{index}]", self.path);
                let all = || self.uplinks.iter().map(|uplink| uplink.name.as_str());
                if let Some(earlier) = said.get(name.as_str()) {
                    problems.error(path, format!("{name:?} is named already, at {earlier}"));
                } else if all().any(|uplink| uplink == name) {
                    said.insert(name, problems.written(&path));
                } else {
                    let hint = match did_you_mean(name, all()) {
                        hint if hint.is_empty() => {
                            let all: Vec<_> = all().map(|name| format!("{name:?}")).collect();
                            format!("; there is {}", all.join(", "))
                        }
                        hint => hint,
                    };
                    let network = self.network;
                    problems.error(
                        path,
                        format!("{name:?} is not an uplink of network {network:?}{hint}"),
                    );
                }
            }
        }
        said.into_keys().map(str::to_owned).collect()
    }

    /// A channel is one for all ports: it can be neither changed nor made here.
    fn check_channel(&self, typed: &team::Policy, own: &Policy, problems: &mut Problems) {
        if is_channel(own.load_balancing) {
            let lists = typed.lists().into_iter();
            let lists = lists.filter_map(|(key, list)| list.map(|_| key));
            let balancing = typed.load_balancing.map(|_| "load_balancing");
            for key in lists.chain(balancing) {
                let text = channel(
                    own.load_balancing,
                    "is one for all port groups; leave the key out",
                );
                problems.error(join(&self.path, key), text);
            }
        } else if let Some(balancing) = typed.load_balancing.filter(|own| is_channel(*own)) {
            let place = format!(
                "is one for all port groups; write it in [{}.team]",
                self.network_path
            );
            problems.error(
                join(&self.path, "load_balancing"),
                channel(balancing, &place),
            );
        }
    }
}
