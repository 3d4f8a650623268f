//! Runs a command and reads its output, or writes its input, meanwhile.
//!
//! Invariant: the command runs in the calling thread, so that it dies with this process; the first failure
//! is reported: a command that ended early explains a truncated stream, and a failed write explains a command
//! that then found its pipe closed.

use crate::docker::Docker;
use anyhow::{Context, Error, Result, anyhow};
use host::command::{Cause, Command, Failed, IfWeDie, Output};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The largest pipe that an unprivileged process may have; an engine writes pieces of 32 KiB.
const ROOM: usize = 1 << 20;

/// This process's end of a pipe. It notes whether the other side closed first.
pub struct PipeEnd<'a> {
    file: File,
    peer_closed: &'a AtomicBool,
}

impl Read for PipeEnd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.peer_closed.store(true, Ordering::Relaxed);
        }
        Ok(read)
    }
}

impl Write for PipeEnd<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            self.peer_closed.store(true, Ordering::Relaxed);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the command and passes its output to `read`, which must read to the end.
pub fn reading<T: Send>(
    command: Command,
    read: impl FnOnce(PipeEnd<'_>) -> Result<T> + Send,
) -> Result<T> {
    let (our_end, its_end) = pipe()?;
    let (result, ran) = run_with(command.stdout_to(its_end), our_end, read)?;
    let (value, _) = first_cause(result, ran)?;
    Ok(value)
}

/// Runs the command and lets `write` write its input.
pub fn writing(
    command: Command,
    write: impl FnOnce(PipeEnd<'_>) -> Result<()> + Send,
) -> Result<Output> {
    let (its_end, our_end) = pipe()?;
    let (result, ran) = run_with(command.stdin_from(its_end), our_end, write)?;
    first_cause(result, ran).map(|((), output)| output)
}

struct PipeEnded<T> {
    result: Result<T>,
    /// Whether the other side closed its end first.
    peer_closed: bool,
}

fn run_with<T: Send>(
    command: Command,
    our_end: File,
    work: impl FnOnce(PipeEnd<'_>) -> Result<T> + Send,
) -> Result<(PipeEnded<T>, Result<Output, Failed>)> {
    let peer_closed = AtomicBool::new(false);
    let (result, ran) = thread::scope(|scope| {
        let end = PipeEnd { file: our_end, peer_closed: &peer_closed };
        let worker = scope.spawn(|| work(end));
        let command = command.if_we_die(IfWeDie::DiesToo);
        let ran = command.run();
        // This closes the command's end of the pipe: only then does a reader see the end.
        drop(command);
        (worker.join(), ran)
    });
    let result =
        result.map_err(|_| anyhow!("the thread that processes the stream has panicked"))?;
    Ok((PipeEnded { result, peer_closed: peer_closed.into_inner() }, ran))
}

fn first_cause<T>(ended: PipeEnded<T>, ran: Result<Output, Failed>) -> Result<(T, Output)> {
    match (ended.result, ran) {
        (Ok(value), Ok(output)) => Ok((value, output)),
        (Ok(_), Err(failed)) => Err(failed.into()),
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(failed)) if we_caused(&failed, ended.peer_closed) => Err(error),
        (Err(_), Err(failed)) => Err(Error::from(failed)),
    }
}

/// Whether the command failed because this process closed the pipe.
fn we_caused(failed: &Failed, peer_closed: bool) -> bool {
    matches!(failed.cause, Cause::NonZero) && !peer_closed
}

/// Explains a command that failed because the engine does not answer.
pub fn explained(docker: &Docker, error: Error) -> Error {
    match error.downcast::<Failed>() {
        Ok(failed) => crate::docker::explained(failed, &docker.host),
        Err(other) => other,
    }
}

fn pipe() -> Result<(File, File)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // This only makes it faster: a failure is ignored.
    let _ = fcntl_setpipe_size(&read, ROOM);
    Ok((read.into(), write.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::path::Path;

    fn all(mut end: PipeEnd<'_>) -> Result<Vec<u8>> {
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
    fn the_first_failure_is_reported() {
        // The command ended early, and its output was truncated.
        let command = Command::new(Path::new("/bin/false"));
        let error = reading(command, |end| match all(end)?.len() {
            0 => bail!("cut off"),
            _ => Ok(()),
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("false failed"));
        // This side stopped reading, and the command found its pipe closed.
        let command = Command::new(Path::new("/usr/bin/yes"));
        let error = reading(command, |mut end| -> Result<()> {
            end.read_exact(&mut [0; 10])?;
            bail!("the disk is full")
        });
        assert_eq!(format!("{:#}", error.unwrap_err()), "the disk is full");
        // The command reads nothing: the write fails, but the command is the cause.
        let command = Command::new(Path::new("/bin/false"));
        let error = writing(command, |mut end| Ok(end.write_all(&[0; 3_000_000])?));
        assert!(format!("{:#}", error.unwrap_err()).contains("false failed"));
    }
}
