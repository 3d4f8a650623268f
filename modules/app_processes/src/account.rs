//! The account that a process runs as, and access to files with its rights.

use crate::options::Process;
use ansible_module::Failure;
use anyhow::{Context, Result, ensure};
use host::account::{Account, Accounts};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::set_thread_groups;
use std::thread;

pub fn of(accounts: &Accounts, one: &Process) -> Result<Account, Failure> {
    accounts.find(&one.user).ok_or_else(|| {
        let msg = format!(
            "argument 'processes', {}: user {} is neither a number nor a name in /etc/passwd of the target",
            one.name, one.user
        );
        Failure::new("bad_options", msg)
    })
}

/// Runs `work` with only the account's rights on files, in a thread of its own: the kernel keeps these rights for
/// each thread, so they end with it. For signals and tracers the thread stays root's.
pub fn with_rights_of<T: Send>(
    account: &Account,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            switch_to(account)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker thread panicked")))
    })
}

fn switch_to(account: &Account) -> Result<()> {
    let groups: Vec<_> = account.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    let why = || format!("taking the rights of uid {}", account.uid);
    set_thread_groups(&groups).with_context(why)?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    // These calls never fail but return the previous value: the second call returns the present one.
    setfsgid(gid);
    setfsuid(uid);
    ensure!(setfsgid(gid) == gid && setfsuid(uid) == uid, "{}: the kernel refuses", why());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    #[test]
    fn only_one_thread_has_the_rights_of_the_account() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o770)).unwrap();
        let file = |name: &str| folder.path().join(name);
        let account = |groups| Account { uid: 4301, gid: 4302, groups, home: None };
        let write = |groups, name: &str| {
            with_rights_of(&account(groups), || Ok(fs::write(file(name), "")?)).is_ok()
        };
        assert!(!write(vec![], "none"), "root's rights were kept");
        chown(folder.path(), None, Some(4303)).unwrap();
        assert!(!write(vec![4304], "none") && write(vec![4303], "theirs"));
        let made = file("theirs").metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (4301, 4302));
        fs::write(file("ours"), "").unwrap();
        assert_eq!(file("ours").metadata().unwrap().uid(), 0);
    }
}
