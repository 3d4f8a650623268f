//! `logs`: counts new lines that match a pattern, from the baseline (or the first try without one) to the
//! end of a window.
//!
//! Invariant: no line is skipped silently. A log that is missing, was truncated or replaced since, or is
//! too long to be read is a failure.

use crate::probe_options::ProbeOptions;
use crate::seen::{Ask, Seen, Try, shown};
use ansible_module::Failure;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Value, json};
use source::Source;
use std::time::Duration;

mod file;
mod journal;
mod source;

const WINDOW: Duration = Duration::from_secs(10);
/// Limit for a compiled pattern, to protect the target's memory.
const MOST_PATTERN: usize = 1 << 20;

pub struct Logs {
    source: Source,
    wanted: Wanted,
    max: u64,
    window: Duration,
}

/// The lines that count.
struct Wanted {
    pattern: Regex,
    ignore: Option<Regex>,
}

impl Logs {
    pub fn parse(given: &mut ProbeOptions) -> Result<Logs, Failure> {
        let source = Source::take(given)?;
        let (text, pattern) = (given.text("text")?, given.text("regex")?);
        let pattern = match (text, pattern) {
            (Some(text), None) => compile(given, "text", &regex::escape(&text))?,
            (None, Some(pattern)) => compile(given, "regex", &pattern)?,
            _ => return Err(given.refuse("kind logs needs either text or regex".to_owned())),
        };
        let ignore = match given.text("ignore")? {
            Some(ignore) => Some(compile(given, "ignore", &ignore)?),
            None => None,
        };
        let max = given.take::<f64>("max")?.unwrap_or_default();
        if max < 0.0 || max.fract() != 0.0 {
            return Err(given.bad("max", format!("expected a whole number, 0 or more, got {max}")));
        }
        let window = given.seconds("window")?.unwrap_or(WINDOW);
        let wanted = Wanted { pattern, ignore };
        Ok(Logs { source, wanted, max: max as u64, window })
    }
}

fn compile(given: &ProbeOptions, key: &str, pattern: &str) -> Result<Regex, Failure> {
    let built = RegexBuilder::new(pattern).unicode(false).size_limit(MOST_PATTERN).build();
    // The last line of regex's error is the reason; the others show the pattern.
    built.map_err(|why| given.bad(key, crate::seen::last_line(&why.to_string())))
}

/// The matches among the new lines.
#[derive(Debug, Default, PartialEq)]
struct Found {
    lines: u64,
    matching: u64,
    first: Option<String>,
}

impl Found {
    fn look(&mut self, wanted: &Wanted, line: &[u8]) {
        self.lines += 1;
        let ignored = wanted.ignore.as_ref().is_some_and(|ignore| ignore.is_match(line));
        if wanted.pattern.is_match(line) && !ignored {
            self.matching += 1;
            self.first.get_or_insert_with(|| shown(&String::from_utf8_lossy(line)));
        }
    }
}

impl Ask for Logs {
    fn begin(&self, now: &Try<'_>) -> Result<Value, String> {
        self.source.here(now.deadline())
    }

    fn ask(&self, now: &Try<'_>) -> Result<Seen, String> {
        now.watch(self.window)?;
        let start = match now.before {
            Some(before) => match before.seen.get("log") {
                Some(place) => place,
                None => return Err("the baseline does not say how far the log went".to_owned()),
            },
            None => now.begun,
        };
        let deadline = now.deadline();
        // The end is noted before reading: lines written meanwhile are read twice, rather than never.
        let end = self.source.here(deadline)?;
        let mut found = Found::default();
        self.source.since(start, deadline, &mut |line| found.look(&self.wanted, line))?;
        let answer = format!("{} new lines, {} of them match", found.lines, found.matching);
        let verdict = match found.matching <= self.max {
            true => now.saw_time_go_by(self.window),
            false => {
                let first = found.first.unwrap_or_default();
                Err(format!("{} new lines match, the first: {first}", found.matching))
            }
        };
        let seen = Seen::new(answer).value(found.matching as f64);
        Ok(seen.judged(verdict).remember("log", json!(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pattern: &str, ignore: Option<&str>) -> Wanted {
        let given = ProbeOptions::new("l", "logs", serde_json::Map::new());
        let one = |pattern: &str| compile(&given, "regex", pattern).unwrap();
        Wanted { pattern: one(pattern), ignore: ignore.map(one) }
    }

    #[test]
    fn lines_that_count() {
        let wanted = wanted(r"\bERROR\b|(?i)panic", Some(r"healthz \d+"));
        let mut found = Found::default();
        for line in [
            b"an ERROR: \xff\x1b[31m".as_slice(),
            b"ERRORS",
            b"a Panic",
            b"ERROR healthz 12",
            b"fine",
        ] {
            found.look(&wanted, line);
        }
        let first = Some("an ERROR: \u{fffd}\\u{1b}[31m".to_owned());
        assert_eq!(found, Found { lines: 5, matching: 2, first });
    }

    #[test]
    fn patterns_that_cannot_be() {
        let given = ProbeOptions::new("l", "logs", serde_json::Map::new());
        for pattern in ["(", "a{2000}{2000}", r"\p{Greek}", "(?<=a)b"] {
            let msg = compile(&given, "regex", pattern).unwrap_err().msg;
            assert!(msg.starts_with("probe l: argument 'regex': ") && !msg.contains('\n'), "{msg}");
        }
    }
}
