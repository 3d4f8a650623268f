//! What was written since a restore point, counted: the live database is compared with the one that lies beside it.
//!
//! Nobody can connect to a restore point. So it is opened for the moment in which our own sessions connect, by a client
//! that closes it again when its input ends (also when this program is killed), and the sessions stay. The lock of the
//! database is held all the time: nobody else opens, swaps or removes it meanwhile.
//!
//! Invariants: nothing is written in either database; the live one is seen as of one moment; a table is locked no longer
//! than it is compared; after the limit of time no statement runs on. What was not counted is named.

use crate::compare::{self, Both, Change, Hashes, Pair, Rows, SETTINGS, Side, TABLES, Table};
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

/// How many tables are compared at the same time.
const AT_ONCE: usize = 2;
/// Rows of one answer.
const CHUNK: usize = 10_000;
/// For one statement on catalogs, and for a session to connect.
const STATEMENT: Duration = Duration::from_secs(60);

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By table, where any row differs.
    pub tables: BTreeMap<String, Rows>,
    /// Tables that were not counted, and why.
    pub uncounted: BTreeMap<String, String>,
}

/// The live database and what lies beside it, each with sessions that see one moment of it.
pub struct Beside {
    pub live: Vec<Session>,
    pub before: Vec<Session>,
    pub deadline: Deadline,
}

impl Beside {
    pub fn open(psql: &Psql, live: &str, before: &str, deadline: Deadline) -> Result<Beside> {
        let longest = deadline.remaining() + STATEMENT.saturating_mul(2);
        let mut lives = Vec::new();
        let mut snapshot: Option<String> = None;
        for _ in 0..AT_ONCE {
            let what = format!("counting what was written to {live}");
            let mut session = Session::open(psql, &what, live, longest)?;
            snapshot = Some(begin(&mut session, snapshot.as_deref())?);
            lives.push(session);
        }
        let mut befores = enter(psql, before, longest)?;
        for session in &mut befores {
            begin(session, None)?;
        }
        Ok(Beside { live: lives, before: befores, deadline })
    }

    /// The tables of both.
    pub fn tables(&mut self) -> Result<(Vec<Table>, Vec<Table>)> {
        let tables = |session: &mut Session| -> Result<Vec<Table>> {
            Ok(serde_json::from_str(&session.ask(TABLES, STATEMENT)?)?)
        };
        Ok((tables(&mut self.live[0])?, tables(&mut self.before[0])?))
    }

    /// Compares all tables, some of them at the same time.
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

/// A transaction that sees one moment, and the name under which other sessions see the same.
fn begin(session: &mut Session, snapshot: Option<&str>) -> Result<String> {
    for setting in SETTINGS {
        session.ask(setting, STATEMENT)?;
    }
    // A statement ends soon after its client has; of PostgreSQL 17 and newer is the other one.
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

/// Sessions in a database that refuses connections, which it does again as soon as they have connected.
fn enter(psql: &Psql, name: &str, longest: Duration) -> Result<Vec<Session>> {
    let quoted = identifier(name);
    let close = [format!("ALTER DATABASE {quoted} WITH ALLOW_CONNECTIONS false")];
    let what = format!("opening {name} for a moment");
    let mut door =
        Session::with_final_statements(psql, &what, psql.maintenance(), longest, &close)?;
    door.ask(&format!("ALTER DATABASE {quoted} WITH ALLOW_CONNECTIONS true"), STATEMENT)?;
    let what = format!("counting what is in {name}");
    let sessions: Result<Vec<Session>> =
        (0..AT_ONCE).map(|_| Session::open(psql, &what, name, longest)).collect();
    // Both: what the client says last is not looked at by anybody.
    let (ended, closed) = (door.end(), order::close(psql, name));
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
            let (session, at) = match side {
                Side::Live => (live, 0),
                Side::Before => (before, 2),
            };
            let sql = format!("SELECT count(*) FROM ONLY {name}");
            rows[at] = session.ask(&sql, patience(deadline))?.parse()?;
            Ok(())
        }
        Pair::Both(both) => each_change(live, before, both, deadline, |change, _| {
            let at = match change {
                Change::Inserted => 0,
                Change::Updated => 1,
                Change::Deleted => 2,
            };
            rows[at] += 1;
            Ok(())
        }),
    });
    counted.map(|()| rows)
}

/// What is done within the limit of time, and leaves no lock behind; why not, in words.
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
    // Also when all went well: the table is not locked any longer.
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

/// A bit longer than the server's own limit, which ends the statement and keeps the session.
pub fn patience(deadline: Deadline) -> Deadline {
    Deadline::after(deadline.remaining() + Duration::from_secs(10))
}

/// Tells each row that differs, by the hash of its key.
pub fn each_change(
    live: &mut Session,
    before: &mut Session,
    table: &Both,
    deadline: Deadline,
    tell: impl FnMut(Change, (i64, i64)) -> Result<()>,
) -> Result<()> {
    let sums = table.summing();
    // Both at the same time.
    live.begin(&sums)?;
    before.begin(&sums)?;
    let sums = [live.answer(patience(deadline)), before.answer(patience(deadline))];
    let [Ok(now), Ok(then)] = sums else {
        return sums.into_iter().find_map(Result::err).map_or(Ok(()), Err);
    };
    let buckets = compare::different(&now, &then)?;
    if buckets.is_empty() {
        return Ok(());
    }
    let listing = table.listing(&buckets);
    let mut live = Rowstream::open(live, &listing, deadline)?;
    let mut before = Rowstream::open(before, &listing, deadline)?;
    compare::merge(|| live.next(), || before.next(), tell)
}

/// Tells each row of a table that only one side has.
pub fn each_row(
    session: &mut Session,
    table: &Both,
    deadline: Deadline,
    mut tell: impl FnMut((i64, i64)) -> Result<()>,
) -> Result<()> {
    let mut rows = Rowstream::open(session, &table.listing(&[0]), deadline)?;
    compare::merge(|| rows.next(), || Ok(None), |_, key| tell(key))
}

/// Rows of a query, some at a time.
struct Rowstream<'a> {
    session: &'a mut Session,
    rows: std::vec::IntoIter<Hashes>,
    deadline: Deadline,
    is_whole: bool,
}

impl<'a> Rowstream<'a> {
    fn open(session: &'a mut Session, query: &str, deadline: Deadline) -> Result<Rowstream<'a>> {
        let declare = format!("DECLARE differing NO SCROLL CURSOR FOR {query}");
        session.ask(&declare, patience(deadline))?;
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
            anyhow::bail!("it takes too long");
        }
        let fetch = format!("FETCH {CHUNK} FROM differing");
        let rows = compare::hashes(&self.session.ask(&fetch, patience(self.deadline))?)?;
        self.is_whole = rows.len() < CHUNK;
        self.rows = rows.into_iter();
        Ok(self.rows.next())
    }
}

/// Compares the live database with what lies beside it; why that could not even begin, in words.
pub fn of(psql: &Psql, live: &str, before: &str, deadline: Deadline) -> Result<Counted, String> {
    let counted = Beside::open(psql, live, before, deadline)
        .and_then(Beside::count)
        .with_context(|| format!("comparing {live} with {before}"));
    counted.map_err(|error| match error.downcast_ref::<Failure>() {
        Some(failure) => failure.to_string(),
        None => format!("{error:#}"),
    })
}
