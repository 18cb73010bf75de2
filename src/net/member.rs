//! What the switch knows about a port, as it is told.

use crate::net::guard::Guards;
use crate::net::security::Security;
use crate::net::storm;
use crate::net::vlan::PortVlan;
use crate::wire::ethernet::MacAddr;

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
