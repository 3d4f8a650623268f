//! What is made from the ledger: restore points and readiness, the cap on reverts, the outcome file,
//! metrics, reports, a shorter ledger.

// A test that cannot go on ends right there.

use crate::common::{FIRST, Ledger, SECOND, THIRD, changed, reason};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

const SHA: &str = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a";

fn run(ledger: &Ledger, id: &str, outcome: &str) {
    changed(&ledger.task("open", id, json!({"release": SHA})));
    changed(&ledger.task("closed", id, json!({"outcome": outcome})));
}

fn ask(ledger: &Ledger, options: Value) -> Value {
    ledger.ask("deploy_ledger_info", options)
}

#[test]
fn what_each_layer_holds_and_whether_one_can_go_back() {
    let ledger = Ledger::new();
    run(&ledger, FIRST, "done");
    ledger.task("open", SECOND, json!({"config_commit": "abc", "config_dirty": true}));
    let point = json!({"layer": "dataset", "name": "tank/a@pre", "guid": 17, "host": "pve1",
                       "cost": {"bytes": 2048}, "data": {"x": 1}});
    assert!(changed(&ledger.task("restore_point", SECOND, point.clone())));
    assert!(!changed(&ledger.task("restore_point", SECOND, point)));
    ledger.task("restore_point", SECOND, json!({"layer": "color", "name": "blue"}));
    ledger.task("closed", SECOND, json!({"outcome": "done", "color": "green"}));

    let ready = |layers: Value| {
        let answer = ask(&ledger, json!({"deploy_id": SECOND, "layers": layers}));
        assert_eq!(answer.get("failed"), None, "{answer}");
        answer["readiness"].clone()
    };
    let all = json!({"dataset": {"open": true, "holds": [{"name": "tank/a@pre", "guid": "17"}]},
                     "color": {"open": true, "holds": ["blue"]}});
    let good = ready(all.clone());
    assert_eq!((&good["ready"], &good["why"]), (&json!(true), &json!([])), "{good}");
    assert_eq!(good["lands_on"]["deploy_id"], FIRST);
    assert_eq!(good["layers"]["dataset"]["restore_points"][0]["cost"]["bytes"], 2048);
    for (layer, seen, why) in [
        ("dataset", json!({"open": true, "holds": []}), "dataset: tank/a@pre is gone"),
        (
            "dataset",
            json!({"open": true, "holds": [{"name": "tank/a@pre", "guid": 18}]}),
            "another one",
        ),
        (
            "dataset",
            json!({"open": false, "why": "a clone", "holds": [17]}),
            "cannot go back: a clone",
        ),
        ("compose", json!({"open": true, "holds": ["x"]}), "captured nothing in the layer compose"),
    ] {
        let mut seen_now = all.clone();
        seen_now[layer] = seen;
        let answer = ready(seen_now);
        assert_eq!(answer["ready"], false);
        assert!(answer["why"][0].as_str().unwrap().contains(why), "{answer}");
        assert_eq!(answer["layers"][layer]["ready"], false);
    }
    let unseen = ready(json!({"dataset": all["dataset"]}));
    assert!(unseen["why"][0].as_str().unwrap().contains("nobody looked"), "{unseen}");

    ledger.task("void", FIRST, json!({"reason": "slow"}));
    let voided = ready(all);
    assert!(voided["why"][0].as_str().unwrap().contains("which is void: slow"), "{voided}");
    let info = ledger.info();
    assert_eq!(info["current"]["deploy_id"], SECOND);
    assert_eq!(info["current"]["config"], json!({"commit": "abc", "dirty": true}));
    assert_eq!(info["keep"], json!({"dataset": ["tank/a@pre"], "color": ["blue"]}));
    assert_eq!(info["deploys"][0]["restore_points"]["dataset"][0]["guid"], "17");
    let nobody = ask(&ledger, json!({"deploy_id": THIRD, "layers": {}}));
    assert_eq!(reason(&nobody), "unknown_deploy");
    let none = ask(&ledger, json!({"deploy_id": FIRST, "layers": {}}));
    assert_eq!(none["readiness"]["ready"], false);
}

