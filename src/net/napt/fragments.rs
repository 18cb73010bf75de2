//! Fragments, in order and out of order (RFC 4787, REQ-14), and packets that are cut because the next link is too small (RFC 791).
//!
//! # Theory of operation
//!
//! Only the first fragment of a packet has ports. It is translated like a whole packet, and what became of its addresses is the
//! *path* that all fragments of the packet go, for [`LIFETIME`]. Those that come before it wait for it; nothing is reassembled.
//! Since two guests may use the same identification towards one remote, those of IPv4 get one of the translator's own.
//!
//! What is known and what waits is bounded, in all and for each sender. Who sends more packets than are remembered of one has
//! the oldest forgotten, whose parts have most likely passed; what does not fit otherwise is dropped. Fragments that would overwrite a TCP header
//! (RFC 3128), or a first one too small to hold the transport header (RFC 1858), are refused. Overlaps are the receiver's business.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::net::napt::key::{Address, Ends};
use crate::net::napt::packet::Ip;
use crate::net::napt::{Side, Verdict};
use crate::wire::be16;
use crate::wire::checksum::checksum;
use crate::wire::ethernet::{HEADER_LEN, MacAddr};
use crate::wire::ipv4::PROTOCOL_TCP;

/// How many seconds a packet's fragments belong together; at least 2 (RFC 6146, section 4).
const LIFETIME: u32 = 5;
/// How many packets are known at once, and how many of one sender.
const PACKETS: usize = 2048;
const PACKETS_OF_ONE: usize = 256;
/// How many fragments wait for their first, in all, and of one packet: 64 KiB in 1,280 bytes each.
const WAITING: usize = 256;
const WAITING_OF_ONE: usize = 52;
const TCP_LEN: u16 = 20;

/// What the fragments of a packet share.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key<A> {
    side: u8,
    src: A,
    dst: A,
    id: u32,
    protocol: u8,
}

/// Where the fragments of a packet go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<A> {
    src: A,
    dst: A,
    /// The hardware addresses, as they are in a frame.
    macs: [u8; 12],
    /// The identification of IPv4, where it is another.
    id: Option<u16>,
    pub(super) verdict: Verdict,
    /// The side that the fragments came from, and what tells their flow apart there.
    pub(super) side: Side,
    pub(super) ends: Ends<A>,
}

#[derive(Debug)]
struct Entry<A> {
    sender: MacAddr,
    /// Which packet it is, of all that there have been.
    number: u64,
    path: Option<Path<A>>,
    waiting: Vec<Vec<u8>>,
}

/// What becomes of a fragment that is not the first.
#[derive(Debug)]
pub(super) enum Part<A> {
    /// It goes where the first went.
    Goes(Path<A>),
    /// It waits for the first, or was dropped.
    Waits,
}

/// Packets whose fragments have come lately.
#[derive(Debug)]
pub(super) struct Fragments<A> {
    entries: HashMap<Key<A>, Entry<A>, RandomState>,
    /// In the order of their end; some are there no more.
    ends: VecDeque<(u32, u64, Key<A>)>,
    /// How many packets there have been.
    count: u64,
    /// Those of each sender, the oldest first.
    senders: HashMap<MacAddr, VecDeque<Key<A>>, RandomState>,
    waiting: usize,
    id: u16,
}

