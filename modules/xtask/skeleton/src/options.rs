//! The options as typed values, with the checks that a spec cannot express.

use ansible_module::{Failure, Options as RawOptions};
use std::path::PathBuf;

pub struct Options {
    pub path: PathBuf,
    pub line: String,
}

impl Options {
    pub fn parse(raw: &RawOptions) -> Result<Options, Failure> {
        Ok(Options { path: raw.get("path")?, line: raw.get("line")? })
    }
}
