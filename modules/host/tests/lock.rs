//! Locks and fences between real processes, some of which are killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Player, Tmpfs, alive, end, my_part, soon};
use host::clock::{self, Utc};
use host::command::{Command, IfWeDie};
use host::deploy_id::DeployId;
use host::fence::{Fence, Superseded};
use host::lock::{By, Held, Lock};

const LONG: Duration = Duration::from_secs(120);

fn id(n: usize) -> DeployId {
    DeployId::parse(&format!("20261121t08{:02}{:02}z-7f3a", n / 60, n % 60)).unwrap()
}

#[test]
fn part() {
    let Some((part, what, dir)) = my_part() else { return };
    let path = dir.join("lock");
    match part.as_str() {
        "hold" => {
            let _lock = Lock::acquire(&path, &what, Some(&id(0)), LONG).unwrap();
            println!("held");
            std::thread::sleep(LONG);
        }
        "count" => {
            for _ in 0..40 {
                let _lock = Lock::acquire(&path, "count", None, LONG).unwrap();
                let file = dir.join("count");
                let n: u32 = fs::read_to_string(&file).unwrap().parse().unwrap();
                fs::write(file, (n + 1).to_string()).unwrap();
            }
        }
        "command" => {
            let _lock = Lock::acquire(&path, "command", None, LONG).unwrap();
            let choice = if what == "goes on" { IfWeDie::GoesOn } else { IfWeDie::DiesToo };
            let script = format!("echo $$ > '{}'; exec sleep 1000", dir.join("pid").display());
            let _ = Command::new(Path::new("/bin/sh"))
                .args(["-c", &script])
                .deadline(LONG)
                .if_we_die(choice)
                .run();
        }
        "fence" => {
            let mine: usize = what.parse().unwrap();
            for n in 0..30 {
                let n = (n * 7 + mine * 11) % 60;
                let before = Fence::read(&dir).unwrap();
                match Fence::check_and_raise(&dir, &id(n)) {
                    Ok(()) => assert!(before.is_none_or(|before| before <= id(n))),
                    Err(error) => assert!(error.downcast_ref::<Superseded>().unwrap().by > id(n)),
                }
                assert!(Fence::read(&dir).unwrap() >= Some(id(n)));
            }
        }
        _ => unreachable!(),
    }
}

#[test]
fn says_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let mut holder = Player::new("part", "hold", "haproxy_color_switch", dir.path());
    holder.says("held");
    let began = Instant::now();
    let error = Lock::acquire(&path, "us", None, Duration::from_millis(300)).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(300));
    let text = error.to_string();
    let start = format!(
        "cannot lock {}: held by pid {} (haproxy_color_switch, deploy 20261121t080000z-7f3a, since 20",
        path.display(),
        holder.child.id()
    );
    assert!(
        text.starts_with(&start)
            && text.ends_with("; waited 0.3 s; wait for it to end, or end it, then try again"),
        "{text}"
    );
    assert_eq!(host::reason(&error.context("x")), Some("lock_held"));
    holder.kill_9();
    assert!(!fs::read_to_string(&path).unwrap().is_empty(), "its name is still there: stale");
    let lock = Lock::acquire(&path, "us", None, Duration::ZERO).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains(r#""what":"us""#));
    drop(lock);
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn whatever_stands_in_the_file_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let gone = format!(
        "{{\"pid\":1}}\nchild {}",
        stat.replacen(&format!("{} ", std::process::id()), "4194000 ", 1)
    );
    for content in [
        "",
        "garbage",
        "{}\n",
        "\0\u{ff}\n\n",
        "{\"pid\":1,\"what\":\"x\"}\nchild 1 (init) S 0\nchild\n",
        &gone,
    ] {
        fs::write(&path, content).unwrap();
        let lock = Lock::acquire(&path, "us", None, Duration::ZERO).unwrap();
        let error = Lock::acquire(&path, "again", None, Duration::ZERO).unwrap_err();
        assert!(
            matches!(&error.downcast_ref::<Held>().unwrap().by, By::Holder(Some(holder)) if holder.what == "us")
        );
        drop(lock);
    }
    fs::write(&path, "torn").unwrap();
    let file = fs::File::open(&path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = Lock::acquire(&path, "us", None, Duration::ZERO).unwrap_err();
    assert!(
        error.to_string().contains("held by another process, which has not written who it is"),
        "{error}"
    );
    drop(file);
}

#[test]
fn a_lock_file_that_was_deleted_or_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let first = Lock::acquire(&path, "first", None, Duration::ZERO).unwrap();
    fs::remove_file(&path).unwrap();
    let second = Lock::acquire(&path, "second", None, Duration::ZERO).unwrap();
    drop(first);
    assert!(Lock::acquire(&path, "third", None, Duration::ZERO).is_err());
    drop(second);
    std::os::unix::fs::symlink("lock", dir.path().join("link")).unwrap();
    assert!(Lock::acquire(&dir.path().join("link"), "x", None, Duration::ZERO).is_err());
    assert!(Lock::acquire(dir.path(), "x", None, Duration::ZERO).is_err());
    let error = format!(
        "{:#}",
        Lock::acquire(&dir.path().join("no/lock"), "x", None, Duration::ZERO).unwrap_err()
    );
    assert!(
        error.starts_with("cannot open the lock file ") && error.contains("No such file"),
        "{error}"
    );
}

