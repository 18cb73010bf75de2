//! ICMP errors: those of others, translated with what they quote (RFC 5508, sections 4 and 7), and the translator's own.
//!
//! An error quotes the packet it is about, which was translated before it got where it was refused. Its flow is found by
//! the quoted ends the other way round, and the quote becomes what its sender had sent, so that the sender knows it. An error that
//! is about no flow is dropped, and so are redirects. No error changes anything here (REQ-10).

use crate::net::drops::DropReason;
use crate::net::napt::fragments::seal;
use crate::net::napt::key::{Address, Ends};
use crate::net::napt::packet::{Extent, Ip, checksum_at};
use crate::net::napt::rewrite::{add, update};
use crate::net::napt::shared::Shared;
use crate::net::napt::table::Marks;
use crate::net::napt::translator::{Arrival, Outcome, Translator};
use crate::net::napt::{Side, Verdict};
use crate::net::nat::Protocol;
use crate::wire::be16;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_LEN, MacAddr, emit};
use crate::wire::ipv4::{self, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::wire::ipv6::{self, Ipv6};

/// Length of an ICMP header.
const ICMP_LEN: usize = 8;

/// Whether a type of ICMP is an error that is passed on.
pub(super) const fn is_error<A: Address>(kind: u8) -> bool {
    if A::V6 {
        kind >= 1 && kind <= 4
    } else {
        matches!(kind, 3 | 11 | 12)
    }
}

/// The packet that an error quotes, without knowing whether all of it is there.
struct Quote<A> {
    ip: Ip<A>,
    /// Where its Ethernet header would begin in the frame.
    start: usize,
    protocol: Protocol,
    src_port: u16,
    dst_port: u16,
}

impl<A: Address> Quote<A> {
    fn read(frame: &[u8], outer: &Ip<A>) -> Option<Self> {
        let start = outer.at + ICMP_LEN - HEADER_LEN;
        let inner = frame.get(start..outer.end)?;
        let ip = Ip::<A>::read(inner, Extent::Quoted)?;
        if ip.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return None;
        }
        let transport = inner.get(ip.at..)?;
        let (protocol, ports) = match ip.protocol {
            PROTOCOL_TCP => (Protocol::Tcp, (be16(transport, 0)?, be16(transport, 2)?)),
            PROTOCOL_UDP => (Protocol::Udp, (be16(transport, 0)?, be16(transport, 2)?)),
            other if other == A::ICMP => {
                let (kind, id) = (*transport.first()?, be16(transport, 4)?);
                let ports = if kind == A::ECHO_REQUEST {
                    (id, 0)
                } else if kind == A::ECHO_REPLY {
                    (0, id)
                } else {
                    return None;
                };
                (Protocol::Icmp, ports)
            }
            _ => return None,
        };
        Some(Self {
            ip,
            start,
            protocol,
            src_port: ports.0,
            dst_port: ports.1,
        })
    }

    /// What tells its flow apart on the side where the packet was refused.
    fn ends(&self, side: Side) -> Ends<A> {
        let near = match side {
            Side::Inside => self.ip.dst,
            Side::Outside => A::UNSPECIFIED,
        };
        let (remote, near_port, remote_port) = match side {
            Side::Inside => (self.ip.src, self.dst_port, self.src_port),
            Side::Outside => (self.ip.dst, self.src_port, self.dst_port),
        };
        Ends {
            near,
            remote,
            near_port,
            remote_port,
            protocol: self.protocol,
        }
    }
}

