//! Plans the steps from the observed state. Pure.

use crate::color::{Color, Pattern};
use crate::config::Config;
use crate::history::Verdict;
use crate::options::{Method, Subject, Task, Wanted};
use crate::reload::ReloadMethod;
use crate::state::State;
use ansible_module::Failure;
use change::{Plan, Step, Undo};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Flip,
    Prove,
    Watch,
    Record,
}

/// The goal of the plan, with `previous` resolved.
#[derive(Clone, Debug)]
pub struct Switch {
    pub from: Option<Color>,
    pub to: Color,
    pub release: Option<String>,
    /// Whether a killed run had the same goal.
    pub resumes: bool,
    /// The new configuration, for `method: reload`.
    pub content: Option<Vec<u8>>,
    pub reload: Option<ReloadMethod>,
}

/// Determines the goal, and refuses a colour that must not become active.
pub fn resolve(state: &State, task: &Task) -> Result<Switch, Failure> {
    refuse_drift(state, task)?;
    let (to, release) = match task.wanted {
        Wanted::Color(color) => (color, task.release.clone()),
        Wanted::Previous => previous(state, task)?,
    };
    // After a killed run that has flipped already, the old colour is the one that it noted.
    let resumes = state.noted.as_ref().filter(|noted| noted.to == to);
    let from = match resumes.filter(|_| state.active == Some(to)) {
        Some(noted) => noted.from,
        None => state.active,
    };
    Ok(Switch { from, to, release, resumes: resumes.is_some(), content: None, reload: None })
}

pub fn plan(state: &State, task: &Task, switch: &Switch) -> Result<Plan<Action>, Failure> {
    let subject = &task.subject;
    let mut plan = Plan::nothing(title(task), state.view());
    plan.warnings = warnings(state, task, switch);
    plan.identities = vec![format!("active {:?}, file {:?}", state.live, state.file)];
    let to = switch.to;
    let flips = state.active != Some(to) || !state.drift.is_empty();
    let unfinished = state.unfinished.is_some();
    // A killed run may have written it without reloading.
    let loads = switch.content.as_ref().is_some_and(|new| unfinished || *new != state.text);
    let held = switch.release.as_ref().map(|sha| format!(" (release {sha})")).unwrap_or_default();
    if flips || loads {
        let text = flip_text(state, subject, switch);
        plan.steps.push(Step::new(Action::Flip, text + &held));
    }
    let newest = state.history.newest();
    let known = newest.is_some_and(|entry| {
        entry.color == to
            && entry.verdict == Verdict::Good
            && switch.release.as_ref().is_none_or(|release| entry.release.as_ref() == Some(release))
    });
    let recorded = known && state.record.as_deref() == Some(to.word());
    let changes = flips || loads || unfinished || !recorded;
    if !changes {
        return Ok(plan);
    }
    if let Some(prove) = &task.prove {
        let text = format!("prove {to} by {}", prove.title());
        plan.steps.push(Step::new(Action::Prove, text));
    }
    // A release that exceeded its budget does not become good when it is requested again.
    let is_void = newest.is_some_and(|entry| entry.color == to && entry.verdict == Verdict::Void);
    let watched = flips || loads || unfinished || is_void;
    if let Some(budget) = task.budget.as_ref().filter(|_| watched) {
        let seconds = host::deadline::seconds(budget.watch);
        let text = format!("watch the requests of {to} for {seconds}");
        plan.steps.push(Step::new(Action::Watch, text));
    }
    let mut text = format!("record that {to} is active{held}");
    if let Some(from) = switch.from.filter(|from| task.void && *from != to) {
        text.push_str(&format!(", and that the release on {from} is void"));
    }
    plan.steps.push(Step::new(Action::Record, text));
    plan.undo = match switch.from.filter(|from| *from != to) {
        Some(_) if task.void => {
            Undo::None("the old release is marked as void; its colour can still be named".into())
        }
        Some(from) => Undo::By(format!("color: previous, or color: {from}")),
        None => Undo::None("the colour stays".into()),
    };
    plan.after = after(state, switch);
    Ok(plan)
}

fn flip_text(state: &State, subject: &Subject, switch: &Switch) -> String {
    let to = switch.to;
    match &subject.method {
        Method::Map(map) => format!(
            "set {} from {} to {} in the live map {} of {} and in its file",
            subject.key,
            said(state.live.first()),
            state.pattern.name(to),
            map.display(),
            match state.sockets.len() {
                1 => "HAProxy".to_owned(),
                several => format!("{several} HAProxy processes"),
            },
        ),
        Method::Reload => format!(
            "replace {} ({} is active) by one in which {to} is active, and reload HAProxy {}",
            subject.config.display(),
            state.active.map_or("no known colour", Color::word),
            switch.reload.as_ref().map(ReloadMethod::title).unwrap_or_default(),
        ),
    }
}

