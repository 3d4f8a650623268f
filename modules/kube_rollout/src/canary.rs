//! Finds an Argo Rollout or a Flagger Canary that refers to the workload: both leave no mark on it. Reads only.
//!
//! Invariant: their objects are asked for only where the cluster has their API.

use crate::kubectl::Kubectl;
use crate::owner::{Found, Owner};
use crate::subject::Subject;
use anyhow::Result;
use serde_json::Value;

/// The API group of a tool, the plural of its objects and the field that refers to a workload.
struct Tool {
    owner: Owner,
    group: &'static str,
    plural: &'static str,
    reference: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        owner: Owner::ArgoRollouts,
        group: "argoproj.io",
        plural: "rollouts",
        reference: "workloadRef",
    },
    Tool {
        owner: Owner::Flagger,
        group: "flagger.app",
        plural: "canaries",
        reference: "targetRef",
    },
];

/// Returns the tool that refers to the workload, and warnings about what the account may not read.
pub fn find(kubectl: &Kubectl, subject: &Subject) -> Result<(Option<Found>, Vec<String>)> {
    let groups = kubectl.get("/apis")?;
    let mut warnings = Vec::new();
    for tool in TOOLS {
        let Some(version) = version(&groups, tool.group) else { continue };
        let path = format!("/apis/{version}");
        // Other tools share the group of Argo Rollouts.
        let kinds = kubectl.get(&path)?;
        if !list(&kinds["resources"]).any(|one| one["name"] == tool.plural) {
            continue;
        }
        match kubectl.get(&subject.path(&path, tool.plural)) {
            Ok(all) => {
                if let Some(name) = referring(&all, tool.reference, subject) {
                    return Ok((Some(found(tool.owner, name, subject)), warnings));
                }
            }
            Err(error) if ansible_module::reason(&error) == "forbidden" => warnings.push(format!(
                "whether {} of {} refer to {} is unknown: the account may not list them",
                tool.plural,
                tool.owner.word(),
                subject.shown()
            )),
            Err(error) => return Err(error),
        }
    }
    Ok((None, warnings))
}

/// Returns the version of a group that the server prefers, such as `flagger.app/v1beta1`.
fn version<'a>(groups: &'a Value, group: &str) -> Option<&'a str> {
    let found = list(&groups["groups"]).find(|one| one["name"] == group)?;
    found["preferredVersion"]["groupVersion"].as_str()
}

/// Returns the name of the object whose reference is the workload.
fn referring<'a>(all: &'a Value, reference: &str, subject: &Subject) -> Option<&'a str> {
    let refers = |one: &&Value| {
        let to = &one["spec"][reference];
        to["kind"] == subject.kind.word() && to["name"] == subject.name
    };
    list(&all["items"]).find(refers)?["metadata"]["name"].as_str()
}

fn found(owner: Owner, name: &str, subject: &Subject) -> Found {
    let (context, namespace) = (&subject.access.context, &subject.namespace);
    let workload = format!("{}/{}", subject.kind.word().to_lowercase(), subject.name);
    let kubectl = format!("kubectl --context {context} -n {namespace}");
    let change = format!(
        "`{kubectl} set image {workload} <container>=<image>` to deploy and `{kubectl} rollout undo {workload}` to roll back"
    );
    let follow = match owner {
        Owner::ArgoRollouts => format!(
            "`kubectl argo rollouts get rollout {name} --context {context} -n {namespace} --watch` to follow it and `kubectl argo rollouts abort {name} --context {context} -n {namespace}` to stop it"
        ),
        _ => format!("`{kubectl} wait canary/{name} --for=condition=promoted` to follow it"),
    };
    Found { owner, of: name.to_owned(), instead: format!("{change}, {follow}") }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_reference_to_this_workload_counts() {
        let subject = Subject::sample();
        let one = |kind: &str, name: &str| json!({ "items": [{ "metadata": { "name": "shop" }, "spec": { "workloadRef": { "kind": kind, "name": name } } }] });
        assert_eq!(referring(&one("Deployment", "web"), "workloadRef", &subject), Some("shop"));
        assert_eq!(referring(&one("Deployment", "worker"), "workloadRef", &subject), None);
        assert_eq!(referring(&one("DaemonSet", "web"), "workloadRef", &subject), None);
        assert_eq!(referring(&one("Deployment", "web"), "targetRef", &subject), None);
    }

    #[test]
    fn the_message_has_the_commands_to_type() {
        let subject = Subject::sample();
        let argo = found(Owner::ArgoRollouts, "shop", &subject).instead;
        assert!(argo.contains("kubectl argo rollouts abort shop --context prod -n shop"), "{argo}");
        let flagger = found(Owner::Flagger, "web", &subject).instead;
        assert!(
            flagger.contains("kubectl --context prod -n shop rollout undo deployment/web"),
            "{flagger}"
        );
    }

    #[test]
    fn a_group_that_the_cluster_lacks_has_no_version() {
        let groups = json!({ "groups": [{ "name": "apps" }, { "name": "flagger.app", "preferredVersion": { "groupVersion": "flagger.app/v1beta1" } }] });
        assert_eq!(version(&groups, "argoproj.io"), None);
        assert_eq!(version(&groups, "flagger.app"), Some("flagger.app/v1beta1"));
    }
}
