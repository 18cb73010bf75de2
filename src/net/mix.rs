//! Numbers that look random and are not: the same from the same seed, in every version and on every machine.
//!
//! After SplitMix64 (Steele, Lea and Flood, 2014). Nothing that must stay secret may depend on it.

/// What the state advances by: the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads a number over all numbers; no two are spread to the same.
pub const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(STEP);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A sequence of numbers that look random.
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// Begins one; the same seed, the same sequence.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub const fn next(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        number
    }

    /// Returns the next number from `low` to `high`.
    pub const fn within(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low).checked_add(1) {
            Some(count) => low + self.next() % count,
            None => self.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut sequence = Sequence::new(1_234_567);
        let numbers = [(); 3].map(|()| sequence.next());
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut sequence = Sequence::new(1);
        let mut seen = [false; 4];
        for _ in 0..100 {
            let number = sequence.within(7, 10);
            seen[usize::try_from(number - 7).unwrap()] = true;
        }
        assert_eq!(seen, [true; 4]);
        assert_eq!(sequence.within(5, 5), 5);
        assert_eq!(sequence.within(5, 4), 5);
        sequence.within(0, u64::MAX);
    }
}
