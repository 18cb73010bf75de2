//! A policy applied to the uplinks as they are: which of them it uses, and which one a port or a frame gets.

use std::time::{Duration, Instant};

use super::beacon::Verdict;
use super::spec::{LoadBalancing, Policy};
use super::{Carrier, balance};
use crate::net::frame::{Head, Parsed};
use crate::net::port::PortId;
use crate::wire::ethernet::MacAddr;

/// For how long after a move the former uplink may still bring frames to the port.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Why a port has the uplink that it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// It is the one that the policy chooses.
    Chosen,
    /// The one that the policy would choose does not work.
    Failover,
    /// The one that the policy chooses works again.
    Failback,
    /// The former one was busy.
    Load,
}

/// How a port's frames find their uplink.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// They all take one, or there is none.
    Fixed(Option<PortId>),
    /// It depends on the frame, or on nothing.
    Policy,
}

#[derive(Debug)]
pub(super) struct Attached {
    /// How many ports were attached before it: by this the ports are spread.
    pub(super) number: u32,
    pub(super) policy: usize,
    pub(super) mac: Option<MacAddr>,
    pub(super) way: Way,
    /// Whether it had an uplink before.
    pub(super) settled: bool,
    pub(super) since: Instant,
    pub(super) why: Why,
    pub(super) former: Option<(PortId, Instant)>,
}

/// A policy, and what it makes of the uplinks as they are now.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) policy: Policy,
    pub(super) used: Use,
}

/// The uplinks that a policy uses now.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Use {
    /// In the order of the places of its active ones.
    pub(super) places: Vec<PortId>,
    /// The first of them in the policy's order, active before standby.
    pub(super) first: Option<PortId>,
    /// Beacons leave open which of them works.
    pub(super) ambiguous: bool,
}

impl Attached {
    /// Whether it never had an uplink.
    fn is_new(&self) -> bool {
        self.way == Way::Fixed(None) && !self.settled
    }

    pub(super) fn move_to(&mut self, way: Way, why: Why, now: Instant) {
        self.former = match self.way {
            Way::Fixed(Some(former)) => Some((former, now + UNDER_WAY)),
            Way::Fixed(None) | Way::Policy => None,
        };
        self.settled |= way != Way::Fixed(None);
        self.way = way;
        self.why = why;
        self.since = now;
    }
}

/// What a policy makes of its uplinks. `judge` tells of an uplink that works.
///
/// The place of an active uplink that fails is taken by the next standby one; a place that nobody takes is left out.
pub(super) fn use_of(
    policy: &Policy,
    before: &[PortId],
    judge: impl Fn(&str) -> Option<(PortId, Verdict)>,
) -> Use {
    let working = |names: &[String]| -> Vec<Option<(PortId, Verdict)>> {
        names.iter().map(|name| judge(name)).collect()
    };
    let (active, standby) = (working(&policy.active), working(&policy.standby));
    let stays = |uplink: &(PortId, Verdict)| policy.failback || before.contains(&uplink.0);
    let mut places: Vec<_> = active.iter().map(|uplink| uplink.filter(stays)).collect();
    let mut fill = |index: usize, uplink: Option<(PortId, Verdict)>| {
        if places[index].is_none() && uplink.is_some() && !places.contains(&uplink) {
            places[index] = uplink;
        }
    };
    for index in 0..active.len() {
        if !policy.failback {
            // Who took another's place keeps it, even if that one works again.
            let kept = standby.iter().flatten().copied();
            kept.filter(stays)
                .for_each(|uplink| fill(index, Some(uplink)));
        }
        fill(index, active[index]);
        for uplink in &standby {
            fill(index, *uplink);
        }
    }
    let used: Vec<_> = places.into_iter().flatten().collect();
    let mut all = active.iter().chain(&standby).flatten();
    Use {
        ambiguous: used.len() > 1
            && used
                .iter()
                .all(|(_, verdict)| *verdict == Verdict::Ambiguous),
        first: all
            .find(|uplink| used.contains(uplink))
            .map(|first| first.0),
        places: used.into_iter().map(|(port, _)| port).collect(),
    }
}

