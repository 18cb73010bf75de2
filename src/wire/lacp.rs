//! LACPDUs and Marker PDUs (IEEE 802.1AX-2014, 6.4.2 and 6.5.3), both Slow Protocols of IEEE 802.3, annex 57A.
//!
//! A receiver finds the fields by their place and checks no version, TLV type or reserved byte (6.4.12), for later
//! versions of the protocol add behind what is read here. It may check the lengths, and this one does.

use std::fmt;

use super::ethernet::{self, MacAddr};
use super::{be16, be32};

/// EtherType of the Slow Protocols.
pub const ETHERTYPE_SLOW: u16 = 0x8809;
/// Where the frames of the Slow Protocols go; no bridge passes them on.
pub const SLOW_PROTOCOLS: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 2]);
/// Length of a LACPDU, and of a Marker PDU, behind the Ethernet header.
pub const PDU_LEN: usize = 110;

const SUBTYPE_LACP: u8 = 1;
const SUBTYPE_MARKER: u8 = 2;
const VERSION: u8 = 1;

const TLV_ACTOR: u8 = 1;
const TLV_PARTNER: u8 = 2;
const TLV_COLLECTOR: u8 = 3;
const PARTICIPANT_LEN: u8 = 20;
const COLLECTOR_LEN: u8 = 16;

const TLV_MARKER: u8 = 1;
const TLV_MARKER_RESPONSE: u8 = 2;
const MARKER_LEN: u8 = 16;

/// Where the TLVs of a LACPDU begin.
const ACTOR: usize = 2;
const PARTNER: usize = 22;
const COLLECTOR: usize = 42;
/// Where the TLV of a Marker PDU begins.
const MARKER: usize = 2;

/// The state of one end of a link, as a set of flags (6.4.2.3).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct State(pub u8);

impl State {
    /// The end speaks without being spoken to.
    pub const ACTIVITY: Self = Self(0x01);
    /// The end uses the short timeout, and so wants a PDU every second.
    pub const TIMEOUT: Self = Self(0x02);
    /// The end can aggregate the link with others.
    pub const AGGREGATION: Self = Self(0x04);
    /// The end has the link in the right aggregate.
    pub const SYNCHRONIZATION: Self = Self(0x08);
    /// The end takes frames from the link.
    pub const COLLECTING: Self = Self(0x10);
    /// The end sends frames to the link.
    pub const DISTRIBUTING: Self = Self(0x20);
    /// The end has heard nobody, and assumes what its other end is.
    pub const DEFAULTED: Self = Self(0x40);
    /// The end has not heard its other end for too long.
    pub const EXPIRED: Self = Self(0x80);

    /// Every flag with its name, in the order of the bits.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::ACTIVITY, "active"),
        (Self::TIMEOUT, "short timeout"),
        (Self::AGGREGATION, "aggregatable"),
        (Self::SYNCHRONIZATION, "in sync"),
        (Self::COLLECTING, "collecting"),
        (Self::DISTRIBUTING, "distributing"),
        (Self::DEFAULTED, "defaulted"),
        (Self::EXPIRED, "expired"),
    ];

    /// Tells whether all of these flags are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Returns the state with these flags set or cleared.
    #[must_use]
    pub const fn with(self, flags: Self, set: bool) -> Self {
        if set {
            Self(self.0 | flags.0)
        } else {
            Self(self.0 & !flags.0)
        }
    }

    /// Tells whether two states agree about all of these flags.
    pub const fn agrees(self, other: Self, flags: Self) -> bool {
        (self.0 ^ other.0) & flags.0 == 0
    }
}

impl std::ops::BitOr for State {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, name) in Self::ALL {
            if self.has(flag) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// One end of a link, as it is told to the other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Participant {
    /// The priority of the system; the lower number is the higher priority.
    pub system_priority: u16,
    /// The system.
    pub system: MacAddr,
    /// The key: ports of a system with the same key can be aggregated.
    pub key: u16,
    /// The priority of the port; the lower number is the higher priority.
    pub port_priority: u16,
    /// The port, numbered from 1 by its system.
    pub port: u16,
    /// The state of this end.
    pub state: State,
}

impl Participant {
    /// Tells whether both name the same end and agree about its being aggregatable, whatever else its state is.
    pub fn names_same(&self, other: &Self) -> bool {
        let identity = |of: &Self| {
            let Self {
                system_priority,
                system,
                key,
                port_priority,
                port,
                state: _,
            } = *of;
            (system_priority, system, key, port_priority, port)
        };
        identity(self) == identity(other) && self.state.agrees(other.state, State::AGGREGATION)
    }

