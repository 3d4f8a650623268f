//! `state: absent`: removes a backup, or what restores have parked.

use crate::backup_dir::BackupDir;
use crate::data;
use crate::observed::Observed;
use crate::options::Which;
use crate::plan::{Action, cleanup_steps};
use change::{Loss, Plan, Step, Undo};
use std::path::Path;

pub const LAST: &str = "last_backup";

/// Returns the plan, and the name of the backup that it removes.
pub fn plan(
    observed: &Observed,
    which: Option<&Which>,
    ids: &[String],
    scratch: &Path,
) -> (Plan<Action>, Option<String>) {
    let Observed { stored, parked, .. } = observed;
    let mut steps = cleanup_steps(stored, observed.unfinished.as_ref());
    let name = which.and_then(|which| find(stored, which));
    if let Some(name) = &name {
        let others = stored.valid().any(|(backup, _)| backup.name != *name);
        let what = format!("{name} of {}", observed.subject());
        let loss = match others {
            true => Loss::plain(what),
            false => Loss::accepted_as(LAST, format!("{what}, the last remaining backup")),
        };
        let bytes =
            stored.find(name).and_then(|backup| Some(backup.manifest.as_ref().ok()?.sizes.bytes));
        let loss = Loss { bytes, ..loss };
        steps.push(Step::new(Action::Remove(name.clone()), format!("remove {name}")).loses(loss));
    }
    let all = ids.iter().any(|id| id == "all");
    for one in parked.iter().filter(|one| all || ids.contains(&one.id)) {
        let text = format!("drop the parked state of restore {}", one.id);
        let paths = one.work.parked_paths();
        let what = match paths.as_slice() {
            [] => format!("the record of restore {}", one.id),
            paths if one.work.was_put_back => {
                format!(
                    "what a reverted restore had put in place, with what was written to it: {}",
                    paths.join(", ")
                )
            }
            paths => format!("what was there before restore {}: {}", one.id, paths.join(", ")),
        };
        let sizes = one.work.parked().map(|path| data::written(path, None, scratch).ok());
        let loss = Loss { bytes: sizes.sum(), ..Loss::plain(what) };
        steps.push(Step::new(Action::Drop(one.id.clone()), text).loses(loss));
    }
    let before = observed.view();
    let mut after = before.clone();
    if let (Some(name), Some(list)) = (&name, after["backups"].as_array_mut()) {
        list.retain(|one| one != name);
    }
    let plan = Plan {
        identities: vec![format!("backup folder {}", stored.dir.display())],
        steps,
        undo: Undo::None("what is removed cannot be recovered".into()),
        after,
        ..Plan::nothing(observed.subject(), before)
    };
    (plan, name)
}

fn find(stored: &BackupDir, which: &Which) -> Option<String> {
    match which {
        // A damaged backup may be removed by its name.
        Which::Named(name) => stored.find(name).map(|backup| backup.name.clone()),
        Which::Deploy(id) => stored.of_deploy(id.as_str()).map(|(backup, _)| backup.name.clone()),
        Which::Latest => None,
    }
}
