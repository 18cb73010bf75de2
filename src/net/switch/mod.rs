//! The switch: to which ports a frame goes, and in which form.
//!
//! # Theory of operation
//!
//! A frame from a port of this side is admitted if its source is a station's address and the port may send from it, classified into the
//! domain of its VLAN, its source learned (a refused frame teaches nothing), its destination looked up. What goes to
//! many goes to every member of the domain but the one the frame came from: broadcast to all, multicast to those that want the
//! group (where somebody asks them, `multicast`), frames to unknown stations to ports behind which there can be
//! stations that are not known, and to the uplink that carries the port (`team`).
//!
//! A port with an address of its own is not taught others unless its security policy lets it change addresses. So the
//! table is the authority on where the stations of this side are.
//!
//! What comes from outside is the business of `outside`.

use std::time::Instant;

use crate::net::drops::DropReason;
use crate::net::fdb::{Fdb, FdbRow, Key};
use crate::net::frame::{Head, Parsed};
use crate::net::guard::Guards;
use crate::net::member::Member;
use crate::net::multicast::{GroupRow, Groups};
use crate::net::outbox::{Egress, Outbox};
use crate::net::port::{OwnFrames, PortId};
use crate::net::storm::{self, Storm};
use crate::net::team::announce::Station;
use crate::net::team::load::Bytes;
use crate::net::team::{Carrier, Team};
use crate::net::vlan::{Class, Domain, PortVlan, PrivateVlans, Tag};
use crate::wire::ethernet::MacAddr;
use crate::wire::virtio_net::VirtioNetHeader;

use self::gate::Gate;
use self::outside::Conflicts;

mod admit;
mod gate;
mod many;
mod outside;

/// What of a port decides on frames that it brings.
#[derive(Debug)]
struct Slot {
    member: Member,
    /// The last source that needed no more learning, and the table's second and generation then.
    fresh: Option<(Key, u32, u64)>,
    /// Whether a frame came since the port is up.
    has_spoken: bool,
    /// The address that it was to use, once it has chosen another.
    suggested: Option<MacAddr>,
    storm: Option<Box<Storm>>,
}

impl Slot {
    /// Whether stations can be behind the port that are not known.
    const fn learns(&self) -> bool {
        self.member.security.mac_changes || self.member.mac.is_none()
    }
}

/// A frame on its way through the switch.
struct Passing<'a> {
    ingress: PortId,
    /// Its number in the burst.
    number: u16,
    class: Class,
    /// Whether it came from an isolated port.
    isolated: bool,
    head: &'a Head,
    parsed: &'a Parsed,
}

/// Whether a frame of this side was on the way to somebody, even if it cannot reach them.
const fn is_seen(passed: Result<(), DropReason>) -> bool {
    !matches!(
        passed,
        Err(DropReason::StormControl | DropReason::ReservedAddress)
    )
}

/// What kind of switch a network has.
#[derive(Debug, Default)]
pub struct Spec {
    /// The team that leads outside.
    pub team: Option<Team>,
    /// The secondary VLANs with their primaries.
    pub private: PrivateVlans,
    /// Whether multicast goes to those only that want it.
    pub snooping: bool,
}

/// The switch of one network.
#[derive(Debug)]
pub struct Switch {
    slots: Vec<Option<Slot>>,
    /// By number, as the slots.
    gates: Vec<Gate>,
    /// The ports of this side.
    members: Vec<PortId>,
    uplinks: Vec<PortId>,
    /// Those of this side that get everything that they may.
    promiscuous: Vec<PortId>,
    /// Those whose address can be in several domains.
    trunks: Vec<PortId>,
    fdb: Fdb,
    private: PrivateVlans,
    groups: Option<Groups>,
    team: Option<Team>,
    conflicts: Conflicts,
    /// The last destination, what it was found to be, and the table's generation and second then.
    recent: (Key, Option<PortId>, u64, u32),
    swept: Instant,
    now: Instant,
}

