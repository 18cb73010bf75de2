//! The forwarding table: behind which port an address of a VLAN is.
//!
//! # Theory of operation
//!
//! Entries are *learned* from the sources of frames and forgotten after [`Fdb::AGEING`] without one, or they are
//! *fixed*: addresses that belong to a port by configuration, which neither age nor move. The table holds at most
//! [`Fdb::LIMIT`] entries and [`Fdb::PORT_LIMIT`] learned ones a port; what does not fit is not learned, and frames to
//! it are flooded. Guests choose the addresses, so the hash is seeded. Time is counted in whole seconds.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::time::{Duration, Instant};

use crate::net::port::PortId;
use crate::net::vlan::{Domain, VlanId};
use crate::wire::ethernet::MacAddr;

/// A VLAN and an address in it, as one number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key(u64);

impl Key {
    /// Names an address in a domain.
    #[inline]
    pub fn new(domain: Domain, mac: MacAddr) -> Self {
        Self(u64::from(domain.number()) << 48 | mac.to_bits())
    }

    /// Returns the domain.
    pub fn domain(self) -> Domain {
        let number = u16::try_from(self.0 >> 48).unwrap_or_default();
        VlanId::new(number).map_or(Domain::UNTAGGED, Domain::from)
    }

    /// Returns the address.
    pub const fn mac(self) -> MacAddr {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortId,
    /// `None` for a fixed entry.
    seen: Option<u32>,
}

/// What became of a source that was to be learned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Learned {
    /// The address is known to be behind this port.
    Here,
    /// The address is fixed behind this other port.
    FixedAt(PortId),
    /// The table, or the port's share of it, is full.
    Full,
}

/// An entry as it is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FdbRow {
    /// The VLAN, 0 for the untagged domain.
    pub vlan: u16,
    /// The address.
    pub mac: MacAddr,
    /// The port behind which it is.
    pub port: PortId,
    /// How long ago it was last seen; `None` for a fixed entry.
    pub age: Option<Duration>,
}

/// The table of one network.
#[derive(Debug)]
pub struct Fdb {
    entries: HashMap<Key, Entry, RandomState>,
    learned: HashMap<PortId, u32, RandomState>,
    start: Instant,
    second: u32,
    generation: u64,
}

impl Fdb {
    /// After how long without a frame a learned address is forgotten (IEEE 802.1Q, table 8-6).
    pub const AGEING: Duration = Duration::from_secs(300);
    /// How many entries the table holds.
    pub const LIMIT: usize = 131_072;
    /// How many learned entries a port can have.
    pub const PORT_LIMIT: u32 = 4096;
    /// How often aged entries are removed.
    pub const SWEEP: Duration = Duration::from_secs(10);

    /// Starts an empty table.
    pub fn new(now: Instant) -> Self {
        Self {
            entries: HashMap::default(),
            learned: HashMap::default(),
            start: now,
            second: 0,
            generation: 0,
        }
    }

