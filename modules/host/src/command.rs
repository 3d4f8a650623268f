//! Running another program. A command is a value: program, arguments, input, environment, deadline,
//! and what is secret in it.
//!
//! Invariants: no shell, ever; the environment holds only what is said here; every run ends at its
//! deadline or at a signal, whatever the program and its children do; memory is bounded by the
//! output limit; a secret is never in a message. A secret argument cannot be said: anyone on
//! the machine can read it in /proc.

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

/// What becomes of a command when we are killed (-9) while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfWeDie {
    /// It goes on. The default, because a command cut in half (`zfs rollback`, `pct restore`)
    /// leaves more harm than one that ends on its own. The next run cannot trip over it: the child
    /// writes its process id and start time into every lock file that we hold before it becomes the
    /// program, and [`crate::lock::Lock`] is not given while a child of a dead holder is alive.
    /// (Letting the child inherit the lock itself would be simpler, but daemons that a command
    /// starts would inherit it too and keep it for ever.)
    #[default]
    GoesOn,
    /// It is killed at once (PR_SET_PDEATHSIG; its own children are not). For what only reads and
    /// may run for long: a log follower, a probe. Only to be used from the thread that lives as
    /// long as the process: the kernel counts the death of the spawning thread.
    DiesToo,
}

/// A command to be run. Built step by step, run once or more often.
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

/// Shows what [`Command::shown`] shows, and nothing else: the other fields hold secrets.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}

impl Command {
    /// `program` as [`crate::program::find`] gives it. The environment is empty but for `LC_ALL=C`,
    /// `LANGUAGE=C`, PATH with the sbin folders, and our own HOME and TZ. Standard input is
    /// /dev/null. The deadline is 60 s from now unless another is set.
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

    /// Something that must not be shown wherever it turns up (part of an argument, of the input, of
    /// a file that the program reads).
    pub fn secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secrets.add(secret.as_ref());
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn secret_env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref();
        self.env(name, value).secret(value.as_encoded_bytes())
    }

    /// A variable that a user has named: a secret where its name says so, as is the password of a URL.
    pub fn named_env(self, name: &str, value: &str) -> Self {
        match (secret::is_named(name), secret::password_of_url(value)) {
            (true, _) => self.secret_env(name, value),
            (false, Some(password)) => self.env(name, value).secret(password),
            (false, None) => self.env(name, value),
        }
    }

    /// Hands on these variables of ours, those that are set.
    pub fn keep_env(self, names: &[&str]) -> Self {
        names.iter().fold(self, |command, name| match std::env::var_os(name) {
            Some(value) => command.env(name, value),
            None => command,
        })
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Reads from a file or a pipe instead: for what does not fit into memory. The command can then
    /// be run once only.
    pub fn stdin_from(mut self, file: File) -> Self {
        self.stdin = Stdin::File(file);
        self
    }

    /// Sends standard output into a file or a pipe instead of keeping it: dumps and archives.
    /// Secrets are not censored there.
    pub fn stdout_to(mut self, file: File) -> Self {
        self.stdout_to = Some(file);
        self
    }

    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// Runs it as this account, with its groups and its home. We must be root.
    pub fn run_as(mut self, account: &Account) -> Self {
        self.account = Some(account.clone());
        match &account.home {
            Some(home) => self.env("HOME", home),
            None => self,
        }
    }

    /// A span from now, or a deadline that is shared with others.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// How long the process group has between SIGTERM and SIGKILL (5 s unless said otherwise).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How many bytes of stdout, and of stderr, are kept: one half from the beginning, the other
    /// from the end (4 MiB unless said otherwise). [`Output::text`] refuses what was cut.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Exit codes that are answers, not failures (0 alone unless said otherwise).
    pub fn accept(mut self, codes: &[i32]) -> Self {
        self.accepted = codes.to_vec();
        self
    }

    pub fn if_we_die(mut self, choice: IfWeDie) -> Self {
        self.if_we_die = choice;
        self
    }

    /// Lets it go on when nobody reads any more what it says, as when we are killed (-9). Others end by SIGPIPE then.
    pub fn outlives_reader(mut self) -> Self {
        self.outlives_reader = true;
        self
    }

    /// The command as it may be shown: program and arguments, secrets as `********`.
    pub fn shown(&self) -> Vec<String> {
        let program = self.program.to_string_lossy();
        std::iter::once(&*program)
            .chain(self.shown.iter().map(String::as_str))
            .map(|part| self.secrets.censor_text(part))
            .collect()
    }

    /// Runs it to its end. A signal that is pending ends it (or keeps it from beginning), unless a
    /// shield is up.
    pub fn run(&self) -> Result<Output, Failed> {
        run::run(self)
    }
}

/// What must not be shown. Longest first, so that a secret that contains another is taken whole; a
/// short one is hidden only where it is all there is.
#[derive(Default, Clone)]
pub(crate) struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    fn add(&mut self, secret: &[u8]) {
        // Whoever passes "password\n" must not see "password" in a message either.
        let secret = secret.trim_ascii();
        if !secret.is_empty() && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_vec());
        }
        self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }

    pub(crate) fn censor(&self, bytes: &[u8]) -> Vec<u8> {
        let whole = bytes.trim_ascii();
        if self.0.iter().any(|secret| secret == whole) {
            // What stands around it (the end of its line) stays.
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

    /// How many bytes at the end of `head` could be the beginning of a secret that was cut there.
    fn begun_at_end(&self, head: &[u8]) -> usize {
        self.longest(|secret, n| head.ends_with(&secret[..n]))
    }

    /// How many bytes at the beginning of `tail` could be the rest of a secret that was cut there.
    fn ended_at_start(&self, tail: &[u8]) -> usize {
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
        assert_eq!(secrets.begun_at_end(b"...abcde"), 5);
        assert_eq!(secrets.ended_at_start(b"gh..."), 2);
        assert_eq!(secrets.begun_at_end(b"...five"), 0);
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