#[test]
fn a_ledger_that_cannot_be_read_prunes_nothing() {
    let ledger = Ledger::new();
    run(&ledger, FIRST, "done");
    assert_eq!(ledger.info()["prune"], true);
    let sound = fs::read_to_string(ledger.file()).unwrap();
    fs::write(ledger.file(), format!("{sound}by hand\n")).unwrap();
    let info = ledger.info();
    assert_eq!((&info["prune"], &info["keep"]), (&json!(false), &Value::Null));
    assert!(info["prune_why"].as_str().unwrap().contains("line 3"), "{info}");
    let refused = ledger.ask("deploy_ledger", json!({"state": "compacted", "retain": 1}));
    assert_eq!(reason(&refused), "ledger_damaged");
}

#[test]
fn after_so_many_that_went_back_the_next_deploy_is_refused() {
    let ledger = Ledger::new();
    let cap = json!({"revert_cap": 2, "revert_window": 3600});
    let why = json!({"reason": "p99"});
    for id in [FIRST, SECOND] {
        assert!(changed(&ledger.task("open", id, cap.clone())));
        assert!(changed(&ledger.task("revert", id, why.clone())));
        assert!(!changed(&ledger.task("revert", id, why.clone())), "one deploy counts once");
        ledger.task("closed", id, json!({"outcome": "failed_reverted"}));
    }
    let before = fs::read(ledger.file()).unwrap();
    let refused = ledger.task("open", THIRD, cap.clone());
    assert_eq!((reason(&refused), &refused["locked_by"]), ("locked", &json!(SECOND)));
    let msg = refused["msg"].as_str().unwrap();
    assert!(
        msg.contains(&format!("{FIRST} at "))
            && msg.contains("(p99)")
            && msg.contains("revert_cap is 2")
            && msg.contains(&format!("pass unlock: {SECOND}")),
        "{msg}"
    );
    assert_eq!(fs::read(ledger.file()).unwrap(), before);
    // Whoever goes back is never refused, nor one who opens it with another cap.
    for more in [
        json!({"purpose": "rollback"}),
        json!({"back_to": FIRST}),
        json!({"purpose": "maintenance"}),
    ] {
        let mut more = more;
        more["revert_cap"] = json!(2);
        assert!(changed(&ledger.task("open", THIRD, more)));
        fs::write(ledger.file(), &before).unwrap();
    }
    for most in [0, 3] {
        assert!(changed(&ledger.task("open", THIRD, json!({"revert_cap": most}))));
        fs::write(ledger.file(), &before).unwrap();
    }
    // Those of long ago do not count; one of the future (the clock went back) does.
    let text = String::from_utf8(before).unwrap();
    let moved = |year: &str| {
        let move_line = |line: &str| match line.contains("revert\":") {
            true => {
                line.replacen("\"at\":\"20", &format!("\"at\":\"{year}"), 1).replacen(
                    &format!("{year}26"),
                    year,
                    1,
                ) + "\n"
            }
            false => format!("{line}\n"),
        };
        text.lines().map(move_line).collect::<String>()
    };
    fs::write(ledger.file(), moved("2099")).unwrap();
    assert_eq!(reason(&ledger.task("open", THIRD, cap.clone())), "locked");
    fs::write(ledger.file(), moved("2001")).unwrap();
    assert!(changed(&ledger.task("open", THIRD, cap)));
}

#[test]
fn a_rollback_locks_deploys_until_somebody_unlocks_them() {
    let ledger = Ledger::new();
    run(&ledger, FIRST, "done");
    let rolls = |id: &str, outcome: &str| {
        let opening = json!({"purpose": "rollback", "by": "anna", "reason": "p99"});
        assert!(changed(&ledger.task("open", id, opening)));
        ledger.task("closed", id, json!({"outcome": outcome}));
    };
    rolls(SECOND, "failed_reverted");
    assert_eq!(ledger.info()["locked"], Value::Null, "it has rolled nothing back");
    for (round, outcome) in ["done", "failed_not_reverted"].into_iter().enumerate() {
        let [by, next, after] = [1, 2, 3].map(|n| format!("20261121t1{round}000{n}z-0000"));
        rolls(&by, outcome);
        let refused = ledger.task("open", &next, json!({}));
        assert_eq!((reason(&refused), &refused["locked_by"]), ("locked", &json!(by)));
        let msg = refused["msg"].as_str().unwrap();
        assert!(
            msg.contains(&format!("{by} was a rollback by anna at ")) && msg.contains("p99"),
            "{msg}"
        );
        assert_eq!(ledger.info()["locked"]["deploy_id"], json!(by));
        let other = ledger.task("open", &next, json!({"unlock": FIRST}));
        assert!(
            other["msg"].as_str().unwrap().ends_with(&format!("{by} (not {FIRST})")),
            "{other}"
        );
        assert!(changed(&ledger.task("open", &next, json!({"unlock": by}))));
        assert_eq!(ledger.info()["locked"], Value::Null);
        ledger.task("closed", &next, json!({"outcome": "failed_reverted"}));
        // The same command once more, and then without it.
        assert!(changed(&ledger.task("open", &after, json!({"unlock": by}))));
        ledger.task("closed", &after, json!({"outcome": "failed_reverted"}));
        run(&ledger, &format!("20261121t1{round}0009z-0000"), "done");
    }
}