#[test]
fn one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("count"), "0").unwrap();
    let players: Vec<_> = (0..5).map(|_| Player::new("part", "count", "", dir.path())).collect();
    players.into_iter().for_each(Player::ends_well);
    assert_eq!(fs::read_to_string(dir.path().join("count")).unwrap(), "200");
}

#[test]
fn a_command_of_a_dead_holder_keeps_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let child = || fs::read_to_string(dir.path().join("pid")).ok()?.trim().parse::<i32>().ok();
    let mut player = Player::new("part", "command", "goes on", dir.path());
    assert!(soon(|| child().is_some()));
    player.kill_9();
    let pid = child().unwrap();
    let error = Lock::acquire(&path, "us", None, Duration::from_millis(100)).unwrap_err();
    assert!(
        error.to_string().contains(&format!("one of its commands still runs: pid {pid} (sleep)")),
        "{error}"
    );
    // It is still found when somebody has tried and given up; and when it ends, the lock can be
    // had.
    assert!(Lock::acquire(&path, "us", None, Duration::ZERO).is_err());
    let ender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        end(pid);
    });
    drop(Lock::acquire(&path, "us", None, LONG).unwrap());
    ender.join().unwrap();

    fs::remove_file(dir.path().join("pid")).unwrap();
    let mut player = Player::new("part", "command", "dies too", dir.path());
    assert!(soon(|| child().is_some()));
    player.kill_9();
    assert!(soon(|| !alive(child().unwrap())));
    drop(Lock::acquire(&path, "us", None, Duration::ZERO).unwrap());
}

#[test]
fn a_command_is_noted_only_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = Lock::acquire(&path, "us", None, Duration::ZERO).unwrap();
    let during = Command::new(Path::new("/bin/cat")).arg(&path).run().unwrap();
    let text = during.text().unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with("child "));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    let _ =
        Command::new(Path::new("/bin/sleep")).arg("9").deadline(Duration::from_millis(50)).run();
    let _ = Command::new(Path::new("/no/such/program")).run();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    drop(lock);
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn a_full_disk_refuses_neither_the_lock_nor_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let small = Tmpfs::new(&dir.path().join("small"), "size=16k,mode=0755");
    let path = small.0.join("lock");
    drop(Lock::acquire(&path, "first", None, LONG).unwrap());
    let filler = small.0.join("filler");
    let full = fs::write(&filler, vec![0; 64 << 10]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let lock = Lock::acquire(&path, "second", Some(&id(1)), LONG).unwrap();
    let held = Lock::acquire(&path, "third", None, Duration::ZERO).unwrap_err();
    assert_eq!(held.downcast_ref::<Held>().unwrap().by, By::Holder(None));
    assert!(held.to_string().contains("has not written who it is"), "{held}");
    Command::new(Path::new("/bin/true")).run().unwrap();
    fs::remove_file(&filler).unwrap();
    let part = Command::new(Path::new("/bin/cat")).arg(&path).run().unwrap();
    assert!(String::from_utf8_lossy(&part.stdout).starts_with("child "), "noted again: {part:?}");
    drop(lock);
    let _lock = Lock::acquire(&path, "fourth", None, LONG).unwrap();
    assert!(fs::read_to_string(&path).unwrap().contains("fourth"));
}

