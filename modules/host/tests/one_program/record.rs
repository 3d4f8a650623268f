//! Intents and done rollbacks: torn at every byte, killed at any moment, on a full disk.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{Player, Tmpfs, my_part, names};
use host::record::{DONE_KEPT, Done, Intent, Unfinished};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Swap {
    from: String,
    to: String,
}

fn swap() -> Swap {
    Swap { from: "tank/a".to_owned(), to: "tank/b\n".to_owned() }
}

#[test]
fn part() {
    let Some((part, _, dir)) = my_part() else { return };
    loop {
        let intent = match Intent::unfinished::<Swap>(&dir, "swap").unwrap() {
            Some(found) => found.intent,
            None => Intent::begin(&dir, "swap", &swap()).unwrap(),
        };
        intent.note("parked", &"tank/parked").unwrap();
        if part == "begin" {
            println!("begun");
            std::thread::sleep(Duration::from_secs(60));
        }
        intent.note("paused", &json!({"n": 1})).unwrap();
        intent.finish().unwrap();
        println!("round");
    }
}

#[test]
fn begun_noted_found_and_finished() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Intent::unfinished::<Swap>(dir.path(), "swap").unwrap().is_none());
    let intent = Intent::begin(dir.path(), "swap", &swap()).unwrap();
    intent.note("parked", &"one").unwrap();
    intent.note("parked", &"two").unwrap();
    let error = Intent::begin(dir.path(), "swap", &swap()).unwrap_err();
    assert!(
        error.downcast_ref::<Unfinished>().is_some() && host::reason(&error) == Some("unfinished"),
        "{error:#}"
    );
    Intent::begin(dir.path(), "other-task", &1).unwrap().finish().unwrap();
    drop(intent);

    let found = Intent::unfinished::<Swap>(dir.path(), "swap").unwrap().unwrap();
    assert_eq!(
        (&found.value, found.notes.len(), found.note("parked")),
        (&swap(), 2, Some(&json!("two")))
    );
    assert!(found.note("paused").is_none());
    found.intent.note("paused", &()).unwrap();
    assert_eq!(Intent::unfinished::<Swap>(dir.path(), "swap").unwrap().unwrap().notes.len(), 3);
    let error = Intent::unfinished::<u8>(dir.path(), "swap").unwrap_err();
    assert!(format!("{error:#}").contains("cannot read the intent"), "{error:#}");
    found.intent.finish().unwrap();
    assert!(names(dir.path()).is_empty());
}

#[test]
fn names_folders_and_what_was_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    for task in ["", "../x", "a/b", "a b", "ä", &"x".repeat(101)] {
        assert!(Intent::begin(dir.path(), task, &1).is_err(), "{task}");
    }
    assert!(Intent::unfinished::<u8>(&dir.path().join("no-such-folder"), "swap").is_err());
    let intent = Intent::begin(dir.path(), "swap", &1).unwrap();
    fs::rename(dir.path().join("intent.swap"), dir.path().join("intent.other")).unwrap();
    assert!(intent.note("x", &1).is_err() && intent.finish().is_err());
    assert!(
        Intent::unfinished::<u8>(dir.path(), "other")
            .unwrap_err()
            .to_string()
            .contains("it is of swap, not of other")
    );
}

#[test]
fn torn_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let intent = Intent::begin(dir.path(), "swap", &swap()).unwrap();
    for n in 0..3 {
        intent.note(&format!("step{n}"), &n).unwrap();
    }
    let path = dir.path().join("intent.swap");
    let whole = fs::read(&path).unwrap();
    let newlines = |length: usize| whole[..length].iter().filter(|byte| **byte == b'\n').count();
    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let found = Intent::unfinished::<Swap>(dir.path(), "swap");
        if newlines(length) == 0 {
            assert!(found.unwrap_err().to_string().contains("repair that by hand"));
            continue;
        }
        let found = found.unwrap().unwrap();
        assert_eq!((found.value, found.notes.len()), (swap(), newlines(length) - 1));
        intent.note("after", &true).unwrap();
        let found = Intent::unfinished::<Swap>(dir.path(), "swap").unwrap().unwrap();
        assert_eq!(
            (found.note("after"), found.notes.len()),
            (Some(&json!(true)), newlines(length))
        );
    }
    // A broken line that is not the last one is no torn append.
    let mut broken = whole.clone();
    broken[newlines(1) + 5] = 0;
    fs::write(&path, broken).unwrap();
    assert!(Intent::unfinished::<Swap>(dir.path(), "swap").is_err());
}

