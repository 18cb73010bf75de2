//! An uplink over AF_PACKET.

/// A physical adapter to be used as an uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The adapter's name.
    pub interface: String,
}

/// A stand-in.
pub struct Packet {}
impl Packet {
    /// Opens it.
    pub fn open(_spec: &Spec) -> Result<crate::ports::Stub, crate::ports::OpenError> { Ok(crate::ports::Stub) }
}
