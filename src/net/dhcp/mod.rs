//! The DHCP server (RFC 2131).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;

use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::wire::ethernet::MacAddr;

/// By what a client is told from another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Identity {
    /// By its hardware address: one port, one address, whatever boots behind it.
    #[default]
    Mac,
    /// By its client identifier (option 61) where it sends one.
    ClientId,
}

/// An address that belongs to one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The address it always gets.
    pub ip: Ipv4Addr,
    /// The name it is given (option 12), if any.
    pub hostname: Option<String>,
}

/// What a DHCP server hands out, and to whom. All addresses lie in `subnet`; ranges were checked before.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The subnet that is served (option 1).
    pub subnet: Ipv4Net,
    /// The server's own address (option 54).
    pub server: Ipv4Addr,
    /// The addresses for clients without a reservation.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// How long a lease lasts when the client does not ask (option 51).
    pub lease: Duration,
    /// The longest lease that a client can ask for.
    pub max_lease: Duration,
    /// When clients renew (option 58); half the lease where absent.
    pub renew: Option<Duration>,
    /// When clients rebind (option 59); seven eighths of the lease where absent.
    pub rebind: Option<Duration>,
    /// The routers (option 3).
    pub routers: Vec<Ipv4Addr>,
    /// The name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// The time servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// The domain name (option 15).
    pub domain: Option<String>,
    /// The domain search list (option 119, RFC 3397).
    pub search: Vec<String>,
    /// The MTU (option 26).
    pub mtu: Option<u16>,
    /// Classless static routes (option 121, RFC 3442).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Vendor-specific information (option 43).
    pub vendor: Option<Vec<u8>>,
    /// The server to boot from: the `siaddr` field.
    pub next_server: Option<Ipv4Addr>,
    /// The name of the TFTP server (option 66).
    pub tftp_server: Option<String>,
    /// The file to boot (option 67 and the `file` field).
    pub boot_file: Option<String>,
    /// Further options by code, sent as they are.
    pub options: Vec<(u8, Vec<u8>)>,
    /// By what clients are told apart.
    pub identity: Identity,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Reservation>,
    /// Leases from before a restart.
    pub restored: Vec<Record>,
}

/// What became of an address, as it is kept on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Leased until the record's end.
    Bound,
    /// Given back; free, but kept for the same client as long as nobody else needs it.
    Released,
    /// Found in use by somebody else; not given out until the record's end.
    Declined,
}

/// A line of the lease file: the newest for an address counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The address.
    pub ip: Ipv4Addr,
    /// What became of it.
    pub state: State,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The client identifier (option 61), if it sent one.
    pub client_id: Option<Vec<u8>>,
    /// The name the client gave itself (option 12), if any; printable ASCII without spaces.
    pub hostname: Option<String>,
    /// When the state ends.
    pub ends: SystemTime,
}

/// A lease as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The client identifier, if it sent one.
    pub client_id: Option<Vec<u8>>,
    /// The client's name, if known.
    pub hostname: Option<String>,
    /// When it ends.
    pub expires: SystemTime,
}

/// The DHCP server of one network.
#[derive(Debug)]
pub struct Dhcp {}

impl Dhcp {
    /// Starts a server with its restored leases.
    pub fn new(_spec: Spec, _mac: MacAddr, _now: Now) -> Self {
        Self {}
    }
}

impl Service for Dhcp {
    fn handle_frame(&mut self, _frame: GatewayFrame<'_>, _now: Now, _out: &mut Replies) -> Claim {
        Claim::Passed
    }
}
