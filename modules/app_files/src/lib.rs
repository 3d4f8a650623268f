//! `app_files`: files put into a folder that may be another user's, such as that of a Compose project.
//!
//! Invariants: each file is whole at any moment, the old one or the new; nothing is read, written or
//! waited for where another user could lead elsewhere (`host::atomic`).

mod options;
mod plan;
mod spec;
mod state;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::{Result, anyhow};
use change::{Consent, Session};
use host::atomic;
use host::folder::SafeFolder;
use host::lock::Lock;
use nix::unistd::geteuid;
use options::Options;
use plan::Action;
use rustix::fs::Mode;
use std::path::Path;
use std::time::Duration;

/// More than another task takes that only writes files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// A folder that its owner cannot write to could not be filled.
const OWN: u32 = 0o700;

/// What this program serves.
pub const MODULES: &[Served] = &[Served { spec: &spec::MODULE, run }];

/// For root, whose killed runs are cleaned up after. Whoever is not root has no place for locks.
fn lock() -> Result<Vec<Lock>> {
    if !geteuid().is_root() {
        return Ok(Vec::new());
    }
    let folder = SafeFolder::ensure(Path::new("/run/reversible-files"), 0o700)?;
    Lock::acquire(&folder.join("lock"), "app_files", None, LOCK_TIMEOUT).map(|lock| vec![lock])
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = Options::parse(&invocation.options)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let session = Session::new(invocation, Consent::none()).lock(lock)?;
    let seen = state::observe(&options).map_err(untouched)?;
    let plan = plan::plan(&options, &seen);
    let outcome = session.carry_out(
        plan,
        |action, _| match action {
            Action::Make(folders) => folders.iter().try_for_each(|folder| {
                atomic::make_folder(&options.dest.join(&folder.path), folder.mode | OWN)
            }),
            Action::Write(files) => files.iter().try_for_each(|file| {
                let path = options.dest.join(&file.path);
                if geteuid().is_root() {
                    atomic::sweep(&path)?;
                }
                file.write(&path)
            }),
        },
        || {
            let now = state::observe(&options)?;
            match now.has_all() {
                true => Ok(now.view()),
                false => Err(anyhow!("{} changed while it was written", options.dest.display())),
            }
        },
    )?;
    Ok(outcome.fact("differ", seen.view()["differ"].clone()))
}

/// What is wrong with a path is found before anything is changed.
fn untouched(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => failure.into(),
        Err(error) => Failure::new("unsafe_path", format!("nothing was changed: {error:#}")).into(),
    }
}
