//! Frames in and out of the process: guests over vhost-user, uplinks over AF_PACKET and
//! AF_XDP, host adapters over TAP.
//!
//! This layer knows frames and nothing of switching. `unsafe` is allowed here only, in the files that
//! `tests/tidy.rs` lists.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::net::Now;
use crate::net::drops::Drops;
use crate::net::gateway::Gateway;
use crate::net::nat::Nat;
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::wire::ethernet::MacAddr;

pub mod burst;
pub mod guest;
pub mod packet;
pub mod resolver;
pub mod sockets;
pub mod tap;

mod egress;
mod kernel;
mod sigbus;
mod unread;
mod xdp;

/// Why a port stopped working. The others do not notice.
#[derive(Debug, thiserror::Error)]
pub enum PortFault {
    /// A ring of a guest makes no sense.
    #[error("the {queue} makes no sense: {reason}")]
    Ring {
        /// Which queue.
        queue: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel took the device away.
    #[error("{attempt} failed: {source}")]
    Device {
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process lacks a privilege.
    #[error("cannot {attempt}: permission denied; {remedy}")]
    Permission {
        /// What was attempted, on what.
        attempt: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// There is no such adapter.
    #[error("there is no network adapter named {0:?}; `ip link` lists those there are")]
    NoAdapter(String),
    /// Anything else that the system refused.
    #[error("cannot {attempt}: {source}")]
    System {
        /// What was attempted, on what.
        attempt: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A socket's path cannot be used.
    #[error("cannot listen on {path}: {reason}")]
    Socket {
        /// The path.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// Lets the process open as many descriptors as it may at most. A guest takes a dozen and more.
///
/// # Errors
///
/// The kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    kernel::raise_descriptor_limit()
}

/// The state of a port, as it is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PortState {
    /// A guest port to which no VMM is connected.
    Waiting,
    /// A guest port whose VMM and driver are still negotiating.
    Connected,
    /// Frames flow.
    Up,
    /// The link is down.
    Down,
}

impl PortState {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Connected => "connected",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What a port says about itself.
#[derive(Clone, Debug)]
pub struct PortStatus {
    /// Whether frames flow.
    pub state: PortState,
    /// The negotiated features by name, in the order of their bits.
    pub features: Vec<&'static str>,
}

/// What became of a batch of frames that was handed to a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames that left.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames of the burst that the receiver had no buffer free for, one bit each.
    pub refused: u64,
}

/// What a physical adapter says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AdapterFacts {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Its speed in bits a second, where it tells.
    pub speed: Option<u64>,
}

/// By what means the frames of an adapter come and go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DriverFacts {
    /// Its name, as it is configured.
    pub name: &'static str,
    /// Why it is this one, in a few words.
    pub why: String,
}

/// Where frames come from and go to. A worker owns its ports; nothing here blocks.
pub trait Port: Send {
    /// Registers the descriptors that wake the worker for this port. The port keeps the watcher where its
    /// descriptors can change.
    ///
    /// # Errors
    ///
    /// The kernel refuses a registration.
    fn watch(&mut self, watcher: Watcher) -> io::Result<()>;

    /// Fills the burst with frames that came in, as many as there are and fit. The burst stays valid until
    /// [`Port::release`].
    ///
    /// # Errors
    ///
    /// The port's peer or device is broken; the port has taken itself down.
    fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) -> Result<(), PortFault>;

    /// Hears that receivers had no buffer free for those frames of the burst, one bit each; before [`Port::release`].
    fn refused(&mut self, _frames: u64) {}

    /// Gives the memory of the burst's frames back to where they came from.
    fn release(&mut self, burst: &mut Burst);

    /// Sends a batch of a burst's frames. What does not fit is dropped and counted.
    ///
    /// # Errors
    ///
    /// The port's peer or device is broken; the port has taken itself down.
    fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        drops: &mut Drops,
    ) -> Result<Sent, PortFault>;

    /// Asks to be woken when frames come in, and tells whether some came in meanwhile.
    fn arm(&mut self) -> bool;

    /// Tells that the worker looks by itself from now on, and need not be woken.
    fn disarm(&mut self) {}

    /// Whether a batch that is handed to this port can make it have frames to receive.
    fn answers(&self) -> bool {
        false
    }

    /// The state as it is shown.
    fn status(&self) -> PortStatus;

    /// Whether frames can be handed to this port.
    fn is_up(&self) -> bool;

    /// What the adapter behind this port says of itself, if there is one and it is there.
    fn adapter(&self) -> Option<AdapterFacts> {
        None
    }

    /// By what means the frames of the adapter behind this port come and go, if there is one and it is there.
    fn driver(&self) -> Option<DriverFacts> {
        None
    }

