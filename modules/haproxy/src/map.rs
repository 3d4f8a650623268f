//! A map of HAProxy, in the running process and in its file.
//!
//! Invariant: in the file only the lines of the key change; every other byte stays the same.

use crate::socket::Socket;
use ansible_module::Failure;
use anyhow::Result;
use std::path::Path;

/// Reads all keys and values in the running process.
///
/// It uses `show map`, since `get map` looks a value up as a request would, and also matches prefixes.
pub fn live(socket: &Socket, map: &Path) -> Result<Vec<(String, String)>> {
    let answer = socket.ask(&format!("show map {}", map.display()))?;
    if answer.starts_with("Unknown map identifier") {
        return Err(unknown_map(socket, map)?.into());
    }
    // `0x55e7375d45c0 shop-staging blue`
    let pair = |line: &str| {
        let mut words = line.splitn(3, ' ').skip(1);
        Some((words.next()?.to_owned(), words.next().unwrap_or_default().to_owned()))
    };
    Ok(answer.lines().filter_map(pair).collect())
}

/// Returns the value of a key in the running process; `None` if the map does not have the key.
pub fn live_value(socket: &Socket, map: &Path, key: &str) -> Result<Option<String>> {
    let mut found: Option<String> = None;
    for (_, value) in live(socket, map)?.into_iter().filter(|(other, _)| other == key) {
        match &found {
            Some(other) if *other != value => return Ok(Some(format!("{other} and {value}"))),
            _ => found = Some(value),
        }
    }
    Ok(found)
}

fn unknown_map(socket: &Socket, map: &Path) -> Result<Failure> {
    // `2 (/etc/haproxy/active.map) pattern loaded from file ...`
    let known = socket.ask("show map")?;
    let known = (known.lines())
        .filter_map(|line| Some(line.split_once('(')?.1.split_once(')')?.0))
        .filter(|name| !name.is_empty() && *name != "file");
    let known = format!("it has {}", host::joined_or(known, "no maps"));
    Ok(Failure::new(
        "unknown_map",
        format!(
            "HAProxy at {socket} has no map {}: {known}; write the path as in its configuration, and reload \
             HAProxy if the map is new there",
            map.display()
        ),
    ))
}

/// Sets the value of a key that the running process has.
pub fn set_live(socket: &Socket, map: &Path, key: &str, value: &str) -> Result<()> {
    let answer = socket.ask(&format!("set map {} {key} {value}", map.display()))?;
    check_done(socket, &answer, &format!("set {key} to {value}"))
}

/// Adds a key that the running process does not have: an existing one would be there twice.
pub fn add_live(socket: &Socket, map: &Path, key: &str, value: &str) -> Result<()> {
    let answer = socket.ask(&format!("add map {} {key} {value}", map.display()))?;
    check_done(socket, &answer, &format!("add {key} with {value}"))
}

/// Removes all entries of a key from the running process.
pub fn remove_live(socket: &Socket, map: &Path, key: &str) -> Result<()> {
    let answer = socket.ask(&format!("del map {} {key}", map.display()))?;
    let is_missing = answer.starts_with("Key not found");
    check_done(socket, if is_missing { "" } else { &answer }, &format!("remove {key}"))
}

fn check_done(socket: &Socket, answer: &str, what: &str) -> Result<()> {
    match answer.trim() {
        "" => Ok(()),
        other => {
            let msg = format!("HAProxy at {socket} did not {what}: {other}");
            Err(Failure::new("not_set", msg).into())
        }
    }
}

/// Returns the value of a key in the text of a map file.
pub fn file_value(text: &[u8], key: &str) -> Option<String> {
    let mut found: Option<String> = None;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let Some(at) = value_in(line, key) else { continue };
        let value = String::from_utf8_lossy(&line[at]).into_owned();
        match &found {
            Some(other) if *other != value => return Some(format!("{other} and {value}")),
            _ => found = Some(value),
        }
    }
    found
}

/// Returns the text with a new value for the key, which is added if it is missing.
pub fn with_value(text: &[u8], key: &str, value: &str) -> Vec<u8> {
    let (mut new, mut found) = (Vec::with_capacity(text.len() + 32), false);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match value_in(line, key) {
            Some(at) => {
                found = true;
                new.extend_from_slice(&line[..at.start]);
                new.extend_from_slice(value.as_bytes());
                new.extend_from_slice(&line[at.end..]);
            }
            None => new.extend_from_slice(line),
        }
    }
    if !found {
        if !new.is_empty() && !new.ends_with(b"\n") {
            new.push(b'\n');
        }
        new.extend_from_slice(format!("{key} {value}\n").as_bytes());
    }
    new
}

/// Returns the text without the lines of the key.
pub fn without_key(text: &[u8], key: &str) -> Vec<u8> {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    lines.filter(|line| value_in(line, key).is_none()).flatten().copied().collect()
}

/// Returns the position of the key's value in a line. A line that begins with `#` is a comment.
fn value_in(line: &[u8], key: &str) -> Option<std::ops::Range<usize>> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte))?;
    if line[start] == b'#' {
        return None;
    }
    let rest = line[start..].strip_prefix(key.as_bytes())?;
    if !rest.first().is_some_and(blank) {
        return None;
    }
    let skipped = rest.iter().position(|byte| !blank(byte))?;
    let value = rest[skipped..].trim_ascii_end();
    let begin = start + key.len() + skipped;
    Some(begin..begin + value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# shop-staging green\n\nshop blue\n  shop-staging\tblue \r\nother shop-staging\n\xff\xfe odd";

    #[test]
    fn the_file_is_read_by_whole_keys() {
        assert_eq!(file_value(FILE, "shop-staging").as_deref(), Some("blue"));
        assert_eq!(file_value(FILE, "shop").as_deref(), Some("blue"));
        assert_eq!(file_value(FILE, "sho"), None);
        assert_eq!(file_value(b"a blue\na green\n", "a").as_deref(), Some("blue and green"));
        assert_eq!(file_value(b"a\n", "a"), None);
    }

    #[test]
    fn only_the_value_changes() {
        let new = with_value(FILE, "shop-staging", "green");
        let expected = b"# shop-staging green\n\nshop blue\n  shop-staging\tgreen \r\nother shop-staging\n\xff\xfe odd";
        assert_eq!(new, expected);
        assert_eq!(with_value(&new, "shop-staging", "blue"), FILE);
    }

    #[test]
    fn all_lines_of_a_key_are_removed() {
        let expected = b"# shop-staging green\n\nshop blue\nother shop-staging\n\xff\xfe odd";
        assert_eq!(without_key(FILE, "shop-staging"), expected);
        assert_eq!(without_key(b"a 1\nb 2\na 3", "a"), b"b 2\n");
        assert_eq!(without_key(FILE, "sho"), FILE);
    }

    #[test]
    fn a_new_key_gets_a_line_of_its_own() {
        assert_eq!(with_value(b"", "a", "blue"), b"a blue\n");
        assert_eq!(with_value(b"b green", "a", "blue"), b"b green\na blue\n");
    }
}
