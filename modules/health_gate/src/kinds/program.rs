//! Runs programs that only read, for several kinds.
//!
//! Invariant: a program that is missing, does not end in time or prints what cannot be understood is a
//! failure with a reason, never an answer.

use host::command::{Command, IfWeDie, Output};
use host::deadline::Deadline;
use host::program;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a program that only reads may take to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(500);
/// Limit for an answer that is parsed.
const MAX_ANSWER: usize = 16 << 20;

/// Variables that say which daemon a client talks to.
const CLIENTS: [&str; 10] = [
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "INCUS_CONF",
    "INCUS_DIR",
    "INCUS_REMOTE",
    "INCUS_SOCKET",
    "XDG_RUNTIME_DIR",
];

pub fn command(name: &str, deadline: Deadline) -> Result<Command, String> {
    // A short message, since many probes may fail in the same way.
    let program = program::find(name)
        .map_err(|_| format!("cannot run {name}: this machine has no such program"))?;
    Ok(Command::new(&program)
        .inherit_env(&CLIENTS)
        .deadline(deadline)
        .grace(GRACE)
        .output_limit(MAX_ANSWER)
        // It ends with the thread that started it.
        .if_we_die(IfWeDie::DiesToo))
}

pub fn run(command: &Command) -> Result<Output, String> {
    command.run().map_err(|failed| failed.to_string())
}

pub fn text(name: &str, args: &[&str], deadline: Deadline) -> Result<String, String> {
    let output = run(&command(name, deadline)?.args(args))?;
    output.text().map(str::to_owned).map_err(|why| why.to_string())
}

pub fn json<T: DeserializeOwned>(
    name: &str,
    args: &[&str],
    deadline: Deadline,
) -> Result<T, String> {
    let output = run(&command(name, deadline)?.args(args))?;
    output.json().map_err(|why| format!("{why:#}"))
}
