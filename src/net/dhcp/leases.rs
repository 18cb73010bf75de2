//! Which address belongs to whom: leases, reservations, offers, quarantine, and who was seen using what.
//!
//! # Theory of operation
//!
//! An address of the pool that nobody has, holds or uses is *filed*: under `fresh` if it was never leased, under
//! `idle` by the end of its lease if it was. Whatever changes about an address, it is unfiled before and filed
//! anew after, so that the next free address is always the first of its kind and nothing is ever searched.
//!
//! A client gets, in this order: its reservation; the address it has or had; the one it asks for; a fresh one,
//! where the search starts at a hash of its hardware address so that it tends to get the same one after all is
//! forgotten; the one whose lease ended first. Each must be free for it, see [`Refusal`].
//!
//! Leases, and quarantine, end by the clock on the wall, because that is what is kept on disk. There are at most
//! as many of them as the pool has addresses, plus the reservations and what was restored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;

use super::marks::Marks;
use super::offers::{Offer, Offers};
use super::ranges::Ranges;
use super::refusal::Refusal;
use super::request::{Client, Key, Request};
use super::{Identity, Lease, Record, Reservation, Spec, State};
use crate::net::Now;
use crate::wire::ethernet::MacAddr;

mod advisories;

/// How long an address that is in use by somebody else is not given out.
pub(super) const QUARANTINE: Duration = Duration::from_secs(600);
/// How long an address is taken to be in use after its station was heard.
pub(super) const PRESENCE: Duration = Duration::from_secs(300);

/// The newest record of an address.
#[derive(Debug)]
struct Binding {
    key: Key,
    record: Record,
}

impl Binding {
    fn active(&self, wall: SystemTime) -> bool {
        match self.record.state {
            State::Bound => self.record.ends > wall,
            State::Released | State::Declined => false,
        }
    }
}

/// All that is known about the addresses of one network.
#[derive(Debug)]
pub(super) struct Leases {
    subnet: Ipv4Net,
    server: Ipv4Addr,
    pool: RangeInclusive<Ipv4Addr>,
    identity: Identity,
    reserved: BTreeMap<Ipv4Addr, Reservation>,
    reserved_for: HashMap<MacAddr, Ipv4Addr>,
    bindings: BTreeMap<Ipv4Addr, Binding>,
    bound_to: HashMap<Key, Ipv4Addr>,
    offers: Offers,
    quarantine: Marks<SystemTime>,
    seen: Marks<std::time::Instant>,
    fresh: Ranges,
    idle: BTreeSet<(SystemTime, Ipv4Addr)>,
    refused: bool,
    /// Who used the server's own address, and until when that is worth telling.
    usurper: Option<(MacAddr, std::time::Instant)>,
}

impl Leases {
    /// Takes over the restored records.
    pub(super) fn new(spec: &mut Spec, now: Now) -> Self {
        let mut leases = Self {
            subnet: spec.subnet,
            server: spec.server,
            pool: spec.pool.clone(),
            identity: spec.identity,
            reserved: BTreeMap::new(),
            reserved_for: HashMap::new(),
            bindings: BTreeMap::new(),
            bound_to: HashMap::new(),
            offers: Offers::default(),
            quarantine: Marks::new(),
            seen: Marks::new(),
            fresh: Ranges::new(&spec.pool),
            idle: BTreeSet::new(),
            refused: false,
            usurper: None,
        };
        for reservation in spec.reservations.drain(..) {
            leases.fresh.remove(reservation.ip);
            leases.reserved_for.insert(reservation.mac, reservation.ip);
            leases.reserved.insert(reservation.ip, reservation);
        }
        for own in [spec.subnet.network(), spec.subnet.broadcast(), spec.server] {
            if leases.is_own(own) {
                leases.fresh.remove(own);
            }
        }
        let newest: BTreeMap<_, _> = spec
            .restored
            .drain(..)
            .map(|record| (record.ip, record))
            .collect();
        let mut newest: Vec<_> = newest.into_values().collect();
        // Of several addresses of one client, the one that lasts longest is the one it has.
        newest.sort_by_key(|record| (record.state == State::Bound, record.ends));
        for record in newest {
            leases.restore(record, now.wall);
        }
        leases
    }