impl Rule {
    /// Which uplink a port gets, and why. One that it has stays while it is used, unless a better one is back.
    pub(super) fn place(
        &self,
        attached: &Attached,
        named: impl Fn(&String) -> Option<PortId>,
    ) -> (Way, Why) {
        let (policy, used) = (&self.policy, &self.used.places);
        let number = attached.number as usize;
        let home = match policy.load_balancing {
            _ if used.is_empty() => return (Way::Fixed(None), Why::Failover),
            _ if self.used.ambiguous => return (Way::Policy, Why::Failover),
            LoadBalancing::SourceMac | LoadBalancing::IpHash | LoadBalancing::Lacp(_) => {
                return (Way::Policy, Why::Chosen);
            }
            LoadBalancing::PortId | LoadBalancing::LoadBased => {
                policy.active.get(number % policy.active.len().max(1))
            }
            LoadBalancing::Explicit => policy.active.first(),
        };
        let home = home.and_then(named).filter(|home| used.contains(home));
        let current = match attached.way {
            Way::Fixed(current) => current.filter(|current| used.contains(current)),
            Way::Policy => None,
        };
        let stays = !policy.failback || attached.why == Why::Load;
        let (uplink, why) = match (current, home) {
            (Some(current), _) if stays => (current, attached.why),
            (Some(current), Some(home)) if current == home => (home, attached.why),
            (_, Some(home)) if attached.is_new() => (home, Why::Chosen),
            (_, Some(home)) => (home, Why::Failback),
            (current, None) => {
                let next = match policy.load_balancing {
                    LoadBalancing::Explicit => self.used.first,
                    LoadBalancing::PortId
                    | LoadBalancing::SourceMac
                    | LoadBalancing::IpHash
                    | LoadBalancing::LoadBased
                    | LoadBalancing::Lacp(_) => current,
                };
                let next = next.unwrap_or(used[number % used.len()]);
                let why = if current == Some(next) {
                    attached.why
                } else {
                    Why::Failover
                };
                (next, why)
            }
        };
        (Way::Fixed(Some(uplink)), why)
    }

    /// By which uplink a frame of a port leaves whose frames do not all take one.
    pub(super) fn divide(&self, head: &Head, parsed: &Parsed) -> Carrier<'_> {
        if self.used.ambiguous {
            return Carrier::Each(&self.used.places);
        }
        let number = match self.policy.load_balancing {
            LoadBalancing::IpHash => balance::ip_hash(head, parsed),
            LoadBalancing::Lacp(hash) => balance::lacp(hash, head, parsed),
            LoadBalancing::SourceMac
            | LoadBalancing::PortId
            | LoadBalancing::LoadBased
            | LoadBalancing::Explicit => balance::source_mac(parsed.src),
        };
        match self.choose(number) {
            Some(uplink) => Carrier::One(uplink),
            None => Carrier::Nobody,
        }
    }

    #[inline]
    pub(super) fn choose(&self, number: u32) -> Option<PortId> {
        let used = &self.used.places;
        (!used.is_empty()).then(|| used[number as usize % used.len()])
    }

    /// Which uplink carries a station, where it is one for all its frames.
    pub(super) fn carrier_of(&self, mac: MacAddr) -> Option<PortId> {
        if self.policy.load_balancing.is_channel() {
            return None;
        }
        self.choose(balance::source_mac(mac))
    }

    /// Whether frames from an uplink reach a station of a port whose frames do not all take one.
    pub(super) fn admits(&self, uplink: PortId, mac: Option<MacAddr>) -> bool {
        if !self.policy.reverse_filter {
            return true;
        }
        if self.policy.load_balancing.is_channel() {
            return self.used.places.contains(&uplink);
        }
        if self.used.ambiguous {
            // What comes by both comes twice; better than not at all.
            return self.used.places.contains(&uplink);
        }
        match mac {
            Some(mac) => self.carrier_of(mac) == Some(uplink),
            None => self.used.first == Some(uplink),
        }
    }
}
