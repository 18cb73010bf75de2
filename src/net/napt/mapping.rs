//! Mappings: which port outside stands for which guest's port, whomever the guest talks with.
//!
//! # Theory of operation
//!
//! A guest's address and port are mapped to one port outside, for all that the guest talks with from there
//! (endpoint-independent mapping: RFC 4787, REQ-1; RFC 5382, REQ-1; RFC 5508, REQ-1). The port is the guest's own if it is free,
//! else a random one of the same parity, else a random one (REQ-3, REQ-4; RFC 6056). No port stands for two guests. There is
//! one address outside, so all mappings of a guest have the same (REQ-2). The last eighth of the ports is for guests that
//! have less than an eighth, so that none can leave the others without (RFC 6888, REQ-4). A mapping lives as long as anything uses it:
//! flows, and connections that are expected.

use std::ops::RangeInclusive;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::net::napt::key::{Address, Random};
use crate::net::nat::Protocol;
use crate::wire::ethernet::MacAddr;

/// A guest's port, and the port that stands for it outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mapping<A> {
    pub(super) guest: A,
    pub(super) guest_port: u16,
    pub(super) protocol: Protocol,
    /// The guest's hardware address when it began.
    mac: MacAddr,
    /// The port outside.
    pub(super) port: u16,
    /// How many use it.
    users: u32,
}

/// The mappings of one family.
#[derive(Debug)]
pub(super) struct Mappings<A> {
    mappings: Vec<Mapping<A>>,
    free: Vec<u32>,
    by_guest: HashMap<(A, u16, Protocol), u32, FixedState>,
    ports: [Ports; Protocol::ALL.len()],
    /// How many ports a guest has.
    shares: HashMap<(MacAddr, Protocol), u32, FixedState>,
    /// How many flows of a mapping have this remote address.
    contacts: HashMap<(u32, A), u32, FixedState>,
}

impl<A: Address> Mappings<A> {
    /// Makes none, with `range` for ports that cannot be kept.
    pub(super) fn new(range: &RangeInclusive<u16>, seed: u64) -> Self {
        let ports = Protocol::ALL.map(|protocol| match protocol {
            Protocol::Tcp | Protocol::Udp => Ports::new(range.clone(), 1),
            // Identifiers are nobody's but the translator's, and 0 is one.
            Protocol::Icmp => Ports::new(0..=u16::MAX, 0),
        });
        Self {
            mappings: Vec::new(),
            free: Vec::new(),
            by_guest: HashMap::with_hasher(FixedState::with_seed(seed)),
            ports,
            shares: HashMap::with_hasher(FixedState::with_seed(seed ^ 2)),
            contacts: HashMap::with_hasher(FixedState::with_seed(seed ^ 1)),
        }
    }

    /// Returns a mapping by its number.
    pub(super) fn mapping(&self, number: u32) -> Option<&Mapping<A>> {
        self.mappings.get(number as usize)
    }

    /// Returns the number of the mapping of a port outside.
    pub(super) fn by_port(&self, protocol: Protocol, port: u16) -> Option<u32> {
        self.ports[protocol as usize].owner(port)
    }

    /// Returns the mapping of a guest's port, made if there is none; `None` where no port is free for the guest. It must be
    /// released.
    pub(super) fn acquire(
        &mut self,
        (guest, guest_port): (A, u16),
        mac: MacAddr,
        protocol: Protocol,
        random: &mut Random,
    ) -> Option<(u32, u16)> {
        let key = (guest, guest_port, protocol);
        if let Some(number) = self.by_guest.get(&key) {
            let mapping = self.mappings.get_mut(*number as usize)?;
            mapping.users += 1;
            return Some((*number, mapping.port));
        }
        let number = match self.free.last() {
            Some(number) => *number,
            None => u32::try_from(self.mappings.len()).ok()?,
        };
        let share = self.shares.get(&(mac, protocol)).copied().unwrap_or(0);
        let ports = &mut self.ports[protocol as usize];
        if share * 8 >= ports.total && ports.left() * 8 < ports.total {
            return None;
        }
        let port = ports.take(guest_port, number, random)?;
        self.shares.insert((mac, protocol), share + 1);
        let mapping = Mapping {
            guest,
            guest_port,
            protocol,
            mac,
            port,
            users: 1,
        };
        if self.free.pop().is_some() {
            *self.mappings.get_mut(number as usize)? = mapping;
        } else {
            self.mappings.push(mapping);
        }
        self.by_guest.insert(key, number);
        Some((number, port))
    }

    /// Counts one more who uses a mapping.
    pub(super) fn hold(&mut self, number: u32) {
        if let Some(mapping) = self.mappings.get_mut(number as usize) {
            mapping.users += 1;
        }
    }

