//! `active-color` and `active-color.history`: the record for people and runbooks.
//!
//! `active-color` is one word. The history has a line for each flip, the newest first:
//! `<time> <color> <release> <deploy id> <good|void>`, with `-` for what is not known. Invariant:
//! an invalid line is kept in its place and never used.

use crate::color::Color;
use anyhow::{Context, Result};
use host::atomic::Replace;
use host::clock::Utc;
use host::none_if_missing;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::Path;

/// The minimum number of kept entries: the active colour and the one to roll back to.
pub const MIN_KEPT: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    Void,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub time: Utc,
    pub color: Color,
    pub release: Option<String>,
    pub deploy_id: Option<String>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Entry(Entry),
    Unreadable(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    lines: Vec<Line>,
}

impl History {
    pub fn read(path: &Path) -> Result<History> {
        let bytes = none_if_missing(fs::read(path))
            .with_context(|| format!("reading {}", path.display()))?
            .unwrap_or_default();
        Ok(History::parse(&String::from_utf8_lossy(&bytes)))
    }

    pub fn parse(text: &str) -> History {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        History {
            lines: lines
                .map(|line| match Entry::parse(line) {
                    Some(entry) => Line::Entry(entry),
                    None => Line::Unreadable(line.to_owned()),
                })
                .collect(),
        }
    }

    /// The text of the newest lines, up to the limit.
    pub fn text(&self, keep: usize) -> String {
        let mut text = String::new();
        for line in self.lines.iter().take(keep.max(MIN_KEPT)) {
            match line {
                Line::Entry(entry) => text.push_str(&format!("{entry}\n")),
                Line::Unreadable(line) => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }

    /// Other users read it in runbooks; it contains no secrets.
    pub fn write(&self, path: &Path, keep: usize) -> Result<()> {
        Replace::new(path).new_mode(0o644).write(self.text(keep).as_bytes()).map(drop)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Entry(entry) => Some(entry),
            Line::Unreadable(_) => None,
        })
    }

    /// The newest line, if it is valid.
    pub fn newest(&self) -> Option<&Entry> {
        match self.lines.first() {
            Some(Line::Entry(entry)) => Some(entry),
            _ => None,
        }
    }

    pub fn newest_of(&self, color: Color) -> Option<&Entry> {
        self.entries().find(|entry| entry.color == color)
    }

    pub fn add(&mut self, entry: Entry) {
        self.lines.insert(0, Line::Entry(entry));
    }

    /// Marks the release of a colour as void, so that no rollback goes to it.
    pub fn void_newest_of(&mut self, color: Color) {
        let newest = self.lines.iter_mut().find_map(|line| match line {
            Line::Entry(entry) if entry.color == color => Some(entry),
            _ => None,
        });
        if let Some(entry) = newest {
            entry.verdict = Verdict::Void;
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        let unreadable = |(at, line): (usize, &Line)| match line {
            Line::Unreadable(_) => {
                Some(format!("line {} of the history is invalid and is ignored", at + 1))
            }
            Line::Entry(_) => None,
        };
        self.lines.iter().enumerate().filter_map(unreadable).collect()
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [time, color, release, id, verdict] = words.as_slice() else { return None };
        let known = |word: &str| (word != "-").then(|| word.to_owned());
        Some(Entry {
            time: time.parse().ok()?,
            color: Color::parse(color)?,
            release: known(release),
            deploy_id: known(id),
            verdict: match *verdict {
                "good" => Verdict::Good,
                "void" => Verdict::Void,
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
        let verdict = match self.verdict {
            Verdict::Good => "good",
            Verdict::Void => "void",
        };
        let (release, id) = (known(&self.release), known(&self.deploy_id));
        write!(f, "{} {} {release} {id} {verdict}", self.time, self.color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "2026-11-21T08:45:00Z green abc 20261121t084500z-7f3a good\n\
                        garbage\n\
                        2026-11-20T08:45:00Z blue - - void\n\
                        2026-11-19T08:4";

    #[test]
    fn invalid_lines_are_kept_and_ignored() {
        let history = History::parse(TEXT);
        assert_eq!(history.entries().count(), 2);
        assert_eq!(history.newest().map(|entry| entry.color), Some(Color::Green));
        let blue = history.newest_of(Color::Blue).expect("an entry");
        assert_eq!((blue.release.as_deref(), blue.verdict), (None, Verdict::Void));
        assert_eq!(history.warnings().len(), 2);
        assert_eq!(History::parse("garbage\n2026-11-20T08:45:00Z blue - - good").newest(), None);
    }

    #[test]
    fn the_text_is_written_as_it_was_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("active-color.history");
        let mut history = History::parse(TEXT);
        history.void_newest_of(Color::Green);
        history.write(&path, 3)?;
        let text = fs::read_to_string(&path)?;
        let expected = TEXT.replace("good", "void");
        let expected: Vec<&str> = expected.lines().take(3).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        Ok(())
    }
}
