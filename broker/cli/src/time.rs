//! Points in time as people write them, without a calendar library.

use serde::Serialize;
use std::{
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

const DAY_MS: i64 = 86_400_000;

/// Where in a queue to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Position {
    /// At the first message there is.
    Earliest,
    /// After the last one.
    Latest,
    /// At the first message stored at or after this time, ms since 1970.
    Time(i64),
}

impl Position {
    /// The form a broker takes: −1 is the end.
    pub(crate) fn timestamp(self) -> i64 {
        match self {
            Self::Earliest => 0,
            Self::Latest => -1,
            Self::Time(ms) => ms,
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => parse(time).map(Self::Time).map_err(|_| format!("{text:?} is none of earliest, latest, {FORMS}")),
        }
    }
}

/// What [`parse`] understands, for messages.
pub(crate) const FORMS: &str = "milliseconds since 1970, 30s, 10m, 2h or 1d ago (written -10m), 2026-01-31T12:00:00Z";

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

/// Reads a time to ms since 1970.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time; give {FORMS}");
    if let Ok(ms) = text.parse::<i64>() {
        return if ms >= 0 { Ok(ms) } else { Err(wrong()) };
    }
    if let Some(ago) = text.strip_prefix('-') {
        let (number, unit) = ago.split_at_checked(ago.len().saturating_sub(1)).ok_or_else(wrong)?;
        let number: i64 = number.parse().map_err(|_| wrong())?;
        let unit = match unit {
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            _ => return Err(wrong()),
        };
        return number.checked_mul(unit).map(|ms| (now_ms() - ms).max(0)).ok_or_else(wrong);
    }
    calendar(text).ok_or_else(wrong)
}

/// `YYYY-MM-DD`, with `THH:MM:SS` and `Z` or not; always UTC.
fn calendar(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z').unwrap_or(text).split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> = text.split(by).map(|p| p.parse().ok().filter(|n| *n >= 0)).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let valid = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    valid.then(|| days(year, month, day) * DAY_MS + (hour * 3600 + minute * 60 + second) * 1000)
}

/// Days since 1970-01-01, counted in years that begin in March so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// A time for people, UTC; `-` when there is none.
pub(crate) fn show(ms: i64) -> String {
    if ms <= 0 {
        return "-".to_owned();
    }
    let days_since_march_0000 = ms / DAY_MS + 719_468;
    let era = days_since_march_0000 / 146_097;
    let day_of_era = days_since_march_0000 % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let second = ms % DAY_MS / 1000;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z", second / 3600, second / 60 % 60, second % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calendar_time_is_read_and_shown_alike() {
        assert_eq!(parse("1970-01-02"), Ok(DAY_MS));
        assert_eq!(parse("2024-02-29T12:34:56Z"), Ok(1_709_210_096_000));
        for ms in [1, 951_782_400_000, 1_709_210_096_789, 4_102_444_799_999] {
            let shown = show(ms);
            assert_eq!(parse(&shown[..19]), Ok(ms / 1000 * 1000), "{shown}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "-", "-5x", "2024-13-01", "2024-01-01T25:00:00", "yesterday", "-10"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!("latest".parse(), Ok(Position::Latest));
    }
}
