//! Calls to the kernel that ports share: adapters, frames in, frames out.
//!
//! The functions are safe: what they hand to the kernel is memory of these files, or the bodies of a burst, whose
//! readability [`crate::ports::burst`] promises. The kernel answers EFAULT where a guest took its memory away meanwhile.
//! What frames mean is not known here beyond the virtio-net header that the kernel puts before each
//! (`linux/virtio_net.h`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{mem, ptr};

use self::adapter::Request;
use crate::wire::virtio_net::HEADER_LEN;

mod adapter;
mod carrier;
mod link;
mod monitor;
mod receive;
mod send;

pub(in crate::ports) use adapter::{Adapter, AdapterName};
pub(in crate::ports) use carrier::Carrier;
pub(in crate::ports) use link::Link;
pub(in crate::ports) use monitor::{Event, Monitor};
pub(in crate::ports) use receive::{Looked, PacketReceiver, Slots, TapReceiver, VISIT as SLOTS};
pub(in crate::ports) use send::{PacketBatch, TapSending, is_down};

/// What the kernel keeps of frames that come in, and of those that leave.
const SOCKET_BUFFER: libc::c_int = 8 << 20;

const _: () = assert!(
    cfg!(target_endian = "little"),
    "the kernel's virtio-net header has the byte order of the host"
);

/// Opens a socket that does not block.
#[expect(unsafe_code, reason = "std has no packet sockets")]
pub(in crate::ports) fn socket(domain: libc::c_int, kind: libc::c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(domain, kind, 0) };
    checked(fd)?;
    // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A packet socket whose frames come and go with a virtio-net header.
pub(in crate::ports) struct PacketSocket {
    fd: OwnedFd,
    /// The kernel keeps from us what leaves through the adapter.
    ignores_outgoing: bool,
}

impl PacketSocket {
    /// Opens a socket that is bound to nothing, and so receives nothing.
    pub(in crate::ports) fn open() -> io::Result<Self> {
        let mut this = Self {
            fd: socket(libc::AF_PACKET, libc::SOCK_RAW)?,
            ignores_outgoing: false,
        };
        this.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
        this.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1)?;
        this.ignores_outgoing = this
            .set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)
            .is_ok();
        for (force, ask) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if this.set(libc::SOL_SOCKET, force, &SOCKET_BUFFER).is_err() {
                this.set(libc::SOL_SOCKET, ask, &SOCKET_BUFFER)?;
            }
        }
        Ok(this)
    }

    /// Takes all frames of the adapter with this index from now on, whomever they are for.
    #[expect(unsafe_code, reason = "std has no packet sockets")]
    pub(in crate::ports) fn bind(&self, index: i32) -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "ETH_P_ALL is 3")]
        let protocol = libc::ETH_P_ALL as u16;
        let address = link_address(protocol, index);
        let len = length(size_of_val(&address));
        // SAFETY: the address is ours and as long as it is said to be; the kernel only reads it.
        checked(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        let membership = libc::packet_mreq {
            mr_ifindex: index,
            #[expect(clippy::cast_possible_truncation, reason = "PACKET_MR_PROMISC is 1")]
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
    }

    /// Tells whether the socket still has the adapter with this index: the kernel takes away one that is deleted, and
    /// may give its number to another.
    #[expect(unsafe_code, reason = "std has no packet sockets")]
    pub(in crate::ports) fn is_bound_to(&self, index: i32) -> bool {
        let mut address = link_address(0, 0);
        let mut len = length(size_of_val(&address));
        let at = (&raw mut address).cast();
        // SAFETY: the address and its length are ours, and the kernel writes no more than the length says.
        let answer = checked(unsafe { libc::getsockname(self.fd.as_raw_fd(), at, &raw mut len) });
        answer.is_ok() && address.sll_ifindex == index
    }

    /// Only for options that the kernel reads from the value itself, without following a pointer in it.
    #[expect(unsafe_code, reason = "std has no packet sockets")]
    fn set<T: Copy>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let (at, len) = (ptr::from_ref(value).cast(), length(size_of::<T>()));
        // SAFETY: the value is borrowed, and as long as it is said to be; the kernel only reads it.
        checked(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, option, at, len) }).map(drop)
    }
}

fn link_address(protocol: u16, index: i32) -> libc::sockaddr_ll {
    #[expect(clippy::cast_possible_truncation, reason = "AF_PACKET is 17")]
    let family = libc::AF_PACKET as u16;
    libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a TAP device of this name, and attaches what `/dev/net/tun` opened as to it.
pub(in crate::ports) fn attach_tap(tun: BorrowedFd<'_>, name: AdapterName) -> io::Result<()> {
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the flags fit 15 bits"
    )]
    let kind = kind as u16;
    name.request(tun, Request::AttachTun, &kind.to_ne_bytes())?;
    set_tap_header(tun)?;
    set_tap_offloads(tun)
}

#[expect(unsafe_code, reason = "an ioctl has no safe form")]
fn set_tap_header(tun: BorrowedFd<'_>) -> io::Result<()> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "the length is 10"
    )]
    let len = HEADER_LEN as libc::c_int;
    // SAFETY: the kernel reads one number, which is ours.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
        .map(drop)
}

#[expect(unsafe_code, reason = "an ioctl has no safe form")]
fn set_tap_offloads(tun: BorrowedFd<'_>) -> io::Result<()> {
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: the argument is a number, not an address.
    checked(unsafe {
        libc::ioctl(
            tun.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(offloads),
        )
    })
    .map(drop)
}

/// Lets the process open as many descriptors as it may at most: a guest takes a dozen and more, and the usual limit is
/// for the sake of programs that cannot count beyond 1024.
///
/// # Errors
///
/// The kernel refuses.
#[expect(unsafe_code, reason = "std cannot set a limit")]
pub(in crate::ports) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one structure, which is ours.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one structure, which is ours.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Tells whether there is something to read, without waiting for it.
pub(in crate::ports) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    is_ready(fd, libc::POLLIN)
}

/// Tells whether the TAP device that is attached to, wherever it is now, is up; an error if there is none any more.
pub(in crate::ports) fn is_tap_up(tun: BorrowedFd<'_>, name: AdapterName) -> io::Result<bool> {
    name.request(tun, Request::Attached, &[])?;
    // A device that is down takes no frames.
    Ok(is_ready(tun, libc::POLLOUT))
}

#[expect(unsafe_code, reason = "std cannot poll a descriptor")]
fn is_ready(fd: BorrowedFd<'_>, events: libc::c_short) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: there is one structure, and it is ours.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & events != 0
}

#[expect(unsafe_code, reason = "the structure has padding on some targets")]
fn empty_message() -> libc::mmsghdr {
    // SAFETY: it is numbers and pointers, for which zero is a value.
    unsafe { mem::zeroed() }
}

/// Returns what a call answered, or the error that it left.
pub(in crate::ports) fn checked<T>(answer: T) -> io::Result<usize>
where
    usize: TryFrom<T>,
{
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// A length, as the kernel takes it.
pub(in crate::ports) fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}
