//! Who is inside a network: what the gateway knows of its stations, for the services behind it.
//!
//! Names and hardware addresses of VMs are told; IP addresses come from reservations, from leases as they are given, and
//! from what stations are seen to send. Every table has a limit: what does not fit is not known.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Instant, SystemTime};

use crate::net::dhcp::{Record, State};
use crate::wire::ethernet::MacAddr;

/// How many stations are known at most.
const STATIONS: usize = 65_536;
/// How many addresses a station has at most, beside its lease.
const SEEN: usize = 16;

/// What is known from the start.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The VMs of the network by name.
    pub vms: Vec<(String, MacAddr)>,
    /// Addresses that are reserved, and the name of whoever has them.
    pub reservations: Vec<(MacAddr, Ipv4Addr, Option<String>)>,
}

#[derive(Debug, Default)]
struct Station {
    reserved: Option<Ipv4Addr>,
    lease: Option<(Ipv4Addr, SystemTime)>,
    /// What it calls itself.
    hostname: Option<String>,
    /// The name it was given.
    name: Option<String>,
    /// Addresses that it was seen to use, the last first.
    seen: Vec<(IpAddr, Instant)>,
}

/// Who is inside.
#[derive(Debug, Default)]
pub struct Inside {
    stations: HashMap<MacAddr, Station, foldhash::fast::RandomState>,
    owners: HashMap<IpAddr, MacAddr, foldhash::fast::RandomState>,
    names: BTreeMap<String, MacAddr>,
    /// Targets of port forwards that do not answer.
    down: Vec<SocketAddr>,
}

impl Inside {
    /// Begins with what is known.
    pub fn new(spec: Spec) -> Self {
        let mut inside = Self::default();
        for (name, mac) in spec.vms {
            inside.names.insert(name.to_ascii_lowercase(), mac);
            inside.stations.entry(mac).or_default().name = Some(name);
        }
        for (mac, ip, hostname) in spec.reservations {
            if let Some(hostname) = &hostname {
                inside.names.insert(hostname.to_ascii_lowercase(), mac);
            }
            let station = inside.stations.entry(mac).or_default();
            station.reserved = Some(ip);
            if station.name.is_none() {
                station.name = hostname;
            }
            inside.owners.insert(ip.into(), mac);
        }
        inside
    }

    /// Takes in a line of the lease file.
    pub fn note_lease(&mut self, record: &Record) {
        let known = self.stations.contains_key(&record.mac);
        if !known && self.stations.len() >= STATIONS {
            return;
        }
        let station = self.stations.entry(record.mac).or_default();
        if record.state == State::Bound {
            station.lease = Some((record.ip, record.ends));
            if record.hostname.is_some() {
                station.hostname.clone_from(&record.hostname);
            }
            self.owners.insert(record.ip.into(), record.mac);
        } else if station.lease.is_some_and(|(ip, _)| ip == record.ip) {
            station.lease = None;
        }
    }

    /// Takes in that a station was seen to use an address.
    pub fn note_seen(&mut self, ip: IpAddr, mac: MacAddr, now: Instant) {
        if self.owners.get(&ip) == Some(&mac)
            && let Some(station) = self.stations.get_mut(&mac)
            && let Some((first, at)) = station.seen.first_mut()
            && *first == ip
        {
            *at = now;
            return;
        }
        if !self.stations.contains_key(&mac) && self.stations.len() >= STATIONS {
            return;
        }
        let station = self.stations.entry(mac).or_default();
        station.seen.retain(|(seen, _)| *seen != ip);
        station.seen.insert(0, (ip, now));
        if station.seen.len() > SEEN
            && let Some((oldest, _)) = station.seen.pop()
            && self.owners.get(&oldest) == Some(&mac)
        {
            self.owners.remove(&oldest);
        }
        self.owners.insert(ip, mac);
    }

    /// Whose hardware address an address is.
    pub fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        self.owners.get(&ip).copied()
    }

    /// Returns the address of a station, of the family that is asked for: the one it was seen to use last, else that of its
    /// lease, else the one that is reserved for it.
    pub fn address_of(&self, mac: MacAddr, v6: bool) -> Option<IpAddr> {
        let station = self.stations.get(&mac)?;
        let seen = station.seen.iter().map(|(ip, _)| *ip);
        let global = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => !v6,
            IpAddr::V6(ip) => v6 && !ip.is_unicast_link_local(),
        };
        let leased = station.lease.map(|(ip, _)| ip).or(station.reserved);
        let leased = leased.filter(|_| !v6).map(IpAddr::from);
        leased.or_else(|| seen.into_iter().find(global))
    }

    /// Returns the station with a name: a VM's, a reservation's, or what a client of DHCP calls itself.
    pub fn find(&self, name: &str) -> Option<MacAddr> {
        let name = name.to_ascii_lowercase();
        self.names.get(&name).copied()
    }

    /// Returns the name of the station with an address.
    pub fn name_of(&self, ip: IpAddr) -> Option<&str> {
        let station = self.stations.get(&self.mac_of(ip)?)?;
        station.name.as_deref().or(station.hostname.as_deref())
    }

    /// Says whether a target of port forwards answers.
    pub fn set_up(&mut self, target: SocketAddr, up: bool) {
        self.down.retain(|known| *known != target);
        if !up {
            self.down.push(target);
        }
    }

    /// Whether a target of port forwards answers, as far as that is known.
    pub fn is_up(&self, target: SocketAddr) -> bool {
        !self.down.contains(&target)
    }
}
