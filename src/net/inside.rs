//! Who is inside a network: what the gateway knows of its stations, for the services behind it.
//!
//! Names and hardware addresses of VMs are told; IP addresses come from reservations, from leases as they are given, and
//! from what stations are seen to send. Every table has a limit: what does not fit is not known.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Instant, SystemTime};

use crate::net::dhcp::{Record, State};
use crate::net::dhcp6::{Lease, Reservation};
use crate::wire::ethernet::MacAddr;

/// How many stations are known at most.
const STATIONS: usize = 65_536;
/// How many addresses a station has at most, beside its lease.
const SEEN: usize = 16;
/// How many stations can call themselves by the same name.
const NAMESAKES: usize = 4;
/// Names that stations look for to be told what to do; a guest that took one would tell the others.
const TAKEN_BY_NOBODY: [&str; 3] = ["isatap", "localhost", "wpad"];

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
    reserved6: Option<Ipv6Addr>,
    lease6: Option<(Ipv6Addr, SystemTime)>,
    /// What it calls itself.
    hostname: Option<String>,
    /// The name it was given.
    name: Option<String>,
    /// Addresses that it was seen to use, the last first.
    seen: Vec<(IpAddr, Instant)>,
}

impl Station {
    /// Whether it has a lease, of either family.
    const fn is_leased(&self) -> bool {
        self.lease.is_some() || self.lease6.is_some()
    }

    /// Whether nothing is known of it but the addresses that it was seen to use.
    const fn is_passing(&self) -> bool {
        let reserved = self.reserved.is_some() || self.reserved6.is_some();
        !reserved && !self.is_leased() && self.name.is_none()
    }

    /// What it is found by: what it calls itself, as long as it has a lease.
    fn label(&self) -> Option<String> {
        let hostname = self.hostname.as_deref().filter(|_| self.is_leased());
        hostname.and_then(host_label)
    }
}

/// Who is inside.
#[derive(Debug, Default)]
pub struct Inside {
    stations: HashMap<MacAddr, Station, foldhash::fast::RandomState>,
    /// Who was seen to use an address last, or was given it.
    owners: HashMap<IpAddr, MacAddr, foldhash::fast::RandomState>,
    /// Whose an address is by reservation, or by lease until then.
    holders: HashMap<IpAddr, (MacAddr, Option<SystemTime>), foldhash::fast::RandomState>,
    /// Stations that were seen before anything else was known of them, the first first.
    passing: VecDeque<MacAddr>,
    /// The present, or a little before.
    wall: Option<SystemTime>,
    names: BTreeMap<String, MacAddr>,
    /// What clients of DHCP call themselves: in lower case, up to the first dot, with those who do, the first first.
    hostnames: HashMap<String, Vec<MacAddr>, foldhash::fast::RandomState>,
    /// Targets of port forwards that do not answer.
    down: Vec<SocketAddr>,
}

impl Inside {
    /// Begins with what is known.
    pub fn new(spec: Spec) -> Self {
        let mut inside = Self::default();
        for (name, mac) in spec.vms {
            let lower = name.to_ascii_lowercase();
            inside.names.entry(lower).or_insert(mac);
            inside.stations.entry(mac).or_default().name = Some(name);
        }
        for (mac, ip, hostname) in spec.reservations {
            if let Some(hostname) = &hostname {
                let lower = hostname.to_ascii_lowercase();
                inside.names.entry(lower).or_insert(mac);
            }
            let station = inside.stations.entry(mac).or_default();
            station.reserved = Some(ip);
            if station.name.is_none() {
                station.name = hostname;
            }
            inside.owners.insert(ip.into(), mac);
            inside.holders.insert(ip.into(), (mac, None));
        }
        inside
    }

