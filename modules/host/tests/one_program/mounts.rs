//! Mounts of the real kernel: over each other, bound, in namespaces of others, and in use.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Tmpfs, soon};
use host::mounts::{
    Filesystem, Holder, Mount, Mounts, Relation, Usage, holders, holders_where, users_of,
    users_of_any,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

struct Other(Child);

impl Other {
    fn new(script: &str, dir: &Path) -> Other {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script, "sh"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Other(command.spawn().unwrap())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on(path: &Path) -> Mount {
    Mounts::read().unwrap().on(path).unwrap().clone()
}

#[test]
fn which_mount_a_path_is_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("plain/sub")).unwrap();
    let lower = Tmpfs::new(&at("odd name\n\\x"), "size=64k");
    fs::create_dir(lower.0.join("sub")).unwrap();
    let below = on(&lower.0.join("sub"));
    assert_eq!(
        (below.mountpoint.as_path(), below.fstype.as_str(), below.source.as_bytes()),
        (lower.0.as_path(), "tmpfs", &b"host-test"[..])
    );
    assert_ne!(on(&at("plain/sub")).id, below.id);
    // Through a link, and by what is there of a path that is not.
    std::os::unix::fs::symlink(&lower.0, at("link")).unwrap();
    assert_eq!(on(&at("link")).id, below.id);
    let mounts = Mounts::read().unwrap();
    assert_eq!(mounts.on_nearest(&lower.0.join("not/there/yet")).unwrap().id, below.id);
    assert!(mounts.on(&lower.0.join("not/there/yet")).is_err());
    // A mount over a mount.
    let upper = Tmpfs::new(&lower.0, "size=32k");
    let over = on(&upper.0);
    assert_ne!((over.id, over.dev), (below.id, below.dev));
    assert_eq!(over.mountpoint, below.mountpoint);
    drop(upper);
    assert_eq!(on(&lower.0).id, below.id);
    // A mount over a folder above hides the one below it: the name alone would lead to the wrong
    // mount.
    let inner = Tmpfs::new(&at("plain/sub/inner"), "size=32k");
    let hidden = on(&inner.0);
    let cover = Tmpfs::new(&at("plain/sub"), "size=32k");
    fs::create_dir(cover.0.join("inner")).unwrap();
    assert_eq!(on(&at("plain/sub/inner")).id, on(&cover.0).id);
    drop(cover);
    assert_eq!(on(&at("plain/sub/inner")).id, hidden.id);
}

#[test]
fn how_two_paths_stand_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let _data = Tmpfs::new(&at("data"), "size=64k");
    let _inner = Tmpfs::new(&at("data/inner"), "size=64k");
    let _apart = Tmpfs::new(&at("apart"), "size=64k");
    fs::create_dir(at("data/sub")).unwrap();
    fs::create_dir(at("bind")).unwrap();
    mount(Some(&at("data/sub")), &at("bind"), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap();
    let mounts = Mounts::read().unwrap();
    let relation = |path: &str, other: &str| mounts.relation(&at(path), &at(other)).unwrap();
    let found = [
        relation("data/sub/not/yet", "data"),
        relation("bind", "data"),
        relation("data", "bind"),
        relation("data/inner/x", "data"),
        relation("data", "data/inner"),
        relation("apart", "data"),
        relation("bind", "apart"),
    ];
    umount2(&at("bind"), MntFlags::MNT_DETACH).unwrap();
    use Relation::{Apart, Below, Same};
    assert_eq!(found, [Same, Same, Same, Below, Apart, Apart, Apart]);
}

fn namespace(pid: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).map_or(0, |found| found.ino())
}

/// Only those in this namespace: whoever makes a namespace of his own meanwhile (another test, a
/// container manager) gets copies of our mounts, too.
fn holders_in(space: u64, dev: (u32, u32)) -> Vec<Holder> {
    let mut found = holders(Filesystem::Dev(dev)).unwrap().holders;
    found.retain(|holder| holder.mount_ns == space);
    found
}

#[test]
fn a_mount_that_only_another_namespace_holds() {
    let dir = tempfile::tempdir().unwrap();
    let data = Tmpfs::new(&dir.path().join("data"), "size=64k");
    let (dev, ours) = (on(&data.0).dev, namespace("self"));
    assert_eq!(holders_in(ours, dev).len(), 1);
    let by_source = holders(Filesystem::Source("host-test".as_ref())).unwrap().holders;
    assert!(by_source.iter().any(|holder| holder.mountpoint == data.0));

    // In its own namespace, and under another name as well.
    let script =
        "mkdir \"$1/elsewhere\" && mount --bind \"$1/data\" \"$1/elsewhere\" && exec sleep 60";
    let mut other = Other::new(
        &format!("exec unshare -m --propagation private sh -c '{script}' sh \"$1\""),
        dir.path(),
    );
    let pid = other.0.id();
    let theirs = || holders_in(namespace(&pid.to_string()), dev);
    assert!(soon(|| theirs().iter().any(|holder| holder.mountpoint.ends_with("elsewhere"))));
    umount2(&data.0, MntFlags::empty()).expect("nobody here uses it");
    assert!(holders_in(ours, dev).is_empty());
    let left = theirs();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|holder| holder.pid == pid), "{left:?}");
    assert!(soon(|| theirs()[0].comm == "sleep"));
    let space = namespace(&pid.to_string());
    other.0.kill().unwrap();
    other.0.wait().unwrap();
    assert!(soon(|| holders_in(space, dev).is_empty()));
}

