//! The files and folders of the checkout that are shipped, and their places in the archive.

/// Paths below the root, and where each is in the copy.
pub const FILES: [(&str, &str); 5] = [
    ("galaxy.yml", "galaxy.yml"),
    ("README.md", "README.md"),
    ("LICENSE", "LICENSE"),
    ("collection/bindep.txt", "bindep.txt"),
    ("collection/CHANGELOG.rst", "CHANGELOG.rst"),
];

/// Folders that are shipped; one that does not exist is left out.
pub const FOLDERS: [(&str, &str); 7] = [
    ("collection/changelogs", "changelogs"),
    ("collection/docs", "docs"),
    ("collection/meta", "meta"),
    ("collection/plugins", "plugins"),
    ("collection/tests", "tests"),
    ("playbooks", "playbooks"),
    ("roles", "roles"),
];