    fn restore(&mut self, record: Record, wall: SystemTime) {
        let ip = record.ip;
        if !self.subnet.contains(&ip) || self.is_own(ip) {
            return;
        }
        self.unfile(ip);
        match record.state {
            State::Declined if record.ends > wall => {
                let lifted = self.quarantine.insert(ip, record.mac, record.ends);
                lifted.into_iter().for_each(|ip| self.file(ip));
            }
            State::Declined => {}
            State::Bound | State::Released => {
                let client = self.client(record.mac, record.client_id.clone());
                let binding = Binding {
                    key: client.key,
                    record,
                };
                if binding.active(wall) || self.in_pool(ip) || self.reserved.contains_key(&ip) {
                    self.bound_to.insert(binding.key.clone(), ip);
                    self.bindings.insert(ip, binding);
                }
            }
        }
        self.file(ip);
    }

    /// Tells who a client is.
    pub(super) fn client(&self, mac: MacAddr, id: Option<Vec<u8>>) -> Client {
        Client::new(self.identity, self.reserved_for.contains_key(&mac), mac, id)
    }

    /// Returns the name that a reservation gives a client.
    pub(super) fn reserved_name(&self, mac: MacAddr) -> Option<&str> {
        self.reserved
            .get(self.reserved_for.get(&mac)?)?
            .hostname
            .as_deref()
    }

    /// Returns the table of offers, for reading.
    pub(super) fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Answers the newest message of a client with the probe that is under way, if there is one.
    pub(super) fn follow(&mut self, ip: Ipv4Addr, request: &Request) -> bool {
        self.offers.follow(ip, request)
    }

    /// Tells whether a client has a lease for an address.
    pub(super) fn is_bound(&self, client: &Client, ip: Ipv4Addr, wall: SystemTime) -> bool {
        self.bindings
            .get(&ip)
            .is_some_and(|b| b.key == client.key && b.active(wall))
    }

    /// Tells whether a client can have an address.
    pub(super) fn permits(&self, client: &Client, ip: Ipv4Addr, now: Now) -> Result<(), Refusal> {
        if !self.subnet.contains(&ip) {
            return Err(Refusal::Foreign);
        }
        match self.reserved.get(&ip) {
            _ if self.is_own(ip) => return Err(Refusal::Unavailable),
            Some(reservation) if reservation.mac != client.mac => return Err(Refusal::Reserved),
            None if !self.in_pool(ip) => return Err(Refusal::Unavailable),
            Some(_) | None => {}
        }
        if let Some(binding) = self
            .bindings
            .get(&ip)
            .filter(|binding| binding.active(now.wall))
        {
            return if binding.key == client.key {
                Ok(())
            } else {
                Err(Refusal::Leased)
            };
        }
        if self
            .offers
            .at(ip)
            .is_some_and(|offer| offer.client.key != client.key)
        {
            return Err(Refusal::Offered);
        }
        let used = self
            .seen
            .find(ip)
            .is_some_and(|seen| seen.mac != client.mac);
        if used || self.quarantine.find(ip).is_some() {
            return Err(Refusal::InUse);
        }
        Ok(())
    }

