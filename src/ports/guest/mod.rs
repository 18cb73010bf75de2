//! A guest's port: a virtio-net device over vhost-user.
//!
//! # Theory of operation
//!
//! The control protocol runs on threads of the port (`door`, `session`); what it wants attached reaches the worker
//! through the `link`. The worker walks the rings (`virtq`, `packed`): the guest's transmit queue is read in bursts whose
//! heads are copied and whose bodies stay in guest memory until they are released; the receive queue is written with
//! one copy of each frame. A ring that makes no sense stops the port's rings until the frontend sets them up anew.
//!
//! # The link set down
//!
//! No frame passes from the moment on at which the link is set down: those of the guest are taken and dropped, as behind a
//! cable that was pulled. What the guest sees of it is its VMM's affair.
//!
//! * **QEMU** sets the guest's link down when its connection is closed, so the door closes it. The entrance is closed with
//!   it, as QEMU would connect again and set the link up. QEMU must have been started with `reconnect`, or it never comes
//!   back.
//! * QEMU waits for its first handshake before it boots. So a port to which nobody was connected goes on listening while
//!   its link is down: a VMM may connect and negotiate, and is cut off within a second or two after both its rings run. Up to
//!   then its guest sees a link without frames. A VMM whose rings do not run when the link is set down is treated
//!   alike. When the processes that were cut off have ended, the entrance is opened again: a VM that is started anew
//!   boots. In a namespace of processes that is not seen from here they cannot be told from running ones, and a new VMM
//!   waits until the link is up.
//! * Where the VMM listens, the port does not connect while the link is down: a QEMU that is started then waits for it.
//! * **Other VMMs** keep their connections. They have no way to show the link to the guest, and cloud-hypervisor gives its
//!   device up for good when it cannot connect again for a minute. They are known by claiming the device before they ask
//!   for its features; QEMU asks first.
//!
//! When the link is set up, the entrance is opened at once, or the connection is made at once.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::attached::AttachedRing;
use self::bell::Bell;
use self::door::Door;
use self::entrance::Entrance;
use self::link::{Attachment, Link, RECEIVEQ, RingPlan, TRANSMITQ};
use self::memory::Memory;
use self::ring::{Direction, RingFault};
use crate::net::drops::{DropReason, Drops};
use crate::net::offload::Capabilities;
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::egress::Scratch;
use crate::ports::sigbus;
use crate::ports::{OpenError, Port, PortFault, PortState, PortStatus, Sent, Watcher};
use crate::wire::arp::Arp;
use crate::wire::ethernet::MacAddr;
use crate::wire::virtio_net::{HEADER_LEN, MERGEABLE_HEADER_LEN, VirtioNetHeader};

mod attached;
mod bell;
mod connection;
mod door;
mod entrance;
mod link;
mod memory;
mod message;
mod packed;
mod peer;
mod position;
mod queues;
mod regions;
mod ring;
mod session;
mod virtq;

/// How long the worker looks for a guest's next frame before it asks to be woken: a few times what waking takes.
const POLL_TIME: Duration = Duration::from_micros(50);

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

/// A ring that the worker serves, and for whom.
#[derive(Debug)]
struct Queue {
    ring: AttachedRing,
    connection: u64,
    plan: RingPlan,
}

/// By what a ring is known again: what was wrong with it may be right in another memory.
#[derive(Debug)]
struct Identity {
    connection: u64,
    epoch: u64,
    memory: Weak<Memory>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (self.connection, self.epoch) == (other.connection, other.epoch)
            && self.memory.ptr_eq(&other.memory)
    }
}

/// What the driver negotiated, as the frame path needs it.
#[derive(Clone, Copy, Debug, Default)]
struct Negotiated {
    features: u64,
    header_len: usize,
    mergeable: bool,
    capabilities: Capabilities,
}

