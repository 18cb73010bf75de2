//! The NAT of a network: what it is opened as, and what is asked and told of it while it runs.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use crossbeam_channel::Sender;

use super::worker::{Command, Worker, clock};
use super::{ChangeError, Engine, PATIENCE};
use crate::net::Now;
use crate::net::gateway::{self, ServiceSpec};
use crate::net::nat::forward::{Forward, ForwardRow};
use crate::net::nat::health::Probe;
use crate::net::nat::{Event, FlowRow, Nat, Outside, Protocol};
use crate::ports::sockets;

/// Where the beginning and the end of flows are told. Called from a worker: must not block.
pub trait FlowLog: Send {
    /// Takes in what has become of a flow.
    fn note(&mut self, network: &str, event: &Event);
}

/// What is asked of a network's NAT, and who hears the answer.
pub(super) enum NatRequest {
    /// All flows.
    Flows(Sender<Result<Vec<FlowRow>, ChangeError>>),
    /// To forward a port.
    Add(Forward, Sender<Result<ForwardRow, ChangeError>>),
    /// To stop that.
    Remove(Protocol, SocketAddr, Sender<Result<(), ChangeError>>),
}

/// Returns the sockets that a gateway needs to lead where it does.
pub(super) fn sockets(gateway: &gateway::Spec, mtu: u16) -> Option<sockets::Spec> {
    let nat = gateway.nat.clone()?;
    let transit = match nat.outside {
        Outside::Host => true,
        Outside::Network(_) => false,
    };
    let mut nat = nat;
    if !transit {
        // Those are the other network's ports, and it is its translator that tells of flows.
        nat.forwards.clear();
        nat.log = false;
    }
    Some(sockets::Spec {
        nat,
        mac: gateway.mac,
        mtu,
        transit,
        streams: gateway
            .services
            .iter()
            .any(|service| matches!(service, ServiceSpec::Dns(_))),
        // Another one each time, which nobody can foresee.
        seed: RandomState::new().hash_one(0),
    })
}

impl Engine {
    /// Has the beginning and the end of flows told from now on, of networks whose specification asks for it.
    pub fn log_flows(&self, log: Box<dyn FlowLog>) {
        self.command(Command::LogFlows(log));
    }

    /// Asks for the flows of a network; `None` if it has no NAT, or the worker does not answer.
    pub fn flows(&self, network: &str) -> Option<Vec<FlowRow>> {
        self.ask(network, NatRequest::Flows).ok()
    }

    /// Has a port outside lead to guests of a network, until the engine stops.
    ///
    /// # Errors
    ///
    /// There is no such network, it has no NAT, or the port cannot be had.
    pub fn add_forward(&self, network: &str, forward: Forward) -> Result<ForwardRow, ChangeError> {
        self.ask(network, |reply| NatRequest::Add(forward, reply))
    }

    /// Has a port outside lead nowhere any more; of a range, the first is named. TCP connections that there are stay.
    ///
    /// # Errors
    ///
    /// There is no such network or forward.
    pub fn remove_forward(
        &self,
        network: &str,
        protocol: Protocol,
        listen: SocketAddr,
    ) -> Result<(), ChangeError> {
        self.ask(network, |reply| NatRequest::Remove(protocol, listen, reply))
    }

    fn ask<T>(
        &self,
        network: &str,
        request: impl FnOnce(Sender<Result<T, ChangeError>>) -> NatRequest,
    ) -> Result<T, ChangeError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let asked = (network.to_owned(), request(reply));
        self.command(Command::Nat(Box::new(asked)));
        answer
            .recv_timeout(PATIENCE)
            .unwrap_or(Err(ChangeError::NoAnswer))
    }
}

/// The targets that are looked after, each list with the forward that it is of.
#[derive(Debug, Default)]
pub(super) struct Probes(Vec<(Protocol, SocketAddr, Vec<Probe>)>);

