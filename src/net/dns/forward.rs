//! Questions to the host's name servers.
//!
//! # Theory of operation
//!
//! A question that several ask is asked once, and all get the answer. It is asked of one server after the other, twice
//! round; each has two seconds, and the next one is asked at once where a server fails or refuses. The answer may still come
//! from a server that was given up. An answer that was cut is asked for again over TCP, from the same server, if somebody can
//! take more than the shortest datagram; if that fails, it is passed on as it is. When all have failed, what the last server said is passed
//! on, or else SERVFAIL, which holds for a second (RFC 9520). The server that answered after others had not is
//! asked first from then on.
//!
//! An answer counts when it comes to the socket of the question (the engine's business), with its identifier, which nobody
//! can guess, and its question.
//!
//! Nothing is asked for longer than ten seconds. Each guest can wait for so many answers, and all of them for so many.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::answer::{Answer, Unfit, pass_on};
use super::cache::Cache;
use super::query::{DATAGRAM, Key, Query, SMALLEST};
use super::{Ask, AskError};
use crate::net::gateway::Replies;
use crate::wire::dns::{Edns, Writer, rcode};
use crate::wire::ethernet::MacAddr;

/// How long a server has.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a server has over TCP.
const PATIENCE_TCP: Duration = Duration::from_secs(4);
/// How long an answer is waited for.
const TOTAL: Duration = Duration::from_secs(10);
/// How often each server is asked.
const ROUNDS: usize = 2;
/// How many times a question is asked at most.
const TRIES: usize = 32;
/// How long a failure holds.
const FAILURE: Duration = Duration::from_secs(1);
/// How many questions wait for answers.
const PENDING: usize = 1024;
/// How many questions of one guest do.
const PENDING_PER_GUEST: usize = 128;
/// How many wait for the same answer.
const ASKERS: usize = 64;
/// How many bits of a ticket count tries.
const TRY_BITS: u32 = 8;

/// Who waits for an answer.
#[derive(Debug)]
pub(super) struct Asker<T> {
    pub(super) to: T,
    pub(super) guest: MacAddr,
    pub(super) query: Query,
    /// How long a message it takes.
    pub(super) limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    server: usize,
    stream: bool,
}

#[derive(Debug)]
struct Pending<T> {
    askers: Vec<Asker<T>>,
    tries: Vec<Try>,
    began: Instant,
    due: Instant,
    /// What a server said that did not help.
    last: Option<Vec<u8>>,
}

/// An answer, and who waited for it.
pub(super) struct Concluded<T> {
    pub(super) askers: Vec<Asker<T>>,
    pub(super) message: Vec<u8>,
}

/// Asks other servers.
#[derive(Debug)]
pub(super) struct Forwarder<T> {
    pending: HashMap<u64, Pending<T>, foldhash::fast::RandomState>,
    numbers: HashMap<Key, u64, foldhash::fast::RandomState>,
    timers: BTreeSet<(Instant, u64)>,
    guests: HashMap<MacAddr, usize, foldhash::fast::RandomState>,
    next: u64,
    /// Makes identifiers that nobody can guess.
    ids: RandomState,
    servers: usize,
    /// The server that is asked first.
    first: usize,
    pub(super) asked: u64,
    pub(super) failed: u64,
    /// How many questions in a row no server said anything to.
    pub(super) silence: u32,
    /// Whether there was no server to ask.
    pub(super) no_server: bool,
}

impl<T: PartialEq> Forwarder<T> {
    pub(super) fn new() -> Self {
        Self {
            pending: HashMap::default(),
            numbers: HashMap::default(),
            timers: BTreeSet::new(),
            guests: HashMap::default(),
            next: 0,
            ids: RandomState::new(),
            servers: 1,
            first: 0,
            asked: 0,
            failed: 0,
            silence: 0,
            no_server: false,
        }
    }

