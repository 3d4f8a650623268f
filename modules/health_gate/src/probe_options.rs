//! The options of one probe. Its kind takes those that it knows.
//!
//! Invariant: an option that the kind does not take is refused, so that no misplaced bound is ignored;
//! and so is a missing option that it needs.

use ansible_module::Failure;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

/// A day: longer than any gate should take.
const LONGEST: f64 = 86_400.0;

pub struct ProbeOptions {
    /// The probe's name in messages.
    pub name: String,
    pub kind: String,
    left: Map<String, Value>,
    pub warnings: Vec<String>,
}

impl ProbeOptions {
    pub fn new(name: &str, kind: &str, left: Map<String, Value>) -> ProbeOptions {
        ProbeOptions { name: name.to_owned(), kind: kind.to_owned(), left, warnings: Vec::new() }
    }

    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Failure> {
        match self.left.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|why| self.bad(key, why))
            }
        }
    }

    pub fn need<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, Failure> {
        self.take(key)?.ok_or_else(|| self.refuse(format!("kind {} needs {key}", self.kind)))
    }

    /// Takes a text that is not empty: every answer contains the empty text, which proves nothing.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Failure> {
        match self.take::<String>(key)? {
            Some(text) if text.is_empty() => Err(self.bad(key, "an empty text proves nothing")),
            text => Ok(text),
        }
    }

    /// Takes a word for a program's arguments that the program cannot take for an option.
    pub fn word(&mut self, key: &str) -> Result<Option<String>, Failure> {
        let Some(word) = self.take::<String>(key)? else { return Ok(None) };
        self.check_word(key, &word)?;
        Ok(Some(word))
    }

    pub fn words(&mut self, key: &str) -> Result<Vec<String>, Failure> {
        let words: Vec<String> = self.take(key)?.unwrap_or_default();
        words.iter().try_for_each(|word| self.check_word(key, word))?;
        Ok(words)
    }

    fn check_word(&self, key: &str, word: &str) -> Result<(), Failure> {
        let sound = |c: char| c.is_ascii_alphanumeric() || "._-@:\\".contains(c);
        if word.is_empty() || word.len() > 255 || word.starts_with('-') || !word.chars().all(sound)
        {
            let expected = "a name of letters, digits and any of . _ - @ :, not beginning with -";
            return Err(self.bad(key, format!("expected {expected}, got {word:?}")));
        }
        Ok(())
    }

    pub fn absolute(&mut self, key: &str) -> Result<Option<PathBuf>, Failure> {
        match self.take::<PathBuf>(key)? {
            Some(path) if !path.is_absolute() => {
                let text = path.display().to_string();
                Err(self.bad(key, format!("expected an absolute path, got {text:?}")))
            }
            path => Ok(path),
        }
    }

    pub fn whole(&mut self, key: &str, least: u64) -> Result<Option<u64>, Failure> {
        match self.take::<i64>(key)? {
            None => Ok(None),
            Some(number) => match u64::try_from(number) {
                Ok(number) if number >= least => Ok(Some(number)),
                _ => Err(self.bad(key, format!("expected {least} or more, got {number}"))),
            },
        }
    }

    /// Takes the port, which the kind needs.
    pub fn port(&mut self) -> Result<u16, Failure> {
        let port = self.whole("port", 1)?;
        let port = port.ok_or_else(|| self.refuse(format!("kind {} needs port", self.kind)))?;
        let expected = || self.bad("port", format!("expected 1 to 65535, got {port}"));
        u16::try_from(port).map_err(|_| expected())
    }

    pub fn seconds(&mut self, key: &str) -> Result<Option<Duration>, Failure> {
        match self.take::<f64>(key)? {
            None => Ok(None),
            Some(number) => span(number).map(Some).map_err(|why| self.bad(key, why)),
        }
    }

    /// Refuses options that the kind has not taken.
    pub fn finish(self) -> Result<Vec<String>, Failure> {
        let left = self.left.iter().find(|(_, value)| !value.is_null());
        match left {
            None => Ok(self.warnings),
            Some((key, _)) => {
                Err(self.refuse(format!("the option {key} is not for kind {}", self.kind)))
            }
        }
    }

    pub fn bad(&self, key: &str, why: impl std::fmt::Display) -> Failure {
        self.refuse(format!("argument '{key}': {why}"))
    }

    pub fn refuse(&self, why: String) -> Failure {
        Failure::new("bad_options", format!("probe {}: {why}", self.name))
    }
}

pub fn span(number: f64) -> Result<Duration, String> {
    match number {
        number if (0.0..=LONGEST).contains(&number) => Ok(Duration::from_secs_f64(number)),
        _ => Err(format!("expected seconds from 0 to {LONGEST}, got {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn given(value: Value) -> ProbeOptions {
        ProbeOptions::new("web", "http", value.as_object().cloned().unwrap())
    }

    #[test]
    fn what_is_left_is_refused() {
        let mut given = given(json!({"url": "x", "query": null, "port": 80}));
        assert_eq!(given.need::<String>("url").unwrap(), "x");
        let failure = given.finish().unwrap_err();
        assert_eq!(failure.msg, "probe web: the option port is not for kind http");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut given = given(json!({
            "text": "", "word": "-rf", "path": "a", "tries": -1, "delay": 1e9, "port": "x",
        }));
        for (failure, words) in [
            (given.need::<String>("url").map(drop), "kind http needs url"),
            (given.text("text").map(drop), "an empty text proves nothing"),
            (given.word("word").map(drop), "not beginning with -, got \"-rf\""),
            (given.absolute("path").map(drop), "expected an absolute path, got \"a\""),
            (given.whole("tries", 1).map(drop), "expected 1 or more, got -1"),
            (given.seconds("delay").map(drop), "expected seconds from 0 to 86400, got 1000000000"),
            (given.take::<u16>("port").map(drop), "argument 'port': invalid type"),
        ] {
            let msg = failure.unwrap_err().msg;
            assert!(msg.starts_with("probe web: ") && msg.contains(words), "{msg}");
        }
    }
}
