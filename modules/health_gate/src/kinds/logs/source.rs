//! The sources of log lines, the present end of each, and the lines since a position.
//!
//! A position in a log is JSON, since it is kept in the baseline: the journal's cursor, a time of Docker,
//! or a file's inode and size.

use super::file::{self, Each};
use super::journal;
use crate::kinds::machines::{Instance, Vmid};
use crate::kinds::{program, systemd};
use crate::probe_options::ProbeOptions;
use crate::seen::shown;
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

/// The machine that has the file.
pub enum Guest {
    Incus(Instance),
    Pct(Vmid),
}

/// Tries of a program in a machine whose client lost its output.
const TRIES: u32 = 5;

impl Source {
    pub fn take(given: &mut ProbeOptions) -> Result<Source, Failure> {
        let (unit, container) = (given.word("unit")?, given.word("container")?);
        let path = given.absolute("path")?;
        let guest = match (Instance::take(given)?, Vmid::take(given)?) {
            (Some(_), Some(_)) => {
                return Err(given.refuse("give instance or vmid, not both".to_owned()));
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
            _ => Err(given.refuse(
                "kind logs needs one of unit, container and path (with instance or vmid for a \
                 file inside of one)"
                    .to_owned(),
            )),
        }
    }

    /// The position of its present end.
    pub fn here(&self, deadline: Deadline) -> Result<Value, String> {
        match self {
            Source::Journal { unit } => {
                // The journal has no lines of a unit that does not exist, which is no success.
                systemd::look(unit, deadline)?;
                Ok(json!({ "cursor": journal::here(deadline)? }))
            }
            Source::Docker { .. } => Ok(json!({ "time": time() })),
            Source::File { path } => file::here(path),
            Source::Inside { guest, path } => guest.here(path, deadline),
        }
    }

    /// Reads every line since a position of `here`.
    pub fn since(&self, place: &Value, deadline: Deadline, each: Each<'_>) -> Result<(), String> {
        match self {
            Source::Journal { unit } => {
                let cursor = place["cursor"].as_str();
                let cursor = cursor.ok_or("the place in the log is none of the journal")?;
                journal::since(unit, cursor, deadline, each)
            }
            Source::Docker { container } => {
                let time =
                    place["time"].as_str().ok_or("the place in the log is none of Docker")?;
                let args = ["logs", "--since", time, "--", container];
                lines(&program::run(&program::command("docker", deadline)?.args(args))?, each)
            }
            Source::File { path } => file::since(path, place, deadline, each),
            Source::Inside { guest, path } => guest.since(path, place, deadline, each),
        }
    }
}

/// As `docker logs --since` takes it, to the nanosecond.
fn time() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// Reads both streams, which Docker keeps separately.
fn lines(output: &Output, each: Each<'_>) -> Result<(), String> {
    if output.truncated > 0 {
        return Err("there are more new lines than can be read: look sooner".to_owned());
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
    /// Runs a program inside the machine, without a shell. On a busy machine the client of Incus sometimes
    /// loses the output and still reports success: so each caller checks that it has everything, and asks
    /// again until then. A failure without output is asked again too, since it would not say what is wrong.
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
            format!("what {} printed inside did not come through whole, {TRIES} times", words[0])
        }))
    }

    /// Parses `stat -c '%i %s' <path>`: inode and size, which GNU and busybox print alike.
    fn here(&self, path: &std::path::Path, deadline: Deadline) -> Result<Value, String> {
        let path = path.to_string_lossy();
        let output = self.run(&["stat", "-L", "-c", "%i %s", &path], deadline, |output| {
            output.stdout.ends_with(b"\n")
        })?;
        let text = output.text().map_err(|why| why.to_string())?;
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok());
        let mut words = text.split_whitespace();
        match (number(words.next()), number(words.next()), words.next()) {
            (Some(inode), Some(size), None) => Ok(file::place(inode, size)),
            _ => Err(format!("cannot understand what stat said of {path}: {}", shown(text))),
        }
    }

    fn since(
        &self,
        path: &std::path::Path,
        place: &Value,
        deadline: Deadline,
        each: Each<'_>,
    ) -> Result<(), String> {
        let is = self.here(path, deadline)?;
        let from = file::grown(path, place, &is)?;
        let grown = is["size"].as_u64().map_or(0, |size| size - from);
        let first = format!("+{}", from + 1);
        let path = path.to_string_lossy();
        let output = self.run(&["tail", "-c", &first, &path], deadline, |output| {
            output.stdout.len() as u64 + output.truncated >= grown
        })?;
        lines(&output, each)
    }
}
