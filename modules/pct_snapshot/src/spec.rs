//! The options of `pct_snapshot` and `pct_snapshot_info`, and what they return. `options.rs` makes
//! typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const WHICH: &[Opt] = &[
    Opt::new("vmid", Kind::Str).required().about(&[
        "The number of the container. It must be on this node.",
    ]),
    Opt::new("state", Kind::Str).default(Default::Str("present")).choices(&["present", "rolled_back", "absent"]).about(&[
        "V(present) takes a snapshot, unless it is there.",
        "V(rolled_back) puts the container back to a snapshot: it is stopped, rolled back, started, and waited for.",
        "V(absent) removes a snapshot that this module has taken. With O(retain) and no name it only prunes.",
    ]),
    Opt::new("name", Kind::Str).about(&[
        "The name of the snapshot: 2 to 40 letters, digits, C(_) and C(-), a letter first.",
        "The default is C(pre-deploy-<deploy_id>).",
    ]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy, which names the snapshot. For O(state=present) a run with an older id than the last one seen is refused.",
        "Without it and O(name), a snapshot is given an id.",
    ]),
    Opt::new("latest", Kind::Bool).about(&[
        "For O(state=rolled_back): go back to the newest restore point of this module, by the time that Proxmox noted for it.",
    ]),
    Opt::new("app", Kind::Str).about(&[
        "The app that the snapshot is for, when a container holds several: O(latest) and O(retain) then look at its own only.",
    ]),
];

const TAKE: &[Opt] = &[
    Opt::new("description", Kind::Str).default(Default::Str("")).about(&[
        "A text for people. A line of the module's own, with O(deploy_id) and O(release), is put below it.",
    ]),
    Opt::new("release", Kind::Str).about(&[
        "The release that the container holds while the snapshot is taken, as a commit SHA. It is recorded.",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "How many restore points are kept. Older ones are removed, after the new one was seen to be complete.",
        "Only those that this module has taken count and are removed; of the safety snapshots of rollbacks as many are kept.",
    ]),
    Opt::new("keep", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Snapshots, by name or by deploy id, that are never removed.",
    ]),
];

const BACK: &[Opt] = &[
    Opt::new("start", Kind::Str).default(Default::Str("as_before")).choices(&["as_before", "always", "never"]).about(&[
        "Whether the container is started after a rollback. V(as_before): when it was running.",
    ]),
    Opt::new("shutdown", Kind::Str).default(Default::Str("graceful")).choices(&["graceful", "kill"]).about(&[
        "How a running container is stopped. V(graceful) kills it too, after O(shutdown_timeout).",
    ]),
    Opt::new("shutdown_timeout", Kind::Seconds).default(Default::Float(60.0)).about(&[
        "For how many seconds to wait for a graceful shutdown.",
    ]),
    Opt::new("boot_timeout", Kind::Seconds).default(Default::Float(120.0)).about(&[
        "For how many seconds to wait, after a start, until O(ready) holds.",
    ]),
    Opt::new("ready", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "A program and its arguments, run in the container until it ends with 0.",
        "The default waits for systemd to say V(running) or V(degraded), and in a container without systemd until a command can be run in it.",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(60.0)).about(&[
        "For how many seconds to wait while a backup, a migration or another task holds the container's lock.",
    ]),
    Opt::new("task_timeout", Kind::Seconds).default(Default::Float(900.0)).about(&[
        "For how many seconds one task of Proxmox (a snapshot, a rollback, a removal, a start) may run.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of this module's own records. It must be root's, on a path that no one else can write to.",
        "The default is C(/var/lib/reversible/pct-<vmid>).",
    ]),
];

