//! The faults themselves, locks, kills, workers, time; and that every call is written down.

// A test that cannot go on ends right there.

use crate::common::{Node, told, until};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn every_call_is_written_down_and_counted() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.run("pct snapshot 301");
    node.json("/storage");
    let calls = node.calls();
    let argv: Vec<_> = calls.iter().map(|call| call["argv"].clone()).collect();
    assert_eq!(argv[..2], [json!(["snapshot", "301", "s1"]), json!(["snapshot", "301"])]);
    assert_eq!(calls[2]["program"], "pvesh");
    assert_eq!(calls.len(), 3, "a worker is no call");
    assert!(calls.iter().all(|call| call["caller"] == std::process::id()));
    assert_eq!(node.world()["counts"]["pct snapshot"], 2);
}

#[test]
fn a_fault_fires_in_the_calls_it_names_and_in_no_other() {
    let node = Node::new();
    let text = |what: &str| json!({"text": what, "rc": 5});
    node.faults(json!([
        {"command": "pct status", "nth": 2, "fail": text("second")},
        {"command": "pct status", "args": "--nothing", "fail": text("never")},
        {"command": "pct sta", "fail": text("no command is called so")},
    ]));
    let all: Vec<_> = (0..3).map(|_| node.run("pct status 301")).collect();
    all[1].is(5, "", "second\n");
    assert_eq!([all[0].rc, all[2].rc], [Some(0), Some(0)]);
}

#[test]
fn slow_and_hanging_calls_take_their_time_and_end_when_asked_to() {
    let node = Node::new();
    node.faults(json!([
        {"command": "pct status", "slow_ms": 300},
        {"command": "pct snapshot", "at": "volume:2", "hang": true},
    ]));
    let begun = Instant::now();
    node.run("pct status 301");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    let mut child = node.command("pct snapshot 301 s1").spawn().unwrap();
    until("it holds its lock", || node.lock() == "snapshot");
    assert!(child.try_wait().unwrap().is_none());
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    told(child).is(255, "snapshot create failed: starting cleanup\n", "received interrupt \n");
    assert_eq!((node.ct()["snapshots"].clone(), node.lock()), (json!({}), Value::Null));
}

#[test]
fn a_worker_outlives_a_killed_command_and_is_an_active_task() {
    let node = Node::new();
    node.faults(json!([{"command": "pct snapshot", "at": "volume:2", "slow_ms": 700}]));
    let mut child = node.command("pct snapshot 301 s1").spawn().unwrap();
    until("it holds its lock", || node.lock() == "snapshot");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let active = node.json("/nodes/pve1/tasks --source active --vmid 301");
    assert_eq!(active[0]["type"], "vzsnapshot");
    assert_eq!(active[0]["endtime"], Value::Null);
    until("the worker is done", || node.lock() == Value::Null);
    assert_eq!(node.ct()["config"]["parent"], "s1");
    until("its task has ended", || node.json("/nodes/pve1/tasks --vmid 301")[0]["status"] == "OK");
    assert_eq!(node.json("/nodes/pve1/tasks --source active"), json!([]));
}

