//! The fast lane of an uplink: frames past the kernel's stack by AF_XDP (`Documentation/networking/af_xdp.rst`).
//!
//! # Theory of operation
//!
//! A program at the adapter (`program.rs`) tells what is for the host from what is for stations behind the switch.
//! The latter goes to sockets of ours, one for each queue, in memory that the kernel and we share (`queue.rs`). All else
//! takes the way it always took, so that the host goes on using the adapter; and the uplink's packet socket sees it
//! there. A lane is thus never the only way in: frames of queues that have no socket, and those that come while there is
//! no lane, come in by the packet socket.
//!
//! What leaves, leaves by the lane. It passes neither the queueing discipline nor packet sockets, is segmented here, and
//! is given its checksum here.
//!
//! The adapter reads and writes our memory itself where its driver can (*zero copy*). Elsewhere the kernel copies; the
//! program runs in the driver (*native*) where that can do it, and in the stack (*generic*) otherwise. A frame that is
//! larger than a page comes in pieces, which kernels before 6.6 cannot do.
//!
//! The kernel hands tags that an adapter took off to nobody here, so that the adapter is told to leave them where they
//! are; it is told to take them off again when the lane is closed.
//!
//! Opening a lane, and closing it, waits for the adapter; a thread does both while frames flow (`Opener`).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

use crate::net::drops::Drops;
use crate::net::outbox::Egress;
use crate::ports::Sent;
use crate::ports::burst::Burst;
use crate::ports::egress::{Scratch, send_batch};
use crate::ports::kernel::{Adapter, AdapterName};
use crate::wire::ethernet::{HEADER_LEN, MacAddr, TAG_LEN};

use self::bpf::{Mode, Place, Program, SocketMap};
use self::memory::CHUNK;
use self::queue::{Part, Queue};
use self::socket::Binding;

mod bpf;
mod memory;
mod opener;
mod program;
mod queue;
mod socket;

pub(in crate::ports) use opener::Opener;

/// How many queues of an adapter have a socket at most.
const QUEUES: usize = 16;
/// How often, and after what pauses, a queue that is busy is tried again.
const BUSY_LOOKS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// What the kernel keeps free before a frame that comes in.
const HEADROOM: usize = 256;
/// From what length on drivers want to be told that a frame may lie in pieces.
const LONG: usize = 3400;

/// The adapter that a lane is for, as it is now.
#[derive(Clone, Copy)]
pub(in crate::ports) struct Wanted {
    /// Its name.
    pub(in crate::ports) name: AdapterName,
    /// Its number.
    pub(in crate::ports) index: i32,
    /// Its address; what is for it goes to the host.
    pub(in crate::ports) mac: MacAddr,
    /// Its largest packet.
    pub(in crate::ports) mtu: u16,
    /// Only if the adapter reads and writes our memory itself.
    pub(in crate::ports) zero_copy: bool,
}

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt}: {source}")]
pub(in crate::ports) struct Refusal {
    /// What was attempted.
    pub(in crate::ports) attempt: &'static str,
    /// The kernel's answer.
    pub(in crate::ports) source: io::Error,
}

impl Refusal {
    fn of(attempt: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { attempt, source }
    }

    fn because(attempt: &'static str, kind: io::ErrorKind, reason: &'static str) -> Self {
        Self {
            attempt,
            source: io::Error::new(kind, reason),
        }
    }
}

/// An open lane.
pub(in crate::ports) struct Lane {
    // The program ends before its sockets do.
    _place: Place,
    _sockets: SocketMap,
    queues: Vec<Queue>,
    /// The queue that is looked at first the next time.
    first: usize,
    scratch: Scratch,
    way: Way,
    _tags: InlineTags,
}

/// How frames pass.
#[derive(Clone, Copy)]
struct Way {
    mode: Mode,
    binding: Binding,
}

impl Lane {
    /// Opens a lane, the fastest that the adapter can have.
    pub(in crate::ports) fn open(wanted: &Wanted) -> Result<Self, Refusal> {
        let native = Self::open_in(wanted, Mode::Native);
        match native {
            Err(refusal) if !wanted.zero_copy && is_unable(&refusal.source) => {
                Self::open_in(wanted, Mode::Generic)
            }
            native => native,
        }
    }

