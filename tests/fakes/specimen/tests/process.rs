//! The process around a module: whatever happens to it, one JSON line comes out, without secrets.

// A test that cannot go on ends right there.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "hunter2-\"quoted\"";

fn start(arguments: &[u8]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_specimen"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(arguments).unwrap();
    child
}

fn finish(child: Child) -> (Value, Output) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
    assert!(output.stderr.is_empty(), "nothing on stderr: {output:?}");
    assert!(!text.contains("hunter2"), "a secret in {text}");
    (serde_json::from_str(&text).unwrap(), output)
}

fn run(options: Value) -> (Value, Output) {
    finish(start(options.to_string().as_bytes()))
}

fn failed(options: Value) -> (Value, Output) {
    let (result, output) = run(options);
    assert_eq!(result["failed"], true, "{result}");
    assert_eq!(output.status.code(), Some(1), "{result}");
    (result, output)
}

#[test]
fn every_kind_of_failure_is_one_line_without_secrets() {
    for (behave, reason, part) in [
        ("fail", "told_to", "told to fail, with Some(\"********\")"),
        ("panic", "panic", "told to panic"),
        ("child_fails", "command_failed", "rc 3"),
        ("child_hangs", "timed_out", "sh"),
    ] {
        let seconds = if behave == "child_hangs" { 0.3 } else { 20.0 };
        let options = json!({"behave": behave, "secret": SECRET, "seconds": seconds});
        let (result, _) = failed(options);
        assert_eq!(result["reason"], reason, "{result}");
        assert!(result["msg"].as_str().unwrap().contains(part), "{result}");
    }
}

#[test]
fn a_failed_command_leaves_its_evidence() {
    let (result, _) = failed(json!({"behave": "child_fails", "secret": SECRET, "seconds": 20}));
    assert_eq!(result["rc"], 3);
    assert_eq!(result["stdout"].as_str().unwrap().trim(), "out");
    assert_eq!(result["stderr"].as_str().unwrap().trim(), "******** err");
}

#[test]
fn secrets_are_hidden_in_sub_options_echoes_and_the_invocation() {
    let (result, _) = run(json!({
        "secret": SECRET, "text": format!("a {SECRET} inside"), "map": {"hunter2-\"quoted\"": 1},
        "login": {"user": "x", "password": "hunter2-also"}, "items": ["hunter2-also"],
        "warning": format!("careful with {SECRET}"), "_ansible_verbosity": 3,
    }));
    assert_eq!(result["echo"]["text"], "a ******** inside");
    assert_eq!(result["invocation"]["module_args"]["login"]["user"], "x");
}

#[test]
fn a_value_that_cannot_be_coerced_is_not_shown_when_it_is_secret() {
    let (result, _) = failed(json!({"login": "user=x password=hunter2 broken", "secret": SECRET}));
    assert_eq!(result["reason"], "bad_options");
}

#[test]
fn no_arguments_broken_arguments_and_unknown_names() {
    for bytes in [&b""[..], b"{", b"[]", b"\xff", b"{\"text\": \"\xff\"}"] {
        let (result, _) = finish(start(bytes));
        assert_eq!(result["reason"], "bad_arguments");
    }
    let (result, _) = failed(json!({"_ansible_module_name": "reversible.deploy.other"}));
    assert!(
        result["msg"]
            .as_str()
            .unwrap()
            .contains("has no module other, only specimen, specimen_info")
    );
    let output =
        Command::new(env!("CARGO_BIN_EXE_specimen")).arg("/no/such/file").output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("cannot read the arguments in /no/such/file")
    );
    let output = Command::new(env!("CARGO_BIN_EXE_specimen")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("is an Ansible module"));
}

