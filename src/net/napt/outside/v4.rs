//! A translator's IPv4 address outside: where it comes from, whether it is free, and its defence (RFC 5227).
//!
//! # Theory of operation
//!
//! An address, static or granted by a DHCP server, is probed three times within 600 ms, less than RFC 5227 has it, since who told
//! or granted it was to know that it is free. If somebody has it, one from a server is declined, and a static one is tried
//! again after [`RETRY`]. Otherwise it is announced twice and answered for. When another station says that it has it, it is
//! defended, at most once in ten seconds, and kept: guests depend on it (section 2.4, case c).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use super::Random;
use super::dhcp_client::{Change, Client, Lease};
use crate::net::nat::Addressing4;
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::dhcp::Message;
use crate::wire::ethernet::MacAddr;

const PROBES: u8 = 3;
const PROBE: Duration = Duration::from_millis(200);
const ANNOUNCEMENTS: u8 = 2;
const ANNOUNCE: Duration = Duration::from_secs(2);
/// How often an address is defended at most.
const DEFEND: Duration = Duration::from_secs(10);
/// When a static address that somebody else has is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// For how long operators are told of a conflict.
const RECENT: Duration = Duration::from_secs(300);

/// An address and its surroundings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) ip: Ipv4Addr,
    pub(super) net: Ipv4Net,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) mtu: Option<u16>,
}

