//! The result of `deploy_ledger_info`.

use crate::brief::{brief, described_point};
use crate::ledger::{Deploy, Ledger, Scope};
use crate::options::InfoOptions;
use crate::readiness::{Layers, closed, readiness};
use crate::state::{self, State, is_abandoned, silent_for};
use ansible_module::{Failure, Outcome};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Above this number of deploys the whole ledger is parsed.
const MANY: usize = 1000;

pub fn info(options: &InfoOptions) -> Result<Outcome> {
    let newest = options.limit.max(options.keep_deploys);
    let scope = match newest {
        newest if newest > MANY => Scope::All,
        newest => Scope::About { newest, named: options.deploy.as_ref() },
    };
    let mut state = state::observe(&options.at, scope)?;
    state.import_flips(&options.flips, &options.at);
    let ledger = &state.ledger;
    let deploys: Vec<Value> = (ledger.deploys.iter().rev())
        .filter(|deploy| options.deploy.as_ref().is_none_or(|wanted| *wanted == deploy.id))
        .take(options.limit)
        .map(|deploy| described(deploy, options.layers.as_ref()))
        .collect();
    let open: Vec<Value> =
        ledger.deploys.iter().filter(|deploy| deploy.is_open()).map(open_run).collect();
    let distrust = ledger.damaged.first().map(|first| {
        format!(
            "{} cannot be trusted ({first}): prune nothing until that line is repaired",
            state.file
        )
    });
    let keep = distrust.is_none().then(|| points_to_keep(ledger, options.keep_deploys));
    let mut outcome = Outcome { warnings: state.warnings(), ..Outcome::default() };
    outcome.warnings.extend(distrust.clone());
    let outcome = outcome
        .fact("ledger", state.file.as_str())
        .fact("holder", ledger.holder().map(open_run))
        .fact("open_runs", open)
        .fact("current", ledger.current().map(brief))
        .fact(
            "locked",
            ledger
                .locked(options.cap)
                .map(|locked| json!({ "deploy_id": locked.by.id, "why": locked.why })),
        )
        .fact("last_good", ledger.last_good().map(brief))
        .fact("deploys", deploys)
        .fact("damaged", ledger.damaged.clone())
        .fact("keep", json!(keep))
        .fact("prune", distrust.is_none())
        .fact("prune_why", distrust);
    ready(&state, options, outcome)
}

fn ready(state: &State, options: &InfoOptions, outcome: Outcome) -> Result<Outcome> {
    let (Some(layers), Some(id)) = (&options.layers, &options.deploy) else { return Ok(outcome) };
    let Some(deploy) = state.ledger.deploy(id) else {
        return Err(Failure::new(
            "unknown_deploy",
            format!("deploy {id} is not in {}: it cannot be rolled back", state.file),
        )
        .into());
    };
    Ok(outcome.fact("readiness", readiness(&state.ledger, deploy, layers)))
}

/// The restore points that no pruning may take.
fn points_to_keep(ledger: &Ledger, newest: usize) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut keep: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let special = [ledger.current(), ledger.last_good()].into_iter().flatten();
    let open = ledger.deploys.iter().filter(|deploy| deploy.is_open());
    for deploy in ledger.deploys.iter().rev().take(newest).chain(special).chain(open) {
        for (_, point) in &deploy.restore_points {
            keep.entry(&point.layer).or_default().insert(&point.name);
        }
    }
    keep
}

fn open_run(deploy: &Deploy) -> Value {
    json!({
        "deploy_id": deploy.id,
        "phase": deploy.phases.last().map(|(_, last)| &last.phase),
        "by": deploy.opening.by,
        "opened": deploy.opened,
        "silent_for": silent_for(deploy),
        "abandoned": is_abandoned(deploy),
    })
}

fn described(deploy: &Deploy, layers: Option<&Layers>) -> Value {
    let phases: Vec<Value> = (deploy.phases.iter())
        .map(|(at, phase)| {
            json!({
                "phase": phase.phase,
                "status": phase.status,
                "at": at,
                "data": phase.data.map(),
            })
        })
        .collect();
    let mut points: Map<String, Value> = Map::new();
    for (at, point) in &deploy.restore_points {
        let mut shown = described_point(point);
        shown["at"] = json!(at);
        if let Some(layers) = layers {
            let why = closed(deploy, point, layers);
            shown["open"] = json!(why.is_none());
            shown["why"] = json!(why);
        }
        if let Value::Array(list) = points.entry(point.layer.clone()).or_insert(json!([])) {
            list.push(shown);
        }
    }
    let mut shown = brief(deploy);
    let more = json!({
        "back_to": deploy.opening.back_to,
        "purpose": deploy.opening.purpose,
        "reason": deploy.opening.reason,
        "opened": deploy.opened,
        "last": deploy.last,
        "seconds": deploy.seconds(),
        "by": deploy.opening.by,
        "reverted": deploy.reverted.as_ref().map(|(at, _)| at),
        "superseded_by": deploy.superseded.as_ref().map(|(by, _)| by),
        "phases": phases,
        "restore_points": points,
    });
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}
