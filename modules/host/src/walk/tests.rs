//! The walk, with and without openat2(2), while the owner of the tree interferes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use rustix::fs::{RenameFlags, renameat_with};

use super::*;

fn trees(root: &Path, mounts: Mounts) -> [Tree; 2] {
    let [tree, other] = [(); 2].map(|()| Tree::open(root, mounts).unwrap());
    [tree, Tree { root: other.root.stepwise(), ..other }]
}

fn paths(tree: &Tree) -> BTreeSet<PathBuf> {
    tree.walk().map(|entry| entry.unwrap().path).collect()
}

#[test]
fn every_entry_is_yielded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/file"), "content").unwrap();
    symlink("/etc", at("a/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o700.into(), 0)
        .unwrap();
    let odd = std::ffi::OsString::from_vec(b"\xff\n \\\x01".to_vec());
    fs::write(dir.path().join(&odd), "odd").unwrap();
    for tree in trees(dir.path(), Mounts::Refuse) {
        let expected = ["a", "a/b", "a/b/c", "a/file", "a/link", "pipe"].map(PathBuf::from);
        assert_eq!(paths(&tree), expected.into_iter().chain([PathBuf::from(&odd)]).collect());
        let order: Vec<_> = tree.walk().map(|entry| entry.unwrap().path).collect();
        let place = |name: &str| order.iter().position(|path| path == Path::new(name)).unwrap();
        assert!(place("a") < place("a/b") && place("a/b") < place("a/b/c"));
        let entry = |name: &str| tree.entry(Path::new(name)).unwrap();
        let mut text = String::new();
        tree.open_file(&entry("a/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), entry("a/file").meta.size), ("content", 7));
        assert_eq!(tree.read_link(&entry("a/link")).unwrap(), Path::new("/etc"));
        assert_eq!(
            (entry("pipe").meta.kind, entry("a/link").meta.kind),
            (Kind::Special, Kind::Link)
        );
        for name in ["pipe", "a", "a/link"] {
            assert!(
                matches!(tree.open_file(&entry(name)).unwrap_err().cause, Cause::Io(_)),
                "{name}"
            );
        }
        let mut walk = tree.walk();
        let mut seen = Vec::new();
        while let Some(entry) = walk.next() {
            let entry = entry.unwrap();
            if entry.path == Path::new("a/b") {
                walk.pass_over(&entry);
            }
            seen.push(entry.path);
        }
        assert!(
            seen.contains(&"a/b".into())
                && !seen.contains(&"a/b/c".into())
                && seen.contains(&"a/file".into())
        );
    }
}

#[test]
fn nothing_outside_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/a")).unwrap();
    fs::write(dir.path().join("outside"), "secret").unwrap();
    symlink("/", dir.path().join("root/slash")).unwrap();
    symlink("..", dir.path().join("root/up")).unwrap();
    symlink("/proc/self/root", dir.path().join("root/magic")).unwrap();
    for tree in trees(&dir.path().join("root"), Mounts::Cross) {
        for path in [
            "slash/etc",
            "up/outside",
            "magic/etc",
            "../outside",
            "a/../../outside",
            "/etc/passwd",
            "slash/etc/passwd",
        ] {
            assert!(tree.entry(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(paths(&tree).len(), 4);
    }
    assert!(Tree::open(&dir.path().join("root/slash"), Mounts::Refuse).is_err());
    assert!(Tree::open(&dir.path().join("outside"), Mounts::Refuse).is_err());
}

#[test]
fn what_was_swapped_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for tree in trees(dir.path(), Mounts::Refuse) {
        for name in ["file", "to-link", "to-folder", "to-device", "gone"] {
            let _ = fs::remove_file(at(name)).or_else(|_| fs::remove_dir(at(name)));
            fs::write(at(name), name).unwrap();
        }
        let entries: Vec<Entry> = tree.walk().map(Result::unwrap).collect();
        for name in ["to-link", "to-folder", "to-device", "gone"] {
            fs::remove_file(at(name)).unwrap();
        }
        fs::write(at("new"), "x").unwrap();
        fs::rename(at("new"), at("file")).unwrap();
        symlink("/etc/passwd", at("to-link")).unwrap();
        fs::create_dir(at("to-folder")).unwrap();
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(
            CWD,
            at("to-device"),
            rustix::fs::FileType::CharacterDevice,
            Mode::RUSR,
            null,
        )
        .unwrap();
        for entry in entries {
            let cause = tree.open_file(&entry).unwrap_err().cause;
            match entry.path.to_str().unwrap() {
                "gone" => assert!(matches!(cause, Cause::Vanished)),
                name => assert!(matches!(cause, Cause::Swapped), "{name}: {cause:?}"),
            }
        }
    }
}

#[test]
fn trees_may_be_deeper_than_the_longest_path() {
    let dir = tempfile::tempdir().unwrap();
    let name = "d".repeat(40);
    let mut at = rustix::fs::openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..300 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
    }
    let bottom =
        rustix::fs::openat(&at, "bottom", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&bottom, b"here").unwrap();
    for tree in trees(dir.path(), Mounts::Refuse) {
        let entries: Vec<Entry> = tree.walk().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 301);
        let bottom = entries.last().unwrap();
        assert!(bottom.path.as_os_str().len() > 12_000);
        let mut text = String::new();
        tree.open_file(bottom).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }
}

#[test]
fn mounts_are_entered_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    nix::mount::mount(Some("x"), &inner, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        .unwrap();
    fs::write(inner.join("file"), "").unwrap();
    let results: Vec<_> = [Mounts::Refuse, Mounts::Cross]
        .into_iter()
        .flat_map(|mounts| trees(dir.path(), mounts))
        .map(|tree| tree.walk().collect::<Vec<_>>())
        .collect();
    nix::mount::umount2(&inner, nix::mount::MntFlags::MNT_DETACH).unwrap();
    for (n, found) in results.into_iter().enumerate() {
        assert_eq!(found.len(), 2);
        match (&found[1], n) {
            (Err(missed), 0 | 1) => assert!(
                matches!(missed.cause, Cause::OtherFilesystem) && missed.path == Path::new("inner")
            ),
            (Ok(entry), 2 | 3) => assert_eq!(entry.path, Path::new("inner/file")),
            other => panic!("{other:?}"),
        }
    }
}

/// The owner swaps a folder for a link to / and a file for a link to a secret, as fast as it can,
/// while we walk.
#[test]
fn renames_never_lead_out_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("root/t-a/t-b")).unwrap();
    for n in 0..20 {
        fs::write(at(&format!("root/t-a/t-b/t-{n}")), "inside").unwrap();
    }
    fs::write(at("root/t-a/t-file"), "inside").unwrap();
    fs::write(at("secret"), "outside").unwrap();
    symlink("/", at("root/t-slash")).unwrap();
    symlink(at("secret"), at("root/t-secret")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut walks, mut reads, mut misses) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (one, other) in
                    [("t-a", "t-slash"), ("t-a/t-b", "t-slash"), ("t-a/t-file", "t-secret")]
                {
                    let (one, other) = (at("root").join(one), at("root").join(other));
                    let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                }
            }
        });
        // As long as it takes to meet both sides, and a while; a minute is more than that.
        let began = std::time::Instant::now();
        let met = |walks, reads, misses| walks > 20 && reads > 20 && misses > 0;
        let trees = trees(&at("root"), Mounts::Cross);
        while began.elapsed().as_secs() < if met(walks, reads, misses) { 2 } else { 60 } {
            for tree in &trees {
                walks += 1;
                for found in tree.walk() {
                    let Ok(entry) = found else {
                        misses += 1;
                        continue;
                    };
                    let name = entry.path.file_name().unwrap().to_string_lossy().into_owned();
                    assert!(name.starts_with("t-"), "out of the root: {}", entry.path.display());
                    match (entry.meta.kind == Kind::File).then(|| tree.open_file(&entry)) {
                        Some(Ok(file)) => {
                            assert_eq!(std::io::read_to_string(file).unwrap(), "inside");
                            reads += 1;
                        }
                        Some(Err(_)) => misses += 1,
                        None => {}
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        walks > 20 && reads > 20 && misses > 0,
        "{walks} walks, {reads} reads, {misses} misses"
    );
}

#[test]
fn sorted_as_paths_compare() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["a/c/d", "a.b", "a b", "b"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    for file in ["a/z", "a/c/d/1", "a/c/2", "a.b/x", "a-", "a b/y", "Z"] {
        fs::write(at(file), "").unwrap();
    }
    fs::write(dir.path().join(std::ffi::OsString::from_vec(b"a\xff\n".to_vec())), "").unwrap();
    for tree in trees(dir.path(), Mounts::Refuse) {
        let sorted: Vec<PathBuf> = tree.sorted().map(|entry| entry.unwrap().path).collect();
        assert!(sorted.windows(2).all(|pair| order(&pair[0], &pair[1]).is_lt()), "{sorted:?}");
        assert_eq!(sorted.iter().cloned().collect::<BTreeSet<_>>(), paths(&tree));
        assert_eq!(sorted[1..5], ["a", "a/c", "a/c/2", "a/c/d"].map(PathBuf::from));
        let mut walk = tree.sorted();
        let mut seen = 0;
        while let Some(entry) = walk.next() {
            let entry = entry.unwrap();
            seen += 1;
            if entry.path == Path::new("a") {
                walk.pass_over(&entry);
            }
        }
        assert_eq!(seen, sorted.len() - 5);
    }
}

#[test]
fn sorted_and_a_folder_that_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for trial in 0..2 {
        fs::create_dir_all(at("a/b")).unwrap();
        for file in ["a/b/1", "a/c", "d"] {
            fs::write(at(file), "").unwrap();
        }
        let tree = &trees(dir.path(), Mounts::Refuse)[trial];
        let mut found = Vec::new();
        for entry in tree.sorted() {
            if entry.as_ref().is_ok_and(|entry| entry.path == Path::new("a/b/1")) {
                fs::rename(at("a"), at("gone")).unwrap();
            }
            found.push(entry.map(|entry| entry.path).map_err(|missed| missed.path));
        }
        let path = PathBuf::from;
        assert_eq!(
            found,
            [Ok(path("a")), Ok(path("a/b")), Ok(path("a/b/1")), Err(path("a")), Ok(path("d"))]
        );
        fs::remove_dir_all(at("gone")).unwrap();
    }
}

fn lease(file: &fs::File, kind: i32) {
    // SAFETY: F_SETLEASE takes a number.
    #[allow(unsafe_code)]
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn leased_as(file: &fs::File) -> i32 {
    // SAFETY: F_GETLEASE takes nothing.
    #[allow(unsafe_code)]
    unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE)
    }
}

