//! `zfs` and `zpool`: their commands, and what their failures mean. `listing.rs` parses what they
//! print.
//!
//! Invariant: every name is an argument of its own, was listed by ZFS or parsed as a `Dataset`, and
//! so never begins with a dash. Nothing is ever destroyed with `-R`, nor rolled back with `-r`.

use crate::listing::{self, Data, DryRun, Hold, Pool, Snap};
use ansible_module::Failure;
use anyhow::{Context, Result};
use host::command::{Cause, Command, Failed, IfWeDie};
use host::program;
use std::path::PathBuf;
use std::time::Duration;

/// The deadline of commands that only read; a machine under load may need long.
const READ: Duration = Duration::from_secs(60);
/// The deadline of `zpool list`, which shows whether a pool hangs.
const HEALTH: Duration = Duration::from_secs(20);
/// How many names are passed to one command that reads.
const CHUNK: usize = 1000;
/// The most bytes that a listing may have: enough for 100,000 snapshots.
const MOST: usize = 64 << 20;
/// The kernel gives arguments and environment a quarter of the stack, which is 2 MiB nearly
/// everywhere.
pub const MOST_ARGUMENTS: usize = 1 << 20;
/// The tag of our holds.
pub const TAG: &str = "reversible";

#[derive(Debug)]
pub struct Zfs {
    zfs: PathBuf,
    zpool: PathBuf,
    /// The deadline of one command that changes something.
    timeout: Duration,
}

impl Zfs {
    pub fn find(timeout: Duration) -> Result<Zfs> {
        let find = |name| -> Result<PathBuf> {
            Ok(program::look(name)?.map_err(|missing| {
                Failure::new(
                    "program_missing",
                    "the programs zfs and zpool are not installed on this machine",
                )
                .caused_by(missing.into())
            })?)
        };
        Ok(Zfs { zfs: find("zfs")?, zpool: find("zpool")?, timeout })
    }

    fn read(&self, args: &[&str], names: &[&str]) -> Result<String> {
        let command = Command::new(&self.zfs).args(args).args(names);
        let done = command.deadline(READ).output_limit(MOST).if_we_die(IfWeDie::DiesToo).run();
        let done = done.map_err(|failed| explain(failed, "reading from ZFS"))?;
        Ok(done.text()?.to_owned())
    }

