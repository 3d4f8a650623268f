//! Runs other programs. A command is a value: program, arguments, input, environment, deadline, and
//! its secrets.
//!
//! Invariants: no shell, ever; the environment holds only what is set here; every run ends at its
//! deadline or at a signal, whatever the program and its children do; memory is bounded by the output
//! limit; no message contains a secret. There is no way to pass a secret as an argument: anyone on the
//! machine could read it in /proc.

mod capture;
mod failed;
mod run;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use failed::{Cause, Failed, Output};

use crate::account::Account;
use crate::deadline::Deadline;
use crate::secret::{self, STARS};

const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
const DEFAULT_LIMIT: usize = 4 << 20;
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// What happens to a command if this process is killed (-9) while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfWeDie {
    /// It goes on. This is the default, because interrupting a command (`zfs rollback`, `pct restore`)
    /// does more harm than letting it end. The next run cannot collide with it: before exec(2) the child
    /// writes its process id and start time into every lock file that this process holds, and
    /// [`crate::lock::Lock`] is not granted while a child of a dead holder is alive. (Letting the child
    /// inherit the lock would be simpler, but a daemon that it starts would keep it for ever.)
    #[default]
    GoesOn,
    /// It is killed at once (PR_SET_PDEATHSIG; its own children are not). For long commands that only
    /// read: a log follower, a probe. Only for commands that the main thread starts: the kernel acts on
    /// the death of the spawning thread.
    DiesToo,
}

/// A command that can be run once or several times.
#[must_use = "a command does nothing until it is run"]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    shown: Vec<String>,
    secrets: Secrets,
    env: Vec<(OsString, OsString)>,
    stdin: Stdin,
    stdout_to: Option<File>,
    cwd: Option<PathBuf>,
    account: Option<Account>,
    deadline: Deadline,
    grace: Duration,
    limit: usize,
    accepted: Vec<i32>,
    if_we_die: IfWeDie,
    outlives_reader: bool,
}

enum Stdin {
    Nothing,
    Bytes(Vec<u8>),
    File(File),
}

/// Prints only what [`Command::shown`] returns: the other fields may hold secrets.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

impl Command {
    /// Makes a command from a path as [`crate::program::find`] returns it. Its environment holds only
    /// `LC_ALL=C`, `LANGUAGE=C`, PATH with the sbin folders, and HOME and TZ of this process. Standard
    /// input is /dev/null, and the deadline 60 s from now, unless others are set.
    pub fn new(program: &Path) -> Command {
        let mut env: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), crate::program::search_path_value()),
            ("LC_ALL".into(), "C".into()),
            ("LANGUAGE".into(), "C".into()),
        ];
        env.extend(
            ["HOME", "TZ"].iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))),
        );
        Command {
            program: program.to_owned(),
            args: Vec::new(),
            shown: Vec::new(),
            secrets: Secrets::default(),
            env,
            stdin: Stdin::Nothing,
            stdout_to: None,
            cwd: None,
            account: None,
            deadline: Deadline::after(DEFAULT_DEADLINE),
            grace: DEFAULT_GRACE,
            limit: DEFAULT_LIMIT,
            accepted: vec![0],
            if_we_die: IfWeDie::default(),
            outlives_reader: false,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.push(arg.as_ref());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().for_each(|arg| self.push(arg.as_ref()));
        self
    }

    fn push(&mut self, arg: &OsStr) {
        self.args.push(arg.to_owned());
        self.shown.push(arg.to_string_lossy().into_owned());
    }

    /// Adds a text that is censored wherever it turns up in messages, as a part of an argument, of the
    /// input, or of a file that the program reads.
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secrets.add(secret.as_ref());
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn secret_env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref();
        self.env(name, value).secret(value.as_encoded_bytes())
    }

    /// Sets a variable that a user has chosen: its value is a secret if its name says so, and so is the
    /// password of a URL.
    pub fn named_env(self, name: &str, value: &str) -> Self {
        match (secret::is_named(name), secret::password_of_url(value)) {
            (true, _) => self.secret_env(name, value),
            (false, Some(password)) => self.env(name, value).secret(password),
            (false, None) => self.env(name, value),
        }
    }

    /// Passes on those of these variables that are set in this process.
    pub fn inherit_env(self, names: &[&str]) -> Self {
        names.iter().fold(self, |command, name| match std::env::var_os(name) {
            Some(value) => command.env(name, value),
            None => command,
        })
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Reads standard input from a file or a pipe: for input that does not fit into memory. The command
    /// can then be run only once.
    pub fn stdin_from(mut self, file: File) -> Self {
        self.stdin = Stdin::File(file);
        self
    }

    /// Writes standard output into a file or a pipe instead of keeping it: for dumps and archives, where
    /// secrets are not censored.
    pub fn stdout_to(mut self, file: File) -> Self {
        self.stdout_to = Some(file);
        self
    }

    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// Runs it as this account, with its groups and its home. This process must be root.
    pub fn run_as(mut self, account: &Account) -> Self {
        self.account = Some(account.clone());
        match &account.home {
            Some(home) => self.env("HOME", home),
            None => self,
        }
    }

    /// Sets the deadline, or a span from now.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Sets how long the process group has between SIGTERM and SIGKILL (5 s by default).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how many bytes of stdout, and of stderr, are kept: one half from the beginning, the other
    /// from the end (4 MiB by default). [`Output::text`] refuses output that was cut.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets the exit codes that are not failures (only 0 by default).
    pub fn accept(mut self, codes: &[i32]) -> Self {
        self.accepted = codes.to_vec();
        self
    }

    pub fn if_we_die(mut self, choice: IfWeDie) -> Self {
        self.if_we_die = choice;
        self
    }

    /// Lets it go on when nobody reads its output any more, as after this process was killed (-9). Other
    /// commands end by SIGPIPE then.
    pub fn outlives_reader(mut self) -> Self {
        self.outlives_reader = true;
        self
    }

    /// Returns program and arguments with secrets as `********`, for messages.
    pub fn shown(&self) -> Vec<String> {
        let program = self.program.to_string_lossy();
        std::iter::once(&*program)
            .chain(self.shown.iter().map(String::as_str))
            .map(|part| self.secrets.censor_text(part))
            .collect()
    }

    /// Runs it to its end. A pending signal ends it, or keeps it from starting, unless there is a
    /// [`crate::interrupt::Shield`].
    pub fn run(&self) -> Result<Output, Failed> {
        run::run(self)
    }
}

