//! What a worker shows of itself: snapshots, and what operators should know.

use std::collections::BTreeSet;

use super::worker::{LOGGED, Worker, clock};
use super::{FdbEntry, NetworkSnapshot, Snapshot};
use crate::net::Now;
use crate::net::port::PortId;

impl Worker {
    /// What an operator should know about a network, one sentence each.
    fn advisories(&self, index: usize, now: Now) -> Vec<String> {
        let network = &self.networks[index];
        let slots = || self.slots.iter().filter(|slot| slot.network == index);
        let mut advisories = Vec::new();
        let name = |port: PortId| &self.slots[port.index()].name;
        if let Some(team) = network.switch.team() {
            advisories.extend(team.advisories(now.instant));
        }
        if let Some(vlans) = network.switch.unused_vlans() {
            advisories.push(format!(
                "frames come in by the uplinks that no port group carries, of VLAN {vlans}"
            ));
        }
        for conflict in network.switch.conflicts() {
            let (mac, frames) = (conflict.mac, conflict.frames);
            let (port, uplink) = (name(conflict.port), name(conflict.uplink));
            advisories.push(format!(
                "the address {mac} of port {port} is used outside too, behind uplink {uplink}; {frames} frames were dropped"
            ));
        }
        if let Some(gateway) = slots().find_map(|slot| slot.port.gateway()) {
            advisories.extend(gateway.advisories(now));
            if self.durable.is_failing() {
                let text = "leases cannot be written to the state directory, and none are given; see the log";
                advisories.push(text.to_owned());
            }
        }
        let mut routers = self.routing.routers.iter();
        if let Some(router) = routers.find(|router| router.network() == index) {
            advisories.extend(router.advisories(now.instant));
        }
        for slot in slots() {
            advisories.extend(slot.port.advisories());
        }
        if network.switch.is_fdb_full() {
            let text = "the forwarding table is full: frames to further addresses are flooded";
            advisories.push(text.to_owned());
        }
        for port in network.switch.full_ports() {
            let name = name(port);
            advisories.push(format!(
                "port {name} has shown as many addresses as are learned of one port"
            ));
        }
        advisories
    }

    /// Logs the advisories that are new. What follows a semicolon or comma may change with time, and is not looked at.
    pub(super) fn log_advisories(&mut self, index: usize, now: Now) {
        let advisories = self.advisories(index, now);
        let network = &mut self.networks[index];
        let mut logged = BTreeSet::new();
        for advisory in &advisories {
            let gist = advisory.split([';', ',']).next().unwrap_or_default();
            if !network.logged.contains(gist) && logged.len() < LOGGED {
                tracing::warn!(network = &*network.name, "{advisory}");
            }
            logged.insert(gist.to_owned());
        }
        network.logged = logged;
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        let now = clock();
        for network in &mut self.networks {
            network.switch.set_now(now.instant);
        }
        let nats = (0..self.networks.len()).map(|index| self.with_nat(index, |nat| nat.view(now)));
        let mut nats = nats.collect::<Vec<_>>().into_iter();
        let networks = self.networks.iter().enumerate().map(|(index, network)| {
            let slots = || self.slots.iter().filter(move |slot| slot.network == index);
            let rows = network.switch.fdb_rows().into_iter();
            NetworkSnapshot {
                name: network.name.to_string(),
                advisories: self.advisories(index, now),
                ports: (0..)
                    .map(PortId)
                    .zip(&self.slots)
                    .filter(|(_, slot)| slot.network == index)
                    .map(|(id, slot)| slot.snapshot(id, network.switch.address(id)))
                    .collect(),
                team: network.switch.team().map(|team| team.view(now.instant)),
                groups: network.switch.group_rows(),
                nat: nats.next().flatten(),
                leases: slots()
                    .find_map(|slot| slot.port.gateway())
                    .map(|gateway| gateway.leases(now))
                    .unwrap_or_default(),
                fdb: rows
                    .map(|row| FdbEntry {
                        vlan: row.vlan,
                        mac: row.mac,
                        port: self.slots[row.port.index()].name.clone(),
                        age_s: row.age.map(|age| age.as_secs()),
                    })
                    .collect(),
            }
        });
        Snapshot {
            networks: networks.collect(),
        }
    }
}
