//! Runs `kubectl` and explains its failures; no other file of this crate runs it.
//!
//! Invariant: objects are passed on stdin, since everybody on the machine can read its arguments.

use ansible_module::Failure;
use anyhow::{Error, Result};
use host::command::{Cause, Command, Failed, IfWeDie};
pub use host::kubectl::Access;
use serde_json::Value;
use std::path::PathBuf;

pub struct Kubectl {
    program: PathBuf,
    access: Access,
}

impl Kubectl {
    pub fn find(access: &Access) -> Result<Kubectl> {
        Ok(Kubectl { program: access.program()?, access: access.clone() })
    }

    fn command(&self, verb: &str, path: &str) -> Command {
        self.access.command(&self.program, verb, path)
    }

    /// Reads an object or a list of objects.
    pub fn get(&self, path: &str) -> Result<Value> {
        let done = self.command("get", path).if_we_die(IfWeDie::DiesToo).run();
        done.map_err(|failed| explained(failed, &format!("reading {path}")))?.json()
    }

    /// Reads an object; `None` if it does not exist.
    pub fn find_object(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path) {
            Ok(object) => Ok(Some(object)),
            Err(error) if ansible_module::reason(&error) == "not_found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads plain text, such as a log.
    pub fn text(&self, path: &str) -> Result<String> {
        let done = self.command("get", path).if_we_die(IfWeDie::DiesToo).run();
        Ok(done.map_err(|failed| explained(failed, &format!("reading {path}")))?.stdout_shown())
    }

    /// Replaces an object. The server refuses with a conflict if the object has changed since it was read, since it contains the
    /// `resourceVersion` of that time.
    pub fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        let path = format!("{path}?fieldManager={MANAGER}");
        let done = self.command("replace", &path).args(["-f", "-"]).stdin(object.to_string()).run();
        done.map_err(|failed| explained(failed, &format!("writing {path}")))?.json()
    }

    /// Creates an object; with `dry_run` the server only judges it, admission included.
    pub fn create(&self, path: &str, object: &Value, dry_run: bool) -> Result<Value> {
        let dry = if dry_run { "&dryRun=All" } else { "" };
        let path = format!("{path}?fieldManager={MANAGER}{dry}");
        let done = self.command("create", &path).args(["-f", "-"]).stdin(object.to_string()).run();
        done.map_err(|failed| explained(failed, &format!("creating {path}")))?.json()
    }

    /// Deletes an object, with its own grace period, and then what belongs to it; a missing one is no error.
    pub fn delete(&self, path: &str) -> Result<()> {
        // By default the server leaves the pods of a Job behind.
        let done = self.command("delete", &format!("{path}?propagationPolicy=Background")).run();
        match done.map(drop).map_err(|failed| explained(failed, &format!("deleting {path}"))) {
            Err(error) if ansible_module::reason(&error) == "not_found" => Ok(()),
            done => done,
        }
    }

    /// Asks the server whether it would accept a replacement, admission webhooks included.
    pub fn would_replace(&self, path: &str, object: &Value) -> Result<()> {
        let path = format!("{path}?fieldManager={MANAGER}&dryRun=All");
        let done = self.command("replace", &path).args(["-f", "-"]).stdin(object.to_string()).run();
        done.map(drop).map_err(|failed| explained(failed, &format!("writing {path}")))
    }
}

/// The name under which the server records our writes in `managedFields`.
const MANAGER: &str = "reversible.deploy";

/// Explains a failed call, with a reason from the server's own: `Error from server (NotFound): ...`.
fn explained(failed: Failed, doing: &str) -> Error {
    let reason = match server_reason(&failed.stderr) {
        Some("NotFound") => "not_found",
        Some("Forbidden") => "forbidden",
        Some("Unauthorized") => "unauthorized",
        Some("Conflict") => "conflict",
        Some("AlreadyExists") => "already_exists",
        Some("Invalid" | "BadRequest") => "refused_by_server",
        _ if failed.stderr.contains("You must be logged in") => "unauthorized",
        _ if failed.stderr.contains("admission webhook") => "refused_by_server",
        _ if failed.cause != Cause::NonZero => {
            return Error::from(failed).context(doing.to_owned());
        }
        _ if failed.stderr.contains("does not exist") && failed.stderr.contains("context") => {
            "no_context"
        }
        _ => "api_failed",
    };
    let next = match reason {
        "no_context" => "; `kubectl config get-contexts` lists those of the kubeconfig",
        "forbidden" => {
            "; the account lacks a right: the collection's docs/examples/kube/rbac.yml has all that are needed"
        }
        "conflict" => {
            "; somebody has changed it since it was read: run the task again, which reads it first"
        }
        _ => "",
    };
    let last = failed.stderr.trim().lines().last().unwrap_or("it said nothing").to_owned();
    Failure::new(reason, format!("{doing}: {last}{next}")).with("stderr", failed.stderr).into()
}

fn server_reason(stderr: &str) -> Option<&str> {
    stderr.split_once("Error from server (")?.1.split_once(')').map(|(reason, _)| reason)
}

/// Percent-encodes a part of a path of the API, or a value of its query.
pub fn encoded(text: &str) -> String {
    host::percent_encode(text, b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_read_from_the_servers_answer() {
        let said = "Error from server (NotFound): deployments.apps \"web\" not found\n";
        assert_eq!(server_reason(said), Some("NotFound"));
        let said = "error: context \"prod\" does not exist\n";
        assert_eq!(server_reason(said), None);
    }

    #[test]
    fn nothing_leaves_its_part_of_a_path() {
        assert_eq!(encoded("a/../b?c=1"), "a%2F..%2Fb%3Fc%3D1");
        assert_eq!(encoded("web-1.x"), "web-1.x");
    }
}