#[test]
fn killed_between_begin_and_finish() {
    let dir = tempfile::tempdir().unwrap();
    Player::new("record::part", "begin", "", dir.path()).says("begun").kill_9();
    let found = Intent::unfinished::<Swap>(dir.path(), "swap").unwrap().unwrap();
    assert_eq!((&found.value, found.note("parked")), (&swap(), Some(&json!("tank/parked"))));
}

#[test]
fn killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut found_one, began) = (0, Instant::now());
    // Until one was met in the middle; a minute is more than that takes.
    for round in 0.. {
        if round >= 40 && (found_one > 0 || began.elapsed() > Duration::from_secs(60)) {
            break;
        }
        let mut player = Player::new("record::part", "loop", "", dir.path());
        player.says("round");
        std::thread::sleep(Duration::from_micros(round % 40 * 437));
        player.kill_9();
        if let Some(found) = Intent::unfinished::<Swap>(dir.path(), "swap").unwrap() {
            assert_eq!(found.value, swap());
            found_one += 1;
        }
    }
    assert!(found_one > 0, "never caught in the middle");
    // What a killed run has left beside is gone at the next begin.
    if let Some(found) = Intent::unfinished::<Swap>(dir.path(), "swap").unwrap() {
        found.intent.finish().unwrap();
    }
    fs::write(dir.path().join(".intent.swap.abcDE9.new"), "").unwrap();
    drop(Intent::begin(dir.path(), "swap", &swap()).unwrap());
    assert_eq!(names(dir.path()), ["intent.swap"]);
}

#[test]
fn a_full_disk_begins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = Tmpfs::new(&dir.path().join("small"), "size=16k,mode=0755");
    let big = "x".repeat(100_000);
    let error = Intent::begin(&small.0, "swap", &big).unwrap_err();
    assert_eq!(host::reason(&error), Some("no_space"), "{error:#}");
    assert!(names(&small.0).is_empty());
    let intent = Intent::begin(&small.0, "swap", &swap()).unwrap();
    assert_eq!(host::reason(&intent.note("big", &big).unwrap_err()), Some("no_space"));
    intent.note("small", &1).unwrap();
    assert_eq!(Intent::unfinished::<Swap>(&small.0, "swap").unwrap().unwrap().notes.len(), 1);
    intent.finish().unwrap();
}

#[test]
fn done_rollbacks_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Done::recorded(dir.path(), "a").unwrap(), None);
    Done::record(dir.path(), "a", &json!({"to": "tank/a@x"})).unwrap();
    Done::record(dir.path(), "b", &1).unwrap();
    let done = Done::recorded(dir.path(), "a").unwrap().unwrap();
    assert_eq!((done.rollback_id.as_str(), &done.value), ("a", &json!({"to": "tank/a@x"})));
    assert!(Done::recorded(dir.path(), "").unwrap().is_none());
    assert!(Done::recorded(&dir.path().join("no-such-folder"), "a").is_err());

    let path = dir.path().join("rollbacks.done");
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(Done::recorded(dir.path(), "a").unwrap().is_some(), length >= first);
        assert!(Done::recorded(dir.path(), "b").unwrap().is_none());
    }
    fs::write(&path, [b"{broken\n", &whole[..]].concat()).unwrap();
    assert!(Done::recorded(dir.path(), "a").unwrap_err().to_string().contains("line 1 of"));
}

#[test]
fn the_oldest_are_forgotten() {
    let dir = Tmpfs::new(&tempfile::tempdir().unwrap().keep(), "size=10m,mode=0755");
    for n in 0..300 {
        Done::record(&dir.0, &format!("id-{n}"), &n).unwrap();
        assert!(
            Done::recorded(&dir.0, &format!("id-{}", n - n.min(DONE_KEPT - 1))).unwrap().is_some()
        );
    }
    assert!(Done::recorded(&dir.0, "id-0").unwrap().is_none());
    assert!((DONE_KEPT..=250).contains(&Done::all(&dir.0).unwrap().len()));
    assert_eq!(names(&dir.0), ["rollbacks.done", "rollbacks.lock"]);
    let at = dir.0.clone();
    drop(dir);
    fs::remove_dir(at).unwrap();
}
