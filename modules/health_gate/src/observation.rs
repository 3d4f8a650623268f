//! The result of one try, and its text.
//!
//! Invariant: an answer and a reason are one short line each, whatever the other side sent; a try that
//! cannot be judged has failed.

use host::deadline::Deadline;
use probe::shown::clipped;
use serde_json::{Map, Value};
use std::time::Duration;

/// The maximum length of a quoted text.
const MAX_QUOTED: usize = 120;

/// A kind of probe. `Err` is a sentence that says why nothing could be observed.
pub trait Ask: Send + Sync {
    /// Observes the state before the first try, for kinds that count from there.
    fn begin(&self, _now: &Try<'_>) -> Result<Value, String> {
        Ok(Value::Null)
    }

    fn ask(&self, now: &Try<'_>) -> Result<Observation, String>;
}

/// The circumstances of one try.
#[derive(Debug)]
pub struct Try<'a> {
    pub timeout: Duration,
    /// Deadline of the whole gate.
    pub gate_deadline: Deadline,
    /// The result of `begin`.
    pub initial: &'a Value,
    /// The probe's entry in the baseline; `None` without a baseline.
    pub before: Option<&'a Before>,
    /// Whether the gate requires nothing.
    pub only_looks: bool,
}

impl Try<'_> {
    /// The time that one try may take, from now.
    pub fn span(&self) -> Duration {
        self.timeout.min(self.gate_deadline.remaining())
    }

    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout).or_sooner(self.gate_deadline)
    }

    /// Waits for the window. It is an error if the gate's deadline is sooner.
    pub fn watch(&self, window: Duration) -> Result<(), String> {
        if window > self.gate_deadline.remaining() {
            let window = host::deadline::seconds(window);
            return Err(format!("the deadline leaves no time to watch for {window}"));
        }
        host::deadline::sleep(window).map_err(|why| why.to_string())
    }

    /// Refuses a count that had no time to grow.
    pub fn require_time_or_baseline(&self, window: Duration) -> Result<(), String> {
        match self.before.is_none() && window.is_zero() {
            true => Err("without a window or a baseline nothing can be counted: give one of them"
                .to_owned()),
            false => Ok(()),
        }
    }
}

/// A probe's result in the baseline; empty if it had none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    pub value: Option<f64>,
    pub seen: Map<String, Value>,
}

/// The result of one try.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    pub answer: String,
    pub value: Option<f64>,
    /// The values for a later run to compare with.
    pub seen: Map<String, Value>,
    /// Why the probe did not hold.
    pub failure: Option<String>,
    /// The body of an answer, where it was asked for.
    pub content: Option<String>,
}

impl Observation {
    pub fn new(answer: impl AsRef<str>) -> Observation {
        Observation { answer: shown(answer.as_ref()), ..Observation::default() }
    }

    pub fn value(mut self, value: f64) -> Observation {
        self.value = Some(value).filter(|value| value.is_finite());
        self
    }

    pub fn remember(mut self, key: &str, value: Value) -> Observation {
        self.seen.insert(key.to_owned(), value);
        self
    }

    pub fn content(mut self, content: Option<String>) -> Observation {
        self.content = content;
        self
    }

    pub fn judged(mut self, verdict: Result<(), String>) -> Observation {
        self.failure = verdict.err();
        self
    }
}

/// Returns the beginning of a text as one line.
pub fn shown(text: &str) -> String {
    clipped(text.trim(), MAX_QUOTED)
}

/// Returns the last line that is not empty.
pub fn last_line(text: &str) -> String {
    shown(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_short_line() {
        assert_eq!(shown(" a\tb\u{1b}[31m\u{202e}c\n"), "a\\tb\\u{1b}[31m\\u{202e}c");
        assert_eq!(shown(&"é".repeat(200)).chars().count(), MAX_QUOTED + 3);
        assert_eq!(shown(&shown("a\nb")), "a\\nb");
        assert_eq!(last_line("one\ntwo\n\n"), "two");
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn nan_is_not_a_value() {
        assert_eq!(Observation::new("x").value(f64::NAN).value, None);
        assert_eq!(Observation::new("x").value(1.5).value, Some(1.5));
    }
}
