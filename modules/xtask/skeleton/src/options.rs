//! What `skeleton` accepts, typed and checked once.

use ansible_module::{Failure, Options as Given};
use std::path::PathBuf;

pub struct Options {
    pub path: PathBuf,
    pub line: String,
}

impl Options {
    pub fn parse(given: &Given) -> Result<Options, Failure> {
        Ok(Options { path: given.get("path")?, line: given.get("line")? })
    }
}
