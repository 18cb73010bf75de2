//! The DHCPv6 server (RFC 8415), the only one of its network: stateless, and stateful where it has a range of addresses.
//!
//! # Theory of operation
//!
//! | the client | is answered with |
//! |---|---|
//! | SOLICIT | ADVERTISE of the address it would get; with rapid commit, REPLY that gives it |
//! | REQUEST | the address: the one it asks for, where that is free |
//! | RENEW, REBIND | the address, for as long again; one that it should not have any more, with no time left |
//! | CONFIRM | whether its addresses are those of this link, and nobody else's |
//! | RELEASE, DECLINE | that it was done, or that it has no such address |
//! | INFORMATION-REQUEST | name servers, domains, time servers, and when to ask again |
//!
//! A client is told from another by its hardware address, as in the server for IPv4, because one port is one station,
//! whatever boots behind it. It has one address: a second association of the same client gets none. Which address it is,
//! and why nothing is on disk, see [`bindings`]. What an advertisement shows is not kept: until the client requests it,
//! another might. Then it gets the next one.
//!
//! Not handled: relays, prefixes, temporary addresses, reconfiguration, authentication. Messages to the server alone are
//! told to use the group, since nobody was told that they need not.

use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use ipnet::Ipv6Net;

use self::bindings::{Binding, Bindings};
use self::request::{Datagram, Request};
use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::net::inside::Inside;
use crate::wire::dhcp6::{
    Association, Builder, CLIENT_PORT, MessageType, SERVER_PORT, Status, code,
};
use crate::wire::domain;
use crate::wire::ethernet::{self, ETHERTYPE_IPV6, MacAddr};
use crate::wire::ipv4::PROTOCOL_UDP;
use crate::wire::ipv6::Ipv6;
use crate::wire::udp;

mod bindings;
mod request;
#[cfg(test)]
mod tests;

/// How many associations of a message are answered.
const ASSOCIATIONS: usize = 4;
/// How many addresses of an association are read.
const ADDRESSES: usize = 4;
/// How many servers of a kind are told of.
const SERVERS: usize = 8;
/// How many bytes of domains to search are told: an answer has to fit into one packet.
const SEARCH_LEN: usize = 256;
/// Look no further.
const HIGHEST_PREFERENCE: u8 = 255;

/// An address that belongs to one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The address it always gets, within the prefix.
    pub ip: Ipv6Addr,
    /// The name it is known by, if any.
    pub hostname: Option<String>,
}

/// What a server tells its clients, and which addresses it gives to whom.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The network's prefix.
    pub prefix: Ipv6Net,
    /// The gateway's link-local address, from which the server speaks.
    pub server: Ipv6Addr,
    /// The gateway's address in the prefix, which is given to nobody.
    pub gateway: Ipv6Addr,
    /// The addresses for clients without a reservation; none at all are given out where there is none.
    pub pool: Option<RangeInclusive<Ipv6Addr>>,
    /// How long an address is a client's.
    pub valid: Duration,
    /// How long it opens new connections from it.
    pub preferred: Duration,
    /// The name servers (option 23).
    pub dns: Vec<Ipv6Addr>,
    /// The domain search list (option 24).
    pub search: Vec<String>,
    /// The time servers (option 56).
    pub ntp: Vec<Ipv6Addr>,
    /// When clients without an address ask again (option 32).
    pub refresh: Duration,
    /// Whether a client that wants that gets its address at once (option 14).
    pub rapid_commit: bool,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Reservation>,
}

impl Spec {
    /// How long an address is a client's unless something else is wanted.
    pub const VALID: Duration = Duration::from_secs(86400);
    /// How long it opens new connections from it unless something else is wanted.
    pub const PREFERRED: Duration = Duration::from_secs(86400);
    /// When clients without an address ask again unless something else is wanted (RFC 8415, section 7.6).
    pub const REFRESH: Duration = Duration::from_secs(86400);
}

/// A lease as it is shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// The address.
    pub ip: Ipv6Addr,
    /// The client's hardware address.
    pub mac: MacAddr,
    /// The client's name, if known.
    pub hostname: Option<String>,
    /// When it ends.
    pub expires: SystemTime,
}

/// What is done about an association.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    /// The client hears what it would get.
    Show,
    /// It gets that.
    Give,
    /// It keeps what it has.
    Extend,
}

