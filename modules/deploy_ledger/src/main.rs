//! A program of `deploy_ledger` alone; the shipped program has all modules (`modules/reversible_deploy`).

use std::process::ExitCode;

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), deploy_ledger::MODULES)
}
