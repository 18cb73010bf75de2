//! Beacons: broadcast frames by which the uplinks of a team find out whether they reach each other.
//!
//! They use the first EtherType for local experiments (IEEE 802, section 9.2.4), begin with a mark of our own, and name
//! the team that sent them: beacons of others are not mistaken for ours.

use super::ethernet::{self, ETHERTYPE_BEACON, MacAddr};
use super::{be16, be32};

const MARK: [u8; 8] = *b"vmlan\0b\x01";
const LEN: usize = 8 + 6 + 4 + 2 + 4;

/// A beacon of a team.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Beacon {
    /// The team's own address.
    pub team: MacAddr,
    /// A number that is another one each time that the team is started.
    pub run: u32,
    /// The number of the uplink that sent it.
    pub uplink: u16,
    /// Counts up with each beacon.
    pub sequence: u32,
}

impl Beacon {
    /// Reads what follows the EtherType.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(&MARK)?;
        Some(Self {
            team: MacAddr::from_slice(rest)?,
            run: be32(rest, 6)?,
            uplink: be16(rest, 10)?,
            sequence: be32(rest, 12)?,
        })
    }

    /// Builds the frame that carries the beacon, from the adapter that sends it.
    pub fn emit(&self, src: MacAddr) -> Vec<u8> {
        let mut payload = Vec::with_capacity(LEN);
        payload.extend_from_slice(&MARK);
        payload.extend_from_slice(&self.team.0);
        payload.extend_from_slice(&self.run.to_be_bytes());
        payload.extend_from_slice(&self.uplink.to_be_bytes());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        ethernet::emit(MacAddr::BROADCAST, src, ETHERTYPE_BEACON, &payload)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ethernet::Ethernet;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_beacon_reads_back_as_it_was_written() {
        let beacon = Beacon {
            team: MacAddr([2, 0, 0, 0, 0, 7]),
            run: 0xdead_beef,
            uplink: 3,
            sequence: 99,
        };
        let frame = beacon.emit(MacAddr([2, 0, 0, 0, 0, 8]));
        assert_eq!(frame.len(), 60);
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!(ethernet.dst, MacAddr::BROADCAST);
        assert_eq!(ethernet.ethertype, ETHERTYPE_BEACON);
        assert_eq!(Beacon::parse(ethernet.payload), Some(beacon));
        assert_eq!(Beacon::parse(&ethernet.payload[..LEN - 1]), None);
        assert_eq!(Beacon::parse(&[0; 60]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_beacon_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Beacon::parse(&bytes);
        }
    }
}
