//! Replacing and appending on real filesystems: full, read-only, with attributes, with links, torn.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use crate::common::{Tmpfs, names};
use host::atomic::{self, Backup, End, Replace, append_line, whole_lines, write_new};
use rustix::fs::XattrFlags;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1000];
    let length = rustix::fs::getxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// u::rw-, u:1234:rw-, g::r--, m::rw-, o::--- as the kernel keeps it.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, !0), (2, 6, 1234), (4, 4, !0), (16, 6, !0), (32, 0, !0)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn a_new_file_is_ours_alone_unless_said_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let replaced = Replace::new(&path).backup(Backup::Keep).write(b"one").unwrap();
    assert_eq!((replaced.existed, &replaced.backup, &replaced.path), (false, &None, &path));
    assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"one".to_vec()));
    let path = dir.path().join("other");
    Replace::new(&path).new_mode(0o644).owner(1234, 4321).write(b"").unwrap();
    let metadata = path.metadata().unwrap();
    assert_eq!((mode(&path), metadata.uid(), metadata.gid()), (0o644, 1234, 4321));
    assert_eq!(names(dir.path()), ["new", "other"]);
}

#[test]
fn what_the_old_file_had_is_carried_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old");
    fs::write(&path, "old").unwrap();
    lchown(&path, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4754)).unwrap();
    set(&path, "user.note", b"kept\0");
    set(&path, "security.selinux", b"system_u:object_r:etc_t:s0\0");
    set(&path, "trusted.mark", b"");
    let before = path.metadata().unwrap();
    Replace::new(&path).new_mode(0o600).write(b"new").unwrap();
    let after = path.metadata().unwrap();
    assert_ne!(before.ino(), after.ino());
    assert_eq!((after.uid(), after.gid(), mode(&path)), (1234, 4321, 0o4754));
    assert_eq!(get(&path, "user.note").unwrap(), b"kept\0");
    assert_eq!(get(&path, "security.selinux").unwrap(), b"system_u:object_r:etc_t:s0\0");
    assert_eq!(get(&path, "trusted.mark").unwrap(), b"");
    Replace::new(&path).mode(0o640).owner(0, 0).write(b"newer").unwrap();
    assert_eq!(
        (path.metadata().unwrap().uid(), mode(&path), fs::read(&path).unwrap()),
        (0, 0o640, b"newer".to_vec())
    );
}

#[test]
fn acls_are_carried_over_and_not_picked_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("with");
    fs::write(&path, "old").unwrap();
    set(&path, "system.posix_acl_access", &acl());
    assert_eq!(mode(&path), 0o660);
    Replace::new(&path).write(b"new").unwrap();
    assert_eq!((get(&path, "system.posix_acl_access"), mode(&path)), (Some(acl()), 0o660));

    let path = dir.path().join("without");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    set(dir.path(), "system.posix_acl_default", &acl());
    Replace::new(&path).write(b"new").unwrap();
    assert_eq!((get(&path, "system.posix_acl_access"), mode(&path)), (None, 0o640));
}

#[test]
fn backups_are_the_old_file_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("haproxy.cfg");
    fs::write(&path, "0").unwrap();
    let mut backups = Vec::new();
    for n in 1..4 {
        let ino = path.metadata().unwrap().ino();
        let replaced =
            Replace::new(&path).backup(Backup::Keep).write(n.to_string().as_bytes()).unwrap();
        let backup = replaced.backup.unwrap();
        assert_eq!((backup.metadata().unwrap().ino(), replaced.existed), (ino, true));
        assert_eq!(fs::read_to_string(&backup).unwrap(), (n - 1).to_string());
        let name = backup.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with("haproxy.cfg.20") && name.ends_with(".bak"), "{name}");
        backups.push(name);
    }
    backups.sort();
    backups.insert(0, "haproxy.cfg".to_owned());
    assert_eq!(names(dir.path()), backups);
}

