//! Fetches an archive in a thread of its own, hashes it meanwhile, and resumes it when the connection breaks.
//!
//! Invariants: the bytes passed on are those of the file, from the first on and each once; a file that has
//! changed between two tries is an error. When the reader of the pipe finds the archive damaged, the rest is
//! still fetched and hashed: only the sum says whether it was published so.

use crate::bounds::{Bounds, Exceeded};
use crate::names::ReleaseSha;
use crate::registry::{Source, TryError, refusal, retry};
use crate::sums::{self, Sum};
use ansible_module::Failure;
use anyhow::Result;
use archive::pipe::Inlet;
use host::space::Space;
use probe::http::{self, Fetching};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// After so many new bytes, the count of tries begins again.
const RESET_TRIES_AFTER: u64 = 1 << 20;

/// A fetched archive.
#[derive(Clone, Debug)]
pub struct Downloaded {
    pub sum: Sum,
    pub bytes: u64,
    /// How often it was resumed.
    pub resumed: u32,
    /// The registry's own sum, and the name of its header.
    pub registry_sum: Option<(String, Sum)>,
}

/// The download was cancelled, since the archive was refused.
#[derive(Debug)]
pub struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the download was cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// Fetches the archive into `to`, until `cancelled` is set. `folder` is where it is unpacked, which must have
/// space for the archive at least. An archive longer than the bound of unpacked bytes is not fetched.
pub fn run(
    source: &Source,
    sha: &ReleaseSha,
    folder: &Path,
    bounds: Bounds,
    to: Inlet,
    cancelled: &AtomicBool,
) -> Result<Downloaded> {
    let mut download = Transfer {
        source,
        sha,
        folder,
        bounds,
        to: Some(to),
        cancelled,
        hash: Sha256::new(),
        bytes: 0,
        version: None,
        resumed: 0,
    };
    let mut counted = 0;
    retry(source, |failures| {
        let done = download.continue_transfer();
        if done.is_err() {
            if download.bytes >= counted + RESET_TRIES_AFTER {
                (*failures, counted) = (0, download.bytes);
            }
            download.resumed += u32::from(download.bytes > 0);
        }
        done
    })?;
    let registry_sum = download.version.and_then(|version| version.sum);
    let sum = Sum::finish(download.hash);
    Ok(Downloaded { sum, bytes: download.bytes, resumed: download.resumed, registry_sum })
}

struct Transfer<'a> {
    source: &'a Source,
    sha: &'a ReleaseSha,
    folder: &'a Path,
    bounds: Bounds,
    to: Option<Inlet>,
    cancelled: &'a AtomicBool,
    hash: Sha256,
    bytes: u64,
    version: Option<Version>,
    resumed: u32,
}

/// The version of the file, by the headers of an answer.
#[derive(PartialEq)]
struct Version {
    total: Option<u64>,
    tags: Vec<String>,
    sum: Option<(String, Sum)>,
}

impl Version {
    fn of(answer: &Fetching) -> Version {
        let tag = |wanted: &str| {
            let named = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.map(|(_, value)| value.clone())
        };
        Version {
            total: answer.total,
            tags: ["etag", "last-modified"].into_iter().filter_map(tag).collect(),
            sum: sums::in_headers(&answer.headers).map(|(name, sum)| (name.to_owned(), sum)),
        }
    }

    /// Compares what both answers have; a server need not repeat a sum with a part.
    fn fits(&self, later: &Version) -> bool {
        let total = self.total.is_none() || later.total.is_none() || self.total == later.total;
        let tags = self.tags.is_empty() || later.tags.is_empty() || self.tags == later.tags;
        total && tags
    }
}

impl Transfer<'_> {
    fn continue_transfer(&mut self) -> Result<(), TryError> {
        let mut answer = http::fetch(&self.source.request, self.bytes, self.source.patience)?;
        match answer.status {
            200 | 206 => {}
            416 if self.bytes > 0 => return Err(self.changed().into()),
            status => return Err(refusal(status, self.source, self.sha)),
        }
        let now = Version::of(&answer);
        match &self.version {
            Some(version) if !version.fits(&now) => return Err(self.changed().into()),
            Some(_) => {}
            None => {
                if let Some(bytes) = now.total {
                    self.bounded(bytes)?;
                    let what = format!("release {}", self.sha);
                    Space::require(&what, self.folder, Space { bytes, inodes: None })?;
                }
                self.version = Some(now);
            }
        }
        self.read(&mut answer)
    }

    fn bounded(&self, bytes: u64) -> Result<(), TryError> {
        if bytes > self.bounds.unpacked {
            let deadline = self.source.patience.whole;
            return Err(self.bounds.failure(Exceeded::Unpacked, deadline).into());
        }
        Ok(())
    }

    fn read(&mut self, answer: &mut Fetching) -> Result<(), TryError> {
        let mut spare = None;
        loop {
            let mut piece = match (spare.take(), &self.to) {
                (Some(piece), _) => piece,
                (None, Some(to)) => to.piece(),
                (None, None) => archive::pipe::Piece::default(),
            };
            let mut length = 0;
            let mut ended = Ok(false);
            while length < piece.room().len() {
                if self.cancelled.load(Ordering::Relaxed) {
                    return Err(TryError::Final(Cancelled.into()));
                }
                match answer.read(&mut piece.room()[length..]) {
                    Ok(0) => ended = Ok(true),
                    Ok(read) => {
                        length += read;
                        continue;
                    }
                    Err(why) => ended = Err(why),
                }
                break;
            }
            self.hash.update(&piece.room()[..length]);
            self.bytes += length as u64;
            self.bounded(self.bytes)?;
            match &self.to {
                Some(to) if length > 0 => {
                    if to.send(piece, length).is_err() {
                        self.to = None;
                    }
                }
                _ => spare = Some(piece),
            }
            if ended? {
                return Ok(());
            }
        }
    }

    fn changed(&self) -> Failure {
        let msg = format!(
            "the archive at {} was replaced by another one while it was fetched; run the task again",
            self.source.place()
        );
        Failure::new("changed_meanwhile", msg)
    }
}
