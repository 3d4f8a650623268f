//! A log in a file of this machine: reads its lines since a position.
//!
//! Invariant: a rotated file is read to its end; if that is not possible, because it was truncated or
//! removed, there is an error and no count.

use host::deadline::Deadline;
use host::regular::{self, Links};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The function that is called for each new line of a log.
pub type OnLine<'a> = &'a mut dyn FnMut(&[u8]);

/// Lines that are longer are matched in pieces.
const MAX_LINE: u64 = 1 << 20;
/// How many lines are read between two checks of the deadline.
const LINES_PER_CHECK: u64 = 1024;

pub fn position(inode: u64, size: u64) -> Value {
    json!({ "inode": inode, "size": size })
}

/// The position in a log that is missing: all that is in it later is new.
pub fn nothing() -> Value {
    json!({ "missing": true })
}

pub fn end(path: &Path) -> Result<Value, String> {
    let metadata = metadata_of(path)?;
    Ok(position(metadata.ino(), metadata.len()))
}

fn metadata_of(path: &Path) -> Result<fs::Metadata, String> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|why| match why.kind() {
        ErrorKind::NotFound => format!("there is no log {shown}"),
        _ => format!("cannot look at the log {shown}: {why}"),
    })?;
    regular(path, &metadata).map(|()| metadata)
}

/// Refuses other files: a pipe would block, and opening a device may have effects.
fn regular(path: &Path, metadata: &fs::Metadata) -> Result<(), String> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(format!("the log {} is not a regular file", path.display())),
    }
}

/// The position to read from, if it is the same file and was not truncated.
pub fn grown(path: &Path, was: &Value, is: &Value) -> Result<u64, String> {
    let number = |position: &Value, key: &str| position[key].as_u64();
    let (Some(from), Some(inode)) = (number(was, "size"), number(was, "inode")) else {
        return Err("the baseline's position in the log is not one of a file".to_owned());
    };
    let shown = path.display();
    if number(is, "inode") != Some(inode) {
        return Err(format!(
            "{shown} was replaced by another file since the baseline: take a new baseline"
        ));
    }
    if number(is, "size") < Some(from) {
        return Err(format!(
            "{shown} was truncated since the baseline, and its lines are lost: take a new baseline"
        ));
    }
    Ok(from)
}

pub fn read_since(
    path: &Path,
    was: &Value,
    deadline: Deadline,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), String> {
    if *was == nothing() {
        return match path.exists() {
            true => read(path, 0, deadline, each),
            false => Ok(()),
        };
    }
    let is = end(path)?;
    // The name that logrotate gives it.
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(".1");
    let rotated = Path::new(&rotated);
    if was["inode"] != is["inode"] && end(rotated).is_ok_and(|old| old["inode"] == was["inode"]) {
        let from = grown(rotated, was, &end(rotated)?)?;
        read(rotated, from, deadline, each)?;
        return read(path, 0, deadline, each);
    }
    read(path, grown(path, was, &is)?, deadline, each)
}

fn read(
    path: &Path,
    from: u64,
    deadline: Deadline,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), String> {
    let shown = path.display();
    let failed = |why: std::io::Error| format!("cannot read the log {shown}: {why}");
    // Opened without blocking: its owner may have put a pipe there since the check.
    let mut file = regular::open(path, Links::Follow).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    // Only to its present end, since it may grow faster than it is read.
    let end = metadata.len();
    let mut reader = BufReader::with_capacity(256 << 10, file.take(end.saturating_sub(from)));
    let mut line = Vec::new();
    for count in 0.. {
        if count % LINES_PER_CHECK == 0 {
            host::interrupt::check().map_err(|why| why.to_string())?;
            if deadline.passed() {
                return Err(format!("{shown} has more new lines than can be read in time"));
            }
        }
        line.clear();
        let length = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if length == 0 {
            break;
        }
        each(line.strip_suffix(b"\n").unwrap_or(&line));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn lines(path: &Path, was: &Value) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        let deadline = Deadline::after(Duration::from_secs(5));
        read_since(path, was, deadline, &mut |line| {
            all.push(String::from_utf8_lossy(line).into())
        })?;
        Ok(all)
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn only_new_lines_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(end(&path).unwrap_err().starts_with("there is no log "));
        assert_eq!(lines(&path, &nothing()).unwrap(), [""; 0]);
        append(&path, "old\n");
        assert_eq!(lines(&path, &nothing()).unwrap(), ["old"]);
        let was = end(&path).unwrap();
        assert_eq!(lines(&path, &was).unwrap(), [""; 0]);
        append(&path, "new\n\nunfinished");
        assert_eq!(lines(&path, &was).unwrap(), ["new", "", "unfinished"]);
        assert!(end(folder.path()).unwrap_err().contains("not a regular file"));
        assert!(lines(&path, &json!({"cursor": "x"})).is_err());
    }

    #[test]
    fn rotated_truncated_and_replaced_files() {
        let folder = tempfile::tempdir().unwrap();
        let [path, rotated] = ["log", "log.1"].map(|name| folder.path().join(name));
        append(&path, "old\n");
        let was = end(&path).unwrap();
        append(&path, "before\n");
        fs::rename(&path, &rotated).unwrap();
        append(&path, "after\n");
        assert_eq!(lines(&path, &was).unwrap(), ["before", "after"]);
        fs::rename(&rotated, folder.path().join("log.2")).unwrap();
        assert!(lines(&path, &was).unwrap_err().contains("another file"));
        let was = end(&path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
        assert!(lines(&path, &was).unwrap_err().contains("was truncated"));
    }

    #[test]
    fn a_pipe_that_replaced_the_file_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o700.into(), 0)
            .unwrap();
        let deadline = Deadline::after(Duration::from_secs(5));
        let refused = read(&path, 0, deadline, &mut |_| {}).unwrap_err();
        assert!(refused.contains("is not a regular file"), "{refused}");
    }

    #[test]
    fn an_endless_line_is_read_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, "");
        let was = end(&path).unwrap();
        append(&path, &"x".repeat(3 * MAX_LINE as usize / 2));
        assert_eq!(lines(&path, &was).unwrap().len(), 2);
    }
}
