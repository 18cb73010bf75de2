//! Whom a translator talks with on the link outside, and where they are: a neighbour cache for both families (RFC 826; RFC
//! 4861, sections 5.1 and 7.3).
//!
//! # Theory of operation
//!
//! ```text
//!  ask ──▶ Asking ──answer──▶ Known ──unused──▶ Idle ──unused──▶ forgotten
//!            │  ▲               │ ▲              │
//!         silence └──silence── Checking ◀──used──┘
//!            ▼
//!          Silent ──▶ forgotten
//! ```
//!
//! An address is asked for three times, a second apart. What is known counts for 30 s; what is in use is then checked, by
//! asking the station itself. A station that is silent is asked for among all. A router that is used is never forgotten: while
//! it is silent, it is asked for now and then.
//!
//! Only the answer to a question teaches where somebody is. What is told unasked confirms what is known already; where it
//! says otherwise, the known station is asked, and only if it is silent is the other believed when all are asked.
//!
//! Limits: how many are known, and how many are asked for at once, so that a guest that scans the network outside makes no
//! storm of questions there. Routers are exempt.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::NextHop;
use crate::wire::ethernet::MacAddr;

/// How many neighbours are known at most.
const LIMIT: usize = 1024;
/// How many are asked for at once at most.
const ASKING: usize = 128;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often somebody is asked.
const TRIES: u8 = 3;
/// How long what is known counts.
const REACHABLE: Duration = Duration::from_secs(30);
/// For how many times that long who is not talked with is remembered.
const IDLE: u8 = 10;
/// How long somebody who was silent is not asked for again.
const SILENCE: Duration = Duration::from_secs(3);
/// How often a silent router is asked for.
const ROUTER_SILENCE: Duration = Duration::from_secs(5);
/// How often somebody is doubted at most.
const DOUBT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// All are asked; how often they were.
    Asking(u8),
    /// Where it is was confirmed lately.
    Known(MacAddr),
    /// It is asked itself; how often it was.
    Checking(MacAddr, u8),
    /// Nobody talks with it; for how many more rounds it is remembered.
    Idle(MacAddr, u8),
    /// It does not answer.
    Silent,
}

impl State {
    const fn mac(self) -> Option<MacAddr> {
        match self {
            Self::Known(mac) | Self::Checking(mac, _) | Self::Idle(mac, _) => Some(mac),
            Self::Asking(_) | Self::Silent => None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// When it is time for the next step.
    at: Instant,
    /// Whether it was talked with since the last step.
    used: Cell<bool>,
    /// Whether it is the router that is used.
    router: bool,
    doubted: Option<Instant>,
}

/// A question to be put: the address, and whom to ask where not all are.
pub(super) type Question = (IpAddr, Option<MacAddr>);

/// Who is on the link.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    entries: HashMap<IpAddr, Entry, foldhash::fast::RandomState>,
    asking: usize,
    /// Until when nobody looks for room: there was none.
    full: Option<Instant>,
    next: Option<Instant>,
}

impl Neighbours {
    /// Where a neighbour is, if that is known; notes that it is talked with.
    #[inline]
    pub(super) fn mac_of(&self, ip: IpAddr) -> Option<MacAddr> {
        let entry = self.entries.get(&ip)?;
        entry.used.set(true);
        entry.state.mac()
    }

    /// Where a neighbour is, without talking with it.
    pub(super) fn peek(&self, ip: IpAddr) -> NextHop {
        let state = self.entries.get(&ip).map(|entry| entry.state);
        match state {
            Some(State::Known(mac) | State::Checking(mac, _) | State::Idle(mac, _)) => {
                NextHop::Known(mac)
            }
            Some(State::Silent) => NextHop::Unreachable,
            Some(State::Asking(_)) | None => NextHop::Asked,
        }
    }

    /// Returns the question to put where nobody knows yet where a neighbour is. A router is asked for whatever the limits.
    pub(super) fn ask(&mut self, ip: IpAddr, router: bool, now: Instant) -> Option<Question> {
        if let Some(entry) = self.entries.get(&ip) {
            entry.used.set(true);
            return None;
        }
        if !router && (self.asking >= ASKING || self.full.is_some_and(|until| now < until)) {
            return None;
        }
        if self.entries.len() >= LIMIT && !self.evict() && !router {
            self.full = Some(now + PATIENCE);
            return None;
        }
        let entry = Entry {
            state: State::Asking(1),
            at: now + PATIENCE,
            used: Cell::new(true),
            router,
            doubted: None,
        };
        self.plan(entry.at);
        self.entries.insert(ip, entry);
        self.asking += 1;
        Some((ip, None))
    }