    /// Counts one less who uses a mapping, and forgets it with the last.
    pub(super) fn release(&mut self, number: u32) {
        let Some(mapping) = self.mappings.get_mut(number as usize) else {
            return;
        };
        mapping.users = mapping.users.saturating_sub(1);
        if mapping.users > 0 {
            return;
        }
        let key = (mapping.guest, mapping.guest_port, mapping.protocol);
        if self.by_guest.remove(&key).is_some() {
            self.ports[mapping.protocol as usize].give_back(mapping.port);
            let holder = (mapping.mac, mapping.protocol);
            if let Some(share) = self.shares.get_mut(&holder) {
                *share -= 1;
                if *share == 0 {
                    self.shares.remove(&holder);
                }
            }
            self.free.push(number);
        }
    }

    /// Notes that a mapping has one more flow with an address.
    pub(super) fn note_contact(&mut self, number: u32, remote: A) {
        *self.contacts.entry((number, remote)).or_insert(0) += 1;
    }

    /// Notes that a mapping has one flow less with an address.
    pub(super) fn forget_contact(&mut self, number: u32, remote: A) {
        if let Some(flows) = self.contacts.get_mut(&(number, remote)) {
            *flows -= 1;
            if *flows == 0 {
                self.contacts.remove(&(number, remote));
            }
        }
    }

    /// Whether a mapping has a flow with an address.
    pub(super) fn has_contact(&self, number: u32, remote: A) -> bool {
        self.contacts.contains_key(&(number, remote))
    }

    /// Keeps ports from being mapped to, or allows it again.
    pub(super) fn reserve(
        &mut self,
        protocol: Protocol,
        ports: RangeInclusive<u16>,
        reserved: bool,
    ) {
        for port in ports {
            self.ports[protocol as usize].reserve(port, reserved);
        }
    }

    /// Returns a port that nothing is mapped to and nobody has reserved.
    pub(super) fn spare(&mut self, protocol: Protocol, random: &mut Random) -> Option<u16> {
        let ports = &mut self.ports[protocol as usize];
        let port = ports.take(0, 0, random)?;
        ports.give_back(port);
        Some(port)
    }
}

/// The ports of one protocol outside.
#[derive(Debug)]
struct Ports {
    /// The number of the mapping of each port, plus one.
    owners: Vec<u32>,
    /// Ports that are not to be mapped to, a bit each.
    reserved: Vec<u64>,
    /// Ports of the range that are free, a bit each, those of each parity together.
    free: [Vec<u64>; 2],
    counts: [u32; 2],
    /// How many there are in the range.
    total: u32,
    range: RangeInclusive<u16>,
    /// The first port that can be one.
    first: u16,
}

impl Ports {
    fn new(range: RangeInclusive<u16>, first: u16) -> Self {
        let mut ports = Self {
            owners: vec![0; 1 << 16],
            reserved: vec![0; (1 << 16) / 64],
            free: [vec![0; (1 << 15) / 64], vec![0; (1 << 15) / 64]],
            counts: [0; 2],
            total: u32::try_from(range.len()).unwrap_or(0),
            range: range.clone(),
            first,
        };
        for port in range {
            ports.refresh(port);
        }
        ports
    }

    /// How many of the range are free.
    const fn left(&self) -> u32 {
        self.counts[0] + self.counts[1]
    }

    fn owner(&self, port: u16) -> Option<u32> {
        self.owners[usize::from(port)].checked_sub(1)
    }

