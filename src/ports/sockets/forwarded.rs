//! UDP by port forwards: who outside talks with which guest.
//!
//! Each client of a forwarded port has a session with one target, until nothing has passed for a while. What the guest
//! sends to the client as it sees it leaves through the port, from the host's address that the client had sent to.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::table::Table;
use crate::net::nat::expiry::{Expiry, Note};
use crate::net::nat::{self, Event, FlowRow, Originator, Protocol};
use crate::wire::ethernet::MacAddr;

/// How many sessions there are at most whose guest has not said anything yet: anybody can begin some in anybody's name, and
/// all count as the guest's flows. The oldest gives way.
const UNANSWERED: usize = 8192;
/// How many sessions are forgotten in one go.
const FORGOTTEN: usize = 256;

/// A client, as the port that it talks to sees it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Client {
    /// The number of the listener.
    pub(super) listener: u32,
    /// Who it is.
    pub(super) address: SocketAddr,
    /// The host's address that it talks to.
    pub(super) to: Option<IpAddr>,
}

/// A client and its guest.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    /// What the guest sees of the client.
    pub(super) seen: SocketAddr,
    /// The guest's address and port.
    pub(super) target: SocketAddr,
    pub(super) mac: MacAddr,
    /// The ticket by which the target's connections are counted.
    pub(super) ticket: usize,
    pub(super) note: Note,
    pub(super) created: Instant,
    pub(super) last: Instant,
    /// Whether the guest has said something.
    pub(super) answered: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Session {
    /// What is told of it.
    pub(super) fn event(&self, created: bool, port: u16) -> Event {
        Event {
            created,
            protocol: Protocol::Udp,
            originator: Originator::Forward,
            mac: Some(self.mac),
            inside: self.target,
            outside: self.client.to.map(|ip| SocketAddr::new(ip, port)),
            remote: Some(self.client.address),
            sent: self.sent,
            received: self.received,
        }
    }
}

/// The sessions of all forwarded ports.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: Table<Session>,
    by_client: HashMap<Client, u32, foldhash::fast::RandomState>,
    /// By guest, and by what it sees of the client.
    by_guest: HashMap<(SocketAddr, SocketAddr), u32, foldhash::fast::RandomState>,
    expiry: Expiry,
    /// Those whose guest may not have said anything yet, the oldest first.
    unanswered: VecDeque<Note>,
}

