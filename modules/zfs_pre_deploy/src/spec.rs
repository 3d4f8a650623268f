//! The options of `zfs_pre_deploy` and `zfs_pre_deploy_info`, and what they return. `options.rs` makes
//! typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const WHICH: &[Opt] = &[
    Opt::new("datasets", Kind::List).elements(Kind::Str).required().about(&[
        "The datasets (filesystems and volumes), by their exact names.",
    ]),
    Opt::new("recursive", Kind::Bool).default(Default::Bool(false)).about(&[
        "Whether the datasets below them are included. Parked states never are.",
    ]),
    Opt::new("exclude", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Datasets that are left out, by their exact names, each with all that is below it.",
    ]),
    Opt::new("missing", Kind::Str).default(Default::Str("fail")).choices(&["fail", "skip"]).about(&[
        "What to do if one of O(datasets) does not exist. V(skip) goes on without it, and names it in the result.",
    ]),
    Opt::new("state", Kind::Str).default(Default::Str("present")).choices(&["present", "rolled_back", "absent"]).about(&[
        "V(present) takes a snapshot of all the datasets, atomically in each pool, unless it is there.",
        "V(rolled_back) puts all of them back to the snapshot of O(deploy_id), or with O(parked) makes a parked state live again.",
        "V(absent) removes the snapshots of O(deploy_id), or the state named by O(parked). With O(retain) alone it only prunes.",
    ]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy. For O(state=present) a run with an older id than the last one seen is refused.",
        "Without it a snapshot is given an id.",
    ]),
    Opt::new("prefix", Kind::Str).default(Default::Str("pre-deploy-")).about(&[
        "The beginning of a snapshot's name; the deploy id follows.",
    ]),
    Opt::new("app", Kind::Str).about(&[
        "The app (with its environment, such as V(shop-prod)) that the datasets belong to: it is recorded, O(retain) counts its own only, and it names O(state_dir).",
    ]),
    Opt::new("release", Kind::Str).about(&[
        "The release that is live while the snapshot is taken. It is recorded.",
    ]),
];

const TAKE: &[Opt] = &[
    Opt::new("hold", Kind::Bool).default(Default::Bool(true)).about(&[
        "Whether the snapshots are held (tag C(reversible)), so that no other tool destroys them. Our own retention and removal release it.",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "How many restore points are kept, and how many parked states. Older ones are removed, after the new one was seen to be there.",
        "Only snapshots that this module has taken count and are removed: recognised by their properties, never by their names. One that others need (a clone, a hold) is kept, with a warning.",
    ]),
    Opt::new("keep", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Restore points, by deploy id or by the name of the snapshot, and parked states by their id, that are never removed.",
    ]),
];

