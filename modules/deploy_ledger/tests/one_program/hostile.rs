//! A ledger's file that was torn, or written by somebody else: every question is answered, and no run trips over it.

use crate::common::{FIRST, Ledger, SECOND, THIRD, changed};
use fuzz::rounds;
use serde_json::{Value, json};
use std::fs;

const PIECES: [&[u8]; 14] = [
    b"\n",
    b"\0",
    b"{",
    b"}}\n",
    b"null",
    b"99999999999999999999",
    b"-9223372036854775808",
    b"1e308",
    b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:59Z",
    b"20261121t090000z-0001",
    b"[[[[[[[[[[[[[[[[[[[[",
    b"\\ud800<script>|`\\u0000",
    "\u{202e}é\u{1b}[31m".as_bytes(),
];

/// A deploy that went well, one that failed, and one that goes on.
fn written(ledger: &Ledger) -> Vec<u8> {
    for (id, outcome) in [(FIRST, "done"), (SECOND, "failed_reverted")] {
        changed(&ledger.task(
            "open",
            id,
            json!({"release": "4f2a9c1", "config_commit": "abc", "config_dirty": true}),
        ));
        let data = json!({"msg": "x", "probes": [{"name": "web", "ok": false, "tries": 2, "milliseconds": 1.5, "why": "down"}]});
        changed(&ledger.task(
            "phase",
            id,
            json!({"phase": "flip", "status": "failed", "data": data}),
        ));
        let point = json!({"layer": "dataset", "name": "tank/a@pre", "guid": 17, "cost": {"bytes": 2048, "seconds": 3}});
        changed(&ledger.task("restore_point", id, point));
        changed(&ledger.task("closed", id, json!({"outcome": outcome, "color": "blue"})));
    }
    changed(&ledger.task("open", THIRD, json!({})));
    fs::read(ledger.file()).unwrap()
}

fn answered(result: &Value) {
    if result.get("failed").is_some() {
        assert_ne!(result["reason"], "panic", "{result}");
        assert!(
            !result["msg"].as_str().unwrap().is_empty() && result["reason"].is_string(),
            "{result}"
        );
    }
}

#[test]
fn whatever_the_file_holds() {
    let ledger = Ledger::new();
    let sound = written(&ledger);
    let at = |name: &str| ledger.folder.path().join(name);
    let made = json!({"report_markdown": at("r.md"), "report_html": at("r.html"), "metrics_file": at("m.prom")});
    let layers = json!({"dataset": {"open": true, "holds": [{"name": "tank/a@pre", "guid": 17}]}});
    rounds(15, 1_000, |random| {
        fs::write(ledger.file(), random.changed(&sound, &PIECES)).unwrap();
        let id = *random.one(&[FIRST, SECOND, THIRD]);
        answered(&ledger.info());
        answered(&ledger.ask("deploy_ledger_info", json!({"deploy_id": id, "layers": layers})));
        answered(&ledger.task("report", id, made.clone()));
        answered(&ledger.task("heartbeat", id, json!({})));
        answered(&ledger.ask("deploy_ledger", json!({"state": "compacted", "retain": 1})));
    });
}
