//! The owner of unpacked files: numbers, or names looked up in `/etc/passwd` and `/etc/group`.
//!
//! The files are read here since a static binary has no name service. Users of other sources (LDAP)
//! must be given by number.

use ansible_module::Failure;
use rustix::fs::{Gid, Uid};
use std::fs;

/// The owner and group to set; without them the files are root's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    pub user: Option<Uid>,
    pub group: Option<Gid>,
}

impl Owner {
    pub fn of(user: Option<&str>, group: Option<&str>) -> Result<Owner, Failure> {
        let (passwd, groups) = (read("/etc/passwd"), read("/etc/group"));
        let find = |option, name: Option<&str>, file: &str, text: &str| {
            match name {
            Some(name) => number(name, text).map(Some).ok_or_else(|| {
                let msg = format!(
                    "argument '{option}': {name:?} is neither a number nor a name in {file} of the target"
                );
                Failure::new("bad_options", msg)
            }),
            None => Ok(None),
        }
        };
        Ok(Owner {
            user: find("file_owner", user, "/etc/passwd", &passwd)?.map(Uid::from_raw),
            group: find("file_group", group, "/etc/group", &groups)?.map(Gid::from_raw),
        })
    }

    pub fn is_set(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }
}

fn read(path: &str) -> String {
    // Without the file there are no names, which the message says.
    fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into())
}

/// Finds the number of a name. In both files the name is the first field and the number the third.
fn number(name: &str, text: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let named = fields.next() == Some(name);
        if named { fields.nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        let text = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/x\nodd\n";
        assert_eq!(number("www-data", text), Some(33));
        assert_eq!(number("1000", text), Some(1000));
        for unknown in ["www", "odd", "", "-1", "33x"] {
            assert_eq!(number(unknown, text), None, "{unknown}");
        }
    }
}