#[test]
fn the_fence_only_grows() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Fence::read(dir.path()).unwrap(), None);
    Fence::check(dir.path(), &id(5)).unwrap();
    assert_eq!(Fence::read(dir.path()).unwrap(), None, "looking changes nothing");
    Fence::check_and_raise(dir.path(), &id(5)).unwrap();
    Fence::check_and_raise(dir.path(), &id(5)).unwrap();
    for refuse in [Fence::check, Fence::check_and_raise] {
        let error = refuse(dir.path(), &id(4)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("deploy 20261121t080004z-7f3a was superseded by 20261121t080005z-7f3a (begun 2026-11-21T08:00:05Z"), "{text}");
        assert_eq!(host::reason(&error), Some("superseded"));
    }
    Fence::check_and_raise(dir.path(), &id(6)).unwrap();
    assert_eq!(Fence::read(dir.path()).unwrap(), Some(id(6)));
    assert!(Fence::read(&dir.path().join("no-such-folder")).is_err());
    assert!(Fence::check_and_raise(&dir.path().join("no-such-folder"), &id(7)).is_err());
}

/// An id of that many seconds from now.
fn from_now(seconds: i64) -> DeployId {
    let at = Utc::from_unix(clock::now().unix() + seconds).unwrap();
    DeployId::parse(&format!("{}-7f3a", at.compact())).unwrap()
}

#[test]
fn an_id_of_more_than_a_day_ahead_is_refused_and_leaves_no_fence() {
    let dir = tempfile::tempdir().unwrap();
    let (near, far) = (from_now(86_400 - 600), from_now(86_400 + 600));
    for fence in [None, Some(near)] {
        if let Some(near) = &fence {
            Fence::check_and_raise(dir.path(), near).unwrap();
        }
        for refuse in [Fence::check, Fence::check_and_raise] {
            let error = refuse(dir.path(), &far).unwrap_err();
            assert_eq!(host::reason(&error), Some("id_ahead"), "{error}");
            let text = error.to_string();
            assert!(text.contains("more than a day ahead of this machine's clock"), "{text}");
        }
        assert_eq!(Fence::read(dir.path()).unwrap(), fence);
    }
}

#[test]
fn a_clock_behind_its_own_fence_judges_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let fence = from_now(10 * 86_400);
    fs::write(dir.path().join("fence"), format!("{fence}\n")).unwrap();
    let error = Fence::check(dir.path(), &id(1)).unwrap_err();
    assert_eq!(host::reason(&error), Some("superseded"));
    assert!(error.to_string().contains("set the clock if it is wrong"), "{error}");
    Fence::check_and_raise(dir.path(), &from_now(11 * 86_400)).unwrap();
}

#[test]
fn only_a_fence_that_is_ahead_is_lowered() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Fence::lower(dir.path(), &id(1)).is_err());
    Fence::check_and_raise(dir.path(), &id(9)).unwrap();
    assert!(Fence::lower(dir.path(), &id(1)).is_err());
    assert_eq!(Fence::read(dir.path()).unwrap(), Some(id(9)));
    fs::write(dir.path().join("fence"), "20991231t000000z-0001\n").unwrap();
    assert!(Fence::lower(dir.path(), &from_now(2 * 86_400)).is_err());
    Fence::lower(dir.path(), &id(9)).unwrap();
    assert_eq!(Fence::read(dir.path()).unwrap(), Some(id(9)));
    Fence::check_and_raise(dir.path(), &id(10)).unwrap();
}

#[test]
fn a_torn_fence_is_never_no_fence() {
    let dir = tempfile::tempdir().unwrap();
    Fence::check_and_raise(dir.path(), &id(5)).unwrap();
    let path = dir.path().join("fence");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Fence::check_and_raise(dir.path(), &id(50)).unwrap_err();
        assert!(error.to_string().contains("instead of one deploy id and a newline"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), whole[..length]);
    }
    for odd in [
        &b"\xff\xfe"[..],
        b"20261121t080005z-7f3a\n\n",
        b"20261121t080005z-7f3a\n20261121t080005z-7f3a\n",
    ] {
        fs::write(&path, odd).unwrap();
        assert!(Fence::read(dir.path()).is_err());
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(Fence::read(dir.path()).is_err());
}

#[test]
fn fences_of_several_processes() {
    let dir = tempfile::tempdir().unwrap();
    let players: Vec<_> =
        (0..4).map(|n| Player::new("part", "fence", &n.to_string(), dir.path())).collect();
    players.into_iter().for_each(Player::ends_well);
    let highest =
        (0..4).flat_map(|mine| (0..30).map(move |n| (n * 7 + mine * 11) % 60)).max().unwrap();
    assert_eq!(Fence::read(dir.path()).unwrap(), Some(id(highest)));
}
