//! Finds the files of a project: the compose files, those that they include or extend, env files, and the
//! files of `secrets:` and `configs:`.
//!
//! Invariant: the resolved configuration is authoritative; these files are saved in addition, to be restored.
//! A file that is found here by mistake does no harm; the content of a file that only Compose can find (a
//! name with a variable in it) is still in the resolved configuration.

use crate::compose::Compose;
use crate::manifest::{ComposeRecord, Role};
use crate::mounts::real;
use host::regular::{self, Links};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const NAMES: &[&str] =
    &["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// The largest file that is read; compose files are small.
const LARGEST: u64 = 4 << 20;

#[derive(Clone, Debug)]
pub struct Files {
    pub record: ComposeRecord,
    pub all: BTreeMap<PathBuf, Role>,
}

pub fn files_of(compose: &Compose) -> Files {
    let env_files = env_files(compose);
    let given_files = !compose.files.is_empty();
    let files = match given_files {
        true => compose.files.clone(),
        false => default_files(compose, &env_files),
    };
    let mut all = BTreeMap::new();
    for file in &env_files {
        all.insert(file.clone(), Role::Env);
    }
    let mut todo = files.clone();
    let mut seen = BTreeSet::new();
    while let Some(file) = todo.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let Some(text) = text_of(&file) else { continue };
        all.insert(file.clone(), Role::Compose);
        let folder = file.parent().unwrap_or(Path::new("/"));
        for (name, role) in referenced_files(&text) {
            let bases = [folder, compose.project_dir.as_path()];
            let Some(path) =
                bases.iter().map(|base| real(&base.join(&name))).find(|path| path.is_file())
            else {
                continue;
            };
            match role {
                Role::Compose => todo.push(path),
                role => drop(all.entry(path).or_insert(role)),
            }
        }
    }
    let profiles = compose.profiles.clone();
    Files { record: ComposeRecord { files, given_files, env_files, profiles }, all }
}

/// Returns the env files that Compose would use.
pub fn env_files(compose: &Compose) -> Vec<PathBuf> {
    if !compose.env_files.is_empty() {
        return compose.env_files.clone();
    }
    let named = std::env::var("COMPOSE_ENV_FILES").unwrap_or_default();
    let named: Vec<PathBuf> = (named.split(',').filter(|name| !name.is_empty()))
        .map(|name| compose.project_dir.join(name))
        .collect();
    let files = if named.is_empty() { vec![compose.project_dir.join(".env")] } else { named };
    files.into_iter().filter(|file| file.is_file()).collect()
}

/// Finds the compose files as Compose does when none is named.
fn default_files(compose: &Compose, env_files: &[PathBuf]) -> Vec<PathBuf> {
    let variable = |name: &str| {
        let of_file = || env_files.iter().find_map(|file| value_in(&text_of(file)?, name));
        std::env::var(name).ok().or_else(of_file).filter(|value| !value.is_empty())
    };
    if let Some(list) = variable("COMPOSE_FILE") {
        let separator = variable("COMPOSE_PATH_SEPARATOR").unwrap_or_else(|| ":".to_owned());
        return list.split(&separator).map(|name| real(&compose.project_dir.join(name))).collect();
    }
    for folder in compose.project_dir.ancestors() {
        let Some(file) = NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
        else {
            continue;
        };
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let over = ["yml", "yaml"].map(|ending| folder.join(format!("{stem}.override.{ending}")));
        let over = over.into_iter().find(|path| path.is_file());
        return std::iter::once(file).chain(over).collect();
    }
    Vec::new()
}

fn value_in(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    Some(line.trim().trim_matches(['"', '\'']).to_owned())
}

pub fn text_of(file: &Path) -> Option<String> {
    let bytes = regular::read(file, Links::Follow, LARGEST).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Finds the names of files in the lines of a compose file: `include:`, `extends: file:` and `env_file:`, as a
/// word, a list or in braces.
fn referenced_files(text: &str) -> Vec<(String, Role)> {
    let mut found = Vec::new();
    // The key of the current list, and its indentation.
    let mut inside: Option<(Role, usize)> = None;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        let (is_item, rest) = match line.trim().strip_prefix("- ") {
            Some(rest) => (true, rest.trim()),
            None => (false, line.trim()),
        };
        if rest.is_empty() || rest.starts_with('#') {
            continue;
        }
        if inside.is_some_and(|(_, depth)| indent < depth || (indent == depth && !is_item)) {
            inside = None;
        }
        let after = |key: &str| rest.strip_prefix(key).map(str::trim);
        if let Some(value) = after("env_file:") {
            inside = value.is_empty().then_some((Role::Env, indent));
            found.extend(words(value).map(|word| (word, Role::Env)));
        } else if let Some(value) = after("include:") {
            inside = value.is_empty().then_some((Role::Compose, indent));
            found.extend(words(value).map(|word| (word, Role::Compose)));
        } else if let Some(at) = rest.find("file:").filter(|_| !rest.starts_with("profile")) {
            let value = rest[at + 5..].split([',', '}']).next().unwrap_or_default();
            found.extend(
                words(value).filter(|word| is_yaml(word)).map(|word| (word, Role::Compose)),
            );
        } else if let (Some(value), Some((role, _))) = (after("path:"), inside) {
            found.extend(words(value).map(|word| (word, role)));
        } else if let (true, Some((role, _))) = (is_item && !rest.ends_with(':'), inside) {
            found.extend(words(rest).map(|word| (word, role)));
        }
    }
    found
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yml") || name.ends_with(".yaml")
}

fn words(value: &str) -> impl Iterator<Item = String> {
    let list = value.trim_matches(['[', ']', '{', '}']).split(',');
    let plain =
        list.map(|word| word.trim().trim_start_matches("path:").trim().trim_matches(['"', '\'']));
    plain.filter(|word| !word.is_empty() && !word.contains('$')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_every_notation() {
        let text = "include:\n  - base.yml # the base\n  - path: more.yaml\nservices:\n  web:\n    env_file: web.env\n    \
                    extends:\n      file: common.yml\n      service: x\n  db:\n    env_file:\n      - \"db.env\"\n      - path: \
                    opt.env\n        required: false\n    volumes:\n      - ./data:/data\n  job:\n    extends: {file: jobs.yml, service: j}\n    \
                    env_file: [a.env, 'b.env', $X]\nsecrets:\n  key:\n    file: ./key.txt\n";
        let found = referenced_files(text);
        let of = |role: Role| -> Vec<&str> {
            found.iter().filter(|(_, one)| *one == role).map(|(name, _)| name.as_str()).collect()
        };
        assert_eq!(of(Role::Compose), ["base.yml", "more.yaml", "common.yml", "jobs.yml"]);
        assert_eq!(of(Role::Env), ["web.env", "db.env", "opt.env", "a.env", "b.env"]);
    }

    #[test]
    fn values_of_an_env_file() {
        assert_eq!(
            value_in("# x\nA=1\nCOMPOSE_FILE=\"a.yml:b.yml\"\n", "COMPOSE_FILE").unwrap(),
            "a.yml:b.yml"
        );
        assert_eq!(value_in("COMPOSE_FILES=x\n", "COMPOSE_FILE"), None);
    }
}
