//! Consent: a step that destroys data runs only if somebody agreed to exactly that.

use crate::notes::ConfirmedPlan;
use crate::plan::Plan;
use ansible_module::{Default, Failure, Invocation, Kind, Opt};
use host::space::human;
use serde_json::{Value, json};

/// The options of every module that may destroy something.
pub const CONSENT: &[Opt] = &[
    Opt::new("confirm", Kind::Str).default(Default::Str("false")).about(&[
        "Agreement to what the plan destroys.",
        "Either the C(plan_id) that check mode showed: it covers all that this plan lists, and is refused when the state has moved since.",
        "Or V(true): it covers the plain action alone, and O(accept) must name each further kind of loss.",
    ]),
    Opt::new("accept", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Further kinds of loss to agree to, together with O(confirm=true).",
        "The plan names the word for each.",
    ]),
    Opt::new("max_loss", Kind::Bytes).about(&[
        "The most data that may be lost, such as V(100M).",
        "A plan that would lose more, or whose loss cannot be measured, is refused even when it was confirmed.",
    ]),
];

enum Confirm {
    No,
    PlainAction,
    Plan(String),
}

/// What the task agrees to.
pub struct Consent {
    confirm: Confirm,
    accept: Vec<String>,
    max_loss: Option<u64>,
}

impl Consent {
    /// Returns the consent of modules that destroy nothing: any loss in a plan is refused.
    pub fn none() -> Consent {
        Consent { confirm: Confirm::No, accept: Vec::new(), max_loss: None }
    }

    pub fn from(invocation: &Invocation) -> Result<Consent, Failure> {
        let options = &invocation.options;
        let given: String = options.get("confirm")?;
        let confirm = match given.trim().to_lowercase().as_str() {
            "" | "false" | "no" | "off" | "0" => Confirm::No,
            "true" | "yes" | "on" | "1" => Confirm::PlainAction,
            id if id.starts_with("plan-") => Confirm::Plan(id.to_owned()),
            _ => {
                return Err(Failure::new(
                    "bad_options",
                    format!(
                        "argument 'confirm' must be true, false or the plan_id that check mode \
                         showed (plan-...), got: {given}"
                    ),
                ));
            }
        };
        Ok(Consent { confirm, accept: options.get("accept")?, max_loss: options.get("max_loss")? })
    }

    /// Returns the id of the plan that a person has seen and confirmed.
    pub fn confirmed_plan(&self) -> Option<&str> {
        match &self.confirm {
            Confirm::Plan(id) => Some(id),
            Confirm::No | Confirm::PlainAction => None,
        }
    }

    /// Checks that `plan` may be carried out. The refusal says what would be lost and what to pass.
    ///
    /// The consent to a run that was then killed also covers the rest of its plan, as long as that
    /// destroys nothing else.
    pub(crate) fn check<A>(
        &self,
        plan: &Plan<A>,
        unfinished: Option<&ConfirmedPlan>,
    ) -> Result<(), Failure> {
        let id = plan.id();
        if let Confirm::Plan(seen) = &self.confirm {
            let is_the_rest = unfinished.is_some_and(|known| {
                known.plan_id == *seen && plan.losses().all(|loss| known.loss.contains(&loss.what))
            });
            if *seen != id && !is_the_rest {
                return Err(refusal(
                    "plan_moved",
                    plan,
                    format!(
                        "the state has moved since {seen} was shown, and the plan is now {id}; \
                         nothing was changed; look at this plan and confirm it instead"
                    ),
                ));
            }
        }
        if plan.losses().next().is_none() {
            return Ok(());
        }
        let mut missing: Vec<&str> = match self.confirm {
            Confirm::Plan(_) => Vec::new(),
            Confirm::PlainAction | Confirm::No => (plan.losses())
                .filter_map(|loss| loss.accept)
                .filter(|word| !self.accept.iter().any(|accepted| accepted == word))
                .collect(),
        };
        missing.sort_unstable();
        missing.dedup();
        if matches!(self.confirm, Confirm::No) || !missing.is_empty() {
            let accept = match missing.as_slice() {
                [] => String::new(),
                words => format!(" with accept: [{}]", words.join(", ")),
            };
            return Err(refusal(
                "needs_consent",
                plan,
                format!(
                    "this would destroy {}; nothing was changed; to go on pass confirm: {id}, or \
                     confirm: true{accept}",
                    listed(plan)
                ),
            ));
        }
        self.check_amount(plan)
    }

