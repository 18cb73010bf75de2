//! Multicast snooping: in each VLAN, which ports want which group (RFC 4541), learned from IGMP and MLD.
//!
//! # Theory of operation
//!
//! **When.** Without a querier nobody repeats what it wants, so frames to groups go to everyone. Snooping comes into
//! force in a domain, for IPv4 and IPv6 apart, once a general query that every host has to answer was heard and the
//! time to answer it is over (what the query says, but ten seconds at least, and one for the way). It ends
//! [`Groups::QUERIER`] after the last such query. A query that leaves more time than [`Groups::SLOWEST`] does not
//! count: members would be forgotten before they answer.
//!
//! ```text
//! no querier ──query──▶ heard ──time to answer──▶ in force
//!      ▲                  │                          │
//!      └──────────── 255 s without a query ──────────┘
//! ```
//!
//! **What.** A membership is a group's address and a port. It ends [`Groups::MEMBERSHIP`] after the last report of it
//! (later where a query is being answered just then), or [`Groups::LAST_MEMBER`] after a leave: meanwhile the querier
//! asks whether another host behind the port wants the group. Sources are not told apart. A frame shows a group's MAC
//! address only, which many groups share (RFC 1112, section 6.4); so it goes to who wants any of them.
//!
//! **Routers.** The ports where a query or a PIM hello was heard get every group, and they alone the reports: a host of
//! IGMPv1, IGMPv2 or MLDv1 that hears another's report keeps its own to itself. A query from 0.0.0.0 counts like any
//! other. The switch behind that port, which sends it in a querier's place, tells us nothing of the hosts behind it.
//!
//! **Always to everyone.** 224.0.0.0/24, IPv6 groups of link-local scope, and whatever is not an IP group: see
//! [`reach`]. By its MAC address alone, a group of 33:33:00:00:00:xx, 33:33:00:01:00:xx (ff02::1:x) or
//! 33:33:ff:xx:xx:xx (solicited nodes).
//!
//! **Limits.** A port has [`Groups::PORT_LIMIT`] memberships, and there are [`Groups::LIMIT`] groups. A report that does
//! not fit makes its port one that gets every group of the domain, until [`Groups::UNRECORDED`] after the last such
//! report. So nobody misses what it wants, and nothing changes for other ports: a guest that fills its share, or many
//! that fill the table, get what they would get without snooping. Of routers and such ports there is one entry for each
//! port and domain. Of a port's reports, [`Groups::RECORDS`] records are read in a second; those that are not
//! count as ones that do not fit.
//!
//! **What a guest can do to others.** With reports and leaves it speaks for its own port only. A query from it makes its
//! port a router's, and puts snooping into force if every host has to answer it; so the caller must hand over no query
//! that does not reach everyone in the domain. Where a guest is the only querier, a host that does not answer it (for
//! instance because it forged that host's own address) is forgotten. A caller who wants to be safe from that hands over
//! no queries of guests: those are what [`is_membership`] and goes to [`Reach::Everyone`].

use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::net::fdb::Key;
use crate::net::port::PortId;
use crate::net::vlan::Domain;
use crate::wire::be16;
use crate::wire::ethernet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, HEADER_LEN, MacAddr, TAG_LEN,
};
use crate::wire::igmp::{Igmp, Interest};
use crate::wire::mld::Mld;

mod reach;
mod scope;
#[cfg(test)]
mod tests;

pub use reach::{Reach, is_membership, reach};

use reach::{is_pim_hello_v4, is_pim_hello_v6};
use scope::{Due, Querier, Scope};

const ALL_SYSTEMS: MacAddr = MacAddr([0x01, 0x00, 0x5e, 0, 0, 1]);
const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Which ports a frame to a group goes to, uplinks aside.
#[derive(Clone, Copy, Debug)]
pub enum Recipients<'a> {
    /// Everyone in the domain.
    Everyone,
    /// These ports.
    Only(Ports<'a>),
}

/// The ports that want a group, and those that get every group.
#[derive(Clone, Copy, Debug)]
pub struct Ports<'a> {
    members: &'a [PortId],
    open: &'a [PortId],
}

impl<'a> Ports<'a> {
    /// Returns each port once.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = PortId> + 'a {
        let members = self.members.iter().copied();
        let open = self.open.iter().copied();
        open.chain(members.filter(move |port| self.open.binary_search(port).is_err()))
    }

    /// Tells whether a port is among them.
    #[inline]
    pub fn contains(self, port: PortId) -> bool {
        self.members.binary_search(&port).is_ok() || self.open.binary_search(&port).is_ok()
    }
}

