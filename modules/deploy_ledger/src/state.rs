//! Observe: the ledger and the files that are made from it, as they are on disk, and how a deploy
//! is shown.

use crate::brief::described_point;
use crate::ledger::{Brought, Deploy, Event, Flip, Ledger, Outcome, Scope, Status};
use crate::options::{Options, Task, Where};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::deploy_id::DeployId;
use host::fence::Fence;
use host::none_if_missing;
use host::regular::{self, Links};
use host::{atomic, clock};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of a long ledger a task that changes it wants to know no more than the last few.
const NEWEST: usize = 3;
/// A release may have been deployed, and its migrations run, some deploys ago.
const NEWEST_TO_OPEN: usize = 20;

/// More than any ledger or report is.
const MOST_BYTES: u64 = 1 << 30;

/// A clock that two machines keep is never quite the same.
const CLOCK_SLACK: i64 = 60;

pub struct State {
    pub ledger: Ledger,
    /// Rollbacks that it does not hold yet, and that `ledger` shows all the same.
    pub brought: Vec<Brought>,
    pub bytes: Vec<u8>,
    pub name: String,
    pub file: String,
    /// For a task that it looks at.
    pub fence: Option<DeployId>,
    /// Then either the fence or this machine's clock is wrong.
    pub fence_is_ahead: bool,
    /// What stands in the files that a task may write; none where there is none.
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

/// A ledger that is not there yet is an empty one.
pub fn observe(at: &Where, scope: Scope<'_>) -> Result<State> {
    let file = at.file();
    let bytes = content(&file)
        .with_context(|| format!("reading the ledger {}", file.display()))?
        .unwrap_or_default();
    let ledger = Ledger::parse(&bytes, scope)
        .with_context(|| format!("reading the ledger {}", file.display()))?;
    let (app, env) = (at.app.to_string(), at.env.to_string());
    if let Some(owner) = ledger.belongs_to.as_ref().filter(|owner| **owner != (app, env)) {
        return Err(Failure::new(
            "other_ledger",
            format!(
                "the ledger {} belongs to {} in {}, not to {}: give path another folder",
                file.display(),
                owner.0,
                owner.1,
                at.name()
            ),
        )
        .into());
    }
    let files = BTreeMap::new();
    Ok(State {
        ledger,
        brought: Vec::new(),
        bytes,
        name: at.name(),
        file: file.display().to_string(),
        fence: None,
        fence_is_ahead: false,
        files,
    })
}

/// With the files that the task is about.
pub fn observe_all(options: &Options) -> Result<State> {
    let scope = match &options.task {
        Task::Compact { .. } => Scope::All,
        Task::Record { event, .. } if matches!(**event, Event::Open(_)) => {
            Scope::About { newest: NEWEST_TO_OPEN, named: options.deploy() }
        }
        _ => Scope::About { newest: NEWEST, named: options.deploy() },
    };
    let mut state = observe(&options.at, scope)?;
    // What is said about an old deploy must not fail for a fence that cannot be read.
    if options.fenced_by().is_some() && options.at.folder.is_dir() {
        state.fence = Fence::read(&options.at.folder)?;
        state.fence_is_ahead = Fence::ahead(&options.at.folder)?.is_some();
    }
    let files = [
        &options.outcome_file,
        &options.metrics_file,
        &options.report_markdown,
        &options.report_html,
    ];
    for file in files.into_iter().flatten() {
        let ours = ["ledger.jsonl", "ledger.lock", "fence", "fence.lock"];
        if ours.iter().any(|name| *file == options.at.folder.join(name)) {
            let msg = format!("{} is a file of the ledger itself: give another", file.display());
            return Err(Failure::new("bad_options", msg).into());
        }
        let now = atomic::read(file)?;
        state.files.insert(file.clone(), now);
    }
    Ok(state)
}

pub fn content(file: &Path) -> Result<Option<Vec<u8>>> {
    Ok(none_if_missing(regular::read(file, Links::Follow, MOST_BYTES))?)
}

impl State {
    /// Shows what the load balancers remember as if it had been recorded.
    pub fn bring(&mut self, flips: &[Flip], at: &Where) {
        self.brought = self.ledger.bring(flips, &at.app.to_string(), &at.env.to_string());
    }

    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.ledger.torn > 0 {
            warnings.push(format!(
                "the last line of {} was torn by a crash; its {} bytes are left out",
                self.file, self.ledger.torn
            ));
        }
        if let (Some(fence), true) = (&self.fence, self.fence_is_ahead) {
            warnings.push(format!(
                "the fence {fence} beside {} is more than a day ahead of this machine's clock ({}), so no id is judged by the clock: set \
                 the clock if it is wrong, else lower the fence (playbook lower_fences, or state: fence_lowered)",
                self.file,
                clock::now()
            ));
        }
        if let Some((at, id, _)) = &self.ledger.newest {
            if at.unix() > clock::now().unix() + CLOCK_SLACK {
                warnings.push(format!(
                    "the last line of {} (deploy {id}) is of {at}, which is in the future of this \
                     machine's clock: until then that deploy does not count as silent",
                    self.file
                ));
            }
        }
        warnings
    }

