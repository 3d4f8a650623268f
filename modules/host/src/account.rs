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
        // Without a file there are no names.
        let text = |path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
        let text = |path| text(path).unwrap_or_default();
        Accounts::of(text("/etc/passwd"), text("/etc/group"))
    }

    /// Uses these texts in place of both files.
    pub fn of(passwd: impl Into<String>, group: impl Into<String>) -> Accounts {
        Accounts { passwd: passwd.into(), group: group.into() }
    }

    /// Finds the number of a user given by name or number. As with chown(1), a name comes first.
    pub fn uid(&self, user: &str) -> Option<u32> {
        number(user, &self.passwd)
    }

    /// Finds the number of a group given by name or number. As with chgrp(1), a name comes first.
    pub fn gid(&self, group: &str) -> Option<u32> {
        number(group, &self.group)
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

/// Finds a number. In both files the name is the first field and the number the third.
fn number(asked: &str, text: &str) -> Option<u32> {
    let known = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_asked = fields.next()? == asked;
        is_asked.then(|| fields.nth(1)?.parse().ok())?
    });
    // The kernel takes the highest number as "do not change".
    known.or(asked.parse().ok()).filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_by_number() {
        let accounts = Accounts::of(
            "root:x:0:0::/root:/bin/sh\nshop:x:998:997::/srv:/bin/false\nbroken\n",
            "root:x:0:\nadm:x:4:syslog,shop\nshops:x:5:shopper\nweb:x:6:shop\nbroken\n",
        );
        let shop = Account { uid: 998, gid: 997, groups: vec![4, 6], home: Some("/srv".into()) };
        assert_eq!(accounts.find("shop"), Some(shop.clone()));
        assert_eq!(accounts.find("998"), Some(shop));
        let number = Account { uid: 4301, gid: 4301, groups: vec![], home: None };
        assert_eq!(accounts.find("4301"), Some(number));
        for nobody in ["sho", "broken", "4294967295", "-1", ""] {
            assert_eq!(accounts.find(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn numbers_of_users_and_of_groups() {
        let passwd = "web:x:997:998::/:/bin/sh\nlast:x:4294967295:1::/:/bin/sh\n";
        let accounts = Accounts::of(passwd, "shop:x:998:anna\n12:x:7:\nbroken\n");
        assert_eq!((accounts.uid("web"), accounts.gid("shop")), (Some(997), Some(998)));
        assert_eq!((accounts.uid("5"), accounts.gid("12")), (Some(5), Some(7)));
        for odd in ["shop", "we", "", "-1", "5x", "4294967295", "last", "broken"] {
            assert_eq!(accounts.uid(odd), None, "{odd}");
        }
    }
}