impl<A: Address> Fragments<A> {
    /// Begins without any.
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::default(),
            ends: VecDeque::new(),
            count: 0,
            senders: HashMap::default(),
            waiting: 0,
            id: 0,
        }
    }

    /// Takes in that the first fragment was passed on and has become `frame`, and changes its identification. Returns what waited for it.
    pub(super) fn first_passed(
        &mut self,
        (side, sender): (Side, MacAddr),
        ip: &Ip<A>,
        ends: Ends<A>,
        frame: &mut [u8],
        verdict: Verdict,
        now: u32,
    ) -> Option<(Path<A>, Vec<Vec<u8>>)> {
        let key = key(side, ip)?;
        let known = self.entries.get(&key).and_then(|entry| entry.path);
        let id = if A::V6 || side == Side::Outside {
            None
        } else if let Some(path) = known {
            path.id
        } else {
            self.id = self.id.wrapping_add(1);
            Some(self.id)
        };
        let header = frame.get(HEADER_LEN..)?;
        let path = Path {
            src: A::read(header.get(A::SRC_AT..A::SRC_AT + A::LEN)?),
            dst: A::read(header.get(A::DST_AT..A::DST_AT + A::LEN)?),
            macs: frame.get(..12)?.try_into().ok()?,
            id,
            verdict,
            side,
            ends,
        };
        path.apply(frame, false)?;
        let Some(entry) = self.entry(key, sender, now) else {
            return Some((path, Vec::new()));
        };
        entry.path = Some(path);
        let waiting = std::mem::take(&mut entry.waiting);
        self.waiting -= waiting.len();
        Some((path, waiting))
    }

    /// Tells where a fragment that is not the first goes, or keeps it until that is known.
    pub(super) fn later(
        &mut self,
        side: Side,
        ip: &Ip<A>,
        sender: MacAddr,
        frame: &[u8],
        now: u32,
    ) -> Option<Part<A>> {
        let offset = ip.fragment?.offset;
        if ip.protocol == PROTOCOL_TCP && offset < TCP_LEN {
            return None;
        }
        let room = self.waiting < WAITING;
        let entry = self.entry(key(side, ip)?, sender, now)?;
        if let Some(path) = entry.path {
            return Some(Part::Goes(path));
        }
        if !room || entry.waiting.len() >= WAITING_OF_ONE {
            return None;
        }
        entry.waiting.push(frame.to_vec());
        self.waiting += 1;
        Some(Part::Waits)
    }

    /// Returns what is known of a packet. Where its sender has as many as it may, it gives up the oldest, all of which
    /// has most likely passed.
    fn entry(&mut self, key: Key<A>, sender: MacAddr, now: u32) -> Option<&mut Entry<A>> {
        if !self.entries.contains_key(&key) {
            let known = self.senders.get(&sender);
            let (share, oldest) = known.map_or((0, None), |keys| (keys.len(), keys.front()));
            if share >= PACKETS_OF_ONE || self.entries.len() >= PACKETS {
                let oldest = *oldest?;
                self.forget(&oldest);
            }
            if self.ends.len() >= 2 * PACKETS {
                let entries = &self.entries;
                self.ends.retain(|(_, number, key)| {
                    entries
                        .get(key)
                        .is_some_and(|entry| entry.number == *number)
                });
            }
            self.count += 1;
            let number = self.count;
            self.senders.entry(sender).or_default().push_back(key);
            self.ends.push_back((now + LIFETIME, number, key));
            let entry = Entry {
                sender,
                number,
                path: None,
                waiting: Vec::new(),
            };
            self.entries.insert(key, entry);
        }
        self.entries.get_mut(&key)
    }

    fn forget(&mut self, key: &Key<A>) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.waiting -= entry.waiting.len();
        let Some(keys) = self.senders.get_mut(&entry.sender) else {
            return;
        };
        // It is the oldest.
        if let Some(at) = keys.iter().position(|known| known == key) {
            keys.remove(at);
        }
        if keys.is_empty() {
            self.senders.remove(&entry.sender);
        }
    }

    /// Forgets what has been there for too long.
    pub(super) fn expire(&mut self, now: u32) {
        while let Some((end, number, key)) = self.ends.front().copied()
            && end < now
        {
            let known = self.entries.get(&key);
            if known.is_some_and(|entry| entry.number == number) {
                self.forget(&key);
            }
            self.ends.pop_front();
        }
    }

    /// The second in which the first is forgotten.
    pub(super) fn next_second(&self) -> Option<u32> {
        self.ends.front().map(|(end, ..)| end + 1)
    }
}

fn key<A: Address>(side: Side, ip: &Ip<A>) -> Option<Key<A>> {
    Some(Key {
        side: side as u8,
        src: ip.src,
        dst: ip.dst,
        id: ip.fragment?.id,
        // What follows the header of a fragment is told by the first only (RFC 8200, section 4.5).
        protocol: if A::V6 { 0 } else { ip.protocol },
    })
}

impl<A: Address> Path<A> {
    /// Writes the path into a frame; `hop` counts down how many routers may pass it on.
    pub(super) fn apply(&self, frame: &mut [u8], hop: bool) -> Option<()> {
        frame.get_mut(..12)?.copy_from_slice(&self.macs);
        let header = frame.get_mut(HEADER_LEN..)?;
        self.src
            .write(header.get_mut(A::SRC_AT..A::SRC_AT + A::LEN)?);
        self.dst
            .write(header.get_mut(A::DST_AT..A::DST_AT + A::LEN)?);
        if hop {
            header[A::TTL_AT] = header[A::TTL_AT].checked_sub(1).filter(|left| *left > 0)?;
        }
        if !A::V6 {
            if let Some(id) = self.id {
                header[4..6].copy_from_slice(&id.to_be_bytes());
            }
            seal(header)?;
        }
        Some(())
    }
}

/// Computes the checksum of an IPv4 header.
pub(super) fn seal(packet: &mut [u8]) -> Option<()> {
    let len = usize::from(*packet.first()? & 0x0f) * 4;
    let header = packet.get_mut(..len)?;
    header.get_mut(10..12)?.fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Cuts a frame with an IPv4 packet into frames whose packets have `mtu` bytes at most.
pub(super) fn cut(frame: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let packet = frame.get(HEADER_LEN..)?;
    let header_len = usize::from(*packet.first()? & 0x0f) * 4;
    let payload = packet.get(header_len..usize::from(be16(packet, 2)?))?;
    let bits = be16(packet, 6)?;
    let step = mtu.checked_sub(header_len)? / 8 * 8;
    if step == 0 {
        return None;
    }
    let mut frames = Vec::new();
    for (index, part) in payload.chunks(step).enumerate() {
        let mut piece = frame.get(..HEADER_LEN + header_len)?.to_vec();
        let offset = (bits & 0x1fff).checked_add(u16::try_from(index * step / 8).ok()?)?;
        let last = (index + 1) * step >= payload.len();
        let more = if last { bits & 0x2000 } else { 0x2000 };
        let len = u16::try_from(header_len + part.len()).ok()?;
        let header = piece.get_mut(HEADER_LEN..)?;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].copy_from_slice(&(offset & 0x1fff | more | bits & 0xc000).to_be_bytes());
        seal(header)?;
        piece.extend_from_slice(part);
        frames.push(piece);
    }
    Some(frames)
}
