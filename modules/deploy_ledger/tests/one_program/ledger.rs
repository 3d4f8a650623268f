//! The built binary against a real folder: the lease, the fence, idempotence, faults.

// A test that cannot go on ends right there.

use crate::common::{FIRST, Ledger, SECOND, THIRD, changed, reason};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::Instant;

#[test]
fn a_deploy_from_open_to_closed_and_every_task_twice() {
    let ledger = Ledger::new();
    let sha = "4f2a9c1e0b7d63f58a2c9e4d1b6f7a8c9d0e1f2a";
    let tasks = [
        ("open", json!({"release": sha, "by": "run 1832"})),
        ("phase", json!({"phase": "restore_points", "data": {"guid": "1374283741928374"}})),
        ("phase", json!({"phase": "flip", "status": "started"})),
        ("phase", json!({"phase": "flip", "status": "done"})),
        ("closed", json!({"outcome": "done"})),
        ("void", json!({"reason": "p99 above 2 s"})),
    ];
    for (state, options) in tasks {
        let mut checked = options.clone();
        checked["_ansible_check_mode"] = json!(true);
        let predicted = ledger.task(state, FIRST, checked);
        let done = ledger.task(state, FIRST, options.clone());
        for key in ["changed", "plan", "plan_id", "before", "after"] {
            assert_eq!(predicted[key], done[key], "{state}: {key}");
        }
        assert!(changed(&done));
        assert!(!changed(&ledger.task(state, FIRST, options)), "{state} a second time");
    }
    let info = ledger.info();
    assert_eq!(info["holder"], Value::Null);
    let deploy = &info["deploys"][0];
    assert_eq!(deploy["release"], sha);
    assert_eq!(deploy["outcome"], "done");
    assert_eq!(deploy["void"], "p99 above 2 s");
    assert_eq!(deploy["phases"][0]["data"]["guid"], "1374283741928374");
    assert_eq!(deploy["phases"].as_array().unwrap().len(), 3);
}

#[test]
fn check_mode_leaves_nothing_behind_and_goes_all_the_way_through() {
    let ledger = Ledger::new();
    for (state, options) in [
        ("open", json!({})),
        ("phase", json!({"phase": "flip"})),
        ("closed", json!({"outcome": "done"})),
    ] {
        let mut options = options;
        options["_ansible_check_mode"] = json!(true);
        assert!(changed(&ledger.task(state, FIRST, options)), "{state}");
    }
    assert!(!ledger.path().exists());
    assert_eq!(ledger.info()["deploys"], json!([]));
}

#[test]
fn one_deploy_at_a_time_and_a_take_over_by_name() {
    let ledger = Ledger::new();
    assert!(changed(&ledger.task("open", FIRST, json!({"by": "run 1"}))));
    ledger.task("phase", FIRST, json!({"phase": "migrations"}));

    let refused = ledger.task("open", SECOND, json!({}));
    assert_eq!(reason(&refused), "lease_held");
    let msg = refused["msg"].as_str().unwrap();
    for part in [FIRST, "by run 1", "in phase migrations", "take_over"] {
        assert!(msg.contains(part), "{part} in {msg}");
    }
    // A refused run must not have put the running one out of action.
    assert!(changed(&ledger.task("phase", FIRST, json!({"phase": "flip"}))));

    let wrong = ledger.task("open", THIRD, json!({"take_over": SECOND}));
    assert_eq!(reason(&wrong), "lease_held");
    assert!(changed(&ledger.task("open", SECOND, json!({"take_over": FIRST}))));
    for (state, options) in [
        ("phase", json!({"phase": "late"})),
        ("closed", json!({"outcome": "done"})),
        ("open", json!({})),
    ] {
        assert_eq!(reason(&ledger.task(state, FIRST, options)), "superseded", "{state}");
    }
    let info = ledger.info();
    assert_eq!(info["holder"]["deploy_id"], SECOND);
    assert_eq!(info["deploys"][1]["superseded_by"], SECOND);
    assert!(changed(&ledger.task("closed", SECOND, json!({"outcome": "failed_reverted"}))));
    assert_eq!(
        reason(&ledger.task("open", THIRD, json!({"take_over": SECOND}))),
        "nothing_to_take_over"
    );
    assert!(changed(&ledger.task("open", THIRD, json!({}))));
}

#[test]
fn an_older_id_cannot_be_opened_after_a_newer_one() {
    let ledger = Ledger::new();
    ledger.task("open", SECOND, json!({}));
    ledger.task("closed", SECOND, json!({"outcome": "done"}));
    assert_eq!(reason(&ledger.task("open", FIRST, json!({}))), "superseded");
    // Marking an old deploy as void is no act of that deploy: the fence does not apply.
    ledger.task("open", THIRD, json!({}));
    assert!(changed(&ledger.task("void", SECOND, json!({"reason": "bad"}))));
}

