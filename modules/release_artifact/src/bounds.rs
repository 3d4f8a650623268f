//! What one archive may take at most: room, entries, names, memory and time.
//!
//! A few bytes can describe endless files, holes and names: compression, sparse files and extended
//! headers all say more than they are. Invariant: what an archive claims is held against its bounds
//! before anything is made or kept in memory for it, and everything that is read of it counts.

use crate::stopped::Stopped;
use ansible_module::Failure;
use host::deadline::{Deadline, seconds};
use host::space::human;
use std::cell::Cell;
use std::io::{self, Read};

/// What the kernel takes for one path, with the zero byte at its end.
pub const LONGEST_NAME: usize = 4096;
/// What may stand before one entry: its long names, its extended attributes (the kernel has 64 KiB
/// for each), the map of a sparse file in the old form. All of it is held in memory.
const LONGEST_HEAD: u64 = 2 << 20;
/// Names of folders and links are held until the end, and all names are listed on the disk. Real
/// trees have about 100 bytes for each.
const NAME_SHARE: u64 = 256;
const NAMES_AT_LEAST: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of the archive once it is decompressed, and of its files together.
    pub unpacked: u64,
    pub files: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    Unpacked,
    Files,
    Names,
    Head,
    Deadline,
}

/// How much of the bounds is used.
pub struct Meter {
    bounds: Bounds,
    deadline: Deadline,
    read: Cell<u64>,
    /// What may still come before the next entry; none: it has begun.
    head_left: Cell<Option<u64>>,
    entries: Cell<u64>,
    made: Cell<u64>,
    names: Cell<u64>,
    files: Cell<u64>,
    /// Why reading stopped; an error of a reader could not say it.
    beyond: Cell<Option<Beyond>>,
}

impl Bounds {
    pub fn failure(&self, beyond: Beyond, deadline: Deadline) -> Failure {
        let (files, names) = (self.files, human(self.most_names()));
        let why = match beyond {
            Beyond::Unpacked => format!(
                "is more than {} once it is unpacked; raise max_unpacked if it is meant to be so large",
                human(self.unpacked)
            ),
            Beyond::Files => format!(
                "holds more than {files} files, folders and links; raise max_files if it is meant to hold so many"
            ),
            Beyond::Names => format!(
                "has names of more than {names} together; raise max_files if it is meant to have them"
            ),
            Beyond::Head => format!(
                "has an entry with more than {} of names and attributes before it, which no file needs",
                human(LONGEST_HEAD)
            ),
            Beyond::Deadline => format!(
                "was not fetched and unpacked within {}; raise deadline if it may take longer",
                seconds(deadline.span())
            ),
        };
        let reason = if beyond == Beyond::Deadline { "timed_out" } else { "too_large" };
        Failure::new(reason, format!("the archive {why}; nothing of it is kept"))
    }

    fn most_names(&self) -> u64 {
        self.files.saturating_mul(NAME_SHARE).saturating_add(NAMES_AT_LEAST)
    }
}

impl Meter {
    pub fn new(bounds: Bounds, deadline: Deadline) -> Meter {
        Meter {
            bounds,
            deadline,
            read: Cell::new(0),
            head_left: Cell::new(Some(LONGEST_HEAD)),
            entries: Cell::new(0),
            made: Cell::new(0),
            names: Cell::new(0),
            files: Cell::new(0),
            beyond: Cell::new(None),
        }
    }

    /// One more has begun.
    pub fn entry(&self) -> Result<(), Stopped> {
        self.head_left.set(None);
        self.in_time()?;
        self.add(&self.entries, 1, self.bounds.files, Beyond::Files)
    }

    /// None comes any more, only the end.
    pub fn entries_ended(&self) {
        self.head_left.set(None);
    }

    /// It was read to its end; from here on the next one's head counts.
    pub fn entry_ended(&self) {
        self.head_left.set(Some(LONGEST_HEAD));
    }

    /// A file of so many bytes, those of its holes with them, is about to be made.
    pub fn file(&self, bytes: u64) -> Result<(), Stopped> {
        self.add(&self.files, bytes, self.bounds.unpacked, Beyond::Unpacked)
    }

    /// A file, folder or link was made; `names` is the length of all that is noted of it.
    pub fn made(&self, names: usize) -> Result<(), Stopped> {
        self.add(&self.made, 1, self.bounds.files, Beyond::Files)?;
        self.add(&self.names, names as u64, self.bounds.most_names(), Beyond::Names)
    }

    pub fn in_time(&self) -> Result<(), Stopped> {
        if self.deadline.passed() { Err(self.stopped(Beyond::Deadline)) } else { Ok(()) }
    }

    /// What broke off reading, if a bound did.
    pub fn judge(&self, stopped: Stopped) -> Stopped {
        match (stopped, self.beyond.get()) {
            (Stopped::Damaged(_), Some(beyond)) => self.stopped(beyond),
            (stopped, _) => stopped,
        }
    }

    fn add(&self, to: &Cell<u64>, more: u64, most: u64, beyond: Beyond) -> Result<(), Stopped> {
        let sum = to.get().saturating_add(more);
        to.set(sum);
        if sum > most { Err(self.stopped(beyond)) } else { Ok(()) }
    }

    fn stopped(&self, beyond: Beyond) -> Stopped {
        Stopped::For(self.bounds.failure(beyond, self.deadline).into())
    }

    /// So many bytes of the archive came.
    fn came(&self, bytes: u64) -> Result<(), Beyond> {
        self.read.set(self.read.get().saturating_add(bytes));
        if self.read.get() > self.bounds.unpacked {
            return Err(Beyond::Unpacked);
        }
        if let Some(left) = self.head_left.get() {
            self.head_left.set(Some(left.checked_sub(bytes).ok_or(Beyond::Head)?));
        }
        // At the end it is for who fetched it to say whether that was in time, and why not.
        if bytes > 0 && self.deadline.passed() { Err(Beyond::Deadline) } else { Ok(()) }
    }
}

/// The decompressed archive. Counts what is read of it, and the zeros at its end: a tar archive that
/// was cut between two entries has none.
pub struct Metered<'a, R> {
    inner: R,
    meter: &'a Meter,
    zeros: usize,
}

impl<'a, R: Read> Metered<'a, R> {
    pub fn new(inner: R, meter: &'a Meter) -> Metered<'a, R> {
        Metered { inner, meter, zeros: 0 }
    }

    /// So far it ended with so many zeros.
    pub fn zeros(&self) -> usize {
        self.zeros
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Err(beyond) = self.meter.came(read as u64) {
            self.meter.beyond.set(Some(beyond));
            return Err(io::Error::other("it is beyond its bounds"));
        }
        let zeros = buffer[..read].iter().rev().take_while(|byte| **byte == 0).count();
        self.zeros = if zeros == read { self.zeros.saturating_add(read) } else { zeros };
        Ok(read)
    }
}
