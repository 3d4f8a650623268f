//! Observes the workload, its revisions and its pods. Reads only.

use crate::annotations::{self, DEPLOY, FROM};
use crate::kubectl::Kubectl;
use crate::subject::{Kind, Subject};
use crate::template;
use ansible_module::Failure;
use anyhow::{Context, Result};
use serde_json::{Value, json};

const REVISION: &str = "deployment.kubernetes.io/revision";
/// The label on pods of a StatefulSet or a DaemonSet.
const POD_REVISION: &str = "controller-revision-hash";

/// A revision, from its ReplicaSet or ControllerRevision.
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
    pub kind: Kind,
    pub workload: Value,
    /// All revisions, the oldest first.
    pub revisions: Vec<Revision>,
}

pub fn observe(kubectl: &Kubectl, subject: &Subject) -> Result<State> {
    let Some(workload) = kubectl.find_object(&subject.workload())? else {
        let msg =
            format!("{} does not exist; nothing was changed; create it first", subject.shown());
        return Err(Failure::new("no_workload", msg).into());
    };
    let holders = kubectl.get(&subject.path("/apis/apps/v1", subject.kind.holders()))?;
    State::of(subject.kind, workload, &holders)
}

/// Reads the pods of all revisions of the workload.
pub fn pods(kubectl: &Kubectl, subject: &Subject, state: &State) -> Result<Vec<Value>> {
    let all = kubectl.get(&subject.path("/api/v1", "pods"))?;
    let ours = |pod: &&Value| match state.kind {
        Kind::Deployment => state.revisions.iter().any(|one| state.is_of(pod, one)),
        Kind::StatefulSet | Kind::DaemonSet => controller(pod) == state.uid(),
    };
    Ok(all["items"].as_array().into_iter().flatten().filter(ours).cloned().collect())
}

/// Returns the uid of an object's controller. Labels are not enough: they may match another workload's.
pub fn controller(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|one| one["controller"] == true)?["uid"].as_str()
}

impl State {
    pub fn of(kind: Kind, workload: Value, holders: &Value) -> Result<State> {
        let uid = workload["metadata"]["uid"].as_str().context("the workload has no uid")?;
        let mut revisions: Vec<Revision> = (holders["items"].as_array().into_iter().flatten())
            .filter(|holder| controller(holder) == Some(uid))
            .filter_map(|holder| Revision::of(kind, holder))
            .collect();
        revisions.sort_by_key(|one| one.number);
        Ok(State { kind, workload, revisions })
    }

    fn uid(&self) -> Option<&str> {
        self.workload["metadata"]["uid"].as_str()
    }

    /// Whether a pod belongs to this revision.
    pub fn is_of(&self, pod: &Value, revision: &Revision) -> bool {
        let mark = || pod["metadata"]["labels"][POD_REVISION].as_str();
        let name = self.workload["metadata"]["name"].as_str().unwrap_or_default();
        match self.kind {
            Kind::Deployment => controller(pod) == Some(&revision.uid),
            Kind::StatefulSet => {
                controller(pod) == self.uid() && mark() == Some(revision.name.as_str())
            }
            Kind::DaemonSet => {
                let hash = revision.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
                controller(pod) == self.uid() && mark() == hash
            }
        }
    }

    /// Whether the controller has seen the current spec, so that the status is about it.
    pub fn is_observed(&self) -> bool {
        let observed = self.workload["status"]["observedGeneration"].as_u64().unwrap_or(0);
        observed >= self.workload["metadata"]["generation"].as_u64().unwrap_or(0)
    }

    pub fn template(&self) -> &Value {
        &self.workload["spec"]["template"]
    }

    /// Returns the revision of the current template; `None` until the controller has made it.
    pub fn current(&self) -> Option<&Revision> {
        // A controller may store a template with another formatting than the server; its status says which revision it is.
        let by_status = match self.kind {
            Kind::StatefulSet if self.is_observed() => {
                self.named(self.workload["status"]["updateRevision"].as_str().unwrap_or_default())
            }
            Kind::DaemonSet if self.is_observed() => self.revisions.last(),
            _ => None,
        };
        by_status
            .or_else(|| self.revisions.iter().rev().find(|one| one.template == *self.template()))
    }

    pub fn named(&self, name: &str) -> Option<&Revision> {
        self.revisions.iter().find(|one| one.name == name)
    }

    pub fn is_good(&self, revision: &Revision) -> bool {
        annotations::good(&self.workload).iter().any(|good| good.revision == revision.name)
    }

    /// Whether there is an unfinished run.
    pub fn is_unfinished(&self) -> bool {
        annotations::read(&self.workload, FROM).is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.workload["spec"]["paused"] == true
    }

    /// Returns the type of its update strategy, which the server has filled in.
    pub fn strategy(&self) -> &str {
        let key = if self.kind == Kind::Deployment { "strategy" } else { "updateStrategy" };
        self.workload["spec"][key]["type"].as_str().unwrap_or("RollingUpdate")
    }

    /// Returns what is shown as `before` and `after`.
    pub fn view(&self) -> Value {
        json!({
            "revision": self.current().map(|one| one.number),
            "images": template::images(self.template()),
            "deploy_id": annotations::read(&self.workload, DEPLOY),
        })
    }
}

impl Revision {
    fn of(kind: Kind, holder: &Value) -> Option<Revision> {
        let text = |key: &str| holder["metadata"][key].as_str().map(str::to_owned);
        let number = match kind {
            Kind::Deployment => annotations::read(holder, REVISION)?.parse().ok()?,
            Kind::StatefulSet | Kind::DaemonSet => holder["revision"].as_u64()?,
        };
        Some(Revision {
            name: text("name")?,
            uid: text("uid")?,
            number,
            created: text("creationTimestamp").unwrap_or_default(),
            template: template::of_revision(kind, holder),
            deploy_id: annotations::read(holder, DEPLOY).map(str::to_owned),
            cause: annotations::read(holder, annotations::CAUSE).map(str::to_owned),
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

    /// Makes a Deployment whose current revision is the last of these, `web-<n>` with the image `shop:<n>`.
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
        State::of(Kind::Deployment, workload, &json!({ "items": sets })).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_revisions_that_the_workload_controls_count() {
        let state = samples::state(&[3, 1, 4]);
        assert_eq!(state.revisions.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(state.current().map(|one| one.number), Some(4));
    }
}