/// No lease is given up before all owners were asked: asking one after the other would wait the whole
/// `lease-break-time` for each.
#[test]
fn leased_files_are_asked_for_all_at_once() {
    // The kernel asks the owner of a lease by SIGIO, which would end this process.
    let ignore = nix::sys::signal::SigHandler::SigIgn;
    // SAFETY: it is ignored, so no handler runs.
    #[allow(unsafe_code)]
    unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGIO, ignore) }.unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let names = ["a", "b", "sub/c"];
    let files = names.map(|name| {
        let file = fs::File::create(dir.path().join(name)).unwrap();
        lease(&file, libc::F_WRLCK);
        file
    });
    let tree = Tree::open(dir.path(), Mounts::Refuse).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let guard = crate::deadline::Deadline::after(std::time::Duration::from_secs(60));
            while files.iter().any(|file| leased_as(file) == libc::F_WRLCK) {
                assert!(!guard.passed(), "not all were asked for");
                std::thread::yield_now();
            }
            files.iter().for_each(|file| lease(file, libc::F_UNLCK));
        });
        let mut leases = Leases::default();
        let (held, entry) = tree.look(Path::new("a")).unwrap();
        assert!(matches!(Tree::open_held(&held, &entry).unwrap_err().cause, Cause::Leased(_)));
        for name in names {
            let (held, entry) = tree.look(Path::new(name)).unwrap();
            leases.open(&tree, &held, &entry).unwrap();
        }
    });
}
