//! One member of a team as LACP sees it: its receive, periodic, mux and transmit machines (IEEE 802.1AX-2014, 6.4.12 to
//! 6.4.16), and its answers to markers (6.5.4).

use std::time::{Duration, Instant};

use super::{Mode, Rate, Selection, Spec};
use crate::net::port::{OwnFrames, PortId};
use crate::wire::ethernet::MacAddr;
use crate::wire::lacp::{Lacpdu, Marker, Participant, State};

/// Fast_Periodic_Time: how often a partner with the short timeout is spoken to, and the window of the transmit limit.
const FAST_PERIODIC: Duration = Duration::from_secs(1);
/// Slow_Periodic_Time: how often a partner with the long timeout is spoken to.
const SLOW_PERIODIC: Duration = Duration::from_secs(30);
/// Short_Timeout_Time.
pub(super) const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Long_Timeout_Time.
pub(super) const LONG_TIMEOUT: Duration = Duration::from_secs(90);
/// Aggregate_Wait_Time: how long a member waits, at most, for others to join an aggregate together with it.
pub(super) const AGGREGATE_WAIT: Duration = Duration::from_secs(2);
/// How long a new partner counts as good before it must be in sync: longer than it may wait for others itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// How many LACPDUs leave within [`FAST_PERIODIC`].
const TRANSMIT_LIMIT: usize = 3;
/// How many markers are answered within a second (IEEE 802.3, 57A.2: no Slow Protocol may send more).
pub(super) const MARKER_LIMIT: u32 = 10;

/// The priority of every port of ours, the usual default.
const PORT_PRIORITY: u16 = 0x8000;
/// What is said of the partner, and done for it, while there is none: it says nothing by itself, and is told often of
/// us, so that two ends that have given each other up find each other at once when the wire carries again.
const NOBODY: Participant = Participant {
    system_priority: 0,
    system: MacAddr::ZERO,
    key: 0,
    port_priority: 0,
    port: 0,
    state: State::TIMEOUT,
};

/// The state of the receive machine.
///
/// ```text
/// Disabled ─link up─▶ Expired ─3 s─▶ Defaulted
///                      │    ▲           │
///                     PDU   └─3 s/90 s─┐│PDU
///                      └──────────▶ Current
/// ```
///
/// Every state becomes `Disabled` when the link goes down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Receive {
    /// No link.
    Disabled,
    /// The partner has not been heard yet, or not for too long.
    Expired {
        /// When it is given up.
        until: Instant,
    },
    /// There is no partner.
    Defaulted,
    /// The partner is heard.
    Current {
        /// How long what it said last is good.
        until: Instant,
    },
}

impl Receive {
    /// Returns the name under which the state is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "port disabled",
            Self::Expired { .. } => "expired",
            Self::Defaulted => "defaulted",
            Self::Current { .. } => "current",
        }
    }
}

/// The state of the mux machine, with independent control of collecting and distributing.
///
/// ```text
/// Detached ─selected─▶ Waiting ─ready─▶ Attached ─partner in sync─▶ Collecting ─partner collects─▶ Distributing
/// ```
///
/// Each goes back a step when its condition ends; what is no longer selected ends in `Detached`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mux {
    /// Outside of the aggregate.
    Detached,
    /// Selected, while others may be about to join.
    Waiting {
        /// When it joins without them.
        until: Instant,
    },
    /// Part of the aggregate, but the partner is not in sync.
    Attached,
    /// Frames are taken.
    Collecting,
    /// Frames are taken and sent.
    Distributing,
}

impl Mux {
    /// Returns the name under which the state is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Waiting { .. } => "waiting",
            Self::Attached => "attached",
            Self::Collecting => "collecting",
            Self::Distributing => "distributing",
        }
    }

    /// Returns what the partner is told of the state.
    fn flags(self) -> State {
        match self {
            Self::Detached | Self::Waiting { .. } => State::default(),
            Self::Attached => State::SYNCHRONIZATION,
            Self::Collecting => State::SYNCHRONIZATION | State::COLLECTING,
            Self::Distributing => State::SYNCHRONIZATION | State::COLLECTING | State::DISTRIBUTING,
        }
    }
}

/// The state of the periodic transmission machine; the times are those of the next transmission.
#[derive(Clone, Copy, Debug)]
enum Periodic {
    /// Both ends are passive, or there is no link: nothing is said.
    No,
    Fast(Instant),
    Slow(Instant),
}

