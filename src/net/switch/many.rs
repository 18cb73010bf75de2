//! Frames that go to many: to groups, to stations that are not known, and to ports that get everything.

use super::{Passing, Slot, Switch};
use crate::net::drops::DropReason;
use crate::net::multicast::{self, Reach, Recipients};
use crate::net::outbox::{Egress, Outbox};
use crate::net::port::PortId;
use crate::net::storm;
use crate::wire::cdp;
use crate::wire::ethernet::MacAddr;

/// Where per-VLAN spanning tree is sent to.
const PVST: MacAddr = MacAddr([0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd]);

/// Whether frames to this address are for the next switch only, and not for stations.
#[inline]
pub(super) fn is_between_switches(dst: MacAddr) -> bool {
    dst.is_reserved() || dst == cdp::GROUP || dst == PVST
}

impl Switch {
    /// Carries a frame of this side to a group.
    pub(super) fn forward_group(
        &mut self,
        frame: &Passing<'_>,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        let dst = frame.parsed.dst;
        if is_between_switches(dst) {
            return Err(DropReason::ReservedAddress);
        }
        let kind = if dst == MacAddr::BROADCAST {
            storm::Kind::Broadcast
        } else {
            storm::Kind::Multicast
        };
        self.calm(frame.ingress, kind)?;
        self.flood(frame, out, |_| true);
        // A frame that nobody here wants may be wanted outside.
        self.send_outside(frame, out);
        Ok(())
    }

    /// Carries a frame of this side to a station that is not known.
    pub(super) fn forward_unknown(
        &mut self,
        frame: &Passing<'_>,
        out: &mut Outbox,
    ) -> Result<(), DropReason> {
        self.calm(frame.ingress, storm::Kind::UnknownUnicast)?;
        let dst = frame.parsed.dst;
        for port in &self.members {
            let Some(slot) = self.slot(*port).filter(|_| *port != frame.ingress) else {
                continue;
            };
            if (slot.learns() || slot.member.mac == Some(dst))
                && let Some(action) =
                    self.gate(*port)
                        .passes(frame.class, frame.isolated, frame.parsed)
            {
                out.push(
                    *port,
                    Egress {
                        frame: frame.number,
                        action,
                    },
                );
            }
        }
        if self.send_outside(frame, out) || self.uplinks.is_empty() {
            Ok(())
        } else {
            Err(DropReason::NoUplink)
        }
    }

    /// Lets what goes to many pass as often as the port may send it.
    fn calm(&mut self, ingress: PortId, kind: storm::Kind) -> Result<(), DropReason> {
        let now = self.now;
        let slot = self.slots.get_mut(ingress.index()).and_then(Option::as_mut);
        match slot.and_then(|slot| slot.storm.as_mut()) {
            Some(storm) => storm.admit(kind, now),
            None => Ok(()),
        }
    }

    /// Hands a group frame to those ports of this side that want it and that `wanted` admits.
    pub(super) fn flood(
        &self,
        frame: &Passing<'_>,
        out: &mut Outbox,
        wanted: impl Fn(PortId) -> bool,
    ) {
        let domain = frame.class.domain;
        let snooping = self.groups.as_ref();
        let Some(groups) = snooping.filter(|_| frame.parsed.dst != MacAddr::BROADCAST) else {
            return self.offer(&self.members, frame, out, wanted);
        };
        let reach = multicast::reach(frame.head, frame.parsed);
        match reach {
            Reach::Everyone => self.offer(&self.members, frame, out, &wanted),
            Reach::Routers => self.offer(groups.routers(domain), frame, out, &wanted),
            Reach::Members => match groups.recipients(domain, frame.parsed.dst) {
                Recipients::Everyone => self.offer(&self.members, frame, out, &wanted),
                Recipients::Only(ports) => {
                    for port in ports.iter() {
                        self.offer(&[port], frame, out, &wanted);
                    }
                }
            },
        }
        // Who is asked must have heard the question, and a guarded port is no router of multicast either.
        let asks = reach == Reach::Everyone;
        if multicast::is_membership(frame.head, frame.parsed) && !(asks && self.is_confined(frame))
        {
            out.keep(frame.number);
        }
    }

    /// Hands a frame to those of some ports of this side that may have it.
    #[inline]
    fn offer(
        &self,
        ports: &[PortId],
        frame: &Passing<'_>,
        out: &mut Outbox,
        wanted: impl Fn(PortId) -> bool,
    ) {
        for port in ports {
            let gate = self.gate(*port);
            if let Some(action) = gate.passes(frame.class, frame.isolated, frame.parsed)
                && *port != frame.ingress
                && !gate.uplink
                && wanted(*port)
            {
                out.push(
                    *port,
                    Egress {
                        frame: frame.number,
                        action,
                    },
                );
            }
        }
    }

    /// Shows a frame to those of the ports that get everything that `wanted` admits.
    #[cold]
    pub(super) fn mirror(
        &self,
        frame: &Passing<'_>,
        out: &mut Outbox,
        wanted: impl Fn(PortId) -> bool,
    ) {
        for port in &self.promiscuous {
            if *port != frame.ingress && !out.has(*port, frame.number) && wanted(*port) {
                // What it may not see, it does not.
                let _ = self.deliver(*port, frame, out);
            }
        }
    }

    /// Whether a frame does not reach everyone in its domain, or its port is guarded against being a router.
    fn is_confined(&self, frame: &Passing<'_>) -> bool {
        let guarded = |slot: &Slot| slot.member.guards.router_advertisement;
        frame.isolated
            || frame.class.wire != frame.class.domain
            || self.slot(frame.ingress).is_some_and(guarded)
    }
}
