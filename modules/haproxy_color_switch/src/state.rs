//! Observes the live HAProxy, the file that it loads at its next start, our record, and the servers of
//! both colours. Reads only.

use crate::color::{Color, Pattern};
use crate::config::Config;
use crate::history::{History, Verdict};
use crate::options::{Method, Subject, TASK};
use crate::reload;
use crate::servers::{Fleet, Group};
use ansible_module::{Failure, Outcome};
use anyhow::{Context, Result};
use change::RunNotes;
use haproxy::socket::Socket;
use haproxy::stat::Count;
use haproxy::{file, map};
use host::none_if_missing;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Tolerance for comparing times of files and of processes.
const TIME_TOLERANCE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct State {
    pub sockets: Vec<Socket>,
    pub groups: Vec<Group>,
    /// The active value in each live HAProxy.
    pub live: Vec<Option<String>>,
    /// The active colour in the map file, or in the configuration.
    pub file: Option<String>,
    /// The bytes of the map file, or of the configuration.
    pub text: Vec<u8>,
    /// The content of `active-color`.
    pub record: Option<String>,
    /// The pattern of the map's values.
    pub pattern: Pattern,
    pub active: Option<Color>,
    pub history: History,
    /// The servers of blue and of green.
    pub fleets: [Fleet; 2],
    /// Disagreements that no run of this module explains, so someone must have changed something.
    pub drift: Vec<String>,
    /// Warnings that do not fail the task: a record that differs from the live HAProxy, a configuration that
    /// would answer with another site.
    pub notes: Vec<String>,
    /// The begin of an unfinished run.
    pub unfinished: Option<String>,
    /// The goal of the unfinished run, if it had started to change something.
    pub noted: Option<SwitchNote>,
}

/// The goal of a run, noted before its first change for the run that finishes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwitchNote {
    pub from: Option<Color>,
    pub to: Color,
    pub release: Option<String>,
    /// The release that an older killed run had made active and not proven.
    pub unproven: Option<Unproven>,
    /// Requests to the old colour just before the flip.
    #[serde(default, rename = "left")]
    pub old_requests: Count,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    pub color: Color,
    pub release: Option<String>,
}

impl SwitchNote {
    pub const NOTE: &'static str = "heading";
}

pub fn observe(subject: &Subject) -> Result<State> {
    let mut config = None;
    if subject.sockets.is_empty() || subject.groups.is_empty() || subject.method == Method::Reload {
        config = Some(read_config(subject)?);
    }
    let parsed = config.as_ref().map(|bytes| Config::parse(&String::from_utf8_lossy(bytes)));
    let sockets = match (subject.sockets.as_slice(), &parsed) {
        ([], Some(config)) => vec![find_socket(subject, config)?],
        (given, _) => given.to_vec(),
    };
    let groups = match (subject.groups.as_slice(), &parsed) {
        ([], Some(config)) => Some(find_groups(subject, config)?),
        _ => None,
    };
    let unfinished = RunNotes::find(&subject.state_dir, TASK)?;
    let mut state = State {
        live: Vec::new(),
        file: None,
        text: Vec::new(),
        record: read_word(&subject.active_color_file())?,
        pattern: Pattern::plain(),
        active: None,
        history: History::read(&subject.history_file())?,
        fleets: Default::default(),
        drift: Vec::new(),
        notes: Vec::new(),
        unfinished: unfinished.as_ref().map(|run| run.since().to_string()),
        noted: unfinished.map(|run| run.note(SwitchNote::NOTE)).transpose()?.flatten(),
        groups: Vec::new(),
        sockets,
    };
    match &subject.method {
        Method::Map(map) => {
            state.observe_map(subject, map)?;
            let config = parsed.as_ref();
            state.notes.extend(config.and_then(|config| fallback_note(config, map, &subject.key)));
        }
        Method::Reload => state.text = config.unwrap_or_default(),
    }
    state.groups = match groups {
        Some(found) => state.groups_of(found),
        None => subject.groups.clone(),
    };
    state.fleets = Fleet::both(&state.groups, &state.sockets)?;
    if subject.method == Method::Reload {
        state.observe_config(subject, &parsed.unwrap_or_default())?;
    }
    state.compare(subject);
    Ok(state)
}

/// Returns a warning if requests go to some backend while the map has no colour for the key.
fn fallback_note(config: &Config, map: &Path, key: &str) -> Option<String> {
    let backend = config.fallback(&map.to_string_lossy(), key)?;
    Some(format!(
        "while {} has no colour for {key}, its requests go to {backend}: let map() name a backend that \
         answers with 503 (http-request deny deny_status 503)",
        map.display()
    ))
}

pub fn digest(bytes: &[u8]) -> String {
    host::hex(&Sha256::digest(bytes))
}

enum Found {
    Groups(Vec<Group>),
    /// The text around the map lookup, for each component.
    Around(Vec<(String, String)>),
}

