//! From the registry to a release of its own name: fetched, decoded and unpacked at the same time by
//! three threads, then judged, synced and renamed.
//!
//! Invariants: nothing has the name of a release before its sum and its end were found right and all
//! of it is on the disk. What fails leaves nothing but what the next run takes away. The archive
//! itself is never stored: there must be room for the release alone, and a run that was killed
//! begins again.

use crate::bounds::{Bounds, Meter};
use crate::download::{self, Came};
use crate::extract::{self, Count, Look};
use crate::folder::Folder;
use crate::names::ReleaseSha;
use crate::record::{Record, listing_of};
use crate::registry::{Source, published_sum};
use crate::state::{PARTIAL, discard};
use crate::stopped::Stopped;
use crate::sums::Sum;
use ansible_module::Failure;
use anyhow::{Context, Result, anyhow};
use archive::decode;
use archive::pipe::pipe;
use host::atomic::sync_folder;
use host::beneath::Dir;
use host::clock;
use host::deploy_id::DeployId;
use host::folder::SafeFolder;
use rustix::fs::syncfs;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

pub struct Install<'a> {
    pub source: &'a Source,
    pub sha: &'a ReleaseSha,
    pub folder: &'a Folder,
    pub look: Look,
    pub bounds: Bounds,
    pub order: u64,
    pub deploy_id: Option<&'a DeployId>,
}

