//! `fake-pve` itself: worlds for tests.

use crate::fail::Fail;
use crate::freezer;
use crate::home;
use crate::world::World;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

const USAGE: &str = "usage: fake-pve init HOME [WORLD.json | -] | patch HOME JSON | show HOME";

/// One container on ZFS with two volumes.
const SAMPLE: &str = include_str!("sample.json");

pub fn run(argv: &[String]) -> Result<i32, Fail> {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words[..] {
        ["init", home] => init(Path::new(home), SAMPLE),
        ["init", home, "-"] => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            init(Path::new(home), &text)
        }
        ["init", home, world] => init(Path::new(home), &fs::read_to_string(world)?),
        ["patch", home, patch] => {
            let patch = serde_json::from_str(patch)?;
            home::change(Path::new(home), |world| {
                *world = world.patched(&patch)?;
                Ok(())
            })
        }
        ["show", home] => {
            let world = home::change(Path::new(home), |world| Ok(world.clone()))?;
            Ok(writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&world)?)?)
        }
        _ => Err(Fail::fake(USAGE)),
    }?;
    Ok(0)
}

fn init(home: &Path, world: &str) -> Result<(), Fail> {
    let world: World = serde_json::from_str(world)?;
    home::create(home, &world)?;
    let home = fs::canonicalize(home)?;
    let bin = home.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["pct", "pvesh", freezer::UNFREEZE, freezer::INFO] {
        let _ = fs::remove_file(bin.join(name));
        symlink(std::env::current_exe()?, bin.join(name))?;
    }
    Ok(fs::write(bin.join("fake-pve-home"), format!("{}\n", home.display()))?)
}
