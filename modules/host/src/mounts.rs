//! What is mounted where, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Invariant: the mount of a path is the one that the kernel uses: it is asked for the mount id
//! (statx(2)), so that a mount on top of another one, or one that hides a parent folder, is
//! distinguished. Only where the kernel does not return it (Linux before 5.8) the longest mount point
//! decides.

mod holders;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};

pub use holders::{
    Census, Filesystem, Holder, Unseen, Usage, User, holders, holders_where, users_of, users_of_any,
};

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    pub parent: u64,
    /// The device number of the filesystem, the same for all its mounts.
    pub dev: (u32, u32),
    /// The folder of the filesystem that is mounted: `/`, except for bind mounts and subvolumes.
    pub root: PathBuf,
    pub mountpoint: PathBuf,
    pub fstype: String,
    /// A device, a dataset's name, `tmpfs`, ...
    pub source: OsString,
    pub options: String,
    /// The options of the filesystem, which are the same for all its mounts: `rw`, ...
    pub super_options: String,
    /// The peer group: what is unmounted on one member is unmounted on all.
    pub shares: Option<u64>,
    /// The peer groups that it is a slave of: what is unmounted there is unmounted here too.
    pub follows: Vec<u64>,
}

/// The mounts of one mount namespace, in the kernel's order: a later one is on top of an earlier one
/// with the same mount point.
#[derive(Clone, Debug)]
pub struct Mounts(Vec<Mount>);

/// The relation of a path's filesystem to that of another path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Both are on one filesystem (dataset, subvolumes of one btrfs): a rollback of one rolls back the
    /// other.
    Same,
    /// Another filesystem, mounted somewhere below the other path's mount: a rollback of that does not
    /// touch it, but it prevents unmounting that.
    Below,
    /// Another filesystem that is not mounted below the other one.
    Apart,
}

impl Mounts {
    /// Reads the mounts of this process's namespace.
    pub fn read() -> Result<Mounts> {
        let bytes = std::fs::read("/proc/self/mountinfo")
            .context("cannot read the mounts from /proc/self/mountinfo")?;
        Self::parse(&bytes).context("cannot understand /proc/self/mountinfo")
    }

    /// Parses mountinfo, as bytes since mount points need not be UTF-8. A line without all its columns is
    /// refused.
    pub fn parse(mountinfo: &[u8]) -> Result<Mounts> {
        let lines = mountinfo.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parsed = lines.map(|line| {
            parse_line(line)
                .with_context(|| format!("malformed line {:?}", String::from_utf8_lossy(line)))
        });
        parsed.collect::<Result<_>>().map(Mounts)
    }

    /// Reads the mounts of the namespace of a process.
    pub fn of_process(pid: u32) -> Result<Mounts> {
        let path = format!("/proc/{pid}/mountinfo");
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&bytes).with_context(|| format!("cannot understand {path}"))
    }

    /// Returns the mount of what a path leads to, also in another namespace, as `/proc/<pid>/cwd` does: by the
    /// kernel's id alone.
    pub fn by_id(&self, path: &Path) -> Option<&Mount> {
        let id = mount_id(path)?;
        self.0.iter().find(|mount| mount.id == id)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Mount> {
        self.0.iter()
    }

    /// Returns the mount that an existing path is on; symbolic links are followed.
    pub fn on(&self, path: &Path) -> Result<&Mount> {
        let real = path
            .canonicalize()
            .with_context(|| format!("cannot tell what {} is mounted on", path.display()))?;
        let by_id = mount_id(&real).and_then(|id| self.0.iter().find(|mount| mount.id == id));
        by_id.or_else(|| self.longest(&real)).with_context(|| {
            format!(
                "cannot tell what {} is mounted on: /proc/self/mountinfo does not show it",
                path.display()
            )
        })
    }

    /// Returns the mount of a path that may not exist yet: that of its nearest existing parent.
    pub fn on_nearest(&self, path: &Path) -> Result<&Mount> {
        let existing = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
        self.on(existing)
    }

    /// Returns the relation of the filesystem of `path` to that of `other`; neither path needs to exist.
    pub fn relation(&self, path: &Path, other: &Path) -> Result<Relation> {
        let (ours, theirs) = (self.on_nearest(path)?, self.on_nearest(other)?);
        if ours.dev == theirs.dev {
            return Ok(Relation::Same);
        }
        let above = self.above(ours).any(|mount| mount.id == theirs.id || mount.dev == theirs.dev);
        Ok(if above { Relation::Below } else { Relation::Apart })
    }

    /// Returns the mounts above a mount, the nearest first. The root mount of a namespace is its own
    /// parent, or has one that is not shown.
    pub fn above<'a>(&'a self, mount: &'a Mount) -> impl Iterator<Item = &'a Mount> {
        let parent = |mount: &&'a Mount| {
            self.0.iter().find(|other| other.id == mount.parent && other.id != mount.id)
        };
        std::iter::successors(parent(&mount), parent).take(self.0.len())
    }

    fn longest(&self, real: &Path) -> Option<&Mount> {
        let beneath = self.0.iter().filter(|mount| real.starts_with(&mount.mountpoint));
        // `max_by_key` returns the last of equals: the mount on top.
        beneath.max_by_key(|mount| mount.mountpoint.components().count())
    }
}