#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let small = Tmpfs::new(&dir.path().join("small"), "size=64k,mode=0755");
    let path = small.0.join("file");
    fs::write(&path, "old content").unwrap();
    for backup in [Backup::None, Backup::Keep] {
        let error = Replace::new(&path).backup(backup).write(&[7; 100_000]).unwrap_err();
        assert_eq!(host::reason(&error), Some("no_space"), "{error:#}");
        assert!(
            format!("{error:#}").starts_with(&format!("cannot replace {}: ", path.display())),
            "{error:#}"
        );
        assert_eq!(
            (names(&small.0), fs::read(&path).unwrap()),
            (vec!["file".to_owned()], b"old content".to_vec())
        );
    }
    assert_eq!(
        host::reason(&write_new(&small.0.join("x"), &[7; 100_000], 0o600).unwrap_err()),
        Some("no_space")
    );
    // Appending: the line does not fit, so the file stays as long as it was.
    let lines = small.0.join("lines");
    append_line(&lines, b"first").unwrap();
    let error = append_line(&lines, &[b'x'; 100_000]).unwrap_err();
    assert_eq!(host::reason(&error), Some("no_space"), "{error:#}");
    assert_eq!(fs::read(&lines).unwrap(), b"first\n");
    append_line(&lines, b"second").unwrap();
    assert_eq!(names(&small.0), ["file", "lines"]);
    drop(small);
    // No inode left.
    let small = Tmpfs::new(&dir.path().join("small"), "nr_inodes=2,mode=0755");
    let path = small.0.join("file");
    fs::write(&path, "old").unwrap();
    let error = Replace::new(&path).write(b"new").unwrap_err();
    assert_eq!(host::reason(&error), Some("no_space"), "{error:#}");
    assert_eq!(
        (names(&small.0), fs::read(&path).unwrap()),
        (vec!["file".to_owned()], b"old".to_vec())
    );
}

#[test]
fn a_read_only_filesystem_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Tmpfs::new(&dir.path().join("ro"), "size=64k,mode=0755");
    let path = mount.0.join("file");
    fs::write(&path, "old\n").unwrap();
    mount.read_only();
    let errors = [
        Replace::new(&path).write(b"new").unwrap_err(),
        append_line(&path, b"x").unwrap_err(),
        write_new(&mount.0.join("x"), b"", 0o600).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(host::reason(&error), Some("read_only"), "{error:#}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"old\n");
}

#[test]
fn filling_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    let error = Replace::new(&path).write_with(&mut |file| {
        file.write_all(b"half")?;
        anyhow::bail!("the source ended")
    });
    assert!(format!("{:#}", error.unwrap_err()).ends_with("the source ended"));
    assert_eq!(
        (names(dir.path()), fs::read(&path).unwrap()),
        (vec!["file".to_owned()], b"old".to_vec())
    );
}

#[test]
fn symbolic_links_are_followed_only_when_nobody_else_can_have_made_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("real")).unwrap();
    fs::write(at("real/file"), "old").unwrap();
    symlink("real/file", at("link")).unwrap();
    symlink(at("link"), at("link2")).unwrap();
    let replaced = Replace::new(&at("link2")).backup(Backup::Keep).write(b"new").unwrap();
    assert_eq!(replaced.path, at("real/file"));
    assert_eq!(replaced.backup.unwrap().parent().unwrap(), at("real"));
    assert!(at("link").is_symlink() && at("link2").is_symlink());
    assert_eq!(fs::read(at("real/file")).unwrap(), b"new");

    assert_eq!(atomic::read(&at("link2")).unwrap(), Some(b"new".to_vec()));
    assert_eq!(atomic::read(&at("not/there")).unwrap(), None);

    let writing = |path: &Path, why: &str| {
        let error = format!("{:#}", Replace::new(path).write(b"x").unwrap_err());
        assert!(error.contains(why), "{error}");
    };
    let refused = |path: &Path, why: &str| {
        writing(path, why);
        let error = format!("{:#}", atomic::read(path).unwrap_err());
        assert!(error.contains(why), "{error}");
    };
    symlink("real/file", at("theirs")).unwrap();
    lchown(at("theirs"), Some(1234), None).unwrap();
    refused(&at("theirs"), "is a symbolic link that others could have made (owner uid 1234");
    symlink("nowhere", at("dangling")).unwrap();
    refused(&at("dangling"), "No such file");
    symlink("loop", at("loop")).unwrap();
    refused(&at("loop"), "too many symbolic links");
    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), PermissionsExt::from_mode(0o777)).unwrap();
    symlink("../real/file", at("open/link")).unwrap();
    refused(&at("open/link"), "mode 0777");
    refused(&at("real"), "is not a regular file");
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o700.into(), 0)
        .unwrap();
    refused(&at("pipe"), "is not a regular file");
    writing(&at("no/such/folder"), "cannot make a file in");
    refused(Path::new("/dev/null"), "is not a regular file");
    assert_eq!(fs::read(at("real/file")).unwrap(), b"new");
}

