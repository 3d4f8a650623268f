//! Looks up users and groups in the files of the target. A static binary cannot ask LDAP and the like.

use ansible_module::Failure;
use std::fs;

/// The content of /etc/group and /etc/passwd.
pub struct Accounts {
    group: String,
    passwd: String,
}

impl Accounts {
    pub fn read() -> Accounts {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Accounts { group: text("/etc/group"), passwd: text("/etc/passwd") }
    }

    #[cfg(test)]
    pub fn of(group: &str, passwd: &str) -> Accounts {
        Accounts { group: group.to_owned(), passwd: passwd.to_owned() }
    }

    pub fn uid(&self, user: &str) -> Result<u32, Failure> {
        number(user, &self.passwd, "owner", "/etc/passwd")
    }

    pub fn gid(&self, group: &str) -> Result<u32, Failure> {
        number(group, &self.group, "group", "/etc/group")
    }
}

fn number(asked: &str, text: &str, option: &str, file: &str) -> Result<u32, Failure> {
    let known = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_asked = fields.next()? == asked;
        is_asked.then(|| fields.nth(1)?.parse().ok())?
    });
    // The kernel takes the highest number as "do not change".
    known.or(asked.parse().ok()).filter(|number| *number != u32::MAX).ok_or_else(|| {
        let msg = format!("argument 'files': {option} {asked} is neither a number nor a name in {file} of the target");
        Failure::new("bad_options", msg)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let known =
            Accounts::of("shop:x:998:anna\n12:x:7:\nbroken\n", "web:x:997:998::/:/bin/sh\n");
        assert_eq!((known.uid("web").unwrap(), known.gid("shop").unwrap()), (997, 998));
        assert_eq!((known.uid("5").unwrap(), known.gid("12").unwrap()), (5, 7));
        for odd in ["shop", "", "-1", "4294967295", "broken"] {
            assert!(known.uid(odd).is_err(), "{odd}");
        }
    }
}
