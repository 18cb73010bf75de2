//! Durations as people write them: `90s`, `30m`, `12h`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A whole number of seconds, written with a unit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span(pub Duration);

/// Why a text is not a duration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a duration: write a number and s, m, h or d, as in \"30m\"")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SpanError(text.to_owned());
        let unit = text.chars().next_back().ok_or_else(error)?;
        let (_, seconds) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(error)?;
        let number = &text[..text.len() - 1];
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        Ok(Self(Duration::from_secs(
            number.checked_mul(*seconds).ok_or_else(error)?,
        )))
    }
}

impl fmt::Display for Span {
    /// Writes the duration with the largest unit that holds it without a rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (name, unit) = UNITS
            .into_iter()
            .find(|(_, unit)| seconds != 0 && seconds.is_multiple_of(*unit))
            .unwrap_or(('s', 1));
        write!(f, "{}{name}", seconds / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_and_a_unit_are_a_duration_and_nothing_else_is() {
        let seconds = |text: &str| text.parse::<Span>().map(|span| span.0.as_secs()).ok();
        assert_eq!(
            [
                seconds("90s"),
                seconds("30m"),
                seconds("12h"),
                seconds("7d")
            ],
            [Some(90), Some(1800), Some(43_200), Some(604_800)]
        );
        for text in [
            "",
            "m",
            "30",
            "30 m",
            "-3m",
            "+3m",
            "1h30m",
            "1.5h",
            "3é",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_rendered_duration_parses_back(seconds in 0..u64::MAX) {
            let span = Span(Duration::from_secs(seconds));
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
    }
}
