//! The options as typed values, with the checks that a spec cannot express.

use ansible_module::{Failure, Options as RawOptions};
use host::account::Accounts;
use host::deploy_id::DeployId;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The mode of files with secret content.
pub const SECRET_MODE: u32 = 0o600;
pub const CONTENT_MODE: u32 = 0o644;
/// The suffixes of units.
const SUFFIXES: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

#[derive(Debug, Deserialize)]
struct One {
    path: PathBuf,
    state: Kind,
    content: Option<String>,
    secret_content: Option<String>,
    lines: Option<Vec<String>>,
    src: Option<PathBuf>,
    target: Option<PathBuf>,
    mode: Option<String>,
    owner: Option<String>,
    group: Option<String>,
    replace: bool,
    validate: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Directory,
    Link,
    Absent,
}

/// The source of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentSource {
    /// A file or a folder of the target.
    Source(PathBuf),
    Text(String),
    /// Lines that are added to the present content.
    Lines(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    File(ContentSource),
    Folder,
    Link(PathBuf),
    Absent,
}

/// Uid and gid; `None` keeps the present one.
pub type Owner = (Option<u32>, Option<u32>);

#[derive(Clone, Debug)]
pub struct Entry {
    /// Absolute.
    pub path: PathBuf,
    pub what: What,
    /// The mode; `None` for that of the source or the present one.
    pub mode: Option<u32>,
    pub owner: Owner,
    /// Whether an existing file is replaced.
    pub replace: bool,
    /// Whether the content must not be shown.
    pub is_secret: bool,
    pub validate: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum UnitGoal {
    Started,
    Stopped,
    Restarted,
    Reloaded,
}

#[derive(Debug, Deserialize)]
struct Units {
    name: Vec<String>,
    enabled: Option<bool>,
    state: Option<UnitGoal>,
}

#[derive(Clone, Debug)]
pub struct UnitEntry {
    pub name: String,
    pub enabled: Option<bool>,
    pub state: Option<UnitGoal>,
}

#[derive(Debug)]
pub struct Options {
    pub dest: Option<PathBuf>,
    pub entries: Vec<Entry>,
    pub variables: BTreeMap<String, String>,
    /// Absolute where there are variables.
    pub variables_file: PathBuf,
    pub units: Vec<UnitEntry>,
    pub unit_timeout: Duration,
    /// The id of the run, and the folder of its fence.
    pub fence: Option<(DeployId, PathBuf)>,
}

impl Options {
    pub fn parse(raw: &RawOptions) -> Result<Options, Failure> {
        let dest: Option<PathBuf> = raw.get("dest")?;
        let variables_file: PathBuf = raw.get("variables_file")?;
        let files: Vec<One> = raw.get("files")?;
        let variables: Option<BTreeMap<String, Value>> = raw.get("variables")?;
        let units: Vec<Units> = raw.get("units")?;
        if let Some(dest) = dest.as_deref().filter(|dest| !is_whole(dest)) {
            return bad("dest", "expected an absolute path without \"..\"", dest);
        }
        if !is_below(&variables_file) {
            let why = "expected a path below dest, without \"..\"";
            return bad("variables_file", why, &variables_file);
        }
        let accounts = Accounts::read();
        Ok(Options {
            entries: (files.into_iter().map(|one| entry(one, dest.as_deref(), &accounts)))
                .collect::<Result<_, _>>()?,
            variables: (variables.unwrap_or_default().into_iter())
                .map(|(name, value)| variable(name, value))
                .collect::<Result<_, _>>()?,
            variables_file: dest.as_deref().unwrap_or(Path::new("/")).join(variables_file),
            dest,
            units: units.into_iter().map(each).collect::<Result<Vec<_>, _>>()?.concat(),
            unit_timeout: raw.seconds("unit_timeout")?,
            fence: raw.get::<Option<DeployId>>("deploy_id")?.zip(raw.get("state_dir")?),
        })
    }
}

impl Options {
    pub fn has_files(&self) -> bool {
        self.dest.is_some() || !self.entries.is_empty()
    }
}

/// The typed options of `host_files_info`.
pub struct InfoOptions {
    pub paths: Vec<PathBuf>,
    pub read: Vec<PathBuf>,
    pub units: Vec<(String, String)>,
}

impl InfoOptions {
    pub fn parse(raw: &RawOptions) -> Result<InfoOptions, Failure> {
        let paths = |option: &str| -> Result<Vec<PathBuf>, Failure> {
            let paths: Vec<PathBuf> = raw.get(option)?;
            match paths.iter().find(|path| !is_whole(path)) {
                Some(odd) => bad(option, "expected an absolute path without \"..\"", odd),
                None => Ok(paths),
            }
        };
        let units: Vec<String> = raw.get("units")?;
        Ok(InfoOptions {
            paths: paths("paths")?,
            read: paths("read")?,
            units: (units.into_iter())
                .map(|name| unit_name(&name).map(|unit| (name, unit)))
                .collect::<Result<_, _>>()?,
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

fn number(
    option: &str,
    name: Option<&str>,
    file: &str,
    find: impl Fn(&str) -> Option<u32>,
) -> Result<Option<u32>, Failure> {
    let Some(name) = name else { return Ok(None) };
    find(name).map(Some).ok_or_else(|| {
        let why =
            format!("{option} {name} is neither a number nor a name in /etc/{file} of the target");
        Failure::bad_option("files", why)
    })
}

fn entry(one: One, dest: Option<&Path>, accounts: &Accounts) -> Result<Entry, Failure> {
    let path = match dest {
        Some(dest) if is_below(&one.path) => dest.join(&one.path),
        Some(_) => return bad("files", "expected a path below dest, without \"..\"", &one.path),
        None if is_whole(&one.path) && one.path.file_name().is_some() => one.path.clone(),
        None => {
            let why = "without dest, expected an absolute path without \"..\"";
            return bad("files", why, &one.path);
        }
    };
    let is_secret = one.secret_content.is_some();
    let owner = (
        number("owner", one.owner.as_deref(), "passwd", |name| accounts.uid(name))?,
        number("group", one.group.as_deref(), "group", |name| accounts.gid(name))?,
    );
    let mode = one.mode.as_deref().map(mode).transpose()?;
    let takes_file = one.validate.is_some() || !one.replace;
    let required_mode = [one.content.is_some(), is_secret, one.lines.is_some(), one.src.is_some()];
    let froms = required_mode.into_iter().filter(|given| *given).count();
    let what = match one.state {
        Kind::File if froms != 1 => {
            let why = "each file has one of content, secret_content, lines and src";
            return bad("files", why, &one.path);
        }
        Kind::File if one.target.is_none() => What::File(from(&one)?),
        Kind::Directory if froms == 0 && one.target.is_none() && !takes_file => What::Folder,
        Kind::Absent if froms == 0 && one.target.is_none() && !takes_file => What::Absent,
        Kind::Link => match (one.target, mode) {
            (Some(target), None) if froms == 0 && !takes_file && owner == (None, None) => {
                What::Link(target)
            }
            _ => return bad("files", "a link has a target, and no more", &one.path),
        },
        _ => return bad("files", "one of its options is not for its state", &one.path),
    };
    let validate = one.validate.unwrap_or_default();
    if !validate.is_empty() && !validate.iter().any(|word| word.contains("%s")) {
        return bad("files", "validate: one word must hold %s, the file to check", &one.path);
    }
    let mode = match what {
        What::File(ContentSource::Text(_)) if is_secret => mode.or(Some(SECRET_MODE)),
        What::File(ContentSource::Text(_)) => mode.or(Some(CONTENT_MODE)),
        _ => mode,
    };
    Ok(Entry { path, what, mode, owner, replace: one.replace, is_secret, validate })
}

fn from(one: &One) -> Result<ContentSource, Failure> {
    if let Some(src) = &one.src {
        return match is_whole(src) {
            true => Ok(ContentSource::Source(src.clone())),
            false => bad("files", "expected the absolute path of a source, without \"..\"", src),
        };
    }
    if let Some(lines) = &one.lines {
        return match lines.iter().any(|line| line.contains(['\n', '\r', '\0'])) {
            true => bad("files", "each of lines is one line", &one.path),
            false => Ok(ContentSource::Lines(lines.clone())),
        };
    }
    let text = one.content.as_ref().or(one.secret_content.as_ref());
    Ok(ContentSource::Text(text.cloned().unwrap_or_default()))
}

fn mode(text: &str) -> Result<u32, Failure> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.len() <= 4 => Ok(mode),
        _ => bad("files", "expected a mode such as \"0644\"", Path::new(text)),
    }
}

fn each(units: Units) -> Result<Vec<UnitEntry>, Failure> {
    let (enabled, state) = (units.enabled, units.state);
    let one = |name: &String| Ok(UnitEntry { name: unit_name(name)?, enabled, state });
    units.name.iter().map(one).collect()
}

fn unit_name(name: &str) -> Result<String, Failure> {
    let sound = |c: char| c.is_ascii_alphanumeric() || "._-@:\\".contains(c);
    if name.is_empty() || name.len() > 255 || name.starts_with('-') || !name.chars().all(sound) {
        let why = "expected the name of a unit, of letters, digits and any of . _ - @ : \\";
        return bad("units", why, Path::new(name));
    }
    match SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        true => Ok(name.to_owned()),
        false => Ok(format!("{name}.service")),
    }
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

    fn given(mut one: Value, dest: Option<&str>) -> Result<Entry, Failure> {
        let all = json!({"state": "file", "replace": true, "path": "/etc/it"});
        for (key, value) in all.as_object().unwrap() {
            one.as_object_mut().unwrap().entry(key).or_insert(value.clone());
        }
        let one = serde_json::from_value(one).unwrap();
        entry(one, dest.map(Path::new), &Accounts::of("web:x:997:998::/:", "shop:x:998:"))
    }

    #[test]
    fn what_a_file_may_be() {
        let entry = given(json!({"content": "x", "owner": "web", "group": "shop"}), None).unwrap();
        assert_eq!((entry.mode, entry.owner), (Some(0o644), (Some(997), Some(998))));
        let secret = given(json!({"secret_content": "x", "path": "it"}), Some("/srv")).unwrap();
        assert_eq!((secret.mode, secret.path.as_path()), (Some(0o600), Path::new("/srv/it")));
        for (odd, words) in [
            (json!({}), "each file has one of"),
            (json!({"content": "x", "lines": ["x"]}), "each file has one of"),
            (json!({"lines": ["x\ny"]}), "one line"),
            (json!({"content": "x", "path": "it"}), "without dest"),
            (json!({"content": "x", "mode": "0999"}), "such as \"0644\""),
            (json!({"content": "x", "validate": ["haproxy", "-c"]}), "must hold %s"),
            (json!({"content": "x", "target": "y"}), "not for its state"),
            (json!({"state": "directory", "content": "x"}), "not for its state"),
            (json!({"state": "absent", "replace": false}), "not for its state"),
            (json!({"state": "link"}), "a link has a target"),
            (json!({"state": "link", "target": "x", "mode": "0644"}), "a link has a target"),
            (json!({"content": "x", "owner": "nobody-here"}), "/etc/passwd"),
        ] {
            let failure = given(odd.clone(), None).unwrap_err();
            assert!(failure.msg.contains(words), "{odd}: {}", failure.msg);
        }
    }

    #[test]
    fn names_of_units() {
        for (name, whole) in [
            ("shop", "shop.service"),
            ("a@b", "a@b.service"),
            ("x.timer", "x.timer"),
            ("shop-1.2", "shop-1.2.service"),
        ] {
            assert_eq!(unit_name(name).unwrap(), whole);
        }
        for odd in ["", "-x", "a b", "a/b", "a*"] {
            assert!(unit_name(odd).is_err(), "{odd}");
        }
    }
}