    /// Says that a station is the router that is used, or is not any more. Returns the question to put where it is not known.
    pub(super) fn set_router(
        &mut self,
        ip: IpAddr,
        router: bool,
        now: Instant,
    ) -> Option<Question> {
        if let Some(entry) = self.entries.get_mut(&ip) {
            entry.router = router;
            return None;
        }
        router.then(|| self.ask(ip, true, now)).flatten()
    }

    /// Forgets somebody with whom nobody talks; tells whether there was one.
    fn evict(&mut self) -> bool {
        let idle =
            |entry: &Entry| !entry.router && matches!(entry.state, State::Idle(..) | State::Silent);
        let found = self.entries.iter().find(|(_, entry)| idle(entry));
        let Some(ip) = found.map(|(ip, _)| *ip) else {
            return false;
        };
        self.entries.remove(&ip).is_some()
    }

    /// Takes in where somebody says to be: as an answer to us alone, or unasked. Returns a question that this raises.
    pub(super) fn note(
        &mut self,
        ip: IpAddr,
        mac: MacAddr,
        answer: bool,
        now: Instant,
    ) -> Option<Question> {
        let entry = self.entries.get_mut(&ip)?;
        if !mac.is_station() {
            return None;
        }
        match entry.state {
            State::Asking(_) if answer => self.asking -= 1,
            State::Silent if answer && entry.router => {}
            State::Asking(_) | State::Silent => return None,
            State::Known(known) | State::Checking(known, _) | State::Idle(known, _)
                if known == mac => {}
            State::Checking(..) => return None,
            State::Known(known) | State::Idle(known, _) => {
                let lately = |at: Instant| now.saturating_duration_since(at) < DOUBT;
                if entry.doubted.is_some_and(lately) {
                    return None;
                }
                entry.doubted = Some(now);
                entry.state = State::Checking(known, 1);
                entry.at = now + PATIENCE;
                self.plan(now + PATIENCE);
                return Some((ip, Some(known)));
            }
        }
        entry.state = State::Known(mac);
        entry.at = now + REACHABLE;
        self.plan(now + REACHABLE);
        None
    }

    fn plan(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// The next time at which `handle_timeout` has work to do.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Takes the steps that are due, and returns the questions to put.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Question> {
        let mut questions = Vec::new();
        if self.next.is_none_or(|next| next > now) {
            return questions;
        }
        let asking = &mut self.asking;
        let mut next: Option<Instant> = None;
        self.entries.retain(|ip, entry| {
            if entry.at <= now {
                let used = entry.used.take();
                let (state, wait) = match entry.state {
                    State::Asking(TRIES..) => {
                        *asking -= 1;
                        (State::Silent, SILENCE)
                    }
                    State::Asking(tries) => {
                        questions.push((*ip, None));
                        (State::Asking(tries + 1), PATIENCE)
                    }
                    State::Known(mac) | State::Idle(mac, _) if used => {
                        questions.push((*ip, Some(mac)));
                        (State::Checking(mac, 1), PATIENCE)
                    }
                    State::Known(mac) => (State::Idle(mac, IDLE), REACHABLE),
                    State::Silent if entry.router => {
                        questions.push((*ip, None));
                        (State::Silent, ROUTER_SILENCE)
                    }
                    State::Idle(mac, 0) if entry.router => (State::Idle(mac, 0), REACHABLE),
                    State::Idle(_, 0) | State::Silent => return false,
                    State::Idle(mac, left) => (State::Idle(mac, left - 1), REACHABLE),
                    State::Checking(_, TRIES..) => {
                        *asking += 1;
                        questions.push((*ip, None));
                        (State::Asking(1), PATIENCE)
                    }
                    State::Checking(mac, tries) => {
                        questions.push((*ip, Some(mac)));
                        (State::Checking(mac, tries + 1), PATIENCE)
                    }
                };
                entry.state = state;
                entry.at = now + wait;
            }
            next = Some(next.map_or(entry.at, |next| next.min(entry.at)));
            true
        });
        self.next = next;
        questions
    }

    /// Forgets everybody of one family.
    pub(super) fn forget(&mut self, v6: bool) {
        self.entries.retain(|ip, _| ip.is_ipv6() != v6);
        let asking = |entry: &&Entry| matches!(entry.state, State::Asking(_));
        self.asking = self.entries.values().filter(asking).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const SECOND: Duration = Duration::from_secs(1);

    fn known(now: Instant) -> Neighbours {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.ask(IP, false, now), Some((IP, None)));
        assert_eq!(neighbours.note(IP, A, true, now), None);
        assert_eq!(neighbours.peek(IP), NextHop::Known(A));
        neighbours
    }

