//! Router advertisements (RFC 4861, section 6.2; RFC 8106): tells hosts the prefix, whether the gateway is a router, and
//! where names are resolved.
//!
//! # Theory of operation
//!
//! The first three advertisements go out soon one after the other, because a host may have missed one; further ones when
//! a random time between the two intervals is over. A host that solicits from an address hears the answer at once, and
//! alone: no other router shares the link, whose answers could collide with it. One that has no address yet is answered
//! through the group of all nodes, within half a second, and that not more often than every three seconds however many
//! ask; what goes to the group has the time to the next one begin anew.
//!
//! The last one, when the network ends, says that the gateway is no router any more. What is advertised is the
//! configuration's, and stays the same until then. Advertisements of others are not compared with it.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant, SystemTime};

use ipnet::Ipv6Net;

use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::net::mix::{Sequence, mix};
use crate::wire::ethernet::{ETHERTYPE_IPV6, Ethernet, MacAddr};
use crate::wire::nd::{
    ALL_NODES, ALL_NODES_MAC, Message, Packet, Preference, Prefix, RouterAdvertisement,
};

/// How many advertisements are sent at the beginning.
const INITIAL: u32 = 3;
/// How long it takes to the next one of those, at most.
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// How long a solicitation waits for its answer, at most.
const DELAY: Duration = Duration::from_millis(500);
/// What passes between two advertisements to all nodes, at least.
const GAP: Duration = Duration::from_secs(3);
/// The hop limit that hosts send with.
const HOP_LIMIT: u8 = 64;

/// What is advertised, and how often.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The network's prefix.
    pub prefix: Ipv6Net,
    /// The gateway's link-local address.
    pub link_local: Ipv6Addr,
    /// The largest packet of the network.
    pub mtu: u16,
    /// The name servers.
    pub dns: Vec<Ipv6Addr>,
    /// The domains to search.
    pub search: Vec<String>,
    /// Whether addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Whether other things are to be had by DHCPv6.
    pub other: bool,
    /// Whether hosts may make themselves addresses.
    pub autonomous: bool,
    /// How long the gateway is a default router after an advertisement; zero where it leads nowhere.
    pub router_lifetime: Duration,
    /// How long addresses of the prefix are valid.
    pub valid: Duration,
    /// How long they are preferred.
    pub preferred: Duration,
    /// The shortest time between advertisements.
    pub min_interval: Duration,
    /// The longest time between advertisements.
    pub max_interval: Duration,
}

impl Spec {
    /// How long the gateway is a default router unless something else is wanted.
    pub const ROUTER_LIFETIME: Duration = Duration::from_secs(1800);
    /// How long addresses are valid unless something else is wanted.
    pub const VALID: Duration = Duration::from_secs(30 * 86400);
    /// How long they are preferred unless something else is wanted.
    pub const PREFERRED: Duration = Duration::from_secs(7 * 86400);
    /// The shortest time between advertisements unless something else is wanted.
    pub const MIN_INTERVAL: Duration = Duration::from_secs(200);
    /// The longest time between advertisements unless something else is wanted.
    pub const MAX_INTERVAL: Duration = Duration::from_secs(600);
}

/// Sends the advertisements of one network.
#[derive(Debug)]
pub struct RouterAdvertisements {
    mac: MacAddr,
    link_local: Ipv6Addr,
    told: RouterAdvertisement,
    intervals: (Duration, Duration),
    random: Sequence,
    /// How many went to all nodes, as far as that still matters.
    sent: u32,
    /// When the last one did.
    last: Option<Instant>,
    /// When the next one is due.
    next: Instant,
}

impl RouterAdvertisements {
    /// Begins to advertise what `spec` says, from the hardware address `mac`.
    pub fn new(spec: Spec, mac: MacAddr, now: Now) -> Self {
        let since = now.wall.duration_since(SystemTime::UNIX_EPOCH);
        let run = since.map_or(0, |since| since.subsec_nanos());
        let mut random = Sequence::new(mix(mac.to_bits()) ^ u64::from(run));
        let next = now.instant + up_to(&mut random, DELAY);
        // As long as three advertisements may take (RFC 8106, section 5.1).
        let lifetime = seconds(spec.max_interval.saturating_mul(3));
        Self {
            mac,
            link_local: spec.link_local,
            told: RouterAdvertisement {
                hop_limit: HOP_LIMIT,
                managed: spec.managed,
                other: spec.other,
                preference: Preference::Medium,
                lifetime: u16::try_from(spec.router_lifetime.as_secs()).unwrap_or(u16::MAX),
                reachable: 0,
                retransmit: 0,
                mac: Some(mac),
                mtu: Some(spec.mtu.into()),
                prefixes: vec![Prefix {
                    net: spec.prefix.trunc(),
                    on_link: true,
                    autonomous: spec.autonomous,
                    valid: seconds(spec.valid),
                    preferred: seconds(spec.preferred.min(spec.valid)),
                }],
                dns: Some((lifetime, spec.dns)),
                search: Some((lifetime, spec.search)),
            },
            intervals: (spec.min_interval, spec.max_interval),
            random,
            sent: 0,
            last: None,
            next,
        }
    }

