//! Placeholder of the types only.

use crate::wire::ethernet::MacAddr;

/// Who begins to speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// We do.
    #[default]
    Active,
    /// The partner does.
    Passive,
}

/// How often the partner is asked to speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Rate {
    /// Every second.
    Fast,
    /// Every 30 seconds.
    #[default]
    Slow,
}

/// How a team speaks LACP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// Who begins.
    pub mode: Mode,
    /// How often the partner is to speak.
    pub rate: Rate,
    /// Whether one uplink is used while no partner speaks.
    pub fallback: bool,
    /// The team's own address.
    pub system: MacAddr,
    /// The team's priority.
    pub system_priority: u16,
}

/// Stub.
#[derive(Debug)]
pub struct Lacp;
use crate::net::port::{OwnFrames, PortId};
use std::time::Instant;
#[allow(missing_docs)]
impl Lacp {
    pub fn new(_spec: Spec) -> Self {
        Self
    }
    pub fn add(&mut self, _port: PortId) {}
    pub fn remove(&mut self, _port: PortId, _now: Instant) {}
    pub fn set_link(
        &mut self,
        _port: PortId,
        _up: bool,
        _mac: MacAddr,
        _speed: Option<u64>,
        _now: Instant,
    ) {
    }
    pub fn handle_pdu(
        &mut self,
        _port: PortId,
        _payload: &[u8],
        _now: Instant,
        _out: &mut OwnFrames,
    ) {
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    pub fn handle_timeout(&mut self, _now: Instant, _out: &mut OwnFrames) {}
    pub fn may_send(&self, _port: PortId) -> bool {
        true
    }
    pub fn may_receive(&self, _port: PortId) -> bool {
        true
    }
}
/// Stub.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Status { pub fallback: bool }
#[allow(missing_docs)]
impl Lacp { pub fn status(&self, _port: PortId) -> Option<Status> { None } }
