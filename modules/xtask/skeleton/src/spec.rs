//! The options of `skeleton`, and what it returns. `options.rs` makes typed values of them.

use ansible_module::{Kind, Module, Opt, Support};

pub const MODULE: Module = Module {
    name: "skeleton",
    short: "Have one line in a file",
    about: &["Writes the file in one exchange, where it holds something else."],
    version_added: "0.1.0",
    options: &[&[
        Opt::new("path", Kind::AbsolutePath).required().about(&["The file."]),
        Opt::new("line", Kind::Str).required().about(&["What it holds."]),
    ]],
    rules: &[],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[],
    seealso: &[],
    examples: include_str!("examples.yml"),
    returns: &[change::RESULT],
};
