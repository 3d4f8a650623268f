//! Who a process runs as, and work on files with the rights of that account.

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
            "argument 'processes', {}: user {} is no number and does not stand in /etc/passwd of the target",
            one.name, one.user
        );
        Failure::new("bad_options", msg)
    })
}

/// Works on files with no more rights than the account has. In a thread of its own, which ends with it: the
/// kernel keeps these rights for each thread, and nothing has to be given back. Of all that a signal or a tracer
/// asks for, the thread stays root's.
pub fn with_rights_of<T: Send>(
    account: &Account,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            take_rights_of(account)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of ours has died")))
    })
}

fn take_rights_of(account: &Account) -> Result<()> {
    let groups: Vec<_> = account.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    let why = || format!("taking the rights of uid {}", account.uid);
    set_thread_groups(&groups).with_context(why)?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    // These never fail, but say what was there before: asked twice, what is there now.
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
    fn its_rights_are_those_of_one_thread() {
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