impl State {
    fn groups_of(&self, found: Found) -> Vec<Group> {
        let group =
            |(before, after): &(String, String)| Group::OneEach(self.pattern.within(before, after));
        match found {
            Found::Groups(groups) => groups,
            Found::Around(parts) => parts.iter().map(group).collect(),
        }
    }

    fn observe_map(&mut self, subject: &Subject, file: &Path) -> Result<()> {
        for socket in &self.sockets {
            self.live.push(map::live_value(socket, file, &subject.key)?);
        }
        self.text = file::read(file).with_context(|| {
            format!(
                "reading the map file {}, without which a restart of HAProxy forgets the colour",
                file.display()
            )
        })?;
        self.file = map::file_value(&self.text, &subject.key);
        let said = self.live.iter().chain([&self.file]).flatten();
        let mut colors = said.filter_map(|value| Pattern::of(value));
        if let Some((pattern, _)) = colors.next() {
            self.pattern = pattern;
        }
        self.active = self.agreed();
        Ok(())
    }

    /// The colour is in the configuration. The running process follows it if its servers show that, or if
    /// it was started after the file was written.
    fn observe_config(&mut self, subject: &Subject, config: &Config) -> Result<()> {
        let by_file = config.color(&self.groups);
        self.file = by_file.map(|color| color.to_string());
        let by_servers = self.live_color();
        for worker in reload::workers(&self.sockets)? {
            let changed = fs::metadata(&subject.config).and_then(|meta| meta.modified())?;
            let stale =
                reload::loaded_at(worker).is_some_and(|loaded| loaded + TIME_TOLERANCE < changed);
            if stale {
                self.drift.push(format!(
                    "{} was changed after HAProxy had loaded it",
                    subject.config.display()
                ));
            }
            let live = by_servers.or(by_file.filter(|_| !stale));
            self.live.push(live.map(|color| color.to_string()));
        }
        let recorded = self.record.as_deref().and_then(Color::parse);
        self.active = self.agreed().or(recorded.filter(|_| self.live.iter().all(Option::is_none)));
        if let Some(ours) = read_word(&subject.digest_file())? {
            if ours != digest(&self.text) {
                self.drift.push(format!(
                    "{} is not the configuration that this module has written: someone else has changed it",
                    subject.config.display()
                ));
            }
        }
        Ok(())
    }

    /// In backends with servers of both colours, the servers that are neither backup nor in maintenance.
    fn live_color(&self) -> Option<Color> {
        let shared: Vec<&str> = (self.groups.iter())
            .filter_map(|group| match group {
                Group::Shared(backend, _) => Some(backend.as_str()),
                Group::OneEach(_) => None,
            })
            .collect();
        let takes_requests = |color: Color| {
            (self.fleet(color).servers())
                .filter(|server| shared.contains(&server.backend.as_str()))
                .any(|server| !server.is_backup && !server.is_maintenance())
        };
        match (takes_requests(Color::Blue), takes_requests(Color::Green)) {
            (true, false) => Some(Color::Blue),
            (false, true) => Some(Color::Green),
            _ => None,
        }
    }

    /// The colour that is active in every live HAProxy.
    fn agreed(&self) -> Option<Color> {
        let color = |value: &Option<String>| Pattern::of(value.as_deref()?).map(|(_, color)| color);
        let first = color(self.live.first()?)?;
        self.live.iter().all(|value| color(value) == Some(first)).then_some(first)
    }

    fn compare(&mut self, subject: &Subject) {
        let what = match subject.method {
            Method::Map(_) => format!("the value of {}", subject.key),
            Method::Reload => "the active colour".to_owned(),
        };
        let says = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        for (socket, live) in self.sockets.iter().zip(&self.live) {
            let first = self.live.first().unwrap_or(live);
            if live != first {
                self.drift.push(format!(
                    "{what} is {} at {socket}, and {} at {}",
                    says(live),
                    says(first),
                    self.sockets[0]
                ));
            }
        }
        let first = self.live.first().cloned().flatten();
        if first != self.file && (first.is_some() || matches!(subject.method, Method::Map(_))) {
            let file = match &subject.method {
                Method::Map(map) => map.display(),
                Method::Reload => subject.config.display(),
            };
            self.drift.push(format!(
                "{what} is {} in the live HAProxy, and {} in {file}",
                says(&first),
                says(&self.file)
            ));
        }
        let Some(active) = self.active else { return };
        match self.record.as_deref() {
            Some(word) if word != active.word() => self.notes.push(format!(
                "{} says {word:?}, but {active} is active: {}",
                subject.active_color_file().display(),
                match self.noted {
                    Some(_) => "a run was killed",
                    None => "someone has flipped by hand",
                }
            )),
            _ => {}
        }
    }

    pub fn fleet(&self, color: Color) -> &Fleet {
        match color {
            Color::Blue => &self.fleets[0],
            Color::Green => &self.fleets[1],
        }
    }

