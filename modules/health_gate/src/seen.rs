//! The result of one try, and its text.
//!
//! Invariant: an answer and a reason are one short line each, whatever the other side sent; a try that
//! cannot be judged has failed.

use host::deadline::Deadline;
use probe::shown::clipped;
use serde_json::{Map, Value};
use std::time::Duration;

/// Limit for quoting text of others.
const SHOWN: usize = 120;

/// A kind of probe. `Err` is a sentence that says why there was nothing to judge.
pub trait Ask: Send + Sync {
    /// The state before the first try, for kinds that count from there.
    fn begin(&self, _now: &Try<'_>) -> Result<Value, String> {
        Ok(Value::Null)
    }

    fn ask(&self, now: &Try<'_>) -> Result<Seen, String>;
}

/// One try.
#[derive(Debug)]
pub struct Try<'a> {
    pub timeout: Duration,
    /// Deadline of the whole gate.
    pub whole: Deadline,
    /// The result of `begin`.
    pub begun: &'a Value,
    /// The probe's entry in the baseline; `None` without a baseline.
    pub before: Option<&'a Before>,
}

impl Try<'_> {
    /// The time that one try may take, from now.
    pub fn span(&self) -> Duration {
        self.timeout.min(self.whole.remaining())
    }

    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout).or_sooner(self.whole)
    }

    /// Waits for the window; an error when the gate has less time left.
    pub fn watch(&self, window: Duration) -> Result<(), String> {
        if window > self.whole.remaining() {
            let window = host::deadline::seconds(window);
            return Err(format!("the deadline leaves no time to watch for {window}"));
        }
        host::deadline::sleep(window).map_err(|why| why.to_string())
    }

    /// A count over no time is always zero, and proves nothing.
    pub fn saw_time_go_by(&self, window: Duration) -> Result<(), String> {
        match self.before.is_none() && window.is_zero() {
            true => Err("without a window and a baseline there is nothing to count yet".to_owned()),
            false => Ok(()),
        }
    }
}

/// A probe's result in an earlier run; empty when it had no answer then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    pub value: Option<f64>,
    pub seen: Map<String, Value>,
}

/// An answer and its judgement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub answer: String,
    pub value: Option<f64>,
    /// The values for a later run to compare with.
    pub seen: Map<String, Value>,
    /// Why the probe did not hold.
    pub wrong: Option<String>,
    /// The body of an answer, where it was asked for.
    pub content: Option<String>,
}

impl Seen {
    pub fn new(answer: impl AsRef<str>) -> Seen {
        Seen { answer: shown(answer.as_ref()), ..Seen::default() }
    }

    pub fn value(mut self, value: f64) -> Seen {
        self.value = Some(value).filter(|value| value.is_finite());
        self
    }

    pub fn remember(mut self, key: &str, value: Value) -> Seen {
        self.seen.insert(key.to_owned(), value);
        self
    }

    pub fn content(mut self, content: Option<String>) -> Seen {
        self.content = content;
        self
    }

    pub fn judged(mut self, verdict: Result<(), String>) -> Seen {
        self.wrong = verdict.err();
        self
    }
}

/// The beginning of a text as one line.
pub fn shown(text: &str) -> String {
    clipped(text.trim(), SHOWN)
}

/// The last line that is not empty.
pub fn last_line(text: &str) -> String {
    shown(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_short_line() {
        assert_eq!(shown(" a\tb\u{1b}[31m\u{202e}c\n"), "a\\tb\\u{1b}[31m\\u{202e}c");
        assert_eq!(shown(&"é".repeat(200)).chars().count(), SHOWN + 3);
        assert_eq!(shown(&shown("a\nb")), "a\\nb");
        assert_eq!(last_line("one\ntwo\n\n"), "two");
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn what_is_no_number_is_no_value() {
        assert_eq!(Seen::new("x").value(f64::NAN).value, None);
        assert_eq!(Seen::new("x").value(1.5).value, Some(1.5));
    }
}
