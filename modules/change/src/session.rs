//! A run of a task that changes something, from its lock to its result.
//!
//! The order is the same in every module: parse the options, [`Session::new`], [`lock`](Session::lock),
//! [`fence`](Session::fence); observe; [`done_before`](Session::done_before); decide on a plan; and
//! [`carry_out`](Session::carry_out), which asks for consent, raises the fence, writes the intent, does
//! the steps and looks again.
//!
//! Invariant: a refused run, for whatever reason, has raised no fence and made no folder.

use crate::consent::Consent;
use crate::notes::ConfirmedPlan;
use crate::plan::Plan;
use crate::result::step_failure;
use ansible_module::{Diff, Invocation, Kind, Opt, Outcome, StepDone, progress};
use anyhow::{Error, Result};
use host::deploy_id::DeployId;
use host::fence::Fence;
use host::folder::SafeFolder;
use host::lock::Lock;
use host::record::{Done, Found, Intent};
use host::reserve;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The option of modules that can roll back. Each module documents `deploy_id` itself.
pub const ROLLBACK_ID: &[Opt] = &[Opt::new("rollback_id", Kind::Str).about(&[
    "The deploy id of the run that rolls back.",
    "A rollback that was done under this id is not done again, whatever was written since.",
])];

/// The options of the fence, for modules that keep no other records.
pub const FENCE: &[Opt] = &[
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the run. One that is older than the last id seen in O(state_dir) is refused.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of the fence, for O(deploy_id). It must be root's, on a path that no one else can write to.",
    ]),
];

pub struct Session<'a> {
    invocation: &'a Invocation,
    consent: Consent,
    /// The locks, held to the end.
    locks: Vec<Lock>,
    /// The id of the run itself, and the folder of its fence.
    fence: Option<(DeployId, PathBuf)>,
    records: Option<Records>,
    /// The id under which a rollback is done only once.
    rollback: Option<String>,
}

/// Where the intent of a plan and finished rollbacks are recorded.
#[derive(Clone)]
struct Records {
    state_dir: PathBuf,
    module: &'static str,
}

impl<'a> Session<'a> {
    pub fn new(invocation: &'a Invocation, consent: Consent) -> Session<'a> {
        Session {
            invocation,
            consent,
            locks: Vec::new(),
            fence: None,
            records: None,
            rollback: None,
        }
    }

    /// Takes the locks of the task, which are held to its end. Check mode takes none.
    pub fn lock(mut self, take: impl FnOnce() -> Result<Vec<Lock>>) -> Result<Session<'a>> {
        if !self.invocation.check_mode {
            self.locks = take()?;
        }
        Ok(self)
    }

