//! Teams of uplinks: which uplink carries whom.
//!
//! # Theory of operation
//!
//! An uplink *works* for a policy if it has a link (for longer than the team's delays), if beacons come through where the policy
//! asks for them, and if LACP lets it send where the team speaks LACP. The uplinks that a policy *uses* are its active ones that work, and for each
//! that does not, the next standby that does; without failback, one that took another's place keeps it.
//!
//! By port number, a port's uplink is chosen when it is attached, and again only when that uplink is not used any more, or
//! when the one that it would have if all worked is back. By source address, by packet and by LACP each frame is divided among the uplinks in use. A
//! frame from outside reaches only those ports that its uplink carries (the reverse filter): else what a switch
//! floods would arrive once by each uplink. For a short while after a move, the former uplink still brings what was under way.
//!
//! Stations that move are announced by their new uplink (`announce`), at once and a few times more.
//!
//! What is not known here: which station is behind which port. The switch is told which ports moved, and has their stations announced.

use std::time::{Duration, Instant};

use crate::net::fdb::Key;
use crate::net::frame::{Head, Parsed};
use crate::net::neighbours::Neighbours;
use crate::net::port::{OwnFrames, PortId};
use crate::net::vlan::{Domain, Tag, VlanId};
use crate::wire::beacon::Beacon;
use crate::wire::cdp;
use crate::wire::ethernet::{ETHERTYPE_BEACON, MacAddr};
use crate::wire::lacp::{ETHERTYPE_SLOW, SLOW_PROTOCOLS};

use self::announce::{Announcer, Station};
use self::beacon::Beacons;
use self::lacp::Lacp;
use self::load::{Bytes, Loads};
use self::rule::{Attached, Rule, Use, Way, Why};
use self::uplink::Uplink;

pub mod announce;
pub mod beacon;
pub mod lacp;
pub mod load;
pub mod view;

mod balance;
mod recompute;
mod rule;
mod spec;
mod uplink;

pub use self::spec::{Detection, Hash, LoadBalancing, Policy, Spec};

/// What may become of an uplink that is added to a running team.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The last of the active ones.
    Active,
    /// The last of the standby ones.
    Standby,
}

/// By what a frame leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carrier<'a> {
    /// One uplink.
    One(PortId),
    /// Each of these, since it is not known which of them works.
    Each(&'a [PortId]),
    /// No uplink works.
    Nobody,
}

/// A team of uplinks.
#[derive(Debug)]
pub struct Team {
    up_delay: Duration,
    down_delay: Duration,
    uplinks: Vec<Uplink>,
    rules: Vec<Rule>,
    ports: Vec<Option<Attached>>,
    attached: u32,
    /// Ports whose stations have moved and are to be announced.
    moved: Vec<PortId>,
    /// Those of them of which some stations may not have moved.
    divided: Vec<PortId>,
    announcer: Announcer,
    lacp: Option<Lacp>,
    beacons: Option<Beacons>,
    loads: Option<Loads>,
    neighbours: Neighbours,
    /// Own frames that came back by another uplink, and when the last did.
    returned: Option<(u64, Instant)>,
}

impl Team {
    /// Starts a team without uplinks. `run` is to be another number each time.
    pub fn new(spec: Spec, run: u32, now: Instant) -> Self {
        let chassis = spec.discovery.chassis;
        let asks = |policy: &Policy| policy.detection == Detection::Beacon;
        let beacons = spec.policies.iter().any(asks);
        let by_load = |policy: &Policy| policy.load_balancing == LoadBalancing::LoadBased;
        let loads = spec.policies.iter().any(by_load);
        let own = |policy: &Policy| (policy.active.clone(), policy.standby.clone());
        let network = spec.policies.first().map(own);
        let rules = spec.policies.into_iter().map(|policy| Rule {
            follows: network.as_ref() == Some(&own(&policy)),
            policy,
            members: Vec::new(),
            used: Use::default(),
            former: None,
        });
        Self {
            up_delay: spec.up_delay,
            down_delay: spec.down_delay,
            uplinks: Vec::new(),
            rules: rules.collect(),
            ports: Vec::new(),
            attached: 0,
            moved: Vec::new(),
            divided: Vec::new(),
            announcer: Announcer::default(),
            lacp: spec.lacp.map(Lacp::new),
            beacons: beacons.then(|| Beacons::new(chassis, run, now)),
            loads: loads.then(|| Loads::new(now)),
            neighbours: Neighbours::new(spec.discovery),
            returned: None,
        }
    }

    /// Takes in an uplink, whose link is down at first.
    pub fn add_uplink(&mut self, port: PortId, name: &str, now: Instant) {
        self.uplinks.push(Uplink::new(port, name, now));
        self.neighbours.add(port, name);
        if let Some(beacons) = &mut self.beacons {
            beacons.add(port);
        }
        if let Some(lacp) = &mut self.lacp {
            lacp.add(port);
        }
        self.recompute(now);
    }

