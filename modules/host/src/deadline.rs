//! Bounded waiting: monotonic deadlines, sleeps, and polling with growing pauses.
//!
//! Invariant: no wait goes past its deadline, and each ends within [`LOOK_EVERY`] of a signal.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::interrupt::{self, Interrupted, LOOK_EVERY};

/// The longest span: a century, which does not overflow any clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The usual first pause for [`poll_until`].
pub const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A point in monotonic time; changes of the wall clock do not move it.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    span: Duration,
}

impl Deadline {
    pub fn after(span: Duration) -> Self {
        let span = span.min(FAR);
        Deadline { at: Instant::now() + span, span }
    }

    /// Returns the time until the deadline, zero if it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Returns the whole span that it was made with: for messages.
    pub fn span(&self) -> Duration {
        self.span
    }

    /// Returns the earlier of the two: a step of a run has its own deadline and that of the run.
    pub fn or_sooner(self, other: Deadline) -> Deadline {
        if other.at < self.at { other } else { self }
    }

    /// Sleeps for `pause`, but not past the deadline.
    pub fn sleep(&self, pause: Duration) -> Result<(), Interrupted> {
        sleep(pause.min(self.remaining()))
    }
}

impl From<Duration> for Deadline {
    fn from(span: Duration) -> Self {
        Deadline::after(span)
    }
}

/// Sleeps; an error as soon as a signal is pending.
pub fn sleep(pause: Duration) -> Result<(), Interrupted> {
    let end = Instant::now() + pause.min(FAR);
    loop {
        interrupt::check()?;
        let remaining = end.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(());
        }
        std::thread::sleep(remaining.min(LOOK_EVERY));
    }
}

/// Calls `ask` at once, then again with pauses that grow from `first_pause` to two seconds, until it
/// returns `Some` or fails, the deadline has passed ([`TimedOut`]) or a signal came
/// ([`Interrupted`]). It is called at least once, and a last time at the deadline. `what` completes
/// "timed out after 30 s waiting for ...".
pub fn poll_until<T>(
    deadline: Deadline,
    first_pause: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let mut pause = first_pause.max(Duration::from_millis(1));
    loop {
        let last = deadline.passed();
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if last {
            return Err(TimedOut { what: what.to_owned(), waited: deadline.span() }.into());
        }
        deadline.sleep(pause)?;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE.max(first_pause));
    }
}

/// A wait that reached its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedOut {
    pub what: String,
    pub waited: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out after {} waiting for {}", seconds(self.waited), self.what)
    }
}

impl std::error::Error for TimedOut {}

/// Formats a duration for messages: `30 s` or `0.25 s`.
pub fn seconds(span: Duration) -> String {
    match (span.as_secs(), span.subsec_millis()) {
        (s, 0) => format!("{s} s"),
        (s, rest) => format!("{s}.{} s", format!("{rest:03}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends() {
        let deadline = Deadline::after(Duration::from_millis(30));
        assert!(!deadline.passed());
        deadline.sleep(Duration::from_secs(60)).unwrap();
        assert!(deadline.passed());
        assert_eq!(deadline.remaining(), Duration::ZERO);
        assert!(!Deadline::after(Duration::MAX).passed());
    }

    #[test]
    fn asks_at_least_once_and_until_the_end() {
        let none: Result<()> =
            poll_until(Deadline::after(Duration::ZERO), FIRST_PAUSE, "a thing", || Ok(None));
        let error = none.unwrap_err();
        assert!(error.downcast_ref::<TimedOut>().is_some());
        assert_eq!(error.to_string(), "timed out after 0 s waiting for a thing");

        let mut asked = 0;
        let answer = poll_until(
            Deadline::after(Duration::from_secs(60)),
            Duration::from_millis(5),
            "three",
            || {
                asked += 1;
                Ok((asked == 3).then_some(asked))
            },
        );
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn seconds_read_well() {
        assert_eq!(seconds(Duration::from_secs(30)), "30 s");
        assert_eq!(seconds(Duration::from_millis(1250)), "1.25 s");
        assert_eq!(seconds(Duration::from_millis(5)), "0.005 s");
    }
}
