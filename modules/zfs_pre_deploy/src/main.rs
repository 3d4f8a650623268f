//! A program of `zfs_pre_deploy` alone; the shipped program has all modules (`modules/reversible_deploy`).

use std::process::ExitCode;

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), zfs_pre_deploy::MODULES)
}
