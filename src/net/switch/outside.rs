//! Frames from uplinks.
//!
//! # Theory of operation
//!
//! The side of the uplinks is different: its addresses are not learned, since the outside world has no bounds. What
//! comes from an uplink for a station that is not on this side is dropped, and never goes to an uplink. A port gets only
//! what comes by the uplink that carries it (`team`): else what a switch outside floods would arrive by each.
//!
//! A frame from outside whose source is fixed to a port of this side is one of our own, come back, or somebody outside uses the
//! same address; it is dropped either way, and what comes by the very uplink that carries the station is taken for a
//! conflict, since no switch sends a frame back to where it came from. An address that was only learned here has moved outside
//! in this case, and is forgotten: else one forged frame would cut off the router.

use std::time::{Duration, Instant};

use super::many::is_between_switches;
use super::{Passing, Switch};
use crate::net::drops::DropReason;
use crate::net::fdb::Key;
use crate::net::frame::{Head, Parsed};
use crate::net::outbox::Outbox;
use crate::net::port::PortId;
use crate::net::vlan::{PortVlan, Tag};
use crate::wire::ethernet::{MacAddr, Tci};

/// How many conflicts are kept.
const KEPT: usize = 16;
/// How many frames make a conflict.
const FRAMES: u64 = 3;
/// How long after its last frame a conflict is over.
const OVER: Duration = Duration::from_secs(60);

/// An address of this side that somebody outside uses too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conflict {
    /// The address.
    pub mac: MacAddr,
    /// The port whose it is.
    pub port: PortId,
    /// The uplink by which the last frame came.
    pub uplink: PortId,
    /// How many came.
    pub frames: u64,
    last: Instant,
}

/// The conflicts of a network.
#[derive(Debug, Default)]
pub(super) struct Conflicts(Vec<Conflict>);

impl Conflicts {
    /// Forgets the conflicts behind an uplink that is gone: its number may be another port's soon.
    pub(super) fn forget(&mut self, uplink: PortId) {
        self.0.retain(|known| known.uplink != uplink);
    }

    /// Counts a frame; tells whether there are as many as make a conflict.
    fn note(&mut self, mac: MacAddr, port: PortId, uplink: PortId, now: Instant) -> bool {
        if let Some(known) = self.0.iter_mut().find(|known| known.mac == mac) {
            let over = now.saturating_duration_since(known.last) >= OVER;
            known.frames = if over { 1 } else { known.frames + 1 };
            (known.port, known.uplink, known.last) = (port, uplink, now);
            return known.frames >= FRAMES;
        }
        self.0
            .retain(|known| now.saturating_duration_since(known.last) < OVER);
        if self.0.len() < KEPT {
            self.0.push(Conflict {
                mac,
                port,
                uplink,
                frames: 1,
                last: now,
            });
        }
        false
    }
}

impl Switch {
    /// Decides where a frame from an uplink goes.
    #[inline]
    pub(super) fn forward_from_outside(
        &mut self,
        ingress: PortId,
        number: u16,
        head: &Head,
        parsed: &Parsed,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        if let Some(team) = &self.team {
            if team.is_control(head, parsed) {
                out.keep(number);
                return Ok(());
            }
            if !team.listens(ingress) {
                return Err(DropReason::ReverseFilter);
            }
        }
        if !parsed.src.is_station() {
            return Err(DropReason::BadSource);
        }
        if is_between_switches(parsed.dst) {
            return Err(DropReason::ReservedAddress);
        }
        let class = PortVlan::All.classify(parsed.tag, &self.private)?;
        if let Some(team) = &mut self.team {
            team.see(ingress, class.wire);
        }
        self.admit_from_outside(ingress, Key::new(class.domain, parsed.src))?;
        if let Some(team) = &mut self.team {
            team.observe_outside(class.domain, head, parsed);
        }
        let frame = Passing {
            ingress,
            number,
            class,
            isolated: false,
            head,
            parsed,
        };
        let passed = if parsed.dst.is_group() {
            self.flood_inside(&frame, out)
        } else {
            match self.lookup(Key::new(class.domain, parsed.dst)) {
                Some(port) if !self.admits(ingress, port, Some(parsed.dst)) => {
                    Err(DropReason::ReverseFilter)
                }
                Some(port) => self.deliver(port, &frame, out),
                None => self.deliver_to_trunk(&frame, out),
            }
        };
        let group = parsed.dst.is_group();
        if !self.promiscuous.is_empty() && (group || passed != Err(DropReason::ReverseFilter)) {
            // What one port gets comes by its uplink alone; what a switch outside floods comes by each.
            let single = passed.is_ok() && !group;
            self.mirror(&frame, out, |port| {
                single || self.admits(ingress, port, None)
            });
        }
        passed
    }