impl Install<'_> {
    /// What was fetched, for the result.
    pub fn run(&self) -> Result<Value> {
        let begun = Instant::now();
        let known = match &self.source.sums_url {
            Some(url) => Some(("sums_url", published_sum(self.source, url, self.sha)?)),
            None => None,
        };
        let releases = SafeFolder::ensure(&self.folder.releases(), 0o755)?;
        let records = SafeFolder::ensure(&self.folder.records(), 0o700)?;
        let partial = releases.join(format!("{}{PARTIAL}", self.sha));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&partial)
            .with_context(|| format!("cannot make the folder {}", partial.display()))?;
        let done = self.fill(&partial, &records, known).and_then(|(came, record, checked)| {
            let whole = releases.join(self.sha.as_str());
            fs::rename(&partial, &whole)
                .with_context(|| format!("cannot rename {}", partial.display()))?;
            sync_folder(releases.path())?;
            Ok(json!({
                "bytes": came.bytes,
                "sha256": came.sum.to_string(),
                "checked": checked,
                "resumed": came.resumed,
                "entries": record.entries,
                "unpacked_bytes": record.bytes,
                "seconds": (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            }))
        });
        done.map_err(|error| {
            match discard(&partial).and_then(|()| Record::remove(&records, self.sha)) {
                Ok(()) => error,
                Err(also) => error.context(format!(
                    "{} is left, and the next run takes it away ({also:#})",
                    partial.display()
                )),
            }
        })
    }

    fn fill(
        &self,
        partial: &Path,
        records: &SafeFolder,
        known: Option<(&'static str, Sum)>,
    ) -> Result<(Came, Record, Vec<&'static str>)> {
        let root =
            Dir::open(partial).with_context(|| format!("cannot open {}", partial.display()))?;
        let path = listing_of(records, self.sha);
        let listing = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut listing = BufWriter::new(listing);
        let handle = root.try_clone().context("cannot keep the folder open")?;
        let (came, unpacked) = self.stream(partial, handle, &mut listing);
        let (came, checked, count) = self.judge(came, unpacked, known)?;
        let listed = listing.into_inner().map_err(|error| error.into_error());
        let listed = listed.with_context(|| format!("cannot write {}", path.display()))?;
        let mut record =
            Record::new(self.sha.clone(), self.order, clock::now(), self.source.place());
        record.deploy_id = self.deploy_id.cloned();
        record.sha256 = came.sum.to_string();
        record.checked = checked.iter().map(|how| (*how).to_owned()).collect();
        (record.archive_bytes, record.entries, record.bytes) =
            (came.bytes, count.entries, count.bytes);
        record.write(records)?;
        // One call for all files, where each file's own would wait for the disk each time; and one for
        // the records, should they lie on another disk.
        syncfs(&root).context("cannot sync what was unpacked")?;
        if listed.metadata()?.dev() != partial.metadata()?.dev() {
            syncfs(&listed).context("cannot sync the records")?;
        }
        Ok((came, record, checked))
    }

    /// All at once. Who fails lets the others end: a pipe without a reader, or without a writer.
    fn stream(
        &self,
        partial: &Path,
        root: Dir,
        listing: &mut dyn Write,
    ) -> (Result<Came>, Result<Count, Stopped>) {
        let unwanted = AtomicBool::new(false);
        let meter = Meter::new(self.bounds, self.source.patience.whole);
        let (fetched, to_decode) = pipe();
        let (decoded, to_unpack) = pipe();
        thread::scope(|scope| {
            let unwanted = &unwanted;
            let downloading = scope.spawn(move || {
                let (source, bounds) = (self.source, self.bounds);
                download::run(source, self.sha, partial, bounds, fetched, unwanted)
            });
            let decoding = scope.spawn(move || decode::run(to_decode, &decoded));
            let unpacked = extract::run(to_unpack, root, self.look, &meter, listing);
            if matches!(unpacked, Err(Stopped::For(_))) {
                unwanted.store(true, Ordering::Relaxed);
            }
            let panicked = || anyhow!("a worker thread panicked");
            // A damage that the decoder found looks to the one after it like an early end.
            let unpacked = match (decoding.join(), unpacked) {
                (Err(_), _) => Err(Stopped::For(panicked())),
                (Ok(Err(why)), Ok(_) | Err(Stopped::Damaged(_))) => Err(Stopped::Damaged(why)),
                (Ok(_), unpacked) => unpacked,
            };
            (downloading.join().unwrap_or_else(|_| Err(panicked())), unpacked)
        })
    }

    fn judge(
        &self,
        came: Result<Came>,
        unpacked: Result<Count, Stopped>,
        known: Option<(&'static str, Sum)>,
    ) -> Result<(Came, Vec<&'static str>, Count)> {
        let came = match (came, unpacked) {
            // It was not to be fetched to its end, so how that ended says nothing.
            (Err(_), Err(Stopped::For(cause))) => return Err(cause),
            (Err(error), _) => return Err(error),
            (Ok(came), unpacked) => (came, unpacked),
        };
        let (came, unpacked) = came;
        let mut checked = Vec::new();
        let given = self.source.sha256.map(|sum| ("sha256", sum));
        let told = came.told.as_ref().map(|(_, sum)| ("registry", *sum));
        for (how, sum) in [given, known, told].into_iter().flatten() {
            if sum != came.sum {
                return Err(self.wrong_sum(how, sum, &came).into());
            }
            checked.push(how);
        }
        match unpacked {
            Ok(count) => Ok((came, checked, count)),
            Err(Stopped::For(error)) => Err(error),
            Err(Stopped::Damaged(why)) => Err(self.damaged(&why, &checked).into()),
        }
    }

    fn wrong_sum(&self, how: &str, expected: Sum, came: &Came) -> Failure {
        let by = match how {
            "sha256" => "the option sha256",
            "sums_url" => "the file of sums",
            _ => "the registry itself",
        };
        let msg = format!(
            "the archive of release {} that came from {} ({} bytes) has the SHA-256 sum {}, and {by} says {expected}; nothing of it is kept",
            self.sha,
            self.source.place(),
            came.bytes,
            came.sum
        );
        Failure::new("sum_mismatch", msg)
            .with("sha256", came.sum.to_string())
            .with("expected", expected.to_string())
    }

    fn damaged(&self, why: &str, checked: &[&str]) -> Failure {
        let since = match checked {
            [] => "there is no sum to tell whether it was published like this",
            _ => "its sum is right, so it was published like this: build and push it again",
        };
        let (sha, place) = (self.sha, self.source.place());
        let msg = format!(
            "the archive of release {sha} from {place} is damaged: {why}; {since}; nothing of it is kept"
        );
        Failure::new("bad_archive", msg)
    }
}