    /// Moves the table's time on.
    #[inline]
    pub fn set_now(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.start).as_secs();
        self.second = u32::try_from(second).unwrap_or(u32::MAX);
    }

    /// The table's time in whole seconds.
    #[inline]
    pub const fn second(&self) -> u32 {
        self.second
    }

    /// Counts up with every change to where an address is.
    #[inline]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Ties an address to a port for good.
    pub fn fix(&mut self, key: Key, port: PortId) {
        self.remove(key);
        self.entries.insert(key, Entry { port, seen: None });
        self.generation += 1;
    }

    /// Unties an address from a port.
    pub fn unfix(&mut self, key: Key, port: PortId) {
        if self.find(key) == Some((port, true)) {
            self.entries.remove(&key);
            self.generation += 1;
        }
    }

    /// Returns the port behind which an address is.
    #[inline]
    pub fn lookup(&self, key: Key) -> Option<PortId> {
        let entry = self.entries.get(&key)?;
        (!self.aged(entry)).then_some(entry.port)
    }

    /// Notes that an address sent a frame from behind a port.
    pub fn learn(&mut self, key: Key, port: PortId) -> Learned {
        let second = self.second;
        if let Some(entry) = self.entries.get_mut(&key) {
            match &mut entry.seen {
                None if entry.port == port => return Learned::Here,
                None => return Learned::FixedAt(entry.port),
                Some(seen) if entry.port == port => {
                    *seen = second;
                    return Learned::Here;
                }
                Some(_) => {}
            }
            self.remove(key);
            self.generation += 1;
        }
        let count = self.learned.entry(port).or_insert(0);
        if self.entries.len() >= Self::LIMIT || *count >= Self::PORT_LIMIT {
            return Learned::Full;
        }
        *count += 1;
        self.entries.insert(
            key,
            Entry {
                port,
                seen: Some(second),
            },
        );
        self.generation += 1;
        Learned::Here
    }

    /// Forgets what was learned behind a port.
    pub fn forget(&mut self, port: PortId) {
        if self.learned.get(&port).is_none_or(|count| *count == 0) {
            return;
        }
        self.entries
            .retain(|_, entry| entry.port != port || entry.seen.is_none());
        self.learned.remove(&port);
        self.generation += 1;
    }

    /// Returns what is known of an address: the port behind which it is, and whether it is fixed there.
    #[inline]
    pub fn find(&self, key: Key) -> Option<(PortId, bool)> {
        let entry = self.entries.get(&key)?;
        (!self.aged(entry)).then_some((entry.port, entry.seen.is_none()))
    }

    /// Returns the addresses behind some ports, those that are fixed first.
    pub fn behind(&self, ports: &[PortId]) -> Vec<(PortId, Key)> {
        let live = self
            .entries
            .iter()
            .filter(|(_, entry)| ports.contains(&entry.port) && !self.aged(entry));
        let mut found: Vec<_> = live
            .map(|(key, entry)| (entry.seen.is_some(), entry.port, *key))
            .collect();
        found.sort_unstable();
        found
            .into_iter()
            .map(|(_, port, key)| (port, key))
            .collect()
    }

    /// Forgets a learned address.
    pub fn unlearn(&mut self, key: Key) {
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.seen.is_some())
        {
            self.remove(key);
            self.generation += 1;
        }
    }

    /// Removes aged entries.
    pub fn sweep(&mut self) {
        let (second, learned) = (self.second, &mut self.learned);
        let before = self.entries.len();
        self.entries.retain(|_, entry| {
            let keep = !is_aged(entry, second);
            if !keep && let Some(count) = learned.get_mut(&entry.port) {
                *count = count.saturating_sub(1);
            }
            keep
        });
        if self.entries.len() != before {
            self.generation += 1;
        }
    }

    /// Tells whether the table takes no more addresses.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= Self::LIMIT
    }

    /// The ports that have learned as many addresses as a port can.
    pub fn full_ports(&self) -> impl Iterator<Item = PortId> + '_ {
        self.learned
            .iter()
            .filter(|(_, count)| **count >= Self::PORT_LIMIT)
            .map(|(port, _)| *port)
    }

    /// The entries by VLAN and address.
    pub fn rows(&self) -> Vec<FdbRow> {
        let live = self.entries.iter().filter(|(_, entry)| !self.aged(entry));
        let mut rows: Vec<FdbRow> = live
            .map(|(key, entry)| FdbRow {
                vlan: key.domain().number(),
                mac: key.mac(),
                port: entry.port,
                age: entry
                    .seen
                    .map(|seen| Duration::from_secs(u64::from(self.second.saturating_sub(seen)))),
            })
            .collect();
        rows.sort_unstable_by_key(|row| (row.vlan, row.mac));
        rows
    }

    fn aged(&self, entry: &Entry) -> bool {
        is_aged(entry, self.second)
    }

    fn remove(&mut self, key: Key) {
        if let Some(Entry {
            port,
            seen: Some(_),
        }) = self.entries.remove(&key)
            && let Some(count) = self.learned.get_mut(&port)
        {
            *count = count.saturating_sub(1);
        }
    }
}

