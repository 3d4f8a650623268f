//! Limits for one archive: space, entries, names, memory and time.
//!
//! With compression, sparse files and extended headers, a few bytes can describe endless files, holes and
//! names. Invariant: what an archive claims is checked against its bounds before anything is created or kept
//! in memory for it, and everything that is read of it counts.

use crate::unpack_error::UnpackError;
use ansible_module::Failure;
use host::deadline::{Deadline, seconds};
use host::space::human;
use std::cell::Cell;
use std::io::{self, Read};

/// The kernel's limit for one path, with the zero byte at its end.
pub const MAX_NAME: usize = 4096;
/// The limit for the headers before one entry: its long names, its extended attributes (the kernel has 64 KiB
/// for each), the map of a sparse file in the old format. All of it is held in memory.
const MAX_HEADERS: u64 = 2 << 20;
/// Limit for the average length of names. Names of folders and links are kept in memory until the end, and
/// all names are listed on the disk. Real trees have about 100 bytes for each.
const NAME_BYTES_PER_FILE: u64 = 256;
const MIN_NAMES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum bytes of the decompressed archive, and of all its files together.
    pub unpacked: u64,
    pub files: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    Unpacked,
    Files,
    Names,
    Head,
    Deadline,
}

/// Counts how much of the bounds is used.
pub struct Usage {
    bounds: Bounds,
    deadline: Deadline,
    read: Cell<u64>,
    /// How many bytes of headers may still come before the next entry; `None` inside of an entry.
    headers_left: Cell<Option<u64>>,
    entries: Cell<u64>,
    made: Cell<u64>,
    names: Cell<u64>,
    files: Cell<u64>,
    /// The bound that ended reading, which an `io::Error` cannot carry.
    exceeded: Cell<Option<Exceeded>>,
}

impl Bounds {
    pub fn failure(&self, exceeded: Exceeded, deadline: Deadline) -> Failure {
        let (files, names) = (self.files, human(self.max_names()));
        let why = match exceeded {
            Exceeded::Unpacked => format!(
                "is more than {} once it is unpacked; raise max_unpacked if it is meant to be so large",
                human(self.unpacked)
            ),
            Exceeded::Files => format!(
                "holds more than {files} files, folders and links; raise max_files if it is meant to hold so many"
            ),
            Exceeded::Names => format!(
                "has names of more than {names} together; raise max_files if it is meant to have them"
            ),
            Exceeded::Head => format!(
                "has an entry with more than {} of names and attributes before it, which no file needs",
                human(MAX_HEADERS)
            ),
            Exceeded::Deadline => format!(
                "was not fetched and unpacked within {}; raise deadline if it may take longer",
                seconds(deadline.span())
            ),
        };
        let reason = if exceeded == Exceeded::Deadline { "timed_out" } else { "too_large" };
        Failure::new(reason, format!("the archive {why}; nothing of it is kept"))
    }

    fn max_names(&self) -> u64 {
        self.files.saturating_mul(NAME_BYTES_PER_FILE).saturating_add(MIN_NAMES)
    }
}

impl Usage {
    pub fn new(bounds: Bounds, deadline: Deadline) -> Usage {
        Usage {
            bounds,
            deadline,
            read: Cell::new(0),
            headers_left: Cell::new(Some(MAX_HEADERS)),
            entries: Cell::new(0),
            made: Cell::new(0),
            names: Cell::new(0),
            files: Cell::new(0),
            exceeded: Cell::new(None),
        }
    }

    /// Counts an entry, whose content begins.
    pub fn entry(&self) -> Result<(), UnpackError> {
        self.headers_left.set(None);
        self.in_time()?;
        self.add(&self.entries, 1, self.bounds.files, Exceeded::Files)
    }

    /// The last entry was read; only the end of the archive follows.
    pub fn entries_ended(&self) {
        self.headers_left.set(None);
    }

    /// The content of an entry was read; the headers of the next one follow.
    pub fn entry_ended(&self) {
        self.headers_left.set(Some(MAX_HEADERS));
    }

    /// Counts the bytes of a file, with those of its holes, before it is made.
    pub fn file(&self, bytes: u64) -> Result<(), UnpackError> {
        self.add(&self.files, bytes, self.bounds.unpacked, Exceeded::Unpacked)
    }

    /// Counts a file, folder or link that was made; `names` is the length of the names that are recorded of it.
    pub fn made(&self, names: usize) -> Result<(), UnpackError> {
        self.add(&self.made, 1, self.bounds.files, Exceeded::Files)?;
        self.add(&self.names, names as u64, self.bounds.max_names(), Exceeded::Names)
    }

    pub fn in_time(&self) -> Result<(), UnpackError> {
        if self.deadline.passed() { Err(self.stopped(Exceeded::Deadline)) } else { Ok(()) }
    }

    /// Replaces the error by the exceeded bound, if one has ended reading.
    pub fn judge(&self, stopped: UnpackError) -> UnpackError {
        match (stopped, self.exceeded.get()) {
            (UnpackError::Damaged(_), Some(exceeded)) => self.stopped(exceeded),
            (stopped, _) => stopped,
        }
    }

