//! `host_command`: runs one program and returns what it printed, on a target without Python.
//!
//! It neither plans nor verifies: only the caller knows what the program changes.
//! Invariants: no shell; messages contain no arguments, no input and no environment.

mod options;
mod spec;

use ansible_module::{Failure, Invocation, Outcome, Served};
use anyhow::{Error, Result};
use host::command::{Command, Failed};
use host::program;
use options::{Options, Program};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The modules that this crate serves.
pub const MODULES: &[Served] = &[Served { spec: &spec::MODULE, run }];

/// Limit for each output.
const MOST_PRINTED: usize = 16 << 20;
/// Limit for the line of output that a message quotes.
const LONGEST: usize = 300;
/// The code with which a shell reports a missing program.
const NOT_RUN: i32 = 127;

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = Options::parse(&invocation.options)?;
    if options.removes.as_deref().is_some_and(|path| path.symlink_metadata().is_err()) {
        return Ok(not_run(&options, "it is not run: what it removes is not there"));
    }
    if invocation.check_mode {
        return Ok(not_run(&options, "it would have been run"));
    }
    let name = match &options.program {
        Program::Name(name) => program::find(name).map_err(|why| did_not_run(why, &options))?,
        Program::Path(path) => path.clone(),
    };
    // Every exit code is accepted here: this module makes the error itself.
    let accepted: Vec<i32> = (0..=255).collect();
    let mut command = Command::new(&name)
        .args(&options.args)
        .accept(&accepted)
        .output_limit(MOST_PRINTED)
        .deadline(options.deadline)
        .env("LC_ALL", "C.UTF-8")
        .env("LANGUAGE", "");
    // PATH is set by us, without folders in which another user could put programs for root to run.
    for (key, value) in std::env::vars_os().filter(|(key, _)| key != "PATH") {
        command = command.env(key, value);
    }
    if let Some(text) = &options.stdin {
        command = command.stdin(text.as_bytes());
    }
    if let Some(folder) = &options.chdir {
        command = command.cwd(folder);
    }
    let output = command.run().map_err(|failed| ended(&failed, &options))?;
    let printed = Printed {
        rc: output.rc,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    if output.rc != 0 {
        let how = format!("ended with {}", output.rc);
        return Err(printed.failure("command_failed", &how, &options).into());
    }
    let mut facts = printed.facts(&options);
    // Tasks that show a failure refer to `msg` also when there was none.
    facts.insert("msg".into(), json!(""));
    Ok(Outcome { changed: true, facts, ..Outcome::default() })
}

struct Printed {
    rc: i32,
    stdout: String,
    stderr: String,
}

impl Printed {
    /// The facts of ansible.builtin.command, with the same names and trimmed the same way.
    fn facts(&self, options: &Options) -> Map<String, Value> {
        let mut facts = Map::new();
        facts.insert("cmd".into(), json!(options.words()));
        facts.insert("rc".into(), json!(self.rc));
        for (key, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let text = text.trim_end_matches(['\r', '\n']);
            let lines: Vec<&str> = text.lines().collect();
            facts.insert(format!("{key}_lines"), json!(lines));
            facts.insert(key.into(), json!(text));
        }
        facts
    }

    fn failure(&self, reason: &'static str, how: &str, options: &Options) -> Failure {
        let last = last_line(&self.stderr).or(last_line(&self.stdout));
        let said = last.map_or(", and printed nothing".to_owned(), |line| format!(": {line}"));
        let mut failure = Failure::new(reason, format!("{} {how}{said}", options.name()));
        failure.details = self.facts(options);
        failure.with("changed", true)
    }
}

impl Options {
    fn words(&self) -> Vec<String> {
        let program = match &self.program {
            Program::Name(name) => name.clone(),
            Program::Path(path) => path.display().to_string(),
        };
        [program].into_iter().chain(self.args.iter().cloned()).collect()
    }

    fn name(&self) -> String {
        match &self.program {
            Program::Name(name) => name.clone(),
            Program::Path(path) => {
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
        }
    }
}

fn not_run(options: &Options, why: &str) -> Outcome {
    let nothing = Printed { rc: 0, stdout: String::new(), stderr: String::new() };
    let facts = nothing.facts(options);
    Outcome { skipped: Some(why.to_owned()), facts, ..Outcome::default() }
}

fn did_not_run(why: Error, options: &Options) -> Error {
    let nothing = Printed { rc: NOT_RUN, stdout: String::new(), stderr: String::new() };
    let reason = host::reason(&why).unwrap_or("program_missing");
    let mut failure = Failure::new(reason, format!("{} was not run", options.name()));
    failure.details = nothing.facts(options);
    failure.caused_by(why).into()
}

/// The error of a program that was ended or could not be started.
fn ended(failed: &Failed, options: &Options) -> Error {
    use host::command::Cause;
    let printed = Printed {
        rc: failed.rc.or(failed.signal.map(|signal| -signal)).unwrap_or(NOT_RUN),
        stdout: failed.stdout.clone(),
        stderr: failed.stderr.clone(),
    };
    let how = match &failed.cause {
        Cause::NotFound => {
            let place = options.chdir.as_deref().filter(|folder| !folder.is_dir());
            let program = options.words().first().cloned().unwrap_or_default();
            let what = place.unwrap_or(Path::new(&program)).display().to_string();
            let msg = format!("{} was not run: {what} is not there", options.name());
            let mut failure = Failure::new(failed.reason(), msg);
            failure.details = printed.facts(options);
            return failure.into();
        }
        Cause::NonZero => format!("was ended by signal {}", failed.signal.unwrap_or_default()),
        Cause::TimedOut { after, .. } => {
            format!("was ended: it was not done after {}", host::deadline::seconds(*after))
        }
        Cause::Interrupted { signal, .. } => format!("was ended by {}", signal.as_str()),
        Cause::Io(why) => format!("was not run ({why})"),
    };
    printed.failure(failed.reason(), &how, options).into()
}

fn last_line(text: &str) -> Option<String> {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let plain: String = last.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let length = plain.chars().count();
    Some(match length > LONGEST {
        true => format!("...{}", plain.chars().skip(length - LONGEST).collect::<String>()),
        false => plain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &str) -> Options {
        Options {
            program: Program::Path(program.into()),
            args: vec!["--token=hunter2".into()],
            chdir: None,
            stdin: None,
            removes: None,
            deadline: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_failure_says_the_last_line_and_no_argument() {
        let printed =
            Printed { rc: 3, stdout: "done\n\n".into(), stderr: "first\nlast\x1b[0m\n \n".into() };
        let failure = printed.failure("command_failed", "ended with 3", &of("/srv/bin/migrate"));
        assert_eq!(failure.msg, "migrate ended with 3: last [0m");
        assert_eq!(
            (&failure.details["stdout"], &failure.details["rc"]),
            (&json!("done"), &json!(3))
        );
        let silent = Printed { rc: 1, stdout: String::new(), stderr: "\n".into() };
        let failure = silent.failure("command_failed", "ended with 1", &of("x"));
        assert_eq!(failure.msg, "x ended with 1, and printed nothing");
    }

    #[test]
    fn lines_are_those_of_the_text() {
        let printed = Printed { rc: 0, stdout: "\na\r\n b\n\n".into(), stderr: String::new() };
        let facts = printed.facts(&of("x"));
        assert_eq!(facts["stdout"], "\na\r\n b");
        assert_eq!(facts["stdout_lines"], json!(["", "a", " b"]));
        assert_eq!((&facts["stderr"], &facts["stderr_lines"]), (&json!(""), &json!([])));
    }
}
