//! A plan: the steps of a module, and what each of them destroys.
//!
//! Invariant: the plan id depends only on identities and sentences. Sizes are separate (`Loss::bytes`),
//! so that a plan that a person has seen stays the same while data is written, and becomes another one
//! when a snapshot, a holder or a clone appears or disappears.

use ansible_module::{Diff, Outcome};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Something that a step destroys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The word that `accept` must contain for it; `None` for the plain action, which `confirm: true`
    /// covers.
    pub accept: Option<&'static str>,
    /// What is lost, by name and without its size.
    pub what: String,
    /// How much is lost, if that can be measured.
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

/// A step: what to do, also as a sentence, and what it destroys.
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

/// How a plan can be undone after it was carried out.
#[derive(Clone, Debug)]
pub enum Undo {
    By(String),
    /// It cannot be undone, for this reason.
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

/// The steps of a module. An empty list means that nothing has to change.
#[derive(Clone, Debug)]
pub struct Plan<A> {
    /// The exact name of what is changed; part of the id.
    pub subject: String,
    /// What the plan was made from and must still exist when it is carried out: guids, names, holders;
    /// part of the id.
    pub identities: Vec<String>,
    pub steps: Vec<Step<A>>,
    pub undo: Undo,
    /// The current state and the predicted one, as they are shown.
    pub before: Value,
    pub after: Value,
    pub warnings: Vec<String>,
}

impl<A> Plan<A> {
    /// Makes a plan that changes nothing.
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

    /// Returns `plan-` and 12 hex digits. The prefix keeps YAML from reading digits as a number.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |kind: &str, text: &str| {
            // With lengths, two parts never hash like one.
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

    /// Makes the result as far as it is known before the first step.
    pub(crate) fn describe(&self) -> Outcome {
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

    /// Formats the plan for `--diff`.
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
    fn the_id_depends_on_identities_and_not_on_sizes() {
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
    fn parts_are_hashed_separately() {
        let mut one = plan();
        one.identities = vec!["a".into(), "b".into()];
        let mut other = plan();
        other.identities = vec!["a\nidentity 1 b".into()];
        assert_ne!(one.id(), other.id());
    }
}
