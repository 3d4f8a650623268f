//! `pct`: the commands that change a container, what their failures mean, and the commands that
//! run inside of it.
//!
//! Invariant: that a command ended well proves nothing, and what it printed neither; whoever calls
//! looks at the state afterwards.

use crate::marker::Marker;
use crate::names::Vmid;
use ansible_module::Failure;
use anyhow::Result;
use host::command::{Cause, Command, Failed, IfWeDie, Output};
use host::deadline::Deadline;
use std::path::PathBuf;
use std::time::Duration;

/// For what only reads. A node that is out of breath may take long.
const READ: Duration = Duration::from_secs(60);
/// `pct shutdown` waits some seconds past its timeout, for the container to be gone.
const AFTER_SHUTDOWN: Duration = Duration::from_secs(30);
/// One question inside the container; a hung one must not eat the whole deadline.
const INSIDE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Pct {
    pub program: PathBuf,
    pub vmid: Vmid,
    /// How long one change may take.
    pub task_timeout: Duration,
}

impl Pct {
    /// Proxmox reads its arguments in the locale's encoding: in plain C it replaces all but ASCII.
    fn command(&self) -> Command {
        Command::new(&self.program).env("LC_ALL", "C.UTF-8")
    }

    fn read(&self, args: &[&str]) -> Result<Output, Failed> {
        self.command().args(args).deadline(READ).if_we_die(IfWeDie::DiesToo).run()
    }

    fn change(&self, verb: &str, args: &[&str], timeout: Duration) -> Result<(), Failed> {
        let command = self.command().arg(verb).arg(self.vmid.to_string());
        command.args(args).deadline(timeout).run().map(drop)
    }

    pub fn status(&self) -> Result<Output, Failed> {
        self.read(&["status", &self.vmid.to_string()])
    }

    pub fn snapshot(&self, name: &str, text: &str, marker: &Marker) -> Result<(), Failed> {
        let description = marker.describe(text);
        self.change("snapshot", &[name, "--description", &description], self.task_timeout)
    }

    pub fn delete(&self, name: &str, incomplete: bool) -> Result<(), Failed> {
        let force: &[&str] = if incomplete { &[name, "--force"] } else { &[name] };
        self.change("delsnapshot", force, self.task_timeout)
    }

    pub fn rollback(&self, name: &str) -> Result<(), Failed> {
        self.change("rollback", &[name], self.task_timeout)
    }

    pub fn start(&self) -> Result<(), Failed> {
        self.change("start", &[], self.task_timeout)
    }

    /// Hard.
    pub fn stop(&self) -> Result<(), Failed> {
        self.change("stop", &[], self.task_timeout)
    }

    /// Graceful, and hard when that took too long.
    pub fn shutdown(&self, patience: Duration) -> Result<(), Failed> {
        let seconds = patience.as_secs_f64().ceil().max(1.0).to_string();
        let most = patience + AFTER_SHUTDOWN;
        self.change("shutdown", &["--timeout", &seconds, "--forceStop", "1"], most)
    }

    pub fn unlock(&self) -> Result<(), Failed> {
        self.change("unlock", &[], self.task_timeout)
    }

    /// A command inside the container; its exit code is an answer.
    pub fn exec(&self, argv: &[String], deadline: Deadline) -> Result<Output, Failed> {
        let any: Vec<i32> = (0..=255).collect();
        self.command()
            .args(["exec", &self.vmid.to_string(), "--"])
            .args(argv)
            .accept(&any)
            .deadline(Deadline::after(INSIDE).or_sooner(deadline))
            .output_limit(64 << 10)
            .if_we_die(IfWeDie::DiesToo)
            .run()
    }
}

/// `pct status <id>`: `status: running`.
pub fn is_running(stdout: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("status: "));
    match line.map(str::trim) {
        Some("running") => Ok(true),
        Some("stopped") => Ok(false),
        _ => Err(format!("{text:?} is no answer of pct status")),
    }
}

