//! The names that are answered here and never asked for elsewhere: those of the network, and those that mean nothing to
//! others.
//!
//! | name | answer |
//! |---|---|
//! | a name of the configuration, `gateway`, `_gateway`, `host` | its addresses |
//! | a station's, alone or in the network's domain | its addresses, as far as they are known |
//! | anything else in the network's domain | there is none |
//! | an address of the configuration in `in-addr.arpa` and `ip6.arpa` | its name |
//! | an address of the network, of a link or of loopback, likewise | its name, or there is none |
//! | `localhost` and below (RFC 6761, 6.3) | the loopback addresses |
//! | `invalid`, `onion`, `alt` and below (RFC 6761, 6.4; RFC 7686; RFC 9476) | there is none |
//! | `resolver.arpa` and below (RFC 9462, 6.4) | nothing, so that guests keep asking here |
//!
//! A name that stands alone counts as a station's only if there is one, and not for what zones are asked for: there are
//! top-level domains, too. `.local` is asked for elsewhere: the host knows whether its network uses it.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Spec;
use super::query::Query;
use crate::net::Now;
use crate::net::inside::Inside;
use crate::net::nat::Gateways;
use crate::wire::dns::{Name, Owner, Section, address_record, flag, kind, rcode};
use crate::wire::ethernet::MacAddr;

/// How long an answer may be kept.
const TTL: u32 = 60;
/// How long it may be kept that there is nothing: a station may come at any time.
const NEGATIVE_TTL: u32 = 10;
/// Top-level domains under which there is nothing.
const EMPTY: [&str; 3] = ["invalid", "onion", "alt"];

/// What is known of a name.
#[derive(Debug)]
struct Found {
    /// The zone it is in.
    zone: Name,
    /// Whether the name is there, maybe without what is asked for.
    exists: bool,
    records: Vec<(u16, u32, Vec<u8>)>,
}

/// The names that are answered here.
#[derive(Debug)]
pub(super) struct Local {
    gateways: Gateways,
    domain: Option<Name>,
    hosts: HashMap<Name, Vec<IpAddr>, foldhash::fast::RandomState>,
    /// Names that are there because others are below them.
    parents: HashSet<Name, foldhash::fast::RandomState>,
    names: HashMap<IpAddr, Name, foldhash::fast::RandomState>,
    localhost: Name,
    empty: Vec<Name>,
    resolver: Name,
    arpa4: Name,
    arpa6: Name,
    /// The name of this server.
    own: Name,
    hostmaster: Name,
}

impl Local {
    pub(super) fn new(spec: &Spec) -> Self {
        let root = fixed("");
        let domain = spec.domain.as_deref().and_then(Name::new);
        let zone = domain.as_ref().unwrap_or(&root);
        let mut local = Self {
            gateways: spec.gateways.clone(),
            hosts: HashMap::default(),
            parents: HashSet::default(),
            names: HashMap::default(),
            localhost: fixed("localhost"),
            empty: EMPTY.map(fixed).into(),
            resolver: fixed("resolver.arpa"),
            arpa4: fixed("in-addr.arpa"),
            arpa6: fixed("ip6.arpa"),
            own: fixed("gateway").below(zone).unwrap_or_else(|| root.clone()),
            hostmaster: fixed("hostmaster")
                .below(zone)
                .unwrap_or_else(|| root.clone()),
            domain,
        };
        for (name, addresses) in &spec.hosts {
            local.add(name, addresses);
        }
        let v4 = spec.gateways.v4.map(|(ip, _)| ip.into());
        let v6 = spec.gateways.v6.map(|(ip, _)| ip.into());
        let gateway: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
        local.add("gateway", &gateway);
        local.add("_gateway", &gateway);
        if !spec.host.is_empty() {
            local.add("host", &spec.host);
        }
        local
    }

    /// Adds a name with its addresses, in the domain too if it stands alone; what was there before stays.
    fn add(&mut self, text: &str, addresses: &[IpAddr]) {
        let Some(name) = Name::new(text).filter(|name| name.labels().next().is_some()) else {
            return;
        };
        let alone = name.labels().count() == 1;
        let full = self
            .domain
            .as_ref()
            .filter(|_| alone)
            .and_then(|domain| name.below(domain));
        for ip in addresses {
            let known = full.as_ref().unwrap_or(&name);
            self.names.entry(*ip).or_insert_with(|| known.clone());
        }
        for name in full.into_iter().chain([name]) {
            let mut parent = name.parent();
            while let Some(name) = parent.filter(|name| name.labels().next().is_some()) {
                parent = name.parent();
                self.parents.insert(name);
            }
            self.hosts.entry(name).or_insert_with(|| addresses.into());
        }
    }

