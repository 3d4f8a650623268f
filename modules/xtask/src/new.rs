//! Makes the crate of a new module from `skeleton`, a crate of this workspace: it compiles, and its test passes.
//!
//! Invariant: no existing file is overwritten.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const FILES: [(&str, &str); 9] = [
    ("Cargo.toml", include_str!("../skeleton/Cargo.toml")),
    ("src/main.rs", include_str!("../skeleton/src/main.rs")),
    ("src/lib.rs", include_str!("../skeleton/src/lib.rs")),
    ("src/spec.rs", include_str!("../skeleton/src/spec.rs")),
    ("src/examples.yml", include_str!("../skeleton/src/examples.yml")),
    ("src/options.rs", include_str!("../skeleton/src/options.rs")),
    ("src/state.rs", include_str!("../skeleton/src/state.rs")),
    ("src/plan.rs", include_str!("../skeleton/src/plan.rs")),
    ("src/apply.rs", include_str!("../skeleton/src/apply.rs")),
];

pub fn new(modules: &Path, name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = name.starts_with(|first: char| first.is_ascii_lowercase());
    ensure!(
        is_name && name.bytes().all(plain),
        "{name:?} is not a name for a module; expected a-z, 0-9 and _"
    );
    let folder = modules.join(name);
    fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    fs::create_dir(folder.join("src"))?;
    for (path, text) in FILES {
        fs::write(folder.join(path), text.replace("skeleton", name))?;
    }
    println!("made {}; CONTRIBUTING.md says how to go on", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once() {
        let modules = tempfile::tempdir().unwrap();
        for odd in ["", "Line", "../line", "1line", "line-file"] {
            assert!(new(modules.path(), odd).is_err(), "{odd}");
        }
        new(modules.path(), "line_file").unwrap();
        assert!(new(modules.path(), "line_file").is_err());
        let manifest = fs::read_to_string(modules.path().join("line_file/Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"line_file\"") && !manifest.contains("skeleton"));
    }
}
