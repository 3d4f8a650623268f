//! What a long task is at, for whoever watches it run: one line in a file beside the binary.
//!
//! The controller chooses the name of the file (`_ansible_reversible_progress`), since it knows of this
//! run before we do; the folder is ours: the cache that this binary was started from.
//! Invariants: nothing that goes wrong here reaches the task; after the end there is no file.

use crate::censor;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

static TO: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The line takes the place of the one before; secrets in it are replaced. Telling more often than once a second is of no use to anybody.
pub fn report(line: &str) {
    if let Ok(to) = TO.lock() {
        if let Some(path) = &*to {
            let _ = write(path, &censor::line(line));
        }
    }
}

/// From here on lines go to the file of that name, if it can be one.
pub(crate) fn begin(name: &str) {
    if let (Ok(mut to), Some(folder)) = (TO.lock(), folder()) {
        *to = path_of(&folder, name);
    }
}

/// Nobody waits here: a thread that panicked may hold the lock.
pub(crate) fn end() {
    if let Ok(mut to) = TO.try_lock() {
        if let Some(path) = to.take() {
            let _ = fs::remove_file(path);
        }
    }
}

fn folder() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_path_buf)
}

/// Sixteen hex digits, so that no name leads elsewhere.
fn path_of(folder: &Path, name: &str) -> Option<PathBuf> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let good = name.len() == 16 && name.bytes().all(hex);
    good.then(|| folder.join(format!(".progress-{name}")))
}

/// Whole or not at all: it is read at any moment.
fn write(path: &Path, line: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let line: String =
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect();
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(line.as_bytes())?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_there_until_the_end() {
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