/// The DHCPv6 server of one network.
#[derive(Debug)]
pub struct Dhcp6 {
    mac: MacAddr,
    duid: Vec<u8>,
    server: Ipv6Addr,
    gateway: Ipv6Addr,
    valid: Duration,
    preferred: Duration,
    refresh: Duration,
    rapid_commit: bool,
    /// What clients are told, by code.
    parameters: Vec<(u16, Vec<u8>)>,
    bindings: Bindings,
}

impl Dhcp6 {
    /// Starts a server behind the hardware address `mac`.
    pub fn new(mut spec: Spec, mac: MacAddr) -> Self {
        let bindings = Bindings::new(&mut spec);
        let octets = |list: &[Ipv6Addr]| -> Vec<u8> {
            let list = list.iter().take(SERVERS);
            list.flat_map(|ip| ip.octets()).collect()
        };
        let ntp = spec.ntp.iter().take(SERVERS).flat_map(|ip| {
            // A suboption of its own for each: the address of a server.
            [&[0, 1, 0, 16][..], &ip.octets()].concat()
        });
        let mut search = Vec::new();
        for name in &spec.search {
            let before = search.len();
            if domain::push(&mut search, name) && search.len() > SEARCH_LEN {
                search.truncate(before);
                break;
            }
        }
        let mut parameters = vec![
            (code::DNS_SERVERS, octets(&spec.dns)),
            (code::DOMAIN_SEARCH, search),
            (code::NTP_SERVER, ntp.collect()),
        ];
        parameters.retain(|(_, value)| !value.is_empty());
        Self {
            mac,
            // By the link-layer address, of Ethernet (RFC 8415, section 11.4).
            duid: [&[0, 3, 0, 1][..], &mac.0].concat(),
            server: spec.server,
            gateway: spec.gateway,
            valid: spec.valid,
            preferred: spec.preferred.min(spec.valid),
            refresh: spec.refresh,
            rapid_commit: spec.rapid_commit,
            parameters,
            bindings,
        }
    }

    fn answer(&mut self, request: &Request<'_>, inside: &Inside, now: Now, out: &mut Replies) {
        let kind = request.message.kind;
        if request.unicast {
            let mut reply = self.reply(request, MessageType::Reply);
            reply.add_status(Status::UseMulticast);
            return self.send(request, reply, out);
        }
        let reply = match kind {
            MessageType::Solicit if self.rapid_commit && request.is_rapid() => {
                let mut reply = self.assign(request, Act::Give, inside, now, out);
                reply.add(code::RAPID_COMMIT, &[]);
                Some(reply)
            }
            MessageType::Solicit => Some(self.assign(request, Act::Show, inside, now, out)),
            MessageType::Request => Some(self.assign(request, Act::Give, inside, now, out)),
            MessageType::Renew | MessageType::Rebind => {
                Some(self.assign(request, Act::Extend, inside, now, out))
            }
            MessageType::Confirm => self.confirm(request, inside, now, out),
            MessageType::Release | MessageType::Decline => Some(self.take_back(request, now, out)),
            MessageType::InformationRequest => {
                let mut reply = self.reply(request, MessageType::Reply);
                self.inform(request, &mut reply);
                if request.wants(code::INFORMATION_REFRESH_TIME) {
                    let refresh = seconds(self.refresh).to_be_bytes();
                    reply.add(code::INFORMATION_REFRESH_TIME, &refresh);
                }
                Some(reply)
            }
            MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => None,
        };
        if let Some(reply) = reply {
            self.send(request, reply, out);
        }
    }

    /// Begins an answer.
    fn reply(&self, request: &Request<'_>, kind: MessageType) -> Builder {
        let mut reply = Builder::message(kind, request.message.xid);
        reply.add(code::SERVER_ID, &self.duid);
        if let Some(client) = request.client {
            reply.add(code::CLIENT_ID, client);
        }
        reply
    }