    /// Takes in a line of the lease file.
    pub fn note_lease(&mut self, record: &Record) {
        if !self.make_room(record.mac) {
            return;
        }
        let station = self.stations.entry(record.mac).or_default();
        let before = station.label();
        if record.state == State::Bound {
            station.lease = Some((record.ip, record.ends));
            if record.hostname.is_some() {
                station.hostname.clone_from(&record.hostname);
            }
            self.owners.insert(record.ip.into(), record.mac);
        } else if station.lease.is_some_and(|(ip, _)| ip == record.ip) {
            station.lease = None;
        }
        let after = station.label();
        let until = (record.state == State::Bound).then_some(record.ends);
        self.hold(record.ip.into(), record.mac, until);
        self.rename(record.mac, before, after);
    }

    /// Takes in that an address is reserved for a station.
    pub fn note_reserved6(&mut self, reservation: &Reservation) {
        let Reservation { mac, ip, hostname } = reservation;
        if let Some(hostname) = hostname {
            let lower = hostname.to_ascii_lowercase();
            self.names.entry(lower).or_insert(*mac);
        }
        let station = self.stations.entry(*mac).or_default();
        station.reserved6 = Some(*ip);
        if station.name.is_none() {
            station.name.clone_from(hostname);
        }
        self.owners.insert((*ip).into(), *mac);
        self.holders.insert((*ip).into(), (*mac, None));
    }

    /// Takes in a lease of DHCPv6 that was given, or is over.
    pub fn note_lease6(&mut self, lease: &Lease, bound: bool) {
        if !self.make_room(lease.mac) {
            return;
        }
        let station = self.stations.entry(lease.mac).or_default();
        let before = station.label();
        if bound {
            station.lease6 = Some((lease.ip, lease.expires));
            if lease.hostname.is_some() {
                station.hostname.clone_from(&lease.hostname);
            }
            self.owners.insert(lease.ip.into(), lease.mac);
        } else if station.lease6.is_some_and(|(ip, _)| ip == lease.ip) {
            station.lease6 = None;
            let mut seen = station.seen.iter();
            let used = seen.any(|(ip, _)| *ip == lease.ip) || station.reserved6 == Some(lease.ip);
            if !used && self.owners.get(&lease.ip.into()) == Some(&lease.mac) {
                self.owners.remove(&lease.ip.into());
            }
        }
        let after = station.label();
        self.hold(lease.ip.into(), lease.mac, bound.then_some(lease.expires));
        self.rename(lease.mac, before, after);
    }

    /// Sees to it that there is room for a station, and forgets one that was merely seen if need be, the one that has been
    /// known the longest; tells whether there is.
    fn make_room(&mut self, mac: MacAddr) -> bool {
        while self.stations.len() >= STATIONS && !self.stations.contains_key(&mac) {
            let Some(oldest) = self.passing.pop_front() else {
                return false;
            };
            if let Entry::Occupied(station) = self.stations.entry(oldest)
                && station.get().is_passing()
            {
                for (ip, _) in station.remove().seen {
                    if self.owners.get(&ip) == Some(&oldest) {
                        self.owners.remove(&ip);
                    }
                }
            }
        }
        true
    }

    /// Takes in that an address is a station's until then, or that it is not any more.
    fn hold(&mut self, ip: IpAddr, mac: MacAddr, until: Option<SystemTime>) {
        match (self.holders.get(&ip), until) {
            // A reservation stays.
            (Some((_, None)), _) => {}
            (_, Some(_)) => drop(self.holders.insert(ip, (mac, until))),
            (Some((holder, _)), None) if *holder == mac => drop(self.holders.remove(&ip)),
            (Some(_) | None, None) => {}
        }
    }

    /// Says what time it is: leases end.
    pub fn set_wall(&mut self, wall: SystemTime) {
        self.wall = Some(wall);
    }

    /// Has a station be found by another name than before.
    fn rename(&mut self, mac: MacAddr, before: Option<String>, after: Option<String>) {
        if before == after {
            return;
        }
        if let Some(label) = before {
            self.forget_hostname(&label, mac);
        }
        if let Some(label) = after {
            let namesakes = self.hostnames.entry(label).or_default();
            if namesakes.len() < NAMESAKES {
                namesakes.push(mac);
            }
        }
    }

