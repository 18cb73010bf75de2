//! DHCP messages (RFC 2131, section 2) and their options (RFC 2132, RFC 3396).
//!
//! # Theory of operation
//!
//! A message is a BOOTP header of 236 bytes, the magic cookie, and options up to an end mark. Options may go on in
//! the `file` and `sname` fields where option 52 says so; values in several parts are joined in the order options,
//! `file`, `sname`. A length that reaches beyond its field makes the whole message unreadable; a missing end mark
//! does not. Only Ethernet clients are read, and messages without the cookie (plain BOOTP) are not.
//!
//! When writing, options go out in the order they were given, so that the important ones come first. What does not
//! fit into the options field goes whole into `file` or `sname`, if those are empty, then in parts, and is left out
//! if even that fails. Relay agent information (option 82) has its room kept and is written last (RFC 3046).

use std::net::Ipv4Addr;

use super::ethernet::MacAddr;
use super::{be16, be32};

/// The UDP port of servers and relays.
pub const SERVER_PORT: u16 = 67;
/// The UDP port of clients.
pub const CLIENT_PORT: u16 = 68;
/// The operation of messages from clients and relays.
pub const BOOTREQUEST: u8 = 1;
/// The operation of messages from servers.
pub const BOOTREPLY: u8 = 2;
/// The shortest message that BOOTP relays and clients accept (RFC 1542, section 2.1).
pub const MIN_LEN: usize = 300;

const FIXED_LEN: usize = 236;
const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME_LEN: usize = 64;
const FILE_LEN: usize = 128;
const BROADCAST_FLAG: u16 = 0x8000;
const PART_LEN: usize = 255;

/// Option codes, as the IANA registry names them.
pub mod code {
    /// Fills up, and has no length.
    pub const PAD: u8 = 0;
    /// Subnet mask.
    pub const SUBNET_MASK: u8 = 1;
    /// Routers.
    pub const ROUTERS: u8 = 3;
    /// Domain name servers.
    pub const DNS_SERVERS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN_NAME: u8 = 15;
    /// Interface MTU.
    pub const INTERFACE_MTU: u8 = 26;
    /// Broadcast address.
    pub const BROADCAST_ADDRESS: u8 = 28;
    /// NTP servers.
    pub const NTP_SERVERS: u8 = 42;
    /// Vendor-specific information.
    pub const VENDOR_SPECIFIC: u8 = 43;
    /// Requested IP address.
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// IP address lease time.
    pub const LEASE_TIME: u8 = 51;
    /// Option overload.
    pub const OVERLOAD: u8 = 52;
    /// DHCP message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_IDENTIFIER: u8 = 54;
    /// Parameter request list.
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    /// An error in words.
    pub const MESSAGE: u8 = 56;
    /// Maximum DHCP message size.
    pub const MAXIMUM_MESSAGE_SIZE: u8 = 57;
    /// Renewal (T1) time.
    pub const RENEWAL_TIME: u8 = 58;
    /// Rebinding (T2) time.
    pub const REBINDING_TIME: u8 = 59;
    /// Client identifier.
    pub const CLIENT_IDENTIFIER: u8 = 61;
    /// TFTP server name.
    pub const TFTP_SERVER_NAME: u8 = 66;
    /// Boot file name.
    pub const BOOT_FILE_NAME: u8 = 67;
    /// Relay agent information.
    pub const RELAY_AGENT_INFORMATION: u8 = 82;
    /// Domain search list.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// Classless static routes.
    pub const CLASSLESS_ROUTES: u8 = 121;
    /// Ends the options, and has no length.
    pub const END: u8 = 255;
}

/// What a message is for (option 53).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum MessageType {
    /// A client looks for servers.
    Discover = 1,
    /// A server offers an address.
    Offer = 2,
    /// A client takes an offer, checks an address it remembers, or extends its lease.
    Request = 3,
    /// A client found its address in use.
    Decline = 4,
    /// A server grants a request.
    Ack = 5,
    /// A server refuses a request.
    Nak = 6,
    /// A client gives its address back.
    Release = 7,
    /// A client that has an address asks for the rest.
    Inform = 8,
}

