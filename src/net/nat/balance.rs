//! Which of the targets of a port forward a connection goes to.
//!
//! Targets that are not known to have an address, or do not answer, are passed over.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::FixedState;

use super::forward::{Balance, Host, Target, TargetRow};
use crate::net::inside::Inside;

/// The targets of a port forward, and how many connections each has.
#[derive(Debug)]
pub struct Balancer {
    targets: Vec<Target>,
    connections: Vec<usize>,
    balance: Balance,
    next: usize,
    /// The same client is to find the same target again, and clients are not to choose whom they share one with.
    hasher: FixedState,
}

impl Balancer {
    /// Begins with targets that nobody is connected to.
    pub fn new(targets: Vec<Target>, balance: Balance, seed: u64) -> Self {
        Self {
            connections: vec![0; targets.len()],
            targets,
            balance,
            next: 0,
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Returns the target at `index`.
    pub fn target(&self, index: usize) -> Option<&Target> {
        self.targets.get(index)
    }

    /// Chooses a target for a client of the family that `v6` tells: its place, and its address with its first port.
    pub fn pick(
        &mut self,
        client: IpAddr,
        v6: bool,
        inside: &Inside,
    ) -> Option<(usize, SocketAddr)> {
        let count = self.targets.len();
        if count == 0 {
            return None;
        }
        let hash = |index: Option<usize>| self.hasher.hash_one((client, index));
        let usable = |index: usize| {
            let address = address(&self.targets[index], v6, inside)?;
            inside.is_up(address).then_some((index, address))
        };
        let usable = (0..count).filter_map(usable);
        let picked = match self.balance {
            // The first usable one from the next on.
            Balance::RoundRobin => {
                usable.min_by_key(|(index, _)| (index + count - self.next) % count)
            }
            // Each client has its own order of all targets, so that one that goes takes nobody else's clients along.
            Balance::SourceHash => usable.max_by_key(|(index, _)| hash(Some(*index))),
            Balance::LeastConnections => usable.min_by_key(|(index, _)| {
                let turn = (index + count - self.next) % count;
                (self.connections[*index], turn)
            }),
        };
        if let Some((index, _)) = picked {
            self.next = (index + 1) % count;
        }
        picked
    }

    /// Hears that a connection to a target was opened.
    pub fn note_opened(&mut self, target: usize) {
        if let Some(connections) = self.connections.get_mut(target) {
            *connections += 1;
        }
    }

    /// Hears that a connection to a target has ended.
    pub fn note_closed(&mut self, target: usize) {
        if let Some(connections) = self.connections.get_mut(target) {
            *connections = connections.saturating_sub(1);
        }
    }

    /// Tells of the targets as they are shown. `checked` says whether somebody looks whether they answer.
    pub fn rows(&self, v6: bool, checked: bool, inside: &Inside) -> Vec<TargetRow> {
        let rows = self.targets.iter().zip(&self.connections);
        rows.map(|(target, connections)| {
            let address = address(target, v6, inside);
            TargetRow {
                host: target.host.to_string(),
                ip: address.map(|address| address.ip()),
                port: target.port,
                up: address
                    .filter(|_| checked)
                    .map(|address| inside.is_up(address)),
                connections: *connections,
            }
        })
        .collect()
    }
}

/// Returns where a target is, if that is known and of the family that is asked for.
fn address(target: &Target, v6: bool, inside: &Inside) -> Option<SocketAddr> {
    let ip = match &target.host {
        Host::Vm { mac, .. } => inside.address_of(*mac, v6)?,
        Host::Address(ip) => *ip,
    };
    (ip.is_ipv6() == v6).then_some(SocketAddr::new(ip, target.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [198, 51, 100, last].into()
    }

    fn balancer(balance: Balance, count: u8) -> Balancer {
        let targets = (1..=count).map(|last| Target {
            host: Host::Address([192, 168, 81, last].into()),
            port: 80,
        });
        Balancer::new(targets.collect(), balance, 7)
    }

    fn picks(balancer: &mut Balancer, inside: &Inside, clients: &[u8]) -> Vec<usize> {
        let pick = |last: &u8| balancer.pick(client(*last), false, inside).unwrap().0;
        clients.iter().map(pick).collect()
    }

    #[test]
    fn targets_take_turns() {
        let mut balancer = balancer(Balance::RoundRobin, 3);
        let inside = Inside::default();
        assert_eq!(picks(&mut balancer, &inside, &[1, 1, 2, 2]), [0, 1, 2, 0]);
    }

    #[test]
    fn a_target_that_does_not_answer_is_passed_over() {
        for balance in [
            Balance::RoundRobin,
            Balance::SourceHash,
            Balance::LeastConnections,
        ] {
            let mut balancer = balancer(balance, 3);
            let mut inside = Inside::default();
            inside.set_up("192.168.81.2:80".parse().unwrap(), false);
            for last in 0..50 {
                assert_ne!(picks(&mut balancer, &inside, &[last]), [1]);
            }
            for last in 1..=3 {
                inside.set_up(SocketAddr::from(([192, 168, 81, last], 80)), false);
            }
            assert_eq!(balancer.pick(client(1), false, &inside), None);
        }
    }

    #[test]
    fn a_client_finds_its_target_again_also_when_another_one_goes() {
        let mut balancer = balancer(Balance::SourceHash, 4);
        let mut inside = Inside::default();
        let clients: Vec<u8> = (0..100).collect();
        let before = picks(&mut balancer, &inside, &clients);
        assert_eq!(picks(&mut balancer, &inside, &clients), before);
        for index in 0..4 {
            assert!(before.contains(&index), "all are used");
        }
        inside.set_up("192.168.81.4:80".parse().unwrap(), false);
        let after = picks(&mut balancer, &inside, &clients);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == 3);
        }
    }

    #[test]
    fn the_one_with_the_fewest_connections_is_next() {
        let mut balancer = balancer(Balance::LeastConnections, 3);
        let inside = Inside::default();
        balancer.note_opened(0);
        balancer.note_opened(1);
        assert_eq!(picks(&mut balancer, &inside, &[1]), [2]);
        balancer.note_opened(2);
        balancer.note_opened(2);
        balancer.note_closed(1);
        assert_eq!(picks(&mut balancer, &inside, &[1, 1]), [1, 1]);
    }

    #[test]
    fn a_vm_is_found_by_the_address_it_has_at_the_time() {
        let mac = crate::wire::ethernet::MacAddr([2, 0, 0, 0, 0, 1]);
        let host = Host::Vm {
            name: "web".to_owned(),
            mac,
        };
        let targets = vec![Target { host, port: 80 }];
        let mut balancer = Balancer::new(targets, Balance::RoundRobin, 7);
        let spec = crate::net::inside::Spec {
            vms: Vec::new(),
            reservations: vec![(mac, [192, 168, 81, 7].into(), None)],
        };
        assert_eq!(balancer.pick(client(1), false, &Inside::default()), None);
        let inside = Inside::new(spec);
        let expected = (0, "192.168.81.7:80".parse().unwrap());
        assert_eq!(balancer.pick(client(1), false, &inside), Some(expected));
        assert_eq!(balancer.pick(client(1), true, &inside), None);
        assert_eq!(
            balancer.rows(false, true, &inside)[0].up,
            Some(true),
            "what is looked after is up until it is known not to be"
        );
    }
}
