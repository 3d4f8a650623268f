//! The steps of a swap. Each looks at what is done already and does the rest, so that it can be
//! repeated after a kill.
//! Order: the outgoing tree is renamed while it may still be an encryption root, and a returning tree
//! is promoted before it is renamed: ZFS lets only encryption roots move below another parent.

use crate::apply::{Apply, refs};
use crate::busy::{self, Purpose};
use crate::listing::Data;
use crate::names::{below, pool_of};
use crate::state::State;
use crate::trees::RESERVED;
use crate::unfinished::{Outgoing, Tree};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::clock;
use host::mounts::Mounts;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub const PARKED: &str = "reversible.deploy:parked";
pub const LIVE: &str = "reversible.deploy:live";
pub const PARKED_AT: &str = "reversible.deploy:parked_at";
pub const CANMOUNT: &str = "reversible.deploy:canmount";

pub type Listed = BTreeMap<String, Data>;

impl Apply<'_> {
    pub fn trees(&self) -> &[Tree] {
        self.goal.as_ref().map_or(&[], |goal| &goal.trees)
    }

    fn tree(&self, number: usize) -> Result<&Tree> {
        self.trees().get(number).context("the goal has no tree of this number")
    }

    pub fn listed(&self) -> Result<Listed> {
        let mut pools: Vec<&str> = self.trees().iter().map(|tree| pool_of(&tree.live)).collect();
        pools.sort_unstable();
        pools.dedup();
        let all = self.zfs.datasets(&pools).context("looking again")?;
        Ok(all.into_iter().map(|data| (data.name.clone(), data)).collect())
    }

    pub fn unmount(&mut self) -> Result<()> {
        let listed = self.listed()?;
        let still = |tree: &&Tree| {
            let root = listed.get(&tree.live);
            root.is_some_and(|data| tree.outgoing.first().is_some_and(|out| out.guid == data.guid))
        };
        let all: Vec<&Data> = (self.trees().iter().filter(still))
            .flat_map(|tree| listed.values().filter(|data| below(&data.name, &tree.live).is_some()))
            .collect();
        refuse_busy(&all)?;
        let of: BTreeMap<&str, &Data> =
            all.iter().map(|data| (data.name.as_str(), *data)).collect();
        for mount in Mounts::read()?.iter().filter(|mount| busy::is_snapshot_of(mount, &of)) {
            nix::mount::umount2(&mount.mountpoint, nix::mount::MntFlags::empty())
                .with_context(|| format!("unmounting {}", mount.mountpoint.display()))?;
        }
        let mut mounted: Vec<&Data> = all.iter().filter(|data| data.mounted).copied().collect();
        mounted.sort_by_key(|data| std::cmp::Reverse(depth(data)));
        for data in mounted {
            // ZFS unmounts what is below a dataset together with it, wherever that is mounted.
            if Mounts::read()?
                .iter()
                .any(|mount| mount.fstype == "zfs" && mount.source == *data.name.as_str())
            {
                self.zfs.unmount(&data.name)?;
            }
        }
        refuse_busy(&all)
    }

    pub fn park(&mut self, number: usize) -> Result<()> {
        let tree = self.tree(number)?;
        let listed = self.listed()?;
        let root = tree.outgoing.first().context("the goal has a tree without a root")?;
        let has = |name: &str, outgoing: &Outgoing| {
            listed.get(name).is_some_and(|data| data.guid == outgoing.guid)
        };
        if !has(&tree.parked, root) {
            for out in &tree.outgoing {
                let name = format!("{}{}", tree.live, out.below);
                if !has(&name, out) {
                    return Err(replaced_meanwhile(&name));
                }
            }
            self.save_canmount(tree)?;
            self.zfs.rename(&tree.live, &tree.parked)?;
        }
        let marks = [
            (PARKED.to_owned(), tree.id.clone()),
            (LIVE.to_owned(), tree.live.clone()),
            (PARKED_AT.to_owned(), clock::now().to_string()),
        ];
        self.zfs.set(&marks, &[&tree.parked])
    }

    /// Keeps a parked filesystem from being mounted at boot, and saves its `canmount` in a property.
    fn save_canmount(&self, tree: &Tree) -> Result<()> {
        for (canmount, names) in by_canmount(tree, &tree.live) {
            let mut properties = vec![(CANMOUNT.to_owned(), canmount.clone())];
            if matches!(canmount.as_str(), "on" | "default") {
                properties.push(("canmount".into(), "noauto".into()));
            }
            self.zfs.set(&properties, &refs(&names))?;
        }
        Ok(())
    }

    pub fn recreate(&mut self, number: usize) -> Result<()> {
        let tree = self.tree(number)?;
        let listed = self.listed()?;
        let short = tree.snapshot.as_deref().context("no snapshot to make it from")?;
        for one in &tree.incoming {
            let name = format!("{}{}", tree.live, one.below);
            let parked = format!("{}{}", tree.parked, one.below);
            let source = format!("{parked}@{short}");
            if let Some(there) = listed.get(&name) {
                let is_clone = there.origin.as_ref() == Some(&source);
                if is_clone || is_promoted(&listed, &parked, &[&name]) {
                    continue;
                }
                return Err(replaced_meanwhile(&name));
            }
            let mut properties = one.properties.clone();
            if !one.is_volume {
                properties.push(("canmount".into(), "noauto".into()));
            }
            self.zfs.clone_of(&source, &name, &properties)?;
        }
        Ok(())
    }

    pub fn promote(&mut self, number: usize) -> Result<()> {
        let tree = self.tree(number)?;
        let listed = self.listed()?;
        let root =
            tree.from.as_ref().filter(|from| listed.contains_key(*from)).unwrap_or(&tree.live);
        for one in &tree.incoming {
            let name = format!("{root}{}", one.below);
            let data = listed.get(&name).ok_or_else(|| replaced_meanwhile(&name))?;
            let of = data.origin.as_deref().and_then(|origin| origin.split_once('@'));
            if of.is_some_and(|(dataset, _)| dataset == format!("{}{}", tree.parked, one.below)) {
                self.zfs.promote(&name)?;
            }
        }
        Ok(())
    }

    pub fn make_live(&mut self, number: usize) -> Result<()> {
        let tree = self.tree(number)?;
        let listed = self.listed()?;
        let root = tree.incoming.first().context("the goal has a parked tree without a root")?;
        let from = tree.from.as_deref().context("the goal names no parked tree")?;
        if listed.get(&tree.live).is_some_and(|data| data.guid == root.guid) {
            return Ok(());
        }
        match listed.get(from).is_some_and(|data| data.guid == root.guid) {
            true => self.zfs.rename(from, &tree.live),
            false => Err(replaced_meanwhile(from)),
        }
    }

    /// Renames the datasets that are not covered from the parked tree back below the live one.
    pub fn return_uncovered(&mut self, number: usize) -> Result<()> {
        let tree = self.tree(number)?;
        let listed = self.listed()?;
        for stay in &tree.uncovered {
            let (live, parked) =
                (format!("{}{}", tree.live, stay.below), format!("{}{}", tree.parked, stay.below));
            let is = |name: &str| listed.get(name).is_some_and(|data| data.guid == stay.guid);
            match (is(&live), is(&parked)) {
                (true, _) => {}
                (false, true) => self.zfs.rename(&parked, &live)?,
                (false, false) => return Err(replaced_meanwhile(&live)),
            }
        }
        Ok(())
    }

    pub fn restore_properties(&mut self) -> Result<()> {
        for tree in self.trees() {
            if tree.from.is_some() {
                for property in [PARKED, LIVE, PARKED_AT, CANMOUNT] {
                    self.zfs.unset(property, &tree.live)?;
                }
            }
            for one in &tree.incoming {
                let (live, parked) = (
                    format!("{}{}", tree.live, one.below),
                    format!("{}{}", tree.parked, one.below),
                );
                let reserved = one.late.iter().filter(|(key, _)| RESERVED.contains(&key.as_str()));
                let none: Vec<(String, String)> =
                    reserved.map(|(key, _)| (key.clone(), "none".to_owned())).collect();
                self.zfs.set(&none, &[&parked])?;
                self.zfs.set(&one.late, &[&live])?;
            }
            let filesystems = tree.incoming.iter().filter(|one| !one.is_volume);
            let mut by_value: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for one in filesystems {
                by_value
                    .entry(&one.canmount)
                    .or_default()
                    .push(format!("{}{}", tree.live, one.below));
            }
            for (value, names) in by_value {
                self.set_canmount(value, &names)?;
            }
        }
        let incoming = self.trees().iter().flat_map(|tree| {
            let made = tree.incoming.iter().filter(|one| one.mounts).map(|one| &one.below);
            let uncovered = tree.uncovered.iter().flat_map(|stay| &stay.mounted);
            made.chain(uncovered).map(|below| format!("{}{below}", tree.live)).collect::<Vec<_>>()
        });
        let incoming: Vec<String> = incoming.collect();
        self.load_keys(&incoming)?;
        self.mount_all(&incoming)
    }

    /// Loads keys again: a promotion changes the encryption root, and ZFS does not keep the loaded key.
    fn load_keys(&self, names: &[String]) -> Result<()> {
        let listed = self.listed()?;
        let mut roots: Vec<&str> = (names.iter())
            .filter_map(|name| listed.get(name).filter(|data| data.key_missing))
            .filter_map(|data| data.encryption_root.as_deref())
            .collect();
        roots.sort_unstable();
        roots.dedup();
        roots.into_iter().try_for_each(|root| self.zfs.load_key(root))
    }

    /// Sets `canmount`. ZFS cannot unset it, so `default` becomes `on`, which is its default.
    pub fn set_canmount(&self, value: &str, names: &[String]) -> Result<()> {
        let value = if value == "default" { "on" } else { value };
        self.zfs.set(&[("canmount".into(), value.into())], &refs(names))
    }

    /// Mounts what is not mounted yet, the outer mount points first.
    pub fn mount_all(&self, names: &[String]) -> Result<()> {
        let listed = self.listed()?;
        let mut all: Vec<&Data> = names.iter().filter_map(|name| listed.get(name)).collect();
        all.retain(|data| !data.mounted);
        all.sort_by_key(|data| depth(data));
        all.into_iter().try_for_each(|data| self.zfs.mount(&data.name))
    }
}

