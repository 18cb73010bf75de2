//! How far a group frame goes, judged by its head alone (RFC 4541, sections 2.1 and 3).

use crate::net::frame::{Head, Parsed};
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::igmp::{self, PROTOCOL_IGMP};
use crate::wire::mld::{self, Glance};

/// Protocol number of PIM (RFC 7761).
const PROTOCOL_PIM: u8 = 103;
/// Version 2 and type 0, with which a PIM hello begins.
const PIM_HELLO: u8 = 0x20;
/// The last byte of the group of all PIM routers: 224.0.0.13, ff02::d.
const ALL_PIM_ROUTERS: u8 = 13;

/// How far a group frame goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// To everyone in the domain.
    Everyone,
    /// To the routers' ports, [`Groups::routers`](super::Groups::routers).
    Routers,
    /// To those who want the group, [`Groups::recipients`](super::Groups::recipients).
    Members,
}

/// Tells how far a group frame goes, judged by its head alone.
///
/// Reports and leaves go to routers. Queries, IGMP of other kinds (RFC 4541, section 2.1.1), groups of link-local
/// scope, and whatever is not a packet behind at most one tag go to everyone: nobody reports such groups, or not in
/// this domain. MLD that might hide behind headers it is never sent with goes to routers, or a guest could silence
/// others.
pub fn reach(head: &Head, parsed: &Parsed) -> Reach {
    let packet = packet(head, parsed);
    match parsed.ethertype {
        ETHERTYPE_IPV4 => match igmp_type(packet) {
            Some(igmp::V1_REPORT | igmp::V2_REPORT | igmp::LEAVE | igmp::V3_REPORT) => {
                Reach::Routers
            }
            Some(_) => Reach::Everyone,
            None if packet.get(16..19) == Some(&[224, 0, 0]) => Reach::Everyone,
            None => Reach::Members,
        },
        ETHERTYPE_IPV6 => match mld::glance(packet) {
            Glance::Icmp(mld::V1_REPORT | mld::DONE | mld::V2_REPORT) | Glance::Hidden => {
                Reach::Routers
            }
            Glance::Icmp(_) => Reach::Everyone,
            Glance::Other => match packet.get(24..26) {
                Some([0xff, scope]) if scope & 0x0f > 2 => Reach::Members,
                Some(_) | None => Reach::Everyone,
            },
        },
        _ => Reach::Everyone,
    }
}

/// Tells whether a group frame is for [`Groups::handle_frame`](super::Groups::handle_frame), judged by its head alone:
/// IGMP, MLD, or a PIM hello.
pub fn is_membership(head: &Head, parsed: &Parsed) -> bool {
    let packet = packet(head, parsed);
    match parsed.ethertype {
        ETHERTYPE_IPV4 => igmp_type(packet).is_some() || is_pim_hello_v4(packet),
        ETHERTYPE_IPV6 => {
            matches!(
                mld::glance(packet),
                Glance::Icmp(mld::QUERY | mld::V1_REPORT | mld::DONE | mld::V2_REPORT)
            ) || is_pim_hello_v6(packet)
        }
        _ => false,
    }
}

fn packet<'a>(head: &'a Head, parsed: &Parsed) -> &'a [u8] {
    head.bytes().get(parsed.payload_at()..).unwrap_or_default()
}

/// Returns the type of the IGMP message in a packet; 0, which is none, where it is cut off or in another fragment.
fn igmp_type(packet: &[u8]) -> Option<u8> {
    let header = packet.first_chunk::<20>()?;
    if header[0] >> 4 != 4 || header[9] != PROTOCOL_IGMP {
        return None;
    }
    let at = usize::from(header[0] & 0x0f) * 4;
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    Some(
        packet
            .get(at)
            .filter(|_| !later)
            .copied()
            .unwrap_or_default(),
    )
}

pub(super) fn is_pim_hello_v4(packet: &[u8]) -> bool {
    let at = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
    packet.get(9) == Some(&PROTOCOL_PIM)
        && packet.get(16..20) == Some(&[224, 0, 0, ALL_PIM_ROUTERS])
        && at >= 20
        && packet.get(at) == Some(&PIM_HELLO)
}

pub(super) fn is_pim_hello_v6(packet: &[u8]) -> bool {
    packet.get(6) == Some(&PROTOCOL_PIM)
        && packet.get(24..26) == Some(&[0xff, 0x02])
        && packet.get(39) == Some(&ALL_PIM_ROUTERS)
        && packet.get(40) == Some(&PIM_HELLO)
}