    /// Refuses a run that a newer one has superseded on this target, or whose id is in the future. `run`
    /// is the rollback's own id, else the deploy's; without one there is no fence. The fence is only
    /// checked here; it is raised right before the first step.
    pub fn fence(mut self, run: Option<&DeployId>, state_dir: &Path) -> Result<Session<'a>> {
        if let Some(run) = run {
            match SafeFolder::find(state_dir)? {
                Some(folder) => Fence::check(folder.path(), run)?,
                None => Fence::check_clock(run)?,
            }
            self.fence = Some((run.clone(), state_dir.to_owned()));
        }
        Ok(self)
    }

    /// Does the same for a task with an id and a folder, and nothing for others.
    pub fn optional_fence(self, fence: Option<&(DeployId, PathBuf)>) -> Result<Session<'a>> {
        match fence {
            Some((run, state_dir)) => self.fence(Some(run), state_dir),
            None => Ok(self),
        }
    }

    /// Records an intent in this folder before the first step, and removes it after the last. A module whose
    /// steps are one atomic write each needs none.
    pub fn intent_in(mut self, state_dir: &Path, module: &'static str) -> Session<'a> {
        self.records = Some(Records { state_dir: state_dir.to_owned(), module });
        self
    }

    /// Marks this run as a rollback: it is done only once under its id, or under that of the confirmed plan,
    /// and may use the reserved space on a full disk.
    pub fn as_rollback(mut self, rollback: Option<&DeployId>) -> Session<'a> {
        reserve::open();
        self.rollback = match rollback {
            Some(id) => Some(id.to_string()),
            None => self.consent.confirmed_plan().map(str::to_owned),
        };
        self
    }

    /// Returns the id under which this rollback is done only once, if it has one.
    pub fn rollback(&self) -> Option<&str> {
        self.rollback.as_deref()
    }

    /// Returns the result of a rollback that was already done under its id: nothing is changed, whatever was
    /// written since. Called before anything is planned. `state` is the current state.
    pub fn done_before(&self, state: &Value) -> Result<Option<Outcome>> {
        let (Some(id), Some(records)) = (&self.rollback, &self.records) else { return Ok(None) };
        let Some(folder) = SafeFolder::find(&records.state_dir)? else { return Ok(None) };
        let Some(done) = Done::recorded(folder.path(), id)? else { return Ok(None) };
        if !self.invocation.check_mode {
            // The run was killed between its two last writes: its intent is done as well.
            let same = |found: &Found<ConfirmedPlan>| found.value.rollback.as_ref() == Some(id);
            if let Some(done) = records.unfinished()?.filter(same) {
                done.intent.finish()?;
            }
        }
        let mut outcome = Plan::<()>::nothing(id, state.clone()).describe();
        outcome
            .warnings
            .push(format!("rollback {id} was done at {}; it is not done again", done.at));
        Ok(Some(outcome))
    }

    /// Carries the plan out: checks consent, raises the fence, records the intent, does the steps, verifies.
    /// In check mode it only describes the plan.
    ///
    /// `act` does one action; it can note in the intent what a later run cannot observe. `verify` observes
    /// once more and fails if the plan did not have its effect; it returns the `after` of the result.
    pub fn carry_out<A>(
        &self,
        plan: Plan<A>,
        act: impl FnMut(&A, Option<&Intent>) -> Result<()>,
        verify: impl FnOnce() -> Result<Value>,
    ) -> Result<Outcome> {
        self.run(plan, act, verify)
    }

    /// Cleans up after an unfinished run, before this run plans. It may destroy nothing, and raises no fence,
    /// since this run may still be refused.
    pub fn recover<A>(
        &self,
        plan: Plan<A>,
        act: impl FnMut(&A, Option<&Intent>) -> Result<()>,
    ) -> Result<Outcome> {
        let session = Session {
            invocation: self.invocation,
            consent: Consent::none(),
            locks: Vec::new(),
            fence: None,
            records: self.records.clone(),
            rollback: None,
        };
        session.run(plan, act, || Ok(Value::Null))
    }

    fn run<A>(
        &self,
        plan: Plan<A>,
        mut act: impl FnMut(&A, Option<&Intent>) -> Result<()>,
        verify: impl FnOnce() -> Result<Value>,
    ) -> Result<Outcome> {
        let mut outcome = plan.describe();
        if self.invocation.check_mode {
            return Ok(outcome);
        }
        let unfinished = self.records.as_ref().map(Records::unfinished).transpose()?.flatten();
        if let Some(found) = &unfinished {
            // An unfinished run is finished even on a full disk.
            reserve::open();
            outcome.warnings.push(format!(
                "a run at {} was stopped half way through {} ({}); this run goes on from there",
                found.since, found.value.plan_id, found.value.subject
            ));
        }
        if plan.steps.is_empty() {
            self.record_done(&plan.after)?;
            unfinished.map_or(Ok(()), |found| found.intent.finish())?;
            return Ok(outcome);
        }
        self.consent.check(&plan, unfinished.as_ref().map(|found| &found.value))?;
        self.raise_fence()?;
        let intent = match (unfinished, &self.records) {
            (Some(found), _) => Some(found.intent),
            (None, Some(records)) => Some(records.begin(ConfirmedPlan::of(&plan, self))?),
            (None, None) => None,
        };
        for (n, step) in plan.steps.iter().enumerate() {
            progress::report(&format!("step {} of {}: {}", n + 1, plan.steps.len(), step.text));
            let began = Instant::now();
            let done = host::interrupt::check()
                .map_err(Error::from)
                .and_then(|()| act(&step.action, intent.as_ref()));
            if let Err(error) = done {
                return Err(step_failure(error, &plan, &step.text, &outcome.steps));
            }
            let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            outcome.steps.push(StepDone { step: step.text.clone(), seconds });
        }
        let after = verify().map_err(|error| {
            let what = "every step was done, but the state afterwards is not as expected";
            step_failure(error, &plan, what, &outcome.steps)
        })?;
        // In this order: a rollback that is not recorded as done would be done again.
        self.record_done(&after)?;
        intent.map_or(Ok(()), Intent::finish)?;
        if let Some(Diff::States { after: shown, .. }) = outcome.diff.first_mut() {
            *shown = after.clone();
        }
        outcome.after = Some(after);
        Ok(outcome)
    }

    /// Refuses every older run from now on.
    fn raise_fence(&self) -> Result<()> {
        let Some((run, state_dir)) = &self.fence else { return Ok(()) };
        Fence::check_and_raise(state_folder(state_dir)?.path(), run)
    }

    fn record_done(&self, after: &Value) -> Result<()> {
        match (&self.rollback, &self.records) {
            (Some(id), Some(records)) => {
                Done::record(state_folder(&records.state_dir)?.path(), id, after)
            }
            _ => Ok(()),
        }
    }
}

