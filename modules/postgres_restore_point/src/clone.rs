//! Plans and carries out `state: cloned`: a throwaway copy of a restore point, in which a migration is rehearsed.
//!
//! Invariants: the restore point stays closed and unchanged, since it is only the template; the clone belongs to a role
//! that cannot connect to the live database (`role.rs`); nobody but a superuser can connect before it is complete; only a
//! complete clone is recorded. A clone has a name of its own, never that of the live database.

use crate::names::{self, Kind};
use crate::options::Task;
use crate::order::commenting;
use crate::plan::{Action, nothing, refuse_server, refuse_unusable, refused, sessions};
use crate::properties;
use crate::prune;
use crate::psql::Psql;
use crate::quote::{identifier, literal};
use crate::record::{self, Entry};
use crate::role;
use crate::state::{Database, Grant, State};
use crate::survey::{SURVEY, Survey};
use crate::unfinished::{MAKING, Making};
use ansible_module::Failure;
use anyhow::Result;
use change::{Plan, Step, Undo};
use host::clock;
use host::deadline::Deadline;
use host::record::Intent;

/// The query of the statements that give the objects of a database to the role `{role}`.
const OWNERS: &str = include_str!("owners.sql");

/// The restore point to clone, the live database, and the role that the clone is for.
pub struct Cloning<'a> {
    pub task: &'a Task,
    pub psql: &'a Psql,
    pub live: &'a Database,
    pub point: &'a Entry,
    pub role: &'a str,
    pub name: String,
}

/// Finds the restore point, and refuses one that cannot be the template of a clone.
pub fn point<'a>(state: &'a State, id: &str) -> Result<(&'a Entry, &'a Database)> {
    refuse_server(state)?;
    let live = state.live()?;
    refuse_unusable(live)?;
    let points = state.ours(Kind::RestorePoint);
    let Some((entry, found)) = points.into_iter().find(|(entry, _)| entry.id == id) else {
        let msg = format!("there is no restore point {id} of {}", state.database);
        return Err(refused("no_restore_point", msg));
    };
    let name = &found.name;
    if found.limit == -2 {
        let msg = format!("a DROP DATABASE of {name} was stopped half way");
        return Err(refused("invalid_database", msg));
    }
    if found.allow || !found.sessions.is_empty() {
        let who = sessions(&found.sessions).join(", ");
        let who = if who.is_empty() { String::new() } else { format!(" ({who})") };
        let msg = format!("{name} accepts connections{who}: a restore point refuses them");
        return Err(refused("sessions", msg));
    }
    let clone = names::ours(&state.database, Kind::Clone, id);
    let is_ours = state.ours(Kind::Clone).iter().any(|(entry, _)| entry.name == clone);
    if clone == state.database || (state.cluster.find(&clone).is_some() && !is_ours) {
        return Err(refused(
            "name_taken",
            format!("there is a database {clone}, and it is not ours"),
        ));
    }
    Ok((entry, found))
}

pub fn is_cloned(state: &State, id: &str) -> bool {
    state.ours(Kind::Clone).iter().any(|(entry, _)| entry.id == id)
}

/// Plans the clone. Clones of other restore points were left by killed runs, and are removed first.
pub fn plan(state: &State, id: &str, role: &str, point: &Entry) -> Plan<Action> {
    let mut plan = nothing(state);
    let name = names::ours(&state.database, Kind::Clone, id);
    for (entry, _) in state.ours(Kind::Clone) {
        if entry.id != id {
            prune::drop_clone(entry, &mut plan);
        }
    }
    if is_cloned(state, id) {
        return plan;
    }
    plan.identities.push(format!("{} oid {}", point.name, point.oid));
    plan.steps.extend([
        Step::new(Action::Clone, format!("clone {} into {name}", point.name)),
        Step::new(Action::GiveClone, format!("give {name} and what is in it to the role {role}")),
        Step::new(
            Action::KeepClone,
            format!("compare {name} with the restore point, let {role} connect, and record it"),
        ),
    ]);
    plan.undo = Undo::By(format!("state: absent with clone: {id}"));
    if let Some(clones) = plan.after["clones"].as_array_mut() {
        clones.push(serde_json::json!({ "id": id, "database": name }));
    }
    plan
}

