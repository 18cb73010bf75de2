//! What the translators of both families share: what they were told, the time, the limits, the forwards, the interface outside.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::Now;
use crate::net::napt::Side;
use crate::net::napt::forward::Forwards;
use crate::net::napt::key::{Address, Random};
use crate::net::napt::outside::OutsideInterface;
use crate::net::napt::table::{Flow, Marks};
use crate::net::nat::quota::Quota;
use crate::net::nat::{self, Protocol};
use crate::wire::ethernet::MacAddr;

/// How many events wait to be told at most; what is more is counted as lost.
const EVENTS: usize = 65_536;
/// How many guests wait to be told of at most.
const GUESTS: usize = 1024;
/// How many ICMP errors a second are sent, and how many at once (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4).
const ERRORS: u32 = 100;

/// What both families share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) spec: nat::Spec,
    /// The translator's own hardware addresses, by side.
    pub(super) macs: [MacAddr; 2],
    /// How large packets may be, by side.
    pub(super) mtus: [usize; 2],
    pub(super) random: Random,
    pub(super) quota: Quota,
    pub(super) forwards: Forwards,
    pub(super) outside: OutsideInterface,
    /// What has become of flows and was not told yet.
    pub(super) events: Vec<nat::Event>,
    pub(super) events_lost: u64,
    /// Guests that have begun flows from addresses that were not known as theirs.
    pub(super) guests: Vec<(IpAddr, MacAddr)>,
    /// Forwards that were asked for from the start and cannot be.
    pub(super) faults: Vec<String>,
    /// How many flows there are of each protocol.
    pub(super) flows: [usize; Protocol::ALL.len()],
    pub(super) created: u64,
    /// How many flows found no port free.
    pub(super) portless: u64,
    /// Bytes of payload from guests, and to them.
    pub(super) sent: u64,
    pub(super) received: u64,
    start: Instant,
    now: Instant,
    second: u32,
    errors: (u32, u32),
}

impl Shared {
    /// Begins at `now`.
    pub(super) fn new(
        spec: nat::Spec,
        macs: [MacAddr; 2],
        outside: OutsideInterface,
        seed: u64,
        now: Now,
    ) -> Self {
        let mut random = Random::new(seed);
        let quota = Quota::new(spec.limits);
        Self {
            spec,
            macs,
            mtus: [1500; 2],
            quota,
            forwards: Forwards::new(random.next()),
            random,
            outside,
            events: Vec::new(),
            events_lost: 0,
            guests: Vec::new(),
            faults: Vec::new(),
            flows: [0; Protocol::ALL.len()],
            created: 0,
            portless: 0,
            sent: 0,
            received: 0,
            start: now.instant,
            now: now.instant,
            second: 0,
            errors: (0, 0),
        }
    }

    /// Takes in that a guest uses an address.
    pub(super) fn note_guest(&mut self, ip: IpAddr, mac: MacAddr) {
        if self.guests.len() < GUESTS {
            self.guests.push((ip, mac));
        }
    }

    /// Moves the time on.
    #[inline]
    pub(super) fn set_now(&mut self, now: Instant) {
        // All frames of a burst have the same time.
        if now != self.now {
            self.now = now;
            self.second = self.second_of(now);
        }
    }

    /// Returns in which second a time is.
    pub(super) fn second_of(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.start).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// The time.
    pub(super) const fn now(&self) -> Instant {
        self.now
    }

    /// The time in whole seconds.
    #[inline]
    pub(super) const fn second(&self) -> u32 {
        self.second
    }

    /// When a second begins.
    pub(super) fn instant(&self, second: u32) -> Option<Instant> {
        self.start
            .checked_add(Duration::from_secs(u64::from(second)))
    }

    /// How long a flow may be idle.
    pub(super) fn timeout<A: Address>(&self, flow: &Flow<A>) -> Duration {
        let timeouts = &self.spec.timeouts;
        match flow.protocol {
            Protocol::Udp if flow.remote_port == 53 && !flow.marks.has(Marks::FORWARD) => {
                timeouts.dns
            }
            Protocol::Udp => timeouts.udp,
            Protocol::Tcp if flow.state.is_established() => timeouts.tcp,
            Protocol::Tcp => timeouts.tcp_transitory,
            Protocol::Icmp => timeouts.icmp,
        }
    }

    /// In which second a flow is over if nothing comes.
    pub(super) fn end<A: Address>(&self, flow: &Flow<A>) -> u32 {
        let timeout = self.timeout(flow);
        let rounded = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let seconds = u32::try_from(rounded).unwrap_or(u32::MAX);
        flow.seen.saturating_add(seconds).saturating_add(1)
    }

    /// Whether the inside is not to talk with an address.
    pub(super) fn is_closed(&self, ip: IpAddr) -> bool {
        let gateways = &self.spec.gateways;
        gateways.is_own(ip)
            || gateways.is_inside(ip)
            || self.spec.closed.iter().any(|net| net.contains(&ip))
    }

    /// Whether a flow can be a guest's of this address.
    pub(super) fn is_guest(&self, ip: IpAddr) -> bool {
        let gateways = &self.spec.gateways;
        let edge = match (ip, gateways.v4) {
            (IpAddr::V4(ip), Some((_, net))) => {
                net.prefix_len() < 31 && (ip == net.network() || ip == net.broadcast())
            }
            (IpAddr::V4(_), None) | (IpAddr::V6(_), _) => false,
        };
        gateways.is_inside(ip) && !gateways.is_own(ip) && !edge
    }

    /// How large a packet may be that leaves by a side.
    #[inline]
    pub(super) const fn mtu(&self, side: Side) -> usize {
        self.mtus[side as usize]
    }

    /// Takes one of the ICMP errors that may be sent this second.
    pub(super) const fn may_complain(&mut self) -> bool {
        if self.errors.0 != self.second {
            self.errors = (self.second, 0);
        }
        self.errors.1 += 1;
        self.errors.1 <= ERRORS
    }

    /// Keeps an event to be told, if events are told.
    pub(super) fn tell(&mut self, event: nat::Event) {
        if !self.spec.log {
            return;
        }
        if self.events.len() < EVENTS {
            self.events.push(event);
        } else {
            self.events_lost += 1;
        }
    }
}
