//! Multicast Listener Discovery, versions 1 and 2 (RFC 2710, RFC 9777 which replaces RFC 3810): who wants which IPv6
//! group.
//!
//! Read is only what concerns groups, written only that one is wanted. A message must be as its receivers demand: from a link-local address,
//! with hop limit 1, and behind a hop-by-hop header with a router alert (RFC 2711). Other extension headers between
//! them are refused.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::be16;
use super::checksum::Sum;
use super::ethernet::{self, ETHERTYPE_IPV6, MacAddr};
use super::igmp::{Interest, interest};
use super::ipv6::{self, Ipv6, NEXT_HEADER_ICMPV6};

/// Type of a query, of either version.
pub const QUERY: u8 = 130;
/// Type of a report of version 1.
pub const V1_REPORT: u8 = 131;
/// Type of a done, version 1's leave.
pub const DONE: u8 = 132;
/// Type of a report of version 2.
pub const V2_REPORT: u8 = 143;

/// The group of all nodes, to which general queries go.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const HEADER_LEN: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ICMPV6: u8 = 58;

/// The group of all routers that speak version 2, to which reports of that version go.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// A query.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Query {
    /// The group that is asked for; `None` in a general query.
    pub group: Option<Ipv6Addr>,
    /// How long hosts may take to answer.
    pub response: Duration,
    /// Whether every host has to answer: a general query to all nodes, from a link-local address.
    pub binding: bool,
}

/// An MLD message, read but not copied.
#[derive(Clone, Debug)]
pub enum Mld<'a> {
    /// A router asks.
    Query(Query),
    /// A host tells: a report of either version, or a done.
    Report(Reports<'a>),
}

impl<'a> Mld<'a> {
    /// Reads the message in a whole IPv6 packet. Its checksum is verified.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = packet.get(..HEADER_LEN)?;
        let payload = packet.get(HEADER_LEN..)?.get(..be16(header, 4)?.into())?;
        let (src, dst) = (address(header, 8)?, address(header, 24)?);
        // A host that has no address yet reports from none (RFC 3590).
        if header[0] >> 4 != 6
            || header[6] != HOP_BY_HOP
            || header[7] != 1
            || !(src.is_unicast_link_local() || src.is_unspecified())
        {
            return None;
        }
        let (options, message) = payload.split_at_checked(hop_by_hop_len(payload)?)?;
        if options[0] != ICMPV6 || !has_router_alert(options) || message.len() < 24 {
            return None;
        }
        let sum = Sum::default()
            .over(&header[8..])
            .add_word(u16::try_from(message.len()).ok()?)
            .add_word(ICMPV6.into())
            .over(message);
        if sum.finish() != 0 {
            return None;
        }
        let group = address(message, 8)?;
        let report = |interest| Some(Self::Report(Reports(Left::One(Some((group, interest))))));
        match message[0] {
            QUERY => {
                let general = group.is_unspecified();
                Some(Self::Query(Query {
                    group: (!general).then_some(group),
                    response: response(message)?,
                    binding: general && dst == ALL_NODES && !src.is_unspecified(),
                }))
            }
            V1_REPORT => report(Interest::Wanted),
            DONE => report(Interest::Gone),
            V2_REPORT => Some(Self::Report(Reports(Left::Records {
                count: be16(message, 6)?,
                bytes: message.get(8..)?,
            }))),
            _ => None,
        }
    }
}

/// What a message says of groups, one after the other.
///
/// Ends where a record is not all there.
#[derive(Clone, Debug)]
pub struct Reports<'a>(Left<'a>);

#[derive(Clone, Debug)]
enum Left<'a> {
    One(Option<(Ipv6Addr, Interest)>),
    Records { count: u16, bytes: &'a [u8] },
}

impl Iterator for Reports<'_> {
    type Item = (Ipv6Addr, Interest);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Left::One(one) => one.take(),
            Left::Records { count, bytes } => {
                while *count > 0 {
                    let sources = be16(bytes, 2)?;
                    let auxiliary = usize::from(*bytes.get(1)?) * 4;
                    let len = 20 + usize::from(sources) * 16 + auxiliary;
                    let (record, rest) = bytes.split_at_checked(len)?;
                    *count -= 1;
                    *bytes = rest;
                    if let Some(interest) = interest(record[0], sources) {
                        return Some((address(record, 4)?, interest));
                    }
                }
                None
            }
        }
    }
}

/// What the beginning of an IPv6 packet tells of MLD in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Glance {
    /// No receiver takes it for MLD: there is no router alert, or no ICMPv6.
    Other,
    /// ICMPv6 of this type behind a router alert: MLD, or a neighbour of it.
    Icmp(u8),
    /// A receiver might find MLD behind what is seen, or behind headers that MLD is never sent with.
    Hidden,
}

