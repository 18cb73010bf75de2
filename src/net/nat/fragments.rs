//! Packets of guests that come in parts, put together (RFC 815, RFC 8200, section 4.5).
//!
//! # Theory of operation
//!
//! Parts are kept in the order of their offsets until they cover the packet without a gap, for 30 seconds at most (RFC
//! 1122, section 3.3.2: 60 to 120 for hosts; a gateway has many guests). Parts that overlap without being the same make
//! all of their packet void (RFC 5722). A guest has [`PER_GUEST`] packets under way at most, and the network
//! [`PACKETS`]: the oldest gives way.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::frames::{self, Stations};
use crate::net::packet::Packet;
use crate::wire::ethernet::MacAddr;

/// How many packets are under way at most.
const PACKETS: usize = 128;
/// How many of them are one guest's.
const PER_GUEST: usize = 16;
/// How many parts a packet has at most: enough for 64 KiB over the smallest MTU of IPv6.
const PARTS: usize = 64;
/// How long parts are kept.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest payload that fits into a packet.
const LONGEST: usize = 65_535;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Key {
    mac: MacAddr,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Partial {
    key: Key,
    since: Instant,
    hop_limit: u8,
    /// In the order of their offsets, without overlaps.
    parts: Vec<(usize, Vec<u8>)>,
    /// The length of the whole, once the last part has come.
    len: Option<usize>,
    /// It was found to be void; what still comes of it is dropped.
    void: bool,
}

impl Partial {
    /// Takes a part; tells whether all are there now.
    fn add(&mut self, offset: usize, more: bool, bytes: &[u8]) -> bool {
        let end = offset + bytes.len();
        let odd = more && !bytes.len().is_multiple_of(8);
        let beyond = self.len.is_some_and(|len| end > len || !more && end != len);
        let before = self.parts.partition_point(|(at, _)| *at < offset);
        let same = self.parts.get(before);
        if same.is_some_and(|(at, part)| *at == offset && *part == bytes) {
            return false;
        }
        let overlaps = self.parts.get(before).is_some_and(|(at, _)| *at < end)
            || before > 0 && {
                let (at, part) = &self.parts[before - 1];
                at + part.len() > offset
            };
        let cut_off = !more && self.parts.last().is_some_and(|(at, _)| *at >= end);
        let full = self.parts.len() >= PARTS;
        if bytes.is_empty() || odd || beyond || overlaps || cut_off || full || end > LONGEST {
            self.void = true;
            self.parts.clear();
            return false;
        }
        self.parts.insert(before, (offset, bytes.to_vec()));
        if !more {
            self.len = Some(end);
        }
        // Parts do not overlap, so that as many bytes as the whole has are the whole.
        let held: usize = self.parts.iter().map(|(_, part)| part.len()).sum();
        self.len == Some(held)
    }
}

/// Packets of which parts are missing.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// The oldest first.
    partials: Vec<Partial>,
}

impl Reassembly {
    /// Takes a part, whose payload is `bytes`; returns the frame with the whole packet once all parts are there.
    pub fn add(
        &mut self,
        packet: &Packet,
        bytes: &[u8],
        gateway: MacAddr,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let fragment = packet.fragment?;
        self.handle_timeout(now);
        let key = Key {
            mac: packet.mac,
            src: packet.src,
            dst: packet.dst,
            protocol: packet.protocol,
            id: fragment.id,
        };
        let known = self.partials.iter().position(|partial| partial.key == key);
        let index = known.unwrap_or_else(|| self.begin(key, packet.hop_limit, now));
        let partial = &mut self.partials[index];
        let offset = usize::from(fragment.offset);
        if partial.void || !partial.add(offset, fragment.more, bytes) {
            return None;
        }
        let whole = self.partials.remove(index);
        let payload: Vec<u8> = whole.parts.into_iter().flat_map(|(_, part)| part).collect();
        // The frame goes the way that its parts went: from the guest to the gateway.
        let stations = Stations {
            gateway: packet.mac,
            guest: gateway,
        };
        let (src, dst) = (packet.src, packet.dst);
        let mut frame = frames::emit(
            stations,
            src,
            dst,
            packet.protocol,
            whole.hop_limit,
            &payload,
        )?;
        frames::allow_parts(&mut frame);
        Some(frame)
    }

