//! The options of `kube_rollout` and `kube_rollout_info`, and what they return. `options.rs` makes typed values of them.

use crate::owner;
use crate::subject::KINDS;
use ansible_module::{Default, Kind, Module, Opt, Return, Support};

const WHERE: &[Opt] = &[
    Opt::new("name", Kind::Str).required().about(&["The name of the workload."]),
    Opt::new("namespace", Kind::Str).required().about(&["Its namespace. There is no default: the one of a kubeconfig may be another today."]),
    Opt::new("context", Kind::Str).required().about(&[
        "The context of the kubeconfig, which says which cluster this is about and as whom.",
        "There is no default: the current context is whatever somebody has switched to last.",
    ]),
    Opt::new("kind", Kind::Str).default(Default::Str("Deployment")).choices(KINDS).about(&["What kind of workload it is."]),
    Opt::new("kubeconfig", Kind::AbsolutePath).about(&[
        "The kubeconfig. Without it kubectl takes that of its environment (E(KUBECONFIG)) or of the account's home.",
    ]),
    Opt::new("kubectl", Kind::AbsolutePath).about(&["The program, 1.20 or newer. It is found on PATH without it."]),
];

const WHAT: &[Opt] = &[
    Opt::new("state", Kind::Str).default(Default::Str("present")).choices(&["present", "rolled_back"]).about(&[
        "V(present) rolls O(image) out, and ends when it is out: all pods are of the new revision and available, and no old one is left.",
        "V(rolled_back) goes back to O(to_revision), to the revision of O(deploy_id), or without both to the newest other one that was good.",
    ]),
    Opt::new("image", Kind::Str).about(&["The image, for O(state=present)."]),
    Opt::new("container", Kind::Str).about(&["Whose image it is. It must be given where a pod has several containers."]),
    Opt::new("to_revision", Kind::Positive).about(&["The number of a revision, as C(kubectl rollout history) has it."]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. With O(state=present) a run with an older id than the last one seen is refused; the id is noted on the revision.",
        "With O(state=rolled_back) it names the deploy whose revision to go back to.",
    ]),
    Opt::new("cause", Kind::Str).about(&[
        "The change cause that C(kubectl rollout history) shows. The default names the deploy and the image.",
    ]),
    Opt::new("on_failure", Kind::Str).default(Default::Str("undo")).choices(&["undo", "none"]).about(&[
        "V(undo) goes back in the same run when the new revision does not come up, and fails then.",
        "V(none) leaves it as it is. So does a rollback that does not come up.",
    ]),
    Opt::new("crash_restarts", Kind::Positive).default(Default::Int(3)).about(&["After how many restarts a container that crashes has failed."]),
    Opt::new("delete_stuck_pods", Kind::Bool).default(Default::Bool(false)).about(&[
        "Whether a pod of a StatefulSet may be deleted that is of another revision and does not get ready. Until then its controller gives no pod the new template, also on the way back. It is deleted with the time that it has for that, never by force; its claims and their volumes stay.",
        "Without it the task fails, and names the pod.",
    ]),
    Opt::new("progress_timeout", Kind::Seconds).default(Default::Float(600.0)).about(&[
        "For how many seconds to wait until it is out. Going back may take as long once more.",
    ]),
    Opt::new("owner", Kind::Str).choices(owner::WORDS).about(&[
        "The other tool that the workload belongs to, when it was told to leave the workload alone. Without it such a workload is refused, since that tool would undo the change.",
    ]),
];

