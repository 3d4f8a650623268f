//! What the options and answers of `deploy_ledger_info` are called and what is said about them.

use crate::spec::{CAP, FLIPS, LAYERS, WHERE};
use ansible_module::{Default, Kind, Module, Opt, Return, Support};

pub const INFO: Module = Module {
    name: "deploy_ledger_info",
    short: "Read the record of deploys, and which restore points a rollback can use",
    about: &[
        "Returns the holder of the lease of an app and environment, lists its deploys with their restore points, the newest first, and names the current and the last good release. Changes nothing.",
        "With O(layers) it also says of each restore point whether one can go back to it now, and with O(deploy_id) whether to all of that deploy.",
    ],
    version_added: "0.1.0",
    options: &[
        WHERE,
        &[
            Opt::new("deploy_id", Kind::Str).about(&["Only this deploy."]),
            Opt::new("limit", Kind::Int)
                .default(Default::Int(20))
                .about(&["At most so many deploys; V(0) for all."]),
            Opt::new("keep_deploys", Kind::Int).default(Default::Int(2)).about(&[
                "The number of newest deploys whose restore points are listed in RV(keep), in addition to those of the open, the current and the last good one.",
            ]),
        ],
        LAYERS,
        FLIPS,
        CAP,
    ],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &["A ledger that a newer version wrote fails the task. So nothing is pruned by it."],
    seealso: &["reversible.deploy.deploy_ledger"],
    examples: include_str!("examples_info.yml"),
    returns: &[WHO, DEPLOYS, WAY_BACK],
};

const OPEN_RUN: &[Return] = &[
    Return::new("deploy_id", Kind::Str, "always", "Its id."),
    Return::new("phase", Kind::Str, "always", "The last phase that it recorded, or null."),
    Return::new("by", Kind::Str, "always", "Who opened it."),
    Return::new("opened", Kind::Str, "always", "When it was opened, in UTC."),
    Return::new("silent_for", Kind::Int, "always", "Seconds since it was last heard of."),
    Return::new("abandoned", Kind::Bool, "always", "Whether that is longer than its lease."),
];

const BRIEF: &[Return] = &[
    Return::new("deploy_id", Kind::Str, "always", "Its id."),
    Return::new("release", Kind::Str, "always", "Its release, or null."),
    Return::new("color", Kind::Str, "always", "The colour that was active at its end, or null."),
    Return::new("outcome", Kind::Str, "always", "How it ended."),
    Return::new("void", Kind::Str, "always", "Why it is void, or null."),
    Return::new(
        "config",
        Kind::Dict,
        "always",
        "The C(commit) of its configuration, whether that was C(dirty), and its C(remote), or null.",
    ),
];

const WHO: &[Return] = &[
    Return::new("ledger", Kind::Str, "success", "The file that was read.")
        .sample(r#""/var/lib/reversible/shop-staging/ledger.jsonl""#),
    Return::new("holder", Kind::Dict, "success", "The open deploy that holds the lease, or null.")
        .contains(OPEN_RUN),
    Return::new("open_runs", Kind::List, "success", "All open deploys; more than one is a fault.")
        .contains(OPEN_RUN),
    Return::new(
        "current",
        Kind::Dict,
        "success",
        "The newest deploy that left its release in place (done, or failed and not reverted), or null.",
    )
    .contains(BRIEF),
    Return::new(
        "last_good",
        Kind::Dict,
        "success",
        "The newest deploy that is done and not void, or null.",
    )
    .contains(BRIEF),
    Return::new(
        "locked",
        Kind::Dict,
        "success",
        "What locks deploys until a person unlocks them, or null: C(deploy_id), which is what C(unlock) must name, and C(why), a sentence.",
    ),
    Return::new(
        "damaged",
        Kind::List,
        "success",
        "Lines that cannot be read, and why. Empty for a sound ledger.",
    ),
];

const DEPLOYS: &[Return] =
    &[Return::new("deploys", Kind::List, "success", "The deploys, the newest first.").contains(&[
        Return::new("deploy_id", Kind::Str, "always", "The id of the deploy."),
        Return::new("release", Kind::Str, "always", "The release, or null."),
        Return::new("back_to", Kind::Str, "always", "Where a rollback goes back to, or null."),
        Return::new("purpose", Kind::Str, "always", "What it was for."),
        Return::new("reason", Kind::Str, "always", "Why it was made, or null."),
        Return::new("config", Kind::Dict, "always", "The configuration's commit, or null."),
        Return::new("opened", Kind::Str, "always", "When it was opened, in UTC."),
        Return::new("last", Kind::Str, "always", "When it was last heard of, in UTC."),
        Return::new("seconds", Kind::Int, "always", "From its opening to its end, or null."),
        Return::new("by", Kind::Str, "always", "Who opened it."),
        Return::new("outcome", Kind::Str, "always", "How it ended, or null."),
        Return::new("color", Kind::Str, "always", "The colour that was active at its end, or null."),
        Return::new("reverted", Kind::Str, "always", "When it went back by itself, or null."),
        Return::new(
            "superseded_by",
            Kind::Str,
            "always",
            "The deploy that took over from it, or null.",
        ),
        Return::new("void", Kind::Str, "always", "Why it is void, or null."),
        Return::new("phases", Kind::List, "always", "What it recorded, the oldest first.").contains(
            &[
                Return::new("phase", Kind::Str, "always", "The name of the phase."),
                Return::new("status", Kind::Str, "always", "How it stood."),
                Return::new("at", Kind::Str, "always", "When that was recorded, in UTC."),
                Return::new("data", Kind::Dict, "always", "What was recorded with it."),
            ],
        ),
        Return::new(
            "restore_points",
            Kind::Dict,
            "always",
            "What each layer holds for it, by the layer's name: lists of C(name), C(guid), C(digest), C(host), C(cost), C(data), C(at); with O(layers) also C(open), and C(why) when it is not.",
        ),
    ])];

const WAY_BACK: &[Return] = &[
    Return::new(
        "keep",
        Kind::Dict,
        "success",
        "The names of the restore points that no pruning may take, by layer; null when the ledger cannot be trusted. Then prune nothing.",
    )
    .sample(r#"{"dataset": ["tank/shop@pre-deploy-20261121t084500z-7f3a"]}"#),
    Return::new("prune", Kind::Bool, "success", "Whether RV(keep) can be trusted."),
    Return::new("prune_why", Kind::Str, "success", "Why not, or null."),
    Return::new(
        "readiness",
        Kind::Dict,
        "with O(layers) and O(deploy_id)",
        "Whether one can go back to the restore points of O(deploy_id) now.",
    )
    .contains(&[
        Return::new("ready", Kind::Bool, "always", "Whether all layers can."),
        Return::new("why", Kind::List, "always", "Why not, in sentences."),
        Return::new("deploy_id", Kind::Str, "always", "The deploy."),
        Return::new(
            "lands_on",
            Kind::Dict,
            "always",
            "The deploy whose release was in place before it, as in RV(current), or null.",
        ),
        Return::new("layers", Kind::Dict, "always", "Each layer by its name.").contains(&[
            Return::new("ready", Kind::Bool, "always", "Whether this layer can."),
            Return::new("why", Kind::List, "always", "Why not, in sentences."),
            Return::new("restore_points", Kind::List, "always", "What was recorded in it."),
            Return::new("missing", Kind::List, "always", "Names of those that are gone."),
        ]),
    ]),
];
