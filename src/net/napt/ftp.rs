//! Active FTP (RFC 959, RFC 2428): a guest tells a server where to connect to, and must tell it the translator's address.
//!
//! # Theory of operation
//!
//! The control connection of a flow to port 21 is read from the guest's side. A segment that is one command `PORT` or `EPRT`, with
//! the guest's own address, gets the address outside and the port that the guest's data port is mapped to. The server's
//! connection to that port is expected for [`PATIENCE`]; from nobody else, so that nobody can be made to connect elsewhere.
//!
//! The command may get longer or shorter, so from then on sequence numbers from the guest and acknowledgements to it are moved by the
//! difference. A retransmission of the command is moved as it was when it came first. Selective acknowledgements are not agreed on:
//! the option is taken out of the SYN. Passive FTP needs none of this.

use std::collections::VecDeque;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::net::napt::Side;
use crate::net::napt::fragments::seal;
use crate::net::napt::key::{Address, Random};
use crate::net::napt::mapping::Mappings;
use crate::net::napt::packet::Packet;
use crate::net::napt::tcp_state::SYN;
use crate::net::nat::Protocol;
use crate::wire::be32;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_LEN, MacAddr};
use crate::wire::ipv4::PROTOCOL_TCP;

/// For how many seconds a server's connection is expected.
const PATIENCE: u32 = 120;
/// How many are expected at once.
const EXPECTED: usize = 1024;
/// The longest command that is looked for.
const COMMAND: usize = 80;
const TCP_LEN: usize = 20;

/// By how much the stream of a guest has grown.
#[derive(Clone, Copy, Debug, Default)]
struct Shift {
    /// The sequence number of the last command that was changed, as the guest counts.
    at: u32,
    /// What is added up to it, and behind it.
    before: u32,
    behind: u32,
}

/// Control connections, and what is expected because of them.
#[derive(Debug)]
pub(super) struct Control<A> {
    shifts: HashMap<u32, Shift, RandomState>,
    expected: HashMap<u16, Expected<A>, RandomState>,
    /// In the order of their end.
    ends: VecDeque<(u32, u16)>,
}

/// What a command is changed with: the address outside, and the ports there.
pub(super) struct Ports<'a, A> {
    pub(super) own: A,
    /// The guest's hardware address.
    pub(super) mac: MacAddr,
    pub(super) now: u32,
    pub(super) mappings: &'a mut Mappings<A>,
    pub(super) random: &'a mut Random,
}

#[derive(Debug)]
struct Expected<A> {
    server: A,
    mapping: u32,
    until: u32,
}

impl<A: Address> Control<A> {
    /// Begins without any.
    pub(super) fn new() -> Self {
        Self {
            shifts: HashMap::default(),
            expected: HashMap::default(),
            ends: VecDeque::new(),
        }
    }

    /// Whether a server is to connect to a port outside.
    pub(super) fn is_expected(&self, port: u16, server: A, now: u32) -> bool {
        self.expected
            .get(&port)
            .is_some_and(|expected| expected.server == server && expected.until >= now)
    }

    /// Forgets the control connection of a flow.
    pub(super) fn forget(&mut self, number: u32) {
        self.shifts.remove(&number);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, mappings: &mut Mappings<A>) {
        self.expire(u32::MAX, mappings);
        self.shifts.clear();
    }

    /// Forgets what is not expected any more.
    pub(super) fn expire(&mut self, now: u32, mappings: &mut Mappings<A>) {
        while let Some((end, port)) = self.ends.front().copied()
            && end < now
        {
            self.ends.pop_front();
            // It may have been expected anew since.
            let over = self.expected.get(&port);
            if over.is_some_and(|expected| expected.until < now)
                && let Some(expected) = self.expected.remove(&port)
            {
                mappings.release(expected.mapping);
            }
        }
    }

    /// The second in which the first is not expected any more.
    pub(super) fn next_second(&self) -> Option<u32> {
        self.ends.front().map(|(end, _)| end + 1)
    }

