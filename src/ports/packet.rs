//! An uplink: a physical adapter that belongs to the switch, over a packet socket (AF_PACKET), and where it is wished for
//! also over sockets that pass the kernel's stack (AF_XDP).
//!
//! # Theory of operation
//!
//! The socket takes every frame that comes in on the adapter, whomever it is for, and none of those that leave. Each
//! comes with a virtio-net header, so super-frames and partial checksums pass both ways unfinished; what else the kernel
//! may have merged (UDP, tunnels) is dropped as [`DropReason::BadOffload`]. A VLAN tag that the kernel took off
//! is put back. The adapter's addresses, MTU and offload settings stay as they are; it is brought up when it is taken.
//!
//! Frames leave in one call a batch, their bodies from where they are. They pass the adapter's queueing discipline:
//! around it (PACKET_QDISC_BYPASS) the kernel drops every super-frame that the adapter cannot segment itself.
//! What the kernel does not take at once is dropped.
//!
//! # The fast lane
//!
//! With AF_XDP, a *lane* (`src/ports/xdp/mod.rs`, `src/ports/packet/lane.rs`) takes frames for others than the adapter and its host off the way to
//! the packet socket, and carries all that leave. The packet socket goes on: by it come the frames that the host gets, too,
//! and all frames while there is no lane. The lane is opened with the port. Afterwards a thread opens it anew when
//! an adapter is taken, and when one changes its address or MTU; a lane that cannot be had then is no fault.
//!
//! # The link
//!
//! The kernel tells of each change of the adapter (rtnetlink), and the port follows it at once. Since `IFF_RUNNING`
//! changes only when the kernel's link watch has run, which may let a second pass between two runs, the
//! carrier counts as well, as it comes with an event or is asked for by a thread beside (`kernel/carrier.rs`): a link is
//! lost with either and back with both. Nothing depends on events: the flags are read at intervals, when some events
//! were lost, and when the kernel refuses a frame.
//!
//! An adapter that was deleted, renamed or moved to another namespace is let go of. One that has the name, and
//! is not the one that is held, is taken: brought up and bound. What somebody takes down later stays down. An
//! adapter may be *optional*: one that is not there when the port is opened is taken when it shows up. What is refused
//! after the start is said once in the log and tried again at each look.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use crate::net::Now;
use crate::net::drops::{DropReason, Drops};
use crate::net::offload::Capabilities;
use crate::net::outbox::Egress;
use crate::ports::burst::Burst;
use crate::ports::egress::{Scratch, send_batch};
use crate::ports::kernel::{
    self, Adapter, AdapterName, Carrier, Event, Link, Looked, Monitor, PacketBatch, PacketReceiver,
    PacketSocket,
};
use crate::ports::xdp::{Lane, Opener, Refusal};
use crate::ports::{
    AdapterFacts, DriverFacts, OpenError, Port, PortFault, PortStatus, Sent, Watcher,
};

mod lane;

/// How often a link that is up is looked at.
const LOOK_UP: Duration = Duration::from_secs(1);
/// How often a link that is down is looked at.
const LOOK_DOWN: Duration = Duration::from_millis(250);
/// How long the worker looks for a lane's next frame before it asks to be woken: some round trips to a near neighbour.
const POLL_TIME: Duration = Duration::from_micros(50);
/// How many visits to the lane pass between two looks at the packet socket.
const SOCKET_EVERY: u8 = 16;

/// By what means frames come and go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Driver {
    /// AF_XDP where it is known to be faster, and AF_PACKET elsewhere.
    #[default]
    Auto,
    /// Packet sockets.
    AfPacket,
    /// Sockets that pass the kernel's stack.
    AfXdp,
}

/// A physical adapter to be used as an uplink.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// The adapter's name.
    pub interface: String,
    /// Whether the adapter may be absent when the port is opened. It is taken when it shows up.
    pub optional: bool,
    /// Its speed in bits a second, where the adapter itself is not to be believed, or does not tell.
    pub speed: Option<u64>,
    /// By what means its frames come and go.
    pub driver: Driver,
}

/// An open uplink.
pub struct Packet {
    interface: String,
    name: AdapterName,
    adapter: Adapter,
    monitor: Monitor,
    socket: PacketSocket,
    watcher: Option<Watcher>,
    /// The adapter that the socket is bound to; none while it is gone.
    bound: Option<i32>,
    /// What the adapter that is bound says of itself.
    facts: Option<AdapterFacts>,
    /// The speed that it is to be taken for.
    speed: Option<u64>,
    carrier: Carrier,
    link: Link,
    receiver: PacketReceiver,
    batch: PacketBatch,
    driver: Driver,
    /// The largest packet of the adapter that is bound.
    mtu: u16,
    lane: Option<Lane>,
    /// A lane that is to be closed when no burst points into its memory any more.
    retired: Option<Lane>,
    /// What opens and closes lanes, where there are to be any.
    opener: Option<Opener>,
    /// Why there is no lane.
    refusal: Option<Refusal>,
    /// Visits since the packet socket was looked at.
    visits: u8,
}

