//! Checks before anything is changed: the servers of the colour are up and answer, and HAProxy accepts the
//! new configuration.

use crate::color::Color;
use crate::config::Config;
use crate::options::{Content, Method, Task};
use crate::plan::Switch;
use crate::question::Question;
use crate::servers::Fleet;
use crate::state::State;
use ansible_module::Failure;
use anyhow::{Context, Result};
use haproxy::file;
use haproxy::locks::LOCKS;
use haproxy::reader::{ensure_replaceable, readers};
use haproxy::stat::Server;
use host::command::Command;
use host::deadline::{Deadline, seconds};
use host::folder::SafeFolder;
use host::none_if_missing;
use host::program;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::NamedTempFile;

const POLL: Duration = Duration::from_millis(50);
const VALIDATION: Duration = Duration::from_secs(60);
/// HAProxy's own default for `inter`.
const INTER: Duration = Duration::from_secs(2);
/// How many servers are asked in parallel, so that slow ones do not add up.
const MAX_PARALLEL: usize = 32;

/// Refuses unless the file to be written is the one that HAProxy reads at its next reload.
pub fn file(state: &State, task: &Task) -> Result<()> {
    let file = match &task.subject.method {
        Method::Map(map) => map,
        Method::Reload => &task.subject.config,
    };
    ensure_replaceable(&readers(&state.sockets)?, file).context("nothing was changed")
}

/// Waits until every server of the colour is up by a passed check, and answers a direct request.
///
/// Servers that only the new configuration has are asked now, and their checks are awaited after the
/// reload.
pub fn target(state: &State, task: &Task, switch: &Switch) -> Result<()> {
    let loads = task.subject.method == Method::Reload;
    let fleet = wait_until_up(state, task, switch, |fleet| match loads {
        true => fleet.checked(),
        false => fleet,
    })?;
    let Some(probe) = &task.probe else { return Ok(()) };
    let mut asked = fleet.addresses();
    if let Some(content) = &switch.content {
        let config = Config::parse(&String::from_utf8_lossy(content));
        asked.extend(config.addresses(&state.groups, switch.to));
    }
    ask_servers(probe, asked, switch)
}

/// Waits until the servers that the new configuration has added are up.
pub fn target_after_reload(state: &State, task: &Task, switch: &Switch) -> Result<()> {
    match state.fleet(switch.to).unchecked().is_empty() {
        true => Ok(()),
        false => wait_until_up(state, task, switch, |fleet| fleet).map(drop),
    }
}

fn wait_until_up(
    state: &State,
    task: &Task,
    switch: &Switch,
    looked_at: impl Fn(Fleet) -> Fleet,
) -> Result<Fleet> {
    let (deadline, to) = (Deadline::after(task.target_timeout), switch.to);
    let mut was_up = BTreeSet::new();
    loop {
        let fleet = looked_at(Fleet::observe(&state.groups, to, &state.sockets)?);
        let mut troubles = fleet.troubles(to);
        for (socket, server) in fleet.each() {
            let one = (socket, server.title());
            if server.is_up() {
                was_up.insert(one);
            } else if was_up.contains(&one) && server.was_checked() {
                let (title, status) = (server.title(), &server.status);
                let msg = format!("{title} became {status} while the task watched: it is flapping");
                return Err(refused(to, msg));
            }
        }
        troubles.extend(unproven(&fleet, task));
        if troubles.is_empty() {
            return Ok(fleet);
        }
        if deadline.passed() {
            let waited = seconds(task.target_timeout);
            return Err(refused(to, format!("{} (after {waited})", troubles.join("; "))));
        }
        deadline.sleep(POLL)?;
    }
}

fn refused(to: Color, why: String) -> anyhow::Error {
    Failure::new("target_down", format!("{to} cannot be made active: {why}; nothing was changed"))
        .into()
}