impl Cloning<'_> {
    fn deadline(&self) -> Deadline {
        Deadline::after(self.task.task_timeout)
    }

    fn comment(&self) -> String {
        names::comment(&self.live.name, Kind::Clone, &self.point.id)
    }

    pub fn create(&self, intent: &Intent) -> Result<()> {
        intent.note(MAKING, &Making { name: self.name.clone(), comment: self.comment() })?;
        let sql = format!(
            "CREATE DATABASE {} WITH TEMPLATE {} OWNER {} CONNECTION LIMIT 0;\n{};",
            identifier(&self.name),
            identifier(&self.point.name),
            identifier(self.role),
            commenting(&self.name, Some(&self.comment()))
        );
        let what = format!("cloning {} into {}", self.point.name, self.name);
        let done = self.psql.create(&what, self.psql.maintenance(), &sql, self.deadline());
        if let Err(error) = &done {
            let known = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
            if known.is_some_and(|failure| failure.reason == "name_taken") {
                // Someone else has just made a database of this name, which must not be removed.
                intent.note(MAKING, &())?;
            }
        }
        done.map(drop)
    }

    /// Gives the clone's objects to the role. `REASSIGN OWNED` would give it the live database as well.
    pub fn give(&self) -> Result<()> {
        let what = format!("giving {} to {}", self.name, self.role);
        let sql = OWNERS.replace("'{role}'", &literal(self.role));
        let mut owners: Vec<String> = self.psql.ask(&what, &self.name, &sql)?;
        if !owners.is_empty() {
            owners.insert(0, "BEGIN".into());
            owners.push("COMMIT".into());
            self.psql.change(
                &what,
                &self.name,
                &format!("{};", owners.join(";\n")),
                self.deadline(),
            )?;
        }
        let sql = properties::statements(&settings_for(self.live, self.role), &self.name);
        self.psql.change(
            &what,
            self.psql.maintenance(),
            &format!("{};", sql.join(";\n")),
            self.deadline(),
        )?;
        Ok(())
    }

    /// Compares the clone with what was captured, lets its role connect, and records it.
    pub fn keep(&self, intent: &Intent) -> Result<()> {
        let name = &self.name;
        let survey: serde_json::Value =
            self.psql.ask(&format!("looking into {name}"), name, SURVEY)?;
        let digest = Survey::parse(&survey.to_string())?.digest();
        if self.point.digest.as_ref().is_some_and(|captured| *captured != digest) {
            let msg =
                format!("{name} is not what was captured: tables, columns or the like differ");
            return Err(Failure::new("not_verified", msg).into());
        }
        role::refuse(self.psql, self.live, self.role)?;
        let sql = format!("ALTER DATABASE {} WITH CONNECTION LIMIT -1;", identifier(name));
        let what = format!("opening {name} to {}", self.role);
        self.psql.change(&what, self.psql.maintenance(), &sql, self.deadline())?;
        let sql = format!("SELECT oid::bigint FROM pg_database WHERE datname = {}", literal(name));
        let oid = self.psql.ask(&what, self.psql.maintenance(), &sql)?;
        let entry = Entry {
            kind: Kind::Clone,
            id: self.point.id.clone(),
            name: name.clone(),
            oid,
            database: self.live.name.clone(),
            live_oid: self.live.oid,
            at: clock::now().to_string(),
            major: self.live.major,
            cluster: self.live.cluster.clone(),
            digest: Some(digest),
            ..Entry::default()
        };
        record::add(&self.task.subject.state_dir, &entry)?;
        intent.note(MAKING, &())
    }
}

