//! DNS at the gateway: the names of the network, and those of others by way of the host's name servers.
//!
//! # Theory of operation
//!
//! A question comes in a datagram to port 53 of one of the gateway's addresses, or as a message of a TCP stream. It is
//! answered by the first that can:
//!
//! 1. [`local`]: the names of the network, with authority;
//! 2. REFUSED, where the network does not lead outside;
//! 3. [`cache`]: what was answered before and still holds;
//! 4. [`forward`]: one of the host's name servers. The engine carries what is [asked](Ask), and tells of what became of it.
//!
//! An answer that is longer than the guest takes is cut and marked, and the guest asks again over TCP.
//!
//! Refused: operations other than questions (NOTIMP), more or less than one question (FORMERR, RFC 9619), classes other than
//! that of the Internet, transfers of zones. Whoever asks for everything gets one record that says so (RFC 8482). Cookies and
//! other options of EDNS are between neighbours and end here. Responses are not replied to, whatever they are.
//!
//! Not handled: validation of signatures; guests that validate get what they need from the host's name servers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use self::answer::pass_on;
use self::cache::Cache;
use self::forward::{Asker, Concluded, Forwarder};
use self::local::Local;
use self::query::{Query, Reading};
use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::net::inside::Inside;
use crate::net::nat::Gateways;
use crate::wire::dns::{CLASS_IN, Owner, Section, flag, kind, rcode};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, MacAddr};
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_UDP};
use crate::wire::ipv6::Ipv6;
use crate::wire::udp::{self, Udp};

pub use self::answer::answers;

mod answer;
mod cache;
mod forward;
mod local;
mod query;
#[cfg(test)]
mod tests;

/// The port.
pub const PORT: u16 = 53;
/// The longest message over TCP.
const LONGEST: usize = 65_535;
/// How many questions in a row no server answers before that is told.
const SILENCE: u32 = 3;

/// What a DNS server is told.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's own addresses, and the nets whose addresses have names here.
    pub gateways: Gateways,
    /// The domain of the network, such as `vmnet8.internal`.
    pub domain: Option<String>,
    /// The host's addresses in the network, for the name `host`.
    pub host: Vec<IpAddr>,
    /// Names with addresses; those without a dot are in the domain, too.
    pub hosts: Vec<(String, Vec<IpAddr>)>,
    /// Whether other names are asked for elsewhere.
    pub forward: bool,
    /// Where.
    pub servers: Servers,
}

/// The name servers that are asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Servers {
    /// Those of the host, by this file (`man 5 resolv.conf`), whatever it says at the time.
    Host(PathBuf),
    /// These.
    Listed(Vec<SocketAddr>),
}

impl Spec {
    /// Returns whom questions are passed on to, if they are.
    pub fn upstream(&self) -> Option<Upstream> {
        let Gateways { v4, v6, link_local } = &self.gateways;
        let v4 = v4.map(|(ip, _)| ip.into());
        let v6 = v6.map(|(ip, _)| ip).into_iter().chain(*link_local);
        self.forward.then(|| Upstream {
            servers: self.servers.clone(),
            own: v4.into_iter().chain(v6.map(IpAddr::from)).collect(),
        })
    }
}

impl Default for Servers {
    fn default() -> Self {
        Self::Host("/etc/resolv.conf".into())
    }
}

/// Whom questions are passed on to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// The servers.
    pub servers: Servers,
    /// The gateway's own addresses, which are no servers to ask.
    pub own: Vec<IpAddr>,
}

/// A question to a name server of the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ask {
    /// By what it is known when it is answered.
    pub ticket: u64,
    /// Which server.
    pub server: usize,
    /// Whether it goes over TCP.
    pub stream: bool,
    /// The message.
    pub message: Vec<u8>,
    /// When nobody waits for the answer any more.
    pub until: Instant,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AskError {
    /// There is no such server.
    #[error("there is no name server")]
    NoServer,
    /// Too much is asked at once.
    #[error("too many questions are on their way")]
    Busy,
    /// The server or the network refuses.
    #[error("the name server cannot be reached")]
    Unreachable,
}

