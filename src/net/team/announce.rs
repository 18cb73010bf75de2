//! Announcements: telling the switches outside behind which uplink an address is now.
//!
//! # Theory of operation
//!
//! A station that moves to another uplink is announced [`ROUNDS`] times at growing distances, from its own address, so
//! that every switch on the way learns it anew: by a reverse request (RARP, as ESXi and QEMU send it), and where its IP
//! addresses were seen, by a gratuitous ARP and an unsolicited neighbour advertisement, which its neighbours understand too.
//!
//! IP addresses are taken from what stations say of themselves in ARP and neighbour discovery; a few of each kind are kept a
//! station. An address that another station said it has later, on this side or outside, is not announced
//! any more: it was taken over. What is announced at once is limited: beyond [`PENDING`] stations, the next frame of each says where it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};

use crate::net::fdb::Key;
use crate::net::frame::{Head, Parsed};
use crate::net::port::{OwnFrames, PortId};
use crate::net::team::Carrier;
use crate::net::vlan::Domain;
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV6, MacAddr, Tci};
use crate::wire::ipv6::NEXT_HEADER_ICMPV6;
use crate::wire::nd::{self, Claim};

/// How often a move is announced.
pub const ROUNDS: u8 = 5;
/// How long after the first announcement the second follows; each further one after 100 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(100);
/// How many stations are announced at the same time.
pub const PENDING: usize = 4096;
/// How many of them without a pause.
const AT_ONCE: usize = 256;
/// How long the pause is.
const BREATH: Duration = Duration::from_millis(10);
/// How many addresses of each kind are kept a station.
const ADDRESSES: usize = 4;
/// Of how many stations addresses are kept.
const STATIONS: usize = 8192;

/// A station that is to be announced.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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

/// What a station said of itself.
#[derive(Debug, Default)]
struct Addresses {
    ipv4: Vec<Ipv4Addr>,
    ipv6: Vec<Ipv6Addr>,
    router: bool,
}

/// The announcements of one team.
#[derive(Debug, Default)]
pub struct Announcer {
    pending: Vec<Pending>,
    /// When the first of them is due.
    next: Option<Instant>,
    stations: HashMap<Key, Addresses, RandomState>,
    /// Who said last that an address is its own; only of addresses that are kept.
    owners: HashMap<(Domain, IpAddr), MacAddr, RandomState>,
}

impl Announcer {
    /// Begins to announce stations, the most important first; what was still to be said of them is said anew.
    pub fn announce(&mut self, stations: &[Station], now: Instant) {
        let again: HashSet<Station, RandomState> = stations.iter().copied().collect();
        self.pending
            .retain(|pending| !again.contains(&pending.station));
        let room = PENDING.saturating_sub(self.pending.len());
        let new = stations.iter().take(room).map(|station| Pending {
            station: *station,
            round: 0,
            due: now,
        });
        self.pending.extend(new);
        self.plan();
    }

    /// Says no more of the stations behind a port.
    pub fn forget(&mut self, port: PortId) {
        self.pending.retain(|pending| pending.station.port != port);
        self.plan();
    }