    /// Tells whether a client that asks for a certain address, rather than for any, is to have it.
    pub(super) fn grants(&self, client: &Client, ip: Ipv4Addr, now: Now) -> Result<(), Refusal> {
        self.permits(client, ip, now)?;
        match self.reserved_for.get(&client.mac) {
            Some(own) if *own != ip && self.permits(client, *own, now).is_ok() => {
                Err(Refusal::HasReservation)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// As [`Self::grants`], for a client that remembers an address rather than being offered it: one that is
    /// free is given to a client that is not known, because a lease may be lost here as well as there.
    pub(super) fn confirms(&self, client: &Client, ip: Ipv4Addr, now: Now) -> Result<(), Refusal> {
        self.grants(client, ip, now)?;
        match self.bound_to.get(&client.key) {
            Some(bound) if *bound != ip && self.is_bound(client, *bound, now.wall) => {
                Err(Refusal::HasLease)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Chooses an address for a client; a search for a new one begins at `from`.
    pub(super) fn choose(
        &mut self,
        client: &Client,
        requested: Option<Ipv4Addr>,
        from: Option<Ipv4Addr>,
        now: Now,
    ) -> Option<Ipv4Addr> {
        let known = [
            self.reserved_for.get(&client.mac).copied(),
            self.bound_to.get(&client.key).copied(),
            requested,
        ];
        let known = known
            .into_iter()
            .flatten()
            .find(|ip| self.permits(client, *ip, now).is_ok());
        // Whoever has an address of its own says nothing about whether there are any left.
        if known.is_some() {
            return known;
        }
        let chosen = self
            .fresh
            .next_from(from.unwrap_or_else(|| self.start_for(client.mac)))
            .or_else(|| self.first_idle(now.wall));
        self.refused = chosen.is_none();
        chosen
    }

    /// Holds an address for a client.
    pub(super) fn hold(&mut self, offer: Offer) {
        let ip = offer.ip;
        self.unfile(ip);
        let freed = self.offers.insert(offer);
        freed.into_iter().for_each(|ip| self.file(ip));
    }

    /// Lets go of what is held for a client.
    pub(super) fn withdraw(&mut self, client: &Client) {
        if let Some(ip) = self.offers.of(&client.key) {
            self.let_go(ip);
        }
    }

    /// Lets go of an address that was held.
    pub(super) fn let_go(&mut self, ip: Ipv4Addr) -> Option<Offer> {
        let offer = self.offers.remove(ip);
        self.file(ip);
        offer
    }

    /// Leases an address to a client. Returns what is to be written down, the lease itself last.
    pub(super) fn bind(
        &mut self,
        client: &Client,
        ip: Ipv4Addr,
        hostname: Option<String>,
        ends: SystemTime,
        now: Now,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        self.withdraw(client);
        if let Some(old) = self
            .bound_to
            .get(&client.key)
            .copied()
            .filter(|old| *old != ip)
        {
            records.extend(self.release(client, old, now.wall));
        }
        self.unfile(ip);
        // A renewal need not repeat what the client said of itself.
        let before = self
            .bindings
            .get(&ip)
            .filter(|binding| binding.key == client.key);
        let (name, id) = before.map_or((None, None), |binding| {
            (
                binding.record.hostname.clone(),
                binding.record.client_id.clone(),
            )
        });
        let hostname = hostname.or(name);
        self.forget(ip);
        if self
            .seen
            .find(ip)
            .is_some_and(|seen| seen.mac == client.mac)
        {
            self.seen.remove(ip);
        }
        let (mac, client_id) = (client.mac, client.id.clone().or(id));
        let record = Record {
            ip,
            state: State::Bound,
            mac,
            client_id,
            hostname,
            ends,
        };
        records.push(record.clone());
        self.bindings.insert(
            ip,
            Binding {
                key: client.key.clone(),
                record,
            },
        );
        self.bound_to.insert(client.key.clone(), ip);
        self.file(ip);
        records
    }

    /// Ends the lease that a client has for an address, but remembers it. Returns what is to be written down.
    pub(super) fn release(
        &mut self,
        client: &Client,
        ip: Ipv4Addr,
        wall: SystemTime,
    ) -> Option<Record> {
        if !self.is_bound(client, ip, wall) {
            return None;
        }
        self.unfile(ip);
        let record = self.bindings.get_mut(&ip).map(|binding| {
            binding.record.state = State::Released;
            binding.record.ends = wall;
            binding.record.clone()
        });
        self.file(ip);
        record
    }

    /// Puts an address that a client has or was offered out of use, because the client found somebody else there.
    pub(super) fn decline(&mut self, client: &Client, ip: Ipv4Addr, now: Now) -> Option<Record> {
        let offered = self.offers.of(&client.key) == Some(ip);
        if !offered && !self.is_bound(client, ip, now.wall) {
            return None;
        }
        self.shun(ip, client.mac, now);
        Some(Record {
            ip,
            state: State::Declined,
            mac: client.mac,
            client_id: client.id.clone(),
            hostname: None,
            ends: later(now.wall, QUARANTINE),
        })
    }

    /// Puts an address out of use for a while.
    pub(super) fn shun(&mut self, ip: Ipv4Addr, mac: MacAddr, now: Now) -> Option<Offer> {
        self.unfile(ip);
        self.forget(ip);
        let offer = self.offers.remove(ip);
        let lifted = self.quarantine.insert(ip, mac, later(now.wall, QUARANTINE));
        lifted.into_iter().for_each(|ip| self.file(ip));
        offer
    }

    /// Learns that a station uses an address.
    pub(super) fn notice(&mut self, mac: MacAddr, ip: Ipv4Addr, now: Now) {
        if ip == self.server {
            self.usurper = Some((mac, now.instant + PRESENCE));
            return;
        }
        let matters = self.in_pool(ip) || self.reserved.contains_key(&ip);
        if !matters || self.is_own(ip) {
            return;
        }
        let holder = self
            .bindings
            .get(&ip)
            .filter(|binding| binding.active(now.wall));
        let holds = holder.is_some_and(|holder| holder.record.mac == mac);
        let until = now.instant + PRESENCE;
        let known = self
            .seen
            .find(ip)
            .is_some_and(|seen| seen.mac == mac && seen.until > now.instant + PRESENCE / 2);
        if holds || known {
            return;
        }
        self.unfile(ip);
        let lifted = self.seen.insert(ip, mac, until);
        lifted.into_iter().for_each(|ip| self.file(ip));
    }

    /// Forgets marks and offers whose time is over.
    pub(super) fn expire(&mut self, now: Now) {
        while let Some(ip) = self.quarantine.expire_one(now.wall) {
            self.file(ip);
        }
        while let Some(ip) = self.seen.expire_one(now.instant) {
            self.file(ip);
        }
        while let Some(ip) = self.offers.lapsed(now.instant) {
            self.let_go(ip);
        }
    }

    /// Returns the leases that have not ended, by address.
    pub(super) fn active(&self, wall: SystemTime) -> Vec<Lease> {
        let active = self
            .bindings
            .values()
            .filter(|binding| binding.active(wall));
        active
            .map(|Binding { record, .. }| Lease {
                ip: record.ip,
                mac: record.mac,
                client_id: record.client_id.clone(),
                hostname: self
                    .reserved_name(record.mac)
                    .map(str::to_owned)
                    .or_else(|| record.hostname.clone()),
                expires: record.ends,
            })
            .collect()
    }

    fn in_pool(&self, ip: Ipv4Addr) -> bool {
        self.pool.contains(&ip) && self.subnet.contains(&ip)
    }

    /// Tells whether an address is the server's, the network's or the broadcast address. Point-to-point networks
    /// have neither of the latter (RFC 3021).
    fn is_own(&self, ip: Ipv4Addr) -> bool {
        let ends = [self.subnet.network(), self.subnet.broadcast()];
        ip == self.server || (self.subnet.prefix_len() < 31 && ends.contains(&ip))
    }

    /// Returns where the search for a new address begins: FNV-1a, which will not change with the compiler.
    fn start_for(&self, mac: MacAddr) -> Ipv4Addr {
        let (first, last) = (self.pool.start().to_bits(), self.pool.end().to_bits());
        let hash = mac.0.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        let size = last.saturating_sub(first).saturating_add(1);
        Ipv4Addr::from_bits(first.saturating_add(hash % size))
    }

    fn first_idle(&self, wall: SystemTime) -> Option<Ipv4Addr> {
        self.idle
            .first()
            .filter(|(ends, _)| *ends <= wall)
            .map(|(_, ip)| *ip)
    }

    /// Forgets to whom an address belonged.
    fn forget(&mut self, ip: Ipv4Addr) {
        let Some(binding) = self.bindings.remove(&ip) else {
            return;
        };
        if self.bound_to.get(&binding.key) == Some(&ip) {
            self.bound_to.remove(&binding.key);
        }
    }

    fn unfile(&mut self, ip: Ipv4Addr) {
        self.fresh.remove(ip);
        if let Some(binding) = self.bindings.get(&ip) {
            self.idle.remove(&(binding.record.ends, ip));
        }
    }

    fn file(&mut self, ip: Ipv4Addr) {
        let kept = self.reserved.contains_key(&ip) || self.is_own(ip) || !self.in_pool(ip);
        let used = self.quarantine.find(ip).is_some() || self.seen.find(ip).is_some();
        if kept || used || self.offers.at(ip).is_some() {
            return;
        }
        match self.bindings.get(&ip) {
            Some(binding) => {
                self.idle.insert((binding.record.ends, ip));
            }
            None => self.fresh.insert(ip),
        }
    }
}

/// Adds to a time, which stays as it is where the sum is beyond what the system can tell.
pub(super) fn later(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_add(by).unwrap_or(time)
}

#[cfg(test)]
impl Leases {
    /// Tells whether every address is filed where it belongs, and nowhere else.
    pub(super) fn is_consistent(&self) -> bool {
        let filed = (self.pool.start().to_bits()..=self.pool.end().to_bits()).all(|ip| {
            let ip = Ipv4Addr::from_bits(ip);
            let kept = self.reserved.contains_key(&ip) || self.is_own(ip);
            let used = self.quarantine.find(ip).is_some() || self.seen.find(ip).is_some();
            let free = !kept && !used && self.offers.at(ip).is_none();
            let fresh = self.fresh.next_from(ip) == Some(ip);
            let idle = self
                .bindings
                .get(&ip)
                .map(|binding| (binding.record.ends, ip));
            let filed = idle.is_some_and(|idle| self.idle.contains(&idle));
            fresh == (free && idle.is_none()) && filed == (free && idle.is_some())
        });
        let bound = self
            .bound_to
            .iter()
            .all(|(key, ip)| self.bindings[ip].key == *key);
        filed && bound && self.idle.len() <= self.bindings.len()
    }
}
