//! The options of `compose_backup` and `compose_backup_info`, and what they return. `options.rs` makes
//! typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const PROJECT: &[Opt] = &[
    Opt::new("project_dir", Kind::AbsolutePath).about(&["The folder of the project, where its compose file lies."]),
    Opt::new("files", Kind::List).elements(Kind::Path).default(Default::List(&[])).about(&[
        "The compose files, in the order in which they are merged; relative ones lie in O(project_dir).",
        "Without them those are used that Compose would find in O(project_dir).",
    ]),
    Opt::new("env_files", Kind::List).elements(Kind::Path).default(Default::List(&[])).about(&[
        "The files with variables for the compose files. The default is C(.env) in O(project_dir), where there is one.",
    ]),
    Opt::new("project", Kind::Str).about(&[
        "The name of the project. The default is what Compose says.",
        "Without O(project_dir) and O(files), the labels of its containers say where it lies.",
    ]),
    Opt::new("profiles", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Profiles that are enabled. Services that have containers count in any case.",
    ]),
    Opt::new("backup_dir", Kind::AbsolutePath).required().about(&[
        "The folder of the backups, of this project alone. It must be root's, on a path that no one else can write to, and outside of all data that is backed up.",
    ]),
    Opt::new("state_dir", Kind::AbsolutePath).about(&[
        "The folder of this module's own records. The default is C(/var/lib/reversible/compose-<project>).",
    ]),
    Opt::new("docker_host", Kind::Str).about(&[
        "Where the engine listens. The default is C(DOCKER_HOST), else what docker's context says. It must be on this machine.",
    ]),
];

const WHICH: &[Opt] = &[
    Opt::new("state", Kind::Str)
        .default(Default::Str("present"))
        .choices(&["present", "restored", "thawed", "absent"])
        .about(&[
            "V(present) makes a backup, unless there is one of this O(deploy_id).",
            "V(restored) puts the project back to a backup. What it replaces is parked in the same folder, so that it can be undone.",
            "V(thawed) starts what a killed run has left stopped or paused, and reverts a killed restore. If services have run on the restored data since, the restore is finished instead.",
            "V(absent) removes a backup, or what is parked.",
        ]),
    Opt::new("name", Kind::Str).about(&["The name of a backup, C(backup-YYYYMMDD-HHMMSS)."]),
    Opt::new("deploy_id", Kind::Str).about(&[
        "The id of the deploy, by which the backup is found. For O(state=present) a run with an older id than the last one seen is refused.",
    ]),
    Opt::new("latest", Kind::Bool).about(&["For O(state=restored): the newest complete backup."]),
    Opt::new("undo", Kind::Str).about(&[
        "For O(state=restored): the O(rollback_id) of an earlier restore. What it has parked is restored, and the present state is parked.",
    ]),
    Opt::new("parked", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "For O(state=absent): the ids under which something is parked that is to be removed, or V(all). M(reversible.deploy.compose_backup_info) lists them.",
    ]),
    Opt::new("services", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "The services that are backed up or restored, with their data and images. The default is all.",
        "Others of the project that share their data are stopped and started with them.",
    ]),
];

const TAKE: &[Opt] = &[
    Opt::new("release", Kind::Str).about(&["The release that runs while the backup is made, as a commit SHA. It is recorded."]),
    Opt::new("exclude", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Mounts that are not backed up: a source path, the name of a volume, or C(service:/target). It is recorded.",
    ]),
    Opt::new("consistency", Kind::Str)
        .default(Default::Str("stop"))
        .choices(&["stop", "pause", "live"])
        .about(&[
            "What happens to the containers that can write to the data while it is copied.",
            "V(stop): they are stopped, which any database survives.",
            "V(pause): they are paused one after the other, as if the power had failed.",
            "V(live): they keep running. Only for data that does not change, or that is restored from O(dumps).",
        ]),
    Opt::new("dumps", Kind::List).elements(Kind::Dict).options(DUMP).default(Default::List(&[])).about(&[
        "Commands that are run in services before anything is stopped, such as C(pg_dump); what they print is kept.",
    ]),
    Opt::new("logs", Kind::Count).default(Default::Int(200)).about(&[
        "How many of the last lines of each container's log are kept. V(0) keeps none.",
    ]),
    Opt::new("retain", Kind::Positive).about(&[
        "How many backups are kept. Older ones are removed after the new one was verified.",
        "Data that restores have parked is removed likewise, except that of so many newest restores. Data on which services have run before a restore was reverted stays, and so do files that were set aside: only O(state=absent) removes them.",
    ]),
    Opt::new("keep", Kind::List).elements(Kind::Str).default(Default::List(&[])).about(&[
        "Backups, by name or deploy id, that are never removed.",
    ]),
    Opt::new("min_free", Kind::Bytes).default(Default::Str("100M")).about(&[
        "How much must stay free where the backups lie.",
    ]),
    Opt::new("compression", Kind::Str).default(Default::Str("zstd")).choices(&["zstd", "gzip"]).about(&[
        "How data and images are compressed.",
    ]),
    Opt::new("verify", Kind::Str).default(Default::Str("checksums")).choices(&["checksums", "restore"]).about(&[
        "How a new backup is verified. V(checksums): all of it is read again.",
        "V(restore): it is also started as a separate project, without ports and without a network to the outside, and removed again.",
    ]),
    Opt::new("stop_timeout", Kind::Count).about(&[
        "For how many seconds a container may take to stop before it is killed. The default is each container's own.",
    ]),
    Opt::new("wait_timeout", Kind::Seconds).default(Default::Float(120.0)).about(&[
        "For how many seconds to wait, after a start, until the services are running and healthy.",
    ]),
    Opt::new("timeout", Kind::Seconds).default(Default::Float(14400.0)).about(&[
        "For how many seconds a dump, or the saving or loading of images, may take.",
    ]),
    Opt::new("lock_timeout", Kind::Seconds).default(Default::Float(30.0)).about(&[
        "For how many seconds to wait for another task on this project.",
    ]),
];

