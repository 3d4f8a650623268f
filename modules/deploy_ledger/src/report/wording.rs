//! Formats durations, sizes and values for a report.

use crate::ledger::Deploy;
use serde_json::{Map, Value};

/// Formats seconds for people.
pub fn duration(seconds: i64) -> String {
    match seconds {
        0 => "under 1 s".into(),
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

pub fn milliseconds(value: &Value) -> String {
    match value.as_f64() {
        Some(ms) if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) if ms >= 100.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{ms:.1} ms"),
        None => text(value),
    }
}

/// Formats a value for a line: text as it is, anything else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(_) => value.to_string(),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            host::joined(list.iter().map(text))
        }
        Value::Object(map) => pairs(map),
        Value::Array(_) => value.to_string(),
    }
}

/// Formats keys and values; `bytes` is always a size.
pub fn pairs(map: &Map<String, Value>) -> String {
    let pair = |(key, value): (&String, &Value)| match (key.as_str(), value.as_u64()) {
        ("bytes", Some(bytes)) => host::space::human(bytes),
        ("seconds", Some(_)) => format!("{value} s"),
        _ => format!("{key} {}", text(value)),
    };
    host::joined(map.iter().filter(|(_, value)| !value.is_null()).map(pair))
}

/// Replaces control characters, and those that change the direction of text and so can make it read as
/// another one.
pub fn plain(text: &str) -> String {
    let strange = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    text.chars().map(|c| if strange(c) { '\u{fffd}' } else { c }).collect()
}

pub const POINTS: &[&str] = &["Layer", "Name", "Host", "Guid or digest", "Cost of going back"];

pub fn points(deploy: &Deploy) -> Vec<Vec<String>> {
    let row = |point: &crate::ledger::RestorePoint| {
        vec![
            point.layer.clone(),
            point.name.clone(),
            point.host.clone().unwrap_or_default(),
            point.guid.clone().or_else(|| point.digest.clone()).unwrap_or_default(),
            pairs(&point.cost.map()),
        ]
    };
    deploy.restore_points.iter().map(|(_, point)| row(point)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_formatted_for_people() {
        assert_eq!(duration(0), "under 1 s");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(200), "3 min 20 s");
        assert_eq!(duration(7260), "2 h 1 min");
        assert_eq!(milliseconds(&json!(12.34)), "12.3 ms");
        assert_eq!(milliseconds(&json!(60000)), "60.0 s");
        assert_eq!(text(&json!({"bytes": 2048, "what": "rows", "x": null})), "2.0 KiB, what rows");
        assert_eq!(plain("a\u{1b}[2J\u{202e}b\nc"), "a\u{fffd}[2J\u{fffd}b\nc");
    }
}
