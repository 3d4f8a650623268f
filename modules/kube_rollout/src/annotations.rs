//! The annotations that the module writes on a workload: the fence, the unfinished run, and the good revisions.
//!
//! Invariant: annotations are written in the same call as the change that they describe, so a killed run has either changed nothing or
//! left everything that the next one needs. The controller copies them to the current revision.

use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The id of the newest run that has changed the workload: the fence.
pub const RUN: &str = "reversible.deploy/run";
/// The deploy of the current revision.
pub const DEPLOY: &str = "reversible.deploy/deploy-id";
/// Present while a run is unfinished: the name of the revision that it goes back to after a failure; empty for a rollback.
pub const FROM: &str = "reversible.deploy/from";
/// The good revisions, the newest first.
pub const GOOD: &str = "reversible.deploy/good";
/// Kubernetes' own annotation, which `kubectl rollout history` shows.
pub const CAUSE: &str = "kubernetes.io/change-cause";

/// More revisions than a history has.
const MAX_GOOD: usize = 20;

/// A revision whose rollout was seen to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// The name of its ReplicaSet or ControllerRevision, which does not change as its number does.
    pub revision: String,
    pub deploy_id: Option<String>,
}

pub fn read<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// Sets an annotation, or removes it.
pub fn write(object: &mut Value, key: &str, value: Option<&str>) {
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    match (value, annotations.as_object_mut()) {
        (Some(value), _) => annotations[key] = json!(value),
        (None, Some(all)) => drop(all.remove(key)),
        (None, None) => {}
    }
}

/// Returns the newest run that has changed the workload; a value that is no deploy id was written by somebody else and is ignored.
pub fn fence(workload: &Value) -> Option<DeployId> {
    read(workload, RUN).and_then(|text| text.parse().ok())
}

/// Reads the good revisions. An unreadable annotation counts as none: then a rollback reports that there is no previous revision.
pub fn good(workload: &Value) -> Vec<Good> {
    read(workload, GOOD).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Puts a revision first in the list of the good ones.
pub fn with_good(mut all: Vec<Good>, new: Good) -> Vec<Good> {
    all.retain(|one| *one != new);
    all.insert(0, new);
    all.truncate(MAX_GOOD);
    all
}

pub fn write_good(workload: &mut Value, all: &[Good]) {
    let text = serde_json::to_string(all).unwrap_or_default();
    write(workload, GOOD, (!all.is_empty()).then_some(text.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_revisions_are_listed_newest_first_and_once() {
        let one = |name: &str| Good { revision: name.into(), deploy_id: None };
        let all = ["a", "b", "a"].iter().fold(Vec::new(), |all, name| with_good(all, one(name)));
        assert_eq!(all, [one("a"), one("b")]);
        let mut workload = json!({ "metadata": {} });
        write_good(&mut workload, &all);
        assert_eq!(good(&workload), all);
        write_good(&mut workload, &[]);
        assert_eq!(workload, json!({ "metadata": { "annotations": {} } }));
        write(&mut workload, GOOD, Some("written by hand"));
        assert_eq!(good(&workload), []);
    }
}
