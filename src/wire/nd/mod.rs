//! Neighbour discovery for IPv6 (RFC 4861): solicitations and advertisements of routers and neighbours, unsolicited
//! advertisements (section 7.2.6), and what a station says of itself.
//!
//! What a receiver has to verify (sections 6.1 and 7.1) is verified here, all but whether a link-layer address is what the
//! frame says. Redirects are not handled.

use std::net::Ipv6Addr;

use self::options::Options;
use super::ethernet::{self, ETHERTYPE_IPV6, MacAddr};
use super::icmp6;
use super::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};

mod options;
mod router;
#[cfg(test)]
mod tests;

pub use router::{FOREVER, Preference, Prefix, RouterAdvertisement};

/// The group of all nodes on a link, ff02::1.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The hardware address of [`ALL_NODES`] (RFC 2464, section 7).
pub const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
/// The group of all routers on a link, ff02::2.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The station is a router.
const ROUTER: u8 = 0x80;
/// This answers a solicitation.
const SOLICITED: u8 = 0x40;
/// The address that is told replaces one that is known.
const OVERRIDE: u8 = 0x20;
/// Length of what is between a type and the options of a message about one address.
const TARGET_LEN: usize = 24;
/// Length of a router solicitation without options.
const SOLICITATION_LEN: usize = 8;
/// The hop limit that shows that a packet has passed no router.
const HOP_LIMIT: u8 = 255;

/// What a station says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// An address of its own.
    pub ip: Ipv6Addr,
    /// Whether it is a router, where it says so.
    pub router: Option<bool>,
}

impl Claim {
    /// Reads a packet, of which 64 bytes are enough. Addresses that are only probed for are not claimed.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 6
            || *packet.get(6)? != NEXT_HEADER_ICMPV6
            || *packet.get(7)? != 255
        {
            return None;
        }
        let address = |at: usize| {
            let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            let ip = Ipv6Addr::from(octets);
            (!ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()).then_some(ip)
        };
        let (ip, router) = match *packet.get(40)? {
            ROUTER_ADVERTISEMENT => (address(8)?, Some(true)),
            SOLICITATION => (address(8)?, None),
            ADVERTISEMENT => (address(48)?, Some(packet.get(44)? & ROUTER != 0)),
            _ => return None,
        };
        Some(Self { ip, router })
    }
}

/// A packet of neighbour discovery.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Who sent it; unspecified while it makes sure that its address is free.
    pub src: Ipv6Addr,
    /// Whom it is for.
    pub dst: Ipv6Addr,
    /// What it says.
    pub message: Message,
}

/// What a packet of neighbour discovery says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Which routers are there?
    RouterSolicitation {
        /// The sender's hardware address.
        mac: Option<MacAddr>,
    },
    /// A router tells of itself and of the link.
    RouterAdvertisement(Box<RouterAdvertisement>),
    /// Who has an address?
    Solicitation {
        /// The address.
        target: Ipv6Addr,
        /// The sender's hardware address.
        mac: Option<MacAddr>,
    },
    /// Somebody has an address.
    Advertisement(Advertisement),
}

/// Somebody has an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Advertisement {
    /// The address.
    pub target: Ipv6Addr,
    /// The hardware address that it is at.
    pub mac: Option<MacAddr>,
    /// Whether it is a router's.
    pub router: bool,
    /// Whether this answers a solicitation.
    pub solicited: bool,
    /// Whether a hardware address that is known is replaced.
    pub overrides: bool,
}

impl Packet {
    /// Reads a packet that is as its receivers demand. A checksum that the sender left to be completed is not verified.
    pub fn parse(packet: &[u8], partial: bool) -> Option<Self> {
        let packet = Ipv6::parse(packet)?;
        if packet.hop_limit != HOP_LIMIT
            || packet.src.is_multicast()
            || !icmp6::is_valid(&packet, partial)
        {
            return None;
        }
        let message = packet.payload;
        let (kind, 0) = (*message.first()?, *message.get(1)?) else {
            return None;
        };
        let target = || {
            let octets = *message.get(8..)?.first_chunk::<16>()?;
            let target = Ipv6Addr::from(octets);
            let station = !target.is_multicast() && !target.is_unspecified();
            (station && !target.is_loopback()).then_some(target)
        };
        let nobody = packet.src.is_unspecified();
        let message = match kind {
            ROUTER_SOLICITATION => {
                let mac = find_mac(message, SOLICITATION_LEN, options::SOURCE_MAC)?;
                if nobody && mac.is_some() {
                    return None;
                }
                Message::RouterSolicitation { mac }
            }
            ROUTER_ADVERTISEMENT if packet.src.is_unicast_link_local() => {
                Message::RouterAdvertisement(Box::new(RouterAdvertisement::parse(message)?))
            }
            SOLICITATION => {
                let target = target()?;
                let mac = find_mac(message, TARGET_LEN, options::SOURCE_MAC)?;
                if nobody && (mac.is_some() || packet.dst != ipv6::solicited_node(target)) {
                    return None;
                }
                Message::Solicitation { target, mac }
            }
            ADVERTISEMENT => {
                let flags = *message.get(4)?;
                let solicited = flags & SOLICITED != 0;
                if nobody || solicited && packet.dst.is_multicast() {
                    return None;
                }
                Message::Advertisement(Advertisement {
                    target: target()?,
                    mac: find_mac(message, TARGET_LEN, options::TARGET_MAC)?,
                    router: flags & ROUTER != 0,
                    solicited,
                    overrides: flags & OVERRIDE != 0,
                })
            }
            _ => return None,
        };
        Some(Self {
            src: packet.src,
            dst: packet.dst,
            message,
        })
    }

