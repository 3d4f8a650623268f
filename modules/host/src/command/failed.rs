//! The result of a command: its output, or why it failed.
//!
//! Invariant: everything in [`Failed`] may be shown: it is valid UTF-8 and its secrets are censored.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;

use super::Secrets;
use crate::deadline::seconds;

/// The output of a command that succeeded.
pub struct Output {
    /// Program and arguments, censored.
    pub cmd: Vec<String>,
    /// 0, or another of the accepted exit codes.
    pub rc: i32,
    /// Exactly what it printed, for parsers. It is not censored: show [`Self::stdout_shown`] instead.
    pub stdout: Vec<u8>,
    /// As `stdout`.
    pub stderr: Vec<u8>,
    /// How many bytes were cut out of the middle of stdout and stderr.
    pub truncated: u64,
    pub took: Duration,
    pub(super) secrets: Secrets,
}

impl Output {
    /// Returns standard output for a parser; an error if something was cut out of it or if it is not
    /// UTF-8.
    pub fn text(&self) -> Result<&str> {
        let cmd = sentence(&self.cmd);
        ensure!(
            self.truncated == 0,
            "cannot read what {cmd} printed: it is too long ({} bytes were cut)",
            self.truncated
        );
        std::str::from_utf8(&self.stdout)
            .map_err(|error| anyhow!("cannot read what {cmd} printed: {error}"))
    }

    /// Parses standard output as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        let text = self.text()?;
        serde_json::from_str(text).with_context(|| {
            let begin: String = self.secrets.censor_text(text).chars().take(200).collect();
            format!(
                "cannot read what {} printed as JSON (it begins with {begin:?})",
                sentence(&self.cmd)
            )
        })
    }

    /// Returns it for messages: lossy and censored.
    pub fn stdout_shown(&self) -> String {
        shown(&self.stdout, &self.secrets)
    }

    /// Returns it for messages: lossy and censored.
    pub fn stderr_shown(&self) -> String {
        shown(&self.stderr, &self.secrets)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("cmd", &self.cmd)
            .field("rc", &self.rc)
            .field("stdout", &self.stdout_shown())
            .field("stderr", &self.stderr_shown())
            .field("truncated", &self.truncated)
            .field("took", &self.took)
            .finish()
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The program, its interpreter, or the folder to run it in does not exist.
    NotFound,
    /// It ended with an exit code that was not accepted, or by a signal that this process did not send.
    NonZero,
    /// It was not done at its deadline. `stuck` is its process id if even SIGKILL did not end it (it
    /// hangs in the kernel).
    TimedOut { after: Duration, stuck: Option<i32> },
    /// This process was asked to stop.
    Interrupted { signal: Signal, stuck: Option<i32> },
    /// It could not be started or watched.
    Io(String),
}

/// A command that failed. All fields may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Program and arguments.
    pub cmd: Vec<String>,
    pub cause: Cause,
    /// The exit code, if it has one.
    pub rc: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Failed {
    pub(super) fn new(cmd: Vec<String>, cause: Cause) -> Failed {
        Failed { cmd, cause, rc: None, signal: None, stdout: String::new(), stderr: String::new() }
    }

    pub fn reason(&self) -> &'static str {
        match self.cause {
            Cause::NotFound => "program_missing",
            Cause::NonZero | Cause::Io(_) => "command_failed",
            Cause::TimedOut { .. } => "timed_out",
            Cause::Interrupted { .. } => "interrupted",
        }
    }

    /// Returns the last line of stderr, or else of stdout: most programs name the cause in it.
    fn last_line(&self) -> Option<String> {
        let last = |text: &str| {
            text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(|line| clip(line, 300))
        };
        last(&self.stderr).or_else(|| last(&self.stdout))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cmd = sentence(&self.cmd);
        let stuck = match &self.cause {
            Cause::NotFound => {
                return write!(f, "cannot run {cmd}: no such program, interpreter or folder");
            }
            Cause::Io(error) => return write!(f, "cannot run {cmd}: {error}"),
            Cause::NonZero => {
                match (self.rc, self.signal) {
                    (Some(rc), _) => write!(f, "{cmd} failed (rc {rc})")?,
                    (None, signal) => {
                        write!(f, "{cmd} failed (killed by {})", signal_name(signal))?
                    }
                }
                None
            }
            Cause::TimedOut { after, stuck } => {
                write!(f, "{cmd} was stopped: it was not done after {}", seconds(*after))?;
                *stuck
            }
            Cause::Interrupted { signal, stuck } => {
                write!(f, "{cmd} was stopped by {}", signal.as_str())?;
                *stuck
            }
        };
        if let Some(pid) = stuck {
            write!(
                f,
                " (process {pid} hangs in the kernel, could not be killed, and may still go on)"
            )?;
        }
        self.last_line().map_or(Ok(()), |line| write!(f, ": {line}"))
    }
}