/// A group as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupRow {
    /// The VLAN, 0 for the untagged domain.
    pub vlan: u16,
    /// The group's address.
    pub group: IpAddr,
    /// The ports that want it.
    pub ports: Vec<PortId>,
    /// When the last of them is forgotten unless it is heard again.
    pub expires: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of a group by its MAC address; `None` for what goes to everyone whoever wants it.
    #[inline]
    fn of(dst: MacAddr) -> Option<Self> {
        match dst.0 {
            [0x01, 0x00, 0x5e, 0, 0, _] => None,
            [0x01, 0x00, 0x5e, 0..0x80, _, _] => Some(Self::V4),
            [0x33, 0x33, 0, 0 | 1, 0, _] | [0x33, 0x33, 0xff, _, _, _] => None,
            [0x33, 0x33, _, _, _, _] => Some(Self::V6),
            _ => None,
        }
    }
}

/// Returns the MAC address to which a group's frames go (RFC 1112, section 6.4; RFC 2464, section 7).
fn mac_of(group: IpAddr) -> Option<MacAddr> {
    match group {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, a, b, c] = group.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c]))
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            Some(MacAddr([0x33, 0x33, a, b, c, d]))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Membership {
    port: PortId,
    address: IpAddr,
    expires: Instant,
}

/// The groups that share a MAC address in a domain.
#[derive(Debug)]
struct Group {
    domain: Domain,
    family: Family,
    /// By port and address.
    memberships: Vec<Membership>,
    /// The ports of `memberships`, for the way of a frame.
    ports: Vec<PortId>,
}

impl Group {
    fn find(&self, port: PortId, address: IpAddr) -> Result<usize, usize> {
        self.memberships
            .binary_search_by_key(&(port, address), |one| (one.port, one.address))
    }

    /// Keeps some memberships, and tells whether there are any.
    fn retain(
        &mut self,
        counts: &mut HashMap<PortId, usize, RandomState>,
        mut keep: impl FnMut(&Membership) -> bool,
    ) -> bool {
        let before = self.memberships.len();
        self.memberships.retain(|one| {
            let keep = keep(one);
            if !keep && let Some(count) = counts.get_mut(&one.port) {
                *count = count.saturating_sub(1);
            }
            keep
        });
        if self.memberships.len() != before {
            self.ports.clear();
            self.ports
                .extend(self.memberships.iter().map(|one| one.port));
            self.ports.dedup();
        }
        !self.memberships.is_empty()
    }
}

/// The groups of one network.
#[derive(Debug, Default)]
pub struct Groups {
    scopes: HashMap<Domain, Scope, RandomState>,
    groups: HashMap<Key, Group, RandomState>,
    /// How many memberships a port has.
    counts: HashMap<PortId, usize, RandomState>,
    /// How many records were read from a port, and since when.
    read: HashMap<PortId, (Instant, u32), RandomState>,
    /// Not after the first time at which something ends.
    due: Due,
    expired: Option<Instant>,
}

impl Groups {
    /// How long after its last general query a querier is taken for gone, and a router for one (RFC 9776, section 8.5).
    pub const QUERIER: Duration = Duration::from_secs(255);
    /// How long after the last report of it a membership ends (RFC 9776, section 8.4).
    pub const MEMBERSHIP: Duration = Duration::from_secs(260);
    /// How long after a leave a membership ends (RFC 9776, section 8.8 and 8.9).
    pub const LAST_MEMBER: Duration = Duration::from_secs(2);
    /// The least time that hosts have to answer a query; all that those of version 1 know.
    pub const SETTLING: Duration = Duration::from_secs(10);
    /// The most time a query may leave for answers; what IGMPv2 can say.
    pub const SLOWEST: Duration = Duration::from_millis(25_500);
    /// How many groups, by their MAC addresses, are recorded.
    pub const LIMIT: usize = 8192;
    /// How many memberships a port can have.
    pub const PORT_LIMIT: usize = 256;
    /// How many records of a port's reports are read in a second. A frame can have hundreds.
    pub const RECORDS: u32 = 4096;
    /// How long after the time that a query leaves an answer may still be on its way.
    pub const TRAVEL: Duration = Duration::from_secs(1);
    /// How long a port whose groups are not all recorded gets every group: surely until it was asked again.
    pub const UNRECORDED: Duration = Duration::from_secs(290);
    /// The least time between two rounds through the tables.
    const ROUND: Duration = Duration::from_millis(500);

