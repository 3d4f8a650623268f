//! Shared by the tests: a tree with every kind of entry, everything that can be seen of a tree, and
//! captures into a folder as a backup makes them.
#![allow(dead_code)] // Each test takes what it needs.

use archive::{
    Captured, Form, IndexReader, IndexWriter, Pass, Scan, Segment, Source, Stored, Writers, restore,
};
use host::beneath::{Dir, Mounts};
use host::meta::Kind;
use host::walk::Tree;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lgetxattr,
    llistxattr, lsetxattr, makedev, mknodat, utimensat,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Files are in the folder of the target, on a real file system: that of /tmp may be in memory.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A folder in memory, where a restore does not wait for the disk.
pub fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

pub fn tree(path: &Path) -> Tree {
    Tree::open(path, Mounts::Refuse).unwrap()
}

pub fn all(tree: &Tree) -> Source<'_> {
    Source { tree, only: None, leave_out: &[] }
}

/// The files of one backup: an index, and segments by number.
pub struct Kept {
    pub folder: tempfile::TempDir,
    pub form: Form,
}

impl Kept {
    pub fn new(form: Form) -> Kept {
        Kept { folder: folder(), form }
    }

    pub fn segment(&self, number: u32) -> PathBuf {
        self.folder.path().join(format!("0.{number}.tar"))
    }

    pub fn index(&self) -> PathBuf {
        self.folder.path().join("0.index")
    }

    pub fn new_file(path: &Path) -> File {
        File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
    }

    /// Captures on top of the index that is there, if `before`.
    pub fn capture(&self, source: &Source<'_>, number: u32, pass: Pass, before: bool) -> Captured {
        self.try_capture(source, number, pass, before).unwrap()
    }

    pub fn try_capture(
        &self,
        source: &Source<'_>,
        number: u32,
        pass: Pass,
        before: bool,
    ) -> anyhow::Result<Captured> {
        let before = before.then(|| IndexReader::new(File::open(self.index()).unwrap()).unwrap());
        let scan = Scan::new(source, before, Writers::Running, self.folder.path())?;
        let next = self.folder.path().join("next");
        let mut segment = Segment::new(Self::new_file(&self.segment(number)), self.form, number)?;
        // The reader recognises a form by its first bytes, and plain text is none.
        let form = if self.form == Form::Tar { Form::Zstd } else { self.form };
        let mut index = IndexWriter::new(Self::new_file(&next), form)?;
        let captured = scan.copy(source, pass, &mut segment, &mut index, &mut |_| {})?;
        segment.finish()?;
        index.finish()?;
        fs::rename(next, self.index())?;
        Ok(captured)
    }

    /// All segments, without checksums: damage must be found by their content.
    pub fn segments(&self) -> Vec<Stored> {
        let numbered = (0..100).map(|number| (number, self.segment(number)));
        let stored =
            |(number, path)| Some(Stored { number, file: File::open(path).ok()?, sha256: None });
        numbered.filter_map(stored).collect()
    }

    pub fn restore(&self, into: &Path) -> anyhow::Result<archive::Counts> {
        let index = File::open(self.index())?;
        restore(index, self.segments(), open(into), &mut |_| {})
    }
}

pub fn open(folder: &Path) -> Dir {
    Dir::open(&folder.canonicalize().unwrap()).unwrap()
}

/// All that can be seen of an entry, but for inode, change and access time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    links: u64,
    rdev: u64,
    size: u64,
    /// A hash of what is in a file, or where a link leads.
    content: u64,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same file.
    shared: Option<PathBuf>,
}

pub fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let tree = tree(root);
    let mut paths: Vec<PathBuf> = tree.walk().map(|entry| entry.unwrap().path).collect();
    paths.push(PathBuf::new());
    paths.sort();
    let mut first = BTreeMap::new();
    let seen = paths.into_iter().map(|path| {
        let at = match path.as_os_str().is_empty() {
            true => root.to_owned(),
            false => root.join(&path),
        };
        let meta = fs::symlink_metadata(&at).unwrap();
        let bytes = if meta.is_symlink() {
            fs::read_link(&at).unwrap().into_os_string().into_vec()
        } else if meta.is_file() && meta.len() < 1 << 30 {
            fs::read(&at).unwrap()
        } else {
            Vec::new()
        };
        let mut content = DefaultHasher::new();
        content.write(&bytes);
        let shared = (!meta.is_dir() && meta.nlink() > 1)
            .then(|| first.entry(meta.ino()).or_insert_with(|| path.clone()).clone());
        let seen = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            rdev: meta.rdev(),
            size: if meta.is_dir() { 0 } else { meta.len() },
            content: content.finish(),
            attributes: attributes(&at),
            shared,
        };
        (path, seen)
    });
    seen.collect()
}

pub fn assert_same(left: &BTreeMap<PathBuf, Seen>, right: &BTreeMap<PathBuf, Seen>) {
    let paths: Vec<_> = left.keys().chain(right.keys()).collect();
    for path in paths {
        assert_eq!(left.get(path), right.get(path), "{}", path.display());
    }
}

