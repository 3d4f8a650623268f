//! Reads the accounts of this machine from /etc/passwd and /etc/group.
//!
//! Accounts of LDAP and the like are not found: a statically linked program has no name service.

use std::ffi::OsString;
use std::fs;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// `None` for a number that has no entry in /etc/passwd.
    pub home: Option<OsString>,
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

    /// Finds an account by its name or its number. A number that has no entry gets the group of the
    /// same number, and no supplementary groups.
    pub fn find(&self, user: &str) -> Option<Account> {
        // The highest number means "leave it as it is" to the kernel.
        let number: Option<u32> = user.parse().ok().filter(|uid| *uid != u32::MAX);
        let entry = self.passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { return None };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let asked = number.map_or(name == user, |number| number == uid);
            let home = fields.get(5).map(OsString::from).unwrap_or_else(|| "/".into());
            asked.then(|| Account { uid, gid, groups: self.groups_of(name), home: Some(home) })
        });
        entry.or(number.map(|uid| Account { uid, gid: uid, groups: Vec::new(), home: None }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_by_number() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nshop:x:998:997::/srv:/bin/false\nbroken\n".into(),
            group: "root:x:0:\nadm:x:4:syslog,shop\nshops:x:5:shopper\nweb:x:6:shop\nbroken\n"
                .into(),
        };
        let shop = Account { uid: 998, gid: 997, groups: vec![4, 6], home: Some("/srv".into()) };
        assert_eq!(accounts.find("shop"), Some(shop.clone()));
        assert_eq!(accounts.find("998"), Some(shop));
        let number = Account { uid: 4301, gid: 4301, groups: vec![], home: None };
        assert_eq!(accounts.find("4301"), Some(number));
        for nobody in ["sho", "broken", "4294967295", "-1", ""] {
            assert_eq!(accounts.find(nobody), None, "{nobody}");
        }
    }
}
