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
    /// Whether it has the network's uplinks, and no choice of its own.
    pub(super) follows: bool,
    /// The uplinks that the policy names, as far as there are any.
    pub(super) members: Vec<PortId>,
    pub(super) used: Use,
    /// The places before the last change, and until when they still bring what was under way.
    pub(super) former: Option<(Vec<PortId>, Instant)>,
}

/// The uplinks that a policy uses now.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Use {
    /// Who has the place of each active one: it, or a standby.
    seats: Vec<Option<PortId>>,
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
/// Who took a place keeps it until its owner is back, without failback until it fails itself. While beacons leave open
/// which uplink works, all are used.
pub(super) fn use_of(
    policy: &Policy,
    before: &Use,
    judge: impl Fn(&str) -> Option<(PortId, Verdict)>,
    failed: impl Fn(&str) -> bool,
) -> Use {
    let working = |names: &[String]| -> Vec<Option<(PortId, Verdict)>> {
        names.iter().map(|name| judge(name)).collect()
    };
    let (active, standby) = (working(&policy.active), working(&policy.standby));
    let all: Vec<_> = active.iter().chain(&standby).flatten().copied().collect();
    let works = |port: PortId| all.iter().any(|uplink| uplink.0 == port);
    let owner = |seat: usize| active[seat].map(|uplink| uplink.0);
    let sitting = |seat: usize| before.seats.get(seat).copied().flatten();
    let mut seats: Vec<_> = (0..active.len())
        .map(|seat| {
            // An owner that has not failed yet, and only comes up after others, is not one that is back.
            let stays = sitting(seat).filter(|_| !policy.failback && failed(&policy.active[seat]));
            stays.filter(|port| works(*port)).or_else(|| owner(seat))
        })
        .collect();
    // An owner whose place is taken may not sit twice, nor may a standby.
    let takes =
        |seats: &[Option<PortId>], port: &PortId| works(*port) && !seats.contains(&Some(*port));
    for seat in 0..seats.len() {
        if seats[seat].is_none() {
            seats[seat] = sitting(seat).filter(|port| takes(&seats, port));
        }
    }
    for seat in 0..seats.len() {
        if seats[seat].is_none() {
            let mut next = standby.iter().flatten().map(|uplink| uplink.0);
            seats[seat] = next.find(|port| takes(&seats, port));
        }
    }
    let unclear = |port: &PortId| all.contains(&(*port, Verdict::Ambiguous));
    let mut places: Vec<_> = seats.iter().copied().flatten().collect();
    if !places.is_empty() && places.iter().all(unclear) {
        places = all.iter().map(|uplink| uplink.0).collect();
    }
    Use {
        ambiguous: places.len() > 1 && places.iter().all(unclear),
        first: all
            .iter()
            .map(|uplink| uplink.0)
            .find(|port| places.contains(port)),
        places,
        seats,
    }
}

impl Rule {
    /// Which uplink a port gets, and why. One that it has stays while it is used, unless a better one is back.
    pub(super) fn place(
        &self,
        attached: &Attached,
        named: impl Fn(&String) -> Option<PortId>,
        failed: impl Fn(&str) -> bool,
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
        let home_failed = home.is_some_and(|home| failed(home));
        let home = home.and_then(named).filter(|home| used.contains(home));
        let current = match attached.way {
            Way::Fixed(current) => current.filter(|current| used.contains(current)),
            Way::Policy => None,
        };
        let stays = !policy.failback && home_failed || attached.why == Why::Load;
        let (uplink, why) = match (current, home) {
            (Some(current), _) if stays => (current, attached.why),
            (Some(current), Some(home)) if current == home => (home, attached.why),
            (_, Some(home)) if attached.is_new() || !home_failed => (home, Why::Chosen),
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
        match choose(&self.used.places, number) {
            Some(uplink) => Carrier::One(uplink),
            None => Carrier::Nobody,
        }
    }

    /// By which uplinks a station is announced that has no port for itself.
    pub(super) fn announcers(&self, mac: MacAddr) -> Carrier<'_> {
        match self.carrier_of(mac) {
            _ if self.used.ambiguous => Carrier::Each(&self.used.places),
            Some(uplink) => Carrier::One(uplink),
            None => Carrier::Nobody,
        }
    }

    /// Applies the policy to the uplinks as they are now; tells whether it uses others than before.
    pub(super) fn apply(
        &mut self,
        named: impl Fn(&str) -> Option<PortId>,
        judge: impl Fn(&str) -> Option<(PortId, Verdict)>,
        failed: impl Fn(&str) -> bool,
        now: Instant,
    ) -> bool {
        let names = self.policy.active.iter().chain(&self.policy.standby);
        self.members = names.filter_map(|name| named(name)).collect();
        let used = use_of(&self.policy, &self.used, judge, failed);
        let changed = (&used.places, used.ambiguous) != (&self.used.places, self.used.ambiguous);
        let before = std::mem::replace(&mut self.used, used);
        if changed {
            // Where frames left by each uplink, no station was behind one.
            let places = if before.ambiguous {
                Vec::new()
            } else {
                before.places
            };
            self.former = Some((places, now + UNDER_WAY));
        }
        changed
    }

    /// Whether a station is carried by another uplink than before the last change.
    pub(super) fn has_moved(&self, mac: MacAddr) -> bool {
        self.used.ambiguous || self.former_carrier_of(mac) != self.carrier_of(mac)
    }

    /// Lets go of an uplink's name, and of the place that it has.
    pub(super) fn forget(&mut self, name: &str) {
        let policy = &mut self.policy;
        if let Some(seat) = policy.active.iter().position(|other| other == name) {
            policy.active.remove(seat);
            if seat < self.used.seats.len() {
                self.used.seats.remove(seat);
            }
        }
        policy.standby.retain(|other| other != name);
    }

    /// Which uplink carries a station, where it is one for all its frames.
    pub(super) fn carrier_of(&self, mac: MacAddr) -> Option<PortId> {
        if self.policy.load_balancing.is_channel() {
            return None;
        }
        choose(&self.used.places, balance::source_mac(mac))
    }

    fn former_carrier_of(&self, mac: MacAddr) -> Option<PortId> {
        let (places, _) = self.former.as_ref()?;
        choose(places, balance::source_mac(mac))
    }

    /// Whether frames from an uplink reach a station of a port whose frames do not all take one. `dst` is its address, or
    /// none for a group; `own` is the address of the port.
    pub(super) fn admits(
        &self,
        uplink: PortId,
        dst: Option<MacAddr>,
        own: Option<MacAddr>,
    ) -> bool {
        if !self.policy.reverse_filter {
            return self.members.contains(&uplink);
        }
        // While beacons leave open which one works, what comes by both comes twice; better than not at all.
        if self.policy.load_balancing.is_channel() || self.used.ambiguous {
            return self.used.places.contains(&uplink);
        }
        match dst.or(own) {
            Some(mac) if self.carrier_of(mac) == Some(uplink) => true,
            Some(mac) => dst.is_some() && self.former_carrier_of(mac) == Some(uplink),
            None => self.used.first == Some(uplink),
        }
    }
}

fn choose(places: &[PortId], number: u32) -> Option<PortId> {
    (!places.is_empty()).then(|| places[number as usize % places.len()])
}