impl MessageType {
    /// Every type, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::Discover,
        Self::Offer,
        Self::Request,
        Self::Decline,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Inform,
    ];

    /// Returns the value of option 53.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the type with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// The options of a message in their order, each code once, long values in one piece.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// Returns the value of an option.
    pub fn find(&self, code: u8) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(other, _)| *other == code)
            .map(|(_, value)| value.as_slice())
    }

    /// Returns the value of an option that is one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.find(code)?)
            .ok()
            .map(Ipv4Addr::from)
    }

    /// Returns the value of an option that is one 32-bit number.
    pub fn number(&self, code: u8) -> Option<u32> {
        <[u8; 4]>::try_from(self.find(code)?)
            .ok()
            .map(u32::from_be_bytes)
    }

    /// Adds an option at the end, or gives it a new value where it already is.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        match self.0.iter_mut().find(|(other, _)| *other == code) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((code, value.into())),
        }
    }

    /// Returns all options in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// Reads one field of options up to its end mark, joining values to those already read.
    fn read(&mut self, field: &[u8]) -> Option<()> {
        let mut at = 0;
        while let Some(&code) = field.get(at) {
            match code {
                code::PAD => at += 1,
                code::END => break,
                code => {
                    let len = usize::from(*field.get(at + 1)?);
                    let part = field.get(at + 2..at + 2 + len)?;
                    match self.0.iter_mut().find(|(other, _)| *other == code) {
                        Some((_, value)) => value.extend_from_slice(part),
                        None => self.0.push((code, part.to_vec())),
                    }
                    at += 2 + len;
                }
            }
        }
        Some(())
    }
}

/// A DHCP message of or for an Ethernet client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// [`BOOTREQUEST`] or [`BOOTREPLY`].
    pub op: u8,
    /// How many relays the message passed.
    pub hops: u8,
    /// Tells exchanges of one client apart.
    pub xid: u32,
    /// For how many seconds the client has been trying.
    pub secs: u16,
    /// Whether the client can only hear broadcasts.
    pub broadcast: bool,
    /// The client's address, if it can be reached there.
    pub ciaddr: Ipv4Addr,
    /// The address that the client is given.
    pub yiaddr: Ipv4Addr,
    /// The server to boot from.
    pub siaddr: Ipv4Addr,
    /// The relay through which the message came, if any.
    pub giaddr: Ipv4Addr,
    /// The client's hardware address.
    pub chaddr: MacAddr,
    /// The name of the server to boot from, at most 63 bytes; empty where it holds options.
    pub sname: Vec<u8>,
    /// The file to boot, at most 127 bytes; empty where it holds options.
    pub file: Vec<u8>,
    /// The options, without overload (52).
    pub options: Options,
}

