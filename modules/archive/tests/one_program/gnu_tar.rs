//! Without this program: GNU tar unpacks the segments, in order, later over earlier; what the index does
//! not name is then removed.

use crate::common::*;
use archive::{Form, IndexReader, Pass};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn unpack(kept: &Kept, number: u32, into: &Path) {
    let segment = File::open(kept.segment(number)).unwrap();
    let mut tar = Command::new("tar");
    // As for a backup by tar itself: without these, it leaves owners and attributes out.
    tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C"]).arg(into);
    tar.env("TZ", "UTC").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut tar = tar.spawn().unwrap();
    let mut to = tar.stdin.take().unwrap();
    let from = std::io::BufReader::new(segment);
    std::io::copy(&mut archive::decode::decoder(from).unwrap(), &mut to).unwrap();
    drop(to);
    let output = tar.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It warns of a time before 1970 that a file system might not take.
    let odd = said.lines().find(|line| !line.contains("implausibly old time stamp"));
    assert!(output.status.success() && odd.is_none(), "{said}");
}

#[test]
fn debian_tar_restores_a_chain() {
    let (from, to) = (folder(), folder());
    let at = |name: &str| from.path().join(name);
    zoo(from.path());
    fs::write(at("goes"), "1").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    for form in [Form::Gzip, Form::Zstd] {
        let kept = Kept::new(form);
        kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
        fs::write(at("a/none"), format!("{form:?}")).unwrap();
        fs::remove_file(at("goes")).unwrap();
        fs::write(at("goes-too"), "x").unwrap();
        kept.capture(&all(&tree(from.path())), 1, Pass::Last, true);
        let into = to.path().join(format!("{form:?}"));
        fs::create_dir(&into).unwrap();
        unpack(&kept, 0, &into);
        assert!(into.join("goes").exists());
        unpack(&kept, 1, &into);
        let mut index = IndexReader::new(File::open(kept.index()).unwrap()).unwrap();
        let mut named = BTreeSet::new();
        while let Some(line) = index.read().unwrap() {
            named.insert(line.path);
        }
        let gone: Vec<_> = look(&into).into_keys().filter(|path| !named.contains(path)).collect();
        assert_eq!(gone, [Path::new("goes")]);
        fs::remove_file(into.join("goes")).unwrap();
        // What is made and removed later moves the time of its folder, which tar sets back only for
        // those that have an entry of their own in the later segment.
        for folder in ["", "a"] {
            let times = File::open(at(folder)).unwrap().metadata().unwrap().modified().unwrap();
            File::open(into.join(folder)).unwrap().set_modified(times).unwrap();
        }
        assert_same(&look(&into), &without_sockets(look(from.path())));
        fs::rename(at("goes-too"), at("goes")).unwrap();
    }
}