    /// Reads what follows the type and the length of a TLV.
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            system_priority: be16(bytes, 0)?,
            system: MacAddr::from_slice(bytes.get(2..)?)?,
            key: be16(bytes, 8)?,
            port_priority: be16(bytes, 10)?,
            port: be16(bytes, 12)?,
            state: State(*bytes.get(14)?),
        })
    }

    /// Writes the TLV with its reserved bytes.
    fn emit(&self, tlv: u8, pdu: &mut Vec<u8>) {
        pdu.extend_from_slice(&[tlv, PARTICIPANT_LEN]);
        pdu.extend_from_slice(&self.system_priority.to_be_bytes());
        pdu.extend_from_slice(&self.system.0);
        pdu.extend_from_slice(&self.key.to_be_bytes());
        pdu.extend_from_slice(&self.port_priority.to_be_bytes());
        pdu.extend_from_slice(&self.port.to_be_bytes());
        pdu.extend_from_slice(&[self.state.0, 0, 0, 0]);
    }
}

/// What one end of a link says about both.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lacpdu {
    /// The end that speaks.
    pub actor: Participant,
    /// The other end, as the speaker knows it.
    pub partner: Participant,
    /// How long the speaker may hold a frame before it delivers it, in tens of microseconds.
    pub collector_max_delay: u16,
}

impl Lacpdu {
    /// Reads the payload of a Slow Protocols frame.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let pdu = payload.get(..PDU_LEN)?;
        let plausible = pdu[0] == SUBTYPE_LACP
            && pdu[ACTOR + 1] == PARTICIPANT_LEN
            && pdu[PARTNER + 1] == PARTICIPANT_LEN
            && pdu[COLLECTOR + 1] == COLLECTOR_LEN;
        if !plausible {
            return None;
        }
        Some(Self {
            actor: Participant::parse(&pdu[ACTOR + 2..])?,
            partner: Participant::parse(&pdu[PARTNER + 2..])?,
            collector_max_delay: be16(pdu, COLLECTOR + 2)?,
        })
    }

    /// Builds the frame that says this from the port with address `src`.
    pub fn emit(&self, src: MacAddr) -> Vec<u8> {
        let mut pdu = vec![SUBTYPE_LACP, VERSION];
        self.actor.emit(TLV_ACTOR, &mut pdu);
        self.partner.emit(TLV_PARTNER, &mut pdu);
        pdu.extend_from_slice(&[TLV_COLLECTOR, COLLECTOR_LEN]);
        pdu.extend_from_slice(&self.collector_max_delay.to_be_bytes());
        emit(pdu, src)
    }
}

/// A Marker PDU: the other end asks to hear when all that it sent before has been taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Marker {
    /// The port that asks.
    pub port: u16,
    /// The system that asks.
    pub system: MacAddr,
    /// What tells its questions apart.
    pub transaction: u32,
}

impl Marker {
    /// Reads the payload of a Slow Protocols frame, if it asks; a response is not read.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let pdu = payload.get(..PDU_LEN)?;
        let asks =
            pdu[0] == SUBTYPE_MARKER && pdu[MARKER] == TLV_MARKER && pdu[MARKER + 1] == MARKER_LEN;
        if !asks {
            return None;
        }
        Some(Self {
            port: be16(pdu, MARKER + 2)?,
            system: MacAddr::from_slice(&pdu[MARKER + 4..])?,
            transaction: be32(pdu, MARKER + 10)?,
        })
    }

    /// Builds the frame that answers from the port with address `src`.
    pub fn respond(&self, src: MacAddr) -> Vec<u8> {
        let mut pdu = vec![SUBTYPE_MARKER, VERSION, TLV_MARKER_RESPONSE, MARKER_LEN];
        pdu.extend_from_slice(&self.port.to_be_bytes());
        pdu.extend_from_slice(&self.system.0);
        pdu.extend_from_slice(&self.transaction.to_be_bytes());
        emit(pdu, src)
    }
}