#[test]
fn nobody_who_owns_a_folder_on_the_way_leads_root_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("roots/own")).unwrap();
    fs::create_dir_all(at("theirs/real")).unwrap();
    for name in ["theirs", "theirs/real"] {
        lchown(at(name), Some(1234), Some(1234)).unwrap();
    }
    fs::write(at("roots/own/file"), "root's").unwrap();
    let refused = |path: &Path, why: &str| {
        let errors = [
            Replace::new(path).write(b"x").unwrap_err(),
            Replace::new(path).backup(Backup::Keep).write(b"x").unwrap_err(),
            write_new(&path.with_extension("new"), b"x", 0o600).unwrap_err(),
            atomic::read(path).unwrap_err(),
            atomic::sweep(path).unwrap_err(),
        ];
        for error in errors {
            let error = format!("{error:#}");
            assert!(error.contains(why), "{error}");
        }
    };
    symlink(at("roots/own"), at("theirs/out")).unwrap();
    // Their folder, a link of root's: another hard link to it could be anywhere.
    refused(&at("theirs/out/file"), "its folder: uid 1234");
    lchown(at("theirs/out"), Some(1234), Some(1234)).unwrap();
    refused(&at("theirs/out/file"), "others could have made (owner uid 1234");
    symlink(at("theirs/out"), at("roots/in")).unwrap();
    refused(&at("roots/in/file"), "others could have made (owner uid 1234");
    refused(&at("roots/own/file/deeper"), "is not a folder");
    assert_eq!(names(&at("roots/own")), ["file"]);
    assert_eq!(fs::read(at("roots/own/file")).unwrap(), b"root's");

    // What is really theirs is written to, and a link of root's in a folder of root's is a way.
    symlink("../theirs/real", at("roots/way")).unwrap();
    let replaced = Replace::new(&at("roots/way/file")).write(b"new").unwrap();
    assert_eq!((replaced.existed, mode(&at("theirs/real/file"))), (false, 0o600));
    Replace::new(&at("theirs/real/file")).write(b"newer").unwrap();
    assert_eq!(atomic::read(&at("roots/way/file")).unwrap(), Some(b"newer".to_vec()));
    assert_eq!(names(&at("theirs/real")), ["file"]);
}

