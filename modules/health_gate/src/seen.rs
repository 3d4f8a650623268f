//! What one try brought, and how it is said.
//!
//! Invariant: an answer and a reason are one short line each, whatever the other side sent; a try that
//! could not be judged has failed.

use host::deadline::Deadline;
use probe::shown::clipped;
use serde_json::{Map, Value};
use std::time::Duration;

/// How much of what somebody else wrote is repeated.
const SHOWN: usize = 120;

/// What a kind of probe can do. `Err` is a sentence: there was nothing to judge.
pub trait Ask: Send + Sync {
    /// Where things stand before the first try, for kinds that look at what comes after.
    fn begin(&self, _now: &Try<'_>) -> Result<Value, String> {
        Ok(Value::Null)
    }

    fn ask(&self, now: &Try<'_>) -> Result<Seen, String>;
}

/// One try.
#[derive(Debug)]
pub struct Try<'a> {
    pub timeout: Duration,
    /// Of the whole gate.
    pub whole: Deadline,
    /// What `begin` gave.
    pub begun: &'a Value,
    /// What the baseline says of this probe; `None` without a baseline.
    pub before: Option<&'a Before>,
}

impl Try<'_> {
    /// How long it may take, from now.
    pub fn span(&self) -> Duration {
        self.timeout.min(self.whole.remaining())
    }

    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout).or_sooner(self.whole)
    }

    /// Let so much time go by, if the gate has it.
    pub fn watch(&self, window: Duration) -> Result<(), String> {
        if window > self.whole.remaining() {
            let window = host::deadline::seconds(window);
            return Err(format!("the deadline leaves no time to watch for {window}"));
        }
        host::deadline::sleep(window).map_err(|why| why.to_string())
    }

    /// What is counted over no time at all is none, and proves nothing.
    pub fn saw_time_go_by(&self, window: Duration) -> Result<(), String> {
        match self.before.is_none() && window.is_zero() {
            true => Err("without a window and a baseline there is nothing to count yet".to_owned()),
            false => Ok(()),
        }
    }
}

/// What an earlier run saw of a probe. All of it is missing when that probe had no answer then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    pub value: Option<f64>,
    pub seen: Map<String, Value>,
}

/// An answer, judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub answer: String,
    pub value: Option<f64>,
    /// What a later run compares with.
    pub seen: Map<String, Value>,
    /// Why it is not as it must be.
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

/// The beginning of a text, in one line.
pub fn shown(text: &str) -> String {
    clipped(text.trim(), SHOWN)
}

/// The last line that says something.
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
