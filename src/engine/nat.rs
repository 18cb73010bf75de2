//! The NAT of a network: what it is opened as, and what is asked and told of it while it runs.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use crossbeam_channel::Sender;

use super::worker::{Command, Worker, clock};
use super::{ChangeError, Engine, PATIENCE};
use crate::net::gateway;
use crate::net::nat::forward::{Forward, ForwardRow};
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
        streams: false,
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

impl Worker {
    /// The translator of a network.
    pub(super) fn nat(&mut self, index: usize) -> Option<&mut dyn Nat> {
        self.slots
            .iter_mut()
            .filter(|slot| slot.network == index)
            .find_map(|slot| slot.port.nat())
    }

    fn find_nat(&mut self, network: &str) -> Result<&mut dyn Nat, ChangeError> {
        let index = self.find_network(network)?;
        self.nat(index)
            .ok_or_else(|| ChangeError::NoNat(network.to_owned()))
    }

    /// Does what is asked of a network's NAT. Who asked may have gone.
    pub(super) fn handle_nat(&mut self, network: &str, request: NatRequest) {
        let now = clock();
        match request {
            NatRequest::Flows(reply) => {
                let flows = self.find_nat(network).map(|nat| nat.flows(now));
                let _ = reply.send(flows);
            }
            NatRequest::Add(forward, reply) => {
                let added = self
                    .find_nat(network)
                    .and_then(|nat| Ok(nat.add_forward(forward)?));
                let _ = reply.send(added);
            }
            NatRequest::Remove(protocol, listen, reply) => {
                let removed = self.find_nat(network).and_then(|nat| {
                    if nat.remove_forward(protocol, listen, now) {
                        return Ok(());
                    }
                    Err(ChangeError::NoForward {
                        network: network.to_owned(),
                        protocol: protocol.name(),
                        listen,
                    })
                });
                let _ = reply.send(removed);
            }
        }
    }
}
