//! Placeholder of the types only.

/// What a port may not send.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Guards {
    /// Answers of a DHCP server.
    pub dhcp_server: bool,
    /// Router advertisements.
    pub router_advertisement: bool,
}
