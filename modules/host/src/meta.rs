//! The metadata of a file, a folder, or a link itself, from stat(2).

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    /// Pipe, socket or device.
    Special,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// The bytes allocated on the disk: less than `size` for a file with holes.
    pub allocated: u64,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// The time of the last change of content, owner, mode, attributes or links; nobody can set it.
    pub changed: (i64, u32),
    pub links: u64,
    pub dev: u64,
    pub ino: u64,
    /// The device number of a device file.
    pub rdev: u64,
}

impl Meta {
    /// Reads the metadata of an open file.
    pub fn read(of: impl AsFd) -> io::Result<Meta> {
        Ok(Meta::of(&rustix::fs::fstat(of)?))
    }

    pub(crate) fn of(stat: &Stat) -> Meta {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        // The types of the fields differ between architectures.
        #[allow(clippy::unnecessary_cast)]
        Meta {
            kind,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            allocated: (stat.st_blocks as u64).saturating_mul(512),
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
            links: stat.st_nlink as u64,
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            rdev: stat.st_rdev as u64,
        }
    }

    pub(crate) fn same_file(&self, other: &Meta) -> bool {
        (self.dev, self.ino, self.kind) == (other.dev, other.ino, other.kind)
    }

    /// Whether root or the current user owns it.
    pub(crate) fn is_trusted(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }
}
