//! The shipped program, with all modules of the collection, so that the libraries that they share are sent and stored once.
//! An option names the module to run.

use std::process::ExitCode;

use ansible_module::Served;

const MODULES: [&[Served]; 13] = [
    app_processes::MODULES,
    compose_backup::MODULES,
    deploy_ledger::MODULES,
    haproxy_color_switch::MODULES,
    haproxy_hold::MODULES,
    health_gate::MODULES,
    host_command::MODULES,
    host_files::MODULES,
    kube_rollout::MODULES,
    pct_snapshot::MODULES,
    postgres_restore_point::MODULES,
    release_artifact::MODULES,
    zfs_pre_deploy::MODULES,
];

fn main() -> ExitCode {
    ansible_module::serve(env!("CARGO_PKG_NAME"), &MODULES.concat())
}