pub const MODULE: Module = Module {
    name: "kube_rollout",
    short: "Roll an image of a Kubernetes workload out until it is really out, and go back",
    about: &[
        "Sets an image and waits until all pods run it and are available. When they do not, it says which pod and why as soon as the kubelet knows, and goes back.",
        "Goes back to a revision that was good, and says before what that changes and whether that revision can run: what holds it is there, and so is each ConfigMap, Secret, ServiceAccount and claim that it names.",
        "Refuses what another tool would undo: Argo CD, Flux, Helm, or an operator; the refusal says what to type there.",
        "A run that was killed is finished by the next one; an older run changes nothing that a newer one has written.",
    ],
    version_added: "0.1.0",
    options: &[WHERE, WHAT, change::ROLLBACK_ID],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Runs C(kubectl), which does the login, wherever the task runs: usually C(delegate_to: localhost). It needs no root.",
        "What it knows of earlier runs stands in annotations of the workload (C(reversible.deploy/...)). There is no other state.",
        "In check mode the server judges the change, admission included, without doing it.",
        "ConfigMaps and Secrets are no part of a revision: their content does not go back. A warning says which were written since.",
        "A Deployment that is paused is refused, and so is an update strategy by which not all pods would get the new template: V(OnDelete), or a partition.",
        "The data of a StatefulSet is no part of a revision: what the newer release has written to its volumes stays there.",
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
        "Whether it has gone back to what was there before.",
    ),
    Return::new(
        "log",
        Kind::List,
        "when a container crashes",
        "The last lines that it wrote before it ended.",
    ),
];

pub const INFO: Module = Module {
    name: "kube_rollout_info",
    short: "Tell which revisions of a Kubernetes workload there are, and which could run",
    about: &[
        "Tells the history of a workload, which of its revisions one could go back to and why not, and how its pods are. Changes nothing.",
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
                "Its number. A rollback gives it a new one.",
            ),
            Return::new(
                "name",
                Kind::Str,
                "always",
                "What holds it: its ReplicaSet or ControllerRevision.",
            ),
            Return::new("deploy_id", Kind::Str, "always", "The deploy, or null."),
            Return::new("cause", Kind::Str, "always", "The change cause, or null."),
            Return::new("created", Kind::Str, "always", "When it was made."),
            Return::new("images", Kind::Dict, "always", "The image of each container."),
            Return::new(
                "current",
                Kind::Bool,
                "always",
                "Whether it is the one that is asked for now.",
            ),
            Return::new(
                "good",
                Kind::Bool,
                "always",
                "Whether it was seen to be out, and was not left by a rollback since.",
            ),
            Return::new(
                "ready_to_roll_back",
                Kind::Bool,
                "always",
                "Whether all that it names is there.",
            ),
            Return::new("why", Kind::List, "always", "What is not."),
            Return::new(
                "warnings",
                Kind::List,
                "always",
                "What was written since it was made, or cannot be told.",
            ),
        ],
    ),
    Return::new("pods", Kind::List, "success", "Its pods.").contains(&[
        Return::new("name", Kind::Str, "always", "The name."),
        Return::new("revision", Kind::Int, "always", "The revision that it is of."),
        Return::new("phase", Kind::Str, "always", "The phase."),
        Return::new("ready", Kind::Bool, "always", "Whether all of its containers are ready."),
        Return::new("restarts", Kind::Int, "always", "How often its containers were restarted."),
        Return::new("reason", Kind::Str, "always", "What a container waits for, or null."),
    ]),
    Return::new("out", Kind::Bool, "success", "Whether the current revision is out."),
    Return::new("why", Kind::Str, "success", "Why it is not, or null."),
    Return::new("paused", Kind::Bool, "success", "Whether it is paused."),
    Return::new("owner", Kind::Dict, "success", "The other tool that it belongs to, or null.")
        .contains(&[
            Return::new(
                "owner",
                Kind::Str,
                "always",
                "The word for O(reversible.deploy.kube_rollout#module:owner).",
            ),
            Return::new("name", Kind::Str, "always", "What it is part of there."),
        ]),
    Return::new("run", Kind::Str, "success", "The newest run that has changed it, or null."),
    Return::new(
        "unfinished",
        Kind::Bool,
        "success",
        "Whether a run has begun a change and not ended.",
    ),
];
