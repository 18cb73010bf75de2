//! The flows of one family: a line of the cache each, found from either side with one probe.
//!
//! # Theory of operation
//!
//! A flow is three ends: the *guest*, the *remote* it talks with, and the translator's port *outside*; the translator's
//! address is one only, and is not kept. Frames from inside are found by guest and remote, frames from outside by port and
//! remote. Both are entries of one index: slots of 64 bits, half hash and half number, in the order of the hash, a
//! collision in the next free slot. The hash in the slot makes it all but sure that a flow is looked at only if it is the one.
//! What is removed is filled from behind, so there are no graves, and the index doubles when it is half full.
//!
//! Flows keep their place, which is their number. The table never holds more than it was made for.

use std::hint::black_box;

use crate::net::napt::Side;
use crate::net::napt::key::{Address, Ends, Hasher};
use crate::net::napt::rewrite::Delta;
use crate::net::napt::tcp_state::State;
use crate::net::nat::Protocol;
use crate::wire::ethernet::MacAddr;

/// How many slots an index begins with.
const SLOTS: usize = 1024;
/// How far from its place an entry is looked for ahead of time: few are further.
const NEAR: usize = 3;
/// How many flows are near the processor anyway: to bring so few there ahead of time costs more than it saves.
const NEARBY: usize = 4096;

/// What must be known of a flow to pass a frame on.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Flow<A> {
    pub(super) guest: A,
    pub(super) remote: A,
    pub(super) guest_port: u16,
    pub(super) remote_port: u16,
    /// The translator's port; for ICMP, the identifier.
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// What is known of a TCP connection.
    pub(super) state: State,
    /// The guest's hardware address.
    pub(super) mac: MacAddr,
    /// The hardware address of the next hop outside; zero while it is not known.
    pub(super) next_hop: MacAddr,
    /// What is out of the ordinary.
    pub(super) marks: Marks,
    /// What the translation of a frame from inside does to its checksums.
    pub(super) delta: Delta,
    /// In which second it was last refreshed.
    pub(super) seen: u32,
    /// Bytes of payload from the guest.
    pub(super) sent: u64,
    /// Bytes of payload to the guest.
    pub(super) received: u64,
}

impl<A: Address> Flow<A> {
    /// What tells it apart on a side.
    #[inline]
    pub(super) fn ends(&self, side: Side) -> Ends<A> {
        let (near, near_port) = match side {
            Side::Inside => (self.guest, self.guest_port),
            Side::Outside => (A::UNSPECIFIED, self.port),
        };
        Ends {
            near,
            remote: self.remote,
            near_port,
            remote_port: self.remote_port,
            protocol: self.protocol,
        }
    }
}

/// What is out of the ordinary with a flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Marks(u8);

impl Marks {
    /// The remote is the translator's own address: it leads back inside.
    pub(super) const HAIRPIN: Self = Self(1);
    /// What it carries is read and rewritten: the control connection of FTP.
    pub(super) const FTP: Self = Self(2);
    /// The guest has sent in it, or it came by a port forward: frames from outside refresh it.
    pub(super) const CONFIRMED: Self = Self(4);
    /// Somebody outside began it, by a port forward.
    pub(super) const FORWARD: Self = Self(8);
    /// Frames of these flows cannot just pass.
    const SPECIAL: u8 = Self::HAIRPIN.0 | Self::FTP.0;

    /// Whether frames need more than a translation.
    #[inline]
    pub(super) const fn is_special(self) -> bool {
        self.0 & Self::SPECIAL != 0
    }

