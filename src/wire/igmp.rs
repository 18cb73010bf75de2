//! IGMP, versions 1 to 3 (RFC 1112, RFC 2236, RFC 9776 which replaces RFC 3376): who wants which IPv4 group.
//!
//! Only reading, and only what concerns groups: the sources that a report names are counted, not read.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::checksum::checksum;
use super::ipv4::Ipv4;
use super::{be16, be32};

/// Protocol number of IGMP.
pub const PROTOCOL_IGMP: u8 = 2;
/// Type of a query, of any version.
pub const QUERY: u8 = 0x11;
/// Type of a report of version 1.
pub const V1_REPORT: u8 = 0x12;
/// Type of a report of version 2.
pub const V2_REPORT: u8 = 0x16;
/// Type of a leave of version 2.
pub const LEAVE: u8 = 0x17;
/// Type of a report of version 3.
pub const V3_REPORT: u8 = 0x22;

/// The group of all systems, to which general queries go.
pub const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// How long hosts may take to answer a query of version 1, which does not say (RFC 9776, section 7.2.1).
const V1_RESPONSE: Duration = Duration::from_secs(10);

/// What a report says of a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interest {
    /// The group is wanted, from all sources or some.
    Wanted,
    /// The group is wanted no more.
    Gone,
}

/// Reads a group record's type and number of sources, which IGMPv3 and MLDv2 have in common.
///
/// `None` where the record does not tell whether the group as a whole is wanted: a list of sources that are not
/// wanted, or a list without any.
pub(super) const fn interest(record_type: u8, sources: u16) -> Option<Interest> {
    match (record_type, sources) {
        // All but some sources: MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE.
        (2 | 4, _) => Some(Interest::Wanted),
        // No source any more: CHANGE_TO_INCLUDE_MODE.
        (3, 0) => Some(Interest::Gone),
        // Some sources: MODE_IS_INCLUDE, CHANGE_TO_INCLUDE_MODE, ALLOW_NEW_SOURCES.
        (1 | 3 | 5, 1..) => Some(Interest::Wanted),
        _ => None,
    }
}

/// A query.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Query {
    /// The group that is asked for; `None` in a general query.
    pub group: Option<Ipv4Addr>,
    /// How long hosts may take to answer.
    pub response: Duration,
    /// Whether every host has to answer: a general query to all systems, from an address that can be a source, with
    /// time to live 1 and, from version 2 on, the router alert without which hosts ignore it (RFC 9776, section 9).
    pub binding: bool,
}

/// An IGMP message, read but not copied.
#[derive(Clone, Debug)]
pub enum Igmp<'a> {
    /// A router asks.
    Query(Query),
    /// A host tells: a report of any version, or a leave.
    Report(Reports<'a>),
}

