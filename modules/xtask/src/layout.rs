//! Which files and folders of the checkout the archive holds, and where.

/// From the root, and where they stand in the copy.
pub const FILES: [(&str, &str); 5] = [
    ("galaxy.yml", "galaxy.yml"),
    ("README.md", "README.md"),
    ("LICENSE", "LICENSE"),
    ("collection/bindep.txt", "bindep.txt"),
    ("collection/CHANGELOG.rst", "CHANGELOG.rst"),
];

/// Those that do not exist yet are left out.
pub const FOLDERS: [(&str, &str); 7] = [
    ("collection/changelogs", "changelogs"),
    ("collection/docs", "docs"),
    ("collection/meta", "meta"),
    ("collection/plugins", "plugins"),
    ("collection/tests", "tests"),
    ("playbooks", "playbooks"),
    ("roles", "roles"),
];