    /// Builds the frame from `src` that carries this packet: to `dst`, or to the group that the packet is for.
    pub fn emit(&self, src: MacAddr, dst: MacAddr) -> Vec<u8> {
        let packet = icmp6::emit(self.src, self.dst, HOP_LIMIT, self.message.bytes());
        // Always there: no message is longer than a packet.
        let packet = packet.unwrap_or_default();
        let dst = if self.dst.is_multicast() {
            ipv6::group_mac(self.dst)
        } else {
            dst
        };
        ethernet::emit(dst, src, ETHERTYPE_IPV6, &packet)
    }
}

impl Message {
    /// Returns the message, its checksum left out.
    fn bytes(&self) -> Vec<u8> {
        let begin = |kind, flags| vec![kind, 0, 0, 0, flags, 0, 0, 0];
        match self {
            Self::RouterSolicitation { mac } => {
                let mut bytes = begin(ROUTER_SOLICITATION, 0);
                push_mac(&mut bytes, options::SOURCE_MAC, *mac);
                bytes
            }
            Self::RouterAdvertisement(told) => {
                let mut bytes = vec![ROUTER_ADVERTISEMENT, 0, 0, 0];
                told.push(&mut bytes);
                bytes
            }
            Self::Solicitation { target, mac } => {
                let mut bytes = begin(SOLICITATION, 0);
                bytes.extend_from_slice(&target.octets());
                push_mac(&mut bytes, options::SOURCE_MAC, *mac);
                bytes
            }
            Self::Advertisement(told) => {
                let flag = |flag, set| if set { flag } else { 0 };
                let flags = flag(ROUTER, told.router)
                    | flag(SOLICITED, told.solicited)
                    | flag(OVERRIDE, told.overrides);
                let mut bytes = begin(ADVERTISEMENT, flags);
                bytes.extend_from_slice(&told.target.octets());
                push_mac(&mut bytes, options::TARGET_MAC, told.mac);
                bytes
            }
        }
    }
}

/// Returns the hardware address among the options of a message, if there is one; the outer `None` says that the message
/// cannot be read.
fn find_mac(message: &[u8], len: usize, wanted: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    for option in Options::of(message.get(len..)?) {
        let (kind, option) = option?;
        if kind == wanted {
            found = found.or_else(|| options::mac(option));
        }
    }
    Some(found)
}

fn push_mac(bytes: &mut Vec<u8>, kind: u8, mac: Option<MacAddr>) {
    if let Some(mac) = mac {
        options::push(bytes, kind, &mac.0);
    }
}

/// Builds the frame from `mac`, where `ip` is, that asks everybody who `target` might be for its hardware address.
pub fn solicit(mac: MacAddr, ip: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = ipv6::solicited_node(target);
    ask((mac, ip), target, (MacAddr::BROADCAST, group))
}

/// Builds the frame from `mac`, where `ip` is, that asks the station that is thought to have `target` whether it still has
/// (RFC 4861, section 7.3.3).
pub fn check(mac: MacAddr, ip: Ipv6Addr, target: Ipv6Addr, known: MacAddr) -> Vec<u8> {
    ask((mac, ip), target, (known, target))
}

fn ask(
    (mac, ip): (MacAddr, Ipv6Addr),
    target: Ipv6Addr,
    (known, dst): (MacAddr, Ipv6Addr),
) -> Vec<u8> {
    let packet = Packet {
        src: ip,
        dst,
        message: Message::Solicitation {
            target,
            mac: Some(mac),
        },
    };
    packet.emit(mac, known)
}

/// Builds the frame from `mac`, where `ip` is, that asks for routers.
pub fn solicit_routers(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    let packet = Packet {
        src: ip,
        dst: ALL_ROUTERS,
        message: Message::RouterSolicitation { mac: Some(mac) },
    };
    packet.emit(mac, MacAddr::BROADCAST)
}

/// Builds the frame with which `mac`, a host, answers who asks from `asker`: `ip` is there. Who has no address yet only
/// wants to know whether somebody has it, and all are told (RFC 4861, section 7.2.4).
pub fn answer(mac: MacAddr, ip: Ipv6Addr, asker: (MacAddr, Ipv6Addr)) -> Vec<u8> {
    let probed = asker.1.is_unspecified();
    let packet = Packet {
        src: ip,
        dst: if probed { ALL_NODES } else { asker.1 },
        message: Message::Advertisement(Advertisement {
            target: ip,
            mac: Some(mac),
            router: false,
            solicited: !probed,
            overrides: true,
        }),
    };
    packet.emit(mac, asker.0)
}

/// Builds the frame that asks whether anybody has an address that `mac` is about to use (RFC 4862, section 5.4.2).
pub fn probe(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    let packet = Packet {
        src: Ipv6Addr::UNSPECIFIED,
        dst: ipv6::solicited_node(ip),
        message: Message::Solicitation {
            target: ip,
            mac: None,
        },
    };
    packet.emit(mac, MacAddr::BROADCAST)
}

/// Builds the frame that tells all nodes of a link that `ip` is at `mac` now.
///
/// Nodes stop to use a router that says of itself that it is none, so `router` must be true of one.
pub fn unsolicited(mac: MacAddr, ip: Ipv6Addr, router: bool) -> Vec<u8> {
    let packet = Packet {
        src: ip,
        dst: ALL_NODES,
        message: Message::Advertisement(Advertisement {
            target: ip,
            mac: Some(mac),
            router,
            solicited: false,
            overrides: true,
        }),
    };
    packet.emit(mac, ALL_NODES_MAC)
}