pub const MODULE: Module = Module {
    name: "pct_snapshot",
    short: "Take a snapshot of a Proxmox container, and go back to it",
    about: &[
        "Takes, removes and prunes snapshots of a container (LXC) of Proxmox VE, and rolls the container back to one, with its start verified.",
        "What a rollback would destroy is said before, and needs consent. Where the storage can go back to any snapshot (LVM-thin, btrfs, RBD), the failed state is kept in a snapshot C(failed-...), so that the rollback can be undone.",
        "What would fail half way is refused first: no quorum, a lock, an incomplete snapshot, ZFS with newer snapshots.",
        "A run that was killed is finished, or its leftovers are cleared, by the next one.",
    ],
    version_added: "0.1.0",
    options: &[WHICH, TAKE, BACK, change::ROLLBACK_ID, change::CONSENT],
    rules: &[
        Rule::RequiredIfAny("state", "rolled_back", &["name", "deploy_id", "latest"]),
        Rule::RequiredIfAny("state", "absent", &["name", "deploy_id", "retain"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Runs on the Proxmox node as root; nothing is needed in the container. Proxmox VE 7, 8 and 9.",
        "Proxmox takes no snapshot of a container with a bind mount or a device, and none on a storage without snapshots.",
        "On ZFS, Proxmox goes back to the newest snapshot only: newer ones must be destroyed (O(accept=newer_snapshots)), and there is no way to undo it.",
        "A rollback does not touch what the snapshot does not cover: bind mounts, and volumes that were added since (O(accept=uncovered_mounts)).",
        "Check mode shows the plan; whether the container starts and is ready is not evaluated.",
    ],
    seealso: &["reversible.deploy.pct_snapshot_info", "reversible.deploy.deploy_ledger"],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, DONE],
};

const DONE: &[Return] = &[
    Return::new("vmid", Kind::Int, "success", "The number of the container.").sample("101"),
    Return::new(
        "snapshot",
        Kind::Str,
        "success",
        "The snapshot that this was about, or null when only pruned.",
    )
    .sample(r#""pre-deploy-20261121t084500z-7f3a""#),
    Return::new(
        "deploy_id",
        Kind::Str,
        "success",
        "The deploy id that the snapshot bears, or null.",
    ),
    Return::new("running", Kind::Bool, "success", "Whether the container runs, and is not frozen."),
    Return::new(
        "safety_snapshot",
        Kind::Str,
        "after a rollback, also a failed one",
        "The snapshot that holds the state before the rollback, or null.",
    ),
    Return::new(
        "rolled_back",
        Kind::Bool,
        "when a rollback failed",
        "Whether the rollback itself was done, and only what comes after it was not.",
    ),
    Return::new(
        "log",
        Kind::List,
        "when a start failed",
        "The last lines of the log: the node's of the container when it does not start, the container's own when it does not get ready.",
    ),
];

pub const INFO: Module = Module {
    name: "pct_snapshot_info",
    short: "List the snapshots of a Proxmox container, and whether a rollback to each is possible",
    about: &[
        "Without O(vmid): the containers of this node. With it: one container and its snapshots. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[INFO_OPTIONS],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &["Runs on the Proxmox node as root. Proxmox VE 7, 8 and 9."],
    seealso: &["reversible.deploy.pct_snapshot"],
    examples: include_str!("examples_info.yml"),
    returns: &[SEEN],
};

const INFO_OPTIONS: &[Opt] = &[
    Opt::new("vmid", Kind::Str).about(&[
        "The number of a container of this node. Without it all are listed, without their snapshots.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of the module's own records. The default is C(/var/lib/reversible/pct-<vmid>).",
    ]),
];

const SEEN: &[Return] = &[
    Return::new("node", Kind::Str, "success", "The name of this node, as Proxmox has it."),
    Return::new("containers", Kind::List, "success", "The containers, by their numbers.").contains(&[
        Return::new("vmid", Kind::Int, "always", "The number."),
        Return::new("name", Kind::Str, "always", "The host name."),
        Return::new("running", Kind::Bool, "always", "Whether it runs, and is not frozen."),
        Return::new("frozen", Kind::Bool, "always", "Whether its processes stand still, as during a snapshot, and after one that was killed; with O(vmid), also whether a file system does."),
        Return::new("frozen_mounts", Kind::List, "with O(vmid)", "The mount points whose file system is frozen, so that no write ends there: volumes on RBD, which Proxmox freezes for a snapshot. Only ext4 can be seen.").sample(r#"["/srv"]"#),
        Return::new("thaw", Kind::List, "with O(vmid)", "The commands that let it go on, for when nothing that freezes it is under way.").sample(r#"["lxc-unfreeze -n 301"]"#),
        Return::new("lock", Kind::Str, "always", "The lock that a task holds, or null."),
    ]),
    Return::new("snapshots", Kind::List, "with O(vmid)", "The snapshots, the oldest first.").contains(&[
        Return::new("name", Kind::Str, "always", "The name."),
        Return::new("time", Kind::Str, "always", "When it was taken, in UTC, or null."),
        Return::new("description", Kind::Str, "always", "What a person wrote."),
        Return::new("parent", Kind::Str, "always", "The snapshot that it was taken on, or null."),
        Return::new("ours", Kind::Bool, "always", "Whether this module has taken it."),
        Return::new("kind", Kind::Str, "always", "V(restore_point), V(failed) (the state before a rollback), or null."),
        Return::new("app", Kind::Str, "always", "The app, or null."),
        Return::new("deploy_id", Kind::Str, "always", "The deploy, or null."),
        Return::new("release", Kind::Str, "always", "The release, or null."),
        Return::new("complete", Kind::Bool, "always", "Whether it is whole. One that broke off cannot be gone back to."),
        Return::new("bytes", Kind::Int, "always", "What it holds alone, on ZFS; else null."),
        Return::new("ready_to_roll_back", Kind::Bool, "always", "Whether one can go back to it now."),
        Return::new("why", Kind::List, "always", "Why not, in sentences."),
        Return::new("accept", Kind::List, "always", "The words that a rollback to it needs in O(reversible.deploy.pct_snapshot#module:accept)."),
    ]),
    Return::new("storages", Kind::List, "with O(vmid)", "The storages of Proxmox that hold its volumes.").contains(&[
        Return::new("name", Kind::Str, "always", "The name."),
        Return::new("type", Kind::Str, "always", "The type, such as V(lvmthin), or null where it is not known."),
        Return::new("thin_pool", Kind::Str, "always", "The thin pool of LVM, as C(group/pool), or null."),
        Return::new("mounts", Kind::List, "always", "The mount points that lie there: V(rootfs), V(mp0) and so on."),
    ]),
    Return::new("parent", Kind::Str, "with O(vmid)", "The snapshot that the current state is built on, or null."),
    Return::new("unfinished", Kind::Str, "with O(vmid)", "Since when a run that was killed waits to be finished, or null."),
];