#[test]
fn what_has_ended_stays_ended() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({}));
    ledger.task("closed", FIRST, json!({"outcome": "failed_reverted"}));
    assert_eq!(reason(&ledger.task("closed", FIRST, json!({"outcome": "done"}))), "deploy_ended");
    assert_eq!(reason(&ledger.task("phase", FIRST, json!({"phase": "x"}))), "deploy_ended");
    assert_eq!(reason(&ledger.task("open", FIRST, json!({}))), "deploy_ended");
    let unknown = ledger.task("phase", SECOND, json!({"phase": "x"}));
    assert_eq!(reason(&unknown), "unknown_deploy");
    assert!(unknown["msg"].as_str().unwrap().contains(FIRST), "{unknown}");
}

#[test]
fn bad_options_change_nothing() {
    let ledger = Ledger::new();
    for (options, part) in [
        (json!({"app": "Shop!"}), "argument 'app'"),
        (json!({"env": "../etc"}), "argument 'env'"),
        (json!({"deploy_id": "yesterday"}), "20261121t084500z-7f3a"),
        (json!({"deploy_id": "20261341t084500z-7f3a"}), "does not exist"),
        (json!({"path": "relative"}), "expected an absolute path"),
        (json!({"lease": -1}), "argument 'lease'"),
        (json!({"state": "opened"}), "Did you mean open?"),
        (json!({"state": "closed"}), "outcome"),
        (json!({"state": "phase"}), "phase"),
        (json!({"state": "phase", "phase": "x", "data": {"x": "y".repeat(2 << 20)}}), "at most"),
        (
            json!({"state": "report", "report_html": "/x", "release_url": "https://f/{sha}><b>"}),
            "without spaces, quotes",
        ),
    ] {
        let mut all = json!({"state": "open", "deploy_id": FIRST});
        for (key, value) in options.as_object().unwrap() {
            all[key] = value.clone();
        }
        let result = ledger.ask("deploy_ledger", all);
        assert_eq!(reason(&result), "bad_options", "{options}");
        assert!(result["msg"].as_str().unwrap().contains(part), "{part} in {result}");
    }
    assert!(!ledger.path().exists());
}

#[test]
fn a_torn_last_line_is_reported_and_replaced() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({}));
    let whole = fs::read(ledger.file()).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(b"{\"v\":1,\"at\":\"2026-");
    fs::write(ledger.file(), torn).unwrap();
    let info = ledger.info();
    assert!(info["warnings"][0].as_str().unwrap().contains("torn"), "{info}");
    assert_eq!(info["holder"]["deploy_id"], FIRST);
    let next = ledger.task("phase", FIRST, json!({"phase": "flip"}));
    assert!(changed(&next) && next["warnings"][0].as_str().unwrap().contains("torn"));
    assert_eq!(ledger.info().get("warnings"), None);
    assert_eq!(fs::read_to_string(ledger.file()).unwrap().matches('\n').count(), 2);
}

#[test]
fn a_damaged_or_newer_ledger_is_not_written_to() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({}));
    let sound = fs::read_to_string(ledger.file()).unwrap();
    let damaged = format!("by hand\n{sound}");
    fs::write(ledger.file(), &damaged).unwrap();
    let refused = ledger.task("phase", FIRST, json!({"phase": "x"}));
    assert_eq!(reason(&refused), "ledger_damaged");
    assert!(refused["msg"].as_str().unwrap().contains("line 1"), "{refused}");
    assert_eq!(fs::read_to_string(ledger.file()).unwrap(), damaged);
    assert_eq!(ledger.info()["damaged"].as_array().unwrap().len(), 1);

    fs::write(ledger.file(), "{\"v\":7}\n").unwrap();
    assert_eq!(reason(&ledger.info()), "newer_version");
    assert_eq!(reason(&ledger.task("phase", FIRST, json!({"phase": "x"}))), "newer_version");
}

#[test]
fn a_ledger_of_another_app_is_refused() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({}));
    let other = ledger.ask("deploy_ledger_info", json!({"app": "shop-prod", "env": "x"}));
    assert_eq!(reason(&other), "other_ledger");
}

#[test]
fn a_folder_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let ledger = Ledger::new();
    fs::set_permissions(ledger.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = ledger.task("open", FIRST, json!({}));
    assert_eq!(reason(&refused), "unsafe_folder");
    assert!(!ledger.path().exists());
}

