//! Commands against the real kernel: what hangs, floods, forks away, and what must not be seen.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{alive, end, soon};
use host::command::{Cause, Command, Failed};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

fn sh(script: &str) -> Command {
    Command::new(Path::new("/bin/sh")).args(["-c", script, "sh"])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn pid_in(text: &str) -> i32 {
    text.lines().next().unwrap().trim().parse().unwrap()
}

#[test]
fn succeeds() {
    let output = sh("echo out; echo err >&2").run().unwrap();
    assert_eq!(
        (output.rc, output.text().unwrap(), output.stderr_shown().as_str()),
        (0, "out\n", "err\n")
    );
    assert!(output.took < ms(60_000) && output.truncated == 0);
    let value: serde_json::Value = sh(r#"echo '{"a": [1]}'"#).run().unwrap().json().unwrap();
    assert_eq!(value["a"][0], 1);
    let error = sh("echo nope").run().unwrap().json::<serde_json::Value>().unwrap_err();
    assert!(
        format!("{error:#}").contains(
            r#"cannot read what sh -c "echo nope" sh printed as JSON (it begins with "nope\n")"#
        ),
        "{error:#}"
    );
}

#[test]
fn fails() {
    let failed = sh("echo out; echo first >&2; echo 'the cause' >&2; exit 3").run().unwrap_err();
    assert_eq!(
        (failed.rc, failed.signal, &failed.cause, failed.reason()),
        (Some(3), None, &Cause::NonZero, "command_failed")
    );
    assert_eq!((failed.stdout.as_str(), failed.stderr.as_str()), ("out\n", "first\nthe cause\n"));
    assert!(failed.to_string().ends_with("failed (rc 3): the cause"), "{failed}");
    assert_eq!(sh("exit 3").accept(&[0, 3]).run().unwrap().rc, 3);
    assert_eq!(sh("exit 0").accept(&[3]).run().unwrap_err().rc, Some(0));
    let failed = sh("kill -KILL $$").run().unwrap_err();
    assert_eq!((failed.rc, failed.signal), (None, Some(9)));
    assert!(failed.to_string().ends_with("failed (killed by SIGKILL)"), "{failed}");
}

#[test]
fn cannot_be_started() {
    let failed = Command::new(Path::new("/no/such/program")).arg("x").run().unwrap_err();
    assert_eq!((&failed.cause, failed.reason()), (&Cause::NotFound, "program_missing"));
    assert_eq!(failed.to_string(), "cannot run program x: no such program, interpreter or folder");
    assert_eq!(sh("true").cwd("/no/such/folder").run().unwrap_err().cause, Cause::NotFound);
    let failed = Command::new(Path::new("/etc/passwd")).run().unwrap_err();
    assert!(
        matches!(&failed.cause, Cause::Io(error) if error.contains("Permission denied")),
        "{failed}"
    );
    assert!(matches!(
        Command::new(Path::new("/bin/true")).arg("a\0b").run().unwrap_err().cause,
        Cause::Io(_)
    ));
}

#[test]
fn hanging_child_is_ended_at_the_deadline() {
    let began = Instant::now();
    let failed =
        sh("echo $$; echo working >&2; exec sleep 1000").deadline(ms(3000)).run().unwrap_err();
    assert!(began.elapsed() < ms(60_000), "{:?}", began.elapsed());
    assert_eq!(
        (&failed.cause, failed.signal),
        (&Cause::TimedOut { after: ms(3000), stuck: None }, Some(15))
    );
    assert!(
        failed.to_string().ends_with("was stopped: it was not done after 3 s: working"),
        "{failed}"
    );
    assert!(!alive(pid_in(&failed.stdout)));
}

#[test]
fn a_child_that_ignores_sigterm_is_killed_with_its_group() {
    let began = Instant::now();
    let failed = sh("trap '' TERM; sleep 1000 & echo $!; wait; wait")
        .deadline(ms(3000))
        .grace(ms(300))
        .run()
        .unwrap_err();
    assert!(began.elapsed() >= ms(3300), "{:?}", began.elapsed());
    assert_eq!(failed.reason(), "timed_out");
    assert!(soon(|| !alive(pid_in(&failed.stdout))), "the child's child lives");
}

#[test]
fn the_group_gets_its_grace_though_the_leader_is_gone() {
    // The leader dies of SIGTERM at once; the other needs a moment to clean up, and gets it.
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = "(trap 'sleep 0.3; echo clean > \"$1\"; exit' TERM; while :; do sleep 0.05; done) & exec sleep 1000";
    let failed =
        sh(script).arg(file.path()).deadline(ms(3000)).grace(ms(60_000)).run().unwrap_err();
    assert_eq!(failed.reason(), "timed_out");
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "clean\n");
}

#[test]
fn a_stopped_child_is_ended_too() {
    let failed = sh("echo $$; kill -STOP $$").deadline(ms(3000)).grace(ms(100)).run().unwrap_err();
    assert_eq!(failed.signal, Some(9));
    assert!(!alive(pid_in(&failed.stdout)));
}

#[test]
fn a_gigabyte_of_output_takes_no_memory() {
    let output = sh("echo begin; head -c 1073741824 /dev/zero; echo end")
        .output_limit(1 << 20)
        .run()
        .unwrap();
    assert!(output.stdout.starts_with(b"begin\n\0") && output.stdout.ends_with(b"\0end\n"));
    assert_eq!(output.truncated, (1 << 30) + 10 - (1 << 20));
    assert!(output.stdout.len() < (1 << 20) + 100);
    let error = output.text().unwrap_err().to_string();
    assert!(error.contains("it is too long (1072693258 bytes were cut)"), "{error}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 64 << 10, "{kib} KiB");
}

#[test]
fn an_endless_flood_ends_at_the_deadline() {
    let failed = sh("exec yes").deadline(ms(1000)).output_limit(1000).run().unwrap_err();
    assert!(
        failed.reason() == "timed_out"
            && failed.stdout.len() < 1100
            && failed.stdout.contains(" bytes cut ...]")
    );
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hold_us() {
    for (name, script) in [
        ("silent", "sleep 600 & echo $!"),
        ("other session", "setsid sleep 600 & echo $!"),
        ("flooding", "yes >&2 & echo $!"),
    ] {
        let began = Instant::now();
        let output = sh(script).run().unwrap();
        assert!(began.elapsed() < ms(60_000), "{name}: {:?}", began.elapsed());
        end(pid_in(&String::from_utf8_lossy(&output.stdout)));
    }
}

#[test]
fn a_grandchild_in_another_session_does_not_hold_the_deadline() {
    let began = Instant::now();
    let failed =
        sh("setsid sleep 600 & echo $!; exec sleep 600").deadline(ms(3000)).run().unwrap_err();
    assert!(began.elapsed() < ms(60_000), "{:?}", began.elapsed());
    let pid = pid_in(&failed.stdout);
    assert!(alive(pid), "what has left the group on purpose is not ours to kill");
    end(pid);
}

#[test]
fn a_child_that_closes_its_output_is_still_waited_for() {
    let output = sh("exec >&- 2>&-; sleep 0.3; exit 7").accept(&[7]).run().unwrap();
    assert!(output.took >= ms(300));
}

#[test]
fn binary_output_comes_through() {
    let output = sh(r"printf '\000\001\377\376\200'; printf '\377' >&2").run().unwrap();
    assert_eq!(output.stdout, [0, 1, 255, 254, 128]);
    assert!(output.text().unwrap_err().to_string().contains("invalid utf-8"));
    assert_eq!(output.stderr_shown(), "\u{fffd}");
    let failed = sh(r"printf '\377' >&2; exit 1").run().unwrap_err();
    assert_eq!(failed.stderr, "\u{fffd}");
}

#[test]
fn input_larger_than_a_pipe() {
    let input: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let cat = Command::new(Path::new("/bin/cat")).stdin(input.clone()).output_limit(20 << 20);
    assert!(cat.run().unwrap().stdout == input);
    assert!(cat.run().unwrap().stdout == input, "a command is a value: it can be run again");
    Command::new(Path::new("/bin/true")).stdin(input.clone()).run().unwrap();
    assert_eq!(
        sh("head -c 3; exec sleep 0.2").stdin(input.clone()).run().unwrap().stdout,
        [0, 1, 2]
    );
    assert_eq!(
        sh("exec sleep 60").stdin(input).deadline(ms(100)).run().unwrap_err().reason(),
        "timed_out"
    );
    assert_eq!(sh("cat; echo end").run().unwrap().stdout, b"end\n", "no input is an end of file");
    assert_eq!(sh("cat; echo end").stdin("").run().unwrap().stdout, b"end\n");
}

#[test]
fn files_as_input_and_output() {
    let mut from = tempfile::tempfile().unwrap();
    from.write_all(b"through").unwrap();
    from.rewind().unwrap();
    let to = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(Path::new("/bin/cat"))
        .stdin_from(from)
        .stdout_to(to.reopen().unwrap())
        .run()
        .unwrap();
    assert!(output.stdout.is_empty());
    assert_eq!(std::fs::read(to.path()).unwrap(), b"through");
}

#[test]
fn the_environment_is_what_is_said() {
    let names = |command: Command| {
        let output = command.run().unwrap();
        let mut names: Vec<String> = output
            .text()
            .unwrap()
            .lines()
            .map(|line| line.split('=').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let env = || Command::new(Path::new("/usr/bin/env"));
    let mut expected = vec!["LANGUAGE", "LC_ALL", "PATH"];
    expected.extend(["HOME", "TZ"].iter().filter(|name| std::env::var_os(name).is_some()));
    expected.sort();
    assert_eq!(names(env()), expected);
    assert_eq!(
        names(env().inherit_env(&["CARGO_MANIFEST_DIR", "NO_SUCH_VARIABLE"])).len(),
        expected.len() + 1
    );
    let output = env().env("LC_ALL", "C.UTF-8").env("X", "a b\nc").cwd("/usr").run().unwrap();
    let text = output.text().unwrap();
    assert!(
        text.contains("LC_ALL=C.UTF-8\n")
            && text.contains("X=a b\nc\n")
            && text.contains("/usr/sbin"),
        "{text}"
    );
    assert!(!text.contains("LC_ALL=C\n"));
    assert_eq!(sh("pwd").cwd("/usr").run().unwrap().text().unwrap(), "/usr\n");
}

#[test]
fn a_secret_is_never_shown() {
    let script = r#"echo "$1 $PASSWORD $(cat)"; echo "could not log in as root:$1:$PASSWORD" >&2; exit "$2""#;
    let command = |rc: &str| {
        sh(script)
            .args(["hunter2", rc])
            .secret("hunter2")
            .secret_env("PASSWORD", "hunter2000")
            .stdin("hunter3\n")
            .secret("hunter3\n")
    };
    let failed = command("1").run().unwrap_err();
    for text in [
        format!("{failed}"),
        format!("{failed:?}"),
        format!("{:?}", anyhow::Error::from(failed.clone())),
        format!("{:?}", command("0")),
    ] {
        assert!(!text.contains("hunter"), "{text}");
    }
    assert!(failed.to_string().ends_with("could not log in as root:********:********"), "{failed}");
    assert_eq!(failed.cmd[4], "********");
    let output = command("0").run().unwrap();
    assert_eq!(
        output.text().unwrap(),
        "hunter2 hunter2000 hunter3\n",
        "a parser gets what was written"
    );
    assert!(!format!("{output:?}").contains("hunter"));
    assert_eq!(output.stdout_shown(), "******** ******** ********\n");
    let error = output.json::<u8>().unwrap_err();
    assert!(!format!("{error:#}").contains("hunter"), "{error:#}");
}

#[test]
fn signals_and_descriptors_are_clean() {
    let mut blocked = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGCHLD]
        .iter()
        .for_each(|signal| blocked.add(*signal));
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
    let output = Command::new(Path::new("/bin/cat")).arg("/proc/self/status").run().unwrap();
    let mask = |name: &str| {
        let line = output.text().unwrap().lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    assert_eq!(mask("SigIgn:") & 1 << (Signal::SIGPIPE as i32 - 1), 0);
    // What we have open stays with us; what was inherited by us without the close-on-exec flag is
    // not our business.
    let kept_open = std::fs::File::open("/etc/passwd").unwrap();
    let listing = Command::new(Path::new("/bin/ls")).arg("-l").arg("/proc/self/fd").run().unwrap();
    assert!(!listing.text().unwrap().contains("/etc/passwd"), "{listing:?}");
    drop(kept_open);
}

#[test]
fn a_child_leads_its_own_session_without_a_terminal() {
    let output = sh("cut -d' ' -f1,5,6,7 /proc/self/stat; echo $$; cat /dev/tty 2>&1")
        .accept(&[1])
        .run()
        .unwrap();
    let text = output.text().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let stat: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!((stat[1], stat[2], stat[3]), (lines[1], lines[1], "0"), "{text}");
    assert!(lines[2].contains("No such device"), "{text}");
}

#[test]
fn output_of_many_small_writes_on_both_pipes() {
    let mut script = String::new();
    tempfile::tempfile().unwrap().read_to_string(&mut script).unwrap();
    let output =
        sh("i=0; while [ $i -lt 3000 ]; do echo $i; echo $i >&2; i=$((i+1)); done").run().unwrap();
    let expected: String = (0..3000).map(|n| format!("{n}\n")).collect();
    assert!(output.text().unwrap() == expected && output.stderr_shown() == expected);
}

#[test]
fn no_zombies_and_no_descriptors_are_left() {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    sh("true").run().unwrap();
    let before = count("/proc/self/fd");
    for _ in 0..20 {
        sh("true").stdin("x").run().unwrap();
        let failed: Failed = sh("exec sleep 9").deadline(ms(1)).run().unwrap_err();
        assert_eq!(failed.reason(), "timed_out");
    }
    // Other tests may run in this process too: some slack.
    assert!(count("/proc/self/fd") <= before + 15);
}

/// PATH is the whole process's, so the test runs itself again with another one.
#[test]
fn root_hands_on_no_folder_that_another_user_could_change() {
    const PLAY: &str = "HOST_TEST_FOLDERS";
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::var_os(PLAY).is_some() {
        let output = Command::new(Path::new("/usr/bin/env")).run().unwrap();
        print!("{}", output.text().unwrap());
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| temp.path().join(name));
    std::fs::create_dir(&ours).unwrap();
    std::fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(4301), None).unwrap();
    let mut folders = vec![theirs.clone(), ours.clone()];
    folders.extend(std::env::split_paths(&path));
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "root_hands_on_no_folder_that_another_user_could_change", "--nocapture"])
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env(PLAY, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&again.stdout);
    let begin = format!("PATH={}:", ours.display());
    assert!(again.status.success() && text.lines().any(|it| it.starts_with(&begin)), "{text}");
    assert!(!text.contains(&*theirs.to_string_lossy()), "{text}");
}

#[test]
fn as_another_account() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let account = host::account::Account {
        uid: 4301,
        gid: 4302,
        groups: vec![4303],
        home: Some("/somewhere".into()),
    };
    let says = "id -u; id -G; echo $HOME";
    let done =
        Command::new(Path::new("/bin/sh")).args(["-c", says]).run_as(&account).run().unwrap();
    assert_eq!(done.text().unwrap(), "4301\n4302 4303\n/somewhere\n");
}

#[test]
fn goes_on_without_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    for (outlives, ends) in [(false, false), (true, true)] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let mark = folder.path().join(outlives.to_string());
        let command = sh("echo out; touch \"$1\"").arg(&mark).stdout_to(writer.into());
        let command = if outlives { command.outlives_reader() } else { command };
        let _ = command.run();
        assert_eq!(mark.exists(), ends);
    }
}
