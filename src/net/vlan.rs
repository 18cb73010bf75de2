//! VLAN membership of ports (IEEE 802.1Q): which frames a port may bring, and in which form it gets them.

use std::num::NonZeroU16;

use crate::net::drops::DropReason;
use crate::wire::ethernet::Tci;

/// An 802.1Q VLAN identifier, 1 to 4094.
///
/// 0 marks a priority tag and 4095 is reserved; neither names a VLAN, so neither can be held.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VlanId(NonZeroU16);

impl VlanId {
    /// Returns the VLAN with this number, if it is one.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(id) if number <= 4094 => Some(Self(id)),
            _ => None,
        }
    }

    /// Returns the number.
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

/// One broadcast domain of a network: the untagged one, or a VLAN.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Domain(u16);

impl Domain {
    /// The domain whose frames travel untagged on an uplink.
    pub const UNTAGGED: Self = Self(0);

    /// Returns the number of the VLAN, 0 for the untagged domain.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl From<VlanId> for Domain {
    fn from(vlan: VlanId) -> Self {
        Self(vlan.number())
    }
}

/// The VLAN tag a frame arrived with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tag {
    /// No tag.
    Untagged,
    /// A tag; its VLAN identifier may be 0 (a priority tag) or 4095 (reserved).
    Tagged(Tci),
}

/// Which VLANs a port carries, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PortVlan {
    /// The untagged domain only (ESXi's VLAN 0).
    Untagged,
    /// One VLAN, untagged towards the port (ESXi's virtual switch tagging).
    Access(VlanId),
    /// Every VLAN with its tag, and the untagged domain without (ESXi's virtual guest tagging, and uplinks).
    All,
}

/// What becomes of a frame's tag on the way out of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TagAction {
    /// The frame leaves as it came.
    Keep,
    /// The outer tag is taken off.
    Strip,
    /// A tag is put on.
    Insert(Tci),
    /// The outer tag is written anew.
    Replace(Tci),
}

impl PortVlan {
    /// Returns the domain that an ingress frame belongs to.
    ///
    /// # Errors
    ///
    /// The port does not carry the VLAN of the frame's tag, or the tag is the reserved 4095.
    pub fn classify(self, tag: Tag) -> Result<Domain, DropReason> {
        let vid = match tag {
            Tag::Untagged => 0,
            Tag::Tagged(tci) => tci.vid(),
        };
        match (self, VlanId::new(vid)) {
            (Self::Untagged | Self::All, None) if vid == 0 => Ok(Domain::UNTAGGED),
            (Self::Access(vlan), None) if vid == 0 => Ok(vlan.into()),
            (Self::All, Some(vlan)) => Ok(vlan.into()),
            _ => Err(DropReason::VlanNotAllowed),
        }
    }

    /// Returns what is to be done to the tag of a frame of `domain` that leaves through this port;
    /// `None` where the port does not carry the domain.
    ///
    /// The priority of a tag survives where the port's frames are tagged.
    pub fn egress(self, domain: Domain, tag: Tag) -> Option<TagAction> {
        let untagged = match tag {
            Tag::Untagged => TagAction::Keep,
            Tag::Tagged(_) => TagAction::Strip,
        };
        match self {
            Self::Untagged => (domain == Domain::UNTAGGED).then_some(untagged),
            Self::Access(vlan) => (domain == Domain::from(vlan)).then_some(untagged),
            Self::All if domain == Domain::UNTAGGED => Some(TagAction::Keep),
            Self::All => Some(match tag {
                Tag::Untagged => TagAction::Insert(Tci(domain.number())),
                Tag::Tagged(tci) if tci.vid() == domain.number() => TagAction::Keep,
                Tag::Tagged(tci) => TagAction::Replace(tci.with_vid(domain.number())),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    #[test]
    fn only_1_to_4094_name_a_vlan() {
        assert_eq!(VlanId::new(0), None);
        assert_eq!(VlanId::new(4095), None);
        assert_eq!(vlan(1).number(), 1);
        assert_eq!(vlan(4094).number(), 4094);
    }

    #[test]
    fn every_kind_of_port_classifies_every_kind_of_tag() {
        let (untagged, priority, ten, reserved) = (
            Tag::Untagged,
            Tag::Tagged(Tci(0xe000)),
            Tag::Tagged(Tci(10)),
            Tag::Tagged(Tci(4095)),
        );
        let none = Err(DropReason::VlanNotAllowed);
        let (native, of_ten) = (Ok(Domain::UNTAGGED), Ok(Domain::from(vlan(10))));
        for (port, expected) in [
            (PortVlan::Untagged, [native, native, none, none]),
            (PortVlan::Access(vlan(10)), [of_ten, of_ten, none, none]),
            (PortVlan::All, [native, native, of_ten, none]),
        ] {
            assert_eq!(
                [untagged, priority, ten, reserved].map(|tag| port.classify(tag)),
                expected,
                "{port:?}"
            );
        }
    }

    #[test]
    fn tags_leave_in_the_form_that_the_port_wants() {
        let ten = Domain::from(vlan(10));
        let tagged = Tag::Tagged(Tci(0x600a));
        let priority = Tag::Tagged(Tci(0x6000));
        assert_eq!(PortVlan::Untagged.egress(ten, tagged), None);
        assert_eq!(PortVlan::Access(vlan(11)).egress(ten, tagged), None);
        assert_eq!(
            PortVlan::Access(vlan(10)).egress(ten, tagged),
            Some(TagAction::Strip)
        );
        assert_eq!(
            PortVlan::Access(vlan(10)).egress(ten, Tag::Untagged),
            Some(TagAction::Keep)
        );
        assert_eq!(
            PortVlan::All.egress(ten, Tag::Untagged),
            Some(TagAction::Insert(Tci(10)))
        );
        assert_eq!(PortVlan::All.egress(ten, tagged), Some(TagAction::Keep));
        assert_eq!(
            PortVlan::All.egress(ten, priority),
            Some(TagAction::Replace(Tci(0x600a))),
            "the priority is preserved"
        );
        assert_eq!(
            PortVlan::All.egress(Domain::UNTAGGED, priority),
            Some(TagAction::Keep)
        );
        assert_eq!(
            PortVlan::Untagged.egress(Domain::UNTAGGED, priority),
            Some(TagAction::Strip)
        );
    }
}
