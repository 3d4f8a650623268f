//! Free bytes and inodes of the filesystem that a path is on.
//!
//! Invariant: blocks that only root may use (the reserved blocks of ext4) do not count as free: they
//! keep a machine with a full disk alive.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::statvfs;

use crate::mounts::Mounts;

/// Whether an error says that the disk or a quota is full.
pub(crate) fn is_full(error: &anyhow::Error) -> bool {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
    error.chain().filter_map(kind_of).any(|kind| full.contains(&kind))
}

/// Returns the kind of a system error. Not its number: an error that tempfile has added a path to has
/// none.
pub(crate) fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    if let Some(errno) = error.downcast_ref::<rustix::io::Errno>() {
        return Some(errno.kind());
    }
    if let Some(errno) = error.downcast_ref::<nix::errno::Errno>() {
        return Some(io::Error::from(*errno).kind());
    }
    error.downcast_ref::<io::Error>().map(io::Error::kind)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub bytes: u64,
    /// `None` where the filesystem has no fixed number of inodes (btrfs).
    pub inodes: Option<u64>,
}

impl Space {
    /// Reads what is free on the filesystem of an existing path.
    pub fn free(path: &Path) -> Result<Space> {
        let stat = statvfs(path).with_context(|| {
            format!("cannot find out how much space is free on {}", path.display())
        })?;
        let inodes = (stat.f_files > 0).then_some(stat.f_favail);
        Ok(Space { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
    }

    /// Fails with [`NoSpace`] unless this much is free. `what` begins the message: "the backup of
    /// shop-prod".
    pub fn require(what: &str, path: &Path, needed: Space) -> Result<()> {
        let free = Self::free(path)?;
        let enough = |free: Option<u64>, needed: Option<u64>| {
            free.is_none_or(|free| needed.is_none_or(|needed| needed <= free))
        };
        if needed.bytes <= free.bytes && enough(free.inodes, needed.inodes) {
            return Ok(());
        }
        // In a chroot the mount may not be visible; what is free is known nevertheless.
        let mountpoint = Mounts::read()?.on(path).ok().map(|mount| mount.mountpoint.clone());
        Err(NoSpace { what: what.to_owned(), path: path.to_owned(), mountpoint, needed, free }
            .into())
    }
}

/// Too little is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSpace {
    pub what: String,
    pub path: PathBuf,
    pub mountpoint: Option<PathBuf>,
    pub needed: Space,
    pub free: Space,
}

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let at = self.mountpoint.as_ref().map(|at| format!(" (mounted at {})", at.display()));
        let (needed, free) = match (self.needed.inodes, self.free.inodes) {
            (Some(needed), Some(free)) if needed > free => {
                (format!("{needed} inodes"), format!("{free}"))
            }
            _ => (human(self.needed.bytes), human(self.free.bytes)),
        };
        write!(
            f,
            "{} needs {needed}, but only {free} is free on {path}{}; free some space, or use another folder",
            self.what,
            at.unwrap_or_default()
        )
    }
}

impl std::error::Error for NoSpace {}

/// Formats a size: `0 B`, `1023 B`, `1.5 KiB`, `3.2 GiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // 1023.96 KiB would round to 1024.0 KiB: that is 1.0 MiB.
    let mut power = (bytes.ilog2() / 10) as usize;
    let tenths = |power: usize| (u128::from(bytes) * 10 + (1 << (10 * power - 1))) >> (10 * power);
    if tenths(power) >= 10_240 && power < UNITS.len() {
        power += 1;
    }
    let tenths = tenths(power);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_048_576, "1.0 MiB"),
            (3_435_973_837, "3.2 GiB"),
            (u64::MAX, "16.0 EiB"),
            (1_152_921_504_606_846_975, "1.0 EiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let free = Space::free(Path::new("/")).unwrap();
        assert!(free.bytes > 0);
        Space::require("a test", Path::new("/"), Space { bytes: 1, inodes: Some(1) }).unwrap();
        let error =
            Space::require("a test", Path::new("/"), Space { bytes: 1 << 60, inodes: None })
                .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("a test needs 1.0 EiB, ")
                && text.contains("is free on / (mounted at /); free some space"),
            "{text}"
        );
        assert_eq!(crate::reason(&error), Some("no_space"));
        if free.inodes.is_some() {
            let error = Space::require(
                "a test",
                Path::new("/"),
                Space { bytes: 1, inodes: Some(u64::MAX) },
            )
            .unwrap_err();
            assert!(
                error.to_string().starts_with("a test needs 18446744073709551615 inodes, "),
                "{error}"
            );
        }
    }
}
