//! A guest.
use crate::wire::ethernet::MacAddr;
use std::path::PathBuf;

/// Which side listens on the socket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// vmlan listens, the VMM connects.
    #[default]
    Server,
    /// The VMM listens; vmlan connects, and connects again.
    Client,
}

/// A virtual machine's port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The VM's name.
    pub name: String,
    /// The path of the vhost-user socket.
    pub socket: PathBuf,
    /// Which side listens on it.
    pub role: Role,
    /// The address that belongs to the VM.
    pub mac: MacAddr,
    /// The network's MTU, offered to the guest.
    pub mtu: u16,
}

/// A stand-in.
pub struct Guest {}
impl Guest {
    /// Opens it.
    pub fn open(_spec: &Spec) -> Result<crate::ports::Stub, crate::ports::OpenError> { Ok(crate::ports::Stub) }
}
