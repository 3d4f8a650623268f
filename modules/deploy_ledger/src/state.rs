//! Observes the ledger and the files made from it, and describes a deploy for the result.

use crate::brief::described_point;
use crate::ledger::{Deploy, Event, Flip, ImportedFlip, Ledger, Outcome, Scope, Status};
use crate::options::{LedgerId, Options, Task};
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

/// How many deploys of a long ledger a task needs that changes it.
const NEWEST: usize = 3;
/// More when one is opened: the present release may be some deploys old.
const NEWEST_TO_OPEN: usize = 20;

/// Limit for the size of a ledger or report.
const MAX_BYTES: u64 = 1 << 30;

/// Clocks of two machines differ a little.
const CLOCK_SLACK: i64 = 60;

pub struct State {
    pub ledger: Ledger,
    /// Rollbacks that are in `ledger` but not yet in its file.
    pub imported: Vec<ImportedFlip>,
    pub bytes: Vec<u8>,
    pub name: String,
    pub file: String,
    /// The fence, if the task is subject to it.
    pub fence: Option<DeployId>,
    /// Whether the fence is ahead of this machine's clock, so that one of them is wrong.
    pub fence_is_ahead: bool,
    /// Present content of the files that the task may write; none where the file does not exist.
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

/// Reads the ledger; a missing one counts as empty.
pub fn observe(at: &LedgerId, scope: Scope<'_>) -> Result<State> {
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
        imported: Vec::new(),
        bytes,
        name: at.name(),
        file: file.display().to_string(),
        fence: None,
        fence_is_ahead: false,
        files,
    })
}

/// Reads the ledger and the files of the task.
pub fn observe_all(options: &Options) -> Result<State> {
    let scope = match &options.task {
        Task::Compact { .. } => Scope::All,
        Task::Record { event, .. } if matches!(**event, Event::Open(_)) => {
            Scope::About { newest: NEWEST_TO_OPEN, named: options.deploy() }
        }
        _ => Scope::About { newest: NEWEST, named: options.deploy() },
    };
    let mut state = observe(&options.at, scope)?;
    // A task that only describes an old deploy must not fail because of an unreadable fence.
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
    Ok(none_if_missing(regular::read(file, Links::Follow, MAX_BYTES))?)
}

impl State {
    /// Adds the flips of the load balancers as if they had been recorded.
    pub fn import_flips(&mut self, flips: &[Flip], at: &LedgerId) {
        self.imported = self.ledger.import_flips(flips, &at.app.to_string(), &at.env.to_string());
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
    // At least 0, also when the clock was set back.
    u64::try_from(clock::now().unix() - deploy.last.unix()).unwrap_or(0)
}

pub fn is_abandoned(deploy: &Deploy) -> bool {
    deploy.is_open() && silent_for(deploy) > deploy.opening.lease
}

/// The migrations of the present release, whose schema a rollback does not undo.
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

/// The newest deploy into each colour, as recorded before it changed anything there: also a killed one,
/// whose release may be there.
pub fn taken(ledger: &Ledger) -> Value {
    let mut taken = Map::new();
    for deploy in ledger.deploys.iter().filter(|deploy| !left_no_release(deploy)) {
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

/// Whether it failed and has recorded that no host holds its release.
fn left_no_release(deploy: &Deploy) -> bool {
    let installed = deploy.phases.iter().any(|(_, phase)| {
        let on = phase.data.map().get("installed").and_then(|hosts| Some(hosts.as_array()?.len()));
        phase.phase == "install" && phase.status == Status::Done || on.is_some_and(|on| on > 0)
    });
    matches!(deploy.outcome(), Some(Outcome::FailedReverted)) && !installed
}
