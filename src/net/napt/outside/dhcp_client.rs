//! A DHCP client (RFC 2131, sections 3.1 and 4.4), by which a translator comes by its IPv4 address outside.
//!
//! # Theory of operation
//!
//! ```text
//!  Waiting ──▶ Selecting ──offer──▶ Requesting ──ack──▶ Checking ──free──▶ Bound
//!     ▲                                 │                  │               │ T1
//!     │                                nak              taken: decline     ▼
//!     ├─────────────────────────────────┴──────────────────┘            Renewing
//!     │                                                                    │ T2
//!     └──────────────────── nak, or the lease has ended ──────────────── Rebinding
//! ```
//!
//! What is not answered is sent again after 4, 8, 16, 32 and then always 64 s, a second more or less; a request after that
//! of an offer that is not granted begins anew. A lease is renewed at half its time by asking its server, at seven eighths by asking all, or
//! when the server says; while it is, the address counts. Whether an address is free is found out by whoever owns this
//! client ([`super::v4`]): it says so by [`Client::accept`] or [`Client::decline`].
//!
//! Answers are believed that carry the number of the question and our hardware address, of the server that was asked where
//! one was. The first offer is taken. Not handled: INFORM, rapid commit, FORCERENEW, classless routes, which are not asked
//! for, and servers that do not say who they are.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use super::Random;
use crate::wire::dhcp::{
    BOOTREPLY, BOOTREQUEST, CLIENT_PORT, Message, MessageType, Options, SERVER_PORT, code,
};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, MacAddr};
use crate::wire::ipv4::{self, PROTOCOL_UDP};
use crate::wire::{be16, udp};

/// How long the first answer may take; each further one twice as long.
const FIRST: u64 = 4;
/// How long an answer may take at most, in seconds.
const LONGEST: u64 = 64;
/// How often an offer is asked for.
const REQUESTS: u32 = 4;
/// How long the client holds still after it declined an address (RFC 2131, section 3.1, step 5).
const DECLINED: Duration = Duration::from_secs(10);
/// How long an answer may take while a lease is renewed.
const RENEWING: Duration = Duration::from_secs(60);
/// The longest message that is taken.
const MESSAGE_SIZE: u16 = 1472;
/// The smallest MTU that a server is believed.
const MIN_MTU: u16 = 576;

/// What was granted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Lease {
    pub(super) ip: Ipv4Addr,
    pub(super) net: Ipv4Net,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) mtu: Option<u16>,
    server: Ipv4Addr,
    /// Where what is for the server is sent: its own address, or that of the relay before it.
    via: MacAddr,
    renew: Option<Instant>,
    rebind: Option<Instant>,
    ends: Option<Instant>,
}

/// What has become of the client's address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// It may have this one if nobody else has it.
    Granted(Lease),
    /// It may keep the one it has.
    Extended(Lease),
    /// It has none any more.
    Lost,
}

#[derive(Clone, Debug)]
enum State {
    Waiting {
        at: Instant,
    },
    Selecting {
        tries: u32,
        at: Instant,
    },
    Requesting {
        ip: Ipv4Addr,
        server: Ipv4Addr,
        tries: u32,
        sent: Instant,
        at: Instant,
    },
    /// Somebody else finds out whether the address is free.
    Checking(Lease),
    Bound(Lease),
    Renewing {
        lease: Lease,
        sent: Instant,
        at: Instant,
    },
    Rebinding {
        lease: Lease,
        sent: Instant,
        at: Instant,
    },
}

/// A DHCP client.
#[derive(Debug)]
pub(super) struct Client {
    mac: MacAddr,
    hostname: String,
    state: State,
    xid: u32,
    /// Since when it has tried to get an address.
    since: Instant,
    /// The address that it had last.
    former: Option<Ipv4Addr>,
    /// How often nothing came of it, one after the other.
    failures: u32,
}

/// Returns the time until what was sent for the n-th time is sent again.
fn backoff(tries: u32, random: &mut Random) -> Duration {
    let seconds = FIRST.checked_shl(tries.min(8)).unwrap_or(LONGEST);
    let millis = seconds.min(LONGEST) * 1000 - 1000 + random.below(2001);
    Duration::from_millis(millis)
}

