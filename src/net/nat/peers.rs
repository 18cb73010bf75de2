//! To whom a guest's port has sent, and so from whom it takes packets (RFC 4787, section 5).
//!
//! A port remembers the last [`PEERS`] whom it has sent to; all ports of a network share a budget, and a port that finds it
//! spent forgets its oldest for each new one.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;

use super::Filtering;

/// How many a port remembers at most.
const PEERS: usize = 1024;
/// From how many on they are found by their hash.
const FEW: usize = 8;

/// How many peers may be remembered by all ports together, beyond one each.
#[derive(Debug)]
pub struct Budget(pub usize);

/// Those whom a port has sent to.
#[derive(Debug)]
pub struct Peers {
    filtering: Filtering,
    /// The oldest first; never empty.
    order: VecDeque<SocketAddr>,
    hashed: HashSet<SocketAddr, foldhash::fast::RandomState>,
}

impl Peers {
    /// Begins with the first.
    pub fn new(filtering: Filtering, first: SocketAddr) -> Self {
        let mut order = VecDeque::with_capacity(1);
        order.push_back(key(filtering, first));
        Self {
            filtering,
            order,
            hashed: HashSet::default(),
        }
    }

    fn contains(&self, key: SocketAddr) -> bool {
        // Most ports have one; the last is the likeliest.
        self.order.back() == Some(&key)
            || match self.order.len() {
                ..=FEW => self.order.contains(&key),
                _ => self.hashed.contains(&key),
            }
    }

    /// Remembers one that was sent to.
    pub fn note(&mut self, peer: SocketAddr, budget: &mut Budget) {
        let key = key(self.filtering, peer);
        if self.contains(key) {
            return;
        }
        if self.order.len() >= PEERS || budget.0 == 0 {
            if let Some(oldest) = self.order.pop_front() {
                self.hashed.remove(&oldest);
            }
        } else {
            budget.0 -= 1;
        }
        self.order.push_back(key);
        if self.order.len() > FEW {
            if self.hashed.is_empty() {
                self.hashed.extend(&self.order);
            } else {
                self.hashed.insert(key);
            }
        } else {
            self.hashed.clear();
        }
    }

    /// Whether packets from somebody are taken.
    pub fn allows(&self, from: SocketAddr) -> bool {
        match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::Address | Filtering::AddressAndPort => {
                self.contains(key(self.filtering, from))
            }
        }
    }

    /// The only one there is, if there is only one.
    pub fn only(&self) -> Option<SocketAddr> {
        match self.order.len() {
            1 => self.order.front().copied(),
            _ => None,
        }
    }

    /// Gives back what it took of the budget.
    pub fn close(&self, budget: &mut Budget) {
        budget.0 += self.order.len() - 1;
    }
}

fn key(filtering: Filtering, peer: SocketAddr) -> SocketAddr {
    match filtering {
        Filtering::Address => SocketAddr::new(peer.ip(), 0),
        Filtering::EndpointIndependent | Filtering::AddressAndPort => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: u8, port: u16) -> SocketAddr {
        ([198, 51, 100, address], port).into()
    }

    #[test]
    fn whoever_was_not_sent_to_is_not_heard() {
        let cases = [
            (Filtering::EndpointIndependent, [true; 3]),
            (Filtering::Address, [true, true, false]),
            (Filtering::AddressAndPort, [true, false, false]),
        ];
        for (filtering, expected) in cases {
            let peers = Peers::new(filtering, peer(1, 53));
            let heard = [peer(1, 53), peer(1, 54), peer(2, 53)].map(|from| peers.allows(from));
            assert_eq!(heard, expected, "{filtering:?}");
        }
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let mut budget = Budget(1 << 20);
        let mut peers = Peers::new(Filtering::AddressAndPort, peer(1, 1));
        for port in 2..=2000 {
            peers.note(peer(1, port), &mut budget);
            peers.note(peer(1, port), &mut budget);
            assert!(peers.allows(peer(1, port)));
        }
        assert!(peers.allows(peer(1, 977)) && !peers.allows(peer(1, 976)));
        peers.close(&mut budget);
        assert_eq!(budget.0, 1 << 20);
    }

    #[test]
    fn without_a_budget_there_is_one_each() {
        let mut budget = Budget(0);
        let mut peers = Peers::new(Filtering::AddressAndPort, peer(1, 1));
        peers.note(peer(1, 2), &mut budget);
        assert!(peers.allows(peer(1, 2)) && !peers.allows(peer(1, 1)));
        assert_eq!(peers.only(), Some(peer(1, 2)));
        peers.close(&mut budget);
        assert_eq!(budget.0, 0);
    }
}
