//! Resolves names without the C library.
//!
//! A static glibc resolves names by loading the libraries of the machine that it runs on, whatever version
//! these have. So the machine's own `getent` is run, which uses every source in nsswitch.conf, and if there
//! is none (in some containers), `/etc/hosts` is read. Invariant: only names that passed `check` reach a
//! command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use host::command::{Cause, Command, Failed, IfWeDie, Output};
use host::deadline::{Deadline, seconds};
use host::interrupt;
use host::program;

use crate::unanswered::{Kind, Unanswered};

const HOSTS: &str = "/etc/hosts";
/// How many addresses of a name are used: a few are enough to find one that answers.
const MOST: usize = 16;
/// `getent` changes nothing, so it needs no time to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(100);

/// Resolves a host: an address to itself, `localhost` to the loopback addresses, any other name by the
/// machine's sources. The addresses are in order, without duplicates, and never none.
pub fn resolve(host: &str, port: u16, deadline: Duration) -> Result<Vec<SocketAddr>, Unanswered> {
    resolve_until(host, port, Deadline::after(deadline))
}

pub(crate) fn resolve_until(
    host: &str,
    port: u16,
    deadline: Deadline,
) -> Result<Vec<SocketAddr>, Unanswered> {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let addresses = if let Ok(address) = literal.parse::<IpAddr>() {
        vec![address]
    } else {
        check(host).map_err(|why| Unanswered::new(Kind::Name, why))?;
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.eq_ignore_ascii_case("localhost") {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        } else {
            look_up(host, deadline)?
        }
    };
    Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Checks that this can be a name: letters, digits, `.`, `-` and `_`, and nothing that the C library would
/// read as a number (`127.1`, `0x7f000001`).
pub(crate) fn check(name: &str) -> Result<(), String> {
    let shape = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let bare = name.strip_suffix('.').unwrap_or(name);
    let parts_fine = bare.split('.').all(|part| (1..=63).contains(&part.len()));
    if !name.bytes().all(shape) || !parts_fine || bare.len() > 253 || name.starts_with('-') {
        return Err(
            "the name of a host must consist of letters, digits, '.', '-' and '_', must not begin \
                    with '-', and must have no empty part"
                .into(),
        );
    }
    let last = bare.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let hex =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a host whose name ends in a number is neither a name nor an address".into());
    }
    Ok(())
}

fn look_up(name: &str, deadline: Deadline) -> Result<Vec<IpAddr>, Unanswered> {
    let unknown = |why: &str| {
        Unanswered::new(Kind::Name, format!("cannot find the address of {name}: {why}"))
    };
    let Ok(getent) = program::look("getent").map_err(|error| unknown(&error.to_string()))? else {
        let hosts = std::fs::read_to_string(HOSTS).unwrap_or_default();
        let found = in_hosts(&hosts, name);
        return if found.is_empty() {
            Err(unknown("it is not in /etc/hosts, and there is no getent here; give an address"))
        } else {
            Ok(found)
        };
    };
    let ask = |database| ask_getent(&getent, database, name, deadline);
    let answer = match ask("ahosts") {
        // Not every getent has that database.
        Err(Failed { rc: Some(1), cause: Cause::NonZero, .. }) => ask("hosts"),
        answer => answer,
    };
    let failed = |failed: Failed| match failed.cause {
        Cause::TimedOut { .. } => Unanswered::new(
            Kind::Timeout,
            format!("no address of {name} within {}", seconds(deadline.span())),
        ),
        Cause::Interrupted { signal, .. } => Unanswered::interrupted(
            &format!("looking up {name}"),
            interrupt::Interrupted { signal },
        ),
        Cause::NonZero if failed.rc == Some(2) => unknown("no such name"),
        _ => unknown(&failed.to_string()),
    };
    let output = answer.map_err(failed)?;
    let found = of_getent(output.text().map_err(|error| unknown(&error.to_string()))?);
    if found.is_empty() { Err(unknown("it has no usable address")) } else { Ok(found) }
}

fn ask_getent(
    getent: &Path,
    database: &str,
    name: &str,
    deadline: Deadline,
) -> Result<Output, Failed> {
    Command::new(getent)
        .args([database, name])
        .deadline(deadline)
        .grace(GRACE)
        .output_limit(64 << 10)
        .if_we_die(IfWeDie::DiesToo)
        .run()
}

/// Parses `getent ahosts <name>` (a line for each address and each type of socket) and `getent hosts
/// <name>`: in both, the address comes first. An address with a zone (`fe80::1%eth0`) is skipped, since it
/// is of no use without its interface.
fn of_getent(text: &str) -> Vec<IpAddr> {
    each_once(text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()))
}

/// Finds the addresses of a name in the text of `/etc/hosts`.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    each_once(text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    }))
}

fn each_once(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in addresses {
        if !found.contains(&address) && found.len() < MOST {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(addresses: Vec<IpAddr>) -> String {
        addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn literals_and_localhost_need_no_lookup() {
        for (host, expected) in [
            ("127.0.0.1", "127.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
            ("LOCALHOST.", "127.0.0.1:80 [::1]:80"),
        ] {
            let found = resolve(host, 80, Duration::ZERO).unwrap();
            let found: Vec<_> = found.iter().map(SocketAddr::to_string).collect();
            assert_eq!(found.join(" "), expected);
        }
    }

    #[test]
    fn invalid_names_reach_no_command() {
        let long = "a.".repeat(130);
        for host in [
            "", ".", "-a", "a..b", "a b", "a;b", "a/b", "é", "1.2.3", "0x7f.1", "10", "a.0x1",
            &long,
        ] {
            let error = resolve(host, 80, Duration::ZERO).unwrap_err();
            assert_eq!(error.kind, Kind::Name, "{host}: {error}");
        }
        for name in ["a", "a.b-c.d_e", "xn--a.example.", "1.example", "_srv.a"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn reads_getent_and_hosts() {
        // getent (Debian GLIBC 2.36) ahosts, on a machine with both protocols.
        let ahosts = "192.0.2.1       STREAM shop.example\n192.0.2.1       DGRAM  \n\
                      192.0.2.1       RAW    \n2001:db8::1     STREAM \n2001:db8::1     DGRAM  \n\
                      fe80::1%eth0    STREAM \n";
        assert_eq!(shown(of_getent(ahosts)), "192.0.2.1 2001:db8::1");
        assert_eq!(shown(of_getent("2001:db8::1     shop.example shop\n")), "2001:db8::1");
        assert_eq!(shown(of_getent("")), "");
        let hosts = "127.0.0.1 localhost\n# 192.0.2.9 shop\n192.0.2.1\tweb SHOP # shop2\n\
                     nonsense shop\n2001:db8::1 shop\n192.0.2.1 shop\n";
        assert_eq!(shown(in_hosts(hosts, "shop.")), "192.0.2.1 2001:db8::1");
        assert_eq!(shown(in_hosts(hosts, "shop2")), "");
    }
}
