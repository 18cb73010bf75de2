//! What a client asks, read from a frame and held against what a server must not answer (RFC 8415, sections 16 and 18.4).

use std::net::Ipv6Addr;

use crate::net::gateway::GatewayFrame;
use crate::wire::dhcp6::{ALL_SERVERS, Association, Message, MessageType, SERVER_PORT, code};
use crate::wire::domain;
use crate::wire::ethernet::{ETHERTYPE_IPV6, Ethernet, MacAddr};
use crate::wire::ipv6::{Ipv6, group_mac};
use crate::wire::udp::Udp;

/// How long a DUID can be (RFC 8415, section 11.1).
const DUID: std::ops::RangeInclusive<usize> = 3..=130;

/// A datagram to a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    pub(super) mac: MacAddr,
    pub(super) src: Ipv6Addr,
    pub(super) dst: Ipv6Addr,
    pub(super) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Finds the datagram in a frame that is for the station `own` or for all servers.
    pub(super) fn find(frame: GatewayFrame<'a>, own: MacAddr) -> Option<Self> {
        let ethernet = Ethernet::parse(frame.bytes)?;
        if ethernet.ethertype != ETHERTYPE_IPV6 || !ethernet.src.is_station() {
            return None;
        }
        let packet = Ipv6::parse(ethernet.payload)?;
        let udp = Udp::parse_v6(&packet, frame.partial_checksum)?;
        let addressed = if packet.dst.is_multicast() {
            packet.dst == ALL_SERVERS && ethernet.dst == group_mac(ALL_SERVERS)
        } else {
            ethernet.dst == own
        };
        (addressed && udp.dst == SERVER_PORT).then_some(Self {
            mac: ethernet.src,
            src: packet.src,
            dst: packet.dst,
            payload: udp.payload,
        })
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) mac: MacAddr,
    pub(super) src: Ipv6Addr,
    /// Whether it was sent to the server alone.
    pub(super) unicast: bool,
    pub(super) message: Message<'a>,
    pub(super) client: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// Reads a message that the server with the DUID `own` may answer.
    pub(super) fn read(datagram: Datagram<'a>, own: &[u8]) -> Option<Self> {
        let message = Message::parse(datagram.payload)?;
        let client = message.options.find(code::CLIENT_ID);
        let server = message.options.find(code::SERVER_ID);
        let unicast = !datagram.dst.is_multicast();
        let fits = match message.kind {
            MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
                client.is_some() && server.is_none() && !unicast
            }
            MessageType::Request
            | MessageType::Renew
            | MessageType::Release
            | MessageType::Decline => client.is_some() && server == Some(own),
            MessageType::InformationRequest => {
                let mut options = message.options.iter();
                let associated = options
                    .any(|(code, _)| [code::IA_NA, code::IA_TA, code::IA_PD].contains(&code));
                server.is_none_or(|server| server == own) && !unicast && !associated
            }
            MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => false,
        };
        let named = client.is_none_or(|client| DUID.contains(&client.len()));
        // Who is on the link speaks from an address of the link.
        let near = datagram.src.is_unicast_link_local();
        (fits && named && near).then_some(Self {
            mac: datagram.mac,
            src: datagram.src,
            unicast,
            message,
            client,
        })
    }

    /// Returns what the client has, or wants; what cannot be read is left out.
    pub(super) fn associations(&self) -> impl Iterator<Item = Association<'a>> {
        let options = self.message.options.iter();
        options.filter_map(|(code, value)| Association::parse(code, value))
    }

    /// Whether the client asks for an option, or leaves it to us what it gets.
    pub(super) fn wants(&self, code: u16) -> bool {
        let Some(asked) = self.message.options.find(code::OPTION_REQUEST) else {
            return true;
        };
        let code = code.to_be_bytes();
        asked.as_chunks::<2>().0.contains(&code)
    }

    /// Whether two messages are to be enough.
    pub(super) fn is_rapid(&self) -> bool {
        self.message.options.find(code::RAPID_COMMIT).is_some()
    }

    /// Returns what the client calls itself, and the flags beside it.
    pub(super) fn name(&self) -> Option<(u8, String)> {
        let (flags, name) = self
            .message
            .options
            .find(code::CLIENT_FQDN)?
            .split_first()?;
        Some((*flags, domain::read(name, true)?.0))
    }
}
