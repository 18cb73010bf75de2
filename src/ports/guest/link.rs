//! The link between a guest port's connections and the worker that moves its frames.
//!
//! # Theory of operation
//!
//! Each connection of a VMM says what it wants attached: memory, features, rings. One connection *owns* the port, the
//! first whose rings run; what others want waits until the owner has stopped all its rings or is gone, and disturbs
//! nobody. Each change of what is attached has a number. Whoever makes one waits until the worker has taken it over:
//! from then on the worker touches nothing of what was attached before, so that memory can be unmapped and an index
//! reported. The worker looks at one atomic number a burst and takes the lock only when it has changed.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::memory::Memory;
use super::ring::Layout;
use crate::wire::ethernet::MacAddr;

/// Index of the queue that the guest receives from.
pub(super) const RECEIVEQ: usize = 0;
/// Index of the queue that the guest transmits to.
pub(super) const TRANSMITQ: usize = 1;

/// How many announcements wait for the worker at most.
const ANNOUNCEMENTS: usize = 16;

/// A ring that is to run.
#[derive(Clone, Debug)]
pub(super) struct RingPlan {
    /// Counts up with each start and each change of the layout.
    pub(super) epoch: u64,
    /// Where the ring is.
    pub(super) layout: Layout,
    /// By what the driver notifies us.
    pub(super) kick: Arc<OwnedFd>,
    /// By what we notify the driver, if it wants that at all.
    pub(super) call: Option<Arc<OwnedFd>>,
    /// Where the worker finds the index that the frontend said, and leaves the one at which it stopped.
    pub(super) stopped_at: Arc<AtomicU16>,
}

/// What a connection wants attached.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    /// Which connection.
    pub(super) connection: u64,
    /// The guest's memory.
    pub(super) memory: Option<Arc<Memory>>,
    /// The negotiated virtio features.
    pub(super) features: u64,
    /// The rings, by queue index; `None` for one that is not to run.
    pub(super) rings: [Option<RingPlan>; 2],
}

impl Attachment {
    fn runs(&self) -> bool {
        self.memory.is_some() && self.rings.iter().any(Option::is_some)
    }
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeMap<u64, Attachment>,
    owner: Option<u64>,
    attached: Option<Arc<Attachment>>,
    announcements: Vec<MacAddr>,
    connections: usize,
    last_connection: u64,
    acknowledged: u64,
    closed: bool,
}

/// Shared by the port's thread, its sessions and the worker.
#[derive(Debug)]
pub(super) struct Link {
    state: Mutex<State>,
    taken_over: Condvar,
    generation: AtomicU64,
    wake: EventFd,
}

impl Link {
    /// Starts without connections; `wake` is an eventfd by which the worker is woken.
    pub(super) fn new(wake: EventFd) -> Self {
        Self {
            state: Mutex::default(),
            taken_over: Condvar::new(),
            generation: AtomicU64::new(0),
            wake,
        }
    }

    /// The eventfd by which the worker is woken.
    pub(super) const fn wake(&self) -> &EventFd {
        &self.wake
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names a new connection.
    pub(super) fn connect(&self) -> u64 {
        let mut state = self.lock();
        state.connections += 1;
        state.last_connection += 1;
        let connection = state.last_connection;
        drop(self.change(state));
        connection
    }

    /// Forgets a connection. When this returns, the worker has let go of all that was its.
    pub(super) fn disconnect(&self, connection: u64) {
        let mut state = self.lock();
        state.connections = state.connections.saturating_sub(1);
        state.wanted.remove(&connection);
        arbitrate(&mut state);
        self.settle(self.change(state));
    }

    /// Says what a connection wants attached. When this returns, the worker has let go of what it no longer wants.
    pub(super) fn publish(&self, wanted: Attachment) {
        let mut state = self.lock();
        let connection = Some(wanted.connection);
        let owned = state.owner == connection;
        state.wanted.insert(wanted.connection, wanted);
        arbitrate(&mut state);
        // Who neither owned the port nor owns it now has changed nothing, and waits for its turn.
        if owned || state.owner == connection {
            self.settle(self.change(state));
        }
    }

    /// Tells whether all rings of a connection are to run.
    pub(super) fn runs(&self, connection: u64) -> bool {
        let state = self.lock();
        let wanted = state.wanted.get(&connection);
        wanted.is_some_and(|wanted| {
            wanted.memory.is_some() && wanted.rings.iter().all(Option::is_some)
        })
    }

    /// Has an announcement sent for a guest that has moved here.
    pub(super) fn announce(&self, mac: MacAddr) {
        let mut state = self.lock();
        if state.announcements.len() < ANNOUNCEMENTS {
            state.announcements.push(mac);
            drop(self.change(state));
        }
    }

    /// Notes a change and wakes the worker.
    fn change<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.generation.fetch_add(1, Ordering::Release);
        // An eventfd that is full is readable already.
        let _ = self.wake.write(1);
        state
    }

    /// Waits until the worker has taken over what is there now.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let generation = self.generation.load(Ordering::Acquire);
        while state.acknowledged < generation && !state.closed {
            state = self
                .taken_over
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The number of the last change. For the worker.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Hands the worker what is to be attached now; `take_over` must have let go of the rest when it returns.
    pub(super) fn take_over(
        &self,
        take_over: impl FnOnce(Option<&Arc<Attachment>>, usize, Vec<MacAddr>),
    ) -> u64 {
        let mut state = self.lock();
        let generation = self.generation.load(Ordering::Acquire);
        let announcements = std::mem::take(&mut state.announcements);
        take_over(state.attached.as_ref(), state.connections, announcements);
        state.acknowledged = generation;
        self.taken_over.notify_all();
        generation
    }

    /// Says that there is no worker any more, so that nobody waits for it.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.taken_over.notify_all();
    }
}

/// Decides who owns the port, and what is attached.
fn arbitrate(state: &mut State) {
    let runs = |connection: &u64| state.wanted.get(connection).is_some_and(Attachment::runs);
    if !state.owner.as_ref().is_some_and(runs) {
        state.owner = state
            .wanted
            .iter()
            .find(|(_, wanted)| wanted.runs())
            .map(|(connection, _)| *connection);
    }
    state.attached = state
        .owner
        .and_then(|owner| state.wanted.get(&owner))
        .map(|wanted| Arc::new(wanted.clone()));
}
