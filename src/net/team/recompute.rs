//! Who carries whom, found out anew: after every change of an uplink, and when the load is looked at.

use std::time::Instant;

use super::beacon::Verdict;
use super::load::{Bytes, Carried, Line};
use super::rule::{Way, Why};
use super::uplink::Uplink;
use super::{Detection, LoadBalancing, Team};
use crate::net::port::PortId;

impl Team {
    pub(super) fn rebalance(&mut self, counted: impl Fn(PortId) -> Bytes, now: Instant) {
        let Some(loads) = &mut self.loads else {
            return;
        };
        let lines: Vec<_> = self
            .uplinks
            .iter()
            .filter(|uplink| uplink.has_link())
            .map(|uplink| Line {
                uplink: uplink.port,
                speed: uplink.speed(),
            })
            .collect();
        let ports: Vec<_> = (0..)
            .map(PortId)
            .zip(&self.ports)
            .filter_map(|(port, attached)| {
                let attached = attached.as_ref()?;
                let rule = &self.rules[attached.policy];
                match attached.way {
                    Way::Fixed(Some(uplink))
                        if rule.policy.load_balancing == LoadBalancing::LoadBased =>
                    {
                        Some(Carried {
                            port,
                            uplink,
                            allowed: &rule.used.places,
                        })
                    }
                    Way::Fixed(_) | Way::Policy => None,
                }
            })
            .collect();
        for (port, uplink) in loads.rebalance(&lines, &ports, counted, now) {
            if let Some(attached) = self.ports[port.index()].as_mut() {
                attached.move_to(Way::Fixed(Some(uplink)), Why::Load, now);
                self.note_up(port);
            }
        }
    }

    /// Finds out which uplinks the policies use now, and moves the ports that must or may move.
    pub(super) fn recompute(&mut self, now: Instant) {
        let mut changed = vec![false; self.rules.len()];
        self.hurry(now);
        for (rule, changed) in self.rules.iter_mut().zip(&mut changed) {
            let (uplinks, lacp, beacons) = (&self.uplinks, &self.lacp, &self.beacons);
            let probes = rule.policy.detection == Detection::Beacon;
            let find = |name: &str| uplinks.iter().find(|uplink| uplink.name == name);
            let judge = |name: &str| {
                let uplink = find(name)?;
                let verdict = match beacons {
                    Some(beacons) if probes => beacons.verdict(uplink.port),
                    Some(_) | None => Verdict::Reaches,
                };
                let sends = lacp.as_ref().is_none_or(|lacp| lacp.may_send(uplink.port));
                let works = uplink.has_link() && sends && verdict != Verdict::Failed;
                works.then_some((uplink.port, verdict))
            };
            let failed = |name: &str| find(name).is_some_and(Uplink::has_failed);
            *changed = rule.apply(|name| Some(find(name)?.port), judge, failed, now);
        }
        for port in (0..self.ports.len()).filter_map(|index| u16::try_from(index).ok()) {
            let Some(attached) = &mut self.ports[usize::from(port)] else {
                continue;
            };
            let policy = attached.policy;
            let rule = &self.rules[policy];
            let uplinks = &self.uplinks;
            let named = |name: &String| {
                uplinks
                    .iter()
                    .find(|uplink| uplink.name == *name)
                    .map(|uplink| uplink.port)
            };
            let failed = |name: &str| {
                let mut all = uplinks.iter();
                all.any(|uplink| uplink.name == name && uplink.has_failed())
            };
            let (way, why) = rule.place(attached, named, failed);
            if way != attached.way {
                attached.move_to(way, why, now);
                self.note_up(PortId(port));
            } else if changed[policy] && way == Way::Policy {
                self.note_divided(PortId(port));
            }
        }
    }

    /// Has links that wait for `up_delay` count at once where a policy has nothing else.
    fn hurry(&mut self, now: Instant) {
        for rule in &self.rules {
            let names = || rule.policy.active.iter().chain(&rule.policy.standby);
            let mut uplinks = self.uplinks.iter();
            if uplinks.any(|uplink| uplink.has_link() && names().any(|name| *name == uplink.name)) {
                continue;
            }
            let uplinks = self.uplinks.iter_mut();
            for uplink in uplinks.filter(|uplink| names().any(|name| *name == uplink.name)) {
                uplink.hurry(now);
            }
        }
    }
}
