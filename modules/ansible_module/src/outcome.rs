//! The result of a module that did not fail.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// A step that was carried out.
#[derive(Clone, Debug, Serialize)]
pub struct StepDone {
    pub step: String,
    pub seconds: f64,
}

/// A difference as `--diff` shows it.
#[derive(Clone, Debug)]
pub enum Diff {
    /// Two states, shown line by line.
    States { subject: String, before: Value, after: Value },
    /// Text that is shown unchanged.
    Text(String),
}

/// The result of a module. Extra keys go into `facts`.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub changed: bool,
    /// Why there was nothing to do at all, which Ansible shows as "skipping".
    pub skipped: Option<String>,
    pub plan: Option<Vec<String>>,
    pub plan_id: Option<String>,
    pub loss: Vec<Value>,
    pub undo: Option<String>,
    pub steps: Vec<StepDone>,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub diff: Vec<Diff>,
    pub warnings: Vec<String>,
    pub deprecations: Vec<String>,
    pub facts: Map<String, Value>,
}

impl Outcome {
    pub fn fact(mut self, key: &str, value: impl Into<Value>) -> Outcome {
        self.facts.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn into_result(self, show_diff: bool) -> Map<String, Value> {
        let mut result = self.facts;
        result.insert("changed".into(), json!(self.changed));
        if let Some(why) = self.skipped {
            result.insert("skipped".into(), json!(true));
            result.insert("msg".into(), json!(why));
        }
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                result.insert(key.into(), value);
            }
        };
        let planned = self.plan.is_some();
        put("plan", self.plan.map(|plan| json!(plan)));
        put("plan_id", self.plan_id.map(Value::String));
        put("loss", planned.then(|| json!(self.loss)));
        put("undo", self.undo.map(Value::String));
        put("steps", planned.then(|| json!(self.steps)));
        put("before", self.before);
        put("after", self.after);
        if show_diff && !self.diff.is_empty() {
            put("diff", Some(self.diff.iter().map(Diff::to_json).collect()));
        }
        if !self.warnings.is_empty() {
            put("warnings", Some(json!(self.warnings)));
        }
        if !self.deprecations.is_empty() {
            let list: Vec<Value> = (self.deprecations.iter())
                .map(|msg| json!({"msg": msg, "version": "2.0.0", "collection_name": "reversible.deploy"}))
                .collect();
            put("deprecations", Some(json!(list)));
        }
        result
    }
}

impl Diff {
    fn to_json(&self) -> Value {
        match self {
            Diff::States { subject, before, after } => json!({
                "before_header": format!("{subject} (before)"),
                "after_header": format!("{subject} (after)"),
                "before": before,
                "after": after,
            }),
            Diff::Text(text) => json!({ "prepared": text }),
        }
    }
}
