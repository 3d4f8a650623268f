//! Why nobody answered.
//!
//! Invariant: the sentence may be shown to anyone: of a URL it holds the host and the port alone,
//! and of what a server sent only what says who it is.

use std::fmt;

use host::interrupt::Interrupted;

/// What kept the answer away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The name has no address, or cannot be asked for here.
    Name,
    /// Nothing listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// The deadline came first.
    Timeout,
    /// No TLS, or a certificate that does not prove whom we are talking to.
    Tls,
    /// It is no HTTP that came, or no HTTP that may be sent.
    Protocol,
    /// More redirects than may be followed, or one that must not be.
    Redirects,
    /// The connection was closed before the answer was complete.
    Closed,
    /// We were asked to stop.
    Interrupted,
}

/// No answer, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    pub kind: Kind,
    pub msg: String,
}

impl Unanswered {
    pub(crate) fn new(kind: Kind, msg: impl Into<String>) -> Unanswered {
        Unanswered { kind, msg: msg.into() }
    }

    pub(crate) fn interrupted(subject: &str, why: Interrupted) -> Unanswered {
        Unanswered::new(Kind::Interrupted, format!("{subject}: {why}"))
    }

    /// The stable code for a result.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            Kind::Timeout => "timed_out",
            Kind::Interrupted => "interrupted",
            _ => "unanswered",
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)
    }
}

impl std::error::Error for Unanswered {}
