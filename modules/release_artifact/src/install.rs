//! Installs a release from the registry: three threads fetch, decode and unpack it at the same time; then it
//! is checked, synced and renamed.
//!
//! Invariants: a release gets its name only after its sum and its end were checked and all of it is on the
//! disk. A failed run leaves nothing but what the next run removes. The archive itself is never stored: space
//! for the release is enough, and after a killed run the fetch begins again.

use crate::bounds::{Bounds, Usage};
use crate::download::{self, Downloaded};
use crate::extract::{self, Attributes, Count};
use crate::folder::Folder;
use crate::names::ReleaseSha;
use crate::record::{Record, listing_of};
use crate::registry::{Source, published_sum};
use crate::state::{PARTIAL, discard};
use crate::sums::Sum;
use crate::unpack_error::UnpackError;
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
    pub attributes: Attributes,
    pub bounds: Bounds,
    pub order: u64,
    pub deploy_id: Option<&'a DeployId>,
}

impl Install<'_> {
    /// Returns the `download` of the result.
    pub fn run(&self) -> Result<Value> {
        let began = Instant::now();
        let from_sums = match &self.source.sums_url {
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
        let done =
            self.fill(&partial, &records, from_sums).and_then(|(downloaded, record, checked)| {
                let whole = releases.join(self.sha.as_str());
                fs::rename(&partial, &whole)
                    .with_context(|| format!("cannot rename {}", partial.display()))?;
                sync_folder(releases.path())?;
                Ok(json!({
                    "bytes": downloaded.bytes,
                    "sha256": downloaded.sum.to_string(),
                    "checked": checked,
                    "resumed": downloaded.resumed,
                    "entries": record.entries,
                    "unpacked_bytes": record.bytes,
                    "seconds": (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
                }))
            });
        done.map_err(|error| {
            match discard(&partial).and_then(|()| Record::remove(&records, self.sha)) {
                Ok(()) => error,
                Err(also) => error.context(format!(
                    "{} could not be removed, which the next run does ({also:#})",
                    partial.display()
                )),
            }
        })
    }

    fn fill(
        &self,
        partial: &Path,
        records: &SafeFolder,
        from_sums: Option<(&'static str, Sum)>,
    ) -> Result<(Downloaded, Record, Vec<&'static str>)> {
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
        let (downloaded, unpacked) = self.stream(partial, handle, &mut listing);
        let (downloaded, checked, count) = self.check(downloaded, unpacked, from_sums)?;
        let listed = listing.into_inner().map_err(|error| error.into_error());
        let listed = listed.with_context(|| format!("cannot write {}", path.display()))?;
        let mut record =
            Record::new(self.sha.clone(), self.order, clock::now(), self.source.place());
        record.deploy_id = self.deploy_id.cloned();
        record.sha256 = downloaded.sum.to_string();
        record.checked = checked.iter().map(|how| (*how).to_owned()).collect();
        (record.archive_bytes, record.entries, record.bytes) =
            (downloaded.bytes, count.entries, count.bytes);
        record.write(records)?;
        // One call for all files, since one for each file would wait for the disk each time; and one for the
        // records if they are on another disk.
        syncfs(&root).context("cannot sync what was unpacked")?;
        if listed.metadata()?.dev() != partial.metadata()?.dev() {
            syncfs(&listed).context("cannot sync the records")?;
        }
        Ok((downloaded, record, checked))
    }

    /// Runs the three threads. One that fails ends the others, since it closes its ends of the pipes.
    fn stream(
        &self,
        partial: &Path,
        root: Dir,
        listing: &mut dyn Write,
    ) -> (Result<Downloaded>, Result<Count, UnpackError>) {
        let cancelled = AtomicBool::new(false);
        let usage = Usage::new(self.bounds, self.source.patience.whole);
        let (fetched, to_decode) = pipe();
        let (decoded, to_unpack) = pipe();
        thread::scope(|scope| {
            let cancelled = &cancelled;
            let downloading = scope.spawn(move || {
                let (source, bounds) = (self.source, self.bounds);
                download::run(source, self.sha, partial, bounds, fetched, cancelled)
            });
            let decoding = scope.spawn(move || decode::run(to_decode, &decoded));
            let unpacked = extract::run(to_unpack, root, self.attributes, &usage, listing);
            if matches!(unpacked, Err(UnpackError::Other(_))) {
                cancelled.store(true, Ordering::Relaxed);
            }
            let panicked = || anyhow!("a worker thread panicked");
            // Damage that the decoder has found looks like an early end when unpacking.
            let unpacked = match (decoding.join(), unpacked) {
                (Err(_), _) => Err(UnpackError::Other(panicked())),
                (Ok(Err(why)), Ok(_) | Err(UnpackError::Damaged(_))) => {
                    Err(UnpackError::Damaged(why))
                }
                (Ok(_), unpacked) => unpacked,
            };
            (downloading.join().unwrap_or_else(|_| Err(panicked())), unpacked)
        })
    }

    fn check(
        &self,
        downloaded: Result<Downloaded>,
        unpacked: Result<Count, UnpackError>,
        from_sums: Option<(&'static str, Sum)>,
    ) -> Result<(Downloaded, Vec<&'static str>, Count)> {
        let downloaded = match (downloaded, unpacked) {
            // The download was cancelled, so its own error says nothing.
            (Err(_), Err(UnpackError::Other(cause))) => return Err(cause),
            (Err(error), _) => return Err(error),
            (Ok(downloaded), unpacked) => (downloaded, unpacked),
        };
        let (downloaded, unpacked) = downloaded;
        let mut checked = Vec::new();
        let from_option = self.source.sha256.map(|sum| ("sha256", sum));
        let from_registry = downloaded.registry_sum.as_ref().map(|(_, sum)| ("registry", *sum));
        for (how, sum) in [from_option, from_sums, from_registry].into_iter().flatten() {
            if sum != downloaded.sum {
                return Err(self.wrong_sum(how, sum, &downloaded).into());
            }
            checked.push(how);
        }
        match unpacked {
            Ok(count) => Ok((downloaded, checked, count)),
            Err(UnpackError::Other(error)) => Err(error),
            Err(UnpackError::Damaged(why)) => Err(self.damaged(&why, &checked).into()),
        }
    }

    fn wrong_sum(&self, how: &str, expected: Sum, downloaded: &Downloaded) -> Failure {
        let by = match how {
            "sha256" => "the option sha256",
            "sums_url" => "the file of sums",
            _ => "the registry itself",
        };
        let msg = format!(
            "the archive of release {} from {} ({} bytes) has the SHA-256 sum {}, but {by} says {expected}; nothing of it is kept",
            self.sha,
            self.source.place(),
            downloaded.bytes,
            downloaded.sum
        );
        Failure::new("sum_mismatch", msg)
            .with("sha256", downloaded.sum.to_string())
            .with("expected", expected.to_string())
    }

    fn damaged(&self, why: &str, checked: &[&str]) -> Failure {
        let since = match checked {
            [] => "there is no sum that says whether it was published so",
            _ => "its sum is right, so it was published so: build and push it again",
        };
        let (sha, place) = (self.sha, self.source.place());
        let msg = format!(
            "the archive of release {sha} from {place} is damaged: {why}; {since}; nothing of it is kept"
        );
        Failure::new("bad_archive", msg)
    }
}
