//! Which IPv6 address belongs to whom.
//!
//! # Theory of operation
//!
//! A client gets, in this order: its reservation; the address it has; the one it asks for; the one that its hardware
//! address and the prefix are hashed to, or the next free one after that. Each must be free for it: no address of the
//! gateway's, reserved for or bound to nobody else, not in quarantine, and not used by another station that was seen with
//! it within the last five minutes.
//!
//! The hash is the same in every run. So nothing has to be kept on disk: after a restart a client that comes back with
//! its address finds it free, and one that has forgotten it gets it anew. Only where two clients were hashed to the same
//! address, which in a large range hardly happens, the one that comes first has it.
//!
//! **Limits.** There are [`LIMIT`] bindings at most, and [`QUARANTINED`] addresses in quarantine; of one client's only
//! [`DECLINES`], so that none can decline a range away. An address is looked for in [`TRIES`] places.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use ipnet::Ipv6Net;

use super::{Reservation, Spec};
use crate::net::inside::Inside;
use crate::net::mix::mix;
use crate::wire::ethernet::MacAddr;

/// How long an address is taken to be in use after its station was heard.
pub(super) const PRESENCE: Duration = Duration::from_secs(300);
/// How many clients have an address at most.
pub(super) const LIMIT: usize = 16_384;
/// In how many places a free address is looked for.
const TRIES: u128 = 64;
/// How long an address that is in use by somebody else is not given out.
pub(super) const QUARANTINE: Duration = Duration::from_secs(600);
/// How many addresses are not given out for that reason at most.
const QUARANTINED: usize = 1024;
/// How many of one client's.
pub(super) const DECLINES: usize = 8;

/// What a client has.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) ip: Ipv6Addr,
    pub(super) hostname: Option<String>,
    pub(super) ends: Instant,
}

/// All that is known about the addresses of one network.
#[derive(Debug)]
pub(super) struct Bindings {
    prefix: Ipv6Net,
    pool: Option<RangeInclusive<Ipv6Addr>>,
    gateway: Ipv6Addr,
    reserved_for: HashMap<MacAddr, Reservation, RandomState>,
    reserved: HashMap<Ipv6Addr, MacAddr, RandomState>,
    bound_to: HashMap<MacAddr, Binding, RandomState>,
    owners: HashMap<Ipv6Addr, MacAddr, RandomState>,
    ends: BTreeSet<(Instant, MacAddr)>,
    /// Who found an address in use, and until when it is not given out.
    quarantine: BTreeMap<Ipv6Addr, (MacAddr, Instant)>,
}

impl Bindings {
    pub(super) fn new(spec: &mut Spec) -> Self {
        let mut bindings = Self {
            prefix: spec.prefix.trunc(),
            pool: spec.pool.take(),
            gateway: spec.gateway,
            reserved_for: HashMap::default(),
            reserved: HashMap::default(),
            bound_to: HashMap::default(),
            owners: HashMap::default(),
            ends: BTreeSet::new(),
            quarantine: BTreeMap::new(),
        };
        for reservation in spec.reservations.drain(..) {
            bindings.reserved.insert(reservation.ip, reservation.mac);
            bindings.reserved_for.insert(reservation.mac, reservation);
        }
        bindings
    }

    /// Whether an address is one of the link's.
    pub(super) fn is_on_link(&self, ip: Ipv6Addr) -> bool {
        self.prefix.contains(&ip)
    }

    /// Returns what a client has.
    pub(super) fn of(&self, mac: MacAddr) -> Option<&Binding> {
        self.bound_to.get(&mac)
    }

    /// Whether an address is somebody else's.
    pub(super) fn is_others(&self, ip: Ipv6Addr, mac: MacAddr) -> bool {
        let other = |owner: Option<&MacAddr>| owner.is_some_and(|owner| *owner != mac);
        ip == self.gateway || other(self.reserved.get(&ip)) || other(self.owners.get(&ip))
    }