    fn send(&self, request: &Request<'_>, reply: Builder, out: &mut Replies) {
        let (src, dst) = ((self.server, SERVER_PORT), (request.src, CLIENT_PORT));
        let packet = udp::emit_v6(src, dst, &reply.finish()).and_then(|datagram| {
            let packet = Ipv6 {
                src: self.server,
                dst: request.src,
                next_header: PROTOCOL_UDP,
                hop_limit: 64,
                payload: &datagram,
            };
            packet.emit()
        });
        if let Some(packet) = packet {
            out.send(ethernet::emit(
                request.mac,
                self.mac,
                ETHERTYPE_IPV6,
                &packet,
            ));
        }
    }

    /// Adds what the client asks for of what is the same for everybody.
    fn inform(&self, request: &Request<'_>, reply: &mut Builder) {
        for (code, value) in &self.parameters {
            if request.wants(*code) {
                reply.add(*code, value);
            }
        }
    }

    /// Answers every association of a client, and tells it what it asks for.
    fn assign(
        &mut self,
        request: &Request<'_>,
        act: Act,
        inside: &Inside,
        now: Now,
        out: &mut Replies,
    ) -> Builder {
        let kind = if act == Act::Show {
            MessageType::Advertise
        } else {
            MessageType::Reply
        };
        let mut reply = self.reply(request, kind);
        let mut given = false;
        for association in request.associations().take(ASSOCIATIONS) {
            let chosen = self.choose(request, &association, act, inside, now);
            let chosen = chosen.and_then(|ip| {
                if given {
                    Err(Status::NoAddrsAvail)
                } else {
                    Ok(ip)
                }
            });
            let value = match chosen {
                Ok(ip) => {
                    given = true;
                    if act != Act::Show {
                        self.bind(request, ip, now, out);
                    }
                    self.granted(&association, ip, act)
                }
                Err(status) => refused(&association, status),
            };
            reply.add(association.code, &value);
        }
        if given && act == Act::Show {
            reply.add(code::PREFERENCE, &[HIGHEST_PREFERENCE]);
        }
        self.inform(request, &mut reply);
        if let Some((flags, name)) = request.name().filter(|_| request.wants(code::CLIENT_FQDN)) {
            // The server registers the name (S), and says where that is not what the client wanted (O).
            let mut value = vec![if flags & 1 == 0 { 3 } else { 1 }];
            if domain::push(&mut value, &name) {
                reply.add(code::CLIENT_FQDN, &value);
            }
        }
        reply
    }

    fn choose(
        &self,
        request: &Request<'_>,
        association: &Association<'_>,
        act: Act,
        inside: &Inside,
        now: Now,
    ) -> Result<Ipv6Addr, Status> {
        let none = match association.code {
            code::IA_PD => Status::NoPrefixAvail,
            _ => Status::NoAddrsAvail,
        };
        let none = if act == Act::Extend {
            Status::NoBinding
        } else {
            none
        };
        if association.code != code::IA_NA {
            return Err(none);
        }
        let asked: Vec<_> = association.options.addresses().take(ADDRESSES).collect();
        let requests = request.message.kind == MessageType::Request;
        if requests && asked.iter().any(|ip| !self.bindings.is_on_link(*ip)) {
            return Err(Status::NotOnLink);
        }
        self.bindings
            .choose(request.mac, &asked, inside, now.instant)
            .ok_or(none)
    }

    fn bind(&mut self, request: &Request<'_>, ip: Ipv6Addr, now: Now, out: &mut Replies) {
        let before = self.bindings.of(request.mac).filter(|it| it.ip != ip);
        if let Some(before) = before.cloned() {
            self.tell(request.mac, before, false, now, out);
        }
        let name = request.name().map(|(_, name)| name);
        let ends = now.instant + self.valid;
        let hostname = self.bindings.bind(request.mac, ip, name, ends);
        let binding = Binding { ip, hostname, ends };
        self.tell(request.mac, binding, true, now, out);
    }

    /// Tells the gateway who has an address, or has it no more.
    fn tell(&self, mac: MacAddr, binding: Binding, bound: bool, now: Now, out: &mut Replies) {
        out.leases6.push((lease(mac, &binding, now), bound));
    }

    /// Returns an association with its address. What else the client has in it is over.
    fn granted(&self, association: &Association<'_>, ip: Ipv6Addr, act: Act) -> Vec<u8> {
        let preferred = seconds(self.preferred);
        let times = (preferred / 2, preferred / 5 * 4);
        let mut granted = Builder::association(association.code, association.id, times);
        granted.add_address(ip, preferred, seconds(self.valid));
        if act == Act::Extend {
            let others = association.options.addresses().take(ADDRESSES);
            others
                .filter(|other| *other != ip)
                .for_each(|other| granted.add_address(other, 0, 0));
        }
        granted.finish()
    }

