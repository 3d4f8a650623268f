//! The configuration of the temporary project: the recorded one without anything that reaches outside. Pure.
//!
//! Invariant: only keys that are known to be harmless are copied, so that a key of a later Compose cannot
//! open a port or use the host's network. Keys that were left out and may matter are reported.

use crate::images::Loaded;
use crate::manifest::Manifest;
use crate::verify::scratch::Scratch;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Keys of a service that affect only its own container.
const INSIDE: &[&str] = &[
    "cap_drop",
    "command",
    "domainname",
    "entrypoint",
    "environment",
    "group_add",
    "healthcheck",
    "hostname",
    "init",
    "mem_limit",
    "oom_score_adj",
    "platform",
    "read_only",
    "runtime",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "working_dir",
];
/// Keys that are replaced, or whose absence does not affect the verification.
const NOT_REPORTED: &[&str] = &[
    "annotations",
    "attach",
    "build",
    "cap_add",
    "configs",
    "container_name",
    "cpu_count",
    "cpu_shares",
    "cpus",
    "cpuset",
    "depends_on",
    "deploy",
    "develop",
    "env_file",
    "expose",
    "image",
    "labels",
    "links",
    "logging",
    "mem_reservation",
    "memswap_limit",
    "name",
    "networks",
    "pids_limit",
    "ports",
    "profiles",
    "pull_policy",
    "restart",
    "scale",
    "secrets",
    "volumes",
];
/// Capabilities that affect only the container. Others reach the host, or the network of other containers.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_RESOURCE",
];
const NETWORK: &str = "default";

pub struct Inputs<'a> {
    pub manifest: &'a Manifest,
    pub loaded: &'a [Loaded],
    pub scratch: &'a Scratch,
}

pub struct Proof {
    pub config: Value,
    pub services: Vec<String>,
    pub left_out: Vec<String>,
}

/// Returns the name of the temporary project, always the same one, so that a killed verification is cleaned
/// up.
pub fn project_of(project: &str) -> String {
    format!("reversible-proof-{project}")
}

pub fn make(recorded: &Value, inputs: &Inputs<'_>) -> Result<Proof> {
    let mut left_out = BTreeSet::new();
    let all =
        recorded["services"].as_object().context("the recorded configuration has no services")?;
    // A container that had ended (a migration) is not started: its result is in the data.
    let runs = |name: &&String| inputs.manifest.services.get(*name).is_some_and(|one| one.running);
    let names: BTreeSet<&String> = all.keys().filter(runs).collect();
    let mut services = Map::new();
    for name in &names {
        let old =
            all[*name].as_object().with_context(|| format!("service {name} is not an object"))?;
        let mut builder =
            ServiceBuilder { name, old, inputs, names: &names, left_out: &mut left_out };
        services.insert((*name).clone(), Value::Object(builder.service()?));
    }
    let mut config = json!({
        "name": project_of(&inputs.manifest.project),
        "services": services,
        "networks": { NETWORK: { "internal": true } },
    });
    for kind in ["secrets", "configs"] {
        let kept = files_of(kind, &recorded[kind], inputs, &mut left_out);
        drop_unknown(&mut config["services"], kind, &kept);
        config[kind] = Value::Object(kept);
    }
    let services = names.into_iter().cloned().collect();
    Ok(Proof { config, services, left_out: left_out.into_iter().collect() })
}

struct ServiceBuilder<'a> {
    name: &'a str,
    old: &'a Map<String, Value>,
    inputs: &'a Inputs<'a>,
    names: &'a BTreeSet<&'a String>,
    left_out: &'a mut BTreeSet<String>,
}