impl Negotiated {
    fn new(features: u64) -> Self {
        let has = |bit: u32| features & 1 << bit != 0;
        let mergeable = has(VIRTIO_NET_F_MRG_RXBUF);
        let modern = mergeable || has(VIRTIO_F_VERSION_1);
        Self {
            features,
            header_len: if modern {
                MERGEABLE_HEADER_LEN
            } else {
                HEADER_LEN
            },
            mergeable,
            capabilities: Capabilities {
                checksum: has(VIRTIO_NET_F_GUEST_CSUM),
                tso4: has(VIRTIO_NET_F_GUEST_TSO4),
                tso6: has(VIRTIO_NET_F_GUEST_TSO6),
                ecn: has(VIRTIO_NET_F_GUEST_ECN),
            },
        }
    }
}

/// The port of one virtual machine.
pub struct Guest {
    name: String,
    link: Arc<Link>,
    seen: u64,
    watcher: Option<Watcher>,
    queues: [Option<Queue>; 2],
    /// The ring plans that proved broken: not attached again.
    broken: [Option<Identity>; 2],
    negotiated: Negotiated,
    connections: usize,
    /// How many mappings had vanished at the last look.
    vanished: u64,
    announcements: Vec<MacAddr>,
    ingress: queues::Ingress,
    egress: queues::Egress,
    scratch: Scratch,
    role: Role,
    thread: Option<JoinHandle<()>>,
    bell: Arc<Bell>,
    /// Whether the link is set down.
    down: bool,
}

impl Guest {
    /// Opens the port's socket and starts the thread that serves it.
    ///
    /// # Errors
    ///
    /// The socket's path cannot be used, or the system is out of threads or descriptors.
    pub fn open(spec: &Spec) -> Result<Self, OpenError> {
        let system = |source: io::Error| OpenError::System {
            attempt: format!("serve VM {}", spec.name),
            source,
        };
        let entrance = match spec.role {
            Role::Server => Some(Entrance::open(&spec.socket)?),
            Role::Client => None,
        };
        let link = Arc::new(Link::new(
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(system)?,
        ));
        let bell = Arc::new(Bell::new().map_err(system)?);
        let door = Door::new(spec.clone(), Arc::clone(&link), entrance, Arc::clone(&bell));
        let door = door.map_err(system)?;
        let thread = thread::Builder::new()
            .name(format!("vm {}", spec.name))
            .spawn(move || door.run());
        Ok(Self {
            name: spec.name.clone(),
            link,
            seen: 0,
            watcher: None,
            queues: [None, None],
            broken: [None, None],
            negotiated: Negotiated::default(),
            connections: 0,
            vanished: sigbus::vanished_count(),
            announcements: Vec::new(),
            ingress: queues::Ingress::default(),
            egress: queues::Egress::default(),
            scratch: Scratch::default(),
            role: spec.role,
            thread: Some(thread.map_err(system)?),
            bell,
            down: false,
        })
    }

    /// Takes over what the control protocol wants attached.
    #[cold]
    fn take_over(&mut self) -> Result<(), PortFault> {
        let link = Arc::clone(&self.link);
        let mut result = Ok(());
        self.seen = link.take_over(|attachment, connections, announcements| {
            self.connections = connections;
            self.announcements.extend(announcements);
            if let Some(attachment) = attachment {
                self.negotiated = Negotiated::new(attachment.features);
            }
            for queue in [RECEIVEQ, TRANSMITQ] {
                if let Err(fault) = self.attach(queue, attachment) {
                    result = Err(fault);
                }
            }
        });
        result
    }

