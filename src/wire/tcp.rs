//! TCP headers and the options that matter here (RFC 9293, section 3.1; RFC 7323, section 2; RFC 2018).
//!
//! Timestamps are passed over: nobody here offers them, so nobody needs them.

use std::ops::{BitOr, BitOrAssign};

use super::{be16, be32};

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// Length of a header with as many options as fit.
pub const MAX_HEADER_LEN: usize = 60;
/// Where the checksum is in the header.
pub const CHECKSUM_AT: usize = 16;
/// The largest shift of a window (RFC 7323, section 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

/// The control bits of a segment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Sequence numbers are being synchronised.
    pub const SYN: Self = Self(0x02);
    /// The connection is broken.
    pub const RST: Self = Self(0x04);
    /// What has come so far should reach the user.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether all of these are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Ranges that have arrived beyond the acknowledgement number: first, and after the last.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sack {
    blocks: [(u32, u32); 4],
    len: u8,
}

impl Sack {
    /// Adds a range; there is room for four.
    pub fn push(&mut self, block: (u32, u32)) {
        if let Some(space) = self.blocks.get_mut(usize::from(self.len)) {
            *space = block;
            self.len += 1;
        }
    }

    /// The ranges.
    pub fn blocks(&self) -> &[(u32, u32)] {
        &self.blocks[..usize::from(self.len)]
    }
}

/// The options of a segment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// The largest payload that its sender takes in one segment.
    pub mss: Option<u16>,
    /// By how many bits its sender's windows are shifted; at most [`MAX_WINDOW_SCALE`].
    pub window_scale: Option<u8>,
    /// Whether its sender takes selective acknowledgements.
    pub sack_permitted: bool,
    /// What has arrived out of order.
    pub sack: Sack,
}

/// A TCP header.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// The source port.
    pub src: u16,
    /// The destination port.
    pub dst: u16,
    /// The sequence number of the first byte.
    pub seq: u32,
    /// The sequence number that is expected next.
    pub ack: u32,
    /// The control bits.
    pub flags: Flags,
    /// How much may be sent beyond `ack`, as it stands in the header.
    pub window: u16,
    /// The options.
    pub options: Options,
}

impl Tcp {
    /// Reads a header, of which all must be there, and returns its length as well. Options that make no sense end the
    /// list.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let header = bytes.get(..HEADER_LEN)?;
        let len = usize::from(header[12] >> 4) * 4;
        if len < HEADER_LEN {
            return None;
        }
        let options = bytes.get(HEADER_LEN..len)?;
        let tcp = Self {
            src: be16(header, 0)?,
            dst: be16(header, 2)?,
            seq: be32(header, 4)?,
            ack: be32(header, 8)?,
            flags: Flags(header[13]),
            window: be16(header, 14)?,
            options: if options.is_empty() {
                Options::default()
            } else {
                Options::parse(options)
            },
        };
        Some((tcp, len))
    }

    /// Writes the header with a checksum of zero, and returns its length.
    pub fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) -> usize {
        out[0..2].copy_from_slice(&self.src.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.to_be_bytes());
        out[13] = self.flags.0;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..20].fill(0);
        let len = self.options.emit(out);
        #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
        let words = (len / 4) as u8;
        out[12] = words << 4;
        len
    }
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let Some(&kind) = bytes.first() {
            if kind == END {
                break;
            }
            if kind == NOP {
                bytes = &bytes[1..];
                continue;
            }
            let len = bytes.get(1).map_or(0, |len| usize::from(*len));
            let Some((option, rest)) = bytes.split_at_checked(len) else {
                break;
            };
            if len < 2 {
                break;
            }
            options.read(kind, &option[2..]);
            bytes = rest;
        }
        options
    }

    fn read(&mut self, kind: u8, value: &[u8]) {
        match (kind, value.len()) {
            (MSS, 2) => self.mss = be16(value, 0),
            (WINDOW_SCALE, 1) => self.window_scale = Some(value[0].min(MAX_WINDOW_SCALE)),
            (SACK_PERMITTED, 0) => self.sack_permitted = true,
            (SACK, _) => {
                for block in value.chunks_exact(8) {
                    if let (Some(first), Some(end)) = (be32(block, 0), be32(block, 4)) {
                        self.sack.push((first, end));
                    }
                }
            }
            _ => {}
        }
    }

    /// Writes the options behind the header, and returns where they end.
    fn emit(&self, out: &mut [u8; MAX_HEADER_LEN]) -> usize {
        let mut at = HEADER_LEN;
        let mut put = |bytes: &[u8]| {
            if let Some(space) = out.get_mut(at..at + bytes.len()) {
                space.copy_from_slice(bytes);
                at += bytes.len();
            }
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[MSS, 4, a, b]);
        }
        if let Some(scale) = self.window_scale {
            put(&[NOP, WINDOW_SCALE, 3, scale]);
        }
        if self.sack_permitted {
            put(&[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if self.sack.len > 0 {
            put(&[NOP, NOP, SACK, 2 + 8 * self.sack.len]);
            for (first, end) in self.sack.blocks() {
                put(&first.to_be_bytes());
                put(&end.to_be_bytes());
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Tcp {
        Tcp {
            src: 1025,
            dst: 443,
            seq: 0xffff_fff0,
            ack: 7,
            flags: Flags::SYN | Flags::ACK,
            window: 65_535,
            options: Options::default(),
        }
    }

    #[test]
    fn a_header_reads_back_as_it_was_written_whatever_its_options() {
        let mut sack = Sack::default();
        for block in [(1, 2), (3, 4), (5, 6)] {
            sack.push(block);
        }
        let options = [
            Options::default(),
            Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                ..Options::default()
            },
            Options {
                sack,
                ..Options::default()
            },
        ];
        for (options, len) in options.into_iter().zip([20, 32, 48]) {
            let tcp = Tcp {
                options,
                ..header()
            };
            let mut out = [0xaa; MAX_HEADER_LEN];
            assert_eq!(tcp.emit(&mut out), len);
            assert_eq!(Tcp::parse(&out), Some((tcp, len)));
            assert_eq!(Tcp::parse(&out[..len - 1]), None, "a header that is cut");
        }
    }

    #[test]
    fn timestamps_are_passed_over_and_nonsense_ends_the_list() {
        let mut bytes = [0; MAX_HEADER_LEN];
        header().emit(&mut bytes);
        bytes[12] = 0xf0;
        bytes[20..40].copy_from_slice(&[
            8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 4, 5, 0xb4, 3, 3, 15, 4, 1,
        ]);
        let (tcp, len) = Tcp::parse(&bytes).unwrap();
        assert_eq!(len, 60);
        assert_eq!(
            tcp.options,
            Options {
                mss: Some(1460),
                window_scale: Some(14),
                ..Options::default()
            }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Tcp::parse(&bytes);
        }
    }
}
