//! Rewriting of headers in place, with checksums that are updated rather than computed anew (RFC 1624).
//!
//! # Theory of operation
//!
//! A translation replaces one address and one port: the source of what comes from inside, the destination of what comes from
//! outside. What that does to a ones' complement sum is the same for every frame of a flow, and the opposite for frames of
//! the other direction, so a flow keeps it as its [`Delta`]. A checksum is the complement of a sum, and is updated as
//! `!(!checksum + delta)`. A partial checksum, which its sender left to be completed, is the sum of the
//! pseudo-header itself: only the addresses count there, and nothing is complemented. ICMP has no pseudo-header, ICMPv6 has. A UDP checksum
//! of zero says that there is none, and stays; one that comes out as zero is written as ones (RFC 768).

use crate::net::napt::Side;
use crate::net::napt::key::Address;
use crate::net::napt::packet::checksum_at;
use crate::net::nat::Protocol;
use crate::wire::ethernet::{HEADER_LEN, MacAddr};

/// What the translation of a frame from inside adds to its sums.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Delta {
    /// To the sum over the addresses.
    addresses: u16,
    /// To the sum of the transport.
    transport: u16,
}

impl Delta {
    /// Computes it for a guest's end that becomes the translator's.
    pub(super) fn new<A: Address>(guest: (A, u16), outside: (A, u16), protocol: Protocol) -> Self {
        let addresses = add(!guest.0.sum().fold(), outside.0.sum().fold());
        let ports = add(!guest.1, outside.1);
        let transport = if has_pseudo_header::<A>(protocol) {
            add(addresses, ports)
        } else {
            ports
        };
        Self {
            addresses,
            transport,
        }
    }

    /// To the sum over the addresses.
    pub(super) const fn addresses(self) -> u16 {
        self.addresses
    }

    /// To the sum of the transport.
    pub(super) const fn transport(self) -> u16 {
        self.transport
    }

    /// What the translation of a frame from a side adds.
    #[inline]
    pub(super) const fn from(self, side: Side) -> Self {
        match side {
            Side::Inside => self,
            Side::Outside => Self {
                addresses: !self.addresses,
                transport: !self.transport,
            },
        }
    }
}

/// Whether a protocol's checksum covers the addresses.
#[inline]
const fn has_pseudo_header<A: Address>(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Udp => true,
        Protocol::Icmp => A::V6,
    }
}

/// Adds in ones' complement.
#[inline]
pub(super) const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    // Never overflows again: where there was a carry, the sum is below the largest number.
    sum.wrapping_add(carry as u16)
}

/// Updates the checksum at `at`.
#[inline(always)]
pub(super) fn update(bytes: &mut [u8], at: usize, delta: u16) -> u16 {
    let sum = !u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let updated = !add(sum, delta);
    bytes[at..at + 2].copy_from_slice(&updated.to_be_bytes());
    updated
}

/// What a frame becomes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewrite<A> {
    /// The side that it came from.
    pub(super) side: Side,
    /// Its protocol.
    pub(super) protocol: Protocol,
    /// Whether its transport checksum is to be completed.
    pub(super) partial: bool,
    /// Whether the time to live counts down: not when a frame turns back, which passes twice.
    pub(super) hop: bool,
    /// The address that replaces its source or destination.
    pub(super) address: A,
    /// The port that replaces its source or destination port.
    pub(super) port: u16,
    /// What that does to a frame from inside.
    pub(super) delta: Delta,
    /// The new hardware addresses: destination, source.
    pub(super) macs: (MacAddr, MacAddr),
}

impl<A: Address> Rewrite<A> {
    /// Rewrites a frame whose transport header, at `at`, was read and is all there.
    #[inline(always)]
    pub(super) fn apply(&self, bytes: &mut [u8], at: usize) {
        let delta = self.delta.from(self.side);
        bytes[..6].copy_from_slice(&self.macs.0.0);
        bytes[6..12].copy_from_slice(&self.macs.1.0);
        let ip = HEADER_LEN;
        if self.hop {
            bytes[ip + A::TTL_AT] = bytes[ip + A::TTL_AT].wrapping_sub(1);
        }
        if !A::V6 {
            // The time to live is the upper half of its word: one less is 0x0100 less.
            let hop = if self.hop { !0x0100 } else { 0 };
            update(bytes, ip + 10, add(delta.addresses, hop));
        }
        let port_at = match self.side {
            Side::Inside => {
                self.address
                    .write(&mut bytes[ip + A::SRC_AT..ip + A::SRC_AT + A::LEN]);
                at
            }
            Side::Outside => {
                self.address
                    .write(&mut bytes[ip + A::DST_AT..ip + A::DST_AT + A::LEN]);
                at + 2
            }
        };
        let port_at = match self.protocol {
            Protocol::Tcp | Protocol::Udp => port_at,
            Protocol::Icmp => at + 4,
        };
        bytes[port_at..port_at + 2].copy_from_slice(&self.port.to_be_bytes());
        let sum_at = at + checksum_at(self.protocol);
        if self.partial {
            if has_pseudo_header::<A>(self.protocol) {
                let sum = u16::from_be_bytes([bytes[sum_at], bytes[sum_at + 1]]);
                let sum = add(sum, delta.addresses);
                bytes[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            return;
        }
        match self.protocol {
            Protocol::Tcp | Protocol::Icmp => {
                update(bytes, sum_at, delta.transport);
            }
            Protocol::Udp => {
                if bytes[sum_at] | bytes[sum_at + 1] != 0
                    && update(bytes, sum_at, delta.transport) == 0
                {
                    bytes[sum_at..sum_at + 2].fill(0xff);
                }
            }
        }
    }
}
