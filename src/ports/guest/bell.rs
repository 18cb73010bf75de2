//! What the worker orders of a port's thread: to set the link up or down, and to end. Ordering never waits.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How often the link was set down and up: odd while it is down.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Order(u64);

impl Order {
    /// Whether the link is to be down.
    pub(super) const fn is_down(self) -> bool {
        self.0 % 2 == 1
    }

    /// How often it was set down.
    pub(super) const fn downs(self) -> u64 {
        self.0.div_ceil(2)
    }
}

/// Shared by a port and its thread.
#[derive(Debug)]
pub(super) struct Bell {
    event: EventFd,
    changes: AtomicU64,
    ended: AtomicBool,
}

impl Bell {
    /// Starts with the link up.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            changes: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// Orders the other state of the link.
    pub(super) fn turn_link(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.ring();
    }

    /// Orders the end.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        // An eventfd that is full is readable already.
        let _ = self.event.write(1);
    }

    /// Silences the bell, and tells whether it rang for the end. For the thread.
    pub(super) fn answer(&self) -> bool {
        // It need not have rung.
        let _ = self.event.read();
        self.ended.load(Ordering::Acquire)
    }

    /// What is ordered of the link now.
    pub(super) fn order(&self) -> Order {
        Order(self.changes.load(Ordering::Acquire))
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}
