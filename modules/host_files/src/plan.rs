//! Plans what is created, written, linked, removed, started and stopped. Pure.

use crate::options::{Options, UnitEntry, UnitGoal};
use crate::state::Seen;
use crate::systemd::Unit;
use crate::tree::{File, Folder};
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How many names a message lists.
const NAMED: usize = 20;
/// A changed file below these folders belongs to a unit.
const UNIT_FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

#[derive(Clone, Debug)]
pub enum Action {
    Make(Vec<Folder>),
    SetAttributes(Vec<Folder>),
    Write(Vec<File>),
    Link(Vec<(PathBuf, PathBuf)>),
    Remove(Vec<PathBuf>),
    ReloadDaemon,
    /// A verb of systemctl, and the units.
    Units(&'static str, Vec<String>),
}

pub fn plan(options: &Options, seen: &Seen) -> Plan<Action> {
    let subject = match &options.dest {
        Some(dest) => format!("the files in {}", dest.display()),
        None if options.entries.is_empty() => "units".to_owned(),
        None => "files".to_owned(),
    };
    let mut plan = Plan::nothing(subject, seen.view());
    let mut step = |action, text| plan.steps.push(Step::new(action, text));
    let folders =
        |all: &[Folder]| -> String { named(all.iter().map(|folder| whole(&folder.path))) };
    let files = |verb: &str, names: String| match &options.dest {
        Some(dest) => format!("{verb} {names} in {}", dest.display()),
        None => format!("{verb} {names}"),
    };
    if !seen.missing.is_empty() {
        step(Action::Make(seen.missing.clone()), format!("make {}", folders(&seen.missing)));
    }
    if !seen.wrong_attributes.is_empty() {
        let text = format!("set owner and mode of {}", folders(&seen.wrong_attributes));
        step(Action::SetAttributes(seen.wrong_attributes.clone()), text);
    }
    if !seen.differ.is_empty() {
        let text = files("write", named(seen.differ.iter().map(|file| seen.name(&file.path))));
        step(Action::Write(seen.differ.clone()), text);
    }
    if !seen.links.is_empty() {
        let links = seen.links.iter();
        let each = links.map(|(path, to)| format!("{} to {}", seen.name(path), to.display()));
        step(Action::Link(seen.links.clone()), files("link", named(each)));
    }
    if !seen.to_remove.is_empty() {
        let text = files("remove", named(seen.to_remove.iter().map(|path| seen.name(path))));
        step(Action::Remove(seen.to_remove.clone()), text);
    }
    let all: Vec<(&UnitEntry, &Unit)> = options.units.iter().zip(&seen.units).collect();
    if changes_units(seen) || all.iter().any(|(entry, unit)| is_stale(entry, unit)) {
        step(Action::ReloadDaemon, "let systemd read its files again".to_owned());
    }
    for (verb, is_due) in VERBS {
        let due: Vec<String> = (all.iter())
            .filter(|(entry, unit)| is_due(entry, unit))
            .map(|(entry, _)| entry.name.clone())
            .collect();
        if !due.is_empty() {
            let text = format!("{verb} {}", named(due.iter().cloned()));
            step(Action::Units(verb, due), text);
        }
    }
    plan.undo =
        Undo::None("the files that were there are in the restore point, where there is one".into());
    plan.after = json!({ "differ": [] });
    if !all.is_empty() {
        let after = all.iter().map(|(entry, unit)| (entry.name.clone(), predicted(entry, unit)));
        plan.after["units"] = Value::Object(after.collect());
    }
    plan
}

type IsDue = fn(&UnitEntry, &Unit) -> bool;

/// The order of the verbs: units are stopped before others are started.
const VERBS: [(&str, IsDue); 6] = [
    ("stop", |entry, unit| entry.state == Some(UnitGoal::Stopped) && !unit.is_down()),
    ("disable", |entry, unit| entry.enabled == Some(false) && unit.is_enabled() == Some(true)),
    ("enable", |entry, unit| entry.enabled == Some(true) && unit.is_enabled() == Some(false)),
    ("start", |entry, unit| {
        matches!(entry.state, Some(UnitGoal::Started | UnitGoal::Reloaded)) && !unit.runs()
    }),
    ("reload", |entry, unit| entry.state == Some(UnitGoal::Reloaded) && unit.runs()),
    ("restart", |entry, _| entry.state == Some(UnitGoal::Restarted)),
];

/// Whether systemd must read the unit's file again. A unit that it does not know may be new.
fn is_stale(entry: &UnitEntry, unit: &Unit) -> bool {
    let comes =
        matches!(entry.state, Some(UnitGoal::Started | UnitGoal::Restarted | UnitGoal::Reloaded));
    unit.is_stale || (!unit.exists() && (comes || entry.enabled == Some(true)))
}

fn changes_units(seen: &Seen) -> bool {
    let written = seen.differ.iter().map(|file| file.path.as_path());
    let linked = seen.links.iter().map(|(path, _)| path.as_path());
    let removed = seen.to_remove.iter().map(PathBuf::as_path);
    let mut all = written.chain(linked).chain(removed);
    all.any(|path| UNIT_FOLDERS.iter().any(|folder| path.starts_with(folder)))
}

fn predicted(entry: &UnitEntry, unit: &Unit) -> Value {
    let mut view = unit.view();
    match entry.state {
        Some(UnitGoal::Stopped) if !unit.is_down() => view["active"] = json!("inactive"),
        Some(UnitGoal::Started | UnitGoal::Restarted | UnitGoal::Reloaded) => {
            view["active"] = json!("active");
        }
        _ => {}
    }
    match (entry.enabled, unit.is_enabled()) {
        (Some(true), Some(false)) => view["enabled"] = json!("enabled"),
        (Some(false), Some(true)) => view["enabled"] = json!("disabled"),
        _ => {}
    }
    view
}

/// The units that are started or restarted.
pub fn started(plan: &Plan<Action>) -> Vec<String> {
    let units = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Units("start" | "restart", units) => Some(units.clone()),
        _ => None,
    });
    units.flatten().collect()
}