impl<A: Address> Translator<A> {
    /// Passes an ICMP error on, whose frame is whole.
    pub(super) fn pass_error(
        &mut self,
        arrival: &Arrival<'_>,
        frame: &mut [u8],
        outer: &Ip<A>,
        partial: bool,
        shared: &mut Shared,
    ) -> Outcome {
        let sound = partial
            || arrival.turned
            || frame
                .get(outer.at..outer.end)
                .is_some_and(|message| icmp_sum(outer.src, outer.dst, message).finish() == 0);
        if !sound {
            return Outcome::Dropped(DropReason::BadPacket);
        }
        if outer.ttl <= 1 && !arrival.turned {
            return Outcome::Dropped(DropReason::HopLimit);
        }
        let filtered = Outcome::Dropped(DropReason::NatFiltered);
        let (side, own) = (arrival.side, self.own);
        let Some(quote) = Quote::read(frame, outer) else {
            return filtered;
        };
        // An error goes to whoever sent the packet. From outside that was the translator; inside it may be anybody who refuses.
        let plausible = outer.dst == quote.ip.src
            && match side {
                Side::Inside => shared.is_guest(outer.src.into()),
                Side::Outside => outer.dst == own && outer.src.is_routable(),
            };
        let Some(flow) = self.find(side, &quote.ends(side)).filter(|_| plausible) else {
            return filtered;
        };
        let hairpin = side == Side::Inside && flow.marks.has(Marks::HAIRPIN);
        let delta = flow.delta.from(side);
        let (address, port, mac) = match side {
            Side::Inside => (own, flow.port, flow.next_hop),
            Side::Outside => (flow.guest, flow.guest_port, flow.mac),
        };
        if mac == MacAddr::ZERO && !hairpin {
            return filtered;
        }
        let (inner_at, transport) = (quote.start + HEADER_LEN, quote.start + quote.ip.at);
        // What comes back has the quoted source for its destination, and what is quoted the other way round.
        let (outer_at, quoted_at, port_at) = match side {
            Side::Inside => (A::SRC_AT, A::DST_AT, transport + 2),
            Side::Outside => (A::DST_AT, A::SRC_AT, transport),
        };
        let port_at = match quote.protocol {
            Protocol::Tcp | Protocol::Udp => port_at,
            Protocol::Icmp => transport + 4,
        };
        frame[..6].copy_from_slice(&mac.0);
        frame[6..12].copy_from_slice(&shared.macs[side.other() as usize].0);
        address.write(&mut frame[HEADER_LEN + outer_at..]);
        address.write(&mut frame[inner_at + quoted_at..]);
        if !A::V6 {
            update(frame, inner_at + 10, delta.addresses());
        }
        frame[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        // The checksum of the quoted transport may be cut off.
        let sum_at = transport + checksum_at(quote.protocol);
        let whole_sum = sum_at + 2 <= outer.end;
        let unsummed =
            quote.protocol == Protocol::Udp && whole_sum && be16(frame, sum_at) == Some(0);
        if whole_sum && !unsummed {
            update(frame, sum_at, delta.transport());
        }
        if !arrival.turned {
            frame[HEADER_LEN + A::TTL_AT] -= 1;
        }
        let (src, dst) = match side {
            Side::Inside => (address, outer.dst),
            Side::Outside => (outer.src, address),
        };
        let Some(()) = finish::<A>(frame, outer, src, dst) else {
            return filtered;
        };
        if hairpin {
            let turned = Arrival {
                side: Side::Outside,
                turned: true,
                ..*arrival
            };
            let outer = Ip { src, dst, ..*outer };
            return self.pass_error(&turned, frame, &outer, false, shared);
        }
        Outcome::Passed(if arrival.turned {
            Verdict::Back
        } else {
            Verdict::Forward
        })
    }
}

/// Computes the checksums of an ICMP message and of its header.
fn finish<A: Address>(frame: &mut [u8], ip: &Ip<A>, src: A, dst: A) -> Option<()> {
    let message = frame.get_mut(ip.at..ip.end)?;
    message.get_mut(2..4)?.fill(0);
    let sum = icmp_sum(src, dst, message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    if !A::V6 {
        seal(frame.get_mut(HEADER_LEN..)?)?;
    }
    Some(())
}

/// Sums over an ICMP message, with the pseudo-header if the family has one.
pub(super) fn icmp_sum<A: Address>(src: A, dst: A, message: &[u8]) -> Sum {
    let sum = Sum::default().over(message);
    if !A::V6 {
        return sum;
    }
    let addresses = add(src.sum().fold(), dst.sum().fold());
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    sum.add_word(addresses)
        .add_word(len)
        .add_word(u16::from(A::ICMP))
}

/// What the translator complains of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Problem {
    /// A packet has passed as many routers as it may.
    Expired,
    /// A packet is larger than this.
    TooBig(usize),
    /// Nothing leads to where a packet goes.
    NoRoute,
    /// The station that a packet goes to, or its router, does not answer.
    NoHost,
}

/// Builds the frame that complains of a packet to its sender; `None` where nobody is to be told (RFC 1122, section 3.2.2).
pub(super) fn complain<A: Address>(
    problem: Problem,
    own: A,
    mac: MacAddr,
    frame: &[u8],
    ip: &Ip<A>,
) -> Option<Vec<u8>> {
    let first = ip.fragment.is_none_or(|fragment| fragment.offset == 0);
    let echo = |kind: u8| kind == A::ECHO_REQUEST || kind == A::ECHO_REPLY;
    let about_icmp = ip.protocol == A::ICMP && !frame.get(ip.at).copied().is_some_and(echo);
    let sender = MacAddr::from_slice(frame.get(6..)?)?;
    if !first
        || about_icmp
        || own == A::UNSPECIFIED
        || !ip.src.is_routable()
        || !sender.is_station()
    {
        return None;
    }
    let (kind, code, rest) = match (problem, A::V6) {
        (Problem::Expired, false) => (11, 0, 0),
        (Problem::Expired, true) => (3, 0, 0),
        (Problem::NoRoute, false) => (3, 0, 0),
        (Problem::NoRoute, true) => (1, 0, 0),
        (Problem::NoHost, false) => (3, 1, 0),
        (Problem::NoHost, true) => (1, 3, 0),
        (Problem::TooBig(mtu), false) => (3, 4, u32::try_from(mtu).ok()?),
        (Problem::TooBig(mtu), true) => (2, 0, u32::try_from(mtu).ok()?),
    };
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&rest.to_be_bytes());
    // As much as surely fits: 576 bytes in all (RFC 1812, section 4.3.2.3), or the smallest MTU (RFC 4443, section 2.4).
    let room = if A::V6 { 1280 } else { 576 } - A::HEADER_LEN - ICMP_LEN;
    // What follows the packet fills up the frame.
    let packet = frame.get(HEADER_LEN..frame.len().min(ip.end))?;
    message.extend_from_slice(&packet[..packet.len().min(room)]);
    packet_to(own, ip.src, mac, sender, message)
}

