//! `specimen`: a module for tests only. It has an option of every type and behaves as badly as it
//! is told to; with `file` it makes a small real change with loss, consent, intent and rollback.

mod options;
mod replace;

use ansible_module::{Failure, Invocation, Outcome, Served, serve};
use anyhow::Result;
use host::command::Command;
use serde_json::{Map, Value};
use std::env;
use std::io::{self, Write};
use std::process::{self, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    serve(
        env!("CARGO_PKG_NAME"),
        &[Served { spec: &options::MODULE, run }, Served { spec: &options::INFO, run: info }],
    )
}

fn info(_: &Invocation) -> Result<Outcome> {
    Ok(Outcome::default().fact("uid", nix_uid()))
}

fn nix_uid() -> u32 {
    // Of the process itself, by its own folder: no library is needed for a test.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or(u32::MAX, |meta| meta.uid())
}

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = &invocation.options;
    let behave: String = options.get("behave")?;
    let secret: Option<String> = options.get("secret")?;
    let seconds = options.seconds("seconds")?;
    match behave.as_str() {
        "replace" => return replace::run(invocation),
        "fail" => {
            let failure = Failure::new("told_to", format!("told to fail, with {secret:?}"));
            return Err(failure.with("evidence", secret).into());
        }
        "panic" => panic!("told to panic, with {secret:?}"),
        "exit" => process::exit(7),
        "garbage" => raw(b"\xff\xfe this is no JSON\n", 0),
        "partial" => raw(b"{\"changed\": fal", 0),
        "silent" => raw(b"", 0),
        "sleep" => host::deadline::sleep(seconds)?,
        // Deaf to signals, as a module stuck in a system call is.
        "stuck" => std::thread::sleep(seconds),
        "child_fails" => {
            let script = "read -r secret; echo out; echo \"$secret err\" >&2; exit 3";
            drop(shell(script, &secret, seconds)?);
        }
        "child_hangs" => drop(shell("sleep 600", &secret, seconds)?),
        "child_floods" => {
            let output = shell("head -c 300000000 /dev/zero", &secret, Duration::from_secs(60))?;
            return Ok(Outcome::default().fact("kept", output.stdout.len()));
        }
        "child_leaves_grandchild" => {
            let output = shell("sleep 600 & echo $!", &secret, Duration::from_secs(60))?;
            return Ok(Outcome::default().fact("grandchild", output.stdout_shown()));
        }
        _ => {}
    }
    let mut echoed = Map::new();
    for option in options::MODULE.all_options() {
        echoed.insert(option.name.to_owned(), options.get::<Value>(option.name)?);
    }
    let environment: Map<String, Value> = env::vars()
        .filter(|(name, _)| name.starts_with("SPECIMEN_"))
        .map(|(name, value)| (name, value.into()))
        .collect();
    let mut outcome = Outcome { changed: options.get("changed")?, ..Outcome::default() };
    if let Some(warning) = options.get("warning")? {
        outcome.warnings.push(warning);
    }
    Ok(outcome
        .fact("echo", echoed)
        .fact("environment", environment)
        .fact("uid", nix_uid())
        .fact("cwd", env::current_dir()?.display().to_string())
        .fact("check_mode", invocation.check_mode)
        .fact("diff_mode", invocation.diff)
        .fact("verbosity", invocation.verbosity))
}

/// The one place of the project that calls a shell: the child is what is tested.
fn shell(
    script: &str,
    secret: &Option<String>,
    deadline: Duration,
) -> Result<host::command::Output> {
    let program = host::program::find("sh")?;
    let mut command = Command::new(&program).arg("-c").arg(script).deadline(deadline);
    if let Some(secret) = secret {
        command = command.stdin(format!("{secret}\n")).secret(secret);
    }
    Ok(command.run()?)
}

fn raw(bytes: &[u8], code: i32) -> ! {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    process::exit(code)
}
