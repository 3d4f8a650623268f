//! `pvesh get|create|delete <path>`: which paths there are, and what they take. Invariant: `create`
//! and `delete` end with 0 whatever became of their task, as the real ones do.

use crate::api;
use crate::args::{self, Args, Shape};
use crate::call::Call;
use crate::fail::Fail;
use crate::pct;
use crate::task;
use serde_json::{Value, json};

/// Method, path, what it takes.
const ROUTES: [(&str, &str, &[&str]); 27] = [
    ("get", "version", &[]),
    ("get", "nodes", &[]),
    ("get", "nodes/{node}/version", &[]),
    ("get", "cluster/status", &[]),
    ("get", "cluster/resources", &["type"]),
    ("get", "cluster/replication", &[]),
    ("get", "cluster/ha/resources", &["type"]),
    ("get", "cluster/ha/resources/{sid}", &[]),
    ("get", "storage", &["type"]),
    ("get", "storage/{storage}", &[]),
    ("get", "nodes/{node}/storage", &["content", "storage", "enabled", "format", "target"]),
    ("get", "nodes/{node}/storage/{storage}/status", &[]),
    ("get", "nodes/{node}/replication", &["guest"]),
    ("get", "nodes/{node}/tasks", &["vmid", "source", "limit", "start", "typefilter"]),
    ("get", "nodes/{node}/tasks/{upid}/status", &[]),
    ("get", "nodes/{node}/lxc", &[]),
    ("get", "nodes/{node}/lxc/{vmid}/config", &["snapshot", "current"]),
    ("get", "nodes/{node}/lxc/{vmid}/status/current", &[]),
    ("get", "nodes/{node}/lxc/{vmid}/feature", &["feature", "snapname"]),
    ("get", "nodes/{node}/lxc/{vmid}/snapshot", &[]),
    ("get", "nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config", &[]),
    ("create", "nodes/{node}/lxc/{vmid}/snapshot", &["snapname", "description"]),
    ("create", "nodes/{node}/lxc/{vmid}/snapshot/{snapname}/rollback", &["start"]),
    ("delete", "nodes/{node}/lxc/{vmid}/snapshot/{snapname}", &["force"]),
    ("create", "nodes/{node}/lxc/{vmid}/status/start", &["skiplock", "debug"]),
    ("create", "nodes/{node}/lxc/{vmid}/status/stop", &["skiplock", "overrule-shutdown"]),
    ("create", "nodes/{node}/lxc/{vmid}/status/shutdown", &["timeout", "forceStop"]),
];

pub fn run(call: &Call) -> Result<i32, Fail> {
    let mut words = call.argv.iter().skip_while(|word| *word == "--noproxy");
    let Some(method) = words.next() else {
        return Err(Fail::died("ERROR: no command specified"));
    };
    if matches!(method.as_str(), "ls" | "usage" | "set" | "help") {
        return Err(Fail::fake(format!("pvesh {method} is not part of this fake")));
    }
    if !matches!(method.as_str(), "get" | "create" | "delete") {
        return Err(Fail::died(format!("ERROR: unknown command 'pvesh {method}'")));
    }
    let rest: Vec<String> = words.cloned().collect();
    let path = rest.first().map_or("", String::as_str);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let Some((pattern, takes)) = route(method, &parts) else {
        return Err(Fail::new(1, format!("No '{method}' handler defined for '{path}'")));
    };
    let values = [takes, &["output-format"]].concat();
    let shape = Shape {
        usage: "pvesh <COMMAND> <api_path> [OPTIONS] [FORMAT_OPTIONS]",
        words: &["api_path"],
        values: &values,
        flags: &["noproxy", "quiet"],
    };
    let args = args::parse(&shape, &rest)?;
    let vars = variables(pattern, &parts);
    check(call, &shape, &vars)?;
    if method == "get" {
        let answer = api::get(&call.world()?, pattern, &vars, &args)?;
        tell(call, &args, &answer)?;
    } else {
        work(call, pattern, &vars, &args)?;
    }
    if !call.worker {
        call.point("end")?;
    }
    Ok(0)
}

fn route(method: &str, parts: &[&str]) -> Option<(&'static str, &'static [&'static str])> {
    let fits = |pattern: &str| {
        let wanted: Vec<&str> = pattern.split('/').collect();
        wanted.len() == parts.len()
            && wanted.iter().zip(parts).all(|(want, part)| want.starts_with('{') || want == part)
    };
    let found = ROUTES.iter().find(|(verb, pattern, _)| *verb == method && fits(pattern));
    found.map(|(_, pattern, takes)| (*pattern, *takes))
}

/// What stands in the path.
#[derive(Debug, Default)]
pub struct Variables {
    pub node: Option<String>,
    pub vmid: Option<String>,
    pub snapname: Option<String>,
    /// A storage, a resource of HA or a task.
    pub other: String,
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
            "{snapname}" => vars.snapname = Some(part),
            _ if want.starts_with('{') => vars.other = part,
            _ => {}
        }
    }
    vars
}

fn check(call: &Call, shape: &Shape, vars: &Variables) -> Result<(), Fail> {
    let vmid = vars.vmid.as_ref().and_then(|word| args::vmid(word)).map(|why| ("vmid", why));
    let name = vars.snapname.as_ref().and_then(|word| args::snapshot_name(word));
    if let Some((name, why)) = vmid.or(name.map(|why| ("snapname", why))) {
        let text = format!("400 Parameter verification failed.\n{name}: {why}\n{}", shape.usage);
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

fn tell(call: &Call, args: &Args, answer: &Value) -> Result<(), Fail> {
    if args.flag("quiet") {
        return Ok(());
    }
    let text = match args.value("output-format") {
        Some("json") => format!("{answer}\n"),
        Some("json-pretty") => format!("{}\n", serde_json::to_string_pretty(answer)?),
        _ => match answer {
            Value::String(text) => format!("{text}\n"),
            _ => return Err(Fail::fake("pvesh answers with --output-format json only")),
        },
    };
    call.say(&text);
    Ok(())
}

/// A task, by way of the same arguments that `pct` takes.
fn work(call: &Call, pattern: &str, vars: &Variables, given: &Args) -> Result<(), Fail> {
    let mut words = vec![vars.vmid.clone().unwrap_or_default()];
    let named = vars.snapname.as_deref().or(given.value("snapname"));
    words.extend(named.map(str::to_owned));
    for option in ["description", "start", "force", "timeout", "forceStop"] {
        words.extend(given.value(option).map(|value| format!("--{option}={value}")));
    }
    let (shape, act): (&Shape, pct::Work) = match pattern.rsplit('/').next() {
        Some("snapshot") => (&pct::SNAPSHOT, pct::snapshot),
        Some("rollback") => (&pct::ROLLBACK, pct::rollback),
        Some("{snapname}") => (&pct::DELSNAPSHOT, pct::delsnapshot),
        Some("start") => (&pct::START, pct::start),
        Some("stop") => (&pct::STOP, pct::stop),
        Some("shutdown") => (&pct::SHUTDOWN, pct::shutdown),
        _ => return Err(Fail::fake(format!("{pattern} is in no table"))),
    };
    let task = act(call, &args::parse(shape, &words)?)?;
    if call.worker {
        return Ok(());
    }
    if let Err(fail) = task::report(call, &task) {
        call.warn(&format!("{}\n", fail.text));
    }
    tell(call, given, &json!(task.upid))
}
