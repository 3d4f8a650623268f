//! The kinds of probes, one file each (or each program). Each implements [`Ask`].

use crate::observation::Ask;
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;

mod command;
mod disk;
mod docker;
mod http;
mod listener;
mod logs;
mod machines;
mod pods;
mod program;
mod prometheus;
mod restarts;
mod systemd;
mod tcp;
mod web;

pub const NAMES: &[&str] = &[
    "http",
    "tcp",
    "listener",
    "command",
    "docker",
    "compose",
    "incus",
    "pct",
    "disk",
    "unit",
    "prometheus",
    "alerts",
    "logs",
    "restarts",
    "pods",
];

pub fn parse(options: &mut ProbeOptions) -> Result<Box<dyn Ask>, Failure> {
    Ok(match options.kind.as_str() {
        "http" => Box::new(http::Http::parse(options)?),
        "tcp" => Box::new(tcp::Tcp::parse(options)?),
        "listener" => Box::new(listener::Listener::parse(options)?),
        "command" => Box::new(command::Command::parse(options)?),
        "docker" => Box::new(docker::Docker::parse(options)?),
        "compose" => Box::new(docker::Compose::parse(options)?),
        "incus" => Box::new(machines::Incus::parse(options)?),
        "pct" => Box::new(machines::Pct::parse(options)?),
        "disk" => Box::new(disk::Disk::parse(options)?),
        "unit" => Box::new(systemd::UnitState::parse(options)?),
        "prometheus" => Box::new(prometheus::Prometheus::parse(options)?),
        "alerts" => Box::new(prometheus::Alerts::parse(options)?),
        "logs" => Box::new(logs::Logs::parse(options)?),
        "restarts" => Box::new(restarts::Restarts::parse(options)?),
        "pods" => Box::new(pods::Pods::parse(options)?),
        kind => return Err(options.refuse(format!("there is no kind {kind}"))),
    })
}
