//! Network adapters by name: their link, addresses, MTU and speed (`man 7 netdevice`, `linux/ethtool.h`).

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
    Mtu,
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
            Self::Mtu => libc::SIOCGIFMTU,
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

    /// Tells whether the kernel means this name, which it ends with a zero.
    pub(super) fn is(self, name: &[u8]) -> bool {
        let plain = |bytes: &[u8]| bytes.iter().position(|byte| *byte == 0);
        let end = plain(&self.0).unwrap_or(self.0.len());
        self.0[..end] == name[..plain(name).unwrap_or(name.len())]
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

/// `struct ifreq` of an ethtool command: a name, and where the command is.
#[repr(C)]
struct EthtoolArgument {
    name: [u8; libc::IFNAMSIZ],
    command: *mut u32,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<EthtoolArgument>() >= size_of::<libc::ifreq>());

/// `struct ethtool_link_settings`, as words: its fixed part, and three sets of as many words as the kernel likes, 127 at
/// most.
struct LinkSettings([u32; Self::FIXED + 3 * 127]);

impl LinkSettings {
    const FIXED: usize = 12;
    /// `ETHTOOL_GLINKSETTINGS`.
    const COMMAND: u32 = 0x4c;
    /// The word whose last byte is the length of a set; negative where the kernel wants another.
    const LENGTH: usize = 3;
    const SPEED: usize = 1;

    /// Asks for sets of a length.
    const fn new(length: i8) -> Self {
        let mut words = [0; Self::FIXED + 3 * 127];
        words[0] = Self::COMMAND;
        words[Self::LENGTH] = u32::from_ne_bytes([0, 0, 0, length.cast_unsigned()]);
        Self(words)
    }

    const fn length(&self) -> i8 {
        let [_, _, _, length] = self.0[Self::LENGTH].to_ne_bytes();
        length.cast_signed()
    }

    /// Returns the speed in bits a second; the kernel has several ways of not knowing it.
    fn speed(&self) -> Option<u64> {
        match self.0[Self::SPEED] {
            0 | 0xffff | u32::MAX => None,
            megabits => Some(u64::from(megabits) * 1_000_000),
        }
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

    /// Returns the hardware address, if frames of the adapter begin with an Ethernet header.
    pub(in crate::ports) fn mac(&self) -> io::Result<Option<MacAddr>> {
        let value = self.request(Request::HardwareAddress, &[])?;
        let (kind, address) = value.split_at(2);
        let ethernet = kind == libc::ARPHRD_ETHER.to_ne_bytes();
        Ok(MacAddr::from_slice(address).filter(|_| ethernet))
    }

    /// Returns the speed in bits a second, if the adapter tells. The kernel may have the driver ask the device.
    pub(in crate::ports) fn speed(&self) -> Option<u64> {
        // The first answer is how long the sets are that come with the second.
        let mut settings = LinkSettings::new(0);
        self.ethtool(&mut settings).ok()?;
        settings = LinkSettings::new(settings.length().checked_neg()?);
        self.ethtool(&mut settings).ok()?;
        // Still negative: the kernel changed its mind, and told nothing.
        (settings.length() > 0).then(|| settings.speed()).flatten()
    }

    /// Asks whether there is a carrier. The answer waits for whoever configures an adapter just now.
    pub(super) fn has_carrier(&self) -> io::Result<bool> {
        /// `ETHTOOL_GLINK`, whose answer is the next word.
        const COMMAND: u32 = 0x0a;
        let mut settings = LinkSettings::new(0);
        settings.0[0] = COMMAND;
        self.ethtool(&mut settings)?;
        Ok(settings.0[1] != 0)
    }

    /// Tells whether the adapter takes VLAN tags off frames that come in. One that does not say so does not.
    pub(in crate::ports) fn strips_tags(&self) -> bool {
        self.offload_flags()
            .is_ok_and(|flags| flags & Self::STRIP_TAGS != 0)
    }

    /// Has the adapter take VLAN tags off frames that come in, or leave them where they are.
    pub(in crate::ports) fn strip_tags(&self, strip: bool) -> io::Result<()> {
        /// `ETHTOOL_SFLAGS`, whose argument is the next word.
        const COMMAND: u32 = 0x26;
        let flags = self.offload_flags()?;
        let mut settings = LinkSettings::new(0);
        settings.0[0] = COMMAND;
        settings.0[1] = match strip {
            true => flags | Self::STRIP_TAGS,
            false => flags & !Self::STRIP_TAGS,
        };
        self.ethtool(&mut settings)
    }

    /// `ETH_FLAG_RXVLAN`
    const STRIP_TAGS: u32 = 1 << 8;

    fn offload_flags(&self) -> io::Result<u32> {
        /// `ETHTOOL_GFLAGS`, whose answer is the next word.
        const COMMAND: u32 = 0x25;
        let mut settings = LinkSettings::new(0);
        settings.0[0] = COMMAND;
        self.ethtool(&mut settings)?;
        Ok(settings.0[1])
    }

    #[expect(unsafe_code, reason = "an ioctl has no safe form")]
    fn ethtool(&self, settings: &mut LinkSettings) -> io::Result<()> {
        /// Not in `libc` for every target.
        const SIOCETHTOOL: libc::Ioctl = 0x8946;
        let mut argument = EthtoolArgument {
            name: self.name.0,
            command: settings.0.as_mut_ptr(),
            rest: [0; 16],
        };
        // SAFETY: the argument is at least as long as an `ifreq`. It points at settings that are borrowed, name a command
        // that reads and writes settings or one word alone, and have room for the longest sets there can be.
        checked(unsafe { libc::ioctl(self.control.as_raw_fd(), SIOCETHTOOL, &raw mut argument) })
            .map(drop)
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

    /// Returns the largest packet.
    pub(in crate::ports) fn mtu(&self) -> io::Result<u32> {
        self.number(Request::Mtu)
            .map(|mtu| u32::try_from(mtu).unwrap_or(0))
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
    fn a_name_of_the_kernel_ends_with_a_zero_or_with_its_bytes() {
        let name = AdapterName::new("eth0").unwrap();
        assert!(name.is(b"eth0\0") && name.is(b"eth0") && name.is(b"eth0\0\0x"));
        for other in [&b"eth\0"[..], b"eth01\0", b"", b"\0eth0"] {
            assert!(!name.is(other), "{other:?}");
        }
    }

    #[test]
    fn a_speed_that_is_not_known_is_none() {
        let with = |speed| {
            let mut settings = LinkSettings::new(3);
            settings.0[LinkSettings::SPEED] = speed;
            settings.speed()
        };
        assert_eq!(with(10), Some(10_000_000));
        assert_eq!(with(400_000), Some(400_000_000_000));
        for unknown in [0, 0xffff, u32::MAX] {
            assert_eq!(with(unknown), None);
        }
    }

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
