//! Files on which their owner holds a lease: the kernel opens them for others only once it is given
//! up, or `lease-break-time` after the owner was asked to.
//!
//! Invariant: however many files are leased, and however often a lease is taken again, all waiting
//! together ends after that time and a little more.

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

/// Unless the machine says otherwise.
const KERNEL_WAITS: Duration = Duration::from_secs(45);
const MORE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// How long is still waited for leases while one tree is read.
#[derive(Debug)]
pub struct Leases {
    left: Duration,
    asked: bool,
}

impl Default for Leases {
    fn default() -> Leases {
        let told = std::fs::read_to_string("/proc/sys/fs/lease-break-time");
        let told = told.ok().and_then(|text| text.trim().parse().ok());
        Leases { left: told.map_or(KERNEL_WAITS, Duration::from_secs) + MORE, asked: false }
    }
}

impl Leases {
    /// As [`Tree::open_held`]. The first leased file lets one pass over the tree ask for all of them.
    pub fn open(&mut self, tree: &Tree, held: &OwnedFd, entry: &Entry) -> Result<File> {
        loop {
            match Tree::open_held(held, entry) {
                Err(Missed { cause: Cause::Leased(_), .. }) if !self.left.is_zero() => {}
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

    /// As [`regular::open`], of a path that may be a link.
    pub fn open_path(&mut self, path: &Path) -> Result<File> {
        loop {
            match regular::open(path, Links::Follow) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.left.is_zero() => {}
                opened => return Ok(opened?),
            }
            self.pause(Instant::now())?;
        }
    }

    fn pause(&mut self, began: Instant) -> Result<()> {
        deadline::sleep(PAUSE)?;
        self.left = self.left.saturating_sub(began.elapsed());
        Ok(())
    }
}

/// An attempt to open a leased file asks its owner. What cannot be opened is met again by the reader.
fn ask_for_all(tree: &Tree) -> Result<()> {
    for entry in tree.walk().flatten().filter(|entry| entry.meta.kind == Kind::File) {
        interrupt::check()?;
        let _ = tree.open_file(&entry);
    }
    Ok(())
}
