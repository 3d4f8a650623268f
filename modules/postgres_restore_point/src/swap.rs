//! Carries out `state: rolled_back`: checks the restore point, then swaps the names of two databases.
//!
//! Sessions cannot be shut out and read at the same time by the lock of a rename: whoever holds it is alone. So the
//! database is closed first, all sessions but one of ours are ended, that one reads the sequences, and then both renames
//! and the opening are one transaction. A client of ours stays connected meanwhile and opens the database again when
//! its input ends: also when this program is killed. What neither could undo (a server that crashed), the next run does.
//!
//! Invariant: at any moment exactly one complete database has the name.

use crate::names;
use crate::options::Task;
use crate::order::{commenting, record_swap};
use crate::psql::{DURABLE, Psql};
use crate::quote::identifier;
use crate::record::Entry;
use crate::session::Session;
use crate::survey::{self, SEQUENCES, SURVEY, Sequence, Survey};
use crate::unfinished::Goal;
use ansible_module::Failure;
use anyhow::{Result, ensure};
use host::deadline::Deadline;
use host::interrupt;
use std::time::Duration;

const STATEMENT: Duration = Duration::from_secs(60);
/// The pause between two checks whether sessions have ended.
const POLL_MILLISECONDS: Duration = Duration::from_millis(10);

/// Opens the database that will become live, and checks that its content is still the captured one.
pub fn check(psql: &Psql, incoming: &Entry) -> Result<()> {
    let name = &incoming.name;
    let sql = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true;", identifier(name));
    psql.change(&format!("opening {name}"), psql.maintenance(), &sql, Deadline::after(STATEMENT))?;
    let survey: serde_json::Value = psql.ask(&format!("looking into {name}"), name, SURVEY)?;
    let digest = Survey::parse(&survey.to_string())?.digest();
    if incoming.digest.as_ref().is_some_and(|captured| *captured != digest) {
        let msg = format!(
            "{name} has been changed since it was captured: tables, columns or the like are not the same"
        );
        return Err(Failure::new("restore_point_changed", msg).into());
    }
    Ok(())
}

pub fn swap(psql: &Psql, task: &Task, goal: &Goal) -> Result<()> {
    let _shield = interrupt::shield();
    let live = identifier(&goal.outgoing.database);
    let longest = task.swap_timeout + STATEMENT.saturating_mul(3);
    let mut old = Session::open(psql, "reading the sequences", &goal.outgoing.database, longest)?;
    let mut new = Session::open(psql, "setting the sequences", &goal.incoming.name, longest)?;
    let open = format!("ALTER DATABASE {live} WITH ALLOW_CONNECTIONS true");
    let words = [open.clone()];
    let mut door = Session::with_final_statements(
        psql,
        "swapping the names",
        psql.maintenance(),
        longest,
        &words,
    )?;
    let mine =
        [&mut old, &mut new].map(|session| session.ask("SELECT pg_backend_pid()", STATEMENT));
    let mine: Vec<String> = mine.into_iter().collect::<Result<_>>()?;

    door.ask(DURABLE, STATEMENT)?;
    let deadline = Deadline::after(task.swap_timeout);
    door.ask(&format!("ALTER DATABASE {live} WITH ALLOW_CONNECTIONS false"), deadline)?;
    let oids = [goal.outgoing.oid, goal.incoming.oid];
    end_sessions(&mut door, &goal.outgoing.database, &oids, &mine, deadline)?;
    catch_up(&mut old, &mut new, deadline)?;
    old.end()?;
    new.end()?;
    end_sessions(&mut door, &goal.outgoing.database, &oids, &[], deadline)?;

    let (parked, incoming) = (identifier(&goal.outgoing.name), identifier(&goal.incoming.name));
    let mark = names::comment(&goal.outgoing.database, goal.outgoing.kind, &goal.outgoing.id);
    for statement in [
        "BEGIN".to_owned(),
        format!("ALTER DATABASE {live} RENAME TO {parked}"),
        format!("ALTER DATABASE {incoming} RENAME TO {live}"),
        open,
        commenting(&goal.outgoing.name, Some(&mark)),
        commenting(&goal.outgoing.database, goal.incoming.comment.as_deref()),
    ] {
        door.ask(&statement, deadline)?;
    }
    // Not to be left in doubt by our own patience.
    door.ask("COMMIT", STATEMENT)?;
    door.end()?;
    record_swap(task, goal)
}

/// Waits until nobody is connected to these databases. A session that is connecting holds a lock on the database until it
/// is listed, so the locks are read first.
fn end_sessions(
    door: &mut Session,
    name: &str,
    oids: &[u32],
    mine: &[String],
    deadline: Deadline,
) -> Result<()> {
    let oids = oids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let others = match mine {
        [] => String::new(),
        mine => format!(" AND pid NOT IN ({})", mine.join(", ")),
    };
    let locks = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND objid IN ({oids}) \
         AND pid <> pg_backend_pid(){others}"
    );
    let sessions = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datid IN ({oids}){others}"
    );
    loop {
        let waiting = door.ask(&locks, STATEMENT)?;
        let ended = door.ask(&sessions, STATEMENT)?;
        if waiting == "0" && ended == "0" {
            return Ok(());
        }
        if deadline.passed() {
            let span = host::deadline::seconds(deadline.span());
            let msg = format!("sessions of {name} did not end within {span} (swap_timeout)");
            return Err(Failure::new("sessions", msg).into());
        }
        deadline.sleep(POLL_MILLISECONDS)?;
    }
}

/// Advances the sequences, so that no number is returned twice; nobody else is connected to either database now.
fn catch_up(old: &mut Session, new: &mut Session, deadline: Deadline) -> Result<()> {
    let raw: Vec<Sequence> = serde_json::from_str(&old.ask(SEQUENCES, deadline)?)?;
    new.ask(&survey::catching_up(&raw)?, deadline)?;
    let now: Vec<Sequence> = serde_json::from_str(&new.ask(SEQUENCES, deadline)?)?;
    let same = |one: &&Sequence| {
        now.iter().any(|other| (&one.schema, &one.name) == (&other.schema, &other.name))
    };
    // One whose limits are narrower now cannot stand where the other stood.
    let both: Vec<Sequence> = raw.iter().filter(same).cloned().collect();
    let below = survey::sequences_below(&both, &now);
    ensure!(below.is_empty(), "{}", below.join("; "));
    Ok(())
}
