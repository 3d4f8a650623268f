//! Plans the steps from the observed state. Pure.

use crate::annotations::{self, DEPLOY, FROM, Good, RUN};
use crate::findings::Findings;
use crate::judge::{Verdict, judge};
use crate::options::{Target, Task, Wanted};
use crate::state::{Revision, State};
use crate::template;
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use host::deadline::seconds;
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Write(Box<Change>),
    Wait,
    MarkGood,
}

/// The template and the annotations that one write sets together.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub template: Value,
    pub deploy_id: Option<String>,
    pub cause: Option<String>,
    /// The revision to go back to after a failure; `None` for a rollback, which is not reverted.
    pub from: Option<String>,
    pub good: Vec<Good>,
}

pub fn refused(reason: &'static str, why: String) -> Failure {
    Failure::new(reason, format!("{why}; nothing was changed"))
}

/// Refuses a workload that no run may change now.
pub fn refuse(task: &Task, seen: &State) -> Result<(), Failure> {
    let shown = task.subject.shown();
    if let (Some(run), Some(newest)) = (&task.run, annotations::fence(&seen.workload)) {
        if newest > *run {
            let why = format!(
                "{shown} was changed by the newer run {newest}, so run {run} may not change it any more"
            );
            return Err(refused("superseded", why));
        }
    }
    if seen.is_paused() {
        let subject = &task.subject;
        let why = format!(
            "{shown} is paused, so nothing would be rolled out; `kubectl --context {} -n {} rollout resume deployment/{}` ends that",
            subject.access.context, subject.namespace, subject.name
        );
        return Err(refused("paused", why));
    }
    let strategy = &seen.workload["spec"]["updateStrategy"];
    if strategy["type"] == "OnDelete" {
        let why = format!(
            "the update strategy of {shown} is OnDelete, so that its pods get a new template only when somebody deletes them; RollingUpdate lets them"
        );
        return Err(refused("on_delete", why));
    }
    if strategy["rollingUpdate"]["partition"].as_u64().unwrap_or(0) > 0 {
        let why = format!(
            "the update strategy of {shown} has a partition, so that pods below it keep their template; 0 lets all of them have the new one"
        );
        return Err(refused("partition", why));
    }
    if !seen.workload["metadata"]["deletionTimestamp"].is_null() {
        return Err(refused("being_deleted", format!("{shown} is being deleted")));
    }
    Ok(())
}

/// Finds the revision to roll back to; `None` if an earlier run of this rollback, or an unfinished one, has already made it current.
pub fn target<'a>(task: &Task, seen: &'a State) -> Result<Option<&'a Revision>, Failure> {
    let Wanted::RolledBack(target) = &task.wanted else { return Ok(None) };
    let current = seen.current();
    let good = annotations::good(&seen.workload);
    // A run whose own deploy is still current has rolled it out, and has not gone back yet.
    let already_ours = task.run.as_ref().is_some_and(|run| {
        let noted = |key| annotations::read(&seen.workload, key) == Some(run.as_str());
        noted(RUN) && !noted(DEPLOY)
    });
    let is_rolling_back = annotations::read(&seen.workload, FROM) == Some("");
    if already_ours || (is_rolling_back && *target == Target::Previous) {
        return Ok(None);
    }
    let found = match target {
        Target::Revision(number) => seen.revisions.iter().find(|one| one.number == *number),
        Target::Deploy(id) => {
            (good.iter().filter(|one| one.deploy_id.as_deref() == Some(id.as_str())))
                .find_map(|one| seen.named(&one.revision))
                .or_else(|| {
                    seen.revisions.iter().rfind(|one| one.deploy_id.as_deref() == Some(id.as_str()))
                })
        }
        Target::Previous => (good.iter())
            .filter(|one| current.is_none_or(|current| current.name != one.revision))
            .find_map(|one| seen.named(&one.revision)),
    };
    if found.is_some() {
        return Ok(found);
    }
    let there: Vec<String> = seen.revisions.iter().map(Revision::shown).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join("; ") };
    let (reason, why) = match target {
        Target::Revision(number) => {
            ("no_revision", format!("no {} is left of revision {number}", seen.kind.holder()))
        }
        Target::Deploy(id) => {
            ("no_revision", format!("no {} is left of deploy {id}", seen.kind.holder()))
        }
        Target::Previous => {
            ("no_good_revision", "no other revision is known to have been good".to_owned())
        }
    };
    let why =
        format!("{}: {why}; there are: {there}; name one by to_revision", task.subject.shown());
    Err(refused(reason, why))
}

