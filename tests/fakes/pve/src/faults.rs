//! What a test wants to go wrong: `faults.json`, a list of faults. Invariant: a fault fires in the
//! calls and at the point that it names, and nowhere else; a fault that cannot be read stops every
//! call, so that a test never passes without it.

use crate::fail::{DIED, Fail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// `pct`, `pct snapshot`, `pvesh get` ...
    pub command: String,
    /// Only calls whose arguments, joined by blanks, hold this.
    #[serde(default)]
    pub args: Option<String>,
    /// Only the nth of the calls that fit (from the first call that saw this very fault in this
    /// world); without it each of them.
    #[serde(default)]
    pub nth: Option<u64>,
    /// The point; see the head of `main.rs`.
    #[serde(default = "begin")]
    pub at: String,
    // What happens there, in this order.
    #[serde(default)]
    pub slow_ms: u64,
    #[serde(default)]
    pub patch: Option<Value>,
    #[serde(default)]
    pub kill_caller: bool,
    #[serde(default)]
    pub kill_self: bool,
    /// Until it is interrupted, or this fault is taken away.
    #[serde(default)]
    pub hang: bool,
    #[serde(default)]
    pub fail: Option<Failure>,
}

/// At `volume:N` the text is the storage's reason and stands in its own words; elsewhere it is the
/// whole message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub text: String,
    #[serde(default = "died")]
    pub rc: i32,
}

fn begin() -> String {
    "begin".to_owned()
}

fn died() -> i32 {
    DIED
}

impl Fault {
    pub fn fits(&self, name: &str, argv: &[String]) -> bool {
        let rest = name.strip_prefix(&self.command);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            && self.args.as_ref().is_none_or(|args| argv.join(" ").contains(args))
    }

    pub fn counts(&self, hit: u64) -> bool {
        self.nth.is_none_or(|nth| nth == hit)
    }
}

impl From<Failure> for Fail {
    fn from(failure: Failure) -> Fail {
        Fail::new(failure.rc, failure.text)
    }
}

pub fn read(home: &Path) -> Result<Vec<Fault>, Fail> {
    let path = home.join("faults.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| Fail::fake(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Fail::fake(format!("{}: {error}", path.display()))),
    }
}
