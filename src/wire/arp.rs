//! ARP for Ethernet and IPv4 (RFC 826), probes and announcements (RFC 5227), and RARP (RFC 903).

use std::net::Ipv4Addr;

use super::be16;
use super::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_RARP, MacAddr};

/// Operation code of an ARP request.
pub const REQUEST: u16 = 1;
/// Operation code of an ARP reply.
pub const REPLY: u16 = 2;
/// Operation code of a RARP request.
pub const REVERSE_REQUEST: u16 = 3;

/// An ARP packet between Ethernet stations about IPv4 addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arp {
    /// What is asked or answered: [`REQUEST`] or [`REPLY`].
    pub operation: u16,
    /// The sender's hardware address.
    pub sender_mac: MacAddr,
    /// The sender's protocol address; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// The target's hardware address; zero where it is asked for.
    pub target_mac: MacAddr,
    /// The target's protocol address.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// Reads the payload of an ARP frame.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let ip = |at: usize| {
            payload
                .get(at..at + 4)
                .map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3]))
        };
        if be16(payload, 0)? != 1
            || be16(payload, 2)? != ETHERTYPE_IPV4
            || be16(payload, 4)? != 0x0604
        {
            return None;
        }
        Some(Self {
            operation: be16(payload, 6)?,
            sender_mac: MacAddr::from_slice(payload.get(8..)?)?,
            sender_ip: ip(14)?,
            target_mac: MacAddr::from_slice(payload.get(18..)?)?,
            target_ip: ip(24)?,
        })
    }

    fn payload(&self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        bytes[6..8].copy_from_slice(&self.operation.to_be_bytes());
        bytes[8..14].copy_from_slice(&self.sender_mac.0);
        bytes[14..18].copy_from_slice(&self.sender_ip.octets());
        bytes[18..24].copy_from_slice(&self.target_mac.0);
        bytes[24..28].copy_from_slice(&self.target_ip.octets());
        bytes
    }

    /// Builds the frame that carries this packet from its sender to `dst`.
    pub fn emit(&self, dst: MacAddr) -> Vec<u8> {
        ethernet::emit(dst, self.sender_mac, ETHERTYPE_ARP, &self.payload())
    }

    /// Builds a probe for `ip` (RFC 5227, section 1.1): who has it, asked from no address.
    pub fn probe(sender: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
        let probe = Self {
            operation: REQUEST,
            sender_mac: sender,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target_mac: MacAddr::ZERO,
            target_ip: ip,
        };
        probe.emit(MacAddr::BROADCAST)
    }

    /// Builds an announcement (RFC 5227, section 1.1): `ip` is at `mac` now.
    pub fn gratuitous(mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
        let announcement = Self {
            operation: REQUEST,
            sender_mac: mac,
            sender_ip: ip,
            target_mac: MacAddr::ZERO,
            target_ip: ip,
        };
        announcement.emit(MacAddr::BROADCAST)
    }

    /// Builds the reverse request with which a switch tells others where `mac` is now.
    pub fn announcement(mac: MacAddr) -> Vec<u8> {
        let request = Self {
            operation: REVERSE_REQUEST,
            sender_mac: mac,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target_mac: mac,
            target_ip: Ipv4Addr::UNSPECIFIED,
        };
        ethernet::emit(MacAddr::BROADCAST, mac, ETHERTYPE_RARP, &request.payload())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ethernet::Ethernet;
    use super::*;

    #[test]
    fn a_packet_reads_back_as_it_was_written() {
        let arp = Arp {
            operation: REPLY,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender_ip: Ipv4Addr::new(192, 168, 81, 1),
            target_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            target_ip: Ipv4Addr::new(192, 168, 81, 2),
        };
        let frame = arp.emit(arp.target_mac);
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!(ethernet.ethertype, ETHERTYPE_ARP);
        assert_eq!(Arp::parse(ethernet.payload), Some(arp));
        assert_eq!(Arp::parse(&ethernet.payload[..27]), None);
    }

    #[test]
    fn an_announcement_is_a_padded_reverse_request_from_the_station_itself() {
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let frame = Arp::announcement(mac);
        assert_eq!(frame.len(), 60);
        assert_eq!(
            frame[..14],
            [&[0xff; 6][..], &mac.0, &[0x80, 0x35]].concat()
        );
        let arp = Arp::parse(&frame[14..]).unwrap();
        assert_eq!(
            (arp.operation, arp.sender_mac, arp.target_mac),
            (REVERSE_REQUEST, mac, mac)
        );
    }

    #[test]
    fn a_gratuitous_request_asks_all_for_the_address_of_the_station_itself() {
        let frame = Arp::gratuitous(MacAddr([2, 0, 0, 0, 0, 9]), Ipv4Addr::new(192, 168, 81, 7));
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x08, 0x06, // Ethernet
            0, 1, 0x08, 0, 6, 4, 0, 1, // a request for IPv4 over Ethernet
            2, 0, 0, 0, 0, 9, 192, 168, 81, 7, // sender
            0, 0, 0, 0, 0, 0, 192, 168, 81, 7, // target
        ];
        assert_eq!(frame[..42], expected);
        assert_eq!(frame[42..], [0; 18]);
    }
}
