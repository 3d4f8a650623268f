//! Compares two databases table by table: how each table is compared, the SQL for it, and the comparison of two sorted
//! streams of hashes. Pure.
//!
//! PostgreSQL computes the hashes. Rows are identified by a hash of 128 bits of their key, and compared by one of 64 bits
//! of their text. First each side groups its rows into buckets by the hash of their keys, and sums up each bucket; only
//! rows of buckets that differ are compared one by one. A table without a primary key has its whole rows as keys, and
//! equal rows are counted.
//!
//! Invariant: equal rows have equal hashes, whatever the settings of the databases are: the session sets how values are
//! formatted (`SETTINGS`), and nothing depends on the order of columns or of rows.

use crate::quote::identifier;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::cmp::Ordering;

/// The query of the tables; its result is a list of [`Table`].
pub const TABLES: &str = include_str!("compared.sql");
/// Settings for the same text of values on both sides; they override those of the databases.
pub const SETTINGS: [&str; 6] = [
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET IntervalStyle = 'postgres'",
    "SET lc_monetary = 'C'",
    "SET lc_numeric = 'C'",
    "SET lock_timeout = '2s'",
];
/// The approximate number of rows in a bucket.
const BUCKET_ROWS: f64 = 256.0;
const MAX_BUCKETS: u32 = 4096;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Table {
    /// The name, quoted for SQL.
    pub name: String,
    /// The planner's estimate.
    pub rows: f64,
    pub bytes: u64,
    pub columns: Vec<String>,
    /// The columns that are stored and not generated.
    pub stored: Vec<String>,
    /// The columns of its primary key; empty if it has none.
    pub key: Vec<String>,
}

/// The numbers of rows inserted, updated and deleted since.
pub type Rows = [i64; 3];

/// A table of either database, and how it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The table was created or dropped since, so all its rows are counted on one side.
    One {
        name: String,
        side: Side,
    },
    Both(Both),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Live,
    Before,
}

/// A table of both databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Both {
    pub name: String,
    /// The columns that both databases have.
    pub columns: Vec<String>,
    /// The columns of the key; empty if whole rows are compared.
    pub key: Vec<String>,
    pub buckets: u32,
}

impl Pair {
    pub fn name(&self) -> &str {
        match self {
            Pair::One { name, .. } => name,
            Pair::Both(both) => &both.name,
        }
    }
}

/// Pairs the tables of both databases, the smallest first, so that a time limit leaves few of them uncounted.
pub fn pairs(live: &[Table], before: &[Table]) -> Vec<Pair> {
    let mut found: Vec<(u64, Pair)> = Vec::new();
    for now in live {
        let Some(then) = before.iter().find(|then| then.name == now.name) else {
            found.push((now.bytes, Pair::One { name: now.name.clone(), side: Side::Live }));
            continue;
        };
        let columns: Vec<String> =
            then.columns.iter().filter(|column| now.columns.contains(column)).cloned().collect();
        let is_key = !then.key.is_empty() && then.key == now.key;
        let rows = now.rows.max(then.rows);
        found.push((
            now.bytes.max(then.bytes),
            Pair::Both(Both {
                name: now.name.clone(),
                columns,
                key: if is_key { then.key.clone() } else { Vec::new() },
                buckets: buckets(rows),
            }),
        ));
    }
    for then in before.iter().filter(|then| !live.iter().any(|now| now.name == then.name)) {
        found.push((then.bytes, Pair::One { name: then.name.clone(), side: Side::Before }));
    }
    found.sort_by(|one, other| (one.0, one.1.name()).cmp(&(other.0, other.1.name())));
    found.into_iter().map(|(_, pair)| pair).collect()
}

/// Returns the number of buckets, which is a power of two.
fn buckets(rows: f64) -> u32 {
    let wanted = (rows / BUCKET_ROWS).clamp(16.0, f64::from(MAX_BUCKETS));
    (wanted as u32).next_power_of_two()
}

impl Both {
    fn row(&self, columns: &[String]) -> String {
        let columns: Vec<String> =
            columns.iter().map(|column| format!("t.{}", identifier(column))).collect();
        format!("ROW({})::text", columns.join(", "))
    }

