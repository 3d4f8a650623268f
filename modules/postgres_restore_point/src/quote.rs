//! Quoting for SQL and for connection strings: the only place where a name or a value becomes part of either.
//!
//! Invariant: what comes out is one token to PostgreSQL and to psql, whatever goes in. Both read UTF-8, which
//! `psql.rs` sets; a NUL can stand in neither and is refused with the options.

/// A name of SQL.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string of SQL. With a backslash in it as `E''`, which means the same under every
/// `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// The argument of `--dbname` for just this database: a mere name that holds `=` or begins like an address would be
/// read as a connection string.
pub fn dbname(name: &str) -> String {
    format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, quoted) in [
            ("shop", "\"shop\""),
            ("My \"Shop\"", "\"My \"\"Shop\"\"\""),
            ("a'b\\c", "\"a'b\\c\""),
            ("übung; DROP", "\"übung; DROP\""),
        ] {
            assert_eq!(identifier(name), quoted);
        }
    }

    #[test]
    fn strings() {
        for (text, quoted) in [
            ("shop", "'shop'"),
            ("it's", "'it''s'"),
            ("a\\'b", "E'a\\\\''b'"),
            ("\\", "E'\\\\'"),
            ("two\nlines", "'two\nlines'"),
        ] {
            assert_eq!(literal(text), quoted);
        }
    }

    #[test]
    fn connections() {
        for (name, quoted) in [
            ("shop", "dbname='shop'"),
            ("host=evil", "dbname='host=evil'"),
            ("it's \\ here", "dbname='it\\'s \\\\ here'"),
            ("postgres://x", "dbname='postgres://x'"),
        ] {
            assert_eq!(dbname(name), quoted);
        }
    }
}