impl Message {
    /// Reads the payload of a datagram.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..FIXED_LEN)?;
        let rest = bytes.get(FIXED_LEN..)?.strip_prefix(&MAGIC_COOKIE)?;
        if fixed[1..3] != [1, 6] {
            return None;
        }
        let ip = |at: usize| be32(fixed, at).map(Ipv4Addr::from);
        let mut options = Options::default();
        options.read(rest)?;
        let (sname, file) = (fixed.get(44..108)?, fixed.get(108..236)?);
        let overload = match options.find(code::OVERLOAD) {
            None => 0,
            Some([fields @ 1..=3]) => *fields,
            Some(_) => return None,
        };
        if overload & 1 != 0 {
            options.read(file)?;
        }
        if overload & 2 != 0 {
            options.read(sname)?;
        }
        options.0.retain(|(code, _)| *code != code::OVERLOAD);
        Some(Self {
            op: fixed[0],
            hops: fixed[3],
            xid: be32(fixed, 4)?,
            secs: be16(fixed, 8)?,
            broadcast: be16(fixed, 10)? & BROADCAST_FLAG != 0,
            ciaddr: ip(12)?,
            yiaddr: ip(16)?,
            siaddr: ip(20)?,
            giaddr: ip(24)?,
            chaddr: MacAddr::from_slice(fixed.get(28..)?)?,
            sname: if overload & 2 == 0 {
                text(sname)
            } else {
                Vec::new()
            },
            file: if overload & 1 == 0 {
                text(file)
            } else {
                Vec::new()
            },
            options,
        })
    }

    /// Returns what the message is for.
    pub fn kind(&self) -> Option<MessageType> {
        match self.options.find(code::MESSAGE_TYPE)? {
            [code] => MessageType::from_code(*code),
            _ => None,
        }
    }

    /// Builds the payload of a datagram, at least [`MIN_LEN`] and otherwise at most `limit` bytes long.
    pub fn emit(&self, limit: usize) -> Vec<u8> {
        let areas = self.lay_out(limit.max(MIN_LEN) - FIXED_LEN - MAGIC_COOKIE.len());
        let mut bytes = Vec::with_capacity(MIN_LEN.max(FIXED_LEN + 4 + areas.options.len()));
        bytes.extend_from_slice(&[self.op, 1, 6, self.hops]);
        bytes.extend_from_slice(&self.xid.to_be_bytes());
        bytes.extend_from_slice(&self.secs.to_be_bytes());
        bytes.extend_from_slice(&if self.broadcast { BROADCAST_FLAG } else { 0 }.to_be_bytes());
        for ip in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend_from_slice(&ip.octets());
        }
        bytes.extend_from_slice(&self.chaddr.0);
        bytes.resize(44, 0);
        bytes.extend(
            areas
                .sname
                .as_deref()
                .unwrap_or(&self.sname)
                .iter()
                .take(SNAME_LEN - 1),
        );
        bytes.resize(108, 0);
        bytes.extend(
            areas
                .file
                .as_deref()
                .unwrap_or(&self.file)
                .iter()
                .take(FILE_LEN - 1),
        );
        bytes.resize(FIXED_LEN, 0);
        bytes.extend_from_slice(&MAGIC_COOKIE);
        bytes.extend_from_slice(&areas.options);
        if bytes.len() < MIN_LEN {
            bytes.resize(MIN_LEN, 0);
        }
        bytes
    }

    fn lay_out(&self, len: usize) -> Areas {
        let last = self.options.find(code::RELAY_AGENT_INFORMATION);
        let last = last.filter(|value| value.len() <= PART_LEN);
        let last_len = last.map_or(0, encoded_len);
        let needed: usize = self
            .options
            .iter()
            .map(|(_, value)| encoded_len(value))
            .sum();
        // A field whose content also stands in an option of its own is free for others (RFC 2132, sections 9.4 and 9.5).
        let free = |field: &[u8], option| field.is_empty() || self.options.find(option).is_some();
        let file_free = free(&self.file, code::BOOT_FILE_NAME);
        let sname_free = free(&self.sname, code::TFTP_SERVER_NAME);
        let overload = needed >= len && (file_free || sname_free);
        let spare = |free: bool, len: usize| if overload && free { len - 1 } else { 0 };
        // The last byte of `file` and `sname` stays zero, for readers that take them for text whatever 52 says.
        let mut areas = [
            Area::new(len.saturating_sub(1 + last_len + if overload { 3 } else { 0 })),
            Area::new(spare(file_free, FILE_LEN - 1)),
            Area::new(spare(sname_free, SNAME_LEN - 1)),
        ];
        for (code, value) in self.options.iter() {
            if code != code::RELAY_AGENT_INFORMATION {
                place(&mut areas, code, value);
            }
        }
        let [mut options, file, sname] = areas.map(|area| area.bytes);
        let fields = u8::from(!file.is_empty()) | u8::from(!sname.is_empty()) << 1;
        if fields != 0 {
            options.extend_from_slice(&[code::OVERLOAD, 1, fields]);
        }
        if let Some(value) = last
            && options.len() + last_len < len
        {
            write(&mut options, code::RELAY_AGENT_INFORMATION, value);
        }
        options.push(code::END);
        let ended = |mut field: Vec<u8>| {
            (!field.is_empty()).then(|| {
                field.push(code::END);
                field
            })
        };
        Areas {
            options,
            file: ended(file),
            sname: ended(sname),
        }
    }
}

/// What each field holds, end marks included; `None` where it keeps its own meaning.
struct Areas {
    options: Vec<u8>,
    file: Option<Vec<u8>>,
    sname: Option<Vec<u8>>,
}

/// A field that is being filled with options; its limit leaves room for the end mark.
struct Area {
    bytes: Vec<u8>,
    limit: usize,
}

impl Area {
    fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    /// Returns how many bytes of one value fit, given two more for each part of it.
    fn value_room(&self) -> usize {
        let (parts, rest) = (self.room() / (PART_LEN + 2), self.room() % (PART_LEN + 2));
        parts * PART_LEN + rest.saturating_sub(2)
    }
}

