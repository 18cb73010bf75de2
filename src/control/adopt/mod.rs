//! Adoption: an uplink's addresses and routes move to the host adapter, and back.
//!
//! A bridged network's uplink hands its frames to the switch, and what the host itself sends by that adapter does not
//! reach the guests. So the host takes part through its host adapter, and needs its addresses there.
//!
//! # Theory of operation
//!
//! Whoever asks for an adoption may be connected through the very addresses that move. Three things keep the host
//! reachable: what moves is made on the host adapter before it goes from the other; a step that fails has all before
//! it undone; and the whole is undone after a while unless somebody confirms that he still gets through. [`Stage`] has
//! the states.
//!
//! The record is on disk before the first step, and complete: a daemon that was killed took its host adapter with
//! it, and the next one makes everything anew on the uplink, before it does anything else that can fail. Once its
//! ports are open it takes what was confirmed, as it is by then: it may have been changed while no daemon ran. A daemon that
//! ends in order gives the addresses back first.
//!
//! What is confirmed is watched: when the host adapter goes away while the daemon runs, and takes the addresses with it,
//! the uplink gets them back until there is another of this name.
//!
//! Going back does not stop at a failure: it puts back what it can, and tries the rest again after [`RETRY`]. Nothing is
//! taken from the host adapter before it is on the other.
//!
//! IPv6 addresses are added without detection of duplicates, since the other adapter of the same host still answers for
//! them. An adapter whose addresses moved no longer answers ARP for them (`arp_ignore`), which Linux would have it do.
//! The neighbours learn the new hardware address because the host asks for one of theirs: an empty datagram to the
//! discard port from each IPv4 address makes the kernel broadcast an ARP request, which updates all who know the host
//! (RFC 826); one to each known IPv6 neighbour and router makes it solicit them, which updates those (RFC 4861, 7.2.3).
//!
//! What is not done: link-local addresses stay, routes of several next hops are refused, and rules are left alone.
//! Whoever configures the adapter (a DHCP client, router advertisements) goes on doing so and has to be told.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::carry::Failure;
use self::host::{Host, ReadError};
use self::record::{Adoption, Baggage, Record, RecordError, Stage};
use self::request::{Request, destination, planned_uplinks, timeout};
use tokio::sync::Notify;

use crate::control::plan::Plan;
use crate::control::timestamp;
use crate::net::Now;

mod carry;
pub mod command;
pub mod endpoints;
pub(in crate::control) mod exchange;
pub mod host;
pub mod kernel;
pub mod record;
pub mod request;

/// After how long what could not be put back is tried again.
pub const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked whether the host adapter is still there.
pub const WATCH: Duration = Duration::from_secs(5);
/// How many addresses and routes move at most: more are a router's.
const MOST: usize = 1024;

/// Why there was no adoption, no confirmation, or no way back.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The request makes no sense.
    #[error("cannot {attempt}: {reason}")]
    Request {
        /// What was attempted, and on what.
        attempt: String,
        /// Why it was not, and what to do.
        reason: String,
    },
    /// It could make sense at another time.
    #[error("cannot {attempt}: {reason}")]
    State {
        /// What was attempted, and on what.
        attempt: String,
        /// Why it was not, and what to do.
        reason: String,
    },
    /// The kernel refuses.
    #[error("cannot {attempt}: {reason}")]
    Host {
        /// What was attempted, and on what.
        attempt: String,
        /// What the kernel said, and what became of it.
        reason: String,
    },
    /// The record cannot be kept.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Moves addresses, and remembers which.
pub struct Adopter {
    host: Box<dyn Host>,
    record: Record,
    adoptions: Vec<Adoption>,
}

/// One adopter for all who ask.
pub struct Shared {
    adopter: Mutex<Adopter>,
    changed: Notify,
}

impl Shared {
    /// Shares an adopter.
    pub const fn new(adopter: Adopter) -> Self {
        Self {
            adopter: Mutex::new(adopter),
            changed: Notify::const_new(),
        }
    }

    /// Waits until nobody else uses it.
    pub fn lock(&self) -> MutexGuard<'_, Adopter> {
        self.adopter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever keeps the time that there may be something else to wait for.
    pub fn tell(&self) {
        self.changed.notify_one();
    }