    /// Tells whether the addresses of a client are good here. After a restart this is how it has its address back.
    fn confirm(
        &mut self,
        request: &Request<'_>,
        inside: &Inside,
        now: Now,
        out: &mut Replies,
    ) -> Option<Builder> {
        let associations = request.associations().take(ASSOCIATIONS);
        let asked: Vec<_> = associations
            .filter(|association| association.code == code::IA_NA)
            .flat_map(|association| association.options.addresses().take(ADDRESSES))
            .collect();
        let first = asked.first().copied()?;
        let good = |ip: &Ipv6Addr| {
            self.bindings.is_on_link(*ip) && !self.bindings.is_others(*ip, request.mac)
        };
        let good = asked.iter().all(good);
        if good
            && self.bindings.of(request.mac).is_none()
            && self
                .bindings
                .choose(request.mac, &asked, inside, now.instant)
                == Some(first)
        {
            self.bind(request, first, now, out);
        }
        let mut reply = self.reply(request, MessageType::Reply);
        reply.add_status(if good {
            Status::Success
        } else {
            Status::NotOnLink
        });
        Some(reply)
    }

    /// Takes back what a client does not need, or cannot use.
    fn take_back(&mut self, request: &Request<'_>, now: Now, out: &mut Replies) -> Builder {
        let mut reply = self.reply(request, MessageType::Reply);
        for association in request.associations().take(ASSOCIATIONS) {
            let mut taken = None;
            for ip in association.options.addresses().take(ADDRESSES) {
                let bindings = &mut self.bindings;
                taken = taken.or_else(|| {
                    if request.message.kind == MessageType::Decline {
                        bindings.decline(request.mac, ip, now.instant)
                    } else {
                        bindings.release(request.mac, ip)
                    }
                });
            }
            match taken {
                Some(binding) => self.tell(request.mac, binding, false, now, out),
                None => reply.add(association.code, &refused(&association, Status::NoBinding)),
            }
        }
        reply.add_status(Status::Success);
        reply
    }

    fn expire(&mut self, now: Now, out: &mut Replies) {
        for (mac, binding) in self.bindings.expire(now.instant) {
            self.tell(mac, binding, false, now, out);
        }
    }
}

impl Service for Dhcp6 {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim {
        let Some(datagram) = Datagram::find(frame, self.mac) else {
            return Claim::Passed;
        };
        let own = [self.server, self.gateway];
        if !datagram.dst.is_multicast() && !own.contains(&datagram.dst) {
            return Claim::Passed;
        }
        self.expire(now, out);
        if let Some(request) = Request::read(datagram, &self.duid) {
            self.answer(&request, frame.inside, now, out);
        }
        Claim::Taken
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.bindings.next_end()
    }

    fn handle_timeout(&mut self, now: Now, out: &mut Replies) {
        self.expire(now, out);
    }

    fn leases6(&self, now: Now) -> Vec<Lease> {
        let bindings = self.bindings.iter();
        bindings
            .filter(|(_, binding)| binding.ends > now.instant)
            .map(|(mac, binding)| lease(mac, binding, now))
            .collect()
    }

    fn advisories(&self, _now: Now) -> Vec<String> {
        match self.bindings.quarantined() {
            0 => Vec::new(),
            count => vec![format!(
                "clients of DHCPv6 have found {count} of their addresses in use by others"
            )],
        }
    }
}

fn lease(mac: MacAddr, binding: &Binding, now: Now) -> Lease {
    let left = binding.ends.saturating_duration_since(now.instant);
    Lease {
        ip: binding.ip,
        mac,
        hostname: binding.hostname.clone(),
        expires: now.wall.checked_add(left).unwrap_or(now.wall),
    }
}

/// Returns an association that the client does not have.
fn refused(association: &Association<'_>, status: Status) -> Vec<u8> {
    let mut refused = Builder::association(association.code, association.id, (0, 0));
    refused.add_status(status);
    refused.finish()
}

/// Returns the seconds of a lifetime; one that is too long lasts for ever.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
