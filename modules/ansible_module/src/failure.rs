//! The failure of a module, for people and for programs.

use anyhow::Error;
use host::command::Failed;
use serde_json::{Map, Value, json};
use std::fmt;

/// A failure with a stable code and further keys for the result.
///
/// It travels inside `anyhow::Error`; context added on the way becomes part of the message.
#[derive(Debug)]
pub struct Failure {
    pub reason: &'static str,
    pub msg: String,
    pub details: Map<String, Value>,
    cause: Option<Error>,
}

impl Failure {
    pub fn new(reason: &'static str, msg: impl Into<String>) -> Failure {
        Failure { reason, msg: msg.into(), details: Map::new(), cause: None }
    }

    /// Makes the failure for a bad option that a spec could not detect.
    pub fn bad_option(name: &str, why: impl fmt::Display) -> Failure {
        Failure::new("bad_options", format!("argument '{name}': {why}"))
    }

    /// Makes the failure for a failed command: what was tried, and what helps, which may be empty.
    pub fn of_command(failed: Failed, what: &str, reason: &'static str, help: &str) -> Failure {
        let msg = if help.is_empty() { what.to_owned() } else { format!("{what} ({help})") };
        Failure::new(reason, msg).caused_by(failed.into())
    }

    /// Adds a key to the failed result.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Failure {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// Adds the cause of this failure; its message and evidence become part of the result.
    ///
    /// With a cause, both errors can be downcast: `anyhow` hides the type of what is passed to `context`.
    pub fn caused_by(mut self, cause: Error) -> Failure {
        self.cause = Some(cause);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(AsRef::as_ref)
    }
}

/// Returns the code of an error: the innermost, which is nearest to its origin.
pub fn reason(error: &Error) -> &'static str {
    let failures = error.chain().filter_map(|cause| cause.downcast_ref::<Failure>());
    let innermost = failures.last().map(|failure| failure.reason);
    innermost.or_else(|| host::reason(error)).unwrap_or("failed")
}

/// Returns the code that the outermost failure gives an error, which is nearest to the task.
pub fn outermost_reason(error: &Error) -> Option<&'static str> {
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    failure.map(|failure| failure.reason).or_else(|| host::reason(error))
}

/// Makes the failed result: `msg` is the whole chain in one sentence, `reason` the innermost code; the
/// output of a failed command is added.
pub(crate) fn to_result(error: &Error) -> Map<String, Value> {
    let mut result = Map::new();
    result.insert("failed".into(), json!(true));
    result.insert("changed".into(), json!(false));
    result.insert("msg".into(), json!(chain(error)));
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            for (key, value) in &failure.details {
                result.insert(key.clone(), value.clone());
            }
        }
        if let Some(command) = cause.downcast_ref::<Failed>() {
            result.insert("cmd".into(), json!(command.cmd));
            result.insert("rc".into(), json!(command.rc));
            result.insert("stdout".into(), json!(command.stdout));
            result.insert("stderr".into(), json!(command.stderr));
        }
    }
    let reason = reason(error);
    if let Some(next_step) = next_step(reason) {
        result.insert("msg".into(), json!(format!("{}; {next_step}", chain(error))));
    }
    result.insert("reason".into(), json!(reason));
    result
}

/// Returns what to do next, where it is the same for every module.
fn next_step(reason: &str) -> Option<&'static str> {
    match reason {
        "permission_denied" if !nix::unistd::geteuid().is_root() => {
            Some("the task does not run as root: add become: true")
        }
        "interrupted" => Some("run the same task again: it finishes or restores what was begun"),
        _ => None,
    }
}

fn chain(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        // Wrappers such as io errors repeat what their cause says.
        if text.ends_with(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn context_is_added_to_the_message_but_not_to_the_code() {
        let failed: anyhow::Result<()> =
            Err(Failure::new("lock_held", "held by pid 7").with("holder", 7).into());
        let error = failed.context("opening the ledger").unwrap_err();
        let result = to_result(&error);
        assert_eq!(result["msg"], "opening the ledger: held by pid 7");
        assert_eq!(result["reason"], "lock_held");
        assert_eq!(result["holder"], 7);
        assert_eq!(result["failed"], true);
    }

    #[test]
    fn an_unknown_error_has_the_plain_code() {
        let result = to_result(&anyhow::anyhow!("no such thing"));
        assert_eq!(result["reason"], "failed");
    }
}
