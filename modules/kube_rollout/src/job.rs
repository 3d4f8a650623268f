//! The Job of a migration: how it is made from a workload's pod template, and what its status says. Pure.

use crate::annotations::{self, DEPLOY};
use crate::subject::Subject;
use host::deploy_id::DeployId;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// The workload that a Job migrates for: `Deployment/web`.
const OF: &str = "reversible.deploy/workload";
/// A hash of the pod's spec, by which a later run knows the Job as its own.
const SPEC: &str = "reversible.deploy/spec";
/// Why a run has ended the Job: the reason, `: ` and a sentence.
const ENDED: &str = "reversible.deploy/ended";
/// Kubernetes' own label for the tool that manages an object, and our value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "reversible.deploy");
/// A label of the Job's pod, for a NetworkPolicy.
const POD_LABEL: (&str, &str) = ("reversible.deploy/job", "migrate");

/// The longest name of a Job, since it becomes the value of a label of its pod.
const MAX_NAME: usize = 63;
/// For how many seconds longer than the deadline of the task the server lets the Job run: the log of a Job that the server ends is gone.
const GRACE: u64 = 30;

/// Fields of the workload's pod that a migration needs as well. Init containers are not among them: they may wait for this very migration.
const POD_FIELDS: &[&str] = &[
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostNetwork",
    "imagePullSecrets",
    "nodeSelector",
    "os",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "volumes",
];
/// Fields of the container that are about serving, or that the command of the migration replaces.
const NOT_OF_CONTAINER: &[&str] = &[
    "args",
    "command",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "restartPolicy",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "tty",
];
/// Annotations that keep service meshes from adding a container, which would never end.
const NO_MESH: &[(&str, &str)] =
    &[("sidecar.istio.io/inject", "false"), ("linkerd.io/inject", "disabled")];

/// How far a Job has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    Runs,
    Done,
    /// With the reason and the sentence of the run that has ended it, or those of the server.
    Failed {
        reason: &'static str,
        why: String,
    },
}

/// Reasons of a failed migration; the last one is the server's own.
const REASONS: &[&str] =
    &["image_pull", "container_config", "oom_killed", "migration_timed_out", "migration_failed"];

/// Returns the name of the Job: that of the workload and the id of the deploy, so that each deploy has one.
pub fn name(workload: &str, id: &DeployId) -> String {
    let end = format!("-migrate-{id}");
    let workload = workload.replace('.', "-");
    let room = MAX_NAME - end.len();
    if workload.len() <= room {
        return format!("{workload}{end}");
    }
    // Two long names may begin alike.
    let hash = host::hex(&Sha256::digest(workload.as_bytes())[..4]);
    let start = workload[..room - hash.len() - 1].trim_end_matches('-');
    format!("{start}-{hash}{end}")
}

/// Makes the Job from the workload's pod template.
pub fn make(
    subject: &Subject,
    template: &Value,
    container: usize,
    image: &str,
    command: &[String],
    deadline: Duration,
    id: &DeployId,
) -> Value {
    let pod = pod(&template["spec"], container, image, command);
    let annotations = json!({ OF: of(subject), DEPLOY: id.as_str(), SPEC: hash(&pod) });
    let mut pod_annotations = annotations.clone();
    for (key, value) in NO_MESH {
        pod_annotations[*key] = json!(value);
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name(&subject.name, id),
            "namespace": subject.namespace,
            "labels": { MANAGED_BY.0: MANAGED_BY.1 },
            "annotations": annotations,
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": deadline.as_secs_f64().ceil() as u64 + GRACE,
            "template": {
                // None of the workload's own: a Service would send requests to it.
                "metadata": { "labels": { MANAGED_BY.0: MANAGED_BY.1, POD_LABEL.0: POD_LABEL.1 }, "annotations": pod_annotations },
                "spec": pod,
            },
        },
    })
}

fn pod(spec: &Value, container: usize, image: &str, command: &[String]) -> Value {
    let mut pod: Map<String, Value> = POD_FIELDS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), spec.get(*key)?.clone())))
        .collect();
    let nodes = &spec["affinity"]["nodeAffinity"];
    if !nodes.is_null() {
        pod.insert("affinity".into(), json!({ "nodeAffinity": nodes }));
    }
    let mut one = spec["containers"][container].clone();
    if let Some(fields) = one.as_object_mut() {
        fields.retain(|key, _| !NOT_OF_CONTAINER.contains(&key.as_str()));
    }
    one["image"] = json!(image);
    one["command"] = json!(command);
    // The claims of a StatefulSet are no volumes of its template.
    let has = |name: &Value| list(&spec["volumes"]).any(|volume| volume["name"] == *name);
    for key in ["volumeMounts", "volumeDevices"] {
        if let Some(mounts) = one.get_mut(key).and_then(Value::as_array_mut) {
            mounts.retain(|mount| has(&mount["name"]));
        }
    }
    pod.insert("containers".into(), json!([one]));
    pod.insert("restartPolicy".into(), json!("Never"));
    Value::Object(pod)
}

