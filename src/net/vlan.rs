//! VLAN membership of ports (IEEE 802.1Q): which frames a port may bring, and in which form it gets them.
//!
//! # Theory of operation
//!
//! A frame that comes in is put into a [`Class`]: the domain in which its addresses are looked up, and the number under
//! which it travels where it is tagged. Both are the same but in a private VLAN (RFC 5517): its ports share the domain of the primary
//! VLAN, and what isolated and community ports send travels under the number of their secondary VLAN, so that every
//! switch on the way knows from which kind of port it came.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

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

/// A set of VLANs, asked in a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VlanSet(Box<[u64; 64]>);

impl Default for VlanSet {
    fn default() -> Self {
        Self(Box::new([0; 64]))
    }
}

impl VlanSet {
    /// Adds a VLAN; tells whether it is new.
    pub fn insert(&mut self, vlan: VlanId) -> bool {
        let (word, bit) = Self::place(vlan.number());
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Tells whether a VLAN is among them.
    pub fn contains(&self, vlan: VlanId) -> bool {
        let (word, bit) = Self::place(vlan.number());
        self.0[word] & bit != 0
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The VLANs in their order.
    pub fn iter(&self) -> impl Iterator<Item = VlanId> + '_ {
        (1..=4094)
            .filter_map(VlanId::new)
            .filter(|vlan| self.contains(*vlan))
    }

    const fn place(number: u16) -> (usize, u64) {
        ((number >> 6) as usize, 1 << (number & 63))
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(vlans: I) -> Self {
        let mut set = Self::default();
        for vlan in vlans {
            set.insert(vlan);
        }
        set
    }
}

impl fmt::Display for VlanSet {
    /// Writes ranges and single VLANs in their order, as in `20-29,40`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.iter().map(VlanId::number).peekable();
        let mut comma = "";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
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

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Class {
    /// The domain in which its addresses are looked up.
    pub domain: Domain,
    /// The domain under whose number it travels where it is tagged: another one only in a private VLAN, the secondary.
    pub wire: Domain,
}

impl From<Domain> for Class {
    fn from(domain: Domain) -> Self {
        Self {
            domain,
            wire: domain,
        }
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
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum PortVlan {
    /// The untagged domain only (ESXi's VLAN 0).
    #[default]
    Untagged,
    /// One VLAN, untagged towards the port (ESXi's virtual switch tagging).
    Access(VlanId),
    /// Every VLAN with its tag, and the untagged domain without (ESXi's virtual guest tagging, and uplinks).
    All,
    /// Some VLANs with their tags, and at most one domain without.
    Trunk(Arc<Trunk>),
    /// A port of a private VLAN, untagged towards the port.
    Private(PrivatePort),
}

/// What a trunk or hybrid port carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trunk {
    /// The VLANs that travel with their tags.
    pub tagged: VlanSet,
    /// The domain that travels untagged, if one does; not among the tagged.
    pub untagged: Option<Domain>,
}

/// A port's place in a private VLAN (RFC 5517).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PrivatePort {
    /// The primary VLAN.
    pub primary: VlanId,
    /// With whom the port talks.
    pub role: PrivateRole,
}

/// With whom a port of a private VLAN talks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PrivateRole {
    /// With every port of the private VLAN.
    Promiscuous,
    /// With promiscuous ports only.
    Isolated(VlanId),
    /// With promiscuous ports, and those of the same secondary VLAN.
    Community(VlanId),
}

/// The secondary VLANs of a network, each with its primary.
#[derive(Clone, Debug, Default)]
pub struct PrivateVlans(Option<Box<[u16; 4096]>>);

impl PrivateVlans {
    /// Notes that `secondary` belongs to `primary`.
    pub fn insert(&mut self, secondary: VlanId, primary: VlanId) {
        let map = self.0.get_or_insert_with(|| Box::new([0; 4096]));
        map[usize::from(secondary.number())] = primary.number();
    }

    /// Returns where a frame with the tag of this VLAN belongs.
    #[inline]
    fn class(&self, vlan: VlanId) -> Class {
        let wire = Domain::from(vlan);
        match &self.0 {
            Some(map) if map[usize::from(vlan.number())] != 0 => Class {
                domain: Domain(map[usize::from(vlan.number())]),
                wire,
            },
            Some(_) | None => wire.into(),
        }
    }
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
    /// Returns where an ingress frame belongs.
    ///
    /// # Errors
    ///
    /// The port does not carry the VLAN of the frame's tag, or the tag is the reserved 4095.
    #[inline(always)]
    pub fn classify(&self, tag: Tag, private: &PrivateVlans) -> Result<Class, DropReason> {
        let vid = match tag {
            Tag::Untagged => 0,
            Tag::Tagged(tci) => tci.vid(),
        };
        let vlan = VlanId::new(vid);
        match (self, vlan) {
            (Self::Untagged | Self::All, None) if vid == 0 => Ok(Domain::UNTAGGED.into()),
            (Self::Access(vlan), None) if vid == 0 => Ok(Domain::from(*vlan).into()),
            (Self::Private(port), None) if vid == 0 => Ok(port.class()),
            (Self::Trunk(trunk), None) if vid == 0 => match trunk.untagged {
                Some(domain) => Ok(domain.into()),
                None => Err(DropReason::VlanNotAllowed),
            },
            (Self::All, Some(vlan)) => Ok(private.class(vlan)),
            (Self::Trunk(trunk), Some(vlan)) if trunk.tagged.contains(vlan) => {
                Ok(private.class(vlan))
            }
            _ => Err(DropReason::VlanNotAllowed),
        }
    }

    /// Returns what is to be done to the tag of a frame of `class` that leaves through this port;
    /// `None` where the port does not carry it.
    ///
    /// The priority of a tag survives where the port's frames are tagged.
    #[inline(always)]
    pub fn egress(&self, class: Class, tag: Tag) -> Option<TagAction> {
        let untagged = match tag {
            Tag::Untagged => TagAction::Keep,
            Tag::Tagged(_) => TagAction::Strip,
        };
        match self {
            Self::Untagged => (class.domain == Domain::UNTAGGED).then_some(untagged),
            Self::Access(vlan) => (class.domain == Domain::from(*vlan)).then_some(untagged),
            Self::Private(port) => port.hears(class).then_some(untagged),
            Self::All if class.wire == Domain::UNTAGGED => Some(TagAction::Keep),
            Self::All => Some(tagged(class.wire, tag)),
            Self::Trunk(trunk) if trunk.untagged == Some(class.wire) => Some(untagged),
            Self::Trunk(trunk) => VlanId::new(class.wire.number())
                .filter(|vlan| trunk.tagged.contains(*vlan))
                .map(|_| tagged(class.wire, tag)),
        }
    }

    /// Tells whether the port carries several domains, so that no single one is its own.
    pub const fn is_trunk(&self) -> bool {
        matches!(self, Self::All | Self::Trunk(_))
    }

    /// Tells whether the port carries frames of the VLAN with this number; 0 stands for those without a tag.
    pub fn carries_number(&self, number: u16) -> bool {
        let wire = Domain(number);
        match self {
            Self::Untagged => wire == Domain::UNTAGGED,
            Self::Access(vlan) => wire == Domain::from(*vlan),
            Self::All => true,
            Self::Trunk(trunk) => {
                trunk.untagged == Some(wire)
                    || VlanId::new(number).is_some_and(|vlan| trunk.tagged.contains(vlan))
            }
            Self::Private(port) => wire == port.class().wire || wire == Domain::from(port.primary),
        }
    }
}

impl fmt::Display for PortVlan {
    /// Writes it in a few words, as in `10` or `trunk 20-29,40 + untagged 10`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("untagged"),
            Self::Access(vlan) => write!(f, "{}", vlan.number()),
            Self::All => f.write_str("all"),
            Self::Trunk(trunk) => {
                let before = if trunk.tagged.is_empty() {
                    f.write_str("trunk")?;
                    " of"
                } else {
                    write!(f, "trunk {}", trunk.tagged)?;
                    " +"
                };
                match trunk.untagged {
                    None => Ok(()),
                    Some(Domain::UNTAGGED) => write!(f, "{before} untagged"),
                    Some(domain) => write!(f, "{before} untagged {}", domain.number()),
                }
            }
            Self::Private(port) => {
                write!(f, "private {} ", port.primary.number())?;
                match port.role {
                    PrivateRole::Promiscuous => f.write_str("promiscuous"),
                    PrivateRole::Isolated(vlan) => write!(f, "isolated {}", vlan.number()),
                    PrivateRole::Community(vlan) => write!(f, "community {}", vlan.number()),
                }
            }
        }
    }
}

