//! A plan: the steps a module would take, and what each of them destroys.
//!
//! Invariant: the plan id depends on identities and sentences only. Sizes and times stand beside
//! them (`Loss::bytes`), so that a plan which a person has seen stays the same plan while bytes
//! are written, and becomes another one when a snapshot, a holder or a clone comes or goes.

use ansible_module::{Diff, Outcome};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Something that would be gone afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The word that `accept` must hold for it; none for the plain action, which `confirm: true`
    /// covers.
    pub accept: Option<&'static str>,
    /// What is lost, by name; no size.
    pub what: String,
    /// How much it is, when that can be known.
    pub bytes: Option<u64>,
}

impl Loss {
    pub fn plain(what: impl Into<String>) -> Loss {
        Loss { accept: None, what: what.into(), bytes: None }
    }

    pub fn accepted_as(word: &'static str, what: impl Into<String>) -> Loss {
        Loss { accept: Some(word), what: what.into(), bytes: None }
    }

    pub fn bytes(mut self, bytes: u64) -> Loss {
        self.bytes = Some(bytes);
        self
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "what": self.what, "accept": self.accept, "bytes": self.bytes })
    }
}

/// One step: what to do, said in a sentence, and what it destroys.
#[derive(Clone, Debug)]
pub struct Step<A> {
    pub action: A,
    pub text: String,
    pub loss: Vec<Loss>,
}

impl<A> Step<A> {
    pub fn new(action: A, text: impl Into<String>) -> Step<A> {
        Step { action, text: text.into(), loss: Vec::new() }
    }

    pub fn loses(mut self, loss: Loss) -> Step<A> {
        self.loss.push(loss);
        self
    }
}

/// How a plan can be undone once it was carried out.
#[derive(Clone, Debug)]
pub enum Undo {
    By(String),
    /// It cannot, and why.
    None(String),
}

impl Undo {
    pub(crate) fn text(&self) -> String {
        match self {
            Undo::By(how) => how.clone(),
            Undo::None(why) => format!("none: {why}"),
        }
    }
}

/// What a module would do. An empty list of steps means that nothing has to change.
#[derive(Clone, Debug)]
pub struct Plan<A> {
    /// What is changed, by its exact name: part of the id.
    pub subject: String,
    /// What the plan was made from and must still be there when it is carried out: guids, names,
    /// holders. Part of the id.
    pub identities: Vec<String>,
    pub steps: Vec<Step<A>>,
    pub undo: Undo,
    /// The state now, and the state that the plan leads to, as they are shown.
    pub before: Value,
    pub after: Value,
    pub warnings: Vec<String>,
}

impl<A> Plan<A> {
    /// A plan that changes nothing.
    pub fn nothing(subject: impl Into<String>, state: Value) -> Plan<A> {
        Plan {
            subject: subject.into(),
            identities: Vec::new(),
            steps: Vec::new(),
            undo: Undo::None("nothing is changed".into()),
            before: state.clone(),
            after: state,
            warnings: Vec::new(),
        }
    }

    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.steps.iter().flat_map(|step| &step.loss)
    }

    pub fn sentences(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.text.clone()).collect()
    }

    /// `plan-` and 12 hex digits. The prefix keeps YAML from reading digits as a number.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |kind: &str, text: &str| {
            // Lengths keep two parts from reading as one.
            hash.update(format!("{kind} {} {text}\n", text.len()));
        };
        part("subject", &self.subject);
        for identity in &self.identities {
            part("identity", identity);
        }
        for step in &self.steps {
            part("step", &step.text);
            for loss in &step.loss {
                part(loss.accept.unwrap_or("plain"), &loss.what);
            }
        }
        let hex = host::hex(&hash.finalize()[..6]);
        format!("plan-{hex}")
    }

    /// The result as far as it is known before the first step.
    pub(crate) fn described(&self) -> Outcome {
        let mut outcome = Outcome {
            changed: !self.steps.is_empty(),
            plan: Some(self.sentences()),
            plan_id: Some(self.id()),
            loss: self.losses().map(|loss| loss.to_json()).collect(),
            undo: Some(self.undo.text()),
            before: Some(self.before.clone()),
            after: Some(self.after.clone()),
            warnings: self.warnings.clone(),
            ..Outcome::default()
        };
        if outcome.changed {
            let states = Diff::States {
                subject: self.subject.clone(),
                before: self.before.clone(),
                after: self.after.clone(),
            };
            outcome.diff = vec![states, Diff::Text(self.rendered())];
        }
        outcome
    }

    /// The plan as a person reads it under `--diff`.
    pub(crate) fn rendered(&self) -> String {
        let mut text = format!("{} for {}\n", self.id(), self.subject);
        for (number, step) in self.steps.iter().enumerate() {
            text.push_str(&format!("  {}. {}\n", number + 1, step.text));
            for loss in &step.loss {
                let size = loss.bytes.map(|bytes| format!(" ({})", host::space::human(bytes)));
                text.push_str(&format!(
                    "     destroys: {}{}\n",
                    loss.what,
                    size.unwrap_or_default()
                ));
            }
        }
        text.push_str(&format!("  undo: {}\n", self.undo.text()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan<()> {
        let step = Step::new((), "roll tank/a back to pre-deploy-x")
            .loses(Loss::plain("what was written to tank/a").bytes(10))
            .loses(Loss::accepted_as("newer_snapshots", "tank/a@later").bytes(5));
        Plan {
            identities: vec!["tank/a guid 7".into()],
            steps: vec![step],
            ..Plan::nothing("tank/a", json!({}))
        }
    }

    #[test]
    fn the_id_follows_identities_and_not_sizes() {
        let id = plan().id();
        assert_eq!(id.len(), 17);
        let mut grown = plan();
        grown.steps[0].loss[0].bytes = Some(99);
        assert_eq!(grown.id(), id);
        let mut moved = plan();
        moved.identities[0] = "tank/a guid 8".into();
        assert_ne!(moved.id(), id);
        let mut more = plan();
        more.steps[0].loss[1].what = "tank/a@later, tank/a@last".into();
        assert_ne!(more.id(), id);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let mut one = plan();
        one.identities = vec!["a".into(), "b".into()];
        let mut other = plan();
        other.identities = vec!["a\nidentity 1 b".into()];
        assert_ne!(one.id(), other.id());
    }
}
