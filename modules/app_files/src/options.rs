//! What `app_files` accepts, typed and checked once.

use ansible_module::{
    Default, Failure, Kind, Module, Opt, Options as Given, Return, Rule, Support,
};
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

const FILE: &[Opt] = &[
    Opt::new("path", Kind::Str)
        .required()
        .about(&["Where it goes: a path below O(dest). Folders on the way are made."]),
    Opt::new("src", Kind::Path).about(&[
        "The file of the target that is copied, or a folder with all that is in it. Its permissions are kept, its owner is not.",
    ]),
    Opt::new("content", Kind::Str).secret().about(&["What is written, instead of O(files[].src). It is not shown."]),
    Opt::new("mode", Kind::Str).about(&[
        "Permissions, in octal and quoted. The default is those of the source, or V(0644) with O(files[].content).",
    ]),
];

const RUN: &[Opt] = &[
    Opt::new("dest", Kind::Path)
        .required()
        .about(&["The folder. It is made where it is missing (0755)."]),
    Opt::new("files", Kind::List)
        .elements(Kind::Dict)
        .options(FILE)
        .default(Default::List(&[]))
        .about(&["The files, written in this order. Of two for one path the later one counts."]),
    Opt::new("variables", Kind::Dict).secret().about(&[
        "Variables, by name. Each becomes a line of O(variables_file), in place of the last line that sets it; all others stay. They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
    Opt::new("variables_file", Kind::Str).default(Default::Str(".env")).about(&[
        "Where the variables go: a path below O(dest). The file has the mode 0600 then, and keeps its owner. It may be one of O(files).",
    ]),
];

pub const MODULE: Module = Module {
    name: "app_files",
    short: "Put files and variables into the folder of an app",
    about: &[
        "Writes what differs, each file in one exchange: whoever reads it meanwhile finds the old one or the new.",
        "The folder may be another user's, such as a Compose project that belongs to its developer. Nothing is written, read or waited for where that user could lead root elsewhere: a symbolic link on the way to a file, or in its place, is refused unless it is root's in a folder of root's; so are pipes and devices.",
    ],
    version_added: "0.1.0",
    options: &[RUN],
    rules: &[] as &[Rule],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "A file that is there keeps its owner; a new one is the executing user's.",
        "Nothing is removed: a file that a release does not have any more stays.",
        "A run that was killed has replaced some of them; the same task again writes the others.",
    ],
    seealso: &["reversible.deploy.compose_backup"],
    examples: include_str!("examples.yml"),
    returns: &[
        change::RESULT,
        &[Return::new(
            "differ",
            Kind::List,
            "success",
            "The files that were, or in check mode would be, written.",
        )],
    ],
};

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
