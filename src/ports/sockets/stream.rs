//! Streams that end in the daemon itself: DNS over TCP to the gateway (RFC 7766), each message after its length.
//!
//! To [`super::tcp`] such a stream is a socket like any other; here is its inner end. A stream that sends no whole message
//! for ten seconds and waits for none, or does not take its answers, is closed.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::context::Context;
use super::dial::Inner;
use super::poll::{Interest, Kind, Poll, Ready, Token};
use super::table::Table;
use crate::net::nat::expiry::{Expiry, Note};
use crate::wire::ethernet::MacAddr;

/// How long a stream may be idle (RFC 7766, section 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How much of a stream is read in one go.
const READ: usize = 16 * 1024;
/// How many answers wait to be written at most, in bytes.
const WAITING: usize = 256 * 1024;
/// How many messages of a stream are under way at most.
const MESSAGES: usize = 32;
/// How long a message is at most: far longer than any question.
const LONGEST: usize = 4096;

#[derive(Debug)]
struct Stream {
    socket: UnixStream,
    mac: MacAddr,
    guest: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Messages that have not been answered.
    asked: usize,
    /// Whether nothing more will come.
    ended: bool,
    note: Note,
    last: Instant,
}

impl Stream {
    /// Takes the whole messages out of what was read.
    fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut at = 0;
        while self.asked < MESSAGES
            && let Some(&[high, low]) = self.input.get(at..at + 2)
            && let len = usize::from(u16::from_be_bytes([high, low]))
            && len <= LONGEST
            && let Some(message) = self.input.get(at + 2..at + 2 + len)
        {
            messages.push(message.to_vec());
            self.asked += 1;
            at += 2 + len;
        }
        self.input.drain(..at);
        messages
    }

    /// Whether a message is begun that is too long to be a question.
    fn is_absurd(&self) -> bool {
        let len = self.input.first_chunk::<2>();
        len.is_some_and(|len| usize::from(u16::from_be_bytes(*len)) > LONGEST)
    }

    /// Whether more should be read.
    const fn is_hungry(&self) -> bool {
        !self.ended && self.asked < MESSAGES && self.output.len() < WAITING
    }

    fn interest(&self) -> Interest {
        Interest {
            read: self.is_hungry(),
            write: !self.output.is_empty(),
            edge: false,
        }
    }

    /// Writes what waits; tells whether the stream is still good.
    fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(0) => return false,
                Ok(written) => {
                    self.output.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        // A stream that has ended is done when all is answered.
        !(self.ended && self.asked == 0 && self.output.is_empty())
    }

    /// Reads what there is, once; tells whether the stream is still good.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; READ];
        match self.socket.read(&mut bytes) {
            Ok(0) => {
                self.ended = true;
                true
            }
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                true
            }
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        }
    }
}

/// The local streams of a network.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: Table<Stream>,
    messages: Vec<(u64, SocketAddr, Vec<u8>)>,
    expiry: Expiry,
    /// Streams that were found broken while nobody could be told.
    broken: Vec<Note>,
}

impl Streams {
    /// Takes over the streams that were opened lately.
    pub(super) fn adopt(&mut self, cx: &mut Context<'_>) {
        for note in std::mem::take(&mut self.broken) {
            if self.streams.is_current(note) {
                self.close(note.id, cx);
            }
        }
        for inner in cx.dialer.take_opened() {
            self.add(inner, cx);
        }
    }

    fn add(&mut self, inner: Inner, cx: &mut Context<'_>) {
        let Inner { socket, mac, guest } = inner;
        let vacant = self.streams.vacant();
        let watched = vacant.is_some_and(|note| {
            let token = Token {
                kind: Kind::Stream,
                id: note.id,
            };
            cx.poll.add(socket.as_fd(), token, Interest::READ).is_ok()
        });
        let (Some(note), true) = (vacant, watched) else {
            cx.dialer.stream_ended(mac);
            return;
        };
        self.expiry.push(cx.now.instant + IDLE, note);
        self.streams.insert(Stream {
            socket: socket.into(),
            mac,
            guest,
            input: Vec::new(),
            output: Vec::new(),
            asked: 0,
            ended: false,
            note,
            last: cx.now.instant,
        });
    }

    /// Reads and writes what is possible.
    pub(super) fn ready(&mut self, id: u32, ready: Ready, cx: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        let mut good = true;
        if (ready.read || ready.ended) && stream.is_hungry() {
            good = stream.fill();
        }
        let number = number(stream.note);
        for message in stream.messages() {
            stream.last = cx.now.instant;
            self.messages.push((number, stream.guest, message));
        }
        // Where both directions have ended nobody takes an answer.
        good = good && !ready.error && !ready.hung_up && !stream.is_absurd();
        good = good && stream.flush();
        let token = Token {
            kind: Kind::Stream,
            id,
        };
        let interest = stream.interest();
        if !good
            || cx
                .poll
                .modify(stream.socket.as_fd(), token, interest)
                .is_err()
        {
            self.close(id, cx);
        }
    }

    fn close(&mut self, id: u32, cx: &mut Context<'_>) {
        if let Some(stream) = self.streams.remove(id) {
            cx.dialer.stream_ended(stream.mac);
        }
    }

    /// Takes the messages that have come: the stream, whose it is, and the message.
    pub(super) fn take_messages(&mut self) -> Vec<(u64, SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.messages)
    }

    /// Answers on a stream, if it is still there.
    pub(super) fn send_message(&mut self, number: u64, message: &[u8], poll: &Poll) {
        let note = note(number);
        if !self.streams.is_current(note) {
            return;
        }
        let (Some(stream), Ok(len)) = (self.streams.get_mut(note.id), u16::try_from(message.len()))
        else {
            return;
        };
        stream.asked = stream.asked.saturating_sub(1);
        stream.output.extend(len.to_be_bytes());
        stream.output.extend_from_slice(message);
        let mut good = stream.output.len() < 2 * WAITING && stream.flush();
        // What was read before, and was too much then.
        for message in stream.messages() {
            self.messages.push((number, stream.guest, message));
        }
        let token = Token {
            kind: Kind::Stream,
            id: note.id,
        };
        let interest = stream.interest();
        good = good && poll.modify(stream.socket.as_fd(), token, interest).is_ok();
        if !good {
            self.broken.push(note);
        }
    }

    /// The next time at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.expiry.poll_timeout()
    }

    /// Closes streams that are idle.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        while let Some(note) = self.expiry.pop(now) {
            if !self.streams.is_current(note) {
                continue;
            }
            let Some(stream) = self.streams.get(note.id) else {
                continue;
            };
            let due = stream.last + IDLE;
            if due > now {
                self.expiry.push(due, note);
            } else {
                self.close(note.id, cx);
            }
        }
    }
}

fn number(note: Note) -> u64 {
    u64::from(note.serial) << 32 | u64::from(note.id)
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are meant")]
const fn note(number: u64) -> Note {
    Note {
        id: number as u32,
        serial: (number >> 32) as u32,
    }
}
