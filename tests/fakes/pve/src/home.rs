//! The folder that holds the world. Invariant: `world.json` is only replaced as a whole, by one
//! process at a time, and `etc-pve` and `cgroup` follow every change of it.

use crate::container::Container;
use crate::fail::Fail;
use crate::freezer;
use crate::world::World;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The folder for whoever was called by this name: a file beside the link names it, which works
/// where the environment is emptied.
pub fn find(called: &str) -> Result<PathBuf, Fail> {
    let beside = |program: &Path| fs::read_to_string(program.parent()?.join("fake-pve-home")).ok();
    let named = if called.contains('/') {
        beside(Path::new(called))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(called))
            .find(|program| program.is_file())
            .and_then(|program| beside(&program))
    };
    let named = named
        .ok_or_else(|| Fail::fake(format!("no world: no file fake-pve-home beside {called}")))?;
    Ok(PathBuf::from(named.trim_end_matches('\n')))
}

pub fn lock_file(home: &Path, name: &str) -> Result<File, Fail> {
    let folder = home.join("lock");
    fs::create_dir_all(&folder)?;
    Ok(OpenOptions::new().create(true).append(true).open(folder.join(name))?)
}

pub fn try_lock(file: &File) -> Result<bool, Fail> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads the world, lets `work` change it, and writes it; nothing is written when that fails.
pub fn change<T>(home: &Path, work: impl FnOnce(&mut World) -> Result<T, Fail>) -> Result<T, Fail> {
    let file = lock_file(home, "world.lock")?;
    flock(&file, FlockOperation::LockExclusive)?;
    let path = home.join("world.json");
    let shown = |error: &dyn std::fmt::Display| Fail::fake(format!("{}: {error}", path.display()));
    let bytes = fs::read(&path).map_err(|error| shown(&error))?;
    let before: World = serde_json::from_slice(&bytes).map_err(|error| shown(&error))?;
    let mut world = before.clone().settle()?;
    let done = work(&mut world)?;
    if world != before {
        replace(&path, &serde_json::to_vec_pretty(&world)?)?;
    }
    show(&home.join("etc-pve"), &before, &world)?;
    freezer::show(&home.join("cgroup"), &world)?;
    Ok(done)
}

/// Makes a world where there is none, or replaces the one there is.
pub fn create(home: &Path, world: &World) -> Result<(), Fail> {
    fs::create_dir_all(home)?;
    let file = lock_file(home, "world.lock")?;
    flock(&file, FlockOperation::LockExclusive)?;
    replace(&home.join("world.json"), &serde_json::to_vec_pretty(world)?)?;
    show(&home.join("etc-pve"), &World::default(), world)?;
    freezer::show(&home.join("cgroup"), world)
}

pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Fail> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    Ok(fs::rename(&new, path)?)
}

/// The cluster's file system: `nodes/<node>/lxc/<id>.conf`, `local` and `lxc`. Without quorum the
/// nodes' folders lose their write bits, as there.
fn show(root: &Path, before: &World, world: &World) -> Result<(), Fail> {
    let own = root.join("nodes").join(&world.node);
    fs::create_dir_all(own.join("lxc"))?;
    fs::set_permissions(&own, Permissions::from_mode(0o755))?;
    fs::set_permissions(own.join("lxc"), Permissions::from_mode(0o755))?;
    for (name, target) in [("local", format!("nodes/{}", world.node)), ("lxc", "local/lxc".into())]
    {
        if fs::symlink_metadata(root.join(name)).is_err() {
            symlink(target, root.join(name))?;
        }
    }
    for (vmid, container) in &world.containers {
        let path = own.join("lxc").join(format!("{vmid}.conf"));
        if before.containers.get(vmid).map(Container::conf) != Some(container.conf())
            || !path.exists()
        {
            replace(&path, container.conf().as_bytes())?;
        }
    }
    for (vmid, other) in &world.others {
        let folder = root.join("nodes").join(&other.node).join("lxc");
        let path = folder.join(format!("{vmid}.conf"));
        if !path.exists() {
            fs::create_dir_all(&folder)?;
            replace(&path, format!("hostname: {}\n", other.name).as_bytes())?;
        }
    }
    let here: BTreeSet<_> = world.containers.keys().collect();
    for gone in before.containers.keys().filter(|vmid| !here.contains(vmid)) {
        let _ = fs::remove_file(own.join("lxc").join(format!("{gone}.conf")));
    }
    if !world.quorate {
        fs::set_permissions(own.join("lxc"), Permissions::from_mode(0o555))?;
        fs::set_permissions(&own, Permissions::from_mode(0o555))?;
    }
    Ok(())
}
