//! The sources of log lines, the present end of each, and the lines since a position.
//!
//! A position in a log is JSON, since it is kept in the baseline: the journal's cursor, a time of Docker,
//! or a file's inode and size.

use super::file::{self, OnLine};
use super::journal;
use crate::kinds::machines::{Instance, Vmid};
use crate::kinds::{program, systemd};
use crate::observation::shown;
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::command::Output;
use host::deadline::Deadline;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub enum Source {
    Journal { unit: String },
    Docker { container: String },
    File { path: PathBuf },
    Inside { guest: Guest, path: PathBuf },
}

/// What a file that is missing means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    IsAnError,
    IsEmpty,
}

/// The container that has the file.
pub enum Guest {
    Incus(Instance),
    Pct(Vmid),
}

/// How often a program in a container is run when the client lost its output.
const TRIES: u32 = 5;

impl Source {
    pub fn parse(options: &mut ProbeOptions) -> Result<Source, Failure> {
        let (unit, container) = (options.word("unit")?, options.word("container")?);
        let path = options.absolute("path")?;
        let guest = match (Instance::parse(options)?, Vmid::parse(options)?) {
            (Some(_), Some(_)) => {
                return Err(options
                    .refuse("instance and vmid exclude each other: give one of them".to_owned()));
            }
            (Some(instance), None) => Some(Guest::Incus(instance)),
            (None, Some(vmid)) => Some(Guest::Pct(vmid)),
            (None, None) => None,
        };
        match (unit, container, path, guest) {
            (Some(unit), None, None, None) => Ok(Source::Journal { unit }),
            (None, Some(container), None, None) => Ok(Source::Docker { container }),
            (None, None, Some(path), None) => Ok(Source::File { path }),
            (None, None, Some(path), Some(guest)) => Ok(Source::Inside { guest, path }),
            _ => Err(options.refuse(
                "kind logs needs one of unit, container and path (with instance or vmid for a \
                 file inside of one)"
                    .to_owned(),
            )),
        }
    }

    /// Returns the position of the log's present end.
    pub fn end(&self, missing: Missing, deadline: Deadline) -> Result<Value, String> {
        match self {
            Source::Journal { unit } => {
                // Fails for a unit that does not exist: the journal just has no lines of it.
                systemd::show(unit, deadline)?;
                Ok(json!({ "cursor": journal::end(deadline)? }))
            }
            Source::Docker { .. } => Ok(json!({ "time": time() })),
            Source::File { path } => match missing {
                Missing::IsEmpty if !path.exists() => Ok(file::nothing()),
                _ => file::end(path),
            },
            Source::Inside { guest, path } => guest.end(path, deadline),
        }
    }

    /// Reads every line since a position of `end`.
    pub fn read_since(
        &self,
        position: &Value,
        deadline: Deadline,
        each: OnLine<'_>,
    ) -> Result<(), String> {
        match self {
            Source::Journal { unit } => {
                let cursor = position["cursor"].as_str();
                let cursor =
                    cursor.ok_or("the baseline's position in the log is not one of the journal")?;
                journal::read_since(unit, cursor, deadline, each)
            }
            Source::Docker { container } => {
                let time = position["time"]
                    .as_str()
                    .ok_or("the baseline's position in the log is not one of Docker")?;
                let args = ["logs", "--since", time, "--", container];
                lines(&program::run(&program::command("docker", deadline)?.args(args))?, each)
            }
            Source::File { path } => file::read_since(path, position, deadline, each),
            Source::Inside { guest, path } => guest.read_since(path, position, deadline, each),
        }
    }
}

/// Returns the time in the format of `docker logs --since`, to the nanosecond.
fn time() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// Reads both streams, which Docker keeps separately.
fn lines(output: &Output, each: OnLine<'_>) -> Result<(), String> {
    if output.truncated > 0 {
        return Err(
            "there are more new lines than can be read: use a newer baseline or a shorter window"
                .to_owned(),
        );
    }
    for stream in [&output.stdout, &output.stderr] {
        let stream = stream.strip_suffix(b"\n").unwrap_or(stream);
        if !stream.is_empty() {
            stream.split(|byte| *byte == b'\n').for_each(&mut *each);
        }
    }
    Ok(())
}

impl Guest {
    /// Runs a program inside the container, without a shell. On a busy machine the client of Incus sometimes
    /// loses the output and still reports success: so `all` checks that the output is complete, and the
    /// program is run again until then. It is also run again after a failure without output.
    fn run(
        &self,
        words: &[&str],
        deadline: Deadline,
        all: impl Fn(&Output) -> bool,
    ) -> Result<Output, String> {
        let mut wordless = None;
        for _ in 0..TRIES {
            let command = match self {
                Guest::Incus(Instance { name, project }) => {
                    let project =
                        project.iter().flat_map(|project| ["--project", project.as_str()]);
                    let command =
                        program::command("incus", deadline)?.args(["exec", name.as_str()]);
                    command.args(project).arg("--force-noninteractive")
                }
                Guest::Pct(vmid) => {
                    program::command("pct", deadline)?.arg("exec").arg(vmid.0.to_string())
                }
            };
            match command.arg("--").args(words).run() {
                Ok(output) if all(&output) => return Ok(output),
                Ok(_) => wordless = None,
                Err(failed) if failed.rc.is_some() && failed.stderr.is_empty() => {
                    wordless = Some(failed.to_string());
                }
                Err(failed) => return Err(failed.to_string()),
            }
        }
        Err(wordless.unwrap_or_else(|| {
            format!("the output of {} in the container was incomplete {TRIES} times", words[0])
        }))
    }

    /// Parses `stat -c '%i %s' <path>`: inode and size, which GNU and busybox print alike.
    fn end(&self, path: &std::path::Path, deadline: Deadline) -> Result<Value, String> {
        let path = path.to_string_lossy();
        let output = self.run(&["stat", "-L", "-c", "%i %s", &path], deadline, |output| {
            output.stdout.ends_with(b"\n")
        })?;
        let text = output.text().map_err(|why| why.to_string())?;
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
        let mut words = text.split_whitespace();
        match (number(words.next()), number(words.next()), words.next()) {
            (Some(inode), Some(size), None) => Ok(file::position(inode, size)),
            _ => Err(format!("cannot parse the output of stat for {path}: {}", shown(text))),
        }
    }

    fn read_since(
        &self,
        path: &std::path::Path,
        position: &Value,
        deadline: Deadline,
        each: OnLine<'_>,
    ) -> Result<(), String> {
        let is = self.end(path, deadline)?;
        let from = file::grown(path, position, &is)?;
        let grown = is["size"].as_u64().map_or(0, |size| size - from);
        let first = format!("+{}", from + 1);
        let path = path.to_string_lossy();
        let output = self.run(&["tail", "-c", &first, &path], deadline, |output| {
            output.stdout.len() as u64 + output.truncated >= grown
        })?;
        lines(&output, each)
    }
}
