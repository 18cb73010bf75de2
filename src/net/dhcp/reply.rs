//! From a decision to a frame: what a reply says, and where it goes (RFC 2131, sections 4.1 and 4.3).
//!
//! We own the Ethernet, so a client without an address is reached by its hardware address, without ARP.

use std::net::Ipv4Addr;

use super::request::Request;
use crate::wire::dhcp::{BOOTREPLY, CLIENT_PORT, Message, MessageType, Options, SERVER_PORT, code};
use crate::wire::ethernet::{self, ETHERTYPE_IPV4, MacAddr};
use crate::wire::ipv4::{self, PROTOCOL_UDP};
use crate::wire::udp;

/// The size of message that every client takes (RFC 2132, section 9.10), and the largest that is sent.
const SIZES: (usize, usize) = (576, 1500);
/// The headers of IPv4 and UDP, which those sizes include.
const HEADERS_LEN: usize = 28;

/// The server, as replies name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    /// The hardware address.
    pub(super) mac: MacAddr,
    /// The server identifier.
    pub(super) ip: Ipv4Addr,
    /// The largest packet of the network.
    pub(super) mtu: u16,
}

impl Sender {
    /// Begins a reply with what every reply has. The options that must arrive come first.
    pub(super) fn reply(self, request: &Request, kind: MessageType, yiaddr: Ipv4Addr) -> Message {
        let asked = &request.message;
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [kind.code()]);
        options.set(code::SERVER_IDENTIFIER, self.ip.octets());
        // RFC 6842: echoed, so that clients behind one hardware address know whose reply this is. RFC 3046:
        // relays expect their own words back.
        for code in [code::CLIENT_IDENTIFIER, code::RELAY_AGENT_INFORMATION] {
            if let Some(value) = asked.options.find(code).filter(|value| value.len() <= 255) {
                options.set(code, value);
            }
        }
        let refused = kind == MessageType::Nak;
        Message {
            op: BOOTREPLY,
            hops: 0,
            xid: asked.xid,
            secs: 0,
            // A relay broadcasts a refusal only if it is told to.
            broadcast: asked.broadcast || (refused && request.relay().is_some()),
            ciaddr: if kind == MessageType::Ack {
                asked.ciaddr
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            yiaddr,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: asked.giaddr,
            chaddr: asked.chaddr,
            sname: Vec::new(),
            file: Vec::new(),
            options,
        }
    }

    /// Builds the frame that takes a reply to where it belongs.
    pub(super) fn frame(self, request: &Request, reply: &Message) -> Option<Vec<u8>> {
        let (mac, ip, port) = destination(request, reply);
        let asked = request.message.options.find(code::MAXIMUM_MESSAGE_SIZE);
        let asked = asked.and_then(|size| <[u8; 2]>::try_from(size).ok());
        let size = asked.map_or(SIZES.0, |size| usize::from(u16::from_be_bytes(size)));
        let payload =
            reply.emit(size.clamp(SIZES.0, SIZES.1.min(usize::from(self.mtu))) - HEADERS_LEN);
        let datagram = udp::emit((self.ip, SERVER_PORT), (ip, port), &payload)?;
        let packet = ipv4::emit(self.ip, ip, PROTOCOL_UDP, &datagram)?;
        Some(ethernet::emit(mac, self.mac, ETHERTYPE_IPV4, &packet))
    }
}

fn destination(request: &Request, reply: &Message) -> (MacAddr, Ipv4Addr, u16) {
    let client = request.message.chaddr;
    let everybody = (MacAddr::BROADCAST, Ipv4Addr::BROADCAST, CLIENT_PORT);
    if let Some(relay) = request.relay() {
        return (request.station, relay, SERVER_PORT);
    }
    if reply.kind() == Some(MessageType::Nak) {
        return everybody;
    }
    match request.ciaddr() {
        Some(ip) => (client, ip, CLIENT_PORT),
        None if request.message.broadcast || reply.yiaddr.is_unspecified() => everybody,
        None => (client, reply.yiaddr, CLIENT_PORT),
    }
}