    /// Waits until that has been told since it was last waited for.
    pub async fn told(&self) {
        self.changed.notified().await;
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Adopter {
    /// Reads which addresses are adopted.
    ///
    /// # Errors
    ///
    /// The record is there and cannot be read.
    pub fn open(host: Box<dyn Host>, state_dir: &Path) -> Result<Self, AdoptError> {
        let record = Record::new(state_dir);
        let adoptions = record.load()?;
        Ok(Self {
            host,
            record,
            adoptions,
        })
    }

    /// Tells whether a daemon with this state directory adopted something, and did not give it back for good.
    pub fn has_record(state_dir: &Path) -> bool {
        Record::new(state_dir).is_there()
    }

    /// Returns what is adopted.
    pub fn adoptions(&self) -> &[Adoption] {
        &self.adoptions
    }

    /// The next time at which [`Adopter::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.adoptions.iter().filter_map(|one| one.deadline);
        deadlines.min()
    }

    /// Moves an uplink's addresses and routes to a host adapter, until they are confirmed or it was too long.
    ///
    /// `uplinks` are those of the network as it is, which need not be those of the plan.
    ///
    /// # Errors
    ///
    /// It cannot be done, and everything is as it was.
    pub fn adopt(
        &mut self,
        plan: &Plan,
        uplinks: &[&str],
        request: &Request,
        now: Now,
    ) -> Result<Adoption, AdoptError> {
        let attempt = format!(
            "adopt {} in network {:?}",
            request.interface, request.network
        );
        let refused = |reason: String| AdoptError::State {
            attempt: attempt.clone(),
            reason,
        };
        let timeout = timeout(request, &attempt)?;
        let destination = destination(plan, uplinks, request);
        let host_adapter = destination.map_err(|reason| AdoptError::Request {
            attempt: attempt.clone(),
            reason,
        })?;
        self.is_free(&request.interface).map_err(refused)?;
        let failed = |error: std::io::Error| AdoptError::Host {
            attempt: attempt.clone(),
            reason: error.to_string(),
        };
        // In the end, that of the host adapter.
        let mut index = None;
        for (adapter, kind) in [
            (&*request.interface, "uplink"),
            (host_adapter, "host adapter"),
        ] {
            match self.host.link(adapter).map_err(failed)? {
                Some(link) if link.up => index = Some(link.index),
                Some(_) => {
                    let reason = format!(
                        "the {kind} {adapter} is down; bring it up with `ip link set {adapter} up`"
                    );
                    return Err(refused(reason));
                }
                None => {
                    let reason = format!(
                        "there is no adapter {adapter} in the daemon's network namespace, which is to be the {kind}"
                    );
                    return Err(refused(reason));
                }
            }
        }
        let baggage = match self.host.read(&request.interface, now.wall) {
            Ok(baggage) => baggage,
            Err(error @ ReadError::Route { .. }) => return Err(refused(error.to_string())),
            Err(ReadError::System(error)) => return Err(failed(error)),
        };
        let count = baggage.addresses.len() + baggage.routes.len();
        if baggage.addresses.is_empty() {
            let reason = "it has no address of global scope, so there is nothing to adopt; if a DHCP client serves it, run that on the host adapter";
            return Err(refused(reason.to_owned()));
        }
        if count > MOST {
            return Err(refused(format!(
                "it has {count} addresses and routes, and at most {MOST} are moved"
            )));
        }
        let arp_ignore = self.arp_ignore(&request.interface);
        self.adoptions.push(Adoption {
            interface: request.interface.clone(),
            network: request.network.clone(),
            port_group: request.port_group.clone(),
            host_adapter: host_adapter.to_owned(),
            stage: Stage::Pending,
            until: Some(timestamp::seconds(now.wall + timeout)),
            arp_ignore,
            baggage,
            deadline: Some(now.instant + timeout),
            index,
        });
        let last = self.adoptions.len() - 1;
        if let Err(error) = self.record.save(&self.adoptions) {
            self.adoptions.pop();
            return Err(error.into());
        }
        if let Err(failure) = carry::take(&mut *self.host, &self.adoptions[last], now.wall) {
            let reason = self.failed(failure, last, now);
            return Err(AdoptError::Host { attempt, reason });
        }
        let adoption = self.adoptions[last].clone();
        tracing::info!(
            interface = adoption.interface,
            host_adapter = adoption.host_adapter,
            seconds = timeout.as_secs(),
            "adopted, until it is confirmed or undone"
        );
        Ok(adoption)
    }

    /// Lets the pending adoption stay.
    ///
    /// # Errors
    ///
    /// Nothing is pending, or the record cannot be written; then it is still pending.
    pub fn confirm(&mut self, now: Now) -> Result<Adoption, AdoptError> {
        let Some(at) = self.position(|one| one.stage == Stage::Pending) else {
            return Err(AdoptError::State {
                attempt: "confirm an adoption".to_owned(),
                reason: "none is pending; what was not confirmed in time is undone, so adopt again"
                    .to_owned(),
            });
        };
        let pending = self.adoptions[at].clone();
        let adoption = &mut self.adoptions[at];
        (adoption.stage, adoption.until) = (Stage::Confirmed, None);
        adoption.deadline = Some(now.instant + WATCH);
        let confirmed = adoption.clone();
        if let Err(error) = self.record.save(&self.adoptions) {
            self.adoptions[at] = pending;
            return Err(error.into());
        }
        tracing::info!(interface = confirmed.interface, "the adoption is confirmed");
        Ok(confirmed)
    }

    /// Gives an adapter its addresses back: the one that is named, or else the pending one, or else the only one.
    ///
    /// # Errors
    ///
    /// There is none, or not everything can be put back, which is then tried again.
    pub fn undo(&mut self, interface: Option<&str>, now: Now) -> Result<Adoption, AdoptError> {
        let attempt = || match interface {
            Some(interface) => format!("undo the adoption of {interface}"),
            None => "undo an adoption".to_owned(),
        };
        let found = match interface {
            Some(interface) => self.position(|one| one.interface == interface),
            None => self
                .position(|one| one.stage == Stage::Pending)
                .or_else(|| (self.adoptions.len() == 1).then_some(0)),
        };
        let Some(at) = found else {
            let adopted: Vec<_> = self.adoptions.iter().map(|one| &*one.interface).collect();
            let reason = match adopted[..] {
                [] => "nothing is adopted".to_owned(),
                _ => format!("name an adapter that is adopted: {}", adopted.join(", ")),
            };
            return Err(AdoptError::State {
                attempt: attempt(),
                reason,
            });
        };
        let adoption = self.adoptions[at].clone();
        match self.put_back(at, now) {
            Ok(()) => Ok(adoption),
            Err(reason) => Err(AdoptError::Host {
                attempt: attempt(),
                reason,
            }),
        }
    }

    /// Undoes what was not confirmed in time, tries again what could not be undone, and looks after what was confirmed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(at) =
            self.position(|one| one.deadline.is_some_and(|deadline| deadline <= now.instant))
        {
            let Adoption {
                interface, stage, ..
            } = self.adoptions[at].clone();
            if matches!(stage, Stage::Confirmed | Stage::Resting) {
                self.watch(at, now);
                continue;
            }
            match self.put_back(at, now) {
                Ok(()) if stage == Stage::Returning => {
                    tracing::warn!(interface, "the adoption is undone at last")
                }
                Ok(()) => {
                    tracing::warn!(interface, "the adoption was not confirmed, and is undone")
                }
                Err(reason) if stage == Stage::Returning => {
                    tracing::debug!(interface, reason, "the adoption still cannot be undone")
                }
                Err(reason) => {
                    tracing::error!(interface, reason, "the adoption cannot be undone yet")
                }
            }
        }
    }