fn title(task: &Task) -> String {
    match &task.subject.method {
        Method::Map(_) => format!("{} in HAProxy", task.subject.key),
        Method::Reload => task.subject.config.display().to_string(),
    }
}

fn after(state: &State, switch: &Switch) -> Value {
    let kept = state.history.newest().filter(|entry| entry.color == switch.to);
    let release = switch.release.clone().or(kept.and_then(|entry| entry.release.clone()));
    let value = state.pattern.name(switch.to);
    json!({
        "active": switch.to,
        "release": release,
        "places": { "live": value, "file": value, "record": switch.to },
    })
}

fn said(value: Option<&Option<String>>) -> String {
    value.cloned().flatten().unwrap_or_else(|| "nothing".to_owned())
}

/// Refuses to overwrite changes by hand unless asked to; those of a killed run are overwritten.
fn refuse_drift(state: &State, task: &Task) -> Result<(), Failure> {
    let subject = &task.subject;
    if let Method::Map(map) = &subject.method {
        let without = state.sockets.iter().zip(&state.live).find(|(_, live)| live.is_none());
        if let Some((socket, _)) = without {
            let file = map.display();
            let cure = match &state.file {
                Some(value) => {
                    format!("the file {file} has it as {value}: reload HAProxy, which reads it")
                }
                None => {
                    format!(
                        "write `{} blue` (or green) into {file} and reload HAProxy",
                        subject.key
                    )
                }
            };
            return Err(Failure::new(
                "no_key",
                format!(
                    "the live map {file} of HAProxy at {socket} has no key {}: {cure}",
                    subject.key
                ),
            ));
        }
        let odd = state.live.iter().flatten().find(|value| Pattern::of(value).is_none());
        if let Some(value) = odd.filter(|_| !task.settle) {
            let key = &subject.key;
            return Err(Failure::new(
                "no_color",
                format!(
                    "{key} is {value:?} in the live map, which names neither blue nor green; nothing was changed; set it by hand, or pass drift: settle"
                ),
            ));
        }
    }
    if state.drift.is_empty() || task.settle || state.noted.is_some() {
        return Ok(());
    }
    Err(Failure::new(
        "drift",
        format!(
            "{}; nothing was changed; find out who did that, then pass drift: settle to make all of them say \
             the color that is asked for",
            state.drift.join("; ")
        ),
    )
    .with("drift", state.drift.clone()))
}

fn previous(state: &State, task: &Task) -> Result<(Color, Option<String>), Failure> {
    let (color, release, why) = state.previous();
    let Some(color) = color else {
        let why = why.unwrap_or_default();
        return Err(Failure::new(
            "no_previous",
            format!("the previous colour is not known: {why}; name the color"),
        ));
    };
    let is_void =
        state.history.newest_of(color).is_some_and(|entry| entry.verdict == Verdict::Void);
    if is_void {
        let msg =
            format!("{}; name the color if you mean it all the same", why.unwrap_or_default());
        return Err(Failure::new("void", msg));
    }
    Ok((color, task.release.clone().or(release)))
}

fn warnings(state: &State, task: &Task, switch: &Switch) -> Vec<String> {
    let mut warnings: Vec<String> = state.drift.clone();
    warnings.extend(state.notes.iter().cloned());
    let holds = state.history.newest_of(switch.to);
    if let Some(entry) = holds.filter(|entry| entry.verdict == Verdict::Void) {
        if entry.release.is_some() && entry.release == switch.release {
            warnings.push(format!(
                "release {} on {} was marked as void",
                entry.release.clone().unwrap_or_default(),
                switch.to
            ));
        }
    }
    if task.prove.as_ref().is_some_and(|prove| prove.is_insecure()) {
        warnings.push("prove.insecure: the certificate is not checked".to_owned());
    }
    warnings
}

/// Refuses a new configuration that makes another colour active than was asked for.
pub fn check_content(state: &State, switch: &Switch, content: &[u8]) -> Result<(), Failure> {
    let config = Config::parse(&String::from_utf8_lossy(content));
    match config.color(&state.groups) {
        Some(color) if color != switch.to => Err(Failure::new(
            "wrong_color",
            format!(
                "the new configuration makes {color} active, not {}; nothing was changed",
                switch.to
            ),
        )),
        _ => Ok(()),
    }
}
