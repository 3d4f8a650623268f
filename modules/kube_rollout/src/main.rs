//! A program of `kube_rollout` alone; the shipped program has all modules (`modules/reversible_deploy`).

use std::process::ExitCode;

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), kube_rollout::MODULES)
}
