//! Finding a program: PATH, then the folders that PATH lacks in a login without a shell (sbin above all).
//!
//! Invariant: what is found is an absolute path; empty and relative PATH entries are passed over, so that the current folder is never
//! searched.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Searched after PATH. `pct`, `zfs` and `haproxy` live in sbin, which is not on the PATH of an ssh command.
const ALSO: [&str; 6] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

/// The absolute path of `name`, or [`Missing`] with all the folders that were looked into.
pub fn find(name: &str) -> Result<PathBuf, Missing> {
    find_in(name, search_path())
}

/// PATH's absolute folders, then those of [`ALSO`] that are not among them.
pub fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&path).chain(ALSO.iter().map(PathBuf::from)) {
        if folder.is_absolute() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// The same as one value for a child's environment.
pub(crate) fn search_path_value() -> OsString {
    std::env::join_paths(search_path()).unwrap_or_else(|_| ALSO.join(":").into())
}

fn find_in(name: &str, folders: Vec<PathBuf>) -> Result<PathBuf, Missing> {
    let missing = |folders| Missing { name: name.to_owned(), folders };
    if name.contains('/') {
        let path = Path::new(name);
        return match which::which_in(path, None::<&str>, "/") {
            Ok(found) if path.is_absolute() => Ok(found),
            _ => Err(missing(Vec::new())),
        };
    }
    let Ok(joined) = std::env::join_paths(&folders) else {
        return Err(missing(folders));
    };
    which::which_in(name, Some(joined), "/").map_err(|_| missing(folders))
}

/// No such program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub name: String,
    pub folders: Vec<PathBuf>,
}

impl Missing {
    pub fn reason(&self) -> &'static str {
        "program_missing"
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.folders.is_empty() {
            return write!(
                f,
                "cannot run {}: no such program (an absolute path, or a plain name, is needed)",
                self.name
            );
        }
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.to_string_lossy()).collect();
        write!(
            f,
            "cannot run {}: not found in {}; install it, or add its folder to PATH",
            self.name,
            folders.join(", ")
        )
    }
}

impl std::error::Error for Missing {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn finds_what_is_there() {
        assert!(find("sh").unwrap().is_absolute());
        assert_eq!(find("/bin/sh").unwrap(), Path::new("/bin/sh"));
        let path = search_path();
        assert!(path.iter().any(|folder| folder == Path::new("/usr/sbin")));
        let mut unique = path.clone();
        unique.dedup();
        assert_eq!(unique, path);
    }

    #[test]
    fn earlier_folders_win_and_files_must_be_executable() {
        let temp = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| temp.path().join(name));
        for (folder, mode) in [(&a, 0o644), (&b, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(folder.join("tool"), PermissionsExt::from_mode(mode)).unwrap();
        }
        assert_eq!(find_in("tool", vec![a.clone(), b.clone()]).unwrap(), b.join("tool"));
        std::fs::set_permissions(a.join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find_in("tool", vec![a.clone(), b]).unwrap(), a.join("tool"));
    }

    #[test]
    fn says_where_it_looked() {
        let error = find("no-such-tool-here").unwrap_err();
        assert_eq!(error.reason(), "program_missing");
        let text = error.to_string();
        assert!(
            text.starts_with("cannot run no-such-tool-here: not found in /")
                && text.contains("/usr/sbin"),
            "{text}"
        );
        for name in ["/no/such", "bin/sh", "./sh", ""] {
            assert!(find(name).is_err(), "{name}");
        }
    }
}