    /// Has a connection to a guest's port expected, and returns its port outside.
    fn expect(&mut self, guest: (A, u16), server: A, ports: Ports<'_, A>) -> Option<u16> {
        let Ports {
            mac,
            now,
            mappings,
            random,
            ..
        } = ports;
        if self.ends.len() >= EXPECTED {
            return None;
        }
        let (mapping, port) = mappings.acquire(guest, mac, Protocol::Tcp, random)?;
        let expected = Expected {
            server,
            mapping,
            until: now + PATIENCE,
        };
        if let Some(before) = self.expected.insert(port, expected) {
            mappings.release(before.mapping);
        }
        self.ends.push_back((now + PATIENCE, port));
        Some(port)
    }

    /// Reads a segment of a control connection and changes what must be, before it is translated.
    ///
    /// `None` where its headers are not all there.
    pub(super) fn edit(
        &mut self,
        number: u32,
        side: Side,
        frame: &mut Vec<u8>,
        packet: &mut Packet<A>,
        ports: Ports<'_, A>,
    ) -> Option<()> {
        let tcp = packet.at;
        let header_len = usize::from(*frame.get(tcp + 12)? >> 4) * 4;
        let (sequence, acknowledged) = (be32(frame, tcp + 4)?, be32(frame, tcp + 8)?);
        let options = frame.get_mut(tcp + TCP_LEN..tcp + header_len)?;
        let mut changed = packet.flags & SYN != 0 && refuse_selective(options);
        let start = tcp + header_len;
        let end = (start + packet.payload).min(frame.len());
        let mut shift = self.shifts.get(&number).copied().unwrap_or_default();
        if side == Side::Inside
            && let Some((guest, style)) = frame.get(start..end).and_then(command::<A>)
            && guest.0 == packet.src
            && guest.1 >= 1024
            && let own = ports.own.into()
            && let Some(port) = self.expect(guest, packet.dst, ports)
        {
            let told = style.write(own, port);
            let grown = told.len().wrapping_sub(end - start);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a difference of some bytes, modulo"
            )]
            let grown = grown as u32;
            if shift.at != sequence || !self.shifts.contains_key(&number) {
                shift.before = shift.behind;
                shift.behind = shift.behind.wrapping_add(grown);
                shift.at = sequence;
                self.shifts.insert(number, shift);
            }
            frame.truncate(end);
            frame.splice(start..end, told.bytes());
            packet.payload = told.len();
            packet.size = frame.len() - HEADER_LEN;
            changed = true;
        }
        if self.shifts.contains_key(&number) {
            let after = |number: u32, than: u32| number.wrapping_sub(than).cast_signed() > 0;
            match side {
                Side::Inside => {
                    let behind = after(sequence, shift.at);
                    let by = if behind { shift.behind } else { shift.before };
                    let moved = sequence.wrapping_add(by);
                    frame[tcp + 4..tcp + 8].copy_from_slice(&moved.to_be_bytes());
                    changed |= by != 0;
                }
                Side::Outside => {
                    let behind = after(acknowledged.wrapping_sub(shift.before), shift.at);
                    let by = if behind { shift.behind } else { shift.before };
                    let moved = acknowledged.wrapping_sub(by);
                    frame[tcp + 8..tcp + 12].copy_from_slice(&moved.to_be_bytes());
                    changed |= by != 0;
                }
            }
        }
        if changed {
            seal_tcp(frame, packet)?;
        }
        Some(())
    }
}

/// Takes the option that allows selective acknowledgements out of a SYN; tells whether it was there.
fn refuse_selective(options: &mut [u8]) -> bool {
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        let len = match (kind, options.get(at + 1)) {
            (0, _) => return false,
            (1, _) => 1,
            (4, Some(2)) => {
                options[at..at + 2].fill(1);
                return true;
            }
            (_, Some(len)) if *len >= 2 => usize::from(*len),
            (_, _) => return false,
        };
        at += len;
    }
    false
}

/// Writes the lengths and checksums of a TCP segment that was changed.
fn seal_tcp<A: Address>(frame: &mut [u8], packet: &Packet<A>) -> Option<()> {
    let end = HEADER_LEN + packet.size;
    if A::V6 {
        let len = u16::try_from(packet.size - A::HEADER_LEN).ok()?;
        frame[HEADER_LEN + 4..HEADER_LEN + 6].copy_from_slice(&len.to_be_bytes());
    } else {
        let len = u16::try_from(packet.size).ok()?;
        frame[HEADER_LEN + 2..HEADER_LEN + 4].copy_from_slice(&len.to_be_bytes());
        seal(frame.get_mut(HEADER_LEN..)?)?;
    }
    let len = u16::try_from(end - packet.at).ok()?;
    let pseudo = Sum::default()
        .add_word(packet.src.sum().fold())
        .add_word(packet.dst.sum().fold())
        .add_word(u16::from(PROTOCOL_TCP))
        .add_word(len);
    let tcp = frame.get_mut(packet.at..end)?;
    tcp.get_mut(16..18)?.fill(0);
    let sum = if packet.partial {
        pseudo.fold()
    } else {
        pseudo.over(tcp).finish()
    };
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// How a command names an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Style {
    /// PORT h,h,h,h,p,p (RFC 959).
    Port,
    /// EPRT |f|address|port| (RFC 2428).
    Extended,
}

