//! Fuzzed archives: what is unpacked stays in its folder, and has no rights of other users.

use super::*;
use crate::bounds::Bounds;
use fuzz::{OF_TAR, rounds, with_right_sums};
use host::deadline::Deadline;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Makes a valid archive with an entry of each supported type.
fn sound() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |kind: EntryType, name: &str, link: &str, content: &[u8]| {
        let mut head = tar::Header::new_ustar();
        head.set_entry_type(kind);
        head.set_mode(0o755);
        head.set_size(content.len() as u64);
        match kind {
            EntryType::Symlink | EntryType::Link => tar.append_link(&mut head, name, link).unwrap(),
            EntryType::XHeader => {
                head.set_path(name).unwrap();
                head.set_cksum();
                tar.append(&head, content).unwrap();
            }
            _ => tar.append_data(&mut head, name, content).unwrap(),
        }
    };
    put(EntryType::Directory, "app/", "", b"");
    put(EntryType::Regular, "app/run", "", b"#!/bin/sh\n");
    put(EntryType::Symlink, "app/link", "../lib/deep", b"");
    put(EntryType::Regular, "lib/deep/file", "", &[7; 700]);
    put(EntryType::Link, "app/other", "app/run", b"");
    put(EntryType::XHeader, "PaxHeaders/x", "", b"18 path=lib/named\n");
    put(EntryType::Regular, "lib/short", "", b"named by PAX");
    put(EntryType::Regular, &format!("lib/{}", "n".repeat(150)), "", b"a long name");
    tar.into_inner().unwrap()
}

/// Makes bounds that are far above what `sound` needs.
fn usage() -> Usage {
    let bounds = Bounds { unpacked: 64 << 20, files: 1000 };
    Usage::new(bounds, Deadline::after(Duration::from_secs(3600)))
}

/// Checks that links lead into the folder, and that no entry is a device or has rights of another user.
fn is_harmless(folder: &Path, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_dir() || meta.is_file() || meta.is_symlink(), "{}", path.display());
        assert!(meta.is_symlink() || meta.mode() & 0o6000 == 0, "{}", path.display());
        if let (true, Ok(led)) = (meta.is_symlink(), fs::canonicalize(&path)) {
            assert!(led.starts_with(root), "{} leads to {}", path.display(), led.display());
        }
        if meta.is_dir() {
            is_harmless(&path, root);
        }
    }
}

/// The errors of the tar library quote the header.
#[test]
fn an_invalid_header_gives_a_message_of_one_line() {
    let mut archive = sound();
    let size = 512 + 124;
    archive[size..size + 12].copy_from_slice(b"1\n\x1b[2J\xe2\x80\xae99\0");
    let to = tempfile::tempdir().unwrap();
    let root = Dir::of(File::open(to.path()).unwrap().into());
    let look = Attributes { owner: Owner::default(), umask: 0o022 };
    match run(&with_right_sums(archive)[..], root, look, &usage(), &mut Vec::new()) {
        Err(UnpackError::Damaged(why)) => one_line(&why),
        other => panic!("{other:?}"),
    }
}

fn one_line(sentence: &str) {
    let odd = |c: char| c.is_control() || c == '\u{202e}';
    assert!(!sentence.is_empty() && !sentence.contains(odd), "{sentence:?}");
}

#[test]
fn fuzzed_archives_are_harmless() {
    let base = tempfile::tempdir_in("/dev/shm").unwrap();
    let (to, outside) = (base.path().join("to"), base.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    let sound = sound();
    let unpack = |archive: &[u8]| {
        fs::create_dir(&to).unwrap();
        let root = Dir::of(File::open(&to).unwrap().into());
        let look = Attributes { owner: Owner::default(), umask: 0o022 };
        let done = run(archive, root, look, &usage(), &mut Vec::new());
        let beside = fs::read_dir(base.path()).unwrap().count();
        assert_eq!((beside, fs::read_dir(&outside).unwrap().count()), (2, 0));
        if done.is_ok() {
            is_harmless(&to, &to);
        }
        fs::remove_dir_all(&to).unwrap();
        done
    };
    assert_eq!(unpack(&sound).map(|count| count.entries).unwrap(), 9);
    rounds(300, 100_000, |random| {
        let archive = with_right_sums(random.changed(&sound, &OF_TAR));
        if let Err(UnpackError::Damaged(why)) = unpack(&archive) {
            one_line(&why);
        }
    });
}
