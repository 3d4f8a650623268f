//! What can be done, as data, and the steps that a killed run has left to every run.

use crate::backup_dir::BackupDir;
use crate::freeze::Frozen;
use crate::restore::work::Work;
use crate::unfinished::UnfinishedRun;
use change::Step;

#[derive(Clone, Debug)]
pub enum Action {
    /// Start what a killed run has left stopped or paused.
    Thaw(Frozen),
    /// Take a restore back that was killed half way.
    RestorePrevious(Box<Work>),
    /// Bring a killed restore to its end, since services have run on what it had put in place.
    Finish(Box<Work>),
    /// Remove a folder of a backup that was not completed.
    Clear(String),
    Backup,
    Prune(String),
    /// Let go of what a restore has parked.
    Drop(String),
    Remove(String),
    /// The stages of a restore, in their order.
    Check,
    Load,
    Stage,
    Stop,
    Swap,
    Start,
}

/// What comes first in every run but one that goes on with the same restore.
pub fn leftovers(stored: &BackupDir, unfinished: Option<&UnfinishedRun>) -> Vec<Step<Action>> {
    let mut steps = Vec::new();
    match unfinished {
        Some(UnfinishedRun { work: Some(work), goes_forward: true, .. }) => {
            let text = format!(
                "finish the killed restore {}: services have run on what it has put in place; what was there \
                 before stays parked",
                work.id
            );
            steps.push(Step::new(Action::Finish(Box::new(work.clone())), text));
        }
        Some(UnfinishedRun { work: Some(work), .. }) => {
            let text = format!("put back what the killed restore {} has replaced", work.id);
            steps.push(Step::new(Action::RestorePrevious(Box::new(work.clone())), text));
        }
        Some(UnfinishedRun { frozen: Some(frozen), .. }) => {
            let how = if frozen.paused { "paused" } else { "stopped" };
            let text =
                format!("thaw {}, which a killed run has left {how}", frozen.names().join(", "));
            steps.push(Step::new(Action::Thaw(frozen.clone()), text));
        }
        _ => {}
    }
    for name in &stored.partial {
        steps.push(Step::new(Action::Clear(name.clone()), format!("remove the unfinished {name}")));
    }
    steps
}