#[test]
fn every_line_end_that_python_knows_is_escaped() {
    let text = "a\u{85}b\u{2028}c\u{2029}d\u{b}e\u{c}f\u{1c}g\u{1d}h\u{1e}i\r\nj";
    let (result, output) = run(json!({"text": text}));
    assert_eq!(result["echo"]["text"], text);
    let printed = String::from_utf8(output.stdout).unwrap();
    let line_ends =
        ['\u{85}', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\r'];
    assert!(!printed.contains(line_ends), "{printed:?}");
}

#[test]
fn huge_values_are_taken_and_sizeless_ones_refused() {
    let (result, _) = run(json!({"text": "x".repeat(20 << 20)}));
    assert_eq!(result["echo"]["text"].as_str().unwrap().len(), 20 << 20);
    let file = tempfile::NamedTempFile::new().unwrap();
    for (length, part) in [(65 << 20, "are over 64 MiB"), (0, "are empty")] {
        file.as_file().set_len(length).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_specimen")).arg(file.path()).output().unwrap();
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(result["msg"].as_str().unwrap().contains(part), "{result}");
    }
}

#[test]
fn the_environment_of_the_task_arrives_on_stdin() {
    let (result, _) = run(json!({"_ansible_reversible_environment": {"SPECIMEN_X": "from stdin"}}));
    assert_eq!(result["environment"]["SPECIMEN_X"], "from stdin");
}

/// Not by the program `kill`: a small machine may lack it.
fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

fn signalled(behave: &str, signal: Signal) -> (Value, Output, Duration) {
    let child = start(json!({"behave": behave, "seconds": 30}).to_string().as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    send(child.id(), signal);
    let (result, output) = finish(child);
    (result, output, began.elapsed())
}

#[test]
fn a_signal_ends_waits_and_children_and_is_reported() {
    for (behave, signal) in
        [("sleep", Signal::SIGTERM), ("sleep", Signal::SIGINT), ("child_hangs", Signal::SIGTERM)]
    {
        let (result, _, took) = signalled(behave, signal);
        assert_eq!(result["reason"], "interrupted", "{result}");
        assert!(result["msg"].as_str().unwrap().ends_with("what was begun"), "{result}");
        assert!(took < Duration::from_secs(20), "{behave}: {took:?}");
    }
}

#[test]
fn a_module_that_does_not_come_back_is_ended_and_says_so() {
    let (result, output, took) = signalled("stuck", Signal::SIGTERM);
    assert_eq!(result["reason"], "interrupted");
    assert!(result["msg"].as_str().unwrap().contains("run the same task again"), "{result}");
    assert_eq!(output.status.code(), Some(143));
    assert!((4..9).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_controller_that_goes_away_stops_nothing() {
    let child = start(json!({"behave": "sleep", "seconds": 1}).to_string().as_bytes());
    std::thread::sleep(Duration::from_millis(200));
    send(child.id(), Signal::SIGHUP);
    let (result, output) = finish(child);
    assert_eq!(result["changed"], false);
    assert!(output.status.success());
}

#[test]
fn a_flood_is_kept_small_and_a_grandchild_does_not_hold_us() {
    let began = Instant::now();
    let (result, _) = run(json!({"behave": "child_floods"}));
    assert!(result["kept"].as_u64().unwrap() < 32 << 20, "{result}");
    let (result, _) = run(json!({"behave": "child_leaves_grandchild"}));
    assert!(began.elapsed() < Duration::from_secs(30));
    let pid: String = result["grandchild"].as_str().unwrap().trim().to_owned();
    // It lives or not by the rules of `host::command`; a test leaves nothing behind.
    let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
}

/// The folder of one test, which a module accepts for its state.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var("HOME").unwrap()).unwrap()
}

fn replace(folder: &Path, content: &str, more: Value) -> Value {
    let mut options = json!({
        "behave": "replace", "file": folder.join("file"), "state_dir": folder.join("state"),
        "content": content, "seconds": 0,
    });
    for (key, value) in more.as_object().unwrap() {
        options[key] = value.clone();
    }
    options
}

fn content(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("file")).unwrap()
}

#[test]
fn check_mode_shows_the_plan_that_is_then_carried_out() {
    let at = folder();
    std::fs::write(at.path().join("file"), "old").unwrap();
    let check = json!({"_ansible_check_mode": true, "_ansible_diff": true});
    let (seen, _) = run(replace(at.path(), "new", check));
    assert_eq!(seen["changed"], true);
    assert_eq!(content(at.path()), "old");
    assert!(!at.path().join("state").exists(), "check mode leaves nothing behind");
    assert_eq!(seen["loss"], json!([{"what": "what the file holds", "accept": null, "bytes": 3}]));

    let (refused, _) = failed(replace(at.path(), "new", json!({})));
    assert_eq!(refused["reason"], "needs_consent");
    assert_eq!(refused["plan_id"], seen["plan_id"]);
    assert_eq!(content(at.path()), "old");

    let consent = json!({"confirm": seen["plan_id"], "_ansible_diff": true});
    let (done, _) = run(replace(at.path(), "new", consent.clone()));
    for key in ["plan", "plan_id", "loss", "undo", "before", "after", "diff"] {
        assert_eq!(done[key], seen[key], "{key}");
    }
    assert_eq!(content(at.path()), "new");
    assert_eq!(done["steps"].as_array().unwrap().len(), 2);

    let (again, _) = run(replace(at.path(), "new", json!({})));
    assert_eq!(again["changed"], false);
    assert_eq!(again["plan"], json!([]));
}

#[test]
fn a_plan_that_moved_is_refused() {
    let at = folder();
    std::fs::write(at.path().join("file"), "old").unwrap();
    let (seen, _) = run(replace(at.path(), "new", json!({"_ansible_check_mode": true})));
    std::fs::write(at.path().join("file"), "someone else's").unwrap();
    let (refused, _) = failed(replace(at.path(), "new", json!({"confirm": seen["plan_id"]})));
    assert_eq!(refused["reason"], "plan_moved");
    assert_eq!(content(at.path()), "someone else's");
}

#[test]
fn consent_is_for_just_what_it_names() {
    let at = folder();
    std::fs::write(at.path().join("file"), "precious").unwrap();
    for (options, reason) in [
        (json!({"confirm": "maybe"}), "bad_options"),
        (json!({"confirm": true}), "needs_consent"),
        (json!({"confirm": true, "accept": "other"}), "needs_consent"),
        (json!({"confirm": true, "accept": "precious", "max_loss": "8"}), "over_max_loss"),
    ] {
        let (refused, _) = failed(replace(at.path(), "new", options));
        assert_eq!(refused["reason"], reason, "{refused}");
        assert_eq!(content(at.path()), "precious");
    }
    let (done, _) = run(replace(at.path(), "new", json!({"confirm": true, "accept": "precious"})));
    assert_eq!(done["changed"], true);
}

#[test]
fn killed_between_two_steps_the_same_task_finishes() {
    let at = folder();
    std::fs::write(at.path().join("file"), "old").unwrap();
    let (seen, _) = run(replace(at.path(), "new", json!({"_ansible_check_mode": true})));
    let consent = json!({"confirm": seen["plan_id"], "seconds": 20});
    let mut child = start(replace(at.path(), "new", consent.clone()).to_string().as_bytes());
    let began = Instant::now();
    while !content(at.path()).is_empty() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(content(at.path()), "", "killed half way");

    // The state has moved, and so has the plan; what was agreed to holds for the rest of it.
    let (done, _) = run(replace(at.path(), "new", json!({"confirm": seen["plan_id"]})));
    assert_eq!(content(at.path()), "new");
    assert!(done["warnings"][0].as_str().unwrap().contains("was stopped half way"), "{done}");
    let (again, _) = run(replace(at.path(), "new", json!({})));
    assert_eq!(again["changed"], false);
    assert_eq!(again.get("warnings"), None, "nothing is left of the interrupted run");
}

#[test]
fn a_step_that_is_interrupted_tells_what_was_done() {
    let at = folder();
    std::fs::write(at.path().join("file"), "old").unwrap();
    let options = replace(at.path(), "new", json!({"confirm": true, "seconds": 30}));
    let child = start(options.to_string().as_bytes());
    let began = Instant::now();
    while !content(at.path()).is_empty() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    send(child.id(), Signal::SIGTERM);
    let (result, _) = finish(child);
    assert_eq!(result["reason"], "interrupted", "{result}");
    assert!(result["msg"].as_str().unwrap().starts_with("empty "), "{result}");
    assert_eq!(result["plan"].as_array().unwrap().len(), 2);
}

#[test]
fn a_rollback_that_was_done_is_not_done_again() {
    let at = folder();
    let id = "20261121t084500z-7f3a";
    std::fs::write(at.path().join("file"), "old").unwrap();
    let consent = json!({"confirm": true, "rollback_id": id});
    let (done, _) = run(replace(at.path(), "new", consent.clone()));
    assert_eq!(done["changed"], true);
    std::fs::write(at.path().join("file"), "written since").unwrap();
    let (again, _) = run(replace(at.path(), "new", consent));
    assert_eq!(again["changed"], false);
    assert_eq!(content(at.path()), "written since");

    // The same without an id of the run: the plan that was confirmed is done once too.
    let (seen, _) = run(replace(at.path(), "newer", json!({"_ansible_check_mode": true})));
    let consent = json!({"confirm": seen["plan_id"]});
    let (done, _) = run(replace(at.path(), "newer", consent.clone()));
    assert_eq!(done["changed"], true);
    std::fs::write(at.path().join("file"), "written again").unwrap();
    let (again, _) = run(replace(at.path(), "newer", consent));
    assert_eq!(again["changed"], false, "{again}");
    assert_eq!(content(at.path()), "written again");
}

#[test]
fn an_older_run_is_refused_by_the_fence() {
    let at = folder();
    let (_, newer) = ("", json!({"deploy_id": "20261121t090000z-0002"}));
    let (done, _) = run(replace(at.path(), "a", newer));
    assert_eq!(done["changed"], true);
    for check in [true, false] {
        let older = json!({"deploy_id": "20261121t085959z-ffff", "_ansible_check_mode": check, "confirm": true});
        let (refused, _) = failed(replace(at.path(), "b", older));
        assert_eq!(refused["reason"], "superseded", "{refused}");
        assert_eq!(content(at.path()), "a");
    }
}

#[test]
fn a_rollback_killed_after_it_was_recorded_leaves_no_intent_for_others() {
    let at = folder();
    let intent = at.path().join("state/intent.replace");
    std::fs::write(at.path().join("file"), "old").unwrap();
    let options = json!({"confirm": true, "rollback_id": "20261121t084500z-7f3a", "seconds": 0.3});
    let child = start(replace(at.path(), "new", options.clone()).to_string().as_bytes());
    let began = Instant::now();
    while !intent.exists() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = std::fs::read(&intent).unwrap();
    let (done, _) = finish(child);
    assert_eq!(done["changed"], true);
    // As if it had been killed between its two last writes.
    std::fs::write(&intent, begun).unwrap();
    std::fs::write(at.path().join("file"), "written since").unwrap();
    let (again, _) = run(replace(at.path(), "new", options));
    assert_eq!(again["changed"], false, "{again}");
    assert_eq!(content(at.path()), "written since");
    assert!(!intent.exists());
}
