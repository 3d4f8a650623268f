//! Coerces a value to a type, exactly as Ansible's own `AnsibleModule` does it (ansible-core 2.19).
//!
//! `k=v` arguments always arrive as strings, YAML keeps its types, and templates produce either,
//! depending on the version, so every type accepts several forms.

use crate::spec::Kind;
use serde_json::{Map, Value, json};
use std::env;
use std::fs;

mod literal;
mod python;

pub(crate) use python::{str as python_str, type_name};

const TRUE: [&str; 6] = ["y", "yes", "on", "1", "true", "t"];
const FALSE: [&str; 6] = ["n", "no", "off", "0", "false", "f"];

/// Coerces a value; the error says why that is not possible.
pub(crate) fn coerce(kind: Kind, value: Value) -> Result<Value, String> {
    match kind {
        Kind::Raw => Ok(value),
        Kind::Str => Ok(Value::String(python_str(&value))),
        Kind::Path | Kind::AbsolutePath => Ok(Value::String(expand_path(&python_str(&value)))),
        Kind::Bool => to_bool(&value).map(Value::Bool),
        Kind::Int | Kind::Count | Kind::Positive => to_int(&value).map(|int| json!(int)),
        Kind::Float | Kind::Seconds => to_float(&value).map(|float| json!(float)),
        Kind::List => to_list(value).map(Value::Array),
        Kind::Dict => to_dict(value).map(Value::Object),
        Kind::Bytes => to_bytes(&python_str(&value)).map(|bytes| json!(bytes)),
    }
}

/// A hundred years: a longer span could overflow a clock.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;

/// Says what is wrong with a coerced value of this kind, if anything is.
pub(crate) fn range_error(kind: Kind, value: &Value) -> Option<String> {
    let (fits, expected) = match kind {
        Kind::Seconds => {
            let fits = value.as_f64().is_some_and(|span| (0.0..=LONGEST).contains(&span));
            (fits, "seconds, 0 or more")
        }
        Kind::Count => (value.as_u64().is_some(), "0 or more"),
        Kind::Positive => (value.as_u64().is_some_and(|number| number > 0), "1 or more"),
        Kind::AbsolutePath => {
            (value.as_str().is_some_and(|path| path.starts_with('/')), "an absolute path")
        }
        _ => return None,
    };
    (!fits).then(|| format!("expected {expected}, got {value}"))
}

/// Finds the choice that YAML turned into a boolean: `yes` and `off` arrive as "True" and "False". There
/// must be exactly one such choice.
pub(crate) fn choice_from_bool<'a>(text: &str, choices: &[&'a str]) -> Option<&'a str> {
    let words = match text {
        "True" => &TRUE,
        "False" => &FALSE,
        _ => return None,
    };
    let mut meant = choices.iter().filter(|choice| words.contains(choice));
    let first = meant.next()?;
    meant.next().is_none().then_some(first)
}

fn to_bool(value: &Value) -> Result<bool, String> {
    let found = match value {
        Value::Bool(bool) => Some(*bool),
        Value::Number(number) => match number.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            _ => None,
        },
        Value::String(text) => {
            let word = text.trim().to_lowercase();
            if TRUE.contains(&word.as_str()) {
                Some(true)
            } else if FALSE.contains(&word.as_str()) {
                Some(false)
            } else {
                None
            }
        }
        other => return Err(format!("{} cannot be converted to a bool", python::class(other))),
    };
    found.ok_or_else(|| {
        format!(
            "The value '{}' is not a valid boolean. Valid booleans include: {}, {}",
            python_str(value),
            TRUE.join(", "),
            FALSE.join(", "),
        )
    })
}

fn to_int(value: &Value) -> Result<i64, String> {
    let refused = || format!("\"{}\" cannot be converted to an int", python::repr(value));
    match value {
        Value::Bool(bool) => Ok(i64::from(*bool)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Ok(int),
            (None, Some(float)) => whole(float, EXACT_I64).ok_or_else(refused),
            (None, None) => Err(refused()),
        },
        Value::String(text) => {
            // Ansible uses Python's Decimal, which accepts underscores anywhere.
            let plain = text.trim().replace('_', "");
            match plain.parse::<i64>() {
                Ok(int) => Ok(int),
                // `1e3` and `12.0` are whole numbers too.
                Err(_) => python::parse_float(&plain)
                    .and_then(|float| whole(float, EXACT_F64))
                    .ok_or_else(refused),
            }
        }
        _ => Err(refused()),
    }
}

/// 2^53: beyond it, two different integers may become the same float.
const EXACT_F64: f64 = 9_007_199_254_740_992.0;
/// The largest float below 2^63.
const EXACT_I64: f64 = 9_223_372_036_854_774_784.0;

fn whole(float: f64, most: f64) -> Option<i64> {
    (float.fract() == 0.0 && float.abs() <= most).then_some(float as i64)
}