/// Looks at the beginning of an IPv6 packet, as far as it is there.
pub fn glance(prefix: &[u8]) -> Glance {
    let (Some(header), Some(payload)) = (prefix.get(..HEADER_LEN), prefix.get(HEADER_LEN..)) else {
        return Glance::Other;
    };
    if header[0] >> 4 != 6 || header[6] != HOP_BY_HOP {
        return Glance::Other;
    }
    let split = hop_by_hop_len(payload).and_then(|len| payload.split_at_checked(len));
    let Some((options, message)) = split else {
        return Glance::Hidden;
    };
    match options[0] {
        _ if !has_router_alert(options) => Glance::Other,
        ICMPV6 => message
            .first()
            .map_or(Glance::Hidden, |kind| Glance::Icmp(*kind)),
        // Routing, fragment, authentication, destination options, mobility, HIP, Shim6.
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Glance::Hidden,
        _ => Glance::Other,
    }
}

fn hop_by_hop_len(payload: &[u8]) -> Option<usize> {
    Some(usize::from(*payload.get(1)?) * 8 + 8)
}

/// Tells whether a hop-by-hop header has a router alert for MLD among its options.
fn has_router_alert(header: &[u8]) -> bool {
    let mut options = header.get(2..).unwrap_or_default();
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [5, 2, 0, 0, ..] => return true,
            [_, len, ..] => {
                options = options.get(usize::from(*len) + 2..).unwrap_or_default();
            }
            _ => return false,
        }
    }
}

/// Returns how long hosts may take to answer a query. The length tells the version (RFC 9777, section 8.1).
fn response(query: &[u8]) -> Option<Duration> {
    let code = u64::from(be16(query, 4)?);
    let millis = match (query.len(), code) {
        (28.., 0x8000..) => (code & 0x0fff | 0x1000) << ((code >> 12 & 7) + 3),
        (24 | 28.., _) => code,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at.checked_add(16)?)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets))
}

