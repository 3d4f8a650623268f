//! The containers of a proof: waiting until all run and are healthy, and taking them away.
//!
//! Invariant: what is removed bears the label of the proof's project, and nothing else does.

use crate::docker::Docker;
use crate::docker::inspect::{Container, PROJECT};
use anyhow::{Context, Result};
use host::deadline::{Deadline, TimedOut, poll_until, sleep};
use std::time::Duration;

const FIRST_LOOK: Duration = Duration::from_millis(200);
/// A service without a check that ends at once has been seen running: it is looked at again.
const SETTLE: Duration = Duration::from_secs(1);
const REMOVAL: Duration = Duration::from_secs(120);
const LAST_LINES: u64 = 20;

/// Why the project is not what it should be.
pub struct Trouble {
    pub sentence: String,
    /// Whose logs may say more.
    pub containers: Vec<String>,
}

/// `None` when all services run and are healthy.
pub fn wait(
    docker: &Docker,
    project: &str,
    services: &[String],
    patience: Duration,
) -> Result<Option<Trouble>> {
    let mut found = None;
    let what = "the services of the proof to be running and healthy";
    let seen = poll_until(Deadline::after(patience), FIRST_LOOK, what, || {
        found = look(docker, project, services)?;
        // It does not start again by itself: there is nothing to wait for.
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

/// What is wrong now, and whether it stays so.
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

/// What the containers in trouble have written last: for a person, as far as it can be had.
pub fn last_words(docker: &Docker, trouble: &Trouble) -> Vec<String> {
    let logs = trouble.containers.iter().filter_map(|id| docker.logs(id, LAST_LINES).ok());
    logs.flat_map(|log| {
        let text = String::from_utf8_lossy(&log).into_owned();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

/// Takes the project away: containers with their anonymous volumes, then networks.
pub fn remove(docker: &Docker, project: &str) -> Result<()> {
    let label = format!("label={PROJECT}={project}");
    let what = || format!("removing the throw-away project {project}");
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