fn to_float(value: &Value) -> Result<f64, String> {
    let float = match value {
        Value::Bool(bool) => Some(f64::from(u8::from(*bool))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => python::parse_float(&without_underscores(text.trim())),
        _ => None,
    };
    float
        .filter(|float| float.is_finite())
        .ok_or_else(|| format!("{} cannot be converted to a float", python::class(value)))
}

/// Removes single underscores between digits, which Python allows.
fn without_underscores(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let between = |at: usize| digit(at.checked_sub(1)) && digit(at.checked_add(1));
    text.char_indices().filter(|(at, c)| !(*c == '_' && between(*at))).map(|(_, c)| c).collect()
}

fn to_list(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(list) => Ok(list),
        Value::String(text) => Ok(text.split(',').map(Value::from).collect()),
        Value::Number(_) | Value::Bool(_) => Ok(vec![Value::String(python_str(&value))]),
        other => Err(format!("{} cannot be converted to a list", python::class(&other))),
    }
}

pub(crate) fn to_dict(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        Value::String(text) if text.starts_with('{') => serde_json::from_str(&text)
            .ok()
            .or_else(|| literal::parse_dict(&text))
            .ok_or_else(|| "unable to evaluate string as dictionary".to_owned()),
        Value::String(text) if text.contains('=') => key_values(&text),
        Value::String(_) => Err("dictionary requested, could not parse JSON or key=value".into()),
        other => Err(format!("{} cannot be converted to a dict", python::class(&other))),
    }
}

/// Parses `k1=v1, k2="v 2"`, with quotes and backslashes as in Ansible.
fn key_values(text: &str) -> Result<Map<String, Value>, String> {
    let mut fields = vec![String::new()];
    let mut quote = None;
    let mut escaped = false;
    for c in text.trim().chars() {
        let last = fields.len() - 1;
        if escaped {
            fields[last].push(c);
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '\'' || c == '"') {
            quote = Some(c);
        } else if quote.is_none() && (c == ',' || c == ' ') {
            fields.push(String::new());
        } else {
            fields[last].push(c);
        }
    }
    (fields.iter().filter(|field| !field.is_empty()))
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), Value::from(value))),
            None => {
                Err("unable to evaluate string in the \"key=value\" format as dictionary"
                    .to_owned())
            }
        })
        .collect()
}

/// Parses a number of bytes: `10G`, `1.5 KB`, `512`.
fn to_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(char, &str, &str, f64); 9] = [
        ('B', "byte", "B", 1.0),
        ('K', "kilobyte", "KB", 1024.0),
        ('M', "megabyte", "MB", 1_048_576.0),
        ('G', "gigabyte", "GB", 1_073_741_824.0),
        ('T', "terabyte", "TB", 1_099_511_627_776.0),
        ('P', "petabyte", "PB", 1_125_899_906_842_624.0),
        ('E', "exabyte", "EB", 1_152_921_504_606_846_976.0),
        ('Z', "zettabyte", "ZB", 1.180_591_620_717_411_3e21),
        ('Y', "yottabyte", "YB", 1.208_925_819_614_629_2e24),
    ];
    let refused = || "<class 'str'> cannot be converted to a Byte value".to_owned();
    let at = (text.find(|c: char| !c.is_ascii_digit() && c != '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..at], text[at..].trim());
    if number.ends_with('.') || number.matches('.').count() > 1 {
        return Err(refused());
    }
    let number: f64 = number.parse().map_err(|_| refused())?;
    let factor = match unit.chars().next() {
        None => 1.0,
        Some(first) => {
            let key = first.to_ascii_uppercase();
            let known_unit =
                UNITS.iter().find(|(letter, ..)| *letter == key).ok_or_else(refused)?;
            let fits =
                unit.len() == 1 || unit == known_unit.2 || unit.to_lowercase() == known_unit.1;
            if !fits {
                return Err(refused());
            }
            known_unit.3
        }
    };
    let bytes = (number * factor).round_ties_even();
    if bytes > 9.2e18 {
        return Err(format!("{text} is too many bytes"));
    }
    Ok(bytes as u64)
}

/// Expands `$VAR`, `${VAR}`, `~` and `~user` as Python's expandvars and expanduser do.
fn expand_path(path: &str) -> String {
    let path = expand_variables(path);
    let Some(rest) = path.strip_prefix('~') else { return path };
    let at = rest.find('/').unwrap_or(rest.len());
    let (user, below) = rest.split_at(at);
    let home = match user {
        "" => env::var("HOME").ok().or_else(|| home_of(|_, uid| uid == own_uid())),
        user => home_of(|name, _| name == user),
    };
    match home {
        Some(home) if below.is_empty() && home.is_empty() => "/".to_owned(),
        Some(home) => format!("{}{below}", home.trim_end_matches('/')),
        None => path,
    }
}

fn expand_variables(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, end) = match after.strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(close) => (&inner[..close], close + 2),
                None => ("", 0),
            },
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let end = end.unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        // A name that no variable can have makes env::var panic.
        let name_is_valid = !name.is_empty() && !name.contains(['=', '\0']);
        match name_is_valid.then(|| env::var(name).ok()).flatten() {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..at + 1 + end]),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

fn own_uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

/// Reads a home from /etc/passwd: a static program has no name service.
fn home_of(matches: impl Fn(&str, u32) -> bool) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [name, _, uid, _, _, home, ..] => {
                matches(name, uid.parse().ok()?).then(|| home.to_owned())
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests;
