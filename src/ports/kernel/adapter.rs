//! Network adapters by name: their link, addresses and MTU (`man 7 netdevice`).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ipnet::Ipv4Net;

use super::{checked, socket};
use crate::wire::ethernet::MacAddr;

/// A request that names an adapter. The kernel reads and writes the argument itself for all of these, and follows no
/// pointer in it.
#[derive(Clone, Copy)]
pub(super) enum Request {
    Index,
    Flags,
    SetFlags,
    HardwareAddress,
    SetHardwareAddress,
    SetMtu,
    SetAddress,
    SetNetmask,
    SetBroadcast,
    AttachTun,
    Attached,
}

impl Request {
    const fn number(self) -> libc::Ioctl {
        match self {
            Self::Index => libc::SIOCGIFINDEX,
            Self::Flags => libc::SIOCGIFFLAGS,
            Self::SetFlags => libc::SIOCSIFFLAGS,
            Self::HardwareAddress => libc::SIOCGIFHWADDR,
            Self::SetHardwareAddress => libc::SIOCSIFHWADDR,
            Self::SetMtu => libc::SIOCSIFMTU,
            Self::SetAddress => libc::SIOCSIFADDR,
            Self::SetNetmask => libc::SIOCSIFNETMASK,
            Self::SetBroadcast => libc::SIOCSIFBRDADDR,
            Self::Attached => libc::TUNGETIFF,
            Self::AttachTun => libc::TUNSETIFF,
        }
    }
}

/// `struct ifreq`: a name, and a value whose form the request tells.
#[repr(C)]
struct Argument {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Argument>() >= size_of::<libc::ifreq>());

/// The name of an adapter, as the kernel takes it.
#[derive(Clone, Copy)]
pub(in crate::ports) struct AdapterName([u8; libc::IFNAMSIZ]);

impl AdapterName {
    /// Returns the name in the kernel's form, if an adapter can have it.
    pub(in crate::ports) fn new(name: &str) -> Option<Self> {
        // A `%` would make the kernel choose a number.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        if name.is_empty() || name == "." || name == ".." || !name.bytes().all(plain) {
            return None;
        }
        let mut bytes = [0; libc::IFNAMSIZ];
        // The last byte ends the name.
        bytes[..libc::IFNAMSIZ - 1]
            .get_mut(..name.len())?
            .copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    #[expect(unsafe_code, reason = "an ioctl has no safe form")]
    pub(super) fn request(
        self,
        on: BorrowedFd<'_>,
        request: Request,
        value: &[u8],
    ) -> io::Result<[u8; 24]> {
        let mut argument = Argument {
            name: self.0,
            value: [0; 24],
        };
        argument.value[..value.len()].copy_from_slice(value);
        // SAFETY: the argument is at least as long as an `ifreq`, and each `Request` reads or writes an `ifreq` alone.
        checked(unsafe { libc::ioctl(on.as_raw_fd(), request.number(), &raw mut argument) })?;
        Ok(argument.value)
    }
}

/// What an adapter says of its link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ports) struct LinkFlags {
    /// It was brought up.
    pub(in crate::ports) up: bool,
    /// It is up, and there is a carrier.
    pub(in crate::ports) running: bool,
}

/// A network adapter, addressed by its name.
pub(in crate::ports) struct Adapter {
    name: AdapterName,
    control: OwnedFd,
}

impl Adapter {
    /// Names an adapter, which need not exist.
    pub(in crate::ports) fn new(name: AdapterName) -> io::Result<Self> {
        Ok(Self {
            name,
            control: socket(libc::AF_INET, libc::SOCK_DGRAM)?,
        })
    }

    fn request(&self, request: Request, value: &[u8]) -> io::Result<[u8; 24]> {
        self.name.request(self.control.as_fd(), request, value)
    }

    fn number(&self, request: Request) -> io::Result<i32> {
        let [a, b, c, d, ..] = self.request(request, &[])?;
        Ok(i32::from_ne_bytes([a, b, c, d]))
    }

    /// Returns the number that the kernel gave the adapter.
    pub(in crate::ports) fn index(&self) -> io::Result<i32> {
        self.number(Request::Index)
    }

    /// Tells whether frames of the adapter begin with an Ethernet header.
    pub(in crate::ports) fn is_ethernet(&self) -> io::Result<bool> {
        let [a, b, ..] = self.request(Request::HardwareAddress, &[])?;
        Ok(u16::from_ne_bytes([a, b]) == libc::ARPHRD_ETHER)
    }

    fn raw_flags(&self) -> io::Result<u16> {
        let [a, b, ..] = self.request(Request::Flags, &[])?;
        Ok(u16::from_ne_bytes([a, b]))
    }

    /// Reads the state of the link.
    pub(in crate::ports) fn flags(&self) -> io::Result<LinkFlags> {
        let flags = libc::c_int::from(self.raw_flags()?);
        Ok(LinkFlags {
            up: flags & libc::IFF_UP != 0,
            running: flags & libc::IFF_RUNNING != 0,
        })
    }

    /// Brings the adapter up, if it is down.
    pub(in crate::ports) fn bring_up(&self) -> io::Result<()> {
        const UP: u16 = 1;
        const _: () = assert!(libc::IFF_UP == 1);
        let flags = self.raw_flags()?;
        if flags & UP == 0 {
            self.request(Request::SetFlags, &(flags | UP).to_ne_bytes())?;
        }
        Ok(())
    }

    /// Sets the largest packet.
    pub(in crate::ports) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.request(Request::SetMtu, &i32::from(mtu).to_ne_bytes())
            .map(drop)
    }

    /// Sets the hardware address.
    pub(in crate::ports) fn set_mac(&self, mac: MacAddr) -> io::Result<()> {
        let mut value = [0; 8];
        value[..2].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
        value[2..].copy_from_slice(&mac.0);
        self.request(Request::SetHardwareAddress, &value).map(drop)
    }

    /// Sets the address, its subnet and the broadcast address that follows from them.
    pub(in crate::ports) fn set_address(&self, address: Ipv4Net) -> io::Result<()> {
        self.set_ipv4(Request::SetAddress, address.addr())?;
        self.set_ipv4(Request::SetNetmask, address.netmask())?;
        if address.prefix_len() < 31 {
            self.set_ipv4(Request::SetBroadcast, address.broadcast())?;
        }
        Ok(())
    }

    fn set_ipv4(&self, request: Request, address: Ipv4Addr) -> io::Result<()> {
        const FAMILY: u16 = 2;
        const _: () = assert!(libc::AF_INET == 2);
        let mut value = [0; 16];
        value[..2].copy_from_slice(&FAMILY.to_ne_bytes());
        value[4..8].copy_from_slice(&address.octets());
        self.request(request, &value).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_an_adapter_can_have() {
        for name in ["eth0", "a", "fifteen-bytes-x"] {
            assert!(AdapterName::new(name).is_some(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "sixteen-bytes-xx",
            "tap%d",
            "a/b",
            "a:0",
            "a b",
            "caf\u{e9}",
        ] {
            assert!(AdapterName::new(name).is_none(), "{name}");
        }
    }
}
