//! A translator's IPv6 addresses outside: by router advertisements, or static (RFC 4861, sections 6.3 and 7.2; RFC 4862).
//!
//! # Theory of operation
//!
//! An address is tentative for a second, in which it is asked whether somebody has it; if so, one that we made gets another
//! interface identifier, three times, and whatever is left is tried again after [`RETRY`]. The identifier is that of the
//! hardware address (EUI-64), so that operators know it; the others are made of the address, the prefix and a count, so they
//! are the same each time (as RFC 7217 has it, but for the secret).
//!
//! Routers are asked for when the link-local address is ours, after 4, 8 and so on up to 3600 s (RFC 7559), until one has
//! answered, and again when the last one has expired. What they advertise counts as long as they say, but for the rule of
//! two hours (RFC 4862, section 5.5.3). One address is used: the one that is used already as long as it is preferred, then
//! global ones before unique local ones, then what is valid at all.
//!
//! Limits: so many addresses, prefixes and routers; further ones are not heard. Not handled: DHCPv6, privacy addresses,
//! redirects, routes to more than everywhere.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv6Net;

use super::Random;
use crate::net::nat::Addressing6;
use crate::wire::ethernet::MacAddr;
use crate::wire::ipv6::{interface_identifier, solicited_node};
use crate::wire::mld;
use crate::wire::nd::{self, FOREVER, Preference, Prefix, RouterAdvertisement};

const ADDRESSES: usize = 8;
const PREFIXES: usize = 16;
const ROUTERS: usize = 8;
/// How long an address is tentative.
const TENTATIVE: Duration = Duration::from_secs(1);
/// How often another interface identifier is tried.
const TRIES: u8 = 3;
/// When an address that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How often an address is defended at most.
const DEFEND: Duration = Duration::from_secs(10);
/// How often groups are reported at most.
const REPORT: Duration = Duration::from_secs(1);
/// The first and the longest time after which routers are asked for again, in seconds.
const SOLICIT: (u64, u64) = (4, 3600);
const TWO_HOURS: Duration = Duration::from_secs(7200);
/// The smallest MTU of IPv6.
pub(super) const MIN_MTU: u16 = 1280;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// It will be asked then whether somebody has it.
    Wanted(Instant),
    /// It is asked whether somebody has it, until then.
    Tentative(Instant),
    Assigned,
    /// Somebody else has it; when it is tried again.
    Taken(Instant),
}

#[derive(Debug)]
struct Address {
    ip: Ipv6Addr,
    /// The prefix, where we made the address ourselves.
    made_of: Option<Ipv6Net>,
    tries: u8,
    stage: Stage,
    /// Until when it is to be used, and until when it is ours; `None` for ever.
    preferred: Option<Instant>,
    valid: Option<Instant>,
}

impl Address {
    fn new(ip: Ipv6Addr, made_of: Option<Ipv6Net>, now: Instant) -> Self {
        Self {
            ip,
            made_of,
            tries: 0,
            stage: Stage::Wanted(now),
            preferred: None,
            valid: None,
        }
    }
}

#[derive(Debug)]
struct Router {
    ip: Ipv6Addr,
    preference: Preference,
    until: Option<Instant>,
}

/// The IPv6 side of a translator outside.
#[derive(Debug)]
pub(super) struct V6 {
    mac: MacAddr,
    auto: bool,
    /// The link-local one first; none where there is no IPv6.
    addresses: Vec<Address>,
    on_link: Vec<(Ipv6Net, Option<Instant>)>,
    /// The one that wants to be used most first.
    routers: Vec<Router>,
    mtu: Option<u16>,
    managed: bool,
    /// How often routers were asked for, and when they are the next time.
    solicit: Option<(u32, Instant)>,
    chosen: Option<Ipv6Addr>,
    defended: Option<Instant>,
    /// When groups were reported last because somebody asked.
    reported: Option<Instant>,
}

/// Returns a time that a router told of; `None` for ever.
fn span(seconds: u32) -> Option<Duration> {
    (seconds != FOREVER).then(|| Duration::from_secs(seconds.into()))
}

/// Whether addresses can be of a prefix, and are not to be used longer than they are valid (RFC 4862, section 5.5.3).
fn is_sensible(prefix: &Prefix) -> bool {
    let ip = prefix.net.network();
    prefix.preferred <= prefix.valid && !ip.is_multicast() && !ip.is_unicast_link_local()
}

