//! The output of a module's binary with `--spec`, which is the only source of its documentation and argument spec.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::workspace::{ModuleCrate, run};

/// One module. An unknown key is refused, since the docs would leave it out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub name: String,
    pub short_description: String,
    pub description: Vec<String>,
    pub version_added: String,
    pub options: Vec<OptionSpec>,
    #[serde(default)]
    pub mutually_exclusive: Vec<Vec<String>>,
    #[serde(default)]
    pub required_together: Vec<Vec<String>>,
    #[serde(default)]
    pub required_one_of: Vec<Vec<String>>,
    #[serde(default)]
    pub required_if: Vec<(String, Value, Vec<String>, bool)>,
    #[serde(default)]
    pub required_by: BTreeMap<String, Vec<String>>,
    pub check_mode: Support,
    pub diff_mode: Support,
    pub check_mode_details: Option<String>,
    #[serde(default)]
    pub notes: Vec<String>,
    #[serde(default)]
    pub seealso: Vec<String>,
    pub examples: String,
    pub returns: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionSpec {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub elements: Option<String>,
    /// The format that its values must have, beyond their type.
    #[serde(default)]
    pub form: Option<String>,
    #[serde(default)]
    pub required: bool,
    pub default: Option<Value>,
    #[serde(default)]
    pub choices: Vec<Value>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub no_log: bool,
    pub description: Vec<String>,
    #[serde(default)]
    pub options: Vec<OptionSpec>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    Full,
    Partial,
    None,
}

impl Support {
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "none",
        }
    }
}

/// A spec, and the crate whose program serves the module.
pub struct Module<'a> {
    pub spec: Spec,
    pub source: &'a ModuleCrate,
}

impl Module<'_> {
    /// The crate that contains its spec: the one of its name if the program depends on it, else the program's own.
    pub fn folder(&self) -> &str {
        let name = self.spec.name.strip_suffix("_info").unwrap_or(&self.spec.name);
        let of_its_name = |folder: &&String| folder.rsplit('/').next() == Some(name);
        self.source.sources.iter().find(of_its_name).unwrap_or(&self.source.folder)
    }
}

/// Reads the specs of these binaries, sorted by module name.
pub fn read_all<'a>(binaries: &[(&'a ModuleCrate, PathBuf)]) -> Result<Vec<Module<'a>>> {
    let mut modules = Vec::new();
    for (source, binary) in binaries {
        modules.extend(read(binary)?.into_iter().map(|spec| Module { spec, source }));
    }
    modules.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let names: BTreeSet<_> = modules.iter().map(|module| &module.spec.name).collect();
    ensure!(names.len() == modules.len(), "two crates serve a module of the same name");
    Ok(modules)
}

/// Reads the specs of the modules that one binary serves.
fn read(binary: &Path) -> Result<Vec<Spec>> {
    let json = run(Command::new(binary).arg("--spec"))?;
    let specs: Vec<Spec> = serde_json::from_str(&json)
        .with_context(|| format!("reading the spec that {} prints", binary.display()))?;
    ensure!(!specs.is_empty(), "{} --spec names no module", binary.display());
    for spec in &specs {
        let plain =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        ensure!(
            !spec.name.is_empty() && spec.name.chars().all(plain),
            "not a module name: {:?}",
            spec.name
        );
        check_references(spec)?;
    }
    Ok(specs)
}

/// Checks that every `O(option)` in the texts is an option of the module. A text that several modules share may name one that this module
/// does not have; ansible-test would report it much later and less clearly.
fn check_references(spec: &Spec) -> Result<()> {
    let mut texts: Vec<&str> = Vec::new();
    texts.extend(spec.description.iter().chain(&spec.notes).map(String::as_str));
    texts.push(&spec.short_description);
    let mut names = BTreeSet::new();
    let mut levels = vec![&spec.options];
    while let Some(options) = levels.pop() {
        for option in options {
            names.insert(option.name.as_str());
            texts.extend(option.description.iter().map(String::as_str));
            levels.push(&option.options);
        }
    }
    let returns = spec.returns.to_string();
    texts.push(&returns);
    for (reference, name) in texts.iter().flat_map(|text| option_references(text)) {
        ensure!(
            names.contains(name),
            "module {}: its texts say {}, and it has no such option: write C({name}) where the text is for several modules",
            spec.name,
            reference
        );
    }
    Ok(())
}

/// Finds each `O(a)`, `O(a.b)` or `O(a.b=value)` in a text, with its last name; `O(other#module:a)` is skipped, since it is another module's.
fn option_references(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let alone = |at: usize| !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric());
    text.match_indices("O(").filter(move |(at, _)| alone(*at)).filter_map(|(at, _)| {
        let reference = text[at..].split_inclusive(')').next()?;
        let option = reference.strip_prefix("O(")?.strip_suffix(')')?.split('=').next()?;
        (!option.contains('#')).then_some((reference, option.rsplit('.').next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        let json = serde_json::json!({
            "name": "x", "short_description": "X", "description": [text], "version_added": "0.1.0",
            "options": [{"name": "a", "type": "dict", "description": ["A."], "options": [
                {"name": "b", "type": "str", "description": ["B, unlike O(a)."]}]}],
            "check_mode": "full", "diff_mode": "none", "check_mode_details": null, "examples": "", "returns": {},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_text_names_only_options_that_there_are() {
        check_references(&spec(
            "See O(a), O(a.b) and O(a.b=x y); FOO(c) is none, nor is O(n.s.m#module:c), nor O(c.",
        ))
        .unwrap();
        for wrong in ["See O(c).", "See O(a.c).", "See O(c=a).", "O(c)"] {
            assert!(check_references(&spec(wrong)).is_err(), "{wrong}");
        }
    }
}
