//! Observes the databases of the cluster, their sessions, and which of them are ours. Reads only.
//!
//! Invariant: a database counts as ours if its comment says so and our record has its OID and name. A name alone is never
//! enough.

use crate::names::{self, Kind};
use crate::options::Subject;
use crate::psql::Psql;
use crate::record::{self, Entry};
use ansible_module::Failure;
use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;

const CLUSTER: &str = include_str!("cluster.sql");

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Database {
    pub name: String,
    pub oid: u32,
    pub owner: String,
    pub allow: bool,
    /// -2 if a DROP DATABASE of it was interrupted.
    pub limit: i64,
    pub comment: Option<String>,
    pub bytes: u64,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub provider: String,
    pub locale: Option<String>,
    pub icu_rules: Option<String>,
    pub collation_version: Option<String>,
    pub actual_collation_version: Option<String>,
    pub tablespace: String,
    pub label: bool,
    pub sessions: Vec<Session>,
    pub slots: Vec<String>,
    pub prepared: Vec<String>,
    pub subscriptions: Vec<String>,
    /// `None` for PostgreSQL's default.
    pub grants: Option<Vec<Grant>>,
    pub settings: Vec<Setting>,
    /// The major version of the server.
    #[serde(skip)]
    pub major: u32,
    /// The system identifier of its cluster.
    #[serde(skip)]
    pub cluster: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Session {
    pub user: Option<String>,
    pub application: String,
    pub client: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Grant {
    /// `None` for PUBLIC.
    pub to: Option<String>,
    pub privilege: String,
    pub grantable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Setting {
    /// `None` for all roles.
    pub role: Option<String>,
    pub name: String,
    pub value: String,
}

#[derive(Debug, Deserialize)]
pub struct Cluster {
    pub version: u32,
    pub in_recovery: bool,
    pub superuser: bool,
    /// Known to superusers only.
    pub data_directory: Option<PathBuf>,
    /// The cluster's identifier, known to superusers only.
    pub system_identifier: Option<String>,
    pub user: String,
    pub replicas: Vec<String>,
    pub databases: Vec<Database>,
}

impl Cluster {
    pub fn parse(text: &str) -> Result<Cluster> {
        let mut cluster: Cluster = serde_json::from_str(text)?;
        let major = cluster.major();
        let identifier = cluster.system_identifier.clone();
        for one in &mut cluster.databases {
            (one.major, one.cluster) = (major, identifier.clone());
        }
        Ok(cluster)
    }

    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    pub fn find(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|one| one.name == name)
    }
}

#[derive(Debug)]
pub struct State {
    pub cluster: Cluster,
    /// The entries of our record, the last one of each database.
    pub entries: Vec<Entry>,
    pub database: String,
}

impl State {
    pub fn live(&self) -> Result<&Database, Failure> {
        self.cluster.find(&self.database).ok_or_else(|| {
            let msg = format!("there is no database {}; nothing was changed", self.database);
            Failure::new("no_database", msg)
        })
    }

    /// Returns the existing restore points or parked states that are ours, the oldest first.
    pub fn ours(&self, kind: Kind) -> Vec<(&Entry, &Database)> {
        let entries = self
            .entries
            .iter()
            .filter(|entry| entry.kind == kind && entry.database == self.database);
        entries.filter_map(|entry| Some((entry, self.there(entry)?))).collect()
    }

    /// Whether an entry is about another cluster, such as the one that this server's container had before it was made again.
    pub fn is_of_another_cluster(&self, entry: &Entry) -> bool {
        entry.is_of_another(self.cluster.system_identifier.as_deref())
    }

    /// Returns the database of an entry, if it still matches the entry.
    pub fn there(&self, entry: &Entry) -> Option<&Database> {
        if self.is_of_another_cluster(entry) {
            return None;
        }
        let comment = names::comment(&entry.database, entry.kind, &entry.id);
        let found = self.cluster.find(&entry.name)?;
        (found.oid == entry.oid && found.comment.as_ref() == Some(&comment)).then_some(found)
    }

    pub fn entry(&self, kind: Kind, id: &str) -> Option<&Entry> {
        let mut entries = self.entries.iter().rev();
        entries
            .find(|entry| entry.kind == kind && entry.id == id && entry.database == self.database)
    }

    /// Whether the live database is in our record: captured, or made live by a rollback.
    pub fn known(&self, oid: u32, captured: u32) -> bool {
        oid == captured
            || self.entries.iter().any(|entry| {
                entry.oid == oid
                    && entry.database == self.database
                    && !self.is_of_another_cluster(entry)
            })
    }

    pub fn view(&self) -> Value {
        let list = |kind| -> Vec<Value> {
            self.ours(kind)
                .iter()
                .map(|(entry, found)| json!({ "id": entry.id, "database": found.name }))
                .collect()
        };
        let live = self.cluster.find(&self.database);
        json!({
            "database": self.database,
            "oid": live.map(|live| live.oid),
            "restore_points": list(Kind::RestorePoint),
            "parked": list(Kind::Parked),
            "clones": list(Kind::Clone),
        })
    }
}

pub fn observe(psql: &Psql, subject: &Subject) -> Result<State> {
    let wanted = crate::quote::literal(&subject.database);
    let sql = CLUSTER.replace("'{database}'", &wanted);
    let answer: Value = psql.ask("looking at the cluster", psql.maintenance(), &sql)?;
    let cluster = Cluster::parse(&answer.to_string())?;
    Ok(State {
        cluster,
        entries: record::read(&subject.state_dir)?,
        database: subject.database.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_clusters() {
        for (text, major) in [
            (include_str!("captured/cluster-15.json"), 15),
            (include_str!("captured/cluster-17.json"), 17),
        ] {
            let cluster = Cluster::parse(text).unwrap();
            assert_eq!(cluster.major(), major);
            assert!(cluster.superuser && !cluster.in_recovery);
            let shop = cluster.find("shop").unwrap();
            assert_eq!(
                (shop.owner.as_str(), shop.limit, shop.allow, shop.major),
                ("shop owner", 30, true, major)
            );
            assert_eq!(shop.comment.as_deref(), Some("The shop's own"));
            assert_eq!(shop.slots, ["feed"]);
            assert_eq!(shop.prepared, ["late"]);
            assert_eq!(shop.sessions[0].application, "till");
            assert!(
                shop.settings.iter().any(|one| one.role.is_some() && one.name == "search_path")
            );
            assert!(
                shop.grants
                    .as_ref()
                    .unwrap()
                    .iter()
                    .any(|one| one.to.is_none() && one.privilege == "CONNECT")
            );
        }
    }

    #[test]
    fn what_is_ours() {
        let cluster = Cluster::parse(include_str!("captured/cluster-15.json")).unwrap();
        let shop = cluster.find("shop").unwrap().clone();
        let entry = Entry {
            id: "x".into(),
            name: "p".into(),
            database: "shop".into(),
            oid: 7,
            ..Entry::default()
        };
        let comment = names::comment("shop", Kind::RestorePoint, "x");
        let point = Database { name: "p".into(), oid: 7, comment: Some(comment), ..shop };
        let mut state = State { cluster, entries: vec![entry], database: "shop".into() };
        assert!(state.ours(Kind::RestorePoint).is_empty());
        state.cluster.databases.push(point);
        assert_eq!(state.ours(Kind::RestorePoint).len(), 1);
        let last = |state: &mut State, change: fn(&mut Database)| {
            change(state.cluster.databases.last_mut().unwrap())
        };
        last(&mut state, |point| point.oid = 8);
        assert!(state.ours(Kind::RestorePoint).is_empty(), "somebody has made it again");
        last(&mut state, |point| (point.oid, point.comment) = (7, None));
        assert!(state.ours(Kind::RestorePoint).is_empty(), "it says nothing of us");
    }
}