/// The secrets of a command, the longest first, so that a secret that contains another is replaced as a
/// whole. A short one is replaced only where it is the whole text.
#[derive(Default, Clone)]
pub(crate) struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    fn add(&mut self, secret: &[u8]) {
        // A secret that was given as "password\n" must not show as "password" in a message either.
        let secret = secret.trim_ascii();
        if !secret.is_empty() && !self.0.iter().any(|other| other == secret) {
            self.0.push(secret.to_vec());
        }
        self.0.sort_by_key(|other| std::cmp::Reverse(other.len()));
    }

    pub(crate) fn censor(&self, bytes: &[u8]) -> Vec<u8> {
        let whole = bytes.trim_ascii();
        if self.0.iter().any(|secret| secret == whole) {
            // White space around it (the end of the line) is kept.
            let around = bytes.len() - bytes.trim_ascii_start().len();
            let (before, after) = (&bytes[..around], &bytes[around + whole.len()..]);
            return [before, STARS.as_bytes(), after].concat();
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            match self.inside().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    out.extend_from_slice(STARS.as_bytes());
                    rest = &rest[secret.len()..];
                }
                None => {
                    out.push(*first);
                    rest = &rest[1..];
                }
            }
        }
        out
    }

    fn inside(&self) -> impl Iterator<Item = &Vec<u8>> {
        let long = |secret: &&Vec<u8>| {
            String::from_utf8_lossy(secret).chars().nth(secret::SHORTEST_INSIDE - 1).is_some()
        };
        self.0.iter().filter(long)
    }

    pub(crate) fn censor_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.censor(text.as_bytes())).into_owned()
    }

    /// Returns how many bytes at the end of `head` could be the beginning of a secret that was cut there.
    fn cut_at_end(&self, head: &[u8]) -> usize {
        self.longest(|secret, n| head.ends_with(&secret[..n]))
    }

    /// Returns how many bytes at the beginning of `tail` could be the rest of a secret that was cut there.
    fn cut_at_start(&self, tail: &[u8]) -> usize {
        self.longest(|secret, n| tail.starts_with(&secret[secret.len() - n..]))
    }

    fn longest(&self, fits: impl Fn(&[u8], usize) -> bool) -> usize {
        let of_one =
            |secret: &Vec<u8>| (1..secret.len()).rev().find(|n| fits(secret, *n)).unwrap_or(0);
        self.inside().map(of_one).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_stars() {
        let command =
            Command::new(Path::new("/bin/echo")).args(["-n", "--token=abcdef"]).secret("abcdef");
        assert_eq!(command.shown(), ["/bin/echo", "-n", "--token=********"]);
        let mut secrets = Secrets::default();
        for secret in ["abcdef", "abcdefgh\n", "a", "five5", ""] {
            secrets.add(secret.as_bytes());
        }
        assert_eq!(secrets.censor_text("xabcdefghyabcdefz abcdeg"), "x********y********z abcdeg");
        assert_eq!(secrets.censor_text("a sentence of five5 words"), "a sentence of five5 words");
        assert_eq!(secrets.censor_text(" five5\n"), " ********\n");
        assert_eq!(secrets.cut_at_end(b"...abcde"), 5);
        assert_eq!(secrets.cut_at_start(b"gh..."), 2);
        assert_eq!(secrets.cut_at_end(b"...five"), 0);
    }

    #[test]
    fn debug_shows_no_secret() {
        let command = Command::new(Path::new("/bin/true"))
            .arg("hunter2")
            .secret("hunter2")
            .secret_env("P", "hunter3")
            .named_env("DB_PASSWORD", "hunter5")
            .stdin("hunter4");
        let text = format!("{command:?}");
        assert!(!text.contains("hunter"), "{text}");
    }
}
