//! The DHCP server (RFC 2131), authoritative for its network.
//!
//! # Theory of operation
//!
//! A DISCOVER is answered at once with the address the client has. An address that is new to it is probed first:
//! ARP asks for it, and the offer follows when nobody has answered for 100 ms. If somebody does, the address is put
//! out of use and the next one probed. Retransmissions join the probe that is under way. An offer holds its address
//! for a minute and is written nowhere.
//!
//! A REQUEST is granted or refused:
//!
//! | the client | names us (54) | has `ciaddr` | is granted |
//! |---|---|---|---|
//! | selects an offer | yes | no | what [`Leases::grants`] allows |
//! | reboots | no | no | what [`Leases::confirms`] allows |
//! | renews or rebinds | no | yes | what [`Leases::confirms`] allows |
//! | took another server's offer | another | | nothing, and hears nothing; its offer is withdrawn |
//!
//! What is granted counts at once, and the ACK leaves once the record is on disk. A client that is not known but
//! asks for a free address is granted it, because a lost lease file must not take addresses away from running
//! guests. Everything else is refused, loudly: nobody else could know better.
//!
//! ARP frames are overheard, never claimed: a station that uses an address keeps it from being given to others for
//! a while. For that the server must come before the service that answers ARP.
//!
//! Not handled: BOOTP without option 53, rapid commit, FORCERENEW, leases for media other than Ethernet, networks
//! behind a relay other than the server's own.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use ipnet::Ipv4Net;

use self::leases::{Leases, later};
use self::offers::{Offer, Stage};
use self::options::Parameters;
use self::refusal::Refusal;
use self::reply::Sender;
use self::request::{Client, Datagram, Request};
use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::wire::arp::{Arp, REQUEST};
use crate::wire::dhcp::{Message, MessageType, code};
use crate::wire::ethernet::{ETHERTYPE_ARP, Ethernet, MacAddr};

mod leases;
mod marks;
mod offers;
mod options;
mod ranges;
mod refusal;
mod reply;
mod request;
#[cfg(test)]
mod tests;

/// How long a probe may go unanswered before the address counts as free.
const PROBE: Duration = Duration::from_millis(100);
/// How long an offer is kept for the client.
const OFFER: Duration = Duration::from_secs(60);
/// The shortest lease: a client must be able to renew it in time.
pub const MIN_LEASE: Duration = Duration::from_secs(120);
/// The longest lease in seconds: one more would mean forever.
const MAX_SECONDS: u64 = 0xffff_fffe;

/// By what a client is told from another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Identity {
    /// By its hardware address: one port, one address, whatever boots behind it.
    #[default]
    Mac,
    /// By its client identifier (option 61) where it sends one.
    ClientId,
}

/// An address that belongs to one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The address it always gets.
    pub ip: Ipv4Addr,
    /// The name it is given (option 12), if any.
    pub hostname: Option<String>,
}

/// What a DHCP server hands out, and to whom. All addresses lie in `subnet`; ranges were checked before.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The subnet that is served (option 1).
    pub subnet: Ipv4Net,
    /// The server's own address (option 54).
    pub server: Ipv4Addr,
    /// The addresses for clients without a reservation.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// How long a lease lasts when the client does not ask (option 51).
    pub lease: Duration,
    /// The longest lease that a client can ask for.
    pub max_lease: Duration,
    /// When clients renew (option 58); half the lease where absent.
    pub renew: Option<Duration>,
    /// When clients rebind (option 59); seven eighths of the lease where absent.
    pub rebind: Option<Duration>,
    /// The routers (option 3).
    pub routers: Vec<Ipv4Addr>,
    /// The name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// The time servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// The domain name (option 15).
    pub domain: Option<String>,
    /// The domain search list (option 119, RFC 3397).
    pub search: Vec<String>,
    /// The MTU (option 26).
    pub mtu: Option<u16>,
    /// Classless static routes (option 121, RFC 3442).
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Vendor-specific information (option 43).
    pub vendor: Option<Vec<u8>>,
    /// The server to boot from: the `siaddr` field.
    pub next_server: Option<Ipv4Addr>,
    /// The name of the TFTP server (option 66).
    pub tftp_server: Option<String>,
    /// The file to boot (option 67 and the `file` field).
    pub boot_file: Option<String>,
    /// Further options by code, sent as they are.
    pub options: Vec<(u8, Vec<u8>)>,
    /// By what clients are told apart.
    pub identity: Identity,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Reservation>,
    /// Leases from before a restart.
    pub restored: Vec<Record>,
}

