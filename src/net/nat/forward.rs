//! Port forwards: a port outside that leads to guests, and which of several guests a connection goes to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::net::nat::Protocol;
use crate::wire::ethernet::MacAddr;

/// A port forward.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address it listens on; unspecified stands for all of its family.
    pub ip: IpAddr,
    /// The first port; 0 has one picked.
    pub first: u16,
    /// The last port, which is the first where there is one.
    pub last: u16,
    /// Where it leads to, at least one.
    pub targets: Vec<Target>,
    /// How one of several targets is chosen.
    pub balance: Balance,
    /// How targets are looked after; TCP only.
    pub health: Option<Health>,
}

/// A guest's port, or as many of them as the forward listens on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The guest.
    pub host: Host,
    /// The first port.
    pub port: u16,
}

/// A guest by what is known of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// A VM of the network, whatever its address is at the time.
    Vm {
        /// Its name.
        name: String,
        /// Its hardware address.
        mac: MacAddr,
    },
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm { name, .. } => f.write_str(name),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

/// How one of several targets is chosen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// By the client's address: the same client, the same target.
    SourceHash,
    /// The one with the fewest connections.
    LeastConnections,
}

impl Balance {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::SourceHash => "source-hash",
            Self::LeastConnections => "least-connections",
        }
    }
}

/// How a target is looked after: by opening a TCP connection to it now and then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Health {
    /// How often.
    pub interval: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// After how many failures in a row it is down.
    pub fall: u32,
    /// After how many successes in a row it is up again.
    pub rise: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            fall: 3,
            rise: 2,
        }
    }
}

/// Why a port is not forwarded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ForwardError {
    /// Somebody has the port.
    #[error("cannot forward {protocol} port {listen}: {by}; choose another port, or free this one")]
    Taken {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address and the port that was tried.
        listen: SocketAddr,
        /// Who has it.
        by: String,
    },
    /// The process may not listen there.
    #[error(
        "cannot forward {protocol} port {listen}: permission denied; choose a port from 1024 on, or run with CAP_NET_BIND_SERVICE"
    )]
    Permission {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address and the port that was tried.
        listen: SocketAddr,
    },
    /// It cannot be done.
    #[error("cannot forward {protocol} port {listen}: {reason}")]
    Other {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The address and the port that was tried.
        listen: SocketAddr,
        /// Why, and what to do.
        reason: String,
    },
}

/// A port forward as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForwardRow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address and the first port that it listens on: the one that was picked where none was named.
    pub listen: SocketAddr,
    /// The last port.
    pub last: u16,
    /// Where it leads to.
    pub targets: Vec<TargetRow>,
    /// How one of several targets is chosen.
    pub balance: Balance,
    /// Why it does not work, if it does not.
    pub error: Option<String>,
}

/// A target as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TargetRow {
    /// The guest's name or address, as it was typed.
    pub host: String,
    /// The guest's address, where it is known.
    pub ip: Option<IpAddr>,
    /// The first port.
    pub port: u16,
    /// Whether it answers, where that is looked after.
    pub up: Option<bool>,
    /// How many connections it has.
    pub connections: usize,
}