/// Refuses to start masked units, before any change.
pub fn refuse_masked(options: &Options, seen: &Seen) -> Result<(), Failure> {
    let mut all = options.units.iter().zip(&seen.units);
    match all.find(|(entry, unit)| unit.is_masked() && entry.state != Some(UnitGoal::Stopped)) {
        None => Ok(()),
        Some((entry, _)) => {
            let name = &entry.name;
            let msg = format!("nothing was changed: {name} is masked; systemctl unmask {name}");
            Err(Failure::new("masked", msg))
        }
    }
}

/// Verifies that files and units are as the options say.
pub fn verify(options: &Options, now: &Seen) -> Result<(), Failure> {
    let refused = |msg: String| Err(Failure::new("not_verified", msg));
    if !now.has_all_files() {
        let names = now.names().join(", ");
        return refused(format!("what was written is not there any more: {names}"));
    }
    for (entry, unit) in options.units.iter().zip(&now.units) {
        let name = &entry.name;
        let active = unit.view()["active"].as_str().unwrap_or_default().to_owned();
        match entry.state {
            Some(UnitGoal::Stopped) if !unit.is_down() => {
                return refused(format!("{name} was stopped, and is {active}"));
            }
            Some(UnitGoal::Started | UnitGoal::Restarted | UnitGoal::Reloaded)
                if !unit.was_started() =>
            {
                let where_to_look = format!("journalctl --unit {name} says why");
                return refused(format!("{name} was started, and is {active}: {where_to_look}"));
            }
            _ => {}
        }
        if entry.enabled.is_some_and(|wanted| unit.is_enabled() == Some(!wanted)) {
            let file = unit.view()["enabled"].as_str().unwrap_or_default().to_owned();
            return refused(format!("{name} is {file} after systemctl has changed that"));
        }
    }
    Ok(())
}

fn whole(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_owned()
}

fn named(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let shown = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
