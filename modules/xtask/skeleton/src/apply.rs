//! Carries out the steps.

use crate::options::Options;
use crate::plan::Action;
use anyhow::Result;
use host::atomic::Replace;

pub fn act(action: &Action, options: &Options) -> Result<()> {
    match action {
        Action::Write => {
            Replace::new(&options.path).write(format!("{}\n", options.line).as_bytes()).map(drop)
        }
    }
}
