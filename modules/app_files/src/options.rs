//! What `app_files` accepts, typed and checked once.

use ansible_module::{Failure, Options as Given};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// They are secrets.
pub const VARIABLES_MODE: u32 = 0o600;
pub const CONTENT_MODE: u32 = 0o644;

#[derive(Debug, Deserialize)]
struct One {
    path: PathBuf,
    src: Option<PathBuf>,
    content: Option<String>,
    mode: Option<String>,
}

/// Where what is written comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A file or a folder of the target.
    Source(PathBuf),
    Text(String),
}

#[derive(Clone, Debug)]
pub struct Wish {
    pub path: PathBuf,
    pub from: From,
    /// None: that of the source.
    pub mode: Option<u32>,
}

#[derive(Debug)]
pub struct Options {
    pub dest: PathBuf,
    pub files: Vec<Wish>,
    pub variables: BTreeMap<String, String>,
    pub variables_file: PathBuf,
}

impl Options {
    pub fn parse(given: &Given) -> Result<Options, Failure> {
        let dest: PathBuf = given.get("dest")?;
        let variables_file: PathBuf = given.get("variables_file")?;
        let files: Vec<One> = given.get("files")?;
        let variables: Option<BTreeMap<String, Value>> = given.get("variables")?;
        if !is_whole(&dest) {
            return bad("dest", "expected an absolute path without \"..\"", &dest);
        }
        if !is_below(&variables_file) {
            let why = "expected a path below dest, without \"..\"";
            return bad("variables_file", why, &variables_file);
        }
        Ok(Options {
            dest,
            files: files.into_iter().map(file).collect::<Result<_, _>>()?,
            variables: (variables.unwrap_or_default().into_iter())
                .map(|(name, value)| variable(name, value))
                .collect::<Result<_, _>>()?,
            variables_file,
        })
    }
}

fn bad<T>(option: &str, why: &str, got: &Path) -> Result<T, Failure> {
    let msg = format!("argument '{option}': {why}, got {}", got.display());
    Err(Failure::new("bad_options", msg))
}

fn is_whole(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

fn is_below(path: &Path) -> bool {
    path.file_name().is_some()
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn file(one: One) -> Result<Wish, Failure> {
    if !is_below(&one.path) {
        return bad("files", "expected a path below dest, without \"..\"", &one.path);
    }
    let from = match (one.src, one.content) {
        (Some(src), None) if is_whole(&src) => From::Source(src),
        (Some(src), None) => {
            return bad("files", "expected the absolute path of a source, without \"..\"", &src);
        }
        (None, Some(text)) => From::Text(text),
        _ => return bad("files", "each has either src or content", &one.path),
    };
    let mode = match one.mode {
        Some(text) => match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Some(mode),
            _ => return bad("files", "expected a mode such as \"0644\"", Path::new(&text)),
        },
        None if matches!(from, From::Text(_)) => Some(CONTENT_MODE),
        None => None,
    };
    Ok(Wish { path: one.path, from, mode })
}

fn variable(name: String, value: Value) -> Result<(String, String), Failure> {
    let text = match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let fits = !name.is_empty() && !name.contains(|c: char| c == '=' || c.is_whitespace());
    match fits && !text.contains(['\n', '\r', '\0']) {
        true => Ok((name, text)),
        // The value may be a secret.
        false => {
            let msg = format!(
                "argument 'variables', {name:?}: a name has no '=' and no spaces, and a value is one line"
            );
            Err(Failure::new("bad_options", msg))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_variable_may_be() {
        let ok = |value| variable("A".into(), value).unwrap().1;
        assert_eq!(
            (ok(json!("x y")), ok(json!(5)), ok(json!(null))),
            ("x y".into(), "5".into(), String::new())
        );
        assert_eq!(ok(json!(true)), "true");
        for (name, value) in
            [("A B", "x"), ("A=", "x"), ("", "x"), ("A", "x\ny"), ("A", "hunter2\r")]
        {
            let failure = variable(name.into(), json!(value)).unwrap_err();
            assert!(!failure.msg.contains("hunter2"), "{}", failure.msg);
        }
    }

    #[test]
    fn paths_stay_below() {
        for path in ["a", "a/b", "./a"] {
            assert!(is_below(Path::new(path)), "{path}");
        }
        for path in ["", "/a", "../a", "a/../b", "a/..", "."] {
            assert!(!is_below(Path::new(path)), "{path}");
        }
    }
}
