//! How a command ends badly: an exit code and what stands on stderr. Invariant: the text is whole
//! (several lines for refused parameters), only the last newline is added when it is written.

use std::fmt;

#[derive(Debug, Clone)]
pub struct Fail {
    pub rc: i32,
    pub text: String,
    /// What the failing program had said before, which a task's log shows.
    pub said: Option<String>,
}

/// What Proxmox exits with when it was not an errno that ended it.
pub const DIED: i32 = 255;

impl Fail {
    pub fn new(rc: i32, text: impl Into<String>) -> Fail {
        Fail { rc, text: text.into(), said: None }
    }

    pub fn died(text: impl Into<String>) -> Fail {
        Fail::new(DIED, text)
    }

    /// A broken world or a gap of this fake: loud, with a code that Proxmox never uses.
    pub fn fake(text: impl fmt::Display) -> Fail {
        Fail::new(99, format!("fake-pve: {text}"))
    }
}

impl From<std::io::Error> for Fail {
    fn from(error: std::io::Error) -> Fail {
        Fail::fake(error)
    }
}

impl From<serde_json::Error> for Fail {
    fn from(error: serde_json::Error) -> Fail {
        Fail::fake(error)
    }
}

impl From<nix::Error> for Fail {
    fn from(error: nix::Error) -> Fail {
        Fail::fake(error)
    }
}

impl From<rustix::io::Errno> for Fail {
    fn from(error: rustix::io::Errno) -> Fail {
        Fail::fake(error)
    }
}
