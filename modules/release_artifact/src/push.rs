//! `pushed`: pushes an archive that was built by hand to the registry.
//!
//! Invariant: an archive in the registry is never replaced, and counts as pushed only if it is the same one.

use crate::options::Task;
use crate::registry::{self, Availability, Source, TryError, refusal, retry};
use crate::sums::Sum;
use ansible_module::{Failure, Outcome};
use anyhow::{Context, Result};
use archive::Form;
use change::{Plan, Session, Step, Undo};
use host::regular::{self, Links};
use host::space::human;
use probe::http;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The archive on this machine.
struct Archive {
    file: File,
    bytes: u64,
    sum: Sum,
}

pub fn run(session: &Session<'_>, task: &Task, src: &Path, check_mode: bool) -> Result<Outcome> {
    let source = task.source()?;
    let archive = Archive::open(src)?;
    if let Some(expected) = source.sha256.filter(|expected| *expected != archive.sum) {
        let msg = format!(
            "{} has the SHA-256 sum {}, and the option sha256 says {expected}; nothing was pushed",
            src.display(),
            archive.sum
        );
        return Err(Failure::new("sum_mismatch", msg).into());
    }
    let before = registry::availability(source, &task.sha)?;
    let there = before.available;
    let subject = format!("{} at {}", source.file_name(), source.place());
    let mut plan = Plan::nothing(subject, json!({ "available": there }));
    if there {
        same(task, source, &before, &archive)?;
    } else {
        let text = format!(
            "push {} (SHA-256 {}) to {} as {} of release {}",
            src.display(),
            archive.sum,
            source.place(),
            source.file_name(),
            task.sha
        );
        plan.steps.push(Step::new((), text));
        plan.after = json!({ "available": true });
        plan.undo = Undo::By("delete the package's version in the registry".into());
    }
    let put = |(): &(), _: Option<&_>| put(task, source, &archive);
    let verify = || -> Result<Value> {
        let now = registry::must_have(source, &task.sha)?;
        let size = now.bytes.is_none_or(|bytes| bytes == archive.bytes);
        let sum = now.sum.as_ref().is_none_or(|(_, sum)| *sum == archive.sum);
        if !size || !sum {
            let msg =
                format!("{} has another archive than the one that was pushed", source.place());
            return Err(Failure::new("not_verified", msg).into());
        }
        Ok(json!({ "available": true }))
    };
    let outcome = session.carry_out(plan, put, verify)?;
    Ok(outcome.fact("sha256", archive.sum.to_string()).fact("bytes", archive.bytes).fact(
        "registry",
        // In check mode nothing was pushed.
        json!({ "registry": source.place(), "available": there || !check_mode }),
    ))
}

impl Archive {
    fn open(src: &Path) -> Result<Archive> {
        let cannot = || format!("cannot read the archive {}", src.display());
        // A pipe would keep a plain open waiting.
        let mut file = match regular::open(src, Links::Follow) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let msg = format!("{} is not a regular file", src.display());
                return Err(Failure::new("bad_archive", msg).into());
            }
            opened => opened.with_context(cannot)?,
        };
        let bytes = file.metadata().with_context(cannot)?.size();
        let (mut hash, mut buffer, mut head) = (Sha256::new(), vec![0; 256 << 10], Vec::new());
        loop {
            host::interrupt::check()?;
            let read = file.read(&mut buffer).with_context(cannot)?;
            if read == 0 {
                break;
            }
            if head.is_empty() {
                head.extend_from_slice(&buffer[..read.min(512)]);
            }
            hash.update(&buffer[..read]);
        }
        if Form::of(&head).is_none() {
            let msg = format!(
                "{} is not an archive that can be fetched again (tar.zst, tar.gz or tar); nothing was pushed",
                src.display()
            );
            return Err(Failure::new("bad_archive", msg).into());
        }
        Ok(Archive { file, bytes, sum: Sum::finish(hash) })
    }
}

fn put(task: &Task, source: &Source, archive: &Archive) -> Result<()> {
    let mut again = false;
    retry(source, |_| {
        if std::mem::replace(&mut again, true) {
            // The previous try may have succeeded although its answer was lost.
            let now = registry::availability(source, &task.sha)?;
            if now.available {
                return Ok(same(task, source, &now, archive)?);
            }
        }
        let mut body = archive.file.try_clone().context("cannot read the archive again")?;
        body.rewind().context("cannot read the archive again")?;
        let answer = http::put(&source.request, &mut body, archive.bytes, source.patience)?;
        match answer.status {
            200..=299 => Ok(()),
            409 => {
                let now = registry::availability(source, &task.sha)?;
                Ok(same(task, source, &now, archive)?)
            }
            413 => {
                let msg = format!(
                    "{} refuses an archive of {}: raise its limit for packages, or that of the proxy in front of it",
                    source.place(),
                    human(archive.bytes)
                );
                Err(Failure::new("too_large", msg).into())
            }
            404 => {
                let msg = format!(
                    "{} does not know the owner of the package, or its token may not write there",
                    source.place()
                );
                Err(TryError::from(Failure::new("registry_answer", msg).with("status", 404)))
            }
            status => Err(refusal(status, source, &task.sha)),
        }
    })
}

/// Fails unless the registry has the same archive, by the registry's sum or by reading all of it.
fn same(task: &Task, source: &Source, there: &Availability, archive: &Archive) -> Result<()> {
    let sum = match &there.sum {
        _ if there.bytes.is_some_and(|bytes| bytes != archive.bytes) => None,
        Some((_, sum)) => Some(*sum),
        None => Some(sum_of(task, source)?),
    };
    if sum == Some(archive.sum) {
        return Ok(());
    }
    let msg = format!(
        "{} has another {} of release {} already (not with the SHA-256 sum {}) and does not replace it; delete the version there first if this one is right",
        source.place(),
        source.file_name(),
        task.sha,
        archive.sum
    );
    Err(Failure::new("exists_other", msg).into())
}

fn sum_of(task: &Task, source: &Source) -> Result<Sum> {
    retry(source, |_| {
        let mut answer = http::fetch(&source.request, 0, source.patience)?;
        if answer.status != 200 {
            return Err(refusal(answer.status, source, &task.sha));
        }
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            match answer.read(&mut buffer)? {
                0 => return Ok(Sum::finish(hash)),
                read => hash.update(&buffer[..read]),
            }
        }
    })
}
