//! Looks after the targets of port forwards: opens a TCP connection to each now and then, as far as the answer (RFC 9293,
//! section 3.5), and tells which do not answer.
//!
//! # Theory of operation
//!
//! ```text
//! resting ──interval──▶ asking ──hardware address known──▶ knocking ──SYN-ACK──▶ success ─┐
//!    ▲                    │                                   │                           │
//!    │                    └───────────── timeout ─────────────┴──── RST, timeout ─▶ failure
//!    └────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A target counts as up until it fails as often in a row as its [`Health`] says, and then as down until it succeeds as
//! often. Whoever answers is told with a RST that nothing follows. A VM is watched by IPv4 and by IPv6, apart, wherever it
//! has addresses; one without an address of a family is not watched by it, and one whose address changes begins anew.
//!
//! The connections come from the gateway's own addresses and from ports of [`PORTS`], which nobody else uses: clients of
//! forwards that are seen with the gateway's address have higher ones. A segment counts as an answer if it comes from the
//! target to the port, and acknowledges the sequence number that was sent, which nobody else can know. All else is left to
//! others, but for late answers of targets, which are ended.
//!
//! At most [`LIMIT`] targets are watched; further ones count as up. Nothing is searched when frames come.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use foldhash::fast::RandomState;

use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::net::inside::Inside;
use crate::net::mix::Sequence;
use crate::net::nat::Gateways;
use crate::net::nat::forward::{Health, Host};
use crate::wire::arp::{Arp, REQUEST};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr};
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_TCP};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{be16, be32, nd};

#[cfg(test)]
mod tests;

/// The ports that connections come from.
const PORTS: Range<u16> = 32..1000;
/// How many targets are watched, a VM by both families counting twice; fewer than there are ports.
const LIMIT: usize = 512;
/// How often it is looked whether a hardware address has become known.
const LOOK: Duration = Duration::from_millis(50);
/// The shortest time between two connections to a target.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

const HEADER_LEN: usize = 20;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The largest segment (RFC 9293, section 3.7.1): data offset, code and length of the option, and what every host takes.
const MAX_SEGMENT: [u8; 4] = [2, 4, 0x02, 0x18];

/// A target, and how it is looked after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Who it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// How often and how long.
    pub health: Health,
}

/// What is looked after, and from where.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's own addresses.
    pub gateways: Gateways,
    /// The targets from the start.
    pub targets: Vec<Probe>,
}

/// What a target is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Nothing until it is due.
    Resting,
    /// Its hardware address is asked for, until then.
    Asking(Instant),
    /// It was sent a SYN from this port, with this sequence number.
    Knocking(u16, u32),
}

/// A target by one family of addresses.
#[derive(Clone, Debug)]
struct Watch {
    probe: Probe,
    v6: bool,
    address: Option<IpAddr>,
    up: bool,
    /// How often in a row it was other than `up` says.
    contrary: u32,
    failed: bool,
    began: Instant,
    stage: Stage,
    due: Instant,
}

/// Looks after the targets of one network.
#[derive(Debug)]
pub struct HealthProbes {
    mac: MacAddr,
    gateways: Gateways,
    watches: Vec<Watch>,
    /// Who was sent a SYN from a port.
    knocking: HashMap<u16, usize, RandomState>,
    /// Those that are watched, for their late answers.
    targets: HashMap<SocketAddr, usize, RandomState>,
    next_port: u16,
    random: Sequence,
    next: Option<Instant>,
    /// Addresses that are not watched any more, and were told to be down.
    forgotten: Vec<SocketAddr>,
}

impl HealthProbes {
    /// Begins to look after the targets of `spec`, from the hardware address `mac`.
    pub fn new(spec: Spec, mac: MacAddr, now: Now) -> Self {
        let since = now.wall.duration_since(SystemTime::UNIX_EPOCH);
        let run = since.map_or(0, |since| since.as_nanos() & u128::from(u64::MAX));
        let run = u64::try_from(run).unwrap_or_default();
        let mut probes = Self {
            mac,
            gateways: spec.gateways,
            watches: Vec::new(),
            knocking: HashMap::default(),
            targets: HashMap::default(),
            next_port: PORTS.start,
            random: Sequence::new(run ^ mac.to_bits().rotate_left(16)),
            next: None,
            forgotten: Vec::new(),
        };
        probes.set(&spec.targets, now.instant);
        probes
    }

