//! One connection of a VMM: the vhost-user control protocol, as `vhost-user-backend` drives it.
//!
//! The framework keeps the protocol and maps the memory; our own vring type sees each change of a ring and hands the
//! whole of what is wanted to the [`Link`], which holds the reply back until the worker has taken it over. No thread of
//! the framework ever touches a ring.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{
    VhostUserBackend, VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT,
};
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::link::{Attachment, Link, RingPlan};
use super::memory::Memory;
use super::ring::Layout;
use crate::wire::ethernet::MacAddr;

/// The largest ring.
pub(super) const MAX_QUEUE_SIZE: usize = 32_768;
/// Receive and transmit queue.
pub(super) const QUEUES: usize = 2;

const fn bit(feature: u32) -> u64 {
    1 << feature
}

/// The negotiated features worth showing, with their names.
pub(super) const FEATURE_NAMES: [(u32, &str); 15] = [
    (VIRTIO_NET_F_CSUM, "csum"),
    (VIRTIO_NET_F_GUEST_CSUM, "guest_csum"),
    (VIRTIO_NET_F_MTU, "mtu"),
    (VIRTIO_NET_F_GUEST_TSO4, "guest_tso4"),
    (VIRTIO_NET_F_GUEST_TSO6, "guest_tso6"),
    (VIRTIO_NET_F_GUEST_ECN, "guest_ecn"),
    (VIRTIO_NET_F_HOST_TSO4, "host_tso4"),
    (VIRTIO_NET_F_HOST_TSO6, "host_tso6"),
    (VIRTIO_NET_F_HOST_ECN, "host_ecn"),
    (VIRTIO_NET_F_MRG_RXBUF, "mrg_rxbuf"),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, "guest_announce"),
    (VIRTIO_RING_F_INDIRECT_DESC, "indirect_desc"),
    (VIRTIO_RING_F_EVENT_IDX, "event_idx"),
    (VIRTIO_F_IN_ORDER, "in_order"),
    (VIRTIO_F_RING_PACKED, "ring_packed"),
];

/// What every guest is offered. The control queue is the VMM's: it is offered because cloud-hypervisor shows its own
/// only then; QEMU ignores the bit.
const OFFERED: u64 = bit(VIRTIO_NET_F_CSUM)
    | bit(VIRTIO_NET_F_GUEST_CSUM)
    | bit(VIRTIO_NET_F_MTU)
    | bit(VIRTIO_NET_F_MAC)
    | bit(VIRTIO_NET_F_GUEST_TSO4)
    | bit(VIRTIO_NET_F_GUEST_TSO6)
    | bit(VIRTIO_NET_F_GUEST_ECN)
    | bit(VIRTIO_NET_F_HOST_TSO4)
    | bit(VIRTIO_NET_F_HOST_TSO6)
    | bit(VIRTIO_NET_F_HOST_ECN)
    | bit(VIRTIO_NET_F_MRG_RXBUF)
    | bit(VIRTIO_NET_F_CTRL_VQ)
    | bit(VIRTIO_NET_F_GUEST_ANNOUNCE)
    | bit(VIRTIO_RING_F_INDIRECT_DESC)
    | bit(VIRTIO_RING_F_EVENT_IDX)
    | bit(VIRTIO_F_VERSION_1)
    | bit(VIRTIO_F_IN_ORDER)
    | bit(VIRTIO_F_RING_PACKED)
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

type Guard<'a> = MutexGuard<'a, State>;
type Mappings = GuestMemoryAtomic<GuestMemoryMmap<()>>;

#[derive(Debug, Default)]
struct RingState {
    layout: Layout,
    base: u16,
    ready: bool,
    enabled: bool,
    kick: Option<Arc<OwnedFd>>,
    call: Option<Arc<OwnedFd>>,
    epoch: u64,
    /// Where the worker finds and leaves its index; `None` before the ring has run.
    stopped_at: Option<Arc<AtomicU16>>,
}

#[derive(Debug, Default)]
struct State {
    memory: Option<Arc<Memory>>,
    features: u64,
    rings: [RingState; QUEUES],
}

/// What a connection has said so far.
#[derive(Debug)]
pub(super) struct Session {
    link: Arc<Link>,
    connection: u64,
    mac: MacAddr,
    mtu: u16,
    state: Mutex<State>,
}

