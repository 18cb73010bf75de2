//! The host, whose addresses move: what is asked of it, and how it is changed.
//!
//! Every change is idempotent: what is there already is not added, what is gone is not removed, and the answer tells
//! whether anything changed.

use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use super::record::{Address, Baggage, Route};

/// A change of an adapter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Gives the adapter an address.
    AddAddress(String, Address),
    /// Takes an address from the adapter.
    RemoveAddress(String, Address),
    /// Lets a route leave by the adapter.
    AddRoute(String, Route),
    /// Takes a route away.
    RemoveRoute(String, Route),
    /// Sets whether the adapter answers ARP for addresses of other adapters: what it was, what it becomes.
    ArpIgnore(String, u8, u8),
}

impl Change {
    /// Returns what undoes it.
    pub fn opposite(&self) -> Self {
        match self.clone() {
            Self::AddAddress(adapter, address) => Self::RemoveAddress(adapter, address),
            Self::RemoveAddress(adapter, address) => Self::AddAddress(adapter, address),
            Self::AddRoute(adapter, route) => Self::RemoveRoute(adapter, route),
            Self::RemoveRoute(adapter, route) => Self::AddRoute(adapter, route),
            Self::ArpIgnore(adapter, was, is) => Self::ArpIgnore(adapter, is, was),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddAddress(adapter, address) => write!(f, "give {} to {adapter}", address.net),
            Self::RemoveAddress(adapter, address) => {
                write!(f, "take {} from {adapter}", address.net)
            }
            Self::AddRoute(adapter, route) => write!(f, "add the route {route} by {adapter}"),
            Self::RemoveRoute(adapter, route) => write!(f, "remove the route {route} by {adapter}"),
            Self::ArpIgnore(adapter, _, to) => write!(f, "set arp_ignore of {adapter} to {to}"),
        }
    }
}

/// Why an adapter cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The kernel refuses.
    #[error("the kernel does not tell: {0}")]
    System(#[from] io::Error),
    /// There is a route that cannot be moved.
    #[error("the route {route} {reason}")]
    Route {
        /// The route.
        route: String,
        /// Why, and what to do.
        reason: &'static str,
    },
}

/// An adapter as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// The kernel's number of it, which another one of the same name would not have.
    pub index: u32,
    /// Whether it is up.
    pub up: bool,
}

/// The host whose addresses move.
pub trait Host: Send {
    /// Returns the state of an adapter; `None` where there is none of this name.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn link(&mut self, adapter: &str) -> io::Result<Option<Link>>;

    /// Returns the addresses of global scope, and the routes that do not follow from them.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or there is something that cannot be moved.
    fn read(&mut self, adapter: &str, now: SystemTime) -> Result<Baggage, ReadError>;

    /// Returns the IPv6 neighbours that the adapter knows.
    fn neighbours(&mut self, adapter: &str) -> Vec<IpAddr>;

    /// Returns how far the adapter keeps from answering ARP for other adapters.
    fn arp_ignore(&mut self, adapter: &str) -> Option<u8>;

    /// Makes a change, and tells whether it was one.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    fn change(&mut self, change: &Change, now: SystemTime) -> io::Result<bool>;

    /// Has the host ask the LAN for a neighbour, which tells the LAN where the host is. Whether it answers is no matter.
    fn greet(&mut self, adapter: &str, source: Option<IpAddr>, neighbour: IpAddr);
}
