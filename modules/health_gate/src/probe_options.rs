//! The options of one probe, which are parsed by its kind.
//!
//! Invariant: an option that the kind does not have is refused, so that no misplaced bound is ignored; a
//! required option that is missing is refused too.

use ansible_module::Failure;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

/// A day, the maximum of options in seconds.
const MAX_SECONDS: f64 = 86_400.0;

pub struct ProbeOptions {
    /// The probe's name in messages.
    pub name: String,
    pub kind: String,
    unread: Map<String, Value>,
    pub warnings: Vec<String>,
}

impl ProbeOptions {
    pub fn new(name: &str, kind: &str, unread: Map<String, Value>) -> ProbeOptions {
        ProbeOptions { name: name.to_owned(), kind: kind.to_owned(), unread, warnings: Vec::new() }
    }

    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Failure> {
        match self.unread.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|why| self.bad(key, why))
            }
        }
    }

    pub fn need<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, Failure> {
        self.take(key)?.ok_or_else(|| self.refuse(format!("kind {} needs {key}", self.kind)))
    }

    /// Takes a text that is not empty: the empty text is contained in every answer.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, Failure> {
        match self.take::<String>(key)? {
            Some(text) if text.is_empty() => {
                Err(self.bad(key, "expected a text that is not empty"))
            }
            text => Ok(text),
        }
    }

    /// Takes a name for a program's arguments that the program cannot mistake for an option.
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

    pub fn integer(&mut self, key: &str, least: u64) -> Result<Option<u64>, Failure> {
        match self.take::<i64>(key)? {
            None => Ok(None),
            Some(number) => match u64::try_from(number) {
                Ok(number) if number >= least => Ok(Some(number)),
                _ => Err(self.bad(key, format!("expected {least} or more, got {number}"))),
            },
        }
    }

    /// Takes the port, which is required.
    pub fn port(&mut self) -> Result<u16, Failure> {
        let port = self.integer("port", 1)?;
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

    /// Refuses options that the kind has not parsed, and returns the warnings.
    pub fn finish(self) -> Result<Vec<String>, Failure> {
        let unread = self.unread.iter().find(|(_, value)| !value.is_null());
        match unread {
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
        number if (0.0..=MAX_SECONDS).contains(&number) => Ok(Duration::from_secs_f64(number)),
        _ => Err(format!("expected seconds from 0 to {MAX_SECONDS}, got {number}")),
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
    fn options_of_other_kinds_are_refused() {
        let mut options = given(json!({"url": "x", "query": null, "port": 80}));
        assert_eq!(options.need::<String>("url").unwrap(), "x");
        let failure = options.finish().unwrap_err();
        assert_eq!(failure.msg, "probe web: the option port is not for kind http");
    }

    #[test]
    fn messages_name_the_probe_and_the_option() {
        let mut options = given(json!({
            "text": "", "word": "-rf", "path": "a", "tries": -1, "delay": 1e9, "port": "x",
        }));
        for (failure, words) in [
            (options.need::<String>("url").map(drop), "kind http needs url"),
            (options.text("text").map(drop), "expected a text that is not empty"),
            (options.word("word").map(drop), "not beginning with -, got \"-rf\""),
            (options.absolute("path").map(drop), "expected an absolute path, got \"a\""),
            (options.integer("tries", 1).map(drop), "expected 1 or more, got -1"),
            (
                options.seconds("delay").map(drop),
                "expected seconds from 0 to 86400, got 1000000000",
            ),
            (options.take::<u16>("port").map(drop), "argument 'port': invalid type"),
        ] {
            let msg = failure.unwrap_err().msg;
            assert!(msg.starts_with("probe web: ") && msg.contains(words), "{msg}");
        }
    }
}
