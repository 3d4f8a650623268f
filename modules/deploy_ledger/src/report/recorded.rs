//! Reads what the phases of a deploy recorded, by the keys of modules' results.

use super::wording::{self, milliseconds, pairs, text};
use crate::ledger::{Deploy, Phase, Status};
use serde_json::{Map, Value};

/// Bytes shown of the end of a program's output.
const MAX_OUTPUT: usize = 8 << 10;
const MAX_OTHER: usize = 2 << 10;

pub struct Plan {
    pub phase: String,
    pub steps: Vec<String>,
    pub losses: Vec<String>,
    pub undo: String,
}

/// What passes between the moment at which the new colour serves and the one at which the old one does again.
const EXPOSED: &[&str] = &["record", "prove", "watch", "drain", "back"];

const STAGES: &[&str] = &["target", "flip", "record", "prove", "watch", "drain", "back"];

/// A flip in numbers.
pub struct Flip {
    pub phase: String,
    pub reverted: bool,
    /// How long each stage took.
    pub stages: Vec<(String, f64, String)>,
    pub numbers: Vec<(&'static str, String)>,
    pub requests: Option<(u64, u64)>,
}

/// The probes of a gate.
pub struct Gate {
    pub phase: String,
    /// How many probes held and how many had to, if recorded.
    pub count: Option<String>,
    pub probes: Vec<Probe>,
}

pub struct Probe {
    /// Whether it held; `None` when it was not evaluated.
    pub ok: Option<bool>,
    /// name, kind, tries, answer, milliseconds, why
    pub row: Vec<String>,
}

pub const PROBE: &[&str] = &["Probe", "Kind", "Tries", "Answer", "Time", "Why"];

/// The last messages of a phase.
pub struct Said {
    pub phase: String,
    pub message: Option<String>,
    pub lines: Vec<(&'static str, String)>,
}

#[derive(Default)]
pub struct Recorded {
    pub plans: Vec<Plan>,
    pub flips: Vec<Flip>,
    pub gates: Vec<Gate>,
    pub said: Vec<Said>,
    /// Phase, key and value of everything else.
    pub other: Vec<(String, String, String)>,
}

impl Recorded {
    pub fn of(deploy: &Deploy) -> Recorded {
        let mut recorded = Recorded::default();
        for (_, phase) in &deploy.phases {
            let mut data = phase.data.map();
            let name = &phase.phase;
            recorded.plan(name, &mut data);
            recorded.flips.extend(data.remove("flip").and_then(|it| Flip::of(name, &it)));
            recorded.gates.extend(Gate::of(name, &mut data));
            recorded.said(name, phase.status, &mut data);
            // Keys that Ansible adds to every result say no more than the phase's status.
            data.retain(|key, _| {
                !["changed", "failed", "failed_when_result"].contains(&key.as_str())
            });
            for (key, value) in data {
                let shown = cut(&text(&value), MAX_OTHER);
                if !shown.is_empty() {
                    recorded.other.push((name.clone(), key, shown));
                }
            }
        }
        recorded
    }

    fn plan(&mut self, phase: &str, data: &mut Map<String, Value>) {
        let list = |value: Option<Value>| match value {
            Some(Value::Array(list)) => list,
            Some(Value::Null) | None => Vec::new(),
            Some(other) => vec![other],
        };
        let steps: Vec<String> = list(data.remove("plan")).iter().map(text).collect();
        let losses: Vec<String> = list(data.remove("loss")).iter().map(loss).collect();
        let undo = data.remove("undo").map(|undo| text(&undo)).unwrap_or_default();
        if !(steps.is_empty() && losses.is_empty()) {
            self.plans.push(Plan { phase: phase.into(), steps, losses, undo });
        }
    }

