//! Neighbour discovery for IPv6 as a host speaks it (RFC 4861, sections 4.1 to 4.6): asks for routers and neighbours, reads
//! what they say, answers for addresses of its own.
//!
//! A message must be as its receivers demand (sections 6.1.2, 7.1.1 and 7.1.2): sent on this link, its checksum right, none
//! of its options empty. Redirects are not read: they would let any station choose where packets go.

use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;

use super::ethernet::{self, ETHERTYPE_IPV6, MacAddr};
use super::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};
use super::nd::{ALL_NODES, ALL_NODES_MAC};
use super::{be16, be32};

/// The group of all routers on a link, ff02::2.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// How many prefixes of one advertisement are read.
const PREFIXES: usize = 16;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;

/// The reports of a group by MLD go to all routers that speak version 2.
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// Returns the group in which the owner of an address is asked for (RFC 4291, section 2.7.1).
pub const fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | a as u16,
        (b as u16) << 8 | c as u16,
    )
}

/// Returns the hardware address of a group (RFC 2464, section 7).
pub const fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Returns the interface identifier that belongs to a hardware address (RFC 4291, appendix A).
pub const fn interface_identifier(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A prefix that a router advertises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prefix {
    /// The prefix.
    pub net: Ipv6Net,
    /// Whether its addresses are reached without a router.
    pub on_link: bool,
    /// Whether stations give themselves addresses of it.
    pub autonomous: bool,
    /// For how long it is valid; `None` for ever.
    pub valid: Option<Duration>,
    /// For how long its addresses are to be used; `None` for ever.
    pub preferred: Option<Duration>,
}

/// How much a router wants to be used (RFC 4191, section 2.1).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Preference {
    /// Rather than others.
    High,
    /// As others.
    #[default]
    Medium,
    /// If there is no other.
    Low,
}

/// What a router says of itself and of its link.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouterAdvertisement {
    /// The router's link-local address.
    pub router: Ipv6Addr,
    /// For how long it is a default router; zero if it is none.
    pub lifetime: Duration,
    /// How much it wants to be one.
    pub preference: Preference,
    /// Whether addresses are given by DHCPv6.
    pub managed: bool,
    /// The largest packet of the link, where it says so.
    pub mtu: Option<u32>,
    /// The link's prefixes.
    pub prefixes: Vec<Prefix>,
}

/// Somebody asks for the owner of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NeighbourSolicitation {
    /// Who asks; unspecified where it wants to have the address itself.
    pub src: Ipv6Addr,
    /// The address.
    pub target: Ipv6Addr,
}

/// Somebody says where an address is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NeighbourAdvertisement {
    /// The address.
    pub target: Ipv6Addr,
    /// Its hardware address, where it is told.
    pub mac: Option<MacAddr>,
    /// Whether this is an answer.
    pub solicited: bool,
}

/// What a host hears.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard {
    /// A router advertises itself.
    Router(RouterAdvertisement),
    /// Somebody asks.
    Solicitation(NeighbourSolicitation),
    /// Somebody answers, or tells unasked.
    Advertisement(NeighbourAdvertisement),
}

impl Heard {
    /// Reads a whole packet; `None` for any other, and for what is not as it must be.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let packet = Ipv6::parse(packet)?;
        let message = packet.payload;
        if packet.next_header != NEXT_HEADER_ICMPV6 || packet.hop_limit != 255 {
            return None;
        }
        let (kind, code) = (*message.first()?, *message.get(1)?);
        let len = u16::try_from(message.len()).ok()?;
        let sum = ipv6::pseudo_header(packet.src, packet.dst, NEXT_HEADER_ICMPV6, len);
        if code != 0 || sum.over(message).finish() != 0 {
            return None;
        }
        match kind {
            ROUTER_ADVERTISEMENT => router(packet.src, message).map(Self::Router),
            NEIGHBOUR_SOLICITATION => {
                let target = target(message)?;
                options(message.get(24..)?, |_, _| Some(()))?;
                let probe = packet.src.is_unspecified();
                let group = packet.dst == solicited_node(target);
                (!packet.src.is_multicast() && (!probe || group)).then_some(Self::Solicitation(
                    NeighbourSolicitation {
                        src: packet.src,
                        target,
                    },
                ))
            }
            NEIGHBOUR_ADVERTISEMENT => {
                let target = target(message)?;
                let solicited = message.get(4)? & 0x40 != 0;
                let mut mac = None;
                options(message.get(24..)?, |code, value| {
                    if code == OPTION_TARGET {
                        mac = MacAddr::from_slice(value).filter(|mac| mac.is_station());
                    }
                    Some(())
                })?;
                (!(solicited && packet.dst.is_multicast())).then_some(Self::Advertisement(
                    NeighbourAdvertisement {
                        target,
                        mac,
                        solicited,
                    },
                ))
            }
            _ => None,
        }
    }
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at.checked_add(16)?)?.try_into().ok()?;
    Some(octets.into())
}

fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let station = |ip: &Ipv6Addr| !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback();
    address(message, 8).filter(station)
}

/// Hands each option to `read`: its type, and what follows its length.
fn options(mut bytes: &[u8], mut read: impl FnMut(u8, &[u8]) -> Option<()>) -> Option<()> {
    while let Some((&code, _)) = bytes.split_first() {
        let len = usize::from(*bytes.get(1)?) * 8;
        let option = bytes.get(2..len)?;
        read(code, option)?;
        bytes = bytes.get(len..)?;
    }
    Some(())
}

/// Reads a number of seconds, all ones meaning for ever.
fn seconds(seconds: u32) -> Option<Duration> {
    (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()))
}

fn router(src: Ipv6Addr, message: &[u8]) -> Option<RouterAdvertisement> {
    if !src.is_unicast_link_local() {
        return None;
    }
    let flags = *message.get(5)?;
    let (mut mtu, mut prefixes) = (None, Vec::new());
    options(message.get(16..)?, |code, value| {
        match code {
            OPTION_MTU => mtu = be32(value, 2),
            OPTION_PREFIX if prefixes.len() < PREFIXES => prefixes.extend(prefix(value)),
            _ => {}
        }
        Some(())
    })?;
    Some(RouterAdvertisement {
        router: src,
        lifetime: Duration::from_secs(be16(message, 6)?.into()),
        preference: match flags >> 3 & 3 {
            1 => Preference::High,
            3 => Preference::Low,
            _ => Preference::Medium,
        },
        managed: flags & 0x80 != 0,
        mtu,
        prefixes,
    })
}

fn prefix(value: &[u8]) -> Option<Prefix> {
    let net = Ipv6Net::new(address(value, 14)?, *value.first()?).ok()?;
    let prefix = Prefix {
        net: net.trunc(),
        on_link: value.get(1)? & 0x80 != 0,
        autonomous: value.get(1)? & 0x40 != 0,
        valid: seconds(be32(value, 2)?),
        preferred: seconds(be32(value, 6)?),
    };
    let ip = prefix.net.network();
    let forever = Duration::MAX;
    let in_order = prefix.preferred.unwrap_or(forever) <= prefix.valid.unwrap_or(forever);
    (in_order && !ip.is_multicast() && !ip.is_unicast_link_local()).then_some(prefix)
}

/// Builds a frame of ICMPv6 whose checksum is still to be put in.
fn emit(to: (MacAddr, Ipv6Addr), from: (MacAddr, Ipv6Addr), message: &mut [u8]) -> Vec<u8> {
    // All messages here are short.
    let len = u16::try_from(message.len()).unwrap_or_default();
    let sum = ipv6::pseudo_header(from.1, to.1, NEXT_HEADER_ICMPV6, len)
        .over(message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = Ipv6 {
        src: from.1,
        dst: to.1,
        next_header: NEXT_HEADER_ICMPV6,
        hop_limit: 255,
        payload: message,
    };
    let packet = packet.emit().unwrap_or_default();
    ethernet::emit(to.0, from.0, ETHERTYPE_IPV6, &packet)
}

fn link_layer_address(code: u8, mac: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [code, 1, a, b, c, d, e, f]
}

/// Builds the frame that asks for routers, from the station at `mac` whose link-local address is `src`.
pub fn ask_routers(mac: MacAddr, src: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    if !src.is_unspecified() {
        message.extend(link_layer_address(OPTION_SOURCE, mac));
    }
    let to = (group_mac(ALL_ROUTERS), ALL_ROUTERS);
    emit(to, (mac, src), &mut message)
}

/// Builds the frame that asks where `target` is: everybody, or the station that is thought to have it.
pub fn ask_neighbour(
    mac: MacAddr,
    src: Ipv6Addr,
    target: Ipv6Addr,
    known: Option<MacAddr>,
) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !src.is_unspecified() {
        message.extend(link_layer_address(OPTION_SOURCE, mac));
    }
    let group = solicited_node(target);
    let to = known.map_or_else(|| (group_mac(group), group), |known| (known, target));
    emit(to, (mac, src), &mut message)
}