/// What a failed command of Proxmox means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Somebody holds the container's lock; nothing was done.
    Locked(Option<String>),
    NoContainer,
    NoQuorum,
    NotNewest,
    NoFeature,
    NoSpace,
    NameTaken,
    Replication,
    NotRoot,
    /// The cluster's file system, which has all configurations, is not up.
    NoClusterFiles,
    /// It was not done in time, and may go on.
    Hangs,
    Other,
}

impl Trouble {
    pub fn of(failed: &Failed) -> Trouble {
        if matches!(failed.cause, Cause::TimedOut { .. }) {
            return Trouble::Hangs;
        }
        let text = format!("{}\n{}", failed.stdout, failed.stderr);
        let has = |part: &str| text.contains(part);
        let lower = text.to_lowercase();
        if let Some((_, rest)) = text.split_once("is locked (") {
            return Trouble::Locked(rest.split_once(')').map(|(lock, _)| lock.to_owned()));
        }
        match () {
            _ if has("got timeout") && has("can't lock file") => Trouble::Locked(None),
            _ if has("guest migration lock") => Trouble::Replication,
            _ if has("ipcc_send_rec") && has("Unknown error -1") => Trouble::NotRoot,
            _ if has("ipcc_send_rec") => Trouble::NoClusterFiles,
            _ if has("Configuration file") && has("does not exist") => Trouble::NoContainer,
            _ if has("no quorum") || (has("/etc/pve") && has("Permission denied")) => {
                Trouble::NoQuorum
            }
            _ if has("is not most recent snapshot") => Trouble::NotNewest,
            _ if has("snapshot feature is not available") => Trouble::NoFeature,
            _ if has("already used") => Trouble::NameTaken,
            _ if [
                "no space",
                "out of space",
                "quota exceeded",
                "reached threshold",
                "insufficient free",
            ]
            .iter()
            .any(|part| lower.contains(part)) =>
            {
                Trouble::NoSpace
            }
            _ => Trouble::Other,
        }
    }

    pub fn reason(&self) -> &'static str {
        match self {
            Trouble::Locked(_) => "locked",
            Trouble::NoContainer => "no_container",
            Trouble::NoQuorum => "no_quorum",
            Trouble::NotNewest => "not_newest",
            Trouble::NoFeature => "no_snapshots",
            Trouble::NoSpace => "no_space",
            Trouble::NameTaken => "name_taken",
            Trouble::Replication => "replication",
            Trouble::NotRoot => "permission_denied",
            Trouble::NoClusterFiles => "pmxcfs_down",
            Trouble::Hangs => "timed_out",
            Trouble::Other => "command_failed",
        }
    }

    pub fn cure(&self) -> String {
        match self {
            Trouble::Locked(Some(lock)) => format!("the lock {lock} {}", holder_of(lock)),
            Trouble::Locked(None) => {
                "another task holds the configuration's lock file: try again when it is done".into()
            }
            Trouble::NoQuorum => "the cluster has no quorum: bring its nodes back".into(),
            Trouble::NotNewest => {
                "ZFS goes back to the newest snapshot only, and counts those that were made outside of \
                 Proxmox: list them with `zfs list -t snapshot` and remove or keep them by hand"
                    .into()
            }
            Trouble::NoFeature => "a volume of it is on a storage without snapshots".into(),
            Trouble::NoSpace => {
                "make room on the storage: remove what nobody needs, a backup of vzdump (pvesm list STORAGE \
                 --content backup, pvesm free VOLUME) or a snapshot (state: absent), or let a thin pool \
                 grow (lvextend)"
                    .into()
            }
            Trouble::Replication => "its replication runs: try again when it is done".into(),
            Trouble::NotRoot => "pct works for root alone".into(),
            Trouble::NoClusterFiles => {
                "the cluster's file system (pmxcfs) is down on this node: see `systemctl status pve-cluster` \
                 and start it"
                    .into()
            }
            Trouble::Hangs => {
                "the task was told to end and may not do so at once: look at its log in Proxmox, or allow a \
                 longer task_timeout"
                    .into()
            }
            Trouble::NoContainer | Trouble::NameTaken | Trouble::Other => String::new(),
        }
    }
}

