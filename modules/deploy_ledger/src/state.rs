//! Observe: the ledger as it is on disk, and how it is shown.

use crate::ledger::{Deploy, Event, Ledger};
use crate::options::{InfoOptions, Options, Where};
use ansible_module::{Failure, Outcome};
use anyhow::{Context, Result};
use host::clock;
use host::deploy_id::DeployId;
use serde_json::{Value, json};
use std::fs;
use std::io::ErrorKind;

pub struct State {
    pub ledger: Ledger,
    pub name: String,
    pub file: String,
}

/// A ledger that is not there yet is an empty one.
pub fn observe(at: &Where) -> Result<State> {
    let file = at.file();
    let ledger = match fs::read(&file) {
        Ok(bytes) => Ledger::parse(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Ledger::default()),
        Err(error) => {
            return Err(error).with_context(|| format!("reading the ledger {}", file.display()));
        }
    };
    let ledger = ledger.with_context(|| format!("reading the ledger {}", file.display()))?;
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
    Ok(State { ledger, name: at.name(), file: file.display().to_string() })
}

impl State {
    pub fn warnings(&self) -> Vec<String> {
        match self.ledger.torn {
            0 => Vec::new(),
            bytes => vec![format!(
                "the last line of {} was torn by a crash; its {bytes} bytes are left out",
                self.file
            )],
        }
    }

    /// The part of the ledger that a task about `id` changes. No times: check mode shows the same.
    pub fn view(ledger: &Ledger, id: &DeployId) -> Value {
        let deploy = ledger.deploy(id).map(|deploy| {
            let last = deploy.phases.last();
            let mut shown = json!({
                "deploy_id": deploy.id,
                "release": deploy.release,
                "open": deploy.is_open(),
                "phases": deploy.phases.len(),
                "phase": last.map(|phase| &phase.phase),
                "status": last.map(|phase| phase.status),
                "data": last.map(|phase| &phase.data),
                "outcome": deploy.outcome,
                "void": deploy.void,
            });
            if let Value::Object(map) = &mut shown {
                map.retain(|_, value| !value.is_null());
            }
            shown
        });
        json!({ "holder": ledger.holder().map(|holder| &holder.id), "deploy": deploy })
    }

    /// What was recorded is there.
    pub fn verify(&self, options: &Options) -> Result<Value> {
        let deploy = self.ledger.deploy(&options.deploy);
        let seen = deploy.is_some_and(|deploy| match &options.event {
            Event::Open { .. } => deploy.is_open(),
            Event::Phase { phase, status, data } => deploy.phases.last().is_some_and(|last| {
                (&last.phase, &last.status, &last.data) == (phase, status, data)
            }),
            Event::Close { outcome } => deploy.outcome == Some(*outcome),
            Event::Void { reason } => deploy.void.as_ref() == Some(reason),
        });
        if !seen {
            let msg = format!("{} does not hold what was just written to it", self.file);
            return Err(Failure::new("not_verified", msg).into());
        }
        Ok(State::view(&self.ledger, &options.deploy))
    }

    pub fn report(&self, options: &InfoOptions) -> Result<Outcome> {
        let deploys: Vec<Value> = (self.ledger.deploys.iter().rev())
            .filter(|deploy| options.deploy.as_ref().is_none_or(|wanted| *wanted == deploy.id))
            .take(options.limit)
            .map(described)
            .collect();
        let outcome = Outcome { warnings: self.warnings(), ..Outcome::default() };
        Ok(outcome
            .fact("ledger", self.file.as_str())
            .fact("holder", self.ledger.holder().map(holder))
            .fact("deploys", deploys)
            .fact("damaged", self.ledger.damaged.clone()))
    }
}

pub fn silent_for(deploy: &Deploy) -> u64 {
    // A clock that went back makes it no younger than just now.
    u64::try_from(clock::now().unix() - deploy.last.unix()).unwrap_or(0)
}

fn holder(deploy: &Deploy) -> Value {
    let silent = silent_for(deploy);
    json!({
        "deploy_id": deploy.id,
        "phase": deploy.phases.last().map(|last| &last.phase),
        "by": deploy.by,
        "silent_for": silent,
        "abandoned": silent > deploy.lease,
    })
}

fn described(deploy: &Deploy) -> Value {
    let phases: Vec<Value> = (deploy.phases.iter())
        .map(|phase| {
            json!({
                "phase": phase.phase,
                "status": phase.status,
                "at": phase.at,
                "data": phase.data,
            })
        })
        .collect();
    json!({
        "deploy_id": deploy.id,
        "release": deploy.release,
        "opened": deploy.opened,
        "last": deploy.last,
        "by": deploy.by,
        "outcome": deploy.outcome,
        "superseded_by": deploy.superseded_by,
        "void": deploy.void,
        "phases": phases,
    })
}
