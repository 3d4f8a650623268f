//! A line of the index: one entry of the tree, as it was when it was looked at.
//!
//! Fourteen words with a blank between: kind, mode (octal), owner, group, size, time of the last write,
//! change time, inode, device, links, bytes in the segment, segment, times that it stands there, path.
//! Invariant: what one version has written every later one reads; an odd line is refused whole.

use crate::names::{escaped, parts, unescaped};
use host::meta::{Kind, Meta};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Folder,
    File,
    /// One more name of a file, link or device whose first name stands earlier in the same segment.
    HardLink,
    Link,
    Pipe,
    CharDevice,
    BlockDevice,
    /// Named, and left out: it is made by the program that listens.
    Socket,
}

const LETTERS: [(What, &str); 8] = [
    (What::Folder, "d"),
    (What::File, "f"),
    (What::HardLink, "h"),
    (What::Link, "l"),
    (What::Pipe, "p"),
    (What::CharDevice, "c"),
    (What::BlockDevice, "b"),
    (What::Socket, "s"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Below the root; empty for the root itself.
    pub path: PathBuf,
    pub what: What,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub modified: (i64, u32),
    /// `None`: it cannot be told later whether it has changed since.
    pub changed: Option<(i64, u32)>,
    pub ino: u64,
    pub dev: u64,
    pub links: u64,
    /// Bytes of content that stand in the segment: none for holes and for further names.
    pub stored: u64,
    /// Where its newest content stands; `None` while it is not copied, and for sockets.
    pub segment: Option<u32>,
    /// How often it stands there: a file that changed while it was read was copied again.
    pub times: u32,
}

impl Line {
    /// As it was seen, nothing copied yet.
    pub fn of(path: &Path, meta: &Meta) -> Line {
        let what = match (meta.kind, meta.mode & 0o170_000) {
            (Kind::Folder, _) => What::Folder,
            (Kind::File, _) => What::File,
            (Kind::Link, _) => What::Link,
            (Kind::Special, 0o010_000) => What::Pipe,
            (Kind::Special, 0o020_000) => What::CharDevice,
            (Kind::Special, 0o060_000) => What::BlockDevice,
            (Kind::Special, _) => What::Socket,
        };
        Line {
            path: path.to_owned(),
            what,
            mode: meta.mode & 0o7777,
            uid: meta.uid,
            gid: meta.gid,
            // That of a folder is the file system's own affair.
            size: if what == What::Folder { 0 } else { meta.size },
            modified: meta.modified,
            changed: Some(meta.changed),
            ino: meta.ino,
            dev: meta.dev,
            links: if what == What::Folder { 1 } else { meta.links },
            stored: 0,
            segment: None,
            times: 0,
        }
    }

    /// What has other names, by which these are found.
    pub fn shared(&self) -> Option<(u64, u64)> {
        let one = self.links < 2 || matches!(self.what, What::Folder | What::Socket);
        (!one).then_some((self.dev, self.ino))
    }

    /// A further name is of the kind of the first one.
    pub fn same_kind(&self, other: &Line) -> bool {
        let alone = |what| matches!(what, What::Folder | What::Socket);
        self.what == other.what
            || self.what == What::HardLink && !alone(other.what)
            || other.what == What::HardLink && !alone(self.what)
    }

    /// Whether this later look at the same path shows the very same content and attributes. The
    /// device is not compared: its number changes from one start of the machine to the next.
    pub fn unchanged(&self, later: &Line) -> bool {
        let all = |line: &Line| (line.mode, line.uid, line.gid, line.size, line.modified);
        self.changed.is_some()
            && self.changed == later.changed
            && (self.ino, self.links) == (later.ino, later.links)
            && self.same_kind(later)
            && all(self) == all(later)
    }

    pub fn write(&self, text: &mut String) {
        let letter = LETTERS.iter().find(|(what, _)| *what == self.what).map_or("?", |pair| pair.1);
        let Line { mode, uid, gid, size, ino, dev, links, stored, times, .. } = self;
        // Writing to a text cannot fail.
        let _ = write!(text, "{letter} {mode:o} {uid} {gid} {size} ");
        time(text, Some(self.modified));
        time(text, self.changed);
        let _ = write!(text, "{ino} {dev} {links} {stored} ");
        let _ = match self.segment {
            Some(segment) => write!(text, "{segment} {times} "),
            None => write!(text, "- {times} "),
        };
        match self.path.as_os_str().is_empty() {
            true => text.push('.'),
            false => text.push_str(&escaped(self.path.as_os_str())),
        }
        text.push('\n');
    }

    /// `None`: it is no such line, or its path leaves the root.
    pub fn parse(text: &str) -> Option<Line> {
        let mut words = text.split(' ');
        let mut word = || words.next();
        let letter = word()?;
        let line = Line {
            what: LETTERS.iter().find(|(_, known)| *known == letter)?.0,
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
            times: word()?.parse().ok()?,
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

/// The outer `None`: it is no time.
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
    // One way to write a path: else the order could be led astray.
    (!word.is_empty() && path.as_os_str() == OsStr::new(&name)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn line(path: &[u8]) -> Line {
        Line {
            path: PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())),
            what: What::File,
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
            times: 1,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for path in [&b""[..], b"a/b c/\n%", b"\xff/\xc3\xa9", b"..."] {
            let mut lines = vec![line(path)];
            lines.push(Line { changed: None, segment: None, ..line(path) });
            lines.extend(LETTERS.map(|(what, _)| Line { what, ..line(path) }));
            for line in lines {
                let mut text = String::new();
                line.write(&mut text);
                assert_eq!(Line::parse(text.strip_suffix('\n').unwrap()), Some(line), "{text}");
            }
        }
    }

    #[test]
    fn odd_lines_are_refused() {
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
