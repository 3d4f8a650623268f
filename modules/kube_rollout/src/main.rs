//! The program of `kube_rollout` by itself; what is shipped is one program of all modules (`modules/reversible_deploy`).

use std::process::ExitCode;

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), kube_rollout::MODULES)
}
