//! `psql`, `pg_dump` and `pg_restore`: finds and calls them, and explains their errors. No other file runs one of them,
//! so that a prefix of commands (to reach a container, for example) would be added here.
//!
//! Invariants: no shell; SQL goes in by stdin; no startup file is read (`-X`) and no password asked for (`-w`); they
//! run as the account of the options; settings of a database or role cannot change what a query of ours means.

use ansible_module::Failure;
use anyhow::{Context, Result};
use host::account::Account;
use host::command::{Cause, Command, Failed, IfWeDie};
use host::deadline::Deadline;
use host::{folder, program};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::quote;

/// The timeout of queries on catalogs.
const READ: Duration = Duration::from_secs(60);
/// The maximum size of a listing.
const MAX_LISTING: usize = 64 << 20;
/// The folders of the programs of each major version in packages of Debian and of PostgreSQL's own repositories.
const PACKAGE_FOLDERS: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];
/// Settings that override those of the database or the role: a statement timeout, a search path, read-only
/// transactions by default.
const SETTINGS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off \
    -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 \
    -c client_min_messages=warning -c standard_conforming_strings=on -c row_security=off \
    -c DateStyle=ISO -c TimeZone=UTC";

/// The server, and how its clients are run.
#[derive(Clone, Debug)]
pub struct Connection {
    /// A folder with a socket, or a host.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub account: Account,
    /// The folder of the programs; `None` for those of packages.
    pub programs: Option<PathBuf>,
    /// The database to connect to for statements about databases.
    pub maintenance: String,
}

/// Makes a commit durable before it is answered, where the cluster does not: what our record says must not be lost in a
/// crash of the server. It waits for no replica, as before.
pub const DURABLE: &str = "SELECT set_config(name, 'local', false) FROM pg_settings \
    WHERE name = 'synchronous_commit' AND setting = 'off'";

pub struct Psql {
    pub connection: Connection,
    psql: PathBuf,
}

impl Psql {
    pub fn find(connection: &Connection) -> Result<Psql> {
        let psql = match &connection.programs {
            Some(folder) => Some(folder.join("psql")).filter(|path| path.exists()),
            // Any psql can query any server, so the newest is used.
            None => packaged().into_iter().map(|(_, folder)| folder.join("psql")).next_back(),
        };
        let psql = match (psql, &connection.programs) {
            (Some(path), _) => path,
            (None, Some(folder)) => {
                return Err(missing("psql", &format!("in {}", folder.display())).into());
            }
            (None, None) => program::look("psql")?
                .map_err(|why| missing("psql", "on this machine").caused_by(why.into()))?,
        };
        folder::check_program(&psql)?;
        Ok(Psql { connection: connection.clone(), psql })
    }

    /// Finds a program of the server's own major version: other versions may be incompatible with the server.
    pub fn tool(&self, name: &str, major: u32) -> Result<PathBuf> {
        let path = match &self.connection.programs {
            Some(folder) => folder.join(name),
            None => match packaged().into_iter().find(|(found, _)| *found == major) {
                Some((_, folder)) => folder.join(name),
                None => program::look(name)?.map_err(|why| {
                    missing(
                        name,
                        &format!("of PostgreSQL {major}, the server's own, on this machine"),
                    )
                    .caused_by(why.into())
                })?,
            },
        };
        folder::check_program(&path)?;
        let said = self.command(&path, None).arg("--version").if_we_die(IfWeDie::DiesToo).run();
        let said = said.map_err(|failed| {
            explained(failed, &format!("asking {} for its version", path.display()))
        })?;
        match major_of(said.text()?) {
            Some(found) if found == major => Ok(path),
            _ => {
                let msg = format!(
                    "{} says {:?}, and the server is PostgreSQL {major}: install the client programs of that version, or name \
                     their folder in `programs`; nothing was changed",
                    path.display(),
                    said.stdout_shown().trim()
                );
                Err(Failure::new("other_major", msg).into())
            }
        }
    }

    /// Makes the command of a client program, with the server and the account.
    pub fn command(&self, program: &Path, database: Option<&str>) -> Command {
        let on = &self.connection;
        let mut command = Command::new(program).run_as(&on.account).cwd("/");
        command = command
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGOPTIONS", SETTINGS)
            .env("PGAPPNAME", "reversible.deploy")
            .env("PGCONNECT_TIMEOUT", "15");
        if let Some(host) = &on.host {
            command = command.env("PGHOST", host);
        }
        if let Some(port) = on.port {
            command = command.env("PGPORT", port.to_string());
        }
        if let Some(user) = &on.user {
            command = command.env("PGUSER", user);
        }
        match database {
            Some(name) => {
                command.arg("--no-password").arg(format!("--dbname={}", quote::dbname(name)))
            }
            None => command,
        }
    }

