//! Who may begin a flow: guests towards whatever is not closed to them, the outside where a forward, an expectation or the filter
//! of a mapping lets it in (RFC 4787, section 5; RFC 5382, sections 4 and 5; RFC 5508, section 3).
//!
//! The checks come first, the limits next, the port last; what was taken is given back where a later step fails.

use crate::net::drops::DropReason;
use crate::net::napt::key::Address;
use crate::net::napt::packet::Packet;
use crate::net::napt::rewrite::Delta;
use crate::net::napt::shared::Shared;
use crate::net::napt::table::{Cold, Flow, Marks};
use crate::net::napt::tcp_state::{ACK, RST, SYN, State};
use crate::net::napt::translator::{Arrival, Outcome, Translator};
use crate::net::napt::{DHCP_CLIENT, DHCP6_CLIENT, Side};
use crate::net::nat::{Filtering, Protocol};
use crate::wire::ethernet::MacAddr;

/// The port of FTP's control connection.
const FTP: u16 = 21;

/// A flow that is to begin.
struct Opening<A> {
    guest: (A, u16),
    remote: (A, u16),
    port: u16,
    mac: MacAddr,
    next_hop: MacAddr,
    marks: Marks,
    mapping: Option<u32>,
    target: Option<(u32, usize)>,
}

