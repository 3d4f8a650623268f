//! The backup folder: names, order, and retention.

use super::*;
use crate::manifest::tests::sample;
use serde_json::json;
use std::fs;

/// Makes a folder with these backups: name, sequence, and whether the verification succeeded.
fn folder(backups: &[(&str, u64, bool)]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for (name, sequence, good) in backups {
        let mut manifest = sample(name, *sequence);
        manifest.verify.restore = Some(json!({ "ok": good }));
        let path = temp.path().join(name);
        fs::create_dir(&path).unwrap();
        manifest.write(&path).unwrap();
    }
    temp
}

fn names(stored: &BackupDir) -> Vec<&str> {
    stored.backups.iter().map(|backup| backup.name.as_str()).collect()
}

const OLD: &str = "backup-20261120-084500";
const NEW: &str = "backup-20261121-084500";
const NEWER: &str = "backup-20261121-084500-2";

#[test]
fn a_clock_that_was_set_back_does_not_change_the_order() {
    let temp = folder(&[(NEW, 1, true), (OLD, 2, true)]);
    fs::create_dir(temp.path().join(format!("{NEWER}.partial"))).unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    let stored = BackupDir::read(temp.path()).unwrap();
    assert_eq!(names(&stored), [OLD, NEW]);
    assert_eq!(stored.partial, [format!("{NEWER}.partial")]);
    assert_eq!(stored.next_sequence(), 3);
    assert_eq!(stored.surplus(1, &[], false), [NEW]);
}

#[test]
fn retention_removes_the_oldest_but_none_to_keep() {
    let temp = folder(&[(OLD, 1, true), (NEW, 2, true), (NEWER, 3, true)]);
    let stored = BackupDir::read(temp.path()).unwrap();
    assert_eq!(stored.surplus(2, &[], true), [NEW, OLD]);
    assert_eq!(stored.surplus(2, &[OLD.to_owned()], true), [NEW]);
    let by_id = sample("", 2).deploy_id.to_string();
    assert_eq!(stored.surplus(1, &[by_id], true), [NEWER, OLD]);
    assert_eq!(stored.surplus(3, &[], false), Vec::<String>::new());
}

#[test]
fn a_backup_that_failed_its_verification_is_not_the_latest() {
    let temp = folder(&[(OLD, 1, true), (NEW, 2, false)]);
    let stored = BackupDir::read(temp.path()).unwrap();
    assert_eq!(stored.newest().map(|(backup, _)| backup.name.as_str()), Some(OLD));
    // It is not counted, and removed only after a new one was verified.
    assert_eq!(stored.surplus(1, &[], false), Vec::<String>::new());
    assert_eq!(stored.surplus(2, &[], true), [NEW]);
}

#[test]
fn a_damaged_backup_is_listed_last_and_never_pruned() {
    let temp = folder(&[(OLD, 1, true), (NEW, 2, true)]);
    fs::write(temp.path().join(NEW).join("manifest.json"), "{").unwrap();
    let stored = BackupDir::read(temp.path()).unwrap();
    assert_eq!(names(&stored), [OLD, NEW]);
    assert!(stored.backups[1].manifest.is_err());
    assert_eq!(stored.surplus(1, &[], true), [OLD]);
}

#[test]
fn a_wrong_pointer_is_noticed_and_corrected() {
    let temp = folder(&[(OLD, 1, true), (NEW, 2, true)]);
    fs::write(temp.path().join(POINTER), "backup-19990101-000000\n").unwrap();
    assert!(BackupDir::read(temp.path()).unwrap().is_pointer_wrong());
    BackupDir::update_pointer(temp.path()).unwrap();
    assert_eq!(fs::read_to_string(temp.path().join(POINTER)).unwrap(), format!("{NEW}\n"));
    assert!(!BackupDir::read(temp.path()).unwrap().is_pointer_wrong());
}

#[test]
fn a_folder_is_for_one_project() {
    let temp = folder(&[(OLD, 1, true)]);
    let stored = BackupDir::read(temp.path()).unwrap();
    assert!(stored.refuse_other_projects("shop").is_ok());
    assert_eq!(stored.refuse_other_projects("blog").unwrap_err().reason, "foreign_backup_dir");
}

#[test]
fn names_of_backups() {
    for good in ["backup-20261121-084500", "backup-20261121-084500-2"] {
        assert!(is_name(good), "{good}");
    }
    for odd in [
        "backup-20261121",
        "backup-20261121-084500-",
        "backup-2026112a-084500",
        "backup-20261121-084500-2-3",
        "x",
    ] {
        assert!(!is_name(odd), "{odd}");
    }
}

#[test]
fn two_backups_in_one_second_have_different_names() {
    let at = Utc::from_civil((2026, 11, 21), (8, 45, 0)).unwrap();
    let mut stored = BackupDir::default();
    assert_eq!(stored.new_name(at), "backup-20261121-084500");
    stored.partial.push("backup-20261121-084500.partial".into());
    assert_eq!(stored.new_name(at), "backup-20261121-084500-2");
}

#[test]
fn removing_a_backup_leaves_no_files() {
    let temp = tempfile::tempdir().unwrap();
    let name = "backup-20261121-084500";
    std::fs::create_dir_all(temp.path().join(name).join("data")).unwrap();
    remove(temp.path(), name).unwrap();
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}
