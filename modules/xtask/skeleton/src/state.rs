//! Observes the file. Reads only.

use crate::options::Options;
use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
pub struct State {
    /// The line in the file; empty if there is no file.
    pub line: String,
}

pub fn observe(options: &Options) -> Result<State> {
    let content = host::atomic::read(&options.path)?.unwrap_or_default();
    Ok(State { line: String::from_utf8_lossy(&content).trim_end().to_owned() })
}
