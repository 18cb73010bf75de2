//! A set of addresses kept as ranges, so that a pool of any size costs nothing until it is used.
//!
//! Each operation takes time in the logarithm of the number of ranges, of which there are at most one more than
//! addresses that were taken out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Disjoint ranges that do not touch: the first address of each, and its last.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    /// Returns the set of all addresses in one range; none where it ends before it begins.
    pub(super) fn new(range: &RangeInclusive<Ipv4Addr>) -> Self {
        let (first, last) = (range.start().to_bits(), range.end().to_bits());
        Self(
            (first <= last)
                .then_some((first, last))
                .into_iter()
                .collect(),
        )
    }

    /// Tells whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes an address out, if it is there.
    pub(super) fn remove(&mut self, ip: Ipv4Addr) {
        let ip = ip.to_bits();
        let Some((first, last)) = self.around(ip) else {
            return;
        };
        self.0.remove(&first);
        if first < ip {
            self.0.insert(first, ip - 1);
        }
        if ip < last {
            self.0.insert(ip + 1, last);
        }
    }

    /// Puts an address in, if it is not there.
    pub(super) fn insert(&mut self, ip: Ipv4Addr) {
        let ip = ip.to_bits();
        if self.around(ip).is_some() {
            return;
        }
        let (mut first, mut last) = (ip, ip);
        if let Some((before, _)) = ip.checked_sub(1).and_then(|before| self.around(before)) {
            first = before;
        }
        if let Some(after) = ip.checked_add(1)
            && let Some(end) = self.0.remove(&after)
        {
            last = end;
        }
        self.0.insert(first, last);
    }

    /// Returns the first address from `start` on, going on at the lowest after the highest.
    pub(super) fn next_from(&self, start: Ipv4Addr) -> Option<Ipv4Addr> {
        let start = start.to_bits();
        let found = match self.around(start) {
            Some(_) => start,
            None => *self.0.range(start..).chain(self.0.iter()).next()?.0,
        };
        Some(Ipv4Addr::from_bits(found))
    }

    fn around(&self, ip: u32) -> Option<(u32, u32)> {
        let (first, last) = self.0.range(..=ip).next_back()?;
        (ip <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn the_ends_of_the_number_space_do_not_overflow() {
        let mut all = Ranges::new(&(Ipv4Addr::UNSPECIFIED..=Ipv4Addr::BROADCAST));
        for end in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST] {
            all.remove(end);
            assert_eq!(all.next_from(end), Some(Ipv4Addr::new(0, 0, 0, 1)));
        }
        all.insert(Ipv4Addr::UNSPECIFIED);
        all.insert(Ipv4Addr::BROADCAST);
        assert_eq!(all.0, BTreeMap::from([(0, u32::MAX)]));
        assert!(Ranges::new(&(ip(2)..=ip(1))).is_empty());
    }

    proptest! {
        #[test]
        fn ranges_hold_what_a_plain_set_holds(
            steps in proptest::collection::vec((any::<bool>(), 0..40u8, 0..50u8), 0..200),
        ) {
            let mut ranges = Ranges::new(&(ip(10)..=ip(30)));
            let mut plain: BTreeSet<Ipv4Addr> = (10..=30).map(ip).collect();
            for (add, at, from) in steps {
                if add {
                    ranges.insert(ip(at));
                    plain.insert(ip(at));
                } else {
                    ranges.remove(ip(at));
                    plain.remove(&ip(at));
                }
                let next = plain.range(ip(from)..).next().or_else(|| plain.first());
                prop_assert_eq!(ranges.next_from(ip(from)), next.copied());
                prop_assert_eq!(ranges.is_empty(), plain.is_empty());
            }
        }
    }
}
