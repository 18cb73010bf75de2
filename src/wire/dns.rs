//! DNS messages (RFC 1035, section 4) with EDNS (RFC 6891): as much as a server at a gateway reads and writes.
//!
//! Names are read where they must not be compressed, in the question; those of records are only passed over. So no
//! pointer is ever followed, and reading a message takes time proportional to its length.

use std::fmt;
use std::net::IpAddr;

use super::{be16, be32};

/// Length of the header.
pub const HEADER_LEN: usize = 12;
/// Length of an OPT record without options.
pub const OPT_LEN: usize = 11;
/// The class of the Internet.
pub const CLASS_IN: u16 = 1;
/// The longest name.
const NAME_LEN: usize = 255;
/// The longest label.
const LABEL_LEN: usize = 63;
/// Where the name of the question is, as a compressed name.
const QUESTION: [u8; 2] = [0xc0, 0x0c];

/// Types of records.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server of a zone.
    pub const NS: u16 = 2;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// The kind of a host; also what stands for everything (RFC 8482).
    pub const HINFO: u16 = 13;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// The signer of a zone below.
    pub const DS: u16 = 43;
    /// A key of a zone.
    pub const DNSKEY: u16 = 48;
    /// From here on types of questions only: transaction keys and transfers of zones.
    pub const META: u16 = 249;
    /// Everything.
    pub const ANY: u16 = 255;
}

/// Bits of the second word of the header.
pub mod flag {
    /// A response.
    pub const QR: u16 = 0x8000;
    /// The operation.
    pub const OPCODE: u16 = 0x7800;
    /// An answer of the authority.
    pub const AA: u16 = 0x0400;
    /// Cut off.
    pub const TC: u16 = 0x0200;
    /// Recursion is desired.
    pub const RD: u16 = 0x0100;
    /// Recursion is available.
    pub const RA: u16 = 0x0080;
    /// Authentic data.
    pub const AD: u16 = 0x0020;
    /// Checking is disabled.
    pub const CD: u16 = 0x0010;
    /// The response code.
    pub const RCODE: u16 = 0x000f;
}

/// Response codes.
pub mod rcode {
    /// Nothing is wrong.
    pub const NOERROR: u16 = 0;
    /// The question cannot be read.
    pub const FORMERR: u16 = 1;
    /// The server failed.
    pub const SERVFAIL: u16 = 2;
    /// There is no such name.
    pub const NXDOMAIN: u16 = 3;
    /// The operation is not known.
    pub const NOTIMP: u16 = 4;
    /// The server does not want to.
    pub const REFUSED: u16 = 5;
}