    /// Takes again what was confirmed, once the ports are open.
    pub fn resume(&mut self, plan: &Plan, now: Now) {
        for at in (0..self.adoptions.len()).rev() {
            let adoption = self.adoptions[at].clone();
            let interface = &*adoption.interface;
            if !matches!(adoption.stage, Stage::Confirmed | Stage::Resting) {
                continue;
            }
            let request = Request {
                interface: adoption.interface.clone(),
                network: adoption.network.clone(),
                port_group: adoption.port_group.clone(),
                timeout_s: None,
            };
            let uplinks = planned_uplinks(plan, &request.network);
            let host_adapter = match destination(plan, &uplinks, &request) {
                Ok(host_adapter) => host_adapter.to_owned(),
                Err(reason) => {
                    tracing::warn!(
                        interface,
                        reason,
                        "the adoption is undone: the configuration has no place for it any more"
                    );
                    if let Err(reason) = self.put_back(at, now) {
                        tracing::error!(interface, reason, "the adoption cannot be undone yet");
                    }
                    continue;
                }
            };
            self.adoptions[at].host_adapter = host_adapter;
            self.take_again(at, now);
        }
    }

    /// Gives the host adapter what it had, or what the adapter has been given since.
    fn take_again(&mut self, at: usize, now: Now) {
        let interface = self.adoptions[at].interface.clone();
        let current = self.host.read(&interface, now.wall);
        let current = current.unwrap_or_else(|error| {
            tracing::warn!(interface, %error, "the adapter cannot be read, and what is noted of it is taken");
            Baggage::default()
        });
        let arp_ignore = self.arp_ignore(&interface);
        let adoption = &mut self.adoptions[at];
        if adoption.stage == Stage::Resting && !current.addresses.is_empty() {
            // Whatever was changed meanwhile was changed by somebody.
            adoption.baggage = current;
        } else {
            adoption.baggage.merge(current);
        }
        adoption.baggage.expire(now.wall);
        adoption.arp_ignore = arp_ignore.or(adoption.arp_ignore);
        adoption.stage = Stage::Confirmed;
        adoption.deadline = Some(now.instant + WATCH);
        let link = self.host.link(&adoption.host_adapter);
        adoption.index = link.ok().flatten().map(|link| link.index);
        let taken = match self.record.save(&self.adoptions) {
            Ok(()) => carry::take(&mut *self.host, &self.adoptions[at], now.wall)
                .map_err(|failure| failure.reason),
            Err(error) => Err(error.to_string()),
        };
        match taken {
            Ok(()) => tracing::info!(interface, "adopted again"),
            Err(reason) => {
                tracing::error!(
                    interface,
                    reason,
                    "the adapter cannot be adopted again, and has its addresses itself"
                );
                self.rest(at, now);
            }
        }
    }