    /// Answers a question about a name of this place; `None` stands for all others.
    pub(super) fn answer(&self, query: &Query, inside: &Inside, now: Now) -> Option<Vec<u8>> {
        let mut found = self.find(query, inside, now)?;
        let asked = query.key.kind;
        if asked == kind::ANY && found.exists {
            found.records = vec![everything()];
        } else {
            found.records.retain(|(kind, ..)| *kind == asked);
        }
        let code = if found.exists {
            rcode::NOERROR
        } else {
            rcode::NXDOMAIN
        };
        let mut reply = query.reply(flag::AA | flag::RA | code);
        for (kind, ttl, data) in &found.records {
            reply.add(Section::Answer, Owner::Question, *kind, *ttl, data);
        }
        if found.records.is_empty() {
            let (kind, ttl, data) = self.soa();
            reply.add(
                Section::Authority,
                Owner::Name(&found.zone),
                kind,
                ttl,
                &data,
            );
        }
        Some(reply.finish())
    }

    fn find(&self, query: &Query, inside: &Inside, now: Now) -> Option<Found> {
        let name = &query.key.name;
        if name.is_within(&self.localhost) {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Some(Found {
                zone: self.localhost.clone(),
                exists: true,
                records: addresses(&loopback, TTL),
            });
        }
        if let Some(zone) = self.empty.iter().find(|zone| name.is_within(zone)) {
            return Some(Found::nothing(zone.clone(), false));
        }
        if name.is_within(&self.resolver) {
            return Some(Found::nothing(self.resolver.clone(), true));
        }
        if name.is_within(&self.arpa4) || name.is_within(&self.arpa6) {
            return self.reverse(name, inside, now);
        }
        if let Some(domain) = self.domain.as_ref().filter(|zone| name.is_within(zone)) {
            return Some(self.in_domain(name, domain, inside, now));
        }
        let is_zone = [kind::NS, kind::SOA, kind::DS, kind::DNSKEY].contains(&query.key.kind);
        let is_address = [kind::A, kind::AAAA, kind::ANY].contains(&query.key.kind);
        let alone = name.labels().count() == 1;
        if let Some(known) = self.hosts.get(name) {
            return (is_address || alone && !is_zone).then(|| Found {
                zone: name.clone(),
                exists: true,
                records: addresses(known, TTL),
            });
        }
        if !alone || is_zone {
            return None;
        }
        let records = self.station(name, 1, inside, now)?;
        Some(Found {
            zone: name.clone(),
            exists: true,
            records,
        })
    }

    fn in_domain(&self, name: &Name, domain: &Name, inside: &Inside, now: Now) -> Found {
        let zone = domain.clone();
        if name == domain {
            let mut records = vec![self.soa(), (kind::NS, TTL, self.own.as_bytes().into())];
            if let Some(known) = self.hosts.get(name) {
                records.extend(addresses(known, TTL));
            }
            return Found {
                zone,
                exists: true,
                records,
            };
        }
        let labels = name.labels().count() - domain.labels().count();
        let known = self.hosts.get(name).map(|known| addresses(known, TTL));
        let records = known.or_else(|| self.station(name, labels, inside, now));
        Found {
            zone,
            exists: records.is_some() || self.parents.contains(name),
            records: records.unwrap_or_default(),
        }
    }

    /// Returns the addresses of the station whose name the first labels are.
    fn station(
        &self,
        name: &Name,
        labels: usize,
        inside: &Inside,
        now: Now,
    ) -> Option<Vec<(u16, u32, Vec<u8>)>> {
        let labels: Option<Vec<&str>> = name
            .labels()
            .take(labels)
            .map(|label| std::str::from_utf8(label).ok())
            .collect();
        let mac = inside.find_at(&labels?.join("."), now.wall)?;
        let mut records = Vec::new();
        for v6 in [false, true] {
            if let Some((ip, ttl)) = address_of(mac, v6, inside, now) {
                records.extend(addresses(&[ip], ttl));
            }
        }
        Some(records)
    }

    /// Answers for names of addresses, if they are ours to answer for.
    fn reverse(&self, name: &Name, inside: &Inside, now: Now) -> Option<Found> {
        let (net, is_exact) = read_reverse(name)?;
        let is_address = is_exact && net.prefix_len() == net.max_prefix_len();
        if let Some(target) = self.names.get(&net.addr()).filter(|_| is_address)
            && self.reverse_zone(net).is_none()
        {
            return Some(Found {
                zone: name.clone(),
                exists: true,
                records: vec![(kind::PTR, TTL, target.as_bytes().into())],
            });
        }
        let zone_bits = self.reverse_zone(net)?;
        let bits_per_label = if net.addr().is_ipv4() { 8 } else { 4 };
        let zone = name.last(usize::from(zone_bits.div_ceil(bits_per_label)) + 2);
        if !is_exact {
            return Some(Found::nothing(zone, false));
        }
        if !is_address {
            let mut found = Found::nothing(zone, true);
            if *name == found.zone {
                found.records = vec![self.soa(), (kind::NS, TTL, self.own.as_bytes().into())];
            }
            return Some(found);
        }
        let target = self.name_of(net.addr(), inside, now);
        Some(Found {
            zone,
            exists: target.is_some(),
            records: target
                .map(|target| (kind::PTR, TTL, target.as_bytes().into()))
                .into_iter()
                .collect(),
        })
    }