    fn packet(&self, dst: Ipv6Addr, told: RouterAdvertisement) -> Packet {
        Packet {
            src: self.link_local,
            dst,
            message: Message::RouterAdvertisement(Box::new(told)),
        }
    }

    /// Tells all nodes, and plans when to do so again.
    fn advertise(&mut self, now: Instant, out: &mut Replies) {
        let packet = self.packet(ALL_NODES, self.told.clone());
        out.send(packet.emit(self.mac, ALL_NODES_MAC));
        self.sent = self.sent.saturating_add(1).min(INITIAL);
        self.last = Some(now);
        let (low, high) = self.intervals;
        let random = self.random.within(millis(low), millis(high));
        let interval = Duration::from_millis(random).max(GAP);
        let initial = self.sent < INITIAL;
        self.next = now
            + if initial {
                interval.min(INITIAL_INTERVAL)
            } else {
                interval
            };
    }

    fn answer(&mut self, packet: &Packet, station: MacAddr, now: Instant, out: &mut Replies) {
        if packet.src.is_unspecified() {
            let soon = now + up_to(&mut self.random, DELAY);
            let allowed = self.last.map_or(soon, |last| soon.max(last + GAP));
            self.next = self.next.min(allowed);
        } else {
            let packet = self.packet(packet.src, self.told.clone());
            out.send(packet.emit(self.mac, station));
        }
    }
}