impl Style {
    fn write(self, ip: IpAddr, port: u16) -> String {
        match (self, ip) {
            (Self::Port, IpAddr::V4(ip)) => {
                let ([a, b, c, d], [e, f]) = (ip.octets(), port.to_be_bytes());
                format!("PORT {a},{b},{c},{d},{e},{f}\r\n")
            }
            (Self::Extended, IpAddr::V4(_)) => format!("EPRT |1|{ip}|{port}|\r\n"),
            (Self::Port | Self::Extended, IpAddr::V6(_)) => format!("EPRT |2|{ip}|{port}|\r\n"),
        }
    }
}

/// Reads a payload that is one command.
fn command<A: Address>(payload: &[u8]) -> Option<((A, u16), Style)> {
    if payload.len() > COMMAND {
        return None;
    }
    let line = str::from_utf8(payload).ok()?.strip_suffix("\r\n")?;
    let (word, argument) = line.split_once(' ')?;
    let (ip, port, style): (IpAddr, u16, Style) = if word.eq_ignore_ascii_case("PORT") {
        let mut numbers = [0u8; 6];
        let mut parts = argument.trim().split(',');
        for number in &mut numbers {
            *number = parts.next()?.parse().ok()?;
        }
        let [a, b, c, d, e, f] = numbers;
        let port = u16::from_be_bytes([e, f]);
        parts.next().is_none().then_some(())?;
        ([a, b, c, d].into(), port, Style::Port)
    } else if word.eq_ignore_ascii_case("EPRT") {
        let argument = argument.trim();
        let delimiter = argument.chars().next()?;
        let mut parts = argument.split(delimiter).skip(1);
        let family = parts.next()?;
        let ip: IpAddr = parts.next()?.parse().ok()?;
        (family == if ip.is_ipv4() { "1" } else { "2" }).then_some(())?;
        (ip, parts.next()?.parse().ok()?, Style::Extended)
    } else {
        return None;
    };
    Some(((A::of(ip)?, port), style))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn commands_are_read_in_all_their_forms() {
        let v4 = |text: &str| command::<Ipv4Addr>(text.as_bytes());
        let ten = Ipv4Addr::new(10, 0, 0, 5);
        let read = Some(((ten, 1025), Style::Port));
        assert_eq!(v4("PORT 10,0,0,5,4,1\r\n"), read);
        assert_eq!(v4("port 10,0,0,5,4,1\r\n"), read);
        let read = Some(((ten, 1025), Style::Extended));
        assert_eq!(v4("EPRT |1|10.0.0.5|1025|\r\n"), read);
        assert_eq!(
            command::<Ipv6Addr>(b"EPRT |2|fd00::5|1025|\r\n"),
            Some((("fd00::5".parse().unwrap(), 1025), Style::Extended))
        );
        for text in [
            "PORT 10,0,0,5,4,1",
            "PORT 10,0,0,5,4\r\n",
            "PORT 10,0,0,5,4,1,1\r\n",
            "PORT 10,0,0,5,4,256\r\n",
            "EPRT |2|10.0.0.5|1025|\r\n",
            "EPRT |1|fd00::5|1025|\r\n",
            "EPRT \r\n",
            "LIST\r\n",
            "",
        ] {
            assert_eq!(v4(text), None, "{text:?}");
        }
    }

    #[test]
    fn selective_acknowledgements_are_taken_out_of_the_options() {
        let mut options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(refuse_selective(&mut options));
        assert_eq!(options[4..6], [1, 1]);
        assert!(!refuse_selective(&mut options));
        assert!(!refuse_selective(&mut [3, 0, 4, 2]));
        assert!(!refuse_selective(&mut [4]));
    }
}
