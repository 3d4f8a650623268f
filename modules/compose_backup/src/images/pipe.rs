//! A command whose output we read, or whose input we write, while it runs.
//!
//! Invariant: the command runs in the calling thread, so that it dies with us; what fails first is
//! what is told: a command that ended early explains a stream that was cut off, and a write of ours
//! that failed explains a command that then met a closed pipe.

use crate::docker::Docker;
use anyhow::{Context, Error, Result, anyhow};
use host::command::{Cause, Command, Failed, IfWeDie, Output};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// As much as an unprivileged process may ask for; an engine writes in pieces of 32 KiB.
const ROOM: usize = 1 << 20;

/// Our end. Notes whether the other side was the first to leave.
pub struct End<'a> {
    file: File,
    left_alone: &'a AtomicBool,
}

impl Read for End<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.left_alone.store(true, Ordering::Relaxed);
        }
        Ok(read)
    }
}

impl Write for End<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            self.left_alone.store(true, Ordering::Relaxed);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the command and hands what it prints to `read`, which must read to the end.
pub fn reading<T: Send>(
    command: Command,
    read: impl FnOnce(End<'_>) -> Result<T> + Send,
) -> Result<T> {
    let (ours, theirs) = pipe()?;
    let (result, ran) = beside(command.stdout_to(theirs), ours, read)?;
    let (value, _) = first_cause(result, ran)?;
    Ok(value)
}

/// Runs the command and lets `write` write its input.
pub fn writing(
    command: Command,
    write: impl FnOnce(End<'_>) -> Result<()> + Send,
) -> Result<Output> {
    let (theirs, ours) = pipe()?;
    let (result, ran) = beside(command.stdin_from(theirs), ours, write)?;
    first_cause(result, ran).map(|((), output)| output)
}

struct Ended<T> {
    result: Result<T>,
    /// The other side left before us.
    left_alone: bool,
}

fn beside<T: Send>(
    command: Command,
    ours: File,
    work: impl FnOnce(End<'_>) -> Result<T> + Send,
) -> Result<(Ended<T>, Result<Output, Failed>)> {
    let left_alone = AtomicBool::new(false);
    let (result, ran) = thread::scope(|scope| {
        let end = End { file: ours, left_alone: &left_alone };
        let worker = scope.spawn(|| work(end));
        let command = command.if_we_die(IfWeDie::DiesToo);
        let ran = command.run();
        // Its ends of the pipe are closed with it: only then does a reader see the end.
        drop(command);
        (worker.join(), ran)
    });
    let result = result.map_err(|_| anyhow!("the thread that works on a stream has failed"))?;
    Ok((Ended { result, left_alone: left_alone.into_inner() }, ran))
}

fn first_cause<T>(ended: Ended<T>, ran: Result<Output, Failed>) -> Result<(T, Output)> {
    match (ended.result, ran) {
        (Ok(value), Ok(output)) => Ok((value, output)),
        (Ok(_), Err(failed)) => Err(failed.into()),
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(failed)) if is_ours(&failed, ended.left_alone) => Err(error),
        (Err(_), Err(failed)) => Err(Error::from(failed)),
    }
}

/// Whether the command failed because of what we did, and not by itself.
fn is_ours(failed: &Failed, left_alone: bool) -> bool {
    matches!(failed.cause, Cause::NonZero) && !left_alone
}

/// A command that failed because the engine does not answer, said so.
pub fn explained(docker: &Docker, error: Error) -> Error {
    match error.downcast::<Failed>() {
        Ok(failed) => crate::docker::explained(failed, &docker.host),
        Err(other) => other,
    }
}

fn pipe() -> Result<(File, File)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // Only faster: a kernel that grants less is fine.
    let _ = fcntl_setpipe_size(&read, ROOM);
    Ok((read.into(), write.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::path::Path;

    fn all(mut end: End<'_>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        end.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn reads_and_writes() {
        let command = Command::new(Path::new("/bin/echo")).arg("x");
        assert_eq!(reading(command, all).unwrap(), b"x\n");
        let command = Command::new(Path::new("/usr/bin/wc")).arg("-c");
        let output = writing(command, |mut end| Ok(end.write_all(&[0; 3_000_000])?)).unwrap();
        assert_eq!(output.text().unwrap().trim(), "3000000");
    }

    #[test]
    fn the_first_cause_is_told() {
        // It ended by itself, and what came was cut off.
        let command = Command::new(Path::new("/bin/false"));
        let error = reading(command, |end| match all(end)?.len() {
            0 => bail!("cut off"),
            _ => Ok(()),
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("false failed"));
        // We stopped reading, and it met a closed pipe.
        let command = Command::new(Path::new("/usr/bin/yes"));
        let error = reading(command, |mut end| -> Result<()> {
            end.read_exact(&mut [0; 10])?;
            bail!("the disk is full")
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "the disk is full");
        // It reads nothing: our write fails, but it is the cause.
        let command = Command::new(Path::new("/bin/false"));
        let error = writing(command, |mut end| Ok(end.write_all(&[0; 3_000_000])?));
        assert!(format!("{:#}", error.unwrap_err()).contains("false failed"));
    }
}
