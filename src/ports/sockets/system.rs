//! Calls to the kernel that neither std nor socket2 make: datagrams from guests' memory, datagrams into ours, and what
//! the kernel tells of errors (`ip(7)`, IP_RECVERR).
//!
//! The functions are safe: what they hand to the kernel is memory of this file, slots of [`Slots`], or the bodies of a
//! burst that is borrowed meanwhile, whose readability [`crate::ports::burst`] promises.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, ptr};

use crate::net::nat::error::Unreachable;
use crate::ports::burst::{Burst, Frame, Segment};
use crate::ports::kernel::{SLOTS, Slots};

/// Length of the longest address that is used here: `sockaddr_in6`.
const ADDRESS: usize = 28;
/// How many datagrams are taken from a socket at once.
const BATCH: usize = 16;
/// How many pieces of memory a datagram is in, unless its sender is odd.
const FEW: usize = 8;
const EMPTY_IOVEC: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};
/// How much of what an error is about is read.
const QUOTE: usize = 128;

/// An address as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct RawAddress([u8; ADDRESS]);

impl RawAddress {
    const EMPTY: Self = Self([0; ADDRESS]);

    fn new(address: &SocketAddr) -> (Self, u32) {
        let mut raw = Self::EMPTY;
        let bytes = &mut raw.0;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, len) = match address {
            SocketAddr::V4(address) => {
                bytes[4..8].copy_from_slice(&address.ip().octets());
                (libc::AF_INET, 16)
            }
            SocketAddr::V6(address) => {
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..].copy_from_slice(&address.scope_id().to_ne_bytes());
                (libc::AF_INET6, 28)
            }
        };
        bytes[..2].copy_from_slice(&u16::try_from(family).unwrap_or_default().to_ne_bytes());
        (raw, len)
    }

    fn read(bytes: &[u8]) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        match family {
            libc::AF_INET => {
                let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
                Some(SocketAddr::new(ip.into(), port))
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
                Some(SocketAddrV6::new(ip.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

/// Room for what the kernel says beside a datagram.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control<const LEN: usize>([u8; LEN]);

/// Length of `cmsghdr`: a length, a level, a type.
const CONTROL_HEADER: usize = 16;

const _: () = assert!(
    size_of::<libc::cmsghdr>() == CONTROL_HEADER,
    "control messages are read as 64-bit kernels write them"
);

/// Calls `each` with level, type and data of each control message.
fn for_each_control(mut bytes: &[u8], mut each: impl FnMut(i32, i32, &[u8])) {
    while let Some((header, _)) = bytes.split_first_chunk::<CONTROL_HEADER>() {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *header;
        let [i, j, k, l, m, n, o, p] = rest;
        let len = usize::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let Some(data) = bytes.get(CONTROL_HEADER..len) else {
            return;
        };
        each(
            i32::from_ne_bytes([i, j, k, l]),
            i32::from_ne_bytes([m, n, o, p]),
            data,
        );
        bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// A control message that has a datagram leave from an address; returns its length too.
fn source_control(source: IpAddr) -> (Control<40>, usize) {
    let mut control = Control([0; 40]);
    let (level, kind, data, at, octets): (_, _, usize, usize, &[u8]) = match &source {
        // The index of an adapter, the address to send from, and one that is not used here.
        IpAddr::V4(ip) => (libc::IPPROTO_IP, libc::IP_PKTINFO, 12, 4, &ip.octets()),
        IpAddr::V6(ip) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20, 0, &ip.octets()),
    };
    let bytes = &mut control.0;
    bytes[..8].copy_from_slice(&(CONTROL_HEADER + data).to_ne_bytes());
    bytes[8..12].copy_from_slice(&level.to_ne_bytes());
    bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
    let at = CONTROL_HEADER + at;
    bytes[at..at + octets.len()].copy_from_slice(octets);
    (control, (CONTROL_HEADER + data).next_multiple_of(8))
}

/// A piece of a frame: first of its head, then of its body.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    head: &'a [u8],
    body: &'a [Segment],
    len: usize,
}

impl<'a> Piece<'a> {
    /// Describes the bytes of a frame from `at` to `end`; `at` must be in the head.
    pub(super) fn new(burst: &'a Burst, frame: &'a Frame, at: usize, end: usize) -> Self {
        let head = frame.head.bytes();
        let from = at.min(head.len());
        let to = end.clamp(from, head.len());
        Self {
            head: &head[from..to],
            body: burst.body(frame),
            len: end - at,
        }
    }

    /// Describes memory of our own.
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self {
            head: bytes,
            body: &[],
            len: bytes.len(),
        }
    }

    /// How long it is.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Calls `each` with the pieces of memory that it is in.
    fn for_each(&self, mut each: impl FnMut(libc::iovec)) {
        each(libc::iovec {
            iov_base: self.head.as_ptr().cast_mut().cast(),
            iov_len: self.head.len(),
        });
        let mut left = self.len.saturating_sub(self.head.len());
        for segment in self.body {
            let len = segment.len().min(left);
            if len == 0 {
                return;
            }
            each(libc::iovec {
                iov_base: segment.address().cast_mut().cast(),
                iov_len: len,
            });
            left -= len;
        }
    }
}

/// Sends a datagram, from an address of the host's that is named or any.
#[expect(unsafe_code, reason = "the datagram is in a guest's memory")]
pub(super) fn send(
    socket: BorrowedFd<'_>,
    to: &SocketAddr,
    source: Option<IpAddr>,
    datagram: Piece<'_>,
) -> io::Result<()> {
    let (mut name, name_len) = RawAddress::new(to);
    // Most datagrams are in one piece or two.
    let (mut few, mut count) = ([EMPTY_IOVEC; FEW], 0);
    let mut many = Vec::new();
    datagram.for_each(|iovec| {
        match few.get_mut(count) {
            Some(place) => *place = iovec,
            None if many.is_empty() => many.extend(few.iter().chain([&iovec])),
            None => many.push(iovec),
        }
        count += 1;
    });
    let first = if many.is_empty() {
        few.as_mut_ptr()
    } else {
        many.as_mut_ptr()
    };
    let mut control = source.map(source_control);
    let mut message = empty_header();
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name_len;
    message.msg_iov = first;
    message.msg_iovlen = count;
    if let Some((control, len)) = &mut control {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = *len;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: name, vectors and control are ours and live until the call returns; the pieces are borrowed, and the kernel
    // only reads them, and answers EFAULT where a guest took its memory away.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A datagram in a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Arrival {
    /// Which slot.
    pub(super) slot: usize,
    /// How long it is.
    pub(super) len: usize,
    /// From whom.
    pub(super) from: SocketAddr,
    /// The host's address that it came to, where the socket tells.
    pub(super) to: Option<IpAddr>,
}

/// Takes datagrams off sockets, into slots that a burst can point into.
pub(super) struct Receiver {
    slots: Slots,
    used: usize,
}

impl Receiver {
    /// Reserves the memory.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            slots: Slots::new()?,
            used: 0,
        })
    }

    /// How many datagrams can still be taken until [`Receiver::release`].
    pub(super) const fn room(&self) -> usize {
        SLOTS - self.used
    }

    /// Hears that no burst points into the slots any more.
    pub(super) fn release(&mut self) {
        self.used = 0;
    }

    /// Takes `limit` datagrams at most, and calls `each` with them; it tells whether the slot is in use from now on. Returns
    /// how many there were.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        limit: usize,
        mut each: impl FnMut(&Slots, Arrival) -> bool,
    ) -> io::Result<usize> {
        let mut taken = 0;
        while taken < limit {
            let asked = (limit - taken).min(self.room()).min(BATCH);
            let got = match self.receive_batch(socket, asked, &mut each) {
                Err(error) if taken == 0 => return Err(error),
                got => got.unwrap_or(0),
            };
            taken += got;
            if got < asked || got == 0 {
                break;
            }
        }
        Ok(taken)
    }

    #[expect(unsafe_code, reason = "std has no recvmmsg")]
    fn receive_batch(
        &mut self,
        socket: BorrowedFd<'_>,
        limit: usize,
        each: &mut impl FnMut(&Slots, Arrival) -> bool,
    ) -> io::Result<usize> {
        const CONTROL: usize = 64;
        if limit == 0 {
            return Ok(0);
        }
        let first = self.used;
        let mut names = [RawAddress::EMPTY; BATCH];
        let mut controls = [Control([0; CONTROL]); BATCH];
        let mut iovecs = [EMPTY_IOVEC; BATCH];
        let mut messages = [libc::mmsghdr {
            msg_hdr: empty_header(),
            msg_len: 0,
        }; BATCH];
        for index in 0..limit {
            iovecs[index] = self.slots.iovec(first + index);
            let header = &mut messages[index].msg_hdr;
            header.msg_name = names[index].0.as_mut_ptr().cast();
            header.msg_namelen = 28;
            header.msg_iov = &raw mut iovecs[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        let count = u32::try_from(limit).unwrap_or_default();
        let (descriptor, messages_at) = (socket.as_raw_fd(), messages.as_mut_ptr());
        // SAFETY: names, controls and vectors are ours, live until the call returns and are as long as they are said to be;
        // the slots are not in use by a burst, and only the kernel writes to them.
        let got = unsafe {
            libc::recvmmsg(
                descriptor,
                messages_at,
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(got) = usize::try_from(got) else {
            return Err(io::Error::last_os_error());
        };
        for (index, message) in messages.iter().enumerate().take(got) {
            let Some(from) = RawAddress::read(&names[index].0) else {
                continue;
            };
            let header = &message.msg_hdr;
            let mut to = None;
            let len = header.msg_controllen.min(CONTROL);
            for_each_control(&controls[index].0[..len], |level, kind, data| {
                to = to.or_else(|| local_address(level, kind, data));
            });
            let arrival = Arrival {
                slot: first + index,
                len: usize::try_from(message.msg_len).unwrap_or_default(),
                from,
                to,
            };
            if header.msg_flags & libc::MSG_TRUNC == 0 && each(&self.slots, arrival) {
                self.used = first + index + 1;
            }
        }
        Ok(got)
    }
}

fn local_address(level: i32, kind: i32, data: &[u8]) -> Option<IpAddr> {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let ip: [u8; 4] = data.get(4..8)?.try_into().ok()?;
            Some(Ipv4Addr::from(ip).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let ip: [u8; 16] = data.get(..16)?.try_into().ok()?;
            Some(Ipv6Addr::from(ip).into())
        }
        _ => None,
    }
}

/// Who told of an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// The host itself.
    Local,
    /// An ICMP message.
    Icmp,
    /// An ICMPv6 message.
    Icmp6,
}

/// What the kernel tells of an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Report {
    /// To whom the datagram was sent that it is about.
    pub(super) to: SocketAddr,
    /// The error.
    pub(super) errno: i32,
    /// Who told.
    pub(super) origin: Origin,
    /// The type of the ICMP message.
    pub(super) kind: u8,
    /// Its code.
    pub(super) code: u8,
    /// The largest packet that passes, where the error is about that.
    pub(super) info: u32,
    /// Who sent the ICMP message.
    pub(super) offender: Option<IpAddr>,
    /// What the datagram begins with, behind the transport's header for UDP.
    pub(super) datagram: Vec<u8>,
}

/// Takes one report of an error off a socket.
#[expect(unsafe_code, reason = "std has no error queue")]
pub(super) fn take_report(socket: BorrowedFd<'_>) -> io::Result<Option<Report>> {
    const CONTROL: usize = 512;
    let mut name = RawAddress::EMPTY;
    let mut data = [0u8; QUOTE];
    let mut control = Control([0; CONTROL]);
    let mut iovec = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: QUOTE,
    };
    let mut message = empty_header();
    message.msg_name = name.0.as_mut_ptr().cast();
    message.msg_namelen = 28;
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: name, data and control are ours, live until the call returns and are as long as they are said to be.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(got) = usize::try_from(got) else {
        return Err(io::Error::last_os_error());
    };
    let mut report = None;
    let len = message.msg_controllen.min(CONTROL);
    for_each_control(&control.0[..len], |level, kind, told| {
        let errors = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        if errors && report.is_none() {
            report = read_report(&name, told);
        }
    });
    Ok(report.map(|report| Report {
        datagram: data[..got.min(QUOTE)].to_vec(),
        ..report
    }))
}