    /// Asks a question, or has somebody wait with those who asked it before.
    ///
    /// # Errors
    ///
    /// Too many wait.
    pub(super) fn ask(
        &mut self,
        asker: Asker<T>,
        now: Instant,
        out: &mut Replies,
    ) -> Result<(), Asker<T>> {
        let number = self.numbers.get(&asker.query.key).copied();
        if let Some(pending) = number.and_then(|number| self.pending.get(&number))
            && let mut known = pending.askers.iter()
            && known.any(|known| known.to == asker.to && known.query.id == asker.query.id)
        {
            // Asked once more; the answer is on its way.
            return Ok(());
        }
        let of_guest = self.guests.entry(asker.guest).or_default();
        if *of_guest >= PENDING_PER_GUEST {
            return Err(asker);
        }
        *of_guest += 1;
        if let Some(number) = number
            && let Some(pending) = self.pending.get_mut(&number)
        {
            if pending.askers.len() < ASKERS {
                pending.askers.push(asker);
                return Ok(());
            }
        } else if self.pending.len() < PENDING {
            let number = self.next;
            self.next += 1;
            self.numbers.insert(asker.query.key.clone(), number);
            let pending = Pending {
                askers: vec![asker],
                tries: Vec::new(),
                began: now,
                due: now,
                last: None,
            };
            self.timers.insert((now, number));
            self.pending.insert(number, pending);
            self.ask_next(number, now, out);
            return Ok(());
        }
        self.leave(asker.guest);
        Err(asker)
    }

    /// Takes in what became of a question; returns what comes of it.
    pub(super) fn answer(
        &mut self,
        ticket: u64,
        answer: Result<&[u8], AskError>,
        cache: &mut Cache,
        now: Instant,
        out: &mut Replies,
    ) -> Option<Concluded<T>> {
        let number = ticket >> TRY_BITS;
        let id = self.id(ticket);
        let pending = self.pending.get_mut(&number)?;
        let index = usize::try_from(ticket & ((1 << TRY_BITS) - 1)).ok()?;
        let tried = *pending.tries.get(index)?;
        let is_latest = index + 1 == pending.tries.len();
        let key = &pending.askers.first()?.query.key;
        let answer = answer.map(|bytes| Answer::read(bytes, id, key));
        self.no_server = matches!(answer, Err(AskError::NoServer));
        match answer {
            Ok(Err(Unfit::Foreign)) => return None,
            Ok(Err(Unfit::Broken)) | Err(_) => {}
            Ok(Ok(answer)) if matches!(answer.rcode, rcode::NOERROR | rcode::NXDOMAIN) => {
                let takes_more = pending
                    .askers
                    .iter()
                    .any(|asker| asker.limit > usize::from(SMALLEST));
                let more = answer.truncated && !tried.stream && takes_more;
                if !more {
                    if index > 0 {
                        self.first = tried.server;
                    }
                    self.silence = 0;
                    if let Some(lifetime) = answer.lifetime {
                        cache.insert(key.clone(), &answer.message, lifetime, now);
                    }
                    return self.conclude(number, answer.message);
                }
                let asked_already = pending.tries.iter().any(|tried| tried.stream);
                pending.last = Some(answer.message);
                if !asked_already && pending.tries.len() < TRIES {
                    let stream = Try {
                        stream: true,
                        ..tried
                    };
                    self.ask_server(number, stream, now, out);
                }
                return None;
            }
            Ok(Ok(answer)) => pending.last = Some(answer.message),
        }
        if !is_latest {
            return None;
        }
        self.go_on(number, cache, now, out)
    }

    /// Goes on where a server did not answer in time.
    pub(super) fn handle_timeout(
        &mut self,
        cache: &mut Cache,
        now: Instant,
        out: &mut Replies,
    ) -> Option<Concluded<T>> {
        while let Some((due, number)) = self.timers.first().copied() {
            if due > now {
                return None;
            }
            self.timers.remove(&(due, number));
            let concluded = self.go_on(number, cache, now, out);
            if concluded.is_some() {
                return concluded;
            }
        }
        None
    }