fn is_aged(entry: &Entry, second: u32) -> bool {
    entry
        .seen
        .is_some_and(|seen| u64::from(second.saturating_sub(seen)) >= Fdb::AGEING.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    fn key(number: u64) -> Key {
        let [.., a, b, c, d, e] = number.to_be_bytes();
        Key::new(Domain::UNTAGGED, MacAddr([2, a, b, c, d, e]))
    }

    #[test]
    fn an_address_moves_with_its_frames_and_is_forgotten_with_its_port() {
        let mut fdb = Fdb::new(Instant::now());
        assert_eq!(fdb.learn(key(1), A), Learned::Here);
        assert_eq!(fdb.lookup(key(1)), Some(A));
        assert_eq!(fdb.learn(key(1), B), Learned::Here);
        assert_eq!(fdb.lookup(key(1)), Some(B));
        fdb.forget(A);
        assert_eq!(fdb.lookup(key(1)), Some(B));
        fdb.forget(B);
        assert_eq!(fdb.lookup(key(1)), None);
    }

    #[test]
    fn a_fixed_address_neither_moves_nor_ages() {
        let start = Instant::now();
        let mut fdb = Fdb::new(start);
        fdb.learn(key(1), B);
        fdb.fix(key(1), A);
        assert_eq!(fdb.learn(key(1), B), Learned::FixedAt(A));
        fdb.forget(A);
        fdb.set_now(start + 10 * Fdb::AGEING);
        fdb.sweep();
        assert_eq!(fdb.lookup(key(1)), Some(A));
        assert_eq!(fdb.rows()[0].age, None);
    }

    #[test]
    fn a_learned_address_ages_and_its_room_is_free_again() {
        let start = Instant::now();
        let mut fdb = Fdb::new(start);
        for number in 0..u64::from(Fdb::PORT_LIMIT) {
            assert_eq!(fdb.learn(key(number), A), Learned::Here);
        }
        assert_eq!(fdb.learn(key(1 << 20), A), Learned::Full);
        assert_eq!(fdb.full_ports().collect::<Vec<_>>(), [A]);
        assert_eq!(
            fdb.learn(key(1 << 20), B),
            Learned::Here,
            "another port has its own share"
        );
        fdb.set_now(start + Fdb::AGEING - Duration::from_secs(1));
        assert_eq!(fdb.learn(key(0), A), Learned::Here);
        fdb.set_now(start + Fdb::AGEING);
        assert_eq!(fdb.lookup(key(1)), None);
        assert_eq!(fdb.lookup(key(0)), Some(A), "it was seen since");
        fdb.sweep();
        assert_eq!(fdb.rows().len(), 1);
        assert_eq!(fdb.learn(key(1 << 20), A), Learned::Here);
    }

    #[test]
    fn an_address_that_moves_to_a_port_that_has_no_room_is_seen_to_have_gone() {
        let mut fdb = Fdb::new(Instant::now());
        for number in 0..u64::from(Fdb::PORT_LIMIT) {
            fdb.learn(key(number), A);
        }
        fdb.learn(key(1 << 20), B);
        let before = fdb.generation();
        assert_eq!(fdb.learn(key(1 << 20), A), Learned::Full);
        assert_eq!(fdb.lookup(key(1 << 20)), None);
        assert_ne!(fdb.generation(), before);
    }

    #[test]
    fn the_table_has_a_limit() {
        let mut fdb = Fdb::new(Instant::now());
        let mut number = 0;
        for port in 0.. {
            for _ in 0..Fdb::PORT_LIMIT {
                number += 1;
                if fdb.learn(key(number), PortId(port)) == Learned::Full {
                    assert_eq!(fdb.rows().len(), Fdb::LIMIT);
                    assert!(fdb.is_full());
                    return;
                }
            }
        }
    }
}
