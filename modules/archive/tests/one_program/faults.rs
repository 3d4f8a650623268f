//! Trees that change, disks that are full, archives that are damaged or lie, and being killed.

use crate::common::*;
use archive::{
    Damaged, Encoder, Form, IndexReader, IndexWriter, Pass, Scan, Segment, Source, Writers, reason,
};
use nix::libc;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_file_that_changes_while_it_is_read() {
    let (from, to) = (folder(), folder());
    let at = |name: &str| from.path().join(name);
    fs::write(at("hot"), vec![1; 24 << 20]).unwrap();
    fs::write(at("still"), "still").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    let kept = Kept::new(Form::Tar);
    let stop = AtomicBool::new(false);
    let (first, last) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let hot = File::options().write(true).open(at("hot")).unwrap();
            let end = Instant::now() + Duration::from_secs(60);
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) || Instant::now() > end {
                    break;
                }
                hot.write_all_at(&[2; 100], n % (1 << 20)).unwrap();
                hot.set_len(if n % 2 == 0 { 20 << 20 } else { 24 << 20 }).unwrap();
            }
        });
        let first = kept.capture(&all(&tree(from.path())), 0, Pass::First, false);
        let last = kept.capture(&all(&tree(from.path())), 1, Pass::Last, true);
        stop.store(true, Ordering::Relaxed);
        (first, last)
    });
    assert_eq!(first.unstable.count, 0);
    assert_eq!(last.unstable.first, [PathBuf::from("hot")]);
    kept.restore(to.path()).unwrap();
    assert_eq!(fs::read(to.path().join("still")).unwrap(), b"still");
    // It is nowhere trusted, and is copied again now that it is quiet.
    std::thread::sleep(Duration::from_millis(2100));
    let quiet = kept.capture(&all(&tree(from.path())), 2, Pass::Last, true);
    assert_eq!((quiet.unstable.count, quiet.used[&2].bytes >= 20 << 20), (0, true));
    open(to.path()).clear().unwrap();
    kept.restore(to.path()).unwrap();
    assert_same(&look(to.path()), &look(from.path()));
}

fn lease(file: &File, command: i32, kind: i32) -> i32 {
    // SAFETY: both commands take a number, or nothing.
    #[allow(unsafe_code)]
    let said = unsafe { libc::fcntl(file.as_raw_fd(), command, kind) };
    assert!(said >= 0, "{}", std::io::Error::last_os_error());
    said
}

/// While services run nobody waits for it; its owner is asked all the same.
#[test]
fn a_leased_file_is_left_to_the_last_pass() {
    // What the kernel asks an owner with; it would end this process.
    let ignore = nix::sys::signal::SigHandler::SigIgn;
    // SAFETY: it is ignored, so no handler runs.
    #[allow(unsafe_code)]
    unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGIO, ignore) }.unwrap();
    let (from, to) = (folder(), folder());
    for name in ["a", "leased", "z"] {
        fs::write(from.path().join(name), name).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2100));
    let held = File::options().write(true).open(from.path().join("leased")).unwrap();
    lease(&held, libc::F_SETLEASE, libc::F_WRLCK);
    let kept = Kept::new(Form::Tar);
    let first = kept.capture(&all(&tree(from.path())), 0, Pass::First, false);
    assert_eq!((first.entries, first.copied.entries), (3, 3), "the folder, a, z");
    assert_ne!(lease(&held, libc::F_GETLEASE, 0), libc::F_WRLCK, "its owner was asked");
    lease(&held, libc::F_SETLEASE, libc::F_UNLCK);
    let last = kept.capture(&all(&tree(from.path())), 1, Pass::Last, true);
    assert_eq!(last.copied.entries, 1);
    kept.restore(to.path()).unwrap();
    assert_same(&look(to.path()), &look(from.path()));
}

