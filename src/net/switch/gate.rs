//! Which frames may leave by a port, and in which form.

use super::Passing;
use crate::net::drops::DropReason;
use crate::net::frame::Parsed;
use crate::net::vlan::{Class, PortVlan, TagAction};
use crate::wire::ethernet::ETHERTYPE_VLAN;

/// What of a port decides on frames that leave through it. Small and close together, since floods look at all of them.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) vlan: PortVlan,
    pub(super) up: bool,
    pub(super) uplink: bool,
    pub(super) isolated: bool,
    pub(super) service_tags: bool,
}

impl Gate {
    /// Where no port is.
    pub(super) const SHUT: Self = Self {
        vlan: PortVlan::Untagged,
        up: false,
        uplink: false,
        isolated: false,
        service_tags: false,
    };

    /// What becomes of a frame's tag on the way out of this port, if the frame may leave by it.
    // Not inlined by itself where most frames pass, since it is used in several places: 4 % of all cycles.
    #[inline(always)]
    pub(super) fn passes(
        &self,
        class: Class,
        isolated: bool,
        parsed: &Parsed,
    ) -> Option<TagAction> {
        let action = self.vlan.egress(class, parsed.tag)?;
        if parsed.stacked && !self.takes_stacked(action, parsed.ethertype) {
            return None;
        }
        (self.up & !(isolated & self.isolated)).then_some(action)
    }

    /// Whether the port gets a frame that has a tag behind its tag, or a service tag. Who reads tags would read the
    /// inner one where the outer one is taken off.
    #[cold]
    fn takes_stacked(&self, action: TagAction, ethertype: u16) -> bool {
        let bared = action == TagAction::Strip && ethertype == ETHERTYPE_VLAN;
        self.service_tags && !(bared && self.vlan.is_trunk())
    }

    /// Why a frame may not leave by this port.
    #[cold]
    pub(super) fn reason(&self, frame: &Passing<'_>) -> DropReason {
        let carried = self.vlan.egress(frame.class, frame.parsed.tag).is_some();
        if !self.up {
            DropReason::PortDown
        } else if !carried && matches!(self.vlan, PortVlan::Private(_))
            || carried && frame.isolated && self.isolated
        {
            DropReason::Isolated
        } else {
            DropReason::VlanNotAllowed
        }
    }
}
