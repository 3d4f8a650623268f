//! What the module notes on a workload: the fence, what a run is about, and which revisions were good.
//!
//! Invariant: a note is written in the same call as the change that it is about, so no run is ever half noted: one that is killed has
//! either changed nothing or left all that the next one needs. The controller copies these notes to the revision that is current.

use host::deploy_id::DeployId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The id of the newest run that has changed the workload: the fence.
pub const RUN: &str = "reversible.deploy/run";
/// The deploy that the current revision is of.
pub const DEPLOY: &str = "reversible.deploy/deploy-id";
/// The revision that a run which has not ended goes back to, by the name of its ReplicaSet. Empty when it goes back nowhere.
pub const FROM: &str = "reversible.deploy/from";
/// Which revisions were seen to be out, the newest first.
pub const GOOD: &str = "reversible.deploy/good";
/// Kubernetes' own.
pub const CAUSE: &str = "kubernetes.io/change-cause";

/// More than any history has revisions.
const MOST_GOOD: usize = 20;

/// A revision that was seen to be out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    /// The name of its ReplicaSet, which stays when its number does not.
    pub revision: String,
    pub deploy_id: Option<String>,
}

pub fn read<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

/// Sets a note, or removes it.
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

/// The run that the fence stands at. What is no deploy id was written by somebody else, and fences nothing.
pub fn fence(workload: &Value) -> Option<DeployId> {
    read(workload, RUN).and_then(|text| text.parse().ok())
}

/// What is unreadable counts as nothing: then there is no previous revision, which is said.
pub fn good(workload: &Value) -> Vec<Good> {
    read(workload, GOOD).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Puts a revision first among the good ones.
pub fn with_good(mut all: Vec<Good>, new: Good) -> Vec<Good> {
    all.retain(|one| *one != new);
    all.insert(0, new);
    all.truncate(MOST_GOOD);
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
    fn the_newest_is_first_and_once() {
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
