//! Which folders are safe: owners, modes, links, and what is made.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use host::folder::{SafeFolder, Unsafe};

const SOMEBODY: u32 = 1234;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn folder(&self, name: &str, mode: u32, owner: u32) -> PathBuf {
        let path = self.at(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        lchown(&path, Some(owner), None).unwrap();
        path
    }

    fn link(&self, target: &Path, name: &str, owner: u32) -> PathBuf {
        symlink(target, self.at(name)).unwrap();
        lchown(self.at(name), Some(owner), None).unwrap();
        self.at(name)
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn refused(path: &Path, component: &Path, why: &str) {
    for result in [
        SafeFolder::ensure(path, 0o700),
        SafeFolder::open(path),
        SafeFolder::find(path).map(Option::unwrap),
    ] {
        let error = result.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!(
                "cannot use the folder {}: {} {why}",
                path.display(),
                component.display()
            )),
            "{text}"
        );
        assert!(text.contains("; "), "says what to do: {text}");
        assert_eq!(error.downcast_ref::<Unsafe>().unwrap().component, component);
        assert_eq!(host::reason(&error.context("x")), Some("unsafe_folder"));
    }
}

#[test]
fn made_with_all_above_it() {
    let place = Place::new();
    let path = place.at("a/b/c");
    assert!(SafeFolder::find(&path).unwrap().is_none());
    assert!(SafeFolder::open(&path).unwrap_err().to_string().ends_with("it does not exist"));
    assert!(!place.at("a").exists(), "looking makes nothing");
    let made = SafeFolder::ensure(&path, 0o700).unwrap();
    assert_eq!((made.path(), mode(&path), mode(&place.at("a"))), (path.as_path(), 0o700, 0o700));
    assert_eq!(made.join("file"), path.join("file"));
    SafeFolder::ensure(&path, 0o700).unwrap();
    assert_eq!(SafeFolder::find(&path).unwrap().unwrap().path(), path);
    assert_eq!(SafeFolder::ensure(&place.at("x/./y/"), 0o755).unwrap().path(), place.at("x/y"));
    assert_eq!(mode(&place.at("x")), 0o755);
}

#[test]
fn made_whatever_the_umask_says() {
    let place = Place::new();
    let before = rustix::process::umask(0o777.into());
    let made = SafeFolder::ensure(&place.at("a/b"), 0o750);
    rustix::process::umask(before);
    made.unwrap();
    assert_eq!((mode(&place.at("a")), mode(&place.at("a/b"))), (0o750, 0o750));
}

#[test]
fn too_readable_is_narrowed_and_never_widened() {
    let place = Place::new();
    let path = place.folder("a", 0o755, 0);
    SafeFolder::open(&path).unwrap();
    assert_eq!(mode(&path), 0o755);
    SafeFolder::ensure(&path, 0o700).unwrap();
    assert_eq!(mode(&path), 0o700);
    SafeFolder::ensure(&path, 0o755).unwrap();
    assert_eq!(mode(&path), 0o700);
}

#[test]
fn others_could_write() {
    let place = Place::new();
    let path = place.folder("group", 0o770, 0);
    lchown(&path, None, Some(4302)).unwrap();
    refused(&path, &path, "can be written to by its group, gid 4302 (owner uid 0, mode 0770)");
    // That of a service, as an app's own may be: a number below 1000 says nothing.
    lchown(&path, None, Some(1)).unwrap();
    refused(&path, &path, "can be written to by its group, gid 1 (owner uid 0, mode 0770)");
    let path = place.folder("all", 0o707, 0);
    refused(&path, &path, "can be written to by everyone");
    // Sticky does not help the folder itself, only one above it.
    let path = place.folder("sticky", 0o1777, 0);
    refused(&path, &path, "can be written to by everyone (owner uid 0, mode 1777)");
    SafeFolder::ensure(&path.join("ours"), 0o700).unwrap();
    let theirs = place.folder("sticky/theirs", 0o700, SOMEBODY);
    refused(&theirs, &theirs, "belongs to uid 1234 (mode 0700)");
    // Above.
    let open = place.folder("open", 0o777, 0);
    fs::create_dir(open.join("below")).unwrap();
    refused(&open.join("below"), &open, "can be written to by everyone");
    // A sticky folder of somebody else's is theirs.
    let sticky = place.folder("theirs", 0o1755, SOMEBODY);
    fs::create_dir(sticky.join("below")).unwrap();
    refused(&sticky.join("below"), &sticky, "belongs to uid 1234");
}