/// Hashes a pod's spec; the keys of a JSON object are in order.
fn hash(pod: &Value) -> String {
    host::hex(&Sha256::digest(pod.to_string().as_bytes())[..16])
}

fn of(subject: &Subject) -> String {
    format!("{}/{}", subject.kind.word(), subject.name)
}

/// Whether a Job is a migration of this workload.
pub fn is_of(job: &Value, subject: &Subject) -> bool {
    annotations::read(job, OF) == Some(of(subject).as_str())
}

/// Whether two Jobs run the same.
pub fn is_same(one: &Value, other: &Value) -> bool {
    let key = |job: &Value| [OF, SPEC].map(|key| annotations::read(job, key).map(str::to_owned));
    key(one) == key(other) && key(one).iter().all(Option::is_some)
}

pub fn deploy(job: &Value) -> Option<DeployId> {
    annotations::read(job, DEPLOY).and_then(|text| text.parse().ok())
}

/// Returns the Jobs that are beyond the number to keep, which the Job `current` counts for, whether it exists yet or not. One that runs
/// is none of them, nor one whose deploy is unknown.
pub fn beyond(jobs: &[Value], current: &str, retain: Option<u64>) -> Vec<String> {
    let Some(retain) = retain else { return Vec::new() };
    let mut ended: Vec<(DeployId, &str)> = jobs
        .iter()
        .filter(|job| name_of(job) != current && progress(job) != Progress::Runs)
        .filter_map(|job| Some((deploy(job)?, name_of(job))))
        .collect();
    ended.sort();
    let kept = usize::try_from(retain - 1).unwrap_or(usize::MAX);
    ended.truncate(ended.len().saturating_sub(kept));
    ended.into_iter().map(|(_, name)| name.to_owned()).collect()
}

