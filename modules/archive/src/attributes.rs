//! Extended attributes, with those that hold ACLs, capabilities and labels.
//!
//! Invariant: what is open is asked, by its descriptor; for what cannot be opened (links, pipes,
//! devices) by the descriptor's name in /proc, which leads to the very same thing and is not followed
//! any further.

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr, setxattr,
};
use rustix::io::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Of one value, and of all names together.
const LARGEST: usize = 64 << 10;

pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// How something is held.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    Open(BorrowedFd<'a>),
    /// By O_PATH.
    Path(BorrowedFd<'a>),
}

impl Held<'_> {
    fn proc(fd: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    fn list(self, into: &mut [u8]) -> Result<usize> {
        match self {
            Held::Open(fd) => flistxattr(fd, into),
            Held::Path(fd) => listxattr(Held::proc(fd), into),
        }
    }

    fn get(self, name: &[u8], into: &mut [u8]) -> Result<usize> {
        match self {
            Held::Open(fd) => fgetxattr(fd, name, into),
            Held::Path(fd) => getxattr(Held::proc(fd), name, into),
        }
    }

    fn set(self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Held::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Held::Path(fd) => setxattr(Held::proc(fd), name, value, XattrFlags::empty()),
        }
    }
}

/// All of them; none where the file system has none.
pub fn read(held: Held<'_>) -> Result<Attributes> {
    // Nearly nothing has any, and then this is the only call.
    let names = match grown(|into| held.list(into)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match grown(|into| held.get(name, into)) {
            Ok(value) => all.push((name.to_vec(), value)),
            // Taken away meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort();
    Ok(all)
}

/// Sets them. The names of those that this file system does not take come back.
pub fn set(held: Held<'_>, attributes: &Attributes) -> Result<Vec<Vec<u8>>> {
    let mut left = Vec::new();
    for (name, value) in attributes {
        match held.set(name, value) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => left.push(name.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

/// Takes the ACLs away that a folder was given by the one that it was made in.
pub fn without_acl(folder: BorrowedFd<'_>) -> Result<()> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match fremovexattr(folder, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Asks with room for what is usual, then with more. Not for the length first: of capabilities the
/// kernel says that they have none.
fn grown(mut ask: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut length = 256;
    loop {
        let mut value = vec![0; length];
        match ask(&mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::RANGE) if length <= LARGEST => length *= 4,
            Err(error) => return Err(error),
        }
    }
}
