//! `restarts`: containers and units were not restarted more often than allowed.
//!
//! Counted from the baseline, or from the first try without one, to the end of a window.

use super::docker;
use super::systemd::{self, increase};
use crate::observation::{Ask, Before, Observation, Try};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::deadline::Deadline;
use serde_json::{Map, Value, json};
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(10);

pub struct Restarts {
    of: Counted,
    max: u64,
    window: Duration,
}

enum Counted {
    Containers(Vec<String>),
    Unit(String),
}

impl Restarts {
    pub fn parse(options: &mut ProbeOptions) -> Result<Restarts, Failure> {
        let (containers, unit) = (options.words("containers")?, options.word("unit")?);
        let of = match (containers.is_empty(), unit) {
            (false, None) => Counted::Containers(containers),
            (true, Some(unit)) => Counted::Unit(unit),
            _ => {
                return Err(options.refuse("kind restarts needs either containers or unit".into()));
            }
        };
        let max = options.take::<f64>("max")?.unwrap_or_default();
        if max < 0.0 || max.fract() != 0.0 {
            return Err(
                options.bad("max", format!("expected a whole number, 0 or more, got {max}"))
            );
        }
        let window = options.seconds("window")?.unwrap_or(WINDOW);
        Ok(Restarts { of, max: max as u64, window })
    }

    /// Returns the counts as `{"web": {"id": "4f2a...", "restarts": 0}}`.
    fn counts(&self, deadline: Deadline) -> Result<Map<String, Value>, String> {
        match &self.of {
            Counted::Containers(names) => {
                let all = docker::inspect(names, deadline)?;
                let entry = |(name, one): (&String, &docker::Container)| {
                    (name.clone(), json!({ "id": one.id, "restarts": one.restart_count }))
                };
                // `inspect` keeps the order of the options.
                Ok(names.iter().zip(&all).map(entry).collect())
            }
            Counted::Unit(name) => {
                let unit = systemd::show(name, deadline)?;
                let restarts = unit.restarts.ok_or("this systemd does not count restarts")?;
                Ok([(name.clone(), json!({ "id": null, "restarts": restarts }))]
                    .into_iter()
                    .collect())
            }
        }
    }
}

/// Returns the restarts since `was`, by name.
fn new_restarts(
    was: &Map<String, Value>,
    is: &Map<String, Value>,
) -> Result<Vec<(String, u64)>, String> {
    let count = |entry: &Value| entry["restarts"].as_u64();
    let mut all = Vec::new();
    for (name, now) in is {
        let before = was.get(name).filter(|before| count(before).is_some());
        let before =
            before.ok_or_else(|| format!("the baseline has no restart count of {name}"))?;
        let now_count = count(now).unwrap_or_default();
        // A recreated container has another id, and its count begins at zero.
        let new = match before["id"] == now["id"] {
            true => increase(count(before).unwrap_or_default(), now_count),
            false => now_count,
        };
        all.push((name.clone(), new));
    }
    Ok(all)
}

fn baseline_counts(before: &Before) -> Result<&Map<String, Value>, String> {
    let counts = before.seen.get("restarts").and_then(Value::as_object);
    counts.ok_or_else(|| "the baseline has no restart counts of this probe".to_owned())
}

impl Ask for Restarts {
    fn begin(&self, now: &Try<'_>) -> Result<Value, String> {
        self.counts(now.deadline()).map(Value::Object)
    }

    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        now.watch(self.window)?;
        let counts = self.counts(now.deadline())?;
        let nothing = Map::new();
        let was = match now.before {
            Some(before) => baseline_counts(before)?,
            None => now.initial.as_object().unwrap_or(&nothing),
        };
        let new_restarts = new_restarts(was, &counts)?;
        let sum: u64 = new_restarts.iter().map(|(_, new)| new).sum();
        let verdict = match sum <= self.max {
            true => now.require_time_or_baseline(self.window),
            false => {
                let list = (new_restarts.iter().filter(|(_, new)| *new > 0))
                    .map(|(name, new)| format!("{name} {new} times"));
                Err(format!("restarted: {}", host::joined(list)))
            }
        };
        let seen = Observation::new(format!("{sum} new restarts")).value(sum as f64);
        Ok(seen.judged(verdict).remember("restarts", Value::Object(counts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(id: &str, restarts: u64) -> Map<String, Value> {
        json!({ "web": { "id": id, "restarts": restarts } }).as_object().cloned().unwrap()
    }

    #[test]
    fn restarts_since_the_baseline_are_counted() {
        let new = |was: &Map<String, Value>, is| new_restarts(was, &is).map(|all| all[0].1);
        assert_eq!(new(&counts("a", 2), counts("a", 5)), Ok(3));
        assert_eq!(new(&counts("a", 2), counts("b", 1)), Ok(1));
        assert!(new(&Map::new(), counts("a", 0)).unwrap_err().contains("no restart count of web"));
        let odd = json!({ "web": { "id": "a" } }).as_object().cloned().unwrap();
        assert!(new(&odd, counts("a", 0)).is_err());
    }
}