/// DNS at a glance.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct View {
    /// Questions of guests.
    pub queries: u64,
    /// Those about names of this place.
    pub local: u64,
    /// Those that had been answered before.
    pub cached: u64,
    /// Those that were refused, or that too many others waited before.
    pub refused: u64,
    /// Questions to name servers of the host.
    pub asked: u64,
    /// Questions that no name server had an answer to.
    pub failed: u64,
    /// Answers that are kept.
    pub entries: usize,
}

/// Whom a reply goes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum To {
    Datagram {
        mac: MacAddr,
        from: SocketAddr,
        own: IpAddr,
    },
    Stream(u64),
}

/// The DNS server of one network.
#[derive(Debug)]
pub struct Dns {
    mac: MacAddr,
    mtu: u16,
    gateways: Gateways,
    local: Local,
    forward: bool,
    cache: Cache,
    forwarder: Forwarder<To>,
    counts: View,
}

impl Dns {
    /// Starts a server in a network whose largest packet has `mtu` bytes.
    pub fn new(spec: Spec, mac: MacAddr, mtu: u16) -> Self {
        Self {
            mac,
            mtu,
            local: Local::new(&spec),
            gateways: spec.gateways,
            forward: spec.forward,
            cache: Cache::default(),
            forwarder: Forwarder::new(),
            counts: View::default(),
        }
    }

    fn handle(
        &mut self,
        (to, guest): (To, MacAddr),
        message: &[u8],
        inside: &Inside,
        now: Now,
        out: &mut Replies,
    ) {
        let query = match Query::read(message) {
            Reading::Query(query) => query,
            Reading::Reply(reply) => return self.send(to, reply, out),
            Reading::Nothing => return,
        };
        self.counts.queries += 1;
        let limit = match to {
            To::Datagram { own, .. } => {
                let headers = if own.is_ipv4() { 20 + 8 } else { 40 + 8 };
                let fits = usize::from(self.mtu.saturating_sub(headers));
                query.datagram().min(fits)
            }
            To::Stream(_) => LONGEST,
        };
        if let Some(reply) = self.answer(&query, inside, now) {
            let reply = query.fit(reply, limit);
            return self.send(to, reply, out);
        }
        let asker = Asker {
            to,
            guest,
            query,
            limit,
        };
        if let Err(asker) = self.forwarder.ask(asker, now.instant, out) {
            self.counts.refused += 1;
            let reply = asker.query.refuse(flag::RA | rcode::SERVFAIL);
            self.send(to, asker.query.fit(reply, asker.limit), out);
        }
    }

    /// Answers what can be answered at once.
    fn answer(&mut self, query: &Query, inside: &Inside, now: Now) -> Option<Vec<u8>> {
        let asked = query.key.kind;
        let no_record = asked >= kind::META && asked != kind::ANY && asked <= u16::from(u8::MAX);
        if query.class != CLASS_IN || no_record || asked == kind::OPT {
            self.counts.refused += 1;
            return Some(query.refuse(rcode::REFUSED));
        }
        if let Some(reply) = self.local.answer(query, inside, now) {
            self.counts.local += 1;
            return Some(reply);
        }
        if !self.forward {
            self.counts.refused += 1;
            return Some(query.refuse(rcode::REFUSED));
        }
        if asked == kind::ANY {
            let (kind, ttl, data) = local::everything();
            let mut reply = query.reply(flag::RA);
            reply.add(Section::Answer, Owner::Question, kind, ttl, &data);
            return Some(reply.finish());
        }
        let (answer, age) = self.cache.find(&query.key, now.instant)?;
        self.counts.cached += 1;
        Some(pass_on(answer, query, age))
    }

    fn conclude(&self, concluded: Option<Concluded<To>>, out: &mut Replies) {
        if let Some(concluded) = concluded {
            for asker in &concluded.askers {
                self.send(asker.to, concluded.reply(asker), out);
            }
        }
    }

