//! Judges whether a rollout is complete, goes on, or has failed. Pure.

use crate::state::State;
use crate::subject::Kind;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Out,
    /// The rollout goes on; it waits for this.
    NotYet(String),
    Failed(Fault),
}

/// Why a rollout has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: &'static str,
    pub msg: String,
    /// The pod and the container whose log may explain it.
    pub log_of: Option<(String, String)>,
}

/// A kubelet's reasons for a waiting container that mean that it will not start, each with our reason.
const HOPELESS: &[(&str, &str)] = &[
    ("ImagePullBackOff", "image_pull"),
    ("InvalidImageName", "image_pull"),
    ("ErrImageNeverPull", "image_pull"),
    ("CreateContainerConfigError", "container_config"),
    ("CreateContainerError", "container_config"),
    ("RunContainerError", "container_config"),
];

pub fn judge(state: &State, pods: &[Value], crash_restarts: u64) -> Verdict {
    let workload = &state.workload;
    if !state.is_observed() {
        return Verdict::NotYet("its controller to notice the change".into());
    }
    let Some(current) = state.current() else {
        let holder = state.kind.holder();
        return Verdict::NotYet(format!("its controller to make the new {holder}"));
    };
    let new = pods
        .iter()
        .filter(|pod| state.is_of(pod, current) && pod["metadata"]["deletionTimestamp"].is_null());
    if let Some(fault) = new.filter_map(|pod| fault_of(pod, crash_restarts)).next() {
        return Verdict::Failed(fault);
    }
    if let Some(fault) = condition(workload) {
        return Verdict::Failed(fault);
    }
    match waits_for(state) {
        Some(what) => Verdict::NotYet(what),
        None => Verdict::Out,
    }
}

/// Returns what the rollout waits for, from a status that is about the current spec.
fn waits_for(state: &State) -> Option<String> {
    let status = &state.workload["status"];
    let count = |key: &str| status[key].as_u64().unwrap_or(0);
    let replicas = state.workload["spec"]["replicas"].as_u64().unwrap_or(1);
    let (wanted, updated, all, available) = match state.kind {
        Kind::Deployment => {
            (replicas, count("updatedReplicas"), count("replicas"), count("availableReplicas"))
        }
        Kind::StatefulSet => {
            // At the end the controller makes the new revision the current one, and no longer counts updated pods.
            let is_done = status["currentRevision"] == status["updateRevision"];
            let updated = if is_done { count("replicas") } else { count("updatedReplicas") };
            let all = if is_done { updated } else { count("replicas").max(updated + 1) };
            (replicas, updated, all, count("readyReplicas"))
        }
        Kind::DaemonSet => {
            let updated = count("updatedNumberScheduled");
            (count("desiredNumberScheduled"), updated, updated, count("numberAvailable"))
        }
    };
    if updated < wanted {
        Some(format!("new pods: {updated} of {wanted} are there"))
    } else if all > updated {
        Some(format!("{} old pods to end", all - updated))
    } else if available < wanted {
        Some(format!("pods to be available: {available} of {wanted} are"))
    } else {
        None
    }
}

/// Finds a failing pod of an earlier revision: a StatefulSet's controller waits for it forever before it updates any pod
/// (kubernetes#67250).
pub fn stuck(state: &State, pods: &[Value], crash_restarts: u64) -> Option<String> {
    let in_order = state.workload["spec"]["podManagementPolicy"] != "Parallel";
    let current = state.current().filter(|_| state.kind == Kind::StatefulSet && in_order)?;
    pods.iter()
        .filter(|pod| !state.is_of(pod, current) && pod["metadata"]["deletionTimestamp"].is_null())
        .find(|pod| fault_of(pod, crash_restarts).is_some())
        .and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
}

/// Finds a failure that the controller reports; the status must be about the current spec.
fn condition(workload: &Value) -> Option<Fault> {
    let all = workload["status"]["conditions"].as_array()?;
    let find = |kind: &str, status: &str| {
        all.iter().find(|one| one["type"] == kind && one["status"] == status)
    };
    let message = |one: &Value| one["message"].as_str().unwrap_or_default().to_owned();
    if let Some(one) = find("ReplicaFailure", "True") {
        let msg = message(one);
        let reason = if msg.contains("exceeded quota") { "quota" } else { "pods_refused" };
        return Some(Fault {
            reason,
            msg: format!("the API server refuses its pods: {msg}"),
            log_of: None,
        });
    }
    None
}

