//! Whether an adapter has a carrier, asked for at short intervals (`ETHTOOL_GLINK` in `linux/ethtool.h`).
//!
//! # Theory of operation
//!
//! The kernel tells of carriers by itself, but of those that are lost only once a second for all adapters of the machine
//! together: of two cables that are pulled at once, it tells of the second a second late. Who asks is told the truth, and
//! newer kernels then tell everybody. The question takes the lock of the kernel's whole network configuration,
//! so that a thread of its own asks, which may wait. It ends when nobody wants to know any more.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::adapter::{Adapter, AdapterName};

/// How often the kernel is asked.
const INTERVAL: Duration = Duration::from_millis(100);

/// Whether an adapter has a carrier, as far as is known; it is taken to have one until the kernel says otherwise.
pub(in crate::ports) struct Carrier {
    shared: Arc<Shared>,
    /// The thread ends when this is dropped.
    _end: Sender<Infallible>,
}

struct Shared {
    there: AtomicBool,
    /// Readable when the kernel, when asked, has said something new.
    news: EventFd,
}

impl Carrier {
    /// Asks from now on about whichever adapter has the name.
    pub(in crate::ports) fn watch(name: AdapterName) -> io::Result<Self> {
        let adapter = Adapter::new(name)?;
        let shared = Arc::new(Shared {
            there: AtomicBool::new(true),
            news: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        });
        let (end, ended) = bounded(0);
        let asking = Arc::clone(&shared);
        let named = thread::Builder::new().name("uplink carrier".to_owned());
        named.spawn(move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Ok(there) = adapter.has_carrier() {
                    asking.hear(there);
                }
            }
        })?;
        Ok(Self { shared, _end: end })
    }

    /// Whether there is one.
    pub(in crate::ports) fn is_there(&self) -> bool {
        self.shared.there.load(Ordering::Relaxed)
    }

    /// Notes what the kernel told unasked.
    pub(in crate::ports) fn note(&self, there: bool) {
        self.shared.there.store(there, Ordering::Relaxed);
    }

    /// Tells whether the kernel, when asked, has said something new since the last time.
    pub(in crate::ports) fn take_news(&self) -> bool {
        self.shared.news.read().is_ok()
    }
}

impl AsRawFd for Carrier {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.news.as_raw_fd()
    }
}

impl Shared {
    fn hear(&self, there: bool) {
        if self.there.swap(there, Ordering::Relaxed) != there {
            // It can only fail where it is readable already.
            let _ = self.news.write(1);
        }
    }
}
