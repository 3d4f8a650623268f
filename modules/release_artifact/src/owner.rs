//! The owner of unpacked files: numbers, or names of this machine.

use ansible_module::Failure;
use host::account::Accounts;
use rustix::fs::{Gid, Uid};

/// The owner and group to set; without them the files are root's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    pub user: Option<Uid>,
    pub group: Option<Gid>,
}

impl Owner {
    pub fn of(user: Option<&str>, group: Option<&str>) -> Result<Owner, Failure> {
        let accounts = Accounts::read();
        let unknown = |option: &str, name: &str, file: &str| {
            let why = format!("{name:?} is neither a number nor a name in {file} of the target");
            Failure::bad_option(option, why)
        };
        let uid =
            |name| accounts.uid(name).ok_or_else(|| unknown("file_owner", name, "/etc/passwd"));
        let gid =
            |name| accounts.gid(name).ok_or_else(|| unknown("file_group", name, "/etc/group"));
        Ok(Owner {
            user: user.map(uid).transpose()?.map(Uid::from_raw),
            group: group.map(gid).transpose()?.map(Gid::from_raw),
        })
    }

    pub fn is_set(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_the_kernel_would_ignore_are_refused() {
        assert_eq!(Owner::of(Some("0"), None).unwrap().user, Some(Uid::ROOT));
        for odd in ["4294967295", "-1", ""] {
            assert!(Owner::of(Some(odd), None).is_err(), "{odd}");
            assert!(Owner::of(None, Some(odd)).is_err(), "{odd}");
        }
    }
}
