//! Reads the arguments of a run and separates Ansible's own keys from the options.

use crate::censor;
use crate::failure::Failure;
use crate::spec::{Module, Opt};
use crate::validate::validate;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

/// The most that is read: more than any sane task has, and little enough for any target.
const MOST_BYTES: u64 = 64 << 20;

/// How Ansible called this module, and with which options.
#[derive(Debug)]
pub struct Invocation {
    pub module: &'static str,
    pub check_mode: bool,
    pub diff: bool,
    pub verbosity: u64,
    /// Where temporary files may go, when Ansible made a folder for this task.
    pub tmpdir: Option<PathBuf>,
    pub options: Options,
}

/// The validated options: every option of the spec, coerced, or null.
#[derive(Clone, Debug, Default)]
pub struct Options(Map<String, Value>);

impl Options {
    /// Deserialises an option to a type of the module, which can check what a spec cannot say.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, Failure> {
        let value = self.0.get(name).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value)
            .map_err(|why| Failure::new("bad_options", format!("argument '{name}': {why}")))
    }

    /// Returns an option of kind `Seconds`.
    pub fn seconds(&self, name: &str) -> Result<Duration, Failure> {
        self.get(name).map(Duration::from_secs_f64)
    }

    /// Returns an optional text, and refuses one that is not valid; the failure names what is `expected`.
    pub fn checked(
        &self,
        name: &str,
        expected: &str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, Failure> {
        match self.get::<Option<String>>(name)? {
            Some(text) if !is_valid(&text) => {
                Err(Failure::bad_option(name, format!("expected {expected}, got {text:?}")))
            }
            other => Ok(other),
        }
    }

    /// Returns the options as the result shows them, censored.
    pub(crate) fn shown(&self, module: &Module) -> Value {
        let options: Vec<&Opt> = module.all_options().collect();
        Value::Object(censor::shown(&options, &self.0))
    }
}

/// The arguments of a run, before the options are validated.
pub(crate) struct Request {
    options: Map<String, Value>,
    ansible: Map<String, Value>,
}

impl Request {
    /// Reads the arguments from a file, or from stdin if `source` is `-`.
    pub(crate) fn read(source: &str) -> Result<Request, Failure> {
        let what = if source == "-" { "standard input" } else { source };
        let mut bytes = Vec::new();
        let read = match source {
            "-" => io::stdin().lock().take(MOST_BYTES + 1).read_to_end(&mut bytes),
            path => {
                File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
            }
        };
        read.map_err(|why| bad_arguments(format!("cannot read the arguments in {what}: {why}")))?;
        if bytes.len() as u64 > MOST_BYTES {
            let most = MOST_BYTES >> 20;
            return Err(bad_arguments(format!("the arguments in {what} are over {most} MiB")));
        }
        Request::parse(&bytes, what)
    }

    pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Request, Failure> {
        if bytes.trim_ascii().is_empty() {
            return Err(bad_arguments(format!(
                "the arguments in {what} are empty; expected a JSON object of options"
            )));
        }
        // The message of serde_json names a line and a column and quotes nothing, so it contains no secret.
        let all: Map<String, Value> = serde_json::from_slice(bytes).map_err(|why| {
            bad_arguments(format!(
                "the arguments in {what} are not a JSON object in valid UTF-8: {why}"
            ))
        })?;
        let (ansible, options): (_, Map<String, Value>) =
            all.into_iter().partition(|(key, _)| key.starts_with("_ansible_"));
        Ok(Request { options, ansible })
    }

    /// Returns the name of the requested module without its collection and architecture: one binary
    /// serves `x` and `x_info`.
    pub(crate) fn module_name(&self) -> &str {
        let full = self.ansible.get("_ansible_module_name").and_then(Value::as_str);
        let name = full.and_then(|name| name.rsplit('.').next()).unwrap_or_default();
        ["_x86_64", "_aarch64"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
    }

    /// Returns the task's `environment:`, which the fast path sends here to keep it off command lines.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let map = self.ansible.get("_ansible_reversible_environment").and_then(Value::as_object);
        map.into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .filter(|(key, value)| {
                !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0')
            })
    }

    /// Returns the name of the file for [`crate::progress`], if the controller watches this run.
    pub(crate) fn progress(&self) -> Option<&str> {
        self.ansible.get("_ansible_reversible_progress").and_then(Value::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        match self.ansible.get(key) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(word)) => word.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    pub(crate) fn verbosity(&self) -> u64 {
        self.ansible.get("_ansible_verbosity").and_then(Value::as_u64).unwrap_or(0)
    }

    /// Validates the options for `module`; returns its invocation and warnings about the options.
    pub(crate) fn into_invocation(
        self,
        module: &'static Module,
    ) -> Result<(Invocation, Vec<String>), Failure> {
        let check_mode = self.flag("_ansible_check_mode");
        let diff = self.flag("_ansible_diff");
        let verbosity = self.verbosity();
        let tmpdir = (self.ansible.get("_ansible_tmpdir").and_then(Value::as_str))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let (options, warnings) = validate(module, self.options)?;
        let options = Options(options);
        let module = module.name;
        Ok((Invocation { module, check_mode, diff, verbosity, tmpdir, options }, warnings))
    }
}

fn bad_arguments(msg: String) -> Failure {
    Failure::new("bad_arguments", msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(bytes: &[u8]) -> String {
        match Request::parse(bytes, "a file") {
            Ok(_) => panic!("parsed"),
            Err(failure) => failure.msg,
        }
    }

    #[test]
    fn keys_of_ansible_are_removed_even_unknown_ones() {
        let request = Request::parse(
            br#"{"app": "x", "_ansible_check_mode": true, "_ansible_diff": "True", "_ansible_new": {},
                 "_ansible_module_name": "ansible.legacy.deploy_ledger_info_aarch64",
                 "_ansible_reversible_environment": {"A": "b", "C=": "d", "E": 1}}"#,
            "a file",
        );
        let request = request.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(request.options.len(), 1);
        assert_eq!(request.module_name(), "deploy_ledger_info");
        assert!(request.flag("_ansible_check_mode") && request.flag("_ansible_diff"));
        assert_eq!(request.environment().collect::<Vec<_>>(), [("A", "b")]);
    }

    #[test]
    fn broken_arguments_are_one_sentence() {
        assert!(failure(b" \n").contains("are empty"));
        assert!(failure(b"{\"a\": 1").contains("not a JSON object"));
        assert!(failure(b"[1]").contains("not a JSON object"));
        assert!(failure(b"{\"a\": \"\xff\"}").contains("not a JSON object"));
        assert!(failure(br#"{"a": "\udc80"}"#).contains("not a JSON object"));
        assert!(failure("[".repeat(100_000).as_bytes()).contains("not a JSON object"));
    }
}
