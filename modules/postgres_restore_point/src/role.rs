//! The role that a clone belongs to: what a migration that is rehearsed can reach.
//!
//! Invariant: it cannot connect to the live database, nor become a role that can, nor do anything to it from another
//! database. It has no right that is the cluster's, and no membership.

use crate::plan::refused;
use crate::psql::Psql;
use crate::quote::{identifier, literal};
use crate::state::Database;
use anyhow::Result;
use serde::Deserialize;

const ROLE: &str = include_str!("role.sql");
/// How many roles a message names.
const MAX_NAMED: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Role {
    login: bool,
    /// The attributes that reach beyond one database.
    rights: Vec<String>,
    member_of: Vec<String>,
    /// Whether it owns the live database.
    owns: bool,
    /// Whether it can connect to the live database.
    connects: bool,
    /// Whether everybody can.
    public: bool,
    /// The other roles with LOGIN, quoted for SQL.
    others: Vec<String>,
}

/// Refuses a role that could reach the live database.
pub fn refuse(psql: &Psql, live: &Database, name: &str) -> Result<()> {
    let sql =
        ROLE.replace("'{role}'", &literal(name)).replace("'{database}'", &literal(&live.name));
    let role: Option<Role> =
        psql.ask(&format!("looking at the role {name}"), psql.maintenance(), &sql)?;
    match obstacle(role.as_ref(), &live.name, name) {
        Some((reason, why)) => Err(refused(reason, why)),
        None => Ok(()),
    }
}

/// Returns why a clone cannot be given to this role, and what to do.
fn obstacle(role: Option<&Role>, database: &str, name: &str) -> Option<(&'static str, String)> {
    let (live, quoted) = (identifier(database), identifier(name));
    let Some(role) = role else {
        let msg = format!(
            "there is no role {name} (clone_owner): CREATE ROLE {quoted} LOGIN, with a way to log in, and nothing else"
        );
        return Some(("no_role", msg));
    };
    if !role.login {
        return Some((
            "no_role",
            format!("the role {name} cannot log in: ALTER ROLE {quoted} LOGIN"),
        ));
    }
    if role.owns {
        return Some((
            "role_can_connect",
            format!("the role {name} owns {database}: name another role"),
        ));
    }
    if !role.rights.is_empty() {
        let msg = format!(
            "the role {name} has {}, with which it can reach {database}: name a role that has only LOGIN",
            role.rights.join(", ")
        );
        return Some(("role_can_connect", msg));
    }
    if !role.member_of.is_empty() {
        let msg = format!(
            "the role {name} is a member of {}, and could become it: name a role that is a member of none",
            role.member_of.join(", ")
        );
        return Some(("role_can_connect", msg));
    }
    if role.public {
        let more = role.others.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        let others = role.others.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let others = if others.is_empty() { "the roles that use it".into() } else { others };
        let msg = format!(
            "everybody can connect to {database}, and so can the role {name}. Of the roles {others}{more} grant it to those that use it: \
             GRANT CONNECT ON DATABASE {live} TO ...; then REVOKE CONNECT ON DATABASE {live} FROM PUBLIC. Sessions that are open stay"
        );
        return Some(("role_can_connect", msg));
    }
    if role.connects {
        let msg = format!(
            "the role {name} can connect to {database}: REVOKE CONNECT ON DATABASE {live} FROM {quoted}"
        );
        return Some(("role_can_connect", msg));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_that_could_reach_the_live_database() {
        let sound = Role { login: true, ..Role::default() };
        let reason = |role: &Role| obstacle(Some(role), "shop", "r").map(|(reason, _)| reason);
        assert_eq!(reason(&sound), None);
        assert_eq!(obstacle(None, "shop", "r").unwrap().0, "no_role");
        assert_eq!(reason(&Role { login: false, ..sound.clone() }), Some("no_role"));
        for role in [
            Role { owns: true, ..sound.clone() },
            Role { rights: vec!["CREATEROLE".into()], ..sound.clone() },
            Role { member_of: vec!["app".into()], ..sound.clone() },
            Role { public: true, connects: true, ..sound.clone() },
            Role { connects: true, ..sound.clone() },
        ] {
            assert_eq!(reason(&role), Some("role_can_connect"), "{role:?}");
        }
        let public = Role { public: true, connects: true, others: vec!["app".into()], ..sound };
        let why = obstacle(Some(&public), "my shop", "r").unwrap().1;
        assert!(
            why.contains("Of the roles app grant")
                && why.contains("REVOKE CONNECT ON DATABASE \"my shop\" FROM PUBLIC"),
            "{why}"
        );
    }
}
