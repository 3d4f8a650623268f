//! The options as typed values, with the checks that a spec cannot express.

use crate::names::{self, short_hash};
use crate::psql::Connection;
use ansible_module::{Failure, Options as RawOptions};
use host::account::Accounts;
use host::deploy_id::DeployId;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// The name of this task's intent.
pub const TASK: &str = "postgres_restore_point";

/// The database, its server, and the folder of our records.
#[derive(Debug)]
pub struct Subject {
    pub database: String,
    pub connection: Connection,
    pub state_dir: PathBuf,
    /// The name of its lock and of its folders.
    pub name: String,
}

impl Subject {
    /// Parses the options that both modules have.
    pub fn parse(raw: &RawOptions) -> Result<Subject, Failure> {
        let database: String = raw.get("database")?;
        names::check("database", &database)?;
        let maintenance: String = raw.get("maintenance_database")?;
        names::check("maintenance_database", &maintenance)?;
        if maintenance == database {
            let why = format!(
                "{database} is what is captured: name another database to connect to meanwhile"
            );
            return Err(Failure::bad_option("maintenance_database", why));
        }
        let os_user: String = raw.get("os_user")?;
        let account = Accounts::read().find(&os_user).ok_or_else(|| {
            Failure::bad_option("os_user", format!("{os_user} is not in /etc/passwd of the target"))
        })?;
        let port: Option<u64> = raw.get("port")?;
        let port = port.map(u16::try_from).transpose();
        let connection = Connection {
            host: raw.get::<Option<String>>("host")?.filter(|host| !host.is_empty()),
            port: port
                .map_err(|_| Failure::bad_option("port", "expected a number from 1 to 65535"))?,
            user: raw.get("user")?,
            account,
            programs: raw.get("programs")?,
            maintenance,
        };
        for (option, value) in [("host", &connection.host), ("user", &connection.user)] {
            if value.as_ref().is_some_and(|value| value.contains(['\0', '\n'])) {
                return Err(Failure::bad_option(option, "it contains a NUL or a line break"));
            }
        }
        let app: Option<String> = word(raw, "app")?;
        let base = match (raw.get::<Option<PathBuf>>("state_dir")?, app) {
            (Some(folder), _) => folder,
            (None, Some(app)) => format!("/var/lib/reversible/postgres-{app}").into(),
            (None, None) => "/var/lib/reversible/postgres".into(),
        };
        let name = name_of(&connection, &database);
        Ok(Subject { state_dir: base.join(&name), name, database, connection })
    }
}

/// Makes a file name that is unique to this database of this server, so that records and killed runs of different
/// databases are never mixed up.
fn name_of(on: &Connection, database: &str) -> String {
    let sound = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '+' };
    let plain: String = database.chars().map(sound).collect();
    format!("{plain}~{}", short_hash(&format!("{:?} {:?} {database}", on.host, on.port)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Present(DeployId),
    RolledBack(DeployId),
    /// Make a parked state live again.
    Undone(String),
    Absent(DeployId),
    AbsentParked(String),
    /// A clone of the restore point with this id, which belongs to `role`.
    Cloned {
        id: DeployId,
        role: String,
    },
    AbsentClone(String),
    /// Prune only.
    Pruned,
}

/// How what was written since is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// By comparing the rows.
    Exact,
    /// By PostgreSQL's own counters.
    Estimate,
    None,
}

#[derive(Clone, Copy, Debug)]
pub struct Counting {
    pub count: Count,
    pub timeout: Duration,
}

impl Counting {
    /// Parses the options that both modules share.
    pub fn parse(raw: &RawOptions) -> Result<Counting, Failure> {
        let count = match raw.get::<String>("count")?.as_str() {
            "exact" => Count::Exact,
            "none" => Count::None,
            _ => Count::Estimate,
        };
        Ok(Counting { count, timeout: raw.seconds("count_timeout")? })
    }
}

/// The folder for differing rows, and the copy that the live database is compared with.
#[derive(Debug)]
pub struct RowsWanted {
    pub folder: PathBuf,
    /// The id of a restore point or parked state; `None` for the newest restore point.
    pub of: Option<String>,
}

