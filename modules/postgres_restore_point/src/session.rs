//! A session of psql that stays open: it holds a snapshot, or reopens the database at its end.
//!
//! Invariants: it ends with its input, which the kernel closes when this process is killed; every answer has a deadline;
//! each statement's error is returned.

use crate::psql::{Psql, explained, meaning};
use ansible_module::Failure;
use anyhow::{Context, Result, bail};
use host::command::{Failed, IfWeDie, Output};
use host::deadline::Deadline;
use host::interrupt;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The beginning of the last line of an answer. An unpredictable number follows, since an answer may contain text of others.
const MARK: &str = "reversible.deploy:answered";
/// Refuses to read views: whoever owns a table could put one in its place after we have listed it, and it would run what
/// they have written with our rights. Servers of before August 2024 do not have this setting.
const TABLES_ONLY: &str = "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings \
    WHERE name = 'restrict_nonsystem_relation_kind'";
/// How often a wait checks for signals.
const POLL_MILLISECONDS: u16 = 50;
/// The timeout of ending an idle session.
const END: Duration = Duration::from_secs(20);

pub struct Session {
    what: String,
    input: Option<File>,
    output: File,
    received: Vec<u8>,
    /// The length of its beginning in which no end of an answer was found.
    looked: usize,
    mark: String,
    asked: u32,
    client: Option<JoinHandle<Result<Output, Failed>>>,
}

impl Session {
    /// Opens a session that ends with this process, and after `longest` at the latest.
    pub fn open(psql: &Psql, what: &str, database: &str, longest: Duration) -> Result<Session> {
        Session::start(psql, what, database, longest, &[], IfWeDie::DiesToo)
    }

    /// Opens a session that runs these statements when its input ends, also when this process is killed. An open
    /// transaction is rolled back first.
    pub fn with_final_statements(
        psql: &Psql,
        what: &str,
        database: &str,
        longest: Duration,
        words: &[String],
    ) -> Result<Session> {
        Session::start(psql, what, database, longest, words, IfWeDie::GoesOn)
    }

    fn start(
        psql: &Psql,
        what: &str,
        database: &str,
        longest: Duration,
        words: &[String],
        if_killed: IfWeDie,
    ) -> Result<Session> {
        let (read_input, input) = pipe_with(PipeFlags::CLOEXEC).context("a pipe")?;
        let (output, write_output) = pipe_with(PipeFlags::CLOEXEC).context("a pipe")?;
        // No ON_ERROR_STOP: the final statements must run in any case, and each answer says whether it is an error.
        let mut command = psql.client(database).args(["-f", "-"]);
        if !words.is_empty() {
            // In a new connection, since a transaction of the old one ends with it.
            command = command.args(["-c", "\\connect"]).outlives_reader();
        }
        for word in words {
            command = command.args(["-c", word.as_str()]);
        }
        let command = command
            .stdin_from(read_input.into())
            .stdout_to(write_output.into())
            .deadline(longest)
            .if_we_die(if_killed);
        let client = thread::spawn(move || {
            let ended = command.run();
            // The thread owns its end of the pipe, whose closing the reader waits for.
            drop(command);
            ended
        });
        let mut nonce = [0_u8; 16];
        let random =
            File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut nonce));
        random.context("a random number")?;
        let mut session = Session {
            looked: 0,
            mark: format!("{MARK}:{}", host::hex(&nonce)),
            what: what.to_owned(),
            input: Some(input.into()),
            output: output.into(),
            received: Vec::new(),
            asked: 0,
            client: Some(client),
        };
        session.ask(TABLES_ONLY, Deadline::after(END))?;
        Ok(session)
    }

    /// Begins a statement without waiting for its answer, which [`Session::answer`] gives.
    pub fn begin(&mut self, statement: &str) -> Result<()> {
        self.asked += 1;
        let line = format!(
            "{statement};\n\\echo '{}' {} :ERROR :SQLSTATE :LAST_ERROR_MESSAGE\n",
            self.mark, self.asked
        );
        let input = self.input.as_mut().context("the session has ended")?;
        match input.write_all(line.as_bytes()) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.gone()),
        }
    }

    /// Runs one statement and returns its result.
    pub fn ask(&mut self, statement: &str, deadline: impl Into<Deadline>) -> Result<String> {
        self.begin(statement)?;
        self.answer(deadline.into())
    }

    pub fn answer(&mut self, deadline: Deadline) -> Result<String> {
        loop {
            if let Some(answer) = self.take_answer()? {
                return Ok(answer);
            }
            interrupt::check()?;
            if deadline.passed() {
                let msg = format!(
                    "{}: no answer within {}",
                    self.what,
                    host::deadline::seconds(deadline.span())
                );
                return Err(Failure::new("timed_out", msg).into());
            }
            let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(POLL_MILLISECONDS)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error).context("waiting for psql"),
            }
            let mut buffer = [0; 64 << 10];
            match self.output.read(&mut buffer).context("reading what psql says")? {
                0 => return Err(self.gone()),
                n => self.received.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Takes a complete answer from the received output.
    fn take_answer(&mut self) -> Result<Option<String>> {
        if !self.received.ends_with(b"\n") {
            return Ok(None);
        }
        let Some(at) = end_of_answer(&self.received, &self.mark, self.looked) else {
            self.looked = self.received.len();
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&self.received[..at]).into_owned();
        let end = String::from_utf8_lossy(&self.received[at..]).into_owned();
        let Some(answer) = answer_in(&text, &end, &self.mark) else { return Ok(None) };
        self.received.clear();
        self.looked = 0;
        match answer {
            Answer::Text(text) => Ok(Some(text)),
            Answer::Error(message) => {
                let (reason, cure) = meaning(&message.to_lowercase());
                let cure = if cure.is_empty() { String::new() } else { format!(" ({cure})") };
                Err(Failure::new(reason, format!("{}: {message}{cure}", self.what)).into())
            }
        }
    }

    /// Makes the error for a session that has ended unexpectedly.
    fn gone(&mut self) -> anyhow::Error {
        self.input = None;
        let ended = self.client.take().map(JoinHandle::join);
        match ended {
            Some(Ok(Err(failed))) => explained(failed, &self.what).into(),
            Some(Ok(Ok(output))) => {
                let said = output.stderr_shown();
                let (reason, _) = meaning(&said.to_lowercase());
                Failure::new(
                    reason,
                    format!("{}: the session has ended: {}", self.what, said.trim()),
                )
                .into()
            }
            _ => {
                Failure::new("unreachable", format!("{}: the session has ended", self.what)).into()
            }
        }
    }

    /// Closes the input, so that the final statements run, and waits for the end.
    pub fn end(mut self) -> Result<()> {
        self.input = None;
        let Some(client) = self.client.take() else { return Ok(()) };
        match client.join() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failed)) => Err(explained(failed, &self.what).into()),
            Err(_) => bail!("a worker thread panicked"),
        }
    }
}

