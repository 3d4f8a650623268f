//! Reading a container's state: its file, and whether it runs. Where `/etc/pve` is not the cluster's file
//! system, `pvesh` is asked, and also for what no file holds.

use crate::cluster::Cluster;
use crate::conf::ConfFile;
use crate::container::{Config, Snapshots};
use crate::names::Vmid;
use crate::pct::{Pct, Trouble, is_running};
use crate::pvesh::{Listed, Pvesh};
use ansible_module::Failure;
use anyhow::{Error, Result};
use host::command::Failed;
use std::fmt;

#[derive(Debug)]
pub struct Reader {
    pub pct: Pct,
    pub pvesh: Option<Pvesh>,
    pub cluster: Cluster,
}

/// The cluster's file system is there, and has no file of this container on this node.
#[derive(Debug)]
struct NoFile(Vmid);

impl fmt::Display for NoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/etc/pve/local/lxc/{}.conf does not exist", self.0)
    }
}

impl std::error::Error for NoFile {}

impl Reader {
    fn vmid(&self) -> u32 {
        self.pct.vmid.number()
    }

    fn file(&self) -> Result<Option<ConfFile>> {
        match self.cluster.conf_file(self.pct.vmid)? {
            Some(text) => Ok(Some(ConfFile::parse(&text))),
            None if self.cluster.has_files() => Err(NoFile(self.pct.vmid).into()),
            None => Ok(None),
        }
    }

    fn ask<T>(&self, question: impl FnOnce(&Pvesh) -> Result<T>) -> Result<T> {
        let Some(pvesh) = &self.pvesh else {
            let msg = "pvesh cannot be found, and what it would be asked for stands in no file: make it run on this node";
            return Err(Failure::new("program_missing", msg).into());
        };
        question(pvesh).map_err(explained)
    }

    pub fn config(&self) -> Result<Config> {
        match self.file()? {
            Some(file) => Ok(file.current),
            None => self.ask(|pvesh| pvesh.config(self.vmid(), None)),
        }
    }

    /// What a snapshot keeps; none where the file has nothing of it.
    pub fn config_of(&self, snapshot: &str) -> Result<Config> {
        let kept = self.file()?.and_then(|file| file.of_snapshot(snapshot).cloned());
        match kept {
            Some(config) => Ok(config),
            None => self.ask(|pvesh| pvesh.config(self.vmid(), Some(snapshot))),
        }
    }

    pub fn snapshots(&self) -> Result<Snapshots> {
        match self.file()? {
            Some(file) => Ok(file.snapshots(self.running()?)),
            None => self.ask(|pvesh| pvesh.snapshots(self.vmid())),
        }
    }

    pub fn running(&self) -> Result<bool> {
        let status = self.pct.status().map_err(|failed| explained(failed.into()))?;
        is_running(&status.stdout).map_err(Error::msg)
    }

    /// The containers of this node.
    pub fn list(&self) -> Result<Vec<Listed>> {
        self.ask(Pvesh::list)
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

/// Where it is not about the container: what to do.
fn explained(error: Error) -> Error {
    match trouble(&error) {
        Some(trouble @ (Trouble::NotRoot | Trouble::NoClusterFiles)) => {
            let msg = format!("Proxmox answers nothing: {}", trouble.cure());
            Failure::new(trouble.reason(), msg).caused_by(error).into()
        }
        _ => error,
    }
}

/// What stands behind the failure of a read.
pub fn trouble(error: &Error) -> Option<Trouble> {
    if error.chain().any(|cause| cause.is::<NoFile>()) {
        return Some(Trouble::NoContainer);
    }
    error.chain().find_map(|cause| cause.downcast_ref::<Failed>()).map(Trouble::of)
}