    /// Gives an uplink that is about to be added a place in every policy that has no uplinks of its own choice.
    pub fn assign(&mut self, name: &str, role: Role) {
        for rule in self.rules.iter_mut().filter(|rule| rule.follows) {
            match role {
                Role::Active => rule.policy.active.push(name.to_owned()),
                Role::Standby => rule.policy.standby.push(name.to_owned()),
            }
        }
    }

    /// Lets go of an uplink. What it carried moves.
    pub fn remove_uplink(&mut self, port: PortId, now: Instant) {
        let Some(at) = self.uplinks.iter().position(|uplink| uplink.port == port) else {
            return;
        };
        let Uplink { name, .. } = self.uplinks.remove(at);
        self.neighbours.remove(port);
        if let Some(beacons) = &mut self.beacons {
            beacons.remove(port);
        }
        if let Some(lacp) = &mut self.lacp {
            lacp.remove(port, now);
        }
        for rule in &mut self.rules {
            rule.forget(&name);
        }
        self.recompute(now);
    }

    /// Attaches a port that is no uplink, to be carried by one. `mac` is its own address, if it has one.
    pub fn attach(&mut self, port: PortId, policy: usize, mac: Option<MacAddr>, now: Instant) {
        if self.ports.len() <= port.index() {
            self.ports.resize_with(port.index() + 1, || None);
        }
        self.ports[port.index()] = Some(Attached {
            number: self.attached,
            policy,
            mac,
            way: Way::Fixed(None),
            settled: false,
            since: now,
            why: Why::Chosen,
            former: None,
        });
        self.attached = self.attached.wrapping_add(1);
        self.recompute(now);
    }

    /// Notes the address that a port has now.
    pub fn set_address(&mut self, port: PortId, mac: MacAddr) {
        if let Some(Some(attached)) = self.ports.get_mut(port.index()) {
            attached.mac = Some(mac);
        }
    }

    /// Tells what an uplink's adapter says of itself and of its link.
    pub fn set_link(
        &mut self,
        port: PortId,
        up: bool,
        adapter: Option<(MacAddr, Option<u64>)>,
        now: Instant,
    ) {
        let Some(uplink) = self.uplinks.iter_mut().find(|uplink| uplink.port == port) else {
            return;
        };
        uplink.follow(adapter);
        uplink.set_link(up, self.up_delay, self.down_delay, now);
        let (mac, speed) = (uplink.mac(), uplink.speed());
        self.neighbours.set_link(port, up, mac, now);
        if let Some(beacons) = &mut self.beacons {
            beacons.set_link(port, up, mac, now);
        }
        if let Some(lacp) = &mut self.lacp {
            lacp.set_link(port, up, mac, speed, now);
        }
        self.recompute(now);
    }

