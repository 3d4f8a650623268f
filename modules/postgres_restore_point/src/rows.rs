//! The rows that differ between the live database and what lies beside it, written as CSV: so that what was written since
//! can be given back, row by row.
//!
//! Invariants: the folder is new, root's alone, and whole when it holds its manifest, which is written last; a table is
//! written in whole or not at all, and then it is named; the rows are those that were compared, of the same moment.

use crate::compare::{self, Both, Change, Pair, Side, Table};
use crate::count::{Beside, each_change, each_row, in_time, patience};
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
/// Rows of one table: all are held in memory, as hashes.
const MOST: usize = 1_000_000;
/// Rows of one statement.
const CHUNK: usize = 5_000;

#[derive(Debug, Serialize)]
pub struct Written {
    pub folder: PathBuf,
    /// What was compared: the live database, and the one beside it.
    pub database: String,
    pub beside: String,
    pub tables: BTreeMap<String, Vec<Rows>>,
    /// Tables of which nothing was written, and why.
    pub missing: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub struct Rows {
    pub file: String,
    pub kind: Kind,
    pub rows: u64,
    pub columns: Vec<String>,
    /// Columns that tell the rows apart; empty where whole rows were compared.
    pub key: Vec<String>,
    pub sha256: String,
}

/// What became of the rows since, and which side they are of.
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

/// Rows that are to be written, by the hash of their keys, with how many of each.
type Keys = BTreeMap<(i64, i64), u64>;

/// Writes what differs into a new folder.
pub fn write(beside: Beside, folder: &Path, names: [&str; 2]) -> Result<Written> {
    if folder.symlink_metadata().is_ok() {
        let msg =
            format!("{} is there already: rows are written into a new folder", folder.display());
        return Err(Failure::new("exists", msg).into());
    }
    let place = SafeFolder::ensure(folder, 0o700)?;
    let done = write_into(beside, place.path(), names);
    if done.is_err() {
        Spot::of(folder)?.remove_all()?;
    }
    done.with_context(|| format!("writing rows into {}", folder.display()))
}

fn write_into(mut beside: Beside, folder: &Path, [database, other]: [&str; 2]) -> Result<Written> {
    let (live, before) = beside.tables()?;
    let mut written = Written {
        folder: folder.to_owned(),
        database: database.to_owned(),
        beside: other.to_owned(),
        tables: BTreeMap::new(),
        missing: BTreeMap::new(),
    };
    let (now, then, deadline) = (&mut beside.live[0], &mut beside.before[0], beside.deadline);
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
                remove_begun(folder, &format!("{:04}.", number + 1))?;
                written.missing.insert(pair.name().to_owned(), why);
            }
        }
    }
    let manifest = serde_json::to_vec_pretty(&written)?;
    write_new(&folder.join(MANIFEST), &manifest, 0o600)?;
    sync_folder(folder)?;
    Ok(written)
}

/// Files of a table that was not finished.
fn remove_begun(folder: &Path, prefix: &str) -> Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes the files of one table; `path` is what their names begin with.
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
        if total > MOST {
            bail!("more than {MOST} rows differ");
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
        let sql = compare::copying(both, columns, some, number == 0);
        let mut text = session.ask(&sql, patience(deadline))?;
        // What cannot be read as UTF-8 would not be what is in the table.
        if text.contains('\u{fffd}') {
            bail!("it holds what is no UTF-8, or U+FFFD");
        }
        text.push('\n');
        digest.update(text.as_bytes());
        file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("writing {}", path.display()))?;
    Ok(host::hex(&digest.finalize()))
}
