//! `state: migrated`: runs a command of the new image as a Job, before any pod of the workload has that image.
//!
//! Invariants: a deploy id has one Job, by its name, so nothing is run twice for it; a Job of a failed or finished migration is never
//! started again, and never deleted. A killed run leaves a Job that goes on, which the next run of the same task waits for.

use crate::job::{self, Progress};
use crate::judge::fault_of;
use crate::kubectl::{Kubectl, encoded};
use crate::options::{Migration, Task};
use crate::plan::{find_container, refused};
use crate::state::{State, controller};
use crate::template;
use ansible_module::{Failure, Outcome, hide_secret, progress, reason};
use anyhow::{Error, Result};
use change::{Plan, Session, Step, Undo};
use host::deadline::{Deadline, FIRST_PAUSE, TimedOut, poll_until, seconds};
use host::{interrupt, secret};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::Duration;

const LOG_LINES: u32 = 20;
/// How long the controller of Jobs may take to end one.
const TO_END: Duration = Duration::from_secs(30);
const MAX_TRIES: usize = 20;

enum Action {
    /// Waits for the Job of an older deploy: two migrations must not run at once.
    WaitForOlder(String),
    Start,
    Wait,
    /// Deletes the Job of an older migration, which has ended.
    Remove(String),
}

struct Run<'a> {
    kubectl: &'a Kubectl,
    task: &'a Task,
    migration: &'a Migration,
    /// The Job as this run makes it.
    job: Value,
    /// Why Jobs could not be removed: the migration itself has ended well by then.
    warnings: RefCell<Vec<String>>,
}

pub fn run(
    kubectl: &Kubectl,
    session: &Session<'_>,
    task: &Task,
    migration: &Migration,
    seen: &State,
    check_mode: bool,
) -> Result<Outcome> {
    let (index, container, _) = find_container(task, seen, migration.container.as_deref())?;
    let Migration { image, command, deadline, id, .. } = migration;
    let job = job::make(&task.subject, seen.template(), index, image, command, *deadline, id);
    let run = Run { kubectl, task, migration, job, warnings: RefCell::default() };
    let plan = run.plan(&container, &run.jobs()?)?;
    let starts = plan.steps.iter().any(|step| matches!(step.action, Action::Start));
    if check_mode && starts {
        kubectl.create(&run.jobs_path(), &run.job, true)?;
    }
    let outcome = session.carry_out(plan, |action, _| run.act(action), || run.verify())?;
    let log = if check_mode { Vec::new() } else { run.log(seen.template()) };
    let subject = &task.subject;
    let mut outcome = outcome;
    outcome.warnings.extend(run.warnings.take());
    Ok(outcome
        .fact("context", json!(subject.access.context))
        .fact("namespace", json!(subject.namespace))
        .fact("job", json!(run.name()))
        .fact("log", log))
}

