//! `incus` and `pct`: a system container runs. What runs inside of it is checked by the other kinds, run
//! there or through `command`.

use super::program;
use crate::observation::{Ask, Observation, Try, shown};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use serde_json::Value;
use std::fs;

pub struct Incus {
    instance: Instance,
}

/// An Incus instance, and its project if it is not the default one.
#[derive(Debug)]
pub struct Instance {
    pub name: String,
    pub project: Option<String>,
}

impl Instance {
    pub fn parse(options: &mut ProbeOptions) -> Result<Option<Instance>, Failure> {
        let Some(name) = options.word("instance")? else { return Ok(None) };
        Ok(Some(Instance { name, project: options.word("project")? }))
    }
}

impl Incus {
    pub fn parse(options: &mut ProbeOptions) -> Result<Incus, Failure> {
        let instance = Instance::parse(options)?;
        let instance =
            instance.ok_or_else(|| options.refuse("kind incus needs instance".into()))?;
        Ok(Incus { instance })
    }
}

impl Ask for Incus {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let Instance { name, project } = &self.instance;
        // `incus list` takes a name as a pattern, so the names in its output are compared exactly.
        let mut args = vec!["list", name.as_str(), "--format", "json"];
        args.extend(project.iter().flat_map(|project| ["--project", project.as_str()]));
        let all: Vec<Value> = program::json("incus", &args, now.deadline())?;
        let found = all.iter().find(|one| one["name"] == name.as_str());
        // For a project that does not exist, `incus list` prints an empty list and no error.
        let Some(found) = found else {
            let within = project.as_ref().map(|project| format!(" in the project {project}"));
            return Err(format!("there is no instance {name}{}", within.unwrap_or_default()));
        };
        running(name, found["status"].as_str(), "Running")
    }
}

pub struct Pct {
    vmid: Vmid,
    node: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Vmid(pub u64);

impl Vmid {
    pub fn parse(options: &mut ProbeOptions) -> Result<Option<Vmid>, Failure> {
        match options.integer("vmid", 100)? {
            Some(vmid) if vmid > 999_999_999 => {
                Err(options.bad("vmid", format!("expected 100 to 999999999, got {vmid}")))
            }
            vmid => Ok(vmid.map(Vmid)),
        }
    }
}

impl Pct {
    pub fn parse(options: &mut ProbeOptions) -> Result<Pct, Failure> {
        let vmid =
            Vmid::parse(options)?.ok_or_else(|| options.refuse("kind pct needs vmid".into()))?;
        Ok(Pct { vmid, node: options.word("node")? })
    }
}

impl Ask for Pct {
    fn ask(&self, now: &Try<'_>) -> Result<Observation, String> {
        let node = match &self.node {
            Some(node) => node.clone(),
            None => this_node()?,
        };
        let vmid = self.vmid.0;
        let path = format!("/nodes/{node}/lxc/{vmid}/status/current");
        let args = ["get", &path, "--output-format", "json"];
        let status: Value = program::json("pvesh", &args, now.deadline())?;
        running(&vmid.to_string(), status["status"].as_str(), "running")
    }
}

/// Returns the name of this Proxmox node, which is the short name of its host.
fn this_node() -> Result<String, String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|why| format!("cannot read this machine's name: {why}"))?;
    Ok(name.trim().split('.').next().unwrap_or_default().to_owned())
}

fn running(name: &str, status: Option<&str>, expected: &str) -> Result<Observation, String> {
    let status = status.ok_or_else(|| format!("{name} has no status"))?;
    let verdict = match status == expected {
        true => Ok(()),
        false => Err(format!("{name} is {}, not running", shown(status).to_lowercase())),
    };
    Ok(Observation::new(status.to_lowercase()).judged(verdict))
}
