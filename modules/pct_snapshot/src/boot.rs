//! Starts a container and verifies that it runs, has booted, and that `ready` succeeds. Errors contain the last
//! lines of its log.

use crate::freezer;
use crate::pct::{Pct, PveError, explained};
use crate::read::Reader;
use ansible_module::Failure;
use anyhow::Result;
use host::command::{Command, IfWeDie, Output};
use host::deadline::{Deadline, FIRST_PAUSE, TimedOut, poll_until};
use host::program;
use std::time::{Duration, Instant};

/// How long a started container may take to be reported as running, on an overloaded node.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// For how long `systemctl` must say `offline` to count as a container without systemd: it also says so before
/// systemd has started.
const OFFLINE_FOR: Duration = Duration::from_secs(3);
const LOG_LINES: &str = "20";
const MAX_LINES: usize = 20;
const LOG: Duration = Duration::from_secs(10);

/// Starts the container and checks that it runs: exit code 0 of `pct start` is no proof.
pub fn start(reader: &Reader) -> Result<()> {
    let pct = &reader.pct;
    let failed = pct.start().err();
    let up = wait_for(reader, true, if failed.is_some() { Duration::ZERO } else { START_TIMEOUT })?;
    if up {
        return Ok(());
    }
    // The other messages of LXC do not explain the failure.
    let msg = format!("CT {0} does not start (`pct start {0} --debug` shows why)", pct.vmid);
    let failure = match failed {
        Some(failed) if PveError::of(&failed) == PveError::Other => {
            Failure::new("start_failed", msg).caused_by(failed.into())
        }
        Some(failed) => explained(failed, &msg),
        None => Failure::new("start_failed", format!("{msg}, though pct start ended with 0")),
    };
    Err(failure.with("log", of_node(pct)).into())
}

/// Waits until the container runs or has stopped; returns false after the timeout.
pub fn wait_for(reader: &Reader, running: bool, patience: Duration) -> Result<bool> {
    let what = if running { "the container to run" } else { "the container to stop" };
    let came = poll_until(Deadline::after(patience), FIRST_PAUSE, what, || {
        Ok((reader.running()? == running).then_some(()))
    });
    match came {
        Ok(()) => Ok(true),
        Err(error) if error.downcast_ref::<TimedOut>().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ready,
    /// Not ready yet, with its output.
    NotYet(String),
    /// There is no systemd, or it has not started yet.
    Offline,
    /// The container has stopped.
    Gone,
}

/// Waits until the container has booted, or until `ready` ends with 0.
pub fn wait_until_ready(reader: &Reader, ready: &[String], patience: Duration) -> Result<()> {
    let (pct, deadline) = (&reader.pct, Deadline::after(patience));
    let systemd = ["systemctl".to_owned(), "is-system-running".to_owned()];
    let argv = if ready.is_empty() { &systemd } else { ready };
    let (mut said, mut offline_since) = (None, None);
    let waited = poll_until(deadline, FIRST_PAUSE, &argv.join(" "), || {
        let output = match pct.exec(argv, deadline) {
            Ok(output) => output,
            Err(failed) if failed.reason() == "timed_out" => {
                // Its earlier output says more, unless the container is frozen.
                if freezer::is_frozen(pct.vmid)? {
                    said = Some(format!(
                        "it is frozen, and `{}` thaws it",
                        freezer::by_hand(pct.vmid)
                    ));
                }
                said.get_or_insert_with(|| "it hangs".to_owned());
                return Ok(None);
            }
            Err(failed) => return Err(failed.into()),
        };
        let answer = if ready.is_empty() { booted(&output) } else { held(&output) };
        match answer {
            Answer::Ready => Ok(Some(())),
            Answer::NotYet(words) => {
                said = Some(words);
                Ok(None)
            }
            Answer::Offline => {
                said = Some("offline".to_owned());
                let since = *offline_since.get_or_insert_with(Instant::now);
                Ok((since.elapsed() >= OFFLINE_FOR).then_some(()))
            }
            Answer::Gone => match wait_for(reader, true, Duration::ZERO)? {
                true => Ok(None),
                false => Err(Failure::new("start_failed", "it stopped again while it booted")
                    .with("log", of_node(pct))
                    .into()),
            },
        }
    });
    waited.map_err(|error| match error.downcast_ref::<TimedOut>() {
        Some(late) => {
            let msg = format!(
                "CT {} runs, but is not ready after {} ({}: {})",
                pct.vmid,
                host::deadline::seconds(late.waited),
                argv.join(" "),
                said.unwrap_or_default()
            );
            Failure::new("not_ready", msg).with("log", of_container(pct)).into()
        }
        None => error,
    })
}

/// Parses the state of systemd; without systemd a command that could be run is enough.
fn booted(output: &Output) -> Answer {
    let word = output.stdout_shown().trim().to_owned();
    match word.as_str() {
        "running" | "degraded" => Answer::Ready,
        _ if is_gone(output) => Answer::Gone,
        "offline" => Answer::Offline,
        _ if output.rc == 127 => Answer::Ready,
        "" => Answer::NotYet(last_line(&output.stderr_shown())),
        _ => Answer::NotYet(word),
    }
}

fn held(output: &Output) -> Answer {
    match output.rc {
        0 => Answer::Ready,
        _ if is_gone(output) => Answer::Gone,
        rc => {
            let words = format!("{}\n{}", output.stdout_shown(), output.stderr_shown());
            Answer::NotYet(format!("rc {rc} {}", last_line(&words)).trim_end().to_owned())
        }
    }
}

/// Whether pct says `container '101' not running!`.
fn is_gone(output: &Output) -> bool {
    output.rc == 255 && output.stderr_shown().contains("not running")
}

fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("");
    line.chars().take(200).collect()
}

/// Reads the node's logs of the container's last start: systemd's lines are in its journal, and those of LXC,
/// with the reason, in a file that the container's unit writes.
fn of_node(pct: &Pct) -> Vec<String> {
    let mut log = of_journal(pct);
    let file = format!("/run/pve/ct-{}.stderr", pct.vmid);
    let said = std::fs::read(file).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.lines().rev().take(MAX_LINES).collect();
    log.extend(last.into_iter().rev().map(str::to_owned));
    log
}

fn of_journal(pct: &Pct) -> Vec<String> {
    let journalctl = match program::look("journalctl") {
        Ok(Ok(journalctl)) => journalctl,
        Ok(Err(_)) => return Vec::new(),
        Err(refused) => return vec![refused.to_string()],
    };
    let unit = format!("pve-container@{}.service", pct.vmid);
    let command = Command::new(&journalctl)
        .args(["-u", &unit, "-n", LOG_LINES, "--no-pager", "-o", "cat"])
        .deadline(LOG)
        .if_we_die(IfWeDie::DiesToo);
    // Only evidence: the failure is reported without it too.
    lines(command.run().ok())
}

/// Reads the journal in the container.
fn of_container(pct: &Pct) -> Vec<String> {
    let argv = ["journalctl", "-n", LOG_LINES, "--no-pager", "-o", "cat"].map(str::to_owned);
    lines(pct.exec(&argv, Deadline::after(LOG)).ok().filter(|output| output.rc == 0))
}

fn lines(output: Option<Output>) -> Vec<String> {
    output.map(|seen| seen.stdout_shown().lines().map(str::to_owned).collect()).unwrap_or_default()
}
