//! Sequence numbers, which wrap around (RFC 9293, section 3.4).

/// A sequence number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `count` further on.
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The number `count` before.
    pub const fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How far this is after `earlier`; nothing if it is before.
    pub const fn since(self, earlier: Self) -> u32 {
        let distance = self.0.wrapping_sub(earlier.0);
        if distance.cast_signed() < 0 {
            0
        } else {
            distance
        }
    }

    /// Whether this comes before `other`.
    pub const fn before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() < 0
    }

    /// Whether this comes after `other`.
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// The later of two.
    pub const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier of two.
    pub const fn min(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_across_the_wrap() {
        let (a, b) = (Seq(u32::MAX - 1), Seq(5));
        assert!(a.before(b) && b.after(a) && !a.before(a) && !a.after(a));
        assert_eq!((b.since(a), a.since(b)), (7, 0));
        assert_eq!((a.max(b), a.min(b)), (b, a));
        assert_eq!((a.plus(7), b.minus(7)), (b, a));
    }
}
