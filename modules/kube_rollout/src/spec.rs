//! The options of `kube_rollout` and `kube_rollout_info`, and what they return. `options.rs` makes typed values of them.

use crate::owner;
use crate::subject::KINDS;
use ansible_module::{Default, Kind, Module, Opt, Return, Support};

const WHERE: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["The name of the workload."]),
    Opt::new("namespace", Kind::Str).required().about(&["Its namespace. There is no default: the one in a kubeconfig may change."]),
    Opt::new("context", Kind::Str).required().about(&[
        "The context of the kubeconfig, which names the cluster and the account.",
        "There is no default: the current context depends on what somebody used last.",
    ]),
    Opt::new("kind", Kind::Str).default(Default::Str("Deployment")).choices(KINDS).about(&["The kind of the workload."]),
    Opt::new("kubeconfig", Kind::AbsolutePath).about(&[
        "The kubeconfig. The default is that of the environment (E(KUBECONFIG)) or of the account's home.",
    ]),
    Opt::new("kubectl", Kind::AbsolutePath).about(&["The program, 1.20 or newer. The default is the one on C(PATH)."]),
];

const WHAT: &[Opt] = &[
    Opt::new("state", Kind::Str).default(Default::Str("present")).choices(&["present", "rolled_back", "migrated"]).about(&[
        "V(present) rolls O(image) out, and waits until the rollout is complete: all pods are of the new revision and available, and no old one is left.",
        "V(rolled_back) goes back to O(to_revision), to the revision of O(deploy_id), or without both to the newest other revision that was good.",
        "V(migrated) runs O(command) in O(image) as a Job, waits until it has ended, and changes no pod of the workload: it is for the migrations of a release, before V(present). It runs once for each O(deploy_id): one that has ended well is not run again, one that runs still is waited for, and one that has failed fails again.",
    ]),
    Opt::new("image", Kind::Str).about(&["The image, for O(state=present) and O(state=migrated)."]),
    Opt::new("container", Kind::Str).about(&[
        "The container whose image is set. It is required if a pod has several containers.",
        "With O(state=migrated) the one whose environment, volume mounts, resources and security context the Job has.",
    ]),
    Opt::new("command", Kind::List).elements(Kind::Str).about(&[
        "For O(state=migrated), which needs it: the program and its arguments. No shell. It replaces the entrypoint of the image.",
    ]),
    Opt::new("deadline", Kind::Seconds).default(Default::Float(600.0)).about(&[
        "For O(state=migrated): for how many seconds the migration may run. Then it is ended, and the task fails. If the task is killed, the server ends it 30 seconds later.",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "For O(state=migrated): how many Jobs of migrations of this workload are kept, that of this run included. The oldest others are deleted, with their pods and logs, once the migration has ended well. A Job that still runs is never deleted.",
        "Without it all are kept. If a Job cannot be deleted, the task warns and does not fail.",
    ]),
    Opt::new("to_revision", Kind::Positive).about(&["The number of a revision, as C(kubectl rollout history) shows it."]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. With O(state=present) a run with an older id than the last one seen is refused; the id is recorded on the revision.",
        "With O(state=rolled_back) it names the deploy whose revision to go back to. O(state=migrated) needs it.",
    ]),
    Opt::new("cause", Kind::Str).about(&[
        "The change cause that C(kubectl rollout history) shows. The default names the deploy and the image.",
    ]),
    Opt::new("on_failure", Kind::Str).default(Default::Str("undo")).choices(&["undo", "none"]).about(&[
        "V(undo) rolls a new revision that does not come up back in the same run, and then fails.",
        "V(none) leaves it as it is. A rollback that does not come up is always left as it is.",
    ]),
    Opt::new("crash_restarts", Kind::Positive).default(Default::Int(3)).about(&["The number of restarts after which a crashing container counts as failed."]),
    Opt::new("delete_stuck_pods", Kind::Bool).default(Default::Bool(false)).about(&[
        "Whether to delete a pod of a StatefulSet that belongs to another revision and does not get ready. Until it is gone the controller updates no pod, also in a rollback. It is deleted with its grace period, never by force; its claims and their volumes stay.",
        "Without it the task fails, and names the pod.",
    ]),
    Opt::new("progress_timeout", Kind::Seconds).default(Default::Float(600.0)).about(&[
        "For how many seconds to wait until the rollout is complete. Rolling back may take as long again.",
    ]),
    Opt::new("owner", Kind::Str).choices(owner::WORDS).about(&[
        "The other tool that owns the workload, if it is configured to leave the workload alone. Without this option such a workload is refused, since that tool would undo the change.",
    ]),
];