/// PDUs of a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// LACPDUs heard.
    pub received: u64,
    /// LACPDUs sent.
    pub sent: u64,
    /// Markers answered.
    pub markers: u64,
    /// PDUs that were neither, that made no sense, or that came too often or without a link.
    pub ignored: u64,
}

/// What members must share to be one aggregate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Group {
    partner_priority: u16,
    partner_system: MacAddr,
    partner_key: u16,
    speed: Option<u64>,
    /// The only member, if its partner does not want it aggregated.
    alone: Option<PortId>,
}

impl Group {
    /// Tells whether the partner outranks a system: then it is the partner that decides among groups.
    pub(super) fn outranks(&self, spec: &Spec) -> bool {
        (self.partner_priority, self.partner_system) < (spec.system_priority, spec.system)
    }
}

/// A member and its machines.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) port: PortId,
    pub(super) receive: Receive,
    pub(super) mux: Mux,
    pub(super) selection: Selection,
    /// The partner as it is known, if it was heard since the link came up and is not given up.
    pub(super) partner: Option<Participant>,
    pub(super) counters: Counters,
    pub(super) speed: Option<u64>,
    mac: MacAddr,
    /// Until when a new partner counts as good though it is not in sync.
    patience: Option<Instant>,
    periodic: Periodic,
    /// Since when there is need to transmit.
    ntt: Option<Instant>,
    /// Whether the last LACPDU told that this end is in sync.
    told_sync: bool,
    /// When the last LACPDUs left, oldest first.
    sent: [Option<Instant>; TRANSMIT_LIMIT],
    /// Since when markers are counted, and how many were answered since.
    markers: Option<(Instant, u32)>,
}

impl Member {
    pub(super) fn new(port: PortId) -> Self {
        Self {
            port,
            receive: Receive::Disabled,
            mux: Mux::Detached,
            selection: Selection::NoLink,
            partner: None,
            counters: Counters::default(),
            speed: None,
            mac: MacAddr::ZERO,
            patience: None,
            periodic: Periodic::No,
            ntt: None,
            told_sync: false,
            sent: [None; TRANSMIT_LIMIT],
            markers: None,
        }
    }

    /// Follows the link. With a new speed it is another port for the partner, and has to be put in sync anew.
    pub(super) fn set_link(&mut self, up: bool, mac: MacAddr, speed: Option<u64>, now: Instant) {
        let was_up = self.receive != Receive::Disabled;
        if !up {
            self.receive = Receive::Disabled;
            self.partner = None;
            self.patience = None;
            self.detach(now);
        } else if !was_up {
            let until = now + SHORT_TIMEOUT;
            self.receive = Receive::Expired { until };
        } else if self.speed != speed {
            self.detach(now);
            self.distrust();
            self.patience = Some(now + PATIENCE);
        }
        (self.mac, self.speed) = (mac, speed);
    }

    /// Returns this end as the partner is told of it.
    pub(super) fn actor(&self, spec: &Spec) -> Participant {
        let (defaulted, expired) = match self.receive {
            Receive::Disabled | Receive::Current { .. } => (false, false),
            Receive::Expired { .. } => (false, true),
            Receive::Defaulted => (true, false),
        };
        let state = (State::AGGREGATION | self.mux.flags())
            .with(State::ACTIVITY, spec.mode == Mode::Active)
            .with(State::TIMEOUT, spec.rate == Rate::Fast)
            .with(State::DEFAULTED, defaulted)
            .with(State::EXPIRED, expired);
        Participant {
            system_priority: spec.system_priority,
            system: spec.system,
            key: key(self.speed),
            port_priority: PORT_PRIORITY,
            // 0 names no port. An engine has too few ports for the last two to be taken for one.
            port: self.port.0.saturating_add(1),
            state,
        }
    }

    /// Returns the group this member could be part of, if it has a partner.
    pub(super) fn group(&self, spec: &Spec) -> Option<Group> {
        let partner = self.partner.filter(|_| !self.is_loop(spec))?;
        Some(Group {
            partner_priority: partner.system_priority,
            partner_system: partner.system,
            partner_key: partner.key,
            speed: self.speed,
            alone: (!partner.state.has(State::AGGREGATION)).then_some(self.port),
        })
    }

    /// Tells whether the other end is this system itself.
    pub(super) fn is_loop(&self, spec: &Spec) -> bool {
        self.partner.is_some_and(|it| it.system == spec.system)
    }

    /// Tells whether the partner is heard.
    pub(super) fn is_current(&self) -> bool {
        matches!(self.receive, Receive::Current { .. })
    }