/// Builds the report by which switches that snoop learn that a group is wanted: MLD version 2 (RFC 9777, section 5.2),
/// from a station that may have no address yet.
pub fn join(mac: MacAddr, src: Ipv6Addr, group: Ipv6Addr) -> Vec<u8> {
    // A hop-by-hop header with a router alert (RFC 2711) stands before the message.
    let mut message = vec![143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0];
    message.extend(group.octets());
    let sum = ipv6::pseudo_header(src, ROUTERS, NEXT_HEADER_ICMPV6, 28)
        .over(&message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut payload = vec![NEXT_HEADER_ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    payload.extend(message);
    let packet = Ipv6 {
        src,
        dst: ROUTERS,
        next_header: 0,
        hop_limit: 1,
        payload: &payload,
    };
    let packet = packet.emit().unwrap_or_default();
    ethernet::emit(ipv6::group_mac(ROUTERS), mac, ETHERTYPE_IPV6, &packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x0102, 0x0304);
    const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
    const ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];

    fn packet(src: Ipv6Addr, dst: Ipv6Addr, options: &[u8], message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        message[2..4].fill(0);
        let sum = Sum::default()
            .over(&src.octets())
            .over(&dst.octets())
            .add_word(u16::try_from(message.len()).unwrap())
            .add_word(58)
            .over(&message)
            .finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let len = u16::try_from(options.len() + message.len()).unwrap();
        [
            &[0x60, 0, 0, 0][..],
            &len.to_be_bytes(),
            &[0, 1],
            &src.octets(),
            &dst.octets(),
            options,
            &message,
        ]
        .concat()
    }

    fn message(kind: u8, code: u16, group: Ipv6Addr, more: &[u8]) -> Vec<u8> {
        let [high, low] = code.to_be_bytes();
        [&[kind, 0, 0, 0, high, low, 0, 0][..], &group.octets(), more].concat()
    }

    fn query(packet: &[u8]) -> Option<Query> {
        match Mld::parse(packet)? {
            Mld::Query(query) => Some(query),
            Mld::Report(_) => None,
        }
    }

    fn reports(packet: &[u8]) -> Option<Vec<(Ipv6Addr, Interest)>> {
        match Mld::parse(packet)? {
            Mld::Query(_) => None,
            Mld::Report(reports) => Some(reports.collect()),
        }
    }

    #[test]
    fn a_query_of_either_version_says_how_long_an_answer_may_take() {
        let response = |code, more: &[u8]| {
            query(&packet(
                HOST,
                ALL_NODES,
                &ALERT,
                &message(QUERY, code, ANY, more),
            ))
            .map(|query| query.response.as_millis())
        };
        assert_eq!(response(10_000, &[]), Some(10_000), "version 1");
        assert_eq!(response(0xffff, &[]), Some(65_535));
        assert_eq!(response(10_000, &[2, 125, 0, 0]), Some(10_000), "version 2");
        assert_eq!(response(0x8000, &[2, 125, 0, 0]), Some(32_768));
        assert_eq!(response(0xffff, &[2, 125, 0, 0]), Some(8_387_584));
        assert_eq!(response(10_000, &[2]), None, "no version has this length");
    }

    #[test]
    fn only_a_general_query_that_hosts_must_answer_is_binding() {
        let binding = |src, dst, group| {
            query(&packet(src, dst, &ALERT, &message(QUERY, 1, group, &[])))
                .unwrap()
                .binding
        };
        assert!(binding(HOST, ALL_NODES, ANY));
        assert!(!binding(ANY, ALL_NODES, ANY));
        assert!(!binding(HOST, GROUP, ANY));
        assert!(!binding(HOST, GROUP, GROUP));
    }

    #[test]
    fn reports_of_both_versions_and_a_done_are_read() {
        for (kind, interest) in [(V1_REPORT, Interest::Wanted), (DONE, Interest::Gone)] {
            let packet = packet(HOST, GROUP, &ALERT, &message(kind, 0, GROUP, &[]));
            assert_eq!(reports(&packet), Some(vec![(GROUP, interest)]));
        }
        let record = |kind, aux, sources: u16, group: Ipv6Addr, rest: usize| {
            let [high, low] = sources.to_be_bytes();
            [
                &[kind, aux, high, low][..],
                &group.octets(),
                &vec![0xff; rest],
            ]
            .concat()
        };
        let mut whole = [
            vec![V2_REPORT, 0, 0, 0, 0, 0, 0, 3],
            record(4, 1, 1, GROUP, 20),
            record(6, 0, 1, GROUP, 16),
            record(3, 0, 0, ALL_NODES, 0),
        ]
        .concat();
        let dst = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
        let expected = vec![(GROUP, Interest::Wanted), (ALL_NODES, Interest::Gone)];
        assert_eq!(
            reports(&packet(HOST, dst, &ALERT, &whole)),
            Some(expected.clone())
        );
        assert_eq!(
            reports(&packet(ANY, dst, &ALERT, &whole)),
            Some(expected.clone()),
            "a host without an address may report"
        );
        whole[7] = 9;
        assert_eq!(
            reports(&packet(HOST, dst, &ALERT, &whole)),
            Some(expected.clone())
        );
        whole.pop();
        assert_eq!(
            reports(&packet(HOST, dst, &ALERT, &whole)),
            Some(expected[..1].to_vec()),
            "a record that is cut off says nothing"
        );
    }

    #[test]
    fn what_receivers_would_not_take_is_refused() {
        let report = message(V1_REPORT, 0, GROUP, &[]);
        let good = packet(HOST, GROUP, &ALERT, &report);
        assert!(Mld::parse(&good).is_some());
        let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        assert!(Mld::parse(&packet(global, GROUP, &ALERT, &report)).is_none());
        for options in [
            [58, 0, 5, 2, 0, 1, 1, 0],
            [58, 0, 1, 4, 5, 2, 0, 0],
            [59, 0, 5, 2, 0, 0, 1, 0],
        ] {
            assert!(
                Mld::parse(&packet(HOST, GROUP, &options, &report)).is_none(),
                "{options:?}"
            );
        }
        for (at, value) in [(0, 0x40), (6, 58), (7, 255), (57, 0)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Mld::parse(&bad).is_none(), "{at}");
        }
        for len in 0..good.len() {
            assert!(Mld::parse(&good[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn a_glance_tells_what_receivers_could_find() {
        let report = message(V1_REPORT, 0, GROUP, &[]);
        let good = packet(HOST, GROUP, &ALERT, &report);
        assert_eq!(glance(&good[..49]), Glance::Icmp(V1_REPORT));
        assert_eq!(glance(&good[..48]), Glance::Hidden);
        assert_eq!(glance(&good[..45]), Glance::Hidden);
        assert_eq!(glance(&good[..39]), Glance::Other);
        let behind = |next, option| {
            let mut packet = good.clone();
            packet[40] = next;
            packet[42] = option;
            glance(&packet)
        };
        assert_eq!(behind(58, 1), Glance::Other, "no alert");
        assert_eq!(behind(60, 5), Glance::Hidden);
        assert_eq!(behind(17, 5), Glance::Other);
        let mut long = good.clone();
        long[41] = 200;
        assert_eq!(glance(&long), Glance::Hidden);
        let mut plain = good;
        plain[6] = 58;
        assert_eq!(glance(&plain), Glance::Other);
    }

    #[test]
    fn a_report_is_what_a_snooping_switch_reads() {
        let group = ipv6::solicited_node(HOST);
        for src in [ANY, HOST] {
            let frame = join(MacAddr([2, 0, 0, 0, 0, 9]), src, group);
            let Some(Mld::Report(reports)) = Mld::parse(&frame[14..]) else {
                panic!("not read")
            };
            assert_eq!(reports.collect::<Vec<_>>(), [(group, Interest::Wanted)]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            kind in proptest::sample::select(vec![QUERY, V1_REPORT, DONE, V2_REPORT]),
            options in proptest::collection::vec(any::<u8>(), 8),
        ) {
            let _ = (reports(&bytes), glance(&bytes));
            let mut message = bytes.clone();
            message.splice(..1.min(bytes.len()), [kind]);
            message.resize(message.len().max(24), 0);
            for options in [&options[..], &ALERT] {
                let packet = packet(HOST, GROUP, options, &message);
                let _ = (query(&packet), glance(&packet));
                if let Some(reports) = reports(&packet) {
                    prop_assert!(reports.len() <= bytes.len().max(1));
                }
            }
        }
    }
}
