//! Counts the rows in a dump in the format of directories, which has a file of lines for each table.
//!
//! The live database is not asked for them: whoever owns a table could have it run something for whoever reads it, and
//! what it has can change between two questions.
//!
//! Invariant: each table of the snapshot has a complete file in the dump, or there is an error.

use crate::survey::Counts;
use anyhow::{Context, Result, ensure};
use host::interrupt;
use host::regular::{self, Links};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The line after the rows; one in them would be written with two backslashes.
const END: &[u8] = b"\\.\n";

/// Counts the rows of these tables, by their OIDs. `listing` is the output of `pg_restore --list`.
pub fn rows(dump: &Path, listing: &str, tables: &BTreeMap<u32, String>) -> Result<Counts> {
    let entries = entries(listing);
    let each = tables.iter().map(|(oid, name)| {
        let entry =
            entries.get(oid).with_context(|| format!("the rows of {name} are not in the dump"))?;
        let rows = rows_in(&dump.join(format!("{entry}.dat")));
        Ok((
            name.clone(),
            rows.with_context(|| format!("counting the rows of {name} in the dump"))?,
        ))
    });
    each.collect()
}

/// Returns the number of the entry of each table's rows: `3344; 0 17023 TABLE DATA public orders app`.
fn entries(listing: &str) -> BTreeMap<u32, u32> {
    let entry = |line: &str| {
        let (number, rest) = line.split_once("; ")?;
        let (_, rest) = rest.split_once(' ')?;
        let (oid, rest) = rest.split_once(' ')?;
        rest.starts_with("TABLE DATA ").then_some((oid.parse().ok()?, number.parse().ok()?))
    };
    listing.lines().filter_map(entry).collect()
}

fn rows_in(path: &Path) -> Result<i64> {
    let mut file = BufReader::with_capacity(256 << 10, regular::open(path, Links::Refuse)?);
    let (mut rows, mut line) = (0, Vec::new());
    loop {
        line.clear();
        file.read_until(b'\n', &mut line)?;
        ensure!(line.ends_with(b"\n"), "{} is not complete", path.display());
        if line == END {
            return Ok(rows);
        }
        rows += 1;
        if rows % 10_000 == 0 {
            interrupt::check()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_dump() {
        let listing = "; Archive created at 2026-12-03\n;     dbname: shop\n216; 1255 17021 FUNCTION public deed() app\n\
                       214; 1259 7 TABLE public TABLE DATA app\n3344; 0 7 TABLE DATA public i app\n3345; 0 8 TABLE DATA public odd name; x app\n";
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("3344.dat", "1\n\\\\.\na\\nb\n\n\\.\n\n\n");
        write("3345.dat", "\\.\n\n\n");
        let tables = BTreeMap::from([(7, "public.i".to_owned()), (8, "x".to_owned())]);
        let counts = Counts::from([("public.i".to_owned(), 4), ("x".to_owned(), 0)]);
        assert_eq!(rows(folder.path(), listing, &tables).unwrap(), counts);
        write("3345.dat", "1\n2\n");
        let error = format!("{:#}", rows(folder.path(), listing, &tables).unwrap_err());
        assert!(error.contains("not complete"), "{error}");
        let missing = BTreeMap::from([(9, "gone".to_owned())]);
        assert!(rows(folder.path(), listing, &missing).is_err());
    }
}