/// Finds servers whose last passed check may be from before the colour was recreated.
fn unproven(fleet: &Fleet, task: &Task) -> Vec<String> {
    let Some(since) = &task.since else { return Vec::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let inter = file::read(&task.subject.config)
        .ok()
        .and_then(|bytes| Config::parse(&String::from_utf8_lossy(&bytes)).longest_interval())
        .unwrap_or(INTER);
    // A check that began before the recreation may end after it; the next one cannot have started before.
    if now.saturating_sub(since.at) > inter * 2 {
        return Vec::new();
    }
    // HAProxy reports the difference of two times in whole seconds.
    let went_up =
        |server: &Server| Duration::from_secs(now.as_secs().saturating_sub(server.unchanged_for));
    (fleet.servers())
        .filter(|server| server.is_up() && went_up(server) < since.at)
        .map(|server| {
            format!("{} was not checked since it was recreated at {}", server.title(), since.text)
        })
        .collect()
}

/// Asks the servers, given by address and title.
fn ask_servers(probe: &Question, asked: BTreeSet<(String, String)>, switch: &Switch) -> Result<()> {
    let release = switch.release.as_deref();
    let ask = |(address, title): &(String, String)| {
        let address = Some(address.as_str()).filter(|address| !address.is_empty());
        probe.ask(address, release).err().map(|why| format!("{title}: {why}"))
    };
    let asked: Vec<_> = asked.into_iter().collect();
    for some in asked.chunks(MAX_PARALLEL) {
        let answers: Vec<Option<String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = some.iter().map(|one| scope.spawn(|| ask(one))).collect();
            (asked.into_iter())
                .map(|answer| {
                    answer.join().unwrap_or(Some("the thread of its request panicked".to_owned()))
                })
                .collect()
        });
        host::interrupt::check()?;
        let wrong: Vec<String> = answers.into_iter().flatten().collect();
        if !wrong.is_empty() {
            return Err(refused(switch.to, wrong.join("; ")));
        }
    }
    Ok(())
}

/// The new configuration, accepted by HAProxy; `None` for a map.
pub fn content(state: &State, task: &Task, switch: &Switch) -> Result<Option<Vec<u8>>> {
    if task.subject.method != Method::Reload {
        return Ok(None);
    }
    let content = match &task.content {
        // HAProxy refuses a last line without a newline, and templates often drop it.
        Content::Text(text) => format!("{}\n", text.trim_end_matches('\n')).into_bytes(),
        Content::File(path) => file::read(path)
            .with_context(|| format!("reading the new configuration {}", path.display()))?,
        Content::Kept if state.active == Some(switch.to) => return Ok(Some(state.text.clone())),
        Content::Kept => kept(task, switch.to)?,
    };
    crate::plan::check_content(state, switch, &content)?;
    if content != state.text {
        validate(&task.validate, &content)?;
    }
    Ok(Some(content))
}

fn kept(task: &Task, to: Color) -> Result<Vec<u8>> {
    let path = task.subject.kept_config(to);
    let kept = none_if_missing(file::read(&path))
        .with_context(|| format!("reading {}", path.display()))?;
    kept.ok_or_else(|| {
        let msg = format!(
            "no earlier configuration of {to} is kept at {}; give the new one as \
             content or src",
            path.display()
        );
        Failure::new("no_content", msg).into()
    })
}

const CHECKED_FILE: (&str, &str) = ("haproxy-", ".cfg");

/// Creates a file of mode 0600, since a configuration may contain passwords, and removes those of killed
/// runs: a file in use is locked by its run.
fn file_to_check() -> Result<NamedTempFile> {
    let folder = SafeFolder::ensure(Path::new(LOCKS), 0o700)?;
    let (prefix, suffix) = CHECKED_FILE;
    let take = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
    for entry in fs::read_dir(folder.path())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with(prefix) && name.ends_with(suffix);
        if ours && File::open(entry.path()).is_ok_and(|file| take(&file)) {
            // Another run may have removed it.
            let _ = fs::remove_file(entry.path());
        }
    }
    loop {
        let file =
            tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(folder.path())?;
        // Until it is locked, another run may remove it as abandoned.
        if take(file.as_file()) && file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

fn validate(command: &[String], content: &[u8]) -> Result<()> {
    let mut file = file_to_check().context("making a temporary file for the new configuration")?;
    file.write_all(content).context("writing the new configuration to a temporary file")?;
    file.flush().context("writing the new configuration to a temporary file")?;
    let subject = file.path().to_string_lossy().into_owned();
    let mut words = command.iter().map(|word| word.replace("%s", &subject));
    let name = words.next().unwrap_or_default();
    let program = match Path::new(&name).is_absolute() {
        true => name.into(),
        false => program::find(&name)?,
    };
    let checked = Command::new(&program).args(words).deadline(VALIDATION).run();
    checked.map(drop).map_err(|failed| {
        // `[ALERT] (7) : config : parsing [<file>:3] : unknown keyword ...`
        let messages: Vec<String> = (failed.stderr.lines())
            .filter(|line| line.contains("ALERT") && line.contains(&subject))
            .filter_map(|line| Some(line.split_once("config : ")?.1.replace(&subject, "new")))
            .take(3)
            .collect();
        let msg = format!("HAProxy refuses the new configuration: {}", messages.join("; "));
        Failure::new("invalid_config", msg + "; nothing was changed")
            .caused_by(failed.into())
            .into()
    })
}
