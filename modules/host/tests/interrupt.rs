//! A signal in the middle of each kind of wait. One test, since the signal is noted for the whole
//! process.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use host::command::{Cause, Command};
use host::deadline::{Deadline, poll_until, sleep};
use host::interrupt::{self, Interrupted, Signal, note, shield};
use host::lock::Lock;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_signal_ends_every_wait_but_not_behind_a_shield() {
    let dir = tempfile::tempdir().unwrap();
    let touch = |name: &str| Command::new(Path::new("/bin/touch")).arg(dir.path().join(name));
    assert!(interrupt::check().is_ok());
    let began = Instant::now();
    let ready = dir.path().join("ready");
    let is_there = ready.clone();
    let signal = std::thread::spawn(move || {
        assert!(common::soon(|| is_there.exists()));
        note(Signal::SIGTERM);
        note(Signal::SIGINT);
    });
    let script = r#"trap 'echo cleaning up; exit 0' TERM; : > "$0"; while :; do sleep 0.02; done"#;
    let failed =
        Command::new(Path::new("/bin/sh")).args(["-c", script]).arg(&ready).run().unwrap_err();
    signal.join().unwrap();
    std::fs::remove_file(ready).unwrap();
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    assert_eq!(failed.cause, Cause::Interrupted { signal: Signal::SIGTERM, stuck: None });
    assert_eq!(
        (failed.reason(), failed.rc),
        ("interrupted", Some(0)),
        "it ended well, but because we asked it to"
    );
    assert!(
        failed.stdout.ends_with("cleaning up\n")
            && failed.to_string().contains("was stopped by SIGTERM"),
        "{failed:?}"
    );

    let shielded = shield();
    let inner = shield();
    touch("restored").run().unwrap();
    sleep(Duration::from_millis(20)).unwrap();
    drop(inner);
    assert!(interrupt::pending().is_none() && interrupt::noted() == Some(Signal::SIGTERM));
    let holder = Lock::acquire(&dir.path().join("lock"), "holder", None, LONG).unwrap();
    drop(shielded);

    let began = Instant::now();
    let is_interrupted = |error: anyhow::Error| {
        assert_eq!(
            error.downcast_ref::<Interrupted>(),
            Some(&Interrupted { signal: Signal::SIGTERM })
        );
        assert_eq!(host::reason(&error.context("more")), Some("interrupted"));
    };
    is_interrupted(Lock::acquire(holder.path(), "waiter", None, LONG).unwrap_err());
    is_interrupted(
        poll_until(Deadline::after(LONG), LONG, "never", || Ok(None::<()>)).unwrap_err(),
    );
    is_interrupted(sleep(LONG).unwrap_err().into());
    assert_eq!(touch("never").run().unwrap_err().reason(), "interrupted");
    assert!(began.elapsed() < LONG);
    drop(holder);
    assert_eq!(common::names(dir.path()), ["lock", "restored"]);
}
