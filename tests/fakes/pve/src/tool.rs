//! `fake-pve` itself: worlds for tests.

use crate::fail::Fail;
use crate::freezer;
use crate::home;
use crate::world::World;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

const USAGE: &str = "usage: fake-pve init HOME [WORLD.json | -] | patch HOME JSON | show HOME | \
                     hold HOME LOCK MS";

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
        ["hold", home, lock, ms] => hold(Path::new(home), lock, ms),
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

/// Says `held` when it holds the lock.
fn hold(home: &Path, lock: &str, ms: &str) -> Result<(), Fail> {
    let ms = ms.parse().map_err(|error| Fail::fake(format!("{ms}: {error}")))?;
    let file = home::lock_file(home, lock)?;
    if !home::try_lock(&file)? {
        return Err(Fail::fake(format!("{lock} is held by another")));
    }
    writeln!(io::stdout(), "held")?;
    io::stdout().flush()?;
    thread::sleep(Duration::from_millis(ms));
    Ok(())
}
