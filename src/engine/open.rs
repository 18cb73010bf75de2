//! A worker takes in its networks: their switches, ports and gateways.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::gateway::GatewayPort;
use super::nat::Probes;
use super::slot::Slot;
use super::worker::{Network, Worker};
use super::{Durable, Ledger, NetworkSpec, StartError, nat};
use crate::net::Now;
use crate::net::gateway::Gateway;
use crate::net::member::Member;
use crate::net::switch::{self, Switch};
use crate::net::team::Team;

impl Worker {
    /// Opens the ports of a network, and its gateway.
    pub(super) fn open_network(
        &mut self,
        spec: NetworkSpec,
        ledger: &Ledger,
        durable: &Durable,
        now: Now,
    ) -> Result<(), StartError> {
        let index = self.networks.len();
        let name: Arc<str> = spec.name.into();
        self.networks.push(Network {
            name: Arc::clone(&name),
            mtu: spec.mtu,
            switch: Switch::new(
                switch::Spec {
                    // Beacons of a former run must not be taken for those of this one.
                    team: spec.team.map(|team| Team::new(team, run(now), now.instant)),
                    private: spec.private_vlans,
                    snooping: spec.snooping,
                },
                now.instant,
            ),
            logged: BTreeSet::new(),
            probes: Probes::default(),
        });
        for member in spec.ports {
            let opened = member.port.open();
            let port = opened.map_err(|source| StartError::Port {
                network: name.to_string(),
                port: member.name.clone(),
                source,
            })?;
            let slot = Slot::new(member.name, member.port.kind(), index, port, now.instant);
            let slot = Slot {
                port_group: member.port_group,
                follow_uplinks: member.follow_uplinks,
                ..slot
            };
            let uplink = member.member.uplink.then(|| slot.name.clone());
            let port = self.add(slot, member.member)?;
            if let Some(name) = uplink {
                self.join_team(port, &name, now.instant);
            }
        }
        if let Some(gateway) = spec.gateway {
            let mac = gateway.mac;
            let sockets = nat::sockets(&gateway, spec.mtu);
            let forwards = gateway.nat.as_ref().map(|nat| nat.forwards.clone());
            let gateway = Gateway::new(gateway, spec.mtu, now);
            let (ledger, durable) = (ledger.clone(), durable.clone());
            let mut port = GatewayPort::new(Arc::clone(&name), gateway, ledger, durable, now);
            if let Some(sockets) = sockets {
                let opened = port.open_sockets(&sockets);
                opened.map_err(|source| StartError::Port {
                    network: name.to_string(),
                    port: "gateway".to_owned(),
                    source,
                })?;
            }
            let slot = Slot::new(
                "gateway".to_owned(),
                "gateway",
                index,
                Box::new(port),
                now.instant,
            );
            self.add(
                slot,
                Member {
                    mac: Some(mac),
                    ..Member::default()
                },
            )?;
            self.watch_targets(index, &forwards.unwrap_or_default(), now);
        }
        Ok(())
    }
}

/// A number that is another one each time that the daemon is started.
fn run(now: Now) -> u32 {
    now.wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos())
}