impl<'a> Igmp<'a> {
    /// Reads the message in a whole IPv4 packet. Both checksums are verified.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let ip = Ipv4::parse(packet)?;
        let message = ip.payload;
        if ip.protocol != PROTOCOL_IGMP
            || ip.fragment
            || message.len() < 8
            || checksum(message) != 0
        {
            return None;
        }
        let group = address(message, 4)?;
        let report = |interest| Some(Self::Report(Reports(Left::One(Some((group, interest))))));
        match message[0] {
            QUERY => {
                let (response, alert_due) = response(message)?;
                let general = group.is_unspecified();
                let strange =
                    ip.src.is_multicast() || ip.src.is_broadcast() || ip.src.is_loopback();
                let binding = general
                    && !strange
                    && ip.dst == ALL_SYSTEMS
                    && packet.get(8) == Some(&1)
                    && (!alert_due || has_router_alert(packet));
                Some(Self::Query(Query {
                    group: (!general).then_some(group),
                    response,
                    binding,
                }))
            }
            V1_REPORT | V2_REPORT => report(Interest::Wanted),
            LEAVE => report(Interest::Gone),
            V3_REPORT => Some(Self::Report(Reports(Left::Records {
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
    One(Option<(Ipv4Addr, Interest)>),
    Records { count: u16, bytes: &'a [u8] },
}

impl Iterator for Reports<'_> {
    type Item = (Ipv4Addr, Interest);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Left::One(one) => one.take(),
            Left::Records { count, bytes } => {
                while *count > 0 {
                    let sources = be16(bytes, 2)?;
                    let auxiliary = usize::from(*bytes.get(1)?) * 4;
                    let len = 8 + usize::from(sources) * 4 + auxiliary;
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

/// Returns how long hosts may take to answer a query, and whether its version has it carry a router alert. The length
/// and the code tell the version (RFC 9776, section 7.1).
fn response(query: &[u8]) -> Option<(Duration, bool)> {
    let code = u64::from(*query.get(1)?);
    let tenths = match (query.len(), code) {
        (8, 0) => return Some((V1_RESPONSE, false)),
        (12.., 128..) => (code & 0x0f | 0x10) << ((code >> 4 & 7) + 3),
        (8 | 12.., _) => code,
        _ => return None,
    };
    Some((Duration::from_millis(tenths * 100), true))
}

/// Tells whether the header of a packet has a router alert among its options (RFC 2113).
fn has_router_alert(packet: &[u8]) -> bool {
    let header_len = packet
        .first()
        .map_or(0, |first| usize::from(first & 0x0f) * 4);
    let mut options = packet.get(20..header_len).unwrap_or_default();
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [148, 4, 0, 0, ..] => return true,
            [kind, len, ..] if *kind != 0 && *len >= 2 => {
                options = options.get(usize::from(*len)..).unwrap_or_default();
            }
            _ => return false,
        }
    }
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    be32(bytes, at).map(Ipv4Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

    fn summed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at..at + 2].fill(0);
        let sum = checksum(&bytes);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn packet(dst: Ipv4Addr, ttl: u8, options: &[u8], message: &[u8]) -> Vec<u8> {
        packet_from([10, 0, 0, 1], dst, ttl, options, message)
    }

    fn packet_from(
        src: [u8; 4],
        dst: Ipv4Addr,
        ttl: u8,
        options: &[u8],
        message: &[u8],
    ) -> Vec<u8> {
        let header_len = 20 + options.len();
        let message = summed(message.to_vec(), 2);
        let mut header = vec![0; 20];
        header[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
        header[2..4].copy_from_slice(
            &u16::try_from(header_len + message.len())
                .unwrap()
                .to_be_bytes(),
        );
        header[8] = ttl;
        header[9] = PROTOCOL_IGMP;
        header[12..16].copy_from_slice(&src);
        header[16..20].copy_from_slice(&dst.octets());
        header.extend_from_slice(options);
        [summed(header, 10), message].concat()
    }

    fn message(kind: u8, code: u8, group: Ipv4Addr, more: &[u8]) -> Vec<u8> {
        [&[kind, code, 0, 0][..], &group.octets(), more].concat()
    }

    const ALERT: [u8; 4] = [148, 4, 0, 0];
    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn query(packet: &[u8]) -> Option<Query> {
        match Igmp::parse(packet)? {
            Igmp::Query(query) => Some(query),
            Igmp::Report(_) => None,
        }
    }

    fn reports(packet: &[u8]) -> Option<Vec<(Ipv4Addr, Interest)>> {
        match Igmp::parse(packet)? {
            Igmp::Query(_) => None,
            Igmp::Report(reports) => Some(reports.collect()),
        }
    }

    #[test]
    fn a_query_of_every_version_says_how_long_an_answer_may_take() {
        let response = |code, more: &[u8]| {
            query(&packet(
                ALL_SYSTEMS,
                1,
                &ALERT,
                &message(QUERY, code, ANY, more),
            ))
            .map(|query| query.response.as_millis())
        };
        assert_eq!(response(0, &[]), Some(10_000), "version 1");
        assert_eq!(response(100, &[]), Some(10_000), "version 2");
        assert_eq!(response(255, &[]), Some(25_500));
        assert_eq!(response(127, &[2, 125, 0, 0]), Some(12_700), "version 3");
        assert_eq!(response(128, &[2, 125, 0, 0]), Some(12_800));
        assert_eq!(response(255, &[2, 125, 0, 0]), Some(3_174_400));
        assert_eq!(response(0, &[2, 125, 0, 0]), Some(0));
        assert_eq!(response(100, &[2]), None, "no version has this length");
    }

    #[test]
    fn only_a_general_query_that_hosts_must_answer_is_binding() {
        let binding = |dst, ttl, options: &[u8], code, group| {
            query(&packet(
                dst,
                ttl,
                options,
                &message(QUERY, code, group, &[]),
            ))
            .unwrap()
            .binding
        };
        assert!(binding(ALL_SYSTEMS, 1, &ALERT, 100, ANY));
        assert!(binding(
            ALL_SYSTEMS,
            1,
            &[1, 7, 3, 0, 148, 4, 0, 0],
            100,
            ANY
        ));
        assert!(
            binding(ALL_SYSTEMS, 1, &[], 0, ANY),
            "version 1 has no alert"
        );
        assert!(!binding(ALL_SYSTEMS, 1, &[], 100, ANY));
        assert!(!binding(ALL_SYSTEMS, 1, &[0, 148, 4, 0], 100, ANY));
        assert!(!binding(ALL_SYSTEMS, 1, &[7, 0, 148, 4], 100, ANY));
        assert!(!binding(ALL_SYSTEMS, 2, &ALERT, 100, ANY));
        assert!(!binding(GROUP, 1, &ALERT, 100, ANY));
        assert!(!binding(GROUP, 1, &ALERT, 100, GROUP));
        for (src, expected) in [
            ([0, 0, 0, 0], true),
            ([127, 0, 0, 1], false),
            ([224, 0, 0, 9], false),
            ([255; 4], false),
        ] {
            let message = message(QUERY, 100, ANY, &[]);
            let packet = packet_from(src, ALL_SYSTEMS, 1, &ALERT, &message);
            assert_eq!(query(&packet).unwrap().binding, expected, "{src:?}");
        }
    }

    #[test]
    fn reports_and_leaves_of_versions_1_and_2_name_one_group() {
        for (kind, interest) in [
            (V1_REPORT, Interest::Wanted),
            (V2_REPORT, Interest::Wanted),
            (LEAVE, Interest::Gone),
        ] {
            let packet = packet(GROUP, 1, &[], &message(kind, 0, GROUP, &[]));
            assert_eq!(reports(&packet), Some(vec![(GROUP, interest)]));
        }
        assert_eq!(
            reports(&packet(GROUP, 1, &[], &message(0x13, 0, GROUP, &[]))),
            None,
            "DVMRP is none of ours"
        );
    }

    #[test]
    fn every_kind_of_record_is_read() {
        for (kind, sources, expected) in [
            (1, 0, None),
            (1, 1, Some(Interest::Wanted)),
            (2, 0, Some(Interest::Wanted)),
            (2, 1, Some(Interest::Wanted)),
            (3, 0, Some(Interest::Gone)),
            (3, 1, Some(Interest::Wanted)),
            (4, 0, Some(Interest::Wanted)),
            (4, 1, Some(Interest::Wanted)),
            (5, 0, None),
            (5, 1, Some(Interest::Wanted)),
            (6, 0, None),
            (6, 1, None),
            (0, 1, None),
            (7, 1, None),
        ] {
            assert_eq!(interest(kind, sources), expected, "{kind} {sources}");
        }
    }

    #[test]
    fn a_report_of_version_3_has_many_records_with_sources_and_auxiliary_data() {
        let other = Ipv4Addr::new(239, 9, 9, 9);
        let records = [
            &[1, 1, 0, 2, 239, 1, 2, 3][..],
            &[0xff; 12],
            &[6, 0, 0, 1, 239, 7, 7, 7],
            &[0xff; 4],
            &[3, 0, 0, 0, 239, 9, 9, 9],
        ]
        .concat();
        let mut whole = message(V3_REPORT, 0, ANY, &records);
        whole[6..8].copy_from_slice(&3u16.to_be_bytes());
        let expected = vec![(GROUP, Interest::Wanted), (other, Interest::Gone)];
        let dst = Ipv4Addr::new(224, 0, 0, 22);
        assert_eq!(
            reports(&packet(dst, 1, &ALERT, &whole)),
            Some(expected.clone())
        );
        whole[6..8].copy_from_slice(&9u16.to_be_bytes());
        assert_eq!(
            reports(&packet(dst, 1, &ALERT, &whole)),
            Some(expected.clone()),
            "a count that lies ends with the message"
        );
        whole.pop();
        assert_eq!(
            reports(&packet(dst, 1, &ALERT, &whole)),
            Some(expected[..1].to_vec()),
            "a record that is cut off says nothing"
        );
    }

    #[test]
    fn a_damaged_or_fragmented_message_is_refused() {
        let good = packet(GROUP, 1, &[], &message(V2_REPORT, 0, GROUP, &[]));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Igmp::parse(&bad).is_none(), "{at}");
            assert!(Igmp::parse(&good[..at]).is_none(), "{at}");
        }
        let mut fragment = good[..20].to_vec();
        fragment[6] = 0x20;
        let fragment = [summed(fragment, 10), good[20..].to_vec()].concat();
        assert!(Igmp::parse(&fragment).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in proptest::sample::select(vec![QUERY, V1_REPORT, V2_REPORT, LEAVE, V3_REPORT]),
            words in 0..=10usize,
        ) {
            let _ = reports(&bytes);
            let mut message = bytes.clone();
            message.splice(..1.min(bytes.len()), [kind]);
            message.resize(message.len().max(8), 0);
            let options = &[bytes.as_slice(), &[0; 40]].concat()[..words * 4];
            let packet = packet(GROUP, 1, options, &message);
            let _ = query(&packet);
            if let Some(reports) = reports(&packet) {
                prop_assert!(reports.len() <= bytes.len().max(1));
            }
        }
    }
}
