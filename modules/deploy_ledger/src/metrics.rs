//! The metrics of an app in an environment, in the format of node-exporter's textfile collector.
//!
//! Invariants: they are made from the ledger alone, so the same ledger gives the same file; and the
//! timestamps have no labels but app and env: with the release as a label, an alert could not compare
//! the last failure with the last success.

use crate::ledger::{Deploy, Ledger};
use crate::options::{Options, Task};
use crate::readiness::rollback_possible;
use std::fmt::Write;

const ROLLBACK_POSSIBLE: &str = "reversible_deploy_way_back";

/// `was` is the present file: its lines about restore points are kept until these are observed again.
pub fn render(ledger: &Ledger, options: &Options, was: Option<&[u8]>) -> String {
    let labels = format!("app=\"{}\",env=\"{}\"", options.at.app, options.at.env);
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: Option<i64>| {
        if let Some(value) = value {
            head(&mut text, name, help);
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    };
    let success = ledger.newest_that(Deploy::is_done).and_then(|deploy| deploy.closed.as_ref());
    let failure = ledger.deploys.iter().filter_map(Deploy::failed).max();
    let revert = (ledger.deploys.iter())
        .filter_map(|deploy| deploy.reverted.as_ref().map(|(at, _)| *at))
        .max();
    let holder = ledger.holder();
    // Zero means never: an alert cannot compare with a missing metric.
    gauge(
        "reversible_deploy_last_success_timestamp_seconds",
        "When a deploy was done last, 0 for never.",
        Some(success.map_or(0, |closed| closed.at.unix())),
    );
    gauge(
        "reversible_deploy_last_failure_timestamp_seconds",
        "When a deploy failed or was found dead last, 0 for never.",
        Some(failure.map_or(0, |at| at.unix())),
    );
    gauge(
        "reversible_deploy_last_revert_timestamp_seconds",
        "When a deploy went back by itself last, 0 for never.",
        Some(revert.map_or(0, |at| at.unix())),
    );
    gauge(
        "reversible_deploy_last_duration_seconds",
        "How long the last deploy that ended took.",
        ledger.newest_that(|deploy| deploy.closed.is_some()).and_then(Deploy::seconds),
    );
    gauge("reversible_deploy_open", "Whether a deploy is open.", Some(i64::from(holder.is_some())));
    gauge(
        "reversible_deploy_heard_timestamp_seconds",
        "When the open deploy was heard of last.",
        holder.map(|deploy| deploy.last.unix()),
    );
    gauge(
        "reversible_deploy_lease_seconds",
        "After how much silence the open deploy counts as abandoned.",
        holder.map(|deploy| i64::try_from(deploy.opening.lease).unwrap_or(i64::MAX)),
    );
    active(ledger, &labels, &mut text);
    let ways = ways_back(ledger, options, &labels, was);
    if !ways.is_empty() {
        head(&mut text, ROLLBACK_POSSIBLE, "Whether one can go back, by layer.");
        text.push_str(&ways);
    }
    text
}

fn active(ledger: &Ledger, labels: &str, text: &mut String) {
    let Some(current) = ledger.current() else { return };
    let color = current.closed.as_ref().and_then(|closed| closed.color.as_deref());
    let release = current.opening.release.as_deref().unwrap_or_default();
    head(text, "reversible_deploy_info", "The active colour and release.");
    let _ = writeln!(
        text,
        "reversible_deploy_info{{{labels},color=\"{}\",release=\"{}\"}} 1",
        escaped(color.unwrap_or_default()),
        escaped(release)
    );
}

fn ways_back(ledger: &Ledger, options: &Options, labels: &str, was: Option<&[u8]>) -> String {
    match (&options.layers, &options.task) {
        (Some(layers), Task::Report { .. }) => {
            let line = |(layer, open): (String, bool)| {
                let open = u8::from(open);
                format!("{ROLLBACK_POSSIBLE}{{{labels},layer=\"{}\"}} {open}\n", escaped(&layer))
            };
            rollback_possible(ledger, layers).into_iter().map(line).collect()
        }
        _ => {
            let was = String::from_utf8_lossy(was.unwrap_or_default());
            let ours = format!("{ROLLBACK_POSSIBLE}{{{labels},");
            let whole = |line: &&str| {
                line.starts_with(&ours) && (line.ends_with("} 0") || line.ends_with("} 1"))
            };
            was.lines().filter(whole).map(|line| format!("{line}\n")).collect()
        }
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
