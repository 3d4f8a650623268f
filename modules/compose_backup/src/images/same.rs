//! Compares an image of the engine with a recorded one.
//!
//! Invariant: layers and configuration are compared, not names: with the containerd image store a loaded
//! image has another id than before, and the digest of its configuration is not shown; then each field of
//! the configuration that affects how a container runs is compared.

use crate::images::inspect::Inspected;
use crate::images::record::ImageRecord;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;

/// The fields of the OCI and Docker formats that affect how a container runs.
const FIELDS: &[&str] = &[
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Compares an image with its record: `None` if they are the same, else the difference as the end of a
/// sentence. `from` is the images' folder of the backup, whose sums were checked.
pub fn difference_to(
    record: &ImageRecord,
    from: &Path,
    seen: &Inspected,
) -> Result<Option<String>> {
    if !record.diff_ids().eq(seen.layers().iter().map(String::as_str)) {
        return Ok(Some("has other layers than the recorded one".into()));
    }
    if seen.id == record.config_digest || seen.id == record.id {
        return Ok(None);
    }
    let path = from.join(record.config_file());
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let recorded: Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("cannot parse {}", path.display()))?;
    Ok(difference(&recorded, seen))
}

fn difference(recorded: &Value, seen: &Inspected) -> Option<String> {
    for (field, seen) in [("os", &seen.os), ("architecture", &seen.architecture)] {
        if recorded[field].as_str().unwrap_or_default() != seen {
            return Some(format!("is for another {field} than the recorded one"));
        }
    }
    let field = FIELDS.iter().find(|field| {
        non_empty(&recorded["config"][**field]) != non_empty(&seen.config[**field])
    })?;
    Some(format!("has another {field} than the recorded one"))
}

/// Treats null, an empty text, an empty list and a missing value as the same, since engines write any of
/// them.
fn non_empty(value: &Value) -> Option<&Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) if list.is_empty() => None,
        Value::Object(map) if map.is_empty() => None,
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(config: Value) -> Inspected {
        let text =
            json!({"Id": "sha256:1", "Os": "linux", "Architecture": "amd64", "Config": config});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn only_fields_that_affect_containers_are_compared() {
        let recorded = json!({"os": "linux", "architecture": "amd64",
            "config": {"Env": ["A=1"], "Cmd": null, "Hostname": "x", "Labels": {}}});
        assert_eq!(difference(&recorded, &seen(json!({"Env": ["A=1"], "User": ""}))), None);
        let other = difference(&recorded, &seen(json!({"Env": ["A=2"]})));
        assert_eq!(other.as_deref(), Some("has another Env than the recorded one"));
        let arm = json!({"os": "linux", "architecture": "arm64"});
        assert!(difference(&arm, &seen(json!({}))).unwrap().contains("architecture"));
    }
}