impl Switch {
    /// Starts a switch without ports.
    pub fn new(spec: Spec, now: Instant) -> Self {
        let nowhere = Key::new(Domain::UNTAGGED, MacAddr::ZERO);
        Self {
            slots: Vec::new(),
            gates: Vec::new(),
            members: Vec::new(),
            uplinks: Vec::new(),
            promiscuous: Vec::new(),
            trunks: Vec::new(),
            fdb: Fdb::new(now),
            private: spec.private,
            groups: spec.snooping.then(Groups::new),
            team: spec.team,
            conflicts: Conflicts::default(),
            recent: (nowhere, None, u64::MAX, 0),
            swept: now,
            now,
        }
    }

    /// Adds a port, down at first. Its own address is tied to it for good, in the domain of its untagged frames.
    pub fn add(&mut self, port: PortId, member: Member) {
        if self.slots.len() <= port.index() {
            self.slots.resize_with(port.index() + 1, || None);
            self.gates.resize(port.index() + 1, Gate::SHUT);
        }
        if member.uplink {
            self.uplinks.push(port);
        } else {
            self.members.push(port);
            if member.security.promiscuous {
                self.promiscuous.push(port);
            }
            if let Some(mac) = member.mac {
                if member.vlan.is_trunk() {
                    self.trunks.push(port);
                }
                if let Ok(class) = member.vlan.classify(Tag::Untagged, &self.private) {
                    self.fdb.fix(Key::new(class.domain, mac), port);
                }
            }
            if let Some(team) = &mut self.team {
                team.attach(port, member.policy, member.mac, self.now);
            }
        }
        let limited = member.storm != storm::Limits::default();
        self.gates[port.index()] = Gate {
            vlan: member.vlan.clone(),
            up: false,
            uplink: member.uplink,
            isolated: member.isolated,
            service_tags: member.service_tags,
        };
        self.slots[port.index()] = Some(Slot {
            fresh: None,
            has_spoken: false,
            suggested: None,
            storm: limited.then(|| Box::new(Storm::new(member.storm, self.now))),
            member,
        });
    }

    /// Removes an uplink. What it carried moves.
    pub fn remove_uplink(&mut self, port: PortId, own: &mut OwnFrames) {
        if let Some(slot) = self.slots.get_mut(port.index()) {
            *slot = None;
            self.gates[port.index()] = Gate::SHUT;
        }
        self.uplinks.retain(|uplink| *uplink != port);
        self.conflicts.forget(port);
        if let Some(groups) = &mut self.groups {
            groups.forget(port);
        }
        if let Some(team) = &mut self.team {
            team.remove_uplink(port, self.now);
        }
        self.settle(own);
    }

    /// The team, if there is one.
    pub const fn team(&self) -> Option<&Team> {
        self.team.as_ref()
    }

    /// The team, to be changed; [`Switch::settle`] is to be called afterwards.
    pub const fn team_mut(&mut self) -> Option<&mut Team> {
        self.team.as_mut()
    }

    /// Says whether frames can be handed to a port, and of an uplink, what its adapter says of itself. What was learned
    /// behind a port that goes down is forgotten.
    pub fn set_up(
        &mut self,
        port: PortId,
        up: bool,
        adapter: Option<(MacAddr, Option<u64>)>,
        own: &mut OwnFrames,
    ) {
        let Some(slot) = self.slots.get_mut(port.index()).and_then(Option::as_mut) else {
            return;
        };
        let gate = &mut self.gates[port.index()];
        if gate.up == up {
            return;
        }
        gate.up = up;
        slot.fresh = None;
        slot.has_spoken = false;
        let uplink = slot.member.uplink;
        self.fdb.forget(port);
        if let Some(groups) = &mut self.groups {
            if up && !uplink {
                groups.welcome(port, self.now);
            } else {
                groups.forget(port);
            }
        }
        match &mut self.team {
            Some(team) if uplink => team.set_link(port, up, adapter, self.now),
            Some(team) if up => team.note_up(port),
            Some(team) => team.note_down(port),
            None => {}
        }
        self.settle(own);
    }

    /// The address that belongs to a port, if one does.
    pub fn address(&self, port: PortId) -> Option<MacAddr> {
        self.slot(port).and_then(|slot| slot.member.mac)
    }

    /// Whether some uplink can carry a port; always so where there is no team.
    pub fn is_carried(&self, port: PortId) -> bool {
        let policy = self.slot(port).map_or(0, |slot| slot.member.policy);
        self.team.as_ref().is_none_or(|team| team.carries(policy))
    }

