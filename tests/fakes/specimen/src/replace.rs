//! A small real change, in the shape of every module: the content of a file is replaced in two
//! steps, what was in it is lost, and it may be killed between any two steps.

use ansible_module::{Failure, Invocation, Outcome};
use anyhow::{Context, Result};
use change::{Consent, Loss, Plan, Session, Step, Undo};
use host::atomic::Replace;
use host::deadline;
use host::deploy_id::DeployId;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

enum Action {
    Empty,
    Fill,
}

pub fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = &invocation.options;
    let file: PathBuf = options.get("file")?;
    let content: String = options.get("content")?;
    let state_dir: PathBuf = options.get("state_dir")?;
    let rollback: Option<DeployId> = options.get("rollback_id")?;
    let run: Option<DeployId> = rollback.clone().or(options.get("deploy_id")?);
    let pause = options.seconds("seconds")?;
    let session = Session::new(invocation, Consent::from(invocation)?)
        .fence(run.as_ref(), &state_dir)?
        .intent_in(&state_dir, "replace")
        .as_rollback(rollback.as_ref());
    let before = observe(&file)?;
    if let Some(done) = session.done_before(&before)? {
        return Ok(done);
    }
    let plan = plan(&file, &before, &content);
    session.carry_out(
        plan,
        |action, _| {
            let text = match action {
                Action::Empty => "",
                Action::Fill => &content,
            };
            Replace::new(&file).write(text.as_bytes())?;
            deadline::sleep(pause)?;
            Ok(())
        },
        || {
            let seen = observe(&file)?;
            match seen["content"] == content {
                true => Ok(seen),
                false => Err(Failure::new("not_verified", "the file holds something else").into()),
            }
        },
    )
}

fn observe(file: &Path) -> Result<Value> {
    match fs::read_to_string(file) {
        Ok(content) => Ok(json!({ "content": content })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(json!({ "content": null })),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn plan(file: &Path, before: &Value, content: &str) -> Plan<Action> {
    let subject = file.display().to_string();
    let mut plan = Plan::nothing(&subject, before.clone());
    if before["content"] == content {
        return plan;
    }
    plan.after = json!({ "content": content });
    plan.undo = Undo::None("the old content is not kept".into());
    let mut fill = Step::new(Action::Fill, format!("write the new content of {subject}"));
    if let Some(old) = before["content"].as_str().filter(|old| !old.is_empty()) {
        plan.identities = vec![old.to_owned()];
        let lost = Loss::plain("what the file holds").bytes(old.len() as u64);
        plan.steps.push(Step::new(Action::Empty, format!("empty {subject}")).loses(lost));
        if old.contains("precious") {
            fill = fill.loses(Loss::accepted_as("precious", "what is precious in it").bytes(1));
        }
    }
    plan.steps.push(fill);
    plan
}
