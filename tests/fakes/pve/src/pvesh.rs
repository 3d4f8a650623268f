//! `pvesh get <path>`: which paths are asked for, and what they take.

use crate::api;
use crate::args::{self, Shape};
use crate::call::Call;
use crate::fail::Fail;

/// A path that is asked for, and which options it takes.
const ROUTES: [(&str, &[&str]); 11] = [
    ("cluster/status", &[]),
    ("cluster/resources", &["type"]),
    ("storage", &[]),
    ("storage/{storage}", &[]),
    ("nodes/{node}/storage/{storage}/status", &[]),
    ("nodes/{node}/replication", &["guest"]),
    ("nodes/{node}/tasks", &["vmid", "source"]),
    ("nodes/{node}/lxc", &[]),
    ("nodes/{node}/lxc/{vmid}/config", &["snapshot", "current"]),
    ("nodes/{node}/lxc/{vmid}/status/current", &[]),
    ("nodes/{node}/lxc/{vmid}/snapshot", &[]),
];

pub fn run(call: &Call) -> Result<i32, Fail> {
    let mut words = call.argv.iter().skip_while(|word| *word == "--noproxy");
    let Some(method) = words.next() else {
        return Err(Fail::died("ERROR: no command specified"));
    };
    if matches!(method.as_str(), "create" | "delete" | "ls" | "usage" | "set" | "help") {
        return Err(Fail::fake(format!("pvesh {method} is not part of this fake")));
    }
    if method != "get" {
        return Err(Fail::died(format!("ERROR: unknown command 'pvesh {method}'")));
    }
    let rest: Vec<String> = words.cloned().collect();
    let path = rest.first().map_or("", String::as_str);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let Some((pattern, takes)) = route(&parts) else {
        return Err(Fail::new(1, format!("No '{method}' handler defined for '{path}'")));
    };
    let values = [takes, &["output-format"]].concat();
    let shape = Shape {
        usage: "pvesh <COMMAND> <api_path> [OPTIONS] [FORMAT_OPTIONS]",
        words: &["api_path"],
        values: &values,
        flags: &["noproxy"],
    };
    let args = args::parse(&shape, &rest)?;
    let vars = variables(pattern, &parts);
    check(call, &shape, &vars)?;
    let answer = api::get(&call.world()?, pattern, &vars, &args)?;
    if args.value("output-format") != Some("json") {
        return Err(Fail::fake("pvesh answers with --output-format json only"));
    }
    call.say(&format!("{answer}\n"));
    call.point("end")?;
    Ok(0)
}

fn route(parts: &[&str]) -> Option<(&'static str, &'static [&'static str])> {
    let fits = |pattern: &str| {
        let wanted: Vec<&str> = pattern.split('/').collect();
        wanted.len() == parts.len()
            && wanted.iter().zip(parts).all(|(want, part)| want.starts_with('{') || want == part)
    };
    ROUTES.into_iter().find(|(pattern, _)| fits(pattern))
}

/// What stands in the path.
#[derive(Debug, Default)]
pub struct Variables {
    pub node: Option<String>,
    pub vmid: Option<String>,
    pub storage: String,
}

impl Variables {
    pub fn vmid(&self) -> u32 {
        self.vmid.as_ref().and_then(|vmid| vmid.parse().ok()).unwrap_or_default()
    }
}

fn variables(pattern: &str, parts: &[&str]) -> Variables {
    let mut vars = Variables::default();
    for (want, part) in pattern.split('/').zip(parts) {
        let part = (*part).to_owned();
        match want {
            "{node}" => vars.node = Some(part),
            "{vmid}" => vars.vmid = Some(part),
            "{storage}" => vars.storage = part,
            _ => {}
        }
    }
    vars
}

fn check(call: &Call, shape: &Shape, vars: &Variables) -> Result<(), Fail> {
    if let Some(why) = vars.vmid.as_ref().and_then(|word| args::vmid(word)) {
        let text = format!("400 Parameter verification failed.\nvmid: {why}\n{}", shape.usage);
        return Err(Fail::new(2, text));
    }
    let world = call.world()?;
    match vars.node.as_deref() {
        None | Some("localhost") => Ok(()),
        Some(node) if node == world.node => Ok(()),
        Some(node) if world.nodes.iter().any(|other| other == node) => {
            // The real one asks that node over ssh.
            Err(Fail::died(
                "ssh: connect to host 192.0.2.2 port 22: No route to host\nproxy handler failed",
            ))
        }
        Some(node) => Err(Fail::died(format!(
            "hostname lookup '{node}' failed - failed to get address info for: {node}: \
             Name or service not known"
        ))),
    }
}