    fn check_amount<A>(&self, plan: &Plan<A>) -> Result<(), Failure> {
        let Some(most) = self.max_loss else { return Ok(()) };
        let most_shown = human(most);
        let total = plan.losses().filter_map(|loss| loss.bytes).fold(0, u64::saturating_add);
        let why = if let Some(loss) = plan.losses().find(|loss| loss.bytes.is_none()) {
            let what = &loss.what;
            format!("max_loss is {most_shown}, and how much is lost with {what} cannot be measured")
        } else if total > most {
            let (total, all) = (human(total), listed(plan));
            format!("this would destroy {total} ({all}), which is more than max_loss {most_shown}")
        } else {
            return Ok(());
        };
        Err(refusal("over_max_loss", plan, format!("{why}; nothing was changed")))
    }
}

fn listed<A>(plan: &Plan<A>) -> String {
    host::joined(plan.losses().map(|loss| match loss.bytes {
        // Something without data, such as a hold or a mount point.
        Some(0) if loss.accept.is_some() => loss.what.clone(),
        Some(bytes) => format!("{} ({})", loss.what, human(bytes)),
        None => loss.what.clone(),
    }))
}

fn refusal<A>(reason: &'static str, plan: &Plan<A>, msg: String) -> Failure {
    let loss: Vec<Value> = plan.losses().map(|loss| loss.to_json()).collect();
    Failure::new(reason, format!("{}: {msg}", plan.subject))
        .with("plan", plan.sentences())
        .with("plan_id", plan.id())
        .with("loss", loss)
        .with("undo", json!(plan.undo.text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Loss, Step};

    fn consent(confirm: Confirm, accept: &[&str], max_loss: Option<u64>) -> Consent {
        let accept = accept.iter().map(|word| (*word).to_owned()).collect();
        Consent { confirm, accept, max_loss }
    }

    fn plan() -> Plan<()> {
        let step = Step::new((), "roll back")
            .loses(Loss::plain("what was written").bytes(10))
            .loses(Loss::accepted_as("newer_snapshots", "tank/a@later").bytes(5));
        Plan { steps: vec![step], ..Plan::nothing("tank/a", json!({})) }
    }

    fn reason(consent: Consent) -> &'static str {
        match consent.check(&plan(), None) {
            Ok(()) => "agreed",
            Err(failure) => failure.reason,
        }
    }

    #[test]
    fn nothing_is_destroyed_without_consent() {
        assert_eq!(reason(Consent::none()), "needs_consent");
        assert_eq!(reason(consent(Confirm::No, &["newer_snapshots"], None)), "needs_consent");
        assert_eq!(reason(consent(Confirm::PlainAction, &[], None)), "needs_consent");
        assert_eq!(reason(consent(Confirm::PlainAction, &["own_holds"], None)), "needs_consent");
        assert_eq!(reason(consent(Confirm::PlainAction, &["newer_snapshots"], None)), "agreed");
    }

    #[test]
    fn a_confirmed_plan_covers_only_itself() {
        assert_eq!(reason(consent(Confirm::Plan(plan().id()), &[], None)), "agreed");
        let other = Confirm::Plan("plan-000000000000".into());
        assert_eq!(reason(consent(other, &["newer_snapshots"], None)), "plan_moved");
    }

    #[test]
    fn no_more_than_max_loss_is_lost() {
        let seen = || Confirm::Plan(plan().id());
        assert_eq!(reason(consent(seen(), &[], Some(15))), "agreed");
        assert_eq!(reason(consent(seen(), &[], Some(14))), "over_max_loss");
        let mut unmeasured = plan();
        unmeasured.steps[0].loss[0].bytes = None;
        let refused = consent(seen(), &[], Some(u64::MAX)).check(&unmeasured, None);
        assert_eq!(refused.map_err(|failure| failure.reason), Err("over_max_loss"));
    }

    #[test]
    fn the_refusal_says_what_to_pass() {
        let Err(failure) = consent(Confirm::PlainAction, &[], None).check(&plan(), None) else {
            panic!("agreed");
        };
        assert!(failure.msg.contains("accept: [newer_snapshots]"), "{}", failure.msg);
        assert!(failure.msg.contains(&plan().id()));
        assert!(failure.details.contains_key("loss"));
    }

    #[test]
    fn a_plan_without_loss_needs_no_consent() {
        let harmless = Plan { steps: vec![Step::new((), "take a snapshot")], ..plan() };
        assert!(Consent::none().check(&harmless, None).is_ok());
    }
}
