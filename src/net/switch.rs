//! The switch.
use crate::net::vlan::TagAction;

/// A port of the engine, whatever its network.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortId(pub u16);

/// One frame of a burst that is to leave through a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Egress {
    /// Which frame of the burst.
    pub frame: u16,
    /// What becomes of its tag.
    pub action: TagAction,
}
