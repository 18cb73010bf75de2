//! The Internet checksum (RFC 1071).

use std::net::Ipv4Addr;

/// A running ones' complement sum over 16-bit words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of what is summed.
    pub fn over(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            self.0 += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let rest = words.remainder();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// Adds one 16-bit word.
    pub fn add_word(mut self, word: u16) -> Self {
        self.0 += u64::from(word);
        self
    }

    /// Adds the IPv4 pseudo-header of a transport protocol (RFC 768, RFC 9293).
    pub fn add_pseudo_header(self, src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Self {
        self.over(&src.octets())
            .over(&dst.octets())
            .add_word(u16::from(protocol))
            .add_word(len)
    }

    /// Returns the folded sum, not complemented: the form in which a partial checksum is stored.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        // At most 0xffff after folding.
        u16::try_from(sum).unwrap_or(u16::MAX)
    }

    /// Returns the checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// Returns the checksum over bytes whose checksum field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().over(bytes).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().over(&bytes).fold(), 0xddf2);
    }

    #[test]
    fn every_length_equals_the_sum_over_words() {
        let bytes: Vec<u8> = (0..67u8)
            .map(|i| i.wrapping_mul(37).wrapping_add(11))
            .collect();
        for len in 0..bytes.len() {
            let mut sum = 0u32;
            for pair in bytes[..len].chunks(2) {
                sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(
                u32::from(Sum::default().over(&bytes[..len]).fold()),
                sum,
                "length {len}"
            );
        }
    }
}
