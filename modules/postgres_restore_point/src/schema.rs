//! Compares the schemas of two databases: what is defined in them, and which migrations they say were run.
//!
//! Invariant: nothing is written to either. Definitions are PostgreSQL's own text of them. That of a view, a check or a
//! default may differ between a database and its dump that was restored; a clone is a copy of files, and has the same.

use crate::psql::Psql;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

const SCHEMA: &str = include_str!("schema.sql");
/// Tables in which the usual tools note which migrations were run. Their rows are compared, too.
const REVISIONS: [&str; 15] = [
    "alembic_version",
    "django_migrations",
    "schema_migrations",
    "ar_internal_metadata",
    "flyway_schema_history",
    "databasechangelog",
    "_sqlx_migrations",
    "__diesel_schema_migrations",
    "seaql_migrations",
    "_prisma_migrations",
    "knex_migrations",
    "SequelizeMeta",
    "goose_db_version",
    "migrations",
    "doctrine_migration_versions",
];
/// How many differences are returned one by one.
const MAX_LISTED: usize = 200;

/// By kind and name the definition of each object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Schema(BTreeMap<String, Option<BTreeMap<String, String>>>);

/// An object that differs, or that only one database has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub kind: String,
    pub name: String,
    pub first: Option<String>,
    pub second: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    pub databases: [String; 2],
    pub same: bool,
    pub differences: Vec<Difference>,
    /// How many more differ.
    pub more: usize,
    /// A digest of each schema.
    pub digests: [String; 2],
}

impl Schema {
    pub fn read(psql: &Psql, database: &str) -> Result<Schema> {
        psql.ask(&format!("reading the schema of {database}"), database, &query())
    }

    pub fn parse(text: &str) -> Result<Schema> {
        Ok(serde_json::from_str(text)?)
    }

    fn digest(&self) -> String {
        let text = format!("{:?}", self.0);
        Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn differences(&self, other: &Schema) -> Vec<Difference> {
        let none = BTreeMap::new();
        let mut found = Vec::new();
        for kind in self.0.keys().chain(other.0.keys()).collect::<BTreeSet<_>>() {
            let of = |schema: &'_ Schema| schema.0.get(kind).cloned().flatten();
            let (here, there) =
                (of(self).unwrap_or(none.clone()), of(other).unwrap_or(none.clone()));
            for name in here.keys().chain(there.keys()).collect::<BTreeSet<_>>() {
                let (first, second) = (here.get(name).cloned(), there.get(name).cloned());
                if first != second {
                    found.push(Difference {
                        kind: kind.clone(),
                        name: name.clone(),
                        first,
                        second,
                    });
                }
            }
        }
        found
    }
}

/// Returns the query of a [`Schema`].
pub fn query() -> String {
    SCHEMA.replace("{{revisions}}", &format!("{{{}}}", REVISIONS.join(",")))
}

pub fn compare(databases: [String; 2], schemas: [Schema; 2]) -> Compared {
    let mut differences = schemas[0].differences(&schemas[1]);
    let more = differences.len().saturating_sub(MAX_LISTED);
    let same = differences.is_empty();
    differences.truncate(MAX_LISTED);
    Compared { databases, same, differences, more, digests: schemas.map(|schema| schema.digest()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_of_two_schemas() {
        let parse = |text: &str| Schema::parse(text).unwrap();
        let first = parse(r#"{"columns": {"a.b": "int", "a.c": "text"}, "types": null}"#);
        let second = parse(r#"{"columns": {"a.b": "bigint"}, "types": {"t": "e"}}"#);
        let names = ["x", "y"].map(str::to_owned);
        let compared = compare(names.clone(), [first.clone(), second]);
        let told: Vec<(&str, Option<&str>, Option<&str>)> = (compared.differences.iter())
            .map(|one| (one.name.as_str(), one.first.as_deref(), one.second.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                ("a.b", Some("int"), Some("bigint")),
                ("a.c", Some("text"), None),
                ("t", None, Some("e"))
            ]
        );
        assert!(!compared.same && compared.digests[0] != compared.digests[1]);
        let same = compare(names, [first.clone(), first]);
        assert!(same.same && same.digests[0] == same.digests[1]);
    }
}