/// What usually holds a lock.
pub fn holder_of(lock: &str) -> &'static str {
    match lock {
        "backup" => "is that of a backup (vzdump)",
        "create" => "is that of its creation or restore",
        "destroyed" => "says that it is being destroyed",
        "disk" => "is that of a volume being moved or resized",
        "fstrim" => "is that of pct fstrim",
        "migrate" => "is that of a migration",
        "mounted" => "is that of pct mount: its volumes are mounted on the node; see pct unmount",
        "rollback" => "is that of a rollback, under way or broken off",
        "snapshot" => "is that of a snapshot being taken, or broken off",
        "snapshot-delete" => "is that of a snapshot being removed, or broken off",
        _ => "is of a kind that is not known here",
    }
}

/// On LVM-thin a rollback removes a volume and recreates it from its snapshot. Killed in between, each
/// further one fails at the removal, and only a person can go on: the name is `group/volume`.
pub fn makes_volume_anew(failed: &Failed, snapshot: &str) -> Option<String> {
    let text = format!("{}\n{}", failed.stdout, failed.stderr);
    let (_, rest) = text.split_once("Failed to find logical volume \"")?;
    let (group, volume) = rest.split_once('"')?.0.split_once('/')?;
    Some(format!("lvcreate -kn -n {volume} -s {group}/snap_{volume}_{snapshot}"))
}

/// A failed command as a failure of ours: what was tried, and what helps.
pub fn explained(failed: Failed, what: &str) -> Failure {
    if matches!(failed.cause, Cause::Interrupted { .. } | Cause::NotFound) {
        return Failure::new(failed.reason(), what).caused_by(failed.into());
    }
    let trouble = Trouble::of(&failed);
    let msg = match trouble.cure() {
        cure if cure.is_empty() => what.to_owned(),
        cure => format!("{what} ({cure})"),
    };
    Failure::new(trouble.reason(), msg).caused_by(failed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status() {
        assert_eq!(is_running(b"status: running\n"), Ok(true));
        assert_eq!(is_running(b"status: stopped\n"), Ok(false));
        assert!(is_running(b"").is_err());
    }

    fn trouble(stdout: &str, stderr: &str) -> Trouble {
        Trouble::of(&Failed {
            cmd: vec!["pct".into()],
            cause: Cause::NonZero,
            rc: Some(255),
            signal: None,
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    #[test]
    fn what_failures_mean() {
        for (stderr, reason) in [
            ("CT is locked (snapshot-delete)", "locked"),
            ("can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout", "locked"),
            ("Configuration file 'nodes/pve1/lxc/101.conf' does not exist", "no_container"),
            ("cluster not ready - no quorum?", "no_quorum"),
            (
                "unable to open file '/etc/pve/nodes/a/lxc/1.conf.tmp.7' - Permission denied",
                "no_quorum",
            ),
            (
                "can't rollback, 'a1' is not most recent snapshot on 'zp:subvol-301-disk-0'",
                "not_newest",
            ),
            ("snapshot feature is not available", "no_snapshots"),
            ("snapshot name 'x' already used", "name_taken"),
            ("zfs error: cannot create snapshot: out of space", "no_space"),
            ("ipcc_send_rec[1] failed: Unknown error -1", "permission_denied"),
            ("ipcc_send_rec[1] failed: Connection refused", "pmxcfs_down"),
            ("Failed to obtain guest migration lock - replication running?", "replication"),
            ("something else", "command_failed"),
        ] {
            assert_eq!(trouble("", stderr).reason(), reason, "{stderr}");
        }
        // The worker's own words are on stdout.
        assert_eq!(trouble("  No space left on device\n", "exit code 5").reason(), "no_space");
        assert_eq!(trouble("", "CT is locked (backup)"), Trouble::Locked(Some("backup".into())));
    }
}
