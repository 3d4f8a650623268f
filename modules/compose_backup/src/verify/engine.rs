//! The containers of a verification: waits until all run and are healthy, and removes them.
//!
//! Invariant: only objects with the label of the temporary project are removed, and nothing else has it.

use crate::docker::Docker;
use crate::docker::inspect::{Container, PROJECT};
use anyhow::{Context, Result};
use host::deadline::{Deadline, TimedOut, poll_until, sleep};
use std::time::Duration;

const FIRST_LOOK: Duration = Duration::from_millis(200);
/// How long to wait before looking again: a service without a health check may end right after its start.
const SETTLE: Duration = Duration::from_secs(1);
const REMOVAL: Duration = Duration::from_secs(120);
const LAST_LINES: u64 = 20;

/// Why the temporary project does not run.
pub struct Trouble {
    pub sentence: String,
    /// The containers whose logs may say more.
    pub containers: Vec<String>,
}

/// Waits until all services run and are healthy; returns why they do not.
pub fn wait(
    docker: &Docker,
    project: &str,
    services: &[String],
    patience: Duration,
) -> Result<Option<Trouble>> {
    let mut found = None;
    let what = "the services of the verification to be running and healthy";
    let seen = poll_until(Deadline::after(patience), FIRST_LOOK, what, || {
        found = look(docker, project, services)?;
        // A container that has ended is not restarted: waiting longer is useless.
        let ended = found.as_ref().is_some_and(|(_, ended)| *ended);
        Ok((found.is_none() || ended).then_some(()))
    });
    match seen {
        Err(error) if error.downcast_ref::<TimedOut>().is_none() => return Err(error),
        _ => {}
    }
    if found.is_none() {
        sleep(SETTLE)?;
        found = look(docker, project, services)?;
    }
    Ok(found.map(|(trouble, _)| trouble))
}

/// Returns what is wrong now, and whether a container has ended.
fn look(docker: &Docker, project: &str, services: &[String]) -> Result<Option<(Trouble, bool)>> {
    let containers = docker.containers_of(project)?;
    let mut wrong = Trouble { sentence: String::new(), containers: Vec::new() };
    let (mut sentences, mut ended) = (Vec::new(), false);
    for name in services {
        let mine: Vec<&Container> =
            containers.iter().filter(|one| one.service() == Some(name)).collect();
        if mine.is_empty() {
            sentences.push(format!("{name} has no container"));
        }
        for one in mine {
            let health = one.health().unwrap_or("healthy");
            if one.is_up() && health == "healthy" {
                continue;
            }
            let state = one.state.status.as_str();
            ended |= state == "exited" || state == "dead";
            sentences.push(match state {
                "exited" => format!("{name} has ended with {}", one.state.exit_code),
                "running" => format!("{name} is {health}"),
                other => format!("{name} is {other}"),
            });
            wrong.containers.push(one.id.clone());
        }
    }
    wrong.sentence = sentences.join(", ");
    Ok((!wrong.sentence.is_empty()).then_some((wrong, ended)))
}

/// Returns the last lines of the logs of failed containers, as far as they can be read.
pub fn last_log_lines(docker: &Docker, trouble: &Trouble) -> Vec<String> {
    let logs = trouble.containers.iter().filter_map(|id| docker.logs(id, LAST_LINES).ok());
    logs.flat_map(|log| {
        let text = String::from_utf8_lossy(&log).into_owned();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

/// Removes the temporary project: containers with their anonymous volumes, then networks.
pub fn remove(docker: &Docker, project: &str) -> Result<()> {
    let label = format!("label={PROJECT}={project}");
    let what = || format!("removing the temporary project {project}");
    let listed = |words: &[&str]| -> Result<Vec<String>> {
        let out = docker.run(docker.command().args(words).args([
            "--quiet",
            "--no-trunc",
            "--filter",
            &label,
        ]))?;
        Ok(out.text()?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    };
    let containers = listed(&["container", "ls", "--all"]).with_context(what)?;
    if !containers.is_empty() {
        let gone = docker.command().deadline(REMOVAL).args([
            "container",
            "rm",
            "--force",
            "--volumes",
            "--",
        ]);
        docker.run(gone.args(&containers)).with_context(what)?;
    }
    for network in listed(&["network", "ls"]).with_context(what)? {
        let gone = docker.command().args(["network", "rm", "--", &network]);
        docker.run(gone).with_context(what)?;
    }
    Ok(())
}
