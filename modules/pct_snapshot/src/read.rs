//! Reads a container's state: its file, and whether it runs. Where `/etc/pve` is not the cluster's file
//! system, `pvesh` is asked, and also for what is in no file.

use crate::cluster::Cluster;
use crate::conf::ConfFile;
use crate::container::{Config, Snapshots};
use crate::names::Vmid;
use crate::pct::{Pct, PveError, is_running};
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

/// The cluster's file system has no file of this container on this node.
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
            let msg = "pvesh was not found, and what it would report is in no file: make it available on this node";
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

    /// Reads the configuration of a snapshot.
    pub fn config_of(&self, snapshot: &str) -> Result<Config> {
        let kept = self.file()?.and_then(|file| file.snapshot_config(snapshot).cloned());
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

    /// Returns the UPID of a running task of one of these types for this container.
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

/// Adds what to do to an error that does not concern the container.
fn explained(error: Error) -> Error {
    match pve_error(&error) {
        Some(pve_error @ (PveError::NotRoot | PveError::NoClusterFiles)) => {
            let msg = format!("Proxmox answers nothing: {}", pve_error.cure());
            Failure::new(pve_error.reason(), msg).caused_by(error).into()
        }
        _ => error,
    }
}

/// Returns the error of Proxmox behind a failed read.
pub fn pve_error(error: &Error) -> Option<PveError> {
    if error.chain().any(|cause| cause.is::<NoFile>()) {
        return Some(PveError::NoContainer);
    }
    error.chain().find_map(|cause| cause.downcast_ref::<Failed>()).map(PveError::of)
}