    /// Looks after these targets from now on; what is known of those that were there before stays known.
    fn set(&mut self, targets: &[Probe], now: Instant) {
        let mut before = std::mem::take(&mut self.watches);
        self.knocking.clear();
        self.targets.clear();
        for probe in targets {
            for v6 in [false, true] {
                let watched = self.watches.iter().any(|watch| {
                    watch.v6 == v6
                        && watch.probe.host == probe.host
                        && watch.probe.port == probe.port
                });
                let possible = match &probe.host {
                    Host::Vm { .. } => true,
                    Host::Address(ip) => ip.is_ipv6() == v6,
                };
                if watched || !possible || !self.speaks(v6) || self.watches.len() >= LIMIT {
                    continue;
                }
                let known = before
                    .iter()
                    .position(|watch| watch.v6 == v6 && watch.probe == *probe);
                let mut watch = match known {
                    Some(known) => before.swap_remove(known),
                    None => Watch::new(probe, v6, now),
                };
                // A port is only known by the place in the list, which may be another one now.
                if matches!(watch.stage, Stage::Knocking(..)) {
                    watch.stage = Stage::Resting;
                    watch.due = now;
                }
                if let Some(target) = watch.target() {
                    self.targets.insert(target, self.watches.len());
                }
                self.watches.push(watch);
            }
        }
        let down = before.iter().filter(|watch| !watch.up);
        self.forgotten.extend(down.filter_map(Watch::target));
        // Those that begin together do not all knock together.
        let count = u32::try_from(self.watches.len()).unwrap_or(u32::MAX);
        for (index, watch) in (0..).zip(&mut self.watches) {
            if watch.stage == Stage::Resting && watch.due == now {
                watch.due += watch.probe.health.interval / count.max(1) * index;
            }
        }
        self.plan(now);
    }

    fn plan(&mut self, now: Instant) {
        let due = self.watches.iter().map(|watch| watch.due).min();
        let now = (!self.forgotten.is_empty()).then_some(now);
        self.next = now.or(due);
    }

    /// Whether the gateway has an address of a family.
    const fn speaks(&self, v6: bool) -> bool {
        if v6 {
            self.gateways.v6.is_some()
        } else {
            self.gateways.v4.is_some()
        }
    }

