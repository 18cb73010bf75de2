//! The gateway's own address: answers ARP (RFC 826) and ICMP echo (RFC 792), and nothing else.

use std::net::Ipv4Addr;

use crate::net::Now;
use crate::net::gateway::{Claim, GatewayFrame, Replies, Service};
use crate::wire::arp::{Arp, REPLY, REQUEST};
use crate::wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, MacAddr};
use crate::wire::icmp;
use crate::wire::ipv4::{self, Ipv4, PROTOCOL_ICMP};

/// The address to answer for.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's IPv4 address.
    pub ip: Ipv4Addr,
}

/// Answers for one address.
#[derive(Debug)]
pub struct Address {
    ip: Ipv4Addr,
    mac: MacAddr,
}

impl Address {
    /// Answers for the address in `spec` with the hardware address `mac`.
    pub fn new(spec: Spec, mac: MacAddr) -> Self {
        Self { ip: spec.ip, mac }
    }

    fn answer_arp(&self, payload: &[u8], out: &mut Replies) -> Claim {
        let Some(arp) = Arp::parse(payload) else {
            return Claim::Passed;
        };
        if arp.operation != REQUEST || arp.target_ip != self.ip || !arp.sender_mac.is_station() {
            return Claim::Passed;
        }
        let reply = Arp {
            operation: REPLY,
            sender_mac: self.mac,
            sender_ip: self.ip,
            target_mac: arp.sender_mac,
            target_ip: arp.sender_ip,
        };
        out.send(reply.emit(arp.sender_mac));
        Claim::Taken
    }

    fn answer_echo(&self, frame: &Ethernet<'_>, partial: bool, out: &mut Replies) -> Claim {
        let Some(ip) = Ipv4::parse(frame.payload) else {
            return Claim::Passed;
        };
        if ip.protocol != PROTOCOL_ICMP
            || ip.dst != self.ip
            || ip.fragment
            || !frame.src.is_station()
        {
            return Claim::Passed;
        }
        let reply = icmp::echo_reply(ip.payload, partial)
            .and_then(|reply| ipv4::emit(self.ip, ip.src, PROTOCOL_ICMP, &reply));
        if let Some(packet) = reply {
            out.send(ethernet::emit(frame.src, self.mac, ETHERTYPE_IPV4, &packet));
        }
        Claim::Taken
    }
}

impl Service for Address {
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, _now: Now, out: &mut Replies) -> Claim {
        let Some(ethernet) = Ethernet::parse(frame.bytes) else {
            return Claim::Passed;
        };
        match ethernet.ethertype {
            ETHERTYPE_ARP => self.answer_arp(ethernet.payload, out),
            ETHERTYPE_IPV4 if ethernet.dst == self.mac => {
                self.answer_echo(&ethernet, frame.partial_checksum, out)
            }
            _ => Claim::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::inside::Inside;
    use crate::wire::checksum::checksum;
    use std::time::{Instant, SystemTime};

    const GUEST: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
    const GUEST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 128);
    const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 81, 254);

    fn answers(frame: &[u8]) -> Vec<Vec<u8>> {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let mut out = Replies::default();
        let mut address = Address::new(Spec { ip: GATEWAY_IP }, GATEWAY);
        address.handle_frame(
            GatewayFrame {
                bytes: frame,
                partial_checksum: false,
                inside: &Inside::default(),
            },
            now,
            &mut out,
        );
        out.frames
    }

    #[test]
    fn arp_for_the_address_is_answered_and_for_others_is_not() {
        let mut ask = Arp {
            operation: REQUEST,
            sender_mac: GUEST,
            sender_ip: GUEST_IP,
            target_mac: MacAddr::ZERO,
            target_ip: GATEWAY_IP,
        };
        let replies = answers(&ask.emit(MacAddr::BROADCAST));
        let reply = Ethernet::parse(&replies[0]).unwrap();
        assert_eq!((reply.dst, reply.src), (GUEST, GATEWAY));
        assert_eq!(Arp::parse(reply.payload).unwrap().sender_ip, GATEWAY_IP);
        ask.target_ip = GUEST_IP;
        assert!(answers(&ask.emit(MacAddr::BROADCAST)).is_empty());
    }

    #[test]
    fn a_ping_comes_back_and_one_with_a_wrong_checksum_does_not() {
        let mut echo = vec![8, 0, 0, 0, 1, 2, 3, 4, 5];
        let sum = checksum(&echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        let packet = ipv4::emit(GUEST_IP, GATEWAY_IP, PROTOCOL_ICMP, &echo).unwrap();
        let replies = answers(&ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet));
        let reply = Ipv4::parse(&replies[0][14..]).unwrap();
        assert_eq!(
            (reply.src, reply.dst, reply.payload[0]),
            (GATEWAY_IP, GUEST_IP, 0)
        );
        echo[8] = 6;
        let packet = ipv4::emit(GUEST_IP, GATEWAY_IP, PROTOCOL_ICMP, &echo).unwrap();
        assert!(answers(&ethernet::emit(GATEWAY, GUEST, ETHERTYPE_IPV4, &packet)).is_empty());
    }
}