impl Session {
    /// Starts a connection's session.
    pub(super) fn new(link: Arc<Link>, connection: u64, mac: MacAddr, mtu: u16) -> Arc<Self> {
        Arc::new(Self {
            link,
            connection,
            mac,
            mtu,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what is wanted now to the link, and waits until the worker has let go of what is not.
    fn publish(&self, state: Guard<'_>) {
        let mut rings = [None, None];
        for (plan, ring) in rings.iter_mut().zip(&state.rings) {
            *plan = ring.plan();
        }
        let wanted = Attachment {
            connection: self.connection,
            memory: state.memory.clone(),
            features: state.features,
            rings,
        };
        drop(state);
        self.link.publish(wanted);
    }

    /// Changes a ring; the change is published if the ring runs before or after it.
    fn change_ring(&self, index: usize, change: impl FnOnce(&mut RingState)) {
        let mut state = self.lock();
        let Some(ring) = state.rings.get_mut(index) else {
            return;
        };
        let ran = ring.runs();
        let before = ring.layout;
        change(ring);
        let runs = ring.runs();
        if runs && (!ran || ring.layout != before) {
            ring.epoch += 1;
            ring.stopped_at = Some(Arc::new(AtomicU16::new(ring.base)));
        }
        if ran || runs {
            self.publish(state);
        }
    }
}

impl RingState {
    const fn runs(&self) -> bool {
        self.ready && self.enabled && self.layout.size > 0 && self.kick.is_some()
    }

    fn plan(&self) -> Option<RingPlan> {
        let (true, Some(kick), Some(stopped_at)) = (self.runs(), &self.kick, &self.stopped_at)
        else {
            return None;
        };
        Some(RingPlan {
            epoch: self.epoch,
            layout: self.layout,
            kick: Arc::clone(kick),
            call: self.call.clone(),
            stopped_at: Arc::clone(stopped_at),
        })
    }
}

/// The backend object that the framework calls.
#[derive(Clone, Debug)]
pub(super) struct Backend(pub(super) Arc<Session>);

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn acked_features(&self, features: u64) {
        let mut state = self.0.lock();
        if state.features != features {
            state.features = features;
            self.0.publish(state);
        }
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::CONFIG
    }

    fn reset_device(&self) {}

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // virtio_net_config: mac, status (link up), max_virtqueue_pairs, mtu.
        let mut config = self.0.mac.0.to_vec();
        for field in [1, 1, self.0.mtu] {
            config.extend_from_slice(&field.to_le_bytes());
        }
        let mut part = config.split_off(config.len().min(offset as usize));
        part.resize(size as usize, 0);
        part
    }

    fn update_memory(&self, mappings: Mappings) -> io::Result<()> {
        let memory = Memory::new(mappings.memory().into_inner())?;
        let mut state = self.0.lock();
        let old = state.memory.replace(Arc::new(memory));
        self.0.publish(state);
        // Unmapped here and not by the worker, which has let go of it by now.
        drop(old);
        Ok(())
    }

    /// No thread of the framework serves a ring: the workers do.
    fn queues_per_thread(&self) -> Vec<u64> {
        Vec::new()
    }

    fn handle_event(
        &self,
        _event: u16,
        _set: EventSet,
        _vrings: &[Ring],
        _thread: usize,
    ) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// For whom the framework is making vrings: it makes them by itself, in the order of the queues, and tells them
    /// nothing else.
    static MAKING: RefCell<Option<(Arc<Session>, usize)>> = const { RefCell::new(None) };
}

/// Says whose vrings are made while `make` runs.
pub(super) fn making_rings<T>(session: &Arc<Session>, make: impl FnOnce() -> T) -> T {
    MAKING.set(Some((Arc::clone(session), 0)));
    let made = make();
    MAKING.set(None);
    made
}

/// A vring that passes each change on to its session.
#[derive(Clone)]
pub(super) struct Ring {
    /// What the framework itself looks at.
    inner: VringMutex<Mappings>,
    session: Arc<Session>,
    index: usize,
}

impl<'a> VringStateGuard<'a, Mappings> for Ring {
    type G = MutexGuard<'a, VringState<Mappings>>;
}

impl<'a> VringStateMutGuard<'a, Mappings> for Ring {
    type G = MutexGuard<'a, VringState<Mappings>>;
}

impl VringT<Mappings> for Ring {
    fn new(memory: Mappings, max_queue_size: u16) -> Result<Self, QueueError> {
        let inner = VringMutex::new(memory, max_queue_size)?;
        let (session, index) = MAKING
            .with_borrow_mut(|making| {
                let (session, index) = making.as_mut()?;
                *index += 1;
                Some((Arc::clone(session), *index - 1))
            })
            .expect("vrings are made within `making_rings` only");
        Ok(Self {
            inner,
            session,
            index,
        })
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Mappings>> {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Mappings>> {
        self.inner.get_mut()
    }

    fn add_used(&self, _index: u16, _len: u32) -> Result<(), QueueError> {
        Ok(())
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        Ok(())
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        Ok(false)
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        Ok(())
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        Ok(false)
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        self.session
            .change_ring(self.index, |ring| ring.enabled = enabled);
    }

    fn set_queue_info(
        &self,
        descriptors: u64,
        available: u64,
        used: u64,
    ) -> Result<(), QueueError> {
        self.inner.set_queue_info(descriptors, available, used)?;
        self.session.change_ring(self.index, |ring| {
            ring.layout = Layout {
                size: ring.layout.size,
                descriptors,
                available,
                used,
            };
        });
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        let state = self.session.lock();
        let ring = &state.rings[self.index];
        ring.stopped_at
            .as_ref()
            .map_or(ring.base, |index| index.load(Ordering::Acquire))
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.inner.set_queue_next_avail(base);
        self.session.change_ring(self.index, |ring| {
            ring.base = base;
            if !ring.runs() {
                ring.stopped_at = None;
            }
        });
    }

    /// The worker resumes from the used index in memory; what the framework read of it does not matter.
    fn set_queue_next_used(&self, _index: u16) {}

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        // Packed rings may have any size, of which the framework would complain.
        if size.is_power_of_two() {
            self.inner.set_queue_size(size);
        }
        self.session
            .change_ring(self.index, |ring| ring.layout.size = size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.get_mut().get_queue_mut().set_ready(ready);
        self.session
            .change_ring(self.index, |ring| ring.ready = ready);
    }

    fn set_kick(&self, file: Option<File>) {
        let copy = file.as_ref().and_then(|file| {
            let copied = file.try_clone();
            copied
                .inspect_err(|error| tracing::warn!(%error, "a ring cannot run: its kick descriptor cannot be copied"))
                .ok()
        });
        self.inner.set_kick(file);
        self.session.change_ring(self.index, |ring| {
            ring.kick = copy.map(|file| Arc::new(OwnedFd::from(file)))
        });
    }

    fn read_kick(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn set_call(&self, file: Option<File>) {
        self.session.change_ring(self.index, |ring| {
            ring.call = file.map(|file| Arc::new(OwnedFd::from(file)))
        });
    }

    fn set_err(&self, _file: Option<File>) {}
}
