//! Carries out `state: present`: a dump from one snapshot, restored at once into another database of the cluster.
//!
//! Invariants: the application can write meanwhile; the copy has the content of the snapshot, counted in dump and copy;
//! only a copy that was checked and closed is recorded.

use crate::contents::{self, CARRIED};
use crate::dumped;
use crate::names::{self, Kind};
use crate::options::Task;
use crate::order::{close, commenting};
use crate::properties;
use crate::psql::{Psql, explained};
use crate::quote::{identifier, literal};
use crate::record::{self, Entry};
use crate::session::Session;
use crate::state::Database;
use crate::survey::{self, COUNTERS, Counters, Counts, OIDS, SEQUENCES, SURVEY, Sequence, Survey};
use crate::unfinished::{MAKING, Making, WORK};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock;
use host::command::{Command, IfWeDie};
use host::deadline::Deadline;
use host::record::Intent;
use host::spot::Spot;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The timeout of one statement on catalogs.
const STATEMENT: Duration = Duration::from_secs(120);
/// The maximum size of the listing of a dump.
const MAX_LISTING: usize = 64 << 20;
/// How many differences a message names.
const MAX_NAMED: usize = 5;

/// The database to capture, and the programs.
pub struct Capture<'a> {
    pub task: &'a Task,
    pub psql: &'a Psql,
    pub live: &'a Database,
    pub id: String,
    pub name: String,
    pub pg_dump: PathBuf,
    pub pg_restore: PathBuf,
    pub seen: Option<Seen>,
}

/// The content of the snapshot.
pub struct Seen {
    began: Instant,
    survey: Survey,
    counts: Counts,
    sequences: Vec<Sequence>,
    counters: Counters,
}

