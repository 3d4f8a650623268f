//! Who uses the datasets: mounts in whatever mount namespace, processes, what is mounted below, and
//! for volumes whoever has the device open.
//! Invariant: when the use cannot be determined, a volume is refused, and a mount namespace that only
//! a file keeps open (no process is in it) is named in a warning.

use crate::listing::Data;
use anyhow::{Context, Result};
use host::mounts::{Holder, Mount, Mounts, holders_where, users_of_any};
use rustix::fs::makedev;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many users a message names.
const NAMED: usize = 6;

#[derive(Debug, Default)]
pub struct Busy {
    /// Sentences, each beginning with the name of the dataset.
    pub who: Vec<String>,
    pub warnings: Vec<String>,
}

impl Busy {
    /// Joins the first few sentences and counts the rest.
    pub fn summary(&self) -> String {
        let mut text = self.who[..self.who.len().min(NAMED)].join("; ");
        if self.who.len() > NAMED {
            text.push_str(&format!("; and {} more", self.who.len() - NAMED));
        }
        text
    }
}

/// What the module is about to do with the datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Unmounts the datasets; nothing may be mounted below them either.
    Unmount,
    /// Rolls the datasets back while they are mounted.
    RollBack,
}

/// Finds everything that uses these datasets.
pub fn find(datasets: &[&Data], purpose: Purpose) -> Result<Busy> {
    let mut busy = Busy::default();
    let by_name: BTreeMap<&str, &Data> =
        datasets.iter().map(|data| (data.name.as_str(), *data)).collect();
    let data_of = |source: &std::ffi::OsStr| by_name.get(source.to_str()?).copied();
    let census = holders_where(&|mount| {
        mount.fstype == "zfs" && data_of(&mount.source).is_some_and(|data| !data.is_volume)
    })?;
    let space = std::fs::metadata("/proc/self/ns/mnt")
        .context("cannot read the module's own mount namespace")?
        .ino();
    let own: Vec<&Holder> =
        census.holders.iter().filter(|holder| holder.mount_ns == space).collect();
    for holder in &own {
        let Some(data) = data_of(&holder.source) else { continue };
        let at = holder.mountpoint.display();
        if data.mountpoint == "legacy" {
            busy.who.push(format!(
                "{} is mounted at {at} outside of ZFS (mountpoint=legacy): unmount it first",
                data.name
            ));
        } else if holder.mountpoint != Path::new(&data.mountpoint) {
            busy.who.push(format!("{} is also mounted at {at}", data.name));
        }
    }
    for holder in census.holders.iter().filter(|holder| holder.mount_ns != space) {
        if own.iter().any(|ours| ours.source == holder.source && holder.goes_with(ours)) {
            continue;
        }
        busy.who.push(format!(
            "{} is mounted at {} in the mount namespace {} of pid {} ({})",
            holder.source.to_string_lossy(),
            holder.mountpoint.display(),
            holder.mount_ns,
            holder.pid,
            holder.comm
        ));
    }
    let unseen = census.unseen.iter().map(|unseen| {
        let at = unseen.at.display();
        format!("cannot determine whether it holds a mount of the datasets: {at}: {}", unseen.why)
    });
    busy.warnings.extend(unseen);
    let mounts = Mounts::read()?;
    let ours = |mount: &Mount| mount.fstype == "zfs" && data_of(&mount.source).is_some();
    let devs: BTreeMap<(u32, u32), String> = (mounts.iter().filter(|mount| ours(mount)))
        .map(|mount| (mount.dev, mount.source.to_string_lossy().into_owned()))
        .collect();
    users(&mut busy, &devs)?;
    if purpose == Purpose::Unmount {
        mounted_below(&mut busy, &mounts, &ours, &by_name);
    }
    kernel_files(&mut busy, &mounts, &ours)?;
    let volumes: Vec<&Data> = datasets.iter().filter(|data| data.is_volume).copied().collect();
    volume_users(&mut busy, &volumes)?;
    Ok(busy)
}

/// Finds other file systems that are mounted below the datasets.
fn mounted_below(
    busy: &mut Busy,
    mounts: &Mounts,
    ours: &dyn Fn(&Mount) -> bool,
    by_name: &BTreeMap<&str, &Data>,
) {
    for mount in mounts.iter().filter(|mount| !ours(mount) && !is_snapshot_of(mount, by_name)) {
        if let Some(on) = mounts.above(mount).find(|above| ours(above)) {
            busy.who.push(format!(
                "{} has {} ({}) mounted below it, at {}",
                on.source.to_string_lossy(),
                mount.source.to_string_lossy(),
                mount.fstype,
                mount.mountpoint.display()
            ));
        }
    }
}