impl Client {
    /// Begins at once to look for an address.
    pub(super) fn new(mac: MacAddr, hostname: &str, now: Instant) -> Self {
        let name = hostname.bytes().filter(u8::is_ascii_graphic).take(63);
        Self {
            mac,
            hostname: name.map(char::from).collect(),
            state: State::Waiting { at: now },
            xid: 0,
            since: now,
            former: None,
            failures: 0,
        }
    }

    /// How often nothing came of it, one after the other.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    fn message(&self, kind: MessageType, now: Instant) -> Message {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [kind.code()]);
        let [a, b, c, d, e, f] = self.mac.0;
        options.set(code::CLIENT_IDENTIFIER, [1, a, b, c, d, e, f]);
        let waited = now.saturating_duration_since(self.since).as_secs();
        Message {
            op: BOOTREQUEST,
            hops: 0,
            xid: self.xid,
            secs: u16::try_from(waited).unwrap_or(u16::MAX),
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: self.mac,
            sname: Vec::new(),
            file: Vec::new(),
            options,
        }
    }

    /// Adds what is asked for.
    fn wishes(&self, message: &mut Message) {
        let options = &mut message.options;
        options.set(
            code::PARAMETER_REQUEST_LIST,
            [
                code::SUBNET_MASK,
                code::ROUTERS,
                code::INTERFACE_MTU,
                code::LEASE_TIME,
                code::SERVER_IDENTIFIER,
                code::RENEWAL_TIME,
                code::REBINDING_TIME,
            ],
        );
        options.set(code::MAXIMUM_MESSAGE_SIZE, MESSAGE_SIZE.to_be_bytes());
        if !self.hostname.is_empty() {
            options.set(code::HOST_NAME, self.hostname.as_bytes());
        }
    }

    /// Builds the frame that carries a message: to all, from nobody, or to the server of a lease.
    fn frame(&self, message: &Message, lease: Option<&Lease>) -> Option<Vec<u8>> {
        let (src, dst, mac) = lease.map_or(
            (
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::BROADCAST,
                MacAddr::BROADCAST,
            ),
            |lease| (lease.ip, lease.server, lease.via),
        );
        let payload = message.emit(MESSAGE_SIZE.into());
        let datagram = udp::emit((src, CLIENT_PORT), (dst, SERVER_PORT), &payload)?;
        let packet = ipv4::emit(src, dst, PROTOCOL_UDP, &datagram)?;
        Some(ethernet::emit(mac, self.mac, ETHERTYPE_IPV4, &packet))
    }

    fn discover(&self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let mut message = self.message(MessageType::Discover, now);
        if let Some(former) = self.former {
            let requested = former.octets();
            message.options.set(code::REQUESTED_ADDRESS, requested);
        }
        self.wishes(&mut message);
        out.extend(self.frame(&message, None));
    }

    fn request(&self, ip: Ipv4Addr, server: Ipv4Addr, now: Instant, out: &mut Vec<Vec<u8>>) {
        let mut message = self.message(MessageType::Request, now);
        let options = &mut message.options;
        options.set(code::REQUESTED_ADDRESS, ip.octets());
        options.set(code::SERVER_IDENTIFIER, server.octets());
        self.wishes(&mut message);
        out.extend(self.frame(&message, None));
    }

    /// Asks for more time: the server, or all.
    fn extend(&self, lease: &Lease, all: bool, now: Instant, out: &mut Vec<Vec<u8>>) {
        let mut message = self.message(MessageType::Request, now);
        message.ciaddr = lease.ip;
        self.wishes(&mut message);
        if all {
            let all = Lease {
                server: Ipv4Addr::BROADCAST,
                via: MacAddr::BROADCAST,
                ..lease.clone()
            };
            out.extend(self.frame(&message, Some(&all)));
        } else {
            out.extend(self.frame(&message, Some(lease)));
        }
    }

    /// Says that the address was free.
    pub(super) fn accept(&mut self) {
        if let State::Checking(lease) = &self.state {
            self.former = Some(lease.ip);
            self.failures = 0;
            self.state = State::Bound(lease.clone());
        }
    }

    /// Says that the address is used by somebody else already.
    pub(super) fn decline(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if let State::Checking(lease) = &self.state {
            let mut message = self.message(MessageType::Decline, now);
            let options = &mut message.options;
            options.set(code::REQUESTED_ADDRESS, lease.ip.octets());
            options.set(code::SERVER_IDENTIFIER, lease.server.octets());
            out.extend(self.frame(&message, None));
            self.former = None;
            self.begin_anew(now + DECLINED);
        }
    }

    /// Gives the address back, if there is one.
    pub(super) fn release(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let (State::Bound(lease) | State::Renewing { lease, .. } | State::Rebinding { lease, .. }) =
            &self.state
        else {
            return;
        };
        let mut message = self.message(MessageType::Release, now);
        message.ciaddr = lease.ip;
        let server = lease.server.octets();
        message.options.set(code::SERVER_IDENTIFIER, server);
        out.extend(self.frame(&message, Some(lease)));
        self.begin_anew(now + DECLINED);
    }

    fn begin_anew(&mut self, at: Instant) {
        self.since = at;
        self.state = State::Waiting { at };
    }

    /// Takes in an answer that came from the station `via`.
    pub(super) fn handle_reply(
        &mut self,
        message: &Message,
        via: MacAddr,
        now: Instant,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) -> Option<Change> {
        if message.op != BOOTREPLY || message.xid != self.xid || message.chaddr != self.mac {
            return None;
        }
        let named = message.options.address(code::SERVER_IDENTIFIER);
        match (&self.state, message.kind()?) {
            (State::Selecting { .. }, MessageType::Offer) => {
                let (ip, server) = (message.yiaddr, named?);
                // Only what can be granted is asked for.
                grant(message, via, now)?;
                self.state = State::Requesting {
                    ip,
                    server,
                    tries: 0,
                    sent: now,
                    at: now + backoff(0, random),
                };
                self.request(ip, server, now, out);
                None
            }
            (State::Requesting { server, sent, .. }, MessageType::Ack)
                if named == Some(*server) =>
            {
                let lease = grant(message, via, *sent)?;
                self.state = State::Checking(lease.clone());
                Some(Change::Granted(lease))
            }
            (
                State::Renewing { lease, sent, .. } | State::Rebinding { lease, sent, .. },
                MessageType::Ack,
            ) => {
                let new = grant(message, via, *sent)?;
                let asked = matches!(self.state, State::Rebinding { .. });
                if !asked && new.server != lease.server {
                    return None;
                }
                if new.ip != lease.ip {
                    self.state = State::Checking(new.clone());
                    return Some(Change::Granted(new));
                }
                self.state = State::Bound(new.clone());
                Some(Change::Extended(new))
            }
            (State::Requesting { server, .. }, MessageType::Nak)
                if named.is_none_or(|named| named == *server) =>
            {
                self.refused(now, random);
                None
            }
            (State::Renewing { lease, .. }, MessageType::Nak)
                if named.is_none_or(|named| named == lease.server) =>
            {
                self.refused(now, random);
                Some(Change::Lost)
            }
            (State::Rebinding { .. }, MessageType::Nak) => {
                self.refused(now, random);
                Some(Change::Lost)
            }
            _ => None,
        }
    }

    /// Begins anew: soon after the first refusal, later after more of them.
    fn refused(&mut self, now: Instant, random: &mut Random) {
        self.former = None;
        let wait = match self.failures {
            0 => Duration::from_secs(1),
            failures => backoff(failures - 1, random),
        };
        self.failures = self.failures.saturating_add(1);
        self.begin_anew(now + wait);
    }

    /// The next time at which `handle_timeout` has work to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { at } | State::Selecting { at, .. } | State::Requesting { at, .. } => {
                Some(*at)
            }
            State::Checking(_) => None,
            State::Bound(lease) => lease.renew,
            State::Renewing { lease, at, .. } => Some(lease.rebind.unwrap_or(*at).min(*at)),
            State::Rebinding { lease, at, .. } => Some(lease.ends.unwrap_or(*at).min(*at)),
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) -> Option<Change> {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return None;
        }
        match self.state.clone() {
            State::Waiting { .. } => {
                self.xid = random.number();
                self.since = now;
                self.state = State::Selecting {
                    tries: 0,
                    at: now + backoff(0, random),
                };
                self.discover(now, out);
            }
            State::Selecting { tries, .. } => {
                self.failures = self.failures.saturating_add(1);
                self.state = State::Selecting {
                    tries: tries + 1,
                    at: now + backoff(tries + 1, random),
                };
                self.discover(now, out);
            }
            State::Requesting { tries, .. } if tries + 1 >= REQUESTS => {
                self.refused(now, random);
            }
            State::Requesting {
                ip, server, tries, ..
            } => {
                self.state = State::Requesting {
                    ip,
                    server,
                    tries: tries + 1,
                    sent: now,
                    at: now + backoff(tries + 1, random),
                };
                self.request(ip, server, now, out);
            }
            State::Checking(_) => {}
            State::Bound(lease)
            | State::Renewing { lease, .. }
            | State::Rebinding { lease, .. } => {
                return self.keep(lease, now, random, out);
            }
        }
        None
    }

    /// Asks for more time of a lease, or ends it.
    fn keep(
        &mut self,
        lease: Lease,
        now: Instant,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) -> Option<Change> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(lease.ends) {
            self.failures = self.failures.saturating_add(1);
            self.begin_anew(now);
            // There is no address, so the next one is looked for at once.
            self.handle_timeout(now, random, out);
            return Some(Change::Lost);
        }
        if matches!(self.state, State::Bound(_)) {
            self.xid = random.number();
            self.since = now;
        }
        let all = passed(lease.rebind);
        self.extend(&lease, all, now, out);
        let until = if all { lease.ends } else { lease.rebind };
        let half = until.map_or(RENEWING, |until| until.saturating_duration_since(now) / 2);
        let (sent, at) = (now, now + half.max(RENEWING));
        self.state = if all {
            State::Rebinding { lease, sent, at }
        } else {
            State::Renewing { lease, sent, at }
        };
        None
    }
}

