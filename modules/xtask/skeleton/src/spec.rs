//! The options of `skeleton`, and what it returns. `options.rs` makes typed values of them.

use ansible_module::{Kind, Module, Opt, Support};

pub const MODULE: Module = Module {
    name: "skeleton",
    short: "Write one line into a file",
    about: &["Replaces the file atomically, unless it already contains the line."],
    version_added: "0.1.0",
    options: &[&[
        Opt::new("path", Kind::AbsolutePath).required().about(&["The file."]),
        Opt::new("line", Kind::Str).required().about(&["The line that the file has to contain."]),
    ]],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[],
    seealso: &[],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT],
};
