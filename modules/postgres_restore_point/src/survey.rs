//! Surveys the content of a database, to compare the dumped one (in the snapshot of the dump) with the restored one.
//!
//! Invariant: only what a dump reproduces exactly is compared. The text of views, checks and defaults is not: PostgreSQL
//! formats it differently after a restore.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The query of a [`Survey`]: one row and column of JSON.
pub const SURVEY: &str = include_str!("survey.sql");
/// The query of the sequences that have returned a number; see [`Sequence`].
pub const SEQUENCES: &str = "SELECT coalesce(json_agg(json_build_object('schema', schemaname, 'name', sequencename, \
    'last', last_value, 'increment', increment_by, 'cycle', cycle) ORDER BY schemaname, sequencename), '[]'::json) \
    FROM pg_sequences WHERE last_value IS NOT NULL AND schemaname !~ '^pg_temp'";
/// The query of the OIDs of the tables whose rows are counted, with their names quoted for SQL.
pub const OIDS: &str = "SELECT coalesce(json_object_agg(c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname)), '{}'::json) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' \
    AND n.nspname <> 'information_schema'";
/// The query of the [`Counters`].
pub const COUNTERS: &str = "SELECT json_build_object('reset', (SELECT stats_reset FROM pg_stat_database WHERE datname = \
    current_database()), 'wal', pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::text, 'tables', (SELECT \
    coalesce(json_object_agg(schemaname || '.' || relname, json_build_array(n_tup_ins, n_tup_upd, n_tup_del)), '{}'::json) \
    FROM pg_stat_user_tables))";

/// For each kind of object the objects, each with the properties that must be equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    #[serde(flatten)]
    pub things: BTreeMap<String, BTreeSet<String>>,
    /// The tables whose rows are counted, quoted for SQL.
    #[serde(rename = "-tables")]
    pub tables: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub schema: String,
    pub name: String,
    pub last: i64,
    pub increment: i64,
    pub cycle: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub reset: Option<String>,
    /// The position in the WAL of the whole cluster, in bytes.
    pub wal: String,
    pub tables: BTreeMap<String, [i64; 3]>,
}

impl Survey {
    pub fn parse(text: &str) -> Result<Survey> {
        serde_json::from_str(text).context("what is in the database cannot be understood")
    }

