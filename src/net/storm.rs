//! Placeholder of the types only.

use std::num::NonZeroU32;

/// How many frames a second a port may send.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// To the broadcast address.
    pub broadcast: Option<NonZeroU32>,
    /// To groups.
    pub multicast: Option<NonZeroU32>,
    /// To stations that are not known.
    pub unknown_unicast: Option<NonZeroU32>,
}
