//! Finds where a file has data and where holes, and writes the map of them in the PAX form 1.0.
//!
//! Invariant: everything outside of the pieces is a hole; where the file system does not report holes,
//! or reports too many, they count as data.

use crate::head::{BLOCK, padded};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Offset and length of each piece; the last one may be empty, and ends where the file does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents(Vec<(u64, u64)>);

/// As many as the reader accepts ([`crate::sparse`]).
const MAX_PIECES: usize = 1 << 16;

impl Extents {
    /// Finds the pieces; `None` means that the file has no holes.
    pub fn of(file: &File, size: u64) -> io::Result<Option<Extents>> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        // A shorter hole counts as data.
        let mut shortest = 4096;
        let mut at = 0;
        while at < size {
            let from = match seek(file, SeekFrom::Data(at)) {
                Ok(from) => from.min(size),
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if from == size {
                break;
            }
            at = match seek(file, SeekFrom::Hole(from)) {
                Ok(end) => end.min(size),
                // The file was truncated meanwhile: reading it will show that.
                Err(Errno::NXIO) => size,
                Err(error) => return Err(error.into()),
            };
            add_piece(&mut pieces, from, at, shortest);
            while pieces.len() >= MAX_PIECES {
                shortest *= 2;
                let all = std::mem::take(&mut pieces);
                all.into_iter().for_each(|(from, length)| {
                    add_piece(&mut pieces, from, from + length, shortest);
                });
            }
        }
        if pieces == [(0, size)] {
            return Ok(None);
        }
        if pieces.last().is_none_or(|(from, length)| from + length < size) {
            pieces.push((size, 0));
        }
        Ok(Some(Extents(pieces)))
    }

    pub fn pieces(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// The bytes of all pieces together.
    pub fn data(&self) -> u64 {
        self.0.iter().map(|(_, length)| length).sum()
    }

    /// The map as it is in the archive, before the data.
    pub fn map(&self) -> Vec<u8> {
        let mut text = format!("{}\n", self.0.len());
        for (from, length) in &self.0 {
            text.push_str(&format!("{from}\n{length}\n"));
        }
        let mut bytes = text.into_bytes();
        bytes.resize(padded(bytes.len() as u64) as usize, 0);
        debug_assert!(bytes.len() % BLOCK == 0);
        bytes
    }
}

/// Adds a piece, or extends the last one when the hole between them is too short.
fn add_piece(pieces: &mut Vec<(u64, u64)>, from: u64, end: u64, shortest: u64) {
    match pieces.last_mut() {
        Some((at, length)) if from - (*at + *length) < shortest => *length = end - *at,
        _ => pieces.push((from, end - from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_found() {
        let of = |pieces: &[(u64, usize)], size: u64| {
            let file = tempfile::tempfile().unwrap();
            for (at, length) in pieces {
                file.write_all_at(&vec![1; *length], *at).unwrap();
            }
            file.set_len(size).unwrap();
            Extents::of(&file, size).unwrap().map(|extents| extents.0)
        };
        let mib = 1 << 20;
        assert_eq!(of(&[], 0), Some(vec![(0, 0)]));
        assert_eq!(of(&[(0, 5)], 5), None);
        assert_eq!(of(&[], 10 * mib), Some(vec![(10 * mib, 0)]));
        assert_eq!(
            of(&[(0, 4096), (mib, 4096)], 3 * mib),
            Some(vec![(0, 4096), (mib, 4096), (3 * mib, 0)])
        );
        assert_eq!(of(&[(mib, 4096)], mib + 4096), Some(vec![(mib, 4096)]));
    }

    #[test]
    fn too_many_pieces_become_fewer() {
        let mut pieces = Vec::new();
        for at in 0..10 {
            add_piece(&mut pieces, at * 8192, at * 8192 + 4096, 4097);
        }
        assert_eq!(pieces, [(0, 9 * 8192 + 4096)]);
    }
}