impl Sessions {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_guest.is_empty()
    }

    /// Returns a client's session.
    pub(super) fn of_client(&mut self, client: &Client) -> Option<&mut Session> {
        let id = *self.by_client.get(client)?;
        self.sessions.get_mut(id)
    }

    /// Returns the session that a guest's datagram is part of.
    pub(super) fn of_guest(
        &mut self,
        guest: SocketAddr,
        remote: SocketAddr,
    ) -> Option<&mut Session> {
        let id = *self.by_guest.get(&(guest, remote))?;
        self.sessions.get_mut(id)
    }

    /// Returns what a guest can see of a client: as it is, or with another port where another client looks like it.
    pub(super) fn free_alias(&self, target: SocketAddr, seen: SocketAddr) -> Option<SocketAddr> {
        const TRIES: u16 = 64;
        /// From here on ports are nobody's by name.
        const FIRST: u16 = 49_152;
        let others = (0..TRIES).map(|step| FIRST + (seen.port().wrapping_add(step) & 0x3fff));
        // A service of the gateway must not be taken for a client.
        let own = Some(seen.port()).filter(|port| *port >= 1024);
        own.into_iter()
            .chain(others)
            .map(|port| SocketAddr::new(seen.ip(), port))
            .find(|alias| !self.by_guest.contains_key(&(target, *alias)))
    }

    /// Makes room for one more session that nobody has answered; returns the one that gave way.
    pub(super) fn make_room(&mut self) -> Option<Session> {
        while self.unanswered.len() >= UNANSWERED {
            let note = self.unanswered.pop_front()?;
            let session = self.sessions.get(note.id);
            let unanswered = session.is_some_and(|session| !session.answered);
            if self.sessions.is_current(note) && unanswered {
                return self.remove(note.id);
            }
        }
        None
    }

    /// The number of the next session.
    pub(super) fn vacant(&self) -> Option<Note> {
        self.sessions.vacant()
    }

    /// Adds a session, whose note is [`Sessions::vacant`].
    pub(super) fn insert(&mut self, session: Session, due: Instant) {
        let note = session.note;
        self.by_client.insert(session.client, note.id);
        self.by_guest
            .insert((session.target, session.seen), note.id);
        self.expiry.push(due, note);
        self.unanswered.push_back(note);
        self.sessions.insert(session);
    }

    /// Ends the sessions of listeners.
    pub(super) fn end(&mut self, listeners: &HashSet<u32>, mut ended: impl FnMut(Session)) {
        let of_them = |(_, session): &(u32, &Session)| listeners.contains(&session.client.listener);
        let ids: Vec<u32> = self
            .sessions
            .iter()
            .filter(of_them)
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            if let Some(session) = self.remove(id) {
                ended(session);
            }
        }
    }

    fn remove(&mut self, id: u32) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        self.by_client.remove(&session.client);
        self.by_guest.remove(&(session.target, session.seen));
        Some(session)
    }

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.expiry.poll_timeout()
    }

    /// Forgets sessions that are not used.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        timeouts: &nat::Timeouts,
        mut ended: impl FnMut(Session),
    ) {
        for _ in 0..FORGOTTEN {
            let Some(note) = self.expiry.pop(now) else {
                return;
            };
            if !self.sessions.is_current(note) {
                continue;
            }
            let Some(session) = self.sessions.get(note.id) else {
                continue;
            };
            let due = session.last + timeouts.udp;
            if due > now {
                self.expiry.push(due, note);
            } else if let Some(session) = self.remove(note.id) {
                ended(session);
            }
        }
    }

    /// Adds the sessions to `out`; `port` tells a listener's.
    pub(super) fn rows(
        &self,
        now: Instant,
        timeouts: &nat::Timeouts,
        port: impl Fn(u32) -> u16,
        out: &mut Vec<FlowRow>,
    ) {
        out.extend(self.sessions.iter().map(|(_, session)| {
            let idle = now.saturating_duration_since(session.last);
            let event = session.event(true, port(session.client.listener));
            FlowRow {
                protocol: Protocol::Udp,
                originator: Originator::Forward,
                mac: event.mac,
                inside: session.target,
                outside: event.outside,
                remote: event.remote,
                state: "active",
                age: now.saturating_duration_since(session.created),
                idle,
                expires: timeouts.udp.saturating_sub(idle),
                sent: session.sent,
                received: session.received,
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_nobody_answers_give_way_to_others() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        let begin = |sessions: &mut Sessions, number: usize| {
            let [.., a, b, c] = number.to_be_bytes();
            let client = Client {
                listener: 0,
                address: ([10, a, b, c], 7).into(),
                to: None,
            };
            let gone = sessions.make_room();
            let session = Session {
                client,
                seen: client.address,
                target: ([192, 168, 81, 7], 7).into(),
                mac: MacAddr([2; 6]),
                ticket: 0,
                note: sessions.vacant().unwrap(),
                created: now,
                last: now,
                answered: false,
                sent: 0,
                received: 0,
            };
            sessions.insert(session, now);
            gone.map(|gone| gone.client.address)
        };
        for number in 0..UNANSWERED {
            assert_eq!(begin(&mut sessions, number), None);
        }
        let first = Client {
            listener: 0,
            address: ([10, 0, 0, 0], 7).into(),
            to: None,
        };
        sessions.of_client(&first).unwrap().answered = true;
        assert_eq!(begin(&mut sessions, UNANSWERED), None, "it does not count");
        let gone = begin(&mut sessions, UNANSWERED + 1);
        assert_eq!(gone, Some(([10, 0, 0, 1], 7).into()));
        assert!(sessions.of_client(&first).is_some());
        let second = Client {
            address: gone.unwrap(),
            ..first
        };
        assert!(sessions.of_client(&second).is_none());
    }
}
