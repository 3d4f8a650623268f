//! Counts what was written since a restore point, by comparing the live database with its copy.
//!
//! Nobody can connect to a restore point. So it is opened for the moment in which our sessions connect, by a client that
//! closes it again when its input ends (also when this program is killed); the sessions stay connected. The lock of the
//! database is held all the time, so that no other task opens, swaps or removes the copy meanwhile.
//!
//! Invariants: nothing is written to either database; the live one is read from one snapshot; a table is locked only
//! while it is compared; no statement runs longer than the time limit. Tables that were not counted are named.

use crate::compare::{self, Both, Change, Hashes, Pair, Rows, SETTINGS, Side, TABLES, Table};
use crate::contents::{self, CARRIED};
use crate::order;
use crate::psql::Psql;
use crate::quote::identifier;
use crate::session::Session;
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::deadline::{self, Deadline};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The number of tables that are compared in parallel.
const PARALLEL: usize = 2;
/// The number of rows that one `FETCH` returns.
const CHUNK: usize = 10_000;
/// The timeout of a statement on catalogs, and of connecting.
const STATEMENT: Duration = Duration::from_secs(60);

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The changes of each table with any.
    pub tables: BTreeMap<String, Rows>,
    /// Tables that were not counted, and why.
    pub uncounted: BTreeMap<String, String>,
}

/// Sessions in the live database, which share one snapshot, and in a copy of it.
pub struct Comparison {
    pub live: Vec<Session>,
    pub before: Vec<Session>,
    pub deadline: Deadline,
}

impl Comparison {
    pub fn open(psql: &Psql, live: &str, before: &str, deadline: Deadline) -> Result<Comparison> {
        let longest = deadline.remaining() + STATEMENT.saturating_mul(2);
        let mut live_sessions = Vec::new();
        let mut snapshot: Option<String> = None;
        for _ in 0..PARALLEL {
            let what = format!("counting what was written to {live}");
            let mut session = Session::open(psql, &what, live, longest)?;
            snapshot = Some(begin(&mut session, snapshot.as_deref())?);
            let carried = session.ask(CARRIED, STATEMENT)?;
            contents::refuse_functions(live, &serde_json::from_str(&carried)?)?;
            live_sessions.push(session);
        }
        let mut before_sessions = connect_to_closed(psql, before, longest, PARALLEL)?;
        for session in &mut before_sessions {
            begin(session, None)?;
        }
        Ok(Comparison { live: live_sessions, before: before_sessions, deadline })
    }

    /// Reads the tables of both databases.
    pub fn tables(&mut self) -> Result<(Vec<Table>, Vec<Table>)> {
        let tables = |session: &mut Session| -> Result<Vec<Table>> {
            Ok(serde_json::from_str(&session.ask(TABLES, STATEMENT)?)?)
        };
        Ok((tables(&mut self.live[0])?, tables(&mut self.before[0])?))
    }

