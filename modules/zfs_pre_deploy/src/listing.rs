//! What `zfs` and `zpool` print with `-H` and `-p`, parsed line by line.
//!
//! Invariant: a missing or extra column is refused: a shifted one would name the wrong thing.

use crate::names::pool_of;
use anyhow::{Context, Result, bail};

/// `zpool list -Hp -o ...`
pub const POOL: &str = "name,guid,health,readonly";

/// `zfs list -Hp -t filesystem,volume -o ...`
pub const DATASET: &str = "name,type,guid,createtxg,origin,mounted,mountpoint,canmount,keystatus,encryptionroot,keylocation,used,available,written,\
    reversible.deploy:parked,reversible.deploy:live,reversible.deploy:parked_at,reversible.deploy:canmount,reversible.deploy:deploy_id";

/// `zfs list -Hp -t snapshot,bookmark -o ...`
pub const SNAPSHOT: &str = "name,type,guid,createtxg,creation,userrefs,used,written,clones,\
    reversible.deploy:deploy_id,reversible.deploy:snapshot,reversible.deploy:pool,reversible.deploy:app,\
    reversible.deploy:release,reversible.deploy:time";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub guid: String,
    pub health: String,
    pub readonly: bool,
}

pub fn pools(text: &str) -> Result<Vec<Pool>> {
    rows(text, "zpool list", |[name, guid, health, readonly]| {
        Some(Pool {
            name: name.to_owned(),
            guid: guid.to_owned(),
            health: health.to_owned(),
            readonly: readonly == "on",
        })
    })
}

/// A filesystem or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub name: String,
    pub is_volume: bool,
    pub guid: u64,
    pub txg: u64,
    pub origin: Option<String>,
    pub mounted: bool,
    /// Empty for a volume; `none`, `legacy` or a path.
    pub mountpoint: String,
    pub canmount: String,
    pub key_missing: bool,
    pub encryption_root: Option<String>,
    /// Where the key of an encryption root is: `prompt`, or an address.
    pub keylocation: Option<String>,
    pub used: u64,
    pub available: Option<u64>,
    /// Bytes written since its newest snapshot.
    pub written: u64,
    /// What the properties of a parked tree say; datasets below inherit it.
    pub parked: Option<Parked>,
    /// A deploy id set on the dataset itself, which its snapshots inherit; this module never sets it.
    pub deploy: Option<String>,
}

/// What the properties of a parked tree say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    pub id: String,
    /// The name that the root of the tree was live under.
    pub live: String,
    pub at: String,
    /// The value of `canmount` to restore; `default` when it was not set.
    pub canmount: Option<String>,
}

pub fn datasets(text: &str) -> Result<Vec<Data>> {
    rows(text, "zfs list", |row: [&str; 19]| {
        let [
            name,
            kind,
            guid,
            txg,
            origin,
            mounted,
            mountpoint,
            canmount,
            key,
            root,
            keylocation,
            used,
            available,
            written,
            ours @ ..,
        ] = row;
        let [parked, live, at, saved, deploy] = ours.map(set);
        let parked = parked.zip(live).map(|(id, live)| Parked {
            id: id.to_owned(),
            live: live.to_owned(),
            at: at.unwrap_or_default().to_owned(),
            canmount: saved.map(str::to_owned),
        });
        Some(Data {
            name: name.to_owned(),
            is_volume: match kind {
                "filesystem" => false,
                "volume" => true,
                _ => return None,
            },
            guid: guid.parse().ok()?,
            txg: txg.parse().ok()?,
            origin: set(origin).map(str::to_owned),
            mounted: mounted == "yes",
            mountpoint: set(mountpoint).unwrap_or_default().to_owned(),
            canmount: canmount.to_owned(),
            key_missing: key == "unavailable",
            encryption_root: set(root).map(str::to_owned),
            keylocation: set(keylocation).filter(|at| *at != "none").map(str::to_owned),
            used: used.parse().ok()?,
            available: available.parse().ok(),
            written: written.parse().ok()?,
            parked,
            deploy: deploy.map(str::to_owned),
        })
    })
}

/// A snapshot or a bookmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snap {
    pub dataset: String,
    /// The part after `@` or `#`.
    pub short: String,
    pub is_bookmark: bool,
    pub guid: u64,
    pub txg: u64,
    pub creation: i64,
    pub userrefs: u64,
    pub used: u64,
    pub written: u64,
    pub clones: Vec<String>,
    pub mark: Option<Mark>,
}

impl Snap {
    pub fn name(&self) -> String {
        let sign = if self.is_bookmark { '#' } else { '@' };
        format!("{}{sign}{}", self.dataset, self.short)
    }
}

/// What our properties on a snapshot say. [`Mark::is_of`] decides whether they count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub deploy: String,
    snapshot: Option<String>,
    pool: Option<String>,
    pub app: Option<String>,
    pub release: Option<String>,
    pub time: Option<String>,
}

