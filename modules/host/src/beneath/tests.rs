//! A held folder, with and without openat2(2).

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

fn dirs(path: &Path) -> [Dir; 2] {
    [
        Dir::open(path).unwrap(),
        Dir::root().unwrap().stepwise().folder(path.strip_prefix("/").unwrap()).unwrap(),
    ]
}

fn root() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    (temp, root)
}

#[test]
fn no_link_is_followed() {
    let (_temp, root) = root();
    fs::create_dir_all(root.join("real/deep")).unwrap();
    fs::write(root.join("real/file"), "x").unwrap();
    symlink("real", root.join("link")).unwrap();
    symlink("file", root.join("real/link")).unwrap();
    for dir in dirs(&root) {
        for path in ["link", "link/deep", "real/file"] {
            let error = dir.folder(Path::new(path)).unwrap_err();
            assert!(is_no_folder(&error), "{path}: {error}");
        }
        assert!(
            dir.folder(Path::new("..")).is_err() && dir.folder(Path::new("real/../..")).is_err()
        );
        let real = dir.folder(Path::new("real")).unwrap();
        let link = OsStr::new("link");
        for opened in [real.open_file(link), real.append_to(link, 0o600)] {
            assert!(opened.unwrap_err().to_string().starts_with("it is a symbolic link"));
        }
        assert_eq!(real.make_file(link, 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(read_link(&real.look(Path::new("link")).unwrap()).unwrap(), Path::new("file"));
    }
    assert!(Dir::open(&root.join("link/deep")).is_err());
    assert!(Dir::open(Path::new("real")).is_err(), "a relative path");
}

#[test]
fn nothing_is_replaced() {
    let (_temp, root) = root();
    for (name, text) in [("one", "1"), ("two", "2")] {
        fs::write(root.join(name), text).unwrap();
    }
    let dir = Dir::open(&root).unwrap();
    let [one, two, new] = ["one", "two", "new"].map(OsStr::new);
    for taken in
        [dir.rename(one, &dir, two), dir.hard_link(one, &dir, two), dir.make_link(two, one)]
    {
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    dir.rename(one, &dir, new).unwrap();
    dir.hard_link(new, &dir, one).unwrap();
    assert_eq!(root.join("one").metadata().unwrap().nlink(), 2);
    assert_eq!(fs::read_to_string(root.join("two")).unwrap(), "2");
    dir.sync().unwrap();
}

#[test]
fn opening_a_pipe_does_not_block() {
    let (_temp, root) = root();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(CWD, root.join("pipe"), fifo, Mode::RWXU, 0).unwrap();
    let (dir, pipe) = (Dir::open(&root).unwrap(), OsStr::new("pipe"));
    assert_eq!(dir.open_file(pipe).unwrap_err().to_string(), "it is not a regular file");
    assert!(dir.append_to(pipe, 0o600).is_err());
}

#[test]
fn a_tree_is_removed_and_no_more() {
    let (_temp, root) = root();
    fs::create_dir_all(root.join("gone/deep")).unwrap();
    fs::write(root.join("kept"), "x").unwrap();
    symlink(root.join("kept"), root.join("gone/deep/link")).unwrap();
    for dir in dirs(&root) {
        fs::create_dir_all(root.join("gone/deep/er")).unwrap();
        dir.remove_all(OsStr::new("gone")).unwrap();
        dir.remove_all(OsStr::new("gone")).unwrap();
        let remaining: Vec<PathBuf> =
            fs::read_dir(&root).unwrap().map(|one| one.unwrap().path()).collect();
        assert_eq!(remaining, [root.join("kept")]);
    }
}

#[test]
fn pieces() {
    assert_eq!(split(b"a/b/c", 9), (&b"a/b/c"[..], &b""[..]));
    assert_eq!(split(b"aa/bb/cc", 6), (&b"aa/bb"[..], &b"cc"[..]));
    assert_eq!(split(b"aa/bb/cc", 0), (&b"aa"[..], &b"bb/cc"[..]));
    assert_eq!(split(b"aaaa", 0), (&b"aaaa"[..], &b""[..]));
}
