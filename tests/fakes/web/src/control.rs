//! What the app does can be changed while it runs: one word a line on a unix socket, one line of
//! answer for each. When `ok` comes back, the change has been made.

use crate::server::App;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Ok,
    /// Every answer is 500.
    Fail,
    /// Only what the health checks ask for is 500.
    FailHealth,
    /// Everything but the health is 500.
    FailApp,
    /// So many of a hundred answers are 500; health is fine.
    Share(u64),
    /// Every answer takes that long, or until the mode is another.
    Slow(Duration),
    /// Every answer but the health's takes that long.
    SlowApp(Duration),
    /// Connections are taken and requests read, and no answer comes.
    Hang,
    /// Connections are closed before anything is read or answered.
    Close,
    /// Nothing listens, and what was connected is cut: as if the process were gone.
    Refuse,
}

enum Word {
    Mode(Mode),
    Release(String),
    Count,
}

pub fn listen(app: Arc<App>, path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening at {}", path.display()))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let app = app.clone();
            // A client that goes away has ended its own conversation and nothing else.
            thread::spawn(move || drop(converse(&app, &stream)));
        }
    });
    Ok(())
}

fn converse(app: &App, stream: &UnixStream) -> Result<()> {
    for line in BufReader::new(stream).lines() {
        let said = match parse(&line?) {
            Ok(Word::Mode(mode)) => app.set_mode(mode).map(|()| "ok".to_owned()),
            Ok(Word::Release(release)) => {
                app.set_release(release);
                Ok("ok".to_owned())
            }
            Ok(Word::Count) => Ok(app.counts().to_string()),
            Err(error) => Err(error),
        };
        let text = said.unwrap_or_else(|error| format!("error: {error:#}"));
        writeln!(&mut &*stream, "{text}")?;
    }
    Ok(())
}

fn parse(line: &str) -> Result<Word> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let milliseconds = |text: &str| -> Result<Duration> {
        Ok(Duration::from_millis(text.parse().with_context(|| format!("{text}: milliseconds"))?))
    };
    Ok(Word::Mode(match words.as_slice() {
        ["ok"] => Mode::Ok,
        ["fail"] => Mode::Fail,
        ["fail-health"] => Mode::FailHealth,
        ["fail-app"] => Mode::FailApp,
        ["share", text] => match text.parse() {
            Ok(percent @ 0..=100) => Mode::Share(percent),
            _ => bail!("{text}: not a share from 0 to 100"),
        },
        ["slow", text] => Mode::Slow(milliseconds(text)?),
        ["slow-app", text] => Mode::SlowApp(milliseconds(text)?),
        ["hang"] => Mode::Hang,
        ["close"] => Mode::Close,
        ["refuse"] => Mode::Refuse,
        ["release", release] => return Ok(Word::Release((*release).to_owned())),
        ["count"] => return Ok(Word::Count),
        _ => bail!("not known: {line}"),
    }))
}