/// A name in lower case, in the form of the wire without compression.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Reads a name that is not compressed, and returns where it ends.
    pub fn read(message: &[u8], from: usize) -> Option<(Self, usize)> {
        let mut at = from;
        loop {
            let len = usize::from(*message.get(at)?);
            if len > LABEL_LEN {
                return None;
            }
            at += 1 + len;
            if at - from > NAME_LEN {
                return None;
            }
            if len == 0 {
                // The bytes of lengths are no letters.
                let bytes = message.get(from..at)?.to_ascii_lowercase();
                return Some((Self(bytes.into()), at));
            }
        }
    }

    /// Makes a name of labels with dots between them; the root is an empty text.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut bytes = Vec::with_capacity(text.len() + 2);
        for label in text.split('.').filter(|_| !text.is_empty()) {
            if label.is_empty() || label.len() > LABEL_LEN {
                return None;
            }
            bytes.push(u8::try_from(label.len()).ok()?);
            bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        bytes.push(0);
        (bytes.len() <= NAME_LEN).then(|| Self(bytes.into()))
    }

    /// Returns the name in a zone whose labels come first.
    pub fn below(&self, zone: &Self) -> Option<Self> {
        let own = self.0.split_last()?.1;
        let bytes = [own, &zone.0].concat();
        (bytes.len() <= NAME_LEN).then(|| Self(bytes.into()))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the labels, the first first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first().filter(|(len, _)| **len > 0)?;
            let (label, next) = after.split_at_checked(usize::from(*len))?;
            rest = next;
            Some(label)
        })
    }

    /// Returns the name without its first label; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let len = usize::from(*self.0.first().filter(|len| **len > 0)?);
        Some(Self(self.0.get(1 + len..)?.into()))
    }

    /// Returns the last labels.
    pub fn last(&self, count: usize) -> Self {
        let mut name = self.clone();
        for _ in count..self.labels().count() {
            name = name.parent().unwrap_or(name);
        }
        name
    }

    /// Whether it is a name of a zone, or the zone's own.
    pub fn is_within(&self, zone: &Self) -> bool {
        let mut rest = &self.0[..];
        loop {
            if rest == &*zone.0 {
                return true;
            }
            match rest.split_first() {
                Some((len, after)) if *len > 0 => {
                    rest = after.get(usize::from(*len)..).unwrap_or_default();
                }
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// By what a response is told to belong to a question.
    pub id: u16,
    /// The bits of [`flag`].
    pub flags: u16,
    /// How many questions, answers, authorities and additional records there are said to be.
    pub counts: [u16; 4],
}

impl Header {
    /// Reads it.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut counts = [0; 4];
        for (count, at) in counts.iter_mut().zip((4..).step_by(2)) {
            *count = be16(message, at)?;
        }
        Some(Self {
            id: be16(message, 0)?,
            flags: be16(message, 2)?,
            counts,
        })
    }

    /// Writes it at the start of a message that has room for it.
    pub fn write(&self, message: &mut [u8]) {
        let [a, b, c, d] = self.counts;
        let words = [self.id, self.flags, a, b, c, d];
        for (field, word) in message.chunks_exact_mut(2).zip(words) {
            field.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// The question of a message that has one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// The name that is asked for.
    pub name: Name,
    /// The type of records that is asked for.
    pub kind: u16,
    /// The class.
    pub class: u16,
    /// Where it ends.
    pub end: usize,
}

impl Question {
    /// Reads the question behind the header.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (name, at) = Name::read(message, HEADER_LEN)?;
        Some(Self {
            name,
            kind: be16(message, at)?,
            class: be16(message, at + 2)?,
            end: at + 4,
        })
    }
}

/// A part of a message that holds records.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Whoever is responsible.
    Authority,
    /// What may be of use.
    Additional,
}

impl Section {
    /// All of them in their order.
    pub const ALL: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];
}

/// Where a record is, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The section.
    pub section: Section,
    /// Where it begins.
    pub start: usize,
    /// Whether its name is the root.
    pub is_root: bool,
    /// Its type.
    pub kind: u16,
    /// Its class; the size that its sender takes, for EDNS.
    pub class: u16,
    /// Where its time to live is.
    pub ttl_at: usize,
    /// Its time to live; a response code, version and flags for EDNS.
    pub ttl: u32,
    /// Its data.
    pub data: &'a [u8],
    /// Where it ends.
    pub end: usize,
}

/// Reads the records of a message from where its question ends. `None` stands for one that cannot be read, and ends it.
pub fn records<'a>(
    message: &'a [u8],
    header: Header,
    from: usize,
) -> impl Iterator<Item = Option<Record<'a>>> {
    let counts = header.counts;
    let sections = Section::ALL.into_iter().zip(counts.into_iter().skip(1));
    let mut at = Some(from);
    sections
        .flat_map(|(section, count)| (0..count).map(move |_| section))
        .map_while(move |section| {
            let record = read_record(message, section, at?);
            at = record.map(|record| record.end);
            Some(record)
        })
}

fn read_record(message: &[u8], section: Section, start: usize) -> Option<Record<'_>> {
    let at = pass_name(message, start)?;
    let end = at + 10 + usize::from(be16(message, at + 8)?);
    Some(Record {
        section,
        start,
        is_root: at == start + 1,
        kind: be16(message, at)?,
        class: be16(message, at + 2)?,
        ttl_at: at + 4,
        ttl: be32(message, at + 4)?,
        data: message.get(at + 10..end)?,
        end,
    })
}

