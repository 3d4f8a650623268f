//! deploy_ledger
fn main() {}