    fn open_in(wanted: &Wanted, mode: Mode) -> Result<Self, Refusal> {
        let sockets = SocketMap::new(QUEUES).map_err(Refusal::of("make a map of its sockets"))?;
        let (queues, binding) = open_queues(wanted, mode)?;
        let tags = InlineTags::keep(wanted.name)?;
        for (number, queue) in (0..).zip(&queues) {
            sockets
                .insert(number, queue.as_raw_fd())
                .map_err(Refusal::of("enter a socket into the map"))?;
        }
        let place = attach(wanted, &sockets, mode)?;
        Ok(Self {
            _place: place,
            _sockets: sockets,
            queues,
            first: 0,
            scratch: Scratch::default(),
            way: Way { mode, binding },
            _tags: tags,
        })
    }

    /// What wakes whoever waits for frames.
    pub(in crate::ports) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.queues.iter().map(AsRawFd::as_raw_fd)
    }

    /// How it came out, in a few words.
    pub(in crate::ports) const fn words(&self) -> &'static str {
        match self.way {
            Way {
                binding: Binding {
                    zero_copy: true, ..
                },
                ..
            } => "zero copy, the program runs in the driver",
            Way {
                mode: Mode::Native, ..
            } => "the kernel copies frames, the program runs in the driver",
            Way {
                mode: Mode::Generic,
                ..
            } => "the kernel copies frames, the program runs in its stack",
        }
    }

    /// Adds frames that came in to the burst, as many as there are and fit.
    pub(in crate::ports) fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) {
        let count = self.queues.len();
        for ahead in 0..count {
            let number = (self.first + ahead) % count;
            if let Some(queue) = self.queues.get_mut(number) {
                queue.receive(burst, drops);
            }
        }
        self.first = (self.first + 1) % count.max(1);
    }

    /// Gives back the memory of frames that came in, to which no burst points any more.
    pub(in crate::ports) fn give_back(&mut self) {
        for queue in &mut self.queues {
            queue.give_back();
        }
    }

    /// Tells whether frames have come in.
    pub(in crate::ports) fn has_frames(&mut self) -> bool {
        self.queues.iter_mut().any(Queue::has_frames)
    }

    /// Tells whether a burst points into its memory.
    pub(in crate::ports) fn is_held(&self) -> bool {
        self.queues.iter().any(Queue::is_held)
    }

    /// Sends a batch of the burst's frames, and tells what the kernel says of the adapter.
    pub(in crate::ports) fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        drops: &mut Drops,
    ) -> (Sent, io::Result<()>) {
        let Some(queue) = self.queues.first_mut() else {
            return (Sent::default(), Ok(()));
        };
        let mut sending = queue.start();
        let sent = send_batch(&mut sending, burst, batch, &mut self.scratch, drops);
        (sent, queue.kick())
    }

    /// Reminds the kernel of frames for which the adapter had no room.
    pub(in crate::ports) fn remind(&mut self) {
        if let Some(queue) = self.queues.first_mut()
            && queue.has_waiting()
        {
            // What is wrong with the adapter, its link tells.
            let _ = queue.kick();
        }
    }
}

