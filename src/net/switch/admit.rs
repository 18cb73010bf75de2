//! From which addresses a port of this side may send, and what is learned of them.

use super::Switch;
use crate::net::drops::DropReason;
use crate::net::fdb::{Key, Learned};
use crate::net::port::PortId;
use crate::net::vlan::{PortVlan, Tag};
use crate::wire::ethernet::MacAddr;

impl Switch {
    /// Checks that a port may send from an address, and learns it.
    pub(super) fn admit(&mut self, ingress: PortId, source: Key) -> Result<(), DropReason> {
        let Some(slot) = self.slots.get_mut(ingress.index()).and_then(Option::as_mut) else {
            return Ok(());
        };
        let security = slot.member.security;
        let own = slot.member.mac.is_none_or(|mac| mac == source.mac());
        let first = !own && slot.member.takes_first && !slot.has_spoken;
        slot.has_spoken = true;
        let of_trunk = self.is_of_trunk(source, ingress);
        let own = own || first && !of_trunk && self.take_address(ingress, source);
        if !own && !security.forged_transmits {
            return Err(DropReason::ForgedSource);
        }
        if of_trunk {
            return Err(DropReason::SourceConflict);
        }
        let learns = own || security.mac_changes;
        let learned = if learns {
            self.fdb.learn(source, ingress)
        } else {
            match self.fdb.find(source) {
                Some((port, true)) if port != ingress => Learned::FixedAt(port),
                Some(_) | None => Learned::Full,
            }
        };
        match learned {
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

    /// Gives a port the address that it uses, in place of the one that nobody told it to use; tells whether it may have it.
    #[cold]
    fn take_address(&mut self, port: PortId, source: Key) -> bool {
        if self.belongs_to_another(port, source) {
            return false;
        }
        self.set_address(port, source.mac());
        true
    }

    /// Takes an address from a port that chose it itself, and that stations outside use: it is theirs. The port
    /// has the one again that it was to use, and chooses no other until it has been down.
    #[cold]
    pub(super) fn give_address_back(&mut self, port: PortId) {
        if let Some(suggested) = self.slot(port).and_then(|slot| slot.suggested) {
            self.set_address(port, suggested);
        }
    }

    fn set_address(&mut self, port: PortId, mac: MacAddr) {
        let Some(slot) = self.slots.get_mut(port.index()).and_then(Option::as_mut) else {
            return;
        };
        slot.fresh = None;
        let former = slot.member.mac.replace(mac);
        slot.suggested = slot.suggested.or(former);
        if let Ok(class) = slot.member.vlan.classify(Tag::Untagged, &self.private) {
            if let Some(former) = former {
                self.fdb.unfix(Key::new(class.domain, former), port);
            }
            self.fdb.fix(Key::new(class.domain, mac), port);
        }
        if let Some(team) = &mut self.team {
            team.set_address(port, mac);
        }
    }

    /// Whether an address is another port's, in some domain where both can speak. What was told is so while the port is
    /// down, too: a guest that restarts finds its address where it left it. An address that nobody told moves with its
    /// guest, which may be started at another port.
    fn belongs_to_another(&self, port: PortId, source: Key) -> bool {
        let own = self.slot(port).map(|slot| &slot.member.vlan);
        let meets = |vlan: &PortVlan| {
            let untagged = |vlan: &PortVlan| {
                let class = vlan.classify(Tag::Untagged, &self.private).ok();
                class.map(|class| class.domain)
            };
            let trunk = vlan.is_trunk() || own.is_some_and(PortVlan::is_trunk);
            trunk || untagged(vlan) == Some(source.domain())
        };
        self.members
            .iter()
            .filter(|other| **other != port)
            .any(|other| {
                self.slot(*other).is_some_and(|slot| {
                    let member = &slot.member;
                    member.mac == Some(source.mac())
                        && (!member.takes_first || self.is_up(*other))
                        && meets(&member.vlan)
                })
            })
    }

    /// Whether an address is that of another port of several domains, in one of which it may not have spoken yet.
    fn is_of_trunk(&self, source: Key, ingress: PortId) -> bool {
        let mut trunks = self.trunks.iter().filter(|trunk| **trunk != ingress);
        trunks.any(|trunk| {
            self.slot(*trunk).is_some_and(|slot| {
                let member = &slot.member;
                let number = source.domain().number();
                self.is_up(*trunk)
                    && member.mac == Some(source.mac())
                    && member.vlan.carries_number(number)
            })
        })
    }
}
