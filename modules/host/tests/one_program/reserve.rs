//! The reserve for a rollback: used by what goes back and by nothing else, a piece at a time, and made
//! whole when there is room again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{Tmpfs, names};
use host::atomic::{Replace, append_line, write_new};
use host::folder::SafeFolder;
use host::lock::Lock;
use host::reserve::{self, FILE, SIZE};

/// Bytes that are really taken.
fn kept(folder: &Path) -> u64 {
    folder.join(FILE).symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

/// Until nothing more goes in, not even a byte.
fn fill(folder: &Path, name: &str) {
    let mut file = fs::File::options().append(true).create(true).open(folder.join(name)).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while std::io::Write::write_all(&mut file, &vec![b'x'; size]).is_ok() {}
    }
}

/// One test: what is kept, and whether it may be used, belongs to the process.
#[test]
fn the_way_back_finds_room_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let small = Tmpfs::new(&dir.path().join("small"), "size=4m,mode=0755");
    let other = Tmpfs::new(&dir.path().join("other"), "size=4m,mode=0755");
    let state = SafeFolder::ensure(&small.0.join("state"), 0o700).unwrap();
    state.keep_reserve();
    state.keep_reserve();
    assert_eq!(kept(state.path()), SIZE);
    assert_eq!(state.join(FILE).metadata().unwrap().mode() & 0o7777, 0o600);

    // What goes forward does not touch it.
    append_line(&state.join("lines"), b"first").unwrap();
    fill(&small.0, "filler");
    let record = state.join("record");
    let error = Replace::new(&record).write(b"forward").unwrap_err();
    assert_eq!((host::reason(&error), kept(state.path())), (Some("no_space"), SIZE), "{error:#}");

    // What goes back takes a piece, and what is free then is enough for the next writes.
    reserve::open();
    Replace::new(&record).write(b"back").unwrap();
    assert_eq!(kept(state.path()), SIZE - (64 << 10));
    write_new(&state.join("intent"), b"x", 0o600).unwrap();
    append_line(&state.join("lines"), &[b'y'; 5000]).unwrap();
    SafeFolder::ensure(&state.join("deeper"), 0o700).unwrap();
    drop(Lock::acquire(&state.join("lock"), "test", None, std::time::Duration::ZERO).unwrap());
    assert_eq!(kept(state.path()), SIZE - (64 << 10));

    // Others write as well: the next piece, until there is none.
    for left in [2 * (64 << 10), 64 << 10, 0] {
        fill(&small.0, "filler");
        append_line(&state.join("lines"), &[b'z'; 5000]).unwrap();
        assert_eq!(kept(state.path()), left);
    }
    fill(&small.0, "filler");
    let length = state.join("lines").metadata().unwrap().len();
    let error = append_line(&state.join("lines"), &[b'!'; 5000]).unwrap_err();
    assert_eq!(host::reason(&error), Some("no_space"), "{error:#}");
    assert_eq!(state.join("lines").metadata().unwrap().len(), length);
    assert_eq!(names(state.path()), ["deeper", "intent", "lines", "lock", "record"]);

    // Whole again with room, and not by filling the disk itself.
    state.keep_reserve();
    assert_eq!(kept(state.path()), 0);
    fs::remove_file(small.0.join("filler")).unwrap();
    state.keep_reserve();
    assert_eq!(kept(state.path()), SIZE);

    // It is of no use for another filesystem, and stays.
    fill(&other.0, "filler");
    let error = Replace::new(&other.0.join("record")).write(b"back").unwrap_err();
    assert_eq!((host::reason(&error), kept(state.path())), (Some("no_space"), SIZE), "{error:#}");
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let folder = SafeFolder::ensure(&fs::canonicalize(dir.path()).unwrap().join("state"), 0o700);
    let (folder, target) = (folder.unwrap(), dir.path().join("target"));
    fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, folder.join(FILE)).unwrap();
    folder.keep_reserve();
    assert_eq!(fs::read(&target).unwrap(), b"mine");
}
