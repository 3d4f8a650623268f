//! `cargo xtask`: everything between `cargo build` and an Ansible collection. It is called by people, so it prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod binaries;
mod cache;
mod dist;
mod docs;
mod elf;
mod galaxy;
mod inputs;

mod layout;
mod links;
mod new;
mod progress;
mod python;
mod spec;
mod stage;
mod target;
mod workspace;
mod yaml;

use std::process::ExitCode;

use anyhow::{Result, bail};

use target::Arch;
use workspace::Workspace;

const USAGE: &str = "\
cargo xtask new NAME                        make the crate of a new module: modules/NAME
cargo xtask docs [--check]                  write the modules' documentation from their option specs (or compare it)
cargo xtask collection [--arch A,B]         build the static binary into collection/plugins/plugin_utils/bin
cargo xtask stage DIR [--with-tests] [--draft | --arch A,B]
                                            a physical copy of what is shipped: DIR/ansible_collections/reversible/deploy
cargo xtask dist [--draft]                  the installable archive and its checksum under target/dist; a draft, in which the
                                            other architecture is built in a fraction of the time, under target/draft
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["new", name] => new::new(&Workspace::find()?.root.join("modules"), name),
        ["docs"] => docs::write(&Workspace::find()?),
        ["docs", "--check"] => docs::check(&Workspace::find()?),
        ["collection"] => binaries::collection(&Workspace::find()?, &Arch::ALL),
        ["collection", "--arch", list] => {
            binaries::collection(&Workspace::find()?, &Arch::parse_list(list)?)
        }
        ["stage", dir, options @ ..] if !dir.starts_with('-') => {
            let (with_tests, rest) = match options {
                ["--with-tests", rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let (arches, draft) = match rest {
                [] => (Arch::ALL.to_vec(), false),
                ["--draft"] => (Arch::ALL.to_vec(), true),
                ["--arch", list] => (Arch::parse_list(list)?, false),
                _ => bail!("unknown options: {}\n{USAGE}", rest.join(" ")),
            };
            stage::stage(&Workspace::find()?, dir.as_ref(), with_tests, &arches, draft)
        }
        ["dist"] => dist::dist(&Workspace::find()?, false),
        ["dist", "--draft"] => dist::dist(&Workspace::find()?, true),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command: {}\n{USAGE}", other.join(" ")),
    }
}
