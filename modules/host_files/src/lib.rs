//! `host_files`: writes files, folders and links, and manages systemd units, also in a folder that belongs to another user, such as
//! that of a Compose project. `host_files_info` observes them.
//!
//! Invariants: each file is whole at any moment, the old one or the new, and was checked before where the task says how; nothing is
//! read, written or waited for where another user could lead elsewhere (`host::atomic`).

mod apply;
mod info;
mod options;
mod plan;
mod spec;
mod state;
mod systemd;
mod tree;

use ansible_module::{Diff, Failure, Invocation, Outcome, Served};
use anyhow::Result;
use change::{Consent, Session};
use options::{InfoOptions, Options};
use rustix::fs::Mode;
use serde_json::json;
use state::Seen;

/// The modules that this crate serves.
pub const MODULES: &[Served] = &[
    Served { spec: &spec::MODULE, run },
    Served {
        spec: &spec::INFO,
        run: |invocation| info::of(&InfoOptions::parse(&invocation.options)?),
    },
];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = Options::parse(&invocation.options)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let session = Session::new(invocation, Consent::none())
        .lock(|| apply::lock(&options))?
        .optional_fence(options.fence.as_ref())?;
    let seen = state::observe(&options).map_err(untouched)?;
    plan::refuse_masked(&options, &seen)?;
    let plan = plan::plan(&options, &seen);
    let started = plan::started(&plan);
    let shown = if invocation.diff { texts(&seen) } else { Vec::new() };
    let mut outcome = session.carry_out(
        plan,
        |action, _| apply::act(action, &options),
        || {
            let now = state::observe(&options)?;
            plan::verify(&options, &now)?;
            Ok(now.view())
        },
    )?;
    outcome.diff.extend(shown);
    Ok(outcome.fact("differ", seen.names()).fact("started", started))
}

/// The diffs of all files, made before they are written.
fn texts(seen: &Seen) -> Vec<Diff> {
    let differ = seen.differ.iter().filter_map(|file| {
        let (before, after) = file.texts()?;
        let subject = file.path.display().to_string();
        Some(Diff::States { subject, before: json!(before), after: json!(after) })
    });
    differ.collect()
}

/// Adds to an error that nothing was changed, since paths are checked before any change.
fn untouched(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => failure.into(),
        Err(error) => Failure::new("unsafe_path", format!("nothing was changed: {error:#}")).into(),
    }
}
