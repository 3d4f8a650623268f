//! Runs `systemctl`: reads the state of units, and starts, stops and enables them. Every call has a deadline.

use ansible_module::Failure;
use anyhow::{Result, ensure};
use host::command::Command;
use host::program;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Deadline for reading.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
const PROPERTIES: &str =
    "Id,Type,LoadState,ActiveState,UnitFileState,NeedDaemonReload,InvocationID";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// The name in the options.
    pub name: String,
    /// `simple`, `oneshot`, ...; empty if it is no service.
    kind: String,
    load: String,
    active: String,
    file: String,
    /// Whether systemd must reload its files, since one of them is newer.
    pub is_stale: bool,
    pub invocation: String,
}

impl Unit {
    pub fn exists(&self) -> bool {
        self.load != "not-found"
    }

    pub fn is_masked(&self) -> bool {
        self.load == "masked"
    }

    pub fn runs(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether it runs, is starting, will be restarted by systemd, or has ended well as a oneshot.
    pub fn was_started(&self) -> bool {
        self.runs()
            || self.active == "activating"
            || (self.kind == "oneshot" && self.active == "inactive")
    }

    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// Whether it is enabled; `None` for units without a file, or whose file has no `[Install]`.
    pub fn is_enabled(&self) -> Option<bool> {
        match self.file.as_str() {
            "enabled" => Some(true),
            "disabled" | "enabled-runtime" | "linked" | "linked-runtime" | "" => Some(false),
            _ => None,
        }
    }

    pub fn view(&self) -> Value {
        json!({ "active": self.active, "enabled": self.file })
    }

    pub fn shown(&self) -> Value {
        json!({
            "exists": self.exists(),
            "active": self.active,
            "enabled": self.file,
            "invocation": self.invocation,
        })
    }
}

/// Reads the units, in the order of their names in the call.
pub fn show<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Unit>> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if !Path::new("/run/systemd/system").is_dir() {
        let msg = "nothing was changed: systemd does not run here, so there are no units";
        return Err(Failure::new("no_systemd", msg).into());
    }
    let output = systemctl(QUERY_TIMEOUT)?
        .args(["show", "--property", PROPERTIES, "--"])
        .args(&names)
        .run()?;
    parse(output.text()?, &names)
}

pub fn reload_daemon(timeout: Duration) -> Result<()> {
    systemctl(timeout)?.arg("daemon-reload").run()?;
    Ok(())
}

/// Runs a verb of systemctl, such as `restart`, for all units in parallel.
pub fn act(verb: &str, units: &[String], timeout: Duration) -> Result<()> {
    systemctl(timeout)?.args(["--no-ask-password", verb, "--"]).args(units).run()?;
    Ok(())
}

fn systemctl(timeout: Duration) -> Result<Command> {
    let command = Command::new(&program::find("systemctl")?).deadline(timeout);
    // It may ask for a password on a terminal, and nobody could answer.
    Ok(command.env("SYSTEMD_PAGER", "").env("SYSTEMD_COLORS", "0"))
}

/// `systemctl show --property ... -- UNIT...`: a block of `Name=value` lines for each unit, an empty line between two.
fn parse(text: &str, names: &[&str]) -> Result<Vec<Unit>> {
    let blocks: Vec<&str> = text.split("\n\n").filter(|block| !block.trim().is_empty()).collect();
    ensure!(
        blocks.len() == names.len(),
        "systemctl show listed {} units, and was asked for {}",
        blocks.len(),
        names.len()
    );
    let unit = |(block, name): (&&str, &&str)| {
        let properties: BTreeMap<&str, &str> =
            block.lines().filter_map(|line| line.split_once('=')).collect();
        let text = |key: &str| properties.get(key).copied().unwrap_or_default().to_owned();
        ensure!(!text("LoadState").is_empty(), "systemctl show listed no LoadState of {name}");
        Ok(Unit {
            name: (*name).to_owned(),
            kind: text("Type"),
            load: text("LoadState"),
            active: text("ActiveState"),
            file: text("UnitFileState"),
            is_stale: text("NeedDaemonReload") == "yes",
            invocation: text("InvocationID"),
        })
    };
    blocks.iter().zip(names).map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_tells() {
        let text = include_str!("systemctl-show-252.txt");
        let names = ["haproxy.service", "web-blue.service", "none.service", "lab.target"];
        let units = parse(text, &names).unwrap();
        let [haproxy, web, none, lab] = &units[..] else { panic!("{units:?}") };
        assert!(haproxy.runs() && haproxy.is_enabled() == Some(false) && haproxy.kind == "notify");
        assert_eq!(haproxy.invocation.len(), 32);
        assert!(web.exists() && web.is_stale && web.is_down() && web.is_enabled().is_none());
        assert!(!none.exists() && none.is_down() && none.is_enabled() == Some(false));
        assert!(lab.runs() && lab.kind.is_empty());
        assert!(parse(text, &names[..3]).is_err() && parse("\n\n", &["x"]).is_err());
    }

    #[test]
    fn what_was_started() {
        let unit = |kind: &str, active: &str| Unit {
            kind: kind.to_owned(),
            active: active.to_owned(),
            ..Unit::default()
        };
        assert!(unit("exec", "active").was_started() && unit("exec", "activating").was_started());
        assert!(unit("oneshot", "inactive").was_started());
        assert!(
            !unit("exec", "inactive").was_started() && !unit("oneshot", "failed").was_started()
        );
    }
}