fn depth(data: &Data) -> usize {
    Path::new(&data.mountpoint).components().count()
}

/// Groups the filesystems of the tree by the value of `canmount` to restore.
pub fn by_canmount(tree: &Tree, root: &str) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for out in tree.outgoing.iter().filter(|out| !out.is_volume) {
        groups.entry(out.canmount.clone()).or_default().push(format!("{root}{}", out.below));
    }
    groups
}

/// Whether the parked dataset has become the clone of one of these.
pub fn is_promoted(listed: &Listed, parked: &str, names: &[&str]) -> bool {
    let origin = listed.get(parked).and_then(|data| data.origin.as_deref());
    let dataset = origin.and_then(|origin| origin.split_once('@')).map(|(dataset, _)| dataset);
    dataset.is_some_and(|dataset| names.contains(&dataset))
}

fn refuse_busy(all: &[&Data]) -> Result<()> {
    let busy = busy::find(all, Purpose::Unmount)?;
    match busy.who.is_empty() {
        true => Ok(()),
        false => Err(Failure::new("busy", busy.summary()).with("busy", busy.who).into()),
    }
}

fn replaced_meanwhile(name: &str) -> anyhow::Error {
    let msg = format!(
        "{name} is not the dataset that the plan was made for: somebody renamed or recreated it meanwhile"
    );
    Failure::new("moved", msg).into()
}