    /// Returns the gateway's address that is of a kind with a target's.
    fn source(&self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(_) => Some(self.gateways.v4?.0.into()),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(self.gateways.link_local?.into()),
            IpAddr::V6(_) => Some(self.gateways.v6?.0.into()),
        }
    }

    /// Does what is due for one target.
    fn step(&mut self, index: usize, inside: &Inside, now: Instant, out: &mut Replies) {
        match self.watches[index].stage {
            Stage::Resting => self.begin(index, inside, now, out),
            Stage::Asking(until) if now < until => self.knock(index, inside, until, now, out),
            Stage::Asking(_) => self.conclude(index, false, now, out),
            Stage::Knocking(port, _) => {
                self.knocking.remove(&port);
                self.conclude(index, false, now, out);
            }
        }
    }

    fn begin(&mut self, index: usize, inside: &Inside, now: Instant, out: &mut Replies) {
        let watch = &mut self.watches[index];
        let address = match &watch.probe.host {
            Host::Vm { mac, .. } => inside.address_of(*mac, watch.v6),
            Host::Address(ip) => Some(*ip),
        };
        if address != watch.address {
            if let Some(target) = watch.target() {
                if !watch.up {
                    out.up.push((target, true));
                }
                if self.targets.get(&target) == Some(&index) {
                    self.targets.remove(&target);
                }
            }
            *watch = Watch {
                address,
                ..Watch::new(&watch.probe, watch.v6, now)
            };
            if let Some(target) = watch.target() {
                self.targets.insert(target, index);
            }
        }
        watch.began = now;
        let Some(ip) = watch.address else {
            watch.due = now + watch.interval();
            return;
        };
        let until = now + watch.probe.health.timeout;
        // A station that failed may be somewhere else now.
        if watch.failed || hardware_address(&watch.probe.host, ip, inside).is_none() {
            out.frames.extend(self.ask(ip));
        }
        self.knock(index, inside, until, now, out);
    }

    /// Returns the frame that asks for the hardware address of a target.
    fn ask(&self, target: IpAddr) -> Option<Vec<u8>> {
        match (self.source(target)?, target) {
            (IpAddr::V4(sender_ip), IpAddr::V4(target_ip)) => {
                let request = Arp {
                    operation: REQUEST,
                    sender_mac: self.mac,
                    sender_ip,
                    target_mac: MacAddr::ZERO,
                    target_ip,
                };
                Some(request.emit(MacAddr::BROADCAST))
            }
            (IpAddr::V6(src), IpAddr::V6(target)) => Some(nd::solicit(self.mac, src, target)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Sends a SYN, if it is known where to.
    fn knock(
        &mut self,
        index: usize,
        inside: &Inside,
        until: Instant,
        now: Instant,
        out: &mut Replies,
    ) {
        let watch = &mut self.watches[index];
        let mac = watch
            .address
            .and_then(|ip| hardware_address(&watch.probe.host, ip, inside));
        let (Some(mac), Some(target)) = (mac, watch.target()) else {
            watch.stage = Stage::Asking(until);
            watch.due = until.min(now + LOOK);
            return;
        };
        let [a, b, c, d, ..] = self.random.next().to_be_bytes();
        let (port, seq) = (self.free_port(), u32::from_be_bytes([a, b, c, d]));
        let watch = &mut self.watches[index];
        watch.stage = Stage::Knocking(port, seq);
        watch.due = until;
        self.knocking.insert(port, index);
        let header = Header {
            src: port,
            dst: target.port(),
            seq,
            ack: 0,
            flags: SYN,
        };
        self.send(&header, mac, target.ip(), out);
    }

    /// Returns a port from which nobody knocks: there are more than targets.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port + 1 < PORTS.end {
                port + 1
            } else {
                PORTS.start
            };
            if !self.knocking.contains_key(&port) {
                return port;
            }
        }
    }

    fn send(&self, header: &Header, mac: MacAddr, dst: IpAddr, out: &mut Replies) {
        let frame = match (self.source(dst), dst) {
            (Some(IpAddr::V4(src)), IpAddr::V4(dst)) => {
                let sum = |len| Sum::default().add_pseudo_header(src, dst, PROTOCOL_TCP, len);
                let packet = ipv4::emit(src, dst, PROTOCOL_TCP, &header.emit(sum));
                packet.map(|packet| ethernet::emit(mac, self.mac, ETHERTYPE_IPV4, &packet))
            }
            (Some(IpAddr::V6(src)), IpAddr::V6(dst)) => {
                let sum = |len| ipv6::pseudo_header(src, dst, PROTOCOL_TCP, len);
                let packet = Ipv6 {
                    src,
                    dst,
                    next_header: PROTOCOL_TCP,
                    hop_limit: 64,
                    payload: &header.emit(sum),
                };
                let packet = packet.emit();
                packet.map(|packet| ethernet::emit(mac, self.mac, ETHERTYPE_IPV6, &packet))
            }
            (Some(IpAddr::V4(_)), IpAddr::V6(_)) | (Some(IpAddr::V6(_)), IpAddr::V4(_)) => None,
            (None, _) => None,
        };
        out.frames.extend(frame);
    }

    /// Takes in whether a target has answered.
    fn conclude(&mut self, index: usize, success: bool, now: Instant, out: &mut Replies) {
        let watch = &mut self.watches[index];
        watch.stage = Stage::Resting;
        watch.failed = !success;
        watch.due = (watch.began + watch.interval()).max(now);
        if success == watch.up {
            watch.contrary = 0;
            return;
        }
        watch.contrary = watch.contrary.saturating_add(1);
        let Health { fall, rise, .. } = watch.probe.health;
        if watch.contrary >= if success { rise } else { fall } {
            watch.up = success;
            watch.contrary = 0;
            out.up
                .extend(watch.target().map(|target| (target, success)));
        }
    }

    /// Takes in a segment that a target sent to one of our ports.
    fn hear(
        &mut self,
        index: usize,
        header: &Header,
        mac: MacAddr,
        now: Instant,
        out: &mut Replies,
    ) -> Claim {
        let reset = Header {
            src: header.dst,
            dst: header.src,
            seq: header.ack,
            ack: 0,
            flags: RST,
        };
        let opens = header.flags & (SYN | ACK | RST) == SYN | ACK;
        let Some(target) = self.watches[index].target() else {
            return Claim::Passed;
        };
        let expected = match self.watches[index].stage {
            Stage::Knocking(port, seq) if port == header.dst => Some(seq.wrapping_add(1)),
            Stage::Resting | Stage::Asking(_) | Stage::Knocking(..) => None,
        };
        if header.flags & ACK == 0 || expected != Some(header.ack) {
            // A late answer, or that of a connection it believes to have still.
            let stray = header.flags & (RST | ACK) == ACK;
            if stray && (opens || expected.is_some()) {
                self.send(&reset, mac, target.ip(), out);
                return Claim::Taken;
            }
            return Claim::Passed;
        }
        if !opens && header.flags & RST == 0 {
            return Claim::Taken;
        }
        if opens {
            self.send(&reset, mac, target.ip(), out);
        }
        self.knocking.remove(&header.dst);
        self.conclude(index, opens, now, out);
        self.plan(now);
        Claim::Taken
    }
}

impl Watch {
    fn new(probe: &Probe, v6: bool, now: Instant) -> Self {
        Self {
            probe: probe.clone(),
            v6,
            address: None,
            up: true,
            contrary: 0,
            failed: false,
            began: now,
            stage: Stage::Resting,
            due: now,
        }
    }

