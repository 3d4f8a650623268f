//! `listener`: the process that listens on a port is the one that was started. A service that cannot get
//! its port is restarted for ever, while another process answers the probes.
//!
//! Invariant: a process belongs to a unit by its control group, and to a pid file by its ancestors or its
//! session; a process that cannot be read belongs to neither.

use crate::observation::{Ask, Observation, Try, shown};
use crate::probe_options::ProbeOptions;
use ansible_module::Failure;
use host::regular::{self, Links};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Limit for a pid file.
const MAX_PID_FILE: u64 = 4096;
/// The state of a socket in `/proc/net/tcp` that waits for connections.
const LISTENS: &str = "0A";
/// The pid of systemd, which also holds the socket of a unit with socket activation.
const INIT: u32 = 1;

pub struct Listener {
    port: u16,
    /// The unit and the pid file whose processes may listen; with both, those of either.
    unit: Option<String>,
    pidfile: Option<PathBuf>,
}

impl Listener {
    pub fn parse(options: &mut ProbeOptions) -> Result<Listener, Failure> {
        let port = options.port()?;
        let (unit, pidfile) = (options.word("unit")?, options.absolute("pidfile")?);
        match (&unit, &pidfile) {
            (None, None) => Err(options.refuse("kind listener needs unit, or pidfile".to_owned())),
            _ => Ok(Listener { port, unit, pidfile }),
        }
    }

    /// Reads the pid of the started process, if there is a pid file.
    fn started_pid(&self) -> Result<Option<u32>, String> {
        let Some(path) = &self.pidfile else { return Ok(None) };
        let text = match regular::read(path, Links::Refuse, MAX_PID_FILE) {
            Err(why) if why.kind() == ErrorKind::NotFound && self.unit.is_some() => {
                return Ok(None);
            }
            read => {
                read.map_err(|why| format!("reading the pid file {}: {why}", path.display()))?
            }
        };
        let text = String::from_utf8_lossy(&text);
        let pid = text.trim().parse();
        pid.map(Some).map_err(|_| format!("{} contains no pid: {:?}", path.display(), shown(&text)))
    }

    fn owns(&self, pid: u32, started: Option<u32>) -> bool {
        let of_unit = |unit: &String| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            groups.is_ok_and(|text| is_in_unit(&text, unit))
        };
        self.unit.as_ref().is_some_and(of_unit)
            || started.is_some_and(|started| descends(pid, started))
    }

    fn owner(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("of the unit {unit}"));
        let file =
            self.pidfile.as_ref().map(|path| format!("of the process in {}", path.display()));
        unit.into_iter().chain(file).collect::<Vec<_>>().join(", nor ")
    }
}

impl Ask for Listener {
    fn ask(&self, _now: &Try<'_>) -> Result<Observation, String> {
        let port = self.port;
        let sockets = listening(port)?;
        if sockets.is_empty() {
            return Err(format!("no process listens on port {port}"));
        }
        let started = self.started_pid()?;
        let (own, others): (Vec<u32>, Vec<u32>) =
            holders(&sockets)?.into_iter().partition(|pid| self.owns(*pid, started));
        let strangers: Vec<String> = (others.into_iter())
            .filter(|pid| own.is_empty() || *pid != INIT)
            .map(process_name)
            .collect();
        match (own.first(), strangers.is_empty()) {
            (Some(pid), true) => {
                Ok(Observation::new(format!("process {pid} listens on port {port}")))
            }
            (None, true) => Err(format!(
                "cannot see which process listens on port {port}: run the task as root"
            )),
            (_, false) => {
                let (strangers, owner) = (strangers.join(", "), self.owner());
                Err(format!("{strangers} listens on port {port} and is not {owner}"))
            }
        }
    }
}

/// Whether the control groups of a process (`/proc/<pid>/cgroup`) are below that of a unit.
fn is_in_unit(text: &str, unit: &str) -> bool {
    let path = |line: &'_ str| line.splitn(3, ':').nth(2).map(str::to_owned);
    text.lines().filter_map(path).any(|path| path.split('/').any(|part| part == unit))
}

fn descends(pid: u32, root: u32) -> bool {
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| *pid > INIT) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        let Some((parent, session)) = stat.ok().as_deref().and_then(parent_and_session) else {
            return false;
        };
        if pid == root || session == root {
            return true;
        }
        next = Some(parent);
    }
    false
}

/// Parses `/proc/<pid>/stat`. The name of the program, in brackets, may contain any characters.
fn parent_and_session(stat: &str) -> Option<(u32, u32)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}

