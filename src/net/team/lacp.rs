//! Placeholder of the types only.

use crate::wire::ethernet::MacAddr;

/// Who begins to speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// We do.
    #[default]
    Active,
    /// The partner does.
    Passive,
}

/// How often the partner is asked to speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Rate {
    /// Every second.
    Fast,
    /// Every 30 seconds.
    #[default]
    Slow,
}

/// How a team speaks LACP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// Who begins.
    pub mode: Mode,
    /// How often the partner is to speak.
    pub rate: Rate,
    /// Whether one uplink is used while no partner speaks.
    pub fallback: bool,
    /// The team's own address.
    pub system: MacAddr,
    /// The team's priority.
    pub system_priority: u16,
}
