//! Plans the steps from the observed state. Pure.

use crate::options::Options;
use crate::state::State;
use change::{Plan, Step, Undo};
use serde_json::json;

pub enum Action {
    Write,
}

pub fn plan(options: &Options, seen: &State) -> Plan<Action> {
    let path = options.path.display().to_string();
    let mut plan = Plan::nothing(&path, json!(seen));
    if seen.line != options.line {
        plan.steps.push(Step::new(Action::Write, format!("write {path}")));
        plan.undo = Undo::None("the old line is not kept".into());
        plan.after = json!({ "line": options.line });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_written_only_if_it_differs() {
        for (line, steps) in [("", 1), ("other", 1), ("line", 0)] {
            let options = Options { path: "/file".into(), line: "line".into() };
            assert_eq!(plan(&options, &State { line: line.into() }).steps.len(), steps);
        }
    }
}
