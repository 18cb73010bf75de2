//! Announcements: telling the switches outside behind which uplink an address is now.
//!
//! # Theory of operation
//!
//! A station that moves to another uplink is announced [`ROUNDS`] times at growing distances, from its own address, so
//! that every switch on the way learns it anew: by a reverse request (RARP, as ESXi and QEMU send it), and where its IP
//! addresses were seen, by a gratuitous ARP and an unsolicited neighbour advertisement, which its neighbours understand too.
//!
//! IP addresses are taken from what stations say of themselves in ARP and neighbour discovery; a few of each kind are kept a
//! station. What is announced at once is limited: beyond [`PENDING`] stations, the next frame of each says where it is.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::net::fdb::Key;
use crate::net::frame::{Head, Parsed};
use crate::net::port::{OwnFrames, PortId};
use crate::net::vlan::Domain;
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, MacAddr, Tci};
use crate::wire::nd;

/// How often a move is announced.
pub const ROUNDS: u8 = 5;
/// How long after the first announcement the second follows; each further one after 100 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(100);
/// How many stations are announced at the same time.
pub const PENDING: usize = 4096;
/// How many addresses of each kind are kept a station.
const ADDRESSES: usize = 4;
/// Of how many stations addresses are kept.
const STATIONS: usize = 8192;

/// A station that is to be announced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Station {
    /// The port behind which it is.
    pub port: PortId,
    /// Its hardware address.
    pub mac: MacAddr,
    /// The domain in which its addresses are looked up.
    pub domain: Domain,
    /// The domain under whose number its frames leave.
    pub wire: Domain,
}

#[derive(Debug)]
struct Pending {
    station: Station,
    round: u8,
    due: Instant,
}

/// The announcements of one team.
#[derive(Debug, Default)]
pub struct Announcer {
    /// By when they are due.
    pending: VecDeque<Pending>,
    stations: HashMap<Key, (Vec<Ipv4Addr>, Vec<Ipv6Addr>), RandomState>,
}

impl Announcer {
    /// Begins to announce a station; what was still to be said of it is said anew.
    pub fn announce(&mut self, station: Station, now: Instant) {
        self.pending.retain(|pending| pending.station != station);
        if self.pending.len() < PENDING {
            self.insert(Pending {
                station,
                round: 0,
                due: now,
            });
        }
    }

    /// Says no more of the stations behind a port.
    pub fn forget(&mut self, port: PortId) {
        self.pending.retain(|pending| pending.station.port != port);
    }

    /// Whether something is still to be said.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pending.front().map(|pending| pending.due)
    }

    /// Says what is due, by the uplink that `carrier` names for a station.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        carrier: impl Fn(&Station) -> Option<PortId>,
        out: &mut OwnFrames,
    ) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.due <= now) {
            let Pending { station, round, .. } = pending;
            if let Some(uplink) = carrier(&station) {
                for mut frame in self.frames(&station) {
                    if station.wire != Domain::UNTAGGED {
                        ethernet::insert_tag(&mut frame, Tci(station.wire.number()));
                    }
                    out.send(uplink, frame);
                }
            }
            if round + 1 < ROUNDS {
                let pause = if round == 0 { FIRST_PAUSE } else { PAUSE };
                self.insert(Pending {
                    station,
                    round: round + 1,
                    due: now + pause,
                });
            }
        }
    }

    fn insert(&mut self, pending: Pending) {
        let at = self
            .pending
            .partition_point(|other| other.due <= pending.due);
        self.pending.insert(at, pending);
    }

    fn frames(&self, station: &Station) -> Vec<Vec<u8>> {
        let mut frames = vec![Arp::announcement(station.mac)];
        if let Some((ipv4, ipv6)) = self.stations.get(&Key::new(station.domain, station.mac)) {
            frames.extend(ipv4.iter().map(|ip| Arp::gratuitous(station.mac, *ip)));
            frames.extend(ipv6.iter().map(|ip| nd::unsolicited(station.mac, *ip)));
        }
        frames
    }

    /// Notes which IP address a station says it has. Only for frames from this side.
    pub fn observe(&mut self, domain: Domain, head: &Head, parsed: &Parsed) {
        let payload = head.bytes().get(parsed.payload_at()..).unwrap_or_default();
        match parsed.ethertype {
            ETHERTYPE_ARP => {
                if let Some(arp) = Arp::parse(payload)
                    && arp.sender_mac == parsed.src
                    && !arp.sender_ip.is_unspecified()
                    && !arp.sender_ip.is_broadcast()
                    && !arp.sender_ip.is_multicast()
                    && !arp.sender_ip.is_loopback()
                    && let Some((ipv4, _)) = self.station(domain, parsed.src)
                {
                    keep(ipv4, arp.sender_ip);
                }
            }
            ETHERTYPE_IPV6 => {
                if let Some(ip) = nd::claimed_address(payload)
                    && !ip.is_unspecified()
                    && !ip.is_multicast()
                    && !ip.is_loopback()
                    && let Some((_, ipv6)) = self.station(domain, parsed.src)
                {
                    keep(ipv6, ip);
                }
            }
            _ => {}
        }
    }

    /// Forgets the addresses of a station.
    pub fn forget_station(&mut self, key: Key) {
        self.stations.remove(&key);
    }

    fn station(
        &mut self,
        domain: Domain,
        mac: MacAddr,
    ) -> Option<&mut (Vec<Ipv4Addr>, Vec<Ipv6Addr>)> {
        let key = Key::new(domain, mac);
        if self.stations.len() >= STATIONS && !self.stations.contains_key(&key) {
            return None;
        }
        Some(self.stations.entry(key).or_default())
    }

    /// Whether a frame may tell an IP address of its sender.
    #[inline]
    pub fn is_telling(parsed: &Parsed, head: &Head) -> bool {
        match parsed.ethertype {
            ETHERTYPE_ARP => true,
            ETHERTYPE_IPV6 => head
                .bytes()
                .get(parsed.payload_at()..)
                .is_some_and(nd::is_discovery),
            _ => false,
        }
    }
}

/// Puts an address at the end of the few that are kept; the one that was seen longest ago makes room.
fn keep<T: PartialEq>(addresses: &mut Vec<T>, address: T) {
    if addresses.last() == Some(&address) {
        return;
    }
    addresses.retain(|other| *other != address);
    if addresses.len() >= ADDRESSES {
        addresses.remove(0);
    }
    addresses.push(address);
}