impl Mark {
    /// Whether this module took the snapshot in this pool: a snapshot inherits the properties of its
    /// dataset, and `zfs receive` brings those of another machine, so both must be named.
    pub fn is_of(&self, short: &str, pool_guid: &str) -> bool {
        self.snapshot.as_deref() == Some(short) && self.pool.as_deref() == Some(pool_guid)
    }
}

pub fn snapshots(text: &str) -> Result<Vec<Snap>> {
    rows(text, "zfs list", |row: [&str; 15]| {
        let [name, kind, guid, txg, creation, userrefs, used, written, clones, ours @ ..] = row;
        let [deploy, snapshot, pool, app, release, time] =
            ours.map(|value| set(value).map(str::to_owned));
        let is_bookmark = match kind {
            "snapshot" => false,
            "bookmark" => true,
            _ => return None,
        };
        let (dataset, short) = name.split_once(if is_bookmark { '#' } else { '@' })?;
        // A bookmark has neither references nor space of its own.
        let number = |text: &str| match set(text) {
            Some(digits) => digits.parse().ok(),
            None => is_bookmark.then_some(0),
        };
        Some(Snap {
            dataset: dataset.to_owned(),
            short: short.to_owned(),
            is_bookmark,
            guid: guid.parse().ok()?,
            txg: txg.parse().ok()?,
            creation: creation.parse().ok()?,
            userrefs: number(userrefs)?,
            used: number(used)?,
            written: number(written)?,
            clones: set(clones)
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            mark: deploy.filter(|_| !is_bookmark).map(|deploy| Mark {
                deploy,
                snapshot,
                pool,
                app,
                release,
                time,
            }),
        })
    })
}

/// A hold: `zfs holds -H`. Its third column is a date for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub snapshot: String,
    pub tag: String,
}

pub fn holds(text: &str) -> Result<Vec<Hold>> {
    rows(text, "zfs holds", |[snapshot, tag, _]| {
        Some(Hold { snapshot: snapshot.to_owned(), tag: tag.to_owned() })
    })
}

/// `zfs get -Hp -o name,property,value,source -s local,received all`. A value may hold anything.
pub fn properties(text: &str) -> Result<Vec<(String, String, String)>> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        let (name, property, rest) = (fields.next(), fields.next(), fields.next());
        let value = rest.and_then(|rest| rest.rsplit_once('\t')).map(|(value, _)| value);
        match (name, property, value) {
            (Some(name), Some(property), Some(value)) => {
                all.push((name.to_owned(), property.to_owned(), value.to_owned()));
            }
            _ => bail!("zfs get answered in an unknown form: {line:?}"),
        }
    }
    Ok(all)
}

/// What `zfs destroy -nvp` would destroy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DryRun {
    pub destroys: Vec<String>,
    pub reclaims: u64,
}

pub fn dry_run(text: &str) -> Result<DryRun> {
    let mut found = DryRun::default();
    for line in text.lines() {
        match line.split_once('\t') {
            Some(("destroy", name)) => found.destroys.push(name.to_owned()),
            Some(("reclaim", bytes)) => {
                found.reclaims = bytes.parse().context("zfs destroy -nvp reclaims no number")?;
            }
            _ => bail!("zfs destroy -nvp answered in an unknown form: {line:?}"),
        }
    }
    found.destroys.sort();
    Ok(found)
}

fn rows<T, const N: usize>(
    text: &str,
    command: &str,
    parse: impl Fn([&str; N]) -> Option<T>,
) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let mut row = [""; N];
        for field in &mut row {
            *field = fields
                .next()
                .with_context(|| format!("{command} answered with too few columns: {line:?}"))?;
        }
        if fields.next().is_some() {
            bail!("{command} answered with too many columns: {line:?}");
        }
        all.push(
            parse(row)
                .with_context(|| format!("{command} answered in an unknown form: {line:?}"))?,
        );
    }
    Ok(all)
}

/// Turns `-`, which ZFS prints for what is not set, into `None`.
fn set(value: &str) -> Option<&str> {
    (value != "-" && !value.is_empty()).then_some(value)
}

