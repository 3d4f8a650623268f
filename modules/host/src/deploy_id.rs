//! The id of a run, `20261121t084500z-7f3a`: UTC time and four random hex digits.
//!
//! Invariant: a `DeployId` is well formed and its date and time exist, so ids are ordered by time just
//! as their texts are.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::clock::{self, Utc};

/// A checked id of a run; ordered by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeployId {
    text: String,
    at: Utc,
}

impl DeployId {
    pub fn parse(text: &str) -> Result<DeployId> {
        let b = text.as_bytes();
        let well_formed = b.len() == 21
            && b.iter().zip(b"ddddddddtddddddz-xxxx").all(|(c, want)| match want {
                b'd' => c.is_ascii_digit(),
                b'x' => matches!(c, b'0'..=b'9' | b'a'..=b'f'),
                _ => c == want,
            });
        ensure!(
            well_formed,
            "{text:?} is not a deploy id: it must look like 20261121t084500z-7f3a (UTC date, time and four hex digits, in lower case)"
        );
        match time_of(b) {
            Some(at) => Ok(DeployId { text: text.to_owned(), at }),
            None => bail!("{text:?} is not a deploy id: its date or time does not exist"),
        }
    }

    /// Makes a new id from the clock and the kernel's random numbers.
    pub fn generate() -> Result<DeployId> {
        let mut random = [0; 2];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .context("cannot make a deploy id: reading /dev/urandom failed")?;
        let at = clock::now();
        Ok(DeployId { text: format!("{}-{:04x}", at.compact(), u16::from_be_bytes(random)), at })
    }

    /// Returns an id with the same random digits, and the time one second after that of `other`.
    pub fn after(&self, other: &DeployId) -> Result<DeployId> {
        let at =
            Utc::from_unix(other.time() + 1).context("there is no time after the year 9999")?;
        Ok(DeployId { text: format!("{}{}", at.compact(), &self.text[16..]), at })
    }

    /// Returns when the id was made.
    pub fn utc(&self) -> Utc {
        self.at
    }

    /// Returns when the id was made, in seconds since 1970.
    pub fn time(&self) -> i64 {
        self.at.unix()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn time_of(b: &[u8]) -> Option<Utc> {
    let at =
        |from: usize, to: usize| b[from..to].iter().fold(0, |n, c| n * 10 + i64::from(c - b'0'));
    Utc::from_civil((at(0, 4), at(4, 6), at(6, 8)), (at(9, 11), at(11, 13), at(13, 15)))
}

impl fmt::Display for DeployId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for DeployId {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<DeployId> {
        DeployId::parse(text)
    }
}

impl TryFrom<String> for DeployId {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<DeployId> {
        DeployId::parse(&text)
    }
}

impl From<DeployId> for String {
    fn from(id: DeployId) -> String {
        id.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_and_say_now() {
        let before = clock::now().unix();
        let id = DeployId::generate().unwrap();
        assert_eq!(DeployId::parse(id.as_str()).unwrap(), id);
        assert!((before..=clock::now().unix()).contains(&id.time()));
        let others: std::collections::HashSet<_> =
            (0..64).map(|_| DeployId::generate().unwrap()).collect();
        assert!(others.len() > 60);
    }

    #[test]
    fn one_second_after_another() {
        let id = |text| DeployId::parse(text).unwrap();
        let after = id("20261121t084500z-0001").after(&id("20261231t235959z-ffff")).unwrap();
        assert_eq!(after, id("20270101t000000z-0001"));
        assert!(after.after(&id("99991231t235959z-0001")).is_err());
    }

    #[test]
    fn ordered_by_time() {
        let id = |text| DeployId::parse(text).unwrap();
        assert!(id("20261121t084500z-ffff") < id("20261121t084501z-0000"));
        assert!(id("20261121t084500z-7f3a") < id("20261121t084500z-7f3b"));
        assert_eq!(id("20261121t084500z-7f3a").time(), 1_795_250_700);
        assert_eq!(id("20261121t084500z-7f3a").utc().to_string(), "2026-11-21T08:45:00Z");
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "20261121t084500z",
            "20261121t084500z-7F3A",
            "20261121T084500Z-7f3a",
            "20261121t084500z-7f3g",
            "20261121t084500z-7f3a ",
            "20261121t084500z-7f3a\n",
            "20261321t084500z-7f3a",
            "20260230t084500z-7f3a",
            "20261121t246000z-7f3a",
            "20261121t084560z-7f3a",
            "19691231t235959z-0000",
            "2026112१t084500z-7f3",
            "../../../etc/passwd/xx",
        ] {
            assert!(DeployId::parse(text).is_err(), "{text}");
        }
        let error = serde_json::from_str::<DeployId>("\"latest\"").unwrap_err().to_string();
        assert!(
            error
                .contains("\"latest\" is not a deploy id: it must look like 20261121t084500z-7f3a"),
            "{error}"
        );
        assert!(serde_json::from_str::<DeployId>("7").is_err());
        let id: DeployId = serde_json::from_str("\"20261121t084500z-7f3a\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"20261121t084500z-7f3a\"");
    }
}
