//! Binaries are built once for the same inputs, also in another checkout: runs `cargo xtask` in small temporary workspaces.
#![allow(clippy::unwrap_used)] // A test that meets what it does not expect has failed.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const SPEC: &str = r##"[{"name": "hello", "short_description": "Says hello", "description": ["Says hello."], "version_added": "0.1.0",
    "options": [], "check_mode": "full", "diff_mode": "none", "check_mode_details": null, "examples": "", "returns": {}}]"##;

struct Checkout {
    folder: TempDir,
    cache: PathBuf,
}

impl Checkout {
    fn new(cache: &Path) -> Self {
        let checkout = Self { folder: tempfile::tempdir().unwrap(), cache: cache.to_owned() };
        let package = "version = \"0.1.0\"\nedition = \"2024\"\n";
        for (file, text) in [
            ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"modules/*\"]\n\n[profile.release]\nlto = \"fat\"\nstrip = true\n".to_owned()),
            ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"greet\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"hello\"\nversion = \"0.1.0\"\ndependencies = [\n \"greet\",\n]\n".to_owned()),
            ("galaxy.yml", "namespace: reversible\nname: deploy\nversion: 0.1.0\nauthors: []\nreadme: README.md\n".to_owned()),
            ("modules/greet/Cargo.toml", format!("[package]\nname = \"greet\"\n{package}")),
            ("modules/greet/src/lib.rs", format!("pub const SPEC: &str = r##\"{SPEC}\"##;\n")),
            (
                "modules/hello/Cargo.toml",
                format!("[package]\nname = \"hello\"\n{package}\n[dependencies]\ngreet = {{ path = \"../greet\" }}\n\n[package.metadata.ansible]\nship = true\n"),
            ),
            (
                "modules/hello/src/main.rs",
                "fn main() {\n    let spec = std::env::args().any(|word| word == \"--spec\");\n    println!(\"{}\", if spec { greet::SPEC } else { \"hello 0.1.0\" });\n    assert!(std::env::args().len() < 9, \"its place is {}\", file!());\n}\n".to_owned(),
            ),
        ] {
            checkout.write(file, &text);
        }
        checkout
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What it says.
    fn xtask(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .current_dir(&self.folder)
            .args(words)
            .env("REVERSIBLE_CACHE", &self.cache)
            .env_remove("CARGO_TARGET_DIR");
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Whether the collection was built now, and its binary.
    fn collection(&self) -> (bool, Vec<u8>) {
        let said = self.xtask(&["collection", "--arch", ARCH]);
        let binary = format!("collection/plugins/plugin_utils/bin/hello_{ARCH}");
        (said.contains("building hello"), fs::read(self.folder.path().join(binary)).unwrap())
    }

    fn has(&self, file: &str) -> bool {
        self.folder.path().join(file).exists()
    }
}

#[test]
fn a_fresh_checkout_builds_nothing_and_a_changed_one_does() {
    let cache = tempfile::tempdir().unwrap();
    let first = Checkout::new(cache.path());
    let (built, binary) = first.collection();
    assert!(built);

    let fresh = Checkout::new(cache.path());
    assert_eq!(fresh.collection(), (false, binary.clone()));
    fresh.xtask(&["docs"]);
    fresh.xtask(&["docs", "--check"]);
    assert!(!fresh.has("target"), "cargo was called");

    fresh.write(
        "modules/greet/src/lib.rs",
        &format!(
            "pub const SPEC: &str = r##\"{}\"##;\n",
            SPEC.replace("Says hello.", "Says goodbye.")
        ),
    );
    let (built, changed) = fresh.collection();
    assert!(built && changed != binary);
    assert_eq!(first.collection(), (false, binary));
}

#[test]
fn what_was_damaged_is_built_again_and_the_same_in_another_folder() {
    let cache = tempfile::tempdir().unwrap();
    let (_, binary) = Checkout::new(cache.path()).collection();
    let kept = fs::read_dir(cache.path().join("binaries")).unwrap().next().unwrap().unwrap().path();
    fs::write(kept, &binary[..binary.len() - 1]).unwrap();
    assert_eq!(Checkout::new(cache.path()).collection(), (true, binary));
}

#[test]
fn without_a_cache_of_the_lab_they_are_kept_in_the_checkout_alone() {
    let nowhere = tempfile::tempdir().unwrap();
    let checkout = Checkout::new(&nowhere.path().join("none"));
    assert!(checkout.collection().0);
    assert!(!checkout.collection().0);
    assert!(checkout.has("target/binaries") && !nowhere.path().join("none").exists());
}
