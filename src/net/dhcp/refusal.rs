//! Why an address is refused: what a NAK says, and whether it ends a lease.

use std::fmt;

/// Why a client cannot have an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// It is of another network.
    Foreign,
    /// It is not in the pool, or it is the network's own.
    Unavailable,
    /// It is reserved for another client.
    Reserved,
    /// The client has a reservation for another address, and that is free.
    HasReservation,
    /// The client has a lease for another address.
    HasLease,
    /// Another client has it.
    Leased,
    /// It was just offered to another client.
    Offered,
    /// Another station uses it.
    InUse,
}

impl Refusal {
    /// Tells whether the client, if it has a lease for the address, must give it up.
    pub(super) fn ends_lease(self) -> bool {
        match self {
            Self::Unavailable | Self::Reserved | Self::HasReservation => true,
            Self::Foreign | Self::HasLease | Self::Leased | Self::Offered | Self::InUse => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "the address is of another network",
            Self::Unavailable => "the address is not for lease",
            Self::Reserved => "the address is reserved for another client",
            Self::HasReservation => "another address is reserved for this client",
            Self::HasLease => "another address is leased to this client",
            Self::Leased => "the address is leased to another client",
            Self::Offered => "the address is offered to another client",
            Self::InUse => "the address is in use",
        })
    }
}
