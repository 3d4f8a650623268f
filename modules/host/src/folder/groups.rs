//! Groups that have no member but root: a safe folder may be writable by them.
//!
//! Debian ships /usr/local as root:staff 2775, and rsyslog on Ubuntu makes /var/log root:syslog 2775;
//! with a umask of 002 root's own folders are root:root 775. Administrators expect these to be accepted.
//! What counts is who is in the group, not its number: the groups of services also have numbers below
//! 1000, and these are the apps that must not replace what root uses. So a group counts as root's if it
//! has no other member; that of /var/log may also have the daemon that writes the system log.
//! Only /etc/group is read: a statically linked program has no name service.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Whether the group bits of this folder or program let nobody but root write.
pub(super) fn is_roots(fd: impl AsFd, gid: u32, path: &Path) -> bool {
    // With an ACL the group bits are its mask: they say nothing about the group.
    !has_acl(fd) && {
        let text = |file| fs::read_to_string(file).unwrap_or_default();
        is_roots_group(gid, path, &text("/etc/group"), &text("/etc/passwd"))
    }
}

fn has_acl(fd: impl AsFd) -> bool {
    // fgetxattr(2) does not take an O_PATH descriptor.
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let mut too_short = [0_u8; 1];
    let asked = rustix::fs::getxattr(path, "system.posix_acl_access", &mut too_short[..]);
    // After any other error there may be one.
    !matches!(asked, Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP))
}

fn is_roots_group(gid: u32, path: &Path, group: &str, passwd: &str) -> bool {
    let mut lines = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, members] = fields[..] else { return None };
        (number.parse() == Ok(gid)).then_some((name, members))
    });
    // A group without an entry may be that of a process that was started with the mere number.
    let (Some((name, members)), None) = (lines.next(), lines.next()) else { return false };
    let of_logs = name == "syslog" && path == Path::new("/var/log");
    let listed = members.split(',').filter(|member| !member.is_empty());
    let primary = passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [account, _, _, number, ..] = fields[..] else { return None };
        (number.parse() == Ok(gid)).then_some(account)
    });
    listed.chain(primary).all(|account| account == "root" || (of_logs && account == "syslog"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_roots_when_nobody_else_is_in_it() {
        let group = "root:x:0:\nadm:x:4:syslog,anna\nstaff:x:50:\nsyslog:x:103:\nshop:x:998:\n\
                     more:x:50x:\ntwo:x:60:\nagain:x:60:\nlogs:x:110:syslog\nbroken\n";
        let passwd = "root:x:0:0::/root:/bin/sh\nsyslog:x:102:103::/:/bin/false\n\
                      shop:x:998:998::/:/bin/false\nbroken\n";
        let local = |gid| is_roots_group(gid, Path::new("/usr/local"), group, passwd);
        let log = |gid| is_roots_group(gid, Path::new("/var/log"), group, passwd);
        assert!(local(0) && local(50) && log(50));
        // Members, a service's own group, one that is not known, and one that is there twice.
        for gid in [4, 998, 103, 4302, 60, 110] {
            assert!(!local(gid), "{gid}");
        }
        // The daemon that writes all logs, in their folder, and nobody else with it.
        assert!(log(103) && !log(110) && !log(998));
        let other = group.replace("syslog:x:103:", "syslog:x:103:anna");
        assert!(!is_roots_group(103, Path::new("/var/log"), &other, passwd));
        let staff = group.replace("staff:x:50:", "staff:x:50:anna");
        assert!(!is_roots_group(50, Path::new("/usr/local"), &staff, passwd));
    }
}