    #[inline]
    fn admits(&self, uplink: PortId, port: PortId, dst: Option<MacAddr>) -> bool {
        self.team
            .as_ref()
            .is_none_or(|team| team.admits(uplink, port, dst))
    }

    fn flood_inside(&self, frame: &Passing<'_>, out: &mut Outbox) -> Result<(), DropReason> {
        let filtered = std::cell::Cell::new(false);
        let passed = std::cell::Cell::new(false);
        self.flood(frame, out, |port| {
            let admitted = self.admits(frame.ingress, port, None);
            if admitted {
                passed.set(true);
            } else {
                filtered.set(true);
            }
            admitted
        });
        if filtered.get() && !passed.get() {
            return Err(DropReason::ReverseFilter);
        }
        Ok(())
    }

    /// Looks for a port of several domains whose address this is, and that has not been heard of in this domain yet.
    fn deliver_to_trunk(&self, frame: &Passing<'_>, out: &mut Outbox) -> Result<(), DropReason> {
        let dst = frame.parsed.dst;
        let own = |port: &&PortId| {
            self.slot(**port)
                .is_some_and(|slot| slot.member.mac == Some(dst))
        };
        match self.trunks.iter().find(own) {
            Some(port) if !self.admits(frame.ingress, *port, Some(dst)) => {
                Err(DropReason::ReverseFilter)
            }
            Some(port) => self.deliver(*port, frame, out),
            None => Err(DropReason::UnknownUnicast),
        }
    }

    /// Checks that a source is not one of this side.
    #[inline]
    fn admit_from_outside(&mut self, uplink: PortId, source: Key) -> Result<(), DropReason> {
        match self.fdb.find(source) {
            None => Ok(()),
            Some((port, fixed)) => self.judge_known(uplink, source, port, fixed),
        }
    }

    #[cold]
    fn judge_known(
        &mut self,
        uplink: PortId,
        source: Key,
        port: PortId,
        fixed: bool,
    ) -> Result<(), DropReason> {
        if fixed && !self.is_up(port) {
            return Ok(());
        }
        let mac = source.mac();
        let carried = match &self.team {
            Some(team) => team.is_carried_by(port, mac, uplink),
            None => Some(true),
        };
        match carried {
            Some(true) if fixed => {
                if self.conflicts.note(mac, port, uplink, self.now) {
                    self.give_address_back(port);
                }
            }
            None => {
                if let Some(team) = &mut self.team {
                    team.note_returned(self.now);
                }
            }
            Some(_) => {}
        }
        if fixed || carried == Some(false) {
            return Err(DropReason::Reflected);
        }
        self.fdb.unlearn(source);
        Ok(())
    }

    /// The addresses of this side that are used outside too.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.0.iter().filter(|conflict| {
            conflict.frames >= FRAMES && self.now.saturating_duration_since(conflict.last) < OVER
        })
    }

    /// The VLANs, by number, whose frames come in by some uplink and that no port of this side carries.
    pub fn unused_vlans(&self) -> Option<String> {
        let carried = |number: u16| {
            let tag = Tag::Tagged(Tci(number));
            let class = PortVlan::All.classify(tag, &self.private).ok();
            let hears =
                |port: &PortVlan| class.is_some_and(|class| port.egress(class, tag).is_some());
            let vlans = self.members.iter().filter_map(|port| self.slot(*port));
            vlans
                .map(|slot| &slot.member.vlan)
                .any(|vlan| vlan.carries_number(number) || hears(vlan))
        };
        self.team.as_ref()?.unused_vlans(carried)
    }
}
