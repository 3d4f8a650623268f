//! Files on which their owner holds a lease: the kernel lets others open them only when the lease is given
//! up, or `lease-break-time` after the owner was asked to.
//!
//! Invariant: however many files are leased, and however often a lease is taken again, the total time
//! waited is that time and a little more.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Cause, Entry, Missed, Tree};
use crate::meta::Kind;
use crate::regular::{self, Links};
use crate::{deadline, interrupt};

/// The kernel's default of `lease-break-time`.
const KERNEL_WAITS: Duration = Duration::from_secs(45);
const MORE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// The time that may still be spent on waiting for leases while one tree is read.
#[derive(Debug)]
pub struct Leases {
    budget: Duration,
    asked: bool,
}

impl Default for Leases {
    fn default() -> Leases {
        let configured = std::fs::read_to_string("/proc/sys/fs/lease-break-time");
        let configured = configured.ok().and_then(|text| text.trim().parse().ok());
        Leases { budget: configured.map_or(KERNEL_WAITS, Duration::from_secs) + MORE, asked: false }
    }
}

impl Leases {
    /// Opens a file as [`Tree::open_held`] does, and waits for its lease. At the first leased file, the
    /// owners of all leased files of the tree are asked, so that their times run in parallel.
    pub fn open(&mut self, tree: &Tree, held: &OwnedFd, entry: &Entry) -> Result<File> {
        loop {
            match Tree::open_held(held, entry) {
                Err(Missed { cause: Cause::Leased(_), .. }) if !self.budget.is_zero() => {}
                opened => return Ok(opened?),
            }
            let began = Instant::now();
            if !self.asked {
                self.asked = true;
                ask_for_all(tree)?;
            }
            self.pause(began)?;
        }
    }

    /// Opens a file as [`regular::open`] does, following links, and waits for its lease.
    pub fn open_path(&mut self, path: &Path) -> Result<File> {
        loop {
            match regular::open(path, Links::Follow) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.budget.is_zero() => {}
                opened => return Ok(opened?),
            }
            self.pause(Instant::now())?;
        }
    }

    fn pause(&mut self, began: Instant) -> Result<()> {
        deadline::sleep(PAUSE)?;
        self.budget = self.budget.saturating_sub(began.elapsed());
        Ok(())
    }
}

/// Asks the owners of all leased files: an attempt to open one does that. Errors are left to the reader.
fn ask_for_all(tree: &Tree) -> Result<()> {
    for entry in tree.walk().flatten().filter(|entry| entry.meta.kind == Kind::File) {
        interrupt::check()?;
        let _ = tree.open_file(&entry);
    }
    Ok(())
}
