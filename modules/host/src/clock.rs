//! UTC times with seconds, as in ids, records and the ledger: `2026-11-21T08:45:00Z`.
//!
//! Invariant: what is formatted parses back to the same second; only real dates and times parse.
//! Years 1970 to 9999; no leap second.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// 9999-12-31T23:59:59Z
const LAST: i64 = 253_402_300_799;

/// A time in UTC, in whole seconds; in JSON a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Utc(i64);

/// Reads the wall clock.
pub fn now() -> Utc {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Utc(i64::try_from(since).unwrap_or(LAST).min(LAST))
}

impl Utc {
    /// Converts seconds since 1970; `None` outside of the years 1970 to 9999.
    pub fn from_unix(seconds: i64) -> Option<Utc> {
        (0..=LAST).contains(&seconds).then_some(Utc(seconds))
    }

    pub fn unix(self) -> i64 {
        self.0
    }

    /// Converts a calendar date and a time of day; `None` if they do not exist.
    pub fn from_civil(date: (i64, i64, i64), time: (i64, i64, i64)) -> Option<Utc> {
        let ((y, m, d), (hour, minute, second)) = (date, time);
        let real = (1970..=9999).contains(&y)
            && (1..=12).contains(&m)
            && (1..=days_in(y, m)).contains(&d)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..60).contains(&second);
        real.then(|| Utc(((days_from_civil(y, m, d) * 24 + hour) * 60 + minute) * 60 + second))
    }

    /// Formats it as in `20261121t084500z`: as in deploy ids and names of backups.
    pub fn compact(self) -> String {
        let ((y, m, d), (hour, minute, second)) = self.civil();
        format!("{y:04}{m:02}{d:02}t{hour:02}{minute:02}{second:02}z")
    }

    fn civil(self) -> ((i64, i64, i64), (i64, i64, i64)) {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        (civil_from_days(days), (rest / 3600, rest / 60 % 60, rest % 60))
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((y, m, d), (hour, minute, second)) = self.civil();
        write!(f, "{y:04}-{m:02}-{d:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Utc {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Utc> {
        let b = text.as_bytes();
        let well_formed = b.len() == 20
            && b.iter().zip(b"dddd-dd-ddTdd:dd:ddZ").all(|(c, want)| match want {
                b'd' => c.is_ascii_digit(),
                _ => c == want,
            });
        ensure!(well_formed, "{text:?} is not a time such as 2026-11-21T08:45:00Z");
        let at = |from: usize, to: usize| {
            b[from..to].iter().fold(0, |n, c| n * 10 + i64::from(c - b'0'))
        };
        match Utc::from_civil((at(0, 4), at(5, 7), at(8, 10)), (at(11, 13), at(14, 16), at(17, 19)))
        {
            Some(utc) => Ok(utc),
            None => bail!("{text:?} does not exist in the calendar (years 1970 to 9999)"),
        }
    }
}

impl TryFrom<String> for Utc {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Utc> {
        text.parse()
    }
}

impl From<Utc> for String {
    fn from(utc: Utc) -> String {
        utc.to_string()
    }
}

fn leap(y: i64) -> bool {
    y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)
}

fn days_in(y: i64, m: i64) -> i64 {
    match m {
        2 if leap(y) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Years begin in March here, so that the leap day is the last day of a
/// year.
fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let (era, of_era) = (y / 400, y % 400);
    let of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let m = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let y = era * 400 + year + i64::from(m <= 2);
    (y, m, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_seconds() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_250_700, "2026-11-21T08:45:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
            assert_eq!(text.parse::<Utc>().unwrap(), Utc(seconds));
        }
        assert_eq!(Utc(1_795_250_700).compact(), "20261121t084500z");
        assert!(Utc::from_unix(-1).is_none() && Utc::from_unix(LAST + 1).is_none());
    }

    #[test]
    fn every_day_converts_both_ways() {
        let mut before = String::new();
        for day in 0..=LAST / 86_400 {
            let (y, m, d) = civil_from_days(day);
            assert_eq!(days_from_civil(y, m, d), day);
            let text = format!("{y:04}{m:02}{d:02}");
            assert!(before < text && d <= days_in(y, m), "{before} {text}");
            before = text;
        }
    }

    #[test]
    fn malformed_times_are_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T08:45:00",
            "2026-11-21t08:45:00z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21T08:45:00+0",
            "+026-11-21T08:45:00Z",
            "２026-11-21T08:45:0Z",
        ] {
            assert!(text.parse::<Utc>().is_err(), "{text}");
        }
        assert!(
            serde_json::from_str::<Utc>("\"yesterday\"")
                .unwrap_err()
                .to_string()
                .contains("2026-11-21T08:45:00Z")
        );
    }
}
