//! How many flows there are, of the network and of each guest, and how many there may be.
//!
//! Networks whose flows take something of the whole host count them together as well, so that no guest leaves others,
//! the daemon or the host without.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::Limits;
use crate::wire::ethernet::MacAddr;

/// What the networks of a process take of what there is only once: descriptors, and ports of the host.
#[derive(Debug)]
pub struct Pool {
    flows: AtomicUsize,
    ports: AtomicUsize,
}

impl Pool {
    /// Begins with nothing taken.
    #[expect(clippy::new_without_default, reason = "a default is not const")]
    pub const fn new() -> Self {
        Self {
            flows: AtomicUsize::new(0),
            ports: AtomicUsize::new(0),
        }
    }
}

/// A pool, and how much all who share it may take of it together.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// What is shared.
    pub pool: &'static Pool,
    /// How many flows there may be, each of which has a descriptor.
    pub flows: usize,
    /// How many of them may have a port of the host; one guest may have half of those.
    pub ports: usize,
}

/// Takes one of what is counted, unless all are taken.
fn take_of(count: &AtomicUsize, limit: usize) -> bool {
    let more = |taken: usize| (taken < limit).then_some(taken + 1);
    count.fetch_update(Relaxed, Relaxed, more).is_ok()
}

/// Why a flow was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Limit {
    Guest(MacAddr),
    GuestPorts(MacAddr),
    SharedFlows,
    SharedPorts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    flows: usize,
    ports: usize,
}

/// Counts flows against their limits.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    share: Option<Share>,
    total: Taken,
    guests: HashMap<MacAddr, Taken, foldhash::fast::RandomState>,
    refused: u64,
    /// Which limit was reached last, as long as it is.
    reached: Option<Limit>,
}

