//! A translator that is good enough to try a router with: UDP over IPv4, ports kept. It refuses nothing (RFC 3022).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use self::outside::OutsideInterface;
use crate::net::Now;
use crate::net::drops::DropReason;
use crate::net::frame::{Head, Parsed};
use crate::net::gateway::Claim;
use crate::net::inside::Inside;
use crate::net::nat::forward::{Forward, ForwardError, ForwardRow};
use crate::net::nat::{self, FlowRow, Protocol, View};
use crate::wire::be16;
use crate::wire::checksum::checksum;
use crate::wire::ethernet::{ETHERTYPE_IPV4, MacAddr};
use crate::wire::ipv4::PROTOCOL_UDP;
use crate::wire::virtio_net::VirtioNetHeader;

pub mod outside;

/// A side of a translator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Where the guests are.
    Inside,
    /// Where it leads to.
    Outside,
}

impl Side {
    /// The other side.
    pub const fn other(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It leaves by the other side.
    Forward,
    /// It leaves by the side that it came from.
    Back,
    /// It must be seen whole.
    Whole,
    /// It is dropped.
    Drop(DropReason),
}

/// What a translator sends, and what it tells.
#[derive(Debug, Default)]
pub struct Routed {
    /// Frames, each with the side by which it leaves.
    pub frames: Vec<(Side, Vec<u8>, VirtioNetHeader)>,
    /// What has become of flows.
    pub events: Vec<nat::Event>,
}

/// A translator.
#[derive(Debug)]
pub struct Napt {
    gateways: nat::Gateways,
    inside_mac: MacAddr,
    outside: OutsideInterface,
    guests: BTreeMap<u16, (Ipv4Addr, MacAddr)>,
}

impl Napt {
    /// Begins without flows.
    pub fn new(
        spec: &nat::Spec,
        inside_mac: MacAddr,
        outside: &nat::NetworkOutside,
        seed: u64,
        now: Now,
    ) -> Self {
        Self {
            gateways: spec.gateways.clone(),
            inside_mac,
            outside: OutsideInterface::new(outside, seed, now.instant),
            guests: BTreeMap::new(),
        }
    }

    /// Says how large packets may be on both sides.
    pub const fn set_mtu(&mut self, _inside: u16, outside: u16) {
        self.outside.set_mtu(outside);
    }

    /// Looks for what [`Napt::translate`] will need.
    pub fn prefetch(&self, _side: Side, _head: &Head, _parsed: &Parsed) {}

    /// Translates a frame by its head.
    pub fn translate(
        &mut self,
        side: Side,
        head: &mut Head,
        parsed: &Parsed,
        _inside: &Inside,
        _now: Instant,
    ) -> Verdict {
        self.rewrite(side, head, parsed).unwrap_or(Verdict::Whole)
    }

    fn rewrite(&mut self, side: Side, head: &mut Head, parsed: &Parsed) -> Option<Verdict> {
        let at = parsed.payload_at();
        let packet = head.bytes().get(at..at + 28)?;
        if parsed.ethertype != ETHERTYPE_IPV4 || packet[0] != 0x45 || packet[9] != PROTOCOL_UDP {
            return None;
        }
        let ip = |at: usize| -> Ipv4Addr {
            [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]].into()
        };
        let (src, dst) = (ip(12), ip(16));
        let (src_port, dst_port) = (be16(packet, 20)?, be16(packet, 22)?);
        let own = self.outside.v4()?;
        if side == Side::Inside && !self.gateways.is_inside(src.into()) {
            return Some(Verdict::Drop(DropReason::ForgedSource));
        }
        let (verdict, ip_at, new, mac, from) = match side {
            Side::Inside if dst == own => {
                let (guest, mac) = *self.guests.get(&dst_port)?;
                (Verdict::Back, 16, guest, mac, self.inside_mac)
            }
            Side::Inside => {
                self.guests.insert(src_port, (src, parsed.src));
                let mac = self.outside.mac_for(dst.into())?;
                (Verdict::Forward, 12, own, mac, self.outside.mac())
            }
            Side::Outside if dst == own => {
                let (guest, mac) = *self.guests.get(&dst_port)?;
                (Verdict::Forward, 16, guest, mac, self.inside_mac)
            }
            Side::Outside => return None,
        };
        let bytes = head.buffer();
        bytes[..6].copy_from_slice(&mac.0);
        bytes[6..12].copy_from_slice(&from.0);
        bytes[at + ip_at..at + ip_at + 4].copy_from_slice(&new.octets());
        bytes[at + 10..at + 12].fill(0);
        bytes[at + 26..at + 28].fill(0);
        let sum = checksum(&bytes[at..at + 20]);
        bytes[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        Some(verdict)
    }

    /// Handles a frame that must be seen whole.
    pub fn handle_frame(
        &mut self,
        side: Side,
        bytes: &[u8],
        _header: VirtioNetHeader,
        _inside: &Inside,
        now: Now,
        out: &mut Routed,
    ) {
        let mut frames = Vec::new();
        match side {
            Side::Outside => {
                let _: Claim = self.outside.handle_frame(bytes, now.instant, &mut frames);
            }
            Side::Inside => {
                if let Some(dst) = bytes.get(30..34) {
                    let dst = IpAddr::from([dst[0], dst[1], dst[2], dst[3]]);
                    self.outside.ask(dst, now.instant, &mut frames);
                }
            }
        }
        Self::send(frames, out);
    }

    fn send(frames: Vec<Vec<u8>>, out: &mut Routed) {
        let outside = |frame| (Side::Outside, frame, VirtioNetHeader::default());
        out.frames.extend(frames.into_iter().map(outside));
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.outside.poll_timeout()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Routed) {
        let mut frames = Vec::new();
        self.outside.handle_timeout(now.instant, &mut frames);
        Self::send(frames, out);
    }

    /// Gives back what was lent outside.
    pub fn shutdown(&mut self, now: Now, out: &mut Routed) {
        let mut frames = Vec::new();
        self.outside.shutdown(now.instant, &mut frames);
        Self::send(frames, out);
    }

    /// The translator at a glance.
    pub fn view(&self, _inside: &Inside) -> View {
        View {
            outside: self.outside.v4().map(IpAddr::from).into_iter().collect(),
            ..View::default()
        }
    }

    /// Its flows.
    pub fn flows(&self, _now: Instant) -> Vec<FlowRow> {
        Vec::new()
    }

    /// Forwards a port.
    ///
    /// # Errors
    ///
    /// It never does.
    pub fn add_forward(
        &mut self,
        _forward: Forward,
        _inside: &Inside,
    ) -> Result<ForwardRow, ForwardError> {
        Err(ForwardError::Other {
            protocol: _forward.protocol.name(),
            listen: SocketAddr::new(_forward.ip, _forward.first),
            reason: String::new(),
        })
    }

    /// Forwards a port no more.
    pub fn remove_forward(&mut self, _protocol: Protocol, _listen: SocketAddr) -> bool {
        false
    }

    /// What an operator should know.
    pub fn advisories(&self, now: Instant) -> Vec<String> {
        self.outside.advisories(now)
    }
}