pub fn present(task: &Task, seen: &State) -> Result<Plan<Action>, Failure> {
    let Wanted::Image { container, image } = &task.wanted else {
        return Err(Failure::new("bad_options", "no image is asked for"));
    };
    let (index, name, old) = find_container(task, seen, container.as_deref())?;
    let mut plan = nothing(task, seen);
    let deploy_id = task.run.as_ref().map(ToString::to_string);
    let is_new = old != *image;
    let is_noted =
        deploy_id.is_none() || annotations::read(&seen.workload, DEPLOY) == deploy_id.as_deref();
    let is_out = judge(seen, &[], task.crash_restarts) == Verdict::Out;
    if !is_new && is_noted && is_out && !seen.is_unfinished() {
        return Ok(plan);
    }
    let shown = task.subject.shown();
    if is_new || !is_noted {
        let mut new = seen.template().clone();
        new["spec"]["containers"][index]["image"] = json!(image);
        let cause = task
            .cause
            .clone()
            .or_else(|| deploy_id.as_ref().map(|id| format!("deploy {id}: {image}")));
        let (before, after) = template::differences(seen.template(), &new);
        plan.before["template"] = before;
        plan.after["template"] = after;
        plan.after["images"] = json!(template::images(&new));
        plan.after["deploy_id"] = json!(deploy_id);
        plan.after["revision"] = Value::Null;
        let change = Change {
            template: new,
            deploy_id: deploy_id.clone(),
            cause,
            from: revision_to_return_to(seen),
            good: good_so_far(seen, is_out),
        };
        let text = match is_new {
            true => format!("set the image of container {name} of {shown} from {old} to {image}"),
            false => format!(
                "note deploy {} on {shown}, which runs {image} already",
                deploy_id.unwrap_or_default()
            ),
        };
        plan.steps.push(Step::new(Action::Write(Box::new(change)), text));
    }
    wait_and_mark_good(&mut plan, task);
    plan.undo = match (seen.current(), seen.workload["spec"]["revisionHistoryLimit"].as_u64()) {
        (_, Some(0)) => {
            Undo::None("revisionHistoryLimit is 0, so Kubernetes keeps no old revision".into())
        }
        (None, _) => Undo::None("its controller has made no revision of what runs now".into()),
        (Some(current), _) => Undo::By(format!("state: rolled_back, to {}", current.shown())),
    };
    Ok(plan)
}

