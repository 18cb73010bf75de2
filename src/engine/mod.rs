//! The workers: their event loop, the ports, the switches, the timers.
//!
//! The engine is the only reader of the clock and the only one that moves frames. It is told what to be by a
//! [`Spec`] and shows what it is by a [`Snapshot`].
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use self::nat::FlowLog;
pub use self::uplinks::ChangeError;
use self::uplinks::{NewUplink, OldUplink};
use self::worker::{Command, Worker};
use crate::net::member::Member;
use crate::net::multicast::GroupRow;
use crate::net::nat::View;
use crate::net::port::PortId;
use crate::net::team::Role;
use crate::net::team::view::TeamView;
use crate::net::vlan::PrivateVlans;
use crate::net::{dhcp, gateway as net_gateway, team};
use crate::ports::{DriverFacts, PortSpec, PortState, packet};
use crate::wire::ethernet::MacAddr;

mod carry;
mod gateway;
mod nat;
mod open;
mod router;
mod slot;
mod snapshot;
mod uplinks;
mod worker;

/// How long a worker may take to answer: it answers within a burst, unless something is very wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the engine is to be.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The networks, in the order of their names.
    pub networks: Vec<NetworkSpec>,
}

/// One network: a switch, its ports and its gateway.
#[derive(Clone, Debug, Default)]
pub struct NetworkSpec {
    /// The network's name.
    pub name: String,
    /// The largest packet, 1280 to 9000 bytes.
    pub mtu: u16,
    /// The gateway, where the network has a subnet.
    pub gateway: Option<net_gateway::Spec>,
    /// The translator's own port in the network that the gateway leads to, where it leads to one.
    pub outside: Option<OutsidePort>,
    /// The ports, the gateway's aside.
    pub ports: Vec<NetworkPort>,
    /// The team of its uplinks, where it has some; the uplinks are among the ports.
    pub team: Option<team::Spec>,
    /// The secondary VLANs of its private VLANs, each with its primary.
    pub private_vlans: PrivateVlans,
    /// Whether multicast goes to those ports only that asked for it, where somebody queries them.
    pub snooping: bool,
}

/// One port of a network.
#[derive(Clone, Debug)]
pub struct NetworkPort {
    /// The port's name: the VM's, the adapter's.
    pub name: String,
    /// The port group's name, if it is in one.
    pub port_group: Option<String>,
    /// What the switch knows about it.
    pub member: Member,
    /// Whether its link goes down while no uplink can carry it.
    pub follow_uplinks: bool,
    /// What it is.
    pub port: PortSpec,
}

/// The port of a translator in the network that it leads to.
#[derive(Clone, Debug, Default)]
pub struct OutsidePort {
    /// The network's name.
    pub network: String,
    /// What that network's switch knows about it; its address and what it may do follow from the translator.
    pub member: Member,
    /// The port group's name, if it is in one.
    pub port_group: Option<String>,
}

/// What the engine was at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The networks, as in the spec.
    pub networks: Vec<NetworkSnapshot>,
}

/// One network at one moment.
#[derive(Clone, Debug)]
pub struct NetworkSnapshot {
    /// The network's name.
    pub name: String,
    /// What an operator should know, one sentence each.
    pub advisories: Vec<String>,
    /// The ports, the gateway's last.
    pub ports: Vec<PortSnapshot>,
    /// The leases, by address.
    pub leases: Vec<dhcp::Lease>,
    /// The forwarding table, by VLAN and address.
    pub fdb: Vec<FdbEntry>,
    /// The team, where the network has uplinks.
    pub team: Option<TeamView>,
    /// The multicast groups that somebody wants, by VLAN and group.
    pub groups: Vec<GroupRow>,
    /// The NAT, where the network has one.
    pub nat: Option<View>,
}