    /// Makes the command of psql with unaligned output of results only.
    pub fn client(&self, database: &str) -> Command {
        self.command(&self.psql, Some(database)).args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "VERBOSITY=default",
        ])
    }

    fn run(
        &self,
        what: &str,
        database: &str,
        sql: &str,
        deadline: Deadline,
        if_killed: IfWeDie,
    ) -> Result<String> {
        let command = self.client(database).args(["-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let done = command
            .stdin(sql)
            .output_limit(MAX_LISTING)
            .deadline(deadline)
            .if_we_die(if_killed)
            .run();
        Ok(done.map_err(|failed| explained(failed, what))?.text()?.to_owned())
    }

    /// Runs one query and parses its result as JSON.
    pub fn ask<T: DeserializeOwned>(&self, what: &str, database: &str, sql: &str) -> Result<T> {
        let text = self.run(what, database, sql, Deadline::after(READ), IfWeDie::DiesToo)?;
        serde_json::from_str(&text).with_context(|| format!("{what}: the result cannot be parsed"))
    }

    /// Runs statements that make a database; they end with this process.
    pub fn create(
        &self,
        what: &str,
        database: &str,
        sql: &str,
        deadline: Deadline,
    ) -> Result<String> {
        self.run(what, database, sql, deadline, IfWeDie::DiesToo)
    }

    /// Runs statements that change something, each in a transaction of its own unless they begin one.
    pub fn change(&self, what: &str, database: &str, sql: &str, deadline: Deadline) -> Result<()> {
        let sql = format!("{DURABLE};\n{sql}");
        self.run(what, database, &sql, deadline, IfWeDie::GoesOn).map(drop)
    }

    pub fn maintenance(&self) -> &str {
        &self.connection.maintenance
    }
}

/// Finds installed major versions and their folders, the oldest first.
fn packaged() -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    for (folder, prefix) in PACKAGE_FOLDERS {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let major = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            let programs = entry.path().join("bin");
            if let Some(major) = major.filter(|_| programs.join("psql").exists()) {
                found.push((major, programs));
            }
        }
    }
    found.sort();
    found
}

/// Parses `pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_of(said: &str) -> Option<u32> {
    let version = said.split("(PostgreSQL) ").nth(1)?;
    let end = version.find(|c: char| !c.is_ascii_digit())?;
    version[..end].parse().ok()
}

fn missing(name: &str, place: &str) -> Failure {
    Failure::new("program_missing", format!("there is no {name} {place}; nothing was changed"))
}

/// Makes the error for a failed command, with what was tried and what helps.
pub fn explained(failed: Failed, what: &str) -> Failure {
    let (reason, cure) = match failed.cause {
        Cause::NonZero => meaning(&failed.stderr.to_lowercase()),
        _ => (failed.reason(), ""),
    };
    Failure::of_command(failed, what, reason, cure)
}

pub fn meaning(text: &str) -> (&'static str, &'static str) {
    const MEANINGS: &[(&str, &str, &str)] = &[
        // Older servers do not have this function.
        (
            "pg_database_collation_actual_version",
            "server_too_old",
            "PostgreSQL 15 or newer is needed",
        ),
        (
            "no such file or directory",
            "unreachable",
            "is the server up, and its socket in this folder?",
        ),
        ("connection refused", "unreachable", "is the server up?"),
        ("could not translate host", "unreachable", ""),
        ("timeout expired", "unreachable", "the server does not answer"),
        ("starting up", "unreachable", "the server is starting"),
        ("shutting down", "unreachable", "the server is shutting down"),
        (
            "server closed the connection",
            "unreachable",
            "the server has ended, or has ended this session",
        ),
        ("terminating connection", "unreachable", "the server has ended this session"),
        (
            "peer authentication failed",
            "permission_denied",
            "os_user may not be this user of the database",
        ),
        ("password authentication failed", "permission_denied", ""),
        ("no password supplied", "permission_denied", "put it into the .pgpass of os_user"),
        ("permission denied", "permission_denied", ""),
        ("must be ", "permission_denied", "user must be a superuser"),
        ("too many clients", "too_many_sessions", "the server allows no more sessions"),
        ("remaining connection slots", "too_many_sessions", "the server allows no more sessions"),
        ("is being accessed by other users", "sessions", "there are connections to it"),
        (
            "not currently accepting connections",
            "not_accepting",
            "someone has set ALLOW_CONNECTIONS to false",
        ),
        ("no space left on device", "no_space", "the disk is full: free some space"),
        ("is not available", "extension_missing", "its files are not installed on the server"),
        ("already exists", "name_taken", ""),
    ];
    let known = MEANINGS.iter().find(|(part, _, _)| text.contains(part));
    known.map_or(("command_failed", ""), |(_, reason, cure)| (reason, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(major_of("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("pg_restore (PostgreSQL) 17.12 (Debian 17.12-0+deb13u1)\n"), Some(17));
        assert_eq!(major_of("pg_dump (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn errors_are_recognised() {
        for (stderr, reason) in [
            (include_str!("captured/no-server-15.txt"), "unreachable"),
            (include_str!("captured/sessions-15.txt"), "sessions"),
            (include_str!("captured/sessions-17.txt"), "sessions"),
            (include_str!("captured/not-accepting-17.txt"), "not_accepting"),
            (include_str!("captured/peer-15.txt"), "permission_denied"),
            (
                "ERROR:  function pg_database_collation_actual_version(oid) does not exist",
                "server_too_old",
            ),
            ("something else", "command_failed"),
        ] {
            assert_eq!(meaning(&stderr.to_lowercase()).0, reason, "{stderr}");
        }
    }
}
