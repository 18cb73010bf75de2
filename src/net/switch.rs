//! The switch: to which ports a frame goes, and in which form.
//!
//! # Theory of operation
//!
//! A frame from a port is admitted if its source is a station's address and plausible there, classified into the
//! domain of its VLAN, its source learned (a refused frame teaches nothing), its destination looked up. Groups and
//! unknown stations go to every member of the domain but the one the frame came from.
//!
//! The side of the uplinks is different: its addresses are not learned, since the outside world has no bounds. What is
//! not on this side goes to the uplink; what comes from an uplink for a station that is not on this side is dropped; a
//! frame from an uplink never goes to an uplink. A frame from an uplink whose source is fixed to a port of this side is
//! one of our own, come back, and is dropped; a learned address that is seen outside is forgotten here.

use std::time::Instant;

use crate::net::drops::DropReason;
use crate::net::fdb::{Fdb, FdbRow, Key, Learned};
use crate::net::frame::Parsed;
use crate::net::guard::Guards;
use crate::net::port::PortId;
use crate::net::security::Security;
use crate::net::storm;
use crate::net::vlan::{Domain, PortVlan, PrivateVlans, Tag, TagAction};
use crate::wire::ethernet::MacAddr;

/// One frame of a burst that is to leave through a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Egress {
    /// Which frame of the burst.
    pub frame: u16,
    /// What becomes of its tag.
    pub action: TagAction,
}

/// What a burst's frames leave through, port by port.
#[derive(Debug, Default)]
pub struct Outbox {
    batches: Vec<Vec<Egress>>,
    touched: Vec<PortId>,
}

impl Outbox {
    /// Makes room for ports up to and including `port`.
    pub fn reserve(&mut self, port: PortId) {
        if self.batches.len() <= port.index() {
            self.batches.resize_with(port.index() + 1, Vec::new);
        }
    }

    #[inline]
    fn push(&mut self, port: PortId, egress: Egress) {
        let batch = &mut self.batches[port.index()];
        if batch.is_empty() {
            self.touched.push(port);
        }
        batch.push(egress);
    }

    /// Hands each batch to `carry`, and is empty afterwards.
    #[inline]
    pub fn drain(&mut self, mut carry: impl FnMut(PortId, &[Egress])) {
        while let Some(port) = self.touched.pop() {
            let batch = &mut self.batches[port.index()];
            carry(port, batch);
            batch.clear();
        }
    }
}

/// What the switch knows about a port.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// The VLANs it carries.
    pub vlan: PortVlan,
    /// Whether the outside world is behind it.
    pub uplink: bool,
    /// The address that belongs to it, if one does.
    pub mac: Option<MacAddr>,
    /// What it may do with other addresses; without an address of its own, everything.
    pub security: Security,
    /// What it may not send.
    pub guards: Guards,
    /// How much of what goes to many it may send.
    pub storm: storm::Limits,
    /// Whether it is kept from other ports that are isolated.
    pub isolated: bool,
    /// Whether frames pass that have a tag behind their tag, or an 802.1ad service tag.
    pub service_tags: bool,
    /// Which policy of the team says what carries it.
    pub policy: usize,
}

#[derive(Debug)]
struct Slot {
    member: Member,
    up: bool,
    /// The last source that needed no more learning, and the table's second and generation then.
    fresh: Option<(Key, u32, u64)>,
}

/// The switch of one network.
#[derive(Debug)]
pub struct Switch {
    slots: Vec<Option<Slot>>,
    members: Vec<PortId>,
    fdb: Fdb,
    private: PrivateVlans,
    /// The last destination, what it was found to be, and the table's generation and second then.
    recent: (Key, Option<PortId>, u64, u32),
    swept: Instant,
}

impl Switch {
    /// Starts a switch without ports.
    pub fn new(now: Instant) -> Self {
        let nowhere = Key::new(Domain::UNTAGGED, MacAddr::ZERO);
        Self {
            slots: Vec::new(),
            members: Vec::new(),
            fdb: Fdb::new(now),
            private: PrivateVlans::default(),
            recent: (nowhere, None, u64::MAX, 0),
            swept: now,
        }
    }

    /// Adds a port, down at first.
    pub fn add(&mut self, port: PortId, member: Member) {
        if self.slots.len() <= port.index() {
            self.slots.resize_with(port.index() + 1, || None);
        }
        self.slots[port.index()] = Some(Slot {
            member,
            up: false,
            fresh: None,
        });
        self.members.push(port);
    }

    /// Ties an address to a port for good, in the domain of the port's untagged frames.
    pub fn fix(&mut self, port: PortId, mac: MacAddr) {
        let vlan = self.slot(port).map(|slot| &slot.member.vlan);
        if let Some(Ok(class)) = vlan.map(|vlan| vlan.classify(Tag::Untagged, &self.private)) {
            self.fdb.fix(Key::new(class.domain, mac), port);
        }
    }