    /// Makes one queue what the attachment says.
    fn attach(
        &mut self,
        index: usize,
        attachment: Option<&Arc<Attachment>>,
    ) -> Result<(), PortFault> {
        let wanted = attachment.and_then(|attachment| {
            let plan = attachment.rings[index].as_ref()?;
            Some((
                attachment.connection,
                attachment.features,
                attachment.memory.as_ref()?,
                plan,
            ))
        });
        let Some((connection, features, memory, plan)) = wanted else {
            self.detach(index);
            return Ok(());
        };
        let identity = Identity {
            connection,
            epoch: plan.epoch,
            memory: Arc::downgrade(memory),
        };
        if self.broken[index].as_ref() == Some(&identity) {
            return Ok(());
        }
        if let Some(queue) = &mut self.queues[index]
            && (queue.connection, queue.plan.epoch) == (connection, plan.epoch)
            && queue.ring.fits(features)
            && Arc::ptr_eq(queue.ring.any().memory(), memory)
            && Arc::ptr_eq(&queue.plan.kick, &plan.kick)
        {
            let moved = match (&queue.plan.call, &plan.call) {
                (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
                (old, _) => old.is_none(),
            };
            queue.ring.any_mut().set_call(plan.call.clone());
            queue.plan = plan.clone();
            if moved {
                // What was used while the interrupt was nowhere, or elsewhere, was not heard of.
                queue.ring.any().notify();
            }
            return Ok(());
        }
        self.detach(index);
        let direction = if index == RECEIVEQ {
            Direction::ToGuest
        } else {
            Direction::FromGuest
        };
        let base = plan.stopped_at.load(Ordering::Acquire);
        let ring = AttachedRing::attach(Arc::clone(memory), plan.layout, direction, features, base);
        let mut ring = ring.map_err(|fault| {
            self.broken[index] = Some(identity);
            ring_fault(index, fault)
        })?;
        ring.any_mut().set_call(plan.call.clone());
        if index == TRANSMITQ
            && let Some(watcher) = self.watcher
        {
            let watched = watcher.add(plan.kick.as_raw_fd());
            watched.map_err(|source| PortFault::Device {
                attempt: "watching a guest's eventfd",
                source,
            })?;
        }
        // A driver that was waiting when another backend died waits for this one.
        ring.any().notify();
        tracing::debug!(
            port = self.name,
            queue = queue_name(index),
            size = ring.any().layout().size,
            at = ring.any().position(),
            "a ring was attached"
        );
        self.queues[index] = Some(Queue {
            ring,
            connection,
            plan: plan.clone(),
        });
        Ok(())
    }

    /// Lets go of a queue and leaves its index where the session finds it.
    fn detach(&mut self, index: usize) {
        let Some(queue) = self.queues[index].take() else {
            return;
        };
        queue
            .plan
            .stopped_at
            .store(queue.ring.any().position(), Ordering::Release);
        if index == TRANSMITQ
            && let Some(watcher) = self.watcher
        {
            watcher.remove(queue.plan.kick.as_raw_fd());
        }
    }

    /// Takes the port's rings out of service if their memory was taken away.
    #[inline]
    fn check_memory(&mut self) -> Result<(), PortFault> {
        let count = sigbus::vanished_count();
        if count == self.vanished {
            Ok(())
        } else {
            self.look_at_memory(count)
        }
    }

    #[cold]
    fn look_at_memory(&mut self, count: u64) -> Result<(), PortFault> {
        self.vanished = count;
        let mut result = Ok(());
        for index in [RECEIVEQ, TRANSMITQ] {
            if self.queues[index]
                .as_ref()
                .is_some_and(|queue| queue.ring.any().memory().has_vanished())
            {
                result = Err(self.fail(index, RingFault::Vanished));
            }
        }
        result
    }

    /// Takes a queue out of service for what its guest wrote into it.
    #[cold]
    fn fail(&mut self, index: usize, fault: RingFault) -> PortFault {
        if let Some(queue) = &self.queues[index] {
            self.broken[index] = Some(Identity {
                connection: queue.connection,
                epoch: queue.plan.epoch,
                memory: Arc::downgrade(queue.ring.any().memory()),
            });
        }
        self.detach(index);
        ring_fault(index, fault)
    }
}

fn queue_name(index: usize) -> &'static str {
    if index == RECEIVEQ {
        "receive queue"
    } else {
        "transmit queue"
    }
}