    /// The next time at which a server has not answered in time.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Asks everything again that waits, of other servers.
    pub(super) fn set_servers(&mut self, servers: usize, now: Instant, out: &mut Replies) {
        self.no_server = servers == 0;
        // Without one, the engine is asked all the same, and looks whether there is one now.
        self.servers = servers.max(1);
        self.first = 0;
        let mut numbers: Vec<u64> = self.pending.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            // Under another number: answers of the servers that were asked before count no more.
            let Some(mut pending) = self.pending.remove(&number) else {
                continue;
            };
            self.timers.remove(&(pending.due, number));
            let renamed = self.next;
            self.next += 1;
            if let Some(asker) = pending.askers.first() {
                self.numbers.insert(asker.query.key.clone(), renamed);
            }
            pending.tries.clear();
            pending.last = None;
            self.timers.insert((pending.due, renamed));
            self.pending.insert(renamed, pending);
            self.ask_next(renamed, now, out);
        }
    }

    /// Asks the next server, or gives up.
    fn go_on(
        &mut self,
        number: u64,
        cache: &mut Cache,
        now: Instant,
        out: &mut Replies,
    ) -> Option<Concluded<T>> {
        if self.ask_next(number, now, out) {
            return None;
        }
        self.failed += 1;
        let pending = self.pending.get_mut(&number)?;
        let query = &pending.askers.first()?.query;
        let message = match pending.last.take() {
            Some(last) => {
                self.silence = 0;
                last
            }
            None => {
                self.silence = self.silence.saturating_add(1);
                let message = query.refuse(rcode::SERVFAIL);
                cache.insert(query.key.clone(), &message, FAILURE, now);
                message
            }
        };
        self.conclude(number, message)
    }

    /// Asks the server whose turn it is; tells whether there is one.
    fn ask_next(&mut self, number: u64, now: Instant, out: &mut Replies) -> bool {
        let Some(pending) = self.pending.get(&number) else {
            return false;
        };
        let count = pending.tries.len();
        let stream = pending.tries.last().is_some_and(|tried| tried.stream);
        let late = now.saturating_duration_since(pending.began) >= TOTAL;
        // What was cut is passed on where TCP does not help.
        if stream || late || count >= (ROUNDS * self.servers).min(TRIES) {
            return false;
        }
        let server = (self.first + count) % self.servers;
        let stream = false;
        self.ask_server(number, Try { server, stream }, now, out);
        true
    }

    fn ask_server(&mut self, number: u64, tried: Try, now: Instant, out: &mut Replies) {
        let Some(pending) = self.pending.get_mut(&number) else {
            return;
        };
        let ticket = number << TRY_BITS | pending.tries.len() as u64;
        pending.tries.push(tried);
        self.timers.remove(&(pending.due, number));
        let patience = if tried.stream { PATIENCE_TCP } else { PATIENCE };
        pending.due = now + patience;
        self.timers.insert((pending.due, number));
        self.asked += 1;
        let Some(asker) = self.pending.get(&number).and_then(|it| it.askers.first()) else {
            return;
        };
        let query = &asker.query;
        let mut message = Writer::new(self.id(ticket), query.key.flags, &query.question);
        if query.edns.is_some() {
            message.add_edns(&Edns {
                size: DATAGRAM,
                version: 0,
                rcode: 0,
                dnssec: query.key.dnssec,
            });
        }
        out.asks.push(Ask {
            ticket,
            server: tried.server,
            stream: tried.stream,
            message: message.finish(),
            until: now + 2 * patience,
        });
    }

    fn conclude(&mut self, number: u64, message: Vec<u8>) -> Option<Concluded<T>> {
        let pending = self.pending.remove(&number)?;
        self.timers.remove(&(pending.due, number));
        if let Some(asker) = pending.askers.first() {
            self.numbers.remove(&asker.query.key);
        }
        for asker in &pending.askers {
            self.leave(asker.guest);
        }
        Some(Concluded {
            askers: pending.askers,
            message,
        })
    }

    fn leave(&mut self, guest: MacAddr) {
        if let Some(count) = self.guests.get_mut(&guest) {
            *count -= 1;
            if *count == 0 {
                self.guests.remove(&guest);
            }
        }
    }

    /// Returns the identifier of a question.
    fn id(&self, ticket: u64) -> u16 {
        let [a, b, ..] = self.ids.hash_one(ticket).to_be_bytes();
        u16::from_be_bytes([a, b])
    }
}

impl<T> Concluded<T> {
    /// Returns the reply to one who waited.
    pub(super) fn reply(&self, asker: &Asker<T>) -> Vec<u8> {
        let reply = pass_on(&self.message, &asker.query, 0);
        asker.query.fit(reply, asker.limit)
    }
}