#[test]
fn a_person_locks_and_unlocks_deploys() {
    let ledger = Ledger::new();
    run(&ledger, FIRST, "done");
    let unasked = ledger.task("open", SECOND, json!({"purpose": "lock"}));
    assert!(unasked["msg"].as_str().unwrap().contains("reason"), "{unasked}");
    let lock = json!({"purpose": "lock", "by": "anna", "reason": "inventory by hand"});
    assert!(changed(&ledger.task("open", SECOND, lock)));
    ledger.task("closed", SECOND, json!({"outcome": "done"}));
    let refused = ledger.task("open", THIRD, json!({}));
    let msg = refused["msg"].as_str().unwrap();
    assert_eq!((reason(&refused), &refused["locked_by"]), ("locked", &json!(SECOND)));
    assert!(msg.contains(&format!("{SECOND} locked them by anna at ")), "{msg}");
    assert!(
        msg.ends_with(&format!(
            "inventory by hand; see that this is over, then pass unlock: {SECOND}"
        )),
        "{msg}"
    );
    // It was no release: what serves and what one goes back to is as before.
    let info = ledger.info();
    assert_eq!(
        (&info["current"]["deploy_id"], &info["last_good"]["deploy_id"]),
        (&json!(FIRST), &json!(FIRST))
    );
    // Only whoever names it unlocks them.
    let unlocking = |by: &str| json!({"purpose": "maintenance", "unlock": by});
    let wrong = ledger.task("open", THIRD, unlocking(FIRST));
    assert_eq!(reason(&wrong), "locked", "{wrong}");
    assert!(changed(&ledger.task("open", THIRD, unlocking(SECOND))));
    ledger.task("closed", THIRD, json!({"outcome": "done"}));
    assert_eq!(ledger.info()["locked"], Value::Null);
    run(&ledger, "20261121t100000z-0000", "done");
}

#[test]
fn a_rollback_that_is_unlocked_leaves_the_lock_of_a_person() {
    let ledger = Ledger::new();
    run(&ledger, FIRST, "done");
    let purpose = |id: &str, more: Value| {
        assert!(changed(&ledger.task("open", id, more)));
        ledger.task("closed", id, json!({"outcome": "done"}));
    };
    purpose(SECOND, json!({"purpose": "lock", "by": "anna", "reason": "inventory by hand"}));
    purpose(THIRD, json!({"purpose": "rollback", "by": "ben", "reason": "p99"}));
    let [next, after, last] = [1, 2, 3].map(|n| format!("20261121t10000{n}z-0000"));
    // Both are named, the newest first. Whoever unlocks it does not know of the other by that.
    let refused = ledger.task("open", &next, json!({}));
    let msg = refused["msg"].as_str().unwrap();
    assert_eq!((reason(&refused), &refused["locked_by"]), ("locked", &json!(THIRD)));
    assert!(msg.contains("p99") && msg.contains("inventory by hand"), "{msg}");
    let refused = ledger.task("open", &next, json!({"unlock": THIRD}));
    assert_eq!(reason(&refused), "locked", "{refused}");
    assert!(refused["msg"].as_str().unwrap().contains("inventory by hand"), "{refused}");
    purpose(&next, json!({"purpose": "maintenance", "unlock": THIRD}));
    assert_eq!(ledger.info()["locked"]["deploy_id"], json!(SECOND));
    assert_eq!(reason(&ledger.task("open", &after, json!({}))), "locked");
    // Neither does a short ledger forget it, nor who has unlocked it.
    for unlock in [None, Some(SECOND)] {
        if let Some(by) = unlock {
            purpose(&after, json!({"purpose": "maintenance", "unlock": by}));
        }
        let compacted = ledger.ask("deploy_ledger", json!({"state": "compacted", "retain": 1}));
        assert_ne!(compacted["failed"], json!(true), "{compacted}");
        let locked = ledger.info()["locked"].clone();
        assert_eq!(locked.is_null(), unlock.is_some(), "{locked}");
    }
    run(&ledger, &last, "done");
}