    /// The release of a colour that killed runs have made active and not proven.
    pub fn unproven(&self, color: Color) -> Option<Unproven> {
        let noted = self.noted.as_ref()?;
        let last = Unproven { color: noted.to, release: noted.release.clone() };
        let known = [Some(last), noted.unproven.clone()];
        known.into_iter().flatten().find(|unproven| unproven.color == color)
    }

    /// The release of the active colour, if the newest line of the history is about it.
    pub fn release(&self) -> Option<&str> {
        let newest = self.history.newest().filter(|entry| Some(entry.color) == self.active)?;
        newest.release.as_deref()
    }

    /// The goal of `previous`: the colour, its release, or why it is not possible.
    pub fn previous(&self) -> (Option<Color>, Option<String>, Option<String>) {
        let Some(active) = self.active else {
            return (None, None, Some("the active colour is not known".to_owned()));
        };
        let color = active.other();
        let Some(entry) = self.history.newest_of(color) else {
            return (None, None, Some(format!("the history has no entry of {color}")));
        };
        let release = entry.release.clone();
        let named = release.as_deref().unwrap_or("of unknown name");
        let why = match (entry.verdict, self.fleet(color).troubles(color).as_slice()) {
            (Verdict::Void, _) => Some(format!("{color} holds release {named}, which is void")),
            (Verdict::Good, []) => None,
            (Verdict::Good, troubles) => Some(troubles.join("; ")),
        };
        (Some(color), release, why)
    }

    /// What is shown as `before` and `after`.
    pub fn view(&self) -> Value {
        json!({ "active": self.active, "release": self.release(), "places": self.places() })
    }

    fn places(&self) -> Value {
        let live: Value = match self.live.as_slice() {
            [only] => json!(only),
            several if several.iter().all(|value| Some(value) == several.first()) => {
                json!(several[0])
            }
            several => json!(several),
        };
        json!({ "live": live, "file": self.file, "record": self.record })
    }

    /// The facts that the module and the info module return.
    pub fn facts(&self, mut outcome: Outcome) -> Outcome {
        let (color, release, why) = self.previous();
        let drift: Vec<&String> = self.drift.iter().chain(&self.notes).collect();
        outcome.warnings.extend(self.history.warnings());
        outcome
            .fact("active", json!(self.active))
            .fact("release", json!(self.release()))
            .fact(
                "previous",
                json!({ "color": color, "release": release, "open": why.is_none(), "why": why }),
            )
            .fact(
                "colors",
                json!({
                    "blue": self.fleets[0].to_json(Color::Blue),
                    "green": self.fleets[1].to_json(Color::Green),
                }),
            )
            .fact("places", self.places())
            .fact("drift", json!(drift))
            .fact("history", json!(self.history.entries().collect::<Vec<_>>()))
            .fact("unfinished", json!(self.unfinished))
    }
}

fn read_config(subject: &Subject) -> Result<Vec<u8>> {
    let path = subject.config.display();
    let read = none_if_missing(file::read(&subject.config))
        .with_context(|| format!("reading the configuration {path}"))?;
    read.ok_or_else(|| {
        let msg = format!(
            "there is no configuration {path}: give config, or run this on the load balancer"
        );
        Failure::new("no_config", msg).into()
    })
}

fn find_socket(subject: &Subject, config: &Config) -> Result<Socket> {
    let config_file = subject.config.display();
    let found = config.stats_socket().map(Socket::parse);
    found.and_then(Result::ok).ok_or_else(|| {
        let msg = format!(
            "{config_file} has no `stats socket <path> level admin`: add one and reload HAProxy, or \
             give stats_socket"
        );
        Failure::new("no_socket", msg).into()
    })
}

fn find_groups(subject: &Subject, config: &Config) -> Result<Found> {
    if let Method::Map(map) = &subject.method {
        let backends_for = config.backends_for(&map.to_string_lossy(), &subject.key);
        if !backends_for.is_empty() {
            return Ok(Found::Around(backends_for));
        }
        // Else every backend of a colour would count as this app's, and other apps would be flipped with it.
        let keys = config.looked_up_keys(&map.to_string_lossy());
        if !keys.is_empty() {
            let msg = format!(
                "{} asks {} for {}, and not for {}: set map_key to one of them, or name the \
                 backends of this one in backends",
                subject.config.display(),
                map.display(),
                keys.join(", "),
                subject.key
            );
            return Err(Failure::new("no_backends", msg).into());
        }
    }
    let groups = config.colored_groups(&subject.server_name);
    if groups.is_empty() {
        let msg = format!(
            "{} has no backends of both colours, and none with servers of both: name them in \
             backends (and server_name)",
            subject.config.display()
        );
        return Err(Failure::new("no_backends", msg).into());
    }
    Ok(Found::Groups(groups))
}

fn read_word(path: &Path) -> Result<Option<String>> {
    let bytes =
        none_if_missing(file::read(path)).with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}
