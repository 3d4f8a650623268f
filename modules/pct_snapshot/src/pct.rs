//! `pct`: the commands that change a container, their errors, and commands in the container.
//!
//! Invariant: exit codes and output are not proof of anything; callers read the state afterwards.

use crate::marker::Marker;
use crate::names::Vmid;
use ansible_module::Failure;
use anyhow::Result;
use host::command::{Cause, Command, Failed, IfWeDie, Output};
use host::deadline::Deadline;
use std::path::PathBuf;
use std::time::Duration;

/// The timeout of reading commands, which take long on an overloaded node.
const READ: Duration = Duration::from_secs(60);
/// `pct shutdown` waits some seconds longer than its timeout.
const AFTER_SHUTDOWN: Duration = Duration::from_secs(30);
/// The timeout of one command in the container, so that a hung one does not use up the whole deadline.
const INSIDE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Pct {
    pub program: PathBuf,
    pub vmid: Vmid,
    /// How long one change may take.
    pub task_timeout: Duration,
}

impl Pct {
    /// Makes a command with a UTF-8 locale: in the C locale Proxmox replaces all but ASCII in its arguments.
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

    /// Kills the container.
    pub fn stop(&self) -> Result<(), Failed> {
        self.change("stop", &[], self.task_timeout)
    }

    /// Shuts the container down, and kills it after the timeout.
    pub fn shutdown(&self, patience: Duration) -> Result<(), Failed> {
        let seconds = patience.as_secs_f64().ceil().max(1.0).to_string();
        let most = patience + AFTER_SHUTDOWN;
        self.change("shutdown", &["--timeout", &seconds, "--forceStop", "1"], most)
    }

    pub fn unlock(&self) -> Result<(), Failed> {
        self.change("unlock", &[], self.task_timeout)
    }

    /// Runs a command in the container; any exit code is a result.
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

/// Parses `pct status <id>`: `status: running`.
pub fn is_running(stdout: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("status: "));
    match line.map(str::trim) {
        Some("running") => Ok(true),
        Some("stopped") => Ok(false),
        _ => Err(format!("pct status printed {text:?}, expected running or stopped")),
    }
}

/// The error of a failed command of Proxmox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PveError {
    /// Another task holds the container's lock; nothing was done.
    Locked(Option<String>),
    NoContainer,
    NoQuorum,
    NotNewest,
    NoFeature,
    NoSpace,
    NameTaken,
    Replication,
    NotRoot,
    /// The cluster's file system with all configurations is not mounted.
    NoClusterFiles,
    /// It was not done in time and may still run.
    Hangs,
    Other,
}

