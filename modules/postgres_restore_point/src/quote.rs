//! Quoting for SQL and for connection strings: names and values become part of either only here.
//!
//! Invariant: the result is one token to PostgreSQL and to psql, for any input. Both read UTF-8, which `psql.rs` sets; a
//! NUL is refused with the options.

/// Quotes an SQL identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes an SQL string. One with a backslash becomes `E''`, which does not depend on
/// `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!("E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}

/// Makes the argument of `--dbname` for this database: a plain name with `=`, or one that begins like a URI, would be
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
