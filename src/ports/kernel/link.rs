//! The link of a device of the kernel, as it was last seen.

use std::io;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::net::drops::{DropReason, Drops};
use crate::net::outbox::Egress;
use crate::ports::{PortState, PortStatus};

/// Whether a device is there and has a link, and when it is to be looked at again. Down at first.
#[derive(Debug)]
pub(in crate::ports) struct Link {
    kind: &'static str,
    device: String,
    up: bool,
    look_at: Option<Instant>,
    /// Why the device could not be used at the last look, where it is there.
    refusal: Option<String>,
}

impl Link {
    /// Follows the device of this name; `kind` is what the log calls it.
    pub(in crate::ports) fn new(kind: &'static str, device: &str) -> Self {
        Self {
            kind,
            device: device.to_owned(),
            up: false,
            look_at: None,
            refusal: None,
        }
    }

    /// Whether there was a link at the last look.
    pub(in crate::ports) const fn is_up(&self) -> bool {
        self.up
    }

    /// Notes what a look at the device found. One that cannot be looked at has no link.
    pub(in crate::ports) fn found(&mut self, found: io::Result<bool>) {
        let up = match found {
            Ok(up) => {
                self.refusal = None;
                up
            }
            Err(error) => {
                self.refuse_device(&error);
                false
            }
        };
        self.set(up);
    }

    /// Says why a device cannot be used, once where it is there and somebody should look at it.
    fn refuse_device(&mut self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::ENODEV) {
            self.refusal = None;
            debug!(device = self.device, "the {} is not there", self.kind);
            return;
        }
        let reason = error.to_string();
        if self.refusal.as_ref() != Some(&reason) {
            warn!(device = self.device, %error, "the {} cannot be used", self.kind);
            self.refusal = Some(reason);
        }
    }

    /// Notes that there is a link, or none.
    pub(in crate::ports) fn set(&mut self, up: bool) {
        if self.up != up {
            let state = if up { "up" } else { "down" };
            info!(device = self.device, "the {} is {state}", self.kind);
        }
        self.up = up;
    }

    /// The next time at which a look is due, once there was a first.
    pub(in crate::ports) const fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Tells whether a look is due.
    pub(in crate::ports) fn is_due(&self, now: Instant) -> bool {
        self.look_at.is_none_or(|at| now >= at)
    }

    /// Has the device looked at again after a while.
    pub(in crate::ports) fn look_after(&mut self, now: Instant, pause: Duration) {
        self.look_at = Some(now + pause);
    }

    /// The state as it is shown.
    pub(in crate::ports) fn status(&self) -> PortStatus {
        PortStatus {
            state: if self.up {
                PortState::Up
            } else {
                PortState::Down
            },
            features: Vec::new(),
        }
    }

    /// Counts a batch for which there is no link.
    pub(in crate::ports) fn refuse(batch: &[Egress], drops: &mut Drops) {
        drops.count_many(DropReason::PortDown, batch.len() as u64);
    }
}
