//! Plan: what differs, to what is made and written. Pure.

use crate::options::Options;
use crate::state::{Folder, Seen, Wanted};
use change::{Plan, Step, Undo};
use serde_json::json;

/// So many are named.
const NAMED: usize = 20;

#[derive(Clone, Debug)]
pub enum Action {
    Make(Vec<Folder>),
    Write(Vec<Wanted>),
}

pub fn plan(options: &Options, seen: &Seen) -> Plan<Action> {
    let dest = options.dest.display();
    let mut plan = Plan::nothing(format!("the files in {dest}"), seen.view());
    if !seen.missing.is_empty() {
        let paths: Vec<String> = (seen.missing.iter())
            .map(|folder| options.dest.join(&folder.path).display().to_string())
            .collect();
        let paths: Vec<&str> = paths.iter().map(|path| path.trim_end_matches('/')).collect();
        let text = format!("make {}", named(&paths));
        plan.steps.push(Step::new(Action::Make(seen.missing.clone()), text));
    }
    if !seen.differ.is_empty() {
        let paths: Vec<String> =
            seen.differ.iter().map(|one| one.path.display().to_string()).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let text = format!("write {} in {dest}", named(&paths));
        plan.steps.push(Step::new(Action::Write(seen.differ.clone()), text));
    }
    plan.undo =
        Undo::None("the files that were there are in the restore point, where there is one".into());
    plan.after = json!({ "differ": [] });
    plan
}

fn named(paths: &[&str]) -> String {
    let shown = paths[..paths.len().min(NAMED)].join(", ");
    match paths.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
