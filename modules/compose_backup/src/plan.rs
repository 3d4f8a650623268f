//! The actions of this module, and the steps that clean up after an unfinished run.

use crate::backup_dir::BackupDir;
use crate::freeze::Frozen;
use crate::restore::work::Work;
use crate::unfinished::UnfinishedRun;
use change::Step;

#[derive(Clone, Debug)]
pub enum Action {
    /// Start what an unfinished run has stopped or paused.
    Thaw(Frozen),
    /// Revert an unfinished restore.
    RestorePrevious(Box<Work>),
    /// Finish a killed restore, since services have run on the restored data.
    Finish(Box<Work>),
    /// Remove the folder of an incomplete backup.
    Clear(String),
    Backup,
    Prune(String),
    /// Remove what a restore has parked.
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

/// Returns the first steps of every run, except one that continues the same restore.
pub fn cleanup_steps(stored: &BackupDir, unfinished: Option<&UnfinishedRun>) -> Vec<Step<Action>> {
    let mut steps = Vec::new();
    match unfinished {
        Some(UnfinishedRun { work: Some(work), goes_forward: true, .. }) => {
            let text = format!(
                "finish the killed restore {}: services have run on the restored data; the previous data stays parked",
                work.id
            );
            steps.push(Step::new(Action::Finish(Box::new(work.clone())), text));
        }
        Some(UnfinishedRun { work: Some(work), .. }) => {
            let text = format!("restore what the killed restore {} had replaced", work.id);
            steps.push(Step::new(Action::RestorePrevious(Box::new(work.clone())), text));
        }
        Some(UnfinishedRun { frozen: Some(frozen), .. }) => {
            let how = if frozen.paused { "paused" } else { "stopped" };
            let text = format!("thaw {}, which a killed run left {how}", frozen.names().join(", "));
            steps.push(Step::new(Action::Thaw(frozen.clone()), text));
        }
        _ => {}
    }
    for name in &stored.partial {
        steps.push(Step::new(Action::Clear(name.clone()), format!("remove the unfinished {name}")));
    }
    steps
}