#[test]
fn two_runs_at_once_and_only_one_gets_the_lease() {
    let ledger = Ledger::new();
    let results: Vec<Value> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|number| {
                let id = format!("20261121t0845{number:02}z-7f3a");
                let ledger = &ledger;
                scope.spawn(move || ledger.task("open", &id, json!({})))
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let opened = results.iter().filter(|result| result["changed"] == true).count();
    assert_eq!(opened, 1, "{results:?}");
    assert_eq!(ledger.info()["deploys"].as_array().unwrap().len(), 1);
}

#[test]
fn a_full_disk_leaves_the_ledger_as_it_was() {
    let ledger = Ledger::new();
    fs::create_dir(ledger.path()).unwrap();
    let mount = |arguments: &[&str]| {
        Command::new("mount").args(arguments).arg(ledger.path()).status().unwrap().success()
    };
    assert!(mount(&["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"]), "needs root");
    ledger.task("open", FIRST, json!({}));
    let before = fs::read(ledger.file()).unwrap();
    let refused =
        ledger.task("phase", FIRST, json!({"phase": "x", "data": {"x": "y".repeat(200_000)}}));
    let after = fs::read(ledger.file()).unwrap();
    let readable = ledger.info();
    let remounted = mount(&["-o", "remount,ro"]);
    let read_only = ledger.task("phase", FIRST, json!({"phase": "x"}));
    assert!(Command::new("umount").arg(ledger.path()).status().unwrap().success());
    assert_eq!(reason(&refused), "no_space", "{refused}");
    assert_eq!(before, after);
    assert_eq!(readable["holder"]["deploy_id"], FIRST);
    assert!(remounted);
    assert_eq!(reason(&read_only), "read_only", "{read_only}");
}

/// Ten thousand deploys are read in a moment. The bound is for a debug build on a busy machine.
#[test]
fn ten_thousand_deploys_are_read() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({}));
    ledger.task("phase", FIRST, json!({"phase": "flip", "data": {"guid": "12345678901234567890"}}));
    ledger.task("closed", FIRST, json!({"outcome": "done"}));
    let lines = fs::read_to_string(ledger.file()).unwrap();
    let all: String = (0..10_000)
        .map(|n| {
            let time =
                format!("20{:02}1121t{:02}{:02}{:02}z-7f3a", 26 + n / 3600, 1, n / 60 % 60, n % 60);
            lines.replace(FIRST, &time)
        })
        .collect();
    fs::write(ledger.file(), all).unwrap();
    let began = Instant::now();
    let info = ledger.info();
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    assert_eq!(info["deploys"].as_array().unwrap().len(), 20);
    assert_eq!(info["damaged"], json!([]));
}

/// As it was left by a version that took any id.
fn with_a_fence_of_2099(ledger: &Ledger) {
    assert!(changed(&ledger.task("open", FIRST, json!({}))));
    fs::write(ledger.path().join("fence"), "20991231t000000z-0001\n").unwrap();
}

#[test]
fn an_id_of_the_year_2099_is_refused_and_opens_nothing() {
    let ledger = Ledger::new();
    let far = "20991231t000000z-0001";
    for check in [true, false] {
        let refused = ledger.task("open", far, json!({"_ansible_check_mode": check}));
        assert_eq!(reason(&refused), "id_ahead", "{refused}");
    }
    assert!(changed(&ledger.task("open", FIRST, json!({}))));
    assert_eq!(reason(&ledger.task("phase", far, json!({"phase": "x"}))), "id_ahead");
    assert!(changed(&ledger.task("phase", FIRST, json!({"phase": "x"}))));
}

#[test]
fn a_fence_of_the_year_2099_is_lowered_with_consent() {
    let ledger = Ledger::new();
    with_a_fence_of_2099(&ledger);
    let refused = ledger.task("phase", FIRST, json!({"phase": "x"}));
    assert_eq!(reason(&refused), "superseded");
    assert!(refused["msg"].as_str().unwrap().contains("state: fence_lowered"), "{refused}");
    let lower =
        |id: &str, confirm: &str| ledger.task("fence_lowered", id, json!({"confirm": confirm}));
    let asked = lower(FIRST, "false");
    assert_eq!(reason(&asked), "needs_consent");
    let plan = asked["plan_id"].as_str().unwrap();
    assert!(changed(&lower(FIRST, plan)));
    assert!(changed(&ledger.task("phase", FIRST, json!({"phase": "x"}))));
    // And one that is right is no longer lowered.
    for id in [FIRST, "20261101t000000z-0001"] {
        let right = lower(id, "true");
        assert!(!changed(&right), "{right}");
        assert!(right["warnings"][0].as_str().unwrap().contains("it stays as it is"), "{right}");
    }
    assert_eq!(fs::read_to_string(ledger.path().join("fence")).unwrap(), format!("{FIRST}\n"));
}

