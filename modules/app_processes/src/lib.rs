//! `app_processes`: stops and starts the processes of one colour of an app where systemd does not run them, in
//! parallel and each by its pid file.

mod account;
mod kept;
mod log;
mod options;
mod pidfile;
mod plan;
mod process;
mod spec;

use ansible_module::{Invocation, Outcome, Served};
use anyhow::Result;
use change::{Consent, Session};
use host::folder::SafeFolder;
use host::lock::Lock;
use options::{Options, Process, State};
use plan::Action;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Longer than another task takes that stops and starts processes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The modules that this crate serves.
pub const MODULES: &[Served] = &[Served { spec: &spec::MODULE, run }];

/// Takes one lock for the machine, so that no task starts what another one stops.
fn lock(stop_timeout: Duration) -> Result<Vec<Lock>> {
    let folder = Path::new("/run/reversible-processes");
    SafeFolder::ensure(folder, 0o700)?;
    Lock::acquire(&folder.join("lock"), "app_processes", None, stop_timeout + LOCK_TIMEOUT)
        .map(|lock| vec![lock])
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = Options::parse(&invocation.options)?;
    let systemd = Path::new("/run/systemd/system").is_dir();
    if systemd && options.unless_systemd {
        return Ok(Outcome::default().fact("systemd", true));
    }
    // The lock also waits for start-stop-daemon of a killed run.
    let session = Session::new(invocation, Consent::none())
        .lock(|| lock(options.stop_timeout))?
        .optional_fence(options.fence.as_ref())?;
    if options.state == State::Restarted {
        process::check_logs(&options.processes)?;
    }
    let seen = process::observe_all(&options.processes)?;
    let logs_to_keep = match &options.kept_logs {
        Some(folder) => Some(kept::find(&options.processes, folder)?),
        None => None,
    };
    let plan = plan::plan(&options, &seen, logs_to_keep.as_ref());
    let outcome = session.carry_out(
        plan,
        |action, _| match action {
            Action::Keep(logs_to_keep) => kept::copy_logs(&options.processes, logs_to_keep),
            Action::End(to_stop) => {
                let again: &[Process] = match options.state {
                    State::Restarted => &options.processes,
                    State::Stopped | State::Observed => &[],
                };
                process::end(to_stop, options.stop_timeout, again)
            }
            Action::Start => process::start(&options.processes),
        },
        || {
            let now = process::observe_all(&options.processes)?;
            plan::verify(&options, &now)?;
            Ok(json!({ "running": plan::running(&options.processes, &now) }))
        },
    )?;
    let mut outcome = outcome.fact("systemd", systemd);
    if options.state == State::Observed && options.log_lines > 0 {
        let printed = kept::last_lines(&options.processes, options.log_lines)?;
        outcome.warnings.extend(printed.unread);
        outcome = outcome.fact("logs", json!(printed.lines));
    }
    Ok(outcome)
}
