//! The report: what it says, that it is the same again, that nothing in it is markup, and that a run
//! that died has one.

// A test that cannot go on ends right there.

use crate::common::{FIRST, Ledger, SECOND, changed, reason};
use serde_json::{Value, json};
use std::fs;

const SHA: &str = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a";
const EVIL: &str = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)> \"'&\n# head\n[x](javascript:1)\u{1b}[2J\u{202e}";

struct Report {
    markdown: String,
    html: String,
}

fn report(ledger: &Ledger, id: &str) -> Report {
    let (markdown, html) = (ledger.folder.path().join("r.md"), ledger.folder.path().join("r.html"));
    let options = json!({"report_markdown": markdown, "report_html": html,
                         "release_url": "https://forge.example/{app}/commit/{sha}?e={env}"});
    assert!(changed(&ledger.task("report", id, options.clone())));
    assert!(!changed(&ledger.task("report", id, options)), "a second time");
    Report {
        markdown: fs::read_to_string(markdown).unwrap(),
        html: fs::read_to_string(html).unwrap(),
    }
}

fn failed_deploy(ledger: &Ledger) {
    ledger.task("open", FIRST, json!({"release": "1111111"}));
    ledger.task("closed", FIRST, json!({"outcome": "done"}));
    ledger.task(
        "open",
        SECOND,
        json!({"release": SHA, "by": "run 7", "reason": "release 7",
                                       "config_commit": "c0ffee", "config_dirty": true}),
    );
    let point =
        json!({"layer": "dataset", "name": "tank/a@pre", "guid": "17", "cost": {"bytes": 2048}});
    ledger.task("restore_point", SECOND, point);
    ledger.task("phase", SECOND, json!({"phase": "flip", "status": "started"}));
    let data = json!({
        "flip": {"milliseconds": {"flip": 12.3, "watch": 8000.0, "back": 3.0}, "reverted": true,
                 "budget": {"requests": 5000, "failed": 41, "share": 0.0082, "seconds": 8.0},
                 "proof": {"tries": 2, "status": 200}, "sessions_left": 3},
        "probes": [{"name": "api", "kind": "http", "ok": false, "tries": 3, "answer": "503", "milliseconds": 20.1, "why": "status 503"}],
        "plan": ["make green active"], "loss": [{"what": "rows", "bytes": 4096}], "undo": "flip back",
        "msg": "the error budget is broken", "stderr": "boom", "extra": {"k": "v"},
    });
    ledger.task("phase", SECOND, json!({"phase": "flip", "status": "failed", "data": data}));
    ledger.task("revert", SECOND, json!({"reason": "error budget"}));
    ledger.task("closed", SECOND, json!({"outcome": "failed_reverted", "color": "blue"}));
}

#[test]
fn it_tells_what_happened() {
    let ledger = Ledger::new();
    failed_deploy(&ledger);
    let printed = report(&ledger, SECOND);
    let link = format!("https://forge.example/shop/commit/{SHA}?e=prod");
    for part in [
        "# shop rollback - 20",
        "## Summary",
        "## Timeline",
        "## Root Cause",
        "## Resolution",
        "- [ ] ",
        "error budget is broken",
        "Rolled back to release 1111111",
        "Requests: 5000",
        "Failed: 41",
        "Failed share: 0.82 %",
        "status 503",
        "1. make green active",
        "Destroys: rows (4.0 KiB)",
        "tank/a@pre",
        "2.0 KiB",
        "c0ffee with changes that are in no commit",
        "    boom",
        &link,
        "Rollback initiated by the run itself: error budget",
        "flip / extra: k v",
        "Users had it for 8003 ms, until what served before was active again.",
        "Flipped in 12.3 ms, and back: users had it for 8003 ms",
    ] {
        assert!(printed.markdown.contains(part), "{part} in {}", printed.markdown);
    }
    for part in [
        "<title>shop rollback",
        "failed, reverted",
        "error budget is broken",
        "<b>5000</b>",
        "<b>41</b>",
        "0.82 %",
        "status 503",
        "<li>make green active</li>",
        "rows (4.0 KiB)",
        "tank/a@pre",
        "boom",
        "8000 ms",
        "It was taken back",
        "prefers-color-scheme:dark",
        &format!("href=\"{link}\""),
    ] {
        assert!(printed.html.contains(part), "{part} in {}", printed.html);
    }
}