/// Puts an option whole into the first field that has room, or else in parts into all of them, or else nowhere.
fn place(areas: &mut [Area; 3], code: u8, value: &[u8]) {
    if let Some(area) = areas
        .iter_mut()
        .find(|area| encoded_len(value) <= area.room())
    {
        write(&mut area.bytes, code, value);
        return;
    }
    if areas.iter().map(Area::value_room).sum::<usize>() < value.len() {
        return;
    }
    let mut rest = value;
    for area in areas {
        let (part, later) = rest.split_at(area.value_room().min(rest.len()));
        if !part.is_empty() {
            write(&mut area.bytes, code, part);
        }
        rest = later;
    }
}

/// Returns the bytes that an option takes, with a code and a length for each part of it.
fn encoded_len(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(PART_LEN).max(1)
}

fn write(field: &mut Vec<u8>, code: u8, value: &[u8]) {
    if value.is_empty() {
        field.extend_from_slice(&[code, 0]);
    }
    for part in value.chunks(PART_LEN) {
        field.extend_from_slice(&[code, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
        field.extend_from_slice(part);
    }
}

/// Returns what a field says before its first zero.
fn text(field: &[u8]) -> Vec<u8> {
    field
        .iter()
        .copied()
        .take_while(|byte| *byte != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::{Decodable, Encodable, v4};
    use proptest::prelude::*;

    fn message(options: &[(u8, Vec<u8>)]) -> Message {
        Message {
            op: BOOTREPLY,
            hops: 1,
            xid: 0x1234_5678,
            secs: 9,
            broadcast: true,
            ciaddr: Ipv4Addr::new(10, 0, 0, 1),
            yiaddr: Ipv4Addr::new(10, 0, 0, 2),
            siaddr: Ipv4Addr::new(10, 0, 0, 3),
            giaddr: Ipv4Addr::new(10, 0, 0, 4),
            chaddr: MacAddr([2, 0, 0, 0, 0, 1]),
            sname: Vec::new(),
            file: Vec::new(),
            options: Options(options.to_vec()),
        }
    }

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let mut message = message(&[(53, vec![5]), (80, vec![]), (12, b"vm".to_vec())]);
        message.sname = b"boot.example".to_vec();
        message.file = b"pxelinux.0".to_vec();
        let bytes = message.emit(548);
        assert_eq!(bytes.len(), MIN_LEN, "short messages are padded");
        assert_eq!(message.kind(), Some(MessageType::Ack));
        assert_eq!(Message::parse(&bytes), Some(message));
    }

    #[test]
    fn another_implementation_reads_what_is_written() {
        let long: Vec<u8> = (0..=255).chain(0..200).collect();
        let message = message(&[
            (53, vec![2]),
            (3, vec![10, 0, 0, 4, 10, 0, 0, 5]),
            (51, vec![0, 0, 1, 0]),
            (224, long.clone()),
            (82, vec![1, 2, 7, 7]),
        ]);
        let bytes = message.emit(1472);
        let read = v4::Message::from_bytes(&bytes).unwrap();
        assert_eq!((read.xid(), read.yiaddr()), (message.xid, message.yiaddr));
        assert_eq!(
            (read.flags().broadcast(), read.chaddr()),
            (true, &message.chaddr.0[..])
        );
        assert_eq!(read.opts().msg_type(), Some(v4::MessageType::Offer));
        let routers = vec![Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 5)];
        assert_eq!(
            read.opts().get(v4::OptionCode::Router),
            Some(&v4::DhcpOption::Router(routers))
        );
        let Some(v4::DhcpOption::Unknown(option)) = read.opts().get(v4::OptionCode::Unknown(224))
        else {
            panic!("the long option is missing")
        };
        assert_eq!(option.data(), long);
    }

    #[test]
    fn what_another_implementation_writes_is_read() {
        let mut other = v4::Message::default();
        other.set_chaddr(&[2, 0, 0, 0, 0, 7]).set_xid(77);
        other
            .opts_mut()
            .insert(v4::DhcpOption::MessageType(v4::MessageType::Request));
        other
            .opts_mut()
            .insert(v4::DhcpOption::RequestedIpAddress(Ipv4Addr::new(
                10, 0, 0, 9,
            )));
        other
            .opts_mut()
            .insert(v4::DhcpOption::ClientIdentifier(vec![6; 300]));
        let read = Message::parse(&other.to_vec().unwrap()).unwrap();
        assert_eq!(
            (read.op, read.xid, read.kind()),
            (BOOTREQUEST, 77, Some(MessageType::Request))
        );
        assert_eq!(read.options.address(50), Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(
            read.options.find(61),
            Some(&[6; 300][..]),
            "the parts are joined"
        );
    }

    #[test]
    fn options_that_do_not_fit_go_into_the_empty_fields() {
        let options: Vec<_> = (0..4)
            .map(|i| (200 + i, vec![i; 100 + 10 * usize::from(i)]))
            .collect();
        let message = message(&options);
        let bytes = message.emit(548);
        assert!(bytes.len() <= 548);
        let main = &bytes[FIXED_LEN + 4..];
        assert!(
            main.windows(3)
                .any(|option| option == [code::OVERLOAD, 1, 3])
        );
        let mut read = Message::parse(&bytes).unwrap();
        read.options.0.sort();
        assert_eq!(read.options.0, options);
    }

    #[test]
    fn a_boot_file_is_not_overwritten_by_options() {
        let mut message = message(&[(200, vec![1; 250]), (201, vec![2; 50]), (202, vec![3; 99])]);
        message.file = b"pxelinux.0".to_vec();
        let read = Message::parse(&message.emit(548)).unwrap();
        assert_eq!(read.file, b"pxelinux.0");
        assert_eq!(
            read.options.find(201),
            Some(&[2; 50][..]),
            "this one went into sname"
        );
        assert_eq!(
            read.options.find(202),
            None,
            "there was no room for this one"
        );
    }

    #[test]
    fn relay_information_is_last_and_has_its_room_kept() {
        let message = message(&[(82, vec![9; 20]), (200, vec![1; 250]), (201, vec![2; 250])]);
        let bytes = message.emit(548);
        let end = bytes.iter().rposition(|byte| *byte == code::END).unwrap();
        assert_eq!(bytes[end - 22..end], [&[82, 20][..], &[9; 20]].concat());
    }

    #[test]
    fn messages_for_other_media_and_without_the_cookie_are_refused() {
        let bytes = message(&[(53, vec![1])]).emit(548);
        for (at, value) in [(1, 6), (2, 16), (FIXED_LEN, 0), (FIXED_LEN + 5, 250)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert_eq!(Message::parse(&bad), None, "byte {at}");
        }
        assert_eq!(Message::parse(&bytes[..FIXED_LEN + 3]), None);
        assert_eq!(
            Message::parse(&bytes[..FIXED_LEN + 5]),
            None,
            "a code without its length"
        );
    }

    proptest! {
        #[test]
        fn parse_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            options in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = Message::parse(&bytes);
            let mut likely = message(&[]).emit(548)[..FIXED_LEN + 4].to_vec();
            likely[44..236].iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
            likely.extend_from_slice(&[code::OVERLOAD, 1, 3]);
            likely.extend(options);
            let _ = Message::parse(&likely);
        }

        #[test]
        fn what_fits_reads_back_and_the_limit_is_kept(
            values in proptest::collection::btree_map(1..=254u8, proptest::collection::vec(any::<u8>(), 0..400), 0..8),
            sname in "[a-z]{0,63}",
            file in "[a-z]{0,127}",
            limit in 548..3000usize,
        ) {
            let options: Vec<_> = values.into_iter().filter(|(code, _)| *code != 52).collect();
            let mut written = message(&options);
            written.sname = sname.into_bytes();
            written.file = file.into_bytes();
            let written_options = &written.options;
            let bytes = written.emit(limit);
            prop_assert!((MIN_LEN..=limit).contains(&bytes.len()));
            let read = Message::parse(&bytes).unwrap();
            // A field gives way only if its content stands in an option too.
            for (option, read, written) in [(66, &read.sname, &written.sname), (67, &read.file, &written.file)] {
                prop_assert!(read == written || written_options.find(option).is_some());
            }
            for (code, value) in read.options.iter() {
                prop_assert_eq!(Some(value), written.options.find(code));
            }
            let needed: usize = options.iter().map(|(_, value)| encoded_len(value)).sum();
            let long_relay = options.iter().any(|(code, value)| *code == 82 && value.len() > 255);
            if needed + FIXED_LEN + 5 <= limit && !long_relay {
                prop_assert_eq!(read.options.0.len(), options.len());
            }
        }
    }
}
