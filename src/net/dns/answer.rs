//! Answers of other servers: whether they answer what was asked, how long they are true, and how they are passed on.
//!
//! An answer is passed on as it came, but for the identifier, the letters of the question, the times to live and EDNS,
//! which is between neighbours only. Records are not taken apart, so those of types yet to be invented pass, too.

use std::time::Duration;

use super::query::{Key, Query};
use crate::wire::dns::{
    self, CLASS_IN, Edns, HEADER_LEN, Header, Question, Record, Section, flag, kind, rcode,
};

/// The longest time that an answer is kept.
const LONGEST: Duration = Duration::from_secs(86_400);
/// The longest time that it is kept that there is nothing (RFC 2308, section 5).
const LONGEST_NEGATIVE: Duration = Duration::from_secs(3600);

/// An answer that has been read.
#[derive(Debug)]
pub(super) struct Answer {
    /// The message without EDNS.
    pub(super) message: Vec<u8>,
    /// The response code.
    pub(super) rcode: u16,
    /// Whether it was cut off.
    pub(super) truncated: bool,
    /// How long it may be kept, if at all.
    pub(super) lifetime: Option<Duration>,
}

/// Why something is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unfit {
    /// It does not belong to the question; the answer may still come.
    Foreign,
    /// It makes no sense.
    Broken,
}

/// Whether a message can be the answer to another: a response with its identifier and its question.
pub fn answers(question: &[u8], answer: &[u8]) -> bool {
    let header = Header::parse(question).zip(Header::parse(answer));
    let asked = Question::parse(question).zip(Question::parse(answer));
    header.is_some_and(|(question, answer)| {
        let without = answer.counts[0] == 0 && answer.flags & flag::RCODE != 0;
        let same = asked.is_some_and(|(question, answer)| question == answer);
        question.id == answer.id
            && answer.flags & (flag::QR | flag::OPCODE) == flag::QR
            && (without || answer.counts[0] == 1 && same)
    })
}

impl Answer {
    /// Reads the answer to a question that was asked with this identifier.
    pub(super) fn read(bytes: &[u8], id: u16, key: &Key) -> Result<Self, Unfit> {
        let header = Header::parse(bytes).ok_or(Unfit::Foreign)?;
        if header.id != id || header.flags & (flag::QR | flag::OPCODE) != flag::QR {
            return Err(Unfit::Foreign);
        }
        if header.counts[0] == 0 && header.flags & flag::RCODE != 0 {
            // Some leave out what they cannot read.
            return Err(Unfit::Broken);
        }
        let question = Question::parse(bytes).ok_or(Unfit::Foreign)?;
        let same = question.name == key.name && question.kind == key.kind;
        if header.counts[0] != 1 || !same || question.class != CLASS_IN {
            return Err(Unfit::Foreign);
        }
        let truncated = header.flags & flag::TC != 0;
        let mut kept = Header {
            counts: [1, 0, 0, 0],
            ..header
        };
        let mut end = question.end;
        let mut code = header.flags & flag::RCODE;
        let mut life = Life::default();
        for record in dns::records(bytes, header, question.end) {
            let Some(record) = record else {
                if truncated {
                    break;
                }
                return Err(Unfit::Broken);
            };
            if record.kind == kind::OPT {
                code |= u16::from(Edns::parse(&record).rcode) << 4;
                // What follows may be signed as a whole, and could refer to what was before it by its place.
                break;
            }
            life.note(&record, key.kind);
            end = record.end;
            kept.counts[1 + record.section as usize] += 1;
        }
        let mut message = bytes.get(..end).ok_or(Unfit::Broken)?.to_vec();
        kept.write(&mut message);
        Ok(Self {
            message,
            rcode: code,
            truncated,
            lifetime: (!truncated).then(|| life.lasts(code)).flatten(),
        })
    }
}

/// What is seen of an answer's records.
#[derive(Debug, Default)]
struct Life {
    shortest: Option<u32>,
    /// Whether there is what was asked for.
    positive: bool,
    /// How long it holds that there is nothing.
    minimum: Option<u32>,
}

impl Life {
    fn note(&mut self, record: &Record<'_>, asked: u16) {
        let ttl = seconds(record.ttl);
        self.shortest = Some(self.shortest.map_or(ttl, |shortest| shortest.min(ttl)));
        match record.section {
            Section::Answer => self.positive |= record.kind == asked || asked == kind::ANY,
            Section::Authority if record.kind == kind::SOA => {
                // The last of five numbers, behind two names.
                let minimum = record.data.last_chunk::<4>().copied();
                self.minimum = minimum.map(u32::from_be_bytes).map(seconds);
            }
            Section::Authority | Section::Additional => {}
        }
    }

    fn lasts(&self, code: u16) -> Option<Duration> {
        let shortest = Duration::from_secs(self.shortest?.into());
        let lasts = match code {
            rcode::NOERROR if self.positive => shortest.min(LONGEST),
            rcode::NOERROR | rcode::NXDOMAIN => shortest
                .min(Duration::from_secs(self.minimum?.into()))
                .min(LONGEST_NEGATIVE),
            _ => return None,
        };
        Some(lasts).filter(|lasts| !lasts.is_zero())
    }
}

/// Returns a time to live; one with its first bit set stands for none (RFC 2181, section 8).
const fn seconds(ttl: u32) -> u32 {
    if ttl >> 31 == 0 { ttl } else { 0 }
}

/// Returns an answer, which is some seconds old, as the answer to a question that asks for the same.
pub(super) fn pass_on(answer: &[u8], query: &Query, age: u32) -> Vec<u8> {
    let mut reply = answer.to_vec();
    let Some(mut header) = Header::parse(answer) else {
        return query.refuse(rcode::SERVFAIL);
    };
    let end = HEADER_LEN + query.question.len();
    for record in dns::records(answer, header, end).map_while(|record| record) {
        let left = seconds(record.ttl).saturating_sub(age);
        if let Some(field) = reply.get_mut(record.ttl_at..record.ttl_at + 4) {
            field.copy_from_slice(&left.to_be_bytes());
        }
    }
    header.id = query.id;
    let theirs = header.flags & (flag::TC | flag::AD | flag::RCODE);
    let asked = query.key.flags & (flag::RD | flag::CD);
    header.flags = flag::QR | flag::RA | theirs | asked;
    header.write(&mut reply);
    if let Some(question) = reply.get_mut(HEADER_LEN..end) {
        question.copy_from_slice(&query.question);
    }
    reply
}