/// Finds a container of a pod that will not start, or crashes again and again.
pub fn fault_of(pod: &Value, crash_restarts: u64) -> Option<Fault> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let list = |key: &str| pod["status"][key].as_array().into_iter().flatten();
    list("initContainerStatuses").chain(list("containerStatuses")).find_map(|one| {
        let container = one["name"].as_str().unwrap_or_default();
        let waiting = &one["state"]["waiting"];
        let why = waiting["reason"].as_str().unwrap_or_default();
        let said = waiting["message"].as_str().unwrap_or_default();
        let at = format!("container {container} of pod {name}");
        if let Some((_, reason)) = HOPELESS.iter().find(|(known, _)| *known == why) {
            return Some(Fault { reason, msg: format!("{at}: {why}: {said}"), log_of: None });
        }
        let restarts = one["restartCount"].as_u64().unwrap_or(0);
        if one["ready"] == true || restarts < crash_restarts.max(1) {
            return None;
        }
        let ended = &one["lastState"]["terminated"];
        let code = ended["exitCode"].as_i64().unwrap_or_default();
        let log_of = Some((name.to_owned(), container.to_owned()));
        match ended["reason"].as_str() {
            Some("OOMKilled") => Some(Fault {
                reason: "oom_killed",
                msg: format!(
                    "{at}: OOMKilled, {restarts} restarts: its memory limit is too low for it"
                ),
                log_of,
            }),
            _ => Some(Fault {
                reason: "crash_loop",
                msg: format!("{at}: ended with exit code {code}, {restarts} restarts"),
                log_of,
            }),
        }
    })
}

/// Describes the pods that are not ready, with their uids, for the message of a missed deadline.
pub fn not_ready(state: &State, pods: &[Value]) -> Vec<(String, String)> {
    let Some(current) = state.current() else { return Vec::new() };
    let conditions =
        |pod: &Value| pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    (pods.iter())
        .filter(|pod| state.is_of(pod, current))
        .filter(|pod| {
            !conditions(pod).iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
        .map(|pod| {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let unscheduled = conditions(pod)
                .iter()
                .find(|one| one["type"] == "PodScheduled" && one["status"] == "False")
                .cloned();
            let why = match unscheduled {
                Some(one) => {
                    format!("unschedulable: {}", one["message"].as_str().unwrap_or_default())
                }
                None => "not ready".to_owned(),
            };
            (uid, format!("pod {name} is {why}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples::state;
    use serde_json::json;

    fn pod(status: Value) -> Value {
        json!({ "metadata": { "name": "web-2-x", "ownerReferences": [{ "uid": "uid-2", "controller": true }] },
                "status": { "containerStatuses": [status] } })
    }

    fn reason(pods: &[Value]) -> &'static str {
        match judge(&state(&[1, 2]), pods, 3) {
            Verdict::Failed(fault) => fault.reason,
            Verdict::Out => "out",
            Verdict::NotYet(_) => "not yet",
        }
    }

    #[test]
    fn the_status_of_an_earlier_generation_is_ignored() {
        let mut stale = state(&[1, 2]);
        assert_eq!(judge(&stale, &[], 3), Verdict::Out);
        stale.workload["metadata"]["generation"] = json!(5);
        assert!(matches!(judge(&stale, &[], 3), Verdict::NotYet(_)));
    }

    #[test]
    fn it_is_complete_when_all_pods_are_available_and_none_is_old() {
        for (key, value) in [("updatedReplicas", 1), ("replicas", 3), ("availableReplicas", 1)] {
            let mut one = state(&[1, 2]);
            one.workload["status"][key] = json!(value);
            assert!(matches!(judge(&one, &[], 3), Verdict::NotYet(_)), "{key}");
        }
        let mut none = state(&[1, 2]);
        none.workload["spec"]["replicas"] = json!(0);
        none.workload["status"] = json!({ "observedGeneration": 4 });
        assert_eq!(judge(&none, &[], 3), Verdict::Out);
    }

    #[test]
    fn a_kubelets_reason_fails_the_rollout_at_once() {
        let waiting =
            |why: &str| pod(json!({ "name": "web", "state": { "waiting": { "reason": why } } }));
        assert_eq!(reason(&[waiting("ImagePullBackOff")]), "image_pull");
        assert_eq!(reason(&[waiting("CreateContainerConfigError")]), "container_config");
        assert_eq!(
            reason(&[waiting("ErrImagePull")]),
            "out",
            "the first try may meet a registry that restarts"
        );
        let crashed = |restarts: u64, why: &str| {
            pod(
                json!({ "name": "web", "restartCount": restarts, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                        "lastState": { "terminated": { "reason": why, "exitCode": 3 } } }),
            )
        };
        assert_eq!(reason(&[crashed(2, "Error")]), "out");
        assert_eq!(reason(&[crashed(3, "Error")]), "crash_loop");
        assert_eq!(reason(&[crashed(3, "OOMKilled")]), "oom_killed");
        let mut old = waiting("ImagePullBackOff");
        old["metadata"]["ownerReferences"][0]["uid"] = json!("uid-1");
        assert_eq!(reason(&[old]), "out", "pods of an old revision are ignored");
    }

    #[test]
    fn an_exceeded_quota_has_a_reason_of_its_own() {
        let mut refused = state(&[1, 2]);
        refused.workload["status"]["conditions"] = json!([{ "type": "ReplicaFailure", "status": "True", "message": "pods \"web-2-x\" is forbidden: exceeded quota: q" }]);
        let Verdict::Failed(fault) = judge(&refused, &[], 3) else { panic!("not seen") };
        assert_eq!(fault.reason, "quota");
    }
}