    fn send(&self, to: To, message: Vec<u8>, out: &mut Replies) {
        let (mac, from, own) = match to {
            To::Stream(stream) => return out.messages.push((stream, message)),
            To::Datagram { mac, from, own } => (mac, from, own),
        };
        let packet = match (own, from) {
            (IpAddr::V4(own), SocketAddr::V4(from)) => {
                let (src, dst) = ((own, PORT), (*from.ip(), from.port()));
                let packet = udp::emit(src, dst, &message)
                    .and_then(|datagram| ipv4::emit(own, *from.ip(), PROTOCOL_UDP, &datagram));
                packet.map(|packet| (ETHERTYPE_IPV4, packet))
            }
            (IpAddr::V6(own), SocketAddr::V6(from)) => {
                let (src, dst) = ((own, PORT), (*from.ip(), from.port()));
                let packet = udp::emit_v6(src, dst, &message).and_then(|datagram| {
                    let packet = Ipv6 {
                        src: own,
                        dst: *from.ip(),
                        next_header: PROTOCOL_UDP,
                        hop_limit: 64,
                        payload: &datagram,
                    };
                    packet.emit()
                });
                packet.map(|packet| (ETHERTYPE_IPV6, packet))
            }
            (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => None,
        };
        if let Some((ethertype, packet)) = packet {
            out.send(ethernet::emit(mac, self.mac, ethertype, &packet));
        }
    }

    /// Finds a datagram to the server in a frame.
    fn find<'a>(&self, frame: GatewayFrame<'a>) -> Option<(To, MacAddr, &'a [u8])> {
        let ethernet = Ethernet::parse(frame.bytes)?;
        if ethernet.dst != self.mac || !ethernet.src.is_station() {
            return None;
        }
        let partial = frame.partial_checksum;
        let (src, own, udp): (IpAddr, IpAddr, _) = match ethernet.ethertype {
            ETHERTYPE_IPV4 => {
                let ip = Ipv4::parse(ethernet.payload)?;
                let usable = !ip.src.is_broadcast();
                let udp = Udp::parse(&ip, partial).filter(|_| usable)?;
                (ip.src.into(), ip.dst.into(), udp)
            }
            ETHERTYPE_IPV6 => {
                let ip = Ipv6::parse(ethernet.payload)?;
                (ip.src.into(), ip.dst.into(), Udp::parse_v6(&ip, partial)?)
            }
            _ => return None,
        };
        let asks = udp.dst == PORT && self.gateways.is_own(own);
        let usable = !src.is_unspecified() && !src.is_multicast() && !self.gateways.is_own(src);
        if !asks || !usable || udp.src == 0 {
            return None;
        }
        let to = To::Datagram {
            mac: ethernet.src,
            from: SocketAddr::new(src, udp.src),
            own,
        };
        Some((to, ethernet.src, udp.payload))
    }
}

impl Service for Dns {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim {
        let Some((to, guest, message)) = self.find(frame) else {
            return Claim::Passed;
        };
        self.handle((to, guest), message, frame.inside, now, out);
        Claim::Taken
    }

    fn handle_message(
        &mut self,
        stream: u64,
        from: IpAddr,
        message: &[u8],
        inside: &Inside,
        now: Now,
        out: &mut Replies,
    ) {
        // Guests that are not known share what one may ask.
        let guest = inside.mac_of(from).unwrap_or(MacAddr::ZERO);
        self.handle((To::Stream(stream), guest), message, inside, now, out);
    }

    fn handle_answer(
        &mut self,
        ticket: u64,
        answer: Result<&[u8], AskError>,
        now: Now,
        out: &mut Replies,
    ) {
        let (forwarder, cache) = (&mut self.forwarder, &mut self.cache);
        let concluded = forwarder.answer(ticket, answer, cache, now.instant, out);
        self.conclude(concluded, out);
    }

    fn handle_servers(&mut self, servers: usize, now: Now, out: &mut Replies) {
        self.cache.clear();
        self.forwarder.set_servers(servers, now.instant, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.forwarder.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Now, out: &mut Replies) {
        loop {
            let (forwarder, cache) = (&mut self.forwarder, &mut self.cache);
            let concluded = forwarder.handle_timeout(cache, now.instant, out);
            if concluded.is_none() {
                return;
            }
            self.conclude(concluded, out);
        }
    }

    fn dns(&self) -> Option<View> {
        Some(View {
            asked: self.forwarder.asked,
            failed: self.forwarder.failed,
            entries: self.cache.len(),
            ..self.counts
        })
    }

    fn advisories(&self, _now: Now) -> Vec<String> {
        let text = if self.forwarder.no_server {
            "the host has no name server, so that guests cannot resolve names outside; look at /etc/resolv.conf"
        } else if self.forwarder.silence >= SILENCE {
            "no name server of the host answers, so that guests cannot resolve names outside"
        } else {
            return Vec::new();
        };
        vec![text.to_owned()]
    }
}
