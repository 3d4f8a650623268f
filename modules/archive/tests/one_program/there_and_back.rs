//! What was captured comes back: byte for byte, with all that stat and getxattr can see.

use crate::common::*;
use archive::{Form, IndexReader, Pass, Source, compare};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn differences(kept: &Kept, root: &Path) -> archive::Differences {
    let index = IndexReader::new(File::open(kept.index()).unwrap()).unwrap();
    compare(&all(&tree(root)), index).unwrap()
}

#[test]
fn everything_of_everything() {
    let (from, to) = (folder(), folder());
    zoo(from.path());
    fs::set_permissions(from.path(), PermissionsExt::from_mode(0o1751)).unwrap();
    settle(from.path());
    let before = look(from.path());
    for form in [Form::Zstd, Form::Gzip] {
        let kept = Kept::new(form);
        let captured = kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
        assert_eq!(captured.sockets.first, [PathBuf::from("socket")]);
        assert_eq!((captured.vanished, captured.unstable.count), (0, 0));
        assert_eq!(captured.entries, before.len() as u64);
        assert_eq!(captured.copied.entries, captured.entries - 1);
        let into = to.path().join(format!("{form:?}"));
        fs::create_dir(&into).unwrap();
        // It gives its ACL to what is made in it, and so it must be taken away first.
        attribute(&into, "system.posix_acl_default", &acl());
        let counts = kept.restore(&into).unwrap();
        assert_eq!((counts.entries, counts.unset.count), (captured.entries - 1, 0));
        assert_same(&look(&into), &without_sockets(before.clone()));
        assert!(allocated(&into) <= allocated(from.path()) + (64 << 10), "the holes are filled");
        let differences = differences(&kept, &into);
        assert!(differences.is_empty() && differences.same == counts.entries, "{differences:?}");
    }
    // Reading has changed nothing.
    assert_same(&look(from.path()), &before);
}

#[test]
fn only_what_changed_is_copied() {
    let (from, to) = (folder(), folder());
    zoo(from.path());
    let at = |name: &str| from.path().join(name);
    fs::write(at("grows"), "1").unwrap();
    fs::write(at("goes"), "1").unwrap();
    fs::write(at("same-size"), "1").unwrap();
    // Changes just before a look are never trusted.
    std::thread::sleep(Duration::from_millis(2100));
    let kept = Kept::new(Form::Zstd);
    let first = kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    let second = kept.capture(&all(&tree(from.path())), 1, Pass::Last, true);
    assert_eq!((second.copied.entries, second.used), (0, first.used.clone()));
    let modified = fs::metadata(at("same-size")).unwrap().modified().unwrap();
    fs::write(at("same-size"), "2").unwrap();
    File::open(at("same-size")).unwrap().set_modified(modified).unwrap();
    fs::write(at("grows"), "12").unwrap();
    fs::remove_file(at("goes")).unwrap();
    fs::remove_file(at("z-other")).unwrap();
    fs::rename(at("a-b"), at("moved")).unwrap();
    fs::create_dir(at("z-other")).unwrap();
    fs::write(at("z-other/new"), "new").unwrap();
    fs::set_permissions(at("a/setuid"), PermissionsExt::from_mode(0o4711)).unwrap();
    attribute(&at("a/none"), "user.empty", b"no more");
    settle(&at("z-other"));
    let third = kept.capture(&all(&tree(from.path())), 2, Pass::Last, true);
    // The root, a/file and a/b/third that lost a name, and those above: a/none, a/setuid, grows, moved,
    // same-size, z-other, z-other/new.
    assert_eq!(third.copied.entries, 10, "{third:?}");
    assert_eq!(third.used.keys().copied().collect::<Vec<_>>(), [0, 2]);
    kept.restore(to.path()).unwrap();
    assert_same(&look(to.path()), &without_sockets(look(from.path())));
}

