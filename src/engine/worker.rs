//! A worker: the event loop that owns ports and switches and moves the frames.
//!
//! # Theory of operation
//!
//! A port is *hot* while frames come: the worker looks at it every round, and its peer need not notify. A port where
//! nothing came for its poll time is armed, looked at once more, and left to epoll. While some port is hot, epoll is
//! asked without waiting every [`EVENTS_EVERY`]; when none is, the worker sleeps until an event or the next timer.
//!
//! A visit takes a burst from a port, runs the switch, carries each egress port's batch to its end, and gives the
//! burst's memory back. A port gets at most one burst a round, so no port can starve another.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use vmm_sys_util::eventfd::EventFd;

use super::gateway::GatewayPort;
use super::slot::Slot;
use super::{Durable, FdbEntry, Ledger, NetworkSnapshot, NetworkSpec, Snapshot, Spec, StartError};
use crate::net::Now;
use crate::net::gateway::Gateway;
use crate::net::offload;
use crate::net::port::PortId;
use crate::net::switch::{Member, Outbox, Switch};
use crate::ports::Watcher;
use crate::ports::burst::Burst;

/// How often epoll is asked while a port is hot.
const EVENTS_EVERY: Duration = Duration::from_micros(20);
/// How many new advisories of a network are logged at once.
const LOGGED: usize = 10;
/// The token of the descriptors that concern the worker itself.
const OWN: u64 = u32::MAX as u64;

/// What the control thread asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Say what everything looks like.
    Snapshot(Sender<Snapshot>),
    /// Close every port and end.
    Stop,
}

struct Network {
    name: Arc<str>,
    mtu: u16,
    switch: Switch,
    /// What of its advisories has been logged.
    logged: BTreeSet<String>,
}

struct Epoll(RawFd);

impl Drop for Epoll {
    fn drop(&mut self) {
        // Nothing is left to be done about a descriptor that cannot be closed.
        let _ = epoll::close(self.0);
    }
}

/// One worker.
pub(super) struct Worker {
    slots: Vec<Slot>,
    networks: Vec<Network>,
    hot: Vec<PortId>,
    burst: Burst,
    outbox: Outbox,
    next_timer: Option<Instant>,
    commands: Receiver<Command>,
    durable: Durable,
    epoll: Epoll,
    /// Kept open for epoll.
    _wake: EventFd,
}

/// Reads the clocks.
fn clock() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

impl Worker {
    /// Opens every port of the spec.
    pub(super) fn open(
        spec: Spec,
        ledger: &Ledger,
        durable: &Durable,
        commands: Receiver<Command>,
        wake: &EventFd,
    ) -> Result<Self, StartError> {
        let epoll = Epoll(epoll::create(true)?);
        let own = Watcher::new(epoll.0, OWN);
        let wake = wake.try_clone()?;
        own.add(wake.as_raw_fd())?;
        own.add(durable.0.wake.as_raw_fd())?;
        let mut worker = Self {
            slots: Vec::new(),
            networks: Vec::new(),
            hot: Vec::new(),
            burst: Burst::default(),
            outbox: Outbox::default(),
            next_timer: None,
            commands,
            durable: durable.clone(),
            epoll,
            _wake: wake,
        };
        let now = clock();
        for network in spec.networks {
            worker.open_network(network, ledger, durable, now)?;
        }
        // Only the worker knows the time: its ports plan their first look at their links from this.
        for slot in &mut worker.slots {
            slot.port.handle_timeout(now);
        }
        worker.plan_timer();
        Ok(worker)
    }

    fn open_network(
        &mut self,
        spec: NetworkSpec,
        ledger: &Ledger,
        durable: &Durable,
        now: Now,
    ) -> Result<(), StartError> {
        let index = self.networks.len();
        let name: Arc<str> = spec.name.into();
        self.networks.push(Network {
            name: Arc::clone(&name),
            mtu: spec.mtu,
            switch: Switch::new(now.instant),
            logged: BTreeSet::new(),
        });
        for member in spec.ports {
            let opened = member.port.open();
            let port = opened.map_err(|source| StartError::Port {
                network: name.to_string(),
                port: member.name.clone(),
                source,
            })?;
            let slot = Slot::new(member.name, member.port.kind(), index, port, now.instant);
            let slot = Slot {
                port_group: member.port_group,
                mac: member.member.mac,
                ..slot
            };
            self.add(slot, member.member)?;
        }
        if let Some(gateway) = spec.gateway {
            let mac = gateway.mac;
            let gateway = Gateway::new(gateway, spec.mtu, now);
            let port = GatewayPort::new(name, gateway, ledger.clone(), durable.clone(), now);
            let slot = Slot::new(
                "gateway".to_owned(),
                "gateway",
                index,
                Box::new(port),
                now.instant,
            );
            let slot = Slot {
                mac: Some(mac),
                ..slot
            };
            self.add(
                slot,
                Member {
                    mac: Some(mac),
                    ..Member::default()
                },
            )?;
        }
        Ok(())
    }

    fn add(&mut self, mut slot: Slot, member: Member) -> Result<(), StartError> {
        let id = u16::try_from(self.slots.len())
            .map_err(|_| io::Error::other("more than 65536 ports"))?;
        let port = PortId(id);
        slot.port.watch(Watcher::new(self.epoll.0, u64::from(id)))?;
        let switch = &mut self.networks[slot.network].switch;
        switch.add(port, member);
        if let Some(mac) = slot.mac {
            switch.fix(port, mac);
        }
        self.outbox.reserve(port);
        // The first visit finds out what was there before anybody watched.
        self.hot.push(port);
        self.slots.push(slot);
        Ok(())
    }