/// Reads what a server grants, for a question sent at `sent`; `None` where it makes no sense.
fn grant(message: &Message, via: MacAddr, sent: Instant) -> Option<Lease> {
    let (ip, options) = (message.yiaddr, &message.options);
    let seconds = options.number(code::LEASE_TIME)?;
    let server = options.address(code::SERVER_IDENTIFIER)?;
    let usable = |ip: Ipv4Addr| {
        !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback() && ip.octets()[0] < 240
    };
    if !usable(ip) || !usable(server) || !via.is_station() || seconds == 0 {
        return None;
    }
    let mask = options.address(code::SUBNET_MASK);
    let net = mask.and_then(|mask| Ipv4Net::with_netmask(ip, mask).ok());
    let net = match net {
        Some(net) => net,
        None => Ipv4Net::new(ip, natural_prefix(ip)).ok()?,
    };
    let routers = options.find(code::ROUTERS).unwrap_or_default();
    let routers = routers
        .chunks_exact(4)
        .map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3]));
    let after = |seconds: u32| sent + Duration::from_secs(seconds.into());
    let (renew, rebind) = times(options, seconds);
    let forever = seconds == u32::MAX;
    let mtu = options.find(code::INTERFACE_MTU);
    Some(Lease {
        ip,
        net: net.trunc(),
        router: routers
            .into_iter()
            .find(|router| usable(*router) && *router != ip),
        mtu: mtu
            .and_then(|value| be16(value, 0))
            .filter(|mtu| *mtu >= MIN_MTU),
        server,
        via,
        renew: (!forever).then(|| after(renew)),
        rebind: (!forever).then(|| after(rebind)),
        ends: (!forever).then(|| after(seconds)),
    })
}

/// Returns T1 and T2 in seconds (RFC 2131, section 4.4.5): what the server says, where it is in order.
fn times(options: &Options, seconds: u32) -> (u32, u32) {
    let told = options
        .number(code::RENEWAL_TIME)
        .zip(options.number(code::REBINDING_TIME));
    told.filter(|(renew, rebind)| 0 < *renew && renew < rebind && *rebind < seconds)
        .unwrap_or_else(|| (seconds.div_ceil(2), seconds - seconds / 8))
}

/// Returns the length of the prefix that an address has by its class.
const fn natural_prefix(ip: Ipv4Addr) -> u8 {
    match ip.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}
