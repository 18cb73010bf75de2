//! Uplinks that come and go while frames flow.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::slot::Slot;
use super::worker::{Worker, clock};
use crate::net::member::Member;
use crate::net::nat::forward::ForwardError;
use crate::net::port::PortId;
use crate::net::team::Role;
use crate::net::vlan::PortVlan;
use crate::ports::{OpenError, Port};

/// Why a running network was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such network.
    #[error("there is no network {0:?}")]
    NoNetwork(String),
    /// The network has no team.
    #[error("network {0:?} has no team; uplinks are for bridged networks")]
    NoTeam(String),
    /// The adapter is an uplink already.
    #[error("{name:?} is an uplink of network {network:?} already")]
    Taken {
        /// The adapter.
        name: String,
        /// The network.
        network: String,
    },
    /// The network has no such uplink.
    #[error("network {network:?} has no uplink {name:?}")]
    NoUplink {
        /// The network.
        network: String,
        /// The adapter.
        name: String,
    },
    /// The adapter cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel refuses to watch the adapter.
    #[error("cannot watch the uplink: {0}")]
    Watch(#[from] std::io::Error),
    /// The network leads nowhere.
    #[error("network {0:?} has no NAT: its mode is not \"nat\"")]
    NoNat(String),
    /// A port cannot be forwarded.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Nothing is forwarded there.
    #[error("network {network:?} forwards no {protocol} port {listen}")]
    NoForward {
        /// The network.
        network: String,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address and the first port.
        listen: SocketAddr,
    },
    /// The worker is stuck.
    #[error("the worker does not answer; restart the daemon")]
    NoAnswer,
}

/// An uplink that is to be taken in.
pub(super) struct NewUplink {
    pub(super) network: String,
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) port: Box<dyn Port>,
    pub(super) reply: Sender<Result<(), ChangeError>>,
}

/// An uplink that is to go.
pub(super) struct OldUplink {
    pub(super) network: String,
    pub(super) name: String,
    pub(super) reply: Sender<Result<(), ChangeError>>,
}

impl Worker {
    pub(super) fn add_uplink(&mut self, new: NewUplink) {
        let NewUplink {
            network,
            name,
            role,
            port,
            reply,
        } = new;
        // Who asked may have gone.
        let _ = reply.send(self.try_add_uplink(&network, name, role, port));
    }

    fn try_add_uplink(
        &mut self,
        network: &str,
        name: String,
        role: Role,
        port: Box<dyn Port>,
    ) -> Result<(), ChangeError> {
        let index = self.find_network(network)?;
        let now = clock();
        if self.networks[index].switch.team().is_none() {
            return Err(ChangeError::NoTeam(network.to_owned()));
        }
        let mut others = self.slots.iter().filter(|slot| slot.kind == "uplink");
        if let Some(other) = others.find(|slot| slot.name == name) {
            let network = self.networks[other.network].name.to_string();
            return Err(ChangeError::Taken { name, network });
        }
        let mut slot = Slot::new(name.clone(), "uplink", index, port, now.instant);
        slot.port.handle_timeout(now);
        let member = Member {
            vlan: PortVlan::All,
            uplink: true,
            service_tags: true,
            ..Member::default()
        };
        let id = self.add(slot, member)?;
        if let Some(team) = self.networks[index].switch.team_mut() {
            team.assign(&name, role);
        }
        self.join_team(id, &name, now.instant);
        self.networks[index].switch.settle(&mut self.own);
        self.follow_switch(index, now.instant);
        self.plan_timer();
        tracing::info!(network, uplink = name, "the uplink was added");
        Ok(())
    }

    /// Tells the team of an uplink's network of the uplink, and what its adapter says of itself, with a link or without.
    pub(super) fn join_team(&mut self, port: PortId, name: &str, now: Instant) {
        let slot = &self.slots[port.index()];
        let adapter = slot.port.adapter().map(|facts| (facts.mac, facts.speed));
        if let Some(team) = self.networks[slot.network].switch.team_mut() {
            team.add_uplink(port, name, now);
            team.set_link(port, false, adapter, now);
        }
    }

    pub(super) fn remove_uplink(&mut self, old: &OldUplink) {
        // Who asked may have gone.
        let _ = old.reply.send(self.try_remove_uplink(old));
    }

    fn try_remove_uplink(&mut self, old: &OldUplink) -> Result<(), ChangeError> {
        let index = self.find_network(&old.network)?;
        let now = clock().instant;
        let found = self.slots.iter().position(|slot| {
            slot.network == index && slot.kind == "uplink" && slot.name == old.name
        });
        let id = found.and_then(|at| u16::try_from(at).ok()).map(PortId);
        let Some(id) = id else {
            return Err(ChangeError::NoUplink {
                network: old.network.clone(),
                name: old.name.clone(),
            });
        };
        let switch = &mut self.networks[index].switch;
        switch.set_now(now);
        switch.remove_uplink(id, &mut self.own);
        self.follow_switch(index, now);
        let port = self.slots[id.index()].vacate(now);
        // The kernel lets who closes it wait. Where there is no thread for that, it is closed here.
        let closing = thread::Builder::new().name("uplink closing".to_owned());
        let _ = closing.spawn(move || drop(port));
        self.hot.retain(|port| *port != id);
        tracing::info!(
            network = old.network,
            uplink = old.name,
            "the uplink was removed"
        );
        Ok(())
    }

    /// Tells the stations of all networks, and the neighbours of all uplinks, that this is the end.
    pub(super) fn say_good_bye(&mut self) {
        let clock = clock();
        let now = clock.instant;
        for index in 0..self.slots.len() {
            if let (true, Ok(id)) = (self.slots[index].answers, u16::try_from(index)) {
                self.slots[index].port.handle_stop(clock);
                self.visit(PortId(id), now);
            }
        }
        for index in 0..self.networks.len() {
            if let Some(team) = self.networks[index].switch.team_mut() {
                team.shut_down(&mut self.own);
                self.follow_switch(index, now);
            }
        }
    }

    pub(super) fn find_network(&self, name: &str) -> Result<usize, ChangeError> {
        self.networks
            .iter()
            .position(|network| &*network.name == name)
            .ok_or_else(|| ChangeError::NoNetwork(name.to_owned()))
    }
}