#[test]
fn maintenance_leaves_the_release_as_it_is() {
    let ledger = Ledger::new();
    run(&ledger, FIRST, "done");
    ledger.task("open", SECOND, json!({"purpose": "maintenance"}));
    ledger.task("closed", SECOND, json!({"outcome": "done"}));
    let info = ledger.info();
    assert_eq!(
        (&info["current"]["deploy_id"], &info["last_good"]["deploy_id"]),
        (&json!(FIRST), &json!(FIRST))
    );
}

#[test]
fn a_stale_outcome_is_never_read() {
    let ledger = Ledger::new();
    let file = ledger.folder.path().join("outcome");
    fs::write(&file, "done\n").unwrap();
    let to = |more: Value| {
        let mut options = more;
        options["outcome_file"] = json!(file);
        options
    };
    assert!(changed(&ledger.task("open", FIRST, to(json!({})))));
    assert!(!file.exists());
    // A second run is refused; the file is the first one's.
    assert_eq!(reason(&ledger.task("open", SECOND, to(json!({})))), "lease_held");
    assert!(changed(&ledger.task("closed", FIRST, to(json!({"outcome": "failed_reverted"})))));
    assert_eq!(fs::read_to_string(&file).unwrap(), "failed_reverted\n");
    assert!(!changed(&ledger.task("closed", FIRST, to(json!({"outcome": "failed_reverted"})))));
    // Killed between the record and the file: the same task again writes it.
    fs::remove_file(&file).unwrap();
    let again = ledger.task("closed", FIRST, to(json!({"outcome": "failed_reverted"})));
    assert!(changed(&again) && file.exists(), "{again}");

    let nowhere = json!({"outcome_file": ledger.folder.path().join("no/such/outcome")});
    let refused = ledger.task("open", SECOND, nowhere);
    assert_eq!(reason(&refused), "no_folder");
    assert_eq!(ledger.info()["holder"], Value::Null, "refused before the lease was taken");
    let own = json!({"outcome_file": ledger.file()});
    assert_eq!(reason(&ledger.task("open", SECOND, own)), "bad_options");
}

#[test]
fn nothing_is_read_through_a_link_of_another_user() {
    let ledger = Ledger::new();
    let [secret, link] = ["secret", "outcome"].map(|name| ledger.folder.path().join(name));
    fs::write(&secret, "root's own\n").unwrap();
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(4301), None).unwrap();
    let refused = ledger.task("open", FIRST, json!({"outcome_file": link}));
    let msg = refused["msg"].as_str().unwrap();
    assert!(msg.contains("is a symbolic link that others could have made"), "{refused}");
    assert!(!refused.to_string().contains("root's own"), "{refused}");
    assert_eq!(ledger.info()["holder"], Value::Null, "refused before the lease was taken");
}