    /// Whether a client can have an address of the range.
    pub(super) fn is_free(
        &self,
        ip: Ipv6Addr,
        mac: MacAddr,
        inside: &Inside,
        now: Instant,
    ) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.contains(&ip))
            && ip != self.prefix.network()
            && !self.is_others(ip, mac)
            && !self.quarantine.contains_key(&ip)
            && inside.last_seen(ip.into()).is_none_or(|(user, at)| {
                user == mac || now.saturating_duration_since(at) >= PRESENCE
            })
    }

    /// Chooses the address of a client that asks for some, of which the first that is free counts. There is none where
    /// none are given out, or all are.
    pub(super) fn choose(
        &self,
        mac: MacAddr,
        asked: &[Ipv6Addr],
        inside: &Inside,
        now: Instant,
    ) -> Option<Ipv6Addr> {
        let pool = self.pool.as_ref()?;
        if self.bound_to.len() >= LIMIT && !self.bound_to.contains_key(&mac) {
            return None;
        }
        let reserved = self.reserved_for.get(&mac).map(|reserved| reserved.ip);
        let reserved = reserved.filter(|ip| !self.quarantine.contains_key(ip));
        let bound = self.bound_to.get(&mac).map(|binding| binding.ip);
        let free = |ip: &Ipv6Addr| self.is_free(*ip, mac, inside, now);
        reserved
            .or(bound)
            .or_else(|| asked.iter().copied().find(free))
            .or_else(|| derived(pool, self.prefix, mac).find(free))
    }

    /// Gives a client an address until `ends`, and returns the name it is known by.
    pub(super) fn bind(
        &mut self,
        mac: MacAddr,
        ip: Ipv6Addr,
        hostname: Option<String>,
        ends: Instant,
    ) -> Option<String> {
        let before = self.unbind(mac);
        let reserved = self.reserved_for.get(&mac);
        let hostname = reserved
            .and_then(|reserved| reserved.hostname.clone())
            .or(hostname)
            .or_else(|| before?.hostname);
        self.owners.insert(ip, mac);
        self.ends.insert((ends, mac));
        let binding = Binding {
            ip,
            hostname: hostname.clone(),
            ends,
        };
        self.bound_to.insert(mac, binding);
        hostname
    }

    fn unbind(&mut self, mac: MacAddr) -> Option<Binding> {
        let binding = self.bound_to.remove(&mac)?;
        self.owners.remove(&binding.ip);
        self.ends.remove(&(binding.ends, mac));
        Some(binding)
    }

    /// Takes an address back from the client that has it.
    pub(super) fn release(&mut self, mac: MacAddr, ip: Ipv6Addr) -> Option<Binding> {
        if self.of(mac)?.ip != ip {
            return None;
        }
        self.unbind(mac)
    }

    /// Takes an address back from the client that has found it in use, and gives it to nobody for a while.
    pub(super) fn decline(&mut self, mac: MacAddr, ip: Ipv6Addr, now: Instant) -> Option<Binding> {
        let binding = self.release(mac, ip)?;
        let declined = self.quarantine.values().filter(|(who, _)| *who == mac);
        if self.quarantine.len() < QUARANTINED && declined.count() < DECLINES {
            self.quarantine.insert(ip, (mac, now + QUARANTINE));
        }
        Some(binding)
    }

    /// Ends what is over, and returns what that was.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(MacAddr, Binding)> {
        self.quarantine.retain(|_, (_, until)| *until > now);
        let mut over = Vec::new();
        while let Some((ends, mac)) = self.ends.first().copied()
            && ends <= now
        {
            self.ends.remove(&(ends, mac));
            over.extend(self.unbind(mac).map(|binding| (mac, binding)));
        }
        over
    }

    /// When the next binding ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// Returns every binding, by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MacAddr, &Binding)> {
        let mut bindings: Vec<_> = self.bound_to.iter().collect();
        bindings.sort_by_key(|(_, binding)| binding.ip);
        bindings.into_iter().map(|(mac, binding)| (*mac, binding))
    }

    /// How many addresses are in quarantine.
    pub(super) fn quarantined(&self) -> usize {
        self.quarantine.len()
    }
}

/// Returns the addresses that a hardware address leads to: where it is hashed to, and those that follow.
fn derived(
    pool: &RangeInclusive<Ipv6Addr>,
    prefix: Ipv6Net,
    mac: MacAddr,
) -> impl Iterator<Item = Ipv6Addr> {
    let (first, last) = (pool.start().to_bits(), pool.end().to_bits());
    let count = last.saturating_sub(first).saturating_add(1);
    let [a, b, c, d, e, f, g, h, ..] = prefix.network().octets();
    let key = mix(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    let start = u128::from(mix(mac.to_bits() ^ key)) % count;
    let tries = if last < first { 0 } else { TRIES.min(count) };
    (0..tries).map(move |step| Ipv6Addr::from_bits(first + (start + step) % count))
}