impl std::error::Error for Failed {}

fn signal_name(signal: Option<i32>) -> String {
    match signal.map(|number| (number, Signal::try_from(number))) {
        Some((_, Ok(signal))) => signal.as_str().to_owned(),
        Some((number, Err(_))) => format!("signal {number}"),
        None => "an unknown signal".to_owned(),
    }
}

/// Formats a command for a sentence: `zfs snapshot tank/a@x`.
fn sentence(cmd: &[String]) -> String {
    let name = |path: &str| {
        Path::new(path)
            .file_name()
            .map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let quoted = |arg: &String| match arg.is_empty()
        || arg.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        true => format!("{arg:?}"),
        false => arg.clone(),
    };
    let words: Vec<String> = cmd
        .first()
        .map(|program| name(program))
        .into_iter()
        .chain(cmd.iter().skip(1).map(quoted))
        .collect();
    clip(&words.join(" "), 200)
}

fn clip(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

pub(super) fn shown(bytes: &[u8], secrets: &Secrets) -> String {
    String::from_utf8_lossy(&secrets.censor(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: Cause) -> Failed {
        let cmd = ["/usr/sbin/zfs", "snapshot", "tank/a@x"].map(str::to_owned).to_vec();
        Failed {
            rc: Some(1),
            stderr: "first\ncannot create: full\n\n".to_owned(),
            ..Failed::new(cmd, cause)
        }
    }

    #[test]
    fn one_sentence() {
        assert_eq!(
            failed(Cause::NonZero).to_string(),
            "zfs snapshot tank/a@x failed (rc 1): cannot create: full"
        );
        let killed =
            Failed { rc: None, signal: Some(9), stderr: String::new(), ..failed(Cause::NonZero) };
        assert_eq!(killed.to_string(), "zfs snapshot tank/a@x failed (killed by SIGKILL)");
        let late = failed(Cause::TimedOut { after: Duration::from_secs(30), stuck: Some(7) });
        assert_eq!(
            late.to_string(),
            "zfs snapshot tank/a@x was stopped: it was not done after 30 s (process 7 hangs in the kernel, could not be killed, \
             and may still go on): cannot create: full"
        );
        assert_eq!(late.reason(), "timed_out");
    }

    #[test]
    fn long_and_odd_arguments() {
        let cmd = ["x".to_owned(), String::new(), "a b".to_owned(), "é".repeat(400)];
        let text = sentence(&cmd);
        assert!(
            text.starts_with("x \"\" \"a b\" éé")
                && text.ends_with("é...")
                && text.chars().count() == 203
        );
    }

    #[test]
    fn survives_anyhow() {
        let error = anyhow::Error::from(failed(Cause::NonZero)).context("while saving");
        assert_eq!(error.downcast_ref::<Failed>().unwrap().rc, Some(1));
        assert!(size_of::<Failed>() <= 128);
    }
}