    /// Moves frames until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0); 64];
        let mut asked = Instant::now();
        loop {
            let now = Instant::now();
            self.visit_hot(now);
            if self.next_timer.is_some_and(|at| now >= at) {
                self.handle_timers();
            }
            let wait = match (self.hot.is_empty(), self.next_timer) {
                (false, _) if now.saturating_duration_since(asked) < EVENTS_EVERY => continue,
                (false, _) => 0,
                (true, None) => -1,
                (true, Some(at)) => millis_up(at.saturating_duration_since(now)),
            };
            asked = now;
            let count = match epoll::wait(self.epoll.0, wait, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => panic!("epoll_wait on our own descriptor cannot fail: {error}"),
            };
            for event in &events[..count] {
                let (token, change) = Watcher::read(event.data);
                match u16::try_from(token) {
                    Ok(port) if change => self.handle_event(PortId(port), now),
                    Ok(port) => self.heat(PortId(port)),
                    Err(_) => {
                        if self.handle_commands() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Looks at every hot port once, and leaves those to epoll where nothing comes any more.
    fn visit_hot(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(port) = self.hot.get(index).copied() {
            let worked = self.visit(port, now);
            let slot = &mut self.slots[port.index()];
            if worked {
                slot.idle_since = now;
            } else if now.saturating_duration_since(slot.idle_since) >= slot.poll_time {
                if !slot.port.arm() {
                    slot.hot = false;
                    self.hot.swap_remove(index);
                    continue;
                }
                slot.port.disarm();
                slot.idle_since = now;
            }
            index += 1;
        }
    }

    /// Follows what a port has been told of.
    fn handle_event(&mut self, port: PortId, now: Instant) {
        let Some(slot) = self.slots.get_mut(port.index()) else {
            return;
        };
        slot.port.handle_event();
        let switch = &mut self.networks[slot.network].switch;
        slot.follow_link(port, switch, now);
    }

    fn heat(&mut self, port: PortId) {
        let Some(slot) = self.slots.get_mut(port.index()).filter(|slot| !slot.hot) else {
            return;
        };
        slot.heat();
        self.hot.push(port);
    }

    /// Carries one burst from a port to where it goes; tells whether there was one.
    fn visit(&mut self, ingress: PortId, now: Instant) -> bool {
        let Self {
            slots,
            networks,
            burst,
            outbox,
            hot,
            next_timer,
            ..
        } = self;
        let slot = &mut slots[ingress.index()];
        let network = &mut networks[slot.network];
        burst.clear();
        if let Err(fault) = slot.port.receive(burst, &mut slot.drops) {
            slot.report(&network.name, &fault, now);
        }
        slot.follow_link(ingress, &mut network.switch, now);
        if burst.is_empty() {
            slot.port.release(burst);
            return false;
        }
        network.switch.set_now(now);
        slot.ingress.frames += burst.len() as u64;
        for (index, frame) in (0..).zip(burst.frames_mut()) {
            let head = &mut frame.head;
            slot.ingress.bytes += u64::from(head.frame_len);
            let passed = offload::check(head, network.mtu)
                .and_then(|()| head.parse())
                .and_then(|parsed| network.switch.forward(ingress, index, parsed, outbox));
            if let Err(reason) = passed {
                slot.drops.count(reason);
            }
        }
        outbox.drain(|port, batch| {
            let slot = &mut slots[port.index()];
            if slot.answers {
                slot.port.set_now(Now {
                    instant: now,
                    wall: SystemTime::now(),
                });
            }
            match slot.port.transmit(burst, batch, &mut slot.drops) {
                Ok(sent) => {
                    slot.egress.frames += sent.frames;
                    slot.egress.bytes += sent.bytes;
                }
                Err(fault) => slot.report(&network.name, &fault, now),
            }
            slot.follow_link(port, &mut network.switch, now);
            if slot.answers {
                *next_timer = earlier(*next_timer, slot.port.poll_timeout());
                if !slot.hot {
                    slot.heat();
                    hot.push(port);
                }
            }
        });
        slots[ingress.index()].port.release(burst);
        true
    }

    fn handle_timers(&mut self) {
        let now = clock();
        for index in 0..self.networks.len() {
            if self.networks[index].switch.handle_timeout(now.instant) {
                self.log_advisories(index, now);
            }
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.port.poll_timeout().is_some_and(|at| now.instant >= at) {
                slot.port.handle_timeout(now);
                // It may have something to say, or another link.
                if let Ok(id) = u16::try_from(index) {
                    self.heat(PortId(id));
                }
            }
        }
        self.plan_timer();
    }

    fn plan_timer(&mut self) {
        let ports = self
            .slots
            .iter()
            .filter_map(|slot| slot.port.poll_timeout())
            .min();
        let switches = self
            .networks
            .iter()
            .map(|network| network.switch.poll_timeout())
            .min();
        self.next_timer = earlier(ports, switches);
    }

    /// Does what the control thread asked for; tells whether that was to stop.
    fn handle_commands(&mut self) -> bool {
        // A gateway may have been waiting for the journal.
        for index in 0..self.slots.len() {
            if let (true, Ok(id)) = (self.slots[index].answers, u16::try_from(index)) {
                self.heat(PortId(id));
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Snapshot(reply) => {
                    // Who asked may have gone.
                    let _ = reply.send(self.snapshot());
                }
                Command::Stop => return true,
            }
        }
        false
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Returns the whole milliseconds that cover a duration.
fn millis_up(duration: Duration) -> i32 {
    i32::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}
