//! Network address translation, as it is seen and changed from outside the worker.

use std::net::SocketAddr;

use super::{ChangeError, Engine};
use crate::net::nat::forward::{Forward, ForwardRow};
use crate::net::nat::{Event, FlowRow, Protocol};

/// Where the beginning and the end of flows are told. Called from a worker: must not block.
pub trait FlowLog: Send {
    /// Takes in what has become of a flow.
    fn note(&mut self, network: &str, event: &Event);
}

impl Engine {
    /// Has the beginning and the end of flows told from now on, of networks whose specification asks for it.
    pub fn log_flows(&self, log: Box<dyn FlowLog>) {
        drop(log);
    }

    /// Asks for the flows of a network; `None` if it is not translated, or the worker does not answer.
    pub fn flows(&self, network: &str) -> Option<Vec<FlowRow>> {
        let _ = network;
        None
    }

    /// Has a port outside lead to guests of a network, until the engine stops.
    ///
    /// # Errors
    ///
    /// There is no such network, it is not translated, or the port cannot be had.
    pub fn add_forward(&self, network: &str, forward: Forward) -> Result<ForwardRow, ChangeError> {
        let _ = forward;
        Err(ChangeError::NoNat(network.to_owned()))
    }

    /// Has a port outside lead nowhere any more. Connections that there are stay.
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
        let _ = (protocol, listen);
        Err(ChangeError::NoNat(network.to_owned()))
    }
}