    /// Returns the SQL of the text of a row's key.
    pub fn key_text(&self) -> String {
        self.row(if self.key.is_empty() { &self.columns } else { &self.key })
    }

    fn row_text(&self) -> String {
        self.row(&self.columns)
    }

    /// Returns the query of the buckets: a line each, with number of rows and sum of hashes.
    pub fn sums_query(&self) -> String {
        format!(
            "SELECT b || ' ' || count(*) || ' ' || sum(h) FROM (SELECT hashtextextended({}, 0) & {} AS b, \
             hashtextextended({}, 2) AS h FROM ONLY {} t) s GROUP BY b ORDER BY b",
            self.key_text(),
            self.buckets - 1,
            self.row_text(),
            self.name
        )
    }

    /// Returns the query of the hashes of the rows in these buckets, ordered by those of their keys.
    pub fn hashes_query(&self, buckets: &[u32]) -> String {
        let buckets: Vec<String> = buckets.iter().map(u32::to_string).collect();
        format!(
            "SELECT k || ' ' || l || ' ' || h FROM (SELECT hashtextextended({key}, 0) AS k, hashtextextended({key}, 1) AS l, \
             hashtextextended({}, 2) AS h FROM ONLY {} t) s WHERE k & {} IN ({}) ORDER BY k, l, h",
            self.row_text(),
            self.name,
            self.buckets - 1,
            buckets.join(", "),
            key = self.key_text(),
        )
    }
}

/// Describes a table that only one database has, to list all its rows.
pub fn alone(table: &Table) -> Both {
    Both {
        name: table.name.clone(),
        columns: table.columns.clone(),
        key: table.key.clone(),
        buckets: 1,
    }
}

/// The hash of a row's key, and the number of rows with it.
pub type Wanted = ((i64, i64), u64);

/// Returns the statement that writes the rows with these hashes of keys as CSV, each as often as wanted.
pub fn copy_statement(both: &Both, columns: &[String], rows: &[Wanted], is_first: bool) -> String {
    let list = |of: &dyn Fn(&Wanted) -> String| {
        let all: Vec<String> = rows.iter().map(of).collect();
        format!("'{{{}}}'::bigint[]", all.join(","))
    };
    let columns: Vec<String> = (columns.iter())
        .map(|column| format!("(s.t).{column} AS {column}", column = identifier(column)))
        .collect();
    format!(
        "COPY (SELECT {} FROM (SELECT t, w.n AS most, row_number() OVER (PARTITION BY w.k, w.l) AS number FROM ONLY {} t \
         JOIN unnest({}, {}, {}) AS w(k, l, n) ON hashtextextended({key}, 0) = w.k AND hashtextextended({key}, 1) = w.l) s \
         WHERE s.number <= s.most) TO STDOUT WITH (FORMAT csv, HEADER {is_first}, NULL '\\N', FORCE_QUOTE *)",
        columns.join(", "),
        both.name,
        list(&|row| row.0.0.to_string()),
        list(&|row| row.0.1.to_string()),
        list(&|row| row.1.to_string()),
        key = both.key_text(),
    )
}

/// Returns the buckets that differ, from both results of [`Both::sums_query`].
pub fn differing_buckets(live: &str, before: &str) -> Result<Vec<u32>> {
    let parse = |text: &str| -> Result<std::collections::BTreeMap<u32, String>> {
        (text.lines())
            .map(|line| {
                let (bucket, sum) = line.split_once(' ').context("a bucket without its sum")?;
                Ok((bucket.parse()?, sum.to_owned()))
            })
            .collect()
    };
    let (live, before) = (parse(live)?, parse(before)?);
    let all: std::collections::BTreeSet<u32> = live.keys().chain(before.keys()).copied().collect();
    Ok(all.into_iter().filter(|bucket| live.get(bucket) != before.get(bucket)).collect())
}

/// The hashes of a row: two of its key, and one of its columns that both databases have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    pub key: (i64, i64),
    pub row: i64,
}