pub fn rolled_back(
    task: &Task,
    seen: &State,
    target: Option<&Revision>,
    findings: &Findings,
) -> Result<Plan<Action>, Failure> {
    let mut plan = nothing(task, seen);
    let shown = task.subject.shown();
    let current = seen.current();
    let is_out = judge(seen, &[], task.crash_restarts) == Verdict::Out;
    let Some(target) = target else {
        if seen.is_unfinished() {
            plan.steps.extend(take_over(task, seen));
            wait_and_mark_good(&mut plan, task);
        } else if let Some(run) = &task.run {
            plan.warnings.push(format!("rollback {run} was done already; it is not done again"));
        }
        return Ok(plan);
    };
    if current.is_some_and(|current| current.name == target.name) && is_out && !seen.is_unfinished()
    {
        return Ok(plan);
    }
    if !findings.missing.is_empty() {
        let why =
            format!("{shown}: {} cannot run: {}", target.shown(), findings.missing.join("; "));
        return Err(refused("revision_unreachable", why));
    }
    plan.warnings.extend(findings.warnings.iter().cloned());
    let (before, after) = template::differences(seen.template(), &target.template);
    plan.before["template"] = before;
    plan.after = json!({
        "revision": null, "images": template::images(&target.template), "deploy_id": target.deploy_id, "template": after,
    });
    let mut good = annotations::good(&seen.workload);
    good.retain(|one| current.is_none_or(|current| current.name != one.revision));
    let change = Change {
        template: target.template.clone(),
        deploy_id: target.deploy_id.clone(),
        cause: target.cause.clone(),
        from: None,
        good,
    };
    let from = current.map_or_else(|| template::shown_images(seen.template()), Revision::shown);
    let text = format!("take {shown} back from {from} to {}", target.shown());
    plan.identities.push(format!("{} {}", target.name, target.uid));
    plan.steps.push(Step::new(Action::Write(Box::new(change)), text));
    wait_and_mark_good(&mut plan, task);
    plan.undo = match current {
        Some(current) => {
            Undo::By(format!("state: rolled_back with to_revision: {}", current.number))
        }
        None => Undo::None("its controller has made no revision of what runs now".into()),
    };
    Ok(plan)
}

