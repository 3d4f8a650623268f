//! What the tests share: a ledger in a folder of its own, asked by the built binary.

// Each test takes what it needs; and one that cannot go on ends right there.
#![allow(dead_code, clippy::unwrap_used)]

use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

pub const FIRST: &str = "20261121t084500z-7f3a";
pub const SECOND: &str = "20261121t090000z-0001";
pub const THIRD: &str = "20261121t091500z-0002";

pub struct Ledger {
    pub folder: TempDir,
}

impl Ledger {
    pub fn new() -> Ledger {
        // Not below /tmp: a full disk and a safe path are both tested from here.
        let home = std::env::var("HOME").unwrap();
        Ledger { folder: tempfile::tempdir_in(home).unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("shop-prod")
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("ledger.jsonl")
    }

    pub fn ask(&self, module: &str, options: Value) -> Value {
        let mut all = json!({
            "app": "shop", "env": "prod", "path": self.path(), "_ansible_module_name": module,
        });
        for (key, value) in options.as_object().unwrap() {
            all[key] = value.clone();
        }
        call(&all)
    }

    pub fn task(&self, state: &str, id: &str, more: Value) -> Value {
        let mut options = more;
        options["state"] = json!(state);
        options["deploy_id"] = json!(id);
        self.ask("reversible.deploy.deploy_ledger", options)
    }

    pub fn info(&self) -> Value {
        self.ask("reversible.deploy.deploy_ledger_info", json!({}))
    }
}

fn call(options: &Value) -> Value {
    // One that waits for somebody ends, and has said nothing.
    let mut child = Command::new("timeout")
        .args(["120", env!("CARGO_BIN_EXE_deploy_ledger"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(options.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn changed(result: &Value) -> bool {
    assert_eq!(result.get("failed"), None, "{result}");
    result["changed"].as_bool().unwrap()
}

pub fn reason(result: &Value) -> &str {
    assert_eq!(result["failed"], true, "{result}");
    result["reason"].as_str().unwrap()
}