    /// Tells whether it is still open if there is a partner.
    pub(super) fn is_unheard(&self) -> bool {
        matches!(self.receive, Receive::Expired { .. }) && self.partner.is_none()
    }

    /// Tells whether the partner is in sync, or may take its time.
    pub(super) fn is_promising(&self) -> bool {
        self.partner_has(State::SYNCHRONIZATION) || self.patience.is_some()
    }

    /// Tells whether frames may be sent: some partners say that they collect before they have heard that this end is in
    /// sync, and drop what comes before that.
    pub(super) fn may_send(&self) -> bool {
        self.mux == Mux::Distributing && self.told_sync
    }

    fn partner_has(&self, flags: State) -> bool {
        self.partner.is_some_and(|it| it.state.has(flags))
    }

    /// Takes a PDU in: the receive machine's state `CURRENT`.
    pub(super) fn handle_lacpdu(&mut self, spec: &Spec, pdu: &Lacpdu, now: Instant) {
        self.counters.received += 1;
        let actor = self.actor(spec);
        // The standard leaves out collecting. But if the PDU that told of it was lost, a partner that controls collecting
        // and distributing independently would not send until the next one, 30 s later at the slow rate.
        let told = State::ACTIVITY
            | State::TIMEOUT
            | State::AGGREGATION
            | State::SYNCHRONIZATION
            | State::COLLECTING;
        let knows_us = pdu.partner.names_same(&actor);
        if !knows_us || !pdu.partner.state.agrees(actor.state, told) {
            self.need_to_transmit(now);
        }
        if !self.partner.is_some_and(|it| it.names_same(&pdu.actor)) {
            self.detach(now);
            self.patience = Some(now + PATIENCE);
        }
        let alone = !pdu.actor.state.has(State::AGGREGATION);
        let maintained = pdu.actor.state.has(State::ACTIVITY)
            || spec.mode == Mode::Active && pdu.partner.state.has(State::ACTIVITY);
        let in_sync = pdu.actor.state.has(State::SYNCHRONIZATION);
        let in_sync = in_sync && maintained && (knows_us || alone);
        let state = pdu.actor.state.with(State::SYNCHRONIZATION, in_sync);
        self.partner = Some(Participant { state, ..pdu.actor });
        let timeout = match spec.rate {
            Rate::Fast => SHORT_TIMEOUT,
            Rate::Slow => LONG_TIMEOUT,
        };
        let until = now + timeout;
        self.receive = Receive::Current { until };
    }

    /// Answers a marker, if it did not come too often.
    pub(super) fn handle_marker(&mut self, marker: &Marker, now: Instant, out: &mut OwnFrames) {
        let (since, answered) = self
            .markers
            .filter(|(since, _)| now < *since + Duration::from_secs(1))
            .unwrap_or((now, 0));
        if answered == MARKER_LIMIT {
            self.counters.ignored += 1;
            return;
        }
        self.markers = Some((since, answered + 1));
        self.counters.markers += 1;
        out.send(self.port, marker.respond(self.mac));
    }

    /// Runs the timers of the receive machine, and the one of patience.
    pub(super) fn run_receive(&mut self, now: Instant) {
        self.patience = self.patience.filter(|until| *until > now);
        match self.receive {
            Receive::Expired { until } if until <= now => {
                self.receive = Receive::Defaulted;
                self.partner = None;
                self.detach(now);
            }
            Receive::Current { until } if until <= now => {
                let until = now + SHORT_TIMEOUT;
                self.receive = Receive::Expired { until };
                self.distrust();
            }
            Receive::Disabled
            | Receive::Expired { .. }
            | Receive::Defaulted
            | Receive::Current { .. } => {}
        }
    }

    /// Runs the mux machine as far as it goes. `alone` says that nobody is about to join the aggregate as well.
    pub(super) fn run_mux(&mut self, alone: bool, now: Instant) {
        let selected = self.selection == Selection::Selected;
        let in_sync = selected && self.partner_has(State::SYNCHRONIZATION);
        let collects = in_sync && self.partner_has(State::COLLECTING);
        loop {
            self.mux = match self.mux {
                Mux::Detached if selected => Mux::Waiting {
                    until: now + AGGREGATE_WAIT,
                },
                Mux::Waiting { .. } | Mux::Attached if !selected => Mux::Detached,
                Mux::Waiting { until } if alone || in_sync || until <= now => Mux::Attached,
                Mux::Attached if in_sync => Mux::Collecting,
                Mux::Collecting if !in_sync => Mux::Attached,
                Mux::Collecting if collects => Mux::Distributing,
                Mux::Distributing if !collects => Mux::Collecting,
                Mux::Detached
                | Mux::Waiting { .. }
                | Mux::Attached
                | Mux::Collecting
                | Mux::Distributing => return,
            };
            match self.mux {
                Mux::Detached | Mux::Attached | Mux::Collecting => self.need_to_transmit(now),
                // The partner acts on neither.
                Mux::Waiting { .. } | Mux::Distributing => {}
            }
        }
    }

