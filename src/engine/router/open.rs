//! Routers from their opening to their end.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

use super::{Leg, Router, Routing};
use crate::engine::carry::Floor;
use crate::engine::slot::{Slot, Still};
use crate::engine::worker::{Worker, clock};
use crate::engine::{NetworkSpec, OutsidePort, StartError};
use crate::net::Now;
use crate::net::member::Member;
use crate::net::napt::Napt;
use crate::net::nat::{Outside, Spec};
use crate::net::port::PortId;
use crate::net::security::Security;
use crate::wire::ethernet::MacAddr;

/// A network whose gateway leads to another, before its router is there.
pub(in crate::engine) struct Leading {
    inside: String,
    network: usize,
    mac: MacAddr,
    nat: Spec,
    outside: OutsidePort,
}

impl Leading {
    /// Returns what is told of a router in the specification of the network with this number, if it is to have one.
    pub(in crate::engine) fn of(spec: &NetworkSpec, network: usize) -> Option<Self> {
        let gateway = spec.gateway.as_ref()?;
        Some(Self {
            inside: spec.name.clone(),
            network,
            mac: gateway.mac,
            nat: gateway.nat.clone()?,
            outside: spec.outside.clone()?,
        })
    }
}

impl Worker {
    /// Opens the routers, when all networks are there.
    pub(in crate::engine) fn open_routers(
        &mut self,
        leading: Vec<Leading>,
        now: Now,
    ) -> Result<(), StartError> {
        leading
            .into_iter()
            .try_for_each(|leading| self.open_router(leading, now))
    }

    fn open_router(&mut self, leading: Leading, now: Now) -> Result<(), StartError> {
        let Leading {
            inside: name,
            network,
            mac,
            nat,
            outside: port,
        } = leading;
        let Outside::Network(outside) = &nat.outside else {
            return Ok(());
        };
        let mut networks = self.networks.iter();
        let found = networks.position(|other| *other.name == *port.network);
        let gateway = (0..)
            .map(PortId)
            .zip(&self.slots)
            .find(|(_, slot)| slot.network == network && slot.port.gateway().is_some());
        let (Some(other), Some((inside, _))) = (found, gateway) else {
            return Err(StartError::NoOutside {
                network: name,
                outside: port.network,
            });
        };
        let mut slots = self.slots.iter();
        let taken = slots.any(|slot| slot.network == other && slot.name == name);
        let own_name = if taken { format!("{name}-nat") } else { name };
        let slot = Slot::new(
            own_name,
            "gateway",
            other,
            Box::new(Still { up: true }),
            now.instant,
        );
        let number = self.routing.routers.len();
        let slot = Slot {
            port_group: port.port_group,
            router: Some(number),
            ..slot
        };
        let member = Member {
            mac: Some(outside.mac),
            uplink: false,
            takes_first: false,
            // It speaks for itself, and hears what is for it.
            security: Security::default(),
            ..port.member
        };
        let id = self.add(slot, member)?;
        self.slots[inside.index()].router = Some(number);
        let seed = RandomState::new().build_hasher().finish();
        let mut napt = Napt::new(&nat, mac, outside, seed, now);
        napt.set_mtu(self.networks[network].mtu, self.networks[other].mtu);
        self.routing.routers.push(Router {
            napt,
            inside: Leg {
                port: inside,
                network,
                mac,
            },
            outside: Leg {
                port: id,
                network: other,
                mac: outside.mac,
            },
            gateways: nat.gateways,
            events: VecDeque::new(),
        });
        Ok(())
    }

    /// Has routers look at what was set aside of the burst.
    #[cold]
    #[inline(never)]
    pub(in crate::engine) fn route(&mut self, now: Instant) -> bool {
        let mut floor = Floor {
            slots: &mut self.slots,
            networks: &mut self.networks,
            own: &mut self.own,
            hot: &mut self.hot,
            next_timer: &mut self.next_timer,
            changed: false,
            refused: 0,
            now,
        };
        floor.route(&mut self.routing, &mut self.burst, &mut self.outbox);
        floor.changed
    }

    /// Sends what translators have made, and follows what has changed by it.
    #[cold]
    #[inline(never)]
    pub(in crate::engine) fn finish_routing(&mut self, mut changed: bool, now: Instant) {
        let mut floor = Floor {
            slots: &mut self.slots,
            networks: &mut self.networks,
            own: &mut self.own,
            hot: &mut self.hot,
            next_timer: &mut self.next_timer,
            changed: false,
            refused: 0,
            now,
        };
        floor.inject(&mut self.routing, &mut self.own_burst, &mut self.outbox);
        changed |= floor.changed;
        if let Some(log) = &mut self.flow_log {
            for router in &mut self.routing.routers {
                let network = &self.networks[router.inside.network].name;
                for event in router.events.drain(..) {
                    log.note(network, &event);
                }
            }
        }
        if changed {
            for network in 0..self.networks.len() {
                self.follow_switch(network, now);
            }
        }
    }

    /// Does what is due at routers.
    pub(in crate::engine) fn handle_router_timers(&mut self, now: Now) {
        if self.routing.routers.is_empty() {
            return;
        }
        for number in 0..self.routing.routers.len() {
            let Routing { routers, out, .. } = &mut self.routing;
            let napt = &mut routers[number].napt;
            if napt.poll_timeout().is_some_and(|at| now.instant >= at) {
                napt.handle_timeout(now, out);
                self.routing.collect(number, &mut self.slots);
            }
        }
        self.finish_routing(false, now.instant);
    }

    /// Gives back what routers were lent outside.
    pub(in crate::engine) fn shut_down_routers(&mut self) {
        let now = clock();
        for number in 0..self.routing.routers.len() {
            let Routing { routers, out, .. } = &mut self.routing;
            routers[number].napt.shutdown(now, out);
            self.routing.collect(number, &mut self.slots);
        }
        self.finish_routing(false, now.instant);
    }
}
