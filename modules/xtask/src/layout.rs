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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Ansible finds the checkout as a collection through `.dev`; a playbook must find there what it finds in the archive. The collection's
    /// `tests` are for `ansible-test` alone.
    #[test]
    fn the_checkout_used_in_place_has_the_folders_of_the_archive() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let in_place = root.join(".dev/ansible_collections/reversible/deploy");
        for (folder, place) in FOLDERS.into_iter().filter(|(_, place)| *place != "tests") {
            let found = fs::canonicalize(in_place.join(place)).ok();
            assert_eq!(found, fs::canonicalize(root.join(folder)).ok(), "{place}");
        }
    }
}