    fn add(
        &self,
        to: &Cell<u64>,
        more: u64,
        most: u64,
        exceeded: Exceeded,
    ) -> Result<(), UnpackError> {
        let sum = to.get().saturating_add(more);
        to.set(sum);
        if sum > most { Err(self.stopped(exceeded)) } else { Ok(()) }
    }

    fn stopped(&self, exceeded: Exceeded) -> UnpackError {
        UnpackError::Other(self.bounds.failure(exceeded, self.deadline).into())
    }

    /// Counts bytes that were read of the archive.
    fn count_bytes(&self, bytes: u64) -> Result<(), Exceeded> {
        self.read.set(self.read.get().saturating_add(bytes));
        if self.read.get() > self.bounds.unpacked {
            return Err(Exceeded::Unpacked);
        }
        if let Some(left) = self.headers_left.get() {
            self.headers_left.set(Some(left.checked_sub(bytes).ok_or(Exceeded::Head)?));
        }
        // At the end of the archive, the download says whether it was in time, and why not.
        if bytes > 0 && self.deadline.passed() { Err(Exceeded::Deadline) } else { Ok(()) }
    }
}

/// A reader of the decompressed archive that counts the bytes, and the zeros at its end: a tar archive that
/// was truncated between two entries has none.
pub struct MeteredReader<'a, R> {
    inner: R,
    usage: &'a Usage,
    zeros: usize,
}

impl<'a, R: Read> MeteredReader<'a, R> {
    pub fn new(inner: R, usage: &'a Usage) -> MeteredReader<'a, R> {
        MeteredReader { inner, usage, zeros: 0 }
    }

    /// Returns with how many zeros the archive ends so far.
    pub fn zeros(&self) -> usize {
        self.zeros
    }
}

impl<R: Read> Read for MeteredReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Err(exceeded) = self.usage.count_bytes(read as u64) {
            self.usage.exceeded.set(Some(exceeded));
            return Err(io::Error::other("the archive exceeds its bounds"));
        }
        let zeros = buffer[..read].iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if zeros == read { self.zeros.saturating_add(read) } else { zeros };
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn usage(unpacked: u64, files: u64) -> Usage {
        Usage::new(Bounds { unpacked, files }, Deadline::after(Duration::from_secs(3600)))
    }

    fn msg(error: UnpackError) -> String {
        match error {
            UnpackError::Other(error) => error.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn only_headers_have_the_bound_of_headers() {
        let usage = usage(u64::MAX, 10);
        assert_eq!(usage.count_bytes(MAX_HEADERS), Ok(()));
        usage.entry().unwrap();
        assert_eq!(usage.count_bytes(10 * MAX_HEADERS), Ok(()), "the content of an entry");
        usage.entry_ended();
        assert_eq!(usage.count_bytes(MAX_HEADERS), Ok(()), "counted again for each entry");
        assert_eq!(usage.count_bytes(1), Err(Exceeded::Head));
        usage.entries_ended();
        assert_eq!(usage.count_bytes(MAX_HEADERS), Ok(()), "the zeros at the end");
    }

    #[test]
    fn sums_never_wrap() {
        let usage = usage(1 << 40, 2);
        usage.file(1 << 40).unwrap();
        assert!(msg(usage.file(u64::MAX).unwrap_err()).contains("max_unpacked"));
        assert!(msg(usage.file(0).unwrap_err()).contains("max_unpacked"));
        assert_eq!(usage.count_bytes(u64::MAX), Err(Exceeded::Unpacked));
        assert_eq!(usage.count_bytes(1), Err(Exceeded::Unpacked));
    }

    #[test]
    fn what_is_made_counts_beyond_the_entries() {
        // Folders on the way to a file are made without an entry of their own.
        let usage = usage(1, 2);
        usage.entry().unwrap();
        usage.made(10).unwrap();
        usage.made(10).unwrap();
        assert!(msg(usage.made(10).unwrap_err()).contains("max_files"));
        let names = self::usage(1, 2);
        let most = usize::try_from(names.bounds.max_names()).unwrap();
        names.made(most).unwrap();
        assert!(msg(names.made(1).unwrap_err()).contains("names of more than"));
    }

    #[test]
    fn a_bound_explains_only_a_broken_archive() {
        let usage = usage(1, 1);
        let damaged = || UnpackError::Damaged("it ends".into());
        assert!(matches!(usage.judge(damaged()), UnpackError::Damaged(_)));
        let mut reader = MeteredReader::new(&b"ab"[..], &usage);
        assert!(reader.read(&mut [0; 2]).is_err());
        assert!(msg(usage.judge(damaged())).contains("max_unpacked"));
        let full = UnpackError::Other(anyhow::anyhow!("the disk is full"));
        assert_eq!(msg(usage.judge(full)), "the disk is full");
    }

    #[test]
    fn zeros_at_the_end_are_counted_over_several_reads() {
        let usage = usage(u64::MAX, 1);
        let parts: [&[u8]; 4] = [&[0, 0, 7, 0], &[0, 0], &[0; 3], &[]];
        let mut zeros = Vec::new();
        let chain = parts[0].chain(parts[1]).chain(parts[2]);
        let mut reader = MeteredReader::new(chain, &usage);
        for part in parts {
            assert_eq!(reader.read(&mut [1; 4]).unwrap(), part.len());
            zeros.push(reader.zeros());
        }
        assert_eq!(zeros, [1, 3, 6, 6]);
    }
}