impl RowsWanted {
    pub fn parse(raw: &RawOptions, check_mode: bool) -> Result<Option<RowsWanted>, Failure> {
        let of = word(raw, "rows_of")?;
        let folder: Option<PathBuf> = raw.get("rows_dir")?;
        Ok(folder.filter(|_| !check_mode).map(|folder| RowsWanted { folder, of }))
    }
}

#[derive(Debug)]
pub struct Task {
    pub subject: Subject,
    pub wanted: Wanted,
    pub release: Option<String>,
    pub jobs: usize,
    pub work_dir: PathBuf,
    pub retain: Option<usize>,
    pub keep: Vec<String>,
    pub swap_timeout: Duration,
    pub lock_timeout: Duration,
    pub task_timeout: Duration,
    pub counting: Counting,
    pub rollback: Option<DeployId>,
    fence: Option<DeployId>,
}

impl Task {
    pub fn parse(raw: &RawOptions) -> Result<Task, Failure> {
        let subject = Subject::parse(raw)?;
        let state: String = raw.get("state")?;
        let deploy: Option<DeployId> = raw.get("deploy_id")?;
        let rollback: Option<DeployId> = raw.get("rollback_id")?;
        let parked = id_of(raw, "parked", "a parked state")?;
        let clone = id_of(raw, "clone", "a clone")?;
        let owner: Option<String> = raw.get("clone_owner")?;
        let retain: Option<usize> = raw.get("retain")?;
        if retain.is_some() && state == "rolled_back" {
            return Err(Failure::bad_option("retain", "a rollback prunes nothing"));
        }
        if clone.is_some() && state != "absent" {
            return Err(Failure::bad_option("clone", "it goes with state: absent"));
        }
        if owner.is_some() && state != "cloned" {
            return Err(Failure::bad_option("clone_owner", "it goes with state: cloned"));
        }
        let wanted = match (state.as_str(), deploy.clone(), parked) {
            ("absent", None, None) if clone.is_some() => {
                Wanted::AbsentClone(clone.unwrap_or_default())
            }
            ("cloned", Some(id), None) => Wanted::Cloned { id, role: role(owner)? },
            ("present", _, Some(_)) => {
                return Err(Failure::bad_option(
                    "parked",
                    "it goes with state: rolled_back or absent",
                ));
            }
            ("present", Some(id), None) => Wanted::Present(id),
            ("present", None, None) => Wanted::Present(new_id()?),
            ("rolled_back", Some(id), None) => Wanted::RolledBack(id),
            ("rolled_back", None, Some(id)) => Wanted::Undone(id),
            ("absent", Some(id), None) => Wanted::Absent(id),
            ("absent", None, Some(id)) => Wanted::AbsentParked(id),
            ("absent", None, None) if retain.is_some() => Wanted::Pruned,
            _ => {
                let msg = "expected deploy_id (a restore point), parked (a parked state) or clone (a clone)";
                return Err(Failure::new("bad_options", msg));
            }
        };
        // In a rollback the deploy id names the restore point and not the run.
        let fence = rollback.clone().or(deploy.filter(|_| state == "present"));
        Ok(Task {
            subject,
            wanted,
            release: word(raw, "release")?,
            jobs: raw.get("jobs")?,
            work_dir: raw.get("work_dir")?,
            retain,
            keep: raw.get("keep")?,
            swap_timeout: raw.seconds("swap_timeout")?,
            lock_timeout: raw.seconds("lock_timeout")?,
            task_timeout: raw.seconds("task_timeout")?,
            counting: Counting::parse(raw)?,
            rollback,
            fence,
        })
    }

    /// The id of this run, for the fence.
    pub fn run(&self) -> Option<&DeployId> {
        self.fence.as_ref()
    }

    pub fn is_rollback(&self) -> bool {
        matches!(self.wanted, Wanted::RolledBack(_) | Wanted::Undone(_))
    }
}

pub fn new_id() -> Result<DeployId, Failure> {
    DeployId::generate().map_err(|why| Failure::new("failed", "no id for it").caused_by(why))
}