/// Whether a replication tool seems to have made the snapshot: destroying it can break its next run.
pub fn is_replication(snap: &Snap) -> bool {
    let short = snap.short.as_str();
    let known = ["syncoid_", "zrepl_", "__replicate_", "bookmark_syncoid_"];
    let stamped = |name: &str| {
        name.rsplit_once('-').is_some_and(|(_, stamp)| {
            stamp.len() == 14 && stamp.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    // zfs_autobackup: <group>-YYYYMMDDhhmmss. A bookmark is there to send from.
    snap.is_bookmark || known.iter().any(|start| short.starts_with(start)) || stamped(short)
}

/// Groups names by pool, for one call each.
pub fn by_pool<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for name in names {
        let pool = pool_of(name);
        match groups.iter_mut().find(|(known, _)| *known == pool) {
            Some((_, group)) => group.push(name),
            None => groups.push((pool, vec![name])),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "a1/enc";
    const PARKED: &str = "a1/enc-parked-20261121t090003z-1c2d";
    const SHORT: &str = "pre-deploy-20261121t084500z-7f3a";

    #[test]
    fn real_datasets() {
        let all = datasets(include_str!("captured/zfs-list-datasets-2.3.2.txt")).unwrap();
        let find = |name: &str| all.iter().find(|data| data.name == name).unwrap();
        assert_eq!(all.len(), 14);
        let live = find(LIVE);
        assert_eq!((live.guid, live.txg, live.mounted), (6709658306751600643, 94, true));
        assert_eq!((live.mountpoint.as_str(), live.canmount.as_str()), ("/a1/enc", "on"));
        assert_eq!(live.keylocation.as_deref(), Some("file:///run/key"));
        assert_eq!((&live.origin, &live.parked, live.key_missing), (&None, &None, false));
        let parked = find(PARKED);
        assert_eq!(parked.origin.as_deref(), Some("a1/enc@pre-deploy-20261121t084500z-7f3a"));
        assert_eq!(parked.encryption_root.as_deref(), Some(LIVE));
        let found = parked.parked.as_ref().unwrap();
        assert_eq!((found.id.as_str(), found.live.as_str()), ("20261121t090003z-1c2d", LIVE));
        assert_eq!(found.canmount.as_deref(), Some("on"));
        let volume = find("a1/v");
        assert!(volume.is_volume && !volume.mounted && volume.mountpoint.is_empty());
        assert_eq!((volume.used, volume.available), (10485760, Some(346820096)));
    }

    #[test]
    fn real_snapshots_and_bookmarks() {
        let all = snapshots(include_str!("captured/zfs-list-snapshots-2.3.2.txt")).unwrap();
        let names: Vec<String> = all.iter().map(Snap::name).collect();
        let ours = format!("a1/enc/db@{SHORT}");
        assert_eq!(
            names,
            [&format!("{LIVE}@{SHORT}"), &ours, "a1/enc/db@by-hand", "a1/enc/db#mark"]
        );
        assert_eq!(all[1].clones, [format!("{PARKED}/db")]);
        assert_eq!((all[1].userrefs, all[1].used, all[1].written), (1, 51200, 100864));
        let mark = all[1].mark.as_ref().unwrap();
        assert_eq!((mark.app.as_deref(), mark.release.as_deref()), (Some("enc"), None));
        assert!(mark.is_of(SHORT, "1734094728747679491"));
        assert!(!mark.is_of(SHORT, "1") && !mark.is_of("by-hand", "1734094728747679491"));
        assert_eq!((&all[2].mark, all[3].is_bookmark, all[3].txg), (&None, true, 68));
    }

    #[test]
    fn the_rest_of_what_zfs_prints() {
        let pools = pools(include_str!("captured/zpool-list-2.3.2.txt")).unwrap();
        assert_eq!((pools[0].name.as_str(), pools[0].health.as_str()), ("a1", "ONLINE"));
        assert!(!pools[0].readonly);
        let holds = holds(include_str!("captured/zfs-holds-2.3.2.txt")).unwrap();
        assert_eq!((holds.len(), holds[1].tag.as_str()), (2, "reversible"));
        let own = properties(include_str!("captured/zfs-get-local-2.3.2.txt")).unwrap();
        let of = |name: &str| own.iter().filter(|one| one.0 == name).count();
        assert_eq!((of(LIVE), of("a1/web"), of("a1/v")), (2, 3, 2));
        let odd = properties("a\tx:y\tone\ttwo\tlocal\n").unwrap();
        assert_eq!(odd[0].2, "one\ttwo");
        let dry = dry_run(include_str!("captured/zfs-destroy-dry-run-2.3.2.txt")).unwrap();
        assert_eq!(dry.destroys, ["a1/enc/db@by-hand"]);
        assert_eq!(dry_run("destroy\ta@b\nreclaim\t7\n").unwrap().reclaims, 7);
    }

    #[test]
    fn another_form_is_refused() {
        for text in ["a1\tfilesystem\n", &format!("{}x\n", "a\t".repeat(19)), "\n"] {
            assert!(datasets(text).is_err(), "{text:?}");
        }
        assert!(holds("a@b\ttag\n").is_err());
        assert!(properties("a\tb\n").is_err());
        assert!(dry_run("would destroy a@b\n").is_err());
        assert!(snapshots("").unwrap().is_empty());
    }

    #[test]
    fn names_that_replication_gives() {
        let all = snapshots(include_str!("captured/zfs-list-snapshots-2.3.2.txt")).unwrap();
        let named = |short: &str| Snap { short: short.to_owned(), ..all[2].clone() };
        for short in [
            "syncoid_host_2026-11-21:08:45:00",
            "zrepl_20261121_084500_000",
            "offsite1-20261121084500",
        ] {
            assert!(is_replication(&named(short)), "{short}");
        }
        for short in ["by-hand", SHORT, "autosnap_2026-11-21_08:45:00_hourly"] {
            assert!(!is_replication(&named(short)), "{short}");
        }
        assert!(is_replication(&all[3]));
    }
}