/// Opens a socket for each queue of the adapter, and tells how they are bound.
fn open_queues(wanted: &Wanted, mode: Mode) -> Result<(Vec<Queue>, Binding), Refusal> {
    const ATTEMPT: &str = "bind a socket to a queue of it";
    let long = usize::from(wanted.mtu) + HEADER_LEN + 2 * TAG_LEN > CHUNK - HEADROOM;
    let ways: Vec<_> = [(true, true), (true, false), (false, true), (false, false)]
        .map(|(zero_copy, pieces)| Binding { zero_copy, pieces })
        .into_iter()
        .filter(|way| way.pieces || !long)
        .filter(|way| !way.zero_copy || mode == Mode::Native)
        .filter(|way| way.zero_copy || !wanted.zero_copy)
        .collect();
    let open =
        |number, ways: &[_], part| Queue::open((wanted.index, number), ways, wanted.mtu, part);
    let mut opened = open(0, &ways, Part::Both);
    // The kernel is done with the socket of a lane that was closed only a while after it has said so.
    for _ in 0..BUSY_LOOKS {
        match &opened {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(BUSY_PAUSE);
                opened = open(0, &ways, Part::Both);
            }
            _ => break,
        }
    }
    let (first, binding) = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => Refusal::because(
            ATTEMPT,
            io::ErrorKind::ResourceBusy,
            "another socket of AF_XDP has it; two uplinks cannot share an adapter",
        ),
        Some(libc::ENOBUFS) => Refusal::because(
            ATTEMPT,
            io::ErrorKind::OutOfMemory,
            "the process may lock too little memory: raise its limit (LimitMEMLOCK=infinity), or grant CAP_IPC_LOCK",
        ),
        Some(libc::EINVAL | libc::EOPNOTSUPP) if long => Refusal::because(
            ATTEMPT,
            io::ErrorKind::Unsupported,
            "packets of its MTU come in several pieces, which takes Linux 6.6 and a driver that can do it",
        ),
        Some(libc::EOPNOTSUPP) if wanted.zero_copy => Refusal::because(
            ATTEMPT,
            io::ErrorKind::Unsupported,
            "its driver has no zero copy",
        ),
        _ => Refusal { attempt: ATTEMPT, source: error },
    })?;
    let mut queues = vec![first];
    for number in 1..QUEUES {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        match open(number, &[binding], Part::Receive) {
            Ok((queue, _)) => queues.push(queue),
            // There are no more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            // Its frames go to the host, and come in by the packet socket.
            Err(error) => {
                tracing::warn!(%error, queue = number, "a queue of an uplink is left to the packet socket");
                break;
            }
        }
    }
    Ok((queues, binding))
}

/// Has the adapter run the program.
fn attach(wanted: &Wanted, sockets: &SocketMap, mode: Mode) -> Result<Place, Refusal> {
    let instructions = program::redirect(wanted.mac, sockets.as_raw_fd());
    let long = usize::from(wanted.mtu) + HEADER_LEN + 2 * TAG_LEN > LONG;
    let mut refusal = None;
    // With programs that do not mind pieces, a veth's peer leaves frames as long as 64 KiB uncut.
    for pieces in [long, !long] {
        let program =
            Program::load(&instructions, pieces).map_err(Refusal::of("load a program for it"))?;
        match program.attach(wanted.index, mode) {
            Ok(place) => return Ok(place),
            Err(error) => {
                refusal.get_or_insert(error);
            }
        }
    }
    let source = refusal.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    let attempt = "attach a program to it";
    if source.raw_os_error() == Some(libc::EBUSY) {
        let reason = "it runs another program already; `ip link` shows which";
        return Err(Refusal::because(
            attempt,
            io::ErrorKind::ResourceBusy,
            reason,
        ));
    }
    Err(Refusal { attempt, source })
}

/// Whether an error means that the driver cannot do it, or that there is no driver of that kind.
fn is_unable(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported
        || matches!(
            number,
            Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTCONN | libc::ERANGE)
        )
}

/// Keeps the adapter from taking tags off, until it is dropped.
struct InlineTags {
    adapter: Adapter,
    /// Whether it took them off before.
    stripped: bool,
}

impl InlineTags {
    fn keep(name: AdapterName) -> Result<Self, Refusal> {
        let adapter = Adapter::new(name).map_err(Refusal::of("look at its settings"))?;
        let stripped = adapter.strips_tags();
        let this = Self { adapter, stripped };
        if stripped {
            let attempt = "have it leave VLAN tags in frames";
            this.adapter
                .strip_tags(false)
                .map_err(Refusal::of(attempt))?;
            if this.adapter.strips_tags() {
                let reason = "it always takes them off";
                return Err(Refusal::because(
                    attempt,
                    io::ErrorKind::Unsupported,
                    reason,
                ));
            }
        }
        Ok(this)
    }
}

impl Drop for InlineTags {
    fn drop(&mut self) {
        if self.stripped {
            // It may be gone.
            let _ = self.adapter.strip_tags(true);
        }
    }
}