fn is_past(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until <= now)
}

/// Makes an address of a prefix of 64 bits.
fn make(net: Ipv6Net, mac: MacAddr, tries: u8) -> Ipv6Addr {
    let prefix = net.network().to_bits() & !u128::from(u64::MAX);
    let identifier = if tries == 0 {
        interface_identifier(mac)
    } else {
        let upper = (prefix >> 64) as u64;
        let mut random = Random::new(upper ^ mac.to_bits() << 8 ^ u64::from(tries));
        // Not one that could be a hardware address, or a reserved one (RFC 5453).
        random.wide() & !(0x0300_00ff_ff00_0000) | 1
    };
    (prefix | u128::from(identifier)).into()
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

impl V6 {
    pub(super) fn new(spec: Addressing6, mac: MacAddr, now: Instant) -> Self {
        let mut side = Self {
            mac,
            auto: matches!(spec, Addressing6::Auto),
            addresses: Vec::new(),
            on_link: Vec::new(),
            routers: Vec::new(),
            mtu: None,
            managed: false,
            solicit: None,
            chosen: None,
            defended: None,
            reported: None,
        };
        if spec == Addressing6::Off {
            return side;
        }
        let net = Ipv6Net::new_assert(LINK_LOCAL, 64);
        let link_local = Address::new(make(net, mac, 0), Some(net), now);
        side.addresses.push(link_local);
        if let Addressing6::Static { ip, net, router } = spec {
            side.addresses.push(Address::new(ip, None, now));
            side.on_link.push((net.trunc(), None));
            side.routers.extend(router.map(|ip| Router {
                ip,
                preference: Preference::Medium,
                until: None,
            }));
        }
        side
    }

    pub(super) fn is_on(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// The address that is used.
    #[inline]
    pub(super) const fn address(&self) -> Option<Ipv6Addr> {
        self.chosen
    }

    /// The address from which neighbours are asked.
    pub(super) fn source(&self) -> Option<Ipv6Addr> {
        let assigned = |address: &&Address| address.stage == Stage::Assigned;
        self.addresses.iter().find(assigned).map(|own| own.ip)
    }

    pub(super) fn is_own(&self, ip: Ipv6Addr) -> bool {
        let own = |address: &Address| address.ip == ip && address.stage == Stage::Assigned;
        self.addresses.iter().any(own)
    }

    /// Whether an address is reached without a router.
    #[inline]
    pub(super) fn is_on_link(&self, ip: Ipv6Addr) -> bool {
        ip.is_unicast_link_local() || self.on_link.iter().any(|(net, _)| net.contains(&ip))
    }

    /// The routers, the one that wants to be used most first.
    pub(super) fn routers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.routers.iter().map(|router| router.ip)
    }

    pub(super) const fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Somebody asks for the owner of an address, with `src` where it has one itself; `asker` is its hardware address.
    pub(super) fn handle_solicitation(
        &mut self,
        target: Ipv6Addr,
        src: Ipv6Addr,
        asker: MacAddr,
        now: Instant,
        out: &mut Vec<Vec<u8>>,
    ) {
        let own = self.addresses.iter().position(|own| own.ip == target);
        let Some(index) = own else { return };
        match self.addresses[index].stage {
            Stage::Assigned => out.push(nd::answer(self.mac, target, (asker, src))),
            // Two that want the same address at the same time both do without.
            Stage::Tentative(_) if src.is_unspecified() => self.give_up(index, now),
            Stage::Wanted(_) | Stage::Tentative(_) | Stage::Taken(_) => {}
        }
    }

    /// Somebody says that it has an address.
    pub(super) fn handle_claim(&mut self, target: Ipv6Addr, now: Instant, out: &mut Vec<Vec<u8>>) {
        let own = self.addresses.iter().position(|own| own.ip == target);
        let Some(index) = own else { return };
        match self.addresses[index].stage {
            Stage::Tentative(_) => self.give_up(index, now),
            Stage::Assigned => {
                let lately = |at| now.saturating_duration_since(at) < DEFEND;
                if !self.defended.is_some_and(lately) {
                    self.defended = Some(now);
                    out.push(nd::unsolicited(self.mac, target, false));
                }
            }
            Stage::Wanted(_) | Stage::Taken(_) => {}
        }
    }

    /// Somebody asks who wants which groups: those in which our addresses are asked for are reported again.
    pub(super) fn handle_query(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let source = self.source().filter(Ipv6Addr::is_unicast_link_local);
        let lately = |at| now.saturating_duration_since(at) < REPORT;
        let Some(source) = source.filter(|_| !self.reported.is_some_and(lately)) else {
            return;
        };
        self.reported = Some(now);
        let groups = self.addresses.iter().map(|own| solicited_node(own.ip));
        let mut groups: Vec<_> = groups.collect();
        groups.sort_unstable();
        groups.dedup();
        out.extend(
            groups
                .into_iter()
                .map(|group| mld::join(self.mac, source, group)),
        );
    }

    /// Does without an address, or makes another one of the same prefix.
    fn give_up(&mut self, index: usize, now: Instant) {
        let own = &mut self.addresses[index];
        match own.made_of {
            Some(net) if own.tries < TRIES => {
                own.tries += 1;
                own.ip = make(net, self.mac, own.tries);
                own.stage = Stage::Wanted(now);
            }
            Some(_) | None => own.stage = Stage::Taken(now + RETRY),
        }
    }

    /// Takes in what a router advertises.
    pub(super) fn handle_advertisement(
        &mut self,
        router: Ipv6Addr,
        heard: &RouterAdvertisement,
        now: Instant,
    ) {
        if !self.auto {
            return;
        }
        self.managed = heard.managed;
        self.hear_router(router, heard, now);
        if let Some(mtu) = heard.mtu.and_then(|mtu| u16::try_from(mtu).ok()) {
            self.mtu = Some(mtu).filter(|mtu| *mtu >= MIN_MTU).or(self.mtu);
        }
        for prefix in heard.prefixes.iter().filter(|prefix| is_sensible(prefix)) {
            if prefix.on_link {
                self.hear_on_link(prefix, now);
            }
            if prefix.autonomous && prefix.net.prefix_len() == 64 {
                self.hear_autonomous(prefix, now);
            }
        }
        self.choose(now);
    }

    fn hear_router(&mut self, ip: Ipv6Addr, heard: &RouterAdvertisement, now: Instant) {
        let known = self.routers.iter().position(|known| known.ip == ip);
        let known = known.map(|at| self.routers.remove(at));
        if heard.lifetime == 0 {
            self.solicit_if_alone(now);
            return;
        }
        self.solicit = None;
        if known.is_none() && self.routers.len() >= ROUTERS {
            return;
        }
        self.routers.push(Router {
            ip,
            preference: heard.preference,
            until: Some(now + Duration::from_secs(heard.lifetime.into())),
        });
        self.routers
            .sort_by_key(|router| (router.preference, router.ip));
    }

    fn solicit_if_alone(&mut self, now: Instant) {
        if self.auto && self.routers.is_empty() && self.solicit.is_none() {
            let wait = Duration::from_secs(SOLICIT.0);
            self.solicit = Some((1, now + wait));
        }
    }

    fn hear_on_link(&mut self, prefix: &Prefix, now: Instant) {
        let until = span(prefix.valid).map(|valid| now + valid);
        self.on_link.retain(|(net, _)| *net != prefix.net);
        if !is_past(until, now) && self.on_link.len() < PREFIXES {
            self.on_link.push((prefix.net, until));
        }
    }

    fn hear_autonomous(&mut self, prefix: &Prefix, now: Instant) {
        let preferred = span(prefix.preferred).map(|preferred| now + preferred);
        let valid = span(prefix.valid);
        let mut known = self.addresses.iter_mut();
        if let Some(own) = known.find(|own| own.made_of == Some(prefix.net)) {
            own.preferred = preferred;
            let left = own.valid.map(|valid| valid.saturating_duration_since(now));
            own.valid = match (valid, left) {
                (Some(told), Some(left)) if told <= TWO_HOURS && told <= left => {
                    Some(now + left.min(TWO_HOURS))
                }
                (Some(told), None) if told <= TWO_HOURS => Some(now + TWO_HOURS),
                (told, _) => told.map(|told| now + told),
            };
        } else if prefix.valid > 0 && self.addresses.len() < ADDRESSES {
            let mut own = Address::new(make(prefix.net, self.mac, 0), Some(prefix.net), now);
            own.preferred = preferred;
            own.valid = valid.map(|valid| now + valid);
            self.addresses.push(own);
        }
    }

    /// Chooses the address that is used.
    fn choose(&mut self, now: Instant) {
        let rank = |own: &&Address| {
            (
                is_past(own.preferred, now),
                Some(own.ip) != self.chosen,
                own.ip.is_unique_local(),
            )
        };
        let usable = |own: &&Address| {
            own.stage == Stage::Assigned
                && !own.ip.is_unicast_link_local()
                && !is_past(own.valid, now)
        };
        let best = self.addresses.iter().filter(usable).min_by_key(rank);
        self.chosen = best.map(|own| own.ip);
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let addresses = self.addresses.iter().flat_map(|own| {
            let stage = match own.stage {
                Stage::Wanted(at) | Stage::Tentative(at) | Stage::Taken(at) => Some(at),
                Stage::Assigned => None,
            };
            // What has passed is known.
            let preferred = own.preferred.filter(|at| *at > now);
            [stage, preferred, own.valid]
        });
        let on_link = self.on_link.iter().map(|(_, until)| *until);
        let routers = self.routers.iter().map(|router| router.until);
        let solicit = self.solicit.map(|(_, at)| at);
        addresses
            .chain(on_link)
            .chain(routers)
            .flatten()
            .chain(solicit)
            .min()
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) {
        self.addresses.retain(|own| !is_past(own.valid, now));
        self.on_link.retain(|(_, until)| !is_past(*until, now));
        self.routers.retain(|router| !is_past(router.until, now));
        let mac = self.mac;
        let mut up = false;
        for own in &mut self.addresses {
            match own.stage {
                Stage::Wanted(at) | Stage::Taken(at) if at <= now => {
                    if let (Stage::Taken(_), Some(net)) = (own.stage, own.made_of) {
                        own.tries = 0;
                        own.ip = make(net, mac, 0);
                    }
                    own.stage = Stage::Tentative(now + TENTATIVE);
                    let group = solicited_node(own.ip);
                    out.push(mld::join(mac, Ipv6Addr::UNSPECIFIED, group));
                    out.push(nd::probe(mac, own.ip));
                }
                Stage::Tentative(at) if at <= now => {
                    own.stage = Stage::Assigned;
                    up |= own.ip.is_unicast_link_local();
                    out.push(nd::unsolicited(mac, own.ip, false));
                }
                Stage::Wanted(_) | Stage::Taken(_) | Stage::Tentative(_) | Stage::Assigned => {}
            }
        }
        if up && self.auto && self.routers.is_empty() {
            self.solicit = Some((0, now));
        }
        self.solicit_if_alone(now);
        self.solicit(now, random, out);
        self.choose(now);
    }

    /// Asks for routers, where that is due.
    fn solicit(&mut self, now: Instant, random: &mut Random, out: &mut Vec<Vec<u8>>) {
        let source = self.source().filter(Ipv6Addr::is_unicast_link_local);
        let Some((tries, at)) = self.solicit else {
            return;
        };
        if at > now {
            return;
        }
        out.extend(source.map(|source| nd::solicit_routers(self.mac, source)));
        let seconds = (SOLICIT.0 << tries.min(16)).min(SOLICIT.1);
        // A tenth more or less.
        let millis = seconds * 900 + random.below(seconds * 200 + 1);
        self.solicit = Some((tries + 1, now + Duration::from_millis(millis)));
    }

    /// What an operator should know, one sentence each.
    pub(super) fn advisories(&self) -> Vec<String> {
        let taken = |own: &&Address| matches!(own.stage, Stage::Taken(_));
        let mut advisories: Vec<String> = self
            .addresses
            .iter()
            .filter(taken)
            .map(|own| {
                let ip = own.ip;
                format!("the NAT's address {ip} outside is used by another station")
            })
            .collect();
        if self.managed
            && !self
                .addresses
                .iter()
                .any(|own| own.made_of.is_some_and(|net| net.network() != LINK_LOCAL))
        {
            let text =
                "the network outside gives IPv6 addresses by DHCPv6 only, and the NAT has none";
            advisories.push(text.to_owned());
        }
        advisories
    }
}