fn nothing(task: &Task, seen: &State) -> Plan<Action> {
    let mut plan = Plan::nothing(task.subject.shown(), seen.view());
    plan.identities.push(seen.workload["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
    plan
}

fn wait_and_mark_good(plan: &mut Plan<Action>, task: &Task) {
    let most = seconds(task.progress_timeout);
    plan.steps.push(Step::new(
        Action::Wait,
        format!("wait until it is out and no old pod is left, for {most} at most"),
    ));
    plan.steps.push(Step::new(Action::MarkGood, "note that this revision is good"));
}

/// Plans to take over a rollback that another run has begun: without this run's id in the annotations, repeating the run would roll back
/// once more.
fn take_over(task: &Task, seen: &State) -> Option<Step<Action>> {
    let run = task.run.as_ref().map(ToString::to_string)?;
    let noted = |key: &str| annotations::read(&seen.workload, key).map(str::to_owned);
    if noted(RUN).as_ref() == Some(&run) {
        return None;
    }
    let change = Change {
        template: seen.template().clone(),
        deploy_id: noted(DEPLOY),
        cause: noted(annotations::CAUSE),
        from: None,
        good: annotations::good(&seen.workload),
    };
    let text =
        format!("take over the rollback of {} that another run has begun", task.subject.shown());
    Some(Step::new(Action::Write(Box::new(change)), text))
}

/// Returns the name of the revision to go back to after a failure. After a killed run it is the one that run started from, since its own
/// revision was never seen to be good.
fn revision_to_return_to(seen: &State) -> Option<String> {
    let noted = annotations::read(&seen.workload, FROM).filter(|name| seen.named(name).is_some());
    noted.map(str::to_owned).or_else(|| seen.current().map(|one| one.name.clone()))
}

/// Returns the good revisions, with the current one if it is rolled out, by whomever.
fn good_so_far(seen: &State, is_out: bool) -> Vec<Good> {
    let all = annotations::good(&seen.workload);
    match seen.current() {
        Some(current) if is_out && !seen.is_unfinished() => annotations::with_good(
            all,
            Good { revision: current.name.clone(), deploy_id: current.deploy_id.clone() },
        ),
        _ => all,
    }
}

/// Finds the container; returns its index, name and image.
pub fn find_container(
    task: &Task,
    seen: &State,
    wanted: Option<&str>,
) -> Result<(usize, String, String), Failure> {
    let all = seen.template()["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let name = |index: usize| all[index]["name"].as_str().unwrap_or_default().to_owned();
    let names = || (0..all.len()).map(name).collect::<Vec<_>>().join(", ");
    let found = match wanted {
        Some(wanted) => (0..all.len()).find(|index| name(*index) == wanted),
        None if all.len() == 1 => Some(0),
        None => {
            let why = format!(
                "{} has several containers ({}): container must say which",
                task.subject.shown(),
                names()
            );
            return Err(refused("bad_options", why));
        }
    };
    let Some(index) = found else {
        let why = format!(
            "{} has no container {}, it has {}",
            task.subject.shown(),
            wanted.unwrap_or_default(),
            names()
        );
        return Err(refused("bad_options", why));
    };
    Ok((index, name(index), all[index]["image"].as_str().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples::state;

    const OLD: &str = "20261121t084500z-7f3a";
    const NEW: &str = "20261121t085500z-8a4b";

    fn image(text: &str) -> Wanted {
        Wanted::Image { container: None, image: text.into() }
    }

    fn kinds(plan: &Plan<Action>) -> Vec<&'static str> {
        let kind = |step: &Step<Action>| match step.action {
            Action::Write(_) => "write",
            Action::Wait => "wait",
            Action::MarkGood => "mark good",
        };
        plan.steps.iter().map(kind).collect()
    }

    fn written(plan: &Plan<Action>) -> Change {
        match &plan.steps[0].action {
            Action::Write(change) => (**change).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn target_name(task: &Task, seen: &State) -> Result<Option<String>, &'static str> {
        target(task, seen)
            .map(|found| found.map(|one| one.name.clone()))
            .map_err(|failure| failure.reason)
    }

    #[test]
    fn an_image_that_runs_already_needs_no_step() {
        let seen = state(&[1, 2]);
        assert!(kinds(&present(&Task::sample(image("shop:2")), &seen).unwrap()).is_empty());
        let plan = present(&Task::sample(image("shop:3")), &seen).unwrap();
        assert_eq!(kinds(&plan), ["write", "wait", "mark good"]);
        let change = written(&plan);
        assert_eq!(change.from.as_deref(), Some("web-2"));
        assert_eq!(change.good[0].revision, "web-2");
        assert!(plan.steps[0].text.contains("shop/web (context prod)"));
    }

    #[test]
    fn a_killed_run_is_continued_and_still_goes_back_to_where_it_started() {
        let mut seen = state(&[1, 2, 3]);
        annotations::write(&mut seen.workload, FROM, Some("web-1"));
        assert_eq!(
            kinds(&present(&Task::sample(image("shop:3")), &seen).unwrap()),
            ["wait", "mark good"]
        );
        let change = written(&present(&Task::sample(image("shop:4")), &seen).unwrap());
        assert_eq!(
            change.from.as_deref(),
            Some("web-1"),
            "what the killed run left was never good"
        );
        assert!(change.good.is_empty());
    }

    #[test]
    fn previous_is_the_newest_good_revision_and_not_the_second_highest_number() {
        let mut seen = state(&[1, 2, 3]);
        let task = Task::sample(Wanted::RolledBack(Target::Previous));
        assert_eq!(target_name(&task, &seen), Err("no_good_revision"));
        let good = |name: &str| Good { revision: name.into(), deploy_id: Some(OLD.into()) };
        annotations::write_good(&mut seen.workload, &[good("web-3"), good("web-0"), good("web-1")]);
        assert_eq!(target_name(&task, &seen), Ok(Some("web-1".into())));
        let plan = rolled_back(&task, &seen, seen.named("web-1"), &Findings::default()).unwrap();
        assert_eq!(
            written(&plan).good,
            [good("web-0"), good("web-1")],
            "a revision that a rollback leaves is no longer good"
        );
        assert_eq!(plan.before["template"]["spec.containers[web].image"], "shop:3");
        assert_eq!(plan.after["template"]["spec.containers[web].image"], "shop:1");
        let by_id = Task::sample(Wanted::RolledBack(Target::Deploy(OLD.parse().unwrap())));
        assert_eq!(target_name(&by_id, &seen), Ok(Some("web-3".into())));
        let gone = Task::sample(Wanted::RolledBack(Target::Revision(7)));
        assert_eq!(target_name(&gone, &seen), Err("no_revision"));
    }

    #[test]
    fn a_rollback_is_done_once() {
        let mut seen = state(&[1, 2]);
        let mut task = Task::sample(Wanted::RolledBack(Target::Previous));
        task.run = Some(NEW.parse().unwrap());
        annotations::write(&mut seen.workload, RUN, Some(NEW));
        assert_eq!(target_name(&task, &seen), Ok(None));
        assert!(kinds(&rolled_back(&task, &seen, None, &Findings::default()).unwrap()).is_empty());
        annotations::write(&mut seen.workload, FROM, Some(""));
        assert_eq!(
            kinds(&rolled_back(&task, &seen, None, &Findings::default()).unwrap()),
            ["wait", "mark good"]
        );
        // A rollback of another run is taken over; else repeating this run would go back once more.
        for by in [Some(OLD), None] {
            annotations::write(&mut seen.workload, RUN, by);
            assert_eq!(target_name(&task, &seen), Ok(None));
            let plan = rolled_back(&task, &seen, None, &Findings::default()).unwrap();
            assert_eq!(kinds(&plan), ["write", "wait", "mark good"]);
            assert_eq!(written(&plan).template, *seen.template());
        }
    }

    #[test]
    fn a_run_goes_back_from_its_own_release() {
        let mut seen = state(&[1, 2]);
        let mut task = Task::sample(Wanted::RolledBack(Target::Revision(1)));
        task.run = Some(NEW.parse().unwrap());
        for key in [RUN, DEPLOY] {
            annotations::write(&mut seen.workload, key, Some(NEW));
        }
        assert_eq!(target_name(&task, &seen), Ok(Some("web-1".into())));
        annotations::write(&mut seen.workload, DEPLOY, Some(OLD));
        assert_eq!(target_name(&task, &seen), Ok(None), "it has gone back");
    }

    #[test]
    fn a_revision_that_cannot_run_is_refused() {
        let seen = state(&[1, 2]);
        let task = Task::sample(Wanted::RolledBack(Target::Revision(1)));
        let findings =
            Findings { missing: vec!["ConfigMap web is not there".into()], warnings: Vec::new() };
        let failure = rolled_back(&task, &seen, seen.named("web-1"), &findings).unwrap_err();
        assert_eq!(failure.reason, "revision_unreachable");
        assert!(failure.msg.contains("ConfigMap web is not there"));
    }

    #[test]
    fn an_older_run_changes_nothing() {
        let mut seen = state(&[1, 2]);
        annotations::write(&mut seen.workload, RUN, Some(NEW));
        let mut task = Task::sample(image("shop:3"));
        task.run = Some(OLD.parse().unwrap());
        assert_eq!(refuse(&task, &seen).unwrap_err().reason, "superseded");
        task.run = Some(NEW.parse().unwrap());
        assert!(refuse(&task, &seen).is_ok());
        seen.workload["spec"]["paused"] = json!(true);
        assert_eq!(refuse(&task, &seen).unwrap_err().reason, "paused");
    }

    #[test]
    fn the_container_must_be_named_if_there_are_several() {
        let mut seen = state(&[1]);
        seen.workload["spec"]["template"]["spec"]["containers"] =
            json!([{ "name": "a", "image": "x" }, { "name": "b", "image": "y" }]);
        assert_eq!(present(&Task::sample(image("z")), &seen).unwrap_err().reason, "bad_options");
        let mut task =
            Task::sample(Wanted::Image { container: Some("b".into()), image: "z".into() });
        let change = written(&present(&task, &seen).unwrap());
        assert_eq!(
            change.template["spec"]["containers"],
            json!([{ "name": "a", "image": "x" }, { "name": "b", "image": "z" }])
        );
        task.wanted = Wanted::Image { container: Some("c".into()), image: "z".into() };
        assert!(present(&task, &seen).is_err());
    }
}