/// Returns where a name ends, which may be compressed.
fn pass_name(message: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let first = *message.get(at)?;
        match first >> 6 {
            0 => at += 1 + usize::from(first),
            // A pointer leads back.
            3 if usize::from(be16(message, at)? & 0x3fff) < at => return Some(at + 2),
            _ => return None,
        }
        if at - from > NAME_LEN {
            return None;
        }
        if first == 0 {
            return Some(at);
        }
    }
}

/// What EDNS says of the sender of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Edns {
    /// How long a datagram it takes.
    pub size: u16,
    /// The version it speaks.
    pub version: u8,
    /// The upper bits of the response code.
    pub rcode: u8,
    /// Whether it wants the records of DNSSEC.
    pub dnssec: bool,
}

impl Edns {
    /// The bit for DNSSEC in what is the time to live elsewhere.
    const DNSSEC: u32 = 0x8000;

    /// Reads it from a record of type OPT.
    pub fn parse(record: &Record<'_>) -> Self {
        let [rcode, version, _, _] = record.ttl.to_be_bytes();
        Self {
            size: record.class,
            version,
            rcode,
            dnssec: record.ttl & Self::DNSSEC != 0,
        }
    }

    /// Writes a record without options.
    pub fn emit(&self) -> [u8; OPT_LEN] {
        let mut record = [0; OPT_LEN];
        record[1..3].copy_from_slice(&kind::OPT.to_be_bytes());
        record[3..5].copy_from_slice(&self.size.to_be_bytes());
        record[5] = self.rcode;
        record[6] = self.version;
        record[7] = if self.dnssec { 0x80 } else { 0 };
        record
    }
}

/// Whose record it is.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// That of the name in the question.
    Question,
    /// That of another name.
    Name(&'a Name),
}

/// Writes a message: header and question, and then records section by section.
#[derive(Clone, Debug)]
pub struct Writer {
    header: Header,
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins with an identifier, flags, and a question in the form of the wire, which may be left out.
    pub fn new(id: u16, flags: u16, question: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes.extend_from_slice(question);
        let header = Header {
            id,
            flags,
            counts: [u16::from(!question.is_empty()), 0, 0, 0],
        };
        Self { header, bytes }
    }

    /// Adds a record. Data that no record can hold is left out.
    pub fn add(&mut self, section: Section, owner: Owner<'_>, kind: u16, ttl: u32, data: &[u8]) {
        let Ok(len) = u16::try_from(data.len()) else {
            return;
        };
        match owner {
            Owner::Question => self.bytes.extend_from_slice(&QUESTION),
            Owner::Name(name) => self.bytes.extend_from_slice(name.as_bytes()),
        }
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.bytes.extend_from_slice(&ttl.to_be_bytes());
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(data);
        let count = &mut self.header.counts[1 + section as usize];
        *count = count.saturating_add(1);
    }

    /// Adds what EDNS says.
    pub fn add_edns(&mut self, edns: &Edns) {
        self.bytes.extend_from_slice(&edns.emit());
        self.header.counts[3] = self.header.counts[3].saturating_add(1);
    }

    /// Returns the message.
    pub fn finish(mut self) -> Vec<u8> {
        self.header.write(&mut self.bytes);
        self.bytes
    }
}