/// Reads `sock_extended_err` and the address behind it.
fn read_report(to: &RawAddress, told: &[u8]) -> Option<Report> {
    let number = |at: usize| Some(u32::from_ne_bytes(told.get(at..at + 4)?.try_into().ok()?));
    let origin = match *told.get(4)? {
        1 => Origin::Local,
        2 => Origin::Icmp,
        3 => Origin::Icmp6,
        _ => return None,
    };
    let offender = told.get(16..).and_then(RawAddress::read);
    Some(Report {
        to: RawAddress::read(&to.0)?,
        errno: i32::try_from(number(0)?).ok()?,
        origin,
        kind: *told.get(5)?,
        code: *told.get(6)?,
        info: number(8)?,
        offender: offender
            .map(|address| address.ip())
            .filter(|ip| !ip.is_unspecified()),
        datagram: Vec::new(),
    })
}

/// Sets an option of a socket that is a number, or bytes that hold no pointer.
#[expect(unsafe_code, reason = "socket2 does not know these options")]
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let len = u32::try_from(value.len()).unwrap_or_default();
    let descriptor = socket.as_raw_fd();
    // SAFETY: the value is borrowed, and as long as it is said to be; the kernel only reads it.
    match unsafe { libc::setsockopt(descriptor, level, option, value.as_ptr().cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets more datagrams wait at a socket than usual, as far as the system lets us; no harm is done if it does not.
pub(super) fn let_wait(socket: BorrowedFd<'_>, bytes: libc::c_int) {
    // What an operator has set as the limit for everybody does not bind who may set it.
    let forced = set_option(
        socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        &bytes.to_ne_bytes(),
    );
    if forced.is_err() {
        let _ = set_option(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            &bytes.to_ne_bytes(),
        );
    }
}

/// Has a socket tell of errors, of either family.
pub(super) fn report_errors(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set_option(socket, level, option, &1i32.to_ne_bytes())
}

/// Has a socket tell to which of the host's addresses datagrams came.
pub(super) fn report_destinations(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    set_option(socket, level, option, &1i32.to_ne_bytes())
}

/// Says whether datagrams of a socket may be cut into parts on their way.
pub(super) fn set_dont_fragment(socket: BorrowedFd<'_>, v6: bool, dont: bool) -> io::Result<()> {
    let (level, option, value) = match (v6, dont) {
        (false, true) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        (false, false) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        ),
        (true, true) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
        (true, false) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
    };
    set_option(socket, level, option, &value.to_ne_bytes())
}

/// Says what a failure to send or connect means to a guest, if it means something.
pub(super) fn unreachable(error: &io::Error) -> Option<Unreachable> {
    match error.raw_os_error()? {
        libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT => Some(Unreachable::Net),
        libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => Some(Unreachable::Host),
        libc::EACCES | libc::EPERM => Some(Unreachable::Prohibited),
        libc::ENOPROTOOPT => Some(Unreachable::Protocol),
        _ => None,
    }
}

/// How many descriptors the process may have open.
#[expect(unsafe_code, reason = "std cannot ask for a limit")]
pub(super) fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one structure, which is ours.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[expect(unsafe_code, reason = "the structure has padding on some targets")]
fn empty_header() -> libc::msghdr {
    // SAFETY: it is numbers and pointers, for which zero is a value.
    unsafe { mem::zeroed() }
}