impl PrivatePort {
    /// Where frames of the port belong.
    pub fn class(self) -> Class {
        let wire = match self.role {
            PrivateRole::Promiscuous => self.primary,
            PrivateRole::Isolated(secondary) | PrivateRole::Community(secondary) => secondary,
        };
        Class {
            domain: self.primary.into(),
            wire: wire.into(),
        }
    }

    /// Tells whether the port hears frames of a class.
    fn hears(self, class: Class) -> bool {
        let from_promiscuous = class.wire == class.domain;
        class.domain == Domain::from(self.primary)
            && match self.role {
                PrivateRole::Promiscuous => true,
                PrivateRole::Isolated(_) => from_promiscuous,
                PrivateRole::Community(own) => from_promiscuous || class.wire == Domain::from(own),
            }
    }
}

fn tagged(wire: Domain, tag: Tag) -> TagAction {
    match tag {
        Tag::Untagged => TagAction::Insert(Tci(wire.number())),
        Tag::Tagged(tci) if tci.vid() == wire.number() => TagAction::Keep,
        Tag::Tagged(tci) => TagAction::Replace(tci.with_vid(wire.number())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    fn domain(number: u16) -> Domain {
        match VlanId::new(number) {
            Some(vlan) => vlan.into(),
            None => Domain::UNTAGGED,
        }
    }

    fn class(number: u16) -> Class {
        domain(number).into()
    }

    fn trunk(tagged: &[u16], untagged: Option<u16>) -> PortVlan {
        PortVlan::Trunk(Arc::new(Trunk {
            tagged: tagged.iter().map(|number| vlan(*number)).collect(),
            untagged: untagged.map(domain),
        }))
    }

    fn private(role: PrivateRole) -> PortVlan {
        PortVlan::Private(PrivatePort {
            primary: vlan(100),
            role,
        })
    }

    /// VLAN 100 with the secondary VLANs 101, 102 and 103.
    fn of_100() -> PrivateVlans {
        let mut private = PrivateVlans::default();
        for secondary in [101, 102, 103] {
            private.insert(vlan(secondary), vlan(100));
        }
        private
    }

    #[test]
    fn only_1_to_4094_name_a_vlan() {
        assert_eq!(VlanId::new(0), None);
        assert_eq!(VlanId::new(4095), None);
        assert_eq!(VlanId::new(4096), None);
        assert_eq!([1, 4094].map(|number| vlan(number).number()), [1, 4094]);
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let set: VlanSet = [1, 63, 64, 4094].map(vlan).into_iter().collect();
        let held: Vec<_> = set.iter().map(VlanId::number).collect();
        assert_eq!(held, [1, 63, 64, 4094]);
        assert!(!set.is_empty() && VlanSet::default().is_empty());
        assert!(!set.clone().insert(vlan(64)) && set.clone().insert(vlan(65)));
    }

    #[test]
    fn a_frame_belongs_to_the_vlan_of_its_tag_where_the_port_carries_it() {
        let tags = [
            Tag::Untagged,
            Tag::Tagged(Tci(0xe000)),
            Tag::Tagged(Tci(10)),
            Tag::Tagged(Tci(4095)),
        ];
        let none = Err(DropReason::VlanNotAllowed);
        let (native, of_ten, of_five) = (Ok(class(0)), Ok(class(10)), Ok(class(5)));
        for (port, expected) in [
            (PortVlan::Untagged, [native, native, none, none]),
            (PortVlan::Access(vlan(10)), [of_ten, of_ten, none, none]),
            (PortVlan::All, [native, native, of_ten, none]),
            (trunk(&[10, 11], Some(5)), [of_five, of_five, of_ten, none]),
            (trunk(&[10], Some(0)), [native, native, of_ten, none]),
            (trunk(&[11], None), [none, none, none, none]),
        ] {
            assert_eq!(
                tags.map(|tag| port.classify(tag, &PrivateVlans::default())),
                expected,
                "{port:?}"
            );
        }
    }

    #[test]
    fn tags_leave_in_the_form_that_the_port_wants() {
        let tagged = Tag::Tagged(Tci(0x600a));
        let priority = Tag::Tagged(Tci(0x6000));
        for (port, number, tag, expected) in [
            (PortVlan::Untagged, 10, tagged, None),
            (PortVlan::Untagged, 0, priority, Some(TagAction::Strip)),
            (PortVlan::Access(vlan(11)), 10, tagged, None),
            (
                PortVlan::Access(vlan(10)),
                10,
                tagged,
                Some(TagAction::Strip),
            ),
            (
                PortVlan::Access(vlan(10)),
                10,
                Tag::Untagged,
                Some(TagAction::Keep),
            ),
            (
                PortVlan::All,
                10,
                Tag::Untagged,
                Some(TagAction::Insert(Tci(10))),
            ),
            (PortVlan::All, 10, tagged, Some(TagAction::Keep)),
            // The priority is preserved.
            (
                PortVlan::All,
                10,
                priority,
                Some(TagAction::Replace(Tci(0x600a))),
            ),
            (PortVlan::All, 0, priority, Some(TagAction::Keep)),
            (trunk(&[10], Some(5)), 10, tagged, Some(TagAction::Keep)),
            (
                trunk(&[10], Some(5)),
                10,
                priority,
                Some(TagAction::Replace(Tci(0x600a))),
            ),
            (trunk(&[10], Some(5)), 5, tagged, Some(TagAction::Strip)),
            (
                trunk(&[10], Some(5)),
                5,
                Tag::Untagged,
                Some(TagAction::Keep),
            ),
            (trunk(&[10], Some(5)), 0, Tag::Untagged, None),
            (trunk(&[10], None), 11, tagged, None),
        ] {
            assert_eq!(
                port.egress(class(number), tag),
                expected,
                "{port:?} {number} {tag:?}"
            );
        }
    }

    #[test]
    fn ports_of_a_private_vlan_hear_whom_their_role_lets_them_hear() {
        let promiscuous = private(PrivateRole::Promiscuous);
        let isolated = private(PrivateRole::Isolated(vlan(101)));
        let community = private(PrivateRole::Community(vlan(102)));
        let other = private(PrivateRole::Community(vlan(103)));
        let outsider = PortVlan::Access(vlan(10));
        let ports = [&promiscuous, &isolated, &community, &other, &outsider];
        for (from, expected) in [
            (&promiscuous, [true, true, true, true, false]),
            (&isolated, [true, false, false, false, false]),
            (&community, [true, false, true, false, false]),
            (&other, [true, false, false, true, false]),
            (&outsider, [false, false, false, false, true]),
        ] {
            let class = from.classify(Tag::Untagged, &of_100()).unwrap();
            assert_eq!(
                ports.map(|port| port.egress(class, Tag::Untagged).is_some()),
                expected,
                "{from:?}"
            );
        }
    }

    #[test]
    fn a_private_vlan_is_the_same_from_the_outside() {
        let isolated = private(PrivateRole::Isolated(vlan(101)));
        let class = isolated.classify(Tag::Untagged, &of_100()).unwrap();
        assert_eq!((class.domain, class.wire), (domain(100), domain(101)));
        assert_eq!(
            PortVlan::All.egress(class, Tag::Untagged),
            Some(TagAction::Insert(Tci(101))),
            "it leaves under the number of its secondary VLAN"
        );
        for (vid, heard) in [(100, true), (101, false), (102, false)] {
            let class = PortVlan::All
                .classify(Tag::Tagged(Tci(vid)), &of_100())
                .unwrap();
            assert_eq!(class.domain, domain(100));
            let action = isolated.egress(class, Tag::Tagged(Tci(vid)));
            assert_eq!(action, heard.then_some(TagAction::Strip), "{vid}");
        }
    }

    #[test]
    fn every_kind_of_membership_has_words() {
        let many: Vec<u16> = (20..30).chain([40, 42, 43]).collect();
        for (port, words) in [
            (PortVlan::Untagged, "untagged"),
            (PortVlan::Access(vlan(10)), "10"),
            (PortVlan::All, "all"),
            (trunk(&many, Some(10)), "trunk 20-29,40,42-43 + untagged 10"),
            (trunk(&[1, 4094], Some(0)), "trunk 1,4094 + untagged"),
            (trunk(&[7], None), "trunk 7"),
            (trunk(&[], Some(5)), "trunk of untagged 5"),
            (trunk(&[], None), "trunk"),
            (private(PrivateRole::Promiscuous), "private 100 promiscuous"),
            (
                private(PrivateRole::Isolated(vlan(101))),
                "private 100 isolated 101",
            ),
            (
                private(PrivateRole::Community(vlan(102))),
                "private 100 community 102",
            ),
        ] {
            assert_eq!(port.to_string(), words);
        }
    }
}