pub const MODULE: Module = Module {
    name: "kube_rollout",
    short: "Roll out an image of a Kubernetes workload, wait until it is complete, roll it back, and run its migrations",
    about: &[
        "Sets an image and waits until all pods run it and are available. If they fail, it reports the pod and the reason as soon as the kubelet does, and rolls back.",
        "Rolls back to a revision that was good. Check mode shows what that changes and whether that revision can run: its ReplicaSet or ControllerRevision exists, and each ConfigMap, Secret, ServiceAccount and claim that it needs.",
        "Refuses a workload of another tool that would undo the change: Argo CD, Flux, Helm, an Argo Rollout whose C(workloadRef) it is, a Flagger Canary whose C(targetRef) it is, or an operator. The message names the commands to use instead.",
        "A run that was killed is finished by the next one; an older run is refused once a newer one has changed the workload.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, WHAT, change::ROLLBACK_ID],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Runs C(kubectl), which does the login, on the target of the task: usually with C(delegate_to: localhost). It needs no root.",
        "Earlier runs are recorded in annotations of the workload (C(reversible.deploy/...)). There is no other state.",
        "In check mode the server checks the change with a dry run, admission included.",
        "ConfigMaps and Secrets are not part of a revision, so a rollback does not restore their content. A warning names those that were changed since.",
        "A paused Deployment is refused, and so is an update strategy that does not update all pods: V(OnDelete), or a partition.",
        "The data of a StatefulSet is not part of a revision: what the newer release has written to its volumes stays there.",
        "The Job of a migration is called C(<name>-migrate-<deploy_id>). Its pod has the service account, volumes, pull secrets and placement of the workload's, and of its containers the one; no probes, ports, init containers and sidecars, and none of its labels, so no Service sends requests to it. A NetworkPolicy must allow C(reversible.deploy/job=migrate) where it needs the network.",
        "The Job stays until O(retain) or somebody deletes it: C(kubectl delete jobs -l app.kubernetes.io/managed-by=reversible.deploy). While that of a deploy or of a newer one is there, the same O(deploy_id) runs no migration twice. It has no retries, but Kubernetes starts a pod again that was deleted from outside, so a migration must be safe to be interrupted.",
        "The rights that it needs are in the collection's C(docs/examples/kube/rbac.yml).",
    ],
    seealso: &[
        "reversible.deploy.kube_rollout_info",
        "reversible.deploy.health_gate",
        "reversible.deploy.deploy_ledger",
    ],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, DONE],
};

const DONE: &[Return] = &[
    Return::new("context", Kind::Str, "success", "The context."),
    Return::new("namespace", Kind::Str, "success", "The namespace."),
    Return::new(
        "reverted",
        Kind::Bool,
        "when a rollout does not come up",
        "Whether the earlier revision was restored.",
    ),
    Return::new(
        "log",
        Kind::List,
        "when a container crashes, and after a migration",
        "The last lines of its log. Values of the container's Secrets are hidden, if the account may read them.",
    ),
    Return::new("job", Kind::Str, "with O(state=migrated)", "The name of the Job."),
];

pub const INFO: Module = Module {
    name: "kube_rollout_info",
    short: "List the revisions of a Kubernetes workload, and which of them could run",
    about: &[
        "Lists the revisions of a workload, whether a rollback to each is possible or why not, and the state of its pods. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[WHERE],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[],
    seealso: &["reversible.deploy.kube_rollout"],
    examples: include_str!("examples_info.yml"),
    returns: &[SEEN],
};

const SEEN: &[Return] = &[
    Return::new("revisions", Kind::List, "success", "The revisions, the newest first.").contains(
        &[
            Return::new(
                "revision",
                Kind::Int,
                "always",
                "Its number. A rollback to it gives it a new one.",
            ),
            Return::new(
                "name",
                Kind::Str,
                "always",
                "The name of its ReplicaSet or ControllerRevision.",
            ),
            Return::new("deploy_id", Kind::Str, "always", "The deploy, or null."),
            Return::new("cause", Kind::Str, "always", "The change cause, or null."),
            Return::new("created", Kind::Str, "always", "When it was made."),
            Return::new("images", Kind::Dict, "always", "The image of each container."),
            Return::new("current", Kind::Bool, "always", "Whether it has the current template."),
            Return::new(
                "good",
                Kind::Bool,
                "always",
                "Whether its rollout was seen to be complete, and no rollback has left it since.",
            ),
            Return::new(
                "ready_to_roll_back",
                Kind::Bool,
                "always",
                "Whether all objects that it needs exist.",
            ),
            Return::new("why", Kind::List, "always", "Those that do not exist."),
            Return::new(
                "warnings",
                Kind::List,
                "always",
                "Objects that were changed since it was made, or that the account may not read.",
            ),
        ],
    ),
    Return::new("pods", Kind::List, "success", "Its pods.").contains(&[
        Return::new("name", Kind::Str, "always", "The name."),
        Return::new("revision", Kind::Int, "always", "Its revision."),
        Return::new("phase", Kind::Str, "always", "The phase."),
        Return::new("ready", Kind::Bool, "always", "Whether all of its containers are ready."),
        Return::new("restarts", Kind::Int, "always", "How often its containers were restarted."),
        Return::new("reason", Kind::Str, "always", "What a container waits for, or null."),
    ]),
    Return::new(
        "out",
        Kind::Bool,
        "success",
        "Whether the rollout of the current revision is complete.",
    ),
    Return::new("why", Kind::Str, "success", "Why it is not, or null."),
    Return::new("paused", Kind::Bool, "success", "Whether it is paused."),
    Return::new("strategy", Kind::Str, "success", "The type of its update strategy.")
        .sample(r#""RollingUpdate""#),
    Return::new("owner", Kind::Dict, "success", "The other tool that it belongs to, or null.")
        .contains(&[
            Return::new(
                "owner",
                Kind::Str,
                "always",
                "The word for O(reversible.deploy.kube_rollout#module:owner).",
            ),
            Return::new(
                "name",
                Kind::Str,
                "always",
                "The name of the application or release there.",
            ),
        ]),
    Return::new("run", Kind::Str, "success", "The newest run that has changed it, or null."),
    Return::new("unfinished", Kind::Bool, "success", "Whether there is an unfinished run."),
];
