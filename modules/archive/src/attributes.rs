//! Extended attributes, with those that hold ACLs, capabilities and labels.
//!
//! Invariant: a file that is open is addressed by its descriptor; what cannot be opened (links, pipes,
//! devices), by the descriptor's name in /proc, which leads to that very entry and is not followed any
//! further.

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr, setxattr,
};
use rustix::io::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kernel's limit for one value, and for all names of a file together.
const LARGEST: usize = 64 << 10;

pub type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// A descriptor, and whether its file could be opened.
#[derive(Clone, Copy, Debug)]
pub enum Handle<'a> {
    Open(BorrowedFd<'a>),
    /// Opened with O_PATH only.
    Path(BorrowedFd<'a>),
}

impl Handle<'_> {
    fn proc(fd: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    fn list(self, into: &mut [u8]) -> Result<usize> {
        match self {
            Handle::Open(fd) => flistxattr(fd, into),
            Handle::Path(fd) => listxattr(Handle::proc(fd), into),
        }
    }

    fn get(self, name: &[u8], into: &mut [u8]) -> Result<usize> {
        match self {
            Handle::Open(fd) => fgetxattr(fd, name, into),
            Handle::Path(fd) => getxattr(Handle::proc(fd), name, into),
        }
    }

    fn set(self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Handle::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Handle::Path(fd) => setxattr(Handle::proc(fd), name, value, XattrFlags::empty()),
        }
    }
}

/// Reads all attributes; there are none where the file system does not support them.
pub fn read(handle: Handle<'_>) -> Result<Attributes> {
    // Most files have none, and then this is the only call.
    let names = match read_growing(|into| handle.list(into)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match read_growing(|into| handle.get(name, into)) {
            Ok(value) => all.push((name.to_vec(), value)),
            // Removed since the names were listed.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort();
    Ok(all)
}

/// Sets the attributes, and returns the names of those that this file system does not support.
pub fn set(handle: Handle<'_>, attributes: &Attributes) -> Result<Vec<Vec<u8>>> {
    let mut unset = Vec::new();
    for (name, value) in attributes {
        match handle.set(name, value) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => unset.push(name.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(unset)
}

/// Removes the ACLs that a folder inherited from its parent.
pub fn remove_acls(folder: BorrowedFd<'_>) -> Result<()> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match fremovexattr(folder, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads into a buffer of the usual size, then into larger ones. The length is not asked first: for
/// capabilities the kernel answers 0.
fn read_growing(mut ask: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
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