/// Sockets are not restored.
pub fn without_sockets(mut seen: BTreeMap<PathBuf, Seen>) -> BTreeMap<PathBuf, Seen> {
    seen.retain(|_, seen| seen.mode & 0o170_000 != 0o140_000);
    seen
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(path, name, &mut value[..]).unwrap_or_else(|error| {
            panic!("{path:?} {:?}: {error}", String::from_utf8_lossy(name))
        });
        value.truncate(length);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

pub fn attribute(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// u::rw-, u:1000:r--, g::r--, m::rw-, o::--- as the kernel keeps it.
pub fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in [
        (0x01_u16, 6_u16, u32::MAX),
        (0x02, 4, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&bits.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

pub fn odd_name() -> OsString {
    OsString::from_vec(b"new\nline \xff\xfe%41 'x'".to_vec())
}

/// Every kind of entry that a volume may hold.
pub fn zoo(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("a/b/empty")).unwrap();
    fs::write(at("a/file"), "content\n").unwrap();
    fs::write(at("a/none"), "").unwrap();
    fs::write(at("a-b"), vec![7; 3_000_000]).unwrap();
    fs::write(root.join(odd_name()), "odd").unwrap();
    fs::create_dir(root.join("folder\nof \u{e4}")).unwrap();
    fs::write(root.join("folder\nof \u{e4}").join(odd_name()), "odd too").unwrap();
    let deep = ["d".repeat(90), "e".repeat(90), "f".repeat(90)].join("/");
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&deep).join("deep"), "deep").unwrap();
    symlink(format!("/{}", "t".repeat(300)), at("long-link")).unwrap();
    symlink("../../../etc/passwd", at("a/out")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\n"), at("a/odd-link")).unwrap();
    for (file, mode) in [("a/setuid", 0o6755), ("a/secret", 0o000), ("a/sticky", 0o1777)] {
        fs::write(at(file), file).unwrap();
        chownat(
            CWD,
            at(file),
            Some(Uid::from_raw(1234)),
            Some(Gid::from_raw(3_000_000)),
            AtFlags::empty(),
        )
        .unwrap();
        fs::set_permissions(at(file), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::set_permissions(at("a/b"), PermissionsExt::from_mode(0o2570)).unwrap();
    for (first, other) in
        [("a/file", "z-other"), ("a/file", "a/b/third"), ("long-link", "link-again")]
    {
        fs::hard_link(at(first), at(other)).unwrap();
    }
    let owner = (Some(Uid::from_raw(999)), Some(Gid::from_raw(998)));
    chownat(CWD, at("a/out"), owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, at("pipe"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, at("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    mknodat(CWD, at("disk"), FileType::BlockDevice, mode, makedev(259, 70_000)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    add_attributes(root);
    add_holes(root);
    settle(root);
}

fn add_attributes(root: &Path) {
    let at = |name: &str| root.join(name);
    attribute(&at("a/file"), "user.plain", b"value");
    attribute(&at("a/file"), "user.odd=%name", b"with\nline feed\0and = \xff");
    attribute(&at("a/none"), "user.empty", b"");
    attribute(&at("a-b"), "user.large", &vec![b'\n'; 3000]);
    attribute(&at("a"), "user.folder", b"of a folder");
    attribute(&at("a-b"), "system.posix_acl_access", &acl());
    attribute(&at("a/b"), "system.posix_acl_default", &acl());
    attribute(&at("a/out"), "trusted.link", b"of a link");
    attribute(&at("pipe"), "trusted.pipe", b"of a pipe");
    // cap_net_bind_service+ep
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    attribute(&at("a/none"), "security.capability", &capability);
}

fn add_holes(root: &Path) {
    let at = |name: &str| root.join(name);
    let sparse = File::create(at("sparse")).unwrap();
    for place in [0_u64, 5 << 20, 9 << 20] {
        sparse.write_all_at(&[b's'; 5000], place).unwrap();
    }
    sparse.set_len(20 << 20).unwrap();
    File::create(at("a/hole")).unwrap().set_len(1 << 20).unwrap();
    let tail = File::create(at("tail")).unwrap();
    tail.write_all_at(b"end", (1 << 20) + 1).unwrap();
}

/// Times of their own for all, the folders after what is in them.
pub fn settle(root: &Path) {
    let mut paths: Vec<PathBuf> =
        tree(root).walk().map(|entry| root.join(entry.unwrap().path)).collect();
    paths.sort();
    for (n, path) in paths.iter().rev().chain([&root.to_owned()]).enumerate() {
        let time =
            |n: i64| Timespec { tv_sec: 1_000_000_000 - n * 40_000_000, tv_nsec: 123_456_789 - n };
        let times = Timestamps { last_access: time(0), last_modification: time(n as i64 % 30) };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Bytes on the disk of all files.
pub fn allocated(root: &Path) -> u64 {
    let files = tree(root);
    let sizes =
        files.walk().map(|entry| entry.unwrap().meta).filter(|meta| meta.kind == Kind::File);
    sizes.map(|meta| meta.allocated).sum()
}