impl From<&Lease> for Address {
    fn from(lease: &Lease) -> Self {
        Self {
            ip: lease.ip,
            net: lease.net,
            router: lease.router,
            mtu: lease.mtu,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// It is asked whether somebody has it; how often it will still be.
    Probing { left: u8, at: Instant },
    /// It is ours; how often all are still told.
    Announcing { left: u8, at: Instant },
    /// It is ours.
    Settled,
    /// Somebody else has it; when it is tried again.
    Taken { at: Instant },
}

#[derive(Debug)]
enum Source {
    Off,
    Static,
    Dhcp(Box<Client>),
}

/// The IPv4 side of a translator outside.
#[derive(Debug)]
pub(super) struct V4 {
    mac: MacAddr,
    source: Source,
    own: Option<(Address, Stage)>,
    defended: Option<Instant>,
    /// Who else used an address of ours, and when.
    conflict: Option<(Ipv4Addr, MacAddr, Instant)>,
}

impl V4 {
    pub(super) fn new(spec: Addressing4, mac: MacAddr, hostname: &str, now: Instant) -> Self {
        let probing = Stage::Probing {
            left: PROBES,
            at: now,
        };
        let (source, own) = match spec {
            Addressing4::Off => (Source::Off, None),
            Addressing4::Dhcp => {
                let client = Client::new(mac, hostname, now);
                (Source::Dhcp(Box::new(client)), None)
            }
            Addressing4::Static { ip, net, router } => {
                let address = Address {
                    ip,
                    net,
                    router,
                    mtu: None,
                };
                (Source::Static, Some((address, probing)))
            }
        };
        Self {
            mac,
            source,
            own,
            defended: None,
            conflict: None,
        }
    }

    /// The address, where it is ours.
    #[inline]
    pub(super) fn address(&self) -> Option<&Address> {
        match &self.own {
            Some((address, Stage::Announcing { .. } | Stage::Settled)) => Some(address),
            Some((_, Stage::Probing { .. } | Stage::Taken { .. })) | None => None,
        }
    }

    /// Whether answers of DHCP servers are waited for.
    pub(super) const fn is_dhcp(&self) -> bool {
        matches!(self.source, Source::Dhcp(_))
    }

    pub(super) fn handle_arp(&mut self, arp: &Arp, now: Instant, out: &mut Vec<Vec<u8>>) {
        let Some((address, stage)) = self.own else {
            return;
        };
        let uses = arp.sender_ip == address.ip;
        let probes = arp.operation == REQUEST
            && arp.sender_ip.is_unspecified()
            && arp.target_ip == address.ip;
        match stage {
            Stage::Probing { .. } if uses || probes => {
                self.conflict = Some((address.ip, arp.sender_mac, now));
                self.give_up(now, out);
            }
            Stage::Probing { .. } | Stage::Taken { .. } => {}
            Stage::Announcing { .. } | Stage::Settled if uses => {
                self.conflict = Some((address.ip, arp.sender_mac, now));
                let lately = |at| now.saturating_duration_since(at) < DEFEND;
                if !self.defended.is_some_and(lately) {
                    self.defended = Some(now);
                    out.push(Arp::gratuitous(self.mac, address.ip));
                }
            }
            Stage::Announcing { .. } | Stage::Settled => {
                if arp.operation == REQUEST && arp.target_ip == address.ip {
                    let reply = Arp {
                        operation: REPLY,
                        sender_mac: self.mac,
                        sender_ip: address.ip,
                        target_mac: arp.sender_mac,
                        target_ip: arp.sender_ip,
                    };
                    out.push(reply.emit(arp.sender_mac));
                }
            }
        }
    }

    /// Does without an address that somebody else has.
    fn give_up(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        match &mut self.source {
            Source::Dhcp(client) => {
                client.decline(now, out);
                self.own = None;
            }
            Source::Static | Source::Off => {
                if let Some((_, stage)) = &mut self.own {
                    *stage = Stage::Taken { at: now + RETRY };
                }
            }
        }
    }

    /// Takes in an answer of a DHCP server.
    pub(super) fn handle_dhcp(
        &mut self,
        message: &Message,
        via: MacAddr,
        now: Instant,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) {
        if let Source::Dhcp(client) = &mut self.source {
            let change = client.handle_reply(message, via, now, random, out);
            self.follow(change, now);
            self.probe(now, out);
        }
    }

    fn follow(&mut self, change: Option<Change>, now: Instant) {
        match change {
            None => {}
            Some(Change::Granted(lease)) => {
                let stage = Stage::Probing {
                    left: PROBES,
                    at: now,
                };
                self.own = Some(((&lease).into(), stage));
            }
            Some(Change::Extended(lease)) => {
                if let Some((address, _)) = &mut self.own {
                    *address = (&lease).into();
                }
            }
            Some(Change::Lost) => self.own = None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let own = self.own.and_then(|(_, stage)| match stage {
            Stage::Probing { at, .. } | Stage::Announcing { at, .. } | Stage::Taken { at } => {
                Some(at)
            }
            Stage::Settled => None,
        });
        let client = match &self.source {
            Source::Dhcp(client) => client.poll_timeout(),
            Source::Off | Source::Static => None,
        };
        own.into_iter().chain(client).min()
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        random: &mut Random,
        out: &mut Vec<Vec<u8>>,
    ) {
        if let Source::Dhcp(client) = &mut self.source {
            let change = client.handle_timeout(now, random, out);
            self.follow(change, now);
        }
        self.probe(now, out);
    }

    /// Probes for the address, or announces it, where that is due.
    fn probe(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        let Some((address, stage)) = &mut self.own else {
            return;
        };
        let ip = address.ip;
        match *stage {
            Stage::Probing { left: 0, at } if at <= now => {
                *stage = Stage::Announcing {
                    left: ANNOUNCEMENTS - 1,
                    at: now + ANNOUNCE,
                };
                out.push(Arp::gratuitous(self.mac, ip));
                if let Source::Dhcp(client) = &mut self.source {
                    client.accept();
                }
            }
            Stage::Probing { left, at } if at <= now => {
                *stage = Stage::Probing {
                    left: left - 1,
                    at: now + PROBE,
                };
                out.push(Arp::probe(self.mac, ip));
            }
            Stage::Announcing { left: 0, at } if at <= now => *stage = Stage::Settled,
            Stage::Announcing { left, at } if at <= now => {
                *stage = Stage::Announcing {
                    left: left - 1,
                    at: now + ANNOUNCE,
                };
                out.push(Arp::gratuitous(self.mac, ip));
            }
            Stage::Taken { at } if at <= now => {
                *stage = Stage::Probing {
                    left: PROBES - 1,
                    at: now + PROBE,
                };
                out.push(Arp::probe(self.mac, ip));
            }
            Stage::Probing { .. }
            | Stage::Announcing { .. }
            | Stage::Settled
            | Stage::Taken { .. } => {}
        }
    }

    /// Gives the address back to whom it came from.
    pub(super) fn shut_down(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        if let Source::Dhcp(client) = &mut self.source {
            client.release(now, out);
            self.own = None;
        }
    }

    /// What an operator should know, one sentence each.
    pub(super) fn advisories(&self, now: Instant) -> Vec<String> {
        let mut advisories = Vec::new();
        if let Some((ip, mac, at)) = self.conflict
            && now.saturating_duration_since(at) < RECENT
        {
            advisories.push(format!(
                "the NAT's address {ip} outside is used by station {mac} too"
            ));
        }
        if let Source::Dhcp(client) = &self.source
            && self.own.is_none()
            && client.failures() >= 2
        {
            let text = "the NAT gets no address outside: no DHCP server there grants one";
            advisories.push(text.to_owned());
        }
        if self.address().is_some_and(|own| own.router.is_none()) {
            let text = "the NAT knows no IPv4 router outside: guests reach that network only";
            advisories.push(text.to_owned());
        }
        advisories
    }
}
