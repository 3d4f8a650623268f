//! The options of `app_files`, and what it returns. `options.rs` makes typed values of them.

use ansible_module::{Default, Kind, Module, Opt, Return, Rule, Support};

const FILE: &[Opt] = &[
    Opt::new("path", Kind::Str)
        .required()
        .about(&["Where it goes: a path below O(dest). Folders on the way are made."]),
    Opt::new("src", Kind::AbsolutePath).about(&[
        "The file of the target that is copied, or a folder with all that is in it. Its permissions are kept, its owner is not.",
    ]),
    Opt::new("content", Kind::Str).secret().about(&["What is written, instead of O(files[].src). It is not shown."]),
    Opt::new("mode", Kind::Str).about(&[
        "Permissions, in octal and quoted. The default is those of the source, or V(0644) with O(files[].content).",
    ]),
];

const RUN: &[Opt] = &[
    Opt::new("dest", Kind::AbsolutePath)
        .required()
        .about(&["The folder. It is made where it is missing (0755)."]),
    Opt::new("files", Kind::List)
        .elements(Kind::Dict)
        .options(FILE)
        .default(Default::List(&[]))
        .about(&["The files, written in this order. Of two for one path the later one counts."]),
    Opt::new("variables", Kind::Dict).secret().about(&[
        "Variables, by name. Each becomes a line of O(variables_file), in place of the last line that sets it; all others stay. They are not shown. What is a secret by its name (C(password), C(token), C(key), ...) is hidden wherever it turns up.",
    ]),
    Opt::new("variables_file", Kind::Str).default(Default::Str(".env")).about(&[
        "Where the variables go: a path below O(dest). The file has the mode 0600 then, and keeps its owner. It may be one of O(files).",
    ]),
];

pub const MODULE: Module = Module {
    name: "app_files",
    short: "Put files and variables into the folder of an app",
    about: &[
        "Writes what differs, each file in one exchange: whoever reads it meanwhile finds the old one or the new.",
        "The folder may be another user's, such as a Compose project that belongs to its developer. Nothing is written, read or waited for where that user could lead root elsewhere: a symbolic link on the way to a file, or in its place, is refused unless it is root's in a folder of root's; so are pipes and devices.",
    ],
    version_added: "0.1.0",
    options: &[RUN],
    rules: &[] as &[Rule],
    check_mode: Support::Full,
    diff_mode: Support::Full,
    notes: &[
        "A file that is there keeps its owner; a new one is the executing user's.",
        "Nothing is removed: a file that a release does not have any more stays.",
        "A run that was killed has replaced some of them; the same task again writes the others.",
    ],
    seealso: &["reversible.deploy.compose_backup"],
    examples: include_str!("examples.yml"),
    returns: &[
        change::RESULT,
        &[Return::new(
            "differ",
            Kind::List,
            "success",
            "The files that were, or in check mode would be, written.",
        )],
    ],
};