#[test]
fn folders_are_made_on_no_way_that_others_could_lead_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name);
    assert!(atomic::folder_meta(&at("a/b")).unwrap().is_none());
    atomic::make_folder(&at("a/b"), 0o755).unwrap();
    assert!(atomic::folder_meta(&at("a/b")).unwrap().is_some());
    fs::set_permissions(at("a"), PermissionsExt::from_mode(0o700)).unwrap();
    atomic::make_folder(&at("a/b"), 0o755).unwrap();
    assert_eq!(mode(&at("a")), 0o700);
    // Of another user, and so are the links in it.
    fs::create_dir(at("theirs")).unwrap();
    symlink(at("a"), at("theirs/link")).unwrap();
    lchown(at("theirs/link"), Some(4301), Some(4301)).unwrap();
    chown(at("theirs"), Some(4301), Some(4301)).unwrap();
    atomic::make_folder(&at("theirs/new"), 0o755).unwrap();
    for path in ["theirs/link", "theirs/link/c"] {
        let error = format!("{:#}", atomic::make_folder(&at(path), 0o755).unwrap_err());
        assert!(error.contains("symbolic link that others could have made"), "{error}");
        assert!(atomic::folder_meta(&at(path)).is_err(), "{path}");
    }
    assert!(!at("a/c").exists());
    symlink("nothing", at("to-nothing")).unwrap();
    assert!(atomic::make_folder(&at("to-nothing"), 0o755).is_err() && !at("nothing").exists());
    // Below a link of ours there is room.
    symlink("a", at("ours")).unwrap();
    assert!(atomic::folder_meta(&at("ours/d/e")).unwrap().is_none());
    assert_eq!(atomic::read(&at("ours/d/file")).unwrap(), None);
    atomic::make_folder(&at("ours/d/e"), 0o755).unwrap();
    assert!(at("a/d/e").is_dir());
    fs::write(at("file"), "").unwrap();
    assert!(atomic::make_folder(&at("file/c"), 0o755).is_err());
}

#[test]
fn write_new_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write_new(&path, b"first", 0o640).unwrap();
    assert!(write_new(&path, b"second", 0o640).is_err());
    symlink("nowhere", dir.path().join("link")).unwrap();
    assert!(write_new(&dir.path().join("link"), b"x", 0o640).is_err());
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"first".to_vec(), 0o640));
    assert_eq!(names(dir.path()), ["file", "link"]);
}

#[test]
fn a_torn_line_is_cut_away_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    let long = "x".repeat(9000);
    let whole = format!("first\n\n{long}\nlast line\n");
    let interesting =
        (0..20).chain(4000..4120).chain(8000..8300).chain(whole.len() - 20..=whole.len());
    for length in interesting {
        fs::write(&path, &whole[..length]).unwrap();
        let end = append_line(&path, b"next").unwrap();
        let kept = whole[..length].rfind('\n').map_or(0, |at| at + 1);
        let torn = whole.as_bytes()[kept..length].to_vec();
        assert_eq!(end, if torn.is_empty() { End::Whole } else { End::Torn(torn) });
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}next\n", &whole[..kept]));
    }
    assert!(append_line(&path, b"two\nlines").is_err());
    assert!(append_line(Path::new("/dev/null"), b"x").is_err());
    symlink(&path, dir.path().join("link")).unwrap();
    assert!(append_line(&dir.path().join("link"), b"x").is_err());
}

#[test]
fn whole_lines_and_the_rest() {
    let split = |text: &'static str| {
        let (lines, torn) = whole_lines(text.as_bytes());
        (
            lines.map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>(),
            torn.map(|t| std::str::from_utf8(t).unwrap()),
        )
    };
    assert_eq!(split(""), (vec![], None));
    assert_eq!(split("a\n\nb\n"), (vec!["a", "", "b"], None));
    assert_eq!(split("a\nb"), (vec!["a"], Some("b")));
    assert_eq!(split("b"), (vec![], Some("b")));
}

#[test]
fn appends_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = &path;
            scope.spawn(move || {
                (0..50).for_each(|n| {
                    assert_eq!(
                        append_line(path, format!("{thread} {n}").as_bytes()).unwrap(),
                        End::Whole
                    )
                })
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    for thread in 0..4 {
        let of: Vec<_> =
            text.lines().filter(|line| line.starts_with(&format!("{thread} "))).collect();
        assert_eq!(of, (0..50).map(|n| format!("{thread} {n}")).collect::<Vec<_>>());
    }
    assert_eq!(mode(&path), 0o600);
}
