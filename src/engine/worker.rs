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
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use vmm_sys_util::eventfd::EventFd;

use super::carry::Floor;
use super::nat::{FlowLog, NatRequest, Probes};
use super::router::{Leading, Routing};
use super::slot::Slot;
use super::uplinks::{NewUplink, OldUplink};
use super::{Durable, Ledger, Snapshot, Spec, StartError};
use crate::net::Now;
use crate::net::member::Member;
use crate::net::offload;
use crate::net::outbox::Outbox;
use crate::net::port::{OwnFrames, PortId};
use crate::net::switch::Switch;
use crate::net::team::load::Bytes;
use crate::net::vlan::TagAction;
use crate::ports::Watcher;
use crate::ports::burst::Burst;
use crate::wire::virtio_net::VirtioNetHeader;

/// How often epoll is asked while a port is hot.
const EVENTS_EVERY: Duration = Duration::from_micros(20);
/// How many new advisories of a network are logged at once.
pub(super) const LOGGED: usize = 10;
/// The token of the descriptors that concern the worker itself.
const OWN: u64 = u32::MAX as u64;

/// What the control thread asks of a worker.
pub(super) enum Command {
    /// Say what everything looks like.
    Snapshot(Sender<Snapshot>),
    /// Take an uplink, open already, into the team of a network.
    AddUplink(Box<NewUplink>),
    /// Let go of an uplink.
    RemoveUplink(OldUplink),
    /// Ask or change the NAT of a network.
    Nat(Box<(String, NatRequest)>),
    /// Tell what becomes of flows.
    LogFlows(Box<dyn FlowLog>),
    /// Close every port and end.
    Stop,
}

pub(super) struct Network {
    pub(super) name: Arc<str>,
    pub(super) mtu: u16,
    pub(super) switch: Switch,
    /// What of its advisories has been logged.
    pub(super) logged: BTreeSet<String>,
    /// The targets of its port forwards that are looked after.
    pub(super) probes: Probes,
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
    pub(super) slots: Vec<Slot>,
    pub(super) networks: Vec<Network>,
    pub(super) hot: Vec<PortId>,
    pub(super) burst: Burst,
    pub(super) outbox: Outbox,
    pub(super) routing: Routing,
    /// What a network has to say of itself.
    pub(super) own: OwnFrames,
    pub(super) own_burst: Burst,
    pub(super) next_timer: Option<Instant>,
    /// Where what becomes of flows is told.
    pub(super) flow_log: Option<Box<dyn FlowLog>>,
    commands: Receiver<Command>,
    pub(super) durable: Durable,
    epoll: Epoll,
    /// Kept open for epoll.
    _wake: EventFd,
}

