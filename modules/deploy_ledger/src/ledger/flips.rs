//! Rollbacks made while the ledger could not be reached. They are in the history of the load balancers.
//!
//! Invariant: a flip is imported once, and only when it is newer than every recorded deploy. An older
//! one was recorded when it was made, or has been compacted away.

use super::{Deploy, Event, Ledger, Opening, Outcome, Purpose};
use ansible_module::Failure;
use host::clock::Utc;
use host::deploy_id::DeployId;
use serde_json::{Map, Value};

const REASON: &str = "not recorded when it was made, since the ledger did not answer; taken from the history of the load balancers";

/// A line of the history of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flip {
    pub at: Utc,
    pub color: String,
    pub release: Option<String>,
    pub id: DeployId,
}

impl Flip {
    /// Parses an entry of `history` of `haproxy_color_switch_info`. A flip by hand has no id, and is not
    /// imported.
    pub fn parse(map: &Map<String, Value>) -> Result<Option<Flip>, Failure> {
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let wrong = |key: &str| {
            let msg = format!(
                "argument 'flips' has an entry whose {key} cannot be read: give it the history of haproxy_color_switch_info"
            );
            Failure::new("bad_options", msg)
        };
        let Some(id) = text("deploy_id").and_then(|id| DeployId::parse(id).ok()) else {
            return Ok(None);
        };
        let color = text("color").filter(|color| ["blue", "green"].contains(color));
        Ok(Some(Flip {
            at: text("time").and_then(|at| at.parse().ok()).ok_or_else(|| wrong("time"))?,
            color: color.ok_or_else(|| wrong("color"))?.to_owned(),
            release: text("release").map(str::to_owned),
            id,
        }))
    }

    /// The opening that would have been recorded.
    fn opening(&self, app: &str, env: &str) -> Opening {
        Opening {
            app: app.to_owned(),
            env: env.to_owned(),
            release: self.release.clone(),
            by: String::new(),
            lease: 0,
            take_over: None,
            back_to: None,
            reason: Some(REASON.to_owned()),
            config: None,
            purpose: Purpose::Rollback,
            unlock: None,
        }
    }
}

/// A flip, and its events that are missing in the ledger.
#[derive(Clone, Debug)]
pub struct ImportedFlip {
    pub flip: Flip,
    pub events: Vec<Event>,
}

impl Ledger {
    /// Adds the missing flips, the oldest first, and returns them. An empty ledger gets none, since it was
    /// started after them.
    pub fn import_flips(&mut self, flips: &[Flip], app: &str, env: &str) -> Vec<ImportedFlip> {
        let newest = self.deploys.iter().map(|deploy| &deploy.id).max().cloned();
        let Some(newest) = newest else { return Vec::new() };
        let mut imported: Vec<ImportedFlip> = Vec::new();
        for flip in flips {
            // Opened but not closed: the run that imported it was killed.
            let half = self.deploy(&flip.id).is_some_and(is_half);
            // A run with flips to both colours has rolled back by itself.
            let went_back =
                flips.iter().any(|other| other.id == flip.id && other.color != flip.color);
            let again = imported.iter().any(|other| other.flip.id == flip.id);
            if went_back || again || !(half || flip.id > newest) {
                continue;
            }
            let close = Event::Close { outcome: Outcome::Done, color: Some(flip.color.clone()) };
            let events = match half {
                true => vec![close],
                false => vec![Event::Open(flip.opening(app, env)), close],
            };
            imported.push(ImportedFlip { flip: flip.clone(), events });
        }
        imported.sort_by(|one, other| one.flip.id.cmp(&other.flip.id));
        for ImportedFlip { flip, events } in &imported {
            for event in events {
                self.add(flip.at, flip.id.clone(), event.clone());
            }
        }
        imported
    }
}

fn is_half(deploy: &Deploy) -> bool {
    deploy.is_open() && deploy.opening.reason.as_deref() == Some(REASON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OLD: &str = "20261121t084500z-7f3a";
    const BACK: &str = "20261121t090000z-0001";
    const LATER: &str = "20261121t091500z-0002";

    fn flip(id: &str, color: &str) -> Flip {
        let line = json!({"time": "2026-11-21T09:00:01Z", "color": color, "release": "abc", "deploy_id": id, "verdict": "good"});
        Flip::parse(line.as_object().expect("a dictionary")).expect("readable").expect("an id")
    }

    fn ledger() -> Ledger {
        let old = flip(OLD, "blue");
        let mut ledger = Ledger::default();
        ledger.add(old.at, old.id.clone(), Event::Open(old.opening("shop", "prod")));
        ledger.add(old.at, old.id, Event::Close { outcome: Outcome::Done, color: None });
        ledger
    }

    fn ids(imported: &[ImportedFlip]) -> Vec<&str> {
        imported.iter().map(|one| one.flip.id.as_str()).collect()
    }

    #[test]
    fn newer_flips_are_imported_once() {
        let flips =
            [flip(LATER, "blue"), flip(BACK, "green"), flip(OLD, "blue"), flip(BACK, "green")];
        let mut ledger = ledger();
        assert_eq!(ids(&ledger.import_flips(&flips, "shop", "prod")), [BACK, LATER]);
        assert_eq!(ledger.current().map(|deploy| deploy.id.as_str()), Some(LATER));
        assert!(ledger.damaged.is_empty() && ledger.holder().is_none());
        assert!(ledger.import_flips(&flips, "shop", "prod").is_empty());
    }

    #[test]
    fn a_half_imported_flip_is_completed() {
        let mut ledger = ledger();
        let back = flip(BACK, "green");
        ledger.add(back.at, back.id.clone(), Event::Open(back.opening("shop", "prod")));
        let imported = ledger.import_flips(&[back], "shop", "prod");
        assert_eq!((ids(&imported), imported[0].events.len()), (vec![BACK], 1));
        assert!(ledger.damaged.is_empty() && ledger.holder().is_none());
    }

    #[test]
    fn a_run_that_went_back_by_itself_has_rolled_nothing_back() {
        let flips = [flip(BACK, "blue"), flip(BACK, "green")];
        assert!(ledger().import_flips(&flips, "shop", "prod").is_empty());
    }

    #[test]
    fn an_empty_ledger_imports_nothing() {
        assert!(Ledger::default().import_flips(&[flip(BACK, "green")], "shop", "prod").is_empty());
    }

    #[test]
    fn a_flip_by_hand_is_not_imported() {
        let line = json!({"time": "2026-11-21T09:00:01Z", "color": "blue", "deploy_id": null});
        let by_hand = Flip::parse(line.as_object().expect("a dictionary"));
        assert_eq!(by_hand.ok(), Some(None));
        let line = json!({"time": "yesterday", "color": "blue", "deploy_id": BACK});
        assert!(Flip::parse(line.as_object().expect("a dictionary")).is_err());
    }
}
