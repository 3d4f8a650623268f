//! Secrets, replaced in everything that is printed.
//!
//! The list belongs to the process, so that a panic and a signal find it too. The keys that make
//! up the protocol (`changed`, `msg`, ...) are kept; every string below them, and every key of the
//! data, is looked through.

use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

/// Ansible's own words for a value that is a secret as a whole.
const WHOLE: &str = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER";
const PART: &str = "********";
/// A line of a secret of several lines (a private key) is a secret of its own from this length.
const LINE: usize = 8;

static SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remember every string and number inside `value` as a secret.
pub(crate) fn remember(value: &Value) {
    match value {
        Value::String(text) => remember_text(text),
        Value::Number(number) => remember_text(&number.to_string()),
        Value::Array(list) => list.iter().for_each(remember),
        Value::Object(map) => map.values().for_each(remember),
        Value::Bool(_) | Value::Null => {}
    }
}

fn remember_text(text: &str) {
    let mut forms = vec![text, text.trim()];
    if text.contains('\n') {
        forms.extend(text.lines().map(str::trim).filter(|line| line.len() >= LINE));
    }
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    for form in forms {
        // What a child prints as JSON has the secret in its escaped form.
        let quoted = Value::String(form.to_owned()).to_string();
        for form in [form, &quoted[1..quoted.len() - 1]] {
            if !form.is_empty() && !secrets.iter().any(|known| known == form) {
                secrets.push(form.to_owned());
            }
        }
    }
    // The longest first: a secret may be a part of another one.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
}

/// For one line outside of a result.
pub(crate) fn line(text: &str) -> String {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    match walk(&secrets, text.into()) {
        Value::String(text) => text,
        _ => PART.to_owned(),
    }
}

pub(crate) fn result(result: Map<String, Value>) -> Map<String, Value> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let censored = result.into_iter().map(|(key, value)| {
        let value = match (key.as_str(), value) {
            // The parts of a diff are protocol too: before, after, prepared.
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

fn walk(secrets: &[String], value: Value) -> Value {
    match value {
        Value::String(text) => match hide(secrets, &text) {
            Cow::Borrowed(_) => Value::String(text),
            Cow::Owned(hidden) => Value::String(hidden),
        },
        Value::Number(number) if secrets.contains(&number.to_string()) => {
            Value::String(WHOLE.into())
        }
        Value::Array(list) => list.into_iter().map(|item| walk(secrets, item)).collect(),
        Value::Object(map) => (map.into_iter())
            .map(|(key, value)| (hide_key(secrets, &key), walk(secrets, value)))
            .collect(),
        other => other,
    }
}

fn hide_key(secrets: &[String], key: &str) -> String {
    let key = hide(secrets, key);
    // ansible-core 2.19 and later take dictionaries with such keys for their own.
    match key.strip_prefix("__ansible_") {
        Some(rest) => format!("ansible_{rest}"),
        None => key.into_owned(),
    }
}

fn hide<'a>(secrets: &[String], text: &'a str) -> Cow<'a, str> {
    if secrets.iter().any(|secret| secret == text) {
        return Cow::Owned(WHOLE.to_owned());
    }
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), PART));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    // One test for all: the list belongs to the process.
    #[test]
    fn secrets_are_found_everywhere_and_the_protocol_stays() {
        remember(&json!(["hunter2", {"key": "line one of a key\nline two of a key"}, 4711, true]));
        remember(&json!("quo\"ted"));
        let printed = Value::Object(result(object(json!({
            "changed": true,
            "rc": 4711,
            "msg": "login with hunter2 failed",
            "whole": "hunter2",
            "pin": 4711,
            "deep": [{"a hunter2 key": "x", "ok": "line two of a key, hunter2"}],
            "child": "{\"password\": \"quo\\\"ted\"}",
            "reserved": {"__ansible_type": "x"},
            "diff": [{"before": {"p": "hunter2"}, "after": "hunter2 again"}],
        }))));
        let text = printed.to_string();
        for secret in ["hunter2", "line two", "quo\\", "__ansible"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(printed["msg"], "login with ******** failed");
        assert_eq!(printed["whole"], WHOLE);
        assert_eq!(printed["pin"], WHOLE);
        assert_eq!(printed["rc"], 4711);
        assert_eq!(printed["changed"], true);
        assert_eq!(printed["diff"][0]["after"], "******** again");
    }
}