    fn begin(&mut self, key: Key, hop_limit: u8, now: Instant) -> usize {
        let of_guest = |partial: &Partial| partial.key.mac == key.mac;
        if self.partials.iter().filter(|one| of_guest(one)).count() >= PER_GUEST {
            if let Some(oldest) = self.partials.iter().position(of_guest) {
                self.partials.remove(oldest);
            }
        } else if self.partials.len() >= PACKETS {
            self.partials.remove(0);
        }
        self.partials.push(Partial {
            key,
            since: now,
            hop_limit,
            parts: Vec::new(),
            len: None,
            void: false,
        });
        self.partials.len() - 1
    }

    /// The next time at which something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.partials
            .first()
            .map(|partial| partial.since + PATIENCE)
    }

    /// Forgets what did not become whole in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        let old = |partial: &Partial| now.saturating_duration_since(partial.since) >= PATIENCE;
        let count = self.partials.iter().take_while(|one| old(one)).count();
        self.partials.drain(..count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::packet::Fragment;

    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

    fn part(guest: u8, id: u32, offset: u16, more: bool) -> Packet {
        Packet {
            mac: MacAddr([2, 0, 0, 0, 0, guest]),
            src: [192, 168, 81, guest].into(),
            dst: [203, 0, 113, 9].into(),
            protocol: 17,
            hop_limit: 7,
            fragment: Some(Fragment { id, offset, more }),
            dont_fragment: false,
            ip_at: 14,
            transport_at: 34,
            end: 34,
        }
    }

    /// Hands over parts of 16 bytes, whose numbers are named; the third is the last.
    fn whole(parts: &[u16]) -> Option<Vec<u8>> {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut add = |index: u16| {
            let packet = part(1, 1, index * 16, index < 2);
            let byte = u8::try_from(index).unwrap();
            reassembly.add(&packet, &[byte; 16], GATEWAY, now)
        };
        parts.iter().find_map(|index| add(*index))
    }

    #[test]
    fn parts_are_put_together_in_any_order_and_once() {
        for parts in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let frame = whole(&parts).unwrap();
            assert_eq!(frame.len(), 34 + 48);
            assert_eq!(frame[34..], [[0; 16], [1; 16], [2; 16]].concat());
            assert_eq!(frame[..6], GATEWAY.0);
            assert_eq!((frame[22], frame[20] & 0x40), (7, 0));
        }
        assert!(
            whole(&[0, 0, 1, 1, 2]).is_some(),
            "what comes twice does no harm"
        );
        assert!(whole(&[0, 2]).is_none());
    }

    #[test]
    fn parts_that_overlap_make_all_of_it_void() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        for (offset, more, len) in [(0, true, 16), (8, true, 16), (24, false, 8), (0, true, 24)] {
            let packet = part(1, 1, offset, more);
            assert_eq!(reassembly.add(&packet, &vec![1; len], GATEWAY, now), None);
        }
    }

    #[test]
    fn a_guest_keeps_nobody_else_from_sending_parts() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let first = part(9, 1, 0, true);
        reassembly.add(&first, &[1; 8], GATEWAY, now);
        for id in 0..1000 {
            reassembly.add(&part(1, id, 0, true), &[1; 8], GATEWAY, now);
        }
        assert_eq!(reassembly.partials.len(), 1 + PER_GUEST);
        let last = part(9, 1, 8, false);
        assert!(reassembly.add(&last, &[1; 8], GATEWAY, now).is_some());
    }

    #[test]
    fn parts_are_kept_for_half_a_minute() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        reassembly.add(&part(1, 1, 0, true), &[1; 8], GATEWAY, now);
        assert_eq!(reassembly.poll_timeout(), Some(now + PATIENCE));
        reassembly.handle_timeout(now + PATIENCE);
        assert_eq!(reassembly.poll_timeout(), None);
    }

    proptest! {
        #[test]
        fn any_parts_become_a_packet_or_nothing(
            parts in proptest::collection::vec((0u16..40, any::<bool>(), 0usize..40), 0..40),
        ) {
            let now = Instant::now();
            let mut reassembly = Reassembly::default();
            for (offset, more, len) in parts {
                let packet = part(1, 1, offset * 8, more);
                reassembly.add(&packet, &vec![7; len], GATEWAY, now);
            }
        }
    }
}
