//! The network as state machines: switch, forwarding table, VLANs, offloads, gateway and its services.
//!
//! Nothing here does I/O or reads a clock: the time is an argument. Every table has a limit.
#![forbid(unsafe_code)]

use std::time::{Instant, SystemTime};

pub mod address;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
pub mod drops;
pub mod fdb;
pub mod frame;
pub mod gateway;
pub mod guard;
pub mod inside;
pub mod member;
pub mod mix;
pub mod multicast;
pub mod napt;
pub mod nat;
pub mod neighbours;
pub mod offload;
pub mod outbox;
pub mod packet;
pub mod port;
pub mod router_advertisement;
pub mod security;
pub mod storm;
pub mod switch;
pub mod tcp;
pub mod team;
pub mod vlan;

/// The present, as the engine read it: for intervals and for what is kept on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// For intervals: never goes back.
    pub instant: Instant,
    /// For what outlives the process, such as the end of a lease.
    pub wall: SystemTime,
}