/// Builds the reply to an echo request for the translator's own address; `None` where the request is damaged.
pub(super) fn answer<A: Address>(
    mac: MacAddr,
    frame: &[u8],
    ip: &Ip<A>,
    partial: bool,
) -> Option<Vec<u8>> {
    let mut message = frame.get(ip.at..ip.end)?.to_vec();
    let sender = MacAddr::from_slice(frame.get(6..)?)?;
    let request = message.len() >= ICMP_LEN && message[..2] == [A::ECHO_REQUEST, 0];
    let sound = partial || icmp_sum(ip.src, ip.dst, &message).finish() == 0;
    if !request || !sound || ip.fragment.is_some() || !sender.is_station() {
        return None;
    }
    message[0] = A::ECHO_REPLY;
    packet_to(ip.dst, ip.src, mac, sender, message)
}

fn packet_to<A: Address>(
    src: A,
    dst: A,
    from: MacAddr,
    to: MacAddr,
    mut message: Vec<u8>,
) -> Option<Vec<u8>> {
    message[2..4].fill(0);
    let sum = icmp_sum(src, dst, &message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = match (src.into(), dst.into()) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            ipv4::emit(src, dst, A::ICMP, &message)?
        }
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => Ipv6 {
            src,
            dst,
            next_header: ipv6::NEXT_HEADER_ICMPV6,
            hop_limit: 64,
            payload: &message,
        }
        .emit()?,
        _ => return None,
    };
    Some(emit(to, from, A::ETHERTYPE, &packet))
}
