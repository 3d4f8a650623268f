//! What is there: the Deployment, its revisions, and its pods. Reads only.

use crate::annotations::{self, DEPLOY, FROM};
use crate::kubectl::Kubectl;
use crate::subject::Subject;
use crate::template;
use ansible_module::Failure;
use anyhow::{Context, Result};
use serde_json::{Value, json};

const REVISION: &str = "deployment.kubernetes.io/revision";

/// One ReplicaSet of the Deployment.
#[derive(Clone, Debug)]
pub struct Revision {
    pub name: String,
    pub uid: String,
    pub number: u64,
    pub created: String,
    pub template: Value,
    pub deploy_id: Option<String>,
    pub cause: Option<String>,
}

#[derive(Clone, Debug)]
pub struct State {
    pub workload: Value,
    /// The oldest first.
    pub revisions: Vec<Revision>,
}

pub fn observe(kubectl: &Kubectl, subject: &Subject) -> Result<State> {
    let Some(workload) = kubectl.find_object(&subject.workload())? else {
        let msg =
            format!("{} does not exist; nothing was changed; create it first", subject.shown());
        return Err(Failure::new("no_workload", msg).into());
    };
    let sets = kubectl.get(&subject.path("/apis/apps/v1", "replicasets"))?;
    State::of(workload, &sets)
}

/// The pods of all its revisions.
pub fn pods(kubectl: &Kubectl, subject: &Subject, state: &State) -> Result<Vec<Value>> {
    let all = kubectl.get(&subject.path("/api/v1", "pods"))?;
    let ours = |pod: &&Value| {
        controller(pod).is_some_and(|uid| state.revisions.iter().any(|one| one.uid == uid))
    };
    Ok(all["items"].as_array().into_iter().flatten().filter(ours).cloned().collect())
}

/// The uid of what controls an object: labels may match another workload's.
pub fn controller(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|one| one["controller"] == true)?["uid"].as_str()
}

impl State {
    pub fn of(workload: Value, sets: &Value) -> Result<State> {
        let uid = workload["metadata"]["uid"].as_str().context("the Deployment has no uid")?;
        let mut revisions: Vec<Revision> = (sets["items"].as_array().into_iter().flatten())
            .filter(|set| controller(set) == Some(uid))
            .filter_map(Revision::of)
            .collect();
        revisions.sort_by_key(|one| one.number);
        Ok(State { workload, revisions })
    }

    pub fn template(&self) -> &Value {
        &self.workload["spec"]["template"]
    }

    /// The revision that the Deployment asks for; none until its controller has made it.
    pub fn current(&self) -> Option<&Revision> {
        self.revisions.iter().rev().find(|one| one.template == *self.template())
    }

    pub fn named(&self, name: &str) -> Option<&Revision> {
        self.revisions.iter().find(|one| one.name == name)
    }

    pub fn is_good(&self, revision: &Revision) -> bool {
        annotations::good(&self.workload).iter().any(|good| good.revision == revision.name)
    }

    /// Whether a run has begun something and not ended.
    pub fn is_unfinished(&self) -> bool {
        annotations::read(&self.workload, FROM).is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.workload["spec"]["paused"] == true
    }

    /// What is shown as `before` and `after`.
    pub fn view(&self) -> Value {
        json!({
            "revision": self.current().map(|one| one.number),
            "images": template::images(self.template()),
            "deploy_id": annotations::read(&self.workload, DEPLOY),
        })
    }
}

impl Revision {
    fn of(set: &Value) -> Option<Revision> {
        let text = |key: &str| set["metadata"][key].as_str().map(str::to_owned);
        Some(Revision {
            name: text("name")?,
            uid: text("uid")?,
            number: annotations::read(set, REVISION)?.parse().ok()?,
            created: text("creationTimestamp").unwrap_or_default(),
            template: template::of_revision(set),
            deploy_id: annotations::read(set, DEPLOY).map(str::to_owned),
            cause: annotations::read(set, annotations::CAUSE).map(str::to_owned),
        })
    }

    pub fn shown(&self) -> String {
        let deploy = self.deploy_id.as_ref().map(|id| format!(", deploy {id}")).unwrap_or_default();
        format!("revision {} ({}{deploy})", self.number, template::shown_images(&self.template))
    }
}

#[cfg(test)]
pub mod samples {
    use super::*;

    /// A Deployment that asks for the last of these revisions, `web-<n>` with the image `shop:<n>`.
    pub fn state(numbers: &[u64]) -> State {
        let template = |number: u64| json!({ "spec": { "containers": [{ "name": "web", "image": format!("shop:{number}") }] } });
        let set = |number: &u64| {
            json!({
                "metadata": {
                    "name": format!("web-{number}"), "uid": format!("uid-{number}"), "annotations": { REVISION: number.to_string() },
                    "ownerReferences": [{ "uid": "uid", "controller": true }],
                },
                "spec": { "template": template(*number) },
            })
        };
        let other = json!({ "metadata": { "name": "other-1", "uid": "x", "annotations": { REVISION: "9" },
            "ownerReferences": [{ "uid": "other", "controller": true }] }, "spec": { "template": template(1) } });
        let mut sets: Vec<Value> = numbers.iter().map(set).collect();
        sets.push(other);
        let last = numbers.last().copied().unwrap_or(1);
        let workload = json!({
            "metadata": { "name": "web", "uid": "uid", "generation": 4, "resourceVersion": "100" },
            "spec": { "replicas": 2, "template": template(last) },
            "status": { "observedGeneration": 4, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2 },
        });
        State::of(workload, &json!({ "items": sets })).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_those_that_it_controls() {
        let state = samples::state(&[3, 1, 4]);
        assert_eq!(state.revisions.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(state.current().map(|one| one.number), Some(4));
    }
}
