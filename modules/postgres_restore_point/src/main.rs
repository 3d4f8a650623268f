//! The program of `postgres_restore_point` by itself; what is shipped is one program of all modules (`modules/reversible_deploy`).

use std::process::ExitCode;

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), postgres_restore_point::MODULES)
}