    /// The part of the ledger that a task about `id` changes. No times: check mode shows the same.
    pub fn view(ledger: &Ledger, id: &DeployId) -> Value {
        let deploy = ledger.deploy(id).map(|deploy| {
            let last = deploy.phases.last().map(|(_, phase)| phase);
            let points: Vec<Value> =
                deploy.restore_points.iter().map(|(_, point)| described_point(point)).collect();
            let mut shown = json!({
                "deploy_id": deploy.id,
                "release": deploy.opening.release,
                "open": deploy.is_open(),
                "phases": deploy.phases.len(),
                "phase": last.map(|phase| &phase.phase),
                "status": last.map(|phase| phase.status),
                "data": last.map(|phase| phase.data.map()),
                "restore_points": (!points.is_empty()).then_some(points),
                "reverted": deploy.reverted.as_ref().map(|_| true),
                "outcome": deploy.outcome(),
                "color": deploy.closed.as_ref().and_then(|closed| closed.color.as_ref()),
                "void": deploy.void.as_ref().map(|(_, why)| why),
            });
            if let Value::Object(map) = &mut shown {
                map.retain(|_, value| !value.is_null());
            }
            shown
        });
        json!({ "holder": ledger.holder().map(|holder| &holder.id), "deploy": deploy })
    }
}

pub fn silent_for(deploy: &Deploy) -> u64 {
    // A clock that went back makes it no younger than just now.
    u64::try_from(clock::now().unix() - deploy.last.unix()).unwrap_or(0)
}

pub fn is_abandoned(deploy: &Deploy) -> bool {
    deploy.is_open() && silent_for(deploy) > deploy.opening.lease
}

/// The migrations of the release that is in place: whoever goes back from it meets their schema.
pub fn migrated(ledger: &Ledger) -> Value {
    let Some(current) = ledger.current() else { return json!([]) };
    let of_it = ledger.deploys.iter().filter(|one| one.opening.release == current.opening.release);
    let migrations = of_it.flat_map(|deploy| {
        let phases = deploy.phases.iter().filter(|(_, phase)| phase.phase == "migrate");
        phases.map(move |(_, phase)| {
            let back_to = phase.data.map().get("compatible_back_to").cloned();
            json!({
                "deploy_id": deploy.id,
                "release": deploy.opening.release,
                "compatible_back_to": back_to.filter(|it| it.as_str() != Some("")),
            })
        })
    });
    migrations.collect()
}

/// The newest deploy that went into each colour, as it said before it changed anything there: also one
/// that was killed, and whose release the colour may hold since.
pub fn taken(ledger: &Ledger) -> Value {
    let mut taken = Map::new();
    for deploy in ledger.deploys.iter().filter(|deploy| !left_all_as_it_was(deploy)) {
        let ready = deploy.phases.iter().filter(|(_, phase)| phase.phase == "preflight");
        for color in
            ready.filter_map(|(_, phase)| Some(phase.data.map().get("color")?.as_str()?.to_owned()))
        {
            let of = json!({ "deploy_id": deploy.id, "release": deploy.opening.release });
            taken.insert(color, of);
        }
    }
    taken.into()
}

/// One that failed, and says itself that no host may hold its release.
fn left_all_as_it_was(deploy: &Deploy) -> bool {
    let installed = deploy.phases.iter().any(|(_, phase)| {
        let on = phase.data.map().get("installed").and_then(|hosts| Some(hosts.as_array()?.len()));
        phase.phase == "install" && phase.status == Status::Done || on.is_some_and(|on| on > 0)
    });
    matches!(deploy.outcome(), Some(Outcome::FailedReverted)) && !installed
}
