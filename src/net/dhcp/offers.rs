//! Addresses that are being probed for a client or were offered to it, and are not leased yet.
//!
//! Each is held for one client, and each client has at most one. The table has a limit; the oldest offer goes
//! first, and probes only when there are no offers left.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Instant;

use super::request::{Client, Key, Request};

/// How many addresses are held at once.
pub(super) const LIMIT: usize = 4096;

/// How far an offer has come: first probing, where the address is new to the client, and then offered.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nobody has answered the probe so far. The client's newest message is answered in the end.
    Probing(Box<Request>),
    /// The client was told.
    Offered,
}

/// An address that is held.
#[derive(Debug)]
pub(super) struct Offer {
    /// The client it is held for.
    pub(super) client: Client,
    /// The address.
    pub(super) ip: Ipv4Addr,
    /// How far it has come.
    pub(super) stage: Stage,
    /// When the stage ends.
    pub(super) until: Instant,
}

/// All addresses that are held.
#[derive(Debug, Default)]
pub(super) struct Offers {
    by_ip: HashMap<Ipv4Addr, Offer>,
    by_key: HashMap<Key, Ipv4Addr>,
    probing: BTreeSet<(Instant, Ipv4Addr)>,
    offered: BTreeSet<(Instant, Ipv4Addr)>,
}

impl Offers {
    /// Returns what is held at an address.
    pub(super) fn at(&self, ip: Ipv4Addr) -> Option<&Offer> {
        self.by_ip.get(&ip)
    }

    /// Returns the address that is held for a client.
    pub(super) fn of(&self, key: &Key) -> Option<Ipv4Addr> {
        self.by_key.get(key).copied()
    }

    /// Replaces the message that a probe is for; returns whether there was a probe.
    pub(super) fn follow(&mut self, ip: Ipv4Addr, request: &Request) -> bool {
        match self.by_ip.get_mut(&ip).map(|offer| &mut offer.stage) {
            Some(Stage::Probing(first)) => {
                **first = request.clone();
                true
            }
            Some(Stage::Offered) | None => false,
        }
    }

    /// Holds an address. Returns the addresses that are no longer held because of it.
    pub(super) fn insert(&mut self, offer: Offer) -> Vec<Ipv4Addr> {
        let mut gone: Vec<_> = self.of(&offer.client.key).into_iter().collect();
        if self.by_ip.contains_key(&offer.ip) && !gone.contains(&offer.ip) {
            gone.push(offer.ip);
        }
        if gone.is_empty() && self.by_ip.len() >= LIMIT {
            let oldest = self.offered.first().or_else(|| self.probing.first());
            gone.extend(oldest.map(|(_, ip)| *ip));
        }
        for ip in &gone {
            self.remove(*ip);
        }
        self.timers(&offer.stage).insert((offer.until, offer.ip));
        self.by_key.insert(offer.client.key.clone(), offer.ip);
        gone.retain(|ip| *ip != offer.ip);
        self.by_ip.insert(offer.ip, offer);
        gone
    }

    /// Lets go of an address.
    pub(super) fn remove(&mut self, ip: Ipv4Addr) -> Option<Offer> {
        let offer = self.by_ip.remove(&ip)?;
        self.by_key.remove(&offer.client.key);
        self.timers(&offer.stage).remove(&(offer.until, ip));
        Some(offer)
    }

    /// Returns when the first probe has gone unanswered for long enough.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.probing.first().map(|(until, _)| *until)
    }

    /// Returns the address of a probe that has gone unanswered for long enough.
    pub(super) fn probed(&self, now: Instant) -> Option<Ipv4Addr> {
        self.probing
            .first()
            .filter(|(until, _)| *until <= now)
            .map(|(_, ip)| *ip)
    }

    /// Returns the address of an offer that was not taken in time.
    pub(super) fn lapsed(&self, now: Instant) -> Option<Ipv4Addr> {
        self.offered
            .first()
            .filter(|(until, _)| *until <= now)
            .map(|(_, ip)| *ip)
    }

    fn timers(&mut self, stage: &Stage) -> &mut BTreeSet<(Instant, Ipv4Addr)> {
        match stage {
            Stage::Probing(_) => &mut self.probing,
            Stage::Offered => &mut self.offered,
        }
    }
}
