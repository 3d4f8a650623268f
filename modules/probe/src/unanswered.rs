//! The error of a request without a complete answer.
//!
//! Invariant: the message may be shown to anyone: of a URL it contains only host and port, and of what a
//! server sent only what identifies it.

use std::fmt;

use host::interrupt::Interrupted;

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The name has no address, or cannot be resolved here.
    Name,
    /// Nothing listens there.
    Refused,
    /// There is no route to it.
    Unreachable,
    /// The deadline has passed.
    Timeout,
    /// The server does not speak TLS, or its certificate is not accepted.
    Tls,
    /// The answer is not valid HTTP, or the request would not be.
    Protocol,
    /// There were too many redirects, or one that must not be followed.
    Redirects,
    /// The connection was closed before the answer was complete.
    Closed,
    /// This process was asked to stop.
    Interrupted,
}

/// Why there is no complete answer, in one sentence.
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

    /// Returns the stable code for a result.
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