    fn read_in_chunks(&self, args: &[&str], names: &[&str]) -> Result<String> {
        let parts = names.chunks(CHUNK).map(|names| self.read(args, names));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    fn change(&self, what: &str, args: &[&str], names: &[&str]) -> Result<()> {
        let command = Command::new(&self.zfs).args(args).args(names).deadline(self.timeout);
        command.run().map(drop).map_err(|failed| explain(failed, what).into())
    }

    pub fn pools(&self) -> Result<Vec<Pool>> {
        let command = Command::new(&self.zpool).args(["list", "-Hp", "-o", listing::POOL]);
        let done = command.deadline(HEALTH).if_we_die(IfWeDie::DiesToo).run();
        let done = done.map_err(|failed| explain(failed, "listing the pools"))?;
        listing::pools(done.text()?)
    }

    /// Syncs the pools: without it ZFS does not count what was written in the last seconds.
    pub fn sync(&self, pools: &[&str]) -> Result<()> {
        let command = Command::new(&self.zpool).arg("sync").args(pools).deadline(READ);
        let done = command.run();
        done.map(drop).map_err(|failed| explain(failed, "syncing the pool").into())
    }

    pub fn datasets(&self, pools: &[&str]) -> Result<Vec<Data>> {
        let args = ["list", "-Hp", "-t", "filesystem,volume", "-o", listing::DATASET, "-r"];
        listing::datasets(&self.read(&args, pools)?)
    }

    /// Lists the snapshots of just these datasets, not of those below them.
    pub fn snapshots(&self, datasets: &[&str]) -> Result<Vec<Snap>> {
        let args = ["list", "-Hp", "-d", "1", "-t", "snapshot,bookmark", "-o", listing::SNAPSHOT];
        listing::snapshots(&self.read_in_chunks(&args, datasets)?)
    }

    pub fn holds(&self, snapshots: &[&str]) -> Result<Vec<Hold>> {
        listing::holds(&self.read_in_chunks(&["holds", "-H"], snapshots)?)
    }

    /// Lists dataset, property and value of everything that is set on the datasets themselves.
    pub fn properties(&self, datasets: &[&str]) -> Result<Vec<(String, String, String)>> {
        let args =
            ["get", "-Hp", "-o", "name,property,value,source", "-s", "local,received", "all"];
        listing::properties(&self.read_in_chunks(&args, datasets)?)
    }

    /// Takes all snapshots atomically in one call; all names must be in one pool.
    pub fn snapshot(&self, properties: &[(&str, String)], names: &[&str]) -> Result<()> {
        let mut args = vec!["snapshot".to_owned()];
        for (property, value) in properties {
            args.extend(["-o".to_owned(), format!("{property}={value}")]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.change("taking the snapshot", &args, names)
    }

    pub fn hold(&self, names: &[&str]) -> Result<()> {
        names
            .chunks(CHUNK)
            .try_for_each(|names| self.change("holding the snapshot", &["hold", TAG], names))
    }

    pub fn release(&self, names: &[&str]) -> Result<()> {
        names
            .chunks(CHUNK)
            .try_for_each(|names| self.change("releasing our hold", &["release", TAG], names))
    }

    /// Asks with a dry run what `zfs destroy` would destroy.
    pub fn would_destroy(&self, target: &str, recursive: bool) -> Result<DryRun> {
        let flags = if recursive { "-rnvp" } else { "-nvp" };
        listing::dry_run(&self.read(&["destroy", flags], &[target])?)
    }

    /// Destroys `dataset@a,b,c`, a bookmark, or with `recursive` a dataset with everything in it.
    pub fn destroy(&self, target: &str, recursive: bool) -> Result<()> {
        let args: &[&str] = if recursive { &["destroy", "-r"] } else { &["destroy"] };
        self.change(&format!("destroying {target}"), args, &[target])
    }

    /// Rolls back to the newest snapshot only: ZFS refuses when there is a newer one by now.
    pub fn rollback(&self, snapshot: &str) -> Result<()> {
        self.change(&format!("rolling back to {snapshot}"), &["rollback"], &[snapshot])
    }

    /// Renames a dataset; nothing of it may be mounted.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.change(&format!("renaming {from}"), &["rename"], &[from, to])
    }

    pub fn clone_of(
        &self,
        snapshot: &str,
        name: &str,
        properties: &[(String, String)],
    ) -> Result<()> {
        let mut args = vec!["clone".to_owned()];
        for (property, value) in properties {
            args.extend(["-o".to_owned(), format!("{property}={value}")]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.change(&format!("making {name} from {snapshot}"), &args, &[snapshot, name])
    }

    pub fn promote(&self, name: &str) -> Result<()> {
        self.change(&format!("promoting {name}"), &["promote"], &[name])
    }

    pub fn set(&self, properties: &[(String, String)], names: &[&str]) -> Result<()> {
        if properties.is_empty() || names.is_empty() {
            return Ok(());
        }
        let mut args = vec!["set".to_owned()];
        args.extend(properties.iter().map(|(property, value)| format!("{property}={value}")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        names.chunks(CHUNK).try_for_each(|names| self.change("setting properties", &args, names))
    }

    /// Removes a property from a dataset and from those below it.
    pub fn unset(&self, property: &str, name: &str) -> Result<()> {
        self.change("unsetting a property", &["inherit", "-r", property], &[name])
    }

    /// Loads a key from its `keylocation`.
    pub fn load_key(&self, name: &str) -> Result<()> {
        self.change(&format!("loading the key of {name}"), &["load-key"], &[name])
    }

    pub fn mount(&self, name: &str) -> Result<()> {
        self.change(&format!("mounting {name}"), &["mount"], &[name])
    }

    pub fn unmount(&self, name: &str) -> Result<()> {
        self.change(&format!("unmounting {name}"), &["unmount"], &[name])
    }
}

/// Turns a failed command into a failure that says what was tried and what helps.
fn explain(failed: Failed, what: &str) -> Failure {
    let text = format!("{}\n{}", failed.stdout, failed.stderr).to_lowercase();
    let (reason, cure) = match failed.cause {
        Cause::TimedOut { .. } => (
            "timed_out",
            "the pool may hang: look at `zpool status`; or allow a longer task_timeout",
        ),
        Cause::NonZero => meaning(&text),
        _ => (failed.reason(), ""),
    };
    Failure::of_command(failed, what, reason, cure)
}

fn meaning(text: &str) -> (&'static str, &'static str) {
    const MEANINGS: &[(&str, &str, &str)] = &[
        (
            "currently suspended",
            "pool_suspended",
            "the pool is suspended: bring its devices back, then `zpool clear`",
        ),
        (
            "i/o is currently",
            "pool_suspended",
            "the pool is suspended: bring its devices back, then `zpool clear`",
        ),
        ("out of space", "no_space", "the pool, or a quota above, is full: free some space"),
        ("no space left", "no_space", "the pool, or a quota above, is full: free some space"),
        ("quota exceeded", "no_space", "a quota is reached: raise it, or free some space"),
        ("read-only", "pool_readonly", "the pool was imported read-only"),
        (
            "permission denied",
            "permission_denied",
            "ZFS needs root: run the task with become: true",
        ),
        ("no such pool", "no_pool", ""),
        ("dataset does not exist", "no_dataset", ""),
        ("could not find any snapshots", "no_snapshot", ""),
        ("dependent clones", "clones", "a clone depends on it"),
        ("more recent snapshots", "moved", "a snapshot was taken meanwhile: run the task again"),
        ("already exists", "name_taken", ""),
        ("key not loaded", "key_unavailable", "load the key: `zfs load-key`"),
        ("encryption key", "key_unavailable", "load the key: `zfs load-key`"),
        ("key unavailable", "key_unavailable", "load the key: `zfs load-key`"),
        ("is busy", "busy", "something uses or holds it"),
        ("/dev/zfs", "no_zfs", "the kernel's module is not loaded: `modprobe zfs`"),
        ("zfs modules", "no_zfs", "the kernel's module is not loaded: `modprobe zfs`"),
    ];
    let known = MEANINGS.iter().find(|(part, _, _)| text.contains(part));
    known.map_or(("command_failed", ""), |(_, reason, cure)| (reason, cure))
}

/// Refuses what would need more than one call, and so would not be atomic.
pub fn fits_one_call(names: &[String]) -> Result<()> {
    let bytes: usize = names.iter().map(|name| name.len() + 9).sum();
    if bytes <= MOST_ARGUMENTS {
        return Ok(());
    }
    let msg = format!(
        "{} snapshots have {} of names together, which one call of zfs cannot take, so they would not be \
         atomic; split the task; nothing was changed",
        names.len(),
        host::space::human(u64::try_from(bytes).context("a length")?)
    );
    Err(Failure::new("too_many", msg).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failures_mean() {
        for (stderr, reason) in [
            ("cannot open 'tank/x': dataset does not exist", "no_dataset"),
            ("cannot open 'nope': no such pool", "no_pool"),
            ("cannot create snapshot 'tank/a@x': out of space", "no_space"),
            ("cannot unmount '/tank/a': pool or dataset is busy", "busy"),
            ("cannot destroy snapshot tank/a@x: dataset is busy", "busy"),
            ("cannot create snapshot 'tank/a@x': dataset already exists", "name_taken"),
            ("cannot create snapshot 'tank/a@x': pool is read-only", "pool_readonly"),
            ("cannot open 'tank': pool I/O is currently suspended", "pool_suspended"),
            ("cannot rollback to 'tank/a@x': more recent snapshots or bookmarks exist", "moved"),
            ("cannot destroy 'tank/a@x': snapshot has dependent clones", "clones"),
            ("cannot mount 'tank/e': encryption key not loaded", "key_unavailable"),
            ("The ZFS modules cannot be auto-loaded.", "no_zfs"),
            ("something else", "command_failed"),
        ] {
            assert_eq!(meaning(&stderr.to_lowercase()).0, reason, "{stderr}");
        }
    }

    #[test]
    fn snapshots_fit_into_one_call_or_are_refused() {
        let name = "a".repeat(200);
        assert!(fits_one_call(&vec![name.clone(); 5000]).is_ok());
        assert!(fits_one_call(&vec![name; 6000]).is_err());
    }
}