    /// Returns how many bits of an address name the zone that we answer for and that the net is in.
    fn reverse_zone(&self, net: IpNet) -> Option<u8> {
        let loopback4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        let loopback6 = Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128);
        let link6 = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
        match net {
            IpNet::V4(net) => {
                let own = self.gateways.v4.map(|(_, own)| own);
                let mut zones = own.into_iter().chain([loopback4]);
                zones
                    .find(|zone| zone.contains(&net))
                    .map(|zone| zone.prefix_len())
            }
            IpNet::V6(net) => {
                let own = self.gateways.v6.map(|(_, own)| own);
                let mut zones = own.into_iter().chain([loopback6, link6]);
                zones
                    .find(|zone| zone.contains(&net))
                    .map(|zone| zone.prefix_len())
            }
        }
    }

    fn name_of(&self, ip: IpAddr, inside: &Inside, now: Now) -> Option<Name> {
        if ip == IpAddr::from(Ipv4Addr::LOCALHOST) || ip == IpAddr::from(Ipv6Addr::LOCALHOST) {
            return Some(self.localhost.clone());
        }
        if self.gateways.link_local.is_some_and(|own| own == ip) {
            return Some(self.own.clone());
        }
        if let Some(known) = self.names.get(&ip) {
            return Some(known.clone());
        }
        // Only a name that leads back: another station may have it.
        let mac = inside.mac_of(ip)?;
        let known = inside.name_of(ip)?;
        let first = known.split('.').next()?;
        let text = [known, first]
            .into_iter()
            .find(|text| inside.find_at(text, now.wall) == Some(mac))?;
        let name = Name::new(text)?;
        match &self.domain {
            Some(domain) => name.below(domain),
            None => Some(name),
        }
    }

    fn soa(&self) -> (u16, u32, Vec<u8>) {
        let mut data = [self.own.as_bytes(), self.hostmaster.as_bytes()].concat();
        // Serial, refresh, retry, expire, and how long it may be kept that there is nothing.
        for number in [1, 3600, 600, 86400, NEGATIVE_TTL] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        (kind::SOA, NEGATIVE_TTL, data)
    }
}

impl Found {
    const fn nothing(zone: Name, exists: bool) -> Self {
        Self {
            zone,
            exists,
            records: Vec::new(),
        }
    }
}

/// Returns what is answered to whoever asks for everything.
pub(super) fn everything() -> (u16, u32, Vec<u8>) {
    (kind::HINFO, 3600, b"\x07RFC8482\x00".into())
}

fn addresses(addresses: &[IpAddr], ttl: u32) -> Vec<(u16, u32, Vec<u8>)> {
    let records = addresses.iter().map(|ip| address_record(*ip));
    records.map(|(kind, data)| (kind, ttl, data)).collect()
}

/// Returns an address of a station, and how long that may be kept.
fn address_of(mac: MacAddr, v6: bool, inside: &Inside, now: Now) -> Option<(IpAddr, u32)> {
    let ip = inside.address_of(mac, v6)?;
    match inside.lease_of(mac).filter(|(leased, _)| *leased == ip) {
        None => Some((ip, TTL)),
        Some((_, ends)) => {
            let left = ends.duration_since(now.wall).ok()?;
            let left = left.max(Duration::from_secs(1)).as_secs();
            Some((ip, u32::try_from(left).map_or(TTL, |left| left.min(TTL))))
        }
    }
}

/// Reads the addresses that a name of a reverse zone stands for, and tells whether it has no labels besides.
fn read_reverse(name: &Name) -> Option<(IpNet, bool)> {
    let mut labels: Vec<&[u8]> = name.labels().collect();
    labels.pop()?;
    let family = labels.pop()?;
    let read = |label: &[u8], radix: u32, longest: usize| {
        let plain = label.len() <= longest && label.iter().all(u8::is_ascii_alphanumeric);
        let text = std::str::from_utf8(label).ok().filter(|_| plain)?;
        let zeros = text.len() > 1 && text.starts_with('0');
        u8::from_str_radix(text, radix).ok().filter(|_| !zeros)
    };
    let count = labels.len();
    let mut used: u8 = 0;
    let labels = labels.iter().rev();
    let net = if family == b"in-addr" {
        let mut octets = [0; 4];
        let read = labels.map_while(|label| read(label, 10, 3));
        for (octet, value) in octets.iter_mut().zip(read) {
            *octet = value;
            used += 1;
        }
        IpNet::new(Ipv4Addr::from(octets).into(), used * 8)
    } else {
        let mut bits = 0u128;
        for value in labels.map_while(|label| read(label, 16, 1)).take(32) {
            used += 1;
            bits |= u128::from(value) << (128 - u32::from(used) * 4);
        }
        IpNet::new(Ipv6Addr::from(bits).into(), used * 4)
    };
    Some((net.ok()?, usize::from(used) == count))
}

fn fixed(text: &str) -> Name {
    Name::new(text).expect("names written here are names")
}