    /// Runs the periodic transmission machine.
    pub(super) fn run_periodic(&mut self, mode: Mode, now: Instant) {
        let partner = self.partner.unwrap_or(NOBODY).state;
        let silent = mode == Mode::Passive && !partner.has(State::ACTIVITY);
        if self.receive == Receive::Disabled || silent {
            self.periodic = Periodic::No;
            self.ntt = None;
            return;
        }
        let fast = Periodic::Fast(now + FAST_PERIODIC);
        let slow = Periodic::Slow(now + SLOW_PERIODIC);
        let (next, transmit) = match (self.periodic, partner.has(State::TIMEOUT)) {
            (Periodic::No, true) => (fast, true),
            (Periodic::No, false) => (slow, true),
            (Periodic::Fast(at), true) if at <= now => (fast, true),
            (Periodic::Slow(at), false) if at <= now => (slow, true),
            (Periodic::Slow(_), true) => (fast, true),
            (Periodic::Fast(_), false) => (slow, false),
            (same @ (Periodic::Fast(_) | Periodic::Slow(_)), _) => (same, false),
        };
        self.periodic = next;
        if transmit {
            self.need_to_transmit(now);
        }
    }

    /// Sends what is to be said, if the limit allows it by now.
    pub(super) fn transmit(&mut self, spec: &Spec, now: Instant, out: &mut OwnFrames) {
        if self.transmit_at().is_none_or(|at| at > now) {
            return;
        }
        let pdu = Lacpdu {
            actor: self.actor(spec),
            partner: self.partner.unwrap_or(NOBODY),
            collector_max_delay: 0,
        };
        out.send(self.port, pdu.emit(self.mac));
        self.told_sync = pdu.actor.state.has(State::SYNCHRONIZATION);
        self.counters.sent += 1;
        self.ntt = None;
        self.sent.rotate_left(1);
        let [.., last] = &mut self.sent;
        *last = Some(now);
    }

    /// Returns when this member has something to do next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let receive = match self.receive {
            Receive::Disabled | Receive::Defaulted => None,
            Receive::Expired { until } | Receive::Current { until } => Some(until),
        };
        let mux = match self.mux {
            Mux::Waiting { until } => Some(until),
            Mux::Detached | Mux::Attached | Mux::Collecting | Mux::Distributing => None,
        };
        let periodic = match self.periodic {
            Periodic::No => None,
            Periodic::Fast(at) | Periodic::Slow(at) => Some(at),
        };
        [receive, mux, periodic, self.patience, self.transmit_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns when the next LACPDU is to leave, if there is need of one.
    ///
    /// Who waits for others speaks once a second: what is left of the limit is needed to be attached and to collect
    /// without delay.
    fn transmit_at(&self) -> Option<Instant> {
        let [oldest, .., newest] = self.sent;
        let limiting = match self.mux {
            Mux::Waiting { .. } => newest,
            Mux::Detached | Mux::Attached | Mux::Collecting | Mux::Distributing => oldest,
        };
        let ntt = self.ntt?;
        Some(limiting.map_or(ntt, |at| ntt.max(at + FAST_PERIODIC)))
    }

    fn need_to_transmit(&mut self, now: Instant) {
        self.ntt.get_or_insert(now);
    }

    /// Takes back that the partner is in sync, and wants to be spoken to often until it says so again.
    fn distrust(&mut self) {
        if let Some(partner) = &mut self.partner {
            let state = partner.state.with(State::SYNCHRONIZATION, false);
            partner.state = state.with(State::TIMEOUT, true);
        }
    }

    fn detach(&mut self, now: Instant) {
        self.mux = Mux::Detached;
        self.told_sync = false;
        self.need_to_transmit(now);
    }
}

/// Returns the key of a speed in bits a second: in units of 10 Mbit/s, and the last number for one that is not known.
pub(super) fn key(speed: Option<u64>) -> u16 {
    speed.map_or(u16::MAX, |speed| {
        let units = u16::try_from(speed / 10_000_000).unwrap_or(u16::MAX);
        units.clamp(1, u16::MAX - 1)
    })
}
