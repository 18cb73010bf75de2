//! Addresses that somebody else uses, each until some time: a table with a limit, and a limit for each station.
//!
//! The limit for each station keeps one guest from marking a whole pool, be it by answering every probe, by
//! declining every lease or by claiming addresses in ARP.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use crate::wire::ethernet::MacAddr;

/// How many addresses are marked at once.
const LIMIT: usize = 4096;
/// How many of them because of one station.
const STATION_LIMIT: usize = 32;

/// Why an address is marked, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark<T> {
    /// The station that uses the address, or that said that it is used.
    pub(super) mac: MacAddr,
    /// When the mark ends.
    pub(super) until: T,
}

/// The marked addresses, with time in a unit of the owner's choice.
#[derive(Debug)]
pub(super) struct Marks<T> {
    by_ip: HashMap<Ipv4Addr, Mark<T>>,
    by_end: BTreeSet<(T, Ipv4Addr)>,
    by_mac: HashMap<MacAddr, BTreeSet<(T, Ipv4Addr)>>,
}

impl<T: Copy + Ord> Marks<T> {
    /// Returns a table without marks.
    pub(super) fn new() -> Self {
        Self {
            by_ip: HashMap::new(),
            by_end: BTreeSet::new(),
            by_mac: HashMap::new(),
        }
    }

    /// Returns the mark on an address.
    pub(super) fn find(&self, ip: Ipv4Addr) -> Option<Mark<T>> {
        self.by_ip.get(&ip).copied()
    }

    /// Marks an address anew. Returns the one whose mark, the first to end, was lifted for it.
    pub(super) fn insert(&mut self, ip: Ipv4Addr, mac: MacAddr, until: T) -> Option<Ipv4Addr> {
        self.remove(ip);
        let own = self
            .by_mac
            .get(&mac)
            .filter(|own| own.len() >= STATION_LIMIT);
        let lifted = match own {
            Some(own) => own.first(),
            None => self.by_end.first().filter(|_| self.by_ip.len() >= LIMIT),
        };
        let lifted = lifted.map(|(_, ip)| *ip);
        if let Some(lifted) = lifted {
            self.remove(lifted);
        }
        self.by_ip.insert(ip, Mark { mac, until });
        self.by_end.insert((until, ip));
        self.by_mac.entry(mac).or_default().insert((until, ip));
        lifted
    }

    /// Lifts the mark on an address.
    pub(super) fn remove(&mut self, ip: Ipv4Addr) {
        let Some(mark) = self.by_ip.remove(&ip) else {
            return;
        };
        self.by_end.remove(&(mark.until, ip));
        if let Some(own) = self.by_mac.get_mut(&mark.mac) {
            own.remove(&(mark.until, ip));
            if own.is_empty() {
                self.by_mac.remove(&mark.mac);
            }
        }
    }

    /// Lifts one mark that has ended, if there is one, and returns its address.
    pub(super) fn expire_one(&mut self, now: T) -> Option<Ipv4Addr> {
        let (until, ip) = *self.by_end.first()?;
        if until > now {
            return None;
        }
        self.remove(ip);
        Some(ip)
    }

    /// Returns the marks that have not ended, those that end first in front.
    pub(super) fn iter(&self, now: T) -> impl Iterator<Item = (Ipv4Addr, Mark<T>)> {
        self.by_end
            .iter()
            .filter(move |(until, _)| *until > now)
            .filter_map(|(_, ip)| Some((*ip, self.find(*ip)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    #[test]
    fn one_station_marks_only_so_many_addresses() {
        let mut marks = Marks::new();
        for n in 0..40 {
            let lifted = marks.insert(Ipv4Addr::from_bits(n), station(1), n);
            assert_eq!(lifted, n.checked_sub(32).map(Ipv4Addr::from_bits));
        }
        assert_eq!(marks.insert(Ipv4Addr::from_bits(99), station(2), 99), None);
        assert_eq!(marks.iter(0).count(), 33);
    }

    #[test]
    fn the_table_has_a_limit() {
        let mut marks = Marks::new();
        for n in 0..5000 {
            marks.insert(Ipv4Addr::from_bits(n), station(n), n);
        }
        assert_eq!(
            (marks.by_ip.len(), marks.by_end.len(), marks.by_mac.len()),
            (4096, 4096, 4096)
        );
        assert_eq!(
            marks.find(Ipv4Addr::from_bits(0)),
            None,
            "the oldest went first"
        );
    }

    #[test]
    fn marks_end_in_their_order() {
        let mut marks = Marks::new();
        marks.insert(Ipv4Addr::from_bits(1), station(1), 20);
        marks.insert(Ipv4Addr::from_bits(2), station(1), 10);
        marks.insert(Ipv4Addr::from_bits(1), station(2), 30);
        assert_eq!(marks.expire_one(9), None);
        assert_eq!(marks.expire_one(30), Some(Ipv4Addr::from_bits(2)));
        assert_eq!(marks.expire_one(30), Some(Ipv4Addr::from_bits(1)));
        assert!(marks.by_mac.is_empty() && marks.by_end.is_empty());
    }
}