    fn target(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address?, self.probe.port))
    }

    fn interval(&self) -> Duration {
        self.probe.health.interval.max(MIN_INTERVAL)
    }
}

impl Service for HealthProbes {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim {
        let read = || {
            let ethernet = Ethernet::parse(frame.bytes)?;
            let (src, dst, header) = read(&ethernet, frame.partial_checksum)?;
            let own = self.source(src)? == dst && ethernet.dst == self.mac;
            let station = ethernet.src.is_station();
            (own && station && PORTS.contains(&header.dst)).then_some((ethernet.src, src, header))
        };
        let Some((mac, src, header)) = read() else {
            return Claim::Passed;
        };
        let target = SocketAddr::new(src, header.src);
        let knocked = self.knocking.get(&header.dst).copied();
        let knocked = knocked.filter(|index| self.watches[*index].target() == Some(target));
        match knocked.or_else(|| self.targets.get(&target).copied()) {
            Some(index) => self.hear(index, &header, mac, now.instant, out),
            None => Claim::Passed,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn look_inside(&mut self, inside: &Inside, now: Now, out: &mut Replies) {
        if self.next.is_none_or(|next| next > now.instant) {
            return;
        }
        let forgotten = self.forgotten.drain(..);
        out.up.extend(forgotten.map(|target| (target, true)));
        for index in 0..self.watches.len() {
            if self.watches[index].due <= now.instant {
                self.step(index, inside, now.instant, out);
            }
        }
        self.plan(now.instant);
    }

    fn set_probes(&mut self, targets: &[Probe], now: Now) {
        self.set(targets, now.instant);
    }
}

/// Returns where a target is: a VM at its own hardware address, and an address where it was seen.
fn hardware_address(host: &Host, ip: IpAddr, inside: &Inside) -> Option<MacAddr> {
    match host {
        Host::Vm { mac, .. } => Some(*mac),
        Host::Address(_) => inside.mac_of(ip),
    }
}

/// What counts of a TCP header here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    src: u16,
    dst: u16,
    seq: u32,
    ack: u32,
    flags: u8,
}

impl Header {
    /// Builds a segment without payload; `sum` begins its checksum with the pseudo-header for a length.
    fn emit(&self, sum: impl Fn(u16) -> Sum) -> Vec<u8> {
        let opens = self.flags & SYN != 0;
        let (offset, len) = if opens { (0x60, 24) } else { (0x50, 20) };
        let window: u16 = if opens { 1024 } else { 0 };
        let mut segment = Vec::with_capacity(usize::from(len));
        segment.extend_from_slice(&self.src.to_be_bytes());
        segment.extend_from_slice(&self.dst.to_be_bytes());
        segment.extend_from_slice(&self.seq.to_be_bytes());
        segment.extend_from_slice(&self.ack.to_be_bytes());
        segment.extend_from_slice(&[offset, self.flags]);
        segment.extend_from_slice(&window.to_be_bytes());
        segment.extend_from_slice(&[0; 4]);
        if opens {
            segment.extend_from_slice(&MAX_SEGMENT);
        }
        let sum = sum(len).over(&segment).finish();
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// Reads a segment with its addresses. Its checksum is verified unless the sender left it to be completed.
fn read(ethernet: &Ethernet<'_>, partial: bool) -> Option<(IpAddr, IpAddr, Header)> {
    let len = |segment: &[u8]| u16::try_from(segment.len()).ok();
    let (src, dst, segment, sum): (IpAddr, IpAddr, _, _) = match ethernet.ethertype {
        ETHERTYPE_IPV4 => {
            let ip = Ipv4::parse(ethernet.payload)?;
            if ip.protocol != PROTOCOL_TCP || ip.fragment {
                return None;
            }
            let sum = Sum::default();
            let sum = sum.add_pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, len(ip.payload)?);
            (ip.src.into(), ip.dst.into(), ip.payload, sum)
        }
        ETHERTYPE_IPV6 => {
            let ip = Ipv6::parse(ethernet.payload)?;
            if ip.next_header != PROTOCOL_TCP {
                return None;
            }
            let sum = ipv6::pseudo_header(ip.src, ip.dst, PROTOCOL_TCP, len(ip.payload)?);
            (ip.src.into(), ip.dst.into(), ip.payload, sum)
        }
        _ => return None,
    };
    if segment.len() < HEADER_LEN || !partial && sum.over(segment).finish() != 0 {
        return None;
    }
    let header = Header {
        src: be16(segment, 0)?,
        dst: be16(segment, 2)?,
        seq: be32(segment, 4)?,
        ack: be32(segment, 8)?,
        flags: segment[13],
    };
    Some((src, dst, header))
}
