//! The kinds of probes, one file each (or each program). All are asked in the same way: [`Ask`].

use crate::probe_options::ProbeOptions;
use crate::seen::Ask;
use ansible_module::Failure;

mod command;
mod disk;
mod docker;
mod http;
mod listener;
mod logs;
mod machines;
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
];

pub fn parse(given: &mut ProbeOptions) -> Result<Box<dyn Ask>, Failure> {
    Ok(match given.kind.as_str() {
        "http" => Box::new(http::Http::parse(given)?),
        "tcp" => Box::new(tcp::Tcp::parse(given)?),
        "listener" => Box::new(listener::Listener::parse(given)?),
        "command" => Box::new(command::Command::parse(given)?),
        "docker" => Box::new(docker::Docker::parse(given)?),
        "compose" => Box::new(docker::Compose::parse(given)?),
        "incus" => Box::new(machines::Incus::parse(given)?),
        "pct" => Box::new(machines::Pct::parse(given)?),
        "disk" => Box::new(disk::Disk::parse(given)?),
        "unit" => Box::new(systemd::UnitState::parse(given)?),
        "prometheus" => Box::new(prometheus::Prometheus::parse(given)?),
        "alerts" => Box::new(prometheus::Alerts::parse(given)?),
        "logs" => Box::new(logs::Logs::parse(given)?),
        "restarts" => Box::new(restarts::Restarts::parse(given)?),
        kind => return Err(given.refuse(format!("there is no kind {kind}"))),
    })
}
