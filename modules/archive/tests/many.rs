//! Very many files: memory does not grow with them.
//!
//! The trees are in memory, so that the disk is not what is measured. One test for itself, since the highest memory use is that of the whole process. 60,000 files, and a
//! million with REVERSIBLE_LONG set.

#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

mod common;

use archive::{Form, IndexReader, Pass, compare};
use common::*;
use std::fs::{self, File};
use std::path::Path;

fn highest_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn memory_does_not_grow_with_the_files() {
    let (from, to) = (in_memory(), in_memory());
    let count = if std::env::var_os("REVERSIBLE_LONG").is_some() { 1_000_000 } else { 60_000 };
    // Half of them in one folder, where their names must be sorted, and half in many.
    fs::create_dir(from.path().join("flat")).unwrap();
    for n in 0..count / 2 {
        File::create(from.path().join(format!("flat/a-file-with-a-longer-name-{n}"))).unwrap();
        let folder = from.path().join(format!("deep/{}/{}", n % 100, n / 100 % 10));
        if n < 1000 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(n.to_string()), n.to_string()).unwrap();
    }
    let kept = Kept::new(Form::Zstd);
    let captured = kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    assert_eq!(captured.entries, count + 1 + 1 + 1 + 100 + 1000);
    // In memory no change time is trusted, and so all of it goes through the comparison in vain.
    let again = kept.capture(&all(&tree(from.path())), 1, Pass::Last, true);
    assert_eq!(again.copied.entries, captured.entries);
    let counts = kept.restore(to.path()).unwrap();
    assert_eq!(counts.entries, captured.entries);
    let index = IndexReader::new(File::open(kept.index()).unwrap()).unwrap();
    let found = compare(&all(&tree(to.path())), index).unwrap();
    assert!(found.is_empty() && found.same == captured.entries, "{found:?}");
    for n in (0..count / 2).step_by(997) {
        let path = format!("deep/{}/{}/{n}", n % 100, n / 100 % 10);
        assert_eq!(fs::read_to_string(to.path().join(Path::new(&path))).unwrap(), n.to_string());
    }
    assert!(highest_memory() < 100, "{} MiB", highest_memory());
}
