//! `disk`: a filesystem has free space, and is not much fuller than before the deploy.
//!
//! Invariant: the share is that of `df`, of blocks or of inodes, whichever is higher; blocks reserved for
//! root do not count as free.

use crate::bounds::Bounds;
use crate::observation::{Ask, Observation, Try};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use rustix::fs::statvfs;
use std::path::{Path, PathBuf};

const DEFAULT: f64 = 0.9;

pub struct Disk {
    path: PathBuf,
    /// Whether the nearest existing parent is checked while the path does not exist.
    nearest: bool,
    max: f64,
    /// Bounds for the change since the baseline.
    bounds: Bounds,
}

impl Disk {
    pub fn parse(options: &mut ProbeOptions) -> Result<Disk, Failure> {
        let path = options.absolute("path")?;
        let path = path.ok_or_else(|| options.refuse("kind disk needs path".to_owned()))?;
        let mut bounds = Bounds::parse_upper(options)?;
        // Checked here and not by `bounds`, for a message in percent.
        let max = bounds.max.take().unwrap_or(DEFAULT);
        if !(0.0..=1.0).contains(&max) {
            let msg = format!("expected a share from 0 to 1, such as {DEFAULT}, got {max}");
            return Err(options.bad("max", msg));
        }
        Ok(Disk { path, nearest: options.take("nearest")?.unwrap_or_default(), max, bounds })
    }
}

impl Ask for Disk {
    // A dead network filesystem can block this call for ever; the gate does not wait for it.
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let place = if self.nearest { nearest_existing(&self.path) } else { &self.path };
        let path = place.display();
        let stat = statvfs(place)
            .map_err(|why| format!("cannot read the usage of the filesystem of {path}: {why}"))?;
        let blocks = share(stat.f_blocks, stat.f_bfree, stat.f_bavail);
        let inodes = share(stat.f_files, stat.f_ffree, stat.f_favail);
        let Some(blocks) = blocks else {
            return Err(format!("{path} is on a filesystem that reports no size"));
        };
        let inodes = inodes.unwrap_or_default();
        let fullest = blocks.max(inodes);
        let value = (fullest * 1e4).round() / 1e4;
        let answer = format!("{} of the space, {} of the inodes", percent(blocks), percent(inodes));
        let verdict = match fullest <= self.max {
            true => self.bounds.hold(value, now.before).map_err(|why| format!("{path}: {why}")),
            false => Err(format!("{path} is fuller than {}: {answer}", percent(self.max))),
        };
        Ok(Observation::new(answer).value(value).judged(verdict))
    }
}

/// The path, or its nearest parent that exists.
fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

/// The used share of what ordinary users can use.
fn share(all: u64, free: u64, available: u64) -> Option<f64> {
    let used = all.saturating_sub(free);
    let whole = used.saturating_add(available);
    (all > 0).then(|| if whole == 0 { 1.0 } else { used as f64 / whole as f64 })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_df() {
        assert_eq!(share(100, 40, 20), Some(0.75));
        assert_eq!(share(100, 100, 100), Some(0.0));
        assert_eq!(share(100, 5, 0), Some(1.0));
        assert_eq!(share(0, 0, 0), None);
        assert_eq!(percent(0.9), "90.0 %");
    }

    #[test]
    fn the_nearest_existing_parent_is_found() {
        assert_eq!(nearest_existing(Path::new("/proc/self/no/such")), Path::new("/proc/self"));
        assert_eq!(nearest_existing(Path::new("/proc")), Path::new("/proc"));
    }
}
