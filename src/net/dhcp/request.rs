//! What a client sent, and who it is.

use std::net::Ipv4Addr;

use crate::net::dhcp::Identity;
use crate::net::gateway::GatewayFrame;
use crate::wire::dhcp::{BOOTREQUEST, Message, MessageType, SERVER_PORT, code};
use crate::wire::ethernet::{ETHERTYPE_IPV4, Ethernet, MacAddr};
use crate::wire::ipv4::Ipv4;
use crate::wire::udp::Udp;

/// The longest client identifier that is kept; who sends a longer one is known by its hardware address.
const CLIENT_ID_LIMIT: usize = 255;
/// The longest name that is kept of what a client calls itself.
const HOSTNAME_LIMIT: usize = 64;
/// The longest message that is looked at. Clients and relays send no more than 1472 bytes.
const MESSAGE_LIMIT: usize = 4096;

/// By what a client is found in the tables.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Key {
    /// By its hardware address.
    Mac(MacAddr),
    /// By its client identifier.
    Id(Vec<u8>),
}

/// Somebody who wants an address.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// What it is found by.
    pub(super) key: Key,
    /// Its hardware address.
    pub(super) mac: MacAddr,
    /// Its client identifier, if it sent one.
    pub(super) id: Option<Vec<u8>>,
}

impl Client {
    /// Tells who a client is. One with a reservation is known by its hardware address in any case, because that
    /// is what the reservation names.
    pub(super) fn new(
        identity: Identity,
        reserved: bool,
        mac: MacAddr,
        id: Option<Vec<u8>>,
    ) -> Self {
        let id = id.filter(|id| (1..=CLIENT_ID_LIMIT).contains(&id.len()));
        let key = match (identity, &id) {
            (Identity::ClientId, Some(id)) if !reserved => Key::Id(id.clone()),
            (Identity::ClientId | Identity::Mac, _) => Key::Mac(mac),
        };
        Self { key, mac, id }
    }
}

/// A message from a client, and how it came here.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The message itself.
    pub(super) message: Message,
    /// What the client wants.
    pub(super) kind: MessageType,
    /// The station that sent the frame: the client, or a relay.
    pub(super) station: MacAddr,
    /// The address that sent the packet.
    pub(super) source: Ipv4Addr,
}

impl Request {
    /// Reads a datagram for a server; `None` where it is nothing that a server answers.
    pub(super) fn read(datagram: Datagram<'_>) -> Option<Self> {
        let Datagram {
            payload,
            station,
            source,
            dst: _,
        } = datagram;
        if payload.len() > MESSAGE_LIMIT {
            return None;
        }
        let message = Message::parse(payload)?;
        let kind = message.kind()?;
        if message.op != BOOTREQUEST || !message.chaddr.is_station() || !station.is_station() {
            return None;
        }
        Some(Self {
            message,
            kind,
            station,
            source,
        })
    }

    /// Returns the option's value as an address, and `Err` where it is there but is none.
    pub(super) fn address(&self, code: u8) -> Result<Option<Ipv4Addr>, Malformed> {
        match self.message.options.find(code) {
            None => Ok(None),
            Some(_) => self
                .message
                .options
                .address(code)
                .map(Some)
                .ok_or(Malformed),
        }
    }

    /// Returns the address at which the client says it can be reached.
    pub(super) fn ciaddr(&self) -> Option<Ipv4Addr> {
        Some(self.message.ciaddr).filter(|ip| !ip.is_unspecified())
    }

    /// Returns the relay that passed the message on.
    pub(super) fn relay(&self) -> Option<Ipv4Addr> {
        Some(self.message.giaddr).filter(|ip| !ip.is_unspecified())
    }

    /// Returns the client's name for itself: printable ASCII without spaces, and not too long.
    pub(super) fn hostname(&self) -> Option<String> {
        let name = self.message.options.find(code::HOST_NAME)?;
        let printable = name.iter().filter(|byte| byte.is_ascii_graphic());
        let name: String = printable
            .take(HOSTNAME_LIMIT)
            .copied()
            .map(char::from)
            .collect();
        (!name.is_empty()).then_some(name)
    }
}

/// An option that is not what its code says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// A datagram on its way to a DHCP server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    /// The destination address of the packet.
    pub(super) dst: Ipv4Addr,
    /// What is in it.
    pub(super) payload: &'a [u8],
    /// The station that sent the frame.
    pub(super) station: MacAddr,
    /// The source address of the packet.
    pub(super) source: Ipv4Addr,
}

impl<'a> Datagram<'a> {
    /// Finds the datagram in a frame to `mac` or to all.
    pub(super) fn find(frame: GatewayFrame<'a>, mac: MacAddr) -> Option<Self> {
        let ethernet = Ethernet::parse(frame.bytes)?;
        let ours = ethernet.dst == mac || ethernet.dst == MacAddr::BROADCAST;
        if !ours || ethernet.ethertype != ETHERTYPE_IPV4 {
            return None;
        }
        let ip = Ipv4::parse(ethernet.payload)?;
        let udp = Udp::parse(&ip, frame.partial_checksum)?;
        let (station, source) = (ethernet.src, ip.src);
        (udp.dst == SERVER_PORT).then_some(Self {
            dst: ip.dst,
            payload: udp.payload,
            station,
            source,
        })
    }
}
