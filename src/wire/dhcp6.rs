//! DHCPv6 messages between clients and servers (RFC 8415, section 8) and their options (section 21, RFC 3646, RFC 4704,
//! RFC 5908).
//!
//! A message is a type, a transaction, and options, each with its code and length; some options hold further ones. An
//! option that reaches beyond what holds it makes that unreadable. Nothing is copied when reading. Messages of relays are
//! not read.

use std::net::Ipv6Addr;

use super::{be16, be32};

/// The UDP port of servers and relays.
pub const SERVER_PORT: u16 = 547;
/// The UDP port of clients.
pub const CLIENT_PORT: u16 = 546;
/// The group of all servers and relays on a link, ff02::1:2.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Option codes, as the IANA registry names them.
pub mod code {
    /// The client's DUID.
    pub const CLIENT_ID: u16 = 1;
    /// The server's DUID.
    pub const SERVER_ID: u16 = 2;
    /// Addresses that are kept.
    pub const IA_NA: u16 = 3;
    /// Addresses that are not.
    pub const IA_TA: u16 = 4;
    /// An address.
    pub const IA_ADDRESS: u16 = 5;
    /// The options that the client asks for.
    pub const OPTION_REQUEST: u16 = 6;
    /// How much a client is to prefer the server.
    pub const PREFERENCE: u16 = 7;
    /// What became of something.
    pub const STATUS: u16 = 13;
    /// Two messages are enough.
    pub const RAPID_COMMIT: u16 = 14;
    /// Name servers.
    pub const DNS_SERVERS: u16 = 23;
    /// Domains to search.
    pub const DOMAIN_SEARCH: u16 = 24;
    /// Prefixes for networks behind the client.
    pub const IA_PD: u16 = 25;
    /// When to ask again.
    pub const INFORMATION_REFRESH_TIME: u16 = 32;
    /// The client's name.
    pub const CLIENT_FQDN: u16 = 39;
    /// Time servers.
    pub const NTP_SERVER: u16 = 56;
}

/// Status codes (RFC 8415, section 21.13).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum Status {
    /// It was done.
    Success = 0,
    /// There is no address.
    NoAddrsAvail = 2,
    /// The client has no such address.
    NoBinding = 3,
    /// The address is not one of this link.
    NotOnLink = 4,
    /// The message should have gone to all servers.
    UseMulticast = 5,
    /// There is no prefix.
    NoPrefixAvail = 6,
}

/// What a message is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum MessageType {
    /// A client looks for servers.
    Solicit = 1,
    /// A server offers addresses.
    Advertise = 2,
    /// A client takes an offer.
    Request = 3,
    /// A client asks whether it is still on the same link.
    Confirm = 4,
    /// A client extends what it has.
    Renew = 5,
    /// A client asks any server to do so.
    Rebind = 6,
    /// A server answers.
    Reply = 7,
    /// A client gives addresses back.
    Release = 8,
    /// A client found addresses in use.
    Decline = 9,
    /// A server has a client ask again.
    Reconfigure = 10,
    /// A client that needs no address asks for the rest.
    InformationRequest = 11,
}

impl MessageType {
    /// Every type, in the order of their codes.
    pub const ALL: [Self; 11] = [
        Self::Solicit,
        Self::Advertise,
        Self::Request,
        Self::Confirm,
        Self::Renew,
        Self::Rebind,
        Self::Reply,
        Self::Release,
        Self::Decline,
        Self::Reconfigure,
        Self::InformationRequest,
    ];

    /// Returns the value of the field.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the type with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// Options one after the other, all of them there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Takes bytes that are options up to their end.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split(rest)?.2;
        }
        Some(Self(bytes))
    }

    /// Returns each option with its code.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (code, value, after) = split(rest)?;
            rest = after;
            Some((code, value))
        })
    }

    /// Returns the value of the first option with a code.
    pub fn find(self, code: u16) -> Option<&'a [u8]> {
        let mut options = self.iter();
        options.find(|(other, _)| *other == code).map(|it| it.1)
    }

    /// Returns every address among the options, whatever lifetimes it has.
    pub fn addresses(self) -> impl Iterator<Item = Ipv6Addr> + 'a {
        let options = self.iter().filter(|(code, _)| *code == code::IA_ADDRESS);
        options.filter_map(|(_, value)| {
            let octets = value.first_chunk::<16>()?;
            (value.len() >= 24).then(|| Ipv6Addr::from(*octets))
        })
    }
}

/// Takes the first option off: its code, its value, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::from(be16(bytes, 2)?);
    let (value, rest) = bytes.get(4..)?.split_at_checked(len)?;
    Some((be16(bytes, 0)?, value, rest))
}

/// A message, read but not copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// What it is for.
    pub kind: MessageType,
    /// Tells exchanges of one client apart; 24 bits.
    pub xid: u32,
    /// The options.
    pub options: Options<'a>,
}

impl<'a> Message<'a> {
    /// Reads the payload of a datagram.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            kind: MessageType::from_code(*bytes.first()?)?,
            xid: be32(bytes, 0)? & 0x00ff_ffff,
            options: Options::parse(bytes.get(4..)?)?,
        })
    }
}

/// What belongs together of what a client has: an identity association.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Association<'a> {
    /// Of what kind it is: [`code::IA_NA`], [`code::IA_TA`] or [`code::IA_PD`].
    pub code: u16,
    /// Tells those of one client apart.
    pub id: u32,
    /// What is in it.
    pub options: Options<'a>,
}

impl<'a> Association<'a> {
    /// Reads the value of an option, if that is an association.
    pub fn parse(code: u16, value: &'a [u8]) -> Option<Self> {
        let fixed = match code {
            code::IA_NA | code::IA_PD => 12,
            code::IA_TA => 4,
            _ => return None,
        };
        Some(Self {
            code,
            id: be32(value, 0)?,
            options: Options::parse(value.get(fixed..)?)?,
        })
    }
}

