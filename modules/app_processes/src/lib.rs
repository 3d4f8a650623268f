//! `app_processes`: the processes of one side of an app, where no systemd runs them: ended and started
//! again side by side, each known by its pid file.

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

/// More than another task takes that has only to end and start.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// What this program serves.
pub const MODULES: &[Served] = &[Served { spec: &spec::MODULE, run }];

/// One for the machine: what one task ends, another must not start meanwhile.
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
    // The programs that a killed run has started to start are waited for, too.
    let mut session =
        Session::new(invocation, Consent::none()).lock(|| lock(options.stop_timeout))?;
    if let Some((id, state_dir)) = &options.fence {
        session = session.fence(Some(id), state_dir)?;
    }
    if options.state == State::Restarted {
        process::check_logs(&options.processes)?;
    }
    let seen = process::look_at_all(&options.processes)?;
    let unkept = match &options.kept_logs {
        Some(folder) => Some(kept::look(&options.processes, folder)?),
        None => None,
    };
    let plan = plan::plan(&options, &seen, unkept.as_ref());
    let outcome = session.carry_out(
        plan,
        |action, _| match action {
            Action::Keep(unkept) => kept::keep(&options.processes, unkept),
            Action::End(doomed) => {
                let again: &[Process] = match options.state {
                    State::Restarted => &options.processes,
                    State::Stopped | State::Observed => &[],
                };
                process::end(doomed, options.stop_timeout, again)
            }
            Action::Start => process::start(&options.processes),
        },
        || {
            let now = process::look_at_all(&options.processes)?;
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