    /// Compares all tables.
    pub fn count(mut self) -> Result<Counted> {
        let (live, before) = self.tables()?;
        let queue: Mutex<VecDeque<Pair>> = Mutex::new(compare::pairs(&live, &before).into());
        let counted = Mutex::new(Counted::default());
        let deadline = self.deadline;
        std::thread::scope(|scope| {
            for (live, before) in self.live.iter_mut().zip(&mut self.before) {
                let (queue, counted) = (&queue, &counted);
                scope.spawn(move || {
                    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    while let Some(pair) = next() {
                        let rows = count_table(live, before, &pair, deadline);
                        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
                        let name = pair.name().to_owned();
                        match rows {
                            Ok([0, 0, 0]) => {}
                            Ok(rows) => drop(counted.tables.insert(name, rows)),
                            Err(why) => drop(counted.uncounted.insert(name, why)),
                        }
                    }
                });
            }
        });
        host::interrupt::check()?;
        for session in self.live.into_iter().chain(self.before) {
            session.end()?;
        }
        Ok(counted.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Begins a transaction with a new snapshot or the given one, and returns the name of the snapshot.
fn begin(session: &mut Session, snapshot: Option<&str>) -> Result<String> {
    for setting in SETTINGS {
        session.ask(setting, STATEMENT)?;
    }
    // A statement ends soon after its client has. transaction_timeout exists since PostgreSQL 17.
    session.ask("SET client_connection_check_interval = '1s'", STATEMENT)?;
    session.ask(
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
        STATEMENT,
    )?;
    session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", STATEMENT)?;
    match snapshot {
        Some(name) => {
            session.ask(&format!("SET TRANSACTION SNAPSHOT '{name}'"), STATEMENT)?;
            Ok(name.to_owned())
        }
        None => session.ask("SELECT pg_export_snapshot()", STATEMENT),
    }
}

/// Opens sessions in a database that refuses connections. It refuses them again as soon as these are connected.
pub fn connect_to_closed(
    psql: &Psql,
    name: &str,
    longest: Duration,
    many: usize,
) -> Result<Vec<Session>> {
    let quoted = identifier(name);
    let close = [format!("ALTER DATABASE {quoted} WITH ALLOW_CONNECTIONS false")];
    let what = format!("opening {name} for a moment");
    let mut opener =
        Session::with_final_statements(psql, &what, psql.maintenance(), longest, &close)?;
    opener.ask(&format!("ALTER DATABASE {quoted} WITH ALLOW_CONNECTIONS true"), STATEMENT)?;
    let what = format!("counting what is in {name}");
    let sessions: Result<Vec<Session>> =
        (0..many).map(|_| Session::open(psql, &what, name, longest)).collect();
    // The database is also closed here, since nobody reads the result of the client's final statement.
    let (ended, closed) = (opener.end(), order::close(psql, name));
    closed.and(ended)?;
    sessions
}

fn count_table(
    live: &mut Session,
    before: &mut Session,
    pair: &Pair,
    deadline: Deadline,
) -> Result<Rows, String> {
    let mut rows = [0; 3];
    let counted = in_time(live, before, deadline, |live, before| match pair {
        Pair::One { name, side } => {
            let (session, index) = match side {
                Side::Live => (live, 0),
                Side::Before => (before, 2),
            };
            let sql = format!("SELECT count(*) FROM ONLY {name}");
            rows[index] = session.ask(&sql, answer_deadline(deadline))?.parse()?;
            Ok(())
        }
        Pair::Both(both) => each_change(live, before, both, deadline, |change, _| {
            let index = match change {
                Change::Inserted => 0,
                Change::Updated => 1,
                Change::Deleted => 2,
            };
            rows[index] += 1;
            Ok(())
        }),
    });
    counted.map(|()| rows)
}

/// Does something with a table within the time limit, and releases its locks afterwards. The error says in words why it
/// was not done.
pub fn in_time(
    live: &mut Session,
    before: &mut Session,
    deadline: Deadline,
    act: impl FnOnce(&mut Session, &mut Session) -> Result<()>,
) -> Result<(), String> {
    let late = || format!("not within {}", deadline::seconds(deadline.span()));
    if deadline.passed() {
        return Err(late());
    }
    let limit = deadline.remaining().as_millis().max(1);
    let done = (|| {
        for session in [&mut *live, &mut *before] {
            session.ask("SAVEPOINT one_table", STATEMENT)?;
            session.ask(&format!("SET LOCAL statement_timeout = {limit}"), STATEMENT)?;
        }
        act(live, before)
    })();
    // Also after success, to release the locks of the table.
    let undone =
        [live, before].map(|session| session.ask("ROLLBACK TO SAVEPOINT one_table", STATEMENT));
    match done {
        Ok(()) => undone
            .into_iter()
            .find_map(Result::err)
            .map_or(Ok(()), |error| Err(format!("{error:#}"))),
        Err(_) if deadline.passed() => Err(late()),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Returns a deadline slightly after the server's own limit, which ends the statement without ending the session.
pub fn answer_deadline(deadline: Deadline) -> Deadline {
    Deadline::after(deadline.remaining() + Duration::from_secs(10))
}

/// Calls `found` for each row that differs, with the hash of its key.
pub fn each_change(
    live: &mut Session,
    before: &mut Session,
    table: &Both,
    deadline: Deadline,
    found: impl FnMut(Change, (i64, i64)) -> Result<()>,
) -> Result<()> {
    let sums = table.sums_query();
    // Both servers work in parallel.
    live.begin(&sums)?;
    before.begin(&sums)?;
    let sums = [live.answer(answer_deadline(deadline)), before.answer(answer_deadline(deadline))];
    let [Ok(now), Ok(then)] = sums else {
        return sums.into_iter().find_map(Result::err).map_or(Ok(()), Err);
    };
    let buckets = compare::differing_buckets(&now, &then)?;
    if buckets.is_empty() {
        return Ok(());
    }
    let query = table.hashes_query(&buckets);
    let mut live = Rowstream::open(live, &query, deadline)?;
    let mut before = Rowstream::open(before, &query, deadline)?;
    compare::merge(|| live.next(), || before.next(), found)
}

/// Calls `found` for each row of a table that only one side has.
pub fn each_row(
    session: &mut Session,
    table: &Both,
    deadline: Deadline,
    mut found: impl FnMut((i64, i64)) -> Result<()>,
) -> Result<()> {
    let mut rows = Rowstream::open(session, &table.hashes_query(&[0]), deadline)?;
    compare::merge(|| rows.next(), || Ok(None), |_, key| found(key))
}

/// The rows of a query, fetched in chunks.
struct Rowstream<'a> {
    session: &'a mut Session,
    rows: std::vec::IntoIter<Hashes>,
    deadline: Deadline,
    is_whole: bool,
}

impl<'a> Rowstream<'a> {
    fn open(session: &'a mut Session, query: &str, deadline: Deadline) -> Result<Rowstream<'a>> {
        let declare = format!("DECLARE differing NO SCROLL CURSOR FOR {query}");
        session.ask(&declare, answer_deadline(deadline))?;
        Ok(Rowstream { session, rows: Vec::new().into_iter(), deadline, is_whole: false })
    }

    fn next(&mut self) -> Result<Option<Hashes>> {
        if let Some(row) = self.rows.next() {
            return Ok(Some(row));
        }
        if self.is_whole {
            return Ok(None);
        }
        if self.deadline.passed() {
            anyhow::bail!("the time limit has passed");
        }
        let fetch = format!("FETCH {CHUNK} FROM differing");
        let rows =
            compare::parse_hashes(&self.session.ask(&fetch, answer_deadline(self.deadline))?)?;
        self.is_whole = rows.len() < CHUNK;
        self.rows = rows.into_iter();
        Ok(self.rows.next())
    }
}

/// Compares the live database with a copy. The error says in words why that was not possible at all.
pub fn of(psql: &Psql, live: &str, before: &str, deadline: Deadline) -> Result<Counted, String> {
    let counted = Comparison::open(psql, live, before, deadline)
        .and_then(Comparison::count)
        .with_context(|| format!("comparing {live} with {before}"));
    counted.map_err(|error| match error.downcast_ref::<Failure>() {
        Some(failure) => failure.to_string(),
        None => format!("{error:#}"),
    })
}