/// Parses the result of [`Both::hashes_query`], or a part of it.
pub fn parse_hashes(text: &str) -> Result<Vec<Hashes>> {
    let number = |word: Option<&str>| {
        word.context("a row without its hashes")?.parse::<i64>().context("a hash")
    };
    (text.lines())
        .map(|line| {
            let mut words = line.split(' ');
            Ok(Hashes {
                key: (number(words.next())?, number(words.next())?),
                row: number(words.next())?,
            })
        })
        .collect()
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Inserted,
    Updated,
    Deleted,
}

/// Merges two sorted streams, whose functions return the next row, and calls `found` for each row that differs.
pub fn merge(
    mut live: impl FnMut() -> Result<Option<Hashes>>,
    mut before: impl FnMut() -> Result<Option<Hashes>>,
    mut found: impl FnMut(Change, (i64, i64)) -> Result<()>,
) -> Result<()> {
    let (mut now, mut then) = (live()?, before()?);
    loop {
        let order = match (&now, &then) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(now), Some(then)) => now.key.cmp(&then.key),
        };
        if let (Some(row), Ordering::Less) = (now, order) {
            found(Change::Inserted, row.key)?;
            now = live()?;
        } else if let (Some(row), Ordering::Greater) = (then, order) {
            found(Change::Deleted, row.key)?;
            then = before()?;
        } else {
            let changed = now.zip(then).filter(|(one, other)| one.row != other.row);
            if let Some((row, _)) = changed {
                found(Change::Updated, row.key)?;
            }
            (now, then) = (live()?, before()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, columns: &[&str], key: &[&str]) -> Table {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Table { name: name.into(), columns: words(columns), key: words(key), ..Table::default() }
    }

    #[test]
    fn tables_are_paired_and_compared_by_their_key() {
        let live = [table("a", &["id", "new", "word"], &["id"]), table("made", &["id"], &[])];
        let before = [table("a", &["word", "id", "old"], &["id"]), table("dropped", &["id"], &[])];
        let found = pairs(&live, &before);
        let Pair::Both(a) = &found[0] else { panic!("{found:?}") };
        assert_eq!(
            (a.columns.join(" "), a.key.join(" "), a.buckets),
            ("word id".into(), "id".into(), 16)
        );
        assert_eq!(found[1], Pair::One { name: "dropped".into(), side: Side::Before });
        assert_eq!(found[2], Pair::One { name: "made".into(), side: Side::Live });
        // Another key: whole rows are compared.
        let other = pairs(
            &[table("a", &["id", "word"], &["word"])],
            &[table("a", &["id", "word"], &["id"])],
        );
        assert!(matches!(&other[0], Pair::Both(both) if both.key.is_empty()));
        assert_eq!([0.0, 1e6, 1e9].map(buckets), [16, 4096, 4096]);
    }

    #[test]
    fn differing_buckets_are_found() {
        let found = differing_buckets("0 2 5\n1 1 -7\n3 1 1\n", "0 2 5\n1 1 7\n2 1 9\n").unwrap();
        assert_eq!(found, [1, 2, 3]);
        assert!(
            differing_buckets("", "").unwrap().is_empty() && differing_buckets("x", "").is_err()
        );
    }

    fn changes(live: &[(i64, i64)], before: &[(i64, i64)]) -> Vec<(Change, i64)> {
        let rows = |rows: &[(i64, i64)]| {
            let text: Vec<String> =
                rows.iter().map(|(key, row)| format!("{key} 0 {row}")).collect();
            parse_hashes(&text.join("\n")).unwrap().into_iter()
        };
        let (mut live, mut before, mut found) = (rows(live), rows(before), Vec::new());
        merge(
            || Ok(live.next()),
            || Ok(before.next()),
            |change, key| {
                found.push((change, key.0));
                Ok(())
            },
        )
        .unwrap();
        found
    }

    #[test]
    fn two_streams() {
        use Change::{Deleted, Inserted, Updated};
        assert_eq!(
            changes(&[(1, 1), (2, 5), (4, 1)], &[(1, 1), (2, 6), (3, 1)]),
            [(Updated, 2), (Deleted, 3), (Inserted, 4)]
        );
        // Equal rows of a table without a key are counted.
        assert_eq!(changes(&[(1, 1), (1, 1), (2, 2)], &[(1, 1)]), [(Inserted, 1), (Inserted, 2)]);
        assert!(changes(&[], &[]).is_empty() && parse_hashes("1 2").is_err());
    }
}