    /// Moves the switch's time on; once a burst is enough.
    #[inline]
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.fdb.set_now(now);
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Instant {
        let sweep = self.swept + Fdb::SWEEP;
        let team = self.team.as_ref().and_then(Team::poll_timeout);
        let groups = self.groups.as_ref().and_then(Groups::poll_timeout);
        team.into_iter().chain(groups).fold(sweep, Instant::min)
    }

    /// Does what is due: ages addresses and groups, and has the team do its part. `counted` tells what went through a
    /// port. Tells whether it was time to look for what operators should know.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        counted: impl Fn(PortId) -> Bytes,
        own: &mut OwnFrames,
    ) -> bool {
        self.set_now(now);
        if let Some(groups) = &mut self.groups {
            groups.handle_timeout(now);
        }
        let due = now >= self.swept + Fdb::SWEEP;
        if due {
            self.swept = now;
            self.fdb.sweep();
        }
        if let Some(team) = &mut self.team {
            team.handle_timeout(now, counted, own);
            if due {
                team.retain_stations(|key| self.fdb.lookup(key).is_some());
            }
        }
        self.settle(own);
        due
    }

    /// Announces the stations that have moved, and all that is due.
    pub fn settle(&mut self, own: &mut OwnFrames) {
        let Some(team) = &mut self.team else {
            return;
        };
        let moved = team.take_moved();
        if !moved.is_empty() {
            let (gates, fdb) = (&self.gates, &self.fdb);
            let stations: Vec<_> = fdb
                .behind(&moved)
                .into_iter()
                .filter_map(|(port, key)| {
                    let gate = gates.get(port.index()).filter(|gate| gate.up)?;
                    let class = match gate.vlan {
                        PortVlan::Private(private) => private.class(),
                        PortVlan::Untagged
                        | PortVlan::Access(_)
                        | PortVlan::All
                        | PortVlan::Trunk(_) => key.domain().into(),
                    };
                    Some(Station {
                        port,
                        mac: key.mac(),
                        domain: key.domain(),
                        wire: class.wire,
                    })
                })
                .collect();
            team.announce(&stations, self.now);
        }
        team.send_announcements(self.now, own);
    }

    /// Decides where a frame from `ingress` goes, and puts it into `out`.
    ///
    /// # Errors
    ///
    /// The frame must not pass.
    #[inline]
    pub fn forward(
        &mut self,
        ingress: PortId,
        number: u16,
        head: &Head,
        parsed: &Parsed,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        let Some(slot) = self.slots.get(ingress.index()).and_then(Option::as_ref) else {
            return Err(DropReason::PortDown);
        };
        let member = &slot.member;
        if member.uplink {
            return self.forward_from_outside(ingress, number, head, &{ *parsed }, out);
        }
        if !parsed.src.is_station() {
            return Err(DropReason::BadSource);
        }
        let class = member.vlan.classify(parsed.tag, &self.private)?;
        if parsed.stacked && !member.sends_stacked(class, &{ *parsed }) {
            return Err(DropReason::VlanNotAllowed);
        }
        if member.guards != Guards::OFF {
            member.guards.check(head, &{ *parsed })?;
        }
        let isolated = member.isolated;
        let source = Key::new(class.domain, parsed.src);
        if slot.fresh != Some((source, self.fdb.second(), self.fdb.generation())) {
            self.admit(ingress, source)?;
        }
        if let Some(team) = &mut self.team {
            team.observe(class.domain, head, &{ *parsed });
        }
        if !parsed.dst.is_group()
            && self.promiscuous.is_empty()
            && let Some(port) = self.lookup(Key::new(class.domain, parsed.dst))
            && port != ingress
            && let Some(action) = self.gate(port).passes(class, isolated, parsed)
        {
            let frame = number;
            out.push(port, Egress { frame, action });
            return Ok(());
        }
        // Copies, here and above: what only others look at need not be in memory for most frames, 6 % of all cycles.
        let frame = Passing {
            ingress,
            number,
            class,
            isolated,
            head,
            parsed: &{ *parsed },
        };
        self.forward_further(&frame, out)
    }

    /// Carries a frame of this side that is for many, or that is dropped, or that others are to see.
    #[inline(never)]
    fn forward_further(&mut self, frame: &Passing<'_>, out: &mut Outbox) -> Result<(), DropReason> {
        let dst = frame.parsed.dst;
        let passed = if dst.is_group() {
            self.forward_group(frame, out)
        } else {
            match self.lookup(Key::new(frame.class.domain, dst)) {
                Some(port) if port == frame.ingress => Err(DropReason::SamePort),
                Some(port) => self.deliver(port, frame, out),
                None => self.forward_unknown(frame, out),
            }
        };
        if !self.promiscuous.is_empty() && is_seen(passed) {
            self.mirror(frame, out, |_| true);
        }
        passed
    }

    #[inline]
    fn lookup(&mut self, key: Key) -> Option<PortId> {
        let (known, port, generation, second) = self.recent;
        if known == key && generation == self.fdb.generation() && second == self.fdb.second() {
            return port;
        }
        let port = self.fdb.lookup(key);
        self.recent = (key, port, self.fdb.generation(), self.fdb.second());
        port
    }

    #[inline]
    fn deliver(
        &self,
        port: PortId,
        frame: &Passing<'_>,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        let gate = self.gate(port);
        let action = gate
            .passes(frame.class, frame.isolated, frame.parsed)
            .ok_or_else(|| gate.reason(frame))?;
        out.push(
            port,
            Egress {
                frame: frame.number,
                action,
            },
        );
        Ok(())
    }

    /// Sends a frame of this side outside, by the uplink that carries it; tells whether there was one.
    #[inline]
    fn send_outside(&self, frame: &Passing<'_>, out: &mut Outbox) -> bool {
        let Some(team) = &self.team else {
            return self.send_by(&self.uplinks, frame, out);
        };
        match team.carrier(frame.ingress, frame.head, frame.parsed) {
            Carrier::One(uplink) => self.send_by(&[uplink], frame, out),
            Carrier::Each(uplinks) => self.send_by(uplinks, frame, out),
            Carrier::Nobody => false,
        }
    }

    #[inline]
    fn send_by(&self, uplinks: &[PortId], frame: &Passing<'_>, out: &mut Outbox) -> bool {
        let mut sent = false;
        for uplink in uplinks {
            sent |= self.deliver(*uplink, frame, out).is_ok();
        }
        sent
    }

    /// Reads a frame that the switch had kept for itself, whole: what it is told by switches outside, and who wants
    /// which group.
    pub fn handle_own(&mut self, ingress: PortId, frame: &[u8], own: &mut OwnFrames) {
        let mut head = Head::default();
        head.fill(frame, VirtioNetHeader::default());
        let Some(slot) = self.slots.get(ingress.index()).and_then(Option::as_ref) else {
            return;
        };
        let Ok(parsed) = head.parse() else {
            return;
        };
        if slot.member.uplink
            && let Some(team) = &mut self.team
            && team.is_control(&head, &parsed)
        {
            team.handle_control(ingress, frame, self.now, own);
            self.settle(own);
            return;
        }
        if let Some(groups) = &mut self.groups
            && let Ok(class) = slot.member.vlan.classify(parsed.tag, &self.private)
        {
            groups.handle_frame(class.domain, ingress, frame, self.now);
        }
    }

    #[inline]
    fn slot(&self, port: PortId) -> Option<&Slot> {
        self.slots.get(port.index()).and_then(Option::as_ref)
    }

    #[inline(always)]
    fn gate(&self, port: PortId) -> &Gate {
        self.gates.get(port.index()).unwrap_or(&Gate::SHUT)
    }

    fn is_up(&self, port: PortId) -> bool {
        self.gate(port).up
    }

    /// The forwarding table by VLAN and address.
    pub fn fdb_rows(&self) -> Vec<FdbRow> {
        self.fdb.rows()
    }

    /// The groups that somebody wants.
    pub fn group_rows(&self) -> Vec<GroupRow> {
        self.groups.as_ref().map_or_else(Vec::new, Groups::rows)
    }

    /// Tells whether the forwarding table takes no more addresses.
    pub fn is_fdb_full(&self) -> bool {
        self.fdb.is_full()
    }

    /// The ports that have learned as many addresses as a port can.
    pub fn full_ports(&self) -> Vec<PortId> {
        let mut ports: Vec<PortId> = self.fdb.full_ports().collect();
        ports.sort_unstable();
        ports
    }
}