impl Probes {
    /// Takes in a forward that listens there, with the port that was picked where none was named.
    fn add(&mut self, forward: &Forward, listen: SocketAddr) {
        let Some(health) = forward.health else {
            return;
        };
        // Of a range, the first port stands for all of a target.
        let probes = forward.targets.iter().map(|target| Probe {
            host: target.host.clone(),
            port: target.port,
            health,
        });
        self.0.push((forward.protocol, listen, probes.collect()));
    }

    fn remove(&mut self, protocol: Protocol, listen: SocketAddr) {
        self.0
            .retain(|(other, at, _)| (*other, *at) != (protocol, listen));
    }

    fn all(&self) -> Vec<Probe> {
        let lists = self.0.iter().map(|(_, _, probes)| probes);
        lists.flatten().cloned().collect()
    }
}

impl Worker {
    /// Does something with the translator of a network, if it has one.
    pub(super) fn with_nat<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut dyn Nat) -> T,
    ) -> Option<T> {
        let slots = &mut self.slots;
        if let Some(router) = self.routing.of(index) {
            let gateway = slots
                .iter()
                .filter(|slot| slot.network == index)
                .find_map(|slot| slot.port.gateway())?;
            return Some(act(&mut router.nat(gateway.inside())));
        }
        let mut slots = slots.iter_mut().filter(|slot| slot.network == index);
        slots.find_map(|slot| slot.port.nat()).map(act)
    }

    fn with_named_nat<T>(
        &mut self,
        network: &str,
        act: impl FnOnce(&mut dyn Nat) -> T,
    ) -> Result<(usize, T), ChangeError> {
        let index = self.find_network(network)?;
        self.with_nat(index, act)
            .map(|done| (index, done))
            .ok_or_else(|| ChangeError::NoNat(network.to_owned()))
    }

    /// Has the targets of these forwards of a network be looked after.
    pub(super) fn watch_targets(&mut self, index: usize, forwards: &[Forward], now: Now) {
        for forward in forwards {
            let listen = SocketAddr::new(forward.ip, forward.first);
            self.networks[index].probes.add(forward, listen);
        }
        self.set_probes(index, now);
    }

    fn set_probes(&mut self, index: usize, now: Now) {
        let probes = self.networks[index].probes.all();
        for slot in &mut self.slots {
            if slot.network == index
                && let Some(gateway) = slot.port.gateway_mut()
            {
                gateway.set_probes(&probes, now);
            }
        }
        self.plan_timer();
    }

    /// Does what is asked of a network's NAT. Who asked may have gone.
    pub(super) fn handle_nat(&mut self, network: &str, request: NatRequest) {
        let now = clock();
        match request {
            NatRequest::Flows(reply) => {
                let flows = self.with_named_nat(network, |nat| nat.flows(now));
                let _ = reply.send(flows.map(|(_, flows)| flows));
            }
            NatRequest::Add(forward, reply) => {
                let _ = reply.send(self.add_forward(network, forward, now));
            }
            NatRequest::Remove(protocol, listen, reply) => {
                let _ = reply.send(self.remove_forward(network, protocol, listen, now));
            }
        }
    }

    fn add_forward(
        &mut self,
        network: &str,
        forward: Forward,
        now: Now,
    ) -> Result<ForwardRow, ChangeError> {
        let wanted = forward.clone();
        let (index, added) = self.with_named_nat(network, |nat| nat.add_forward(forward))?;
        let row = added?;
        self.networks[index].probes.add(&wanted, row.listen);
        self.set_probes(index, now);
        Ok(row)
    }

    fn remove_forward(
        &mut self,
        network: &str,
        protocol: Protocol,
        listen: SocketAddr,
        now: Now,
    ) -> Result<(), ChangeError> {
        let remove = |nat: &mut dyn Nat| nat.remove_forward(protocol, listen, now);
        let (index, removed) = self.with_named_nat(network, remove)?;
        if !removed {
            return Err(ChangeError::NoForward {
                network: network.to_owned(),
                protocol: protocol.name(),
                listen,
            });
        }
        self.networks[index].probes.remove(protocol, listen);
        self.set_probes(index, now);
        Ok(())
    }
}
