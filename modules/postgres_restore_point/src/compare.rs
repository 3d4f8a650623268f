//! What differs between two databases, table by table: which tables are compared by what, the SQL for it, and the
//! comparison of two sorted streams of hashes. Pure.
//!
//! Rows are distinguished by 128 bits of hash of their key, and compared by 64 bits of hash of their text, which PostgreSQL
//! computes. First each side groups its rows into buckets by the hash of their keys, and sums up each bucket; only rows
//! of buckets that differ are compared one by one. A table without a primary key has its whole rows as keys, and equal
//! rows are counted.
//!
//! Invariant: both sides compute the same of the same rows, whatever is set for the database: the session says how values
//! are written (`SETTINGS`), and nothing depends on the order of columns or of rows.

use crate::quote::identifier;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::cmp::Ordering;

/// Tables, with what is needed to compare their rows; see [`Table`].
pub const TABLES: &str = include_str!("compared.sql");
/// How values are written as text, the same on both sides. They take precedence over what is set for the database.
pub const SETTINGS: [&str; 6] = [
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET IntervalStyle = 'postgres'",
    "SET lc_monetary = 'C'",
    "SET lc_numeric = 'C'",
    "SET lock_timeout = '2s'",
];
/// Rows in a bucket, about.
const IN_A_BUCKET: f64 = 256.0;
const MOST_BUCKETS: u32 = 4096;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Table {
    /// As SQL names it.
    pub name: String,
    /// What the planner estimates.
    pub rows: f64,
    pub bytes: u64,
    pub columns: Vec<String>,
    /// Those that are written, not computed.
    pub stored: Vec<String>,
    /// The columns of its primary key, or none.
    pub key: Vec<String>,
}

/// Rows inserted, updated and deleted since.
pub type Rows = [i64; 3];

/// How a table is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pair {
    /// It was made since, or dropped since: all its rows are counted on one side.
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Both {
    pub name: String,
    /// Those that both have.
    pub columns: Vec<String>,
    /// None of them where whole rows are compared.
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

/// All tables of both, the smallest first: a limit of time then leaves few of them uncounted.
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

/// A power of two.
fn buckets(rows: f64) -> u32 {
    let wanted = (rows / IN_A_BUCKET).clamp(16.0, f64::from(MOST_BUCKETS));
    (wanted as u32).next_power_of_two()
}

impl Both {
    fn row(&self, columns: &[String]) -> String {
        let columns: Vec<String> =
            columns.iter().map(|column| format!("t.{}", identifier(column))).collect();
        format!("ROW({})::text", columns.join(", "))
    }

    /// The text of a row's key.
    pub fn key_text(&self) -> String {
        self.row(if self.key.is_empty() { &self.columns } else { &self.key })
    }

    fn row_text(&self) -> String {
        self.row(&self.columns)
    }

    /// Each bucket with its number of rows and the sum of their hashes, a line each.
    pub fn summing(&self) -> String {
        format!(
            "SELECT b || ' ' || count(*) || ' ' || sum(h) FROM (SELECT hashtextextended({}, 0) & {} AS b, \
             hashtextextended({}, 2) AS h FROM ONLY {} t) s GROUP BY b ORDER BY b",
            self.key_text(),
            self.buckets - 1,
            self.row_text(),
            self.name
        )
    }

    /// The rows of these buckets as hashes, ordered by those of their keys.
    pub fn listing(&self, buckets: &[u32]) -> String {
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

/// A table as one that is compared with nothing.
pub fn alone(table: &Table) -> Both {
    Both {
        name: table.name.clone(),
        columns: table.columns.clone(),
        key: table.key.clone(),
        buckets: 1,
    }
}

/// The hash of a row's key, and how many such rows.
pub type Wanted = ((i64, i64), u64);

/// Statement that writes rows as CSV, each as often as is said: those whose keys have these hashes.
pub fn copying(both: &Both, columns: &[String], rows: &[Wanted], is_first: bool) -> String {
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

/// The buckets that are not the same on both sides, of two answers to [`Both::summing`].
pub fn different(live: &str, before: &str) -> Result<Vec<u32>> {
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

/// A row as hashes: of its key, twice, and of all that both sides have of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    pub key: (i64, i64),
    pub row: i64,
}

/// Reads an answer to [`Both::listing`], or a part of it.
pub fn hashes(text: &str) -> Result<Vec<Hashes>> {
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

/// Goes through two sorted streams side by side, and tells each row that differs. Each stream is asked for its next row.
pub fn merge(
    mut live: impl FnMut() -> Result<Option<Hashes>>,
    mut before: impl FnMut() -> Result<Option<Hashes>>,
    mut tell: impl FnMut(Change, (i64, i64)) -> Result<()>,
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
            tell(Change::Inserted, row.key)?;
            now = live()?;
        } else if let (Some(row), Ordering::Greater) = (then, order) {
            tell(Change::Deleted, row.key)?;
            then = before()?;
        } else {
            let changed = now.zip(then).filter(|(one, other)| one.row != other.row);
            if let Some((row, _)) = changed {
                tell(Change::Updated, row.key)?;
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
    fn what_is_compared_by_what() {
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
    fn buckets_that_differ() {
        let found = different("0 2 5\n1 1 -7\n3 1 1\n", "0 2 5\n1 1 7\n2 1 9\n").unwrap();
        assert_eq!(found, [1, 2, 3]);
        assert!(different("", "").unwrap().is_empty() && different("x", "").is_err());
    }

    fn told(live: &[(i64, i64)], before: &[(i64, i64)]) -> Vec<(Change, i64)> {
        let rows = |rows: &[(i64, i64)]| {
            let text: Vec<String> =
                rows.iter().map(|(key, row)| format!("{key} 0 {row}")).collect();
            hashes(&text.join("\n")).unwrap().into_iter()
        };
        let (mut live, mut before, mut told) = (rows(live), rows(before), Vec::new());
        merge(
            || Ok(live.next()),
            || Ok(before.next()),
            |change, key| {
                told.push((change, key.0));
                Ok(())
            },
        )
        .unwrap();
        told
    }

    #[test]
    fn two_streams() {
        use Change::{Deleted, Inserted, Updated};
        assert_eq!(
            told(&[(1, 1), (2, 5), (4, 1)], &[(1, 1), (2, 6), (3, 1)]),
            [(Updated, 2), (Deleted, 3), (Inserted, 4)]
        );
        // Equal rows of a table without a key are counted.
        assert_eq!(told(&[(1, 1), (1, 1), (2, 2)], &[(1, 1)]), [(Inserted, 1), (Inserted, 2)]);
        assert!(told(&[], &[]).is_empty() && hashes("1 2").is_err());
    }
}