#[test]
fn a_fence_is_lowered_no_further_than_to_the_newest_right_deploy() {
    let ledger = Ledger::new();
    with_a_fence_of_2099(&ledger);
    let above = "20991231t000001z-0001";
    let warned =
        ledger.task("open", above, json!({"take_over": FIRST, "_ansible_check_mode": true}));
    assert!(warned["warnings"][0].as_str().unwrap().contains("this machine's clock"), "{warned}");
    let far = "20991130t000000z-0001";
    let refused = ledger.task("fence_lowered", far, json!({"confirm": "true"}));
    assert_eq!(reason(&refused), "id_ahead", "{refused}");
    let fence = || fs::read_to_string(ledger.path().join("fence")).unwrap();
    assert_eq!(fence(), "20991231t000000z-0001\n");
    let older = "20261101t000000z-0001";
    assert!(changed(&ledger.task("fence_lowered", older, json!({"confirm": "true"}))));
    assert_eq!(fence(), format!("{FIRST}\n"));
}

#[test]
fn of_two_runs_in_one_second_the_later_one_gets_the_next_id() {
    let ledger = Ledger::new();
    let (first, second, moved) =
        ("20261121t084500z-ffff", "20261121t084500z-0001", "20261121t084501z-0001");
    let open = |id: &str, more: Value| ledger.task("open", id, more);
    assert_eq!(open(first, json!({"next_id": true}))["deploy_id"], first);
    assert!(!changed(&open(first, json!({"next_id": true}))), "the same run is open already");
    let held = open(second, json!({"next_id": true}));
    assert_eq!(reason(&held), "lease_held");
    ledger.task("closed", first, json!({"outcome": "done"}));
    assert_eq!(reason(&open(second, json!({}))), "superseded", "an id that was meant is kept");
    for check in [true, false] {
        let opened = open(second, json!({"next_id": true, "_ansible_check_mode": check}));
        assert!(changed(&opened));
        assert_eq!(opened["deploy_id"], moved);
        assert!(opened["warnings"][0].as_str().unwrap().contains(second), "{opened}");
    }
    assert_eq!(ledger.info()["holder"]["deploy_id"], moved);
}

#[test]
fn a_run_that_was_superseded_gets_no_next_id() {
    let ledger = Ledger::new();
    ledger.task("open", FIRST, json!({}));
    assert!(changed(&ledger.task("open", SECOND, json!({"take_over": FIRST}))));
    let late = ledger.task("open", FIRST, json!({"next_id": true, "take_over": SECOND}));
    assert_eq!(reason(&late), "superseded");
    // A fence that is itself wrong is followed by nobody.
    fs::write(ledger.path().join("fence"), "20991231t000000z-0001\n").unwrap();
    let refused = ledger.task("open", THIRD, json!({"next_id": true, "take_over": SECOND}));
    assert_eq!(reason(&refused), "superseded");
}

#[test]
fn a_rollback_that_only_the_load_balancers_know_of_locks_deploys() {
    let ledger = Ledger::new();
    let flip = |id: &str, color: &str| json!({"time": "2026-11-21T09:00:02Z", "color": color, "release": "abc", "deploy_id": id, "verdict": "good"});
    let flips = json!([flip(SECOND, "green"), flip(FIRST, "blue")]);
    // One that begins knows of none, and what is recorded is not recorded again.
    assert!(changed(&ledger.task("open", FIRST, json!({"flips": flips.clone()}))));
    ledger.task("closed", FIRST, json!({"outcome": "done", "color": "blue"}));

    let seen = ledger.ask("deploy_ledger_info", json!({"flips": flips.clone()}));
    assert_eq!(seen["current"]["deploy_id"], SECOND);
    assert_eq!((&seen["locked"]["deploy_id"], &seen["holder"]), (&json!(SECOND), &Value::Null));
    assert_eq!(ledger.info()["deploys"].as_array().unwrap().len(), 1, "who looks writes nothing");

    let refused = ledger.task("open", THIRD, json!({"flips": flips.clone()}));
    assert_eq!(reason(&refused), "locked");
    assert!(refused["msg"].as_str().unwrap().contains("history of the load balancers"));
    let opened = ledger.task("open", THIRD, json!({"flips": flips.clone(), "unlock": SECOND}));
    assert!(changed(&opened));
    assert_eq!(opened["plan"].as_array().unwrap().len(), 2, "{opened}");
    assert!(!changed(&ledger.task("open", THIRD, json!({"flips": flips, "unlock": SECOND}))));
    let info = ledger.info();
    let all: Vec<_> = info["deploys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["deploy_id"], &one["purpose"], &one["outcome"]))
        .collect();
    assert_eq!(all[1], (&json!(SECOND), &json!("rollback"), &json!("done")));
    assert_eq!((all.len(), all[0].0, all[0].2), (3, &json!(THIRD), &Value::Null));
    assert_eq!(info["damaged"], json!([]));
}
