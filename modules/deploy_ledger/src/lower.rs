//! `state: fence_lowered`: lowers a fence that a wrong clock has put far ahead, in one folder or in
//! every state folder of this machine.

use crate::ledger::{Ledger, Scope};
use crate::state;
use ansible_module::{Failure, Invocation, Outcome};
use anyhow::{Context, Result};
use change::{Consent, Loss, Plan, Session, Step, Undo};
use host::deploy_id::DeployId;
use host::fence::Fence;
use host::folder::SafeFolder;
use host::none_if_missing;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// By default each module has its state in a folder below this one.
const STATE_FOLDERS: &str = "/var/lib/reversible";

/// A fence, and the newest run that it should let pass.
struct Seen {
    folder: PathBuf,
    fence: Option<DeployId>,
    /// More than a day ahead of this machine's clock.
    ahead: bool,
    /// The newest deploy below the fence that a ledger in the same folder records.
    recorded: Option<DeployId>,
}

pub fn lower(invocation: &Invocation, folder: Option<&Path>, to: &DeployId) -> Result<Outcome> {
    // Each fence has its own lock.
    let session = Session::new(invocation, Consent::from(invocation)?);
    Fence::check_clock(to)?;
    let seen = observe(folder)?;
    let mut plan = plan(&seen, to);
    if let (Some(folder), [Seen { ahead: false, fence, .. }]) = (folder, &seen[..]) {
        let folder = folder.display();
        plan.warnings.push(match fence {
            Some(fence) => format!(
                "the fence {fence} in {folder} is not more than a day ahead of this machine's clock: it stays as it is"
            ),
            None => format!("there is no fence in {folder}"),
        });
    }
    session.carry_out(
        plan,
        |(folder, goal), _| match Fence::ahead(folder)? {
            Some(_) => Fence::lower(folder, goal),
            // Another run has lowered it meanwhile.
            None => Ok(()),
        },
        || {
            let after = observe(folder)?;
            match after.iter().find(|one| one.ahead) {
                Some(one) => {
                    let msg = format!("the fence in {} is still ahead", one.folder.display());
                    Err(Failure::new("not_verified", msg).into())
                }
                None => Ok(fences(&after)),
            }
        },
    )
}

fn observe(folder: Option<&Path>) -> Result<Vec<Seen>> {
    let folders = match folder {
        Some(folder) => vec![folder.to_owned()],
        None => state_folders(Path::new(STATE_FOLDERS))?,
    };
    let mut seen = Vec::new();
    for folder in folders {
        let Some(safe) = SafeFolder::find(&folder)? else {
            seen.push(Seen { folder, fence: None, ahead: false, recorded: None });
            continue;
        };
        let fence = Fence::read(safe.path())?;
        let ahead = Fence::ahead(safe.path())?.is_some();
        let recorded = match &fence {
            Some(fence) if ahead => newest_right(safe.path(), fence)?,
            _ => None,
        };
        seen.push(Seen { folder, fence, ahead, recorded });
    }
    Ok(seen)
}

fn state_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("reading {}", root.display());
    let entries = none_if_missing(std::fs::read_dir(root)).with_context(cannot)?;
    let mut folders = Vec::new();
    for entry in entries.into_iter().flatten() {
        let entry = entry.with_context(cannot)?;
        if entry.file_type().with_context(cannot)?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

fn newest_right(folder: &Path, fence: &DeployId) -> Result<Option<DeployId>> {
    let file = folder.join("ledger.jsonl");
    let cannot = || format!("reading the ledger {}", file.display());
    let bytes = state::content(&file).with_context(cannot)?.unwrap_or_default();
    let ledger = Ledger::parse(&bytes, Scope::All).with_context(cannot)?;
    if let Some(first) = ledger.damaged.first() {
        let msg = format!("{} cannot be trusted ({first}): repair that line first", file.display());
        return Err(Failure::new("ledger_damaged", msg).into());
    }
    let right = ledger.deploys.into_iter().map(|deploy| deploy.id).filter(|id| id < fence);
    Ok(right.filter(|id| Fence::check_clock(id).is_ok()).max())
}

/// Lowers only fences that are ahead of the clock: any other keeps superseded runs out. None is lowered
/// below a deploy that is recorded in the same folder.
fn plan(seen: &[Seen], to: &DeployId) -> Plan<(PathBuf, DeployId)> {
    let mut plan = Plan::nothing("fences", fences(seen));
    let mut after = BTreeMap::new();
    for one in seen {
        let Some(fence) = &one.fence else { continue };
        let goal = match (one.ahead, &one.recorded) {
            (false, _) => fence,
            (true, Some(recorded)) => recorded.max(to),
            (true, None) => to,
        };
        after.insert(one.folder.display().to_string(), goal);
        if one.ahead {
            let folder = one.folder.display();
            let text = format!("lower the fence in {folder} from {fence} to {goal}");
            let loss = format!("the refusal of runs with ids from {goal} to {fence}");
            let action = (one.folder.clone(), goal.clone());
            plan.steps.push(Step::new(action, text).loses(Loss::plain(loss)));
        }
    }
    plan.after = json!({ "fences": after });
    plan.undo = Undo::None("a run with an id above the old fence would raise it again".into());
    plan
}

fn fences(seen: &[Seen]) -> Value {
    let all: BTreeMap<String, &DeployId> = seen
        .iter()
        .filter_map(|one| Some((one.folder.display().to_string(), one.fence.as_ref()?)))
        .collect();
    json!({ "fences": all })
}