    /// Starts without groups and queriers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads an IGMP or MLD message or a PIM hello that was let in from a port.
    ///
    /// The frame is whole, from the destination address on, its tag still on it. What is none of these, or is damaged,
    /// changes nothing.
    pub fn handle_frame(&mut self, domain: Domain, port: PortId, frame: &[u8], now: Instant) {
        let at = match be16(frame, HEADER_LEN - 2) {
            Some(ETHERTYPE_VLAN) => HEADER_LEN + TAG_LEN,
            Some(_) | None => HEADER_LEN,
        };
        let (Some(dst), Some(packet)) = (MacAddr::from_slice(frame), frame.get(at..)) else {
            return;
        };
        match be16(frame, at - 2) {
            Some(ETHERTYPE_IPV4) if is_pim_hello_v4(packet) => self.router(domain, port, now),
            Some(ETHERTYPE_IPV6) if is_pim_hello_v6(packet) => self.router(domain, port, now),
            Some(ETHERTYPE_IPV4) => match Igmp::parse(packet) {
                Some(Igmp::Query(query)) => {
                    let binding = query.binding && dst == ALL_SYSTEMS;
                    self.query(domain, Family::V4, binding.then_some(query.response), now);
                    self.router(domain, port, now);
                }
                Some(Igmp::Report(reports)) => {
                    let reports = reports.map(|(group, interest)| (group.into(), interest));
                    self.reports(domain, port, reports, now);
                }
                None => {}
            },
            Some(ETHERTYPE_IPV6) => match Mld::parse(packet) {
                Some(Mld::Query(query)) => {
                    let binding = query.binding && dst == ALL_NODES;
                    self.query(domain, Family::V6, binding.then_some(query.response), now);
                    self.router(domain, port, now);
                }
                Some(Mld::Report(reports)) => {
                    let reports = reports.map(|(group, interest)| (group.into(), interest));
                    self.reports(domain, port, reports, now);
                }
                None => {}
            },
            Some(_) | None => {}
        }
    }

