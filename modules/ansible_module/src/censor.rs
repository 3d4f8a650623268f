//! Replaces secrets in everything that is printed.
//!
//! The list is global, so that the handlers of panics and signals can use it. A value that is a secret
//! is hidden as a whole. Inside of a text only long secrets are replaced, and never one that is also a
//! part of this program's own texts (names, keys, messages): that would destroy them, and reveal the
//! secret. Keys of the protocol (`changed`, `reason`, ...) keep their values. The controller does the
//! same in `plugin_utils/censor.py`.

use crate::spec::Opt;
use host::secret::{self, SHORTEST_INSIDE};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// Ansible's own text for a value that is a secret as a whole.
const WHOLE: &str = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER";
const PART: &str = "********";
/// The length from which a line of a multi-line secret (a private key) is also a secret of its own.
const LINE: usize = 8;

static SECRETS: Mutex<Vec<Secret>> = Mutex::new(Vec::new());

struct Secret {
    text: String,
    /// Whether it is replaced inside of texts; determined when it first occurs in one.
    inside: OnceCell<bool>,
}

impl Secret {
    fn is_replaced_inside(&self) -> bool {
        *self.inside.get_or_init(|| !is_own_word(&self.text))
    }
}

/// Whether a text is short, or occurs anywhere in the binary of this program.
fn is_own_word(text: &str) -> bool {
    if text.chars().nth(SHORTEST_INSIDE - 1).is_none() {
        return true;
    }
    let own = fs::read("/proc/self/exe").unwrap_or_default();
    contains(&own, text.as_bytes())
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    let Some((first, rest)) = part.split_first() else { return true };
    let mut all = all;
    while let Some(at) = all.iter().position(|byte| byte == first) {
        all = &all[at + 1..];
        if all.starts_with(rest) {
            return true;
        }
    }
    false
}

/// Remembers every string and number inside `value` as a secret.
pub(crate) fn remember(value: &Value) {
    match value {
        Value::String(text) => remember_text(text),
        Value::Number(number) => remember_text(&number.to_string()),
        Value::Array(list) => list.iter().for_each(remember),
        Value::Object(map) => map.values().for_each(remember),
        Value::Bool(_) | Value::Null => {}
    }
}

/// Remembers the values of a dictionary whose names say that they are secret: `Authorization`, not `Host`.
pub(crate) fn remember_named(map: &Map<String, Value>) {
    for (name, value) in map {
        match value {
            value if secret::is_named(name) => {
                remember(value);
                // A server that repeats the header may omit the word "Bearer".
                if let Some((_, credentials)) = value.as_str().and_then(|it| it.split_once(' ')) {
                    remember_long(credentials.trim());
                }
            }
            Value::Object(map) => remember_named(map),
            _ => {}
        }
    }
}

/// Remembers the passwords of all URLs among the options. Short ones, which are often also names
/// (`app:app@db`), are hidden only in URLs.
pub(crate) fn remember_urls(value: &Value) {
    match value {
        Value::String(text) => secret::password_of_url(text).into_iter().for_each(remember_long),
        Value::Array(list) => list.iter().for_each(remember_urls),
        Value::Object(map) => map.values().for_each(remember_urls),
        _ => {}
    }
}

/// Hides a secret that a module has read, and the password in it if it is a URL, in everything that is printed from now on. A short one is
/// not hidden: it is often also a word.
pub fn hide_secret(text: &str) {
    remember_long(text);
    secret::password_of_url(text).into_iter().for_each(remember_long);
}

fn remember_long(text: &str) {
    if text.chars().count() >= SHORTEST_INSIDE {
        remember_text(text);
    }
}