impl PveError {
    pub fn of(failed: &Failed) -> PveError {
        if matches!(failed.cause, Cause::TimedOut { .. }) {
            return PveError::Hangs;
        }
        let text = format!("{}\n{}", failed.stdout, failed.stderr);
        let has = |part: &str| text.contains(part);
        let lower = text.to_lowercase();
        if let Some((_, rest)) = text.split_once("is locked (") {
            return PveError::Locked(rest.split_once(')').map(|(lock, _)| lock.to_owned()));
        }
        match () {
            _ if has("got timeout") && has("can't lock file") => PveError::Locked(None),
            _ if has("guest migration lock") => PveError::Replication,
            _ if has("ipcc_send_rec") && has("Unknown error -1") => PveError::NotRoot,
            _ if has("ipcc_send_rec") => PveError::NoClusterFiles,
            _ if has("Configuration file") && has("does not exist") => PveError::NoContainer,
            _ if has("no quorum") || (has("/etc/pve") && has("Permission denied")) => {
                PveError::NoQuorum
            }
            _ if has("is not most recent snapshot") => PveError::NotNewest,
            _ if has("snapshot feature is not available") => PveError::NoFeature,
            _ if has("already used") => PveError::NameTaken,
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
                PveError::NoSpace
            }
            _ => PveError::Other,
        }
    }

    pub fn reason(&self) -> &'static str {
        match self {
            PveError::Locked(_) => "locked",
            PveError::NoContainer => "no_container",
            PveError::NoQuorum => "no_quorum",
            PveError::NotNewest => "not_newest",
            PveError::NoFeature => "no_snapshots",
            PveError::NoSpace => "no_space",
            PveError::NameTaken => "name_taken",
            PveError::Replication => "replication",
            PveError::NotRoot => "permission_denied",
            PveError::NoClusterFiles => "pmxcfs_down",
            PveError::Hangs => "timed_out",
            PveError::Other => "command_failed",
        }
    }

    pub fn cure(&self) -> String {
        match self {
            PveError::Locked(Some(lock)) => format!("the lock {lock} {}", holder_of(lock)),
            PveError::Locked(None) => {
                "another task holds the configuration's lock file: try again when it is done".into()
            }
            PveError::NoQuorum => "the cluster has no quorum: bring its nodes back".into(),
            PveError::NotNewest => {
                "ZFS goes back to the newest snapshot only, and counts those that were made outside of \
                 Proxmox: list them with `zfs list -t snapshot` and remove or keep them by hand"
                    .into()
            }
            PveError::NoFeature => "a volume of it is on a storage without snapshots".into(),
            PveError::NoSpace => {
                "make space on the storage: remove what nobody needs, a backup of vzdump (pvesm list STORAGE \
                 --content backup, pvesm free VOLUME) or a snapshot (state: absent), or let a thin pool \
                 grow (lvextend)"
                    .into()
            }
            PveError::Replication => "its replication runs: try again when it is done".into(),
            PveError::NotRoot => "pct works for root alone".into(),
            PveError::NoClusterFiles => {
                "the cluster's file system (pmxcfs) is down on this node: see `systemctl status pve-cluster` \
                 and start it"
                    .into()
            }
            PveError::Hangs => {
                "the task was told to end and may not do so at once: look at its log in Proxmox, or allow a \
                 longer task_timeout"
                    .into()
            }
            PveError::NoContainer | PveError::NameTaken | PveError::Other => String::new(),
        }
    }
}

/// Describes the usual holder of a lock.
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

/// Returns the command that recreates a volume on LVM-thin, where a rollback removes the volume and recreates it
/// from its snapshot. After a kill in between, each further rollback fails at the removal.
pub fn recreate_volume_command(failed: &Failed, snapshot: &str) -> Option<String> {
    let text = format!("{}\n{}", failed.stdout, failed.stderr);
    let (_, rest) = text.split_once("Failed to find logical volume \"")?;
    let (group, volume) = rest.split_once('"')?.0.split_once('/')?;
    Some(format!("lvcreate -kn -n {volume} -s {group}/snap_{volume}_{snapshot}"))
}

/// Makes the error for a failed command, with what was tried and what helps.
pub fn explained(failed: Failed, what: &str) -> Failure {
    if matches!(failed.cause, Cause::Interrupted { .. } | Cause::NotFound) {
        return Failure::new(failed.reason(), what).caused_by(failed.into());
    }
    let pve_error = PveError::of(&failed);
    Failure::of_command(failed, what, pve_error.reason(), &pve_error.cure())
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

    fn pve_error(stdout: &str, stderr: &str) -> PveError {
        PveError::of(&Failed {
            cmd: vec!["pct".into()],
            cause: Cause::NonZero,
            rc: Some(255),
            signal: None,
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    #[test]
    fn errors_are_recognised() {
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
            assert_eq!(pve_error("", stderr).reason(), reason, "{stderr}");
        }
        // The worker's own messages are on stdout.
        assert_eq!(pve_error("  No space left on device\n", "exit code 5").reason(), "no_space");
        assert_eq!(pve_error("", "CT is locked (backup)"), PveError::Locked(Some("backup".into())));
    }
}