fn id_of(raw: &RawOptions, option: &'static str, what: &str) -> Result<Option<String>, Failure> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    raw.checked(option, &format!("the id of {what}, such as 20261121t090000z-1c2d"), |text| {
        !text.is_empty() && text.len() <= 32 && text.bytes().all(sound)
    })
}

/// Checks the name of the role that a clone belongs to.
fn role(owner: Option<String>) -> Result<String, Failure> {
    match owner {
        Some(name)
            if !name.is_empty()
                && name.len() <= names::MAX_NAME
                && !name.contains(['\0', '\n', '\r']) =>
        {
            Ok(name)
        }
        Some(name) => {
            Err(Failure::bad_option("clone_owner", format!("{name:?} is no name of a role")))
        }
        None => Err(Failure::bad_option("clone_owner", "expected the role that the clone is for")),
    }
}

/// A query, and the result that is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Check {
    pub name: String,
    pub sql: String,
    pub expect: String,
}

/// What `postgres_restore_point_info` is to look into.
#[derive(Debug)]
pub struct LookingInto {
    /// Two databases whose schemas are compared.
    pub schemas: Option<[String; 2]>,
    pub checks: Vec<Check>,
    /// The database that is checked; `None` for the live one.
    pub checked: Option<String>,
    pub timeout: Duration,
}

impl LookingInto {
    pub fn parse(raw: &RawOptions) -> Result<LookingInto, Failure> {
        let schemas = match raw.get::<Option<Vec<String>>>("compare_schema")? {
            None => None,
            Some(names) => Some(<[String; 2]>::try_from(names).map_err(|names| {
                let why = format!("expected the names of two databases, got {}", names.len());
                Failure::bad_option("compare_schema", why)
            })?),
        };
        let checks: Vec<Check> = raw.get("checks")?;
        if checks.iter().any(|check| check.sql.contains('\0') || check.sql.trim().is_empty()) {
            return Err(Failure::bad_option("checks", "sql must be a query, without NUL"));
        }
        Ok(LookingInto {
            schemas,
            checks,
            checked: raw.get("checks_on")?,
            timeout: raw.seconds("checks_timeout")?,
        })
    }
}

fn word(raw: &RawOptions, name: &'static str) -> Result<Option<String>, Failure> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@+-".contains(&byte);
    raw.checked(name, "one word of letters, digits and any of . _ : @ + -", |text| {
        let is_short = !text.is_empty() && text.len() <= 100;
        is_short && !text.starts_with(['-', '.']) && text.bytes().all(sound)
    })
}

#[cfg(test)]
impl Task {
    /// Makes a task for the database `shop` with default options.
    pub fn sample(wanted: Wanted) -> Task {
        let account = host::account::Account { uid: 0, gid: 0, groups: Vec::new(), home: None };
        let connection = Connection {
            host: None,
            port: None,
            user: None,
            account,
            programs: None,
            maintenance: "postgres".into(),
        };
        Task {
            subject: Subject {
                database: "shop".into(),
                connection,
                state_dir: "/var/lib/reversible/postgres/shop".into(),
                name: "shop".into(),
            },
            wanted,
            release: None,
            jobs: 2,
            work_dir: "/var/tmp".into(),
            retain: None,
            keep: Vec::new(),
            swap_timeout: Duration::ZERO,
            lock_timeout: Duration::ZERO,
            task_timeout: Duration::ZERO,
            counting: Counting { count: Count::None, timeout: Duration::ZERO },
            rollback: None,
            fence: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_has_a_name_of_its_own() {
        let mut on = Task::sample(Wanted::Pruned).subject.connection;
        let name = |on: &Connection, database: &str| name_of(on, database);
        let first = name(&on, "My \"Shop\"/..");
        assert!(first.starts_with("My++Shop++..~"), "{first}");
        assert_ne!(name(&on, "a b"), name(&on, "a+b"));
        assert!(name(&on, &"ü".repeat(31)).len() < 100);
        on.port = Some(5433);
        assert_ne!(name(&on, "My \"Shop\"/.."), first);
    }
}
