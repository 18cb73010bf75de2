//! A host adapter.
use crate::wire::ethernet::MacAddr;
use ipnet::Ipv4Net;

/// A TAP device to be created, or taken if it is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The device's name, at most 15 bytes.
    pub name: String,
    /// The hardware address of the host's side.
    pub mac: MacAddr,
    /// The address of the host's side, with its subnet; absent where the host configures it itself.
    pub address: Option<Ipv4Net>,
    /// The largest packet.
    pub mtu: u16,
}

/// A stand-in.
pub struct Tap {}
impl Tap {
    /// Opens it.
    pub fn open(_spec: &Spec) -> Result<crate::ports::Stub, crate::ports::OpenError> { Ok(crate::ports::Stub) }
}