/// What became of an address, as it is kept on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Leased until the record's end.
    Bound,
    /// Given back; free, but kept for the same client as long as nobody else needs it.
    Released,
    /// Found in use by somebody else; not given out until the record's end.
    Declined,
}

/// A line of the lease file: the newest for an address counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The address.
    pub ip: Ipv4Addr,
    /// What became of it.
    pub state: State,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The client identifier (option 61), if it sent one.
    pub client_id: Option<Vec<u8>>,
    /// The name the client gave itself (option 12), if any; printable ASCII without spaces.
    pub hostname: Option<String>,
    /// When the state ends.
    pub ends: SystemTime,
}

/// A lease as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// The address.
    pub ip: Ipv4Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The client identifier, if it sent one.
    pub client_id: Option<Vec<u8>>,
    /// The client's name, if known.
    pub hostname: Option<String>,
    /// When it ends.
    pub expires: SystemTime,
}

/// The DHCP server of one network.
#[derive(Debug)]
pub struct Dhcp {
    sender: Sender,
    subnet: Ipv4Net,
    lease: Duration,
    max_lease: Duration,
    renew: Option<Duration>,
    rebind: Option<Duration>,
    parameters: Parameters,
    leases: Leases,
}

impl Dhcp {
    /// Starts a server with its restored leases, in a network whose largest packet has `mtu` bytes.
    pub fn new(mut spec: Spec, mac: MacAddr, mtu: u16, now: Now) -> Self {
        Self {
            sender: Sender {
                mac,
                ip: spec.server,
                mtu,
            },
            subnet: spec.subnet,
            lease: spec.lease,
            max_lease: spec.max_lease,
            renew: spec.renew,
            rebind: spec.rebind,
            parameters: Parameters::new(&spec),
            leases: Leases::new(&mut spec, now),
        }
    }

    fn overhear(&mut self, payload: &[u8], station: MacAddr, now: Now, out: &mut Replies) {
        let Some(arp) = Arp::parse(payload) else {
            return;
        };
        if !station.is_station() || station == self.sender.mac {
            return;
        }
        // A probe by somebody else for the address that we are about to give away is as good as an answer.
        let probes = arp.operation == REQUEST && arp.sender_ip.is_unspecified();
        let ip = if probes { arp.target_ip } else { arp.sender_ip };
        if let Some(offer) = self.leases.offers().at(ip)
            && matches!(offer.stage, Stage::Probing(_))
            && offer.client.mac != station
        {
            self.leases.expire(now);
            self.try_next(ip, station, now, out);
        } else if !probes && station == arp.sender_mac {
            self.leases.expire(now);
            self.leases.notice(station, ip, now);
        }
    }

    /// Gives up an address that turned out to be in use, and probes the next one for the same client.
    fn try_next(&mut self, ip: Ipv4Addr, user: MacAddr, now: Now, out: &mut Replies) {
        match self.leases.shun(ip, user, now) {
            Some(Offer {
                client,
                stage: Stage::Probing(request),
                ..
            }) => {
                let next = ip.to_bits().checked_add(1).map(Ipv4Addr::from_bits);
                self.probe(client, *request, next, now, out);
            }
            Some(Offer {
                stage: Stage::Offered,
                ..
            })
            | None => {}
        }
    }

    fn answer(&mut self, request: Request, now: Now, out: &mut Replies) {
        if request
            .relay()
            .is_some_and(|relay| !self.subnet.contains(&relay))
        {
            return;
        }
        let id = request.message.options.find(code::CLIENT_IDENTIFIER);
        let client = self
            .leases
            .client(request.message.chaddr, id.map(<[u8]>::to_vec));
        let Ok(server) = request.address(code::SERVER_IDENTIFIER) else {
            return;
        };
        let ours = server.is_none_or(|server| server == self.sender.ip);
        match request.kind {
            MessageType::Discover => self.discover(client, request, now, out),
            MessageType::Request if ours => {
                self.request(&client, &request, server.is_some(), now, out)
            }
            MessageType::Request => self.leases.withdraw(&client),
            MessageType::Decline if ours => self.decline(&client, &request, now, out),
            MessageType::Release if ours => self.release(&client, &request, now, out),
            MessageType::Inform if ours => self.inform(&request, out),
            MessageType::Decline | MessageType::Release | MessageType::Inform => {}
            MessageType::Offer | MessageType::Ack | MessageType::Nak => {}
        }
    }