    /// Returns a digest, which is equal for databases with equal content.
    pub fn digest(&self) -> String {
        let text = format!("{:?}", self.things);
        Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Describes what the other database lacks, and what it has in addition.
    pub fn differences(&self, other: &Survey) -> Vec<String> {
        let mut sentences = Vec::new();
        let none = BTreeSet::new();
        let kinds: BTreeSet<&String> = self.things.keys().chain(other.things.keys()).collect();
        for kind in kinds {
            let here = self.things.get(kind).unwrap_or(&none);
            let there = other.things.get(kind).unwrap_or(&none);
            sentences
                .extend(here.difference(there).map(|thing| format!("{kind}: {thing} is missing")));
            sentences.extend(
                there.difference(here).map(|thing| format!("{kind}: {thing} is additional")),
            );
        }
        sentences
    }
}

/// Makes a statement for each table that counts its rows. Partitions and children are counted separately.
pub fn counting(tables: &[String]) -> String {
    match tables {
        [] => "SELECT '{}'".to_owned(),
        tables => {
            let each: Vec<String> = (tables.iter())
                .map(|table| {
                    format!(
                        "SELECT {} AS t, (SELECT count(*) FROM ONLY {table}) AS n",
                        crate::quote::literal(table)
                    )
                })
                .collect();
            format!("SELECT json_object_agg(t, n) FROM ({}) AS counted", each.join(" UNION ALL "))
        }
    }
}

pub type Counts = BTreeMap<String, i64>;

/// Describes the tables whose numbers of rows differ.
pub fn count_differences(dumped: &Counts, restored: &Counts) -> Vec<String> {
    let names: BTreeSet<&String> = dumped.keys().chain(restored.keys()).collect();
    let rows = |counts: &Counts, name: &String| {
        counts.get(name).map_or("no table".to_owned(), i64::to_string)
    };
    (names.into_iter())
        .filter(|name| dumped.get(*name) != restored.get(*name))
        .map(|name| {
            format!(
                "rows of {name}: {} were dumped, {} are there",
                rows(dumped, name),
                rows(restored, name)
            )
        })
        .collect()
}

/// Describes the sequences that are below a number that was returned before the dump began.
pub fn sequences_below(before: &[Sequence], restored: &[Sequence]) -> Vec<String> {
    let find = |one: &Sequence| {
        restored.iter().find(|other| (&other.schema, &other.name) == (&one.schema, &one.name))
    };
    (before.iter())
        .filter(|one| !one.cycle)
        .filter(|one| match find(one) {
            Some(there) if one.increment > 0 => there.last < one.last,
            Some(there) => there.last > one.last,
            None => true,
        })
        .map(|one| format!("the sequence {}.{} stands before {}", one.schema, one.name, one.last))
        .collect()
}

/// Makes the statement that advances the sequences at least to these values.
pub fn catching_up(sequences: &[Sequence]) -> Result<String> {
    let raw = crate::quote::literal(&serde_json::to_string(sequences)?);
    Ok(format!(
        "SELECT count(setval(format('%I.%I', s.schemaname, s.sequencename)::regclass, \
         greatest(least(l.last, s.max_value), s.min_value), true)) \
         FROM json_to_recordset({raw}) AS l(schema text, name text, last bigint) \
         JOIN pg_sequences s ON s.schemaname = l.schema AND s.sequencename = l.name \
         WHERE CASE WHEN s.cycle THEN s.last_value IS DISTINCT FROM l.last \
         WHEN s.increment_by > 0 THEN coalesce(s.last_value < l.last, true) \
         ELSE coalesce(s.last_value > l.last, true) END"
    ))
}

/// Returns the rows written between two readings, by table; `None` if the counters were reset in between.
pub fn written(then: &Counters, now: &Counters) -> Option<BTreeMap<String, [i64; 3]>> {
    let mut tables = BTreeMap::new();
    if then.reset != now.reset {
        return None;
    }
    for (name, now) in &now.tables {
        let then = then.tables.get(name).copied().unwrap_or_default();
        let since = [now[0] - then[0], now[1] - then[1], now[2] - then[2]];
        if since.iter().any(|rows| *rows < 0) {
            return None;
        }
        if since != [0, 0, 0] {
            tables.insert(name.clone(), since);
        }
    }
    Some(tables)
}

/// Returns the bytes of WAL between two readings.
pub fn wal_between(then: &Counters, now: &Counters) -> Option<u64> {
    let bytes = |counters: &Counters| counters.wal.parse::<u64>().ok();
    bytes(now)?.checked_sub(bytes(then)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_surveys() {
        for text in
            [include_str!("captured/survey-15.json"), include_str!("captured/survey-17.json")]
        {
            let survey = Survey::parse(text).unwrap();
            assert!(survey.things["relations"].contains("public.\"Order items\" r"), "{survey:?}");
            assert!(survey.things["extensions"].iter().any(|one| one.starts_with("plpgsql ")));
            assert!(survey.tables.contains(&"public.\"Order items\"".to_owned()));
            assert!(survey.differences(&survey).is_empty());
            let mut less = survey.clone();
            less.things.get_mut("relations").unwrap().remove("public.\"Order items\" r");
            assert_eq!(
                survey.differences(&less),
                ["relations: public.\"Order items\" r is missing"]
            );
            assert_ne!(survey.digest(), less.digest());
        }
    }

    fn sequence(last: i64, increment: i64) -> Sequence {
        Sequence { schema: "public".into(), name: "numbers".into(), last, increment, cycle: false }
    }

    #[test]
    fn a_sequence_may_only_be_ahead() {
        for (before, restored, below) in [(5, 5, false), (5, 9, false), (5, 4, true)] {
            assert_eq!(
                sequences_below(&[sequence(before, 1)], &[sequence(restored, 1)]).len(),
                usize::from(below)
            );
            assert_eq!(
                sequences_below(&[sequence(-before, -1)], &[sequence(-restored, -1)]).len(),
                usize::from(below)
            );
        }
        assert_eq!(sequences_below(&[sequence(1, 1)], &[]).len(), 1);
    }

    #[test]
    fn rows_since() {
        let counters = |inserted, reset: Option<&str>| Counters {
            reset: reset.map(str::to_owned),
            wal: "100".into(),
            tables: BTreeMap::from([("public.orders".to_owned(), [inserted, 0, 0])]),
        };
        let since = written(&counters(5, None), &counters(8, None)).unwrap();
        assert_eq!(since["public.orders"], [3, 0, 0]);
        assert!(written(&counters(5, None), &counters(5, None)).unwrap().is_empty());
        // Reset, or lost in a crash: nobody knows.
        assert!(written(&counters(5, None), &counters(8, Some("2026-12-02"))).is_none());
        assert!(written(&counters(5, None), &counters(1, None)).is_none());
    }

    #[test]
    fn counts_that_differ() {
        let counts = |rows| Counts::from([("public.orders".to_owned(), rows)]);
        assert!(count_differences(&counts(5), &counts(5)).is_empty());
        let expected = "rows of public.orders: 5 were dumped, 4 are there";
        assert_eq!(count_differences(&counts(5), &counts(4)), [expected]);
        assert_eq!(count_differences(&counts(5), &Counts::new()).len(), 1);
    }
}