impl Records {
    fn unfinished(&self) -> Result<Option<Found<ConfirmedPlan>>> {
        match SafeFolder::find(&self.state_dir)? {
            Some(folder) => Intent::unfinished::<ConfirmedPlan>(folder.path(), self.module),
            None => Ok(None),
        }
    }

    fn begin(&self, plan: ConfirmedPlan) -> Result<Intent> {
        Intent::begin(state_folder(&self.state_dir)?.path(), self.module, &plan)
    }
}

impl ConfirmedPlan {
    fn of<A>(plan: &Plan<A>, session: &Session<'_>) -> ConfirmedPlan {
        ConfirmedPlan {
            plan_id: plan.id(),
            subject: plan.subject.clone(),
            plan: plan.sentences(),
            loss: plan.losses().map(|loss| loss.what.clone()).collect(),
            rollback: session.rollback.clone(),
        }
    }
}

/// Makes the state folder right before the first write, so that a refused run leaves nothing behind, and
/// reserves space in it for rollbacks. An existing folder keeps its mode: a module may have made it for
/// others to read.
fn state_folder(state_dir: &Path) -> Result<SafeFolder> {
    let folder = match SafeFolder::find(state_dir)? {
        Some(folder) => folder,
        None => SafeFolder::ensure(state_dir, 0o700)?,
    };
    folder.keep_reserve();
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Loss, Step};
    use std::os::unix::fs::PermissionsExt;

    fn invocation() -> Invocation {
        Invocation {
            module: "specimen",
            check_mode: false,
            diff: false,
            verbosity: 0,
            tmpdir: None,
            options: Default::default(),
        }
    }

    fn carried_out(state_dir: &Path, run: &str, step: Step<()>) -> Result<Outcome> {
        let invocation = invocation();
        let run: DeployId = run.parse().unwrap();
        let session = Session::new(&invocation, Consent::none())
            .fence(Some(&run), state_dir)?
            .intent_in(state_dir, "test");
        let mut plan = Plan::nothing("CT 101", Value::Null);
        plan.steps.push(step);
        let act = |_: &(), intent: Option<&Intent>| {
            assert!(intent.is_some());
            Ok(())
        };
        session.carry_out(plan, act, || Ok(Value::Null))
    }

    const OLD: &str = "20260101t000000z-0001";
    const NEW: &str = "20260102t000000z-0001";

    #[test]
    fn a_refused_run_makes_no_folder() {
        let above = tempfile::tempdir().unwrap();
        let state_dir = above.path().join("deep/state");
        let loses = Step::new((), "roll back").loses(Loss::plain("all"));
        assert!(carried_out(&state_dir, OLD, loses).is_err());
        assert!(!above.path().join("deep").exists());
        carried_out(&state_dir, OLD, Step::new((), "take")).unwrap();
        let mode = || state_dir.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        // A module may have made it for others to read.
        std::fs::set_permissions(&state_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        carried_out(&state_dir, OLD, Step::new((), "take")).unwrap();
        assert_eq!(mode(), 0o755);
    }

    #[test]
    fn a_refused_run_raises_no_fence() {
        let state = tempfile::tempdir().unwrap();
        carried_out(state.path(), OLD, Step::new((), "take")).unwrap();
        let loses = Step::new((), "roll back").loses(Loss::plain("all"));
        assert!(carried_out(state.path(), NEW, loses).is_err());
        carried_out(state.path(), OLD, Step::new((), "take")).unwrap();
        carried_out(state.path(), NEW, Step::new((), "take")).unwrap();
        let refused = carried_out(state.path(), OLD, Step::new((), "take")).unwrap_err();
        assert_eq!(host::reason(&refused), Some("superseded"));
    }
}
