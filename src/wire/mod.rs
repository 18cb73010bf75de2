//! Bytes to values and back: Ethernet, ARP, IPv4, TCP, UDP, ICMP, DHCP, DNS and the virtio-net header.
//!
//! Nothing here keeps state, reads a clock or does I/O. Parsers take slices of any length and content and
//! return `None` for what they cannot read; emitters return owned bytes.
#![forbid(unsafe_code)]

pub mod arp;
pub mod beacon;
pub mod cdp;
pub mod checksum;
pub mod dhcp;
pub mod dhcp6;
pub mod dns;
pub mod domain;
pub mod ethernet;
pub mod icmp;
pub mod icmp6;
pub mod igmp;
pub mod ipv4;
pub mod ipv6;
pub mod lacp;
pub mod lldp;
pub mod mld;
pub mod nd;
pub mod tcp;
pub mod udp;
pub mod virtio_net;

/// Reads a big-endian `u16` at `at`, if the slice reaches that far.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

/// Reads a big-endian `u32` at `at`, if the slice reaches that far.
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([field[0], field[1], field[2], field[3]]))
}
