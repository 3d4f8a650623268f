//! States and tasks for the unit tests of what is pure.

use crate::listing::{self, Data};
use crate::names::Dataset;
use crate::options::{Point, Subject, Task, Wanted};
use crate::state::State;
use host::deploy_id::DeployId;

/// Deploys, the oldest first; a snapshot of the n-th is taken in the transaction group 10 n.
pub const DEPLOYS: [&str; 4] = [
    "20261121t080000z-0001",
    "20261121t090000z-0002",
    "20261121t100000z-0003",
    "20261121t110000z-0004",
];

pub fn point(n: usize) -> Point {
    let deploy = DeployId::parse(DEPLOYS[n - 1]).unwrap();
    Point { snapshot: format!("pre-deploy-{deploy}"), deploy }
}

/// A snapshot that this module took for the n-th deploy, as `zfs list` prints it.
pub fn taken(dataset: &str, n: usize) -> String {
    let Point { deploy, snapshot } = point(n);
    row(&format!("{dataset}@{snapshot}"), n as u64 * 10, [deploy.as_str(), &snapshot, "7"])
}

/// A snapshot that somebody else took.
pub fn foreign(name: &str, txg: u64) -> String {
    row(name, txg, ["-"; 3])
}

fn row(name: &str, txg: u64, [deploy, snapshot, pool]: [&str; 3]) -> String {
    let app = if deploy == "-" { "-" } else { "shop" };
    format!(
        "{name}\tsnapshot\t{txg}\t{txg}\t{txg}\t0\t4096\t100\t-\t{deploy}\t{snapshot}\t{pool}\t{app}\t-\t-\n"
    )
}

/// A state of the pool `tank` (guid 7) that covers these datasets. They were made in the transaction group
/// 1, and 5 bytes were written to each since its newest snapshot.
pub fn state(datasets: &[&str], snapshots: &[String]) -> State {
    let mut state = State {
        pools: listing::pools("tank\t7\tONLINE\toff\nbig\t8\tONLINE\toff\n").unwrap(),
        covered: datasets.iter().map(|name| (*name).to_owned()).collect(),
        ..State::default()
    };
    state.datasets = datasets.iter().map(|name| ((*name).to_owned(), dataset(name))).collect();
    for snap in listing::snapshots(&snapshots.concat()).unwrap() {
        state.snapshots.entry(snap.dataset.clone()).or_default().push(snap);
    }
    state
}

pub fn dataset(name: &str) -> Data {
    Data {
        name: name.to_owned(),
        is_volume: false,
        guid: 1,
        txg: 1,
        origin: None,
        mounted: true,
        mountpoint: format!("/{name}"),
        canmount: "on".into(),
        key_missing: false,
        encryption_root: None,
        keylocation: None,
        used: 1 << 20,
        available: None,
        written: 5,
        parked: None,
        deploy: None,
    }
}

pub fn task(datasets: &[&str], wanted: Wanted) -> Task {
    let subject = Subject {
        datasets: datasets.iter().map(|it| Dataset::try_from((*it).to_owned()).unwrap()).collect(),
        recursive: true,
        exclude: Vec::new(),
        skip_missing: false,
        app: Some("shop".into()),
        state_dir: Some("/var/lib/reversible/zfs-shop".into()),
    };
    Task::sample(subject, wanted)
}
