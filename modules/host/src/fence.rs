//! The fence: each target keeps the highest deploy id that it has seen and refuses older ones, so that
//! a superseded run (its controller hung, its network came back) cannot change anything any more.
//!
//! Invariants: the id on the disk only grows, unless a person lowers one that is more than a day ahead
//! of the clock; an id that is so far ahead is refused and never written; the file is changed under a
//! lock and atomically; an unreadable file is an error, never "no fence".

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::atomic::{Replace, sweep};
use crate::clock::{self, Utc};
use crate::deploy_id::DeployId;
use crate::lock::Lock;
use crate::missing::read_in;

const FILE: &str = "fence";
const LOCK: &str = "fence.lock";
const PATIENCE: Duration = Duration::from_secs(10);

/// How many seconds two clocks may differ. An id that is further ahead comes from a wrong clock or was
/// made by hand, and would lock out every correct one until then.
const MOST_AHEAD: i64 = 86_400;

fn too_far_ahead(id: &DeployId, now: Utc) -> bool {
    id.time() > now.unix() + MOST_AHEAD
}

/// The operations on the fence of a target, by its state folder (a [`crate::folder::SafeFolder`]).
#[derive(Clone, Copy, Debug)]
pub struct Fence;

impl Fence {
    /// Reads the highest id seen; `None` if there was none yet.
    pub fn read(dir: &Path) -> Result<Option<DeployId>> {
        let path = dir.join(FILE);
        let content = read_in(dir, &path)
            .with_context(|| format!("cannot read the fence {}", path.display()))?;
        let Some(content) = content else { return Ok(None) };
        let text = std::str::from_utf8(&content).ok().and_then(|text| text.strip_suffix('\n'));
        let id = text.and_then(|text| DeployId::parse(text).ok());
        id.map(Some).with_context(|| {
            let shown: String = String::from_utf8_lossy(&content).chars().take(60).collect();
            format!(
                "cannot read the fence {}: it contains {shown:?} instead of one deploy id and a newline; write the newest deploy id that you \
                 know of into it",
                path.display()
            )
        })
    }

    /// Refuses an id that is older than the fence ([`Superseded`]) or in the future ([`Ahead`]), without
    /// raising the fence: for check mode.
    pub fn check(dir: &Path, id: &DeployId) -> Result<()> {
        match Self::read(dir)? {
            Some(by) if *id < by => {
                Err(Superseded { id: id.clone(), by, fence: dir.join(FILE) }.into())
            }
            // The fence was not ahead when it was raised, so this clock was set back since: do not rely on it.
            Some(by) if too_far_ahead(&by, clock::now()) => Ok(()),
            _ => Self::check_clock(id),
        }
    }

    /// Refuses an id that is more than a day ahead of the clock ([`Ahead`]).
    pub fn check_clock(id: &DeployId) -> Result<()> {
        let now = clock::now();
        match too_far_ahead(id, now) {
            true => Err(Ahead { id: id.clone(), now }.into()),
            false => Ok(()),
        }
    }

    /// Returns the fence if it is more than a day ahead of this machine's clock: one of the two is wrong.
    pub fn ahead(dir: &Path) -> Result<Option<DeployId>> {
        Ok(Self::read(dir)?.filter(|seen| too_far_ahead(seen, clock::now())))
    }

    /// Lowers a fence that is more than a day ahead of the clock, and no other one.
    pub fn lower(dir: &Path, to: &DeployId) -> Result<()> {
        let _lock = Lock::acquire(&dir.join(LOCK), "fence", Some(to), PATIENCE)?;
        Self::check_clock(to)?;
        ensure!(
            Self::ahead(dir)?.is_some(),
            "the fence {} is not ahead of this machine's clock any more; it was not changed",
            dir.join(FILE).display()
        );
        Self::write(dir, to)
    }

    fn write(dir: &Path, id: &DeployId) -> Result<()> {
        sweep(&dir.join(FILE))?;
        Replace::new(&dir.join(FILE)).write(format!("{id}\n").as_bytes()).map(drop)
    }

    /// Refuses an older id, accepts the same one, and raises the fence to a newer one.
    pub fn check_and_raise(dir: &Path, id: &DeployId) -> Result<()> {
        let _lock = Lock::acquire(&dir.join(LOCK), "fence", Some(id), PATIENCE)?;
        Self::check(dir, id)?;
        if Self::read(dir)?.is_none_or(|seen| seen < *id) {
            Self::write(dir, id)?;
        }
        Ok(())
    }
}

/// The target has seen a newer deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    pub id: DeployId,
    pub by: DeployId,
    pub fence: PathBuf,
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, by, at, fence) = (&self.id, &self.by, self.by.utc(), self.fence.display());
        write!(
            f,
            "deploy {id} was superseded by {by} (begun {at}, see {fence}); nothing was changed; "
        )?;
        let now = clock::now();
        // One controller with a wrong clock must not lock out everybody for ever.
        match too_far_ahead(&self.by, now) {
            true => write!(
                f,
                "that is more than a day ahead of this machine's clock ({now}): set the clock if it is wrong, else lower that fence: \
                 playbook lower_fences, or deploy_ledger with state: fence_lowered"
            ),
            false => f.write_str("start a new deploy"),
        }
    }
}

impl std::error::Error for Superseded {}

/// An id so far in the future that it would lock out every other run until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    pub id: DeployId,
    pub now: Utc,
}

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "deploy {} is of {}, more than a day ahead of this machine's clock ({}): nothing was changed; set the clock that is wrong, \
             here or on the controller, and start a new deploy",
            self.id,
            self.id.utc(),
            self.now
        )
    }
}

impl std::error::Error for Ahead {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superseded_by_a_future_id_says_how_to_lower_the_fence() {
        let id = |text| DeployId::parse(text).unwrap();
        let said = |by| {
            let fence = PathBuf::from("/x/fence");
            Superseded { id: id("20200101t000000z-0001"), by: id(by), fence }.to_string()
        };
        assert!(said("20200101t000001z-0001").ends_with("start a new deploy"));
        assert!(said("99991231t235959z-0001").contains("state: fence_lowered"));
    }
}