pub fn name_of(job: &Value) -> &str {
    job["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn progress(job: &Value) -> Progress {
    let is = |kind: &str| {
        list(&job["status"]["conditions"])
            .find(|one| one["type"] == kind && one["status"] == "True")
    };
    if is("Complete").is_some() {
        return Progress::Done;
    }
    let Some(failed) = is("Failed") else { return Progress::Runs };
    if let Some((reason, why)) =
        annotations::read(job, ENDED).and_then(|text| text.split_once(": "))
    {
        if let Some(reason) = REASONS.iter().find(|known| **known == reason) {
            return Progress::Failed { reason, why: why.to_owned() };
        }
    }
    let text = |key: &str| failed[key].as_str().unwrap_or_default().to_owned();
    let reason = match failed["reason"] == "DeadlineExceeded" {
        true => "migration_timed_out",
        false => "migration_failed",
    };
    Progress::Failed { reason, why: format!("{}: {}", text("reason"), text("message")) }
}

/// Makes the server end a Job and its pods, and notes why.
pub fn end(job: &mut Value, reason: &str, why: &str) {
    annotations::write(job, ENDED, Some(&format!("{reason}: {why}")));
    job["spec"]["activeDeadlineSeconds"] = json!(1);
}

/// Describes how the container of a Job's pod has ended; `None` while it has not.
pub fn ended(pod: &Value) -> Option<(&'static str, String)> {
    let ended = list(&pod["status"]["containerStatuses"])
        .find_map(|one| one["state"].get("terminated").filter(|ended| !ended.is_null()))?;
    let code = ended["exitCode"].as_i64().unwrap_or_default();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    Some(match ended["reason"].as_str() {
        Some("OOMKilled") => {
            ("oom_killed", format!("pod {name}: OOMKilled: its memory limit is too low for it"))
        }
        _ => ("migration_failed", format!("pod {name} ended with exit code {code}")),
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "20261121t084500z-7f3a";

    fn id() -> DeployId {
        ID.parse().unwrap()
    }

    fn template() -> Value {
        json!({
            "metadata": { "labels": { "app": "web" }, "annotations": { "a": "b" } },
            "spec": {
                "serviceAccountName": "shop", "imagePullSecrets": [{ "name": "pull" }], "restartPolicy": "Always",
                "affinity": { "podAntiAffinity": {}, "nodeAffinity": { "x": 1 } },
                "initContainers": [{ "name": "wait", "image": "wait:1" }],
                "volumes": [{ "name": "config", "configMap": { "name": "web" } }],
                "containers": [
                    { "name": "proxy", "image": "proxy:1" },
                    { "name": "web", "image": "shop:1", "args": ["serve"], "ports": [{ "containerPort": 80 }], "livenessProbe": {},
                      "readinessProbe": {}, "startupProbe": {}, "lifecycle": {}, "env": [{ "name": "A", "value": "1" }],
                      "envFrom": [{ "secretRef": { "name": "db" } }], "resources": { "limits": { "memory": "1Gi" } },
                      "volumeMounts": [{ "name": "config", "mountPath": "/c" }, { "name": "data", "mountPath": "/d" }] },
                ],
            },
        })
    }

    fn sample(image: &str) -> Value {
        make(
            &Subject::sample(),
            &template(),
            1,
            image,
            &["migrate".into(), "--up".into()],
            Duration::from_millis(1500),
            &id(),
        )
    }

    #[test]
    fn a_job_has_what_its_container_needs_and_nothing_that_serves() {
        let job = sample("shop:2");
        assert_eq!(
            job["spec"]["template"]["spec"],
            json!({
                "serviceAccountName": "shop", "imagePullSecrets": [{ "name": "pull" }], "restartPolicy": "Never",
                "affinity": { "nodeAffinity": { "x": 1 } },
                "volumes": [{ "name": "config", "configMap": { "name": "web" } }],
                "containers": [{ "name": "web", "image": "shop:2", "command": ["migrate", "--up"], "env": [{ "name": "A", "value": "1" }],
                    "envFrom": [{ "secretRef": { "name": "db" } }], "resources": { "limits": { "memory": "1Gi" } },
                    "volumeMounts": [{ "name": "config", "mountPath": "/c" }] }],
            })
        );
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"].get("app"),
            None,
            "a Service would send requests to it"
        );
        assert_eq!(
            (&job["spec"]["backoffLimit"], &job["spec"]["activeDeadlineSeconds"]),
            (&json!(0), &json!(32))
        );
        assert_eq!(job["spec"].get("ttlSecondsAfterFinished"), None);
    }

    #[test]
    fn a_name_has_the_whole_id_and_fits_into_a_label() {
        assert_eq!(name("web", &id()), format!("web-migrate-{ID}"));
        let long = |end: &str| name(&format!("{}{end}", "a.".repeat(40)), &id());
        assert!(long("x").len() <= MAX_NAME && long("x").ends_with(ID) && !long("x").contains('.'));
        assert_ne!(long("x"), long("y"));
    }

    #[test]
    fn a_job_of_another_image_is_another_one() {
        assert!(is_same(&sample("shop:2"), &sample("shop:2")));
        assert!(!is_same(&sample("shop:2"), &sample("shop:3")));
        assert!(!is_same(&json!({}), &json!({})), "a Job of somebody else");
        assert!(is_of(&sample("shop:2"), &Subject::sample()));
    }

    #[test]
    fn only_the_oldest_that_have_ended_are_beyond_the_number_to_keep() {
        let job = |minute: u32, ended: bool| {
            let id = format!("20261121t08{minute:02}00z-7f3a").parse().unwrap();
            let mut job = make(
                &Subject::sample(),
                &template(),
                1,
                "shop:2",
                &["migrate".into()],
                Duration::from_secs(1),
                &id,
            );
            if ended {
                job["status"]["conditions"] = json!([{ "type": "Failed", "status": "True" }]);
            }
            job
        };
        let jobs = [job(30, true), job(10, true), job(0, false), job(20, true), job(40, true)];
        let beyond = |retain| {
            let names = super::beyond(&jobs, name_of(&jobs[4]), retain);
            names
                .iter()
                .map(|name| name.rsplit('-').nth(1).unwrap()[11..13].to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(beyond(None), Vec::<String>::new());
        assert_eq!(beyond(Some(4)), Vec::<String>::new());
        assert_eq!(beyond(Some(2)), ["10", "20"]);
        assert_eq!(beyond(Some(1)), ["10", "20", "30"]);
    }

    #[test]
    fn the_status_says_how_far_it_is() {
        let mut job = sample("shop:2");
        assert_eq!(progress(&job), Progress::Runs);
        let with = |job: &mut Value, kind: &str, reason: &str| {
            job["status"]["conditions"] =
                json!([{ "type": kind, "status": "True", "reason": reason, "message": "x" }]);
        };
        with(&mut job, "Complete", "");
        assert_eq!(progress(&job), Progress::Done);
        let reason = |job: &Value| match progress(job) {
            Progress::Failed { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        with(&mut job, "Failed", "BackoffLimitExceeded");
        assert_eq!(reason(&job), "migration_failed");
        with(&mut job, "Failed", "DeadlineExceeded");
        assert_eq!(reason(&job), "migration_timed_out");
        end(&mut job, "image_pull", "no: such image");
        assert_eq!(
            progress(&job),
            Progress::Failed { reason: "image_pull", why: "no: such image".into() }
        );
    }
}
