//! Recognises secrets among named values (environment variables, headers) and in URLs.
//!
//! Not every value is a secret: censoring a plain `PGUSER: app` would make output unreadable. The collection's
//! `plugin_utils/censor.py` follows the same rules on the controller.

use std::borrow::Cow;

/// The text that replaces a secret.
pub(crate) const STARS: &str = "********";

/// The number of characters from which a secret is replaced inside of a text. Shorter ones occur in too
/// many words: replacing "a" would destroy every sentence, and reveal that it is "a".
pub const SHORTEST_INSIDE: usize = 6;

const PARTS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "authorization",
    "cookie",
    "credential",
    "apikey",
    "_pwd",
    "_auth",
];
const WORDS: [&str; 3] = ["key", "pass", "auth"];

/// Whether a name says that its value is a secret: `PGPASSWORD`, `X-Api-Key` and `accessToken` do,
/// `KEYBOARD` does not.
pub fn is_named(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    PARTS.iter().any(|part| lower.contains(part))
        || words(name).any(|word| WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret)))
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    let mut small_before = false;
    name.split(|c: char| !c.is_ascii_alphanumeric()).flat_map(move |part| {
        let starts: Vec<usize> = (part.char_indices())
            .filter_map(|(at, c)| {
                let starts = at == 0 || (small_before && c.is_ascii_uppercase());
                small_before = c.is_ascii_lowercase();
                starts.then_some(at)
            })
            .collect();
        let ends: Vec<usize> = starts.iter().copied().skip(1).chain([part.len()]).collect();
        starts.into_iter().zip(ends).map(|(start, end)| &part[start..end])
    })
}

/// Returns the password of a text that is a URL.
pub fn password_of_url(text: &str) -> Option<&str> {
    let (scheme, rest) = text.trim().split_once("://")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(allowed) {
        return None;
    }
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (login, _) = authority.rsplit_once('@')?;
    login.split_once(':').map(|(_, password)| password).filter(|password| !password.is_empty())
}

/// Replaces the passwords of all URLs in a text.
pub fn without_url_passwords(text: &str) -> Cow<'_, str> {
    let ends = |c: char| c.is_whitespace() || "/?#\"'`<>".contains(c);
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        shown.push_str(before);
        rest = after;
        let login = authority.rsplit_once('@').and_then(|(login, _)| login.split_once(':'));
        if let Some((user, password)) = login.filter(|(_, password)| !password.is_empty()) {
            shown.push_str(user);
            shown.push(':');
            shown.push_str(STARS);
            rest = &after[user.len() + 1 + password.len()..];
        }
    }
    match shown.is_empty() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(shown + rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised_by_their_names() {
        for name in [
            "PGPASSWORD",
            "Authorization",
            "Set-Cookie",
            "API_KEY",
            "X-Api-Key",
            "apiKey",
            "apikey",
            "KEY",
            "accessToken",
            "MYSQL_PWD",
            "REDISCLI_AUTH",
            "DB_PASS",
        ] {
            assert!(is_named(name), "{name}");
        }
        for name in
            ["PGUSER", "COLOR", "KEYBOARD", "MONKEY", "PWD", "COMPASS", "AUTHOR", "Host", "", "é"]
        {
            assert!(!is_named(name), "{name}");
        }
    }

    #[test]
    fn passwords_of_urls() {
        for (url, password) in [
            ("http://me:hunter2@host/", Some("hunter2")),
            ("postgres://shop:a@b:c@db/shop", Some("a@b:c")),
            ("postgres://shop:G`\"'@db", Some("G`\"'")),
            ("redis://:hunter2@host", Some("hunter2")),
            ("http://host:80/a:b@c", None),
            ("ssh://git@host/", None),
            ("http://me:@host/", None),
            ("see http://me:hunter2@host/", None),
            ("://me:hunter2@host/", None),
        ] {
            assert_eq!(password_of_url(url), password, "{url}");
        }
        for (text, shown) in [
            (
                "no http://u:pw@h/x, nor ftp://:z@h",
                "no http://u:********@h/x, nor ftp://:********@h",
            ),
            ("http://h:80/ and a:b@c", "http://h:80/ and a:b@c"),
            (
                "{\"url\":\"http://h:80\",\"mail\":\"x@y\"}",
                "{\"url\":\"http://h:80\",\"mail\":\"x@y\"}",
            ),
            ("http://é:ü@ö http://", "http://é:********@ö http://"),
        ] {
            assert_eq!(without_url_passwords(text), shown);
        }
    }
}