    /// Gives every adapter its addresses back, those that were confirmed until [`Adopter::resume`].
    ///
    /// To be called before the ports are closed. And before they are opened: an earlier daemon may have been killed, and
    /// this one may not get far. An adapter that rests
    /// already gets nothing if it has addresses, since whoever configures the host may have changed them.
    pub fn rest_all(&mut self, now: Now) {
        for at in (0..self.adoptions.len()).rev() {
            match self.adoptions[at].stage {
                Stage::Confirmed => self.rest(at, now),
                Stage::Resting => {
                    // It has them, or what somebody gave it instead; or nothing, since the machine was started anew.
                    let interface = &self.adoptions[at].interface;
                    let current = self.host.read(interface, now.wall);
                    if current.is_ok_and(|current| current.addresses.is_empty()) {
                        self.rest(at, now);
                    }
                }
                Stage::Pending | Stage::Returning => {
                    let interface = self.adoptions[at].interface.clone();
                    match self.put_back(at, now) {
                        Ok(()) => {
                            tracing::warn!(interface, "an adoption that nobody confirmed is undone")
                        }
                        Err(reason) => {
                            tracing::error!(interface, reason, "the adoption cannot be undone yet")
                        }
                    }
                }
            }
        }
    }

    fn rest(&mut self, at: usize, now: Now) {
        let problems = carry::give_back(&mut *self.host, &mut self.adoptions[at], now.wall);
        let adoption = &mut self.adoptions[at];
        if problems.is_empty() {
            (adoption.stage, adoption.deadline) = (Stage::Resting, None);
        } else {
            adoption.deadline = Some(now.instant + RETRY);
            let (interface, reason) = (&adoption.interface, problems.join("; "));
            tracing::error!(interface, reason, "the adapter did not get everything back");
        }
        if let Err(error) = self.record.save(&self.adoptions) {
            tracing::error!("{error}");
        }
    }

