//! Writes the rows that differ between the live database and a copy of it as CSV, so that what was written since can be
//! restored row by row.
//!
//! Invariants: the folder is new, accessible to root only, and complete if it has its manifest, which is written last; a
//! table is written completely, or not at all and named; the rows are from the same snapshot as the comparison.

use crate::compare::{self, Both, Change, Pair, Side, Table};
use crate::count::{Comparison, answer_deadline, each_change, each_row, in_time};
use crate::session::Session;
use ansible_module::Failure;
use anyhow::{Context, Result, bail};
use host::atomic::{sync_folder, write_new};
use host::deadline::Deadline;
use host::folder::SafeFolder;
use host::spot::Spot;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub const MANIFEST: &str = "manifest.json";
/// The most differing rows of a table; their hashes are held in memory.
const MAX_ROWS: usize = 1_000_000;
/// The number of rows that one statement copies.
const CHUNK: usize = 5_000;

#[derive(Debug, Serialize)]
pub struct Written {
    pub folder: PathBuf,
    /// The live database.
    pub database: String,
    /// The copy that it was compared with.
    #[serde(rename = "beside")]
    pub copy: String,
    pub tables: BTreeMap<String, Vec<Rows>>,
    /// The tables that were not written, and why.
    pub missing: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub struct Rows {
    pub file: String,
    pub kind: Kind,
    pub rows: u64,
    pub columns: Vec<String>,
    /// The columns of the key; empty if whole rows were compared.
    pub key: Vec<String>,
    pub sha256: String,
}

/// How the rows differ, and the side that they are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Inserted,
    Updated,
    UpdatedBefore,
    Deleted,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Inserted => "inserted",
            Kind::Updated => "updated",
            Kind::UpdatedBefore => "updated_before",
            Kind::Deleted => "deleted",
        }
    }
}

/// The rows to write: the hashes of their keys, and the number of rows with each.
type Keys = BTreeMap<(i64, i64), u64>;

/// Writes the differing rows into a new folder, and removes it after an error.
pub fn write(comparison: Comparison, folder: &Path, names: [&str; 2]) -> Result<Written> {
    if folder.symlink_metadata().is_ok() {
        let msg =
            format!("{} exists already; rows are written into a new folder", folder.display());
        return Err(Failure::new("exists", msg).into());
    }
    let made = SafeFolder::ensure(folder, 0o700)?;
    let done = write_into(comparison, made.path(), names);
    if done.is_err() {
        Spot::of(folder)?.remove_all()?;
    }
    done.with_context(|| format!("writing rows into {}", folder.display()))
}

fn write_into(
    mut comparison: Comparison,
    folder: &Path,
    [database, copy]: [&str; 2],
) -> Result<Written> {
    let (live, before) = comparison.tables()?;
    let mut written = Written {
        folder: folder.to_owned(),
        database: database.to_owned(),
        copy: copy.to_owned(),
        tables: BTreeMap::new(),
        missing: BTreeMap::new(),
    };
    let (now, then, deadline) =
        (&mut comparison.live[0], &mut comparison.before[0], comparison.deadline);
    for (number, pair) in compare::pairs(&live, &before).into_iter().enumerate() {
        let find = |tables: &[Table]| tables.iter().find(|one| one.name == pair.name()).cloned();
        let sides = [find(&live), find(&before)];
        let mut files: Vec<Rows> = Vec::new();
        let done = in_time(now, then, deadline, |now, then| {
            files = table(
                now,
                then,
                &pair,
                &sides,
                deadline,
                &folder.join(format!("{:04}", number + 1)),
            )?;
            Ok(())
        });
        host::interrupt::check()?;
        match done {
            Ok(()) if files.is_empty() => {}
            Ok(()) => drop(written.tables.insert(pair.name().to_owned(), files)),
            Err(why) => {
                remove_unfinished(folder, &format!("{:04}.", number + 1))?;
                written.missing.insert(pair.name().to_owned(), why);
            }
        }
    }
    let manifest = serde_json::to_vec_pretty(&written)?;
    write_new(&folder.join(MANIFEST), &manifest, 0o600)?;
    sync_folder(folder)?;
    Ok(written)
}

/// Removes the files of a table that was not finished.
fn remove_unfinished(folder: &Path, prefix: &str) -> Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes the files of one table, whose names begin with `path`.
fn table(
    live: &mut Session,
    before: &mut Session,
    pair: &Pair,
    sides: &[Option<Table>; 2],
    deadline: Deadline,
    path: &Path,
) -> Result<Vec<Rows>> {
    let mut keys: BTreeMap<Kind, Keys> = BTreeMap::new();
    let mut total = 0;
    let mut note = |kind: Kind, key: (i64, i64)| {
        total += 1;
        if total > MAX_ROWS {
            bail!("more than {MAX_ROWS} rows differ");
        }
        *keys.entry(kind).or_default().entry(key).or_default() += 1;
        Ok(())
    };
    let both: Both = match pair {
        Pair::Both(both) => {
            each_change(live, before, both, deadline, |change, key| match change {
                Change::Inserted => note(Kind::Inserted, key),
                Change::Deleted => note(Kind::Deleted, key),
                Change::Updated => {
                    note(Kind::Updated, key)?;
                    note(Kind::UpdatedBefore, key)
                }
            })?;
            both.clone()
        }
        Pair::One { side, .. } => {
            let (session, table, kind) = match side {
                Side::Live => (&mut *live, &sides[0], Kind::Inserted),
                Side::Before => (&mut *before, &sides[1], Kind::Deleted),
            };
            let alone = compare::alone(table.as_ref().context("a table that is on no side")?);
            each_row(session, &alone, deadline, |key| note(kind, key))?;
            alone
        }
    };
    let mut files = Vec::new();
    for (kind, keys) in keys {
        let (session, table) = match kind {
            Kind::Inserted | Kind::Updated => (&mut *live, &sides[0]),
            Kind::UpdatedBefore | Kind::Deleted => (&mut *before, &sides[1]),
        };
        let columns = table.as_ref().context("a table that is on no side")?.stored.clone();
        let path = path.with_extension(format!("{}.csv", kind.name()));
        let sha256 = copy(session, &both, &columns, &keys, deadline, &path)?;
        let file = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let rows = keys.values().sum();
        files.push(Rows { file, kind, rows, columns, key: both.key.clone(), sha256 });
    }
    Ok(files)
}

fn copy(
    session: &mut Session,
    both: &Both,
    columns: &[String],
    keys: &Keys,
    deadline: Deadline,
    path: &Path,
) -> Result<String> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file: File = opened.with_context(|| format!("making {}", path.display()))?;
    let mut digest = Sha256::new();
    let keys: Vec<((i64, i64), u64)> = keys.iter().map(|(key, many)| (*key, *many)).collect();
    for (number, some) in keys.chunks(CHUNK).enumerate() {
        let sql = compare::copy_statement(both, columns, some, number == 0);
        let mut text = session.ask(&sql, answer_deadline(deadline))?;
        // Such text was not decoded as UTF-8, and would not be the content of the table.
        if text.contains('\u{fffd}') {
            bail!("it contains U+FFFD or text that is not UTF-8");
        }
        text.push('\n');
        digest.update(text.as_bytes());
        file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("writing {}", path.display()))?;
    Ok(host::hex(&digest.finalize()))
}
