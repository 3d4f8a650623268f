//! Fetching an archive: in a thread of its own, hashed as it comes, and gone on with where it broke
//! off.
//!
//! Invariants: what is passed on is the file from its first byte on, each byte once; a file that has
//! changed between two tries is noticed, and is no success. When what reads the pipe has found the
//! archive damaged, the rest is still fetched and hashed: only the sum says whether it came like this.

use crate::bounds::{Beyond, Bounds};
use crate::names::ReleaseSha;
use crate::registry::{Source, Trouble, persist, refusal};
use crate::sums::{self, Sum};
use ansible_module::Failure;
use anyhow::Result;
use archive::pipe::Inlet;
use host::space::Space;
use probe::http::{self, Fetching};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who came so much further counts the tries again.
const FURTHER: u64 = 1 << 20;

/// What came.
#[derive(Clone, Debug)]
pub struct Came {
    pub sum: Sum,
    pub bytes: u64,
    /// How often it was gone on with.
    pub resumed: u32,
    /// The registry's own sum, and the header that it stood in.
    pub told: Option<(String, Sum)>,
}

/// Ended because nobody wants the rest.
#[derive(Debug)]
pub struct Unwanted;

impl std::fmt::Display for Unwanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the rest of the archive was not wanted")
    }
}

impl std::error::Error for Unwanted {}

/// Fetches all of it into `to`. `unwanted`: stop, no matter what the sum would be. `place`: where
/// it is unpacked, which must have room for it at least. What is longer than it may be unpacked is
/// not fetched.
pub fn run(
    source: &Source,
    sha: &ReleaseSha,
    place: &Path,
    bounds: Bounds,
    to: Inlet,
    unwanted: &AtomicBool,
) -> Result<Came> {
    let mut download = Download {
        source,
        sha,
        place,
        bounds,
        to: Some(to),
        unwanted,
        hash: Sha256::new(),
        bytes: 0,
        first: None,
        resumed: 0,
    };
    let mut counted = 0;
    persist(source, |in_vain| {
        let done = download.go_on();
        if done.is_err() {
            if download.bytes >= counted + FURTHER {
                (*in_vain, counted) = (0, download.bytes);
            }
            download.resumed += u32::from(download.bytes > 0);
        }
        done
    })?;
    let told = download.first.and_then(|first| first.sum);
    let sum = Sum::finish(download.hash);
    Ok(Came { sum, bytes: download.bytes, resumed: download.resumed, told })
}

struct Download<'a> {
    source: &'a Source,
    sha: &'a ReleaseSha,
    place: &'a Path,
    bounds: Bounds,
    to: Option<Inlet>,
    unwanted: &'a AtomicBool,
    hash: Sha256,
    bytes: u64,
    first: Option<First>,
    resumed: u32,
}

/// What the first answer said of the file, for all later ones to be compared with.
#[derive(PartialEq)]
struct First {
    total: Option<u64>,
    tags: Vec<String>,
    sum: Option<(String, Sum)>,
}

impl First {
    fn of(answer: &Fetching) -> First {
        let tag = |wanted: &str| {
            let named = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            named.map(|(_, value)| value.clone())
        };
        First {
            total: answer.total,
            tags: ["etag", "last-modified"].into_iter().filter_map(tag).collect(),
            sum: sums::in_headers(&answer.headers).map(|(name, sum)| (name.to_owned(), sum)),
        }
    }

    /// What both say; a server need not repeat a sum with a part.
    fn fits(&self, later: &First) -> bool {
        let total = self.total.is_none() || later.total.is_none() || self.total == later.total;
        let tags = self.tags.is_empty() || later.tags.is_empty() || self.tags == later.tags;
        total && tags
    }
}

impl Download<'_> {
    fn go_on(&mut self) -> Result<(), Trouble> {
        let mut answer = http::fetch(&self.source.request, self.bytes, self.source.patience)?;
        match answer.status {
            200 | 206 => {}
            416 if self.bytes > 0 => return Err(self.changed().into()),
            status => return Err(refusal(status, self.source, self.sha)),
        }
        let now = First::of(&answer);
        match &self.first {
            Some(first) if !first.fits(&now) => return Err(self.changed().into()),
            Some(_) => {}
            None => {
                if let Some(bytes) = now.total {
                    self.bounded(bytes)?;
                    let what = format!("release {}", self.sha);
                    Space::require(&what, self.place, Space { bytes, inodes: None })?;
                }
                self.first = Some(now);
            }
        }
        self.read(&mut answer)
    }

    fn bounded(&self, bytes: u64) -> Result<(), Trouble> {
        if bytes > self.bounds.unpacked {
            let deadline = self.source.patience.whole;
            return Err(self.bounds.failure(Beyond::Unpacked, deadline).into());
        }
        Ok(())
    }

    fn read(&mut self, answer: &mut Fetching) -> Result<(), Trouble> {
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
                if self.unwanted.load(Ordering::Relaxed) {
                    return Err(Trouble::Final(Unwanted.into()));
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
