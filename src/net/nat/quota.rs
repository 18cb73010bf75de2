//! How many flows there are, of the network and of each guest, and how many there may be.

use std::collections::HashMap;

use super::Limits;
use crate::wire::ethernet::MacAddr;

/// Counts flows against their limits.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    total: usize,
    guests: HashMap<MacAddr, usize, foldhash::fast::RandomState>,
    refused: u64,
    /// Who was refused last, as long as it is at its limit.
    at_limit: Option<MacAddr>,
}

impl Quota {
    /// Begins without flows.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            total: 0,
            guests: HashMap::default(),
            refused: 0,
            at_limit: None,
        }
    }

    /// Takes one flow of a guest's share, if there is one left.
    pub fn take(&mut self, guest: MacAddr) -> bool {
        let taken = self.guests.get(&guest).copied().unwrap_or(0);
        if taken >= self.limits.flows_per_guest {
            self.at_limit = Some(guest);
        }
        if taken >= self.limits.flows_per_guest || self.total >= self.limits.flows {
            self.refused += 1;
            return false;
        }
        self.guests.insert(guest, taken + 1);
        self.total += 1;
        true
    }

    /// Gives one flow back.
    pub fn give(&mut self, guest: MacAddr) {
        let Some(taken) = self.guests.get_mut(&guest) else {
            return;
        };
        *taken -= 1;
        self.total -= 1;
        if *taken == 0 {
            self.guests.remove(&guest);
        }
        if self.at_limit == Some(guest) {
            self.at_limit = None;
        }
    }

    /// Counts a flow that was refused for another reason.
    pub const fn note_refused(&mut self) {
        self.refused += 1;
    }

    /// How many flows were refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// What an operator should know, one sentence each.
    pub fn advisories(&self) -> Vec<String> {
        let (mut advisories, refused) = (Vec::new(), self.refused);
        if self.total >= self.limits.flows {
            advisories.push(format!(
                "the NAT has as many flows as it may have, {}; further ones are refused, {refused} so far",
                self.limits.flows
            ));
        }
        if let Some(guest) = self.at_limit {
            advisories.push(format!(
                "the guest with the address {guest} has as many flows as it may have, {}; further ones are refused, {refused} so far",
                self.limits.flows_per_guest
            ));
        }
        advisories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_guest_that_has_its_share_takes_nothing_of_others() {
        let mut quota = Quota::new(Limits {
            flows: 5,
            flows_per_guest: 2,
        });
        assert!(quota.take(A) && quota.take(A));
        assert!(!quota.take(A));
        assert!(quota.take(B));
        assert_eq!((quota.refused(), quota.advisories().len()), (1, 1));
        quota.give(A);
        assert!(quota.advisories().is_empty());
        assert!(quota.take(A));
    }

    #[test]
    fn the_network_has_a_limit_too() {
        let mut quota = Quota::new(Limits {
            flows: 1,
            flows_per_guest: 2,
        });
        assert!(quota.take(A));
        assert!(!quota.take(B));
        quota.give(B);
        assert!(!quota.take(B), "nobody gives back what it has not taken");
        quota.give(A);
        assert!(quota.take(B));
    }
}
