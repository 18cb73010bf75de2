//! What is known of a domain: its queriers, and the ports that get every group.

use std::time::{Duration, Instant};

use super::{Family, Groups};
use crate::net::port::PortId;

/// The querier of a domain, as far as it was heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Querier {
    /// From when on snooping can be in force: every host has answered.
    settles: Instant,
    /// Whether it is: set by [`Scope::expire`] only.
    pub(super) in_force: bool,
    /// By when the last query is answered.
    pub(super) answered: Instant,
    expires: Instant,
}

/// A port that gets every group of a domain: a router's, or one whose groups are not all recorded.
#[derive(Clone, Copy, Debug)]
struct Open {
    port: PortId,
    router: Option<Instant>,
    unrecorded: Option<Instant>,
}

/// What is known of a domain.
#[derive(Debug, Default)]
pub(super) struct Scope {
    v4: Option<Querier>,
    v6: Option<Querier>,
    /// By port.
    open: Vec<Open>,
    /// The ports of `open`, for the way of a frame.
    pub(super) open_ports: Vec<PortId>,
    /// Those of them that are routers'.
    pub(super) routers: Vec<PortId>,
}

impl Scope {
    #[inline]
    pub(super) const fn querier(&self, family: Family) -> Option<Querier> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Notes a query that every host has to answer, and tells when there is something to do about it.
    pub(super) fn heard(&mut self, family: Family, response: Duration, now: Instant) -> Instant {
        let answered = now + response.max(Groups::SETTLING) + Groups::TRAVEL;
        let querier = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        let querier = querier.get_or_insert(Querier {
            settles: answered,
            in_force: false,
            answered,
            expires: now,
        });
        querier.settles = querier.settles.min(answered);
        querier.answered = querier.answered.max(answered);
        querier.expires = now + Groups::QUERIER;
        if querier.in_force {
            querier.expires
        } else {
            querier.settles
        }
    }

    /// Has a port get every group as a router's, for a time.
    pub(super) fn add_router(&mut self, port: PortId, until: Instant) {
        let open = self.open(port);
        if open.router.replace(until).is_none() {
            self.list();
        }
    }

    /// Has a port get every group because it is not known, or not recorded, what it wants.
    pub(super) fn add_unrecorded(&mut self, port: PortId, until: Instant) {
        let open = self.open(port);
        let before = open.unrecorded;
        open.unrecorded = before.max(Some(until));
        if before.is_none() {
            self.list();
        }
    }

    fn open(&mut self, port: PortId) -> &mut Open {
        let found = self.open.binary_search_by_key(&port, |open| open.port);
        let at = found.unwrap_or_else(|at| {
            let new = Open {
                port,
                router: None,
                unrecorded: None,
            };
            self.open.insert(at, new);
            at
        });
        &mut self.open[at]
    }

    fn list(&mut self) {
        self.open_ports.clear();
        self.open_ports
            .extend(self.open.iter().map(|open| open.port));
        self.routers.clear();
        let routers = self.open.iter().filter(|open| open.router.is_some());
        self.routers.extend(routers.map(|open| open.port));
    }

    pub(super) fn forget(&mut self, port: PortId) {
        self.open.retain(|open| open.port != port);
        self.list();
    }

    /// Ends what is over, and tells `due` when the rest will be.
    pub(super) fn expire(&mut self, now: Instant, due: &mut Due) {
        for querier in [&mut self.v4, &mut self.v6] {
            if querier.is_some_and(|querier| querier.expires <= now) {
                *querier = None;
            }
            if let Some(querier) = querier {
                querier.in_force |= querier.settles <= now;
                due.note(querier.expires);
                if !querier.in_force {
                    due.note(querier.settles);
                }
            }
        }
        for open in &mut self.open {
            for time in [&mut open.router, &mut open.unrecorded] {
                *time = time.filter(|time| *time > now);
                if let Some(time) = time {
                    due.note(*time);
                }
            }
        }
        self.open
            .retain(|open| open.router.is_some() || open.unrecorded.is_some());
        self.list();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none() && self.open.is_empty()
    }
}

/// When there is something to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due(pub(super) Option<Instant>);

impl Due {
    pub(super) fn note(&mut self, at: Instant) {
        self.0 = Some(self.0.map_or(at, |due| due.min(at)));
    }
}