impl Service for RouterAdvertisements {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim {
        let Some(ethernet) = Ethernet::parse(frame.bytes) else {
            return Claim::Passed;
        };
        if ethernet.ethertype != ETHERTYPE_IPV6
            || !ethernet.src.is_station()
            || ethernet.src == self.mac
        {
            return Claim::Passed;
        }
        match Packet::parse(ethernet.payload, frame.partial_checksum) {
            Some(packet) if matches!(packet.message, Message::RouterSolicitation { .. }) => {
                self.answer(&packet, ethernet.src, now.instant, out);
                Claim::Taken
            }
            _ => Claim::Passed,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn handle_timeout(&mut self, now: Now, out: &mut Replies) {
        if now.instant >= self.next {
            self.advertise(now.instant, out);
        }
    }

    fn handle_stop(&mut self, _now: Now, out: &mut Replies) {
        let last = RouterAdvertisement {
            lifetime: 0,
            ..self.told.clone()
        };
        out.send(self.packet(ALL_NODES, last).emit(self.mac, ALL_NODES_MAC));
    }
}

fn up_to(random: &mut Sequence, limit: Duration) -> Duration {
    Duration::from_millis(random.within(0, millis(limit)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the seconds of a lifetime; one that is too long lasts for ever.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::inside::Inside;
    use crate::wire::nd::ALL_ROUTERS;

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn spec() -> Spec {
        Spec {
            prefix: "fd00:0:0:1::2/64".parse().unwrap(),
            link_local: ip("fe80::2"),
            mtu: 1500,
            dns: vec![ip("fd00:0:0:1::2")],
            search: vec!["lan.example".to_owned()],
            managed: true,
            other: false,
            autonomous: true,
            router_lifetime: Spec::ROUTER_LIFETIME,
            valid: Spec::VALID,
            preferred: Spec::PREFERRED,
            min_interval: Spec::MIN_INTERVAL,
            max_interval: Spec::MAX_INTERVAL,
        }
    }

    /// A router and its clock.
    struct Lab {
        router: RouterAdvertisements,
        start: Instant,
        now: Now,
    }

    impl Lab {
        fn new(spec: Spec) -> Self {
            let now = Now {
                instant: Instant::now(),
                wall: SystemTime::UNIX_EPOCH,
            };
            Self {
                router: RouterAdvertisements::new(spec, GATEWAY, now),
                start: now.instant,
                now,
            }
        }

        /// Lets the time pass up to the next advertisement, and returns it with the seconds since the start.
        fn next(&mut self) -> (f64, Vec<u8>) {
            let due = self.router.poll_timeout().unwrap();
            self.now.instant = due.max(self.now.instant);
            let mut out = Replies::default();
            self.router.handle_timeout(self.now, &mut out);
            assert_eq!(out.frames.len(), 1);
            let since = self.now.instant - self.start;
            (since.as_secs_f64(), out.frames.remove(0))
        }

        fn solicit(&mut self, src: &str) -> (Claim, Vec<Vec<u8>>) {
            let packet = Packet {
                src: ip(src),
                dst: ALL_ROUTERS,
                message: Message::RouterSolicitation { mac: None },
            };
            self.offer(&packet.emit(GUEST, GATEWAY))
        }

        fn offer(&mut self, frame: &[u8]) -> (Claim, Vec<Vec<u8>>) {
            let mut out = Replies::default();
            let frame = GatewayFrame {
                bytes: frame,
                partial_checksum: false,
                inside: &Inside::default(),
            };
            let claim = self.router.handle_frame(frame, self.now, &mut out);
            (claim, out.frames)
        }
    }

    fn read(frame: &[u8]) -> (Packet, RouterAdvertisement) {
        let packet = Packet::parse(&frame[14..], false).unwrap();
        let Message::RouterAdvertisement(told) = packet.message.clone() else {
            panic!("it is an advertisement")
        };
        (packet, *told)
    }

    #[test]
    fn what_the_network_is_like_is_told() {
        let mut lab = Lab::new(spec());
        let (_, frame) = lab.next();
        assert_eq!(frame[..12], [ALL_NODES_MAC.0, GATEWAY.0].concat());
        let (packet, told) = read(&frame);
        assert_eq!((packet.src, packet.dst), (ip("fe80::2"), ALL_NODES));
        let expected = RouterAdvertisement {
            hop_limit: 64,
            managed: true,
            other: false,
            preference: Preference::Medium,
            lifetime: 1800,
            reachable: 0,
            retransmit: 0,
            mac: Some(GATEWAY),
            mtu: Some(1500),
            prefixes: vec![Prefix {
                net: "fd00:0:0:1::/64".parse().unwrap(),
                on_link: true,
                autonomous: true,
                valid: 2_592_000,
                preferred: 604_800,
            }],
            dns: Some((1800, vec![ip("fd00:0:0:1::2")])),
            search: Some((1800, vec!["lan.example".to_owned()])),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_not_there_is_not_told() {
        let mut lab = Lab::new(Spec {
            dns: Vec::new(),
            search: Vec::new(),
            autonomous: false,
            router_lifetime: Duration::ZERO,
            ..spec()
        });
        let (_, told) = read(&lab.next().1);
        assert_eq!((told.lifetime, told.dns, told.search), (0, None, None));
        assert!(!told.prefixes[0].autonomous);
    }

    #[test]
    fn the_first_three_come_soon_and_further_ones_at_random_within_the_intervals() {
        let mut lab = Lab::new(spec());
        let times: Vec<f64> = (0..50).map(|_| lab.next().0).collect();
        assert!((0.0..=0.5).contains(&times[0]), "{}", times[0]);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[..2], [16.0, 16.0]);
        assert!(gaps[2..].iter().all(|gap| (200.0..=600.0).contains(gap)));
        let mut different = gaps[2..].to_vec();
        different.sort_by(f64::total_cmp);
        different.dedup();
        assert!(different.len() > 40, "they are random");
    }

    #[test]
    fn a_host_with_an_address_is_answered_at_once_and_alone() {
        let mut lab = Lab::new(spec());
        let due = lab.router.poll_timeout();
        for src in ["fe80::9", "fd00:0:0:1::9"] {
            let (claim, frames) = lab.solicit(src);
            assert_eq!((claim, frames.len()), (Claim::Taken, 1));
            let (packet, told) = read(&frames[0]);
            assert_eq!((packet.dst, told.lifetime), (ip(src), 1800));
            assert_eq!(frames[0][..6], GUEST.0);
        }
        assert_eq!(lab.router.poll_timeout(), due, "all others hear it later");
    }

    #[test]
    fn a_host_without_one_is_answered_through_all_nodes_within_half_a_second() {
        let mut lab = Lab::new(spec());
        for _ in 0..5 {
            lab.next();
        }
        lab.now.instant += Duration::from_secs(10);
        let asked = lab.now.instant - lab.start;
        for _ in 0..20 {
            assert_eq!(lab.solicit("::"), (Claim::Taken, Vec::new()));
        }
        let (at, frame) = lab.next();
        assert!(at - asked.as_secs_f64() <= 0.5);
        assert_eq!(read(&frame).0.dst, ALL_NODES);
        lab.solicit("::");
        let (again, _) = lab.next();
        let gap = again - at;
        assert!((3.0..=3.5).contains(&gap), "not more often: {gap}");
        let (after, _) = lab.next();
        assert!(after - again >= 200.0, "the time begins anew");
    }

    #[test]
    fn the_end_is_told_to_all() {
        let mut lab = Lab::new(spec());
        let mut out = Replies::default();
        lab.router.handle_stop(lab.now, &mut out);
        let (packet, told) = read(&out.frames[0]);
        assert_eq!((packet.dst, told.lifetime), (ALL_NODES, 0));
        assert_eq!(told.prefixes.len(), 1);
    }

    #[test]
    fn what_is_no_solicitation_is_left_to_others() {
        let mut lab = Lab::new(spec());
        let (_, own) = lab.next();
        let neighbour = crate::wire::nd::solicit(GUEST, ip("fe80::9"), ip("fe80::2"));
        for frame in [own, neighbour, vec![0; 60]] {
            assert_eq!(lab.offer(&frame), (Claim::Passed, Vec::new()));
        }
    }

    #[test]
    fn nothing_happens_before_its_time() {
        let mut lab = Lab::new(spec());
        lab.next();
        let mut out = Replies::default();
        lab.router.handle_timeout(lab.now, &mut out);
        assert!(out.frames.is_empty());
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut lab = Lab::new(spec());
            let frame = crate::wire::ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV6, &bytes);
            lab.offer(&frame);
        }
    }
}
