//! What a port may do with addresses that are not its own: ESXi's security policy.

/// The security policy of a port whose address is known. All are refused unless said otherwise.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Security {
    /// The port gets every frame of the VLANs that it carries.
    pub promiscuous: bool,
    /// Addresses besides the port's own are learned behind it, and frames to them delivered.
    pub mac_changes: bool,
    /// The port may send from addresses besides its own.
    pub forged_transmits: bool,
}

impl Security {
    /// What ESXi allowed by default up to version 6.7: changed addresses and forged transmits, not promiscuous mode.
    pub const LEGACY: Self = Self {
        promiscuous: false,
        mac_changes: true,
        forged_transmits: true,
    };
}