fn mount_id(path: &Path) -> Option<u64> {
    let found = rustix::fs::statx(
        CWD,
        path,
        AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC,
        StatxFlags::MNT_ID,
    )
    .ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// Parses `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; between the
/// sixth column and ` - ` there are any number of optional ones.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let dev = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let dev = (dev.0.parse().ok()?, dev.1.parse().ok()?);
    let [root, mountpoint] =
        [PathBuf::from(unescape(fields.next()?)), PathBuf::from(unescape(fields.next()?))];
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let (mut shares, mut follows) = (None, Vec::new());
    loop {
        let field = fields.next()?;
        let optional = std::str::from_utf8(field).ok().and_then(|text| text.split_once(':'));
        match optional.map(|(kind, group)| (kind, group.parse::<u64>().ok())) {
            Some(("shared", group)) => shares = group,
            Some(("master" | "propagate_from", group)) => follows.extend(group),
            _ if field == b"-" => break,
            _ => {}
        }
    }
    let fstype = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let super_options = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount {
        id,
        parent,
        dev,
        root,
        mountpoint,
        fstype,
        source,
        options,
        super_options,
        shares,
        follows,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Decodes a field: the kernel writes space, tab, newline, `\` and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const SAMPLE: &[u8] = include_bytes!("mounts/mountinfo-sample.txt");

    #[test]
    fn parses_a_real_mountinfo() {
        let mounts = Mounts::parse(SAMPLE).unwrap();
        let find = |mountpoint: &str| {
            mounts.iter().find(|mount| mount.mountpoint == Path::new(mountpoint)).unwrap()
        };
        let odd = find("/mnt/with space\tand\\tab");
        assert_eq!((odd.id, odd.parent, odd.dev, odd.fstype.as_str()), (613, 28, (0, 59), "zfs"));
        assert_eq!(odd.source.as_bytes(), b"tank/my data");
        assert_eq!(find("/srv/bind").root, Path::new("/var/lib/app"));
        assert_eq!(find("/srv/bind").shares, Some(1));
        assert_eq!(find("/srv/bind").follows, [2, 3]);
        assert_eq!((find("/mnt/over").shares, find("/mnt/over").follows.len()), (None, 0));
        assert_eq!(mounts.longest(Path::new("/mnt/over/x")).unwrap().source.as_bytes(), b"upper");
        assert_eq!(mounts.longest(Path::new("/srv/binder")).unwrap().mountpoint, Path::new("/"));
    }

    #[test]
    fn truncated_lines_are_refused() {
        let line = b"36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw";
        assert!(parse_line(line).is_some());
        for end in 0..line.len() - 2 {
            let whole = parse_line(&line[..end]);
            assert!(whole.is_none(), "{end}: {whole:?}");
        }
        assert!(
            Mounts::parse(b"36 35 98:0 / /mnt rw\n")
                .unwrap_err()
                .to_string()
                .contains("malformed line")
        );
    }

    #[test]
    fn octal() {
        assert_eq!(unescape(b"a\\040b\\134\\043\\9\\400\\"), "a b\\#\\9\\400\\");
    }
}
