//! Questions as guests ask them, and the form of every reply: identifier, bits, question and EDNS fit what was asked.

use crate::wire::dns::{
    self, Edns, HEADER_LEN, Header, Name, OPT_LEN, Question, Section, Writer, flag, kind, rcode,
};

/// How long a datagram we take: what passes everywhere without being cut to pieces.
pub(super) const DATAGRAM: u16 = 1232;
/// How long a datagram everybody takes.
pub(super) const SMALLEST: u16 = 512;
/// The upper bits of the response code that stands for a version of EDNS that is not known (16).
const BADVERS: u8 = 1;

/// What is asked for: by this, answers are kept, and equal questions joined.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub(super) name: Name,
    pub(super) kind: u16,
    /// The bits that can make a difference: RD, AD and CD.
    pub(super) flags: u16,
    /// Whether the records of DNSSEC are wanted.
    pub(super) dnssec: bool,
}

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) id: u16,
    pub(super) key: Key,
    pub(super) class: u16,
    /// The question as it was written, with its own letters.
    pub(super) question: Vec<u8>,
    pub(super) edns: Option<Edns>,
}

/// What a message turns out to be.
#[derive(Debug)]
pub(super) enum Reading {
    /// A question.
    Query(Query),
    /// Something else, which is replied to with this.
    Reply(Vec<u8>),
    /// Nothing that may be replied to.
    Nothing,
}

impl Query {
    /// Reads a message. Responses are never replied to: two servers could go on for ever.
    pub(super) fn read(message: &[u8]) -> Reading {
        let Some(header) = Header::parse(message) else {
            return Reading::Nothing;
        };
        if header.flags & flag::QR != 0 {
            return Reading::Nothing;
        }
        let kept = flag::QR | header.flags & (flag::OPCODE | flag::RD);
        let refuse = |rcode| Reading::Reply(Writer::new(header.id, kept | rcode, &[]).finish());
        if header.flags & flag::OPCODE != 0 {
            return refuse(rcode::NOTIMP);
        }
        if header.counts[0] != 1 {
            return refuse(rcode::FORMERR);
        }
        let Some(question) = Question::parse(message) else {
            return refuse(rcode::FORMERR);
        };
        let mut edns = None;
        for record in dns::records(message, header, question.end) {
            let Some(record) = record else {
                return refuse(rcode::FORMERR);
            };
            if record.kind != kind::OPT {
                continue;
            }
            let misplaced = record.section != Section::Additional || !record.is_root;
            if misplaced || edns.is_some() {
                return refuse(rcode::FORMERR);
            }
            edns = Some(Edns::parse(&record));
        }
        let asked = message.get(HEADER_LEN..question.end).unwrap_or_default();
        if edns.is_some_and(|edns| edns.version > 0) {
            let mut reply = Writer::new(header.id, kept, asked);
            reply.add_edns(&Edns {
                size: DATAGRAM,
                version: 0,
                rcode: BADVERS,
                dnssec: false,
            });
            return Reading::Reply(reply.finish());
        }
        Reading::Query(Self {
            id: header.id,
            key: Key {
                name: question.name,
                kind: question.kind,
                flags: header.flags & (flag::RD | flag::AD | flag::CD),
                dnssec: edns.is_some_and(|edns| edns.dnssec),
            },
            class: question.class,
            question: asked.to_vec(),
            edns,
        })
    }

    /// Returns how long a datagram the one who asks takes.
    pub(super) fn datagram(&self) -> usize {
        let size = self.edns.map_or(SMALLEST, |edns| edns.size);
        usize::from(size.max(SMALLEST))
    }

    /// Begins a reply.
    pub(super) fn reply(&self, flags: u16) -> Writer {
        let kept = self.key.flags & (flag::RD | flag::CD);
        Writer::new(self.id, flag::QR | kept | flags, &self.question)
    }

    /// Returns a reply that is nothing but a response code.
    pub(super) fn refuse(&self, rcode: u16) -> Vec<u8> {
        self.reply(rcode).finish()
    }

    /// Gives a reply EDNS if that was asked with, and cuts it to a length: without a word where only additional records
    /// are lost, else marked as cut, with those answers that fit.
    pub(super) fn fit(&self, mut reply: Vec<u8>, limit: usize) -> Vec<u8> {
        let limit = limit.saturating_sub(self.edns.map_or(0, |_| OPT_LEN));
        if reply.len() > limit {
            cut(&mut reply, limit);
        }
        if let Some(edns) = self.edns
            && let Some(mut header) = Header::parse(&reply)
        {
            header.counts[3] = header.counts[3].saturating_add(1);
            header.write(&mut reply);
            let own = Edns {
                size: DATAGRAM,
                version: 0,
                rcode: 0,
                dnssec: edns.dnssec,
            };
            reply.extend_from_slice(&own.emit());
        }
        reply
    }
}

/// Cuts a message to a length, which it has room for the question in.
fn cut(message: &mut Vec<u8>, limit: usize) {
    let Some(mut header) = Header::parse(message) else {
        return;
    };
    let question = Question::parse(message).map_or(HEADER_LEN, |question| question.end);
    let mut kept = (question, [header.counts[0], 0, 0, 0]);
    let mut whole = kept;
    for record in dns::records(message, header, question) {
        let Some(record) = record.filter(|record| record.section != Section::Additional) else {
            break;
        };
        let is_answer = record.section == Section::Answer;
        if record.end > limit {
            // Who is responsible matters only where there is no answer.
            if is_answer || kept.1[1] == 0 {
                header.flags |= flag::TC;
            }
            whole = kept;
            break;
        }
        whole.0 = record.end;
        whole.1[1 + record.section as usize] += 1;
        if is_answer {
            kept = whole;
        }
    }
    let end;
    (end, header.counts) = whole;
    message.truncate(end);
    header.write(message);
}
