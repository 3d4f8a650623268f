//! Decides which trees a swap parks and which become live: recreated from snapshots, or parked by an
//! earlier swap. Refuses what would stop the swap half way. Pure.

use crate::listing::Data;
use crate::names::{LONGEST, below, parent_of};
use crate::options::Point;
use crate::state::State;
use crate::target::{Targets, listed};
use crate::unfinished::{Incoming, Outgoing, Tree, Uncovered};
use ansible_module::Failure;
use std::collections::BTreeMap;

/// The free space that a clone needs for its metadata.
const ROOM: u64 = 256 << 10;

/// For each dataset, the properties and values that are set on itself.
pub type Properties = BTreeMap<String, Vec<(String, String)>>;

/// Properties that only the creation of a dataset sets, or that must not be copied.
const NOT_COPIED: &[&str] = &[
    "canmount",
    "volsize",
    "volblocksize",
    "encryption",
    "keyformat",
    "keylocation",
    "pbkdf2iters",
    "casesensitivity",
    "normalization",
    "utf8only",
    "version",
    "mlslabel",
];
const LIMITS: &[&str] =
    &["quota", "refquota", "reservation", "refreservation", "filesystem_limit", "snapshot_limit"];
/// Reserved space cannot be reserved a second time while the parked tree still reserves it.
pub const RESERVED: &[&str] = &["reservation", "refreservation"];

/// Plans trees that are recreated from the snapshots of a restore point.
pub fn to_snapshots(
    state: &State,
    properties: &Properties,
    targets: &Targets<'_>,
    point: &Point,
    id: &str,
) -> Result<Vec<Tree>, Failure> {
    let mut trees: Vec<Tree> = Vec::new();
    for target in &targets.snaps {
        if trees.iter().any(|tree| below(&target.dataset, &tree.live).is_some()) {
            continue;
        }
        let root = target.dataset.as_str();
        let mut tree = new_tree(state, root, id, None)?;
        tree.snapshot = Some(point.snapshot.clone());
        for (below, data) in under(state, root) {
            if is_uncovered(&tree, &below) {
                continue;
            }
            let covered = state.covered.binary_search(&data.name).is_ok();
            if let Some(snap) = targets.of(&data.name) {
                refuse_orphan(&tree, &below, data)?;
                tree.incoming.push(recreated(&below, data, snap.guid, properties));
                tree.outgoing.push(outgoing(&below, data, properties));
            } else if covered {
                // Created later: `targets` has refused what existed then.
                tree.outgoing.push(outgoing(&below, data, properties));
            } else {
                tree.uncovered.push(uncovered(state, &below, data, root)?);
            }
        }
        trees.push(tree);
    }
    refuse(state, &trees)?;
    Ok(trees)
}

/// Plans to make the parked trees of this id live again.
pub fn to_parked(
    state: &State,
    properties: &Properties,
    parked: &str,
    id: &str,
) -> Result<Vec<Tree>, Failure> {
    let mut trees = Vec::new();
    for there in state.parked().into_iter().filter(|tree| tree.id == parked) {
        let live = there.live.as_str();
        let Some(root) = state.datasets.get(live) else { return Err(no_live(live, &there.root)) };
        let mut tree = new_tree(state, live, id, Some(there.root.clone()))?;
        for name in &there.members {
            let (Some(data), Some(below)) = (state.datasets.get(name), below(name, &there.root))
            else {
                continue;
            };
            tree.incoming.push(returning(
                below,
                data,
                state.datasets.get(&format!("{live}{below}")),
                properties,
            ));
        }
        for (below, data) in under(state, live) {
            if is_uncovered(&tree, &below) {
                continue;
            }
            let has_other = tree.incoming.iter().any(|one| one.below == below);
            let covered = state.covered.binary_search(&data.name).is_ok();
            // A dataset older than the live root, which the swap has made, was not covered by that swap.
            match has_other || (covered && data.txg >= root.txg) {
                true => tree.outgoing.push(outgoing(&below, data, properties)),
                false => tree.uncovered.push(uncovered(state, &below, data, live)?),
            }
        }
        trees.push(tree);
    }
    if trees.is_empty() {
        return Err(no_parked(state, parked));
    }
    refuse(state, &trees)?;
    Ok(trees)
}