    #[test]
    fn who_is_silent_is_asked_for_three_times_and_again_after_a_while() {
        let now = Instant::now();
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.ask(IP, false, now), Some((IP, None)));
        assert_eq!(neighbours.ask(IP, false, now), None, "asked already");
        assert_eq!(neighbours.poll_timeout(), Some(now + SECOND));
        assert_eq!(neighbours.handle_timeout(now + SECOND), [(IP, None)]);
        assert_eq!(neighbours.handle_timeout(now + SECOND * 2), [(IP, None)]);
        assert_eq!(neighbours.peek(IP), NextHop::Asked);
        assert_eq!(neighbours.handle_timeout(now + SECOND * 3), []);
        assert_eq!(neighbours.peek(IP), NextHop::Unreachable);
        assert_eq!(neighbours.handle_timeout(now + SECOND * 6), []);
        assert_eq!(neighbours.poll_timeout(), None);
        let later = now + SECOND * 6;
        assert_eq!(neighbours.ask(IP, false, later), Some((IP, None)));
    }

    #[test]
    fn who_is_talked_with_is_checked_and_who_is_not_is_forgotten() {
        let now = Instant::now();
        let mut neighbours = known(now);
        assert_eq!(neighbours.mac_of(IP), Some(A));
        let at = now + REACHABLE;
        assert_eq!(neighbours.handle_timeout(at), [(IP, Some(A))]);
        assert_eq!(neighbours.mac_of(IP), Some(A), "meanwhile it counts");
        assert_eq!(neighbours.note(IP, A, true, at), None);
        let mut at = at;
        neighbours.handle_timeout(at + REACHABLE);
        neighbours.note(IP, A, true, at + REACHABLE);
        while let Some(next) = neighbours.poll_timeout() {
            at = next;
            assert_eq!(neighbours.handle_timeout(at), [], "nobody talks with it");
        }
        assert_eq!(neighbours.mac_of(IP), None);
        assert!(at > now + REACHABLE * 10);
    }

    #[test]
    fn what_is_told_unasked_changes_nothing_and_is_looked_into() {
        let now = Instant::now();
        let mut neighbours = known(now);
        assert_eq!(neighbours.note(IP, B, false, now), Some((IP, Some(A))));
        assert_eq!(neighbours.note(IP, B, true, now), None);
        assert_eq!(neighbours.mac_of(IP), Some(A));
        assert_eq!(neighbours.note(IP, A, true, now), None, "it is there");
        assert_eq!(
            neighbours.note(IP, B, false, now + SECOND),
            None,
            "not again so soon"
        );
        let other = "10.0.0.2".parse().unwrap();
        assert_eq!(neighbours.note(other, B, true, now), None);
        assert_eq!(neighbours.mac_of(other), None, "nobody asked for it");
    }

    #[test]
    fn a_station_that_moved_is_found_when_the_former_is_silent() {
        let mut now = Instant::now();
        let mut neighbours = known(now);
        assert_eq!(neighbours.note(IP, B, false, now), Some((IP, Some(A))));
        for _ in 0..2 {
            now += SECOND;
            assert_eq!(neighbours.handle_timeout(now), [(IP, Some(A))]);
        }
        now += SECOND;
        assert_eq!(neighbours.handle_timeout(now), [(IP, None)]);
        assert_eq!(neighbours.note(IP, B, false, now), None);
        assert_eq!(
            neighbours.mac_of(IP),
            None,
            "all were asked, we alone answered"
        );
        assert_eq!(neighbours.note(IP, B, true, now), None);
        assert_eq!(neighbours.mac_of(IP), Some(B));
    }

    #[test]
    fn a_scan_asks_for_so_many_at_once_and_knows_so_many() {
        let mut now = Instant::now();
        let mut neighbours = Neighbours::default();
        let ip = |n: u32| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
        let asked = (0..5000).filter(|n| neighbours.ask(ip(*n), false, now).is_some());
        assert_eq!(asked.count(), ASKING);
        assert!(neighbours.ask(ip(9999), true, now).is_some(), "a router is");
        for n in 0..5000 {
            if neighbours.asking >= ASKING {
                now += SECOND;
                neighbours.handle_timeout(now);
            }
            neighbours.ask(ip(n), false, now);
            neighbours.note(ip(n), A, true, now);
        }
        assert!(neighbours.entries.len() <= LIMIT + 1);
        assert!(
            neighbours.ask(ip(6000), true, now).is_some(),
            "a router fits"
        );
        neighbours.forget(false);
        assert_eq!((neighbours.entries.len(), neighbours.asking), (0, 0));
    }
}