fn remember_text(text: &str) {
    let mut forms = vec![text, text.trim()];
    if text.contains('\n') {
        forms.extend(text.lines().map(str::trim).filter(|line| line.len() >= LINE));
    }
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    for form in forms {
        // JSON that a command prints contains the secret in its escaped form.
        let quoted = Value::String(form.to_owned()).to_string();
        for form in [form, &quoted[1..quoted.len() - 1]] {
            if !form.is_empty() && !secrets.iter().any(|secret| secret.text == form) {
                secrets.push(Secret { text: form.to_owned(), inside: OnceCell::new() });
            }
        }
    }
    // The longest first, since a secret may be a part of another one.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.text.len()));
}

/// Returns the options as an invocation shows them: the whole value of a secret option is hidden.
pub(crate) fn shown(options: &[&Opt], values: &Map<String, Value>) -> Map<String, Value> {
    let show = |(name, value): (&String, &Value)| {
        let value = match options.iter().find(|option| option.name == name) {
            Some(option) if option.secret && !value.is_null() => Value::String(WHOLE.into()),
            Some(option) => below(option, value),
            None => value.clone(),
        };
        (name.clone(), value)
    };
    values.iter().map(show).collect()
}

fn below(option: &Opt, value: &Value) -> Value {
    let options: Vec<&Opt> = option.options.iter().collect();
    match value {
        Value::Object(map) if !options.is_empty() => Value::Object(shown(&options, map)),
        Value::Array(list) => list.iter().map(|item| below(option, item)).collect(),
        other => other.clone(),
    }
}

/// Censors a line that is not part of a result.
pub(crate) fn line(text: &str) -> String {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    hide(&secrets, text).into_owned()
}

/// Censors a whole result.
pub(crate) fn result(result: Map<String, Value>) -> Map<String, Value> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let censored = result.into_iter().map(|(key, value)| {
        let value = match (key.as_str(), value) {
            // The keys of a diff also belong to the protocol: before, after, prepared.
            ("diff", Value::Array(parts)) => parts
                .into_iter()
                .map(|part| match part {
                    Value::Object(part) => (part.into_iter())
                        .map(|(key, value)| (key, walk(&secrets, value)))
                        .collect(),
                    other => other,
                })
                .collect(),
            ("changed" | "failed" | "skipped" | "rc" | "reason" | "plan_id", value) => value,
            (_, value) => walk(&secrets, value),
        };
        (key, value)
    });
    censored.collect()
}

fn walk(secrets: &[Secret], value: Value) -> Value {
    match value {
        Value::String(text) => match hide(secrets, &text) {
            Cow::Borrowed(_) => Value::String(text),
            Cow::Owned(hidden) => Value::String(hidden),
        },
        Value::Number(number) => {
            let text = number.to_string();
            match secrets.iter().any(|secret| secret.text == text) {
                true => Value::String(WHOLE.into()),
                false => Value::Number(number),
            }
        }
        Value::Array(list) => list.into_iter().map(|item| walk(secrets, item)).collect(),
        Value::Object(map) => (map.into_iter())
            .map(|(key, value)| (hide_key(secrets, &key), walk(secrets, value)))
            .collect(),
        other => other,
    }
}

/// Censors a key, which is a name of this program or data of the user: only inside, never as a whole.
fn hide_key(secrets: &[Secret], key: &str) -> String {
    let key = hide_inside(secrets, key);
    // ansible-core 2.19 and later use such keys for their own purposes.
    match key.strip_prefix("__ansible_") {
        Some(rest) => format!("ansible_{rest}"),
        None => key.into_owned(),
    }
}

fn hide<'a>(secrets: &[Secret], text: &'a str) -> Cow<'a, str> {
    match secrets.iter().any(|secret| secret.text == text) {
        true => Cow::Owned(WHOLE.to_owned()),
        false => hide_inside(secrets, text),
    }
}

fn hide_inside<'a>(secrets: &[Secret], text: &'a str) -> Cow<'a, str> {
    let mut text = secret::without_url_passwords(text);
    for secret in secrets {
        if text.contains(secret.text.as_str()) && secret.is_replaced_inside() {
            text = Cow::Owned(text.replace(secret.text.as_str(), PART));
        }
    }
    text
}

#[cfg(test)]
mod tests;
