//! What routers tell of a link: router advertisements (RFC 4861, section 4.2) with prefixes, the MTU, name servers and a
//! search list (RFC 8106), and how much they want to be used (RFC 4191).

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::options::{self, Options};
use crate::wire::ethernet::MacAddr;
use crate::wire::{be16, be32, domain};

/// A lifetime that never ends.
pub const FOREVER: u32 = u32::MAX;

/// Length of an advertisement without its options.
pub(super) const LEN: usize = 16;

const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
/// How many prefixes, and how many name servers, are read.
const LIMIT: usize = 16;
/// How many bytes of names are written: the advertisement has to fit into one packet.
const SEARCH_LEN: usize = 512;

/// How much a router wants to be used (RFC 4191, section 2.1).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Preference {
    /// Rather than others.
    High,
    /// As others.
    #[default]
    Medium,
    /// If there is no other.
    Low,
}

impl Preference {
    const fn of(flags: u8) -> Self {
        match flags >> 3 & 3 {
            1 => Self::High,
            3 => Self::Low,
            _ => Self::Medium,
        }
    }

    const fn flags(self) -> u8 {
        match self {
            Self::High => 1 << 3,
            Self::Medium => 0,
            Self::Low => 3 << 3,
        }
    }
}

/// A router advertisement.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouterAdvertisement {
    /// The hop limit that hosts are to send with; 0 leaves it to them.
    pub hop_limit: u8,
    /// Whether addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Whether other things are to be had by DHCPv6.
    pub other: bool,
    /// How much the sender wants to be a default router.
    pub preference: Preference,
    /// For how many seconds the sender is a default router; 0 if it is none.
    pub lifetime: u16,
    /// For how many milliseconds a neighbour counts as reachable; 0 leaves it to the hosts.
    pub reachable: u32,
    /// The milliseconds between solicitations; 0 leaves it to the hosts.
    pub retransmit: u32,
    /// The sender's hardware address.
    pub mac: Option<MacAddr>,
    /// The largest packet of the link.
    pub mtu: Option<u32>,
    /// The prefixes of the link.
    pub prefixes: Vec<Prefix>,
    /// Name servers, and for how many seconds they may be used.
    pub dns: Option<(u32, Vec<Ipv6Addr>)>,
    /// Domains to search for names, and for how many seconds.
    pub search: Option<(u32, Vec<String>)>,
}

/// A prefix that an advertisement tells of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    /// The prefix.
    pub net: Ipv6Net,
    /// Whether all of its addresses are on the link.
    pub on_link: bool,
    /// Whether hosts may make themselves addresses of it (RFC 4862).
    pub autonomous: bool,
    /// For how many seconds it is valid, or [`FOREVER`].
    pub valid: u32,
    /// For how many seconds addresses of it are preferred, or [`FOREVER`].
    pub preferred: u32,
}

impl RouterAdvertisement {
    /// Reads a message whose options are in order. What repeats, or is too much, is not read.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let flags = *message.get(5)?;
        let mut told = Self {
            hop_limit: *message.get(4)?,
            managed: flags & MANAGED != 0,
            other: flags & OTHER != 0,
            preference: Preference::of(flags),
            lifetime: be16(message, 6)?,
            reachable: be32(message, 8)?,
            retransmit: be32(message, 12)?,
            ..Self::default()
        };
        for option in Options::of(message.get(LEN..)?) {
            let (kind, option) = option?;
            match kind {
                options::SOURCE_MAC => told.mac = told.mac.or_else(|| options::mac(option)),
                options::MTU if option.len() == 8 => {
                    told.mtu = told.mtu.or_else(|| be32(option, 4))
                }
                options::PREFIX if told.prefixes.len() < LIMIT => {
                    told.prefixes.extend(Prefix::parse(option));
                }
                options::DNS if option.len() >= 24 && told.dns.is_none() => {
                    let servers = option[8..].as_chunks::<16>().0;
                    let servers = servers.iter().take(LIMIT).copied().map(Ipv6Addr::from);
                    told.dns = Some((be32(option, 4)?, servers.collect()));
                }
                options::SEARCH if told.search.is_none() => {
                    told.search = Some((be32(option, 4)?, domain::read_list(option.get(8..)?)));
                }
                _ => {}
            }
        }
        Some(told)
    }

    /// Adds the message to `bytes`, which begins with its type, code and checksum.
    pub(super) fn push(&self, bytes: &mut Vec<u8>) {
        let managed = if self.managed { MANAGED } else { 0 };
        let other = if self.other { OTHER } else { 0 };
        bytes.extend_from_slice(&[self.hop_limit, managed | other | self.preference.flags()]);
        bytes.extend_from_slice(&self.lifetime.to_be_bytes());
        bytes.extend_from_slice(&self.reachable.to_be_bytes());
        bytes.extend_from_slice(&self.retransmit.to_be_bytes());
        if let Some(mac) = self.mac {
            options::push(bytes, options::SOURCE_MAC, &mac.0);
        }
        if let Some(mtu) = self.mtu {
            let [a, b, c, d] = mtu.to_be_bytes();
            options::push(bytes, options::MTU, &[0, 0, a, b, c, d]);
        }
        for prefix in self.prefixes.iter().take(LIMIT) {
            options::push(bytes, options::PREFIX, &prefix.body());
        }
        if let Some((lifetime, servers)) = &self.dns
            && !servers.is_empty()
        {
            let mut body = vec![0, 0];
            body.extend_from_slice(&lifetime.to_be_bytes());
            let servers = servers.iter().take(LIMIT);
            body.extend(servers.flat_map(|server| server.octets()));
            options::push(bytes, options::DNS, &body);
        }
        if let Some((lifetime, names)) = &self.search {
            let mut body = vec![0, 0];
            body.extend_from_slice(&lifetime.to_be_bytes());
            let empty = body.len();
            for name in names {
                let before = body.len();
                if domain::push(&mut body, name) && body.len() > SEARCH_LEN {
                    body.truncate(before);
                    break;
                }
            }
            if body.len() > empty {
                options::push(bytes, options::SEARCH, &body);
            }
        }
    }
}

impl Prefix {
    fn parse(option: &[u8]) -> Option<Self> {
        if option.len() != 32 {
            return None;
        }
        let prefix = Ipv6Addr::from(*option.get(16..)?.first_chunk::<16>()?);
        Some(Self {
            net: Ipv6Net::new(prefix, option[2]).ok()?.trunc(),
            on_link: option[3] & ON_LINK != 0,
            autonomous: option[3] & AUTONOMOUS != 0,
            valid: be32(option, 4)?,
            preferred: be32(option, 8)?,
        })
    }

    fn body(&self) -> Vec<u8> {
        let on_link = if self.on_link { ON_LINK } else { 0 };
        let autonomous = if self.autonomous { AUTONOMOUS } else { 0 };
        let mut body = vec![self.net.prefix_len(), on_link | autonomous];
        body.extend_from_slice(&self.valid.to_be_bytes());
        body.extend_from_slice(&self.preferred.to_be_bytes());
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&self.net.network().octets());
        body
    }
}