#[test]
fn nothing_in_it_is_markup_or_comes_from_elsewhere() {
    let ledger = Ledger::new();
    ledger.task(
        "open",
        FIRST,
        json!({"release": EVIL, "by": EVIL, "reason": EVIL, "config_commit": EVIL}),
    );
    let every =
        json!({"layer": EVIL, "name": EVIL, "guid": EVIL, "host": EVIL, "cost": {EVIL: EVIL}});
    ledger.task("restore_point", FIRST, every);
    let data = json!({
        "flip": {"milliseconds": {EVIL: EVIL}, "budget": {"requests": EVIL}, "reverted": true},
        "probes": [{"name": EVIL, "kind": EVIL, "answer": EVIL, "why": EVIL}, EVIL],
        "plan": [EVIL], "loss": [EVIL, {"what": EVIL}], "undo": EVIL, "msg": EVIL, "reason": EVIL,
        "stdout": EVIL, "stderr": EVIL, "cmd": [EVIL], EVIL: EVIL,
    });
    ledger.task("phase", FIRST, json!({"phase": EVIL, "status": "failed", "data": data}));
    ledger.task("void", FIRST, json!({"reason": EVIL}));
    let printed = report(&ledger, FIRST);
    let (_, body) = printed.html.split_once("</style>").unwrap();
    for part in ["<script", "<img", "</style", "javascript:1\"", "\u{1b}", "\u{202e}"] {
        assert!(!body.contains(part), "{part} in {body}");
    }
    assert!(body.contains("&lt;script&gt;alert(1)"));
    // The only address is where the release is; nothing is loaded.
    for part in ["src=", "url(", "@import", "<link", "<iframe", "<base"] {
        assert!(!printed.html.replace("img src=x", "").contains(part), "{part}");
    }
    assert_eq!(printed.html.matches(" href=\"").count(), 1);
    assert!(printed.html.contains("commit/%3C%2Fpre%3E"));
    for line in printed.markdown.lines().filter(|line| !line.starts_with("    ")) {
        assert!(!line.contains("<script") && !line.contains("<img"), "{line}");
        assert!(!line.contains("[x](") && line != "# head", "{line}");
    }
    // The policy names the hash of this very style sheet and allows nothing else.
    let policy = printed.html.split_once("Content-Security-Policy\" content=\"").unwrap().1;
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
}

#[test]
fn a_run_that_died_has_one_too() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({"release": SHA, "lease": 0}));
    ledger.task("phase", FIRST, json!({"phase": "migrations", "status": "started"}));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let printed = report(&ledger, FIRST);
    for part in
        ["has not ended", "last heard of", "never ended", "The run did not say how it ended"]
    {
        assert!(printed.markdown.contains(part), "{part} in {}", printed.markdown);
    }
    assert!(printed.html.contains(">abandoned<") && printed.html.contains("never ended"));
    ledger.task("open", SECOND, json!({"take_over": FIRST}));
    let printed = report(&ledger, FIRST);
    assert!(
        printed.markdown.contains(&format!("deploy {SECOND} took over")),
        "{}",
        printed.markdown
    );
    assert!(printed.html.contains("died, taken over"));
}

#[test]
fn also_of_a_damaged_ledger_and_never_of_nothing() {
    let ledger = Ledger::new();
    failed_deploy(&ledger);
    let text = fs::read_to_string(ledger.file()).unwrap();
    fs::write(ledger.file(), format!("by hand\n{text}")).unwrap();
    let file = ledger.folder.path().join("r.md");
    let damaged = ledger.task("report", SECOND, json!({"report_markdown": file}));
    assert!(changed(&damaged));
    assert!(damaged["warnings"][0].as_str().unwrap().contains("line 1"), "{damaged}");
    let never = ledger.task("report", "20261121t093000z-0009", json!({"report_markdown": file}));
    assert_eq!(reason(&never), "unknown_deploy");
    for (options, part) in [
        (json!({}), "report_markdown"),
        (json!({"report_markdown": "r.md"}), "absolute"),
        (json!({"report_markdown": file, "release_url": "javascript:{sha}"}), "must begin with"),
        (json!({"report_markdown": file, "release_url": "https://x/"}), "must hold {sha}"),
        (json!({"report_markdown": file, "layers": {}}), "metrics_file"),
    ] {
        let wrong: Value = ledger.task("report", SECOND, options);
        assert!(wrong["msg"].as_str().unwrap().contains(part), "{part} in {wrong}");
    }
}