impl Quota {
    /// Begins without flows.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            share: None,
            total: Taken::default(),
            guests: HashMap::default(),
            refused: 0,
            reached: None,
        }
    }

    /// Begins without flows, which are counted with those of others as well.
    pub fn sharing(limits: Limits, share: Share) -> Self {
        let mut quota = Self::new(limits);
        quota.share = Some(share);
        quota
    }

    /// Takes one flow of a guest's share, if there is one left.
    pub fn take(&mut self, guest: MacAddr) -> bool {
        self.take_flow(guest, false)
    }

    /// Takes one flow that has a port of the host, if there is one left.
    pub fn take_port(&mut self, guest: MacAddr) -> bool {
        self.take_flow(guest, true)
    }

    fn take_flow(&mut self, guest: MacAddr, port: bool) -> bool {
        let taken = self.guests.get(&guest).copied().unwrap_or_default();
        if let Err(limit) = self.try_take(guest, taken, port) {
            self.reached = limit.or(self.reached);
            self.refused += 1;
            return false;
        }
        let ports = usize::from(port);
        let of_guest = self.guests.entry(guest).or_default();
        (of_guest.flows, of_guest.ports) = (taken.flows + 1, taken.ports + ports);
        (self.total.flows, self.total.ports) = (self.total.flows + 1, self.total.ports + ports);
        true
    }

    fn try_take(&self, guest: MacAddr, taken: Taken, port: bool) -> Result<(), Option<Limit>> {
        if taken.flows >= self.limits.flows_per_guest {
            return Err(Some(Limit::Guest(guest)));
        }
        if self.total.flows >= self.limits.flows {
            return Err(None);
        }
        let Some(share) = &self.share else {
            return Ok(());
        };
        if port && taken.ports >= share.ports / 2 {
            return Err(Some(Limit::GuestPorts(guest)));
        }
        if !take_of(&share.pool.flows, share.flows) {
            return Err(Some(Limit::SharedFlows));
        }
        if port && !take_of(&share.pool.ports, share.ports) {
            share.pool.flows.fetch_sub(1, Relaxed);
            return Err(Some(Limit::SharedPorts));
        }
        Ok(())
    }

    /// Gives one flow back.
    pub fn give(&mut self, guest: MacAddr) {
        self.give_flow(guest, false);
    }

    /// Gives back one flow that has a port of the host.
    pub fn give_port(&mut self, guest: MacAddr) {
        self.give_flow(guest, true);
    }

    fn give_flow(&mut self, guest: MacAddr, port: bool) {
        let Some(taken) = self.guests.get_mut(&guest) else {
            return;
        };
        let ports = usize::from(port);
        taken.flows -= 1;
        taken.ports -= ports;
        if taken.flows == 0 {
            self.guests.remove(&guest);
        }
        self.give_back(Taken { flows: 1, ports });
        match self.reached {
            Some(Limit::Guest(other) | Limit::GuestPorts(other)) if other != guest => {}
            Some(_) | None => self.reached = None,
        }
    }

    fn give_back(&mut self, taken: Taken) {
        self.total.flows -= taken.flows;
        self.total.ports -= taken.ports;
        if let Some(share) = &self.share {
            share.pool.flows.fetch_sub(taken.flows, Relaxed);
            share.pool.ports.fetch_sub(taken.ports, Relaxed);
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
        if self.total.flows >= self.limits.flows {
            advisories.push(format!(
                "the NAT has as many flows as it may have, {}; further ones are refused, {refused} so far",
                self.limits.flows
            ));
        }
        let (flows, ports) = self
            .share
            .map_or((0, 0), |share| (share.flows, share.ports));
        advisories.extend(self.reached.map(|limit| match limit {
            Limit::Guest(guest) => format!(
                "the guest with the address {guest} has as many flows as it may have, {}; further ones are refused, {refused} so far",
                self.limits.flows_per_guest
            ),
            Limit::GuestPorts(guest) => format!(
                "the guest with the address {guest} has as many UDP ports of this host as it may have, {}; further ones are refused, {refused} so far",
                ports / 2
            ),
            Limit::SharedFlows => format!(
                "the NATs of all networks have as many flows as the limit of open files leaves them, {flows}; further ones are refused, {refused} so far; raise LimitNOFILE"
            ),
            Limit::SharedPorts => format!(
                "the NATs of all networks have as many UDP ports of this host as they may have, {ports}; further ones are refused, {refused} so far"
            ),
        }));
        advisories
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.give_back(self.total);
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

    fn share(pool: &'static Pool) -> Share {
        Share {
            pool,
            flows: 5,
            ports: 4,
        }
    }

    #[test]
    fn networks_share_what_there_is_only_once() {
        static POOL: Pool = Pool::new();
        let mut one = Quota::sharing(Limits::default(), share(&POOL));
        let mut other = Quota::sharing(Limits::default(), share(&POOL));
        assert!(one.take(A) && one.take(A) && one.take(A) && other.take(A));
        assert!(other.take(B) && !other.take(B));
        assert_eq!(other.advisories().len(), 1);
        one.give(A);
        assert!(other.take(B));
        assert!(other.advisories().is_empty() || !other.take(B));
        drop(one);
        assert!(other.take(B) && other.take(B) && !other.take(B));
        drop(other);
        assert_eq!(POOL.flows.load(Relaxed), 0);
    }

    #[test]
    fn a_guest_leaves_others_and_the_host_their_ports() {
        static POOL: Pool = Pool::new();
        let mut quota = Quota::sharing(Limits::default(), share(&POOL));
        assert!(quota.take_port(A) && quota.take_port(A) && !quota.take_port(A));
        assert!(quota.advisories()[0].contains("UDP ports"));
        assert!(quota.take(A), "what has no port is not meant");
        assert!(quota.take_port(B));
        quota.give_port(A);
        assert!(quota.advisories().is_empty() && quota.take_port(A));
        let mut other = Quota::sharing(Limits::default(), share(&POOL));
        quota.give(A);
        assert!(other.take_port(A) && !other.take_port(B));
        assert!(other.take(B), "a flow that was refused was given back");
        drop((quota, other));
        let left = [&POOL.flows, &POOL.ports].map(|count| count.load(Relaxed));
        assert_eq!(left, [0, 0]);
    }
}
