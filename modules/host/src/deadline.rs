//! Waiting with an end: monotonic deadlines, sleeps, and asking again with growing pauses.
//!
//! Invariant: no wait goes past its deadline, and each ends within [`LOOK_EVERY`] of a signal.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::interrupt::{self, Interrupted, LOOK_EVERY};

/// The longest span that is kept apart from "for ever": a century does not overflow any clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The pause that [`poll_until`] begins with unless the caller knows better.
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

    /// What is left, zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The whole span that it was made with: for messages.
    pub fn span(&self) -> Duration {
        self.span
    }

    /// The earlier of the two: a step inside of a run has its own deadline and the run's.
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

/// Sleeps, unless a signal is or becomes pending.
pub fn sleep(pause: Duration) -> Result<(), Interrupted> {
    let end = Instant::now() + pause.min(FAR);
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

/// Asks at once, then again and again with pauses that grow from `first_pause` to two seconds,
/// until `ask` gives `Some`, fails, or the deadline has passed ([`TimedOut`]) or a signal came
/// ([`Interrupted`]). It asks at least once, and a last time at the deadline. `what` completes
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

/// A wait came to its deadline.
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

/// `30 s` or `0.25 s`: durations in messages.
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
