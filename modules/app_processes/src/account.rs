//! Who a process runs as, from the files of the target: the names of LDAP and the like are unknown to us,
//! who are linked statically.

use crate::options::Process;
use ansible_module::Failure;
use anyhow::{Context, Result, ensure};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::set_thread_groups;
use std::{fs, thread};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// The groups that it is a member of besides.
    pub groups: Vec<u32>,
    /// Whether it stands in /etc/passwd; a mere number does not.
    pub known: bool,
}

/// The text of /etc/passwd and of /etc/group.
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub fn read() -> Accounts {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Accounts { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    pub fn of(&self, one: &Process) -> Result<Account, Failure> {
        self.find(&one.user).ok_or_else(|| {
            let msg = format!(
                "argument 'processes', {}: user {} is no number and does not stand in /etc/passwd of the target",
                one.name, one.user
            );
            Failure::new("bad_options", msg)
        })
    }

    /// By name or by number. A number without an account has the group of the same number, and no other.
    fn find(&self, user: &str) -> Option<Account> {
        // The highest number means "leave it as it is" to the kernel.
        let number: Option<u32> = user.parse().ok().filter(|uid| *uid != u32::MAX);
        let known = self.passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let asked = number.map_or(name == user, |number| number == uid);
            asked.then(|| Account { uid, gid, groups: self.groups_of(name), known: true })
        });
        known.or(number.map(|uid| Account { uid, gid: uid, groups: Vec::new(), known: false }))
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let lines = self.group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { return None };
            members.split(',').any(|member| member == user).then(|| gid.parse().ok())?
        });
        lines.collect()
    }
}

impl Account {
    /// Works on files with no more rights than it has. In a thread of its own, which ends with it: the kernel keeps
    /// these rights for each thread, and nothing has to be given back. Of all that a signal or a tracer asks
    /// for, the thread stays root's.
    pub fn with_its_rights<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.take_rights()?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of ours has died")))
        })
    }

    fn take_rights(&self) -> Result<()> {
        let groups: Vec<_> =
            self.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
        let why = || format!("taking the rights of uid {}", self.uid);
        set_thread_groups(&groups).with_context(why)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // These never fail, but say what was there before: asked twice, what is there now.
        setfsgid(gid);
        setfsuid(uid);
        ensure!(setfsgid(gid) == gid && setfsuid(uid) == uid, "{}: the kernel refuses", why());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nshop:x:998:997::/:/bin/false\nbroken\n".into(),
            group: "root:x:0:\nadm:x:4:syslog,shop\nshops:x:5:shopper\nweb:x:6:shop\nbroken\n"
                .into(),
        }
    }

    #[test]
    fn users_by_name_and_by_number() {
        let shop = Account { uid: 998, gid: 997, groups: vec![4, 6], known: true };
        assert_eq!(accounts().find("shop"), Some(shop.clone()));
        assert_eq!(accounts().find("998"), Some(shop));
        let number = Account { uid: 4301, gid: 4301, groups: vec![], known: false };
        assert_eq!(accounts().find("4301"), Some(number));
        for nobody in ["sho", "broken", "4294967295", "-1", ""] {
            assert_eq!(accounts().find(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn its_rights_are_those_of_one_thread() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o770)).unwrap();
        let file = |name: &str| folder.path().join(name);
        let account = |groups| Account { uid: 4301, gid: 4302, groups, known: false };
        let write = |groups, name: &str| {
            account(groups).with_its_rights(|| Ok(fs::write(file(name), "")?)).is_ok()
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
