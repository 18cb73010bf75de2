//! Points in time as RFC 3339 writes them, in UTC and whole seconds.
//!
//! The calendar is the proleptic Gregorian one; days are counted in eras of 400 years, each of 146,097 days that
//! begin on a first of March, so that the leap day is the last of its year.

use std::time::{Duration, SystemTime};

const DAYS_OF_ERA: u64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;
/// 9999-12-31T23:59:59Z, the last second that four digits of a year can hold.
const LAST: u64 = 253_402_300_799;

/// Returns the whole seconds since 1970, 0 for what was before.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Writes a point in time, as in `2026-07-14T09:30:00Z`.
pub fn render(time: SystemTime) -> String {
    let seconds = seconds(time).min(LAST);
    let (days, second) = (seconds / 86_400 + DAYS_TO_EPOCH, seconds % 86_400);
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Reads what [`render`] writes.
pub fn parse(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| {
        text.get(from..to)
            .and_then(|digits| digits.parse::<u64>().ok())
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if text.len() != 20
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let march_year = year - u64::from(month <= 2 && year > 0);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (march_year / 400, march_year % 400);
    let day_of_era =
        365 * year_of_era + year_of_era / 4 - year_of_era / 100 + (153 * march_month + 2) / 5 + day
            - 1;
    let days = (era * DAYS_OF_ERA + day_of_era).checked_sub(DAYS_TO_EPOCH)?;
    let time = SystemTime::UNIX_EPOCH
        + Duration::from_secs(days * 86_400 + hour * 3_600 + minute * 60 + second);
    (render(time) == text).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn known_moments_are_rendered() {
        assert_eq!(render(at(0)), "1970-01-01T00:00:00Z");
        assert_eq!(render(at(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(render(at(1_752_485_400)), "2025-07-14T09:30:00Z");
        assert_eq!(render(at(4_107_542_400)), "2100-03-01T00:00:00Z");
        assert_eq!(render(at(u64::MAX / 4)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-07-14",
            "2026-07-14T09:30:00+02:00",
            "1969-12-31T23:59:59Z",
            "2026-07-14T24:00:00Z",
            "0000-00-00T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_rendered_moment_parses_back(seconds in 0..=LAST) {
            prop_assert_eq!(parse(&render(at(seconds))), Some(at(seconds)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,24}") {
            let _ = parse(&text);
        }
    }
}