impl ServiceBuilder<'_> {
    fn service(&mut self) -> Result<Map<String, Value>> {
        let mut new = Map::new();
        for (key, value) in self.old {
            if INSIDE.contains(&key.as_str()) {
                new.insert(key.clone(), value.clone());
            } else if !NOT_REPORTED.contains(&key.as_str())
                && !is_empty(value)
                && key != "network_mode"
            {
                self.left_out.insert(format!("{}: {key}", self.name));
            }
        }
        for kind in ["secrets", "configs"] {
            if let Some(value) = self.old.get(kind).filter(|value| !is_empty(value)) {
                new.insert(kind.into(), value.clone());
            }
        }
        new.insert("image".into(), json!(self.image()?));
        new.insert("pull_policy".into(), json!("never"));
        new.insert("restart".into(), json!("no"));
        new.insert("cap_add".into(), Value::Array(self.capabilities()));
        new.insert("volumes".into(), Value::Array(self.volumes()));
        new.insert("depends_on".into(), self.depends_on());
        new.insert("links".into(), Value::Array(self.links()));
        self.network(&mut new);
        Ok(new)
    }

    fn image(&self) -> Result<&str> {
        let record = self.inputs.manifest.services.get(self.name);
        let id = record.and_then(|record| record.image_id.as_ref());
        let loaded = self.inputs.loaded.iter().find(|one| Some(&one.id) == id);
        Ok(&loaded
            .with_context(|| format!("the image of {} is not in the backup", self.name))?
            .id_now)
    }

    fn capabilities(&mut self) -> Vec<Value> {
        let asked = self.old.get("cap_add").and_then(Value::as_array).cloned().unwrap_or_default();
        let (inside, outside): (Vec<_>, Vec<_>) = asked.into_iter().partition(|one| {
            let name = one.as_str().unwrap_or_default().to_uppercase();
            CAPABILITIES.contains(&name.trim_start_matches("CAP_"))
        });
        self.left_out.extend(
            outside.iter().map(|one| {
                format!("{}: capability {}", self.name, one.as_str().unwrap_or_default())
            }),
        );
        inside
    }

    /// Mounts copies of the backed-up data instead of the real data.
    fn volumes(&mut self) -> Vec<Value> {
        let mut volumes = Vec::new();
        let mut targets = BTreeSet::new();
        for mount in &self.inputs.manifest.mounts {
            for user in mount.users.iter().filter(|user| user.service == self.name) {
                let target = escaped(&user.target.display().to_string());
                let source = escaped(&self.inputs.scratch.of(mount).display().to_string());
                targets.insert(target.clone());
                volumes.push(json!({
                    "type": "bind",
                    "source": source,
                    "target": target,
                    "read_only": user.read_only,
                    "bind": { "create_host_path": false },
                }));
            }
        }
        let asked = self.old.get("volumes").and_then(Value::as_array);
        for one in asked.into_iter().flatten() {
            let target = one["target"].as_str().unwrap_or_default();
            if targets.contains(target) {
                continue;
            }
            match one["type"].as_str() {
                Some("tmpfs") => volumes.push(one.clone()),
                _ => drop(self.left_out.insert(format!("{}: the mount {target}", self.name))),
            }
        }
        volumes
    }

    fn depends_on(&self) -> Value {
        let mut kept = Map::new();
        match self.old.get("depends_on") {
            Some(Value::Object(map)) => {
                kept.extend(map.clone().into_iter().filter(|(name, _)| self.names.contains(name)));
            }
            Some(Value::Array(list)) => {
                for name in list.iter().filter_map(Value::as_str) {
                    if self.names.iter().any(|one| *one == name) {
                        kept.insert(name.into(), json!({ "condition": "service_started" }));
                    }
                }
            }
            _ => {}
        }
        for how in kept.values_mut().filter_map(Value::as_object_mut) {
            how.remove("restart");
        }
        Value::Object(kept)
    }

    /// Keeps links to services of the temporary project: `db`, or `db:alias`.
    fn links(&self) -> Vec<Value> {
        let asked = self.old.get("links").and_then(Value::as_array).cloned().unwrap_or_default();
        let exists = |one: &Value| {
            let to = one.as_str().and_then(|text| text.split(':').next());
            self.names.iter().any(|name| Some(name.as_str()) == to)
        };
        asked.into_iter().filter(exists).collect()
    }

    /// Connects the service to the one network, with all its aliases; or to another service's network.
    fn network(&mut self, new: &mut Map<String, Value>) {
        let mode = self.old.get("network_mode").and_then(Value::as_str).unwrap_or_default();
        let shared =
            mode.strip_prefix("service:").filter(|of| self.names.iter().any(|one| one == of));
        if shared.is_some() || mode == "none" {
            new.insert("network_mode".into(), json!(mode));
            return;
        }
        if !matches!(mode, "" | "bridge" | "default") {
            self.left_out.insert(format!("{}: network_mode {mode}", self.name));
        }
        let networks = self.old.get("networks").and_then(Value::as_object);
        let mut aliases: BTreeSet<&str> = networks
            .into_iter()
            .flat_map(Map::values)
            .flat_map(|one| one["aliases"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        aliases.extend(self.old.get("container_name").and_then(Value::as_str));
        new.insert("networks".into(), json!({ NETWORK: { "aliases": aliases } }));
    }
}

/// Returns the definitions of secrets or configs whose content is in the backup.
fn files_of(
    kind: &str,
    defined: &Value,
    inputs: &Inputs<'_>,
    left_out: &mut BTreeSet<String>,
) -> Map<String, Value> {
    let mut kept = Map::new();
    for (name, one) in defined.as_object().into_iter().flatten() {
        let file = one["file"].as_str().map(|path| PathBuf::from(path.replace("$$", "$")));
        let copy = file.and_then(|path| inputs.scratch.file(&path));
        if let Some(copy) = copy {
            kept.insert(name.clone(), json!({ "file": escaped(&copy.display().to_string()) }));
        } else if one["content"].is_string() {
            kept.insert(name.clone(), json!({ "content": one["content"] }));
        } else {
            left_out.insert(format!("{kind}: {name}"));
        }
    }
    kept
}

fn drop_unknown(services: &mut Value, kind: &str, kept: &Map<String, Value>) {
    for service in services.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Some(list) = service[kind].as_array_mut() {
            list.retain(|one| one["source"].as_str().is_some_and(|name| kept.contains_key(name)));
        } else if let Some(service) = service.as_object_mut() {
            service.remove(kind);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Escapes dollars, which would begin a variable.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests;