#[test]
fn what_changes_between_the_look_and_the_copy() {
    let (from, to) = (folder(), folder());
    let at = |name: &str| from.path().join(name);
    for file in ["becomes-folder", "becomes-link", "goes", "replaced", "stays"] {
        fs::write(at(file), file).unwrap();
    }
    fs::create_dir(at("folder-goes")).unwrap();
    fs::write(at("folder-goes/file"), "x").unwrap();
    let (tree, kept) = (tree(from.path()), Kept::new(Form::Gzip));
    let source = all(&tree);
    let scan = Scan::new(&source, None, Writers::Running, kept.folder.path()).unwrap();
    fs::remove_file(at("goes")).unwrap();
    fs::remove_dir_all(at("folder-goes")).unwrap();
    fs::write(at("new"), "another content").unwrap();
    fs::rename(at("new"), at("replaced")).unwrap();
    for file in ["becomes-folder", "becomes-link"] {
        fs::remove_file(at(file)).unwrap();
    }
    fs::create_dir(at("becomes-folder")).unwrap();
    symlink("/etc/passwd", at("becomes-link")).unwrap();
    let segment = Kept::new_file(&kept.segment(0));
    let mut segment = Segment::new(segment, Form::Gzip, 0).unwrap();
    let mut index = IndexWriter::new(Kept::new_file(&kept.index()), Form::Gzip).unwrap();
    let captured = scan.copy(&source, Pass::Last, &mut segment, &mut index, &mut |_| {}).unwrap();
    segment.finish().unwrap();
    index.finish().unwrap();
    assert_eq!(captured.vanished, 3);
    assert_eq!(captured.unstable.first, [PathBuf::from("becomes-folder")]);
    kept.restore(to.path()).unwrap();
    assert_eq!(fs::read_link(to.path().join("becomes-link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(to.path().join("replaced")).unwrap(), "another content");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 3);
}

/// Root may read everything; the kernel has files that nobody may.
#[test]
fn an_unreadable_file_is_named() {
    let tree = tree(Path::new("/sys/bus/platform"));
    let one = Source { only: Some(OsStr::new("drivers_probe")), ..all(&tree) };
    let error = Kept::new(Form::Zstd).try_capture(&one, 0, Pass::Last, false).unwrap_err();
    assert_eq!(reason(&error), Some("unreadable"));
    assert!(format!("{error:#}").contains("cannot copy drivers_probe"), "{error:#}");
}

#[test]
fn a_full_disk_is_said() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut encoder = Encoder::new(full, Form::Tar).unwrap();
    let error = (0..100)
        .try_for_each(|_| encoder.put(&[1; 1 << 20]))
        .and_then(|()| encoder.finish().map(|_| ()));
    assert_eq!(reason(&error.unwrap_err()), Some("no_space"));
}

#[test]
fn damage_is_never_restored() {
    let from = folder();
    for n in 0..40 {
        fs::write(from.path().join(format!("{n}")), format!("{n} ").repeat(900)).unwrap();
    }
    settle(from.path());
    let before = look(from.path());
    for form in [Form::Zstd, Form::Gzip] {
        let kept = Kept::new(form);
        kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
        let to = in_memory();
        let mut found = 0;
        for path in [kept.segment(0), kept.index()] {
            let good = fs::read(&path).unwrap();
            let step = good.len() / 30;
            let flipped = (0..30).map(|n| {
                let mut bad = good.clone();
                bad[n * step] ^= 1 << (n % 8);
                bad
            });
            let cut = (0..20).map(|n| good[..good.len() - 1 - n * n].to_vec());
            for bad in flipped.chain(cut) {
                fs::write(&path, &bad).unwrap();
                open(to.path()).clear().unwrap();
                match kept.restore(to.path()) {
                    // A bit that nobody reads (gzip has some).
                    Ok(_) => assert_same(&look(to.path()), &before),
                    Err(error) => {
                        assert_eq!(reason(&error), Some("bad_archive"), "{error:#}");
                        found += 1;
                    }
                }
            }
            fs::write(&path, &good).unwrap();
        }
        assert!(found >= 90, "{form:?}: {found} of 100");
    }
}

#[test]
fn a_sum_finds_what_no_reader_sees() {
    let from = folder();
    fs::write(from.path().join("a"), "content").unwrap();
    settle(from.path());
    let kept = Kept::new(Form::Gzip);
    kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    let whole = fs::read(kept.segment(0)).unwrap();
    let sum = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut later = whole.clone();
    // The time in the head of a gzip file.
    later[4] ^= 1;
    let to = in_memory();
    let put = |content: &[u8], sum: Option<&String>| {
        fs::write(kept.segment(0), content).unwrap();
        open(to.path()).clear().unwrap();
        let mut stored = kept.segments();
        stored[0].sha256 = sum.cloned();
        archive::restore(File::open(kept.index()).unwrap(), stored, open(to.path()), &mut |_| {})
    };
    put(&whole, Some(&sum)).unwrap();
    put(&later, None).unwrap();
    let error = put(&later, Some(&sum)).unwrap_err();
    assert_eq!(reason(&error), Some("bad_archive"));
    assert!(error.to_string().contains("its sum differs"), "{error}");
}

/// Lines of an index as somebody else might write them.
fn forged(kept: &Kept, lines: &[&str]) {
    let mut index = Encoder::small(Kept::new_file(&kept.index()), Form::Zstd).unwrap();
    let count = lines.len();
    writeln!(index, "reversible.deploy index 1\n{}\nend {count}", lines.join("\n")).unwrap();
    index.finish().unwrap();
}

fn gnu_tar(kept: &Kept, folder: &Path, arguments: &[&str]) {
    let mut tar = Command::new("tar");
    tar.current_dir(folder)
        .args(["--format=ustar", "-P", "-cf"])
        .arg(kept.segment(0))
        .args(arguments);
    assert!(tar.status().unwrap().success());
}

const ROOT: &str = "d 755 0 0 0 1.000000000 - 1 1 1 0 0 1 .";

#[test]
fn an_archive_cannot_leave_its_folder() {
    let base = folder();
    let at = |name: &str| base.path().join(name);
    fs::create_dir_all(at("from/sub")).unwrap();
    fs::create_dir(at("outside")).unwrap();
    fs::write(at("from/file"), "evil").unwrap();
    symlink(at("outside"), at("from/link")).unwrap();
    let link =
        format!("l 777 0 0 {} 1.000000000 - 2 1 1 0 0 1 link", at("outside").as_os_str().len());
    let file = |path: &str| format!("f 644 0 0 4 1.000000000 - 3 1 1 4 0 1 {path}");
    let hard = "h 644 0 0 4 1.000000000 - 4 1 2 0 0 1 hard".to_owned();
    let by = "--transform=s,^file$,";
    let cases: [(&[&str], Vec<String>); 8] = [
        (&["--no-recursion", ".", "file"], vec![file("../outside/file")]),
        (&["--no-recursion", ".", "file"], vec![file("/tmp/file")]),
        (&["--no-recursion", &format!("{by}../outside/file,"), ".", "file"], vec![file("z")]),
        (&["--no-recursion", &format!("{by}/outside/file,"), ".", "file"], vec![file("z")]),
        (
            &["--no-recursion", &format!("{by}link/file,"), ".", "link", "file"],
            vec![link.clone(), file("link/file")],
        ),
        (&["--no-recursion", &format!("{by}sub/file,"), ".", "file"], vec![file("sub/file")]),
        (&["--no-recursion", ".", "file"], vec![hard]),
        // The index says a folder, and the segment holds a link.
        (
            &["--no-recursion", ".", "link", "file"],
            vec![link.replacen("l 777", "d 755", 1), file("link/file")],
        ),
    ];
    for (n, (arguments, lines)) in cases.into_iter().enumerate() {
        let kept = Kept::new(Form::Zstd);
        gnu_tar(&kept, &at("from"), arguments);
        let lines: Vec<&str> = [ROOT].into_iter().chain(lines.iter().map(String::as_str)).collect();
        forged(&kept, &lines);
        let to = at(&format!("to-{n}"));
        fs::create_dir(&to).unwrap();
        let error = kept.restore(&to).unwrap_err();
        assert!(
            error.is::<Damaged>() || error.chain().any(|cause| cause.is::<Damaged>()),
            "{n}: {error:#}"
        );
        assert_eq!(fs::read_dir(at("outside")).unwrap().count(), 0, "{n}");
        assert!(!Path::new("/outside").exists() && !to.join("sub").exists());
    }
    // The same made in an honest way does come.
    let kept = Kept::new(Form::Zstd);
    gnu_tar(&kept, &at("from"), &["--no-recursion", ".", "file", "link"]);
    forged(&kept, &[ROOT, &file("file"), &link]);
    fs::create_dir(at("to")).unwrap();
    kept.restore(&at("to")).unwrap();
    assert_eq!(fs::read_to_string(at("to/file")).unwrap(), "evil");
}

/// The owner of the folder puts a link in the place of one that is being filled.
#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nowhere() {
    let (from, to, outside) = (folder(), folder(), folder());
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    for n in 0..10 {
        fs::write(from.path().join(format!("a/b/{n}")), "x").unwrap();
    }
    let kept = Kept::new(Form::Zstd);
    kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    let mut swapped = false;
    let mut swap = |path: &Path| {
        if path == Path::new("a/b/5") && !std::mem::replace(&mut swapped, true) {
            fs::rename(to.path().join("a"), to.path().join("away")).unwrap();
            symlink(outside.path(), to.path().join("a")).unwrap();
            fs::create_dir(outside.path().join("b")).unwrap();
        }
    };
    let index = File::open(kept.index()).unwrap();
    let done = archive::restore(index, kept.segments(), open(to.path()), &mut |at| swap(at.path));
    assert!(done.is_err());
    assert_eq!(fs::read_dir(outside.path().join("b")).unwrap().count(), 0);
    // Clearing takes the link away, and not what it leads to.
    open(to.path()).clear().unwrap();
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    assert!(outside.path().join("b").is_dir());
}

#[test]
fn killed_and_run_again() {
    let (from, to) = (folder(), folder());
    for n in 0..2000 {
        fs::create_dir_all(from.path().join(format!("{}", n % 50))).unwrap();
        fs::write(from.path().join(format!("{}/{n}", n % 50)), format!("{n}")).unwrap();
    }
    let kept = Kept::new(Form::Zstd);
    kept.capture(&all(&tree(from.path())), 0, Pass::Last, false);
    let built = std::env::current_exe().unwrap();
    let mut child = Command::new(built.ancestors().nth(2).unwrap().join("examples/restore"));
    child.arg(kept.segment(0)).arg(kept.index()).arg(to.path()).arg("500").stdout(Stdio::piped());
    // Built with the tests, unless only one file of them was asked for.
    let mut child = child.spawn().expect("cargo build -p archive --examples");
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "half way\n");
    child.kill().unwrap();
    child.wait().unwrap();
    let half = fs::read_dir(to.path()).unwrap().count();
    assert!((5..50).contains(&half), "{half}");
    assert_eq!(reason(&kept.restore(to.path()).unwrap_err()), Some("not_empty"));
    open(to.path()).clear().unwrap();
    kept.restore(to.path()).unwrap();
    assert_same(&look(to.path()), &look(from.path()));
}