/// Reads the inodes of the sockets that listen on a port, on any address.
fn listening(port: u16) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for (table, needed) in [("/proc/net/tcp", true), ("/proc/net/tcp6", false)] {
        match fs::read_to_string(table) {
            Ok(text) => found.extend(sockets(&text, port)),
            Err(why) if needed => return Err(format!("reading {table}: {why}")),
            // The kernel has no IPv6.
            Err(_) => {}
        }
    }
    Ok(found)
}

fn sockets(table: &str, port: u16) -> impl Iterator<Item = String> + '_ {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, ..] = fields.as_slice() else { return None };
        let (_, here) = local.rsplit_once(':')?;
        let listens = *state == LISTENS && u16::from_str_radix(here, 16) == Ok(port);
        fields.get(9).filter(|_| listens).map(|inode| (*inode).to_owned())
    })
}

/// Finds the processes that have one of these sockets open.
fn holders(sockets: &BTreeSet<String>) -> Result<BTreeSet<u32>, String> {
    let mut found = BTreeSet::new();
    let entries = fs::read_dir("/proc").map_err(|why| format!("reading /proc: {why}"))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended, or that we may not read, counts as having no sockets.
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds =
            files.flatten().filter_map(|file| fs::read_link(file.path()).ok()).any(|link| {
                let inode = link.to_str().and_then(|link| link.strip_prefix("socket:["));
                inode.and_then(|rest| rest.strip_suffix(']')).is_some_and(|it| sockets.contains(it))
            });
        if holds {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// Describes a process for messages.
fn process_name(pid: u32) -> String {
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", shown(program.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::TcpListener;

    #[test]
    fn listening_sockets_are_parsed() {
        // Linux 6.1: two sockets that listen on port 8080, one connection of it, one other port.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0\n   2: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 20 4 30 10 -1\n   3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1 0000000000000000 100 0 0 10 0\n";
        assert_eq!(sockets(table, 8080).collect::<Vec<_>>(), ["4711", "4712"]);
        assert_eq!(sockets(table, 80).count(), 0);
        assert_eq!(parent_and_session("7 (a) b) S 3 7 5 0 -1"), Some((3, 5)));
        assert_eq!(parent_and_session("7"), None);
    }

    #[test]
    fn a_process_belongs_to_the_unit_of_its_control_group() {
        let ours = "0::/system.slice/shop-web.service/sub\n";
        assert!(is_in_unit(ours, "shop-web.service"));
        assert!(!is_in_unit(ours, "web.service") && !is_in_unit(ours, "shop-web"));
        assert!(is_in_unit("12:cpu:/\n1:name=systemd:/system.slice/a.service\n", "a.service"));
    }

    #[test]
    fn the_process_that_listens_is_reported() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let ask = |options: serde_json::Value| {
            let map = options.as_object().cloned().unwrap();
            let mut options = ProbeOptions::new("web", "listener", map);
            let listener = Listener::parse(&mut options).map_err(|failure| failure.msg)?;
            let initial = json!(null);
            let gate_deadline = host::deadline::Deadline::after(std::time::Duration::from_secs(60));
            let timeout = std::time::Duration::from_secs(60);
            listener.ask(&Try {
                timeout,
                gate_deadline,
                initial: &initial,
                before: None,
                only_looks: false,
            })
        };
        let by_file = json!({"port": port, "pidfile": file});
        assert!(ask(by_file.clone()).unwrap_err().contains("reading the pid file"));
        fs::write(&file, "no number\n").unwrap();
        assert!(ask(by_file.clone()).unwrap_err().contains("contains no pid: \"no number"));
        fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        assert!(ask(by_file.clone()).unwrap().answer.contains("listens on port"));
        // A process that has ended long ago: the highest number that the kernel gives is never reached.
        fs::write(&file, "4194304").unwrap();
        let why = ask(by_file.clone()).unwrap_err();
        assert!(why.contains(&format!("listens on port {port} and is not ")), "{why}");
        assert!(why.contains("and is not of the process in"), "{why}");
        let both =
            json!({"port": port, "pidfile": folder.path().join("none"), "unit": "x.service"});
        let why = ask(both).unwrap_err();
        assert!(why.contains("and is not of the unit x.service, nor of the process in "), "{why}");
        let why = ask(json!({"port": port, "unit": "x.service"})).unwrap_err();
        assert!(why.contains("and is not of the unit x.service"), "{why}");
        drop(socket);
        assert_eq!(ask(by_file).unwrap_err(), format!("no process listens on port {port}"));
        assert!(ask(json!({"port": port})).unwrap_err().contains("needs unit, or pidfile"));
        assert!(ask(json!({"port": 0, "unit": "x"})).is_err());
    }
}