/// One port at one moment.
#[derive(Clone, Debug)]
pub struct PortSnapshot {
    /// The port's number, by which the team names it.
    pub id: PortId,
    /// The port's name.
    pub name: String,
    /// The port group's name, if it is in one.
    pub port_group: Option<String>,
    /// The VLANs that it carries, in a few words.
    pub vlan: String,
    /// `guest`, `uplink`, `host` or `gateway`.
    pub kind: &'static str,
    /// Whether frames flow.
    pub state: PortState,
    /// The hardware address that belongs to the port, if one does.
    pub mac: Option<MacAddr>,
    /// The negotiated features by name.
    pub features: Vec<&'static str>,
    /// By what means the frames of its adapter come and go, if it has one.
    pub driver: Option<DriverFacts>,
    /// Frames and bytes into the switch.
    pub ingress: Count,
    /// Frames and bytes out of the switch.
    pub egress: Count,
    /// Frames dropped at the port, by the name of the reason.
    pub drops: BTreeMap<&'static str, u64>,
}

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Bytes, without the virtio-net header and the frame check sequence.
    pub bytes: u64,
}

impl Count {
    /// Adds what was counted elsewhere.
    pub(crate) const fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// One address in the forwarding table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FdbEntry {
    /// The VLAN, 0 for the untagged domain.
    pub vlan: u16,
    /// The address.
    pub mac: MacAddr,
    /// The port behind which it is.
    pub port: String,
    /// Seconds since it was last seen; `None` for a fixed address.
    pub age_s: Option<u64>,
}

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error("port {port:?} of network {network:?}: {source}")]
    Port {
        /// The network's name.
        network: String,
        /// The port's name.
        port: String,
        /// What is wrong.
        source: crate::ports::OpenError,
    },
    /// A network leads nowhere.
    #[error("network {network:?} leads to network {outside:?}, which there is not")]
    NoOutside {
        /// The network's name.
        network: String,
        /// Where it leads to.
        outside: String,
    },
    /// The system refused a thread or descriptor.
    #[error("cannot start a worker: {0}")]
    System(#[from] io::Error),
}

/// Where lease records are made durable. Called from a worker: must not block.
pub trait Journal: Send {
    /// Takes a record to be written; `ticket` counts up by one with each.
    ///
    /// Once it is on disk, or cannot be, the journal says so by [`Durable::settle`]. A record that cannot even be
    /// queued is given back as `false` and is as good as never seen.
    fn append(&mut self, network: &str, ticket: u64, record: dhcp::Record) -> bool;
}

/// Numbers the records of all gateways and hands them to the journal.
#[derive(Clone)]
struct Ledger(Arc<Mutex<(Box<dyn Journal>, u64)>>);

impl Ledger {
    fn new(journal: Box<dyn Journal>) -> Self {
        Self(Arc::new(Mutex::new((journal, 0))))
    }

    /// Hands over a record; `None` where it cannot be queued.
    fn append(&self, network: &str, record: dhcp::Record) -> Option<u64> {
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (journal, next) = &mut *ledger;
        let ticket = *next;
        journal.append(network, ticket, record).then(|| {
            *next += 1;
            ticket
        })
    }
}

#[derive(Debug)]
struct Settled {
    /// All tickets below this are settled.
    below: AtomicU64,
    /// Those of them whose records could not be written.
    failed: Mutex<BTreeSet<u64>>,
    /// Whether the last record could not be written.
    failing: AtomicBool,
    wake: EventFd,
}

/// Tells the engine which records are on disk. Cheap to clone; usable from any thread.
#[derive(Clone, Debug)]
pub struct Durable(Arc<Settled>);

