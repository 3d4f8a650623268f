//! Finds programs in PATH, then in the folders that PATH often lacks in an ssh command (above all sbin).
//!
//! Invariants: what is found is an absolute path; empty and relative PATH entries are skipped, so that
//! the current folder is never searched. Root runs no program that another user could change, and passes
//! no such folder on in PATH. A program that the user names by its absolute path is not checked.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;
use nix::unistd::geteuid;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::folder::{self, SafeFolder};

/// Searched after PATH. `pct`, `zfs` and `haproxy` live in sbin, which is not on the PATH of an ssh
/// command.
const ALSO: [&str; 6] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

/// Returns the absolute path of `name`; else [`Missing`] with all folders that were searched, or
/// [`Unsafe`].
pub fn find(name: &str) -> Result<PathBuf> {
    Ok(look(name)??)
}

/// Finds a program that the caller can do without. An unsafe one is still an error: somebody may have put
/// it there for root to run.
pub fn look(name: &str) -> Result<Result<PathBuf, Missing>, Unsafe> {
    look_in(name, search_path())
}

fn look_in(name: &str, folders: Vec<PathBuf>) -> Result<Result<PathBuf, Missing>, Unsafe> {
    let found = find_in(name, folders);
    match &found {
        Ok(path) if geteuid().is_root() && !Path::new(name).is_absolute() => {
            folder::check_program(path).map_err(|error| Unsafe::new(name, path, &error))?;
        }
        _ => {}
    }
    Ok(found)
}

/// Returns PATH's absolute folders, then those of [`ALSO`] that are not among them.
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

/// Returns the value of PATH for commands. For commands of root it has no folder that another user could
/// change, since these commands search it as well.
pub(crate) fn search_path_value() -> OsString {
    static VALUE: OnceLock<OsString> = OnceLock::new();
    let value = || {
        let safe = |folder: &PathBuf| matches!(SafeFolder::find(folder), Ok(Some(_)));
        let folders = search_path().into_iter().filter(|it| !geteuid().is_root() || safe(it));
        std::env::join_paths(folders).unwrap_or_else(|_| ALSO.join(":").into())
    };
    VALUE.get_or_init(value).clone()
}

fn find_in(name: &str, folders: Vec<PathBuf>) -> Result<PathBuf, Missing> {
    let path = Path::new(name);
    let folders = match path.is_absolute() || name.is_empty() || name.contains('/') {
        true => Vec::new(),
        false => folders,
    };
    let found = match path.is_absolute() {
        true => Some(path.to_owned()).filter(|path| is_program(path)),
        false => folders.iter().map(|folder| folder.join(name)).find(|path| is_program(path)),
    };
    found.ok_or_else(|| Missing { name: name.to_owned(), folders })
}

/// Whether it is a file that this process may execute.
fn is_program(path: &Path) -> bool {
    path.is_file() && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// A program that was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub name: String,
    pub folders: Vec<PathBuf>,
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
        let folders = crate::joined(self.folders.iter().map(|folder| folder.to_string_lossy()));
        write!(
            f,
            "cannot run {}: not found in {folders}; install it, or add its folder to PATH",
            self.name
        )
    }
}

impl std::error::Error for Missing {}

/// A program that root must not run, since another user could have put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsafe {
    pub name: String,
    pub path: PathBuf,
    why: String,
}

impl Unsafe {
    fn new(name: &str, path: &Path, error: &anyhow::Error) -> Unsafe {
        let why = match error.downcast_ref::<folder::Unsafe>() {
            Some(it) => format!("{} {}; {}", it.component.display(), it.problem, it.advice),
            None => format!("{error:#}"),
        };
        Unsafe { name: name.to_owned(), path: path.to_owned(), why }
    }
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, path) = (&self.name, self.path.display());
        write!(f, "root must not run {name}, which was found as {path}: {}", self.why)
    }
}

impl std::error::Error for Unsafe {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn finds_existing_programs() {
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
    fn root_runs_nothing_that_another_user_could_have_put_there() {
        assert!(geteuid().is_root(), "are we root?");
        let temp = tempfile::tempdir().unwrap();
        let [safe, theirs, shared] = ["safe", "theirs", "shared"].map(|name| {
            let folder = temp.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(folder.join("tool"), PermissionsExt::from_mode(0o755))
                .unwrap();
            folder
        });
        std::os::unix::fs::chown(&theirs, Some(4301), None).unwrap();
        std::os::unix::fs::chown(&shared, None, Some(4302)).unwrap();
        std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o775)).unwrap();
        let find = |folder: &Path| look_in("tool", vec![folder.to_owned(), safe.clone()]);
        let refused = |folder: &Path, words: &str| {
            let error = find(folder).unwrap_err();
            let begin = format!("root must not run tool, which was found as {}", folder.display());
            let text = error.to_string();
            assert_eq!(crate::reason(&error.into()), Some("unsafe_program"));
            assert!(text.starts_with(&begin) && text.contains(words), "{text}");
            assert!(text.contains("; remove its folder from PATH, or: ch"), "{text}");
        };
        refused(&theirs, "theirs belongs to uid 4301 (mode 0755)");
        refused(&shared, "shared can be written to by its group, gid 4302");
        assert!(find(&safe).unwrap().is_ok());
        // A program that is in no folder of PATH is only missing, and an absolute path is not checked.
        assert!(look_in("other", vec![theirs.clone()]).unwrap().is_err());
        let path = theirs.join("tool");
        assert_eq!(look_in(path.to_str().unwrap(), Vec::new()).unwrap().unwrap(), path);
        // A link of root's to a program of the other user, and one of theirs in a safe folder.
        let linked = temp.path().join("linked");
        std::fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(theirs.join("tool"), linked.join("tool")).unwrap();
        refused(&linked, "theirs belongs to uid 4301");
        std::fs::remove_file(linked.join("tool")).unwrap();
        std::os::unix::fs::symlink("../safe/tool", linked.join("tool")).unwrap();
        assert_eq!(find(&linked).unwrap().unwrap(), linked.join("tool"));
        std::os::unix::fs::chown(safe.join("tool"), Some(4301), None).unwrap();
        refused(&safe, "safe/tool belongs to uid 4301");
    }

    #[test]
    fn the_error_names_the_searched_folders() {
        let error = look("no-such-tool-here").unwrap().unwrap_err();
        let text = error.to_string();
        assert_eq!(crate::reason(&error.into()), Some("program_missing"));
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