/// Returns the type and data of the record for an address.
pub fn address_record(ip: IpAddr) -> (u16, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (kind::A, ip.octets().into()),
        IpAddr::V6(ip) => (kind::AAAA, ip.octets().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::Message;
    use hickory_proto::rr::{self, RData};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn names_are_read_in_lower_case_and_only_uncompressed() {
        let wire = b"\x03WwW\x07Example\x00rest";
        assert_eq!(Name::read(wire, 0), Some((name("www.example"), 13)));
        assert_eq!(Name::read(b"\xc0\x00", 0), None);
        assert_eq!(Name::read(&wire[..12], 0), None);
        assert_eq!(Name::new(""), Some(name(".")));
        assert_eq!(Name::new("a..b"), None);
        assert_eq!(Name::new(&"a".repeat(64)), None);
        assert_eq!(Name::new(&["a"; 128].join(".")), None);
        assert!(Name::new(&["a"; 127].join(".")).is_some());
        assert_eq!(name("a.B.c").to_string(), "a.b.c.");
    }

    #[test]
    fn a_name_is_within_its_zones_label_by_label() {
        assert!(name("a.example").is_within(&name("example")));
        assert!(name("example").is_within(&name("EXAMPLE")));
        assert!(name("a").is_within(&name("")));
        assert!(!name("badexample").is_within(&name("example")));
        assert!(!name("example").is_within(&name("a.example")));
        assert_eq!(
            name("a").below(&name("b.c")).unwrap().parent(),
            Some(name("b.c"))
        );
        assert_eq!(name("a.b.c").last(2), name("b.c"));
        assert_eq!(name("").parent(), None);
    }

    #[test]
    fn what_is_written_is_what_another_implementation_reads() {
        let question = [name("web.lan").as_bytes(), &[0, 1, 0, 1]].concat();
        let mut writer = Writer::new(7, flag::QR | flag::AA | flag::RD, &question);
        let (kind, data) = address_record("192.0.2.1".parse().unwrap());
        writer.add(Section::Answer, Owner::Question, kind, 60, &data);
        let (kind, data) = address_record("2001:db8::1".parse().unwrap());
        writer.add(
            Section::Additional,
            Owner::Name(&name("x.lan")),
            kind,
            61,
            &data,
        );
        writer.add_edns(&Edns {
            size: 1232,
            version: 0,
            rcode: 0,
            dnssec: true,
        });
        let bytes = writer.finish();
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.id, 7);
        assert!(message.metadata.authoritative);
        let [record] = &message.answers[..] else {
            panic!("{message:?}");
        };
        assert_eq!(record.name, rr::Name::from_str("web.lan.").unwrap());
        assert_eq!(record.data, RData::A("192.0.2.1".parse().unwrap()));
        assert_eq!(message.additionals[0].ttl, 61);
        let edns = message.edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        assert_eq!(edns.max_payload(), 1232);

        let header = Header::parse(&bytes).unwrap();
        let question = Question::parse(&bytes).unwrap();
        let read: Option<Vec<_>> = records(&bytes, header, question.end).collect();
        let read = read.unwrap();
        assert_eq!(
            read.iter()
                .map(|record| (record.kind, record.ttl))
                .collect::<Vec<_>>()[..2],
            [(kind::A, 60), (kind::AAAA, 61)]
        );
        assert_eq!(Edns::parse(&read[2]).size, 1232);
        assert_eq!(read[2].end, bytes.len());
    }

    #[test]
    fn pointers_that_do_not_lead_back_end_the_message() {
        let mut bytes = Writer::new(1, flag::QR, &[0, 0, 1, 0, 1]).finish();
        bytes[7] = 1;
        let at = bytes.len();
        bytes.extend([
            0xc0,
            u8::try_from(at).unwrap(),
            0,
            1,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
        let header = Header::parse(&bytes).unwrap();
        let mut read = records(&bytes, header, at);
        assert!(read.next().unwrap().is_none());
        assert!(read.next().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Name::read(&bytes, 0);
            if let Some(header) = Header::parse(&bytes) {
                let from = Question::parse(&bytes).map_or(HEADER_LEN, |question| question.end);
                let read = records(&bytes, header, from).count();
                prop_assert!(read <= bytes.len() / OPT_LEN + 1);
            }
        }

        #[test]
        fn names_of_any_text_read_back(text in "[a-zA-Z0-9_.-]{0,300}") {
            if let Some(name) = Name::new(&text) {
                prop_assert_eq!(Name::read(name.as_bytes(), 0), Some((name.clone(), name.as_bytes().len())));
            }
        }
    }
}
