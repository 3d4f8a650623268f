//! Command lines as Proxmox's own parser reads them: options anywhere, `--name value` and
//! `--name=value`. Invariant: what Proxmox refuses is refused with its words.

use crate::fail::Fail;
use std::collections::BTreeMap;

/// What a command takes. `flags` are booleans, whose value may be missing.
pub struct Shape<'a> {
    pub usage: &'static str,
    pub words: &'static [&'static str],
    pub values: &'a [&'static str],
    pub flags: &'static [&'static str],
}

#[derive(Debug, Default)]
pub struct Args {
    pub words: Vec<String>,
    pub rest: Vec<String>,
    options: BTreeMap<&'static str, String>,
}

impl Args {
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.options.get(name).is_some_and(|value| truth(value) == Some(true))
    }

    pub fn vmid(&self) -> u32 {
        self.words.first().and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }
}

/// Takes `argv` (without the command itself) apart. A last word called `extra-args` takes the rest.
pub fn parse(shape: &Shape, argv: &[String]) -> Result<Args, Fail> {
    let refused = |text: &str| Fail::new(2, format!("{text}\n{}", shape.usage));
    let mut args = Args::default();
    let mut free = Vec::new();
    let mut words = argv.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            free.extend(words.by_ref().cloned());
            break;
        }
        let Some(option) = word.strip_prefix("--") else {
            free.push(word.clone());
            continue;
        };
        let (given, glued) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let is_given = |name: &&&'static str| **name == given;
        let flag = shape.flags.iter().find(is_given);
        let name = flag.or_else(|| shape.values.iter().find(is_given));
        let name = name.ok_or_else(|| {
            refused(&format!("Unknown option: {given}\n400 unable to parse option"))
        })?;
        let is_flag = flag.is_some();
        let value = match glued {
            Some(value) => value,
            None if is_flag => {
                words.next_if(|next| !next.starts_with('-')).cloned().unwrap_or_default()
            }
            None => words.next().cloned().ok_or_else(|| {
                refused(&format!("Option {given} requires an argument\n400 unable to parse option"))
            })?,
        };
        if is_flag && truth(&value).is_none() {
            return Err(refused("400 unable to parse boolean option"));
        }
        args.options.insert(name, value);
    }
    let mut free = free.into_iter();
    for wanted in shape.words {
        if *wanted == "extra-args" {
            args.rest = free.by_ref().collect();
        } else {
            let word = free.next().ok_or_else(|| refused("400 not enough arguments"))?;
            args.words.push(word);
        }
    }
    if free.next().is_some() {
        return Err(refused("400 too many arguments"));
    }
    check(shape, &args)?;
    Ok(args)
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "" | "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// The rules of Proxmox's schema for the arguments that we know.
fn check(shape: &Shape, args: &Args) -> Result<(), Fail> {
    let mut wrong = Vec::new();
    for (name, word) in shape.words.iter().zip(&args.words) {
        let why = match *name {
            "vmid" => vmid(word),
            "snapname" => snapshot_name(word),
            _ => None,
        };
        wrong.extend(why.map(|why| format!("{name}: {why}")));
    }
    if let Some(timeout) = args.value("timeout") {
        let number = integer(timeout);
        let why = match number {
            None => Some(format!("type check ('integer') failed - got '{timeout}'")),
            Some(number) if number < 0 => Some("value must have a minimum value of 0".to_owned()),
            Some(_) => None,
        };
        wrong.extend(why.map(|why| format!("timeout: {why}")));
    }
    if let Some(name) = args.value("snapshot") {
        wrong.extend(snapshot_name(name).map(|why| format!("snapshot: {why}")));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let list = wrong.join("\n");
    Err(Fail::new(2, format!("400 Parameter verification failed.\n{list}\n{}", shape.usage)))
}

fn integer(text: &str) -> Option<i64> {
    text.strip_prefix('+').unwrap_or(text).parse().ok()
}

pub fn vmid(word: &str) -> Option<String> {
    if integer(word).is_none() {
        return Some(format!("type check ('integer') failed - got '{word}'"));
    }
    let fits = (3..=9).contains(&word.len())
        && !word.starts_with('0')
        && word.bytes().all(|byte| byte.is_ascii_digit());
    (!fits).then(|| "invalid format - value does not look like a valid VM ID".to_owned())
}

pub fn snapshot_name(word: &str) -> Option<String> {
    let fits = word.len() >= 2
        && word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !fits {
        return Some(format!("invalid format - invalid configuration ID '{word}'"));
    }
    (word.len() > 40).then(|| "value may only be 40 characters long".to_owned())
}
