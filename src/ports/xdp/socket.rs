//! A socket of AF_XDP: registration of its memory, its four rings, and the calls that wake the kernel
//! (`Documentation/networking/af_xdp.rst`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use super::memory::{CHUNK, Frames, FromKernel, ToKernel};
use crate::ports::kernel::{checked, length, socket};

/// What the kernel keeps of frames that leave, beyond the ring.
const SEND_BUFFER: libc::c_int = 8 << 20;

/// An address of a frame's piece, or of a chunk.
pub(super) type Address = u64;

/// How a socket is bound to a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Binding {
    /// The adapter reads and writes our memory itself.
    pub(super) zero_copy: bool,
    /// A frame may lie in several chunks.
    pub(super) pieces: bool,
}

/// The rings of a socket.
pub(super) struct Rings {
    /// Chunks for the kernel to receive into.
    pub(super) fill: ToKernel<Address>,
    /// What came in.
    pub(super) received: FromKernel<libc::xdp_desc>,
    /// What is to leave.
    pub(super) transmit: ToKernel<libc::xdp_desc>,
    /// Chunks that have left.
    pub(super) completed: FromKernel<Address>,
}

/// How many chunks there are for either direction; powers of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// For what comes in.
    pub(super) receive: u32,
    /// For what leaves.
    pub(super) transmit: u32,
}

impl Sizes {
    /// Entries of the rings for what comes in. The kernel hands a chunk over before it says that it has taken it from
    /// the ring where it was, so that there are more entries than chunks.
    const fn receive_entries(self) -> u32 {
        2 * self.receive
    }

    /// Entries of the rings for what leaves.
    const fn transmit_entries(self) -> u32 {
        2 * self.transmit
    }
}

/// An open socket.
pub(super) struct XdpSocket(OwnedFd);

impl XdpSocket {
    /// Opens a socket that is bound to nothing, with these frames and with rings of these sizes. The frames must stay as
    /// long as the socket.
    pub(super) fn open(frames: &Frames, sizes: Sizes) -> io::Result<(Self, Rings)> {
        let this = Self(socket(libc::AF_XDP, libc::SOCK_RAW)?);
        let registration = libc::xdp_umem_reg {
            addr: frames.address(),
            len: frames.len() as u64,
            chunk_size: length(CHUNK),
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        this.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)?;
        for (option, entries) in [
            (libc::XDP_UMEM_FILL_RING, sizes.receive_entries()),
            (libc::XDP_UMEM_COMPLETION_RING, sizes.transmit_entries()),
            (libc::XDP_RX_RING, sizes.receive_entries()),
            (libc::XDP_TX_RING, sizes.transmit_entries()),
        ] {
            this.set(libc::SOL_XDP, option, &entries)?;
        }
        let force = this.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER);
        if force.is_err() {
            this.set(libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER)?;
        }
        let rings = this.rings(sizes)?;
        Ok((this, rings))
    }

    fn rings(&self, sizes: Sizes) -> io::Result<Rings> {
        const FILL_PAGE: libc::off_t = 0x1_0000_0000;
        const COMPLETION_PAGE: libc::off_t = 0x1_8000_0000;
        const _: () = assert!(FILL_PAGE.cast_unsigned() == libc::XDP_UMEM_PGOFF_FILL_RING);
        const _: () =
            assert!(COMPLETION_PAGE.cast_unsigned() == libc::XDP_UMEM_PGOFF_COMPLETION_RING);
        let none = libc::xdp_ring_offset {
            producer: 0,
            consumer: 0,
            desc: 0,
            flags: 0,
        };
        let mut offsets = libc::xdp_mmap_offsets {
            rx: none,
            tx: none,
            fr: none,
            cr: none,
        };
        let whole = size_of_val(&offsets);
        // Kernels before 5.4 answer with less, and do not know when to be woken.
        if self.ask(libc::XDP_MMAP_OFFSETS, &mut offsets)? != whole {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let socket = self.as_raw_fd();
        let (receive, transmit) = (sizes.receive_entries(), sizes.transmit_entries());
        Ok(Rings {
            fill: ToKernel::new(socket, FILL_PAGE, offsets.fr, receive)?,
            received: FromKernel::new(socket, libc::XDP_PGOFF_RX_RING, offsets.rx, receive)?,
            transmit: ToKernel::new(socket, libc::XDP_PGOFF_TX_RING, offsets.tx, transmit)?,
            completed: FromKernel::new(socket, COMPLETION_PAGE, offsets.cr, transmit)?,
        })
    }

    /// Binds the socket to a queue of the adapter with this index.
    #[expect(unsafe_code, reason = "std has no such sockets")]
    pub(super) fn bind(&self, index: i32, queue: u32, binding: Binding) -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "AF_XDP is 44")]
        let family = libc::AF_XDP as u16;
        let mut flags = libc::XDP_USE_NEED_WAKEUP;
        flags |= if binding.zero_copy {
            libc::XDP_ZEROCOPY
        } else {
            libc::XDP_COPY
        };
        if binding.pieces {
            flags |= libc::XDP_USE_SG;
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: family,
            sxdp_flags: flags,
            sxdp_ifindex: index.cast_unsigned(),
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let (at, len) = ((&raw const address).cast(), length(size_of_val(&address)));
        // SAFETY: the address is ours and as long as it is said to be; the kernel only reads it.
        checked(unsafe { libc::bind(self.as_raw_fd(), at, len) }).map(drop)
    }

    /// Has the kernel look at the transmit ring.
    #[expect(unsafe_code, reason = "std does not send nothing to nobody")]
    pub(super) fn send(&self) -> io::Result<()> {
        let (nothing, nobody) = (ptr::null(), ptr::null());
        let socket = self.as_raw_fd();
        // SAFETY: there is neither data nor an address.
        checked(unsafe { libc::sendto(socket, nothing, 0, libc::MSG_DONTWAIT, nobody, 0) })
            .map(drop)
    }

    /// Has the kernel look at the fill ring.
    #[expect(unsafe_code, reason = "std does not receive nothing from nobody")]
    pub(super) fn wake(&self) {
        let (nothing, nobody, len) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let socket = self.as_raw_fd();
        // What is wrong with the adapter, its link tells.
        // SAFETY: there is neither room for data nor for an address.
        unsafe { libc::recvfrom(socket, nothing, 0, libc::MSG_DONTWAIT, nobody, len) };
    }

    /// Only for options that the kernel reads from the value itself; the memory that a registration names is owned by
    /// whoever owns the socket.
    #[expect(unsafe_code, reason = "std has no such sockets")]
    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let (at, len) = (ptr::from_ref(value).cast(), length(size_of::<T>()));
        // SAFETY: the value is borrowed, and as long as it is said to be; the kernel only reads it.
        checked(unsafe { libc::setsockopt(self.as_raw_fd(), level, option, at, len) }).map(drop)
    }

    /// Only for options that are numbers; returns how long the answer is.
    #[expect(unsafe_code, reason = "std has no such sockets")]
    fn ask<T: Copy>(&self, option: libc::c_int, value: &mut T) -> io::Result<usize> {
        let mut len = length(size_of::<T>());
        let (at, level) = (ptr::from_mut(value).cast(), libc::SOL_XDP);
        // SAFETY: the value is borrowed, made of numbers, and as long as it is said to be.
        checked(unsafe { libc::getsockopt(self.as_raw_fd(), level, option, at, &raw mut len) })?;
        Ok(len as usize)
    }
}

impl AsRawFd for XdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