    /// Looks at what a descriptor that [`Watcher::add_event`] registered has to tell; the worker asks for the
    /// state afterwards.
    fn handle_event(&mut self) {}

    /// Sets the link towards the peer up or down, where the peer can be told.
    fn set_link(&mut self, _up: bool) {}

    /// How long the worker keeps looking here without finding anything before it asks to be woken.
    fn poll_time(&self) -> Duration {
        Duration::ZERO
    }

    /// The gateway behind this port, if it is one's.
    fn gateway(&self) -> Option<&Gateway> {
        None
    }

    /// The translator behind this port, if it has one.
    fn nat(&mut self) -> Option<&mut dyn Nat> {
        None
    }

    /// What an operator should know of the port, one sentence each.
    fn advisories(&self) -> Vec<String> {
        Vec::new()
    }

    /// The gateway behind this port, to be told something.
    fn gateway_mut(&mut self) -> Option<&mut Gateway> {
        None
    }

    /// Tells the present to a port that [answers](Port::answers), before a batch is handed to it or frames are received.
    fn set_now(&mut self, _now: Now) {}

    /// The next time at which [`Port::handle_timeout`] has work to do.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due. Called once when a worker takes the port, which starts its timers.
    fn handle_timeout(&mut self, _now: Now) {}

    /// Tells that this is the end. What the port has to say of it is received from it once more.
    fn handle_stop(&mut self, _now: Now) {}
}

/// Registers descriptors with the worker, for one port. Readiness is reported once each time it arises.
#[derive(Clone, Copy, Debug)]
pub struct Watcher {
    epoll: RawFd,
    token: u64,
}

impl Watcher {
    /// The bit that tells a change from frames.
    const EVENT: u64 = 1 << 32;

    /// Registers with the epoll instance `epoll` under `token`, which has at most 32 bits.
    pub const fn new(epoll: RawFd, token: u64) -> Self {
        Self { epoll, token }
    }

    /// Starts to watch a descriptor for being readable.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn add(&self, descriptor: RawFd) -> io::Result<()> {
        self.register(descriptor, self.token)
    }

    /// Starts to watch a descriptor that tells of changes and brings no frames: [`Port::handle_event`] is called when
    /// it becomes readable, also while the worker looks at the port by itself.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn add_event(&self, descriptor: RawFd) -> io::Result<()> {
        self.register(descriptor, self.token | Self::EVENT)
    }

    /// Takes a token apart: the port's, and whether it stands for a change.
    pub const fn read(token: u64) -> (u64, bool) {
        (token & !Self::EVENT, token & Self::EVENT != 0)
    }

    fn register(&self, descriptor: RawFd, token: u64) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::EPOLLIN | epoll::Events::EPOLLET, token);
        epoll::ctl(
            self.epoll,
            epoll::ControlOptions::EPOLL_CTL_ADD,
            descriptor,
            event,
        )
    }

    /// Stops watching a descriptor, which must still be open: one that others hold too would be watched for ever.
    pub fn remove(&self, descriptor: RawFd) {
        let event = epoll::Event::new(epoll::Events::empty(), 0);
        // A descriptor that is not registered needs no more.
        let _ = epoll::ctl(
            self.epoll,
            epoll::ControlOptions::EPOLL_CTL_DEL,
            descriptor,
            event,
        );
    }
}

/// Every kind of port. Adding one is a variant here and a file beside this one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortSpec {
    /// A virtual machine's virtio-net device.
    Guest(guest::Spec),
    /// A physical adapter.
    Packet(packet::Spec),
    /// A TAP device through which the host takes part.
    Tap(tap::Spec),
}

impl PortSpec {
    /// Opens the port this describes.
    ///
    /// # Errors
    ///
    /// A socket or device cannot be had; the error says why and what to do.
    pub fn open(&self) -> Result<Box<dyn Port>, OpenError> {
        Ok(match self {
            Self::Guest(spec) => Box::new(guest::Guest::open(spec)?),
            Self::Packet(spec) => Box::new(packet::Packet::open(spec)?),
            Self::Tap(spec) => Box::new(tap::Tap::open(spec)?),
        })
    }

    /// Returns the word for the kind of port.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Guest(_) => "guest",
            Self::Packet(_) => "uplink",
            Self::Tap(_) => "host",
        }
    }

    /// Returns the hardware address that belongs to the port, if one does.
    pub fn mac(&self) -> Option<MacAddr> {
        match self {
            Self::Guest(spec) => Some(spec.mac),
            Self::Packet(_) => None,
            Self::Tap(spec) => Some(spec.mac),
        }
    }
}
