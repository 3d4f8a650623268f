//! A line of the index: one entry of the tree, as it was when it was scanned.
//!
//! Fourteen fields separated by blanks: kind, mode (octal), owner, group, size, modification time,
//! change time, inode, device, links, bytes in the segment, segment, number of copies there, path.
//! Invariant: every later version reads what one version has written; an invalid line is an error.

use crate::names::{escaped, parts, unescaped};
use host::meta::{Kind, Meta};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Folder,
    File,
    /// A further name of a file, link or device whose first name comes earlier in the same segment.
    HardLink,
    Link,
    Pipe,
    CharDevice,
    BlockDevice,
    /// A socket: it is listed and not restored, since the listening program creates it.
    Socket,
}

const LETTERS: [(EntryKind, &str); 8] = [
    (EntryKind::Folder, "d"),
    (EntryKind::File, "f"),
    (EntryKind::HardLink, "h"),
    (EntryKind::Link, "l"),
    (EntryKind::Pipe, "p"),
    (EntryKind::CharDevice, "c"),
    (EntryKind::BlockDevice, "b"),
    (EntryKind::Socket, "s"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Path below the root; empty for the root itself.
    pub path: PathBuf,
    pub kind: EntryKind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub modified: (i64, u32),
    /// Change time; `None` when it cannot prove later that the file has not changed.
    pub changed: Option<(i64, u32)>,
    pub ino: u64,
    pub dev: u64,
    pub links: u64,
    /// Bytes of content in the segment: holes and further names take none.
    pub stored: u64,
    /// The segment with the newest content; `None` before it is copied, and for sockets.
    pub segment: Option<u32>,
    /// How often it is in that segment: a file that changed while it was read was copied again.
    pub copies: u32,
}

impl Line {
    /// The line of an entry that is not copied yet.
    pub fn of(path: &Path, meta: &Meta) -> Line {
        let kind = match (meta.kind, meta.mode & 0o170_000) {
            (Kind::Folder, _) => EntryKind::Folder,
            (Kind::File, _) => EntryKind::File,
            (Kind::Link, _) => EntryKind::Link,
            (Kind::Special, 0o010_000) => EntryKind::Pipe,
            (Kind::Special, 0o020_000) => EntryKind::CharDevice,
            (Kind::Special, 0o060_000) => EntryKind::BlockDevice,
            (Kind::Special, _) => EntryKind::Socket,
        };
        Line {
            path: path.to_owned(),
            kind,
            mode: meta.mode & 0o7777,
            uid: meta.uid,
            gid: meta.gid,
            // The size of a folder says nothing about its content.
            size: if kind == EntryKind::Folder { 0 } else { meta.size },
            modified: meta.modified,
            changed: Some(meta.changed),
            ino: meta.ino,
            dev: meta.dev,
            links: if kind == EntryKind::Folder { 1 } else { meta.links },
            stored: 0,
            segment: None,
            copies: 0,
        }
    }

    /// Device and inode of an entry that has several names.
    pub fn shared(&self) -> Option<(u64, u64)> {
        let one = self.links < 2 || matches!(self.kind, EntryKind::Folder | EntryKind::Socket);
        (!one).then_some((self.dev, self.ino))
    }

    /// Whether both are of the same kind; a further name has the kind of the first one.
    pub fn same_kind(&self, other: &Line) -> bool {
        let alone = |kind| matches!(kind, EntryKind::Folder | EntryKind::Socket);
        self.kind == other.kind
            || self.kind == EntryKind::HardLink && !alone(other.kind)
            || other.kind == EntryKind::HardLink && !alone(self.kind)
    }

    /// Whether a later line of the same path has certainly the same content and attributes. The device
    /// is not compared: its number can change when the machine boots.
    pub fn unchanged(&self, later: &Line) -> bool {
        let all = |line: &Line| (line.mode, line.uid, line.gid, line.size, line.modified);
        self.changed.is_some()
            && self.changed == later.changed
            && (self.ino, self.links) == (later.ino, later.links)
            && self.same_kind(later)
            && all(self) == all(later)
    }

    pub fn write(&self, text: &mut String) {
        let letter = LETTERS.iter().find(|(kind, _)| *kind == self.kind).map_or("?", |pair| pair.1);
        let Line { mode, uid, gid, size, ino, dev, links, stored, copies, .. } = self;
        // Writing to a String cannot fail.
        let _ = write!(text, "{letter} {mode:o} {uid} {gid} {size} ");
        time(text, Some(self.modified));
        time(text, self.changed);
        let _ = write!(text, "{ino} {dev} {links} {stored} ");
        let _ = match self.segment {
            Some(segment) => write!(text, "{segment} {copies} "),
            None => write!(text, "- {copies} "),
        };
        match self.path.as_os_str().is_empty() {
            true => text.push('.'),
            false => text.push_str(&escaped(self.path.as_os_str())),
        }
        text.push('\n');
    }

    /// Parses a line; `None` when it is invalid or its path leaves the root.
    pub fn parse(text: &str) -> Option<Line> {
        let mut words = text.split(' ');
        let mut word = || words.next();
        let letter = word()?;
        let line = Line {
            kind: LETTERS.iter().find(|(_, known)| *known == letter)?.0,
            mode: u32::from_str_radix(word()?, 8).ok().filter(|mode| *mode <= 0o7777)?,
            uid: word()?.parse().ok()?,
            gid: word()?.parse().ok()?,
            size: word()?.parse().ok()?,
            modified: parse_time(word()?)??,
            changed: parse_time(word()?)?,
            ino: word()?.parse().ok()?,
            dev: word()?.parse().ok()?,
            links: word()?.parse().ok()?,
            stored: word()?.parse().ok()?,
            segment: match word()? {
                "-" => None,
                number => Some(number.parse().ok()?),
            },
            copies: word()?.parse().ok()?,
            path: path(word()?)?,
        };
        words.next().is_none().then_some(line)
    }
}

fn time(text: &mut String, time: Option<(i64, u32)>) {
    let _ = match time {
        Some((seconds, nanos)) => write!(text, "{seconds}.{nanos:09} "),
        None => write!(text, "- "),
    };
}

/// Parses a time or "-"; the outer `None` means that it is neither.
fn parse_time(word: &str) -> Option<Option<(i64, u32)>> {
    if word == "-" {
        return Some(None);
    }
    let (seconds, nanos) = word.split_once('.')?;
    let nanos = (nanos.len() == 9).then(|| nanos.parse().ok())??;
    Some(Some((seconds.parse().ok()?, nanos)))
}

fn path(word: &str) -> Option<PathBuf> {
    if word == "." {
        return Some(PathBuf::new());
    }
    let name = unescaped(word)?;
    let path: PathBuf = parts(name.as_bytes()).ok()?.iter().collect();
    // Each path has only one form, else the check of the order could be deceived.
    (!word.is_empty() && path.as_os_str() == OsStr::new(&name)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn line(path: &[u8]) -> Line {
        Line {
            path: PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())),
            kind: EntryKind::File,
            mode: 0o4755,
            uid: 0,
            gid: 4_294_967_294,
            size: u64::MAX,
            modified: (-5, 7),
            changed: Some((1_763_713_500, 123_456_789)),
            ino: 1,
            dev: 2,
            links: 3,
            stored: 4,
            segment: Some(5),
            copies: 1,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for path in [&b""[..], b"a/b c/\n%", b"\xff/\xc3\xa9", b"..."] {
            let mut lines = vec![line(path)];
            lines.push(Line { changed: None, segment: None, ..line(path) });
            lines.extend(LETTERS.map(|(kind, _)| Line { kind, ..line(path) }));
            for line in lines {
                let mut text = String::new();
                line.write(&mut text);
                assert_eq!(Line::parse(text.strip_suffix('\n').unwrap()), Some(line), "{text}");
            }
        }
    }

    #[test]
    fn invalid_lines_are_refused() {
        let good = "f 644 0 0 5 1.000000000 2.000000000 1 2 1 5 0 1 a/b";
        assert!(Line::parse(good).is_some());
        for (from, to) in [
            ("f ", "x "),
            ("644", "10000"),
            ("644", "648"),
            (" a/b", ""),
            (" a/b", " "),
            ("a/b", "../b"),
            ("a/b", "/b"),
            ("a/b", "a/./b"),
            ("a/b", "a//b"),
            ("a/b", "a/"),
            ("a/b", "./a"),
            ("a/b", "a/b "),
            ("a/b", "a%00b"),
            ("1.000000000", "1.0"),
            ("1.000000000", "-"),
            (" 0 1 a", " -1 1 a"),
        ] {
            let odd = good.replace(from, to);
            assert_eq!(Line::parse(&odd), None, "{odd}");
        }
    }
}