    /// Returns the ports that a frame to a group goes to, if [`reach`] has it go to members.
    #[inline]
    pub fn recipients(&self, domain: Domain, dst: MacAddr) -> Recipients<'_> {
        let Some(family) = Family::of(dst) else {
            return Recipients::Everyone;
        };
        let Some(scope) = self.scopes.get(&domain) else {
            return Recipients::Everyone;
        };
        match scope.querier(family) {
            Some(Querier { in_force: true, .. }) => {}
            Some(_) | None => return Recipients::Everyone,
        }
        let group = self.groups.get(&Key::new(domain, dst));
        Recipients::Only(Ports {
            members: group.map_or(&[], |group| &group.ports),
            open: &scope.open_ports,
        })
    }

    /// Returns the ports behind which routers are: those that reports and leaves go to.
    #[inline]
    pub fn routers(&self, domain: Domain) -> &[PortId] {
        self.scopes
            .get(&domain)
            .map_or(&[], |scope| scope.routers.as_slice())
    }

    /// Gives a port that came up every group, until it will have been asked what it wants.
    ///
    /// A guest whose connection was made anew, or that came from another machine, does not know that it has to report.
    pub fn welcome(&mut self, port: PortId, now: Instant) {
        let until = now + Self::UNRECORDED;
        for scope in self.scopes.values_mut() {
            scope.add_unrecorded(port, until);
            self.due.note(until);
        }
    }

    /// Forgets what was heard from a port.
    pub fn forget(&mut self, port: PortId) {
        if self.counts.remove(&port).is_some_and(|count| count > 0) {
            let counts = &mut self.counts;
            self.groups
                .retain(|_, group| group.retain(counts, |one| one.port != port));
        }
        self.scopes.retain(|_, scope| {
            scope.forget(port);
            !scope.is_empty()
        });
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.expired.map(|expired| expired + Self::ROUND);
        self.due.0.max(self.due.0.and(round))
    }

    /// Puts snooping into force where it is time to, and removes what is over. Safe to call early or late.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        self.expired = Some(now);
        let mut due = Due::default();
        let (scopes, counts) = (&self.scopes, &mut self.counts);
        self.groups.retain(|_, group| {
            let querier = scopes
                .get(&group.domain)
                .and_then(|scope| scope.querier(group.family));
            group.retain(counts, |one| {
                // Who is being asked right now has time to answer.
                let latest = one.expires + Self::SLOWEST + Self::TRAVEL;
                let grace = querier.map(|querier| querier.answered.min(latest));
                let expires = one.expires.max(grace.unwrap_or(one.expires));
                let keep = expires > now;
                if keep {
                    due.note(expires);
                }
                keep
            })
        });
        self.counts.retain(|_, count| *count > 0);
        self.scopes.retain(|_, scope| {
            scope.expire(now, &mut due);
            !scope.is_empty()
        });
        self.due = due;
    }

    /// The groups by VLAN and address.
    pub fn rows(&self) -> Vec<GroupRow> {
        let mut all: Vec<(Domain, Membership)> = self
            .groups
            .values()
            .flat_map(|group| group.memberships.iter().map(|one| (group.domain, *one)))
            .collect();
        all.sort_unstable_by_key(|(domain, one)| (*domain, one.address, one.port));
        all.chunk_by(|(domain, one), (other_domain, other)| {
            (*domain, one.address) == (*other_domain, other.address)
        })
        .filter_map(|members| {
            let (domain, first) = members.first()?;
            Some(GroupRow {
                vlan: domain.number(),
                group: first.address,
                ports: members.iter().map(|(_, one)| one.port).collect(),
                expires: members.iter().map(|(_, one)| one.expires).max()?,
            })
        })
        .collect()
    }

    fn query(&mut self, domain: Domain, family: Family, response: Option<Duration>, now: Instant) {
        if let Some(response) = response.filter(|response| *response <= Self::SLOWEST) {
            let scope = self.scopes.entry(domain).or_default();
            self.due.note(scope.heard(family, response, now));
        }
    }

    fn router(&mut self, domain: Domain, port: PortId, now: Instant) {
        let until = now + Self::QUERIER;
        let scope = self.scopes.entry(domain).or_default();
        scope.add_router(port, until);
        self.due.note(until);
    }

    fn reports(
        &mut self,
        domain: Domain,
        port: PortId,
        reports: impl Iterator<Item = (IpAddr, Interest)>,
        now: Instant,
    ) {
        for (group, interest) in reports {
            let (since, read) = self.read.entry(port).or_insert((now, 0));
            if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
                (*since, *read) = (now, 0);
            }
            if *read == Self::RECORDS {
                self.unrecorded(domain, port, now);
                return;
            }
            *read += 1;
            self.report(domain, port, group, interest, now);
        }
    }

    /// Gives a port every group of a domain, until it will have been asked again.
    fn unrecorded(&mut self, domain: Domain, port: PortId, now: Instant) {
        let until = now + Self::UNRECORDED;
        self.scopes
            .entry(domain)
            .or_default()
            .add_unrecorded(port, until);
        self.due.note(until);
    }

    fn report(
        &mut self,
        domain: Domain,
        port: PortId,
        address: IpAddr,
        interest: Interest,
        now: Instant,
    ) {
        let Some(mac) = mac_of(address) else {
            return;
        };
        let Some(family) = Family::of(mac) else {
            return;
        };
        let key = Key::new(domain, mac);
        match interest {
            Interest::Wanted => {
                let expires = now + Self::MEMBERSHIP;
                let new = Membership {
                    port,
                    address,
                    expires,
                };
                if !self.record(key, domain, family, new) {
                    self.unrecorded(domain, port, now);
                }
                self.due.note(expires);
            }
            Interest::Gone => {
                if let Some(group) = self.groups.get_mut(&key)
                    && let Ok(at) = group.find(port, address)
                {
                    let one = &mut group.memberships[at];
                    one.expires = one.expires.min(now + Self::LAST_MEMBER);
                    self.due.note(one.expires);
                }
            }
        }
    }

    /// Records a membership or renews it; tells whether there was room.
    fn record(&mut self, key: Key, domain: Domain, family: Family, new: Membership) -> bool {
        let (known, room) = (self.groups.len(), self.counts.get(&new.port));
        let room = room.is_none_or(|count| *count < Self::PORT_LIMIT);
        let group = match self.groups.get_mut(&key) {
            Some(group) => group,
            None if room && known < Self::LIMIT => self.groups.entry(key).or_insert(Group {
                domain,
                family,
                memberships: Vec::new(),
                ports: Vec::new(),
            }),
            None => return false,
        };
        match group.find(new.port, new.address) {
            Ok(at) => group.memberships[at].expires = new.expires,
            Err(_) if !room => return false,
            Err(at) => {
                group.memberships.insert(at, new);
                if let Err(at) = group.ports.binary_search(&new.port) {
                    group.ports.insert(at, new.port);
                }
                *self.counts.entry(new.port).or_insert(0) += 1;
            }
        }
        true
    }
}
