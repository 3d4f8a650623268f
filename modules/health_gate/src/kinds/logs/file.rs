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

/// What is done with each new line of a log.
pub type Each<'a> = &'a mut dyn FnMut(&[u8]);

/// A longer line is matched in pieces.
const LONGEST_LINE: u64 = 1 << 20;
/// How many lines are read between two checks of the deadline.
const BETWEEN_LOOKS: u64 = 1024;

pub fn place(inode: u64, size: u64) -> Value {
    json!({ "inode": inode, "size": size })
}

pub fn here(path: &Path) -> Result<Value, String> {
    let metadata = look(path)?;
    Ok(place(metadata.ino(), metadata.len()))
}

fn look(path: &Path) -> Result<fs::Metadata, String> {
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
    let number = |place: &Value, key: &str| place[key].as_u64();
    let (Some(from), Some(inode)) = (number(was, "size"), number(was, "inode")) else {
        return Err("the place in the log is none of a file".to_owned());
    };
    let shown = path.display();
    if number(is, "inode") != Some(inode) {
        return Err(format!("{shown} is another file than it was: take a new baseline"));
    }
    if number(is, "size") < Some(from) {
        return Err(format!("{shown} was cut, and what it held is gone: take a new baseline"));
    }
    Ok(from)
}

pub fn since(
    path: &Path,
    was: &Value,
    deadline: Deadline,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), String> {
    let is = here(path)?;
    // The name that logrotate gives it.
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(".1");
    let rotated = Path::new(&rotated);
    if was["inode"] != is["inode"] && here(rotated).is_ok_and(|old| old["inode"] == was["inode"]) {
        let from = grown(rotated, was, &here(rotated)?)?;
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
    // Its owner may have put a pipe there since the check.
    let mut file = regular::open(path, Links::Follow).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    // Only to its present end, since it may grow faster than it is read.
    let end = metadata.len();
    let mut reader = BufReader::with_capacity(256 << 10, file.take(end.saturating_sub(from)));
    let mut line = Vec::new();
    for count in 0.. {
        if count % BETWEEN_LOOKS == 0 {
            host::interrupt::check().map_err(|why| why.to_string())?;
            if deadline.passed() {
                return Err(format!("{shown} has more new lines than can be read in time"));
            }
        }
        line.clear();
        let length =
            (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed)?;
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
        since(path, was, deadline, &mut |line| all.push(String::from_utf8_lossy(line).into()))?;
        Ok(all)
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn only_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(here(&path).unwrap_err().starts_with("there is no log "));
        append(&path, "old\n");
        let was = here(&path).unwrap();
        assert_eq!(lines(&path, &was).unwrap(), [""; 0]);
        append(&path, "new\n\nunfinished");
        assert_eq!(lines(&path, &was).unwrap(), ["new", "", "unfinished"]);
        assert!(here(folder.path()).unwrap_err().contains("not a regular file"));
        assert!(lines(&path, &json!({"cursor": "x"})).is_err());
    }

    #[test]
    fn rotated_cut_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [path, rotated] = ["log", "log.1"].map(|name| folder.path().join(name));
        append(&path, "old\n");
        let was = here(&path).unwrap();
        append(&path, "before\n");
        fs::rename(&path, &rotated).unwrap();
        append(&path, "after\n");
        assert_eq!(lines(&path, &was).unwrap(), ["before", "after"]);
        fs::rename(&rotated, folder.path().join("log.2")).unwrap();
        assert!(lines(&path, &was).unwrap_err().contains("another file"));
        let was = here(&path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
        assert!(lines(&path, &was).unwrap_err().contains("was cut"));
    }

    #[test]
    fn a_pipe_put_there_since_it_was_looked_at_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o700.into(), 0)
            .unwrap();
        let deadline = Deadline::after(Duration::from_secs(5));
        let refused = read(&path, 0, deadline, &mut |_| {}).unwrap_err();
        assert!(refused.contains("is not a regular file"), "{refused}");
    }

    #[test]
    fn a_line_without_end_is_read_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, "");
        let was = here(&path).unwrap();
        append(&path, &"x".repeat(3 * LONGEST_LINE as usize / 2));
        assert_eq!(lines(&path, &was).unwrap().len(), 2);
    }
}
