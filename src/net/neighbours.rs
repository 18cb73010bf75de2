//! Placeholder of the types only.

use crate::wire::ethernet::MacAddr;

/// What vmlan says of itself, and whether it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// Whether LLDP is sent.
    pub advertise: bool,
    /// Whether LLDP and CDP are listened to.
    pub listen: bool,
    /// The chassis.
    pub chassis: MacAddr,
    /// The host's name.
    pub host: String,
    /// What it runs.
    pub description: String,
}