    /// Whether all of `other` are set.
    #[inline]
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Sets `other` too.
    #[must_use]
    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is known of a flow beside what every frame needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cold {
    /// In which second it began.
    pub(super) created: u32,
    /// The mapping it is of.
    pub(super) mapping: Option<u32>,
    /// The port forward it came by, and which target it went to.
    pub(super) target: Option<(u32, usize)>,
}

/// Flows of one family.
#[derive(Debug)]
pub(super) struct Table<A> {
    hasher: Hasher,
    /// Entries of both sides: hash, and number of the flow and side plus one.
    slots: Vec<u64>,
    shift: u32,
    flows: Vec<Flow<A>>,
    cold: Vec<Option<Cold>>,
    free: Vec<u32>,
    limit: usize,
}

impl<A: Address> Table<A> {
    /// Makes a table for as many as `limit` flows.
    pub(super) fn new(limit: usize, hasher: Hasher) -> Self {
        // Memory that is asked for at once is never moved, and there only when it is used.
        let limit = limit.min(1 << 28);
        Self {
            hasher,
            slots: vec![0; SLOTS],
            shift: u32::BITS - SLOTS.trailing_zeros(),
            flows: Vec::with_capacity(limit),
            cold: Vec::with_capacity(limit),
            free: Vec::new(),
            limit,
        }
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    /// Returns the number of the flow that a packet from a side is of.
    #[inline]
    pub(super) fn find(&self, side: Side, ends: &Ends<A>) -> Option<u32> {
        let hash = self.hasher.hash(side, ends);
        let mask = self.slots.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = *self.slots.get(at & mask)?;
            if slot == 0 {
                return None;
            }
            let (slot_hash, number, slot_side) = parts(slot);
            if slot_hash == hash
                && slot_side == side
                && self.flows.get(number as usize)?.ends(side) == *ends
            {
                return Some(number);
            }
            at += 1;
        }
    }

    /// Has what [`Table::find`] will look at brought into the cache.
    #[inline]
    pub(super) fn prefetch(&self, side: Side, ends: &Ends<A>) {
        if self.flows.len() < NEARBY {
            return;
        }
        let hash = self.hasher.hash(side, ends);
        let (at, mask) = ((hash >> self.shift) as usize, self.slots.len() - 1);
        // Without a branch on what is loaded: a wrong guess would have the processor wait, and not load for the next frame.
        let mut found = 0;
        for step in (0..NEAR).rev() {
            let slot = self.slots.get((at + step) & mask).copied().unwrap_or(0);
            found = if parts(slot).0 == hash { slot } else { found };
        }
        // A load whose value nobody waits for is a prefetch in safe code.
        if let Some(flow) = self.flows.get(parts(found).1 as usize) {
            black_box(flow.seen);
            if A::V6 {
                black_box(flow.received);
            }
        }
    }

    /// Returns a flow.
    #[inline]
    pub(super) fn flow(&self, number: u32) -> Option<&Flow<A>> {
        self.flows.get(number as usize)
    }

    /// Returns a flow to be changed; its ends stay as they are.
    #[inline]
    pub(super) fn flow_mut(&mut self, number: u32) -> Option<&mut Flow<A>> {
        self.flows.get_mut(number as usize)
    }

    /// Returns what else is known of a flow, if it is there.
    pub(super) fn cold(&self, number: u32) -> Option<Cold> {
        *self.cold.get(number as usize)?
    }

    /// Adds a flow whose ends are those of no other; `None` where there is one, or no room.
    pub(super) fn insert(&mut self, flow: Flow<A>, cold: Cold) -> Option<u32> {
        let sides = [Side::Inside, Side::Outside].map(|side| (side, flow.ends(side)));
        if self.len() >= self.limit
            || sides
                .iter()
                .any(|(side, ends)| self.find(*side, ends).is_some())
        {
            return None;
        }
        if self.len() * 4 >= self.slots.len() {
            self.grow();
        }
        let number = if let Some(number) = self.free.pop() {
            *self.flows.get_mut(number as usize)? = flow;
            *self.cold.get_mut(number as usize)? = Some(cold);
            number
        } else {
            self.flows.push(flow);
            self.cold.push(Some(cold));
            u32::try_from(self.flows.len() - 1).ok()?
        };
        for (side, ends) in sides {
            let hash = self.hasher.hash(side, &ends);
            place(&mut self.slots, self.shift, slot(hash, number, side));
        }
        Some(number)
    }

    /// Removes a flow and returns what was known of it.
    pub(super) fn remove(&mut self, number: u32) -> Option<(Flow<A>, Cold)> {
        let cold = self.cold.get_mut(number as usize)?.take()?;
        let flow = self.flows.get(number as usize)?.clone();
        for side in [Side::Inside, Side::Outside] {
            let hash = self.hasher.hash(side, &flow.ends(side));
            self.unplace(slot(hash, number, side));
        }
        self.free.push(number);
        Some((flow, cold))
    }

    /// Returns the numbers of all flows that are there, in their order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        (0..)
            .zip(&self.cold)
            .filter_map(|(number, cold)| cold.map(|_| number))
    }

