//! The fence: each target keeps the highest deploy id that it has seen, and refuses older ones, so
//! that a run that was superseded (its controller hung, its network came back) can change nothing
//! any more.
//!
//! Invariants: the id on the disk only grows; it is raised under a lock and atomically; a fence
//! file that cannot be read is an error, never "no fence".

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::atomic::{Replace, sweep};
use crate::clock;
use crate::deploy_id::DeployId;
use crate::lock::Lock;

const FILE: &str = "fence";
const LOCK: &str = "fence.lock";
const PATIENCE: Duration = Duration::from_secs(10);

/// The fence of the target whose state folder is given (a [`crate::folder::SafeFolder`]).
#[derive(Clone, Copy, Debug)]
pub struct Fence;

impl Fence {
    /// The highest id seen, `None` when there was none yet.
    pub fn read(dir: &Path) -> Result<Option<DeployId>> {
        let path = dir.join(FILE);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound && dir.is_dir() => return Ok(None),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the fence {}", path.display()));
            }
        };
        let text = std::str::from_utf8(&content).ok().and_then(|text| text.strip_suffix('\n'));
        let id = text.and_then(|text| DeployId::parse(text).ok());
        id.map(Some).with_context(|| {
            let shown: String = String::from_utf8_lossy(&content).chars().take(60).collect();
            format!(
                "cannot read the fence {}: it holds {shown:?} instead of one deploy id and a newline; write the newest deploy id that you \
                 know of into it",
                path.display()
            )
        })
    }

    /// Refuses an id that is older than the fence ([`Superseded`]); changes nothing: for check
    /// mode.
    pub fn check(dir: &Path, id: &DeployId) -> Result<()> {
        match Self::read(dir)? {
            Some(by) if *id < by => {
                Err(Superseded { id: id.clone(), by, fence: dir.join(FILE) }.into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses an older id, lets the same one pass, and raises the fence to a newer one.
    pub fn check_and_raise(dir: &Path, id: &DeployId) -> Result<()> {
        let _lock = Lock::acquire(&dir.join(LOCK), "fence", Some(id), PATIENCE)?;
        Self::check(dir, id)?;
        if Self::read(dir)?.is_none_or(|seen| seen < *id) {
            sweep(&dir.join(FILE))?;
            Replace::new(&dir.join(FILE)).write(format!("{id}\n").as_bytes())?;
        }
        Ok(())
    }
}

/// A newer deploy has been here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    pub id: DeployId,
    pub by: DeployId,
    pub fence: PathBuf,
}

impl Superseded {
    pub fn reason(&self) -> &'static str {
        "superseded"
    }
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, by, at, fence) = (&self.id, &self.by, self.by.utc(), self.fence.display());
        write!(
            f,
            "deploy {id} was superseded by {by} (begun {at}, see {fence}); nothing was changed; "
        )?;
        // Otherwise one controller with a wrong clock would lock everybody out for good.
        match at > clock::now() {
            true => write!(
                f,
                "that is in the future of this machine's clock: if it came from a wrong clock, write the \
                 newest deploy id that is right into that file"
            ),
            false => f.write_str("start a new deploy"),
        }
    }
}

impl std::error::Error for Superseded {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_from_the_future_comes_with_its_cure() {
        let id = |text| DeployId::parse(text).unwrap();
        let said = |by| {
            let fence = PathBuf::from("/x/fence");
            Superseded { id: id("20200101t000000z-0001"), by: id(by), fence }.to_string()
        };
        assert!(said("20200101t000001z-0001").ends_with("start a new deploy"));
        assert!(said("99991231t235959z-0001").contains("into that file"));
    }
}
