//! Observes what each HAProxy holds, the file of its map, and the counts of the script. Reads only.

use crate::options::Subject;
use crate::script::{self, Count, Hold, Report, time};
use ansible_module::Failure;
use anyhow::{Context, Result};
use haproxy::socket::Socket;
use haproxy::{file, map, stat};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of this task in locks.
pub const TASK: &str = "haproxy_hold";

pub struct State {
    pub edges: Vec<Edge>,
    /// Old workers of a reload, which hold requests by their own maps.
    pub old: Vec<OldWorker>,
    /// The text of each map's file.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
}

/// A HAProxy process that serves.
pub struct Edge {
    pub socket: Socket,
    pub report: Report,
    /// Its map, by key.
    pub live: BTreeMap<String, String>,
}

pub struct OldWorker {
    master: Socket,
    pub pid: u32,
    pub report: Report,
}

impl OldWorker {
    pub fn ask(&self, command: &str) -> Result<String> {
        self.master.ask(&format!("@!{} {command}", self.pid))
    }
}

pub fn observe(subject: &Subject) -> Result<State> {
    let (mut edges, mut files) = (Vec::new(), BTreeMap::new());
    for socket in &subject.sockets {
        let report = script::ask(socket)?.ok_or_else(|| no_script(socket))?;
        let live = map::live(socket, &report.map)?.into_iter().collect();
        if !files.contains_key(&report.map) {
            let text = file::read(&report.map).with_context(|| {
                format!("reading {}, the file of HAProxy's map", report.map.display())
            })?;
            files.insert(report.map.clone(), text);
        }
        edges.push(Edge { socket: socket.clone(), report, live });
    }
    let old = old_workers(subject)?;
    Ok(State { edges, old, files })
}

fn no_script(socket: &Socket) -> Failure {
    let msg = format!(
        "HAProxy at {socket} cannot hold requests: it has not loaded the script reversible-hold.lua; \
         nothing was changed. Run the role reversible.deploy.haproxy on it (with haproxy_hold: true, \
         which is the default), or, where the configuration is your own, do what the collection's \
         docs/adopting.md says of it"
    );
    Failure::new("no_script", msg)
}

/// Finds the old workers, if there is a master socket. A worker may end while it is asked.
pub fn old_workers(subject: &Subject) -> Result<Vec<OldWorker>> {
    if !subject.master.exists() {
        return Ok(Vec::new());
    }
    let master = Socket::Unix(subject.master.clone());
    // If it does not answer, requests in old workers wait until the hold ends.
    let Ok(processes) = master.ask("show proc") else { return Ok(Vec::new()) };
    let pids = script::old_workers(&processes);
    // After a reload that failed, 3.2 counts the worker that serves among the old ones.
    let serving = match pids.is_empty() {
        true => Vec::new(),
        false => (subject.sockets.iter())
            .map(|socket| stat::worker(socket, PATIENCE))
            .collect::<Result<Vec<_>>>()?,
    };
    let old = pids.into_iter().filter(|pid| !serving.contains(pid)).filter_map(|pid| {
        let answer = master.ask(&format!("@!{pid} {}", script::COMMAND)).ok()?;
        Some(OldWorker { master: master.clone(), pid, report: script::parse(&answer)? })
    });
    Ok(old.collect())
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl State {
    pub fn sockets(&self) -> Vec<Socket> {
        self.edges.iter().map(|edge| edge.socket.clone()).collect()
    }

    /// The time of the HAProxies; the earliest where they differ.
    pub fn now(&self) -> u64 {
        self.edges.iter().map(|edge| edge.report.now).min().unwrap_or_default()
    }

    /// The value of the key in each live map and each file.
    pub fn values(&self, key: &str) -> Vec<Option<String>> {
        let live = self.edges.iter().map(|edge| edge.live.get(key).cloned());
        live.chain(self.files.values().map(|text| map::file_value(text, key))).collect()
    }

    /// The hold in the live maps, or in a file.
    pub fn hold(&self, key: &str) -> Option<Hold> {
        self.values(key).iter().flatten().find_map(|value| Hold::parse(value))
    }

    /// Whether every HAProxy holds the key now, and the files have the same value.
    pub fn is_held_everywhere(&self, key: &str) -> bool {
        let values = self.values(key);
        let same = values.windows(2).all(|pair| pair[0] == pair[1]);
        same && self.edges.iter().all(|edge| edge.holds(key))
    }

    pub fn is_held_anywhere(&self, key: &str) -> bool {
        self.edges.iter().any(|edge| edge.holds(key))
    }

    /// What all workers have counted for this hold.
    pub fn count(&self, key: &str, hold: &Hold) -> Count {
        let reports = (self.edges.iter().map(|edge| &edge.report))
            .chain(self.old.iter().map(|worker| &worker.report));
        (reports.filter_map(|report| report.counts.get(key)))
            .filter(|count| count.since == hold.since)
            .fold(Count { since: hold.since, ..Count::default() }, |sum, count| sum.and(*count))
    }

    /// Adds the counts of workers that have ended since; no request waits there any more.
    pub fn add_ended(&mut self, workers: Vec<OldWorker>) {
        for mut worker in workers {
            if self.old.iter().any(|there| there.pid == worker.pid) {
                continue;
            }
            for count in worker.report.counts.values_mut() {
                count.waiting = 0;
            }
            self.old.push(worker);
        }
    }

    /// What is shown as `before` and `after`.
    pub fn view(&self, key: &str) -> Value {
        let hold = self.hold(key);
        json!({
            "held": self.is_held_anywhere(key),
            "until": hold.as_ref().and_then(|hold| time(hold.until)),
            "deploy_id": hold.and_then(|hold| hold.by),
        })
    }

    /// The hold and what came of it, as it is returned.
    pub fn describe(&self, key: &str, hold: &Hold) -> Value {
        let count = self.count(key, hold);
        json!({
            "map_key": key,
            "held": self.is_held_anywhere(key),
            "since": time(hold.since),
            "until": time(hold.until),
            "deploy_id": hold.by,
            "waiting": count.waiting,
            "waited": count.waited,
            "longest": count.longest as f64 / 1000.0,
            "refused": count.refused,
            "expired": count.expired,
            "left": count.left,
        })
    }

    pub fn keys(&self) -> Vec<String> {
        let live = self.edges.iter().flat_map(|edge| edge.live.keys().cloned());
        let mut keys: Vec<String> = live.collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

impl Edge {
    pub fn holds(&self, key: &str) -> bool {
        let hold = self.live.get(key).and_then(|value| Hold::parse(value));
        let most = self.report.seconds * 1000;
        hold.is_some_and(|hold| {
            let left = hold.until.saturating_sub(self.report.now);
            0 < left && left <= most
        })
    }
}