    /// By which uplink a frame from a port leaves.
    #[inline]
    pub fn carrier(&self, port: PortId, head: &Head, parsed: &Parsed) -> Carrier<'_> {
        match self.attached(port) {
            Some(Attached {
                way: Way::Fixed(Some(uplink)),
                ..
            }) => Carrier::One(*uplink),
            Some(Attached {
                way: Way::Policy,
                policy,
                ..
            }) => self.rules[*policy].divide(head, parsed),
            Some(Attached {
                way: Way::Fixed(None),
                ..
            })
            | None => Carrier::Nobody,
        }
    }

    /// Whether a frame from an uplink may reach a port: the reverse filter. `dst` is a station's address, or none for a group.
    #[inline]
    pub fn admits(&self, uplink: PortId, port: PortId, dst: Option<MacAddr>) -> bool {
        let Some(attached) = self.attached(port) else {
            return true;
        };
        match attached.way {
            Way::Fixed(Some(carrier)) if carrier == uplink => true,
            Way::Fixed(_) => self.admits_others(uplink, attached, dst),
            Way::Policy => self.rules[attached.policy].admits(uplink, dst, attached.mac),
        }
    }

    #[cold]
    fn admits_others(&self, uplink: PortId, attached: &Attached, dst: Option<MacAddr>) -> bool {
        let rule = &self.rules[attached.policy];
        let under_way =
            dst.is_some() && attached.former.is_some_and(|(former, _)| former == uplink);
        let filtered = rule.policy.reverse_filter || !rule.members.contains(&uplink);
        !filtered || under_way
    }

    /// Whether frames that come in by an uplink are taken at all: LACP says when.
    #[inline]
    pub fn listens(&self, uplink: PortId) -> bool {
        self.lacp
            .as_ref()
            .is_none_or(|lacp| lacp.may_receive(uplink))
    }

    /// Whether some uplink can carry the ports of a policy.
    pub fn carries(&self, policy: usize) -> bool {
        self.rules
            .get(policy)
            .is_some_and(|rule| !rule.used.places.is_empty())
    }

    /// Tells whether a frame that came in by an uplink is between switches and not for stations, judged by its head.
    #[inline]
    pub fn is_control(&self, head: &Head, parsed: &Parsed) -> bool {
        if parsed.tag != Tag::Untagged {
            return false;
        }
        parsed.dst.is_reserved()
            || parsed.dst == cdp::GROUP
            || parsed.ethertype == ETHERTYPE_BEACON
                && Beacon::parse(head.bytes().get(parsed.payload_at()..).unwrap_or_default())
                    .is_some()
    }

    /// Takes a frame that [is between switches](Self::is_control), whole.
    pub fn handle_control(
        &mut self,
        uplink: PortId,
        frame: &[u8],
        now: Instant,
        out: &mut OwnFrames,
    ) {
        let ethertype = crate::wire::be16(frame, 12).unwrap_or_default();
        let payload = frame.get(14..).unwrap_or_default();
        match ethertype {
            // The partner is at the other end of the wire. What was sent to another address may come from afar, by
            // switches that pass on what is only between others.
            ETHERTYPE_SLOW if frame.starts_with(&SLOW_PROTOCOLS.0) => {
                if self.handle_slow(uplink, payload, now, out) {
                    self.recompute(now);
                }
            }
            ETHERTYPE_BEACON => {
                let src = frame.get(6..).and_then(MacAddr::from_slice);
                if let (Some(src), Some(beacon)) = (src, Beacon::parse(payload))
                    && let Some(beacons) = &mut self.beacons
                    && beacons.handle_beacon(uplink, src, beacon, now)
                {
                    self.recompute(now);
                }
            }
            _ => {
                self.neighbours.handle_frame(uplink, frame, now);
            }
        }
    }

    /// Has LACP hear a PDU; tells whether other uplinks may send now. Who floods us with PDUs changes that once only.
    fn handle_slow(
        &mut self,
        uplink: PortId,
        payload: &[u8],
        now: Instant,
        out: &mut OwnFrames,
    ) -> bool {
        let Some(lacp) = &mut self.lacp else {
            return false;
        };
        let may_send = |lacp: &Lacp| -> Vec<bool> {
            let uplinks = self.uplinks.iter();
            uplinks.map(|uplink| lacp.may_send(uplink.port)).collect()
        };
        let before = may_send(lacp);
        lacp.handle_pdu(uplink, payload, now, out);
        before != may_send(lacp)
    }

    /// Notes that frames of a domain come in by an uplink.
    #[inline]
    pub fn see(&mut self, uplink: PortId, wire: Domain) {
        if let (Some(vlan), Some(uplink)) = (
            VlanId::new(wire.number()),
            self.uplinks.iter_mut().find(|other| other.port == uplink),
        ) {
            uplink.vlans.insert(vlan);
        }
    }

    /// Notes that a frame of our own came in by an uplink that does not carry its sender.
    pub fn note_returned(&mut self, now: Instant) {
        let count = self.returned.map_or(0, |(count, _)| count);
        self.returned = Some((count + 1, now));
    }

    /// Notes which IP address a station of this side says it has.
    #[inline]
    pub fn observe(&mut self, domain: Domain, head: &Head, parsed: &Parsed) {
        if Announcer::is_telling(parsed, head) {
            self.announcer.observe(domain, head, parsed);
        }
    }

    /// Notes which IP address a station outside says it has.
    #[inline]
    pub fn observe_outside(&mut self, domain: Domain, head: &Head, parsed: &Parsed) {
        if Announcer::is_telling(parsed, head) {
            self.announcer.observe_outside(domain, head, parsed);
        }
    }

    /// Forgets what stations said of themselves that are not known any more.
    pub fn retain_stations(&mut self, known: impl Fn(Key) -> bool) {
        self.announcer.retain(known);
    }

    /// Whether an uplink is the one that carries a station behind a port; none where any may, or none works. No uplink
    /// is the one while frames leave by each.
    pub fn is_carried_by(&self, port: PortId, mac: MacAddr, uplink: PortId) -> Option<bool> {
        let attached = self.attached(port)?;
        let rule = &self.rules[attached.policy];
        match attached.way {
            // What left by the former one just before may come back by this one.
            Way::Fixed(_) if attached.former.is_some() => Some(false),
            Way::Fixed(carrier) => carrier.map(|carrier| carrier == uplink),
            Way::Policy if rule.used.ambiguous => Some(false),
            // The partner takes its uplinks for one, so nothing comes back.
            Way::Policy if matches!(rule.policy.load_balancing, LoadBalancing::Lacp(_)) => {
                Some(true)
            }
            Way::Policy => rule.carrier_of(mac).map(|carrier| carrier == uplink),
        }
    }

    /// Takes the ports whose stations have moved to another uplink, or have one for the first time.
    pub fn take_moved(&mut self) -> Vec<PortId> {
        std::mem::take(&mut self.moved)
    }

    /// Has a port's stations announced as if it had moved: it has come up.
    pub fn note_up(&mut self, port: PortId) {
        self.divided.retain(|divided| *divided != port);
        if self.announces(port) && !self.moved.contains(&port) {
            self.moved.push(port);
        }
    }

    /// Has those of a port's stations announced that moved when the uplinks in use changed.
    fn note_divided(&mut self, port: PortId) {
        if self.announces(port) && !self.moved.contains(&port) {
            self.moved.push(port);
            self.divided.push(port);
        }
    }

    /// Stops to announce what is behind a port: it went down.
    pub fn note_down(&mut self, port: PortId) {
        self.moved.retain(|moved| *moved != port);
        self.divided.retain(|divided| *divided != port);
        self.announcer.forget(port);
    }

    /// Announces stations, the most important first; what is due leaves with [`Team::send_announcements`]. Of the stations
    /// behind a port that take different uplinks, those are left out that did not move.
    pub fn announce(&mut self, stations: &[Station], now: Instant) {
        let divided = std::mem::take(&mut self.divided);
        let moved = |station: &&Station| {
            !divided.contains(&station.port)
                || self
                    .attached(station.port)
                    .is_some_and(|attached| self.rules[attached.policy].has_moved(station.mac))
        };
        let stations: Vec<_> = stations.iter().filter(moved).copied().collect();
        self.announcer.announce(&stations, now);
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let uplinks = self.uplinks.iter().filter_map(Uplink::poll_timeout);
        let former = self.ports.iter().flatten();
        let former = former.filter_map(|attached| attached.former.map(|(_, until)| until));
        let rules = self.rules.iter();
        let places = rules.filter_map(|rule| rule.former.as_ref().map(|(_, until)| *until));
        uplinks
            .chain(former)
            .chain(places)
            .chain(self.announcer.poll_timeout())
            .chain(self.lacp.as_ref().and_then(Lacp::poll_timeout))
            .chain(self.beacons.as_ref().map(Beacons::poll_timeout))
            .chain(self.loads.as_ref().map(Loads::poll_timeout))
            .chain(self.neighbours.poll_timeout())
            .min()
    }

    /// Does what is due. `counted` tells what went through a port so far.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        counted: impl Fn(PortId) -> Bytes,
        out: &mut OwnFrames,
    ) {
        let mut changed = false;
        for uplink in &mut self.uplinks {
            changed |= uplink.handle_timeout(now);
        }
        for attached in self.ports.iter_mut().flatten() {
            attached.former = attached.former.filter(|(_, until)| *until > now);
        }
        for rule in &mut self.rules {
            rule.former.take_if(|(_, until)| *until <= now);
        }
        self.neighbours.handle_timeout(now, out);
        if let Some(beacons) = &mut self.beacons {
            beacons.handle_timeout(now, out);
        }
        if let Some(lacp) = &mut self.lacp {
            lacp.handle_timeout(now, out);
        }
        if changed || self.beacons.is_some() || self.lacp.is_some() {
            self.recompute(now);
        }
        if self
            .loads
            .as_ref()
            .is_some_and(|loads| loads.poll_timeout() <= now)
        {
            self.rebalance(counted, now);
        }
    }

    /// Sends the announcements that are due.
    pub fn send_announcements(&mut self, now: Instant, out: &mut OwnFrames) {
        let Self {
            announcer,
            ports,
            rules,
            ..
        } = self;
        let carrier = |station: &Station| {
            let attached = ports.get(station.port.index()).and_then(Option::as_ref);
            match attached.map(|attached| (attached.way, &rules[attached.policy])) {
                Some((Way::Fixed(Some(uplink)), _)) => Carrier::One(uplink),
                Some((Way::Policy, rule)) => rule.announcers(station.mac),
                Some((Way::Fixed(None), _)) | None => Carrier::Nobody,
            }
        };
        announcer.handle_timeout(now, carrier, out);
    }

    /// Says good-bye to the neighbours.
    pub fn shut_down(&mut self, out: &mut OwnFrames) {
        self.neighbours.shutdown(out);
    }

    #[inline]
    fn attached(&self, port: PortId) -> Option<&Attached> {
        self.ports.get(port.index()).and_then(Option::as_ref)
    }

    /// Whether what is behind a port is announced when it moves.
    fn announces(&self, port: PortId) -> bool {
        self.attached(port).is_some_and(|attached| {
            let policy = &self.rules[attached.policy].policy;
            policy.notify_switches && !policy.load_balancing.is_channel()
        })
    }
}