impl Packet {
    /// Takes the adapter and brings it up.
    ///
    /// # Errors
    ///
    /// There is no such adapter and it is not optional, it is not one of Ethernet's, or the process may not use it.
    pub fn open(spec: &Spec) -> Result<Self, OpenError> {
        let interface = spec.interface.clone();
        let no_adapter = || OpenError::NoAdapter(interface.clone());
        let failed = |attempt: &str| {
            let attempt = format!("{attempt} {interface:?}");
            move |error| refused(attempt, error)
        };
        let name = AdapterName::new(&interface).ok_or_else(no_adapter)?;
        let adapter = Adapter::new(name).map_err(failed("look for the uplink"))?;
        // From here on no change is missed.
        let monitor = Monitor::open(name).map_err(failed("listen for changes of the uplink"))?;
        let index = match adapter.index() {
            Err(error) if is_absent(&error) && spec.optional => None,
            Err(error) if is_absent(&error) => return Err(no_adapter()),
            index => Some(index.map_err(failed("look for the uplink"))?),
        };
        let socket = PacketSocket::open().map_err(failed("open a packet socket for the uplink"))?;
        let receiver = PacketReceiver::new().map_err(failed("reserve memory for the uplink"))?;
        let mut this = Self {
            link: Link::new("link of the uplink", &interface),
            interface: interface.clone(),
            name,
            adapter,
            monitor,
            socket,
            watcher: None,
            bound: None,
            facts: None,
            speed: spec.speed,
            carrier: Carrier::watch(name).map_err(failed("watch the carrier of the uplink"))?,
            receiver,
            batch: PacketBatch::new(),
            driver: spec.driver,
            mtu: 0,
            lane: None,
            retired: None,
            opener: match spec.driver {
                Driver::AfPacket => None,
                Driver::Auto | Driver::AfXdp => {
                    Some(Opener::start().map_err(failed("open AF_XDP beside the uplink"))?)
                }
            },
            refusal: None,
            visits: 0,
        };
        match index.map(|index| this.take(index)) {
            Some(Ok(())) => {
                this.open_lane()?;
                this.look();
            }
            Some(Err((_, error))) if is_absent(&error) && spec.optional => {}
            Some(Err((attempt, error))) => return Err(failed(attempt)(error)),
            None => tracing::info!(device = interface, "the uplink is not there yet"),
        }
        Ok(this)
    }

    /// Finds out whether the adapter is there and has a carrier.
    fn look(&mut self) {
        let found = self.look_for_adapter();
        let was_up = self.link.is_up();
        self.link.found(found);
        self.follow_speed(was_up);
    }

    fn look_for_adapter(&mut self) -> io::Result<bool> {
        let index = match self.adapter.index() {
            Ok(index) => index,
            Err(error) => {
                self.let_go();
                return Err(error);
            }
        };
        if self.bound != Some(index) || !self.socket.is_bound_to(index) {
            self.let_go();
            self.take(index).map_err(|(_, error)| error)?;
            self.wish_for_lane();
        }
        let flags = self.adapter.flags()?;
        Ok(flags.up && flags.running && self.carrier.is_there())
    }