#[test]
fn a_namespace_that_follows_ours_is_told_from_one_that_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let base = Tmpfs::new(&dir.path().join("base"), "size=64k");
    mount(None::<&str>, &base.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    let data = Tmpfs::new(&base.0.join("data"), "size=64k");
    let (dev, ours) = (on(&data.0).dev, namespace("self"));
    for (propagation, follows) in [("slave", true), ("shared", true), ("private", false)] {
        let script = format!("exec unshare -m --propagation {propagation} sleep 60");
        let mut other = Other::new(&script, dir.path());
        let pid = other.0.id().to_string();
        assert!(soon(|| namespace(&pid) != ours && !holders_in(namespace(&pid), dev).is_empty()));
        let found = holders_where(&|mount| mount.dev == dev).unwrap().holders;
        let of = |space| found.iter().find(|holder| holder.mount_ns == space).unwrap();
        assert_eq!(of(namespace(&pid)).goes_with(of(ours)), follows, "{propagation}: {found:?}");
        assert_eq!(of(ours).source, *"host-test");
        other.0.kill().unwrap();
        other.0.wait().unwrap();
    }
    assert!(users_of_any(&[dev, on(&base.0).dev]).unwrap().is_empty());
}

#[test]
fn a_namespace_that_a_chrooted_process_hides() {
    // Both are in one namespace; the first, with the lower number, sees only what is beneath its
    // root folder.
    let dir = tempfile::tempdir().unwrap();
    let data = Tmpfs::new(&dir.path().join("data"), "size=64k");
    let dev = on(&data.0).dev;
    let script = r#"
        mkdir -p "$1/jail/bin" "$1/jail/lib" "$1/jail/lib64" "$1/jail/usr"
        for d in bin lib lib64 usr; do mount --rbind "/$d" "$1/jail/$d" 2>/dev/null; done
        sleep 20 & exec chroot "$1/jail" /bin/sleep 20
    "#;
    let other = Other::new(
        &format!("exec unshare -m --propagation private sh -c '{script}' sh \"$1\""),
        dir.path(),
    );
    let pid = other.0.id();
    let jailed =
        || fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root.ends_with("jail"));
    assert!(soon(jailed));
    let found = holders_in(namespace(&pid.to_string()), dev);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_ne!(found[0].pid, pid);
    crate::common::end(found[0].pid as i32);
}

#[test]
fn a_namespace_without_processes_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let place = Tmpfs::new(&dir.path().join("ns"), "size=64k");
    mount(None::<&str>, &place.0, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let file = place.0.join("kept");
    fs::write(&file, "").unwrap();
    // Now and then the kernel refuses it with EINVAL, as it would refuse to bind an older namespace:
    // the numbers by which it compares them are handed out by each CPU on its own.
    let keep = || {
        let mut unshare = Command::new("unshare");
        unshare.arg(format!("--mount={}", file.display())).arg("true").status().unwrap()
    };
    assert!((0..20).any(|_| keep().success()));
    let census = holders(Filesystem::Source("no-such-source".as_ref())).unwrap();
    umount2(&file, MntFlags::MNT_DETACH).unwrap();
    assert!(census.holders.is_empty());
    let kept = census.unseen.iter().find(|unseen| unseen.at == file).expect("not named");
    assert!(kept.why.contains("which has no process"), "{kept:?}");
}

#[test]
fn who_uses_it_and_how() {
    let dir = tempfile::tempdir().unwrap();
    let data = Tmpfs::new(&dir.path().join("data"), "size=4m");
    fs::copy("/bin/sleep", data.0.join("sleep")).unwrap();
    fs::write(data.0.join("file"), "x").unwrap();
    let mount = on(&data.0);
    assert!(users_of(&mount).unwrap().is_empty());
    // A library of ours that sleep can load, too.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let library =
        maps.lines().find(|line| line.contains("libgcc_s")).unwrap().split_once('/').unwrap().1;
    fs::copy(Path::new("/").join(library), data.0.join("library")).unwrap();
    let others = [
        (Usage::Cwd, Other::new("cd \"$1\"; exec sleep 60", &data.0)),
        (Usage::Exe, Other::new("exec \"$1/sleep\" 60", &data.0)),
        (Usage::Fd, Other::new("exec sleep 60 3< \"$1/file\"", &data.0)),
        (Usage::Map, Other::new("LD_PRELOAD=\"$1/library\" exec sleep 60", &data.0)),
    ];
    assert!(soon(|| users_of(&mount).unwrap().len() == 4));
    let check = |mount: &Mount| {
        let users = users_of(mount).unwrap();
        for (how, other) in &others {
            let user = users
                .iter()
                .find(|user| user.pid == other.0.id())
                .unwrap_or_else(|| panic!("{how:?}: {users:?}"));
            assert_eq!((user.how, user.comm.as_str()), (*how, "sleep"));
            let named = [
                data.0.as_path(),
                Path::new("/sleep"),
                Path::new("/file"),
                Path::new("/library"),
                Path::new("/"),
            ];
            assert!(
                user.path.starts_with(&data.0) || named.contains(&user.path.as_path()),
                "{user:?}"
            );
        }
    };
    check(&mount);
    umount2(&data.0, MntFlags::MNT_DETACH).unwrap();
    check(&mount);
}