/// Builds the frame that asks whether somebody has `target`, from a station that wants to have it (RFC 4862, section 5.4.2).
pub fn probe(mac: MacAddr, target: Ipv6Addr) -> Vec<u8> {
    ask_neighbour(mac, Ipv6Addr::UNSPECIFIED, target, None)
}

/// Builds the answer to a solicitation that came from `asker`: `ip` is at `mac`. The station is no router.
pub fn answer(mac: MacAddr, ip: Ipv6Addr, asker: MacAddr, src: Ipv6Addr) -> Vec<u8> {
    let probed = src.is_unspecified();
    let flags = if probed { 0x20 } else { 0x60 };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(ip.octets());
    message.extend(link_layer_address(OPTION_TARGET, mac));
    let to = if probed {
        (ALL_NODES_MAC, ALL_NODES)
    } else {
        (asker, src)
    };
    emit(to, (mac, ip), &mut message)
}

/// Builds the report by which switches that snoop learn that a group is wanted: MLD version 2 (RFC 9777, section 5.2),
/// from a station that may have no address yet.
pub fn join(mac: MacAddr, src: Ipv6Addr, group: Ipv6Addr) -> Vec<u8> {
    // A hop-by-hop header with a router alert (RFC 2711) stands before the message.
    let mut message = vec![143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0];
    message.extend(group.octets());
    let sum = ipv6::pseudo_header(src, MLD_ROUTERS, NEXT_HEADER_ICMPV6, 28)
        .over(&message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut payload = vec![NEXT_HEADER_ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    payload.extend(message);
    let packet = Ipv6 {
        src,
        dst: MLD_ROUTERS,
        next_header: 0,
        hop_limit: 1,
        payload: &payload,
    };
    let packet = packet.emit().unwrap_or_default();
    ethernet::emit(group_mac(MLD_ROUTERS), mac, ETHERTYPE_IPV6, &packet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::igmp::Interest;
    use super::super::mld::Mld;
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn read(frame: &[u8]) -> Option<Heard> {
        Heard::parse(&frame[14..])
    }

    #[test]
    fn groups_and_identifiers_are_those_of_the_rfcs() {
        let group = solicited_node(ip("2001:db8::1:2345:6789"));
        assert_eq!(group, ip("ff02::1:ff45:6789"));
        assert_eq!(
            group_mac(group),
            MacAddr([0x33, 0x33, 0xff, 0x45, 0x67, 0x89])
        );
        let identifier = interface_identifier(MacAddr([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]));
        assert_eq!(
            identifier, 0x3656_78ff_fe9a_bcde,
            "the example of the appendix"
        );
    }

    #[test]
    fn questions_and_answers_read_back() {
        let (src, target) = (ip("fe80::9"), ip("2001:db8::1"));
        let frame = ask_neighbour(MAC, src, target, None);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0, 1]);
        let asked = NeighbourSolicitation { src, target };
        assert_eq!(read(&frame), Some(Heard::Solicitation(asked)));
        let frame = ask_neighbour(MAC, src, target, Some(OTHER));
        assert_eq!(frame[..6], OTHER.0);
        assert_eq!(read(&frame), Some(Heard::Solicitation(asked)));
        let probed = NeighbourSolicitation {
            src: Ipv6Addr::UNSPECIFIED,
            target,
        };
        assert_eq!(read(&probe(MAC, target)), Some(Heard::Solicitation(probed)));

        for (asker, solicited) in [(src, true), (Ipv6Addr::UNSPECIFIED, false)] {
            let advertisement = NeighbourAdvertisement {
                target,
                mac: Some(MAC),
                solicited,
            };
            assert_eq!(
                read(&answer(MAC, target, OTHER, asker)),
                Some(Heard::Advertisement(advertisement))
            );
        }
    }

    #[test]
    fn a_message_from_another_link_or_with_a_wrong_sum_is_not_read() {
        let frame = ask_neighbour(MAC, ip("fe80::9"), ip("2001:db8::1"), None);
        for (at, value) in [(14 + 7, 64), (14 + 41, 1), (14 + 60, 0xee), (14 + 65, 0)] {
            let mut bad = frame.clone();
            bad[at] = value;
            assert_eq!(read(&bad), None, "byte {at}");
        }
    }

    fn advertisement(lifetime: u16, flags: u8, options: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, flags];
        message.extend(lifetime.to_be_bytes());
        message.extend([0; 8]);
        message.extend(options.concat());
        emit(
            (ALL_NODES_MAC, ALL_NODES),
            (OTHER, ip("fe80::1")),
            &mut message,
        )
    }

    #[test]
    fn a_router_says_what_the_link_is_like() {
        let prefix = [
            &[3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0xff, 0xff, 0xff, 0xff][..],
            &[0; 4],
            &ip("2001:db8::").octets(),
        ]
        .concat();
        let mtu = [5, 1, 0, 0, 0, 0, 5, 0xdc];
        let frame = advertisement(1800, 0x88, &[&prefix, &mtu, &[200, 1, 0, 0, 0, 0, 0, 0]]);
        let Some(Heard::Router(heard)) = read(&frame) else {
            panic!("not read")
        };
        assert_eq!(heard.router, ip("fe80::1"));
        assert_eq!(heard.lifetime, Duration::from_secs(1800));
        assert_eq!(heard.preference, Preference::High);
        assert!(heard.managed);
        assert_eq!(heard.mtu, Some(1500));
        assert_eq!(
            heard.prefixes,
            [],
            "what is preferred longer than it is valid is no prefix"
        );
        let mut good = prefix;
        good[4..8].fill(0xff);
        let frame = advertisement(0, 0, &[&good]);
        let Some(Heard::Router(heard)) = read(&frame) else {
            panic!("not read")
        };
        assert_eq!(heard.lifetime, Duration::ZERO);
        let expected = Prefix {
            net: "2001:db8::/64".parse().unwrap(),
            on_link: true,
            autonomous: true,
            valid: None,
            preferred: None,
        };
        assert_eq!(heard.prefixes, [expected]);
        let many: Vec<&[u8]> = vec![&good; 40];
        let Some(Heard::Router(heard)) = read(&advertisement(0, 0, &many)) else {
            panic!("not read")
        };
        assert_eq!(heard.prefixes.len(), PREFIXES);
        assert_eq!(
            read(&advertisement(9, 0, &[&[3, 0, 0, 0, 0, 0, 0, 0]])),
            None
        );
    }

    #[test]
    fn routers_are_asked_by_a_station_that_says_where_it_is() {
        let frame = ask_routers(MAC, ip("fe80::9"));
        assert_eq!(
            frame[..14],
            [0x33, 0x33, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x86, 0xdd]
        );
        let packet = Ipv6::parse(&frame[14..]).unwrap();
        assert_eq!((packet.dst, packet.hop_limit), (ALL_ROUTERS, 255));
        assert_eq!(packet.payload[0], 133);
        assert_eq!(packet.payload[8..], [1, 1, 2, 0, 0, 0, 0, 9]);
        assert_eq!(
            Ipv6::parse(&ask_routers(MAC, Ipv6Addr::UNSPECIFIED)[14..])
                .unwrap()
                .payload
                .len(),
            8
        );
    }

    #[test]
    fn a_report_is_what_a_snooping_switch_reads() {
        let group = ip("ff02::1:ff00:9");
        for src in [Ipv6Addr::UNSPECIFIED, ip("fe80::9")] {
            let frame = join(MAC, src, group);
            let Some(Mld::Report(reports)) = Mld::parse(&frame[14..]) else {
                panic!("not read")
            };
            assert_eq!(reports.collect::<Vec<_>>(), [(group, Interest::Wanted)]);
        }
    }

    proptest! {
        #[test]
        fn any_packet_says_something_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 133..138u8) {
            let _ = Heard::parse(&bytes);
            let mut message = vec![kind, 0, 0, 0];
            message.extend(bytes);
            let frame = emit((ALL_NODES_MAC, ALL_NODES), (OTHER, ip("fe80::1")), &mut message);
            let _ = read(&frame);
        }
    }
}