    /// Brings an adapter up and binds the socket to it. An error comes with what was attempted.
    fn take(&mut self, index: i32) -> Result<(), (&'static str, io::Error)> {
        let Some(mac) = self
            .adapter
            .mac()
            .map_err(|error| ("look for the uplink", error))?
        else {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, "it is not an Ethernet adapter");
            return Err(("use the uplink", source));
        };
        self.adapter
            .bring_up()
            .map_err(|error| ("bring up the uplink", error))?;
        self.socket
            .bind(index)
            .map_err(|error| ("take the frames of the uplink", error))?;
        self.bound = Some(index);
        self.mtu = short(
            self.adapter
                .mtu()
                .map_err(|error| ("look for the uplink", error))?,
        );
        self.facts = Some(AdapterFacts {
            mac,
            speed: self.adapter.speed(),
        });
        Ok(())
    }

    /// Lets go of an adapter that is gone or has another name, so that no frame of it comes in any more.
    fn let_go(&mut self) {
        self.close_lane();
        self.facts = None;
        self.carrier.note(true);
        if self.bound.take().is_none() {
            return;
        }
        let fresh = match self.fresh_socket() {
            Ok(fresh) => fresh,
            Err(error) => {
                // What the old one still receives finds the link down; it serves for the next adapter, too.
                tracing::warn!(device = self.interface, %error, "the uplink keeps its old packet socket");
                return;
            }
        };
        let old = mem::replace(&mut self.socket, fresh);
        // The kernel waits for all its processors before it is done with one. Where there is no thread for that, it is
        // closed here.
        let closing = thread::Builder::new().name("uplink closing".to_owned());
        let _ = closing.spawn(move || drop(old));
    }

    /// Opens a socket that is bound to nothing, and has it watched instead of the present one.
    fn fresh_socket(&self) -> io::Result<PacketSocket> {
        let fresh = PacketSocket::open()?;
        if let Some(watcher) = self.watcher {
            watcher.add(fresh.as_fd().as_raw_fd())?;
            watcher.remove(self.socket.as_fd().as_raw_fd());
        }
        Ok(fresh)
    }

    /// Notes the state of the link that an event told.
    fn note_link(&mut self, up: bool) {
        let was_up = self.link.is_up();
        self.link.set(up);
        self.follow_speed(was_up);
    }

    /// Asks for the speed when the link has come up: it is negotiated then.
    fn follow_speed(&mut self, was_up: bool) {
        let is_up = self.link.is_up();
        if was_up != is_up
            && let Some(facts) = &mut self.facts
        {
            facts.speed = is_up.then(|| self.adapter.speed()).flatten();
        }
    }

    /// Follows all that the kernel has told of the adapter.
    fn follow_events(&mut self) {
        let (mut link, mut lost) = (None, false);
        while let Some(event) = self.monitor.next(self.bound) {
            match event {
                Event::Lost => lost = true,
                Event::Gone => {
                    self.let_go();
                    link = Some(false);
                }
                Event::There(state) if state.named && self.bound == Some(state.index) => {
                    self.carrier.note(state.carrier);
                    link = Some(state.has_link());
                    self.follow_adapter(state.mac, state.mtu);
                }
                // Another adapter has the name, or the one that is bound has lost it, unless it was meant by one of its
                // further names.
                Event::There(_) => {
                    self.look();
                    link = None;
                }
            }
        }
        if lost {
            // What was lost may be newer than what was heard.
            self.carrier.note(true);
            self.follow_adapter(self.adapter.mac().ok().flatten(), self.adapter.mtu().ok());
            self.look();
        } else if let Some(up) = link {
            self.note_link(up);
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

/// An MTU as far as frames can have it.
fn short(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
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
        watcher.add(self.socket.as_fd().as_raw_fd())?;
        watcher.add_event(self.monitor.as_raw_fd())?;
        watcher.add_event(self.carrier.as_raw_fd())?;
        if let Some(opener) = &self.opener {
            watcher.add_event(opener.as_raw_fd())?;
        }
        for descriptor in self.lane.iter().flat_map(Lane::descriptors) {
            watcher.add(descriptor)?;
        }
        self.watcher = Some(watcher);
        Ok(())
    }

    fn receive(&mut self, burst: &mut Burst, drops: &mut Drops) -> Result<(), PortFault> {
        if let Some(lane) = &mut self.lane {
            lane.receive(burst, drops);
            self.visits += 1;
            if self.visits < SOCKET_EVERY && self.link.is_up() {
                return Ok(());
            }
            self.visits = 0;
            lane.remind();
        }
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
        if let Some(lane) = &mut self.lane {
            lane.give_back();
        }
        if let (Some(retired), Some(opener)) = (self.retired.take(), &self.opener) {
            opener.retire(retired);
        }
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
        if let Some(lane) = &mut self.lane {
            let (sent, adapter) = lane.transmit(burst, batch, drops);
            let Err(error) = adapter else {
                return Ok(sent);
            };
            if kernel::is_down(&error) {
                drops.count_many(DropReason::PortDown, sent.frames);
                self.look();
                return Ok(Sent::default());
            }
            // What the kernel did not take now, it takes when it is reminded.
            return Ok(sent);
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
        let lane = self.lane.as_mut().is_some_and(Lane::has_frames);
        lane || kernel::is_readable(self.socket.as_fd())
    }

    fn status(&self) -> PortStatus {
        self.link.status()
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn adapter(&self) -> Option<AdapterFacts> {
        self.facts.map(|facts| AdapterFacts {
            speed: self.speed.or(facts.speed),
            ..facts
        })
    }

    fn driver(&self) -> Option<DriverFacts> {
        self.driver_facts()
    }

    fn advisories(&self) -> Vec<String> {
        match &self.refusal {
            Some(refusal) if self.driver == Driver::AfXdp => vec![format!(
                "uplink {} uses AF_PACKET instead of AF_XDP; {refusal}",
                self.interface
            )],
            _ => Vec::new(),
        }
    }

    fn handle_event(&mut self) {
        if let Some(answer) = self.opener.as_mut().and_then(Opener::take) {
            self.follow_lane(answer);
        }
        self.follow_events();
        if self.carrier.take_news() {
            self.look();
        }
    }

    fn poll_time(&self) -> Duration {
        // A look into a lane is a look into memory, and into a packet socket a call that takes as long as many frames.
        match self.lane {
            Some(_) => POLL_TIME,
            None => Duration::ZERO,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.link.look_at()
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.link.is_due(now.instant) {
            self.follow_events();
            self.look();
            if let Some(lane) = &mut self.lane {
                lane.remind();
            }
            let pause = if self.link.is_up() {
                LOOK_UP
            } else {
                LOOK_DOWN
            };
            self.link.look_after(now.instant, pause);
        }
    }
}
