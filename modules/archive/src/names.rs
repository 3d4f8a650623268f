//! Checks and escapes the names of entries.
//!
//! Invariant: the parts of an entry's name are plain names, so that opening them one after the other
//! without following links cannot leave the folder.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Splits an entry's name; the folder itself has no parts. The error completes "the entry x ...".
pub fn parts(name: &[u8]) -> Result<Vec<OsString>, &'static str> {
    if name.starts_with(b"/") {
        return Err("has an absolute name");
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("has a .. in its name"),
            part if part.contains(&0) => return Err("has a zero byte in its name"),
            part => parts.push(OsString::from_vec(part.to_owned())),
        }
    }
    Ok(parts)
}

/// Whether the target of a symbolic link in a folder `depth` below the top stays below the top. Other
/// links on its path can be checked only when everything is unpacked.
pub fn stays_inside(depth: usize, target: &[u8]) -> bool {
    let mut depth = depth;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    !target.starts_with(b"/")
}

/// Escapes a name into one word of ASCII, for a listing or a message.
pub fn escaped(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.as_bytes() {
        match byte {
            b'!'..=b'~' if *byte != b'%' => text.push(*byte as char),
            byte => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

pub fn unescaped(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below() {
        let join = |name: &str| parts(name.as_bytes()).map(|parts| parts.join(OsStr::new("|")));
        assert_eq!(join("./a//b/./c/"), Ok("a|b|c".into()));
        assert_eq!(join("./"), Ok("".into()));
        for name in ["/a", "..", "a/../b", "a/..", "./../a", "a/b\0"] {
            assert!(join(name).is_err(), "{name}");
        }
    }

    #[test]
    fn links_stay_below() {
        for (depth, target, inside) in [
            (0, "a", true),
            (0, "..", false),
            (1, "..", true),
            (1, "../a/../b", true),
            (1, "../a/../..", false),
            (2, "../../..", false),
            (5, "/etc/passwd", false),
            (0, "./a/./..", true),
        ] {
            assert_eq!(stays_inside(depth, target.as_bytes()), inside, "{depth} {target}");
        }
    }

    #[test]
    fn any_name_is_one_word() {
        for name in [&b"plain"[..], b"a b\n\t%41", b"\xff\xc3\xa9"] {
            let text = escaped(OsStr::from_bytes(name));
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            assert_eq!(unescaped(&text).unwrap().as_bytes(), name);
        }
        assert_eq!(unescaped("%4"), None);
        assert_eq!(unescaped("%é"), None);
    }
}