    /// Gives an adapter its addresses back if the host adapter is gone with them, and takes them again if there is another.
    fn watch(&mut self, at: usize, now: Now) {
        let adoption = &mut self.adoptions[at];
        adoption.deadline = Some(now.instant + WATCH);
        let Ok(link) = self.host.link(&adoption.host_adapter) else {
            return;
        };
        match link {
            Some(link) if link.up && adoption.index != Some(link.index) => self.take_again(at, now),
            // Where both are gone, one has to come back first.
            None if adoption.index.is_some()
                && matches!(self.host.link(&adoption.interface), Ok(Some(_))) =>
            {
                tracing::error!(
                    interface = adoption.interface,
                    host_adapter = adoption.host_adapter,
                    "the host adapter is gone, and the adapter gets its addresses back until there is another"
                );
                self.rest(at, now);
                let adoption = &mut self.adoptions[at];
                if adoption.stage == Stage::Resting {
                    (adoption.index, adoption.deadline) = (None, Some(now.instant + WATCH));
                }
            }
            Some(_) | None => {}
        }
    }

    fn position(&self, which: impl Fn(&Adoption) -> bool) -> Option<usize> {
        self.adoptions.iter().position(which)
    }

    /// Whether an adapter can be adopted now; if not, why.
    fn is_free(&self, interface: &str) -> Result<(), String> {
        let waiting = |one: &&Adoption| matches!(one.stage, Stage::Pending | Stage::Returning);
        if let Some(other) = self.adoptions.iter().find(waiting) {
            return Err(match other.stage {
                Stage::Returning => {
                    format!("the adoption of {} is still being undone", other.interface)
                }
                Stage::Pending | Stage::Confirmed | Stage::Resting => format!(
                    "the adoption of {} is pending; first `vmlan adopt --confirm` it, or `--undo`",
                    other.interface
                ),
            });
        }
        if self.adoptions.iter().any(|one| one.interface == interface) {
            return Err(format!(
                "it is adopted already; `vmlan adopt --undo {interface}` undoes it"
            ));
        }
        Ok(())
    }

    /// Returns what is to be restored later, if the adapter is to be kept from answering for addresses that left it.
    fn arp_ignore(&mut self, interface: &str) -> Option<u8> {
        self.host
            .arp_ignore(interface)
            .filter(|level| *level < carry::OWN_ALONE)
    }

    /// Forgets an adoption that failed, unless something of it is left.
    fn failed(&mut self, failure: Failure, at: usize, now: Now) -> String {
        let Failure { reason, left } = failure;
        if left.is_empty() {
            self.adoptions.remove(at);
            return match self.record.save(&self.adoptions) {
                Ok(()) => format!("{reason}; everything is as it was"),
                Err(error) => format!("{reason}; everything is as it was, but {error}"),
            };
        }
        self.stay_returning(at, now);
        format!(
            "{reason}; and not everything could be undone, which is tried again: {}",
            left.join("; ")
        )
    }

    fn stay_returning(&mut self, at: usize, now: Now) {
        let adoption = &mut self.adoptions[at];
        (adoption.stage, adoption.until) = (Stage::Returning, None);
        adoption.deadline = Some(now.instant + RETRY);
        if let Err(error) = self.record.save(&self.adoptions) {
            tracing::error!("{error}");
        }
    }

    /// Undoes an adoption and forgets it; where something cannot be put back, it stays and is tried again.
    fn put_back(&mut self, at: usize, now: Now) -> Result<(), String> {
        let problems = carry::give_back(&mut *self.host, &mut self.adoptions[at], now.wall);
        if !problems.is_empty() {
            self.stay_returning(at, now);
            return Err(format!(
                "{}; it is tried again every {} seconds",
                problems.join("; "),
                RETRY.as_secs()
            ));
        }
        self.adoptions.remove(at);
        // A record that is older than the truth makes the next daemon do this once more, which does no harm.
        self.record
            .save(&self.adoptions)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
