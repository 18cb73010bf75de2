//! The translator's own presence in the network that it leads to, with addresses that it was told: ARP (RFC 826) and no more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use crate::net::gateway::Claim;
use crate::net::nat::{Addressing4, Addressing6, NetworkOutside};
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Ethernet, MacAddr};
use crate::wire::ipv6::Ipv6;

/// How many neighbours are known at most.
const NEIGHBOURS: usize = 4096;

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextHop {
    /// There.
    Known(MacAddr),
    /// That was asked.
    Asked,
    /// Nowhere.
    Unreachable,
}

/// A translator's presence outside.
#[derive(Debug)]
pub struct OutsideInterface {
    spec: NetworkOutside,
    mtu: u16,
    neighbours: HashMap<IpAddr, MacAddr>,
}

impl OutsideInterface {
    /// Begins with the addresses of `spec`.
    pub fn new(spec: &NetworkOutside, _seed: u64, _now: Instant) -> Self {
        Self {
            spec: spec.clone(),
            mtu: 1500,
            neighbours: HashMap::new(),
        }
    }

    /// Says how large a packet may be in the network.
    pub const fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Its own hardware address.
    pub const fn mac(&self) -> MacAddr {
        self.spec.mac
    }

    /// Its IPv4 address, while it has one.
    pub const fn v4(&self) -> Option<Ipv4Addr> {
        match self.spec.v4 {
            Addressing4::Static { ip, .. } => Some(ip),
            Addressing4::Off | Addressing4::Dhcp => None,
        }
    }

    /// Its IPv6 address, while it has one.
    pub const fn v6(&self) -> Option<Ipv6Addr> {
        match self.spec.v6 {
            Addressing6::Static { ip, .. } => Some(ip),
            Addressing6::Off | Addressing6::Auto => None,
        }
    }

    /// How large a packet may be.
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    fn hop(&self, dst: IpAddr) -> Option<IpAddr> {
        match (dst, self.spec.v4, self.spec.v6) {
            (IpAddr::V4(ip), Addressing4::Static { net, router, .. }, _) => {
                let on_link = net.contains(&ip).then_some(dst);
                on_link.or(router.map(IpAddr::V4))
            }
            (IpAddr::V6(ip), _, Addressing6::Static { net, router, .. }) => {
                let on_link = net.contains(&ip).then_some(dst);
                on_link.or(router.map(IpAddr::V6))
            }
            _ => None,
        }
    }

    /// Where packets to `dst` go to next, if that is known.
    pub fn mac_for(&self, dst: IpAddr) -> Option<MacAddr> {
        self.neighbours.get(&self.hop(dst)?).copied()
    }

    /// Asks where packets to `dst` go to next.
    pub fn ask(&mut self, dst: IpAddr, _now: Instant, out: &mut Vec<Vec<u8>>) -> NextHop {
        let Some(hop) = self.hop(dst) else {
            return NextHop::Unreachable;
        };
        if let (IpAddr::V4(target_ip), Some(sender_ip)) = (hop, self.v4()) {
            let question = Arp {
                operation: REQUEST,
                sender_mac: self.spec.mac,
                sender_ip,
                target_mac: MacAddr::ZERO,
                target_ip,
            };
            out.push(question.emit(MacAddr::BROADCAST));
        }
        self.neighbours
            .get(&hop)
            .map_or(NextHop::Asked, |mac| NextHop::Known(*mac))
    }

    /// Offers a frame.
    pub fn handle_frame(&mut self, bytes: &[u8], _now: Instant, out: &mut Vec<Vec<u8>>) -> Claim {
        if let Some(frame) = Ethernet::parse(bytes)
            && frame.ethertype == ETHERTYPE_IPV6
            && let Some(packet) = Ipv6::parse(frame.payload)
            && let Some((&[136, ..], rest)) = packet.payload.split_first_chunk::<8>()
            && let Some(target) = rest.first_chunk::<16>()
        {
            let target = Ipv6Addr::from(*target);
            self.neighbours.insert(target.into(), frame.src);
            return Claim::Taken;
        }
        let arp = Ethernet::parse(bytes)
            .filter(|frame| frame.ethertype == ETHERTYPE_ARP)
            .and_then(|frame| Arp::parse(frame.payload));
        let Some(arp) = arp.filter(|arp| Some(arp.target_ip) == self.v4()) else {
            return Claim::Passed;
        };
        if self.neighbours.len() < NEIGHBOURS {
            self.neighbours.insert(arp.sender_ip.into(), arp.sender_mac);
        }
        if arp.operation == REQUEST {
            let answer = Arp {
                operation: REPLY,
                sender_mac: self.spec.mac,
                sender_ip: arp.target_ip,
                target_mac: arp.sender_mac,
                target_ip: arp.sender_ip,
            };
            out.push(answer.emit(arp.sender_mac));
        }
        Claim::Taken
    }

    /// The next time at which `handle_timeout` has work to do.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant, _out: &mut Vec<Vec<u8>>) {}

    /// Gives back what was lent.
    pub fn shutdown(&mut self, _now: Instant, _out: &mut Vec<Vec<u8>>) {}

    /// What an operator should know, one sentence each.
    pub fn advisories(&self, _now: Instant) -> Vec<String> {
        Vec::new()
    }
}