#[test]
fn a_worker_that_hangs_ends_with_its_world() {
    let node = Node::new();
    node.faults(json!([{"command": "pct snapshot", "at": "volume:1", "hang": true}]));
    let mut child = node.command("pct snapshot 301 s1").spawn().unwrap();
    until("it holds its lock", || node.lock() == "snapshot");
    child.kill().unwrap();
    child.wait().unwrap();
    let worker = node.json("/nodes/pve1/tasks --source active")[0]["pid"].clone();
    drop(node);
    until("the worker ends", || {
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn a_worker_that_dies_leaves_its_lock_and_a_task_without_an_end() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.write_data("new");
    node.faults(json!([{"command": "pct rollback", "at": "volume:2", "kill_self": true}]));
    node.run("pct rollback 301 s1").is(255, "", "got unexpected control message:  \n");
    assert_eq!(
        (node.lock(), node.contents()),
        (json!("rollback"), vec![json!("system"), json!("new")])
    );
    let tasks = node.json("/nodes/pve1/tasks --vmid 301");
    assert_eq!(
        (&tasks[0]["type"], &tasks[0]["status"]),
        (&json!("vzrollback"), &json!("unexpected status"))
    );
}

#[test]
fn the_caller_is_killed_before_or_after_an_effect() {
    for (at, parent) in [("begin", Value::Null), ("committed", json!("s1"))] {
        let node = Node::new();
        node.faults(json!([
            {"command": "pct snapshot", "at": at, "kill_caller": true, "fail": {"text": "gone"}},
        ]));
        let pct = node.home().join("bin/pct");
        // A shell stands for the module, and must not become the command itself.
        let script = format!("{} snapshot 301 s1; echo survived", pct.display());
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert_eq!((output.status.signal(), output.stdout), (Some(9), Vec::new()), "{at}");
        assert_eq!(node.ct()["config"]["parent"], parent, "{at}");
    }
}

#[test]
fn what_happens_by_itself_takes_its_time() {
    let lock = |value: Value| json!({"containers": {"301": {"config": {"lock": value}}}});
    let node = Node::with(lock(json!("backup")));
    node.patch(json!({"events": [{"after_ms": 300, "patch": lock(Value::Null)}]}));
    let begun = Instant::now();
    node.run("pct snapshot 301 s3").died("CT is locked (backup)");
    until("the lock goes", || node.lock() == Value::Null);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    node.ok("pct snapshot 301 s3");
}

#[test]
fn quorum_is_lost_from_a_given_moment_on() {
    let node = Node::with(json!({"cluster": "home", "nodes": ["pve2", "pve3"]}));
    node.ok("pct snapshot 301 s1");
    node.write_data("new");
    node.faults(json!([
        {"command": "pct rollback", "at": "volumes", "patch": {"quorate": false}},
    ]));
    let told = node.run("pct rollback 301 s1");
    assert!(told.err.ends_with("Permission denied\n"), "{}", told.err);
    // The data is back, the configuration and the lock are not.
    assert_eq!(
        (node.lock(), node.contents()),
        (json!("rollback"), vec![json!("system"), json!("data")])
    );
    assert_eq!(node.json("/cluster/status")[0]["quorate"], 0);
}

#[test]
fn two_at_once_exclude_each_other_and_lose_nothing() {
    let node = Node::new();
    node.faults(json!([{"command": "pct snapshot", "at": "volume:1", "slow_ms": 60}]));
    let children: Vec<_> =
        (0..8).map(|n| node.command(&format!("pct snapshot 301 s{n}x")).spawn().unwrap()).collect();
    let ends: Vec<_> = children.into_iter().map(told).collect();
    let (won, lost): (Vec<_>, Vec<_>) = ends.iter().partition(|end| end.rc == Some(0));
    assert!(!won.is_empty());
    for end in lost {
        assert_eq!((end.rc, end.err.as_str()), (Some(255), "CT is locked (snapshot)\n"));
    }
    let ct = node.ct();
    assert_eq!(ct["snapshots"].as_object().unwrap().len(), won.len());
    assert_eq!(node.lock(), Value::Null);
    assert_eq!(node.calls().len(), 8);
}

#[test]
fn a_shutdown_holds_the_lock_file_for_as_long_as_it_takes() {
    let node = Node::with(json!({"containers": {"301": {"guest": {"shutdown_ms": 1500}}}}));
    let child = node.command("pct shutdown 301 --timeout 60").spawn().unwrap();
    until("it has begun", || node.world()["tasks"].as_array().unwrap().len() == 1);
    std::thread::sleep(Duration::from_millis(200));
    node.run("pct snapshot 301 s1").is(0, "trying to acquire lock...\n OK\n", "");
    told(child).is(0, "", "");
    assert_eq!(node.ct()["running"], false);
}

#[test]
fn the_clock_is_the_worlds() {
    let node = Node::with(json!({"clock": 1_700_000_000, "clock_offset": -60}));
    node.ok("pct snapshot 301 s1");
    assert_eq!(node.ct()["snapshots"]["s1"]["snaptime"], 1_699_999_940);
}

#[test]
fn a_container_boots_and_its_commands_answer_from_the_table() {
    let node = Node::with(json!({"containers": {"301": {"running": false, "guest": {
        "attach_ms": 300, "boot_ms": 1200, "systemd": "degraded", "journal": ["one", "two"],
        "exec": [
            {"argv": ["curl", "-f", "http://localhost/"], "stdout": "ok\n"},
            {"argv": ["sh", "-c", "exit 3"], "rc": 3, "stderr": "no\n"},
        ],
    }}}}));
    let run = |words: &[&str]| node.run_words("pct", &[&["exec", "301", "--"], words].concat());
    let state = || run(&["systemctl", "is-system-running"]);
    node.ok("pct start 301");
    assert_eq!(state().rc, Some(255), "nothing can be run inside yet");
    until("it lets us in", || state().rc == Some(1));
    state().is(1, "starting\n", "");
    until("it has booted", || state().text() == "degraded\n");
    state().is(1, "degraded\n", "");
    run(&["curl", "-f", "http://localhost/"]).is(0, "ok\n", "");
    run(&["sh", "-c", "exit 3"]).is(3, "", "no\n");
    assert_eq!(run(&["nothing"]).rc, Some(127));
    run(&["journalctl", "-n", "1", "--no-pager"]).is(0, "two\n", "");
    node.patch(json!({"containers": {"301": {"guest": {"systemd": ""}}}}));
    assert_eq!(state().rc, Some(127), "no systemd, no systemctl");
}

#[test]
fn a_container_may_start_and_die() {
    let node = Node::with(json!({"containers": {"301": {
        "running": false, "guest": {"dies_after_ms": 100},
    }}}));
    node.ok("pct start 301");
    until("it dies", || node.run("pct status 301").text() == "status: stopped\n");
}