    fn discover(&mut self, client: Client, request: Request, now: Now, out: &mut Replies) {
        let Some(held) = self.leases.offers().of(&client.key) else {
            return self.probe(client, request, None, now, out);
        };
        if self.leases.follow(held, &request) {
            return;
        }
        if self.leases.permits(&client, held, now).is_ok() {
            return self.offer(client, &request, held, now, out);
        }
        self.leases.withdraw(&client);
        self.probe(client, request, None, now, out);
    }

    /// Chooses an address, and offers it if the client has it already; otherwise makes sure that it is free.
    fn probe(
        &mut self,
        client: Client,
        request: Request,
        from: Option<Ipv4Addr>,
        now: Now,
        out: &mut Replies,
    ) {
        let requested = request.message.options.address(code::REQUESTED_ADDRESS);
        let Some(ip) = self.leases.choose(&client, requested, from, now) else {
            return;
        };
        if self.leases.is_bound(&client, ip, now.wall) {
            return self.offer(client, &request, ip, now, out);
        }
        let stage = Stage::Probing(Box::new(request));
        self.leases.hold(Offer {
            client,
            ip,
            stage,
            until: now.instant + PROBE,
        });
        out.send(Arp::probe(self.sender.mac, ip));
    }

    fn offer(
        &mut self,
        client: Client,
        request: &Request,
        ip: Ipv4Addr,
        now: Now,
        out: &mut Replies,
    ) {
        let mut reply = self.sender.reply(request, MessageType::Offer, ip);
        self.set_times(&mut reply, self.lease_for(request));
        self.fill(&mut reply, request);
        if let Some(frame) = self.sender.frame(request, &reply) {
            out.send(frame);
        }
        self.leases.hold(Offer {
            client,
            ip,
            stage: Stage::Offered,
            until: now.instant + OFFER,
        });
    }

    fn request(
        &mut self,
        client: &Client,
        request: &Request,
        selecting: bool,
        now: Now,
        out: &mut Replies,
    ) {
        let Ok(requested) = request.address(code::REQUESTED_ADDRESS) else {
            return;
        };
        let wanted = match request.ciaddr() {
            Some(ciaddr) if !selecting => Some(ciaddr),
            ciaddr => requested.or(ciaddr),
        };
        let Some(ip) = wanted else { return };
        let granted = if selecting {
            self.leases.grants(client, ip, now)
        } else {
            self.leases.confirms(client, ip, now)
        };
        match granted {
            Ok(()) => self.grant(client, request, ip, now, out),
            Err(refusal) => self.refuse(client, request, ip, refusal, now, out),
        }
    }

    fn grant(
        &mut self,
        client: &Client,
        request: &Request,
        ip: Ipv4Addr,
        now: Now,
        out: &mut Replies,
    ) {
        let lease = self.lease_for(request);
        let mut reply = self.sender.reply(request, MessageType::Ack, ip);
        self.set_times(&mut reply, lease);
        self.fill(&mut reply, request);
        let ends = later(now.wall, lease);
        let mut records = self.leases.bind(client, ip, request.hostname(), ends, now);
        let frame = self.sender.frame(request, &reply);
        if let Some(record) = records.pop() {
            records
                .into_iter()
                .for_each(|record| out.send_after(record, None));
            out.send_after(record, frame);
        }
    }

    fn refuse(
        &mut self,
        client: &Client,
        request: &Request,
        ip: Ipv4Addr,
        refusal: Refusal,
        now: Now,
        out: &mut Replies,
    ) {
        let mut reply = self
            .sender
            .reply(request, MessageType::Nak, Ipv4Addr::UNSPECIFIED);
        reply.options.set(code::MESSAGE, refusal.to_string());
        let frame = self.sender.frame(request, &reply);
        self.leases.withdraw(client);
        let ended = if refusal.ends_lease() {
            self.leases.release(client, ip, now.wall)
        } else {
            None
        };
        match (ended, frame) {
            (Some(record), frame) => out.send_after(record, frame),
            (None, Some(frame)) => out.send(frame),
            (None, None) => {}
        }
    }