#[test]
fn the_last_pass_copies_what_changed_after_the_first() {
    let (from, to) = (folder(), folder());
    let at = |name: &str| from.path().join(name);
    for file in ["cold", "hot", "goes"] {
        fs::write(at(file), vec![1; 1 << 20]).unwrap();
    }
    fs::hard_link(at("hot"), at("other")).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    fs::write(at("young"), "young").unwrap();
    let kept = Kept::new(Form::Zstd);
    let first = kept.capture(&all(&tree(from.path())), 0, Pass::First, false);
    // The root and "young" have changed too shortly before.
    assert_eq!((first.copied.entries, first.copied.bytes), (4, 3 << 20));
    File::options().write(true).open(at("hot")).unwrap().write_all_at(b"hot", 5).unwrap();
    fs::remove_file(at("goes")).unwrap();
    let last = kept.capture(&all(&tree(from.path())), 1, Pass::Last, true);
    assert_eq!((last.copied.entries, last.copied.bytes), (4, (1 << 20) + 5));
    assert_eq!(last.used[&0].bytes, 1 << 20);
    kept.restore(to.path()).unwrap();
    assert_same(&look(to.path()), &look(from.path()));
}

#[test]
fn one_file_and_what_is_left_out() {
    let (from, to) = (folder(), folder());
    zoo(from.path());
    let (tree, kept) = (tree(from.path()), Kept::new(Form::Gzip));
    let one = Source { only: Some(OsStr::new("sparse")), ..all(&tree) };
    assert_eq!(kept.capture(&one, 0, Pass::Last, false).entries, 1);
    kept.restore(to.path()).unwrap();
    let (all_seen, came) = (look(from.path()), look(to.path()));
    assert_eq!(came[Path::new("sparse")], all_seen[Path::new("sparse")]);
    assert_eq!(came.len(), 2);
    let kept = Kept::new(Form::Zstd);
    let leave_out = ["a", "null", "z-other"].map(PathBuf::from);
    let some = Source { leave_out: &leave_out, ..all(&tree) };
    kept.capture(&some, 0, Pass::Last, false);
    let to = folder();
    kept.restore(to.path()).unwrap();
    let out = |path: &&PathBuf| leave_out.iter().any(|out| path.starts_with(out));
    let expected = without_sockets(all_seen);
    assert!(look(to.path()).keys().eq(expected.keys().filter(|path| !out(path))));
    let index = IndexReader::new(File::open(kept.index()).unwrap()).unwrap();
    let found = compare(&all(&tree), index).unwrap();
    assert_eq!(found.added.count as usize, expected.keys().filter(out).count());
    assert_eq!((found.missing.count, found.changed.count), (0, 0));
}

/// By this process: its other tests count, too, and move little.
fn read_and_written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let count = |name: &str| -> u64 {
        io.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    count("rchar:") + count("wchar:")
}

/// Ten GB, and hardly anything in them: neither is read through, nor written through.
#[test]
fn the_holes_of_a_large_file_cost_nothing() {
    let (from, to) = (folder(), folder());
    let file = File::create(from.path().join("holes")).unwrap();
    file.set_len(10_000_000_000).unwrap();
    for place in [1_u64 << 30, 9_000_000_000] {
        file.write_all_at(b"data", place).unwrap();
    }
    let kept = Kept::new(Form::Zstd);
    let before = read_and_written();
    let captured = kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    kept.restore(to.path()).unwrap();
    let moved = read_and_written() - before;
    assert!(moved < 1 << 30, "{moved} bytes were read and written");
    assert!(captured.copied.bytes <= 2 << 16 && captured.bytes == 10_000_000_000);
    let file = File::open(to.path().join("holes")).unwrap();
    for place in [1_u64 << 30, 9_000_000_000] {
        let mut bytes = [1; 6];
        file.read_exact_at(&mut bytes, place - 1).unwrap();
        assert_eq!(&bytes, b"\0data\0");
    }
    assert_eq!(file.metadata().unwrap().len(), 10_000_000_000);
    assert!(allocated(to.path()) <= 2 << 16);
}
