//! The names of releases.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of a release: the whole SHA of its commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ReleaseSha(String);

impl ReleaseSha {
    pub fn parse(text: &str) -> Option<ReleaseSha> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 40 && text.bytes().all(hex)).then(|| ReleaseSha(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReleaseSha {
    type Error = String;

    fn try_from(text: String) -> Result<ReleaseSha, String> {
        ReleaseSha::parse(&text).ok_or_else(|| {
            format!("expected a whole commit SHA, 40 hex digits in lower case, got {text:?}")
        })
    }
}

impl fmt::Display for ReleaseSha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_a_whole_sha() {
        let sha = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a";
        assert!(ReleaseSha::parse(sha).is_some());
        for wrong in ["", &sha[1..], &sha.to_uppercase(), &sha.replace('4', "/"), "latest"] {
            assert!(ReleaseSha::parse(wrong).is_none(), "{wrong}");
        }
    }
}
