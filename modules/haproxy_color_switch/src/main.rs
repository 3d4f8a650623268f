//! A program of `haproxy_color_switch` alone; the shipped program has all modules (`modules/reversible_deploy`).

use std::process::ExitCode;

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), haproxy_color_switch::MODULES)
}
