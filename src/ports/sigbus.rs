//! Guest memory that is taken away while it is mapped.
//!
//! # Theory of operation
//!
//! Whoever gave us a file can make it shorter, or let the huge pages behind it run out; touching what is gone raises
//! SIGBUS, and that would end the process for every guest. Mappings of guest memory are listed here. The handler puts
//! zero pages in the place of the whole mapping and notes that it [has vanished](Guard::has_vanished): the access goes on,
//! on nobody's memory, and the port is taken down by the worker at its next look. A fault anywhere else is passed on to
//! whoever handled it before.
//!
//! The handler takes no lock and allocates nothing: it reads a table of fixed size.

use std::io;
use std::mem;
use std::ptr;
use std::sync::Once;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// How many mappings are listed at most; further ones are refused.
const SLOTS: usize = 16_384;

struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    vanished: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        vanished: AtomicBool::new(false),
    }
}; SLOTS];

/// Counts the mappings that have vanished.
static VANISHED: AtomicU64 = AtomicU64::new(0);

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Keeps a mapping listed. To be dropped before the mapping is unmapped.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// Lists the mapping of `len` bytes at `start`.
    ///
    /// # Errors
    ///
    /// The table is full.
    pub(super) fn new(start: usize, len: usize) -> io::Result<Self> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        for (index, slot) in TABLE.iter().enumerate() {
            if slot.taken.swap(true, Ordering::AcqRel) {
                continue;
            }
            slot.vanished.store(false, Ordering::Relaxed);
            slot.start.store(start, Ordering::Relaxed);
            // The handler looks at the length first: with it the entry becomes valid.
            slot.len.store(len, Ordering::Release);
            return Ok(Self(index));
        }
        Err(io::Error::other("too many memory regions are mapped"))
    }

    /// Whether the memory was taken away.
    pub(super) fn has_vanished(&self) -> bool {
        TABLE[self.0].vanished.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let slot = &TABLE[self.0];
        slot.len.store(0, Ordering::Release);
        slot.taken.store(false, Ordering::Release);
    }
}

/// Counts up whenever some mapping vanishes, so that the frame path need not look at each.
#[inline]
pub(super) fn vanished_count() -> u64 {
    VANISHED.load(Ordering::Acquire)
}

/// Puts the handler in place.
#[expect(unsafe_code, reason = "signal handlers have no safe interface")]
fn install() {
    // SAFETY: all-zero is valid for the structure: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: both structures are valid, and the handler does only what a handler may.
    let installed = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) };
    assert_eq!(installed, 0, "a handler for SIGBUS can always be set");
    // The first to set it is the only one to call this.
    let _ = PREVIOUS.set(previous);
}

/// Replaces a mapping that has vanished, or passes the signal on.
#[expect(unsafe_code, reason = "signal handlers have no safe interface")]
extern "C" fn handle(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid structure to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the structure holds the address.
    let address = unsafe { info.si_addr() }.addr();
    for slot in &TABLE {
        let len = slot.len.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        if address.wrapping_sub(start) >= len {
            continue;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let at = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the whole range is one listed mapping of guest memory, which is raw memory to everybody here.
        let mapped = unsafe { libc::mmap(at, len, protection, flags, -1, 0) };
        if mapped == at {
            slot.vanished.store(true, Ordering::Release);
            VANISHED.fetch_add(1, Ordering::AcqRel);
            return;
        }
    }
    // Not ours: when the handler returns, the access faults again, and whoever was there before handles it.
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: the structure is one that the kernel gave us.
        unsafe { libc::sigaction(libc::SIGBUS, previous, ptr::null_mut()) };
    }
}