impl<A: Address> Translator<A> {
    /// Opens a flow for a packet that belongs to none.
    #[cold]
    #[inline(never)]
    pub(super) fn begin(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Result<u32, Outcome> {
        let drop = |reason| Err(Outcome::Dropped(reason));
        let ports = packet.src_port != 0 && packet.dst_port != 0;
        if packet.protocol != Protocol::Icmp && !ports {
            return drop(DropReason::BadPacket);
        }
        if packet.ttl <= 1 && packet.dst != self.own {
            return Err(Outcome::Expired);
        }
        match arrival.side {
            Side::Inside => self.begin_inside(arrival, packet, shared),
            Side::Outside => self.begin_outside(arrival, packet, shared),
        }
    }

    fn begin_inside(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Result<u32, Outcome> {
        let drop = |reason| Err(Outcome::Dropped(reason));
        let (src, dst) = (packet.src.into(), packet.dst.into());
        if !shared.is_guest(src) || !packet.src.is_routable() || !arrival.mac.is_station() {
            return drop(DropReason::ForgedSource);
        }
        if !packet.dst.is_routable() || shared.is_closed(dst) && packet.dst != self.own {
            return drop(DropReason::Unreachable);
        }
        if self.own == A::UNSPECIFIED {
            return Err(Outcome::NoRoute);
        }
        let begins = match packet.protocol {
            Protocol::Udp => true,
            // A connection that was there before the translator goes on, if its port is free.
            Protocol::Tcp => packet.flags & RST == 0 && packet.flags & (SYN | ACK) != SYN | ACK,
            // The one who asks has the identifier for a port.
            Protocol::Icmp => packet.dst_port == 0 && is_request(packet),
        };
        if !begins {
            return drop(DropReason::NatFiltered);
        }
        let hairpin = packet.dst == self.own;
        let mut marks = Marks::CONFIRMED;
        let mut next_hop = MacAddr::ZERO;
        if hairpin {
            if packet.protocol == Protocol::Icmp {
                return Err(Outcome::Echo);
            }
            let (protocol, port) = (packet.protocol, packet.dst_port);
            let mapped = self.mappings.by_port(protocol, port).is_some();
            if !mapped && shared.forwards.find(protocol, dst, port).is_none() {
                return drop(DropReason::NatFiltered);
            }
            marks = marks.with(Marks::HAIRPIN);
        } else {
            next_hop = shared
                .outside
                .mac_for(dst)
                .ok_or(Outcome::AskOutside(dst))?;
        }
        if shared.spec.ftp && packet.protocol == Protocol::Tcp && packet.dst_port == FTP {
            marks = marks.with(Marks::FTP);
        }
        if !shared.quota.take(arrival.mac) {
            return drop(DropReason::NatLimit);
        }
        let guest = (packet.src, packet.src_port);
        let random = &mut shared.random;
        let acquired = self
            .mappings
            .acquire(guest, arrival.mac, packet.protocol, random);
        let Some((mapping, port)) = acquired else {
            shared.quota.give(arrival.mac);
            shared.quota.note_refused();
            shared.portless += 1;
            return drop(DropReason::NatLimit);
        };
        let opening = Opening {
            guest,
            remote: (packet.dst, packet.dst_port),
            port,
            mac: arrival.mac,
            next_hop,
            marks,
            mapping: Some(mapping),
            target: None,
        };
        let number = self.open(opening, packet.protocol, shared)?;
        if arrival.inside.mac_of(src) != Some(arrival.mac) {
            shared.note_guest(src, arrival.mac);
        }
        Ok(number)
    }

    fn begin_outside(
        &mut self,
        arrival: &Arrival<'_>,
        packet: &Packet<A>,
        shared: &mut Shared,
    ) -> Result<u32, Outcome> {
        let drop = |reason| Err(Outcome::Dropped(reason));
        let (client, own) = (packet.src.into(), packet.dst.into());
        let ours = packet.src == self.own;
        if self.own == A::UNSPECIFIED {
            return drop(DropReason::Unreachable);
        }
        if ours != arrival.turned
            || !ours && (!packet.src.is_routable() || shared.is_closed(client))
        {
            return drop(DropReason::Unreachable);
        }
        let protocol = packet.protocol;
        if protocol == Protocol::Icmp {
            if is_request(packet) {
                return Err(Outcome::Echo);
            }
            return drop(DropReason::NatFiltered);
        }
        if protocol == Protocol::Tcp && packet.flags & (SYN | ACK | RST) != SYN {
            return drop(DropReason::NatFiltered);
        }
        let port = packet.dst_port;
        let own_client = if A::V6 { DHCP6_CLIENT } else { DHCP_CLIENT };
        if protocol == Protocol::Udp && port == own_client {
            return Err(Outcome::Stray);
        }
        let marks = Marks::FORWARD;
        let (guest, marks, mapping, target) =
            if let Some(forward) = shared.forwards.find(protocol, own, port) {
                let picked = shared.forwards.pick(forward, port, client, arrival.inside);
                let Some((place, target)) = picked else {
                    return drop(DropReason::Unreachable);
                };
                let Some(ip) = A::of(target.ip()).filter(|ip| shared.is_guest((*ip).into())) else {
                    return drop(DropReason::Unreachable);
                };
                let marks = marks.with(Marks::CONFIRMED);
                ((ip, target.port()), marks, None, Some((forward, place)))
            } else {
                let Some(number) = self.mappings.by_port(protocol, port) else {
                    return drop(DropReason::NatFiltered);
                };
                let expected = protocol == Protocol::Tcp
                    && self.control.is_expected(port, packet.src, shared.second());
                let passes = match shared.spec.filtering {
                    Filtering::EndpointIndependent => true,
                    Filtering::Address => self.mappings.has_contact(number, packet.src),
                    Filtering::AddressAndPort => false,
                };
                let mapping = self.mappings.mapping(number);
                let Some(mapping) = mapping.filter(|_| passes || expected) else {
                    return drop(DropReason::NatFiltered);
                };
                let guest = (mapping.guest, mapping.guest_port);
                (guest, marks, Some(number), None)
            };
        let ip = guest.0.into();
        let mac = arrival.inside.mac_of(ip).ok_or(Outcome::AskInside(ip))?;
        // The answer may come before the flow is looked at again.
        let next_hop = if ours {
            MacAddr::ZERO
        } else {
            let known = shared.outside.mac_for(client);
            known.ok_or(Outcome::AskOutside(client))?
        };
        if !shared.quota.take(mac) {
            return drop(DropReason::NatLimit);
        }
        if let Some(mapping) = mapping {
            self.mappings.hold(mapping);
        }
        let opening = Opening {
            guest,
            remote: (packet.src, packet.src_port),
            port,
            mac,
            next_hop,
            marks: if ours {
                marks.with(Marks::HAIRPIN)
            } else {
                marks
            },
            mapping,
            target,
        };
        self.open(opening, protocol, shared)
    }

    /// Adds a flow for which there is a share and a mapping.
    fn open(
        &mut self,
        opening: Opening<A>,
        protocol: Protocol,
        shared: &mut Shared,
    ) -> Result<u32, Outcome> {
        let own = (self.own, opening.port);
        let flow = Flow {
            guest: opening.guest.0,
            remote: opening.remote.0,
            guest_port: opening.guest.1,
            remote_port: opening.remote.1,
            port: opening.port,
            protocol,
            state: State::default(),
            mac: opening.mac,
            next_hop: opening.next_hop,
            marks: opening.marks,
            delta: Delta::new(opening.guest, own, protocol),
            seen: shared.second(),
            sent: 0,
            received: 0,
        };
        let cold = Cold {
            created: shared.second(),
            mapping: opening.mapping,
            target: opening.target,
        };
        let end = shared.end(&flow);
        let event = self.event(&flow, true);
        let Some(number) = self.table.insert(flow, cold) else {
            // Another flow has the same ends: a guest that talks from a port that is forwarded to it.
            shared.quota.give(opening.mac);
            shared.quota.note_refused();
            if let Some(mapping) = opening.mapping {
                self.mappings.release(mapping);
            }
            return Err(Outcome::Dropped(DropReason::NatLimit));
        };
        self.wheel.arm(number, end);
        if let (Some(mapping), Filtering::Address) = (opening.mapping, shared.spec.filtering) {
            self.mappings.note_contact(mapping, opening.remote.0);
        }
        if let Some((forward, place)) = opening.target {
            shared.forwards.note(forward, place, true);
        }
        shared.flows[protocol as usize] += 1;
        shared.created += 1;
        shared.tell(event);
        Ok(number)
    }
}

/// Whether an echo is a request: the one who asks has the identifier for a port, and 0 may be one.
const fn is_request<A>(packet: &Packet<A>) -> bool {
    packet.flags != 0
}