const DUMP: &[Opt] = &[
    Opt::new("service", Kind::Str).required().about(&["The service in whose container the command is run."]),
    Opt::new("name", Kind::Str).required().about(&["The name of the file in the backup: letters, digits, C(.), C(_) and C(-)."]),
    Opt::new("command", Kind::List).elements(Kind::Str).required().about(&[
        "The program and its arguments. There is no shell, and it can be seen in the list of processes: no passwords.",
    ]),
];

pub const MODULE: Module = Module {
    name: "compose_backup",
    short: "Back a Docker Compose project up, and restore it",
    about: &[
        "A backup holds what a project is: its images (pulled ones and built ones), its resolved configuration with every compose and env file, its bind mounts and volumes, dumps, the state of its containers and their last log lines.",
        "What did not change since the last backup is kept once: unchanged images and files cost nothing.",
        "A restore parks what it replaces, starts the recorded images, compares them, and restores the parked state when it fails. The restored data is then parked too, since services may have written to it.",
        "Containers are restored as they were too: what was stopped, or had ended, is made where it is missing and not started, what was paused is paused again, and each replica has its own anonymous volumes.",
        "Data is exchanged in one call of the kernel for each folder, so that none is ever missing: on ext4, xfs, btrfs, tmpfs, f2fs, and OpenZFS 2.2 or newer. Restart policies are V(no) meanwhile. What cannot be exchanged is refused before anything is stopped.",
        "A killed run is finished or reverted by the next one, and what it has stopped is started.",
    ],
    version_added: "0.1.0",
    options: &[PROJECT, WHICH, TAKE, change::ROLLBACK_ID, change::CONSENT],
    rules: &[
        Rule::RequiredOneOf(&["project_dir", "files", "project"]),
        Rule::RequiredIfAny("state", "restored", &["name", "deploy_id", "latest", "undo"]),
        Rule::RequiredIfAny("state", "absent", &["name", "deploy_id", "parked"]),
        Rule::MutuallyExclusive(&["name", "latest", "undo"]),
    ],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "Runs as root on the machine of the engine, with Docker 20.10 or newer and Compose v2.",
        "Containers are frozen one after the other, so that with O(consistency=pause) the data is as after a power failure at best; the manifest says so.",
        "Bind mounts and volumes of the C(local) driver are restored by renaming; a source that is itself a mount point is backed up and cannot be restored so.",
        "The RV(loss) of a restore is measured: at most what was written to each mount since the backup, and what containers that are replaced have written outside of their mounts.",
        "The task's C(environment) is handed to Compose, for the variables of the compose files.",
        "A recipe for MongoDB by O(dumps) is in the README of the role C(reversible.deploy.compose_app); it has been tested on a stand-in, as Debian has no MongoDB.",
        "While it works, ansible-playbook shows every few seconds what is done, how much and how fast; so does C(.progress.json) in O(backup_dir).",
    ],
    seealso: &[
        "reversible.deploy.compose_backup_info",
        "reversible.deploy.health_gate",
        "reversible.deploy.deploy_ledger",
    ],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT, DONE],
};

