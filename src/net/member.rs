//! What the switch knows about a port, as it is told.

use crate::net::frame::Parsed;
use crate::net::guard::Guards;
use crate::net::security::Security;
use crate::net::storm;
use crate::net::vlan::{Class, Domain, PortVlan};
use crate::wire::ethernet::{ETHERTYPE_VLAN, MacAddr};

/// What the switch knows about a port.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// The VLANs it carries.
    pub vlan: PortVlan,
    /// Whether the outside world is behind it.
    pub uplink: bool,
    /// The address that belongs to it, if one does.
    pub mac: Option<MacAddr>,
    /// Whether the first address that it sends from, each time that it comes up, becomes its own: nobody said which it is.
    pub takes_first: bool,
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

impl Member {
    /// Whether the port may send a frame that has a tag behind its tag, or a service tag.
    ///
    /// Behind the tag that a switch takes off, another would say where the frame really goes. A priority tag is such a
    /// one for every switch outside; only who may send in every VLAN may have one behind it.
    pub(super) fn sends_stacked(&self, class: Class, parsed: &Parsed) -> bool {
        let hidden = class.wire == Domain::UNTAGGED && parsed.ethertype == ETHERTYPE_VLAN;
        self.service_tags && !(hidden && self.vlan != PortVlan::All)
    }
}
