//! Runs the checks of the options: queries in one of our databases, or the live one, whose results are expected.
//!
//! Invariants: a check writes nothing (its transaction is read only), runs as the owner of the database, for a bounded
//! time, and finds nothing by the search path. Its SQL reaches the server as a string, which psql does not read.

use crate::options::Check;
use crate::psql::Psql;
use crate::quote::{identifier, literal};
use crate::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The timeout of a statement that is not a check.
const STATEMENT: Duration = Duration::from_secs(60);
/// The setting in which the server keeps a result until it is read.
const RESULT: &str = "reversible_deploy.result";
/// The result of a query with no row, or with NULL in its first.
const NULL: &str = "null";

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub name: String,
    pub passed: bool,
    pub expected: String,
    /// The first column of the first row, as text.
    pub got: Option<String>,
    /// Why there is no result.
    pub error: Option<String>,
    pub milliseconds: u64,
}

pub fn run(
    psql: &Psql,
    database: &str,
    owner: &str,
    checks: &[Check],
    timeout: Duration,
) -> Result<Vec<Checked>> {
    let longest = timeout
        .saturating_mul(u32::try_from(checks.len()).unwrap_or(u32::MAX).saturating_add(1))
        + STATEMENT;
    let mut session = Session::open(psql, &format!("checking {database}"), database, longest)?;
    let mut done = Vec::new();
    for check in checks {
        let began = Instant::now();
        let result = ask(&mut session, owner, check, timeout);
        // Whatever became of it: also the error of a check leaves its transaction open.
        session.ask("ROLLBACK", STATEMENT)?;
        done.push(judged(
            check,
            result,
            u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ));
    }
    session.end()?;
    Ok(done)
}

fn ask(session: &mut Session, owner: &str, check: &Check, timeout: Duration) -> Result<String> {
    for statement in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
        "SET LOCAL search_path = ''".to_owned(),
        format!("SET LOCAL statement_timeout = {}", timeout.as_millis().max(1)),
        "SET LOCAL lock_timeout = '5s'".to_owned(),
        "SET LOCAL row_security = on".to_owned(),
        format!("SET LOCAL ROLE {}", identifier(owner)),
    ] {
        session.ask(&statement, STATEMENT)?;
    }
    session.ask(&block(&check.sql), timeout + STATEMENT)?;
    session.ask(&format!("SELECT current_setting('{RESULT}')"), STATEMENT)
}

/// Makes the statement that runs a query and keeps its result.
fn block(sql: &str) -> String {
    let body = format!(
        "DECLARE result text; BEGIN EXECUTE {} INTO result; PERFORM pg_catalog.set_config('{RESULT}', \
         coalesce('=' OPERATOR(pg_catalog.||) result, '{NULL}'), true); END",
        literal(sql.trim().trim_end_matches(';'))
    );
    format!("DO LANGUAGE plpgsql {}", literal(&body))
}

fn judged(check: &Check, result: Result<String>, milliseconds: u64) -> Checked {
    let (got, error) = match result {
        Ok(text) => (text.strip_prefix('=').map(str::to_owned), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let passed = error.is_none() && is_expected(got.as_deref(), &check.expect);
    Checked {
        name: check.name.clone(),
        passed,
        expected: check.expect.clone(),
        got,
        error,
        milliseconds,
    }
}

/// Compares a result with what Ansible makes text of: a boolean is `True` there and `true` here.
fn is_expected(got: Option<&str>, expected: &str) -> bool {
    let got = got.unwrap_or(NULL);
    got == expected || (["true", "false"].contains(&got) && got.eq_ignore_ascii_case(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_are_expected() {
        for (got, expected, same) in [
            (Some("5"), "5", true),
            (Some("5"), "6", false),
            (Some("true"), "True", true),
            (Some("false"), "true", false),
            (Some("Word"), "word", false),
            (None, "null", true),
            (None, "", false),
            (Some(""), "", true),
        ] {
            assert_eq!(is_expected(got, expected), same, "{got:?} {expected}");
        }
    }

    #[test]
    fn a_query_is_one_string() {
        assert_eq!(
            block("SELECT 'it''s' \\! ;"),
            "DO LANGUAGE plpgsql E'DECLARE result text; BEGIN EXECUTE E''SELECT ''''it''''''''s'''' \\\\\\\\! '' INTO result; \
             PERFORM pg_catalog.set_config(''reversible_deploy.result'', coalesce(''='' OPERATOR(pg_catalog.||) result, ''null''), true); END'"
        );
    }
}