/// Reads the clocks.
pub(super) fn clock() -> Now {
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
            routing: Routing::default(),
            own: OwnFrames::default(),
            own_burst: Burst::default(),
            next_timer: None,
            flow_log: None,
            commands,
            durable: durable.clone(),
            epoll,
            _wake: wake,
        };
        let now = clock();
        let specs = spec.networks.iter().enumerate();
        let leading = specs.filter_map(|(index, network)| Leading::of(network, index));
        let leading = leading.collect();
        for network in spec.networks {
            worker.open_network(network, ledger, durable, now)?;
        }
        worker.open_routers(leading, now)?;
        // Only the worker knows the time: its ports plan their first look at their links from this.
        for slot in &mut worker.slots {
            slot.port.handle_timeout(now);
        }
        worker.follow_links(now.instant);
        worker.plan_timer();
        Ok(worker)
    }

    /// Takes a port, where one was that is gone, or at the end.
    pub(super) fn add(&mut self, mut slot: Slot, member: Member) -> io::Result<PortId> {
        let vacant = self.slots.iter().position(Slot::is_vacant);
        let index = vacant.unwrap_or(self.slots.len());
        let id = u16::try_from(index).map_err(|_| io::Error::other("more than 65536 ports"))?;
        let port = PortId(id);
        slot.vlan = member.vlan.to_string();
        slot.port.watch(Watcher::new(self.epoll.0, u64::from(id)))?;
        self.networks[slot.network].switch.add(port, member);
        self.outbox.reserve(port);
        // The first visit finds out what was there before anybody watched.
        self.hot.push(port);
        if vacant.is_some() {
            self.slots[index] = slot;
        } else {
            self.slots.push(slot);
        }
        Ok(port)
    }

    /// Moves frames until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0); 64];
        let mut asked = Instant::now();
        loop {
            let now = Instant::now();
            let worked = self.visit_hot(now);
            if self.next_timer.is_some_and(|at| now >= at) {
                self.handle_timers(clock());
            }
            let wait = match (self.hot.is_empty(), self.next_timer) {
                (false, _) if now.saturating_duration_since(asked) < EVENTS_EVERY => {
                    if !worked {
                        // Who waits for this processor may be whom we wait for.
                        thread::yield_now();
                    }
                    continue;
                }
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
            if self.handle_events(&events[..count]) {
                return;
            }
        }
    }

    /// Does what events ask for; tells whether that was to stop.
    fn handle_events(&mut self, events: &[epoll::Event]) -> bool {
        // The worker may have slept since it last asked for the time.
        let now = Instant::now();
        for event in events {
            let (token, change) = Watcher::read(event.data);
            match u16::try_from(token) {
                Ok(port) if change => self.handle_event(PortId(port), now),
                Ok(port) => self.heat(PortId(port)),
                Err(_) => {
                    if self.handle_commands() {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Looks at every hot port once, and leaves those to epoll where nothing comes any more; tells whether anything came.
    pub(super) fn visit_hot(&mut self, now: Instant) -> bool {
        let (mut index, mut any) = (0, false);
        while let Some(port) = self.hot.get(index).copied() {
            let worked = self.visit(port, now);
            any |= worked;
            let slot = &mut self.slots[port.index()];
            if slot.answers {
                // What it has got or sent may want to be looked after.
                self.next_timer = earlier(self.next_timer, slot.port.poll_timeout());
            }
            if worked {
                slot.idle_since = now;
            } else if now.saturating_duration_since(slot.idle_since) >= slot.port.poll_time() {
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
        any
    }

    /// Returns a port, unless it is gone: an event may be older than that.
    fn present(&mut self, port: PortId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(port.index());
        slot.filter(|slot| !slot.is_vacant())
    }

    /// Follows what a port has been told of.
    fn handle_event(&mut self, port: PortId, now: Instant) {
        let Some(slot) = self.present(port) else {
            return;
        };
        slot.port.handle_event();
        let network = slot.network;
        let slot = &mut self.slots[port.index()];
        let switch = &mut self.networks[network].switch;
        slot.follow_link(port, switch, now, &mut self.own);
        self.follow_switch(network, now);
    }

    /// Takes in the links that there are when the worker starts: uplinks in their order, before any station is
    /// announced by one that only came up first.
    fn follow_links(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let network = slot.network;
            if let Ok(id) = u16::try_from(index) {
                let switch = &mut self.networks[network].switch;
                slot.follow_link(PortId(id), switch, now, &mut self.own);
                self.follow_switch(network, now);
            }
        }
    }

    /// Sends what a network has to say of itself, and follows what has become of its uplinks.
    pub(super) fn follow_switch(&mut self, network: usize, now: Instant) {
        let Self {
            slots,
            networks,
            own,
            own_burst,
            ..
        } = self;
        let network_name = &networks[network].name;
        let mut frames = own.frames.drain(..).peekable();
        while let Some((port, frame)) = frames.next() {
            own_burst.push_owned(frame, VirtioNetHeader::default());
            let more = frames.peek().is_some_and(|(next, _)| *next == port);
            if more && own_burst.room() > 0 {
                continue;
            }
            if let Some(slot) = slots.get_mut(port.index()) {
                slot.send_own(own_burst, network_name, now);
            }
            own_burst.clear();
        }
        drop(frames);
        let switch = &networks[network].switch;
        for (index, slot) in slots.iter_mut().enumerate() {
            if slot.follow_uplinks
                && slot.network == network
                && let Ok(id) = u16::try_from(index)
            {
                slot.follow_uplinks(switch.is_carried(PortId(id)));
            }
        }
        self.next_timer = earlier(self.next_timer, Some(switch.poll_timeout()));
    }

    fn heat(&mut self, port: PortId) {
        let Some(slot) = self.present(port).filter(|slot| !slot.hot) else {
            return;
        };
        slot.heat();
        self.hot.push(port);
    }

    /// Carries one burst from a port to where it goes; tells whether there was one.
    pub(super) fn visit(&mut self, ingress: PortId, now: Instant) -> bool {
        let Self {
            slots,
            networks,
            burst,
            outbox,
            routing,
            own,
            hot,
            next_timer,
            flow_log,
            ..
        } = self;
        let slot = &mut slots[ingress.index()];
        let network = &mut networks[slot.network];
        burst.clear();
        slot.tell_time(now);
        if let Err(fault) = slot.port.receive(burst, &mut slot.drops) {
            slot.report(&network.name, &fault, now);
        }
        if slot.answers
            && let Some(log) = flow_log
            && let Some(nat) = slot.port.nat()
        {
            for event in nat.take_events() {
                log.note(&network.name, &event);
            }
        }
        let (was_up, of_network) = (slot.up, slot.network);
        slot.follow_link(ingress, &mut network.switch, now, own);
        let mut changed = slot.up != was_up;
        if burst.is_empty() {
            slot.port.release(burst);
            if changed {
                self.follow_switch(of_network, now);
            }
            return false;
        }
        network.switch.set_now(now);
        slot.ingress.frames += burst.len() as u64;
        for (index, frame) in (0..).zip(burst.frames_mut()) {
            let head = &mut frame.head;
            slot.ingress.bytes += u64::from(head.frame_len);
            let passed = offload::check(head, network.mtu)
                .and_then(|()| head.parse())
                .and_then(|parsed| {
                    network
                        .switch
                        .forward(ingress, index, head, &parsed, outbox)
                });
            if let Err(reason) = passed {
                slot.drops.count(reason);
            }
        }
        let mut floor = Floor {
            slots,
            networks,
            own,
            hot,
            next_timer,
            changed,
            refused: 0,
            now,
        };
        outbox.drain(|port, batch| {
            if floor.slots[port.index()].router.is_some() {
                routing.aside.add(port, ingress, 0, batch);
            } else {
                floor.deliver(port, burst, batch);
            }
        });
        changed = floor.changed;
        let refused = floor.refused;
        if outbox.has_own() {
            changed = true;
            for index in outbox.take_own() {
                let frame = &burst.frames()[usize::from(index)];
                let mut copy = Vec::new();
                burst.copy_frame(frame, TagAction::Keep, &mut copy);
                let switch = &mut networks[of_network].switch;
                switch.handle_own(ingress, &copy, own);
            }
        }
        let routed = !routing.aside.is_empty();
        if routed {
            changed |= self.route(now);
        }
        let port = &mut self.slots[ingress.index()].port;
        if refused != 0 {
            port.refused(refused);
        }
        port.release(&mut self.burst);
        if routed {
            self.finish_routing(changed, now);
        } else if changed {
            self.follow_switch(of_network, now);
        }
        true
    }

    /// Does what is due.
    pub(super) fn handle_timers(&mut self, now: Now) {
        for index in 0..self.networks.len() {
            let (slots, switch) = (&self.slots, &mut self.networks[index].switch);
            if switch.poll_timeout() > now.instant {
                continue;
            }
            let counted = |port: PortId| {
                slots
                    .get(port.index())
                    .map_or_else(Bytes::default, |slot| Bytes {
                        ingress: slot.ingress.bytes,
                        egress: slot.egress.bytes,
                    })
            };
            if switch.handle_timeout(now.instant, counted, &mut self.own) {
                self.log_advisories(index, now);
            }
            self.follow_switch(index, now.instant);
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
        self.handle_router_timers(now);
        self.plan_timer();
    }

    pub(super) fn plan_timer(&mut self) {
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
        let routers = self.routing.poll_timeout(Instant::now());
        self.next_timer = earlier(earlier(ports, switches), routers);
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
                Command::AddUplink(new) => self.add_uplink(*new),
                Command::RemoveUplink(old) => self.remove_uplink(&old),
                Command::LogFlows(log) => self.flow_log = Some(log),
                Command::Nat(asked) => {
                    let (network, request) = *asked;
                    self.handle_nat(&network, request);
                }
                Command::Stop => {
                    self.shut_down_routers();
                    self.say_good_bye();
                    return true;
                }
            }
        }
        false
    }
}

/// Returns the earlier of two times.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Returns the whole milliseconds that cover a duration.
fn millis_up(duration: Duration) -> i32 {
    i32::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread::{self, ThreadId};

    use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

    use super::*;
    use crate::engine::{Journal, NetworkSpec};
    use crate::net::dhcp::Record;
    use crate::net::drops::Drops;
    use crate::net::gateway::{self, ServiceSpec};
    use crate::net::outbox::Egress;
    use crate::net::team::{self, Detection, LoadBalancing, Policy, Role};
    use crate::net::{inside, neighbours, router_advertisement};
    use crate::ports::{Port, PortFault, PortState, PortStatus, Sent};
    use crate::wire::ethernet::MacAddr;

    struct Forgetful;

    impl Journal for Forgetful {
        fn append(&mut self, _network: &str, _ticket: u64, _record: Record) -> bool {
            false
        }
    }

    /// The other end of a [`Silent`] port.
    #[derive(Clone)]
    struct Wire {
        cut: Arc<AtomicBool>,
        event: Arc<EventFd>,
        /// The thread that closed the port.
        closed: Arc<Mutex<Option<ThreadId>>>,
        /// How many frames were handed to the port.
        sent: Arc<AtomicUsize>,
    }

    impl Wire {
        fn new() -> Self {
            Self {
                cut: Arc::default(),
                event: Arc::new(eventfd()),
                closed: Arc::default(),
                sent: Arc::default(),
            }
        }

        fn cut(&self) {
            self.cut.store(true, Ordering::Relaxed);
            self.event.write(1).unwrap();
        }
    }

    fn eventfd() -> EventFd {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap()
    }

    /// A port where nothing ever comes.
    struct Silent(Wire);

    impl Drop for Silent {
        fn drop(&mut self) {
            *self.0.closed.lock().unwrap() = Some(thread::current().id());
        }
    }

    impl Port for Silent {
        fn watch(&mut self, watcher: Watcher) -> io::Result<()> {
            watcher.add_event(self.0.event.as_raw_fd())
        }

        fn handle_event(&mut self) {
            let _ = self.0.event.read();
        }

        fn receive(&mut self, _burst: &mut Burst, _drops: &mut Drops) -> Result<(), PortFault> {
            Ok(())
        }

        fn release(&mut self, burst: &mut Burst) {
            burst.clear();
        }

        fn transmit(
            &mut self,
            _burst: &Burst,
            batch: &[Egress],
            _drops: &mut Drops,
        ) -> Result<Sent, PortFault> {
            self.0.sent.fetch_add(batch.len(), Ordering::Relaxed);
            Ok(Sent::default())
        }

        fn arm(&mut self) -> bool {
            false
        }

        fn status(&self) -> PortStatus {
            PortStatus {
                state: PortState::Up,
                features: Vec::new(),
            }
        }

        fn is_up(&self) -> bool {
            !self.0.cut.load(Ordering::Relaxed)
        }
    }

    /// A worker with one network, which has a team of no uplinks, and what wakes it.
    fn worker(down_delay: Duration) -> (Worker, Sender<Command>, EventFd) {
        let policy = Policy {
            port_group: None,
            active: Vec::new(),
            standby: Vec::new(),
            load_balancing: LoadBalancing::PortId,
            detection: Detection::Link,
            notify_switches: true,
            failback: true,
            reverse_filter: true,
        };
        let team = team::Spec {
            name: "lan".to_owned(),
            policies: vec![policy],
            up_delay: Duration::ZERO,
            down_delay,
            lacp: None,
            discovery: neighbours::Spec {
                advertise: false,
                listen: false,
                chassis: MacAddr([2, 0, 0, 0, 0, 1]),
                host: String::new(),
                description: String::new(),
            },
        };
        let network = NetworkSpec {
            name: "lan".to_owned(),
            mtu: 1500,
            team: Some(team),
            ..NetworkSpec::default()
        };
        let spec = Spec {
            networks: vec![network],
        };
        let (commands, requests) = crossbeam_channel::unbounded();
        let (wake, durable) = (eventfd(), Durable::new().unwrap());
        let ledger = Ledger::new(Box::new(Forgetful));
        let worker = Worker::open(spec, &ledger, &durable, requests, &wake).unwrap();
        (worker, commands, wake)
    }

    fn add(worker: &mut Worker, name: &str) -> Wire {
        let wire = Wire::new();
        let (reply, answer) = crossbeam_channel::bounded(1);
        worker.add_uplink(NewUplink {
            network: "lan".to_owned(),
            name: name.to_owned(),
            role: Role::Active,
            port: Box::new(Silent(wire.clone())),
            reply,
        });
        answer.recv().unwrap().unwrap();
        wire
    }

    fn remove(worker: &mut Worker, name: &str) {
        let (reply, answer) = crossbeam_channel::bounded(1);
        worker.remove_uplink(&OldUplink {
            network: "lan".to_owned(),
            name: name.to_owned(),
            reply,
        });
        answer.recv().unwrap().unwrap();
    }

    /// What epoll says of a port: that frames came in, or that something changed.
    fn event(port: u16, change: bool) -> epoll::Event {
        let token = u64::from(port) | u64::from(change) << 32;
        assert_eq!(Watcher::read(token), (port.into(), change));
        epoll::Event::new(epoll::Events::EPOLLIN, token)
    }

    #[test]
    fn an_event_of_an_uplink_that_was_removed_meanwhile_is_of_nobody() {
        let (mut worker, ..) = worker(Duration::ZERO);
        add(&mut worker, "one");
        add(&mut worker, "two");
        worker.visit_hot(Instant::now());
        remove(&mut worker, "one");
        assert!(!worker.handle_events(&[event(0, true), event(0, false), event(7, true)]));
        worker.visit_hot(Instant::now());
        worker.handle_timers(clock());
        assert_eq!(worker.snapshot().networks[0].ports.len(), 1);
        add(&mut worker, "three");
        assert!(!worker.handle_events(&[event(0, true), event(0, false)]));
        worker.visit_hot(Instant::now());
        assert_eq!(worker.slots.len(), 2, "its number is used again");
        assert!(worker.slots[0].up);
    }

    #[test]
    fn stations_hear_that_their_network_ends() {
        let (mut worker, ..) = worker(Duration::ZERO);
        let advertised = router_advertisement::Spec {
            prefix: "fd00::/64".parse().unwrap(),
            link_local: "fe80::2".parse().unwrap(),
            mtu: 1500,
            dns: Vec::new(),
            search: Vec::new(),
            managed: false,
            other: false,
            autonomous: true,
            router_lifetime: router_advertisement::Spec::ROUTER_LIFETIME,
            valid: router_advertisement::Spec::VALID,
            preferred: router_advertisement::Spec::PREFERRED,
            min_interval: router_advertisement::Spec::MIN_INTERVAL,
            max_interval: router_advertisement::Spec::MAX_INTERVAL,
        };
        let network = NetworkSpec {
            name: "inside".to_owned(),
            mtu: 1500,
            gateway: Some(gateway::Spec {
                mac: MacAddr([2, 0, 0, 0, 0, 2]),
                services: vec![ServiceSpec::RouterAdvertisement(Box::new(advertised))],
                inside: inside::Spec::default(),
                nat: None,
            }),
            ..NetworkSpec::default()
        };
        let (now, durable) = (clock(), worker.durable.clone());
        let ledger = Ledger::new(Box::new(Forgetful));
        worker
            .open_network(network, &ledger, &durable, now)
            .unwrap();
        let wire = Wire::new();
        let port = Box::new(Silent(wire.clone()));
        let slot = Slot::new("vm".to_owned(), "guest", 1, port, now.instant);
        worker.add(slot, Member::default()).unwrap();
        worker.visit_hot(now.instant);
        let before = wire.sent.load(Ordering::Relaxed);
        worker.say_good_bye();
        assert_eq!(wire.sent.load(Ordering::Relaxed), before + 1);
    }

    #[test]
    fn the_worker_does_not_wait_until_a_removed_uplink_is_closed() {
        let (mut worker, ..) = worker(Duration::ZERO);
        let wire = add(&mut worker, "one");
        remove(&mut worker, "one");
        let by = loop {
            if let Some(by) = *wire.closed.lock().unwrap() {
                break by;
            }
            thread::yield_now();
        };
        assert_ne!(by, thread::current().id());
    }

    #[test]
    fn what_happens_while_the_worker_sleeps_happens_when_it_wakes() {
        let down_delay = Duration::from_millis(600);
        let (mut worker, commands, wake) = worker(down_delay);
        let wire = add(&mut worker, "one");
        let running = thread::spawn(move || worker.run());
        let has_link = || {
            let (reply, answer) = crossbeam_channel::bounded(1);
            commands.send(Command::Snapshot(reply)).unwrap();
            wake.write(1).unwrap();
            let mut snapshot = answer.recv().unwrap();
            snapshot.networks.remove(0).team.unwrap().uplinks[0].link
        };
        assert!(has_link());
        thread::sleep(down_delay * 2);
        let cut = Instant::now();
        wire.cut();
        while has_link() {
            assert!(cut.elapsed() < down_delay * 10);
            thread::sleep(Duration::from_millis(5));
        }
        assert!(cut.elapsed() >= down_delay, "{:?}", cut.elapsed());
        commands.send(Command::Stop).unwrap();
        wake.write(1).unwrap();
        running.join().unwrap();
    }
}