/// Builds the frame of a PDU; padding, terminator and reserved bytes, which come last, are all zeros.
fn emit(mut pdu: Vec<u8>, src: MacAddr) -> Vec<u8> {
    pdu.resize(PDU_LEN, 0);
    ethernet::emit(SLOW_PROTOCOLS, src, ETHERTYPE_SLOW, &pdu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SRC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x51]);

    fn pdu() -> Lacpdu {
        Lacpdu {
            actor: Participant {
                system_priority: 0x8000,
                system: MacAddr([0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee]),
                key: 0x03e8,
                port_priority: 0x8001,
                port: 0x0102,
                state: State(0x3f),
            },
            partner: Participant {
                system_priority: 0x1234,
                system: MacAddr([0x00, 0x1b, 0x21, 0x01, 0x02, 0x03]),
                key: 0x5678,
                port_priority: 0x9abc,
                port: 0xdef0,
                state: State(0x3d),
            },
            collector_max_delay: 0x1357,
        }
    }

    #[test]
    fn a_frame_has_the_layout_of_the_standard() {
        #[rustfmt::skip]
        let start: [u8; 74] = [
            0x01, 0x80, 0xc2, 0x00, 0x00, 0x02, // destination: Slow_Protocols_Multicast
            0x02, 0x00, 0x00, 0x00, 0x00, 0x51, // source
            0x88, 0x09,                         // Slow Protocols
            0x01,                               // subtype: LACP
            0x01,                               // version
            0x01, 0x14,                         // actor information, 20 bytes
            0x80, 0x00,                         // system priority
            0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, // system
            0x03, 0xe8,                         // key
            0x80, 0x01,                         // port priority
            0x01, 0x02,                         // port
            0x3f,                               // state
            0x00, 0x00, 0x00,                   // reserved
            0x02, 0x14,                         // partner information, 20 bytes
            0x12, 0x34,                         // system priority
            0x00, 0x1b, 0x21, 0x01, 0x02, 0x03, // system
            0x56, 0x78,                         // key
            0x9a, 0xbc,                         // port priority
            0xde, 0xf0,                         // port
            0x3d,                               // state
            0x00, 0x00, 0x00,                   // reserved
            0x03, 0x10,                         // collector information, 16 bytes
            0x13, 0x57,                         // max delay
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // reserved
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // reserved
            0x00, 0x00,                         // terminator, no bytes
        ];
        let frame = pdu().emit(SRC);
        assert_eq!(frame[..74], start);
        assert_eq!(frame[74..], [0; 50], "reserved to the end");
    }

    #[test]
    fn a_pdu_reads_back_as_it_was_written() {
        let frame = pdu().emit(SRC);
        assert_eq!(Lacpdu::parse(&frame[14..]), Some(pdu()));
        assert_eq!(Lacpdu::parse(&frame[14..frame.len() - 1]), None);
    }

    #[test]
    fn versions_types_and_reserved_bytes_are_not_looked_at_but_lengths_are() {
        let payload = pdu().emit(SRC)[14..].to_vec();
        for at in [1, 2, 20, 22, 41, 42, 57, 58, 59, 109] {
            let mut other = payload.clone();
            other[at] = 0xee;
            assert_eq!(Lacpdu::parse(&other), Some(pdu()), "byte {at}");
        }
        for at in [0, 3, 23, 43] {
            let mut other = payload.clone();
            other[at] = 0xee;
            assert_eq!(Lacpdu::parse(&other), None, "byte {at}");
        }
        let longer = [payload, vec![7; 40]].concat();
        assert_eq!(Lacpdu::parse(&longer), Some(pdu()));
    }

    #[test]
    fn a_marker_is_answered_with_what_it_said() {
        let mut question = vec![0; PDU_LEN];
        question[..16].copy_from_slice(&[2, 1, 1, 16, 0, 7, 2, 1, 2, 3, 4, 5, 9, 8, 7, 6]);
        let marker = Marker::parse(&question).unwrap();
        let frame = marker.respond(SRC);
        let start = [&SLOW_PROTOCOLS.0[..], &SRC.0, &[0x88, 0x09]].concat();
        assert_eq!(frame[..14], start);
        question[2] = 2;
        assert_eq!(frame[14..], question);
        assert_eq!(Marker::parse(&question), None, "an answer asks nothing");
        assert_eq!(Lacpdu::parse(&question), None);
        question[2] = 1;
        question[3] = 15;
        assert_eq!(Marker::parse(&question), None, "a length that lies");
        assert_eq!(Marker::parse(&question[..109]), None);
    }

    #[test]
    fn a_state_is_shown_in_words() {
        let state = State::ACTIVITY | State::AGGREGATION | State::EXPIRED;
        assert_eq!(state.to_string(), "active, aggregatable, expired");
        assert_eq!(State::default().to_string(), "");
        assert!(!state.has(State::ACTIVITY | State::TIMEOUT));
        assert_eq!(state.with(State::EXPIRED, false), State(0x05));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..130),
            subtype in 0..4u8,
        ) {
            let _ = (Lacpdu::parse(&bytes), Marker::parse(&bytes));
            let mut likely = pdu().emit(SRC)[14..].to_vec();
            likely.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
            for (at, value) in [(0, subtype), (3, 20), (23, 20), (43, 16)] {
                likely[at] = value;
            }
            if let Some(pdu) = Lacpdu::parse(&likely) {
                prop_assert_eq!(Lacpdu::parse(&pdu.emit(SRC)[14..]), Some(pdu));
            }
            let _ = Marker::parse(&likely);
        }
    }
}
