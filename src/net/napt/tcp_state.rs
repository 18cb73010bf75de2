//! What a translator knows of a TCP connection (RFC 5382, section 5; RFC 7857, section 2), from the flags it sees pass.
//!
//! # Theory of operation
//!
//! ```text
//!            ACK of the other end, then      FIN of both ends
//! opening ──────────────────────────▶ established ──────────▶ closing
//!    ▲       ACK of the originator     ▲    │                    │
//!    │                                 │    │ RST                │
//!    │            anything but RST     └── reset                 │
//!    └───────────────── SYN of the originator ◀──────────────────┘
//! ```
//!
//! Only *established* lives for long. It takes the third step of the handshake to get there, so a flood of SYNs with
//! forged sources fills the table for the short time only. A connection that was there before the translator is taken up
//! the same way. After a RST, which anybody may have sent, a connection that goes on is established again
//! (RFC 7857, section 2.2). Sequence numbers are not watched: that is the ends' business.

/// TCP flag: no more data.
pub(super) const FIN: u8 = 0x01;
/// TCP flag: open.
pub(super) const SYN: u8 = 0x02;
/// TCP flag: refused, or over.
pub(super) const RST: u8 = 0x04;
/// TCP flag: the acknowledgement counts.
pub(super) const ACK: u8 = 0x10;

const OTHER_ACKED: u8 = 1;
const ESTABLISHED: u8 = 2;
const FIN_ORIGINATOR: u8 = 4;
const FIN_OTHER: u8 = 8;
const RESET: u8 = 16;
const BOTH_FINS: u8 = FIN_ORIGINATOR | FIN_OTHER;

/// The state of a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct State(u8);

impl State {
    /// Whether a segment with these flags leaves the state as it is.
    #[inline]
    pub(super) const fn is_settled(self, flags: u8) -> bool {
        self.0 == ESTABLISHED | OTHER_ACKED && flags & (SYN | FIN | RST) == 0
    }

    /// Takes in the flags of a segment.
    pub(super) const fn note(&mut self, originator: bool, flags: u8) {
        if flags & RST != 0 {
            self.0 |= RESET;
            return;
        }
        if flags & SYN != 0 {
            let over = self.0 & RESET != 0 || self.0 & BOTH_FINS == BOTH_FINS;
            if originator && flags & ACK == 0 && over {
                self.0 = 0;
            }
        } else {
            self.0 &= !RESET;
            if originator && flags & ACK != 0 && self.0 & OTHER_ACKED != 0 {
                self.0 |= ESTABLISHED;
            }
        }
        if !originator && flags & ACK != 0 {
            self.0 |= OTHER_ACKED;
        }
        if flags & FIN != 0 {
            self.0 |= if originator {
                FIN_ORIGINATOR
            } else {
                FIN_OTHER
            };
        }
    }

    /// Whether it may be idle for long.
    pub(super) const fn is_established(self) -> bool {
        self.0 & ESTABLISHED != 0 && self.0 & RESET == 0 && self.0 & BOTH_FINS != BOTH_FINS
    }

    /// Returns the word for it.
    pub(super) const fn name(self) -> &'static str {
        if self.is_established() {
            "established"
        } else if self.0 & (RESET | BOTH_FINS) != 0 {
            "closing"
        } else {
            "opening"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(segments: &[(bool, u8)]) -> State {
        let mut state = State::default();
        for (originator, flags) in segments {
            state.note(*originator, *flags);
        }
        state
    }

    const OPEN: [(bool, u8); 3] = [(true, SYN), (false, SYN | ACK), (true, ACK)];

    #[test]
    fn a_connection_is_established_with_the_third_step_and_not_before() {
        assert_eq!(after(&OPEN[..1]).name(), "opening");
        assert_eq!(after(&OPEN[..2]).name(), "opening");
        assert_eq!(after(&OPEN).name(), "established");
        assert!(after(&OPEN).is_settled(ACK));
    }

    #[test]
    fn a_simultaneous_open_is_one_too() {
        let both = [
            (true, SYN),
            (false, SYN),
            (true, SYN | ACK),
            (false, SYN | ACK),
            (true, ACK),
        ];
        assert_eq!(after(&both).name(), "established");
    }

    #[test]
    fn a_connection_that_was_there_before_is_taken_up() {
        let segments = [(true, ACK), (false, ACK), (true, ACK)];
        assert_eq!(after(&segments[..2]).name(), "opening");
        assert_eq!(after(&segments).name(), "established");
    }

    #[test]
    fn one_half_may_stay_open_for_long_and_two_fins_close() {
        let mut state = after(&OPEN);
        state.note(true, FIN | ACK);
        assert!(state.is_established());
        state.note(false, FIN | ACK);
        assert_eq!(state.name(), "closing");
        state.note(true, ACK);
        assert_eq!(state.name(), "closing");
        state.note(true, SYN);
        assert_eq!(state.name(), "opening", "the port is used again");
    }

    #[test]
    fn a_forged_reset_does_not_end_a_connection_that_goes_on() {
        let mut state = after(&OPEN);
        state.note(false, RST);
        assert_eq!(state.name(), "closing");
        state.note(true, ACK);
        assert_eq!(state.name(), "established");
        state.note(false, SYN | ACK);
        state.note(false, SYN);
        assert_eq!(state.name(), "established", "nor does a SYN");
    }
}
