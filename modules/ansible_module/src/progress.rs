//! Shows the progress of a long task: one line in a file next to the binary, which the controller reads.
//!
//! The controller chooses the name of the file (`_ansible_reversible_progress`), which it must know before
//! the run starts; the folder is the cache that this binary was started from. Invariants: an error here
//! never reaches the task; after the end there is no file.

use crate::censor;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

static PROGRESS_FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Replaces the progress line; secrets in it are censored. More than one line a second is of no use.
pub fn report(line: &str) {
    if let Ok(to) = PROGRESS_FILE.lock() {
        if let Some(path) = &*to {
            let _ = write(path, &censor::line(line));
        }
    }
}

/// Writes lines to the file of that name from now on, if the name is valid.
pub(crate) fn begin(name: &str) {
    if let (Ok(mut to), Some(folder)) = (PROGRESS_FILE.lock(), folder()) {
        *to = path_of(&folder, name);
    }
}

/// Removes the file. It does not wait for the lock, which a thread that panicked may hold.
pub(crate) fn end() {
    if let Ok(mut to) = PROGRESS_FILE.try_lock() {
        if let Some(path) = to.take() {
            let _ = fs::remove_file(path);
        }
    }
}

fn folder() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_path_buf)
}

/// Returns the path for a name of sixteen hex digits; no other name is accepted, so none leads elsewhere.
fn path_of(folder: &Path, name: &str) -> Option<PathBuf> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let good = name.len() == 16 && name.bytes().all(hex);
    good.then(|| folder.join(format!(".progress-{name}")))
}

/// Replaces the file atomically, since it may be read at any moment.
fn write(path: &Path, line: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let line: String =
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect();
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(line.as_bytes())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_exists_until_the_end() {
        begin("0123456789abcdef");
        report("half\tof it");
        report("copying a\nb");
        let path = folder().unwrap().join(".progress-0123456789abcdef");
        assert_eq!(fs::read_to_string(&path).unwrap(), "copying a b\n");
        end();
        report("too late");
        assert!(!path.exists() && !path.with_extension("new").exists());
    }

    #[test]
    fn no_name_leads_elsewhere() {
        let odd =
            ["", "0123456789abcde", "0123456789abcdeF", "../3456789abcdef", "0123456789abcdef0"];
        assert!(odd.iter().all(|name| path_of(Path::new("/x"), name).is_none()));
    }
}