    fn said(&mut self, phase: &str, status: Status, data: &mut Map<String, Value>) {
        let mut take = |key: &str| {
            data.remove(key).map(|value| cut(&text(&value), MAX_OUTPUT)).filter(|it| !it.is_empty())
        };
        let message = take("msg").filter(|_| status == Status::Failed);
        let keys = [
            ("reason", "Reason"),
            ("cmd", "Command"),
            ("rc", "Exit status"),
            ("stdout", "Output"),
            ("stderr", "Errors"),
        ];
        let lines: Vec<(&str, String)> =
            keys.iter().filter_map(|(key, label)| Some((*label, take(key)?))).collect();
        if message.is_some() || !lines.is_empty() {
            self.said.push(Said { phase: phase.into(), message, lines });
        }
    }
}

fn loss(value: &Value) -> String {
    let Value::Object(map) = value else { return text(value) };
    let what = map.get("what").map(text).unwrap_or_else(|| pairs(map));
    match map.get("bytes").and_then(Value::as_u64) {
        Some(bytes) => format!("{what} ({})", host::space::human(bytes)),
        None => what,
    }
}

impl Flip {
    fn of(phase: &str, value: &Value) -> Option<Flip> {
        let map = value.as_object().filter(|map| !map.is_empty())?;
        let stages = map.get("milliseconds").and_then(Value::as_object).into_iter().flatten();
        let mut stages: Vec<(String, f64, String)> = stages
            .map(|(stage, value)| {
                (stage.clone(), value.as_f64().unwrap_or(0.0).max(0.0), milliseconds(value))
            })
            .collect();
        // Known stages in their order, then others.
        stages.sort_by_key(|(stage, ..)| {
            STAGES.iter().position(|known| known == stage).unwrap_or(STAGES.len())
        });
        let (proof, budget) = (&value["proof"], &value["budget"]);
        let count = |value: &Value| value.as_u64();
        let share = |value: &Value| value.as_f64().map(|it| format!("{:.2} %", it * 100.0));
        let mut numbers = Vec::new();
        let mut number = |label, text: Option<String>| {
            if let Some(text) = text {
                numbers.push((label, text));
            }
        };
        number("Flip", value["milliseconds"].get("flip").map(milliseconds));
        number("Requests", count(&budget["requests"]).map(|it| it.to_string()));
        number("Failed", count(&budget["failed"]).map(|it| it.to_string()));
        number("Failed share", share(&budget["share"]));
        number("Share before", share(&budget["share_before"]));
        number("Watched", budget["seconds"].as_f64().map(|it| format!("{it} s")));
        number("Proof", count(&proof["status"]).map(|it| format!("status {it}")));
        number("Tries", count(&proof["tries"]).map(|it| it.to_string()));
        number("Sessions left", count(&value["sessions_left"]).map(|it| it.to_string()));
        Some(Flip {
            phase: phase.into(),
            reverted: value["reverted"] == true,
            stages,
            numbers,
            requests: count(&budget["requests"]).zip(count(&budget["failed"])),
        })
    }
}

impl Flip {
    pub fn of_phase(phase: &Phase) -> Option<Flip> {
        Flip::of(&phase.phase, phase.data.map().get("flip")?)
    }

    /// Milliseconds for which users had the new colour, when the flip went back by itself.
    pub fn exposed(&self) -> Option<f64> {
        let took = self.stages.iter().filter(|(stage, ..)| EXPOSED.contains(&stage.as_str()));
        self.reverted.then(|| took.map(|(_, took, _)| took).sum())
    }
}

impl Gate {
    fn of(phase: &str, data: &mut Map<String, Value>) -> Option<Gate> {
        let Some(Value::Array(list)) = data.get("probes") else { return None };
        let probes: Vec<Probe> = list.iter().map(Probe::of).collect();
        let number = |key: &str| data.get(key).and_then(Value::as_u64);
        let count = number("held")
            .zip(number("required"))
            .map(|(held, required)| format!("{held} of {} held; {required} had to.", probes.len()));
        let recorded = ["probes", "held", "required", "failed_probes"];
        data.retain(|key, _| !recorded.contains(&key.as_str()));
        Some(Gate { phase: phase.into(), count, probes })
    }
}

impl Probe {
    pub fn word(&self) -> &'static str {
        match self.ok {
            Some(true) => "ok",
            Some(false) => "failed",
            None => "not evaluated",
        }
    }

    fn of(value: &Value) -> Probe {
        // health_gate has `answer`; others may have `last` or `status`.
        let get = |keys: &[&str]| {
            let found = keys.iter().find_map(|key| value.get(key).filter(|it| !it.is_null()));
            found.map(|it| cut(&text(it), MAX_OTHER)).unwrap_or_default()
        };
        let time = value.get("milliseconds").filter(|it| !it.is_null());
        Probe {
            ok: value["ok"].as_bool(),
            row: vec![
                get(&["name"]),
                get(&["kind"]),
                get(&["tries"]),
                get(&["answer", "last", "status"]),
                time.map(milliseconds).unwrap_or_default(),
                get(&["why"]),
            ],
        }
    }
}

/// The end of a text, where the cause usually is.
fn cut(text: &str, most: usize) -> String {
    let text = wording::plain(text.trim_end());
    if text.len() <= most {
        return text;
    }
    let mut from = text.len() - most;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("[{from} bytes left out]\n{}", &text[from..])
}
