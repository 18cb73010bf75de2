//! A host adapter: a TAP device through which the host takes part in a network (`Documentation/networking/tuntap.rst`).
//!
//! # Theory of operation
//!
//! The device is made when the port is opened, given its address, and is gone when the port is; a persistent one that is
//! there already is taken as it is. Each frame is one read or write, with a virtio-net header before it: super-frames
//! and partial checksums pass both ways unfinished. What the kernel does not take at once is dropped.
//!
//! The host may take its side down, move the device to another network namespace, or even delete it. The kernel tells of
//! changes in the namespace where the device was made, and the port follows them at once. At intervals it looks by itself,
//! follows a device that was moved, and makes a deleted one again. Whether IPv6 is on and how it gets addresses is left to the host; but where the
//! network is of vmlan's own making, no router in it becomes the host's default router.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::net::Now;
use crate::net::drops::Drops;
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::egress::{Scratch, send_batch};
use crate::ports::kernel::{
    self, Adapter, AdapterName, Event, Link, Looked, Monitor, TapReceiver, TapSending,
};
use crate::ports::{OpenError, Port, PortFault, PortStatus, Sent, Watcher};
use crate::wire::ethernet::MacAddr;
use ipnet::Ipv4Net;

const DEVICE: &str = "/dev/net/tun";
/// How often the device is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A TAP device to be created, or taken if it is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The device's name, at most 15 bytes.
    pub name: String,
    /// The hardware address of the host's side.
    pub mac: MacAddr,
    /// The address of the host's side, with its subnet; absent where the host configures it itself.
    pub address: Option<Ipv4Net>,
    /// The largest packet.
    pub mtu: u16,
}

/// An open host adapter.
pub struct Tap {
    spec: Spec,
    name: AdapterName,
    adapter: Adapter,
    monitor: Monitor,
    tun: File,
    /// The number that the device had when it was made; none once it is gone from the namespace.
    index: Option<i32>,
    link: Link,
    receiver: TapReceiver,
    scratch: Scratch,
}

impl Tap {
    /// Makes the device, configures it and brings it up.
    ///
    /// # Errors
    ///
    /// The name is taken or cannot be one, or the process may not make devices.
    pub fn open(spec: &Spec) -> Result<Self, OpenError> {
        let failed = |attempt: &str| {
            let attempt = format!("{attempt} {:?}", spec.name);
            move |error| refused(attempt, error)
        };
        let name = AdapterName::new(&spec.name).ok_or_else(|| {
            let reason = "a device's name has 1 to 15 letters, digits and signs other than / : %";
            failed("make the host adapter")(io::Error::new(io::ErrorKind::InvalidInput, reason))
        })?;
        let adapter = Adapter::new(name).map_err(failed("look for the host adapter"))?;
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|error| {
                refused(
                    format!("open {DEVICE} for the host adapter {:?}", spec.name),
                    error,
                )
            })?;
        let monitor =
            Monitor::open(name).map_err(failed("listen for changes of the host adapter"))?;
        attach(&tun, name, &adapter).map_err(failed("make the host adapter"))?;
        configure(&adapter, spec).map_err(failed("configure the host adapter"))?;
        let mut this = Self {
            spec: spec.clone(),
            name,
            index: adapter.index().ok(),
            adapter,
            monitor,
            tun,
            link: Link::new("host adapter", &spec.name),
            receiver: TapReceiver::new().map_err(failed("reserve memory for the host adapter"))?,
            scratch: Scratch::default(),
        };
        this.look();
        Ok(this)
    }

    /// Finds out whether the device is there and up.
    fn look(&mut self) {
        let found = self.look_for_device();
        self.link.found(found);
    }

    fn look_for_device(&mut self) -> io::Result<bool> {
        // The device itself is asked, since its name may be in another network namespace, or another one by now.
        if let Ok(up) = kernel::is_tap_up(self.tun.as_fd(), self.name) {
            return Ok(up);
        }
        kernel::attach_tap(self.tun.as_fd(), self.name)?;
        self.index = self.adapter.index().ok();
        configure(&self.adapter, &self.spec)?;
        kernel::is_tap_up(self.tun.as_fd(), self.name)
    }
}