/// Returns the live database with the rights and settings that its clone gets: those for all roles, those of its owner
/// for the role of the clone, and nobody else's.
fn settings_for(live: &Database, role: &str) -> Database {
    let granted = ["CONNECT", "CREATE", "TEMPORARY"].map(|privilege| Grant {
        to: Some(role.to_owned()),
        privilege: privilege.to_owned(),
        grantable: false,
    });
    let mut settings = Vec::new();
    for setting in &live.settings {
        match &setting.role {
            None => settings.push(setting.clone()),
            Some(owner) if *owner == live.owner => {
                let mut own = setting.clone();
                own.role = Some(role.to_owned());
                settings.push(own);
            }
            Some(_) => {}
        }
    }
    Database { owner: role.to_owned(), grants: Some(granted.into()), settings, ..live.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Cluster, Setting};

    const ID: &str = "20261121t084500z-7f3a";

    fn database(name: &str, oid: u32, kind: Kind) -> Database {
        let comment = Some(names::comment("shop", kind, ID));
        Database { name: name.into(), oid, comment, limit: -1, ..Database::default() }
    }

    fn state() -> State {
        let mut cluster = Cluster::parse(include_str!("captured/cluster-15.json")).unwrap();
        let name = names::ours("shop", Kind::RestorePoint, ID);
        cluster.databases.push(database(&name, 7, Kind::RestorePoint));
        let entry =
            Entry { id: ID.into(), name, oid: 7, database: "shop".into(), ..Entry::default() };
        State { cluster, entries: vec![entry], database: "shop".into() }
    }

    #[test]
    fn only_a_closed_restore_point_is_cloned() {
        let mut state = state();
        assert!(point(&state, ID).is_ok());
        assert!(point(&state, "20261121t084500z-ffff").is_err());
        let with = |state: &mut State, change: fn(&mut Database)| {
            let before = state.cluster.databases.last().unwrap().clone();
            change(state.cluster.databases.last_mut().unwrap());
            let refused = point(state, ID).is_err();
            *state.cluster.databases.last_mut().unwrap() = before;
            refused
        };
        assert!(with(&mut state, |point| point.allow = true));
        assert!(with(&mut state, |point| point.limit = -2));
        assert!(with(&mut state, |point| point.comment = None));
        let mut other = state.cluster.databases.last().unwrap().clone();
        (other.name, other.oid, other.comment) = (names::ours("shop", Kind::Clone, ID), 9, None);
        state.cluster.databases.push(other);
        assert!(point(&state, ID).is_err(), "somebody else's database has the name of the clone");
    }

    #[test]
    fn clones_of_killed_runs_are_removed_first() {
        let mut state = state();
        let point = state.entries[0].clone();
        assert_eq!(plan(&state, ID, "rehearsal", &point).steps.len(), 3);
        let clone = Entry { kind: Kind::Clone, oid: 8, name: "c".into(), ..point.clone() };
        state.cluster.databases.push(database("c", 8, Kind::Clone));
        state.entries.push(clone);
        assert!(plan(&state, ID, "rehearsal", &point).steps.is_empty(), "it is there");
        let other = plan(&state, "20261121t084500z-ffff", "rehearsal", &point).sentences();
        assert_eq!((other[0].as_str(), other.len()), ("drop the database c, a clone", 4));
    }

    #[test]
    fn settings_of_a_clone() {
        let setting = |role: Option<&str>| Setting {
            role: role.map(str::to_owned),
            name: "search_path".into(),
            value: "app".into(),
        };
        let live = Database {
            owner: "owner".into(),
            settings: vec![setting(None), setting(Some("owner")), setting(Some("app"))],
            ..Database::default()
        };
        let own = settings_for(&live, "rehearsal");
        let roles: Vec<Option<&str>> = own.settings.iter().map(|one| one.role.as_deref()).collect();
        assert_eq!(roles, [None, Some("rehearsal")]);
        let statements = properties::statements(&own, "c");
        assert_eq!(statements[0], "ALTER DATABASE \"c\" OWNER TO \"rehearsal\"");
        assert_eq!(statements[1], "REVOKE ALL ON DATABASE \"c\" FROM PUBLIC");
        assert!(statements.iter().all(|one| !one.contains("TO PUBLIC")), "{statements:?}");
    }
}
