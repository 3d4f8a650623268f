//! `kube_rollout_info`: the workload's revisions, which of them a rollback could reach, and its pods. Reads only.

use crate::annotations;
use crate::canary;
use crate::findings::Objects;
use crate::judge::{Verdict, judge};
use crate::kubectl::Kubectl;
use crate::owner;
use crate::state::{self, State};
use crate::subject::Subject;
use crate::template;
use ansible_module::Outcome;
use anyhow::Result;
use serde_json::{Value, json};

pub fn of(kubectl: &Kubectl, subject: &Subject) -> Result<Outcome> {
    let seen = state::observe(kubectl, subject)?;
    let pods = state::pods(kubectl, subject, &seen)?;
    let mut objects = Objects::default();
    let current = seen.current().map(|one| one.name.clone());
    let mut revisions = Vec::new();
    for one in seen.revisions.iter().rev() {
        let findings = objects.check(kubectl, subject, &one.template, &one.created)?;
        revisions.push(json!({
            "revision": one.number, "name": one.name, "deploy_id": one.deploy_id, "cause": one.cause, "created": one.created,
            "images": template::images(&one.template), "current": current.as_ref() == Some(&one.name), "good": seen.is_good(one),
            "ready_to_roll_back": findings.missing.is_empty(), "why": findings.missing, "warnings": findings.warnings,
        }));
    }
    let verdict = judge(&seen, &pods, 1);
    let waits_for = match &verdict {
        Verdict::Out => None,
        Verdict::NotYet(what) => Some(format!("waits for {what}")),
        Verdict::Failed(fault) => Some(fault.msg.clone()),
    };
    let (owner, warnings) = match owner::find(&seen.workload, subject) {
        Some(found) => (Some(found), Vec::new()),
        None => canary::find(kubectl, subject)?,
    };
    let owner = owner.map(|found| json!({ "owner": found.owner.word(), "name": found.of }));
    Ok(Outcome { warnings, ..Outcome::default() }
        .fact("revisions", revisions)
        .fact("pods", pods.iter().map(|pod| shown(pod, &seen)).collect::<Vec<_>>())
        .fact("out", verdict == Verdict::Out)
        .fact("why", json!(waits_for))
        .fact("paused", seen.is_paused())
        .fact("strategy", seen.strategy())
        .fact("owner", json!(owner))
        .fact("run", json!(annotations::read(&seen.workload, annotations::RUN)))
        .fact("unfinished", seen.is_unfinished()))
}

fn shown(pod: &Value, seen: &State) -> Value {
    let list = || pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let reason = list().find_map(|one| one["state"]["waiting"]["reason"].as_str());
    json!({
        "name": pod["metadata"]["name"],
        "revision": seen.revisions.iter().find(|one| seen.is_of(pod, one)).map(|one| one.number),
        "phase": pod["status"]["phase"],
        "ready": list().count() > 0 && list().all(|one| one["ready"] == true),
        "restarts": list().filter_map(|one| one["restartCount"].as_u64()).sum::<u64>(),
        "reason": reason,
    })
}