impl Tap {
    /// Follows all that the kernel has told of the device.
    fn follow_events(&mut self) {
        let (mut link, mut lost) = (None, false);
        while let Some(event) = self.monitor.next(self.index) {
            match event {
                Event::Lost => lost = true,
                Event::Gone => {
                    self.index = None;
                    link = Some(false);
                }
                Event::There(state) if self.index == Some(state.index) => {
                    link = Some(state.flags.up);
                }
                // It may be back from elsewhere, or another may have its name: only the device itself knows.
                Event::There(_) => lost = true,
            }
        }
        if lost {
            self.look();
        } else if let Some(up) = link {
            self.link.set(up);
        }
    }
}

/// Attaches to the device, and says it in words where the name is somebody else's.
fn attach(tun: &File, name: AdapterName, adapter: &Adapter) -> io::Result<()> {
    kernel::attach_tap(tun.as_fd(), name).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another process uses the TAP device of this name",
        ),
        Some(libc::EINVAL) if adapter.index().is_ok() => io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is an adapter of this name, of another kind",
        ),
        _ => error,
    })
}

/// Gives the device what the specification says. It is brought up last, so that no route to a subnet that
/// is about to change shows up meanwhile.
fn configure(adapter: &Adapter, spec: &Spec) -> io::Result<()> {
    adapter.set_mac(spec.mac)?;
    adapter.set_mtu(spec.mtu)?;
    if let Some(address) = spec.address {
        adapter.set_address(address)?;
        keep_own_way_out(&spec.name);
    }
    adapter.bring_up()
}

/// Keeps the host from taking the gateway of its own network, which advertises itself to guests, for its way out: what
/// the gateway sends there leaves by the host, and would come back.
fn keep_own_way_out(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra_defrtr");
    match std::fs::write(&path, "0") {
        Ok(()) => {}
        // The kernel has no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            %error,
            "the host may take the gateway behind {name} for its way out by IPv6: set {path} to 0"
        ),
    }
}

fn refused(attempt: String, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return OpenError::Permission {
            attempt,
            remedy: "a host adapter needs CAP_NET_ADMIN and access to /dev/net/tun: run as root or grant it: \
                     setcap cap_net_raw,cap_net_admin+ep /path/to/vmlan",
        };
    }
    OpenError::System { attempt, source }
}

impl Port for Tap {
    fn watch(&mut self, watcher: Watcher) -> io::Result<()> {
        watcher.add(self.tun.as_fd().as_raw_fd())?;
        watcher.add_event(self.monitor.as_raw_fd())
    }

    fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) -> Result<(), PortFault> {
        match self.receiver.receive(self.tun.as_fd(), burst, drops) {
            Ok(Looked::Done) => {
                if !self.link.is_up() && !burst.is_empty() {
                    self.look();
                }
                Ok(())
            }
            Ok(Looked::Down) => {
                self.link.set(false);
                Ok(())
            }
            Err(source) => {
                self.link.set(false);
                Err(PortFault::Device {
                    attempt: "reading frames from the host adapter",
                    source,
                })
            }
        }
    }

    fn release(&mut self, burst: &mut Burst) {
        burst.clear();
    }

    fn transmit(
        &mut self,
        burst: &Burst,
        batch: &[Egress],
        drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        if !self.link.is_up() {
            Link::refuse(batch, drops);
            return Ok(Sent::default());
        }
        let mut sending = TapSending::start(self.tun.as_fd());
        send_batch(&mut sending, burst, batch, &mut self.scratch, drops);
        let outcome = sending.finish();
        if outcome.down {
            self.link.set(false);
        }
        Ok(outcome.sent)
    }

    fn arm(&mut self) -> bool {
        kernel::is_readable(self.tun.as_fd())
    }

    fn status(&self) -> PortStatus {
        self.link.status()
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn handle_event(&mut self) {
        self.follow_events();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.link.look_at()
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.link.is_due(now.instant) {
            self.follow_events();
            self.look();
            let pause = LOOK;
            self.link.look_after(now.instant, pause);
        }
    }
}