    fn forget_hostname(&mut self, label: &str, mac: MacAddr) {
        if let Some(namesakes) = self.hostnames.get_mut(label) {
            namesakes.retain(|known| *known != mac);
            if namesakes.is_empty() {
                self.hostnames.remove(label);
            }
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
        if !self.make_room(mac) {
            return;
        }
        if !self.stations.contains_key(&mac) {
            self.passing.push_back(mac);
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

    /// Whose an address is: of the station that it is reserved for or leased to, or else of the one that was seen to use it
    /// last. Whoever merely uses another's address does not get what is for that one.
    pub fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        let ends = |until: SystemTime| self.wall.is_some_and(|wall| until <= wall);
        match self.holders.get(&ip) {
            Some((mac, until)) if !until.is_some_and(ends) => Some(*mac),
            Some(_) | None => self.owners.get(&ip).copied(),
        }
    }

    /// Returns the station that was last seen to use an address, and when that was.
    pub fn last_seen(&self, ip: IpAddr) -> Option<(MacAddr, Instant)> {
        let mac = *self.owners.get(&ip)?;
        let mut seen = self.stations.get(&mac)?.seen.iter();
        let (_, at) = seen.find(|(seen, _)| *seen == ip)?;
        Some((mac, *at))
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
        let leased = if v6 {
            let leased = station.lease6.map(|(ip, _)| ip);
            leased.or(station.reserved6).map(IpAddr::from)
        } else {
            let leased = station.lease.map(|(ip, _)| ip);
            leased.or(station.reserved).map(IpAddr::from)
        };
        leased.or_else(|| seen.into_iter().find(global))
    }

    /// Returns the station with a name: a VM's, or else a reservation's, or else what a client of DHCP calls itself,
    /// where that is the first that has a lease.
    pub fn find(&self, name: &str) -> Option<MacAddr> {
        let name = name.to_ascii_lowercase();
        let known = self.names.get(&name);
        known
            .or_else(|| self.hostnames.get(&name)?.first())
            .copied()
    }

    /// Returns the station with a name as [`Inside::find`] does, of clients of DHCP the first whose lease has not ended.
    pub fn find_at(&self, name: &str, now: SystemTime) -> Option<MacAddr> {
        let name = name.to_ascii_lowercase();
        if let Some(mac) = self.names.get(&name) {
            return Some(*mac);
        }
        let leased = |mac: &MacAddr| {
            let station = self.stations.get(mac);
            station.is_some_and(|station| {
                station.lease.is_some_and(|(_, ends)| ends > now)
                    || station.lease6.is_some_and(|(_, ends)| ends > now)
            })
        };
        self.hostnames.get(&name)?.iter().copied().find(leased)
    }

    /// Returns the address that a station has leased, and until when.
    pub fn lease_of(&self, mac: MacAddr) -> Option<(Ipv4Addr, SystemTime)> {
        self.stations.get(&mac)?.lease
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

/// Returns what a client of DHCP is found by: what it calls itself up to the first dot, if that can be a label of DNS.
fn host_label(hostname: &str) -> Option<String> {
    let label = hostname.split('.').next()?;
    let is_label = (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let label = is_label.then(|| label.to_ascii_lowercase())?;
    (!TAKEN_BY_NOBODY.contains(&&*label)).then_some(label)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const VM: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const RESERVED: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const FIRST: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const SECOND: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);

    fn lease(mac: MacAddr, hostname: &str, ends: u64) -> Record {
        Record {
            ip: Ipv4Addr::new(192, 168, 88, 128 + mac.0[5]),
            state: State::Bound,
            mac,
            client_id: None,
            hostname: Some(hostname.to_owned()),
            ends: at(ends),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_name_of_a_vm_beats_that_of_a_reservation_and_that_of_a_lease() {
        let ip = Ipv4Addr::new(192, 168, 88, 10);
        let mut inside = Inside::new(Spec {
            vms: vec![("web".to_owned(), VM)],
            reservations: ["web", "db"]
                .map(|name| (RESERVED, ip, Some(name.to_owned())))
                .into(),
        });
        inside.note_lease(&lease(FIRST, "Web", 100));
        inside.note_lease(&lease(SECOND, "db.example.com", 100));
        assert_eq!(inside.find("WEB"), Some(VM));
        assert_eq!(inside.find_at("db", at(0)), Some(RESERVED));
    }

    #[test]
    fn of_two_leases_with_a_name_the_first_has_it_until_it_ends() {
        let mut inside = Inside::default();
        inside.note_lease(&lease(FIRST, "Debian.lan", 100));
        inside.note_lease(&lease(SECOND, "debian", 200));
        assert_eq!(inside.find("debian"), Some(FIRST));
        assert_eq!(inside.find_at("debian", at(99)), Some(FIRST));
        assert_eq!(inside.find_at("debian", at(100)), Some(SECOND));
        assert_eq!(inside.find_at("debian", at(200)), None);
        let released = Record {
            state: State::Released,
            ..lease(FIRST, "debian", 100)
        };
        inside.note_lease(&released);
        assert_eq!(inside.find("debian"), Some(SECOND));
        inside.note_lease(&lease(SECOND, "other", 200));
        assert_eq!(inside.find("debian"), None);
        assert_eq!(inside.find("other"), Some(SECOND));
    }

    #[test]
    fn whoever_uses_anothers_address_does_not_get_what_is_for_that_one() {
        let now = Instant::now();
        let reserved: Ipv4Addr = [192, 168, 88, 10].into();
        let mut inside = Inside::new(Spec {
            vms: Vec::new(),
            reservations: vec![(RESERVED, reserved, None)],
        });
        inside.note_lease(&lease(FIRST, "a", 100));
        let leased: IpAddr = lease(FIRST, "a", 100).ip.into();
        let free: IpAddr = [192, 168, 88, 200].into();
        for ip in [reserved.into(), leased, free] {
            inside.note_seen(ip, FIRST, now);
            inside.note_seen(ip, SECOND, now);
        }
        let of = |inside: &Inside, ip| inside.mac_of(ip).unwrap();
        assert_eq!(of(&inside, reserved.into()), RESERVED);
        assert_eq!(of(&inside, leased), FIRST);
        assert_eq!(of(&inside, free), SECOND);
        assert_eq!(inside.last_seen(leased), Some((SECOND, now)));
        inside.set_wall(at(99));
        assert_eq!(of(&inside, leased), FIRST);
        inside.set_wall(at(100));
        assert_eq!(of(&inside, leased), SECOND, "the lease has ended");
        inside.set_wall(at(0));
        let released = Record {
            state: State::Released,
            ..lease(FIRST, "a", 100)
        };
        inside.note_lease(&released);
        assert_eq!(of(&inside, leased), SECOND, "or was given back");
    }

    #[test]
    fn a_station_is_seen_however_many_others_were() {
        let now = Instant::now();
        let mut inside = Inside::default();
        inside.note_lease(&lease(FIRST, "a", 100));
        let leased = lease(FIRST, "a", 100).ip.into();
        inside.note_seen(leased, FIRST, now);
        let mac = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            MacAddr([6, 0, a, b, c, d])
        };
        let ip = |number: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number));
        for number in 0..100_000 {
            inside.note_seen(ip(number), mac(number), now);
        }
        assert_eq!(inside.mac_of(ip(99_999)), Some(mac(99_999)));
        assert_eq!(inside.mac_of(ip(0)), None);
        assert_eq!(inside.mac_of(leased), Some(FIRST));
        assert_eq!(inside.stations.len(), STATIONS);
        let owned = inside.owners.len();
        assert!(owned <= STATIONS && inside.passing.len() <= STATIONS);
        inside.note_lease(&lease(SECOND, "b", 100));
        assert_eq!(inside.find("b"), Some(SECOND));
    }

    #[test]
    fn names_that_are_no_labels_or_that_others_rely_on_are_not_found() {
        let mut inside = Inside::default();
        for name in ["", ".", "a b", "é", &"a".repeat(64), "WPAD", "wpad.lan"] {
            inside.note_lease(&lease(FIRST, name, 100));
            assert_eq!(inside.find(name), None, "{name:?}");
        }
        assert!(inside.hostnames.is_empty());
    }
}