#[test]
fn clearing_stops_at_another_file_system() {
    let to = folder();
    fs::create_dir_all(to.path().join("a/mounted")).unwrap();
    let inner = to.path().join("a/mounted");
    let mount =
        |arguments: &[&OsStr]| Command::new("mount").args(arguments).status().unwrap().success();
    let word = OsStr::new;
    assert!(mount(&[word("-t"), word("tmpfs"), word("x"), inner.as_os_str()]));
    fs::write(inner.join("file"), "precious").unwrap();
    let error = open(to.path()).clear();
    let there = inner.join("file").exists();
    let source = tree(to.path());
    let scan =
        Scan::new(&all(&source), None, Writers::Stopped, folder().path()).map(|scan| scan.mounts);
    assert!(Command::new("umount").arg(&inner).status().unwrap().success());
    assert!(
        there && format!("{:#}", error.unwrap_err()).contains("another file system is mounted")
    );
    assert_eq!(scan.unwrap().first, [PathBuf::from("a/mounted")]);
}

/// An index of the past that is damaged is an error, and not a reason to copy less.
#[test]
fn a_damaged_earlier_index_is_an_error() {
    let from = folder();
    fs::write(from.path().join("file"), "x").unwrap();
    let kept = Kept::new(Form::Zstd);
    forged(&kept, &[ROOT, "f 644 0 0 1 1.000000000 2.000000000 1 1 1 1 0 1 ../file"]);
    let before = IndexReader::new(File::open(kept.index()).unwrap()).unwrap();
    let tree = tree(from.path());
    let error =
        Scan::new(&all(&tree), Some(before), Writers::Stopped, kept.folder.path()).unwrap_err();
    assert_eq!(reason(&error), Some("bad_archive"));
}
