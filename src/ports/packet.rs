//! An uplink: a physical adapter that belongs to the switch, over a packet socket (AF_PACKET).
//!
//! # Theory of operation
//!
//! The socket takes every frame that comes in on the adapter, whomever it is for, and none of those that leave. Each
//! comes with a virtio-net header, so super-frames and partial checksums pass both ways unfinished; what else the kernel
//! may have merged (UDP, tunnels) is dropped as [`DropReason::BadOffload`]. A VLAN tag that the kernel took off
//! is put back. The adapter's addresses, MTU and offload settings stay as they are; it is brought up when it is opened.
//!
//! Frames leave in one call a batch, their bodies from where they are. They pass the adapter's queueing discipline:
//! around it (PACKET_QDISC_BYPASS) the kernel drops every super-frame that the adapter cannot segment itself.
//! What the kernel does not take at once is dropped.
//!
//! Whether there is a carrier is asked at intervals, and when the kernel refuses a frame. An adapter that vanished is
//! looked for by its name at the same intervals, and taken again, by the same socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use crate::net::Now;
use crate::net::drops::{DropReason, Drops};
use crate::net::offload::Capabilities;
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::egress::{Scratch, send_batch};
use crate::ports::kernel::{
    self, Adapter, AdapterName, Link, Looked, PacketBatch, PacketReceiver, PacketSocket,
};
use crate::ports::{OpenError, Port, PortFault, PortStatus, Sent, Watcher};

/// How often a link that is up is looked at.
const LOOK_UP: Duration = Duration::from_secs(1);
/// How often a link that is down is looked at.
const LOOK_DOWN: Duration = Duration::from_millis(250);

/// A physical adapter to be used as an uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The adapter's name.
    pub interface: String,
}

/// An open uplink.
pub struct Packet {
    adapter: Adapter,
    socket: PacketSocket,
    /// The adapter that the socket is bound to; none while it is gone.
    bound: Option<i32>,
    link: Link,
    receiver: PacketReceiver,
    batch: PacketBatch,
}

impl Packet {
    /// Takes the adapter and brings it up.
    ///
    /// # Errors
    ///
    /// There is no such Ethernet adapter, or the process may not use it.
    pub fn open(spec: &Spec) -> Result<Self, OpenError> {
        let interface = spec.interface.clone();
        let no_adapter = || OpenError::NoAdapter(interface.clone());
        let failed = |attempt: &str| {
            let attempt = format!("{attempt} {interface:?}");
            move |error| refused(attempt, error)
        };
        let name = AdapterName::new(&interface).ok_or_else(no_adapter)?;
        let adapter = Adapter::new(name).map_err(failed("look for the uplink"))?;
        let index = match adapter.index() {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(no_adapter()),
            index => index.map_err(failed("look for the uplink"))?,
        };
        if !adapter
            .is_ethernet()
            .map_err(failed("look for the uplink"))?
        {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, "it is not an Ethernet adapter");
            return Err(failed("use the uplink")(source));
        }
        let socket = PacketSocket::open().map_err(failed("open a packet socket for the uplink"))?;
        adapter.bring_up().map_err(failed("bring up the uplink"))?;
        socket
            .bind(index)
            .map_err(failed("take the frames of the uplink"))?;
        let receiver = PacketReceiver::new().map_err(failed("reserve memory for the uplink"))?;
        let mut this = Self {
            adapter,
            socket,
            bound: Some(index),
            link: Link::new("link of the uplink", &interface),
            receiver,
            batch: PacketBatch::new(),
        };
        this.look();
        Ok(this)
    }

    /// Finds out whether the adapter is there and has a carrier.
    fn look(&mut self) {
        let found = self.look_for_adapter();
        self.link.found(found);
    }

    fn look_for_adapter(&mut self) -> io::Result<bool> {
        let index = match self.adapter.index() {
            Ok(index) => index,
            Err(error) => {
                self.bound = None;
                return Err(error);
            }
        };
        if self.bound != Some(index) {
            self.bound = None;
            self.adapter.bring_up()?;
            self.socket.bind(index)?;
            self.bound = Some(index);
        }
        let flags = self.adapter.flags()?;
        Ok(flags.up && flags.running)
    }
}

fn refused(attempt: String, source: io::Error) -> OpenError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return OpenError::Permission {
            attempt,
            remedy: "an uplink needs CAP_NET_RAW, and CAP_NET_ADMIN to bring it up: run as root or grant them: \
                     setcap cap_net_raw,cap_net_admin+ep /path/to/vmlan",
        };
    }
    OpenError::System { attempt, source }
}

impl Port for Packet {
    fn watch(&mut self, watcher: Watcher) -> io::Result<()> {
        watcher.add(self.socket.as_fd().as_raw_fd())
    }

    fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) -> Result<(), PortFault> {
        match self.receiver.receive(&self.socket, burst, drops) {
            Ok(Looked::Done) => {
                // Frames come in before the next look would tell that the link is back.
                if !self.link.is_up() && self.bound.is_some() && !burst.is_empty() {
                    self.look();
                }
                Ok(())
            }
            Ok(Looked::Down) => {
                self.look();
                Ok(())
            }
            Err(source) => {
                self.link.set(false);
                Err(PortFault::Device {
                    attempt: "taking frames off the uplink",
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
        let mut sending = self.batch.start(&self.socket, burst);
        // Bodies have to stay where they are until the whole batch is sent, and a frame that were finished in memory of
        // ours would not. Nobody is offered an offload that the kernel does not take, so what it does not take is wrong.
        let taken = |egress: &Egress| {
            let frame = &burst.frames()[usize::from(egress.frame)];
            Capabilities::ALL.take(frame.head.offload)
        };
        for (index, run) in batch.split(|egress| !taken(egress)).enumerate() {
            if index > 0 {
                drops.count(DropReason::BadOffload);
            }
            send_batch(&mut sending, burst, run, &mut Scratch::default(), drops);
        }
        let outcome = sending.finish(drops);
        if outcome.down {
            self.look();
        }
        Ok(outcome.sent)
    }

    fn arm(&mut self) -> bool {
        kernel::is_readable(self.socket.as_fd())
    }

    fn status(&self) -> PortStatus {
        self.link.status()
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.link.look_at()
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.link.is_due(now.instant) {
            self.look();
            let pause = if self.link.is_up() {
                LOOK_UP
            } else {
                LOOK_DOWN
            };
            self.link.look_after(now.instant, pause);
        }
    }
}