    fn is_reserved(&self, port: u16) -> bool {
        self.reserved[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    fn is_free(&self, port: u16) -> bool {
        port >= self.first && self.owners[usize::from(port)] == 0 && !self.is_reserved(port)
    }

    /// Writes down anew whether a port can be picked.
    fn refresh(&mut self, port: u16) {
        let free = self.is_free(port) && self.range.contains(&port);
        let parity = usize::from(port & 1);
        let (word, bit) = (usize::from(port) / 128, 1u64 << (port / 2 % 64));
        let was = self.free[parity][word] & bit != 0;
        if free != was {
            self.free[parity][word] ^= bit;
            self.counts[parity] = if free {
                self.counts[parity] + 1
            } else {
                self.counts[parity] - 1
            };
        }
    }

    fn take(&mut self, preferred: u16, owner: u32, random: &mut Random) -> Option<u16> {
        let port = if self.is_free(preferred) {
            preferred
        } else {
            let parity = usize::from(preferred & 1);
            [parity, 1 - parity]
                .into_iter()
                .find_map(|parity| self.pick(parity, random))?
        };
        self.owners[usize::from(port)] = owner + 1;
        self.refresh(port);
        Some(port)
    }

    fn give_back(&mut self, port: u16) {
        self.owners[usize::from(port)] = 0;
        self.refresh(port);
    }

    fn reserve(&mut self, port: u16, reserved: bool) {
        let bit = 1 << (port % 64);
        let word = &mut self.reserved[usize::from(port) / 64];
        *word = if reserved { *word | bit } else { *word & !bit };
        self.refresh(port);
    }

    /// Returns a free port of a parity: the first one behind a random place within the range.
    fn pick(&self, parity: usize, random: &mut Random) -> Option<u16> {
        if self.counts[parity] == 0 {
            return None;
        }
        let words = &self.free[parity];
        let (low, high) = (u64::from(*self.range.start()), u64::from(*self.range.end()));
        let port = low + random.next() % (high.saturating_sub(low) + 1);
        let start = usize::try_from(port / 2).ok()?;
        for step in 0..=words.len() {
            let index = (start / 64 + step) % words.len();
            let mut word = words[index];
            if step == 0 {
                word &= u64::MAX << (start % 64);
            }
            if word != 0 {
                let half = index * 64 + word.trailing_zeros() as usize;
                return u16::try_from(half * 2 + parity).ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn mac(guest: Ipv4Addr) -> MacAddr {
        let [a, b, c, d] = guest.octets();
        MacAddr([2, 0, a, b, c, d])
    }

    fn mappings(range: RangeInclusive<u16>) -> (Mappings<Ipv4Addr>, Random) {
        (Mappings::new(&range, 5), Random::new(9))
    }

    #[test]
    fn a_port_is_kept_where_it_is_free_and_else_has_the_same_parity() {
        let (mut mappings, mut random) = mappings(1024..=65535);
        let (first, port) = mappings
            .acquire((A, 5001), mac(A), Protocol::Udp, &mut random)
            .unwrap();
        assert_eq!(port, 5001);
        let (_, other) = mappings
            .acquire((B, 5001), mac(B), Protocol::Udp, &mut random)
            .unwrap();
        assert!(other != 5001 && other % 2 == 1 && other >= 1024);
        let (_, tcp) = mappings
            .acquire((B, 5001), mac(B), Protocol::Tcp, &mut random)
            .unwrap();
        assert_eq!(tcp, 5001, "protocols do not share ports");
        assert_eq!(
            mappings.acquire((A, 5001), mac(A), Protocol::Udp, &mut random),
            Some((first, 5001)),
            "the same guest's port has the same mapping"
        );
    }

    #[test]
    fn every_port_is_used_once_before_none_is_left() {
        let (mut mappings, mut random) = mappings(2000..=2009);
        let mut seen = BTreeSet::new();
        for number in 0..10 {
            let guest = Ipv4Addr::new(10, 0, 1, number);
            let (_, port) = mappings
                .acquire((guest, 80), mac(guest), Protocol::Tcp, &mut random)
                .unwrap();
            assert!(seen.insert(port));
        }
        // The first has kept its own.
        assert_eq!(seen.range(2000..=2009).count(), 9);
        assert!(
            mappings
                .acquire((A, 80), mac(A), Protocol::Tcp, &mut random)
                .is_some()
        );
        assert!(
            mappings
                .acquire((B, 80), mac(B), Protocol::Tcp, &mut random)
                .is_none()
        );
        let (number, _) = mappings
            .acquire((A, 80), mac(A), Protocol::Tcp, &mut random)
            .unwrap();
        mappings.release(number);
        assert!(
            mappings
                .acquire((B, 80), mac(B), Protocol::Tcp, &mut random)
                .is_none()
        );
        mappings.release(number);
        assert!(
            mappings
                .acquire((B, 80), mac(B), Protocol::Tcp, &mut random)
                .is_some()
        );
    }

    #[test]
    fn reserved_ports_are_not_mapped_to() {
        let (mut mappings, mut random) = mappings(2000..=2001);
        mappings.reserve(Protocol::Udp, 2000..=2000, true);
        mappings.reserve(Protocol::Udp, 80..=80, true);
        let (_, port) = mappings
            .acquire((A, 80), mac(A), Protocol::Udp, &mut random)
            .unwrap();
        assert_eq!(port, 2001);
        assert!(
            mappings
                .acquire((B, 80), mac(B), Protocol::Udp, &mut random)
                .is_none()
        );
        mappings.reserve(Protocol::Udp, 80..=80, false);
        assert_eq!(
            mappings
                .acquire((B, 80), mac(B), Protocol::Udp, &mut random)
                .unwrap()
                .1,
            80
        );
    }

    #[test]
    fn a_guest_that_takes_all_it_can_leaves_ports_for_others() {
        let (mut mappings, mut random) = mappings(1024..=2047);
        let mut held = Vec::new();
        for port in 1024..=2047 {
            held.extend(mappings.acquire((A, port), mac(A), Protocol::Udp, &mut random));
        }
        assert_eq!(held.len(), 1024 - 127);
        for port in 1024..1024 + 127 {
            let other = mappings.acquire((B, port), mac(B), Protocol::Udp, &mut random);
            assert!(other.is_some(), "{port}");
        }
        for (number, _) in held {
            mappings.release(number);
        }
        assert_eq!(mappings.shares.len(), 1);
        let again = mappings.acquire((A, 1), mac(A), Protocol::Udp, &mut random);
        assert!(again.is_some());
    }

    #[test]
    fn contacts_are_counted_by_flow() {
        let (mut mappings, _) = mappings(1..=2);
        mappings.note_contact(1, A);
        mappings.note_contact(1, A);
        mappings.forget_contact(1, A);
        assert!(mappings.has_contact(1, A) && !mappings.has_contact(2, A));
        mappings.forget_contact(1, A);
        assert!(!mappings.has_contact(1, A));
    }
}