const BACK: &[Opt] = &[
    Opt::new("method", Kind::Str).default(Default::Str("swap")).choices(&["swap", "rollback"]).about(&[
        "How to go back. V(swap) parks the datasets under another name and recreates them from the snapshot: nothing is lost, and it can be undone with O(parked).",
        "V(rollback) is C(zfs rollback): what was written since is gone, newer snapshots too. It needs no space and keeps the datasets' identity.",
    ]),
    Opt::new("parked", Kind::Str).about(&[
        "The id of a parked state: the O(rollback_id) of the swap that parked it, which the result and M(reversible.deploy.zfs_pre_deploy_info) show.",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(60.0)).about(&[
        "For how many seconds to wait for another task of this module on the same pools.",
    ]),
    Opt::new("task_timeout", Kind::Seconds).default(Default::Float(600.0)).about(&[
        "For how many seconds one command of ZFS may run.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of this module's own records. It must be root's, on a path that no one else can write to, and not on a dataset that is rolled back.",
        "The default is C(/var/lib/reversible/zfs-<app>), and without O(app) the first of O(datasets) by name takes its place, with C(+) for C(/).",
    ]),
];

pub const MODULE: Module = Module {
    name: "zfs_pre_deploy",
    short: "Take snapshots of ZFS datasets before a deploy, and go back to them",
    about: &[
        "Takes a snapshot of all datasets of an app, atomically in each pool, and holds it. Goes back to it with all of them or with none.",
        "By default the failed state is parked under another name, so that going back destroys nothing and can be undone.",
        "A task that would fail half way is refused before the first change: because of a busy mount in any mount namespace, a clone, a foreign hold, a missing key, children that the snapshot does not cover.",
        "A run that was killed is finished by the next one.",
    ],
    version_added: "0.1.0",
    options: &[WHICH, TAKE, BACK, change::ROLLBACK_ID, change::CONSENT],
    rules: &[
        Rule::RequiredIfAny("state", "rolled_back", &["deploy_id", "parked"]),
        Rule::RequiredIfAny("state", "absent", &["deploy_id", "parked", "retain"]),
        Rule::MutuallyExclusive(&["deploy_id", "parked"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Needs root and OpenZFS 2.0 or newer on the target; nothing else.",
        "Stop whatever uses the datasets before a rollback: a process that keeps a file open, also inside a container, is refused by name.",
        "A restored dataset is a new one to ZFS (another guid). Replication by snapshots goes on from a common snapshot; bookmarks and newer snapshots stay on the parked one.",
        "Properties that were received become local ones on a restored dataset; what C(zfs allow) delegated stays on the parked one.",
        "In check mode too, C(zpool sync) is called before a rollback is planned: without it ZFS says 0 for what was just written.",
    ],
    seealso: &["reversible.deploy.zfs_pre_deploy_info", "reversible.deploy.deploy_ledger"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, DONE],
};

const DONE: &[Return] = &[
    Return::new("snapshot", Kind::Str, "success", "The short name of the snapshot of the task, or null.")
        .sample(r#""pre-deploy-20261121t084500z-7f3a""#),
    Return::new("deploy_id", Kind::Str, "success", "The deploy id of that snapshot, or null."),
    Return::new("datasets", Kind::List, "success", "The datasets of the task.")
        .sample(r#"["tank/shop", "tank/shop/db"]"#),
    Return::new("missing", Kind::List, "success", "Those of O(datasets) that do not exist, with O(missing=skip)."),
    Return::new("parked", Kind::List, "after a swap", "The parked trees.").contains(&[
        Return::new("dataset", Kind::Str, "always", "The name that it was live under."),
        Return::new("parked", Kind::Str, "always", "The name that it has now."),
        Return::new("id", Kind::Str, "always", "Its id, for O(parked)."),
    ]),
    Return::new("set_aside", Kind::List, "for a swap", "What is no longer live afterwards, and not lost.").contains(&[
        Return::new("dataset", Kind::Str, "always", "The dataset."),
        Return::new("parked", Kind::Str, "always", "Where it is parked."),
        Return::new("written", Kind::Int, "always", "How many bytes were written since the snapshot, or null. Parked, they go on taking space."),
        Return::new("newer_snapshots", Kind::List, "always", "Snapshots and bookmarks that are parked with it."),
    ]),
    Return::new("busy", Kind::List, "when something uses the datasets", "What uses them, in sentences. A run fails because of it, check mode reports it."),
    Return::new("put_back", Kind::Bool, "when a rollback failed after it had begun", "Whether everything is as it was before. Else the same task must be run again, and nothing should be started until then."),
];

pub const INFO: Module = Module {
    name: "zfs_pre_deploy_info",
    short: "List the restore points of ZFS datasets, and whether a rollback to each is possible",
    about: &[
        "Reads the restore points and the parked states that M(reversible.deploy.zfs_pre_deploy) has made, from the properties of ZFS alone. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[INFO_OPTIONS],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &[
        "Whether a dataset is busy is seen in full by root alone.",
        "How much was written is what ZFS has on disk: what was written in the last seconds may be missing.",
    ],
    seealso: &["reversible.deploy.zfs_pre_deploy"],
    examples: include_str!("examples_info.yml"),
    returns: &[SEEN],
};

const INFO_OPTIONS: &[Opt] = &[
    Opt::new("datasets", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Which datasets, by their exact names. All of all pools without it.",
    ]),
    Opt::new("recursive", Kind::Bool).default(Default::Bool(true)).about(&[
        "Whether the datasets below them are included.",
    ]),
    Opt::new("app", Kind::Str).about(&["The app whose restore points are wanted. All without it."]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of the module's own records, as in M(reversible.deploy.zfs_pre_deploy). It has the record of a run that was killed.",
    ]),
];

const SEEN: &[Return] = &[
    Return::new("pools", Kind::List, "success", "The pools.").contains(&[
        Return::new("name", Kind::Str, "always", "The name."),
        Return::new("guid", Kind::Str, "always", "The guid, as text: it is too large for many readers of JSON."),
        Return::new("health", Kind::Str, "always", "As C(zpool list) says it.").sample(r#""ONLINE""#),
        Return::new("readonly", Kind::Bool, "always", "Whether it was imported read-only."),
    ]),
    Return::new("restore_points", Kind::List, "success", "The restore points, the oldest first.").contains(&[
        Return::new("deploy_id", Kind::Str, "always", "The deploy."),
        Return::new("snapshot", Kind::Str, "always", "The short name of the snapshots."),
        Return::new("app", Kind::Str, "always", "The app, or null."),
        Return::new("release", Kind::Str, "always", "The release, or null."),
        Return::new("time", Kind::Str, "always", "When it was taken, in UTC."),
        Return::new("datasets", Kind::List, "always", "The datasets that have it.").contains(&[
            Return::new("dataset", Kind::Str, "always", "The dataset."),
            Return::new("guid", Kind::Str, "always", "The guid of the snapshot."),
            Return::new("held", Kind::Bool, "always", "Whether anybody holds it."),
            Return::new("written", Kind::Int, "always", "Bytes that were written since."),
            Return::new("newer_snapshots", Kind::List, "always", "Snapshots and bookmarks that are newer."),
            Return::new("clones", Kind::List, "always", "Datasets that were cloned from it."),
        ]),
        Return::new("ready_to_roll_back", Kind::Bool, "always", "Whether a swap could go back to it now."),
        Return::new("why", Kind::List, "always", "Why not, in sentences."),
        Return::new("accept", Kind::List, "always", "The words that O(reversible.deploy.zfs_pre_deploy#module:method=rollback) would need in C(accept)."),
        Return::new("not_in_place", Kind::List, "always", "Why that method could not: clones of newer snapshots, holds of others."),
    ]),
    Return::new("parked", Kind::List, "success", "The parked states.").contains(&[
        Return::new("id", Kind::Str, "always", "The id, for C(parked)."),
        Return::new("dataset", Kind::Str, "always", "The name that it has."),
        Return::new("live", Kind::Str, "always", "The name that it was live under."),
        Return::new("at", Kind::Str, "always", "Since when."),
        Return::new("bytes", Kind::Int, "always", "The space that it takes."),
    ]),
    Return::new("unfinished", Kind::Str, "with O(state_dir), O(app) or O(datasets)", "Since when a run that was killed waits to be finished, or null."),
];