/// Builds a message, or the options that another option holds.
#[derive(Clone, Debug, Default)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// Begins a message.
    pub fn message(kind: MessageType, xid: u32) -> Self {
        let [_, a, b, c] = xid.to_be_bytes();
        Self(vec![kind.code(), a, b, c])
    }

    /// Begins an association; `times` are when to renew and to rebind, where the kind has them.
    pub fn association(code: u16, id: u32, times: (u32, u32)) -> Self {
        let mut bytes = id.to_be_bytes().to_vec();
        if code != code::IA_TA {
            bytes.extend_from_slice(&times.0.to_be_bytes());
            bytes.extend_from_slice(&times.1.to_be_bytes());
        }
        Self(bytes)
    }

    /// Adds an option; one that is too long is left out.
    pub fn add(&mut self, code: u16, value: &[u8]) {
        if let Ok(len) = u16::try_from(value.len()) {
            self.0.extend_from_slice(&code.to_be_bytes());
            self.0.extend_from_slice(&len.to_be_bytes());
            self.0.extend_from_slice(value);
        }
    }

    /// Adds an address, with the seconds for which it is preferred and valid.
    pub fn add_address(&mut self, ip: Ipv6Addr, preferred: u32, valid: u32) {
        let mut value = ip.octets().to_vec();
        value.extend_from_slice(&preferred.to_be_bytes());
        value.extend_from_slice(&valid.to_be_bytes());
        self.add(code::IA_ADDRESS, &value);
    }

    /// Adds what became of something.
    pub fn add_status(&mut self, status: Status) {
        self.add(code::STATUS, &(status as u16).to_be_bytes());
    }

    /// Returns the bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::v6::{self, DhcpOption, IAAddr, IANA};
    use dhcproto::{Decodable, Decoder, Encodable};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_another_implementation_writes_is_read() {
        let ip: Ipv6Addr = "fd00::80".parse().unwrap();
        let mut message = v6::Message::new_with_id(v6::MessageType::Renew, [1, 2, 3]);
        let mut inner = v6::DhcpOptions::new();
        inner.insert(DhcpOption::IAAddr(IAAddr {
            addr: ip,
            preferred_life: 100,
            valid_life: 200,
            opts: v6::DhcpOptions::new(),
        }));
        message
            .opts_mut()
            .insert(DhcpOption::ClientId(vec![0, 3, 9]));
        message.opts_mut().insert(DhcpOption::IANA(IANA {
            id: 7,
            t1: 1,
            t2: 2,
            opts: inner,
        }));
        let bytes = message.to_vec().unwrap();
        let read = Message::parse(&bytes).unwrap();
        assert_eq!((read.kind, read.xid), (MessageType::Renew, 0x01_0203));
        assert_eq!(read.options.find(code::CLIENT_ID), Some(&[0, 3, 9][..]));
        let value = read.options.find(code::IA_NA).unwrap();
        let association = Association::parse(code::IA_NA, value).unwrap();
        assert_eq!(association.id, 7);
        assert_eq!(association.options.addresses().collect::<Vec<_>>(), [ip]);
    }

    #[test]
    fn what_is_written_another_implementation_reads() {
        let ip: Ipv6Addr = "fd00::80".parse().unwrap();
        let mut message = Builder::message(MessageType::Reply, 0x01_0203);
        message.add(code::SERVER_ID, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 9]);
        let mut association = Builder::association(code::IA_NA, 7, (50, 80));
        association.add_address(ip, 100, 200);
        association.add_status(Status::NoBinding);
        message.add(code::IA_NA, &association.finish());
        let bytes = message.finish();
        let read = v6::Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(read.msg_type(), v6::MessageType::Reply);
        assert_eq!(read.xid(), [1, 2, 3]);
        let Some(DhcpOption::IANA(association)) = read.opts().get(v6::OptionCode::IANA) else {
            panic!("it has an association")
        };
        assert_eq!(
            (association.id, association.t1, association.t2),
            (7, 50, 80)
        );
        let Some(DhcpOption::IAAddr(address)) = association.opts.get(v6::OptionCode::IAAddr) else {
            panic!("it has an address")
        };
        let lifetimes = (address.preferred_life, address.valid_life);
        assert_eq!((address.addr, lifetimes), (ip, (100, 200)));
        let Some(DhcpOption::StatusCode(status)) = association.opts.get(v6::OptionCode::StatusCode)
        else {
            panic!("it has a status")
        };
        assert_eq!(status.status, v6::Status::NoBinding);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut message = Builder::message(MessageType::Solicit, 1);
        message.add(code::CLIENT_ID, &[1, 2, 3]);
        let bytes = message.finish();
        assert!(Message::parse(&bytes).is_some());
        for len in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..len]).is_some(), len == 4, "{len}");
        }
        assert_eq!(Message::parse(&[12, 0, 0, 0]), None, "a relay");
        assert_eq!(Association::parse(code::IA_NA, &[0; 11]), None);
        assert!(Association::parse(code::IA_TA, &[0; 4]).is_some());
        assert_eq!(Association::parse(code::CLIENT_ID, &[0; 12]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1u8..12) {
            let bytes = [&[kind][..], &bytes].concat();
            if let Some(message) = Message::parse(&bytes) {
                let mut len = 4;
                for (code, value) in message.options.iter() {
                    len += 4 + value.len();
                    if let Some(association) = Association::parse(code, value) {
                        association.options.addresses().count();
                    }
                }
                prop_assert_eq!(len, bytes.len());
            }
        }
    }
}