/// Verifies that all incoming trees are live and mounted as before, and the outgoing ones parked.
pub fn verify(trees: &[Tree], now: &State) -> Result<Value> {
    let wrong = |msg: String| -> anyhow::Error { Failure::new("not_verified", msg).into() };
    for tree in trees {
        let root = now.datasets.get(&tree.parked);
        let parked = root.and_then(|data| data.parked.as_ref());
        if parked.is_none_or(|parked| parked.id != tree.id) {
            return Err(wrong(format!("{} is not parked as {}", tree.live, tree.parked)));
        }
        for one in &tree.incoming {
            let name = format!("{}{}", tree.live, one.below);
            let Some(data) = now.datasets.get(&name) else {
                return Err(wrong(format!("{name} is not there")));
            };
            let is_as_planned = match &tree.snapshot {
                Some(short) => now.find(&name, short).is_some_and(|snap| snap.guid == one.guid),
                None => data.guid == one.guid,
            };
            if !is_as_planned {
                return Err(wrong(format!(
                    "{name} was not made from the snapshot that was planned"
                )));
            }
            if data.mounted != one.mounts {
                let is = if data.mounted { "mounted" } else { "not mounted" };
                return Err(wrong(format!("{name} is {is}, which it was not before")));
            }
            if one.mounts && !one.mountpoint.is_empty() && data.mountpoint != one.mountpoint {
                return Err(wrong(format!(
                    "{name} is mounted at {}, not {}",
                    data.mountpoint, one.mountpoint
                )));
            }
        }
    }
    Ok(now.view())
}