    /// Whether something is still to be said, and when.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Says what is due, by the uplinks that `carrier` names for a station.
    pub fn handle_timeout<'a>(
        &mut self,
        now: Instant,
        carrier: impl Fn(&Station) -> Carrier<'a>,
        out: &mut OwnFrames,
    ) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut room = AT_ONCE;
        pending.retain_mut(
            |Pending {
                 station,
                 round,
                 due,
             }| {
                if *due > now {
                    return true;
                }
                if room == 0 {
                    *due = now + BREATH;
                    return true;
                }
                room -= 1;
                match carrier(station) {
                    Carrier::One(uplink) => self.say(station, &[uplink], out),
                    Carrier::Each(uplinks) => self.say(station, uplinks, out),
                    Carrier::Nobody => {}
                }
                *due = now + if *round == 0 { FIRST_PAUSE } else { PAUSE };
                *round += 1;
                *round < ROUNDS
            },
        );
        self.pending = pending;
        self.plan();
    }

    fn plan(&mut self) {
        self.next = self.pending.iter().map(|pending| pending.due).min();
    }

    fn say(&self, station: &Station, uplinks: &[PortId], out: &mut OwnFrames) {
        for mut frame in self.frames(station) {
            if station.wire != Domain::UNTAGGED {
                ethernet::insert_tag(&mut frame, Tci(station.wire.number()));
            }
            for uplink in uplinks {
                out.send(*uplink, frame.clone());
            }
        }
    }

    fn frames(&self, station: &Station) -> Vec<Vec<u8>> {
        let mut frames = vec![Arp::announcement(station.mac)];
        if let Some(known) = self.stations.get(&Key::new(station.domain, station.mac)) {
            let (mac, router) = (station.mac, known.router);
            let owns = |ip: IpAddr| self.owners.get(&(station.domain, ip)) == Some(&mac);
            let ipv4 = known.ipv4.iter().filter(|ip| owns((**ip).into()));
            frames.extend(ipv4.map(|ip| Arp::gratuitous(mac, *ip)));
            let ipv6 = known.ipv6.iter().filter(|ip| owns((**ip).into()));
            frames.extend(ipv6.map(|ip| nd::unsolicited(mac, *ip, router)));
        }
        frames
    }

    /// Notes which IP address a station of this side says it has.
    pub fn observe(&mut self, domain: Domain, head: &Head, parsed: &Parsed) {
        let Some((ip, router)) = told(head, parsed) else {
            return;
        };
        let Some(known) = self.station(domain, parsed.src) else {
            return;
        };
        let dropped = match ip {
            IpAddr::V4(ip) => keep(&mut known.ipv4, ip).map(IpAddr::V4),
            IpAddr::V6(ip) => keep(&mut known.ipv6, ip).map(IpAddr::V6),
        };
        known.router = router.unwrap_or(known.router);
        if let Some(dropped) = dropped {
            self.disown(domain, dropped, parsed.src);
        }
        self.owners.insert((domain, ip), parsed.src);
    }

    /// Notes that a station outside says it has an IP address: none of this side has it any more.
    pub fn observe_outside(&mut self, domain: Domain, head: &Head, parsed: &Parsed) {
        if let Some((ip, _)) = told(head, parsed) {
            self.owners.remove(&(domain, ip));
        }
    }

    /// Forgets what stations said of themselves that are not known any more.
    pub fn retain(&mut self, known: impl Fn(Key) -> bool) {
        self.stations.retain(|key, _| known(*key));
        let stations = &self.stations;
        self.owners
            .retain(|(domain, _), mac| stations.contains_key(&Key::new(*domain, *mac)));
    }

    fn disown(&mut self, domain: Domain, ip: IpAddr, mac: MacAddr) {
        if self.owners.get(&(domain, ip)) == Some(&mac) {
            self.owners.remove(&(domain, ip));
        }
    }

    fn station(&mut self, domain: Domain, mac: MacAddr) -> Option<&mut Addresses> {
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
            ETHERTYPE_IPV6 => {
                head.bytes().get(parsed.payload_at() + 6) == Some(&NEXT_HEADER_ICMPV6)
            }
            _ => false,
        }
    }
}

/// Which IP address a frame's sender says it has, and of IPv6, whether it says that it is a router.
fn told(head: &Head, parsed: &Parsed) -> Option<(IpAddr, Option<bool>)> {
    let payload = head.bytes().get(parsed.payload_at()..)?;
    match parsed.ethertype {
        ETHERTYPE_ARP => {
            let Arp {
                sender_mac,
                sender_ip: ip,
                ..
            } = Arp::parse(payload)?;
            let plausible = !ip.is_unspecified()
                && !ip.is_broadcast()
                && !ip.is_multicast()
                && !ip.is_loopback();
            (sender_mac == parsed.src && plausible).then_some((ip.into(), None))
        }
        ETHERTYPE_IPV6 => Claim::parse(payload).map(|claim| (claim.ip.into(), claim.router)),
        _ => None,
    }
}