const DONE: &[Return] = &[
    Return::new("backup", Kind::Str, "success", "The backup of the task, or null.")
        .sample(r#""backup-20261121-084500""#),
    Return::new("path", Kind::Str, "success", "Its path, or null."),
    Return::new("deploy_id", Kind::Str, "success", "Its deploy id, or null."),
    Return::new(
        "freeze_ms",
        Kind::Int,
        "after a backup",
        "For how long containers did not run, in milliseconds.",
    ),
    Return::new(
        "bytes",
        Kind::Int,
        "after a backup",
        "The size of the backup, with what it shares with earlier ones.",
    ),
    Return::new("bytes_new", Kind::Int, "after a backup", "What it costs on the disk."),
    Return::new(
        "bytes_linked",
        Kind::Int,
        "after a backup",
        "What it shares with earlier backups.",
    ),
    Return::new(
        "consistency",
        Kind::Dict,
        "after a backup",
        "How the data was frozen, and what one may expect of it.",
    ),
    Return::new("pruned", Kind::List, "after a backup", "The backups that were removed."),
    Return::new(
        "rollback_id",
        Kind::Str,
        "after a restore, also a failed one",
        "The id under which its parked state is found.",
    ),
    Return::new(
        "parked",
        Kind::List,
        "after a restore, also a failed one",
        "The paths of what was replaced.",
    ),
    Return::new("restored", Kind::List, "after a restore", "What was restored."),
    Return::new("images", Kind::List, "after a restore", "The images that run now.").contains(&[
        Return::new("service", Kind::Str, "always", "The service."),
        Return::new("image_id", Kind::Str, "always", "The id of its image."),
    ]),
    Return::new(
        "restored_back",
        Kind::Bool,
        "when a restore failed",
        "Whether the previous state was restored.",
    ),
    Return::new(
        "thawed",
        Kind::List,
        "success",
        "The containers that were started again for a killed run.",
    ),
];

pub const INFO: Module = Module {
    name: "compose_backup_info",
    short: "List the backups of a Docker Compose project, and the progress of a running task",
    about: &[
        "Lists the backups, what restores have parked, what a killed run has left, and the progress of a running task. Changes nothing.",
    ],
    version_added: "0.1.0",
    options: &[PROJECT, INFO_OPTIONS],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::None,
    notes: &["Needs no engine: it reads O(backup_dir) and O(state_dir) alone."],
    seealso: &["reversible.deploy.compose_backup"],
    examples: include_str!("examples_info.yml"),
    returns: &[SEEN],
};

const INFO_OPTIONS: &[Opt] = &[Opt::new("check", Kind::Bool)
    .default(Default::Bool(false))
    .about(&["Read all files of the backups and compare their sums."])];

const SEEN: &[Return] = &[
    Return::new("backups", Kind::List, "success", "The backups, the newest first.").contains(&[
        Return::new("name", Kind::Str, "always", "The name."),
        Return::new("path", Kind::Str, "always", "Where it lies."),
        Return::new("project", Kind::Str, "always", "The project, or null."),
        Return::new("at", Kind::Str, "always", "When it was taken, in UTC, or null."),
        Return::new("deploy_id", Kind::Str, "always", "The deploy, or null."),
        Return::new("release", Kind::Str, "always", "The release, or null."),
        Return::new("services", Kind::List, "always", "The services in it."),
        Return::new("bytes", Kind::Int, "always", "Its size, with what it shares with others."),
        Return::new(
            "bytes_new",
            Kind::Int,
            "always",
            "What it added on the disk when it was made.",
        ),
        Return::new("consistency", Kind::Dict, "always", "How the data was frozen, or null."),
        Return::new(
            "freeze_ms",
            Kind::Int,
            "always",
            "For how long containers did not run, or null.",
        ),
        Return::new("verify", Kind::Dict, "always", "How it was proven, or null."),
        Return::new(
            "ready_to_restore",
            Kind::Bool,
            "always",
            "Whether it can be restored, judging by its manifest and its files.",
        ),
        Return::new("why", Kind::List, "always", "Why not, in sentences."),
    ]),
    Return::new("latest", Kind::Str, "success", "The newest complete backup, or null."),
    Return::new(
        "unfinished_backups",
        Kind::List,
        "success",
        "Folders of backups that were not completed.",
    ),
    Return::new("parked", Kind::List, "success", "What restores have parked, and files that they have set aside.").contains(&[
        Return::new("rollback_id", Kind::Str, "always", "The id of the restore, or the one under which the data of a reverted restore is parked."),
        Return::new("backup", Kind::Str, "always", "What was restored."),
        Return::new("at", Kind::Str, "always", "When, in UTC."),
        Return::new("paths", Kind::List, "always", "Where it lies."),
    ]),
    Return::new(
        "unfinished",
        Kind::Str,
        "success",
        "Since when a run that was killed waits to be finished, or null.",
    ),
    Return::new(
        "frozen",
        Kind::List,
        "success",
        "The containers that it has left stopped or paused.",
    ),
    Return::new(
        "progress",
        Kind::Dict,
        "success",
        "What a running task does, how much of it is done and how fast, or null.",
    ),
];