fn no_live(live: &str, parked: &str) -> Failure {
    let msg = format!(
        "{parked} cannot be swapped with {live}, which does not exist; use `zfs rename` instead; nothing was changed"
    );
    Failure::new("no_dataset", msg)
}

pub fn no_parked(state: &State, id: &str) -> Failure {
    let trees = state.parked();
    let mut ids: Vec<&str> = trees.iter().map(|tree| tree.id.as_str()).collect();
    ids.dedup();
    let known = if ids.is_empty() { "none".to_owned() } else { listed(ids) };
    let msg = format!(
        "nothing of these datasets is parked under {id} (there is: {known}); nothing was changed"
    );
    Failure::new("no_parked", msg)
}

fn new_tree(state: &State, live: &str, id: &str, from: Option<String>) -> Result<Tree, Failure> {
    if parent_of(live).is_none() {
        let msg = format!(
            "{live} is a pool's own dataset, which cannot be renamed, and so not be swapped; use method: rollback; nothing \
             was changed"
        );
        return Err(Failure::new("pool_root", msg));
    }
    let parked = format!("{live}-parked-{id}");
    if state.datasets.contains_key(&parked) {
        let msg = format!("there is a dataset {parked} already; nothing was changed");
        return Err(Failure::new("name_taken", msg));
    }
    Ok(Tree {
        id: id.to_owned(),
        live: live.to_owned(),
        parked,
        outgoing: Vec::new(),
        incoming: Vec::new(),
        uncovered: Vec::new(),
        from,
        snapshot: None,
    })
}

fn under<'a>(state: &'a State, root: &str) -> Vec<(String, &'a Data)> {
    let all = state.datasets.values();
    all.filter_map(|data| Some((below(&data.name, root)?.to_owned(), data))).collect()
}

fn is_uncovered(tree: &Tree, name: &str) -> bool {
    tree.uncovered.iter().any(|other| below(name, &other.below).is_some())
}

fn refuse_orphan(tree: &Tree, name: &str, data: &Data) -> Result<(), Failure> {
    let parent = parent_of(name).unwrap_or_default();
    match name.is_empty() || tree.incoming.iter().any(|one| one.below == parent) {
        true => Ok(()),
        false => {
            let msg = format!(
                "{} would have no parent: {}{parent} is not covered; cover it too, or use method: rollback; nothing \
                 was changed",
                data.name, tree.live
            );
            Err(Failure::new("uncovered_children", msg))
        }
    }
}

fn uncovered(state: &State, name: &str, data: &Data, root: &str) -> Result<Uncovered, Failure> {
    if data.parked.is_some() {
        let msg = format!(
            "{} is a parked state below what is to be swapped: remove it first (state: absent with parked), or make it live; \
             nothing was changed",
            data.name
        );
        return Err(Failure::new("uncovered_children", msg));
    }
    let all: Vec<&Data> =
        state.datasets.values().filter(|other| below(&other.name, &data.name).is_some()).collect();
    let keyed = all.iter().find(|one| {
        let key = one.encryption_root.as_deref();
        key.is_some_and(|key| below(key, root).is_some() && below(key, &data.name).is_none())
    });
    if let Some(keyed) = keyed {
        let msg = format!(
            "{} is not covered by the snapshot and has its key from {}, so it can neither keep its parent nor be parked; cover it too, or use method: \
             rollback; nothing was changed",
            keyed.name,
            keyed.encryption_root.as_deref().unwrap_or_default()
        );
        return Err(Failure::new("uncovered_children", msg));
    }
    let mounted = all.iter().filter(|one| one.mounted);
    let mounted = mounted.filter_map(|one| Some(below(&one.name, root)?.to_owned())).collect();
    Ok(Uncovered { below: name.to_owned(), guid: data.guid, mounted })
}

fn outgoing(name: &str, data: &Data, properties: &Properties) -> Outgoing {
    Outgoing {
        below: name.to_owned(),
        guid: data.guid,
        is_volume: data.is_volume,
        canmount: canmount(&data.name, properties),
        mounted: data.mounted,
        mountpoint: data.mountpoint.clone(),
    }
}

