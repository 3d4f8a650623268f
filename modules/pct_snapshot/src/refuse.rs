//! Finds what would make a rollback or a snapshot fail later, so that it is refused before. Pure.

use crate::cluster::Reach;
use crate::container::{Mount, Snapshot};
use crate::filesystems::Frozen;
use crate::freezer;
use crate::names::{Vmid, nearest};
use crate::state::{State, Survey};
use ansible_module::Failure;

/// A reason to refuse: a stable code, and a sentence that says what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: &'static str,
    pub text: String,
}

impl From<Obstacle> for Failure {
    fn from(obstacle: Obstacle) -> Failure {
        Failure::new(obstacle.reason, format!("{}; nothing was changed", obstacle.text))
    }
}

fn obstacle(reason: &'static str, text: impl Into<String>) -> Obstacle {
    Obstacle { reason, text: text.into() }
}

/// Returns the obstacles to any change.
pub fn to_any(state: &State) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if !state.has_quorum {
        found.push(obstacle(
            "no_quorum",
            "the cluster has no quorum, so that no configuration can be written: bring its nodes back first",
        ));
    }
    if state.config.template {
        found.push(obstacle(
            "template",
            format!("CT {} is a template, which has no snapshots: clone it", state.vmid),
        ));
    }
    if state.frozen_by_others() {
        found.push(frozen(state.vmid, state.frozen, &state.frozen_mounts));
    }
    found
}

/// Makes the obstacle of a container that is frozen without a lock of a task that will thaw it.
pub fn frozen(vmid: Vmid, processes: bool, mounts: &[Frozen]) -> Obstacle {
    let mut what = Vec::new();
    if processes {
        what.push("its processes are frozen".to_owned());
    }
    if !mounts.is_empty() {
        let paths: Vec<_> = mounts.iter().map(|one| one.path.display().to_string()).collect();
        what.push(format!("what writes to {} waits", paths.join(" or ")));
    }
    let cures = thaw_commands(vmid, processes, mounts);
    obstacle(
        "frozen",
        format!(
            "CT {vmid} is frozen: it counts as running, but {}, and no task of this module has left it so; \
             find out who did, then `{}` lets it go on",
            what.join(", and "),
            cures.join("` and `")
        ),
    )
}

/// Returns the commands that thaw it.
pub fn thaw_commands(vmid: Vmid, processes: bool, mounts: &[Frozen]) -> Vec<String> {
    let mounts = mounts.iter().map(Frozen::by_hand);
    mounts.chain(processes.then(|| freezer::by_hand(vmid))).collect()
}

/// Returns the obstacles to a rollback to `target`. Locks are not among them, since the task waits for them.
pub fn to_rollback(state: &State, survey: &Survey, target: &Snapshot) -> Vec<Obstacle> {
    let mut found = to_any(state);
    if let Some(broken) = &target.state {
        found.push(obstacle(
            "incomplete",
            format!(
                "snapshot {} is incomplete (snapstate {broken}): taking or removing it was interrupted, \
                 and nobody can go back to it; choose another",
                target.name
            ),
        ));
    }
    if let Some(wanted) = &survey.ha {
        found.push(obstacle(
            "ha_managed",
            format!(
                "CT {} is managed by HA (wanted: {wanted}), which would start it in the middle of the \
                 rollback: `ha-manager set ct:{} --state ignored` first, and --state {wanted} afterwards",
                state.vmid, state.vmid
            ),
        ));
    }
    if !survey.outside.is_empty() {
        found.push(obstacle(
            "outside_snapshots",
            format!(
                "ZFS goes back to the newest snapshot only, and these, which Proxmox did not make, are \
                 newer: {}; find out whose they are, then `zfs destroy` them",
                survey.outside.join(", ")
            ),
        ));
    }
    if state.reach(&survey.target.mounts) == Reach::Newest {
        for needed in
            state.snapshots.newer_than(target).iter().filter_map(|one| one.needed.as_ref())
        {
            found.push(obstacle(
                "newer_needed",
                format!(
                    "ZFS goes back to the newest snapshot only, and a newer one could not be removed: {needed}"
                ),
            ));
        }
    }
    found
}

/// Returns the current mount points whose content a rollback does not touch.
pub fn uncovered<'a>(state: &'a State, survey: &Survey) -> Vec<&'a Mount> {
    let kept = &survey.target.mounts;
    let covered =
        |mount: &Mount| mount.is_volume() && kept.iter().any(|one| one.source == mount.source);
    state.config.mounts.iter().filter(|mount| !covered(mount)).collect()
}

/// Finds why Proxmox would say that "the snapshot feature is not available".
pub fn no_feature(state: &State) -> Option<Obstacle> {
    let (mut causes, mut cures) = (Vec::new(), Vec::new());
    for mount in &state.config.mounts {
        let (key, vmid) = (&mount.key, state.vmid);
        match mount.storage() {
            None => {
                causes.push(mount.title());
                cures.push(format!(
                    "take {key} out of its configuration (a bind mount can be an lxc.mount.entry)"
                ));
            }
            Some(storage) => {
                let known = state.storages.get(storage);
                if let Some(known) = known.filter(|known| known.reach() == Reach::None) {
                    causes.push(format!("{} on a storage of type {}", mount.title(), known.kind));
                    cures.push(format!(
                        "move {key} to ZFS, LVM-thin, btrfs or Ceph (`pct move-volume {vmid} {key} <storage>`)"
                    ));
                }
            }
        }
    }
    (!causes.is_empty()).then(|| {
        obstacle(
            "no_snapshots",
            format!(
                "Proxmox takes no snapshot of this container, because of {}: {}",
                causes.join(" and "),
                cures.join(", and ")
            ),
        )
    })
}

/// Makes the error for a snapshot that does not exist, with the most similar names.
pub fn no_such(state: &State, name: &str) -> Failure {
    let all = state.snapshots.all.iter().map(|one| one.name.as_str());
    let near = nearest(name, all);
    let hint = match near.as_slice() {
        [] => "the container has no snapshots".to_owned(),
        names => format!("similar names are {}", names.join(", ")),
    };
    Failure::new("no_snapshot", format!("there is no snapshot {name}: {hint}; nothing was changed"))
        .with("snapshots", near.into_iter().map(str::to_owned).collect::<Vec<_>>())
}
