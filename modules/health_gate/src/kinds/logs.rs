//! `logs`: counts new lines that match a pattern, from the baseline (or the first try without one) to the
//! end of a window. Either few may match (`max`), or some must (`min`).
//!
//! Invariant: no line is skipped silently. A log that is missing, was truncated or replaced since, or is
//! too long to be read is a failure. Only where lines must come is a missing log one without lines: it is
//! made by whoever is about to start.

use crate::observation::{Ask, Observation, Try, shown};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Value, json};
use source::{Missing, Source};
use std::time::Duration;

mod file;
mod journal;
mod source;

const WINDOW: Duration = Duration::from_secs(10);
/// Limit for a compiled pattern, to protect the target's memory.
const MAX_PATTERN: usize = 1 << 20;

pub struct Logs {
    source: Source,
    pattern: LinePattern,
    wanted: Wanted,
    window: Duration,
}

/// How many lines must match.
enum Wanted {
    AtMost(u64),
    AtLeast(u64),
}

/// Which lines are counted.
pub(super) struct LinePattern {
    pattern: Regex,
    ignore: Option<Regex>,
}

impl Logs {
    pub fn parse(options: &mut ProbeOptions) -> Result<Logs, Failure> {
        let source = Source::parse(options)?;
        let Some(pattern) = LinePattern::parse(options)? else {
            return Err(options.refuse("kind logs needs either text or regex".to_owned()));
        };
        let wanted = match (whole_number(options, "max", 0)?, whole_number(options, "min", 1)?) {
            (Some(_), Some(_)) => {
                return Err(
                    options.refuse("max and min exclude each other: give one of them".to_owned())
                );
            }
            (max, None) => Wanted::AtMost(max.unwrap_or_default()),
            (None, Some(min)) => Wanted::AtLeast(min),
        };
        let window = match (&wanted, options.seconds("window")?) {
            (Wanted::AtLeast(_), Some(_)) => {
                return Err(options.refuse(
                    "window is for lines that must not come: with min, tries and delay say how long \
                     to wait"
                        .to_owned(),
                ));
            }
            (Wanted::AtLeast(_), None) => Duration::ZERO,
            (Wanted::AtMost(_), window) => window.unwrap_or(WINDOW),
        };
        Ok(Logs { source, pattern, wanted, window })
    }

    /// Returns the position of the log's present end.
    fn end(&self, now: &Try<'_>) -> Result<Value, String> {
        let missing = match self.wanted {
            Wanted::AtMost(_) => Missing::IsAnError,
            Wanted::AtLeast(_) => Missing::IsEmpty,
        };
        self.source.end(missing, now.deadline())
    }

    fn judge(&self, matches: Matches, now: &Try<'_>) -> Result<(), String> {
        let Matches { lines, matching, first } = matches;
        match self.wanted {
            Wanted::AtMost(max) if matching > max => {
                let first = first.unwrap_or_default();
                Err(format!("{matching} new lines match, the first: {first}"))
            }
            Wanted::AtMost(_) => now.require_time_or_baseline(self.window),
            // It is the baseline itself that is made.
            Wanted::AtLeast(_) if now.only_looks && now.before.is_none() => Ok(()),
            // Lines themselves are not shown: the log may be one that its owner has exchanged.
            Wanted::AtLeast(min) if matching < min => Err(format!(
                "expected {min} new lines that match, got {matching} of {lines} new lines"
            )),
            Wanted::AtLeast(_) => Ok(()),
        }
    }
}

impl LinePattern {
    /// Parses the options `text`, `regex` and `ignore`; `None` without the first two.
    pub(super) fn parse(options: &mut ProbeOptions) -> Result<Option<LinePattern>, Failure> {
        let (text, pattern) = (options.text("text")?, options.text("regex")?);
        let ignore = match options.text("ignore")? {
            Some(ignore) => Some(compile(options, "ignore", &ignore)?),
            None => None,
        };
        let pattern = match (text, pattern) {
            (Some(text), None) => compile(options, "text", &regex::escape(&text))?,
            (None, Some(pattern)) => compile(options, "regex", &pattern)?,
            (None, None) if ignore.is_none() => return Ok(None),
            _ => {
                let kind = &options.kind;
                return Err(options.refuse(format!("kind {kind} needs either text or regex")));
            }
        };
        Ok(Some(LinePattern { pattern, ignore }))
    }
}

