//! The properties of a database that are in no dump: owner, rights, settings and limits. They are set on a restore
//! point when it is made.
//!
//! Invariant: a setting has the same meaning on the restore point as on the original, also lists.

use crate::quote::{identifier, literal};
use crate::state::{Database, Grant, Setting};

/// Settings whose values are lists of names with quotes; set as one string, they would be one name.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Makes the statement that creates an empty database like the original. Until it is complete, only superusers can connect:
/// it is owned by the one who makes it, since the owner could let others in, and they could change what a restore runs.
pub fn creation(original: &Database, name: &str) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} WITH TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {} TABLESPACE {} CONNECTION LIMIT 0",
        identifier(name),
        literal(&original.encoding),
        literal(&original.collate),
        literal(&original.ctype),
        identifier(&original.tablespace),
    );
    match (original.provider.as_str(), &original.locale) {
        ("i", Some(locale)) => {
            sql += &format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(locale));
            if let Some(rules) = &original.icu_rules {
                sql += &format!(" ICU_RULES {}", literal(rules));
            }
        }
        ("b", Some(locale)) => {
            sql += &format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(locale))
        }
        _ if original.major >= 15 => sql += " LOCALE_PROVIDER libc",
        _ => {}
    }
    sql
}

/// Makes the statements that set owner, rights and settings.
pub fn statements(original: &Database, name: &str) -> Vec<String> {
    let database = identifier(name);
    let mut all =
        vec![format!("ALTER DATABASE {database} OWNER TO {}", identifier(&original.owner))];
    if let Some(grants) = &original.grants {
        all.push(format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"));
        all.push(format!("REVOKE ALL ON DATABASE {database} FROM {}", identifier(&original.owner)));
        all.extend(grants.iter().map(|grant| granting(grant, &database)));
    }
    all.extend(original.settings.iter().map(|setting| setting_to(setting, &database)));
    all
}

fn granting(grant: &Grant, database: &str) -> String {
    let to = grant.to.as_deref().map_or("PUBLIC".to_owned(), identifier);
    let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
    // A keyword from the server, which must be a known one.
    let privilege = match grant.privilege.as_str() {
        "CREATE" => "CREATE",
        "TEMPORARY" => "TEMPORARY",
        _ => "CONNECT",
    };
    format!("GRANT {privilege} ON DATABASE {database} TO {to}{option}")
}

fn setting_to(setting: &Setting, database: &str) -> String {
    let value = match LISTS.contains(&setting.name.as_str()) {
        true => {
            let each: Vec<String> =
                elements(&setting.value).iter().map(|one| literal(one)).collect();
            if each.is_empty() { literal("") } else { each.join(", ") }
        }
        false => literal(&setting.value),
    };
    // `namespace.name` is quoted as two identifiers.
    let name: Vec<String> = setting.name.split('.').map(identifier).collect();
    let name = name.join(".");
    match &setting.role {
        Some(role) => {
            format!("ALTER ROLE {} IN DATABASE {database} SET {name} TO {value}", identifier(role))
        }
        None => format!("ALTER DATABASE {database} SET {name} TO {value}"),
    }
}

/// Parses a list of names such as `"$user", public`.
fn elements(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted),
            None => {
                let (name, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (name.trim_end().to_owned(), after)
            }
        };
        found.push(name);
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    found
}

fn quoted_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (name, after),
        }
    }
    name.push_str(rest);
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names() {
        for (list, names) in [
            ("\"$user\", public", vec!["$user", "public"]),
            ("app", vec!["app"]),
            ("\"My \"\"App\"\"\",x , \"a,b\"", vec!["My \"App\"", "x", "a,b"]),
            ("\"\"", vec![""]),
            ("", vec![]),
        ] {
            assert_eq!(elements(list), names, "{list}");
        }
    }

    #[test]
    fn rights_and_settings() {
        let setting = |role: Option<&str>, name: &str, value: &str| Setting {
            role: role.map(str::to_owned),
            name: name.into(),
            value: value.into(),
        };
        let grant = |to: Option<&str>, grantable| Grant {
            to: to.map(str::to_owned),
            privilege: "CONNECT".into(),
            grantable,
        };
        let original = Database {
            owner: "the owner".into(),
            grants: Some(vec![grant(None, false), grant(Some("app"), true)]),
            settings: vec![
                setting(None, "search_path", "app, \"$user\""),
                setting(Some("app"), "my.setting", "it's"),
            ],
            ..Database::default()
        };
        assert_eq!(
            statements(&original, "x\"y"),
            [
                "ALTER DATABASE \"x\"\"y\" OWNER TO \"the owner\"",
                "REVOKE ALL ON DATABASE \"x\"\"y\" FROM PUBLIC",
                "REVOKE ALL ON DATABASE \"x\"\"y\" FROM \"the owner\"",
                "GRANT CONNECT ON DATABASE \"x\"\"y\" TO PUBLIC",
                "GRANT CONNECT ON DATABASE \"x\"\"y\" TO \"app\" WITH GRANT OPTION",
                "ALTER DATABASE \"x\"\"y\" SET \"search_path\" TO 'app', '$user'",
                "ALTER ROLE \"app\" IN DATABASE \"x\"\"y\" SET \"my\".\"setting\" TO 'it''s'",
            ]
        );
        let plain = Database { owner: "o".into(), grants: None, ..Database::default() };
        assert_eq!(statements(&plain, "x"), ["ALTER DATABASE \"x\" OWNER TO \"o\""]);
        assert!(!creation(&plain, "x").contains("OWNER"), "the owner could let others in");
    }
}