    /// Says whether frames can be handed to a port. What was learned behind a port that goes down is forgotten.
    pub fn set_up(&mut self, port: PortId, up: bool) {
        if let Some(slot) = self.slots.get_mut(port.index()).and_then(Option::as_mut)
            && slot.up != up
        {
            slot.up = up;
            slot.fresh = None;
            self.fdb.forget(port);
        }
    }

    /// Moves the switch's time on; once a burst is enough.
    #[inline]
    pub fn set_now(&mut self, now: Instant) {
        self.fdb.set_now(now);
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Instant {
        self.swept + Fdb::SWEEP
    }

    /// Removes aged addresses; tells whether it was time to.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = now >= self.poll_timeout();
        if due {
            self.swept = now;
            self.fdb.set_now(now);
            self.fdb.sweep();
        }
        due
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
        frame: u16,
        parsed: Parsed,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        let Parsed {
            dst,
            src,
            tag,
            stacked,
            ..
        } = parsed;
        let Some(slot) = self.slots.get_mut(ingress.index()).and_then(Option::as_mut) else {
            return Err(DropReason::PortDown);
        };
        if !src.is_station() {
            return Err(DropReason::BadSource);
        }
        let domain = slot.member.vlan.classify(tag, &self.private)?.domain;
        // Behind the tag that a switch takes off, another would say where the frame really goes.
        if stacked && !slot.member.service_tags && !slot.member.uplink {
            return Err(DropReason::VlanNotAllowed);
        }
        let uplink = slot.member.uplink;
        let source = Key::new(domain, src);
        if slot.fresh != Some((source, self.fdb.second(), self.fdb.generation())) {
            self.admit(ingress, source, uplink)?;
        }
        if dst.is_group() {
            self.flood(ingress, frame, domain, tag, out);
            return Ok(());
        }
        match self.lookup(Key::new(domain, dst)) {
            Some(port) if port == ingress => Err(DropReason::SamePort),
            Some(port) => self.deliver(port, frame, domain, tag, out),
            None if uplink => Err(DropReason::UnknownUnicast),
            None => {
                self.flood(ingress, frame, domain, tag, out);
                Ok(())
            }
        }
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

    /// Checks that a source is plausible at its port, and learns it.
    fn admit(&mut self, ingress: PortId, source: Key, uplink: bool) -> Result<(), DropReason> {
        if uplink {
            // Not remembered as fresh: whether it is on this side can change at any time.
            return match self.fdb.fixed_at(source) {
                Some(port) if self.is_up(port) => Err(DropReason::Reflected),
                Some(_) => Ok(()),
                // An address that was only learned here is where it was seen last: else a guest could cut off a station
                // outside by using its address once.
                None => {
                    self.fdb.unlearn(source);
                    Ok(())
                }
            };
        }
        match self.fdb.learn(source, ingress) {
            Learned::FixedAt(port) if self.is_up(port) => Err(DropReason::SourceConflict),
            Learned::Here => {
                let (second, generation) = (self.fdb.second(), self.fdb.generation());
                if let Some(slot) = self.slots.get_mut(ingress.index()).and_then(Option::as_mut) {
                    slot.fresh = Some((source, second, generation));
                }
                Ok(())
            }
            Learned::FixedAt(_) | Learned::Full => Ok(()),
        }
    }

    #[inline]
    fn deliver(
        &self,
        port: PortId,
        frame: u16,
        domain: Domain,
        tag: Tag,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        let Some(slot) = self.slot(port).filter(|slot| slot.up) else {
            return Err(DropReason::PortDown);
        };
        let action = slot
            .member
            .vlan
            .egress(domain.into(), tag)
            .ok_or(DropReason::VlanNotAllowed)?;
        out.push(port, Egress { frame, action });
        Ok(())
    }

    fn flood(&self, ingress: PortId, frame: u16, domain: Domain, tag: Tag, out: &mut Outbox) {
        let from_uplink = self.slot(ingress).is_some_and(|slot| slot.member.uplink);
        for port in &self.members {
            let Some(slot) = self.slot(*port) else {
                continue;
            };
            if *port == ingress || !slot.up || (from_uplink && slot.member.uplink) {
                continue;
            }
            if let Some(action) = slot.member.vlan.egress(domain.into(), tag) {
                out.push(*port, Egress { frame, action });
            }
        }
    }

    #[inline]
    fn slot(&self, port: PortId) -> Option<&Slot> {
        self.slots.get(port.index()).and_then(Option::as_ref)
    }

    fn is_up(&self, port: PortId) -> bool {
        self.slot(port).is_some_and(|slot| slot.up)
    }

    /// The forwarding table by VLAN and address.
    pub fn fdb_rows(&self) -> Vec<FdbRow> {
        self.fdb.rows()
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