#[test]
fn a_group_that_only_root_is_in_may_write() {
    let place = Place::new();
    // Root's own, and staff, to which Debian gives /usr/local and nobody belongs.
    for gid in [0, 50] {
        let path = place.folder(&format!("of {gid}"), 0o775, 0);
        lchown(&path, None, Some(gid)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o2775)).unwrap();
        SafeFolder::open(&path).unwrap();
        SafeFolder::ensure(&path.join("below"), 0o700).unwrap();
        assert_eq!(mode(&path), 0o2775);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o2777)).unwrap();
        refused(&path, &path, "can be written to by everyone");
    }
}

#[test]
fn an_acl_that_lets_somebody_write_is_seen() {
    let place = Place::new();
    let path = place.folder("acl", 0o700, 0);
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1_u16, 7_u16, !0_u32), (2, 7, SOMEBODY), (4, 0, !0), (16, 7, !0), (32, 0, !0)]
    {
        acl.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, rustix::fs::XattrFlags::empty())
        .unwrap();
    refused(&path, &path, "can be written to by its group");
}

#[test]
fn links() {
    let place = Place::new();
    let real = place.folder("real", 0o700, 0);
    let link = place.link(Path::new("real"), "link", 0);
    assert_eq!(SafeFolder::ensure(&link, 0o700).unwrap().path(), real);
    assert_eq!(
        SafeFolder::ensure(&link.join("sub/folder"), 0o700).unwrap().path(),
        real.join("sub/folder")
    );
    let up = place.link(Path::new("real/../link/./sub"), "up", 0);
    assert_eq!(SafeFolder::open(&up).unwrap().path(), real.join("sub"));
    let absolute = place.link(&real, "absolute", 0);
    assert_eq!(SafeFolder::open(&absolute).unwrap().path(), real);
    let beyond = place.link(Path::new("../../../../../../../../../usr"), "beyond", 0);
    assert_eq!(SafeFolder::open(&beyond).unwrap().path(), Path::new("/usr"));

    let theirs = place.link(Path::new("real"), "theirs", SOMEBODY);
    refused(&theirs, &theirs, "is a symbolic link (to real) that uid 1234 owns");
    let first = place.at("loop");
    place.link(&first, "loop", 0);
    refused(&first, &first, "is reached by too many symbolic links");
    // The target is held to the same rules.
    let open = place.folder("open", 0o777, 0);
    let link = place.link(&open, "to-open", 0);
    refused(&link, &open, "can be written to by everyone");
    // A link to what is not there yet is made there.
    let dangling = place.link(Path::new("later/on"), "dangling", 0);
    assert_eq!(SafeFolder::ensure(&dangling, 0o700).unwrap().path(), place.at("later/on"));
}

#[test]
fn var_run_is_run() {
    if Path::new("/var/run").is_symlink() {
        assert_eq!(SafeFolder::open(Path::new("/var/run")).unwrap().path(), Path::new("/run"));
    }
    assert_eq!(SafeFolder::open(Path::new("/")).unwrap().path(), Path::new("/"));
}

#[test]
fn what_is_no_folder_path() {
    let place = Place::new();
    fs::write(place.at("file"), "").unwrap();
    refused(&place.at("file"), &place.at("file"), "is not a folder");
    refused(&place.at("file/below"), &place.at("file"), "is not a folder");
    refused(Path::new("relative/path"), Path::new("relative/path"), "is not an absolute path");
    refused(Path::new(""), Path::new(""), "is not an absolute path");
    refused(&place.at("a/../b"), &place.at("a/../b"), "contains \"..\"");
}
