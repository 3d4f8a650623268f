//! Formats values as Python's `str`, `repr` and type names do, for Ansible's messages and its conversion
//! to strings.

use serde_json::{Number, Value};

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

pub(super) fn class(value: &Value) -> String {
    format!("<class '{}'>", type_name(value))
}

/// Formats as `str(value)`, but null as the empty string, like Ansible.
pub(crate) fn str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => repr(other),
    }
}

pub(super) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => repr_number(number),
        Value::String(text) => repr_text(text),
        Value::Array(list) => format!("[{}]", host::joined(list.iter().map(repr))),
        Value::Object(map) => {
            let item =
                |(key, value): (&String, &Value)| format!("{}: {}", repr_text(key), repr(value));
            format!("{{{}}}", host::joined(map.iter().map(item)))
        }
    }
}

fn repr_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa0).contains(&(c as u32)) => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Formats a number as Python does: from 1e16 on and below 1e-4 with an exponent of a sign and two digits.
fn repr_number(number: &Number) -> String {
    let float = match number.as_f64() {
        Some(float) if number.is_f64() => float,
        _ => return number.to_string(),
    };
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{float}");
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// Parses what Python's `float()` accepts, except infinity and NaN, which JSON does not have.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    let allowed = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    (digits && allowed).then(|| text.parse().ok()).flatten()
}