fn canmount(name: &str, properties: &Properties) -> String {
    let own = properties.get(name).into_iter().flatten().find(|(key, _)| key == "canmount");
    own.map_or("default", |(_, value)| value).to_owned()
}

fn limits(name: &str, properties: &Properties) -> Vec<(String, String)> {
    let own = properties.get(name).into_iter().flatten();
    // ZFS prints this number for "no limit".
    let none = u64::MAX.to_string();
    own.filter(|(key, value)| LIMITS.contains(&key.as_str()) && *value != none).cloned().collect()
}

fn recreated(name: &str, data: &Data, guid: u64, properties: &Properties) -> Incoming {
    let own = properties.get(&data.name).into_iter().flatten();
    let copied = own.filter(|(key, _)| {
        let key = key.as_str();
        !NOT_COPIED.contains(&key)
            && !LIMITS.contains(&key)
            && !key.starts_with("reversible.deploy:")
    });
    Incoming {
        below: name.to_owned(),
        guid,
        is_volume: data.is_volume,
        canmount: canmount(&data.name, properties),
        mounts: data.mounted,
        mountpoint: data.mountpoint.clone(),
        properties: copied.cloned().collect(),
        late: limits(&data.name, properties),
    }
}

fn returning(name: &str, data: &Data, live: Option<&Data>, properties: &Properties) -> Incoming {
    let saved = data.parked.as_ref().and_then(|parked| parked.canmount.clone());
    let canmount = saved.unwrap_or_else(|| "default".to_owned());
    let mountable =
        matches!(canmount.as_str(), "on" | "default") && data.mountpoint.starts_with('/');
    let late = live.map(|live| limits(&live.name, properties)).unwrap_or_default();
    Incoming {
        below: name.to_owned(),
        guid: data.guid,
        is_volume: data.is_volume,
        mounts: live.map_or(mountable && !data.is_volume, |live| live.mounted),
        mountpoint: live.map(|live| live.mountpoint.clone()).unwrap_or_default(),
        canmount,
        properties: Vec::new(),
        late: late.into_iter().filter(|(key, _)| RESERVED.contains(&key.as_str())).collect(),
    }
}

/// Refuses what would stop the swap half way.
fn refuse(state: &State, trees: &[Tree]) -> Result<(), Failure> {
    for tree in trees {
        let longer = tree.parked.len() - tree.live.len();
        for data in under(state, &tree.live).into_iter().map(|(_, data)| data) {
            let snaps = state.of(&data.name).iter().map(|snap| snap.name().len());
            let longest = snaps.max().unwrap_or(0).max(data.name.len()) + longer;
            if longest > LONGEST {
                let msg = format!(
                    "parked as {}, {} would have a name (with its snapshots) of {longest} characters, and ZFS allows {LONGEST}; use \
                     method: rollback; nothing was changed",
                    tree.parked, data.name
                );
                return Err(Failure::new("name_too_long", msg));
            }
            if data.key_missing {
                let msg = format!(
                    "{} is encrypted and its key is not loaded, so it could not be mounted again: `zfs load-key`; nothing \
                     was changed",
                    data.name
                );
                return Err(Failure::new("key_unavailable", msg));
            }
        }
        let is_typed = |data: &&Data| data.keylocation.as_deref() == Some("prompt");
        if let Some(typed) =
            under(state, &tree.live).into_iter().map(|(_, data)| data).find(is_typed)
        {
            let msg = format!(
                "{} has a key that is typed in (keylocation=prompt), and ZFS asks for it again after a \
                 swap; use method: rollback, or give it a keylocation that can be read; nothing was changed",
                typed.name
            );
            return Err(Failure::new("key_unavailable", msg));
        }
        let above = parent_of(&tree.live).and_then(|parent| state.datasets.get(parent));
        let room = above.and_then(|data| data.available).unwrap_or(u64::MAX);
        let count = u64::try_from(tree.incoming.len()).unwrap_or(u64::MAX);
        if tree.from.is_none() && room < ROOM.saturating_mul(count) {
            let msg = format!(
                "there is no space left to recreate {} ({} available): free some, or use method: rollback, which needs none; \
                 nothing was changed",
                tree.live,
                host::space::human(room)
            );
            return Err(Failure::new("no_space", msg));
        }
    }
    Ok(())
}