pub(super) fn whole_number(
    options: &mut ProbeOptions,
    key: &str,
    min: u64,
) -> Result<Option<u64>, Failure> {
    let Some(number) = options.take::<f64>(key)? else { return Ok(None) };
    match number >= min as f64 && number.fract() == 0.0 {
        true => Ok(Some(number as u64)),
        false => {
            Err(options.bad(key, format!("expected a whole number, {min} or more, got {number}")))
        }
    }
}

fn compile(options: &ProbeOptions, key: &str, pattern: &str) -> Result<Regex, Failure> {
    let built = RegexBuilder::new(pattern).unicode(false).size_limit(MAX_PATTERN).build();
    // The last line of regex's error is the reason; the others show the pattern.
    built.map_err(|why| options.bad(key, crate::observation::last_line(&why.to_string())))
}

/// The number of new lines, and of those that match.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Matches {
    pub(super) lines: u64,
    pub(super) matching: u64,
    pub(super) first: Option<String>,
}

impl Matches {
    pub(super) fn count(&mut self, pattern: &LinePattern, line: &[u8]) {
        self.lines += 1;
        let ignored = pattern.ignore.as_ref().is_some_and(|ignore| ignore.is_match(line));
        if pattern.pattern.is_match(line) && !ignored {
            self.matching += 1;
            self.first.get_or_insert_with(|| shown(&String::from_utf8_lossy(line)));
        }
    }
}

impl Ask for Logs {
    fn begin(&self, now: &Try<'_>) -> Result<Value, String> {
        self.end(now)
    }

    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        now.watch(self.window)?;
        let start = match now.before {
            Some(before) => match before.seen.get("log") {
                Some(position) => position,
                None => return Err("the baseline has no position in this log".to_owned()),
            },
            None => now.initial,
        };
        let deadline = now.deadline();
        // The end is determined before reading: lines written meanwhile are read twice rather than never.
        let end = self.end(now)?;
        let mut matches = Matches::default();
        self.source.read_since(start, deadline, &mut |line| matches.count(&self.pattern, line))?;
        let answer = format!("{} new lines, {} of them match", matches.lines, matches.matching);
        let seen = Observation::new(answer).value(matches.matching as f64);
        Ok(seen.judged(self.judge(matches, now)).remember("log", json!(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(pattern: &str, ignore: Option<&str>) -> LinePattern {
        let options = ProbeOptions::new("l", "logs", serde_json::Map::new());
        let one = |pattern: &str| compile(&options, "regex", pattern).unwrap();
        LinePattern { pattern: one(pattern), ignore: ignore.map(one) }
    }

    #[test]
    fn matching_lines_are_counted() {
        let pattern = pattern(r"\bERROR\b|(?i)panic", Some(r"healthz \d+"));
        let mut matches = Matches::default();
        for line in [
            b"an ERROR: \xff\x1b[31m".as_slice(),
            b"ERRORS",
            b"a Panic",
            b"ERROR healthz 12",
            b"fine",
        ] {
            matches.count(&pattern, line);
        }
        let first = Some("an ERROR: \u{fffd}\\u{1b}[31m".to_owned());
        assert_eq!(matches, Matches { lines: 5, matching: 2, first });
    }

    #[test]
    fn invalid_patterns_are_refused() {
        let options = ProbeOptions::new("l", "logs", serde_json::Map::new());
        for pattern in ["(", "a{2000}{2000}", r"\p{Greek}", "(?<=a)b"] {
            let msg = compile(&options, "regex", pattern).unwrap_err().msg;
            assert!(msg.starts_with("probe l: argument 'regex': ") && !msg.contains('\n'), "{msg}");
        }
    }
}
