//! A port in a worker's hands: its counters, its link, and what is logged of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};
use std::{io, mem};

use super::{Count, PortSnapshot};
use crate::net::Now;
use crate::net::drops::Drops;
use crate::net::outbox::Egress;
use crate::net::port::{OwnFrames, PortId};
use crate::net::switch::Switch;
use crate::net::vlan::TagAction;
use crate::ports::burst::Burst;
use crate::ports::{Port, PortFault, PortState, PortStatus, Sent, Watcher};
use crate::wire::ethernet::MacAddr;

/// A port of a worker, and what it knows of it.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) port_group: Option<String>,
    /// The VLANs that it carries, in words.
    pub(super) vlan: String,
    pub(super) kind: &'static str,
    pub(super) network: usize,
    pub(super) port: Box<dyn Port>,
    pub(super) answers: bool,
    /// The router that has a port of its own here, by number.
    pub(super) router: Option<usize>,
    pub(super) up: bool,
    /// Whether its link goes down while no uplink can carry it.
    pub(super) follow_uplinks: bool,
    /// Whether its link is to be up.
    pub(super) link: bool,
    pub(super) hot: bool,
    pub(super) idle_since: Instant,
    pub(super) ingress: Count,
    pub(super) egress: Count,
    pub(super) drops: Drops,
    pub(super) lines: Lines,
}

const VACANT: &str = "vacant";

/// A port by which nothing comes and nothing goes: what stands where one was, or what only the worker itself works with.
pub(super) struct Still {
    pub(super) up: bool,
}

impl Port for Still {
    fn watch(&mut self, _watcher: Watcher) -> io::Result<()> {
        Ok(())
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
        _batch: &[Egress],
        _drops: &mut Drops,
    ) -> Result<Sent, PortFault> {
        Ok(Sent::default())
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn status(&self) -> PortStatus {
        PortStatus {
            state: if self.up {
                PortState::Up
            } else {
                PortState::Down
            },
            features: Vec::new(),
        }
    }

    fn is_up(&self) -> bool {
        self.up
    }
}

/// How many lines about one port are logged within [`Lines::WINDOW`]: a guest can cause them at will.
#[derive(Debug)]
pub(super) struct Lines {
    since: Instant,
    count: u32,
}

impl Lines {
    const WINDOW: Duration = Duration::from_secs(10);
    const LIMIT: u32 = 20;

    /// Tells whether one more line may be logged; the last that may says that others follow.
    fn allow(&mut self, port: &str, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Self::WINDOW {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        if self.count == Self::LIMIT {
            tracing::warn!(port, "too much happens at the port to log all of it");
        }
        self.count < Self::LIMIT
    }
}

impl Slot {
    pub(super) fn new(
        name: String,
        kind: &'static str,
        network: usize,
        port: Box<dyn Port>,
        now: Instant,
    ) -> Self {
        Self {
            name,
            port_group: None,
            vlan: String::new(),
            kind,
            network,
            answers: port.answers(),
            router: None,
            port,
            up: false,
            follow_uplinks: false,
            link: true,
            hot: true,
            idle_since: now,
            ingress: Count::default(),
            egress: Count::default(),
            drops: Drops::default(),
            lines: Lines {
                since: now,
                count: 0,
            },
        }
    }

    /// Whether the port is gone, and its number free.
    pub(super) fn is_vacant(&self) -> bool {
        self.kind == VACANT
    }

    /// Leaves nothing of the port but its number, and returns the port.
    pub(super) fn vacate(&mut self, now: Instant) -> Box<dyn Port> {
        let nothing = Self::new(
            String::new(),
            VACANT,
            usize::MAX,
            Box::new(Still { up: false }),
            now,
        );
        let nothing = Self {
            hot: false,
            ..nothing
        };
        mem::replace(self, nothing).port
    }

    /// Tells the present to a port that answers; others need not know it.
    #[inline(always)]
    pub(super) fn tell_time(&mut self, now: Instant) {
        if self.answers {
            self.port.set_now(Now {
                instant: now,
                wall: SystemTime::now(),
            });
        }
    }

    pub(super) fn heat(&mut self) {
        self.hot = true;
        self.port.disarm();
    }

    /// Says once that the port's peer or device is broken.
    #[cold]
    pub(super) fn report(&mut self, network: &str, fault: &PortFault, now: Instant) {
        if !self.lines.allow(&self.name, now) {
            return;
        }
        tracing::warn!(port = self.name, network, %fault, "the port stopped");
    }

    /// Tells the switch when the port has come up or gone down.
    #[inline]
    pub(super) fn follow_link(
        &mut self,
        port: PortId,
        switch: &mut Switch,
        now: Instant,
        own: &mut OwnFrames,
    ) {
        let up = self.port.is_up();
        if up != self.up {
            self.up = up;
            let adapter = self.port.adapter().map(|facts| (facts.mac, facts.speed));
            switch.set_now(now);
            switch.set_up(port, up, adapter, own);
            if !self.lines.allow(&self.name, now) {
                return;
            }
            tracing::info!(
                port = self.name,
                state = self.port.status().state.name(),
                "the port changed its state"
            );
        }
    }

    /// Sets the port's link to what the uplinks that carry it want.
    pub(super) fn follow_uplinks(&mut self, carried: bool) {
        if self.follow_uplinks && self.link != carried {
            self.link = carried;
            self.port.set_link(carried);
        }
    }

    /// Sends frames of the network's own, whatever becomes of them.
    pub(super) fn send_own(&mut self, burst: &Burst, network: &str, now: Instant) {
        let batch: Vec<_> = (0..burst.len())
            .filter_map(|frame| u16::try_from(frame).ok())
            .map(|frame| Egress {
                frame,
                action: TagAction::Keep,
            })
            .collect();
        match self.port.transmit(burst, &batch, &mut self.drops) {
            Ok(sent) => {
                self.egress.frames += sent.frames;
                self.egress.bytes += sent.bytes;
            }
            Err(fault) => self.report(network, &fault, now),
        }
    }

    pub(super) fn snapshot(&self, id: PortId, mac: Option<MacAddr>) -> PortSnapshot {
        let status = self.port.status();
        PortSnapshot {
            id,
            name: self.name.clone(),
            port_group: self.port_group.clone(),
            vlan: self.vlan.clone(),
            kind: self.kind,
            state: status.state,
            mac,
            features: status.features,
            driver: self.port.driver(),
            ingress: self.ingress,
            egress: self.egress,
            drops: self
                .drops
                .all()
                .map(|(reason, count)| (reason.name(), count))
                .collect::<BTreeMap<_, _>>(),
        }
    }
}
