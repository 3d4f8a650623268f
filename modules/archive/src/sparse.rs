//! Unpacks sparse files: what the archive leaves out stays a hole on the disk.
//!
//! The old GNU form is read by the tar crate, which gives the holes as zeros. The PAX form 1.0 (GNU
//! tar with `--format=posix`, bsdtar) is read here: its map comes before the data, as decimal lines
//! in a block of zeros. The forms 0.0 and 0.1, which hardly anything has written since 2007, are
//! refused.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;

/// More pieces than any real file has, and few enough to be kept in memory.
const MOST_PIECES: usize = 1 << 16;
const BLOCK: usize = 512;

/// The PAX headers of an entry about a sparse file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pax {
    major: Option<String>,
    minor: Option<String>,
    name: Option<OsString>,
    size: Option<u64>,
    old: bool,
}

/// A sparse file in the PAX form 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sparse {
    pub name: OsString,
    pub size: u64,
}

impl Pax {
    pub fn note(&mut self, key: &str, value: &[u8]) {
        let text = || String::from_utf8_lossy(value).into_owned();
        match key {
            "GNU.sparse.major" => self.major = Some(text()),
            "GNU.sparse.minor" => self.minor = Some(text()),
            "GNU.sparse.name" => self.name = Some(OsString::from_vec(value.to_owned())),
            "GNU.sparse.realsize" => self.size = text().parse().ok(),
            key if key.starts_with("GNU.sparse.") => self.old = true,
            _ => {}
        }
    }

    /// The error completes "the entry x ...".
    pub fn finish(self) -> Result<Option<Sparse>, &'static str> {
        match (self.major.as_deref(), self.minor.as_deref(), self.name, self.size) {
            (None, None, None, None) if !self.old => Ok(None),
            (Some("1"), Some("0"), Some(name), Some(size)) => Ok(Some(Sparse { name, size })),
            _ => Err("is a sparse file in an unsupported form"),
        }
    }
}

/// Unpacks the data of an entry in the PAX form 1.0. The error says whether `from` or `to` failed.
pub fn unpack(from: &mut dyn Read, to: &mut File, size: u64) -> Result<(), Fault> {
    let map = read_map(from)?;
    let mut buffer = vec![0; 128 << 10];
    let mut end = 0;
    for (offset, length) in map {
        let after = offset.checked_add(length).filter(|after| *after <= size);
        let Some(after) = after.filter(|_| offset >= end) else {
            return Err(Fault::Archive(bad_map()));
        };
        end = after;
        to.seek(SeekFrom::Start(offset)).map_err(Fault::File)?;
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = from.read(&mut buffer[..most]).map_err(Fault::Archive)?;
            if read == 0 {
                return Err(Fault::Archive(bad_map()));
            }
            to.write_all(&buffer[..read]).map_err(Fault::File)?;
            left -= read as u64;
        }
    }
    to.set_len(size).map_err(Fault::File)
}

/// Writes blocks, and leaves holes where they are all zeros.
pub fn with_holes(to: &mut File, bytes: &[u8]) -> io::Result<()> {
    for block in bytes.chunks(4096) {
        if block.iter().all(|byte| *byte == 0) {
            to.seek_relative(block.len() as i64)?;
        } else {
            to.write_all(block)?;
        }
    }
    Ok(())
}

#[derive(Debug)]
pub enum Fault {
    Archive(io::Error),
    File(io::Error),
}

/// Reads the map: the number of pieces, then offset and length of each, every number on a line; padded
/// to a whole block.
fn read_map(from: &mut dyn Read) -> Result<Vec<(u64, u64)>, Fault> {
    let mut reader = Numbers { from, block: [0; BLOCK], at: BLOCK };
    let count = usize::try_from(reader.next()?).unwrap_or(usize::MAX);
    if count > MOST_PIECES {
        return Err(Fault::Archive(bad_map()));
    }
    (0..count).map(|_| Ok((reader.next()?, reader.next()?))).collect()
}

struct Numbers<'a> {
    from: &'a mut dyn Read,
    block: [u8; BLOCK],
    at: usize,
}

impl Numbers<'_> {
    fn next(&mut self) -> Result<u64, Fault> {
        let mut number: Option<u64> = None;
        loop {
            if self.at == BLOCK {
                self.from.read_exact(&mut self.block).map_err(Fault::Archive)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let grown = match byte {
                b'\n' => return number.ok_or_else(|| Fault::Archive(bad_map())),
                b'0'..=b'9' => (number.unwrap_or(0).checked_mul(10))
                    .and_then(|number| number.checked_add(u64::from(byte - b'0'))),
                _ => None,
            };
            number = Some(grown.ok_or_else(|| Fault::Archive(bad_map()))?);
        }
    }
}

fn bad_map() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the map of a sparse file is invalid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(map: &str, data: &[u8], size: u64) -> Result<Vec<u8>, Fault> {
        let mut archive = map.as_bytes().to_vec();
        archive.resize(archive.len().div_ceil(BLOCK) * BLOCK, 0);
        archive.extend_from_slice(data);
        let mut file = tempfile::tempfile().unwrap();
        unpack(&mut &archive[..], &mut file, size)?;
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    #[test]
    fn pieces_are_written_at_their_offsets() {
        assert_eq!(unpacked("2\n2\n3\n6\n1\n", b"abcd", 8).unwrap(), b"\0\0abc\0d\0");
        assert_eq!(unpacked("1\n4\n0\n", b"", 4).unwrap(), [0; 4]);
    }

    #[test]
    fn invalid_maps_are_refused() {
        for map in [
            "",
            "x\n",
            "\n",
            "1\n5\n5\n",
            "2\n4\n1\n0\n1\n",
            "9999999\n",
            "1\n99999999999999999999\n1\n",
            "1\n0\n3\n",
        ] {
            assert!(matches!(unpacked(map, b"ab", 8), Err(Fault::Archive(_))), "{map}");
        }
    }

    #[test]
    fn headers_say_which_form() {
        let pax = |pairs: &[(&str, &str)]| {
            let mut pax = Pax::default();
            pairs.iter().for_each(|(key, value)| pax.note(key, value.as_bytes()));
            pax.finish()
        };
        let form = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
        let rest = [("GNU.sparse.name", "a"), ("GNU.sparse.realsize", "9")];
        let known = pax(&[form, rest].concat()).unwrap();
        assert_eq!(known, Some(Sparse { name: "a".into(), size: 9 }));
        assert_eq!(pax(&[("path", "a"), ("mtime", "1.5")]), Ok(None));
        assert!(pax(&form).is_err() && pax(&[("GNU.sparse.map", "0,1")]).is_err());
    }
}