impl Run<'_> {
    fn name(&self) -> &str {
        job::name_of(&self.job)
    }

    fn jobs_path(&self) -> String {
        self.task.subject.path("/apis/batch/v1", "jobs")
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{}", self.jobs_path(), encoded(name))
    }

    fn shown(&self) -> String {
        format!("the migration of {} (Job {})", self.task.subject.shown(), self.name())
    }

    /// Lists the migrations of this workload.
    fn jobs(&self) -> Result<Vec<Value>> {
        let (key, value) = job::MANAGED_BY;
        let selector = encoded(&format!("{key}={value}"));
        let all = self.kubectl.get(&format!("{}?labelSelector={selector}", self.jobs_path()))?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        Ok(items.into_iter().filter(|one| job::is_of(one, &self.task.subject)).collect())
    }

    fn plan(&self, container: &str, jobs: &[Value]) -> Result<Plan<Action>> {
        let id = &self.migration.id;
        if let Some(newer) = jobs.iter().filter_map(job::deploy).max().filter(|newer| newer > id) {
            let why = format!(
                "{} was migrated by the newer run {newer}, so run {id} may not migrate it any more",
                self.task.subject.shown()
            );
            return Err(refused("superseded", why).into());
        }
        let found = match jobs.iter().find(|one| job::name_of(one) == self.name()) {
            Some(found) => Some(found.clone()),
            // One that somebody else has made has none of our labels.
            None => self.kubectl.find_object(&self.path(self.name()))?,
        };
        let done = json!({ "job": self.name(), "migrated": true });
        let now = json!({ "job": self.name(), "migrated": false });
        let mut plan = Plan::nothing(self.task.subject.shown(), now);
        if let Some(found) = &found {
            self.refuse_other(found)?;
            match job::progress(found) {
                Progress::Done => {
                    plan = Plan::nothing(self.task.subject.shown(), done);
                    return Ok(plan);
                }
                Progress::Failed { reason, why } => return Err(self.failed_before(reason, &why)),
                Progress::Runs => {}
            }
        }
        plan.after = done;
        for older in jobs {
            let name = job::name_of(older);
            if name != self.name() && job::progress(older) == Progress::Runs {
                let text =
                    format!("wait until Job {name}, the migration of an earlier deploy, has ended");
                plan.steps.push(Step::new(Action::WaitForOlder(name.to_owned()), text));
            }
        }
        if found.is_none() {
            let text = format!(
                "run `{}` as Job {} of {}, in the image {} with what container {container} has",
                self.migration.command.join(" "),
                self.name(),
                self.task.subject.shown(),
                self.migration.image
            );
            plan.steps.push(Step::new(Action::Start, text));
        }
        let most = seconds(self.migration.deadline);
        plan.steps
            .push(Step::new(Action::Wait, format!("wait until it has ended, for {most} at most")));
        for name in job::beyond(jobs, self.name(), self.migration.retain) {
            let text = format!("delete Job {name}, a migration of an earlier deploy, with its log");
            plan.steps.push(Step::new(Action::Remove(name), text));
        }
        plan.undo = Undo::None("what a migration has changed is not undone by Kubernetes".into());
        Ok(plan)
    }

    fn refuse_other(&self, found: &Value) -> Result<(), Failure> {
        if job::is_same(found, &self.job) {
            return Ok(());
        }
        let why = format!(
            "Job {} of namespace {} exists and is not what this task would run: its image, its command or what its container has is another one; a new deploy_id runs it",
            self.name(),
            self.task.subject.namespace
        );
        Err(refused("migration_changed", why))
    }

    fn failed_before(&self, server_reason: &'static str, why: &str) -> Error {
        let (reason, why) = self.explained(server_reason, why);
        let msg = format!(
            "{} has failed before, and is not started again under the same id: {why}; nothing was changed; a new deploy_id starts it again",
            self.shown()
        );
        self.with_log(Failure::new(reason, msg)).into()
    }

    fn act(&self, action: &Action) -> Result<()> {
        match action {
            Action::WaitForOlder(name) => self.wait_for_older(name),
            Action::Start => self.start(),
            Action::Remove(name) => {
                if let Err(error) = self.kubectl.delete(&self.path(name)) {
                    let why = format!(
                        "Job {name} of an earlier migration could not be deleted: {error:#}"
                    );
                    self.warnings.borrow_mut().push(why);
                }
                Ok(())
            }
            Action::Wait => self.wait().map_err(|error| match reason(&error) {
                "interrupted" => {
                    let msg = format!(
                        "{} goes on without this run; run the same task again, which waits for it",
                        self.shown()
                    );
                    Failure::new("interrupted", msg).caused_by(error).into()
                }
                _ => error,
            }),
        }
    }

    fn wait_for_older(&self, name: &str) -> Result<()> {
        let deadline = Deadline::after(self.migration.deadline);
        let waited = poll_until(deadline, FIRST_PAUSE, &format!("Job {name} to end"), || {
            progress::report(&format!("waits for Job {name}, the migration of an earlier deploy"));
            let found = self.kubectl.find_object(&self.path(name))?;
            let runs = found.is_some_and(|found| job::progress(&found) == Progress::Runs);
            Ok((!runs).then_some(()))
        });
        waited.map_err(|error| match error.downcast_ref::<TimedOut>() {
            Some(_) => {
                let msg = format!(
                    "Job {name}, the migration of an earlier deploy, runs still, so that of this one was not started; `kubectl --context {} -n {} logs job/{name}` shows what it does",
                    self.task.subject.access.context, self.task.subject.namespace
                );
                Failure::new("migration_running", msg).into()
            }
            None => error,
        })
    }

    fn start(&self) -> Result<()> {
        match self.kubectl.create(&self.jobs_path(), &self.job, false) {
            // A call that a killed run has sent may arrive late.
            Err(error) if reason(&error) == "already_exists" => {
                let found = self.kubectl.get(&self.path(self.name()))?;
                Ok(self.refuse_other(&found)?)
            }
            made => made.map(drop),
        }
    }

    fn wait(&self) -> Result<()> {
        let deadline = Deadline::after(self.migration.deadline);
        let waited = poll_until(deadline, FIRST_PAUSE, "the migration to end", || {
            let Some(job) = self.kubectl.find_object(&self.path(self.name()))? else {
                let msg = format!(
                    "{} was deleted while it ran; whether it has changed anything is unknown",
                    self.shown()
                );
                return Err(Failure::new("migration_failed", msg).into());
            };
            match job::progress(&job) {
                Progress::Done => return Ok(Some(())),
                Progress::Failed { reason, why } => return Err(self.failed(reason, &why)),
                Progress::Runs => {}
            }
            let pods = self.pods()?;
            progress::report(&match pods.first() {
                Some(pod) => format!(
                    "the migration runs in pod {}",
                    pod["metadata"]["name"].as_str().unwrap_or_default()
                ),
                None => "waits for the pod of the migration".to_owned(),
            });
            // It cannot start; if it did later, nobody would wait for it.
            match pods.iter().find_map(|pod| fault_of(pod, 1)) {
                Some(fault) => self.end(fault.reason, &fault.msg).map(Some),
                None => Ok(None),
            }
        });
        match waited {
            Err(error) if error.is::<TimedOut>() => {
                let why = format!("it has not ended after {}", seconds(self.migration.deadline));
                self.end("migration_timed_out", &why)
            }
            waited => waited,
        }
    }

    /// Ends the Job, and fails with the reason, unless it has ended well meanwhile.
    fn end(&self, why: &'static str, msg: &str) -> Result<()> {
        let _shield = interrupt::shield();
        // The pods of a Job that the server ends are deleted.
        let log = self.log_of_its_pod();
        let failure = |end: &str| {
            Failure::new(why, format!("{} has failed: {msg}{end}{}", self.shown(), last_line(&log)))
                .with("job", self.name())
                .with("log", log.clone())
        };
        match self.make_end(why, msg) {
            Ok(Progress::Done) => Ok(()),
            Ok(_) => Err(failure("; it was ended").into()),
            Err(error) => {
                let subject = &self.task.subject;
                let end = format!(
                    "; IT COULD NOT BE ENDED ({error:#}) and may go on: `kubectl --context {} -n {} delete job {}` ends it",
                    subject.access.context,
                    subject.namespace,
                    self.name()
                );
                Err(failure(&end).into())
            }
        }
    }

    fn make_end(&self, why: &str, msg: &str) -> Result<Progress> {
        let path = self.path(self.name());
        let mut tries = 0;
        loop {
            let mut job = self.kubectl.get(&path)?;
            let progress = job::progress(&job);
            if progress != Progress::Runs {
                return Ok(progress);
            }
            job::end(&mut job, why, msg);
            match self.kubectl.replace(&path, &job) {
                Err(error) if reason(&error) == "conflict" && tries < MAX_TRIES => tries += 1,
                written => {
                    written?;
                    break;
                }
            }
        }
        poll_until(Deadline::after(TO_END), FIRST_PAUSE, "the Job to be ended", || {
            let progress = job::progress(&self.kubectl.get(&path)?);
            Ok((progress != Progress::Runs).then_some(progress))
        })
    }

    fn failed(&self, server_reason: &'static str, why: &str) -> Error {
        let (reason, why) = self.explained(server_reason, why);
        let msg = format!("{} has failed: {why}", self.shown());
        self.with_log(Failure::new(reason, msg)).into()
    }

    /// Returns how its container has ended, as long as its pod is there; else what the server says of the Job.
    fn explained(&self, server_reason: &'static str, why: &str) -> (&'static str, String) {
        let ended = self.pods().ok().and_then(|pods| pods.iter().find_map(job::ended));
        match (server_reason, ended) {
            ("migration_failed", Some(ended)) => ended,
            _ => (server_reason, why.to_owned()),
        }
    }

    fn with_log(&self, mut failure: Failure) -> Failure {
        let log = self.log_of_its_pod();
        failure.msg.push_str(&last_line(&log));
        failure.with("job", self.name()).with("log", log)
    }

    fn pods(&self) -> Result<Vec<Value>> {
        let Some(job) = self.kubectl.find_object(&self.path(self.name()))? else {
            return Ok(Vec::new());
        };
        let uid = job["metadata"]["uid"].as_str();
        let path = format!(
            "{}?labelSelector={}",
            self.task.subject.path("/api/v1", "pods"),
            encoded(&format!("job-name={}", self.name()))
        );
        let all = self.kubectl.get(&path)?;
        let ours = |pod: &&Value| controller(pod) == uid;
        Ok(all["items"].as_array().into_iter().flatten().filter(ours).cloned().collect())
    }

    fn log_of_its_pod(&self) -> Vec<String> {
        self.log(&self.job["spec"]["template"])
    }

    /// Reads the last lines of the log; empty if there is none any more.
    fn log(&self, template: &Value) -> Vec<String> {
        self.hide_secrets(template);
        let Ok(pods) = self.pods() else { return Vec::new() };
        let Some(pod) = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).next_back()
        else {
            return Vec::new();
        };
        let path = format!(
            "{}/{}/log?tailLines={LOG_LINES}",
            self.task.subject.path("/api/v1", "pods"),
            encoded(pod)
        );
        let log = self.kubectl.text(&path).unwrap_or_default();
        log.trim().lines().map(str::to_owned).collect()
    }

    /// Hides the values of the Secrets that the Job reads, and those of variables with the name of a secret. One that the account may not
    /// read stays: the log is the task's own evidence.
    fn hide_secrets(&self, template: &Value) {
        let is_public = |text: &str| {
            let subject = &self.task.subject;
            [&subject.name, &subject.namespace, &subject.access.context, &self.migration.image]
                .iter()
                .any(|word| word.contains(text))
        };
        for variable in template::variables(template) {
            let text = |key: &str| variable[key].as_str().unwrap_or_default();
            if secret::is_named(text("name")) {
                hide_secret(text("value"));
            } else {
                secret::password_of_url(text("value")).into_iter().for_each(hide_secret);
            }
        }
        for name in template::secrets(template) {
            let path =
                format!("{}/{}", self.task.subject.path("/api/v1", "secrets"), encoded(&name));
            let Ok(found) = self.kubectl.get(&path) else { continue };
            for value in found["data"].as_object().into_iter().flat_map(|all| all.values()) {
                let bytes = value.as_str().and_then(host::from_base64).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes);
                if !is_public(&text) {
                    hide_secret(&text);
                }
            }
        }
    }

    fn verify(&self) -> Result<Value> {
        let job = self.kubectl.get(&self.path(self.name()))?;
        match job::progress(&job) {
            Progress::Done => Ok(json!({ "job": self.name(), "migrated": true })),
            other => Err(Failure::new(
                "not_verified",
                format!("{} is not done: {other:?}", self.shown()),
            )
            .into()),
        }
    }
}

fn last_line(log: &[String]) -> String {
    match log.last() {
        Some(line) => format!("; the last line of its log: {line}"),
        None => "; its log cannot be read, or is empty".to_owned(),
    }
}
