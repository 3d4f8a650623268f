//! The words of a command line: `--name value`, and flags that stand alone. An unknown name is an
//! error, so that a misspelt test does not pass for another reason.

use anyhow::{Context, Result, bail};
use std::fmt::Display;
use std::str::FromStr;

pub struct Args {
    given: Vec<(String, String)>,
}

impl Args {
    pub fn parse(words: &[String], known: &[&str], flags: &[&str]) -> Result<Args> {
        let mut given = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").with_context(|| format!("not an option: {word}"))?;
            if flags.contains(&name) {
                given.push((name.to_owned(), String::new()));
            } else if known.contains(&name) {
                let value = words.next().with_context(|| format!("{word} wants a value"))?;
                given.push((name.to_owned(), value.clone()));
            } else {
                bail!("no option is called {word}");
            }
        }
        Ok(Args { given })
    }

    /// Every value that was given under this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    pub fn get<T>(&self, name: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(text) = self.all(name).last() else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(why) => bail!("--{name} {text}: {why}"),
        }
    }

    pub fn must<T>(&self, name: &str) -> Result<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.get(name)?.with_context(|| format!("--{name} is missing"))
    }
}
