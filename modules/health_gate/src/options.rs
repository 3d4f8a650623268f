//! The options as typed values, with the checks that a spec cannot express.

use crate::kinds;
use crate::observation::{Ask, Before};
use crate::probe_options::ProbeOptions;
use ansible_module::{Failure, Options};
use serde_json::{Map, Value};
use std::time::Duration;

/// The maximum length of a name, which is used in sentences and in a table.
const MAX_NAME: usize = 100;

pub struct Gate {
    pub probes: Vec<Probe>,
    /// How many must hold.
    pub required: usize,
    pub deadline: Duration,
    pub warnings: Vec<String>,
}

pub struct Probe {
    pub name: String,
    pub kind: String,
    pub tries: u64,
    pub delay: Duration,
    pub consecutive: u64,
    pub timeout: Duration,
    /// The probe's entry in the baseline; `None` without a baseline.
    pub before: Option<Before>,
    /// Whether the gate requires nothing: its result is for a later run to compare with.
    pub only_looks: bool,
    pub ask: Box<dyn Ask>,
}

impl Gate {
    pub fn parse(options: &Options) -> Result<Gate, Failure> {
        let baseline = Baseline::parse(options.get("baseline")?)?;
        let mut gate = Gate {
            probes: Vec::new(),
            required: 0,
            deadline: options.seconds("deadline")?,
            warnings: Vec::new(),
        };
        if gate.deadline.is_zero() {
            return Err(Failure::bad_option("deadline", "expected seconds, more than 0"));
        }
        for map in options.get::<Vec<Map<String, Value>>>("probes")? {
            let (probe, warnings) = probe(map, baseline.as_ref())?;
            if gate.probes.iter().any(|other| other.name == probe.name) {
                return Err(Failure::bad_option(
                    "probes",
                    format!("two probes have the name {}", probe.name),
                ));
            }
            gate.probes.push(probe);
            gate.warnings.extend(warnings);
        }
        if gate.probes.is_empty() {
            return Err(Failure::bad_option("probes", "expected one or more probes"));
        }
        gate.required = required(&options.get::<String>("require")?, gate.probes.len())?;
        gate.probes.iter_mut().for_each(|probe| probe.only_looks = gate.required == 0);
        Ok(gate)
    }
}

fn required(text: &str, probes: usize) -> Result<usize, Failure> {
    match (text.trim(), text.trim().parse::<usize>()) {
        ("all", _) => Ok(probes),
        (_, Ok(number)) if number <= probes => Ok(number),
        (_, Ok(number)) => Err(Failure::bad_option(
            "require",
            format!("expected all, or a number up to {probes}, got {number}"),
        )),
        (text, Err(_)) => {
            Err(Failure::bad_option("require", format!("expected all or a number, got {text:?}")))
        }
    }
}

fn probe(
    mut map: Map<String, Value>,
    baseline: Option<&Baseline>,
) -> Result<(Probe, Vec<String>), Failure> {
    let mut text = |key: &str| match map.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (name, kind) = (text("name"), text("kind"));
    let odd = |c: char| c.is_control() || c == ';';
    if name.trim().is_empty() || name.len() > MAX_NAME || name.contains(odd) {
        let msg = format!(
            "expected a name of 1 to {MAX_NAME} characters, without ; and control characters, got {name:?}"
        );
        return Err(Failure::bad_option("probes.name", &msg));
    }
    let mut options = ProbeOptions::new(&name, &kind, map);
    let tries = options.integer("tries", 1)?.unwrap_or(1);
    let consecutive = options.integer("consecutive", 1)?.unwrap_or(1);
    if consecutive > tries {
        let msg = format!("{consecutive} tries in a row need more tries than {tries}");
        return Err(options.bad("consecutive", msg));
    }
    let delay = options.seconds("delay")?.unwrap_or_default();
    let timeout = options.seconds("timeout")?.unwrap_or_default();
    if timeout.is_zero() {
        return Err(options.bad("timeout", "expected seconds, more than 0"));
    }
    let ask = kinds::parse(&mut options)?;
    let warnings = options.finish()?;
    let before = baseline.map(|baseline| baseline.of(&name, &kind));
    let only_looks = false;
    let probe = Probe { name, kind, tries, delay, consecutive, timeout, before, only_looks, ask };
    Ok((probe, warnings))
}

/// The result of an earlier run, as it was registered.
struct Baseline(Vec<Value>);

impl Baseline {
    fn parse(baseline: Option<Map<String, Value>>) -> Result<Option<Baseline>, Failure> {
        let Some(mut baseline) = baseline else { return Ok(None) };
        match baseline.remove("probes") {
            Some(Value::Array(probes)) => Ok(Some(Baseline(probes))),
            _ => Err(Failure::bad_option(
                "baseline",
                "expected the registered result of an earlier run of health_gate, with its probes",
            )),
        }
    }

    fn of(&self, name: &str, kind: &str) -> Before {
        let same = |row: &&Value| row["name"] == name && row["kind"] == kind;
        let Some(row) = self.0.iter().find(same) else { return Before::default() };
        Before {
            value: row["value"].as_f64(),
            seen: row["seen"].as_object().cloned().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn how_many_must_hold() {
        assert_eq!(required("all", 3).unwrap(), 3);
        assert_eq!(required(" 2 ", 3).unwrap(), 2);
        assert_eq!(required("0", 3).unwrap(), 0);
        for (text, words) in [("4", "a number up to 3"), ("-1", "got \"-1\""), ("most", "got")] {
            assert!(required(text, 3).unwrap_err().msg.contains(words), "{text}");
        }
    }

    #[test]
    fn a_baseline_is_matched_by_name_and_kind() {
        let rows = json!([{"name": "a", "kind": "alerts", "value": 2, "seen": {"firing": []}}]);
        let options = json!({ "probes": rows }).as_object().cloned();
        let baseline = Baseline::parse(options).unwrap().unwrap();
        assert_eq!(baseline.of("a", "alerts").value, Some(2.0));
        assert_eq!(baseline.of("a", "logs"), Before::default());
        let skipped = json!({ "skipped": true }).as_object().cloned();
        assert!(Baseline::parse(skipped).is_err());
    }

    #[test]
    fn invalid_probes_are_refused() {
        for (value, words) in [
            (json!({"name": "", "kind": "tcp"}), "expected a name"),
            (json!({"name": "a;b", "kind": "tcp"}), "expected a name"),
            (
                json!({"name": "a", "kind": "tcp", "tries": 2, "consecutive": 3}),
                "3 tries in a row need more tries than 2",
            ),
            (json!({"name": "a", "kind": "tcp", "timeout": 0}), "more than 0"),
            (json!({"name": "a", "kind": "tcp", "timeout": 1, "host": "x"}), "needs port"),
        ] {
            let map = value.as_object().cloned().unwrap();
            let msg = probe(map, None).err().map(|failure| failure.msg).unwrap_or_default();
            assert!(msg.contains(words), "{msg}");
        }
    }
}