impl Drop for Session {
    /// Waits until the final statements have run.
    fn drop(&mut self) {
        self.input = None;
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Text(String),
    Error(String),
}

/// Finds the beginning of an answer's last line; the first `looked` bytes were searched before.
fn end_of_answer(received: &[u8], mark: &str, looked: usize) -> Option<usize> {
    if received.starts_with(mark.as_bytes()) {
        return Some(0);
    }
    let line = format!("\n{mark}");
    let from = looked.saturating_sub(line.len());
    let found = received[from..].windows(line.len()).position(|part| part == line.as_bytes())?;
    Some(from + found + 1)
}

/// Splits a complete answer into its text and its last line.
fn answer_in(text: &str, end: &str, mark: &str) -> Option<Answer> {
    let (line, _) = end.split_once('\n')?;
    let mut words = line.strip_prefix(mark)?.trim_start().splitn(4, ' ');
    let (_number, error, _state) = (words.next(), words.next()?, words.next());
    match error {
        "false" => Some(Answer::Text(text.trim_end_matches('\n').to_owned())),
        _ => Some(Answer::Error(words.next().unwrap_or_default().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received_answer(text: &str, looked: usize) -> Option<Answer> {
        let mark = format!("{MARK}:5f");
        let at = end_of_answer(text.as_bytes(), &mark, looked)?;
        answer_in(&text[..at], &text[at..], &mark)
    }

    #[test]
    fn answers() {
        let text = |text: &str| Some(Answer::Text(text.into()));
        assert_eq!(received_answer("reversible.deploy:answered:5f 1 false 00000 \n", 0), text(""));
        let whole = "5\n6\nreversible.deploy:answered:5f 2 false 00000 division by zero\n";
        for looked in 0..5 {
            assert_eq!(received_answer(whole, looked), text("5\n6"));
        }
        let error = Some(Answer::Error("division by zero".into()));
        assert_eq!(
            received_answer("reversible.deploy:answered:5f 3 true 22012 division by zero\n", 0),
            error
        );
        // What somebody has written into a table is not taken for the end.
        let row = "reversible.deploy:answered 1 false 00000 \n";
        assert_eq!(received_answer(row, 0), None);
        assert_eq!(received_answer(&format!("{row}{whole}"), 0), text(&format!("{row}5\n6")));
        for part in ["", "5\n", "5\nreversible.deploy:answered:5f 2 false"] {
            assert_eq!(received_answer(part, 0), None, "{part}");
        }
    }
}
