//! Reading a container's state: with `pvesh`, and with `pct`'s tables where `pvesh` is missing or
//! fails.

use crate::container::{Config, Snapshot, Snapshots};
use crate::pct::{Pct, Trouble};
use crate::pvesh::Pvesh;
use crate::tables::{self, Listed};
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::command::Failed;
use std::cell::RefCell;

#[derive(Debug)]
pub struct Reader {
    pub pct: Pct,
    pub pvesh: Option<Pvesh>,
    /// Why `pct` was asked instead, told once.
    pub warnings: RefCell<Vec<String>>,
}

impl Reader {
    fn vmid(&self) -> u32 {
        self.pct.vmid.number()
    }

    /// `first`, or `second` where there is no pvesh or it fails.
    fn ask<T>(
        &self,
        first: impl FnOnce(&Pvesh) -> Result<T>,
        second: impl FnOnce(&Pct) -> Result<T>,
    ) -> Result<T> {
        self.ask_one(first, second).map_err(|error| match trouble(&error) {
            Some(trouble @ (Trouble::NotRoot | Trouble::NoClusterFiles)) => {
                let msg = format!("Proxmox answers nothing: {}", trouble.cure());
                Failure::new(trouble.reason(), msg).caused_by(error).into()
            }
            _ => error,
        })
    }

    fn ask_one<T>(
        &self,
        first: impl FnOnce(&Pvesh) -> Result<T>,
        second: impl FnOnce(&Pct) -> Result<T>,
    ) -> Result<T> {
        let Some(pvesh) = &self.pvesh else { return second(&self.pct) };
        let why = match first(pvesh) {
            Ok(answer) => return Ok(answer),
            // The answer of both, in the same words.
            Err(error) if host::reason(&error) == Some("interrupted") || is_final(&error) => {
                return Err(error);
            }
            Err(error) => error,
        };
        let answer = second(&self.pct)?;
        let mut warnings = self.warnings.borrow_mut();
        if warnings.is_empty() {
            warnings.push(format!("pvesh does not answer, so pct was asked: {why:#}"));
        }
        Ok(answer)
    }

    pub fn config(&self) -> Result<Config> {
        self.ask(
            |pvesh| pvesh.config(self.vmid(), None),
            |pct| Ok(tables::config(&lossy(&pct.config(None)?.stdout))),
        )
    }

    pub fn config_of(&self, snapshot: &str) -> Result<Config> {
        self.ask(
            |pvesh| pvesh.config(self.vmid(), Some(snapshot)),
            |pct| Ok(tables::config(&lossy(&pct.config(Some(snapshot))?.stdout))),
        )
    }

    pub fn snapshots(&self) -> Result<Snapshots> {
        self.ask(|pvesh| pvesh.snapshots(self.vmid()), snapshots_by_pct)
    }

    pub fn running(&self) -> Result<bool> {
        tables::status(&lossy(&self.pct.status()?.stdout)).map_err(Error::msg)
    }

    pub fn list(&self) -> Result<Vec<Listed>> {
        self.ask(Pvesh::list, |pct| tables::list(&lossy(&pct.list()?.stdout)).map_err(Error::msg))
    }

    /// The task of one of these types that runs for this container now.
    pub fn active_task(&self, kinds: &[&str]) -> Result<Option<String>> {
        let Some(pvesh) = &self.pvesh else {
            let msg = format!(
                "CT {} has a lock of a run that was killed, and without pvesh it cannot be told whether \
                 Proxmox's task of it still runs: make pvesh run on this node; nothing was changed",
                self.pct.vmid
            );
            return Err(Failure::new("program_missing", msg).into());
        };
        let tasks = pvesh.active_tasks(self.vmid())?;
        Ok(tasks.into_iter().find(|(kind, _)| kinds.contains(&kind.as_str())).map(|(_, upid)| upid))
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether `pct` could only say the same.
fn is_final(error: &Error) -> bool {
    matches!(
        trouble(error),
        Some(Trouble::NoContainer | Trouble::NotRoot | Trouble::NoClusterFiles)
    )
}

/// The table cuts descriptions and hides what is incomplete, so each is asked for by its name.
fn snapshots_by_pct(pct: &Pct) -> Result<Snapshots> {
    let table = lossy(&pct.listsnapshot()?.stdout);
    let mut all = Vec::new();
    for name in tables::snapshot_names(&table).map_err(Error::msg)? {
        let config = tables::config(&lossy(&pct.config(Some(&name))?.stdout));
        let mut snapshot = Snapshot::new(&name, &config.description, config.snaptime);
        (snapshot.parent, snapshot.state) = (config.parent, config.snapstate);
        all.push(snapshot);
    }
    let parent = tables::config(&lossy(&pct.config(None)?.stdout)).parent;
    let running = tables::status(&lossy(&pct.status()?.stdout)).map_err(Error::msg)?;
    Ok(Snapshots::new(all, parent, running))
}

/// What stands behind the failure of a read.
pub fn trouble(error: &Error) -> Option<Trouble> {
    error.chain().find_map(|cause| cause.downcast_ref::<Failed>()).map(Trouble::of)
}