#[test]
fn metrics_of_an_app() {
    let ledger = Ledger::new();
    let file = ledger.folder.path().join("shop.prom");
    let to = |more: Value| {
        let mut options = more;
        options["metrics_file"] = json!(file);
        options
    };
    let value = |name: &str| {
        let text = fs::read_to_string(&file).unwrap();
        let at = format!("reversible_deploy_{name}{{app=\"shop\",env=\"prod\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&at)?.parse::<i64>().ok())
    };
    ledger.task("open", FIRST, to(json!({"release": "a\"b\\c\nd", "lease": 60})));
    assert_eq!((value("open"), value("lease_seconds")), (Some(1), Some(60)));
    assert_eq!(value("last_success_timestamp_seconds"), Some(0));
    ledger.task("restore_point", FIRST, to(json!({"layer": "color", "name": "blue"})));
    ledger.task("closed", FIRST, to(json!({"outcome": "done", "color": "green"})));
    assert!(value("last_success_timestamp_seconds") > Some(1_700_000_000));
    assert_eq!((value("open"), value("lease_seconds")), (Some(0), None));
    assert!(!changed(&ledger.task(
        "closed",
        FIRST,
        to(json!({"outcome": "done", "color": "green"}))
    )));
    let text = fs::read_to_string(&file).unwrap();
    let info =
        r#"reversible_deploy_info{app="shop",env="prod",color="green",release="a\"b\\c\nd"} 1"#;
    assert!(text.lines().any(|line| line == info), "{text}");
    assert!(!text.contains("way_back"));

    let looked = json!({"color": {"open": true, "holds": []}});
    assert!(changed(&ledger.task("report", FIRST, to(json!({"layers": looked})))));
    let lost = "reversible_deploy_way_back{app=\"shop\",env=\"prod\",layer=\"color\"} 0";
    assert!(fs::read_to_string(&file).unwrap().contains(lost));
    // The next deploy has not looked, and does not forget what was seen.
    ledger.task("open", SECOND, to(json!({})));
    ledger.task("closed", SECOND, to(json!({"outcome": "failed_reverted"})));
    assert!(fs::read_to_string(&file).unwrap().contains(lost));
    assert!(value("last_failure_timestamp_seconds") >= value("last_success_timestamp_seconds"));
    let wrong = ledger.task("void", SECOND, json!({"reason": "x", "metrics_file": "/run/x.txt"}));
    assert!(wrong["msg"].as_str().unwrap().contains("must end in .prom"), "{wrong}");
}

#[test]
fn a_shorter_ledger_by_copy_and_rename() {
    let ledger = Ledger::new();
    let ids: Vec<String> = (0..6).map(|n| format!("20261121t08450{n}z-7f3a")).collect();
    for id in &ids {
        run(&ledger, id, "done");
    }
    ledger.task("open", SECOND, json!({}));
    let leftover = ledger.path().join(".ledger.jsonl.abcdef.new");
    fs::write(&leftover, "of one that was killed").unwrap();
    let options = json!({"state": "compacted", "retain": 3});
    let mut checked = options.clone();
    checked["_ansible_check_mode"] = json!(true);
    let predicted = ledger.ask("deploy_ledger", checked);
    let done = ledger.ask("deploy_ledger", options.clone());
    for key in ["changed", "plan", "plan_id", "before", "after"] {
        assert_eq!(predicted[key], done[key], "{key}");
    }
    assert!(changed(&done) && !leftover.exists());
    assert!(!changed(&ledger.ask("deploy_ledger", options)));
    let left = ledger.info();
    assert_eq!(left["deploys"].as_array().unwrap().len(), 3);
    assert_eq!(left["holder"]["deploy_id"], SECOND);
    let none = ledger.ask("deploy_ledger", json!({"state": "compacted", "retain": 0}));
    assert!(none["msg"].as_str().unwrap().contains("expected 1 or more"), "{none}");
}

#[test]
fn a_mistyped_app_leaves_nothing_behind() {
    let ledger = Ledger::new();
    for (state, more) in [("phase", json!({"phase": "x"})), ("heartbeat", json!({}))] {
        assert_eq!(reason(&ledger.task(state, FIRST, more)), "unknown_deploy");
    }
    assert!(!ledger.path().exists());
}

/// A folder that others can write to: what stands there may be anything.
#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_holds_nothing_up() {
    let ledger = Ledger::new();
    let at = |name: &str| ledger.folder.path().join(name);
    assert!(Command::new("mkfifo").arg(at("pipe.prom")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", at("endless.prom")).unwrap();
    for (name, option) in [("pipe.prom", "outcome_file"), ("endless.prom", "metrics_file")] {
        let refused = ledger.task("open", FIRST, json!({option: at(name)}));
        assert_eq!(refused["failed"], true, "{refused}");
        let msg = refused["msg"].as_str().unwrap();
        assert!(msg.contains(name) && msg.contains("not a regular file"), "{msg}");
    }
    assert_eq!(ledger.info()["holder"], Value::Null, "refused before the lease was taken");
    assert!(changed(&ledger.task("open", FIRST, json!({}))), "and the lock is free");
}