fn ring_fault(index: usize, fault: RingFault) -> PortFault {
    PortFault::Ring {
        queue: queue_name(index),
        reason: fault.to_string(),
    }
}

impl Port for Guest {
    fn watch(&mut self, watcher: Watcher) -> io::Result<()> {
        watcher.add(self.link.wake().as_raw_fd())?;
        self.watcher = Some(watcher);
        Ok(())
    }

    fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) -> Result<(), PortFault> {
        if self.link.generation() != self.seen {
            self.take_over()?;
        }
        self.check_memory()?;
        for mac in self.announcements.drain(..) {
            burst.push_owned(Arp::announcement(mac), VirtioNetHeader::default());
        }
        let Some(queue) = &mut self.queues[TRANSMITQ] else {
            return Ok(());
        };
        let received =
            queue
                .ring
                .receive(&mut self.ingress, self.negotiated.header_len, burst, drops);
        received.map_err(|fault| {
            burst.clear();
            self.ingress.forget();
            self.fail(TRANSMITQ, fault)
        })
    }

    fn release(&mut self, burst: &mut Burst) {
        burst.clear();
        if let Some(queue) = &mut self.queues[TRANSMITQ] {
            queue.ring.release(&mut self.ingress);
        }
    }

    fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        if self.link.generation() != self.seen {
            self.take_over()?;
        }
        self.check_memory()?;
        let queue = self.queues[RECEIVEQ].as_mut().filter(|_| !self.down);
        let Some(queue) = queue else {
            drops.count_many(DropReason::PortDown, batch.len() as u64);
            return Ok(Sent::default());
        };
        let sent = queue.ring.transmit(
            &mut self.egress,
            self.negotiated,
            burst,
            batch,
            &mut self.scratch,
            drops,
        );
        let sent = sent.map_err(|fault| self.fail(RECEIVEQ, fault))?;
        // Nobody may look here again soon, if this very batch met memory that is gone.
        self.check_memory()?;
        Ok(sent)
    }

    fn arm(&mut self) -> bool {
        let more = match &mut self.queues[TRANSMITQ] {
            // A fault is reported by the next receive.
            Some(queue) => queue.ring.any_mut().arm().unwrap_or(true),
            None => false,
        };
        more || self.vanished != sigbus::vanished_count() || self.link.generation() != self.seen
    }

    fn disarm(&mut self) {
        if let Some(queue) = &mut self.queues[TRANSMITQ] {
            queue.ring.any_mut().disarm();
        }
    }

    fn status(&self) -> PortStatus {
        let state = match self.connections {
            _ if self.down => PortState::Down,
            0 => PortState::Waiting,
            _ if self.is_up() => PortState::Up,
            _ => PortState::Connected,
        };
        let features = match state {
            PortState::Up => self.negotiated.features,
            PortState::Waiting | PortState::Connected | PortState::Down => 0,
        };
        let named = session::FEATURE_NAMES
            .iter()
            .filter(|(bit, _)| features & 1 << bit != 0);
        PortStatus {
            state,
            features: named.map(|(_, name)| *name).collect(),
        }
    }

    fn is_up(&self) -> bool {
        !self.down && self.queues.iter().all(Option::is_some)
    }

    fn set_link(&mut self, up: bool) {
        if self.down == up {
            self.down = !up;
            self.bell.turn_link();
        }
    }

    fn poll_time(&self) -> Duration {
        POLL_TIME
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for index in [RECEIVEQ, TRANSMITQ] {
            self.detach(index);
        }
        self.link.close();
        self.bell.end();
        // A thread that connects may be waiting for a VMM. One that listens has the socket's file to remove.
        if self.role == Role::Server
            && let Some(thread) = self.thread.take()
        {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}