impl Capture<'_> {
    /// Returns the folder of the dump, which is unique to this database of this cluster.
    pub fn work(&self) -> PathBuf {
        let name = format!("reversible-postgres-{}-{}", self.id, self.task.subject.name);
        self.task.work_dir.join(name)
    }

    fn run(&self, what: &str, command: Command) -> Result<()> {
        let done = command.deadline(self.task.task_timeout).if_we_die(IfWeDie::DiesToo).run();
        done.map(drop).map_err(|failed| explained(failed, what).into())
    }

    pub fn dump(&mut self, intent: &Intent) -> Result<()> {
        let began = Instant::now();
        let work = self.work();
        intent.note(WORK, &work)?;
        let account = &self.psql.connection.account;
        let folder = Spot::of(&work)?.make_folder()?;
        let made = rustix::fs::fchown(
            &folder,
            Some(rustix::fs::Uid::from_raw(account.uid)),
            Some(rustix::fs::Gid::from_raw(account.gid)),
        );
        made.with_context(|| format!("giving {} to the account of the clients", work.display()))?;
        let database = &self.live.name;
        let longest = self.task.task_timeout.saturating_mul(2);
        let mut session = Session::open(
            self.psql,
            &format!("holding a snapshot of {database}"),
            database,
            longest,
        )?;
        let mut ask = |sql: &str| session.ask(sql, STATEMENT);
        // PostgreSQL 17 and newer have this setting.
        ask(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
        )?;
        ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let snapshot = ask("SELECT pg_export_snapshot()")?;
        // Again, in the snapshot of the dump: it may have been changed since the plan was made.
        contents::refuse(self.live, &serde_json::from_str(&ask(CARRIED)?)?)?;
        let sequences = serde_json::from_str(&ask(SEQUENCES)?)?;
        let counters = serde_json::from_str(&ask(COUNTERS)?)?;
        let survey = Survey::parse(&ask(SURVEY)?)?;
        let tables = serde_json::from_str(&ask(OIDS)?)?;
        let command = self.psql.command(&self.pg_dump, Some(database)).args([
            "--format=directory",
            "--compress=0",
            "--no-subscriptions",
            "--lock-wait-timeout=60000",
            &format!("--snapshot={snapshot}"),
            &format!("--jobs={}", self.task.jobs),
        ]);
        let dump = work.join("dump");
        self.run(&format!("dumping {database}"), command.arg("--file").arg(&dump))?;
        session.ask("COMMIT", STATEMENT)?;
        session.end()?;
        let what = "listing what was dumped";
        let listing = self.psql.command(&self.pg_restore, None).arg("--list").arg(&dump);
        let listing = listing.output_limit(MAX_LISTING).deadline(self.task.task_timeout);
        let listing = listing.if_we_die(IfWeDie::DiesToo).run();
        let listing = listing.map_err(|failed| explained(failed, what))?.stdout_shown();
        let counts = dumped::rows(&dump, &listing, &tables)?;
        self.seen = Some(Seen { began, survey, counts, sequences, counters });
        Ok(())
    }

    pub fn restore(&mut self, intent: &Intent) -> Result<()> {
        let what = format!("making {}", self.name);
        intent.note(MAKING, &Making { name: self.name.clone(), comment: self.comment() })?;
        // The comment is set in the same transaction as the rights, so that the database is always recognisable.
        let sql = format!(
            "{};\n{};",
            properties::creation(self.live, &self.name),
            commenting(&self.name, Some(&self.comment()))
        );
        if let Err(error) = self.change(&what, &sql) {
            if reason_of(&error) == Some("name_taken") {
                // Someone else has just made a database of this name, which must not be removed.
                intent.note(MAKING, &())?;
            }
            return Err(error);
        }
        let command = self.psql.command(&self.pg_restore, Some(&self.name)).args([
            "--format=directory",
            "--exit-on-error",
            "--no-subscriptions",
            &format!("--jobs={}", self.task.jobs),
        ]);
        self.run(&format!("restoring into {}", self.name), command.arg(self.work().join("dump")))?;
        Spot::of(&self.work())?.remove_all()?;
        intent.note(WORK, &())
    }

    fn comment(&self) -> String {
        names::comment(&self.live.name, Kind::RestorePoint, &self.id)
    }

    fn change(&self, what: &str, sql: &str) -> Result<()> {
        self.psql.change(
            what,
            self.psql.maintenance(),
            sql,
            Deadline::after(self.task.task_timeout),
        )
    }

    pub fn check(&self) -> Result<()> {
        let seen = self.seen()?;
        let deadline = || Deadline::after(self.task.task_timeout);
        let what = format!("checking {}", self.name);
        self.psql.change(&what, &self.name, "ANALYZE;", deadline())?;
        let mut session = Session::open(self.psql, &what, &self.name, self.task.task_timeout)?;
        let survey = Survey::parse(&session.ask(SURVEY, STATEMENT)?)?;
        let counts: Counts =
            serde_json::from_str(&session.ask(&survey::counting(&survey.tables), deadline())?)?;
        let sequences: Vec<Sequence> = serde_json::from_str(&session.ask(SEQUENCES, STATEMENT)?)?;
        session.end()?;
        let mut differences = seen.survey.differences(&survey);
        differences.extend(survey::count_differences(&seen.counts, &counts));
        differences.extend(survey::sequences_below(&seen.sequences, &sequences));
        if differences.is_empty() {
            return Ok(());
        }
        let more = differences.len().saturating_sub(MAX_NAMED);
        let named = differences.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join("; ");
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let msg = format!("{} differs from what was dumped: {named}{more}", self.name);
        Err(Failure::new("not_verified", msg).with("differences", differences).into())
    }

    /// Closes the copy to everybody and records it as a restore point.
    pub fn keep(&self, intent: &Intent) -> Result<()> {
        let seen = self.seen()?;
        let limit = format!(
            "ALTER DATABASE {} WITH CONNECTION LIMIT {};",
            identifier(&self.name),
            self.live.limit
        );
        self.change(&format!("closing {}", self.name), &limit)?;
        close(self.psql, &self.name)?;
        // Not before it was checked: whoever owns it could change what our queries run.
        let statements = properties::statements(self.live, &self.name);
        self.change(
            &format!("giving {} its owner, rights and settings", self.name),
            &format!("{};", statements.join(";\n")),
        )?;
        let sql =
            format!("SELECT oid::bigint FROM pg_database WHERE datname = {}", literal(&self.name));
        let oid = self.psql.ask("looking at the restore point", self.psql.maintenance(), &sql)?;
        let entry = Entry {
            kind: Kind::RestorePoint,
            id: self.id.clone(),
            name: self.name.clone(),
            oid,
            database: self.live.name.clone(),
            live_oid: self.live.oid,
            at: clock::now().to_string(),
            release: self.task.release.clone(),
            major: self.live.major,
            cluster: self.live.cluster.clone(),
            comment: self.live.comment.clone(),
            digest: Some(seen.survey.digest()),
            counters: Some(seen.counters.clone()),
            milliseconds: u64::try_from(seen.began.elapsed().as_millis()).ok(),
        };
        record::add(&self.task.subject.state_dir, &entry)?;
        intent.note(MAKING, &())
    }

    fn seen(&self) -> Result<&Seen> {
        self.seen.as_ref().context("nothing was dumped")
    }
}

fn reason_of(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>().map(|failure| failure.reason))
}
