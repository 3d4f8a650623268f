//! Refuses databases with contents that a dump does not carry, that were not tested with this module, or with which a
//! restore would run what somebody else has written.
//!
//! Invariant: a superuser restores, so no function may run in a restore that another role could have written: whoever
//! owns a table could make itself a superuser. Rows are checked while they are written, by constraints, generated columns
//! and partition keys; foreign keys are checked afterwards, through casts. Whoever plans a query of a table evaluates what
//! is constant in its indexes and statistics. Materialized views are filled with their owner's rights, and triggers do not
//! exist yet.

use crate::plan::refused;
use crate::state::Database;
use anyhow::Result;
use serde::Deserialize;

/// Extensions that come with PostgreSQL and are completely in a dump.
const EXTENSIONS: [&str; 34] = [
    "plpgsql",
    "amcheck",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "lo",
    "ltree",
    "moddatetime",
    "autoinc",
    "refint",
    "tcn",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_trgm",
    "pg_visibility",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "tablefunc",
    "unaccent",
];
const MORE_EXTENSIONS: [&str; 4] = ["uuid-ossp", "sslinfo", "seg", "tsm_system_rows"];

/// The contents that could prevent a dump, by the query [`CARRIED`].
#[derive(Debug, Default, Deserialize)]
pub struct Contents {
    pub extensions: Vec<Extension>,
    pub servers: Vec<String>,
    pub event_triggers: Vec<String>,
    pub calls: Vec<Call>,
}

/// A function that a restore would run.
#[derive(Debug, Deserialize)]
pub struct Call {
    /// What calls it.
    pub what: String,
    pub function: String,
    pub owner: String,
    /// Whether it comes with PostgreSQL, and has effects or runs queries.
    pub is_builtin: bool,
}

#[derive(Debug, Deserialize)]
pub struct Extension {
    pub name: String,
    pub version: String,
    /// The version that a restore would install.
    pub default: Option<String>,
}

pub const CARRIED: &str = include_str!("contents.sql");

/// Refuses contents that cannot be captured.
pub fn refuse(live: &Database, contents: &Contents) -> Result<()> {
    let name = &live.name;
    if !contents.servers.is_empty() {
        let servers = contents.servers.join(", ");
        return Err(refused(
            "not_carried",
            format!("{name} has foreign servers ({servers}): a copy would reach the same ones"),
        ));
    }
    if !contents.event_triggers.is_empty() {
        let triggers = contents.event_triggers.join(", ");
        return Err(refused(
            "not_carried",
            format!("{name} has event triggers ({triggers}), which have not been tested with this"),
        ));
    }
    refuse_functions(name, contents)?;
    for one in &contents.extensions {
        if !EXTENSIONS.contains(&one.name.as_str()) && !MORE_EXTENSIONS.contains(&one.name.as_str())
        {
            let msg = format!(
                "{name} has the extension {}, which has not been tested with this",
                one.name
            );
            return Err(refused("extension", msg));
        }
        if one.default.as_ref() != Some(&one.version) {
            let would = one.default.as_deref().unwrap_or("none");
            let msg = format!(
                "the extension {} of {name} has the version {}, and a restore would install {would}: ALTER EXTENSION {} UPDATE first",
                one.name, one.version, one.name
            );
            return Err(refused("extension", msg));
        }
    }
    Ok(())
}

/// Refuses a database in which a query of ours would run what another role could have written.
pub fn refuse_functions(name: &str, contents: &Contents) -> Result<()> {
    if let Some(call) = contents.calls.first() {
        let Call { what, function, owner, is_builtin } = call;
        let why = match is_builtin {
            true => "which can run any query or have effects".to_owned(),
            false => format!(
                "which {owner} can change: if you trust it, make a superuser its owner (ALTER FUNCTION ... OWNER TO)"
            ),
        };
        let msg = format!(
            "{what} of {name} calls {function}, and a restore or a query would run that with the rights of a superuser, {why}"
        );
        return Err(refused("untrusted_function", msg));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_that_a_dump_does_not_carry_are_refused() {
        let live = &Database { name: "shop".into(), ..Database::default() };
        let extension = |name: &str, default: &str| Contents {
            extensions: vec![Extension {
                name: name.into(),
                version: "1.0".into(),
                default: Some(default.into()),
            }],
            ..Contents::default()
        };
        assert!(refuse(live, &extension("hstore", "1.0")).is_ok());
        assert!(refuse(live, &extension("hstore", "1.1")).is_err());
        assert!(refuse(live, &extension("timescaledb", "1.0")).is_err());
        let servers = Contents { servers: vec!["other".into()], ..Contents::default() };
        let triggers = Contents { event_triggers: vec!["audit".into()], ..Contents::default() };
        assert!(refuse(live, &servers).is_err() && refuse(live, &triggers).is_err());
        let call = Call {
            what: "the constraint c".into(),
            function: "public.f()".into(),
            owner: "app".into(),
            is_builtin: false,
        };
        let calls = Contents { calls: vec![call], ..Contents::default() };
        let error = refuse(live, &calls).unwrap_err().to_string();
        assert!(error.contains("which app can change"), "{error}");
    }
}
