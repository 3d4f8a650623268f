//! The names of databases: the user's, and those of restore points and parked states.
//!
//! Invariant: a name that is made here fits into the 63 bytes that PostgreSQL keeps of a name, and two of them are equal
//! only for the same database and the same id.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The maximum length of a name; PostgreSQL truncates longer ones without an error.
pub const MAX_NAME: usize = 63;

/// The kind of a database that was made by this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    RestorePoint,
    Parked,
    /// A throwaway copy of a restore point.
    Clone,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::RestorePoint => "restore point",
            Kind::Parked => "parked state",
            Kind::Clone => "clone",
        }
    }

    fn infix(self) -> &'static str {
        match self {
            Kind::RestorePoint => "__before_",
            Kind::Parked => "__failed_",
            Kind::Clone => "__rehearsal_",
        }
    }
}

/// Makes the name of the restore point or parked state with this id.
pub fn ours(database: &str, kind: Kind, id: &str) -> String {
    let end = format!("{}{id}", kind.infix());
    let room = MAX_NAME.saturating_sub(end.len());
    if database.len() <= room {
        return format!("{database}{end}");
    }
    // A hash keeps the names of two databases with the same long prefix apart.
    let mark = format!("~{}", short_hash(database));
    format!("{}{mark}{end}", cut(database, room.saturating_sub(mark.len())))
}

pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the beginning of a text, in whole characters.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Makes the comment that marks a database as ours, together with our record of it.
pub fn comment(database: &str, kind: Kind, id: &str) -> String {
    format!("reversible.deploy: {} {id} of {database}", kind.name())
}

pub fn check(option: &str, name: &str) -> Result<(), ansible_module::Failure> {
    let why = match name {
        "" => "expected the name of a database".to_owned(),
        name if name.contains('\0') => "a name holds no NUL".to_owned(),
        name if name.contains(['\n', '\r']) => {
            "a name with a line break is not supported".to_owned()
        }
        name if name.len() > MAX_NAME => {
            format!("{name} has {} bytes, PostgreSQL keeps {MAX_NAME}", name.len())
        }
        "template0" | "template1" => format!("{name} is what new databases are made of"),
        _ => return Ok(()),
    };
    Err(ansible_module::Failure::bad_option(option, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "20261121t084500z-7f3a";

    #[test]
    fn names_of_ours() {
        assert_eq!(ours("shop", Kind::RestorePoint, ID), format!("shop__before_{ID}"));
        let long = "a".repeat(63);
        let name = ours(&long, Kind::Parked, ID);
        assert_eq!(name.len(), MAX_NAME);
        assert_ne!(name, ours(&"a".repeat(62), Kind::Parked, ID));
        assert_eq!(ours("shop", Kind::Clone, ID), format!("shop__rehearsal_{ID}"));
        assert_eq!(ours(&long, Kind::Clone, ID).len(), MAX_NAME);
        let wide = ours(&"ü".repeat(31), Kind::Parked, ID);
        assert!(wide.len() <= MAX_NAME && wide.starts_with('ü') && wide.ends_with(ID), "{wide}");
    }

    #[test]
    fn names_that_are_refused() {
        for name in ["shop", "My \"Shop\"", "it's", "a=b", "template2", &"a".repeat(63)] {
            assert!(check("database", name).is_ok(), "{name}");
        }
        for name in ["", "template1", "a\nb", &"a".repeat(64)] {
            assert!(check("database", name).is_err(), "{name}");
        }
    }
}
