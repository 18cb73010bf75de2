//! Addresses of both families as the translator reads and writes them, and the hash over what tells flows apart.
//!
//! Everything that is looked up is chosen by guests and by the outside, so the hash is keyed with secret numbers.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::napt::Side;
use crate::net::nat::Protocol;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ipv4::PROTOCOL_ICMP;
use crate::wire::ipv6::NEXT_HEADER_ICMPV6;

/// An address of one family, and where its packets have what.
pub(super) trait Address: Copy + Debug + Eq + Hash + Into<IpAddr> {
    /// Whether this is IPv6.
    const V6: bool;
    /// The EtherType of its packets.
    const ETHERTYPE: u16;
    /// How many bytes it has.
    const LEN: usize;
    /// Length of the fixed header.
    const HEADER_LEN: usize;
    /// Where the source is in the header.
    const SRC_AT: usize;
    /// Where the destination is in the header.
    const DST_AT: usize;
    /// Where the time to live is in the header.
    const TTL_AT: usize;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The type of an echo request.
    const ECHO_REQUEST: u8;
    /// The type of an echo reply.
    const ECHO_REPLY: u8;
    /// The address that is none.
    const UNSPECIFIED: Self;

    /// Reads it from the first bytes of a slice that is long enough.
    fn read(bytes: &[u8]) -> Self;
    /// Writes it to the first bytes of a slice that is long enough.
    fn write(self, bytes: &mut [u8]);
    /// Returns it as numbers.
    fn words(self) -> [u64; 2];
    /// Returns the sum over its 16-bit words.
    fn sum(self) -> Sum;
    /// Returns an address of this family.
    fn of(ip: IpAddr) -> Option<Self>;
    /// Whether it can be one station's in another network.
    fn is_routable(self) -> bool;
}

impl Address for Ipv4Addr {
    const V6: bool = false;
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;
    const LEN: usize = 4;
    const HEADER_LEN: usize = 20;
    const SRC_AT: usize = 12;
    const DST_AT: usize = 16;
    const TTL_AT: usize = 8;
    const ICMP: u8 = PROTOCOL_ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        Self::new(bytes[0], bytes[1], bytes[2], bytes[3])
    }

    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.octets());
    }

    #[inline]
    fn words(self) -> [u64; 2] {
        [u64::from(u32::from_ne_bytes(self.octets())), 0]
    }

    #[inline]
    fn sum(self) -> Sum {
        Sum::default().over(&self.octets())
    }

    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    }

    fn is_routable(self) -> bool {
        let [first, ..] = self.octets();
        first != 0 && first != 127 && first < 224 && !self.is_link_local()
    }
}

impl Address for Ipv6Addr {
    const V6: bool = true;
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;
    const LEN: usize = 16;
    const HEADER_LEN: usize = 40;
    const SRC_AT: usize = 8;
    const DST_AT: usize = 24;
    const TTL_AT: usize = 7;
    const ICMP: u8 = NEXT_HEADER_ICMPV6;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    #[inline]
    fn read(bytes: &[u8]) -> Self {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[..16]);
        Self::from(octets)
    }

    #[inline]
    fn write(self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.octets());
    }

    #[inline]
    fn words(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.octets();
        [
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes(rest),
        ]
    }

    #[inline]
    fn sum(self) -> Sum {
        Sum::default().over(&self.octets())
    }

    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip),
        }
    }

    /// IPv4 in disguise is none: it would reach what is closed to IPv4.
    fn is_routable(self) -> bool {
        let [first, ..] = self.segments();
        let global = first >> 13 == 1 || self.is_unique_local();
        // 6to4, and the prefix of translators to IPv4, which is outside of 2000::/3.
        global && first != 0x2002
    }
}

/// What tells a flow apart on one side: who is near to the translator's rewriting, and whom it talks with.
///
/// Inside, the near end is the guest. Outside it is the translator's address, which is one only and left unspecified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ends<A> {
    /// The guest, or nobody.
    pub(super) near: A,
    /// Whom it talks with.
    pub(super) remote: A,
    /// The guest's port, or the translator's.
    pub(super) near_port: u16,
    /// The other port.
    pub(super) remote_port: u16,
    /// The protocol.
    pub(super) protocol: Protocol,
}

/// The keys of the hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher([u64; 4]);

impl Hasher {
    /// Makes the keys of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self([(); 4].map(|()| random.next()))
    }

    /// Hashes what tells a flow apart on a side.
    #[inline]
    pub(super) fn hash<A: Address>(&self, side: Side, ends: &Ends<A>) -> u32 {
        let Self([a, b, c, d]) = *self;
        let rest = u64::from(ends.near_port) << 48
            | u64::from(ends.remote_port) << 32
            | u64::from(ends.protocol as u8) << 8
            | u64::from(side as u8);
        let (near, remote) = (ends.near.words(), ends.remote.words());
        let hash = if A::V6 {
            let near = fold(near[0] ^ a, near[1] ^ b);
            let remote = fold(remote[0] ^ c, remote[1] ^ d);
            fold(near ^ remote.rotate_left(29) ^ c, rest ^ b)
        } else {
            fold((near[0] << 32 | remote[0]) ^ a, rest ^ b)
        };
        (hash >> 32) as u32
    }
}

/// Multiplies, and folds the upper half of the product onto the lower.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}

/// Random numbers of a seed, for ports and keys (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(near: u32, near_port: u16, remote_port: u16) -> Ends<Ipv4Addr> {
        Ends {
            near: near.into(),
            remote: Ipv4Addr::new(198, 51, 100, 1),
            near_port,
            remote_port,
            protocol: Protocol::Udp,
        }
    }

    #[test]
    fn neighbouring_flows_spread_over_the_whole_range_of_the_hash() {
        let hasher = Hasher::new(7);
        let mut buckets = [0u32; 256];
        for near in 0..64 {
            for port in 0..512 {
                let hash = hasher.hash(Side::Inside, &ends(0x0a00_0000 + near, 1024 + port, 53));
                buckets[hash as usize >> 24] += 1;
            }
        }
        let (low, high) = (buckets.iter().min(), buckets.iter().max());
        assert!(low > Some(&64) && high < Some(&256), "{low:?} {high:?}");
    }

    #[test]
    fn sides_and_seeds_hash_differently() {
        let flow = ends(1, 2, 3);
        let hash = |seed, side| Hasher::new(seed).hash(side, &flow);
        assert_ne!(hash(1, Side::Inside), hash(1, Side::Outside));
        assert_ne!(hash(1, Side::Inside), hash(2, Side::Inside));
        assert_eq!(hash(1, Side::Inside), hash(1, Side::Inside));
    }

    #[test]
    fn addresses_that_are_no_stations_are_not_routable() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
        ] {
            assert!(!ip.parse::<Ipv4Addr>().unwrap().is_routable(), "{ip}");
        }
        for ip in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "100.64.0.1"] {
            assert!(ip.parse::<Ipv4Addr>().unwrap().is_routable(), "{ip}");
        }
        for ip in [
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "fec0::1",
        ] {
            assert!(!ip.parse::<Ipv6Addr>().unwrap().is_routable(), "{ip}");
        }
        for ip in ["2001:db8::1", "fd00::1", "2a00::1"] {
            assert!(ip.parse::<Ipv6Addr>().unwrap().is_routable(), "{ip}");
        }
    }
}
