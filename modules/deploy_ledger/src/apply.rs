//! Apply: one line, appended and synced, under the lock of the ledger's folder.

use crate::ledger::{self, Event};
use crate::options::Options;
use anyhow::{Context, Result};
use host::fence::Fence;
use host::folder::SafeFolder;
use host::lock::Lock;
use host::{atomic, clock};
use std::time::Duration;

/// Another task on the same ledger takes milliseconds; more means that it hangs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Make the folder where it is missing, and lock it.
pub fn enter(options: &Options) -> Result<Lock> {
    let at = &options.at;
    SafeFolder::ensure(&at.folder, 0o700)?;
    let file = at.folder.join("ledger.lock");
    Lock::acquire(&file, "deploy_ledger", Some(&options.deploy), LOCK_TIMEOUT)
        .with_context(|| format!("locking the ledger of {}", at.name()))
}

pub fn append(options: &Options, event: &Event) -> Result<()> {
    if let Event::Open { .. } = event {
        // Before the line: from here on the run that is taken over can record nothing more.
        Fence::check_and_raise(&options.at.folder, &options.deploy)?;
    }
    let file = options.at.file();
    let line = ledger::line(clock::now(), &options.deploy, event)?;
    atomic::append_line(&file, line.as_bytes())
        .with_context(|| format!("writing the ledger {}", file.display()))?;
    Ok(())
}
