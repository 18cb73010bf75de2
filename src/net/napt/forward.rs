//! Port forwards of a translator on frames: which of its ports lead to guests (after RFC 6887, "static mappings").
//!
//! A forward listens on the translator's only address of its family, so an unspecified address and that one mean the same; one that
//! names another waits until the translator has it. Forwards of a protocol and family do not overlap. Flows that came by a forward
//! stay when it goes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::net::inside::Inside;
use crate::net::nat::Protocol;
use crate::net::nat::balance::Balancer;
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};

/// How many there may be.
const LIMIT: usize = 4096;

#[derive(Debug)]
struct Listener {
    forward: Forward,
    balancer: Balancer,
}

/// The forwards of a translator.
#[derive(Debug)]
pub(super) struct Forwards {
    listeners: BTreeMap<u32, Listener>,
    /// By protocol, family and first port.
    by_port: BTreeMap<(Protocol, bool, u16), u32>,
    next: u32,
    seed: u64,
}

impl Forwards {
    /// Begins without any.
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            listeners: BTreeMap::new(),
            by_port: BTreeMap::new(),
            next: 0,
            seed,
        }
    }

    /// Returns the forward that listens on a port.
    pub(super) fn find(&self, protocol: Protocol, ip: IpAddr, port: u16) -> Option<u32> {
        let number = self.at(protocol, ip.is_ipv6(), port)?;
        let listens = self.listeners.get(&number)?.forward.ip;
        (listens.is_unspecified() || listens == ip).then_some(number)
    }

    /// Returns the forward whose ports one is among, whether it listens now or not.
    fn at(&self, protocol: Protocol, v6: bool, port: u16) -> Option<u32> {
        let range = (protocol, v6, 0)..=(protocol, v6, port);
        let (_, number) = self.by_port.range(range).next_back()?;
        let forward = &self.listeners.get(number)?.forward;
        (port <= forward.last).then_some(*number)
    }

    /// Chooses a target for a client of a port: its place, and its address.
    pub(super) fn pick(
        &mut self,
        number: u32,
        port: u16,
        client: IpAddr,
        inside: &Inside,
    ) -> Option<(usize, SocketAddr)> {
        let listener = self.listeners.get_mut(&number)?;
        let (place, mut target) = listener.balancer.pick(client, client.is_ipv6(), inside)?;
        let offset = port.checked_sub(listener.forward.first)?;
        target.set_port(target.port().checked_add(offset)?);
        Some((place, target))
    }

    /// Hears that a target has a connection more, or less.
    pub(super) fn note(&mut self, number: u32, place: usize, opened: bool) {
        if let Some(listener) = self.listeners.get_mut(&number) {
            if opened {
                listener.balancer.note_opened(place);
            } else {
                listener.balancer.note_closed(place);
            }
        }
    }

    /// Adds a forward whose first port is known.
    ///
    /// # Errors
    ///
    /// It makes no sense, or overlaps another.
    pub(super) fn add(&mut self, forward: Forward) -> Result<u32, ForwardError> {
        let listen = SocketAddr::new(forward.ip, forward.first);
        let protocol = forward.protocol.name();
        let other = |reason: &str| ForwardError::Other {
            protocol,
            listen,
            reason: reason.to_owned(),
        };
        if forward.protocol == Protocol::Icmp {
            return Err(other("only TCP and UDP have ports; name one of them"));
        }
        if forward.first == 0 || forward.last < forward.first {
            return Err(other("the last port is before the first; swap them"));
        }
        if forward.targets.is_empty() {
            return Err(other("it leads nowhere; name a VM or an address"));
        }
        if self.listeners.len() >= LIMIT {
            return Err(other("there are as many as there may be; remove another"));
        }
        let v6 = forward.ip.is_ipv6();
        // Since they do not overlap, the last one that begins in time is the only one that can reach.
        let range = (forward.protocol, v6, 0)..=(forward.protocol, v6, forward.last);
        let before = self.by_port.range(range).next_back();
        let before = before.and_then(|(_, number)| self.listeners.get(number));
        if before.is_some_and(|before| before.forward.last >= forward.first) {
            return Err(ForwardError::Taken {
                protocol,
                listen,
                by: "another forward has it".to_owned(),
            });
        }
        let number = self.next;
        self.next += 1;
        self.by_port
            .insert((forward.protocol, v6, forward.first), number);
        let balancer = Balancer::new(
            forward.targets.clone(),
            forward.balance,
            self.seed ^ u64::from(number),
        );
        self.listeners
            .insert(number, Listener { forward, balancer });
        Ok(number)
    }

    /// Removes the forward whose first port is the one of `listen`.
    pub(super) fn remove(&mut self, protocol: Protocol, listen: SocketAddr) -> Option<Forward> {
        let key = (protocol, listen.is_ipv6(), listen.port());
        let number = *self.by_port.get(&key)?;
        if self.listeners.get(&number)?.forward.ip != listen.ip() {
            return None;
        }
        self.by_port.remove(&key);
        Some(self.listeners.remove(&number)?.forward)
    }

    /// Returns all of them as they are shown, for the addresses outside.
    pub(super) fn rows(&self, own: &[IpAddr], inside: &Inside) -> Vec<ForwardRow> {
        let numbers = self.listeners.keys();
        numbers
            .filter_map(|number| self.row(*number, own, inside))
            .collect()
    }

    /// Returns one of them as it is shown.
    pub(super) fn row(&self, number: u32, own: &[IpAddr], inside: &Inside) -> Option<ForwardRow> {
        let Listener { forward, balancer } = self.listeners.get(&number)?;
        let v6 = forward.ip.is_ipv6();
        let listens = own
            .iter()
            .any(|ip| ip.is_ipv6() == v6 && (forward.ip.is_unspecified() || forward.ip == *ip));
        let error = if listens {
            None
        } else if forward.ip.is_unspecified() {
            Some("the translator has no address of this family outside yet".to_owned())
        } else {
            Some(format!(
                "the translator's address outside is not {}",
                forward.ip
            ))
        };
        Some(ForwardRow {
            protocol: forward.protocol,
            listen: SocketAddr::new(forward.ip, forward.first),
            last: forward.last,
            targets: balancer.rows(v6, forward.health.is_some(), inside),
            balance: forward.balance,
            error,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::nat::forward::{Balance, Host, Target};

    fn forward(first: u16, last: u16, port: u16) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            ip: Ipv4Addr::UNSPECIFIED.into(),
            first,
            last,
            targets: vec![Target {
                host: Host::Address([10, 0, 0, 9].into()),
                port,
            }],
            balance: Balance::RoundRobin,
            health: None,
        }
    }

    #[test]
    fn ranges_do_not_overlap_and_lead_port_to_port() {
        let mut forwards = Forwards::new(1);
        let number = forwards.add(forward(8000, 8010, 80)).unwrap();
        for (first, last) in [(7990, 8000), (8010, 8020), (8003, 8004), (7000, 9000)] {
            let refused = forwards.add(forward(first, last, 1));
            assert!(
                matches!(refused, Err(ForwardError::Taken { .. })),
                "{first}"
            );
        }
        forwards.add(forward(8011, 8011, 1)).unwrap();
        let ip = IpAddr::from([198, 51, 100, 7]);
        assert_eq!(forwards.find(Protocol::Tcp, ip, 8010), Some(number));
        assert_eq!(forwards.find(Protocol::Tcp, ip, 7999), None);
        assert_eq!(forwards.find(Protocol::Udp, ip, 8010), None);
        let picked = forwards.pick(number, 8010, ip, &Inside::default());
        assert_eq!(picked, Some((0, "10.0.0.9:90".parse().unwrap())));
        let listen = "0.0.0.0:8000".parse().unwrap();
        assert!(forwards.remove(Protocol::Tcp, listen).is_some());
        assert!(forwards.remove(Protocol::Tcp, listen).is_none());
        assert_eq!(forwards.find(Protocol::Tcp, ip, 8000), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut forwards = Forwards::new(1);
        let icmp = Forward {
            protocol: Protocol::Icmp,
            ..forward(1, 1, 1)
        };
        let nowhere = Forward {
            targets: Vec::new(),
            ..forward(1, 1, 1)
        };
        for wrong in [icmp, nowhere, forward(0, 0, 1), forward(5, 4, 1)] {
            assert!(forwards.add(wrong).is_err());
        }
    }
}