impl Durable {
    /// Starts with nothing settled.
    ///
    /// # Errors
    ///
    /// The system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Settled {
            below: AtomicU64::new(0),
            failed: Mutex::default(),
            failing: AtomicBool::new(false),
            wake,
        })))
    }

    /// Says what became of the record with this ticket. Records are settled in the order of their tickets.
    pub fn settle(&self, ticket: u64, written: bool) {
        if !written {
            self.failed().insert(ticket);
        }
        if self.0.failing.swap(!written, Ordering::AcqRel) && written {
            tracing::info!("records can be written again");
        }
        self.0.below.store(ticket + 1, Ordering::Release);
        // An eventfd that is full is readable already.
        let _ = self.0.wake.write(1);
    }

    fn failed(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last record could not be written.
    fn is_failing(&self) -> bool {
        self.0.failing.load(Ordering::Acquire)
    }

    fn is_settled(&self, ticket: u64) -> bool {
        ticket < self.0.below.load(Ordering::Acquire)
    }

    /// Whether a record was written; `None` while that is not known. To be asked once a ticket.
    fn outcome(&self, ticket: u64) -> Option<bool> {
        self.is_settled(ticket)
            .then(|| !self.failed().remove(&ticket))
    }
}

/// The engine, running.
#[derive(Debug)]
pub struct Engine {
    commands: Sender<Command>,
    wake: EventFd,
    thread: JoinHandle<()>,
    /// Disconnected when the worker has closed everything.
    ended: Receiver<()>,
}

impl Engine {
    /// Opens every port and starts the worker. Nothing is left behind where one cannot be opened.
    ///
    /// # Errors
    ///
    /// A port cannot be opened, or the system is out of threads or descriptors.
    pub fn start(
        spec: Spec,
        journal: Box<dyn Journal>,
        durable: &Durable,
    ) -> Result<Self, StartError> {
        let (commands, requests) = crossbeam_channel::unbounded();
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let worker = Worker::open(spec, &Ledger::new(journal), durable, requests, &wake)?;
        let (running, ended) = crossbeam_channel::bounded(0);
        let thread = thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                worker.run();
                drop(running);
            })?;
        Ok(Self {
            commands,
            wake,
            thread,
            ended,
        })
    }

    fn command(&self, command: Command) {
        // The worker lives as long as the engine; if it panicked, so did the process.
        let _ = self.commands.send(command);
        // An eventfd that is full is readable already.
        let _ = self.wake.write(1);
    }

    /// Asks the worker what everything looks like now; `None` if it does not answer.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let (reply, snapshot) = crossbeam_channel::bounded(1);
        self.command(Command::Snapshot(reply));
        snapshot.recv_timeout(PATIENCE).ok()
    }

    /// Takes an adapter into the team of a network that has one, while frames flow.
    ///
    /// # Errors
    ///
    /// There is no such network or adapter, or the adapter is used already.
    pub fn add_uplink(
        &self,
        network: &str,
        uplink: packet::Spec,
        role: Role,
    ) -> Result<(), ChangeError> {
        let name = uplink.interface.clone();
        // Opened here: the worker need not wait for it.
        let port = PortSpec::Packet(uplink).open()?;
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.command(Command::AddUplink(Box::new(NewUplink {
            network: network.to_owned(),
            name,
            role,
            port,
            reply,
        })));
        answer
            .recv_timeout(PATIENCE)
            .unwrap_or(Err(ChangeError::NoAnswer))
    }

    /// Lets go of an adapter, while frames flow. What it carried moves to others.
    ///
    /// # Errors
    ///
    /// The network has no such uplink.
    pub fn remove_uplink(&self, network: &str, uplink: &str) -> Result<(), ChangeError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.command(Command::RemoveUplink(OldUplink {
            network: network.to_owned(),
            name: uplink.to_owned(),
            reply,
        }));
        answer
            .recv_timeout(PATIENCE)
            .unwrap_or(Err(ChangeError::NoAnswer))
    }

    /// Stops the worker and closes every port. A worker that does not answer is left behind.
    pub fn stop(self) {
        self.command(Command::Stop);
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("the worker does not answer, and is left behind");
            return;
        }
        // A panic of the worker has been reported by the worker.
        let _ = self.thread.join();
    }
}