    fn grow(&mut self) {
        let mut slots = vec![0; self.slots.len() * 2];
        self.shift -= 1;
        for entry in self.slots.drain(..).filter(|entry| *entry != 0) {
            place(&mut slots, self.shift, entry);
        }
        self.slots = slots;
    }

    fn unplace(&mut self, entry: u64) {
        let mask = self.slots.len() - 1;
        let home = |entry: u64| (parts(entry).0 >> self.shift) as usize;
        let mut hole = home(entry);
        while self.slots[hole] != entry {
            if self.slots[hole] == 0 {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let other = self.slots[at];
            if other == 0 {
                break;
            }
            // It may move to the hole if that is not before the place where one would begin to look for it.
            let from_home = at.wrapping_sub(home(other)) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.slots[hole] = other;
                hole = at;
            }
        }
        self.slots[hole] = 0;
    }
}

fn slot(hash: u32, number: u32, side: Side) -> u64 {
    (u64::from(hash) << 32) | ((u64::from(number) << 1 | u64::from(side as u8)) + 1)
}

#[inline]
fn parts(slot: u64) -> (u32, u32, Side) {
    #[expect(clippy::cast_possible_truncation, reason = "both halves")]
    let (hash, entry) = ((slot >> 32) as u32, (slot as u32).wrapping_sub(1));
    let side = if entry & 1 == 0 {
        Side::Inside
    } else {
        Side::Outside
    };
    (hash, entry >> 1, side)
}

fn place(slots: &mut [u64], shift: u32, entry: u64) {
    let mask = slots.len() - 1;
    let mut at = (parts(entry).0 >> shift) as usize;
    while slots[at] != 0 {
        at = (at + 1) & mask;
    }
    slots[at] = entry;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn flow(guest_port: u16, remote_port: u16) -> Flow<Ipv4Addr> {
        Flow {
            guest: Ipv4Addr::new(10, 0, 0, 1),
            remote: Ipv4Addr::new(198, 51, 100, 1),
            guest_port,
            remote_port,
            port: guest_port,
            protocol: Protocol::Udp,
            state: State::default(),
            mac: MacAddr::ZERO,
            next_hop: MacAddr::ZERO,
            marks: Marks::default(),
            delta: Delta::default(),
            seen: 0,
            sent: 0,
            received: 0,
        }
    }

    #[test]
    fn a_flow_of_ipv4_is_one_line_of_the_cache_and_one_of_ipv6_two() {
        assert_eq!(size_of::<Flow<Ipv4Addr>>(), 64);
        assert_eq!(size_of::<Flow<Ipv6Addr>>(), 128);
    }

    #[test]
    fn no_more_flows_are_taken_than_fit_and_none_twice() {
        let mut table = Table::new(2, Hasher::new(1));
        assert_eq!(table.insert(flow(1, 1), Cold::default()), Some(0));
        assert_eq!(table.insert(flow(1, 1), Cold::default()), None);
        assert_eq!(table.insert(flow(1, 2), Cold::default()), Some(1));
        assert_eq!(table.insert(flow(1, 3), Cold::default()), None);
        assert!(table.remove(0).is_some() && table.remove(0).is_none());
        assert_eq!(table.insert(flow(1, 3), Cold::default()), Some(0));
    }

    proptest! {
        #[test]
        fn the_table_finds_what_a_map_finds(
            seed in any::<u64>(),
            steps in proptest::collection::vec((any::<bool>(), 1..60u16, 1..60u16), 0..3000),
        ) {
            let mut table = Table::new(4096, Hasher::new(seed));
            let mut model = HashMap::new();
            for (insert, a, b) in steps {
                if insert {
                    let number = table.insert(flow(a, b), Cold::default());
                    prop_assert_eq!(number.is_none(), model.contains_key(&(a, b)));
                    if let Some(number) = number {
                        model.insert((a, b), number);
                    }
                } else if let Some(number) = model.remove(&(a, b)) {
                    prop_assert!(table.remove(number).is_some());
                }
            }
            prop_assert_eq!(table.len(), model.len());
            for a in 1..60 {
                for b in 1..60 {
                    for side in [Side::Inside, Side::Outside] {
                        let found = table.find(side, &flow(a, b).ends(side));
                        prop_assert_eq!(found, model.get(&(a, b)).copied());
                    }
                }
            }
        }
    }
}
