//! `skeleton`: writes one line into a file.

mod apply;
mod options;
mod plan;
mod spec;
mod state;

use ansible_module::{Invocation, Outcome, Served};
use anyhow::{Result, ensure};
use change::{Consent, Session};
use options::Options;
use serde_json::json;

/// The modules that this crate serves.
pub const MODULES: &[Served] = &[Served { spec: &spec::MODULE, run }];

fn run(invocation: &Invocation) -> Result<Outcome> {
    let options = Options::parse(&invocation.options)?;
    let session = Session::new(invocation, Consent::none());
    session.carry_out(
        plan::plan(&options, &state::observe(&options)?),
        |action, _| apply::act(action, &options),
        || {
            let now = state::observe(&options)?;
            ensure!(
                now.line == options.line,
                "{} does not contain the line",
                options.path.display()
            );
            Ok(json!(now))
        },
    )
}