/// Puts an address at the end of the few that are kept; the one that was seen longest ago makes room, and is returned.
fn keep<T: PartialEq>(addresses: &mut Vec<T>, address: T) -> Option<T> {
    if addresses.last() == Some(&address) {
        return None;
    }
    addresses.retain(|other| *other != address);
    let dropped = (addresses.len() >= ADDRESSES).then(|| addresses.remove(0));
    addresses.push(address);
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::vlan::VlanId;
    use crate::wire::arp::{self, REPLY};
    use crate::wire::ethernet::{ETHERTYPE_RARP, Ethernet};
    use crate::wire::virtio_net::VirtioNetHeader;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
    const UPLINK: PortId = PortId(1);

    fn station(number: u8, vlan: u16) -> Station {
        let domain = VlanId::new(vlan).map_or(Domain::UNTAGGED, Domain::from);
        Station {
            port: PortId(9),
            mac: MacAddr([2, 0, 0, 0, 0, number]),
            domain,
            wire: domain,
        }
    }

    fn observe(announcer: &mut Announcer, frame: &[u8]) {
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        let parsed = head.parse().unwrap();
        assert!(Announcer::is_telling(&parsed, &head));
        announcer.observe(Domain::UNTAGGED, &head, &parsed);
    }

    /// All that is said from now on, each with its time after now.
    fn said(announcer: &mut Announcer, start: Instant) -> Vec<(Duration, PortId, Vec<u8>)> {
        let mut said = Vec::new();
        while let Some(at) = announcer.poll_timeout() {
            let mut out = OwnFrames::default();
            announcer.handle_timeout(at, |_| Carrier::One(UPLINK), &mut out);
            said.extend(
                out.frames
                    .into_iter()
                    .map(|(port, frame)| (at - start, port, frame)),
            );
        }
        said
    }

    #[test]
    fn a_station_is_announced_five_times_at_growing_distances() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.announce(&[station(1, 0)], start);
        let said = said(&mut announcer, start);
        let times: Vec<_> = said.iter().map(|(at, ..)| at.as_millis()).collect();
        assert_eq!(times, [0, 50, 150, 250, 350]);
        for (_, port, frame) in said {
            let ethernet = Ethernet::parse(&frame).unwrap();
            assert_eq!((port, ethernet.ethertype), (UPLINK, ETHERTYPE_RARP));
            assert_eq!((ethernet.dst, ethernet.src), (MacAddr::BROADCAST, MAC));
        }
    }

    #[test]
    fn a_station_in_a_vlan_is_announced_with_its_tag() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.announce(&[station(1, 10)], start);
        let (_, _, frame) = said(&mut announcer, start).remove(0);
        assert_eq!(frame[12..18], [0x81, 0, 0, 10, 0x80, 0x35]);
    }

    #[test]
    fn ip_addresses_that_were_seen_are_announced_too() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        let arp = arp::Arp {
            operation: REPLY,
            sender_mac: MAC,
            sender_ip: IP,
            target_mac: MacAddr([2; 6]),
            target_ip: Ipv4Addr::new(10, 0, 0, 1),
        };
        observe(&mut announcer, &arp.emit(MacAddr([2; 6])));
        // What it says of others does not count.
        let other = arp::Arp {
            sender_ip: Ipv4Addr::new(10, 0, 0, 8),
            sender_mac: MacAddr([2; 6]),
            ..arp
        };
        let mut forged = other.emit(MacAddr([2; 6]));
        forged[6..12].copy_from_slice(&MAC.0);
        observe(&mut announcer, &forged);
        let ipv6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        observe(&mut announcer, &nd::unsolicited(MAC, ipv6, true));
        announcer.announce(&[station(1, 0)], start);
        let said = said(&mut announcer, start);
        assert_eq!(said.len(), 15);
        assert_eq!(said[1].2, Arp::gratuitous(MAC, IP));
        assert_eq!(said[2].2, nd::unsolicited(MAC, ipv6, true));
    }

    #[test]
    fn a_few_addresses_a_station_are_kept_and_those_of_unknown_stations_forgotten() {
        let mut announcer = Announcer::default();
        for last in 0..20 {
            let frame = Arp::gratuitous(MAC, Ipv4Addr::new(10, 0, 0, last));
            observe(&mut announcer, &frame);
        }
        let key = Key::new(Domain::UNTAGGED, MAC);
        let kept = announcer.stations[&key].ipv4.clone();
        assert_eq!(
            kept,
            [16, 17, 18, 19].map(|last| Ipv4Addr::new(10, 0, 0, last))
        );
        assert_eq!(announcer.owners.len(), ADDRESSES);
        announcer.retain(|other| other != key);
        assert!(announcer.stations.is_empty() && announcer.owners.is_empty());
    }

    #[test]
    fn many_stations_are_announced_with_pauses_and_too_many_are_not() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        let many: Vec<_> = (0..=PENDING)
            .map(|number| Station {
                port: PortId(u16::try_from(number).unwrap()),
                ..station(1, 0)
            })
            .collect();
        announcer.announce(&many, start);
        let mut out = OwnFrames::default();
        announcer.handle_timeout(start, |_| Carrier::One(UPLINK), &mut out);
        assert_eq!(out.frames.len(), AT_ONCE);
        assert_eq!(
            out.frames.len() + said(&mut announcer, start).len(),
            PENDING * 5
        );
    }

    #[test]
    fn nothing_is_said_of_a_port_that_went_down_or_by_no_uplink() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.announce(&[station(1, 0)], start);
        let mut out = OwnFrames::default();
        announcer.handle_timeout(start, |_| Carrier::Nobody, &mut out);
        assert_eq!(out.frames.len(), 0);
        announcer.forget(PortId(9));
        assert_eq!(announcer.poll_timeout(), None);
    }
}