/// Mounted by the kernel itself when somebody looks into `.zfs/snapshot`, and unmounted likewise.
pub fn is_snapshot_of(mount: &Mount, of: &BTreeMap<&str, &Data>) -> bool {
    let source = mount.source.to_string_lossy();
    let dataset = source.split_once('@').map(|(dataset, _)| dataset);
    mount.fstype == "zfs" && dataset.is_some_and(|dataset| of.contains_key(dataset))
}

fn users(busy: &mut Busy, devs: &BTreeMap<(u32, u32), String>) -> Result<()> {
    if devs.is_empty() {
        return Ok(());
    }
    for user in users_of_any(&devs.keys().copied().collect::<Vec<_>>())? {
        let how = format!("{:?}", user.how).to_lowercase();
        busy.who.push(format!(
            "{} is used by pid {} ({}): {} ({how})",
            devs.get(&user.dev).map_or("a dataset", String::as_str),
            user.pid,
            user.comm,
            user.path.display()
        ));
    }
    Ok(())
}

/// Files that the kernel itself keeps open: loop devices and swap.
fn kernel_files(busy: &mut Busy, mounts: &Mounts, ours: &dyn Fn(&Mount) -> bool) -> Result<()> {
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for device in Path::new("/sys/block").read_dir().into_iter().flatten().flatten() {
        if let Ok(file) = std::fs::read_to_string(device.path().join("loop/backing_file")) {
            let name = device.file_name().to_string_lossy().into_owned();
            files.push((name, PathBuf::from(file.trim_end_matches('\n'))));
        }
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    files.extend(swaps.map(|file| ("swap".to_owned(), PathBuf::from(file))));
    for (user, file) in files.iter().filter(|(_, file)| file.is_absolute() && file.exists()) {
        let on = mounts.on(file)?;
        if ours(on) {
            busy.who.push(format!(
                "{} holds {}, which is in use by {user}",
                on.source.to_string_lossy(),
                file.display()
            ));
        }
    }
    Ok(())
}

/// The device numbers of a volume and of its partitions.
fn devices(volume: &Data) -> Result<Option<Vec<(u64, PathBuf)>>> {
    let link = Path::new("/dev/zvol").join(&volume.name);
    let Ok(device) = link.canonicalize() else { return Ok(None) };
    let name = device.file_name().context("a volume's device has no name")?;
    let folder = Path::new("/sys/class/block").join(name);
    let mut found = Vec::new();
    let mut folders = vec![folder.clone()];
    let below = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    folders.extend(below.filter(|path| path.join("partition").exists()));
    for folder in folders {
        let text = std::fs::read_to_string(folder.join("dev"))
            .with_context(|| format!("cannot read {}/dev", folder.display()))?;
        let (major, minor) =
            text.trim().split_once(':').context("a device number without a colon")?;
        found.push((makedev(major.parse()?, minor.parse()?), folder));
    }
    Ok(Some(found))
}

fn dev_number(dev: (u32, u32)) -> u64 {
    makedev(dev.0, dev.1)
}

fn volume_users(busy: &mut Busy, volumes: &[&Data]) -> Result<()> {
    let mut known: Vec<(u64, &Data)> = Vec::new();
    for volume in volumes {
        let Some(devices) = devices(volume)? else {
            busy.who.push(format!(
                "{} is a volume, and who has it open cannot be determined: there is no /dev/zvol/{}",
                volume.name, volume.name
            ));
            continue;
        };
        for (dev, folder) in devices {
            let holders = folder.join("holders").read_dir().into_iter().flatten().flatten();
            for holder in holders {
                let holder = holder.file_name();
                busy.who.push(format!("{} is part of {}", volume.name, holder.to_string_lossy()));
            }
            known.push((dev, volume));
        }
    }
    if known.is_empty() {
        return Ok(());
    }
    let of = |dev: u64| known.iter().find(|(known, _)| *known == dev).map(|(_, volume)| *volume);
    for holder in holders_where(&|mount| of(dev_number(mount.dev)).is_some())?.holders {
        let volume = known.iter().find(|(known, _)| *known == dev_number(holder.dev));
        busy.who.push(format!(
            "{} is mounted at {} (pid {})",
            volume.map_or("a volume", |(_, volume)| &volume.name),
            holder.mountpoint.display(),
            holder.pid
        ));
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    for device in swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
        if let Some(volume) = std::fs::metadata(device).ok().and_then(|found| of(found.rdev())) {
            busy.who.push(format!("{} is in use as swap", volume.name));
        }
    }
    for process in Path::new("/proc").read_dir().context("cannot list /proc")?.flatten() {
        let fds = process.path().join("fd").read_dir().into_iter().flatten().flatten();
        let opened = fds.filter_map(|fd| of(fd.path().metadata().ok()?.rdev())).next();
        if let Some(volume) = opened {
            let comm = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            busy.who.push(format!(
                "{} is open in pid {} ({})",
                volume.name,
                process.file_name().to_string_lossy(),
                comm.trim()
            ));
        }
    }
    Ok(())
}
