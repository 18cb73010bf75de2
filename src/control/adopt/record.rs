//! What was taken from an adapter, and `adopted.json` in the state directory, where it is kept.
//!
//! The record has all that it takes to make every address and route again, on either adapter. Points in time are in
//! seconds since 1970, so that what ends does not last longer for having been moved.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::control::{directory, timestamp};

/// The file's name in the state directory.
const FILE: &str = "adopted.json";

/// An address of an adapter, of global scope.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address, with the length of its prefix.
    pub net: IpNet,
    /// The other end, where the adapter is one end of a line.
    pub peer: Option<IpAddr>,
    /// The broadcast address, where one was set.
    pub broadcast: Option<Ipv4Addr>,
    /// Those of the kernel's flags that whoever adds an address decides on (`linux/if_addr.h`).
    pub flags: u32,
    /// The metric of the route to its prefix, where one was set.
    pub metric: Option<u32>,
    /// When it ends; absent where it does not.
    pub valid_until: Option<u64>,
    /// Until when new connections use it; absent where there is no end.
    pub preferred_until: Option<u64>,
}

impl Address {
    /// Whether it is the same address, whatever its lifetime.
    pub fn is(&self, other: &Self) -> bool {
        self.net == other.net && self.peer == other.peer
    }
}

/// A unicast route that leaves by an adapter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// The routing table.
    pub table: u32,
    /// The type of service.
    pub tos: u8,
    /// Who made it (`linux/rtnetlink.h`).
    pub protocol: u8,
    /// How far its next hop is.
    pub scope: u8,
    /// The next hop, where it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is reached without a route to it.
    pub onlink: bool,
    /// The source address that the host prefers here.
    pub source: Option<IpAddr>,
    /// Its metric.
    pub metric: Option<u32>,
    /// The preference of an IPv6 router.
    pub preference: Option<u8>,
    /// Such things as the MTU, by the kernel's number.
    pub metrics: BTreeMap<u16, u32>,
    /// When it ends; absent where it does not.
    pub until: Option<u64>,
}

impl Route {
    /// Whether it is the same route, whatever its lifetime.
    pub fn is(&self, other: &Self) -> bool {
        let timeless = |route: &Self| Self {
            until: None,
            ..route.clone()
        };
        timeless(self) == timeless(other)
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.destination.prefix_len() == 0 {
            f.write_str("default")?;
        } else {
            write!(f, "{}", self.destination)?;
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

/// All that moves from one adapter to another.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Baggage {
    /// The addresses, in the order in which they are added.
    pub addresses: Vec<Address>,
    /// The routes, in the order in which they are added.
    pub routes: Vec<Route>,
}

impl Baggage {
    /// Leaves out what has ended by now; tells whether there was such an address.
    pub fn expire(&mut self, now: SystemTime) -> bool {
        let now = timestamp::seconds(now);
        let lasts = |until: Option<u64>| until.is_none_or(|until| until > now);
        let before = self.addresses.len();
        self.addresses.retain(|address| lasts(address.valid_until));
        self.routes.retain(|route| lasts(route.until));
        self.addresses.len() < before
    }

    /// Gives what is here the lifetimes that it has in `current`, where it is there.
    pub fn refresh(&mut self, current: &Self) {
        for address in &mut self.addresses {
            if let Some(found) = current.addresses.iter().find(|found| found.is(address)) {
                *address = found.clone();
            }
        }
        for route in &mut self.routes {
            if let Some(found) = current.routes.iter().find(|found| found.is(route)) {
                *route = found.clone();
            }
        }
    }

    /// Adds what is in `other` and not here, and takes its lifetimes.
    pub fn merge(&mut self, other: Self) {
        self.refresh(&other);
        for address in other.addresses {
            if !self.addresses.iter().any(|known| known.is(&address)) {
                self.addresses.push(address);
            }
        }
        for route in other.routes {
            if !self.routes.iter().any(|known| known.is(&route)) {
                self.routes.push(route);
            }
        }
        self.sort();
    }

    /// Puts routes to neighbours before those that need them to reach their gateway.
    pub fn sort(&mut self) {
        self.routes.sort_by_key(|route| route.gateway.is_some());
    }
}

/// How far an adoption is.
///
/// ```text
///          move          confirm         stop, adapter gone
/// (none) ───────▶ Pending ───────▶ Confirmed ◀──────▶ Resting
///                    │ timeout,        │ undo   start,   │ undo
///                    ▼ undo            ▼ adapter is back ▼
///                 Returning ◀──────────┴─────────────────┘
///                    │ everything is back
///                    ▼
///                 (none)
/// ```
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Moved, and to be undone unless somebody confirms.
    Pending,
    /// Moved for good: taken again whenever the daemon runs.
    Confirmed,
    /// Confirmed, and back at the adapter while the daemon is not there to serve it.
    Resting,
    /// Being undone; what could not be put back yet is tried again.
    Returning,
}

/// One adapter whose addresses and routes the host adapter has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Adoption {
    /// The adapter: an uplink.
    pub interface: String,
    /// Its network.
    pub network: String,
    /// The port group of the host adapter, if it is in one.
    pub port_group: Option<String>,
    /// The host adapter.
    pub host_adapter: String,
    /// How far it is.
    pub stage: Stage,
    /// Until when it can be confirmed.
    pub until: Option<u64>,
    /// What `arp_ignore` of the adapter was, where it was changed.
    pub arp_ignore: Option<u8>,
    /// What moved.
    pub baggage: Baggage,
    /// When there is something to do by itself.
    #[serde(skip)]
    pub deadline: Option<Instant>,
    /// The kernel's number of the host adapter that was given the addresses last, while it is there.
    #[serde(skip)]
    pub index: Option<u32>,
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read.
    #[error(
        "cannot read which addresses were adopted in {path}: {source}; run this as the user of the daemon"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It makes no sense.
    #[error(
        "cannot read which addresses were adopted in {path}: {source}; mend the file, or give the adapters their addresses back and remove it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error(
        "cannot note in {path} which addresses are adopted: {source}; free space or make the directory writable"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    adoptions: Vec<Adoption>,
}

/// The file.
#[derive(Debug)]
pub struct Record(PathBuf);

impl Record {
    /// Names the record in a state directory, which need not be there yet.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join(FILE))
    }

    /// Tells whether there is a file.
    pub fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// Reads it; without a file, nothing is adopted.
    ///
    /// # Errors
    ///
    /// There is a file that cannot be read.
    pub fn load(&self) -> Result<Vec<Adoption>, RecordError> {
        let path = || self.0.clone();
        match std::fs::read(&self.0) {
            Ok(bytes) => match serde_json::from_slice::<Content>(&bytes) {
                Ok(content) => Ok(content.adoptions),
                Err(source) => Err(RecordError::Format {
                    path: path(),
                    source,
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(RecordError::Read {
                path: path(),
                source,
            }),
        }
    }

    /// Writes it, and returns when it is on disk. Where nothing is adopted there is no file.
    ///
    /// # Errors
    ///
    /// The system refuses; what was there is still there.
    pub fn save(&self, adoptions: &[Adoption]) -> Result<(), RecordError> {
        let write = || match adoptions {
            [] => match std::fs::remove_file(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
            adoptions => {
                let content = Content {
                    adoptions: adoptions.to_vec(),
                };
                let text = serde_json::to_string_pretty(&content)? + "\n";
                directory::replace(&self.0, text.as_bytes(), 0o644)
            }
        };
        write().map_err(|source| RecordError::Write {
            path: self.0.clone(),
            source,
        })
    }
}