    fn decline(&mut self, client: &Client, request: &Request, now: Now, out: &mut Replies) {
        let Ok(Some(ip)) = request.address(code::REQUESTED_ADDRESS) else {
            return;
        };
        if let Some(record) = self.leases.decline(client, ip, now) {
            out.send_after(record, None);
        }
    }

    fn release(&mut self, client: &Client, request: &Request, now: Now, out: &mut Replies) {
        let Some(ip) = request.ciaddr() else { return };
        self.leases.withdraw(client);
        if let Some(record) = self.leases.release(client, ip, now.wall) {
            out.send_after(record, None);
        }
    }

    /// Tells a client that has its address from elsewhere about the network.
    fn inform(&self, request: &Request, out: &mut Replies) {
        let mut request = request.clone();
        if request.ciaddr().is_none() && request.relay().is_none() {
            request.message.ciaddr = request.source;
        }
        if request
            .ciaddr()
            .is_some_and(|ip| !self.subnet.contains(&ip))
        {
            return;
        }
        let mut reply = self
            .sender
            .reply(&request, MessageType::Ack, Ipv4Addr::UNSPECIFIED);
        self.fill(&mut reply, &request);
        if let Some(frame) = self.sender.frame(&request, &reply) {
            out.send(frame);
        }
    }

    fn fill(&self, reply: &mut Message, request: &Request) {
        let requested = request.message.options.find(code::PARAMETER_REQUEST_LIST);
        let name = self.leases.reserved_name(request.message.chaddr);
        self.parameters.fill(reply, requested, name);
    }

    /// Returns how long the lease for a client lasts: no longer than is allowed, however long it asks for.
    fn lease_for(&self, request: &Request) -> Duration {
        let asked = request.message.options.number(code::LEASE_TIME);
        let asked = asked.map_or(self.lease, |seconds| Duration::from_secs(seconds.into()));
        Duration::from_secs(
            asked
                .min(self.max_lease)
                .max(MIN_LEASE)
                .as_secs()
                .min(MAX_SECONDS),
        )
    }

    /// Writes the lease's times. Configured times that do not fit a shorter lease are replaced by the usual parts.
    fn set_times(&self, reply: &mut Message, lease: Duration) {
        let rebind = self
            .rebind
            .filter(|rebind| *rebind < lease)
            .unwrap_or(lease * 7 / 8);
        let renew = self
            .renew
            .filter(|renew| *renew < rebind)
            .unwrap_or_else(|| rebind.min(lease / 2));
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        options::set_times(
            &mut reply.options,
            seconds(lease),
            seconds(renew),
            seconds(rebind),
        );
    }
}

impl Service for Dhcp {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim {
        let Some(ethernet) = Ethernet::parse(frame.bytes) else {
            return Claim::Passed;
        };
        if ethernet.ethertype == ETHERTYPE_ARP {
            self.overhear(ethernet.payload, ethernet.src, now, out);
            return Claim::Passed;
        }
        let Some(datagram) = Datagram::find(frame, self.sender.mac) else {
            return Claim::Passed;
        };
        if ![self.sender.ip, self.subnet.broadcast(), Ipv4Addr::BROADCAST].contains(&datagram.dst) {
            return Claim::Passed;
        }
        self.leases.expire(now);
        if let Some(request) = Request::read(datagram) {
            self.answer(request, now, out);
        }
        Claim::Taken
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.leases.offers().next_probe()
    }

    fn handle_timeout(&mut self, now: Now, out: &mut Replies) {
        self.leases.expire(now);
        while let Some(ip) = self.leases.offers().probed(now.instant) {
            match self.leases.let_go(ip) {
                Some(Offer {
                    client,
                    stage: Stage::Probing(request),
                    ..
                }) => {
                    self.offer(client, &request, ip, now, out);
                }
                Some(Offer {
                    stage: Stage::Offered,
                    ..
                })
                | None => {}
            }
        }
    }

    fn leases(&self, now: Now) -> Vec<Lease> {
        self.leases.active(now.wall)
    }

    fn advisories(&self, now: Now) -> Vec<String> {
        self.leases.advisories(now)
    }
}
